//! Which retained topics should be there, with what in them: states of streams and labels, and discovery documents. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::client::Message;
use super::home_assistant;
use super::shelf::Shelf;
use super::topics::{Topics, slugs};
use crate::catalog::Watched;
use crate::delivery::{Stored, TagState};
use crate::event::{Event, EventKind};
use crate::status::StreamState;

/// (stream, set, label).
type Key = (String, String, String);

/// What is known of a label: the number of its last event, and what is shown of it.
struct Label {
    seq: u64,
    state: &'static [u8],
    attributes: Vec<u8>,
}

/// See the module.
pub struct States {
    topics: Topics,
    /// The prefix of discovery documents, where they are wanted.
    discovery: Option<String>,
    snapshots: bool,
    labels: BTreeMap<Key, Label>,
    /// Levels of the labels that are watched.
    slugs: HashMap<Key, String>,
    shelf: Shelf,
    /// The streams and their states as they were shown last.
    shown: Option<(Arc<Vec<Watched>>, Vec<&'static str>)>,
}

impl States {
    pub fn new(topics: Topics, discovery: Option<String>, snapshots: bool) -> Self {
        let (labels, slugs) = (BTreeMap::new(), HashMap::new());
        Self { topics, discovery, snapshots, labels, slugs, shelf: Shelf::default(), shown: None }
    }

    /// The broker has a retained message.
    pub fn found(&mut self, topic: String, payload: Vec<u8>) {
        let document = self.discovery.is_some() && topic.ends_with("/config");
        let ours = match document {
            true => home_assistant::is_ours(&payload, &self.topics),
            false => self.topics.is_ours(&topic),
        };
        if ours {
            self.shelf.found(topic, payload);
            self.shown = None;
        }
    }

    /// Takes the states of all labels after the latest event that was stored.
    pub fn begin(&mut self, states: &[TagState]) {
        for state in states {
            let key = (state.stream.clone(), state.set.clone(), state.label.clone());
            self.labels.insert(key, label(&state.last));
        }
    }

    /// An event goes out: what it changes, unless it is older than what is known.
    pub fn note(&mut self, stored: &Stored) -> Vec<Message> {
        let data = &stored.event.data;
        let key = (data.stream.clone(), data.set.clone(), data.label.clone());
        if self.labels.get(&key).is_some_and(|known| known.seq > stored.seq) {
            return Vec::new();
        }
        let now = label(stored);
        let mut messages = Vec::new();
        if let Some(slug) = self.slugs.get(&key) {
            messages.extend(self.shelf.put(&self.topics.label(&data.stream, slug), now.state));
            messages.extend(self.shelf.put(&self.topics.attributes(&data.stream, slug), &now.attributes));
        }
        self.labels.insert(key, now);
        messages
    }

    /// Everything that has changed of streams and labels.
    pub fn look(&mut self, streams: &Arc<Vec<Watched>>) -> Vec<Message> {
        let states: Vec<&'static str> = streams.iter().map(status).collect();
        if self.shown.as_ref().is_some_and(|(shown, was)| Arc::ptr_eq(shown, streams) && *was == states) {
            return Vec::new();
        }
        self.shown = Some((Arc::clone(streams), states));
        self.learn(streams);
        let wanted = self.wanted(streams);
        // Others may publish below the same prefix. A stream of ours, of an earlier life too, is known by its switch, so that goes last.
        let topics = &self.topics;
        let ours = |shelf: &Shelf, topic: &str| {
            let Some(stream) = topics.stream(topic) else { return true };
            let switch = topics.enabled(stream);
            shelf.has(&switch) || wanted.contains_key(&switch)
        };
        let mut messages = self.shelf.settle(&wanted, ours, |topic| topic.ends_with("/enabled/state"));
        // Pictures are not looked for at the broker; a label that goes takes its picture along.
        let gone = |message: &Message| {
            let label = message.topic.strip_suffix("/attributes").filter(|_| message.payload.is_empty())?;
            Some(Message::retained(format!("{label}/snapshot"), ""))
        };
        messages.extend(messages.iter().filter_map(gone).collect::<Vec<_>>());
        messages
    }

    /// The documents once more.
    pub fn introduce_again(&mut self) -> Vec<Message> {
        let Some(prefix) = &self.discovery else { return Vec::new() };
        self.shelf.again(&format!("{prefix}/device/"))
    }

    /// The level of a label that is watched.
    pub fn slug(&self, stream: &str, set: &str, label: &str) -> Option<String> {
        self.slugs.get(&(stream.to_owned(), set.to_owned(), label.to_owned())).cloned()
    }

    fn learn(&mut self, streams: &[Watched]) {
        self.slugs.clear();
        for stream in streams {
            for ((set, label), slug) in slugs(&stream.labels) {
                self.slugs.insert((stream.id().to_owned(), set, label), slug);
            }
        }
    }

    fn wanted(&self, streams: &[Watched]) -> BTreeMap<String, Vec<u8>> {
        let mut wanted = BTreeMap::new();
        for stream in streams {
            let id = stream.id();
            wanted.insert(self.topics.status(id), status(stream).into());
            wanted.insert(self.topics.enabled(id), if stream.enabled { "ON".into() } else { "OFF".into() });
            if let Some(prefix) = &self.discovery {
                let document = home_assistant::document(stream, &self.topics, self.snapshots);
                wanted.insert(home_assistant::topic(prefix, &self.topics, id), document.to_string().into());
            }
        }
        for (key, slug) in &self.slugs {
            let known = self.labels.get(key);
            wanted.insert(self.topics.label(&key.0, slug), known.map_or(b"OFF".as_slice(), |known| known.state).into());
            let attributes = known.map_or_else(|| b"{}".to_vec(), |known| known.attributes.clone());
            wanted.insert(self.topics.attributes(&key.0, slug), attributes);
        }
        wanted
    }
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

fn status(stream: &Watched) -> &'static str {
    if !stream.enabled {
        return "disabled";
    }
    match stream.status.is_up() {
        Some(true) => "online",
        _ => "offline",
    }
}

/// What `<p>/stats` says.
pub fn stats(streams: &[Watched], uptime: Duration, now: Instant) -> String {
    let row = |stream: &Watched| {
        let report = stream.status.report(now);
        let state = match report.state {
            StreamState::Connecting => "connecting",
            StreamState::Up => "up",
            StreamState::Down { .. } => "down",
            StreamState::Disabled => "disabled",
            StreamState::Ended => "ended",
            StreamState::Failed { .. } => "failed",
        };
        let totals = stream.account.totals();
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
    use crate::sink::mqtt::home_assistant::tests::watched;

    #[test]
    fn what_an_earlier_life_left_goes_and_what_others_retain_below_the_prefix_stays() {
        let mut states = States::new(Topics::new("home"), None, false);
        let theirs = ["home/kitchen/light", "home/kitchen/attributes", "home/hall/lamp/attributes"];
        let left = ["home/gate/car", "home/gate/car/attributes", "home/gate/status", "home/gate/enabled/state"];
        for topic in theirs.into_iter().chain(left) {
            states.found(topic.to_owned(), b"ON".to_vec());
        }
        let told = states.look(&Arc::new(vec![watched("yard", &["bus"])]));
        let gone: Vec<&str> = told.iter().filter(|m| m.payload.is_empty()).map(|m| m.topic.as_str()).collect();
        // Its switch last: as long as that lies there, the rest of the stream is known for ours. Its picture is not looked for.
        assert_eq!(gone, [left[0], left[1], left[2], left[3], "home/gate/car/snapshot"]);
        assert!(told.iter().any(|message| message.topic == "home/yard/bus"));
    }
}
