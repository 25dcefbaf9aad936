//! SIGHUP on the real daemon: streams come and go and labels change while a stream that stays never pauses.

use std::path::Path;

use crate::common::broker::{Broker, Consumer};
use crate::common::camera::{Auth, Camera, Codec, Content, Mount};
use crate::common::daemon::{Daemon, eventually, root, stored};
use serde_json::Value;

const LABELS: &str =
    "set: things\nbackground: [an empty room]\nlabels:\n  - name: cat\n    prompts: [a cat]\n  - name: rocket\n";

fn write_config(folder: &Path, streams: &str, more: &str) -> String {
    let config = format!(
        "sampling: {{ interval: 200ms }}\nstreams:\n{streams}labels: [things.yaml]\n\
         events: {{ enter: 0.5, exit: 0.3, after: 0s, after_exit: 1s, cooldown: 0s }}\n\
         sinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: 127.0.0.1:0 }}\n{more}"
    );
    std::fs::write(folder.join("vtagd.yaml"), &config).unwrap();
    config
}

fn cameras() -> Camera {
    let mount = |path: &str| Mount {
        path: path.into(),
        content: Content::Looped(root().join("demo/clip.mp4"), 20),
        codec: Codec::H264,
    };
    Camera::with_mounts(vec![mount("/one"), mount("/two")], None)
}

fn stream(id: &str, camera: &Camera, path: &str, more: &str) -> String {
    format!("  - {{ id: {id}, url: \"{}\"{more} }}\n", camera.url_of(path))
}

fn rows(daemon: &mut Daemon) -> Vec<Value> {
    let (_, body) = daemon.get("/api/v1/streams");
    serde_json::from_str::<Value>(&body).unwrap()["streams"].as_array().unwrap().clone()
}

fn row(daemon: &mut Daemon, id: &str) -> Option<Value> {
    rows(daemon).into_iter().find(|row| row["id"] == id)
}

fn inferred(daemon: &mut Daemon, id: &str) -> u64 {
    row(daemon, id).and_then(|row| row["accounting"]["inferred"].as_u64()).unwrap_or(0)
}

/// How often the daemon has said `text`.
fn said(daemon: &Daemon, text: &str) -> usize {
    daemon.log().matches(text).count()
}

fn reload(daemon: &mut Daemon, answer: &str) {
    let before = said(daemon, answer);
    daemon.signal(libc::SIGHUP);
    eventually(answer, || (said(daemon, answer) > before).then_some(()));
}

#[test]
fn streams_join_pause_and_leave_without_touching_the_one_that_stays() {
    let folder = tempfile::tempdir().unwrap();
    let camera = cameras();
    std::fs::write(folder.path().join("things.yaml"), LABELS).unwrap();
    let (stays, comes) = (stream("stays", &camera, "/one", ""), stream("comes", &camera, "/two", ""));
    let config = write_config(folder.path(), &stays, "");
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    eventually("the first stream is looked at", || (inferred(&mut daemon, "stays") > 3).then_some(()));

    write_config(folder.path(), &format!("{stays}{comes}"), "");
    reload(&mut daemon, "the new configuration runs");
    eventually("the second stream is looked at", || (inferred(&mut daemon, "comes") > 3).then_some(()));

    let paused = stream("comes", &camera, "/two", ", enabled: false");
    write_config(folder.path(), &format!("{stays}{paused}"), "");
    reload(&mut daemon, "the new configuration runs");
    assert_eq!(row(&mut daemon, "comes").unwrap()["state"], "disabled");
    eventually("what was under way is summed up", || {
        let log = daemon.log();
        let line = log.lines().find(|l| l.contains("frames accounted") && l.contains("stream=comes"))?.to_owned();
        assert!(line.contains("unaccounted=0"), "{line}");
        Some(())
    });
    let open = |daemon: &Daemon| {
        let of_comes = daemon.events().into_iter().filter(|e| e["data"]["stream"] == "comes");
        of_comes.fold(0_i32, |open, e| {
            open + if e["type"] == "dev.vtagd.tag.start" { 1 } else { 0 }
                - if e["type"] == "dev.vtagd.tag.end" { 1 } else { 0 }
        })
    };
    eventually("tags of a paused stream are closed", || (open(&daemon) == 0).then_some(()));

    write_config(folder.path(), &stays, "");
    reload(&mut daemon, "the new configuration runs");
    assert!(row(&mut daemon, "comes").is_none());

    let row = row(&mut daemon, "stays").unwrap();
    assert_eq!((row["reconnects"].as_u64(), row["state"].as_str()), (Some(0), Some("up")), "{row}");
    assert_eq!(said(&daemon, "frames are coming stream=stays") + said(&daemon, "stream=stays frames are coming"), 1);
    assert!(daemon.stop().success());
    assert!(daemon.log().lines().filter(|l| l.contains("frames accounted")).all(|l| l.contains("unaccounted=0")));
}

#[test]
fn labels_change_between_two_batches_and_no_frame_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let camera = cameras();
    std::fs::write(folder.path().join("things.yaml"), LABELS).unwrap();
    let config = write_config(folder.path(), &stream("gate", &camera, "/one", ""), "");
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    eventually("a cat or a rocket", || (!daemon.events().is_empty()).then_some(()));

    std::fs::write(
        folder.path().join("things.yaml"),
        format!("{LABELS}  - name: coffee\n    prompts: [a cup of coffee]\n"),
    )
    .unwrap();
    reload(&mut daemon, "the new configuration runs");
    eventually("the new label is told", || {
        daemon.events().iter().any(|e| e["data"]["label"] == "coffee").then_some(())
    });
    let (_, labels) = daemon.get("/api/v1/labels");
    assert!(labels.contains("coffee"), "{labels}");

    let row = row(&mut daemon, "gate").unwrap();
    assert_eq!((row["reconnects"].as_u64(), row["state"].as_str()), (Some(0), Some("up")), "{row}");
    assert!(daemon.stop().success());
    let log = daemon.log();
    let line = log.lines().find(|l| l.contains("frames accounted")).unwrap();
    assert!(line.contains("unaccounted=0") && !line.contains("inference"), "{line}");
}

#[test]
fn a_broken_file_leaves_the_old_configuration_running_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let camera = cameras();
    std::fs::write(folder.path().join("things.yaml"), LABELS).unwrap();
    let gate = stream("gate", &camera, "/one", "");
    let config = write_config(folder.path(), &gate, "");
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();

    std::fs::write(folder.path().join("vtagd.yaml"), "streams: [{ id: gate, ulr: x }]\n").unwrap();
    reload(&mut daemon, "the old configuration stays");
    assert!(daemon.log().contains("ulr"), "{}", daemon.log());

    write_config(folder.path(), &gate, "");
    std::fs::write(folder.path().join("things.yaml"), "set: things\nlabels: [{ nmae: cat }]\n").unwrap();
    reload(&mut daemon, "the old configuration stays");
    assert!(daemon.log().contains("nmae"), "{}", daemon.log());

    // A key that only a restart can change is named, the rest takes hold.
    std::fs::write(folder.path().join("things.yaml"), LABELS).unwrap();
    write_config(folder.path(), &gate, "instance: elsewhere\n");
    reload(&mut daemon, "the new configuration runs");
    assert!(daemon.log().contains("keys=\"instance\""), "{}", daemon.log());

    let before = inferred(&mut daemon, "gate");
    eventually("frames go on", || (inferred(&mut daemon, "gate") > before).then_some(()));
    let (_, metrics) = daemon.get("/metrics");
    assert!(metrics.contains("vtagd_config_reloads_total{result=\"refused\"} 2"), "{metrics}");
    assert!(metrics.contains("vtagd_config_reloads_total{result=\"applied\"} 1"), "{metrics}");
    assert!(daemon.stop().success());
}

#[test]
fn a_right_password_after_a_reload_lets_the_camera_in_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let auth = Auth { user: "viewer".into(), password: "right-secret-51c".into(), digest: true };
    let locked = Camera::start(Content::File(root().join("demo/clip.mp4")), Codec::H264, Some(auth));
    std::fs::write(folder.path().join("things.yaml"), LABELS).unwrap();
    std::fs::write(folder.path().join("password"), "wrong-secret-51c\n").unwrap();
    let streams = stream("locked", &locked, "/stream", ", username: viewer, password: { file: password }");
    let config = write_config(folder.path(), &streams, "");
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    eventually("the password is refused", || (row(&mut daemon, "locked").unwrap()["state"] == "down").then_some(()));
    std::fs::write(folder.path().join("password"), "right-secret-51c\n").unwrap();
    reload(&mut daemon, "the new configuration runs");
    // The slow wait for refused passwords is a minute; this must not wait for it.
    eventually("frames come", || (inferred(&mut daemon, "locked") > 0).then_some(()));
    assert!(daemon.stop().success());
    assert!(!daemon.log().contains("secret-51c"));
}

/// Reloads, and waits until that is what runs; the log tells it once in ten seconds only.
fn apply(daemon: &mut Daemon) {
    let applied = |daemon: &mut Daemon| {
        let (_, metrics) = daemon.get("/metrics");
        let line = metrics.lines().find(|line| line.starts_with("vtagd_config_reloads_total{result=\"applied\"}"));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    };
    let before: u64 = applied(daemon);
    daemon.signal(libc::SIGHUP);
    eventually("the new configuration runs", || (applied(daemon) > before).then_some(()));
}

/// What the events of one stream and label do, in order: which tag starts and which ends, without the updates.
fn course(events: &[Value], label: &str) -> Vec<(bool, String)> {
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let of_label = events.iter().filter(|e| e["data"]["label"] == label && e["type"] != "dev.vtagd.tag.update");
    of_label.map(|e| (e["type"] == "dev.vtagd.tag.start", word(&e["data"]["tag_id"]))).collect()
}

/// Tags start and end by turns, each before the next; the one that is open at last.
fn open_at_last(events: &[Value], label: &str) -> Option<String> {
    let mut open: Option<String> = None;
    for (start, tag) in course(events, label) {
        if start {
            assert_eq!(open, None, "{label}: a tag starts before the one before it has ended: {events:#?}");
            open = Some(tag);
        } else {
            assert_eq!(open.take(), Some(tag), "{label}: another tag ends than the one that is open: {events:#?}");
        }
    }
    open
}

#[test]
fn a_stream_that_is_changed_ends_its_tags_before_it_starts_them_anew_and_a_kill_leaves_none_open() {
    const CHANGES: usize = 3;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("things.yaml"), LABELS).unwrap();
    let broker = Broker::start(folder.path());
    let consumer = Consumer::start(broker.port, &["vtagd/gate/#"]);
    let camera = cameras();
    // Every score is enough, and none is too little: a tag of each label is always open.
    let config = |mode: &str| {
        format!(
            "sampling: {{ interval: 50ms }}\nlabels: [things.yaml]\nstreams:\n\
             \x20 - {{ id: gate, url: \"file://{}\", loop: true, view: {{ mode: {mode} }} }}\n\
             \x20 - {{ id: yard, url: \"{}\", view: {{ mode: {mode} }} }}\n\
             events: {{ enter: 0, exit: 0, after: 0s, after_exit: 0s, cooldown: 0s }}\noutbox: {{ path: outbox.db }}\n\
             sinks:\n  - {{ type: jsonl, path: \"-\" }}\n  - {{ type: mqtt, url: \"mqtt://127.0.0.1:{}\" }}\n\
             api: {{ listen: 127.0.0.1:0 }}\n",
            root().join("demo/clip.mp4").display(),
            camera.url_of("/one"),
            broker.port
        )
    };
    let of = |stream: &str, events: Vec<Value>| -> Vec<Value> {
        events.into_iter().filter(|event| event["data"]["stream"] == stream).collect()
    };
    let starts = |daemon: &Daemon, stream: &str| {
        let events = of(stream, daemon.events());
        ["cat", "rocket"].map(|label| course(&events, label).iter().filter(|(start, _)| *start).count())
    };
    let mut daemon = Daemon::start(folder.path(), &config("model"));
    daemon.wait_ready();
    for change in 1..=CHANGES {
        for stream in ["gate", "yard"] {
            eventually("both tags start", || (starts(&daemon, stream) == [change, change]).then_some(()));
        }
        std::fs::write(folder.path().join("vtagd.yaml"), config(["pad", "squash"][change % 2])).unwrap();
        apply(&mut daemon);
        let listed = |id: &str| rows(&mut daemon).iter().filter(|row| row["id"] == id).count();
        assert_eq!(["gate", "yard"].map(listed), [1, 1], "it is there also while it waits for its turn");
    }
    for stream in ["gate", "yard"] {
        eventually("both tags start again", || (starts(&daemon, stream) == [CHANGES + 1; 2]).then_some(()));
    }
    let told = daemon.events();
    for (stream, label) in ["gate", "yard"].into_iter().flat_map(|stream| [(stream, "cat"), (stream, "rocket")]) {
        assert!(open_at_last(&of(stream, told.clone()), label).is_some());
        let ends = of(stream, told.clone()).into_iter().filter(|e| e["type"] == "dev.vtagd.tag.end");
        assert!(ends.into_iter().all(|end| end["data"]["reason"] == "reconfigured"));
    }
    consumer.wait_for("vtagd/gate/cat", "ON");

    // In the outbox they lie in the same order, and so the next start knows what a kill has left open.
    daemon.kill();
    let kept = stored(folder.path());
    let open = |label: &str| open_at_last(&of("gate", kept.clone()), label).expect("one is open");
    let (cat, rocket) = (open("cat"), open("rocket"));
    let mut daemon = Daemon::start(folder.path(), &config("model"));
    let all = eventually("both tags start again", || {
        let all = stored(folder.path());
        let again = |label, tag: &String| open_at_last(&of("gate", all.clone()), label).is_some_and(|now| now != *tag);
        (again("cat", &cat) && again("rocket", &rocket)).then_some(all)
    });
    for tag in [cat, rocket] {
        let end = all.iter().find(|e| e["data"]["tag_id"] == tag.as_str() && e["type"] == "dev.vtagd.tag.end");
        assert_eq!(end.expect("it ends")["data"]["reason"], "interrupted");
    }
    daemon.stop_cleanly();
}

#[test]
fn a_stream_that_is_switched_off_and_on_again_at_once_joins_when_the_one_before_has_left() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("things.yaml"), LABELS).unwrap();
    let file = root().join("demo/clip.mp4");
    let gate = |more: &str| format!("  - {{ id: gate, url: \"file://{}\", loop: true{more} }}\n", file.display());
    let config = write_config(folder.path(), &gate(""), "outbox: { path: outbox.db }\n");
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    for change in 0..10 {
        let more = [", enabled: false", ", enabled: true, view: { mode: pad }", ""][change % 3];
        write_config(folder.path(), &gate(more), "outbox: { path: outbox.db }\n");
        apply(&mut daemon);
        eventually("its row says so", || {
            let rows = rows(&mut daemon);
            (rows.len() == 1 && (rows[0]["state"] == "disabled") == (change % 3 == 0)).then_some(())
        });
    }
    // Gone before its turn has come.
    write_config(folder.path(), &gate(""), "outbox: { path: outbox.db }\n");
    apply(&mut daemon);
    write_config(folder.path(), &gate("").replace("gate", "other"), "outbox: { path: outbox.db }\n");
    apply(&mut daemon);
    eventually("the other one is looked at", || (inferred(&mut daemon, "other") > 0).then_some(()));
    assert!(row(&mut daemon, "gate").is_none());
    let events = daemon.events();
    for label in ["cat", "rocket"] {
        open_at_last(&events.iter().filter(|e| e["data"]["stream"] == "gate").cloned().collect::<Vec<_>>(), label);
    }
    // The daemon is told to end while one waits for its turn.
    write_config(
        folder.path(),
        &gate(", view: { mode: pad }").replace("gate", "other"),
        "outbox: { path: outbox.db }\n",
    );
    apply(&mut daemon);
    daemon.stop_cleanly();
    assert!(daemon.log().lines().filter(|l| l.contains("frames accounted")).all(|l| l.contains("unaccounted=0")));
}
