//! JSON files that are kept below the state directory, each with the version that wrote it: how one is read. In: a state directory and a place in
//! it. Out: what it holds, or why that cannot be used: whoever writes there next moves a damaged one aside, and leaves alone one that cannot be
//! read or is of a newer vtagd. On the caller's thread.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::state_copy;
use crate::platform::state_folder::StateFolder;

/// Why a file that is there cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeptFileError {
    #[error("{} {why}", path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("{} is of a newer vtagd (version {version}) and is kept as it is; start that version, or move the file away", path.display())]
    Newer { path: PathBuf, version: u64 },
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
}

/// Where the file of a set lies: `FOLDER/SET` and the extension, with the set's name as its state copy has it.
pub(super) fn of_set(folder: &str, set: &str, extension: &str) -> PathBuf {
    let name = state_copy::name_of(set);
    let stem = name.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Path::new(folder).join(stem + extension)
}

/// The version that a newer vtagd has written into a file of ours, of which this one knows up to `known`.
pub(super) fn newer_version(bytes: &[u8], known: u32) -> Option<u64> {
    #[derive(Deserialize)]
    struct OfVersion {
        version: u64,
    }
    let OfVersion { version } = serde_json::from_slice(bytes).ok()?;
    (version > u64::from(known)).then_some(version)
}

/// What the file holds, of `known` or an earlier version and at most `max` bytes; `None`: there is none.
///
/// # Errors
/// Why it cannot be used.
pub(super) fn read<T: DeserializeOwned>(
    state: &StateFolder,
    place: &Path,
    (known, max): (u32, u64),
) -> Result<Option<T>, KeptFileError> {
    let path = state.place(place);
    let bytes = match state.read(place, max) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(source) => return Err(KeptFileError::Unreadable { path, source }),
    };
    if bytes.len() as u64 > max {
        return Err(KeptFileError::Damaged { path, why: format!("is larger than {max} bytes") });
    }
    if let Some(version) = newer_version(&bytes, known) {
        return Err(KeptFileError::Newer { path, version });
    }
    let damaged = |error| KeptFileError::Damaged { path, why: format!("is damaged ({error})") };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}
