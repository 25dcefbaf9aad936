//! `vtagd model export-triton` as a user runs it: the folder that Triton reads, and an image tower that takes bytes and gives what the
//! ordinary one gives.

use std::path::{Path, PathBuf};

use vtagd::infer::runtime;
use vtagd::infer::single_input::{InputValues, SingleInputSession};
use vtagd::model::import::open_checkpoint;
use vtagd::model::onnx::{Precision, file, vision_graph};
use vtagd::preprocess::Spec;

use crate::common::daemon::{root, vtagd};

fn run(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let output = vtagd(folder).args(["model"]).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn imported(folder: &Path, checkpoint: &str, precision: &str) -> PathBuf {
    let out = folder.join(format!("{checkpoint}-{precision}"));
    let source = root().join("tests/conformance/checkpoints").join(checkpoint);
    let (good, told) = run(
        folder,
        &["import", "-p", precision, "--no-measure", "--out", out.to_str().unwrap(), source.to_str().unwrap()],
    );
    assert!(good, "{told}");
    out
}

/// Least cosine of what both towers give for the same pictures.
fn agreement(ordinary: &Path, of_bytes: &Path, spec: &Spec) -> f32 {
    let runtime = runtime::load(None).expect("run `make setup` first: it fetches runtime/libonnxruntime.so");
    let ((height, width), (scale, bias)) = (spec.size(), spec.affine());
    let (height, width, pictures) = (height as usize, width as usize, 3);
    let plane = height * width;
    let byte = |picture: usize, place: usize, channel: usize| {
        ((place * (picture + 3) + place / width * 11 + channel * 57) % 256) as u8
    };
    let bytes: Vec<u8> = (0..pictures * plane * 3).map(|i| byte(i / (plane * 3), i / 3 % plane, i % 3)).collect();
    let float = |i: usize| {
        let channel = i / plane % 3;
        f32::from(byte(i / (plane * 3), i % plane, channel)) * scale[channel] + bias[channel]
    };
    let floats: Vec<f32> = (0..pictures * plane * 3).map(float).collect();
    let mut first = SingleInputSession::from_file(&runtime, ordinary, 1).unwrap();
    let mut second = SingleInputSession::from_file(&runtime, of_bytes, 1).unwrap();
    let ours = first.run(&[pictures, 3, height, width], InputValues::Floats(&floats)).unwrap();
    let theirs = second.run(&[pictures, height, width, 3], InputValues::Bytes(&bytes)).unwrap();
    assert_eq!(ours.len(), theirs.len());
    let rows = ours.chunks(ours.len() / pictures).zip(theirs.chunks(ours.len() / pictures));
    let cosine = |(a, b): (&[f32], &[f32])| {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
    };
    rows.map(cosine).fold(1.0, f32::min)
}

#[test]
fn an_image_tower_that_takes_bytes_gives_what_the_ordinary_one_gives() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("repo");
    let mut models = Vec::new();
    for (checkpoint, precision) in [
        ("hf-clip-quickgelu", "fp32"),
        ("hf-clip-quickgelu", "fp16"),
        ("hf-clip-quickgelu", "int8"),
        ("siglip", "fp32"),
    ] {
        models.push((format!("{checkpoint}-{precision}"), imported(folder.path(), checkpoint, precision)));
    }
    models.push(("starter".to_owned(), root().join("models/starter")));
    for (name, model) in models {
        let out = ["--out", repository.to_str().unwrap(), "--name", &name];
        let (good, told) = run(folder.path(), &[&["export-triton", model.to_str().unwrap()], &out[..]].concat());
        assert!(good, "{told}");
        assert_eq!(told.contains("is for CPUs"), name.ends_with("int8"), "{told}");
        let spec = Spec::from_file(&model.join("preprocessor_config.json")).unwrap();
        let cosine = agreement(&model.join("vision_model.onnx"), &repository.join(&name).join("1/model.onnx"), &spec);
        println!("{name}: {cosine:.7}");
        assert!(cosine >= 0.9999, "{name}: {cosine}");
    }
}

#[test]
fn weights_go_along_from_where_the_graph_says_that_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let model = imported(folder.path(), "hf-clip-quickgelu", "fp32");
    let vision = model.join("vision_model.onnx");
    std::fs::remove_file(&vision).unwrap();
    // Written under another name, and moved.
    let checkpoint = open_checkpoint(&root().join("tests/conformance/checkpoints/hf-clip-quickgelu")).unwrap();
    let graph = vision_graph::graph(&checkpoint.architecture, Precision::Fp32);
    let written = folder.path().join("tower.onnx");
    file::write(&graph, checkpoint.tensors.as_ref(), &written, 1000, &mut |_| Ok(())).unwrap();
    let (before, after) = (b"tower.onnx_data", b"weights/tower_d");
    let mut bytes = std::fs::read(&written).unwrap();
    let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(before)).collect();
    assert!(places.len() > 10, "one for each large tensor");
    places.into_iter().for_each(|at| bytes[at..at + after.len()].copy_from_slice(after));
    std::fs::write(&vision, bytes).unwrap();
    std::fs::create_dir(model.join("weights")).unwrap();
    std::fs::rename(folder.path().join("tower.onnx_data"), model.join("weights/tower_d")).unwrap();

    let repository = folder.path().join("repo");
    let out = ["--out", repository.to_str().unwrap(), "--name", "a"];
    let (good, told) = run(folder.path(), &[&["export-triton", model.to_str().unwrap()], &out[..]].concat());
    assert!(good, "{told}");
    assert!(repository.join("a/1/weights/tower_d").is_file());
    let spec = Spec::from_file(&model.join("preprocessor_config.json")).unwrap();
    let cosine = agreement(&vision, &repository.join("a/1/model.onnx"), &spec);
    assert!(cosine >= 0.9999, "{cosine}");
}

#[test]
fn the_repository_says_what_each_backend_needs() {
    let folder = tempfile::tempdir().unwrap();
    let model = imported(folder.path(), "hf-clip-quickgelu", "fp32");
    let (model, repository) = (model.to_str().unwrap(), folder.path().join("repo"));
    let to = repository.to_str().unwrap();
    let (good, told) = run(folder.path(), &["export-triton", model, "--out", to, "--name", "a", "--max-batch", "32"]);
    assert!(good && told.contains("remote: { url: \"grpc://HOST:8001\", model: a }"), "{told}");
    let text = std::fs::read_to_string(repository.join("a/config.pbtxt")).unwrap();
    let lines: Vec<&str> = text.lines().skip(1).take(7).collect();
    assert_eq!(
        lines[..5],
        [
            "name: \"a\"",
            "backend: \"onnxruntime\"",
            "default_model_filename: \"model.onnx\"",
            "max_batch_size: 32",
            "input [ { name: \"pictures\" data_type: TYPE_UINT8 dims: [ 224, 224, 3 ] } ]",
        ]
    );
    assert!(lines[5].starts_with("output [ { name: \"image_embeds\" data_type: TYPE_FP32 dims: [ "), "{text}");
    assert!(lines[6].starts_with("dynamic_batching {") && text.contains("vtagd_fingerprint"), "{text}");

    let (good, told) = run(folder.path(), &["export-triton", model, "--out", to, "--name", "a"]);
    assert!(!good && told.contains("is there already"), "{told}");
    let (good, told) =
        run(folder.path(), &["export-triton", model, "--out", to, "--name", "b", "--backend", "tensorrt"]);
    assert!(good && told.contains("trtexec --onnx=") && told.contains("--maxShapes=pictures:64x224x224x3"), "{told}");
    let text = std::fs::read_to_string(repository.join("b/config.pbtxt")).unwrap();
    assert!(text.contains("backend: \"tensorrt\"") && text.contains("\"model.plan\""), "{text}");
    let floats = ["--name", "c", "--input", "f32", "--backend", "onnxruntime-tensorrt"];
    let (good, told) = run(folder.path(), &[&["export-triton", model, "--out", to], &floats[..]].concat());
    assert!(good, "{told}");
    let text = std::fs::read_to_string(repository.join("c/config.pbtxt")).unwrap();
    assert!(text.contains("\"pixel_values\" data_type: TYPE_FP32 dims: [ 3, 224, 224 ]"), "{text}");
    assert!(text.contains("gpu_execution_accelerator"), "{text}");
    // One engine for every batch: none is built in the middle of work.
    for (key, value) in [
        ("trt_engine_cache_enable", "true"),
        ("trt_profile_min_shapes", "pixel_values:1x3x224x224"),
        ("trt_profile_opt_shapes", "pixel_values:8x3x224x224"),
        ("trt_profile_max_shapes", "pixel_values:64x3x224x224"),
    ] {
        assert!(text.contains(&format!("  parameters {{ key: \"{key}\" value: \"{value}\" }}\n")), "{key}: {text}");
    }
    // By its own folder, which is the model's: other weights under the same names are another engine.
    let fingerprint = text.split("vtagd_fingerprint\" value: { string_value: \"").nth(1).unwrap();
    let engines = format!("\"trt_engine_cache_path\" value: \"/tmp/vtagd-tensorrt-{}\"", &fingerprint[..16]);
    assert!(text.contains(&engines), "{text}");
    let copied = std::fs::read(repository.join("c/1/model.onnx")).unwrap();
    assert!(copied == std::fs::read(Path::new(model).join("vision_model.onnx")).unwrap(), "as it was");
    assert_eq!(std::fs::read_dir(&repository).unwrap().count(), 3, "nothing half is left");
}
