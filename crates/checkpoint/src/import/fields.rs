//! Bounded access to the JSON of a checkpoint. In: an untrusted file or object; out: numbers within limits, or an error that
//! names the file and the field. `null` counts as left out.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::ImportError;
use super::bytes::shown;
use crate::json_text;

/// Largest configuration or index file: real ones have kilobytes.
const MAX_JSON: u64 = 16 << 20;

/// The text of a file of at most `limit` bytes; `None` when there is none.
///
/// # Errors
/// [`ImportError::Io`] when it cannot be read, [`ImportError::Damaged`] when it is longer.
pub(super) fn read_bytes(file: &Path, limit: u64) -> Result<Option<Vec<u8>>, ImportError> {
    let failed = |source| ImportError::Io { file: file.to_owned(), source };
    match file.metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
        Ok(meta) if !meta.is_file() => return Err(damaged(file, "is not a regular file")),
        Ok(meta) if meta.len() > limit => {
            return Err(damaged(file, format!("has {} bytes, more than such a file ever has", meta.len())));
        }
        Ok(_) => {}
    }
    let bytes = std::fs::read(file).map_err(failed)?;
    if json_text::is_lfs_pointer(&bytes) {
        return Err(damaged(file, json_text::LFS_POINTER));
    }
    Ok(Some(bytes))
}

/// A JSON file; `None` when there is none.
///
/// # Errors
/// As [`read_bytes`]; not JSON.
pub(super) fn read_json(file: &Path) -> Result<Option<Value>, ImportError> {
    let Some(bytes) = read_bytes(file, MAX_JSON)? else { return Ok(None) };
    json_text::parse(&bytes).map(Some).map_err(|e| damaged(file, format!("{e}; mend it, or fetch it again")))
}

/// [`ImportError::Damaged`] for `file`.
pub(super) fn damaged(file: &Path, message: impl Into<String>) -> ImportError {
    ImportError::Damaged { file: file.to_owned(), message: message.into() }
}

/// A JSON object with the name it has in messages.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    pub(super) file: &'a Path,
    /// Names of the objects around it, with a dot behind each.
    within: String,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    /// The object of a whole file.
    ///
    /// # Errors
    /// Not an object.
    pub(super) fn of(file: &'a Path, value: &'a Value) -> Result<Self, ImportError> {
        let map = value.as_object().ok_or_else(|| damaged(file, "is not a JSON object"))?;
        Ok(Self { file, within: String::new(), map: Some(map) })
    }

    /// A value that is there and not null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map?.get(name).filter(|value| !value.is_null())
    }

    /// An object within; an empty one where it is left out.
    ///
    /// # Errors
    /// Not an object.
    pub(super) fn inner(&self, name: &str) -> Result<Self, ImportError> {
        let map = match self.get(name) {
            None => None,
            Some(value) => Some(value.as_object().ok_or_else(|| self.wrong(name, "an object", value))?),
        };
        Ok(Self { file: self.file, within: format!("{}{name}.", self.within), map })
    }

    /// A whole number from 1 to `max`.
    ///
    /// # Errors
    /// Anything else.
    pub(super) fn size(&self, name: &str, default: usize, max: usize) -> Result<usize, ImportError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let size = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=max).contains(n));
        size.ok_or_else(|| self.wrong(name, &format!("a whole number from 1 to {max}"), value))
    }

    /// A number from `low` to `high`.
    ///
    /// # Errors
    /// Anything else.
    pub(super) fn number(&self, name: &str, default: f64, low: f64, high: f64) -> Result<f64, ImportError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let number = value.as_f64().filter(|n| (low..=high).contains(n));
        number.ok_or_else(|| self.wrong(name, &format!("a number from {low} to {high}"), value))
    }

    /// # Errors
    /// Not true or false.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, ImportError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(name, "true or false", value))
    }

    /// # Errors
    /// Not a string.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, ImportError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(name, "a string", value))
    }

    /// A refusal of the whole model because of one field.
    pub(super) fn unsupported(&self, name: &str, what: impl Into<String>) -> ImportError {
        let what = format!("{} (`{}{name}`)", what.into(), self.within);
        unsupported(self.file, what)
    }

    /// An error about one field.
    pub(super) fn wrong(&self, name: &str, wanted: &str, found: &Value) -> ImportError {
        let found = match found {
            Value::Array(items) => format!("an array of {}", items.len()),
            Value::Object(_) => "an object".into(),
            Value::String(text) => format!("{:?}", shown(text)),
            other => other.to_string(),
        };
        let message = format!("the field `{}{name}` must be {wanted}, not {found}", self.within);
        damaged(self.file, json_text::explained(self.file, message))
    }
}

/// A refusal of a kind of model.
pub(super) fn unsupported(file: &Path, what: impl Into<String>) -> ImportError {
    ImportError::Unsupported {
        file: PathBuf::from(file),
        what: what.into(),
        remedy:
            "use a CLIP or SigLIP checkpoint with a ViT image tower and a transformer text tower, or export this one \
                 with Optimum and use its ONNX files"
                .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_field_is_named_with_everything_around_it() {
        let json = serde_json::json!({"a": {"n": 0, "big": 1e30, "t": 7, "f": "yes", "none": null}, "b": 3});
        let fields = Fields::of(Path::new("config.json"), &json).unwrap();
        let a = fields.inner("a").unwrap();
        for error in [
            a.size("n", 1, 10).unwrap_err(),
            a.size("big", 1, 10).unwrap_err(),
            a.number("big", 1.0, 0.0, 10.0).unwrap_err(),
            a.text("t").map(|_| ()).unwrap_err(),
            a.flag("f", true).map(|_| ()).unwrap_err(),
            fields.inner("b").map(|_| ()).unwrap_err(),
        ] {
            let message = error.to_string();
            assert!(message.starts_with("config.json: the field `") && message.contains(", not "), "{message}");
        }
        assert_eq!((a.size("none", 5, 10).unwrap(), a.flag("gone", true).unwrap()), (5, true));
        assert!(fields.inner("gone").unwrap().get("x").is_none());
        assert!(Fields::of(Path::new("c"), &serde_json::json!([])).is_err());
    }
}
