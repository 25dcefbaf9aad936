//! Tags that a person has called right or wrong: `verdicts.json` below the state directory, what labels learn from besides marks.
//!
//! In: a state directory, and a verdict. Out: the verdicts of a set on a stream, the newest last; at most [`MOST`] a label, the oldest go. What the
//! history has of them is looked up when the label is calibrated. Replaced whole, by one writer at a time; a file that is damaged is moved aside, one that
//! cannot be read, or is of a newer vtagd, is left alone. On the caller's thread.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::kept_file::{self, KeptFileError};
use super::mark_store::MarkStoreError;
use crate::platform::state_folder::StateFolder;

const FILE: &str = "verdicts.json";
/// Held by whoever changes it.
const LOCK: &str = "verdicts.lock";
const MAX_BYTES: u64 = 8 << 20;
const VERSION: u32 = 1;
/// Of one label on one stream.
const MOST: usize = 64;

/// What somebody has said of a tag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TagVerdict {
    pub stream: String,
    /// Of the stream, if the tag was of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    pub set: String,
    pub label: String,
    /// From its start to its end, by the clock.
    pub from: Timestamp,
    pub to: Timestamp,
    pub is_right: bool,
}

impl TagVerdict {
    fn is_of(&self, other: &Self) -> bool {
        self.stream == other.stream && self.region == other.region && self.set == other.set && self.label == other.label
    }
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct VerdictFile {
    version: u32,
    verdicts: Vec<TagVerdict>,
}

/// All verdicts of a set in a region of a stream, or on one that has none; none where the file cannot be read, which is told in the log.
pub fn read(state: &StateFolder, stream: &str, region: Option<&str>, set: &str) -> Vec<TagVerdict> {
    let all = parsed(state).unwrap_or_else(|error| {
        tracing::warn!(%error, "verdicts are not used");
        Vec::new()
    });
    let is_of = |one: &TagVerdict| one.stream == stream && one.region.as_deref() == region && one.set == set;
    all.into_iter().filter(is_of).collect()
}

fn parsed(state: &StateFolder) -> Result<Vec<TagVerdict>, KeptFileError> {
    let file = kept_file::read::<VerdictFile>(state, Path::new(FILE), (VERSION, MAX_BYTES))?;
    Ok(file.unwrap_or_default().verdicts)
}

/// Keeps a verdict, instead of an older one of the same tag. Where the file was damaged its new name is given.
///
/// # Errors
/// When it cannot be written, or what lies there cannot be read or is of a newer vtagd; it is as it was then.
pub fn keep(state: &StateFolder, verdict: TagVerdict) -> Result<Option<PathBuf>, MarkStoreError> {
    let _lock = state.lock_file(Path::new(LOCK))?;
    let (mut verdicts, aside) = match parsed(state) {
        Ok(verdicts) => (verdicts, None),
        Err(KeptFileError::Damaged { .. }) => (Vec::new(), Some(state.keep_damaged(Path::new(FILE))?)),
        Err(error) => return Err(error.into()),
    };
    // An open tag has another end later.
    verdicts.retain(|one| !(one.is_of(&verdict) && one.from == verdict.from));
    let same = verdicts.iter().filter(|one| one.is_of(&verdict)).count();
    if same >= MOST
        && let Some(oldest) = verdicts.iter().position(|one| one.is_of(&verdict))
    {
        verdicts.remove(oldest);
    }
    verdicts.push(verdict);
    let encoded = |verdicts: &[TagVerdict]| {
        // Names and times.
        serde_json::to_string(&VerdictFile { version: VERSION, verdicts: verdicts.to_vec() }).unwrap_or_default()
    };
    let mut text = encoded(&verdicts);
    while text.len() as u64 > MAX_BYTES && verdicts.len() > 1 {
        verdicts.drain(..verdicts.len().div_ceil(4));
        text = encoded(&verdicts);
    }
    state.write(Path::new(FILE), text.as_bytes())?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_tag_counts_and_each_label_keeps_its_newest() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateFolder::configured(dir.path().join("state"));
        let verdict = |label: &str, at: i64, is_right| TagVerdict {
            stream: "gate".to_owned(),
            region: None,
            set: "yard".to_owned(),
            label: label.to_owned(),
            from: Timestamp::from_second(at).unwrap(),
            to: Timestamp::from_second(at + 5).unwrap(),
            is_right,
        };
        assert_eq!(read(&state, "gate", None, "yard"), []);
        keep(&state, verdict("car", 1, true)).unwrap();
        keep(&state, verdict("car", 1, false)).unwrap();
        assert_eq!(read(&state, "gate", None, "yard"), [verdict("car", 1, false)]);
        for at in 0..MOST as i64 {
            keep(&state, verdict("bus", 10 + at, true)).unwrap();
        }
        keep(&state, verdict("bus", 1000, true)).unwrap();
        let kept = read(&state, "gate", None, "yard");
        assert_eq!((kept.len(), kept.contains(&verdict("bus", 10, true))), (1 + MOST, false));
        assert_eq!(kept[0], verdict("car", 1, false));
        assert_eq!(read(&state, "door", None, "yard"), []);
        // The tag of one region says nothing of the others.
        keep(&state, TagVerdict { region: Some("left".to_owned()), ..verdict("car", 1, true) }).unwrap();
        assert_eq!(read(&state, "gate", None, "yard"), kept);
        assert!(read(&state, "gate", Some("left"), "yard")[0].is_right);
        // A damaged file is kept, and the next verdict begins anew.
        std::fs::write(state.place(Path::new(FILE)), "{").unwrap();
        assert_eq!(read(&state, "gate", None, "yard"), []);
        let aside = keep(&state, verdict("car", 2, true)).unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(aside).unwrap(), "{");
        assert_eq!(read(&state, "gate", None, "yard"), [verdict("car", 2, true)]);
        // What a newer vtagd has written stays to the last byte.
        let newer = "{\"version\": 99, \"tags\": []}";
        std::fs::write(state.place(Path::new(FILE)), newer).unwrap();
        let refused = keep(&state, verdict("car", 3, true));
        assert!(matches!(refused, Err(MarkStoreError::File(KeptFileError::Newer { version: 99, .. }))), "{refused:?}");
        assert_eq!(std::fs::read_to_string(state.place(Path::new(FILE))).unwrap(), newer);
        assert_eq!(read(&state, "gate", None, "yard"), []);
        // Nor is what cannot be read taken for damaged.
        std::fs::remove_file(state.place(Path::new(FILE))).unwrap();
        std::fs::create_dir(state.place(Path::new(FILE))).unwrap();
        let refused = keep(&state, verdict("car", 3, true));
        assert!(matches!(refused, Err(MarkStoreError::File(KeptFileError::Unreadable { .. }))), "{refused:?}");
        assert!(state.place(Path::new(FILE)).is_dir());
    }
}
