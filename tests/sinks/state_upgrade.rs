//! The state of the version before (0.1, with a schema of the outbox before this one's): outbox, pictures and embeddings of label texts are taken
//! over whole, and a version that finds a newer one's says what to do.

use std::fs;
use std::path::Path;

use crate::common::broker::{Broker, Consumer};
use crate::common::daemon::{Daemon, eventually, root, stored, vtagd};
use serde_json::Value;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let place = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &place);
        } else {
            fs::write(place, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_state_of_the_version_before_is_taken_over_whole_and_one_of_a_newer_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    copy(&root().join("tests/data/state-0.1"), folder.path());
    let broker = Broker::start(folder.path());
    let consumer = Consumer::start(broker.port, &["vtagd/#", "homeassistant/#"]);
    // The broker has another port today.
    let connection = rusqlite::Connection::open(path("outbox.db")).unwrap();
    let place = format!("mqtt://127.0.0.1:{} vtagd", broker.port);
    assert!(connection.execute("UPDATE retained SET place = ?1", [place]).unwrap() > 10);
    let version: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    let mut select = connection.prepare("SELECT id FROM events ORDER BY seq").unwrap();
    let before: Vec<String> = select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    drop(select);
    drop(connection);
    assert_eq!((version, before.len()), (4, 15));
    fs::write(
        path("things.yaml"),
        "set: things\nlabels:\n  - { name: cat, prompts: [a cat] }\n  - { name: \"Kaffee, heiß\", prompts: [a cup of coffee] }\n  \
         - { name: status, prompts: [a rocket] }\n",
    )
    .unwrap();
    // What waits belongs to the name of the sink: here to a file.
    let config = format!(
        "instance: edge-1\nsampling: {{ interval: 1s, decode: all }}\nlabels: [things.yaml]\n\
         streams:\n  - {{ id: gate, url: \"file://{}/demo/clip.mp4\", pace: live, loop: true }}\n\
         outbox: {{ path: outbox.db, max_age: 3650d }}\nsnapshots: {{ path: pictures }}\napi: {{ listen: 127.0.0.1:0 }}\n\
         sinks:\n  - {{ type: jsonl, name: file, path: events.jsonl }}\n  - {{ type: jsonl, name: hook, path: hook.jsonl }}\n  \
         - {{ type: mqtt, name: broker, url: \"mqtt://127.0.0.1:{}\", home_assistant: true }}\n",
        root().display(),
        broker.port
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    let waited =
        eventually("what waited arrives", || Some(lines(&path("hook.jsonl"))).filter(|all| all.len() > before.len()));
    let ids: Vec<&str> = waited.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids[..before.len()], before, "in the order in which it was stored");
    let end = &waited[before.len()];
    assert_eq!((&end["data"]["reason"], &end["data"]["label"]), (&"interrupted".into(), &"Kaffee, heiß".into()));
    let file =
        eventually("the other sink goes on", || Some(lines(&path("events.jsonl"))).filter(|all| !all.is_empty()));
    assert_eq!(file[0]["id"], end["id"], "what it had is not sent again");
    let listed = daemon.get("/api/v1/snapshots").1;
    for picture in fs::read_dir(root().join("tests/data/state-0.1/pictures")).unwrap() {
        let name = picture.unwrap().file_name().into_string().unwrap();
        assert!(listed.contains(&name), "{name} is not in {listed}");
    }
    // Labels are where they were.
    for level in ["cat", "Kaffee__hei_", "things_status"] {
        eventually(level, || consumer.last(&format!("vtagd/gate/{level}")));
    }
    let log = daemon.log();
    // Embeddings belong to a model; this is the one that it was then, unless `make setup` has made another.
    if log.contains("fingerprint=d76326954fce") {
        assert!(log.contains("label texts ready cached=3 embedded=0"), "{log}");
    }
    daemon.stop_cleanly();
    let all = stored(folder.path());
    let kept: Vec<&str> = all.iter().map(|event| event["id"].as_str().unwrap()).take(before.len()).collect();
    assert_eq!(kept, before, "history stays");

    // As the version before sees it, which would go back.
    let connection = rusqlite::Connection::open(path("outbox.db")).unwrap();
    let now: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert!(now > version);
    connection.pragma_update(None, "user_version", now + 1).unwrap();
    drop(connection);
    let mut older = Daemon::start(folder.path(), &config);
    assert_eq!(older.wait().code(), Some(2));
    let log = older.log();
    for told in ["was written by a newer vtagd", "start that version", "`outbox.path`", "vtagd events export"] {
        assert!(log.contains(told), "{told}: {log}");
    }
}

#[test]
fn what_a_newer_version_has_left_is_kept_as_it_is_and_whoever_would_change_it_hears_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let path = |name: &str| here.join(name);
    fs::create_dir_all(path("state/calibrations")).unwrap();
    fs::create_dir_all(path("state/examples")).unwrap();
    let newer = [
        ("state/calibrations/things.calibration.json", "{\"version\": 99, \"set\": \"things\", \"curves\": []}"),
        ("state/marks.json", "{\"version\": 99, \"timelines\": {}}"),
        ("state/verdicts.json", "{\"version\": 99, \"tags\": []}"),
        ("state/examples/things.examples.json", "{\"version\": 99, \"set\": \"things\", \"pictures\": []}"),
    ];
    newer.iter().for_each(|(name, text)| fs::write(path(name), text).unwrap());
    fs::write(path("things.yaml"), "set: things\nbackground: [a wall]\nlabels: [{ name: cat }]\n").unwrap();
    let config = format!(
        "labels: [things.yaml]\nstreams: [{{ id: gate, url: \"file://{}\" }}]\n\
         sinks: [{{ type: jsonl, path: \"-\" }}]\noutbox: {{ path: outbox.db }}\nstate: {{ path: state }}\napi: {{ listen: off }}\n",
        root().join("demo/clip.mp4").display()
    );
    fs::write(path("vtagd.yaml"), &config).unwrap();
    let said = |arguments: &[&str]| {
        let output = vtagd(here).args(arguments).arg("-c").arg(path("vtagd.yaml")).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, checked) = said(&["check"]);
    for part in [
        "things.calibration.json, is of a newer vtagd (version 99)",
        "things.examples.json is of a newer vtagd (version 99)",
        "`cat` waits on stream gate",
        "start that version, or move the file away",
    ] {
        assert!(code == Some(0) && checked.contains(part), "{part}: {checked}");
    }
    let on = ["--stream", "gate", "--set", "things", "--label", "cat", "--seen", "1", "2"];
    let changes: [&[&str]; 3] = [
        &[&["marks", "add"], &on[..]].concat(),
        &["labels", "confirm", "things", "--stream", "gate"],
        &["labels", "confirm", "things", "--discard"],
    ];
    for change in changes {
        let (code, refused) = said(change);
        assert!(
            code == Some(1) && refused.contains("(version 99) and is kept as it is; start that version"),
            "{refused}"
        );
    }
    // An outbox that nobody of this version can read: it ends before anything is started, and the file is what it was.
    let connection = rusqlite::Connection::open(path("outbox.db")).unwrap();
    connection
        .execute_batch("CREATE TABLE parcels (x); INSERT INTO parcels VALUES (1); PRAGMA user_version = 99;")
        .unwrap();
    drop(connection);
    let before = fs::read(path("outbox.db")).unwrap();
    let mut daemon = Daemon::start(here, &config);
    assert_eq!(daemon.wait().code(), Some(2));
    let log = daemon.log();
    assert!(log.contains("was written by a newer vtagd (schema 99") && log.contains("start that version"), "{log}");
    assert!(fs::read(path("outbox.db")).unwrap() == before, "not a byte of it has changed");
    for (name, text) in newer {
        assert_eq!(fs::read_to_string(path(name)).unwrap(), text, "{name}");
    }
    let mut aside = fs::read_dir(here).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(aside.all(|name| !name.contains("damaged")));
}
