//! What arrives at the other sides: topics, subjects, headers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::common::broker::{Consumer, Got};
use super::super::common::daemon::eventually;
use super::super::common::hook::Hook;
use super::golden::{Golden, sections};
use super::shape::shape;

/// `text` without the names that the configuration gave.
pub fn named(text: &str) -> String {
    let level = |word: &str| match word {
        "gate" | "clip" | "away" | "off" => "<stream>".to_owned(),
        "cat" | "rocket" | "cup" => "<label>".to_owned(),
        other => other.to_owned(),
    };
    let parts =
        |text: &str, separator: char| text.split(separator).map(level).collect::<Vec<_>>().join(&separator.to_string());
    parts(&parts(text, '/'), '.')
}

/// Headers, with what is the event's own or of this moment left out.
pub fn told(headers: &[(String, String)], id: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let value = |name: &str, value: &str| match name.to_ascii_lowercase().as_str() {
        _ if value == id => "<the event's id>".to_owned(),
        "host" => "…".to_owned(),
        "content-length" | "webhook-timestamp" => "<number>".to_owned(),
        "webhook-id" => "<id>".to_owned(),
        "webhook-signature" => value.split(',').next().unwrap_or_default().to_owned() + ",…",
        _ => value.replace(version, "<version>"),
    };
    let mut lines: Vec<String> = headers.iter().map(|(n, v)| format!("{n}: {}\n", value(n, v))).collect();
    lines.sort();
    lines.concat()
}

pub fn webhooks(one: &Hook, many: &Hook) -> String {
    let first = |hook: &Hook| {
        let request = eventually("a request", || hook.requests().first().cloned());
        let body = request.json();
        let told = told(&request.headers, body["id"].as_str().unwrap_or_default());
        format!("{told}body: {}", if body.is_array() { "a list of events" } else { "an event" })
    };
    sections([("one event", first(one)), ("a batch", first(many))])
}

/// What a payload is.
fn payload(got: &Got) -> String {
    match &got.payload[..] {
        [0xff, 0xd8, ..] => "JPEG".to_owned(),
        [b'{', ..] => "JSON".to_owned(),
        _ => format!("{:?}", got.text()),
    }
}

/// Waits until each topic has had its say, while tags are open.
pub fn spoken(golden: &mut Golden, consumer: &Consumer) {
    let wanted = ["vtagd/stats", "vtagd/gate/event", "vtagd/gate/rocket/snapshot", "vtagd/gate/rocket/attributes"];
    for topic in wanted {
        eventually(topic, || consumer.last(topic));
    }
    consumer.wait_for("vtagd/gate/rocket", "ON");
    consumer.wait_for("vtagd/clip/rocket", "OFF");
    consumer.wait_for("vtagd/away/status", "offline");
    let document = "homeassistant/device/vtagd_gate/config";
    let document = eventually(document, || consumer.last(document)).json();
    golden.check("home_assistant.json", &format!("{document:#}").replace(env!("CARGO_PKG_VERSION"), "…"));
}

/// Every topic with what was published on it from the first start to the last word.
pub fn mqtt(port: u16, consumer: &Consumer) -> String {
    // What lies retained comes to a newcomer before anything that is published later.
    let late = Consumer::start(port, &["#"]);
    consumer.publish("test/now", "now");
    late.wait_for("test/now", "now");
    let kept: BTreeSet<String> = late.got().iter().filter(|got| got.retained).map(|got| named(&got.topic)).collect();
    let mut topics: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut shapes: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for got in consumer.got().iter().filter(|got| !got.topic.starts_with("test/")) {
        let topic = named(&got.topic);
        topics.entry(topic.clone()).or_default().insert(payload(got));
        if payload(got) == "JSON" && !topic.starts_with("homeassistant/") && !topic.ends_with("/events") {
            shapes.entry(topic).or_default().push(without_moment(got.json()));
        }
    }
    let line = |(topic, payloads): (&String, &BTreeSet<String>)| {
        let retained = if kept.contains(topic) { " (retained)" } else { "" };
        format!("{topic}{retained}: {}\n", payloads.iter().cloned().collect::<Vec<_>>().join(" | "))
    };
    let mut text = sections([("topics", topics.iter().map(line).collect::<String>())]);
    for (topic, values) in &shapes {
        text += &sections([(topic.as_str(), shape(values))]);
    }
    text
}

/// Statistics are told as things are when the broker is connected to, once a minute.
fn without_moment(mut value: Value) -> Value {
    if let Some(streams) = value.get_mut("streams").and_then(Value::as_object_mut) {
        let mut each: Vec<Value> = std::mem::take(streams).into_iter().map(|(_, row)| row).collect();
        for row in &mut each {
            row["last_frame_age"] = Value::Null;
            row["state"] = "…".into();
        }
        value["streams"] = each.into();
    }
    value
}
