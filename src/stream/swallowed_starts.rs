//! Starts of a stream that were swallowed: a label looked like one, and no tag started. Counted by label and cause.
//!
//! In: what the [tracker](crate::event::tracker) has found, on the scoring thread. Out: numbers for the metrics, the API and `status`; any thread. There are as many
//! counts as the stream has labels; those of labels that have gone are dropped.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use crate::stream::StreamId;

/// Values of the label `why` of the metric.
pub const CAUSES: [&str; 4] = ["after", "cooldown", "gap", "rival"];

/// What swallowed a start, and what it was short of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cause {
    /// It was at or above `enter`, but not for `after`.
    After { short_by: Duration },
    /// It was at or above `enter` for `after`, and over before the cooldown was.
    Cooldown { short_by: Duration },
    /// It was at or above `enter`, and then no sample came for so long that nothing is known.
    Gap,
    /// It came above `exit` and not to `enter`: the best rival kept the rest, a margin.
    Rival { short_by: f32 },
}

impl Cause {
    /// One of [`CAUSES`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::After { .. } => "after",
            Self::Cooldown { .. } => "cooldown",
            Self::Gap => "gap",
            Self::Rival { .. } => "rival",
        }
    }
}

/// How many starts each cause has swallowed. Only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SwallowedCounts {
    pub after: u64,
    pub cooldown: u64,
    pub gap: u64,
    pub rival: u64,
}

impl SwallowedCounts {
    pub const fn add(&mut self, cause: Cause) {
        let count = match cause {
            Cause::After { .. } => &mut self.after,
            Cause::Cooldown { .. } => &mut self.cooldown,
            Cause::Gap => &mut self.gap,
            Cause::Rival { .. } => &mut self.rival,
        };
        *count += 1;
    }
}

/// One label's, as the API shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SwallowedReport {
    pub set: String,
    pub label: String,
    #[serde(flatten)]
    pub counts: SwallowedCounts,
}

/// See the module.
#[derive(Debug)]
pub struct SwallowedStarts {
    stream: StreamId,
    /// By (set, label).
    counts: Mutex<BTreeMap<(String, String), SwallowedCounts>>,
}

impl SwallowedStarts {
    pub fn new(stream: &StreamId) -> Self {
        Self { stream: stream.clone(), counts: Mutex::default() }
    }

    pub fn count(&self, set: &str, label: &str, cause: Cause) {
        metrics::counter!("vtagd_starts_swallowed_total", "stream" => self.stream.to_string(), "set" => set.to_owned(), "label" => label.to_owned(), "why" => cause.as_str())
            .increment(1);
        self.counts.lock().entry((set.to_owned(), label.to_owned())).or_default().add(cause);
    }

    /// Forgets labels that are not among these.
    pub fn keep(&self, labels: &[(String, String)]) {
        self.counts.lock().retain(|label, _| labels.contains(label));
    }

    /// Labels of which any start was swallowed.
    pub fn report(&self) -> Vec<SwallowedReport> {
        let report = |((set, label), counts): (&(String, String), &SwallowedCounts)| SwallowedReport {
            set: set.clone(),
            label: label.clone(),
            counts: *counts,
        };
        self.counts.lock().iter().map(report).collect()
    }
}
