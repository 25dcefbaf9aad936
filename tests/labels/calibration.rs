//! From nothing to a right event, over the real binary: run, mark, calibrate, reload; a wrong event that is marked and gone; a calibration that
//! does not fit any more, for which a label waits.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::common::camera::{Camera, Codec, Content};
use crate::common::daemon::{Daemon, eventually, root, vtagd};
use serde_json::{Value, json};

/// The clip shows a cat, a cup of coffee, a person and a rocket, eight seconds each. As it is written, a cat is never told and a dog always.
const SET: &str = "set: things\nscoring: independent\nbackground: [a wall, a table]\nlabels:\n  - { name: cat, prompts: [a cat], enter: { margin: 25 } }\n\
                   \x20 - { name: dog, prompts: [a dog], enter: { margin: -25 } }\n";

fn config(folder: &Path) -> String {
    config_of(folder, &format!("file://{}", root().join("demo/clip.mp4").display()), "pace: fast")
}

pub fn config_of(folder: &Path, url: &str, more: &str) -> String {
    fs::write(folder.join("things.yaml"), SET).unwrap();
    let text = format!(
        "model: {{ path: starter }}\nsampling: {{ interval: 1s }}\nstreams: [{{ id: gate, url: \"{url}\", {more}, view: {{ mode: squash }} }}]\n\
         labels: [things.yaml]\nsinks: [{{ type: jsonl, path: \"-\" }}]\noutbox: {{ path: outbox.db }}\napi: {{ listen: 127.0.0.1:0 }}\n"
    );
    fs::write(folder.join("vtagd.yaml"), &text).unwrap();
    text
}

pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    vtagd(folder).args(arguments).arg("-c").arg(folder.join("vtagd.yaml")).output().unwrap()
}

pub fn printed(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The exit code, and what it says of it.
pub fn refused(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = run(folder, arguments);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// What a daemon tells of the whole clip.
fn tell(folder: &Path, config: &str) -> Vec<Value> {
    let mut daemon = Daemon::start(folder, config);
    assert!(daemon.wait().success());
    daemon.events()
}

/// Closed media intervals of a label.
fn tags(events: &[Value], label: &str) -> Vec<(f64, f64)> {
    let ends = events.iter().filter(|e| e["type"] == "dev.vtagd.tag.end" && e["data"]["label"] == label);
    ends.map(|e| (e["data"]["media_start"].as_f64().unwrap(), e["data"]["media_end"].as_f64().unwrap())).collect()
}

const ON: [&str; 4] = ["--stream", "gate", "--set", "things"];

#[test]
fn from_nothing_to_a_right_event_and_a_wrong_one_is_marked_and_gone() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let config = config(here);
    let events = tell(here, &config);
    assert!(tags(&events, "cat").is_empty() && tags(&events, "dog").len() == 1, "{events:?}");

    // Without marks there is nothing to be calibrated with.
    let (code, said) = refused(here, &["labels", "calibrate", "things", "--stream", "gate"]);
    assert!(code == 2 && said.contains("vtagd marks add"), "{said}");
    let wrong = events.iter().find(|event| event["data"]["label"] == "dog").unwrap()["id"].as_str().unwrap();
    assert!(printed(here, &["marks", "event", wrong, "wrong"]).contains("`dog` absent"));
    let cat = ["--label", "cat", "--seen", "0.5", "7.5", "--absent", "8.5", "31"];
    printed(here, &[&["marks", "add"], &ON[..], &cat[..]].concat());
    let listed = printed(here, &["marks", "list"]);
    assert!(listed.contains("absent") && listed.contains("seen") && listed.contains("7.5"), "{listed}");

    // Nothing is kept unless that is asked for.
    let calibrate = ["labels", "calibrate", "things", "--stream", "gate"];
    let plot = here.join("plot.svg").display().to_string();
    let said = printed(here, &[&calibrate[..], &["--plot", &plot]].concat());
    for part in ["cat\n", "enter { margin:", "not checked", "0.0–8.0", "cautious", "nothing was written"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(fs::read_to_string(&plot).unwrap().starts_with("<svg"));
    let file = here.join("state/calibrations/things.calibration.json");
    assert!(!file.exists());
    let told: Value = serde_json::from_str(&printed(here, &[&calibrate[..], &["--write", "--json"]].concat())).unwrap();
    assert_eq!(told["written"], file.display().to_string());
    let (cat, dog) = (&told["labels"][0], &told["labels"][1]);
    assert_eq!((&cat["cautious"], &dog["cautious"]), (&json!(false), &json!(true)));
    assert_eq!(cat["balanced_accuracy"], 1.0);
    assert!(file.is_file());

    let events = tell(here, &config);
    assert!(tags(&events, "dog").is_empty(), "{events:?}");
    let cats = tags(&events, "cat");
    assert!(cats.len() == 1 && cats[0].0 < 1.0 && (7.0..9.0).contains(&cats[0].1), "{cats:?}");
    // A rehearsal knows of it, unless another set is given.
    let rehearsed = printed(here, &["tag", "--stream", "gate", "--events"]);
    assert!(rehearsed.contains("start  cat") && !rehearsed.contains("dog"), "{rehearsed}");
    let shown = printed(here, &["config", "show"]);
    assert!(shown.contains("x-calibrations"), "{shown}");
}

#[test]
fn a_daemon_that_watches_a_camera_takes_a_calibration_at_its_next_reload_and_waits_where_it_does_not_fit_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let camera = Camera::start(Content::Looped(root().join("demo/clip.mp4"), 30), Codec::H264, None);
    let config = config_of(here, camera.url().as_str(), "enabled: true");
    let mut daemon = Daemon::start(here, &config);
    daemon.wait_ready();
    let label = |daemon: &mut Daemon, name: &str| {
        let scores: Value = serde_json::from_str(&daemon.get("/api/v1/streams/gate/scores").1).unwrap();
        scores["scores"].as_array().unwrap().iter().find(|label| label["label"] == name).cloned()
    };
    let is = |daemon: &mut Daemon, name: &str, from: &str| {
        eventually(from, || label(daemon, name).filter(|label| label["thresholds_from"] == from))
    };
    assert_eq!(is(&mut daemon, "cat", "configuration")["waits"], Value::Null);
    let is_dog = |event: &Value| event["data"]["label"] == "dog";
    let dog = eventually("a dog", || daemon.events().into_iter().find(is_dog));
    // Of a camera an event is marked by the clock.
    let said = printed(here, &["marks", "event", dog["id"].as_str().unwrap(), "wrong"]);
    assert!(said.contains("`dog` absent [") && said.matches("Z").count() == 2, "{said}");

    // With a clip of it and what is seen there.
    fs::write(here.join("marks.yaml"), "labels:\n  cat: { seen: [[0.5, 7.5]] }\nempty: [[8.5, 31]]\n").unwrap();
    let (clip, marks) =
        (root().join("demo/clip.mp4").display().to_string(), here.join("marks.yaml").display().to_string());
    let arguments =
        ["labels", "calibrate", "things", "--stream", "gate", "--clip", &clip, "--marks", &marks, "--write"];
    printed(here, &arguments);
    daemon.signal(libc::SIGHUP);
    let cat = is(&mut daemon, "cat", "calibration");
    assert!(cat["enter"]["margin"].as_f64() < Some(25.0), "{cat}");
    is(&mut daemon, "dog", "calibration");
    let right = |event: &Value| event["data"]["label"] == "cat" && event["type"] == "dev.vtagd.tag.start";
    eventually("a cat", || daemon.events().iter().any(right).then_some(()));
    let waiting = |daemon: &mut Daemon| {
        let text = daemon.get("/metrics").1;
        text.lines().find(|line| line.starts_with("vtagd_labels_waiting{")).map(str::to_owned)
    };
    eventually("the gauge", || waiting(&mut daemon).filter(|line| line.ends_with(" 0")));

    // Another prompt: the cat was calibrated for the old one, and would be told for ever as it is written now. The dog is none of its rivals.
    let changed = SET.replace("[a cat]", "[a kitten]").replace("margin: 25 ", "margin: -25 ");
    fs::write(here.join("things.yaml"), changed).unwrap();
    let output = run(here, &["check"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("`cat` waits on stream gate") && said.contains("changed since it was calibrated: prompts"),
        "{said}"
    );
    let before = daemon.events().iter().filter(|event| right(event)).count();
    daemon.signal(libc::SIGHUP);
    let cat = is(&mut daemon, "cat", "waiting");
    assert!(cat["waits"].as_str().unwrap().contains("prompts") && cat["state"] == "idle", "{cat}");
    is(&mut daemon, "dog", "calibration");
    eventually("the gauge", || waiting(&mut daemon).filter(|line| line.ends_with(" 1")));
    eventually("a sample that would be told", || {
        label(&mut daemon, "cat").filter(|cat| cat["margin"].as_f64() > Some(-25.0))
    });
    // Every tag of it that was told has been told to its end.
    let count = |daemon: &Daemon, kind: &str| {
        let of = |event: &&Value| event["data"]["label"] == "cat" && event["type"] == *kind;
        daemon.events().iter().filter(of).count()
    };
    let is_told = |daemon: &Daemon| count(daemon, "dev.vtagd.tag.start") == count(daemon, "dev.vtagd.tag.end");
    eventually("the end of each tag", || is_told(&daemon).then_some(()));
    assert!(daemon.log().contains("`cat` waits on stream gate"), "{}", daemon.log());

    // Somebody has looked at it.
    assert!(printed(here, &["labels", "confirm", "things", "--stream", "gate"]).contains("1 label"));
    daemon.signal(libc::SIGHUP);
    is(&mut daemon, "cat", "calibration");
    eventually("another cat", || (count(&daemon, "dev.vtagd.tag.start") > before).then_some(()));
    eventually("the gauge", || waiting(&mut daemon).filter(|line| line.ends_with(" 0")));
    // A file that is damaged is no reason for a flood either; without it the configuration counts.
    let file = here.join("state/calibrations/things.calibration.json");
    fs::write(&file, "{ \"version\": 1, \"set\": ").unwrap();
    daemon.signal(libc::SIGHUP);
    is(&mut daemon, "cat", "waiting");
    is(&mut daemon, "dog", "waiting");
    printed(here, &["labels", "confirm", "things", "--discard"]);
    assert!(here.join("state/calibrations/things.calibration.json.damaged-1").is_file());
    daemon.signal(libc::SIGHUP);
    is(&mut daemon, "cat", "configuration");
    daemon.stop_cleanly();
}

#[test]
fn marks_are_added_listed_exported_imported_and_removed_and_what_is_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    config(here);
    let marks = |command: &'static str, more: &[&'static str]| [&["marks", command], &ON[..], more].concat();
    printed(
        here,
        &marks("add", &["--label", "cat", "--seen", "1", "4", "--seen", "10", "12.5", "--empty", "20", "30"]),
    );
    let out = here.join("out.json").display().to_string();
    printed(here, &[&marks("export", &[])[..], &["-o", &out]].concat());
    let exported: Value = serde_json::from_str(&fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(
        exported,
        json!({ "labels": { "cat": { "seen": [[1.0, 4.0], [10.0, 12.5]] } }, "empty": [[20.0, 30.0]] })
    );
    printed(here, &marks("remove", &["--label", "cat", "--seen", "1", "4"]));
    assert_eq!(refused(here, &marks("remove", &["--label", "cat", "--seen", "1", "4"])).0, 2);
    printed(here, &marks("remove", &["--all"]));
    assert_eq!(printed(here, &["marks", "list", "--json"]).trim(), "{\"streams\":{}}");
    printed(here, &[&["marks", "import", &out], &ON[..]].concat());
    // The same in YAML, and twice is once.
    fs::write(here.join("in.yaml"), "empty:\n  - [14, 16]\n").unwrap();
    let file = here.join("in.yaml").display().to_string();
    for _ in 0..2 {
        printed(here, &[&["marks", "import", &file], &ON[..]].concat());
    }
    let listed: Value = serde_json::from_str(&printed(here, &["marks", "list", "--json"])).unwrap();
    assert_eq!(listed["streams"]["gate"]["things"]["empty"].as_array().unwrap().len(), 2, "{listed}");

    let wrong = |arguments: &[&str], parts: &[&str]| {
        let (code, said) = refused(here, arguments);
        assert!(code == 2 && parts.iter().all(|part| said.contains(part)), "{arguments:?}: {code} {said}");
    };
    wrong(&marks("add", &["--label", "cow", "--seen", "1", "4"]), &["no label `cow`", "cat, dog"]);
    wrong(&marks("add", &["--label", "cat", "--seen", "4", "1"]), &["the end is not after"]);
    wrong(&marks("add", &["--label", "cat", "--absent", "2", "4"]), &["seen and as absent"]);
    wrong(&marks("add", &["--label", "cat", "--absent", "noon", "4"]), &["2026-05-01T12:00:00Z"]);
    let clock = ["2026-05-01T12:00:00Z", "2026-05-01T12:01:00Z"];
    wrong(&marks("add", &["--empty", clock[0], clock[1]]), &["looked at once", "seconds from its first picture"]);
    wrong(&marks("add", &["--region", "left", "--empty", "14", "16"]), &["no region `left`", "it has none"]);
    wrong(&["marks", "add", "--stream", "door", "--set", "things", "--empty", "1", "2"], &["no stream `door`", "gate"]);
    wrong(&["marks", "event", "no-such-id", "right"], &["outbox"]);
    for (text, part) in [
        ("labels: { cat: { sene: [[1, 2]] } }", "sene"),
        ("empty: [[1, now]]", "seconds of a clip"),
        ("empty: [[2026-05-01T12:00:00Z, 2026-05-01T12:01:00Z]]", "seconds from its first picture"),
        ("regions: { left: { empty: [[1, 4]] } }", "no region `left`"),
        ("a: [", "in.yaml"),
    ] {
        fs::write(&file, text).unwrap();
        wrong(&[&["marks", "import", &file], &ON[..]].concat(), &[part]);
    }
    let clip = root().join("demo/clip.mp4").display().to_string();
    fs::write(&file, "empty: [[2026-05-01T12:00:00Z, 2026-05-01T12:01:00Z]]").unwrap();
    let calibrate = ["labels", "calibrate", "things", "--stream", "gate", "--clip", &clip];
    wrong(&[&calibrate[..], &["--marks", &file]].concat(), &["seconds from its first picture"]);
    wrong(&[&calibrate[..], &["--clip", &clip, "--marks", &file]].concat(), &["one for each clip"]);
    wrong(&["labels", "calibrate", "others", "--stream", "gate"], &["no label set `others`", "things"]);

    // Damaged: it is named, nothing is lost, and what is marked from then on is kept.
    let store = here.join("state/marks.json");
    fs::write(&store, "{ \"version\": 1, \"streams\": { \"gate\"").unwrap();
    let (code, said) = refused(here, &["marks", "list"]);
    assert!(code == 1 && said.contains("marks.json is damaged"), "{said}");
    let output = run(here, &marks("add", &["--empty", "1", "4"]));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("marks.json.damaged-1"), "{said}");
    assert!(fs::read_to_string(here.join("state/marks.json.damaged-1")).unwrap().ends_with("\"gate\""));
}

#[test]
fn a_clip_and_a_siglip_checkpoint_are_calibrated_alike_and_one_says_nothing_of_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let starter = config(here);
    let clip = root().join("demo/clip.mp4").display().to_string();
    let marks = here.join("marks.yaml").display().to_string();
    fs::write(&marks, "labels: { cat: { seen: [[0.5, 7.5]], absent: [[8.5, 31]] }, dog: { absent: [[0, 31]] } }\n")
        .unwrap();
    let checkpoint = |name: &str| root().join("tests/conformance/checkpoints").join(name).display().to_string();
    let use_model = |name: &str| {
        let text = starter.replace("path: starter", &format!("path: \"{}\"", checkpoint(name)));
        fs::write(here.join("vtagd.yaml"), text).unwrap();
    };
    let waits = || {
        let output = run(here, &["check"]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr)
            .unwrap()
            .lines()
            .find(|line| line.contains("waits") || line.contains("more wait"))
            .map(str::to_owned)
    };
    let calibrate =
        ["labels", "calibrate", "things", "--stream", "gate", "--clip", &clip, "--marks", &marks, "--write", "--json"];
    for (name, other) in [("hf-clip-quickgelu", "siglip"), ("siglip", "hf-clip-quickgelu")] {
        use_model(name);
        let told: Value = serde_json::from_str(&printed(here, &calibrate)).unwrap();
        // Its weights are made up, so a cat may look like anything; but four still pictures are told apart or said not to be.
        let (cat, dog) = (&told["labels"][0], &told["labels"][1]);
        assert!(cat["found"].is_object() || cat["refused"].as_str().unwrap().contains("does not tell"), "{cat}");
        assert!(dog["cautious"] == true && dog["found"]["enter"]["margin"].as_f64() >= Some(0.4), "{dog}");
        assert_eq!(waits(), None, "{name}");
        use_model(other);
        let said = waits().unwrap_or_default();
        assert!(said.contains("changed since it was calibrated: model"), "{name}: {said}");
    }
}
