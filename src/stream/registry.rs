//! What is known of every stream, in one place: written by the main thread when streams or labels change, read by the API, the metrics, the
//! sinks (MQTT) and the report of dropped frames. Any thread may hold it; nobody waits.
//!
//! A sink also asks for changes through it ([`requests`](crate::stream::requests)): when its room is taken, the newest is refused.

use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::stream::StreamId;
use crate::stream::accounting::FrameAccounting;
use crate::stream::requests::{self, Action, NoOutcome, RequestSender};
use crate::stream::status::{StreamState, StreamStatus};
use crate::stream::swallowed_starts::SwallowedStarts;

/// The record of a stream. It is made once, when the stream is read from the configuration; clones speak of the same one.
#[derive(Clone, Debug)]
pub struct RegisteredStream {
    pub status: Arc<StreamStatus>,
    pub accounting: Arc<FrameAccounting>,
    pub swallowed: Arc<SwallowedStarts>,
    /// Whether it is to be connected to.
    pub enabled: bool,
    /// (set, label), in the order of the configuration.
    pub labels: Vec<(String, String)>,
    /// The names of its regions, where each has these labels by itself.
    pub regions: Vec<Arc<str>>,
}

impl RegisteredStream {
    /// A stream that is going to be connected to.
    pub fn new(id: &StreamId, labels: Vec<(String, String)>) -> Self {
        let status = Arc::new(StreamStatus::new(Arc::clone(id)));
        let (accounting, swallowed) = (Arc::new(FrameAccounting::open(id)), Arc::new(SwallowedStarts::new(id)));
        Self { status, accounting, swallowed, enabled: true, labels, regions: Vec::new() }
    }

    /// One that is switched off.
    pub fn disabled(id: &StreamId, labels: Vec<(String, String)>) -> Self {
        let status = Arc::new(StreamStatus::new(Arc::clone(id)));
        status.set(StreamState::Disabled);
        Self {
            status,
            accounting: Arc::default(),
            swallowed: Arc::new(SwallowedStarts::new(id)),
            enabled: false,
            labels,
            regions: Vec::new(),
        }
    }

    /// With named regions.
    #[must_use]
    pub fn with_regions<'a>(mut self, regions: impl IntoIterator<Item = &'a Arc<str>>) -> Self {
        self.regions = regions.into_iter().cloned().collect();
        self
    }

    pub fn id(&self) -> &str {
        self.status.id()
    }
}

/// See the module.
#[derive(Debug)]
pub struct StreamRegistry {
    /// `None` until it is known for the first time.
    streams: RwLock<Option<Arc<Vec<RegisteredStream>>>>,
    version: watch::Sender<u64>,
    requests: RequestSender,
}

impl Default for StreamRegistry {
    /// One whose requests nobody takes.
    fn default() -> Self {
        Self::new(requests::channel().0.mqtt)
    }
}

impl StreamRegistry {
    /// An empty one. Sinks ask through `requests`.
    pub fn new(requests: RequestSender) -> Self {
        Self { streams: RwLock::default(), version: watch::channel(0).0, requests }
    }

    /// Replaces everything, and wakes those who wait for [changes](Self::changes).
    pub fn set(&self, streams: Vec<RegisteredStream>) {
        *self.streams.write() = Some(Arc::new(streams));
        self.version.send_modify(|version| *version += 1);
    }

    /// `None` while the daemon starts.
    pub fn streams(&self) -> Option<Arc<Vec<RegisteredStream>>> {
        self.streams.read().clone()
    }

    /// Changes with every [`set`](Self::set).
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Asks the main thread for something.
    ///
    /// # Errors
    /// When too many requests wait, or the daemon stops.
    pub fn request(&self, action: Action) -> Result<(), NoOutcome> {
        self.requests.send(action)
    }
}
