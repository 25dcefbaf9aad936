//! Repositories as they are published, and what is taken of each.

use proptest::prelude::*;

use super::*;
use crate::hub::listing::Entry;

fn listing(names: &[&str]) -> Listing {
    let files = names.iter().map(|name| ((*name).to_owned(), Entry::default())).collect();
    Listing { commit: "0".repeat(40), files }
}

/// The choice for a repository whose `config.json` is served or not.
fn chosen(names: &[&str], served: bool) -> Vec<String> {
    choose(&listing(names), None, &mut || Ok(served)).unwrap().files.into_iter().collect()
}

#[test]
fn of_a_clip_with_every_framework_the_safetensors_are_taken() {
    let files = chosen(
        &[
            "README.md",
            "config.json",
            "flax_model.msgpack",
            "merges.txt",
            "model.safetensors",
            "preprocessor_config.json",
            "pytorch_model.bin",
            "special_tokens_map.json",
            "tf_model.h5",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.json",
            "onnx/vision_model.onnx",
            "onnx/text_model.onnx",
        ],
        true,
    );
    assert_eq!(
        files,
        [
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
}

#[test]
fn older_folders_give_their_pickle_and_the_parts_of_their_tokenizer() {
    let files =
        chosen(&["config.json", "pytorch_model.bin", "vocab.json", "merges.txt", "preprocessor_config.json"], true);
    assert_eq!(files, ["config.json", "merges.txt", "preprocessor_config.json", "pytorch_model.bin", "vocab.json"]);
}

#[test]
fn a_folder_with_both_layouts_is_taken_as_hugging_faces_unless_only_openclip_has_safetensors() {
    let both =
        ["config.json", "open_clip_config.json", "open_clip_model.safetensors", "pytorch_model.bin", "tokenizer.json"];
    assert_eq!(chosen(&both, true), ["open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"]);
    let mut all = both.to_vec();
    all.push("model.safetensors");
    assert_eq!(chosen(&all, true), ["config.json", "model.safetensors", "tokenizer.json"]);
}

#[test]
fn where_there_are_two_files_about_preprocessing_both_are_taken_as_the_reader_wants_the_newer_one() {
    let names = ["config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json"];
    assert_eq!(chosen(&names, true), names);
}

#[test]
fn weights_of_another_name_are_taken_where_they_are_the_only_ones_with_what_their_reader_wants() {
    let half = ["config.json", "model.fp16.safetensors", "preprocessor_config.json", "tokenizer.json"];
    let mut all = half.to_vec();
    all.extend(["README.md", "optimizer.pt", "sub/other.safetensors", "vae/x.ckpt"]);
    assert_eq!(chosen(&all, true), half);
    let epoch = ["epoch_32.pt", "merges.txt", "open_clip_config.json", "vocab.json"];
    assert_eq!(chosen(&epoch, false), epoch);
    // Its tensors tell whose they are, to the reader.
    let both = ["config.json", "mine.safetensors", "open_clip_config.json"];
    assert_eq!(
        (chosen(&both, true), chosen(&both, false)),
        (both.map(String::from).to_vec(), both[1..].iter().map(ToString::to_string).collect())
    );

    let index = listing(&["config.json", "model.fp16-00001-of-00002.safetensors", "model.fp16.safetensors.index.json"]);
    let choice = choose(&index, None, &mut || Ok(true)).unwrap();
    assert_eq!(choice.index.as_deref(), Some("model.fp16.safetensors.index.json"));
}

#[test]
fn of_several_weights_of_other_names_none_is_taken_and_all_are_told() {
    let several = ["epoch_31.pt", "epoch_32.pt", "open_clip_config.json"];
    let error = choose(&listing(&several), None, &mut || Ok(true)).unwrap_err().to_string();
    assert!(error.contains("epoch_31.pt, epoch_32.pt") && error.contains("--include 'epoch_31.pt'"), "{error}");
    assert!(choose(&listing(&several[..2]), None, &mut || Ok(true)).is_err(), "without a configuration");
    // A usual name counts, and an export, as before.
    let usual = ["config.json", "model.safetensors", "epoch_32.pt", "epoch_31.pt"];
    assert_eq!(chosen(&usual, true), ["config.json", "model.safetensors"]);
}

#[test]
fn a_folder_of_timms_is_taken_as_openclips() {
    let names =
        ["config.json", "model.safetensors", "open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"];
    assert_eq!(chosen(&names, false), ["open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"]);
}

#[test]
fn an_index_stands_for_its_shards() {
    let names = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ];
    let choice = choose(&listing(&names), None, &mut || Ok(true)).unwrap();
    assert_eq!(choice.index.as_deref(), Some("model.safetensors.index.json"));
    let index =
        br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    let shards = shards("model.safetensors.index.json", index, &listing(&names)).unwrap();
    assert_eq!(shards.into_iter().collect::<Vec<_>>(), names[1..3]);
}

#[test]
fn an_index_may_only_name_files_of_the_repository_beside_it() {
    let listing = listing(&["model.safetensors.index.json", "sub/part.safetensors"]);
    for index in [
        r#"{"weight_map": {"a": "../../etc/passwd"}}"#,
        r#"{"weight_map": {"a": "sub/part.safetensors"}}"#,
        r#"{"weight_map": {"a": "absent.safetensors"}}"#,
        r#"{"weight_map": {}}"#,
        r#"{"weight_map": {"a": 7}}"#,
        "[]",
        "<html>",
    ] {
        assert!(shards("model.safetensors.index.json", index.as_bytes(), &listing).is_err(), "{index}");
    }
}

#[test]
fn an_export_gives_one_form_of_each_tower_with_its_data() {
    let names = [
        "config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "onnx/model.onnx",
        "onnx/text_model.onnx",
        "onnx/text_model_fp16.onnx",
        "onnx/vision_model.onnx",
        "onnx/vision_model.onnx_data",
        "onnx/vision_model_quantized.onnx",
    ];
    assert_eq!(
        chosen(&names, true),
        [
            "config.json",
            "onnx/text_model.onnx",
            "onnx/vision_model.onnx",
            "onnx/vision_model.onnx_data",
            "preprocessor_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
    );
}

#[test]
fn immichs_layout_is_taken_with_what_lies_in_its_folders() {
    let names = [
        "config.json",
        "textual/model.onnx",
        "textual/rknpu/rk3588/model.rknn",
        "textual/tokenizer.json",
        "textual/tokenizer_config.json",
        "textual/vocab.json",
        "visual/model.onnx",
        "visual/preprocess_cfg.json",
    ];
    assert_eq!(
        chosen(&names, true),
        [
            "config.json",
            "textual/model.onnx",
            "textual/tokenizer.json",
            "textual/tokenizer_config.json",
            "visual/model.onnx",
            "visual/preprocess_cfg.json",
        ]
    );
}

#[test]
fn our_own_bundle_is_known_by_its_manifest_which_may_name_its_towers() {
    let names =
        ["config.json", "model.safetensors", "vision_model.onnx", "vision_int8.onnx", "text_model.onnx", "vtagd.json"];
    let sidecar = serde_json::json!({"vision_model": "vision_int8.onnx", "text_model": "/etc/passwd"});
    let choice = choose(&listing(&names), Some(&sidecar), &mut || Ok(true)).unwrap();
    assert_eq!(
        choice.files.into_iter().collect::<Vec<_>>(),
        ["config.json", "text_model.onnx", "vision_int8.onnx", "vtagd.json"]
    );
}

#[test]
fn a_repository_without_a_model_is_told_with_what_it_holds() {
    let error = choose(&listing(&["README.md", "model.gguf"]), None, &mut || Ok(true)).unwrap_err();
    assert!(error.to_string().contains("model.gguf"), "{error}");
    let unserved = ["config.json", "model.safetensors"];
    assert!(choose(&listing(&unserved), None, &mut || Ok(false)).is_err());
}

#[test]
fn a_checkpoint_that_lies_in_one_folder_is_found_there_and_of_several_none_is_taken() {
    let names =
        |folder: &str| ["config.json", "merges.txt", "pytorch_model.bin"].map(|name| format!("{folder}/{name}"));
    let mut all = vec!["README.md".to_owned(), "modules.json".into(), "1_Pooling/config.json".into()];
    all.extend(names("0_CLIPModel"));
    let of = |all: &[String]| listing(&all.iter().map(String::as_str).collect::<Vec<_>>());
    let whole = of(&all);
    assert!(matches!(choose(&whole, None, &mut || Ok(true)), Err(HubError::Unusable { .. })), "not at the top");
    let folder = model_folder(&whole).unwrap().unwrap();
    let choice = choose(&whole.below(&folder), None, &mut || Ok(true)).unwrap().below(&folder);
    assert_eq!(choice.files.into_iter().collect::<Vec<_>>(), names("0_CLIPModel"));
    assert_eq!(choice.what, "the Hugging Face checkpoint pytorch_model.bin in 0_CLIPModel");
    assert_eq!(choice.folder.as_deref(), Some("0_CLIPModel"));

    all.extend(["deep/er/open_clip_config.json", "deep/er/open_clip_model.safetensors"].map(str::to_owned));
    let error = model_folder(&of(&all)).unwrap_err().to_string();
    assert!(error.contains("(0_CLIPModel, deep/er)") && error.contains("--include '0_CLIPModel/*'"), "{error}");
    assert!(error.contains("DIR/0_CLIPModel"), "{error}");
    assert_eq!(model_folder(&listing(&["a/config.json", "b/model.safetensors"])).unwrap(), None);
}

#[test]
fn patterns_take_the_place_of_the_choice() {
    let listing =
        listing(&["config.json", "onnx/text_model_q4.onnx", "onnx/vision_model_q4.onnx", "onnx/vision_model.onnx"]);
    let choice = matching(&listing, &["*.json".into(), "onnx/*_q4.onnx".into()]).unwrap();
    assert_eq!(
        choice.files.into_iter().collect::<Vec<_>>(),
        ["config.json", "onnx/text_model_q4.onnx", "onnx/vision_model_q4.onnx"]
    );
    assert!(matching(&listing, &["*.bin".into()]).is_err());
}

#[test]
fn patterns_match_as_expected() {
    for (pattern, name) in
        [("*", "a/b"), ("a?c", "abc"), ("*.json", "x/y.json"), ("a*b*c", "a--b-b-c"), ("", ""), ("**", "")]
    {
        assert!(glob(pattern, name), "{pattern} {name}");
    }
    for (pattern, name) in [("a", "b"), ("*.json", "a.jso"), ("?", ""), ("a*b", "ac"), ("", "a")] {
        assert!(!glob(pattern, name), "{pattern} {name}");
    }
}

proptest! {
    #[test]
    fn a_name_matches_itself_and_any_part_of_it_made_a_star(name in "[a-z/.]{1,20}", cut in 0usize..20) {
        prop_assert!(glob(&name, &name));
        let cut = cut.min(name.len());
        let pattern = format!("{}*", &name[..cut]);
        prop_assert!(glob(&pattern, &name));
    }
}
