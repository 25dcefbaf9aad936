//! What is to be published, what is on its way, and which deliveries end with it.
//!
//! Messages go out in the order in which they were pushed, and are settled in that order too. No more than [`IN_FLIGHT`] are on their way;
//! the rest waits here. Deliveries and pictures are taken only when nothing waits ([`Publisher::has_room`]), and a retained message takes the
//! place of one of its topic that waits, so what waits is bounded by the retained topics of the configuration and a few messages of one event.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::timeout_at;

use super::mqtt_client::{IN_FLIGHT, Link, Message, NotTaken, Notice};
use crate::outbox::delivery::published_record::{Digest, digest};
use crate::sink::SinkError;
use crate::sink::in_flight::InFlight;

struct Sent {
    /// The delivery that this message stands for.
    position: Option<u64>,
    topic: String,
    /// Of what stays at the broker.
    kept: Option<Digest>,
    /// Of its packet.
    size: usize,
}

/// What the broker has taken, or will never take.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// The delivery it stands for.
    pub position: Option<u64>,
    /// Why that delivery is one that no other attempt would bring there.
    pub dead: Option<String>,
    /// What lies at the broker now: topic and payload.
    pub kept: Option<(String, Digest)>,
    /// Of its packet.
    pub size: usize,
}

/// See the module.
pub struct Publisher {
    waiting: VecDeque<(Message, Option<u64>)>,
    /// Messages that have left `waiting`.
    left: u64,
    /// By topic: which message of all is the retained one that waits.
    places: HashMap<String, u64>,
    sent: InFlight<Sent, Notice>,
    /// The topic of one that was lost with the connection, and the size of its packet.
    lost: Option<(String, usize)>,
    /// The log has been told that the broker refuses something.
    told: bool,
    timeout: Duration,
}

impl Publisher {
    pub fn new(timeout: Duration) -> Self {
        Self {
            waiting: VecDeque::new(),
            left: 0,
            places: HashMap::new(),
            sent: InFlight::default(),
            lost: None,
            told: false,
            timeout,
        }
    }

    /// Publishes `message` when it is its turn; `position` is given back when it is acknowledged.
    pub fn push(&mut self, message: Message, position: Option<u64>) {
        if message.retain && position.is_none() {
            let place = self.places.get(&message.topic).and_then(|place| usize::try_from(place - self.left).ok());
            if let Some((waits, _)) = place.and_then(|place| self.waiting.get_mut(place)) {
                *waits = message;
                return;
            }
            self.places.insert(message.topic.clone(), self.left + self.waiting.len() as u64);
        }
        self.waiting.push_back((message, position));
    }

    pub fn extend(&mut self, messages: impl IntoIterator<Item = Message>) {
        messages.into_iter().for_each(|message| self.push(message, None));
    }

    /// Whether another delivery or picture may be taken.
    pub fn has_room(&self) -> bool {
        self.waiting.is_empty() && self.sent.len() < usize::from(IN_FLIGHT)
    }

    /// Topics of what is retained and was not acknowledged: the broker has it, or does not.
    pub fn unconfirmed(&self) -> impl Iterator<Item = &String> {
        let waiting = self.waiting.iter().filter(|(message, _)| message.retain).map(|(message, _)| &message.topic);
        waiting.chain(self.sent.iter().map(|sent| &sent.topic)).chain(self.lost.iter().map(|lost| &lost.0))
    }

    /// Topic and packet size of the oldest message that went out and has no answer: brokers look at one after the other.
    pub fn first_unanswered(&self) -> Option<(&str, usize)> {
        let sent = || self.sent.iter().next().map(|sent| (sent.topic.as_str(), sent.size));
        self.lost.as_ref().map(|(topic, size)| (topic.as_str(), *size)).or_else(sent)
    }

    /// What waits does not go out.
    pub fn drop_waiting(&mut self) {
        self.left += self.waiting.len() as u64;
        self.waiting.clear();
        self.places.clear();
    }

    /// Whether everything was acknowledged.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty()
    }

    /// Hands on what may go by `link`.
    ///
    /// # Errors
    /// A topic that cannot be.
    pub fn pump(&mut self, link: &Link) -> Result<(), SinkError> {
        while self.sent.len() < usize::from(IN_FLIGHT) {
            let Some((message, position)) = self.waiting.front() else { break };
            // The client would hang up over it, on every connection again. Events have been measured before.
            if position.is_none() && link.largest.is_some_and(|largest| message.packet_size() > largest) {
                let Some((message, _)) = self.waiting.pop_front() else { break };
                self.left += 1;
                if message.retain {
                    self.places.remove(&message.topic);
                }
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!(
                        topic = message.topic,
                        "a message is larger than the broker takes and is passed over, others may be too: let it take more, or make attributes shorter"
                    );
                }
                continue;
            }
            let Some(notice) = link.publish(message).map_err(SinkError::retry)? else { break };
            let size = message.packet_size();
            let Some((Message { topic, retain, payload, .. }, position)) = self.waiting.pop_front() else { break };
            self.left += 1;
            if retain {
                self.places.remove(&topic);
            }
            let kept = (retain && !payload.is_empty()).then(|| digest(&payload));
            self.sent.push(Sent { position, topic, kept, size }, notice);
        }
        Ok(())
    }

    /// Waits for the acknowledgement of the oldest message. Waits for ever when nothing is on its way.
    /// May be cancelled without losing anything. A message that stands for none and is refused is told once: events do not wait for it.
    ///
    /// # Errors
    /// When the broker refuses a delivery, or says nothing for too long.
    pub async fn acknowledged(&mut self) -> Result<Acknowledged, SinkError> {
        if self.sent.is_empty() {
            return std::future::pending().await;
        }
        // While others are acknowledged the broker is there, only slow.
        let (deadline, timeout) = (self.sent.heard() + self.timeout, self.timeout);
        let Ok((Sent { position, topic, kept, size }, answer)) = timeout_at(deadline, self.sent.answered()).await
        else {
            return Err(SinkError::retry(format!("the broker has acknowledged nothing for {timeout:?}")));
        };
        let kept = match answer {
            Ok(()) => kept.map(|kept| (topic, kept)),
            Err(NotTaken::Malformed(why)) if position.is_some() => {
                let dead = Some(format!("the broker refuses what the event says: {why}"));
                return Ok(Acknowledged { position, dead, kept: None, size });
            }
            Err(NotTaken::Lost(why)) => {
                self.lost = Some((topic, size));
                return Err(SinkError::retry(format!("not acknowledged: {why}")));
            }
            Err(NotTaken::Refused(why) | NotTaken::Malformed(why)) => {
                let why = format!("the broker refuses {topic}: {why}");
                if position.is_some() {
                    return Err(SinkError::retry(why));
                }
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!(why, "a message is passed over; maybe others too, until the next connection");
                }
                None
            }
        };
        Ok(Acknowledged { position, dead: None, kept, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_by_topics_as_a_newer_state_takes_the_place_of_one_that_waits() {
        let mut publisher = Publisher::new(Duration::from_secs(1));
        publisher.push(Message::new("v/events", "1"), Some(1));
        for number in 0..1000 {
            publisher.push(Message::retained("v/gate/car/snapshot", vec![0; number]), None);
            publisher.extend([Message::retained("v/gate/car", number.to_string())]);
        }
        publisher.push(Message::new("v/events", "2"), Some(2));
        let waiting: Vec<_> = publisher.waiting.iter().map(|(message, at)| (message.payload.len(), *at)).collect();
        assert_eq!(waiting, [(1, Some(1)), (999, None), (3, None), (1, Some(2))]);
    }
}
