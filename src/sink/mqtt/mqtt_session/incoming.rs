//! What the broker sends on a session's connection: the owner, commands, Home Assistant's birth, and what lies retained; and what of the
//! last is taken away.

use tokio::time::Instant;

use super::{INTRODUCED, PARTING, Session};
use crate::outbox::delivery::published_record::Digest;
use crate::sink::SinkError;
use crate::sink::mqtt::clearing::Verdict;
use crate::sink::mqtt::home_assistant;
use crate::sink::mqtt::mqtt_client::{Message, Received};
use crate::sink::mqtt::owner::Said;
use crate::stream::requests::Action;

impl Session<'_> {
    /// Does what a message asks for, or notes what it says.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) fn hear(&mut self, heard: Received) -> Result<(), SinkError> {
        let (topic, payload, digest, retained) = match heard {
            Received::Lost(why) => return Err(SinkError::retry(why)),
            Received::Message { topic, payload, digest, retained } => (topic, payload, digest, retained),
        };
        if topic == self.topics.owner() {
            match self.owner.said(&payload, digest) {
                Said::Other(_) => self.owner_changed |= self.ours,
                Said::Us => {
                    *self.unreadable = false;
                    self.owner_changed |= !self.ours;
                }
                // Somebody has taken the name away: the prefix stays ours, or is free.
                Said::Nobody => {
                    self.say_again |= self.ours;
                    self.owner_changed |= !self.ours;
                }
            }
        } else if topic == self.topics.available() {
            // The last will of who had the prefix before, for one.
            self.say_again |= self.ours && !retained && payload != b"online";
        } else if let Some(stream) = self.topics.commanded(&topic) {
            if retained {
                // It would come again with every connection, and undo what was said since.
                tracing::warn!(stream, "a retained command is passed over: publish it without the retain flag");
            } else {
                self.command(stream, &payload);
            }
        } else if self.discovery.as_deref().is_some_and(|prefix| home_assistant::birth(prefix) == topic) {
            if payload == b"online" && !retained {
                // Home Assistant has started: it asks to be told anew.
                if self.surveying.is_some() {
                    // Until it is known what lies there, no device is told.
                    self.introduce_later = true;
                } else {
                    self.introduce_again();
                }
            }
        } else if let Some(lies) = digest.filter(|_| retained) {
            self.found(topic, &payload, lies);
        }
        Ok(())
    }

    /// The documents once more, and what has gone from them. What is told of that has been heard once the broker has it.
    pub(super) fn introduce_again(&mut self) {
        let messages = self.states.introduce_again(self.published);
        if messages.iter().any(|message| !message.retain) {
            self.parting_until = Some(Instant::now() + PARTING);
            self.told_partings = Some(self.published.partings.all().clone());
        }
        self.publisher.extend(messages);
        self.introduced();
    }

    /// Home Assistant hears of devices: what nobody keeps for it is told once it listens.
    pub(super) fn introduced(&mut self) {
        self.stats_again = Some(Instant::now() + INTRODUCED);
    }

    /// Something lies retained.
    fn found(&mut self, topic: String, payload: &[u8], lies: Digest) {
        let ours = self.published.is_ours(&topic, payload, lies);
        if ours {
            self.published.confirm(&topic, lies);
        }
        let wanted = self.states.is_wanted(&topic);
        match self.clearing.decide(&topic, ours).filter(|_| !wanted) {
            Some(Verdict::Clear) => self.take_away(&topic),
            Some(Verdict::Leave) => {
                tracing::info!(topic, "a retained message stays, as another has written it since it was ours");
                self.forgotten.push(self.published.forget(&topic));
            }
            Some(Verdict::Stuck) => {
                tracing::warn!(
                    topic,
                    "a retained message of ours cannot be removed: the broker keeps it; may this user write there?"
                );
            }
            None if self.surveying.is_some() => self.states.found(topic, payload, lies, self.published),
            None => {}
        }
    }

    fn command(&self, stream: &str, payload: &[u8]) {
        let enabled = match payload {
            b"ON" => true,
            b"OFF" => false,
            _ => {
                tracing::warn!(stream, "a command that is neither ON nor OFF is passed over");
                return;
            }
        };
        if !self.registry.streams().is_some_and(|streams| streams.iter().any(|watched| watched.id() == stream)) {
            tracing::warn!(stream, "a command for a stream that is not there is passed over");
        } else if self.registry.request(Action::Switch { stream: stream.to_owned(), enabled }).is_err() {
            tracing::warn!(stream, "too many commands at once, this one is passed over");
        }
    }

    /// Goes on taking away what this daemon published and does not want any more.
    ///
    /// # Errors
    /// When the client takes no request.
    pub(super) fn clear(&mut self, now: Instant) -> Result<(), SinkError> {
        if self.clearing_until.is_some_and(|until| now >= until) {
            self.clearing_until = None;
            let (round, empty) = self.clearing.end();
            self.link.unsubscribe(&round).map_err(SinkError::retry)?;
            for topic in empty.iter().filter(|topic| !self.states.is_wanted(topic)) {
                // The broker has lost the document, which Home Assistant does not know. It is forgotten in the next round, which comes behind this.
                if self.states.is_document(topic) && self.clearing.clear_empty(topic) {
                    self.publisher.push(Message::new(topic.clone(), ""), None);
                    self.published.partings.part_device(topic);
                    self.parting_until = Some(now + PARTING);
                    continue;
                }
                self.forgotten.push(self.published.forget(topic));
            }
        }
        // What was cleared last must have been handed over before it is asked for again.
        if self.clearing.is_busy() || !self.publisher.has_room() {
            return Ok(());
        }
        // Home Assistant first lets go of what is gone: until its documents are told, it listens there.
        if self.discovery.is_some() && self.surveying.is_some() || self.parting_until.is_some_and(|until| now < until) {
            return Ok(());
        }
        let gone = self.states.gone(self.published);
        if gone.is_empty() {
            return Ok(());
        }
        if *self.unreadable {
            // Another may have written there since. Nothing is forgotten: it goes once it can be read.
            if self.surveying.is_none() && !std::mem::replace(&mut self.told_unreadable, true) {
                tracing::warn!(
                    total = gone.len(),
                    "retained messages of ours that nobody wants any more stay, as the broker does not show what lies there; may this user \
                     read below the prefix?"
                );
            }
            return Ok(());
        }
        let (documents, others): (Vec<_>, Vec<_>) = gone.into_iter().partition(|topic| self.states.is_document(topic));
        let asked =
            if self.clearing.begin(documents).is_empty() { self.clearing.begin(others) } else { self.clearing.round() };
        if !asked.is_empty() {
            self.asked = Some(self.link.subscribe(asked, true, self.timeout).map_err(SinkError::retry)?);
        }
        Ok(())
    }

    fn take_away(&mut self, topic: &str) {
        tracing::info!(
            topic,
            why = "its stream, region or label is not in the configuration any more",
            "a retained message of ours is removed"
        );
        self.publisher.push(Message::retained(topic, ""), None);
        if self.states.is_document(topic) {
            self.published.partings.part_device(topic);
            self.parting_until = Some(Instant::now() + PARTING);
        }
        self.states.cleared(topic);
    }
}
