//! What a label is to a broker and to Home Assistant: topics and ids that stay, the order in which a change is told, how it goes, and pictures
//! that are too large.

use std::fmt::Write as _;
use std::path::Path;

use crate::common::broker::{Broker, Consumer, Got};
use crate::common::daemon::{Daemon, eventually};
use crate::common::flicker;
use crate::sink_mqtt::{self, events, plain, stream};
use serde_json::{Value, json};

const DOCUMENT: &str = "homeassistant/device/vtagd_gate/config";

/// One stream that is looked at once a second: a box with much else to do has to end in time.
fn config(folder: &Path, streams: &str, sink: &str) -> String {
    sink_mqtt::config(folder, streams, sink).replace("interval: 100ms", "interval: 1s")
}

/// The set `things` with these labels.
fn labels(folder: &Path, names: &[&str]) {
    let mut text = "set: things\nbackground: [a wall]\nlabels:\n".to_owned();
    for name in names {
        writeln!(text, "  - {{ name: {name}, prompts: [a {name}] }}").unwrap();
    }
    std::fs::write(folder.join("things.yaml"), text).unwrap();
}

/// Starts it on a stream called gate, with these labels.
fn start(folder: &Path, names: &[&str], sink: &str) -> Daemon {
    let text = config(folder, &stream("gate"), sink);
    labels(folder, names);
    Daemon::start(folder, &text)
}

/// The sensors of the document that lies there, by the label's name.
fn sensors(consumer: &Consumer, count: usize) -> std::collections::BTreeMap<String, Value> {
    let document = eventually("the document", || {
        consumer.last(DOCUMENT).filter(|got| !got.payload.is_empty()).filter(|got| {
            let all = got.json()["cmps"].as_object().unwrap().clone();
            all.values()
                .filter(|component| component["state_topic"].is_string() && component["p"] == "binary_sensor")
                .count()
                == count
        })
    });
    let document = document.json();
    let all = document["cmps"].as_object().unwrap().values();
    let sensors = all.filter(|component| component["p"] == "binary_sensor");
    sensors.map(|sensor| (sensor["name"].as_str().unwrap().to_owned(), sensor.clone())).collect()
}

#[test]
fn a_labels_topics_and_ids_are_its_own_for_ever_whatever_comes_and_goes_beside_it() {
    for outbox in ["outbox.db", "\":memory:\""] {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::start(folder.path());
        let consumer = Consumer::start(broker.port, &["homeassistant/#", "vtagd/#"]);
        let sink = plain(broker.port, ", home_assistant: true");
        let run = |names: &[&str]| {
            let text = config(folder.path(), &stream("gate"), &sink).replace("outbox.db", outbox);
            labels(folder.path(), names);
            let mut daemon = Daemon::start(folder.path(), &text);
            let found = sensors(&consumer, names.len());
            daemon.stop_cleanly();
            consumer.wait_for("vtagd/available", "stopped");
            found
        };
        let before = run(&["猫", "犬", "red car"]);
        assert!(before["red car"]["unique_id"] == "vtagd_gate_red_car" && before["猫"] != before["犬"]);
        let after = run(&["鳥", "猫", "red car", "犬"]);
        for name in ["猫", "犬", "red car"] {
            assert_eq!(after[name], before[name], "{outbox}");
        }
        let ids: std::collections::BTreeSet<&str> =
            after.values().map(|sensor| sensor["unique_id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), 4);
    }
}

#[test]
fn attributes_and_picture_are_there_before_the_state_and_the_event_entity_comes_last() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let consumer = Consumer::start(broker.port, &["vtagd/#"]);
    let text = config(folder.path(), &stream("gate"), &plain(broker.port, ", home_assistant: true"));
    let mut daemon = Daemon::start(folder.path(), &format!("{text}snapshots: {{ path: pictures, max_side: 320 }}\n"));
    // Each tag of the cat, as the messages of its label came.
    let topics = ["vtagd/gate/cat/attributes", "vtagd/gate/cat/snapshot", "vtagd/gate/cat", "vtagd/gate/event"];
    let started = |got: &[Got]| -> Vec<usize> {
        let start =
            |got: &Got| got.topic == topics[3] && got.json()["event_type"] == "start" && got.json()["label"] == "cat";
        (0..got.len()).filter(|at| start(&got[*at])).collect()
    };
    eventually("a tag with all of it", || {
        let got: Vec<Got> = consumer.got().into_iter().filter(|got| topics.contains(&&*got.topic)).collect();
        // What was stored before the connection stood changes nothing any more; what comes after this does.
        let state = |got: &Got, payload: &[u8]| got.topic == topics[2] && got.payload == payload;
        let on = got.iter().position(|got| state(got, b"ON"))?;
        let mut from = on + got[on..].iter().position(|got| state(got, b"OFF"))?;
        let mut complete = false;
        let first = from;
        for at in started(&got).into_iter().filter(|at| *at > first) {
            let tag = got[at].json()["tag_id"].clone();
            let of_it = &got[from..at];
            let last = |topic: &str| of_it.iter().rposition(|got| got.topic == topic);
            let state = of_it.iter().rposition(|got| state(got, b"ON"));
            let state = state.unwrap_or_else(|| panic!("the state is told before the event entity: {of_it:?}"));
            let about = of_it.iter().position(|got| got.topic == topics[0] && got.json()["tag_id"] == tag);
            assert!(about.is_some_and(|about| about < state), "attributes come before the state");
            complete |= last(topics[1]).is_some_and(|picture| picture < state);
            from = at;
        }
        complete.then_some(())
    });
    daemon.stop_cleanly();
}

#[test]
fn a_label_that_goes_is_let_go_of_by_home_assistant_before_its_topics_are_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let sink = plain(broker.port, ", home_assistant: true");
    let mut daemon = start(folder.path(), &["cat", "cup", "rocket"], &sink);
    let check = |consumer: &Consumer, gone: &str| {
        consumer.wait_for(&format!("vtagd/gate/{gone}"), "");
        consumer.wait_for(&format!("vtagd/gate/{gone}/attributes"), "");
        let got = consumer.got();
        let component = |got: &Got| {
            let document = serde_json::from_slice::<Value>(&got.payload).ok().filter(|_| got.topic == DOCUMENT);
            document.map(|document| document["cmps"][format!("label_{gone}")].clone())
        };
        let parting = got.iter().position(|got| component(got) == Some(json!({ "p": "binary_sensor" })));
        let parting = parting.expect("once by its platform alone");
        let after =
            got.iter().skip(parting).position(|got| component(got) == Some(Value::Null)).expect("then left out");
        let emptied =
            got.iter().position(|got| got.topic.starts_with(&format!("vtagd/gate/{gone}")) && got.payload.is_empty());
        assert!(emptied.unwrap() > parting + after, "{gone}");
    };
    let consumer = Consumer::start(broker.port, &["homeassistant/#", "vtagd/#"]);
    assert_eq!(sensors(&consumer, 3).len(), 3);
    labels(folder.path(), &["cat", "cup"]);
    daemon.signal(libc::SIGHUP);
    check(&consumer, "rocket");
    daemon.stop_cleanly();
    consumer.wait_for("vtagd/available", "stopped");
    // While the daemon is away.
    consumer.forget();
    let mut daemon = start(folder.path(), &["cat"], &sink);
    check(&consumer, "cup");
    daemon.stop_cleanly();
}

#[test]
fn what_home_assistant_was_told_is_taken_back_though_the_broker_has_lost_it_and_a_devices_numbers_come_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(folder.path());
    let sink = plain(broker.port, ", home_assistant: true");
    let consumer = Consumer::start(broker.port, &["homeassistant/#", "vtagd/#"]);
    let both = config(folder.path(), &format!("{}{}", stream("gate"), stream("yard")), &sink);
    labels(folder.path(), &["cat", "rocket"]);
    let mut daemon = Daemon::start(folder.path(), &both);
    let yard = "homeassistant/device/vtagd_yard/config";
    eventually("both documents", || consumer.last(DOCUMENT).and(consumer.last(yard)));
    daemon.stop_cleanly();
    drop(consumer);
    broker.stop();
    std::fs::remove_file(folder.path().join("broker/mosquitto.db")).unwrap();
    broker.up();
    let consumer = Consumer::start(broker.port, &["homeassistant/#", "vtagd/#"]);
    let mut daemon = start(folder.path(), &["cat"], &sink);
    eventually("the label is named by its platform", || {
        let parts =
            |got: &Got| got.topic == DOCUMENT && got.json()["cmps"]["label_rocket"] == json!({ "p": "binary_sensor" });
        consumer.got().iter().any(parts).then_some(())
    });
    eventually("the stream's document is emptied", || consumer.last(yard).filter(|got| got.payload.is_empty()));
    // Nobody keeps them for who hears of the device only now: they do not come after the usual minute, by the daemon's own clock.
    let uptimes = eventually("statistics, twice", || {
        let got = consumer.got();
        let told: Vec<u64> = got
            .iter()
            .filter(|got| got.topic == "vtagd/stats")
            .map(|got| got.json()["uptime"].as_u64().unwrap())
            .collect();
        (told.len() > 1).then_some(told)
    });
    assert!(uptimes[1] - uptimes[0] < 55, "{uptimes:?}");
    daemon.stop_cleanly();
}

/// Broker and daemon come back together, and Home Assistant only later: what was said once it has not heard.
#[test]
fn what_goes_while_home_assistant_is_away_is_told_when_it_comes_whatever_becomes_of_the_daemon_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let sink = plain(broker.port, ", home_assistant: true");
    let both = config(folder.path(), &format!("{}{}", stream("gate"), stream("yard")), &sink);
    let yard = "homeassistant/device/vtagd_yard/config";
    let watcher = Consumer::start(broker.port, &["homeassistant/#", "vtagd/available"]);
    labels(folder.path(), &["cat", "rocket"]);
    let mut daemon = Daemon::start(folder.path(), &both);
    eventually("both documents", || watcher.last(DOCUMENT).and(watcher.last(yard)));
    daemon.stop_cleanly();
    watcher.wait_for("vtagd/available", "stopped");
    // Where in what was heard a label goes, and a device.
    let parting = |got: &[Got]| {
        let parts = |got: &Got| {
            let document = serde_json::from_slice::<Value>(&got.payload).ok().filter(|_| got.topic == DOCUMENT);
            document.is_some_and(|document| document["cmps"]["label_rocket"] == json!({ "p": "binary_sensor" }))
        };
        got.iter().position(parts)
    };
    let emptied = |got: &[Got]| got.iter().position(|got| got.topic == yard && got.payload.is_empty());
    let left = |got: &[Got]| parting(got).zip(emptied(got));
    // Each life says it, and is killed; nobody is there.
    let remembered = |folder: &Path| {
        let outbox = rusqlite::Connection::open(folder.join("outbox.db")).unwrap();
        let count = outbox.query_row("SELECT count(*) FROM unheard", [], |row| row.get::<_, usize>(0)).unwrap();
        (count > 0).then_some(count)
    };
    for _ in 0..2 {
        watcher.forget();
        daemon = start(folder.path(), &["cat"], &sink);
        eventually("it is said", || left(&watcher.got()));
        eventually("the device is written down too", || remembered(folder.path()).filter(|count| *count > 1));
        daemon.kill();
    }
    watcher.forget();
    let mut daemon = start(folder.path(), &["cat"], &sink);
    eventually("it is said", || left(&watcher.got()));
    // Nothing more comes by itself, once what lay there is cleared.
    eventually("the topics are cleared", || daemon.log().contains("vtagd/gate/rocket").then_some(()));
    let home = Consumer::start(broker.port, &["homeassistant/#"]);
    eventually("the document that lies there", || home.last(DOCUMENT));
    assert_eq!((parting(&home.got()), emptied(&home.got())), (None, None), "nobody keeps it");
    home.publish("homeassistant/status", "online");
    let (at, _) = eventually("it is told again", || left(&home.got()));
    let after =
        eventually("and then the document", || home.got().into_iter().skip(at + 1).find(|got| got.topic == DOCUMENT));
    assert!(after.json()["cmps"]["label_cat"].is_object(), "{}", after.text());
    eventually("it is remembered no more", || remembered(folder.path()).is_none().then_some(()));
    home.forget();
    home.publish("homeassistant/status", "online");
    eventually("the documents once more", || {
        home.last("homeassistant/device/vtagd-box/config").and(home.last(DOCUMENT))
    });
    assert_eq!((parting(&home.got()), emptied(&home.got())), (None, None), "once heard is enough");
    daemon.stop_cleanly();
}

#[test]
fn pictures_that_the_broker_does_not_take_do_not_break_the_connection_again_and_again() {
    for protocol in ["5", "3.1.1"] {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::configured(folder.path(), "allow_anonymous true\nmax_packet_size 6000\n");
        let consumer = Consumer::start(broker.port, &["vtagd/#"]);
        // Each tag has a picture, and there are many a second.
        let text =
            flicker::config(folder.path(), 1, 1).replace("interval: 1ms", "interval: 200ms").replace("fast", "live");
        let sink = plain(broker.port, &format!(", protocol: {protocol}"));
        let text = format!("{text}outbox: {{ path: outbox.db }}\nsnapshots: {{ path: pictures }}\nsinks:\n{sink}");
        let mut daemon = Daemon::start(folder.path(), &text);
        let skipped = |daemon: &mut Daemon| {
            let (_, text) = daemon.get("/metrics");
            let line =
                text.lines().find(|line| line.starts_with("vtagd_mqtt_pictures_skipped_total{")).map(str::to_owned);
            line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default()
        };
        daemon.wait_ready();
        eventually("pictures are left out, and events come on one connection", || {
            let got = consumer.got();
            let lost =
                got.iter().rposition(|got| got.topic == "vtagd/available" && got.payload == b"offline").unwrap_or(0);
            let since = got[lost..].iter().filter(|got| got.topic == "vtagd/events").count();
            (since > 20 && skipped(&mut daemon) > 4.0).then_some(())
        });
        let offline =
            consumer.got().iter().filter(|got| got.topic == "vtagd/available" && got.payload == b"offline").count();
        assert!(protocol == "3.1.1" || offline == 0, "{offline}");
        let log = daemon.log();
        assert!(
            log.contains("a picture is larger than the broker takes") && log.contains("snapshots.max_side"),
            "{log}"
        );
        assert_eq!(protocol == "3.1.1", log.contains("the connection was lost over a picture"), "{log}");
        assert!(!events(&consumer).is_empty());
        daemon.stop_cleanly();
    }
}
