//! `vtagd check --probe` tells of each camera what it sends and how it would be decoded, or why it is not there.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use crate::common::camera::{Auth, Camera, Codec, Content, free_port};
use crate::common::daemon::{root, vtagd};
use crate::common::ipv6;
use crate::common::recorder;
use crate::common::web::{Server, respond};
use serde_json::Value;

/// Streams are left as soon as they are known; this is for machines that are busy.
const TIME: &str = "60s";

fn probe(folder: &Path, streams: &str, more: &[&str]) -> Output {
    let file = folder.join("vtagd.yaml");
    fs::write(&file, format!("model: {{ path: none }}\nstreams:\n{streams}")).unwrap();
    let mut command = vtagd(folder);
    command
        .env("CAMERA_PASSWORD", "hunter2")
        .env("VTAGD__API__LISTEN", "127.0.0.1:0")
        .args(["check", "--probe", "-c"])
        .arg(&file)
        .args(more);
    command.output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn findings(output: &Output) -> Vec<Value> {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", out(output), err(output)))
}

#[test]
fn each_stream_is_told_with_what_it_would_use_or_why_it_is_not_there() {
    let h264 = Camera::start(Content::pattern(320, 240), Codec::H264, None);
    let mjpeg = Camera::start(Content::pattern(160, 120), Codec::Mjpeg, None);
    let auth = Auth { user: "viewer".into(), password: "another".into(), digest: true };
    let locked = Camera::start(Content::pattern(160, 120), Codec::H264, Some(auth));
    let streams = format!(
        "  - {{ id: sparse, url: \"{0}\", sampling: {{ interval: 2s, decoder: software }} }}\n\
         \x20 - {{ id: dense, url: \"{0}\", sampling: {{ interval: 100ms, decoder: software }} }}\n\
         \x20 - {{ id: jpegs, url: \"{1}\" }}\n\
         \x20 - {{ id: absent, url: \"rtsp://127.0.0.1:{2}/x\" }}\n\
         \x20 - {{ id: locked, url: \"{3}\", username: viewer, password: {{ env: CAMERA_PASSWORD }} }}\n\
         \x20 - {{ id: paused, url: \"{0}\", enabled: false }}\n\
         \x20 - {{ id: footage, url: \"file://{4}\", pace: fast }}\n",
        h264.url(),
        mjpeg.url(),
        free_port(),
        locked.url(),
        root().join("demo/clip.mp4").display(),
    );
    let folder = tempfile::tempdir().unwrap();
    let output = probe(folder.path(), &streams, &["--json", "--probe-timeout", TIME]);
    assert_eq!(output.status.code(), Some(1), "{}{}", out(&output), err(&output));
    let found = findings(&output);
    let ids: Vec<&str> = found.iter().map(|f| f["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["sparse", "dense", "jpegs", "absent", "locked", "paused", "footage"]);
    let [sparse, dense, jpegs, absent, locked, paused, footage] = &found[..] else { panic!("{found:?}") };
    for stream in [sparse, dense] {
        assert_eq!((stream["reachable"].as_bool(), stream["codec"].as_str()), (Some(true), Some("h264")), "{stream}");
        assert_eq!((stream["width"].as_u64(), stream["height"].as_u64()), (Some(320), Some(240)), "{stream}");
        // A keyframe every 15 pictures.
        let (interval, rate) = (stream["keyframe_interval"].as_f64().unwrap(), stream["frame_rate"].as_f64().unwrap());
        assert!((interval * rate - 15.0).abs() < 0.5, "{stream}");
        assert!(stream["decoder"].is_string() && stream["hardware"].is_null() && stream["error"].is_null(), "{stream}");
        assert_eq!(stream["why_software"], "that is configured");
    }
    assert_eq!((sparse["decode"].as_str(), sparse["interval"].as_f64()), (Some("keyframes"), Some(2.0)));
    assert_eq!((dense["decode"].as_str(), dense["interval"].as_f64()), (Some("all"), Some(0.1)));
    assert_eq!((jpegs["codec"].as_str(), jpegs["decode"].as_str()), (Some("jpeg"), Some("keyframes")), "{jpegs}");
    // With hardware it is named, without it is said why.
    assert_ne!(jpegs["hardware"].is_null(), jpegs["why_software"].is_null(), "{jpegs}");
    let error = |stream: &Value| stream["error"].as_str().unwrap_or_else(|| panic!("{stream}")).to_owned();
    assert!(error(absent).contains("nobody listens"), "{absent}");
    assert!(error(locked).contains("credentials were refused"), "{locked}");
    assert!(absent["reachable"] == false && locked["reachable"] == false);
    assert_eq!((paused["enabled"].as_bool(), paused["error"].is_null()), (Some(false), true), "{paused}");
    assert!(footage["reachable"] == true && footage["codec"] == "h264", "{footage}");
    assert!(err(&output).contains("ok: 7 streams"), "{}", err(&output));
    assert!(!format!("{}{}", out(&output), err(&output)).contains("hunter2"));

    let output = probe(folder.path(), &streams, &["--probe-timeout", TIME, "-vv"]);
    assert_eq!(output.status.code(), Some(1));
    let table = out(&output);
    for wanted in [
        "ok: 7 streams",
        "keyframes only, for a sample every 2 s",
        "every frame, for a sample every 0.1 s",
        "switched off",
        "320x240",
    ] {
        assert!(table.contains(wanted), "no {wanted:?} in:\n{table}");
    }
    assert!(
        table.lines().any(|line| line.starts_with("locked: not reachable: ") && line.contains("refused")),
        "{table}"
    );
    assert!(!format!("{table}{}", err(&output)).contains("hunter2"));
}

#[test]
fn cameras_that_are_all_there_give_0_and_not_a_word_of_trouble() {
    let camera = Camera::start(Content::pattern(160, 120), Codec::H264, None);
    let folder = tempfile::tempdir().unwrap();
    let output =
        probe(folder.path(), &format!("  - {{ id: a, url: \"{}\" }}\n", camera.url()), &["--probe-timeout", TIME]);
    assert_eq!((output.status.code(), err(&output)), (Some(0), String::new()), "{}", out(&output));
}

#[test]
fn cameras_whose_ipv6_address_has_a_zone_are_reached_and_named_with_it() {
    let camera = Camera::start(Content::pattern(160, 120), Codec::H264, None);
    let clip = fs::read(root().join("demo/clip.mp4")).unwrap();
    let video = Server::start(move |_, stream| respond(stream, "200 OK", "Content-Type: video/mp4\r\n", &clip));
    let ports = [camera.port(), video.url("/").port().unwrap()];
    let [Some(rtsp), Some(http)] = ports.map(ipv6::with_zone) else {
        println!("skipped: this machine has no IPv6");
        return;
    };
    let closed = free_port();
    let streams = format!(
        "  - {{ id: rtsp, url: \"rtsp://{rtsp}/stream\" }}\n  - {{ id: plain, url: \"rtsp://{}/stream\" }}\n\
         \x20 - {{ id: http, url: \"http://{http}/clip\" }}\n\
         \x20 - {{ id: closed, url: \"rtsp://[::1%251]:{closed}/x\" }}\n\
         \x20 - {{ id: nowhere, url: \"rtsp://[fe80::1%25nosuchport]/x\" }}\n",
        rtsp.replace("%25", "%")
    );
    let folder = tempfile::tempdir().unwrap();
    let output = probe(folder.path(), &streams, &["--json", "--probe-timeout", TIME]);
    let found = findings(&output);
    let [rtsp, plain, http, closed_one, nowhere] = &found[..] else { panic!("{found:?}") };
    for stream in [rtsp, plain, http] {
        assert!(stream["reachable"] == true && stream["codec"] == "h264", "{stream}");
    }
    let error = |stream: &Value| stream["error"].as_str().unwrap_or_else(|| panic!("{stream}")).to_owned();
    let place = format!("rtsp://[::1%251]:{closed}/x");
    assert!(error(closed_one).contains(&place) && error(closed_one).contains("nobody listens"), "{closed_one}");
    assert!(error(nowhere).contains("has no such interface"), "{nowhere}");
}

#[test]
fn a_camera_that_says_nothing_is_given_up_when_its_time_is_over() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let streams = format!("  - {{ id: mute, url: \"rtsp://{}/x\" }}\n", mute.local_addr().unwrap());
    let output = probe(folder.path(), &streams, &["--json", "--probe-timeout", "2s"]);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    let error = findings(&output)[0]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("no picture for 2.0s") && error.contains("nothing arrives"), "{error}");
}

#[test]
fn a_keyframe_interval_longer_than_the_time_is_said_to_be_unseen() {
    let launch = "videotestsrc is-live=true ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 \
                  ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=100000 ! rtph264pay name=pay0 pt=96 config-interval=-1";
    let camera = Camera::start(Content::Launch(launch.into()), Codec::H264, None);
    let folder = tempfile::tempdir().unwrap();
    let streams = format!("  - {{ id: a, url: \"{}\" }}\n", camera.url());
    let output = probe(folder.path(), &streams, &["--probe-timeout", "12s"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", out(&output), err(&output));
    assert!(out(&output).contains("not seen") && out(&output).contains("every frame"), "{}", out(&output));
}

#[test]
fn a_wrong_configuration_gives_2_and_connects_to_nobody() {
    let camera = TcpListener::bind("127.0.0.1:0").unwrap();
    camera.set_nonblocking(true).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let streams = format!("  - {{ id: a, url: \"rtsp://{}/x\" }}\n  - {{ id: B }}\n", camera.local_addr().unwrap());
    let output = probe(folder.path(), &streams, &["--probe-timeout", "2s"]);
    assert_eq!((output.status.code(), out(&output)), (Some(2), String::new()), "{}", err(&output));
    assert!(camera.accept().is_err(), "somebody came");
    let output = vtagd(folder.path()).args(["check", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn keyframes_further_apart_than_after_are_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("rare.mp4");
    recorder::make(&format!(
        "videotestsrc num-buffers=200 ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 ! x264enc bframes=0 key-int-max=100 \
         option-string=\"scenecut=0\" ! h264parse ! mp4mux ! filesink location=\"{}\"",
        clip.display()
    ));
    fs::write(
        folder.path().join("pets.yaml"),
        "set: pets\nbackground: [a wall]\nlabels:\n  - { name: cat, prompts: [a cat] }\n",
    )
    .unwrap();
    let streams = format!(
        "  - {{ id: rare, url: \"file://{0}\", pace: fast, sampling: {{ decode: keyframes }} }}\n\
         \x20 - {{ id: whole, url: \"file://{0}\", pace: fast, sampling: {{ decode: all }} }}\nlabels: [pets.yaml]\n",
        clip.display()
    );
    let output = probe(folder.path(), &streams, &["--json", "--probe-timeout", TIME]);
    let found = findings(&output);
    let warning = found[0]["warnings"][0].as_str().unwrap_or_else(|| panic!("{found:?}"));
    assert!(warning.starts_with("a keyframe every 4.0 s is longer than `after` of `cat` (1s)"), "{warning}");
    assert!(found[1]["warnings"].is_null(), "{found:?}");
    let output = probe(folder.path(), &streams, &["--probe-timeout", TIME]);
    assert!(out(&output).contains("rare: a keyframe every 4.0 s"), "{}", out(&output));
}
