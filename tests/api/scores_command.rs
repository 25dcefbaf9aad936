//! Live scores of a real daemon: the API with its parameters, `vtagd scores`, `vtagd explain`, the gauge of `metrics.scores`.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use crate::common::daemon::{Daemon, eventually, footage, root, vtagd};
use serde_json::Value;

/// Never told: nothing is ever so sure. One that would be told, were it not for its `after`.
const LABELS: &str = "set: things\nbackground: [a wall]\nlabels:\n\
    \x20 - { name: cat, prompts: [a cat], enter: { margin: 900 }, exit: { margin: -900 } }\n\
    \x20 - { name: picture, prompts: [a picture, a photo, a cat, a rocket, a cup of coffee], enter: 0, exit: 0, after: 1h }\n";

fn start(folder: &Path, clip: &Path, labels: &str, more: &str) -> Daemon {
    std::fs::write(folder.join("set.yaml"), labels).unwrap();
    let config = format!(
        "streams:\n  - {{ id: gate, url: \"file://{}\", loop: true }}\n  - {{ id: off, url: \"rtsp://127.0.0.1:9/\", enabled: false }}\n\
         labels: [set.yaml]\nsinks: [{{ type: jsonl, path: events.jsonl }}]\noutbox: {{ path: outbox.db }}\n\
         api: {{ listen: 127.0.0.1:0 }}\n{more}",
        clip.display()
    );
    Daemon::start(folder, &config)
}

fn told(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn labels_that_never_fired_are_seen_with_margin_rival_and_thresholds() {
    let folder = tempfile::tempdir().unwrap();
    let clip = root().join("demo/clip.mp4");
    let more = "sampling: { interval: 200ms }\nmetrics: { scores: true }\n";
    let mut daemon = start(folder.path(), &clip, LABELS, more);
    let url = daemon.url();
    let get = |path: &str| daemon_get(&url, path);
    let seen = eventually("scores", || {
        let (status, body) = get("/api/v1/streams/gate/scores?history=true");
        assert!([200, 503].contains(&status), "{body}");
        (body["scores"][1]["state"] == "rising").then_some(body)
    });
    let cat = &seen["scores"][0];
    assert_eq!((&cat["set"], &cat["label"], &cat["region"]), (&"things".into(), &"cat".into(), &Value::Null));
    assert_eq!((cat["enter"]["margin"].as_f64(), cat["enter"]["score"].as_f64()), (Some(900.0), Some(1.0)));
    assert_eq!(cat["state"], "idle");
    let (score, margin) = (cat["score"].as_f64().unwrap(), cat["margin"].as_f64().unwrap());
    assert!((score - 1.0 / (1.0 + (-margin).exp())).abs() < 1e-5, "{cat}");
    assert!(["picture", "a wall"].contains(&cat["rival"].as_str().unwrap()), "{cat}");
    assert!(!cat["peaks"].as_array().unwrap().is_empty() && cat["peak"]["margin"].as_f64() >= Some(margin - 1e-6));
    // An `exit` of 0 has no finite margin.
    assert_eq!(seen["scores"][1]["exit"]["margin"], Value::Null);

    let (_, only) = get("/api/v1/streams/gate/scores?label=cat&set=things");
    assert_eq!((only["scores"].as_array().unwrap().len(), only["scores"][0].get("peaks")), (1, None));
    assert_eq!(get("/api/v1/streams/gate/scores?set=other").1["scores"], serde_json::json!([]));
    for (path, wanted) in [
        ("/api/v1/streams/gate/scores?labels=cat", 400),
        ("/api/v1/streams/gate/scores?history=2", 400),
        ("/api/v1/streams/gate/scores?set=a&set=b", 400),
        ("/api/v1/streams/nobody/scores", 404),
        ("/api/v1/streams/off/scores", 200),
    ] {
        assert_eq!(get(path).0, wanted, "{path}");
    }

    let run = |arguments: &[&str]| vtagd(folder.path()).args(arguments).args(["--url", &url]).output().unwrap();
    let table = told(&run(&["scores"]));
    assert!(table.contains("things  cat") && table.contains("+900.00") && !table.contains('\u{1b}'), "{table}");
    let json: Value = serde_json::from_str(&told(&run(&["scores", "gate", "--set", "things", "--json"]))).unwrap();
    assert_eq!((json["streams"].as_array().unwrap().len(), &json["streams"][0]["stream"]), (1, &"gate".into()));
    let unknown = run(&["scores", "nobody"]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");

    let explained = told(&run(&["explain", "gate", "cat"]));
    assert_eq!(explained.lines().count(), 3, "{explained}");
    assert!(
        explained.contains("had 0 starts in the last 1 h") && explained.contains("`enter` is 1.000, margin +900.00"),
        "{explained}"
    );
    let unknown = run(&["explain", "gate", "dog"]);
    let why = String::from_utf8(unknown.stderr).unwrap();
    assert!(unknown.status.code() == Some(2) && why.contains("it has cat, picture"), "{why}");

    let (status, metrics) = daemon.get("/metrics");
    let line = metrics.lines().find(|line| line.starts_with("vtagd_label_margin{")).unwrap();
    assert!(status == 200 && line.contains(r#"stream="gate",set="things",label="cat""#), "{line}");
}

/// Status and JSON of an answer.
fn daemon_get(url: &str, path: &str) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut answer = agent.get(format!("{url}{path}")).call().unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&text).unwrap())
}

#[test]
fn cars_that_default_thresholds_swallow_are_explained_with_the_setting_that_would_have_told_them() {
    let Some(clip) = footage("car-detection.mp4") else { return };
    let clip: PathBuf = clip.canonicalize().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("set.yaml");
    let labels = "set: lot\nbackground: [asphalt, a dark surface, a bird, an empty parking lot]\nlabels: [{ name: car, prompts: [a car] }]\n";
    std::fs::write(&set, labels).unwrap();
    // Once and every sample, so that it is the same each time; the other stream keeps the daemon there.
    let config = format!(
        "streams:\n  - {{ id: gate, url: \"file://{}\", pace: fast }}\n  - {{ id: stay, url: \"file://{}\", loop: true }}\n\
         labels: [set.yaml]\nsinks: [{{ type: jsonl, path: events.jsonl }}]\noutbox: {{ path: outbox.db }}\napi: {{ listen: 127.0.0.1:0 }}\n",
        clip.display(),
        root().join("demo/clip.mp4").display()
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    let url = daemon.url();
    // The last samples may still be on their way when the clip has ended.
    eventually("the clip has been seen", || {
        let (_, gate) = daemon_get(&url, "/api/v1/streams/gate");
        let (_, seen) = daemon_get(&url, "/api/v1/streams/gate/scores?label=car");
        let counted = &gate["accounting"];
        let is_done = gate["state"] == "ended" && counted["inferred"] == counted["sampled"];
        std::thread::sleep(Duration::from_millis(100));
        // Of an ended stream nothing is newer than that.
        let (_, later) = daemon_get(&url, "/api/v1/streams/gate/scores?label=car");
        (is_done && seen["at"].is_string() && seen["at"] == later["at"]).then_some(())
    });
    let (_, seen) = daemon_get(&url, "/api/v1/streams/gate/scores?label=car&history=true");
    let swallowed = seen["scores"][0]["swallowed_latest"].as_array().unwrap().iter();
    let swallowed: Vec<f64> = swallowed
        .filter(|one| one["by"] == "after" || one["by"] == "cooldown")
        .map(|one| one["media_start"].as_f64().unwrap())
        .collect();
    assert!(swallowed.len() >= 2, "two cars: {seen}");
    let output = vtagd(folder.path()).args(["explain", "gate", "car", "--url", &url]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let explained = told(&output);
    let lines: Vec<&str> = explained.lines().collect();
    assert_eq!(lines.len(), 3, "{explained}");
    assert!(lines[1].contains("swallowed by `cooldown`") || lines[1].contains("swallowed by `after`"), "{explained}");
    assert!(lines[2].ends_with(&format!("would have told all {}.", swallowed.len())), "{explained}");

    // And it would have: with these settings the clip's tags hold each of them, with the default ones none.
    let setting = |name: &str| {
        let (_, value) = lines[2].split_once(&format!("`{name}: "))?;
        Some(format!(", {name}: {}", value.split_once('`')?.0))
    };
    let settings: String = ["after", "cooldown"].into_iter().filter_map(setting).collect();
    let tags = |more: &str| -> Vec<(f64, f64)> {
        std::fs::write(&set, labels.replace("prompts: [a car]", &format!("prompts: [a car]{more}"))).unwrap();
        let mut command = vtagd(folder.path());
        let output = command.arg("tag").arg(&clip).args(["--events", "--json", "--labels"]).arg(&set).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = told(&output);
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let ends = events.filter(|event| event["type"] == "dev.vtagd.tag.end");
        ends.map(|end| ["media_start", "media_end"].map(|key| end["data"][key].as_f64().unwrap()))
            .map(|[a, b]| (a, b))
            .collect()
    };
    let (before, after) = (tags(""), tags(&settings));
    let is_told = |tags: &[(f64, f64)], at: f64| tags.iter().any(|(from, until)| (*from..=*until).contains(&at));
    assert!(
        swallowed.iter().all(|at| is_told(&after, *at) && !is_told(&before, *at)),
        "{swallowed:?} {before:?} {after:?}: {explained}"
    );
}
