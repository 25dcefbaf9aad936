//! What was stored arrives: after kills, full disks and damaged files, of the real daemon; and `vtagd events` beside it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::path::Path;

use crate::common::daemon::{Daemon, can_have_hosts, eventually, vtagd};
use crate::common::flood;
use serde_json::Value;
use vtagd::outbox::history_reader::{OutboxReader, Query};

const TO_FILE: &str = "  - { type: jsonl, name: file, path: events.jsonl }\n";

/// Number of the newest event that is stored; 0 while there is no outbox.
fn newest(outbox: &Path) -> u64 {
    OutboxReader::open(outbox).and_then(|reader| reader.newest()).unwrap_or(0)
}

/// Output of `vtagd events …`, which has to succeed.
fn events(folder: &Path, arguments: &[&str]) -> String {
    let outbox = folder.join("outbox.db");
    let output = vtagd(folder).arg("events").args(arguments).arg("--outbox").arg(outbox).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn text<'a>(event: &'a Value, pointer: &str) -> &'a str {
    event.pointer(pointer).and_then(Value::as_str).unwrap()
}

/// A value of `/metrics`, 0 if it is not there; all series of `name` that hold `with` together.
fn metric(daemon: &mut Daemon, name: &str, with: &str) -> f64 {
    let (_, text) = daemon.get("/metrics");
    let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(with));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn every_stored_event_arrives_in_order_though_the_daemon_is_killed_again_and_again() {
    const KILLS: usize = 8;
    const BETWEEN: u64 = 250;
    let folder = tempfile::tempdir().unwrap();
    let (outbox, file) = (folder.path().join("outbox.db"), folder.path().join("events.jsonl"));
    let config = flood::config(folder.path(), TO_FILE, "");
    for kill in 0..KILLS {
        let before = newest(&outbox);
        let mut daemon = Daemon::start(folder.path(), &config);
        // Not at the same moment each time: sometimes in the middle of its start, once sinks deliver what was left.
        let wanted = if kill % 3 == 2 { before + 1 } else { before + BETWEEN };
        daemon.wait_for_log("kept in the outbox");
        eventually("more events", || (newest(&outbox) >= wanted).then_some(()));
        daemon.signal(libc::SIGKILL);
        daemon.wait();
    }
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    let before = newest(&outbox);
    eventually("more events", || (newest(&outbox) >= before + BETWEEN).then_some(()));
    assert!(daemon.stop().success(), "nothing is lost");

    let stored: Vec<String> = events(folder.path(), &["export"]).lines().map(ToOwned::to_owned).collect();
    assert_eq!(stored.len() as u64, newest(&outbox), "numbers have no gaps: nothing was forgotten");
    // A kill may have torn a line; the event came again then.
    let text_of_file = fs::read_to_string(&file).unwrap();
    let (mut first, mut doubles, mut torn) = (Vec::<&str>::new(), 0, 0);
    let mut seen: HashMap<String, &str> = HashMap::new();
    for line in text_of_file.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            torn += 1;
            continue;
        };
        match seen.insert(text(&event, "/id").to_owned(), line) {
            Some(before) => {
                assert_eq!(before, line, "what comes again is the same");
                doubles += 1;
            }
            None => first.push(line),
        }
    }
    println!("{} stored, {} arrived, {doubles} twice, {torn} torn lines, {KILLS} kills", stored.len(), first.len());
    assert!(torn <= KILLS);
    assert_eq!(first, stored, "everything that was stored is there, in the order in which it was stored");

    // Every tag has a start and then an end; those that a kill left open ended at the next start.
    let mut tags: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut interrupted = 0;
    for line in &stored {
        let event: Value = serde_json::from_str(line).unwrap();
        interrupted += usize::from(event["data"]["reason"] == "interrupted");
        let kind = text(&event, "/type").rsplit('.').next().unwrap().to_owned();
        tags.entry(text(&event, "/data/tag_id").to_owned()).or_default().push(kind);
    }
    for (tag, kinds) in &tags {
        assert_eq!(
            (kinds.first().unwrap().as_str(), kinds.last().unwrap().as_str()),
            ("start", "end"),
            "{tag}: {kinds:?}"
        );
        assert_eq!(kinds.iter().filter(|kind| *kind != "update").count(), 2, "{tag}: {kinds:?}");
    }
    assert!(interrupted > 0);
}

#[test]
fn a_full_disk_stops_no_tagging_and_what_waited_is_stored_when_there_is_room() {
    if !can_have_hosts() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    // One sink never takes anything, so that nothing may be forgotten to make room.
    let sinks = format!("{TO_FILE}  - {{ type: jsonl, name: never, path: /dev/full }}\n");
    let config = flood::config(folder.path(), &sinks, "").replace("outbox.db", "disk/outbox.db");
    let mut daemon = Daemon::start_on_small_disk(folder.path(), &config, &disk, "12m");
    daemon.wait_ready();
    // The disk as the daemon sees it.
    let theirs = Path::new("/proc").join(daemon.pid().to_string()).join("root").join(disk.strip_prefix("/").unwrap());
    let outbox = theirs.join("outbox.db");
    eventually("events are stored", || outbox.exists().then_some(()));
    eventually("events are made", || (metric(&mut daemon, "vtagd_events_total", "") > 100.0).then_some(()));
    let filler = theirs.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[7; 64 << 10]).is_ok() {}
    daemon.wait_for_log("events cannot be stored");
    assert_eq!(metric(&mut daemon, "vtagd_outbox_storing", ""), 0.0);
    let (status, ready) = daemon.get("/readyz");
    assert!(status == 200 && ready.contains("events cannot be stored"), "frames flow, and it is told: {ready}");
    assert!(daemon.get("/api/v1/sinks").1.contains("\"storing\":false"));
    let made = metric(&mut daemon, "vtagd_events_total", "");
    eventually("tagging goes on", || (metric(&mut daemon, "vtagd_events_total", "") > made + 100.0).then_some(()));
    drop(file);
    fs::remove_file(&filler).unwrap();
    daemon.wait_for_log("events are stored again");
    eventually("it is told", || (metric(&mut daemon, "vtagd_outbox_storing", "") == 1.0).then_some(()));
    // Where the queue did not fill up, nothing is lost; where it did, all of it is counted.
    let (made, lost) = eventually("the queue is empty", || {
        let made = metric(&mut daemon, "vtagd_events_total", "");
        let lost = metric(&mut daemon, "vtagd_events_dropped_total", "sink=\"file\"");
        let told = metric(&mut daemon, "vtagd_events_delivered_total", "sink=\"file\"");
        // Events are made all the time: the numbers are read one after the other, and the last is the smallest at any time.
        (told + lost + 600.0 >= made).then_some((made, lost))
    });
    println!("{made} events made, {lost} lost and counted");
    let code = daemon.stop().code();
    assert_eq!(code, Some(i32::from(lost > 0.0)), "lost events are a failure, waiting ones are not");
    let arrived = fs::read_to_string(folder.path().join("events.jsonl")).unwrap();
    let ids: BTreeMap<String, u32> = arrived.lines().fold(BTreeMap::new(), |mut ids, line| {
        let event: Value = serde_json::from_str(line).unwrap();
        *ids.entry(text(&event, "/id").to_owned()).or_default() += 1;
        ids
    });
    assert!(ids.values().all(|count| *count == 1), "no kill, no doubles");
    assert!(ids.len() as f64 + lost >= made, "{} arrived, {made} were made, {lost} were lost", ids.len());
}

#[test]
fn a_daemon_starts_on_a_full_disk_and_stores_what_waited_once_there_is_room() {
    if !can_have_hosts() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let config = flood::config(folder.path(), TO_FILE, "").replace("outbox.db", "disk/outbox.db");
    let mut daemon = Daemon::start_on_small_disk(folder.path(), &config, &disk, "20k");
    daemon.wait_ready();
    daemon.wait_for_log("events cannot be stored");
    eventually("tagging goes on", || (metric(&mut daemon, "vtagd_events_total", "") > 100.0).then_some(()));
    assert!(daemon.get("/readyz").1.contains("events cannot be stored"));
    let file = folder.path().join("events.jsonl");
    assert_eq!(fs::metadata(&file).unwrap().len(), 0, "no sink sees what is not stored");
    // Into the daemon's own view of its disks.
    let mut inside = std::process::Command::new("nsenter");
    inside.args(["--target", &daemon.pid().to_string(), "--mount"]);
    // SAFETY: plain system call.
    if unsafe { libc::geteuid() } != 0 {
        inside.args(["--user", "--preserve-credentials"]);
    }
    let grown = inside.args(["mount", "-o", "remount,size=64m"]).arg(&disk).output().unwrap();
    assert!(grown.status.success(), "{}", String::from_utf8_lossy(&grown.stderr));
    daemon.wait_for_log("events are stored again");
    eventually("what waited arrives", || (fs::metadata(&file).unwrap().len() > 60_000).then_some(()));
    let lost = metric(&mut daemon, "vtagd_events_dropped_total", "sink=\"file\"");
    assert_eq!(daemon.stop().code(), Some(i32::from(lost > 0.0)));
    let text_of_file = fs::read_to_string(&file).unwrap();
    let first: Value = serde_json::from_str(text_of_file.lines().next().unwrap()).unwrap();
    assert_eq!(text(&first, "/type"), "dev.vtagd.tag.start", "from the first event on");
}

#[test]
fn a_damaged_outbox_is_moved_aside_and_said_and_the_daemon_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("outbox.db"), b"rubbish ".repeat(2000)).unwrap();
    let mut daemon = Daemon::start(folder.path(), &flood::config(folder.path(), TO_FILE, ""));
    daemon.wait_for_log("the outbox is damaged, a new one takes its place");
    daemon.wait_ready();
    assert!(metric(&mut daemon, "vtagd_outbox_recoveries_total", "partial") == 1.0);
    let file = folder.path().join("events.jsonl");
    eventually("events arrive", || (fs::metadata(&file).is_ok_and(|file| file.len() > 10_000)).then_some(()));
    daemon.stop_cleanly();
    let names = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let aside: Vec<String> = names.filter(|name| name.starts_with("outbox.db.damaged-")).collect();
    let [aside] = &aside[..] else { panic!("{aside:?}") };
    assert_eq!(fs::read(folder.path().join(aside)).unwrap(), b"rubbish ".repeat(2000), "never deleted");
}

#[test]
fn an_outbox_that_cannot_be_used_is_named_with_the_remedy_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let config = flood::config(folder.path(), TO_FILE, "");
    let mut daemon = Daemon::start(folder.path(), &config.replace("outbox.db", "/proc/nowhere/outbox.db"));
    assert_eq!(daemon.wait().code(), Some(1));
    let log = daemon.log();
    assert!(log.contains("/proc/nowhere/outbox.db") && log.contains("outbox: { path: FILE }"), "{log}");

    let mut first = Daemon::start(folder.path(), &config);
    first.wait_for_log("kept in the outbox");
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::copy(folder.path().join("flood.yaml"), other.join("flood.yaml")).unwrap();
    let mut second = Daemon::start(&other, &config.replace("outbox.db", "../outbox.db"));
    assert_eq!(second.wait().code(), Some(1));
    assert!(second.log().contains("in use by another vtagd"), "{}", second.log());
    assert!(first.stop().success());

    let connection = rusqlite::Connection::open(folder.path().join("outbox.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let mut newer = Daemon::start(folder.path(), &config);
    assert_eq!(newer.wait().code(), Some(2), "starting again does not mend it");
    assert!(newer.log().contains("newer vtagd (schema 99"), "{}", newer.log());
}

#[test]
fn events_are_listed_followed_exported_and_sent_again_while_the_daemon_runs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    let sinks = "  - { type: jsonl, name: file, path: events.jsonl, only: { labels: [cat-0, cat-1, coffee-7] } }\n";
    let mut daemon = Daemon::start(folder.path(), &flood::config(folder.path(), sinks, ""));
    daemon.wait_ready();
    eventually("events arrive", || (fs::metadata(&file).is_ok_and(|file| file.len() > 2000)).then_some(()));

    let out = folder.path().join("followed");
    let mut follower = vtagd(folder.path())
        .args(["events", "follow", "--json", "--label", "cat-1", "--outbox"])
        .arg(folder.path().join("outbox.db"))
        .stdout(fs::File::create(&out).unwrap())
        .spawn()
        .unwrap();
    let followed = eventually("somebody who follows sees new events", || {
        let text = fs::read_to_string(&out).unwrap();
        (text.lines().count() >= 3 && text.ends_with('\n')).then_some(text)
    });
    // SAFETY: plain system call on a process we started and have not waited for.
    assert_eq!(unsafe { libc::kill(i32::try_from(follower.id()).unwrap(), libc::SIGINT) }, 0);
    assert!(eventually("it ends", || follower.try_wait().unwrap()).success());
    let followed: Vec<Value> = followed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(followed.iter().all(|row| row["event"]["data"]["label"] == "cat-1"));
    assert!(followed.is_sorted_by_key(|row| row["seq"].as_u64().unwrap()));

    let listed = events(folder.path(), &["list", "-n", "5", "--label", "cat-0"]);
    assert!(listed.lines().count() <= 5 && listed.lines().all(|line| line.contains("cat-0")), "{listed}");
    let csv = events(folder.path(), &["export", "--format", "csv", "--label", "coffee-7"]);
    assert!(csv.starts_with("id,type,time,") && csv.lines().count() > 1, "{csv}");
    assert!(events(folder.path(), &["sinks"]).contains("file"));

    // One that the filter kept from the file, and one that was delivered already.
    let export = |label: &str| -> Value {
        let text = events(folder.path(), &["export", "--label", label]);
        serde_json::from_str(text.lines().next().unwrap()).unwrap()
    };
    let (kept_from_it, delivered) = (export("rocket-3"), export("cat-0"));
    for event in [&kept_from_it, &delivered] {
        let said = events(folder.path(), &["replay", "--sink", "file", "--id", text(event, "/id")]);
        assert_eq!(said.trim(), "1 events wait for file again");
    }
    let count = |event: &Value| {
        fs::read_to_string(&file).unwrap().matches(&format!("\"id\":\"{}\"", text(event, "/id"))).count()
    };
    eventually("the daemon sends them", || ((count(&kept_from_it), count(&delivered)) == (1, 2)).then_some(()));
    assert!(daemon.stop().success());

    let nothing = vtagd(folder.path()).args(["events", "replay", "--sink", "file", "--outbox", "x"]).output().unwrap();
    assert_eq!(nothing.status.code(), Some(2), "it has to be said which");
    let absent = vtagd(folder.path()).args(["events", "list", "--outbox", "nowhere.db"]).output().unwrap();
    let said = String::from_utf8_lossy(&absent.stderr);
    assert!(absent.status.code() == Some(2) && said.contains("there is no outbox nowhere.db"), "{said}");
    let query = Query { labels: vec!["cat-1".into()], ..Query::default() };
    let reader = OutboxReader::open(&folder.path().join("outbox.db")).unwrap();
    assert!(!reader.latest(&query, 1).unwrap().is_empty(), "history stays after everything was delivered");
}
