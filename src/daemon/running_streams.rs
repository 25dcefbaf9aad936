//! The daemon's streams: who is there, who is on the way out, and their emitters.
//!
//! Lives on the main thread. Streams join and leave through the pipeline's [`Intake`]; a stream that leaves is kept until its last
//! frame has been scored, so that its open tags end after everything they are made of. One that is to join under the same name waits for
//! that, [`DRAIN_TIMEOUT`] at most: whoever hears of a tag's start has heard of the end of the one before.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::{Settings, StreamSettings, thresholds};
use crate::event::{Emitter, EndReason, LabelRules, ModelRef};
use crate::pipeline::intake::{Intake, Member, StreamPart};
use crate::pipeline::{EventRoute, Threads, scores_to_events};
use crate::sample::Interval;
use crate::score::Scorer;
use crate::source::Ended;
use crate::stream::StreamId;
use crate::stream::accounting::FrameAccounting;
use crate::stream::status::{StreamState, StreamStatus};

/// Samples further apart than this, or than ten intervals, do not continue one another: the camera was away.
const GAP: Duration = Duration::from_secs(30);

/// So long a stream that leaves may hold up the next of its name; then what is still under way of it is dropped. Longer than a camera's
/// pipeline has to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the system gives no thread, it is asked again so late.
const REST: Duration = Duration::from_secs(5);

fn gap(stream: &StreamSettings) -> Duration {
    match stream.interval {
        Interval::Every(interval) => GAP.max(interval * 10),
        // Ten times the longest would take a camera that was away for minutes for one that was there.
        Interval::Auto => GAP.max(Interval::Auto.longest() * 2),
    }
}

/// A stream that has joined the pipeline, with the emitter that its scores feed.
struct RunningStream {
    id: StreamId,
    member: Member,
    emitter: Arc<Mutex<Emitter>>,
    /// Why its tags end when it has drained; set once it is on the way out, by itself or because it was told to.
    leaving: Option<EndReason>,
    /// When the configuration has let it go.
    removed: Option<Instant>,
    /// No event of it can come any more.
    silent: bool,
    /// Its source has said that it has ended.
    ended: bool,
}

impl RunningStream {
    fn close(&self, reason: EndReason, events: &EventRoute) {
        let mut emitter = self.emitter.lock();
        emitter.close(reason, &mut |event| events.send(event, None));
    }
}

/// See the module.
pub struct Streams {
    /// `None` once nobody may join any more.
    intake: Option<Intake>,
    events: Arc<EventRoute>,
    model: ModelRef,
    watched: Vec<RunningStream>,
    /// Streams that join once another of their name has left; listed meanwhile.
    waiting: Vec<(Arc<StreamStatus>, Arc<FrameAccounting>)>,
    /// One of them could not be started: when it is tried again. The log has been told.
    rest: Option<Instant>,
    /// Streams that are switched off; listed, not connected to.
    disabled: Vec<(Arc<StreamStatus>, Arc<FrameAccounting>)>,
    /// Streams that have ended by themselves: still listed, and summed up at the end.
    ended: Vec<(Arc<StreamStatus>, Arc<FrameAccounting>)>,
    /// Something failed for good.
    failed: bool,
}

impl Streams {
    /// An empty fleet around a running pipeline.
    pub fn new(mut intake: Intake, events: Arc<EventRoute>, model: ModelRef) -> Self {
        if events.gallery.is_some() {
            intake.keep_pictures();
        }
        let (watched, waiting, disabled, ended) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { intake: Some(intake), events, model, watched, waiting, rest: None, disabled, ended, failed: false }
    }

    /// A stream joins, or is listed as switched off, or has to [wait](Self::join_waiting). `scorers` are those of all label sets, empty
    /// without a model.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn add(&mut self, settings: &Settings, stream: &StreamSettings, scorers: &[Arc<Scorer>]) -> io::Result<()> {
        let id = &stream.source.id;
        if !stream.enabled {
            let status = Arc::new(StreamStatus::new(Arc::clone(id)));
            status.set(StreamState::Disabled);
            self.disabled.push((status, Arc::new(FrameAccounting::default())));
            return Ok(());
        }
        if self.is_held_up(id) {
            self.waiting.push((Arc::new(StreamStatus::new(Arc::clone(id))), Arc::new(FrameAccounting::default())));
            return Ok(());
        }
        let Some(intake) = &mut self.intake else { return Ok(()) };
        let gap = gap(stream);
        let emitter =
            Emitter::new(&settings.instance, Arc::clone(id), self.model.clone(), rules(settings, stream), gap);
        let emitter = Arc::new(Mutex::new(emitter));
        let route = scores_to_events(scorers_of(stream, scorers), Arc::clone(&emitter), Arc::clone(&self.events));
        let StreamSettings { source, interval, unchanged, view, .. } = stream.clone();
        let part = StreamPart { source, interval, unchanged, view, route };
        let member = intake.join(part)?;
        let id = Arc::clone(id);
        self.watched.push(RunningStream {
            id,
            member,
            emitter,
            leaving: None,
            removed: None,
            silent: false,
            ended: false,
        });
        Ok(())
    }

    /// Whether one of this name may still tell something.
    fn is_held_up(&self, id: &str) -> bool {
        self.watched.iter().any(|watched| *watched.id == *id && !watched.silent)
    }

    /// Streams join that have waited for another to leave. Returns whether one has. One that the system gives no thread goes on waiting.
    pub fn join_waiting(&mut self, settings: &Settings, scorers: &[Arc<Scorer>]) -> bool {
        let now = Instant::now();
        if self.rest.is_some_and(|until| now < until) {
            return false;
        }
        let ready: Vec<StreamId> =
            self.waiting.iter().map(|(status, _)| Arc::clone(status.id())).filter(|id| !self.is_held_up(id)).collect();
        let mut refused = None;
        for id in &ready {
            let before: Vec<_> = self.waiting.extract_if(.., |(status, _)| status.id() == id).collect();
            let Some(stream) = settings.streams.iter().find(|stream| stream.source.id == *id) else { continue };
            if let Err(error) = self.add(settings, stream, scorers) {
                if self.rest.is_none() && refused.is_none() {
                    tracing::error!(stream = %id, %error, "the stream cannot be started, it is tried again");
                }
                self.waiting.extend(before);
                refused = Some(now + REST);
            }
        }
        // Until none is refused the log has been told.
        if !ready.is_empty() {
            self.rest = refused;
        }
        ready.iter().any(|id| self.waiting.iter().all(|(status, _)| status.id() != id))
    }

    /// A stream is to leave: its source ends, what was taken is finished, its tags end.
    pub fn remove(&mut self, id: &str) {
        self.disabled.retain(|(status, _)| **status.id() != *id);
        self.waiting.retain(|(status, _)| **status.id() != *id);
        for (status, accounting) in self.ended.extract_if(.., |(status, _)| **status.id() == *id) {
            self.failed |= !log_totals(&status, &accounting);
        }
        for watched in self.watched.iter_mut().filter(|w| *w.id == *id && w.removed.is_none()) {
            // It may have ended by itself a moment ago.
            watched.leaving.get_or_insert(EndReason::Reconfigured);
            watched.removed = Some(Instant::now());
            watched.member.stop();
        }
    }

    /// The streams that stay go on with other label sets, all between the same two batches. Open tags of labels that are still
    /// there stay open.
    pub fn relabel(&mut self, settings: &Settings, scorers: &[Arc<Scorer>]) {
        let Some(intake) = &self.intake else { return };
        intake.score_routes().change(|routes| {
            for watched in self.watched.iter().filter(|w| w.leaving.is_none()) {
                let Some(stream) = settings.streams.iter().find(|s| s.source.id == watched.id) else { continue };
                let gap = gap(stream);
                let mut emitter = watched.emitter.lock();
                emitter.relabel(rules(settings, stream), gap, &mut |event| self.events.send(event, None));
                drop(emitter);
                let (emitter, events) = (Arc::clone(&watched.emitter), Arc::clone(&self.events));
                let route = scores_to_events(scorers_of(stream, scorers), emitter, events);
                routes.insert(watched.member.key, route);
            }
        });
    }

    /// Lets streams with `interval: auto` follow what the box serves.
    pub fn adapt(&mut self, now: Instant) {
        if let Some(intake) = &mut self.intake {
            intake.adapt(now, self.watched.iter_mut().map(|watched| &mut watched.member));
        }
    }

    /// Looks who has ended or drained. Tags of a stream that has gone are closed once its last frame has been scored.
    pub fn look(&mut self, now: Instant) {
        for watched in &mut self.watched {
            let Some(how) = watched.member.ended() else { continue };
            watched.ended = true;
            match how {
                None => {
                    tracing::error!(stream = %watched.id, "its source has panicked; please report this");
                    self.failed = true;
                }
                // One that was told to leave has not failed, whatever it says.
                Some(Ended::Failed(_)) if watched.leaving.is_none() => self.failed = true,
                Some(_) => {}
            }
            watched.leaving.get_or_insert(EndReason::StreamEnded);
        }
        for watched in self.watched.iter_mut().filter(|watched| !watched.silent) {
            let late = watched.removed.is_some_and(|since| now.saturating_duration_since(since) >= DRAIN_TIMEOUT);
            if late && self.waiting.iter().any(|(status, _)| *status.id() == watched.id) {
                tracing::warn!(stream = %watched.id, "does not end, what is still under way of it is dropped");
                // First: no event comes after the last.
                if let Some(intake) = &self.intake {
                    intake.forget(watched.member.key);
                }
                watched.close(EndReason::Reconfigured, &self.events);
                watched.silent = true;
            }
        }
        let gone = |w: &mut RunningStream| w.ended && w.member.is_drained();
        for watched in self.watched.extract_if(.., gone) {
            let reason = watched.leaving.unwrap_or(EndReason::StreamEnded);
            watched.close(reason, &self.events);
            if let Some(intake) = &self.intake {
                intake.forget(watched.member.key);
            }
            let (status, accounting) = (Arc::clone(&watched.member.status), Arc::clone(&watched.member.accounting));
            if watched.removed.is_some() {
                status.set(StreamState::Disabled);
                self.failed |= !log_totals(&status, &accounting);
            } else {
                self.ended.push((status, accounting));
            }
            // It has said goodbye; a panic has been told.
            let _ = watched.member.into_thread().1.join();
        }
    }

    /// Whether no stream is left that could ever send a frame.
    pub fn is_done(&self) -> bool {
        self.watched.is_empty() && self.waiting.is_empty() && self.disabled.is_empty()
    }

    /// For the API: every stream that is there or has ended, those that were removed left out.
    pub fn view(&self) -> Vec<(Arc<StreamStatus>, Arc<FrameAccounting>)> {
        let there = self.watched.iter().filter(|watched| watched.removed.is_none());
        let there = there.map(|w| (Arc::clone(&w.member.status), Arc::clone(&w.member.accounting)));
        let others = [&self.waiting, &self.ended, &self.disabled];
        there.chain(others.into_iter().flatten().cloned()).collect()
    }

    /// Whether the stream could not be used and nobody tries it again by himself.
    pub fn has_failed(&self, id: &str) -> bool {
        self.ended.iter().any(|(status, _)| **status.id() == *id && status.has_failed())
    }

    /// Streams that are there.
    pub fn len(&self) -> usize {
        self.watched.len()
    }

    /// Nobody joins any more and everybody leaves. Returns the sources' threads; the pipeline's stages end once these have.
    pub fn shut_down(mut self) -> (Threads, StoppedStreams) {
        self.intake = None;
        let mut threads = Vec::new();
        let mut open = Vec::new();
        let mut accounts = self.ended;
        for watched in self.watched {
            watched.member.stop();
            accounts.push((Arc::clone(&watched.member.status), Arc::clone(&watched.member.accounting)));
            open.push((watched.emitter, watched.leaving));
            threads.push(watched.member.into_thread());
        }
        (threads, StoppedStreams { open, accounts, events: self.events, failed: self.failed })
    }
}

/// What is left to settle when every thread has ended, or is too late.
pub struct StoppedStreams {
    open: Vec<(Arc<Mutex<Emitter>>, Option<EndReason>)>,
    accounts: Vec<(Arc<StreamStatus>, Arc<FrameAccounting>)>,
    events: Arc<EventRoute>,
    /// Something failed for good before.
    pub failed: bool,
}

impl StoppedStreams {
    /// Ends every tag that is still open.
    pub fn close_tags(&self) {
        for (emitter, reason) in &self.open {
            let mut emitter = emitter.lock();
            emitter.close(reason.unwrap_or(EndReason::Shutdown), &mut |event| self.events.send(event, None));
        }
    }

    /// Sums up every stream's frames (invariant 2). Returns whether all are accounted for.
    pub fn log_totals(&self) -> bool {
        self.accounts.iter().fold(true, |whole, (status, accounting)| log_totals(status, accounting) && whole)
    }
}

/// Sums up one stream's frames. Returns whether all are accounted for.
fn log_totals(status: &StreamStatus, accounting: &FrameAccounting) -> bool {
    let stream = status.id();
    let held = accounting.close(stream);
    if held > 0 {
        tracing::warn!(%stream, held, "frames were still being worked on, they count as dropped");
    }
    let totals = accounting.totals();
    let (sampled, inferred, reused) = (totals.sampled, totals.inferred, totals.reused);
    let unaccounted = totals.unaccounted();
    tracing::info!(%stream, sampled, inferred, reused, dropped = ?totals.dropped, unaccounted, "frames accounted");
    if unaccounted != 0 {
        tracing::error!(%stream, unaccounted, "frames are unaccounted for");
    }
    unaccounted == 0
}

/// The scorers of a stream's sets, in its order.
fn scorers_of(stream: &StreamSettings, scorers: &[Arc<Scorer>]) -> Vec<Arc<Scorer>> {
    stream.label_sets.iter().filter_map(|set| scorers.get(*set).cloned()).collect()
}

/// What a stream's emitter needs to know of its label sets, in the stream's order.
fn rules(settings: &Settings, stream: &StreamSettings) -> Vec<(Arc<str>, Vec<LabelRules>)> {
    let of_set = |set: &crate::label::LabelSet| {
        let rules = |label: &crate::label::Label| LabelRules {
            name: label.name.as_str().into(),
            thresholds: thresholds(label, &settings.events),
            attributes: Arc::new(label.attributes.clone()),
        };
        (Arc::from(set.name.as_str()), set.labels.iter().map(rules).collect())
    };
    stream.label_sets.iter().filter_map(|i| settings.label_sets.get(*i)).map(of_set).collect()
}
