//! `include`: many files that come to one configuration, and a configuration on standard input.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use crate::common::daemon::{Daemon, eventually, vtagd};
use serde_json::Value;
use sha2::Digest;

const MAIN: &str =
    "model: { path: none }\napi: { listen: off }\noutbox: { path: ':memory:' }\ninclude: [streams.d/*.yaml]\n";

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn run(folder: &Path, command: &[&str]) -> (Output, String) {
    let output = vtagd(folder).args(command).arg("-c").arg(folder.join("vtagd.yaml")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

fn shown(folder: &Path) -> Value {
    let (output, said) = run(folder, &["config", "show"]);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

const SET: &str = "background: [an empty dock]\nlabels: [{ name: forklift }, { name: truck }]\n";

#[test]
fn lists_of_included_files_come_after_those_of_the_file_in_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        &[
            ("vtagd.yaml", &format!("{MAIN}streams: [{{ id: main, url: 'rtsp://h/' }}]\n")),
            (
                "streams.d/20-b.yaml",
                "x-a: &a { username: u }\nstreams: [{ id: b, url: 'file://clip.mp4', labels: [dock] }]\nlabels: [dock.yaml]\n",
            ),
            (
                "streams.d/10-a.yaml",
                "streams:\n  - { id: a1, url: 'rtsp://h/1' }\n  - { id: a2, url: 'rtsp://h/2' }\nsinks: [{ type: jsonl, path: a.jsonl }]\n",
            ),
            ("streams.d/30-nothing.yaml", "# streams:\n"),
            // None of these is one of them.
            ("streams.d/.10-a.yaml.swp", "\u{1}"),
            ("streams.d/10-a.yaml~", "nonsense: 1"),
            ("streams.d/sub/c.yaml", "nonsense: 1"),
            ("streams.d/clip.mp4", "x"),
            ("streams.d/dock.yaml.of", "x"),
        ],
    );
    write(&folder.path().join("streams.d"), &[("dock.yaml", &format!("set: dock\n{SET}"))]);
    // A label set among them is a file too many.
    let (output, said) = run(folder.path(), &["check"]);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("streams.d/dock.yaml:1:1: error: set: is an unknown key; known here: streams, labels, sinks"),
        "{said}"
    );
    write(
        folder.path(),
        &[(
            "vtagd.yaml",
            &format!(
                "{}streams: [{{ id: main, url: 'rtsp://h/' }}]\nevents: {{ after: 2s, cooldown: 30s }}\n",
                MAIN.replace("streams.d/*.yaml", "'streams.d/[0-9]*.yaml'")
            ),
        )],
    );
    let (output, said) = run(folder.path(), &["check"]);
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
    let shown = shown(folder.path());
    let ids: Vec<&str> =
        shown["streams"].as_array().unwrap().iter().map(|stream| stream["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["main", "a1", "a2", "b"]);
    // Relative paths start where they are written.
    let here = folder.path().join("streams.d");
    assert_eq!(shown["streams"][3]["url"], format!("file://{}", here.join("clip.mp4").display()));
    assert_eq!(shown["sinks"][0]["path"], here.join("a.jsonl").to_str().unwrap());
    assert_eq!(shown["labels"], serde_json::json!(["dock"]));
    let files = ["10-a.yaml", "20-b.yaml", "30-nothing.yaml"].map(|name| here.join(name).to_str().unwrap().to_owned());
    assert_eq!(shown["x-include"], serde_json::json!(files));
}

#[test]
fn what_is_wrong_in_an_included_file_is_told_with_its_name_and_line() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        &[
            ("vtagd.yaml", &format!("{MAIN}streams: [{{ id: one, url: 'rtsp://h/' }}]\n")),
            (
                "streams.d/a.yaml",
                "streams:\n  - { id: two, ulr: x, url: 'rtsp://h/2' }\n  - { id: one, url: 'rtsp://u:MARKED@h/3', password: { file: nowhere } }\nlog: { level: debug }\n",
            ),
            ("streams.d/b.yaml", "streams:\n  - { id: two, url: 'ftp://h' }\nsinks: 7\n"),
            ("streams.d/c.yaml", "streams: [{\n"),
            ("streams.d/d.yaml", "- id: x\n"),
        ],
    );
    let (output, said) = run(folder.path(), &["check"]);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for told in [
        "/streams.d/a.yaml:2:16: error: streams[0].ulr: is an unknown key; did you mean `url`?",
        "/streams.d/a.yaml:3:11: error: streams[1].id: `one` is used twice (first in ",
        "/vtagd.yaml:5)",
        "/streams.d/a.yaml:3:54: warning: streams[1].password: ",
        "/streams.d/a.yaml:4:1: error: log: is an unknown key; known here: streams, labels, sinks",
        "/streams.d/b.yaml:2:11: error: streams[0].id: `two` is used twice (first in ",
        "/streams.d/a.yaml:2)",
        "/streams.d/b.yaml:2:21: error: streams[0].url: has the unknown scheme ftp://",
        "/streams.d/b.yaml:3:8: error: sinks: expected a list, found a number",
        "/streams.d/c.yaml:",
        "/streams.d/d.yaml:1:1: error: expected a mapping, found a list",
    ] {
        assert!(said.contains(told), "{told} is not in\n{said}");
    }
    assert!(!said.contains("MARKED"), "{said}");
}

#[test]
fn a_name_has_to_be_there_and_a_pattern_may_match_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let rest = "model: { path: none }\napi: { listen: off }\nstreams: [{ id: a, url: 'rtsp://h/' }]\n";
    for (include, told) in [
        ("[streams.d/*.yaml, other.d/?.yaml]", ""),
        ("[vtagd.yaml, '*.yaml']", ""),
        ("[absent.yaml]", ":4:11: error: include[0]: "),
        ("[.]", "is not a file"),
        ("['**/*.yaml']", "goes through all folders below"),
        ("['a[.yaml']", "is not a pattern"),
        ("absent.yaml", "include: expected a list, found text"),
    ] {
        write(folder.path(), &[("vtagd.yaml", &format!("{rest}include: {include}\n"))]);
        let (output, said) = run(folder.path(), &["check"]);
        assert_eq!(output.status.code(), Some(if told.is_empty() { 0 } else { 2 }), "{include}: {said}");
        assert!(said.contains(told), "{include}: {said}");
    }
    // A link to nothing is a camera that somebody misses.
    write(folder.path(), &[("vtagd.yaml", &format!("{rest}include: [links/*.yaml]\n")), ("links/x", "")]);
    std::os::unix::fs::symlink("nowhere", folder.path().join("links/a.yaml")).unwrap();
    let (output, said) = run(folder.path(), &["check"]);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("links/a.yaml is not a file"), "{said}");
}

#[test]
fn what_is_included_is_bounded_in_number() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[("vtagd.yaml", MAIN)]);
    for number in 0..1100 {
        let text = format!("streams: [{{ id: s{number}, url: 'rtsp://h/{number}' }}]\n");
        write(folder.path(), &[(&format!("streams.d/{number}.yaml"), &text)]);
    }
    let (output, said) = run(folder.path(), &["check"]);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(":4:11: error: include[0]: comes to more than 1000 files or 16 MiB"), "{said}");
}

#[test]
fn a_reload_reads_all_of_them_again() {
    let folder = tempfile::tempdir().unwrap();
    let main = MAIN.replace("listen: off", "listen: '127.0.0.1:0'");
    write(folder.path(), &[("streams.d/a.yaml", "streams: [{ id: a, url: 'rtsp://127.0.0.1:9/', enabled: false }]\n")]);
    let mut daemon = Daemon::start(folder.path(), &main);
    daemon.wait_ready();
    write(folder.path(), &[("streams.d/b.yaml", "streams: [{ id: b, url: 'rtsp://127.0.0.1:9/', enabled: false }]\n")]);
    daemon.signal(libc::SIGHUP);
    let ids = |daemon: &mut Daemon| -> Vec<String> {
        let answer: Value = serde_json::from_str(&daemon.get("/api/v1/streams").1).unwrap();
        let ids = answer["streams"].as_array().unwrap().iter().map(|stream| stream["id"].as_str().unwrap().to_owned());
        ids.collect()
    };
    eventually("the second file", || (ids(&mut daemon) == ["a", "b"]).then_some(()));
    fs::remove_file(folder.path().join("streams.d/a.yaml")).unwrap();
    daemon.signal(libc::SIGHUP);
    eventually("the first is gone", || (ids(&mut daemon) == ["b"]).then_some(()));
    daemon.stop_cleanly();
}

#[test]
fn a_configuration_may_come_on_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[("more/a.yaml", "streams: [{ id: a, url: 'file://clip.mp4' }]\n"), ("more/clip.mp4", "x")]);
    let piped = |command: &[&str], text: &str| {
        let mut command_line = vtagd(folder.path());
        command_line.args(command).args(["-c", "-"]).current_dir(folder.path());
        let mut child =
            command_line.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let text = MAIN.replace("streams.d", "more");
    let (code, out, err) = piped(&["check"], &text);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.starts_with("standard input: ok: 1 stream"), "{out}");
    let (code, out, _) = piped(&["config", "show"], &text);
    assert_eq!(code, Some(0));
    assert!(out.contains("more/clip.mp4"), "{out}");
    let (code, _, err) = piped(&["check"], "streams: 7\n");
    assert_eq!(code, Some(2));
    assert!(err.contains("standard input:1:10: error: streams: expected a list"), "{err}");
    assert!(err.contains("standard input: 2 errors, nothing was started"), "{err}");
}

#[test]
fn every_label_set_tells_the_hash_of_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let hash = |folder: &Path| {
        let bytes = fs::read(folder.join("dock.yaml")).unwrap();
        sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    write(folder.path(), &[("dock.yaml", &format!("set: dock\n{SET}"))]);
    let main = "model: { path: none }\napi: { listen: '127.0.0.1:0' }\noutbox: { path: ':memory:' }\nlabels: [dock.yaml]\n\
        streams: [{ id: a, url: 'rtsp://127.0.0.1:9/', enabled: false }]\n";
    let mut daemon = Daemon::start(folder.path(), main);
    daemon.wait_ready();
    let first = hash(folder.path());
    // A comment is another file too.
    for text in [format!("set: dock\n{SET}"), format!("# another box\nset: dock\n{SET}")] {
        write(folder.path(), &[("dock.yaml", &text)]);
        daemon.signal(libc::SIGHUP);
        let wanted = hash(folder.path());
        eventually("the hash in the API", || {
            let answer: Value = serde_json::from_str(&daemon.get("/api/v1/labels").1).unwrap();
            (answer["sets"][0]["sha256"] == *wanted).then_some(())
        });
        let metrics = daemon.get("/metrics").1;
        let series: Vec<&str> = metrics.lines().filter(|line| line.starts_with("vtagd_label_set_info{")).collect();
        assert_eq!(series, [format!("vtagd_label_set_info{{set=\"dock\",sha256=\"{wanted}\"}} 1")]);
    }
    assert_ne!(first, hash(folder.path()));
    daemon.stop_cleanly();
}
