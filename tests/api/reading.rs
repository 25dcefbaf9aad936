//! What programs read of a real daemon: events of its whole outbox, one stream and its latest picture, pictures of tags, label sets; and what
//! it refuses to guess.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use vtagd::event::cloud_event::Data;
use vtagd::event::{Event, EventKind, ModelRef};
use vtagd::outbox::{Kernel, Outbox, OutboxSettings};

use crate::common::daemon::{Daemon, eventually, root};

const STORED: usize = 700;

/// An outbox of an earlier run: more events than are remembered, of one every second from 2026-01-01 on.
fn fill(path: &Path) {
    let settings =
        OutboxSettings { path: Some(path.to_owned()), max_size: 1 << 30, max_age: Duration::from_secs(86_400) };
    let (outbox, _, thread) = Outbox::start(settings, Vec::new(), Kernel).unwrap();
    let begun: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    for number in 0..STORED {
        let time = begun + Duration::from_secs(number as u64);
        let kind = if number % 2 == 0 { EventKind::Start } else { EventKind::End };
        let data = Data {
            stream: if number == 3 { "once".into() } else { "yard".into() },
            region: (number % 100 < 4).then(|| "gate".into()),
            set: "lot".into(),
            label: if number % 10 < 2 { "bus".into() } else { "car".into() },
            tag_id: uuid::Uuid::now_v7(),
            score: 0.9,
            margin: Some(2.5),
            rival: None,
            peak: 0.9,
            started_at: time,
            ended_at: None,
            sampled_at: time,
            media_start: 0.0,
            media_end: None,
            reason: (kind == EventKind::End).then_some(vtagd::event::EndReason::BelowExit),
            model: ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None },
            attributes: Arc::default(),
            snapshot: None,
        };
        let event = Event { id: uuid::Uuid::now_v7(), source: "/x/streams/yard".into(), kind, data };
        assert!(outbox.send(&Arc::new(event)));
    }
    outbox.close();
    thread.join().unwrap();
}

struct Asked {
    status: u16,
    tag: Option<String>,
    body: Vec<u8>,
}

fn ask(url: &str, path: &str, headers: &[(&str, &str)]) -> Asked {
    // An address may ask only so often.
    eventually("an answer that is no refusal for asking too often", || {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let request = headers.iter().fold(agent.get(format!("{url}{path}")), |request, (n, v)| request.header(*n, *v));
        let mut answer = request.call().unwrap();
        let tag = answer.headers().get("etag").map(|tag| tag.to_str().unwrap().to_owned());
        let (status, body) = (answer.status().as_u16(), answer.body_mut().read_to_vec().unwrap());
        (status != 429).then_some(Asked { status, tag, body })
    })
}

fn get(url: &str, path: &str) -> Value {
    let answer = ask(url, path, &[]);
    let text = String::from_utf8(answer.body).unwrap();
    assert_eq!(answer.status, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

fn refused(url: &str, path: &str, status: u16) -> String {
    let answer = ask(url, path, &[]);
    let text = String::from_utf8(answer.body).unwrap();
    assert_eq!(answer.status, status, "{path}: {text}");
    serde_json::from_str::<Value>(&text).unwrap()["error"].as_str().unwrap().to_owned()
}

/// Every page of `path` from its newest on: the rows under `key`.
fn pages(url: &str, path: &str, key: &str) -> Vec<Value> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(url, &format!("{path}{cursor}"));
        rows.extend(page[key].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else { return rows };
        cursor = format!("&cursor={next}");
    }
}

fn start(folder: &Path) -> Daemon {
    let config = format!(
        "streams:\n  - {{ id: dock-3, url: \"file://{clip}\", loop: true, sampling: {{ interval: 200ms }} }}\n\
         \x20 - {{ id: seldom, url: \"file://{clip}\", loop: true, sampling: {{ interval: 10s }} }}\n\
         \x20 - {{ id: away, url: \"rtsp://127.0.0.1:9/\", enabled: false }}\nlabels: [{labels}]\n\
         events: {{ after: 0s, cooldown: 0s }}\nsinks: [{{ type: jsonl, path: \"-\" }}]\noutbox: {{ path: outbox.db }}\n\
         snapshots: {{ path: pictures }}\napi: {{ listen: 127.0.0.1:0 }}\n",
        clip = root().join("demo/clip.mp4").display(),
        labels = root().join("config/labels/demo.yaml").display()
    );
    Daemon::start(folder, &config)
}

#[test]
fn programs_read_every_event_that_is_kept_pictures_streams_and_label_sets() {
    let folder = tempfile::tempdir().unwrap();
    fill(&folder.path().join("outbox.db"));
    let mut daemon = start(folder.path());
    let url = daemon.url();
    eventually("there are events and pictures", || {
        let shown = get(&url, "/api/v1/snapshots?limit=1");
        (daemon.events().len() > 2 && !shown["snapshots"].as_array().unwrap().is_empty()).then_some(())
    });
    events(&url);
    a_stream(&url);
    its_picture(&url);
    pictures(&url, folder.path());
    label_sets(&url);
    daemon.stop();

    // After a restart it still knows what its pictures are of.
    let before = std::fs::read_dir(folder.path().join("pictures")).unwrap().count();
    let mut daemon = start(folder.path());
    let url = daemon.url();
    let shown = eventually("the pictures of the run before", || {
        let shown = pages(&url, "/api/v1/snapshots?set=demo&limit=5", "snapshots");
        (shown.len() >= before).then_some(shown)
    });
    assert!(shown.iter().all(|row| row["label"].is_string()), "{shown:?}");
    daemon.stop();
}

fn events(url: &str) {
    // As ever: nothing asked for.
    let bare = get(url, "/api/v1/events");
    assert_eq!(bare["events"].as_array().unwrap().len(), 256);
    assert!(bare["next"].is_string());

    // New events come meanwhile: nothing twice, nothing left out.
    let rows = pages(url, "/api/v1/events?limit=90", "events");
    let ids: BTreeSet<&str> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), rows.len());
    let of_yard = |row: &&Value| row["data"]["model"]["name"] == "m";
    assert_eq!(rows.iter().filter(of_yard).count(), STORED);
    let times: Vec<&str> = rows.iter().filter(of_yard).map(|row| row["data"]["sampled_at"].as_str().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a >= b));

    let count = |query: &str| pages(url, &format!("/api/v1/events?{query}"), "events").len();
    assert_eq!(get(url, "/api/v1/events?stream=yard")["events"].as_array().unwrap().len(), 100);
    assert_eq!((count("stream=yard"), count("stream=once"), count("stream=nobody")), (STORED - 1, 1, 0));
    assert_eq!((count("stream=yard&label=bus"), count("label=bus&type=start&set=lot&limit=1000")), (140, 70));
    assert_eq!((count("region=gate&limit=5"), count("region=gate&stream=once"), count("region=yard")), (28, 1, 0));
    assert_eq!(count("region=gate&type=end&until=1s"), 14);
    let (from, to) = ("2026-01-01T00:01:00Z", "2026-01-01T00:02:00%2B00:00");
    assert_eq!(count(&format!("stream=yard&since={from}&until={to}")), 60);
    assert_eq!((count("stream=yard&since=1s"), count("set=lot&until=1s&limit=500")), (0, STORED));
    for (query, name) in [
        ("streams=yard", "streams"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=5&limit=5", "limit"),
        ("type=begin", "type"),
        ("since=yesterday", "since"),
        ("cursor=e1", "cursor"),
        ("stream=", "stream"),
    ] {
        let why = refused(url, &format!("/api/v1/events?{query}"), 400);
        assert!(why.contains(name), "{query}: {why}");
    }
    let why = refused(url, "/api/v1/events?streams=yard", 400);
    assert!(why.contains("stream, region, set, label, type, since, until, limit, cursor"), "{why}");
    assert!(refused(url, "/api/v1/labels?set=demo", 400).contains("takes none"));
    assert_eq!(ask(url, "/healthz?probe=1", &[]).status, 200, "probes may ask as they like");
}

fn a_stream(url: &str) {
    let one = get(url, "/api/v1/streams/dock-3");
    let all = get(url, "/api/v1/streams");
    let keys = |row: &Value| row.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!((&one["id"], &one["state"], keys(&one)), (&"dock-3".into(), &"up".into(), keys(&all["streams"][0])));
    assert_eq!(get(url, "/api/v1/streams/away")["state"], "disabled");
    let why = refused(url, "/api/v1/streams/nobody", 404);
    assert!(why.contains("dock-3, seldom, away"), "{why}");
}

fn its_picture(url: &str) {
    let path = "/api/v1/streams/dock-3/latest.jpg";
    let size = |picture: &Asked| {
        assert_eq!(picture.status, 200);
        image::load_from_memory(&picture.body).unwrap().to_rgb8().dimensions()
    };
    let whole = ask(url, path, &[]);
    let (width, height) = size(&whole);
    assert!(width.max(height) <= 1280 && width > 100, "{width}x{height}");
    let small = size(&ask(url, &format!("{path}?max_side=64"), &[]));
    assert_eq!((small.0.max(small.1), small.0 * height / width), (64, small.1), "the aspect stays");
    // It is another one with every sample, and none again for whoever has it.
    eventually("the next sample", || {
        let newer = ask(url, path, &[("If-None-Match", whole.tag.as_deref().unwrap())]);
        (newer.status == 200 && newer.tag != whole.tag).then_some(())
    });
    let seldom = "/api/v1/streams/seldom/latest.jpg";
    eventually("a look between two samples", || {
        // The first look may come too early for a stream that is sampled so seldom.
        let tag = ask(url, seldom, &[]).tag?;
        let known = ask(url, seldom, &[("If-None-Match", &format!("\"other\", {tag}"))]);
        (known.status == 304 && known.body.is_empty() && known.tag == Some(tag)).then_some(())
    });
    assert!(refused(url, "/api/v1/streams/away/latest.jpg", 404).contains("switched off"));
    assert!(refused(url, "/api/v1/streams/nobody/latest.jpg", 404).contains("no such stream"));
    assert!(refused(url, &format!("{path}?max_side=15"), 400).contains("16 to 4096"));
    assert!(refused(url, &format!("{path}?side=64"), 400).contains("max_side"));
}

fn pictures(url: &str, folder: &Path) {
    let rows = pages(url, "/api/v1/snapshots?limit=3", "snapshots");
    let times: Vec<&str> = rows.iter().map(|row| row["time"].as_str().unwrap()).collect();
    assert!(!rows.is_empty() && times.is_sorted_by(|a, b| a >= b));
    let row = rows.last().unwrap();
    let (name, label) = (row["name"].as_str().unwrap(), row["label"].as_str().unwrap());
    let stream = row["stream"].as_str().unwrap();
    assert!(["dock-3", "seldom"].contains(&stream) && row["tag_id"].as_str() == name.get(..36), "{row}");
    let here = row["url"].as_str().unwrap().strip_prefix(url).unwrap();
    let picture = ask(url, here, &[]);
    assert_eq!((picture.status, Some(picture.body.len() as u64)), (200, row["bytes"].as_u64()));
    assert!(folder.join("pictures").join(name).exists());
    let set = row["set"].as_str().unwrap();
    let found = pages(url, &format!("/api/v1/snapshots?label={label}&set={set}&stream={stream}&since=1h"), "snapshots");
    assert!(
        found.iter().any(|found| found["name"] == row["name"]) && found.iter().all(|found| found["label"] == label)
    );
    assert!(pages(url, "/api/v1/snapshots?stream=away", "snapshots").is_empty());
    assert!(pages(url, "/api/v1/snapshots?until=1h", "snapshots").is_empty());
    assert!(refused(url, "/api/v1/snapshots?type=start", 400).contains("stream, region, set, label, since"));
}

fn label_sets(url: &str) {
    let sets = get(url, "/api/v1/labels");
    let set = &sets["sets"][0];
    let details = set["details"].as_array().unwrap();
    let names: Vec<&Value> = details.iter().map(|label| &label["label"]).collect();
    assert_eq!(names, set["labels"].as_array().unwrap().iter().collect::<Vec<_>>());
    assert_eq!(
        (&set["streams"], set["in_force"].as_str()),
        (&serde_json::json!(["dock-3", "seldom", "away"]), Some("file"))
    );
    assert!(set["templates"].is_array() && set["background"].is_array() && set["scoring"].is_string(), "{set}");
    for label in details {
        assert!(!label["prompts"].as_array().unwrap().is_empty());
        assert_eq!((label["after"].as_f64(), label["cooldown"].as_f64()), (Some(0.0), Some(0.0)), "{label}");
        let (score, margin) = (label["enter"]["score"].as_f64().unwrap(), label["enter"]["margin"].as_f64().unwrap());
        assert!((score - 1.0 / (1.0 + (-margin).exp())).abs() < 1e-6, "{label}");
    }
}

/// A stream that nobody looks at holds no picture; one that is looked at loses nothing by it.
#[test]
fn the_first_look_at_a_stream_that_shows_nothing_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let config = "model: { path: none }\nstreams: [{ id: gone, url: \"rtsp://127.0.0.1:9/\" }]\n\
                  outbox: { path: \":memory:\" }\napi: { listen: 127.0.0.1:0 }\n";
    let mut daemon = Daemon::start(folder.path(), config);
    let url = daemon.url();
    eventually("it is down", || (get(&url, "/api/v1/streams")["streams"][0]["state"] == "down").then_some(()));
    let begun = Instant::now();
    let why = refused(&url, "/api/v1/streams/gone/latest.jpg", 404);
    assert!(why.contains("no picture") && why.contains("down"), "{why} after {:?}", begun.elapsed());
    let none = get(&url, "/api/v1/snapshots?limit=5");
    assert_eq!(none, serde_json::json!({ "snapshots": [], "next": null }), "there is no gallery");
    daemon.stop();
}
