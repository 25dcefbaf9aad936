//! The Kafka sink: every event into one topic, each acknowledged by all replicas that are in sync.
//!
//! In: deliveries. Out: records whose key is `<stream>/<label>`, so that events of one stream and label lie in one partition, in order. The
//! client is librdkafka, which is C: [`producer`] is there only with the cargo feature `kafka`, and a configuration that names the sink is
//! refused without it. What the configuration says is here, in both.
//!
//! Full and closed: see [`producer`].

mod config;
#[cfg(feature = "kafka")]
pub mod producer;

use std::time::Duration;

use crate::platform::secret::Secret;
use crate::platform::tls::Trust;

/// Whether this binary has the client.
pub const BUILT: bool = cfg!(feature = "kafka");

/// How the daemon shows who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

impl Mechanism {
    /// As the configuration has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::ScramSha256 => "scram-sha-256",
            Self::ScramSha512 => "scram-sha-512",
        }
    }
}

/// SASL.
#[derive(Clone, Debug, PartialEq)]
pub struct Sasl {
    pub mechanism: Mechanism,
    pub username: String,
    pub password: Secret,
}

/// `type: kafka`.
#[derive(Clone, Debug, PartialEq)]
pub struct KafkaSettings {
    /// `host:port`, those that are asked for all others.
    pub brokers: Vec<String>,
    pub topic: String,
    pub client_id: String,
    /// `None`: no TLS.
    pub tls: Option<Trust>,
    pub sasl: Option<Sasl>,
    /// For a connection, and for an acknowledgement.
    pub timeout: Duration,
}
