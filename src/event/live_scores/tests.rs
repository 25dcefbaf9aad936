//! Live scores, as they are read.

use super::super::{EndReason, EventKind, LabelRules, ModelRef, SetRules, Thresholds};
use super::*;
use crate::score::Rival;

const GAP: Duration = Duration::from_secs(30);

fn at(base: Instant, seconds: u64) -> FrameTime {
    let media = Duration::from_secs(seconds);
    FrameTime { media, captured: base + media, wall: Timestamp::UNIX_EPOCH + media, connection: 0 }
}

fn lead(margin: f32) -> LabelScore {
    LabelScore { margin, rival: Some(Rival(1)) }
}

fn live(base: Instant, margins: &[f32]) -> LiveScores {
    let rules = |name: &str| LabelRules {
        name: name.into(),
        thresholds: Thresholds {
            after: Duration::from_secs(2),
            after_exit: Duration::from_secs(2),
            cooldown: Duration::from_secs(30),
            ..Thresholds::default()
        },
        origin: crate::event::ThresholdOrigin::default(),
        attributes: Arc::default(),
        hours: None,
    };
    let rivals = [("car", RivalKind::Label), ("an empty street", RivalKind::Background)];
    let rivals = rivals.map(|(name, kind)| NamedRival { kind, name: name.into() });
    let set = SetRules { region: None, name: "street".into(), labels: vec![rules("car")], rivals: rivals.into() };
    let model = ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None };
    let emitter = Arc::new(Mutex::new(Emitter::new("site", "gate".into(), model, vec![set], GAP)));
    let live = LiveScores::default();
    live.enter(&"gate".into(), &emitter);
    for (second, margin) in margins.iter().enumerate() {
        emitter.lock().scores(at(base, second as u64), 0, &[lead(*margin)], &mut |_| true);
    }
    live
}

#[test]
fn a_label_that_never_fired_is_seen_with_its_rival_and_what_swallowed_it() {
    let base = Instant::now();
    let live = live(base, &[-3.0, 2.0, 3.0, -3.0, 0.1, -3.5]);
    let seen = live.reading("gate", base + Duration::from_secs(7), Detail::History, |_, _, _| true).unwrap();
    let seen = serde_json::to_value(seen).unwrap();
    assert_eq!((&seen["at"], &seen["age"]), (&"1970-01-01T00:00:05Z".into(), &2.0.into()));
    let label = &seen["scores"][0];
    assert_eq!((&label["region"], &label["set"], &label["label"]), (&().into(), &"street".into(), &"car".into()));
    assert_eq!((&label["margin"], &label["rival"]), (&(-3.5).into(), &"an empty street".into()));
    assert_eq!((&label["rival_kind"], &label["state"]), (&"background".into(), &"idle".into()));
    assert!((label["enter"]["margin"].as_f64().unwrap() - 0.405_465).abs() < 1e-5, "{label}");
    assert_eq!((label["enter"]["score"].as_f64(), label["after"].as_f64()), (Some(0.6), Some(2.0)));
    assert_eq!((&label["peak"]["margin"], &label["peak"]["at"]), (&3.0.into(), &"1970-01-01T00:00:02Z".into()));
    assert_eq!(label["swallowed"], serde_json::json!({ "after": 1, "cooldown": 0, "gap": 0, "rival": 1 }));
    let latest = label["swallowed_latest"].as_array().unwrap();
    assert_eq!(
        (&latest[0]["by"], &latest[0]["lasted"], &latest[0]["short_by"]),
        (&"after".into(), &1.0.into(), &1.0.into())
    );
    assert_eq!((latest.len(), &latest[1]["by"]), (2, &"rival".into()));
    assert_eq!(label["peaks"].as_array().unwrap().len(), 1);
}

#[test]
fn a_calibrated_label_tells_how_much_of_the_last_hour_lies_beyond_its_range_and_open_tags_are_no_part_of_it() {
    let base = Instant::now();
    let usual = super::super::drift::UsualRange::new((-2.0, -1.0), 3.0);
    let thresholds = Thresholds {
        enter: Threshold::Margin(3.0),
        exit: Threshold::Margin(2.0),
        after: Duration::ZERO,
        after_exit: Duration::ZERO,
        cooldown: Duration::ZERO,
    };
    let rules = |origin| LabelRules { name: "car".into(), thresholds, origin, attributes: Arc::default(), hours: None };
    let set =
        |origin| SetRules { region: None, name: "street".into(), labels: vec![rules(origin)], rivals: Arc::default() };
    let model = ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None };
    let calibrated = || ThresholdOrigin::Calibration(usual);
    let emitter = Emitter::new("site", "gate".into(), model, vec![set(calibrated())], GAP);
    let emitter = Arc::new(Mutex::new(emitter));
    let live = LiveScores::default();
    live.enter(&"gate".into(), &emitter);
    // A tag, what was usual, and then night.
    for (second, margin) in [(0..100, 9.0), (100..140, -1.5), (140..200, -6.0)]
        .iter()
        .flat_map(|(range, m)| range.clone().map(move |s| (s, *m)))
    {
        emitter.lock().scores(at(base, second), 0, &[lead(margin)], &mut |_| true);
    }
    let now = base + Duration::from_secs(200);
    let share = || live.drifts("gate", now).first().map(|drift| drift.share);
    assert_eq!(share(), Some(0.6));
    assert_eq!(live.reading("gate", now, Detail::Latest, |_, _, _| true).unwrap().scores[0].drift, Some(0.6));
    assert!(live.drifts("door", now).is_empty());
    // A reload that changes nothing of it keeps it; without a calibration there is none.
    emitter.lock().relabel(vec![set(calibrated())], GAP, &mut |_| true);
    assert_eq!(share(), Some(0.6));
    emitter.lock().relabel(vec![set(ThresholdOrigin::Configuration)], GAP, &mut |_| true);
    assert_eq!(share(), None);
}

#[test]
fn a_label_has_a_tag_of_its_own_in_each_region_and_all_of_them_end_with_the_stream() {
    let base = Instant::now();
    let thresholds = Thresholds {
        after: Duration::ZERO,
        after_exit: Duration::ZERO,
        cooldown: Duration::from_secs(60),
        ..Thresholds::default()
    };
    let label = || LabelRules {
        name: "car".into(),
        thresholds,
        origin: Default::default(),
        attributes: Arc::default(),
        hours: None,
    };
    let set = |region: &str| SetRules {
        region: Some(region.into()),
        name: "lot".into(),
        labels: vec![label()],
        rivals: Arc::default(),
    };
    let model = ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None };
    let emitter = Arc::new(Mutex::new(Emitter::new("a", "gate".into(), model, vec![set("left"), set("right")], GAP)));
    let live = LiveScores::default();
    live.enter(&"gate".into(), &emitter);
    let mut events = Vec::new();
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        for (second, scores) in [(1, [3.0, -3.0]), (2, [3.0, 3.0]), (3, [-3.0, 3.0]), (4, [3.0, 3.0])] {
            for (board, score) in scores.into_iter().enumerate() {
                emitter.lock().scores(at(base, second), board, &[lead(score)], &mut |event| {
                    events.push(event);
                    true
                });
            }
        }
        let seen = live.reading("gate", base, Detail::Peak, |_, _, _| true).unwrap().scores;
        let stands = |reading: &LabelReading| (reading.region.clone().unwrap(), reading.state);
        let stands: Vec<_> = seen.iter().map(stands).collect();
        assert_eq!(stands, [("left".to_owned(), LabelState::Cooldown), ("right".to_owned(), LabelState::Open)]);
        let of_right = live.reading("gate", base, Detail::Peak, |region, _, _| region == Some("right")).unwrap();
        assert_eq!((of_right.scores.len(), of_right.scores[0].region.as_deref()), (1, Some("right")));
        assert_eq!(live.latest("gate")[1].region.as_deref(), Some("right"));
        let push = &mut |event| {
            events.push(event);
            true
        };
        // In another order, and without one of them.
        emitter.lock().relabel(vec![set("right"), set("door")], GAP, push);
        emitter.lock().close(EndReason::Shutdown, push);
    });
    let told: Vec<_> = events.iter().map(|e| (e.data.region.as_deref().unwrap(), e.kind, e.data.reason)).collect();
    assert_eq!(
        told,
        [
            ("left", EventKind::Start, None),
            ("right", EventKind::Start, None),
            ("left", EventKind::End, Some(EndReason::BelowExit)),
            ("right", EventKind::End, Some(EndReason::Shutdown)),
        ],
        "the second car on the left is within the cooldown of that region"
    );
    assert_eq!(events[0].data.tag_id, events[2].data.tag_id);
    assert_eq!(events[1].data.tag_id, events[3].data.tag_id);
    assert_ne!(events[0].data.tag_id, events[1].data.tag_id);
    let json = serde_json::to_value(&events[0]).unwrap();
    assert_eq!((&json["data"]["region"], &json["subject"]), (&"left".into(), &"lot/car".into()));
    let line = "vtagd_events_total{stream=\"gate\",region=\"right\",set=\"lot\",label=\"car\",type=\"end\"} 1";
    let text = recorder.handle().render();
    assert!(text.lines().any(|told| told == line), "{text}");
}

#[test]
fn who_is_not_asked_for_is_left_out_and_who_has_gone_is_not_there() {
    let base = Instant::now();
    let live = live(base, &[]);
    let seen = live.reading("gate", base, Detail::Peak, |_, set, label| (set, label) == ("street", "car")).unwrap();
    assert_eq!((seen.scores.len(), seen.at, seen.scores[0].told.score), (1, None, None));
    assert!(seen.scores[0].peaks.is_none() && seen.scores[0].peak.is_none());
    assert!(live.reading("gate", base, Detail::Peak, |_, _, label| label == "bus").unwrap().scores.is_empty());
    assert!(live.reading("door", base, Detail::Peak, |_, _, _| true).is_none());
    live.retain(|id| id != "gate");
    assert!(live.reading("gate", base, Detail::Peak, |_, _, _| true).is_none() && live.latest("gate").is_empty());
}

#[test]
fn an_open_tag_and_a_cooldown_say_since_when_and_until_when() {
    let base = Instant::now();
    let state = |margins: &[f32]| {
        let seen = live(base, margins)
            .reading("gate", base + Duration::from_secs(60), Detail::Latest, |_, _, _| true)
            .unwrap();
        let label = &seen.scores[0];
        let second = |at: Option<Timestamp>| at.map(|at| at.as_second());
        (label.state, second(label.since), second(label.until))
    };
    assert_eq!(state(&[-1.0, 2.0, 2.0]), (LabelState::Rising, Some(1), None));
    assert_eq!(state(&[-1.0, 2.0, 2.0, 2.0]), (LabelState::Open, Some(1), None));
    let ended = [-1.0, 2.0, 2.0, 2.0, -1.0, -1.0, -1.0];
    assert_eq!(state(&ended), (LabelState::Cooldown, None, Some(33)));
    assert_eq!(state(&[&ended[..], &[2.0]].concat()), (LabelState::Cooldown, Some(7), Some(33)));
}

#[test]
fn a_label_outside_its_hours_says_so_and_when_they_begin() {
    let base = Instant::now();
    let zone = jiff::tz::TimeZone::UTC;
    let span = crate::event::active_hours::ActiveSpan { days: [true; 7], from: 480, to: 600, zone };
    let hours = Some(Arc::new(crate::event::ActiveHours(vec![span])));
    let thresholds = Thresholds { after: Duration::ZERO, ..Thresholds::default() };
    let rules =
        LabelRules { name: "car".into(), thresholds, origin: Default::default(), attributes: Arc::default(), hours };
    let set = SetRules { region: None, name: "street".into(), labels: vec![rules], rivals: Arc::default() };
    let model = ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None };
    let emitter = Arc::new(Mutex::new(Emitter::new("a", "gate".into(), model, vec![set], GAP)));
    let live = LiveScores::default();
    live.enter(&"gate".into(), &emitter);
    let seen = || live.reading("gate", base, Detail::Latest, |_, _, _| true).unwrap().scores.remove(0);
    for (clock, state) in [("09:00", LabelState::Open), ("10:00", LabelState::Inactive)] {
        let now = format!("2026-11-27T{clock}:00Z").parse().unwrap();
        emitter.lock().keep_hours(now, &mut |_| true);
        emitter.lock().scores(FrameTime { wall: now, ..at(base, 1) }, 0, &[lead(5.0)], &mut |_| true);
        assert_eq!(seen().state, state);
    }
    // A frame that was being scored when the hours ended, and one of which nobody wants scores any more.
    assert!(seen().told.score.is_some());
    emitter.lock().scores(at(base, 2), 0, &[], &mut |_| true);
    assert!(seen().told.score.is_none());
    let next: Timestamp = "2026-11-28T08:00:00Z".parse().unwrap();
    assert_eq!((seen().until, seen().since), (Some(next), None));
}
