//! Real signals to the real binary under load.

use std::time::{Duration, Instant};

use crate::common::daemon::{Daemon, eventually, root};

fn looping(folder: &std::path::Path, streams: usize) -> Daemon {
    let rows: String = (0..streams)
        .map(|n| {
            format!("  - {{ id: s{n}, url: \"file://{}\", loop: true }}\n", root().join("demo/clip.mp4").display())
        })
        .collect();
    let config = format!(
        "sampling: {{ interval: 40ms }}\nstreams:\n{rows}labels: [{}]\nevents: {{ after: 0s }}\nsinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: 127.0.0.1:0 }}\n",
        root().join("config/labels/demo.yaml").display()
    );
    let mut daemon = Daemon::start(folder, &config);
    daemon.wait_ready();
    daemon
}

#[test]
fn sigterm_under_load_drains_ends_open_tags_and_leaves_no_frame_unaccounted() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = looping(folder.path(), 4);
    eventually("a tag is open", || (!daemon.events().is_empty()).then_some(()));
    let asked = Instant::now();
    assert!(daemon.stop().success());
    // The deadline is ten seconds; this only says that it is kept.
    assert!(asked.elapsed() < Duration::from_secs(20));
    let log = daemon.log();
    assert_eq!(log.matches("frames accounted").count(), 4);
    assert_eq!(log.matches("unaccounted=0").count(), 4, "{log}");
    let events = daemon.events();
    let open = |kind: &str| events.iter().filter(|e| e["type"] == format!("dev.vtagd.tag.{kind}")).count();
    assert_eq!(open("start"), open("end"), "every tag that was open has been ended");
    assert!(events.iter().any(|e| e["data"]["reason"] == "shutdown"));
}

#[test]
fn a_second_signal_stops_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = looping(folder.path(), 2);
    daemon.signal(libc::SIGSTOP);
    // Both arrive while it stands still, so the second is there before the drain can have ended.
    daemon.signal(libc::SIGTERM);
    daemon.signal(libc::SIGINT);
    daemon.signal(libc::SIGCONT);
    let code = daemon.wait().code();
    assert_eq!(code, Some(1), "{}", daemon.log());
}

#[test]
fn sighup_does_not_end_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = looping(folder.path(), 1);
    daemon.signal(libc::SIGHUP);
    daemon.wait_for_log("the new configuration runs");
    assert_eq!(daemon.get("/healthz").0, 200);
    assert!(daemon.stop().success());
}

#[test]
fn a_signal_during_start_up_ends_it_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "streams: [{{ id: s, url: \"file://{}\", loop: true }}]\nlabels: [{}]\napi: {{ listen: 127.0.0.1:0 }}\n",
        root().join("demo/clip.mp4").display(),
        root().join("config/labels/demo.yaml").display()
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_for_log("API listens");
    assert!(daemon.stop().success());
}

#[test]
fn a_batch_that_outlasts_the_deadline_is_named_and_its_frames_are_accounted() {
    let folder = tempfile::tempdir().unwrap();
    // Hundreds of pictures on one thread take about as long as a drain may.
    let config = format!(
        "runtime: {{ threads: 1, batch: {{ max_size: 384, max_delay: 60s }} }}\nsampling: {{ interval: 40ms }}\n\
         streams: [{{ id: s, url: \"file://{}\", loop: true, pace: fast }}]\nlabels: [{}]\n\
         sinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: \"127.0.0.1:0\" }}\n",
        root().join("demo/clip.mp4").display(),
        root().join("config/labels/demo.yaml").display()
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    eventually("a batch is running and the next one waits", || {
        let (_, metrics) = daemon.get("/metrics");
        let sampled = metrics
            .lines()
            .find_map(|l| l.strip_prefix("vtagd_frames_sampled_total{stream=\"s\"} ")?.parse::<u64>().ok());
        sampled.is_some_and(|n| n > 500).then_some(())
    });
    daemon.stop();
    let log = daemon.log();
    assert!(log.contains("unaccounted=0"), "{log}");
    assert!(log.contains("stopped"), "{log}");
    if log.contains("did not stop in time") {
        assert!(log.contains("inference session") && !log.contains("sink jsonl"), "sinks are not to blame:\n{log}");
    }
}

#[test]
fn events_that_cannot_be_delivered_make_the_exit_code_one() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "streams: [{{ id: s, url: \"file://{}\", pace: fast }}]\nlabels: [{}]\nevents: {{ after: 0s }}\n\
         sinks: [{{ type: jsonl, path: /dev/full }}]\noutbox: {{ path: \":memory:\" }}\napi: {{ listen: off }}\n",
        root().join("demo/clip.mp4").display(),
        root().join("config/labels/demo.yaml").display()
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    assert_eq!(daemon.wait().code(), Some(1));
    assert!(daemon.log().contains("events could not be delivered"), "{}", daemon.log());
}

#[test]
fn a_daemon_whose_only_reader_has_gone_stops_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "streams: [{{ id: s, url: \"file://{}\", loop: true, pace: fast }}]\nlabels: [{}]\n\
         events: {{ after: 0s, cooldown: 0s }}\nsinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: off }}\n",
        root().join("demo/clip.mp4").display(),
        root().join("config/labels/demo.yaml").display()
    );
    std::fs::write(folder.path().join("vtagd.yaml"), config).unwrap();
    let mut command = crate::common::daemon::vtagd(folder.path());
    command.args(["run", "-c"]).arg(folder.path().join("vtagd.yaml"));
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    let end = eventually("it ends", || child.try_wait().unwrap());
    assert_eq!(end.code(), Some(1));
}
