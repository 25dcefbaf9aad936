//! What is doubtful about labels and their thresholds is said by `check`, counted, and shown: starts that were swallowed, sets without a background,
//! samples further apart than `after`, labels that the model cannot tell from the background.

use std::fs;
use std::path::Path;

use crate::common::daemon::{Daemon, eventually, root, vtagd};
use serde_json::{Value, json};

/// Of the demo's clip: a cat and a rocket come and go. `clear dock` is the background in other words.
const SET: &str = "set: things\nbackground: [an empty loading dock]\nlabels:\n\
    \x20 - { name: cat, prompts: [a cat] }\n  - { name: rocket }\n  - { name: clear dock, prompts: [a loading dock] }\n";

fn config(folder: &Path, port: u16) -> String {
    fs::write(folder.join("things.yaml"), SET).unwrap();
    let text = format!(
        "streams: [{{ id: gate, url: \"file://{}\", loop: true, sampling: {{ interval: 200ms }} }}]\nlabels: [things.yaml]\n\
         events: {{ enter: 0.5, exit: 0.5, after: 0s, cooldown: 1h }}\nsinks: [{{ type: jsonl, path: events.jsonl }}]\n\
         api: {{ listen: 127.0.0.1:{port} }}\n",
        root().join("demo/clip.mp4").display()
    );
    fs::write(folder.join("vtagd.yaml"), &text).unwrap();
    text
}

fn said(folder: &Path, arguments: &[&str]) -> String {
    let output = vtagd(folder).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn what_the_cooldown_swallows_is_counted_and_shown_and_a_label_near_the_background_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = config(here, port);
    let file = here.join("vtagd.yaml").display().to_string();
    let doubt = "`clear dock` is nearer to the background than to anything else of the set";
    let set = here.join("things.yaml").display().to_string();
    for arguments in [vec!["check", "-c", &file], vec!["labels", "check", "-m", "starter", &set]] {
        let said = said(here, &arguments);
        assert!(said.contains(&format!("things.yaml: warning: {doubt}")), "{said}");
    }
    assert!(!said(here, &["labels", "check", &set]).contains("nearer"), "without a model nobody knows");

    let mut daemon = Daemon::start(here, &config);
    daemon.wait_ready();
    assert!(daemon.log().contains(doubt), "{}", daemon.log());
    let swallowed = eventually("the second time is within the cooldown of the first", || {
        let rows: Value = serde_json::from_str(&daemon.get("/api/v1/streams").1).unwrap();
        let labels = rows["streams"][0]["swallowed_starts"].as_array().unwrap().clone();
        labels.into_iter().find(|label| label["cooldown"].as_u64() > Some(0))
    });
    assert_eq!(swallowed["set"], "things");
    let label = swallowed["label"].as_str().unwrap();
    let metrics = daemon.get("/metrics").1;
    let line =
        format!("vtagd_starts_swallowed_total{{stream=\"gate\",set=\"things\",label=\"{label}\",why=\"cooldown\"}}");
    assert!(metrics.contains(&line), "{metrics}");
    assert!(metrics.contains("vtagd_label_set_warnings{set=\"things\"} 1"), "{metrics}");
    let table = said(here, &["status", "-c", &file]);
    assert!(table.contains("gate: starts swallowed: ") && table.contains(" by cooldown"), "{table}");
    assert!(table.contains(&format!("label set things: {doubt}")), "{table}");
    daemon.stop_cleanly();
}

#[test]
fn a_set_without_background_and_samples_further_apart_than_after_are_said_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fs::write(here.join("things.yaml"), "set: things\nlabels:\n  - { name: cat }\n  - { name: dog, after: 0s }\n")
        .unwrap();
    let stream = |id: &str, more: &str| format!("  - {{ id: {id}, url: \"rtsp://127.0.0.1:9/{id}\"{more} }}\n");
    let text = format!(
        "model: {{ path: none }}\nsampling: {{ interval: 5s, unchanged: {{ max_age: 20s }} }}\nstreams:\n{}{}{}{}labels: [things.yaml]\n\
         events: {{ after: 4s }}\napi: {{ listen: 127.0.0.1:0 }}\n",
        stream("a", ""),
        stream("b", ""),
        stream("c", ", sampling: { interval: 10s, unchanged: off }"),
        stream("d", ", sampling: { interval: 1s, unchanged: off }"),
    );
    fs::write(here.join("vtagd.yaml"), &text).unwrap();
    let file = here.join("vtagd.yaml").display().to_string();
    let told = said(here, &["check", "-c", &file]);
    for line in [
        "warning: has no background: of its labels one wins on every picture",
        "warning: sampling.interval: a sample every 5s is longer than `after` of `cat` (4s), stream a and 1 more",
        "warning: streams[2].sampling.interval: a sample every 10s is longer than `after` of `cat` (4s), stream c",
        "note: sampling.unchanged: what changes the view by less than `tolerance` is looked at every 20s",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert_eq!(told.matches("is longer than `after`").count(), 2, "{told}");
    let mut daemon = Daemon::start(here, &text);
    daemon.wait_ready();
    let labels: Value = serde_json::from_str(&daemon.get("/api/v1/labels").1).unwrap();
    let warnings = labels["sets"][0]["warnings"].as_array().unwrap().clone();
    assert_eq!(warnings.len(), 3, "{labels}");
    assert!(warnings.contains(&json!("it has no background")), "{labels}");
    assert!(warnings.contains(&json!("a sample every 10s is longer than `after` of `cat` (4s), stream c")), "{labels}");
    assert!(daemon.get("/metrics").1.contains("vtagd_label_set_warnings{set=\"things\"} 3"));
    assert!(daemon.stop().success());
}

#[test]
fn more_labels_than_metrics_tell_of_are_said_before_somebody_misses_one() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let labels: String = (0..100).map(|n| format!("  - {{ name: l{n} }}\n")).collect();
    fs::write(here.join("many.yaml"), format!("set: many\nbackground: [a wall]\nlabels:\n{labels}")).unwrap();
    let file = here.join("vtagd.yaml").display().to_string();
    let told = |streams: usize, scores: bool| {
        let stream = |n: usize| {
            // Who is switched off has no scores.
            let off = if n == 0 { ", enabled: false" } else { "" };
            format!("  - {{ id: s{n}, url: \"rtsp://127.0.0.1:9/{n}\"{off} }}\n")
        };
        let streams: String = (0..=streams).map(stream).collect();
        let text = format!(
            "model: {{ path: none }}\nstreams:\n{streams}labels: [many.yaml]\nmetrics: {{ scores: {scores} }}\napi: {{ listen: off }}\n"
        );
        fs::write(&file, text).unwrap();
        said(here, &["check", "-c", &file])
    };
    let line =
        "warning: metrics.scores: the streams have 2100 labels together, and `/metrics` has the first 2000 of them";
    assert!(told(21, true).contains(line), "{}", told(21, true));
    for (streams, scores) in [(20, true), (21, false)] {
        let told = told(streams, scores);
        assert!(!told.contains("metrics.scores"), "{told}");
    }
}
