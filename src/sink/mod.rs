//! Sink: events to the outside, each sink on its own thread behind its own bounded queue.
//!
//! A queue that is full drops the newest event, counts it and says so once: a dead sink never slows another, nor the frames.
//! [`Fanout::close`] closes the queues; each sink writes what it still has and ends. A sink that gives up (stdout without a
//! reader, a disk that is full at shutdown) counts what it could not write; lost events make the daemon end with code 1.

pub mod jsonl;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
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
    queue: Sender<Arc<Event>>,
    overflowing: AtomicBool,
    tally: Arc<Tally>,
}

/// What one sink could not deliver, and whether it has given up.
#[derive(Debug)]
struct Tally {
    name: String,
    lost: AtomicU64,
    gone: AtomicBool,
}

impl Tally {
    fn lose(&self, events: u64) {
        self.lost.fetch_add(events, Ordering::Relaxed);
        metrics::counter!("vtagd_events_dropped_total", "sink" => self.name.clone()).increment(events);
    }
}

/// Hands every event to every sink.
pub struct Fanout {
    /// Empty once closed.
    outlets: RwLock<Vec<Outlet>>,
    tallies: Vec<Arc<Tally>>,
}

/// The threads behind a [`Fanout`], with the names they go by in the log.
pub type SinkThreads = Vec<(String, JoinHandle<()>)>;

impl Fanout {
    /// Starts one thread a target. Once `shutdown` is asked for, a write that fails is not tried again.
    ///
    /// # Errors
    /// When the system gives no thread, or a file cannot be opened for appending.
    pub fn start(targets: &[JsonlTarget], shutdown: &Shutdown) -> Result<(Self, SinkThreads), jsonl::SinkError> {
        let (mut outlets, mut tallies, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for (index, target) in targets.iter().enumerate() {
            let name = format!("jsonl-{index}");
            let writer = jsonl::Writer::open(target)?;
            let (queue, events): (_, Receiver<Arc<Event>>) = bounded(QUEUE);
            // There from the start: a counter that first appears with 1 has not grown, as far as Prometheus can tell.
            metrics::counter!("vtagd_events_dropped_total", "sink" => name.clone()).absolute(0);
            metrics::counter!("vtagd_sink_errors_total", "sink" => name.clone()).absolute(0);
            let tally = Arc::new(Tally { name: name.clone(), lost: AtomicU64::new(0), gone: AtomicBool::new(false) });
            let (theirs, shutdown) = (Arc::clone(&tally), shutdown.clone());
            let thread = std::thread::Builder::new()
                .name(format!("vtagd-{name}"))
                .spawn(move || {
                    theirs.lose(writer.run(&theirs.name, &events, &shutdown));
                    theirs.gone.store(true, Ordering::Release);
                })
                .map_err(jsonl::SinkError::Thread)?;
            threads.push((format!("sink {name}"), thread));
            outlets.push(Outlet { queue, overflowing: AtomicBool::new(false), tally: Arc::clone(&tally) });
            tallies.push(tally);
        }
        Ok((Self { outlets: RwLock::new(outlets), tallies }, threads))
    }

    /// Puts `event` into every queue. Never waits. After [`close`](Self::close) it goes nowhere and counts as lost.
    pub fn send(&self, event: &Arc<Event>) {
        let outlets = self.outlets.read().unwrap_or_else(PoisonError::into_inner);
        if outlets.is_empty() {
            self.tallies.iter().for_each(|tally| tally.lose(1));
        }
        for outlet in outlets.iter() {
            match outlet.queue.try_send(Arc::clone(event)) {
                Ok(()) => outlet.overflowing.store(false, Ordering::Relaxed),
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                    outlet.tally.lose(1);
                    if !outlet.overflowing.swap(true, Ordering::Relaxed) {
                        tracing::error!(sink = %outlet.tally.name, "sink does not keep up, its events are lost until it does");
                    }
                }
            }
        }
    }

    /// Closes every queue: each sink writes what it still has, and ends.
    pub fn close(&self) {
        self.outlets.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether there were sinks, and every one of them has given up.
    pub fn is_dead(&self) -> bool {
        !self.tallies.is_empty() && self.tallies.iter().all(|tally| tally.gone.load(Ordering::Acquire))
    }

    /// Events that some sink could not take or write.
    pub fn lost(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.lost.load(Ordering::Relaxed)).sum()
    }
}
