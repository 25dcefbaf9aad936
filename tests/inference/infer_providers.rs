//! Execution providers on the real binary: what computes, what was refused and why, told in the log, `/readyz`, the metrics and
//! `bench`. One process holds one runtime library, so every case is a process of its own.
//!
//! Cases that need OpenVINO or the CUDA build run where `make runtime-openvino` or `make runtime-cuda` has been.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use crate::common::daemon::{DEADLINE, Daemon, eventually, root, vtagd};
use serde_json::{Value, json};
use vtagd::platform::processor::Processor;

/// The library of a runtime that a make target fetches, or `None` with a message.
fn library(kind: &str) -> Option<PathBuf> {
    let file = root().join(format!("runtime-{kind}/libonnxruntime.so"));
    if file.is_file() {
        return Some(file);
    }
    eprintln!("skipped: run `make runtime-{kind}` first, {} is not there", file.display());
    None
}

/// A small checkpoint, imported with everything that an import measures.
fn bundle(folder: &Path, precision: &str) -> PathBuf {
    let out = folder.join(precision);
    let checkpoint = root().join("tests/conformance/checkpoints/hf-clip-quickgelu");
    let output = vtagd(folder).args(["model", "import", "-p", precision, "--out"]).arg(&out).arg(checkpoint).output();
    assert!(output.as_ref().unwrap().status.success(), "{output:?}");
    out
}

fn bench(folder: &Path, model: &Path, arguments: &[&str]) -> Output {
    let mut command = vtagd(folder);
    command.args(["bench", "--batch", "1,4", "--seconds", "0.05", "--json", "-m"]).arg(model).args(arguments);
    command.env("VTAGD_LOG", "info").output().unwrap()
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What it said before it failed.
fn failure(output: &Output) -> String {
    assert!(!output.status.success() && output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().rfind(|line| line.starts_with("error: ")).expect("an error").to_owned()
}

/// Turns the embeddings that the bundle knows of its probe picture around.
fn spoil_probe(bundle: &Path) {
    let file = bundle.join("vtagd.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for name in ["embedding", "own"] {
        if let Some(values) = manifest["probe"][name].as_array_mut() {
            values.iter_mut().for_each(|value| *value = json!(-value.as_f64().unwrap()));
        }
    }
    fs::write(&file, manifest.to_string()).unwrap();
}

fn config(folder: &Path, runtime: &str) -> String {
    fs::write(folder.join("things.yaml"), "set: things\nlabels: [{ name: cat }]\nbackground: [a room]\n").unwrap();
    // A camera that is never there: the daemon stays up until it is told to stop.
    format!(
        "runtime: {runtime}\nstreams: [{{ id: a, url: \"rtsp://127.0.0.1:9/none\", enabled: false }}, {{ id: b, url: \"rtsp://127.0.0.1:9/none\" }}]\nlabels: [things.yaml]\nreconnect: {{ first: 60s }}\napi: {{ listen: \"127.0.0.1:0\" }}\n"
    )
}

#[test]
fn every_precision_passes_its_own_probe_on_the_cpu_and_a_spoilt_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for precision in ["fp32", "fp16", "int8", "int4"] {
        let model = bundle(folder.path(), precision);
        let manifest: Value = serde_json::from_slice(&fs::read(model.join("vtagd.json")).unwrap()).unwrap();
        assert_eq!(manifest["probe"]["own"].is_array(), precision != "fp32", "{precision}");
        let output = bench(folder.path(), &model, &[]);
        assert_eq!(report(&output)["provider"], "cpu");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let cosine = log.split("cosine=").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("a cosine");
        assert!(cosine.parse::<f32>().unwrap() > 0.999, "{precision}: {cosine}");

        spoil_probe(&model);
        let told = failure(&bench(folder.path(), &model, &[]));
        assert!(told.contains("vision_model.onnx") && told.contains("belongs to another model"), "{told}");
        assert!(told.contains("cosine -") && told.contains("import the model again"), "{told}");
    }
}

#[test]
fn what_was_refused_is_told_wherever_one_looks() {
    let folder = tempfile::tempdir().unwrap();
    let config =
        config(folder.path(), "{ providers: [{ tensorrt: { fp16: true } }, cuda, openvino, { cpu: { threads: 1 } }] }");
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    daemon.wait_for_log("nobody listens on its port");
    let ready: Value = serde_json::from_str(&daemon.get("/readyz").1).unwrap();
    assert_eq!(ready["provider"], "cpu");
    let refused = ready["refused"].as_array().unwrap();
    let names: Vec<&str> = refused.iter().map(|r| r["provider"].as_str().unwrap()).collect();
    assert_eq!(names, ["tensorrt", "cuda", "openvino"]);
    for (index, wheel) in ["onnxruntime-gpu", "onnxruntime-gpu", "onnxruntime-openvino"].iter().enumerate() {
        let reason = refused[index]["reason"].as_str().unwrap();
        assert!(reason.contains(wheel) && reason.contains("make runtime-"), "{reason}");
    }
    let metrics = daemon.get("/metrics").1;
    for provider in names {
        assert!(metrics.contains(&format!("vtagd_provider_refused{{provider=\"{provider}\"}} 1")), "{metrics}");
    }
    assert!(metrics.contains("provider=\"cpu\""), "{metrics}");
    assert_eq!(daemon.log().lines().filter(|line| line.contains("provider refused")).count(), 3);
    assert!(daemon.stop().success());
}

#[test]
fn strict_without_the_first_provider_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "{ providers: [openvino, cpu], strict: true }");
    let mut daemon = Daemon::start(folder.path(), &config);
    assert_eq!(daemon.wait().code(), Some(1));
    let log = daemon.log();
    assert!(log.contains("runtime.strict") && log.contains("make runtime-openvino"), "{log}");
}

#[test]
fn systemd_is_told_of_the_start_and_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let file = folder.path().join("vtagd.yaml");
    fs::write(&file, config(folder.path(), "{}")).unwrap();
    let mut command = vtagd(folder.path());
    command.arg("run").arg("-c").arg(&file).env("NOTIFY_SOCKET", folder.path().join("notify"));
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let mut heard = String::new();
    let mut wait_for = |wanted: &str| {
        while !heard.contains(wanted) {
            let mut buffer = [0; 1024];
            let length = socket.recv(&mut buffer).expect("systemd is told");
            heard.push_str(&String::from_utf8_lossy(&buffer[..length]));
            heard.push('\n');
        }
    };
    wait_for("STATUS=loading the model");
    wait_for("READY=1");
    // A connection that is stopped in the middle of being made is the source's business, not this test's.
    let log = folder.path().join("log");
    eventually("the camera is found to be away", || {
        fs::read_to_string(&log).unwrap().contains("nobody listens on its port").then_some(())
    });
    // SAFETY: plain system call on a process that this test started and has not waited for.
    assert_eq!(unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGTERM) }, 0);
    wait_for("STOPPING=1");
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}: {}", fs::read_to_string(&log).unwrap());
}

#[test]
fn openvino_computes_passes_the_probe_and_says_so() {
    let Some(library) = library("openvino") else { return };
    let library = library.display().to_string();
    let folder = tempfile::tempdir().unwrap();
    let model = bundle(folder.path(), "fp32");
    for precision in ["f32", "bf16", "auto"] {
        let option = format!("precision={precision}");
        let arguments = [
            "--provider",
            "openvino",
            "--library",
            &library,
            "--provider-option",
            &option,
            "--provider-option",
            "threads=1",
        ];
        let output = bench(folder.path(), &model, &arguments);
        let report = report(&output);
        assert_eq!(report["provider"], "openvino");
        let options = report["provider_options"].as_str().unwrap();
        assert!(options.contains(&option) && options.contains("threads=1"), "{options}");
        assert_eq!(report["results"].as_array().unwrap().len(), 2);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(log.contains("nodes placed") && log.contains("OpenVINO"), "{log}");
        assert!(!log.contains("placement=CPU"), "the whole graph is OpenVINO's: {log}");
    }
    spoil_probe(&model);
    let told = failure(&bench(folder.path(), &model, &["--provider", "openvino", "--library", &library]));
    assert!(told.contains("it computes something else") && told.contains("cosine -"), "{told}");
}

#[test]
fn a_daemon_falls_through_to_openvino() {
    let Some(library) = library("openvino") else { return };
    let folder = tempfile::tempdir().unwrap();
    let runtime = format!("{{ library: \"{}\", providers: [cuda, openvino, cpu] }}", library.display());
    let mut daemon = Daemon::start(folder.path(), &config(folder.path(), &runtime));
    daemon.wait_ready();
    daemon.wait_for_log("nobody listens on its port");
    let ready: Value = serde_json::from_str(&daemon.get("/readyz").1).unwrap();
    assert_eq!(ready["provider"], "openvino", "{ready}");
    assert_eq!(ready["refused"][0]["provider"], "cuda");
    assert!(daemon.stop().success());
}

/// oneDNN, with which OpenVINO computes on x86-64, honours it: the processor keeps its flags and loses the instructions behind them.
const WITHOUT_BF16: (&str, &str) = ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE");

#[test]
fn openvino_measures_bf16_before_it_believes_a_flag_and_remembers_that() {
    let Some(library) = library("openvino") else { return };
    let folder = tempfile::tempdir().unwrap();
    let runtime = format!("{{ library: \"{}\", threads: 1, providers: [openvino] }}", library.display());
    let start = || {
        let mut daemon = Daemon::start_with_env(folder.path(), &config(folder.path(), &runtime), &[WITHOUT_BF16]);
        daemon.wait_ready();
        daemon.wait_for_log("nobody listens on its port");
        assert!(daemon.stop().success());
        daemon.log()
    };
    let field = |log: &str, name: &str| {
        let line =
            log.lines().find(|line| line.contains("openvino precision found")).unwrap_or_else(|| panic!("{log}"));
        let rest = line.split(&format!(" {name}=")).nth(1).unwrap_or_else(|| panic!("{line}"));
        rest.trim_start_matches('"').split([' ', '"', '/', ',']).next().unwrap().to_owned()
    };
    let log = start();
    if !Processor::this().bf16 {
        assert!(log.contains("no instructions for bf16") && log.contains("precision=auto(f32)"), "{log}");
        return;
    }
    let rate = |name: &str| {
        let line =
            log.lines().find(|line| line.contains("openvino precision found")).unwrap_or_else(|| panic!("{log}"));
        let rest = line.split(&format!("{name}: ")).nth(1).unwrap_or_else(|| panic!("{line}"));
        rest.split('/').next().unwrap().parse::<f64>().unwrap()
    };
    let faster = if rate("bf16") >= rate("f32") * 1.1 { "bf16" } else { "f32" };
    assert_eq!((field(&log, "precision"), field(&log, "remembered")), (faster.to_owned(), "false".to_owned()), "{log}");
    assert!(log.contains(&format!("precision=auto({faster})")), "{log}");
    let log = start();
    assert_eq!((field(&log, "precision"), field(&log, "remembered")), (faster.to_owned(), "true".to_owned()), "{log}");
}

#[test]
fn a_provider_that_cannot_work_here_says_what_is_missing_and_nothing_takes_its_place() {
    // (runtime, what a machine has where it could work, provider, option, what is told)
    for (kind, hardware, provider, option, told) in [
        ("openvino", "/dev/dri", "openvino", Some("device=GPU"), ["openvino: it does not start", "`device`"]),
        ("cuda", "/dev/nvidiactl", "cuda", None, [" is missing: it belongs to ", "cuda"]),
        ("cuda", "/dev/nvidiactl", "tensorrt", None, [" is missing: it belongs to ", "tensorrt"]),
    ] {
        let Some(library) = library(kind) else { continue };
        if Path::new(hardware).exists() {
            eprintln!("skipped: with {hardware} this machine may have what {provider} needs");
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let library = library.display().to_string();
        let mut arguments = vec!["--provider", provider, "--library", &library];
        arguments.extend(option.iter().flat_map(|option| ["--provider-option", option]));
        let output = bench(folder.path(), Path::new("models/starter"), &arguments);
        let failure = failure(&output);
        assert!(told.iter().all(|part| failure.contains(part)), "{provider}: {failure}");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!log.contains("building the TensorRT engine"), "nothing is announced that cannot begin: {log}");
    }
}

#[test]
fn wrong_provider_options_end_with_code_2_before_anything_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    for (provider, option, told) in [
        ("openvino", "precison=bf16", "did you mean `precision`"),
        ("cuda", "fp16=true", "--precision fp16"),
        ("cpu", "threads", "NAME=VALUE"),
    ] {
        let arguments = ["--provider", provider, "--provider-option", option];
        let output = bench(folder.path(), Path::new("models/starter"), &arguments);
        assert_eq!(output.status.code(), Some(2));
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains(told), "{message}");
    }
    let output = bench(folder.path(), Path::new("models/starter"), &["--library", "/no/such.so"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(failure(&output).contains("/no/such.so"));
}
