//! Checkpoints that are cut, hostile, incomplete or of another kind: a clear error, never a panic.

use std::fs;
use std::path::Path;

use crate::import_folders::{checkpoint, copy, edit_json, read, write};
use proptest::prelude::*;
use serde_json::json;
use vtagd_checkpoint::import::{ImportError, fuzz_import, open_checkpoint};

fn refusal(dir: &Path) -> ImportError {
    open_checkpoint(dir).expect_err("must be refused")
}

fn problems(dir: &Path) -> Vec<String> {
    match refusal(dir) {
        ImportError::Mismatch { problems, .. } => problems,
        other => panic!("{other}"),
    }
}

#[test]
fn missing_extra_and_misshapen_tensors_are_all_listed_with_their_shapes() {
    let dir = copy("hf-clip-quickgelu");
    let file = dir.path().join("model.safetensors");
    let mut tensors = read(&file);
    tensors.remove("visual_projection.weight");
    tensors.insert("text_model.lora.weight".into(), ("F32".into(), vec![2, 1], vec![0; 8]));
    tensors.get_mut("text_projection.weight").unwrap().1 = vec![24, 96];
    write(&file, &tensors);
    let problems = problems(dir.path());
    for wanted in [
        "`visual_projection.weight` [48, 64] is missing",
        "`text_projection.weight` has the shape [24, 96], the configuration says [48, 48]",
        "`text_model.lora.weight` [2, 1] is not part of this model",
    ] {
        assert!(problems.iter().any(|p| p == wanted), "{wanted}: {problems:?}");
    }
    assert_eq!(problems.len(), 3, "{problems:?}");
}

#[test]
fn a_config_that_disagrees_with_the_tensors_is_refused() {
    type Edit = fn(&mut serde_json::Value);
    let edits: [(Edit, &str); 5] = [
        (
            |c| c["vision_config"]["num_hidden_layers"] = json!(2),
            "encoder.layers.2.mlp.fc1.weight` [128, 64] is not part",
        ),
        (
            |c| c["vision_config"]["num_hidden_layers"] = json!(4),
            "encoder.layers.3.mlp.fc1.weight` [128, 64] is missing",
        ),
        (
            |c| c["vision_config"]["patch_size"] = json!(28),
            "has the shape [64, 3, 32, 32], the configuration says [64, 3, 28, 28]",
        ),
        (
            |c| c["text_config"]["vocab_size"] = json!(1001),
            "has the shape [1000, 48], the configuration says [1001, 48]",
        ),
        (|c| c["projection_dim"] = json!(32), "`text_projection.weight` has the shape [48, 48]"),
    ];
    for (edit, wanted) in edits {
        let dir = copy("hf-clip-quickgelu");
        edit_json(&dir.path().join("config.json"), edit);
        let problems = problems(dir.path()).join("\n");
        assert!(problems.contains(wanted), "{wanted}: {problems}");
    }
    let dir = copy("hf-clip-quickgelu");
    edit_json(&dir.path().join("preprocessor_config.json"), |json| json["crop_size"] = json!(256));
    assert!(problems(dir.path())[0].contains("256×256"));
    let dir = copy("openclip-vit");
    edit_json(&dir.path().join("open_clip_config.json"), |json| {
        json["model_cfg"]["vision_cfg"]["mlp_ratio"] = json!(2)
    });
    assert_eq!(problems(dir.path()).len(), 9, "weight and bias of one, weight of the other, in three layers");
}

#[test]
fn every_kind_of_folder_that_is_no_checkpoint_is_named() {
    let empty = tempfile::tempdir().unwrap();
    assert!(refusal(empty.path()).to_string().contains("no checkpoint folder"));
    assert!(matches!(refusal(&empty.path().join("gone")), ImportError::Io { .. }));
    assert!(refusal(Path::new("Cargo.toml")).to_string().contains("give the folder around it"));

    let dir = copy("hf-clip-quickgelu");
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(refusal(dir.path()).to_string().contains("holds no weights: one of model.safetensors"));

    let dir = copy("hf-clip-quickgelu");
    let file = dir.path().join("model.safetensors");
    let text = read(&file).into_iter().filter(|(name, _)| name.starts_with("text_")).collect();
    write(&file, &text);
    let error = refusal(dir.path());
    assert!(matches!(error, ImportError::Unsupported { .. }) && error.to_string().contains("text-only"), "{error}");

    let dir = copy("openclip-vit");
    let file = dir.path().join("open_clip_model.safetensors");
    let mut tensors = read(&file);
    tensors.insert("visual.layer1.0.conv1.weight".into(), ("F32".into(), vec![1], vec![0; 4]));
    write(&file, &tensors);
    assert!(refusal(dir.path()).to_string().contains("ResNet"));

    let dir = copy("openclip-vit");
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let message = refusal(dir.path()).to_string();
    assert!(message.contains("tokenizer.json") && message.contains("openai/clip-vit-base-patch32"), "{message}");
}

#[test]
fn a_pickle_that_runs_code_is_refused_by_the_name_of_what_it_runs() {
    let dir = copy("hf-clip-pickle");
    let marker = dir.path().join("ran");
    let evil = format!("cos\nsystem\n(X{}touch {}tR.", "\u{6}\0\0\0", marker.display());
    fs::write(dir.path().join("pytorch_model.bin"), evil).unwrap();
    let error = refusal(dir.path());
    assert!(matches!(&error, ImportError::Refused { class, .. } if class == "os.system"), "{error}");
    assert!(error.to_string().contains("pytorch_model.bin") && !marker.exists());
}

#[test]
fn an_index_may_not_point_outside_its_folder() {
    for (map, wanted) in [
        (json!({"a": "../model.safetensors"}), "no file beside it"),
        (json!({"a": "/etc/passwd"}), "no file beside it"),
        (json!({"a": ""}), "no file beside it"),
        (json!({"a": 7}), "no file beside it"),
        (json!({"a": "gone.safetensors"}), "gone.safetensors: cannot be read"),
        (json!({}), "names no shard"),
        (json!([]), "weight_map"),
    ] {
        let dir = copy("hf-clip-fp16-sharded");
        let index = dir.path().join("model.safetensors.index.json");
        fs::write(index, json!({ "weight_map": map }).to_string()).unwrap();
        let message = refusal(dir.path()).to_string();
        assert!(message.contains(wanted), "{map}: {message}");
    }
    let dir = copy("hf-clip-fp16-sharded");
    let shards = ["model-00001-of-00006.safetensors", "model-00002-of-00006.safetensors"].map(|n| dir.path().join(n));
    fs::copy(&shards[0], &shards[1]).unwrap();
    assert!(refusal(dir.path()).to_string().contains("holds too"));
}

#[test]
fn every_cut_of_the_weights_is_refused() {
    for (name, file) in [
        ("hf-clip-quickgelu", "model.safetensors"),
        ("hf-clip-pickle", "pytorch_model.bin"),
        ("openclip-vit-pickle", "open_clip_pytorch_model.bin"),
    ] {
        let dir = copy(name);
        let file = dir.path().join(file);
        let whole = fs::read(&file).unwrap();
        for part in [0, 1, 7, 8, 9, 100, whole.len() / 3, whole.len() - 100, whole.len() - 1] {
            fs::write(&file, &whole[..part]).unwrap();
            let error = refusal(dir.path());
            assert!(matches!(error, ImportError::Damaged { .. }), "{name} {part}: {error}");
        }
    }
}

#[test]
fn a_file_that_is_cut_while_it_is_read_gives_an_error() {
    let dir = copy("hf-clip-quickgelu");
    let checkpoint = open_checkpoint(dir.path()).unwrap();
    let file = fs::OpenOptions::new().write(true).open(dir.path().join("model.safetensors")).unwrap();
    file.set_len(1000).unwrap();
    assert!(matches!(checkpoint.tensors.read("vision.patch.weight"), Err(ImportError::Io { .. })));
}

/// Real files, to be damaged a little: what a fuzzer would start from.
fn seeds() -> Vec<Vec<u8>> {
    let files =
        ["openclip-vit-pickle/open_clip_pytorch_model.bin", "hf-clip-fp16-sharded/model-00002-of-00006.safetensors"];
    files.iter().map(|file| fs::read(checkpoint(file)).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_weights_never_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20), tail: bool) {
        for mut data in seeds() {
            let (len, window) = (data.len(), 8192);
            for (place, value) in &changes {
                // Where the structure is: the head, or the zip directory at the end.
                let at = place.index(window.min(len));
                let at = if tail { len - 1 - at } else { at };
                data[at] = *value;
            }
            fuzz_import::fuzz_pickle(&data);
            fuzz_import::fuzz_safetensors(&data);
        }
    }

    #[test]
    fn any_bytes_as_weights_or_configuration_never_panic(data in proptest::collection::vec(any::<u8>(), 0..600)) {
        fuzz_import::fuzz_pickle(&data);
        fuzz_import::fuzz_safetensors(&data);
        fuzz_import::fuzz_config(&data);
        let mut framed = (data.len() as u64).to_le_bytes().to_vec();
        framed.extend(&data);
        fuzz_import::fuzz_safetensors(&framed);
    }

    #[test]
    fn any_value_in_a_configuration_never_panics(
        field in proptest::sample::select(vec!["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
            "image_size", "patch_size", "layer_norm_eps", "hidden_act", "vocab_size", "eos_token_id", "layers", "width", "heads",
            "head_width", "mlp_ratio", "context_length", "pool_type", "act_kwargs", "norm_kwargs", "num_channels"]),
        value in proptest::sample::select(vec!["0", "1", "-1", "2", "7", "4096", "18446744073709551615", "1e308", "0.5", "null", "true",
            "\"x\"", "[]", "[1,1]", "[0,0]", "{}", "{\"eps\":1e-300}"]),
    ) {
        for text in [
            format!(r#"{{"model_type":"clip","vision_config":{{"{field}":{value}}},"text_config":{{"{field}":{value}}}}}"#),
            format!(r#"{{"model_type":"siglip","vision_config":{{"{field}":{value}}},"text_config":{{"{field}":{value}}}}}"#),
            format!(r#"{{"vision_cfg":{{"{field}":{value}}},"text_cfg":{{"{field}":{value}}}}}"#),
        ] {
            fuzz_import::fuzz_config(text.as_bytes());
        }
    }
}
