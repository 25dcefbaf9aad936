//! `after`, `after_exit` and `cooldown` as the marks suggest them: short enough that nothing that was marked is swallowed.
//!
//! In: marked intervals, and what the label has now. Out: the same times or shorter ones, never longer: what a person wrote to keep short
//! visits out stays as far as the marks allow. Pure.

use std::time::Duration;

use super::MarkedInterval;
use crate::event::Thresholds;

/// A start must not need more than this share of the shortest mark, nor an end more than that of the shortest pause.
const SHARE: f64 = 0.25;
/// Of the shortest time from one start to the next.
const COOLDOWN_SHARE: f64 = 0.5;

/// `base` with the times that fit the marks, rounded down to whole samples.
pub fn propose(intervals: &[&MarkedInterval], every: Duration, base: &Thresholds) -> Thresholds {
    let mut seen: Vec<&MarkedInterval> = intervals.iter().copied().filter(|interval| interval.is_seen).collect();
    seen.sort_by(|a, b| a.recording.cmp(&b.recording).then(a.from.total_cmp(&b.from)));
    let Some(shortest) = seen.iter().map(|one| one.to - one.from).reduce(f64::min) else { return *base };
    // Only where something between two marks is marked as without it, the label was away.
    let is_pause = |before: &MarkedInterval, after: &MarkedInterval| {
        intervals
            .iter()
            .any(|one| !one.is_seen && one.recording == before.recording && one.from < after.from && one.to > before.to)
    };
    let pairs = seen.windows(2).filter_map(|pair| match pair {
        [a, b] if a.recording == b.recording && is_pause(a, b) => Some((b.from - a.to, b.from - a.from)),
        _ => None,
    });
    let pairs: Vec<(f64, f64)> = pairs.collect();
    let pause = pairs.iter().map(|pair| pair.0).reduce(f64::min);
    let apart = pairs.iter().map(|pair| pair.1).reduce(f64::min);
    Thresholds {
        after: base.after.min(whole(shortest * SHARE, every)),
        after_exit: base.after_exit.min(whole(pause.unwrap_or(shortest) * SHARE, every)),
        // With one mark alone nothing says how soon it may come again: not sooner than it stays.
        cooldown: base.cooldown.min(whole(apart.map_or(shortest, |apart| apart * COOLDOWN_SHARE), every)),
        ..*base
    }
}

/// `seconds`, rounded down to a number of `every`.
fn whole(seconds: f64, every: Duration) -> Duration {
    let Ok(wanted) = Duration::try_from_secs_f64(seconds.max(0.0)) else { return Duration::MAX };
    let step = every.max(Duration::from_millis(1)).as_nanos();
    // Five centuries fit.
    Duration::from_nanos(u64::try_from(wanted.as_nanos() / step * step).unwrap_or(u64::MAX))
}
