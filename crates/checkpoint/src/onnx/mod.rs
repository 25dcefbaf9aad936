//! Writes ONNX graphs. Comes in: an [`Architecture`](super::import::Architecture); goes out: a [`Graph`] whose weights are
//! read from a [`TensorStore`](super::import::TensorStore) one at a time while the file is written.
//!
//! # Layout
//! `proto` the wire format · [`builder`] nodes, constants and weights of one graph · [`weight_formats`] what becomes of a stored
//! tensor in each precision · [`linear`] a linear layer in each precision · [`attention`], [`rotary`] and [`body`] transformer layers ·
//! [`vision_graph`] and [`text_graph`] the two towers · [`mod@file`] the streamed file. Pure, but for `file`.

pub mod attention;
pub mod body;
pub mod builder;
pub mod file;
pub mod linear;
mod proto;
pub mod rotary;
pub mod text_graph;
pub mod vision_graph;
pub mod weight_formats;

pub use builder::Graph;
pub use proto::{Attr, Dim, Elem, Port};

/// Operators of this set: the first with LayerNormalization. TensorRT, CUDA, OpenVINO and CPU take all that is used of it.
pub const OPSET: u64 = 17;

/// What weights are stored as and computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Everything in 32-bit floats.
    Fp32,
    /// Linear layers and attention in 16-bit floats, for GPUs; norms, softmax and the residual sum stay in 32 bits.
    Fp16,
    /// Linear layers in 8-bit integers, for CPUs: a scale for each output channel of a weight and for each row of an input.
    Int8,
    /// Weights of linear layers in 4 bits, for small memories.
    Int4,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Fp32, Self::Fp16, Self::Int8, Self::Int4];

    /// As it is written: `fp32`, `fp16`, `int8`, `int4`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
