//! Which samples a mark speaks of.
//!
//! In: the samples of a recording and its marks. Out: each marked interval with the margins that count in it: edges within [`EDGE`] do not,
//! since nobody can say when exactly a thing comes into view. Pure.

use std::time::Duration;

use super::Recording;
use super::fit::Weighted;

/// Seconds at each end of a mark that do not count.
pub const EDGE: f64 = 0.5;

/// What is rounding rather than time.
const TINY: f64 = 1e-6;

/// A margin, from one moment to another: the same for a sample of a clip; of a history, the first and the last sample that it stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub from: f64,
    pub to: f64,
    pub margin: f32,
}

impl Sample {
    /// One sample.
    pub fn at(at: f64, margin: f32) -> Self {
        Self { from: at, to: at, margin }
    }
}

/// A mark with its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct MarkedInterval {
    /// Index of the recording.
    pub recording: usize,
    pub from: f64,
    pub to: f64,
    pub is_seen: bool,
    pub samples: Vec<Weighted>,
}

/// The marks of `recording`, which has the number `at`; those that overlap are one. In the order of time, the seen first.
pub fn of(at: usize, recording: &Recording<'_>, every: Duration) -> Vec<MarkedInterval> {
    // Where the longest one began that may still reach into an interval.
    let mut reach = Vec::with_capacity(recording.samples.len());
    let mut latest = f64::NEG_INFINITY;
    for sample in recording.samples {
        latest = latest.max(sample.to);
        reach.push(latest);
    }
    let marked = |spans: &[(f64, f64)], is_seen| {
        let of_span = |(from, to): (f64, f64)| {
            let (first, last) = (from + EDGE, to - EDGE);
            let start = reach.partition_point(|latest| *latest < first - TINY);
            let inside = recording.samples[start..].iter().take_while(|sample| sample.from <= last + TINY);
            let samples = inside.filter_map(|sample| counted(sample, first, last, every)).collect();
            MarkedInterval { recording: at, from, to, is_seen, samples }
        };
        joined(spans).into_iter().map(of_span).collect::<Vec<_>>()
    };
    let mut all = marked(recording.seen, true);
    all.extend(marked(recording.absent, false));
    all
}

/// How often a sample counts between `first` and `last`: once for each sampling interval it stands for.
fn counted(sample: &Sample, first: f64, last: f64, every: Duration) -> Option<Weighted> {
    let (from, to) = (sample.from.max(first), sample.to.min(last));
    if to < from - TINY {
        return None;
    }
    // As many steps as fit, and the sample that begins them.
    Some(Weighted { margin: sample.margin, count: 1 + steps(to - from, every) })
}

/// How many sampling intervals fit into so many seconds.
pub fn steps(seconds: f64, every: Duration) -> u64 {
    (seconds.max(0.0) / every.as_secs_f64().max(1e-3) + TINY).floor() as u64
}

/// Sorted, and those that overlap or touch as one.
pub fn joined(spans: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut sorted: Vec<(f64, f64)> = spans.iter().copied().filter(|(from, to)| from < to).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut out: Vec<(f64, f64)> = Vec::new();
    for (from, to) in sorted {
        match out.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => out.push((from, to)),
        }
    }
    out
}
