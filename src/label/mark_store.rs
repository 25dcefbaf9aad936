//! Marks that are kept: `marks.json` below the state directory, of every stream and label set. No upgrade and no full outbox touches it.
//!
//! In: a state directory, and what is to be changed. Out: the [marks](crate::calibrate::marks) of a stream and set. Replaced whole, with the
//! folder's owner and mode, by one writer at a time; at most [`MAX_BYTES`]. A file that is damaged is named; before another is written it is
//! moved aside, so that nothing is lost. On the caller's thread.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::kept_file::{self, KeptFileError};
use crate::calibrate::marks::SetMarks;
use crate::platform::state_folder::{StateError, StateFolder};

const FILE: &str = "marks.json";
/// Held by whoever changes it.
const LOCK: &str = "marks.lock";
/// Some two hundred thousand marks.
pub const MAX_BYTES: u64 = 16 << 20;
const VERSION: u32 = 2;
/// Without marks of regions: versions that do not know them read it, and leave alone what has some.
const WITHOUT_REGIONS: u32 = 1;

/// Stream, set, marks.
pub type MarksByStream = BTreeMap<String, BTreeMap<String, SetMarks>>;

#[derive(Debug, Deserialize, Serialize)]
struct MarkFile {
    version: u32,
    #[serde(default)]
    streams: MarksByStream,
}

/// Why marks cannot be had, or kept.
#[derive(Debug, thiserror::Error)]
pub enum MarkStoreError {
    #[error(transparent)]
    File(#[from] KeptFileError),
    #[error("{} would be larger than {MAX_BYTES} bytes; `vtagd marks remove` makes room", .0.display())]
    TooLarge(PathBuf),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    State(#[from] StateError),
}

impl MarkStoreError {
    /// 2 where a person has to change something.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => 2,
            Self::State(error) => error.exit_code(),
            _ => 1,
        }
    }
}

fn place(state: &StateFolder) -> PathBuf {
    state.place(Path::new(FILE))
}

/// All marks.
///
/// # Errors
/// When the file is damaged, or cannot be read.
pub fn read(state: &StateFolder) -> Result<MarksByStream, MarkStoreError> {
    let Some(file) = kept_file::read::<MarkFile>(state, Path::new(FILE), (VERSION, MAX_BYTES))? else {
        return Ok(MarksByStream::new());
    };
    let problem =
        file.streams.iter().flat_map(|(stream, sets)| sets.iter().map(move |(set, marks)| (stream, set, marks)));
    let mut problem =
        problem.filter_map(|(stream, set, marks)| Some((stream, set, marks.problems(None).into_iter().next()?)));
    match problem.next() {
        Some((stream, set, why)) => {
            let why = format!("is damaged (stream {stream}, set {set}: {why})");
            Err(KeptFileError::Damaged { path: place(state), why }.into())
        }
        None => Ok(file.streams),
    }
}

/// Changes the marks as `change` says, which may refuse. Where the file was damaged it is moved aside, and its new name is given.
///
/// # Errors
/// When `change` refuses, or nothing can be written; what lay there is as it was.
pub fn change<T>(
    state: &StateFolder,
    change: impl FnOnce(&mut MarksByStream) -> Result<T, String>,
) -> Result<(T, Option<PathBuf>), MarkStoreError> {
    let _lock = state.lock_file(Path::new(LOCK))?;
    let (mut streams, damaged) = match read(state) {
        Ok(streams) => (streams, false),
        Err(MarkStoreError::File(KeptFileError::Damaged { .. })) => (MarksByStream::new(), true),
        Err(error) => return Err(error),
    };
    let done = change(&mut streams).map_err(MarkStoreError::Refused)?;
    for sets in streams.values_mut() {
        sets.values_mut().for_each(SetMarks::tidy);
        sets.retain(|_, marks| !marks.is_empty());
    }
    streams.retain(|_, sets| !sets.is_empty());
    let has_regions = streams.values().flat_map(BTreeMap::values).any(|marks| !marks.regions.is_empty());
    let version = if has_regions { VERSION } else { WITHOUT_REGIONS };
    // Names, finite numbers and times.
    let text = serde_json::to_string(&MarkFile { version, streams }).unwrap_or_default();
    if text.len() as u64 > MAX_BYTES {
        return Err(MarkStoreError::TooLarge(place(state)));
    }
    let aside = if damaged { Some(state.keep_damaged(Path::new(FILE))?) } else { None };
    state.write(Path::new(FILE), text.as_bytes())?;
    Ok((done, aside))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::calibrate::marks::{Mark, MarkKind, MarkTime, Span};

    fn add(state: &StateFolder, from: f64) -> Option<PathBuf> {
        add_in(state, None, from)
    }

    fn add_in(state: &StateFolder, region: Option<&str>, from: f64) -> Option<PathBuf> {
        let put = |streams: &mut MarksByStream| {
            let marks = streams.entry("gate".to_owned()).or_default().entry("yard".to_owned()).or_default();
            let span = Span(MarkTime::Media(from), MarkTime::Media(from + 2.0));
            marks.add(&Mark { region: region.map(str::to_owned), kind: MarkKind::Seen("car".to_owned()), span });
            Ok(())
        };
        change(state, put).unwrap().1
    }

    #[test]
    fn marks_are_kept_with_the_folders_mode_and_a_damaged_file_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateFolder::configured(dir.path().join("state"));
        assert!(read(&state).unwrap().is_empty());
        assert_eq!(add(&state, 4.0), None);
        let path = place(&state);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(read(&state).unwrap()["gate"]["yard"].seen("car", None, true), [(4.0, 6.0)]);
        let whole = std::fs::read_to_string(&path).unwrap();
        let mut kept = Vec::new();
        for text in [whole[..20].to_owned(), whole.replace("6.0", "1.0"), "[]".to_owned()] {
            std::fs::write(&path, &text).unwrap();
            assert!(read(&state).is_err_and(|error| error.to_string().contains("is damaged")), "{text}");
            let aside = add(&state, 9.0).unwrap();
            kept.push((aside, text));
            assert_eq!(read(&state).unwrap()["gate"]["yard"].len(), 1);
        }
        for (aside, text) in kept {
            assert_eq!(std::fs::read_to_string(aside).unwrap(), text);
        }
        let newer = whole.replace("\"version\":1", "\"version\":7");
        std::fs::write(&path, &newer).unwrap();
        assert!(matches!(
            change(&state, |_| Ok(())),
            Err(MarkStoreError::File(KeptFileError::Newer { version: 7, .. }))
        ));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), newer);
        // What is refused changes nothing.
        std::fs::write(&path, &whole).unwrap();
        assert!(
            change(&state, |streams| {
                streams.clear();
                Err::<(), _>("no".to_owned())
            })
            .is_err()
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
    }

    #[test]
    fn the_file_is_of_the_version_before_regions_while_no_mark_is_of_one() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateFolder::configured(dir.path().join("state"));
        let version = || {
            let file: serde_json::Value = serde_json::from_slice(&std::fs::read(place(&state)).unwrap()).unwrap();
            file["version"].as_u64().unwrap()
        };
        add(&state, 4.0);
        assert_eq!(version(), 1);
        add_in(&state, Some("left"), 4.0);
        assert_eq!((version(), read(&state).unwrap()["gate"]["yard"].len()), (2, 2));
        change(&state, |streams| {
            streams.get_mut("gate").unwrap().get_mut("yard").unwrap().regions.clear();
            Ok(())
        })
        .unwrap();
        assert_eq!(version(), 1);
    }

    #[test]
    fn many_that_write_at_once_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateFolder::configured(dir.path().join("state"));
        std::thread::scope(|scope| {
            for at in 0..12_u8 {
                let state = &state;
                scope.spawn(move || add(state, f64::from(at) * 10.0));
            }
        });
        assert_eq!(read(&state).unwrap()["gate"]["yard"].len(), 12);
    }
}
