//! Labels that learn from pictures, over the real binary: what was wrongly taken for the label goes, the right thing stays; for every kind of model;
//! a daemon that runs takes examples at its next reload, and says which file it cannot use.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::calibration::config_of;
use crate::common::daemon::{Daemon, root, vtagd};

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
        let never = margins(here, model, &set(here, &examples(example, "never")));
        assert!(never.iter().zip([cat, cup]).all(|(a, b)| (a - b).abs() < 0.01), "{model}: {never:?} {cat} {cup}");
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
fn a_report_says_how_often_strangers_are_told_in_empty_moments() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let config = config_of(here, &format!("file://{}", clip()), "pace: fast").replace("interval: 1s", "interval: 4s");
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
    assert_eq!(
        (&dog["intruders"]["rate"]["value"], &dog["absent_tagged"]["value"]),
        (&1.0.into(), &1.0.into()),
        "{report}"
    );
    assert_eq!(dog["verdict"], "answers to much that it does not mean");
    assert_eq!((&cat["intruders"]["left_out"][0], &cat["thresholds_from"]), (&"cat".into(), &"configuration".into()));
    assert!(fs::read_to_string(&page).unwrap().contains("100 %"));
}
