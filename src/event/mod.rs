//! Event: scores in, tag events out. [`tracker`] decides, [`cloud_event`] is what is told, [`Emitter`] joins the two. How each label
//! stands can be [read](live_scores) at any time.
//!
//! Runs on the scoring thread; nothing here waits or reads a clock: what it says is handed in, for the hours in which labels are looked for. Scores must come in
//! order of media time per stream.

pub mod active_hours;
pub mod cloud_event;
pub mod continuity;
pub mod drift;
pub mod live_scores;
mod peaks;
pub mod swallowed;
pub mod tag_times;
pub mod tracker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::frame::FrameTime;
use crate::score::{LabelScore, NamedRival, Threshold, margin};
use crate::stream::StreamId;
use crate::stream::swallowed_starts::SwallowedStarts;
use active_hours::{ActiveHours, HoursWatch};
pub use cloud_event::{Event, EventKind, ModelRef};
use continuity::Continuity;
use drift::{DriftWatch, UsualRange};
use live_scores::Detail;
use peaks::HourOfPeaks;
use tracker::Phase;
pub use tracker::{Change, EndReason, Tracker};

/// When a tag starts and ends. `exit ≤ enter`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Thresholds {
    pub enter: Threshold,
    pub exit: Threshold,
    /// The score must hold this long before a tag starts; 0 means one sample.
    pub after: Duration,
    /// The score must stay away this long before a tag ends.
    pub after_exit: Duration,
    /// From one emitted start to the next, at least.
    pub cooldown: Duration,
}

impl Default for Thresholds {
    /// Measured (docs/benchmarks.md, benches/as_it_comes.py): longer times swallow what is in view for seconds, or comes again soon.
    fn default() -> Self {
        Self {
            enter: Threshold::Probability(0.6),
            exit: Threshold::Probability(0.4),
            after: Duration::from_secs(1),
            after_exit: Duration::from_secs(1),
            cooldown: Duration::from_secs(10),
        }
    }
}

impl Thresholds {
    /// Of `enter` and `exit`.
    pub fn margins(&self) -> (f32, f32) {
        (self.enter.margin(), self.exit.margin())
    }

    /// Whether `exit` is not above `enter`.
    pub fn is_ordered(&self) -> bool {
        self.exit.margin() <= self.enter.margin()
    }
}

/// What an [`Emitter`] needs to know of a label set, for each region where a stream has some.
#[derive(Clone, Debug)]
pub struct SetRules {
    /// The part of the picture that it is about; `None`: the whole view.
    pub region: Option<Arc<str>>,
    pub name: Arc<str>,
    pub labels: Vec<LabelRules>,
    /// In the order of [`Rival`](crate::score::Rival).
    pub rivals: Arc<[NamedRival]>,
}

/// What an [`Emitter`] needs to know of a label.
#[derive(Clone, Debug)]
pub struct LabelRules {
    pub name: Arc<str>,
    pub thresholds: Thresholds,
    pub origin: ThresholdOrigin,
    pub attributes: Arc<BTreeMap<String, serde_json::Value>>,
    /// Outside nothing is told of it; `None`: always.
    pub hours: Option<Arc<ActiveHours>>,
}

/// Where a label's thresholds come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ThresholdOrigin {
    #[default]
    Configuration,
    /// With the margins that the label has without its thing.
    Calibration(UsualRange),
    /// It was calibrated, and that does not fit any more, for this reason: no tag starts until somebody has looked at it.
    Waiting(Arc<str>),
}

impl ThresholdOrigin {
    pub fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }

    fn drift(&self) -> Option<DriftWatch> {
        if let Self::Calibration(range) = self { Some(DriftWatch::new(*range)) } else { None }
    }
}

/// One label set on one stream, or on one region of it.
struct Board {
    region: Option<Arc<str>>,
    set: Arc<str>,
    labels: Vec<Watched>,
    rivals: Arc<[NamedRival]>,
}

/// One label of it.
#[derive(Clone)]
struct Watched {
    rules: LabelRules,
    tracker: Tracker,
    hours: HoursWatch,
    /// What the last sample said.
    latest: Option<LabelScore>,
    peaks: HourOfPeaks,
    /// Of a calibrated label.
    drift: Option<DriftWatch>,
    /// Of the open tag.
    tag: Option<Uuid>,
}

impl Watched {
    fn new(rules: LabelRules, gap: Duration) -> Self {
        let tracker = Tracker::new(rules.thresholds, gap);
        let (drift, hours) = (rules.origin.drift(), HoursWatch::new(rules.hours.clone()));
        Self { rules, tracker, hours, latest: None, peaks: HourOfPeaks::default(), drift, tag: None }
    }

    fn copy(&self, detail: Detail) -> Self {
        Self {
            rules: self.rules.clone(),
            tracker: if detail == Detail::History { self.tracker.clone() } else { self.tracker.without_recent() },
            hours: self.hours.clone(),
            peaks: if detail == Detail::Latest { HourOfPeaks::default() } else { self.peaks.clone() },
            ..*self
        }
    }
}

/// Turns one stream's scores into events. Keeps the `tag_id` of open tags.
pub struct Emitter {
    source: String,
    stream: StreamId,
    model: ModelRef,
    boards: Vec<Board>,
    /// The first and the last sample.
    first: Option<FrameTime>,
    last: Option<FrameTime>,
    swallowed: Arc<SwallowedStarts>,
    rare: RareSamples,
}

/// Whether samples come as often as they are to; told once.
struct RareSamples {
    continuity: Continuity,
    /// How often they are to come; `None`: nobody wants to know.
    wanted: Option<Duration>,
    told: bool,
}

impl Emitter {
    /// `sets` are the stream's label sets, once for each of its regions if it has any, in the order in which their scores will come; `gap` is as in [`Tracker::new`].
    pub fn new(instance: &str, stream: StreamId, model: ModelRef, sets: Vec<SetRules>, gap: Duration) -> Self {
        let board = |SetRules { region, name, labels, rivals }| Board {
            region,
            set: name,
            labels: labels.into_iter().map(|rules| Watched::new(rules, gap)).collect(),
            rivals,
        };
        let boards = sets.into_iter().map(board).collect();
        let swallowed = Arc::new(SwallowedStarts::new(&stream));
        let source = cloud_event::source_uri(instance, &stream);
        let rare = RareSamples { continuity: Continuity::new(gap), wanted: None, told: false };
        Self { source, stream, model, boards, first: None, last: None, swallowed, rare }
    }

    /// Says in the log if samples, wanted every `interval`, come so seldom that a label's `after` has no meaning.
    pub fn expecting(mut self, interval: Duration) -> Self {
        self.rare.wanted = Some(interval);
        self
    }

    /// Counts starts that are swallowed where others can see them.
    pub fn counting(self, swallowed: Arc<SwallowedStarts>) -> Self {
        Self { swallowed, ..self }
    }

    /// Goes on with other label sets: labels that are still there keep their state and open tags, the tags of those that are not
    /// end.
    pub fn relabel(&mut self, sets: Vec<SetRules>, gap: Duration, emit: &mut dyn FnMut(Event) -> bool) {
        // Whatever ends here is told under its old name: first the ends, then the new boards.
        for set in 0..self.boards.len() {
            for index in 0..self.boards[set].labels.len() {
                let (board, label) = (&self.boards[set], &self.boards[set].labels[index].rules.name);
                let is_there = |set: &SetRules| set.region == board.region && set.name == board.set;
                // One that waits from now on tells the end of what it has told.
                let goes_on = |rules: &LabelRules| rules.name == *label && !rules.origin.is_waiting();
                let stays = sets.iter().any(|set| is_there(set) && set.labels.iter().any(goes_on));
                if !stays {
                    self.end(set, index, EndReason::Reconfigured, emit);
                }
            }
        }
        let mut old = std::mem::take(&mut self.boards);
        let mut kept = |region: &Option<Arc<str>>, set: &Arc<str>, rules: LabelRules, rivals: &[NamedRival]| {
            let board = old.iter_mut().find(|board| board.region == *region && board.set == *set);
            let at = board.as_ref().and_then(|b| b.labels.iter().position(|old| old.rules.name == rules.name));
            match board.zip(at) {
                Some((board, at)) => {
                    let mut label = board.labels.swap_remove(at);
                    label.tracker.change(rules.thresholds, gap);
                    if *board.rivals != *rivals {
                        // What was against other rivals says nothing of these.
                        (label.latest, label.peaks) = (None, HourOfPeaks::default());
                        label.tracker.forget_swallowed();
                    }
                    // Of the same calibration what was seen still counts.
                    let drift = rules.origin.drift();
                    if drift.map(|drift| drift.range) != label.drift.map(|drift| drift.range) {
                        label.drift = drift;
                    }
                    if rules.hours != label.rules.hours {
                        label.hours = HoursWatch::new(rules.hours.clone());
                    }
                    Watched { rules, ..label }
                }
                None => Watched::new(rules, gap),
            }
        };
        let board = |SetRules { region, name, labels, rivals }| {
            let labels = labels.into_iter().map(|rules| kept(&region, &name, rules, &rivals)).collect();
            Board { region, set: name, labels, rivals }
        };
        self.boards = sets.into_iter().map(board).collect();
    }

    /// Takes the scores of one frame for number `set` of the sets, one a label (or none at all), and hands every event to `emit`, which says whether it is on
    /// its way to anybody: the cooldown of a start that is not does not begin.
    pub fn scores(&mut self, time: FrameTime, set: usize, scores: &[LabelScore], emit: &mut dyn FnMut(Event) -> bool) {
        if self.last.replace(time) != Some(time) {
            self.note_spacing(time);
        }
        let second = live_scores::second(self.first.get_or_insert(time), time.captured);
        let Some(board) = self.boards.get_mut(set) else { return };
        if scores.is_empty() {
            // They were not made, as nobody wants them: what was last is not how it is now.
            board.labels.iter_mut().for_each(|label| label.latest = None);
        }
        let mut changes = Vec::new();
        for (index, (label, score)) in board.labels.iter_mut().zip(scores).enumerate() {
            label.latest = Some(*score);
            if !label.hours.is_active() {
                continue;
            }
            label.peaks.note(second, *score);
            if label.rules.origin.is_waiting() || !label.hours.counts(time.wall) {
                continue;
            }
            changes.extend(label.tracker.sample(time, *score).map(|change| (index, change)));
            if let (Some(drift), Phase::Idle | Phase::Cooldown { rising: None, .. }) =
                (&mut label.drift, label.tracker.phase())
            {
                drift.note(second, score.margin);
            }
            if let Some(cause) = label.tracker.take_swallowed() {
                self.swallowed.count(board.region.as_deref(), &board.set, &label.rules.name, cause);
            }
        }
        for (index, change) in changes {
            let told = emit(self.event(time, set, index, change));
            if !told && matches!(change, Change::Start { .. }) {
                self.boards[set].labels[index].tracker.untold();
            }
        }
    }

    /// Takes note of when a frame was. The configuration has been checked with the interval that is wanted; what comes more seldom, only time tells.
    fn note_spacing(&mut self, time: FrameTime) {
        let RareSamples { continuity, wanted: Some(wanted), told: false } = &mut self.rare else { return };
        continuity.note(time);
        let (Some(spacing), wanted) = (continuity.spacing(), *wanted) else { return };
        let labels =
            self.boards.iter().flat_map(|board| board.labels.iter().map(move |label| (&board.set, &label.rules)));
        let missed = labels.filter(|(_, rules)| {
            let after = rules.thresholds.after;
            // A little more is jitter.
            !after.is_zero() && after >= wanted && spacing > after + after / 4
        });
        let Some((set, rules)) = missed.min_by_key(|(_, rules)| rules.thresholds.after) else { return };
        self.rare.told = true;
        tracing::warn!(
            stream = %self.stream, %set, label = %rules.name, after = ?rules.thresholds.after, apart_ms = u64::try_from(spacing.as_millis()).unwrap_or(u64::MAX),
            "samples are further apart than `after`, so what shows in one of them alone starts no tag: shorten the camera's keyframe interval, set \
             `decode: auto`, or, if the box is too small, watch fewer streams or lengthen `after`"
        );
    }

    /// The last sample.
    pub fn last(&self) -> Option<FrameTime> {
        self.last
    }

    /// Whether a tag is open, or what looks like a start is under way.
    pub fn is_busy(&self) -> bool {
        let phases = self.boards.iter().flat_map(|board| &board.labels).map(|label| label.tracker.phase());
        phases.into_iter().any(|phase| !matches!(phase, Phase::Idle | Phase::Cooldown { rising: None, .. }))
    }

    /// There is nothing to be looked at, and that is known: no label is there.
    pub fn absent(&mut self, time: FrameTime, emit: &mut dyn FnMut(Event) -> bool) {
        for set in 0..self.boards.len() {
            let nothing = LabelScore { margin: f32::NEG_INFINITY, rival: None };
            let scores = vec![nothing; self.boards[set].labels.len()];
            self.scores(time, set, &scores, emit);
        }
    }

    /// The clock says `now`: labels come into their hours, and leave them, which ends their open tags. Whether any has. A label that has hours is
    /// outside them until this was called; whoever makes an emitter, or changes its labels, calls it before the next frame.
    pub fn keep_hours(&mut self, now: Timestamp, emit: &mut dyn FnMut(Event) -> bool) -> bool {
        let mut any = false;
        for set in 0..self.boards.len() {
            for index in 0..self.boards[set].labels.len() {
                let label = &mut self.boards[set].labels[index];
                if !label.hours.look(now) {
                    continue;
                }
                any = true;
                if !label.hours.is_active() {
                    // It is not scored any more where all of its set are outside.
                    label.latest = None;
                    self.end(set, index, EndReason::Inactive, emit);
                }
            }
        }
        any
    }

    /// Labels outside their hours have no last score, also where one came after they had left them.
    pub fn forget_outside(&mut self) {
        let labels = self.boards.iter_mut().flat_map(|board| &mut board.labels);
        labels.filter(|label| !label.hours.is_active()).for_each(|label| label.latest = None);
    }

    /// For each of the sets, as [`scores`](Self::scores) counts them, its name, how many of its labels are outside their hours, and of how many; `None`
    /// where none has hours.
    pub fn outside_hours(&self) -> Vec<Option<(Arc<str>, usize, usize)>> {
        let of_board = |board: &Board| {
            board.labels.iter().any(|label| label.hours.has_hours()).then(|| {
                let outside = board.labels.iter().filter(|label| !label.hours.is_active()).count();
                (Arc::clone(&board.set), outside, board.labels.len())
            })
        };
        self.boards.iter().map(of_board).collect()
    }

    /// Ends every open tag: the stream has ended or the daemon stops.
    pub fn close(&mut self, reason: EndReason, emit: &mut dyn FnMut(Event) -> bool) {
        for set in 0..self.boards.len() {
            for index in 0..self.boards[set].labels.len() {
                self.end(set, index, reason, emit);
            }
        }
    }

    fn end(&mut self, set: usize, index: usize, reason: EndReason, emit: &mut dyn FnMut(Event) -> bool) {
        // Without a frame there is no open tag.
        let Some(time) = self.last else { return };
        let Board { region, set: name, labels, .. } = &mut self.boards[set];
        let label = &mut labels[index];
        let change = label.tracker.close(time, reason);
        if let Some(cause) = label.tracker.take_swallowed() {
            self.swallowed.count(region.as_deref(), name, &label.rules.name, cause);
        }
        if let Some(change) = change {
            emit(self.event(time, set, index, change));
        }
    }

    fn event(&mut self, time: FrameTime, set: usize, index: usize, change: Change) -> Event {
        let board = &mut self.boards[set];
        let Watched { rules, tag: tag_id, .. } = &mut board.labels[index];
        let id = *tag_id.get_or_insert_with(Uuid::now_v7);
        let (kind, tag, ended) = match change {
            Change::Start { tag } => (EventKind::Start, tag, None),
            Change::Update { tag } => (EventKind::Update, tag, None),
            Change::End { tag, ended, reason } => {
                *tag_id = None;
                (EventKind::End, tag, Some((ended, reason)))
            }
        };
        let event = Event {
            id: Uuid::now_v7(),
            source: self.source.clone(),
            kind,
            data: cloud_event::Data {
                stream: self.stream.to_string(),
                region: board.region.as_deref().map(str::to_owned),
                set: board.set.to_string(),
                label: rules.name.to_string(),
                tag_id: id,
                score: tag.score.probability(),
                margin: Some(tag.score.margin).filter(|margin| margin.is_finite()),
                rival: tag.score.rival.and_then(|rival| Some(board.rivals.get(rival.0 as usize)?.name.clone())),
                peak: margin::probability(tag.peak),
                started_at: tag.started.wall,
                ended_at: ended.map(|(t, _)| t.wall),
                sampled_at: time.wall,
                media_start: cloud_event::seconds(tag.started.media),
                media_end: ended.map(|(t, _)| cloud_event::seconds(t.media)),
                reason: ended.map(|(_, reason)| reason),
                model: self.model.clone(),
                attributes: Arc::clone(&rules.attributes),
                snapshot: None,
            },
        };
        event.count();
        event
    }
}

#[cfg(test)]
mod tests;
