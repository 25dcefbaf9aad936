//! Sources that start and stop many times leave nothing behind.

use crate::alone;
use crate::common::camera::{Camera, Codec, Content};
use crate::common::daemon::eventually;
use crate::common::recorder::{Running, make_mp4, resources, settings};
use vtagd::source::{Ended, Location};

/// Starts and stops `location` so many times, and waits until no more threads and files are there than before.
fn turns(location: &Location, times: usize) {
    let cycle = || {
        let running = Running::start(settings(location.clone()));
        running.wait_frames(1);
        assert_eq!(running.stop().0, Ended::Shutdown);
    };
    // Registries and thread pools fill during the first turns.
    for _ in 0..5 {
        cycle();
    }
    let before = resources();
    for _ in 0..times {
        cycle();
    }
    // What ends, ends a little later: threads of GStreamer's pool, and a camera that lives in this process too. What leaked would stay.
    eventually(&format!("(threads, files) are {before:?} again"), || {
        let after = resources();
        (after.0 <= before.0 + 2 && after.1 <= before.1 + 2).then_some(())
    });
}

#[test]
fn fifty_starts_and_stops_leave_no_thread_and_no_file_open() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.mp4");
    make_mp4(&path, 50, (322, 182), "ball");
    turns(&Location::File(path), 50);
}

#[test]
fn many_connections_leave_no_thread_and_no_socket_open() {
    let _alone = alone();
    let camera = Camera::start(Content::pattern(160, 120), Codec::Mjpeg, None);
    turns(&Location::Rtsp(camera.url().into()), 20);
}
