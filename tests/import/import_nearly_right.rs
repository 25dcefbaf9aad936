//! Checkpoints that are nearly right, as training scripts, editors and `git clone` leave them: read, or called what they are.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::json;
use vtagd::model::Bundle;
use vtagd::model::import::{Checkpoint, Family, open_checkpoint};

use crate::common::daemon::{root, vtagd};
use crate::import_folders::{Tensors, copy, edit_json, read, write};

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:00ff\nsize 12345\n";

fn refusal(dir: &Path) -> String {
    open_checkpoint(dir).expect_err("must be refused").to_string()
}

/// Every tensor of both, compared.
fn same(left: &Checkpoint, right: &Checkpoint) {
    assert_eq!(left.tensors.infos(), right.tensors.infos());
    for info in left.tensors.infos() {
        assert_eq!(left.tensors.read(&info.name).unwrap(), right.tensors.read(&info.name).unwrap(), "{}", info.name);
    }
    assert_eq!(left.architecture, right.architecture);
}

fn weights_of(name: &str) -> &'static str {
    if name.starts_with("openclip") { "open_clip_model.safetensors" } else { "model.safetensors" }
}

fn prefixed(tensors: &Tensors, prefix: &str) -> Tensors {
    tensors.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone())).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn prefixes_of_training_are_taken_off_in_every_layout() {
    for name in ["hf-clip-quickgelu", "siglip", "openclip-vit"] {
        let plain = copy(name);
        let wanted = open_checkpoint(plain.path()).unwrap();
        let tensors = read(&plain.path().join(weights_of(name)));
        for prefix in ["module.", "_orig_mod.", "model.", "clip.", "module._orig_mod.", "model.clip.", "module.module."]
        {
            let dir = copy(name);
            write(&dir.path().join(weights_of(name)), &prefixed(&tensors, prefix));
            same(&open_checkpoint(dir.path()).unwrap_or_else(|e| panic!("{name} under {prefix}: {e}")), &wanted);
        }
        // The scale lies beside the model that was wrapped.
        let dir = copy(name);
        let mut mixed = prefixed(&tensors, "clip.");
        let scale = mixed.remove("clip.logit_scale").unwrap();
        mixed.insert("logit_scale".into(), scale);
        write(&dir.path().join(weights_of(name)), &mixed);
        same(&open_checkpoint(dir.path()).unwrap(), &wanted);
    }
}

#[test]
fn two_models_under_two_prefixes_are_refused_with_both_names() {
    for name in ["hf-clip-quickgelu", "openclip-vit"] {
        let dir = copy(name);
        let file = dir.path().join(weights_of(name));
        let tensors = read(&file);
        let mut both = prefixed(&tensors, "model.");
        both.extend(prefixed(&tensors, "module."));
        write(&file, &both);
        let message = refusal(dir.path());
        assert!(message.contains("`model.`") && message.contains("`module.`"), "{message}");
        let mut twice = prefixed(&tensors, "model.");
        twice.insert("logit_scale".into(), tensors["logit_scale"].clone());
        write(&file, &twice);
        let message = refusal(dir.path());
        assert!(message.contains("`logit_scale`") && message.contains("`model.logit_scale`"), "{message}");
    }
}

#[test]
fn weights_of_another_name_are_found_where_they_are_the_only_ones() {
    for (name, usual, family) in [
        ("hf-clip-quickgelu", "model.safetensors", Family::HuggingFaceClip),
        ("openclip-vit", "open_clip_model.safetensors", Family::OpenClip),
    ] {
        let wanted = open_checkpoint(copy(name).path()).unwrap();
        for other in ["my_model.safetensors", "clip-finetuned.safetensors", "model.fp16.safetensors"] {
            let dir = copy(name);
            fs::rename(dir.path().join(usual), dir.path().join(other)).unwrap();
            fs::write(dir.path().join("training_args.bin"), "not weights").unwrap();
            fs::write(dir.path().join("optimizer.pt"), "not weights").unwrap();
            let found = open_checkpoint(dir.path()).unwrap_or_else(|e| panic!("{other}: {e}"));
            assert_eq!(found.family, family);
            same(&found, &wanted);
            let message = Bundle::open_with_cache(dir.path(), None).unwrap_err().to_string();
            assert!(message.contains(other) && message.contains("vtagd model import"), "{message}");
        }
    }
    for other in ["model-epoch3.bin", "checkpoint.pt", "last.ckpt", "weights.pth", "model_best.pth.tar"] {
        let dir = copy("hf-clip-pickle");
        fs::rename(dir.path().join("pytorch_model.bin"), dir.path().join(other)).unwrap();
        same(&open_checkpoint(dir.path()).unwrap(), &open_checkpoint(copy("hf-clip-pickle").path()).unwrap());
    }
    // A folder with both configurations, and weights that only their tensors tell apart.
    let dir = copy("hf-clip-quickgelu");
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let open_clip = copy("openclip-vit");
    fs::copy(open_clip.path().join("open_clip_config.json"), dir.path().join("open_clip_config.json")).unwrap();
    fs::copy(open_clip.path().join("open_clip_model.safetensors"), dir.path().join("mine.safetensors")).unwrap();
    fs::copy(open_clip.path().join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    assert_eq!(open_checkpoint(dir.path()).unwrap().family, Family::OpenClip);
}

#[test]
fn what_lies_there_in_the_place_of_weights_is_named() {
    for (other, told) in [
        ("tf_model.h5", "`tf_model.h5` is TensorFlow's"),
        ("flax_model.msgpack", "is Flax's"),
        ("adapter_model.safetensors", "is an adapter"),
        ("model.safetensors.part", "a download that has not ended"),
        ("model-00001-of-00002.safetensors", "one of several parts"),
        ("weights.zip", "a single file of another name"),
    ] {
        let dir = copy("hf-clip-quickgelu");
        fs::rename(dir.path().join("model.safetensors"), dir.path().join(other)).unwrap();
        let message = refusal(dir.path());
        assert!(message.contains("holds no weights") && message.contains(told), "{other}: {message}");
    }
}

#[test]
fn tensors_under_a_prefix_of_somebody_elses_are_named_by_it() {
    for (name, prefix) in [("hf-clip-quickgelu", "student."), ("siglip", "module.ema."), ("openclip-vit", "student.")] {
        let dir = copy(name);
        let file = dir.path().join(weights_of(name));
        write(&file, &prefixed(&read(&file), prefix));
        let message = refusal(dir.path());
        assert!(message.contains(&format!("under the prefix `{prefix}`")), "{name}: {message}");
    }
    let dir = copy("hf-clip-quickgelu");
    let file = dir.path().join("model.safetensors");
    let other = read(&file).into_iter().enumerate().map(|(n, (_, tensor))| (format!("layer.{n:03}"), tensor)).collect();
    write(&file, &other);
    let message = refusal(dir.path());
    assert!(message.contains("such as `layer.000`") && message.contains("another model"), "{message}");
}

#[test]
fn several_files_of_other_names_are_listed_and_one_can_be_chosen() {
    let dir = copy("hf-clip-quickgelu");
    let (one, two) = (dir.path().join("epoch1.safetensors"), dir.path().join("epoch2.safetensors"));
    fs::rename(dir.path().join("model.safetensors"), &one).unwrap();
    fs::copy(&one, &two).unwrap();
    let message = refusal(dir.path());
    for part in ["epoch1.safetensors", "epoch2.safetensors", "vtagd model import"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    same(&open_checkpoint(&two).unwrap(), &open_checkpoint(copy("hf-clip-quickgelu").path()).unwrap());

    // The same by the program, which also says it where the folder is used as a model.
    let temporary = tempfile::tempdir().unwrap();
    let mut command = vtagd(temporary.path());
    let output = command.args(["embed", "--json", "--text", "a cat", "-m"]).arg(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("epoch1.safetensors, epoch2.safetensors"), "{}", said(&output));
    let out = temporary.path().join("out");
    let mut command = vtagd(temporary.path());
    let output = command.args(["model", "import", "--no-measure"]).arg(&two).arg("--out").arg(&out).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(Bundle::open_with_cache(&out, None).is_ok());
}

#[test]
fn a_git_lfs_pointer_is_called_one_whichever_file_of_a_checkpoint_it_is() {
    for (name, files) in [
        (
            "hf-clip-quickgelu",
            &[
                "model.safetensors",
                "config.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "preprocessor_config.json",
            ][..],
        ),
        ("hf-clip-pickle", &["pytorch_model.bin", "vocab.json", "merges.txt"]),
        ("hf-clip-fp16-sharded", &["model.safetensors.index.json", "model-00002-of-00006.safetensors"]),
        ("openclip-vit", &["open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"]),
    ] {
        for file in files {
            let dir = copy(name);
            fs::write(dir.path().join(file), POINTER).unwrap();
            let message = refusal(dir.path());
            assert!(message.contains(file) && message.contains("git lfs pull"), "{name} {file}: {message}");
        }
    }
}

#[test]
fn a_git_lfs_pointer_is_called_one_whichever_file_of_a_bundle_it_is() {
    let temporary = tempfile::tempdir().unwrap();
    let starter = root().join("models/starter");
    let names: Vec<String> =
        fs::read_dir(&starter).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let wanted = ["vision_model.onnx", "text_model.onnx", "tokenizer.json", "preprocessor_config.json", "config.json"];
    for bad in wanted.into_iter().chain([
        "vtagd.json",
        "tokenizer_config.json",
        "vision_model.onnx_data",
        "text_model.onnx.data",
    ]) {
        let dir = temporary.path().join(bad.replace('.', "-"));
        fs::create_dir(&dir).unwrap();
        for name in names.iter().filter(|name| *name != bad && starter.join(name).is_file()) {
            std::os::unix::fs::symlink(starter.join(name).canonicalize().unwrap(), dir.join(name)).unwrap();
        }
        fs::write(dir.join(bad), POINTER).unwrap();
        let message = Bundle::open_with_cache(&dir, None).expect_err(bad).to_string();
        assert!(message.contains(bad) && message.contains("git lfs pull"), "{bad}: {message}");
    }
}

#[test]
fn a_scale_that_is_nowhere_is_the_usual_one_with_a_warning_and_the_way_out() {
    for (name, scale) in [("hf-clip-quickgelu", 100.0), ("openclip-vit", 100.0), ("siglip", 117.33)] {
        let dir = copy(name);
        let file = dir.path().join(weights_of(name));
        let mut tensors = read(&file);
        tensors.remove("logit_scale").unwrap();
        write(&file, &tensors);
        assert_eq!(open_checkpoint(dir.path()).unwrap().architecture.logit_scale, scale, "{name}");

        let temporary = tempfile::tempdir().unwrap();
        let mut command = vtagd(temporary.path());
        let output = command
            .args(["model", "import", "--no-measure"])
            .arg(dir.path())
            .arg("--out")
            .arg(temporary.path().join("out"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        for part in ["does not hold the trained logit scale", "`logit_scale`", "vtagd.json"] {
            assert!(said(&output).contains(part), "{part}: {}", said(&output));
        }
        fs::write(dir.path().join("vtagd.json"), r#"{"logit_scale": 33.5}"#).unwrap();
        assert_eq!(open_checkpoint(dir.path()).unwrap().architecture.logit_scale, 33.5, "{name}");
    }
    // A sigmoid without its bias means nothing, and there is no usual one.
    let dir = copy("siglip");
    let file = dir.path().join("model.safetensors");
    let mut tensors = read(&file);
    tensors.remove("logit_bias").unwrap();
    write(&file, &tensors);
    let said = refusal(dir.path());
    assert!(said.contains("`logit_bias` is missing") && said.contains("vtagd.json"), "{said}");
    fs::write(dir.path().join("vtagd.json"), r#"{"logit_bias": -7.5}"#).unwrap();
    assert_eq!(open_checkpoint(dir.path()).unwrap().architecture.logit_bias, -7.5);
}

#[test]
fn byte_order_marks_and_numbers_that_are_none_are_read_where_nobody_needs_them() {
    let wanted = open_checkpoint(copy("hf-clip-quickgelu").path()).unwrap();
    for file in ["config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json"] {
        let dir = copy("hf-clip-quickgelu");
        let path = dir.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("\u{feff}{text}")).unwrap();
        same(&open_checkpoint(dir.path()).unwrap_or_else(|e| panic!("{file}: {e}")), &wanted);
        if file == "tokenizer.json" {
            continue;
        }
        for word in ["NaN", "Infinity", "-Infinity"] {
            let rest = text.trim_start().strip_prefix('{').unwrap();
            fs::write(&path, format!("\u{feff}{{\"initializer_factor\": {word}, {rest}")).unwrap();
            same(&open_checkpoint(dir.path()).unwrap_or_else(|e| panic!("{file}: {e}")), &wanted);
        }
    }
    // In an imported bundle too, whose files people edit.
    let temporary = tempfile::tempdir().unwrap();
    let out = temporary.path().join("out");
    let mut command = vtagd(temporary.path());
    let source = copy("hf-clip-quickgelu");
    let output =
        command.args(["model", "import", "--no-measure"]).arg(source.path()).arg("--out").arg(&out).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    for file in ["config.json", "preprocessor_config.json", "vtagd.json", "tokenizer.json"] {
        let text = fs::read_to_string(out.join(file)).unwrap();
        fs::write(out.join(file), format!("\u{feff}{text}")).unwrap();
    }
    fs::write(out.join("tokenizer_config.json"), r#"{"model_max_length": Infinity}"#).unwrap();
    let mut command = vtagd(temporary.path());
    let output = command.args(["embed", "--json", "--text", "a cat", "-m"]).arg(&out).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_number_that_is_none_is_named_with_its_line_where_it_is_needed() {
    for (file, field) in [("config.json", "layer_norm_eps"), ("preprocessor_config.json", "image_mean")] {
        let dir = copy("hf-clip-quickgelu");
        let path = dir.path().join(file);
        edit_json(&path, |json| match file {
            "config.json" => json["vision_config"]["layer_norm_eps"] = json!("here"),
            _ => json["image_mean"] = json!(["here", 0.5, 0.5]),
        });
        let text = fs::read_to_string(&path).unwrap().replace("\"here\"", "\n\nNaN");
        fs::write(&path, text).unwrap();
        let message = refusal(dir.path());
        for part in [file, field, "NaN", "line 3", "write one there"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
    let dir = copy("hf-clip-quickgelu");
    fs::write(dir.path().join("vtagd.json"), "{\n\"logit_scale\": Infinity}").unwrap();
    let message = Bundle::open_with_cache(dir.path(), None).unwrap_err().to_string();
    assert!(message.contains("vtagd.json") && message.contains("line 2"), "{message}");
}
