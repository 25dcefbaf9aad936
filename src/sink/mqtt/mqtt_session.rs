//! One connection on which events are served; where the prefix is this daemon's, with everything that is retained, and commands.

mod greeting;
mod incoming;
mod label_changes;

use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::{Instant, sleep, timeout};

use super::MqttSettings;
use super::asked::Asked;
use super::clearing::Clearing;
use super::home_assistant::Announced;
use super::mqtt_client::{Link, Message, Protocol};
use super::owner::Owner;
use super::ownership::SURVEY;
use super::picture_limit::PictureLimit;
use super::published::Published;
use super::publisher::{Acknowledged, Publisher};
use super::states::{self, States};
use super::topics::Topics;
use crate::outbox::delivery::DeliveryReceiver;
use crate::outbox::delivery::published_record::{Change, Unheard};
use crate::sink::SinkError;
use crate::sink::daemon_facts::DaemonFacts;
use crate::sink::in_flight::OrderingGate;
use crate::snapshot::{Gallery, Saved};
use crate::stream::registry::StreamRegistry;
use label_changes::LabelChanges;

/// How often streams are looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How often `<p>/stats` is published.
const STATS: Duration = Duration::from_secs(60);

/// For Home Assistant to listen to a device it has just heard of: `<p>/stats` comes then, as its sensors know nothing before.
const INTRODUCED: Duration = Duration::from_secs(5);

/// Names of regions that are asked for by themselves; the topics of others are published once more by each connection.
const REGIONS: usize = 64;

/// A broker that does not answer whose the prefix is, is asked again so often.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// For Home Assistant to let go of a component: an empty message on a topic that it still listens to is an error in its log.
const PARTING: Duration = Duration::from_secs(2);

/// For the goodbye, which with DISCONNECT and the last record is a little less than the runner's patience.
pub const DRAIN_TIMEOUT: Duration = Duration::from_millis(900);

/// How a session ends without a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The daemon ends.
    Done,
    /// The prefix has become ours or another's, or it is time to ask: the next connection will see.
    OwnerChanged,
}

/// See the module.
pub struct Session<'a> {
    link: Link,
    publisher: Publisher,
    states: States,
    /// What waits for its picture.
    changes: LabelChanges,
    /// Of the daemon itself.
    facts: &'a DaemonFacts,
    /// Home Assistant gets a number for each label's score.
    scores: bool,
    /// How large a picture may be.
    limit: &'a mut PictureLimit,
    /// Where pictures come from.
    gallery: Option<&'a Gallery>,
    topics: &'a Topics,
    discovery: Option<String>,
    registry: &'a StreamRegistry,
    owner: &'a Owner,
    published: &'a mut Published,
    /// The prefix is this daemon's; otherwise nothing but events is published.
    ours: bool,
    /// The broker does not show what lies there, as far as anybody knows.
    unreadable: &'a mut bool,
    /// Somebody else has the prefix now, or nobody any more.
    owner_changed: bool,
    /// `<p>/available` or `<p>/owner` has to be said again: somebody else has said otherwise.
    say_again: bool,
    clearing: Clearing,
    /// When this connection ends so that the next one asks once more whose the prefix is.
    ask_again: Option<Instant>,
    timeout: Duration,
    /// The log has been told that what is gone cannot be looked at.
    told_unreadable: bool,
    /// What the broker still has to answer of the topics to be cleared.
    asked: Option<Asked>,
    /// Home Assistant is letting go of something: what it has listened to is not taken away before.
    parting_until: Option<Instant>,
    /// When `<p>/stats` comes out of its turn.
    stats_again: Option<Instant>,
    /// Until when they are listened to.
    clearing_until: Option<Instant>,
    /// What the outbox has to know, beside what goes out.
    forgotten: Vec<Change>,
    /// The log has been told that the outbox takes nothing.
    told: bool,
    /// The log has been told of a picture that is too large.
    told_too_large: bool,
    /// Until when what lies retained is listened to.
    surveying: Option<Instant>,
    /// Documents that were asked for one by one.
    one_by_one: Option<Vec<String>>,
    /// Home Assistant has asked for its devices meanwhile.
    introduce_later: bool,
    /// What Home Assistant is told to have gone since it came.
    told_partings: Option<Unheard>,
    /// Whether the broker can take an event and refuse the one before it.
    may_refuse: bool,
    /// If so, the next of a stream and label waits for the PUBACK of the one before.
    gate: OrderingGate,
}

impl<'a> Session<'a> {
    /// On a prefix that is another's; see [`of_ours`](Self::of_ours).
    #[expect(clippy::too_many_arguments, reason = "its one caller hands over everything that outlives a connection")]
    pub fn new(
        link: Link,
        settings: &MqttSettings,
        topics: &'a Topics,
        registry: &'a StreamRegistry,
        owner: &'a Owner,
        published: &'a mut Published,
        unreadable: &'a mut bool,
        limit: &'a mut PictureLimit,
        facts: &'a DaemonFacts,
    ) -> Self {
        Self {
            link,
            publisher: Publisher::new(settings.timeout),
            states: States::new(topics.clone(), None, Announced::default()),
            changes: LabelChanges::default(),
            facts,
            scores: settings.home_assistant_scores,
            limit,
            gallery: None,
            topics,
            discovery: settings.home_assistant.clone(),
            registry,
            owner,
            published,
            ours: false,
            unreadable,
            owner_changed: false,
            say_again: false,
            clearing: Clearing::default(),
            ask_again: None,
            timeout: settings.timeout,
            told_unreadable: false,
            asked: None,
            parting_until: None,
            stats_again: None,
            clearing_until: None,
            forgotten: Vec::new(),
            told: false,
            told_too_large: false,
            surveying: None,
            one_by_one: None,
            introduce_later: false,
            told_partings: None,
            may_refuse: settings.protocol == Protocol::V5,
            gate: OrderingGate::default(),
        }
    }

    /// On the daemon's own prefix; `gallery`: where pictures come from, if there are any.
    pub fn of_ours(mut self, gallery: Option<&'a Gallery>) -> Self {
        let instance = Some(self.owner.instance.clone());
        let announced = Announced { snapshots: gallery.is_some(), scores: self.scores, instance };
        self.states = States::new(self.topics.clone(), self.discovery.clone(), announced);
        self.gallery = gallery;
        self.ours = true;
        self
    }

    /// On a prefix of nobody knows whom: after a while it is asked once more.
    pub fn of_nobody_knows(mut self) -> Self {
        self.ask_again = Some(Instant::now() + ASK_AGAIN);
        self
    }

    /// To its end. `place` is what the outbox calls the prefix at this broker.
    ///
    /// # Errors
    /// When the connection is lost or of no use.
    pub async fn run(
        mut self,
        receiver: &mut DeliveryReceiver,
        pictures: Option<broadcast::Receiver<Saved>>,
        place: &str,
        began: Instant,
    ) -> Result<End, SinkError> {
        let pictures = pictures.filter(|_| self.ours);
        let ended = self.serve(receiver, pictures, place, began).await;
        // A broker that has said how much it takes was sent no more.
        if ended.is_err()
            && self.link.largest.is_none()
            && let Some((topic, size)) = self.publisher.first_unanswered()
            && self.topics.is_picture(topic)
        {
            let wait = self.limit.broke(size, Instant::now());
            tracing::warn!(
                sink = %receiver.name(),
                topic,
                bytes = size,
                "the connection was lost over a picture: pictures of this size and more are left out for {wait:?}; make them smaller with \
                 `snapshots.max_side`, or let the broker take more"
            );
        }
        self.publisher.unconfirmed().for_each(|topic| self.published.unconfirm(topic));
        ended
    }

    /// Why nothing is acknowledged any more: a connection that is gone says it better.
    async fn lost(&mut self, fault: SinkError) -> SinkError {
        SinkError::retry(self.link.why_lost(fault.to_string()).await)
    }

    async fn serve(
        &mut self,
        receiver: &mut DeliveryReceiver,
        mut pictures: Option<broadcast::Receiver<Saved>>,
        place: &str,
        began: Instant,
    ) -> Result<End, SinkError> {
        if self.ours {
            let closed = receiver.closed();
            tokio::select! {
                greeted = self.greet() => greeted?,
                () = closed => return self.goodbye(receiver, place).await,
            }
            // From here on what differs from what the broker has is published.
            self.states.begin(&receiver.states());
            if !self.owner_changed {
                self.show(receiver, place).await;
            }
        }
        // What waits for an acknowledgement tells with it: a broker that refuses events would be up and down without end.
        if receiver.held() == 0 {
            receiver.up();
        }
        let mut changes = self.registry.changes();
        let (mut look, mut stats) = (Instant::now() + POLL_INTERVAL, Instant::now());
        loop {
            if self.owner_changed {
                self.part(receiver, None).await;
                return Ok(End::OwnerChanged);
            }
            self.publisher.pump(&self.link)?;
            let now = Instant::now();
            if self.ours && (now >= stats || self.stats_again.is_some_and(|at| now >= at)) {
                self.stats_again = self.stats_again.filter(|at| now < *at);
                // The streams are not known before the model is loaded.
                stats = now + POLL_INTERVAL;
                if let Some(streams) = self.registry.streams() {
                    stats = now + STATS;
                    let said = states::stats(&streams, self.facts, began.elapsed(), now.into_std());
                    self.publisher.push(Message::new(self.topics.stats(), said), None);
                }
                continue;
            }
            let room = self.publisher.has_room();
            tokio::select! {
                acked = self.publisher.acknowledged(), if !self.publisher.is_idle() => match acked {
                    Ok(acked) => self.settle(acked, receiver),
                    Err(fault) => return Err(self.lost(fault).await),
                },
                answered = answered(&mut self.asked) => match answered {
                    Ok(refused) => {
                        self.asked = None;
                        refused.into_iter().for_each(|topic| self.clearing.refused(topic));
                        self.clearing_until = Some(Instant::now() + SURVEY);
                    }
                    Err(why) => return Err(self.lost(SinkError::retry(why)).await),
                },
                heard = self.link.heard() => {
                    self.asked.iter_mut().for_each(Asked::heard);
                    self.hear(heard)?;
                }
                delivery = self.gate.take(receiver, room) => match delivery {
                    Some(delivery) => self.deliver(&delivery, &mut pictures, receiver, place).await,
                    None => return self.goodbye(receiver, place).await,
                },
                // One that comes while there is no room may be overtaken by the next: events go first.
                saved = next(&mut pictures), if room => self.picture(&saved, receiver, place).await,
                () = until(self.changes.due()) => self.publish_late_changes(Instant::now(), receiver, place).await,
                _ = changes.changed(), if self.ours => self.show(receiver, place).await,
                () = tokio::time::sleep_until(look) => {
                    look = Instant::now() + POLL_INTERVAL;
                    self.owner_changed |= self.ask_again.is_some_and(|at| Instant::now() >= at);
                    if self.ours {
                        self.publish_states(receiver, place).await?;
                    }
                }
            }
        }
    }

    fn settle(&mut self, acked: Acknowledged, receiver: &mut DeliveryReceiver) {
        let Acknowledged { position, dead, kept, size } = acked;
        if let Some(position) = position {
            self.gate.acknowledged(position);
            match dead {
                Some(why) => receiver.dead(position, &why),
                None => receiver.delivered(position),
            }
            receiver.up();
        }
        if let Some((topic, payload)) = kept {
            if self.topics.is_picture(&topic) {
                self.limit.taken(size);
            }
            self.published.confirm(&topic, payload);
        }
    }

    /// Publishes what stays at the broker, once it is written down. An outbox that takes nothing holds no state up: it is tried again, and
    /// until then this life alone knows what is its own.
    async fn publish_retained(&mut self, messages: Vec<Message>, receiver: &DeliveryReceiver, place: &str) {
        let changes = self.published.before(&messages);
        self.write_down(changes, receiver, place).await;
        self.publisher.extend(messages);
    }

    async fn write_down(&mut self, changes: Vec<Change>, receiver: &DeliveryReceiver, place: &str) {
        let update = self.published.update(changes);
        if update.is_empty() {
            return;
        }
        match receiver.record(place, update.clone()).await {
            Ok(()) => {
                self.published.written(&update);
                self.told = false;
            }
            Err(why) if !std::mem::replace(&mut self.told, true) => tracing::warn!(
                sink = %receiver.name(),
                why,
                "the outbox does not take down what is published; what it does not know is not cleared by a later start"
            ),
            Err(_) => {}
        }
    }

    /// Publishes what has changed of streams and labels.
    async fn show(&mut self, receiver: &DeliveryReceiver, place: &str) {
        // Until the streams are known, nothing is taken for gone.
        if let Some(streams) = self.registry.streams() {
            self.states.set_url(self.facts.url());
            let messages = self.states.changes(&streams, self.published);
            if messages.iter().any(|message| !message.retain) {
                self.parting_until = Some(Instant::now() + PARTING);
            }
            if messages.iter().any(|message| self.states.is_document(&message.topic)) {
                self.introduced();
            }
            self.publish_retained(messages, receiver, place).await;
        }
    }

    /// Once a second: everything that nobody tells.
    async fn publish_states(&mut self, receiver: &DeliveryReceiver, place: &str) -> Result<(), SinkError> {
        let now = Instant::now();
        if std::mem::take(&mut self.say_again) {
            self.publisher.push(Message::retained(self.topics.owner(), self.owner.document()), None);
            self.publisher.push(Message::retained(self.topics.available(), "online"), None);
        }
        self.show(receiver, place).await;
        if self.surveying.is_some_and(|until| now >= until)
            && !self.asks_one_by_one(now)
            && self.link.unsubscribe(&self.survey()).is_ok()
        {
            self.surveying = None;
            self.states.surveyed();
            self.show(receiver, place).await;
            if std::mem::take(&mut self.introduce_later) {
                self.introduce_again();
            }
        }
        self.clear(now)?;
        if let Some(told) = self.told_partings.take_if(|_| self.publisher.is_idle()) {
            self.published.partings.heard(&told);
        }
        let mut changes = std::mem::take(&mut self.forgotten);
        changes.extend(self.published.unwritten());
        self.write_down(changes, receiver, place).await;
        Ok(())
    }

    /// The daemon ends.
    async fn goodbye(&mut self, receiver: &mut DeliveryReceiver, place: &str) -> Result<End, SinkError> {
        if self.ours && !self.owner_changed {
            self.publish_all_changes(receiver, place).await;
        }
        let stopped = Message::retained(self.topics.available(), "stopped");
        self.part(receiver, Some(stopped).filter(|_| self.ours && !self.owner_changed)).await;
        self.publisher.unconfirmed().for_each(|topic| self.published.unconfirm(topic));
        let mut changes = std::mem::take(&mut self.forgotten);
        changes.extend(self.published.last());
        let _ = timeout(DRAIN_TIMEOUT / 5, self.write_down(changes, receiver, place)).await;
        Ok(End::Done)
    }

    /// Ends the connection so that the broker does not publish the will: what is on its way may still be acknowledged, and `last` said.
    async fn part(&mut self, receiver: &mut DeliveryReceiver, last: Option<Message>) {
        if self.owner_changed {
            // None of this prefix any more; what is left of events comes again.
            self.publisher.unconfirmed().for_each(|topic| self.published.unconfirm(topic));
            self.publisher.drop_waiting();
        }
        self.publisher.extend(last);
        let all = async {
            self.publisher.pump(&self.link)?;
            while !self.publisher.is_idle() {
                let acked = self.publisher.acknowledged().await?;
                self.settle(acked, receiver);
                self.publisher.pump(&self.link)?;
            }
            Ok::<_, SinkError>(())
        };
        let done = matches!(timeout(DRAIN_TIMEOUT, all).await, Ok(Ok(())));
        // Who goes on must not leave a will behind; who ends without an answer has vanished.
        if done || self.owner_changed {
            let _ = timeout(DRAIN_TIMEOUT / 3, self.link.disconnect()).await;
        }
    }
}

/// The broker's answers; without a question it waits for ever.
async fn answered(asked: &mut Option<Asked>) -> Result<Vec<String>, String> {
    match asked {
        Some(asked) => asked.answered().await,
        None => std::future::pending().await,
    }
}

/// `None`: for ever.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The next picture; those that came too fast are passed over. Without pictures it waits for ever.
async fn next(pictures: &mut Option<broadcast::Receiver<Saved>>) -> Saved {
    loop {
        let Some(receiver) = pictures else {
            sleep(Duration::MAX).await;
            continue;
        };
        match receiver.recv().await {
            Ok(saved) => return saved,
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => *pictures = None,
        }
    }
}
