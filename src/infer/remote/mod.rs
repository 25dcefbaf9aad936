//! Inference on a server that many boxes share: one more provider, spoken to in KServe v2 (the Open Inference Protocol).
//!
//! In: what a session's thread has prepared, as for any [`ImageEncoder`](super::ImageEncoder). Out: embeddings that the server has computed, or that
//! a local provider has where the server does not answer and that one agrees with the same probe.
//!
//! # Layout
//! [`circuit_breaker`] when a server is asked again (pure) · [`kserve_messages`] gRPC's messages · [`server_connection`] one connection, gRPC or
//! HTTP with binary tensors · [`client_runtime`] the one thread with a tokio runtime · [`served_model`] what the server says of its
//! model · [`server_fault`] what a refusal comes to · [`binary_answer`] an answer over HTTP · [`tile_bytes`] pictures as it wants them, and what it answers · [`probe_references`] what the probe is to give · [`server_link`] connects, probes, and connects again, on a
//! thread of its own · [`server_view`] how the server stands, for those who ask · [`remote_encoder`] the encoder of a session · [`open`] all of it at start-up.
//!
//! A request has a deadline; a connection serves until it breaks and is never made again silently: whoever answers on a new one has to show by the
//! probe that it computes what the model means. Nothing is queued here: a session's thread has one batch under way.
//! [`server_trial`] asks once, for `doctor`, and is no part of this.

mod binary_answer;
pub mod circuit_breaker;
mod client_runtime;
pub mod kserve_messages;
mod open;
mod probe_references;
pub mod remote_encoder;
mod served_model;
mod server_connection;
mod server_fault;
pub mod server_link;
pub mod server_trial;
pub mod server_view;
pub mod tile_bytes;

use std::fmt;
use std::time::Duration;

use crate::platform::secret::Secret;
use crate::platform::tls::Trust;

pub use open::open;

/// What a gRPC server takes in one message if nobody has told it otherwise.
pub const MAX_MESSAGE: u64 = 4 << 20;
/// For a batch, its retry included: a frame that has waited longer says little about now.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// `remote` of `runtime.providers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteOptions {
    /// Tried in order, whenever there is no connection.
    pub urls: Vec<ServerUrl>,
    /// What the server calls the model.
    pub model: String,
    pub input: TileInput,
    /// For a batch, its retry included.
    pub timeout: Duration,
    /// Largest request in bytes.
    pub max_message: u64,
    pub trust: Trust,
    /// Sent as `authorization: Bearer …`.
    pub token: Option<Secret>,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            model: String::new(),
            input: TileInput::default(),
            timeout: TIMEOUT,
            max_message: MAX_MESSAGE,
            trust: Trust::default(),
            token: None,
        }
    }
}

/// What pictures are sent as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TileInput {
    /// Bytes where the server's model takes them, floats elsewhere.
    #[default]
    U8,
    /// Normalised floats.
    F32,
}

impl TileInput {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::F32 => "f32",
        }
    }
}

/// How the protocol is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    Grpc,
    Http,
}

/// Where a server is. Holds no credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    pub carrier: Carrier,
    pub tls: bool,
    /// A name, or an address without brackets.
    pub host: String,
    pub port: u16,
    /// Before `/v2`, with HTTP; begins with a slash, or is empty.
    pub base: String,
}

impl ServerUrl {
    /// Host and port as a URL and a `Host` header have them.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.carrier, self.tls) {
            (Carrier::Grpc, false) => "grpc",
            (Carrier::Grpc, true) => "grpcs",
            (Carrier::Http, false) => "http",
            (Carrier::Http, true) => "https",
        };
        write!(f, "{scheme}://{}{}", self.authority(), self.base)
    }
}

/// Why a server has not answered as it should. The variants are different decisions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// Nobody there, or the connection broke: another one is made.
    #[error("{0}")]
    Away(String),
    /// The other side, or something on the way, has closed a connection over which nothing was asked: another one is made, and nothing is amiss.
    #[error("{0}")]
    Idle(String),
    /// Nothing came in time.
    #[error("{0}")]
    Slow(String),
    /// More pictures than it takes at once: fewer may work.
    #[error("{0}")]
    TooMuch(String),
    /// It has too much to do.
    #[error("{0}")]
    Busy(String),
    /// It will not.
    #[error("{0}")]
    Refused(String),
    /// It answered something that cannot be right: it has to show by the probe that it can be trusted again.
    #[error("{0}")]
    Wrong(String),
    /// The caller was told to end.
    #[error("told to end")]
    Stopped,
}

impl RemoteError {
    /// With who it is about.
    fn at(self, url: &ServerUrl) -> Self {
        let named = |why: String| {
            let server = url.to_string();
            if why.starts_with(&server) { why } else { format!("{server}: {why}") }
        };
        match self {
            // Of one that is being made that is no small matter.
            Self::Away(why) | Self::Idle(why) => Self::Away(named(why)),
            Self::Slow(why) => Self::Slow(named(why)),
            Self::TooMuch(why) => Self::TooMuch(named(why)),
            Self::Busy(why) => Self::Busy(named(why)),
            Self::Refused(why) => Self::Refused(named(why)),
            Self::Wrong(why) => Self::Wrong(named(why)),
            Self::Stopped => Self::Stopped,
        }
    }

    /// A word for metrics and states.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Away(_) | Self::Idle(_) => "away",
            Self::Slow(_) => "slow",
            Self::TooMuch(_) | Self::Busy(_) => "full",
            Self::Refused(_) => "refused",
            Self::Wrong(_) => "wrong",
            Self::Stopped => "stopped",
        }
    }

    /// Whether the connection is not to be used again.
    pub const fn ends_connection(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Idle(_) | Self::Wrong(_))
    }
}

/// What a server says, fit for one line of a log: it may say anything.
fn told(text: &str) -> String {
    const MOST: usize = 300;
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // Before it is cut: half a secret is not known as one.
    crate::platform::secret::scrub(&line).chars().filter(|c| !c.is_control()).take(MOST).collect()
}
