//! The label sets that are shipped to begin with, as they are: linted, and rehearsed on what there is footage of.

use std::path::Path;

use crate::common::daemon::{footage, root, vtagd};
use serde_json::Value;

/// From when to when a label was told.
type Told = Vec<(String, (f64, f64))>;

/// What a daemon would tell of the clip with these sets.
fn rehearsed(clip: &Path, sets: &[&str]) -> Told {
    let folder = tempfile::tempdir().unwrap();
    let mut command = vtagd(folder.path());
    command.arg("tag").arg(clip).args(["--events", "--json", "--every", "500ms", "--view", "tiles"]);
    for set in sets {
        command.arg("--labels").arg(root().join("config/labels").join(set));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let ends = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let tag = |event: Value| {
        let data = &event["data"];
        let span = (data["media_start"].as_f64()?, data["media_end"].as_f64()?);
        (event["type"] == "dev.vtagd.tag.end").then(|| (data["label"].as_str().unwrap().to_owned(), span))
    };
    ends.filter_map(tag).collect()
}

/// Whether they share three tenths of what both cover.
fn is_same(a: (f64, f64), b: (f64, f64)) -> bool {
    let both = (a.1.min(b.1) - a.0.max(b.0)).max(0.0);
    both / (a.1 - a.0 + b.1 - b.0 - both) >= 0.3
}

#[test]
fn each_set_tells_what_a_person_sees_in_footage_of_its_kind_and_nothing_else() {
    let cars = [(4.5, 8.2), (14.6, 18.6), (25.5, 27.6)].map(|span| ("car", span));
    let people = [(6.5, 20.0), (22.7, 44.8), (50.6, 70.0), (74.6, 86.8), (92.6, 119.8), (123.7, 135.9)];
    let people = people.map(|span| ("person", span));
    let produce =
        [("apple", (0.9, 6.5)), ("broccoli", (3.0, 10.2)), ("cauliflower", (10.8, 17.8)), ("orange", (15.9, 20.1))];
    // How many may be missed as the set comes; none may be told that is not there.
    for (set, clip, truth, missed) in [
        ("traffic.yaml", "car-detection.mp4", &cars[..], 0),
        ("tabletop.yaml", "bottle-detection.mp4", &[("bottle", (0.0, 39.8))], 0),
        ("room.yaml", "onebyone.mp4", &people, 1),
        ("produce.yaml", "produce.mp4", &produce, 0),
    ] {
        let Some(clip) = footage(clip) else { continue };
        let told = rehearsed(&clip, &[set]);
        let is_there =
            |(label, span): &&(&str, (f64, f64))| told.iter().any(|(name, tag)| name == label && is_same(*tag, *span));
        let found = truth.iter().filter(is_there).count();
        assert!(found + missed >= truth.len(), "{set}: {told:?}");
        assert_eq!(told.len(), found, "{set}: {told:?}");
    }
}

#[test]
fn the_demo_clip_has_a_cup_on_its_table_and_neither_traffic_nor_vegetables() {
    let clip = root().join("demo/clip.mp4");
    let told = rehearsed(&clip, &["produce.yaml", "tabletop.yaml", "traffic.yaml"]);
    assert!(told.len() == 1 && told[0].0 == "cup" && is_same(told[0].1, (8.0, 16.0)), "{told:?}");
}

#[test]
fn each_set_is_without_a_warning_and_says_how_it_is_calibrated() {
    let folder = tempfile::tempdir().unwrap();
    for set in ["produce", "room", "tabletop", "traffic"] {
        let file = root().join(format!("config/labels/{set}.yaml"));
        let output =
            vtagd(folder.path()).args(["labels", "check"]).arg(&file).args(["--model", "starter"]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && said.contains(": ok,") && !said.contains("warning"), "{said}");
        let text = std::fs::read_to_string(&file).unwrap();
        let parts =
            ["background:", "negatives:", "docs/thresholds.md", &format!("labels calibrate {set}")].map(str::to_owned);
        assert!(parts.iter().all(|part| text.contains(part)), "{set}");
    }
}
