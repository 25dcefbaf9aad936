//! Pipelines that hang, as they do when a driver or a network file system does: here a named pipe that nobody writes into. They
//! are left behind in bounded time and number, and the stream lives again when what hung lets go.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::alone;
use crate::common::camera::{Camera, Codec};
use crate::common::daemon::{Daemon, eventually};
use crate::common::recorder::{Options, Running, resources, settings};
use crate::common::scene::small;
use vtagd::platform::backoff::Ladder;
use vtagd::source::{Ended, Limits, Location};
use vtagd::stream::status::StreamState;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// A named pipe, and a template that reads it: opening it blocks until somebody opens it for writing.
fn wedge(folder: &Path) -> (PathBuf, PathBuf) {
    let (pipe, template) = (folder.join("pipe"), folder.join("wedge.gst"));
    let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
    // SAFETY: plain system call with a terminated string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let text =
        format!("filesrc location=\"{}\" ! decodebin ! videoconvert ! appsink name=sink\n", pipe.to_str().unwrap());
    fs::write(&template, text).unwrap();
    (pipe, template)
}

fn impatient(template: PathBuf, first_frame: Duration) -> Running {
    let ladder = Ladder::doubling(MS(10), MS(20), MS(60_000));
    let limits = Limits { first_frame, stall: MS(500), tear_down: MS(100) };
    Running::with(settings(Location::Template(template)), Options { ladder, limits, ..Options::default() })
}

fn down(running: &Running, text: &str) {
    running.wait_state(|state| matches!(state, StreamState::Down { error } if error.contains(text)));
}

#[test]
fn pipelines_that_hang_while_they_start_are_bounded_in_number_and_the_stream_comes_back() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (pipe, template) = wedge(folder.path());
    crate::common::recorder::make_mp4(&folder.path().join("clip.mp4"), 50, (160, 120), "ball");
    let before = resources();
    let running = impatient(template, MS(200));
    down(&running, "its pipeline does not start within 200.0ms");
    down(&running, "8 pipelines of it hang");
    let hanging = resources();
    // What is there is all there will be: attempts go on, nothing is built for them.
    let attempts = running.report().reconnects;
    eventually("more attempts", || (running.report().reconnects > attempts + 10).then_some(()));
    let later = resources();
    assert!(later.0 <= hanging.0 + 1 && later.1 <= hanging.1 + 2, "(threads, files) {hanging:?} became {later:?}");

    // The file system wakes up. GStreamer opens a pipe a second time, by its name, once it knows that it cannot seek in it: nothing is
    // there by then, so that what hung ends, and is not stopped in the middle of finding a video (decodebin 1.22 complains of that).
    let old = folder.path().join("old-pipe");
    fs::rename(&pipe, &old).unwrap();
    drop(OpenOptions::new().write(true).open(&old).unwrap());
    // One thread that started and one that stops, of each of the eight.
    eventually("what hung has ended", || (resources().0 + 14 <= hanging.0).then_some(()));
    // The next attempt finds a video.
    fs::rename(folder.path().join("clip.mp4"), &pipe).unwrap();
    running.wait_frames(10);
    let (ended, ..) = running.wait_end();
    assert_eq!(ended, Ended::EndOfFile);
    eventually("no thread and no file is left", || {
        let after = resources();
        (after.0 <= before.0 + 4 && after.1 <= before.1 + 4).then_some(())
    });
}

#[test]
fn a_pipeline_that_hangs_in_its_streaming_thread_is_left_behind() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (pipe, template) = wedge(folder.path());
    // Opened for reading too, so that this does not block, and neither does the daemon's opening: only its reading does.
    let held = OpenOptions::new().read(true).write(true).open(pipe).unwrap();
    let running = impatient(template, MS(1_000));
    down(&running, "no picture for 1.0s: nothing arrives");
    eventually("it is tried again", || (running.report().reconnects >= 2).then_some(()));
    // Closing it would be the end of the file for all of them; the source stops without that.
    assert_eq!(running.stop().0, Ended::Shutdown);
    drop(held);
}

#[test]
fn the_daemon_counts_what_it_leaves_behind_and_still_stops_in_time() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (_pipe, template) = wedge(folder.path());
    let camera = Camera::start(small(), Codec::H264, None);
    let config = format!(
        "model: {{ path: none }}\nsampling: {{ interval: 100ms }}\napi: {{ listen: 127.0.0.1:0 }}\nstreams:\n\
         \x20 - {{ id: wedged, pipeline: \"{}\", reconnect: {{ first: 100ms, first_frame: 500ms }} }}\n\
         \x20 - {{ id: control, url: \"{}\" }}\n",
        template.display(),
        camera.url()
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    eventually("it is counted", || {
        let (_, metrics) = daemon.get("/metrics");
        metrics.contains("vtagd_pipelines_abandoned_total{stream=\"wedged\"} 1").then_some(())
    });
    daemon.wait_for_log("the pipeline does not stop; left behind stream=wedged");
    let (_, metrics) = daemon.get("/metrics");
    assert!(metrics.contains("vtagd_stream_reconnects_total{stream=\"control\"} 0"), "{metrics}");
    assert!(daemon.stop().success());
    assert_eq!(daemon.log().matches("unaccounted=0").count(), 2);
}
