//! Cameras that go wrong: killed, frozen, absent, locked, changed, ended, and one that speaks of another time. Each time the
//! daemon says why, comes back by itself, and the stream beside it never notices.

use crate::common::camera::{Auth, Camera, Codec, Content, free_port};
use crate::common::daemon::{Daemon, can_have_hosts, eventually};
use crate::common::scene::{CameraProcess, QUICK, Scene, small};
use serde_json::json;

const LOST: &[&str] = &["nobody listens", "live stream ended", "Could not", "Failed", "Unhandled"];

#[test]
fn a_camera_that_is_killed_and_starts_again_is_found_again() {
    let mut camera = CameraProcess::start();
    let mut scene = Scene::start(camera.port(), "");
    scene.wait_frames("faulty", 10);
    camera.kill();
    scene.wait_any_told(LOST);
    scene.wait_frames("control", 25);
    scene.recovers(|_| camera.restart());
    scene.ends_well();
}

#[test]
fn a_camera_that_freezes_is_told_and_found_again_when_it_thaws() {
    let camera = CameraProcess::start();
    let mut scene = Scene::start(camera.port(), "");
    scene.wait_frames("faulty", 10);
    camera.signal(libc::SIGSTOP);
    scene.wait_told("no picture for 2.0s: nothing arrives");
    scene.wait_frames("control", 25);
    scene.recovers(|_| camera.signal(libc::SIGCONT));
    scene.ends_well();
}

#[test]
fn a_camera_that_is_absent_at_the_start_is_found_when_it_comes() {
    let port = free_port();
    let mut camera = Camera::start(small(), Codec::H264, None);
    let mut scene = Scene::start(port, "");
    // The proxy finds nobody and resets; then the daemon is told of the real port.
    scene.wait_any_told(LOST);
    scene.wait_frames("control", 25);
    scene.proxy.refuse();
    scene.wait_told("nobody listens on its port");
    scene.recovers(|scene| {
        scene.proxy.retarget(camera.port());
        scene.proxy.pass();
    });
    camera.kill();
    scene.ends_well();
}

#[test]
fn a_refused_password_is_replaced_in_its_file_without_a_restart_and_never_shown() {
    let auth = Auth { user: "viewer".into(), password: "right-9d1c".into(), digest: true };
    let camera = Camera::start(small(), Codec::H264, Some(auth));
    let more = ", username: viewer, password: { file: password }, \
                reconnect: { first: 1h, max: 2h, stable: 60s, first_frame: 6s, stall: 2s }";
    let mut scene = Scene::with_files(camera.port(), more, &[("password", "wrong-5e2a\n")]);
    scene.wait_told("the credentials were refused");
    // Trying a refused password again soon locks accounts: the next attempt would be two hours from now.
    scene.wait_frames("control", 25);
    assert_eq!(scene.number("faulty", "reconnects"), 0);
    scene.recovers(|scene| std::fs::write(scene.folder().join("password"), "right-9d1c\n").unwrap());
    let (_, api) = scene.daemon.get("/api/v1/streams");
    let log = scene.ends_well();
    for text in [log, api] {
        assert!(!text.contains("5e2a") && !text.contains("9d1c"), "{text}");
    }
}

#[test]
fn a_refused_password_is_replaced_in_the_configuration_by_a_reload_that_the_other_stream_does_not_notice() {
    let auth = Auth { user: "viewer".into(), password: "right-9d1c".into(), digest: true };
    let camera = Camera::start(small(), Codec::H264, Some(auth));
    let more = ", username: viewer, password: { file: first }, \
                reconnect: { first: 1h, max: 2h, stable: 60s, first_frame: 6s, stall: 2s }";
    let files = [("first", "wrong-5e2a\n"), ("second", "right-9d1c\n")];
    let mut scene = Scene::with_files(camera.port(), more, &files);
    scene.wait_told("the credentials were refused");
    scene.recovers(|scene| scene.reconfigure("file: first", "file: second"));
    let log = scene.ends_well();
    assert!(!log.contains("5e2a") && !log.contains("9d1c"), "{log}");
}

#[test]
fn another_picture_size_in_mid_stream_needs_no_new_connection() {
    let camera = Camera::start(small(), Codec::H264, None);
    let mut scene = Scene::start(camera.port(), "");
    scene.wait_frames("faulty", 10);
    camera.resize(320, 240);
    eventually("the new size", || (scene.row("faulty")["size"] == json!([320, 240])).then_some(()));
    scene.wait_frames("faulty", 10);
    assert_eq!(scene.number("faulty", "reconnects"), 0);
    scene.ends_well();
}

#[test]
fn another_picture_size_and_another_codec_after_a_restart_are_taken_as_they_are() {
    let mut camera = Camera::start(small(), Codec::H264, None);
    let mut scene = Scene::start(camera.port(), "");
    for (width, height, codec) in [(320, 240, Codec::H264), (320, 240, Codec::H265), (176, 144, Codec::Mjpeg)] {
        scene.wait_frames("faulty", 10);
        scene.recovers(|_| camera.switch(Content::pattern(width, height), codec));
        eventually("the new size", || (scene.row("faulty")["size"] == json!([width, height])).then_some(()));
    }
    scene.ends_well();
}

#[test]
fn the_end_of_a_live_stream_is_a_fault_that_is_told_and_retried() {
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("short.mp4");
    crate::common::recorder::make_mp4(&clip, 40, (160, 120), "ball");
    let camera = Camera::start(Content::File(clip), Codec::H264, None);
    let mut scene = Scene::start(camera.port(), "");
    scene.wait_told("the live stream ended");
    eventually("it plays again and again", || (scene.number("faulty", "frames") > 100).then_some(()));
    scene.ends_well();
}

#[test]
fn a_name_that_cannot_be_resolved_is_told_and_its_camera_is_found_when_it_can() {
    if !can_have_hosts() {
        return;
    }
    let camera = Camera::start(small(), Codec::H264, None);
    let mut scene = Scene::at("dock.invalid", camera.port(), "", &[("hosts", "127.0.0.1 localhost\n")]);
    scene.wait_told("the name dock.invalid cannot be resolved");
    scene.wait_frames("control", 25);
    scene.recovers(|scene| std::fs::write(scene.folder().join("hosts"), "127.0.0.1 localhost dock.invalid\n").unwrap());
    // Names that go away again are nothing to a connection that is there.
    std::fs::write(scene.folder().join("hosts"), "127.0.0.1 localhost\n").unwrap();
    scene.wait_frames("faulty", 10);
    scene.proxy.reset();
    eventually("the name is missed", || {
        (scene.daemon.log().matches("the name dock.invalid cannot be resolved").count() > 1).then_some(())
    });
    scene.recovers(|scene| std::fs::write(scene.folder().join("hosts"), "127.0.0.1 localhost dock.invalid\n").unwrap());
    scene.ends_well();
}

#[test]
fn a_name_that_cannot_be_resolved_is_told_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "model: {{ path: none }}\napi: {{ listen: 127.0.0.1:0 }}\nreconnect: {QUICK}\n\
         streams: [{{ id: lost, url: \"rtsp://no-such-host.invalid/x\" }}, {{ id: web, url: \"http://no-such-host.invalid/x\" }}]\n"
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon
        .wait_for_log("stream lost (rtsp://no-such-host.invalid/x): the name no-such-host.invalid cannot be resolved");
    daemon.wait_for_log("stream web (http://no-such-host.invalid/x): the name no-such-host.invalid cannot be resolved");
    eventually("both are tried again", || {
        let (_, metrics) = daemon.get("/metrics");
        let tried = |id| !metrics.contains(&format!("vtagd_stream_reconnects_total{{stream=\"{id}\"}} 0"));
        (tried("lost") && tried("web")).then_some(())
    });
    assert!(daemon.stop().success());
}
