//! What `make bench` makes of its numbers: `benches/guard.py` with made-up results.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn machine(processor: &str) -> Value {
    json!({ "processor": processor, "cores": 2, "system": "Linux x86_64" })
}

fn result(processor: &str, ratios: &[(&str, f64)]) -> Value {
    let entry = |&(name, ratio): &(&str, f64)| json!({ "name": name, "unit": "ms", "value": 1.0, "peer": "peer", "peer_value": ratio, "ratio": ratio });
    let mut results: Vec<Value> = ratios.iter().map(entry).collect();
    results.push(
        json!({ "name": "tracker", "unit": "ns", "value": 7.0, "peer": null, "peer_value": null, "ratio": null }),
    );
    json!({ "measured": "2026-01-02T03:04:05+00:00", "commit": "abc", "machine": machine(processor), "results": results })
}

/// The exit code and what was said of `ratios` against a baseline in which `preprocess` was 20 and `outbox`, with a tolerance of its own, 0.5.
fn compare(processor: &str, ratios: &[(&str, f64)]) -> (i32, String) {
    let baseline = json!({ "machine": machine("one"), "ratios": [
        { "name": "preprocess", "ratio": 20.0 }, { "name": "outbox", "ratio": 0.5, "tolerance": 0.4 } ] });
    let folder = tempfile::tempdir().unwrap();
    let (now, before) = (folder.path().join("result.json"), folder.path().join("baseline.json"));
    fs::write(&now, result(processor, ratios).to_string()).unwrap();
    fs::write(&before, baseline.to_string()).unwrap();
    guard(&["compare", now.to_str().unwrap(), before.to_str().unwrap()])
}

fn guard(arguments: &[&str]) -> (i32, String) {
    let output = Command::new("python3").arg(root().join("benches/guard.py")).args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code().unwrap(), said)
}

/// The line of the table that is about `name`.
fn row<'a>(said: &'a str, name: &str) -> &'a str {
    said.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no row {name}: {said}"))
}

#[test]
fn ratios_within_their_tolerance_pass() {
    let (code, said) = compare("one", &[("preprocess", 16.1), ("outbox", 0.31)]);
    assert_eq!(code, 0, "{said}");
    assert!(row(&said, "preprocess").ends_with("as before") && row(&said, "outbox").ends_with("as before"), "{said}");
    assert!(!said.contains("tracker"), "a number without a peer is not compared: {said}");
}

#[test]
fn a_ratio_that_is_worse_than_its_tolerance_fails_and_is_named() {
    let (code, said) = compare("one", &[("preprocess", 15.0), ("outbox", 0.5)]);
    assert_eq!(code, 1, "{said}");
    assert!(row(&said, "preprocess").ends_with("REGRESSION: 25% worse, 20% allowed"), "{said}");
    assert!(said.contains("1 of the ratios is worse"), "{said}");
    let (code, said) = compare("one", &[("preprocess", 20.0), ("outbox", 0.29)]);
    assert!(code == 1 && row(&said, "outbox").contains("40% allowed"), "{said}");
}

#[test]
fn a_ratio_of_the_baseline_that_was_not_measured_fails() {
    let (code, said) = compare("one", &[("preprocess", 20.0)]);
    assert_eq!(code, 1, "{said}");
    assert!(row(&said, "outbox").ends_with("MISSING: was not measured"), "{said}");
}

#[test]
fn what_is_better_or_new_is_told_and_passes() {
    let (code, said) = compare("one", &[("preprocess", 30.0), ("outbox", 0.5), ("scoring", 0.9)]);
    assert_eq!(code, 0, "{said}");
    assert!(row(&said, "preprocess").contains("better by 50%"), "{said}");
    assert!(row(&said, "scoring").ends_with("new: not in the baseline"), "{said}");
}

#[test]
fn another_processor_is_allowed_twice_as_much() {
    let (code, said) = compare("two", &[("preprocess", 13.0), ("outbox", 0.5)]);
    assert!(code == 0 && said.contains("twice the tolerance"), "{said}");
    assert_eq!(compare("two", &[("preprocess", 11.0), ("outbox", 0.5)]).0, 1);
}

#[test]
fn a_renewed_baseline_has_the_new_ratios_and_the_old_tolerances() {
    let folder = tempfile::tempdir().unwrap();
    let (now, before) = (folder.path().join("result.json"), folder.path().join("baseline.json"));
    fs::write(&now, result("two", &[("outbox", 0.75), ("preprocess", 21.0)]).to_string()).unwrap();
    let (code, said) = guard(&["compare", now.to_str().unwrap(), before.to_str().unwrap()]);
    assert!(code == 1 && said.contains("make bench-baseline"), "{said}");
    fs::write(&before, json!({ "ratios": [{ "name": "outbox", "ratio": 0.5, "tolerance": 0.4 }] }).to_string())
        .unwrap();
    let files = [now.to_str().unwrap(), before.to_str().unwrap()];
    assert_eq!(guard(&["baseline", files[0], files[1]]).0, 0);
    let renewed: Value = serde_json::from_str(&fs::read_to_string(&before).unwrap()).unwrap();
    let wanted =
        json!([{ "name": "outbox", "ratio": 0.75, "tolerance": 0.4 }, { "name": "preprocess", "ratio": 21.0 }]);
    assert_eq!((&renewed["ratios"], &renewed["machine"]["processor"]), (&wanted, &json!("two")));
    assert_eq!(guard(&["compare", files[0], files[1]]).0, 0);
}

/// The entry that `guard.py` makes of a report of `vtagd bench` with these images a second of each round.
fn int8_entry(fp32: &[f64], int8: &[f64]) -> Value {
    let row = |precision: &str, rounds: &[f64]| {
        let mean = rounds.iter().sum::<f64>() / rounds.len() as f64;
        json!({ "precision": precision, "batch": 8, "images_per_second": mean, "rounds": rounds })
    };
    let report = json!({ "model": "vit-b-32", "results": [row("fp32", fp32), row("int8", int8)] });
    let code = "import json, sys; import guard; print(json.dumps(guard.int8(json.loads(sys.argv[1]))))";
    let mut python = Command::new("python3");
    python
        .args(["-c", code, &report.to_string()])
        .current_dir(root().join("benches"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let output = python.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn int8_is_compared_with_fp32_of_the_same_run_round_by_round() {
    let entry = int8_entry(&[20.0, 10.0, 20.0], &[50.0, 26.0, 30.0]);
    assert_eq!((&entry["value"], &entry["peer_value"]), (&json!((50.0 + 26.0 + 30.0) / 3.0), &json!(50.0 / 3.0)));
    assert_eq!(entry["ratio"], 2.5, "the median of the rounds: {entry}");
}

#[test]
fn int8_that_is_no_faster_than_fp32_fails_on_every_processor() {
    let file = root().join("benches/baseline.json");
    let baseline: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let now = folder.path().join("result.json");
    let verdict = |processor: &str, fp32: f64, int8: f64| {
        let entry = int8_entry(&[fp32], &[int8]);
        let result = json!({ "measured": "", "commit": "", "machine": machine(processor), "results": [entry] });
        fs::write(&now, result.to_string()).unwrap();
        let (_, said) = guard(&["compare", now.to_str().unwrap(), file.to_str().unwrap()]);
        row(&said, "int8, vit-b-32").to_owned()
    };
    for processor in [baseline["machine"]["processor"].as_str().unwrap(), "another"] {
        assert!(verdict(processor, 17.2, 17.5).contains("REGRESSION"), "{processor}");
        assert!(verdict(processor, 17.0, 45.0).ends_with("as before"), "{processor}");
    }
}

#[test]
fn a_processor_of_the_same_name_without_vnni_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let [now, before] = [false, true].map(|vnni| {
        let mut machine = machine("one");
        machine["vnni"] = json!(vnni);
        let ratio = if vnni { 3.0 } else { 2.0 };
        let file = folder.path().join(format!("{vnni}.json"));
        let results = [json!({ "name": "int8", "ratio": ratio })];
        fs::write(&file, json!({ "machine": machine, "results": results, "ratios": results }).to_string()).unwrap();
        file.display().to_string()
    });
    let (code, said) = guard(&["compare", &now, &before]);
    assert!(code == 0 && said.contains("one with VNNI; here one without VNNI"), "{said}");
    assert!(row(&said, "int8").ends_with("as before"), "a third is within twice a fifth: {said}");
}

#[test]
fn the_committed_baseline_is_one_that_results_can_be_compared_with() {
    let file = root().join("benches/baseline.json");
    let baseline: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let ratios: Vec<(&str, f64)> = baseline["ratios"]
        .as_array()
        .unwrap()
        .iter()
        .map(|known| (known["name"].as_str().unwrap(), known["ratio"].as_f64().unwrap()))
        .collect();
    assert!(ratios.iter().any(|(name, _)| name.starts_with("end to end")), "{ratios:?}");
    let folder = tempfile::tempdir().unwrap();
    let now = folder.path().join("result.json");
    let compare = |factor: f64| {
        let ratios: Vec<_> = ratios.iter().map(|&(name, ratio)| (name, ratio * factor)).collect();
        fs::write(&now, result("another", &ratios).to_string()).unwrap();
        guard(&["compare", now.to_str().unwrap(), file.to_str().unwrap()])
    };
    let (code, said) = compare(1.0);
    assert_eq!(code, 0, "{said}");
    let (code, said) = compare(0.3);
    assert!(code == 1 && said.contains(&format!("{} of the ratios are worse", ratios.len())), "{said}");
}
