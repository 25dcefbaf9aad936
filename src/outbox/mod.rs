//! Outbox: events are stored here before any sink sees them, and stay until each sink has them. SQLite; also the history.
//!
//! [`Outbox::send`] runs on the thread that made the event: it asks the filters and limits ([`route`]), puts the event into a bounded
//! queue and returns; it never waits. The outbox's thread ([`outbox_thread`]) takes what is in the queue, stores it in one transaction
//! ([`event_store`], group commit) with one delivery for each sink, and only then hands it to the sinks' receivers
//! ([`delivery`](crate::outbox::delivery)). What a sink settles is written with the next group, at most 100 ms later; a crash in between means
//! that the sink gets the event again, with the same id.
//!
//! Full: when the disk takes nothing, events wait in the queue; when that is full too, they are lost and counted, and tagging goes on.
//! When the file reaches `max_size`, or an event `max_age`, the oldest goes: first what every sink has, then what one still waits for,
//! which is counted and logged. Closed: see [`Outbox::close`]. Without a path everything lies in memory and ends with the daemon.
//!
//! Nothing here looks at the wall clock (but for the name of a damaged file): order is a number, ages are the machine's uptime.

mod age;
mod damage;
pub mod delivery;
pub mod event_pages;
mod event_store;
pub mod history_reader;
pub mod identity;
pub mod levels;
mod outbox_thread;
mod recent_events;
mod retained;
pub mod route;
mod tables;
mod unheard;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use parking_lot::{Mutex, RwLock};
use serde::Serialize;

use crate::event::Event;
use crate::outbox::delivery::{DeliveryReceiver, Health, States};
pub use age::{Kernel, Uptime};
use event_pages::{EventPosition, PageSize};
use event_store::{EventStore, Queued};
use history_reader::{OutboxReader, Query};
use outbox_thread::Worker;
pub use recent_events::EventsPage;
use recent_events::RecentEvents;
pub use recent_events::RecentSince;
use route::{Route, Routed, Router};
pub use tables::OutboxError;

/// Events that wait to be stored; about 10 MB of them, minutes of a disk that is full.
const QUEUE: usize = 8192;

/// `outbox` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxSettings {
    /// `None`: in memory only.
    pub path: Option<PathBuf>,
    /// In bytes, above zero.
    pub max_size: u64,
    /// In time that the machine is up.
    pub max_age: Duration,
}

/// Why an event did not reach a sink: the values of `reason` in `vtagd_events_dropped_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Events came faster than they could be stored.
    QueueFull,
    /// The disk took nothing for so long that the queue was full.
    Storage,
    MaxSize,
    MaxAge,
    RateLimit,
    /// The sink had said that it wants no more.
    Disabled,
    /// The daemon ended, and the outbox is in memory.
    Shutdown,
}

impl Loss {
    pub const ALL: [Self; 7] =
        [Self::QueueFull, Self::Storage, Self::MaxSize, Self::MaxAge, Self::RateLimit, Self::Disabled, Self::Shutdown];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Storage => "storage",
            Self::MaxSize => "max_size",
            Self::MaxAge => "max_age",
            Self::RateLimit => "rate_limit",
            Self::Disabled => "disabled",
            Self::Shutdown => "shutdown",
        }
    }
}

/// One sink, as the API shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SinkReport {
    pub name: String,
    #[serde(flatten)]
    pub health: Health,
    /// What is wrong although events arrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
    /// Events it still has to get.
    pub pending: u64,
    pub pending_bytes: u64,
    /// How long the oldest of them has waited, in seconds; null if none waits.
    pub oldest_pending_seconds: Option<f64>,
    /// Dead letters that are kept.
    pub dead: u64,
}

/// The outbox, as the API shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Null: in memory.
    pub path: Option<PathBuf>,
    /// Whether events can be stored; if not, why.
    pub storing: bool,
    pub error: Option<String>,
    pub bytes: u64,
    pub sinks: Vec<SinkReport>,
}

/// What the outbox's thread and everybody else look at.
struct Shared {
    names: Vec<String>,
    router: Mutex<Router>,
    /// By sink.
    disabled: Vec<AtomicBool>,
    storing: AtomicBool,
    lost: AtomicU64,
    all_gone: AtomicBool,
    closing: AtomicBool,
    ended: AtomicBool,
    report: Mutex<Report>,
    recent: RecentEvents,
}

impl Shared {
    /// Counts `events` that a sink will not get; `None`: of a sink that the configuration does not have, or of none.
    fn lose(&self, sink: Option<usize>, loss: Loss, events: u64) {
        let name = sink.and_then(|sink| self.names.get(sink)).map_or("outbox", String::as_str);
        metrics::counter!("vtagd_events_dropped_total", "sink" => name.to_owned(), "reason" => loss.as_str())
            .increment(events);
        // What was asked for is no loss.
        if !matches!(loss, Loss::RateLimit | Loss::Disabled) {
            self.lost.fetch_add(events, Ordering::Relaxed);
        }
    }
}

/// Says that the outbox's thread has ended, however it did.
struct Mark(Arc<Shared>);

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

/// Reads what the outbox last said of itself.
#[derive(Clone)]
pub struct Status(Arc<Shared>);

impl Status {
    pub fn report(&self) -> Report {
        self.0.report.lock().clone()
    }

    /// The latest events, newest first, whatever became of them.
    pub fn recent(&self) -> Vec<Arc<Event>> {
        self.0.recent.newest_first()
    }

    /// Those of them with a number from `from` on; numbers are good for this run only.
    pub fn recent_since(&self, from: u64) -> RecentSince {
        self.0.recent.since(from)
    }

    /// A page of all events that are stored, whatever became of them, on a connection of its own; of an outbox in memory, of the latest.
    /// Waits for the disk. What is stored and cannot be understood any more is left out.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn events(
        &self,
        query: &Query,
        before: Option<EventPosition>,
        size: PageSize,
    ) -> Result<EventsPage, OutboxError> {
        let Some(path) = self.0.report.lock().path.clone() else {
            return Ok(self.0.recent.page(query, before, size));
        };
        // Opened anew each time: a file that was found damaged has been replaced by another.
        let page = OutboxReader::open(&path)?.newest_first(query, before, size)?;
        let events = page.rows.iter().filter_map(|row| serde_json::from_str(&row.body).ok().map(Arc::new));
        Ok((events.collect(), page.next))
    }
}

/// The end that events go into.
pub struct Outbox {
    /// `None` once closed.
    queue: RwLock<Option<Sender<Queued>>>,
    shared: Arc<Shared>,
}

impl Outbox {
    /// Opens the outbox and starts its thread. Gives one receiver for each route, in order.
    ///
    /// # Errors
    /// When the file cannot be opened, or the system gives no thread.
    pub fn start(
        settings: OutboxSettings,
        routes: Vec<Route>,
        uptime: impl Uptime + Clone + 'static,
    ) -> Result<(Self, Vec<DeliveryReceiver>, JoinHandle<()>), OutboxError> {
        let store = match EventStore::open(settings.path.as_deref(), &routes, Box::new(uptime.clone())) {
            Ok(store) => Ok(store),
            // Tagging begins all the same; the thread goes on trying.
            Err(error @ OutboxError::Disk { .. }) => Err(error),
            Err(error) => return Err(error),
        };
        for route in &routes {
            let name = &route.name;
            // There from the start: a counter that first appears with 1 has not grown, as far as Prometheus can tell.
            for loss in Loss::ALL {
                metrics::counter!("vtagd_events_dropped_total", "sink" => name.clone(), "reason" => loss.as_str())
                    .absolute(0);
            }
            metrics::counter!("vtagd_events_delivered_total", "sink" => name.clone()).absolute(0);
            metrics::counter!("vtagd_events_retried_total", "sink" => name.clone()).absolute(0);
            metrics::counter!("vtagd_events_dead_total", "sink" => name.clone()).absolute(0);
            metrics::counter!("vtagd_sink_errors_total", "sink" => name.clone()).absolute(0);
            metrics::gauge!("vtagd_sink_up", "sink" => name.clone()).set(0.0);
        }
        let shared = Arc::new(Shared {
            names: routes.iter().map(|route| route.name.clone()).collect(),
            router: Mutex::new(Router::new(&routes, Instant::now())),
            disabled: routes.iter().map(|_| AtomicBool::new(false)).collect(),
            storing: AtomicBool::new(true),
            lost: AtomicU64::new(0),
            all_gone: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            report: Mutex::new(Report {
                path: settings.path.clone(),
                storing: true,
                sinks: routes.iter().map(|r| SinkReport { name: r.name.clone(), ..SinkReport::default() }).collect(),
                ..Report::default()
            }),
            recent: RecentEvents::load(settings.path.as_deref()),
        });
        let (queue, events) = bounded(QUEUE);
        let (wake, woken) = bounded(1);
        let states = States::default();
        let links = routes.iter().map(|route| delivery::link(&route.name, states.clone(), wake.clone()));
        let (senders, receivers): (Vec<_>, Vec<_>) = links.unzip();
        senders.iter().for_each(delivery::DeliverySender::keep_record);
        let mark = Mark(Arc::clone(&shared));
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("vtagd-outbox".to_owned())
            .spawn(move || {
                let _mark = mark;
                let open = || EventStore::open(settings.path.as_deref(), &routes, Box::new(uptime.clone()));
                let Some(store) = outbox_thread::opened(store, open, &theirs, &events) else { return };
                Worker::new(store, settings, routes, senders, states, theirs, events, woken).run();
            })
            .map_err(OutboxError::Thread)?;
        Ok((Self { queue: RwLock::new(Some(queue)), shared }, receivers, thread))
    }

    /// Takes an event in; never waits. Returns whether it is on its way to somebody: `false` if it was lost, or is over the limit of
    /// every sink that wants it; its cooldown should not begin then.
    pub fn send(&self, event: &Arc<Event>) -> bool {
        self.shared.recent.remember(Arc::clone(event));
        let Routed { mut to, over } = {
            let mut router = self.shared.router.lock();
            router.route(event, Instant::now())
        };
        over.iter().for_each(|sink| self.shared.lose(Some(usize::from(*sink)), Loss::RateLimit, 1));
        to.retain(|sink| {
            let sink = usize::from(*sink);
            let disabled = self.shared.disabled.get(sink).is_some_and(|disabled| disabled.load(Ordering::Relaxed));
            if disabled {
                self.shared.lose(Some(sink), Loss::Disabled, 1);
            }
            !disabled
        });
        let told = !to.is_empty() || over.is_empty();
        let queue = self.queue.read();
        let queued = Queued { event: Arc::clone(event), to };
        let refused = match &*queue {
            Some(queue) => queue.try_send(queued).err().map(|error| {
                let loss = if self.shared.storing.load(Ordering::Relaxed) { Loss::QueueFull } else { Loss::Storage };
                (error.into_inner(), loss)
            }),
            None => Some((queued, Loss::Shutdown)),
        };
        let Some((Queued { to, .. }, loss)) = refused else { return told };
        if to.is_empty() {
            self.shared.lose(None, loss, 1);
        }
        to.iter().for_each(|sink| self.shared.lose(Some(usize::from(*sink)), loss, 1));
        false
    }

    /// No event comes any more: what is queued is stored, sinks that are up get what they can take in a few seconds, the rest stays
    /// stored, and the thread ends. An outbox in memory counts the rest as lost.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.queue.write().take();
    }

    /// Whether events have no way out any more: every sink has given up for good, or the outbox's thread has died.
    pub fn is_dead(&self) -> bool {
        let died = self.shared.ended.load(Ordering::Relaxed) && !self.shared.closing.load(Ordering::Relaxed);
        died || self.shared.all_gone.load(Ordering::Relaxed)
    }

    /// Events that some sink will never get, those left out that its own limit kept back.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// For the API.
    pub fn status(&self) -> Status {
        Status(Arc::clone(&self.shared))
    }
}

#[cfg(test)]
mod tests;
