//! `benches/gpu.sh` where there is no GPU: everything of it that needs none, with programs that stand for vtagd, the driver and PyTorch.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/gpu.sh");
const DRIVER: &str =
    r#"case "$*" in *-lms*) while echo 2048; do sleep 0.1; done ;; *) echo "Fake GPU, 580.1, 143771, 4" ;; esac"#;
/// It makes what it is asked for, measures two batch sizes, and cannot run as a daemon.
const VTAGD: &str = r#"
case $1 in
    --version) echo "vtagd 9.9" ;;
    model) [ "$2 $3" = "import synthetic:vit-b-32" ] || { echo "error: no $3" >&2; exit 1; } ;;
    bench)
        case "$*" in *tensorrt*) echo "error: tensorrt does not start" >&2; exit 1 ;; esac
        echo 'INFO image tower loaded model=x provider="cuda" cosine=0.999870 seconds=1' >&2
        echo '{"results":[{"batch":1,"images_per_second":500.0,"latency_ms":{"p50":2,"p99":3},"rss_bytes":1},
               {"batch":8,"images_per_second":1500.0,"latency_ms":{"p50":5,"p99":6},"rss_bytes":1}]}' ;;
    run) echo "error: no element y4mdec" >&2; exit 1 ;;
esac"#;
/// Python, with a PyTorch that knows one batch size of each way.
const PEER: &str = r#"
case $1 in
    *gpu_torch.py)
        echo '{"what": "PyTorch 9"}'
        echo '{"way": "eager", "batch": 8, "images_per_second": 1000.0, "gpu_bytes": 7}'
        echo '{"way": "compiled", "batch": 8, "images_per_second": 2000.0, "gpu_bytes": 7}'
        echo '{"way": "graph", "batch": 8, "reason": "no graphs today"}' ;;
    *) exec python3 "$@" ;;
esac"#;
/// Python without anything that is installed, PyTorch for one.
const BARE: &str = r#"exec python3 -S "$@""#;

/// A folder with programs that stand for others.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        for (name, body) in [("nvidia-smi", DRIVER), ("vtagd", VTAGD), ("peer", PEER), ("bare", BARE)] {
            bench.program(name, body);
        }
        fs::create_dir(bench.path("runtime")).unwrap();
        fs::write(bench.path("runtime/libonnxruntime.so"), "a library").unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn program(&self, name: &str, body: &str) {
        fs::write(self.path(name), format!("#!/usr/bin/env bash\n{body}\n")).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The exit code and what was said, without the lines that tell how far it is.
    fn script(&self, python: &str, arguments: &[&str]) -> (i32, String) {
        let path = format!("{}:{}", self.0.path().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(SCRIPT);
        command
            .args(arguments)
            .current_dir(self.0.path())
            .env("PATH", path)
            .env("VTAGD_PEER_PYTHON", self.path(python));
        said(&mut command)
    }

    /// Runs it with the programs of this folder; the exit code, what was said and the report.
    fn run(&self, python: &str, more: &[&str]) -> (i32, String, Value) {
        let mut arguments = vec!["run", "--archs", "vit-b-32", "--batches", "1,8", "--out", "out.json"];
        arguments.extend(more);
        let (code, said) = self.script(python, &arguments);
        let report = fs::read(self.path("out.json")).unwrap_or_else(|e| panic!("no report: {e}: {said}"));
        (code, said, serde_json::from_slice(&report).unwrap())
    }
}

fn said(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code().unwrap(), text.lines().filter(|line| !line.ends_with(" left")).collect::<Vec<_>>().join("\n"))
}

/// The rows of a step.
fn rows<'a>(report: &'a Value, step: &str) -> Vec<&'a Value> {
    report["rows"].as_array().unwrap().iter().filter(|row| row["step"] == step).collect()
}

/// The only row of a step: its status and reason.
fn told<'a>(report: &'a Value, step: &str) -> (&'a str, &'a str) {
    let found = rows(report, step);
    assert_eq!(found.len(), 1, "{step}: {report}");
    (found[0]["status"].as_str().unwrap(), found[0]["reason"].as_str().unwrap_or_default())
}

#[test]
fn without_a_driver_nothing_is_measured_and_every_row_says_why() {
    let bench = Bench::new();
    bench.program("nvidia-smi", "echo 'NVIDIA-SMI has failed: no devices'; exit 9");
    let (code, said, report) = bench.run("bare", &[]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("no NVIDIA driver: nothing measured") && said.contains("no devices"), "{said}");
    for step in ["driver", "cuda", "pytorch", "daemon", "tensorrt"] {
        let (status, reason) = told(&report, step);
        assert!(status == "missing" && reason.contains("no NVIDIA driver"), "{step}: {reason}");
    }
}

#[test]
fn a_machine_without_nvidia_smi_is_told_in_the_same_words() {
    if Path::new("/usr/local/nvidia/bin/nvidia-smi").exists() {
        eprintln!("skipped: this machine has an nvidia-smi where it is always looked for");
        return;
    }
    let bench = Bench::new();
    let tools = bench.path("tools");
    fs::create_dir(&tools).unwrap();
    let python = r#"python3 -c "import sys; print(sys.executable)""#; // what is first on the path may be a script that needs more
    for (tool, which) in [("bash", "command -v bash"), ("dirname", "command -v dirname"), ("python3", python)] {
        let (_, found) = said(Command::new("bash").args(["-c", which]));
        symlink(found, tools.join(tool)).unwrap();
    }
    let mut command = Command::new(SCRIPT);
    command.args(["run", "--out", "out.json"]).current_dir(bench.0.path()).env("PATH", &tools);
    let (code, said) = said(command.env_remove("VTAGD_PEER_PYTHON"));
    assert!(code == 1 && said.starts_with("no NVIDIA driver: nothing measured"), "{code}: {said}");
    let report: Value = serde_json::from_slice(&fs::read(bench.path("out.json")).unwrap()).unwrap();
    assert_eq!(rows(&report, "cuda").len(), 3, "one for each model: {report}");
}

#[test]
fn what_is_there_is_measured_and_what_is_missing_is_a_row() {
    let bench = Bench::new();
    let given = ["--vtagd", "vtagd", "--library", "runtime/libonnxruntime.so"];
    let (code, said, report) = bench.run("peer", &given);
    assert_eq!(code, 0, "{said}");
    assert_eq!(report["machine"]["gpu"], "Fake GPU");
    assert_eq!(report["machine"]["pytorch"], "PyTorch 9");
    let cuda = rows(&report, "cuda");
    assert_eq!((&cuda[0]["what"], &cuda[0]["cosine"]), (&json!("probe"), &json!(0.99987)));
    assert_eq!(
        (&cuda[2]["batch"], &cuda[2]["images_per_second"], &cuda[2]["precision"]),
        (&json!(8), &json!(1500.0), &json!("fp16"))
    );
    let torch = rows(&report, "pytorch");
    assert_eq!((&torch[2]["by"], &torch[2]["status"]), (&json!("PyTorch graph"), &json!("failed")));
    let (status, reason) = told(&report, "daemon");
    assert!(status == "failed" && reason.contains("no element y4mdec"), "{reason}");
    assert_ne!(told(&report, "tensorrt").0, "measured");

    let line = |begins: &str| {
        let found = said.lines().find(|line| line.starts_with(begins)).unwrap_or_else(|| panic!("no {begins}: {said}"));
        found[begins.len()..].split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(line("vit-b-32, fp16, images/s"), ["batch", "1", "batch", "8"]);
    assert_eq!(line("vtagd cuda "), ["500.0", "1500.0"]);
    assert_eq!(line("PyTorch compiled "), ["-", "2000.0"]);
    assert_eq!(line("vtagd cuda, of the best PyTorch"), ["-", "0.75"]);
    assert!(said.contains("probe, cosine with the CPU: vit-b-32 vtagd cuda 0.999870"), "{said}");
    assert!(said.contains("  pytorch, vit-b-32, PyTorch graph, batch 8: failed: no graphs today"), "{said}");

    // The same table again, from the file.
    let (code, again) = bench.script("bare", &["table", "out.json"]);
    assert!(code == 0 && said.ends_with(again.trim_end()), "{again}\nis not the end of\n{said}");
}

#[test]
fn a_machine_without_vtagd_and_pytorch_has_a_row_for_each() {
    let bench = Bench::new();
    bench.program("broken", "echo 'vtagd: error while loading shared libraries: libgstreamer-1.0.so.0' >&2; exit 127");
    let (code, said, report) = bench.run("bare", &["--vtagd", "broken", "--library", "runtime/libonnxruntime.so"]);
    assert_eq!(code, 1, "nothing was measured: {said}");
    assert!(told(&report, "program").1.contains("libgstreamer-1.0.so.0"), "{said}");
    for step in ["cuda", "daemon"] {
        assert!(told(&report, step).1.contains("vtagd does not run here"), "{said}");
    }
    let (status, reason) = told(&report, "tensorrt");
    assert!(status != "measured" && !reason.contains("KeyError") && !reason.contains("LD_LIBRARY_PATH"), "{reason}");
    let (status, reason) = told(&report, "pytorch");
    assert!(status == "missing" && reason.starts_with("no PyTorch"), "{reason}");
}

#[test]
fn what_takes_too_long_is_ended_and_what_comes_after_it_has_a_row() {
    let bench = Bench::new();
    let slow = VTAGD.replace("    bench)", "    bench)\n        echo $$ >>pids; sleep 900");
    bench.program("vtagd", &slow.replace("pids", &bench.path("pids").display().to_string()));
    let given = ["--vtagd", "vtagd", "--library", "runtime/libonnxruntime.so", "--limit", "30"];
    let (code, said, report) = bench.run("peer", &given);
    assert_eq!(code, 1, "{said}");
    for step in ["cuda", "pytorch", "daemon"] {
        assert_eq!(told(&report, step).0, "no time", "{said}");
    }
    // Where the time was up before it began there are none.
    let pids = fs::read_to_string(bench.path("pids")).unwrap_or_default();
    for pid in pids.lines() {
        assert!(!Path::new("/proc").join(pid).exists(), "{pid} was left behind");
    }
}

/// A pack of the fake program, runtime and a wheel with one module, in small pieces.
fn packed(bench: &Bench) -> Vec<PathBuf> {
    // No plug-ins: they are megabytes.
    bench.program("pkg-config", "echo /no/such/folder");
    let zip = "import os, zipfile; zipfile.ZipFile('fake-1-py3-none-any.whl', 'w').writestr('fake.py', '# ' + os.urandom(3000).hex())";
    let (code, told) = said(Command::new("python3").args(["-c", zip]).current_dir(bench.0.path()));
    assert_eq!(code, 0, "{told}");
    let given = [
        "pack",
        "pack",
        "--vtagd",
        "vtagd",
        "--runtime",
        "runtime",
        "--wheel",
        "fake-1-py3-none-any.whl",
        "--piece",
        "1000",
    ];
    let (code, told) = bench.script("bare", &given);
    assert!(code == 0 && told.contains("fake-1-py3-none-any.whl: 0.0 MB in 7 piece(s)"), "{told}");
    assert!(told.contains("without the plug-ins coreelements"), "{told}");
    let mut pieces: Vec<_> = fs::read_dir(bench.path("pack")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pieces.sort();
    assert!(
        pieces.iter().all(|piece| piece.ends_with("pack.json") || piece.metadata().unwrap().len() <= 1000),
        "{pieces:?}"
    );
    pieces
}

#[test]
fn a_pack_whose_pieces_came_in_several_folders_is_put_together_and_used() {
    let bench = Bench::new();
    let pieces = packed(&bench);
    fs::create_dir(bench.path("later")).unwrap();
    for piece in pieces.iter().skip(1).step_by(2) {
        fs::rename(piece, bench.path("later").join(piece.file_name().unwrap())).unwrap();
    }
    // Python says whether the wheel's module is there; nothing but the pack has a vtagd.
    bench.program(
        "peer",
        &PEER.replace("echo '{\"what\"", "python3 -c 'import fake' || exit 7\n        echo '{\"what\""),
    );
    fs::remove_file(bench.path("vtagd")).unwrap();
    let (code, said, report) = bench.run("peer", &["--pack", "pack", "--pack", "later"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(report["machine"]["vtagd"], "vtagd 9.9");
    assert!(rows(&report, "pack").is_empty() && rows(&report, "program").is_empty(), "{said}");
    assert_eq!(rows(&report, "pytorch")[1]["images_per_second"], 2000.0, "{said}");
}

#[test]
fn pieces_that_are_damaged_or_did_not_arrive_are_named_and_their_archives_not_used() {
    let bench = Bench::new();
    packed(&bench);
    fs::remove_file(bench.path("vtagd")).unwrap();
    fs::remove_file(bench.path("pack/fake-1-py3-none-any.whl.03")).unwrap();
    let piece = bench.path("pack/program.tar.xz.00");
    let mut bytes = fs::read(&piece).unwrap();
    bytes[20] ^= 1;
    fs::write(&piece, bytes).unwrap();
    let (_, said, report) = bench.run("bare", &["--pack", "pack"]);
    let (status, reason) = told(&report, "pack");
    assert_eq!(status, "missing", "{said}");
    assert!(
        reason.contains("fake-1-py3-none-any.whl.03 of 7 pieces") && reason.contains("program.tar.xz.00 is damaged"),
        "{reason}"
    );
    assert!(!reason.contains("runtime"), "the runtime is whole: {reason}");

    fs::remove_file(bench.path("pack/pack.json")).unwrap();
    let (_, said, report) = bench.run("bare", &["--pack", "pack"]);
    assert!(told(&report, "pack").1.contains("no pack.json"), "{said}");
}

#[test]
fn wrong_arguments_end_with_code_2_and_a_word_about_them() {
    let bench = Bench::new();
    let wrong: [(&[&str], &str); 8] = [
        (&[], "command"),
        (&["run", "--archs", "vit-x-1"], "vit-h-14"),
        (&["run", "--batches", "1,0"], "--batches"),
        (&["run", "--limit", "-1"], "--limit"),
        (&["run", "--device", "abacus"], "abacus"),
        (&["pack", "out", "--vtagd", "no-such-file"], "cargo build --release"),
        (&["pack", ".", "--vtagd", "vtagd", "--runtime", "runtime"], "not empty"),
        (&["table", "no-such-file"], "no-such-file"),
    ];
    for (arguments, word) in wrong {
        let (code, said) = bench.script("bare", arguments);
        assert!(code == 2 && said.contains(word), "{arguments:?}: {code}: {said}");
    }
}
