//! `vtagd bench` as a user runs it: real models, real child processes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::daemon::{eventually, root, vtagd};
use serde_json::Value;

fn bench(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = vtagd(folder);
    command.arg("bench").args(arguments);
    command
}

fn report(mut command: Command) -> Value {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Holds every result against what must be true of any; the pairs of precision and batch size.
fn pairs(report: &Value) -> Vec<(String, u64)> {
    let check = |result: &Value| {
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("a number is missing in {result}"));
        let (p50, p99) = (number(&result["latency_ms"]["p50"]), number(&result["latency_ms"]["p99"]));
        assert!(p50 > 0.0 && p50 <= p99, "{result}");
        let speed = number(&result["images_per_second"]);
        assert!(speed > 0.0 && number(&result["cameras"]) <= speed, "{result}");
        assert!(number(&result["rss_bytes"]) > 10e6, "the runtime alone is larger: {result}");
        assert!(number(&result["rss_peak_bytes"]) >= number(&result["rss_bytes"]), "{result}");
        let rounds = result["rounds"].as_array().unwrap();
        assert!(rounds.len() >= 2 && rounds.len() as f64 <= number(&result["runs"]), "{result}");
        (result["precision"].as_str().unwrap().to_owned(), result["batch"].as_u64().unwrap())
    };
    report["results"].as_array().unwrap().iter().map(check).collect()
}

/// Folders of made-up weights that are there now.
fn drafts(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder.join("cache")) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("bench-")).collect()
}

/// A running bench with its log in `folder/stderr`.
struct Running {
    process: Child,
    folder: PathBuf,
}

impl Running {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let log = File::create(folder.join("stderr")).unwrap();
        let mut command = bench(folder, arguments);
        command.env("VTAGD_LOG", "info").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self { process: command.spawn().unwrap(), folder: folder.to_owned() }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("stderr")).unwrap()
    }

    /// The process that measures speed, once it runs its models.
    fn measuring(&mut self) -> i32 {
        eventually("a model is warm", || {
            assert!(self.process.try_wait().unwrap().is_none(), "ended early:\n{}", self.log());
            self.log().contains("image tower warm").then_some(())
        });
        let children = format!("/proc/{0}/task/{0}/children", self.process.id());
        fs::read_to_string(children).unwrap().trim().parse().expect("exactly one child")
    }

    /// Waits for its end; exit code and log.
    fn end(&mut self) -> (Option<i32>, String) {
        let status = eventually("the bench ends", || self.process.try_wait().unwrap());
        (status.code(), self.log())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: plain system call on a process that this test started and that has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

#[test]
fn a_raw_checkpoint_is_measured_under_the_precision_it_was_imported_in() {
    let folder = tempfile::tempdir().unwrap();
    let model = root().join("tests/conformance/checkpoints/hf-clip-quickgelu");
    let mut command = bench(folder.path(), &["--batch", "4,1,4", "--seconds", "0.05", "--threads", "1", "--json"]);
    command.arg("-m").arg(model);
    let report = report(command);
    assert_eq!(report["model"], "hf-clip-quickgelu");
    assert_eq!(report["provider"], "cpu");
    assert_eq!(report["threads"], 1);
    assert_eq!(pairs(&report), [("fp32".to_owned(), 1), ("fp32".to_owned(), 4)]);

    let best = &report["best"];
    let of_it = |row: &&Value| row["precision"] == best["precision"] && row["batch"] == best["batch"];
    let row = report["results"].as_array().unwrap().iter().find(of_it).unwrap();
    assert_eq!((&best["images_per_second"], &best["cameras"]), (&row["images_per_second"], &row["cameras"]));
    let yaml = best["yaml"].as_str().unwrap();
    assert!(yaml.contains("threads: 1") && yaml.contains(&format!("max_size: {}", best["batch"])), "{yaml}");
    check_as_configuration(folder.path(), yaml);
}

#[test]
fn an_architecture_is_measured_in_every_precision_without_a_download_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let arguments =
        ["--arch", "vit-b-32", "--precision", "fp32,int8,fp32", "--batch", "1,2", "--seconds", "0.2", "--json"];
    let report = report(bench(folder.path(), &arguments));
    assert_eq!(report["model"], "vit-b-32");
    let wanted = [("fp32", 1), ("fp32", 2), ("int8", 1), ("int8", 2)];
    assert_eq!(pairs(&report), wanted.map(|(precision, batch)| (precision.to_owned(), batch)));
    let memory = |index: usize| report["results"][index]["rss_bytes"].as_f64().unwrap();
    assert!(memory(0) > memory(2) + 150e6, "each precision is told its own memory: {report}");
    assert_eq!(drafts(folder.path()), [] as [PathBuf; 0]);
}

#[test]
fn the_table_ends_with_what_to_write_into_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let output = bench(folder.path(), &["--batch", "1", "--seconds", "0.05"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "starter, cpu, all cores");
    assert!(lines[1].starts_with("precision") && lines[2].starts_with("unknown"), "{text}");
    let hint = lines.iter().find(|line| line.starts_with("runtime: ")).unwrap();
    check_as_configuration(folder.path(), hint);
}

/// Pastes `lines` into a configuration, which must then be right.
fn check_as_configuration(folder: &Path, lines: &str) {
    let config = format!(
        "{lines}\nstreams: [{{ id: a, url: \"file://{}\" }}]\nlabels: [{}]\n",
        root().join("demo/clip.mp4").display(),
        root().join("config/labels/demo.yaml").display()
    );
    let file = folder.join("vtagd.yaml");
    fs::write(&file, config).unwrap();
    let output =
        vtagd(folder).env("VTAGD__API__LISTEN", "127.0.0.1:0").args(["check", "-c"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn ctrl_c_in_the_middle_of_a_measurement_removes_the_weights_and_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--arch", "vit-b-32", "--precision", "fp32", "--batch", "2", "--seconds", "600"];
    let mut running = Running::start(folder.path(), &arguments);
    let child = running.measuring();
    assert_eq!(drafts(folder.path()).len(), 1);
    signal(running.process.id() as i32, libc::SIGINT);
    let (code, log) = running.end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("error: stopped"), "{log}");
    assert_eq!(drafts(folder.path()), [] as [PathBuf; 0]);
    assert!(!Path::new(&format!("/proc/{child}")).exists(), "the measuring process is reaped");
}

#[test]
fn ctrl_c_while_weights_are_written_removes_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::start(folder.path(), &["--arch", "vit-h-14", "--precision", "fp32"]);
    eventually("writing has begun", || {
        let written = drafts(folder.path()).first()?.join("fp32/vision_model.onnx_data");
        written.exists().then_some(())
    });
    signal(running.process.id() as i32, libc::SIGINT);
    let (code, log) = running.end();
    assert!(code == Some(1) && log.contains("error: stopped"), "{code:?}: {log}");
    assert_eq!(drafts(folder.path()), [] as [PathBuf; 0]);
}

#[test]
fn a_measuring_process_that_the_kernel_kills_is_told_and_nothing_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::start(folder.path(), &["--seconds", "600"]);
    let child = running.measuring();
    signal(child, libc::SIGKILL);
    let (code, log) = running.end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("error: the measuring process was killed; is there enough memory?"), "{log}");
}

#[test]
fn wrong_input_ends_with_code_2_and_names_the_choices() {
    let folder = tempfile::tempdir().unwrap();
    let wrong: [(&[&str], &str); 11] = [
        (&["--arch", "vit-x-1"], "vit-h-14"),
        (&["--arch", "vit-b-32", "--precision", "int3"], "int4"),
        (&["--batch", "0"], "1..=1024"),
        (&["--batch", "8,1025"], "1..=1024"),
        (&["--batch", ""], "--batch"),
        (&["--seconds", "0"], "seconds"),
        (&["--threads", "1025"], "1024"),
        (&["--provider", "abacus"], "openvino"),
        (&["-m", "models/starter", "--arch", "vit-b-32"], "--arch"),
        (&["-m", "models/starter", "--precision", "int8"], "--precision"),
        (&["-m", "/no/such/model"], "/no/such/model"),
    ];
    for (arguments, told) in wrong {
        let output = bench(folder.path(), arguments).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(told) && output.stdout.is_empty(), "{arguments:?}: {message}");
    }
}

#[test]
fn a_provider_that_the_runtime_does_not_have_is_an_error_and_not_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let output = bench(folder.path(), &["--provider", "openvino", "--seconds", "0.05"]).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("openvino") && output.stdout.is_empty(), "{message}");
}

#[test]
fn a_cache_that_cannot_be_written_is_told_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cache"), "a file").unwrap();
    let output = bench(folder.path(), &["--arch", "vit-b-32"]).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("cannot be written") && message.contains("VTAGD_CACHE"), "{message}");
}
