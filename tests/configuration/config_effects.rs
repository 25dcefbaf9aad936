//! What a changed key needs: the table in the manual is the one in the code, and a reload names those that wait for a restart.

use std::fs;
use std::path::Path;

use crate::common::daemon::{root, vtagd};
use vtagd::config::{self, Settings, effects};

const REST: &str = "model: { path: none }\nstreams: [{ id: a, url: 'rtsp://h/' }]\n";

fn load(folder: &Path, text: &str) -> Settings {
    let file = folder.join("vtagd.yaml");
    fs::write(&file, format!("{text}\n{}", if text.contains("streams:") { "" } else { REST })).unwrap();
    config::load(&file).unwrap_or_else(|problems| panic!("{text}: {problems:?}"))
}

#[test]
fn a_changed_key_waits_for_a_restart_or_does_not() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        fs::write(folder.path().join(name), format!("{name}\n")).unwrap();
    }
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    fs::write(folder.path().join("api.crt"), made.cert.pem()).unwrap();
    fs::write(folder.path().join("api.key"), made.signing_key.serialize_pem()).unwrap();
    let tls = "{ tls: { cert: api.crt, key: api.key } }";
    let stream = |more: &str| format!("model: {{ path: none }}\nstreams: [{{ id: a, url: 'rtsp://h/'{more} }}]");
    for (before, after, waiting) in [
        ("instance: x".to_owned(), "instance: y".to_owned(), &["instance"][..]),
        (
            "runtime: { threads: 1 }".into(),
            "runtime: { threads: 2, run_limit: 9s, preprocess_threads: 2 }".into(),
            &["runtime.preprocess_threads", "runtime.run_limit", "runtime.threads"],
        ),
        (
            "runtime: { providers: [cpu] }".into(),
            "runtime: { providers: [openvino, cpu] }".into(),
            &["runtime.providers"],
        ),
        ("sinks: [{ type: jsonl, path: a }]".into(), "sinks: [{ type: jsonl, path: b }]".into(), &["sinks[0].path"]),
        (
            "sinks: [{ type: jsonl, path: a }]".into(),
            "sinks: [{ type: jsonl, path: a, only: { types: [end] } }]".into(),
            &["sinks[0].only"],
        ),
        (
            "sinks: [{ type: nats, url: 'nats://h', password: { file: one } }]".into(),
            "sinks: [{ type: nats, url: 'nats://h', password: { file: two } }]".into(),
            &["sinks (a credential)"],
        ),
        ("outbox: { max_age: 1d }".into(), "outbox: { max_age: 2d }".into(), &["outbox.max_age"]),
        ("snapshots: { quality: 80 }".into(), "snapshots: { quality: 81 }".into(), &["snapshots.quality"]),
        ("".into(), "snapshots: { quality: 81 }".into(), &["snapshots"]),
        ("api: { listen: 127.0.0.1:1 }".into(), "api: { listen: 127.0.0.1:2 }".into(), &["api.listen"]),
        ("".into(), format!("api: {tls}"), &["api.tls (switched on or off)"]),
        ("log: { format: text }".into(), "log: { format: json, level: debug }".into(), &["log.format"]),
        // All of these are a reload's.
        ("api: { token: { file: one } }".into(), "api: { token: { file: two } }".into(), &[]),
        ("api: { token: { file: one } }".into(), "api: {}".into(), &[]),
        ("api: { trusted_proxies: [10.0.0.1] }".into(), "api: { trusted_proxies: [10.0.0.1, 10.0.0.2] }".into(), &[]),
        ("log: { level: info }".into(), "log: { level: debug }".into(), &[]),
        ("sampling: { interval: 1s }".into(), "sampling: { interval: 2s }".into(), &[]),
        ("reconnect: { max: 1m }".into(), "reconnect: { max: 2m }".into(), &[]),
        ("events: { enter: 0.6 }".into(), "events: { enter: 0.7 }".into(), &[]),
        (stream(", username: u, password: { file: one }"), stream(", username: u, password: { file: two }"), &[]),
        (stream(""), stream(", enabled: false"), &[]),
    ] {
        let (old, new) = (load(folder.path(), &before), load(folder.path(), &after));
        assert_eq!(effects::waiting(&old, &new), waiting, "{before} -> {after}");
        assert!(effects::waiting(&new, &new).is_empty());
    }
}

#[test]
fn the_manual_shows_the_table_that_the_program_prints() {
    let folder = tempfile::tempdir().unwrap();
    let output = vtagd(folder.path()).args(["docs", "effects"]).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.lines().count() > 10, "{table}");
    let manual = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    assert!(manual.contains(&table), "docs/configuration.md is not current: cargo run -- docs effects");
}

#[test]
fn the_manual_shows_the_tables_of_keys_that_the_program_prints() {
    let folder = tempfile::tempdir().unwrap();
    let output = vtagd(folder.path()).args(["docs", "keys"]).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let manual = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let tables: Vec<&str> = printed.split("\n\n").filter(|text| text.starts_with("| Key |")).collect();
    assert!(tables.len() > 12, "{printed}");
    for table in tables {
        let table = table.trim_end();
        assert!(manual.contains(table), "docs/configuration.md is not current: cargo run -- docs keys\n{table}");
    }
}

#[test]
fn the_manual_begins_with_the_ten_keys_that_everybody_needs() {
    let manual = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let first = manual.split("\n## ").nth(1).unwrap();
    assert!(first.starts_with("The ten keys that everybody needs\n"), "{first}");
    let keys = config::keys();
    let named: Vec<&str> = first.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(named.len(), 10, "{named:?}");
    assert!(named.iter().all(|key| keys.iter().any(|known| known == key)), "{named:?}");
    // What stands there is a configuration.
    let folder = tempfile::tempdir().unwrap();
    let text = first.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    fs::create_dir(folder.path().join("labels")).unwrap();
    let set = "set: dock\nbackground: [a dock]\nlabels: [{ name: forklift }, { name: truck }]\n";
    fs::write(folder.path().join("labels/dock.yaml"), set).unwrap();
    fs::write(folder.path().join("vtagd.yaml"), text).unwrap();
    let loaded = config::load_for(&folder.path().join("vtagd.yaml"), config::Absence::Told);
    assert!(loaded.is_ok(), "{loaded:?}");
}
