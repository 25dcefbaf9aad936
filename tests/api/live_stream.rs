//! The live stream of a real daemon that watches a real RTSP camera.

use std::path::Path;

use crate::common::camera::{Camera, Codec, Content};
use crate::common::daemon::{Daemon, eventually, root};
use crate::common::sse::{Message, Sse};

const LABELS: &str = "set: things\nlabels:\n  - { name: cat, prompts: [a cat] }\n  - { name: rocket, prompts: [a rocket] }\n\
    \x20 - { name: cup, prompts: [a cup of coffee] }\n";
const TOKEN: &str = "first-token-0123456789abcdef";

/// A camera whose picture is another one every eight seconds.
fn camera() -> Camera {
    Camera::start(Content::Looped(root().join("demo/clip.mp4"), 40), Codec::H264, None)
}

fn start(folder: &Path, camera: &Camera, api: &str) -> Daemon {
    std::fs::write(folder.join("set.yaml"), LABELS).unwrap();
    let config = format!(
        "sampling: {{ interval: 200ms, decode: all }}\nstreams:\n  - {{ id: gate, url: \"{}\" }}\n  - {{ id: off, url: \"rtsp://127.0.0.1:9/\", enabled: false }}\n\
         labels: [set.yaml]\nevents: {{ enter: 0.5, exit: 0.5, after: 0s, after_exit: 0s, cooldown: 0s }}\n\
         sinks: [{{ type: jsonl, name: file, path: events.jsonl }}]\noutbox: {{ path: outbox.db }}\napi: {{ listen: 127.0.0.1:0{api} }}\n",
        camera.url()
    );
    Daemon::start(folder, &config)
}

fn state<'a>(message: &'a Message, id: &str) -> Option<&'a str> {
    message.data["streams"].as_array()?.iter().find(|row| row["id"] == id)?["state"].as_str()
}

#[test]
fn scores_events_and_states_of_a_camera_come_while_they_happen() {
    let folder = tempfile::tempdir().unwrap();
    let mut camera = camera();
    let mut daemon = start(folder.path(), &camera, "");
    let url = daemon.url();
    daemon.wait_ready();
    let mut live = Sse::open(&url, "/api/v1/live", "");
    assert!(
        live.head.starts_with("HTTP/1.1 200") && live.head.contains("content-type: text/event-stream"),
        "{}",
        live.head
    );
    let first = live.find("status", |_| true);
    assert_eq!((first.data["whole"].as_bool(), state(&first, "off")), (Some(true), Some("disabled")), "{first:?}");
    assert_eq!(first.data["sinks"][0]["name"], "file");
    live.find("heartbeat", |beat| beat.data["at"].is_string());

    let scores = live.find("scores", |scores| scores.data["stream"] == "gate");
    let cat = &scores.data["scores"][0];
    assert_eq!((&cat["set"], &cat["label"], cat.get("region")), (&"things".into(), &"cat".into(), Some(&().into())));
    assert!(
        cat["score"].is_number() && cat["margin"].is_number() && cat["rival"].is_string() && cat["state"].is_string()
    );
    let another = live.find("scores", |_| true);
    assert_ne!(another.data["at"], scores.data["at"], "a sample is told once");

    let event = live.find("event", |event| event.data["type"] == "dev.vtagd.tag.start");
    assert_eq!(event.id.as_deref(), event.data["id"].as_str());
    assert_eq!(event.data["data"]["stream"], "gate");

    // Only what was asked for, and heartbeats.
    let mut few = Sse::open(&url, "/api/v1/live?kinds=status&streams=off", "");
    let first = few.find("status", |_| true);
    assert_eq!(first.data["streams"].as_array().unwrap().len(), 1, "{first:?}");
    // A sink may come up meanwhile.
    let kinds = std::iter::from_fn(|| few.next()).map(|message| message.event).find(|kind| kind != "status");
    assert_eq!(kinds.as_deref(), Some("heartbeat"));

    // For a time, and then it ends as an answer ends.
    let mut short = Sse::open(&url, "/api/v1/live?for=1", "");
    assert_eq!(std::iter::from_fn(|| short.next()).next().map(|first| first.event).as_deref(), Some("status"));
    while short.next().is_some() {}
    assert!(short.ended_well);

    camera.kill();
    let down = live.find("status", |status| state(status, "gate") == Some("down"));
    assert!(down.data["whole"] == false && state(&down, "off").is_none(), "only what has changed: {down:?}");

    // Everybody is told that it ends.
    daemon.stop_cleanly();
    while live.next().is_some() {}
    while few.next().is_some() {}
    assert!(live.ended_well && few.ended_well);
}

#[test]
fn who_comes_back_hears_the_events_in_between_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let camera = camera();
    let mut daemon = start(folder.path(), &camera, "");
    let url = daemon.url();
    let mut live = Sse::open(&url, "/api/v1/live?kinds=event", "");
    let told: Vec<String> = (0..4).map(|_| live.find("event", |_| true).id.unwrap()).collect();
    drop(live);
    let resume = |url: &str, id: &str| Sse::open(url, "/api/v1/live?kinds=event", &format!("Last-Event-ID: {id}\r\n"));
    let mut again = resume(&url, &told[0]);
    let heard: Vec<String> = (1..4).map(|_| again.find("event", |_| true).id.unwrap()).collect();
    assert_eq!(heard, told[1..]);
    daemon.stop_cleanly();

    let mut daemon = start(folder.path(), &camera, "");
    let url = daemon.url();
    let mut again = resume(&url, &told[1]);
    let heard: Vec<String> = (2..4).map(|_| again.find("event", |_| true).id.unwrap()).collect();
    assert_eq!(heard, told[2..]);
    // One that nobody knows: that something may be missing is told, and it begins with what comes next.
    let mut stranger = resume(&url, "019a1b2c-0000-7000-8000-000000000000");
    let lost = stranger.next().unwrap();
    assert_eq!((lost.event.as_str(), &lost.data["kind"], &lost.data["count"]), ("lost", &"event".into(), &().into()));
    assert!(!told.contains(&stranger.find("event", |_| true).id.unwrap()));
    daemon.stop_cleanly();
}

#[test]
fn more_clients_than_there_is_room_for_are_refused_and_a_revoked_token_ends_its_streams() {
    let folder = tempfile::tempdir().unwrap();
    let camera = camera();
    std::fs::write(folder.path().join("token"), TOKEN).unwrap();
    let mut daemon = start(folder.path(), &camera, ", token: { file: token }");
    let url = daemon.url();
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    // From then on its streams are known.
    let mut first = Sse::open(&url, "/api/v1/live", &bearer);
    first.find("scores", |_| true);
    assert!(Sse::open(&url, "/api/v1/live", "").head.starts_with("HTTP/1.1 401"));
    for (query, status) in [
        ("kinds=all", 400),
        ("kind=event", 400),
        ("kinds=", 400),
        ("streams=nobody", 404),
        ("for=0", 400),
        ("for=1m", 400),
    ] {
        let head = Sse::open(&url, &format!("/api/v1/live?{query}"), &bearer).head;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{query}: {head}");
    }
    let mut clients = vec![first];
    eventually("all places are taken", || {
        let client = Sse::open(&url, "/api/v1/live?kinds=scores", &bearer);
        let is_refused = client.head.starts_with("HTTP/1.1 503");
        if is_refused {
            assert!(client.head.contains("retry-after: "), "{}", client.head);
        } else {
            clients.push(client);
        }
        is_refused.then_some(())
    });
    assert_eq!(clients.len(), 64);
    for client in &mut clients {
        client.find("scores", |scores| scores.data["stream"] == "gate");
    }

    // The same token again ends nothing; another one ends them all.
    daemon.signal(libc::SIGHUP);
    daemon.wait_for_log("the new configuration runs");
    clients[0].find("scores", |_| true);
    std::fs::write(folder.path().join("token"), "another-token-0123456789").unwrap();
    daemon.signal(libc::SIGHUP);
    for client in &mut clients {
        while client.next().is_some() {}
        assert!(client.ended_well);
    }
    daemon.stop_cleanly();
    let log = daemon.log();
    let gate = log.lines().find(|line| line.contains("frames accounted") && line.contains("stream=gate")).unwrap();
    assert!(gate.contains("unaccounted=0"), "{gate}");
}
