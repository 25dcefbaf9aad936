//! `vtagd tag --events --plot` tells what `run` would tell, before anybody has to wait for it.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::common::daemon::{Daemon, footage, root, vtagd};
use serde_json::Value;

fn tag(folder: &Path, arguments: &[&str]) -> Output {
    vtagd(folder).arg("tag").args(arguments).output().unwrap()
}

fn json(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether both tell the same, as far as that does not depend on when and where. Batches may differ, and with them the last digits.
fn assert_same(one: &[Value], other: &[Value]) {
    let events = |lines: &[Value]| lines.iter().filter(|line| line["type"].is_string()).cloned().collect::<Vec<_>>();
    let words = |event: &Value| {
        let keys = ["set", "label", "rival", "media_start", "media_end", "reason", "attributes"];
        (event["type"].clone(), keys.map(|key| event["data"][key].clone()))
    };
    let (one, other) = (events(one), events(other));
    assert_eq!(one.iter().map(words).collect::<Vec<_>>(), other.iter().map(words).collect::<Vec<_>>());
    for (one, other) in one.iter().zip(&other) {
        for key in ["score", "margin", "peak"] {
            let difference = one["data"][key].as_f64().unwrap() - other["data"][key].as_f64().unwrap();
            assert!(difference.abs() < 0.01, "{key}: {one} {other}");
        }
    }
}

/// `clip` through `run`, through `tag` with the label set, and through `tag` as the stream of the configuration: all the same.
fn rehearse(clip: &Path, set: &str, interval: &str, view: &str, least: usize) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let clip = clip.canonicalize().unwrap().display().to_string();
    fs::write(here.join("set.yaml"), set).unwrap();
    let config = format!(
        "model: {{ path: starter }}\nstreams:\n  - {{ id: gate, url: \"file://{clip}\", pace: fast, sampling: {{ interval: {interval} }}, view: {{ mode: {view}, region: [0, 0, 1, 0.9] }} }}\n\
         labels: [set.yaml]\nsinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: 127.0.0.1:0 }}\n"
    );
    let mut daemon = Daemon::start(here, &config);
    assert!(daemon.wait().success());
    let run = daemon.events();
    assert!(run.len() >= least, "{run:?}");
    let (set, config) = (here.join("set.yaml").display().to_string(), here.join("vtagd.yaml").display().to_string());
    let alone = ["--labels", &set, "--every", interval, "--view", view, "--region", "0,0,1,0.9"];
    let rehearsed = json(&tag(here, &[&[&*clip, "--events", "--json"], &alone[..]].concat()));
    assert_same(&rehearsed, &run);
    let stream = json(&tag(here, &["--stream", "gate", "-c", &config, "--events", "--json"]));
    assert_same(&stream, &run);
    assert!(stream.iter().all(|line| line["data"]["stream"] == "gate" || line["summary"].is_object()));
    assert_eq!(stream[0]["source"].as_str(), run[0]["source"].as_str());
    rehearsed
}

#[test]
fn what_a_rehearsal_tells_is_what_run_tells_of_the_same_file() {
    let set = fs::read_to_string(root().join("config/labels/demo.yaml")).unwrap();
    let lines = rehearse(&root().join("demo/clip.mp4"), &set, "1s", "squash", 6);
    let last = &lines.last().unwrap()["summary"];
    let starts = lines.iter().filter(|line| line["type"] == "dev.vtagd.tag.start").count() as u64;
    let labels = last["labels"].as_array().unwrap();
    assert_eq!(labels.iter().map(|label| label["tags"].as_u64().unwrap()).sum::<u64>(), starts);
    assert_eq!(last["samples"], 32);
    for line in lines.iter().filter(|line| line["type"].is_string()) {
        let (peak, margin) = (line["data"]["peak"].as_f64().unwrap(), line["peakmargin"].as_f64().unwrap());
        assert!((1.0 / (1.0 + (-margin).exp()) - peak).abs() < 1e-5, "{line}");
        assert!(line["file"].as_str().unwrap().ends_with("demo/clip.mp4"));
    }
}

#[test]
fn on_the_parking_lot_with_default_thresholds_both_tell_the_same_and_what_was_none_is_counted() {
    let Some(clip) = footage("car-detection.mp4") else { return };
    let set = "set: lot\nbackground: [an empty parking lot, asphalt, a dark surface]\nlabels: [{ name: car, prompts: [a car, a car on a parking lot] }]\n";
    let lines = rehearse(&clip, set, "500ms", "model", 0);
    let car = &lines.last().unwrap()["summary"]["labels"][0];
    assert_eq!((&car["label"], &car["enter"]["score"]), (&"car".into(), &0.6.into()));
    let swallowed = &car["swallowed"];
    assert!(swallowed["after"].as_u64() > Some(0) || car["tags"].as_u64() > Some(0), "{car}");
}

#[test]
fn a_person_reads_starts_and_ends_a_summary_and_finds_a_plot_for_each_input() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let clip = root().join("demo/clip.mp4").display().to_string();
    let plot = here.join("out.svg");
    let (plot, set) = (plot.to_str().unwrap(), "config/labels/demo.yaml");
    let output = tag(here, &[&clip, "--labels", set, "--events", "--plot", plot, "--label", "cat"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(text.contains("start  cat: told at ") && text.contains(" s long, from "), "{text}");
    assert!(text.contains("; the video ended"), "{text}");
    for word in ["32 samples", "over enter", "highest", "starts that were none"] {
        assert!(told(&output).contains(word), "{word}: {}", told(&output));
    }
    let svg = fs::read_to_string(plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("cat (set demo): 1 tag") && !svg.contains("rocket"), "{svg}");
    // Of two videos each has its own; the scores are still printed where no events are asked for.
    let output =
        tag(here, &[&clip, &clip, "--labels", set, "--plot", plot, "--every", "5s", "--seconds", "12", "--json"]);
    assert_eq!(
        json(&output).iter().map(|line| line["pts"].as_f64().unwrap()).collect::<Vec<_>>(),
        [0.0, 5.0, 10.0, 0.0, 5.0, 10.0]
    );
    assert!(here.join("out-1.svg").is_file() && here.join("out-2.svg").is_file());
    assert_eq!(told(&output).matches("3 samples").count(), 2);
    // A tag that is open when the time is over has not ended with the video, whose times are no times of day.
    let with_hours = here.join("set.yaml");
    let demo = fs::read_to_string(root().join(set)).unwrap();
    fs::write(&with_hours, format!("{demo}\nactive: {{ to: 00:01, timezone: UTC }}\n")).unwrap();
    let with_hours = with_hours.display().to_string();
    let output = tag(here, &[&clip, "--labels", &with_hours, "--events", "--every", "2s", "--seconds", "5"]);
    assert_eq!(told(&output).matches("`active` counts in a daemon alone").count(), 1, "{}", told(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().last().is_some_and(|line| line.ends_with("; watched no longer")), "{text}");
}

#[test]
fn what_cannot_be_rehearsed_is_said_before_the_work_starts() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let clip = root().join("demo/clip.mp4").display().to_string();
    let picture = root().join("tests/data/preprocess/chelsea.png").display().to_string();
    let config = here.join("vtagd.yaml").display().to_string();
    fs::write(&config, "model: { path: none }\nstreams: [{ id: gate, url: \"rtsp://127.0.0.1:9/\" }]\n").unwrap();
    let labels = ["--labels", "config/labels/demo.yaml"];
    for (arguments, word) in [
        (&[&*clip, "--plot", "/nonexistent/folder/out.svg"][..], "/nonexistent"),
        (&[&*clip, "--plot", here.to_str().unwrap()], "cannot be written"),
        (&[&*clip, "--plot", "out.svg", "--label", "zebra"], "zebra"),
        (&[&*clip, "--label", "cat"], "--plot"),
        (&[&*picture, "--events"], "is a picture"),
        (&[&*clip, "rtsp://127.0.0.1:9/", "--events"], "--seconds"),
        (&[&*clip, "--seconds", "0"], "--seconds"),
        (&["gopher://127.0.0.1/"], "unknown scheme"),
        (&["--stream", "door", "-c", &config], "it has gate"),
        (&["--stream", "gate", "-c", "/no/such.yaml"], "/no/such.yaml"),
        (&[&*clip, "-c", &config], "--stream"),
    ] {
        let output = vtagd(here).arg("tag").args(arguments).args(labels).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", told(&output));
        assert!(told(&output).contains(word), "{arguments:?}: {}", told(&output));
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    // Which labels a stream has no set of, it says too.
    let output = tag(here, &["--stream", "gate", "-c", &config]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    // An exit above the enter that the label gets would never be met: `run` refuses it as well.
    let odd = here.join("odd.yaml");
    fs::write(&odd, "set: odd\nbackground: [a wall]\nlabels: [{ name: cat, exit: 0.9 }]\n").unwrap();
    let output = tag(here, &[&clip, "--labels", odd.to_str().unwrap(), "--events"]);
    assert!(output.status.code() == Some(2) && told(&output).contains("above its enter"), "{}", told(&output));
}
