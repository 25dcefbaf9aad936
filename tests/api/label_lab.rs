//! The label lab by the API of a real daemon: a label that is thought of has a curve over the past, and one that is saved is in force, tells, and keeps what
//! the set's file says beside it. And who may do that.

use std::path::Path;

use crate::common::camera::{Camera, Codec, Content};
use crate::common::daemon::{Daemon, eventually, root, vtagd};
use serde_json::{Value, json};

const TOKEN: &str = "first-token-0123456789abcdef";
const SET: &str = "# what is in view\nset: things\nbackground: [a wall] # white\nlabels:\n  - name: cat # the old one\n    prompts: [a cat]\n    enter: { margin: 900 }\n    exit: { margin: 899 }\n";

fn start(folder: &Path, history: &str, looks: bool) -> Daemon {
    let clip = format!("file://{}", root().join("demo/clip.mp4").display());
    start_on(folder, history, looks, &format!("url: \"{clip}\", loop: true"))
}

fn start_on(folder: &Path, history: &str, looks: bool, source: &str) -> Daemon {
    std::fs::write(folder.join("token"), TOKEN).unwrap();
    std::fs::write(folder.join("things.yaml"), SET).unwrap();
    let config = format!(
        "model: {{ path: starter }}\nsampling: {{ interval: 500ms }}\nstreams: [{{ id: gate, {source}, enabled: {looks} }}]\n\
         labels: [things.yaml]\nsinks: [{{ type: jsonl, path: \"-\" }}]\noutbox: {{ path: outbox.db }}\nstate: {{ path: state }}\n\
         history: {history}\nevents: {{ after: 0s }}\napi: {{ listen: 127.0.0.1:0, token: {{ file: token }} }}\n"
    );
    let mut daemon = Daemon::start(folder, &config);
    let url = daemon.url();
    eventually("it is ready", || (ask(&url, "GET", "/readyz", &[], None).0 == 200).then_some(()));
    daemon
}

/// With the token, unless other headers are given.
fn ask(
    url: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> (u16, Value, Option<String>) {
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
    let cookie = answer.headers().get("set-cookie").map(|value| value.to_str().unwrap().to_owned());
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null), cookie)
}

fn set(url: &str) -> Value {
    ask(url, "GET", "/api/v1/labels", &[], None).1["sets"][0].clone()
}

#[test]
fn a_label_that_is_thought_of_has_a_curve_and_one_that_is_saved_tells() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = start(folder.path(), "{ path: kept }", true);
    let url = daemon.url();
    let draft = json!({ "label": "launch", "prompts": ["a rocket launch"], "hours": 1 });
    let tried = eventually("the history has something", || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let (status, tried, _) = ask(&url, "POST", "/api/v1/labels/things/try", &[], Some(&draft));
        assert!(status == 200 || status == 503, "{status} {tried}");
        (status == 200 && tried["streams"][0]["rows"].as_u64() > Some(0)).then_some(tried)
    });
    let stream = &tried["streams"][0];
    assert_eq!(
        (stream["stream"].as_str(), stream["region"].as_str(), &tried["label"]),
        (Some("gate"), None, &json!("launch"))
    );
    assert!((1..=720).contains(&stream["curve"].as_array().unwrap().len()));
    let points: Vec<f64> = stream["curve"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
    assert!(!points.is_empty() && stream["now"].is_number(), "{stream}");
    let rows: u64 = stream["histogram"].as_array().unwrap().iter().map(|bar| bar["rows"].as_u64().unwrap()).sum();
    assert_eq!(rows, stream["rows"].as_u64().unwrap());
    assert_eq!(set(&url)["labels"], json!(["cat"]), "trying changes nothing");

    // Whatever it shows is above it.
    let sha256 = set(&url)["sha256"].clone();
    let mut edit =
        json!({ "label": "launch", "prompts": ["a rocket launch"], "enter": -900, "exit": -901, "sha256": sha256 });
    let (status, told, _) = ask(&url, "POST", "/api/v1/labels/things/edit", &[], Some(&edit));
    assert_eq!((status, &told["changed"]), (200, &json!(true)), "{told}");
    let now = set(&url);
    assert_eq!((&now["labels"], &now["in_force"]), (&json!(["cat", "launch"]), &json!("state")));
    assert_eq!(now["copy"]["by"], "the page");
    eventually("it tells", || daemon.events().iter().any(|event| event["data"]["label"] == "launch").then_some(()));
    let export =
        vtagd(folder.path()).args(["labels", "export", "things", "-c"]).arg(folder.path().join("vtagd.yaml")).output();
    let export = String::from_utf8(export.unwrap().stdout).unwrap();
    assert!(export.contains(SET.trim_end()), "comments and order stay:\n{export}");

    // Somebody else's copy is newer by now.
    let (status, told, _) = ask(&url, "POST", "/api/v1/labels/things/edit", &[], Some(&edit));
    assert_eq!(status, 409, "{told}");
    edit["sha256"] = set(&url)["sha256"].clone();
    let (status, told, _) = ask(&url, "POST", "/api/v1/labels/things/edit", &[], Some(&edit));
    assert_eq!((status, &told["changed"]), (200, &json!(false)), "{told}");
    // The file was changed on the disk, which nobody has read yet.
    std::fs::write(folder.path().join("things.yaml"), SET.replace("white", "grey")).unwrap();
    edit["enter"] = json!(-800);
    let (status, told, _) = ask(&url, "POST", "/api/v1/labels/things/edit", &[], Some(&edit));
    assert!(status == 409 && told["error"].as_str().unwrap().contains("labels reset"), "{told}");
    daemon.stop();
}

#[test]
fn a_set_is_changed_by_nobody_but_a_page_of_this_host_with_the_session_and_json() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = start(folder.path(), "off", false);
    let url = daemon.url();
    let edit = json!({ "label": "dog", "sha256": set(&url)["sha256"] });
    let bearer = format!("Bearer {TOKEN}");
    let (_, session, cookie) = ask(&url, "POST", "/api/v1/session", &[("Authorization", &bearer)], None);
    let cookie = cookie.unwrap().split(';').next().unwrap().to_owned();
    let csrf = session["csrf_token"].as_str().unwrap().to_owned();
    let by = |headers: &[(&str, &str)]| ask(&url, "POST", "/api/v1/labels/things/edit", headers, Some(&edit)).0;
    let json = ("Content-Type", "application/json");
    let (cookie, csrf) = (("Cookie", &*cookie), ("X-CSRF-Token", &*csrf));
    assert_eq!(by(&[json]), 401, "nobody");
    assert_eq!(by(&[json, cookie]), 403, "a page from elsewhere has the cookie alone");
    assert_eq!(by(&[json, cookie, csrf, ("Origin", "https://evil.example")]), 403);
    assert_eq!(by(&[json, cookie, csrf, ("Origin", "null")]), 403);
    assert_eq!(by(&[("Content-Type", "text/plain"), cookie, csrf]), 415, "what a form can send");
    assert_eq!(set(&url)["in_force"], "file");
    assert_eq!(by(&[json, cookie, csrf, ("Origin", &url)]), 200);
    assert_eq!(set(&url)["labels"], json!(["cat", "dog"]));

    // Without a history the lab says why it has nothing to show; names are data, whatever they look like.
    let (status, told, _) = ask(&url, "POST", "/api/v1/labels/things/try", &[], Some(&json!({ "label": "dog" })));
    assert!(status == 409 && told["error"].as_str().unwrap().contains("history"), "{told}");
    let named = "<img src=x onerror=alert(1)>";
    let edit = json!({ "label": named, "prompts": ["a dog"], "sha256": set(&url)["sha256"] });
    let (status, told, _) = ask(&url, "POST", "/api/v1/labels/things/edit", &[], Some(&edit));
    assert_eq!(status, 200, "{told}");
    assert_eq!(set(&url)["labels"], json!(["cat", "dog", named]));
    daemon.stop();
}

#[test]
fn a_moment_of_the_past_becomes_an_example_and_a_camera_has_a_calibration_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let camera = Camera::start(Content::Looped(root().join("demo/clip.mp4"), 60), Codec::H264, None);
    let source = format!("url: \"{}\"", camera.url());
    let mut daemon = start_on(folder.path(), "{ path: kept, min_change: 0 }", true, &source);
    let url = daemon.url();
    let post = |path: &str, body: &Value| ask(&url, "POST", path, &[], Some(body));
    let set_of = |what: &str| set(&url)[what].clone();
    let edit = json!({ "label": "launch", "prompts": ["a rocket launch"], "enter": 0, "exit": -1, "sha256": set_of("sha256") });
    assert_eq!(post("/api/v1/labels/things/edit", &edit).0, 200);
    let question = json!({ "stream": "gate", "label": "launch" });
    let (status, told, _) = post("/api/v1/labels/things/report", &question);
    assert!(status == 422 && told["error"].as_str().unwrap().contains("mark"), "nothing is marked: {status} {told}");

    // It was there, and then it was not for a while.
    let find = |kind: &str| {
        let path = format!("/api/v1/events?label=launch&type={kind}");
        ask(&url, "GET", &path, &[], None).1["events"].as_array().and_then(|events| events.last().cloned())
    };
    let end = eventually("a rocket has come and gone", || find("end"));
    let id = end["id"].as_str().unwrap();
    let (status, told, _) = ask(&url, "POST", &format!("/api/v1/events/{id}/mark?verdict=right"), &[], None);
    assert_eq!(status, 200, "{told}");
    let gone: jiff::Timestamp = end["data"]["ended_at"].as_str().unwrap().parse().unwrap();
    let second = |seconds: i64| gone + jiff::SignedDuration::from_secs(seconds);
    eventually("it was away for long enough", || (jiff::Timestamp::now() > second(13)).then_some(()));
    let mark =
        format!("/api/v1/marks?stream=gate&set=things&kind=absent&label=launch&from={}&to={}", second(2), second(12));
    assert_eq!(ask(&url, "POST", &mark, &[], None).0, 200);

    let (status, found, _) = eventually("the history has it", || {
        let told = post("/api/v1/labels/things/calibrate", &question);
        (told.0 == 200).then_some(told)
    });
    let launch = &found["labels"][0];
    assert!(status == 200 && launch["found"]["enter"]["margin"].is_number(), "{status} {found}");
    assert_eq!((&launch["label"], &found["written"]), (&json!("launch"), &Value::Null));
    let from = || {
        let scores = ask(&url, "GET", "/api/v1/streams/gate/scores", &[], None).1["scores"].clone();
        let launch = scores.as_array().and_then(|all| all.iter().find(|one| one["label"] == "launch").cloned());
        launch.unwrap_or_default()["thresholds_from"].clone()
    };
    assert_eq!(from(), "configuration");
    let keep = json!({ "stream": "gate", "label": "launch", "write": true });
    let (status, found, _) = post("/api/v1/labels/things/calibrate", &keep);
    assert!(status == 200 && found["written"].is_string(), "{status} {found}");
    eventually("it is in force", || (from() == "calibration").then_some(()));
    let (status, report, _) = post("/api/v1/labels/things/report", &question);
    assert_eq!((status, &report["labels"][0]["thresholds_from"]), (200, &json!("calibration")), "{report}");
    // Only who may change something keeps it; and no name becomes an option.
    let json = [("Content-Type", "application/json")];
    assert_eq!(ask(&url, "POST", "/api/v1/labels/things/calibrate", &json, Some(&keep)).0, 401);
    let (status, told, _) = post("/api/v1/labels/--help/report", &json!({ "stream": "--clip=/etc/passwd" }));
    assert_eq!(status, 422, "{told}");

    let middle = |event: &Value| event["data"]["sampled_at"].clone();
    let learn = |key: &str, at: Value, sha256: Value| {
        let body = json!({ "label": "launch", "prompts": ["a rocket launch"], key: [{ "stream": "gate", "at": at }], "sha256": sha256 });
        post("/api/v1/labels/things/edit", &body)
    };
    let start = find("start").unwrap();
    let (status, told, _) = learn("counter_examples", json!(second(6)), set_of("sha256"));
    assert_eq!(status, 200, "{told}");
    let (status, told, _) = learn("examples", middle(&start), set_of("sha256"));
    assert_eq!((status, &told["changed"]), (200, &json!(true)), "{told}");
    let (status, told, _) = learn("examples", middle(&start), set_of("sha256"));
    assert_eq!((status, &told["changed"]), (200, &json!(false)), "once is enough: {told}");
    let details = set_of("details");
    let launch = details.as_array().unwrap().iter().find(|one| one["label"] == "launch").unwrap();
    assert_eq!((&launch["examples"], &launch["counter_examples"]), (&json!(1), &json!(1)));
    let (status, told, _) = learn("examples", json!("2020-01-01T00:00:00Z"), set_of("sha256"));
    assert!(status == 422 && told["error"].as_str().unwrap().contains("nothing of that moment"), "{status} {told}");
    daemon.stop();
    camera.stop();
}
