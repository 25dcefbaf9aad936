//! What is said over MQTT, NATS and Kafka, as an AsyncAPI document: `vtagd docs asyncapi`, kept as config/vtagd.asyncapi.json. Pure.
//!
//! Topics are made by what makes them when they are published ([`Topics`]), and the examples of events by what makes events; a test holds the
//! examples against the schemas, and the schemas against what a daemon sends.

use serde_json::{Map, Value, json};

use super::mqtt::topics::{Topics, below};
use crate::event::{EndReason, Event, EventKind};

/// Version of the binding of each protocol.
const MQTT: &str = "0.2.0";
const KAFKA: &str = "0.5.0";

/// A topic of MQTT.
struct Channel {
    key: &'static str,
    address: String,
    /// Of `components.messages`.
    message: &'static str,
    retained: bool,
    /// Others publish there, and the daemon listens.
    heard: bool,
    summary: &'static str,
}

/// The document.
pub fn document() -> Value {
    let mut channels = Map::new();
    let mut operations = Map::new();
    for channel in mqtt() {
        let Channel { key, address, message, retained, heard, summary } = channel;
        channels.insert(key.to_owned(), described(&address, "mqtt", message, summary));
        let binding = json!({ "qos": 1, "retain": retained, "bindingVersion": MQTT });
        operations.insert(key.to_owned(), operation(key, message, heard, summary, json!({ "mqtt": binding })));
    }
    let by_stream =
        "Every event, stored in JetStream. `Nats-Msg-Id` is the event's id: one that is sent again is stored once";
    channels.insert("natsEvents".into(), described("{subject_prefix}.events.{stream}", "nats", "NatsEvent", by_stream));
    operations.insert("natsEvents".into(), operation("natsEvents", "NatsEvent", false, by_stream, json!({})));
    let record = "Every event, acknowledged by all replicas in sync; those of one stream and label lie in one partition, in order";
    channels.insert("kafkaEvents".into(), described("{topic}", "kafka", "KafkaEvent", record));
    operations.insert("kafkaEvents".into(), operation("kafkaEvents", "KafkaEvent", false, record, json!({})));
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "vtagd",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What vtagd says of tags over MQTT, NATS and Kafka. Every event is one CloudEvents 1.0 object, the same everywhere. It comes at least \
                once, with the same `id`, and those of one stream and label in order.",
            "license": { "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0" },
        },
        "defaultContentType": "application/json",
        "servers": {
            "mqtt": { "host": "broker.example:1883", "protocol": "mqtt", "protocolVersion": "5.0", "description": "MQTT 3.1.1 or 5, with or without TLS" },
            "nats": { "host": "nats.example:4222", "protocol": "nats", "description": "NATS with JetStream" },
            "kafka": { "host": "kafka-1.example:9092", "protocol": "kafka", "description": "A Kafka cluster, or what speaks its protocol" },
        },
        "channels": channels,
        "operations": operations,
        "components": { "messages": messages(), "schemas": schemas(), "parameters": parameters() },
    })
}

fn mqtt() -> Vec<Channel> {
    let topics = Topics::new("{prefix}");
    let region = below("{region}", "{label}");
    let sent = |key, address: String, message, retained, summary| Channel {
        key,
        address,
        message,
        retained,
        heard: false,
        summary,
    };
    let heard = |key, address: String, message, summary| Channel {
        key,
        address,
        message,
        retained: false,
        heard: true,
        summary,
    };
    vec![
        sent("events", topics.events(), "Event", false, "Every event, on one line"),
        sent("owner", topics.owner(), "Owner", true, "Which daemon the prefix belongs to"),
        sent(
            "available",
            topics.available(),
            "Availability",
            true,
            "Whether the daemon is there; `offline` is its last will",
        ),
        sent("stats", topics.stats(), "Statistics", false, "Counts of each stream and of the box, once a minute"),
        sent("streamStatus", topics.status("{stream}"), "StreamStatus", true, "Whether the camera is there"),
        sent("streamEnabled", topics.enabled("{stream}"), "Switch", true, "Whether the stream is looked at"),
        heard(
            "enableStream",
            topics.command("{stream}"),
            "Switch",
            "Pauses or resumes the stream. A retained one is passed over",
        ),
        sent(
            "entityEvent",
            topics.event("{stream}"),
            "EntityEvent",
            false,
            "An event, for Home Assistant's event entity; with `home_assistant`",
        ),
        sent(
            "labelState",
            topics.label("{stream}", "{label}"),
            "LabelState",
            true,
            "Whether a tag of the label is open; of a stream with regions, in any of them",
        ),
        sent(
            "labelAttributes",
            topics.attributes("{stream}", "{label}"),
            "Attributes",
            true,
            "The label's last event, short; published before its state",
        ),
        sent(
            "labelPicture",
            topics.snapshot("{stream}", "{label}"),
            "Picture",
            true,
            "The label's last picture; with `snapshots`",
        ),
        sent(
            "regionState",
            topics.label("{stream}", &region),
            "LabelState",
            true,
            "The same of one region of the stream",
        ),
        sent(
            "regionAttributes",
            topics.attributes("{stream}", &region),
            "Attributes",
            true,
            "The same of one region of the stream",
        ),
        sent(
            "regionPicture",
            topics.snapshot("{stream}", &region),
            "Picture",
            true,
            "The same of one region of the stream",
        ),
        sent(
            "discovery",
            "{discovery_prefix}/device/{object_id}/config".to_owned(),
            "Discovery",
            true,
            "A stream or the box as a device of Home Assistant; empty: the device has gone. What goes from a device is named once by its platform alone, \
             which is not retained",
        ),
        heard(
            "homeAssistant",
            "{discovery_prefix}/status".to_owned(),
            "HomeAssistantStatus",
            "Home Assistant has started: devices are told anew",
        ),
    ]
}

/// A channel, with the parameters that stand in its address.
fn described(address: &str, server: &str, message: &str, summary: &str) -> Value {
    let names = address.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let parameters: Map<String, Value> =
        names.map(|name| (name.to_owned(), reference("#/components/parameters/", name))).collect();
    json!({
        "address": address,
        "summary": summary,
        "servers": [reference("#/servers/", server)],
        "parameters": parameters,
        "messages": { message: reference("#/components/messages/", message) },
    })
}

fn operation(channel: &str, message: &str, heard: bool, summary: &str, bindings: Value) -> Value {
    let mut said = json!({
        "action": if heard { "receive" } else { "send" },
        "channel": reference("#/channels/", channel),
        "summary": summary,
        "messages": [reference(&format!("#/channels/{channel}/messages/"), message)],
    });
    if bindings.as_object().is_some_and(|bindings| !bindings.is_empty()) {
        said["bindings"] = bindings;
    }
    said
}

fn reference(place: &str, name: &str) -> Value {
    json!({ "$ref": format!("{place}{name}") })
}

fn parameters() -> Value {
    json!({
        "prefix": { "default": "vtagd", "description": "`topic_prefix`: one of its own for each box" },
        "stream": { "description": "The stream's id", "examples": ["gate"] },
        "label": {
            "description": "The label's name, `_` for each space; with eight digits of a hash where that is not its own, or would be read as something else",
            "examples": ["red_car", "__5f0c4b1e"],
        },
        "region": { "description": "A named region of the stream's picture", "examples": ["left"] },
        "discovery_prefix": { "default": "homeassistant", "description": "`discovery_prefix`" },
        "object_id": { "description": "Prefix and stream, or the box", "examples": ["vtagd_gate", "vtagd-box"] },
        "subject_prefix": { "default": "vtagd", "description": "`subject_prefix`" },
        "topic": { "default": "vtagd.events", "description": "`topic`" },
    })
}

fn messages() -> Value {
    let words =
        |words: &[&str]| -> Vec<Value> { words.iter().map(|word| json!({ "name": word, "payload": word })).collect() };
    let message = |title: &str, kind: &str, schema: &str, examples: Value| json!({ "title": title, "contentType": kind, "payload": reference("#/components/schemas/", schema), "examples": examples });
    let (text, json_kind, cloud) = ("text/plain", "application/json", "application/cloudevents+json");
    let event = || message("A tag starts, has a new peak, or ends", cloud, "Event", json!(events()));
    let id = json!({ "type": "string", "format": "uuid", "description": "The event's `id`" });
    let mut nats = event();
    nats["headers"] = json!({
        "type": "object",
        "properties": { "Nats-Msg-Id": id, "Content-Type": { "const": cloud } },
        "required": ["Nats-Msg-Id", "Content-Type"],
    });
    let mut kafka = event();
    kafka["headers"] = json!({
        "type": "object",
        "properties": { "ce_id": id, "content-type": { "const": format!("{cloud}; charset=UTF-8") } },
        "required": ["ce_id", "content-type"],
    });
    kafka["bindings"] = json!({ "kafka": {
        "key": { "type": "string", "description": "`<stream>/<label>`", "examples": ["gate/red car"] },
        "bindingVersion": KAFKA,
    } });
    let about = events().swap_remove(0)["payload"]["data"].take();
    let mut attributes: Map<String, Value> = Map::new();
    let keys =
        ["set", "tag_id", "score", "margin", "rival", "peak", "started_at", "ended_at", "attributes", "snapshot"];
    attributes.extend(keys.map(|key| (key.to_owned(), about[key].clone())));
    let mut entity = attributes.clone();
    entity.insert("event_type".into(), json!("start"));
    entity.insert("id".into(), json!("019a1b2c-0000-7000-8000-000000000001"));
    entity.insert("label".into(), about["label"].clone());
    json!({
        "Event": event(),
        "NatsEvent": nats,
        "KafkaEvent": kafka,
        "Owner": message("Whose the prefix is", json_kind, "Owner",
            json!([{ "name": "owner", "payload": { "id": "5f0c4b1e-8c0e-4c55-9d0b-2f1a6c0e7d11", "instance": "edge-1", "program": "vtagd" } }])),
        "Availability": message("Whether the daemon is there", text, "Availability", json!(words(&["online", "stopped", "offline"]))),
        "StreamStatus": message("Whether the camera is there", text, "StreamStatus", json!(words(&["online", "offline", "disabled"]))),
        "Switch": message("ON or OFF", text, "OnOff", json!(words(&["ON", "OFF"]))),
        "LabelState": message("Whether a tag is open", text, "OnOff", json!(words(&["ON", "OFF"]))),
        "Attributes": message("The last event, short", json_kind, "Attributes",
            json!([{ "name": "none yet", "payload": {} }, { "name": "open", "payload": attributes }])),
        "EntityEvent": message("An event for Home Assistant", json_kind, "EntityEvent", json!([{ "name": "start", "payload": entity }])),
        "Picture": { "title": "A picture", "contentType": "image/jpeg", "payload": reference("#/components/schemas/", "Picture") },
        "Statistics": message("Counts", json_kind, "Statistics", json!([{ "name": "one stream", "payload": {
            "version": env!("CARGO_PKG_VERSION"), "uptime": 3600, "provider": "cpu", "sinks_waiting": 0, "frames_dropped": 5,
            "streams": { "gate": { "state": "up", "frames": 90_000, "sampled": 3600, "inferred": 3000, "reused": 595, "dropped": 5, "reconnects": 0, "last_frame_age": 0.04 } },
        } }])),
        "Discovery": message("A device of Home Assistant", json_kind, "Discovery", json!([{ "name": "a label has gone", "payload": {
            "dev": { "ids": ["vtagd_gate"], "name": "gate" }, "o": { "name": "vtagd" }, "cmps": { "label_car": { "p": "binary_sensor" } },
        } }])),
        "HomeAssistantStatus": message("Home Assistant's own availability", text, "HomeAssistantStatus", json!(words(&["online", "offline"]))),
    })
}

/// One of each kind, as they are told.
fn events() -> Vec<Value> {
    let told = |kind: EventKind, reason: Option<EndReason>| {
        let ended = |value: Value| if reason.is_some() { value } else { Value::Null };
        let mut event = json!({
            "id": "019a1b2c-0000-7000-8000-000000000001",
            "source": "/edge-1/streams/gate",
            "type": kind.cloud_type(),
            "data": {
                "stream": "gate", "set": "parking-lot", "label": "red car", "tag_id": "019a1b2c-0000-7000-8000-000000000000",
                "score": 0.75, "margin": 1.125, "rival": "an empty parking lot", "peak": 0.875,
                "started_at": "2026-05-01T12:30:04Z", "ended_at": ended(json!("2026-05-01T12:30:07.25Z")), "sampled_at": "2026-05-01T12:30:08.25Z",
                "media_start": 4.5, "media_end": ended(json!(7.75)),
                "model": { "name": "starter", "fingerprint": "0f3c5f0c4b1e", "provider": "cpu" },
                "attributes": { "severity": "info" }, "snapshot": null,
            },
        });
        if let Some(reason) = reason {
            event["data"]["reason"] = json!(reason);
        }
        // Through what makes it when it is told: fields, their order and their form are not this file's.
        let payload = serde_json::from_value::<Event>(event).map_or(Value::Null, |event| json!(event));
        json!({ "name": kind.as_str(), "payload": payload })
    };
    vec![told(EventKind::Start, None), told(EventKind::Update, None), told(EventKind::End, Some(EndReason::BelowExit))]
}

fn schemas() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    let or_null = |mut schema: Value| {
        schema["type"] = json!([schema["type"], "null"]);
        schema
    };
    let time = |description: &str| json!({ "type": "string", "format": "date-time", "description": description });
    let number = |description: &str| json!({ "type": "number", "description": description });
    let share = |description: &str| json!({ "type": "number", "minimum": 0, "maximum": 1, "description": description });
    let uuid = |description: &str| json!({ "type": "string", "format": "uuid", "description": description });
    let count = |description: &str| json!({ "type": "integer", "minimum": 0, "description": description });
    let reasons = [
        EndReason::BelowExit,
        EndReason::StreamEnded,
        EndReason::Shutdown,
        EndReason::Reconfigured,
        EndReason::Interrupted,
        EndReason::Inactive,
    ];
    let kinds = [EventKind::Start, EventKind::Update, EventKind::End];
    let about = json!({
        "set": text("The label set"),
        "tag_id": uuid("The same from start to end"),
        "score": share("Of the sample that caused the event"),
        "margin": or_null(number("The logit of `score`: by how much the label leads what it competes with; null where that is nothing")),
        "rival": or_null(text("The strongest of what it competes with: a label, or a prompt")),
        "peak": share("The best score of the tag so far"),
        "started_at": time("Of the first sample that counted towards the start"),
        "ended_at": or_null(time("Of the first sample that counted towards the end; null while the tag is open")),
        "attributes": { "type": "object", "description": "What the label set says about the label" },
        "snapshot": or_null(text("Where the picture is; null if there is none")),
        "region": text("The named region of the picture, where the stream has some"),
    });
    let with = |more: Value| {
        let mut all = about.as_object().cloned().unwrap_or_default();
        all.extend(more.as_object().cloned().unwrap_or_default());
        all
    };
    let data = with(json!({
        "stream": text("The stream's id"),
        "label": text("The label's name"),
        "sampled_at": time("When the sample that caused the event was taken"),
        "media_start": number("Seconds since the stream's first PTS"),
        "media_end": or_null(number("Likewise; null while the tag is open")),
        "reason": { "enum": reasons, "description": "Why it has ended; on `end` only" },
        "model": {
            "type": "object",
            "description": "What gave the scores",
            "properties": {
                "name": text("What it is called"),
                "fingerprint": text("Which one it is"),
                "provider": text("What computed; missing where nothing has yet"),
            },
            "required": ["name", "fingerprint"],
        },
    }));
    let needed = [
        "stream",
        "set",
        "label",
        "tag_id",
        "score",
        "margin",
        "rival",
        "peak",
        "started_at",
        "ended_at",
        "sampled_at",
        "media_start",
        "media_end",
        "model",
        "attributes",
        "snapshot",
    ];
    let entity = with(json!({
        "event_type": { "enum": kinds.map(EventKind::as_str), "description": "What has happened" },
        "id": uuid("Of the event"),
        "label": text("The label's name"),
    }));
    json!({
        "Event": {
            "type": "object",
            "description": "A CloudEvents 1.0 object in structured JSON. Later versions may add keys.",
            "properties": {
                "specversion": { "const": "1.0" },
                "id": uuid("Of the event (UUIDv7); the same whenever it is sent again"),
                "source": { "type": "string", "format": "uri-reference", "description": "`/<instance>/streams/<stream>`" },
                "type": { "enum": kinds.map(EventKind::cloud_type), "description": "What has happened" },
                "subject": text("`<set>/<label>`"),
                "time": time("When the sample that caused it was taken"),
                "datacontenttype": { "const": "application/json" },
                "data": { "type": "object", "description": "Of the tag", "properties": data, "required": needed },
            },
            "required": ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"],
        },
        "Attributes": { "type": "object", "description": "Empty until the label's first event", "properties": about },
        "EntityEvent": { "type": "object", "properties": entity, "required": ["event_type", "id", "label", "set", "tag_id"] },
        "Owner": {
            "type": "object",
            "properties": { "id": uuid("Of the daemon's outbox"), "instance": text("What people call it"), "program": { "const": "vtagd" } },
            "required": ["id", "instance", "program"],
        },
        "Availability": { "enum": ["online", "stopped", "offline"], "description": "`stopped` after a clean end" },
        "StreamStatus": { "enum": ["online", "offline", "disabled"] },
        "OnOff": { "enum": ["ON", "OFF"] },
        "HomeAssistantStatus": { "enum": ["online", "offline"] },
        "Picture": { "type": "string", "format": "binary", "description": "JPEG" },
        "Statistics": {
            "type": "object",
            "properties": {
                "version": text("Of vtagd"),
                "uptime": count("Seconds"),
                "provider": or_null(text("What computes; null while the model loads")),
                "sinks_waiting": count("Events that wait for any sink"),
                "frames_dropped": count("Of all streams, since the start"),
                "streams": { "type": "object", "description": "By id", "additionalProperties": {
                    "type": "object",
                    "properties": {
                        "state": { "enum": ["connecting", "up", "down", "disabled", "ended", "failed"] },
                        "frames": count("Decoded or seen"), "sampled": count("Chosen for a look"), "inferred": count("Scored"),
                        "reused": count("Like the one before"), "dropped": count("Lost"), "reconnects": count("Connections made again"),
                        "last_frame_age": or_null(number("Seconds")),
                    },
                } },
            },
            "required": ["version", "uptime", "streams"],
        },
        "Discovery": {
            "type": "object",
            "description": "Home Assistant's device discovery",
            "additionalProperties": true,
            "properties": {
                "dev": { "type": "object", "description": "The device" },
                "o": { "type": "object", "description": "Whose it is", "additionalProperties": true, "properties": { "name": { "const": "vtagd" } }, "required": ["name"] },
                "cmps": { "type": "object", "description": "Its components", "additionalProperties": {
                    "type": "object",
                    "additionalProperties": true,
                    "properties": { "p": { "enum": ["binary_sensor", "sensor", "image", "event", "switch"] } },
                    "required": ["p"],
                } },
            },
            "required": ["dev", "o", "cmps"],
        },
    })
}
