//! The outbox's thread: events and settlements in, stored in groups; stored events out to the sinks' receivers.

mod answers;
mod mending;
mod opening;
mod upkeep;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, never, select};

use super::event_store::{EventStore, Pending, Queued};
use super::route::Route;
use super::tables;
use super::{Loss, OutboxSettings, Shared};
use crate::event::EventKind;
use crate::outbox::delivery::{Delivery, DeliveryOutcome, DeliverySender, Health, Phase, States, Stored, WINDOW};
pub(super) use opening::opened;

/// Events stored in one transaction, at most.
const GROUP: usize = 512;

/// Settlements are written at the latest so long after the first …
const SETTLE_DELAY: Duration = Duration::from_millis(100);

/// … or when there are so many.
const SETTLE_GROUP: usize = 512;

/// How often limits, numbers and other writers are looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Between two tries to store what could not be stored.
const RETRY: Duration = Duration::from_secs(1);

/// At the end, sinks that are up have so long to get what is stored …
const FLUSH: Duration = Duration::from_millis(2500);

/// … and then all of them so long to say goodbye; a little longer than their runner waits.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(1700);

/// One sink.
struct Line {
    sender: DeliverySender,
    /// Positions up to here have been handed on, or were not pending when they were looked at.
    loaded: u64,
    /// There may be pending positions above `loaded`.
    behind: bool,
    /// Handed on and not settled.
    held: usize,
    /// Handed on, and settled at most in memory.
    known: BTreeSet<u64>,
    /// It takes nothing any more.
    ended: bool,
    pending: Pending,
    oldest: Option<u64>,
}

/// See the module.
pub(super) struct Worker {
    store: EventStore,
    settings: OutboxSettings,
    routes: Vec<Route>,
    lines: Vec<Line>,
    states: States,
    shared: Arc<Shared>,
    queue: Receiver<Queued>,
    wake: Receiver<()>,
    /// Taken from the queue, not stored yet.
    batch: Vec<Queued>,
    settled: Vec<(usize, u64, DeliveryOutcome)>,
    settled_since: Option<Instant>,
    /// After a failure: not before then.
    retry_at: Option<Instant>,
    /// A damaged file is replaced, or what is left of one carried over, not before then.
    mend_at: Option<Instant>,
    /// The log has been told that there is something left to be carried over.
    told_of_salvage: bool,
    looked: Instant,
    /// When states were last thrown away.
    swept: Option<Instant>,
    foreign: Option<i64>,
    /// Set: the disk that a test has filled has room again.
    #[cfg(test)]
    room: Arc<std::sync::atomic::AtomicBool>,
}

/// Counts events that nobody will ever get.
fn lose_all(queued: impl Iterator<Item = Queued>, shared: &Shared) {
    for Queued { to, .. } in queued {
        to.iter().for_each(|sink| shared.lose(Some(usize::from(*sink)), Loss::Storage, 1));
    }
}

impl Worker {
    #[expect(clippy::too_many_arguments, reason = "its one caller hands over everything it has made")]
    pub(super) fn new(
        store: EventStore,
        settings: OutboxSettings,
        routes: Vec<Route>,
        senders: Vec<DeliverySender>,
        states: States,
        shared: Arc<Shared>,
        queue: Receiver<Queued>,
        wake: Receiver<()>,
    ) -> Self {
        let line = |sender| Line {
            sender,
            loaded: 0,
            behind: true,
            held: 0,
            known: BTreeSet::new(),
            ended: false,
            pending: Pending::default(),
            oldest: None,
        };
        let lines = senders.into_iter().map(line).collect();
        let (batch, settled) = (Vec::new(), Vec::new());
        let looked = Instant::now();
        Self {
            store,
            settings,
            routes,
            lines,
            states,
            shared,
            queue,
            wake,
            batch,
            settled,
            settled_since: None,
            retry_at: None,
            mend_at: None,
            told_of_salvage: false,
            looked,
            swept: None,
            foreign: None,
            #[cfg(test)]
            room: Arc::default(),
        }
    }

    /// Until the queue is closed, and then to the end.
    pub(super) fn run(mut self) {
        self.begin();
        let shut = never();
        loop {
            let full = self.batch.len() >= GROUP;
            // A queue that nobody looks into does not tell that it is closed.
            if full && self.shared.closing.load(Ordering::Relaxed) {
                break;
            }
            let queue = if full { &shut } else { &self.queue };
            select! {
                recv(queue) -> queued => match queued {
                    Ok(queued) => {
                        self.batch.push(queued);
                        let room = GROUP - self.batch.len();
                        self.batch.extend(self.queue.try_iter().take(room));
                    }
                    Err(_) => break,
                },
                recv(self.wake) -> woken => self.woken(woken.is_err()),
                default(self.time_to_next_task()) => {}
            }
            self.turn(Instant::now());
        }
        self.end();
    }

    /// One round: take what was settled, store, hand on, and now and then look around.
    fn turn(&mut self, now: Instant) {
        self.collect(now);
        let settle = self.settled.len() >= SETTLE_GROUP
            || self.settled_since.is_some_and(|since| now.duration_since(since) >= SETTLE_DELAY);
        if (!self.batch.is_empty() || settle) && self.retry_at.is_none_or(|at| at <= now) {
            self.commit(now);
        }
        self.fill();
        self.answer();
        if now.duration_since(self.looked) >= POLL_INTERVAL {
            self.looked = now;
            self.run_upkeep();
        }
    }

    /// Without a sink there is nobody to wake us: a channel that is closed is always ready, and not to be waited for again.
    fn woken(&mut self, closed: bool) {
        if closed {
            self.wake = never();
        }
    }

    /// How long nothing has to be done.
    fn time_to_next_task(&self) -> Duration {
        let now = Instant::now();
        let mut due = self.looked + POLL_INTERVAL;
        if let Some(since) = self.settled_since {
            due = due.min(since + SETTLE_DELAY);
        }
        if !self.batch.is_empty() {
            due = due.min(now);
        }
        // Nothing can be stored before that.
        if let Some(at) = self.retry_at {
            due = due.max(at.min(self.looked + POLL_INTERVAL));
        }
        due.saturating_duration_since(now).max(Duration::from_millis(1))
    }

    /// What was left by the last run: states, tags that nobody ended, sinks that have gone.
    fn begin(&mut self) {
        let states = self.store.states().unwrap_or_else(|error| {
            tracing::error!(%error, "the states of the labels cannot be read out of the outbox");
            Vec::new()
        });
        self.end_open_tags(&states);
        for (sink, events) in self.store.orphans().unwrap_or_default() {
            tracing::warn!(
                sink,
                events,
                "events wait for a sink that the configuration does not have any more; they are kept until they are too old"
            );
        }
        self.recount();
        for (line, route) in self.lines.iter().zip(&self.routes) {
            if line.pending.events > 0 {
                tracing::info!(sink = route.name, events = line.pending.events, "events of an earlier run wait");
            }
        }
        self.foreign = self.store.foreign_version().ok();
        self.tell_salvage();
        self.turn(Instant::now());
        self.run_upkeep();
    }

    /// Tags that are open in `states`, out of the file, and that this life knows nothing of: nobody else ends them.
    fn end_open_tags(&mut self, states: &[Arc<Stored>]) {
        let mut router = self.shared.router.lock();
        let mut ends = Vec::new();
        for stored in states {
            if self.states.learn(stored) && stored.event.kind != EventKind::End {
                let event = Arc::new(stored.event.interrupted());
                event.count();
                // Programs that follow what happens learn of it as of any other.
                self.shared.recent.remember(Arc::clone(&event));
                let to = router.route(&event, Instant::now()).to;
                ends.push(Queued { event, to });
            }
        }
        drop(router);
        if !ends.is_empty() {
            tracing::warn!(tags = ends.len(), "tags were open when the daemon was killed, they end now");
        }
        // Before what has happened since.
        self.batch.splice(0..0, ends);
    }

    fn recount(&mut self) {
        match self.store.count_pending() {
            Ok(counts) => self.lines.iter_mut().zip(counts).for_each(|(line, count)| line.pending = count),
            Err(error) => self.trouble(&error),
        }
    }

    /// Takes what sinks have settled, and notices those that have ended.
    fn collect(&mut self, now: Instant) {
        // Nothing can be written down: the sinks wait as well, once their windows are full.
        if self.retry_at.is_some() && self.settled.len() >= 4 * WINDOW {
            return;
        }
        for index in 0..self.lines.len() {
            let line = &mut self.lines[index];
            // Asked first: all that it has settled is taken then.
            let gone = line.sender.is_gone();
            for (position, outcome) in line.sender.settled() {
                if !matches!(outcome, DeliveryOutcome::Failed { .. }) {
                    line.held = line.held.saturating_sub(1);
                }
                self.settled.push((index, position, outcome));
            }
            if gone && !line.ended {
                line.ended = true;
                if let Health::Disabled { why } = line.sender.health() {
                    self.disable(index, &why, now);
                }
            }
        }
        if !self.settled.is_empty() {
            self.settled_since.get_or_insert(now);
        }
        let gone = |line: &Line| line.ended && matches!(line.sender.health(), Health::Gone { .. });
        if !self.lines.is_empty() && self.lines.iter().all(gone) {
            self.shared.all_gone.store(true, Ordering::Relaxed);
        }
    }

    /// The other side wants nothing any more.
    fn disable(&mut self, index: usize, why: &str, now: Instant) {
        self.shared.disabled[index].store(true, Ordering::Relaxed);
        // What it had taken before is delivered, and no dead letter.
        self.commit(now);
        match self.store.bury(index, why) {
            Ok(events) => {
                let name = self.routes[index].name.clone();
                metrics::counter!("vtagd_events_dead_total", "sink" => name).increment(events);
                self.recount();
            }
            Err(error) => self.trouble(&error),
        }
    }

    #[cfg(test)]
    pub(super) fn room_for_tests(&self) -> Arc<std::sync::atomic::AtomicBool> {
        Arc::clone(&self.room)
    }

    /// Stores the batch and what was settled; on failure both are kept and tried again.
    fn commit(&mut self, now: Instant) {
        #[cfg(test)]
        if self.room.load(Ordering::Relaxed) {
            self.store.limit_pages(None);
        }
        let began = Instant::now();
        let (appended, changes) = match self.store.commit(&self.batch, &self.settled) {
            Ok(done) => done,
            Err(error) => {
                self.retry_at = Some(now + RETRY);
                self.trouble(&error);
                return;
            }
        };
        metrics::histogram!("vtagd_outbox_commit_seconds").record(began.elapsed().as_secs_f64());
        self.retry_at = None;
        if !self.shared.storing.swap(true, Ordering::Relaxed) {
            tracing::info!("events are stored again");
            self.publish(None);
        }
        self.batch.clear();
        self.settled_since = None;
        for (index, position, outcome) in self.settled.drain(..) {
            if !matches!(outcome, DeliveryOutcome::Failed { .. }) {
                self.lines[index].known.remove(&position);
            }
        }
        for change in changes {
            let (line, name) = (&mut self.lines[change.sink], self.routes[change.sink].name.clone());
            line.pending.events = line.pending.events.saturating_sub(1);
            line.pending.bytes = line.pending.bytes.saturating_sub(change.bytes);
            if change.dead {
                line.pending.dead += 1;
                metrics::counter!("vtagd_events_dead_total", "sink" => name).increment(1);
            } else {
                metrics::counter!("vtagd_events_delivered_total", "sink" => name).increment(1);
            }
        }
        for (stored, deliveries) in appended {
            self.states.note(&stored);
            for (sink, position) in deliveries {
                self.lines[usize::from(sink)].hand_on(position, &stored);
            }
        }
    }

    /// Hands on what is stored and was not handed on, as far as there is room.
    fn fill(&mut self) {
        for index in 0..self.lines.len() {
            let line = &mut self.lines[index];
            let room = WINDOW - line.held;
            // A few at a time would be a query each.
            if line.ended || !line.behind || room < WINDOW / 4 {
                continue;
            }
            let known = &line.known;
            let found = match self.store.pending(index, line.loaded, room, |position| known.contains(&position)) {
                Ok(found) => found,
                Err(error) => return self.trouble(&error),
            };
            line.behind = found.len() == room;
            for delivery in found {
                match delivery {
                    Ok(delivery) => {
                        line.loaded = delivery.position;
                        line.offer(delivery);
                    }
                    Err((position, why)) => {
                        line.loaded = position;
                        self.settled.push((index, position, DeliveryOutcome::Dead { why }));
                        self.settled_since.get_or_insert_with(Instant::now);
                    }
                }
            }
        }
    }

    /// Something could not be stored or read: it is told once, made visible, and mended where that is possible.
    fn trouble(&mut self, error: &rusqlite::Error) {
        metrics::counter!("vtagd_outbox_errors_total").increment(1);
        if tables::is_damage(error) || self.store.is_lost() {
            return self.replace_file(error);
        }
        if tables::is_full(error) {
            // What everybody has had makes room for what nobody has.
            let _ = self.store.forget_history();
        }
        if self.shared.storing.swap(false, Ordering::Relaxed) {
            tracing::error!(%error, "events cannot be stored, trying again every second; tagging goes on, events wait in memory while there is room");
        }
        self.publish(Some(error.to_string()));
    }

    /// Stores what is left, lets the sinks finish, and closes the file.
    fn end(mut self) {
        let in_memory = self.settings.path.is_none();
        self.lines.iter().for_each(|line| line.sender.advance(Phase::Draining));
        let flushed = |line: &Line| {
            line.ended || line.pending.events == 0 || !in_memory && matches!(line.sender.health(), Health::Down { .. })
        };
        self.until(Instant::now() + FLUSH, |worker| worker.batch.is_empty() && worker.lines.iter().all(flushed));
        self.lines.iter().for_each(|line| line.sender.advance(Phase::Closed));
        self.until(Instant::now() + DRAIN_TIMEOUT, |worker| worker.lines.iter().all(|line| line.sender.is_gone()));
        // What a sink has settled last, before it went.
        self.collect(Instant::now());
        if !self.batch.is_empty() || !self.settled.is_empty() {
            self.commit(Instant::now());
        }
        lose_all(std::mem::take(&mut self.batch).into_iter().chain(self.queue.try_iter()), &self.shared);
        for (index, (line, route)) in self.lines.iter().zip(&self.routes).enumerate() {
            let (sink, events) = (&route.name, line.pending.events);
            match events {
                0 => {}
                _ if in_memory => {
                    tracing::error!(sink, events, "the daemon ends before the sink has these events, they are lost");
                    self.shared.lose(Some(index), Loss::Shutdown, events);
                }
                _ => tracing::warn!(
                    sink,
                    events,
                    "the daemon ends before the sink has these events, they wait in the outbox"
                ),
            }
        }
        self.store.close();
    }

    /// Goes on until `done` or `deadline`.
    fn until(&mut self, deadline: Instant, done: impl Fn(&Self) -> bool) {
        loop {
            let now = Instant::now();
            self.collect(now);
            let room = GROUP.saturating_sub(self.batch.len());
            self.batch.extend(self.queue.try_iter().take(room));
            if (!self.batch.is_empty() || !self.settled.is_empty()) && self.retry_at.is_none_or(|at| at <= now) {
                self.commit(now);
            }
            self.fill();
            self.answer();
            if done(self) || now >= deadline {
                return;
            }
            select! {
                recv(self.wake) -> woken => self.woken(woken.is_err()),
                default(Duration::from_millis(20)) => {}
            }
        }
    }
}

impl Line {
    /// A delivery that has just been stored.
    fn hand_on(&mut self, position: u64, stored: &Arc<Stored>) {
        self.pending.events += 1;
        self.pending.bytes += stored.body.len() as u64;
        if self.behind || self.ended || self.held >= WINDOW {
            self.behind = true;
            return;
        }
        self.loaded = position;
        self.offer(Delivery { position, attempts: 0, stored: Arc::clone(stored) });
    }

    fn offer(&mut self, delivery: Delivery) {
        let position = delivery.position;
        // It comes back only from a sink that has ended, which is noticed at the next round.
        if self.sender.offer(delivery).is_ok() {
            self.known.insert(position);
            self.held += 1;
        }
    }
}
