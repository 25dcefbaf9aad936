//! Checks `sinks`.

use std::collections::HashMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::schema::{Sink, SinkKind};
use super::sink_routes::{self, Known};
use super::{JsonlTarget, MqttSettings, SinkSettings, kafka_sink, nats_sink, remote};
use crate::outbox::route::{Filter, Route};
use crate::sink::jsonl::Rotation;
use crate::sink::kafka::BUILT;
use crate::yaml::field_reader::{At, Field, Reader};
use crate::yaml::problem::Severity;
use crate::yaml::{Value, relative_to};

/// Where events go if nothing is said.
pub fn default() -> (Vec<SinkSettings>, Vec<Route>) {
    let settings = SinkSettings::Jsonl(JsonlTarget::Stdout);
    let (kind, target) = sink_routes::identity(&settings);
    let (name, key) = (format!("{kind}-0"), format!("{kind} {target}"));
    (vec![settings], vec![Route { name, key, only: Filter::default(), rate: None }])
}

/// Checks all sinks and their routes; those with a problem are left out.
pub fn check(list: &[At<Sink>], known: &Known, reader: &mut Reader<'_>) -> (Vec<SinkSettings>, Vec<Route>) {
    let mut targets: HashMap<String, u64> = HashMap::new();
    let mut brokers = Brokers::default();
    let mut sinks = Vec::with_capacity(list.len());
    for sink in list {
        let Some(settings) = one(sink, reader) else { continue };
        if let Some(line) = targets.insert(sink_routes::identity(&settings).1, sink.place.line) {
            reader.error(sink, format!("goes to the same place as the sink in line {line}"), "remove one of them");
            continue;
        }
        if let SinkSettings::Mqtt(mqtt) = &settings {
            brokers.check(sink, mqtt, reader);
        }
        sinks.push((sink, settings));
    }
    let routes = sink_routes::check(&sinks, known, reader);
    (sinks.into_iter().map(|(_, settings)| settings).collect(), routes)
}

/// What sinks of type mqtt must not share at one broker: by its address and what it is, the line.
#[derive(Default)]
struct Brokers(HashMap<(String, &'static str, String), u64>);

impl Brokers {
    fn check(&mut self, sink: &At<Sink>, mqtt: &MqttSettings, reader: &mut Reader<'_>) {
        let broker = format!("{}:{}", mqtt.host().to_lowercase(), mqtt.port());
        let mut taken =
            |what: &'static str, value: &str| self.0.insert((broker.clone(), what, value.to_owned()), sink.place.line);
        if let Some(line) = taken("topic_prefix", &mqtt.topic_prefix) {
            let message = format!("has the broker and the topic prefix of the sink in line {line}");
            // Both are this daemon's, and it worked: what stays at the broker is published twice.
            let remedy = "give each a `topic_prefix` of its own, or remove one of them";
            reader.report(Severity::Warning, sink.place, &sink.path, message, remedy);
        }
        if let Some(id) = sink.value.client_id.given()
            && let Some(line) = taken("client_id", &id.value)
        {
            let message = format!(
                "is the client id of the sink in line {line} too: the broker would let in one of them at a time"
            );
            reader.error(id, message, "leave it out, and one is made up, or give each its own");
        }
    }
}

fn one(at: &At<Sink>, reader: &mut Reader<'_>) -> Option<SinkSettings> {
    let kind = match &at.value.kind {
        Field::Missing => {
            reader.missing(
                at,
                "type",
                "write `type: jsonl`, `type: mqtt`, `type: webhook`, `type: nats` or `type: kafka`",
            );
            return None;
        }
        Field::Wrong => return None,
        Field::Given(kind) => kind.value,
    };
    let (name, own): (&str, &[&str]) = match kind {
        SinkKind::Jsonl => ("jsonl", &["path", "max_size", "keep"]),
        SinkKind::Mqtt => ("mqtt", remote::MQTT_KEYS),
        SinkKind::Webhook => ("webhook", remote::WEBHOOK_KEYS),
        SinkKind::Nats => ("nats", nats_sink::KEYS),
        SinkKind::Kafka => ("kafka", kafka_sink::KEYS),
    };
    let keys = [&["type"], own, &["name", "only", "rate"]].concat();
    let all = super::keys();
    let mut foreign = false;
    if let Value::Map(entries) = &reader.document().find(&at.path).value {
        for entry in entries {
            let known = all.iter().any(|key| key.strip_prefix("sinks[].") == Some(&entry.key));
            if known && !keys.contains(&entry.key.as_str()) {
                let path = format!("{}.{}", at.path, entry.key);
                let message = format!("is not a key of a sink of type {name}");
                let remedy = format!("its keys: {}", keys.join(", "));
                reader.report(Severity::Error, entry.key_place, &path, message, remedy);
                foreign = true;
            }
        }
    }
    let settings = match kind {
        SinkKind::Jsonl => jsonl(at, reader).map(SinkSettings::Jsonl),
        SinkKind::Mqtt => remote::mqtt(at, reader).map(SinkSettings::Mqtt),
        SinkKind::Webhook => remote::webhook(at, reader).map(SinkSettings::Webhook),
        SinkKind::Nats => nats_sink::nats(at, reader).map(SinkSettings::Nats),
        SinkKind::Kafka => kafka_sink::kafka(at, BUILT, reader).map(SinkSettings::Kafka),
    };
    settings.filter(|_| !foreign)
}

fn jsonl(at: &At<Sink>, reader: &mut Reader<'_>) -> Option<JsonlTarget> {
    let path = match &at.value.path {
        Field::Missing => {
            reader.missing(at, "path", "name a file, or write \"-\" for standard output");
            return None;
        }
        Field::Wrong => return None,
        Field::Given(path) => path,
    };
    let rotation = rotation(at, reader);
    if path.value == "-" {
        if let Some(size) = at.value.max_size.given() {
            reader.error(size, "has no meaning for standard output", "remove it");
        }
        return Some(JsonlTarget::Stdout);
    }
    output(path, false, reader).map(|path| JsonlTarget::File { path, rotation })
}

fn rotation(at: &At<Sink>, reader: &mut Reader<'_>) -> Option<Rotation> {
    const KEEP: usize = 5;
    const MAX_KEEP: usize = 1000;
    let keep = at.value.keep.given();
    if let Some(keep) = keep {
        if at.value.max_size.is_missing() {
            reader.error(keep, "has no meaning without `max_size`", "add `max_size: 100MiB`, or remove it");
        } else if keep.value > MAX_KEEP {
            reader.error(keep, format!("is above {MAX_KEEP}"), "5 is a good start");
        }
    }
    let size = at.value.max_size.given()?;
    if size.value.0 == 0 {
        reader.error(size, "must be above 0", crate::yaml::units::SIZE_HELP);
    }
    Some(Rotation { max_size: size.value.0, keep: keep.map_or(KEEP, |keep| keep.value) })
}

/// A place that can be written once its missing folders are made: a file, or a folder if `folder`. Permissions are not looked at,
/// because `check` may be run by somebody else than the daemon.
pub fn output(at: &At<String>, folder: bool, reader: &mut Reader<'_>) -> Option<PathBuf> {
    if at.value.trim().is_empty() {
        reader.error(at, "is empty", "name a path");
        return None;
    }
    let path = relative_to(reader.document().file(), Path::new(&at.value));
    if !folder && path.is_dir() {
        reader.error(at, format!("{} is a folder", path.display()), "name a file in it");
        return None;
    }
    if let Ok(metadata) = path.metadata()
        && !folder
        && !metadata.is_file()
        && !metadata.file_type().is_char_device()
    {
        reader.error(at, format!("{} is neither a file nor a character device", path.display()), "choose another path");
        return None;
    }
    let above = if folder { Some(path.as_path()) } else { path.parent() };
    let obstacle = above.into_iter().flat_map(Path::ancestors).find(|folder| folder.exists()).filter(|p| !p.is_dir());
    if let Some(obstacle) = obstacle {
        let message = format!("{} cannot be made: {} is not a folder", path.display(), obstacle.display());
        reader.error(at, message, "choose another path");
        return None;
    }
    Some(path)
}
