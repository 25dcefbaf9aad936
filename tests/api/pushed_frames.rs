//! Pictures that others send to a stream: who may, what becomes of them, and what their absence means.

use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value;

use crate::common::daemon::{Daemon, eventually, root};

const TOKEN: &str = "a-token-for-the-door-alone";
const ROUTE: &str = "/api/v1/streams/door/frames";

fn start(folder: &Path, model: &str, hold: &str) -> Daemon {
    let set = "set: things\nbackground: [a wall]\nlabels:\n  - { name: cat, prompts: [a cat] }\n";
    std::fs::write(folder.join("set.yaml"), set).unwrap();
    let config = format!(
        "{model}sampling: {{ interval: 300ms }}\nevents: {{ enter: 0.5, exit: 0.3, after: 1s, after_exit: 1s, cooldown: 0s }}\n\
         streams:\n  - {{ id: door, url: \"push://front-door\", push: {{ token: {{ env: DOOR_TOKEN }}, hold: {hold} }} }}\n\
         \x20 - {{ id: open, url: \"push://other\" }}\n\x20 - {{ id: off, url: \"push://off\", enabled: false }}\n\
         labels: [set.yaml]\napi: {{ listen: 127.0.0.1:0 }}\noutbox: {{ path: \":memory:\" }}\n"
    );
    let mut daemon = Daemon::start_with_env(folder, &config, &[("DOOR_TOKEN", TOKEN)]);
    daemon.wait_ready();
    eventually("both wait for pictures", || (daemon.log().matches("waiting for pictures").count() == 2).then_some(()));
    daemon
}

fn cat() -> Vec<u8> {
    std::fs::read(root().join("tests/data/preprocess/chelsea.png")).unwrap()
}

fn push(url: &str, path: &str, authorization: Option<&str>, kind: &str, body: &[u8]) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut request = agent.post(format!("{url}{path}")).header("Content-Type", kind);
    if let Some(value) = authorization {
        request = request.header("Authorization", value);
    }
    let mut answer = request.send(body).unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or_default())
}

#[test]
fn the_streams_own_token_is_good_for_its_route_alone_and_bad_pictures_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = start(folder.path(), "model: { path: none }\n", "1s");
    let (url, cat) = (daemon.url(), cat());
    let bearer = format!("Bearer {TOKEN}");
    let basic = |password: &str| format!("Basic {}", BASE64_STANDARD.encode(format!("cam:{password}")));
    for good in [bearer.clone(), basic(TOKEN)] {
        let (status, told) = push(&url, ROUTE, Some(&good), "image/png", &cat);
        assert!(status == 202 && told["id"].is_string(), "{status} {told}");
    }
    for bad in [None, Some("Bearer other".to_owned()), Some(basic("other")), Some("Digest x".to_owned())] {
        // Nobody reads more of it.
        assert_eq!(push(&url, ROUTE, bad.as_deref(), "image/png", b"x").0, 401, "{bad:?}");
    }
    for (path, authorization, kind, body, wanted) in [
        // The same stream in other letters.
        ("/api/v1/streams/d%6For/frames", None, "image/png", &b"x"[..], 401),
        ("/api/v1/streams/d%6For/frames", Some(&*bearer), "image/png", &cat, 202),
        (ROUTE, Some(&bearer), "text/plain", &cat, 415),
        // As some cameras call what they send.
        (ROUTE, Some(&bearer), "application/octet-stream", &cat, 202),
        (ROUTE, Some(&bearer), "application/octet-stream", b"nothing", 422),
        (ROUTE, Some(&bearer), "image/png", &cat[..1000], 422),
        (ROUTE, Some(&bearer), "image/png", b"nothing", 422),
        ("/api/v1/streams/open/frames", None, "image/png", &cat, 202),
        ("/api/v1/streams/off/frames", None, "image/png", &cat, 409),
        ("/api/v1/streams/nobody/frames", None, "image/png", &cat, 404),
        ("/api/v1/streams/door/frames?wait=2", Some(&bearer), "image/png", &cat, 400),
        // Without a model nothing is looked at.
        ("/api/v1/streams/door/frames?wait=1", Some(&bearer), "image/png", &cat, 503),
    ] {
        let (status, told) = push(&url, path, authorization, kind, body);
        assert_eq!(status, wanted, "{path}: {told}");
        if wanted == 503 {
            assert!(told["error"].as_str().unwrap().contains("no_model"), "{told}");
        }
    }
    // Nothing is changed with it elsewhere.
    let (status, told) = push(&url, "/api/v1/streams/open/pause", Some(&bearer), "text/plain", b"");
    assert!(status == 401 || status == 403, "{status} {told}");
    assert!(!daemon.log().contains(TOKEN));
    daemon.stop_cleanly();
    let log = daemon.log();
    assert!(log.contains("unaccounted=0"), "{log}");
}

#[test]
fn a_picture_stands_for_its_time_and_then_nothing_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = start(folder.path(), "", "3s");
    let (url, bearer) = (daemon.url(), format!("Bearer {TOKEN}"));
    let (status, told) = push(&url, &format!("{ROUTE}?wait=1"), Some(&bearer), "image/png", &cat());
    assert_eq!(status, 200, "{told}");
    let scores = told["scores"].as_array().unwrap();
    assert!(scores[0]["label"] == "cat" && scores[0]["score"].as_f64() > Some(0.5), "{told}");
    // One picture that stands for longer than `after` is enough to start, and its absence to end.
    let ended = eventually("the tag has begun and ended", || {
        let events = daemon.events();
        events.iter().find(|event| event["type"] == "dev.vtagd.tag.end").cloned()
    });
    let data = &ended["data"];
    let lasted = data["media_end"].as_f64().unwrap() - data["media_start"].as_f64().unwrap();
    assert!(data["reason"] == "below_exit" && lasted >= 1.0, "{data}");
    let row: Value = serde_json::from_str(&daemon.get("/api/v1/streams/door").1).unwrap();
    // It was computed once.
    assert_eq!((&row["state"], &row["accounting"]["inferred"]), (&"up".into(), &1.into()), "{row}");
    assert!(row["accounting"]["reused"].as_u64() >= Some(3), "{row}");
}

#[test]
fn by_default_a_picture_stands_for_one_interval_and_starts_nothing_that_has_to_hold() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = start(folder.path(), "", "300ms");
    let (url, bearer) = (daemon.url(), format!("Bearer {TOKEN}"));
    assert_eq!(push(&url, &format!("{ROUTE}?wait=1"), Some(&bearer), "image/png", &cat()).0, 200);
    eventually("it is gone again", || {
        let row: Value = serde_json::from_str(&daemon.get("/api/v1/streams/door/scores").1).unwrap();
        let label = &row["scores"][0];
        (label["state"] == "idle" && label["score"].as_f64() == Some(0.0)).then_some(())
    });
    assert!(daemon.events().is_empty());
}
