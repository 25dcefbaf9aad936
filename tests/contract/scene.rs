//! A daemon with every kind of stream and sink that tells all it can: tags of every kind, every reason to end one, a camera that is away,
//! an endpoint that is gone, a kill, changes by the API, reloads that are refused.
//!
//! Everything that is written down is taken once a condition holds that decides all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::super::common::broker::{Broker, Consumer};
use super::super::common::daemon::{Daemon, eventually, root, stored, vtagd};
use super::super::common::hook::{Hook, Reply, Request};
use super::answers::{ask_too_often, guess, look, without_a_token, without_repetition};
use super::files;
use super::golden::{Golden, sections};
use super::http::ask;
use super::nats::Server;
use super::notify::Manager;
use super::shape::shape;
use super::sinks::{mqtt, named, spoken, told, webhooks};

const TOKEN: &str = "first-token-0123456789abcdef";

/// One of `whsec_`, 24 bytes of zero.
const SECRET: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The rocket is open from the first look on, and stronger once it is in view; the cat comes and goes.
const LABELS: &str = "set: things\nlabels:\n  - { name: cat, prompts: [a cat], attributes: { severity: warning } }\n\
                      \x20 - { name: rocket, prompts: [a rocket], enter: 0, exit: 0 }\n";

/// With another one in its place. Its text is known already: a reload that embeds may take too long on a busy machine to be answered.
const OTHERS: &str = "set: things\nlabels:\n  - { name: cat, prompts: [a cat] }\n  - { name: cup, prompts: [a rocket], enter: 0, exit: 0 }\n";

/// The API of a running daemon, and what stands around it.
struct World {
    folder: tempfile::TempDir,
    address: String,
    broker: Broker,
    hook: Hook,
    batches: Hook,
    nats: Option<Server>,
    #[cfg(feature = "kafka")]
    kafka: super::kafka::Cluster,
    manager: Manager,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ok = |_: usize, _: &Request| Reply::Status(204, "");
        for (name, text) in [("things.yaml", LABELS), ("token", TOKEN), ("secret", SECRET), ("header", "hunter2")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        fs::create_dir(folder.path().join("state")).unwrap();
        Self {
            address: String::new(),
            broker: Broker::start(folder.path()),
            hook: Hook::start(ok),
            batches: Hook::start(ok),
            nats: Server::start(folder.path()),
            #[cfg(feature = "kafka")]
            kafka: super::kafka::Cluster::start(),
            manager: Manager::start(folder.path()),
            folder,
        }
    }

    fn config(&self) -> String {
        let clip = root().join("demo/clip.mp4").display().to_string();
        let mut config = format!(
            "instance: edge-1\nruntime: {{ providers: [openvino, cpu], batch: {{ max_size: 2 }} }}\n\
             sampling: {{ interval: 500ms, decode: all, decoder: software }}\nstreams:\n\
             \x20 - {{ id: gate, url: \"file://{clip}\", loop: true }}\n\
             \x20 - {{ id: clip, url: \"file://{clip}\", pace: fast, sampling: {{ decode: keyframes }} }}\n\
             \x20 - {{ id: away, url: \"rtsp://127.0.0.1:9/\", reconnect: {{ first: 1h, max: 1h }} }}\n\
             \x20 - {{ id: off, url: \"rtsp://127.0.0.1:9/\", enabled: false }}\n\
             labels: [things.yaml]\nsnapshots: {{ path: pictures, url: \"http://edge.example\" }}\n\
             events: {{ enter: 0.5, exit: 0.5, after: 0s, after_exit: 0s, cooldown: 0s }}\n\
             api: {{ listen: 127.0.0.1:0, token: {{ file: token }} }}\nlog: {{ format: json }}\nsinks:\n\
             \x20 - {{ type: jsonl, path: \"-\" }}\n  - {{ type: jsonl, path: events.jsonl, name: lines }}\n\
             \x20 - {{ type: webhook, url: \"{}\", name: hook, secret: {{ file: secret }}, headers: {{ X-Key: {{ file: header }} }} }}\n\
             \x20 - {{ type: webhook, url: \"{}\", name: batches, batch: {{ max_size: 20, max_delay: 100ms }} }}\n\
             \x20 - {{ type: webhook, url: \"http://127.0.0.1:9/\", name: nobody }}\n\
             \x20 - {{ type: mqtt, url: \"mqtt://127.0.0.1:{}\", name: broker, home_assistant: true }}\n",
            self.hook.url(),
            self.batches.url(),
            self.broker.port
        );
        if let Some(nats) = &self.nats {
            config += &format!("  - {{ type: nats, name: stream, url: \"nats://127.0.0.1:{}\" }}\n", nats.port);
        }
        #[cfg(feature = "kafka")]
        {
            config += &format!("  - {{ type: kafka, name: topic, brokers: [\"{}\"] }}\n", self.kafka.broker());
        }
        config
    }

    fn start(&mut self) -> Daemon {
        let env = [
            ("NOTIFY_SOCKET", self.manager.path.clone()),
            ("STATE_DIRECTORY", self.path("state")),
            ("WATCHDOG_USEC", PathBuf::from("3000000")),
        ];
        let mut daemon = Daemon::start_with_env(self.folder.path(), &self.config(), &env);
        daemon.wait_for_log("API listens");
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains("API listens")).unwrap();
        let line: Value = serde_json::from_str(line).unwrap();
        self.address = line["address"].as_str().unwrap().to_owned();
        eventually("it is ready", || (self.status("/readyz") == 200).then_some(()));
        daemon
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn status(&self, path: &str) -> u16 {
        ask(&self.address, "GET", path, TOKEN).status
    }

    fn get(&self, path: &str) -> Value {
        ask(&self.address, "GET", path, TOKEN).json()
    }

    fn post(&self, path: &str, status: u16) -> String {
        let answer = ask(&self.address, "POST", path, TOKEN);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        answer.told()
    }

    fn rows(&self) -> Vec<Value> {
        self.get("/api/v1/streams")["streams"].as_array().unwrap().clone()
    }

    /// Latest first.
    fn events(&self) -> Vec<Value> {
        self.get("/api/v1/events")["events"].as_array().unwrap().clone()
    }

    /// Waits for an event with this reason, or of this type.
    fn wait_for(&self, stream: &str, label: &str, kind: &str) -> Value {
        eventually(&format!("{kind} of {stream}/{label}"), || {
            let fits = |event: &Value| {
                let data = &event["data"];
                let is_kind = event["type"].as_str().unwrap().ends_with(kind) || data["reason"] == kind;
                data["stream"] == stream && data["label"] == label && is_kind
            };
            self.events().into_iter().find(fits)
        })
    }

    /// Waits until the streams are what they come to, with all that is ever known of the one that goes on.
    fn settled(&self) {
        eventually("every stream is settled", || {
            let rows = self.rows();
            let is = |id: &str, state: &str| rows.iter().find(|row| row["id"] == id && row["state"] == state);
            let known = is("gate", "up")?.as_object()?.values().all(|value| !value.is_null());
            (known && is("clip", "ended").and(is("away", "down")).and(is("off", "disabled")).is_some()).then_some(())
        });
    }

    /// Waits until every sink has shown whether it works, and something waits.
    fn settled_sinks(&self) {
        eventually("every sink is up but one", || {
            let sinks = self.get("/api/v1/sinks")["sinks"].as_array().unwrap().clone();
            let fits = |sink: &Value| match sink["name"].as_str() {
                Some("nobody") => {
                    sink["state"] == "down" && sink["pending"].as_u64() > Some(0) && sink["why"].is_string()
                }
                _ => sink["state"] == "up",
            };
            sinks.iter().all(fits).then_some(())
        });
    }
}

/// See the module.
pub fn record(golden: &mut Golden) {
    let mut world = World::new();
    let consumer = Consumer::start(world.broker.port, &["#"]);
    let mut daemon = world.start();

    // Everything that a tag can do, at least once; pausing makes the tags of the camera end, and start when everybody listens.
    world.settled();
    eventually("the camera is online", || consumer.last("vtagd/gate/status").filter(|got| got.payload == b"online"));
    world.wait_for("gate", "rocket", "start");
    let mut api = vec![
        ("POST /api/v1/streams/{id}/pause", world.post("/api/v1/streams/gate/pause", 200)),
        ("POST /api/v1/streams/{id}/pause again", world.post("/api/v1/streams/gate/pause", 200)),
    ];
    consumer.wait_for("vtagd/gate/status", "disabled");
    api.push(("POST /api/v1/streams/{id}/resume", world.post("/api/v1/streams/gate/resume", 200)));
    consumer.wait_for("vtagd/gate/status", "online");
    world.wait_for("clip", "cat", "below_exit");
    world.wait_for("clip", "rocket", "update");
    world.wait_for("clip", "rocket", "stream_ended");
    spoken(golden, &consumer);
    world.settled();
    world.settled_sinks();
    let picture = eventually("a picture is there", || {
        let snapshot = world.wait_for("gate", "rocket", "start")["data"]["snapshot"].as_str()?.to_owned();
        let path = snapshot.strip_prefix("http://edge.example")?.to_owned();
        (world.status(&path) == 200).then_some(path)
    });
    api.extend(look(&world.address, TOKEN, &picture));
    let mut scrape = series(&world);
    golden.check(
        "openapi.json",
        &format!("{:#}", {
            let mut document = world.get("/api/v1/openapi.json");
            document["info"]["version"] = "…".into();
            document
        }),
    );
    golden.check("status.txt", &status(&world));
    golden.check("webhook.txt", &webhooks(&world.hook, &world.batches));
    if let Some(nats) = &world.nats {
        let (subject, headers, body) = nats.first();
        let id = body["id"].as_str().unwrap();
        golden.check("nats.txt", &format!("subject: {}\n{}", named(&subject), told(&headers, id)));
    }
    #[cfg(feature = "kafka")]
    {
        let (topic, key, headers, body) = world.kafka.first();
        let headers = told(&headers, body["id"].as_str().unwrap());
        golden.check("kafka.txt", &format!("topic: {topic}\nkey: {}\n{headers}", named(&key)));
    }

    // Killed, and started again: what was open was interrupted.
    let mut log = daemon.log();
    daemon.kill();
    consumer.wait_for("vtagd/available", "offline");
    let mut daemon = world.start();
    world.wait_for("gate", "rocket", "start");
    fs::write(world.path("things.yaml"), OTHERS).unwrap();
    api.push(("POST /api/v1/reload", world.post("/api/v1/reload", 200)));
    world.wait_for("gate", "rocket", "reconfigured");
    world.wait_for("gate", "cup", "start");
    consumer.wait_for("vtagd/gate/rocket", "");
    consumer.wait_for("vtagd/gate/rocket/attributes", "");
    consumer.wait_for("vtagd/gate/rocket/snapshot", "");
    fs::write(world.path("vtagd.yaml"), "sampling: { interval: often }\nnonsense: 1\n").unwrap();
    for _ in 0..3 {
        world.post("/api/v1/reload", 422);
    }
    api.push(("POST /api/v1/reload of a wrong file", world.post("/api/v1/reload", 422)));
    world.settled();
    scrape.extend(series(&world));
    api.push(("GET with too many wrong tokens", guess(&world.address)));
    api.push(("GET too often", ask_too_often(&world.address, TOKEN)));
    daemon.stop();
    consumer.wait_for("vtagd/available", "stopped");
    log += &daemon.log();

    api.extend(without_a_token());
    golden.check("api.txt", &without_repetition(api));
    golden.check("mqtt.txt", &mqtt(world.broker.port, &consumer));
    golden.check("metrics_scrape.txt", &scrape.into_iter().collect::<Vec<_>>().join("\n"));
    golden.check("events.txt", &events(&stored_in_state(&world)));
    golden.check("outbox.txt", &outbox(&world));
    let of = |part: &'static str| (part, files::below(&world.path(part).display().to_string()));
    golden.check("files.txt", &sections([of("state"), of("cache"), of("pictures")]));
    golden.check("log.txt", &targets(&log));
    golden.check("systemd.txt", &systemd(&world.manager.told()));
}

/// The names of streams, labels and sinks are the configuration's, and how many there are is not what this is about.
fn series(world: &World) -> BTreeSet<String> {
    let text = ask(&world.address, "GET", "/metrics", TOKEN).text();
    let ours = ["stream", "set", "label", "sink", "version", "model"];
    let mut found = BTreeSet::new();
    // What the machine has or not.
    let varies = |line: &&str| !line.contains("vtagd_gpu_") && !line.contains("process_max_fds");
    for line in text.lines().filter(varies) {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            found.insert(format!("{} (type)", kind.replace(' ', ": ")));
        } else if !line.starts_with('#') && !line.is_empty() {
            let mut name = line.rsplit_once(' ').unwrap().0.to_owned();
            for label in ours {
                let begin = [format!("{{{label}=\""), format!(",{label}=\"")];
                if let Some((at, begin)) = begin.iter().find_map(|begin| Some((name.find(begin.as_str())?, begin))) {
                    let from = at + begin.len();
                    let to = from + name[from..].find('"').unwrap();
                    // The one sink that the code names.
                    if name[from..to] != *"outbox" {
                        name.replace_range(from..to, "…");
                    }
                }
            }
            found.insert(name);
        }
    }
    found
}

fn status(world: &World) -> String {
    let (url, token) = (format!("http://{}", world.address), world.path("token"));
    let mut command = vtagd(world.folder.path());
    let output = command.args(["status", "--json", "--url", &url, "--token-file"]).arg(token).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    shape([&serde_json::from_slice(&output.stdout).unwrap()])
}

fn stored_in_state(world: &World) -> Vec<Value> {
    fs::copy(world.path("state/outbox.db"), world.path("outbox.db")).unwrap();
    stored(world.folder.path())
}

fn events(all: &[Value]) -> String {
    let mut kinds: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for event in all {
        let reason = event["data"]["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
        kinds.entry(event["type"].as_str().unwrap().to_owned() + &reason).or_default().push(event);
    }
    let mut text = String::new();
    for (kind, events) in &kinds {
        text += &sections([(kind.as_str(), shape(events.iter().copied()))]);
    }
    let sample =
        all.iter().find(|event| event["data"]["stream"] == "gate" && event["data"]["label"] == "rocket").unwrap();
    text += &format!("== words\nsource: {}\nsubject: {}\n", sample["source"], sample["subject"]);
    let tag = sample["data"]["tag_id"].as_str().unwrap();
    text + &format!("snapshot: {}\n", sample["data"]["snapshot"]).replace(tag, "<tag_id>")
}

/// The file's own schema, and what `vtagd events` makes of it.
fn outbox(world: &World) -> String {
    let file = world.path("outbox.db");
    let connection = rusqlite::Connection::open_with_flags(&file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    let mut statement =
        connection.prepare("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").unwrap();
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    let squeezed = |sql: String| sql.split_whitespace().collect::<Vec<_>>().join(" ");
    let sql: Vec<String> = rows.map(|sql| squeezed(sql.unwrap())).collect();
    let run = |arguments: &[&str]| {
        let output =
            vtagd(world.folder.path()).arg("events").args(arguments).arg("--outbox").arg(&file).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let json = |text: String| {
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(!lines.is_empty());
        shape(&lines)
    };
    let csv = run(&["export", "--format", "csv"]);
    sections([
        ("user_version", version.to_string()),
        ("schema", sql.join("\n")),
        ("vtagd events list --json", json(run(&["list", "--json", "--state", "pending", "--type", "start"]))),
        ("vtagd events export", json(run(&["export", "--type", "start"]))),
        ("vtagd events export --format csv", csv.lines().next().unwrap_or_default().to_owned()),
        ("vtagd events sinks", run(&["sinks"]).lines().next().unwrap_or_default().to_owned()),
    ])
}

/// The targets that the documentation names, with the keys of their lines in JSON.
fn targets(log: &str) -> String {
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |wanted: &str| {
        let is_below = |target: &str| target == wanted || target.starts_with(&format!("{wanted}::"));
        lines.iter().filter(|line| line["target"].as_str().is_some_and(is_below)).collect::<Vec<_>>()
    };
    let changed: Vec<&Value> = of("vtagd::audit").into_iter().filter(|line| line["by"].is_string()).collect();
    let mut refused = of("vtagd::audit");
    refused.retain(|line| line["by"].is_null());
    let mut repeated = of("vtagd::repeated");
    repeated.retain(|line| line["sink"].is_null() && line["stream"].is_null());
    let down: Vec<&Value> = of("vtagd::source").into_iter().filter(|line| line["level"] == "WARN").collect();
    sections([
        ("vtagd::audit, a change", shape(changed)),
        ("vtagd::audit, a change that was refused", shape(refused)),
        ("vtagd::repeated", shape(repeated)),
        ("vtagd::source, a warning", shape(down)),
    ])
}

fn systemd(messages: &[String]) -> String {
    let keys: BTreeSet<&str> =
        messages.iter().flat_map(|message| message.lines()).filter_map(|line| Some(line.split_once('=')?.0)).collect();
    keys.into_iter().map(|key| format!("{key}\n")).collect()
}
