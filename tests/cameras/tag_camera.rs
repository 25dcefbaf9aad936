//! `vtagd tag` watches a camera by its address, for as long as it is told to.

use crate::common::camera::{Auth, Camera, Codec, Content, free_port};
use crate::common::daemon::{eventually, root, vtagd};
use serde_json::Value;

const SET: [&str; 2] = ["--labels", "config/labels/demo.yaml"];

fn lines(output: &std::process::Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_camera_is_watched_for_its_seconds_and_its_password_is_shown_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let auth = Auth { user: "viewer".into(), password: "Zq7TailXk9".into(), digest: true };
    let camera = Camera::start(Content::File(root().join("demo/clip.mp4")), Codec::H264, Some(auth));
    let address = camera.url().to_string().replace("rtsp://", "rtsp://viewer:Zq7TailXk9@");
    let plot = folder.path().join("camera.svg");
    let mut command = vtagd(folder.path());
    command.args(["-v", "tag", &address, "--every", "500ms", "--seconds", "4", "--events", "--json", "--plot"]);
    let output = command.arg(&plot).args(SET).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines = lines(&output);
    let summary = &lines.last().unwrap()["summary"];
    // The last one was before four seconds, and is told in whole milliseconds.
    assert!(summary["samples"].as_u64() >= Some(2) && summary["to"].as_f64() <= Some(4.0), "{summary}");
    let end = lines.iter().find(|line| line["type"] == "dev.vtagd.tag.end").expect("the cat is there all the time");
    assert_eq!((&end["data"]["label"], &end["data"]["reason"]), (&"cat".into(), &"shutdown".into()));
    let all = [output.stdout, output.stderr, std::fs::read(&plot).unwrap()].concat();
    assert!(!String::from_utf8_lossy(&all).contains("Zq7TailXk9"));
}

#[test]
fn ctrl_c_ends_a_camera_and_its_events_and_summary_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let camera = Camera::start(Content::File(root().join("demo/clip.mp4")), Codec::H264, None);
    let printed = folder.path().join("printed");
    let mut command = vtagd(folder.path());
    command.args(["tag", camera.url().as_str(), "--every", "500ms", "--events", "--json"]).args(SET);
    let mut child = command.stdout(std::fs::File::create(&printed).unwrap()).spawn().unwrap();
    let said = || std::fs::read_to_string(&printed).unwrap();
    eventually("a start", || said().contains("dev.vtagd.tag.start").then_some(()));
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert!(child.wait().unwrap().success());
    assert!(
        said().contains("dev.vtagd.tag.end") && said().lines().last().unwrap().contains("\"summary\""),
        "{}",
        said()
    );
}

#[test]
fn a_camera_that_is_not_there_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("rtsp://127.0.0.1:{}/x", free_port());
    let output = vtagd(folder.path()).args(["tag", &address]).args(SET).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && told.contains(&address), "{told}");
    assert!(output.stdout.is_empty());
}
