//! Calibration as a whole: of samples and marks, and what it says of itself.

use super::*;
use marks::{LabelMarks, Mark, MarkKind, MarkTime, SetMarks, Span, contradict};

fn setting() -> Setting<'static> {
    let seconds = Duration::from_secs;
    let base = Thresholds { after: seconds(2), after_exit: seconds(2), cooldown: seconds(30), ..Thresholds::default() };
    Setting {
        every: Duration::from_millis(500),
        gap: Duration::from_secs(30),
        current: Some(base),
        base,
        origin: Instant::now(),
        counter_examples: &[],
    }
}

/// A minute at two samples a second: up at these times, with some noise that never lies between -1 and 0.
fn minute(up: &[(f64, f64)]) -> Vec<Sample> {
    let of = |at: i32| {
        let (seconds, noise) = (f64::from(at) / 2.0, (at * 7 % 5) as f32 / 5.0);
        let is_up = up.iter().any(|(from, to)| (*from..=*to).contains(&seconds));
        Sample::at(seconds, if is_up { noise } else { -2.0 + noise })
    };
    (0..120).map(of).collect()
}

const SEEN: [(f64, f64); 3] = [(10.0, 14.0), (24.0, 28.0), (40.0, 44.0)];
const ABSENT: [(f64, f64); 3] = [(0.0, 9.0), (15.0, 23.0), (46.0, 60.0)];

#[test]
fn marks_make_thresholds_that_hold_on_intervals_that_they_were_not_made_of() {
    let samples = minute(&SEEN);
    let outcome = label(&[Recording { samples: &samples, seen: &SEEN, absent: &ABSENT }], &setting());
    let (fit, thresholds) = outcome.found.unwrap();
    assert!(fit.enter > -1.2 && fit.enter <= 0.0 && fit.exit < fit.enter && !fit.cautious, "{fit:?}");
    assert_eq!(thresholds.after, Duration::from_secs(1));
    // Ten and twelve seconds between marks, of which the first pause is marked as without it.
    assert_eq!((thresholds.after_exit, thresholds.cooldown), (Duration::from_secs(2), Duration::from_secs(7)));
    let check = outcome.check.unwrap();
    assert_eq!((check.folds, check.after.hits, check.after.false_tags, check.after.missed), (3, 3, 0, 0));
    assert!(check.after.absent_tagged_seconds < 0.01, "{check:?}");
    assert!(check.after.present_covered().unwrap().value > 0.99, "{check:?}");
    // As it was it told nothing: 0.8 is a score of 0.69, and never for two seconds.
    assert_eq!(check.before.unwrap().hits, 0);
    // With three marks nobody knows much.
    let f1 = check.after.f1().unwrap();
    assert!(f1.value == 1.0 && f1.low < 0.7 && f1.high == 1.0, "{f1:?}");
    assert_eq!(outcome.events[0].len(), 3, "{:?}", outcome.events);
    let histogram = outcome.histogram.unwrap();
    assert_eq!(histogram.seen.iter().sum::<u64>(), fit.seen);
    assert_eq!(histogram.not_seen.iter().sum::<u64>(), fit.not_seen);
}

#[test]
fn a_day_of_samples_with_a_visit_each_hour_is_found_whole() {
    let visits: Vec<(f64, f64)> =
        (0..24).map(|hour| (f64::from(hour) * 3600.0, f64::from(hour) * 3600.0 + 59.0)).collect();
    let absent: Vec<(f64, f64)> = visits.iter().map(|(from, to)| (to + 2.0, from + 3599.0)).collect();
    let margin = |second: u32| (second * 7 % 13) as f32 / 13.0 + if second % 3600 < 60 { 1.5 } else { -1.5 };
    let samples: Vec<Sample> = (0..86_400).map(|second| Sample::at(f64::from(second), margin(second))).collect();
    let recording = Recording { samples: &samples, seen: &visits, absent: &absent };
    let outcome = label(&[recording], &Setting { every: Duration::from_secs(1), ..setting() });
    let check = outcome.check.unwrap();
    assert_eq!((check.folds, check.after.hits, check.after.false_tags, check.after.missed), (5, 24, 0, 0));
    assert_eq!(outcome.events[0].len(), 24);
    // With more marks the range is narrower.
    assert!(check.after.f1().unwrap().low > 0.9, "{:?}", check.after.f1());
}

#[test]
fn a_thing_that_the_model_cannot_tell_apart_and_marks_that_say_both_are_refused() {
    let samples = minute(&[]);
    let outcome = |seen: &[(f64, f64)], absent: &[(f64, f64)]| {
        label(&[Recording { samples: &samples, seen, absent }], &setting()).found.map(|found| found.0.enter)
    };
    // Samples repeat every two and a half seconds: the same above and below.
    assert_eq!(outcome(&[(9.5, 15.0)], &[(19.5, 25.0)]), Err(FitRefusal::Inseparable));
    assert_eq!(outcome(&[(10.0, 20.0)], &[(15.0, 30.0)]), Err(FitRefusal::Contradiction));
    // A second of both is how long nobody can tell.
    assert_ne!(outcome(&[(10.0, 16.0)], &[(15.0, 30.0)]), Err(FitRefusal::Contradiction));
    assert_eq!(outcome(&[(10.0, 16.0)], &[]), Err(FitRefusal::NoNotSeen));
    assert_eq!(contradict(&[(0.0, 1.0), (5.0, 9.0)], &[(1.0, 5.0), (8.5, 8.9)]), None);
}

#[test]
fn edges_of_half_a_second_do_not_count_and_a_row_of_history_counts_once_an_interval() {
    let samples =
        [Sample::at(1.0, 1.0), Sample::at(1.4, 2.0), Sample::at(1.5, 3.0), Sample::at(3.5, 4.0), Sample::at(3.6, 5.0)];
    let recording = Recording { samples: &samples, seen: &[(1.0, 4.0)], absent: &[] };
    let every = Duration::from_millis(500);
    let counted = |recording: &Recording<'_>| {
        let marked = marked_samples::of(0, recording, every);
        marked[0].samples.iter().map(|one| (one.margin, one.count)).collect::<Vec<_>>()
    };
    assert_eq!(counted(&recording), [(3.0, 1), (4.0, 1)]);
    // From 0 to 10: what lies in 1.5 to 3.5 is two seconds, five samples.
    let samples = [Sample { from: 0.0, to: 10.0, margin: -1.0 }];
    assert_eq!(counted(&Recording { samples: &samples, ..recording }), [(-1.0, 5)]);
    // A mark shorter than its edges has nothing.
    let short = Recording { samples: &samples, seen: &[(2.0, 2.8)], absent: &[] };
    assert_eq!(counted(&short), []);
    assert_eq!(label(&[short], &setting()).without_samples, [(0, 2.0, 2.8)]);
    // The same in rows and one by one.
    let rows = [Sample { from: 0.0, to: 29.5, margin: -1.0 }, Sample { from: 30.0, to: 59.5, margin: 1.0 }];
    let singles: Vec<Sample> =
        (0..120).map(|at| Sample::at(f64::from(at) / 2.0, if at < 60 { -1.0 } else { 1.0 })).collect();
    let of = |samples: &[Sample]| {
        let outcome = label(&[Recording { samples, seen: &[(30.0, 59.0)], absent: &[(0.0, 29.0)] }], &setting());
        (outcome.found.unwrap(), outcome.events)
    };
    assert_eq!(of(&rows), of(&singles));
}

#[test]
fn tags_are_compared_one_to_one_and_what_is_not_marked_is_unknown() {
    let seen = [(10.0, 20.0), (30.0, 40.0)];
    let absent = [(0.0, 10.0), (50.0, 60.0)];
    let tally = held_out::compare(&[(10.5, 14.0), (15.0, 20.0), (30.0, 49.0), (55.0, 56.0)], &seen, &absent, 0.5);
    // Two on one mark: the second is one too many. What lies between 40 and 50 nobody knows.
    assert_eq!((tally.hits, tally.false_tags, tally.missed), (2, 2, 0));
    assert!((tally.absent_tagged_seconds - 1.0).abs() < 1e-9, "{tally:?}");
    assert!((tally.present_covered_seconds - (3.5 + 4.5 + 9.0)).abs() < 1e-9, "{tally:?}");
    let nothing = held_out::compare(&[(44.0, 46.0)], &seen, &absent, 0.5);
    assert_eq!((nothing.hits, nothing.false_tags, nothing.missed), (0, 0, 2));
}

#[test]
fn advice_begins_with_what_is_nearest_to_the_threshold_and_has_the_highest_and_random_ones_too() {
    let samples = minute(&[(20.0, 22.0)]);
    let recording = Recording { samples: &samples, seen: &[], absent: &[(0.0, 10.0)] };
    let moments = advice::moments(&[recording], Some(-1.1));
    let why: Vec<advice::Why> = moments.iter().map(|moment| moment.why).collect();
    use advice::Why::{Highest, Nearest, Random};
    assert_eq!(why, [Nearest, Nearest, Nearest, Highest, Random, Random]);
    assert!(moments.iter().all(|moment| moment.at > 10.5), "{moments:?}");
    for (at, one) in moments.iter().enumerate() {
        assert!(moments[..at].iter().all(|other| (other.at - one.at).abs() >= 5.0), "{moments:?}");
    }
    assert_eq!(moments, advice::moments(&[recording], Some(-1.1)));
    assert!(advice::moments(&[], None).is_empty());
}

#[test]
fn what_is_marked_and_was_never_sampled_is_no_reason_for_a_cautious_threshold() {
    // A sample every ten seconds: none of them lies in the two in which it was there.
    let samples: Vec<Sample> = (0..20).map(|at| Sample::at(f64::from(at) * 10.0, 0.1 * at as f32)).collect();
    let of = |seen: &[(f64, f64)], absent: &[(f64, f64)]| {
        label(&[Recording { samples: &samples, seen, absent }], &setting()).found.map(|(fit, _)| fit.cautious)
    };
    assert_eq!(of(&[], &[(20.0, 190.0)]), Ok(true));
    assert_eq!(of(&[(12.0, 18.0)], &[(20.0, 190.0)]), Err(FitRefusal::NoSampleSeen));
    assert_eq!(of(&[(20.0, 190.0)], &[(12.0, 18.0)]), Err(FitRefusal::NoSampleNotSeen));
    assert_eq!(of(&[], &[]), Err(FitRefusal::NoNotSeen));
}

#[test]
fn wilsons_range_is_that_of_the_books() {
    // 8 of 10: 0.490 to 0.943 (Newcombe 1998).
    let rate = EstimatedRate::of(0.8, 10).unwrap();
    assert!((rate.low - 0.4902).abs() < 1e-3 && (rate.high - 0.9433).abs() < 1e-3, "{rate:?}");
    assert_eq!(EstimatedRate::of(0.5, 0), None);
    let all = EstimatedRate::of(1.0, 1).unwrap();
    assert!(all.low < 0.25 && all.high == 1.0, "{all:?}");
}

#[test]
fn marks_are_read_in_the_form_in_which_they_are_written_and_everything_wrong_is_named() {
    let read = |text: &str| serde_json::from_str::<SetMarks>(text);
    let marks =
        read(r#"{ "labels": { "car": { "seen": [[4.5, 8.2]], "absent": [[20, 24]] } }, "empty": [[0, 4]] }"#).unwrap();
    assert_eq!(marks.seen("car", None, true), [(4.5, 8.2)]);
    assert_eq!(marks.absent("car", None, true), [(20.0, 24.0), (0.0, 4.0)]);
    assert_eq!((marks.absent("bus", None, true), marks.seen("car", None, false)), (vec![(0.0, 4.0)], vec![]));
    let wall = read(r#"{ "labels": { "car": { "seen": [["2026-05-01T12:00:00Z", "2026-05-01T12:00:08+00:00"]] } } }"#)
        .unwrap();
    let seen = wall.seen("car", None, false);
    assert!((seen[0].1 - seen[0].0 - 8.0).abs() < 1e-6, "{seen:?}");
    assert_eq!(read(&serde_json::to_string(&wall).unwrap()).unwrap(), wall);
    assert!(read(r#"{ "labels": { "car": { "sen": [] } } }"#).is_err());
    let known = ["car".to_owned()];
    assert!(marks.problems(Some(&known)).is_empty() && wall.problems(None).is_empty());
    let wrong = [
        (r#"{ "empty": [[4, 4]] }"#, "not after"),
        (r#"{ "empty": [[-1, 4]] }"#, "from 0 on"),
        (r#"{ "empty": [[4, "2026-05-01T12:00:00Z"]] }"#, "the same way"),
        (r#"{ "labels": { "bus": { "seen": [[1, 2]] } } }"#, "no label `bus` (it has car)"),
        (r#"{ "labels": { "car": { "seen": [[1, 9]] } }, "empty": [[0, 4]] }"#, "seen and as absent"),
    ];
    for (text, told) in wrong {
        let problems = read(text).unwrap().problems(Some(&known));
        assert!(problems.iter().any(|problem| problem.contains(told)), "{text}: {problems:?}");
    }
}

#[test]
fn a_mark_of_a_region_is_of_it_alone_and_one_without_is_of_all() {
    let read = |text: &str| serde_json::from_str::<SetMarks>(text).unwrap();
    let marks = read(
        r#"{ "labels": { "car": { "seen": [[1, 4]] } }, "empty": [[20, 30]],
             "regions": { "left": { "labels": { "car": { "absent": [[6, 9]] } } }, "right": { "labels": { "car": { "seen": [[6, 9]] } } } } }"#,
    );
    assert!(marks.problems(None).is_empty(), "{:?}", marks.problems(None));
    let of = |region| (marks.seen("car", region, true), marks.absent("car", region, true));
    assert_eq!(of(None), (vec![(1.0, 4.0)], vec![(20.0, 30.0)]));
    assert_eq!(of(Some("left")), (vec![(1.0, 4.0)], vec![(6.0, 9.0), (20.0, 30.0)]));
    assert_eq!(of(Some("right")), (vec![(1.0, 4.0), (6.0, 9.0)], vec![(20.0, 30.0)]));
    assert_eq!((marks.len(), marks.all().len(), read(&serde_json::to_string(&marks).unwrap())), (4, 4, marks.clone()));
    let mut again = SetMarks::default();
    marks.all().iter().for_each(|mark| again.add(mark));
    assert_eq!(again, marks);
    let known = ["car".to_owned()];
    for (text, told) in [
        (
            r#"{ "labels": { "car": { "seen": [[1, 9]] } }, "regions": { "left": { "empty": [[0, 4]] } } }"#,
            "in region `left`",
        ),
        (r#"{ "regions": { "left": { "labels": { "bus": { "seen": [[1, 2]] } } } } }"#, "no label `bus`"),
        (r#"{ "regions": { "left": { "empty": [[4, 4]] } } }"#, "not after"),
        (r#"{ "regions": { "left": { "regions": { "far": { "empty": [[1, 4]] } } } } }"#, "no regions of its own"),
    ] {
        let problems = read(text).problems(Some(&known));
        assert!(problems.iter().any(|problem| problem.contains(told)), "{text}: {problems:?}");
    }
}

#[test]
fn a_mark_is_there_once_and_goes_when_it_is_removed() {
    let mut marks = SetMarks::default();
    let span = Span(MarkTime::Media(1.0), MarkTime::Media(3.0));
    let mark = |region: Option<&str>, kind| Mark { region: region.map(str::to_owned), kind, span };
    let seen = mark(None, MarkKind::Seen("car".to_owned()));
    marks.add(&seen);
    marks.add(&seen);
    assert_eq!((marks.len(), marks.labels["car"].clone()), (1, LabelMarks { seen: vec![span], absent: vec![] }));
    assert!(!marks.remove(&mark(None, MarkKind::Empty)) && !marks.remove(&mark(Some("left"), seen.kind.clone())));
    assert!(marks.remove(&seen) && marks.is_empty() && marks.labels.is_empty() && marks.regions.is_empty());
    assert_eq!("4.5".parse(), Ok(MarkTime::Media(4.5)));
    assert!("yesterday".parse::<MarkTime>().is_err_and(|why| why.contains("2026-05-01T12:00:00Z")));
}

proptest::proptest! {
    #[test]
    fn any_samples_and_any_marks_end_with_thresholds_or_a_reason(
        samples in proptest::collection::vec((0.0..100.0_f64, 0.0..20.0_f64, proptest::num::f32::ANY), 0..60),
        seen in proptest::collection::vec((-10.0..100.0_f64, -1.0..30.0_f64), 0..6),
        absent in proptest::collection::vec((-10.0..100.0_f64, -1.0..30.0_f64), 0..6),
    ) {
        let mut samples: Vec<Sample> = samples.into_iter().map(|(from, long, margin)| Sample { from, to: from + long, margin }).collect();
        samples.sort_by(|a, b| a.from.total_cmp(&b.from));
        let spans = |spans: Vec<(f64, f64)>| spans.into_iter().map(|(from, long)| (from, from + long)).collect::<Vec<_>>();
        let (seen, absent) = (spans(seen), spans(absent));
        let outcome = label(&[Recording { samples: &samples, seen: &seen, absent: &absent }], &setting());
        if let Ok((fit, thresholds)) = outcome.found {
            proptest::prop_assert!(fit.exit <= fit.enter && thresholds.is_ordered() && fit.enter.is_finite());
        }
    }
}

#[test]
fn counter_examples_count_as_samples_without_it_and_are_not_what_is_usual() {
    let sample = |second: u32| Sample::at(f64::from(second), if second < 20 { -2.0 } else { 6.0 });
    let samples: Vec<Sample> = (0..40).map(sample).collect();
    let recording = Recording { samples: &samples, seen: &[(21.0, 39.0)], absent: &[(0.0, 19.0)] };
    let every = Setting { every: Duration::from_secs(1), ..setting() };
    let plain = label(&[recording], &every).found.unwrap().0;
    assert_eq!(plain.enter, 2.0);
    // A stranger that the label answered to.
    let taught = label(&[recording], &Setting { counter_examples: &[4.0], ..every }).found.unwrap().0;
    assert_eq!((taught.enter, taught.not_seen, taught.not_seen_range), (5.0, plain.not_seen + 1, (-2.0, -2.0)));
    let alone = Recording { absent: &[], ..recording };
    let refused = label(&[alone], &Setting { counter_examples: &[4.0; 20], ..every }).found.unwrap_err();
    assert_eq!(refused, FitRefusal::NoNotSeen);
}
