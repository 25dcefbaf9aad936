//! The outbox's file: what survives, what is thrown away, what a damaged one becomes.

mod full_disk;
mod known;

use std::time::Duration;

use super::*;
use crate::event::EventKind;
use crate::outbox::age::tests::Machine;
use crate::outbox::damage::{self, tests::IS_FULL};
use crate::outbox::delivery::published_record::{Change, Proof, Unheard};
use crate::outbox::delivery::tests::event;
use crate::outbox::route::Filter;

fn routes(names: &[&str]) -> Vec<Route> {
    let route = |name: &&str| Route {
        name: (*name).into(),
        key: (*name).into(),
        former_key: None,
        only: Filter::default(),
        rate: None,
    };
    names.iter().map(route).collect()
}

fn update(changes: &[Change]) -> RecordUpdate {
    RecordUpdate { changes: changes.to_vec(), ..RecordUpdate::default() }
}

fn queued(label: &str, to: &[u16]) -> Queued {
    Queued { event: Arc::new(event("gate", label, EventKind::Start)), to: to.to_vec() }
}

fn open(path: &Path, machine: &Machine) -> EventStore {
    EventStore::open(Some(path), &routes(&["a", "b"]), Box::new(machine.clone())).unwrap()
}

/// What `sink` still has to get: positions and labels.
fn waiting(store: &EventStore, sink: usize) -> Vec<(u64, String)> {
    let pending = store.pending(sink, 0, 100_000, |_| false).unwrap();
    pending.into_iter().map(|d| d.unwrap()).map(|d| (d.position, d.stored.event.data.label.clone())).collect()
}

fn labels(store: &EventStore, sink: usize) -> Vec<String> {
    waiting(store, sink).into_iter().map(|(_, label)| label).collect()
}

#[test]
fn an_event_waits_for_each_of_its_sinks_over_restarts_until_that_sink_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let (path, machine) = (folder.path().join("new/outbox.db"), Machine::default());
    let mut store = open(&path, &machine);
    let (appended, _) = store.commit(&[queued("car", &[0, 1]), queued("bus", &[1]), queued("van", &[])], &[]).unwrap();
    let seqs: Vec<u64> = appended.iter().map(|(stored, _)| stored.seq).collect();
    assert_eq!(seqs, [1, 2, 3]);
    let body = appended[0].0.body.clone();
    let at = appended[0].1[0].1;
    let (_, changes) = store.commit(&[], &[(0, at, DeliveryOutcome::Delivered)]).unwrap();
    assert_eq!(changes, [Settled { sink: 0, bytes: body.len() as u64, dead: false }]);
    // As a kill would leave it.
    drop(store);
    let mut store = open(&path, &machine);
    assert_eq!((labels(&store, 0), labels(&store, 1)), (vec![], vec!["car".to_owned(), "bus".into()]));
    let first = store.pending(1, 0, 1, |_| false).unwrap().remove(0).unwrap();
    assert_eq!((&first.stored.body, first.attempts), (&body, 0), "the same bytes");
    store.commit(&[], &[(1, first.position, DeliveryOutcome::Failed { attempts: 3, why: "500".into() })]).unwrap();
    drop(store);
    let mut store = open(&path, &machine);
    assert_eq!(store.pending(1, 0, 1, |_| false).unwrap().remove(0).unwrap().attempts, 3);
    let dead = DeliveryOutcome::Dead { why: "400".into() };
    let (_, changes) = store.commit(&[], &[(1, first.position, dead.clone()), (1, 999, dead)]).unwrap();
    assert_eq!(changes.len(), 1, "what is not there is not settled");
    let (b, bytes) = (store.count_pending().unwrap()[1], store.pending(1, 0, 9, |_| false).unwrap().len());
    assert_eq!((b.events, b.dead, bytes), (1, 1, 1));
}

#[test]
fn an_event_that_is_stored_already_is_not_stored_again_and_holds_no_other_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder.path().join("outbox.db"), &Machine::default());
    let once = queued("car", &[0]);
    let again = Queued { event: Arc::clone(&once.event), to: vec![0] };
    let (appended, _) = store.commit(&[once, again, queued("bus", &[0])], &[]).unwrap();
    assert_eq!((appended.len(), labels(&store, 0)), (2, vec!["car".to_owned(), "bus".into()]));
}

#[test]
fn an_order_of_routes_that_changes_mixes_nothing_up_and_a_sink_that_goes_keeps_its_events() {
    let folder = tempfile::tempdir().unwrap();
    let (path, machine) = (folder.path().join("outbox.db"), Machine::default());
    open(&path, &machine).commit(&[queued("car", &[0]), queued("bus", &[1])], &[]).unwrap();
    let store = EventStore::open(Some(&path), &routes(&["new", "b", "a"]), Box::new(machine.clone())).unwrap();
    assert_eq!(
        [labels(&store, 0), labels(&store, 1), labels(&store, 2)],
        [vec![], vec!["bus".to_owned()], vec!["car".to_owned()]]
    );
    drop(store);
    let store = EventStore::open(Some(&path), &routes(&["b"]), Box::new(machine)).unwrap();
    assert_eq!(store.orphans().unwrap(), [("a".to_owned(), 1)]);
}

#[test]
fn a_second_daemon_on_the_same_file_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let _first = open(&path, &Machine::default());
    let second = EventStore::open(Some(&path), &[], Box::new(Machine::default())).err().unwrap();
    assert!(matches!(second, OutboxError::InUse { .. }) && second.to_string().contains("outbox.path"), "{second}");
}

#[test]
fn what_is_too_old_goes_first_to_last_and_what_was_waited_for_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::default();
    let mut store = open(&folder.path().join("outbox.db"), &machine);
    let hour = Duration::from_secs(3600);
    for label in ["car", "bus", "van"] {
        store.commit(&[queued(label, &[1])], &[]).unwrap();
        machine.pass(hour);
    }
    assert_eq!(store.oldest_pending(1).unwrap(), Some(3 * 3_600_000));
    assert_eq!(store.expire(4 * 3_600_000).unwrap().events, 0);
    let removed = store.expire(2 * 3_600_000).unwrap();
    assert_eq!(removed.events, 1);
    assert!(matches!(removed.waited_for[..], [(Some(1), Pending { events: 1, dead: 0, .. })]), "{removed:?}");
    assert_eq!(labels(&store, 1), ["bus", "van"]);
}

#[test]
fn a_clock_that_was_lost_with_a_damaged_file_goes_on_from_the_latest_event() {
    let folder = tempfile::tempdir().unwrap();
    let (path, machine) = (folder.path().join("outbox.db"), Machine::default());
    let mut store = open(&path, &machine);
    store.commit(&[queued("old", &[0])], &[]).unwrap();
    machine.pass(Duration::from_secs(100));
    store.commit(&[queued("new", &[0])], &[]).unwrap();
    store.connection.execute("DELETE FROM clock", []).unwrap();
    drop(store);
    let mut store = open(&path, &machine);
    assert_eq!(store.age(), 100_000);
    assert_eq!(store.expire(50_000).unwrap().events, 1);
    assert_eq!(labels(&store, 0), ["new"]);
}

#[test]
fn room_is_made_of_what_every_sink_has_before_anything_that_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder.path().join("outbox.db"), &Machine::default());
    store.commit(&[queued("waited for", &[0]), queued("done", &[]), queued("done", &[])], &[]).unwrap();
    let removed = store.evict().unwrap();
    assert_eq!((removed.events, removed.waited_for.len()), (2, 0));
    let removed = store.evict().unwrap();
    assert_eq!((removed.events, removed.waited_for.len()), (1, 1));
    assert_eq!(store.evict().unwrap().events, 0);
}

#[test]
fn a_disk_that_is_full_changes_nothing_and_takes_events_again_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder.path().join("outbox.db"), &Machine::default());
    store.commit(&[queued("before", &[0])], &[]).unwrap();
    store.limit_pages(Some(3));
    let many: Vec<Queued> = (0..200).map(|_| queued("full", &[0, 1])).collect();
    let error = store.commit(&many, &[(0, 1, DeliveryOutcome::Delivered)]).err().unwrap();
    assert!(tables::is_full(&error) && !tables::is_damage(&error), "{error}");
    assert_eq!(labels(&store, 0), ["before"], "not even what was settled");
    store.limit_pages(None);
    store.commit(&many, &[(0, 1, DeliveryOutcome::Delivered)]).unwrap();
    assert_eq!((labels(&store, 0).len(), labels(&store, 1).len()), (200, 200));
}

/// Files of `folder` whose name holds `.damaged-`.
fn moved_aside(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.contains(".damaged-")).collect();
    names.sort();
    names
}

#[test]
fn a_file_that_is_no_outbox_is_moved_aside_and_a_new_one_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let rubbish = b"this is not a database ".repeat(300);
    std::fs::write(&path, &rubbish).unwrap();
    let mut store = open(&path, &Machine::default());
    store.commit(&[queued("car", &[0])], &[]).unwrap();
    let aside = moved_aside(folder.path());
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(std::fs::read(folder.path().join(&aside[0])).unwrap(), rubbish, "nothing is deleted");
    assert_eq!(labels(&store, 0), ["car"]);
}

#[test]
fn a_torn_page_costs_what_stood_on_it_and_the_rest_is_carried_over() {
    let folder = tempfile::tempdir().unwrap();
    let (path, machine) = (folder.path().join("outbox.db"), Machine::default());
    let mut store = open(&path, &machine);
    let many: Vec<Queued> = (0..400).map(|n| queued(&format!("{n:03}"), &[0])).collect();
    store.commit(&many, &[]).unwrap();
    store.close();
    // A page in the middle of the table of events: one that holds the body of event 200.
    let mut bytes = std::fs::read(&path).unwrap();
    let needle = b"\"label\":\"200\"";
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    let page = at / 4096 * 4096;
    bytes[page..page + 4096].fill(0xA5);
    std::fs::write(&path, &bytes).unwrap();
    let store = open(&path, &machine);
    assert_eq!(
        moved_aside(folder.path()).iter().filter(|name| !name.ends_with("-wal") && !name.ends_with("-shm")).count(),
        1
    );
    let kept = labels(&store, 0);
    assert!(kept.len() > 380 && kept.len() < 400, "{}", kept.len());
    assert!(kept.is_sorted() && kept.contains(&"000".to_owned()) && kept.contains(&"399".to_owned()));
    assert!(!kept.contains(&"200".to_owned()));
}

#[test]
fn numbers_of_what_was_lost_with_a_damaged_file_are_not_given_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let mut store = open(&path, &Machine::default());
    for label in ["car", "bus"] {
        store.commit(&[queued(label, &[0])], &[]).unwrap();
    }
    // Nothing at all can be read out of it.
    std::fs::write(&path, b"gone").unwrap();
    let corrupt = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    store.recover(&routes(&["a", "b"]), &rusqlite::Error::SqliteFailure(corrupt, None)).unwrap();
    let (appended, _) = store.commit(&[queued("van", &[0])], &[]).unwrap();
    assert!(appended[0].0.seq > 2 && appended[0].1[0].1 > 2, "{appended:?}");
}

/// The file of `path` torn where the event of the label 200 stands, of 400.
fn torn(path: &Path, machine: &Machine) {
    let mut store = open(path, machine);
    let many: Vec<Queued> = (0..400).map(|n| queued(&format!("{n:03}"), &[1])).collect();
    store.commit(&many, &[]).unwrap();
    store.close();
    let mut bytes = std::fs::read(path).unwrap();
    let needle = b"\"label\":\"200\"";
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at / 4096 * 4096..][..4096].fill(0xA5);
    std::fs::write(path, &bytes).unwrap();
}

#[test]
fn what_there_was_no_room_to_carry_over_comes_once_there_is_and_doubles_no_number() {
    let folder = tempfile::tempdir().unwrap();
    let (path, machine) = (folder.path().join("outbox.db"), Machine::default());
    torn(&path, &machine);
    machine.pass(Duration::from_secs(3600));
    IS_FULL.set(true);
    let mut store = EventStore::open(Some(&path), &routes(&["new", "b"]), Box::new(machine.clone())).unwrap();
    let identity = store.known("broker").unwrap().identity;
    let (appended, _) = store.commit(&[queued("car", &[1])], &[]).unwrap();
    assert_eq!((appended[0].0.seq, appended[0].1[0].1), (401, 401), "numbers go on");
    assert!(store.is_salvaging() && !store.salvage().unwrap());
    assert_eq!(labels(&store, 1), ["car"]);
    // As a kill would leave it.
    drop(store);
    let mut store = EventStore::open(Some(&path), &routes(&["new", "b"]), Box::new(machine)).unwrap();
    assert!(store.is_salvaging(), "it is not forgotten");
    // Before there is room, the new file is damaged too.
    let corrupt = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    store.recover(&routes(&["new", "b"]), &rusqlite::Error::SqliteFailure(corrupt, None)).unwrap();
    assert_eq!((labels(&store, 1), store.is_salvaging()), (vec![], true));
    IS_FULL.set(false);
    assert!(store.salvage().unwrap() && !store.is_salvaging() && !store.salvage().unwrap());
    let kept = labels(&store, 1);
    assert!(kept.len() > 380 && kept.is_sorted() && kept.last().is_some_and(|last| last == "car"), "{}", kept.len());
    assert!(kept.contains(&"000".to_owned()) && kept.contains(&"399".to_owned()));
    assert_eq!(store.known("broker").unwrap().identity, identity);
    let aside = moved_aside(folder.path());
    assert!(
        aside.iter().any(|name| !name.ends_with("-wal") && !name.ends_with("-shm")),
        "nothing is deleted: {aside:?}"
    );
}

#[test]
fn a_file_that_cannot_be_replaced_stays_open_and_a_kill_while_it_is_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (path, machine) = (folder.path().join("outbox.db"), Machine::default());
    let corrupt = || rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), None);
    let mut store = open(&path, &machine);
    store.commit(&[queued("car", &[1])], &[]).unwrap();
    // Nothing can be made there.
    let fresh = folder.path().join("outbox.db.vtagd-new");
    std::fs::create_dir_all(fresh.join("x")).unwrap();
    store.recover(&routes(&["a", "b"]), &corrupt()).unwrap_err();
    assert_eq!(
        (labels(&store, 1), store.is_lost(), moved_aside(folder.path())),
        (vec!["car".to_owned()], false, vec![])
    );
    std::fs::remove_dir_all(&fresh).unwrap();
    store.recover(&routes(&["a", "b"]), &corrupt()).unwrap();
    assert_eq!(labels(&store, 1), ["car"]);
    store.close();
    // The kill comes between the two renamings; before that one came while the new file was made.
    damage::prepare(&path).unwrap();
    let store = open(&path, &machine);
    assert!(!fresh.exists() && labels(&store, 1) == ["car"]);
    store.close();
    damage::prepare(&path).unwrap();
    let connection = rusqlite::Connection::open(&fresh).unwrap();
    let aside = damage::waiting(&connection).unwrap().unwrap();
    drop(connection);
    std::fs::rename(&path, folder.path().join(&aside)).unwrap();
    let store = open(&path, &machine);
    assert_eq!((labels(&store, 1), fresh.exists()), (vec!["car".to_owned()], false));
}

#[test]
fn freed_space_goes_back_hundreds_of_pages_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder.path().join("outbox.db"), &Machine::default());
    let many: Vec<Queued> = (0..8000).map(|_| queued("car", &[])).collect();
    store.commit(&many, &[]).unwrap();
    while store.forget_history().unwrap().events > 0 {}
    let (_, free) = store.size().unwrap();
    assert!(free > 1000 * 4096, "{free}");
    store.shrink().unwrap();
    assert_eq!(free - store.size().unwrap().1, 512 * 4096);
}

#[test]
fn a_tag_that_is_open_stays_known_for_longer_than_events_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::default();
    let mut store = open(&folder.path().join("outbox.db"), &machine);
    let ended = Queued { event: Arc::new(event("gate", "bus", EventKind::End)), to: Vec::new() };
    store.commit(&[queued("car", &[]), ended], &[]).unwrap();
    machine.pass(Duration::from_secs(3600));
    store.forget_states(60_000).unwrap();
    let left: Vec<_> = store.states().unwrap().iter().map(|stored| stored.event.data.label.clone()).collect();
    assert_eq!(left, ["car"]);
}

#[test]
fn an_older_schema_is_brought_up_step_by_step_and_a_newer_one_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    open(&path, &Machine::default()).commit(&[queued("car", &[0])], &[]).unwrap();
    // The version after this one adds a column.
    let mut later = STEPS.to_vec();
    later.push("ALTER TABLE events ADD COLUMN note TEXT NOT NULL DEFAULT 'old';");
    let Ok(Opened::Ready(connection)) = tables::open(Some(&path), &later) else { panic!("it is migrated") };
    let note: String =
        connection.query_row("SELECT note FROM events WHERE label = 'car'", [], |row| row.get(0)).unwrap();
    assert_eq!(note, "old");
    // A step that breaks leaves the version before it.
    let mut broken = later.clone();
    broken.push("CREATE TABLE half (x); CREATE TABLE half (x);");
    assert!(tables::open(Some(&path), &broken).is_err());
    assert!(matches!(tables::open(Some(&path), &later), Ok(Opened::Ready(_))));
    drop(connection);
    let error = EventStore::open(Some(&path), &[], Box::new(Machine::default())).err().unwrap();
    assert!(matches!(error, OutboxError::Newer { .. }) && error.exit_code() == 2);
    let known = STEPS.len();
    let told = format!("newer vtagd (schema {}, this one knows {known})", known + 1);
    assert!(error.to_string().contains(&told), "{error}");
    assert!(moved_aside(folder.path()).is_empty(), "a newer file is not a damaged one");
}

#[test]
fn each_region_has_a_state_of_its_own_and_those_of_a_file_without_regions_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    // A tag was open when the version before regions was killed.
    let Ok(Opened::Ready(old)) = tables::open(Some(&path), &STEPS[..2]) else { panic!("it is new") };
    let body = serde_json::to_string(&*queued("car", &[]).event).unwrap();
    let insert =
        "INSERT INTO states (stream, label_set, label, seq, age, body) VALUES ('gate', 'lot', 'car', 1, 0, ?1)";
    old.execute(insert, [&body]).unwrap();
    drop(old);
    let mut store = open(&path, &Machine::default());
    assert_eq!(store.states().unwrap().iter().map(|stored| &*stored.body).collect::<Vec<_>>(), [body]);
    let of_region = |region: &str| {
        let mut event = event("gate", "car", EventKind::Start);
        event.data.region = Some(region.to_owned());
        Queued { event: Arc::new(event), to: vec![0] }
    };
    store.commit(&[of_region("left"), of_region("right"), of_region("left")], &[]).unwrap();
    drop(store);
    let states = open(&path, &Machine::default()).states().unwrap();
    let regions: Vec<_> = states.iter().map(|stored| stored.event.data.region.as_deref()).collect();
    assert_eq!(regions, [None, Some("right"), Some("left")], "the latest event of each");
    let end = states[1].event.interrupted();
    assert_eq!((end.kind, end.data.region.as_deref()), (EventKind::End, Some("right")));
}

#[test]
fn a_place_that_cannot_be_written_is_named_with_the_remedy() {
    let error =
        EventStore::open(Some(Path::new("/proc/none/outbox.db")), &[], Box::new(Machine::default())).err().unwrap();
    let text = error.to_string();
    assert!(text.contains("/proc/none/outbox.db") && text.contains("outbox: { path: FILE }"), "{text}");
}

#[test]
fn an_outbox_is_the_same_for_ever_whatever_becomes_of_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, machine) = (folder.path().join("outbox.db"), Machine::default());
    let known = |store: &EventStore| store.known("broker").unwrap();
    let mut store = open(&path, &machine);
    let identity = known(&store).identity.unwrap();
    assert_eq!(identity::of_file(&path).unwrap(), Some(identity));
    let many: Vec<Queued> = (0..400).map(|n| queued(&format!("{n:03}"), &[0])).collect();
    store.commit(&many, &[]).unwrap();
    let left = |n: u8| Change { topic: format!("v/{n}"), proof: Some(Proof { digest: Some([n; 32]), before: None }) };
    let unheard = Some([("ha/a".to_owned(), [("label_car".to_owned(), "sensor".to_owned())].into())].into());
    let whole_update = RecordUpdate { unheard, ..update(&[left(1), left(2)]) };
    store.record("broker", &whole_update).unwrap();
    let whole = known(&store);
    // Found out while it runs, and nothing can be read.
    let corrupt = || rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), None);
    store.recover(&routes(&["a", "b"]), &corrupt()).unwrap();
    assert_eq!(known(&store), whole, "all of it could be read");
    std::fs::write(&path, b"gone").unwrap();
    store.recover(&routes(&["a", "b"]), &corrupt()).unwrap();
    assert_eq!(known(&store).identity, Some(identity));
    store.record("broker", &whole_update).unwrap();
    store.commit(&many, &[]).unwrap();
    store.close();
    // Torn where events stand: who it is and what it has published is carried over.
    let mut bytes = std::fs::read(&path).unwrap();
    let needle = b"\"label\":\"200\"";
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at / 4096 * 4096..][..4096].fill(0xA5);
    std::fs::write(&path, &bytes).unwrap();
    let store = open(&path, &machine);
    assert_eq!(known(&store), whole);
    drop(store);
    // Nothing of it is a database any more, and then it is not there at all.
    std::fs::write(&path, b"rubbish ".repeat(2000)).unwrap();
    assert_eq!(known(&open(&path, &machine)).identity, Some(identity));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(known(&open(&path, &machine)).identity, Some(identity));
    let other = open(&folder.path().join("other.db"), &machine);
    assert_ne!(known(&other).identity, Some(identity));
    assert_eq!(known(&EventStore::open(None, &[], Box::new(machine)).unwrap()).identity, None);
}

#[test]
fn an_outbox_of_the_first_schema_learns_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    assert!(matches!(tables::open(Some(&path), &STEPS[..1]), Ok(Opened::Ready(_))));
    assert_eq!(identity::of_file(&path).unwrap(), None, "no daemon of this version has been there");
    let store = open(&path, &Machine::default());
    assert_eq!(identity::of_file(&path).unwrap(), store.known("broker").unwrap().identity);
}
