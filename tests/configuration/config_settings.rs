//! What correct configurations become: defaults, paths, credentials, notices; and that the shipped files and the documentation agree
//! with the schema.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vtagd::cli::check::ModelFindings;
use vtagd::config::{self, JsonlTarget, LogFormat, ModelChoice, Settings, SinkSettings};
use vtagd::frame::thumbprint::Unchanged;
use vtagd::infer::options::{Arena, CudaOptions, OpenvinoOptions, OpenvinoPrecision, ProviderChoice, TensorrtOptions};
use vtagd::infer::{BatchSize, Provider, Sessions};
use vtagd::preprocess::{Region, View, ViewMode};
use vtagd::sample::Interval;
use vtagd::score::Threshold;
use vtagd::sink::mqtt::Protocol;
use vtagd::source::{Decode, Location, Pace, Reconnect};
use vtagd::yaml::problem::Severity;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let set = |name: &str| format!("set: {name}\nbackground: [a wall]\nlabels: [{{ name: a }}, {{ name: b }}]\n");
    fs::create_dir(folder.path().join("labels")).expect("made");
    for (name, text) in [
        ("labels/one.yaml", set("one")),
        ("labels/two.yaml", set("two")),
        ("my clip.mp4", String::new()),
        ("own.gst", String::new()),
        ("secret", "hunter2\r\n".to_owned()),
    ] {
        fs::write(folder.path().join(name), text).expect("written");
    }
    folder
}

/// A certificate and its key.
fn certify(folder: &tempfile::TempDir) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("made");
    fs::write(folder.path().join("api.crt"), made.cert.pem()).expect("written");
    fs::write(folder.path().join("api.key"), made.signing_key.serialize_pem()).expect("written");
}

fn load(folder: &tempfile::TempDir, text: &str) -> Settings {
    let path = folder.path().join("vtagd.yaml");
    fs::write(&path, text).expect("written");
    config::load(&path).unwrap_or_else(|problems| {
        panic!("{}", problems.iter().map(|problem| format!("{problem}\n")).collect::<String>())
    })
}

#[test]
fn five_lines_are_enough_and_the_defaults_are_as_documented() {
    let folder = folder();
    let settings =
        load(&folder, "streams:\n  - id: door\n    url: rtsp://10.0.0.12/stream1\nlabels: [labels/one.yaml]\n");
    assert_eq!(settings.model, ModelChoice::Starter.into());
    assert_eq!(settings.infer.providers, [Provider::Cpu]);
    assert_eq!(settings.infer.max_size, BatchSize::Pictures(8));
    assert_eq!(
        (settings.infer.max_delay, settings.infer.sessions),
        (Duration::from_millis(50), Sessions::Auto { cores: 4 })
    );
    assert!(settings.infer.devices.is_empty() && settings.infer.run_limit.is_none());
    assert_eq!((settings.infer.threads, settings.infer.strict, settings.infer.preprocess_threads), (0, false, None));
    assert_eq!(settings.events, vtagd::event::Thresholds::default());
    assert!(matches!(settings.sinks.as_slice(), [SinkSettings::Jsonl(JsonlTarget::Stdout)]));
    assert_eq!(settings.api.expect("on by default").listen.to_string(), config::DEFAULT_LISTEN);
    assert_eq!((settings.log.level, settings.log.format), (tracing::Level::INFO, LogFormat::Auto));
    assert_eq!((settings.outbox.path, settings.outbox.max_size), (None, 1 << 30), "only standard output: in memory");
    assert!(settings.snapshots.is_none());
    assert!(!settings.instance.is_empty());
    let stream = &settings.streams[0];
    assert_eq!((stream.interval, stream.unchanged), (Interval::Every(Duration::from_secs(1)), None));
    assert_eq!(stream.views, View::default().into());
    assert_eq!(stream.label_sets, [0]);
    assert_eq!((stream.source.pace, stream.source.looped, stream.source.decode), (Pace::Live, false, Decode::Auto));
    assert_eq!(stream.source.reconnect, Reconnect::default());
    let limits = &stream.source.reconnect.limits;
    assert_eq!((limits.first_frame, limits.stall), (Duration::from_secs(30), Duration::from_secs(20)));
    assert_eq!(stream.source.reconnect.ladder.steps, [1, 2, 4, 8, 16, 32, 60].map(Duration::from_secs));
    assert_eq!(stream.source.reconnect.ladder.stable, Duration::from_secs(60));
    assert!(settings.notices.is_empty(), "{:?}", settings.notices);
}

#[test]
fn an_interval_may_be_left_to_the_box_for_all_streams_or_one() {
    let folder = folder();
    let of = |sampling: &str, stream: &str| {
        let text = format!("model: {{ path: none }}\nsampling: {{ {sampling} }}\nstreams: [{{ id: a, {stream} }}]\n");
        load(&folder, &text).streams[0].interval
    };
    assert_eq!(of("interval: auto", "url: \"rtsp://h\""), Interval::Auto);
    assert_eq!(of("interval: 2s", "url: \"rtsp://h\", sampling: { interval: auto }"), Interval::Auto);
    let fixed = of("interval: auto", "url: \"rtsp://h\", sampling: { interval: 2s }");
    assert_eq!(fixed, Interval::Every(Duration::from_secs(2)));
    assert_eq!(of("interval: auto", "url: \"file://my%20clip.mp4\""), Interval::Auto);
    // A file that waits for inference loses nothing, so there is nothing to adapt to.
    let fast = of("interval: auto", "url: \"file://my%20clip.mp4\", pace: fast");
    assert_eq!(fast, Interval::Every(Duration::from_secs(1)));
}

#[test]
fn unchanged_frames_are_reused_where_it_is_said_and_as_it_is_said() {
    let folder = folder();
    let of = |sampling: &str, stream: &str| {
        let text = format!(
            "model: {{ path: none }}\nsampling: {{ {sampling} }}\nstreams: [{{ id: a, url: \"rtsp://h\", {stream} }}]\n"
        );
        load(&folder, &text).streams[0].unchanged
    };
    let some = |tolerance, seconds| Some(Unchanged { tolerance, max_age: Duration::from_secs(seconds) });
    let default = Unchanged::default();
    assert_eq!(of("unchanged: off", ""), None);
    assert_eq!(of("unchanged: on", ""), Some(default));
    assert_eq!(of("unchanged: { tolerance: 1.5 }", ""), Some(Unchanged { tolerance: 1.5, ..default }));
    assert_eq!(of("unchanged: { tolerance: 3, max_age: 1m }", ""), some(3.0, 60));
    assert_eq!(of("unchanged: { tolerance: 3, max_age: 1m }", "sampling: { interval: 1s }"), some(3.0, 60));
    assert_eq!(of("unchanged: { tolerance: 3, max_age: 1m }", "sampling: { unchanged: off }"), None);
    assert_eq!(of("unchanged: { tolerance: 3 }", "sampling: { unchanged: { max_age: 5s } }"), some(3.0, 5));
    assert_eq!(of("", "sampling: { unchanged: { tolerance: 4, max_age: 5s } }"), some(4.0, 5));
}

#[test]
fn reconnecting_is_set_for_all_streams_and_again_for_one() {
    let folder = folder();
    let settings = load(
        &folder,
        "\
reconnect: { first: 2s, stall: 7s }
labels: [labels/one.yaml]
streams:
  - { id: a, url: \"rtsp://h/1\" }
  - { id: b, url: \"rtsp://h/2\", reconnect: { max: 5s, first_frame: 9s }, password: { file: secret }, username: u }
  - { id: c, url: \"rtsp://h/3\", reconnect: { first: 90s, stable: 0 } }
",
    );
    let seconds = |list: &[u64]| list.iter().copied().map(Duration::from_secs).collect::<Vec<_>>();
    let [a, b, c] = [0, 1, 2].map(|n| settings.streams[n].source.reconnect.clone());
    assert_eq!(a.ladder.steps, seconds(&[2, 4, 8, 16, 32, 60]));
    assert_eq!((a.limits.stall, a.limits.first_frame), (Duration::from_secs(7), Duration::from_secs(30)));
    assert_eq!(b.ladder.steps, seconds(&[2, 4, 5]));
    assert_eq!((b.limits.stall, b.limits.first_frame), (Duration::from_secs(7), Duration::from_secs(9)));
    assert_eq!((c.ladder.steps, c.ladder.stable), (seconds(&[90]), Duration::ZERO));
    // A password in a file is read again before every attempt.
    assert_eq!(settings.streams[1].source.password_file, Some(folder.path().join("secret")));
    assert_eq!(settings.streams[0].source.password_file, None);
}

#[test]
fn regions_of_a_view_have_names_and_take_its_mode() {
    let folder = folder();
    // Below a region, the topic of its name could be another label's.
    let named = "set: named\nbackground: [a wall]\nlabels:\n  - { name: state, prompts: [a state] }\n  - { name: car, prompts: [a car] }\n";
    fs::write(folder.path().join("labels/named.yaml"), named).expect("a label set");
    let text = "\
labels: [labels/one.yaml, labels/named.yaml]
streams:
  - id: a
    url: rtsp://h
    view:
      mode: pad
      regions:
        - { name: door, region: [0, 0, 0.25, 1] }
        - { name: lane-2, polygon: [[0.5, 1], [0.75, 0.25], [1, 1]], mode: tiles }
";
    let settings = load(&folder, text);
    let [door, lane] = &*settings.streams[0].views else { panic!("two regions") };
    assert_eq!((door.name.as_deref(), &door.mask), (Some("door"), &None));
    assert_eq!(door.view, View { mode: ViewMode::Pad, region: Region { x: 0.0, y: 0.0, w: 0.25, h: 1.0 } });
    let around = Region { x: 0.5, y: 0.25, w: 0.5, h: 0.75 };
    assert_eq!((lane.name.as_deref(), lane.view), (Some("lane-2"), View { mode: ViewMode::Tiles, region: around }));
    assert_eq!(lane.mask.as_ref().expect("a mask").corners(), [[0.5, 1.0], [0.75, 0.25], [1.0, 1.0]]);
    let told: Vec<String> =
        settings.notices.iter().map(|notice| format!("{}: {}", notice.field, notice.message)).collect();
    assert!(
        told.iter().any(|told| told.starts_with("streams[0].view.regions: ") && told.contains("inferred 2 times")),
        "{told:?}"
    );
    let renamed: Vec<&String> = told.iter().filter(|told| told.contains("below a region")).collect();
    assert!(matches!(renamed[..], [one] if one.contains("`state`") && one.contains("`state_")), "{told:?}");
}

#[test]
fn streams_take_what_they_say_and_inherit_the_rest() {
    let folder = folder();
    let settings = load(
        &folder,
        "\
x-shared: &shared { username: viewer, password: { file: secret } }
sampling: { interval: 2s, decode: all }
labels: [labels/one.yaml, labels/two.yaml]
streams:
  - { <<: *shared, id: a, url: \"RTSP://10.0.0.1:8554/x?y=1\", labels: [two] }
  - { id: b, url: \"file://my%20clip.mp4\", pace: fast, loop: true, sampling: { interval: 100ms, max_pixels: 70000 } }
  - { id: c, url: v4l2:///dev/video9, view: { mode: tiles, region: [0.5, 0, 0.5, 1] } }
  - { id: d, pipeline: own.gst, sampling: { decode: auto } }
  - { id: 007, url: \"http://us%40er:p%3Aw@cam/v.mjpg\" }
",
    );
    let [a, b, c, d, e] = settings.streams.as_slice() else { panic!("five streams") };
    assert_eq!(a.source.location, Location::Rtsp("rtsp://10.0.0.1:8554/x?y=1".parse().expect("a URL")));
    assert_eq!(a.source.username.as_deref(), Some("viewer"));
    assert_eq!(a.source.password.as_ref().expect("a password").expose(), "hunter2");
    assert_eq!((a.label_sets.as_slice(), a.interval), ([1].as_slice(), Duration::from_secs(2).into()));
    assert_eq!(b.source.location, Location::File(folder.path().join("my clip.mp4")));
    assert_eq!((b.source.pace, b.source.looped, b.interval), (Pace::Fast, true, Duration::from_millis(100).into()));
    assert_eq!((b.label_sets.as_slice(), b.source.decode), ([0, 1].as_slice(), Decode::All));
    assert_eq!(c.source.location, Location::V4l2(PathBuf::from("/dev/video9")));
    let region = Region { x: 0.5, y: 0.0, w: 0.5, h: 1.0 };
    assert_eq!(c.views, View { mode: ViewMode::Tiles, region }.into());
    assert_eq!(d.source.location, Location::Template(folder.path().join("own.gst")));
    assert_eq!(d.source.decode, Decode::Auto);
    assert_eq!([a, b, c, d].map(|stream| stream.source.sizes().max_pixels), [1 << 25, 70_000, 1 << 25, 1 << 25]);
    assert_eq!(&*e.source.id, "007");
    assert_eq!(e.source.location, Location::Http("http://cam/v.mjpg".parse().expect("a URL")));
    assert_eq!(e.source.username.as_deref(), Some("us@er"));
    assert_eq!(e.source.password.as_ref().expect("a password").expose(), "p:w");
}

#[test]
fn thresholds_of_the_events_section_follow_each_other() {
    let folder = folder();
    let rest = "streams: [{ id: a, url: rtsp://h }]\nlabels: [labels/one.yaml]\n";
    let events = load(&folder, &format!("events: {{ after: 5s }}\n{rest}")).events;
    assert_eq!(events.after_exit, Duration::from_secs(5));
    let events = load(&folder, &format!("events: {{ after: 5s, after_exit: 0 }}\n{rest}")).events;
    assert_eq!(events.after_exit, Duration::ZERO);
    let events = load(&folder, &format!("events: {{ enter: 0.3 }}\n{rest}")).events;
    assert!((events.exit.probability() - 0.2).abs() < 1e-6);
    let events =
        load(&folder, &format!("events: {{ enter: {{ margin: 2.1 }}, exit: {{ margin: 1 }} }}\n{rest}")).events;
    assert_eq!((events.enter, events.exit), (Threshold::Margin(2.1), Threshold::Margin(1.0)));
}

#[test]
fn a_label_whose_exit_is_above_the_common_enter_is_refused_at_its_line() {
    let folder = folder();
    let set = "set: one\nbackground: [x]\nlabels:\n  - name: a\n  - name: b\n    exit: 0.7\n";
    fs::write(folder.path().join("labels/one.yaml"), set).expect("written");
    let path = folder.path().join("vtagd.yaml");
    fs::write(&path, "streams: [{ id: a, url: rtsp://h }]\nlabels: [labels/one.yaml]\n").expect("written");
    let problems = config::load(&path).expect_err("exit above enter");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!((problems[0].field.as_str(), problems[0].position), ("labels[1].exit", Some((6, 11))));
    assert!(problems[0].file.ends_with("labels/one.yaml"));
    fs::write(&path, "streams: [{ id: a, url: rtsp://h }]\nlabels: [labels/one.yaml]\nevents: { enter: 0.8 }\n")
        .expect("written");
    assert!(config::load(&path).is_ok());
}

#[test]
fn two_files_with_one_set_name_are_refused() {
    let folder = folder();
    fs::copy(folder.path().join("labels/one.yaml"), folder.path().join("labels/copy.yaml")).expect("copied");
    let path = folder.path().join("vtagd.yaml");
    let text = "streams: [{ id: a, url: rtsp://h }]\nlabels:\n  - labels/one.yaml\n  - labels/copy.yaml\n";
    fs::write(&path, text).expect("written");
    let problems = config::load(&path).expect_err("one name twice");
    assert_eq!((problems.len(), problems[0].field.as_str()), (1, "labels[1]"), "{problems:?}");
    assert!(problems[0].message.contains("`one`"));
}

#[test]
fn without_a_model_no_labels_are_needed() {
    let settings = load(&folder(), "model: { path: none }\nstreams: [{ id: a, url: rtsp://h }]\n");
    assert_eq!(settings.model, ModelChoice::None.into());
}

#[test]
fn a_model_of_a_hub_and_another_scale_and_bias_are_taken_as_written() {
    let text = "streams: [{ id: a, url: rtsp://h }]\nlabels: [labels/one.yaml]\n";
    let model = |model: &str| load(&folder(), &format!("model: {model}\n{text}")).model;
    let found = model("{ path: \"hf:acme/clip@v1\", logit_scale: 50, logit_bias: -3.5 }");
    let ModelChoice::Hub(reference) = &found.choice else { panic!("{found:?}") };
    assert_eq!((reference.to_string().as_str(), reference.revision.as_str()), ("hf:acme/clip@v1", "v1"));
    assert_eq!((found.logits.scale, found.logits.bias), (Some(50.0), Some(-3.5)));
    let found = model("{ logit_scale: 20 }");
    assert_eq!((found.choice, found.logits.scale, found.logits.bias), (ModelChoice::Starter, Some(20.0), None));
}

#[test]
fn the_api_can_be_switched_off_or_opened_with_a_token() {
    let folder = folder();
    let rest = "streams: [{ id: a, url: rtsp://h }]\nlabels: [labels/one.yaml]\n";
    assert!(load(&folder, &format!("api: {{ listen: off }}\n{rest}")).api.is_none());
    let api = load(&folder, &format!("api: {{ listen: 0.0.0.0:80, token: {{ file: secret }} }}\n{rest}")).api;
    assert_eq!(api.expect("on").token.expect("a token").expose(), "hunter2");
    for loopback in ["localhost:1", "'[::1]:1'", "127.8.8.8:1"] {
        assert!(load(&folder, &format!("api: {{ listen: {loopback} }}\n{rest}")).api.is_some(), "{loopback}");
    }
}

#[test]
fn what_the_outbox_knows_a_sink_by_holds_no_token_and_tells_two_apart() {
    let rest = "streams: [{ id: a, url: rtsp://h }]\nlabels: [labels/one.yaml]\n";
    let key = |url: &str| {
        let settings = load(&folder(), &format!("{rest}sinks: [{{ type: webhook, url: '{url}' }}]\n"));
        settings.routes[0].key.clone()
    };
    assert_eq!(key("https://h/x"), "webhook https://h/x");
    let chat = load(
        &folder(),
        &format!("{rest}sinks: [{{ type: webhook, url: 'https://hooks.slack.com/services/marked' }}]\n"),
    );
    let (key_of_chat, former) = (&chat.routes[0].key, &chat.routes[0].former_key);
    assert!(
        key_of_chat.starts_with("webhook https://hooks.slack.com/?") && !key_of_chat.contains("marked"),
        "{key_of_chat}"
    );
    assert_eq!(
        former.as_deref(),
        Some("webhook https://hooks.slack.com/services/marked"),
        "what waited for it is found"
    );
    assert!(!format!("{:?}", chat.sinks).contains("marked"));
    let (one, two) = (key("https://h/x?token=marked-1"), key("https://h/x?token=marked-2"));
    assert!(!one.contains("marked") && one.starts_with("webhook https://h/x?"), "{one}");
    assert!(one != two && one == key("https://h/x?token=marked-1"));
}

#[test]
fn batch_size_and_sessions_are_numbers_or_found_by_measuring() {
    let folder = folder();
    let rest = "streams: [{ id: a, url: rtsp://h }]\nlabels: [labels/one.yaml]\n";
    let runtime =
        "{ providers: [tensorrt, cuda, cpu], sessions: 2, devices: [0, 3], run_limit: 5m, batch: { max_size: auto } }";
    let infer = load(&folder, &format!("runtime: {runtime}\n{rest}")).infer;
    assert_eq!((infer.max_size, infer.sessions), (BatchSize::Auto, Sessions::Number(2)));
    assert_eq!((infer.devices.as_slice(), infer.run_limit), ([0, 3].as_slice(), Some(Duration::from_secs(300))));
    let infer = load(&folder, &format!("runtime: {{ sessions: auto, batch: {{ max_size: 3 }} }}\n{rest}")).infer;
    assert_eq!((infer.max_size, infer.sessions), (BatchSize::Pictures(3), Sessions::Auto { cores: 2 }));
    for (written, threads) in [("3", Some(3)), ("64", Some(64)), ("auto", None)] {
        let infer = load(&folder, &format!("runtime: {{ preprocess_threads: {written} }}\n{rest}")).infer;
        assert_eq!(infer.preprocess_threads, threads, "{written}");
    }
}

#[test]
fn a_provider_is_a_name_or_a_name_with_options() {
    let folder = folder();
    let settings = load(
        &folder,
        "\
labels: [labels/one.yaml]
streams: [{ id: a, url: rtsp://h }]
runtime:
  strict: true
  probe: { min_cosine: 0.999 }
  providers:
    - tensorrt: { device: 1, fp16: true, engine_cache: engines, timing_cache: /t, workspace: 1GiB, opt_batch: 4 }
    - cuda: { device: 1, memory_limit: 4GiB, arena: next_power_of_two, fp16: false }
    - openvino: { device: GPU.1, precision: bf16, threads: 4, streams: 2 }
    - cpu:
",
    );
    let expected = [
        ProviderChoice::Tensorrt(TensorrtOptions {
            device: 1,
            fp16: true,
            engine_cache: Some(folder.path().join("engines")),
            timing_cache: Some("/t".into()),
            workspace: Some(1 << 30),
            opt_batch: Some(4),
        }),
        ProviderChoice::Cuda(CudaOptions { device: 1, memory_limit: Some(4 << 30), arena: Arena::NextPowerOfTwo }),
        ProviderChoice::Openvino(OpenvinoOptions {
            device: "GPU.1".into(),
            precision: OpenvinoPrecision::Bf16,
            threads: Some(4),
            streams: Some(2),
            bf16_is_faster: false,
        }),
        Provider::Cpu.into(),
    ];
    assert_eq!(settings.infer.providers, expected);
    assert_eq!((settings.infer.strict, settings.infer.min_cosine), (true, 0.999));
}

#[test]
fn every_kind_of_sink_and_store_is_taken_without_a_notice() {
    let folder = folder();
    certify(&folder);
    let settings = load(
        &folder,
        "\
labels: [labels/one.yaml]
streams: [{ id: a, url: rtsp://h }]
runtime: { providers: [tensorrt, cuda, openvino, cpu] }
sinks:
  - { type: mqtt, url: mqtts://broker, home_assistant: true }
  - { type: webhook, url: https://host/x }
  - { type: jsonl, path: new/folder/events.jsonl }
outbox: { path: outbox.db, max_size: 512MiB, max_age: 2d }
snapshots: { path: pictures, max_side: 640, url: \"https://edge.example/\" }
api: { tls: { cert: api.crt, key: api.key } }
",
    );
    assert_eq!(settings.notices, []);
    let tls = settings.api.as_ref().expect("it is on").tls.as_ref().expect("wanted");
    assert_eq!((&tls.cert, &tls.key), (&folder.path().join("api.crt"), &folder.path().join("api.key")));
    assert_eq!(settings.outbox.max_size, 512 << 20);
    let pictures = settings.snapshots.as_ref().expect("wanted");
    assert_eq!((pictures.max_side, pictures.quality, pictures.max_size), (640, 85, 1 << 30));
    let (SinkSettings::Mqtt(mqtt), SinkSettings::Webhook(webhook)) = (&settings.sinks[0], &settings.sinks[1]) else {
        panic!("{:?}", settings.sinks)
    };
    assert_eq!((mqtt.protocol, mqtt.topic_prefix.as_str(), &mqtt.client_id), (Protocol::V311, "vtagd", &None));
    assert_eq!((mqtt.home_assistant.as_deref(), mqtt.timeout), (Some("homeassistant"), Duration::from_secs(20)));
    assert_eq!((webhook.concurrency, webhook.batch, webhook.secrets.len()), (4, None, 0));
    let names: Vec<&str> = settings.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["mqtt-0", "webhook-1", "jsonl-2"]);
}

#[test]
fn check_prints_a_summary_or_the_problems_and_says_so_by_its_exit_code() {
    let folder = folder();
    let path = folder.path().join("vtagd.yaml");
    fs::write(
        &path,
        "streams: [{ id: a, url: rtsp://h }]\nlabels: [labels/one.yaml]\napi: { listen: '127.0.0.1:0', token: { file: secret } }\n",
    )
    .expect("written");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    assert_eq!(
        vtagd::cli::check::run(&path, &mut out, &mut err, |_| Ok(ModelFindings::default())).expect("written"),
        0
    );
    let (out, err) = (String::from_utf8_lossy(&out), String::from_utf8_lossy(&err));
    assert!(out.contains("ok: 1 stream, 2 labels in 1 set, 1 sink, the starter model"), "{out}");
    assert!(err.contains("warning: api.token: is shorter than 20 characters"), "{err}");
    assert!(!err.contains("hunter2"), "{err}");

    fs::write(&path, "streams: []\nnonsense: 1\n").expect("written");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    assert_eq!(
        vtagd::cli::check::run(&path, &mut out, &mut err, |_| Ok(ModelFindings::default())).expect("written"),
        2
    );
    let err = String::from_utf8_lossy(&err);
    assert!(out.is_empty());
    assert!(err.contains("vtagd.yaml:2:1: error: nonsense: is an unknown key"), "{err}");
    assert!(err.contains("2 errors"), "{err}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    files
}

#[test]
fn every_shipped_configuration_passes_check() {
    for path in yaml_files(&root().join("config")) {
        match config::load(&path) {
            Ok(settings) => {
                assert!(
                    settings.notices.iter().all(|notice| notice.severity != Severity::Warning),
                    "{:?}",
                    settings.notices
                );
            }
            Err(problems) => {
                // What set-up makes (demo clip, models) may not be there; nothing else may be wrong.
                let generated = |message: &str| {
                    ["/demo/", "/models/", "/runtime/"].iter().any(|folder| message.contains(folder))
                        && message.ends_with("does not exist")
                };
                for problem in problems {
                    assert!(problem.severity != Severity::Error || generated(&problem.message), "{problem}");
                }
            }
        }
    }
}

#[test]
fn every_shipped_label_set_is_without_warnings() {
    let files = yaml_files(&root().join("config/labels"));
    assert!(!files.is_empty());
    for path in files {
        let (_, warnings) = vtagd::label::set::load(&path).unwrap_or_else(|problems| panic!("{problems:?}"));
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

#[test]
fn the_documentation_and_the_example_name_every_key() {
    let manual = fs::read_to_string(root().join("docs/configuration.md")).expect("the manual");
    let example = fs::read_to_string(root().join("config/vtagd.yaml")).expect("the example");
    let keys = config::keys();
    assert!(keys.len() > 60, "{keys:?}");
    for key in &keys {
        assert!(manual.contains(&format!("`{key}`")), "docs/configuration.md does not explain `{key}`");
        let last = key.rsplit('.').next().unwrap_or(key);
        assert!(example.contains(&format!("{last}:")), "config/vtagd.yaml does not show `{key}`");
    }
}

#[test]
fn an_api_that_others_can_reach_is_to_be_encrypted_and_its_token_hard_to_guess() {
    let folder = folder();
    certify(&folder);
    let rest = "streams: [{ id: a, url: rtsp://h }]\nlabels: [labels/one.yaml]\n";
    let told = |api: &str| -> Vec<String> {
        load(&folder, &format!("{rest}api: {api}\n")).notices.iter().map(|notice| notice.to_string()).collect()
    };
    fs::write(folder.path().join("token"), "0123456789abcdef0123456789abcdef\n").expect("written");
    assert_eq!(told("{ token: { file: token } }"), [""; 0]);
    assert_eq!(told("{ listen: 0.0.0.0:1, token: { file: token }, tls: { cert: api.crt, key: api.key } }"), [""; 0]);
    let clear = told("{ listen: 0.0.0.0:1, token: { file: token } }");
    assert!(clear.len() == 1 && clear[0].contains("without encryption"), "{clear:?}");
    let everybody = told("{ trusted_proxies: [10.0.0.1, \"fd00::/8\", 0.0.0.0/0] }");
    assert!(
        everybody.len() == 1 && everybody[0].contains("api.trusted_proxies[2]: believes everybody"),
        "{everybody:?}"
    );
    let short = told("{ token: { file: secret } }");
    assert!(short.len() == 1 && short[0].contains("can be guessed"), "{short:?}");

    fs::write(folder.path().join("token"), "two words\n").expect("written");
    let path = folder.path().join("vtagd.yaml");
    fs::write(&path, format!("{rest}api: {{ token: {{ file: token }} }}\n")).expect("written");
    let problems = config::load(&path).expect_err("no header can carry it");
    assert!(problems[0].to_string().contains("no header can carry"), "{problems:?}");
    assert!(!problems[0].to_string().contains("two words"), "{problems:?}");

    // Another certificate's key.
    let other = tempfile::tempdir().expect("a folder");
    certify(&other);
    fs::copy(other.path().join("api.key"), folder.path().join("api.key")).expect("copied");
    fs::write(&path, format!("{rest}api: {{ tls: {{ cert: api.crt, key: api.key }} }}\n")).expect("written");
    let problems = config::load(&path).expect_err("they do not belong together");
    assert!(problems[0].to_string().contains("cannot be used together"), "{problems:?}");
}
