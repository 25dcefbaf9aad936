//! Connections lost over and over leave nothing behind: no thread, no file, no memory. `VTAGD_CYCLES=200` makes it longer, as
//! `make soak` does.

use std::collections::BTreeSet;

use crate::common::camera::{Camera, Codec};
use crate::common::daemon::{Daemon, eventually, root};
use crate::common::proxy::Proxy;
use crate::common::scene::{CameraProcess, small};
use serde_json::Value;

fn rows(daemon: &mut Daemon) -> Vec<Value> {
    let (_, body) = daemon.get("/api/v1/streams");
    serde_json::from_str::<Value>(&body).unwrap()["streams"].as_array().unwrap().clone()
}

/// Threads, open files and resident bytes of the daemon.
fn resources(daemon: &Daemon) -> (usize, usize, u64) {
    let count = |what| std::fs::read_dir(format!("/proc/{}/{what}", daemon.pid())).unwrap().count();
    (count("task"), count("fd"), daemon.rss())
}

/// Loses the connection in the manner of `turn` and waits until pictures flow over a new one.
fn cycle(turn: usize, proxy: &Proxy, daemon: &mut Daemon) {
    let before = rows(daemon)[0].clone();
    let (reconnects, frames) = (before["reconnects"].as_u64().unwrap(), before["frames"].as_u64().unwrap());
    match turn % 4 {
        0 => proxy.reset(),
        1 => proxy.close(),
        2 => proxy.set(|plan| plan.truncate = true),
        _ => proxy.refuse(),
    }
    eventually("the loss is noticed", || (rows(daemon)[0]["reconnects"].as_u64().unwrap() > reconnects).then_some(()));
    proxy.pass();
    eventually("pictures flow again", || {
        let row = &rows(daemon)[0];
        (row["state"] == "up" && row["frames"].as_u64().unwrap() > frames + 2).then_some(())
    });
}

#[test]
fn connections_lost_over_and_over_leave_no_thread_no_file_and_no_memory() {
    let cycles: usize = std::env::var("VTAGD_CYCLES").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let folder = tempfile::tempdir().unwrap();
    let camera = Camera::start(small(), Codec::H264, None);
    let proxy = Proxy::start(camera.port(), 3);
    let config = format!(
        "model: {{ path: none }}\nsampling: {{ interval: 100ms }}\napi: {{ listen: 127.0.0.1:0 }}\n\
         reconnect: {{ first: 20ms, max: 50ms }}\nstreams: [{{ id: a, url: \"rtsp://127.0.0.1:{}/stream\" }}]\n",
        proxy.port()
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    // Ready is not connected: there must be a connection to lose.
    eventually("pictures flow", || (rows(&mut daemon)[0]["frames"].as_u64().unwrap() > 2).then_some(()));
    for turn in 0..12 {
        cycle(turn, &proxy, &mut daemon);
    }
    let before = resources(&daemon);
    for turn in 0..cycles {
        cycle(turn, &proxy, &mut daemon);
    }
    // A pipeline that was just replaced is stopped a moment later.
    let after = eventually("threads and files are as they were", || {
        let now = resources(&daemon);
        (now.0 <= before.0 + 1 && now.1 <= before.1 + 2).then_some(now)
    });
    let grown = after.2.saturating_sub(before.2);
    eprintln!("{cycles} cycles: (threads, files, bytes) {before:?} became {after:?}, {} kB grown", grown / 1024);
    // What the allocator keeps is no leak: it does not grow with the cycles. A pipeline that stayed would be a megabyte each.
    assert!(grown < (8 << 20) + cycles as u64 * (16 << 10), "{before:?} became {after:?}");
    assert!(daemon.stop().success());
    assert!(daemon.log().contains("unaccounted=0"));
}

#[test]
fn an_outage_of_all_cameras_at_once_ends_with_tags_from_each_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let camera = CameraProcess::start();
    let proxies: Vec<Proxy> = (0..3).map(|seed| Proxy::start(camera.port(), seed)).collect();
    let streams: String = proxies
        .iter()
        .enumerate()
        .map(|(n, proxy)| format!("  - {{ id: c{n}, url: \"rtsp://127.0.0.1:{}/stream\" }}\n", proxy.port()))
        .collect();
    let config = format!(
        "sampling: {{ interval: 250ms }}\nstreams:\n{streams}labels: [{}]\n\
         reconnect: {{ first: 100ms, max: 1s, first_frame: 10s, stall: 4s }}\n\
         events: {{ enter: 0.5, exit: 0.3, after: 0s, after_exit: 500ms, cooldown: 0s }}\n\
         sinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: 127.0.0.1:0 }}\n",
        root().join("config/labels/demo.yaml").display()
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    let tagged = |daemon: &Daemon, from: usize| -> BTreeSet<String> {
        daemon.events()[from..].iter().map(|event| event["data"]["stream"].as_str().unwrap().to_owned()).collect()
    };
    eventually("tags of all cameras", || (tagged(&daemon, 0).len() == 3).then_some(()));

    proxies.iter().for_each(Proxy::refuse);
    eventually("every stream has climbed its ladder", || {
        let climbed = |row: &Value| row["reconnects"].as_u64().unwrap() >= 6 && row["state"] != "up";
        rows(&mut daemon).iter().all(climbed).then_some(())
    });
    let before = daemon.events().len();
    let attempts: Vec<u64> = rows(&mut daemon).iter().map(|row| row["reconnects"].as_u64().unwrap()).collect();
    proxies.iter().for_each(Proxy::pass);
    eventually("tags of all cameras again", || (tagged(&daemon, before).len() == 3).then_some(()));
    for (row, attempts) in rows(&mut daemon).iter().zip(attempts) {
        assert!(row["reconnects"].as_u64().unwrap() <= attempts + 3, "{row}");
    }
    assert!(daemon.stop().success());
    assert_eq!(daemon.log().matches("unaccounted=0").count(), 3);
}
