//! A process that may open no more files: it says so, and goes on as soon as it may.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::common::camera::{Camera, Codec, Content};
use crate::common::daemon::{Daemon, eventually};

/// Lets process `pid` have numbers of descriptors below `limit`; `None`: as many as before.
fn limit(pid: u32, limit: Option<u64>) -> Rlimit {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    let now = rustix::process::getrlimit(Resource::Nofile);
    prlimit(pid, Resource::Nofile, Rlimit { current: limit.or(now.current), maximum: now.maximum }).unwrap()
}

/// The limit that leaves process `pid` two descriptors more than it has just now.
fn hardly_any(pid: u32) -> u64 {
    let open: BTreeSet<u64> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .collect();
    (0..).filter(|number| !open.contains(number)).nth(2).unwrap()
}

#[test]
fn a_lack_of_descriptors_is_told_and_the_stream_comes_back_when_there_are_some() {
    let folder = tempfile::tempdir().unwrap();
    let mut camera = Camera::start(Content::pattern(160, 120), Codec::H264, None);
    let config = format!(
        "model: {{ path: none }}\nreconnect: {{ first: 200ms, max: 500ms }}\napi: {{ listen: 127.0.0.1:0 }}\noutbox: {{ path: \":memory:\" }}\n\
         streams: [{{ id: cam, url: \"{}\" }}]\n",
        camera.url()
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    daemon.wait_for_log("frames are coming");
    camera.kill();
    daemon.wait_for_log("the stream is down");
    let mut up = 1;
    // What is open changes while it tries.
    eventually("the log says what is missing", || {
        limit(daemon.pid(), Some(hardly_any(daemon.pid())));
        let log = daemon.log();
        let times = log.matches("frames are coming").count();
        // For the first time under a limit, or it was quicker than the limit.
        if times >= up {
            up = times + 1;
            camera.restart();
        }
        std::thread::sleep(Duration::from_millis(200));
        (log.contains("has no file descriptor left") && log.contains("LimitNOFILE")).then_some(())
    });
    assert!(!daemon.log().contains("install its plug-in"), "{}", daemon.log());
    let before = daemon.log().matches("frames are coming").count();
    limit(daemon.pid(), None);
    // It may be up: what was told is of an earlier try.
    camera.restart();
    eventually("it is up again", || (daemon.log().matches("frames are coming").count() > before).then_some(()));
}
