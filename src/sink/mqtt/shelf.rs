//! What lies retained at the broker, and what should: only the difference is published. Pure.
//!
//! After connecting, the sink listens to what the broker has and puts it here ([`Shelf::found`]); what it publishes itself is noted as it
//! is handed out. So a second start publishes nothing new, and what an earlier life left behind is cleared away. Where the broker does
//! not let us look, everything is published once.

use std::collections::BTreeMap;

use super::client::Message;

/// See the module.
#[derive(Debug, Default)]
pub struct Shelf {
    /// By topic; what is not here is not there, as far as we know.
    there: BTreeMap<String, Vec<u8>>,
}

impl Shelf {
    /// The broker has `payload` under `topic`, which is one of ours.
    pub fn found(&mut self, topic: String, payload: Vec<u8>) {
        if payload.is_empty() {
            self.there.remove(&topic);
        } else {
            self.there.insert(topic, payload);
        }
    }

    /// Whether the broker has something under `topic`.
    pub fn has(&self, topic: &str) -> bool {
        self.there.contains_key(topic)
    }

    /// Everything that is to be published so that the broker has `wanted` and, of the topics that `may_go`, nothing else; those that go
    /// last are named by `last`. Noted as published.
    pub fn settle(
        &mut self,
        wanted: &BTreeMap<String, Vec<u8>>,
        may_go: impl Fn(&Self, &str) -> bool,
        last: impl Fn(&str) -> bool,
    ) -> Vec<Message> {
        let gone = self.there.keys().filter(|topic| !wanted.contains_key(*topic) && may_go(self, topic));
        let mut gone: Vec<String> = gone.cloned().collect();
        gone.sort_by_key(|topic| last(topic));
        let mut messages: Vec<Message> = gone.into_iter().filter_map(|topic| self.put(&topic, &[])).collect();
        messages.extend(wanted.iter().filter_map(|(topic, payload)| self.put(topic, payload)));
        messages
    }

    /// What is to be published so that `topic` has `payload`; an empty one takes it away.
    pub fn put(&mut self, topic: &str, payload: &[u8]) -> Option<Message> {
        let has = self.there.get(topic).map(Vec::as_slice).unwrap_or_default();
        if has == payload {
            return None;
        }
        self.found(topic.to_owned(), payload.to_vec());
        Some(Message::retained(topic, payload))
    }

    /// What lies under the topics that start with `prefix`, to be published once more.
    pub fn again(&self, prefix: &str) -> Vec<Message> {
        let there = self.there.iter().filter(|(topic, _)| topic.starts_with(prefix));
        there.map(|(topic, payload)| Message::retained(topic, payload.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(pairs: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        pairs.iter().map(|(t, p)| ((*t).to_owned(), p.as_bytes().to_vec())).collect()
    }

    #[test]
    fn only_what_differs_is_published_and_what_nobody_wants_is_cleared() {
        let mut shelf = Shelf::default();
        shelf.found("a".into(), b"ON".to_vec());
        shelf.found("b".into(), b"ON".to_vec());
        shelf.found("old".into(), b"x".to_vec());
        let settle = |shelf: &mut Shelf| {
            shelf.settle(&wanted(&[("a", "ON"), ("b", "OFF"), ("c", "ON")]), |_, topic| topic != "foreign", |_| false)
        };
        shelf.found("foreign".into(), b"x".to_vec());
        let told = settle(&mut shelf);
        let expected = [("old", ""), ("b", "OFF"), ("c", "ON")].map(|(t, p)| Message::retained(t, p));
        assert_eq!(told, expected);
        assert!(settle(&mut shelf).is_empty(), "once is enough");
        assert_eq!(shelf.put("a", b"ON"), None);
        assert_eq!(shelf.again("a"), [Message::retained("a", "ON")]);
    }
}
