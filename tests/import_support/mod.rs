//! Tiny checkpoints of `tests/conformance/checkpoints` as tensor stores, and graphs run in ONNX Runtime.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype as Stored, SafeTensors};
use serde_json::Value;
use vtagd::infer::plain::{Feed, PlainSession};
use vtagd::infer::runtime;
use vtagd::model::import::{
    Act, Architecture, Dtype, ImportError, TensorInfo, TensorStore, TextPooling, TextTower, Transformer, VisionPooling,
    VisionTower,
};
use vtagd::score::Activation;

/// A Hugging Face checkpoint in one safetensors file, under canonical names.
pub struct Checkpoint {
    pub dir: PathBuf,
    pub architecture: Architecture,
    tensors: HashMap<String, (Vec<usize>, Vec<f32>)>,
}

/// What the reference implementation answers.
pub struct Expected {
    pub pixel_values: Vec<f32>,
    pub image_embeds: Vec<f32>,
    pub input_ids: Vec<i64>,
    pub text_embeds: Vec<f32>,
}

impl TensorStore for Checkpoint {
    fn infos(&self) -> Vec<TensorInfo> {
        let info = |(name, (shape, _)): (&String, &(Vec<usize>, Vec<f32>))| TensorInfo {
            name: name.clone(),
            dtype: Dtype::F32,
            shape: shape.clone(),
        };
        self.tensors.iter().map(info).collect()
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, ImportError> {
        let missing = || ImportError::Mismatch { file: self.dir.clone(), problems: vec![format!("no {name}")] };
        self.tensors.get(name).map(|(_, values)| values.clone()).ok_or_else(missing)
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Opens `tests/conformance/checkpoints/NAME`.
pub fn open(name: &str) -> Checkpoint {
    let dir = Path::new("tests/conformance/checkpoints").join(name);
    let config: Value = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
    let bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let mut tensors = HashMap::new();
    for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
        if view.dtype() == Stored::F32 {
            for (name, shape, values) in canonical(&name, view.shape().to_vec(), floats(view.data())) {
                tensors.insert(name, (shape, values));
            }
        }
    }
    let architecture = architecture(&config, &tensors);
    Checkpoint { dir, architecture, tensors }
}

impl Checkpoint {
    pub fn expected(&self) -> Expected {
        let bytes = fs::read(self.dir.join("expected.safetensors")).unwrap();
        let all = SafeTensors::deserialize(&bytes).unwrap();
        let get = |name: &str| floats(all.tensor(name).unwrap().data());
        let ids = all.tensor("input_ids").unwrap();
        Expected {
            pixel_values: get("pixel_values"),
            image_embeds: get("image_embeds"),
            input_ids: ids.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect(),
            text_embeds: get("text_embeds"),
        }
    }
}

fn canonical(name: &str, shape: Vec<usize>, values: Vec<f32>) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    if let Some(kind) = name.strip_prefix("vision_model.head.attention.in_proj_") {
        let (rows, len) = (shape[0] / 3, values.len() / 3);
        let shape: Vec<usize> = std::iter::once(rows).chain(shape[1..].iter().copied()).collect();
        let part = |(i, part)| {
            (format!("vision.head.attn.{part}.{kind}"), shape.clone(), values[i * len..(i + 1) * len].to_vec())
        };
        return ["q", "k", "v"].into_iter().enumerate().map(part).collect();
    }
    let renamed = [
        ("vision_model.embeddings.patch_embedding", "vision.patch"),
        ("vision_model.embeddings.class_embedding", "vision.class"),
        ("vision_model.embeddings.position_embedding.weight", "vision.position"),
        ("vision_model.pre_layrnorm", "vision.pre_norm"),
        ("vision_model.post_layernorm", "vision.post_norm"),
        ("vision_model.head.probe", "vision.head.probe"),
        ("vision_model.head.attention.out_proj", "vision.head.attn.out"),
        ("vision_model.head.layernorm", "vision.head.norm"),
        ("visual_projection", "vision.projection"),
        ("text_model.embeddings.token_embedding.weight", "text.token"),
        ("text_model.embeddings.position_embedding.weight", "text.position"),
        ("text_model.final_layer_norm", "text.post_norm"),
        ("text_model.head", "text.projection"),
        ("text_projection", "text.projection"),
        ("vision_model.encoder", "vision"),
        ("text_model.encoder", "text"),
        ("vision_model", "vision"),
        (".self_attn.q_proj", ".attn.q"),
        (".self_attn.k_proj", ".attn.k"),
        (".self_attn.v_proj", ".attn.v"),
        (".self_attn.out_proj", ".attn.out"),
        (".layer_norm1", ".norm1"),
        (".layer_norm2", ".norm2"),
    ];
    let mut name = name.to_owned();
    for (theirs, ours) in renamed {
        name = name.replace(theirs, ours);
    }
    vec![(name, shape, values)]
}

fn architecture(config: &Value, tensors: &HashMap<String, (Vec<usize>, Vec<f32>)>) -> Architecture {
    let siglip = config["model_type"] == "siglip";
    let number = |v: &Value, key: &str| v[key].as_u64().unwrap() as usize;
    let body = |c: &Value| Transformer {
        width: number(c, "hidden_size"),
        layers: number(c, "num_hidden_layers"),
        heads: number(c, "num_attention_heads"),
        mlp: number(c, "intermediate_size"),
        eps: c["layer_norm_eps"].as_f64().unwrap() as f32,
        act: match c["hidden_act"].as_str().unwrap() {
            "gelu" => Act::Gelu,
            "quick_gelu" => Act::QuickGelu,
            _ => Act::GeluTanh,
        },
    };
    let (v, t) = (&config["vision_config"], &config["text_config"]);
    let pooling = if siglip {
        VisionPooling::AttentionHead { heads: number(v, "num_attention_heads"), mlp: number(v, "intermediate_size") }
    } else {
        VisionPooling::ClassToken
    };
    Architecture {
        vision: VisionTower {
            body: body(v),
            image_size: number(v, "image_size"),
            patch: number(v, "patch_size"),
            class_token: !siglip,
            pre_norm: !siglip,
            patch_bias: siglip,
            pooling,
        },
        text: TextTower {
            body: body(t),
            vocab: number(t, "vocab_size"),
            context: number(t, "max_position_embeddings"),
            causal: !siglip,
            pooling: match (siglip, number(t, "eos_token_id")) {
                (true, _) => TextPooling::Last,
                (_, 2) => TextPooling::ArgmaxId,
                (_, id) => TextPooling::FirstId(id as u32),
            },
            projection_bias: siglip,
        },
        embed_dim: tensors["text.projection.weight"].0[0],
        logit_scale: tensors["logit_scale"].1[0].exp(),
        logit_bias: tensors.get("logit_bias").map_or(0.0, |b| b.1[0]),
        activation: if siglip { Activation::Sigmoid } else { Activation::Softmax },
    }
}

/// A session over `file` with the daemon's settings.
pub fn session(file: &Path) -> PlainSession {
    let runtime = runtime::load(None).expect("run `make setup` first: it fetches runtime/libonnxruntime.so");
    PlainSession::from_file(&runtime, file, 0).unwrap()
}

/// Embeddings of as many pictures as `pixels` holds.
pub fn image_embeds(session: &mut PlainSession, pixels: &[f32], size: usize) -> Vec<f32> {
    session.run(&[pixels.len() / (3 * size * size), 3, size, size], Feed::Floats(pixels)).unwrap()
}

/// Embeddings of as many texts as `ids` holds.
pub fn text_embeds(session: &mut PlainSession, ids: &[i64], context: usize) -> Vec<f32> {
    session.run(&[ids.len() / context, context], Feed::Ids(ids)).unwrap()
}

/// Cosine of two L2-normalised vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
