//! Infer: batches of tensors to image embeddings, in ONNX Runtime, on one named thread.
//!
//! [`dispatch`] takes frames in turn and fills batches by the rules of [`batcher`], those that show nothing new left out as
//! [`unchanged`] says; [`worker`] runs them.

pub mod batcher;
pub mod dispatch;
pub mod unchanged;
pub mod worker;

mod chunk;
mod engine_cache;
pub mod graph;
mod libraries;
pub mod options;
mod placement;
pub mod plain;
pub mod probe;
pub(crate) mod provider;
pub mod runtime;
pub mod select;
pub mod session;
mod tensorrt;

use std::time::Duration;

pub use options::ProviderChoice;
pub use select::Refused;

/// An execution provider of ONNX Runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    Tensorrt,
    Cuda,
    Openvino,
    Cpu,
}

impl Provider {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tensorrt => "tensorrt",
            Self::Cuda => "cuda",
            Self::Openvino => "openvino",
            Self::Cpu => "cpu",
        }
    }
}

/// `runtime` and `runtime.batch` of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct InferSettings {
    /// Tried in order.
    pub providers: Vec<ProviderChoice>,
    /// The first provider or nothing.
    pub strict: bool,
    /// Cosine with the probe's embedding below which a provider is refused.
    pub min_cosine: f32,
    /// Explicit `libonnxruntime.so`; otherwise it is looked for (see [`runtime`]).
    pub library: Option<std::path::PathBuf>,
    /// Threads inside one operator; 0 lets ONNX Runtime take all cores.
    pub threads: usize,
    pub max_size: usize,
    /// From the first frame of a batch to its run, at most.
    pub max_delay: Duration,
}

impl Default for InferSettings {
    fn default() -> Self {
        Self {
            providers: vec![Provider::Cpu.into()],
            strict: false,
            min_cosine: probe::MIN_COSINE,
            library: None,
            threads: 0,
            max_size: 8,
            max_delay: Duration::from_millis(50),
        }
    }
}

/// Image tower behind the narrowest door: a batch of tensors in, embeddings out. Lives on one thread.
pub trait ImageEncoder: Send {
    /// Length of an embedding.
    fn dim(&self) -> usize;

    /// Name of the provider that computes, for logs and metrics.
    fn provider(&self) -> Provider;

    /// Encodes the first `count` pictures of `pixels` (`[count, 3, height, width]`, contiguous f32) and writes `count × dim`
    /// L2-normalised floats to `embeddings` (cleared first).
    ///
    /// # Errors
    /// Whatever the runtime says. The next call may work again.
    fn encode(&mut self, pixels: &[f32], count: usize, embeddings: &mut Vec<f32>) -> Result<(), InferError>;
}

/// Why a model could not be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// The shared library is missing or does not load. Fatal at start-up.
    #[error("{0}")]
    Library(String),
    /// The model file is damaged or unsuitable. Fatal at start-up.
    #[error("{0}")]
    Model(String),
    /// No provider of the list could be used. Fatal at start-up.
    #[error("{0}")]
    Provider(String),
    /// One run failed; its frames are lost, the next batch may work.
    #[error("{0}")]
    Run(String),
}
