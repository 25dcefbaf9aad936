//! What a daemon has seen is found in words afterwards, and taken out by command.

use std::path::Path;

use crate::common::daemon::{Daemon, footage, vtagd};
use serde_json::Value;

fn search(folder: &Path, arguments: &[&str]) -> Value {
    let config = folder.join("vtagd.yaml");
    let output = vtagd(folder).arg("search").args(arguments).args(["--json", "-c"]).arg(config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn streams(found: &Value) -> Vec<&str> {
    found["moments"].as_array().unwrap().iter().map(|moment| moment["stream"].as_str().unwrap()).collect()
}

#[test]
fn what_streams_showed_is_found_in_words_and_purged_by_command() {
    let (Some(cars), Some(bottles)) = (footage("car-detection.mp4"), footage("bottle-detection.mp4")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let url = |clip: &Path| format!("file://{}", clip.canonicalize().unwrap().display());
    let config = format!(
        "model: {{ path: starter }}\nsampling: {{ interval: 1s }}\nhistory: {{ path: kept }}\nstreams:\n\
         \x20 - {{ id: yard, url: \"{cars}\", pace: fast }}\n  - {{ id: table, url: \"{bottles}\", pace: fast }}\n\
         \x20 - {{ id: private, url: \"{cars}\", pace: fast, history: off }}\nlabels: [set.yaml]\n\
         sinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: off }}\n",
        cars = url(&cars),
        bottles = url(&bottles),
    );
    std::fs::write(
        folder.path().join("set.yaml"),
        "set: s\nbackground: [a wall]\nlabels: [{ name: x, prompts: [a tree] }]\n",
    )
    .unwrap();
    std::fs::write(folder.path().join("vtagd.yaml"), &config).unwrap();
    let mut daemon = Daemon::start(folder.path(), &config);
    assert!(daemon.wait().success(), "{}", daemon.log());

    for (text, stream) in [("a car", "yard"), ("a bottle", "table")] {
        let found = search(folder.path(), &[text]);
        assert_eq!((streams(&found)[0], &found["stands_out"]), (stream, &Value::Bool(true)), "{found}");
        assert!(!streams(&found).contains(&"private"), "{found}");
        assert!(found["moments"][0]["score"].as_f64() > Some(0.5), "{found}");
        assert_eq!(
            (found["searched"]["damaged"].as_u64(), found["searched"]["other_models"].as_u64()),
            (Some(0), Some(0))
        );
    }
    for nonsense in ["quantum tax law", "colourless green ideas", "asdf qwer zxcv"] {
        assert_eq!(search(folder.path(), &[nonsense])["stands_out"], false, "{nonsense}");
    }
    assert_eq!(streams(&search(folder.path(), &["a car", "--until", "1h"])).len(), 0);
    let of_table = search(folder.path(), &["a car", "--stream", "table", "--limit", "2"]);
    assert!(streams(&of_table).iter().all(|stream| *stream == "table") && streams(&of_table).len() <= 2);
    // Longer than any model reads.
    search(folder.path(), &[&"a car ".repeat(10_000)]);

    let purge = |arguments: &[&str]| {
        let config = folder.path().join("vtagd.yaml");
        vtagd(folder.path()).args(["history", "purge", "-c"]).arg(config).args(arguments).status().unwrap().code()
    };
    assert_eq!(purge(&[]), Some(2), "nothing says which");
    assert_eq!(purge(&["--stream", "yard"]), Some(0));
    assert!(!streams(&search(folder.path(), &["a car"])).contains(&"yard"));
    assert_eq!(purge(&["--all"]), Some(0));
    assert_eq!(search(folder.path(), &["a car"])["searched"]["rows"], 0);
}
