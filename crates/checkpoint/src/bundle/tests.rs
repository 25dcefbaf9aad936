//! Model directories of every layout, whole and damaged.

use std::fs;

use super::*;
use crate::Activation;

/// The smallest thing that looks like a whole ONNX file: an IR version and an empty graph.
const ONNX: &[u8] = &[0x08, 8, 0x3a, 0];

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let file = dir.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
    dir
}

fn open(dir: &tempfile::TempDir) -> Result<Bundle, ModelError> {
    Bundle::open_with_cache(dir.path(), None)
}

#[test]
fn an_export_with_towers_under_onnx_in_several_precisions_uses_the_plain_one() {
    let dir = folder(&[
        ("onnx/vision_model.onnx", ONNX),
        ("onnx/vision_model_quantized.onnx", ONNX),
        ("onnx/text_model_fp16.onnx", ONNX),
        ("onnx/text_model_q4.onnx", ONNX),
        ("tokenizer.json", b"{}"),
        ("preprocessor_config.json", b"{}"),
        ("config.json", br#"{"model_type":"clip","text_config":{"vocab_size":49408}}"#),
    ]);
    let bundle = open(&dir).unwrap();
    assert!(bundle.vision.ends_with("onnx/vision_model.onnx"), "{}", bundle.vision.display());
    assert!(bundle.text.as_ref().unwrap().ends_with("onnx/text_model_fp16.onnx"), "{:?}", bundle.text);
    assert_eq!(bundle.logit_parameters.scale, 100.0);
    assert_eq!((bundle.text_spec.pad_to, bundle.text_spec.vocab_size), (Some(77), Some(49408)));
}

#[test]
fn the_sidecar_chooses_the_variant_and_cannot_point_outside() {
    let files: &[(&str, &[u8])] = &[
        ("vision_model.onnx", ONNX),
        ("vision_model_int8.onnx", ONNX),
        ("text_model.onnx", ONNX),
        ("tokenizer.json", b"{}"),
        ("preprocessor_config.json", b"{}"),
        (
            "vtagd.json",
            br#"{"name":"mine","vision_model":"vision_model_int8.onnx","logit_scale":50,"activation":"sigmoid"}"#,
        ),
    ];
    let dir = folder(files);
    let bundle = open(&dir).unwrap();
    assert!(bundle.vision.ends_with("vision_model_int8.onnx"));
    assert_eq!(
        (bundle.name.as_str(), bundle.logit_parameters.scale, bundle.logit_parameters.activation),
        ("mine", 50.0, Activation::Sigmoid)
    );
    for name in ["../vision_model.onnx", "/etc/passwd", "absent.onnx"] {
        fs::write(dir.path().join("vtagd.json"), format!(r#"{{"vision_model":"{name}"}}"#)).unwrap();
        assert!(matches!(open(&dir), Err(ModelError::Damaged { .. })), "{name} must be refused");
    }
}

#[test]
fn all_missing_parts_are_told_at_once() {
    let dir = folder(&[("text_model.onnx", ONNX)]);
    let message = open(&dir).unwrap_err().to_string();
    for part in ["vision_model.onnx", "tokenizer.json", "preprocessor_config.json"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!message.contains("text_model.onnx"), "{message}");
}

#[test]
fn a_raw_checkpoint_is_refused_with_the_way_out() {
    let dir = folder(&[("config.json", b"{}"), ("model.safetensors", b"x"), ("tokenizer.json", b"{}")]);
    let message = open(&dir).unwrap_err().to_string();
    assert!(message.contains("model.safetensors") && message.contains("vtagd model import"), "{message}");
}

#[test]
fn a_truncated_tower_is_named_without_loading_it() {
    let mut cut = vec![0x08, 8, 0x3a, 100];
    cut.extend([0; 50]);
    let dir = folder(&[
        ("vision_model.onnx", ONNX),
        ("text_model.onnx", &cut),
        ("tokenizer.json", b"{}"),
        ("preprocessor_config.json", b"{}"),
    ]);
    let message = open(&dir).unwrap_err().to_string();
    assert!(message.contains("text_model.onnx") && message.contains("ends in the middle"), "{message}");
}

#[test]
fn an_immich_directory_is_read_as_it_is() {
    let dir = folder(&[
        ("visual/model.onnx", ONNX),
        ("textual/model.onnx", ONNX),
        ("textual/tokenizer.json", b"{}"),
        ("visual/preprocess_cfg.json", b"{}"),
        ("config.json", br#"{"embed_dim":512,"text_cfg":{"context_length":77,"vocab_size":49408}}"#),
    ]);
    let bundle = open(&dir).unwrap();
    assert!(bundle.text.unwrap().ends_with("textual/model.onnx"));
    assert_eq!(bundle.text_spec.pad_to, Some(77));
}

#[test]
fn the_fingerprint_depends_on_contents_and_on_nothing_else() {
    let files: &[(&str, &[u8])] = &[
        ("vision_model.onnx", ONNX),
        ("text_model.onnx", ONNX),
        ("tokenizer.json", b"{}"),
        ("preprocessor_config.json", b"{}"),
    ];
    let (one, two) = (folder(files), folder(files));
    let first = open(&one).unwrap().fingerprint;
    assert_eq!(first, open(&two).unwrap().fingerprint);
    fs::write(two.path().join("tokenizer.json"), b"{ }").unwrap();
    assert_ne!(first, open(&two).unwrap().fingerprint);
    fs::write(one.path().join("vision_model.onnx_data"), b"weights").unwrap();
    assert_ne!(first, open(&one).unwrap().fingerprint);
}

#[test]
fn the_fingerprint_is_of_the_weights_that_the_graph_names_whatever_they_are_called() {
    let graph = onnx_file::tests::model_with_data(&["weights/tower.bin"]);
    let dir = folder(&[
        ("vision_model.onnx", &graph),
        ("text_model.onnx", ONNX),
        ("weights/tower.bin", b"weights"),
        ("tokenizer.json", b"{}"),
        ("preprocessor_config.json", b"{}"),
    ]);
    let first = open(&dir).unwrap().fingerprint;
    fs::write(dir.path().join("weights/tower.bin"), b"others!").unwrap();
    assert_ne!(first, open(&dir).unwrap().fingerprint);
}

#[test]
fn another_scale_changes_what_decides_a_score_and_not_what_decides_an_embedding() {
    let dir = folder(&[
        ("vision_model.onnx", ONNX),
        ("text_model.onnx", ONNX),
        ("tokenizer.json", b"{}"),
        ("preprocessor_config.json", b"{}"),
        ("vtagd.json", br#"{"logit_scale": 20}"#),
    ]);
    let own = open(&dir).unwrap();
    assert_eq!(own.fingerprint, own.embedding_fingerprint);
    let with = |scale, bias| Bundle::open_with(dir.path(), LogitOverride { scale, bias }, None).unwrap();
    let other = with(Some(50.0), None);
    assert_eq!((other.logit_parameters.scale, &other.embedding_fingerprint), (50.0, &own.fingerprint));
    assert_ne!(other.fingerprint, own.fingerprint);
    let both = with(Some(50.0), Some(-3.0));
    assert_eq!((both.logit_parameters.bias, both.embedding_fingerprint == own.fingerprint), (-3.0, true));
    assert_ne!(both.fingerprint, other.fingerprint);
    assert_eq!(with(Some(20.0), None).fingerprint, own.fingerprint, "what the model says anyway is no change");
    // It is the model that says so itself.
    fs::write(dir.path().join("vtagd.json"), br#"{"logit_scale": 50}"#).unwrap();
    assert_eq!(open(&dir).unwrap().fingerprint, other.fingerprint);
}

#[test]
fn a_text_tower_that_was_removed_leaves_the_fingerprint_as_it_was() {
    let dir = folder(&[
        ("vision_model.onnx", ONNX),
        ("text_model.onnx", ONNX),
        ("text_model.onnx_data", b"weights"),
        ("tokenizer.json", b"{}"),
        ("preprocessor_config.json", b"{}"),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let open = || Bundle::open_with_cache(dir.path(), Some(cache.path())).unwrap();
    let whole = open();
    fs::remove_file(dir.path().join("text_model.onnx")).unwrap();
    let without = open();
    assert_eq!((without.text.is_none(), &without.fingerprint), (true, &whole.fingerprint));
    fs::remove_file(dir.path().join("text_model.onnx_data")).unwrap();
    assert_eq!(open().fingerprint, whole.fingerprint);
    fs::write(dir.path().join("tokenizer.json"), b"{ }").unwrap();
    assert_ne!(open().fingerprint, whole.fingerprint, "a tokenizer that it was not removed with");
}
