//! What `vtagd explain` says of the time before the last hour: out of a history and an outbox with stamps of then.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::daemon::{Daemon, eventually, root, vtagd};
use jiff::Timestamp;
use serde_json::Value;
use vtagd::event::cloud_event::Data;
use vtagd::event::{Event, EventKind, ModelRef};
use vtagd::history::name_table::Name;
use vtagd::history::row_store::{NewRow, RetentionLimits, RowStore};
use vtagd::outbox::{Kernel, Outbox, OutboxSettings};

/// Neither is ever told: nothing is so sure.
const LABELS: &str = "set: things\nbackground: [a wall]\nlabels:\n\
    \x20 - { name: cat, prompts: [a cat], enter: { margin: 900 }, exit: { margin: -900 } }\n\
    \x20 - { name: rocket, prompts: [a rocket], enter: { margin: 900 }, exit: { margin: -900 } }\n";

fn ago(hours: u64) -> Timestamp {
    let then = Timestamp::now() - Duration::from_hours(hours);
    // As rows have it.
    Timestamp::from_millisecond(then.as_millisecond()).unwrap()
}

/// Rows of `gate`, each of a picture and a time.
fn remember(folder: &Path, rows: &[(&str, Timestamp)]) {
    let mut command = vtagd(folder);
    command.args(["embed", "--json"]);
    rows.iter().for_each(|(file, _)| {
        command.arg("--image").arg(root().join("tests/data/preprocess").join(file));
    });
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let embedded: Value = serde_json::from_slice(&output.stdout).unwrap();
    let limits = RetentionLimits { max_size: 64 << 20, max_age: Duration::from_hours(240), min_change: 0.0 };
    let (mut store, _) = RowStore::open(Some(&folder.join("kept")), limits, Instant::now()).unwrap();
    let model = embedded["model"]["fingerprint"].as_str().unwrap().to_owned();
    let name = Name { stream: "gate".into(), model, ..Name::default() };
    for ((_, at), image) in rows.iter().zip(embedded["images"].as_array().unwrap()) {
        let numbers = image["embedding"].as_array().unwrap().iter();
        let embedding: Vec<f32> = numbers.map(|number| number.as_f64().unwrap() as f32).collect();
        let row = NewRow { name: &name, tile: 0, at: at.as_millisecond(), embedding: &embedding };
        store.push(&row, Instant::now()).unwrap();
    }
    store.sync().unwrap();
}

/// A tag of `label` that started then.
fn told(folder: &Path, label: &str, at: Timestamp) {
    let path = Some(folder.join("outbox.db"));
    let settings = OutboxSettings { path, max_size: 1 << 30, max_age: Duration::from_hours(240) };
    let (outbox, _, thread) = Outbox::start(settings, Vec::new(), Kernel).unwrap();
    let data = Data {
        stream: "gate".into(),
        region: None,
        set: "things".into(),
        label: label.into(),
        tag_id: uuid::Uuid::now_v7(),
        score: 0.9,
        margin: Some(2.5),
        rival: None,
        peak: 0.9,
        started_at: at,
        ended_at: None,
        sampled_at: at,
        media_start: 0.0,
        media_end: None,
        reason: None,
        model: ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None },
        attributes: Arc::default(),
        snapshot: None,
    };
    let event = Event { id: uuid::Uuid::now_v7(), source: "/x/streams/gate".into(), kind: EventKind::Start, data };
    assert!(outbox.send(&Arc::new(event)));
    outbox.close();
    thread.join().unwrap();
}

#[test]
fn a_tag_and_a_silence_before_the_last_hour_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let (rocket, cat) = (ago(5), ago(3));
    remember(folder.path(), &[("rocket.jpg", rocket), ("chelsea.png", cat)]);
    told(folder.path(), "rocket", rocket + Duration::from_secs(2));
    std::fs::write(folder.path().join("set.yaml"), LABELS).unwrap();
    let clip = root().join("demo/clip.mp4");
    let config = format!(
        "sampling: {{ interval: 500ms }}\nhistory: {{ path: kept }}\noutbox: {{ path: outbox.db }}\nstreams:\n\
         \x20 - {{ id: gate, url: \"file://{clip}\", loop: true }}\n  - {{ id: door, url: \"file://{clip}\", loop: true, history: off }}\n\
         labels: [set.yaml]\nsinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: 127.0.0.1:0 }}\n",
        clip = clip.display()
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    let url = daemon.url();
    let explain = |stream: &str, label: &str, since: &str| {
        let mut command = vtagd(folder.path());
        let output = command.args(["explain", stream, label, "--since", since, "--url", &url]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    // The text tower may not be there yet, and the stream not be scored.
    let past = |stream: &str, label: &str| {
        eventually("the past", || {
            let said = explain(stream, label, "1d");
            let (now, past) = said.split_once("\n\n")?;
            let known = past.contains("Before the last hour") || past.contains("has nothing of");
            known.then(|| (now.to_owned(), past.trim_end().to_owned()))
        })
    };
    let date = |at: Timestamp| at.strftime("%F %H:%M:%SZ").to_string();

    let (now, before) = past("gate", "rocket");
    assert!(now.contains("had 1 start in the last 24 h"), "{now}");
    let wanted = format!("the history has \"a rocket\" best at {} (cosine", date(rocket));
    assert!(before.contains(&wanted) && before.contains("which stands out, and a tag started then"), "{before}");

    let (now, before) = past("gate", "cat");
    assert!(now.contains("had 0 starts in the last 24 h") && now.contains("`enter` is 1.000, margin +900.00"), "{now}");
    let wanted = format!("the history has \"a cat\" best at {} (cosine", date(cat));
    assert!(before.contains(&wanted) && before.contains("which stands out, and no tag started then"), "{before}");

    let (_, before) = past("door", "cat");
    assert_eq!(before, "Of the time before the last hour the history has nothing of door.");
    // What the peaks know is not asked of the history.
    assert!(!explain("gate", "rocket", "1h").contains("Before the last hour"));
    daemon.stop_cleanly();
}
