//! Layouts beyond the conformance set, made from it: CustomText state dicts, bfloat16, folders with two layouts.

use std::fs;
use std::path::Path;

use crate::import_folders::{Tensors, copy, edit_json, read, write};
use vtagd_checkpoint::Activation;
use vtagd_checkpoint::import::{Act, Dtype, Family, open_checkpoint};
use vtagd_checkpoint::spec::{Resize, ResizeFilter, Spec};

/// What the plain checkpoint gives, to compare with.
fn same_tensors(left: &Path, right: &Path) {
    let (left, right) = (open_checkpoint(left).unwrap(), open_checkpoint(right).unwrap());
    assert_eq!(left.tensors.infos(), right.tensors.infos());
    for info in left.tensors.infos() {
        assert_eq!(left.tensors.read(&info.name).unwrap(), right.tensors.read(&info.name).unwrap(), "{}", info.name);
    }
}

fn renamed(tensors: Tensors, name: impl Fn(&str) -> String) -> Tensors {
    tensors.into_iter().map(|(key, tensor)| (name(&key), tensor)).collect()
}

#[test]
fn a_custom_text_state_dict_is_the_plain_one_under_other_names() {
    let plain = copy("openclip-vit");
    let custom = copy("openclip-vit");
    let file = custom.path().join("open_clip_model.safetensors");
    let tensors = renamed(read(&file), |name| {
        let other = name.starts_with("visual.") || name.starts_with("logit_");
        if other { name.to_owned() } else { format!("text.{name}") }
    });
    write(&file, &tensors);
    same_tensors(plain.path(), custom.path());

    // Saved while training on several GPUs.
    write(&file, &renamed(tensors, |name| format!("module.{name}")));
    same_tensors(plain.path(), custom.path());
}

#[test]
fn a_text_projection_that_is_a_linear_layer_brings_its_bias() {
    let dir = copy("openclip-vit");
    let file = dir.path().join("open_clip_model.safetensors");
    let mut tensors = read(&file);
    let before = open_checkpoint(dir.path()).unwrap().tensors.read("text.projection.weight").unwrap();
    // `[out, in]` where it was `[in, out]`: the same numbers mean the transpose.
    let bare = tensors.remove("text_projection").unwrap();
    tensors.insert("text_projection.weight".into(), bare);
    tensors.insert("text_projection.bias".into(), ("F32".into(), vec![48], vec![0; 48 * 4]));
    write(&file, &tensors);
    let checkpoint = open_checkpoint(dir.path()).unwrap();
    assert!(checkpoint.architecture.text.projection_bias);
    let after = checkpoint.tensors.read("text.projection.weight").unwrap();
    assert!((0..48 * 48).all(|n| after[n] == before[n % 48 * 48 + n / 48]));
}

#[test]
fn a_bias_of_the_logits_means_a_sigmoid() {
    let dir = copy("openclip-vit");
    let file = dir.path().join("open_clip_model.safetensors");
    let mut tensors = read(&file);
    tensors.insert("logit_bias".into(), ("F32".into(), vec![], (-10.0_f32).to_le_bytes().to_vec()));
    write(&file, &tensors);
    let model = open_checkpoint(dir.path()).unwrap().architecture;
    assert_eq!((model.logit_bias, model.activation), (-10.0, Activation::Sigmoid));
}

#[test]
fn bfloat16_weights_and_harmless_leftovers_are_taken() {
    let dir = copy("hf-clip-quickgelu");
    let file = dir.path().join("model.safetensors");
    let mut tensors = read(&file);
    for (dtype, _, bytes) in tensors.values_mut() {
        *dtype = "BF16".into();
        // The upper half of a float is its bfloat16, cut.
        *bytes = bytes.chunks(4).flat_map(|b| [b[2], b[3]]).collect();
    }
    let ids: Vec<u8> = (0..77_i64).flat_map(i64::to_le_bytes).collect();
    tensors.insert("text_model.embeddings.position_ids".into(), ("I64".into(), vec![1, 77], ids));
    tensors.insert("text_model.attn_mask".into(), ("BOOL".into(), vec![2], vec![0, 1]));
    write(&file, &tensors);
    let checkpoint = open_checkpoint(dir.path()).unwrap();
    assert!(checkpoint.tensors.infos().iter().all(|info| info.dtype == Dtype::Bf16));
    let full = open_checkpoint(copy("hf-clip-quickgelu").path()).unwrap();
    for name in ["vision.patch.weight", "text.layers.2.mlp.fc1.bias"] {
        let (ours, theirs) = (checkpoint.tensors.read(name).unwrap(), full.tensors.read(name).unwrap());
        assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() <= b.abs() / 128.0), "{name}");
    }
}

#[test]
fn a_folder_with_both_layouts_is_read_by_hugging_faces() {
    let dir = copy("hf-clip-gelu-h14");
    let other = copy("openclip-vit");
    for name in ["open_clip_config.json", "open_clip_model.safetensors"] {
        fs::copy(other.path().join(name), dir.path().join(name)).unwrap();
    }
    assert_eq!(open_checkpoint(dir.path()).unwrap().family, Family::HuggingFaceClip);
    // timm's config.json is of another kind; its own weights lie beside OpenCLIP's.
    fs::write(dir.path().join("config.json"), r#"{"architecture": "vit_base_patch32_clip_224"}"#).unwrap();
    assert_eq!(open_checkpoint(dir.path()).unwrap().family, Family::OpenClip);
    fs::remove_file(dir.path().join("open_clip_model.safetensors")).unwrap();
    assert!(open_checkpoint(dir.path()).unwrap_err().to_string().contains("model_type"));
}

/// OpenCLIP writes `quick_gelu` into the configuration of such a model, and reads nothing else.
#[test]
fn a_folders_name_does_not_choose_the_activation() {
    let dir = copy("openclip-vit");
    let named = dir.path().join("ViT-B-32-quickgelu");
    fs::create_dir(&named).unwrap();
    for entry in fs::read_dir(dir.path()).unwrap().map(Result::unwrap).filter(|e| e.path().is_file()) {
        fs::copy(entry.path(), named.join(entry.file_name())).unwrap();
    }
    assert_eq!(open_checkpoint(&named).unwrap().architecture.vision.body.act, Act::Gelu);
    edit_json(&named.join("open_clip_config.json"), |json| json["model_cfg"]["quick_gelu"] = true.into());
    assert_eq!(open_checkpoint(&named).unwrap().architecture.vision.body.act, Act::QuickGelu);
}

#[test]
fn openclips_ways_to_resize_are_kept() {
    let dir = copy("openclip-vit");
    edit_json(&dir.path().join("open_clip_config.json"), |json| {
        json["preprocess_cfg"] = serde_json::json!({"resize_mode": "squash", "interpolation": "bilinear", "size": 999});
    });
    let value = open_checkpoint(dir.path()).unwrap().preprocessor;
    let spec = Spec::from_json(&value.to_string()).unwrap();
    assert_eq!((spec.resize(), spec.filter()), (Resize::Exact(224, 224), ResizeFilter::Bilinear));
}

#[test]
fn a_newer_processor_file_counts_before_the_older_where_it_speaks_of_pictures() {
    let dir = copy("siglip");
    let old = dir.path().join("preprocessor_config.json");
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&old).unwrap()).unwrap();
    fs::remove_file(&old).unwrap();
    assert!(open_checkpoint(dir.path()).unwrap_err().to_string().contains("preprocessor_config.json: is missing"));
    let newer = serde_json::json!({ "image_processor": json, "processor_class": "SiglipProcessor" });
    fs::write(dir.path().join("processor_config.json"), newer.to_string()).unwrap();
    assert_eq!(open_checkpoint(dir.path()).unwrap().preprocessor, json);
    // As Transformers 5 does; earlier versions wrote only the class there.
    let mut other = json.clone();
    other["resample"] = 2.into();
    fs::write(&old, other.to_string()).unwrap();
    assert_eq!(open_checkpoint(dir.path()).unwrap().preprocessor, json);
    fs::write(dir.path().join("processor_config.json"), r#"{"processor_class": "SiglipProcessor"}"#).unwrap();
    assert_eq!(open_checkpoint(dir.path()).unwrap().preprocessor, other);
}

#[test]
fn an_openclip_tokenizer_with_a_mode_of_its_own_is_refused() {
    let dir = copy("openclip-vit");
    let file = dir.path().join("open_clip_config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    json["model_cfg"]["text_cfg"]["tokenizer_mode"] = "clips".into();
    fs::write(&file, json.to_string()).unwrap();
    assert!(open_checkpoint(dir.path()).unwrap_err().to_string().contains("tokenizer_mode"));
}
