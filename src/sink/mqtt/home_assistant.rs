//! Home Assistant's device discovery: one document a stream, with a sensor for each label, an event entity and a switch. Pure.
//!
//! A document is retained, so it is there when Home Assistant starts; an empty one removes the device. Documents of this program carry
//! its name as their origin and the availability topic of their daemon, by which it knows its own again.

use serde_json::{Map, Value, json};

use super::topics::{Topics, slug, slugs};
use crate::stream::registry::RegisteredStream;

const NAME: &str = "vtagd";

/// Where the document of `stream` belongs.
pub fn topic(prefix: &str, topics: &Topics, stream: &str) -> String {
    format!("{prefix}/device/{}/config", object_id(topics, stream))
}

/// The filter that matches all documents of all devices.
pub fn filter(prefix: &str) -> String {
    format!("{prefix}/device/+/config")
}

/// Whether documents stand under such topics.
pub fn is_document(prefix: &str, topic: &str) -> bool {
    let id = topic.strip_prefix(prefix).and_then(|rest| rest.strip_prefix("/device/")?.strip_suffix("/config"));
    id.is_some_and(|id| !id.contains('/'))
}

/// Home Assistant's own availability.
pub fn birth(prefix: &str) -> String {
    format!("{prefix}/status")
}

fn object_id(topics: &Topics, stream: &str) -> String {
    format!("{}_{}", topics.node(), slug(stream))
}

/// Whether `document` was made by this daemon, in this life or an earlier one.
pub fn is_ours(document: &[u8], topics: &Topics) -> bool {
    let Ok(document) = serde_json::from_slice::<Value>(document) else { return false };
    document["o"]["name"] == NAME && document["availability"][0]["topic"] == topics.available()
}

/// The same, and it lies where this daemon's would.
pub fn is_ours_at(prefix: &str, topic: &str, document: &[u8], topics: &Topics) -> bool {
    let id = |document: &Value| document["dev"]["ids"][0].as_str().map(|id| format!("{prefix}/device/{id}/config"));
    is_ours(document, topics) && serde_json::from_slice(document).ok().as_ref().and_then(id).as_deref() == Some(topic)
}

/// The document of one stream.
pub fn document(stream: &RegisteredStream, topics: &Topics, snapshots: bool) -> Value {
    let id = stream.id();
    let device = object_id(topics, id);
    let mut components = Map::new();
    for ((set, label), slug) in slugs(&stream.labels) {
        let sensor = json!({
            "p": "binary_sensor",
            "name": label,
            "unique_id": format!("{device}_{slug}"),
            "state_topic": topics.label(id, &slug),
            "json_attributes_topic": topics.attributes(id, &slug),
        });
        components.insert(format!("label_{slug}"), sensor);
        if snapshots {
            let image = json!({
                "p": "image",
                "name": format!("{label} ({set})"),
                "unique_id": format!("{device}_{slug}_snapshot"),
                "image_topic": topics.snapshot(id, &slug),
                "content_type": "image/jpeg",
            });
            components.insert(format!("snapshot_{slug}"), image);
        }
    }
    let event = json!({
        "p": "event",
        "name": "Tag",
        "unique_id": format!("{device}_event"),
        "state_topic": topics.event(id),
        "event_types": ["start", "update", "end"],
    });
    components.insert("event".to_owned(), event);
    // A stream that is switched off is away, its switch is not.
    let switch = json!({
        "p": "switch",
        "name": "Watched",
        "unique_id": format!("{device}_enabled"),
        "state_topic": topics.enabled(id),
        "command_topic": topics.command(id),
        "availability": [availability(&topics.available())],
        "entity_category": "config",
    });
    components.insert("enabled".to_owned(), switch);
    json!({
        "dev": { "ids": [device], "name": id, "mf": NAME, "mdl": "camera stream", "sw": env!("CARGO_PKG_VERSION") },
        "o": { "name": NAME, "sw": env!("CARGO_PKG_VERSION") },
        "availability": [
            // Whatever else is added: the first tells whose document it is.
            availability(&topics.available()),
            availability(&topics.status(id)),
        ],
        "availability_mode": "all",
        "qos": 1,
        "cmps": components,
    })
}

/// Home Assistant passes over a payload that is neither of two: `stopped` and `disabled` have to be made `offline`.
fn availability(topic: &str) -> Value {
    json!({ "topic": topic, "value_template": "{{ 'online' if value == 'online' else 'offline' }}" })
}

/// What an event says beside whose it is: the attributes of its label's sensor.
pub fn about(event: &crate::event::Event) -> Value {
    let data = &event.data;
    json!({
        "set": data.set,
        "tag_id": data.tag_id,
        "score": data.score,
        "margin": data.margin,
        "rival": data.rival,
        "peak": data.peak,
        "started_at": data.started_at,
        "ended_at": data.ended_at,
        "attributes": data.attributes,
        "snapshot": data.snapshot,
    })
}

/// What the event entity gets of an event: its kind, and the rest as attributes.
pub fn event(event: &crate::event::Event) -> Value {
    let mut said = about(event);
    said["event_type"] = json!(event.kind.as_str());
    said["id"] = json!(event.id);
    said["label"] = json!(event.data.label);
    said
}

#[cfg(test)]
#[path = "../../../tests/common/home_assistant.rs"]
mod rules;

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A stream with labels of the set `lot`.
    pub fn watched(id: &str, labels: &[&str]) -> RegisteredStream {
        let labels = labels.iter().map(|label| ("lot".to_owned(), (*label).to_owned())).collect();
        RegisteredStream::new(&id.into(), labels)
    }

    #[test]
    fn documents_follow_the_rules_of_device_discovery() {
        let topics = Topics::new("site/vtagd");
        for snapshots in [false, true] {
            let document = document(&watched("cam1", &["fire", "status", "red car", "rød bil"]), &topics, snapshots);
            rules::check(&topic("homeassistant", &topics, "cam1"), &document);
            assert!(is_ours(document.to_string().as_bytes(), &topics));
            assert!(!is_ours(document.to_string().as_bytes(), &Topics::new("vtagd")), "another daemon's");
            let count = document["cmps"].as_object().unwrap().len();
            assert_eq!(count, if snapshots { 10 } else { 6 });
        }
    }

    #[test]
    fn documents_of_others_are_not_ours() {
        let topics = Topics::new("vtagd");
        for other in ["", "x", "{}", r#"{"o":{"name":"zigbee2mqtt"},"availability":[{"topic":"vtagd/available"}]}"#] {
            assert!(!is_ours(other.as_bytes(), &topics), "{other}");
        }
    }
}
