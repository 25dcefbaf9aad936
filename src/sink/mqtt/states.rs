//! Which retained topics should be there, with what in them: states of streams and labels, and discovery documents. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::home_assistant;
use super::mqtt_client::Message;
use super::published::Published;
use super::topics::{Topics, below, region_slugs, slugs};
use crate::event::{Event, EventKind};
use crate::outbox::delivery::published_record::{Digest, digest};
use crate::outbox::delivery::{Stored, TagState};
use crate::stream::registry::RegisteredStream;
use crate::stream::status::StreamState;

/// (stream, set, label).
type Key = (String, String, String);

/// The same of a region, or of the whole view.
type RegionKey = (Key, Option<String>);

/// What is known of a label: the number of its last event, and what is shown of it.
struct Label {
    seq: u64,
    state: &'static [u8],
    attributes: Vec<u8>,
}

/// Topics of the broker that are remembered; what lies under others is published once more.
const SEEN: usize = 65_536;

/// See the module.
pub struct States {
    topics: Topics,
    /// The prefix of discovery documents, where they are wanted.
    discovery: Option<String>,
    snapshots: bool,
    /// By region. Those of a stream without regions, and what it had told before it got some, stand under none.
    labels: BTreeMap<Key, BTreeMap<Option<String>, Label>>,
    /// Levels of the labels that are watched: of each label, and again in each region.
    levels: HashMap<RegionKey, String>,
    /// What the broker has, as far as we know: what was found after connecting, and what was published since.
    there: HashMap<String, Digest>,
    /// Discovery documents of others where one of ours would belong.
    taken: BTreeSet<String>,
    /// The log has been told of those that matter.
    told: bool,
    /// What others have is known: before, no document goes out, as it may be written over another's.
    surveyed: bool,
    /// Topics that should be there; `None` until the streams are known.
    wanted: Option<BTreeSet<String>>,
    /// The streams and their states as they were shown last.
    shown: Option<(Arc<Vec<RegisteredStream>>, Vec<&'static str>)>,
}

impl States {
    pub fn new(topics: Topics, discovery: Option<String>, snapshots: bool) -> Self {
        Self {
            topics,
            discovery,
            snapshots,
            labels: BTreeMap::new(),
            levels: HashMap::new(),
            there: HashMap::new(),
            taken: BTreeSet::new(),
            told: false,
            surveyed: false,
            wanted: None,
            shown: None,
        }
    }

    /// The broker has `payload` under `topic`; of a large one only the digest is known.
    pub fn found(&mut self, topic: String, payload: &[u8], lies: Digest, published: &Published) {
        // Two prefixes may make the same id of a device: a/b and a_b.
        if self.discovery.as_deref().is_some_and(|prefix| home_assistant::is_document(prefix, &topic)) {
            if home_assistant::is_ours(payload, &self.topics) || published.is_ours(&topic, payload, lies) {
                self.taken.remove(&topic);
            } else if self.taken.len() < SEEN {
                self.taken.insert(topic.clone());
            }
        }
        if self.there.len() < SEEN {
            self.there.insert(topic, lies);
            self.shown = None;
        }
    }

    /// What lies at the broker has been listened to.
    pub fn surveyed(&mut self) {
        self.surveyed = true;
        self.shown = None;
    }

    /// Nothing lies under `topic` any more.
    pub fn cleared(&mut self, topic: &str) {
        self.there.remove(topic);
    }

    /// Takes the states of all labels after the latest event that was stored.
    pub fn begin(&mut self, states: &[TagState]) {
        for state in states {
            let key = (state.stream.clone(), state.set.clone(), state.label.clone());
            self.labels.entry(key).or_default().insert(state.region.clone(), label(&state.last));
        }
    }

    /// An event goes out: what it changes, unless it is older than what is known.
    pub fn note(&mut self, stored: &Stored) -> Vec<Message> {
        let data = &stored.event.data;
        let key = (data.stream.clone(), data.set.clone(), data.label.clone());
        let regions = self.labels.entry(key.clone()).or_default();
        if regions.get(&data.region).is_some_and(|known| known.seq > stored.seq) {
            return Vec::new();
        }
        regions.insert(data.region.clone(), label(stored));
        let mut messages = Vec::new();
        for region in places(data.region.as_deref()) {
            let now = shown(regions, region.as_deref());
            if let Some((level, now)) = self.levels.get(&(key.clone(), region)).zip(now) {
                messages.extend(put(&mut self.there, &self.topics.label(&data.stream, level), now.state));
                messages.extend(put(&mut self.there, &self.topics.attributes(&data.stream, level), &now.attributes));
            }
        }
        messages
    }

    /// Everything that is to be published, as it has changed of streams and labels. What this daemon has not published yet is, even if
    /// the broker has the same: then it is known to be ours.
    pub fn changes(&mut self, streams: &Arc<Vec<RegisteredStream>>, published: &Published) -> Vec<Message> {
        let states: Vec<&'static str> = streams.iter().map(status).collect();
        if self.shown.as_ref().is_some_and(|(shown, was)| Arc::ptr_eq(shown, streams) && *was == states) {
            return Vec::new();
        }
        self.shown = Some((Arc::clone(streams), states));
        self.learn(streams);
        self.tell_taken(streams);
        let wanted = self.wanted(streams);
        for topic in wanted.keys().filter(|topic| !published.knows(topic)) {
            self.there.remove(topic);
        }
        let discovery = self.discovery.as_deref().filter(|_| !self.surveyed);
        let waits = |topic: &str| discovery.is_some_and(|prefix| home_assistant::is_document(prefix, topic));
        let ready = wanted.iter().filter(|(topic, _)| !waits(topic));
        let messages = ready.filter_map(|(topic, payload)| put(&mut self.there, topic, payload)).collect();
        // Pictures are published as they come.
        let pictures = self.levels.iter().filter(|_| self.snapshots);
        let pictures = pictures.map(|((key, _), level)| self.topics.snapshot(&key.0, level));
        self.wanted = Some(wanted.into_keys().chain(pictures).collect());
        messages
    }

    /// Topics of `published` that no stream and no label has any more.
    pub fn gone(&self, published: &Published) -> Vec<String> {
        let Some(wanted) = &self.wanted else { return Vec::new() };
        published.topics().filter(|topic| !wanted.contains(*topic)).cloned().collect()
    }

    /// Whether something should lie under `topic`.
    pub fn is_wanted(&self, topic: &str) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.contains(topic))
    }

    /// The documents once more.
    pub fn introduce_again(&self) -> Vec<Message> {
        let streams = self.shown.iter().filter(|_| self.surveyed).flat_map(|(streams, _)| streams.iter());
        streams.filter_map(|stream| self.document(stream)).map(|(topic, text)| Message::retained(topic, text)).collect()
    }

    /// The levels of a label that is watched: that of its region, if it has one, and its own.
    pub fn levels(&self, stream: &str, region: Option<&str>, set: &str, label: &str) -> Vec<String> {
        let key = (stream.to_owned(), set.to_owned(), label.to_owned());
        places(region).filter_map(|region| self.levels.get(&(key.clone(), region)).cloned()).collect()
    }

    fn learn(&mut self, streams: &[RegisteredStream]) {
        self.levels.clear();
        for stream in streams {
            let key = |(set, label)| (stream.id().to_owned(), set, label);
            self.levels.extend(slugs(&stream.labels).into_iter().map(|(label, slug)| ((key(label), None), slug)));
            let in_regions = region_slugs(&stream.labels);
            for region in &stream.regions {
                let level = |(label, slug): (&(String, String), &String)| {
                    ((key(label.clone()), Some(region.to_string())), below(region, slug))
                };
                self.levels.extend(in_regions.iter().map(level));
            }
        }
    }

    /// The discovery document of a stream, where it is wanted and nobody else's lies in its place.
    fn document(&self, stream: &RegisteredStream) -> Option<(String, Vec<u8>)> {
        let topic = home_assistant::topic(self.discovery.as_deref()?, &self.topics, stream.id());
        let document = home_assistant::document(stream, &self.topics, self.snapshots);
        (!self.taken.contains(&topic)).then(|| (topic, document.to_string().into()))
    }

    /// Says once which devices cannot be announced.
    fn tell_taken(&mut self, streams: &[RegisteredStream]) {
        let Some(prefix) = self.discovery.as_deref().filter(|_| !self.told) else { return };
        let topics = streams.iter().map(|stream| home_assistant::topic(prefix, &self.topics, stream.id()));
        let taken: Vec<String> = topics.filter(|topic| self.taken.contains(topic)).collect();
        if !taken.is_empty() {
            tracing::warn!(
                ?taken,
                "others have devices of these names, so these streams are not announced to Home Assistant; choose another `topic_prefix`"
            );
            self.told = true;
        }
    }

    fn wanted(&self, streams: &[RegisteredStream]) -> BTreeMap<String, Vec<u8>> {
        let mut wanted = BTreeMap::new();
        for stream in streams {
            let id = stream.id();
            wanted.insert(self.topics.status(id), status(stream).into());
            wanted.insert(self.topics.enabled(id), if stream.enabled { "ON".into() } else { "OFF".into() });
            wanted.extend(self.document(stream));
        }
        for ((key, region), level) in &self.levels {
            let known = self.labels.get(key).and_then(|regions| shown(regions, region.as_deref()));
            let state = known.map_or(b"OFF".as_slice(), |known| known.state);
            wanted.insert(self.topics.label(&key.0, level), state.into());
            let attributes = known.map_or_else(|| b"{}".to_vec(), |known| known.attributes.clone());
            wanted.insert(self.topics.attributes(&key.0, level), attributes);
        }
        wanted
    }
}

/// Where an event of `region` shows: there, if it has one, and at the label itself.
fn places(region: Option<&str>) -> impl Iterator<Item = Option<String>> {
    region.map(|region| Some(region.to_owned())).into_iter().chain([None])
}

/// What is shown of a label: in a region what that has; for the whole stream the latest of those regions where its tag is open, or if there
/// is none the latest of all.
fn shown<'l>(regions: &'l BTreeMap<Option<String>, Label>, region: Option<&str>) -> Option<&'l Label> {
    match region {
        Some(region) => regions.get(&Some(region.to_owned())),
        None => regions.values().max_by_key(|label| (label.state == b"ON", label.seq)),
    }
}

/// What is to be published so that `topic` has `payload`. Noted as published.
fn put(there: &mut HashMap<String, Digest>, topic: &str, payload: &[u8]) -> Option<Message> {
    let now = digest(payload);
    if there.get(topic) == Some(&now) {
        return None;
    }
    there.insert(topic.to_owned(), now);
    Some(Message::retained(topic, payload))
}

fn label(stored: &Stored) -> Label {
    let event = &stored.event;
    let state: &[u8] = if event.kind == EventKind::End { b"OFF" } else { b"ON" };
    Label { seq: stored.seq, state, attributes: attributes(event) }
}

/// The last event of a label, for people who look at its sensor.
fn attributes(event: &Event) -> Vec<u8> {
    home_assistant::about(event).to_string().into()
}

fn status(stream: &RegisteredStream) -> &'static str {
    if !stream.enabled {
        return "disabled";
    }
    match stream.status.is_up() {
        Some(true) => "online",
        _ => "offline",
    }
}

/// What `<p>/stats` says.
pub fn stats(streams: &[RegisteredStream], uptime: Duration, now: Instant) -> String {
    let row = |stream: &RegisteredStream| {
        let report = stream.status.report(now);
        let state = match report.state {
            StreamState::Connecting => "connecting",
            StreamState::Up => "up",
            StreamState::Down { .. } => "down",
            StreamState::Disabled => "disabled",
            StreamState::Ended => "ended",
            StreamState::Failed { .. } => "failed",
        };
        let totals = stream.accounting.totals();
        let said = json!({
            "state": state,
            "frames": report.frames,
            "sampled": totals.sampled,
            "inferred": totals.inferred,
            "reused": totals.reused,
            "dropped": totals.dropped.values().sum::<u64>(),
            "reconnects": report.reconnects,
            "last_frame_age": report.last_frame_age,
        });
        (report.id, said)
    };
    let rows: serde_json::Map<_, _> = streams.iter().map(row).collect();
    json!({ "version": env!("CARGO_PKG_VERSION"), "uptime": uptime.as_secs(), "streams": rows }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::delivery::tests::{delivery, event};
    use crate::sink::mqtt::home_assistant::tests::watched;

    /// What is published, and noted as that.
    fn changed_topics(states: &mut States, published: &mut Published, streams: &[(&str, &[&str])]) -> Vec<String> {
        let streams = streams.iter().map(|(id, labels)| watched(id, labels)).collect();
        let messages = states.changes(&Arc::new(streams), published);
        published.before(&messages);
        messages.into_iter().map(|message| message.topic).collect()
    }

    fn find(states: &mut States, published: &Published, topic: &str, payload: &str) {
        states.found(topic.to_owned(), payload.as_bytes(), digest(payload.as_bytes()), published);
    }

    #[test]
    fn only_what_this_daemon_published_and_nobody_wants_any_more_is_gone_whatever_lies_below_the_prefix() {
        let topics = Topics::new("home");
        let mut states = States::new(topics.clone(), None, true);
        let ours = ["home/gate/car", "home/gate/car/attributes", "home/gate/car/snapshot", "home/gate/status"];
        let kept = ["home/yard/bus", "home/yard/bus/snapshot"];
        let left = ours.iter().chain(&kept).map(|topic| ((*topic).to_owned(), Default::default())).collect();
        let mut published = Published::new(topics, left);
        for theirs in ["home/kitchen/light", "home/hall/lamp/attributes", "home/gate/enabled/state", "home/gate/bus"] {
            find(&mut states, &published, theirs, "ON");
        }
        assert_eq!((states.gone(&published), states.is_wanted(ours[0])), (vec![], true), "until the streams are known");
        changed_topics(&mut states, &mut published, &[("yard", &["bus"])]);
        assert_eq!(states.gone(&published), ours);
        assert!(!states.is_wanted(ours[0]) && states.is_wanted(kept[1]));
    }

    #[test]
    fn a_label_is_on_while_any_region_has_it_and_a_region_that_is_removed_takes_its_own_topics_alone() {
        let topics = Topics::new("home");
        let mut states = States::new(topics.clone(), None, false);
        let mut published = Published::new(topics, BTreeMap::new());
        let with = |regions: &[&str]| {
            let regions: Vec<Arc<str>> = regions.iter().map(|region| (*region).into()).collect();
            Arc::new(vec![watched("yard", &["bus", "left"]).with_regions(&regions)])
        };
        let messages = states.changes(&with(&["left", "right"]), &published);
        published.before(&messages);
        let mut told: Vec<String> = messages.into_iter().map(|message| message.topic).collect();
        told.retain(|topic| topic.ends_with("bus"));
        assert_eq!(told, ["home/yard/bus", "home/yard/left/bus", "home/yard/right/bus"]);

        let mut seq = 0;
        let mut note = |region: &str, kind| {
            seq += 1;
            let mut event = event("yard", "bus", kind);
            event.data.region = Some(region.into());
            let stored = Arc::clone(&delivery(seq, event).stored);
            let told = states.note(&stored).into_iter().filter(|message| !message.topic.ends_with("attributes"));
            told.map(|message| (message.topic, String::from_utf8(message.payload).unwrap())).collect::<Vec<_>>()
        };
        let told = |topics: &[(&str, &str)]| -> Vec<(String, String)> {
            topics.iter().map(|(topic, state)| (format!("home/yard/{topic}"), (*state).to_owned())).collect()
        };
        assert_eq!(note("left", EventKind::Start), told(&[("left/bus", "ON"), ("bus", "ON")]));
        assert_eq!(note("right", EventKind::Start), told(&[("right/bus", "ON")]));
        assert_eq!(note("left", EventKind::End), told(&[("left/bus", "OFF")]), "the other one still has it");
        assert_eq!(note("right", EventKind::End), told(&[("right/bus", "OFF"), ("bus", "OFF")]));
        assert_eq!(states.levels("yard", Some("left"), "lot", "bus"), ["left/bus", "bus"]);

        assert_eq!(states.changes(&with(&["right"]), &published).len(), 0, "nothing else changes");
        let of_left = ["bus", "bus/attributes", "left", "left/attributes"].map(|end| format!("home/yard/left/{end}"));
        assert_eq!(states.gone(&published), of_left);
    }

    #[test]
    fn what_the_broker_has_of_us_is_not_published_again_and_what_it_has_of_nobody_knows_is() {
        let topics = Topics::new("home");
        let mut states = States::new(topics.clone(), None, false);
        let mut published = Published::new(topics, [("home/yard/bus".to_owned(), Default::default())].into());
        for (topic, payload) in [("home/yard/bus", "OFF"), ("home/yard/enabled/state", "ON")] {
            find(&mut states, &published, topic, payload);
        }
        let rest = ["home/yard/bus/attributes", "home/yard/enabled/state", "home/yard/status"];
        assert_eq!(changed_topics(&mut states, &mut published, &[("yard", &["bus"])]), rest);
        find(&mut states, &published, "home/yard/bus", "ON");
        let again = changed_topics(&mut states, &mut published, &[("yard", &["bus"])]);
        assert_eq!(again, ["home/yard/bus"], "somebody else has written it");
    }

    #[test]
    fn a_device_of_another_program_is_not_written_over() {
        let topics = Topics::new("a_b");
        let mut states = States::new(topics.clone(), Some("ha".into()), false);
        let mut published = Published::new(topics, BTreeMap::new());
        let theirs = home_assistant::document(&watched("gate", &[]), &Topics::new("a/b"), false).to_string();
        // Until it is known what lies there, none is told.
        let early = changed_topics(&mut states, &mut published, &[("gate", &[]), ("yard", &[])]);
        assert!(!early.is_empty() && early.iter().all(|topic| topic.starts_with("a_b/")), "{early:?}");
        assert!(states.introduce_again().is_empty() && states.is_wanted("ha/device/a_b_gate/config"));
        find(&mut states, &published, "ha/device/a_b_gate/config", &theirs);
        states.surveyed();
        let told = changed_topics(&mut states, &mut published, &[("gate", &[]), ("yard", &[])]);
        let devices: Vec<&str> = told.iter().map(String::as_str).filter(|topic| topic.starts_with("ha/")).collect();
        assert_eq!(devices, ["ha/device/a_b_yard/config"]);
        assert_eq!(states.introduce_again().len(), 1);
    }
}
