//! Sink: events out of the outbox to the outside world, each sink on its own thread. [`kinds`] lists which there are; each has its settings, its
//! keys of the configuration ([`config`]), client and tests in a folder of its own.
//!
//! # How a sink is written
//!
//! A sink is a type that implements [`Sink`]: one method, `run`, a future that takes deliveries from its [`DeliveryReceiver`] and settles them.
//! [`runner`] gives it a thread with a single-threaded tokio runtime of its own, so it may block or be slow without hurting others,
//! and calls `run` again after a fault, with a jittered back-off. In `run`:
//!
//! 1. **Connect** (if there is anything to connect to). When that fails, return [`SinkError::Retry`]. When it stands, call [`DeliveryReceiver::up`].
//! 2. **Take** deliveries with `receiver.next().await` or [`DeliveryReceiver::try_next`], oldest first. `next` may be one branch of a `select!`: it loses
//!    nothing when it is cancelled. Nothing is handed out twice within one `run`, except after [`DeliveryReceiver::redeliver_unacknowledged`]. Up to
//!    [`WINDOW`](crate::outbox::delivery::WINDOW) may be held unsettled at a time; then `next` waits.
//! 3. **Send** `delivery.stored.body` (the CloudEvents JSON on one line); `delivery.stored.event` is the same, typed.
//! 4. **Settle** by `delivery.position`, whenever the answer comes and in any order: [`DeliveryReceiver::delivered`] once the other side has it for
//!    sure (PUBACK, 2xx, `fdatasync`), [`DeliveryReceiver::dead`] when it never will take this one. [`DeliveryReceiver::failed`] writes an attempt down and says how
//!    many have failed, those before a restart included; the delivery stays with the sink, which tries again (see [`keyed_queue`]) or calls
//!    `dead` when it has tried enough. What is never settled comes again at the next `run`, or after a restart of the daemon: at least once.
//! 5. **A lost connection**: return [`SinkError::Retry`]. The next `run` gets everything that was not settled again, in order, before
//!    anything new; nothing has to be remembered. [`SinkError::Retry::after`] makes the wait at least so long (`Retry-After`).
//! 6. **The end**: `next` gives `None`. Say goodbye (MQTT: publish `stopped`, disconnect) within a second, settling what is still
//!    acknowledged, and return `Ok(())`. Not calling `next` for long? Watch [`DeliveryReceiver::closed`]. A sink that does not end is left behind.
//! 7. **For good**: [`SinkError::EndpointGone`] (HTTP 410: what waits becomes dead letters), [`SinkError::Fatal`] (stdout without a reader).
//!
//! Order: deliveries of one (stream, label) must arrive in order. A sink with one connection that keeps order (MQTT, a file) just sends
//! them in order. A sink with several requests under way (webhook) puts every delivery into [`keyed_queue::KeyedQueue`] and takes from there:
//! it gives at most one of an ordering key at a time, oldest first, and holds back what waits for another attempt.
//!
//! One whose other side acknowledges what is published (MQTT, NATS, Kafka) has [`in_flight`] for taking and for what is on its way.
//!
//! Concurrency without borrowing trouble: keep the requests in a `tokio::task::JoinSet` whose tasks return (position, answer), and
//! `select!` between `receiver.next()` (while there is room), `set.join_next()` and a timer for `queue.next_due()`; only the loop touches the receiver.
//!
//! Retained states (MQTT): [`DeliveryReceiver::states`] tells for every (stream, set, label) whether its tag is open, after the latest stored event.
//! A sink that publishes states on connecting publishes these, and then lets an event of its backlog change a state only if
//! `delivery.stored.seq` is above `state.last.seq` at that time; events themselves always go out.
//!
//! Errors are told by `DeliveryReceiver` itself, once a change: a sink does not log deliveries. `down(why)` is for sinks that stay in `run` while
//! nothing arrives. No `why` may hold a credential (invariant 4).
//!
//! Tests hold the other end: `delivery::link` gives a `DeliverySender` to offer deliveries and read what was settled; the runner is
//! [`runner::start`], or call `run` by hand.

pub mod asyncapi;
pub mod config;
pub mod daemon_facts;
pub mod in_flight;
pub mod jsonl;
pub mod kafka;
pub mod keyed_queue;
pub mod kinds;
pub mod mqtt;
pub mod nats;
pub mod network_keys;
pub mod runner;
pub mod sink_routes;
pub mod webhook;

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::outbox::delivery::DeliveryReceiver;
use crate::snapshot::Gallery;
use crate::stream::registry::StreamRegistry;
use daemon_facts::DaemonFacts;
pub use jsonl::JsonlTarget;
pub use kinds::{SinkKeys, SinkKind, SinkSettings};

/// Why a sink's `run` has ended before the daemon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// It is run again after a back-off, or after `after` if that is longer.
    #[error("{why}")]
    Retry { why: String, after: Option<Duration> },
    /// The other side wants no events any more: what waits becomes dead letters, and nothing more comes until the next start.
    #[error("{why}")]
    EndpointGone { why: String },
    /// It cannot come back in this life of the daemon; what waits stays stored.
    #[error("{why}")]
    Fatal { why: String },
}

impl SinkError {
    /// [`SinkError::Retry`] without a wait of its own.
    pub fn retry(why: impl std::fmt::Display) -> Self {
        Self::Retry { why: why.to_string(), after: None }
    }
}

/// What [`Sink::run`] gives back. It stays on one thread, so it need not be `Send`.
pub type Running<'a> = Pin<Box<dyn Future<Output = Result<(), SinkError>> + 'a>>;

/// See the module for how one is written.
pub trait Sink: Send + 'static {
    /// One connection's worth of work: until the receiver ends (`Ok`), or something is wrong.
    fn run<'a>(&'a mut self, receiver: &'a mut DeliveryReceiver) -> Running<'a>;
}

/// What sinks get that tell more than events.
pub struct SinkContext {
    pub registry: Arc<StreamRegistry>,
    /// Where pictures come from, if there are any.
    pub gallery: Option<Arc<Gallery>>,
    /// Who this daemon is.
    pub owner: mqtt::Owner,
    /// What is known of it.
    pub facts: Arc<DaemonFacts>,
}

/// Why a sink cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SinkStartError {
    #[error("cannot open {} for appending: {source}; check the folder and its permissions, or change `sinks[].path`", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot start a sink's thread: {0}")]
    Thread(io::Error),
    #[error("this vtagd has no Kafka client; build it with `--features kafka`")]
    NotBuilt,
}

#[cfg(test)]
pub mod tests;
