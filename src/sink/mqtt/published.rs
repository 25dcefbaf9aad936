//! What this daemon has published retained below one prefix of one broker, and whether what lies there still is that. Pure.
//!
//! Only what stands here is ever cleared. The outbox keeps a copy ([`record`](crate::outbox::delivery::published_record)), which is written first: a change is
//! told by [`Published::before`], and goes out once it has been written down. States and attributes of labels change with every event; of them
//! only the topic is written down while the daemon runs, and what lies there at the end.

use std::collections::BTreeMap;

use serde_json::Value;

use super::label_levels::LabelLevels;
use super::mqtt_client::Message;
use super::owner;
use super::partings::Partings;
use super::topics::Topics;
use crate::outbox::delivery::published_record::{Change, Digest, KnownRecord, Proof, RecordUpdate, digest};
use crate::stream::registry::RegisteredStream;

struct Row {
    proof: Proof,
    /// Whether the outbox has `proof`.
    written: bool,
    /// Of what this life has published last; `None`: nothing yet, or the broker may not have got it.
    last: Option<Digest>,
    /// Of what the broker is known to have had last: it lies there for as long as it gets nothing newer.
    there: Option<Digest>,
}

/// See the module.
pub struct Published {
    topics: Topics,
    rows: BTreeMap<String, Row>,
    /// Under which topics each label is published.
    levels: LabelLevels,
    /// What Home Assistant may not have heard of.
    pub partings: Partings,
}

impl Published {
    /// Goes on from what the outbox has.
    pub fn new(topics: Topics, known: KnownRecord) -> Self {
        let (recorded, partings) = (known.retained, Partings::new(known.unheard));
        let levels = LabelLevels::new(known.levels, !recorded.is_empty());
        let row =
            |(topic, proof): (String, Proof)| (topic, Row { proof, written: true, last: None, there: proof.digest });
        Self { topics, rows: recorded.into_iter().map(row).collect(), levels, partings }
    }

    /// Which level each label has; those of `streams` that have none get one.
    pub fn assign(&mut self, streams: &[RegisteredStream]) {
        self.levels.assign(streams, &self.topics, |topic| self.rows.contains_key(topic));
    }

    pub fn levels(&self) -> &LabelLevels {
        &self.levels
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn knows(&self, topic: &str) -> bool {
        self.rows.contains_key(topic)
    }

    pub fn topics(&self) -> impl Iterator<Item = &String> {
        self.rows.keys()
    }

    /// `messages` will go out: what has to be written down before.
    pub fn before(&mut self, messages: &[Message]) -> Vec<Change> {
        let mut changes = Vec::new();
        for Message { topic, payload, .. } in messages.iter().filter(|m| m.retain && !m.payload.is_empty()) {
            let now = digest(payload);
            let row = self.rows.entry(topic.clone()).or_insert_with(|| Row {
                proof: Proof { digest: Some(now), before: None },
                written: false,
                last: None,
                there: None,
            });
            row.last = Some(now);
            let proof = match row.proof.digest {
                _ if self.topics.is_of_label(topic) => Proof::default(),
                Some(before) if before == now => row.proof,
                before => Proof { digest: Some(now), before: row.there.filter(|there| *there != now).or(before) },
            };
            row.written &= proof == row.proof;
            row.proof = proof;
            if !row.written {
                changes.push(Change { topic: topic.clone(), proof: Some(proof) });
            }
        }
        changes
    }

    /// What the outbox is to write down beside `changes`.
    pub fn update(&self, changes: Vec<Change>) -> RecordUpdate {
        RecordUpdate { changes, levels: self.levels.unwritten(), unheard: self.partings.unwritten() }
    }

    /// The outbox has `update`.
    pub fn written(&mut self, update: &RecordUpdate) {
        for Change { topic, proof } in &update.changes {
            if let Some(row) = self.rows.get_mut(topic) {
                row.written = *proof == Some(row.proof);
            }
        }
        self.levels.written(&update.levels);
        if let Some(unheard) = &update.unheard {
            self.partings.written(unheard);
        }
    }

    /// What the outbox would not take.
    pub fn unwritten(&self) -> Vec<Change> {
        let late = self.rows.iter().filter(|(_, row)| !row.written);
        late.map(|(topic, row)| Change { topic: topic.clone(), proof: Some(row.proof) }).collect()
    }

    /// The daemon ends: what lies there now of what was not written down with every change.
    pub fn last(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (topic, row) in self.rows.iter_mut().filter(|(_, row)| row.proof.digest.is_none()) {
            if let Some(last) = row.last {
                row.proof = Proof { digest: Some(last), before: None };
                row.written = false;
                changes.push(Change { topic: topic.clone(), proof: Some(row.proof) });
            }
        }
        changes
    }

    /// The broker has `payload` under `topic`.
    pub fn confirm(&mut self, topic: &str, payload: Digest) {
        if let Some(row) = self.rows.get_mut(topic) {
            row.there = Some(payload);
        }
    }

    /// Nobody knows whether the broker got what was published last under `topic`.
    pub fn unconfirm(&mut self, topic: &str) {
        if let Some(row) = self.rows.get_mut(topic) {
            row.last = None;
        }
    }

    /// Whether `payload`, which lies under `topic`, was published by this daemon, in this life or an earlier one.
    pub fn is_ours(&self, topic: &str, payload: &[u8], lies: Digest) -> bool {
        let Some(row) = self.rows.get(topic) else { return false };
        match (row.last, row.proof) {
            (Some(last), _) => last == lies,
            // The daemon was killed while it changed: it can be any of its payloads, but no other one.
            (None, Proof { digest: None, .. }) => is_of_label(payload),
            (None, Proof { digest, before }) => [digest, before].contains(&Some(lies)),
        }
    }

    /// Nothing of ours lies under `topic` any more.
    pub fn forget(&mut self, topic: &str) -> Change {
        self.rows.remove(topic);
        Change { topic: topic.to_owned(), proof: None }
    }
}

/// Whether a label's topics may hold this: its state, or its attributes.
fn is_of_label(payload: &[u8]) -> bool {
    owner::is_state(payload) || payload == b"{}" || is_attributes(payload)
}

/// Whether this is what `<p>/<stream>/<label>/attributes` has once there was an event.
pub fn is_attributes(payload: &[u8]) -> bool {
    let keys = ["set", "tag_id", "score", "peak", "started_at"];
    serde_json::from_slice::<Value>(payload).is_ok_and(|said| keys.iter().all(|key| said.get(key).is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(recorded: &[(&str, Proof)]) -> Published {
        let retained = recorded.iter().map(|(topic, proof)| ((*topic).to_owned(), *proof)).collect();
        Published::new(Topics::new("v"), KnownRecord { retained, ..KnownRecord::default() })
    }

    fn of(payload: &str) -> Option<Digest> {
        Some(digest(payload.as_bytes()))
    }

    fn ours(published: &Published, topic: &str, payload: &str) -> bool {
        published.is_ours(topic, payload.as_bytes(), digest(payload.as_bytes()))
    }

    #[test]
    fn what_is_published_is_written_down_first_and_a_label_that_flickers_once() {
        let mut published = published(&[]);
        let messages = [Message::retained("v/gate/car", "ON"), Message::retained("v/gate/status", "online")];
        let changes = published.before(&messages);
        let status = Proof { digest: of("online"), before: None };
        assert_eq!(changes.iter().map(|c| c.proof).collect::<Vec<_>>(), [Some(Proof::default()), Some(status)]);
        assert_eq!(published.unwritten(), changes, "until it is said to be");
        published.written(&published.update(changes));
        assert!(published.unwritten().is_empty());
        assert_eq!(published.before(&[Message::retained("v/gate/car", "OFF"), messages[1].clone()]), []);
        let gone = published.before(&[Message::retained("v/gate/status", "offline")]);
        assert_eq!(gone[0].proof, Some(Proof { digest: of("offline"), before: of("online") }));
        // The end: what lies there now.
        assert_eq!(published.last()[0].proof, Some(Proof { digest: of("OFF"), before: None }));
    }

    #[test]
    fn what_the_broker_had_last_is_proven_until_it_has_something_newer() {
        let topic = "v/gate/status";
        let mut published = published(&[]);
        let publish = |published: &mut Published, payload: &str| {
            let changes = published.before(&[Message::retained(topic, payload)]);
            published.written(&published.update(changes));
        };
        publish(&mut published, "online");
        published.confirm(topic, digest(b"online"));
        // Each is lost with its connection.
        for payload in ["offline", "disabled"] {
            publish(&mut published, payload);
            published.unconfirm(topic);
        }
        // The daemon is killed; the next life has what was written down.
        let proof = published.rows[topic].proof;
        assert_eq!(proof, Proof { digest: of("disabled"), before: of("online") });
        let mut published = super::tests::published(&[(topic, proof)]);
        assert!(ours(&published, topic, "online") && ours(&published, topic, "disabled"));
        // It is seen at the broker.
        published.confirm(topic, digest(b"online"));
        publish(&mut published, "offline");
        assert_eq!(published.rows[topic].proof, Proof { digest: of("offline"), before: of("online") });
        published.confirm(topic, digest(b"offline"));
        publish(&mut published, "disabled");
        assert_eq!(published.rows[topic].proof, Proof { digest: of("disabled"), before: of("offline") });
    }

    #[test]
    fn only_what_this_daemon_published_last_is_its_own() {
        let mut published = published(&[
            ("v/gate/status", Proof { digest: of("offline"), before: of("online") }),
            ("v/gate/car", Proof::default()),
            ("v/gate/bus", Proof { digest: of("OFF"), before: None }),
        ]);
        assert!(
            ours(&published, "v/gate/status", "online") && ours(&published, "v/gate/status", "offline"),
            "killed in between"
        );
        assert!(!ours(&published, "v/gate/status", "disabled"));
        // Killed: any of its payloads.
        assert!(
            ours(&published, "v/gate/car", "ON")
                && ours(&published, "v/gate/car", "{}")
                && !ours(&published, "v/gate/car", "1")
        );
        assert!(ours(&published, "v/gate/bus", "OFF") && !ours(&published, "v/gate/bus", "ON"), "ended: exactly that");
        assert!(!ours(&published, "v/gate/van", "OFF"), "never published");
        published.before(&[Message::retained("v/gate/car", "ON")]);
        assert!(
            ours(&published, "v/gate/car", "ON") && !ours(&published, "v/gate/car", "OFF"),
            "in one life it is known"
        );
        published.unconfirm("v/gate/car");
        assert!(ours(&published, "v/gate/car", "OFF"), "the connection was lost meanwhile");
        assert_eq!(published.forget("v/gate/car").proof, None);
        assert!(!published.knows("v/gate/car"));
    }
}
