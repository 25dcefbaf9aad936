//! Wrong input, told by file, place and remedy: `check` and `run` agree, and nothing half-starts.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::common::daemon::{root, vtagd};

const GOOD_SET: &str = "set: s\nlabels: [{ name: cat }, { name: dog }]\n";

fn command(folder: &Path, name: &str) -> Output {
    vtagd(folder).args([name, "-c"]).arg(folder.join("vtagd.yaml")).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Both commands end with code 2 and say every one of `wanted`.
fn both_refuse(folder: &Path, config: &str, wanted: &[&str]) {
    fs::write(folder.join("vtagd.yaml"), config).unwrap();
    for name in ["check", "run"] {
        let output = command(folder, name);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(2), "{name}: {text}");
        for wanted in wanted {
            assert!(text.contains(wanted), "{name} does not say {wanted:?}:\n{text}");
        }
        assert!(!text.contains("panicked"), "{text}");
    }
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("set.yaml"), GOOD_SET).unwrap();
    folder
}

#[test]
fn every_problem_of_a_configuration_is_told_at_once_with_its_line() {
    let folder = folder();
    let config = "streems: []\nstreams:\n  - { id: A b, url: \"rtsp://h\" }\n  - { id: x, url: \"ftp://h\" }\n  - { id: x, url: \"rtsp://h\" }\nlabels: [absent.yaml]\nruntime: { batch: { max_size: many } }\n";
    let wanted = [
        "vtagd.yaml:1:",
        "streems",
        "did you mean",
        "vtagd.yaml:3:",
        "vtagd.yaml:4:",
        "ftp",
        "vtagd.yaml:5:",
        "absent.yaml",
        "vtagd.yaml:7:",
        "max_size",
    ];
    both_refuse(folder.path(), config, &wanted);
}

#[test]
fn a_missing_file_is_named() {
    let folder = folder();
    for name in ["check", "run"] {
        let output = vtagd(folder.path()).args([name, "-c", "/nowhere/vtagd.yaml"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output).contains("/nowhere/vtagd.yaml"));
    }
}

#[test]
fn label_sets_without_labels_or_with_one_name_twice_are_refused() {
    let folder = folder();
    fs::write(folder.path().join("empty.yaml"), "set: empty\nlabels: []\n").unwrap();
    fs::write(folder.path().join("twice.yaml"), "set: twice\nlabels:\n  - { name: cat }\n  - { name: cat }\n").unwrap();
    let config = "streams: [{ id: a, url: \"rtsp://h\" }]\nlabels: [empty.yaml, twice.yaml]\n";
    both_refuse(folder.path(), config, &["empty.yaml:2:", "twice.yaml:4:", "cat"]);
}

#[test]
fn ten_megabytes_of_yaml_and_alias_bombs_are_refused_quickly() {
    let folder = folder();
    both_refuse(
        folder.path(),
        &"# nothing but comments here\n".repeat(400_000),
        &["vtagd.yaml", "larger than 1024 KiB"],
    );
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for n in 1..9 {
        let before = format!("*a{},", n - 1).repeat(10);
        bomb.push_str(&format!("a{n}: &a{n} [{}]\n", before.trim_end_matches(',')));
    }
    both_refuse(folder.path(), &bomb, &["vtagd.yaml"]);
}

/// A copy of the starter model that a test may damage.
fn starter(folder: &Path) -> std::path::PathBuf {
    let copy = folder.join("model");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(root().join("models/starter")).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    copy
}

const MODEL: &str = "model: { path: model }\nstreams: [{ id: a, url: \"rtsp://127.0.0.1:9/x\" }]\nlabels: [set.yaml]\napi: { listen: \"127.0.0.1:0\" }\n";

#[test]
fn a_truncated_model_is_named() {
    let folder = folder();
    let model = starter(folder.path());
    for tower in ["vision_model.onnx", "text_model.onnx"] {
        let whole = fs::read(model.join(tower)).unwrap();
        fs::write(model.join(tower), &whole[..whole.len() / 2]).unwrap();
        both_refuse(folder.path(), MODEL, &[tower]);
        fs::write(model.join(tower), whole).unwrap();
    }
}

#[test]
fn a_model_whose_bytes_are_damaged_inside_is_refused_and_never_a_crash() {
    let folder = folder();
    let model = starter(folder.path());
    let path = model.join("vision_model.onnx");
    let mut bytes = fs::read(&path).unwrap();
    // Inside the graph message: its length still fits, its contents do not.
    for byte in &mut bytes[64..4096] {
        *byte = 0xff;
    }
    fs::write(&path, bytes).unwrap();
    both_refuse(folder.path(), MODEL, &["vision_model.onnx"]);
}

#[test]
fn a_tokenizer_that_does_not_fit_is_refused() {
    let folder = folder();
    let model = starter(folder.path());
    fs::write(model.join("tokenizer.json"), "{\"model\": \"not one\"}").unwrap();
    both_refuse(folder.path(), MODEL, &["tokenizer.json"]);

    // A whole tokenizer, but of another model: ids beyond the text tower's vocabulary.
    let foreign = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"cat":400000,"dog":400001,"[UNK]":400002},"unk_token":"[UNK]"}}"#;
    fs::write(model.join("tokenizer.json"), foreign).unwrap();
    both_refuse(folder.path(), MODEL, &["tokenizer"]);
}

#[test]
fn a_model_directory_that_lacks_parts_lists_all_of_them() {
    let folder = folder();
    let model = starter(folder.path());
    fs::remove_file(model.join("tokenizer.json")).unwrap();
    fs::remove_file(model.join("preprocessor_config.json")).unwrap();
    both_refuse(folder.path(), MODEL, &["tokenizer.json", "preprocessor_config.json"]);
}

#[test]
fn a_runtime_library_that_is_none_is_named_with_the_remedy() {
    let folder = folder();
    fs::write(folder.path().join("lib.so"), "not a library").unwrap();
    let config = format!("{MODEL}runtime: {{ library: lib.so }}\n").replace("path: model", "path: starter");
    fs::write(folder.path().join("vtagd.yaml"), config).unwrap();
    for name in ["check", "run"] {
        let output = command(folder.path(), name);
        let text = text(&output);
        assert!(!output.status.success() && text.contains("lib.so") && !text.contains("panicked"), "{name}: {text}");
    }
}

#[test]
fn a_camera_that_is_away_is_no_problem_of_the_configuration() {
    let folder = folder();
    let config = "streams: [{ id: a, url: \"rtsp://127.0.0.1:9/x\" }]\nlabels: [set.yaml]\n";
    fs::write(folder.path().join("vtagd.yaml"), config).unwrap();
    let output = command(folder.path(), "check");
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("ok: 1 stream"));
}

/// Every command that can fail on a file or an address, each with one that it fails on.
#[test]
fn an_error_is_called_one_once() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (name, content) in [
        ("wrong.yaml", "streams: [{ id: a, url: 'rtp://x' }]\napi: { listen: here }\noutbox: 7\n"),
        ("torn.yaml", "a: [\n"),
        ("set-wrong.yaml", "set: x\nlabels: [{ name: }]\n"),
        ("picture.jpg", "none\n"),
    ] {
        fs::write(folder.path().join(name), content).unwrap();
    }
    let mut told = 0;
    for file in ["wrong.yaml", "torn.yaml", "absent.yaml", "", "picture.jpg"].map(path) {
        let on_a_configuration: &[&[&str]] = &[
            &["check"],
            &["run"],
            &["status"],
            &["config", "show"],
            &["events", "list"],
            &["events", "export"],
            &["mqtt", "clear"],
            &["mqtt", "claim"],
            &["check", "--probe"],
        ];
        for arguments in on_a_configuration {
            told += called_once(folder.path(), &[arguments, &["-c", &file][..]].concat());
        }
        told += called_once(folder.path(), &["labels", "check", &file]);
        told += called_once(folder.path(), &["labels", "embed", &file]);
        told += called_once(folder.path(), &["tag", "demo/clip.mp4", "--labels", &file]);
        told += called_once(folder.path(), &["model", "inspect", &file]);
        told += called_once(folder.path(), &["model", "import", &file, "--out", &path("out")]);
        told += called_once(folder.path(), &["bench", "-m", &file, "--seconds", "1"]);
        told += called_once(folder.path(), &["embed", "--image", &file]);
        told += called_once(folder.path(), &["status", "--url", "http://127.0.0.1:9", "--token-file", &file]);
        told += called_once(folder.path(), &["events", "export", "--outbox", &file]);
    }
    told += called_once(folder.path(), &["tag", "demo/clip.mp4", "--labels", &path("set-wrong.yaml")]);
    for arguments in [
        &["status", "--url", "http://127.0.0.1:9"][..],
        &["status", "--url", "nonsense"],
        &["tag", "/absent.jpg"],
        &["tag", "rtsp://127.0.0.1:9/"],
        &["bench", "--provider-option", "cpu.x=1"],
        &["bench", "--arch", "none"],
        &["model", "pull", ""],
        &["nonsense"],
    ] {
        told += called_once(folder.path(), arguments);
    }
    assert!(told > 60, "most of them failed: {told}");
}

/// Runs `vtagd` with `arguments`; 1 if it failed and said so.
fn called_once(folder: &Path, arguments: &[&str]) -> usize {
    let output = vtagd(folder).args(arguments).env("VTAGD_CACHE", folder).output().unwrap();
    let text = text(&output);
    for line in text.lines() {
        let times = line.matches("error: ").count() - line.matches("(os error: ").count();
        assert!(times < 2, "{arguments:?}: {line}");
    }
    usize::from(!output.status.success() && text.contains("error: "))
}
