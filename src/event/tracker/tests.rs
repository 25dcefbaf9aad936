//! The tracker against hand-made runs of scores, and against properties that hold for any run.

use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::score::{Rival, Threshold};

const SECOND: Duration = Duration::from_secs(1);
const GAP: Duration = Duration::from_secs(30);

fn at(base: Instant, seconds: f64) -> FrameTime {
    let media = Duration::from_secs_f64(seconds);
    FrameTime { media, captured: base + media, wall: jiff::Timestamp::UNIX_EPOCH + media, connection: 0 }
}

fn thresholds(after: f64, after_exit: f64, cooldown: f64) -> Thresholds {
    Thresholds {
        enter: Threshold::Probability(0.6),
        exit: Threshold::Probability(0.4),
        after: Duration::from_secs_f64(after),
        after_exit: Duration::from_secs_f64(after_exit),
        cooldown: Duration::from_secs_f64(cooldown),
    }
}

/// A score of this probability.
fn of(probability: f64) -> LabelScore {
    LabelScore { margin: margin::margin(probability), rival: Some(Rival(7)) }
}

/// Feeds one score a second from 0 s on; gives (second, kind) of every change.
fn run(thresholds: Thresholds, scores: &[f64]) -> Vec<(usize, &'static str)> {
    let base = Instant::now();
    let mut tracker = Tracker::new(thresholds, GAP);
    let mut seen = Vec::new();
    for (i, score) in scores.iter().enumerate() {
        match tracker.sample(at(base, i as f64), of(*score)) {
            Some(Change::Start { .. }) => seen.push((i, "start")),
            Some(Change::Update { .. }) => seen.push((i, "update")),
            Some(Change::End { .. }) => seen.push((i, "end")),
            None => {}
        }
    }
    seen
}

#[test]
fn one_sample_is_enough_when_after_is_zero() {
    assert_eq!(run(thresholds(0.0, 0.0, 0.0), &[0.1, 0.6, 0.39]), [(1, "start"), (2, "end")]);
}

#[test]
fn a_start_waits_until_the_score_has_held_for_after() {
    assert_eq!(run(thresholds(2.0, 2.0, 0.0), &[0.7, 0.7, 0.5, 0.7, 0.7, 0.7]), [(5, "start")]);
}

#[test]
fn scores_between_the_thresholds_keep_a_tag_open() {
    assert_eq!(run(thresholds(0.0, 1.0, 0.0), &[0.9, 0.5, 0.4, 0.41, 0.5]), [(0, "start")]);
}

#[test]
fn one_good_sample_stops_an_end_that_was_under_way() {
    assert_eq!(run(thresholds(0.0, 2.0, 0.0), &[0.9, 0.1, 0.1, 0.5, 0.1, 0.1, 0.1]), [(0, "start"), (6, "end")]);
}

#[test]
fn the_interval_of_a_tag_leaves_the_waiting_times_out() {
    let base = Instant::now();
    let mut tracker = Tracker::new(thresholds(1.0, 1.0, 0.0), GAP);
    let mut changes = Vec::new();
    for (second, score) in [(0.0, 0.1), (1.0, 0.7), (2.0, 0.9), (3.0, 0.2), (4.0, 0.2)] {
        changes.extend(tracker.sample(at(base, second), of(score)));
    }
    let [Change::Start { tag: start }, Change::End { tag: end, ended, reason }] = changes[..] else {
        panic!("unexpected {changes:?}")
    };
    assert_eq!((start.started.media, start.peak), (SECOND, margin::margin(0.9)));
    assert_eq!((end.started.media, ended.media, reason), (SECOND, 3 * SECOND, EndReason::BelowExit));
}

#[test]
fn cooldown_counts_from_the_emitted_start_and_a_tag_that_outlasts_it_starts_then() {
    let scores = [0.9, 0.1, 0.9, 0.9, 0.9, 0.9];
    assert_eq!(run(thresholds(0.0, 0.0, 4.0), &scores), [(0, "start"), (1, "end"), (4, "start")]);
}

#[test]
fn cooldown_is_not_used_up_by_a_run_that_was_too_short() {
    let scores = [0.9, 0.1, 0.9, 0.9];
    assert_eq!(run(thresholds(1.0, 0.0, 100.0), &scores), [(3, "start")]);
}

#[test]
fn updates_need_a_higher_peak_and_ten_seconds() {
    let mut scores = vec![0.6, 0.9];
    scores.extend([0.9; 8]);
    scores.extend([0.9, 0.93, 0.93]); // 10 s after the start the peak of 0.9 is told, 0.93 is not worth telling
    assert_eq!(run(thresholds(0.0, 1.0, 0.0), &scores), [(0, "start"), (10, "update")]);
}

#[test]
fn closing_ends_an_open_tag_and_nothing_else() {
    let base = Instant::now();
    let mut tracker = Tracker::new(thresholds(0.0, 5.0, 0.0), GAP);
    assert_eq!(tracker.close(at(base, 0.0), EndReason::Shutdown), None);
    tracker.sample(at(base, 1.0), of(0.9));
    let closed = tracker.close(at(base, 2.0), EndReason::StreamEnded);
    assert!(
        matches!(closed, Some(Change::End { ended, reason: EndReason::StreamEnded, .. }) if ended.media == 2 * SECOND)
    );
    assert_eq!(tracker.open(), None);
}

#[test]
fn a_start_or_an_end_that_was_under_way_begins_anew_after_the_camera_was_away() {
    let base = Instant::now();
    let mut tracker = Tracker::new(thresholds(2.0, 2.0, 0.0), GAP);
    // One good sample, an hour of nothing, one good sample: that is not two seconds of a tag.
    assert_eq!(tracker.sample(at(base, 0.0), of(0.9)), None);
    assert_eq!(tracker.sample(at(base, 3600.0), of(0.9)), None);
    assert_eq!(tracker.sample(at(base, 3601.0), of(0.9)), None);
    assert!(
        matches!(tracker.sample(at(base, 3602.0), of(0.9)), Some(Change::Start { tag }) if tag.started.media == 3600 * SECOND)
    );
    // The same for its end.
    assert_eq!(tracker.sample(at(base, 3603.0), of(0.1)), None);
    assert_eq!(tracker.sample(at(base, 7200.0), of(0.1)), None);
    assert!(tracker.open().is_some());
    assert!(
        matches!(tracker.sample(at(base, 7202.0), of(0.1)), Some(Change::End { ended, .. }) if ended.media == 7200 * SECOND)
    );
}

#[test]
fn a_nan_score_never_starts_a_tag() {
    assert_eq!(run(thresholds(0.0, 0.0, 0.0), &[f64::NAN, f64::NAN]), []);
}

proptest! {
    #[test]
    fn starts_and_ends_alternate_and_starts_keep_their_cooldown(
        scores in prop::collection::vec(0.0f64..=1.0, 1..200),
        after in 0u64..4, after_exit in 0u64..4, cooldown in 0u64..20,
    ) {
        let changes = run(thresholds(after as f64, after_exit as f64, cooldown as f64), &scores);
        let mut open = false;
        let mut last_start: Option<usize> = None;
        for (second, kind) in changes {
            match kind {
                "start" => {
                    prop_assert!(!open);
                    prop_assert!(last_start.is_none_or(|s| second - s >= cooldown as usize));
                    prop_assert!(scores[second - after as usize..=second].iter().all(|s| of(*s).margin >= of(0.6).margin));
                    (open, last_start) = (true, Some(second));
                }
                "end" => {
                    prop_assert!(open);
                    prop_assert!(scores[second - after_exit as usize..=second].iter().all(|s| of(*s).margin < of(0.4).margin));
                    open = false;
                }
                _ => prop_assert!(open),
            }
        }
    }
}

/// A score of this margin.
fn lead(margin: f32) -> LabelScore {
    LabelScore { margin, rival: None }
}

/// Feeds one margin a second; gives the tracker.
fn fed(thresholds: Thresholds, margins: &[f32]) -> Tracker {
    let base = Instant::now();
    let mut tracker = Tracker::new(thresholds, GAP);
    for (second, margin) in margins.iter().enumerate() {
        tracker.sample(at(base, second as f64), lead(*margin));
    }
    tracker
}

#[test]
fn thresholds_hold_where_probabilities_have_rounded_to_one() {
    let thresholds =
        Thresholds { enter: Threshold::Margin(25.0), exit: Threshold::Margin(20.0), ..thresholds(0.0, 0.0, 0.0) };
    assert!(fed(thresholds, &[24.9]).open().is_none());
    assert!(fed(thresholds, &[25.0]).open().is_some());
    assert!(fed(thresholds, &[25.0, 20.0, 24.0]).open().is_some());
    assert!(fed(thresholds, &[25.0, 19.9]).open().is_none());
}

#[test]
fn starts_that_were_none_are_counted_by_what_swallowed_them() {
    // Enter 0.405, exit -0.405. One too short, one that only came near, then a tag, and one within its cooldown.
    let margins = [-3.0, 2.0, 3.0, -3.0, 0.1, 0.2, -3.0, 2.0, 2.0, 2.0, -3.0, -3.0, -3.0, 2.5, 2.5, 2.5, -3.0];
    let tracker = fed(thresholds(2.0, 2.0, 60.0), &margins);
    let swallowed = tracker.swallowed();
    assert_eq!((swallowed.counts.after, swallowed.counts.cooldown, swallowed.counts.rival), (1, 1, 1));
    let told: Vec<_> =
        swallowed.recent().map(|one| (one.run.since.media, one.run.peak.margin, one.run.lasted())).collect();
    assert_eq!(told, [(SECOND, 3.0, SECOND), (4 * SECOND, 0.2, SECOND), (13 * SECOND, 2.5, 2 * SECOND)]);
    let causes: Vec<Cause> = swallowed.recent().map(|one| one.cause).collect();
    assert_eq!((causes[0], causes[2]), (Cause::After { short_by: SECOND }, Cause::Cooldown { short_by: 54 * SECOND }));
    assert!(matches!(causes[1], Cause::Rival { short_by } if (short_by - 0.205_465_1).abs() < 1e-6), "{causes:?}");
}

#[test]
fn a_run_is_counted_once_also_where_the_camera_was_away() {
    // Falls from above enter to between the thresholds: one start that `after` swallowed, and no approach.
    let swallowed = fed(thresholds(2.0, 0.0, 0.0), &[-3.0, 2.0, 0.1, 0.1, -3.0]).swallowed().clone();
    assert_eq!((swallowed.counts.after, swallowed.counts.cooldown, swallowed.counts.rival), (1, 0, 0));
    let base = Instant::now();
    let mut tracker = Tracker::new(thresholds(2.0, 0.0, 0.0), GAP);
    for (second, margin) in [(0.0, 2.0), (3600.0, -3.0), (3601.0, 0.1), (7200.0, -3.0)] {
        tracker.sample(at(base, second), lead(margin));
    }
    assert_eq!((tracker.swallowed().counts.gap, tracker.swallowed().recent().count()), (1, 1));
    assert_eq!(tracker.take_swallowed(), Some(Cause::Gap));
    assert_eq!(tracker.take_swallowed(), None, "told once");
}

proptest! {
    #[test]
    fn every_run_at_or_above_enter_is_a_start_or_swallowed_once(
        margins in proptest::collection::vec(-3.0f32..3.0, 0..80), after in 0.0f64..4.0, cooldown in 0.0f64..20.0
    ) {
        // No exit below enter: a tag is over when its run is.
        let at_once = Thresholds { exit: Threshold::Probability(0.6), ..thresholds(after, 0.0, cooldown) };
        let (base, enter) = (Instant::now(), margin::margin(0.6));
        let mut tracker = Tracker::new(at_once, GAP);
        let (mut runs, mut starts, mut swallowed, mut before) = (0, 0, 0, f32::NEG_INFINITY);
        for (i, margin) in margins.iter().copied().chain([-3.0]).enumerate() {
            runs += usize::from(margin < enter && before >= enter);
            before = margin;
            let change = tracker.sample(at(base, i as f64), lead(margin));
            starts += usize::from(matches!(change, Some(Change::Start { .. })));
            swallowed += usize::from(tracker.take_swallowed().is_some());
        }
        prop_assert_eq!(runs, starts + swallowed);
        let counted = tracker.swallowed().counts;
        prop_assert_eq!(swallowed as u64, counted.after + counted.cooldown + counted.gap + counted.rival);
    }
}

#[test]
fn a_label_that_is_always_nearly_there_keeps_no_more_than_the_latest() {
    let margins: Vec<f32> = (0..1000).map(|i| if i % 2 == 0 { 2.0 } else { -3.0 }).collect();
    let tracker = fed(thresholds(2.0, 0.0, 0.0), &margins);
    assert_eq!(
        (tracker.swallowed().counts.after, tracker.swallowed().recent().count()),
        (500, crate::event::swallowed::KEPT)
    );
}

#[test]
fn a_label_is_idle_rising_open_or_in_cooldown() {
    let thresholds = thresholds(2.0, 0.0, 60.0);
    assert_eq!(fed(thresholds, &[-3.0]).phase(), Phase::Idle);
    assert!(matches!(fed(thresholds, &[-3.0, 2.0]).phase(), Phase::RisingSince(since) if since.media == SECOND));
    assert!(
        matches!(fed(thresholds, &[2.0, 2.0, 2.0]).phase(), Phase::OpenSince(since) if since.media == Duration::ZERO)
    );
    assert_eq!(fed(thresholds, &[2.0, 2.0, 2.0, -3.0]).phase(), Phase::Cooldown { until: 62 * SECOND, rising: None });
    let mut long = vec![2.0, 2.0, 2.0];
    long.resize(70, -3.0);
    assert_eq!(fed(thresholds, &long).phase(), Phase::Idle);
}
