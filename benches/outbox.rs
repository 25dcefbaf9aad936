//! The outbox: how many events a second it stores and hands through to a sink that has each at once, and what that costs the thread
//! that makes them. `cargo bench --bench outbox [-- FOLDER]`; the file is made in FOLDER (a disk), or in the system's temporary folder.
//!
//! Not criterion: one long run is what counts, with the disk's own rhythm in it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench fails by panicking and prints"
)]

#[path = "common/mod.rs"]
mod common;
#[path = "common/sends.rs"]
mod sends;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use vtagd::event::cloud_event::Data;
use vtagd::event::{Event, EventKind, ModelRef};
use vtagd::outbox::delivery::DeliveryReceiver;
use vtagd::outbox::event_pages::{EventPosition, PageSize};
use vtagd::outbox::history_reader::{OutboxReader, Query, Row};

use sends::Sends;

/// Events of a full run.
const EVENTS: usize = 200_000;

fn event(number: usize) -> Event {
    let data = Data {
        region: None,
        stream: format!("camera-{}", number % 20),
        set: "dock-safety".into(),
        label: format!("label-{}", number % 50),
        tag_id: uuid::Uuid::now_v7(),
        score: 0.93,
        margin: Some(2.5),
        rival: Some("a wall".into()),
        peak: 0.97,
        started_at: jiff::Timestamp::now(),
        ended_at: None,
        sampled_at: jiff::Timestamp::now(),
        media_start: 12.5,
        media_end: None,
        reason: None,
        model: ModelRef {
            name: "vit-b-32".into(),
            fingerprint: "0123456789abcdef0123456789abcdef".into(),
            provider: None,
        },
        attributes: Arc::default(),
        snapshot: None,
    };
    Event { id: uuid::Uuid::now_v7(), source: "/bench/streams/camera".into(), kind: EventKind::Start, data }
}

/// Takes and settles everything, on a thread of its own.
fn sink(mut receiver: DeliveryReceiver) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut taken = 0;
            while let Some(delivery) = receiver.next().await {
                receiver.up();
                receiver.delivered(delivery.position);
                taken += 1;
            }
            taken
        })
    })
}

/// Events a second of SQLite alone: the same bytes, inserted a thousand to a transaction, each transaction on the disk as the outbox
/// wants it, and deleted again. Nothing is asked of them, numbered or handed to anybody: what the outbox adds is the ratio.
fn bare(folder: &Path, events: usize) -> f64 {
    let file = rusqlite::Connection::open(folder.join("bare.db")).unwrap();
    file.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE event (position INTEGER PRIMARY KEY, body BLOB)").unwrap();
    let body = vec![b'x'; 660];
    let began = Instant::now();
    for _ in 0..events / 1000 {
        file.execute_batch("BEGIN").unwrap();
        let mut insert = file.prepare_cached("INSERT INTO event (body) VALUES (?1)").unwrap();
        for _ in 0..1000 {
            insert.execute([&body]).unwrap();
        }
        drop(insert);
        file.execute_batch("DELETE FROM event; COMMIT").unwrap();
    }
    (events / 1000 * 1000) as f64 / began.elapsed().as_secs_f64()
}

/// As fast as it goes (`None`), or so many a second. Events a second.
fn run(what: &str, folder: Option<PathBuf>, events: usize, pace: Option<f64>) -> f64 {
    let folder = sends::folder(folder.as_deref());
    let (outbox, receiver, thread) = sends::outbox(folder.path(), "sink");
    let taker = sink(receiver);
    let began = Instant::now();
    let sends = Sends::of(&outbox, events, pace, event);
    // Closing gives the sink what is left, as long as it is quick.
    outbox.close();
    thread.join().unwrap();
    let taken = taker.join().unwrap();
    assert_eq!(taken, events);
    let seconds = began.elapsed().as_secs_f64();
    let sends = sends.sorted();
    println!(
        "{what}: {events} events, {:.0} events/s through outbox and sink; send: p50 {:.1} µs, p99 {:.1} µs, p99.9 {:.1} µs, max {:.0} µs; {} waits for a full queue",
        events as f64 / seconds,
        sends.at(0.5),
        sends.at(0.99),
        sends.at(0.999),
        sends.at(1.0),
        sends.waits
    );
    events as f64 / seconds
}

/// What a page of so many stored events costs, as the API reads it: the file is opened for each.
fn pages(folder: Option<PathBuf>, events: usize) {
    let folder = sends::folder(folder.as_deref());
    let (outbox, receiver, thread) = sends::outbox(folder.path(), "sink");
    let taker = sink(receiver);
    Sends::of(&outbox, events, None, event);
    outbox.close();
    thread.join().unwrap();
    taker.join().unwrap();
    let one = |name: &str| vec![name.to_owned()];
    let queries = [
        ("none", Query::default()),
        ("stream", Query { streams: one("camera-1"), ..Query::default() }),
        ("set", Query { sets: one("dock-safety"), ..Query::default() }),
        ("type", Query { types: one("start"), ..Query::default() }),
        ("type that none has", Query { types: one("end"), ..Query::default() }),
        (
            "stream and label that never meet",
            Query { streams: one("camera-1"), labels: one("label-2"), ..Query::default() },
        ),
    ];
    let path = folder.path().join("outbox.db");
    let size = PageSize { events: 100, bytes: 2 << 20 };
    let open = || OutboxReader::open(&path).unwrap();
    let all = open().latest(&Query::default(), events).unwrap();
    let position = |row: &Row| {
        let event: Event = serde_json::from_str(&row.body).unwrap();
        EventPosition { time: event.data.sampled_at.as_millisecond(), seq: row.seq }
    };
    for (what, query) in queries {
        for (at, before) in [("newest", None), ("middle", all.get(events / 2)), ("oldest", all.get(events / 100))] {
            let before = before.map(position);
            let mut took: Vec<_> = (0..51)
                .map(|_| {
                    let began = Instant::now();
                    let page = open().newest_first(&query, before, size).unwrap();
                    (began.elapsed(), page.rows.len())
                })
                .collect();
            took.sort_unstable();
            println!(
                "a page of {} out of {events} events, filter: {what}, {at}: p50 {:.0?}, max {:.0?}",
                took[25].1, took[25].0, took[50].0
            );
        }
    }
}

fn main() {
    // `cargo bench` adds `--bench`; `cargo test --benches` runs it without: only whether it works then.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let full = arguments.iter().any(|argument| argument == "--bench");
    let folder = arguments.iter().find(|argument| !argument.starts_with("--")).map(PathBuf::from);
    let (all, paced) = if full { (EVENTS, 5000 * 20) } else { (500, 500) };
    // In turn, so that what else the disk does disturbs both.
    let mut rounds = Vec::new();
    for round in 1..=if full { 3 } else { 1 } {
        let ours = run(&format!("as fast as it goes, round {round}"), folder.clone(), all, None);
        let place = folder.as_ref().map_or_else(|| tempfile::tempdir().unwrap(), |f| tempfile::tempdir_in(f).unwrap());
        let alone = bare(place.path(), all.max(1000));
        println!("SQLite alone, round {round}: {alone:.0} events/s, ratio {:.3}", ours / alone);
        rounds.push((ours / alone, ours, alone));
    }
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ratio, ours, alone) = rounds[rounds.len() / 2];
    if full {
        common::tell("events through the outbox", "events/s", (ours, alone), "SQLite alone", ratio);
    }
    run("5000 a second", folder.clone(), paced, Some(5000.0));
    pages(folder, if full { 1_000_000 } else { 500 });
}
