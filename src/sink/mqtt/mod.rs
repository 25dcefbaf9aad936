//! MQTT: events to a broker, with retained states, availability and Home Assistant's device discovery; commands back.
//!
//! In: deliveries, the [`Catalog`] of streams, pictures that were saved. Out: topics as [`topics`] lists them, always QoS 1; a delivery is
//! settled by the PUBACK of its message on `<p>/events` and nothing else. Runs on the sink's thread. One `run` is one connection with a
//! clean session: when it is lost, everything that was not acknowledged is published again by the next one, in order, with the same ids.
//!
//! Full: [`IN_FLIGHT`](client::IN_FLIGHT) publishes may be without a PUBACK; then nothing more is taken from the inbox. A broker that
//! acknowledges nothing for `timeout` is taken for gone; one that refuses an event (MQTT 5) is asked again by the next connection. Pictures are the exception: they are told as they come, and those that come
//! while the broker is away are not sent later. Closed: `stopped` is published, then DISCONNECT.

mod client;
pub mod home_assistant;
mod publisher;
mod shelf;
mod states;
pub mod topics;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::{Instant, sleep, timeout};

use super::{Fault, Running, Sink};
use crate::catalog::{Catalog, Command};
use crate::delivery::{Delivery, Inbox, LaneKey, Phase};
use crate::secret::Secret;
use crate::snapshot::{Gallery, Saved};
use crate::tls::{self, Trust};
pub use client::Protocol;
use client::{Connection, Heard, Link, Message};
use publisher::Publisher;
use states::States;
use topics::Topics;

/// How often streams are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How often `<p>/stats` is published.
const STATS: Duration = Duration::from_secs(60);

/// How long we go on listening to what lies retained, for brokers that send it late.
const SURVEY: Duration = Duration::from_secs(2);

/// For the goodbye; a little less than the runner's patience.
const GOODBYE: Duration = Duration::from_millis(900);

/// `type: mqtt` of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct MqttSettings {
    /// `mqtt://` or `mqtts://`, without credentials.
    pub url: url::Url,
    pub protocol: Protocol,
    /// `None`: one made up at every start.
    pub client_id: Option<String>,
    pub topic_prefix: String,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub trust: Trust,
    /// For connecting and for an acknowledgement.
    pub timeout: Duration,
    /// The prefix of Home Assistant's discovery, where it is wanted.
    pub home_assistant: Option<String>,
}

/// See the module.
pub struct Mqtt {
    settings: MqttSettings,
    client_id: String,
    topics: Topics,
    catalog: Arc<Catalog>,
    gallery: Option<Arc<Gallery>>,
    began: Instant,
}

impl Mqtt {
    /// A sink that is not connected. `gallery` is where pictures come from, if there are any.
    pub fn new(settings: MqttSettings, catalog: Arc<Catalog>, gallery: Option<Arc<Gallery>>) -> Self {
        // Of 23 letters and digits, as every broker of 3.1.1 has to take them.
        let made_up = || format!("vtagd{:.16}", uuid::Uuid::new_v4().simple());
        let client_id = settings.client_id.clone().unwrap_or_else(made_up);
        let topics = Topics::new(&settings.topic_prefix);
        Self { settings, client_id, topics, catalog, gallery, began: Instant::now() }
    }

    async fn connect(&self) -> Result<Link, Fault> {
        let settings = &self.settings;
        let secure = settings.url.scheme() == "mqtts";
        let tls = if secure { Some(tls::client(&settings.trust).map_err(Fault::again)?) } else { None };
        let connection = Connection {
            protocol: settings.protocol,
            // An IPv6 address stands in brackets in a URL and nowhere else.
            host: settings.url.host_str().unwrap_or_default().trim_matches(['[', ']']),
            port: settings.url.port().unwrap_or(if secure { 8883 } else { 1883 }),
            client_id: &self.client_id,
            username: settings.username.as_deref(),
            password: settings.password.as_ref(),
            tls,
            trust: secure.then_some(&settings.trust),
            will: Message::retained(self.topics.available(), "offline"),
            timeout: settings.timeout,
        };
        Link::connect(connection).await.map_err(Fault::again)
    }

    async fn once(&mut self, inbox: &mut Inbox) -> Result<(), Fault> {
        let mut phases = inbox.phases();
        let link = tokio::select! {
            link = self.connect() => link?,
            _ = phases.wait_for(|phase| *phase == Phase::Closed) => return Ok(()),
        };
        let discovery = self.settings.home_assistant.clone();
        let states = States::new(self.topics.clone(), discovery.clone(), self.gallery.is_some());
        let mut session = Session {
            link,
            publisher: Publisher::new(self.settings.timeout),
            states,
            topics: &self.topics,
            discovery,
            catalog: &self.catalog,
            surveying: None,
            may_refuse: self.settings.protocol == Protocol::V5,
            under_way: HashMap::new(),
            began: self.began,
        };
        session.greet().await?;
        // From here on what differs from what the broker has is published.
        session.states.begin(&inbox.states());
        session.show();
        // What waits for an acknowledgement tells with it: a broker that refuses events would be up and down without end.
        if inbox.held() == 0 {
            inbox.up();
        }
        session.serve(inbox, self.gallery.as_ref().map(|gallery| gallery.subscribe())).await
    }
}

impl Sink for Mqtt {
    fn run<'a>(&'a mut self, inbox: &'a mut Inbox) -> Running<'a> {
        Box::pin(self.once(inbox))
    }
}

/// One connection.
struct Session<'a> {
    link: Link,
    publisher: Publisher,
    states: States,
    topics: &'a Topics,
    discovery: Option<String>,
    catalog: &'a Catalog,
    /// Until when what lies retained is listened to.
    surveying: Option<Instant>,
    /// Whether the broker can take an event and refuse the one before it.
    may_refuse: bool,
    /// If so: deliveries without a PUBACK. One of each stream and label, as the next must not come before it.
    under_way: HashMap<u64, LaneKey>,
    began: Instant,
}

impl Session<'_> {
    /// What lies retained is asked for, and `online` said. When that is acknowledged, the broker has seen the wish.
    async fn greet(&mut self) -> Result<(), Fault> {
        let mut filters = vec![self.topics.command("+")];
        filters.extend(self.discovery.as_deref().map(home_assistant::birth));
        self.link.subscribe(&filters, true).map_err(Fault::again)?;
        self.link.subscribe(&self.survey(), false).map_err(Fault::again)?;
        self.surveying = Some(Instant::now() + SURVEY);
        self.publisher.push(Message::retained(self.topics.available(), "online"), None);
        self.publisher.pump(&self.link)?;
        while !self.publisher.is_idle() {
            tokio::select! {
                acked = self.publisher.acknowledged() => drop(acked?),
                heard = self.link.heard() => self.hear(heard)?,
            }
        }
        Ok(())
    }

    fn survey(&self) -> Vec<String> {
        let mut filters = self.topics.retained().to_vec();
        filters.extend(self.discovery.as_deref().map(home_assistant::filter));
        filters
    }

    /// Why nothing is acknowledged any more: a connection that is gone says it better.
    async fn lost(&mut self, fault: Fault) -> Fault {
        let told = async {
            loop {
                if let Heard::Lost(why) = self.link.heard().await {
                    return Fault::again(why);
                }
            }
        };
        timeout(Duration::from_millis(100), told).await.unwrap_or(fault)
    }

    async fn serve(
        &mut self,
        inbox: &mut Inbox,
        mut pictures: Option<broadcast::Receiver<Saved>>,
    ) -> Result<(), Fault> {
        let mut changes = self.catalog.changes();
        let (mut look, mut stats) = (Instant::now() + LOOK, Instant::now());
        let mut phases = inbox.phases();
        // The next, while it may not go.
        let mut held: Option<Delivery> = None;
        loop {
            if let Some(delivery) = held.take_if(|delivery| !self.is_behind(delivery)) {
                self.deliver(&delivery);
            }
            self.publisher.pump(&self.link)?;
            let now = Instant::now();
            if now >= stats {
                // The streams are not known before the model is loaded.
                stats = now + LOOK;
                if let Some(streams) = self.catalog.streams() {
                    stats = now + STATS;
                    let said = states::stats(&streams, self.began.elapsed(), now.into_std());
                    self.publisher.push(Message::new(self.topics.stats(), said), None);
                }
                continue;
            }
            tokio::select! {
                acked = self.publisher.acknowledged(), if !self.publisher.is_idle() => {
                    match acked {
                        Ok(Some(position)) => {
                            self.under_way.remove(&position);
                            inbox.delivered(position);
                            inbox.up();
                        }
                        Ok(None) => {}
                        Err(fault) => return Err(self.lost(fault).await),
                    }
                }
                heard = self.link.heard() => self.hear(heard)?,
                delivery = inbox.next(), if held.is_none() && self.publisher.has_room() => match delivery {
                    Some(delivery) => held = Some(delivery),
                    None => return self.goodbye(inbox).await,
                },
                // One that comes while there is no room may be overtaken by the next: events go first.
                saved = next(&mut pictures), if self.publisher.has_room() => self.picture(&saved),
                _ = changes.changed() => self.show(),
                () = tokio::time::sleep_until(look) => {
                    look = Instant::now() + LOOK;
                    self.show();
                    self.end_survey(Instant::now());
                }
                _ = phases.wait_for(|phase| *phase == Phase::Closed) => {}
            }
            // A closed inbox is seen even while there is no room.
            if inbox.is_closed() {
                return self.goodbye(inbox).await;
            }
        }
    }

    /// Whether one of its stream and label has to be acknowledged first.
    fn is_behind(&self, delivery: &Delivery) -> bool {
        let lane = delivery.stored.lane();
        self.under_way.values().any(|under_way| *under_way == lane)
    }

    /// The event, and what it changes of the retained states.
    fn deliver(&mut self, delivery: &Delivery) {
        let stored = &delivery.stored;
        if self.may_refuse {
            self.under_way.insert(delivery.position, stored.lane());
        }
        self.publisher.push(Message::new(self.topics.events(), stored.body.as_bytes()), Some(delivery.position));
        if self.discovery.is_some() {
            let said = home_assistant::event(&stored.event).to_string();
            self.publisher.push(Message::new(self.topics.event(&stored.event.data.stream), said), None);
        }
        self.publisher.extend(self.states.note(stored));
    }

    fn picture(&mut self, saved: &Saved) {
        if let Some(slug) = self.states.slug(&saved.stream, &saved.set, &saved.label) {
            let topic = self.topics.snapshot(&saved.stream, &slug);
            self.publisher.push(Message::retained(topic, saved.jpeg.to_vec()), None);
        }
    }

    /// Publishes what has changed of streams and labels.
    fn show(&mut self) {
        // Until the streams are known, nothing is taken for gone.
        if let Some(streams) = self.catalog.streams() {
            self.publisher.extend(self.states.look(&streams));
        }
    }

    fn hear(&mut self, heard: Heard) -> Result<(), Fault> {
        let (topic, payload, retained) = match heard {
            Heard::Lost(why) => return Err(Fault::again(why)),
            Heard::Message { topic, payload, retained } => (topic, payload, retained),
        };
        if let Some(stream) = self.topics.commanded(&topic) {
            if retained {
                // It would come again with every connection, and undo what was said since.
                tracing::warn!(stream, "a retained command is passed over: publish it without the retain flag");
            } else {
                self.command(stream, &payload);
            }
        } else if self.discovery.as_deref().is_some_and(|prefix| home_assistant::birth(prefix) == topic) {
            if payload == b"online" && !retained {
                // Home Assistant has started: it asks to be told anew.
                self.publisher.extend(self.states.introduce_again());
            }
        } else if retained && self.surveying.is_some() {
            self.states.found(topic, payload);
        }
        Ok(())
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
        if !self.catalog.streams().is_some_and(|streams| streams.iter().any(|watched| watched.id() == stream)) {
            tracing::warn!(stream, "a command for a stream that is not there is passed over");
        } else if !self.catalog.command(Command { stream: stream.to_owned(), enabled }) {
            tracing::warn!(stream, "too many commands at once, this one is passed over");
        }
    }

    fn end_survey(&mut self, now: Instant) {
        if self.surveying.is_some_and(|until| now >= until) && self.link.unsubscribe(&self.survey()).is_ok() {
            self.surveying = None;
        }
    }

    /// The daemon ends: what is on its way may still be acknowledged.
    async fn goodbye(&mut self, inbox: &mut Inbox) -> Result<(), Fault> {
        self.publisher.push(Message::retained(self.topics.available(), "stopped"), None);
        let all = async {
            self.publisher.pump(&self.link)?;
            while !self.publisher.is_idle() {
                if let Some(position) = self.publisher.acknowledged().await? {
                    inbox.delivered(position);
                }
                self.publisher.pump(&self.link)?;
            }
            Ok::<_, Fault>(())
        };
        if matches!(timeout(GOODBYE, all).await, Ok(Ok(()))) {
            let _ = timeout(GOODBYE / 3, self.link.disconnect()).await;
        }
        Ok(())
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

#[cfg(test)]
mod tests;
