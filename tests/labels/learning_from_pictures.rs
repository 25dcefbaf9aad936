//! Labels that learn from pictures, over the real binary: what was wrongly taken for the label goes, the right thing stays; for every kind of model;
//! a daemon that runs takes examples at its next reload, and says which file is missing.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::calibration::config_of;
use crate::common::daemon::{Daemon, eventually, root, vtagd};

fn clip() -> String {
    root().join("demo/clip.mp4").display().to_string()
}

/// The clip shows a cat in its first eight seconds, and a cup of coffee in the next. The texts mean both.
fn set(folder: &Path, more: &str) -> String {
    let file = folder.join("pets.yaml");
    let text = format!(
        "set: pets\nscoring: independent\nbackground: [a wall, a table]\nlabels:\n  - name: pet\n    prompts: [a cat, a cup of coffee]\n{more}"
    );
    fs::write(&file, text).unwrap();
    file.display().to_string()
}

fn examples(learn: &str) -> String {
    let clip = clip();
    format!(
        "    examples: ['{clip}@1', '{clip}@6']\n    counter_examples: ['{clip}@9', '{clip}@14']\n    learn: {learn}\n"
    )
}

/// Margins of the cat's and the cup's pictures.
fn margins(folder: &Path, model: &str, set: &str) -> [Vec<f64>; 2] {
    let line = ["tag", &clip(), "--labels", set, "-m", model, "--every", "2s", "--seconds", "16", "--json"];
    let output = vtagd(folder).args(line).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut found = [Vec::new(), Vec::new()];
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let at = line["pts"].as_f64().unwrap();
        found[usize::from(at >= 8.0)].push(line["tags"][0]["margin"].as_f64().unwrap());
    }
    assert!(found.iter().all(|part| part.len() == 4), "{found:?}");
    found
}

fn mean(of: &[f64]) -> f64 {
    of.iter().sum::<f64>() / of.len() as f64
}

#[test]
fn what_only_the_texts_take_for_it_goes_and_the_right_one_stays_whatever_the_model() {
    let checkpoint = |name: &str| root().join("tests/conformance/checkpoints").join(name).display().to_string();
    for model in ["starter".to_owned(), checkpoint("hf-clip-quickgelu"), checkpoint("siglip")] {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        let [cat, cup] = margins(here, &model, &set(here, ""));
        let [learned_cat, learned_cup] = margins(here, &model, &set(here, &examples("always")));
        let (up, down) = (mean(&learned_cat) - mean(&cat), mean(&learned_cup) - mean(&cup));
        assert!(up > 1.0 && down < -1.0, "{model}: {cat:?} {cup:?} {learned_cat:?} {learned_cup:?}");
        assert_eq!(margins(here, &model, &set(here, &examples("never"))), [cat, cup], "{model}");
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
    let told = |what: &str| {
        eventually(what, || daemon.log().contains(what).then_some(()));
    };
    set(here, "    examples: [gone.jpg]\n");
    daemon.signal(libc::SIGHUP);
    told("gone.jpg does not exist");
    told("the old configuration stays");
    // A file that is there, and no picture.
    fs::write(here.join("odd.jpg"), "no picture").unwrap();
    set(here, &format!("    examples: [odd.jpg]\n    counter_examples: ['{}@9']\n", clip()));
    daemon.signal(libc::SIGHUP);
    told("pets.yaml:7");
    told("is not a picture this program reads");
    set(here, &examples("always"));
    daemon.signal(libc::SIGHUP);
    told("examples of a label");
    told("the new configuration runs");
    daemon.stop_cleanly();
}
