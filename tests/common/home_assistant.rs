//! The rules of Home Assistant's device discovery, as far as anything that we publish could break them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

fn is_id(text: &Value) -> bool {
    let text = text.as_str().unwrap();
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// Panics where `document`, published on `topic`, breaks one.
pub fn check(topic: &str, document: &Value) {
    let levels: Vec<&str> = topic.split('/').collect();
    assert!(matches!(levels[..], [_, "device", id, "config"] if is_id(&json!(id))), "{topic}");
    assert!(document["dev"]["ids"].as_array().unwrap().iter().all(is_id), "`dev` is required");
    assert!(document["o"]["name"].is_string(), "`o` is required");
    let shared = ["availability", "availability_mode", "state_topic", "qos", "encoding", "command_topic"];
    for key in document.as_object().unwrap().keys().filter(|key| !["dev", "o", "cmps"].contains(&key.as_str())) {
        assert!(shared.contains(&key.as_str()), "{key} may not stand at the root");
    }
    let available = |entity: &Value| {
        for entry in entity["availability"].as_array().unwrap() {
            // Without a template, `stopped` and `disabled` would be passed over.
            assert!(entry["topic"].is_string() && entry["value_template"].as_str().unwrap().contains("'offline'"));
        }
    };
    available(document);
    let mut unique = BTreeSet::new();
    for (key, component) in document["cmps"].as_object().unwrap() {
        assert!(is_id(&json!(key)) && is_id(&component["unique_id"]), "{key}");
        assert!(unique.insert(component["unique_id"].to_string()), "{key}: unique_id is not unique");
        let topic = match component["p"].as_str().unwrap() {
            "binary_sensor" | "sensor" => "state_topic",
            "switch" => {
                assert!(component["command_topic"].is_string());
                available(component);
                "state_topic"
            }
            "image" => "image_topic",
            "event" => {
                assert_eq!(component["event_types"], json!(["start", "update", "end"]));
                "state_topic"
            }
            other => panic!("{key} has the platform {other}"),
        };
        assert!(!component[topic].as_str().unwrap().contains(['+', '#', ' ']), "{key}");
    }
}
