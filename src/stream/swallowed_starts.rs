//! Starts of a stream that were swallowed: a label looked like one, and no tag started. Counted by region, label and cause.
//!
//! In: what the [tracker](crate::event::tracker) has found, on the scoring thread. Out: numbers for the metrics, the API and `status`; any thread. There are as many
//! counts as the stream has labels, in each of its regions; those of labels that have gone are dropped.

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
    /// Left out for the whole view.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    pub set: String,
    pub label: String,
    #[serde(flatten)]
    pub counts: SwallowedCounts,
}

/// See the module.
#[derive(Debug)]
pub struct SwallowedStarts {
    stream: StreamId,
    counts: Mutex<BTreeMap<Key, SwallowedCounts>>,
}

/// (region, set, label).
type Key = (Option<String>, String, String);

impl SwallowedStarts {
    pub fn new(stream: &StreamId) -> Self {
        Self { stream: stream.clone(), counts: Mutex::default() }
    }

    pub fn count(&self, region: Option<&str>, set: &str, label: &str, cause: Cause) {
        let (stream, why) = (self.stream.to_string(), cause.as_str());
        let (region, set, label) = (region.map(str::to_owned), set.to_owned(), label.to_owned());
        let (of_set, of_label) = (set.clone(), label.clone());
        let counter = match region.clone() {
            None => {
                metrics::counter!("vtagd_starts_swallowed_total", "stream" => stream, "set" => of_set, "label" => of_label, "why" => why)
            }
            Some(region) => {
                metrics::counter!("vtagd_starts_swallowed_total", "stream" => stream, "region" => region, "set" => of_set, "label" => of_label, "why" => why)
            }
        };
        counter.increment(1);
        self.counts.lock().entry((region, set, label)).or_default().add(cause);
    }

    /// Forgets labels that are not among these.
    pub fn keep(&self, labels: &[(String, String)]) {
        self.counts.lock().retain(|(_, set, label), _| labels.iter().any(|kept| kept.0 == *set && kept.1 == *label));
    }

    /// Labels of which any start was swallowed.
    pub fn report(&self) -> Vec<SwallowedReport> {
        let report = |((region, set, label), counts): (&Key, &SwallowedCounts)| SwallowedReport {
            region: region.clone(),
            set: set.clone(),
            label: label.clone(),
            counts: *counts,
        };
        self.counts.lock().iter().map(report).collect()
    }
}
