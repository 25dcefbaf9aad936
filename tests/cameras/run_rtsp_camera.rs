//! The daemon against a real RTSP server on loopback: tags flow, the camera dies and comes back, health is told.

use crate::common::camera::{Auth, Camera, Codec, Content};
use crate::common::daemon::{Daemon, eventually, root};

fn config(streams: &str) -> String {
    format!(
        "sampling: {{ interval: 250ms }}\nstreams:\n{streams}labels: [{}]\n\
         events: {{ enter: 0.5, exit: 0.3, after: 0s, after_exit: 1s, cooldown: 0s }}\n\
         sinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: 127.0.0.1:0 }}\n",
        root().join("config/labels/demo.yaml").display()
    )
}

fn clip() -> Content {
    Content::File(root().join("demo/clip.mp4"))
}

#[test]
fn tags_of_a_real_camera_start_stop_and_come_back_after_it_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut camera = Camera::start(clip(), Codec::H264, None);
    let mut daemon = Daemon::start(folder.path(), &config(&format!("  - {{ id: gate, url: \"{}\" }}\n", camera.url())));
    daemon.wait_ready();
    eventually("three different tags", || {
        let events = daemon.events();
        let labels: std::collections::BTreeSet<_> = events.iter().filter_map(|e| e["data"]["label"].as_str()).collect();
        (labels.len() >= 3).then_some(())
    });
    let small = eventually("a small picture of it", || {
        let (_, body) = daemon.get("/api/v1/pictures?streams=gate,nobody&max_side=64");
        let grid: serde_json::Value = serde_json::from_str(&body).unwrap();
        grid["pictures"].as_array().unwrap().first().cloned()
    });
    assert_eq!(small["stream"], "gate");
    let jpeg =
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, small["jpeg"].as_str().unwrap()).unwrap();
    let picture = image::load_from_memory(&jpeg).unwrap();
    assert_eq!(picture.width().max(picture.height()), 64);

    camera.kill();
    eventually("the stream is down", || {
        let (_, body) = daemon.get("/api/v1/streams");
        (body.contains("\"state\":\"down\"") || body.contains("\"state\":\"connecting\"")).then_some(())
    });
    let before = daemon.events().len();
    camera.restart();
    eventually("tags flow again", || (daemon.events().len() > before + 1).then_some(()));
    let media: Vec<f64> = daemon.events().iter().map(|e| e["data"]["media_start"].as_f64().unwrap()).collect();
    let starts: Vec<f64> = daemon
        .events()
        .iter()
        .filter(|e| e["type"] == "dev.vtagd.tag.start")
        .map(|e| e["data"]["media_start"].as_f64().unwrap())
        .collect();
    assert!(starts.is_sorted(), "media time went back: {media:?}");

    let (_, metrics) = daemon.get("/metrics");
    for name in
        ["vtagd_frames_sampled_total{stream=\"gate\"}", "vtagd_stream_up{stream=\"gate\"} 1", "vtagd_batch_size"]
    {
        assert!(metrics.contains(name), "{name} is missing:\n{metrics}");
    }
    assert!(daemon.stop().success());
    assert!(daemon.log().contains("unaccounted=0"));
}

#[test]
fn a_camera_that_is_absent_and_one_with_a_wrong_password_do_not_stop_a_good_one() {
    let folder = tempfile::tempdir().unwrap();
    let good = Camera::start(clip(), Codec::H264, None);
    let auth = Auth { user: "viewer".into(), password: "right-secret".into(), digest: true };
    let locked = Camera::start(clip(), Codec::H264, Some(auth));
    std::fs::write(folder.path().join("password"), "wrong-secret-7f3a\n").unwrap();
    let streams = format!(
        "  - {{ id: good, url: \"{}\" }}\n  - {{ id: absent, url: \"rtsp://127.0.0.1:9/none\" }}\n\
         \x20 - {{ id: locked, url: \"{}\", username: viewer, password: {{ file: password }} }}\n",
        good.url(),
        locked.url()
    );
    let mut daemon = Daemon::start(folder.path(), &config(&streams));
    daemon.wait_ready();
    eventually("the good camera is tagged", || {
        daemon.events().iter().any(|e| e["data"]["stream"] == "good").then_some(())
    });
    eventually("both bad ones are down, with a reason", || {
        let (_, body) = daemon.get("/api/v1/streams");
        let rows: serde_json::Value = serde_json::from_str(&body).unwrap();
        let down = |id: &str| {
            rows["streams"]
                .as_array()
                .unwrap()
                .iter()
                .any(|r| r["id"] == id && r["state"] == "down" && r["error"].is_string())
        };
        (down("absent") && down("locked")).then_some(())
    });
    let (_, api) = daemon.get("/api/v1/streams");
    let (_, metrics) = daemon.get("/metrics");
    assert!(daemon.stop().success());
    for (what, text) in [("log", daemon.log()), ("api", api), ("metrics", metrics)] {
        assert!(!text.contains("wrong-secret-7f3a"), "the password is in the {what}");
    }
}

#[test]
fn unreachable_cameras_say_that_they_cannot_be_reached_and_hide_credentials_in_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let port = crate::common::camera::free_port();
    let streams = format!(
        "  - {{ id: refused-rtsp, url: \"rtsp://127.0.0.1:{port}/user=admin_password=hunter-in-path_channel=1.sdp\" }}\n\
         \x20 - {{ id: refused-http, url: \"http://127.0.0.1:{port}/axis?pwd=hunter-in-query\" }}\n\
         \x20 - {{ id: unknown, url: \"rtsp://no-such-host.invalid/x\" }}\n"
    );
    let mut daemon = Daemon::start(folder.path(), &config(&streams));
    daemon.wait_ready();
    let rows = eventually("all three are down", || {
        let (_, body) = daemon.get("/api/v1/streams");
        let rows: serde_json::Value = serde_json::from_str(&body).unwrap();
        let rows = rows["streams"].as_array().unwrap().clone();
        rows.iter().all(|r| r["state"] == "down").then_some(rows)
    });
    for row in rows {
        let error = row["error"].as_str().unwrap();
        assert!(error.contains("connect") || error.contains("resolve"), "{error}");
        assert!(!error.contains("decoding"), "{error}");
    }
    let (_, page) = daemon.get("/");
    assert!(daemon.stop().success());
    for text in [daemon.log(), page] {
        assert!(!text.contains("hunter"), "{text}");
    }
}
