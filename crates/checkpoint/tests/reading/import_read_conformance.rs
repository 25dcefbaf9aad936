//! Every conformance checkpoint is read: its architecture, its tensors and its preprocessing.

use std::collections::BTreeMap;
use std::fs;

use crate::import_folders::{checkpoint, repository};
use serde::Deserialize;
use vtagd_checkpoint::Activation;
use vtagd_checkpoint::import::{
    Act, Architecture, Checkpoint, Dtype, Family, LayerKind, Projection, Rotary, TextPooling, TextTower, Transformer,
    VisionPooling, VisionTower, canonical, open_checkpoint,
};
use vtagd_checkpoint::spec::{CropRounding, Resize, Spec};

const NAMES: [&str; 10] = [
    "hf-chinese-clip",
    "hf-clip-fp16-sharded",
    "hf-clip-gelu-h14",
    "hf-clip-pickle",
    "hf-clip-quickgelu",
    "openclip-timm-eva02",
    "openclip-timm-siglip",
    "openclip-vit",
    "openclip-vit-pickle",
    "siglip",
];

fn open(name: &str) -> Checkpoint {
    open_checkpoint(&checkpoint(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn body(width: usize, layers: usize, mlp: usize, eps: f32, act: Act) -> Transformer {
    Transformer { width, layers, heads: 4, mlp, eps, act, kind: LayerKind::PLAIN }
}

/// A CLIP of a few small layers, whose image tower is `vision` wide and whose text tower is `text` wide.
fn small(vision: usize, text: usize, image_size: usize) -> Architecture {
    let mut model = clip(4, Act::Gelu, 40, TextPooling::ArgmaxId);
    model.vision.body = Transformer { heads: 12, ..body(vision, 2, 4 * vision, 1e-6, Act::GeluTanh) };
    model.vision.image_size = image_size;
    model.text.body = Transformer { heads: 2, ..body(text, 1, 4 * text, 1e-5, Act::Gelu) };
    (model.vision.pre_norm, model.vision.patch_bias) = (false, true);
    model
}

/// BERT's text tower beside CLIP's image tower.
fn chinese() -> Architecture {
    let mut model = small(24, 24, 32);
    model.vision.body = Transformer { heads: 3, ..body(24, 2, 48, 1e-5, Act::QuickGelu) };
    (model.vision.pre_norm, model.vision.patch_bias, model.vision.patch) = (true, false, 8);
    let kind = LayerKind { post_norm: true, ..LayerKind::PLAIN };
    model.text.body = Transformer { heads: 2, kind, ..body(24, 2, 64, 1e-12, Act::Gelu) };
    (model.text.vocab, model.text.context) = (74, 52);
    (model.text.causal, model.text.padding, model.text.pooling) = (false, Some(0), TextPooling::First);
    model
}

/// timm's EVA-02 as OpenCLIP has it.
fn eva02() -> Architecture {
    let mut model = small(48, 16, 16);
    let rotary = Some(Rotary { reference: 16, offset: 0.0, column_first: false });
    let kind = LayerKind { gated: true, inner_norms: true, key_bias: false, rotary, ..LayerKind::PLAIN };
    model.vision.body = Transformer { heads: 12, kind, ..body(48, 1, 62, 1e-6, Act::Gelu) };
    model.vision.projection = Projection::Linear { bias: true };
    model
}

/// timm's SigLIP as OpenCLIP has it.
fn timm_siglip() -> Architecture {
    let mut model = small(24, 16, 32);
    (model.vision.patch, model.vision.class_token, model.embed_dim) = (8, false, 24);
    (model.vision.pooling, model.vision.projection) =
        (VisionPooling::AttentionHead { heads: 12, mlp: 96 }, Projection::None);
    (model.text.vocab, model.text.context, model.text.body.eps) = (120, 64, 1e-6);
    (model.text.causal, model.text.pooling, model.text.projection_bias) = (false, TextPooling::Last, true);
    (model.logit_bias, model.activation) = (-3.0, Activation::Sigmoid);
    model
}

/// A CLIP whose towers have three layers, as most of the set.
fn clip(patch: usize, act: Act, embed_dim: usize, pooling: TextPooling) -> Architecture {
    Architecture {
        vision: VisionTower {
            body: body(64, 3, 128, 1e-5, act),
            image_size: 224,
            patch,
            class_token: true,
            pre_norm: true,
            patch_bias: false,
            pooling: VisionPooling::ClassToken,
            projection: Projection::Linear { bias: false },
        },
        text: TextTower {
            body: body(48, 3, 96, 1e-5, act),
            vocab: 1000,
            context: 77,
            causal: true,
            padding: None,
            pooling,
            projection_bias: false,
        },
        embed_dim,
        logit_scale: 14.284_271,
        logit_bias: 0.0,
        activation: Activation::Softmax,
    }
}

fn openclip() -> Architecture {
    let mut model = clip(32, Act::Gelu, 48, TextPooling::ArgmaxId);
    (model.vision.body.mlp, model.text.body.mlp) = (256, 192);
    model
}

fn expected(name: &str) -> (Family, Architecture) {
    let end = TextPooling::FirstId(999);
    match name {
        "hf-clip-fp16-sharded" => (Family::HuggingFaceClip, clip(32, Act::Gelu, 48, end)),
        "hf-clip-gelu-h14" => (Family::HuggingFaceClip, clip(14, Act::Gelu, 64, end)),
        "hf-clip-pickle" => (Family::HuggingFaceClip, clip(16, Act::Gelu, 48, end)),
        "hf-clip-quickgelu" => (Family::HuggingFaceClip, clip(32, Act::QuickGelu, 48, TextPooling::ArgmaxId)),
        "hf-chinese-clip" => (Family::HuggingFaceChineseClip, chinese()),
        "openclip-timm-eva02" => (Family::OpenClip, eva02()),
        "openclip-timm-siglip" => (Family::OpenClip, timm_siglip()),
        "openclip-vit" => (Family::OpenClip, openclip()),
        "openclip-vit-pickle" => {
            let mut model = openclip();
            model.vision.patch = 14;
            model.vision.body = Transformer { heads: 2, ..body(64, 2, 192, 1e-5, Act::QuickGelu) };
            model.text.body = body(48, 2, 192, 1e-5, Act::QuickGelu);
            (Family::OpenClip, model)
        }
        "siglip" => {
            let model = Architecture {
                vision: VisionTower {
                    body: body(64, 3, 128, 1e-6, Act::GeluTanh),
                    image_size: 224,
                    patch: 16,
                    class_token: false,
                    pre_norm: false,
                    patch_bias: true,
                    pooling: VisionPooling::AttentionHead { heads: 4, mlp: 128 },
                    projection: Projection::None,
                },
                text: TextTower {
                    body: body(64, 3, 96, 1e-6, Act::GeluTanh),
                    vocab: 192,
                    context: 64,
                    causal: false,
                    padding: None,
                    pooling: TextPooling::Last,
                    projection_bias: true,
                },
                embed_dim: 64,
                logit_scale: 7.389_056,
                logit_bias: -3.0,
                activation: Activation::Sigmoid,
            };
            (Family::HuggingFaceSiglip, model)
        }
        other => panic!("{other}"),
    }
}

#[derive(Deserialize)]
struct Scores {
    activation: Activation,
    logit_scale: f32,
    logit_bias: f32,
}

fn scores(name: &str) -> Scores {
    serde_json::from_slice(&fs::read(checkpoint(name).join("expected.json")).unwrap()).unwrap()
}

#[test]
fn the_architecture_of_every_checkpoint_is_what_its_config_says() {
    for name in NAMES {
        let (family, mut expected) = expected(name);
        let checkpoint = open(name);
        let mut found = checkpoint.architecture.clone();
        // The scale is an exponential, so its last digit is the library's; the reference was told it in full.
        let scores = scores(name);
        assert!((found.logit_scale / scores.logit_scale - 1.0).abs() < 1e-6, "{name}: {}", found.logit_scale);
        (found.logit_scale, expected.logit_scale) = (0.0, 0.0);
        assert_eq!((found.logit_bias, found.activation), (scores.logit_bias, scores.activation), "{name}");
        assert_eq!((checkpoint.family, found), (family, expected), "{name}");
    }
}

#[test]
fn every_tensor_that_the_graphs_ask_for_is_there_in_its_shape() {
    for name in NAMES {
        let checkpoint = open(name);
        let infos = checkpoint.tensors.infos();
        let found: Vec<_> = infos.iter().map(|info| (info.name.clone(), info.shape.clone())).collect();
        assert_eq!(found, canonical::tensors(&checkpoint.architecture), "{name}");
        for info in &infos {
            let values = checkpoint.tensors.read(&info.name).unwrap();
            assert_eq!(values.len(), info.shape.iter().product::<usize>(), "{name} {}", info.name);
            assert!(values.iter().all(|v| v.is_finite()), "{name} {}", info.name);
        }
        let half = name == "hf-clip-fp16-sharded";
        let dtype = if half { Dtype::F16 } else { Dtype::F32 };
        assert!(infos.iter().all(|info| info.dtype == dtype), "{name}");
        assert!(checkpoint.tensors.read("text.none").unwrap_err().to_string().contains("`text.none`"));
    }
}

#[test]
fn the_values_of_the_tensors_are_those_that_python_reads() {
    #[derive(Deserialize)]
    struct Golden {
        shape: Vec<usize>,
        sum: f64,
        placed: f64,
    }
    let text = fs::read(repository().join("tests/conformance/checkpoints.json")).unwrap();
    let goldens: BTreeMap<String, BTreeMap<String, Golden>> = serde_json::from_slice(&text).unwrap();
    assert_eq!(goldens.keys().collect::<Vec<_>>(), NAMES.iter().collect::<Vec<_>>());
    for (name, tensors) in goldens {
        let checkpoint = open(&name);
        let shapes: BTreeMap<_, _> = checkpoint.tensors.infos().into_iter().map(|i| (i.name, i.shape)).collect();
        assert!(tensors.len() > 10);
        for (tensor, golden) in tensors {
            assert_eq!(shapes[&tensor], golden.shape, "{name} {tensor}");
            let values = checkpoint.tensors.read(&tensor).unwrap();
            let sum: f64 = values.iter().map(|v| f64::from(*v)).sum();
            let placed: f64 = values.iter().zip(1..).map(|(v, place)| f64::from(*v) * f64::from(place)).sum();
            let size: f64 = values.iter().map(|v| f64::from(v.abs())).sum();
            assert!((sum - golden.sum).abs() <= 1e-9 * size, "{name} {tensor}: {sum} {}", golden.sum);
            assert!((placed - golden.placed).abs() <= 1e-9 * size * values.len() as f64, "{name} {tensor}");
        }
    }
}

#[test]
fn the_preprocessing_of_every_checkpoint_is_read_with_its_own_rounding() {
    for name in NAMES {
        let checkpoint = open(name);
        let spec = Spec::from_json(&checkpoint.preprocessor.to_string()).unwrap();
        let side = checkpoint.architecture.vision.image_size as u32;
        let (rounding, resize) = match checkpoint.family {
            Family::OpenClip if name.contains("timm") => (CropRounding::HalfEven, Resize::Exact(side, side)),
            Family::OpenClip => (CropRounding::HalfEven, Resize::Shortest(224)),
            Family::HuggingFaceClip => (CropRounding::Floor, Resize::Shortest(224)),
            Family::HuggingFaceSiglip | Family::HuggingFaceChineseClip => {
                (CropRounding::Floor, Resize::Exact(side, side))
            }
        };
        assert_eq!((spec.crop_rounding(), spec.resize(), spec.size()), (rounding, resize, (side, side)), "{name}");
    }
}

#[test]
fn every_file_that_was_read_is_named() {
    let names = |name: &str| -> Vec<String> {
        let files = open(name).files;
        assert!(files.iter().all(|file| file.is_file()));
        files.iter().map(|f| f.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(
        names("hf-clip-pickle"),
        [
            "config.json",
            "pytorch_model.bin",
            "preprocessor_config.json",
            "tokenizer_config.json",
            "vocab.json",
            "merges.txt"
        ]
    );
    assert_eq!(names("hf-clip-fp16-sharded").iter().filter(|n| n.ends_with(".safetensors")).count(), 6);
    assert_eq!(names("openclip-vit")[..2], ["open_clip_config.json", "open_clip_model.safetensors"]);
}
