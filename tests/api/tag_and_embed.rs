//! Pictures and texts that are sent to a real daemon, which watches a real RTSP camera meanwhile.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use crate::common::camera::{Camera, Codec, Content};
use crate::common::daemon::{Daemon, eventually, root, vtagd};

const LABELS: &str = "set: things\nbackground: [a wall]\nlabels:\n  - { name: cat, prompts: [a cat] }\n  - { name: rocket, prompts: [a rocket] }\n";

fn start(folder: &Path, camera: &Camera, cameras: usize) -> Daemon {
    std::fs::write(folder.join("set.yaml"), LABELS).unwrap();
    std::fs::write(folder.join("other.yaml"), LABELS.replace("set: things", "set: others")).unwrap();
    let stream = |n: usize| format!("  - {{ id: gate{n}, url: \"{}\", labels: [things] }}\n", camera.url());
    let config = format!(
        "streams:\n{}labels: [set.yaml, other.yaml]\nsinks: [{{ type: jsonl, path: events.jsonl }}]\noutbox: {{ path: \":memory:\" }}\n\
         api: {{ listen: 127.0.0.1:0 }}\n",
        (0..cameras).map(stream).collect::<String>()
    );
    let mut daemon = Daemon::start(folder, &config);
    daemon.wait_ready();
    daemon
}

/// A picture of the demo clip's cat, as a JPEG of this size.
fn picture(folder: &Path, width: u32, height: u32) -> PathBuf {
    let file = folder.join(format!("{width}x{height}.jpg"));
    let pipeline = format!(
        "filesrc location={} ! decodebin ! videoconvert ! videoscale ! video/x-raw,width={width},height={height} ! jpegenc snapshot=true ! filesink location={}",
        root().join("demo/clip.mp4").display(),
        file.display()
    );
    let done = std::process::Command::new("gst-launch-1.0").arg("-q").args(pipeline.split(' ')).status().unwrap();
    assert!(done.success());
    // There may be more than one in it.
    let mut jpeg = std::fs::read(&file).unwrap();
    let end = jpeg.windows(2).position(|bytes| bytes == [0xff, 0xd9]).unwrap();
    jpeg.truncate(end + 2);
    std::fs::write(&file, jpeg).unwrap();
    file
}

fn post(url: &str, path: &str, kind: &str, body: &[u8]) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut answer = agent.post(format!("{url}{path}")).header("Content-Type", kind).send(body).unwrap();
    assert!(answer.status() != 503 || answer.headers().contains_key("retry-after"), "{answer:?}");
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&text).unwrap())
}

fn told(folder: &Path, arguments: &[&str]) -> Value {
    let output = vtagd(folder).args(arguments).arg("--json").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn vector(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn cosine(a: &Value, b: &Value) -> f64 {
    vector(a).iter().zip(vector(b)).map(|(a, b)| a * b).sum()
}

#[test]
fn a_picture_that_is_sent_scores_as_the_commands_say_and_texts_embed_as_there() {
    let folder = tempfile::tempdir().unwrap();
    let camera = Camera::start(Content::pattern(640, 360), Codec::H264, None);
    let mut daemon = start(folder.path(), &camera, 1);
    let url = daemon.url();
    let file = picture(folder.path(), 640, 360);
    let (jpeg, name) = (std::fs::read(&file).unwrap(), file.to_str().unwrap());

    let (status, all) = post(&url, "/api/v1/tag", "image/jpeg", &jpeg);
    assert_eq!((status, all["sets"].as_array().unwrap().len()), (200, 2), "{all}");
    let (_, one) = post(&url, "/api/v1/tag?set=things&stream=gate0", "image/jpeg", &jpeg);
    assert_eq!((&one["sets"][0]["set"], one["sets"].as_array().unwrap().len()), (&"things".into(), 1), "{one}");
    let cat = &one["sets"][0]["scores"][0];
    let (score, margin) = (cat["score"].as_f64().unwrap(), cat["margin"].as_f64().unwrap());
    assert!((score - 1.0 / (1.0 + (-margin).exp())).abs() < 1e-5 && cat["rival"].is_string(), "{cat}");
    let set = folder.path().join("set.yaml");
    let there = told(folder.path(), &["tag", name, "--labels", set.to_str().unwrap()]);
    let tag = there["tags"].as_array().unwrap().iter().find(|tag| tag["label"] == "cat").unwrap();
    assert!((tag["score"].as_f64().unwrap() - score).abs() < 1e-3, "{tag} {cat}");

    let (status, image) = post(&url, "/api/v1/embed", "image/jpeg", &jpeg);
    assert_eq!(status, 200, "{image}");
    let texts = serde_json::json!({ "texts": ["a cat", "ein Elefant im Porzellanladen", "a cat"] }).to_string();
    let (status, words) = post(&url, "/api/v1/embed", "application/json", texts.as_bytes());
    assert_eq!((status, words["texts"].as_array().map(Vec::len)), (200, Some(3)), "{words}");
    let there =
        told(folder.path(), &["embed", "--image", name, "--text", "a cat", "--text", "ein Elefant im Porzellanladen"]);
    assert_eq!((&image["model"], &words["model"]), (&there["model"], &there["model"]));
    assert!(cosine(&image["images"][0]["embedding"], &there["images"][0]["embedding"]) > 0.9999);
    for (at, same) in [(0, 0), (1, 1), (2, 0)] {
        assert_eq!(words["texts"][at]["text"], there["texts"][same]["text"]);
        assert!(cosine(&words["texts"][at]["embedding"], &there["texts"][same]["embedding"]) > 0.9999);
    }

    for (path, kind, body, wanted) in [
        ("/api/v1/tag?sets=things", "image/jpeg", &*jpeg, 400),
        ("/api/v1/tag?set=things&set=things", "image/jpeg", &jpeg, 400),
        ("/api/v1/tag?set=nobody", "image/jpeg", &jpeg, 404),
        ("/api/v1/tag?set=others&stream=gate0", "image/jpeg", &jpeg, 404),
        ("/api/v1/tag?stream=nobody", "image/jpeg", &jpeg, 404),
        ("/api/v1/tag", "application/json", &jpeg, 415),
        ("/api/v1/tag", "image/jpeg", &jpeg[..jpeg.len() / 2], 422),
        ("/api/v1/tag", "image/jpeg", b"", 422),
        ("/api/v1/embed", "image/png", b"GIF89a and so on", 422),
        ("/api/v1/embed", "text/plain", b"a cat", 415),
        ("/api/v1/embed", "application/json", b"{\"texts\":[]}", 400),
    ] {
        let (status, body) = post(&url, path, kind, body);
        assert!(status == wanted && body["error"].is_string(), "{path} {kind}: {status} {body}");
    }
    // What is told of it is no more than the daemon's own words.
    let metrics = daemon.get("/metrics").1;
    assert!(metrics.lines().any(|line| line.starts_with("vtagd_frames_inferred_total{stream=\"@api\"}")), "{metrics}");
    daemon.stop_cleanly();
}

#[test]
fn many_pictures_at_once_are_answered_or_told_when_to_come_back_and_every_frame_of_the_cameras_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let camera = Camera::start(Content::pattern(1280, 720), Codec::H264, None);
    let mut daemon = start(folder.path(), &camera, 4);
    let url = daemon.url();
    let jpeg = std::fs::read(picture(folder.path(), 1920, 1080)).unwrap();
    let mut took: Vec<_> = (0..8)
        .map(|_| {
            let begun = Instant::now();
            assert_eq!(post(&url, "/api/v1/tag?set=things", "image/jpeg", &jpeg).0, 200);
            begun.elapsed()
        })
        .collect();
    took.sort();
    println!("a picture of 1080p beside four cameras: p50 {:?}, longest {:?}", took[4], took[7]);

    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let status = post(&url, "/api/v1/tag", "image/jpeg", &jpeg).0;
                assert!([200, 503].contains(&status), "{status}");
            });
        }
    });
    eventually("cameras go on", || {
        let (_, metrics) = daemon.get("/metrics");
        let inferred = |n: usize| {
            let line = format!("vtagd_frames_inferred_total{{stream=\"gate{n}\"}} ");
            metrics.lines().find_map(|l| l.strip_prefix(&line)?.parse::<f64>().ok()).is_some_and(|frames| frames > 2.0)
        };
        (0..4).all(inferred).then_some(())
    });
    daemon.stop_cleanly();
    let log = daemon.log();
    let accounted: Vec<&str> = log.lines().filter(|line| line.contains("frames accounted")).collect();
    assert!(accounted.len() == 4 && accounted.iter().all(|line| line.contains("unaccounted=0")), "{accounted:?}");
    println!("{accounted:#?}");
}

#[test]
fn without_a_model_it_is_said_that_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "model: {{ path: none }}\nstreams: [{{ id: one, url: \"file://{}\", loop: true }}]\nsinks: [{{ type: jsonl, path: \"-\" }}]\n\
         outbox: {{ path: \":memory:\" }}\napi: {{ listen: 127.0.0.1:0 }}\n",
        root().join("demo/clip.mp4").display()
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    let url = daemon.url();
    assert_eq!(post(&url, "/api/v1/embed", "image/jpeg", b"x").0, 409);
    assert_eq!(post(&url, "/api/v1/embed", "application/json", b"{\"texts\":[\"a\"]}").0, 409);
    daemon.stop_cleanly();
}
