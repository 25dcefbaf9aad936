//! The JSON Schema for editors: it is what the program prints, the examples fit it, and what `check` would refuse does not. The
//! judge is Python's jsonschema, with PyYAML, which reads YAML as editors do. And `config show`, whose answer is a configuration again.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::common::daemon::{root, vtagd};
use serde_json::{Value, json};

/// What does not fit the configuration's schema, or nothing.
fn complaint(yaml: &str) -> String {
    complaint_of("config/vtagd.schema.json", yaml)
}

/// The same for a schema in this file.
fn complaint_of(schema: &str, yaml: &str) -> String {
    let program = "import json, sys, yaml, jsonschema\n\
        schema = json.load(open(sys.argv[1]))\n\
        jsonschema.Draft202012Validator.check_schema(schema)\n\
        for error in jsonschema.Draft202012Validator(schema).iter_errors(yaml.safe_load(sys.stdin)):\n\
        \x20   print(error.json_path, error.message[:200])\n";
    let mut command = Command::new("/usr/bin/python3");
    command
        .current_dir(root())
        .args(["-c", program, schema])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("python3 is needed: run make setup");
    child.stdin.take().unwrap().write_all(yaml.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "python3-jsonschema and python3-yaml? {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_shipped_schemas_are_what_the_program_prints() {
    let folder = tempfile::tempdir().unwrap();
    for (of, file) in [("config", "config/vtagd.schema.json"), ("labels", "config/vtagd-labels.schema.json")] {
        let output = vtagd(folder.path()).args([of, "schema"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let shipped = fs::read(root().join(file)).unwrap_or_default();
        assert!(output.stdout == shipped, "{file} is not current: cargo run -- {of} schema >{file}");
    }
}

/// Properties of a schema without a description, by path.
fn silent(schema: &Value, path: &str, found: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            for (name, property) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
                if property["description"].as_str().is_none_or(str::is_empty) {
                    found.push(format!("{path}.{name}"));
                }
            }
            map.iter().for_each(|(key, value)| silent(value, &format!("{path}.{key}"), found));
        }
        Value::Array(items) => items.iter().for_each(|item| silent(item, path, found)),
        _ => {}
    }
}

#[test]
fn every_key_of_both_schemas_has_a_description() {
    for file in ["config/vtagd.schema.json", "config/vtagd-labels.schema.json"] {
        let schema: Value = serde_json::from_str(&fs::read_to_string(root().join(file)).unwrap()).unwrap();
        let mut found = Vec::new();
        silent(&schema, "", &mut found);
        assert!(found.is_empty(), "{file}: {found:?}");
    }
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(root().join("config/vtagd.schema.json")).unwrap()).unwrap();
    let told = schema.pointer("/properties/instance/description").unwrap();
    assert_eq!(
        told,
        "Names this daemon in the `source` of its events (name: letters, digits, `.` `_` `-`; default: the host name)"
    );
}

#[test]
fn label_sets_have_a_schema_that_the_shipped_ones_fit_and_mistakes_do_not() {
    let schema = "config/vtagd-labels.schema.json";
    let mut files = 0;
    for entry in fs::read_dir(root().join("config/labels")).unwrap().map(Result::unwrap) {
        let text = fs::read_to_string(entry.path()).unwrap();
        assert_eq!(complaint_of(schema, &text), "", "{entry:?}");
        files += 1;
    }
    assert!(files > 2);
    for (yaml, place) in [
        ("labels: [{ name: a }]", "'set' is a required property"),
        ("set: a", "'labels' is a required property"),
        ("{ set: a, labels: [{ nmae: a }] }", "nmae"),
        ("{ set: a, labels: [{ name: a, enter: 7 }] }", "$.labels"),
        ("{ set: a, scoring: some, labels: [{ name: a }] }", "$.scoring"),
    ] {
        let complaint = complaint_of(schema, yaml);
        assert!(complaint.contains(place), "{yaml}: {complaint:?}");
    }
}

#[test]
fn the_example_fits_the_schema() {
    let example = fs::read_to_string(root().join("config/vtagd.yaml")).unwrap();
    assert_eq!(complaint(&example), "");
    let first = example.lines().next().unwrap();
    assert!(
        first.starts_with("# yaml-language-server: $schema="),
        "editors find the schema by the first line: {first}"
    );
}

#[test]
fn what_every_kind_of_value_may_look_like_fits_the_schema() {
    let yaml = "x-anchor: { anything: 1 }\n\
        runtime: { providers: [cpu, openvino: { precision: bf16 }, cuda: ], sessions: auto, batch: { max_size: 4 } }\n\
        sampling: { interval: auto, unchanged: { tolerance: 4, max_age: 10s } }\n\
        streams: [{ id: 7, url: 'rtsp://a/', password: { env: P }, view: { region: [0, 0, 1, 1] } },
        \x20 { id: b, url: 'rtsp://b/', view: { regions: [{ name: door, polygon: [[0, 0], [1, 0], [1, 1]], mode: pad }] } }]\n\
        events: { after: 0, cooldown: 1.5 h }\n\
        sinks: [{ type: mqtt, protocol: 5, headers: { A: { file: x } }, only: { attributes: { zone: [a, 1] } } }]\n\
        outbox: { max_size: 1.5 GiB }\nsnapshots:\napi: { listen: off }\n";
    assert_eq!(complaint(yaml), "");
}

#[test]
fn what_check_refuses_does_not_fit_the_schema() {
    for (yaml, place) in [
        ("modle: { path: starter }", "modle"),
        ("streams: [{ id: a, ulr: x }]", "$.streams"),
        ("streams: { id: a }", "$.streams"),
        ("sampling: { interval: 5 }", "$.sampling"),
        ("sampling: { decode: some }", "$.sampling"),
        ("events: { enter: 1.2 }", "$.events"),
        ("outbox: { max_size: 5 }", "$.outbox"),
        ("api: { token: abc }", "$.api"),
        ("api: { token: { env: A, file: b } }", "$.api"),
        ("runtime: { providers: [gpu] }", "$.runtime"),
        ("log: { level: loud }", "$.log"),
    ] {
        let complaint = complaint(yaml);
        assert!(complaint.contains(place), "{yaml}: {complaint:?}");
    }
}

#[test]
fn the_effective_configuration_shows_what_streams_inherit_and_no_credential() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vtagd.yaml");
    let password = folder.path().join("password");
    fs::write(&password, "MARKED-PASSWORD\n").unwrap();
    let text = "model: { path: none }\nsampling: { interval: 250ms }\nreconnect: { max: 90s }\n\
        streams:\n\
        \x20 - { id: one, url: 'rtsp://127.0.0.1:9/live?token=MARKED-QUERY', username: viewer, password: { file: password } }\n\
        \x20 - { id: two, url: 'rtsp://127.0.0.1:9/', sampling: { interval: 2s }, enabled: false,\n\
        \x20     view: { mode: pad, regions: [{ name: a, region: [0, 0, 0.5, 1] }, { name: b, polygon: [[0, 0], [1, 0], [1, 1]], mode: tiles }] } }\n\
        sinks: [{ type: jsonl, path: \"-\", rate: { events: 3, per: 1m } }]\n\
        api: { listen: 127.0.0.1:0, token: { env: MARKED_TOKEN } }\n";
    fs::write(&file, text).unwrap();
    let mut command = vtagd(folder.path());
    command.args(["config", "show", "-c"]).arg(&file).env("MARKED_TOKEN", "MARKED-TOKEN-MARKED-TOKEN-MARKED-TOKEN");
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{err}");
    assert!(!out.contains("MARKED") && !err.contains("MARKED-"), "{out}{err}");
    let shown: Value = serde_json::from_str(&out).unwrap();
    let (one, two) = (&shown["streams"][0], &shown["streams"][1]);
    assert_eq!((&one["sampling"]["interval"], &two["sampling"]["interval"]), (&"250ms".into(), &"2s".into()));
    assert_eq!(
        (&one["reconnect"]["max"], &one["password"], &two["enabled"]),
        (&"90s".into(), &"***".into(), &false.into())
    );
    assert_eq!((&shown["api"]["token"], &shown["events"]["enter"]), (&"***".into(), &0.6.into()));
    assert_eq!(shown["sinks"][0]["rate"]["per"], "1m");
    assert_eq!(one["view"], json!({ "mode": "model", "region": [0.0, 0.0, 1.0, 1.0] }));
    let regions = json!([
        { "name": "a", "mode": "pad", "region": [0.0, 0.0, 0.5, 1.0] },
        { "name": "b", "mode": "tiles", "polygon": [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]] },
    ]);
    assert_eq!(two["view"], json!({ "regions": regions }));
}

#[test]
fn a_wrong_configuration_is_told_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vtagd.yaml");
    fs::write(&file, "streams: 7\n").unwrap();
    let output = vtagd(folder.path()).args(["config", "show", "-c"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty() && String::from_utf8_lossy(&output.stderr).contains("streams"), "{output:?}");
}
