//! MQTT prefixes that others use too, against a real broker: other programs, other boxes, older versions. What they published stays.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use crate::common::broker::{Broker, Consumer, retained};
use crate::common::daemon::{Daemon, eventually, root, vtagd};
use crate::common::slow_link::SlowLink;
use serde_json::Value;

const PROTOCOLS: [&str; 2] = ["3.1.1", "5"];

/// Streams that nobody answers, without a model: a daemon that is there at once, and has states but no events.
fn silent(streams: &[&str], sinks: &str) -> String {
    let streams: String =
        streams.iter().map(|id| format!("  - {{ id: {id}, url: \"rtsp://127.0.0.1:9/none\" }}\n")).collect();
    format!(
        "model: {{ path: none }}\nstreams:\n{streams}outbox: {{ path: outbox.db }}\napi: {{ listen: 127.0.0.1:0 }}\nsinks:\n{sinks}"
    )
}

/// Streams that look at cat, coffee and rocket in turn, for ever, and know these labels.
fn seeing(folder: &Path, streams: &[&str], labels: &[&str], sinks: &str) -> String {
    let labels: String =
        labels.iter().map(|label| format!("  - {{ name: {label}, prompts: [a {label}] }}\n")).collect();
    std::fs::write(folder.join("things.yaml"), format!("set: things\nbackground: [a wall]\nlabels:\n{labels}"))
        .unwrap();
    let clip = root().join("demo/clip.mp4");
    let streams: String = streams
        .iter()
        .map(|id| format!("  - {{ id: {id}, url: \"file://{}\", pace: live, loop: true }}\n", clip.display()))
        .collect();
    format!(
        "sampling: {{ interval: 100ms, decode: all }}\nstreams:\n{streams}labels: [things.yaml]\n\
         events: {{ enter: 0.5, exit: 0.5, after: 0s, after_exit: 0s, cooldown: 0s }}\n\
         outbox: {{ path: outbox.db }}\napi: {{ listen: 127.0.0.1:0 }}\nsinks:\n{sinks}"
    )
}

fn sink(port: u16, more: &str) -> String {
    format!("  - {{ type: mqtt, url: \"mqtt://127.0.0.1:{port}\"{more} }}\n")
}

fn folders<const N: usize>() -> [tempfile::TempDir; N] {
    std::array::from_fn(|_| tempfile::tempdir().unwrap())
}

/// A daemon that says something else than what it has run with so far.
fn reload(daemon: &mut Daemon, folder: &Path, config: &str) {
    let before = daemon.log().matches("the new configuration runs").count();
    std::fs::write(folder.join("vtagd.yaml"), config).unwrap();
    daemon.signal(libc::SIGHUP);
    eventually("the new configuration runs", || {
        (daemon.log().matches("the new configuration runs").count() > before).then_some(())
    });
}

/// Waits until nothing lies under `topic`.
fn wait_gone(port: u16, topic: &str) {
    eventually(&format!("{topic} is gone"), || retained(port, &[topic]).is_empty().then_some(()));
}

fn wait_there(port: u16, topic: &str) -> String {
    eventually(&format!("{topic} is there"), || retained(port, &[topic]).remove(topic))
}

/// `vtagd mqtt …` on the configuration in `folder`.
fn mqtt(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = vtagd(folder);
    command.arg("mqtt").args(arguments).arg("-c").arg(folder.join("vtagd.yaml"));
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What other programs keep at the broker: as `field-cases/mqtt-shared-prefix`.
const OTHERS: [(&str, &str); 8] = [
    ("frigate/gate/person", "1"),
    ("frigate/gate/motion", "OFF"),
    ("frigate/gate/detect/state", "ON"),
    ("frigate/yard/person", "2"),
    ("frigate/available", "online"),
    ("house/kitchen/temperature", "21.5"),
    ("house/kitchen/lamp/attributes", "{\"watts\":4}"),
    ("house/cellar/humidity", "60"),
];

#[test]
fn what_other_programs_retain_below_the_prefix_survives_a_start_a_removal_and_a_restart() {
    let [folder] = folders();
    let broker = Broker::start(folder.path());
    let consumer = Consumer::start(broker.port, &["none"]);
    OTHERS.iter().for_each(|(topic, payload)| consumer.retain(topic, payload));
    let theirs = || -> BTreeMap<String, String> {
        let mut all = retained(broker.port, &["frigate/#", "house/#"]);
        all.retain(|topic, _| OTHERS.iter().any(|(theirs, _)| topic == theirs));
        all
    };
    let all: BTreeMap<String, String> = OTHERS.map(|(topic, payload)| (topic.to_owned(), payload.to_owned())).into();
    eventually("they lie there", || (theirs() == all).then_some(()));
    for protocol in PROTOCOLS {
        let sinks = ["frigate", "house"].map(|prefix| {
            sink(broker.port, &format!(", protocol: {protocol}, topic_prefix: {prefix}, name: {prefix}"))
        });
        let config = |streams: &[&str]| silent(streams, &sinks.concat());
        let mut daemon = Daemon::start(folder.path(), &config(&["gate", "kitchen"]));
        wait_there(broker.port, "house/kitchen/status");
        assert_eq!(theirs(), all);
        // Frigate says by frigate/available that it is there; nobody else may.
        daemon.wait_for_log("belongs to another program");
        reload(&mut daemon, folder.path(), &config(&["gate"]));
        wait_gone(broker.port, "house/kitchen/status");
        wait_gone(broker.port, "house/kitchen/enabled/state");
        assert_eq!(theirs(), all);
        daemon.stop_cleanly();
        let mut daemon = Daemon::start(folder.path(), &config(&["yard"]));
        wait_there(broker.port, "house/yard/status");
        wait_gone(broker.port, "house/gate/status");
        daemon.kill();
        // After a kill as after an end.
        let mut daemon = Daemon::start(folder.path(), &config(&["attic"]));
        wait_there(broker.port, "house/attic/status");
        wait_gone(broker.port, "house/yard/status");
        daemon.stop_cleanly();
        assert_eq!(theirs(), all);
        let frigate = retained(broker.port, &["frigate/#"]);
        assert_eq!(frigate.len(), 5, "nothing was added to another program's: {frigate:?}");
    }
}

#[test]
fn a_second_box_with_the_same_prefix_delivers_its_events_and_says_so_and_the_first_one_stays_as_it_is() {
    for protocol in PROTOCOLS {
        let [place, first_folder, second_folder] = folders();
        let broker = Broker::start(place.path());
        let consumer = Consumer::start(broker.port, &["vtagd/events"]);
        let more = format!(", protocol: {protocol}, home_assistant: true, name: broker");
        let text = seeing(first_folder.path(), &["gate"], &["cat"], &sink(broker.port, &more));
        let mut first = Daemon::start(first_folder.path(), &format!("instance: edge-1\n{text}"));
        wait_there(broker.port, "homeassistant/device/vtagd_gate/config");
        // The last that it publishes.
        wait_there(broker.port, "vtagd/gate/status");
        let owner: Value = serde_json::from_str(&wait_there(broker.port, "vtagd/owner")).unwrap();
        assert_eq!((&owner["instance"], &owner["program"]), (&"edge-1".into(), &"vtagd".into()));
        let topics = || -> Vec<String> { retained(broker.port, &["vtagd/#", "homeassistant/#"]).into_keys().collect() };
        let before = topics();

        let sinks = sink(broker.port, &format!("{more}, client_id: second"));
        let text = seeing(second_folder.path(), &["yard"], &["cat"], &sinks);
        let mut second = Daemon::start(second_folder.path(), &format!("instance: edge-2\n{text}"));
        second.wait_ready();
        let of = |stream: &str| {
            let event = consumer.got().into_iter().rev().find(|got| got.json()["data"]["stream"] == stream);
            event.map(|got| got.json())
        };
        eventually("events of the second", || of("yard"));
        let told = "the topic prefix vtagd at this broker belongs to edge-1";
        second.wait_for_log(told);
        assert!(second.log().contains("topic_prefix: vtagd/edge-2"), "the remedy");
        let readiness = eventually("readyz says it", || {
            let (code, body) = second.get("/readyz");
            let body: Value = serde_json::from_str(&body).unwrap();
            (code == 200 && body["sinks"]["broker"].as_str()?.contains(told)).then_some(body)
        });
        assert_eq!(readiness["ready"], true);
        let metrics = |daemon: &mut Daemon| daemon.get("/metrics").1;
        assert!(metrics(&mut second).contains("vtagd_mqtt_prefix_owned{sink=\"broker\"} 0"));
        assert!(metrics(&mut first).contains("vtagd_mqtt_prefix_owned{sink=\"broker\"} 1"));
        let url = second.url();
        let status = vtagd(second_folder.path()).args(["status", "--url", &url]).output().unwrap();
        assert!(stdout(&status).contains(told), "{}", stdout(&status));

        // A command is the owner's to obey.
        consumer.publish("vtagd/yard/enabled/set", "OFF");
        first.wait_for_log("a command for a stream that is not there is passed over");
        // Killed, it is not told to be away: it has no will.
        second.kill();
        let log = place.path().join("broker/log");
        eventually("the broker has noticed", || {
            let log = std::fs::read_to_string(&log).unwrap();
            log.lines()
                .any(|line| line.contains("second") && line.ends_with(['.', 'n', 'g']) && line.contains("clos"))
                .then_some(())
        });
        assert_eq!(wait_there(broker.port, "vtagd/available"), "online");
        // Nor does it say goodbye for the first one.
        let mut second = Daemon::start(second_folder.path(), &format!("instance: edge-2\n{text}"));
        second.wait_for_log(told);
        second.wait_ready();
        second.stop_cleanly();
        assert_eq!(second.log().matches(told).count(), 1, "said once: {}", second.log());
        assert_eq!(wait_there(broker.port, "vtagd/available"), "online");
        assert_eq!(topics(), before, "nothing has come and nothing has gone");
        first.kill();
        eventually("the first has its will", || {
            (wait_there(broker.port, "vtagd/available") == "offline").then_some(())
        });
    }
}

#[test]
fn a_connection_that_is_lost_is_no_reason_to_say_again_whose_the_prefix_is() {
    let [place, folder] = folders();
    let mut broker = Broker::start(place.path());
    let consumer = Consumer::start(broker.port, &["none"]);
    consumer.retain("vtagd/owner", r#"{"id":"00000000-0000-4000-8000-000000000001","instance":"old-box"}"#);
    wait_there(broker.port, "vtagd/owner");
    let mut daemon = Daemon::start(folder.path(), &silent(&["gate"], &sink(broker.port, "")));
    daemon.wait_for_log("belongs to old-box");
    for lost in 1..3 {
        // How it cannot be reached may be told in more than one way.
        let before = daemon.log().matches("cannot deliver").count();
        broker.stop();
        eventually("it is noticed", || (daemon.log().matches("cannot deliver").count() > before).then_some(()));
        broker.up();
        eventually("it is back", || (daemon.log().matches("delivers again").count() >= lost).then_some(()));
    }
    daemon.stop_cleanly();
    assert_eq!(daemon.log().matches("belongs to old-box").count(), 1, "{}", daemon.log());
    assert_eq!(retained(broker.port, &["vtagd/#"]).len(), 1, "the owner's name alone");
}

#[test]
fn a_label_or_stream_that_goes_takes_along_what_was_published_for_it_and_each_topic_is_told() {
    for protocol in PROTOCOLS {
        let [place, folder] = folders();
        let broker = Broker::start(place.path());
        let consumer = Consumer::start(broker.port, &["none"]);
        let sinks = sink(broker.port, &format!(", protocol: {protocol}, home_assistant: true"));
        let config = |streams: &[&str], labels: &[&str]| {
            let text = seeing(folder.path(), streams, labels, &sinks);
            format!("{text}snapshots: {{ path: pictures, max_side: 64 }}\n")
        };
        let mut daemon = Daemon::start(folder.path(), &config(&["gate", "yard"], &["cat", "rocket"]));
        for topic in ["gate/cat", "gate/rocket", "yard/cat", "yard/rocket"] {
            wait_there(broker.port, &format!("vtagd/{topic}/snapshot"));
        }
        wait_there(broker.port, "homeassistant/device/vtagd_yard/config");
        // Others write among it: what was never ours, and where ours was, once nothing more of that comes.
        consumer.retain("vtagd/yard/lamp", "ON");
        consumer.publish("vtagd/yard/enabled/set", "OFF");
        eventually("the stream is off", || (wait_there(broker.port, "vtagd/yard/status") == "disabled").then_some(()));
        eventually("its tag has ended", || {
            let about: Value = serde_json::from_str(&wait_there(broker.port, "vtagd/yard/rocket/attributes")).unwrap();
            about["ended_at"].is_string().then_some(())
        });
        consumer.retain("vtagd/yard/rocket/attributes", "theirs");
        eventually("it lies there", || {
            (wait_there(broker.port, "vtagd/yard/rocket/attributes") == "theirs").then_some(())
        });
        reload(&mut daemon, folder.path(), &config(&["gate", "yard"], &["cat"]));
        for topic in ["vtagd/yard/rocket", "vtagd/gate/rocket/attributes", "vtagd/gate/rocket/snapshot"] {
            wait_gone(broker.port, topic);
            let line = eventually("it is told", || {
                let told = |line: &&str| line.contains("is removed") && line.contains(&format!("topic=\"{topic}\""));
                daemon.log().lines().find(told).map(str::to_owned)
            });
            assert!(line.contains(" INFO ") && line.contains("why="), "{line}");
        }
        daemon.wait_for_log("stays, as another has written it");
        // While it is down, after an end and after a kill.
        daemon.stop_cleanly();
        let mut daemon = Daemon::start(folder.path(), &config(&["gate"], &["cat"]));
        let there = ["yard/status", "yard/enabled/state", "yard/cat", "yard/cat/attributes", "yard/cat/snapshot"];
        there.iter().for_each(|topic| wait_gone(broker.port, &format!("vtagd/{topic}")));
        wait_gone(broker.port, "homeassistant/device/vtagd_yard/config");
        wait_there(broker.port, "vtagd/gate/cat/snapshot");
        daemon.kill();
        let mut daemon = Daemon::start(folder.path(), &config(&["attic"], &["cat"]));
        let there = ["gate/status", "gate/enabled/state", "gate/cat", "gate/cat/attributes", "gate/cat/snapshot"];
        there.iter().for_each(|topic| wait_gone(broker.port, &format!("vtagd/{topic}")));
        wait_gone(broker.port, "homeassistant/device/vtagd_gate/config");
        daemon.stop_cleanly();
        let mut left = retained(broker.port, &["vtagd/#", "homeassistant/#"]);
        left.retain(|topic, _| !topic.contains("attic"));
        let left: Vec<String> = left.into_keys().collect();
        let stay = ["vtagd/available", "vtagd/owner", "vtagd/yard/lamp", "vtagd/yard/rocket/attributes"];
        assert_eq!(left, [&["homeassistant/device/vtagd-box/config"], &stay[..]].concat());
    }
}

#[test]
fn a_prefix_is_taken_over_while_both_daemons_run() {
    for protocol in PROTOCOLS {
        let [place, first_folder, second_folder] = folders();
        let broker = Broker::start(place.path());
        let sinks = sink(broker.port, &format!(", protocol: {protocol}"));
        let config = |instance: &str, stream: &str| format!("instance: {instance}\n{}", silent(&[stream], &sinks));
        let mut first = Daemon::start(first_folder.path(), &config("edge-1", "gate"));
        wait_there(broker.port, "vtagd/gate/status");
        let mut second = Daemon::start(second_folder.path(), &config("edge-2", "yard"));
        second.wait_for_log("belongs to edge-1");
        let said = stdout(&mqtt(second_folder.path(), &["claim"]));
        assert!(said.contains("belongs to edge-2") && said.contains("it was of edge-1"), "{said}");
        first.wait_for_log("belongs to edge-2");
        wait_there(broker.port, "vtagd/yard/status");
        second.wait_for_log("no longer so");
        assert_eq!(wait_there(broker.port, "vtagd/available"), "online");
        // Who had it before neither clears nor says anything any more, however it ends.
        wait_there(broker.port, "vtagd/gate/status");
        first.kill();
        second.kill();
        eventually("the will of the new owner", || {
            (wait_there(broker.port, "vtagd/available") == "offline").then_some(())
        });
        let mut first = Daemon::start(first_folder.path(), &config("edge-1", "gate"));
        first.wait_for_log("belongs to edge-2");
        // What it cannot take over is told: a sink that is not there, a broker that is away.
        let refused = mqtt(first_folder.path(), &["claim", "--sink", "none"]);
        assert_eq!(refused.status.code(), Some(2));
        let refused = mqtt(first_folder.path(), &["clear"]);
        let why = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(1) && why.contains("belongs to edge-2"), "{why}");
        first.stop_cleanly();
    }
}

#[test]
fn an_outbox_that_was_damaged_is_no_other_box() {
    let [folder] = folders();
    let broker = Broker::start(folder.path());
    let config = |streams: &[&str]| silent(streams, &sink(broker.port, ""));
    let mut daemon = Daemon::start(folder.path(), &config(&["gate"]));
    wait_there(broker.port, "vtagd/gate/status");
    let owner = wait_there(broker.port, "vtagd/owner");
    daemon.stop_cleanly();
    std::fs::write(folder.path().join("outbox.db"), b"rubbish ".repeat(2000)).unwrap();
    let mut daemon = Daemon::start(folder.path(), &config(&["yard"]));
    wait_there(broker.port, "vtagd/yard/status");
    assert_eq!(wait_there(broker.port, "vtagd/owner"), owner);
    daemon.stop_cleanly();
    // What it had published it does not know any more, so it leaves it.
    wait_there(broker.port, "vtagd/gate/status");
    assert!(!daemon.log().contains("belongs to"), "{}", daemon.log());
}

#[test]
fn an_outbox_in_memory_is_the_same_box_after_a_restart() {
    let [folder] = folders();
    let broker = Broker::start(folder.path());
    let config = silent(&["gate"], &sink(broker.port, "")).replace("outbox.db", "\":memory:\"");
    for _ in 0..2 {
        let mut daemon = Daemon::start(folder.path(), &config);
        eventually("it is there", || (wait_there(broker.port, "vtagd/available") == "online").then_some(()));
        wait_there(broker.port, "vtagd/gate/status");
        daemon.stop_cleanly();
        assert!(!daemon.log().contains("belongs to"), "{}", daemon.log());
    }
    assert!(stdout(&mqtt(folder.path(), &["claim"])).contains("now\n"), "nobody else had it");
}

#[test]
fn of_two_boxes_that_start_at_the_same_time_one_yields() {
    for protocol in PROTOCOLS {
        let [place, one, two] = folders();
        let broker = Broker::start(place.path());
        let sinks = sink(broker.port, &format!(", protocol: {protocol}"));
        let config = |instance: &str| format!("instance: {instance}\n{}", silent(&[instance], &sinks));
        let mut daemons = [(&one, "edge-1"), (&two, "edge-2")]
            .map(|(folder, instance)| (instance, Daemon::start(folder.path(), &config(instance))));
        let yielded = eventually("one yields", || {
            daemons
                .iter()
                .position(|(_, daemon)| daemon.log().contains("the topic prefix vtagd at this broker belongs to edge-"))
        });
        let (loser, winner) = (daemons[yielded].0, daemons[1 - yielded].0);
        // What the other may have published before it knew is not the winner's to clear.
        wait_there(broker.port, &format!("vtagd/{winner}/status"));
        let owner: Value = serde_json::from_str(&wait_there(broker.port, "vtagd/owner")).unwrap();
        assert_eq!(owner["instance"], winner);
        assert_eq!(wait_there(broker.port, "vtagd/available"), "online");
        for (instance, daemon) in &mut daemons {
            daemon.stop_cleanly();
            assert_eq!(daemon.log().contains("belongs to"), *instance == loser, "{}", daemon.log());
        }
    }
}

#[test]
fn what_an_older_version_left_stays_until_it_is_cleared_by_hand_and_nothing_of_others_with_it() {
    let [folder] = folders();
    let broker = Broker::start(folder.path());
    let consumer = Consumer::start(broker.port, &["none"]);
    let about = r#"{"set":"lot","tag_id":"x","score":0.9,"peak":0.9,"started_at":"x","ended_at":null,"attributes":{},"snapshot":null}"#;
    let device = |id: &str, prefix: &str| {
        format!(
            r#"{{"dev":{{"ids":["{id}"]}},"o":{{"name":"vtagd"}},"availability":[{{"topic":"{prefix}/available"}}],"cmps":{{}}}}"#
        )
    };
    let (ours, theirs) = (device("vtagd_yard", "vtagd"), device("other_yard", "other"));
    let older = [
        ("vtagd/available", "stopped"),
        ("vtagd/gate/status", "online"),
        ("vtagd/gate/enabled/state", "ON"),
        ("vtagd/yard/status", "offline"),
        ("vtagd/yard/enabled/state", "ON"),
        ("vtagd/yard/car", "ON"),
        ("vtagd/yard/car/attributes", about),
        ("homeassistant/device/vtagd_yard/config", &ours),
    ];
    let others = [
        ("homeassistant/device/other_yard/config", theirs.as_str()),
        ("vtagd/kitchen/temperature", "21.5"),
        ("vtagd/kitchen/lamp/attributes", "{\"watts\":4}"),
        ("vtagd/stove/status", "online"),
        ("vtagd/garden/enabled/state", "ON"),
    ];
    older.iter().chain(&others).for_each(|(topic, payload)| consumer.retain(topic, payload));
    eventually("all lie there", || (retained(broker.port, &["vtagd/#", "homeassistant/#"]).len() == 13).then_some(()));
    let mut daemon = Daemon::start(folder.path(), &silent(&["gate"], &sink(broker.port, ", home_assistant: true")));
    wait_there(broker.port, "homeassistant/device/vtagd_gate/config");
    // The last that it publishes.
    eventually("it has published", || (wait_there(broker.port, "vtagd/gate/status") == "offline").then_some(()));
    assert_eq!(wait_there(broker.port, "vtagd/available"), "online");
    let before = retained(broker.port, &["vtagd/#", "homeassistant/#"]);
    assert!(older.iter().all(|(topic, _)| before.contains_key(*topic)), "{before:?}");
    let listed = stdout(&mqtt(folder.path(), &["clear", "--dry-run"]));
    let mut said: Vec<&str> =
        listed.lines().filter_map(|line| line.strip_prefix("would remove ")?.split(" (").next()).collect();
    assert_eq!(said.pop(), Some("5 topics"));
    said.sort_unstable();
    let mut wanted: Vec<&str> = older[3..].iter().map(|(topic, _)| *topic).collect();
    wanted.sort_unstable();
    assert_eq!(said, wanted);
    assert_eq!(retained(broker.port, &["vtagd/#", "homeassistant/#"]), before, "listed, and not touched");
    assert!(stdout(&mqtt(folder.path(), &["clear"])).ends_with("removed 5 topics\n"));
    let mut kept = before;
    kept.retain(|topic, _| !wanted.contains(&topic.as_str()));
    assert_eq!(retained(broker.port, &["vtagd/#", "homeassistant/#"]), kept);
    assert_eq!(stdout(&mqtt(folder.path(), &["clear"])), "removed 0 topics\n");
    daemon.stop_cleanly();
}

#[test]
fn where_the_broker_shows_nothing_what_was_published_stays_until_it_can_be_read() {
    for protocol in PROTOCOLS {
        let [folder] = folders();
        // Whoever has no name may do everything, vtagd only write.
        let rights = |more: &str| {
            let text = format!("topic readwrite #\nuser vtagd\ntopic write vtagd/#\n{more}");
            std::fs::write(folder.path().join("acl"), text).unwrap();
        };
        rights("");
        let more = format!("allow_anonymous true\nacl_file {}/acl\n", folder.path().display());
        let mut broker = Broker::configured(folder.path(), &more);
        let sinks = sink(broker.port, &format!(", protocol: {protocol}, username: vtagd"));
        let config = |streams: &[&str]| silent(streams, &sinks);
        let mut daemon = Daemon::start(folder.path(), &config(&["gate", "yard"]));
        wait_there(broker.port, "vtagd/yard/status");
        reload(&mut daemon, folder.path(), &config(&["gate"]));
        daemon.wait_for_log("the broker does not show what lies there");
        wait_there(broker.port, "vtagd/yard/status");
        assert!(!daemon.log().contains("is removed"), "{}", daemon.log());
        daemon.stop_cleanly();
        rights("topic readwrite vtagd/#\n");
        broker.stop();
        broker.up();
        let mut daemon = Daemon::start(folder.path(), &config(&["gate"]));
        wait_gone(broker.port, "vtagd/yard/status");
        wait_gone(broker.port, "vtagd/yard/enabled/state");
        wait_there(broker.port, "vtagd/gate/status");
        daemon.stop_cleanly();
    }
}

#[test]
fn over_a_slow_link_nobody_is_written_over() {
    for protocol in PROTOCOLS {
        let [place, first_folder, second_folder] = folders();
        let broker = Broker::start(place.path());
        let first_config = silent(&["gate"], &sink(broker.port, &format!(", protocol: {protocol}")));
        let mut first = Daemon::start(first_folder.path(), &format!("instance: edge-1\n{first_config}"));
        wait_there(broker.port, "vtagd/gate/status");
        let before = retained(broker.port, &["#"]);
        // What the broker sends takes longer than anybody listens to silence.
        let link = SlowLink::start(broker.port, Duration::from_secs(3));
        let config = silent(&["yard"], &sink(link.port(), &format!(", protocol: {protocol}, timeout: 30s")));
        let mut second = Daemon::start(second_folder.path(), &format!("instance: edge-2\n{config}"));
        second.wait_for_log("belongs to edge-1");
        let refused = mqtt(second_folder.path(), &["clear"]);
        let why = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(1) && why.contains("belongs to edge-1"), "{why}");
        assert_eq!(retained(broker.port, &["#"]), before);
        first.stop_cleanly();
        second.kill();
    }
}

#[test]
fn over_a_slow_link_what_another_has_written_is_seen_before_it_is_removed() {
    let [place, folder] = folders();
    let broker = Broker::start(place.path());
    let consumer = Consumer::start(broker.port, &["none"]);
    let link = SlowLink::start(broker.port, Duration::from_secs(3));
    let config = |streams: &[&str]| silent(streams, &sink(link.port(), ", timeout: 30s"));
    let mut daemon = Daemon::start(folder.path(), &config(&["gate", "yard"]));
    wait_there(broker.port, "vtagd/yard/status");
    // Theirs by now.
    consumer.retain("vtagd/yard/enabled/state", "theirs");
    reload(&mut daemon, folder.path(), &config(&["gate"]));
    daemon.wait_for_log("stays, as another has written it");
    wait_gone(broker.port, "vtagd/yard/status");
    assert_eq!(wait_there(broker.port, "vtagd/yard/enabled/state"), "theirs");
    daemon.kill();
}
