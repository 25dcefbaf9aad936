//! What `vtagd check` says about files that are wrong: everything, at the right line, with a remedy, and without secrets.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vtagd::config;
use vtagd::yaml::problem::{Problem, Severity};

/// A folder with a label set, a video file and a secret, to write configurations into.
struct Folder(tempfile::TempDir);

const SET: &str = "set: dock\nbackground: [an empty dock]\nlabels: [{ name: forklift }]\n";

/// The parts a configuration cannot do without.
const REST: &str = "labels: [dock.yaml]\nstreams: [{ id: a, url: rtsp://h/1 }]\n";

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in [("dock.yaml", SET), ("clip.mp4", "x"), ("secret", "hunter2\n"), ("empty", "")] {
            fs::write(folder.path().join(name), text).expect("written");
        }
        Self(folder)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).expect("written");
        path
    }

    fn load(&self, text: impl AsRef<[u8]>) -> Result<config::Settings, Vec<Problem>> {
        config::load(&self.write("vtagd.yaml", text))
    }

    fn problems(&self, text: impl AsRef<[u8]>) -> Vec<Problem> {
        self.load(text).err().unwrap_or_default()
    }
}

/// The one mistake in `text`, which is in this line and field and told in words of which `part` is some. Also everything that was told.
fn mistake(folder: &Folder, text: &str, line: u64, field: &str, part: &str) -> (Problem, String) {
    let problems = folder.problems(text);
    let all = told(&problems);
    let errors: Vec<Problem> = problems.into_iter().filter(|problem| problem.severity == Severity::Error).collect();
    let [error] = <[Problem; 1]>::try_from(errors).unwrap_or_else(|errors| panic!("{} in {text}\n{all}", errors.len()));
    assert_eq!((error.position.map(|(line, _)| line), error.field.as_str()), (Some(line), field), "{error}");
    assert!(error.to_string().contains(part), "{text}: `{part}` is not in\n{error}");
    assert!(!error.remedy.is_empty() && error.snippet.contains('^'), "{error}");
    (error, all)
}

fn told(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn every_mistake_is_told_with_its_line_and_field_and_a_remedy() {
    let folder = Folder::new();
    // (text, line, field, part of message or remedy)
    let cases: &[(&str, u64, &str, &str)] = &[
        ("strems: []", 1, "strems", "did you mean `streams`"),
        ("colour: red", 1, "colour", "known here: instance, model"),
        ("runtime: { batch: { max-size: 3 } }", 1, "runtime.batch.max-size", "did you mean `max_size`"),
        ("runtime: { batch: { max_size: 0 } }", 1, "runtime.batch.max_size", "1 to 1024"),
        ("runtime: { batch: { max_size: 1025 } }", 1, "runtime.batch.max_size", "1 to 1024"),
        ("runtime: { batch: { max_size: many } }", 1, "runtime.batch.max_size", "neither a whole number nor `auto`"),
        ("runtime: { sessions: 0 }", 1, "runtime.sessions", "1 to 64"),
        ("runtime: { sessions: all }", 1, "runtime.sessions", "8 or auto"),
        ("runtime: { preprocess_threads: 0 }", 1, "runtime.preprocess_threads", "1 to 64"),
        ("runtime: { preprocess_threads: 65 }", 1, "runtime.preprocess_threads", "1 to 64"),
        ("runtime: { preprocess_threads: all }", 1, "runtime.preprocess_threads", "8 or auto"),
        (
            "runtime: { providers: [{ tensorrt: { opt_batch: 9 } }] }",
            1,
            "runtime.providers[0].tensorrt.opt_batch",
            "1 to 8, the largest batch",
        ),
        (
            "runtime: { providers: [{ tensorrt: { opt_batch: 129 } }], batch: { max_size: auto } }",
            1,
            "runtime.providers[0].tensorrt.opt_batch",
            "1 to 128, the largest batch",
        ),
        (
            "runtime: { providers: [{ tensorrt: { opt_batch: 0 } }] }",
            1,
            "runtime.providers[0].tensorrt.opt_batch",
            "1 to 8",
        ),
        ("runtime: { run_limit: 10ms }", 1, "runtime.run_limit", "shorter than a second"),
        ("runtime: { devices: [] }", 1, "runtime.devices", "name at least one GPU"),
        ("runtime: { devices: [0, 1] }", 1, "runtime.devices", "no use without cuda or tensorrt"),
        ("runtime: { providers: [cuda], devices: [1, 1] }", 1, "runtime.devices", "names a GPU twice"),
        ("runtime: { providers: [cuda], devices: [0, 64] }", 1, "runtime.devices[1]", "nvidia-smi -L"),
        (
            "runtime: { providers: [{ cuda: { device: 1 } }], devices: [0, 1] }",
            1,
            "runtime.devices",
            "remove `device` there",
        ),
        ("runtime: { batch: { max_delay: 50 } }", 1, "runtime.batch.max_delay", "500ms"),
        ("runtime: { strict: \"yes\" }", 1, "runtime.strict", "true or false"),
        ("runtime: { providers: [cpu, cpu] }", 1, "runtime.providers[1]", "twice"),
        ("runtime: { providers: [gpu] }", 1, "runtime.providers[0]", "tensorrt, cuda, openvino, cpu"),
        ("runtime: { providers: cpu }", 1, "runtime.providers", "expected a list"),
        ("runtime: { providers: [{ abacus: {} }] }", 1, "runtime.providers[0].abacus", "tensorrt, cuda, openvino, cpu"),
        ("runtime: { providers: [{ cuda: {}, cpu: {} }] }", 1, "runtime.providers[0]", "one item each"),
        ("runtime: { providers: [cpu, { cpu: { threads: 1 } }] }", 1, "runtime.providers[1]", "twice"),
        (
            "runtime:\n  providers:\n    - cuda: { devise: 0 }",
            3,
            "runtime.providers[0].cuda.devise",
            "did you mean `device`",
        ),
        ("runtime: { providers: [{ cuda: { device: 64 } }] }", 1, "runtime.providers[0].cuda.device", "nvidia-smi -L"),
        ("runtime: { providers: [{ cuda: { fp16: true } }] }", 1, "runtime.providers[0].cuda.fp16", "--precision fp16"),
        (
            "runtime: { providers: [{ cuda: { memory_limit: 0MiB } }] }",
            1,
            "runtime.providers[0].cuda.memory_limit",
            "4GiB",
        ),
        (
            "runtime: { providers: [{ cuda: { arena: big } }] }",
            1,
            "runtime.providers[0].cuda.arena",
            "same_as_requested",
        ),
        ("runtime: { providers: [{ cpu: { threads: 2000 } }] }", 1, "runtime.providers[0].cpu.threads", "all cores"),
        ("runtime: { providers: [{ cpu: 2 }] }", 1, "runtime.providers[0].cpu", "expected a mapping"),
        (
            "runtime: { providers: [{ openvino: { precision: fp8 } }] }",
            1,
            "runtime.providers[0].openvino.precision",
            "bf16, f32",
        ),
        (
            "runtime: { providers: [{ openvino: { streams: 9 } }] }",
            1,
            "runtime.providers[0].openvino.streams",
            "1 to 8",
        ),
        (
            "runtime: { providers: [{ openvino: { device: \"a b\" } }] }",
            1,
            "runtime.providers[0].openvino.device",
            "GPU.1",
        ),
        (
            "runtime: { providers: [{ tensorrt: { engine_cache: \"\" } }] }",
            1,
            "runtime.providers[0].tensorrt.engine_cache",
            "folder",
        ),
        ("runtime: { probe: { min_cosine: 2 } }", 1, "runtime.probe.min_cosine", "0 to 1"),
        ("runtime: { library: none.so }", 1, "runtime.library", "does not exist"),
        ("runtime: [cpu]", 1, "runtime", "expected a mapping"),
        ("model: { path: nowhere }", 1, "model.path", "does not exist"),
        ("model: { path: nowhere }", 1, "model.path", "vtagd model pull"),
        ("model: { path: \"hf:../x\" }", 1, "model.path", "no repository"),
        ("model: { path: \"hf:a/b@..\" }", 1, "model.path", "no revision"),
        ("model: { logit_scale: 0 }", 1, "model.logit_scale", "not its logarithm"),
        ("model: { logit_scale: -4.6 }", 1, "model.logit_scale", "is -4.6"),
        ("model: { logit_bias: 1e30 }", 1, "model.logit_bias", "beyond 10000"),
        ("model: { logit_scale: many }", 1, "model.logit_scale", "number"),
        ("model: { path: clip.mp4 }", 1, "model.path", "is not a folder"),
        ("model:\n  path:\n", 2, "model.path", "has no value"),
        ("sampling: { interval: 0s }", 1, "sampling.interval", "above 0"),
        ("sampling: { interval: often }", 1, "sampling.interval", "or auto"),
        ("sampling: { interval: 5 }", 1, "sampling.interval", "number and a unit"),
        ("sampling: { unchanged: yes }", 1, "sampling.unchanged", "off, on"),
        ("sampling: { unchanged: 3 }", 1, "sampling.unchanged", "tolerance: 4"),
        ("sampling: { unchanged: { tolerance: 0 } }", 1, "sampling.unchanged.tolerance", "unchanged: off"),
        ("sampling: { unchanged: { tolerance: 65 } }", 1, "sampling.unchanged.tolerance", "0 to 64"),
        ("sampling: { unchanged: { max_age: 0 } }", 1, "sampling.unchanged.max_age", "above 0"),
        ("sampling: { unchanged: { age: 1s } }", 1, "sampling.unchanged.age", "max_age"),
        ("sampling: { decode: some }", 1, "sampling.decode", "auto, keyframes, all"),
        ("sampling: { max_pixels: 50 }", 1, "sampling.max_pixels", "33554432 for 8K"),
        ("sampling: { max_pixels: 200000001 }", 1, "sampling.max_pixels", "65536 to 200000000"),
        ("sampling: { max_pixels: 33MP }", 1, "sampling.max_pixels", "a whole number"),
        ("reconnect: { first: 0s }", 1, "reconnect.first", "above 0"),
        ("reconnect: { max: 0s }", 1, "reconnect.max", "above 0"),
        ("reconnect: { stall: 0 }", 1, "reconnect.stall", "above 0"),
        ("reconnect: { first_frame: soon }", 1, "reconnect.first_frame", "a duration"),
        ("reconnect: { first: 10s, max: 5s }", 1, "reconnect.first", "longer than `max`"),
        ("reconnect: { retries: 3 }", 1, "reconnect.retries", "known here: first, max"),
        ("events: { enter: 1.5 }", 1, "events.enter", "0 to 1"),
        ("events: { enter: .nan }", 1, "events.enter", "a number"),
        ("events: { enter: { margin: .nan } }", 1, "events.enter.margin", "a number"),
        ("events: { enter: {} }", 1, "events.enter", "has no margin"),
        ("events: { exit: { margin: 0.5 } }", 1, "events.exit", "above the default enter"),
        ("events: { enter: 0.5, exit: 0.6 }", 1, "events.exit", "at most enter"),
        ("events: { exit: 0.7 }", 1, "events.exit", "above the default enter"),
        ("events: { after: -1s }", 1, "events.after", "a duration"),
        ("events: { enter: 0.5, enter: 0.6 }", 1, "events.enter", "given twice"),
        ("instance: a/b", 1, "instance", "letters, digits"),
        ("api: { listen: 0.0.0.0:8642 }", 1, "api.listen", "api.token"),
        ("api: { listen: \"[::]:8642\" }", 1, "api.listen", "api.token"),
        ("api: { listen: 8642 }", 1, "api.listen", "127.0.0.1:8642"),
        ("api: { listen: 127.0.0.1 }", 1, "api.listen", "add a port"),
        ("api: { token: hunter2 }", 1, "api.token", "{ env: NAME }"),
        ("api: { token: { env: VTAGD_TEST_NOT_SET } }", 1, "api.token", "VTAGD_TEST_NOT_SET is not set"),
        ("api: { token: { file: empty } }", 1, "api.token", "is empty"),
        ("api: { token: { file: missing } }", 1, "api.token", "cannot be read"),
        ("api: { token: { file: secret, env: X } }", 1, "api.token", "exactly one"),
        ("api: { token: {} }", 1, "api.token", "exactly one"),
        ("api: { token: { credential: ../../etc/shadow } }", 1, "api.token.credential", "systemd credential"),
        (
            "api: { trusted_proxies: [10.0.0.1, proxy.example] }",
            1,
            "api.trusted_proxies[1]",
            "no address and no network",
        ),
        ("api: { listen: off, trusted_proxies: [\"10.0.0.0/33\"] }", 1, "api.trusted_proxies[0]", "10.0.0.0/24"),
        ("api: { trusted_proxies: 10.0.0.1 }", 1, "api.trusted_proxies", "a list"),
        ("api: { tls: { cert: clip.mp4 } }", 1, "api.tls.key", "is missing"),
        ("api: { tls: { cert: clip.mp4, key: clip.mp4 } }", 1, "api.tls", "holds no certificate"),
        ("api: { tls: { cert: clip.mp4, key: none.key } }", 1, "api.tls.key", "does not exist"),
        ("log: { level: loud }", 1, "log.level", "error, warn, info"),
        ("sinks: [{ path: x }]", 1, "sinks[0].type", "is missing"),
        ("sinks: [{ type: json }]", 1, "sinks[0].type", "did you mean `jsonl`"),
        ("sinks: [{ type: jsonl }]", 1, "sinks[0].path", "is missing"),
        ("sinks: [{ type: jsonl, path: . }]", 1, "sinks[0].path", "is a folder"),
        ("sinks: [{ type: jsonl, path: clip.mp4/x }]", 1, "sinks[0].path", "is not a folder"),
        ("sinks: [{ type: jsonl, path: a, url: mqtt://h }]", 1, "sinks[0].url", "its keys: type, path"),
        ("sinks: [{ type: jsonl, path: \"-\" }, { type: jsonl, path: \"-\" }]", 1, "sinks[1]", "same place"),
        ("sinks: [{ type: mqtt, url: http://h }]", 1, "sinks[0].url", "mqtts://host"),
        ("sinks: [{ type: webhook, url: https://h, template: ntfy }]", 1, "sinks[0].template", "template that fails"),
        ("sinks: [{ type: webhook, url: https://h, template: teams }]", 1, "sinks[0].template", "ready ones: discord"),
        (
            "sinks: [{ type: webhook, url: https://h, template: slack, batch: { max_size: 2 } }]",
            1,
            "sinks[0].template",
            "`batch` sends several",
        ),
        (
            "sinks: [{ type: webhook, url: https://h, template_values: { a: b } }]",
            1,
            "sinks[0].template_values",
            "without `template`",
        ),
        ("sinks: [{ type: webhook, secret_url: { file: secret } }]", 1, "sinks[0].secret_url", "holds no URL"),
        ("sinks: [{ type: mqtt, url: mqtt://h, topic_prefix: a/# }]", 1, "sinks[0].topic_prefix", "topic prefix"),
        (
            "sinks: [{ type: mqtt, url: mqtt://localhost, client_id: x }, { type: mqtt, url: mqtt://127.0.0.1, client_id: x, topic_prefix: a }]",
            1,
            "sinks[1].client_id",
            "is the client id of the sink in line 1 too",
        ),
        (
            "sinks: [{ type: mqtt, url: mqtt://h, client_id: x }, { type: mqtt, url: mqtt://h, client_id: x, topic_prefix: a }]",
            1,
            "sinks[1].client_id",
            "the sink in line 1 too",
        ),
        ("sinks: [{ type: mqtt, url: mqtts://h, ca: nowhere }]", 1, "sinks[0].ca", "does not exist"),
        ("sinks: [{ type: mqtt, url: mqtt://h, ca: secret }]", 1, "sinks[0].ca", "without TLS"),
        ("sinks: [{ type: mqtt, url: mqtts://h, cert: secret }]", 1, "sinks[0].key", "both `cert` and `key`"),
        ("sinks: [{ type: mqtt, url: mqtt://h, protocol: 4 }]", 1, "sinks[0].protocol", "3.1.1 or 5"),
        ("sinks: [{ type: mqtt, url: mqtt://h, timeout: 0s }]", 1, "sinks[0].timeout", "1s and 5m"),
        (
            "sinks: [{ type: mqtt, url: mqtt://h, discovery_prefix: ha }]",
            1,
            "sinks[0].discovery_prefix",
            "home_assistant",
        ),
        ("sinks: [{ type: webhook, url: http://h, concurrency: 0 }]", 1, "sinks[0].concurrency", "from 1 to 64"),
        (
            "sinks: [{ type: webhook, url: http://h, headers: { Host: { file: secret } } }]",
            1,
            "sinks[0].headers.Host",
            "itself",
        ),
        (
            "sinks: [{ type: webhook, url: http://h, headers: { X: hunter2 } }]",
            1,
            "sinks[0].headers.X",
            "may not stand",
        ),
        ("sinks: [{ type: nats, url: nats://h, nkey: { file: secret } }]", 1, "sinks[0].nkey", "seed of a user's key"),
        ("sinks: [{ type: nats, url: nats://h, creds: { file: secret } }]", 1, "sinks[0].creds", "a .creds file"),
        (
            "sinks: [{ type: nats, url: nats://h, username: u, nkey: { file: secret } }]",
            1,
            "sinks[0].nkey",
            "two ways to log in",
        ),
        (
            "sinks: [{ type: nats, url: nats://h, nkey: { file: secret }, creds: { file: secret } }]",
            1,
            "sinks[0].creds",
            "two ways to log in",
        ),
        ("sinks: [{ type: kafka }]", 1, "sinks[0].brokers", "kafka-1.example:9092"),
        ("sinks: [{ type: kafka, brokers: [] }]", 1, "sinks[0].brokers", "is empty"),
        ("sinks: [{ type: kafka, brokers: [\"kafka://k\"] }]", 1, "sinks[0].brokers[0]", "a host and a port"),
        ("sinks: [{ type: kafka, brokers: [k], topic: a/b }]", 1, "sinks[0].topic", "name of a topic"),
        ("sinks: [{ type: kafka, brokers: [k], ca: secret }]", 1, "sinks[0].ca", "write `tls: true`"),
        ("sinks: [{ type: kafka, brokers: [k], tls: true, cert: secret }]", 1, "sinks[0].key", "both `cert` and `key`"),
        ("sinks: [{ type: kafka, brokers: [k], username: u }]", 1, "sinks[0].sasl", "SASL needs"),
        ("sinks: [{ type: kafka, brokers: [k], sasl: plain, username: u }]", 1, "sinks[0].password", "SASL needs"),
        (
            "sinks: [{ type: kafka, brokers: [k], sasl: gssapi, username: u, password: { file: secret } }]",
            1,
            "sinks[0].sasl",
            "scram-sha-256",
        ),
        ("sinks: [{ type: kafka, brokers: [k], url: nats://h }]", 1, "sinks[0].url", "its keys: type, brokers"),
        ("snapshots: { quality: 101 }", 1, "snapshots.quality", "from 1 to 100"),
        ("history: { max_size: 1KiB }", 1, "history.max_size", "below 1MiB"),
        ("history: { max_age: 0 }", 1, "history.max_age", "above 0"),
        ("history: { min_change: 1.5 }", 1, "history.min_change", "from 0 to 1"),
        ("history: { pictures: { quality: 0 } }", 1, "history.pictures.quality", "from 1 to 100"),
        ("history: on", 1, "history", "unknown word"),
        ("snapshots: { url: \"https://u:p@h\" }", 1, "snapshots.url", "without credentials"),
        ("sinks: [{ type: webhook, url: ftp://h }]", 1, "sinks[0].url", "https://host"),
        ("sinks: [{ type: webhook, url: \"https://h\", secret: { file: secret } }]", 1, "sinks[0].secret", "whsec_"),
        ("sinks: [{ type: jsonl, path: a, name: A b }]", 1, "sinks[0].name", "lower-case"),
        (
            "sinks: [{ type: jsonl, path: a, name: x }, { type: jsonl, path: b, name: x }]",
            1,
            "sinks[1]",
            "`name` of its own",
        ),
        ("sinks: [{ type: jsonl, path: a, keep: 3 }]", 1, "sinks[0].keep", "without `max_size`"),
        ("sinks: [{ type: jsonl, path: \"-\", max_size: 1MiB }]", 1, "sinks[0].max_size", "standard output"),
        ("sinks: [{ type: jsonl, path: a, only: { min_severity: warn } }]", 1, "sinks[0].only.min_severity", "warning"),
        (
            "sinks: [{ type: jsonl, path: a, only: { stream: [a] } }]",
            1,
            "sinks[0].only.stream",
            "did you mean `streams`",
        ),
        ("sinks: [{ type: jsonl, path: a, only: { attributes: [a] } }]", 1, "sinks[0].only.attributes", "mapping"),
        ("sinks: [{ type: jsonl, path: a, rate: { per: 1m } }]", 1, "sinks[0].rate.events", "is missing"),
        ("sinks: [{ type: jsonl, path: a, rate: { events: 0 } }]", 1, "sinks[0].rate.events", "from 1 to"),
        ("outbox: { max_size: 1000B }", 1, "outbox.max_size", "below 1MiB"),
        ("outbox: { path: clip.mp4/x }", 1, "outbox.path", "is not a folder"),
        ("outbox: { max_size: 1gb }", 1, "outbox.max_size", "1GiB"),
        ("snapshots: { max_age: 0 }", 1, "snapshots.max_age", "above 0"),
    ];
    // Without the client every one of them is wrong in another way too.
    let built = |text: &str| vtagd::sink::kafka::BUILT || !text.contains("type: kafka");
    for (text, line, field, part) in cases.iter().filter(|case| built(case.0)) {
        mistake(&folder, &format!("{text}\n{REST}"), *line, field, part);
    }
}

#[test]
fn every_mistake_in_a_stream_is_told() {
    let folder = Folder::new();
    let cases: &[(&str, &str, &str)] = &[
        ("url: rtsp://h", "streams[0].id", "is missing"),
        ("id: Dock 3, url: rtsp://h", "streams[0].id", "`dock-3`"),
        ("id: \"\", url: rtsp://h", "streams[0].id", "camera-1"),
        ("id: a", "streams[0].url", "is missing"),
        ("id: a, url: rtsp://h, pipeline: clip.mp4", "streams[0].pipeline", "beside `url`"),
        ("id: a, pipeline: no.gst", "streams[0].pipeline", "does not exist"),
        ("id: a, url: rstp://h", "streams[0].url", "did you mean rtsp://"),
        ("id: a, url: /srv/a.mp4", "streams[0].url", "file:///srv/a.mp4"),
        ("id: a, url: /dev/video0", "streams[0].url", "v4l2:///dev/video0"),
        ("id: a, url: camera", "streams[0].url", "has no scheme"),
        ("id: a, url: \"rtsp://\"", "streams[0].url", "has no host"),
        ("id: a, url: \"rtsp://u:hunt#er@h/\"", "streams[0].url", "`password`"),
        ("id: a, url: file://no.mp4", "streams[0].url", "does not exist"),
        ("id: a, url: \"file://.\"", "streams[0].url", "is not a file"),
        ("id: a, url: \"v4l2://\"", "streams[0].url", "names no device"),
        ("id: a, url: rtsp://h, pace: fast", "streams[0].pace", "only for files"),
        ("id: a, url: rtsp://h, loop: true", "streams[0].loop", "only for files"),
        ("id: a, url: rtsp://h, labels: [dokc]", "streams[0].labels[0]", "did you mean `dock`"),
        ("id: a, url: rtsp://h, labels: dock", "streams[0].labels", "expected a list"),
        ("id: a, url: rtsp://h, sampling: { interval: 0 }", "streams[0].sampling.interval", "above 0"),
        (
            "id: a, url: file://clip.mp4, pace: fast, sampling: { interval: auto }",
            "streams[0].sampling.interval",
            "with `pace: fast`",
        ),
        ("id: a, url: rtsp://h, view: { mode: tile }", "streams[0].view.mode", "did you mean `tiles`"),
        ("id: a, url: rtsp://h, view: { region: [0, 0, 1] }", "streams[0].view.region", "four numbers"),
        ("id: a, url: rtsp://h, view: { region: [0, 0, 1, no] }", "streams[0].view.region[3]", "a number"),
        ("id: a, url: rtsp://h, view: { region: [0.5, 0, 0.6, 1] }", "streams[0].view.region", "beyond the picture"),
        ("id: a, url: rtsp://h, view: { region: [0, 0, 0, 1] }", "streams[0].view.region", "no area"),
        ("id: a, url: rtsp://h, view: { region: [1, 0, 1, 1] }", "streams[0].view.region", "outside the picture"),
        (
            "id: a, url: rtsp://h, view: { region: [0, 0, 1, 1], regions: [{ name: a, region: [0, 0, 1, 1] }] }",
            "streams[0].view.region",
            "keep one of them",
        ),
        ("id: a, url: rtsp://h, view: { regions: [] }", "streams[0].view.regions", "names no region"),
        (MANY_REGIONS, "streams[0].view.regions", "16 are the most"),
        (
            "id: a, url: rtsp://h, view: { regions: [{ region: [0, 0, 1, 1] }] }",
            "streams[0].view.regions[0].name",
            "is missing",
        ),
        (
            "id: a, url: rtsp://h, view: { regions: [{ name: Door 1, region: [0, 0, 1, 1] }] }",
            "streams[0].view.regions[0].name",
            "`door-1`",
        ),
        (
            "id: a, url: rtsp://h, view: { regions: [{ name: d, region: [0, 0, 1, 1] }, { name: d, region: [0, 0, 1, 0.5] }] }",
            "streams[0].view.regions[1].name",
            "used twice in this stream",
        ),
        ("id: a, url: rtsp://h, view: { regions: [{ name: d }] }", "streams[0].view.regions[0].region", "is missing"),
        (
            "id: a, url: rtsp://h, view: { regions: [{ name: d, region: [0, 0, 1, 1], polygon: [[0, 0], [1, 0], [1, 1]] }] }",
            "streams[0].view.regions[0].polygon",
            "beside `region`",
        ),
        (
            "id: a, url: rtsp://h, view: { regions: [{ name: d, region: [0, 0, 2, 1] }] }",
            "streams[0].view.regions[0].region",
            "beyond the picture",
        ),
        (
            "id: a, url: rtsp://h, view: { regions: [{ name: d, polygon: [[0, 0], [1, 1]] }] }",
            "streams[0].view.regions[0].polygon",
            "3 to 64",
        ),
        (MANY_CORNERS, "streams[0].view.regions[0].polygon", "3 to 64"),
        (
            "id: a, url: rtsp://h, view: { regions: [{ name: d, polygon: [[0, 0], [1, 1], [0.5, 0.5]] }] }",
            "streams[0].view.regions[0].polygon",
            "no area",
        ),
        (
            "id: a, url: rtsp://h, view: { regions: [{ name: d, polygon: [[0, 0], [1, 0], [1, 1.5]] }] }",
            "streams[0].view.regions[0].polygon[2]",
            "outside the picture",
        ),
        (
            "id: a, url: rtsp://h, view: { regions: [{ name: d, polygon: [[0, 0], [1, 0], [1]] }] }",
            "streams[0].view.regions[0].polygon[2]",
            "two numbers",
        ),
        (
            "id: a, url: rtsp://h, view: { regions: [{ name: d, polygon: [[0, 0], [1, x], [1, 1]] }] }",
            "streams[0].view.regions[0].polygon[1][1]",
            "a number",
        ),
        (
            "id: a, url: rtsp://h, view: { regions: [{ name: d, polygon: [[0, 0], [1, 0], [1, 1]], mode: tile }] }",
            "streams[0].view.regions[0].mode",
            "did you mean `tiles`",
        ),
        ("id: a, url: rtsp://h, passwrd: hunter2", "streams[0].passwrd", "did you mean `password`"),
        (
            "id: a, url: \"rtsp://u:hunter2@h\", password: { file: secret }",
            "streams[0].url",
            "remove them from the URL",
        ),
    ];
    for (text, field, part) in cases {
        let text = format!("labels: [dock.yaml]\nstreams:\n  - {{ {text} }}\n");
        let (_, all) = mistake(&folder, &text, 3, field, part);
        assert!(!all.contains("hunt"), "{all}");
    }
}

/// One region, and one corner, more than there may be.
const MANY_REGIONS: &str = "id: a, url: rtsp://h, view: { regions: [{ name: r0, region: [0, 0, 1, 1] }, { name: r1, region: [0, 0, 1, 1] }, { name: r2, region: [0, 0, 1, 1] }, { name: r3, region: [0, 0, 1, 1] }, { name: r4, region: [0, 0, 1, 1] }, { name: r5, region: [0, 0, 1, 1] }, { name: r6, region: [0, 0, 1, 1] }, { name: r7, region: [0, 0, 1, 1] }, { name: r8, region: [0, 0, 1, 1] }, { name: r9, region: [0, 0, 1, 1] }, { name: r10, region: [0, 0, 1, 1] }, { name: r11, region: [0, 0, 1, 1] }, { name: r12, region: [0, 0, 1, 1] }, { name: r13, region: [0, 0, 1, 1] }, { name: r14, region: [0, 0, 1, 1] }, { name: r15, region: [0, 0, 1, 1] }, { name: r16, region: [0, 0, 1, 1] }] }";
const MANY_CORNERS: &str = "id: a, url: rtsp://h, view: { regions: [{ name: d, polygon: [[0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0]] }] }";

#[test]
fn all_problems_of_all_files_are_told_together() {
    let folder = Folder::new();
    folder.write("bad.yaml", "set: bad\nlabels:\n  - { name: x, entr: 1 }\n  - { prompts: [] }\n");
    let problems = folder.problems(
        "\
streams:
  - { id: A, url: rstp://h, view: { region: 7 } }
  - { id: b, ulr: rtsp://h }
  - { id: c, url: rtsp://h }
  - { id: c, url: rtsp://h, pace: 3 }
labels: [dock.yaml, bad.yaml, gone.yaml, ./dock.yaml]
sinks:
  - { type: mqtt, url: 7 }
events: { enter: x }
nonsense: 1
",
    );
    let found: Vec<(String, u64, String)> = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .map(|problem| {
            let file = problem.file.file_name().expect("a name").to_string_lossy().into_owned();
            (file, problem.position.expect("a position").0, problem.field.clone())
        })
        .collect();
    let expected = [
        ("vtagd.yaml", 2, "streams[0].id"),
        ("vtagd.yaml", 2, "streams[0].url"),
        ("vtagd.yaml", 2, "streams[0].view.region"),
        ("vtagd.yaml", 3, "streams[1].url"),
        ("vtagd.yaml", 3, "streams[1].ulr"),
        ("vtagd.yaml", 5, "streams[3].id"),
        ("vtagd.yaml", 5, "streams[3].pace"),
        ("vtagd.yaml", 6, "labels[2]"),
        ("vtagd.yaml", 6, "labels[3]"),
        ("vtagd.yaml", 8, "sinks[0].url"),
        ("vtagd.yaml", 9, "events.enter"),
        ("vtagd.yaml", 10, "nonsense"),
        ("bad.yaml", 3, "labels[0].entr"),
        ("bad.yaml", 4, "labels[1].name"),
        ("bad.yaml", 4, "labels[1].prompts"),
    ];
    assert_eq!(
        found,
        expected.map(|(file, line, field)| (file.to_owned(), line, field.to_owned())),
        "{}",
        told(&problems)
    );
}

#[test]
fn an_empty_file_says_what_is_needed() {
    let problems = Folder::new().problems("");
    let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["labels", "streams"], "{}", told(&problems));
    // Streams may come with a reload, where somebody can ask for one.
    assert_eq!(Folder::new().problems("streams: []\nlabels: []\n").len(), 1);
    assert_eq!(Folder::new().problems("streams: []\nlabels: []\napi: { listen: off }\n").len(), 2);
}

#[test]
fn a_file_that_cannot_be_read_is_one_clear_problem() {
    let folder = Folder::new();
    let cases: [(&[u8], &str); 6] = [
        (b"streams: [", "not valid YAML"),
        (b"a: 1\n b: 2\n", "not valid YAML"),
        (b"- a\n- b\n", "expected a mapping"),
        (b"a: \xff\xfe\n", "not UTF-8"),
        (b"a: 1\n---\nb: 2\n", "more than one YAML document"),
        (b"a: *nothing\n", "anchor"),
    ];
    for (bytes, part) in cases {
        let problems = folder.problems(bytes);
        assert_eq!(problems.len(), 1, "{}", told(&problems));
        assert!(told(&problems).contains(part), "{part}: {}", told(&problems));
        assert!(!problems[0].remedy.is_empty());
    }
    let missing = config::load(Path::new("/nonexistent/vtagd.yaml")).expect_err("no such file");
    assert!(told(&missing).contains("cannot be opened"), "{}", told(&missing));
    assert!(told(&config::load(folder.0.path()).expect_err("a folder")).contains("cannot be read"));
}

#[test]
fn hostile_files_are_refused_quickly() {
    let folder = Folder::new();
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    let large = format!("streams:\n{}", "  - { id: a, url: rtsp://h }\n".repeat(400_000));
    assert!(large.len() > 10_000_000);
    let keys: String = (0..40_000).map(|number| format!("key{number}: 1\n")).collect();
    let cases = [
        (bomb, "aliases"),
        (large, "larger than 1024 KiB"),
        ("[".repeat(500_000), "flatter"),
        ("a: {".repeat(100_000), "flatter"),
        ("- ".repeat(300_000), ""),
        (keys, "more problems are not shown"),
    ];
    for (text, part) in cases {
        let started = Instant::now();
        let problems = folder.problems(&text);
        assert!(told(&problems).contains(part), "{part}: {}", told(&problems));
        assert!(!problems.is_empty());
        assert!(started.elapsed() < Duration::from_secs(10), "{part} took {:?}", started.elapsed());
    }
}

#[test]
fn many_warnings_are_no_error_and_hide_none() {
    let folder = Folder::new();
    // Each has a warning for its address.
    let streams: String = (0..300).map(|n| format!("  - {{ id: s{n}, url: \"rtsp://u:p{n}word@h/{n}\" }}\n")).collect();
    let text = format!("labels: [dock.yaml]\nstreams:\n{streams}");
    let settings = folder.load(&text).unwrap_or_else(|problems| panic!("{}", told(&problems)));
    assert_eq!(settings.streams.len(), 300);
    assert_eq!(settings.notices.len(), 201);
    let rest =
        settings.notices.iter().find(|notice| notice.message.contains("100 more problems are not shown")).unwrap();
    assert_eq!(rest.severity, Severity::Warning, "{rest}");

    let (error, _) = mistake(&folder, &format!("{text}log: {{ level: loud }}\n"), 303, "log.level", "unknown word");
    assert!(error.snippet.contains("loud"), "{error}");
}

#[test]
fn what_worked_before_goes_on_with_a_warning() {
    let folder = Folder::new();
    for (text, field, part) in [
        (
            "sinks: [{ type: mqtt, url: mqtt://h }, { type: mqtt, url: mqtt://H:1883/ }]",
            "sinks[1]",
            "the topic prefix of",
        ),
        ("sinks: [{ type: webhook, url: \"https://hooks.example/x?email=ops@example.com\" }]", "sinks[0].url", "%40"),
        ("streams: [{ id: a, url: \"rtsp://admin/tail@host/x\" }]", "streams[0].url", "%40"),
        ("sinks: [{ type: jsonl, path: a, only: { regions: [gate] } }]", "sinks[0].only.regions[0]", "there is none"),
        (
            "streams: [{ id: a, url: \"rtsp://h/\", view: { regions: [{ name: gate, region: [0, 0, 1, 0.5] }] } }]\n\
             sinks: [{ type: jsonl, path: a, only: { regions: [gate, ramp] } }]",
            "sinks[0].only.regions[1]",
            "known: gate",
        ),
    ] {
        let stream = if text.starts_with("streams") { "" } else { "streams: [{ id: a, url: rtsp://h }]\n" };
        let settings = folder.load(format!("model: {{ path: none }}\n{stream}{text}\n"));
        let settings = settings.unwrap_or_else(|problems| panic!("{text}: {}", told(&problems)));
        let warned = settings.notices.iter().find(|notice| notice.field == field && notice.to_string().contains(part));
        assert_eq!(warned.map(|w| w.severity), Some(Severity::Warning), "{text}: {}", told(&settings.notices));
    }
    // What may be a port may be the beginning of a password.
    for url in ["rtsp://admin:1234/tail@host/x", "rtsp://admin:554/tail@host/x", "rtsp://admin:word/tail@host/x"] {
        let problems = folder.problems(format!("model: {{ path: none }}\nstreams: [{{ id: a, url: \"{url}\" }}]\n"));
        assert!(told(&problems).contains("%2F") && !told(&problems).contains("tail"), "{url}: {}", told(&problems));
    }
}

#[test]
fn an_endless_file_is_refused() {
    let problems = config::load(Path::new("/dev/zero")).expect_err("endless");
    assert!(told(&problems).contains("larger than"), "{}", told(&problems));
}

#[test]
fn no_secret_reaches_a_problem_or_the_debug_of_the_settings() {
    let folder = Folder::new();
    folder.write("whsec", "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg==\n");
    let settings = folder
        .load(
            "\
labels: [dock.yaml]
streams:
  - { id: a, url: \"rtsp://admin:hunter2@h/1\" }
  - { id: b, url: rtsp://h/1, username: u, password: { file: secret } }
  - { id: c, url: \"rtsp://admin:hun%74er2@h/2\" }
sinks:
  - { type: mqtt, url: mqtt://h, username: u, password: { file: secret } }
  - { type: mqtt, url: \"mqtt://u:hunter2@i\" }
  - { type: webhook, url: https://h, secret: { file: whsec } }
api: { listen: 0.0.0.0:0, token: { file: secret } }
",
        )
        .expect("valid");
    for stream in &settings.streams {
        assert_eq!(stream.source.password.as_ref().expect("a password").expose(), "hunter2");
    }
    let shown = format!("{settings:?} {}", told(&settings.notices));
    assert!(!shown.contains("hunter2") && !shown.contains("hun%74er2") && !shown.contains("aHVudGVyM"), "{shown}");
    let warnings = settings.notices.iter().filter(|notice| notice.severity == Severity::Warning).count();
    // Three addresses with credentials, a token and two passwords that cross the network in clear text, one that can be guessed.
    assert_eq!(warnings, 7, "{}", told(&settings.notices));

    for text in [
        "streams: [{ id: a, url: \"rtsp://u:hunter2@\" }]",
        "streams:\n  - id: a\n    password: hunter2\n    url: rstp://h\n",
        "streams:\n  - id: A\n    # password: hunter2\n",
        "streams:\n  - password: hunter2\n    id: [\n",
        "streams:\n  - password: [hunter2, { a: hunter2 }]\n",
        "streams:\n  - password: { env: hunter2! }\n",
        "api: { token: { value: hunter2 } }",
        "api:\n  token: |\n    hunter2\n  listen: x\n",
        "api: { tokn: hunter2 }",
        "passwords: { dock: hunter2 }",
        "sinks: [{ type: mqtt, url: \"mqtt://u:hunter2@h:x\" }]",
        "sinks: [{ type: jsonl, path: a, password: hunter2 }]",
        "sinks: [{ type: webhook, url: \"https://u:hunter2@h\" }]",
        "sinks: [{ type: webhook, url: https://h, headers: { X-Hub: hunter2 } }]",
        "sinks: [{ type: webhook, url: https://h, headers: { X-Hub: {hunter2} } }]",
        "sinks: [{ type: nats, url: nats://h, nkey: hunter2 }]",
        "sinks: [{ type: nats, url: nats://h, creds: \"hunter2\" }]",
        "streams:\n  - password: {hunter2}\n",
        "streams:\n  - password: {{ hunter2 }}\n",
        "streams:\n  - password: \"hunter2\\q\"\n",
        "streams:\n  - password: !hunter2\n",
        "streams:\n  - password: *hunter2\n",
        "streams:\n  - password: &hunter2\n    id: [\n",
        "streams:\n  - password: @hunter2\n",
        "streams:\n  - password: %hunter2\n",
        "streams:\n  - password: `hunter2`\n",
        "streams:\n  - password: hunter2: x\n",
    ] {
        let problems = folder.problems(text);
        assert!(!problems.is_empty(), "{text}");
        assert!(!told(&problems).contains("hunter2"), "{text}\n{}", told(&problems));
        assert!(!format!("{problems:?}").contains("hunter2"), "{text}\n{problems:?}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 200, ..Default::default() })]

    #[test]
    fn any_bytes_are_refused_without_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        let folder = Folder::new();
        let _ = folder.problems(bytes);
    }

    #[test]
    fn any_shuffle_of_yaml_pieces_is_read_or_refused_without_panic(
        pieces in proptest::collection::vec(
            proptest::sample::select(vec![
                "streams:", "labels:", "events:", "sinks:", "api:", "runtime:", "\n", "\n  ", "\n    ", "- ", "id: ", "url: ",
                "password: ", "token: ", "{ ", " }", "[", "]", ", ", "a", "0", "-1", "1e999", "rtsp://u:p@h", "file://x", "&x ", "*x",
                "<<: ", "\"", "'", "|", ">", "#", ": ", "? ", "!!int ", "%", "\t", "é", "\u{feff}", "null", "~", "type: ", "mqtt",
            ]),
            0..60,
        )
    ) {
        let folder = Folder::new();
        let _ = folder.problems(pieces.concat());
        folder.write("set.yaml", pieces.concat());
        let _ = vtagd::label::set::load(&folder.0.path().join("set.yaml"));
    }
}
