//! The Python client of the documentation as a user would run it, beside a real daemon.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::common::daemon::{Daemon, root};

const TOKEN: &str = "first-token-0123456789abcdef";

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn client(url: &str) -> Command {
    let python = ["/usr/bin/python3", "python3"].into_iter().find(|p| Path::new(p).exists()).unwrap_or("python3");
    let mut command = Command::new(python);
    command.arg(root().join("examples/consumers/vtagd_client.py")).args(["--url", url]).stdin(Stdio::null());
    command.env_remove("VTAGD_TOKEN").stdout(Stdio::piped());
    command
}

/// The lines that it prints before it ends.
fn lines(command: &mut Command) -> Vec<Value> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn it_asks_for_past_events_follows_what_happens_and_tags_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let config = format!(
        "streams: [{{ id: gate, url: \"file://{}\", loop: true, sampling: {{ interval: 200ms }} }}]\nlabels: [{}]\n\
         events: {{ after: 0s, after_exit: 0s, cooldown: 0s }}\nsinks: [{{ type: jsonl, path: \"-\" }}]\noutbox: {{ path: outbox.db }}\n\
         api: {{ listen: 127.0.0.1:0, token: {{ file: token }} }}\n",
        root().join("demo/clip.mp4").display(),
        root().join("config/labels/demo.yaml").display()
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    let url = daemon.url();

    let mut live = client(&url);
    live.arg("--token-file").arg(&token).args(["live", "--kind", "event", "--kind", "scores"]);
    let mut live = Running(live.spawn().unwrap());
    let mut told = BufReader::new(live.0.stdout.take().unwrap()).lines();
    let mut find = |kind: &str| loop {
        let line: Value = serde_json::from_str(&told.next().unwrap().unwrap()).unwrap();
        if line["kind"] == kind {
            return line["data"].clone();
        }
    };
    assert_eq!(find("scores")["stream"], "gate");
    let event = find("event");
    assert_eq!(event["specversion"], "1.0", "{event}");

    let events = lines(client(&url).env("VTAGD_TOKEN", TOKEN).args(["events", "--limit", "1"]));
    assert_eq!((events.len(), &events[0]["data"]["stream"]), (1, &"gate".into()), "{events:?}");

    let picture = folder.path().join("a.png");
    image::RgbImage::new(64, 48).save(&picture).unwrap();
    let tagged = lines(client(&url).env("VTAGD_TOKEN", TOKEN).arg("tag").arg(&picture).args(["--set", "demo"]));
    assert_eq!((tagged.len(), &tagged[0]["sets"][0]["set"]), (1, &"demo".into()), "{tagged:?}");
    assert_eq!(tagged[0]["sets"][0]["scores"].as_array().unwrap().len(), 4);

    let refused = client(&url).arg("events").stderr(Stdio::piped()).output().unwrap();
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && why.contains("401") && !why.contains("Traceback"), "{why}");
    drop(live);
    daemon.stop_cleanly();
}
