//! Marks by the API of the real daemon: added, listed, taken away, and made out of events that were right or wrong; and who may do it.

use std::path::Path;

use crate::common::daemon::{Daemon, eventually, root, vtagd};
use serde_json::{Value, json};

const TOKEN: &str = "first-token-0123456789abcdef";

/// A daemon that looks at the demo clip over and over, and tells every sample as a dog.
fn start(folder: &Path, token: bool) -> Daemon {
    std::fs::write(folder.join("token"), TOKEN).unwrap();
    let set = "set: things\nscoring: independent\nbackground: [a wall]\nlabels:\n  - { name: cat, prompts: [a cat] }\n\
               \x20 - { name: dog, prompts: [a dog], enter: { margin: -25 }, after: 0s }\n";
    std::fs::write(folder.join("things.yaml"), set).unwrap();
    let token = if token { ", token: { file: token }" } else { "" };
    let config = format!(
        "model: {{ path: starter }}\nsampling: {{ interval: 500ms }}\nstreams:\n  - {{ id: gate, url: \"file://{}\", loop: true }}\n\
         \x20 - {{ id: yard, url: \"rtsp://127.0.0.1:9/\", enabled: false, view: {{ regions: [{{ name: left, region: [0, 0, 0.5, 1] }}, {{ name: right, region: [0.5, 0, 0.5, 1] }}] }} }}\n\
         labels: [things.yaml]\nsinks: [{{ type: jsonl, path: \"-\" }}]\noutbox: {{ path: outbox.db }}\nstate: {{ path: state }}\n\
         api: {{ listen: 127.0.0.1:0{token} }}\n",
        root().join("demo/clip.mp4").display()
    );
    let mut daemon = Daemon::start(folder, &config);
    let url = daemon.url();
    let bearer = format!("Bearer {TOKEN}");
    eventually("it is ready", || (ask(&url, "GET", "/readyz", &[("Authorization", &bearer)]).0 == 200).then_some(()));
    daemon
}

fn ask(url: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut request = ureq::http::Request::builder().method(method).uri(format!("{url}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut answer = agent.run(request.body(()).unwrap()).unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&text).unwrap())
}

#[test]
fn marks_are_added_listed_and_removed_and_events_judged_by_who_has_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let mut daemon = start(here, true);
    let url = daemon.url();
    let bearer = format!("Bearer {TOKEN}");
    let by = |method: &str, path: &str| ask(&url, method, path, &[("Authorization", &bearer)]);
    assert_eq!(by("GET", "/api/v1/marks"), (200, json!({ "marks": [], "total": 0 })));

    let seen =
        "/api/v1/marks?stream=gate&set=things&kind=seen&label=cat&from=2026-05-01T12:00:00Z&to=2026-05-01T12:00:08Z";
    let (status, made) = by("POST", seen);
    assert_eq!((status, &made["changed"]), (200, &json!(true)), "{made}");
    let mark = json!({
        "id": made["mark"]["id"], "stream": "gate", "region": null, "set": "things", "label": "cat", "kind": "seen",
        "from": "2026-05-01T12:00:00Z", "to": "2026-05-01T12:00:08Z",
    });
    assert_eq!(made["mark"], mark);
    assert_eq!(by("POST", seen).1["changed"], false, "twice is once");
    let (_, empty) = by("POST", "/api/v1/marks?stream=gate&set=things&kind=empty&from=1&to=4.5");
    assert_eq!((&empty["mark"]["label"], &empty["mark"]["to"]), (&Value::Null, &json!(4.5)));
    // The command sees the same ones.
    let output = vtagd(here).args(["marks", "list", "--json", "-c"]).arg(here.join("vtagd.yaml")).output().unwrap();
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed["streams"]["gate"]["things"]["labels"]["cat"]["seen"].as_array().unwrap().len(), 1, "{listed}");

    let list = |query: &str| by("GET", &format!("/api/v1/marks{query}")).1;
    for (query, total) in
        [("", 2), ("?kind=empty", 1), ("?label=cat", 1), ("?stream=gate&set=things", 2), ("?set=other", 0)]
    {
        assert_eq!(list(query)["total"], total, "{query}");
    }
    let first = list("?limit=1");
    assert_eq!((first["marks"].as_array().unwrap().len(), &first["total"]), (1, &json!(2)));

    for (query, status, part) in [
        ("stream=door&set=things&kind=empty&from=1&to=2", 404, "stream"),
        ("stream=gate&set=other&kind=empty&from=1&to=2", 404, "set"),
        ("stream=gate&set=things&kind=seen&label=cow&from=1&to=2", 404, "label"),
        ("stream=gate&set=things&kind=empty&region=left&from=1&to=2", 404, "it has none"),
        ("stream=yard&set=things&kind=empty&region=top&from=1&to=2", 404, "it has left, right"),
        // It is no file.
        ("stream=yard&set=things&kind=empty&from=1&to=2", 409, "write times such as 2026-05-01T12:00:04Z"),
        ("stream=gate&set=things&kind=seen&from=1&to=2", 409, "label"),
        ("stream=gate&set=things&kind=empty&label=cat&from=1&to=2", 409, "empty"),
        ("stream=gate&set=things&kind=empty&from=2&to=1", 409, "the end is not after"),
        (
            "stream=gate&set=things&kind=absent&label=cat&from=2026-05-01T12:00:02Z&to=2026-05-01T12:00:06Z",
            409,
            "seen and as absent",
        ),
        ("stream=gate&set=things&kind=empty&from=1", 400, "to is missing"),
        ("stream=gate&set=things&kind=empty&from=noon&to=2", 400, "from"),
        ("stream=gate&set=things&kind=often&from=1&to=2", 400, "kind"),
    ] {
        let (got, said) = by("POST", &format!("/api/v1/marks?{query}"));
        assert!(got == status && said["error"].as_str().unwrap().contains(part), "{query}: {got} {said}");
    }
    assert_eq!(list("")["total"], 2, "nothing of it is kept");
    // What is not on the left may be on the right.
    let yard = "/api/v1/marks?stream=yard&set=things&label=dog&from=2026-05-01T12:00:00Z&to=2026-05-01T12:00:08Z";
    let (status, left) = by("POST", &format!("{yard}&kind=absent&region=left"));
    assert_eq!((status, &left["mark"]["region"]), (200, &json!("left")), "{left}");
    assert_eq!(by("POST", &format!("{yard}&kind=seen&region=right")).0, 200);
    let (status, said) = by("POST", &format!("{yard}&kind=seen"));
    assert!(status == 409 && said["error"].as_str().unwrap().contains("in region `left`"), "{said}");
    assert_eq!(list("?region=left"), json!({ "marks": [left["mark"]], "total": 1 }));
    assert_eq!(by("DELETE", &format!("/api/v1/marks/{}", left["mark"]["id"].as_str().unwrap())).0, 200);

    let id = made["mark"]["id"].as_str().unwrap();
    assert_eq!(by("DELETE", &format!("/api/v1/marks/{id}")), (200, json!({ "mark": mark })));
    assert_eq!(by("DELETE", &format!("/api/v1/marks/{id}")).0, 404);
    assert_eq!(by("DELETE", "/api/v1/marks/%ff").0, 400);

    // A tag that is still open is marked as far as it has been told.
    let dog = eventually("a dog", || daemon.events().into_iter().find(|event| event["data"]["label"] == "dog"));
    let judge = |id: &str, verdict: &str| by("POST", &format!("/api/v1/events/{id}/mark?verdict={verdict}"));
    let event = dog["id"].as_str().unwrap();
    let (status, wrong) = judge(event, "wrong");
    assert_eq!((status, &wrong["changed"], &wrong["mark"]["kind"]), (200, &json!(true), &json!("absent")), "{wrong}");
    assert_eq!((&wrong["mark"]["label"], wrong["mark"]["from"].is_string()), (&json!("dog"), true), "{wrong}");
    let began: jiff::Timestamp = dog["data"]["started_at"].as_str().unwrap().parse().unwrap();
    let from: jiff::Timestamp = wrong["mark"]["from"].as_str().unwrap().parse().unwrap();
    assert_eq!(began.duration_since(from).as_millis(), 510);
    assert_eq!(judge(event, "maybe").0, 400);
    assert_eq!(judge("019a1b2c-0000-7000-8000-000000000000", "right").0, 404);
    assert_eq!(list("?stream=gate&label=dog")["total"], 1);

    // A browser's session needs its own token for each change; nobody else may do anything.
    let (_, session) = ask(&url, "POST", "/api/v1/session", &[("Authorization", &bearer)]);
    assert!(session["csrf_token"].is_string(), "{session}");
    let path = "/api/v1/marks?stream=gate&set=things&kind=empty&from=5&to=9";
    assert_eq!(ask(&url, "POST", path, &[]).0, 401);
    let document = ask(&url, "GET", "/api/v1/openapi.json", &[("Authorization", &bearer)]).1;
    let cookie = format!("{}=guessed", document["components"]["securitySchemes"]["session"]["name"].as_str().unwrap());
    assert_eq!(ask(&url, "POST", path, &[("Cookie", &cookie)]).0, 401);
    assert_eq!(ask(&url, "GET", "/api/v1/marks", &[]).0, 401);

    daemon.stop_cleanly();
    let log = daemon.log();
    for action in ["add a mark", "remove a mark", "mark an event"] {
        let told = format!("action=\"{action}\" stream=\"gate\" set=\"things\" outcome=\"done\"");
        assert!(log.contains(&told), "{told}: {log}");
    }
    assert!(!log.contains(TOKEN), "{log}");
}

#[test]
fn without_a_token_marks_are_read_on_this_machine_and_changed_by_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = start(folder.path(), false);
    let url = daemon.url();
    assert_eq!(ask(&url, "GET", "/api/v1/marks", &[]).0, 200);
    for (method, path) in [
        ("POST", "/api/v1/marks?stream=gate&set=things&kind=empty&from=5&to=9"),
        ("DELETE", "/api/v1/marks/5d41402abc4b2a76"),
        ("POST", "/api/v1/events/019a1b2c-0000-7000-8000-000000000000/mark?verdict=right"),
    ] {
        assert_eq!(ask(&url, method, path, &[]).0, 403, "{method} {path}");
    }
    assert_eq!(ask(&url, "GET", "/api/v1/marks", &[]).1["total"], 0);
    // What was damaged is said, and not written over by a look.
    let store = folder.path().join("state/marks.json");
    std::fs::write(&store, "{ \"version\": 1, \"streams\"").unwrap();
    let (status, said) = ask(&url, "GET", "/api/v1/marks", &[]);
    assert!(status == 503 && said["error"].as_str().unwrap().contains("is damaged"), "{status} {said}");
    daemon.stop_cleanly();
}
