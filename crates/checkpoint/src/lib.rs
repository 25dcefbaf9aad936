//! CLIP, SigLIP and OpenCLIP checkpoints as ONNX model directories, without Python.
//!
//! In: a checkpoint as its makers publish it (`config.json` or `open_clip_config.json` beside safetensors or PyTorch's pickles), or the
//! name of a hub's repository. Out: a folder with two ONNX graphs, a tokenizer, the preprocessing and a manifest, in 32, 16, 8 or 4 bits.
//! Nothing of a runtime is in here: what measures graphs while they are written is handed in ([`import::measure::GraphRunner`]).
//!
//! # Layout
//! [`hub`] fetches a repository · [`import`] reads a checkpoint and writes the folder · [`onnx`] writes graphs · [`bundle`] reads such
//! folders, and exports of others · [`spec`] what a preprocessor file asks for · [`atomic_file`], [`unfinished_folder`] what appears whole or
//! not at all · [`json_text`] JSON of strangers.
//!
//! Everything runs on the caller's thread. No file, number or name of a checkpoint or a hub decides how much memory is taken, and none
//! makes it panic. Logs go to `tracing`.

pub mod atomic_file;
pub mod bundle;
pub mod fingerprint;
pub mod hex;
pub mod hub;
pub mod import;
pub mod json_text;
mod logit_parameters;
pub mod onnx;
pub mod onnx_file;
pub mod probe_picture;
pub mod rounding;
pub mod spec;
pub mod unfinished_folder;

use std::path::PathBuf;

use import::ImportError;

pub use bundle::Bundle;
pub use logit_parameters::{Activation, LogitOverride, LogitParameters, read_json};
pub use onnx_file::picture_input;

/// Why a model directory cannot be used. Fatal at start-up; the message names the file and the remedy.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are what the message shows")]
pub enum ModelError {
    /// No such directory.
    #[error("no model at {}: {remedy}", path.display())]
    NotFound { path: PathBuf, remedy: String },
    /// Parts are missing; all of them are named.
    #[error("the model directory {} lacks {}: {remedy}", dir.display(), missing.join(", "))]
    Missing { dir: PathBuf, missing: Vec<String>, remedy: String },
    /// A raw checkpoint, which has to be imported first ([`import::open_checkpoint`], [`import::write_bundle::run`]).
    #[error(
        "{} holds a raw checkpoint ({found}), not ONNX: import it with `vtagd model import {} --out OUT` and use OUT",
        dir.display(),
        dir.display()
    )]
    Checkpoint { dir: PathBuf, found: String },
    /// A raw checkpoint that cannot be imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A model of a hub that cannot be had.
    #[error(transparent)]
    Hub(#[from] hub::HubError),
    /// A part is damaged or is something else.
    #[error("{}: {message}", file.display())]
    Damaged { file: PathBuf, message: String },
}

impl ModelError {
    /// 2 where the input is wrong, 1 where the machine failed or a person stopped it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Import(error) => error.exit_code(),
            Self::Hub(error) => error.exit_code(),
            _ => 2,
        }
    }
}

/// The README's example is compiled with the tests of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeIsTrue;
