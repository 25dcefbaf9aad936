//! Labels that learn from pictures, over the real binary: what was wrongly taken for the label goes, the right thing stays; for every kind of model;
//! a daemon that runs takes examples at its next reload, and says which file it cannot use.

use std::fs;
use std::path::Path;

use std::time::{Duration, Instant};

use serde_json::Value;
use vtagd::history::name_table::Name;
use vtagd::history::row_store::{NewRow, RetentionLimits, RowStore};
use vtagd::label::verdict_store::{self, TagVerdict};
use vtagd::platform::state_folder::StateFolder;

use super::calibration::{config_of, printed};
use crate::common::daemon::{Daemon, eventually, root, vtagd};

/// The clip shows a cat in its first eight seconds.
fn clip() -> String {
    root().join("demo/clip.mp4").display().to_string()
}

/// The same cat, and a cup of coffee.
fn picture(name: &str) -> String {
    root().join("pictures/strangers").join(name).display().to_string()
}

/// The texts mean both.
fn set(folder: &Path, more: &str) -> String {
    let file = folder.join("pets.yaml");
    let text = format!(
        "set: pets\nscoring: independent\nbackground: [a wall, a table]\nlabels:\n  - name: pet\n    prompts: [a cat, a cup of coffee]\n{more}"
    );
    fs::write(&file, text).unwrap();
    file.display().to_string()
}

fn examples(example: &str, learn: &str) -> String {
    format!("    examples: ['{example}']\n    counter_examples: ['{}']\n    learn: {learn}\n", picture("cup.jpg"))
}

/// Margins of the cat's picture and the cup's.
fn margins(folder: &Path, model: &str, set: &str) -> [f64; 2] {
    let line = ["tag", &picture("cat.jpg"), &picture("cup.jpg"), "--labels", set, "-m", model, "--json"];
    let output = vtagd(folder).args(line).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let margin = |line: &str| serde_json::from_str::<Value>(line).unwrap()["tags"][0]["margin"].as_f64().unwrap();
    let found: Vec<f64> = String::from_utf8(output.stdout).unwrap().lines().map(margin).collect();
    found.try_into().unwrap()
}

#[test]
fn what_only_the_texts_take_for_it_goes_and_the_right_one_stays_whatever_the_model() {
    let checkpoint = |name: &str| root().join("tests/conformance/checkpoints").join(name).display().to_string();
    // Weights of the checkpoints are made up: to them, a cat looks like what it was shown.
    let (second, same) = (format!("{}@1", clip()), picture("cat.jpg"));
    for (model, example) in
        [("starter", &second), (&checkpoint("hf-clip-quickgelu"), &same), (&checkpoint("siglip"), &same)]
    {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        let [cat, cup] = margins(here, model, &set(here, ""));
        let [learned_cat, learned_cup] = margins(here, model, &set(here, &examples(example, "always")));
        let (up, down) = (learned_cat - cat, learned_cup - cup);
        assert!(up > 1.0 && down < -1.0, "{model}: {cat} to {learned_cat}, {cup} to {learned_cup}");
        if model == "starter" {
            let never = margins(here, model, &set(here, &examples(example, "never")));
            assert!(never.iter().zip([cat, cup]).all(|(a, b)| (a - b).abs() < 0.01), "{never:?} {cat} {cup}");
        }
    }
}

#[test]
fn a_daemon_takes_examples_at_its_next_reload_and_goes_on_without_those_that_it_cannot_use() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let config = config_of(here, &format!("file://{}", clip()), "loop: true").replace("things.yaml", "pets.yaml");
    set(here, "");
    let mut daemon = Daemon::start(here, &config);
    daemon.wait_ready();
    set(here, "    examples: [gone.jpg]\n");
    daemon.signal(libc::SIGHUP);
    daemon.wait_for_log("gone.jpg does not exist");
    daemon.wait_for_log("the old configuration stays");
    // A file that is there, and no picture: known with its line.
    fs::write(here.join("odd.jpg"), "no picture").unwrap();
    set(here, &examples("odd.jpg", "always"));
    daemon.signal(libc::SIGHUP);
    daemon.wait_for_log("pets.yaml:7");
    daemon.wait_for_log("the new labels cannot be used");
    set(here, &examples(&format!("{}@1", clip()), "always"));
    daemon.signal(libc::SIGHUP);
    daemon.wait_for_log("examples of a label");
    daemon.wait_for_log("the new configuration runs");
    // What it was told to refuse stands in the log as errors.
    daemon.stop();
}

#[test]
fn what_could_not_be_used_at_the_start_does_not_stand_in_the_way_of_a_reload_and_what_is_new_does() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let config = config_of(here, &format!("file://{}", clip()), "loop: true").replace("things.yaml", "pets.yaml");
    fs::write(here.join("odd.jpg"), "no picture").unwrap();
    set(here, &examples("odd.jpg", "always"));
    let mut daemon = Daemon::start(here, &config);
    daemon.wait_ready();
    daemon.wait_for_log("it goes by its texts alone");
    let told = |daemon: &Daemon, what: &str| daemon.log().matches(what).count();
    // Something else is changed, twice.
    for times in 1..=2 {
        let text =
            fs::read_to_string(here.join("pets.yaml")).unwrap().replace("a table", &format!("a table of {times} legs"));
        fs::write(here.join("pets.yaml"), text).unwrap();
        daemon.signal(libc::SIGHUP);
        eventually("the reload", || (told(&daemon, "the new configuration runs") == times).then_some(()));
        assert_eq!(told(&daemon, "the new labels cannot be used") + told(&daemon, "examples of a label"), 0);
    }
    // It is mended: from now on it counts, and breaking it again is refused.
    set(here, &examples(&format!("{}@1", clip()), "always"));
    daemon.signal(libc::SIGHUP);
    eventually("the reload", || (told(&daemon, "the new configuration runs") == 3).then_some(()));
    daemon.wait_for_log("examples of a label");
    set(here, &examples("odd.jpg", "always"));
    daemon.signal(libc::SIGHUP);
    daemon.wait_for_log("the new labels cannot be used");
    daemon.stop();
}

/// Embeddings of the starter model for texts, and its fingerprint: what the history would hold of a picture that is as much like the text as can be.
fn embedded(folder: &Path, texts: &[&str]) -> (Vec<Vec<f32>>, String) {
    let output = vtagd(folder).args(["embed", "--json", "--text"]).args(texts).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let values =
        |text: &Value| text["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
    let embeddings = told["texts"].as_array().unwrap().iter().map(values).collect();
    (embeddings, told["model"]["fingerprint"].as_str().unwrap().to_owned())
}

#[test]
fn a_false_tag_that_was_called_wrong_is_gone_after_the_next_calibration_and_the_right_one_still_comes() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let config = config_of(here, "rtsp://127.0.0.1:9/gate", "enabled: true");
    fs::write(here.join("vtagd.yaml"), format!("{config}history: {{ path: kept, min_change: 0 }}\n")).unwrap();
    let (texts, model) = embedded(here, &["a cat", "a wall", "a sofa"]);
    let [cat, wall, sofa] = &texts[..] else { panic!("three were asked for") };
    // A cat on a sofa is less like the text than what misleads it, which the wall has nothing to do with.
    let mixed = |parts: [f32; 3], turn: usize| -> Vec<f32> {
        let mixed = |at: usize| parts[0] * cat[at] + parts[1] * wall[at] + parts[2] * sofa[at];
        let noise = |at: usize| if at % 50 == turn % 50 { 0.05 } else { 0.0 };
        let values: Vec<f32> = (0..cat.len()).map(|at| mixed(at) + noise(at)).collect();
        let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
        values.into_iter().map(|value| value / length).collect()
    };
    let (seen, empty, wrong) = ([0.6, 0.0, 0.8], [0.0, 1.0, 0.0], [1.0, 0.1, 0.0]);
    let start = jiff::Timestamp::now().as_second() - 600;
    let limits = RetentionLimits { max_size: 1 << 26, max_age: Duration::from_secs(86_400), min_change: 0.0 };
    {
        let (mut store, _) = RowStore::open(Some(&here.join("kept")), limits, Instant::now()).unwrap();
        let name = Name { stream: "gate".into(), region: String::new(), model, view: String::new() };
        for second in 0..120_usize {
            let parts = match second {
                20..40 | 80..100 => seen,
                50..60 => wrong,
                _ => empty,
            };
            let (at, embedding) = ((start + second as i64) * 1000, mixed(parts, second));
            store.push(&NewRow { name: &name, tile: 0, at, embedding: &embedding }, Instant::now()).unwrap();
        }
        store.sync().unwrap();
    }
    let at = |second: i64| jiff::Timestamp::from_second(start + second).unwrap();
    let times = [20, 40, 80, 100, 0, 19, 61, 79, 101, 119, 49, 60].map(|second| at(second).to_string());
    let mut marks = vec!["marks", "add", "--stream", "gate", "--set", "things", "--label", "cat"];
    for (pair, kind) in times.chunks(2).zip(["--seen", "--seen", "--empty", "--empty", "--empty", "--absent"]) {
        marks.extend([kind, &pair[0], &pair[1]]);
    }
    printed(here, &marks);
    let calibrate = ["labels", "calibrate", "things", "--stream", "gate", "--label", "cat", "--json"];
    let cat_of = |told: String| serde_json::from_str::<Value>(&told).unwrap()["labels"][0].clone();
    let in_wrong = |cat: &Value| {
        let tags = cat["events"][0]["events"].as_array().unwrap();
        let is_in = |tag: &&Value| {
            let [from, to] = [0, 1].map(|end| tag[end].as_str().unwrap().parse::<jiff::Timestamp>().unwrap());
            from < at(60) && to > at(49)
        };
        (tags.iter().filter(is_in).count(), tags.len())
    };
    // Texts alone: whatever lets the cat in lets that in too.
    let before = cat_of(printed(here, &calibrate));
    assert!(before["balanced_accuracy"].as_f64().is_none_or(|accuracy| accuracy < 0.95), "{before}");
    // What `vtagd marks event ID wrong` keeps of the tag.
    let verdict = TagVerdict {
        stream: "gate".into(),
        region: None,
        set: "things".into(),
        label: "cat".into(),
        from: at(50),
        to: at(59),
        is_right: false,
    };
    verdict_store::keep(&StateFolder::configured(here.join("state")), verdict).unwrap();
    let after = cat_of(printed(here, &[&calibrate[..], &["--write"]].concat()));
    assert_eq!(after["balanced_accuracy"], 1.0, "{after}");
    let (wrong, all) = in_wrong(&after);
    assert!(wrong == 0 && all == 2, "{after}");
    assert!(here.join("state/examples/things.examples.json").is_file());
    // The thresholds are bound to what was learned, which is part of the set from now on: nothing waits.
    let shown = printed(here, &["config", "show"]);
    assert!(shown.contains("x-calibrations") && !shown.contains("waits"), "{shown}");
}

#[test]
fn a_report_says_how_often_strangers_are_told_in_empty_moments() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    // A small part of the picture: hundreds of them are resized.
    let config = config_of(here, &format!("file://{}", clip()), "pace: fast").replace("interval: 1s", "interval: 4s");
    let config = config.replace("mode: squash", "mode: squash, region: [0.4, 0.4, 0.2, 0.2]");
    fs::write(here.join("vtagd.yaml"), config).unwrap();
    let (marks, page) = (here.join("marks.yaml"), here.join("report.html"));
    fs::write(&marks, "labels: { cat: { seen: [[0.5, 7.5]], absent: [[8.5, 9.6]] }, dog: { absent: [[0, 31]] } }\n")
        .unwrap();
    let (config, marks, page) = (here.join("vtagd.yaml"), marks.display().to_string(), page.display().to_string());
    let line = ["labels", "report", "things", "--stream", "gate", "--marks", &marks, "--html", &page, "--json"];
    let output = vtagd(here).args(line).arg("-c").arg(config).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (cat, dog) = (&report["labels"][0], &report["labels"][1]);
    // As the set is written a cat is never told, and a dog always.
    assert_eq!((&cat["missed"], &cat["intruders"]["told"]), (&1.into(), &0.into()), "{report}");
    assert_eq!(dog["intruders"]["rate"]["value"], 1.0, "{report}");
    assert!(dog["absent_tagged"]["value"].as_f64() > Some(0.8), "{report}");
    assert_eq!(dog["verdict"], "answers to much that it does not mean");
    assert_eq!((&cat["intruders"]["left_out"][0], &cat["thresholds_from"]), (&"cat".into(), &"configuration".into()));
    assert!(fs::read_to_string(&page).unwrap().contains("100 %"));
}
