//! Files as streams: nothing is lost at full speed, and their end is the daemon's end.

use crate::common::daemon::{Daemon, root};

#[test]
fn a_fast_file_is_sampled_without_loss_and_its_tags_end_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "sampling: {{ interval: 200ms }}\nstreams:\n  - {{ id: a, url: \"file://{clip}\", pace: fast }}\n  - {{ id: b, url: \"file://{clip}\", pace: fast }}\n\
         labels: [{set}]\nevents: {{ enter: 0.5, exit: 0.3, after: 0s, after_exit: 1s, cooldown: 0s }}\n\
         sinks: [{{ type: jsonl, path: \"-\" }}, {{ type: jsonl, path: out/events.jsonl }}]\napi: {{ listen: 127.0.0.1:0 }}\n",
        clip = root().join("demo/clip.mp4").display(),
        set = root().join("config/labels/demo.yaml").display(),
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    assert!(daemon.wait().success());
    let log = daemon.log();
    for stream in ["a", "b"] {
        // 32 s at five frames a second; the last may fall on the end.
        let line =
            log.lines().find(|l| l.contains("frames accounted") && l.contains(&format!("stream={stream}"))).unwrap();
        let number = |key: &str| {
            let text = line.split(&format!(" {key}=")).nth(1).unwrap();
            text.split_whitespace().next().unwrap().parse::<i64>().unwrap()
        };
        assert!((159..=161).contains(&number("sampled")), "{line}");
        assert_eq!((number("inferred"), number("unaccounted")), (number("sampled"), 0), "{line}");
    }
    let events = daemon.events();
    let kinds = |kind: &str| events.iter().filter(|e| e["type"] == format!("dev.vtagd.tag.{kind}")).count();
    assert!(kinds("start") >= 6, "{} events", events.len());
    assert_eq!(kinds("start"), kinds("end"));
    assert!(events.iter().any(|e| e["data"]["reason"] == "stream_ended"), "the last tag was open when the file ended");
    let file = std::fs::read_to_string(folder.path().join("out/events.jsonl")).unwrap();
    assert_eq!(file, daemon.stdout(), "both sinks tell the same");
    let mut ids: Vec<_> = events.iter().map(|e| e["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), events.len());
}

#[test]
fn a_model_of_none_decodes_counts_and_tells_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "model: {{ path: none }}\nstreams: [{{ id: a, url: \"file://{}\", pace: fast }}]\nsinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: 127.0.0.1:0 }}\n",
        root().join("demo/clip.mp4").display()
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    assert!(daemon.wait().success());
    assert!(daemon.events().is_empty());
    assert!(daemon.log().contains(r#""no_model": 32"#), "{}", daemon.log());
}

#[test]
fn a_text_file_named_mp4_fails_by_name_while_the_other_stream_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("fake.mp4"), "this is no video\n".repeat(500)).unwrap();
    let config = format!(
        "streams:\n  - {{ id: fake, url: \"file://{}\", pace: fast }}\n  - {{ id: good, url: \"file://{}\", pace: fast }}\n\
         labels: [{}]\nevents: {{ after: 0s }}\nsinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: 127.0.0.1:0 }}\n",
        folder.path().join("fake.mp4").display(),
        root().join("demo/clip.mp4").display(),
        root().join("config/labels/demo.yaml").display(),
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    assert_eq!(daemon.wait().code(), Some(1));
    assert!(daemon.log().lines().any(|l| l.contains("ERROR") && l.contains("fake")), "{}", daemon.log());
    assert!(daemon.events().iter().any(|e| e["data"]["stream"] == "good"));
}
