//! Why a command that loads a model itself (`embed`, `search`) did not do what it was asked, and the exit code of it. Pure.

use std::io;

use crate::daemon::engine::EngineError;
use crate::label::embedder::EmbedError;
use crate::model::ModelError;

#[derive(Debug, thiserror::Error)]
pub(super) enum ModelFailure {
    /// Arguments that do not go together, or a file that cannot be used.
    #[error("{0}")]
    Input(String),
    #[error("the history in {path} cannot be read: {error}")]
    History { path: String, error: io::Error },
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Text(#[from] EmbedError),
    #[error("the output cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("stopped")]
    Stopped,
}

impl ModelFailure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Input(_) => 2,
            Self::Model(error) => error.exit_code(),
            Self::Engine(error) => error.exit_code(),
            Self::Text(error) => error.exit_code(),
            Self::History { .. } | Self::Json(_) | Self::Stopped => 1,
        }
    }
}
