//! What a person reads of a command, whole, as snapshots: help, problems of files that are wrong, the settings a file comes to, tables.
//!
//! A snapshot holds the text as it is printed, but for the folder it was run in. `cargo insta review`, or `INSTA_UPDATE=always`, renews them.

use std::fs;
use std::path::Path;

use crate::common::daemon::{root, vtagd, without_numbers};

/// A configuration with mistakes of most kinds, over several lines.
const WRONG: &str = "\
streems: []
instance: box one
model: { path: nowhere }
runtime:
  batch: { max_size: many, max_delay: 5 }
  providers: [cpu, cuda, tpu]
labels: [absent.yaml, wrong.yaml]
streams:
  - { id: A b, url: \"rtsp://h\" }
  - { id: x, url: \"ftp://h\" }
  - { id: x, url: \"rtsp://user:p@ss@h/1\", sampling: { interval: 0s } }
  - { id: y, url: \"rtsp://h/2\", labels: [other] }
sinks:
  - { type: mqtt, url: \"mqtt://h\", prefix: \"a/#\" }
  - { type: smoke }
events: { after: soon }
api: { listen: \"0.0.0.0:8080\" }
";

const WRONG_SET: &str = "\
set: dock
background: an empty dock
labels:
  - { name: forklift, threshold: { enter: 0.3, exit: 0.6 } }
  - { name: forklift }
  - { nmae: truck }
";

/// One of everything that most people write.
const RIGHT: &str = "\
instance: north
labels: [dock.yaml]
streams:
  - { id: gate, url: \"rtsp://camera.invalid/1\", username: viewer, password: { env: GATE_PASSWORD }, sampling: { interval: 500ms } }
sinks:
  - { type: mqtt, url: \"mqtt://broker.invalid\", home_assistant: true }
  - { type: jsonl, path: events.jsonl }
events: { after: 2s, cooldown: 1m }
outbox: { path: outbox.db, max_size: 100MB }
";

const SET: &str = "set: dock\nbackground: [an empty dock]\nlabels: [{ name: forklift, prompts: [a forklift] }]\n";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("wrong.yaml", WRONG_SET), ("dock.yaml", SET), ("vtagd.yaml", WRONG), ("right.yaml", RIGHT)] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// What the command prints and ends with.
fn printed(folder: &Path, arguments: &[&str]) -> String {
    let mut command = vtagd(folder);
    let command =
        command.args(arguments).current_dir(folder).env_remove("COLUMNS").env("GATE_PASSWORD", "never-told-0123456789");
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let lines = text.lines().map(|line| line.trim_end().to_owned());
        let text = lines.collect::<Vec<_>>().join("\n");
        let here = folder.canonicalize().unwrap();
        text.replace(&folder.display().to_string(), "[folder]")
            .replace(&here.display().to_string(), "[folder]")
            .replace(&root().display().to_string(), "[root]")
    };
    assert!(!format!("{output:?}").contains("never-told"), "{output:?}");
    format!("{}\n-- stderr\n{}\n-- exit code {:?}", text(&output.stdout), text(&output.stderr), output.status.code())
}

#[test]
fn help() {
    let folder = folder();
    insta::assert_snapshot!("help", printed(folder.path(), &["--help"]));
    insta::assert_snapshot!("help_of_check", printed(folder.path(), &["check", "--help"]));
}

#[test]
fn a_file_with_mistakes_of_every_kind() {
    let folder = folder();
    insta::assert_snapshot!("check_wrong", printed(folder.path(), &["check", "-c", "vtagd.yaml"]));
    fs::write(folder.path().join("torn.yaml"), "streams:\n  - { id: a, url: \"rtsp://h\"\nlabels: [dock.yaml]\n")
        .unwrap();
    insta::assert_snapshot!("check_torn", printed(folder.path(), &["check", "-c", "torn.yaml"]));
    insta::assert_snapshot!("check_absent", printed(folder.path(), &["check", "-c", "nowhere.yaml"]));
    fs::write(folder.path().join("one.yaml"), "labels: [wrong.yaml]\nstreams: [{ id: a, url: \"rtsp://h/1\" }]\n")
        .unwrap();
    insta::assert_snapshot!("check_wrong_set", printed(folder.path(), &["check", "-c", "one.yaml"]));
}

#[test]
fn the_settings_a_file_comes_to() {
    let folder = folder();
    insta::assert_snapshot!("config_show", printed(folder.path(), &["config", "show", "-c", "right.yaml"]));
}

#[test]
fn tables() {
    let folder = folder();
    insta::assert_snapshot!("labels_check", printed(folder.path(), &["labels", "check", "dock.yaml", "wrong.yaml"]));
    let picture = root().join("tests/data/preprocess/chelsea.png");
    let tagged = printed(folder.path(), &["tag", "-l", "cat,dog,a cup of coffee", picture.to_str().unwrap()]);
    insta::assert_snapshot!("tag", without_numbers(&tagged));
}
