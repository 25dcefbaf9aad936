//! Checks what every kind of sink has: its name, its filter, its rate limit.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::SinkSettings;
use super::config::SinkItem;
use crate::event::EventKind;
use crate::outbox::route::{EventSeverity, Filter, Rate as RateLimit, Route};
use crate::yaml::field_reader::{At, Field, FromNode, Reader};
use crate::yaml::text_form::{self, LOOK_ALIKE};
use crate::yaml::{Node, Place, units};
use crate::{section, words};

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
            return reader.refuse_kind(
                node,
                path,
                "a mapping",
                "write keys and values, such as { zone: [dock, yard] }",
            );
        };
        let values = |value| match value {
            serde_json::Value::Array(values) => values,
            one => vec![one],
        };
        Some(Self(map.into_iter().map(|(key, value)| (key, values(value))).collect()))
    }
}

section! {
    /// Which events a sink wants.
    pub struct Only {
        /// list of stream ids | all | Events of these streams
        "streams" => streams: Vec<At<String>>,
        /// list of regions | all | Events of these [regions](#regions); a stream without any has no such event
        "regions" => regions: Vec<At<String>>,
        /// list of label sets | all | Events of labels of these sets
        "sets" => sets: Vec<At<String>>,
        /// list of labels | all | Events of these labels
        "labels" => labels: Vec<At<String>>,
        /// list of `start`, `update`, `end` | all | Events of these types
        "types" => types: Vec<At<EventKind>>,
        /// keys, each with a value or a list | - | The label has each of these attributes, with that value or one of
        /// the list
        "attributes" => attributes: Wanted,
        /// `debug`, `info`, `notice`, `warning`, `error` or `critical` | - | The label's attribute `severity` is at
        /// least this; a label without one, or with another word, counts as `info`
        "min_severity" => min_severity: EventSeverity,
    }
}

section! {
    /// How many events a sink wants at most.
    pub struct Rate {
        /// 1 or more | required | At most so many starts and updates …
        "events" => events: usize,
        /// duration above 0 | `1m` | … in this time, and as many at once
        "per" => per: Duration,
    }
}

/// What the filters of sinks may name.
#[derive(Default)]
pub struct FilterNames {
    pub streams: Vec<String>,
    pub regions: Vec<String>,
    pub sets: Vec<String>,
    pub labels: Vec<String>,
    /// Something could not be read, so a name that is not here may exist.
    pub incomplete: bool,
}

/// The routes of `kept`, sinks that were checked and are without a problem, in order.
pub fn check(kept: &[(&At<SinkItem>, SinkSettings)], known: &FilterNames, reader: &mut Reader<'_>) -> Vec<Route> {
    let mut names: HashMap<String, Place> = HashMap::new();
    let mut routes = Vec::with_capacity(kept.len());
    for (index, (at, settings)) in kept.iter().enumerate() {
        let (kind, target, common) = (settings.kind().as_str(), settings.target(), &at.value.common);
        let given = common.name.given();
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
        if let Some(other) = names.insert(name.clone(), at.place) {
            let message = format!("has the name {name}, as the sink in {}", reader.line(other, at.place));
            reader.error(at, message, "give each a `name` of its own");
        }
        // What waits for a sink is found again by this: its name if it has one, otherwise where it goes.
        let key = given.map_or_else(|| format!("{kind} {target}"), |name| format!("name {}", name.value));
        let former_key = settings.former_target().filter(|_| given.is_none()).map(|former| format!("{kind} {former}"));
        let only = common.only.given().map(|only| filter(&only.value, known, reader)).unwrap_or_default();
        let rate = common.rate.given().and_then(|rate| self::rate(rate, reader));
        routes.push(Route { name, key, former_key, only, rate });
    }
    routes
}

fn filter(raw: &Only, known: &FilterNames, reader: &mut Reader<'_>) -> Filter {
    let mut names = |field: &Field<Vec<At<String>>>, what: &str, known: &[String], incomplete: bool| {
        let list = field.given().map(|list| list.value.as_slice()).unwrap_or_default();
        for name in list.iter().filter(|name| !incomplete && !known.contains(&name.value)) {
            let remedy = match text_form::alike(&name.value, known) {
                Some(alike) => format!("`{alike}` {LOOK_ALIKE}: copy it from its file"),
                None if known.is_empty() => "there is none".to_owned(),
                None => format!("known: {}", known.join(", ")),
            };
            reader.warn(name, format!("is no {what}"), remedy);
        }
        list.iter().map(|name| name.value.clone()).collect()
    };
    Filter {
        streams: names(&raw.streams, "stream of this file", &known.streams, false),
        regions: names(&raw.regions, "region of any stream", &known.regions, false),
        sets: names(&raw.sets, "label set of this file", &known.sets, known.incomplete),
        labels: names(&raw.labels, "label of any label set", &known.labels, known.incomplete),
        types: raw.types.given().map(|list| list.value.iter().map(|kind| kind.value).collect()).unwrap_or_default(),
        attributes: raw.attributes.given().map(|wanted| wanted.value.0.clone()).unwrap_or_default(),
        min_severity: raw.min_severity.value(),
    }
}

fn rate(at: &At<Rate>, reader: &mut Reader<'_>) -> Option<RateLimit> {
    let remedy = "write how many, such as `{ events: 60, per: 1m }`";
    let events = reader.required(at, "events", &at.value.events, remedy)?;
    let per = at.value.per.value().unwrap_or(Duration::from_secs(60));
    let number = u32::try_from(events.value).ok().filter(|number| *number > 0);
    if number.is_none() {
        reader.error(events, "is not a number from 1 to 4294967295", "leave `rate` out for no limit");
    }
    if let Some(per) = at.value.per.given().filter(|per| per.value.is_zero()) {
        return reader.refuse(per, "must be above 0", units::DURATION_HELP);
    }
    Some(RateLimit { events: number?, per })
}
