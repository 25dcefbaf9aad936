//! What a daemon has seen is found in words afterwards, and taken out by command.

use std::path::Path;

use crate::common::daemon::{Daemon, can_have_hosts, eventually, footage, root, vtagd};
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
    for (input, why) in [
        (["a car ".repeat(10_000).as_str()].as_slice(), "longer than 1000 characters"),
        (&["--picture", &root().join("tests/data/bomb65500.jpg").to_string_lossy()], "65500"),
        (&["--picture", "nowhere.jpg"], "nowhere.jpg"),
    ] {
        let told = vtagd(folder.path())
            .arg("search")
            .args(input)
            .arg("-c")
            .arg(folder.path().join("vtagd.yaml"))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&told.stderr);
        assert!(told.status.code() == Some(2) && error.contains(why) && error.len() < 500, "{error}");
    }

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

fn ask(url: &str, query: &str, picture: Option<(&str, &[u8])>) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let url = format!("{url}/api/v1/search{query}");
    let mut answer = match picture {
        Some((kind, body)) => agent.post(url).header("Content-Type", kind).send(body).unwrap(),
        None => agent.get(url).call().unwrap(),
    };
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&text).unwrap())
}

/// Processes that `parent` has started.
fn children(parent: u32) -> usize {
    let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let threads = std::fs::read_dir(format!("/proc/{parent}/task")).unwrap().map(|task| task.unwrap().path());
    let of = |task: &Path| std::fs::read_to_string(task.join("children")).unwrap_or(list.clone());
    threads.map(|task| of(&task).split_whitespace().count()).sum()
}

#[test]
fn a_running_daemon_is_asked_for_what_it_has_in_memory_by_text_and_by_picture() {
    let (Some(cars), Some(bottles)) = (footage("car-detection.mp4"), footage("bottle-detection.mp4")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let url = |clip: &Path| format!("file://{}", clip.canonicalize().unwrap().display());
    let config = format!(
        "model: {{ path: starter }}\nsampling: {{ interval: 500ms }}\nstreams:\n\
         \x20 - {{ id: yard, url: \"{}\", loop: true }}\n  - {{ id: table, url: \"{}\", loop: true }}\n\
         labels: [set.yaml]\nsinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: 127.0.0.1:0 }}\n",
        url(&cars),
        url(&bottles),
    );
    let set = "set: s\nbackground: [a wall]\nlabels: [{ name: x, prompts: [a tree] }]\n";
    std::fs::write(folder.path().join("set.yaml"), set).unwrap();
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    let address = daemon.url();
    for (text, stream) in [("a%20car", "yard"), ("a+bottle", "table")] {
        eventually(stream, || {
            let (status, found) = ask(&address, &format!("?text={text}"), None);
            assert!([200, 503].contains(&status), "{status} {found}");
            let first = found["moments"].as_array().and_then(|moments| moments.first()).cloned();
            first.filter(|first| first["stream"] == stream && found["stands_out"] == true)
        });
    }
    assert_eq!(children(daemon.pid()), 1, "the text tower waits for the next question");
    let (_, nonsense) = ask(&address, "?text=quantum%20tax%20law&limit=3", None);
    assert_eq!((&nonsense["stands_out"], nonsense["text"].as_str()), (&Value::Bool(false), Some("quantum tax law")));
    assert!(nonsense["moments"].as_array().unwrap().len() <= 3, "{nonsense}");
    assert_eq!(ask(&address, "?text=a%20car&until=1h", None).1["searched"]["rows"], 0);
    assert!(streams(&ask(&address, "?text=a+car&stream=table", None).1).iter().all(|stream| *stream == "table"));

    let picture = {
        let agent: ureq::Agent = ureq::Agent::new_with_defaults();
        let mut answer = agent.get(format!("{address}/api/v1/streams/table/latest.jpg")).call().unwrap();
        answer.body_mut().read_to_vec().unwrap()
    };
    let (status, like) = ask(&address, "", Some(("image/jpeg", &picture)));
    assert_eq!((status, streams(&like)[0], &like["stands_out"]), (200, "table", &Value::Null), "{like}");
    assert!(like["moments"][0]["score"].as_f64() > Some(0.8), "{like}");
    assert_eq!(streams(&ask(&address, "?text=a+bottle", Some(("image/jpeg", &picture))).1)[0], "table");

    let bomb = std::fs::read(root().join("tests/data/bomb65500.jpg")).unwrap();
    let long = format!("?text={}", "a+car+".repeat(2000));
    for (query, picture, wanted) in [
        ("", None, 400),
        ("?text=", None, 400),
        ("?text=%20", None, 400),
        (long.as_str(), None, 400),
        ("?text=a&text=b", None, 400),
        ("?text=a&limit=1001", None, 400),
        ("?text=a&words=b", None, 400),
        ("?text=a", Some(("application/json", &picture[..])), 415),
        ("", Some(("image/jpeg", &picture[..picture.len() / 2])), 422),
        ("", Some(("image/jpeg", &bomb)), 422),
    ] {
        let (status, answer) = ask(&address, query, picture);
        assert!(status == wanted && answer["error"].is_string(), "{query:.40}: {status} {answer}");
    }

    let file = folder.path().join("bottle.jpg");
    std::fs::write(&file, &picture).unwrap();
    let command = |arguments: &[&str]| {
        let told =
            vtagd(folder.path()).arg("search").args(arguments).args(["--json", "--url", &address]).output().unwrap();
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        serde_json::from_slice::<Value>(&told.stdout).unwrap()
    };
    assert_eq!(streams(&command(&["a car", "--limit", "5"]))[0], "yard");
    assert_eq!(streams(&command(&["--picture", &file.to_string_lossy()]))[0], "table");
    assert!(daemon.stop().success(), "{}", daemon.log());
    // Nothing was written.
    assert!(!folder.path().join("kept").exists());
}

/// Two clips over and over, a row for each frame, into `path`.
fn recording(path: &Path, clip: &Path) -> String {
    format!(
        "model: {{ path: starter }}\nsampling: {{ interval: 200ms }}\nhistory: {{ path: \"{}\", min_change: 0 }}\nstreams:\n\
         \x20 - {{ id: yard, url: \"file://{}\", loop: true }}\nlabels: [set.yaml]\noutbox: {{ path: \":memory:\" }}\n\
         sinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: 127.0.0.1:0 }}\n",
        path.display(),
        clip.canonicalize().unwrap().display()
    )
}

fn with_set(folder: &Path) {
    let set = "set: s\nbackground: [a wall]\nlabels: [{ name: x, prompts: [a tree] }]\n";
    std::fs::write(folder.join("set.yaml"), set).unwrap();
}

fn counted(metrics: &str, result: &str) -> u64 {
    let line = format!("vtagd_history_embeddings_total{{result=\"{result}\"}} ");
    metrics.lines().find_map(|text| text.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
}

#[test]
fn a_disk_that_fills_up_costs_what_comes_then_while_what_is_there_is_searched_and_frames_go_on() {
    let Some(cars) = footage("car-detection.mp4").filter(|_| can_have_hosts()) else { return };
    let folder = tempfile::tempdir().unwrap();
    with_set(folder.path());
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let config = recording(&disk.join("kept"), &cars);
    // Pages of 4 KiB: rows of two of them, or a few more, find room.
    let mut daemon = Daemon::start_on_small_disk(folder.path(), &config, &disk, "24k");
    daemon.wait_ready();
    let address = daemon.url();
    eventually("a row is refused", || (counted(&daemon.get("/metrics").1, "failed") > 0).then_some(()));
    daemon.wait_for_log("the history cannot be written");
    let metrics = daemon.get("/metrics").1;
    let stored = counted(&metrics, "stored");
    assert!(stored > 0, "{metrics}");
    let found = eventually("a search", || Some(ask(&address, "?text=a+car", None)).filter(|found| found.0 == 200)).1;
    assert_eq!((found["searched"]["rows"].as_u64(), found["searched"]["damaged"].as_u64()), (Some(stored), Some(0)));
    let inferred = |daemon: &mut Daemon| {
        let metrics = daemon.get("/metrics").1;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("vtagd_frames_inferred_total{stream=\"yard\"}"))
            .map(str::to_owned);
        line.unwrap_or_default().rsplit(' ').next().unwrap().parse::<u64>().unwrap_or(0)
    };
    let then = inferred(&mut daemon);
    eventually("frames go on", || (inferred(&mut daemon) > then).then_some(()));
    assert!(daemon.log().matches("the history cannot be written").count() == 1, "{}", daemon.log());
    assert!(daemon.stop().success(), "{}", daemon.log());
}

#[test]
fn a_second_daemon_on_the_folder_says_who_is_in_the_way_and_what_to_do_and_the_first_goes_on_after_a_kill() {
    let Some(cars) = footage("car-detection.mp4") else { return };
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let kept = first.path().join("kept");
    [&first, &second].iter().for_each(|folder| with_set(folder.path()));
    let config = recording(&kept, &cars);
    let mut daemon = Daemon::start(first.path(), &config);
    daemon.wait_ready();
    let mut other = Daemon::start(second.path(), &config);
    assert_eq!(other.wait().code(), Some(1), "{}", other.log());
    assert!(other.log().contains("another process writes to the history"), "{}", other.log());
    assert!(other.log().contains("history.path"), "{}", other.log());

    let stored =
        eventually("some rows", || Some(counted(&daemon.get("/metrics").1, "stored")).filter(|rows| *rows >= 5));
    daemon.kill();
    let mut again = Daemon::start(second.path(), &config);
    again.wait_ready();
    let address = again.url();
    let found = eventually("a search", || Some(ask(&address, "?text=a+car", None)).filter(|found| found.0 == 200)).1;
    assert!(found["searched"]["rows"].as_u64() >= Some(stored) && found["searched"]["damaged"] == 0, "{found}");
    assert!(again.stop().success(), "{}", again.log());
}

#[test]
fn small_pictures_of_the_views_part_alone_are_named_by_searches_and_go_with_their_rows() {
    let Some(cars) = footage("car-detection.mp4") else { return };
    let folder = tempfile::tempdir().unwrap();
    with_set(folder.path());
    let kept = folder.path().join("kept");
    let config = recording(&kept, &cars)
        .replace("min_change: 0", "min_change: 0, pictures: { max_side: 64 }")
        .replace("loop: true }", "loop: true, view: { region: [0.5, 0, 0.25, 1] } }");
    let mut daemon = Daemon::start(folder.path(), &config);
    daemon.wait_ready();
    let address = daemon.url();
    let saved = "vtagd_history_pictures_total{result=\"saved\"} ";
    eventually("pictures", || {
        let metrics = daemon.get("/metrics").1;
        metrics.lines().find_map(|line| line.strip_prefix(saved)?.parse::<u64>().ok()).filter(|count| *count >= 5)
    });
    let found = eventually("a search", || Some(ask(&address, "?text=a+car", None)).filter(|found| found.0 == 200)).1;
    let name = found["moments"][0]["picture"].as_str().unwrap().to_owned();
    let agent: ureq::Agent = ureq::Agent::new_with_defaults();
    let mut answer = agent.get(format!("{address}{name}")).call().unwrap();
    assert_eq!(answer.headers()["content-type"], "image/jpeg");
    let jpeg = answer.body_mut().read_to_vec().unwrap();
    let size = imagesize(&jpeg);
    // The clip is 768×432: a quarter of its width and all of its height.
    assert_eq!((size.0.max(size.1), size.0 * 2 < size.1), (64, true), "{size:?}");
    for (wrong, status) in [("/api/v1/history/nothing.jpg", 404), ("/api/v1/history/..%2Fnames.jsonl", 404)] {
        assert_eq!(daemon.get(wrong).0, status, "{wrong}");
    }
    assert!(daemon.stop().success(), "{}", daemon.log());

    let found = search(folder.path(), &["a car"]);
    let file = Path::new(found["moments"][0]["picture"].as_str().unwrap()).to_owned();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert!(file.starts_with(&kept) && mode & 0o777 == 0o600, "{} {mode:o}", file.display());

    let tried: Value = serde_json::from_slice(&run(vtagd(folder.path())
        .args(["labels", "try", "a car", "--json", "-c"])
        .arg(folder.path().join("vtagd.yaml"))))
    .unwrap();
    let counted: u64 = tried["histogram"].as_array().unwrap().iter().map(|bar| bar["rows"].as_u64().unwrap()).sum();
    assert_eq!(tried["searched"]["rows"].as_u64(), Some(counted), "{tried}");
    assert!(found.get("histogram").is_none());
    let read = run(vtagd(folder.path()).args(["labels", "try", "a car", "-c"]).arg(folder.path().join("vtagd.yaml")));
    assert!(
        String::from_utf8_lossy(&read).contains("margin over everyday nouns"),
        "{}",
        String::from_utf8_lossy(&read)
    );

    let purge =
        vtagd(folder.path()).args(["history", "purge", "--all", "-c"]).arg(folder.path().join("vtagd.yaml")).status();
    assert!(purge.unwrap().success() && !file.exists());
    assert_eq!(std::fs::read_dir(kept.join("pictures")).unwrap().count(), 0);
}

fn run(command: &mut std::process::Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Width and height, as a JPEG's frame header has them.
fn imagesize(jpeg: &[u8]) -> (u16, u16) {
    let at = jpeg.windows(2).position(|bytes| bytes == [0xff, 0xc0]).unwrap();
    let number = |at: usize| u16::from_be_bytes([jpeg[at], jpeg[at + 1]]);
    (number(at + 7), number(at + 5))
}
