//! Delivery: what the outbox and a sink say to one another, and the bounded link between them.
//!
//! The outbox hands stored events to a sink's [`DeliveryReceiver`], oldest first, at most [`WINDOW`] that are not settled; the sink settles each
//! by its position: delivered, failed (it will try again), or dead. The outbox forgets a delivery only when it is settled. Both ends
//! may be held by any thread; neither ever waits for the other. Full: the outbox keeps the rest in its file and hands it on as
//! deliveries are settled. Closed: [`DeliveryReceiver::next`] gives `None`, whatever is left stays stored.
//!
//! [`DeliverySender`] is the outbox's end; tests of a sink hold it instead. What a sink leaves at the other side, beside events, is written down
//! through the same link ([`published_record`]).

pub mod published_record;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crossbeam_channel::Sender;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::event::Event;
use crate::platform::secret::scrub;
use published_record::Ask;

/// Deliveries that a sink may hold without having settled them; about 1 MB.
pub const WINDOW: usize = 1024;

/// An event as it lies in the outbox.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Grows with every event that was stored; orders all events.
    pub seq: u64,
    pub event: Arc<Event>,
    /// The CloudEvents JSON of `event` on one line, the same bytes for every sink and every attempt.
    pub body: Arc<str>,
}

/// One event on its way to one sink.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its place in the sink's order, and the name it is settled by. A replayed event has a new one.
    pub position: u64,
    /// Attempts that have failed, those of earlier runs of the daemon included.
    pub attempts: u32,
    pub stored: Arc<Stored>,
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The other side has it; the outbox may forget it.
    Delivered,
    /// An attempt failed. The sink keeps the delivery and tries again; only the attempt is written down.
    Failed { attempts: u32, why: String },
    /// The other side will never take it: a dead letter, listed and replayed by `vtagd events`.
    Dead { why: String },
}

/// How a sink is, as metrics and the API show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Health {
    /// Not tried yet.
    #[default]
    Starting,
    Up,
    /// It is tried again.
    Down {
        why: String,
    },
    /// The other side does not want events any more. Until the next start of the daemon.
    Disabled {
        why: String,
    },
    /// It has ended and will not come back.
    Gone {
        why: String,
    },
}

/// Whether the tag of a (stream, region, set, label) is open, after the latest event that was stored.
#[derive(Clone, Debug, PartialEq)]
pub struct TagState {
    pub stream: String,
    pub region: Option<String>,
    pub set: String,
    pub label: String,
    pub open: bool,
    /// The latest event of this label.
    pub last: Arc<Stored>,
}

impl PartialEq for Stored {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq && self.body == other.body
    }
}

/// All labels that have had an event, by (stream, region, set, label). Written by the outbox after it has stored an event, read by sinks.
/// Bounded by the labels that the configuration has had while the events are kept.
#[derive(Clone, Debug, Default)]
pub struct States(Arc<RwLock<StateMap>>);

type StateMap = BTreeMap<StateKey, Arc<Stored>>;
type StateKey = (String, Option<String>, String, String);

impl States {
    /// `stored` is the latest event of its label.
    pub fn note(&self, stored: &Arc<Stored>) {
        self.0.write().insert(key(stored), Arc::clone(stored));
    }

    /// `stored` is the latest event of its label, unless a later one is known. Whether that was new.
    pub fn learn(&self, stored: &Arc<Stored>) -> bool {
        match self.0.write().entry(key(stored)) {
            Entry::Vacant(free) => {
                free.insert(Arc::clone(stored));
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// Every state, in the order of stream, region, set and label.
    pub fn all(&self) -> Vec<TagState> {
        let states = self.0.read();
        let state = |((stream, region, set, label), last): (&StateKey, &Arc<Stored>)| TagState {
            stream: stream.clone(),
            region: region.clone(),
            set: set.clone(),
            label: label.clone(),
            open: last.event.kind != crate::event::EventKind::End,
            last: Arc::clone(last),
        };
        states.iter().map(state).collect()
    }
}

fn key(stored: &Stored) -> StateKey {
    let data = &stored.event.data;
    (data.stream.clone(), data.region.clone(), data.set.clone(), data.label.clone())
}

/// How far the end of the daemon has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    /// No event will come any more: what is stored is still delivered.
    Draining,
    /// Time is up.
    Closed,
}

/// What both ends look at.
struct DeliveryState {
    /// Settled by the sink, not taken by the outbox yet. At most one entry a delivery.
    settled: Mutex<BTreeMap<u64, DeliveryOutcome>>,
    health: Mutex<Health>,
    /// What is wrong beside deliveries, for people.
    notice: Mutex<Option<String>>,
    /// Whether somebody at the other end writes down what a sink asks for, and what it asks for.
    asks: Mutex<(bool, Vec<Ask>)>,
    /// Tells the outbox that there is something to look at; full is fine.
    wake: Sender<()>,
}

impl DeliveryState {
    fn settle(&self, position: u64, outcome: DeliveryOutcome) {
        self.settled.lock().insert(position, outcome);
        let _ = self.wake.try_send(());
    }
}

/// A link between the outbox and the sink called `name`. `wake` gets a token whenever a delivery was settled.
pub fn link(name: &str, states: States, wake: Sender<()>) -> (DeliverySender, DeliveryReceiver) {
    let (events, fresh) = mpsc::channel(WINDOW);
    let (phase, phases) = watch::channel(Phase::Running);
    let (settled, health, notice, asks) = Default::default();
    let state = Arc::new(DeliveryState { settled, health, notice, asks, wake });
    let name: Arc<str> = name.into();
    let sender = DeliverySender { events, phase, state: Arc::clone(&state) };
    (
        sender,
        DeliveryReceiver {
            name,
            fresh,
            phases,
            state,
            states,
            held: BTreeMap::new(),
            again: BTreeSet::new(),
            delivered: 0,
        },
    )
}

/// The outbox's end of a link.
pub struct DeliverySender {
    events: mpsc::Sender<Delivery>,
    phase: watch::Sender<Phase>,
    state: Arc<DeliveryState>,
}

impl DeliverySender {
    /// Hands `delivery` on. Never waits.
    ///
    /// # Errors
    /// It comes back if the sink has [`WINDOW`] already, or is gone.
    pub fn offer(&self, delivery: Delivery) -> Result<(), Delivery> {
        self.events.try_send(delivery).map_err(mpsc::error::TrySendError::into_inner)
    }

    /// What the sink has settled since the last call, in the order of positions.
    pub fn settled(&self) -> BTreeMap<u64, DeliveryOutcome> {
        std::mem::take(&mut *self.state.settled.lock())
    }

    pub fn health(&self) -> Health {
        self.state.health.lock().clone()
    }

    /// What is wrong beside deliveries, for people.
    pub fn notice(&self) -> Option<String> {
        self.state.notice.lock().clone()
    }

    /// Goes on to `phase`; there is no way back.
    pub fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let further = phase > *now;
            *now = phase.max(*now);
            further
        });
    }

    /// Whether the sink has dropped its receiver.
    pub fn is_gone(&self) -> bool {
        self.events.is_closed()
    }
}

/// A sink's end of a link: its deliveries in order, and where it settles them.
pub struct DeliveryReceiver {
    name: Arc<str>,
    fresh: mpsc::Receiver<Delivery>,
    phases: watch::Receiver<Phase>,
    state: Arc<DeliveryState>,
    states: States,
    /// Handed out and not settled; at most [`WINDOW`].
    held: BTreeMap<u64, Delivery>,
    /// Of those, the ones to hand out again.
    again: BTreeSet<u64>,
    /// Since the last rewind.
    delivered: u64,
}

/// How taking a delivery begins.
enum Begun {
    /// Time is up.
    Closed,
    /// One that was handed out before comes first.
    Again(Delivery),
    /// A new one is next, if there is one.
    Fresh,
}

impl DeliveryReceiver {
    /// Name of the sink in logs and metrics.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The next delivery, oldest first; waits until there is one. `None`: the daemon ends, return. May be cancelled (`select!`)
    /// without losing anything.
    pub async fn next(&mut self) -> Option<Delivery> {
        match self.begin() {
            Begun::Closed => return None,
            Begun::Again(delivery) => return Some(delivery),
            Begun::Fresh => {}
        }
        let delivery = tokio::select! {
            biased;
            _ = self.phases.wait_for(|phase| *phase == Phase::Closed) => None,
            delivery = self.fresh.recv() => delivery,
        }?;
        Some(self.hold(delivery))
    }

    /// The next delivery if there is one now.
    pub fn try_next(&mut self) -> Option<Delivery> {
        match self.begin() {
            Begun::Closed => None,
            Begun::Again(delivery) => Some(delivery),
            Begun::Fresh => self.fresh.try_recv().ok().map(|delivery| self.hold(delivery)),
        }
    }

    /// What comes before anything new.
    fn begin(&mut self) -> Begun {
        if self.is_closed() {
            return Begun::Closed;
        }
        let again = self.again.pop_first().and_then(|position| self.held.get(&position).cloned());
        again.map_or(Begun::Fresh, Begun::Again)
    }

    fn hold(&mut self, delivery: Delivery) -> Delivery {
        self.held.insert(delivery.position, delivery.clone());
        delivery
    }

    /// The other side has it: the outbox forgets it. Settling what is not held does nothing.
    pub fn delivered(&mut self, position: u64) {
        if self.held.remove(&position).is_some() {
            self.again.remove(&position);
            self.delivered += 1;
            self.state.settle(position, DeliveryOutcome::Delivered);
        }
    }

    /// An attempt failed; the sink still holds it and tries again. Returns how many attempts have failed by now.
    pub fn failed(&mut self, position: u64, why: &str) -> u32 {
        let Some(delivery) = self.held.get_mut(&position) else { return 0 };
        delivery.attempts = delivery.attempts.saturating_add(1);
        let attempts = delivery.attempts;
        metrics::counter!("vtagd_events_retried_total", "sink" => self.name.to_string()).increment(1);
        self.state.settle(position, DeliveryOutcome::Failed { attempts, why: scrub(why).into_owned() });
        attempts
    }

    /// The other side will never take it: it becomes a dead letter.
    pub fn dead(&mut self, position: u64, why: &str) {
        if self.held.remove(&position).is_some() {
            self.again.remove(&position);
            self.state.settle(position, DeliveryOutcome::Dead { why: scrub(why).into_owned() });
        }
    }

    /// Everything that is not settled is handed out again, in order, before anything new: after a lost connection.
    pub fn redeliver_unacknowledged(&mut self) {
        self.again = self.held.keys().copied().collect();
        self.delivered = 0;
    }

    /// Whether anything was delivered since the last rewind: the other side works.
    pub fn has_delivered(&self) -> bool {
        self.delivered > 0
    }

    /// Deliveries that were handed out and are not settled.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Events arrive at the other side. Call it when a connection stands or a request has succeeded; calling it again is cheap.
    pub fn up(&self) {
        self.set_health(Health::Up);
    }

    /// Events do not arrive; they are tried again.
    pub fn down(&self, why: &str) {
        metrics::counter!("vtagd_sink_errors_total", "sink" => self.name.to_string()).increment(1);
        self.set_health(Health::Down { why: why.to_owned() });
    }

    /// Writes `health` down, and tells the log where it differs. What the other side says may repeat what it was told: no credential of
    /// that gets further than here.
    pub fn set_health(&self, mut health: Health) {
        if let Health::Down { why } | Health::Disabled { why } | Health::Gone { why } = &mut health {
            *why = scrub(why).into_owned();
        }
        let mut now = self.state.health.lock();
        if *now == health {
            return;
        }
        let sink = &*self.name;
        metrics::gauge!("vtagd_sink_up", "sink" => sink.to_owned()).set(f64::from(u8::from(health == Health::Up)));
        match (&*now, &health) {
            (Health::Down { .. }, Health::Up) => tracing::info!(sink, "delivers again"),
            (_, Health::Up) => tracing::info!(sink, "delivers"),
            (_, Health::Down { why }) => tracing::warn!(sink, why, "cannot deliver, trying again; its events wait"),
            (_, Health::Disabled { why }) => {
                tracing::error!(sink, why, "disabled until the next start; its events become dead letters");
            }
            (_, Health::Gone { why }) => tracing::error!(sink, why, "gives up"),
            (_, Health::Starting) => {}
        }
        *now = health;
        // The outbox waits at shutdown for sinks that are up.
        let _ = self.state.wake.try_send(());
    }

    pub fn health(&self) -> Health {
        self.state.health.lock().clone()
    }

    /// Says what is wrong although events arrive (`None`: nothing any more). The log is told where it differs.
    pub fn set_notice(&self, notice: Option<String>) {
        let notice = notice.map(|notice| scrub(&notice).into_owned());
        let mut now = self.state.notice.lock();
        if *now == notice {
            return;
        }
        let sink = &*self.name;
        match &notice {
            Some(notice) => tracing::warn!(sink, "{notice}"),
            None => tracing::info!(sink, "that is no longer so: {}", now.as_deref().unwrap_or_default()),
        }
        *now = notice;
        let _ = self.state.wake.try_send(());
    }

    /// Whether each label's tag is open, after the latest event that was stored: that may be one that this sink has not had yet
    /// (`last.seq`), or that its filters keep from it.
    pub fn states(&self) -> Vec<TagState> {
        self.states.all()
    }

    /// Whether time is up.
    pub fn is_closed(&self) -> bool {
        *self.phases.borrow() == Phase::Closed
    }

    /// Waits until time is up: for `select!` beside a sink that holds the receiver.
    pub fn closed(&self) -> impl Future<Output = ()> + use<> {
        let mut phases = self.phases.clone();
        async move {
            // An error is an outbox that has gone.
            let _ = phases.wait_for(|phase| *phase == Phase::Closed).await;
        }
    }
}

/// Deliveries of one tag share it; order is kept within it.
pub type OrderingKey = (String, String);

impl Stored {
    /// (stream, label): events of one key must arrive in order.
    pub fn ordering_key(&self) -> OrderingKey {
        (self.event.data.stream.clone(), self.event.data.label.clone())
    }

    /// CloudEvents `id`, the same on every attempt.
    pub fn id(&self) -> Uuid {
        self.event.id
    }
}

#[cfg(test)]
pub mod tests;
