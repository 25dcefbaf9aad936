//! `/metrics` of a real daemon: every series is documented, Prometheus's checker agrees, and a GPU driver that hangs holds nobody up.
//! The driver is a stand-in that the test compiles.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::daemon::{Daemon, eventually, root};
use crate::common::promtool::promtool;
use vtagd::metrics::{Kind, METRICS, Values, values};

/// A camera's clip for ever, looked at five times a second.
fn config() -> String {
    format!(
        "streams:\n  - {{ id: a, url: \"file://{}\", loop: true, sampling: {{ interval: 200ms }} }}\n\
         \x20 - {{ id: off, url: \"rtsp://127.0.0.1:9/x\", enabled: false }}\n\
         labels: [{}, {}]\nevents: {{ after: 0s }}\nsinks: [{{ type: jsonl, path: \"-\" }}]\nsnapshots: {{ path: pictures }}\n\
         metrics: {{ scores: true }}\napi: {{ listen: 127.0.0.1:0 }}\n",
        root().join("demo/clip.mp4").display(),
        root().join("config/labels/demo.yaml").display(),
        root().join("config/labels/bottles.yaml").display()
    )
}

/// A folder with a driver's library for two GPUs that do not exist.
fn fake_driver(folder: &Path) -> PathBuf {
    let libraries = folder.join("lib");
    std::fs::create_dir(&libraries).unwrap();
    let source = root().join("tests/data/nvml/fake.c");
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(libraries.join("libnvidia-ml.so.1"))
        .arg(source)
        .output()
        .expect("a C compiler, which Debian's build-essential has");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    libraries
}

/// Names of the series with the names of their labels.
fn series(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, labels) = match line.split_once('{') {
            Some((name, rest)) => (name, rest.rsplit_once('}').unwrap().0),
            None => (line.split_once(' ').unwrap().0, ""),
        };
        // No value here holds `="`.
        let mut labels: BTreeSet<String> = labels
            .split("=\"")
            .filter_map(|part| part.rsplit([',', '"']).next())
            .map(ToOwned::to_owned)
            .filter(|label| !label.is_empty())
            .collect();
        let histogram = METRICS.iter().any(|(n, kind, ..)| *kind == Kind::Histogram && name.starts_with(n));
        let base = if histogram { name.rsplit_once('_').unwrap().0 } else { name };
        if histogram {
            labels.remove("le");
        }
        let known = found.entry(base.to_owned()).or_insert_with(|| labels.clone());
        assert_eq!(*known, labels, "series of {base} differ in their labels");
    }
    found
}

/// Every series that `text` has: name, and labels with their values.
fn labelled(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let one = |line: &str| {
        let (name, rest) = line.split_once('{')?;
        let labels = rest.rsplit_once('}').unwrap().0;
        let pairs = labels.split_inclusive("\",").map(|pair| {
            let (label, value) = pair.trim_end_matches(',').split_once('=').unwrap();
            (label.to_owned(), value[1..value.len() - 1].to_owned())
        });
        Some((name.to_owned(), pairs.collect()))
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(one).collect()
}

/// Values of labels that the list does not allow, with this configuration.
fn strange(text: &str) -> Vec<String> {
    let sets = ["demo", "bottles"];
    let labels = sets.map(|set| std::fs::read_to_string(root().join(format!("config/labels/{set}.yaml"))).unwrap());
    let fits = |metric: &str, label: &str, value: &str| match values(metric, label) {
        None => false,
        Some(Values::Words(words)) => words.contains(&value),
        Some(Values::Bounded { .. }) => match label {
            "stream" => ["a", "off"].contains(&value),
            "set" => sets.contains(&value),
            "label" => labels.iter().any(|text| text.contains(&format!("name: {value}"))),
            "sha256" => value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "sink" => ["jsonl-0", "outbox"].contains(&value),
            "version" => value == env!("CARGO_PKG_VERSION"),
            "model" => !value.is_empty(),
            "index" => value.parse::<usize>().is_ok_and(|index| index < 2),
            "name" => value.starts_with("Fake"),
            _ => false,
        },
    };
    let mut strange = Vec::new();
    for (name, labels) in labelled(text) {
        let histogram = METRICS.iter().find(|(n, kind, ..)| *kind == Kind::Histogram && name.starts_with(n));
        let metric = histogram.map_or(name.as_str(), |metric| metric.0);
        let ours = labels.iter().filter(|(label, _)| histogram.is_none() || label != "le");
        strange.extend(
            ours.filter(|(label, value)| !fits(metric, label, value)).map(|(l, v)| format!("{metric}{{{l}={v:?}}}")),
        );
    }
    strange
}

#[test]
fn a_label_or_value_that_nobody_declared_is_found() {
    for (series, is_strange) in [
        ("vtagd_stream_up{stream=\"a\"} 1", false),
        ("vtagd_stream_up{stream=\"10.0.0.1\"} 1", true),
        ("vtagd_frames_dropped_total{stream=\"a\",reason=\"superseded\"} 1", false),
        ("vtagd_frames_dropped_total{stream=\"a\",reason=\"it broke\"} 1", true),
        ("vtagd_events_dropped_total{sink=\"outbox\",reason=\"superseded\"} 1", true),
        ("vtagd_outbox_commit_seconds_bucket{le=\"0.1\"} 1", false),
        ("vtagd_gpu_memory_used_bytes{index=\"1\",name=\"Fake \\\"1\\\"\"} 1", false),
    ] {
        assert_eq!(!strange(series).is_empty(), is_strange, "{series}: {:?}", strange(series));
    }
}

#[test]
fn every_series_of_a_running_daemon_is_documented_with_its_labels_and_passes_prometheus_own_check() {
    let folder = tempfile::tempdir().unwrap();
    let libraries = fake_driver(folder.path());
    let mut daemon = Daemon::start_with_libraries(folder.path(), &config(), &libraries, &[]);
    daemon.wait_ready();
    let text = eventually("frames are looked at and the GPUs are read", || {
        let (_, text) = daemon.get("/metrics");
        let there = [
            "vtagd_batch_size_count",
            "vtagd_outbox_commit_seconds_count",
            "vtagd_events_total",
            "vtagd_gpu_memory_used_bytes",
            "vtagd_snapshots_bytes",
            "vtagd_stream_up{stream=\"a\"} 1",
        ];
        there.iter().all(|name| text.contains(name)).then_some(text)
    });

    let found = series(&text);
    let documented: BTreeMap<&str, BTreeSet<&str>> = METRICS
        .iter()
        .map(|(name, _, _, labels, _)| (*name, labels.split(", ").filter(|label| !label.is_empty()).collect()))
        .collect();
    for (name, labels) in &found {
        let known = documented.get(&**name).unwrap_or_else(|| panic!("{name} is not documented"));
        assert_eq!(labels.iter().map(String::as_str).collect::<BTreeSet<_>>(), *known, "labels of {name}");
    }
    assert!(labelled(&text).len() > 50, "{text}");
    assert_eq!(strange(&text), [] as [String; 0], "values of labels are bounded");
    // Only a reload makes the first, only an MQTT sink those of its prefix and of its pictures; a process may have no limit of files, and
    // here no tag has to wait for anything (`label_doubts.rs` has one that does) and nothing
    // is calibrated (`calibration.rs`) or has hours (`label_hours.rs`).
    let may_lack = [
        "vtagd_config_reloads_total",
        "vtagd_provider_refused",
        "process_max_fds",
        "vtagd_mqtt_prefix_owned",
        "vtagd_mqtt_pictures_skipped_total",
        "vtagd_starts_swallowed_total",
        "vtagd_labels_waiting",
        "vtagd_labels_inactive",
        "vtagd_calibration_drift",
        // Of an inference server, which `remote_server.rs` has.
        "vtagd_remote_up",
        "vtagd_remote_requests_total",
        "vtagd_remote_request_duration_seconds",
        "vtagd_remote_sent_bytes_total",
        "vtagd_remote_fallback_pictures_total",
    ];
    for name in documented.keys().filter(|name| !may_lack.contains(*name)) {
        assert!(found.contains_key(*name), "{name} is not there:\n{text}");
    }
    assert!(!text.contains("vtagd_stream_up{stream=\"off\"}"), "a stream that is switched off is not down:\n{text}");
    for line in [
        r#"vtagd_gpu_memory_used_bytes{index="0",name="Fake \"0\""} 700"#,
        r#"vtagd_gpu_memory_total_bytes{index="1",name="Fake \"1\""} 1000"#,
        r#"vtagd_gpu_utilization_ratio{index="0",name="Fake \"0\""} 0.42"#,
        r#"vtagd_frames_dropped_total{stream="a",reason="inference"} 0"#,
        "vtagd_inference_errors_total 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing:\n{text}");
    }
    assert!(!text.contains("vtagd_gpu_utilization_ratio{index=\"1\""), "it does not tell:\n{text}");
    promtool(folder.path(), &["check", "metrics"], &text).unwrap_or_else(|said| panic!("{said}"));
    assert!(daemon.stop().success());
}

#[test]
fn a_gpu_driver_that_hangs_takes_its_series_away_and_holds_neither_metrics_nor_the_end_up() {
    let folder = tempfile::tempdir().unwrap();
    let libraries = fake_driver(folder.path());
    let hang = folder.path().join("hang");
    let env = [("FAKE_NVML_HANG", hang.as_path())];
    let mut daemon = Daemon::start_with_libraries(folder.path(), &config(), &libraries, &env);
    daemon.wait_ready();
    let told = |daemon: &mut Daemon| daemon.get("/metrics").1.contains("vtagd_gpu_");
    eventually("the GPUs are read", || told(&mut daemon).then_some(()));
    std::fs::write(&hang, "").unwrap();
    // `get` gives up after ten seconds, so each of these looks is an answer in time.
    eventually("what the driver said last is told no more", || (!told(&mut daemon)).then_some(()));
    assert!(daemon.get("/metrics").1.contains("process_cpu_seconds_total"));
    assert!(daemon.stop().success(), "it is not the daemon's failure");
    assert!(daemon.log().contains("GPU monitor"), "who was left behind is named");
}

#[test]
fn a_machine_without_a_gpu_has_no_gpu_series_and_says_so_at_debug_level_only() {
    let folder = tempfile::tempdir().unwrap();
    // A library that cannot be loaded is as good as none, also where the test machine has a GPU.
    let libraries = folder.path().join("lib");
    std::fs::create_dir(&libraries).unwrap();
    std::fs::write(libraries.join("libnvidia-ml.so.1"), "not a library").unwrap();
    let env = [("VTAGD_LOG", Path::new("debug"))];
    let mut daemon = Daemon::start_with_libraries(folder.path(), &config(), &libraries, &env);
    daemon.wait_ready();
    daemon.wait_for_log("no GPU metrics");
    assert!(!daemon.get("/metrics").1.contains("vtagd_gpu_"));
    assert!(daemon.stop().success());
    let log = daemon.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("no GPU metrics")).collect();
    assert!(lines.len() == 1 && lines[0].contains("DEBUG"), "{lines:?}");
}
