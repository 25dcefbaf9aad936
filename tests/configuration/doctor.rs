//! `vtagd doctor` and `vtagd version`, as a person or a script runs them on a box where some things are missing.

use std::fs;
use std::net::TcpListener;

use serde_json::Value;

use crate::common::daemon::{root, vtagd};

#[test]
fn a_box_where_a_camera_and_a_broker_are_away_is_told_what_is_there_and_what_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = broker.local_addr().unwrap().port();
    // Held, so that nobody else listens there.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gone = held.local_addr().unwrap().port();
    let clip = root().join("demo/clip.mp4");
    let text = format!(
        "model: {{ path: none }}\nstate: {{ path: state }}\napi: {{ listen: off }}\noutbox: {{ path: \":memory:\" }}\nstreams:\n\
         - {{ id: hall, url: \"file://{}\" }}\n- {{ id: yard, url: \"rtsp://127.0.0.1:{gone}/1\", username: viewer, password: {{ env: YARD }} }}\nsinks:\n\
         - {{ type: mqtt, name: home, url: \"mqtt://127.0.0.1:{taken}\" }}\n- {{ type: webhook, name: hook, url: \"http://127.0.0.1:{gone}/x\" }}\n",
        clip.display()
    );
    fs::write(folder.path().join("vtagd.yaml"), text).unwrap();
    let doctor = |more: &[&str]| {
        let mut command = vtagd(folder.path());
        command.current_dir(folder.path()).env("YARD", "never-told-4711").args(["doctor", "-c", "vtagd.yaml"]);
        let output = command.args(more).output().unwrap();
        assert!(!format!("{output:?}").contains("never-told"), "{output:?}");
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, told) = doctor(&["--json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((code, &told["ok"]), (Some(1), &Value::Bool(false)), "{told:#}");
    let levels = |area: &str, begins: &str| {
        let of = |one: &&Value| one["area"] == area && one["found"].as_str().unwrap().starts_with(begins);
        let results = told["results"].as_array().unwrap();
        results.iter().filter(of).map(|one| one["level"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(levels("cameras", "hall"), ["ok"], "{told:#}");
    assert_eq!(levels("cameras", "yard"), ["fail"], "{told:#}");
    assert_eq!(levels("sinks", "home (mqtt"), ["ok"], "{told:#}");
    assert_eq!(levels("sinks", "hook (webhook"), ["fail"], "{told:#}");
    for area in ["program", "processor", "memory", "disk", "clock", "limits", "sources", "decoders", "gpu"] {
        assert!(!levels(area, "").is_empty(), "{area}: {told:#}");
    }
    assert_eq!(levels("sources", "GStreamer 1."), ["ok"]);

    // As a page, and with a configuration that has a mistake.
    fs::write(folder.path().join("vtagd.yaml"), "streams: [{ id: hall }]\n").unwrap();
    let (code, page) = doctor(&[]);
    assert!(code == Some(1) && page.contains("configuration  FAIL") && page.contains("vtagd check"), "{page}");
    let missing = vtagd(folder.path()).args(["doctor", "-c", "/nowhere.yaml"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(2));
}

/// The brokers of a cluster name one another, so that one of those in the file is enough.
#[cfg(feature = "kafka")]
#[test]
fn one_of_three_brokers_that_is_away_is_worth_a_note() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (there, away) = (broker.local_addr().unwrap(), held.local_addr().unwrap());
    let text = format!(
        "model: {{ path: none }}\nstate: {{ path: state }}\napi: {{ listen: \"127.0.0.1:0\" }}\nstreams: []\nhistory: {{ path: past }}\n\
         sinks: [{{ type: kafka, name: far, brokers: [\"{away}\", \"{there}\"], topic: tags }}]\n"
    );
    fs::write(folder.path().join("vtagd.yaml"), text).unwrap();
    let mut command = vtagd(folder.path());
    let output = command.current_dir(folder.path()).args(["doctor", "--json", "-c", "vtagd.yaml"]).output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = told["results"].as_array().unwrap();
    let of = |area: &str| results.iter().filter(|one| one["area"] == area).collect::<Vec<_>>();
    let levels: Vec<_> = of("sinks").iter().map(|one| one["level"].as_str().unwrap()).collect();
    assert_eq!(levels, ["note", "ok"], "{told:#}");
    // What is kept on one disk stands on one line.
    let found = of("disk")[0]["found"].as_str().unwrap();
    assert!(found.contains("state in state") && found.contains("history in past"), "{found}");
}

#[test]
fn a_script_that_looks_after_many_boxes_reads_which_version_each_has() {
    let folder = tempfile::tempdir().unwrap();
    let output = vtagd(folder.path()).args(["version", "--json"]).output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&told["version"], &told["architecture"]),
        (&env!("CARGO_PKG_VERSION").into(), &std::env::consts::ARCH.into())
    );
    assert!(told["gstreamer"].as_str().unwrap().starts_with("GStreamer 1."), "{told}");
    assert!(told["onnx_runtime"]["library"].as_str().unwrap().ends_with("libonnxruntime.so"), "{told}");
    let lines = vtagd(folder.path()).arg("version").output().unwrap();
    assert!(String::from_utf8(lines.stdout).unwrap().starts_with("vtagd 0."));
}
