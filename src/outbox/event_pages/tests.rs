//! Pages of stored events: every order, filter and moment gives each event once.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::params;

use super::*;
use crate::event::{Event, EventKind};
use crate::outbox::age::tests::Machine;
use crate::outbox::delivery::tests::event;
use crate::outbox::event_store::{EventStore, Queued};
use crate::outbox::history_reader::OutboxReader;
use crate::outbox::recent_events::RecentEvents;
use crate::outbox::tables::{self, Opened, STEPS};

const KINDS: [EventKind; 3] = [EventKind::Start, EventKind::Update, EventKind::End];

fn store(path: &Path) -> EventStore {
    EventStore::open(Some(path), &[], Box::new(Machine::default())).unwrap()
}

/// The `number`-th event: of one of four streams and six labels, several in a millisecond, and time now and then goes back.
fn numbered(number: i64) -> Event {
    let mut event = event(
        &format!("camera-{}", number % 4),
        &format!("label-{}", number % 6),
        KINDS[usize::try_from(number / 2 % 3).unwrap()],
    );
    event.data.set = if number % 6 < 3 { "lot" } else { "dock" }.to_owned();
    // Two streams have regions, one of which is seldom told.
    event.data.region = match (number % 4, number % 50) {
        (0 | 1, 0..5) => Some("gate".into()),
        (0 | 1, _) => Some("yard".into()),
        _ => None,
    };
    event.data.sampled_at = jiff::Timestamp::from_millisecond(number / 3 - 40 * (number % 7)).unwrap();
    event
}

fn commit(store: &mut EventStore, events: Vec<Event>) {
    let batch: Vec<Queued> =
        events.into_iter().map(|event| Queued { event: Arc::new(event), to: Vec::new() }).collect();
    store.commit(&batch, &[]).unwrap();
}

fn list(name: &str) -> Vec<String> {
    vec![name.to_owned()]
}

fn queries() -> Vec<Query> {
    let (stream, label) = (list("camera-1"), list("label-5"));
    vec![
        Query::default(),
        Query { streams: stream.clone(), ..Query::default() },
        Query { sets: list("dock"), ..Query::default() },
        Query { labels: label.clone(), ..Query::default() },
        Query { types: list("update"), ..Query::default() },
        Query { streams: stream.clone(), labels: label.clone(), types: list("end"), ..Query::default() },
        Query { since: Some(50), until: Some(120), ..Query::default() },
        Query { streams: stream, since: Some(50), until: Some(120), ..Query::default() },
        Query { regions: list("yard"), ..Query::default() },
        Query { regions: list("gate"), ..Query::default() },
        Query { regions: vec!["gate".into(), "yard".into()], types: list("start"), ..Query::default() },
        Query { regions: list("gate"), streams: list("camera-1"), since: Some(50), ..Query::default() },
        Query { regions: list("gate"), streams: list("camera-2"), ..Query::default() },
        Query { labels: list("nobody's"), ..Query::default() },
        Query { labels: list("label-0"), streams: list("camera-3"), ..Query::default() },
        Query {
            streams: vec!["camera-1".into(), "camera-2".into()],
            types: vec!["end".into(), "end".into()],
            ..Query::default()
        },
    ]
}

fn wants(query: &Query, event: &Event) -> bool {
    let is = |list: &[String], name: &str| list.is_empty() || list.iter().any(|wanted| wanted == name);
    let (data, time) = (&event.data, event.data.sampled_at.as_millisecond());
    is(&query.streams, &data.stream)
        && is(&query.regions, data.region.as_deref().unwrap_or_default())
        && is(&query.sets, &data.set)
        && is(&query.labels, &data.label)
        && is(&query.types, event.kind.as_str())
        && query.since.is_none_or(|since| time >= since)
        && query.until.is_none_or(|until| time < until)
}

/// All pages from `before` on: ids, and how many pages.
fn all(reader: &OutboxReader, query: &Query, mut before: Option<EventPosition>, events: usize) -> (Vec<String>, usize) {
    let (mut ids, mut pages) = (Vec::new(), 0);
    loop {
        let page = reader.newest_first(query, before, PageSize { events, bytes: usize::MAX }).unwrap();
        assert!(page.rows.len() <= events);
        ids.extend(page.rows.into_iter().map(|row| row.id));
        pages += 1;
        let Some(next) = page.next else { return (ids, pages) };
        assert_eq!(EventPosition::of_cursor(&next.cursor()), Some(next));
        before = Some(next);
    }
}

#[test]
fn every_filter_gives_each_of_its_events_once_newest_first_with_pages_of_any_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let events: Vec<Event> = (0..700).map(numbered).collect();
    commit(&mut store(&path), events.clone());
    let reader = OutboxReader::open(&path).unwrap();
    for query in queries() {
        let mut expected: Vec<_> = (1..).zip(&events).filter(|(_, event)| wants(&query, event)).collect();
        expected.sort_by_key(|(seq, event): &(u64, &Event)| std::cmp::Reverse((event.data.sampled_at, *seq)));
        let expected: Vec<String> = expected.into_iter().map(|(_, event)| event.id.to_string()).collect();
        for size in [1, 7, 100, 1000] {
            let (ids, pages) = all(&reader, &query, None, size);
            assert_eq!(ids, expected, "{query:?}, {size} a page");
            assert_eq!(pages, expected.len().div_ceil(size).max(1), "{query:?}, {size} a page");
        }
    }
}

#[test]
fn what_is_stored_and_thrown_away_while_somebody_pages_repeats_nothing_and_skips_nothing_that_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let mut store = store(&path);
    commit(&mut store, (0..2000).map(numbered).collect());
    let reader = OutboxReader::open(&path).unwrap();
    for query in queries() {
        let (whole, _) = all(&reader, &query, None, 1000);
        let size = PageSize { events: 20, bytes: usize::MAX };
        let first = reader.newest_first(&query, None, size).unwrap();
        // Newer ones come, in the same milliseconds too, and the oldest go.
        commit(&mut store, (2000..2030).map(numbered).collect());
        store.evict().unwrap();
        let mut ids: Vec<String> = first.rows.into_iter().map(|row| row.id).collect();
        if let Some(next) = first.next {
            ids.extend(all(&reader, &query, Some(next), 20).0);
        }
        let (now, _) = all(&reader, &query, None, 1000);
        let expected: Vec<String> =
            whole.into_iter().enumerate().filter(|(at, id)| *at < 20 || now.contains(id)).map(|(_, id)| id).collect();
        let later = |id: &&String| !expected.contains(id);
        // An event that is older than the page's end by its own clock may still come: it is none that was skipped or repeated.
        let come: Vec<&String> = ids.iter().filter(later).collect();
        let seen: Vec<&String> = ids.iter().filter(|id| !later(id)).collect();
        assert_eq!(seen, expected.iter().collect::<Vec<_>>(), "{query:?}");
        assert!(come.iter().all(|id| now.contains(id)), "{query:?}");
    }
}

#[test]
fn a_page_ends_with_the_event_that_reaches_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    commit(&mut store(&path), (0..100).map(numbered).collect());
    let reader = OutboxReader::open(&path).unwrap();
    let page = reader.newest_first(&Query::default(), None, PageSize { events: 100, bytes: 1 }).unwrap();
    assert_eq!(page.rows.len(), 1, "one however large it is");
    let bytes = page.rows[0].body.len() * 5 / 2;
    let size = PageSize { events: 100, bytes };
    let (mut seen, mut before) = (0, None);
    loop {
        let page = reader.newest_first(&Query::default(), before, size).unwrap();
        assert!((1..=4).contains(&page.rows.len()), "{}", page.rows.len());
        seen += page.rows.len();
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(seen, 100);
}

#[test]
fn where_little_of_much_is_asked_for_pages_are_short_and_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    // A label each, and the oldest is the only end.
    let event = |number: i64| {
        let mut event =
            event("gate", &format!("label-{number}"), if number == 0 { EventKind::End } else { EventKind::Start });
        event.data.sampled_at = jiff::Timestamp::from_millisecond(number / 2).unwrap();
        event
    };
    commit(&mut store(&path), (0..1050).map(event).collect());
    let reader = Connection::open(&path).unwrap();
    let query = Query { types: list("end"), streams: list("gate"), ..Query::default() };
    let (mut before, mut rows) = (None, Vec::new());
    loop {
        let size = PageSize { events: 100, bytes: usize::MAX };
        let page = page(&reader, Some(500), &query, before, size).unwrap();
        rows.push(page.rows.len());
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(rows, [0, 0, 1]);
    let nobody = Query { streams: list("nobody"), ..query.clone() };
    let size = PageSize { events: 100, bytes: usize::MAX };
    let none = page(&reader, Some(500), &nobody, None, size).unwrap();
    assert!(none.rows.is_empty() && none.next.is_none(), "what has no events is known at once");
}

#[test]
fn a_file_of_an_older_schema_is_read_as_it_is_and_gets_its_indices_from_the_daemon() {
    // The first without indices; and the last whose events have no column for their region.
    for (steps, has_regions) in [(2, false), (4, true)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.db");
        let Ok(Opened::Ready(old)) = tables::open(Some(&path), &STEPS[..steps]) else { panic!("it is made") };
        for number in 0..160 {
            let mut event = numbered(number);
            event.data.region = event.data.region.filter(|_| has_regions);
            old.execute(
                "INSERT INTO events (waiting, age, id, time, stream, label_set, label, kind, body) VALUES (0, 0, ?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![event.id.to_string(), event.data.sampled_at.as_millisecond(), event.data.stream, event.data.set, event.data.label,
                    event.kind.as_str(), serde_json::to_string(&event).unwrap()],
            ).unwrap();
            let region = if has_regions { ", region" } else { "" };
            let sql = format!(
                "INSERT OR REPLACE INTO states (stream, label_set, label, seq, age, body{region}) VALUES (?1, ?2, ?3, ?4, 0, ''{})",
                if has_regions {
                    format!(", '{}'", event.data.region.as_deref().unwrap_or_default())
                } else {
                    String::new()
                }
            );
            old.execute(&sql, params![event.data.stream, event.data.set, event.data.label, number]).unwrap();
        }
        drop(old);
        let read = || {
            let reader = OutboxReader::open(&path).unwrap();
            queries().iter().map(|query| all(&reader, query, None, 7).0).collect::<Vec<_>>()
        };
        let before = read();
        drop(store(&path));
        assert_eq!(before[0].len(), 160);
        let of_regions = queries()
            .iter()
            .zip(&before)
            .filter(|(query, _)| !query.regions.is_empty())
            .map(|(_, ids)| ids.len())
            .sum::<usize>();
        assert_eq!(of_regions > 0, has_regions);
        assert_eq!(read(), before, "of {steps} steps");
    }
}

#[test]
fn what_is_carried_over_of_a_damaged_file_and_what_is_in_memory_alone_is_asked_for_by_region_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let events: Vec<Event> = (0..200).map(numbered).collect();
    let mut damaged = store(&path);
    commit(&mut damaged, events.clone());
    let of_region = Query { regions: list("gate"), streams: list("camera-1"), ..Query::default() };
    let whole = all(&OutboxReader::open(&path).unwrap(), &of_region, None, 7).0;
    assert!(whole.len() > 2, "{whole:?}");
    let corrupt = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    damaged.recover(&[], &rusqlite::Error::SqliteFailure(corrupt, None)).unwrap();
    drop(damaged);
    assert_eq!(all(&OutboxReader::open(&path).unwrap(), &of_region, None, 7).0, whole);

    let recent = RecentEvents::default();
    events.into_iter().for_each(|event| recent.remember(Arc::new(event)));
    let (found, next) = recent.page(&of_region, None, PageSize { events: 1000, bytes: usize::MAX });
    assert_eq!((found.iter().map(|event| event.id.to_string()).collect::<Vec<_>>(), next), (whole, None));
}

#[test]
fn a_cursor_of_somebody_else_is_none() {
    for wrong in [
        "",
        "e",
        "e0",
        &format!("s{}", "0".repeat(32)),
        &format!("e{}", "g".repeat(32)),
        &format!("e{}é", "0".repeat(30)),
    ] {
        assert_eq!(EventPosition::of_cursor(wrong), None, "{wrong}");
    }
    let before = EventPosition { time: -5, seq: 7 };
    assert_eq!(EventPosition::of_cursor(&before.cursor()), Some(before), "before 1970 too");
}

/// What a page of a million stored events costs, and what making them does: `cargo nextest run --release … --run-ignored only -- a_million`.
#[test]
#[ignore = "takes minutes"]
fn a_million_events_are_paged_at_any_cursor_and_with_any_filter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let mut store = store(&path);
    let filled = Instant::now();
    for chunk in 0..1000 {
        let event = |number: i64| {
            let kind = if number % 2 == 0 { EventKind::Start } else { EventKind::End };
            let mut event = event(&format!("camera-{}", number / 2 % 20), &format!("label-{}", number / 2 % 50), kind);
            event.data.sampled_at = jiff::Timestamp::from_millisecond(number * 100).unwrap();
            event
        };
        let mut events: Vec<Event> = (chunk * 1000..(chunk + 1) * 1000).map(event).collect();
        if chunk == 3 {
            events[0].data.label = "seldom".into();
        }
        commit(&mut store, events);
    }
    println!("filled in {:?}", filled.elapsed());
    let names = [
        ("none", Query::default()),
        ("stream", Query { streams: list("camera-1"), ..Query::default() }),
        ("set: all", Query { sets: list("lot"), ..Query::default() }),
        ("label", Query { labels: list("label-7"), ..Query::default() }),
        ("type", Query { types: list("end"), ..Query::default() }),
        ("type: none", Query { types: list("update"), ..Query::default() }),
        ("label: one", Query { labels: list("seldom"), ..Query::default() }),
        ("label: none", Query { labels: list("nobody's"), ..Query::default() }),
        ("pair: none", Query { streams: list("camera-1"), labels: list("label-2"), ..Query::default() }),
        ("since: all", Query { since: Some(0), ..Query::default() }),
        ("stream, until: first", Query { streams: list("camera-1"), until: Some(100_000), ..Query::default() }),
    ];
    for (name, query) in names {
        for (at, before) in [("newest", None), ("middle", Some(50_000_000)), ("oldest", Some(50_000))] {
            for events in [100, 1000] {
                let before = before.map(|time| EventPosition { time, seq: 0 });
                let size = PageSize { events, bytes: usize::MAX };
                let mut times: Vec<_> = (0..21)
                    .map(|_| {
                        let began = Instant::now();
                        let page = OutboxReader::open(&path).unwrap().newest_first(&query, before, size).unwrap();
                        (began.elapsed(), page.rows.len())
                    })
                    .collect();
                times.sort_unstable();
                println!(
                    "{name:<22} {at:<7} limit {events:<5} {:>5} rows  p50 {:>10.1?}  max {:>10.1?}",
                    times[10].1, times[10].0, times[20].0
                );
            }
        }
    }
}
