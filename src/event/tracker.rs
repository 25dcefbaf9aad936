//! The state machine of one (stream, label): a run of scores in, start/update/end out. Pure; time is a parameter.
//!
//! Scores are compared as margins, which do not round to 0 or 1. A tag starts when its score has been ≥ `enter` on every sample for `after`, and ends when it has been < `exit` for
//! `after_exit`. Between the two thresholds nothing changes (hysteresis). After a start was emitted the next one may come
//! only `cooldown` later. A tag's interval runs from the first sample that counted towards its start to the first that
//! counted towards its end, so the waiting times do not shift it. What looked like a start and was none is [noted](super::swallowed).

use std::time::Duration;

use super::Thresholds;
use super::continuity::Continuity;
use super::swallowed::{Run, Swallowed};
use crate::frame::FrameTime;
use crate::score::{LabelScore, margin};
use crate::stream::swallowed_starts::Cause;

/// A peak has to rise by this much to be worth an update …
const UPDATE_RISE: f32 = 0.05;
/// … and updates of one tag are at least this far apart.
const UPDATE_SPACING: Duration = Duration::from_secs(10);

/// Why a tag ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The score stayed below `exit`.
    BelowExit,
    /// The stream has ended (a file).
    StreamEnded,
    /// The daemon is stopping.
    Shutdown,
    /// The configuration has changed: the stream was removed, switched off or replaced, or the label has gone.
    Reconfigured,
    /// The daemon was killed, or the power failed, while the tag was open: told at the next start.
    Interrupted,
    /// The label's hours are over.
    Inactive,
}

/// What a sample changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    Start { tag: Tag },
    Update { tag: Tag },
    End { tag: Tag, ended: FrameTime, reason: EndReason },
}

/// An open tag: where it began, how strong it was at best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tag {
    pub started: FrameTime,
    /// Of the latest sample.
    pub score: LabelScore,
    /// Best margin so far.
    pub peak: f32,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Below `enter`.
    Idle { approach: Approach },
    /// At or above `enter` since `run.since`, but not long enough yet, or in cooldown.
    Rising { run: Run },
    /// Open. `emitted_peak` is a margin; `falling` is the first sample of the current run below `exit`.
    Open { tag: Tag, emitted_peak: f32, emitted_at: Duration, falling: Option<FrameTime> },
}

/// What of an idle label has been between `exit` and `enter`.
#[derive(Clone, Copy, Debug)]
enum Approach {
    /// Nothing.
    Below,
    /// It has come from below `exit`, and has not reached `enter`.
    From(Run),
    /// It has been above `enter`, which has been noted.
    Spent,
}

const IDLE: State = State::Idle { approach: Approach::Below };

/// Where a label stands, for whoever looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Phase {
    Idle,
    /// At or above `enter`, not long enough yet.
    RisingSince(FrameTime),
    OpenSince(FrameTime),
    /// Not open, and no start before this media time; it may be at or above `enter` meanwhile.
    Cooldown {
        until: Duration,
        rising: Option<FrameTime>,
    },
}

/// Tracks one label of one stream.
#[derive(Clone, Debug)]
pub struct Tracker {
    thresholds: Thresholds,
    /// Its two margins.
    enter: f32,
    exit: f32,
    state: State,
    /// Media time before which no start may be emitted.
    quiet_until: Option<Duration>,
    continuity: Continuity,
    swallowed: Swallowed,
}

impl Tracker {
    /// `gap` is the longest time between any two samples that may still count as one run, see [`Continuity`]: what happened while a camera was
    /// away is not known, so neither a start nor an end that was under way goes on after it.
    pub fn new(thresholds: Thresholds, gap: Duration) -> Self {
        let (enter, exit) = thresholds.margins();
        Self {
            thresholds,
            enter,
            exit,
            state: IDLE,
            quiet_until: None,
            continuity: Continuity::new(gap),
            swallowed: Swallowed::default(),
        }
    }

    /// Goes on under other thresholds, with the state and the cooldown it has.
    pub fn change(&mut self, thresholds: Thresholds, gap: Duration) {
        (self.enter, self.exit) = thresholds.margins();
        self.thresholds = thresholds;
        self.continuity.change(gap);
    }

    /// The open tag, if there is one.
    pub fn open(&self) -> Option<Tag> {
        match self.state {
            State::Open { tag, .. } => Some(tag),
            State::Idle { .. } | State::Rising { .. } => None,
        }
    }

    pub fn thresholds(&self) -> &Thresholds {
        &self.thresholds
    }

    /// Starts that were none.
    pub fn swallowed(&self) -> &Swallowed {
        &self.swallowed
    }

    /// The same, without the latest starts that were none one by one.
    pub fn without_recent(&self) -> Self {
        Self { swallowed: self.swallowed.counted(), ..*self }
    }

    /// A run at or above `enter` is over, because of its cooldown if that alone was in its way, else for `why`.
    fn note(&mut self, run: Run, why: Cause) {
        let held = run.lasted() >= self.thresholds.after;
        let short_by = self.quiet_until.unwrap_or_default().saturating_sub(run.last.media);
        self.swallowed.note(run, if held { Cause::Cooldown { short_by } } else { why });
    }

    /// Why the last sample, or the last [close](Self::close), ended what looked like a start; told once.
    pub fn take_swallowed(&mut self) -> Option<Cause> {
        self.swallowed.take()
    }

    /// Starts that were none are counted on, and no longer known one by one.
    pub fn forget_swallowed(&mut self) {
        self.swallowed.forget();
        if let State::Idle { .. } = self.state {
            self.state = IDLE;
        }
    }

    /// Where it stands after its last sample.
    pub fn phase(&self) -> Phase {
        let quiet = self.quiet_until.filter(|until| self.continuity.last().is_none_or(|last| last.media < *until));
        match (self.state, quiet) {
            (State::Open { tag, .. }, _) => Phase::OpenSince(tag.started),
            (State::Rising { run }, Some(until)) => Phase::Cooldown { until, rising: Some(run.since) },
            (State::Idle { .. }, Some(until)) => Phase::Cooldown { until, rising: None },
            (State::Rising { run }, None) => Phase::RisingSince(run.since),
            (State::Idle { .. }, None) => Phase::Idle,
        }
    }

    /// Takes one sample. `time.media` must not go back.
    pub fn sample(&mut self, time: FrameTime, score: LabelScore) -> Option<Change> {
        if !self.continuity.note(time) {
            match &mut self.state {
                State::Open { falling, .. } => *falling = None,
                State::Rising { run } => {
                    let run = *run;
                    self.note(run, Cause::Gap);
                    self.state = IDLE;
                }
                State::Idle { .. } => self.state = IDLE,
            }
        }
        match self.state {
            State::Idle { .. } | State::Rising { .. } => self.rise(time, score),
            State::Open { tag, emitted_peak, emitted_at, falling } => {
                let tag = Tag { score, peak: tag.peak.max(score.margin), ..tag };
                let falling = (score.margin < self.exit).then(|| falling.unwrap_or(time));
                if let Some(ended) = falling
                    && time.media.saturating_sub(ended.media) >= self.thresholds.after_exit
                {
                    self.state = IDLE;
                    return Some(Change::End { tag, ended, reason: EndReason::BelowExit });
                }
                let spaced = time.media.saturating_sub(emitted_at) >= UPDATE_SPACING;
                let risen = || margin::probability(tag.peak) - margin::probability(emitted_peak) >= UPDATE_RISE;
                if spaced && tag.peak > emitted_peak && risen() {
                    self.state = State::Open { tag, emitted_peak: tag.peak, emitted_at: time.media, falling };
                    return Some(Change::Update { tag });
                }
                self.state = State::Open { tag, emitted_peak, emitted_at, falling };
                None
            }
        }
    }

    fn rise(&mut self, time: FrameTime, score: LabelScore) -> Option<Change> {
        // Also false for a NaN, which must never start a tag.
        let is_above = score.margin >= self.enter;
        if !is_above {
            self.stay_idle(time, score);
            return None;
        }
        let run = match self.state {
            State::Rising { run } => run.and(time, score),
            State::Idle { .. } | State::Open { .. } => Run::new(time, score),
        };
        let long_enough = run.lasted() >= self.thresholds.after;
        let quiet = self.quiet_until.is_some_and(|until| time.media < until);
        if !long_enough || quiet {
            self.state = State::Rising { run };
            return None;
        }
        self.quiet_until = Some(time.media + self.thresholds.cooldown);
        let tag = Tag { started: run.since, score, peak: run.peak.margin };
        self.state = State::Open { tag, emitted_peak: tag.peak, emitted_at: time.media, falling: None };
        Some(Change::Start { tag })
    }

    /// A sample below `enter` while no tag is open: what looked like a start until now has been none.
    fn stay_idle(&mut self, time: FrameTime, score: LabelScore) {
        let near = score.margin >= self.exit;
        let approach = match self.state {
            State::Rising { run } => {
                let short_by = self.thresholds.after.saturating_sub(run.lasted());
                self.note(run, Cause::After { short_by });
                if near { Approach::Spent } else { Approach::Below }
            }
            State::Idle { approach: Approach::From(run) } if near => Approach::From(run.and(time, score)),
            State::Idle { approach: Approach::From(run) } => {
                self.swallowed.note(run, Cause::Rival { short_by: self.enter - run.peak.margin });
                Approach::Below
            }
            State::Idle { approach: Approach::Spent } if near => Approach::Spent,
            State::Idle { .. } | State::Open { .. } if near => Approach::From(Run::new(time, score)),
            State::Idle { .. } | State::Open { .. } => Approach::Below,
        };
        self.state = State::Idle { approach };
    }

    /// The start that was just given reached nobody: its cooldown does not begin.
    pub fn untold(&mut self) {
        self.quiet_until = None;
    }

    /// Ends an open tag from outside, at `time`. The next sample starts from nothing, cooldown aside.
    pub fn close(&mut self, time: FrameTime, reason: EndReason) -> Option<Change> {
        match std::mem::replace(&mut self.state, IDLE) {
            State::Open { tag, falling, .. } => Some(Change::End { tag, ended: falling.unwrap_or(time), reason }),
            // It would have been told by now, but for its cooldown; what of a shorter one would have come, nobody can know.
            State::Rising { run } if run.lasted() >= self.thresholds.after => {
                self.note(run, Cause::Gap);
                None
            }
            State::Idle { .. } | State::Rising { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
