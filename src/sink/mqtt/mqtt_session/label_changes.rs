//! What an event changes at the broker, in the order in which people look at it: attributes, picture, state, event entity.
//!
//! Who acts on a state finds what it is about in place. A picture that is still being made is waited for, never longer than [`PICTURE`], and by
//! no more than [`MOST`] changes at a time: then the oldest go without it. The event itself, on `<p>/events`, waits for nothing.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::Instant;

use super::Session;
use crate::event::Event;
use crate::outbox::delivery::{Delivery, DeliveryReceiver};
use crate::sink::mqtt::home_assistant;
use crate::sink::mqtt::mqtt_client::Message;
use crate::snapshot::Saved;

/// For a picture.
const PICTURE: Duration = Duration::from_millis(500);

/// Changes that wait for their pictures.
const MOST: usize = 64;

/// Changes that wait, oldest first.
#[derive(Default)]
pub struct LabelChanges(VecDeque<Change>);

struct Change {
    stream: String,
    /// Of its picture.
    address: String,
    until: Instant,
    states: Vec<Message>,
    entity: Option<Message>,
}

impl LabelChanges {
    /// When the oldest goes without its picture.
    pub fn due(&self) -> Option<Instant> {
        self.0.front().map(|change| change.until)
    }

    fn take(&mut self, which: impl Fn(&Change) -> bool) -> Vec<Change> {
        let (taken, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.0).into_iter().partition(which);
        self.0 = left.into();
        taken
    }
}

impl Session<'_> {
    /// The event, and what it changes of the retained states.
    pub(super) async fn deliver(
        &mut self,
        delivery: &Delivery,
        pictures: &mut Option<broadcast::Receiver<Saved>>,
        receiver: &mut DeliveryReceiver,
        place: &str,
    ) {
        let stored = &delivery.stored;
        let message = Message::event(self.topics.events(), stored.body.as_bytes());
        // A broker hangs up on what is larger than it has said, and would do so again.
        match self.link.largest.filter(|largest| message.packet_size() > *largest) {
            Some(largest) => {
                let why = format!("the event is larger than the {largest} bytes that the broker takes in a packet");
                receiver.dead(delivery.position, &why);
                receiver.up();
            }
            None => {
                if self.may_refuse {
                    self.gate.sent(delivery);
                }
                self.publisher.push(message, Some(delivery.position));
            }
        }
        if !self.ours {
            return;
        }
        let event = &stored.event;
        // Nothing overtakes what waits in its stream.
        let before = self.changes.take(|change| change.stream == event.data.stream);
        self.publish_changes(before, receiver, place).await;
        let (about, states) = self.states.note(stored);
        self.publish_retained(about, receiver, place).await;
        let entity = self
            .discovery
            .is_some()
            .then(|| Message::new(self.topics.event(&event.data.stream), home_assistant::event(event).to_string()));
        let (stream, address) = (event.data.stream.clone(), event.data.snapshot.clone().unwrap_or_default());
        let change = Change { stream, address, until: Instant::now() + PICTURE, states, entity };
        if self.waits_for_picture(event) {
            self.changes.0.push_back(change);
            let over = self.changes.0.len().saturating_sub(MOST);
            let late = self.changes.0.drain(..over).collect();
            self.publish_changes(late, receiver, place).await;
            return;
        }
        // It may have been told a moment ago.
        while let Some(saved) = pictures.as_mut().and_then(|pictures| pictures.try_recv().ok()) {
            self.picture(&saved, receiver, place).await;
        }
        self.publish_changes(vec![change], receiver, place).await;
    }

    fn waits_for_picture(&self, event: &Event) -> bool {
        let coming = |address: &String| self.gallery.is_some_and(|gallery| gallery.is_coming(address));
        event.data.snapshot.as_ref().is_some_and(coming)
    }

    pub(super) async fn picture(&mut self, saved: &Saved, receiver: &DeliveryReceiver, place: &str) {
        let levels = self.states.levels(&saved.stream, saved.region.as_deref(), &saved.set, &saved.label);
        let message =
            |level: &String| Message::retained(self.topics.snapshot(&saved.stream, level), saved.jpeg.to_vec());
        let mut messages: Vec<Message> = levels.iter().map(message).collect();
        messages.retain(|message| self.admits(message, receiver));
        if !messages.is_empty() {
            self.publish_retained(messages, receiver, place).await;
        }
        let complete = self.changes.take(|change| change.address == saved.address);
        self.publish_changes(complete, receiver, place).await;
    }

    /// Whether the broker takes a picture of this size, as far as it is known: one that it does not take would cost the connection.
    fn admits(&mut self, message: &Message, receiver: &DeliveryReceiver) -> bool {
        let (size, largest) = (message.packet_size(), self.link.largest);
        let admitted = self.limit.admits(size, largest, Instant::now());
        if !admitted {
            let sink = receiver.name();
            metrics::counter!("vtagd_mqtt_pictures_skipped_total", "sink" => sink.to_string()).increment(1);
            if !std::mem::replace(&mut self.told_too_large, true) {
                let topic = &message.topic;
                tracing::warn!(
                    %sink,
                    topic,
                    bytes = size,
                    largest,
                    "a picture is larger than the broker takes and is left out, maybe others too; make them smaller with `snapshots.max_side`"
                );
            }
        }
        admitted
    }

    /// Those that have waited for long enough.
    pub(super) async fn publish_late_changes(&mut self, now: Instant, receiver: &DeliveryReceiver, place: &str) {
        let late = self.changes.take(|change| change.until <= now);
        self.publish_changes(late, receiver, place).await;
    }

    /// All of them.
    pub(super) async fn publish_all_changes(&mut self, receiver: &DeliveryReceiver, place: &str) {
        let all = self.changes.take(|_| true);
        self.publish_changes(all, receiver, place).await;
    }

    async fn publish_changes(&mut self, changes: Vec<Change>, receiver: &DeliveryReceiver, place: &str) {
        for Change { states, entity, .. } in changes {
            self.publish_retained(states, receiver, place).await;
            self.publisher.extend(entity);
        }
    }
}
