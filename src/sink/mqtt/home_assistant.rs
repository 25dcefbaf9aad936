//! Home Assistant's device discovery: one document a stream, with a sensor for each label, and again for each label of a region, an event
//! entity and a switch. Pure.
//!
//! A document is retained, so it is there when Home Assistant starts; an empty one removes the device. Documents of this program carry
//! its name as their origin and the availability topic of their daemon, by which it knows its own again.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::label_levels::LabelLevels;
use super::topics::{TAKEN, TAKEN_BELOW, Topics, below, slug};
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

/// What documents say beside streams and labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// There are pictures.
    pub snapshots: bool,
    /// A number for each label's score is wanted.
    pub scores: bool,
    /// What the box that the streams belong to is called; `None`: it is not told as a device of its own.
    pub instance: Option<String>,
}

/// What the box itself is called among devices. No stream's device is: theirs have `_` there.
fn box_id(topics: &Topics) -> String {
    format!("{}-box", topics.node())
}

/// Where the document of the box belongs.
pub fn box_topic(prefix: &str, topics: &Topics) -> String {
    format!("{prefix}/device/{}/config", box_id(topics))
}

/// The document of the box itself, called `instance`: whether it is up, what computes, what waits and what is lost. `url` is its page.
pub fn box_document(topics: &Topics, instance: &str, url: Option<&str>) -> Value {
    let id = box_id(topics);
    let number = |name: &str, key: &str, icon: &str| {
        json!({
            "p": "sensor",
            "name": name,
            "unique_id": format!("{id}_{key}"),
            "state_topic": topics.stats(),
            "value_template": format!("{{{{ value_json.{key} }}}}"),
            "entity_category": "diagnostic",
            "icon": icon,
        })
    };
    let mut provider = number("Provider", "provider", "mdi:chip");
    provider["value_template"] = json!("{{ value_json.provider or 'none' }}");
    let counted = |mut sensor: Value, class: &str| {
        sensor["state_class"] = json!(class);
        sensor
    };
    let up = json!({
        "p": "binary_sensor",
        "name": "Up",
        "unique_id": format!("{id}_up"),
        "state_topic": topics.available(),
        "value_template": "{{ 'ON' if value == 'online' else 'OFF' }}",
        "device_class": "connectivity",
        "entity_category": "diagnostic",
        // It says so itself.
        "availability": [{ "topic": topics.available(), "value_template": "{{ 'offline' if value == '' else 'online' }}" }],
    });
    let mut device = json!({
        "ids": [id],
        "name": format!("{NAME} {instance}"),
        "mf": NAME,
        "mdl": "box",
        "sw": env!("CARGO_PKG_VERSION"),
    });
    if let Some(url) = url {
        device["configuration_url"] = json!(url);
    }
    json!({
        "dev": device,
        "o": { "name": NAME, "sw": env!("CARGO_PKG_VERSION") },
        "availability": [availability(&topics.available())],
        "availability_mode": "all",
        "qos": 1,
        "cmps": {
            "up": up,
            "provider": provider,
            "waiting": counted(number("Events waiting for sinks", "sinks_waiting", "mdi:tray-full"), "measurement"),
            "dropped": counted(number("Frames dropped", "frames_dropped", "mdi:image-off"), "total_increasing"),
        },
    })
}

/// The document of one stream.
pub fn document(stream: &RegisteredStream, topics: &Topics, levels: &LabelLevels, announced: &Announced) -> Value {
    let Announced { snapshots, scores, instance } = announced;
    let (snapshots, scores) = (*snapshots, *scores);
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
    // Of the last event; a label that never had one has none.
    let score = |name: &str, unique_id: String, level: &str| {
        json!({
            "p": "sensor",
            "name": name,
            "unique_id": unique_id,
            "state_topic": topics.attributes(id, level),
            "value_template": "{{ (value_json.score * 100) | round(1) if value_json.score is defined else None }}",
            "unit_of_measurement": "%",
            "state_class": "measurement",
        })
    };
    for ((set, label), slug) in levels.of_stream(stream, false) {
        if scores {
            let sensor = score(&format!("{label} score"), format!("{device}_score_{slug}"), &slug);
            components.insert(format!("score_{slug}"), sensor);
        }
        components.insert(format!("label_{slug}"), sensor(&label, format!("{device}_{slug}"), &slug));
        if snapshots {
            let image = image(format!("{label} ({set})"), format!("{device}_{slug}_snapshot"), &slug);
            components.insert(format!("snapshot_{slug}"), image);
        }
    }
    let in_regions = levels.of_stream(stream, true);
    for (region, ((set, label), slug)) in
        stream.regions.iter().flat_map(|region| in_regions.iter().map(move |l| (region, l)))
    {
        let level = below(region, slug);
        let own = own(region, slug);
        if scores {
            let sensor = score(&format!("{label} score ({region})"), format!("{device}_region_score_{own}"), &level);
            components.insert(format!("region_score_{own}"), sensor);
        }
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
    let mut about =
        json!({ "ids": [device], "name": id, "mf": NAME, "mdl": "camera stream", "sw": env!("CARGO_PKG_VERSION") });
    if instance.is_some() {
        about["via_device"] = json!(box_id(topics));
    }
    json!({
        "dev": about,
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

/// What a document has beside the device: each component's key and platform.
pub type Components = BTreeMap<String, String>;

/// The components of `document`; none if it cannot be understood.
pub fn components(document: &[u8]) -> Components {
    let document: Value = serde_json::from_slice(document).unwrap_or_default();
    let all = document["cmps"].as_object().into_iter().flatten();
    all.filter_map(|(key, component)| Some((key.clone(), component["p"].as_str()?.to_owned()))).collect()
}

/// `document` with nothing but those of `before` that it does not have any more, by their platform alone: so Home Assistant lets go of them. What
/// a document merely leaves out it keeps, and where it is still busy with one component of a document, it passes over those behind it: so nothing
/// else stands in this one. `None` where nothing has gone.
pub fn parting(document: &[u8], before: &Components) -> Option<Vec<u8>> {
    let mut document: Value = serde_json::from_slice(document).ok()?;
    let all = document["cmps"].as_object_mut()?;
    let gone = before.iter().filter(|(key, _)| !all.contains_key(*key));
    let gone: Map<_, _> = gone.map(|(key, platform)| (key.clone(), json!({ "p": platform }))).collect();
    if gone.is_empty() {
        return None;
    }
    *all = gone;
    Some(document.to_string().into())
}

/// The components that tell of a label, or of a label in a region, by the levels of its state below its stream; by those of its picture that
/// alone. Others have none.
pub fn components_of(levels: &[&str]) -> Components {
    let image = |key: String| Components::from([(key, "image".to_owned())]);
    let (region, own) = match levels {
        [level, "snapshot"] if !TAKEN.contains(level) => return image(format!("snapshot_{level}")),
        [region, level, "snapshot"] => return image(format!("region_snapshot_{}", own(region, level))),
        [level] if !TAKEN.contains(level) => ("", (*level).to_owned()),
        [region, level] if !TAKEN_BELOW.contains(level) => ("region_", own(region, level)),
        _ => return Components::new(),
    };
    let state = if region.is_empty() { format!("label_{own}") } else { format!("region_{own}") };
    let others = [("score", "sensor"), ("snapshot", "image")];
    let others = others.map(|(name, platform)| (format!("{region}{name}_{own}"), platform.to_owned()));
    others.into_iter().chain([(state, "binary_sensor".to_owned())]).collect()
}

/// What a label of a region is called. With the length of the region's name: `a_b` with `c` is not `a` with `b_c`.
fn own(region: &str, level: &str) -> String {
    format!("{}_{region}_{level}", region.len())
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
    use super::super::label_levels;
    use super::*;

    /// A stream with labels of the set `lot`.
    pub fn watched(id: &str, labels: &[&str]) -> RegisteredStream {
        let labels = labels.iter().map(|label| ("lot".to_owned(), (*label).to_owned())).collect();
        RegisteredStream::new(&id.into(), labels)
    }

    /// Those that the labels of one stream get.
    fn levels(stream: &RegisteredStream) -> LabelLevels {
        let mut levels = LabelLevels::default();
        levels.assign(std::slice::from_ref(stream), &Topics::new("v"), |_| false);
        levels
    }

    #[test]
    fn documents_follow_the_rules_of_device_discovery() {
        let topics = Topics::new("site/vtagd");
        for snapshots in [false, true] {
            let stream = watched("cam1", &["fire", "status", "red car", "rød bil"]);
            let announced = Announced { snapshots, ..Announced::default() };
            let document = document(&stream, &topics, &levels(&stream), &announced);
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
            let stream = watched("cam1", &labels).with_regions(&regions(names));
            let announced = Announced { snapshots: true, ..Announced::default() };
            let document = document(&stream, &topics, &levels(&stream), &announced);
            rules::check(&topic("homeassistant", &topics, "cam1"), &document);
            document["cmps"].as_object().unwrap().clone()
        };
        let (none, both, one) = (components(&[]), components(&["a", "a_b"]), components(&["a_b"]));
        assert_eq!((none.len(), both.len(), one.len()), (8, 20, 14), "none falls on another one");
        assert!(none.iter().all(|(key, component)| both[key] == *component));
        assert!(one.iter().all(|(key, component)| both[key] == *component));
        // Each label's are known again by the topic of its state.
        let states = both.values().filter(|component| component["p"] == "binary_sensor");
        let known: Components = states
            .flat_map(|sensor| {
                let levels: Vec<&str> = sensor["state_topic"].as_str().unwrap().split('/').skip(2).collect();
                components_of(&levels)
            })
            .collect();
        let of_stream = super::components(json!({ "cmps": both }).to_string().as_bytes());
        assert!(of_stream.iter().all(|(key, p)| known.get(key) == Some(p) || ["event", "enabled"].contains(&&**key)));
        // A picture that is not made any more, of a label that stays.
        for (picture, key) in [("car/snapshot", "snapshot_car"), ("a_b/car/snapshot", "region_snapshot_3_a_b_car")] {
            let levels: Vec<&str> = picture.split('/').collect();
            assert!(components_of(&levels).keys().eq([key]) && of_stream[key] == "image", "{picture}");
        }
        for other in ["status", "enabled/state", "event", "snapshot", "car/attributes", "a/car/attributes"] {
            assert!(components_of(&other.split('/').collect::<Vec<_>>()).is_empty(), "{other}");
        }
        let car = &both["region_3_a_b_car"];
        assert_eq!((&car["name"], &car["unique_id"]), (&json!("car (a_b)"), &json!("site_cam1_region_3_a_b_car")));
        assert_eq!(car["state_topic"], "site/cam1/a_b/car");
        let attributes = label_levels::alone("lot", "attributes", true);
        let topic = format!("site/cam1/a/{attributes}");
        assert_eq!(both[&format!("region_1_a_{attributes}")]["state_topic"], topic);
    }

    #[test]
    fn the_box_is_a_device_that_its_streams_belong_to_and_scores_are_numbers_where_they_are_wanted() {
        let topics = Topics::new("site/vtagd");
        let document = box_document(&topics, "edge-1", Some("https://edge-1.example"));
        rules::check(&box_topic("homeassistant", &topics), &document);
        assert!(is_ours(document.to_string().as_bytes(), &topics));
        assert!(is_ours_at("ha", "ha/device/site_vtagd-box/config", document.to_string().as_bytes(), &topics));
        assert_eq!(document["dev"]["configuration_url"], "https://edge-1.example");
        let stream = watched("cam1", &["fire"]).with_regions(&["door".into()]);
        let announced = Announced { scores: true, instance: Some("edge-1".into()), snapshots: true };
        let of_stream = super::document(&stream, &topics, &levels(&stream), &announced);
        rules::check(&topic("homeassistant", &topics, "cam1"), &of_stream);
        assert_eq!(of_stream["dev"]["via_device"], document["dev"]["ids"][0]);
        let sensor = &of_stream["cmps"]["score_fire"];
        assert_eq!(
            (&sensor["p"], &sensor["state_topic"]),
            (&json!("sensor"), &json!("site/vtagd/cam1/fire/attributes"))
        );
        assert!(of_stream["cmps"]["region_score_4_door_fire"].is_object());
    }

    #[test]
    fn documents_of_others_are_not_ours() {
        let topics = Topics::new("vtagd");
        for other in ["", "x", "{}", r#"{"o":{"name":"zigbee2mqtt"},"availability":[{"topic":"vtagd/available"}]}"#] {
            assert!(!is_ours(other.as_bytes(), &topics), "{other}");
        }
    }
}
