//! The outbox as a whole: its thread, its links, its limits, and a disk or clock that misbehaves.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::age::tests::Machine;
use super::history_reader::{self, OutboxReader, Query, State};
use super::route::{Filter, Rate};
use super::*;
use crate::event::EventKind;
use crate::outbox::delivery::tests::{event, eventually};

fn route(name: &str) -> Route {
    Route { name: name.into(), key: name.into(), former_key: None, only: Filter::default(), rate: None }
}

fn settings(path: Option<&Path>) -> OutboxSettings {
    OutboxSettings { path: path.map(Path::to_path_buf), max_size: 1 << 30, max_age: Duration::from_secs(7 * 86_400) }
}

struct Running {
    outbox: Outbox,
    receivers: Vec<DeliveryReceiver>,
    thread: JoinHandle<()>,
}

impl Running {
    fn start(settings: OutboxSettings, routes: &[Route], machine: &Machine) -> Self {
        let (outbox, receivers, thread) = Outbox::start(settings, routes.to_vec(), machine.clone()).unwrap();
        Self { outbox, receivers, thread }
    }

    fn send(&self, label: &str, kind: EventKind) -> Arc<Event> {
        let event = Arc::new(event("gate", label, kind));
        self.outbox.send(&event);
        event
    }

    /// The next `count` deliveries of `sink`, with what to settle them by.
    fn take(&mut self, sink: usize, count: usize) -> Vec<delivery::Delivery> {
        let mut taken = Vec::new();
        eventually("deliveries", || {
            taken.extend(std::iter::from_fn(|| self.receivers[sink].try_next()));
            taken.len() >= count
        });
        assert_eq!(taken.len(), count);
        taken
    }

    fn end(self) {
        self.outbox.close();
        drop(self.receivers);
        self.thread.join().unwrap();
    }

    /// Waits until the outbox itself says so.
    fn wait(&self, what: &str, is: impl Fn(&Report) -> bool) {
        let status = self.outbox.status();
        eventually(what, || is(&status.report()));
    }
}

#[test]
fn what_was_not_settled_comes_again_after_a_restart_and_what_was_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let (path, machine) = (folder.path().join("outbox.db"), Machine::default());
    let mut first = Running::start(settings(Some(&path)), &[route("a")], &machine);
    let sent: Vec<_> = ["car", "bus", "van"].iter().map(|label| first.send(label, EventKind::End).id).collect();
    let taken = first.take(0, 3);
    assert_eq!(taken.iter().map(|d| d.stored.id()).collect::<Vec<_>>(), sent);
    first.receivers[0].delivered(taken[1].position);
    first.end();
    let mut second = Running::start(settings(Some(&path)), &[route("a")], &machine);
    let again = second.take(0, 2);
    assert_eq!(again.iter().map(|d| d.stored.id()).collect::<Vec<_>>(), [sent[0], sent[2]]);
    assert_eq!(again[0].stored.body, taken[0].stored.body, "the same bytes");
    assert_eq!(second.outbox.lost(), 0);
    second.end();
}

#[test]
fn a_sink_that_takes_nothing_holds_no_other_up_and_gets_everything_in_order_later() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::default();
    let mut running =
        Running::start(settings(Some(&folder.path().join("o.db"))), &[route("dead"), route("live")], &machine);
    // More than a window, so that the rest has to come out of the file.
    let count = delivery::WINDOW * 2 + 300;
    let mut got = Vec::new();
    for n in 0..count {
        running.send(&format!("{n}"), EventKind::Start);
        if n % 100 == 0 || n + 1 == count {
            eventually("the live sink has everything", || {
                while let Some(d) = running.receivers[1].try_next() {
                    got.push(d.stored.event.data.label.clone());
                    running.receivers[1].delivered(d.position);
                }
                got.len() == n + 1
            });
        }
    }
    let all: Vec<String> = (0..count).map(|n| n.to_string()).collect();
    assert_eq!(got, all);
    running.wait("numbers", |report| (report.sinks[0].pending, report.sinks[1].pending) == (count as u64, 0));
    let mut late = Vec::new();
    eventually("the late one has everything", || {
        while let Some(d) = running.receivers[0].try_next() {
            late.push(d.stored.event.data.label.clone());
            running.receivers[0].delivered(d.position);
        }
        late.len() == count
    });
    assert_eq!(late, all);
    running.end();
}

#[test]
fn filters_and_limits_decide_who_gets_an_event_and_whether_its_cooldown_begins() {
    let routes = [
        Route { only: Filter { labels: vec!["car".into()], ..Filter::default() }, ..route("cars") },
        Route { rate: Some(Rate { events: 1, per: Duration::from_secs(3600) }), ..route("few") },
    ];
    let mut running = Running::start(settings(None), &routes, &Machine::default());
    let mut told = Vec::new();
    for (tag, label) in ["bus", "bus", "car"].into_iter().enumerate() {
        let mut event = event("gate", label, EventKind::Start);
        event.data.tag_id = uuid::Uuid::from_u128(tag as u128);
        told.push(running.outbox.send(&Arc::new(event)));
    }
    assert_eq!(told, [true, false, true], "the second bus is over the only limit there is for it");
    assert_eq!(running.take(0, 1)[0].stored.event.data.label, "car");
    assert_eq!(running.take(1, 1)[0].stored.event.data.label, "bus");
    assert_eq!(running.outbox.lost(), 0, "what was wished for is no loss");
    running.end();
}

#[test]
fn a_wall_clock_that_jumps_by_years_loses_doubles_and_reorders_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (path, machine) = (folder.path().join("outbox.db"), Machine::default());
    let limits = || OutboxSettings { max_age: Duration::from_secs(3600), ..settings(Some(&path)) };
    let year = jiff::SignedDuration::from_hours(24 * 365);
    let base: jiff::Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
    let walls = [base, base + year, base - year, base];
    let mut ids = Vec::new();
    for wall in walls {
        // Restarted at every jump, too: nothing that is read back may be thought old.
        let running = Running::start(limits(), &[route("a")], &machine);
        let mut made = event("gate", "car", EventKind::End);
        (made.data.sampled_at, made.data.started_at) = (wall, wall);
        ids.push(made.id);
        running.outbox.send(&Arc::new(made));
        running.wait("stored", |report| report.sinks[0].pending == ids.len() as u64);
        machine.pass(Duration::from_secs(60));
        running.end();
    }
    let mut running = Running::start(limits(), &[route("a")], &machine);
    let got: Vec<_> = running.take(0, 4).iter().map(|d| d.stored.id()).collect();
    assert_eq!(got, ids);
    running.wait("age", |report| report.sinks[0].oldest_pending_seconds == Some(240.0));
    // What counts is time that passes: then the oldest go, and that is counted.
    machine.pass(Duration::from_secs(3600 - 150));
    running.wait("expired", |report| report.sinks[0].pending == 2);
    assert_eq!(running.outbox.lost(), 2);
    running.end();
}

#[test]
fn where_an_older_version_lost_its_clock_events_still_go_by_their_age_and_none_too_early() {
    let folder = tempfile::tempdir().unwrap();
    let (path, machine) = (folder.path().join("outbox.db"), Machine::default());
    let limits = || OutboxSettings { max_age: Duration::from_secs(3600), ..settings(Some(&path)) };
    let first = Running::start(limits(), &[route("a")], &machine);
    for label in ["car", "bus", "van"] {
        first.send(label, EventKind::End);
    }
    first.wait("stored", |report| report.sinks[0].pending == 3);
    first.end();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute("UPDATE events SET age = CASE seq WHEN 1 THEN 90000000 WHEN 2 THEN 0 ELSE 60000 END", [])
        .unwrap();
    connection.execute("DELETE FROM clock", []).unwrap();
    drop(connection);
    let running = Running::start(limits(), &[route("a")], &machine);
    // The clock begins when it is read first.
    running.wait("as young as the youngest", |report| report.sinks[0].oldest_pending_seconds == Some(0.0));
    machine.pass(Duration::from_secs(1800));
    running.wait("half an hour", |report| report.sinks[0].oldest_pending_seconds >= Some(1800.0));
    assert_eq!(running.outbox.status().report().sinks[0].pending, 3);
    machine.pass(Duration::from_secs(1801));
    running.wait("all have gone", |report| report.sinks[0].pending == 0);
    running.end();
}

#[test]
fn above_its_size_the_oldest_go_and_are_counted_and_the_newest_stay() {
    let folder = tempfile::tempdir().unwrap();
    let limits = OutboxSettings { max_size: 300_000, ..settings(Some(&folder.path().join("o.db"))) };
    let running = Running::start(limits, &[route("a")], &Machine::default());
    for _ in 0..2000 {
        running.send("car", EventKind::End);
    }
    let outbox = &running.outbox;
    running.wait("every event is kept or counted, within the size", |report| {
        let pending = report.sinks[0].pending;
        outbox.lost() > 0 && outbox.lost() + pending == 2000 && (1..=300_000).contains(&report.bytes)
    });
    let pending = outbox.status().report().sinks[0].pending;
    assert!(pending > 50, "no more than has to go: {pending}");
    let reader = OutboxReader::open(&folder.path().join("o.db")).unwrap();
    let kept = reader.latest(&Query::default(), 10_000).unwrap();
    assert_eq!((kept.len() as u64, kept.last().unwrap().seq), (pending, 2000));
    running.end();
}

#[test]
fn what_came_after_an_event_is_found_from_memory_and_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("o.db");
    let running = Running::start(settings(Some(&path)), &[route("a")], &Machine::default());
    let sent: Vec<_> = (0..300).map(|_| running.send("car", EventKind::End)).collect();
    running.wait("all are stored", |report| report.sinks[0].pending == 300);
    let status = running.outbox.status();
    let ids = |events: &[Arc<Event>]| events.iter().map(|event| event.id).collect::<Vec<_>>();
    let since = status.recent_since(299);
    assert_eq!((ids(&since.events), since.next), (ids(&sent[298..]), 301));
    let (all, later) = (status.recent_since(0), status.recent_since(301));
    assert_eq!((ids(&all.events), later.events.len(), later.next), (ids(&sent[300 - 256..]), 0, 301));

    let reader = OutboxReader::open(&path).unwrap();
    let after = |id: &str, query: &Query| {
        let (rows, left_out) = reader.after_event(query, id, 10).unwrap()?;
        Some((rows.into_iter().map(|row| row.id.parse().unwrap()).collect::<Vec<uuid::Uuid>>(), left_out))
    };
    let id = |n: usize| sent[n].id.to_string();
    assert_eq!(
        after(&id(5), &Query::default()),
        Some((ids(&sent[290..]), Some(284))),
        "the newest, and how many are left out"
    );
    assert_eq!(after(&id(295), &Query::default()), Some((ids(&sent[296..]), Some(0))));
    let other = Query { streams: vec!["door".into()], ..Query::default() };
    assert_eq!(after(&id(5), &other), Some((Vec::new(), Some(0))));
    assert_eq!(after("nobody", &Query::default()), None);
    running.end();
}

#[test]
fn tags_that_a_kill_left_open_end_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let (path, machine) = (folder.path().join("outbox.db"), Machine::default());
    let first = Running::start(settings(Some(&path)), &[route("a")], &machine);
    for (label, kind) in [("car", EventKind::Start), ("bus", EventKind::Start), ("bus", EventKind::End)] {
        first.send(label, kind);
    }
    first.end();
    for restart in 0..2 {
        let mut next = Running::start(settings(Some(&path)), &[route("a")], &machine);
        let taken = next.take(0, 4);
        let last = &taken[3].stored.event;
        assert_eq!((last.kind, last.data.label.as_str()), (EventKind::End, "car"), "restart {restart}");
        assert_eq!(last.data.reason, Some(crate::event::EndReason::Interrupted));
        assert!(next.receivers[0].states().iter().all(|state| !state.open));
        let recent = next.outbox.status().recent_since(0).events;
        assert_eq!(recent.last().map(|event| event.id), Some(last.id), "who follows what happens learns of it too");
        next.end();
    }
}

#[test]
fn events_of_a_damaged_file_are_delivered_once_there_is_room_to_carry_them_over_and_open_tags_end() {
    let folder = tempfile::tempdir().unwrap();
    let (path, machine) = (folder.path().join("outbox.db"), Machine::default());
    let first = Running::start(settings(Some(&path)), &[route("a")], &machine);
    for (label, kind) in [("car", EventKind::Start), ("bus", EventKind::Start), ("bus", EventKind::End)] {
        first.send(label, kind);
    }
    first.end();
    // The last page is of an index: all rows can be read.
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len() - 4096;
    bytes[end..].fill(0xA5);
    std::fs::write(&path, &bytes).unwrap();
    // Only at the start: the outbox's own thread finds room.
    damage::tests::IS_FULL.set(true);
    let mut next = Running::start(settings(Some(&path)), &[route("a")], &machine);
    let taken: Vec<_> =
        next.take(0, 4).iter().map(|d| (d.stored.event.data.label.clone(), d.stored.event.kind)).collect();
    let wanted =
        [("car", EventKind::Start), ("bus", EventKind::Start), ("bus", EventKind::End), ("car", EventKind::End)];
    assert_eq!(taken, wanted.map(|(label, kind)| (label.to_owned(), kind)));
    next.wait("counted", |report| report.sinks[0].pending == 4);
    next.end();
}

#[test]
fn a_sink_that_wants_no_more_leaves_dead_letters_and_gets_nothing_new() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let mut running = Running::start(settings(Some(&path)), &[route("a"), route("b")], &Machine::default());
    running.send("car", EventKind::End);
    running.take(0, 1);
    let receiver = running.receivers.remove(0);
    receiver.set_health(Health::Disabled { why: "410 Gone".into() });
    drop(receiver);
    running.wait("disabled", |report| report.sinks[0].dead == 1);
    running.send("bus", EventKind::End);
    running.take(0, 2);
    let reader = OutboxReader::open(&path).unwrap();
    let dead = Query { state: Some(State::Dead), sink: Some("a".into()), ..Query::default() };
    let rows = reader.latest(&dead, 10).unwrap();
    assert_eq!(rows.len(), 1, "the bus was not even kept for it");
    assert_eq!(rows[0].open[0].error.as_deref(), Some("410 Gone"));
    running.end();
}

#[test]
fn what_a_sink_had_taken_before_it_wanted_no_more_is_no_dead_letter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let mut running = Running::start(settings(Some(&path)), &[route("a")], &Machine::default());
    for label in ["car", "bus", "van"] {
        running.send(label, EventKind::End);
    }
    let taken = running.take(0, 3);
    let mut receiver = running.receivers.remove(0);
    // All within the time that settlements wait to be written.
    receiver.delivered(taken[0].position);
    receiver.delivered(taken[2].position);
    receiver.set_health(Health::Disabled { why: "410 Gone".into() });
    drop(receiver);
    running.wait("disabled", |report| report.sinks[0].dead > 0 && report.sinks[0].pending == 0);
    let dead =
        OutboxReader::open(&path).unwrap().latest(&Query { state: Some(State::Dead), ..Query::default() }, 10).unwrap();
    let ids: Vec<_> = dead.iter().map(|row| row.id.clone()).collect();
    assert_eq!(ids, [taken[1].stored.id().to_string()]);
    assert_eq!(running.outbox.status().report().sinks[0].dead, 1);
    running.end();
}

#[test]
fn a_replay_is_for_the_sink_that_has_the_name_now() {
    let folder = tempfile::tempdir().unwrap();
    let (path, machine) = (folder.path().join("outbox.db"), Machine::default());
    // Without a name of its own a sink is found again by where it goes: this one has moved.
    let at = |key: &str| Route { key: key.into(), ..route("webhook-0") };
    let first = Running::start(settings(Some(&path)), &[at("webhook http://old")], &machine);
    let sent = first.send("car", EventKind::End).id;
    first.end();
    let mut second = Running::start(settings(Some(&path)), &[at("webhook http://new")], &machine);
    assert_eq!(history_reader::replay(&path, &Query::default(), "webhook-0", false).unwrap(), 1);
    assert_eq!(second.take(0, 1)[0].stored.id(), sent);
    let sinks = OutboxReader::open(&path).unwrap().sinks().unwrap();
    assert_eq!(sinks, ["webhook-0 (before)", "webhook-0"]);
    second.end();
    // It moves back: what waited for it there is still its own.
    let mut third = Running::start(settings(Some(&path)), &[at("webhook http://old")], &machine);
    assert_eq!(third.take(0, 1)[0].stored.id(), sent);
    assert_eq!(OutboxReader::open(&path).unwrap().sinks().unwrap(), ["webhook-0", "webhook-0 (before)"]);
    third.end();
}

#[test]
fn a_replay_reaches_a_daemon_that_runs_and_doubles_nothing_that_waits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let mut running = Running::start(settings(Some(&path)), &[route("a")], &Machine::default());
    // Bytes are not characters.
    let sent: Vec<_> = ["größe", "bus", "van"].map(|label| running.send(label, EventKind::End).id).into();
    let taken = running.take(0, 3);
    let bytes: usize = taken.iter().map(|delivery| delivery.stored.body.len()).sum();
    running.receivers[0].delivered(taken[0].position);
    running.receivers[0].dead(taken[1].position, "400");
    running.wait("settled", |report| (report.sinks[0].pending, report.sinks[0].dead) == (1, 1));
    assert_eq!(history_reader::replay(&path, &Query::default(), "a", true).unwrap(), 1, "its dead letter");
    let again = running.take(0, 1);
    assert_eq!((again[0].stored.id(), again[0].attempts), (sent[1], 0));
    assert_eq!(
        history_reader::replay(&path, &Query::default(), "a", false).unwrap(),
        1,
        "the one that nobody waits for"
    );
    assert_eq!(running.take(0, 1)[0].stored.id(), sent[0]);
    let error = history_reader::replay(&path, &Query::default(), "nobody", false).unwrap_err();
    assert!(error.to_string().contains("knows no sink nobody"), "{error}");
    running.wait("numbers", |report| (report.sinks[0].pending, report.sinks[0].dead) == (3, 0));
    assert_eq!(running.outbox.status().report().sinks[0].pending_bytes, bytes as u64);
    running.end();
}

#[test]
fn in_memory_what_no_sink_took_by_the_end_is_lost_and_counted() {
    let running = Running::start(settings(None), &[route("a")], &Machine::default());
    for label in ["car", "bus"] {
        running.send(label, EventKind::End);
    }
    running.outbox.close();
    assert!(!running.outbox.send(&Arc::new(event("gate", "van", EventKind::End))), "it is closed");
    let Running { outbox, receivers, thread } = running;
    drop(receivers);
    thread.join().unwrap();
    assert_eq!(outbox.lost(), 3);
}

#[test]
fn every_event_is_stored_or_counted_while_the_disk_is_full_and_order_is_kept_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let (machine, routes) = (Machine::default(), [route("a")]);
    let store = EventStore::open(Some(&path), &routes, Box::new(machine)).unwrap();
    store.limit_pages(Some(8));
    let (sender, mut receiver) = delivery::link("a", States::default(), bounded(1).0);
    let shared = Arc::new(Shared {
        names: vec!["a".into()],
        router: Mutex::new(Router::new(&routes, Instant::now())),
        disabled: vec![AtomicBool::new(false)],
        storing: AtomicBool::new(true),
        lost: AtomicU64::new(0),
        all_gone: AtomicBool::new(false),
        closing: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        report: Mutex::default(),
        recent: RecentEvents::default(),
    });
    let (queue, events) = bounded(400);
    let (wake, woken) = bounded(1);
    let worker = Worker::new(
        store,
        settings(Some(&path)),
        routes.to_vec(),
        vec![sender],
        States::default(),
        Arc::clone(&shared),
        events,
        woken,
    );
    let room = worker.room_for_tests();
    let thread = std::thread::spawn(move || worker.run());
    let outbox = Outbox { queue: RwLock::new(Some(queue)), shared: Arc::clone(&shared) };
    let mut accepted = Vec::new();
    for n in 0..3000u32 {
        let event = Arc::new(event("gate", &format!("{n}"), EventKind::End));
        if outbox.send(&event) {
            accepted.push(event.id);
        } else if !shared.storing.load(Ordering::Relaxed) && accepted.len() > 500 {
            break;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    let status = outbox.status();
    eventually("it is told", || !status.report().storing);
    let said = status.report().error.unwrap();
    assert!(said.contains("full"), "{said}");
    assert!(outbox.lost() > 0, "the queue is bounded");
    room.store(true, Ordering::Relaxed);
    let mut got = Vec::new();
    eventually("everything that was accepted arrives", || {
        while let Some(d) = receiver.try_next() {
            got.push(d.stored.id());
            receiver.delivered(d.position);
        }
        got.len() >= accepted.len()
    });
    assert_eq!(got, accepted);
    assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), got.len());
    assert!(status.report().storing && status.report().error.is_none());
    drop(wake);
    outbox.close();
    drop(receiver);
    thread.join().unwrap();
}
