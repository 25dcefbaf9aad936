//! A daemon with nothing to do does nothing: under 2 % of a core whatever it waits for, with events waiting for sinks that are dead in every
//! way, with no sink, with cameras that are away, with an outbox that is large and old. CPU time is counted, not time.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use crate::common::camera::free_port;
use crate::common::cost::is_idle;
use crate::common::daemon::{Daemon, eventually, root};
use crate::common::hook::{Hook, Reply};
use rusqlite::{Connection, params};
use uuid::Uuid;
use vtagd::event::cloud_event::Data;
use vtagd::event::{Event, EventKind, ModelRef};

/// Invariant 11.
const SHARE: f64 = 0.02;

/// Takes connections and says nothing, for as long as the test runs.
fn hanging() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let _open: Vec<TcpStream> = listener.incoming().flatten().collect();
    });
    port
}

/// A camera that is away, one that says nothing and one that is switched off.
fn config(more: &str) -> String {
    format!(
        "model: {{ path: none }}\napi: {{ listen: 127.0.0.1:0 }}\noutbox: {{ path: outbox.db }}\nstreams:\n\
         \x20 - {{ id: away, url: \"rtsp://127.0.0.1:{}/\" }}\n  - {{ id: silent, url: \"rtsp://127.0.0.1:{}/\" }}\n\
         \x20 - {{ id: off, url: \"rtsp://127.0.0.1:9/\", enabled: false }}\n{more}",
        free_port(),
        hanging(),
    )
}

fn body(number: usize) -> String {
    let data = Data {
        region: None,
        stream: format!("cam{}", number % 5),
        set: "lot".into(),
        label: format!("label {}", number % 4),
        tag_id: Uuid::now_v7(),
        score: 0.9,
        margin: Some(2.5),
        rival: Some("a wall".into()),
        peak: 0.9,
        started_at: jiff::Timestamp::UNIX_EPOCH,
        ended_at: None,
        sampled_at: jiff::Timestamp::UNIX_EPOCH,
        media_start: 1.0,
        media_end: None,
        reason: None,
        model: ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None },
        attributes: Arc::default(),
        snapshot: None,
    };
    let source = format!("/x/streams/{}", data.stream);
    serde_json::to_string(&Event { id: Uuid::now_v7(), source, kind: EventKind::Update, data }).unwrap()
}

/// Makes the outbox of `config` in `folder`, as its daemon does, and changes it with `fill`, in one transaction.
fn prepared(folder: &Path, config: &str, fill: impl FnOnce(&Connection)) {
    let mut daemon = Daemon::start(folder, config);
    daemon.wait_ready();
    daemon.stop();
    let mut file = Connection::open(folder.join("outbox.db")).unwrap();
    let transaction = file.transaction().unwrap();
    fill(&transaction);
    transaction.commit().unwrap();
}

/// `count` events, of which every sink that the outbox knows still has to get all.
fn waiting(file: &Connection, count: usize) {
    let mut sinks = file.prepare("SELECT id FROM sinks").unwrap();
    let sinks: Vec<i64> = sinks.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let mark: String = file.query_row("SELECT mark FROM clock", [], |row| row.get(0)).unwrap_or_default();
    let age = serde_json::from_str::<serde_json::Value>(&mark).ok().and_then(|mark| mark["age"].as_u64());
    let mut event = file
        .prepare(
            "INSERT INTO events (waiting, age, id, time, stream, label_set, label, kind, body)
             VALUES (?1, ?2, ?3, 0, 'cam', 'lot', 'x', 'update', ?4)",
        )
        .unwrap();
    let mut delivery =
        file.prepare("INSERT INTO deliveries (sink, seq, state, attempts, bytes) VALUES (?1, ?2, 0, 0, 500)").unwrap();
    for number in 0..count {
        event.execute(params![sinks.len(), age.unwrap_or_default(), number.to_string(), body(number)]).unwrap();
        let seq = file.last_insert_rowid();
        for sink in &sinks {
            delivery.execute(params![sink, seq]).unwrap();
        }
    }
}

/// The daemon whose `sinks` are all dead, with thousands of events for each of them.
fn with_dead_sinks(state: &str, sinks: &str, dead: usize, ready: impl Fn() -> bool) {
    let folder = tempfile::tempdir().unwrap();
    let config = config(sinks);
    prepared(folder.path(), &config, |file| waiting(file, 3000));
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    eventually("every sink is found to be dead", || {
        let (_, metrics) = daemon.get("/metrics");
        let number = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or_default();
        let failed = |line: &&str| line.starts_with("vtagd_sink_errors_total{") && number(line) > 0.0;
        (metrics.lines().filter(failed).count() == dead && ready()).then_some(())
    });
    is_idle(daemon.pid(), SHARE, state);
    let (_, metrics) = daemon.get("/metrics");
    assert_eq!(metrics.matches("vtagd_sink_pending_events{").count(), dead, "{metrics}");
    daemon.signal(libc::SIGTERM);
    daemon.wait();
}

#[test]
fn no_sink_and_cameras_that_are_away() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(folder.path(), &config("sinks: []\n"));
    daemon.wait_ready();
    daemon.wait_for_log("the stream is down");
    is_idle(daemon.pid(), SHARE, "no sinks");
    assert!(daemon.stop().success());
}

#[test]
fn a_model_that_is_given_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let labels = root().join("config/labels/demo.yaml");
    let text = config(&format!("labels: [{}]\n", labels.display())).replace("model: { path: none }\n", "");
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.wait_ready();
    daemon.wait_for_log("the stream is down");
    is_idle(daemon.pid(), SHARE, "a model and no pictures");
    assert!(daemon.stop().success());
}

#[test]
fn webhooks_that_refuse_connections_hang_or_are_overloaded() {
    // Away at first, which the other events learn of, and then it says nothing any more.
    let hangs = Hook::start(|n, _| if n < 4 { Reply::Status(503, "") } else { Reply::Hang });
    // One event is refused, and due again while all of them wait.
    let overloaded =
        Hook::start(|n, _| if n == 0 { Reply::Status(400, "") } else { Reply::Status(429, "retry-after: 3600\r\n") });
    let sinks = format!(
        "sinks:\n  - {{ type: webhook, name: away, url: \"http://127.0.0.1:{}/\" }}\n\
         \x20 - {{ type: webhook, name: hangs, url: \"{}\", timeout: 300s }}\n\
         \x20 - {{ type: webhook, name: overloaded, url: \"{}\" }}\n\
         \x20 - {{ type: webhook, name: batches, url: \"http://127.0.0.1:{}/\", batch: {{}} }}\n",
        free_port(),
        hangs.url(),
        overloaded.url(),
        free_port(),
    );
    with_dead_sinks("dead webhooks", &sinks, 4, || hangs.count() > 4);
}

#[test]
fn brokers_that_refuse_connections_or_hang_and_a_disk_that_is_full() {
    let (away, hangs, hangs5) = (free_port(), hanging(), hanging());
    let mut sinks = format!(
        "sinks:\n  - {{ type: mqtt, name: mqtt-away, url: \"mqtt://127.0.0.1:{away}\" }}\n\
         \x20 - {{ type: mqtt, name: mqtt-hangs, url: \"mqtt://127.0.0.1:{hangs}\", timeout: 2s }}\n\
         \x20 - {{ type: mqtt, name: mqtt5-hangs, url: \"mqtt://127.0.0.1:{hangs5}\", protocol: 5, timeout: 2s }}\n\
         \x20 - {{ type: nats, name: nats-away, url: \"nats://127.0.0.1:{away}\" }}\n\
         \x20 - {{ type: nats, name: nats-hangs, url: \"nats://127.0.0.1:{hangs}\", timeout: 2s }}\n\
         \x20 - {{ type: jsonl, name: full, path: /dev/full }}\n"
    );
    let mut dead = 6;
    if cfg!(feature = "kafka") {
        sinks.push_str(&format!(
            "  - {{ type: kafka, name: kafka-away, brokers: [\"127.0.0.1:{away}\"], timeout: 2s }}\n\
             \x20 - {{ type: kafka, name: kafka-hangs, brokers: [\"127.0.0.1:{hangs}\"], timeout: 2s }}\n"
        ));
        dead += 2;
    }
    with_dead_sinks("dead brokers", &sinks, dead, || true);
}

#[test]
fn an_outbox_that_is_older_than_its_events_may_get_and_large() {
    const DAY: u64 = 86_400_000;
    let folder = tempfile::tempdir().unwrap();
    let config = config("sinks: [{ type: jsonl, path: \"-\" }]\n");
    prepared(folder.path(), &config, |file| {
        // Ten days old, and what has happened in the last week is kept.
        let mark = serde_json::json!({ "age": 10 * DAY, "boot": "", "uptime": 0 });
        file.execute("INSERT OR REPLACE INTO clock (one, mark) VALUES (1, ?1)", [mark.to_string()]).unwrap();
        let mut event = file
            .prepare(
                "INSERT INTO events (waiting, age, id, time, stream, label_set, label, kind, body)
                 VALUES (0, ?1, ?2, 0, 'cam', 'lot', 'x', 'end', ?3)",
            )
            .unwrap();
        let mut state = file
            .prepare(
                "INSERT INTO states (stream, label_set, label, seq, age, body) VALUES ('cam', 'lot', ?1, 1, ?2, ?3)",
            )
            .unwrap();
        let body = "x".repeat(250);
        for number in 0..300_000_u64 {
            let age = 4 * DAY + number * 1000;
            event.execute(params![age, number.to_string(), body]).unwrap();
            if number % 30 == 0 {
                state.execute(params![number.to_string(), age, body]).unwrap();
            }
        }
    });
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    is_idle(daemon.pid(), SHARE, "an old outbox");
    assert!(daemon.stop().success());
    let file = Connection::open(folder.path().join("outbox.db")).unwrap();
    let left: u64 = file.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 300_000, "what is young enough is kept");
}
