//! `vtagd embed` and `vtagd labels` as a person runs them, with the text tower in its child process.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use vtagd::label::cache::EmbeddingCache;
use vtagd::label::embed_child::{ChildTower, SUBCOMMAND};
use vtagd::label::embedder::{EmbedError, Embedder};
use vtagd::model::{self, Bundle};

const LABELS: &str = "set: yard\nbackground: [\"an empty yard\"]\nlabels:\n  - name: cat\n    prompts: [\"a cat\"]\n";

fn vtagd(cache: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vtagd"));
    command.env("VTAGD_CACHE", cache).env_remove("VTAGD_MODEL");
    command
}

fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// A copy of the starter model that a test may damage.
fn copy_of_starter(to: &Path) {
    let from = model::resolve(Path::new(model::STARTER)).expect("run `make setup` first: it builds models/starter");
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::write(to.join(entry.file_name()), fs::read(entry.path()).unwrap()).unwrap();
    }
}

fn values(json: &Value) -> Vec<f64> {
    json["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn pictures_and_texts_come_out_as_one_json_object_of_unit_vectors() {
    let cache = tempfile::tempdir().unwrap();
    let picture = "tests/data/preprocess/chelsea.png";
    let arguments = ["embed", "--json", "--image", picture, "--text", "a photo of a cat", "--text", "smoke"];
    let (code, out, err) = run(vtagd(cache.path()).args(arguments));
    assert_eq!(code, 0, "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["model"]["name"], "starter");
    assert_eq!(json["images"][0]["file"], picture);
    assert_eq!(json["texts"][1]["text"], "smoke");
    let (image, cat, smoke) = (values(&json["images"][0]), values(&json["texts"][0]), values(&json["texts"][1]));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for embedding in [&image, &cat, &smoke] {
        assert!((dot(embedding, embedding) - 1.0).abs() < 1e-5);
    }
    assert!(dot(&image, &cat) > dot(&image, &smoke) + 0.1, "a cat is a cat");
}

#[test]
fn a_second_start_with_the_same_labels_does_not_load_the_text_tower() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, bundle, labels) = (dir.path().join("cache"), dir.path().join("model"), dir.path().join("yard.yaml"));
    copy_of_starter(&bundle);
    fs::write(&labels, LABELS).unwrap();
    let mut embed = vtagd(&cache);
    embed.args(["labels", "embed"]).arg(&labels).arg("-m").arg(&bundle);
    let (code, out, err) = run(&mut embed);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("2 texts embedded"), "{out}");

    // Spoil the tower inside, keeping size and time, so that the model looks the same as long as nobody loads it.
    let tower = bundle.join("text_model.onnx");
    let modified = fs::metadata(&tower).unwrap().modified().unwrap();
    let mut bytes = fs::read(&tower).unwrap();
    bytes[100..10_000].fill(0xff);
    fs::write(&tower, bytes).unwrap();
    fs::File::options().write(true).open(&tower).unwrap().set_modified(modified).unwrap();

    let (code, out, err) = run(&mut embed);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("0 texts embedded") && out.contains("2 were in the cache"), "{out}");

    fs::remove_dir_all(cache.join("text-embeddings")).unwrap();
    let (code, _, err) = run(&mut embed);
    assert_eq!(code, 2, "without the cache the spoilt tower must be loaded, and fail");
    assert!(err.contains("text_model.onnx"), "{err}");
}

#[test]
fn an_export_with_its_towers_under_onnx_gives_the_same_embeddings() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("export");
    copy_of_starter(&bundle);
    fs::create_dir(bundle.join("onnx")).unwrap();
    fs::rename(bundle.join("vision_model.onnx"), bundle.join("onnx/vision_model.onnx")).unwrap();
    fs::rename(bundle.join("text_model.onnx"), bundle.join("onnx/text_model_quantized.onnx")).unwrap();
    let arguments = ["embed", "--json", "--image", "tests/data/preprocess/rocket.jpg", "--text", "a rocket"];
    let plain = run(vtagd(dir.path()).args(arguments));
    let export = run(vtagd(dir.path()).args(arguments).env("VTAGD_MODEL", &bundle));
    assert_eq!((plain.0, export.0), (0, 0), "{} {}", plain.2, export.2);
    let (plain, export): (Value, Value) =
        (serde_json::from_str(&plain.1).unwrap(), serde_json::from_str(&export.1).unwrap());
    assert_eq!(export["model"]["name"], "export");
    assert_eq!((&plain["images"], &plain["texts"]), (&export["images"], &export["texts"]));
}

#[test]
fn wrong_input_is_told_with_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("model");
    copy_of_starter(&bundle);
    let with_model = |arguments: &[&str]| run(vtagd(dir.path()).args(arguments).arg("-m").arg(&bundle));

    let (code, _, err) = with_model(&["embed", "--image", "Cargo.toml"]);
    assert_eq!(code, 2);
    assert!(err.contains("Cargo.toml: is not a picture"), "{err}");

    let tower = fs::read(bundle.join("vision_model.onnx")).unwrap();
    fs::write(bundle.join("vision_model.onnx"), &tower[..tower.len() / 2]).unwrap();
    let (code, _, err) = with_model(&["embed", "--text", "a"]);
    assert_eq!(code, 2);
    assert!(err.contains("vision_model.onnx") && err.contains("ends in the middle"), "{err}");

    fs::remove_file(bundle.join("vision_model.onnx")).unwrap();
    fs::remove_file(bundle.join("tokenizer.json")).unwrap();
    let (code, _, err) = with_model(&["embed", "--text", "a"]);
    assert_eq!(code, 2);
    assert!(err.contains("vision_model.onnx, tokenizer.json"), "{err}");

    let (code, _, err) = run(vtagd(dir.path()).args(["embed", "--text", "a", "-m", "/no/such/model"]));
    assert_eq!(code, 2);
    assert!(err.contains("/no/such/model"), "{err}");
}

#[test]
fn a_missing_runtime_library_reaches_the_person_through_the_child() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = vtagd(dir.path());
    let (code, _, err) = run(command.args(["embed", "--text", "a"]).env("ORT_DYLIB_PATH", "/no/such/lib.so"));
    assert_eq!(code, 1);
    assert!(err.contains("/no/such/lib.so") && err.contains("make setup"), "{err}");
}

#[test]
fn label_files_are_checked_and_twins_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let (good, twin, bad) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"), dir.path().join("c.yaml"));
    fs::write(&good, LABELS).unwrap();
    fs::write(&twin, LABELS).unwrap();
    fs::write(&bad, "set: x\nlables: []\n").unwrap();
    let (code, out, _) = run(vtagd(dir.path()).args(["labels", "check"]).arg(&good));
    assert_eq!(code, 0);
    assert!(out.contains("a.yaml: ok, set `yard`, 1 label, "), "{out}");
    let (code, out, _) = run(vtagd(dir.path()).args(["labels", "check"]).args([&good, &twin, &bad]));
    assert_eq!(code, 2);
    assert!(out.contains("b.yaml: error: the set is called `yard`") && out.contains("c.yaml:2"), "{out}");
}

#[test]
fn the_child_ends_when_its_parent_is_gone() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vtagd"))
        .arg("__embed-texts")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let dir = model::resolve(Path::new(model::STARTER)).expect("run `make setup` first: it builds models/starter");
    let texts: Vec<String> = (0..100_000).map(|i| format!("text number {i}")).collect();
    let request = serde_json::json!({
        "model": std::path::absolute(dir).unwrap(), "fingerprint": "f", "library": null, "threads": 1, "texts": texts,
    });
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{request}").unwrap();
    // What happens when the parent dies: its end of the pipe closes.
    drop(stdin);
    let deadline = Instant::now() + Duration::from_secs(30);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "the child outlives its parent");
        std::thread::yield_now();
    };
    assert_eq!(status.code(), Some(3));
}

/// A tokenizer that is copied in while the daemon reads its configuration again must not fill the cache under the old model's name.
#[test]
fn a_tokenizer_that_was_swapped_since_the_model_was_opened_fills_no_cache() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    copy_of_starter(&folder);
    let bundle = Bundle::open_with_cache(&folder, None).unwrap();
    let tokenizer = folder.join("tokenizer.json");
    let whole = fs::read(&tokenizer).unwrap();
    let mut cache = EmbeddingCache::new(dir.path(), &bundle.embedding_fingerprint);
    let mut embed = || {
        let mut tower = ChildTower::new(&bundle, None, 1).with_program(env!("CARGO_BIN_EXE_vtagd"), &[SUBCOMMAND]);
        let mut embedder = Embedder { cache: &mut cache, tower: &mut tower, dim: None, progress: &mut |_| {} };
        embedder.texts(&["a cat"]).map(|(_, report)| report.embedded)
    };
    fs::write(&tokenizer, [&whole[..], b"\n"].concat()).unwrap();
    let error = embed().unwrap_err();
    assert!(matches!(error, EmbedError::Changed { .. }), "{error}");
    assert!(error.to_string().contains(folder.to_str().unwrap()), "{error}");
    fs::write(&tokenizer, whole).unwrap();
    assert_eq!(embed().unwrap(), 1, "nothing was kept of the refused ones");
    assert_eq!(embed().unwrap(), 0);
}

#[test]
fn a_text_tower_may_be_removed_once_every_text_is_in_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, bundle, labels) = (dir.path().join("cache"), dir.path().join("model"), dir.path().join("yard.yaml"));
    copy_of_starter(&bundle);
    fs::write(&labels, LABELS).unwrap();
    let tag = || {
        let mut tag = vtagd(&cache);
        tag.args(["tag", "tests/data/preprocess/chelsea.png", "--json", "--labels"])
            .arg(&labels)
            .arg("-m")
            .arg(&bundle);
        run(&mut tag)
    };
    let (code, with, err) = tag();
    assert_eq!(code, 0, "{err}");
    fs::remove_file(bundle.join("text_model.onnx")).unwrap();
    let (code, without, err) = tag();
    assert_eq!((code, &without), (0, &with), "{err}");

    fs::write(&labels, LABELS.replace("[\"a cat\"]", "[\"a cat\", \"a tabby\"]")).unwrap();
    let (code, _, err) = tag();
    assert_eq!(code, 2, "{err}");
    for part in ["text_model.onnx", "\"a tabby\"", "one is not in the cache", bundle.to_str().unwrap()] {
        assert!(err.contains(part), "{part}: {err}");
    }
    assert!(!err.contains("\"a cat\""), "{err}");
}

#[test]
fn a_text_that_is_cut_is_told_at_every_start() {
    let dir = tempfile::tempdir().unwrap();
    let labels = dir.path().join("long.yaml");
    let long = "a very long story about a cat ".repeat(60);
    fs::write(&labels, LABELS.replace("[\"a cat\"]", &format!("[\"{long}\"]"))).unwrap();
    for embedded in [2, 0] {
        let mut embed = vtagd(dir.path());
        let (code, out, err) = run(embed.args(["labels", "embed"]).arg(&labels));
        assert_eq!(code, 0, "{err}");
        assert!(out.contains(&format!("{embedded} texts embedded")), "{out}");
        assert!(out.contains("1 longer than the model reads"), "{out}");
        assert!(err.contains("its end is ignored") && err.contains("a very long story"), "{err}");
    }
}

/// With another scale a score is another one, and an embedding is not.
#[test]
fn another_scale_in_the_configuration_changes_scores_and_fingerprint_and_no_embedding() {
    let dir = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = dir.path().join("vtagd.yaml");
    let start = |model: &str| {
        let text = format!(
            "model: {model}\nstreams: [{{ id: a, url: \"file://{}\", pace: fast }}]\nlabels: [{}]\nsampling: {{ interval: 2s }}\n\
             events: {{ enter: 0.05, exit: 0.01, after: 0s }}\nsinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: off }}\n",
            root.join("demo/clip.mp4").display(),
            root.join("config/labels/demo.yaml").display(),
        );
        fs::write(&config, text).unwrap();
        let (code, out, err) = run(vtagd(&dir.path().join("cache")).args(["run", "-c"]).arg(&config));
        assert_eq!(code, 0, "{err}");
        let first: Value =
            serde_json::from_str(out.lines().next().unwrap_or_else(|| panic!("no event: {err}"))).unwrap();
        let fingerprint = first["data"]["model"]["fingerprint"].as_str().unwrap().to_owned();
        (fingerprint, first["data"]["score"].as_f64().unwrap(), err)
    };
    let (own, score, _) = start("{ path: starter }");
    let (same, _, log) = start("{ path: starter, logit_scale: 20, logit_bias: 0 }");
    assert_eq!(same, own, "what the model says anyway");
    assert!(log.contains("embedded=0"), "{log}");
    let (other, others, log) = start("{ path: starter, logit_scale: 5 }");
    assert!(other != own && (others - score).abs() > 0.01, "{others} {score}");
    assert!(log.contains("embedded=0"), "{log}");
}

#[test]
fn a_long_run_says_how_far_it_is_where_no_bar_can_be_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let labels = dir.path().join("many.yaml");
    // Far more than can be embedded until the first line is due.
    let templates: Vec<String> = (0..200).map(|n| format!("\"{{}} in a picture of kind {n}\"")).collect();
    let names: String = (0..1000).map(|n| format!("  - name: thing {n}\n")).collect();
    fs::write(&labels, format!("set: many\ntemplates: [{}]\nlabels:\n{names}", templates.join(", "))).unwrap();
    let said = fs::File::create(dir.path().join("said")).unwrap();
    let mut command = vtagd(dir.path());
    command.args(["labels", "embed"]).arg(&labels).stdout(Stdio::null()).stderr(said);
    let mut child = Ended(command.spawn().unwrap());
    let line = crate::common::daemon::eventually("it says how far it is", || {
        let said = fs::read_to_string(dir.path().join("said")).unwrap();
        assert_eq!(child.0.try_wait().unwrap(), None, "it has ended without a word: {said}");
        said.lines().find(|line| line.contains("embedding texts")).map(str::to_owned)
    });
    assert!(line.contains("ready=") && line.contains("total=200"), "{line}");
}

/// A process that does not outlive the test, whatever comes of it.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
