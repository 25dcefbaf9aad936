//! What a daemon says over MQTT is what the AsyncAPI document says that it says: each topic is in it, each message fits its schema.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::common::broker::{Broker, Consumer, Got};
use crate::common::daemon::{Daemon, eventually, root};
use crate::sink_mqtt::{config, plain};
use serde_json::json;

#[test]
fn every_message_of_a_daemon_has_its_channel_in_the_asyncapi_document_and_fits_its_schema() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let consumer = Consumer::start(broker.port, &["#"]);
    let clip = root().join("demo/clip.mp4");
    let streams = format!(
        "  - {{ id: gate, url: \"file://{0}\", pace: live, loop: true }}\n  - {{ id: yard, url: \"file://{0}\", pace: live, loop: true, \
         view: {{ regions: [{{ name: left, region: [0, 0, 0.5, 1] }}, {{ name: right, region: [0.5, 0, 0.5, 1] }}] }} }}\n",
        clip.display()
    );
    let sink = plain(
        broker.port,
        ", protocol: 5, topic_prefix: site/edge-1, home_assistant: true, home_assistant_scores: true",
    );
    let text = config(folder.path(), &streams, &sink);
    let mut daemon = Daemon::start(folder.path(), &format!("{text}snapshots: {{ path: pictures, max_side: 320 }}\n"));
    // A whole tag with all that belongs to it, of a label and of a region's.
    let said = |end: &str, payload: &str| {
        consumer
            .got()
            .iter()
            .any(|got| got.topic.ends_with(end) && (payload.is_empty() || got.payload == payload.as_bytes()))
    };
    eventually("all that is said of tags", || {
        let all =
            ["gate/cat/snapshot", "gate/event", "yard/left/cat/snapshot", "stats", "vtagd_gate/config", "box/config"];
        let all = all.iter().all(|end| said(&end.replace("vtagd_gate", "site_edge-1_gate"), ""));
        (all && said("gate/cat", "OFF") && said("yard/left/cat", "ON")).then_some(())
    });
    consumer.publish("homeassistant/status", "online");
    consumer.publish("site/edge-1/gate/enabled/set", "OFF");
    consumer.wait_for("site/edge-1/gate/status", "disabled");
    daemon.stop_cleanly();
    consumer.wait_for("site/edge-1/available", "stopped");

    let heard: Vec<Got> = consumer.got();
    let mut judge = Command::new("/usr/bin/python3")
        .arg(root().join("tests/common/asyncapi.py"))
        .arg(root().join("config/vtagd.asyncapi.json"))
        .arg("mqtt")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut topics = BTreeSet::new();
    let mut lines = String::new();
    for Got { topic, payload, .. } in &heard {
        // A picture is no text.
        let payload = std::str::from_utf8(payload).ok();
        lines += &format!("{}\n", json!({ "topic": topic, "payload": payload }));
        topics.insert(topic);
    }
    judge.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = judge.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{told}");
    assert!(topics.len() > 15, "{topics:?}");
}
