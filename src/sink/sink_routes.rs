//! Checks what every kind of sink has: its name, its filter, its rate limit; and `outbox`.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};
use url::Url;

use super::schema::{Only, Rate as RawRate, Sink, SinkKind, Store};
use super::{JsonlTarget, SinkSettings, sink_settings};
use crate::event::EventKind;
use crate::outbox::OutboxSettings;
use crate::outbox::route::{EventSeverity, Filter, Rate, Route};
use crate::platform::hex::hex;
use crate::platform::paths;
use crate::words;
use crate::yaml::field_reader::{At, Field, FromNode, Reader};
use crate::yaml::{Node, units};

/// `path` of an outbox without a file, as SQLite has it.
const MEMORY: &str = ":memory:";

/// An outbox of less would be full of its own tables.
const MIN_SIZE: u64 = 1 << 20;

/// What a name may be made of: it is a label of metrics and a word of commands.
const NAME_HELP: &str = "write, for example, broker or night-shift";

words! {
    EventKind {
        "start" => Self::Start,
        "update" => Self::Update,
        "end" => Self::End,
    }
    EventSeverity {
        "debug" => Self::Debug,
        "info" => Self::Info,
        "notice" => Self::Notice,
        "warning" => Self::Warning,
        "error" => Self::Error,
        "critical" => Self::Critical,
    }
}

/// Attributes and the values that fit, one or a list.
pub struct Wanted(BTreeMap<String, Vec<serde_json::Value>>);

impl FromNode for Wanted {
    const NULL_IS_MISSING: bool = true;

    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "object" })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let serde_json::Value::Object(map) = serde_json::Value::from_node(node, path, reader)? else {
            reader.mismatch(node, path, "a mapping", "write keys and values, such as { zone: [dock, yard] }");
            return None;
        };
        let values = |value| match value {
            serde_json::Value::Array(values) => values,
            one => vec![one],
        };
        Some(Self(map.into_iter().map(|(key, value)| (key, values(value))).collect()))
    }
}

/// What the filters of sinks may name.
#[derive(Default)]
pub struct Known {
    pub streams: Vec<String>,
    pub sets: Vec<String>,
    pub labels: Vec<String>,
    /// Something could not be read, so a name that is not here may exist.
    pub incomplete: bool,
}

/// The routes of `kept`, sinks that were checked and are without a problem, in order.
pub fn check(kept: &[(&At<Sink>, SinkSettings)], known: &Known, reader: &mut Reader<'_>) -> Vec<Route> {
    let mut names: HashMap<String, u64> = HashMap::new();
    let mut routes = Vec::with_capacity(kept.len());
    for (index, (at, settings)) in kept.iter().enumerate() {
        let (kind, target) = identity(settings);
        let given = at.value.name.given();
        let name = match given {
            Some(name) => {
                let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
                if name.value.is_empty() || name.value.len() > 64 || !name.value.chars().all(fits) {
                    let message = "is not a name of a sink (lower-case letters, digits, `_` and `-`, at most 64)";
                    reader.error(name, message, NAME_HELP);
                }
                name.value.clone()
            }
            None => format!("{kind}-{index}"),
        };
        if let Some(line) = names.insert(name.clone(), at.place.line) {
            let message = format!("has the name {name}, as the sink in line {line}");
            reader.error(at, message, "give each a `name` of its own");
        }
        // What waits for a sink is found again by this: its name if it has one, otherwise where it goes.
        let key = given.map_or_else(|| format!("{kind} {target}"), |name| format!("name {}", name.value));
        let only = at.value.only.given().map(|only| filter(&only.value, known, reader)).unwrap_or_default();
        let rate = at.value.rate.given().and_then(|rate| self::rate(rate, reader));
        routes.push(Route { name, key, only, rate });
    }
    routes
}

/// The word for a sink's kind, and where it goes, without credentials.
pub fn identity(settings: &SinkSettings) -> (&'static str, String) {
    match settings {
        SinkSettings::Jsonl(JsonlTarget::Stdout) => ("jsonl", "standard output".to_owned()),
        SinkSettings::Jsonl(JsonlTarget::File { path, .. }) => ("jsonl", path.display().to_string()),
        SinkSettings::Mqtt(mqtt) => ("mqtt", format!("{} {}", mqtt.url, mqtt.topic_prefix)),
        SinkSettings::Webhook(webhook) => ("webhook", place(&webhook.url)),
        SinkSettings::Nats(nats) => ("nats", format!("{} {}", nats.url, nats.subject_prefix)),
        SinkSettings::Kafka(kafka) => ("kafka", format!("{} {}", kafka.brokers.join(","), kafka.topic)),
    }
}

/// `url` with a digest in the place of its query, in which tokens tend to stand: the outbox keeps this.
fn place(url: &Url) -> String {
    let mut place = url.clone();
    if let Some(query) = url.query() {
        place.set_query(Some(&hex(&Sha256::digest(query)[..8])));
    }
    place.to_string()
}

fn filter(raw: &Only, known: &Known, reader: &mut Reader<'_>) -> Filter {
    let mut names = |field: &Field<Vec<At<String>>>, what: &str, known: &[String], incomplete: bool| {
        let list = field.given().map(|list| list.value.as_slice()).unwrap_or_default();
        for name in list.iter().filter(|name| !incomplete && !known.contains(&name.value)) {
            reader.warn(name, format!("is no {what}"), format!("known: {}", known.join(", ")));
        }
        list.iter().map(|name| name.value.clone()).collect()
    };
    Filter {
        streams: names(&raw.streams, "stream of this file", &known.streams, false),
        sets: names(&raw.sets, "label set of this file", &known.sets, known.incomplete),
        labels: names(&raw.labels, "label of any label set", &known.labels, known.incomplete),
        types: raw.types.given().map(|list| list.value.iter().map(|kind| kind.value).collect()).unwrap_or_default(),
        attributes: raw.attributes.given().map(|wanted| wanted.value.0.clone()).unwrap_or_default(),
        min_severity: raw.min_severity.value(),
    }
}

fn rate(at: &At<RawRate>, reader: &mut Reader<'_>) -> Option<Rate> {
    let events = match &at.value.events {
        Field::Missing => {
            reader.missing(at, "events", "write how many, such as `{ events: 60, per: 1m }`");
            return None;
        }
        Field::Wrong => return None,
        Field::Given(events) => events,
    };
    let per = at.value.per.value().unwrap_or(Duration::from_secs(60));
    let number = u32::try_from(events.value).ok().filter(|number| *number > 0);
    if number.is_none() {
        reader.error(events, "is not a number from 1 to 4294967295", "leave `rate` out for no limit");
    }
    if let Some(per) = at.value.per.given().filter(|per| per.value.is_zero()) {
        reader.error(per, "must be above 0", units::DURATION_HELP);
        return None;
    }
    Some(Rate { events: number?, per })
}

/// `outbox`. Left out, it is a file where there is a place for one (`$STATE_DIRECTORY`) or a sink that needs one; otherwise, when all
/// sinks only write files and standard output, it is in memory: a first try by a plain user needs no folder of the system's.
pub fn outbox(field: &Field<Store>, sinks: &Field<Vec<At<Sink>>>, reader: &mut Reader<'_>) -> OutboxSettings {
    let list = sinks.given().map(|list| list.value.as_slice()).unwrap_or_default();
    let local = list.iter().all(|sink| sink.value.kind.value().is_none_or(|kind| kind == SinkKind::Jsonl));
    let default = || paths::state_dir().join("outbox.db");
    let path = match field.given().map(|store| &store.value.path) {
        Some(Field::Given(path)) if path.value == MEMORY => None,
        // With a problem the settings are not used.
        Some(Field::Given(path)) => sink_settings::output(path, false, reader).or_else(|| Some(PathBuf::new())),
        Some(_) => Some(default()),
        None if local && !paths::has_state_dir() => None,
        None => Some(default()),
    };
    if let Some(size) = field.given().and_then(|store| store.value.max_size.given())
        && (1..MIN_SIZE).contains(&size.value.0)
    {
        reader.error(size, "is below 1MiB", units::SIZE_HELP);
    }
    let none = Store::default();
    let raw = field.given().map_or(&none, |store| &store.value);
    let (max_size, max_age) = super::validate::limits(&raw.max_size, &raw.max_age, reader);
    OutboxSettings { path, max_size, max_age }
}
