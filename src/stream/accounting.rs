//! Frame accounting (invariant 2): every sampled frame ends as inferred, reused or dropped{reason}, exactly once.
//!
//! A [`FrameGuard`] is made when a frame is sampled and travels with it. Whoever ends the frame's way completes the guard;
//! one that is dropped before that counts as dropped for the reason it was last marked with, so no path can forget.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::stream::StreamId;

/// Why a sampled frame was not looked at. The set is closed so that metric cardinality is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// A newer frame of the same stream took its slot.
    Superseded,
    /// It was sampled but could not be converted or mapped.
    Decode,
    /// Preprocessing failed.
    Preprocess,
    /// The inference run failed.
    Inference,
    /// The daemon was stopping.
    Shutdown,
    /// `model: none` looks at nothing.
    NoModel,
}

impl DropReason {
    pub const ALL: [Self; 6] =
        [Self::Superseded, Self::Decode, Self::Preprocess, Self::Inference, Self::Shutdown, Self::NoModel];

    /// Value of the `reason` metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Superseded => "superseded",
            Self::Decode => "decode",
            Self::Preprocess => "preprocess",
            Self::Inference => "inference",
            Self::Shutdown => "shutdown",
            Self::NoModel => "no_model",
        }
    }
}

/// How a frame's way ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameOutcome {
    Inferred,
    /// The last embedding was used again because the view had not changed.
    Reused,
    Dropped(DropReason),
}

/// Counters of one stream. Totals only grow.
#[derive(Debug, Default)]
pub struct FrameAccounting {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    sampled: u64,
    inferred: u64,
    reused: u64,
    dropped: [u64; DropReason::ALL.len()],
    /// Everything that was out has been counted; what comes back later counts no more.
    closed: bool,
}

/// A reading of an [`FrameAccounting`].
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    pub sampled: u64,
    pub inferred: u64,
    pub reused: u64,
    pub dropped: BTreeMap<&'static str, u64>,
}

impl Totals {
    /// Sampled frames that have not ended yet; 0 once everything has drained.
    pub fn unaccounted(&self) -> i64 {
        let ended = self.inferred + self.reused + self.dropped.values().sum::<u64>();
        self.sampled as i64 - ended as i64
    }

    /// What has been added since `before`, an earlier reading of the same accounting.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let dropped = self.dropped.iter().map(|(reason, n)| {
            let before = before.dropped.get(reason).copied().unwrap_or_default();
            (*reason, n.saturating_sub(before))
        });
        Self {
            sampled: self.sampled.saturating_sub(before.sampled),
            inferred: self.inferred.saturating_sub(before.inferred),
            reused: self.reused.saturating_sub(before.reused),
            dropped: dropped.filter(|(_, n)| *n > 0).collect(),
        }
    }
}

impl FrameAccounting {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock()
    }

    pub fn totals(&self) -> Totals {
        let counts = self.counts();
        let dropped = DropReason::ALL.into_iter().map(|r| (r.as_str(), counts.dropped[r as usize]));
        Totals {
            sampled: counts.sampled,
            inferred: counts.inferred,
            reused: counts.reused,
            dropped: dropped.filter(|(_, n)| *n > 0).collect(),
        }
    }

    /// The accounting of `stream`. Its counters are there from the start: one that first appears with 1 has not grown, as far as
    /// Prometheus can tell.
    pub fn open(stream: &StreamId) -> Self {
        let count = |name: &'static str| metrics::counter!(name, "stream" => stream.to_string()).absolute(0);
        count("vtagd_frames_sampled_total");
        count("vtagd_frames_inferred_total");
        count("vtagd_frames_reused_total");
        for reason in DropReason::ALL {
            metrics::counter!("vtagd_frames_dropped_total", "stream" => stream.to_string(), "reason" => reason.as_str())
                .absolute(0);
        }
        Self::default()
    }

    /// Frames that were looked at (also where there is no model to do so), and frames that a newer one superseded.
    pub fn served_and_superseded(&self) -> (u64, u64) {
        let counts = self.counts();
        let served = counts.inferred + counts.reused + counts.dropped[DropReason::NoModel as usize];
        (served, counts.dropped[DropReason::Superseded as usize])
    }

    /// Counts one sampled frame and gives the guard that will end it.
    pub fn sample(self: &Arc<Self>, stream: &StreamId) -> FrameGuard {
        let mut counts = self.counts();
        // A source that is late at shutdown goes on sampling; nobody adds up what it does.
        let fate = (!counts.closed).then_some(DropReason::Shutdown);
        if fate.is_some() {
            counts.sampled += 1;
            metrics::counter!("vtagd_frames_sampled_total", "stream" => stream.to_string()).increment(1);
        }
        drop(counts);
        FrameGuard {
            accounting: Arc::clone(self),
            stream: Arc::clone(stream),
            fate: Mutex::new(fate),
            watcher: Mutex::default(),
        }
    }

    /// Ends the accounting at shutdown: frames that a late stage still holds are counted as dropped (`shutdown`) now, and not
    /// again when they come back. Returns how many there were.
    pub fn close(&self, stream: &StreamId) -> u64 {
        let mut counts = self.counts();
        let ended = counts.inferred + counts.reused + counts.dropped.iter().sum::<u64>();
        let held = if counts.closed { 0 } else { counts.sampled.saturating_sub(ended) };
        for _ in 0..held {
            counts.end(stream, FrameOutcome::Dropped(DropReason::Shutdown));
        }
        counts.closed = true;
        held
    }

    fn complete(&self, stream: &StreamId, outcome: FrameOutcome) {
        let mut counts = self.counts();
        if !counts.closed {
            counts.end(stream, outcome);
        }
    }
}

impl Counts {
    fn end(&mut self, stream: &StreamId, outcome: FrameOutcome) {
        let stream = stream.to_string();
        match outcome {
            FrameOutcome::Inferred => {
                self.inferred += 1;
                metrics::counter!("vtagd_frames_inferred_total", "stream" => stream).increment(1);
            }
            FrameOutcome::Reused => {
                self.reused += 1;
                metrics::counter!("vtagd_frames_reused_total", "stream" => stream).increment(1);
            }
            FrameOutcome::Dropped(reason) => {
                self.dropped[reason as usize] += 1;
                metrics::counter!("vtagd_frames_dropped_total", "stream" => stream, "reason" => reason.as_str())
                    .increment(1);
            }
        }
    }
}

/// Who hears how a frame's way ends, once, on the thread that ends it and before anything else can happen to its stream; must not wait.
pub struct OutcomeWatcher(Box<dyn FnOnce(FrameOutcome) + Send>);

impl OutcomeWatcher {
    pub fn new(watch: impl FnOnce(FrameOutcome) + Send + 'static) -> Self {
        Self(Box::new(watch))
    }
}

impl fmt::Debug for OutcomeWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OutcomeWatcher")
    }
}

/// The right to end one sampled frame's way, once.
#[derive(Debug)]
pub struct FrameGuard {
    accounting: Arc<FrameAccounting>,
    stream: StreamId,
    /// What a silent drop counts as; `None` once completed.
    fate: Mutex<Option<DropReason>>,
    watcher: Mutex<Option<OutcomeWatcher>>,
}

impl FrameGuard {
    /// The same, whose end `watcher` hears of.
    #[must_use]
    pub fn watched(mut self, watcher: Option<OutcomeWatcher>) -> Self {
        *self.watcher.get_mut() = watcher;
        self
    }

    /// Ends the frame's way. Later calls do nothing: the first ending counts.
    pub fn complete(&self, outcome: FrameOutcome) {
        if self.fate.lock().take().is_some() {
            self.end(outcome);
        }
    }

    fn end(&self, outcome: FrameOutcome) {
        let watcher = self.watcher.lock().take();
        // First: a stream whose frames have all been counted may be told that nothing is there any more.
        if let Some(OutcomeWatcher(watch)) = watcher {
            watch(outcome);
        }
        self.accounting.complete(&self.stream, outcome);
    }

    /// Whether the frame's way has ended already.
    pub fn is_complete(&self) -> bool {
        self.fate.lock().is_none()
    }
}

impl Drop for FrameGuard {
    fn drop(&mut self) {
        let fate = self.fate.get_mut().take();
        if let Some(reason) = fate {
            self.end(FrameOutcome::Dropped(reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_counted_once_however_often_it_is_completed() {
        let accounting = Arc::new(FrameAccounting::default());
        let stream: StreamId = "a".into();
        let guard = accounting.sample(&stream);
        guard.complete(FrameOutcome::Inferred);
        guard.complete(FrameOutcome::Dropped(DropReason::Inference));
        drop(guard);
        let totals = accounting.totals();
        assert_eq!((totals.sampled, totals.inferred, totals.unaccounted()), (1, 1, 0));
        assert!(totals.dropped.is_empty());
    }

    #[test]
    fn who_watches_a_frame_hears_its_end_once_whatever_it_is() {
        let (accounting, stream) = (Arc::new(FrameAccounting::default()), StreamId::from("a"));
        for outcome in [Some(FrameOutcome::Reused), None] {
            let (heard, ends) = std::sync::mpsc::sync_channel(1);
            let watcher = OutcomeWatcher::new(move |outcome| heard.send(outcome).unwrap());
            let guard = accounting.sample(&stream).watched(Some(watcher));
            outcome.into_iter().for_each(|outcome| guard.complete(outcome));
            drop(guard);
            let expected = outcome.unwrap_or(FrameOutcome::Dropped(DropReason::Shutdown));
            assert_eq!(ends.iter().collect::<Vec<_>>(), [expected]);
        }
    }

    #[test]
    fn frames_held_by_a_late_stage_are_counted_at_the_end_and_not_again() {
        let accounting = Arc::new(FrameAccounting::default());
        let stream: StreamId = "a".into();
        let (held, done) = (accounting.sample(&stream), accounting.sample(&stream));
        done.complete(FrameOutcome::Inferred);
        assert_eq!(accounting.close(&stream), 1);
        held.complete(FrameOutcome::Inferred);
        drop(accounting.sample(&stream));
        let totals = accounting.totals();
        assert_eq!((totals.sampled, totals.inferred, totals.dropped.get("shutdown")), (2, 1, Some(&1)));
        assert_eq!(totals.unaccounted(), 0);
    }

    #[test]
    fn the_difference_of_two_readings_is_what_happened_between_them() {
        let accounting = Arc::new(FrameAccounting::default());
        let stream: StreamId = "a".into();
        let end = |outcome| accounting.sample(&stream).complete(outcome);
        let ends = [
            FrameOutcome::Inferred,
            FrameOutcome::Dropped(DropReason::Decode),
            FrameOutcome::Dropped(DropReason::Superseded),
        ];
        ends.into_iter().for_each(end);
        let before = accounting.totals();
        assert_eq!(before.since(&before), Totals::default());
        [FrameOutcome::Inferred, FrameOutcome::Reused, FrameOutcome::Dropped(DropReason::Superseded)]
            .into_iter()
            .for_each(end);
        let wanted = Totals { sampled: 3, inferred: 1, reused: 1, dropped: [("superseded", 1)].into() };
        assert_eq!(accounting.totals().since(&before), wanted);
        assert_eq!(before.since(&Totals::default()), before);
    }

    #[test]
    fn a_forgotten_frame_guard_still_ends_in_a_counter() {
        let accounting = Arc::new(FrameAccounting::default());
        drop(accounting.sample(&"a".into()));
        assert_eq!(accounting.totals().dropped.get("shutdown"), Some(&1));
        assert_eq!(accounting.totals().unaccounted(), 0);
    }
}
