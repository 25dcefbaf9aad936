//! The AsyncAPI document: it is what the program prints, it agrees with itself, and every topic of the contract is in it. The judge of its
//! schemas is Python's jsonschema.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use crate::common::daemon::{root, vtagd};
use serde_json::Value;

const FILE: &str = "config/vtagd.asyncapi.json";

fn document() -> Value {
    serde_json::from_str(&fs::read_to_string(root().join(FILE)).unwrap()).unwrap()
}

#[test]
fn the_shipped_document_is_what_the_program_prints() {
    let folder = tempfile::tempdir().unwrap();
    let output = vtagd(folder.path()).args(["docs", "asyncapi"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let shipped = fs::read(root().join(FILE)).unwrap_or_default();
    assert!(output.stdout == shipped, "{FILE} is not current: cargo run -- docs asyncapi >{FILE}");
}

#[test]
fn references_lead_somewhere_and_examples_fit_their_schemas() {
    let script = root().join("tests/common/asyncapi.py");
    let output = Command::new("/usr/bin/python3").arg(script).arg(root().join(FILE)).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "python3-jsonschema? {told}");
}

#[test]
fn every_topic_of_the_contract_is_there_with_its_direction_and_whether_it_stays() {
    let document = document();
    let bindings = |operation: &Value| {
        let action = operation["action"].as_str().unwrap().to_owned();
        (action, operation.pointer("/bindings/mqtt/retain").and_then(Value::as_bool))
    };
    let channel =
        |operation: &Value| operation["channel"]["$ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let operations = document["operations"].as_object().unwrap();
    let found: BTreeMap<String, (String, Option<bool>)> = operations
        .values()
        .map(|operation| {
            let address = document["channels"][channel(operation)]["address"].as_str().unwrap();
            (address.to_owned(), bindings(operation))
        })
        .collect();
    let (kept, passing, heard) = (("send", Some(true)), ("send", Some(false)), ("receive", Some(false)));
    let wanted = [
        ("{prefix}/available", kept),
        ("{prefix}/owner", kept),
        ("{prefix}/events", passing),
        ("{prefix}/stats", passing),
        ("{prefix}/{stream}/status", kept),
        ("{prefix}/{stream}/enabled/state", kept),
        ("{prefix}/{stream}/enabled/set", heard),
        ("{prefix}/{stream}/event", passing),
        ("{prefix}/{stream}/{label}", kept),
        ("{prefix}/{stream}/{label}/attributes", kept),
        ("{prefix}/{stream}/{label}/snapshot", kept),
        ("{prefix}/{stream}/{region}/{label}", kept),
        ("{prefix}/{stream}/{region}/{label}/attributes", kept),
        ("{prefix}/{stream}/{region}/{label}/snapshot", kept),
        ("{discovery_prefix}/device/{object_id}/config", kept),
        ("{discovery_prefix}/status", heard),
        ("{subject_prefix}.events.{stream}", ("send", None)),
        ("{topic}", ("send", None)),
    ];
    let wanted: BTreeMap<String, (String, Option<bool>)> =
        wanted.map(|(address, (action, kept))| (address.to_owned(), (action.to_owned(), kept))).into();
    assert_eq!(found, wanted);
    // The manual's table of topics has no other.
    let manual = fs::read_to_string(root().join("docs/events.md")).unwrap();
    let rows = manual.lines().filter_map(|line| line.strip_prefix("| `<p>/")?.split('`').next());
    for topic in rows {
        let address = format!("{{prefix}}/{}", topic.replace('<', "{").replace('>', "}"));
        assert!(found.contains_key(&address), "{address}");
    }
}
