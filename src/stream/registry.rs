//! What is being watched right now: every stream with its labels, and the wish to switch one on or off.
//!
//! Written by the assembly when streams or labels change, read by sinks that tell the outside world (MQTT). Any thread may hold it; nobody
//! waits. Commands go the other way through a bounded channel: when it is full, the newest is refused.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::stream::accounting::FrameAccounting;
use crate::stream::status::StreamStatus;

/// Commands that wait for the assembly, which looks twenty times a second.
const COMMANDS: usize = 64;

/// A stream as the outside world sees it.
#[derive(Clone, Debug)]
pub struct RegisteredStream {
    pub status: Arc<StreamStatus>,
    pub accounting: Arc<FrameAccounting>,
    /// Whether it is to be connected to.
    pub enabled: bool,
    /// (set, label), in the order of the configuration.
    pub labels: Vec<(String, String)>,
}

impl RegisteredStream {
    pub fn id(&self) -> &str {
        self.status.id()
    }
}

/// Somebody outside wants a stream to be watched or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub stream: String,
    pub enabled: bool,
}

/// See the module.
#[derive(Debug)]
pub struct StreamRegistry {
    /// `None` until it is known for the first time.
    streams: RwLock<Option<Arc<Vec<RegisteredStream>>>>,
    version: watch::Sender<u64>,
    commands: Sender<Command>,
}

impl StreamRegistry {
    /// An empty catalogue, and where the commands come out.
    pub fn new() -> (Self, Receiver<Command>) {
        let (commands, taken) = bounded(COMMANDS);
        (Self { streams: RwLock::default(), version: watch::channel(0).0, commands }, taken)
    }

    /// Replaces everything, and tells who listens.
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

    /// Asks the assembly for something. `false` if it has too much to do.
    pub fn command(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok()
    }
}
