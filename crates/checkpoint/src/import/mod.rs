//! Import: a raw checkpoint (Hugging Face CLIP or SigLIP, OpenCLIP) in, a model directory with ONNX graphs out.
//!
//! The types here are the seam: a reader makes an [`Architecture`] and a [`TensorStore`], the graph writers know nothing else.

mod bytes;
pub mod canonical;
mod checkpoint;
mod config_hf;
mod config_openclip;
mod config_timm;
mod fields;
pub mod fuzz_import;
mod layout;
mod names_hf;
mod names_openclip;
mod names_timm;
mod pickle;
mod pickle_input;
mod prefixes;
mod preprocessor;
mod raw;
mod safetensors;
mod tokenizer;
mod unpickle;
mod weight_files;
mod zip;

pub use checkpoint::{Checkpoint, Family, open_checkpoint};
pub use tokenizer::TokenizerSource;
pub(crate) use weight_files::others as other_weights;
pub(crate) use weight_files::{
    HUGGING_FACE as HUGGING_FACE_WEIGHTS, MAX_SHARDS, OPEN_CLIP as OPEN_CLIP_WEIGHTS, is_other_weights_name,
};
pub mod manifest;
pub mod measure;
pub mod synthetic;
pub mod write_bundle;

use std::io;
use std::path::PathBuf;

use super::Activation;

/// Whether a `config.json` describes a model that is read from Hugging Face's layout.
pub(crate) fn is_served(config: &serde_json::Value) -> bool {
    config_hf::family(config, std::path::Path::new("config.json")).is_ok()
}

/// Element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// Brain float.
    Bf16,
    /// 64-bit integer.
    I64,
}

/// A stored tensor's name, type and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its element type in the file.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// A checkpoint's tensors, read one at a time so that memory stays small.
pub trait TensorStore {
    /// Every tensor there is.
    fn infos(&self) -> Vec<TensorInfo>;
    /// The tensor as f32, row-major.
    ///
    /// # Errors
    /// No such tensor, or one that cannot be read.
    fn read(&self, name: &str) -> Result<Vec<f32>, ImportError>;
    /// Compares the files with the checksums in them, where they have any. `advance` is called now and then.
    ///
    /// # Errors
    /// A file that was changed; what `advance` gives.
    fn verify(&self, advance: &mut dyn FnMut() -> Result<(), ImportError>) -> Result<(), ImportError> {
        advance()
    }
}

/// Everything the graphs need to know, from the config and checked against the tensors' shapes.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// The image tower.
    pub vision: VisionTower,
    /// The text tower.
    pub text: TextTower,
    /// Values of an embedding.
    pub embed_dim: usize,
    /// Exponentiated.
    pub logit_scale: f32,
    /// Added to a logit.
    pub logit_bias: f32,
    /// What makes a score of a logit.
    pub activation: Activation,
}

/// A stack of transformer layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Transformer {
    /// Values of a token.
    pub width: usize,
    /// How many layers there are.
    pub layers: usize,
    /// Heads of an attention; they divide the width.
    pub heads: usize,
    /// Hidden values of an MLP.
    pub mlp: usize,
    /// Added to a variance before the root, as in PyTorch's LayerNorm.
    pub eps: f32,
    /// Between the two linear layers of an MLP.
    pub act: Act,
    /// What differs from the usual layer.
    pub kind: LayerKind,
}

/// How a layer differs from the usual one: `x + attention(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerKind {
    /// The norms come behind the sums, and one more behind the tokens' embeddings, as in BERT (Devlin et al. 2019).
    pub post_norm: bool,
    /// The MLP's hidden values are `silu(gate(x)) · fc1(x)` (SwiGLU, Shazeer 2020).
    pub gated: bool,
    /// A norm of what the attention has mixed, and one of the MLP's hidden values (EVA-02, Fang et al. 2023).
    pub inner_norms: bool,
    /// Keys have a bias, which is stored.
    pub key_bias: bool,
    /// Queries and keys are turned by the place of their patch.
    pub rotary: Option<Rotary>,
}

impl LayerKind {
    /// The usual layer.
    pub const PLAIN: Self = Self { post_norm: false, gated: false, inner_norms: false, key_bias: true, rotary: None };
}

/// Rotary positions along both sides of a grid of patches (Su et al. 2021; timm's `RotaryEmbeddingCat`). The first half of a
/// head belongs to one side, the second to the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotary {
    /// Patches a side of the grid that the angles are meant for; other grids are stretched onto it.
    pub reference: usize,
    /// Added to a patch's place, counted from zero.
    pub offset: f32,
    /// The column turns the first half of a head, not the row.
    pub column_first: bool,
}

/// Activation between the two linear layers of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// With the error function.
    Gelu,
    /// The tanh approximation.
    GeluTanh,
    /// `x · sigmoid(1.702 x)`.
    QuickGelu,
}

/// A ViT image tower.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionTower {
    /// The layers.
    pub body: Transformer,
    /// Pixels a side of the input, which is square.
    pub image_size: usize,
    /// Pixels a side of a patch.
    pub patch: usize,
    /// Whether a learned token comes before the patches.
    pub class_token: bool,
    /// Whether a norm comes before the layers.
    pub pre_norm: bool,
    /// Whether the patches’ linear layer has a bias.
    pub patch_bias: bool,
    /// How the tokens become one vector.
    pub pooling: VisionPooling,
    /// What follows the pooling.
    pub projection: Projection,
}

/// What follows the pooling of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// The pooled vector is the embedding.
    None,
    /// A linear layer.
    Linear {
        /// Whether it has one.
        bias: bool,
    },
}

/// How the tokens of a picture become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VisionPooling {
    /// The first token, a learned one.
    ClassToken,
    /// One learned query attends to all tokens, then an MLP (Zhai et al. 2023).
    AttentionHead {
        /// Heads of the attention.
        heads: usize,
        /// Hidden values of the MLP.
        mlp: usize,
    },
}

/// A transformer text tower.
#[derive(Clone, Debug, PartialEq)]
pub struct TextTower {
    /// The layers.
    pub body: Transformer,
    /// Rows of the token embedding.
    pub vocab: usize,
    /// Tokens of a text, special ones included.
    pub context: usize,
    /// Whether a token sees only itself and those before it.
    pub causal: bool,
    /// Id of the tokens that fill up, where nothing may look at them.
    pub padding: Option<u32>,
    /// How the tokens become one vector.
    pub pooling: TextPooling,
    /// Whether the last linear layer has a bias.
    pub projection_bias: bool,
}

/// Which token of a text is its vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPooling {
    /// The one with the highest id.
    ArgmaxId,
    /// The first with this id.
    FirstId(u32),
    /// The first token.
    First,
    /// The last token.
    Last,
}

/// Why a checkpoint cannot be imported.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are what the message shows")]
pub enum ImportError {
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    /// A file is cut, damaged or hostile.
    #[error("{}: {message}", file.display())]
    Damaged { file: PathBuf, message: String },
    /// A kind of model that is not built.
    #[error("{}: {what} is not supported: {remedy}", file.display())]
    Unsupported { file: PathBuf, what: String, remedy: String },
    /// Tensors are missing, left over or of another shape; all of them are told.
    #[error("{}: the tensors are not those its configuration describes: {}", file.display(), problems.join("; "))]
    Mismatch { file: PathBuf, problems: Vec<String> },
    /// A pickle that wants to run code.
    #[error(
        "{}: refused: the pickle uses `{class}`, and only plain tensors are read; convert the checkpoint to safetensors where you trust it",
        file.display()
    )]
    Refused { file: PathBuf, class: String },
    /// The result cannot be written. Nothing is left behind.
    #[error("{}: cannot be written: {source}; check free space and permissions, or choose another --out", dir.display())]
    Disk { dir: PathBuf, source: io::Error },
    /// There is something at the place of the result.
    #[error("{} exists already; remove it or choose another --out", dir.display())]
    Exists { dir: PathBuf },
    /// The graph could not be measured.
    #[error("{0}")]
    Measure(String),
    /// Asked to stop. Nothing is left behind.
    #[error("stopped; nothing was written")]
    Stopped,
}

impl ImportError {
    /// 2 where the input is wrong, 1 where the machine failed or a person stopped it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Disk { .. } | Self::Measure(_) | Self::Stopped => 1,
            _ => 2,
        }
    }
}
