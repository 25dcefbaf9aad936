//! Label sets and calibrations that change at random, over and over, while streams are looked at: every state is a whole one, every frame is accounted
//! for, every tag that begins ends under the rules that it began with or with the reload that took them away.
//!
//! A hundred reloads; `VTAGD_RELOADS=1000` for more, `VTAGD_SEED=N` for others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::calibration::printed;
use crate::common::daemon::{Daemon, eventually, root};
use serde_json::{Value, json};

const LABELS: [&str; 5] = ["cat", "dog", "cup", "person", "rocket"];
const STREAMS: [&str; 2] = ["gate", "door"];

/// xorshift64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % most
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What is to be in force of a label: where it comes from, and `enter`.
type State = BTreeMap<(&'static str, &'static str), (&'static str, Option<f64>)>;

/// A set in which every label bears the number of the reload, in its attributes and its thresholds.
fn write_set(folder: &Path, labels: &[&str], number: usize) {
    let label = |name: &&str| {
        json!({ "name": name, "prompts": [format!("a {name}")], "attributes": { "number": number },
                "enter": { "margin": enter_of(number) }, "exit": { "margin": -30.0 } })
    };
    let set = json!({ "set": "things", "scoring": "independent", "background": ["a wall", "a table"],
                      "labels": labels.iter().map(label).collect::<Vec<_>>() });
    fs::write(folder.join("next.yaml"), set.to_string()).unwrap();
    fs::rename(folder.join("next.yaml"), folder.join("things.yaml")).unwrap();
}

/// Of the YAML; that of a calibration is 10 below. Some are reached always, some never.
fn enter_of(number: usize) -> f64 {
    (if number.is_multiple_of(2) { -20.0 } else { 30.0 }) + (number % 97) as f64 / 100.0
}

#[test]
fn sets_and_calibrations_that_change_at_random_are_never_mixed_and_every_frame_is_accounted_for() {
    let (reloads, seed) = (number("VTAGD_RELOADS", 100), number("VTAGD_SEED", 42));
    println!("{reloads} reloads, seed {seed}");
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let clip = root().join("demo/clip.mp4").display().to_string();
    let stream = |id: &&str| format!("  - {{ id: {id}, url: \"file://{clip}\", loop: true }}\n");
    let config = format!(
        "model: {{ path: starter }}\nsampling: {{ interval: 500ms }}\nstreams:\n{}labels: [things.yaml]\n\
         events: {{ after: 0s, after_exit: 0s, cooldown: 0s }}\nsinks: [{{ type: jsonl, path: \"-\" }}]\noutbox: {{ path: outbox.db }}\n\
         state: {{ path: state }}\napi: {{ listen: 127.0.0.1:0 }}\n",
        STREAMS.iter().map(stream).collect::<String>()
    );
    write_set(here, &LABELS, 0);
    fs::write(here.join("vtagd.yaml"), &config).unwrap();
    // One that fits, of both streams, to be written in many forms.
    fs::write(here.join("marks.yaml"), "empty: [[0, 31]]\n").unwrap();
    let marks = here.join("marks.yaml").display().to_string();
    for stream in STREAMS {
        printed(
            here,
            &["labels", "calibrate", "things", "--stream", stream, "--clip", &clip, "--marks", &marks, "--write"],
        );
    }
    let file = here.join("state/calibrations/things.calibration.json");
    let fitting: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    fs::remove_file(&file).unwrap();

    let mut daemon = Daemon::start(here, &config);
    daemon.wait_ready();
    for reload in 1..=usize::try_from(reloads).unwrap() {
        let mut labels: Vec<&'static str> = LABELS.to_vec();
        for _ in 0..dice.below(LABELS.len()) {
            labels.remove(dice.below(labels.len()));
        }
        // Another order is another place of each label's score.
        let turn = dice.below(labels.len());
        labels.rotate_left(turn);
        write_set(here, &labels, reload);
        let mut wanted = State::new();
        let all = STREAMS.iter().flat_map(|stream| labels.iter().map(move |label| (*stream, *label)));
        let own = |origin| move |key| (key, (origin, Some(enter_of(reload)).filter(|_| origin == "configuration")));
        match dice.below(4) {
            0 => {
                let _ = fs::remove_file(&file);
                wanted.extend(all.map(own("configuration")));
            }
            1 => {
                fs::write(&file, "{ \"version\": 1, \"set\"").unwrap();
                wanted.extend(all.map(own("waiting")));
            }
            kind => {
                let mut calibration = fitting.clone();
                wanted.extend(all.map(own("configuration")));
                for entry in calibration["entries"].as_array_mut().unwrap() {
                    let stream = *STREAMS.iter().find(|stream| entry["stream"] == **stream).unwrap();
                    let of = entry["labels"].as_object_mut().unwrap();
                    of.retain(|_, _| dice.below(3) > 0);
                    for (name, label) in of {
                        let fits = kind == 2 || dice.below(2) == 0;
                        let enter = enter_of(reload) - 10.0;
                        (label["enter"], label["exit"]) = (json!(enter), json!(-40.0));
                        if !fits {
                            label["bound"]["view"] = json!("another");
                        }
                        let state = if fits { ("calibration", Some(enter)) } else { ("waiting", None) };
                        if let Some(one) = wanted.iter_mut().find(|((s, l), _)| (*s, *l) == (stream, &**name)) {
                            *one.1 = state;
                        }
                    }
                }
                calibration["entries"].as_array_mut().unwrap().retain(|entry| entry["labels"] != json!({}));
                if calibration["entries"] == json!([]) {
                    let _ = fs::remove_file(&file);
                } else {
                    fs::write(&file, calibration.to_string()).unwrap();
                }
            }
        }
        // Some come while one is under way.
        (0..=dice.below(3)).for_each(|_| daemon.signal(libc::SIGHUP));
        eventually(&format!("reload {reload} is in force as a whole: {wanted:?}"), || {
            is_in_force(&mut daemon, &wanted)
        });
    }

    daemon.stop_cleanly();
    let log = daemon.log();
    assert!(log.lines().filter(|line| line.contains("frames accounted")).count() >= STREAMS.len(), "{log}");
    assert!(
        log.lines().filter(|line| line.contains("frames accounted")).all(|line| line.contains("unaccounted=0")),
        "{log}"
    );
    assert!(!log.contains("panicked"), "{log}");
    let mut open: BTreeMap<String, Value> = BTreeMap::new();
    let mut tags = BTreeSet::new();
    for event in daemon.events() {
        let (data, id) = (&event["data"], event["data"]["tag_id"].as_str().unwrap().to_owned());
        assert!(LABELS.iter().any(|label| data["label"] == *label), "{event}");
        let began = open.get(&id).map(|began| (&began["stream"], &began["label"]));
        match event["type"].as_str().unwrap() {
            "dev.vtagd.tag.start" => {
                assert!(tags.insert(id.clone()), "twice: {event}");
                // Told under the rules of one reload: only what reached that one's `enter` begins.
                let number = usize::try_from(data["attributes"]["number"].as_u64().unwrap()).unwrap();
                assert!(data["margin"].as_f64().unwrap() >= enter_of(number) - 10.001, "{event}");
                open.insert(id, data.clone());
            }
            kind => {
                assert_eq!(began, Some((&data["stream"], &data["label"])), "it never began: {event}");
                if kind == "dev.vtagd.tag.end" {
                    open.remove(&id);
                }
            }
        }
    }
    assert!(open.is_empty() && !tags.is_empty(), "{open:?}");
}

/// Whether both streams have exactly these labels, each with the thresholds that are meant, and none of another reload.
fn is_in_force(daemon: &mut Daemon, wanted: &State) -> Option<()> {
    let mut found: BTreeMap<(String, String), (String, Option<f64>)> = BTreeMap::new();
    for stream in STREAMS {
        let scores: Value = serde_json::from_str(&daemon.get(&format!("/api/v1/streams/{stream}/scores")).1).ok()?;
        for label in scores["scores"].as_array()? {
            let from = label["thresholds_from"].as_str()?.to_owned();
            let enter = label["enter"]["margin"].as_f64().filter(|_| from != "waiting");
            found.insert((stream.to_owned(), label["label"].as_str()?.to_owned()), (from, enter));
        }
    }
    let is_same = |((stream, label), (origin, enter)): (&(&str, &str), &(&str, Option<f64>))| {
        found.get(&((*stream).to_owned(), (*label).to_owned())).is_some_and(|(from, got)| {
            from == origin
                && got.is_some() == enter.is_some()
                && got.zip(*enter).is_none_or(|(a, b)| (a - b).abs() < 1e-4)
        })
    };
    (found.len() == wanted.len() && wanted.iter().all(is_same)).then_some(())
}
