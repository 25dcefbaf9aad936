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

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vtagd::catalog::{Catalog, Watched};
use vtagd::event::record::Data;
use vtagd::event::{Event, EventKind, ModelRef};
use vtagd::frame::StreamId;
use vtagd::outbox::route::{Filter, Route};
use vtagd::outbox::{Kernel, Outbox, OutboxSettings};
use vtagd::sink::mqtt::{Mqtt, MqttSettings, Protocol};
use vtagd::sink::runner;
use vtagd::status::StreamStatus;
use vtagd::tls::Trust;

const STREAMS: usize = 20;

const LABELS: usize = 50;

fn event(number: usize) -> Event {
    // A start and an end of each label in turn, so that every event changes its state.
    let (stream, label, ends) = (number % STREAMS, number / STREAMS % LABELS, number / (STREAMS * LABELS) % 2 == 1);
    let now = jiff::Timestamp::now();
    let data = Data {
        stream: format!("camera-{stream}"),
        set: "dock-safety".into(),
        label: format!("label-{label}"),
        tag_id: uuid::Uuid::now_v7(),
        score: 0.93,
        peak: 0.97,
        started_at: now,
        ended_at: ends.then_some(now),
        sampled_at: now,
        media_start: 12.5,
        media_end: ends.then_some(13.5),
        reason: None,
        model: ModelRef { name: "vit-b-32".into(), fingerprint: "0123456789abcdef0123456789abcdef".into() },
        attributes: Arc::default(),
        snapshot: None,
    };
    let kind = if ends { EventKind::End } else { EventKind::Start };
    Event { id: uuid::Uuid::now_v7(), source: format!("/bench/streams/camera-{stream}"), kind, data }
}

/// Twenty cameras, each with all labels.
fn catalog() -> Arc<Catalog> {
    let catalog = Catalog::new().0;
    let watched = |stream| Watched {
        status: Arc::new(StreamStatus::new(StreamId::from(format!("camera-{stream}").as_str()))),
        account: Arc::default(),
        enabled: true,
        labels: (0..LABELS).map(|label| ("dock-safety".to_owned(), format!("label-{label}"))).collect(),
    };
    catalog.set((0..STREAMS).map(watched).collect());
    Arc::new(catalog)
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
    }
}

/// As fast as it goes (`None`), or so many a second.
fn run(what: &str, folder: Option<&Path>, protocol: Protocol, events: usize, pace: Option<f64>) -> Option<()> {
    let folder = folder.map_or_else(|| tempfile::tempdir().unwrap(), |f| tempfile::tempdir_in(f).unwrap());
    let (_broker, port) = broker(folder.path())?;
    let mut subscriber = subscriber(port, events);
    let path = Some(folder.path().join("outbox.db"));
    let outbox = OutboxSettings { path, max_size: 4 << 30, max_age: Duration::from_secs(86_400) };
    let route = Route { name: "broker".into(), key: "broker".into(), only: Filter::default(), rate: None };
    let (outbox, mut inboxes, thread) = Outbox::start(outbox, vec![route], Kernel).unwrap();
    let sink = Box::new(Mqtt::new(settings(port, protocol), catalog(), None));
    let sink = runner::start(sink, inboxes.remove(0), runner::ladder()).unwrap();
    let mut sends = Vec::with_capacity(events);
    let mut waits = 0_u64;
    let began = Instant::now();
    for number in 0..events {
        let made = Arc::new(event(number));
        if let Some(pace) = pace {
            let due = Duration::from_secs_f64(number as f64 / pace);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        let asked = Instant::now();
        let mut there = outbox.send(&made);
        sends.push(asked.elapsed());
        while !there {
            // The queue is full: a camera's event would be lost here, a bench waits.
            waits += 1;
            std::thread::sleep(Duration::from_micros(200));
            there = outbox.send(&made);
        }
    }
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
    sends.sort_unstable();
    let at = |part: f64| sends[((sends.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    let rate = |seconds: f64| events as f64 / seconds;
    println!(
        "{what}: {events} events; {:.0}/s stored ({waits_at_the_end} not acknowledged then), {:.0}/s acknowledged by the broker, {:.0}/s at the subscriber; \
         send: p50 {:.1} µs, p99 {:.1} µs, max {:.0} µs; {waits} waits for a full queue",
        rate(stored),
        rate(acknowledged),
        rate(arrived),
        at(0.5),
        at(0.99),
        at(1.0)
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
