//! The state machine of one (stream, label): a run of scores in, start/update/end out. Pure; time is a parameter.
//!
//! A tag starts when its score has been ≥ `enter` on every sample for `after`, and ends when it has been < `exit` for
//! `after_exit`. Between the two thresholds nothing changes (hysteresis). After a start was emitted the next one may come
//! only `cooldown` later. A tag's interval runs from the first sample that counted towards its start to the first that
//! counted towards its end, so the waiting times do not shift it.

use std::time::Duration;

use super::Thresholds;
use crate::frame::FrameTime;
use crate::stream::swallowed_starts::SwallowedBy;

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
    /// Score of the latest sample.
    pub score: f32,
    pub peak: f32,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Below `enter`.
    Idle,
    /// At or above `enter` since `tag.started`, but not long enough yet, or (`held`) in cooldown.
    Rising { tag: Tag, held: bool },
    /// Open. `falling` is the first sample of the current run below `exit`.
    Open { tag: Tag, emitted_peak: f32, emitted_at: Duration, falling: Option<FrameTime> },
}

/// Tracks one label of one stream.
#[derive(Clone, Debug)]
pub struct Tracker {
    thresholds: Thresholds,
    state: State,
    /// Media time before which no start may be emitted.
    quiet_until: Option<Duration>,
    /// Media time of the last sample.
    last: Option<Duration>,
    /// Samples further apart than this do not continue one another.
    gap: Duration,
    /// What became of the last run that ended without a start, until somebody asks.
    swallowed: Option<SwallowedBy>,
}

impl Tracker {
    /// `gap` is the longest time between two samples that may still count as one run: what happened while a camera was
    /// away is not known, so neither a start nor an end that was under way goes on after it.
    pub fn new(thresholds: Thresholds, gap: Duration) -> Self {
        Self { thresholds, state: State::Idle, quiet_until: None, last: None, gap, swallowed: None }
    }

    /// Goes on under other thresholds, with the state and the cooldown it has.
    pub fn change(&mut self, thresholds: Thresholds, gap: Duration) {
        (self.thresholds, self.gap) = (thresholds, gap);
    }

    /// The open tag, if there is one.
    pub fn open(&self) -> Option<Tag> {
        match self.state {
            State::Open { tag, .. } => Some(tag),
            State::Idle | State::Rising { .. } => None,
        }
    }

    /// Takes one sample. `time.media` must not go back; `score` is in 0..=1.
    pub fn sample(&mut self, time: FrameTime, score: f32) -> Option<Change> {
        let away = self.last.replace(time.media).is_some_and(|last| time.media.saturating_sub(last) > self.gap);
        if away {
            match &mut self.state {
                State::Open { falling, .. } => *falling = None,
                State::Idle | State::Rising { .. } => self.fall(SwallowedBy::Gap),
            }
        }
        match self.state {
            State::Idle | State::Rising { .. } => self.rise(time, score),
            State::Open { tag, emitted_peak, emitted_at, falling } => {
                let tag = Tag { score, peak: tag.peak.max(score), ..tag };
                let falling = (score < self.thresholds.exit).then(|| falling.unwrap_or(time));
                if let Some(ended) = falling
                    && time.media.saturating_sub(ended.media) >= self.thresholds.after_exit
                {
                    self.state = State::Idle;
                    return Some(Change::End { tag, ended, reason: EndReason::BelowExit });
                }
                let risen = tag.peak - emitted_peak >= UPDATE_RISE;
                let spaced = time.media.saturating_sub(emitted_at) >= UPDATE_SPACING;
                if risen && spaced {
                    self.state = State::Open { tag, emitted_peak: tag.peak, emitted_at: time.media, falling };
                    return Some(Change::Update { tag });
                }
                self.state = State::Open { tag, emitted_peak, emitted_at, falling };
                None
            }
        }
    }

    fn rise(&mut self, time: FrameTime, score: f32) -> Option<Change> {
        // Also false for a NaN, which must never start a tag.
        if !matches!(
            score.partial_cmp(&self.thresholds.enter),
            Some(std::cmp::Ordering::Greater | std::cmp::Ordering::Equal)
        ) {
            self.fall(SwallowedBy::After);
            return None;
        }
        let tag = match self.state {
            State::Rising { tag, .. } => Tag { score, peak: tag.peak.max(score), ..tag },
            State::Idle | State::Open { .. } => Tag { started: time, score, peak: score },
        };
        let long_enough = time.media.saturating_sub(tag.started.media) >= self.thresholds.after;
        let quiet = self.quiet_until.is_some_and(|until| time.media < until);
        if !long_enough || quiet {
            self.state = State::Rising { tag, held: long_enough };
            return None;
        }
        self.quiet_until = Some(time.media + self.thresholds.cooldown);
        self.state = State::Open { tag, emitted_peak: tag.peak, emitted_at: time.media, falling: None };
        Some(Change::Start { tag })
    }

    /// A run at or above `enter`, if there was one, ends without a start: because of its cooldown if it was held back by that, else for `why`.
    fn fall(&mut self, why: SwallowedBy) {
        if let State::Rising { held, .. } = std::mem::replace(&mut self.state, State::Idle) {
            self.swallowed = Some(if held { SwallowedBy::Cooldown } else { why });
        }
    }

    /// Why the last sample, or the last [close](Self::close), ended a run at or above `enter` that had made no start; told once.
    pub fn take_swallowed(&mut self) -> Option<SwallowedBy> {
        self.swallowed.take()
    }

    /// The start that was just given reached nobody: its cooldown does not begin.
    pub fn untold(&mut self) {
        self.quiet_until = None;
    }

    /// Ends an open tag from outside, at `time`. The next sample starts from nothing, cooldown aside.
    pub fn close(&mut self, time: FrameTime, reason: EndReason) -> Option<Change> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Open { tag, falling, .. } => Some(Change::End { tag, ended: falling.unwrap_or(time), reason }),
            // It would have been told by now, but for its cooldown; a shorter one nobody can know.
            State::Rising { held: true, .. } => {
                self.swallowed = Some(SwallowedBy::Cooldown);
                None
            }
            State::Idle | State::Rising { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
