//! `vtagd doctor` of a box whose model is on a server: whether that is there, and has it.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use vtagd::infer::remote::tile_bytes::PixelScale;
use vtagd::infer::session::OrtImageEncoder;
use vtagd::infer::{InferSettings, runtime};
use vtagd::model::{self, Bundle};
use vtagd::preprocess::Spec;

use super::fake_inference_server::{FakeServer, MODEL, Mode, Seen, Tower};
use crate::common::daemon::{root, vtagd};

fn starter() -> Arc<Tower> {
    let runtime = runtime::load(None).expect("run `make setup` first: it fetches runtime/libonnxruntime.so");
    let folder = model::resolve(Path::new(model::STARTER)).expect("run `make setup` first: it builds models/starter");
    let (scale, bias) = Spec::from_file(&folder.join("preprocessor_config.json")).unwrap().affine();
    let bundle = Bundle::open_with_cache(&folder, None).unwrap();
    let settings = InferSettings { threads: 1, ..InferSettings::default() };
    Arc::new(Tower {
        encoder: Mutex::new(Box::new(OrtImageEncoder::open(&runtime, &bundle, &settings, (224, 224)).unwrap())),
        affine: PixelScale { scale, bias },
        side: 224,
        bytes: true,
        mode: Mutex::new(Mode::Good),
        seen: Seen::default(),
    })
}

/// What is said of the inference server at `url`, of which `model` is wanted: how it stands with it, and what was found.
fn told(url: &str, model: &str) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "model: {{ path: starter }}\nruntime: {{ providers: [ {{ remote: {{ url: \"{url}\", model: {model}, token: {{ env: SERVER_TOKEN }} }} }}, cpu ] }}\n\
         state: {{ path: state }}\napi: {{ listen: off }}\noutbox: {{ path: \":memory:\" }}\nsinks: [{{ type: jsonl, path: \"-\" }}]\n\
         streams: [{{ id: a, url: \"file://{}\" }}]\nlabels: [\"{}\"]\n",
        root().join("demo/clip.mp4").display(),
        root().join("config/labels/demo.yaml").display()
    );
    std::fs::write(folder.path().join("vtagd.yaml"), config).unwrap();
    let mut command = vtagd(folder.path());
    command.current_dir(folder.path()).env("SERVER_TOKEN", "never-told-4711");
    let output = command.args(["doctor", "--json", "-c", "vtagd.yaml"]).output().unwrap();
    assert!(!format!("{output:?}").contains("never-told"), "{output:?}");
    let page: Value = serde_json::from_slice(&output.stdout).unwrap();
    let servers: Vec<&Value> =
        page["results"].as_array().unwrap().iter().filter(|one| one["area"] == "servers").collect();
    let [server] = servers[..] else { panic!("{page:#}") };
    if server["level"] == "fail" {
        assert!(output.status.code() == Some(1) && server["remedy"].as_str().unwrap().contains("export-triton"));
    }
    (server["level"].as_str().unwrap().to_owned(), server["found"].as_str().unwrap().to_owned())
}

#[test]
fn a_box_is_told_whether_its_inference_server_is_up_and_has_the_model() {
    let tower = starter();
    for (scheme, grpc) in [("grpc", true), ("http", false)] {
        let server = FakeServer::start(&tower, grpc, None, None);
        let url = format!("{scheme}://{}", server.address);
        let (level, found) = told(&url, MODEL);
        assert_eq!((level.as_str(), found.starts_with(&url)), ("ok", true), "{found}");
        assert!(found.contains("as u8") && found.contains("32 at once"), "{found}");
        assert_eq!(
            tower.seen.authorization.lock().as_deref(),
            Some("Bearer never-told-4711"),
            "it is asked as a start asks"
        );
        let (level, found) = told(&url, "other");
        assert_eq!((level.as_str(), found.contains(&url)), ("fail", true), "{found}");
        server.kill();
        let (level, found) = told(&url, MODEL);
        assert!(level == "fail" && found.contains(&url) && found.contains("refused"), "{found}");
    }
    assert!(tower.seen.batches.lock().is_empty(), "no picture is sent");
}
