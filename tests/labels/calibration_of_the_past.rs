//! Calibration out of a camera's history, over the real binary and RTSP: nothing but marks by the clock. A right event comes, a wrong one is
//! marked and gone; regions; a history that cannot say anything.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::calibration::{config_of, printed, refused, run};
use crate::common::camera::{Camera, Codec, Content};
use crate::common::daemon::{Daemon, eventually, root, vtagd};
use jiff::Timestamp;
use serde_json::Value;
use vtagd::frame::view::{NamedView, View, ViewMode};
use vtagd::history::name_table::Name;
use vtagd::history::row_store::{NewRow, RetentionLimits, RowStore};

/// The set of `calibration.rs`: as it is written, a cat is never told and a dog always. The clip shows a cat in the first of its four parts.
fn start(folder: &Path, camera: &Camera, history: &str) -> Daemon {
    let config = config_of(folder, camera.url().as_str(), "enabled: true").replace("interval: 1s", "interval: 500ms");
    let mut daemon = Daemon::start(folder, &format!("{config}history: {history}\n"));
    daemon.wait_ready();
    daemon
}

fn camera() -> Camera {
    Camera::start(Content::Looped(root().join("demo/clip.mp4"), 60), Codec::H264, None)
}

fn label(daemon: &mut Daemon, name: &str) -> Option<Value> {
    let scores: Value = serde_json::from_str(&daemon.get("/api/v1/streams/gate/scores").1).unwrap();
    let found = scores["scores"].as_array().unwrap().iter().find(|label| label["label"] == name)?.clone();
    found["margin"].is_number().then(|| {
        let mut found = found;
        found["at"] = scores["at"].clone();
        found
    })
}

/// When there was a cat and when there was none, as somebody sees who watches the bars of `vtagd scores`: a stretch of each, from its first
/// sample to its last.
fn watched(daemon: &mut Daemon, seconds: (f64, f64)) -> [(Timestamp, Timestamp); 2] {
    let deadline = Instant::now() + Duration::from_secs(300);
    let mut samples: Vec<(Timestamp, f64)> = Vec::new();
    loop {
        assert!(Instant::now() < deadline, "no cat came and went: {samples:?}");
        std::thread::sleep(Duration::from_millis(100));
        let Some(cat) = label(daemon, "cat") else { continue };
        let at: Timestamp = cat["at"].as_str().unwrap().parse().unwrap();
        if samples.last().is_none_or(|(last, _)| *last < at) {
            samples.push((at, cat["margin"].as_f64().unwrap()));
        }
        let margins = || samples.iter().map(|(_, margin)| *margin);
        let (low, high) = (margins().fold(f64::MAX, f64::min), margins().fold(f64::MIN, f64::max));
        if high - low < 4.0 {
            continue;
        }
        // Of samples that follow one another on the same side.
        let stretch = |is_cat: bool, least: f64| {
            let is = |margin: f64| (margin > f64::midpoint(low, high)) == is_cat;
            let follows = |a: &(Timestamp, f64), b: &(Timestamp, f64)| {
                is(a.1) == is(b.1) && b.0.duration_since(a.0).as_secs_f64() < 2.0
            };
            let runs = samples.chunk_by(follows).filter(|run| is(run[0].1));
            let runs = runs.map(|run| (run[0].0, run[run.len() - 1].0));
            runs.max_by_key(|(from, to)| to.duration_since(*from))
                .filter(|(from, to)| to.duration_since(*from).as_secs_f64() >= least)
        };
        if let (Some(seen), Some(empty)) = (stretch(true, seconds.0), stretch(false, seconds.1)) {
            return [seen, empty];
        }
    }
}

#[test]
fn from_nothing_but_a_camera_and_marks_by_the_clock_to_a_right_event_and_a_wrong_one_is_marked_and_gone() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let camera = camera();
    let mut daemon = start(here, &camera, "{ path: kept }");
    let calibrate = ["labels", "calibrate", "things", "--stream", "gate"];
    let (code, said) = refused(here, &calibrate);
    assert!(code == 2 && said.contains("nothing is marked"), "{said}");

    let [seen, empty] = watched(&mut daemon, (4.0, 9.0)).map(|(from, to)| (from.to_string(), to.to_string()));
    let on = ["--stream", "gate", "--set", "things", "--label", "cat"];
    let times = ["--seen", &seen.0, &seen.1, "--empty", &empty.0, &empty.1];
    printed(here, &[&["marks", "add"], &on[..], &times[..]].concat());
    // Nothing changes without --write; moments are times of the clock, as they are marked.
    let said = printed(here, &[&calibrate[..], &["--label", "cat"]].concat());
    for part in ["cat\n", "enter { margin:", "in its history: 20", "nothing was written"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let told = printed(here, &[&calibrate[..], &["--label", "cat", "--write", "--json"]].concat());
    let told: Value = serde_json::from_str(&told).unwrap();
    let cat = &told["labels"][0];
    assert_eq!((&cat["balanced_accuracy"], &cat["rows_of_both"]), (&1.0.into(), &0.into()), "{cat}");
    assert_eq!(told["recordings"][0], "its history");
    // Each row counts for all samples that it stands for: at two a second more than a second of each kind.
    assert!(cat["samples"]["seen"].as_u64() >= Some(6) && cat["samples"]["not_seen"].as_u64() >= Some(14), "{cat}");
    let began = &cat["events"][0]["events"][0][0];
    assert!(began.as_str().is_some_and(|at| at.parse::<Timestamp>().is_ok()), "{cat}");

    let is_cat = |event: &Value| event["data"]["label"] == "cat";
    assert!(!daemon.events().iter().any(is_cat), "as it was written it is never told");
    daemon.signal(libc::SIGHUP);
    let right = eventually("a cat", || daemon.events().into_iter().find(is_cat));
    let enter = cat["found"]["enter"]["margin"].as_f64().unwrap();
    assert!(right["type"] == "dev.vtagd.tag.start" && right["data"]["margin"].as_f64().unwrap() >= enter, "{right}");

    // The dog that is told all the time.
    let is_dog = |event: &Value, kind: &str| {
        event["data"]["label"] == "dog" && event["type"] == *format!("dev.vtagd.tag.{kind}")
    };
    let dog = daemon.events().into_iter().find(|event| is_dog(event, "start")).unwrap();
    let said = printed(here, &["marks", "event", dog["id"].as_str().unwrap(), "wrong"]);
    assert!(said.contains("`dog` absent [20"), "{said}");
    // It was not there with the cat either.
    let dogs = ["--stream", "gate", "--set", "things", "--label", "dog", "--absent", &seen.0, &seen.1];
    printed(here, &[&["marks", "add"], &dogs[..]].concat());
    let said = printed(here, &[&calibrate[..], &["--write"]].concat());
    assert!(said.contains("cautious: nothing is marked as seen"), "{said}");
    daemon.signal(libc::SIGHUP);
    let starts = |daemon: &Daemon| daemon.events().iter().filter(|event| is_dog(event, "start")).count();
    eventually("the end of the dog", || daemon.events().iter().any(|event| is_dog(event, "end")).then_some(()));
    let before = starts(&daemon);
    // Through all that the camera shows.
    let cats = |daemon: &Daemon| daemon.events().iter().filter(|event| is_cat(event)).count();
    let (now, until) = (cats(&daemon), Instant::now() + Duration::from_secs(40));
    eventually("the next cat", || (cats(&daemon) > now || Instant::now() > until).then_some(()));
    let standing = label(&mut daemon, "dog").unwrap();
    assert_eq!(
        (&standing["thresholds_from"], &standing["state"]),
        (&"calibration".into(), &"idle".into()),
        "{standing}"
    );
    assert_eq!(starts(&daemon), before, "it is gone");
    daemon.stop_cleanly();
}

#[test]
fn a_history_that_is_in_memory_or_off_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let config = config_of(here, "rtsp://127.0.0.1:9/", "enabled: true");
    let times = ["--empty", "2026-05-01T12:00:00Z", "2026-05-01T12:01:00Z"];
    printed(here, &[&["marks", "add", "--stream", "gate", "--set", "things"], &times[..]].concat());
    let calibrate = ["labels", "calibrate", "things", "--stream", "gate"];
    for (history, part) in [
        ("", "`history: {}` in the configuration keeps it on disk"),
        ("history: off\n", "its history is off"),
        ("history: { path: nowhere }\n", "cannot be read"),
    ] {
        fs::write(here.join("vtagd.yaml"), format!("{config}{history}")).unwrap();
        let (code, said) = refused(here, &calibrate);
        assert!(code > 0 && said.contains(part), "{history}: {said}");
    }
    fs::write(here.join("vtagd.yaml"), format!("{config}history: {{ path: kept }}\n")).unwrap();
    fs::create_dir(here.join("kept")).unwrap();
    let (code, said) = refused(here, &calibrate);
    assert!(code == 2 && said.contains("has nothing of stream gate since the first mark"), "{said}");
    fs::write(here.join("marks.yaml"), "empty: [[1, 20]]\n").unwrap();
    let marks = here.join("marks.yaml").display().to_string();
    let (code, said) = refused(here, &[&calibrate[..], &["--marks", &marks]].concat());
    assert!(code == 2 && said.contains("write times such as 2026-05-01T12:00:04Z"), "{said}");
    // They are taken neither one by one nor from a file.
    let on = ["--stream", "gate", "--set", "things"];
    for arguments in [&["marks", "add", "--empty", "1", "20"][..], &["marks", "import", &marks]] {
        let (code, said) = refused(here, &[arguments, &on[..]].concat());
        assert!(code == 2 && said.contains("write times such as 2026-05-01T12:00:04Z"), "{arguments:?}: {said}");
    }
}

/// The embeddings of these pictures, and the model's fingerprint.
fn embedded(folder: &Path, files: &[&str]) -> (Vec<Vec<f32>>, String) {
    let mut command = vtagd(folder);
    command.args(["embed", "--json"]);
    files.iter().for_each(|file| {
        command.arg("--image").arg(root().join("tests/data/preprocess").join(file));
    });
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let numbers = |image: &Value| {
        image["embedding"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
    };
    let embeddings = told["images"].as_array().unwrap().iter().map(numbers).collect();
    (embeddings, told["model"]["fingerprint"].as_str().unwrap().to_owned())
}

#[test]
fn what_was_seen_through_another_view_is_left_out_and_what_is_older_than_views_are_kept_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let config = config_of(here, "rtsp://127.0.0.1:9/", "enabled: true");
    fs::write(here.join("vtagd.yaml"), format!("{config}history: {{ path: kept }}\n")).unwrap();
    let (embeddings, model) = embedded(here, &["chelsea.png", "rocket.jpg"]);
    let [cat, rocket] = &embeddings[..] else { panic!("two pictures") };
    let began = Timestamp::from_millisecond(Timestamp::now().as_millisecond() - 3_600_000).unwrap();
    let at = |seconds: i64| began + jiff::SignedDuration::from_secs(seconds);
    // Through another view it was the other way round.
    let now = NamedView { view: View { mode: ViewMode::Squash, ..View::default() }, ..NamedView::default() };
    let before = NamedView::default();
    let rows = [
        (now.digest(), (0, 12), cat),
        (now.digest(), (20, 45), rocket),
        (before.digest(), (0, 12), rocket),
        (before.digest(), (20, 45), cat),
        (String::new(), (46, 50), rocket),
    ];
    let limits = RetentionLimits { max_size: 64 << 20, max_age: Duration::from_hours(240), min_change: 0.01 };
    let (mut store, _) = RowStore::open(Some(&here.join("kept")), limits, Instant::now()).unwrap();
    for (view, (from, to), embedding) in rows {
        let name = Name { stream: "gate".into(), model: model.clone(), view, ..Name::default() };
        for seconds in [from, to] {
            let row = NewRow { name: &name, tile: 0, at: at(seconds).as_millisecond(), embedding };
            store.push(&row, Instant::now()).unwrap();
        }
    }
    store.sync().unwrap();
    drop(store);
    let span = |(from, to)| [at(from).to_string(), at(to).to_string()];
    let ([seen, until], [empty, end]) = (span((0, 12)), span((20, 45)));
    let on = ["--stream", "gate", "--set", "things", "--label", "cat"];
    printed(here, &[&["marks", "add"], &on[..], &["--seen", &seen, &until, "--empty", &empty, &end]].concat());

    let output = run(here, &["labels", "calibrate", "things", "--stream", "gate", "--label", "cat", "--json"]);
    let said = String::from_utf8(output.stderr).unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["labels"][0]["balanced_accuracy"], &told["labels"][0]["rows_of_both"]), (&1.0.into(), &0.into()));
    for part in [
        "as seen through another view than the stream has now: 2 rows",
        "1 row of the history, kept by an earlier version",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // So does a phrase that is tried; a search finds all.
    let searched = |arguments: &[&str]| -> Value {
        let told: Value = serde_json::from_str(&printed(here, arguments)).unwrap();
        told["searched"].clone()
    };
    let tried = searched(&["labels", "try", "a cat", "--json"]);
    assert_eq!(
        (&tried["rows"], &tried["other_views"], &tried["unknown_views"]),
        (&3.into(), &2.into(), &1.into()),
        "{tried}"
    );
    let found = searched(&["search", "a cat", "--json"]);
    assert_eq!((&found["rows"], &found["other_views"]), (&5.into(), &0.into()), "{found}");
    // Nothing is left where the view is another one again.
    let tiles = fs::read_to_string(here.join("vtagd.yaml")).unwrap().replace("mode: squash", "mode: pad");
    fs::write(here.join("vtagd.yaml"), tiles).unwrap();
    let (code, said) = refused(here, &["labels", "calibrate", "things", "--stream", "gate", "--label", "cat"]);
    assert!(code == 2 && said.contains("as seen through another view than the stream has now: 4 rows"), "{said}");
}

#[test]
fn a_region_is_calibrated_by_itself_from_a_clip_and_from_the_past_and_says_nothing_of_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let views =
        "view: { regions: [{ name: left, region: [0, 0, 0.5, 1] }, { name: right, region: [0.5, 0, 0.5, 1] }] }";
    let clip = root().join("demo/clip.mp4").display().to_string();
    // In real time: the clock of its frames is that of the day.
    let config = config_of(here, &format!("file://{clip}"), "pace: live").replace("view: { mode: squash }", views);
    let config = format!("{config}history: {{ path: kept }}\n");
    fs::write(here.join("vtagd.yaml"), &config).unwrap();
    fs::write(here.join("marks.yaml"), "labels: { cat: { seen: [[0.5, 7.5]], absent: [[8.5, 31]] } }\n").unwrap();
    let marks = here.join("marks.yaml").display().to_string();
    let calibrate = ["labels", "calibrate", "things", "--stream", "gate", "--label", "cat", "--json"];
    let by_clip = [&calibrate[..], &["--marks", &marks]].concat();
    let (code, said) = refused(here, &by_clip);
    assert!(code == 2 && said.contains("say with --region which one (left, right)"), "{said}");
    let (code, said) = refused(here, &[&by_clip[..], &["--region", "middle"]].concat());
    assert!(code == 2 && said.contains("no region middle"), "{said}");
    let of = |region: &str| -> Value {
        serde_json::from_str(&printed(here, &[&by_clip[..], &["--region", region, "--write"]].concat())).unwrap()
    };
    let (left, right) = (of("left"), of("right"));
    assert_eq!((&left["region"], &right["region"]), (&"left".into(), &"right".into()));
    let enter = |told: &Value| told["labels"][0]["found"]["enter"]["margin"].as_f64().unwrap();
    assert!((enter(&left) - enter(&right)).abs() > 1e-3, "each half looks otherwise: {left} {right}");
    let kept = fs::read_to_string(here.join("state/calibrations/things.calibration.json")).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    let regions: Vec<&str> =
        kept["entries"].as_array().unwrap().iter().map(|entry| entry["region"].as_str().unwrap()).collect();
    assert_eq!(regions, ["left", "right"]);

    // The daemon tells each by its own thresholds, and keeps each in its history.
    let mut daemon = Daemon::start(here, &config);
    assert!(daemon.wait().success(), "{}", daemon.log());
    let cats = |region: &str| {
        let is = |event: &&Value| event["data"]["label"] == "cat" && event["data"]["region"] == region;
        daemon.events().iter().filter(is).cloned().collect::<Vec<_>>()
    };
    assert!(!cats("left").is_empty() && !cats("right").is_empty(), "{:?}", daemon.events());
    let time = |event: &Value, field: &str| event["data"][field].as_str().unwrap().parse::<Timestamp>().unwrap();
    let cat = cats("left");
    let (from, to) = (time(&cat[0], "started_at"), time(&cat[cat.len() - 1], "ended_at"));
    let at = |time: Timestamp, seconds: i64| (time + jiff::SignedDuration::from_secs(seconds)).to_string();
    let text = format!(
        "labels: {{ cat: {{ seen: [[\"{from}\", \"{}\"]], absent: [[\"{}\", \"{}\"]] }} }}\n",
        at(to, -1),
        at(to, 1),
        at(to, 20)
    );
    fs::write(&marks, text).unwrap();
    let past = printed(here, &[&by_clip[..], &["--region", "left"]].concat());
    let past: Value = serde_json::from_str(&past).unwrap();
    assert_eq!(past["recordings"][0], "its history", "marks by the clock are of the past");
    assert!((enter(&past) - enter(&left)).abs() < 1.0, "the same pictures: {} {}", enter(&past), enter(&left));

    // What is said of the tag of one region is kept of it alone.
    let id = cats("left")[0]["id"].as_str().unwrap().to_owned();
    let said = printed(here, &["marks", "event", &id, "right"]);
    assert!(said.contains("`cat` seen [0") && said.contains("on stream gate/left"), "{said}");
    let on = ["--stream", "gate", "--set", "things", "--label", "cat", "--region"];
    printed(here, &[&["marks", "add"], &on[..], &["left", "--absent", "9", "31"]].concat());
    assert!(printed(here, &["marks", "list"]).contains("gate/left"));
    let kept = [&calibrate[..], &["--region", "left"]].concat();
    let kept: Value = serde_json::from_str(&printed(here, &kept)).unwrap();
    assert!((enter(&kept) - enter(&left)).abs() < 1.0, "{} {}", enter(&kept), enter(&left));
    printed(here, &[&["marks", "remove"], &on[..], &["left", "--all"]].concat());
    assert_eq!(printed(here, &["marks", "list", "--json"]).trim(), "{\"streams\":{}}");
}
