//! MQTT: events to a broker, with retained states, availability and Home Assistant's device discovery; commands back.
//!
//! In: deliveries, the [`StreamRegistry`] of streams, pictures that were saved. Out: topics as [`topics`] lists them, always QoS 1; a delivery is
//! settled by the PUBACK of its message on `<p>/events` and nothing else. Runs on the sink's thread. One connection has a clean session:
//! when it is lost, everything that was not acknowledged is published again by the next one, in order, with the same ids.
//!
//! Each connection begins with one that has no last will and asks whose the prefix is ([`ownership`], [`owner`]). Where it is this daemon's, the
//! next one has the will and does everything ([`mqtt_session`]); where it is another's, the first one goes on and sends events only.
//!
//! Full: [`IN_FLIGHT`](mqtt_client::IN_FLIGHT) publishes may be without a PUBACK; then nothing more is taken from the receiver. A broker that
//! acknowledges nothing for `timeout` is taken for gone; one that refuses an event (MQTT 5) is asked again by the next connection. Pictures are the exception: they are told as they come, and those that come
//! while the broker is away are not sent later. Closed: `stopped` is published, then DISCONNECT.

mod asked;
mod clearing;
pub(super) mod config;
pub mod home_assistant;
pub mod label_levels;
pub mod leftovers;
pub mod maintenance;
mod mqtt_client;
mod mqtt_session;
mod owner;
mod ownership;
mod partings;
mod picture_limit;
mod published;
mod publisher;
mod states;
pub mod topics;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::daemon_facts::DaemonFacts;
use super::{Running, Sink, SinkError};
use crate::outbox::delivery::DeliveryReceiver;
use crate::outbox::delivery::published_record::KnownRecord;
use crate::platform::secret::Secret;
use crate::platform::tls::{self, Trust};
use crate::platform::zoned_url::ZonedUrl;
use crate::snapshot::Gallery;
use crate::stream::registry::StreamRegistry;
pub use mqtt_client::Protocol;
use mqtt_client::{Connection, Link, Message};
use mqtt_session::{End, Session};
pub use owner::Owner;
use picture_limit::PictureLimit;
use published::Published;
use topics::Topics;

/// `type: mqtt` of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct MqttSettings {
    /// `mqtt://` or `mqtts://`, without credentials.
    pub url: ZonedUrl,
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
    /// It gets a number for each label's score.
    pub home_assistant_scores: bool,
}

impl MqttSettings {
    /// Where topics lie, as the outbox keeps it: broker and prefix.
    pub fn place(&self) -> String {
        format!("{} {}", self.url, self.topic_prefix)
    }

    /// Of the broker.
    pub fn host(&self) -> String {
        self.url.resolvable_host().unwrap_or_default()
    }

    pub fn port(&self) -> u16 {
        self.url.port().unwrap_or(if self.is_secure() { 8883 } else { 1883 })
    }

    fn is_secure(&self) -> bool {
        self.url.scheme() == "mqtts"
    }

    /// Connects as `client_id`, with a last `will` if there is one.
    async fn connect(&self, client_id: &str, will: Option<Message>) -> Result<Link, SinkError> {
        let secure = self.is_secure();
        let tls = if secure { Some(tls::client(&self.trust).map_err(SinkError::retry)?) } else { None };
        let connection = Connection {
            protocol: self.protocol,
            host: &self.host(),
            port: self.port(),
            client_id,
            username: self.username.as_deref(),
            password: self.password.as_ref(),
            tls,
            trust: secure.then_some(&self.trust),
            will,
            timeout: self.timeout,
        };
        Link::connect(connection).await.map_err(SinkError::retry)
    }
}

/// A client id that nobody else has, of 23 letters and digits, as every broker of 3.1.1 has to take them.
fn made_up() -> String {
    format!("vtagd{:.16}", uuid::Uuid::new_v4().simple())
}

/// See the module.
pub struct Mqtt {
    settings: MqttSettings,
    client_id: String,
    topics: Topics,
    registry: Arc<StreamRegistry>,
    gallery: Option<Arc<Gallery>>,
    owner: Owner,
    facts: Arc<DaemonFacts>,
    /// What was published retained; `None` until the outbox has been asked.
    published: Option<Published>,
    /// How large a picture may be, as far as it is known.
    limit: PictureLimit,
    /// The broker does not show us what lies there: nobody can tell whose the prefix is.
    unreadable: bool,
    /// So often in turn the connection has ended, or nothing was answered, when it was asked whose the prefix is.
    unanswered: u32,
    began: Instant,
}

/// A connection may be lost by chance; two in turn at this question are no chance.
const UNANSWERED: u32 = 2;

/// A connection that is closed sooner may be another client's fault, who has the same name.
const BRIEF: Duration = Duration::from_secs(15);

/// Whose the prefix is, as far as what is published depends on it.
enum Whose {
    Ours,
    Theirs(String),
    /// Nobody knows: the broker ends the connection, or does not answer.
    Unknown,
}

impl Mqtt {
    /// A sink that is not connected. `gallery` is where pictures come from, if there are any. `owner` is who it says to be; the outbox
    /// knows better which daemon this is, if it has a file.
    pub fn new(
        settings: MqttSettings,
        registry: Arc<StreamRegistry>,
        gallery: Option<Arc<Gallery>>,
        owner: Owner,
        facts: Arc<DaemonFacts>,
    ) -> Self {
        let client_id = settings.client_id.clone().unwrap_or_else(made_up);
        let topics = Topics::new(&settings.topic_prefix);
        Self {
            settings,
            client_id,
            topics,
            registry,
            gallery,
            owner,
            facts,
            published: None,
            limit: PictureLimit::default(),
            unreadable: false,
            unanswered: 0,
            began: Instant::now(),
        }
    }

    /// One connection after the other, for as long as only the prefix's owner changes.
    async fn once(&mut self, receiver: &mut DeliveryReceiver) -> Result<(), SinkError> {
        let place = self.settings.place();
        let sink = receiver.name().to_string();
        metrics::counter!("vtagd_mqtt_pictures_skipped_total", "sink" => sink).absolute(0);
        loop {
            let (link, whose) = tokio::select! {
                greeted = self.greet(receiver, &place) => greeted?,
                () = receiver.closed() => return Ok(()),
            };
            self.tell(receiver, &whose);
            let published =
                self.published.get_or_insert_with(|| Published::new(self.topics.clone(), KnownRecord::default()));
            let (settings, unreadable, limit) = (&self.settings, &mut self.unreadable, &mut self.limit);
            let (topics, registry, owner, facts) = (&self.topics, &self.registry, &self.owner, &self.facts);
            let mut session =
                Session::new(link, settings, topics, registry, owner, published, unreadable, limit, facts);
            session = match whose {
                Whose::Ours => session.of_ours(self.gallery.as_deref()),
                Whose::Theirs(_) => session,
                Whose::Unknown => session.of_nobody_knows(),
            };
            let pictures = self.gallery.as_ref().map(|gallery| gallery.subscribe());
            let connected = Instant::now();
            let ended = session.run(receiver, pictures, &place, self.began).await;
            match ended.map_err(|fault| self.explained(fault, connected.elapsed()))? {
                End::Done => return Ok(()),
                // What had no acknowledgement comes again. A broker that has shown the owner can be asked.
                End::OwnerChanged => {
                    self.unreadable = false;
                    receiver.redeliver_unacknowledged();
                }
            }
        }
    }

    /// A broker of 3.1.1 only hangs up when another client comes under our name.
    fn explained(&self, fault: SinkError, lived: Duration) -> SinkError {
        match (fault, &self.settings.client_id) {
            (SinkError::Retry { why, after }, Some(id)) if lived < BRIEF && why.contains("closed by peer") => {
                let why = format!(
                    "{why}; does another client of this broker have the client id {id}? It lets in one at a time"
                );
                SinkError::Retry { why, after }
            }
            (fault, _) => fault,
        }
    }

    /// A connection to serve on, and whose the prefix is.
    async fn greet(&mut self, receiver: &DeliveryReceiver, place: &str) -> Result<(Link, Whose), SinkError> {
        if self.published.is_none() {
            let known = receiver.recorded(place).await.map_err(SinkError::retry)?;
            self.owner.id = known.identity.unwrap_or(self.owner.id);
            self.published = Some(Published::new(self.topics.clone(), known));
        }
        if !self.unreadable {
            // Who vanishes before it knows whose the prefix is must not be told to be away.
            let mut link = self.settings.connect(&self.client_id, None).await?;
            let fresh = self.published.as_ref().is_none_or(Published::is_empty);
            let asked = ownership::whose(&mut link, &self.topics, &self.owner, fresh, self.settings.timeout).await;
            let asked = match asked {
                Ok(asked) => asked,
                Err(fault) => {
                    self.unanswered = self.unanswered.saturating_add(1);
                    if self.unanswered < UNANSWERED {
                        return Err(fault);
                    }
                    // Some brokers hang up on what a user has no right to. Events need no answer.
                    drop(link);
                    return Ok((self.settings.connect(&self.client_id, None).await?, Whose::Unknown));
                }
            };
            self.unanswered = 0;
            if let ownership::Ownership::Theirs(who) = asked {
                return Ok((link, Whose::Theirs(who)));
            }
            self.unreadable = asked == ownership::Ownership::Unknown;
            let _ = tokio::time::timeout(mqtt_session::DRAIN_TIMEOUT, link.disconnect()).await;
        }
        let will = Message::retained(self.topics.available(), "offline");
        Ok((self.settings.connect(&self.client_id, Some(will)).await?, Whose::Ours))
    }

    /// Says whose the prefix is, where people look.
    fn tell(&self, receiver: &DeliveryReceiver, whose: &Whose) {
        let prefix = self.topics.prefix();
        let notice = match whose {
            Whose::Ours => None,
            Whose::Theirs(who) => Some(format!(
                "the topic prefix {prefix} at this broker belongs to {who}: events are delivered, states, availability and Home \
                 Assistant's devices are not; each box needs its own, such as `topic_prefix: {prefix}/{}`, or takes it over with \
                 `vtagd mqtt claim`, also if this is the same box under another name",
                self.owner.instance
            )),
            Whose::Unknown => Some(format!(
                "whose the topic prefix {prefix} is cannot be told, as this broker does not answer that: events are delivered, states, \
                 availability and Home Assistant's devices are not; may this user read and write {}?",
                self.topics.owner()
            )),
        };
        metrics::gauge!("vtagd_mqtt_prefix_owned", "sink" => receiver.name().to_string())
            .set(f64::from(u8::from(notice.is_none())));
        receiver.set_notice(notice);
    }
}

impl Sink for Mqtt {
    fn run<'a>(&'a mut self, receiver: &'a mut DeliveryReceiver) -> Running<'a> {
        Box::pin(self.once(receiver))
    }
}

#[cfg(test)]
mod tests;
