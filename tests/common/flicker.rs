//! A video in which every frame shows something else, and label sets that all have an opinion: hundreds of events a second.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use super::daemon::root;

/// Writes `flicker.mp4` into `folder`: cat, coffee, rocket, cat, …
pub fn clip(folder: &Path) {
    let launch = |text: &str| {
        let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        for word in &mut words {
            *word = word.replace("IN", folder.to_str().unwrap()).replace("DEMO", root().to_str().unwrap());
        }
        let done = Command::new("gst-launch-1.0").arg("-q").args(&words).status().unwrap();
        assert!(done.success(), "{text}");
    };
    // The demo clip shows each of the three for eight seconds.
    launch(
        "filesrc location=DEMO/demo/clip.mp4 ! decodebin ! videorate ! videoconvert ! videoscale ! \
         video/x-raw,width=224,height=224,framerate=1/8 ! pngenc ! multifilesink location=IN/still%d.png",
    );
    launch(
        "multifilesrc location=IN/still%d.png loop=true start-index=0 stop-index=2 num-buffers=300 \
         caps=image/png,framerate=25/1 ! pngdec ! videoconvert ! x264enc key-int-max=1 bitrate=4000 ! mp4mux ! \
         filesink location=IN/flicker.mp4",
    );
}

/// Writes the clip and `sets` label sets into `folder`, and gives the configuration of `streams` streams that look at it. Each frame
/// is two events a set.
pub fn config(folder: &Path, streams: usize, sets: usize) -> String {
    clip(folder);
    let mut names = Vec::new();
    for set in 0..sets {
        let labels =
            ["cat", "rocket", "cup of coffee"].map(|what| format!("  - {{ name: {what}, prompts: [a {what}] }}\n"));
        std::fs::write(folder.join(format!("set{set}.yaml")), format!("set: s{set}\nlabels:\n{}", labels.concat()))
            .unwrap();
        names.push(format!("set{set}.yaml"));
    }
    let mut text = String::from("sampling: { interval: 1ms, decode: all }\nstreams:\n");
    for stream in 0..streams {
        let url = format!("file://{}/flicker.mp4", folder.display());
        writeln!(text, "  - {{ id: cam{stream}, url: \"{url}\", pace: fast, loop: true }}").unwrap();
    }
    writeln!(text, "labels: [{}]", names.join(", ")).unwrap();
    text.push_str("events: { enter: 0.5, exit: 0.5, after: 0s, after_exit: 0s, cooldown: 0s }\n");
    text.push_str("api: { listen: 127.0.0.1:0 }\n");
    text
}
