//! The state directory of a real daemon: one daemon each, what happens where it cannot be used, copies of label sets in it that count instead of
//! the configuration's files, and a daemon that starts without a stream.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Output;

use crate::common::daemon::{Daemon, eventually, root, vtagd};
use serde_json::{Value, json};
use vtagd::label::state_copy;
use vtagd::platform::state_folder::StateFolder;
use vtagd::yaml::Document;

const SET: &str = "set: dock 3\nbackground: [an empty dock]\nlabels: [{ name: forklift }]\n";
const TOKEN: &str = "marked-token-0123456789abcdef";

/// A port of this machine that nobody listens on just now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A configuration without streams and model, which starts in a moment.
fn config(folder: &Path, api: &str) -> String {
    fs::write(folder.join("dock.yaml"), SET).unwrap();
    fs::write(folder.join("token"), TOKEN).unwrap();
    let text =
        format!("instance: north\nmodel: {{ path: none }}\nstreams: []\nlabels: [dock.yaml]\napi: {{ {api} }}\n");
    fs::write(folder.join("vtagd.yaml"), &text).unwrap();
    text
}

fn with_token() -> String {
    format!("listen: 127.0.0.1:{}, token: {{ file: token }}", free_port())
}

/// Puts a copy of the set, with another label, into the folder's state directory.
fn put_copy(folder: &Path) -> StateFolder {
    let state = StateFolder::configured(folder.join("state"));
    let original = Document::read(&folder.join("dock.yaml")).unwrap();
    state_copy::put(&state, "dock 3", &SET.replace("forklift", "truck"), &original, "a test").unwrap();
    state
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let file = folder.join("vtagd.yaml");
    vtagd(folder).args(arguments).arg("-c").arg(file).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What the command prints, which is done.
fn printed(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

/// The only label set, as `status` has it.
fn set_in_status(folder: &Path) -> Value {
    let seen: Value = serde_json::from_str(&printed(folder, &["status", "--json"])).unwrap();
    seen["labels"][0].clone()
}

#[test]
fn a_second_daemon_on_one_state_directory_is_refused_and_a_killed_one_holds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "listen: 127.0.0.1:0");
    let mut first = Daemon::start(folder.path(), &config);
    first.wait_ready();
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("dock.yaml"), SET).unwrap();
    let shared = format!("{config}state: {{ path: {} }}\n", folder.path().join("state").display());
    let mut second = Daemon::start(other.path(), &shared);
    assert_eq!(second.wait().code(), Some(1));
    let told = second.log();
    for part in [format!("pid {}", first.pid()), "instance north".to_owned(), "`state.path`".to_owned()] {
        assert!(told.contains(&part), "{part}: {told}");
    }
    first.kill();
    let mut second = Daemon::start(other.path(), &shared);
    second.wait_ready();
    assert!(second.stop().success());
}

#[test]
fn a_state_directory_that_somebody_named_and_that_cannot_be_used_ends_with_code_2_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "listen: 127.0.0.1:0");
    // Given by systemd: a file lies there.
    fs::write(folder.path().join("state"), "no folder").unwrap();
    let mut daemon = Daemon::start(folder.path(), &config);
    assert_eq!(daemon.wait().code(), Some(2));
    assert!(daemon.log().contains("StateDirectory="), "{}", daemon.log());
    // Named: `check` says the same as `run`.
    for (path, told) in [("state/below", "state is not a folder"), ("/etc/vtagd-test/state", "below /etc")] {
        fs::write(folder.path().join("vtagd.yaml"), format!("{config}state: {{ path: {path} }}\n")).unwrap();
        for command in ["check", "run"] {
            let output = run(folder.path(), &[command]);
            assert_eq!(output.status.code(), Some(2), "{output:?}");
            let said = text(&output.stderr);
            assert!(said.contains("state.path: ") && said.contains(told), "{said}");
        }
        assert!(!Path::new("/etc/vtagd-test").exists());
    }
}

#[test]
fn a_copy_is_in_force_and_everybody_says_so_until_it_is_reset_through_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let config = config(here, &with_token());
    put_copy(here);
    let path = here.join("state/labels/dock%203.yaml").display().to_string();

    let output = run(here, &["check"]);
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("note: labels[0]: not this file is in force but its copy") && said.contains(&path), "{said}");
    let shown: Value = serde_json::from_str(&printed(here, &["config", "show"])).unwrap();
    let set = &shown["x-label-sets"]["dock 3"];
    assert_eq!((&set["in_force"], &set["copy"]["path"]), (&json!("state"), &json!(path)), "{shown}");
    assert_eq!(shown["state"]["path"], here.join("state").display().to_string());
    assert_eq!(printed(here, &["labels", "export", "dock 3"]), SET.replace("forklift", "truck"));

    let mut daemon = Daemon::start(here, &config);
    daemon.wait_for_log(" ready");
    let set = set_in_status(here);
    assert_eq!(
        (&set["labels"], &set["in_force"], &set["copy"]["by"]),
        (&json!(["truck"]), &json!("state"), &json!("a test"))
    );
    let table = printed(here, &["status"]);
    assert!(table.contains(&format!("label set dock 3: its copy {path} is in force")), "{table}");

    // The file changes behind the copy's back.
    fs::write(here.join("dock.yaml"), format!("{SET}# and more\n")).unwrap();
    assert!(text(&run(here, &["check"]).stderr).contains("warning: labels[0]: not this file is in force"));
    daemon.signal(libc::SIGHUP);
    daemon.wait_for_log("the new configuration runs");
    assert!(daemon.log().contains("this file has changed since"), "{}", daemon.log());
    assert_eq!(set_in_status(here)["copy"]["file_changed"], true);
    let table = printed(here, &["status"]);
    assert!(table.contains("dock.yaml has changed since"), "{table}");

    let said = printed(here, &["labels", "reset", "dock 3"]);
    assert!(said.contains("the daemon has removed the copy"), "{said}");
    let set = set_in_status(here);
    assert_eq!((&set["labels"], &set["in_force"]), (&json!(["forklift"]), &json!("file")), "at once");
    assert!(
        !Path::new(&path).exists() && daemon.log().contains("action=\"reset labels\" set=\"dock 3\""),
        "{}",
        daemon.log()
    );
    let said = printed(here, &["labels", "reset", "dock 3"]);
    assert!(said.contains("has no copy"), "{said}");
    let output = run(here, &["labels", "reset", "yard"]);
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("known: dock 3"), "{output:?}");
    assert!(daemon.stop().success());
}

#[test]
fn a_reset_that_would_leave_a_wrong_configuration_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let config = config(here, &with_token());
    put_copy(here);
    let mut daemon = Daemon::start(here, &config);
    daemon.wait_for_log(" ready");
    fs::write(here.join("dock.yaml"), "set: dock 3\nlabels: 7\n").unwrap();
    // Its file cannot be read, so whoever asks has to know the name.
    let output = run(here, &["labels", "reset", "dock 3"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("the copy stays in force"), "{output:?}");
    assert_eq!(set_in_status(here)["labels"], json!(["truck"]));
    assert!(daemon.stop().success());
}

#[test]
fn a_reset_whose_texts_cannot_be_embedded_changes_nothing_until_they_can() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let starter = root().join("models/starter");
    let model = here.join("model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(&starter).unwrap().map(Result::unwrap) {
        std::os::unix::fs::symlink(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let config = config(here, &with_token()).replace("path: none", "path: model");
    put_copy(here);
    let place = here.join("state/labels/dock%203.yaml");
    let mut daemon = Daemon::start(here, &config);
    daemon.wait_for_log("ready streams=");
    // The copy's texts have been embedded, those of the file have not.
    fs::remove_file(model.join("text_model.onnx")).unwrap();
    let output = run(here, &["labels", "reset", "dock 3"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("the new labels cannot be used, and the copy stays in force"), "{said}");
    assert!(place.is_file() && daemon.log().contains("set=\"dock 3\" outcome=\"refused\""), "{}", daemon.log());
    assert_eq!(set_in_status(here)["labels"], json!(["truck"]));
    std::os::unix::fs::symlink(starter.join("text_model.onnx"), model.join("text_model.onnx")).unwrap();
    let said = printed(here, &["labels", "reset", "dock 3"]);
    assert!(said.contains("the daemon has removed the copy") && !place.exists(), "{said}");
    assert_eq!(set_in_status(here)["labels"], json!(["forklift"]));
    assert!(daemon.stop().success());
}

#[test]
fn the_copy_of_a_set_that_another_file_brings_is_exported_and_reset_as_any() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let text_of_config = config(here, "listen: 127.0.0.1:0").replace("labels: [dock.yaml]", "include: [more/*.yaml]");
    fs::write(here.join("vtagd.yaml"), text_of_config).unwrap();
    fs::create_dir(here.join("more")).unwrap();
    fs::write(here.join("more/north.yaml"), "labels: [../dock.yaml]\n").unwrap();
    assert_eq!(printed(here, &["labels", "export", "dock 3"]), SET);
    put_copy(here);
    assert_eq!(printed(here, &["labels", "export", "dock 3"]), SET.replace("forklift", "truck"));
    let said = text(&run(here, &["check"]).stderr);
    assert!(said.contains("north.yaml:1:10: note: labels[0]: not this file is in force"), "{said}");
    assert!(printed(here, &["labels", "reset", "dock 3"]).contains("its file is in force"));
    assert_eq!(printed(here, &["labels", "export", "dock 3"]), SET);
}

#[test]
fn without_a_daemon_that_can_be_asked_the_copy_is_removed_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let config = config(here, "listen: 127.0.0.1:0");
    let place = here.join("state/labels/dock%203.yaml");
    put_copy(here);
    assert!(place.is_file());
    let said = printed(here, &["labels", "reset", "dock 3"]);
    assert!(said.contains("its file is in force") && !place.exists(), "{said}");
    put_copy(here);
    let mut daemon = Daemon::start(here, &config);
    daemon.wait_ready();
    let said = printed(here, &["labels", "reset", "dock 3"]);
    assert!(said.contains(&format!("pid {}", daemon.pid())) && said.contains("systemctl reload"), "{said}");
    assert!(!place.exists());
    // The daemon's own folder is as it was.
    assert_eq!(fs::metadata(here.join("state")).unwrap().uid(), fs::metadata(here).unwrap().uid());
    assert!(daemon.stop().success());
}

#[test]
fn a_copy_that_is_damaged_or_wrong_is_named_and_the_file_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let text_of_config = config(here, &with_token());
    let state = put_copy(here);
    let place = here.join("state/labels/dock%203.yaml");
    let whole = fs::read_to_string(&place).unwrap();
    fs::write(&place, whole.replace("truck", "crane")).unwrap();
    let output = run(here, &["check"]);
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stderr);
    assert!(
        said.contains("warning: labels[0]: the copy of the set `dock 3`") && said.contains("edited by hand"),
        "{said}"
    );
    let mut daemon = Daemon::start(here, &text_of_config);
    daemon.wait_for_log(" ready");
    let set = set_in_status(here);
    assert_eq!((&set["labels"], &set["in_force"]), (&json!(["forklift"]), &json!("file")));
    assert!(set["refused"].as_str().unwrap().contains("damaged"), "{set}");
    assert!(printed(here, &["status"]).contains("label set dock 3: its copy in the state directory is not in force"));
    assert!(daemon.log().contains("edited by hand"), "{}", daemon.log());
    assert!(daemon.stop().success());

    // One that is whole, but does not fit the configuration any more.
    let original = Document::read(&here.join("dock.yaml")).unwrap();
    let high = "set: dock 3\nbackground: [x]\nlabels: [{ name: forklift, exit: 0.9 }]\n";
    state_copy::put(&state, "dock 3", high, &original, "a test").unwrap();
    let output = run(here, &["check"]);
    assert!(output.status.success() && text(&output.stderr).contains("is not in force: labels[0].exit"), "{output:?}");
    // And one of a set that is no more.
    fs::write(here.join("dock.yaml"), SET.replace("dock 3", "dock 4")).unwrap();
    let output = run(here, &["check"]);
    assert!(output.status.success() && text(&output.stderr).contains("a copy of the set `dock 3`"), "{output:?}");
    assert!(printed(here, &["labels", "reset", "dock 3"]).contains("is removed"));
}

#[test]
fn a_set_is_exported_as_a_file_that_is_a_label_set_again() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    config(here, "listen: 127.0.0.1:0");
    assert_eq!(printed(here, &["labels", "export", "dock 3"]), SET);
    put_copy(here);
    let out = here.join("out.yaml");
    assert_eq!(printed(here, &["labels", "export", "dock 3", "-o", out.to_str().unwrap()]), "");
    assert_eq!(fs::read_to_string(&out).unwrap(), SET.replace("forklift", "truck"));
    let output = vtagd(here).args(["labels", "check"]).arg(&out).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(run(here, &["labels", "export", "yard"]).status.code(), Some(2));
}

#[test]
fn without_streams_a_daemon_waits_for_a_reload_that_brings_some_and_goes_on_when_the_last_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let none = config(here, "listen: 127.0.0.1:0");
    let mut daemon = Daemon::start(here, &none);
    daemon.wait_ready();
    let streams = |daemon: &mut Daemon| -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(&daemon.get("/api/v1/streams").1).unwrap()["streams"].take()
    };
    assert_eq!(streams(&mut daemon), serde_json::json!([]));
    let clip = root().join("demo/clip.mp4");
    let some = none
        .replace("streams: []", &format!("streams: [{{ id: gate, url: \"file://{}\", loop: true }}]", clip.display()));
    fs::write(here.join("vtagd.yaml"), some).unwrap();
    daemon.signal(libc::SIGHUP);
    eventually("the stream is up", || daemon.get("/api/v1/streams").1.contains("\"state\":\"up\"").then_some(()));
    fs::write(here.join("vtagd.yaml"), &none).unwrap();
    daemon.signal(libc::SIGHUP);
    daemon.wait_for_log("left=[\"gate\"]");
    daemon.wait_for_log("frames accounted");
    // It would have ended by the next turn of its loop.
    eventually("it goes on", || (streams(&mut daemon) == serde_json::json!([])).then_some(()));
    assert!(!daemon.log().contains("every stream has ended"));
    assert!(daemon.stop().success());

    fs::write(here.join("vtagd.yaml"), none.replace("listen: 127.0.0.1:0", "listen: off")).unwrap();
    let output = run(here, &["check"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("streams: is empty") && said.contains("let the API listen"), "{said}");
}
