//! Labels to begin with: the example sets of `config/labels/`, which are part of the program, as the API tells them. Pure.
//!
//! Their thresholds are left out: these belong to one background and one model, and a label that is added to another set has others.

use std::path::Path;

use serde_json::{Value, json};

use crate::label::set;
use crate::yaml::Document;

/// The sets, the most usual first.
const SETS: [(&str, &str); 6] = [
    ("room.yaml", include_str!("../../config/labels/room.yaml")),
    ("traffic.yaml", include_str!("../../config/labels/traffic.yaml")),
    ("parking-lot.yaml", include_str!("../../config/labels/parking-lot.yaml")),
    ("tabletop.yaml", include_str!("../../config/labels/tabletop.yaml")),
    ("bottles.yaml", include_str!("../../config/labels/bottles.yaml")),
    ("produce.yaml", include_str!("../../config/labels/produce.yaml")),
];

/// Each with its background and labels. One that could not be read would be left out: a test reads all of them.
pub fn example_sets() -> Vec<Value> {
    let told = |(name, text): &(&str, &str)| {
        let set = set::check(Document::parse(Path::new(name), text.as_bytes()).ok()?).ok()?.set;
        let label = |label: &crate::label::Label| json!({ "label": label.name, "prompts": label.prompts, "negatives": label.negatives });
        let labels: Vec<Value> = set.labels.iter().map(label).collect();
        Some(json!({ "set": set.name, "background": set.background, "labels": labels }))
    };
    SETS.iter().filter_map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_set_of_the_repository_but_the_demos_is_offered() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/labels");
        let mut there: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        there.retain(|name| name != "demo.yaml");
        there.sort();
        let mut offered: Vec<&str> = SETS.iter().map(|(name, _)| *name).collect();
        offered.sort_unstable();
        assert_eq!(there, offered);
        let sets = example_sets();
        assert_eq!(sets.len(), SETS.len());
        assert!(sets.iter().all(|set| !set["labels"].as_array().unwrap().is_empty()), "{sets:?}");
    }
}
