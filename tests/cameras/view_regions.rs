//! Several named regions of one camera: decoded once, each inferred, scored and told by itself; and every frame is accounted for once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::common::broker::{Broker, Consumer, retained};
use crate::common::camera::{Camera, Codec, Content};
use crate::common::daemon::{Daemon, eventually, root, vtagd};
use crate::common::model::{Counting, route, stages};
use crate::common::recorder::{make, settings};
use crate::common::sse::Sse;
use serde_json::Value;
use vtagd::frame::view::{NamedView, Polygon, Region, View, ViewMode, Views};
use vtagd::pipeline;
use vtagd::pipeline::intake::StreamPart;
use vtagd::platform::shutdown;
use vtagd::score::LabelScore;
use vtagd::source::{Ended, Location, Pace, SourceSettings};
use vtagd::stream::accounting::Totals;
use vtagd::stream::registry::RegisteredStream;

/// Four seconds of a ball that moves, 25 times a second.
fn clip(folder: &Path) -> PathBuf {
    let path = folder.join("ball.mp4");
    make(&format!(
        "videotestsrc num-buffers=100 pattern=ball ! video/x-raw,format=I420,width=320,height=180,framerate=25/1 \
         ! x264enc speed-preset=ultrafast key-int-max=25 ! h264parse ! mp4mux ! filesink location=\"{}\"",
        path.display()
    ));
    path
}

/// A view as it is, one of two tiles, and one with a mask: four places for each frame.
fn views() -> Views {
    let named = |name: &str, view, mask| NamedView { name: Some(name.into()), view, mask };
    let mask = Polygon::new(&[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]).unwrap();
    Views::new(vec![
        named("all", View::default(), None),
        named("tiled", View { mode: ViewMode::Tiles, region: Region::FULL }, None),
        named("half", View { mode: ViewMode::Pad, region: mask.bounds() }, Some(mask)),
    ])
    .unwrap()
}

const PLACES: u64 = 4;

/// Plays the clip with these views, ten samples a second; how many frames were scored, the accounts, and how many pictures the model saw.
fn play(pace: Pace, max_size: usize, encoder: impl FnOnce(Arc<AtomicU64>) -> Counting) -> (u64, Totals, u64) {
    let folder = tempfile::tempdir().unwrap();
    let source = SourceSettings { pace, ..settings(Location::File(clip(folder.path()))) };
    let (_trigger, shutdown) = shutdown::channel();
    let pictures = Arc::new(AtomicU64::new(0));
    let (mut intake, mut threads) =
        pipeline::start(stages(encoder(Arc::clone(&pictures)), max_size), &shutdown).unwrap();
    let (mut route, _) = route();
    let scored = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&scored);
    route.handler = Box::new(move |_, _, scores: &[Vec<LabelScore>]| {
        assert!(scores.len() == 3 && scores.iter().all(|of_view| of_view.len() == 1), "one of each view: {scores:?}");
        count.fetch_add(1, Ordering::Relaxed);
    });
    let record = RegisteredStream::new(&source.id, Vec::new());
    let interval = Duration::from_millis(100).into();
    let part = StreamPart { record, source, interval, unchanged: None, views: views(), route };
    let member = intake.join(part).unwrap();
    drop(intake);
    assert_eq!(member.wait(), Some(Ended::EndOfFile));
    let accounting = Arc::clone(&member.accounting);
    threads.push(member.into_thread());
    for (name, thread) in threads {
        assert!(thread.join().is_ok(), "{name}");
    }
    let totals = accounting.totals();
    assert_eq!(totals.unaccounted(), 0, "{totals:?}");
    assert_eq!(totals.sampled, totals.inferred + totals.dropped.values().sum::<u64>(), "{totals:?}");
    assert_eq!(scored.load(Ordering::Relaxed), totals.inferred);
    (totals.inferred, totals, pictures.load(Ordering::Relaxed))
}

#[test]
fn a_frame_of_several_views_is_scored_whole_also_when_it_needs_more_places_than_a_batch_has() {
    for max_size in [1, 3, 8] {
        let quick = |pictures| Counting { pictures, each: Duration::ZERO, failures: 0 };
        let (scored, totals, pictures) = play(Pace::Fast, max_size, quick);
        assert_eq!((scored, totals.sampled, pictures), (40, 40, 40 * PLACES), "batches of {max_size}");
    }
}

#[test]
fn a_frame_that_loses_one_of_its_views_to_a_failed_run_is_lost_once() {
    for max_size in [1, 3] {
        let failing = |pictures| Counting { pictures, each: Duration::from_millis(1), failures: 2 };
        let (scored, totals, _) = play(Pace::Fast, max_size, failing);
        let lost = totals.dropped.get("inference").copied().unwrap_or_default();
        assert!((1..=3).contains(&lost) && scored == 40 - lost, "batches of {max_size}: {totals:?}");
    }
}

#[test]
fn under_load_every_frame_ends_in_one_counter_whatever_views_it_has() {
    // Ten samples a second of four pictures each, of which a model can do ten.
    let slow = |pictures| Counting { pictures, each: Duration::from_millis(100), failures: 1 };
    let (scored, totals, pictures) = play(Pace::Live, 2, slow);
    assert!(totals.dropped.get("superseded").is_some_and(|lost| *lost > 0), "{totals:?}");
    assert!(scored > 0 && pictures >= scored * PLACES, "{totals:?}");
}

/// A camera that sees a cat on its left and a rocket on its right.
fn two_halves() -> Camera {
    let picture = |file: &str, decoder: &str, pad: u32| {
        format!(
            "filesrc location=\"{}\" ! {decoder} ! imagefreeze is-live=true ! videoconvert ! videoscale \
             ! video/x-raw,format=I420,width=240,height=240,framerate=10/1 ! queue ! scene.sink_{pad}",
            root().join("tests/data/preprocess").join(file).display()
        )
    };
    let launch = format!(
        "compositor name=scene background=black sink_1::xpos=240 ! video/x-raw,format=I420,width=480,height=240,framerate=10/1 \
         ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph264pay name=pay0 pt=96 config-interval=-1 {} {}",
        picture("chelsea.png", "pngdec", 0),
        picture("rocket.jpg", "jpegdec", 1)
    );
    Camera::start(Content::Launch(launch), Codec::H264, None)
}

const LABELS: &str = "set: things\nbackground: [a wall, a table]\nlabels:\n  - { name: cat, prompts: [a cat] }\n\
    \x20 - { name: rocket, prompts: [a rocket] }\n";

const LEFT: &str = "{ name: left, region: [0, 0, 0.5, 1] }";
const RIGHT: &str = "{ name: right, region: [0.5, 0, 0.5, 1] }";

/// The rectangle around it is the whole picture; all but a sliver of the right half is masked.
const MASKED: &str =
    "{ name: masked, mode: squash, polygon: [[0, 0], [0.5, 0], [0.5, 0.99], [1, 0.99], [1, 1], [0, 1]] }";

fn config(camera: &Camera, broker: &Broker, regions: &[&str]) -> String {
    format!(
        "sampling: {{ interval: 200ms }}\nlabels: [things.yaml]\n\
         streams: [{{ id: gate, url: \"{}\", view: {{ regions: [{}] }} }}]\n\
         events: {{ enter: 0.6, exit: 0.4, after: 0s, after_exit: 0s, cooldown: 0s }}\n\
         outbox: {{ path: outbox.db }}\nsnapshots: {{ path: pictures }}\napi: {{ listen: 127.0.0.1:0 }}\n\
         sinks:\n  - {{ type: jsonl, path: \"-\" }}\n  - {{ type: mqtt, url: \"mqtt://127.0.0.1:{}\", home_assistant: true }}\n",
        camera.url(),
        regions.join(", "),
        broker.port
    )
}

/// The value of a metric's first series.
fn metric(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[test]
fn each_region_of_a_camera_tells_what_it_sees_and_a_label_is_on_while_any_has_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("things.yaml"), LABELS).unwrap();
    let (camera, broker) = (two_halves(), Broker::start(folder.path()));
    let consumer = Consumer::start(broker.port, &["vtagd/#", "homeassistant/#"]);
    let mut daemon = Daemon::start(folder.path(), &config(&camera, &broker, &[LEFT, RIGHT, MASKED]));
    daemon.wait_ready();
    let wanted: BTreeSet<(String, String)> =
        [("left", "cat"), ("masked", "cat"), ("right", "rocket")].map(|(r, l)| (r.into(), l.into())).into();
    let told = |daemon: &Daemon| -> BTreeSet<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        daemon.events().iter().map(|event| (text(&event["data"]["region"]), text(&event["data"]["label"]))).collect()
    };
    eventually("each region has told", || told(&daemon).is_superset(&wanted).then_some(()));
    // The first pictures of a camera may lack one half: it is the last word that counts.
    for (topic, state) in [
        ("cat", "ON"),
        ("rocket", "ON"),
        ("left/cat", "ON"),
        ("masked/cat", "ON"),
        ("right/rocket", "ON"),
        ("left/rocket", "OFF"),
        ("masked/rocket", "OFF"),
        ("right/cat", "OFF"),
    ] {
        consumer.wait_for(&format!("vtagd/gate/{topic}"), state);
    }
    let about = eventually("what the sensor says", || consumer.last("vtagd/gate/left/cat/attributes"));
    assert_eq!((&about.json()["region"], &about.json()["set"]), (&"left".into(), &"things".into()));
    let device = "homeassistant/device/vtagd_gate/config";
    let document = eventually("the device", || consumer.last(device)).json();
    crate::common::home_assistant::check(device, &document);
    assert_eq!(document["cmps"]["region_4_left_cat"]["state_topic"], "vtagd/gate/left/cat");

    // Live scores and counters by region; one decoder, three inferences a frame.
    let expected = [("left", "open"), ("right", "idle"), ("masked", "open")];
    eventually("each region stands as it should", || {
        let scores: Value = serde_json::from_str(&daemon.get("/api/v1/streams/gate/scores?label=cat").1).unwrap();
        let scores = scores["scores"].as_array().unwrap().clone();
        let stands =
            |(score, (region, state)): (&Value, &(&str, &str))| score["region"] == *region && score["state"] == *state;
        (scores.len() == 3 && scores.iter().zip(&expected).all(stands)).then_some(())
    });
    let (_, metrics) = daemon.get("/metrics");
    let starts = "vtagd_events_total{stream=\"gate\",region=\"right\",set=\"things\",label=\"rocket\",type=\"start\"}";
    assert!(metric(&metrics, starts).is_some_and(|starts| starts >= 1.0), "{metrics}");
    let sampled = metric(&metrics, "vtagd_frames_sampled_total{stream=\"gate\"}").unwrap();
    let pictures = metric(&metrics, "vtagd_batch_size_sum").unwrap();
    let inferred = metric(&metrics, "vtagd_frames_inferred_total{stream=\"gate\"}").unwrap();
    assert!(pictures >= inferred * 3.0 && pictures <= sampled * 3.0, "{pictures} pictures of {inferred} of {sampled}");

    // Pictures are sent as they are made: of tags that start while the broker is there, in the region and at the label.
    consumer.publish("vtagd/gate/enabled/set", "OFF");
    consumer.wait_for("vtagd/gate/right/rocket", "OFF");
    consumer.wait_for("vtagd/gate/rocket", "OFF");
    consumer.publish("vtagd/gate/enabled/set", "ON");
    for level in ["masked/cat", "right/rocket", "rocket"] {
        eventually("its picture", || consumer.last(&format!("vtagd/gate/{level}/snapshot")));
        consumer.wait_for(&format!("vtagd/gate/{level}"), "ON");
    }

    // A second start goes on; a region that is removed takes what is its own, and nothing else.
    daemon.stop_cleanly();
    consumer.wait_for("vtagd/gate/right/rocket", "OFF");
    consumer.wait_for("vtagd/gate/rocket", "OFF");
    let before = retained(broker.port, &["vtagd/gate/#"]);
    assert!(before.contains_key("vtagd/gate/masked/cat") && before.contains_key("vtagd/gate/masked/rocket/attributes"));
    consumer.forget();
    let mut daemon = Daemon::start(folder.path(), &config(&camera, &broker, &[LEFT, RIGHT, MASKED]));
    daemon.wait_ready();
    consumer.wait_for("vtagd/gate/left/cat", "ON");
    consumer.wait_for("vtagd/gate/cat", "ON");

    consumer.forget();
    std::fs::write(folder.path().join("vtagd.yaml"), config(&camera, &broker, &[RIGHT, LEFT])).unwrap();
    daemon.signal(libc::SIGHUP);
    for gone in ["cat", "cat/attributes", "cat/snapshot", "rocket", "rocket/attributes"] {
        consumer.wait_for(&format!("vtagd/gate/masked/{gone}"), "");
    }
    let document = eventually("the device without it", || {
        consumer.last(device).map(|got| got.json()).filter(|told| told["cmps"]["region_6_masked_cat"].is_null())
    });
    assert_eq!(document["cmps"]["region_4_left_cat"]["unique_id"], "vtagd_gate_region_4_left_cat");
    eventually("the others are seen again", || {
        let on = |topic: &str| consumer.last(topic).is_some_and(|got| got.payload == b"ON");
        (on("vtagd/gate/left/cat") && on("vtagd/gate/right/rocket") && on("vtagd/gate/cat")).then_some(())
    });
    let cleared = consumer.got().into_iter().filter(|got| got.payload.is_empty());
    let cleared: Vec<String> = cleared.map(|got| got.topic).filter(|topic| !topic.contains("/masked/")).collect();
    assert_eq!(cleared, [""; 0], "nobody else's topic is touched");
    daemon.stop_cleanly();
    let left = retained(broker.port, &["vtagd/gate/#"]);
    assert!(left.keys().all(|topic| !topic.contains("masked")), "{left:?}");
    assert!(daemon.log().contains("unaccounted=0"));
}

/// An answer of the API, with a body or without one.
fn ask(url: &str, path: &str, jpeg: Option<&[u8]>) -> (u16, Vec<u8>) {
    // An address may ask only so often, and the model's text tower answers one at a time.
    eventually(path, || {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut answer = match jpeg {
            Some(body) => agent.post(format!("{url}{path}")).header("Content-Type", "image/jpeg").send(body).unwrap(),
            None => agent.get(format!("{url}{path}")).call().unwrap(),
        };
        let (status, body) = (answer.status().as_u16(), answer.body_mut().read_to_vec().unwrap());
        (![429, 503].contains(&status)).then_some((status, body))
    })
}

fn get(url: &str, path: &str) -> Value {
    let (status, body) = ask(url, path, None);
    assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

/// The values under `key` of the rows under `rows`, each once.
fn each<'a>(answer: &'a Value, rows: &str, key: &str) -> BTreeSet<&'a str> {
    answer[rows].as_array().unwrap().iter().map(|row| row.pointer(key).and_then(Value::as_str).unwrap_or("")).collect()
}

#[test]
fn what_a_region_showed_is_asked_for_by_its_name_and_its_pictures_show_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("things.yaml"), LABELS).unwrap();
    let camera = two_halves();
    let config = format!(
        "sampling: {{ interval: 200ms }}\nlabels: [things.yaml]\nhistory: {{ path: kept, pictures: {{ max_side: 480 }} }}\n\
         streams: [{{ id: gate, url: \"{}\", view: {{ regions: [{LEFT}, {RIGHT}, {MASKED}] }} }}]\n\
         events: {{ enter: 0.6, exit: 0.4, after: 0s, after_exit: 0s, cooldown: 0s }}\n\
         outbox: {{ path: outbox.db }}\nsnapshots: {{ path: pictures }}\napi: {{ listen: 127.0.0.1:0 }}\n\
         sinks:\n  - {{ type: jsonl, path: \"-\" }}\n  - {{ type: jsonl, path: right.jsonl, only: {{ regions: [right] }} }}\n",
        camera.url()
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    let url = daemon.url();
    eventually("each region has told", || {
        let regions = |row: &Value| row["data"]["region"].as_str().map(str::to_owned);
        let told: BTreeSet<String> = daemon.events().iter().filter_map(regions).collect();
        (told.len() == 3).then_some(())
    });

    // Events, pictures of tags, scores.
    eventually("pictures of tags in each region", || {
        let found = get(&url, "/api/v1/snapshots");
        (each(&found, "snapshots", "/region").len() == 3).then_some(())
    });
    for region in ["left", "right", "masked"] {
        let of = |path: &str, rows: &str, key: &str| {
            assert_eq!(each(&get(&url, &format!("{path}?region={region}")), rows, key), [region].into(), "{path}");
        };
        of("/api/v1/events", "events", "/data/region");
        of("/api/v1/snapshots", "snapshots", "/region");
        of("/api/v1/streams/gate/scores", "scores", "/region");
    }
    for path in ["/api/v1/events", "/api/v1/snapshots", "/api/v1/streams/gate/scores"] {
        let found = get(&url, &format!("{path}?region=ramp"));
        assert_eq!(found[path.rsplit('/').next().unwrap()], serde_json::json!([]), "{path}");
    }
    let mut live = Sse::open(&url, "/api/v1/live?regions=right,masked&kinds=scores", "");
    let scores = live.find("scores", |_| true);
    assert_eq!(each(&scores.data, "scores", "/region"), ["masked", "right"].into());

    // The past: moments of the region alone, the rocket nowhere but on the right.
    let search = |query: &str| get(&url, &format!("/api/v1/search?{query}"));
    let best = |found: &Value| found["moments"][0].clone();
    assert_eq!(best(&search("text=a+rocket"))["region"], "right");
    let all = search("text=a+cat")["searched"]["rows"].as_u64().unwrap();
    let mut rows = 0;
    for (region, other) in [("left", "rocket"), ("right", "cat"), ("masked", "rocket")] {
        let found = search(&format!("text=a+{other}&region={region}"));
        assert_eq!(each(&found, "moments", "/region"), [region].into());
        rows += found["searched"]["rows"].as_u64().unwrap();
        let own = if region == "right" { "rocket" } else { "cat" };
        let found = best(&search(&format!("text=a+{own}&region={region}&stream=gate")));
        let (status, jpeg) = ask(&url, found["picture"].as_str().unwrap(), None);
        assert_eq!(status, 200);
        let picture = image::load_from_memory(&jpeg).unwrap().to_rgb8();
        assert_eq!(picture.dimensions(), if region == "masked" { (480, 240) } else { (240, 240) }, "{region}");
        if region == "masked" {
            // Where the rocket would be: grey, as what is not looked at.
            let grey = |at: &[u8]| at.iter().all(|value| value.abs_diff(128) < 12);
            assert!((300..470).all(|x| (20..220).all(|y| grey(&picture.get_pixel(x, y).0))));
        }
        let (status, tagged) = ask(&url, "/api/v1/tag?set=things", Some(&jpeg));
        let tagged: Value = serde_json::from_slice(&tagged).unwrap();
        let mut scores = tagged["sets"][0]["scores"].as_array().unwrap().clone();
        scores.sort_by(|a, b| b["score"].as_f64().unwrap().total_cmp(&a["score"].as_f64().unwrap()));
        assert_eq!((status, scores[0]["label"].as_str()), (200, Some(own)), "{region}: {tagged}");
    }
    // More may have come meanwhile.
    assert!(rows >= all && all > 0, "{rows} of {all}");
    assert_eq!(search("text=a+cat&region=ramp")["moments"], serde_json::json!([]));

    // The commands.
    let run = |arguments: &[&str]| vtagd(folder.path()).args(arguments).args(["--url", &url]).output().unwrap();
    let told = |arguments: &[&str]| -> Value {
        let output = run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let found = told(&["search", "a cat", "--region", "masked", "--json"]);
    assert_eq!(each(&found, "moments", "/region"), ["masked"].into());
    let scores = &told(&["scores", "gate", "--region", "left", "--json"])["streams"][0];
    assert_eq!(each(scores, "scores", "/region"), ["left"].into());
    let explained = String::from_utf8(run(&["explain", "gate", "cat", "--region", "left"]).stdout).unwrap();
    assert!(explained.lines().count() == 3 && explained.contains("region left"), "{explained}");
    for (region, stream, why) in [("ramp", "gate", "it has left, masked, right"), ("left", "nobody", "no such stream")]
    {
        let refused = run(&["explain", stream, "cat", "--region", region]);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(2) && said.contains(why), "{said}");
    }
    daemon.stop_cleanly();
    // Without the daemon, out of its folder and its outbox.
    let config = folder.path().join("vtagd.yaml");
    let output =
        vtagd(folder.path()).args(["search", "a cat", "--region", "left", "--json", "-c"]).arg(&config).output();
    let found: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    assert_eq!(each(&found, "moments", "/region"), ["left"].into());
    let listed =
        vtagd(folder.path()).args(["events", "export", "--region", "right", "-c"]).arg(&config).output().unwrap();
    let lines = |text: &str| -> Vec<Value> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    let listed = lines(std::str::from_utf8(&listed.stdout).unwrap());
    let sent = lines(&std::fs::read_to_string(folder.path().join("right.jsonl")).unwrap());
    assert!(!sent.is_empty() && sent.len() == listed.len(), "{} and {}", sent.len(), listed.len());
    assert!(sent.iter().chain(&listed).all(|event| event["data"]["region"] == "right"));
}
