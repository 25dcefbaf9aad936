//! Calibration: thresholds of a label out of what a person says of the past.
//!
//! In: a label's margins over time, and [marks](marks), intervals in which it was seen or was not there. Out: [`LabelOutcome`], thresholds with
//! how good they are, or why there are none. Pure: no clock, no input or output, no task; on the caller's thread. Bounded by what comes in:
//! everything is sorted once, and gone through once a [fold](held_out).

pub mod advice;
pub mod fit;
pub mod held_out;
pub mod marked_samples;
pub mod marks;
pub mod past_samples;
pub mod timing;

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::event::Thresholds;
use crate::score::Threshold;
use advice::Moment;
use fit::{Fit, FitRefusal, Weighted};
use held_out::{Check, Tally};
pub use marked_samples::{MarkedInterval, Sample};

/// A recording of a stream: a clip, or a piece of the stream's past. Times are seconds, of whatever clock the marks are of.
#[derive(Clone, Copy, Debug)]
pub struct Recording<'a> {
    /// In the order of time.
    pub samples: &'a [Sample],
    pub seen: &'a [(f64, f64)],
    pub absent: &'a [(f64, f64)],
}

/// How a stream is sampled and what its label has now.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// Between two samples.
    pub every: Duration,
    /// Samples further apart do not continue one another.
    pub gap: Duration,
    /// What is in force, where the label may tell anything at all.
    pub current: Option<Thresholds>,
    /// What its times are taken from.
    pub base: Thresholds,
    /// Any moment: the tracker's times need one, and nothing is made of it.
    pub origin: Instant,
    /// Margins of the label's counter-examples: samples without it, each counting once, of no recording.
    pub counter_examples: &'a [f32],
}

/// What was found for a label.
#[derive(Clone, Debug)]
pub struct LabelOutcome {
    pub found: Result<(Fit, Thresholds), FitRefusal>,
    /// How whole marked intervals fare that were not fitted on; or why that cannot be told.
    pub check: Result<Check, &'static str>,
    /// The events that would have been, of each recording.
    pub events: Vec<Vec<(f64, f64)>>,
    pub histogram: Option<Histogram>,
    /// Which moments, marked, would help most.
    pub advice: Vec<Moment>,
    /// Marks of which no sample counts: they are too short, or lie outside the recordings.
    pub without_samples: Vec<(usize, f64, f64)>,
}

/// How many samples have which margin.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Histogram {
    pub from: f32,
    pub to: f32,
    pub seen: Vec<u64>,
    pub not_seen: Vec<u64>,
}

const BINS: usize = 24;

/// Thresholds for one label, and what can be said of them.
pub fn label(recordings: &[Recording<'_>], setting: &Setting<'_>) -> LabelOutcome {
    let mut intervals = Vec::new();
    let mut contradicted = false;
    for (at, recording) in recordings.iter().enumerate() {
        contradicted |= marks::contradict(recording.seen, recording.absent).is_some();
        intervals.extend(marked_samples::of(at, recording, setting.every));
    }
    let without_samples = intervals.iter().filter(|interval| interval.samples.is_empty());
    let without_samples = without_samples.map(|interval| (interval.recording, interval.from, interval.to)).collect();
    let all: Vec<&MarkedInterval> = intervals.iter().filter(|interval| !interval.samples.is_empty()).collect();
    let found = match without_all(&intervals, &all) {
        _ if contradicted => Err(FitRefusal::Contradiction),
        Some(why) => Err(why),
        None => proposed(&all, setting),
    };
    let (seen, not_seen) = (samples_of(&all, true), samples_of(&all, false));
    let histogram = histogram(&seen, &not_seen);
    let Ok((fit, thresholds)) = &found else {
        return LabelOutcome {
            found,
            check: Err("there is nothing to be checked"),
            events: Vec::new(),
            histogram,
            advice: advice::moments(recordings, None),
            without_samples,
        };
    };
    let events = recordings.iter().map(|recording| held_out::replay(recording.samples, thresholds, setting)).collect();
    let advice = advice::moments(recordings, Some(fit.enter));
    let check = held_out::check(recordings, &all, setting);
    LabelOutcome { found, check, events, histogram, advice, without_samples }
}

/// What is marked and has no sample at all is not what nobody has marked: a threshold would be cautious that need not be.
fn without_all(marked: &[MarkedInterval], with_samples: &[&MarkedInterval]) -> Option<FitRefusal> {
    let is_without = |is_seen| {
        marked.iter().any(|one| one.is_seen == is_seen) && !with_samples.iter().any(|one| one.is_seen == is_seen)
    };
    let seen = is_without(true).then_some(FitRefusal::NoSampleSeen);
    seen.or_else(|| is_without(false).then_some(FitRefusal::NoSampleNotSeen))
}

/// How the thresholds that are in force fare on all that is marked; `None`: none are, or nothing is.
pub fn as_it_is(recordings: &[Recording<'_>], setting: &Setting<'_>) -> Option<Tally> {
    let current = setting.current?;
    let of = |(at, recording): (usize, &Recording<'_>)| marked_samples::of(at, recording, setting.every);
    let intervals: Vec<MarkedInterval> = recordings.iter().enumerate().flat_map(of).collect();
    let all: Vec<&MarkedInterval> = intervals.iter().collect();
    (!all.is_empty()).then(|| held_out::compared(recordings, &all, Some(&current), setting))
}

/// As `label`, of some of its intervals.
fn proposed(intervals: &[&MarkedInterval], setting: &Setting<'_>) -> Result<(Fit, Thresholds), FitRefusal> {
    let seen_without = samples_of(intervals, false);
    let counter = setting.counter_examples.iter().map(|margin| Weighted { margin: *margin, count: 1 });
    let not_seen: Vec<Weighted> = seen_without.iter().copied().chain(counter).collect();
    // What nobody has marked as without it on this stream teaches nothing of what is usual there.
    if seen_without.is_empty() {
        return Err(FitRefusal::NoNotSeen);
    }
    let fit = fit::fit(&samples_of(intervals, true), &not_seen)?;
    let fit = Fit { not_seen_range: range_of(&seen_without).unwrap_or(fit.not_seen_range), ..fit };
    let times = timing::propose(intervals, setting.every, &setting.base);
    let margin = |margin: f32| Threshold::Margin(f64::from(margin));
    Ok((fit, Thresholds { enter: margin(fit.enter), exit: margin(fit.exit), ..times }))
}

/// The lowest and the highest margin.
fn range_of(samples: &[Weighted]) -> Option<(f32, f32)> {
    let margins = || samples.iter().filter(|one| one.count > 0).map(|one| one.margin);
    margins().reduce(f32::min).zip(margins().reduce(f32::max))
}

fn samples_of(intervals: &[&MarkedInterval], is_seen: bool) -> Vec<Weighted> {
    intervals.iter().filter(|interval| interval.is_seen == is_seen).flat_map(|one| &one.samples).copied().collect()
}

fn histogram(seen: &[Weighted], not_seen: &[Weighted]) -> Option<Histogram> {
    let finite = || seen.iter().chain(not_seen).map(|one| one.margin).filter(|margin| margin.is_finite());
    let (from, to) = finite().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), m| (low.min(m), high.max(m)));
    if from > to {
        return None;
    }
    let width = ((to - from) / BINS as f32).max(f32::MIN_POSITIVE);
    let bins = |samples: &[Weighted]| {
        let mut bins = vec![0_u64; BINS];
        for one in samples.iter().filter(|one| one.margin.is_finite()) {
            let at = (((one.margin - from) / width) as usize).min(BINS - 1);
            bins[at] = bins[at].saturating_add(one.count);
        }
        bins
    };
    Some(Histogram { from, to, seen: bins(seen), not_seen: bins(not_seen) })
}

/// A share with the range in which it may lie: Wilson's interval, 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct EstimatedRate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl EstimatedRate {
    /// `value` as it was found in `of` independent cases; `None` if there were none.
    ///
    /// Neighbouring samples say the same thing, so whole marked intervals are the cases, never samples.
    pub fn of(value: f64, of: usize) -> Option<Self> {
        const Z: f64 = 1.959_963_984_540_054;
        if of == 0 || !value.is_finite() {
            return None;
        }
        let (n, z2) = (of as f64, Z * Z);
        let middle = (value + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let half = Z / (1.0 + z2 / n) * (value * (1.0 - value) / n + z2 / (4.0 * n * n)).max(0.0).sqrt();
        Some(Self { value, low: (middle - half).clamp(0.0, value), high: (middle + half).clamp(value, 1.0) })
    }
}

impl Tally {
    /// 2·tp / (2·tp + fp + fn). Its range is that of tp / (tp + fp + fn), a share, of which it is a function.
    pub fn f1(&self) -> Option<EstimatedRate> {
        let all = self.hits + self.false_tags + self.missed;
        let share = EstimatedRate::of(self.hits as f64 / all as f64, all)?;
        let f1 = |share: f64| 2.0 * share / (1.0 + share);
        Some(EstimatedRate { value: f1(share.value), low: f1(share.low), high: f1(share.high) })
    }

    /// Of the time that is marked as without it.
    pub fn absent_tagged(&self) -> Option<EstimatedRate> {
        EstimatedRate::of(self.absent_tagged_seconds / self.absent_seconds, self.absent_intervals)
    }

    /// Of the time that is marked as with it.
    pub fn present_covered(&self) -> Option<EstimatedRate> {
        EstimatedRate::of(self.present_covered_seconds / self.present_seconds, self.seen_intervals)
    }
}

#[cfg(test)]
mod tests;
