//! Preprocessor files as models ship them, and as they should not be.

use super::*;

fn hf(text: &str) -> Spec {
    Spec::from_json(text).unwrap()
}

fn refusal(text: &str) -> String {
    Spec::from_json(text).unwrap_err().to_string()
}

fn openclip(text: &str) -> Result<Spec, SpecError> {
    Spec::from_openclip(&serde_json::from_str(text).unwrap(), None)
}

#[test]
fn an_empty_object_means_clip() {
    let spec = hf("{}");
    assert_eq!((spec.size(), spec.resize(), spec.filter()), ((224, 224), Resize::Shortest(224), ResizeFilter::Bicubic));
    assert_eq!(spec.place_len(), 3 * 224 * 224);
    let (scale, bias) = spec.affine();
    assert!((scale[0] - 1.0 / 255.0 / 0.268_629_54).abs() < 1e-7);
    assert!((bias[2] + 0.408_210_7 / 0.275_777_1).abs() < 1e-6);
    assert_eq!(spec.bars(), [0.0; 3]);
    assert_eq!(spec.fill(), bias);
}

#[test]
fn a_size_can_be_a_number_a_shortest_edge_or_a_height_and_width() {
    assert_eq!(hf(r#"{"size": 256, "crop_size": 240}"#).resize(), Resize::Shortest(256));
    assert_eq!(hf(r#"{"size": 256, "crop_size": 240}"#).size(), (240, 240));
    assert_eq!(
        hf(r#"{"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 320}}"#).size(),
        (336, 320)
    );
    let squash = hf(r#"{"size": {"height": 200, "width": 100}, "do_center_crop": false}"#);
    assert_eq!((squash.resize(), squash.size()), (Resize::Exact(200, 100), (200, 100)));
}

#[test]
fn what_newer_transformers_write_is_read() {
    let square = hf(r#"{"size": 224, "default_to_square": true}"#);
    assert_eq!(square.resize(), Resize::Exact(224, 224));
    assert_eq!(hf(r#"{"size": 224, "default_to_square": false}"#).resize(), Resize::Shortest(224));
    assert_eq!(hf(r#"{"resample": 4}"#).filter(), ResizeFilter::Box);
    assert_eq!(hf(r#"{"resample": 5}"#).filter(), ResizeFilter::Hamming);
    let siglip = hf(r#"{"image_processor_type": "SiglipImageProcessorPil"}"#);
    assert_eq!(siglip, hf(r#"{"image_processor_type": "SiglipImageProcessorFast"}"#));
    // Everything has the size already.
    assert_eq!(hf(r#"{"do_pad": true, "pad_size": {"height": 224, "width": 224}}"#), hf("{}"));
}

#[test]
fn siglip_squashes_by_default_and_takes_a_bare_number_for_a_square() {
    for name in ["SiglipImageProcessor", "SiglipImageProcessorFast"] {
        let spec = hf(&format!(r#"{{"image_processor_type": "{name}", "size": 384}}"#));
        assert_eq!((spec.resize(), spec.size()), (Resize::Exact(384, 384), (384, 384)));
        assert!((spec.affine().0[1] - 2.0 / 255.0).abs() < 1e-8);
    }
}

#[test]
fn the_older_name_of_the_processor_counts_too() {
    let spec = hf(r#"{"feature_extractor_type": "ViTFeatureExtractor"}"#);
    assert_eq!((spec.filter(), spec.resize()), (ResizeFilter::Bilinear, Resize::Exact(224, 224)));
}

#[test]
fn a_processor_that_is_not_known_must_say_its_numbers() {
    assert!(refusal(r#"{"image_processor_type": "FooImageProcessor"}"#).contains("`size`"));
    let text = r#"{"image_processor_type": "FooImageProcessor", "size": 64, "image_std": [1, 1, 1]}"#;
    assert!(refusal(text).contains("`image_mean`"));
    let spec =
        hf(r#"{"image_processor_type": "FooImageProcessor", "size": 64, "image_mean": 0, "image_std": [1, 1, 1]}"#);
    assert_eq!(spec.resize(), Resize::Exact(64, 64));
    assert!(
        refusal(r#"{"image_processor_type": "Siglip2ImageProcessor", "max_num_patches": 256}"#).contains("patches")
    );
}

#[test]
fn what_is_not_rescaled_or_normalised_stays_as_it_is() {
    let raw = hf(r#"{"do_rescale": false, "do_normalize": false}"#);
    assert_eq!(raw.affine(), ([1.0; 3], [0.0; 3]));
    let rescaled = hf(r#"{"do_normalize": false, "rescale_factor": 0.5, "image_mean": 0.25}"#);
    assert_eq!(rescaled.affine(), ([0.5; 3], [0.0; 3]));
    assert_eq!(rescaled.bars(), [0.25; 3]);
}

#[test]
fn null_is_the_same_as_left_out() {
    assert_eq!(hf(r#"{"size": null, "resample": null, "do_convert_rgb": null, "do_resize": null}"#), hf("{}"));
}

#[test]
fn impossible_values_are_refused_by_the_name_of_their_field() {
    for (text, field) in [
        (r#"{"size": 0}"#, "`size`"),
        (r#"{"size": -3}"#, "`size`"),
        (r#"{"size": 1e30}"#, "`size`"),
        (r#"{"size": 100000}"#, "`size`"),
        (r#"{"size": "224"}"#, "`size`"),
        (r#"{"size": [1, 2, 3]}"#, "`size`"),
        (r#"{"size": {"shortest_edge": 9000}}"#, "`size.shortest_edge`"),
        (r#"{"size": {"shortest_edge": 224, "longest_edge": 400}}"#, "`size.longest_edge`"),
        (r#"{"size": {"height": 224}}"#, "`size.width`"),
        (r#"{"crop_size": {"height": 224, "width": 4097}}"#, "`crop_size.width`"),
        (r#"{"do_center_crop": false}"#, "`size`"),
        (r#"{"do_center_crop": false, "do_resize": false}"#, "`size`"),
        (r#"{"do_center_crop": "yes"}"#, "`do_center_crop`"),
        (r#"{"resample": 6}"#, "`resample`"),
        (r#"{"do_pad": true, "pad_size": 300}"#, "`pad_size`"),
        (r#"{"default_to_square": 1, "size": 224}"#, "`default_to_square`"),
        (r#"{"rescale_factor": 0}"#, "`rescale_factor`"),
        (r#"{"image_mean": [0.5]}"#, "`image_mean`"),
        (r#"{"image_std": [0.5, 0.5, 0]}"#, "`image_std`"),
        (r#"{"image_std": [0.5, 0.5, 1e300]}"#, "`image_std`"),
        (r#"{"image_mean": ["a", 0, 0]}"#, "`image_mean`"),
    ] {
        assert!(refusal(text).contains(field), "{text}: {}", refusal(text));
    }
    for text in ["", "[]", "7", "{", "null", "\"224\""] {
        assert!(refusal(text).contains("not a JSON object"), "{text}: {}", refusal(text));
    }
}

#[test]
fn a_message_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("preprocessor_config.json");
    let missing = Spec::from_file(&path).unwrap_err();
    assert!(matches!(missing, SpecError::Read { .. }) && missing.to_string().contains("preprocessor_config.json"));
    std::fs::write(&path, r#"{"resample": "x"}"#).unwrap();
    let message = Spec::from_file(&path).unwrap_err().to_string();
    assert!(message.contains(path.to_str().unwrap()) && message.contains("`resample`"), "{message}");
    std::fs::write(&path, vec![b' '; 2 << 20]).unwrap();
    assert!(Spec::from_file(&path).unwrap_err().to_string().contains("too many"));
    std::fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    assert!(matches!(Spec::from_file(&path), Err(SpecError::Read { .. })));
}

#[test]
fn openclip_knows_three_ways_to_resize() {
    let spec = |mode: &str| openclip(&format!(r#"{{"size": [224, 224], "resize_mode": "{mode}"}}"#)).unwrap().resize();
    assert_eq!(spec("shortest"), Resize::Shortest(224));
    assert_eq!(spec("longest"), Resize::Inside(224, 224));
    assert_eq!(spec("squash"), Resize::Exact(224, 224));
    assert_eq!(openclip(r#"{"size": [224, 160]}"#).unwrap().resize(), Resize::Cover(224, 160));
    assert!(openclip(r#"{"size": 224, "resize_mode": "stretch"}"#).unwrap_err().to_string().contains("`resize_mode`"));
}

#[test]
fn openclip_takes_the_size_from_the_model_when_it_has_none() {
    let config = serde_json::json!({"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear"});
    let spec = Spec::from_openclip(&config, Some(&serde_json::json!(256))).unwrap();
    assert_eq!(
        (spec.size(), spec.filter(), spec.crop_rounding()),
        ((256, 256), ResizeFilter::Bilinear, CropRounding::HalfEven)
    );
    assert!(Spec::from_openclip(&config, None).unwrap_err().to_string().contains("`size`"));
    assert!(
        Spec::from_openclip(&config, Some(&serde_json::json!({}))).unwrap_err().to_string().contains("`image_size`")
    );
}

#[test]
fn immichs_file_is_read_with_its_own_fields() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("preprocess_cfg.json");
    let text = r#"{"size": [224, 224], "mode": "RGB", "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711], "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0}"#;
    std::fs::write(&path, text).unwrap();
    let spec = Spec::from_openclip_file(&path).unwrap();
    assert_eq!(spec.affine(), hf("{}").affine());
    std::fs::write(&path, r#"{"size": 224, "mode": "L"}"#).unwrap();
    assert!(Spec::from_openclip_file(&path).unwrap_err().to_string().contains("preprocess_cfg.json: field `mode`"));
}

#[test]
fn a_file_with_openclips_object_in_it_is_read_as_openclips() {
    let text = r#"{"preprocess_cfg": {"size": [224, 224], "resize_mode": "squash", "interpolation": "bilinear"}}"#;
    let spec = hf(text);
    assert_eq!((spec.resize(), spec.filter()), (Resize::Exact(224, 224), ResizeFilter::Bilinear));
    assert_eq!(spec.crop_rounding(), CropRounding::HalfEven);
    assert!(refusal(r#"{"preprocess_cfg": 3}"#).contains("not a JSON object"));
}
