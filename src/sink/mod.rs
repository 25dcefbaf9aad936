//! Sink: events to the outside, each sink on its own thread behind its own bounded queue.
//!
//! A queue that is full drops the newest event, counts it and says so once: a dead sink never slows another, nor the frames.
//! Closing the [`Fanout`] closes the queues; each sink writes what it still has and ends.

pub mod jsonl;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::event::Event;
use crate::shutdown::Shutdown;

/// Events that wait for one sink; about 10 MB of them.
const QUEUE: usize = 8192;

/// Where a JSONL sink writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonlTarget {
    /// `path: "-"`. Lines for people on a terminal, JSON lines otherwise.
    Stdout,
    /// Appended to; made if absent.
    File(PathBuf),
}

struct Outlet {
    name: Arc<str>,
    queue: Sender<Arc<Event>>,
    overflowing: AtomicBool,
}

/// Hands every event to every sink.
pub struct Fanout {
    outlets: Vec<Outlet>,
}

/// The threads behind a [`Fanout`], with the names they go by in the log.
pub type SinkThreads = Vec<(String, JoinHandle<()>)>;

impl Fanout {
    /// Starts one thread a target.
    ///
    /// # Errors
    /// When the system gives no thread, or a file cannot be opened for appending.
    pub fn start(targets: &[JsonlTarget], shutdown: &Shutdown) -> Result<(Self, SinkThreads), jsonl::SinkError> {
        let (mut outlets, mut threads) = (Vec::new(), Vec::new());
        for (index, target) in targets.iter().enumerate() {
            let name: Arc<str> = format!("jsonl-{index}").into();
            let writer = jsonl::Writer::open(target)?;
            let (queue, events): (_, Receiver<Arc<Event>>) = bounded(QUEUE);
            let (label, shutdown) = (Arc::clone(&name), shutdown.clone());
            let thread = std::thread::Builder::new()
                .name(format!("vtagd-{name}"))
                .spawn(move || writer.run(&label, &events, &shutdown))
                .map_err(jsonl::SinkError::Thread)?;
            threads.push((format!("sink {name}"), thread));
            outlets.push(Outlet { name, queue, overflowing: AtomicBool::new(false) });
        }
        Ok((Self { outlets }, threads))
    }

    /// Puts `event` into every queue. Never waits.
    pub fn send(&self, event: &Arc<Event>) {
        for outlet in &self.outlets {
            match outlet.queue.try_send(Arc::clone(event)) {
                Ok(()) => outlet.overflowing.store(false, Ordering::Relaxed),
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                    metrics::counter!("vtagd_events_dropped_total", "sink" => outlet.name.to_string()).increment(1);
                    if !outlet.overflowing.swap(true, Ordering::Relaxed) {
                        tracing::error!(sink = %outlet.name, "sink does not keep up, its events are lost until it does");
                    }
                }
            }
        }
    }
}
