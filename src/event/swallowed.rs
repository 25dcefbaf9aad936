//! Starts that were none: a label looked like one for a while, and something swallowed it. The tracker notes them; whoever asks why nothing
//! was told reads them. Pure. Full: the oldest goes; the counts go on.

use std::collections::VecDeque;
use std::time::Duration;

use crate::frame::FrameTime;
use crate::score::LabelScore;
use crate::stream::swallowed_starts::{Cause, SwallowedCounts};

/// So many of the latest are kept of a label.
pub const KEPT: usize = 16;

/// Samples one after the other that a label was high in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    pub since: FrameTime,
    pub last: FrameTime,
    /// The best of them.
    pub peak: LabelScore,
}

impl Run {
    pub(super) fn new(time: FrameTime, score: LabelScore) -> Self {
        Self { since: time, last: time, peak: score }
    }

    /// With one sample more.
    pub(super) fn and(self, time: FrameTime, score: LabelScore) -> Self {
        Self { last: time, peak: self.peak.best(score), ..self }
    }

    /// From its first sample to its last, in media time.
    pub fn lasted(&self) -> Duration {
        self.last.media.saturating_sub(self.since.media)
    }
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SwallowedStart {
    pub run: Run,
    pub cause: Cause,
}

/// Those of one label.
#[derive(Clone, Debug, Default)]
pub struct Swallowed {
    pub counts: SwallowedCounts,
    /// What the last sample has brought, until somebody takes it.
    fresh: Option<Cause>,
    recent: VecDeque<SwallowedStart>,
}

impl Swallowed {
    pub(super) fn note(&mut self, run: Run, cause: Cause) {
        self.counts.add(cause);
        self.fresh = Some(cause);
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(SwallowedStart { run, cause });
    }

    /// What has been noted last; once.
    pub(super) fn take(&mut self) -> Option<Cause> {
        self.fresh.take()
    }

    /// The counts alone.
    pub(super) fn counted(&self) -> Self {
        Self { counts: self.counts, ..Self::default() }
    }

    pub(super) fn forget(&mut self) {
        self.recent.clear();
    }

    /// The latest, oldest first.
    pub fn recent(&self) -> impl Iterator<Item = &SwallowedStart> {
        self.recent.iter()
    }
}
