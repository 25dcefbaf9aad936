//! Keys of the configuration from the environment, and `config show`, which tells the whole of what a file and the environment come to.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::common::daemon::vtagd;
use serde_json::Value;
use vtagd::config;

const FILE: &str = "model: { path: none }\nsampling: { unchanged: on }\n\
    streams:\n  - { id: one, url: 'rtsp://127.0.0.1:9/' }\n  - { id: two, url: 'rtsp://127.0.0.1:9/2', username: u }\n";

fn run(folder: &Path, text: &str, command: &[&str], env: &[(&str, &str)]) -> Output {
    let file = folder.join("vtagd.yaml");
    fs::write(&file, text).unwrap();
    vtagd(folder).args(command).arg("-c").arg(&file).envs(env.iter().copied()).output().unwrap()
}

fn show(folder: &Path, text: &str, env: &[(&str, &str)]) -> Value {
    let output = run(folder, text, &["config", "show"], env);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_variable_stands_in_the_place_of_a_key_and_show_says_so() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("password"), "x\n").unwrap();
    let env = [
        ("VTAGD__LOG__LEVEL", "debug"),
        ("VTAGD__log__format", "json"),
        ("VTAGD__INSTANCE", "007"),
        ("VTAGD__RUNTIME__BATCH__MAX_SIZE", "3"),
        ("VTAGD__SAMPLING__UNCHANGED__TOLERANCE", "2.5"),
        ("VTAGD__STREAMS__1__ENABLED", "false"),
        ("VTAGD__STREAMS__1__PASSWORD__FILE", "password"),
        ("VTAGD__STREAMS__0__VIEW__REGION", "[0, 0, 0.5, 1]"),
        ("VTAGD__SINKS", "[{ type: jsonl, path: \"-\", name: 12 }]"),
        // Others' variables, and ours that are no keys.
        ("VTAGD_CACHE", "/nowhere"),
        ("OTHER__LOG__LEVEL", "loud"),
    ];
    let shown = show(folder.path(), FILE, &env);
    for (pointer, wanted) in [
        ("/log/level", "debug".into()),
        ("/log/format", "json".into()),
        ("/instance", "007".into()),
        ("/runtime/batch/max_size", 3.into()),
        ("/sampling/unchanged/tolerance", 2.5.into()),
        ("/streams/1/enabled", false.into()),
        ("/streams/1/password", "***".into()),
        ("/streams/0/view/region/2", 0.5.into()),
        ("/sinks/0/name", "12".into()),
        ("/x-environment/log.level", "VTAGD__LOG__LEVEL".into()),
        ("/x-environment/streams[1].enabled", "VTAGD__STREAMS__1__ENABLED".into()),
    ] {
        assert_eq!(shown.pointer(pointer), Some(&wanted), "{pointer}: {shown:#}");
    }
    assert_eq!(shown["x-environment"].as_object().unwrap().len(), 9, "{shown:#}");
    assert!(show(folder.path(), FILE, &[]).get("x-environment").is_none());
}

#[test]
fn what_is_wrong_with_a_variable_is_told_under_its_name_and_without_its_value() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value, told) in [
        ("VTAGD__LOG__LEVLE", "debug", "did you mean VTAGD__LOG__LEVEL?"),
        ("VTAGD__NOTHING", "Zq7", "names no key"),
        ("VTAGD__STREAMS__7__ENABLED", "false", "names item 7 of a list that has no such item"),
        ("VTAGD__SAMPLING__INTERVAL", "5", "sampling.interval: is not a duration"),
        ("VTAGD__LOG__LEVEL", "Zq7", "log.level: is an unknown word"),
        ("VTAGD__RUNTIME__STRICT", "maybe", "runtime.strict: expected true or false, found text"),
        ("VTAGD__RUNTIME__STRICT", "{Zq7", "runtime.strict: is not a value in YAML; put it in quotes"),
        (
            "VTAGD__API__TOKEN",
            "Zq7",
            "api.token: is a credential, which does not come this way; say where it is: VTAGD__API__TOKEN__FILE",
        ),
        ("VTAGD__STREAMS__0__URL", "rtsp://u:Zq7@h/", "streams[0].url: holds credentials"),
        (
            "VTAGD__STREAMS",
            "[{ id: a, url: rtsp://h/ }, { id: b, url: rtsp://u:Zq7@h/ }]",
            "streams: holds credentials",
        ),
        ("VTAGD__STREAMS__0__ULR", "x", "did you mean VTAGD__STREAMS__0__URL?"),
        ("VTAGD__SINKS", "[{ type: jsonl, path: x, secret: Zq7 }]", "sinks[0].secret: a credential may not stand"),
    ] {
        let output = run(folder.path(), FILE, &["check"], &[(name, value)]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}={value}: {said}");
        let line = said.lines().find(|line| line.starts_with(&format!("environment variable {name}: error: ")));
        assert!(line.is_some_and(|line| line.contains(told)), "{name}={value}: {said}");
        assert!(!said.contains("Zq7"), "{said}");
    }
    let both = [("VTAGD__LOG__LEVEL", "info"), ("VTAGD__log__level", "info")];
    let said = String::from_utf8(run(folder.path(), FILE, &["check"], &both).stderr).unwrap();
    assert!(said.contains("VTAGD__log__level: error: log.level: is given by VTAGD__LOG__LEVEL too"), "{said}");
}

/// Sets every key of the schema, in as few files as that takes: some exclude one another.
const EVERYTHING: &[&str] = &[
    // Of a vtagd that was built with the client.
    #[cfg(feature = "kafka")]
    "
model: { path: none }
streams: [{ id: a, url: 'rtsp://h/' }]
sinks:
  - { type: kafka, brokers: [k], topic: t, tls: true, sasl: plain, username: u, password: { file: file } }
",
    "
instance: here
model: { path: ., logit_scale: 100, logit_bias: -2 }
runtime:
  library: file
  providers:
    - remote: { url: grpcs://h, model: m, input: f32, timeout: 3s, max_message: 8MiB, ca: cert.pem, cert: cert.pem, key: key.pem, token: { file: file } }
    - tensorrt: { device: 1, fp16: true, engine_cache: engines, timing_cache: times, workspace: 1GiB, opt_batch: 2 }
    - cuda: { device: 1, memory_limit: 1GiB, arena: next_power_of_two, fp16: false }
    - openvino: { device: CPU, precision: f32, threads: 2, streams: 2 }
    - cpu: { threads: 3 }
  strict: true
  probe: { min_cosine: 0.9 }
  threads: 2
  sessions: 2
  preprocess_threads: 3
  run_limit: 10s
  batch: { max_size: 4, max_delay: 20ms }
sampling: { interval: 2s, unchanged: { tolerance: 3, max_age: 5s }, decode: all, decoder: software, max_pixels: 40000000 }
reconnect: { first: 2s, max: 20s, stable: 3s, first_frame: 12s, stall: 13s }
streams:
  - id: a
    enabled: false
    url: file://file
    labels: [dock]
    sampling: { interval: 3s, unchanged: { tolerance: 2, max_age: 6s }, decode: keyframes, decoder: software, max_pixels: 50000000 }
    reconnect: { first: 3s, max: 21s, stable: 4s, first_frame: 14s, stall: 15s }
    view: { mode: pad, region: [0, 0, 0.5, 1] }
    pace: fast
    loop: true
    history: off
  - id: b
    url: 'rtsp://h/'
    username: u
    password: { file: file }
    view: { mode: squash, regions: [{ name: door, region: [0, 0, 0.5, 1] }, { name: lane, polygon: [[0, 0], [1, 0], [1, 1]], mode: tiles }] }
  - { id: c, pipeline: file }
  - { id: d, url: 'rtsps://h/', transport: udp, tls: { ca: cert.pem } }
  - { id: e, url: 'rtsps://h/', tls: { fingerprint: 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff } }
  - { id: f, url: 'https://h/', tls: { verify: off } }
  - { id: g, url: 'push://door', push: { token: { file: file }, hold: 3s } }
labels: [dock.yaml]
state: { path: st }
events: { enter: 0.7, exit: 0.3, after: 3s, after_exit: 4s, cooldown: 5s }
sinks:
  - type: jsonl
    path: out.jsonl
    max_size: 1MiB
    keep: 2
    name: file
    only: { streams: [a], regions: [door], sets: [dock], labels: [forklift], types: [start, end], attributes: { zone: [x, 3] }, min_severity: warning }
    rate: { events: 3, per: 2m }
  - type: mqtt
    url: mqtts://h
    protocol: 5
    topic_prefix: p
    client_id: me
    username: u
    password: { file: file }
    ca: file
    cert: file
    key: file
    timeout: 3s
    home_assistant: true
    home_assistant_scores: true
    discovery_prefix: ha
  - { type: webhook, url: 'http://h/', secret: { file: signing }, previous_secret: { file: signing }, headers: { X-A: { file: file } }, concurrency: 3 }
  - { type: webhook, name: chat, secret_url: { file: address }, template: ntfy, template_values: { topic: alerts } }
  - { type: webhook, url: 'http://h/2', batch: { max_size: 10, max_delay: 2s } }
  - { type: nats, url: 'nats://h', subject_prefix: s, inbox_prefix: _INBOX_s }
  - { type: nats, url: 'nats://h', subject_prefix: t, nkey: { file: nkey } }
  - { type: nats, url: 'nats://h', subject_prefix: u, creds: { file: creds } }
outbox: { path: out.db, max_size: 2MiB, max_age: 1d }
snapshots: { path: pictures, max_size: 1MiB, max_age: 2d, max_side: 640, quality: 70, url: 'https://edge.example/' }
history: { path: kept, max_size: 3MiB, max_age: 3d, min_change: 0.1, pictures: { max_side: 200, quality: 50, max_size: 4MiB } }
metrics: { scores: true }
api: { listen: '127.0.0.1:1', token: { file: file }, tls: { cert: cert.pem, key: key.pem }, trusted_proxies: [10.0.0.0/8] }
log: { level: warn, format: json }
",
    "
model: { path: none }
include: [more.yaml]
runtime: { providers: [cuda, cpu], devices: [0, 1] }
streams: [{ id: a, url: 'rtsp://h/' }]
",
];

/// Whether `shown` has the key, somewhere in its lists.
fn has(shown: &Value, key: &str) -> bool {
    // Where a credential is, is not shown.
    if *shown == "***" {
        return true;
    }
    let (step, rest) = key.split_once('.').map_or((key, None), |(step, rest)| (step, Some(rest)));
    let (name, is_list) = step.strip_suffix("[]").map_or((step, false), |name| (name, true));
    let Some(value) = shown.get(name) else { return false };
    match (value, is_list, rest) {
        (Value::Array(items), true, Some(rest)) => items.iter().any(|item| has(item, rest)),
        (_, _, Some(rest)) => has(value, rest),
        (_, _, None) => !value.is_null(),
    }
}

#[test]
fn every_key_of_the_schema_comes_back_from_config_show() {
    let folder = tempfile::tempdir().unwrap();
    let set =
        "set: dock\nbackground: [a dock]\nlabels: [{ name: forklift, attributes: { zone: x, severity: error } }]\n";
    let with_thumbprints = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
    let seed = nkeys::KeyPair::new_user().seed().unwrap();
    let creds = format!(
        "-----BEGIN NATS USER JWT-----\neyJ0.eyJq.c2ln\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let files = [
        ("file", "x\n"),
        ("more.yaml", ""),
        ("dock.yaml", set),
        ("signing", with_thumbprints),
        ("address", "http://127.0.0.1/services/T0/B0/x\n"),
        ("nkey", &seed),
        ("creds", &creds),
    ];
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let shown: Vec<Value> = EVERYTHING.iter().map(|text| show(folder.path(), text, &[])).collect();
    let of_kafka = ["sinks[].brokers", "sinks[].topic", "sinks[].tls", "sinks[].sasl"];
    let keys: Vec<String> =
        config::keys().into_iter().filter(|key| cfg!(feature = "kafka") || !of_kafka.contains(&key.as_str())).collect();
    // What the files do not set, nobody could miss.
    for key in &keys {
        let last = key.rsplit('.').next().unwrap().trim_end_matches("[]");
        let set = EVERYTHING.iter().any(|text| text.contains(&format!("{last}:")));
        assert!(set || ["env", "credential"].contains(&last), "this test sets no `{key}`");
    }
    let everything = shown.len() - 2;
    // What it brings stands under the keys of its own.
    let name = |key: &str| if key == "include" { "x-include".to_owned() } else { key.to_owned() };
    let missing: Vec<&String> = keys.iter().filter(|key| !shown.iter().any(|shown| has(shown, &name(key)))).collect();
    assert!(missing.is_empty(), "config show leaves out {missing:?}: {:#}", shown[everything]);
    let shown = &shown[everything];
    let only = &shown["sinks"][0]["only"];
    assert_eq!((&only["types"][1], &only["min_severity"]), (&"end".into(), &"warning".into()), "{only}");
    assert_eq!((&only["attributes"]["zone"][1], &only["labels"][0]), (&3.into(), &"forklift".into()), "{only}");
    assert_eq!(shown["snapshots"]["url"], "https://edge.example/");
    assert_eq!((&shown["sampling"]["interval"], &shown["reconnect"]["stall"]), (&"2s".into(), &"13s".into()));
}
