//! MQTT against a real broker: topics, retained states, availability, Home Assistant's discovery, commands, TLS, pictures; and brokers
//! that are none.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::authority::Authority;
use crate::common::broker::{Broker, Consumer, Got};
use crate::common::daemon::{Daemon, eventually, root, stored};
use crate::common::{flicker, home_assistant, ipv6};
use serde_json::Value;

/// One stream that looks at cat, coffee and rocket in turn, for ever.
pub fn config(folder: &Path, streams: &str, sink: &str) -> String {
    std::fs::write(
        folder.join("things.yaml"),
        "set: things\nlabels:\n  - name: cat\n    prompts: [a cat]\n    attributes: { severity: warning }\n  - { name: status, prompts: [a rocket] }\n",
    )
    .unwrap();
    format!(
        "sampling: {{ interval: 100ms, decode: all }}\nstreams:\n{streams}labels: [things.yaml]\n\
         events: {{ enter: 0.5, exit: 0.5, after: 0s, after_exit: 0s, cooldown: 0s }}\n\
         outbox: {{ path: outbox.db }}\napi: {{ listen: 127.0.0.1:0 }}\nsinks:\n{sink}"
    )
}

pub fn stream(id: &str) -> String {
    format!("  - {{ id: {id}, url: \"file://{}/demo/clip.mp4\", pace: live, loop: true }}\n", root().display())
}

pub fn plain(port: u16, more: &str) -> String {
    format!("  - {{ type: mqtt, url: \"mqtt://127.0.0.1:{port}\"{more} }}\n")
}

/// Whether this is `beginning` and eight digits of a hash.
pub fn is_level(topic: &str, beginning: &str) -> bool {
    topic.strip_prefix(beginning).is_some_and(|hash| hash.len() == 8 && hash.chars().all(|c| c.is_ascii_hexdigit()))
}

pub fn events(consumer: &Consumer) -> Vec<Value> {
    consumer.got().iter().filter(|got| got.topic == "vtagd/events").map(Got::json).collect()
}

#[test]
fn events_states_and_availability_are_where_they_belong() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let consumer = Consumer::start(broker.port, &["#"]);
    for protocol in ["3.1.1", "5"] {
        consumer.forget();
        let sink = plain(broker.port, &format!(", protocol: {protocol}"));
        let config = config(folder.path(), &stream("gate"), &sink);
        let mut daemon = Daemon::start(folder.path(), &config);
        consumer.wait_for("vtagd/available", "online");
        consumer.wait_for("vtagd/gate/status", "online");
        let start = eventually("a cat", || {
            events(&consumer).into_iter().find(|e| e["data"]["label"] == "cat" && e["type"] == "dev.vtagd.tag.start")
        });
        assert_eq!(
            (&start["specversion"], &start["data"]["attributes"]["severity"]),
            (&"1.0".into(), &"warning".into())
        );
        consumer.wait_for("vtagd/gate/cat", "ON");
        let about = eventually("attributes", || {
            consumer.last("vtagd/gate/cat/attributes").filter(|got| got.json()["tag_id"].is_string())
        });
        assert_eq!(about.json()["attributes"]["severity"], "warning");
        // What the label leads by and what it leads, as its event has them.
        assert!(about.json()["margin"].is_number() && about.json()["rival"] == "status", "{}", about.json());
        // A label that is called as a level with a meaning.
        eventually("the state of the other label", || {
            consumer.got().into_iter().find(|got| is_level(&got.topic, "vtagd/gate/status_"))
        });
        assert!(consumer.got().iter().all(|got| !got.topic.starts_with("homeassistant")), "it was not asked for");
        daemon.stop_cleanly();
        consumer.wait_for("vtagd/available", "stopped");
        consumer.wait_for("vtagd/gate/cat", "OFF");
        eventually("statistics", || {
            consumer.last("vtagd/stats").filter(|got| got.json()["streams"]["gate"]["frames"].is_u64())
        });
    }

    // Killed, the broker tells its last will; a newcomer finds what is retained.
    let mut daemon = Daemon::start(folder.path(), &config(folder.path(), &stream("gate"), &plain(broker.port, "")));
    consumer.wait_for("vtagd/available", "online");
    daemon.kill();
    consumer.wait_for("vtagd/available", "offline");
    let late = Consumer::start(broker.port, &["late/#", "vtagd/#"]);
    late.wait_for("vtagd/available", "offline");
    late.wait_for("vtagd/gate/enabled/state", "ON");
    assert!(late.got().iter().all(|got| got.retained));
    assert!(late.last("vtagd/events").is_none() && late.last("vtagd/stats").is_none(), "events are not retained");
}

#[test]
fn a_broker_whose_ipv6_address_has_a_zone_is_reached() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let consumer = Consumer::start(broker.port, &["#"]);
    let Some(address) = ipv6::with_zone(broker.port) else {
        println!("skipped: this machine has no IPv6");
        return;
    };
    let sink = format!("  - {{ type: mqtt, url: \"mqtt://{address}\" }}\n");
    let mut daemon = Daemon::start(folder.path(), &config(folder.path(), &stream("gate"), &sink));
    consumer.wait_for("vtagd/gate/cat", "ON");
    daemon.stop_cleanly();
    consumer.wait_for("vtagd/available", "stopped");
}

#[test]
fn home_assistant_finds_devices_that_come_and_go_and_a_second_start_tells_nothing_new() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let consumer = Consumer::start(broker.port, &["homeassistant/#", "vtagd/#"]);
    // Another program's device, and another daemon's.
    let foreign =
        r#"{"dev":{"ids":["x"]},"o":{"name":"vtagd"},"availability":[{"topic":"other/available"}],"cmps":{}}"#;
    let topic = "homeassistant/device/other_gate/config";
    let options = |c: &Consumer| c.publish(topic, foreign);
    options(&consumer);
    let sink = plain(broker.port, ", home_assistant: true");
    let both = format!("{}{}", stream("gate"), stream("yard"));
    let config_both = config(folder.path(), &both, &sink);
    let documents = |consumer: &Consumer| -> Vec<Got> {
        consumer.got().into_iter().filter(|g| g.topic.starts_with("homeassistant/device/vtagd_")).collect()
    };
    let mut daemon = Daemon::start(folder.path(), &config_both);
    for id in ["gate", "yard"] {
        let topic = format!("homeassistant/device/vtagd_{id}/config");
        let document = eventually("a document", || consumer.last(&topic));
        home_assistant::check(&topic, &document.json());
        assert_eq!(document.json()["cmps"].as_object().unwrap().len(), 4, "two labels, an event, a switch");
    }
    // The box is a device of its own, and its streams belong to it.
    let topic_of_box = "homeassistant/device/vtagd-box/config";
    let of_box = eventually("the box's document", || consumer.last(topic_of_box)).json();
    home_assistant::check(topic_of_box, &of_box);
    let of_stream = consumer.last("homeassistant/device/vtagd_gate/config").unwrap().json();
    assert_eq!(of_stream["dev"]["via_device"], of_box["dev"]["ids"][0]);
    let stats = eventually("statistics", || consumer.last("vtagd/stats")).json();
    assert!(
        stats["provider"] == "cpu" && stats["sinks_waiting"].is_u64() && stats["frames_dropped"].is_u64(),
        "{stats}"
    );
    let told = eventually("something for the event entity", || consumer.last("vtagd/gate/event"));
    assert!(["start", "update", "end"].contains(&told.json()["event_type"].as_str().unwrap()));
    daemon.stop_cleanly();
    consumer.wait_for("vtagd/available", "stopped");
    let before = documents(&consumer).len();
    assert_eq!(before, 2);

    // Again: nothing new.
    consumer.forget();
    let mut daemon = Daemon::start(folder.path(), &config_both);
    consumer.wait_for("vtagd/gate/status", "online");
    eventually("events flow", || (!events(&consumer).is_empty()).then_some(()));
    assert_eq!(documents(&consumer), []);
    // Home Assistant was started: everything once more.
    consumer.publish("homeassistant/status", "online");
    eventually("both documents", || (documents(&consumer).len() == 2).then_some(()));

    // A stream goes, by a reload; then, while the daemon is away, the other.
    std::fs::write(folder.path().join("vtagd.yaml"), config(folder.path(), &stream("gate"), &sink)).unwrap();
    daemon.signal(libc::SIGHUP);
    consumer.wait_for("homeassistant/device/vtagd_yard/config", "");
    consumer.wait_for("vtagd/yard/status", "");
    daemon.stop_cleanly();
    let mut daemon = Daemon::start(folder.path(), &config(folder.path(), &stream("attic"), &sink));
    consumer.wait_for("homeassistant/device/vtagd_gate/config", "");
    consumer.wait_for("vtagd/gate/cat", "");
    consumer.wait_for("vtagd/gate/cat/attributes", "");
    assert_eq!(consumer.last(topic).map(|got| got.text()), None, "nobody else's device is touched");
    daemon.stop_cleanly();
}

#[test]
fn a_command_pauses_a_stream_until_another_one_and_reloads_do_not_undo_it() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let consumer = Consumer::start(broker.port, &["vtagd/#"]);
    let both = format!("{}{}", stream("gate"), stream("yard"));
    let mut daemon = Daemon::start(folder.path(), &config(folder.path(), &both, &plain(broker.port, "")));
    consumer.wait_for("vtagd/gate/status", "online");
    eventually("a tag is open", || consumer.last("vtagd/gate/cat").filter(|got| got.payload == b"ON"));
    consumer.publish("vtagd/gate/enabled/set", "OFF");
    consumer.wait_for("vtagd/gate/enabled/state", "OFF");
    consumer.wait_for("vtagd/gate/status", "disabled");
    consumer.wait_for("vtagd/gate/cat", "OFF");
    assert_eq!(
        consumer.last("vtagd/yard/status").map(|got| got.text()).as_deref(),
        Some("online"),
        "the other goes on"
    );
    for nonsense in [("vtagd/gate/enabled/set", "maybe"), ("vtagd/nowhere/enabled/set", "OFF")] {
        consumer.publish(nonsense.0, nonsense.1);
    }
    daemon.signal(libc::SIGHUP);
    daemon.wait_for_log("the new configuration runs");
    let (_, body) = daemon.get("/api/v1/streams");
    let rows: Value = serde_json::from_str(&body).unwrap();
    let state = |rows: &Value, id: &str| {
        rows["streams"].as_array().unwrap().iter().find(|r| r["id"] == id).unwrap()["state"].clone()
    };
    assert_eq!((state(&rows, "gate"), state(&rows, "yard")), ("disabled".into(), "up".into()));
    consumer.publish("vtagd/gate/enabled/set", "ON");
    consumer.wait_for("vtagd/gate/status", "online");
    daemon.stop_cleanly();
}

#[test]
fn a_stop_without_an_answering_broker_is_in_time_and_clean_and_the_events_wait() {
    // One that is late would be left behind, and the exit code would be 1.
    for (what, gone) in [("gone", true), ("frozen", false)] {
        let folder = tempfile::tempdir().unwrap();
        let mut broker = Broker::start(folder.path());
        let consumer = Consumer::start(broker.port, &["vtagd/#"]);
        let mut text = flicker::config(folder.path(), 1, 1);
        text.push_str("outbox: { path: outbox.db }\nsinks:\n");
        text.push_str(&plain(broker.port, ", name: broker"));
        let mut daemon = Daemon::start(folder.path(), &text);
        eventually("events arrive", || (events(&consumer).len() > 20).then_some(()));
        drop(consumer);
        if gone {
            broker.stop()
        } else {
            broker.freeze()
        }
        let before = stored(folder.path()).len();
        eventually("events wait", || (stored(folder.path()).len() > before + 50).then_some(()));
        daemon.stop_cleanly();
        let log = daemon.log();
        assert!(log.contains("they wait in the outbox"), "{what}: {log}");
    }
}

#[test]
fn tls_with_an_authority_a_client_certificate_and_a_password_and_no_secret_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let authority = Authority::new(folder.path(), "ca");
    authority.issue("server");
    authority.issue("client");
    Authority::new(folder.path(), "other").issue("stranger");
    const PASSWORD: &str = "correct horse battery";
    let hashed = std::process::Command::new("mosquitto_passwd")
        .args(["-c", "-b"])
        .args([path("passwords").to_str().unwrap(), "vtagd", PASSWORD])
        .output()
        .expect("run `make setup` first: it installs mosquitto");
    assert!(hashed.status.success());
    std::fs::write(path("password"), format!("{PASSWORD}\n")).unwrap();
    std::fs::write(path("wrong"), "wrong password").unwrap();
    let d = folder.path().display();
    // The consumer comes by another door.
    let access = crate::common::broker::free_port();
    let broker = Broker::configured(
        folder.path(),
        &format!(
            "cafile {d}/ca.pem\ncertfile {d}/server.pem\nkeyfile {d}/server.key\nrequire_certificate true\n\
             allow_anonymous false\npassword_file {d}/passwords\nper_listener_settings true\n"
        )
        .replace("per_listener_settings true\n", &format!("listener {access} 127.0.0.1\nallow_anonymous true\n")),
    );
    let _ = &broker;
    let secure = |more: &str| {
        format!("  - {{ type: mqtt, url: \"mqtts://localhost:{}\", username: vtagd{more} }}\n", broker.port)
    };
    let all = ", ca: ca.pem, cert: client.pem, key: client.key";
    for protocol in ["3.1.1", "5"] {
        let sink = secure(&format!("{all}, protocol: {protocol}, password: {{ file: password }}"));
        let mut daemon = Daemon::start(folder.path(), &config(folder.path(), &stream("gate"), &sink));
        daemon.wait_for_log("delivers sink=\"mqtt-0\"");
        assert!(!daemon.log().contains(PASSWORD));
        daemon.stop_cleanly();
    }
    let password = ", password: { file: password }";
    for (more, why) in [
        (format!("{all}, password: {{ file: wrong }}"), ""),
        (format!("{password}, cert: client.pem, key: client.key"), "name the authority's PEM file with `ca`"),
        (format!("{password}, ca: other.pem, cert: client.pem, key: client.key"), "with `ca`"),
        (format!("{password}, ca: ca.pem"), "`cert` and `key`"),
        (format!("{password}, ca: ca.pem, cert: stranger.pem, key: stranger.key"), "`cert` and `key`"),
    ] {
        let mut daemon = Daemon::start(folder.path(), &config(folder.path(), &stream("gate"), &secure(&more)));
        daemon.wait_for_log("cannot deliver");
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains("cannot deliver")).unwrap();
        assert!(line.contains(why) && line.contains("sink=\"mqtt-0\""), "{line}");
        assert!(!log.contains(PASSWORD) && !log.contains("wrong password") && !log.contains("delivers sink"), "{log}");
        daemon.stop_cleanly();
    }
}

#[test]
fn the_picture_of_a_tag_is_on_a_topic_and_behind_its_address() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let consumer = Consumer::start(broker.port, &["vtagd/#", "homeassistant/#"]);
    let sink = plain(broker.port, ", home_assistant: true");
    let mut text = config(folder.path(), &stream("gate"), &sink);
    text.push_str("snapshots: { path: pictures, max_side: 320 }\n");
    let mut daemon = Daemon::start(folder.path(), &text);
    let picture = eventually("a picture", || consumer.last("vtagd/gate/cat/snapshot"));
    let decoded = image::load_from_memory(&picture.payload).unwrap();
    assert_eq!(decoded.width().max(decoded.height()), 320);
    let event = eventually("its event", || events(&consumer).into_iter().find(|e| e["data"]["label"] == "cat"));
    let address = event["data"]["snapshot"].as_str().unwrap().to_owned();
    assert!(address.len() < 200 && address.starts_with(&daemon.url()), "an address, never the picture: {address}");
    let served = ureq::get(&address).call().unwrap();
    assert_eq!(served.headers().get("content-type").unwrap(), "image/jpeg");
    let bytes = served.into_body().read_to_vec().unwrap();
    assert_eq!(image::load_from_memory(&bytes).unwrap().width(), decoded.width());
    assert_eq!(daemon.get("/api/v1/snapshots/..%2fvtagd.yaml").0, 404);
    assert_eq!(daemon.get("/api/v1/snapshots/nothing.jpg").0, 404);
    let document = eventually("a document", || consumer.last("homeassistant/device/vtagd_gate/config")).json();
    home_assistant::check("homeassistant/device/vtagd_gate/config", &document);
    let image = &document["cmps"]["snapshot_cat"];
    assert_eq!((&image["p"], &image["image_topic"]), (&"image".into(), &"vtagd/gate/cat/snapshot".into()));
    let end = eventually("the end of the tag", || {
        let tag = event["data"]["tag_id"].clone();
        events(&consumer).into_iter().find(|e| e["type"] == "dev.vtagd.tag.end" && e["data"]["tag_id"] == tag)
    });
    assert!(end["data"]["snapshot"].as_str().unwrap().contains(event["data"]["tag_id"].as_str().unwrap()));
    daemon.stop_cleanly();
    assert!(std::fs::read_dir(folder.path().join("pictures")).unwrap().count() >= 1);
}

/// Listens and does `with` what comes, one connection after the other.
fn impostor(with: impl Fn(std::net::TcpStream) + Send + Sync + 'static) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    let with = Arc::new(with);
    thread::spawn(move || {
        for stream in listener.incoming() {
            counter.fetch_add(1, Ordering::SeqCst);
            let with = Arc::clone(&with);
            thread::spawn(move || with(stream.unwrap()));
        }
    });
    (port, connections)
}

/// Reads and reads.
fn swallow(mut stream: std::net::TcpStream) {
    let mut buffer = [0; 65536];
    while stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
}

#[test]
fn a_broker_that_is_none_costs_no_memory_and_no_other_sink() {
    let folder = tempfile::tempdir().unwrap();
    // Takes CONNECT, answers it, and never acknowledges anything.
    let (silent, silent_count) = impostor(|mut stream| {
        stream.write_all(&[0x20, 2, 0, 0]).unwrap();
        swallow(stream);
    });
    // Does not even answer.
    let (mute, mute_count) = impostor(swallow);
    let (rubbish, rubbish_count) = impostor(|mut stream| {
        let bytes: Vec<u8> = (0..1 << 16).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        while stream.write_all(&bytes).is_ok() {}
    });
    // Announces a packet of 256 MB, and sends it.
    let (huge, huge_count) = impostor(|mut stream| {
        let _ = stream.write_all(&[0x20, 2, 0, 0, 0x30, 0xff, 0xff, 0xff, 0x7f]);
        while stream.write_all(&[0; 1 << 16]).is_ok() {}
    });
    let mut text = flicker::config(folder.path(), 1, 10);
    text.push_str("outbox: { path: outbox.db }\nsinks:\n  - { type: jsonl, path: \"-\" }\n");
    for port in [silent, mute, rubbish, huge] {
        text.push_str(&format!("  - {{ type: mqtt, url: \"mqtt://127.0.0.1:{port}\", timeout: 2s }}\n"));
    }
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.wait_ready();
    eventually("the file gets its events", || (daemon.events().len() > 500).then_some(()));
    let before = daemon.rss();
    for (count, what) in
        [(silent_count, "silent"), (mute_count, "mute"), (rubbish_count, "rubbish"), (huge_count, "huge")]
    {
        eventually(what, || (count.load(Ordering::SeqCst) >= 3).then_some(()));
    }
    let events = daemon.events().len();
    eventually("the file still gets its events", || (daemon.events().len() > events + 500).then_some(()));
    let grown = daemon.rss().saturating_sub(before) >> 20;
    eprintln!("memory grew by {grown} MiB");
    assert!(grown < 100, "memory grew by {grown} MiB");
    for told in ["has acknowledged nothing for 2s", "no answer to CONNECT in 2s"] {
        eventually(told, || daemon.log().contains(told).then_some(()));
    }
    thread::sleep(Duration::from_millis(10));
    daemon.stop_cleanly();
}
