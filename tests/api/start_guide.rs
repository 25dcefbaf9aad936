//! docs/start.md as somebody follows it: its files and commands, with a camera of ours where the guide has its gate, up to the picture and the label that stands
//! beside it.

use std::process::Command;

use crate::common::camera::{Auth, Camera, Codec, Content};
use crate::common::daemon::{Daemon, eventually, root, vtagd};
use serde_json::Value;

const PASSWORD: &str = "gate-word-1234";

/// The blocks of a language in a text.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let begins = format!("```{language}\n");
    text.split(&begins).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

fn get(url: &str, token: &str, path: &str) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut answer =
        agent.get(format!("{url}{path}")).header("Authorization", format!("Bearer {token}")).call().unwrap();
    let body = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&body).unwrap_or_default())
}

#[test]
fn the_guides_files_and_commands_lead_to_a_camera_that_is_up_and_a_label_that_stands() {
    let folder = tempfile::tempdir().unwrap();
    let guide = std::fs::read_to_string(root().join("docs/start.md")).unwrap();
    let auth = Auth { user: "viewer".into(), password: PASSWORD.into(), digest: true };
    let camera = Camera::start(Content::Looped(root().join("demo/clip.mp4"), 60), Codec::H264, Some(auth));
    let [config, labels] = &blocks(&guide, "yaml")[..] else { panic!("two YAML blocks are expected") };
    let (theirs, ours) = ("rtsp://10.0.0.12/stream1", camera.url().to_string());
    assert!(config.contains(theirs) && config.contains("listen: 127.0.0.1:8642"), "{config}");
    let config = config.replace(theirs, &ours).replace("127.0.0.1:8642", "127.0.0.1:0");
    std::fs::write(folder.path().join("labels.yaml"), labels).unwrap();
    std::fs::write(folder.path().join("camera.yaml"), &config).unwrap();

    let lines: Vec<String> = blocks(&guide, "sh").join("\n").lines().map(str::to_owned).collect();
    let line =
        |word: &str| lines.iter().find(|line| line.contains(word)).unwrap_or_else(|| panic!("{word}: {lines:?}"));
    let made = Command::new("sh").args(["-c", line("> token")]).current_dir(folder.path()).status().unwrap();
    assert!(made.success());
    // As it stands there, with the program of this build and the password of this camera.
    let arguments = |word: &str| -> Vec<String> {
        let rest = line(word).split("target/release/vtagd ").nth(1).unwrap();
        rest.replace("camera.yaml", &folder.path().join("camera.yaml").display().to_string())
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    let checked = vtagd(folder.path()).env("GATE_PASSWORD", PASSWORD).args(arguments("vtagd check")).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert_eq!(arguments("vtagd run")[..2], ["run", "-c"]);

    let mut daemon = Daemon::start_with_env(folder.path(), &config, &[("GATE_PASSWORD", PASSWORD)]);
    let (url, token) = (daemon.url(), std::fs::read_to_string(folder.path().join("token")).unwrap());
    let token = token.trim();
    eventually("it is ready", || (get(&url, token, "/readyz").0 == 200).then_some(()));
    eventually("the camera's picture is there", || {
        (get(&url, token, "/api/v1/pictures?streams=gate").1["pictures"][0]["stream"] == "gate").then_some(())
    });
    eventually("the label stands beside it", || {
        let scores = get(&url, token, "/api/v1/streams/gate/scores").1["scores"].clone();
        scores
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["label"] == "car" && one["score"].is_number()))
            .then_some(())
    });
    // What it names at the end answers too.
    assert!(guide.contains("`vtagd explain gate car`"));
    std::fs::write(folder.path().join("asked.yaml"), config.replace("127.0.0.1:0", url.trim_start_matches("http://")))
        .unwrap();
    let mut explain = vtagd(folder.path());
    explain.env("GATE_PASSWORD", PASSWORD).args(["explain", "gate", "car", "-c"]).arg(folder.path().join("asked.yaml"));
    let explained = explain.output().unwrap();
    assert!(explained.status.success(), "{}", String::from_utf8_lossy(&explained.stderr));
    assert!(String::from_utf8_lossy(&explained.stdout).contains("car"));
    assert!(!daemon.log().contains(PASSWORD));
    daemon.stop();
    camera.stop();
}
