//! Sink: events out of the outbox to the outside world, each sink on its own thread.
//!
//! # How a sink is written
//!
//! A sink is a type that implements [`Sink`]: one method, `run`, a future that takes deliveries from its [`Inbox`] and settles them.
//! [`runner`] gives it a thread with a single-threaded tokio runtime of its own, so it may block or be slow without hurting others,
//! and calls `run` again after a fault, with a jittered back-off. In `run`:
//!
//! 1. **Connect** (if there is anything to connect to). When that fails, return [`Fault::Again`]. When it stands, call [`Inbox::up`].
//! 2. **Take** deliveries with `inbox.next().await` or [`Inbox::try_next`], oldest first. `next` may be one branch of a `select!`: it loses
//!    nothing when it is cancelled. Nothing is handed out twice within one `run`, except after [`Inbox::rewind`]. Up to
//!    [`WINDOW`](crate::delivery::WINDOW) may be held unsettled at a time; then `next` waits.
//! 3. **Send** `delivery.stored.body` (the CloudEvents JSON on one line); `delivery.stored.event` is the same, typed.
//! 4. **Settle** by `delivery.position`, whenever the answer comes and in any order: [`Inbox::delivered`] once the other side has it for
//!    sure (PUBACK, 2xx, `fdatasync`), [`Inbox::dead`] when it never will take this one. [`Inbox::failed`] writes an attempt down and says how
//!    many have failed, those before a restart included; the delivery stays with the sink, which tries again (see [`lanes`]) or calls
//!    `dead` when it has tried enough. What is never settled comes again at the next `run`, or after a restart of the daemon: at least once.
//! 5. **A lost connection**: return [`Fault::Again`]. The next `run` gets everything that was not settled again, in order, before
//!    anything new; nothing has to be remembered. [`Fault::Again::after`] makes the wait at least so long (`Retry-After`).
//! 6. **The end**: `next` gives `None`. Say goodbye (MQTT: publish `stopped`, disconnect) within a second, settling what is still
//!    acknowledged, and return `Ok(())`. Not calling `next` for long? Watch [`Inbox::phases`]. A sink that does not end is left behind.
//! 7. **For good**: [`Fault::Disabled`] (HTTP 410: what waits becomes dead letters), [`Fault::Gone`] (stdout without a reader).
//!
//! Order: deliveries of one (stream, label) must arrive in order. A sink with one connection that keeps order (MQTT, a file) just sends
//! them in order. A sink with several requests under way (webhook) puts every delivery into [`lanes::Lanes`] and takes from there:
//! it gives at most one of a lane at a time, oldest first, and holds back what waits for another attempt.
//!
//! Concurrency without borrowing trouble: keep the requests in a `tokio::task::JoinSet` whose tasks return (position, answer), and
//! `select!` between `inbox.next()` (while there is room), `set.join_next()` and a timer for `lanes.next_due()`; only the loop touches the inbox.
//!
//! Retained states (MQTT): [`Inbox::states`] tells for every (stream, set, label) whether its tag is open, after the latest stored event.
//! A sink that publishes states on connecting publishes these, and then lets an event of its backlog change a state only if
//! `delivery.stored.seq` is above `state.last.seq` at that time; events themselves always go out.
//!
//! Errors are told by `Inbox` itself, once a change: a sink does not log deliveries. `down(why)` is for sinks that stay in `run` while
//! nothing arrives. No `why` may hold a credential (invariant 4).
//!
//! Tests hold the other end: `delivery::link` gives a `Feed` to offer deliveries and read what was settled; the runner is
//! [`runner::start`], or call `run` by hand.

pub mod jsonl;
pub mod lanes;
pub mod mqtt;
pub mod runner;
pub mod webhook;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::delivery::Inbox;
use crate::event::Event;
use crate::shutdown::Shutdown;

/// Events that wait for one sink; about 10 MB of them.
const QUEUE: usize = 8192;

/// Why a sink's `run` has ended before the daemon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is run again after a back-off, or after `after` if that is longer.
    #[error("{why}")]
    Again { why: String, after: Option<Duration> },
    /// The other side wants no events any more: what waits becomes dead letters, and nothing more comes until the next start.
    #[error("{why}")]
    Disabled { why: String },
    /// It cannot come back in this life of the daemon; what waits stays stored.
    #[error("{why}")]
    Gone { why: String },
}

impl Fault {
    /// [`Fault::Again`] without a wait of its own.
    pub fn again(why: impl std::fmt::Display) -> Self {
        Self::Again { why: why.to_string(), after: None }
    }
}

/// What [`Sink::run`] gives back. It stays on one thread, so it need not be `Send`.
pub type Running<'a> = Pin<Box<dyn Future<Output = Result<(), Fault>> + 'a>>;

/// See the module for how one is written.
pub trait Sink: Send + 'static {
    /// One connection's worth of work: until the inbox ends (`Ok`), or something is wrong.
    fn run<'a>(&'a mut self, inbox: &'a mut Inbox) -> Running<'a>;
}

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
