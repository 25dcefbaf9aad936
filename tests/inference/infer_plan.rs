//! What the daemon finds out about inference at start-up and tells: batch size, sessions, and systemd's watchdog.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;

use crate::common::daemon::{DEADLINE, Daemon, root, vtagd};
use serde_json::{Value, json};

fn config(folder: &Path, runtime: &str) -> String {
    fs::write(folder.join("things.yaml"), "set: things\nlabels: [{ name: cat }]\nbackground: [a room]\n").unwrap();
    let clip = root().join("demo/clip.mp4");
    format!(
        "runtime: {runtime}\nstreams: [{{ id: a, url: \"file://{}\", pace: fast, loop: true }}]\nlabels: [things.yaml]\n\
         sinks: [{{ type: jsonl, path: events.jsonl }}]\napi: {{ listen: \"127.0.0.1:0\" }}\n",
        clip.display()
    )
}

#[test]
fn the_batch_size_that_was_found_and_its_numbers_stand_in_the_log_and_in_readyz() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(folder.path(), &config(folder.path(), "{ threads: 1, batch: { max_size: auto } }"));
    daemon.wait_ready();
    let ready: Value = serde_json::from_str(&daemon.get("/readyz").1).unwrap();
    let plan = &ready["inference"];
    let size = plan["max_size"].as_u64().unwrap();
    assert!((1..=32).contains(&size), "{plan}");
    let measured = plan["sizing"]["measured"].as_array().unwrap();
    assert_eq!(measured[0]["batch"], 1);
    assert!(measured.iter().all(|m| m["images_per_second"].as_f64().unwrap() > 0.0), "{plan}");
    assert!(measured.iter().any(|m| m["batch"] == size), "what was chosen was measured: {plan}");
    assert!(daemon.log().contains("batch size found"), "{}", daemon.log());
    let metrics = daemon.get("/metrics").1;
    assert!(metrics.contains(&format!("vtagd_batch_max_size {size}")), "{metrics}");
    assert!(daemon.stop().success());
    assert!(daemon.log().contains("unaccounted=0"));
}

#[test]
fn two_sessions_share_the_batches_and_no_frame_is_unaccounted() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = "{ threads: 1, sessions: 2, batch: { max_size: 2 } }";
    // Played once: of a file that is stopped halfway, the frame that waits for room is counted as dropped by the stop.
    let once = config(folder.path(), runtime).replace("loop: true", "loop: false");
    // A camera that is not there keeps the daemon up when the file has ended.
    let once = once.replace("streams: [", "streams: [{ id: away, url: \"rtsp://127.0.0.1:9/\" }, ");
    let mut daemon = Daemon::start(folder.path(), &once);
    daemon.wait_ready();
    let ready: Value = serde_json::from_str(&daemon.get("/readyz").1).unwrap();
    assert_eq!((&ready["inference"]["sessions"], &ready["inference"]["threads"]), (&json!(2), &json!(1)), "{ready}");
    daemon.wait_for_log("sessions share the weights");
    crate::common::daemon::eventually("frames are inferred", || {
        let metrics = daemon.get("/metrics").1;
        let inferred = metrics.lines().find_map(|l| l.strip_prefix("vtagd_frames_inferred_total{stream=\"a\"} "))?;
        (inferred.parse::<u64>().unwrap() > 20).then_some(())
    });
    assert!(daemon.get("/metrics").1.contains("vtagd_inference_sessions 2"));
    daemon.wait_for_log("the file has ended");
    assert!(daemon.stop().success());
    let log = daemon.log();
    let accounts = log.lines().find(|line| line.contains("frames accounted stream=a ")).unwrap_or_default();
    assert!(accounts.contains("unaccounted=0") && accounts.contains("dropped={}"), "{log}");
}

#[test]
fn as_many_threads_prepare_pictures_as_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(folder.path(), &config(folder.path(), "{ threads: 1, preprocess_threads: 3 }"));
    daemon.wait_ready();
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let mut names: Vec<String> = tasks
        // A thread that ends meanwhile has no name any more.
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| name.starts_with("vtagd-prep-"))
        .collect();
    names.sort();
    assert_eq!(names, ["vtagd-prep-0", "vtagd-prep-1", "vtagd-prep-2"]);
    assert!(daemon.stop().success());
    assert!(daemon.log().contains("unaccounted=0"));
}

#[test]
fn sessions_that_are_to_be_found_are_measured_once_and_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "{ sessions: auto, batch: { max_size: 2 } }")
        .replace("pace: fast, loop: true", "enabled: false");
    let cores = std::thread::available_parallelism().unwrap().get();
    let kept = |folder: &Path| -> Vec<String> {
        let names = fs::read_dir(folder.join("cache")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("sessions-")).collect()
    };
    for start in 0..2 {
        let mut daemon = Daemon::start(folder.path(), &config);
        daemon.wait_ready();
        let ready: Value = serde_json::from_str(&daemon.get("/readyz").1).unwrap();
        let sessions = ready["inference"]["sessions"].as_u64().unwrap() as usize;
        assert!(daemon.stop().success());
        let log = daemon.log();
        if cores < 2 {
            assert_eq!((sessions, log.contains("sessions found")), (1, false), "{log}");
            continue;
        }
        assert!((1..=cores).contains(&sessions), "{ready}");
        assert_eq!(log.contains("sessions found"), start == 0, "measured at the first start only: {log}");
        assert_eq!(kept(folder.path()).len(), 1);
    }
}

#[test]
fn systemds_watchdog_is_fed_while_there_is_nothing_to_infer_and_both_health_pages_are_green() {
    let folder = tempfile::tempdir().unwrap();
    let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let text = config(folder.path(), "{}").replace("pace: fast, loop: true", "enabled: false");
    let file = folder.path().join("vtagd.yaml");
    fs::write(&file, text).unwrap();
    let mut command = vtagd(folder.path());
    command.arg("run").arg("-c").arg(&file).env("NOTIFY_SOCKET", folder.path().join("notify"));
    command.env("WATCHDOG_USEC", "300000").env_remove("WATCHDOG_PID");
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let (mut fed, mut ready) = (0, false);
    while fed < 3 {
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).expect("systemd is told");
        let heard = String::from_utf8_lossy(&buffer[..length]).into_owned();
        ready |= heard.contains("READY=1");
        fed += usize::from(heard == "WATCHDOG=1");
        assert!(fed == 0 || ready, "the watchdog begins when the service has started");
    }
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    let address = log.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("an address");
    for page in ["healthz", "livez"] {
        assert_eq!(ureq::get(format!("http://{address}/{page}")).call().unwrap().status().as_u16(), 200);
    }
    // SAFETY: plain system call, on the child that is not reaped yet.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    assert!(child.wait().unwrap().success());
}

#[test]
fn sessions_are_measured_side_by_side_in_a_child() {
    let folder = tempfile::tempdir().unwrap();
    let request = json!({
        "models": [{ "dir": root().join("models/starter"), "size": [224, 224] }],
        "batches": [2],
        "setup": { "provider": { "cpu": { "threads": null } }, "library": null, "threads": 0 },
        "what": { "splits": {
            "splits": [{ "sessions": 1, "threads": 2 }, { "sessions": 2, "threads": 1 }],
            "budget": { "secs": 0, "nanos": 50_000_000 },
        } },
    });
    let mut command = vtagd(folder.path());
    let mut child = command.arg("__bench").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{request}").unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let answers: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 3, "{answers:?}");
    for answer in &answers[..2] {
        assert!(answer["answer"]["split"].as_f64().unwrap() > 0.0, "{answer}");
    }
    assert_eq!(answers[2], "done");
}
