//! Model: what a model directory holds, checked before anything is loaded. Comes in: a folder or a name; goes out: a
//! [`Bundle`](bundle::Bundle) with the paths of its parts and how its scores are made. Called at start-up, on any thread.

pub mod bundle;
pub mod byte_input;
mod fingerprint;
pub mod hub;
pub mod import;
mod logit_parameters;
pub mod onnx;
mod onnx_file;
pub mod prepared;
pub mod probe_picture;
pub mod triton_repository;

use std::path::{Path, PathBuf};

use import::ImportError;

pub use bundle::Bundle;
pub(crate) use logit_parameters::read_json;
pub use logit_parameters::{Activation, LogitOverride, LogitParameters};
pub(crate) use onnx_file::picture_input;

use crate::platform::paths;

/// The name of the model that `make setup` builds.
pub const STARTER: &str = "starter";

/// Why a model directory cannot be used. Fatal at start-up; the message names the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// No such directory.
    #[error("no model at {}: {remedy}", path.display())]
    NotFound { path: PathBuf, remedy: String },
    /// Parts are missing; all of them are named.
    #[error("the model directory {} lacks {}: {remedy}", dir.display(), missing.join(", "))]
    Missing { dir: PathBuf, missing: Vec<String>, remedy: String },
    /// A raw checkpoint, which has to be imported first; [`prepared::open`] does that by itself.
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

/// The directory of a model that was given as a path or as the name `starter`.
///
/// A name is looked for as `models/NAME` in the [data folders](paths::data_dirs); a path is used as it is.
///
/// # Errors
/// [`ModelError::NotFound`] when there is no such directory, naming the places looked at.
pub fn resolve(choice: &Path) -> Result<PathBuf, ModelError> {
    if choice.is_dir() {
        return Ok(choice.to_owned());
    }
    if choice != Path::new(STARTER) {
        let remedy =
            if choice.exists() { "this is a file, give the directory around it".to_owned() } else { absent(choice) };
        return Err(ModelError::NotFound { path: choice.to_owned(), remedy });
    }
    paths::find_data("models/starter").map_err(|tried| {
        let places: Vec<_> = tried.iter().map(|p| p.display().to_string()).collect();
        let remedy = format!(
            "the starter model is not built, run `make setup` in the checkout (looked at {})",
            places.join(", ")
        );
        ModelError::NotFound { path: choice.to_owned(), remedy }
    })
}

/// What to do where there is no such folder. What reads like a repository of a hub is likely to be one.
pub fn absent(path: &Path) -> String {
    let repository = path
        .to_str()
        .filter(|text| text.contains('/') && matches!(hub::Reference::read(&format!("hf:{text}")), Some(Ok(_))));
    let name = repository.unwrap_or("ORG/NAME");
    format!("check the path; a model of a hub is fetched by `vtagd model pull {name}`, or by writing hf:{name} here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_a_directory_is_told_with_a_remedy() {
        let error = resolve(Path::new("/no/such/model")).unwrap_err();
        assert!(error.to_string().starts_with("no model at /no/such/model: check the path"), "{error}");
        assert!(error.to_string().contains("`vtagd model pull ORG/NAME`"), "{error}");
        let error = resolve(Path::new("acme/clip-tiny")).unwrap_err().to_string();
        assert!(error.contains("`vtagd model pull acme/clip-tiny`") && error.contains("hf:acme/clip-tiny"), "{error}");
        let error = resolve(Path::new("Cargo.toml")).unwrap_err();
        assert!(error.to_string().contains("this is a file"), "{error}");
    }

    #[test]
    fn the_starter_model_is_found_by_name() {
        let dir = resolve(Path::new(STARTER)).expect("run `make setup` first: it builds models/starter");
        assert!(dir.join("vision_model.onnx").is_file());
    }
}
