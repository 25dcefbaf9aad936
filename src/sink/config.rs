//! Checks `sinks`: what each kind makes of its own keys ([`SinkConfig`]), and what they must not have in common.

use std::collections::HashMap;

use super::mqtt::config::Brokers;
use super::sink_routes::{self, FilterNames, Only, Rate};
use super::{JsonlTarget, Sink, SinkContext, SinkKeys, SinkKind, SinkSettings, SinkStartError};
use crate::outbox::route::{Filter, Route};
use crate::section;
use crate::yaml::field_reader::{At, FromNode, Reader, Section, object};
use crate::yaml::key_reference::{self, Key};
use crate::yaml::problem::Severity;
use crate::yaml::{Node, Place, Value};

/// Settings of a kind of sink: how they are read, and the sink that they make. Each kind has it in its `config.rs`.
pub trait SinkConfig: Sized {
    /// Its keys, beside those that every sink has.
    type Keys: Section;

    /// Reads the sink `at`, whose keys are `raw`. On `None` a problem has been reported.
    fn check(at: &At<SinkItem>, raw: &Self::Keys, reader: &mut Reader<'_>) -> Option<Self>;

    /// Where it goes, without credentials: what waits for a sink without a name is found again by this.
    fn target(&self) -> String;

    /// Hosts and ports that it connects to by itself; none where it writes a file, or where they are not known here.
    fn addresses(&self) -> Vec<(String, u16)> {
        Vec::new()
    }

    /// What [`target`](Self::target) may have been in an earlier version: what waits there goes along.
    fn former_target(&self) -> Option<String> {
        None
    }

    /// The sink, ready to run.
    ///
    /// # Errors
    /// When its file cannot be opened, or this binary has no client for it.
    fn open(&self, context: &SinkContext) -> Result<Box<dyn Sink>, SinkStartError>;
}

section! {
    /// Keys that every sink has.
    pub struct CommonKeys {
        /// `jsonl`, `mqtt`, `webhook`, `nats`, `kafka` | required | [How each delivers](events.md#mqtt)
        "type" => kind: SinkKind,
        /// lower-case letters, digits, `_`, `-` | the type and its place in the list, `jsonl-0` | What it is called in
        /// logs, metrics and `vtagd events`. With a name it may move in the list or go elsewhere, and what waits for it
        /// goes along; without one, what waits belongs to the place it goes to
        "name" => name: String,
        /// section | everything | [Which events it gets](#filters-and-limits)
        "only" => only: Only,
        /// section | no limit | [How many at most](#filters-and-limits)
        "rate" => rate: Rate,
    }
}

/// A sink as written.
pub struct SinkItem {
    pub common: CommonKeys,
    /// `None`: nobody knows which it has, as the type is missing or wrong.
    pub keys: Option<SinkKeys>,
}

impl SinkItem {
    /// The keys of these kinds, each once.
    fn known(kinds: &[SinkKind]) -> Vec<&'static str> {
        let mut known = CommonKeys::KEYS.to_vec();
        for key in kinds.iter().flat_map(|kind| kind.keys()) {
            if !known.contains(key) {
                known.push(key);
            }
        }
        known
    }

    /// The kind that is written there, if it is one.
    fn kind(node: &Node) -> Option<SinkKind> {
        let Value::Map(entries) = &node.value else { return None };
        let Value::Text(word) = &entries.iter().find(|entry| entry.key == "type")?.value.value else { return None };
        SinkKind::ALL.iter().copied().find(|kind| kind.as_str() == word)
    }
}

impl FromNode for SinkItem {
    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let known = Self::known(SinkKind::ALL);
        let offered = Self::kind(node).map_or_else(|| known.clone(), |kind| Self::known(&[kind]));
        let mut map = reader.map_offering(node, path, &known, &offered)?;
        let common = CommonKeys::read(&mut map, reader);
        let keys = common.kind.value().map(|kind| kind.read(&mut map, reader));
        // What is wrong with the values of other keys is told too, whatever the sink is going to be.
        SinkKind::ALL.iter().for_each(|kind| drop(kind.read(&mut map, reader)));
        Some(Self { common, keys })
    }

    fn schema() -> serde_json::Value {
        let mut keys = CommonKeys::properties();
        SinkKind::ALL.iter().for_each(|kind| keys.extend(kind.properties()));
        // Of a key that several kinds have, all is said.
        let mut all = Vec::new();
        Self::keys("", &mut all);
        for row in key_reference::rows(&all) {
            if let Some(described) = keys.get_mut(&row.path).and_then(|schema| schema.get_mut("description")) {
                *described = row.description().into();
            }
        }
        object(keys)
    }

    fn keys(path: &str, out: &mut Vec<Key>) {
        CommonKeys::paths(path, out);
        for kind in SinkKind::ALL {
            let mut own = Vec::new();
            kind.paths(path, &mut own);
            out.extend(own.into_iter().map(|key| Key { of: kind.as_str(), ..key }));
        }
    }
}

/// Where events go if nothing is said.
pub fn default() -> (Vec<SinkSettings>, Vec<Route>) {
    let settings = SinkSettings::Jsonl(JsonlTarget::Stdout);
    let (kind, target) = (settings.kind().as_str(), settings.target());
    let (name, key) = (format!("{kind}-0"), format!("{kind} {target}"));
    (vec![settings], vec![Route { name, key, former_key: None, only: Filter::default(), rate: None }])
}

/// Checks all sinks and their routes; those with a problem are left out.
pub fn check(list: &[At<SinkItem>], known: &FilterNames, reader: &mut Reader<'_>) -> (Vec<SinkSettings>, Vec<Route>) {
    let mut targets: HashMap<String, Place> = HashMap::new();
    let mut brokers = Brokers::default();
    let mut sinks = Vec::with_capacity(list.len());
    for sink in list {
        let Some(settings) = one(sink, reader) else { continue };
        if let Some(other) = targets.insert(settings.target(), sink.place) {
            let message = format!("goes to the same place as the sink in {}", reader.line(other, sink.place));
            reader.error(sink, message, "remove one of them");
            continue;
        }
        brokers.check(sink, &settings, reader);
        sinks.push((sink, settings));
    }
    let routes = sink_routes::check(&sinks, known, reader);
    (sinks.into_iter().map(|(_, settings)| settings).collect(), routes)
}

fn one(at: &At<SinkItem>, reader: &mut Reader<'_>) -> Option<SinkSettings> {
    let types: Vec<String> = SinkKind::ALL.iter().map(|kind| format!("`type: {}`", kind.as_str())).collect();
    let types = types.split_last().map(|(last, others)| format!("write {} or {last}", others.join(", ")));
    let kind = reader.required(at, "type", &at.value.common.kind, types.unwrap_or_default())?.value;
    let keys = [&["type"], kind.keys(), &["name", "only", "rate"]].concat();
    let all = SinkItem::known(SinkKind::ALL);
    let mut foreign = false;
    if let Value::Map(entries) = &reader.document().find(&at.path).value {
        for entry in entries.iter().map(|entry| (entry.key.as_str(), entry)) {
            let (key, entry) = entry;
            if all.contains(&key) && !keys.contains(&key) {
                let path = format!("{}.{key}", at.path);
                let message = format!("is not a key of a sink of type {}", kind.as_str());
                let remedy = format!("its keys: {}", keys.join(", "));
                reader.report(Severity::Error, entry.key_place, &path, message, remedy);
                foreign = true;
            }
        }
    }
    at.value.keys.as_ref()?.check(at, reader).filter(|_| !foreign)
}
