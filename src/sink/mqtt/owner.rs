//! Whose a prefix is: the retained `<p>/owner` names one daemon, and only that one publishes or clears anything retained there. Pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use uuid::Uuid;

use super::topics::Topics;
use crate::outbox::delivery::published_record::Digest;

/// Streams that are looked at to tell whose a prefix without an owner is.
const STREAMS: usize = 1024;

/// A daemon as it names itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Of its outbox: the same over restarts, another one for every daemon.
    pub id: Uuid,
    /// For people.
    pub instance: String,
}

/// What `<p>/owner` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Nobody,
    Us,
    /// Another one; how people know it.
    Other(String),
}

impl Owner {
    /// What lies on `<p>/owner`.
    pub fn document(&self) -> Vec<u8> {
        json!({ "id": self.id, "instance": self.instance, "program": "vtagd" }).to_string().into()
    }

    /// Whom the message on `<p>/owner` names (`lies`: its digest, if it has a payload). Whatever it is: if it is not this daemon's, the
    /// prefix is somebody else's.
    pub fn said(&self, payload: &[u8], lies: Option<Digest>) -> Said {
        if lies.is_none() {
            return Said::Nobody;
        }
        let document: Value = serde_json::from_slice(payload).unwrap_or_default();
        match document["id"].as_str().map(Uuid::parse_str) {
            Some(Ok(id)) if id == self.id => Said::Us,
            Some(Ok(id)) => {
                let name: String = document["instance"].as_str().unwrap_or_default().chars().take(64).collect();
                Said::Other(format!("{} ({id})", name.replace(char::is_control, " ")))
            }
            _ => Said::Other("something that is no vtagd".to_owned()),
        }
    }
}

/// What lies below a prefix that has no owner: an older vtagd's topics, which are ours, another program's, or nothing.
#[derive(Debug, Default)]
pub struct Survey {
    available: bool,
    /// Something that no vtagd publishes.
    strange: bool,
    /// Streams with a switch, and with a status: older versions leave both.
    switches: BTreeSet<String>,
    states: BTreeSet<String>,
}

impl Survey {
    /// The broker has `payload` under `topic`.
    pub fn note(&mut self, topics: &Topics, topic: &str, payload: &[u8]) {
        if topic == topics.available() {
            self.available = true;
            return;
        }
        let Some(stream) = topics.stream(topic).filter(|_| self.switches.len() + self.states.len() < STREAMS) else {
            return;
        };
        if topic == topics.enabled(stream) {
            self.switches.insert(stream.to_owned());
        } else if topic == topics.status(stream) && is_status(payload) {
            self.states.insert(stream.to_owned());
        } else if topics.is_level(topic) && !is_state(payload) {
            self.strange = true;
        }
    }

    /// Whether another program says by this prefix that it is there: it would be told to be away when this daemon is.
    pub fn another_program(&self) -> bool {
        self.available && self.strange && self.switches.is_disjoint(&self.states)
    }
}

/// What stands in `<p>/<stream>/status`.
pub fn is_status(payload: &[u8]) -> bool {
    matches!(payload, b"online" | b"offline" | b"disabled")
}

/// What stands in `<p>/<stream>/<label>` and `<p>/<stream>/enabled/state`.
pub fn is_state(payload: &[u8]) -> bool {
    matches!(payload, b"ON" | b"OFF")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_knows_itself_again_under_another_name_and_nobody_else() {
        let us = Owner { id: Uuid::from_u128(7), instance: "edge-1".into() };
        let renamed = Owner { instance: "edge-2".into(), ..us.clone() };
        let there = Some(Digest::default());
        assert_eq!(renamed.said(&us.document(), there), Said::Us);
        let other = Owner { id: Uuid::from_u128(8), instance: "a\nb".into() };
        assert_eq!(us.said(&other.document(), there), Said::Other(format!("a b ({})", other.id)));
        assert_eq!(us.said(b"", None), Said::Nobody);
        for odd in [&b"zigbee2mqtt"[..], b"{}", b"{\"id\": 7}", b"\xff", b"{\"id\": \"me\"}", b""] {
            assert_eq!(us.said(odd, there), Said::Other("something that is no vtagd".into()));
        }
    }

    #[test]
    fn a_prefix_that_another_program_says_to_be_there_by_is_its_own() {
        let topics = Topics::new("p");
        let another = |lies: &[(&str, &str)]| {
            let mut survey = Survey::default();
            lies.iter().for_each(|(topic, payload)| survey.note(&topics, topic, payload.as_bytes()));
            survey.another_program()
        };
        let frigate = [("p/available", "online"), ("p/gate/person", "1"), ("p/gate/enabled/state", "ON")];
        assert!(another(&frigate));
        assert!(!another(&frigate[1..]), "its availability is not touched");
        let older = [("p/available", "stopped"), ("p/gate/enabled/state", "ON"), ("p/gate/status", "online")];
        assert!(!another(&older));
        assert!(!another(&[&older[..], &frigate[1..2]].concat()), "both, and we were there before");
        assert!(!another(&[("p/available", "offline")]), "an older vtagd that never had a stream");
    }
}
