//! The command line: its help, its exit codes, and the shape of what `--json` prints.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use super::super::common::daemon::{root, vtagd};
use super::super::common::onvif::{Behaviour, Device, Responder, answer, scopes};
use super::files::below as files_below;
use super::golden::{Golden, sections};
use super::shape::{keys_of_schema, shape};

/// Commands that `--help` does not list.
const HIDDEN: &[&str] = &["docs", "package-files"];

/// A camera, a label set and a file for every command that wants one.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn run(&self, arguments: &[&str]) -> Output {
        // The width of help is the terminal's, which there is none of here.
        vtagd(self.folder.path()).args(arguments).env_remove("COLUMNS").output().unwrap()
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.folder.path().join(name), text).unwrap();
        self.path(name)
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    out(output)
}

/// The shape of lines of JSON, or of one document.
fn json(output: &Output) -> String {
    let text = done(output);
    let values: Vec<Value> = match serde_json::from_str(&text) {
        Ok(value) => vec![value],
        Err(_) => text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
    };
    shape(&values)
}

/// The help of every command and of those below it.
pub fn help(golden: &mut Golden) {
    fn below(desk: &Desk, command: &[String], found: &mut Vec<(String, String)>) {
        let mut arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        arguments.push("--help");
        let text = done(&desk.run(&arguments));
        let list = text.split("\nCommands:\n").nth(1).unwrap_or_default();
        let list = list.split("\n\n").next().unwrap_or_default();
        let entries = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        let mut names: Vec<String> =
            entries.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
        if command.is_empty() {
            names.extend(HIDDEN.iter().map(|name| (*name).to_owned()));
        }
        found.push((format!("vtagd {}", arguments.join(" ")), text));
        for name in names.into_iter().filter(|name| name != "help") {
            below(desk, &[command, &[name]].concat(), found);
        }
    }
    let desk = Desk { folder: tempfile::tempdir().unwrap() };
    let mut found = Vec::new();
    below(&desk, &[], &mut found);
    let trimmed = |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    golden.check("help.txt", &sections(found.iter().map(|(title, text)| (title.as_str(), trimmed(text)))));
}

/// What every command prints for programs, and how it ends.
pub fn record(golden: &mut Golden) {
    let desk = Desk { folder: tempfile::tempdir().unwrap() };
    let labels = "set: yard\nbackground: [an empty yard]\nlabels: [{ name: cat, prompts: [a cat] }]\n";
    let labels = desk.write("labels.yaml", labels);
    let wrong_labels = desk.write("wrong.yaml", "set: x\nlables: []\n");
    let clip = root().join("demo/clip.mp4").display().to_string();
    let picture = "tests/data/preprocess/chelsea.png";
    let good = desk.write(
        "good.yaml",
        &format!("model: {{ path: none }}\napi: {{ listen: off }}\nstreams: [{{ id: a, url: \"file://{clip}\" }}]\n"),
    );
    let bad = desk.write("bad.yaml", "streams: 7\nnonsense: 1\n");
    let unreachable =
        "model: { path: none }\napi: { listen: off }\nstreams: [{ id: a, url: \"rtsp://127.0.0.1:9/\" }]\n";
    let unreachable = desk.write("unreachable.yaml", unreachable);
    let probing = desk.write(
        "probing.yaml",
        &format!(
            "model: {{ path: none }}\napi: {{ listen: off }}\nstreams:\n  - {{ id: clip, url: \"file://{clip}\", sampling: {{ decode: all, decoder: software }} }}\n\
             \x20 - {{ id: away, url: \"rtsp://127.0.0.1:9/\" }}\n  - {{ id: off, url: \"rtsp://127.0.0.1:9/\", enabled: false }}\n"
        ),
    );

    let bundle = desk.path("bundle");
    done(&desk.run(&[
        "model",
        "import",
        "tests/conformance/checkpoints/hf-clip-quickgelu",
        "--precision",
        "int8",
        "--out",
        &bundle,
    ]));
    let manifest: Value = serde_json::from_slice(&fs::read(Path::new(&bundle).join("vtagd.json")).unwrap()).unwrap();
    let files: BTreeSet<String> =
        fs::read_dir(&bundle).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    // A checkpoint in the place of a model is imported into the cache.
    let openclip = "tests/conformance/checkpoints/openclip-vit";
    done(&desk.run(&["embed", "--json", "--text", "a", "-m", openclip]));
    golden.check(
        "bundle.txt",
        &sections([
            ("files of an imported bundle", files.into_iter().collect::<Vec<_>>().join("\n")),
            ("the cache after a checkpoint was used as a model", files_below(&desk.path("cache"))),
            ("vtagd.json", shape([&manifest])),
            ("vtagd model inspect --json of it", json(&desk.run(&["model", "inspect", &bundle, "--json"]))),
            ("vtagd model inspect --json of the starter model", json(&desk.run(&["model", "inspect", "--json"]))),
        ]),
    );

    let probed = desk.run(&["check", "-c", &probing, "--probe", "--probe-timeout", "60s", "--json"]);
    assert_eq!(probed.status.code(), Some(1), "one camera is away");
    let codes: &[&[&str]] = &[
        &["--version"],
        &["check", "-c", &good],
        &["check", "-c", &bad],
        &["check", "-c", "/no/such/file.yaml"],
        &["check", "-c", &unreachable, "--probe"],
        &["run", "-c", &bad],
        &["config", "show", "-c", &bad],
        &["status", "--url", "http://127.0.0.1:9"],
        &["status", "-c", "/no/such/file.yaml"],
        &["labels", "check", &labels],
        &["labels", "check", &wrong_labels],
        &["labels", "embed", &labels],
        &["tag", "-l", "a cat", "Cargo.toml"],
        &["embed", "--text", "a", "-m", "/no/such/model"],
        &["embed", "--image", "Cargo.toml"],
        &["model", "inspect", "/no/such/model"],
        &["model", "import", "/no/such/checkpoint", "--out", "/nowhere/bundle"],
        &["events", "list", "--outbox", "/no/such/outbox.db"],
        &["bench", "--provider", "openvino", "--seconds", "0.05"],
        &["bench", "--batch", "0"],
        &["nonsense"],
        &["run", "--nonsense"],
        &[],
    ];
    let place = desk.folder.path().display().to_string();
    let code = |arguments: &&[&str]| {
        let code = desk.run(arguments).status.code();
        let shown = arguments.join(" ").replace(&place, "…");
        format!(
            "{}: {}\n",
            format!("vtagd {shown}").trim_end(),
            code.map_or("a signal".to_owned(), |code| code.to_string())
        )
    };
    let both = ["embed", "--json", "--similarity", "--image", picture, "--text", "a cat", "-m", &bundle];
    let bench = ["bench", "--json", "--batch", "1", "--seconds", "0.05", "-m", &bundle];
    golden.check(
        "commands.txt",
        &sections([
            ("exit codes", codes.iter().map(code).collect::<String>()),
            ("vtagd check --probe --json", shape(&[serde_json::from_slice::<Value>(&probed.stdout).unwrap()])),
            ("vtagd tag --json of a picture", json(&desk.run(&["tag", "--json", "-l", "a cat,a dog", picture]))),
            (
                "vtagd tag --json of a video",
                json(&desk.run(&["tag", "--json", "--every", "10s", "--labels", &labels, &clip])),
            ),
            ("vtagd embed --json", json(&desk.run(&both))),
            ("vtagd bench --json", json(&desk.run(&bench))),
            ("vtagd discover --json", discovered(&desk)),
        ]),
    );
    golden.check("metrics_table.txt", &metrics(&done(&desk.run(&["docs", "metrics"]))));
    configuration(golden, &desk);
}

fn discovered(desk: &Desk) -> String {
    let device = Device::start(Behaviour { new: true, ..Behaviour::default() });
    let (xaddr, told) = (device.xaddr(), scopes("gate"));
    let responder = Responder::start(move |id| vec![answer(id, "urn:uuid:cam-1", &told, &xaddr)]);
    let target = responder.address.to_string();
    json(&desk.run(&["discover", "--json", "--timeout", "4s", "--target", &target]))
}

/// The tables without what they say in prose.
fn metrics(tables: &str) -> String {
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        // The last of the five is the meaning.
        cells[..cells.len().min(4)].join(" | ") + "\n"
    };
    tables.lines().map(row).collect()
}

/// Every key with its types, and the keys of what a configuration comes to.
fn configuration(golden: &mut Golden, desk: &Desk) {
    let clip = root().join("demo/clip.mp4").display().to_string();
    let schema: Value = serde_json::from_str(&done(&desk.run(&["config", "schema"]))).unwrap();
    for (name, text) in
        [("password", "x"), ("token", "a-token-0123456789abcdef"), ("secret", "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")]
    {
        desk.write(name, text);
    }
    desk.write("yard.yaml", "set: yard\nlabels: [{ name: cat }]\n");
    let everything = desk.write(
        "everything.yaml",
        &format!(
            "runtime: {{ providers: [{{ cpu: {{ threads: 1 }} }}], run_limit: 5m, sessions: 1 }}\n\
             sampling: {{ interval: auto, unchanged: {{ tolerance: 4, max_age: 10s }} }}\n\
             streams:\n  - {{ id: a, url: \"rtsp://127.0.0.1:9/\", username: u, password: {{ file: password }} }}\n\
             \x20 - {{ id: b, url: \"file://{clip}\", sampling: {{ unchanged: off }}, labels: [yard] }}\n\
             labels: [yard.yaml]\noutbox: {{ path: outbox.db }}\nsnapshots: {{ path: pictures, url: \"http://edge.example\" }}\n\
             api: {{ token: {{ file: token }} }}\nsinks:\n\
             \x20 - type: jsonl\n    path: x.jsonl\n    max_size: 1MiB\n    keep: 2\n    rate: {{ events: 60, per: 1m }}\n\
             \x20   only: {{ streams: [a], regions: [door], sets: [yard], labels: [cat], types: [end], attributes: {{ zone: [dock] }}, min_severity: warning }}\n\
             \x20 - {{ type: mqtt, url: \"mqtt://127.0.0.1\", username: u, password: {{ file: password }}, client_id: x, home_assistant: true }}\n\
             \x20 - {{ type: webhook, url: \"http://127.0.0.1/\", secret: {{ file: secret }}, previous_secret: {{ file: secret }}, headers: {{ X-Key: {{ file: token }} }} }}\n\
             \x20 - {{ type: webhook, url: \"http://127.0.0.1/batches\", batch: {{ max_size: 10, max_delay: 1s }} }}\n\
             \x20 - {{ type: nats, url: \"nats://127.0.0.1\", username: u, password: {{ file: password }} }}\n"
        ),
    );
    golden.check(
        "configuration.txt",
        &sections([
            ("keys of vtagd config schema", keys_of_schema(&schema)),
            ("vtagd config show", json(&desk.run(&["config", "show", "-c", &everything]))),
        ]),
    );
}
