//! Networks that go wrong between camera and daemon: half open, reset, refused, slow, corrupted, cut, moved in time. Each time
//! the daemon says why, comes back by itself, and the stream beside it never notices.

use std::time::Duration;

use crate::common::camera::{Camera, Codec, Content};
use crate::common::daemon::eventually;
use crate::common::proxy::Proxy;
use crate::common::recorder::{Options, Running, settings};
use crate::common::scene::{Scene, small};
use vtagd::source::Location;

/// A camera, and the scene behind a proxy to it, with pictures flowing.
fn scene() -> (Camera, Scene) {
    let camera = Camera::start(small(), Codec::H264, None);
    let mut scene = Scene::start(camera.port(), "");
    scene.wait_frames("faulty", 10);
    (camera, scene)
}

#[test]
fn a_half_open_connection_is_found_out_and_made_anew() {
    let (_camera, mut scene) = scene();
    scene.proxy.freeze();
    scene.wait_told("no picture for 2.0s: nothing arrives");
    // New connections are accepted and stay silent, too.
    scene.wait_told("no picture for 6.0s: nothing arrives");
    scene.recovers(|scene| scene.proxy.pass());
    scene.ends_well();
}

#[test]
fn a_connection_that_is_reset_or_closed_is_made_anew() {
    let (_camera, mut scene) = scene();
    for end in [Proxy::reset, Proxy::close] {
        let before = scene.number("faulty", "reconnects");
        end(&scene.proxy);
        eventually("it was noticed", || (scene.number("faulty", "reconnects") > before).then_some(()));
        scene.wait_frames("faulty", 10);
    }
    scene.wait_any_told(&["live stream ended", "Could not", "Failed", "Unhandled"]);
    scene.ends_well();
}

#[test]
fn a_closed_port_is_told_and_found_open_again() {
    let (_camera, mut scene) = scene();
    scene.proxy.refuse();
    scene.wait_told("nobody listens on its port");
    scene.recovers(|scene| scene.proxy.pass());
    scene.ends_well();
}

#[test]
fn corrupted_pictures_cost_pictures_and_not_the_stream() {
    let (_camera, mut scene) = scene();
    scene.proxy.set(|plan| plan.corrupt_pictures = Some(10_000));
    eventually("bytes were changed", || (scene.proxy.corrupted() > 20).then_some(()));
    scene.recovers(|scene| scene.proxy.pass());
    scene.ends_well();
}

#[test]
fn a_corrupted_protocol_is_survived() {
    let (_camera, mut scene) = scene();
    scene.proxy.set(|plan| plan.corrupt_all = Some(2_000));
    eventually("bytes were changed", || (scene.proxy.corrupted() > 100).then_some(()));
    scene.recovers(|scene| scene.proxy.pass());
    scene.ends_well();
}

#[test]
fn a_connection_that_is_cut_within_a_picture_is_made_anew() {
    let (_camera, mut scene) = scene();
    for _ in 0..3 {
        let before = scene.number("faulty", "reconnects");
        scene.proxy.set(|plan| plan.truncate = true);
        eventually("it was noticed", || (scene.number("faulty", "reconnects") > before).then_some(()));
        scene.wait_frames("faulty", 10);
    }
    scene.wait_any_told(&["live stream ended", "Could not", "Failed", "Unhandled"]);
    scene.ends_well();
}

#[test]
fn a_camera_that_is_far_too_slow_is_told_apart_from_a_silent_one() {
    // Noise does not compress: each picture has some 14 kB and takes seven seconds, longer than the daemon is patient with either a
    // connection or its first picture; its packets come every half a second.
    let noise = "videotestsrc is-live=true pattern=snow ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 \
                 ! jpegenc ! rtpjpegpay name=pay0 pt=26";
    let camera = Camera::start(Content::Launch(noise.into()), Codec::Mjpeg, None);
    let mut scene = Scene::start(camera.port(), "");
    scene.wait_frames("faulty", 10);
    scene.proxy.set(|plan| plan.rate = Some(2_000));
    scene.wait_told("no picture for 2.0s, though data arrives");
    scene.wait_told("no picture for 6.0s, though data arrives");
    scene.recovers(|scene| scene.proxy.pass());
    scene.ends_well();
}

#[test]
fn a_camera_that_is_slow_and_still_within_the_limits_is_left_alone() {
    // Two pictures a second of some 2 kB.
    let camera = Camera::start(Content::pattern(320, 240), Codec::Mjpeg, None);
    let mut scene = Scene::start(camera.port(), "");
    scene.wait_frames("faulty", 10);
    scene.proxy.set(|plan| plan.rate = Some(4_000));
    // More than was on its way, for longer than the daemon is patient with silence.
    scene.wait_frames("faulty", 25);
    assert_eq!(scene.number("faulty", "reconnects"), 0);
    scene.ends_well();
}

#[test]
fn time_stamps_that_jump_do_not_stop_the_pictures() {
    let (_camera, mut scene) = scene();
    for hours in [1_i32, -2] {
        scene.recovers(|scene| {
            scene.proxy.set(|plan| plan.shift = plan.shift.wrapping_add((hours * 3600 * 90_000).cast_unsigned()));
        });
        // More than was on its way when they jumped.
        scene.wait_frames("faulty", 50);
    }
    scene.ends_well();
}

#[test]
fn time_stamps_that_jump_do_not_move_media_time() {
    let camera = Camera::start(small(), Codec::H264, None);
    let proxy = Proxy::start(camera.port(), 7);
    let url = format!("rtsp://127.0.0.1:{}/stream", proxy.port()).parse().unwrap();
    let running = Running::with(settings(Location::Rtsp(url)), Options::default());
    let mut frames = running.wait_frames(20).len();
    for hours in [1_i32, -2] {
        proxy.set(|plan| plan.shift = plan.shift.wrapping_add((hours * 3600 * 90_000).cast_unsigned()));
        frames = running.wait_frames(frames + 40).len();
    }
    let frames = running.frames();
    assert!(frames.windows(2).all(|pair| pair[1].media >= pair[0].media));
    let (first, last) = (frames[0], frames[frames.len() - 1]);
    let (media, real) = (last.media - first.media, last.captured - first.captured);
    assert!(media.abs_diff(real) < Duration::from_secs(5), "{media:?} of media time in {real:?}");
}

#[test]
fn a_camera_that_starts_its_stream_anew_within_a_connection_is_followed() {
    let (_camera, mut scene) = scene();
    scene.recovers(|scene| scene.proxy.set(|plan| plan.ssrc = 0x5A5A_1234));
    // More than was on its way when it changed.
    scene.wait_frames("faulty", 50);
    scene.ends_well();
}
