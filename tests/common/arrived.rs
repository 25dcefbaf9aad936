//! What arrived, against what was stored.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde_json::Value;

use super::daemon::{Daemon, eventually};

pub fn id(event: &Value) -> String {
    event["id"].as_str().unwrap().to_owned()
}

/// `<stream>/<label>`: events of one keep their order.
pub fn route(event: &Value) -> String {
    format!("{}/{}", event["data"]["stream"].as_str().unwrap(), event["data"]["label"].as_str().unwrap())
}

/// Ids of each stream and label, in order, each at its first time.
pub fn lanes<'a>(events: impl IntoIterator<Item = &'a Value>) -> BTreeMap<String, Vec<String>> {
    let mut seen = HashSet::new();
    let mut lanes: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for event in events.into_iter().filter(|event| seen.insert(id(event))) {
        lanes.entry(route(event)).or_default().push(id(event));
    }
    lanes
}

/// How many different events there are.
pub fn unique<'a>(events: impl IntoIterator<Item = &'a Value>) -> usize {
    events.into_iter().map(id).collect::<HashSet<_>>().len()
}

/// Delivers what is left, by a daemon of `config` that makes no more.
pub fn drain(folder: &Path, config: &str) {
    drain_by(Daemon::start(folder, &config.replace("loop: true", "enabled: false")));
}

/// Waits until nothing waits for any sink of `daemon`, and stops it. How many dead letters its sinks have.
pub fn drain_by(mut daemon: Daemon) -> u64 {
    daemon.wait_ready();
    let dead = eventually("nothing waits", || {
        let sinks: Value = serde_json::from_str(&daemon.get("/api/v1/sinks").1).unwrap();
        let sinks = sinks["sinks"].as_array().unwrap();
        let dead = || sinks.iter().map(|sink| sink["dead"].as_u64().unwrap()).sum();
        sinks.iter().all(|sink| sink["pending"] == 0).then(dead)
    });
    daemon.stop_cleanly();
    dead
}
