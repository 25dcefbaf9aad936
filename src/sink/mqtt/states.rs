//! Which retained topics should be there, with what in them: states of streams and labels, and discovery documents. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::home_assistant::{self, Announced, Components};
use super::mqtt_client::Message;
use super::published::Published;
use super::topics::{Topics, below};
use crate::event::{Event, EventKind};
use crate::outbox::delivery::published_record::{Digest, digest};
use crate::outbox::delivery::{Stored, TagState};
use crate::sink::daemon_facts::DaemonFacts;
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

/// Documents that are asked for one by one.
const ASKED: usize = 256;

/// See the module.
pub struct States {
    topics: Topics,
    /// The prefix of discovery documents, where they are wanted, and what they say.
    discovery: Option<String>,
    announced: Announced,
    /// Where the page of the box is.
    url: Option<String>,
    /// By region. Those of a stream without regions, and what it had told before it got some, stand under none.
    labels: BTreeMap<Key, BTreeMap<Option<String>, Label>>,
    /// Levels of the labels that are watched: of each label, and again in each region.
    levels: HashMap<RegionKey, String>,
    /// What the broker has, as far as we know: what was found after connecting, and what was published since.
    there: HashMap<String, Digest>,
    /// What our discovery documents at the broker have, by topic.
    documents: HashMap<String, Components>,
    /// What documents may have had of labels that have gone, where nobody has seen those documents.
    guessed: HashMap<String, Components>,
    /// Discovery documents of others where one of ours would belong.
    taken: BTreeSet<String>,
    /// The log has been told of those that matter.
    told: bool,
    /// What others have is known: before, no document goes out, as it may be written over another's.
    surveyed: bool,
    /// The broker has shown something that lies there.
    seen: bool,
    /// Topics that should be there; `None` until the streams are known.
    wanted: Option<BTreeSet<String>>,
    /// Documents of which it is still to be told once on this connection what has gone from them; `None`: it is not known yet.
    to_part: Option<BTreeSet<String>>,
    /// The streams and their states as they were shown last.
    shown: Option<(Arc<Vec<RegisteredStream>>, Vec<&'static str>)>,
}

impl States {
    pub fn new(topics: Topics, discovery: Option<String>, announced: Announced) -> Self {
        Self {
            topics,
            discovery,
            announced,
            url: None,
            labels: BTreeMap::new(),
            levels: HashMap::new(),
            there: HashMap::new(),
            documents: HashMap::new(),
            guessed: HashMap::new(),
            taken: BTreeSet::new(),
            told: false,
            surveyed: false,
            seen: false,
            wanted: None,
            to_part: None,
            shown: None,
        }
    }

    /// The page of the box is at `url`.
    pub fn set_url(&mut self, url: Option<&str>) {
        self.url = url.map(str::to_owned);
    }

    /// The broker has `payload` under `topic`; of a large one only the digest is known.
    pub fn found(&mut self, topic: String, payload: &[u8], lies: Digest, published: &Published) {
        self.seen = true;
        // Two prefixes may make the same id of a device: a/b and a_b.
        if self.is_document(&topic) {
            if home_assistant::is_ours(payload, &self.topics) || published.is_ours(&topic, payload, lies) {
                self.taken.remove(&topic);
                if self.documents.len() < SEEN {
                    self.documents.insert(topic.clone(), home_assistant::components(payload));
                }
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

    /// Whether documents are wanted, and the broker has shown nothing at all so far.
    pub fn misses_documents(&self) -> bool {
        self.discovery.is_some() && !self.seen
    }

    /// Where our documents would lie, or lie, if the broker has shown nothing at all: some show only what is asked for by its whole name.
    pub fn unseen_documents(&self, streams: &[RegisteredStream], published: &Published) -> Vec<String> {
        let Some(prefix) = self.discovery.as_deref().filter(|_| !self.seen) else { return Vec::new() };
        let ours = streams.iter().map(|stream| home_assistant::topic(prefix, &self.topics, stream.id()));
        let ours = ours.chain([home_assistant::box_topic(prefix, &self.topics)]);
        let known = published.topics().chain(published.partings.topics());
        let known = known.filter(|topic| home_assistant::is_document(prefix, topic)).cloned();
        ours.chain(known).collect::<BTreeSet<_>>().into_iter().take(ASKED).collect()
    }

    /// Nothing lies under `topic` any more.
    pub fn cleared(&mut self, topic: &str) {
        self.there.remove(topic);
        self.documents.remove(topic);
    }

    /// Takes the states of all labels after the latest event that was stored.
    pub fn begin(&mut self, states: &[TagState]) {
        for state in states {
            let key = (state.stream.clone(), state.set.clone(), state.label.clone());
            self.labels.entry(key).or_default().insert(state.region.clone(), label(&state.last));
        }
    }

    /// An event goes out: what it changes, unless it is older than what is known. First the attributes, then the states: who looks at what a
    /// label is about when its state changes is to find what belongs to that.
    pub fn note(&mut self, stored: &Stored) -> (Vec<Message>, Vec<Message>) {
        let data = &stored.event.data;
        let key = (data.stream.clone(), data.set.clone(), data.label.clone());
        let regions = self.labels.entry(key.clone()).or_default();
        if regions.get(&data.region).is_some_and(|known| known.seq > stored.seq) {
            return Default::default();
        }
        regions.insert(data.region.clone(), label(stored));
        let (mut about, mut states) = (Vec::new(), Vec::new());
        for region in places(data.region.as_deref()) {
            let now = shown(regions, region.as_deref());
            if let Some((level, now)) = self.levels.get(&(key.clone(), region)).zip(now) {
                about.extend(put(&mut self.there, &self.topics.attributes(&data.stream, level), &now.attributes));
                states.extend(put(&mut self.there, &self.topics.label(&data.stream, level), now.state));
            }
        }
        (about, states)
    }

    /// Everything that is to be published, as it has changed of streams and labels. What this daemon has not published yet is, even if
    /// the broker has the same: then it is known to be ours.
    pub fn changes(&mut self, streams: &Arc<Vec<RegisteredStream>>, published: &mut Published) -> Vec<Message> {
        let states: Vec<&'static str> = streams.iter().map(status).collect();
        if self.shown.as_ref().is_some_and(|(shown, was)| Arc::ptr_eq(shown, streams) && *was == states) {
            return Vec::new();
        }
        self.shown = Some((Arc::clone(streams), states));
        published.assign(streams);
        self.learn(streams, published);
        self.tell_taken(streams);
        let wanted = self.wanted(streams, published);
        let gone = self.part_once(published);
        for topic in wanted.keys().filter(|topic| !published.knows(topic)) {
            self.there.remove(topic);
        }
        let discovery = self.discovery.as_deref().filter(|_| !self.surveyed);
        let waits = |topic: &str| discovery.is_some_and(|prefix| home_assistant::is_document(prefix, topic));
        let ready = wanted.iter().filter(|(topic, _)| !waits(topic));
        let mut messages: Vec<Message> =
            ready.filter_map(|(topic, payload)| put(&mut self.there, topic, payload)).collect();
        // Attributes before the states that they belong to.
        messages.sort_by_key(|message| !message.topic.ends_with("/attributes"));
        // Pictures are published as they come.
        let pictures = self.levels.iter().filter(|_| self.announced.snapshots);
        let pictures = pictures.map(|((key, _), level)| self.topics.snapshot(&key.0, level));
        self.wanted = Some(wanted.into_keys().chain(pictures).collect());
        if self.surveyed {
            self.remember_gone(published);
        }
        gone.into_iter().chain(messages.into_iter().flat_map(|message| self.with_parting(message, published))).collect()
    }

    /// Once a connection, as nobody knows who was there before: documents from which something has gone are told again, and what is returned is
    /// for devices that have gone.
    fn part_once(&mut self, published: &Published) -> Vec<Message> {
        if !self.surveyed || self.to_part.is_some() {
            return Vec::new();
        }
        let topics: BTreeSet<String> = published.partings.topics().cloned().collect();
        self.there.retain(|topic, _| !topics.contains(topic));
        self.to_part = Some(topics);
        self.gone_devices(published)
    }

    /// Empties the documents of devices that have gone, unless another's lies there. Nothing of ours does.
    fn gone_devices(&self, published: &Published) -> Vec<Message> {
        let gone = published.partings.devices().filter(|topic| self.is_document(topic) && !self.taken.contains(*topic));
        gone.map(|topic| Message::new(topic.clone(), "")).collect()
    }

    /// Documents have told of what is gone, also where the broker has lost them meanwhile: Home Assistant has not.
    fn remember_gone(&mut self, published: &Published) {
        let Some(prefix) = self.discovery.clone() else { return };
        for topic in self.gone(published) {
            let components = home_assistant::components_of(&self.topics.levels(&topic));
            if let Some(stream) = self.topics.stream(&topic).filter(|_| !components.is_empty()) {
                let document = home_assistant::topic(&prefix, &self.topics, stream);
                self.guessed.entry(document).or_default().extend(components);
            }
        }
    }

    /// `message`, and before a document what lets Home Assistant let go of the components that have gone. That is not retained: the broker
    /// has the one before or the one after, whatever happens in between.
    fn with_parting(&mut self, message: Message, published: &mut Published) -> Vec<Message> {
        if !self.is_document(&message.topic) {
            return vec![message];
        }
        let (topic, now) = (&message.topic, home_assistant::components(&message.payload));
        let mut gone = self.documents.insert(topic.clone(), now.clone()).unwrap_or_default();
        gone.retain(|key, _| !now.contains_key(key));
        published.partings.part(topic, &gone);
        let mut guessed = self.guessed.remove(topic).unwrap_or_default();
        guessed.retain(|key, _| !now.contains_key(key));
        gone.extend(guessed.clone());
        // What is not announced today does not come back with its label, and would be told for ever.
        let Announced { snapshots, scores, .. } = self.announced;
        guessed.retain(|_, platform| match platform.as_str() {
            "image" => snapshots,
            "sensor" => scores,
            _ => true,
        });
        published.partings.part(topic, &guessed);
        published.partings.come_back(topic, &now);
        if self.to_part.as_mut().is_some_and(|to_part| to_part.remove(topic)) {
            gone.extend(published.partings.of(topic).cloned().unwrap_or_default());
        }
        let parting = home_assistant::parting(&message.payload, &gone);
        let parting = parting.map(|payload| Message::new(topic.clone(), payload));
        parting.into_iter().chain([message]).collect()
    }

    /// Whether this is where a discovery document lies.
    pub fn is_document(&self, topic: &str) -> bool {
        self.discovery.as_deref().is_some_and(|prefix| home_assistant::is_document(prefix, topic))
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

    /// The documents once more; before each what has gone from it and may not have been heard of, and before all of them the devices that have gone.
    pub fn introduce_again(&self, published: &Published) -> Vec<Message> {
        let Some((streams, _)) = self.shown.as_ref().filter(|_| self.surveyed) else { return Vec::new() };
        let documents =
            self.box_document().into_iter().chain(streams.iter().filter_map(|s| self.document(s, published)));
        let documents = documents.flat_map(|(topic, text)| {
            let gone = published.partings.of(&topic);
            let parting = gone.and_then(|gone| home_assistant::parting(&text, gone));
            let parting = parting.map(|payload| Message::new(topic.clone(), payload));
            parting.into_iter().chain([Message::retained(topic, text)])
        });
        self.gone_devices(published).into_iter().chain(documents).collect()
    }

    /// The levels of a label that is watched: that of its region, if it has one, and its own.
    pub fn levels(&self, stream: &str, region: Option<&str>, set: &str, label: &str) -> Vec<String> {
        let key = (stream.to_owned(), set.to_owned(), label.to_owned());
        places(region).filter_map(|region| self.levels.get(&(key.clone(), region)).cloned()).collect()
    }

    fn learn(&mut self, streams: &[RegisteredStream], published: &Published) {
        self.levels.clear();
        for stream in streams {
            let key = |(set, label)| (stream.id().to_owned(), set, label);
            let own = published.levels().of_stream(stream, false);
            self.levels.extend(own.into_iter().map(|(label, slug)| ((key(label), None), slug)));
            let in_regions = published.levels().of_stream(stream, true);
            for region in &stream.regions {
                let level = |(label, slug): (&(String, String), &String)| {
                    ((key(label.clone()), Some(region.to_string())), below(region, slug))
                };
                self.levels.extend(in_regions.iter().map(level));
            }
        }
    }

    /// The discovery document of a stream, where it is wanted and nobody else's lies in its place.
    fn document(&self, stream: &RegisteredStream, published: &Published) -> Option<(String, Vec<u8>)> {
        let topic = home_assistant::topic(self.discovery.as_deref()?, &self.topics, stream.id());
        let document = home_assistant::document(stream, &self.topics, published.levels(), &self.announced);
        (!self.taken.contains(&topic)).then(|| (topic, document.to_string().into()))
    }

    /// The discovery document of the box itself, likewise.
    fn box_document(&self) -> Option<(String, Vec<u8>)> {
        let (prefix, instance) = self.discovery.as_deref().zip(self.announced.instance.as_deref())?;
        let topic = home_assistant::box_topic(prefix, &self.topics);
        let document = home_assistant::box_document(&self.topics, instance, self.url.as_deref());
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

    fn wanted(&self, streams: &[RegisteredStream], published: &Published) -> BTreeMap<String, Vec<u8>> {
        let mut wanted: BTreeMap<String, Vec<u8>> = self.box_document().into_iter().collect();
        for stream in streams {
            let id = stream.id();
            wanted.insert(self.topics.status(id), status(stream).into());
            wanted.insert(self.topics.enabled(id), if stream.enabled { "ON".into() } else { "OFF".into() });
            wanted.extend(self.document(stream, published));
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
pub fn stats(streams: &[RegisteredStream], facts: &DaemonFacts, uptime: Duration, now: Instant) -> String {
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
    let dropped: u64 = rows.values().filter_map(|row: &serde_json::Value| row["dropped"].as_u64()).sum();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime": uptime.as_secs(),
        "provider": facts.provider(),
        "sinks_waiting": facts.waiting(),
        "frames_dropped": dropped,
        "streams": rows,
    })
    .to_string()
}

#[cfg(test)]
mod tests;
