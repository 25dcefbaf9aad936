//! A wall clock that is set a year ahead and a year back while events flow: nothing is lost, doubled under another id, reordered or too old.
//!
//! The real daemon runs under Debian's libfaketime, which answers every question for the date (`CLOCK_REALTIME`, `time`, `gettimeofday`)
//! with a step that a file tells, for every thread at once, GStreamer's and SQLite's too. The monotonic clock is left as it is, as the
//! kernel leaves it when somebody sets the date. The machine's own clock is not touched.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::arrived::{drain_by, id, lanes};
use crate::common::daemon::{Daemon, eventually, stored};
use crate::common::flicker;
use crate::common::hook::{Hook, Reply};
use serde_json::Value;

const YEAR: i64 = 365 * 24 * 3600;

/// Debian's place for it, whatever the architecture; `None`, with a message, where it is not installed.
fn library() -> Option<PathBuf> {
    let found = std::fs::read_dir("/usr/lib").unwrap().filter_map(Result::ok);
    let found = found.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: no libfaketime here; Debian has it as faketime");
    }
    found
}

/// The clock of the daemon.
struct Clock {
    library: String,
    file: PathBuf,
}

impl Clock {
    /// Steps it to `years` from now; it goes on from there.
    fn set(&self, years: i64) {
        // By renaming: nobody reads half of it.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{years:+}y\n")).unwrap();
        std::fs::rename(&new, &self.file).unwrap();
    }

    fn start(&self, folder: &Path, config: &str) -> Daemon {
        let env = [
            ("LD_PRELOAD", self.library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.to_str().unwrap()),
            ("FAKETIME_CACHE_DURATION", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
        ];
        Daemon::start_with_env(folder, config, &env)
    }
}

/// By how many years an event's date is from now, or how far it is from any.
fn years(event: &Value) -> i64 {
    let time: jiff::Timestamp = event["time"].as_str().unwrap().parse().unwrap();
    let away = time.as_second() - jiff::Timestamp::now().as_second();
    (away + away.signum() * YEAR / 2) / YEAR
}

#[test]
fn a_date_that_is_set_by_years_loses_doubles_and_reorders_nothing() {
    let Some(library) = library() else { return };
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock { library: library.to_str().unwrap().to_owned(), file: folder.path().join("clock") };
    clock.set(0);
    // Now and then an event is put off once, so that retries are under way; for a while, all of them are.
    let away = Arc::new(AtomicBool::new(false));
    let (closed, seen) = (Arc::clone(&away), Mutex::new(HashSet::new()));
    let hook = Hook::start(move |_, request| {
        let mut seen = seen.lock().unwrap();
        let new = seen.insert(request.header("webhook-id").unwrap().to_owned());
        if closed.load(Ordering::SeqCst) || new && seen.len() % 100 == 99 {
            Reply::Status(503, "retry-after: 1\r\n")
        } else {
            Reply::Status(204, "")
        }
    });
    let sinks = format!(
        "  - {{ type: webhook, name: hook, url: \"{}\", concurrency: 16 }}\n  - {{ type: jsonl, name: file, path: events.jsonl }}\n",
        hook.url()
    );
    // What is a year old would be too old by far; and not more than the hook can follow.
    let mut config = flicker::config(folder.path(), 1, 1).replace("pace: fast", "pace: live");
    config.push_str(&format!("outbox: {{ path: outbox.db, max_age: 1d }}\nsinks:\n{sinks}"));
    let mut daemon = clock.start(folder.path(), &config);
    daemon.wait_ready();
    for (round, step) in [1, -1, 0, -1, 1].into_iter().enumerate() {
        let before = hook.count();
        eventually("events are delivered", || (hook.count() > before + 40).then_some(()));
        // What waits for the hook was stored before the step, what comes is stored after it.
        away.store(true, Ordering::SeqCst);
        let before = stored(folder.path()).len();
        eventually("some wait", || (stored(folder.path()).len() > before + 40).then_some(()));
        clock.set(step);
        eventually("events bear the new date", || {
            stored(folder.path()).last().filter(|event| years(event) == step).map(drop)
        });
        if round == 2 {
            // The next life begins with another date than this one ended with.
            daemon.kill();
            daemon = clock.start(folder.path(), &config);
            daemon.wait_ready();
        }
        away.store(false, Ordering::SeqCst);
    }
    let metrics = daemon.get("/metrics").1;
    let dropped: Vec<&str> = metrics.lines().filter(|line| line.starts_with("vtagd_events_dropped_total")).collect();
    assert!(dropped.len() > 5 && dropped.iter().all(|line| line.ends_with(" 0")), "{dropped:?}");
    daemon.stop_cleanly();
    let dead = drain_by(clock.start(folder.path(), &config.replace("loop: true", "enabled: false")));
    assert_eq!(dead, 0);

    let stored = stored(folder.path());
    let mut dates: BTreeMap<i64, usize> = BTreeMap::new();
    stored.iter().for_each(|event| *dates.entry(years(event)).or_default() += 1);
    let by_id: HashMap<String, &Value> = stored.iter().map(|event| (id(event), event)).collect();
    assert_eq!(by_id.len(), stored.len(), "each has an id of its own");
    let requests: Vec<Value> = hook.requests().iter().map(crate::common::hook::Request::json).collect();
    let file = std::fs::read_to_string(folder.path().join("events.jsonl")).unwrap();
    let lines: Vec<Value> = file.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    println!(
        "{} stored, by years from now {dates:?}; {} requests, {} lines",
        stored.len(),
        requests.len(),
        lines.len()
    );
    for arrived in [&requests, &lines] {
        assert!(arrived.iter().all(|event| by_id.get(&id(event)) == Some(&event)), "what arrives is what was stored");
        assert!(lanes(arrived) == lanes(&stored), "all of it, in order within each stream and label");
    }
    assert!(dates.keys().eq(&[-1, 0, 1]), "{dates:?}");
}
