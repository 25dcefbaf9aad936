//! Model: what a model directory holds, checked before anything is loaded. Comes in: a folder or a name; goes out: a
//! [`Bundle`] with the paths of its parts and how its scores are made. Called at start-up, on any thread.
//!
//! Reading, importing and pulling are the library `vtagd-checkpoint` (crates/checkpoint). Here is what joins it to the daemon: where
//! models and caches lie, the environment, the thread of a pull.

pub mod byte_input;
pub mod hub;
pub mod prepared;
pub mod triton_repository;

use std::path::{Path, PathBuf};

pub use vtagd_checkpoint::{
    Activation, Bundle, LogitOverride, LogitParameters, ModelError, bundle, import, onnx, onnx_file, picture_input,
    probe_picture, read_json,
};

use crate::platform::paths;

/// The name of the model that `make setup` builds.
pub const STARTER: &str = "starter";

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

    #[test]
    fn the_starter_model_scores_with_its_own_scale() {
        let dir = resolve(Path::new(STARTER)).expect("run `make setup` first: it builds models/starter");
        let bundle = Bundle::open_with_cache(&dir, None).unwrap();
        assert_eq!(
            bundle.logit_parameters,
            LogitParameters { scale: 20.0, bias: 0.0, activation: Activation::Softmax }
        );
        assert_eq!(bundle.text_spec.pad_to, None);
        assert_eq!(bundle.name, "starter");
    }
}
