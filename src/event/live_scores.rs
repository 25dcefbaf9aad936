//! Live scores: how every label of every stream stands right now, whether it ever fired or not, for whoever asks why nothing was told.
//!
//! In: each sample, noted by the scoring thread beside what the tracker makes of it: two numbers and a peak. Out: a [`StreamScores`] when
//! somebody asks. Any thread may; it copies what there is while the scoring thread waits, some microseconds, and words it afterwards.
//! Bounded: three kilobytes at most for each stream, region and label of the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use serde::Serialize;

use super::cloud_event::seconds;
use super::peaks::Peak;
use super::swallowed::SwallowedStart;
use super::tracker::Phase;
use super::{Emitter, ThresholdOrigin, Watched};
use crate::frame::FrameTime;
use crate::score::{LabelScore, NamedRival, RivalKind, Threshold};
use crate::stream::StreamId;
use crate::stream::swallowed_starts::{Cause, SwallowedCounts};

/// All streams that are there, or have been and are still in the configuration.
#[derive(Default)]
pub struct LiveScores(RwLock<BTreeMap<StreamId, Arc<Mutex<Emitter>>>>);

/// How much of a label is wanted: what is not is not copied while scores wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// How it stands; no peak.
    Latest,
    /// With the best of the last hour.
    Peak,
    /// With the best of each minute, and the latest starts that were none.
    History,
}

/// How a stream's labels stand.
#[derive(Clone, Debug, Serialize)]
pub struct StreamScores {
    pub stream: String,
    /// When the last sample was taken.
    pub at: Option<Timestamp>,
    /// How many seconds ago that was.
    pub age: Option<f64>,
    pub scores: Vec<LabelReading>,
}

/// How a stream's labels stood at one moment, not yet in words.
pub struct Standing {
    stream: String,
    first: Option<FrameTime>,
    last: Option<FrameTime>,
    boards: Vec<StandingBoard>,
}

/// One label set of it, on the whole view or a region.
struct StandingBoard {
    region: Option<Arc<str>>,
    set: Arc<str>,
    rivals: Arc<[NamedRival]>,
    labels: Vec<Watched>,
}

/// A margin in both units, and the best rival.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// 0..=1.
    pub score: Option<f32>,
    pub margin: Option<f32>,
    pub rival: Option<String>,
    pub rival_kind: Option<RivalKind>,
}

/// `enter` or `exit` in both units; no margin where it is infinite.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Level {
    pub score: f64,
    pub margin: Option<f32>,
}

/// Where a label stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelState {
    Idle,
    Rising,
    Open,
    Cooldown,
    /// Outside its hours.
    Inactive,
}

/// The best of a minute.
#[derive(Clone, Debug, Serialize)]
pub struct PeakReading {
    pub at: Timestamp,
    #[serde(flatten)]
    pub told: Told,
}

/// A start that was none.
#[derive(Clone, Debug, Serialize)]
pub struct SwallowedReading {
    /// `after`, `cooldown`, `gap` or `rival`.
    pub by: &'static str,
    pub at: Timestamp,
    /// Seconds from the stream's first PTS.
    pub media_start: f64,
    /// Seconds from the first to the last sample of it.
    pub lasted: f64,
    /// Seconds of `after` or `cooldown` that were missing, or the margin that a rival kept.
    pub short_by: f64,
    /// Its best sample.
    #[serde(flatten)]
    pub told: Told,
}

/// One label.
#[derive(Clone, Debug, Serialize)]
pub struct LabelReading {
    /// The part of the picture; null for the whole view.
    pub region: Option<String>,
    pub set: String,
    pub label: String,
    #[serde(flatten)]
    pub told: Told,
    pub enter: Level,
    pub exit: Level,
    /// These in seconds.
    pub after: f64,
    pub after_exit: f64,
    pub cooldown: f64,
    /// Where these come from: `configuration`, `calibration`, or `waiting`, which is why no tag can start.
    pub thresholds_from: &'static str,
    /// Why it waits.
    pub waits: Option<String>,
    /// Of a calibrated label, once there are enough: the share of the last hour's samples without a tag whose margins lie beyond those that it was
    /// calibrated on.
    pub drift: Option<f32>,
    pub state: LabelState,
    /// Of a label that rises (also during a cooldown) or is open.
    pub since: Option<Timestamp>,
    /// Of a cooldown; of a label outside its hours, when they begin.
    pub until: Option<Timestamp>,
    /// The best of the last hour.
    pub peak: Option<PeakReading>,
    /// Starts that were none, since the stream joined.
    pub swallowed: SwallowedCounts,
    /// Where it was asked for: the best of each minute of the last hour, oldest first …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peaks: Option<Vec<PeakReading>>,
    /// … and the latest starts that were none, oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swallowed_latest: Option<Vec<SwallowedReading>>,
}

/// How far a label has drifted, for metrics.
pub struct LabelDrift {
    pub region: Option<Arc<str>>,
    pub set: Arc<str>,
    pub label: Arc<str>,
    /// See [`LabelReading::drift`].
    pub share: f32,
}

/// The last score of a label, for metrics.
pub struct LatestScore {
    pub region: Option<Arc<str>>,
    pub set: Arc<str>,
    pub label: Arc<str>,
    pub score: LabelScore,
}

impl LiveScores {
    /// A stream joins; one of its name that was there is forgotten.
    pub fn enter(&self, id: &StreamId, emitter: &Arc<Mutex<Emitter>>) {
        self.0.write().insert(Arc::clone(id), Arc::clone(emitter));
    }

    /// Streams that are not wanted any more go.
    pub fn retain(&self, is_wanted: impl Fn(&str) -> bool) {
        self.0.write().retain(|id, _| is_wanted(id));
    }

    fn emitter(&self, stream: &str) -> Option<Arc<Mutex<Emitter>>> {
        self.0.read().get(stream).cloned()
    }

    /// How the labels of `stream` stand at `now`, those that `is_wanted` (region, set, label), in so much `detail`. `None` for one that is not there.
    pub fn reading(
        &self,
        stream: &str,
        now: Instant,
        detail: Detail,
        is_wanted: impl Fn(Option<&str>, &str, &str) -> bool,
    ) -> Option<StreamScores> {
        Some(self.standing(stream, detail, is_wanted)?.reading(now, detail))
    }

    /// The same, for whoever puts it into words later.
    pub fn standing(
        &self,
        stream: &str,
        detail: Detail,
        is_wanted: impl Fn(Option<&str>, &str, &str) -> bool,
    ) -> Option<Standing> {
        let emitter = self.emitter(stream)?;
        let emitter = emitter.lock();
        let board = |board: &super::Board| {
            let region = board.region.as_deref();
            let wanted = board.labels.iter().filter(|label| is_wanted(region, &board.set, &label.rules.name));
            StandingBoard {
                region: board.region.clone(),
                set: Arc::clone(&board.set),
                rivals: Arc::clone(&board.rivals),
                labels: wanted.map(|label| label.copy(detail)).collect(),
            }
        };
        let boards = emitter.boards.iter().map(board).collect();
        Some(Standing { stream: stream.to_owned(), first: emitter.first, last: emitter.last, boards })
    }

    /// When the last sample of each stream was taken, of those that had any.
    pub fn last_samples(&self) -> Vec<(StreamId, Timestamp)> {
        let streams = self.0.read();
        let last = |(id, emitter): (&StreamId, &Arc<Mutex<Emitter>>)| {
            let last = emitter.lock().last;
            Some((Arc::clone(id), last?.wall))
        };
        streams.iter().filter_map(last).collect()
    }

    /// The last scores of `stream`.
    pub fn latest(&self, stream: &str) -> Vec<LatestScore> {
        let Some(emitter) = self.emitter(stream) else { return Vec::new() };
        let emitter = emitter.lock();
        let of_board = |board: &super::Board| {
            let latest = |label: &Watched| {
                let (region, set) = (board.region.clone(), Arc::clone(&board.set));
                let name = Arc::clone(&label.rules.name);
                Some(LatestScore { region, set, label: name, score: label.latest? })
            };
            board.labels.iter().filter_map(latest).collect::<Vec<_>>()
        };
        emitter.boards.iter().flat_map(of_board).collect()
    }

    /// The calibrated labels of `stream` of which enough is known at `now`.
    pub fn drifts(&self, stream: &str, now: Instant) -> Vec<LabelDrift> {
        let Some(emitter) = self.emitter(stream) else { return Vec::new() };
        let emitter = emitter.lock();
        let Some(first) = emitter.first else { return Vec::new() };
        let now = second(&first, now);
        let of_board = |board: &super::Board| {
            let drift = |label: &Watched| {
                let (region, set) = (board.region.clone(), Arc::clone(&board.set));
                let share = label.drift?.share(now)?;
                Some(LabelDrift { region, set, label: Arc::clone(&label.rules.name), share })
            };
            board.labels.iter().filter_map(drift).collect::<Vec<_>>()
        };
        emitter.boards.iter().flat_map(of_board).collect()
    }
}

impl Standing {
    /// In words, told at `now`; `detail` as it was taken with.
    pub fn reading(&self, now: Instant, detail: Detail) -> StreamScores {
        let clock = self.first.zip(self.last).map(|(first, last)| Clock { first, last, now });
        let scores = self.boards.iter().flat_map(|board| {
            let words = Words { rivals: &board.rivals, clock };
            board.labels.iter().map(move |label| reading(board.region.as_deref(), &board.set, label, &words, detail))
        });
        StreamScores {
            stream: self.stream.clone(),
            at: self.last.map(|last| last.wall),
            age: self.last.map(|last| now.saturating_duration_since(last.captured).as_secs_f64()),
            scores: scores.collect(),
        }
    }
}

/// Turns the samples' own times into the wall clock's.
#[derive(Clone, Copy)]
struct Clock {
    first: FrameTime,
    last: FrameTime,
    now: Instant,
}

impl Clock {
    /// Seconds since the first sample.
    fn second(&self) -> u32 {
        second(&self.first, self.now)
    }

    fn of_second(&self, second: u32) -> Timestamp {
        let age = self.last.captured.saturating_duration_since(self.first.captured).as_secs_f64() - f64::from(second);
        self.last.wall.saturating_sub(Duration::from_secs_f64(age.max(0.0))).unwrap_or(self.last.wall)
    }

    fn of_media(&self, media: Duration) -> Timestamp {
        let ahead = media.saturating_sub(self.last.media);
        self.last.wall.saturating_add(ahead).unwrap_or(self.last.wall)
    }
}

/// Seconds from the first sample to `at`.
pub(super) fn second(first: &FrameTime, at: Instant) -> u32 {
    u32::try_from(at.saturating_duration_since(first.captured).as_secs()).unwrap_or(u32::MAX)
}

/// What numbers are put into words with.
struct Words<'a> {
    rivals: &'a [NamedRival],
    /// `None` before the first sample.
    clock: Option<Clock>,
}

impl Words<'_> {
    fn told(&self, score: LabelScore) -> Told {
        let rival = score.rival.and_then(|rival| self.rivals.get(rival.0 as usize));
        Told {
            score: Some(score.probability()).filter(|score| score.is_finite()),
            margin: Some(score.margin).filter(|margin| margin.is_finite()),
            rival: rival.map(|rival| rival.name.clone()),
            rival_kind: rival.map(|rival| rival.kind),
        }
    }

    fn peak(&self, peak: &Peak) -> Option<PeakReading> {
        Some(PeakReading { at: self.clock?.of_second(peak.second), told: self.told(peak.score) })
    }

    fn swallowed(&self, one: &SwallowedStart) -> SwallowedReading {
        let short_by = match one.cause {
            Cause::After { short_by } | Cause::Cooldown { short_by } => short_by.as_secs_f64(),
            Cause::Gap => 0.0,
            Cause::Rival { short_by } => f64::from(short_by),
        };
        let (at, lasted) = (one.run.since.wall, one.run.lasted().as_secs_f64());
        SwallowedReading {
            by: one.cause.as_str(),
            at,
            media_start: seconds(one.run.since.media),
            lasted,
            short_by,
            told: self.told(one.run.peak),
        }
    }
}

impl Level {
    pub fn of(threshold: Threshold) -> Self {
        Self { score: threshold.probability(), margin: Some(threshold.margin()).filter(|margin| margin.is_finite()) }
    }
}

fn reading(region: Option<&str>, set: &str, label: &Watched, words: &Words<'_>, detail: Detail) -> LabelReading {
    let thresholds = label.tracker.thresholds();
    let swallowed = label.tracker.swallowed();
    let (thresholds_from, waits) = match &label.rules.origin {
        ThresholdOrigin::Configuration => ("configuration", None),
        ThresholdOrigin::Calibration(_) => ("calibration", None),
        ThresholdOrigin::Waiting(why) => ("waiting", Some(why.to_string())),
    };
    let wall = |until: Duration| words.clock.map(|clock| clock.of_media(until));
    let (state, since, until) = match label.tracker.phase() {
        _ if !label.hours.is_active() => (LabelState::Inactive, None, label.hours.until()),
        // Nothing of what it was counts, cooldown neither.
        _ if label.rules.origin.is_waiting() => (LabelState::Idle, None, None),
        Phase::Idle => (LabelState::Idle, None, None),
        Phase::RisingSince(since) => (LabelState::Rising, Some(since), None),
        Phase::OpenSince(since) => (LabelState::Open, Some(since), None),
        Phase::Cooldown { until, rising } => (LabelState::Cooldown, rising, wall(until)),
    };
    let now = words.clock.map_or(0, |clock| clock.second());
    let (peaks, history) = (|| label.peaks.until(now), detail == Detail::History);
    let best = peaks().copied().reduce(|a, b| if a.score.best(b.score) == a.score { a } else { b });
    LabelReading {
        region: region.map(str::to_owned),
        set: set.to_owned(),
        label: label.rules.name.to_string(),
        told: label.latest.map_or(Told { score: None, margin: None, rival: None, rival_kind: None }, |s| words.told(s)),
        enter: Level::of(thresholds.enter),
        exit: Level::of(thresholds.exit),
        after: thresholds.after.as_secs_f64(),
        after_exit: thresholds.after_exit.as_secs_f64(),
        cooldown: thresholds.cooldown.as_secs_f64(),
        thresholds_from,
        waits,
        drift: label.drift.and_then(|drift| drift.share(now)),
        state,
        since: since.map(|since| since.wall),
        until,
        peak: best.and_then(|peak| words.peak(&peak)),
        swallowed: swallowed.counts,
        peaks: history.then(|| peaks().filter_map(|peak| words.peak(peak)).collect()),
        swallowed_latest: history.then(|| swallowed.recent().map(|one| words.swallowed(one)).collect()),
    }
}

#[cfg(test)]
mod tests;
