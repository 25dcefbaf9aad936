//! The first steps by the API of a real daemon that has no stream yet: cameras are found, one is looked at, added, outlives a restart and is removed again. What
//! may not be added, who may add, and where the password is and is not.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::camera::{Auth, Camera, Codec, Content};
use crate::common::daemon::{Daemon, eventually, root, vtagd};
use crate::common::onvif::{Behaviour, Device, Responder, answer, scopes};
use serde_json::{Value, json};

const TOKEN: &str = "first-token-0123456789abcdef";
const PASSWORD: &str = "hunter2-äß&<\"'#";

fn config(streams: &str, more: &str) -> String {
    format!(
        "model: {{ path: none }}\nstreams: {streams}\nsinks: [{{ type: jsonl, path: \"-\" }}]\noutbox: {{ path: \":memory:\" }}\n\
         state: {{ path: state }}\napi: {{ listen: 127.0.0.1:0{more} }}\n"
    )
}

fn start(folder: &Path, streams: &str) -> Daemon {
    std::fs::write(folder.join("token"), TOKEN).unwrap();
    let mut daemon = Daemon::start(folder, &config(streams, ", token: { file: token }"));
    let url = daemon.url();
    eventually("it is ready", || (ask(&url, "GET", "/readyz", &[], None).0 == 200).then_some(()));
    daemon
}

/// Status, kind and body. With the token, unless other headers are given.
fn asked(
    url: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> (u16, String, Vec<u8>) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let bearer = format!("Bearer {TOKEN}");
    let own = [("Authorization", &*bearer), ("Content-Type", "application/json")];
    let mut request = ureq::http::Request::builder().method(method).uri(format!("{url}{path}"));
    for (name, value) in if headers.is_empty() { &own[..] } else { headers } {
        request = request.header(*name, *value);
    }
    let mut answer = match body {
        Some(body) => agent.run(request.body(body.to_string()).unwrap()).unwrap(),
        None => agent.run(request.body(()).unwrap()).unwrap(),
    };
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    (answer.status().as_u16(), kind, answer.body_mut().read_to_vec().unwrap())
}

fn ask(url: &str, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> (u16, Value) {
    let (status, _, bytes) = asked(url, method, path, headers, body);
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

fn post(url: &str, path: &str, body: &Value) -> (u16, Value) {
    ask(url, "POST", path, &[], Some(body))
}

fn streams(url: &str) -> Value {
    ask(url, "GET", "/api/v1/streams", &[], None).1
}

fn state_of(url: &str, id: &str) -> Value {
    let told = streams(url);
    let row = told["streams"].as_array().unwrap().iter().find(|row| row["id"] == id).cloned();
    row.unwrap_or_default()["state"].clone()
}

#[test]
fn a_camera_is_looked_at_added_kept_over_a_restart_and_removed_and_its_password_stays_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let auth = Auth { user: "viewer".into(), password: PASSWORD.into(), digest: true };
    let camera = Camera::start(Content::pattern(320, 240), Codec::H264, Some(auth));
    let mut daemon = start(folder.path(), "[]");
    let url = daemon.url();
    assert_eq!(streams(&url)["additions"], json!({ "streams": [], "obstacle": null }));

    let mut new = json!({ "url": camera.url().as_str(), "username": "viewer", "password": "wrong-word" });
    let (status, told) = post(&url, "/api/v1/preview", &new);
    assert!(status == 422 && told["error"].as_str().is_some_and(|why| !why.is_empty()), "{status} {told}");
    let log = daemon.log();
    let looked: Vec<&str> = log.lines().filter(|line| line.contains("stream=Preview")).collect();
    let path = camera.url().path().to_owned();
    assert!(
        path.len() > 1 && !looked.is_empty() && looked.iter().all(|line| !line.contains(&path)),
        "{path}: {looked:?}"
    );
    new["password"] = json!(PASSWORD);
    let (status, kind, picture) = asked(&url, "POST", "/api/v1/preview", &[], Some(&new));
    assert_eq!((status, &*kind, &picture[..2]), (200, "image/jpeg", &[0xff, 0xd8][..]));

    new["id"] = json!("gate");
    let (status, told) = post(&url, "/api/v1/streams", &new);
    assert_eq!((status, told), (200, json!({ "stream": "gate", "changed": true })));
    eventually("it shows something", || (state_of(&url, "gate") == "up").then_some(()));
    assert_eq!(streams(&url)["additions"]["streams"], json!(["gate"]));
    let (status, told) = post(&url, "/api/v1/streams", &new);
    assert!(status == 409 && told["error"].as_str().unwrap().contains("another id"), "{status} {told}");

    let state = folder.path().join("state");
    let secret = state.join("passwords/gate");
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), PASSWORD);
    assert_eq!(secret.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let kept = std::fs::read_to_string(state.join("streams.yaml")).unwrap();
    assert!(kept.contains("\"viewer\"") && kept.contains("passwords/gate"), "{kept}");

    daemon.stop_cleanly();
    let log = daemon.log();
    assert!(log.contains("action=\"add a stream\"") && log.contains("action=\"look at a camera\""), "{log}");
    let file = folder.path().join("vtagd.yaml");
    let shown = vtagd(folder.path()).args(["config", "show", "-c"]).arg(&file).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("\"gate\""), "{shown}");
    for (what, text) in [("the log", &log), ("config show", &shown), ("the file", &kept)] {
        assert!(!text.contains("hunter2") && !text.contains("wrong-word"), "{what}: {text}");
    }

    let mut daemon = start(folder.path(), "[]");
    let url = daemon.url();
    eventually("it is there again", || (state_of(&url, "gate") == "up").then_some(()));
    let (status, told) = ask(&url, "DELETE", "/api/v1/streams/gate", &[], None);
    assert_eq!((status, told), (200, json!({ "stream": "gate", "changed": true })));
    eventually("it is gone", || state_of(&url, "gate").is_null().then_some(()));
    assert!(!secret.exists() && !state.join("streams.yaml").exists());
    assert_eq!(ask(&url, "DELETE", "/api/v1/streams/gate", &[], None).0, 404);
    daemon.stop_cleanly();
    camera.stop();
}

#[test]
fn a_stream_of_the_configuration_counts_and_a_damaged_file_keeps_nobody_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let ours = "streams:\n  - { id: \"gate\", url: \"rtsp://127.0.0.1:9/added\" }\n  - { id: \"yard\", url: \"rtsp://127.0.0.1:9/\", password: { file: \"passwords/yard\" } }\n";
    std::fs::write(state.join("streams.yaml"), ours).unwrap();
    let own = "[{ id: gate, url: 'rtsp://127.0.0.1:9/own', enabled: false }]";
    let mut daemon = start(folder.path(), own);
    let url = daemon.url();
    let told = streams(&url);
    assert_eq!(told["streams"].as_array().unwrap().len(), 1, "{told}");
    assert_eq!((&told["streams"][0]["id"], &told["streams"][0]["state"]), (&json!("gate"), &json!("disabled")));
    assert_eq!(told["additions"]["streams"], json!(["gate", "yard"]), "both can be removed");
    let log = daemon.log();
    assert!(log.contains("a stream `gate` of its own") && log.contains("passwords/yard"), "{log}");
    // The one that is added is removed, and the one of the configuration stays.
    assert_eq!(ask(&url, "DELETE", "/api/v1/streams/gate", &[], None).0, 200);
    assert_eq!(state_of(&url, "gate"), "disabled");
    let (status, why) = ask(&url, "DELETE", "/api/v1/streams/gate", &[], None);
    assert!(status == 409 && why["error"].as_str().unwrap().contains("configuration"), "{status} {why}");
    std::fs::write(state.join("streams.yaml"), "streams: [\n").unwrap();
    let (status, told) = ask(&url, "POST", "/api/v1/reload", &[], None);
    assert_eq!((status, told), (200, json!({ "result": "applied" })));
    let (status, why) = post(&url, "/api/v1/streams", &json!({ "id": "new", "url": "rtsp://127.0.0.1:9/" }));
    assert!(status == 422 && why["error"].as_str().unwrap().contains("by hand"), "{status} {why}");
    daemon.stop_cleanly();
}

#[test]
fn only_cameras_of_the_network_are_added_and_only_by_who_may() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = start(folder.path(), "[]");
    let url = daemon.url();
    for address in [
        "file:///etc/passwd",
        "v4l2:///dev/video0",
        "push://gate",
        "udp://0.0.0.0:5000",
        "/dev/video0",
        "http://127.0.0.1:9/x?password=hunter2-word",
    ] {
        for path in ["/api/v1/streams", "/api/v1/preview"] {
            let (status, told) = post(&url, path, &json!({ "id": "gate", "url": address }));
            assert_eq!(status, 422, "{path} {address}: {told}");
            assert!(
                !told["problems"][0]["remedy"].as_str().unwrap().is_empty() && !told.to_string().contains("hunter2"),
                "{told}"
            );
        }
    }
    let fine = json!({ "id": "gate", "url": "rtsp://127.0.0.1:9/" });
    for (body, status) in [
        (json!({ "id": "../gate", "url": "rtsp://127.0.0.1:9/" }), 422),
        (json!({ "id": "gate", "url": "rtsp://127.0.0.1:9/", "pipeline": "x" }), 400),
        (json!({ "id": "gate", "url": "rtsp://127.0.0.1:9/\n" }), 400),
        (json!([]), 400),
    ] {
        assert_eq!(post(&url, "/api/v1/streams", &body).0, status, "{body}");
    }
    let bearer = format!("Bearer {TOKEN}");
    let (_, session) = ask(&url, "POST", "/api/v1/session", &[("Authorization", &bearer)], None);
    assert!(session["csrf_token"].is_string());
    for path in ["/api/v1/streams", "/api/v1/preview", "/api/v1/discover"] {
        let by = |headers: &[(&str, &str)]| ask(&url, "POST", path, headers, Some(&fine)).0;
        let json = ("Content-Type", "application/json");
        assert_eq!(by(&[json]), 401, "{path}");
        assert_eq!(by(&[json, ("Authorization", &bearer), ("Origin", "https://evil.example")]), 403, "{path}");
        assert_eq!(by(&[("Content-Type", "text/plain"), ("Authorization", &bearer)]), 415, "{path}");
    }
    assert!(!folder.path().join("state/streams.yaml").exists());
    assert_eq!(streams(&url)["streams"], json!([]));
    daemon.stop_cleanly();

    // Without a token it says what to write, and does nothing.
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(folder.path(), &config("[]", ""));
    let url = daemon.url();
    let json = [("Content-Type", "application/json")];
    eventually("it is ready", || (ask(&url, "GET", "/readyz", &json, None).0 == 200).then_some(()));
    let told = ask(&url, "GET", "/api/v1/streams", &json, None).1;
    assert!(told["additions"]["obstacle"].as_str().unwrap().contains("openssl rand -hex 32"), "{told}");
    for path in ["/api/v1/streams", "/api/v1/preview"] {
        assert_eq!(ask(&url, "POST", path, &json, Some(&fine)).0, 403, "{path}");
    }
    daemon.stop_cleanly();
}

#[test]
fn cameras_that_answer_are_told_with_their_streams_and_example_sets_with_their_labels() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::start(Behaviour { login: Some(("viewer", PASSWORD)), ..Behaviour::default() });
    let (xaddr, named) = (device.xaddr(), scopes("Dock%20Camera%203"));
    let responder = Responder::start(move |id| vec![answer(id, "urn:uuid:cam-1", &named, &xaddr)]);
    let mut daemon = start(folder.path(), "[]");
    let url = daemon.url();
    let mut question = json!({ "address": responder.address.to_string() });
    let (status, told) = post(&url, "/api/v1/discover", &question);
    assert_eq!((status, &told["devices"][0]["id"]), (200, &json!("dock-camera-3")), "{told}");
    assert!(told["devices"][0]["error"].as_str().unwrap().contains("look again"), "{told}");
    (question["username"], question["password"]) = (json!("viewer"), json!(PASSWORD));
    let (status, told) = post(&url, "/api/v1/discover", &question);
    let stream = &told["devices"][0]["streams"][0];
    assert!(status == 200 && stream["url"].as_str().unwrap().starts_with("rtsp://"), "{told}");
    assert!(!told.to_string().contains("hunter2") && !daemon.log().contains("hunter2"));

    let (status, told) = ask(&url, "GET", "/api/v1/example-sets", &[], None);
    let names: Vec<&str> = told["sets"].as_array().unwrap().iter().filter_map(|set| set["set"].as_str()).collect();
    assert!(status == 200 && names.contains(&"room"), "{names:?}");
    let room = std::fs::read_to_string(root().join("config/labels/room.yaml")).unwrap();
    for label in told["sets"][0]["labels"].as_array().unwrap() {
        assert!(room.contains(label["label"].as_str().unwrap()), "{label}");
    }
    daemon.stop_cleanly();
}
