//! `include`: other files whose `streams`, `labels` and `sinks` come at the end of the configuration's own lists. A document in; the same
//! document with their items, and what is wrong with them, out. Each item goes on knowing its file and line, and relative paths in it start
//! at that file's folder.
//!
//! On the caller's thread. Bounded: [`MAX_FILES`] files of [`MAX_BYTES`](crate::yaml::MAX_BYTES), [`MAX_TOTAL`] in all; patterns look into
//! the folders that they name and no deeper. Whatever is beyond that is refused.

use std::path::{Path, PathBuf};

use glob::MatchOptions;

use crate::platform::missing;
use crate::yaml::field_reader::{At, Reader};
use crate::yaml::problem::{Problem, Severity};
use crate::yaml::{Document, Value};

/// What such a file may hold.
pub const KEYS: [&str; 3] = ["streams", "labels", "sinks"];
/// Ten times what the largest site has boxes for.
const MAX_FILES: usize = 1000;
/// Bytes of all files together.
const MAX_TOTAL: u64 = 16 << 20;
/// Files that do not begin with a dot, which editors leave behind; `*` stays within a folder.
const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// What came of it.
pub struct Outcome {
    pub problems: Vec<Problem>,
    /// Some file could not be read, so what seems to be missing may be in it.
    pub incomplete: bool,
}

/// Adds what `include` names to `document`.
pub fn expand(document: &mut Document) -> Outcome {
    let mut out = Outcome { problems: Vec::new(), incomplete: false };
    let (mut seen, mut total) = (vec![canonical(document.file())], 0);
    for pattern in patterns(document) {
        for path in files(&pattern, document, &mut out) {
            if seen.contains(&canonical(&path)) {
                continue;
            }
            total += path.metadata().map_or(0, |metadata| metadata.len());
            if seen.len() > MAX_FILES || total > MAX_TOTAL {
                let message = format!("comes to more than {MAX_FILES} files or {} MiB", MAX_TOTAL >> 20);
                out.tell(document, &pattern, message, "put several streams into one file, or use several daemons");
                return out;
            }
            seen.push(canonical(&path));
            match Document::read(&path) {
                Ok(file) => {
                    let problems = document.append(file, &KEYS);
                    out.incomplete |= problems.iter().any(|problem| problem.severity == Severity::Error);
                    out.problems.extend(problems);
                }
                Err(problem) => {
                    out.incomplete = true;
                    out.problems.push(*problem);
                }
            }
        }
    }
    out
}

impl Outcome {
    fn tell(&mut self, document: &Document, at: &At<String>, message: String, remedy: &str) {
        self.incomplete = true;
        self.problems.push(document.problem(Severity::Error, at.place, &at.path, message, remedy));
    }
}

/// What can be read of the key; what cannot is told where all keys are read.
fn patterns(document: &Document) -> Vec<At<String>> {
    let node = document.find_exactly("include");
    let Some(Value::List(items)) = node.map(|node| &node.value) else { return Vec::new() };
    let texts = items.iter().enumerate().filter_map(|(index, item)| match &item.value {
        Value::Text(text) => Some(At { value: text.clone(), place: item.place, path: format!("include[{index}]") }),
        _ => None,
    });
    texts.collect()
}

/// The files of one item, by name: a name that has to be there, or a pattern, which may match none.
fn files(at: &At<String>, document: &Document, out: &mut Outcome) -> Vec<PathBuf> {
    let path = Reader::new(document).path(at);
    if !at.value.contains(['*', '?', '[']) {
        if !path.is_file() {
            let why = missing::why(&path, "file");
            let remedy = "name a file with `streams`, `labels` or `sinks`, or a pattern such as streams.d/*.yaml";
            out.tell(document, at, format!("{} {why}", path.display()), remedy);
            return Vec::new();
        }
        return vec![path];
    }
    // Special characters of the folder that this file lies in are none of the pattern's.
    let folder = document.file_of(at.place).parent().unwrap_or(Path::new(""));
    let pattern = if Path::new(&at.value).is_absolute() || folder.as_os_str().is_empty() {
        at.value.clone()
    } else {
        format!("{}/{}", glob::Pattern::escape(&folder.to_string_lossy()), at.value)
    };
    let found = match glob::glob_with(&pattern, OPTIONS) {
        Ok(found) if !at.value.contains("**") => found,
        Ok(_) => {
            out.tell(
                document,
                at,
                "goes through all folders below".to_owned(),
                "name each folder: `a/*.yaml`, `b/*.yaml`",
            );
            return Vec::new();
        }
        Err(error) => {
            out.tell(document, at, format!("is not a pattern ({error})"), "write, for example, streams.d/*.yaml");
            return Vec::new();
        }
    };
    let mut files = Vec::new();
    for entry in found.take(MAX_FILES + 1) {
        match entry {
            Ok(path) if path.is_dir() => {}
            Ok(path) if path.is_file() => files.push(path),
            Ok(path) => {
                out.tell(document, at, format!("{} is not a file", path.display()), "remove it, or mend the link")
            }
            Err(error) => out.tell(document, at, error.to_string(), "let the daemon's user read that folder"),
        }
    }
    files.sort();
    files
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}
