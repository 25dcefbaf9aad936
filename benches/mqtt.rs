//! Events out to a real broker: through the outbox and the MQTT sink (QoS 1) to mosquitto on loopback, and on to a subscriber.
//! `cargo bench --bench mqtt [-- FOLDER]`; the outbox is made in FOLDER (a disk), or in the system's temporary folder.
//!
//! As in the daemon, each event is three messages: itself, and the retained state and attributes of its label. Not criterion: one long run is
//! what counts. Without mosquitto it says so and measures nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench fails by panicking and prints"
)]

#[path = "common/sends.rs"]
mod sends;

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vtagd::event::cloud_event::Data;
use vtagd::event::{Event, EventKind, ModelRef};
use vtagd::outbox::delivery::Health;
use vtagd::platform::tls::Trust;
use vtagd::sink::mqtt::{Mqtt, MqttSettings, Owner, Protocol};
use vtagd::sink::runner;
use vtagd::stream::StreamId;
use vtagd::stream::registry::{RegisteredStream, StreamRegistry};

use sends::Sends;

const STREAMS: usize = 20;

const LABELS: usize = 50;

fn event(number: usize) -> Event {
    // A start and an end of each label in turn, so that every event changes its state.
    let (stream, label, ends) = (number % STREAMS, number / STREAMS % LABELS, number / (STREAMS * LABELS) % 2 == 1);
    let now = jiff::Timestamp::now();
    let data = Data {
        region: None,
        stream: format!("camera-{stream}"),
        set: "dock-safety".into(),
        label: format!("label-{label}"),
        tag_id: uuid::Uuid::now_v7(),
        score: 0.93,
        margin: Some(2.5),
        rival: Some("a wall".into()),
        peak: 0.97,
        started_at: now,
        ended_at: ends.then_some(now),
        sampled_at: now,
        media_start: 12.5,
        media_end: ends.then_some(13.5),
        reason: None,
        model: ModelRef {
            name: "vit-b-32".into(),
            fingerprint: "0123456789abcdef0123456789abcdef".into(),
            provider: None,
        },
        attributes: Arc::default(),
        snapshot: None,
    };
    let kind = if ends { EventKind::End } else { EventKind::Start };
    Event { id: uuid::Uuid::now_v7(), source: format!("/bench/streams/camera-{stream}"), kind, data }
}

/// Twenty cameras, each with all labels.
fn registry() -> Arc<StreamRegistry> {
    let registry = StreamRegistry::default();
    let watched = |stream| {
        let labels = (0..LABELS).map(|label| ("dock-safety".to_owned(), format!("label-{label}"))).collect();
        RegisteredStream::new(&StreamId::from(format!("camera-{stream}").as_str()), labels)
    };
    registry.set((0..STREAMS).map(watched).collect());
    Arc::new(registry)
}

/// A process that is ended with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// mosquitto, and its port.
fn broker(folder: &Path) -> Option<(Running, u16)> {
    let debian = PathBuf::from("/usr/sbin/mosquitto");
    let program = if debian.exists() { debian } else { "mosquitto".into() };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = folder.join("mosquitto.conf");
    let text = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\n"
    );
    std::fs::write(&config, text).unwrap();
    let quiet = || Stdio::null();
    let child = Command::new(program).arg("-c").arg(config).stdout(quiet()).stderr(quiet()).spawn().ok()?;
    let running = Running(child);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    Some((running, port))
}

/// Ends when it has got `events` events.
fn subscriber(port: u16, events: usize) -> Running {
    let child = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-t", "vtagd/events", "-C", &events.to_string()])
        .stdout(Stdio::null())
        .spawn()
        .expect("mosquitto_sub, of mosquitto-clients");
    // It has no way to say that it has subscribed.
    std::thread::sleep(Duration::from_millis(500));
    Running(child)
}

fn settings(port: u16, protocol: Protocol) -> MqttSettings {
    MqttSettings {
        url: format!("mqtt://127.0.0.1:{port}").parse().unwrap(),
        protocol,
        client_id: None,
        topic_prefix: "vtagd".into(),
        username: None,
        password: None,
        trust: Trust::default(),
        timeout: Duration::from_secs(20),
        home_assistant: None,
        home_assistant_scores: false,
    }
}

/// As fast as it goes (`None`), or so many a second.
fn run(what: &str, folder: Option<&Path>, protocol: Protocol, events: usize, pace: Option<f64>) -> Option<()> {
    let folder = sends::folder(folder);
    let (_broker, port) = broker(folder.path())?;
    let mut subscriber = subscriber(port, events);
    let (outbox, receiver, thread) = sends::outbox(folder.path(), "broker");
    let owner = Owner { id: uuid::Uuid::new_v4(), instance: "bench".into() };
    let sink = Box::new(Mqtt::new(settings(port, protocol), registry(), None, owner, Arc::default()));
    let sink = runner::start(sink, receiver, runner::ladder()).unwrap();
    // A prefix that nobody has had yet takes a few seconds.
    while outbox.status().report().sinks[0].health != Health::Up {
        std::thread::sleep(Duration::from_millis(10));
    }
    let began = Instant::now();
    let sends = Sends::of(&outbox, events, pace, event);
    let stored = began.elapsed().as_secs_f64();
    let status = outbox.status();
    let pending = || status.report().sinks[0].pending;
    // Told every half second.
    let waits_at_the_end = pending();
    while pending() > 0 || began.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let acknowledged = began.elapsed().as_secs_f64();
    assert!(subscriber.0.wait().unwrap().success());
    let arrived = began.elapsed().as_secs_f64();
    outbox.close();
    thread.join().unwrap();
    sink.join().unwrap();
    let sends = sends.sorted();
    let rate = |seconds: f64| events as f64 / seconds;
    println!(
        "{what}: {events} events; {:.0}/s stored ({waits_at_the_end} not acknowledged then), {:.0}/s acknowledged by the broker, {:.0}/s at the subscriber; \
         send: p50 {:.1} µs, p99 {:.1} µs, max {:.0} µs; {} waits for a full queue",
        rate(stored),
        rate(acknowledged),
        rate(arrived),
        sends.at(0.5),
        sends.at(0.99),
        sends.at(1.0),
        sends.waits
    );
    Some(())
}

fn main() {
    // `cargo bench` adds `--bench`; `cargo test --benches` runs it without: only whether it works then.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let full = arguments.iter().any(|argument| argument == "--bench");
    let folder = arguments.iter().find(|argument| !argument.starts_with("--")).map(PathBuf::from);
    let (all, paced) = if full { (100_000, 5000 * 20) } else { (500, 500) };
    let folder = folder.as_deref();
    let done = run("3.1.1, as fast as it goes", folder, Protocol::V311, all, None)
        .and_then(|()| run("5, as fast as it goes", folder, Protocol::V5, all, None))
        .and_then(|()| run("3.1.1, 5000 a second", folder, Protocol::V311, paced, Some(5000.0)));
    if done.is_none() {
        eprintln!("there is no mosquitto here; Debian has it as mosquitto: nothing was measured");
    }
}
