//! Hours of labels in a running daemon: what is open ends with them, nothing is told outside, and everybody who is asked says so.
//!
//! Hours are written in minutes, and nobody waits for one: the daemon gets sixty time zones, each a second ahead of the one before, and its labels that one
//! in which the next minute begins in a moment.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::common::daemon::{Daemon, eventually, root, vtagd};
use serde_json::Value;

/// `Test/S07` is seven seconds ahead of UTC: RFC 9636, one offset for ever.
fn write_zones(folder: &Path) {
    fs::create_dir_all(folder.join("zones/Test")).unwrap();
    let header = || {
        let counts = [0u32, 0, 0, 0, 1, 4].map(u32::to_be_bytes).concat();
        [b"TZif2".as_slice(), &[0; 15], &counts].concat()
    };
    for ahead in 0..60i32 {
        let body = || [ahead.to_be_bytes().as_slice(), &[0, 0], b"TST\0"].concat();
        let file = [header(), body(), header(), body(), b"\n\n".to_vec()].concat();
        fs::write(folder.join(format!("zones/Test/S{ahead:02}")), file).unwrap();
    }
}

/// A moment, with the zone whose clock shows a whole minute then, and which.
struct Minute {
    then: u64,
    zone: String,
    shown: u64,
}

impl Minute {
    /// So many seconds from now.
    fn within(seconds: u64) -> Self {
        let then = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + seconds;
        let ahead = (60 - then % 60) % 60;
        Self { then, zone: format!("Test/S{ahead:02}"), shown: (then + ahead) / 60 % 1440 }
    }

    /// From so many minutes after it to so many.
    fn active(&self, from: u64, to: u64) -> String {
        let (from, to, zone) = (clock(self.shown + from), clock(self.shown + to), &self.zone);
        format!(", active: {{ days: mon-sun, from: \"{from}\", to: \"{to}\", timezone: {zone} }}")
    }
}

fn clock(minute: u64) -> String {
    format!("{:02}:{:02}", minute % 1440 / 60, minute % 60)
}

/// Labels that are told whenever they may be. `hours`: whether the cat's, which end in that minute, the dog's, which begin then, and the rocket's,
/// which begin hours later, are written; without them only the dog has some, which are hours away.
fn write_sets(folder: &Path, minute: &Minute, hours: bool) {
    let label = |name: &str, active: Option<String>| {
        let active = active.unwrap_or_default();
        format!(
            "  - {{ name: {name}, prompts: [a {name}], enter: {{ margin: -30 }}, exit: {{ margin: -40 }}{active} }}\n"
        )
    };
    let set = |name: &str, labels: String| {
        let text = format!("set: {name}\nscoring: independent\nbackground: [a wall, a table]\nlabels:\n{labels}");
        fs::write(folder.join(format!("{name}.yaml")), text).unwrap();
    };
    let cat = label("cat", hours.then(|| minute.active(1380, 0)));
    let dog = label("dog", Some(if hours { minute.active(0, 60) } else { minute.active(120, 180) }));
    set("things", cat + &dog + &label("cup", None));
    set("night", label("rocket", hours.then(|| minute.active(120, 180))));
}

#[test]
fn a_tag_ends_with_its_hours_and_another_begins_with_its_own_and_everybody_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    write_zones(here);
    write_sets(here, &Minute::within(0), false);
    let config = format!(
        "model: {{ path: starter }}\nsampling: {{ interval: 250ms }}\nstreams: [{{ id: gate, url: \"file://{}\", loop: true }}]\n\
         labels: [things.yaml, night.yaml]\nevents: {{ after: 0s, after_exit: 0s, cooldown: 0s }}\n\
         sinks: [{{ type: jsonl, path: \"-\" }}]\noutbox: {{ path: outbox.db }}\napi: {{ listen: 127.0.0.1:0 }}\n",
        root().join("demo/clip.mp4").display()
    );
    let zones = here.join("zones");
    let mut daemon = Daemon::start_with_env(here, &config, &[("TZDIR", &zones)]);
    daemon.wait_ready();
    let of = |daemon: &Daemon, label: &str, kind: &str| -> Vec<Value> {
        let is = |event: &Value| event["data"]["label"] == *label && event["type"] == format!("dev.vtagd.tag.{kind}");
        daemon.events().into_iter().filter(is).collect()
    };
    for label in ["cat", "rocket"] {
        eventually(label, || of(&daemon, label, "start").pop());
    }

    // A box that is so busy that it reads this after the minute has begun tells the same.
    let minute = Minute::within(3);
    write_sets(here, &minute, true);
    daemon.signal(libc::SIGHUP);
    for label in ["rocket", "cat"] {
        let end = eventually(label, || of(&daemon, label, "end").pop());
        assert_eq!(end["data"]["reason"], "inactive", "{end}");
        assert!(end["data"]["ended_at"].as_str() <= end["time"].as_str(), "{end}");
    }
    let start = eventually("the dog's hours", || of(&daemon, "dog", "start").pop());
    let begun: jiff::Timestamp = start["data"]["started_at"].as_str().unwrap().parse().unwrap();
    assert!(begun.as_second() >= i64::try_from(minute.then).unwrap(), "they begin with the minute: {start}");

    let says = |daemon: &mut Daemon, path: &str| -> Value { serde_json::from_str(&daemon.get(path).1).unwrap() };
    let scores = says(&mut daemon, "/api/v1/streams/gate/scores");
    let label = |name: &str| scores["scores"].as_array().unwrap().iter().find(|label| label["label"] == *name).unwrap();
    assert_eq!(
        ["cat", "dog", "cup", "rocket"].map(|name| label(name)["state"].clone()),
        ["inactive", "open", "open", "inactive"]
    );
    assert!(label("cat")["until"].is_string() && label("dog")["until"].is_null(), "{scores}");
    assert!(label("dog")["score"].is_number(), "{scores}");
    eventually("nobody wants anything of the whole set", || {
        let scores = says(&mut daemon, "/api/v1/streams/gate/scores?label=rocket");
        scores["scores"][0]["score"].is_null().then_some(())
    });
    let sets = says(&mut daemon, "/api/v1/labels");
    let detail = |set: usize, at: usize| &sets["sets"][set]["details"][at]["active"];
    assert_eq!((&detail(0, 0)["is_active"], &detail(0, 1)["is_active"]), (&false.into(), &true.into()), "{sets}");
    assert_eq!(detail(0, 0)["until"], label("cat")["until"]);
    assert_eq!(detail(0, 1)["spans"][0]["timezone"], *minute.zone);
    assert!(detail(0, 2).is_null());
    let metrics = daemon.get("/metrics").1;
    for (set, outside) in [("things", 1), ("night", 1)] {
        let line = format!("vtagd_labels_inactive{{stream=\"gate\",set=\"{set}\"}} {outside}");
        assert!(metrics.lines().any(|told| told == line), "{line}: {metrics}");
    }
    let url = daemon.url();
    let asked = |arguments: &[&str]| {
        let output = vtagd(here).args(arguments).args(["--url", &url]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(asked(&["explain", "gate", "rocket"]).contains("it is outside its hours until "));
    assert!(asked(&["scores", "--once"]).contains("outside its hours"));
    // As `run` would see it, but without a model to be loaded.
    let file = here.join("check.yaml");
    fs::write(&file, config.replace("starter", "none").replace("outbox.db", "other.db")).unwrap();
    let mut checked = vtagd(here);
    checked.args(["check", "-c"]).arg(file).env("TZDIR", &zones).env("STATE_DIRECTORY", here.join("other"));
    let checked = checked.output().unwrap();
    let checked = String::from_utf8(checked.stderr).unwrap();
    for part in
        ["label cat: outside its hours until ", "label dog: active now, until ", "set night: outside its hours until "]
    {
        assert!(checked.contains(part), "{part}: {checked}");
    }

    // A reload outside changes nothing, and one without hours brings everything back.
    daemon.signal(libc::SIGHUP);
    let reloads = |daemon: &mut Daemon, count: usize| {
        eventually("reload", || (daemon.log().matches("the new configuration runs").count() == count).then_some(()));
    };
    reloads(&mut daemon, 2);
    assert_eq!((of(&daemon, "cat", "start").len(), of(&daemon, "rocket", "start").len()), (1, 1));
    write_sets(here, &Minute::within(0), false);
    daemon.signal(libc::SIGHUP);
    for label in ["cat", "rocket"] {
        eventually(label, || (of(&daemon, label, "start").len() == 2).then_some(()));
    }
    let gauge = "vtagd_labels_inactive{stream=\"gate\",set=\"night\"} 0";
    eventually("nothing is outside", || daemon.get("/metrics").1.lines().any(|line| line == gauge).then_some(()));
    daemon.stop_cleanly();
}
