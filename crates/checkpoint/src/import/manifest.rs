//! `vtagd.json`: what a bundle knows about itself beyond its graphs. Written by the import, shown by `model inspect`.
//!
//! Loading a bundle needs only its scale, bias and activation; see the sidecar in `head`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Act, Architecture, TextPooling, Transformer, VisionPooling};
use crate::Activation;
use crate::onnx::Precision;

/// The file's name inside a bundle.
pub const FILE: &str = "vtagd.json";

/// The whole file. Fields may be added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Shown in events and logs.
    pub name: String,
    /// Where the checkpoint came from, as it was given.
    pub source: String,
    /// How weights are stored.
    pub precision: Precision,
    /// The bundle's own fingerprint; empty until its files are written.
    pub fingerprint: String,
    /// Exponentiated.
    pub logit_scale: f32,
    /// Added to a logit.
    pub logit_bias: f32,
    /// Its name.
    pub activation: Activation,
    /// The architecture in numbers.
    pub architecture: Summary,
    /// The preprocessor file's content.
    pub preprocessing: Value,
    /// Neighbouring 8-bit weights fit the 16-bit sums of CPUs without VNNI.
    #[serde(default)]
    pub byte_sums_fit: bool,
    /// `None` where nothing was measured.
    pub probe: Option<Probe>,
    /// What was measured while importing, by precision.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measured: BTreeMap<String, Measurement>,
}

/// An architecture in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The image tower.
    pub vision: Tower,
    /// The text tower.
    pub text: Tower,
    /// Values of an embedding.
    pub embed_dim: usize,
    /// Pixels a side of the input, which is square.
    pub image_size: usize,
    /// Pixels a side of a patch.
    pub patch: usize,
    /// Rows of the token embedding.
    pub vocab: usize,
    /// Tokens of a text, special ones included.
    pub context: usize,
}

/// A transformer in numbers and words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tower {
    /// Values of a token.
    pub width: usize,
    /// How many layers there are.
    pub layers: usize,
    /// Heads of an attention; they divide the width.
    pub heads: usize,
    /// Hidden values of an MLP.
    pub mlp: usize,
    /// Its name.
    pub activation: String,
    /// In words.
    pub pooling: String,
}

/// A made-up picture's embedding in 32 bits, for comparing providers and installations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// For [`probe_picture`](crate::probe_picture::probe_picture).
    pub seed: u64,
    /// L2-normalised.
    pub embedding: Vec<f32>,
    /// The same in the bundle's own precision, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<Vec<f32>>,
}

/// One precision as it was measured on the importing machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Both towers' files.
    pub bytes: u64,
    /// Batches of eight on all cores.
    pub images_per_second: f32,
    /// Least cosine with 32 bits over the probe pictures.
    pub cosine: f32,
}

impl Summary {
    /// Of an architecture.
    pub fn new(arch: &Architecture) -> Self {
        let pooling = match arch.vision.pooling {
            VisionPooling::ClassToken => "class token",
            VisionPooling::AttentionHead { .. } => "attention head",
        };
        let place = match arch.text.pooling {
            TextPooling::ArgmaxId => "highest id".to_owned(),
            TextPooling::FirstId(id) => format!("first id {id}"),
            TextPooling::First => "first token".to_owned(),
            TextPooling::Last => "last token".to_owned(),
        };
        Self {
            vision: Tower::new(&arch.vision.body, pooling.into()),
            text: Tower::new(&arch.text.body, place),
            embed_dim: arch.embed_dim,
            image_size: arch.vision.image_size,
            patch: arch.vision.patch,
            vocab: arch.text.vocab,
            context: arch.text.context,
        }
    }
}

impl Tower {
    fn new(body: &Transformer, pooling: String) -> Self {
        let activation = match body.act {
            Act::Gelu => "gelu",
            Act::GeluTanh => "gelu_tanh",
            Act::QuickGelu => "quick_gelu",
        };
        let activation = if body.kind.gated { "swiglu" } else { activation };
        let Transformer { width, layers, heads, mlp, .. } = *body;
        Self { width, layers, heads, mlp, activation: activation.into(), pooling }
    }
}
