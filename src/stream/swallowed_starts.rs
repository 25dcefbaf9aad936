//! Starts of a stream that were swallowed: a label's score reached `enter`, and no tag started. Counted by label and reason.
//!
//! In: what the tracker has found, on the scoring thread. Out: numbers for the metrics, the API and `status`; any thread. There are as many
//! counts as the stream has labels; those of labels that have gone are dropped.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde::Serialize;

use crate::stream::StreamId;

/// Why a run of scores at or above `enter` has started no tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwallowedBy {
    /// It was shorter than `after`.
    After,
    /// It was long enough, and over before the cooldown of the last start was.
    Cooldown,
    /// The next sample came so late that nobody knows what was in between.
    Gap,
}

impl SwallowedBy {
    pub const ALL: [Self; 3] = [Self::After, Self::Cooldown, Self::Gap];

    /// Value of the label `why` of the metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::After => "after",
            Self::Cooldown => "cooldown",
            Self::Gap => "gap",
        }
    }
}

/// One label's, as the API shows them. Totals only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SwallowedReport {
    pub set: String,
    pub label: String,
    pub after: u64,
    pub cooldown: u64,
    pub gap: u64,
}

/// See the module.
#[derive(Debug)]
pub struct SwallowedStarts {
    stream: StreamId,
    /// By (set, label).
    counts: Mutex<BTreeMap<(String, String), [u64; SwallowedBy::ALL.len()]>>,
}

impl SwallowedStarts {
    pub fn new(stream: &StreamId) -> Self {
        Self { stream: stream.clone(), counts: Mutex::default() }
    }

    pub fn count(&self, set: &str, label: &str, why: SwallowedBy) {
        metrics::counter!("vtagd_starts_swallowed_total", "stream" => self.stream.to_string(), "set" => set.to_owned(), "label" => label.to_owned(), "why" => why.as_str())
            .increment(1);
        self.counts.lock().entry((set.to_owned(), label.to_owned())).or_default()[why as usize] += 1;
    }

    /// Forgets labels that are not among these.
    pub fn keep(&self, labels: &[(String, String)]) {
        self.counts.lock().retain(|label, _| labels.contains(label));
    }

    /// Labels of which any start was swallowed.
    pub fn report(&self) -> Vec<SwallowedReport> {
        let report = |((set, label), [after, cooldown, gap]): (&(String, String), &[u64; 3])| SwallowedReport {
            set: set.clone(),
            label: label.clone(),
            after: *after,
            cooldown: *cooldown,
            gap: *gap,
        };
        self.counts.lock().iter().map(report).collect()
    }
}
