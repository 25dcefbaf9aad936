//! Infer: batches of tensors to image embeddings, in ONNX Runtime, on one named thread.
//!
//! In: the batches that [`crate::batching`] makes. A [`session_thread`] for each session runs and times them, [`watchdog`] sees to it that a run
//! ends. [`sessions`] opens what the configuration asks for, with the first provider that works ([`provider_selection`]); how a provider's
//! options reach ONNX Runtime stands in [`options`]. A server that computes for many boxes is one more of them: [`remote`].

pub mod session_thread;
pub mod watchdog;

pub mod buckets;
pub(crate) mod byte_sums;
mod chunk;
mod engine_cache;
pub mod graph;
mod io_buffers;
pub(crate) mod libraries;
pub mod measurement_cache;
mod oom_batch_limit;
pub mod options;
mod placement;
pub mod probe_embedding;
pub(crate) mod provider;
pub mod provider_selection;
pub mod remote;
pub mod runtime;
pub mod session;
pub mod session_run;
pub mod session_threads;
pub mod sessions;
pub mod single_input;
pub mod sizing;
mod tensorrt_engine;

use std::sync::Arc;
use std::time::Duration;

use crate::batching::tensor::HostMemory;

pub use options::ProviderChoice;
pub use provider_selection::Refused;

/// What computes: an execution provider of ONNX Runtime, or a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    Tensorrt,
    Cuda,
    Openvino,
    Cpu,
    /// A server. There is nothing of it to measure here.
    #[value(skip)]
    Remote,
}

impl Provider {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tensorrt => "tensorrt",
            Self::Cuda => "cuda",
            Self::Openvino => "openvino",
            Self::Cpu => "cpu",
            Self::Remote => "remote",
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
    pub max_size: BatchSize,
    /// From the first frame of a batch to its run, at most, as long as a session is free.
    pub max_delay: Duration,
    /// Sessions over the same model, for each device.
    pub sessions: Sessions,
    /// GPUs to run on, each with its own sessions; empty: the one that the provider's options name.
    pub devices: Vec<u32>,
    /// Threads that prepare pictures for the runs; `None`: by the cores.
    pub preprocess_threads: Option<usize>,
    /// A run that takes longer is ended, or given up; `None`: by what runs took while warming up.
    pub run_limit: Option<Duration>,
}

/// `runtime.batch.max_size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    Pictures(usize),
    /// Found at start-up: see [`sizing`].
    Auto,
}

impl BatchSize {
    /// The largest batch that may come of it with `provider`.
    pub fn most(self, provider: Provider) -> usize {
        match self {
            Self::Pictures(size) => size,
            Self::Auto => sizing::most(provider),
        }
    }
}

/// `runtime.sessions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    Number(usize),
    /// On a CPU with so many cores what measuring says, one elsewhere.
    Auto {
        cores: usize,
    },
}

impl Default for InferSettings {
    fn default() -> Self {
        Self {
            providers: vec![Provider::Cpu.into()],
            strict: false,
            min_cosine: probe_embedding::MIN_COSINE,
            library: None,
            threads: 0,
            max_size: BatchSize::Pictures(8),
            max_delay: Duration::from_millis(50),
            // What measures is the daemon.
            sessions: Sessions::Number(1),
            devices: Vec::new(),
            preprocess_threads: None,
            run_limit: None,
        }
    }
}

/// Image tower behind the narrowest door: a batch of tensors in, embeddings out. Lives on one thread.
pub trait ImageEncoder: Send {
    /// Length of an embedding.
    fn dim(&self) -> usize;

    /// Name of the provider that computes, for logs and metrics.
    fn provider(&self) -> Provider;

    /// Encodes the first `count` pictures of `pixels` (`[count or more, 3, height, width]`, contiguous f32) and writes `count × dim`
    /// L2-normalised floats to `embeddings` (cleared first). Pictures behind them may be used to fill a run up.
    ///
    /// # Errors
    /// Whatever the runtime says. The next call may work again.
    fn encode(&mut self, pixels: &[f32], count: usize, embeddings: &mut Vec<f32>) -> Result<(), InferError>;

    /// Pictures in the run that `count` pictures become: more of them where few shapes are wanted (see [`buckets`]).
    fn padded(&self, count: usize) -> usize {
        count
    }

    /// What ends a run from another thread, where that can be done.
    fn stopper(&self) -> Option<Arc<dyn Stop>> {
        None
    }

    /// Memory for batches of `floats` floats, where some is better than the heap's: a GPU reads from pinned memory without a copy
    /// in between.
    fn memory(&self, _floats: usize) -> Option<Box<dyn HostMemory>> {
        None
    }

    /// How long a full batch took while warming up; nothing if nobody knows.
    fn expected(&self) -> Duration {
        Duration::ZERO
    }
}

/// Ends runs of one encoder.
pub trait Stop: Send + Sync {
    /// The run that goes on ends with an error as soon as the runtime looks; never blocks.
    fn stop(&self);
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
    /// One run found no memory; fewer pictures may work.
    #[error("{0}")]
    Memory(String),
}
