//! The daemon's streams: who is there, who is on the way out, and their emitters.
//!
//! Lives on the main thread. Streams join and leave through the pipeline's [`Intake`]; a stream that leaves is kept until its last
//! frame has been scored, so that its open tags end after everything they are made of. One that is to join under the same name waits for
//! that, [`DRAIN_TIMEOUT`] at most: whoever hears of a tag's start has heard of the end of the one before.
//! What others know of the streams stands in the [`StreamRegistry`], with the records that are made here.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::outside_hours::{OutsideHours, skipped};
use super::stream_history::embeddings;
use super::stream_times::Absence;
pub use super::stream_times::gap;
use crate::config::{Settings, StreamSettings, calibrations};
use crate::event::live_scores::LiveScores;
use crate::event::{Emitter, EndReason, LabelRules, ModelRef, SetRules};
use crate::frame::view::NamedView;
use crate::history::Recorder;
use crate::label::{Label, LabelSet};
use crate::pipeline::intake::{Intake, Member, StreamPart};
use crate::pipeline::{EventRoute, Threads, scores_to_events};
use crate::score::Scorer;
use crate::score::score_routes::{ScoreRoute, ScoreRoutes};
use crate::source::Ended;
use crate::stream::StreamId;
use crate::stream::registry::{RegisteredStream, StreamRegistry};
use crate::stream::status::StreamState;

/// So long a stream that leaves may hold up the next of its name; then what is still under way of it is dropped. Longer than a camera's
/// pipeline has to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the system gives no thread, it is asked again so late.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// A stream, and where it stands.
struct KnownStream {
    record: RegisteredStream,
    stage: Stage,
    /// When the configuration has let it go.
    removed: Option<Instant>,
}

enum Stage {
    /// Switched off: not connected to.
    Disabled,
    /// Joins once another of its name has left.
    Waiting,
    Running(RunningStream),
    /// By itself; summed up at the end.
    Ended,
}

/// A stream that has joined the pipeline, with the emitter that its scores feed.
struct RunningStream {
    member: Member,
    emitter: Arc<Mutex<Emitter>>,
    /// Why its tags end when it has drained; set once it is on the way out, by itself or because it was told to.
    leaving: Option<EndReason>,
    /// No event of it can come any more.
    silent: bool,
    /// Its source has reported that it has ended.
    ended: bool,
    /// Of one that pictures are sent to.
    absence: Option<Absence>,
}

impl RunningStream {
    fn close(&self, reason: EndReason, events: &EventRoute) {
        self.emitter.lock().close(reason, &mut |event| events.send(event, None));
    }
}

/// See the module.
pub struct Streams {
    intake: Intake,
    events: Arc<EventRoute>,
    registry: Arc<StreamRegistry>,
    live_scores: Arc<LiveScores>,
    model: ModelRef,
    /// Where embeddings are kept, if they are.
    history: Option<Recorder>,
    /// Two of one name while one waits for the other to leave.
    streams: Vec<KnownStream>,
    /// One that waits could not be started: when it is tried again. The log has been told.
    retry_at: Option<Instant>,
    /// Which labels nothing is told of now.
    hours: OutsideHours,
    /// Something failed for good.
    failed: bool,
}

impl Streams {
    /// No streams yet, around a running pipeline.
    pub fn new(
        mut intake: Intake,
        events: Arc<EventRoute>,
        registry: Arc<StreamRegistry>,
        live_scores: Arc<LiveScores>,
        model: ModelRef,
    ) -> Self {
        if events.gallery.is_some() {
            intake.keep_pictures();
        }
        Self {
            intake,
            events,
            registry,
            live_scores,
            model,
            history: None,
            streams: Vec::new(),
            retry_at: None,
            hours: OutsideHours::default(),
            failed: false,
        }
    }

    /// Streams that join from now on leave their embeddings in `history`.
    pub fn record_to(&mut self, history: Option<Recorder>) {
        if history.as_ref().is_some_and(|history| history.pictures().is_some()) {
            self.intake.keep_pictures();
        }
        self.history = history;
    }

    /// A stream joins, or is listed as switched off, or has to [wait](Self::join_waiting). `scorers` are those of all label sets, empty
    /// without a model.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn add(&mut self, settings: &Settings, stream: &StreamSettings, scorers: &[Arc<Scorer>]) -> io::Result<()> {
        let (id, labels, regions) = (&stream.source.id, labels(settings, stream), stream.views.names());
        let new = if stream.enabled { RegisteredStream::new } else { RegisteredStream::disabled };
        let record = new(id, labels).with_regions(regions);
        let stage = match (stream.enabled, self.is_held_up(id)) {
            (false, _) => Stage::Disabled,
            (true, true) => Stage::Waiting,
            (true, false) => Stage::Running(self.join(&record, settings, stream, scorers)?),
        };
        self.streams.push(KnownStream { record, stage, removed: None });
        Ok(())
    }

    /// As [`Self::add`]; one that the system gives no thread [waits](Self::join_waiting), and the log says why.
    pub fn add_or_wait(&mut self, settings: &Settings, stream: &StreamSettings, scorers: &[Arc<Scorer>]) {
        if let Err(error) = self.add(settings, stream, scorers) {
            let record = RegisteredStream::new(&stream.source.id, labels(settings, stream));
            let record = record.with_regions(stream.views.names());
            tracing::error!(stream = record.id(), %error, "the stream cannot be started, it is tried again");
            self.streams.push(KnownStream { record, stage: Stage::Waiting, removed: None });
            self.retry_at = Some(Instant::now() + RETRY_INTERVAL);
        }
    }

    fn join(
        &mut self,
        record: &RegisteredStream,
        settings: &Settings,
        stream: &StreamSettings,
        scorers: &[Arc<Scorer>],
    ) -> io::Result<RunningStream> {
        let (id, model) = (Arc::clone(&stream.source.id), self.model.clone());
        let emitter =
            Emitter::new(&settings.instance, id, model, rules(settings, stream, &self.model.fingerprint), gap(stream));
        let mut emitter = emitter.counting(Arc::clone(&record.swallowed)).expecting(stream.interval.at_start());
        // No tag is open.
        emitter.keep_hours(Timestamp::now(), &mut |_| false);
        let skipped = skipped(&emitter.outside_hours());
        let emitter = Arc::new(Mutex::new(emitter));
        let embeddings = embeddings(self.history.as_ref(), stream, &self.model);
        let events = Arc::clone(&self.events);
        let route = scores_to_events(scorers_of(stream, scorers), Arc::clone(&emitter), events, embeddings);
        let route = ScoreRoute { skipped, ..route };
        let StreamSettings { source, interval, unchanged, views, .. } = stream.clone();
        let member =
            self.intake.join(StreamPart { record: record.clone(), source, interval, unchanged, views, route })?;
        self.live_scores.enter(record.status.id(), &emitter);
        Ok(RunningStream {
            member,
            emitter,
            leaving: None,
            silent: false,
            ended: false,
            absence: Absence::of(stream, self.intake.pushed()),
        })
    }

    fn running(&self) -> impl Iterator<Item = (&RegisteredStream, &RunningStream)> {
        self.streams.iter().filter_map(|known| match &known.stage {
            Stage::Running(running) => Some((&known.record, running)),
            _ => None,
        })
    }

    /// Whether one of this name may still emit an event.
    fn is_held_up(&self, id: &str) -> bool {
        self.running().any(|(record, running)| record.id() == id && !running.silent)
    }

    /// Streams join that have waited for another to leave. One that the system gives no thread goes on waiting.
    pub fn join_waiting(&mut self, now: Instant, settings: &Settings, scorers: &[Arc<Scorer>]) {
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        let is_ready =
            |known: &KnownStream| matches!(known.stage, Stage::Waiting) && !self.is_held_up(known.record.id());
        let ready: Vec<usize> = (0..self.streams.len()).filter(|at| is_ready(&self.streams[*at])).collect();
        let mut refused = None;
        for at in &ready {
            let record = self.streams[*at].record.clone();
            let Some(stream) = settings.streams.iter().find(|stream| *stream.source.id == *record.id()) else {
                continue;
            };
            match self.join(&record, settings, stream, scorers) {
                Ok(running) => self.streams[*at].stage = Stage::Running(running),
                Err(error) => {
                    if self.retry_at.is_none() && refused.is_none() {
                        tracing::error!(stream = record.id(), %error, "the stream cannot be started, it is tried again");
                    }
                    refused = Some(now + RETRY_INTERVAL);
                }
            }
        }
        // Until none is refused the log has been told.
        if !ready.is_empty() {
            self.retry_at = refused;
        }
    }

    /// A stream is to leave: its source ends, what was taken is finished, its tags end.
    pub fn remove(&mut self, id: &str) {
        let failed = &mut self.failed;
        self.streams.retain_mut(|known| {
            if known.record.id() != id || known.removed.is_some() {
                return true;
            }
            match &mut known.stage {
                Stage::Disabled | Stage::Waiting => false,
                Stage::Ended => {
                    *failed |= !log_totals(&known.record);
                    false
                }
                Stage::Running(running) => {
                    // It may have ended by itself a moment ago.
                    running.leaving.get_or_insert(EndReason::Reconfigured);
                    running.member.stop();
                    known.removed = Some(Instant::now());
                    true
                }
            }
        });
    }

    /// The streams that stay go on with other label sets, all between the same two batches. Open tags of labels that are still
    /// there stay open.
    pub fn relabel(&mut self, settings: &Settings, scorers: &[Arc<Scorer>]) {
        let Self { intake, events, streams, history, model, .. } = self;
        intake.score_routes().change(|routes| {
            for known in streams.iter_mut().filter(|known| known.removed.is_none()) {
                let find = |stream: &&StreamSettings| *stream.source.id == *known.record.id();
                let Some(stream) = settings.streams.iter().find(find) else { continue };
                known.record.labels = labels(settings, stream);
                known.record.swallowed.keep(&known.record.labels);
                let Stage::Running(RunningStream { member, emitter, leaving: None, .. }) = &known.stage else {
                    continue;
                };
                let rules = rules(settings, stream, &model.fingerprint);
                let skipped = {
                    let (mut emitter, send) = (emitter.lock(), &mut |event| events.send(event, None));
                    emitter.relabel(rules, gap(stream), send);
                    emitter.keep_hours(Timestamp::now(), send);
                    skipped(&emitter.outside_hours())
                };
                let embeddings = embeddings(history.as_ref(), stream, model);
                let (scorers, events) = (scorers_of(stream, scorers), Arc::clone(events));
                let route = scores_to_events(scorers, Arc::clone(emitter), events, embeddings);
                routes.insert(member.key, ScoreRoute { skipped, ..route });
            }
        });
    }

    /// Writes down what there is for everybody who tells of it: the streams of the configuration in its order, those that were removed
    /// left out.
    pub fn register(&self, settings: &Settings) {
        let record = |stream: &StreamSettings| {
            let mut there = self.streams.iter().filter(|known| known.removed.is_none());
            there.find(|known| *known.record.id() == *stream.source.id).map(|known| known.record.clone())
        };
        let registered: Vec<RegisteredStream> = settings.streams.iter().filter_map(record).collect();
        self.live_scores.retain(|id| registered.iter().any(|stream| stream.enabled && stream.id() == id));
        self.registry.set(registered);
    }

    /// Fingerprint of the model.
    pub fn model(&self) -> &str {
        &self.model.fingerprint
    }

    /// What was [registered](Self::register) last.
    pub fn registered(&self) -> Arc<Vec<RegisteredStream>> {
        self.registry.streams().unwrap_or_default()
    }

    /// Labels come into their hours and leave them, as the clock says `now`.
    pub fn keep_hours(&mut self, now: Timestamp) {
        let Self { intake, events, streams, hours, .. } = self;
        let running = streams.iter().filter_map(|known| match &known.stage {
            Stage::Running(running) => Some((known.record.id(), running.member.key, &*running.emitter)),
            _ => None,
        });
        hours.keep(now, running, intake.score_routes(), events);
    }

    /// Lets streams with `interval: auto` follow what the box serves.
    pub fn adapt(&mut self, now: Instant) {
        let members = self.streams.iter_mut().filter_map(|known| match &mut known.stage {
            Stage::Running(running) => Some(&mut running.member),
            _ => None,
        });
        self.intake.adapt(now, members);
    }

    /// Notes who has ended or drained. Tags of a stream that has gone are closed once its last frame has been scored.
    pub fn poll(&mut self, now: Instant) {
        let Self { intake, events, streams, failed, .. } = self;
        let waiting = streams.iter().filter(|known| matches!(known.stage, Stage::Waiting));
        let waiting: Vec<StreamId> = waiting.map(|known| Arc::clone(known.record.status.id())).collect();
        streams.retain_mut(|known| {
            let Stage::Running(running) = &mut known.stage else { return true };
            let stream = known.record.id();
            if let Some(how) = running.member.ended() {
                running.ended = true;
                match how {
                    None => {
                        tracing::error!(stream, "its source has panicked; please report this");
                        *failed = true;
                    }
                    // One that was told to leave has not failed, whatever it says.
                    Some(Ended::Failed(_)) if running.leaving.is_none() => *failed = true,
                    Some(_) => {}
                }
                running.leaving.get_or_insert(EndReason::StreamEnded);
            }
            let is_late = known.removed.is_some_and(|at| now.saturating_duration_since(at) >= DRAIN_TIMEOUT);
            if is_late && !running.silent && waiting.iter().any(|id| **id == *stream) {
                tracing::warn!(stream, "does not end, what is still under way of it is dropped");
                // First: no event comes after the last.
                intake.forget(running.member.key);
                running.close(EndReason::Reconfigured, events);
                running.silent = true;
            }
            let is_drained = running.member.is_drained();
            if let Some(absence) = running.absence.as_mut().filter(|_| is_drained && running.leaving.is_none()) {
                absence.poll(now, &mut running.emitter.lock(), &mut |event| events.send(event, None));
            }
            if !(running.ended && is_drained) {
                return true;
            }
            running.close(running.leaving.unwrap_or(EndReason::StreamEnded), events);
            intake.forget(running.member.key);
            if let Stage::Running(running) = std::mem::replace(&mut known.stage, Stage::Ended) {
                // It has reported its end; a panic has been logged.
                let _ = running.member.into_thread().1.join();
            }
            if known.removed.is_some() {
                known.record.status.set(StreamState::Disabled);
                *failed |= !log_totals(&known.record);
            }
            known.removed.is_none()
        });
    }

    /// Whether no stream is left that could ever send a frame.
    pub fn is_done(&self) -> bool {
        self.streams.iter().all(|known| matches!(known.stage, Stage::Ended))
    }

    /// Whether the stream could not be used and nobody tries it again by himself.
    pub fn has_failed(&self, id: &str) -> bool {
        let failed = |known: &KnownStream| matches!(known.stage, Stage::Ended) && known.record.status.has_failed();
        self.streams.iter().any(|known| known.record.id() == id && failed(known))
    }

    /// Streams that are there.
    pub fn len(&self) -> usize {
        self.running().count()
    }

    /// Nobody joins any more and everybody leaves. Returns the sources' threads; the pipeline's stages end once these have.
    pub fn shut_down(self) -> (Threads, StoppedStreams) {
        let (mut threads, mut streams) = (Threads::new(), Vec::new());
        for KnownStream { record, stage, .. } in self.streams {
            match stage {
                Stage::Disabled | Stage::Waiting => {}
                Stage::Ended => streams.push((record, None)),
                Stage::Running(RunningStream { member, emitter, leaving, .. }) => {
                    member.stop();
                    threads.push(member.into_thread());
                    streams.push((record, Some((emitter, leaving.unwrap_or(EndReason::Shutdown)))));
                }
            }
        }
        let routes = self.intake.close();
        (threads, StoppedStreams { streams, routes, events: self.events, failed: self.failed })
    }
}

/// The emitter whose tags may be open, and why they end.
type OpenTags = (Arc<Mutex<Emitter>>, EndReason);

/// What is left to settle when every thread has ended, or is too late.
pub struct StoppedStreams {
    streams: Vec<(RegisteredStream, Option<OpenTags>)>,
    routes: Arc<ScoreRoutes>,
    events: Arc<EventRoute>,
    /// Something failed for good before.
    pub failed: bool,
}

impl StoppedStreams {
    /// Ends the ways of all streams: the history's thread ends when nobody can send it anything any more.
    pub fn end_routes(&self) {
        self.routes.clear();
    }

    /// Ends every tag that is still open.
    pub fn close_tags(&self) {
        for (emitter, reason) in self.streams.iter().filter_map(|(_, open)| open.as_ref()) {
            emitter.lock().close(*reason, &mut |event| self.events.send(event, None));
        }
    }

    /// Sums up every stream's frames (invariant 2). Returns whether all are accounted for.
    pub fn log_totals(&self) -> bool {
        self.streams.iter().fold(true, |whole, (record, _)| log_totals(record) && whole)
    }
}

/// Sums up one stream's frames. Returns whether all are accounted for.
fn log_totals(RegisteredStream { status, accounting, .. }: &RegisteredStream) -> bool {
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

/// The stream's label sets, in its order.
fn label_sets<'a>(settings: &'a Settings, stream: &'a StreamSettings) -> impl Iterator<Item = &'a LabelSet> {
    stream.label_sets.iter().filter_map(|set| settings.label_sets.get(*set))
}

/// (set, label) of all of a stream's labels.
fn labels(settings: &Settings, stream: &StreamSettings) -> Vec<(String, String)> {
    let of_set =
        |set: &LabelSet| set.labels.iter().map(|label| (set.name.clone(), label.name.clone())).collect::<Vec<_>>();
    label_sets(settings, stream).flat_map(of_set).collect()
}

/// What a stream's emitter needs to know of its label sets, in the stream's order, for one of its views after the other; `model`: the
/// fingerprint of the one that scores.
pub fn rules(settings: &Settings, stream: &StreamSettings, model: &str) -> Vec<SetRules> {
    let of_set = |view: &NamedView, (at, set): (usize, &LabelSet)| {
        let rules = |label: &Label| {
            let (thresholds, origin) = calibrations::in_force(settings, at, label, stream, view, Some(model));
            let (attributes, hours) = (Arc::new(label.attributes.clone()), label.hours.clone());
            LabelRules { name: label.name.as_str().into(), thresholds, origin, attributes, hours }
        };
        SetRules {
            region: view.name.clone(),
            name: Arc::from(set.name.as_str()),
            labels: set.labels.iter().map(rules).collect(),
            rivals: set.rivals().into(),
        }
    };
    let of_view = |view: &NamedView| {
        let sets = stream.label_sets.iter().filter_map(|set| Some((*set, settings.label_sets.get(*set)?)));
        sets.map(|set| of_set(view, set)).collect::<Vec<_>>()
    };
    stream.views.iter().flat_map(of_view).collect()
}
