//! A checkpoint's preprocessing, as the JSON of our bundle's `preprocessor_config.json`. In: the folder and the image size; out:
//! Hugging Face's own object, or OpenCLIP's under `preprocess_cfg`. The two round crops differently, so neither is turned into
//! the other; [`Spec`] reads both.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::ImportError;
use super::fields::{Fields, damaged, read_json};
use crate::json_text;
use crate::spec::Spec;

/// The object `image_processor` in `processor_config.json`, as Transformers 5 writes it, or else `preprocessor_config.json`.
/// Where both are there the first counts (`ImageProcessingMixin.get_image_processor_dict`).
///
/// # Errors
/// Neither is there; one that is damaged or does not fit the image tower.
pub(super) fn hugging_face(dir: &Path, image_size: usize) -> Result<(Value, PathBuf), ImportError> {
    let file = dir.join("preprocessor_config.json");
    let newer = dir.join("processor_config.json");
    let nested = read_json(&newer)?.and_then(|json| json.get("image_processor").filter(|v| !v.is_null()).cloned());
    let (value, file) = match (nested, read_json(&file)?) {
        (Some(value), _) => (value, newer),
        (None, Some(value)) => (value, file),
        (None, None) => {
            let message = "is missing, and how pictures are prepared cannot be guessed: fetch it with the checkpoint";
            return Err(damaged(&file, message));
        }
    };
    fits(&value, &file, image_size)?;
    Ok((value, file))
}

/// OpenCLIP's `preprocess_cfg`, with the image tower's size, which has the last word there (`create_model`).
///
/// # Errors
/// An object that is damaged.
pub(super) fn open_clip(config: &Value, file: &Path, image_size: usize) -> Result<Value, ImportError> {
    let whole = Fields::of(file, config)?;
    let own = whole.inner("preprocess_cfg")?;
    let mut object = serde_json::Map::new();
    object.insert("size".into(), json!([image_size, image_size]));
    for (name, default) in [
        ("mode", json!("RGB")),
        ("mean", json!([0.481_454_66, 0.457_827_5, 0.408_210_73])),
        ("std", json!([0.268_629_54, 0.261_302_58, 0.275_777_11])),
        ("interpolation", json!("bicubic")),
        ("resize_mode", json!("shortest")),
        ("fill_color", json!(0)),
    ] {
        object.insert(name.into(), own.get(name).cloned().unwrap_or(default));
    }
    let value = json!({ "preprocess_cfg": object });
    fits(&value, file, image_size)?;
    Ok(value)
}

/// That the rest of the program can use it, and that it makes pictures of the tower's size.
fn fits(value: &Value, file: &Path, image_size: usize) -> Result<(), ImportError> {
    let spec =
        Spec::from_json(&value.to_string()).map_err(|e| damaged(file, json_text::explained(file, e.to_string())))?;
    let (height, width) = spec.size();
    if (height as usize, width as usize) == (image_size, image_size) {
        return Ok(());
    }
    let problem = format!("it makes pictures of {height}×{width}, the image tower takes {image_size}×{image_size}");
    Err(ImportError::Mismatch { file: file.to_owned(), problems: vec![problem] })
}
