//! How thresholds fare on whole marked intervals that they were not fitted on.
//!
//! In: recordings and their marked intervals. Out: a [`Check`]: tags as the daemon's own tracker makes them, compared with the marks, before
//! and after; or why that cannot be told. Intervals are dealt into up to [`MOST_FOLDS`] folds; each fold is looked at with thresholds of the
//! others. Pure; goes through all samples once a fold.

use std::time::Duration;

use super::marked_samples::EDGE;
use super::{MarkedInterval, Recording, Sample, Setting, proposed};
use crate::event::Thresholds;
use crate::event::tracker::{self, Tracker};
use crate::frame::FrameTime;
use crate::score::LabelScore;

const MOST_FOLDS: usize = 5;
/// A tag is a mark's if they share at least this much of what both cover.
const LEAST_OVERLAP: f64 = 0.3;

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Marks with a tag of their own.
    pub hits: usize,
    pub false_tags: usize,
    pub missed: usize,
    pub absent_seconds: f64,
    pub absent_tagged_seconds: f64,
    pub present_seconds: f64,
    pub present_covered_seconds: f64,
    pub absent_intervals: usize,
    pub seen_intervals: usize,
}

/// Before and after, on the same intervals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Check {
    pub folds: usize,
    /// With what is in force; `None` where the label may tell nothing at present.
    pub before: Option<Tally>,
    pub after: Tally,
}

/// See the module.
///
/// # Errors
/// Why it is not checked.
pub fn check(
    recordings: &[Recording<'_>],
    intervals: &[&MarkedInterval],
    setting: &Setting<'_>,
) -> Result<Check, &'static str> {
    let number = |is_seen| intervals.iter().filter(|interval| interval.is_seen == is_seen).count();
    let (seen, absent) = (number(true), number(false));
    if absent < 2 || seen == 1 {
        return Err("not checked: that needs at least two separate marks with it and two without it");
    }
    // As many as there are of the more frequent kind: what is left to be fitted on is as much as can be.
    let folds = seen.max(absent).min(MOST_FOLDS);
    // In the order of time of each kind: neighbours go to different folds.
    let mut counts = [0_usize; 2];
    let fold_of: Vec<usize> = intervals
        .iter()
        .map(|interval| {
            let count = &mut counts[usize::from(interval.is_seen)];
            *count += 1;
            (*count - 1) % folds
        })
        .collect();
    let mut after = Tally::default();
    for fold in 0..folds {
        let of = |held: bool| {
            let chosen = intervals.iter().zip(&fold_of).filter(|(_, of)| (**of == fold) == held);
            chosen.map(|(interval, _)| *interval).collect::<Vec<_>>()
        };
        let Ok((_, thresholds)) = proposed(&of(false), setting) else {
            return Err("not checked: without one of the marks the others are too few");
        };
        after.add(&compared(recordings, &of(true), Some(&thresholds), setting));
    }
    // Nothing is fitted there, so all are held out at once.
    let before = setting.current.map(|current| compared(recordings, intervals, Some(&current), setting));
    Ok(Check { folds, before, after })
}

/// The tags that these thresholds would have made: from when to when.
pub fn replay(samples: &[Sample], thresholds: &Thresholds, setting: &Setting<'_>) -> Vec<(f64, f64)> {
    let mut tracker = Tracker::new(*thresholds, setting.gap);
    let mut tags = Vec::new();
    let mut note = |change: Option<tracker::Change>| {
        if let Some(tracker::Change::End { tag, ended, .. }) = change {
            tags.push((tag.started.media.as_secs_f64(), ended.media.as_secs_f64()));
        }
    };
    let step = setting.every.max(Duration::from_millis(1)).as_secs_f64();
    let mut last = None;
    for sample in samples {
        let score = LabelScore { margin: sample.margin, rival: None };
        // A row of a history is all the samples that it stands for; no tracker needs more of them than its times are long.
        let steps = ((sample.to - sample.from).max(0.0) / step + 1e-6).floor();
        let longest = setting.gap.as_secs_f64() / 2.0;
        let stride = step.max(longest.min((sample.to - sample.from) / 16.0));
        let number = if steps < 1.0 { 0.0 } else { ((sample.to - sample.from) / stride).floor() };
        for at in 0..=(number as u64) {
            let time = time(sample.from + at as f64 * stride, setting);
            note(tracker.sample(time, score));
            last = Some(time);
        }
    }
    if let Some(last) = last {
        note(tracker.close(last, tracker::EndReason::StreamEnded));
    }
    tags
}

fn time(at: f64, setting: &Setting<'_>) -> FrameTime {
    let media = Duration::try_from_secs_f64(at.max(0.0)).unwrap_or_default();
    FrameTime { media, captured: setting.origin, wall: jiff::Timestamp::UNIX_EPOCH, connection: 0 }
}

/// Tags of `thresholds` on these intervals alone: nothing is known of what lies between them.
pub(super) fn compared(
    recordings: &[Recording<'_>],
    held: &[&MarkedInterval],
    thresholds: Option<&Thresholds>,
    setting: &Setting<'_>,
) -> Tally {
    let mut tally = Tally::default();
    for (at, recording) in recordings.iter().enumerate() {
        let of_kind = |is_seen| {
            let here = held.iter().filter(move |one| one.recording == at && one.is_seen == is_seen);
            here.map(|one| (one.from, one.to)).collect::<Vec<_>>()
        };
        let (seen, absent) = (of_kind(true), of_kind(false));
        if seen.is_empty() && absent.is_empty() {
            continue;
        }
        let tags = thresholds.map(|thresholds| replay(recording.samples, thresholds, setting)).unwrap_or_default();
        tally.add(&compare(&tags, &seen, &absent, setting.every.as_secs_f64()));
    }
    tally
}

/// Tags against marks, one to one.
pub fn compare(tags: &[(f64, f64)], seen: &[(f64, f64)], absent: &[(f64, f64)], every: f64) -> Tally {
    let inner = |(from, to): &(f64, f64)| (from + EDGE, to - EDGE);
    let absent: Vec<(f64, f64)> = absent.iter().map(inner).filter(|(from, to)| from < to).collect();
    let shared = |a: (f64, f64), b: (f64, f64)| (a.1.min(b.1) - a.0.max(b.0)).max(0.0);
    let within = |spans: &[(f64, f64)], tag: (f64, f64)| spans.iter().map(|span| shared(*span, tag)).sum::<f64>();
    // One that ended with the sample that began it lasted until the next.
    let tags: Vec<(f64, f64)> = tags.iter().map(|(from, to)| (*from, to.max(from + every))).collect();
    let mut pairs = Vec::new();
    for (at, tag) in tags.iter().enumerate() {
        let known = within(seen, *tag) + within(&absent, *tag);
        for (mark, span) in seen.iter().enumerate() {
            let both = shared(*span, *tag);
            let overlap = both / (span.1 - span.0 + known - both).max(1e-9);
            if overlap >= LEAST_OVERLAP {
                pairs.push((overlap, at, mark));
            }
        }
    }
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut taken_tags, mut taken_marks) = (vec![false; tags.len()], vec![false; seen.len()]);
    for (_, tag, mark) in pairs {
        if !taken_tags[tag] && !taken_marks[mark] {
            (taken_tags[tag], taken_marks[mark]) = (true, true);
        }
    }
    let hits = taken_marks.iter().filter(|taken| **taken).count();
    let touches = |tag: &(f64, f64)| within(seen, *tag) + within(&absent, *tag) > EDGE.min(every);
    let false_tags = tags.iter().zip(&taken_tags).filter(|(tag, taken)| !**taken && touches(tag)).count();
    let inner_seen: Vec<(f64, f64)> = seen.iter().map(inner).filter(|(from, to)| from < to).collect();
    let long = |spans: &[(f64, f64)]| spans.iter().map(|(from, to)| to - from).sum::<f64>();
    let tagged = |spans: &[(f64, f64)]| tags.iter().map(|tag| within(spans, *tag)).sum::<f64>();
    Tally {
        hits,
        false_tags,
        missed: seen.len() - hits,
        absent_seconds: long(&absent),
        absent_tagged_seconds: tagged(&absent).min(long(&absent)),
        present_seconds: long(&inner_seen),
        present_covered_seconds: tagged(&inner_seen).min(long(&inner_seen)),
        absent_intervals: absent.len(),
        seen_intervals: inner_seen.len(),
    }
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.hits += other.hits;
        self.false_tags += other.false_tags;
        self.missed += other.missed;
        self.absent_seconds += other.absent_seconds;
        self.absent_tagged_seconds += other.absent_tagged_seconds;
        self.present_seconds += other.present_seconds;
        self.present_covered_seconds += other.present_covered_seconds;
        self.absent_intervals += other.absent_intervals;
        self.seen_intervals += other.seen_intervals;
    }
}
