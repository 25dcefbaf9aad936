//! Copies of label sets that the daemon keeps in its state directory, each in force instead of the configuration's file of that set.
//!
//! Comes in: a state directory, the name of a set, and the text of a label-set file. Goes out: `labels/<set>.yaml` there, a whole
//! label-set file whose first line, a comment, remembers what it was made from, when, by whom, and a hash of what follows. Files are
//! replaced whole; a copy that is damaged, edited by hand or wrong is told and not used. Runs on the caller's thread. Who puts a copy in
//! place, or takes one away, has the configuration read again afterwards, which is when it comes into force.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::set::{self, Parsed};
use crate::platform::hex::hex;
use crate::platform::state_folder::{StateError, StateFolder};
use crate::yaml::problem::{Problem, Severity};
use crate::yaml::{Document, MAX_BYTES};

/// Below the state directory.
const FOLDER: &str = "labels";
const EXTENSION: &str = ".yaml";
/// What the first line begins with.
const FIRST: &str = "# vtagd keeps this copy; `vtagd labels reset` removes it: ";
/// The first line at most.
const MAX_FIRST: usize = 8192;
/// A name of a set makes a file's name of so many bytes at most: there are 255, and a temporary file's needs some.
const MAX_NAME: usize = 120;
/// Copies that are looked at for [`names`].
const MAX_COPIES: usize = 10_000;

/// What the first line remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyOrigin {
    pub set: String,
    /// The configuration's file of the set, when the copy was made.
    pub file: String,
    /// SHA-256 of its text then.
    pub file_sha256: String,
    pub made_at: jiff::Timestamp,
    /// What made it, such as `the page`.
    pub by: String,
    /// SHA-256 of everything behind the first line.
    pub sha256: String,
}

/// A copy that can be in force.
#[derive(Debug)]
pub struct StateCopy {
    pub path: PathBuf,
    pub origin: CopyOrigin,
    /// The label-set file, without the first line.
    pub text: String,
    pub parsed: Parsed,
}

/// Why a copy is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoCopy {
    /// There is none.
    Absent,
    /// It cannot be told whether there is one: others may.
    Unreadable(String),
    /// There is one, and it is wrong.
    Wrong(String),
}

/// Why a copy cannot be put in place.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Every problem of the text, as of a file.
    #[error("the label set has problems: {}", .0.iter().find(|p| p.severity == Severity::Error).map(ToString::to_string).unwrap_or_default())]
    Set(Vec<Problem>),
    #[error("the text is the label set `{found}`, not `{wanted}`; keep its `set:`")]
    Name { wanted: String, found: String },
    #[error(transparent)]
    State(#[from] StateError),
}

/// What tells two texts apart.
pub fn fingerprint(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// `text` with every byte but letters, digits, `-` and `_` as `%XX`; other scripts' letters too if `ascii`.
pub fn percent(text: &str, ascii: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || "-_".contains(c) || (!ascii && c.is_alphanumeric()) {
            out.push(c);
        } else {
            let mut bytes = [0; 4];
            out.extend(c.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")));
        }
    }
    out
}

/// Where the copy of the set `name` lies, below the state directory. Any name has one, of bounded length, that is no other name's; it
/// never leads out of the folder.
pub fn name_of(set: &str) -> PathBuf {
    let mut name = percent(set, false);
    if name.len() > MAX_NAME {
        // `%-` stands in no other name.
        let end = format!("%-{}", &fingerprint(set)[..32]);
        let cut = (0..=MAX_NAME - end.len()).rev().find(|at| name.is_char_boundary(*at)).unwrap_or_default();
        name.truncate(cut);
        name.push_str(&end);
    }
    Path::new(FOLDER).join(name + EXTENSION)
}

/// The copy of the set `name`, whose file in the configuration is `original`: relative paths in the copy are that one's.
///
/// # Errors
/// Why there is none that can be in force.
pub fn read(state: &StateFolder, name: &str, original: &Path) -> Result<StateCopy, NoCopy> {
    let wrong = |why: &str| NoCopy::Wrong(why.to_owned());
    let place = name_of(name);
    let bytes = match state.read(&place, MAX_BYTES + MAX_FIRST as u64) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(NoCopy::Absent),
        Err(error) => return Err(NoCopy::Unreadable(error.to_string())),
    };
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is damaged: not UTF-8 text"))?;
    let Some((origin, body)) = origin_of(&text) else {
        return Err(wrong("it is damaged: its first line is not vtagd's"));
    };
    if origin.sha256 != fingerprint(body) {
        return Err(wrong("it is damaged, or was edited by hand"));
    }
    if origin.set != name {
        return Err(NoCopy::Wrong(format!("it is one of the set `{}`", origin.set)));
    }
    let path = state.place(&place);
    // With the first line: positions are those of the file.
    let document = Document::parse(&path, text.as_bytes()).map_err(|problem| vec![*problem]);
    let parsed = document.and_then(|document| set::check(document.as_copy_of(original)));
    let parsed = parsed.map_err(|problems| {
        let first = problems.iter().find(|problem| problem.severity == Severity::Error);
        NoCopy::Wrong(first.map_or_else(|| "it has problems".to_owned(), |first| first_line(&first.to_string())))
    })?;
    if parsed.set.name != name {
        return Err(NoCopy::Wrong(format!("it holds the set `{}`", parsed.set.name)));
    }
    Ok(StateCopy { path, text: body.to_owned(), origin, parsed })
}

/// Keeps `text` as the copy of the set `name`, which is in force from the next reload on. `original` is the set as the configuration's
/// file has it now; `by` says what asks for it.
///
/// # Errors
/// When the text is no label set of that name, or nothing can be written; what was in force stays.
pub fn put(state: &StateFolder, name: &str, text: &str, original: &Document, by: &str) -> Result<(), CopyError> {
    let place = name_of(name);
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let parse = |text: &str| {
        Document::parse(&state.place(&place), text.as_bytes()).map_err(|problem| CopyError::Set(vec![*problem]))
    };
    let parsed = set::check(parse(text)?.as_copy_of(original.file())).map_err(CopyError::Set)?;
    if parsed.set.name != name {
        return Err(CopyError::Name { wanted: name.to_owned(), found: parsed.set.name });
    }
    let origin = CopyOrigin {
        set: name.to_owned(),
        file: original.file().display().to_string(),
        file_sha256: fingerprint(original.text()),
        made_at: jiff::Timestamp::now(),
        by: by.to_owned(),
        sha256: fingerprint(text),
    };
    // A text and numbers: nothing that JSON does not know.
    let first = serde_json::to_string(&origin).unwrap_or_default();
    let whole = format!("{FIRST}{first}\n{text}");
    // It must not be too large only with its first line.
    parse(&whole)?;
    Ok(state.write(&place, whole.as_bytes())?)
}

/// Whether the set `name` has a copy, right or wrong; where it cannot be told, it may have one.
pub fn may_exist(state: &StateFolder, name: &str) -> bool {
    state.place(&name_of(name)).try_exists().unwrap_or(true)
}

/// Takes the copy of the set `name` away; whether there was one. The configuration's file is in force from the next reload on.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(state: &StateFolder, name: &str) -> Result<bool, StateError> {
    state.remove(&name_of(name))
}

/// The sets that have a copy, right or wrong, as the copies' first lines say.
pub fn names(state: &StateFolder) -> Vec<String> {
    let entries = fs::read_dir(state.place(Path::new(FOLDER))).into_iter().flatten().flatten().take(MAX_COPIES);
    let name = |entry: fs::DirEntry| {
        let place = Path::new(FOLDER).join(entry.file_name());
        let bytes = state.read(&place, MAX_FIRST as u64).ok()??;
        let origin = origin_of(&String::from_utf8_lossy(&bytes))?.0;
        // Where a copy of that name would not lie nobody would find it.
        (name_of(&origin.set) == place).then_some(origin.set)
    };
    let mut names: Vec<String> = entries.filter_map(name).collect();
    names.sort();
    names
}

/// The text of a copy's file without the first line, which is the daemon's own.
pub fn body(text: &str) -> &str {
    origin_of(text).map_or(text, |(_, body)| body)
}

/// The first line and what follows it.
fn origin_of(text: &str) -> Option<(CopyOrigin, &str)> {
    let (first, body) = text.split_once('\n')?;
    Some((serde_json::from_str(first.strip_prefix(FIRST)?).ok()?, body))
}

/// A problem without the lines of the file around it.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "/srv/labels/dock.yaml";
    const SET: &str = "# mine\nset: dock\nbackground: [an empty dock]\nlabels: [{ name: forklift }]\n";

    fn folder() -> (tempfile::TempDir, StateFolder) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateFolder::configured(dir.path().to_owned());
        (dir, state)
    }

    fn original() -> Document {
        Document::parse(Path::new(FILE), SET.as_bytes()).unwrap()
    }

    #[test]
    fn any_name_of_a_set_is_a_files_name_of_its_own_in_the_folder() {
        let long = "猫".repeat(200);
        let names =
            ["dock", "Dock", "a b", "a.b", "a%2Eb", "..", ".", "a/b", "/", "猫", "貓", "e\u{301}", "é", "-x", &long];
        let longer = format!("{long}x");
        let places: Vec<PathBuf> = names.iter().copied().chain([&*longer]).map(name_of).collect();
        for place in &places {
            let name = place.file_name().unwrap().to_str().unwrap();
            assert!(place.parent() == Some(Path::new(FOLDER)) && name.len() <= MAX_NAME + 5, "{name}");
            assert!(!name.starts_with('.') && name.matches('.').count() == 1, "{name}");
        }
        assert_eq!(places.iter().collect::<std::collections::BTreeSet<_>>().len(), places.len(), "{places:?}");
        assert_eq!(places[0], Path::new("labels/dock.yaml"));
        assert_eq!(places[9], Path::new("labels/猫.yaml"));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]
        #[test]
        fn a_copy_of_any_name_comes_back(name in "\\PC{1,80}") {
            let name = name.trim();
            proptest::prop_assume!(!name.is_empty());
            let (_dir, state) = folder();
            let text = format!("set: {}\nbackground: [x]\nlabels: [{{ name: a }}]\n", serde_json::to_string(name).unwrap());
            put(&state, name, &text, &original(), "a test").unwrap();
            let copy = read(&state, name, Path::new(FILE)).unwrap();
            proptest::prop_assert_eq!(&copy.text, &text);
            proptest::prop_assert_eq!(names(&state), [name]);
            proptest::prop_assert!(remove(&state, name).unwrap());
        }
    }

    #[test]
    fn a_copy_remembers_what_it_was_made_from_and_keeps_the_text() {
        let (_dir, state) = folder();
        assert_eq!(read(&state, "dock", Path::new(FILE)).unwrap_err(), NoCopy::Absent);
        let text = SET.replace("forklift", "truck");
        put(&state, "dock", &text, &original(), "the page").unwrap();
        let copy = read(&state, "dock", Path::new(FILE)).unwrap();
        assert_eq!((copy.text, &*copy.parsed.set.labels[0].name), (text, "truck"));
        assert_eq!((&*copy.origin.file, &*copy.origin.by), (FILE, "the page"));
        assert_eq!(copy.origin.file_sha256, fingerprint(SET));
        assert!(set::load(&copy.path).is_ok(), "it is a label-set file itself");
    }

    #[test]
    fn what_is_no_label_set_of_that_name_replaces_nothing() {
        let (_dir, state) = folder();
        put(&state, "dock", SET, &original(), "a test").unwrap();
        for (text, told) in [
            ("set: dock\nlabels: 7\n", "labels"),
            ("set: [", "problems"),
            ("set: yard\nlabels: [{ name: a }]\n", "yard"),
        ] {
            let error = put(&state, "dock", text, &original(), "a test").unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
        assert_eq!(read(&state, "dock", Path::new(FILE)).unwrap().text, SET);
    }

    #[test]
    fn every_damage_is_told_and_no_copy_of_another_set_is_taken() {
        let (_dir, state) = folder();
        put(&state, "dock", SET, &original(), "a test").unwrap();
        let place = state.place(&name_of("dock"));
        let whole = fs::read(&place).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x04;
            for bytes in [&bytes[..], &whole[..at]] {
                fs::write(&place, bytes).unwrap();
                match read(&state, "dock", Path::new(FILE)) {
                    Err(NoCopy::Wrong(_)) => {}
                    // Who made it when is a note alone.
                    Ok(copy) => assert_eq!(copy.text, SET),
                    other => panic!("{at}: {other:?}"),
                }
            }
        }
        fs::write(state.place(&name_of("yard")), &whole).unwrap();
        assert!(matches!(read(&state, "yard", Path::new(FILE)), Err(NoCopy::Wrong(why)) if why.contains("dock")));
    }
}
