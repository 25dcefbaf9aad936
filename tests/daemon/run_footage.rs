//! Real footage with what a person sees in it, through the real binary and the label sets we ship.

use crate::common::daemon::{Daemon, footage, root};
use serde_json::Value;

/// Closed (start, end) media intervals of `label`, in order, and what else was told.
fn intervals(events: &[Value], label: &str) -> Vec<(f64, f64)> {
    let ends = events.iter().filter(|e| e["type"] == "dev.vtagd.tag.end" && e["data"]["label"] == label);
    ends.map(|e| (e["data"]["media_start"].as_f64().unwrap(), e["data"]["media_end"].as_f64().unwrap())).collect()
}

fn run(clip: &str, set: &str, view: &str, interval: &str) -> Option<Vec<Value>> {
    let clip = footage(clip)?;
    let folder = tempfile::tempdir().unwrap();
    let set = root().join("config/labels").join(set);
    let config = format!(
        "model: {{ path: starter }}\nsampling: {{ interval: {interval} }}\n\
         streams: [{{ id: clip, url: \"file://{}\", pace: fast, view: {{ mode: {view} }} }}]\n\
         labels: [{}]\nsinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: 127.0.0.1:0 }}\n",
        clip.canonicalize().unwrap().display(),
        set.display()
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    assert!(daemon.wait().success());
    Some(daemon.events())
}

fn overlap(a: (f64, f64), b: (f64, f64)) -> bool {
    a.0 < b.1 && b.0 < a.1
}

#[test]
fn every_car_on_the_parking_lot_is_told_once_and_nothing_else_is() {
    for interval in ["500ms", "400ms"] {
        let Some(events) = run("car-detection.mp4", "parking-lot.yaml", "model", interval) else { return };
        let seen = intervals(&events, "car");
        let truth = [(4.5, 8.2), (14.6, 18.6), (25.5, 27.6)];
        assert_eq!(seen.len(), truth.len(), "at {interval}: {seen:?}");
        for (seen, truth) in seen.iter().zip(truth) {
            assert!(overlap(*seen, truth), "at {interval}: {seen:?} is not {truth:?}");
        }
        assert_eq!(events.len(), 6, "{events:?}");
        assert!(events.iter().all(|e| e["data"]["set"] == "parking-lot"));
    }
}

#[test]
fn a_bottle_at_the_edge_is_seen_in_tiles_and_squashed_but_not_in_the_centre_crop() {
    let edge = (17.7, 22.0);
    // Seen means: at every half second well inside the interval, a bottle tag is open.
    let inside = [18.5, 19.0, 19.5, 20.0, 20.5, 21.0, 21.5];
    for (view, wanted) in [("tiles", true), ("squash", true), ("model", false)] {
        let Some(events) = run("bottle-detection.mp4", "bottles.yaml", view, "500ms") else { return };
        let seen = intervals(&events, "bottle");
        let covered = inside.iter().filter(|t| seen.iter().any(|i| i.0 <= **t && **t <= i.1)).count();
        eprintln!("{view}: {seen:?} cover {covered} of {} between {edge:?}", inside.len());
        assert_eq!(covered == inside.len(), wanted, "{view}: {seen:?}");
    }
}
