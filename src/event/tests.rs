//! Scores in, events out: what is told, when, and to whom.

use std::time::Instant;

use super::*;

fn at(base: Instant, seconds: u64) -> FrameTime {
    let media = Duration::from_secs(seconds);
    FrameTime { media, captured: base + media, wall: jiff::Timestamp::UNIX_EPOCH + media, connection: 0 }
}

/// Scores of these probabilities.
fn scored(probabilities: &[f64]) -> Vec<LabelScore> {
    probabilities.iter().map(|p| LabelScore { margin: margin::margin(*p), rival: None }).collect()
}

fn set(labels: Vec<LabelRules>) -> Vec<SetRules> {
    vec![SetRules { region: None, name: "set".into(), labels, rivals: Arc::default() }]
}

fn emitter() -> Emitter {
    let thresholds = Thresholds {
        after: Duration::ZERO,
        after_exit: Duration::ZERO,
        cooldown: Duration::ZERO,
        ..Thresholds::default()
    };
    let label = |name: &str| LabelRules {
        name: name.into(),
        thresholds,
        origin: ThresholdOrigin::default(),
        attributes: Arc::default(),
        hours: None,
    };
    let model = ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None };
    Emitter::new("site a", "door".into(), model, set(vec![label("cat"), label("dog")]), Duration::from_secs(30))
}

#[test]
fn all_events_of_one_tag_share_its_id_and_have_their_own() {
    let base = Instant::now();
    let (mut emitter, mut events) = (emitter(), Vec::new());
    emitter.scores(at(base, 1), 0, &scored(&[0.9, 0.1]), &mut |e| {
        events.push(e);
        true
    });
    emitter.scores(at(base, 2), 0, &scored(&[0.1, 0.9]), &mut |e| {
        events.push(e);
        true
    });
    emitter.close(EndReason::Shutdown, &mut |e| {
        events.push(e);
        true
    });
    let told: Vec<_> = events.iter().map(|e| (e.kind, e.data.label.as_str())).collect();
    assert_eq!(
        told,
        [(EventKind::Start, "cat"), (EventKind::End, "cat"), (EventKind::Start, "dog"), (EventKind::End, "dog")]
    );
    assert_eq!(events[0].data.tag_id, events[1].data.tag_id);
    assert_ne!(events[0].data.tag_id, events[2].data.tag_id);
    assert_ne!(events[0].id, events[1].id);
    assert_eq!(events[3].data.reason, Some(EndReason::Shutdown));
    assert_eq!(events[1].data.media_end, Some(2.0));
}

#[test]
fn changed_labels_end_the_tags_of_those_that_went_and_leave_the_others_open() {
    let base = Instant::now();
    let (mut emitter, mut events) = (emitter(), Vec::new());
    emitter.scores(at(base, 1), 0, &scored(&[0.9, 0.9]), &mut |e| {
        events.push(e);
        true
    });
    let thresholds =
        Thresholds { after_exit: Duration::ZERO, exit: Threshold::Probability(0.3), ..Thresholds::default() };
    let label = |name: &str| LabelRules {
        name: name.into(),
        thresholds,
        origin: ThresholdOrigin::default(),
        attributes: Arc::default(),
        hours: None,
    };
    let sets = set(vec![label("bird"), label("dog")]);
    emitter.relabel(sets, Duration::from_secs(30), &mut |e| {
        events.push(e);
        true
    });
    // Above the new exit: stays open; the new label is at its own place.
    emitter.scores(at(base, 2), 0, &scored(&[0.1, 0.35]), &mut |e| {
        events.push(e);
        true
    });
    emitter.scores(at(base, 3), 0, &scored(&[0.1, 0.1]), &mut |e| {
        events.push(e);
        true
    });
    let told: Vec<_> = events.iter().map(|e| (e.kind, e.data.label.as_str(), e.data.reason)).collect();
    assert_eq!(
        told,
        [
            (EventKind::Start, "cat", None),
            (EventKind::Start, "dog", None),
            (EventKind::End, "cat", Some(EndReason::Reconfigured)),
            (EventKind::End, "dog", Some(EndReason::BelowExit)),
        ]
    );
    assert_eq!(events[1].data.tag_id, events[3].data.tag_id);
}

#[test]
fn a_label_that_waits_is_scored_and_tells_nothing_but_the_end_of_what_it_has_told() {
    let base = Instant::now();
    let (mut emitter, mut events) = (emitter(), Vec::new());
    let mut told = |event: Event| {
        events.push((event.kind, event.data.label, event.data.reason));
        true
    };
    emitter.scores(at(base, 1), 0, &scored(&[0.9, 0.1]), &mut told);
    let thresholds = Thresholds { after: Duration::ZERO, cooldown: Duration::ZERO, ..Thresholds::default() };
    let label = |name: &str, origin| LabelRules {
        name: name.into(),
        thresholds,
        origin,
        attributes: Arc::default(),
        hours: None,
    };
    let usual = drift::UsualRange::new((-1.0, 0.0), 1.0);
    let sets = |origin| set(vec![label("cat", origin), label("dog", ThresholdOrigin::Calibration(usual))]);
    let gap = Duration::from_secs(30);
    emitter.relabel(sets(ThresholdOrigin::Waiting("its view is another".into())), gap, &mut told);
    emitter.scores(at(base, 2), 0, &scored(&[0.9, 0.9]), &mut told);
    assert!(emitter.boards[0].labels[0].latest.is_some_and(|score| score.probability() > 0.8));
    emitter.relabel(sets(ThresholdOrigin::Calibration(usual)), gap, &mut told);
    emitter.scores(at(base, 3), 0, &scored(&[0.9, 0.9]), &mut told);
    let (start, end) = (EventKind::Start, EventKind::End);
    let cat = |kind, reason| (kind, "cat".to_owned(), reason);
    let expected =
        [cat(start, None), cat(end, Some(EndReason::Reconfigured)), (start, "dog".to_owned(), None), cat(start, None)];
    assert_eq!(events, expected);
}

#[test]
fn a_start_that_reached_nobody_does_not_begin_its_cooldown() {
    let base = Instant::now();
    let thresholds = Thresholds {
        after: Duration::ZERO,
        after_exit: Duration::ZERO,
        cooldown: Duration::from_secs(60),
        ..Thresholds::default()
    };
    let label = LabelRules {
        name: "cat".into(),
        thresholds,
        origin: ThresholdOrigin::default(),
        attributes: Arc::default(),
        hours: None,
    };
    let model = ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None };
    let mut emitter = Emitter::new("a", "door".into(), model, set(vec![label]), Duration::from_secs(30));
    let mut told = Vec::new();
    // The sinks are over their limit for the first three seconds.
    for (second, score) in [(1, 0.9), (2, 0.1), (3, 0.9), (4, 0.1), (5, 0.9), (6, 0.1), (7, 0.9)] {
        emitter.scores(at(base, second), 0, &scored(&[score]), &mut |event| {
            let reaches = second > 3;
            if reaches {
                told.push((second, event.kind));
            }
            reaches
        });
    }
    assert_eq!(
        told,
        [(4, EventKind::End), (5, EventKind::Start), (6, EventKind::End)],
        "7 is within the cooldown of 5"
    );
}

#[test]
fn a_swallowed_start_is_counted_by_set_label_and_reason_until_its_label_goes() {
    let base = Instant::now();
    let thresholds = Thresholds { after: Duration::from_secs(2), ..Thresholds::default() };
    let label = |name: &str| LabelRules {
        name: name.into(),
        thresholds,
        origin: ThresholdOrigin::default(),
        attributes: Arc::default(),
        hours: None,
    };
    let model = ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None };
    let labels = vec![label("cat"), label("dog"), label("cow")];
    let sets = vec![SetRules { region: None, name: "pets".into(), labels, rivals: Arc::default() }];
    let swallowed = Arc::new(SwallowedStarts::new(&"door".into()));
    let emitter = Emitter::new("a", "door".into(), model, sets, Duration::from_secs(30));
    let mut emitter = emitter.counting(Arc::clone(&swallowed));
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        let samples = [(1, [0.9, 0.1, 0.1]), (2, [0.1, 0.9, 0.5]), (3, [0.9, 0.9, 0.1]), (4, [0.1, 0.1, 0.1])];
        for (second, scores) in samples {
            emitter.scores(at(base, second), 0, &scored(&scores), &mut |event| panic!("{event:?}"));
        }
    });
    let told: Vec<_> = swallowed
        .report()
        .into_iter()
        .map(|r| (r.set, r.label, r.counts.after, r.counts.cooldown, r.counts.gap, r.counts.rival))
        .collect();
    let pets = |label: &str, after, rival| ("pets".to_owned(), label.to_owned(), after, 0, 0, rival);
    assert_eq!(told, [pets("cat", 2, 0), pets("cow", 0, 1), pets("dog", 1, 0)]);
    let text = recorder.handle().render();
    let line = "vtagd_starts_swallowed_total{stream=\"door\",set=\"pets\",label=\"cat\",why=\"after\"} 2";
    assert!(text.lines().any(|told| told == line), "{text}");
    swallowed.keep(&[("pets".to_owned(), "dog".to_owned())]);
    assert_eq!(swallowed.report().len(), 1);
}

#[test]
fn closing_a_stream_that_never_had_a_frame_tells_nothing() {
    emitter().close(EndReason::Shutdown, &mut |e| panic!("unexpected {e:?}"));
}

#[test]
fn labels_of_one_name_in_two_sets_are_two_series() {
    let thresholds = Thresholds { after: Duration::ZERO, ..Thresholds::default() };
    let label = || LabelRules {
        name: "cat".into(),
        thresholds,
        origin: ThresholdOrigin::default(),
        attributes: Arc::default(),
        hours: None,
    };
    let set = |name: &str| SetRules { region: None, name: name.into(), labels: vec![label()], rivals: Arc::default() };
    let sets = vec![set("indoors"), set("outdoors")];
    let model = ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None };
    let mut emitter = Emitter::new("a", "door".into(), model, sets, Duration::from_secs(30));
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let base = Instant::now();
    metrics::with_local_recorder(&recorder, || {
        for set in [0, 1] {
            emitter.scores(at(base, 1 + set as u64), set, &scored(&[0.9]), &mut |_| true);
        }
    });
    let text = recorder.handle().render();
    for set in ["indoors", "outdoors"] {
        let line = format!("vtagd_events_total{{stream=\"door\",set=\"{set}\",label=\"cat\",type=\"start\"}} 1");
        assert!(text.lines().any(|told| told == line), "{line}: {text}");
    }
}

/// Keyframes may be as rare as this, and a box so small.
#[test]
fn samples_that_are_all_far_apart_start_and_end_tags_and_are_told_of_once() {
    let base = Instant::now();
    let thresholds = Thresholds { cooldown: Duration::ZERO, ..Thresholds::default() };
    let label = LabelRules {
        name: "cat".into(),
        thresholds,
        origin: ThresholdOrigin::default(),
        attributes: Arc::default(),
        hours: None,
    };
    let model = ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None };
    let emitter = Emitter::new("a", "door".into(), model, set(vec![label]), Duration::from_secs(30));
    let (mut emitter, mut told) = (emitter.expecting(Duration::from_secs(1)), Vec::new());
    for (number, score) in [0.1, 0.1, 0.9, 0.9, 0.9, 0.1, 0.1].into_iter().enumerate() {
        assert_eq!(emitter.rare.told, number > 4, "{number}");
        emitter.scores(at(base, number as u64 * 40), 0, &scored(&[score]), &mut |event| {
            told.push((event.kind, event.data.media_start, event.data.media_end));
            true
        });
    }
    assert_eq!(told, [(EventKind::Start, 80.0, None), (EventKind::End, 80.0, Some(200.0))]);
}

#[test]
fn samples_that_come_as_they_are_wanted_are_not_told_of() {
    let base = Instant::now();
    let mut emitter = emitter().expecting(Duration::from_secs(1));
    (0..20).for_each(|second| emitter.scores(at(base, second), 0, &scored(&[0.1, 0.1]), &mut |_| true));
    assert!(!emitter.rare.told);
}

/// A label that is looked for from eight to ten, in UTC.
fn with_hours(name: &str) -> LabelRules {
    let thresholds = Thresholds {
        after: Duration::ZERO,
        after_exit: Duration::from_secs(5),
        cooldown: Duration::ZERO,
        ..Thresholds::default()
    };
    let span = active_hours::ActiveSpan { days: [true; 7], from: 480, to: 600, zone: jiff::tz::TimeZone::UTC };
    let hours = Some(Arc::new(ActiveHours(vec![span])));
    LabelRules { name: name.into(), thresholds, origin: ThresholdOrigin::default(), attributes: Arc::default(), hours }
}

/// A time of day in UTC.
fn clock(time: &str) -> Timestamp {
    format!("2026-11-27T{time}Z").parse().unwrap()
}

#[test]
fn outside_its_hours_nothing_is_told_of_a_label_and_what_is_open_ends_with_them() {
    let base = Instant::now();
    let labels = vec![with_hours("cat"), LabelRules { hours: None, ..with_hours("dog") }];
    let model = ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None };
    let mut emitter = Emitter::new("a", "door".into(), model, set(labels), Duration::from_secs(30));
    let mut events = Vec::new();
    let mut told = |event: Event| {
        events.push((event.kind, event.data.label.clone(), event.data.reason, event.data.media_end));
        true
    };
    let frame = |second, wall: &str| FrameTime { wall: clock(wall), ..at(base, second) };
    // Before anybody has looked at the clock, and before eight.
    emitter.scores(frame(1, "07:59:57"), 0, &scored(&[0.9, 0.9]), &mut told);
    assert!(emitter.keep_hours(clock("07:59:58"), &mut told));
    emitter.scores(frame(2, "07:59:58"), 0, &scored(&[0.9, 0.9]), &mut told);
    assert_eq!(emitter.outside_hours(), [Some(("set".into(), 1, 2))]);
    assert!(emitter.keep_hours(clock("08:00:00"), &mut told) && !emitter.keep_hours(clock("08:00:01"), &mut told));
    // It has waited for its turn.
    emitter.scores(frame(2, "07:59:59"), 0, &scored(&[0.9, 0.9]), &mut told);
    emitter.scores(frame(3, "08:00:01"), 0, &scored(&[0.9, 0.9]), &mut told);
    // It falls when the hours end: the end is where the fall began.
    emitter.scores(frame(4, "09:59:58"), 0, &scored(&[0.1, 0.9]), &mut told);
    emitter.scores(frame(5, "09:59:59"), 0, &scored(&[0.1, 0.9]), &mut told);
    assert!(emitter.keep_hours(clock("10:00:00"), &mut told));
    assert!(emitter.boards[0].labels[0].latest.is_none() && emitter.boards[0].labels[1].latest.is_some());
    // What the set's other label is scored for goes on.
    emitter.scores(frame(6, "10:00:00"), 0, &scored(&[0.9, 0.9]), &mut told);
    let (start, end) = (EventKind::Start, EventKind::End);
    let cat = |kind, reason, end| (kind, "cat".to_owned(), reason, end);
    let expected =
        [(start, "dog".to_owned(), None, None), cat(start, None, None), cat(end, Some(EndReason::Inactive), Some(4.0))];
    assert_eq!(events, expected);
}

#[test]
fn hours_that_a_reload_changes_count_at_once_and_do_not_end_what_they_still_hold() {
    let base = Instant::now();
    let model = ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None };
    let always = |name: &str| LabelRules { hours: None, ..with_hours(name) };
    let labels = vec![always("cat"), with_hours("dog")];
    let mut emitter = Emitter::new("a", "door".into(), model, set(labels), Duration::from_secs(30));
    let mut events = Vec::new();
    let mut told = |event: Event| {
        events.push((event.kind, event.data.label.clone(), event.data.reason));
        true
    };
    let frame = |second, wall: &str| FrameTime { wall: clock(wall), ..at(base, second) };
    emitter.keep_hours(clock("09:00:00"), &mut told);
    emitter.scores(frame(1, "09:00:01"), 0, &scored(&[0.9, 0.9]), &mut told);
    let gap = Duration::from_secs(30);
    emitter.relabel(set(vec![with_hours("cat"), with_hours("dog")]), gap, &mut told);
    emitter.keep_hours(clock("09:00:01"), &mut told);
    emitter.scores(frame(2, "09:00:02"), 0, &scored(&[0.9, 0.9]), &mut told);
    // The clock was set while the new labels were read.
    emitter.relabel(set(vec![with_hours("cat"), always("dog")]), gap, &mut told);
    emitter.keep_hours(clock("11:00:00"), &mut told);
    emitter.scores(frame(3, "11:00:01"), 0, &scored(&[0.9, 0.9]), &mut told);
    let (start, end) = (EventKind::Start, EventKind::End);
    let named = |kind, name: &str, reason| (kind, name.to_owned(), reason);
    let expected = [named(start, "cat", None), named(start, "dog", None), named(end, "cat", Some(EndReason::Inactive))];
    assert_eq!(events, expected);
}
