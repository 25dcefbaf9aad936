//! Many events quickly, from the product as it is: the demo clip again and again at full speed, each sample another photograph, looked at
//! for each of its four things under fifty names. Half of the names start or end a tag at every second sample or so.

use std::path::Path;

use super::daemon::root;

/// Names for each thing.
const NAMES: usize = 50;

/// Writes the label set into `folder` and gives a configuration with these `sinks` (YAML lines) and `more` sections.
pub fn config(folder: &Path, sinks: &str, more: &str) -> String {
    let mut set =
        "set: flood\nscoring: independent\nbackground: [a wall, a building, a table, a plant]\nlabels:\n".to_owned();
    for number in 0..NAMES {
        for (name, prompt) in [
            ("cat", "a cat"),
            ("coffee", "a cup of coffee"),
            ("person", "a portrait of a person"),
            ("rocket", "a rocket"),
        ] {
            set += &format!("  - {{ name: {name}-{number}, prompts: [{prompt}] }}\n");
        }
    }
    std::fs::write(folder.join("flood.yaml"), set).unwrap();
    format!(
        "instance: flood\nsampling: {{ interval: 4s, decode: keyframes }}\nstreams:\n  - {{ id: a, url: \"file://{}\", pace: fast, loop: true }}\nlabels: [flood.yaml]\n\
         events: {{ enter: 0.5, exit: 0.5, after: 0s, after_exit: 0s, cooldown: 0s }}\n\
         outbox: {{ path: outbox.db }}\napi: {{ listen: 127.0.0.1:0 }}\nsinks:\n{sinks}{more}",
        root().join("demo/clip.mp4").display()
    )
}
