//! The NATS sink: events into a stream of JetStream, each acknowledged by it. `<subject_prefix>.events.<stream>`.
//!
//! One connection at a time, made anew by the runner: `async-nats` would reconnect by itself and keep what was published meanwhile; the
//! outbox does that here. Up to [`IN_FLIGHT`] events are published and not acknowledged, one of each stream and label: a server may refuse one
//! (no leader, no room) and take the next, which must not be one that has to come after it. They go out in the order of the outbox. Each bears its
//! CloudEvents id as `Nats-Msg-Id`, so that one that is sent again is stored once, within the stream's duplicate window.
//!
//! A server tells what a user may not do apart from any answer, and keeps the connection: that ends a run as well. Whether the user may
//! hear acknowledgements is tried before anything is published.

mod config;

use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{Client, ConnectOptions, Event, HeaderMap, ServerError, header};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::in_flight::{InFlight, OrderingGate};
use super::{Running, Sink, SinkError};
use crate::outbox::delivery::{Delivery, DeliveryReceiver};
use crate::platform::secret::Secret;
use crate::platform::tls::{self, Trust};

/// Events that are published and not acknowledged.
const IN_FLIGHT: usize = 256;

/// Answers that are waited for before the server counts as having said what it thinks of a subscription: the first may be that to the PING with
/// which every connection begins, and the server says things of its own accord.
const ROUND_TRIPS: usize = 3;

/// How often it is looked at whether there is one.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Of what a server says, so many characters are told.
const MAX_ERROR_CHARS: usize = 300;

/// How the daemon shows who it is.
#[derive(Clone, Debug, PartialEq)]
pub enum NatsLogin {
    Nobody,
    User {
        name: String,
        password: Option<Secret>,
    },
    Token(Secret),
    /// The seed of a user's key, `SU…`, which signs what the server asks.
    Nkey(Secret),
    /// The content of a `.creds` file: a user's JWT and the seed of its key.
    Credentials(Secret),
}

impl NatsLogin {
    fn secret(&self) -> Option<&Secret> {
        match self {
            Self::Nobody => None,
            Self::User { password, .. } => password.as_ref(),
            Self::Token(secret) | Self::Nkey(secret) | Self::Credentials(secret) => Some(secret),
        }
    }
}

/// Whether `secret` is the seed of a user's key.
fn is_user_seed(secret: &Secret) -> bool {
    nkeys::KeyPair::from_seed(secret.expose()).is_ok_and(|pair| pair.key_pair_type() == nkeys::KeyPairType::User)
}

/// Whether `secret` is a JWT and a seed, as a `.creds` file has them.
fn is_credentials(secret: &Secret) -> bool {
    with_credentials(ConnectOptions::new(), secret).is_some()
}

fn with_credentials(options: ConnectOptions, both: &Secret) -> Option<ConnectOptions> {
    // The parser wants the newline at the end, which a secret has lost.
    options.credentials(&format!("{}\n", both.expose())).ok()
}

/// `type: nats`.
#[derive(Clone, Debug, PartialEq)]
pub struct NatsSettings {
    /// `nats://` or `tls://`, without credentials.
    pub url: url::Url,
    pub login: NatsLogin,
    pub subject_prefix: String,
    /// What the subjects of acknowledgements begin with.
    pub inbox_prefix: String,
    pub trust: Trust,
    /// For a connection, and for an acknowledgement.
    pub timeout: Duration,
}

/// What `async-nats` hears of a connection, on a task of its own.
#[derive(Default)]
struct ConnectionEvents {
    /// What the server has said last; nothing takes the place of a right that is missing.
    error: Mutex<Option<String>>,
    /// The connection is lost, or of no use.
    ended: Notify,
}

impl ConnectionEvents {
    fn hear(&self, event: Event) {
        match event {
            Event::Disconnected | Event::Closed => self.ended.notify_one(),
            Event::ServerError(error) => {
                let text = match error {
                    ServerError::Other(text) => text.chars().take(MAX_ERROR_CHARS).collect(),
                    known => known.to_string(),
                };
                let denied = is_denial(&text);
                let mut kept = self.error.lock();
                if denied || !kept.as_deref().is_some_and(is_denial) {
                    *kept = Some(text);
                }
                drop(kept);
                if denied {
                    self.ended.notify_one();
                }
            }
            _ => {}
        }
    }
}

/// Whether the server says that this user may not do something. There is no code for it.
fn is_denial(text: &str) -> bool {
    text.to_ascii_lowercase().starts_with("permissions violation")
}

type Acknowledged = Pin<Box<dyn Future<Output = Result<PublishAck, PublishError>> + Send>>;

/// See the module.
pub struct Nats {
    settings: NatsSettings,
}

impl Nats {
    pub fn new(settings: NatsSettings) -> Self {
        Self { settings }
    }

    async fn connect(&self, events: Arc<ConnectionEvents>) -> Result<Client, SinkError> {
        let NatsSettings { url, login, inbox_prefix, trust, timeout, .. } = &self.settings;
        let mut options = ConnectOptions::new()
            .name("vtagd")
            .connection_timeout(*timeout)
            .custom_inbox_prefix(inbox_prefix)
            // The runner connects again.
            .max_reconnects(1)
            .event_callback(move |event| {
                events.hear(event);
                std::future::ready(())
            });
        let text = |secret: &Secret| secret.expose().to_owned();
        options = match login {
            NatsLogin::Nobody => options,
            NatsLogin::User { name, password } => {
                options.user_and_password(name.clone(), password.as_ref().map(text).unwrap_or_default())
            }
            NatsLogin::Token(token) => options.token(text(token)),
            NatsLogin::Nkey(seed) => options.nkey(text(seed)),
            NatsLogin::Credentials(both) => with_credentials(options, both)
                .ok_or_else(|| SinkError::retry("the credentials are not those of a .creds file"))?,
        };
        if url.scheme() == "tls" {
            let config = tls::client(trust).map_err(SinkError::retry)?;
            options = options.require_tls(true).tls_client_config((*config).clone());
        }
        options.connect(url.as_str()).await.map_err(|error| {
            let told = (url.scheme() == "tls").then(|| tls::explained(&error, trust)).flatten();
            SinkError::retry(self.scrubbed(&told.unwrap_or_else(|| error.to_string())))
        })
    }

    fn scrubbed(&self, text: &str) -> String {
        self.settings.login.secret().map_or_else(|| text.to_owned(), |secret| secret.scrub(text))
    }

    /// Waits until the server has said whether acknowledgements would get here. Otherwise events would be stored, nobody would hear of it, and
    /// they would be published again and again.
    ///
    /// `flush` waits for no answer. To drain a subscription sends a PING, and its PONG comes after what the server says of the
    /// subscription; it is seen as bytes that have come.
    async fn try_inbox(&self, client: &Client) -> Result<(), SinkError> {
        let statistics = client.statistics();
        let received = || statistics.in_bytes.load(Ordering::Relaxed);
        // As deep as what `async-nats` subscribes to itself (`_INBOX.ID.*`), and the same each time: the server repeats it, and one reason is told once.
        let inbox = format!("{}.vtagd.*", self.settings.inbox_prefix);
        for _ in 0..ROUND_TRIPS {
            let mut subscriber = client.subscribe(inbox.clone()).await.map_err(SinkError::retry)?;
            let before = received();
            subscriber.drain().await.map_err(SinkError::retry)?;
            while received() == before {
                sleep(POLL_INTERVAL).await;
            }
        }
        // What the server has said is on its way through a task.
        yield_now().await;
        Ok(())
    }

    /// Why a connection has ended.
    fn ended(&self, events: &ConnectionEvents) -> SinkError {
        let NatsSettings { subject_prefix, inbox_prefix, .. } = &self.settings;
        let why = match events.error.lock().as_deref() {
            Some(error) if is_denial(error) => {
                let remedy = format!("publish `{subject_prefix}.events.>` and to subscribe to `{inbox_prefix}.>`");
                format!("{error}: allow this user to {remedy}")
            }
            Some(error) => format!("the connection was lost: {error}"),
            None => "the connection was lost".to_owned(),
        };
        SinkError::retry(self.scrubbed(&why))
    }

    async fn publish(&self, context: &Context, delivery: &Delivery) -> Result<Acknowledged, PublishError> {
        let stored = &delivery.stored;
        let subject = format!("{}.events.{}", self.settings.subject_prefix, stored.event.data.stream);
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_MESSAGE_ID, stored.id().to_string().as_str());
        headers.insert("Content-Type", "application/cloudevents+json");
        let body = stored.body.as_bytes().to_vec();
        Ok(context.publish_with_headers(subject, headers, body.into()).await?.into_future())
    }

    async fn work(&self, receiver: &mut DeliveryReceiver) -> Result<(), SinkError> {
        let events = Arc::new(ConnectionEvents::default());
        let client = self.connect(Arc::clone(&events)).await?;
        let closed = receiver.closed();
        tokio::select! {
            // What the server has said counts before the answer that came after it.
            biased;
            () = events.ended.notified() => return Err(self.ended(&events)),
            () = closed => return Ok(()),
            tried = timeout(self.settings.timeout, self.try_inbox(&client)) => {
                tried.unwrap_or_else(|_| Err(SinkError::retry("the server does not answer")))?;
            }
        }
        // What waits for an acknowledgement tells with it: a server without a stream would be up and down without end.
        if receiver.held() == 0 {
            receiver.up();
        }
        let mut context = jetstream::new(client);
        context.set_timeout(self.settings.timeout);
        let (mut gate, mut in_flight) = (OrderingGate::default(), InFlight::default());
        loop {
            tokio::select! {
                taken = gate.take(receiver, in_flight.len() < IN_FLIGHT) => {
                    let Some(delivery) = taken else { break };
                    match self.publish(&context, &delivery).await {
                        Ok(acknowledged) => {
                            gate.sent(&delivery);
                            in_flight.push(delivery.position, acknowledged);
                        }
                        Err(error) => self.refused(receiver, delivery.position, &error)?,
                    }
                }
                (position, answer) = in_flight.answered() => {
                    gate.acknowledged(position);
                    self.settle(receiver, position, answer)?;
                }
                () = events.ended.notified() => return Err(self.ended(&events)),
            }
        }
        in_flight.drain(|position, answer| self.settle(receiver, position, answer)).await
    }

    fn settle(
        &self,
        receiver: &mut DeliveryReceiver,
        position: u64,
        answer: Result<PublishAck, PublishError>,
    ) -> Result<(), SinkError> {
        match answer {
            Ok(_) => {
                receiver.up();
                receiver.delivered(position);
                Ok(())
            }
            Err(error) => self.refused(receiver, position, &error),
        }
    }

    /// An event that was not taken: a dead letter, or the end of this connection.
    fn refused(&self, receiver: &mut DeliveryReceiver, position: u64, error: &PublishError) -> Result<(), SinkError> {
        let too_large = match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => Some("the event is larger than the server's max_payload"),
            _ if is_beyond_stream(error) => Some("the event is larger than the stream's max_msg_size"),
            _ => None,
        };
        if let Some(why) = too_large {
            receiver.dead(position, why);
            // Whoever says so is there, and nothing else may be waiting to show it.
            receiver.up();
            return Ok(());
        }
        let why = match error.kind() {
            PublishErrorKind::StreamNotFound => {
                let prefix = &self.settings.subject_prefix;
                format!(
                    "no stream of JetStream takes the subject; make one: nats stream add --subjects '{prefix}.events.>'"
                )
            }
            PublishErrorKind::TimedOut => "the server does not acknowledge".to_owned(),
            _ => error.to_string(),
        };
        receiver.failed(position, &why);
        Err(SinkError::retry(why))
    }
}

/// Whether the stream takes no message so large, which it says by a code of its own.
fn is_beyond_stream(error: &PublishError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<jetstream::Error>());
    source.is_some_and(|said| said.error_code() == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM)
}

impl Sink for Nats {
    fn run<'a>(&'a mut self, receiver: &'a mut DeliveryReceiver) -> Running<'a> {
        Box::pin(self.work(receiver))
    }
}

#[cfg(test)]
mod tests;
