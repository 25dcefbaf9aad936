//! Models that are named by their repository, and hubs that are away: the real binary, and a hub on loopback.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::daemon::{Daemon, root};
use crate::hub_support::{COMMIT, Hub, REPO, Repository, Twist, failure, fetched, folder, tree};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A configuration with one stream from a file.
fn configuration(model: &str) -> String {
    format!(
        "model: {{ path: \"{model}\" }}\nstreams: [{{ id: a, url: \"file://{}\", pace: fast }}]\nlabels: [{}]\n\
         sampling: {{ interval: 8s }}\nsinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: off }}\n",
        root().join("demo/clip.mp4").display(),
        root().join("config/labels/demo.yaml").display()
    )
}

/// What a daemon tells systemd, while it lives.
struct Notified {
    socket: std::path::PathBuf,
    heard: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Notified {
    fn start(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (heard, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (into, ended) = (Arc::clone(&heard), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            loop {
                match socket.recv(&mut buffer) {
                    Ok(length) => into.lock().unwrap().push(String::from_utf8_lossy(&buffer[..length]).into_owned()),
                    Err(_) if ended.load(Ordering::Acquire) => return,
                    Err(_) => {}
                }
            }
        });
        Self { socket: path, heard, stop, thread: Some(thread) }
    }

    fn end(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Release);
        self.thread.take().unwrap().join().unwrap();
        std::mem::take(&mut self.heard.lock().unwrap())
    }
}

#[test]
fn the_daemon_pulls_a_model_that_is_named_by_its_repository_once_and_needs_no_hub_afterwards() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(Repository::checkpoint("hf-clip-gelu-h14"));
    let config = configuration(&format!("hf:{REPO}"));
    let (url, home) = (hub.url(), temporary.path().join("hf").display().to_string());
    let notified = Notified::start(temporary.path());
    let socket = notified.socket.display().to_string();
    let env = [("HF_ENDPOINT", url.as_str()), ("HF_HOME", &home), ("HF_HUB_OFFLINE", ""), ("NOTIFY_SOCKET", &socket)];
    let mut daemon = Daemon::start_with_env(temporary.path(), &config, &env);
    assert!(daemon.wait().success(), "{}", daemon.log());
    let log = daemon.log();
    assert!(log.contains("pulling the model, once") && log.contains(COMMIT) && log.contains("inferred=4"), "{log}");
    let heard = notified.end();
    assert!(heard.iter().any(|said| said.contains(&format!("STATUS=pulling hf:{REPO}"))), "{heard:?}");
    assert!(heard.iter().any(|said| said.contains("EXTEND_TIMEOUT_USEC")), "{heard:?}");

    // Nobody answers there any more.
    drop(hub);
    let mut daemon = Daemon::start_with_env(temporary.path(), &config, &env[..3]);
    assert!(daemon.wait().success(), "{}", daemon.log());
    let log = daemon.log();
    assert!(log.contains(COMMIT) && log.contains("inferred=4") && !log.contains("pulling the model"), "{log}");
}

#[test]
fn every_command_takes_a_repository_for_a_model() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(Repository::checkpoint("hf-clip-quickgelu"));
    let model = format!("hf:{REPO}@main");
    let picture = root().join("tests/data/preprocess/chelsea.png");
    let config = temporary.path().join("check.yaml");
    fs::write(&config, configuration(&model)).unwrap();
    let run = |build: &dyn Fn(&mut Command)| {
        let mut command = hub.vtagd(temporary.path());
        build(&mut command);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        output
    };
    let first = run(&|c| {
        c.args(["embed", "--json", "--text", "a cat", "-m", &model]);
    });
    assert!(text(&first).contains("to fetch") && text(&first).contains(COMMIT), "{}", text(&first));
    hub.seen();
    run(&|c| {
        c.args(["tag", "-l", "a cat,a dog", "-m", &model]).arg(&picture);
    });
    run(&|c| {
        c.args(["embed", "--json", "--text", "a cat"]).env("VTAGD_MODEL", &model);
    });
    run(&|c| {
        c.args(["bench", "--seconds", "0.1", "--batch", "1", "-m", &model]);
    });
    run(&|c| {
        c.args(["labels", "embed", "config/labels/demo.yaml", "-m", &model]);
    });
    let checked = run(&|c| {
        c.args(["check", "-c"]).arg(&config);
    });
    assert!(String::from_utf8_lossy(&checked.stdout).contains(&format!("model hf:{REPO}")));
    assert!(hub.seen().is_empty(), "pulled once, and nobody is asked again");

    for (bad, code, word) in [("hf:../x", 2, "no repository"), ("hf:acme/other", 2, "no repository acme/other")] {
        let mut command = hub.vtagd(temporary.path());
        let output = command.args(["embed", "--text", "a cat", "-m", bad]).output().unwrap();
        assert!(output.status.code() == Some(code) && text(&output).contains(word), "{bad}: {}", text(&output));
    }
    let mut command = hub.vtagd(temporary.path());
    let output = command.args(["embed", "--text", "a cat", "-m", REPO]).output().unwrap();
    assert!(text(&output).contains(&format!("`vtagd model pull {REPO}`")), "{}", text(&output));
}

#[test]
fn a_hub_that_is_away_is_no_failure_where_the_cache_has_everything() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(Repository::checkpoint("hf-clip-gelu-h14"));
    let pull = |more: &[&str]| hub.pull(temporary.path()).args(["--retries", "0"]).args(more).output().unwrap();
    hub.twist(|_| Some(Twist::Answer("503 Service Unavailable", String::new(), b"later".to_vec())));
    let (code, said) = failure(&pull(&[]));
    assert!(code == 1 && said.contains("503"), "never pulled: {code}: {said}");

    hub.twist(|_| None);
    let dir = folder(&pull(&[]));
    for (status, body) in [("503 Service Unavailable", "later"), ("200 OK", "<html>log in to this network</html>")] {
        hub.twist(move |_| Some(Twist::Answer(status, String::new(), body.into())));
        let output = pull(&[]);
        assert_eq!(folder(&output), dir, "{}", text(&output));
        assert!(text(&output).contains("taking what was pulled before") && text(&output).contains(COMMIT));
        // Another folder is made of the same contents.
        let out = temporary.path().join(format!("out-{}", &status[..3]));
        folder(&pull(&["--out", out.to_str().unwrap()]));
        assert!(out.join("model.safetensors").is_file());
    }
    // What the hub says of the repository itself counts.
    hub.twist(|_| Some(Twist::Answer("404 Not Found", String::new(), Vec::new())));
    assert_eq!(failure(&pull(&[])).0, 2);
}

#[test]
fn a_branch_that_moved_on_is_used_once_all_of_it_is_there() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(Repository::checkpoint("hf-clip-gelu-h14"));
    let pull = || hub.pull(temporary.path()).args(["--retries", "0"]).output().unwrap();
    let first = folder(&pull());
    let moved = "2222222222222222222222222222222222222222";
    {
        let mut repository = hub.repository();
        repository.revisions.insert("main".into(), moved.into());
        let weights =
            fs::read(root().join("tests/conformance/checkpoints/hf-clip-quickgelu/model.safetensors")).unwrap();
        repository.files.insert("model.safetensors".into(), weights);
    }
    hub.twist(|seen| (seen.store && seen.method == "GET").then_some(Twist::Cut(1000)));
    let (code, said) = failure(&pull());
    assert!(code == 1 && said.contains("cut off"), "the hub is there, and a new commit is wanted: {code}: {said}");
    // Without the hub there is still the one before.
    hub.twist(|_| Some(Twist::Answer("503 Service Unavailable", String::new(), Vec::new())));
    assert_eq!(folder(&pull()), first);
    assert_eq!(folder(&hub.pull(temporary.path()).arg("--offline").output().unwrap()), first);
    hub.twist(|_| None);
    hub.seen();
    let second = folder(&pull());
    assert_ne!(second, first);
    assert_eq!(fetched(&hub.seen()).iter().filter(|seen| seen.store).count(), 1);
    hub.twist(|_| Some(Twist::Answer("503 Service Unavailable", String::new(), Vec::new())));
    assert_eq!(folder(&pull()), second);
}

/// A repository with a checkpoint in this folder of it, as sentence-transformers make them.
fn in_folder(name: &str, checkpoint: &str) -> Repository {
    let files = Repository::checkpoint(checkpoint).files;
    let mut repository = Repository::of(&[("README.md", b"x"), ("modules.json", b"[]")]);
    repository.files.extend(files.into_iter().map(|(file, bytes)| (format!("{name}/{file}"), bytes)));
    repository
}

#[test]
fn a_checkpoint_in_the_one_folder_of_its_repository_is_pulled_without_it_and_imported() {
    for checkpoint in ["hf-clip-quickgelu", "hf-clip-fp16-sharded"] {
        let temporary = tempfile::tempdir().unwrap();
        let hub = Hub::start(in_folder("0_CLIPModel", checkpoint));
        let out = temporary.path().join("out");
        let pull = || hub.pull(temporary.path()).arg("--out").arg(&out).output().unwrap();
        let pulled = pull();
        assert_eq!(folder(&pulled), out);
        assert!(text(&pulled).contains("in 0_CLIPModel"), "{}", text(&pulled));
        let files = tree(&out);
        assert!(files.contains(&"config.json".to_owned()) && files.iter().all(|name| !name.contains('/')), "{files:?}");
        // What is there counts as it lies there, and what is broken is made anew.
        hub.seen();
        assert_eq!(folder(&pull()), out);
        let cached = folder(&hub.pull(temporary.path()).output().unwrap());
        fs::remove_file(cached.join("config.json")).unwrap();
        assert_eq!(tree(&folder(&hub.pull(temporary.path()).output().unwrap())), files);
        assert!(fetched(&hub.seen()).is_empty());

        let bundle = temporary.path().join("bundle");
        let mut import = hub.vtagd(temporary.path());
        let imported =
            import.args(["model", "import", "--no-measure"]).arg(&out).arg("--out").arg(&bundle).output().unwrap();
        assert!(imported.status.success(), "{}", text(&imported));
        let manifest = fs::read_to_string(bundle.join("vtagd.json")).unwrap();
        assert!(manifest.contains(&format!("{REPO}@{COMMIT}")), "{manifest}");
    }
}

#[test]
fn of_checkpoints_in_several_folders_none_is_pulled_and_it_is_told_how_to_choose() {
    let temporary = tempfile::tempdir().unwrap();
    let mut repository = in_folder("base", "hf-clip-quickgelu");
    repository.files.extend(in_folder("large", "hf-clip-quickgelu").files);
    let hub = Hub::start(repository);
    let (code, told) = failure(&hub.pull(temporary.path()).output().unwrap());
    assert!(code == 2 && told.contains("(base, large)") && told.contains("--include 'base/*'"), "{code}: {told}");
    assert!(fetched(&hub.seen()).is_empty());
    let chosen = folder(&hub.pull(temporary.path()).args(["--include", "base/*"]).output().unwrap());
    assert!(chosen.join("base/config.json").is_file());
}
