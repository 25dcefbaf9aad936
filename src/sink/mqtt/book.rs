//! What this daemon has published retained below one prefix of one broker, and whether what lies there still is that. Pure.
//!
//! Only what stands here is ever cleared. The outbox keeps a copy ([`record`](crate::delivery::record)), which is written first: a change is
//! told by [`Book::before`], and goes out once it has been written down. States and attributes of labels change with every event; of them
//! only the topic is written down while the daemon runs, and what lies there at the end.

use std::collections::BTreeMap;

use serde_json::Value;

use super::client::Message;
use super::owner;
use super::topics::Topics;
use crate::delivery::record::{Change, Digest, Left, digest};

struct Row {
    left: Left,
    /// Whether the outbox has `left`.
    written: bool,
    /// Of what this life has published last; `None`: nothing yet, or the broker may not have got it.
    last: Option<Digest>,
}

/// See the module.
pub struct Book {
    topics: Topics,
    rows: BTreeMap<String, Row>,
}

impl Book {
    /// Goes on from what the outbox has.
    pub fn new(topics: Topics, left: BTreeMap<String, Left>) -> Self {
        let row = |(topic, left)| (topic, Row { left, written: true, last: None });
        Self { topics, rows: left.into_iter().map(row).collect() }
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
                left: Left { digest: Some(now), before: None },
                written: false,
                last: None,
            });
            row.last = Some(now);
            let left = match row.left.digest {
                _ if self.topics.is_of_label(topic) => Left::default(),
                Some(before) if before == now => row.left,
                before => Left { digest: Some(now), before },
            };
            row.written &= left == row.left;
            row.left = left;
            if !row.written {
                changes.push(Change { topic: topic.clone(), left: Some(left) });
            }
        }
        changes
    }

    /// The outbox has `changes`.
    pub fn written(&mut self, changes: &[Change]) {
        for Change { topic, left } in changes {
            if let Some(row) = self.rows.get_mut(topic) {
                row.written = *left == Some(row.left);
            }
        }
    }

    /// What the outbox would not take.
    pub fn unwritten(&self) -> Vec<Change> {
        let late = self.rows.iter().filter(|(_, row)| !row.written);
        late.map(|(topic, row)| Change { topic: topic.clone(), left: Some(row.left) }).collect()
    }

    /// The daemon ends: what lies there now of what was not written down with every change.
    pub fn last(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (topic, row) in self.rows.iter_mut().filter(|(_, row)| row.left.digest.is_none()) {
            if let Some(last) = row.last {
                row.left = Left { digest: Some(last), before: None };
                row.written = false;
                changes.push(Change { topic: topic.clone(), left: Some(row.left) });
            }
        }
        changes
    }

    /// Nobody knows whether the broker got what was published last under `topic`.
    pub fn doubt(&mut self, topic: &str) {
        if let Some(row) = self.rows.get_mut(topic) {
            row.last = None;
        }
    }

    /// Whether `payload`, which lies under `topic`, was published by this daemon, in this life or an earlier one.
    pub fn is_ours(&self, topic: &str, payload: &[u8], lies: Digest) -> bool {
        let Some(row) = self.rows.get(topic) else { return false };
        match (row.last, row.left) {
            (Some(last), _) => last == lies,
            // The daemon was killed while it changed: it can be any of its payloads, but no other one.
            (None, Left { digest: None, .. }) => is_of_label(payload),
            (None, Left { digest, before }) => [digest, before].contains(&Some(lies)),
        }
    }

    /// Nothing of ours lies under `topic` any more.
    pub fn forget(&mut self, topic: &str) -> Change {
        self.rows.remove(topic);
        Change { topic: topic.to_owned(), left: None }
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

    fn book(left: &[(&str, Left)]) -> Book {
        let left = left.iter().map(|(topic, left)| ((*topic).to_owned(), *left)).collect();
        Book::new(Topics::new("v"), left)
    }

    fn of(payload: &str) -> Option<Digest> {
        Some(digest(payload.as_bytes()))
    }

    fn ours(book: &Book, topic: &str, payload: &str) -> bool {
        book.is_ours(topic, payload.as_bytes(), digest(payload.as_bytes()))
    }

    #[test]
    fn what_is_published_is_written_down_first_and_a_label_that_flickers_once() {
        let mut book = book(&[]);
        let messages = [Message::retained("v/gate/car", "ON"), Message::retained("v/gate/status", "online")];
        let changes = book.before(&messages);
        let status = Left { digest: of("online"), before: None };
        assert_eq!(changes.iter().map(|c| c.left).collect::<Vec<_>>(), [Some(Left::default()), Some(status)]);
        assert_eq!(book.unwritten(), changes, "until it is said to be");
        book.written(&changes);
        assert!(book.unwritten().is_empty());
        assert_eq!(book.before(&[Message::retained("v/gate/car", "OFF"), messages[1].clone()]), []);
        let gone = book.before(&[Message::retained("v/gate/status", "offline")]);
        assert_eq!(gone[0].left, Some(Left { digest: of("offline"), before: of("online") }));
        // The end: what lies there now.
        assert_eq!(book.last()[0].left, Some(Left { digest: of("OFF"), before: None }));
    }

    #[test]
    fn only_what_this_daemon_published_last_is_its_own() {
        let mut book = book(&[
            ("v/gate/status", Left { digest: of("offline"), before: of("online") }),
            ("v/gate/car", Left::default()),
            ("v/gate/bus", Left { digest: of("OFF"), before: None }),
        ]);
        assert!(ours(&book, "v/gate/status", "online") && ours(&book, "v/gate/status", "offline"), "killed in between");
        assert!(!ours(&book, "v/gate/status", "disabled"));
        // Killed: any of its payloads.
        assert!(ours(&book, "v/gate/car", "ON") && ours(&book, "v/gate/car", "{}") && !ours(&book, "v/gate/car", "1"));
        assert!(ours(&book, "v/gate/bus", "OFF") && !ours(&book, "v/gate/bus", "ON"), "ended: exactly that");
        assert!(!ours(&book, "v/gate/van", "OFF"), "never published");
        book.before(&[Message::retained("v/gate/car", "ON")]);
        assert!(ours(&book, "v/gate/car", "ON") && !ours(&book, "v/gate/car", "OFF"), "in one life it is known");
        book.doubt("v/gate/car");
        assert!(ours(&book, "v/gate/car", "OFF"), "the connection was lost meanwhile");
        assert_eq!(book.forget("v/gate/car").left, None);
        assert!(!book.knows("v/gate/car"));
    }
}
