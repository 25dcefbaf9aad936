//! Bench: what this box can serve. Comes in: model directories and batch sizes; goes out: images a second, latencies and memory of
//! every pair of them.
//!
//! Everything is measured in [child processes](child) of this program, through the daemon's own session: speed in one process that
//! holds all models and runs them in turn ([`rounds`]), memory in a fresh process for each pair, because what a session
//! takes can only be told where there is no other. So a run that takes a minute ends at once when the parent says so, and
//! a child that the kernel kills for want of memory is reported, not shared. [`draft`] makes models with made-up weights.

pub mod bench_child;
pub mod cores;
pub mod draft;
mod memory_use;
pub mod openvino_precision;
pub mod rounds;

use std::io;
use std::path::PathBuf;

use crate::infer::InferError;
use crate::model::ModelError;
use crate::model::import::ImportError;

/// A model to be measured.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Model {
    /// A model directory with ONNX graphs.
    pub dir: PathBuf,
    /// Height and width of the pictures it takes.
    pub size: (usize, usize),
}

/// What a process with this model alone takes once it is warm for this batch size, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Memory {
    /// Resident after warming up.
    pub resident: u64,
    /// The most that was resident at any time, loading included.
    pub peak: u64,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Infer(#[from] InferError),
    /// A file in `/proc` that every Linux has.
    #[error("/proc/self/status: cannot be read: {0}")]
    Proc(io::Error),
    /// No room for made-up weights.
    #[error(
        "{}: the made-up weights need {} MB of disk, {} MB are free; free some, name a smaller model or fewer precisions, or set VTAGD_CACHE to a folder on another disk",
        dir.display(), needed.div_ceil(1_000_000), free / 1_000_000
    )]
    Space { dir: PathBuf, needed: u64, free: u64 },
    /// The folder for made-up weights cannot be made.
    #[error("{}: cannot be written: {source}; set VTAGD_CACHE to a folder that can", dir.display())]
    Disk { dir: PathBuf, source: io::Error },
    /// What a child said before it ended; its exit code.
    #[error("{message}")]
    Told { message: String, code: u8 },
    /// A child that did not answer as it should.
    #[error("the measuring process {0}")]
    Child(String),
    #[error("stopped; nothing was measured to the end")]
    Stopped,
}

impl BenchError {
    /// 2 where the input is wrong, 1 where the machine failed or a person stopped it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Model(error) => error.exit_code(),
            Self::Infer(InferError::Model(_)) => 2,
            Self::Told { code, .. } => *code,
            _ => 1,
        }
    }
}

impl From<ImportError> for BenchError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Stopped => Self::Stopped,
            ImportError::Disk { dir, source } => Self::Disk { dir, source },
            error => Self::Model(error.into()),
        }
    }
}
