//! One MQTT connection, 3.1.1 or 5 alike. The only file that knows `rumqttc`.
//!
//! In: messages to publish, topics to subscribe to. Out: what the broker sends ([`Received`]), for each publish a [`Notice`] that ends with
//! its PUBACK, and for subscriptions [`Asked`](super::asked), which ends with their SUBACKs. The connection is driven by a task of its own on the sink's runtime, so that it stays alive whatever the sink waits for; it
//! ends with the [`Link`]. There is no reconnecting in here: a lost connection is told once, and every open notice with it. A new one is
//! a new link, with a clean session: what is pending lives in the outbox.
//!
//! Full: [`Link::publish`] gives the message back when the client has [`REQUESTS`] to send; what the broker sends waits in the socket when
//! [`HEARD`] messages have not been looked at. Of a payload beyond [`KEPT`] only its digest is kept; packets beyond [`MAX_IN`] end the connection.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::asked::Asked;
use crate::outbox::delivery::published_record::{self, Digest};
use crate::platform::secret::Secret;
use crate::platform::tls::{self, Trust};

/// Publishes that the client holds and has not sent.
const REQUESTS: usize = 512;

/// Publishes without a PUBACK. Packet identifiers allow 65,535; some brokers hang up on many fewer.
pub const IN_FLIGHT: u16 = 200;

const HEARD: usize = 256;

/// Largest payload that is kept: discovery documents of other devices, when they are looked through.
const KEPT: usize = 1 << 20;

/// Largest packet that is sent: a snapshot.
const MAX_OUT: usize = 8 << 20;

/// Largest packet that is read: our own snapshot, when it is to be taken away.
const MAX_IN: u32 = MAX_OUT as u32;

const KEEP_ALIVE: u16 = 20;

/// MQTT versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    V311,
    V5,
}

/// What is published: always QoS 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
    /// With MQTT 5.
    pub content_type: Option<&'static str>,
}

impl Message {
    pub fn new(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self { topic: topic.into(), payload: payload.into(), retain: false, content_type: None }
    }

    /// A CloudEvent in structured JSON, which with MQTT 5 is told by its Content Type.
    pub fn event(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self { content_type: Some("application/cloudevents+json"), ..Self::new(topic, payload) }
    }

    /// What its packet takes.
    pub fn packet_size(&self) -> usize {
        let properties = self.content_type.map_or(0, |kind| 1 + 2 + kind.len());
        // The topic and its length, the number, the properties and their length.
        let body = 2 + self.topic.len() + 2 + 1 + properties + self.payload.len();
        // Seven bits of a length in each byte.
        let length = 1 + [7, 14, 21].iter().filter(|bits| body >> **bits > 0).count();
        1 + length + body
    }

    pub fn retained(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self { retain: true, ..Self::new(topic, payload) }
    }
}

/// What comes from the broker.
#[derive(Debug)]
pub enum Received {
    Message {
        topic: String,
        /// Empty where it is too large to be kept.
        payload: Vec<u8>,
        /// `None` if there is no payload: nothing lies there any more.
        digest: Option<Digest>,
        /// It lay at the broker when we subscribed.
        retained: bool,
    },
    /// The connection has gone; nothing more comes.
    Lost(String),
}

/// Where to connect, as whom, and what the broker says if we vanish.
pub struct Connection<'a> {
    pub protocol: Protocol,
    pub host: &'a str,
    pub port: u16,
    pub client_id: &'a str,
    pub username: Option<&'a str>,
    pub password: Option<&'a Secret>,
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// What `tls` was made of, to explain what is wrong with it.
    pub trust: Option<&'a Trust>,
    /// `None`: nothing.
    pub will: Option<Message>,
    /// For each step of connecting.
    pub timeout: Duration,
}

/// Why a publish was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// The broker does not want it, and goes on. Only MQTT 5 knows that: with 3.1.1 a broker acknowledges what it throws away.
    Refused(String),
    /// It does not want this payload, now or later: also MQTT 5 alone.
    Malformed(String),
    /// The connection has gone before.
    Lost(String),
}

/// Ends when the broker has acknowledged a publish or a subscription, or with why it has not.
pub type Notice = Pin<Box<dyn Future<Output = Result<(), NotTaken>>>>;

enum Client {
    V311(rumqttc_v4::AsyncClient),
    V5(rumqttc_v5::AsyncClient),
}

/// A connection that stands. Dropping it closes the socket without a DISCONNECT, so the broker publishes the will.
pub struct Link {
    client: Client,
    heard: mpsc::Receiver<Received>,
    /// The largest packet that the broker takes, where it has said so.
    pub largest: Option<usize>,
    /// Ends with the link.
    _task: JoinSet<()>,
}

/// The two clients are alike but for their types.
macro_rules! version {
    ($name:ident, $crate_name:ident, $refusal:expr, $refused:ident, $typed:expr, $largest:expr, $connack:expr, $lost:expr) => {
        mod $name {
            use $crate_name::{
                AsyncClient, ClientError, ConnectionError, Event, EventLoop, Packet, PublishNoticeError,
                PublishOptions, QoS, StateError, SubscribeNoticeError,
            };

            use super::*;

            pub fn drive(
                task: &mut JoinSet<()>,
                mut eventloop: EventLoop,
                told: mpsc::Sender<Received>,
                scrub: Option<Secret>,
            ) {
                task.spawn(async move {
                    loop {
                        let heard = match eventloop.poll().await {
                            Ok(Event::Incoming(Packet::Publish(publish))) => Received::Message {
                                topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                                digest: (!publish.payload.is_empty())
                                    .then(|| published_record::digest(&publish.payload)),
                                payload: if publish.payload.len() > KEPT {
                                    Vec::new()
                                } else {
                                    publish.payload.to_vec()
                                },
                                retained: publish.retain,
                            },
                            Ok(_) => continue,
                            Err(error) => {
                                let lost: fn(&ConnectionError) -> Option<&'static str> = $lost;
                                let told = lost(&error).map(str::to_owned);
                                Received::Lost(told.unwrap_or_else(|| plain(&error, scrub.as_ref())))
                            }
                        };
                        let last = matches!(heard, Received::Lost(_));
                        if told.send(heard).await.is_err() || last {
                            return;
                        }
                    }
                });
            }

            /// See [`Link::publish`].
            pub fn publish(
                client: &AsyncClient,
                topic: &str,
                payload: &[u8],
                retain: bool,
                content_type: Option<&'static str>,
            ) -> Result<Option<Notice>, String> {
                let typed: fn(PublishOptions, Option<&'static str>) -> PublishOptions = $typed;
                let options = typed(PublishOptions::at_least_once().retain(retain), content_type);
                match client.try_publish_tracked(topic, payload.to_vec(), options) {
                    Ok(notice) => Ok(Some(Box::pin(async move {
                        let refusal: fn(&PublishNoticeError) -> Option<NotTaken> = $refusal;
                        let told = |error| refusal(&error).unwrap_or_else(|| NotTaken::Lost(error.to_string()));
                        notice.wait_completion_async().await.map_err(told)
                    }))),
                    Err(ClientError::InvalidRequest(_)) => Err(format!("not a topic: {topic:?}")),
                    Err(_) => Ok(None),
                }
            }

            /// See [`Link::subscribe`].
            pub fn subscribe(client: &AsyncClient, filter: &str, surely: bool) -> Result<Notice, String> {
                let qos = if surely { QoS::AtLeastOnce } else { QoS::AtMostOnce };
                let notice = client.try_subscribe_tracked(filter, qos).map_err(|error| error.to_string())?;
                Ok(Box::pin(async move {
                    let told = |error| match error {
                        SubscribeNoticeError::$refused(_) => NotTaken::Refused(error.to_string()),
                        error => NotTaken::Lost(error.to_string()),
                    };
                    notice.wait_completion_async().await.map_err(told)
                }))
            }

            /// Waits for the CONNACK, and gives the largest packet that it allows.
            pub async fn connected(
                eventloop: &mut EventLoop,
                secret: Option<&Secret>,
                trust: Option<&Trust>,
            ) -> Result<Option<usize>, String> {
                let largest: fn(&$crate_name::ConnAck) -> Option<usize> = $largest;
                let error = loop {
                    match eventloop.poll().await {
                        Ok(Event::Incoming(Packet::ConnAck(answer))) => return Ok(largest(&answer)),
                        Ok(_) => {}
                        Err(error) => break error,
                    }
                };
                let told = match (&error, trust) {
                    (_, None) => None,
                    (ConnectionError::MqttState(StateError::ConnectionAborted), Some(trust)) => {
                        Some(tls::hung_up(&error, trust))
                    }
                    (error, Some(trust)) => tls::explained(error, trust),
                };
                let hint: fn(&ConnectionError) -> &'static str = $connack;
                Err(told.unwrap_or_else(|| format!("{}{}", plain(&error, secret), hint(&error))))
            }
        }
    };
}

version!(v311, rumqttc_v4, |_| None, V4SubAckFailure, |options, _| options, |_| None, |_| "", |_| None);
version!(
    v5,
    rumqttc_v5,
    |error| match error {
        PublishNoticeError::V5PubAck(reason @ rumqttc_v5::PubAckReason::PayloadFormatInvalid) => {
            Some(NotTaken::Malformed(format!("{reason:?}")))
        }
        PublishNoticeError::V5PubAck(reason) => Some(NotTaken::Refused(format!("{reason:?}"))),
        PublishNoticeError::RetainNotSupported => Some(NotTaken::Refused("it retains nothing".to_owned())),
        _ => None,
    },
    V5SubAckFailure,
    |options, content_type| match content_type {
        None => options,
        Some(content_type) => options.properties(rumqttc_v5::PublishProperties {
            content_type: Some(content_type.to_owned()),
            ..Default::default()
        }),
    },
    |answer| answer.properties.as_ref()?.max_packet_size.map(|bytes| bytes as usize),
    // Brokers that do not know MQTT 5 say so, answer as 3.1.1 has it, or hang up.
    |error| match error {
        ConnectionError::ConnectionRefused(
            rumqttc_v5::ConnectReturnCode::UnsupportedProtocolVersion
            | rumqttc_v5::ConnectReturnCode::RefusedProtocolVersion,
        )
        | ConnectionError::MqttState(_)
        | ConnectionError::NotConnAck(_) => ONLY_OLDER,
        _ => "",
    },
    |error| match error {
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code: rumqttc_v5::DisconnectReasonCode::SessionTakenOver,
            ..
        }) => Some(TAKEN_OVER),
        _ => None,
    }
);

/// Where a broker does not take to MQTT 5.
const ONLY_OLDER: &str = "; if this broker speaks MQTT 3.1.1 only, write `protocol: 3.1.1`";

/// What a broker of MQTT 5 says of it in one word.
const TAKEN_OVER: &str = "another client has connected with the same client id, and the broker lets in one at a time; leave `client_id` out, or \
                          give each its own";

/// An error with its causes, without the password.
fn plain(error: &dyn std::error::Error, secret: Option<&Secret>) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    secret.map_or(text.clone(), |secret| secret.scrub(&text))
}

impl Link {
    /// Connects and waits for the CONNACK.
    ///
    /// # Errors
    /// Why there is no connection, without credentials.
    pub async fn connect(connection: Connection<'_>) -> Result<Self, String> {
        let timeout = connection.timeout;
        let hint = if connection.protocol == Protocol::V5 { ONLY_OLDER } else { "" };
        match tokio::time::timeout(timeout, Self::try_connect(connection)).await {
            Ok(linked) => linked,
            Err(_) => Err(format!("no answer to CONNECT in {timeout:?}{hint}")),
        }
    }

    async fn try_connect(connection: Connection<'_>) -> Result<Self, String> {
        let Connection { protocol, host, port, client_id, username, password, tls, trust, will, timeout } = connection;
        // Ours is the one that is told.
        let timeout = timeout + Duration::from_secs(1);
        let (told, heard) = mpsc::channel(HEARD);
        let mut task = JoinSet::new();
        let secret = password.cloned();
        let password = || password.map_or(Vec::new(), |password| password.expose().as_bytes().to_vec());
        let (client, largest) = match protocol {
            Protocol::V311 => {
                use rumqttc_v4 as mqtt;
                let mut options = mqtt::MqttOptions::new(client_id, (host, port));
                options.set_keep_alive(KEEP_ALIVE).set_inflight(IN_FLIGHT);
                options.set_max_packet_size(MAX_IN as usize, MAX_OUT).set_request_channel_capacity(REQUESTS);
                let qos = mqtt::QoS::AtLeastOnce;
                if let Some(will) = will {
                    options.set_last_will(mqtt::LastWill::new(will.topic, will.payload, qos, will.retain));
                }
                if let Some(name) = username {
                    options.set_credentials(name, password());
                }
                if let Some(tls) = tls {
                    options.set_transport(mqtt::Transport::tls_with_config(mqtt::TlsConfiguration::Rustls(tls)));
                }
                let (client, mut eventloop) =
                    mqtt::AsyncClient::builder(options).try_build().map_err(|e| e.to_string())?;
                let network = &mut eventloop.network_options;
                network.set_connection_timeout(timeout.as_secs().max(1)).set_tcp_nodelay(true);
                let largest = v311::connected(&mut eventloop, secret.as_ref(), trust).await?;
                v311::drive(&mut task, eventloop, told, secret);
                (Client::V311(client), largest)
            }
            Protocol::V5 => {
                use rumqttc_v5 as mqtt;
                let mut options = mqtt::MqttOptions::new(client_id, (host, port));
                options.set_keep_alive(KEEP_ALIVE).set_outgoing_inflight_upper_limit(IN_FLIGHT);
                options
                    .set_max_packet_size(Some(MAX_IN))
                    .set_request_channel_capacity(REQUESTS)
                    .set_connect_timeout(timeout);
                let qos = mqtt::QoS::AtLeastOnce;
                if let Some(will) = will {
                    options.set_last_will(mqtt::LastWill::new(will.topic, will.payload, qos, will.retain, None));
                }
                if let Some(name) = username {
                    options.set_credentials(name, password());
                }
                if let Some(tls) = tls {
                    options.set_transport(mqtt::Transport::tls_with_config(mqtt::TlsConfiguration::Rustls(tls)));
                }
                let (client, mut eventloop) =
                    mqtt::AsyncClient::builder(options).try_build().map_err(|e| e.to_string())?;
                let largest = v5::connected(&mut eventloop, secret.as_ref(), trust).await?;
                v5::drive(&mut task, eventloop, told, secret);
                (Client::V5(client), largest)
            }
        };
        Ok(Self { client, heard, largest, _task: task })
    }

    /// Hands a message to the client; `None` if it has enough to send already, and the message is to be tried again later.
    ///
    /// # Errors
    /// A topic that MQTT does not allow.
    pub fn publish(&self, message: &Message) -> Result<Option<Notice>, String> {
        let Message { topic, payload, retain, content_type } = message;
        match &self.client {
            Client::V311(client) => v311::publish(client, topic, payload, *retain, *content_type),
            Client::V5(client) => v5::publish(client, topic, payload, *retain, *content_type),
        }
    }

    /// Subscribes to all of `filters`; `surely`: QoS 1, otherwise 0. The broker may answer each for `timeout`.
    ///
    /// # Errors
    /// When the client takes no request.
    pub fn subscribe(&self, filters: &[String], surely: bool, timeout: Duration) -> Result<Asked, String> {
        let mut open = Vec::with_capacity(filters.len());
        for filter in filters {
            let notice = match &self.client {
                Client::V311(client) => v311::subscribe(client, filter, surely)?,
                Client::V5(client) => v5::subscribe(client, filter, surely)?,
            };
            open.push((filter.clone(), notice));
        }
        Ok(Asked::new(open, timeout))
    }

    /// Waits for the answers to `asked`, and gives what the broker sends meanwhile to `each`. The filters that were refused.
    ///
    /// # Errors
    /// When the connection has gone, or the broker does not answer.
    pub async fn answered(&mut self, mut asked: Asked, mut each: impl FnMut(Received)) -> Result<Vec<String>, String> {
        loop {
            tokio::select! {
                answer = asked.answered() => match answer {
                    Ok(refused) => return Ok(refused),
                    Err(why) => return Err(self.why_lost(why).await),
                },
                heard = self.heard() => {
                    asked.heard();
                    match heard {
                        Received::Lost(why) => return Err(why),
                        heard => each(heard),
                    }
                }
            }
        }
    }

    /// A connection that is gone says better why than what waited for it.
    pub async fn why_lost(&mut self, otherwise: String) -> String {
        let told = async {
            loop {
                if let Received::Lost(why) = self.heard().await {
                    return why;
                }
            }
        };
        tokio::time::timeout(Duration::from_millis(100), told).await.unwrap_or(otherwise)
    }

    /// Unsubscribes from all of `filters`.
    ///
    /// # Errors
    /// When the client takes no request.
    pub fn unsubscribe(&self, filters: &[String]) -> Result<(), String> {
        for filter in filters {
            match &self.client {
                Client::V311(client) => client.try_unsubscribe(filter.as_str()).map_err(|error| error.to_string())?,
                Client::V5(client) => client.try_unsubscribe(filter.as_str()).map_err(|error| error.to_string())?,
            }
        }
        Ok(())
    }

    /// The next thing the broker sends. May be cancelled without losing anything.
    pub async fn heard(&mut self) -> Received {
        self.heard.recv().await.unwrap_or_else(|| Received::Lost("the connection was closed".to_owned()))
    }

    /// Says goodbye, so that the will is not published, and waits until the socket is closed.
    pub async fn disconnect(&mut self) {
        let asked = match &self.client {
            Client::V311(client) => client.try_disconnect().is_ok(),
            Client::V5(client) => client.try_disconnect().is_ok(),
        };
        while asked && !matches!(self.heard().await, Received::Lost(_)) {}
    }
}
