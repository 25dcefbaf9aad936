//! The tracker against hand-made runs of scores, and against properties that hold for any run.

use std::time::Instant;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const GAP: Duration = Duration::from_secs(30);

fn at(base: Instant, seconds: f64) -> FrameTime {
    let media = Duration::from_secs_f64(seconds);
    FrameTime { media, captured: base + media, wall: jiff::Timestamp::UNIX_EPOCH + media }
}

fn thresholds(after: f64, after_exit: f64, cooldown: f64) -> Thresholds {
    Thresholds {
        enter: 0.6,
        exit: 0.4,
        after: Duration::from_secs_f64(after),
        after_exit: Duration::from_secs_f64(after_exit),
        cooldown: Duration::from_secs_f64(cooldown),
    }
}

/// Feeds one score a second from 0 s on; gives (second, kind) of every change.
fn run(thresholds: Thresholds, scores: &[f32]) -> Vec<(usize, &'static str)> {
    let base = Instant::now();
    let mut tracker = Tracker::new(thresholds, GAP);
    let mut seen = Vec::new();
    for (i, score) in scores.iter().enumerate() {
        match tracker.sample(at(base, i as f64), *score) {
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
        changes.extend(tracker.sample(at(base, second), score));
    }
    let [Change::Start { tag: start }, Change::End { tag: end, ended, reason }] = changes[..] else {
        panic!("unexpected {changes:?}")
    };
    assert_eq!((start.started.media, start.peak), (SECOND, 0.9));
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
    tracker.sample(at(base, 1.0), 0.9);
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
    assert_eq!(tracker.sample(at(base, 0.0), 0.9), None);
    assert_eq!(tracker.sample(at(base, 3600.0), 0.9), None);
    assert_eq!(tracker.sample(at(base, 3601.0), 0.9), None);
    assert!(
        matches!(tracker.sample(at(base, 3602.0), 0.9), Some(Change::Start { tag }) if tag.started.media == 3600 * SECOND)
    );
    // The same for its end.
    assert_eq!(tracker.sample(at(base, 3603.0), 0.1), None);
    assert_eq!(tracker.sample(at(base, 7200.0), 0.1), None);
    assert!(tracker.open().is_some());
    assert!(
        matches!(tracker.sample(at(base, 7202.0), 0.1), Some(Change::End { ended, .. }) if ended.media == 7200 * SECOND)
    );
}

#[test]
fn a_nan_score_never_starts_a_tag() {
    assert_eq!(run(thresholds(0.0, 0.0, 0.0), &[f32::NAN, f32::NAN]), []);
}

proptest! {
    #[test]
    fn starts_and_ends_alternate_and_starts_keep_their_cooldown(
        scores in prop::collection::vec(0.0f32..=1.0, 1..200),
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
                    prop_assert!(scores[second - after as usize..=second].iter().all(|s| *s >= 0.6));
                    (open, last_start) = (true, Some(second));
                }
                "end" => {
                    prop_assert!(open);
                    prop_assert!(scores[second - after_exit as usize..=second].iter().all(|s| *s < 0.4));
                    open = false;
                }
                _ => prop_assert!(open),
            }
        }
    }
}

/// Feeds one score a second; gives (second, why) of every start that was swallowed. `None` leaves a second out.
fn swallowed(thresholds: Thresholds, scores: &[Option<f32>], gap: Duration) -> Vec<(usize, SwallowedBy)> {
    let base = Instant::now();
    let mut tracker = Tracker::new(thresholds, gap);
    let mut seen = Vec::new();
    for (i, score) in scores.iter().enumerate().filter_map(|(i, score)| Some((i, (*score)?))) {
        tracker.sample(at(base, i as f64), score);
        seen.extend(tracker.take_swallowed().map(|why| (i, why)));
        assert_eq!(tracker.take_swallowed(), None, "told once");
    }
    tracker.close(at(base, scores.len() as f64), EndReason::StreamEnded);
    seen.extend(tracker.take_swallowed().map(|why| (scores.len(), why)));
    seen
}

#[test]
fn a_start_that_comes_to_nothing_says_why() {
    use SwallowedBy::{After, Cooldown, Gap};
    let all = |scores: &[f32]| scores.iter().copied().map(Some).collect::<Vec<_>>();
    let (h, l) = (0.9, 0.1);
    // A run of one second where two are wanted, twice; then one that is long enough.
    assert_eq!(swallowed(thresholds(2.0, 0.0, 0.0), &all(&[h, h, l, h, l, h, h, h, l]), GAP), [(2, After), (4, After)]);
    // Whatever comes within the cooldown of the first, and is over before that is; too short is too short there too.
    assert_eq!(
        swallowed(thresholds(0.0, 0.0, 8.0), &all(&[h, l, h, h, l, l, h, l]), GAP),
        [(4, Cooldown), (7, Cooldown)]
    );
    assert_eq!(swallowed(thresholds(2.0, 0.0, 60.0), &all(&[h, h, h, l, h, l]), GAP), [(5, After)]);
    // One that outlasts the cooldown only starts late.
    assert_eq!(swallowed(thresholds(0.0, 0.0, 4.0), &all(&[h, l, h, h, h, l]), GAP), []);
    // What a file's end cuts off would have been told, but for the cooldown.
    assert_eq!(swallowed(thresholds(0.0, 0.0, 60.0), &all(&[h, l, h, h]), GAP), [(4, Cooldown)]);
    assert_eq!(swallowed(thresholds(9.0, 0.0, 0.0), &all(&[h, h]), GAP), []);
    // Samples too far apart never add up.
    let sparse = [Some(h), None, None, Some(h), None, None, Some(h)];
    assert_eq!(swallowed(thresholds(1.0, 0.0, 0.0), &sparse, 2 * SECOND), [(3, Gap), (6, Gap)]);
}

proptest! {
    #[test]
    fn every_run_at_or_above_enter_is_a_start_or_swallowed_once(
        scores in proptest::collection::vec(0.0_f32..=1.0, 0..80), after in 0.0_f64..4.0, cooldown in 0.0_f64..20.0
    ) {
        let base = Instant::now();
        // No exit below enter: a tag is over when its run is.
        let thresholds = Thresholds { exit: 0.6, ..thresholds(after, 0.0, cooldown) };
        let mut tracker = Tracker::new(thresholds, GAP);
        let (mut runs, mut starts, mut swallowed) = (0, 0, 0);
        let mut before = 0.0;
        for (i, score) in scores.iter().copied().chain([0.0]).enumerate() {
            runs += usize::from(score < 0.6 && before >= 0.6);
            before = score;
            let change = tracker.sample(at(base, i as f64), score);
            starts += usize::from(matches!(change, Some(Change::Start { .. })));
            swallowed += usize::from(tracker.take_swallowed().is_some());
        }
        prop_assert_eq!(runs, starts + swallowed);
    }
}
