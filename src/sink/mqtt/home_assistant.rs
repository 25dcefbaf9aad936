//! Home Assistant's device discovery: one document a stream, with a sensor for each label, and again for each label of a region, an event
//! entity and a switch. Pure.
//!
//! A document is retained, so it is there when Home Assistant starts; an empty one removes the device. Documents of this program carry
//! its name as their origin and the availability topic of their daemon, by which it knows its own again.

use serde_json::{Map, Value, json};

use super::topics::{Topics, below, region_slugs, slug, slugs};
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
    let sensor = |name: &str, unique_id: String, level: &str| {
        json!({
            "p": "binary_sensor",
            "name": name,
            "unique_id": unique_id,
            "state_topic": topics.label(id, level),
            "json_attributes_topic": topics.attributes(id, level),
        })
    };
    let image = |name: String, unique_id: String, level: &str| {
        json!({
            "p": "image",
            "name": name,
            "unique_id": unique_id,
            "image_topic": topics.snapshot(id, level),
            "content_type": "image/jpeg",
        })
    };
    for ((set, label), slug) in slugs(&stream.labels) {
        components.insert(format!("label_{slug}"), sensor(&label, format!("{device}_{slug}"), &slug));
        if snapshots {
            let image = image(format!("{label} ({set})"), format!("{device}_{slug}_snapshot"), &slug);
            components.insert(format!("snapshot_{slug}"), image);
        }
    }
    let in_regions = region_slugs(&stream.labels);
    for (region, ((set, label), slug)) in
        stream.regions.iter().flat_map(|region| in_regions.iter().map(move |l| (region, l)))
    {
        let level = below(region, slug);
        // With the length of the region's name: `a_b` with `c` is not `a` with `b_c`.
        let own = format!("{}_{region}_{slug}", region.len());
        let sensor = sensor(&format!("{label} ({region})"), format!("{device}_region_{own}"), &level);
        components.insert(format!("region_{own}"), sensor);
        if snapshots {
            let name = format!("{label} ({region}, {set})");
            let image = image(name, format!("{device}_region_snapshot_{own}"), &level);
            components.insert(format!("region_snapshot_{own}"), image);
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
    let mut said = json!({
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
    });
    if let Some(region) = &data.region {
        said["region"] = json!(region);
    }
    said
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
    fn each_region_has_components_of_its_own_and_changes_no_others() {
        let topics = Topics::new("site");
        let regions =
            |names: &[&str]| -> Vec<std::sync::Arc<str>> { names.iter().map(|name| (*name).into()).collect() };
        let labels = ["car", "b_car", "attributes"];
        let components = |names: &[&str]| {
            let document = document(&watched("cam1", &labels).with_regions(&regions(names)), &topics, true);
            rules::check(&topic("homeassistant", &topics, "cam1"), &document);
            document["cmps"].as_object().unwrap().clone()
        };
        let (none, both, one) = (components(&[]), components(&["a", "a_b"]), components(&["a_b"]));
        assert_eq!((none.len(), both.len(), one.len()), (8, 20, 14), "none falls on another one");
        assert!(none.iter().all(|(key, component)| both[key] == *component));
        assert!(one.iter().all(|(key, component)| both[key] == *component));
        let car = &both["region_3_a_b_car"];
        assert_eq!((&car["name"], &car["unique_id"]), (&json!("car (a_b)"), &json!("site_cam1_region_3_a_b_car")));
        assert_eq!(car["state_topic"], "site/cam1/a_b/car");
        assert_eq!(both["region_1_a_lot_attributes"]["state_topic"], "site/cam1/a/lot_attributes");
    }

    #[test]
    fn documents_of_others_are_not_ours() {
        let topics = Topics::new("vtagd");
        for other in ["", "x", "{}", r#"{"o":{"name":"zigbee2mqtt"},"availability":[{"topic":"vtagd/available"}]}"#] {
            assert!(!is_ours(other.as_bytes(), &topics), "{other}");
        }
    }
}
