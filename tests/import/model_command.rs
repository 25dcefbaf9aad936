//! `vtagd model` as a user runs it.

use crate::common::daemon::vtagd;
use serde_json::Value;

#[test]
fn inspect_tells_what_the_starter_model_holds() {
    let dir = tempfile::tempdir().unwrap();
    let output = vtagd(dir.path()).args(["model", "inspect", "models/starter", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["name"], "starter");
    assert_eq!(report["fingerprint"].as_str().unwrap().len(), 64);
    assert_eq!(report["input"], serde_json::json!([224, 224]));
    let files: Vec<&str> = report["files"].as_array().unwrap().iter().map(|f| f["file"].as_str().unwrap()).collect();
    assert!(files.contains(&"vision_model.onnx") && files.contains(&"tokenizer.json"), "{files:?}");
    let sum: u64 = report["files"].as_array().unwrap().iter().map(|f| f["bytes"].as_u64().unwrap()).sum();
    assert_eq!(report["bytes"].as_u64(), Some(sum));

    let output = vtagd(dir.path()).args(["model", "inspect", "models/starter"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("224x224") && text.contains(report["fingerprint"].as_str().unwrap()), "{text}");
}

#[test]
fn a_made_up_architecture_that_is_not_known_is_told_with_those_that_are() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let output = vtagd(dir.path()).args(["model", "import", "synthetic:vit-x-1", "--out"]).arg(&out).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("vit-h-14"), "{message}");
    assert!(!out.exists());
}

#[test]
fn a_place_that_is_taken_is_told_before_anything_is_done() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mine.txt"), "mine").unwrap();
    let output = vtagd(dir.path())
        .args(["model", "import", "synthetic:vit-h-14", "--precision", "int8", "--out"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("exists already"), "{message}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
