//! YAML that a person wrote, read so that everything wrong with it can be told at once.
//!
//! In: a file. Out: a [`Document`]: a tree in which every key and value knows its line and column. The tree is then read by
//! [`Reader`](field_reader::Reader) into typed structs; what does not fit becomes a [`Problem`] with position, field path, remedy and
//! a few lines of the file, and reading goes on. A plain `Deserialize` would stop at the first mistake.
//!
//! Runs on the caller's thread, before anything starts. The input is bounded: [`MAX_BYTES`], nesting, nodes and aliases have
//! limits, and what exceeds them is refused with a message. Credentials never reach a problem's snippet (see `snippet.rs`).
//!
//! A document may have parts that do not stand in its file: lists of other files at the end of its own ([`Document::append`]), and values
//! that stand in the place of some ([`Document::put`]). Each place knows which part it is in.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::platform::hex::hex;
use crate::platform::userinfo::{masked, shown, without};
use crate::yaml::problem::{Problem, Severity};

pub mod address;
pub mod checks;
pub mod field_reader;
pub mod key_reference;
pub mod problem;
pub mod secrets;
pub mod snippet;
pub mod suggest;
pub mod text_form;
mod tree;
pub mod units;
pub mod values;

pub use suggest::nearest;
pub use tree::{Entry, Node, Place, Value};

/// Largest file we read. A configuration of a thousand cameras has a quarter of this.
pub const MAX_BYTES: u64 = 1 << 20;

/// A parsed file: its text and its tree.
#[derive(Debug)]
pub struct Document {
    file: PathBuf,
    /// The file whose folder relative paths start at, where that is another.
    base: Option<PathBuf>,
    text: String,
    root: Node,
    /// Byte ranges of `text` that must not be shown, sorted, not overlapping.
    hidden: Vec<std::ops::Range<usize>>,
    /// Of the file as it lies there, in hexadecimal digits.
    sha256: String,
    /// What does not stand in the file, in the order of its coming: the first is part 1.
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    /// A text in the place of a value, and what it is called.
    Put { name: String, text: String },
    /// Another file, with where its items begin in each list that it has added to.
    Appended { file: Document, begins: Vec<(String, usize)> },
}

/// One step of a way through a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Key(String),
    Item(usize),
}

impl Document {
    /// Reads and parses `file`.
    ///
    /// # Errors
    /// One problem about the whole file: it cannot be read, is too large, is not UTF-8, or is not YAML.
    pub fn read(file: &Path) -> Result<Self, Box<Problem>> {
        let refuse = |message: String, remedy: &str| bare(file, message, remedy);
        let handle = File::open(file)
            .map_err(|error| refuse(format!("cannot be opened ({error})"), "check the path and its permissions"))?;
        let bytes = bounded(handle)
            .map_err(|error| refuse(format!("cannot be read ({error})"), "name a readable YAML file"))?;
        Self::parse(file, &bytes)
    }

    /// Parses `bytes` as if they were the content of `file`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self, Box<Problem>> {
        if bytes.len() as u64 > MAX_BYTES {
            let message = format!("is larger than {} KiB, the most that is read", MAX_BYTES / 1024);
            return Err(bare(file, message, "name a vtagd YAML file, or split the labels into several files"));
        }
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text).to_owned(),
            Err(error) => {
                let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
                let message = format!("is not UTF-8 text (first wrong byte in line {line})");
                return Err(bare(file, message, "save it as UTF-8"));
            }
        };
        match tree::parse(&text) {
            Ok(root) => {
                let hidden = snippet::hidden_in_tree(&text, &root);
                let sha256 = hex(&Sha256::digest(bytes));
                Ok(Self { file: file.to_path_buf(), base: None, text, root, hidden, sha256, parts: Vec::new() })
            }
            Err(failure) => {
                let hidden = snippet::hidden_in_text(&text);
                let snippet = failure.place.map(|place| snippet::render(&text, &hidden, place)).unwrap_or_default();
                Err(Box::new(Problem {
                    position: failure.place.map(Place::position),
                    snippet,
                    ..*bare(file, failure.message, failure.remedy)
                }))
            }
        }
    }

    /// Relative paths in it start where those in `file` do: it is a copy of that.
    #[must_use]
    pub fn as_copy_of(self, file: &Path) -> Self {
        Self { base: Some(file.to_path_buf()), ..self }
    }

    /// The same file with another text.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn with_text(&self, text: &str) -> Result<Self, Box<Problem>> {
        Ok(Self { base: self.base.clone(), ..Self::parse(&self.file, text.as_bytes())? })
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The file as it was read, without a byte-order mark.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn root(&self) -> &Node {
        &self.root
    }

    /// The file's own characters of a scalar, such as `007` for the number seven; `None` where it is quoted or unknown.
    pub(crate) fn raw(&self, place: Place) -> Option<&str> {
        let text = match self.part(place) {
            Some(Part::Put { text, .. }) => text,
            Some(Part::Appended { file, .. }) => &file.text,
            None => &self.text,
        };
        text.get(place.range()?).map(str::trim)
    }

    /// Puts `text`, a value in YAML that is called `name`, in the place of what stands at the end of `way`. Sections that are not there
    /// are made, items of lists are not. What is wrong with the value is told under `name`, and without a piece of the file.
    ///
    /// # Errors
    /// Text that is not YAML; a list without that item.
    pub fn put(&mut self, name: &str, way: &[Step], text: &str) -> Result<(), Box<Problem>> {
        let refuse = |message: String, remedy: &str| bare(Path::new(name), message, remedy);
        // The parser may repeat what it does not understand, and nobody knows what it is.
        let parsed = tree::parse(text).map_err(|_| refuse("is not a value in YAML".to_owned(), "put it in quotes"))?;
        self.parts.push(Part::Put { name: name.to_owned(), text: text.to_owned() });
        let part = self.parts.len();
        let here = Place::START.within(part);
        let mut node = &mut self.root;
        for step in way {
            node = match step {
                Step::Key(key) => {
                    if !matches!(node.value, Value::Map(_)) {
                        node.value = Value::Map(Vec::new());
                    }
                    let Value::Map(entries) = &mut node.value else { return Ok(()) };
                    let at = entries.iter().position(|entry| entry.key == *key).unwrap_or_else(|| {
                        let value = Node { place: here, value: Value::Null };
                        entries.push(Entry { key: key.clone(), key_place: here, value });
                        entries.len() - 1
                    });
                    &mut entries[at].value
                }
                Step::Item(number) => match &mut node.value {
                    Value::List(items) if *number < items.len() => &mut items[*number],
                    _ => {
                        let message = format!("names item {number} of a list that has no such item");
                        return Err(refuse(
                            message,
                            "items are counted from 0, and only those of the file can be changed",
                        ));
                    }
                },
            };
        }
        *node = parsed.moved(&|place| place.within(part));
        Ok(())
    }

    /// Leaves those items of the list `key` out that are not to be kept.
    pub fn retain(&mut self, key: &str, mut keep: impl FnMut(&Node) -> bool) {
        let Value::Map(entries) = &mut self.root.value else { return };
        for entry in entries.iter_mut().filter(|entry| entry.key == key) {
            if let Value::List(items) = &mut entry.value.value {
                items.retain(&mut keep);
            }
        }
    }

    /// Adds the lists `keys` of another file to the end of this one's, and takes nothing else of it; what is wrong with it is given back.
    pub fn append(&mut self, mut other: Self, keys: &[&str]) -> Vec<Problem> {
        let part = self.parts.len() + 1;
        let Value::Map(entries) = &mut self.root.value else { return Vec::new() };
        let mut reader = field_reader::Reader::new(&other);
        let _ = reader.map(&other.root, "", keys);
        let mut begins = Vec::new();
        let theirs = if let Value::Map(entries) = &other.root.value { entries.as_slice() } else { &[] };
        for entry in theirs.iter().filter(|entry| keys.contains(&entry.key.as_str())) {
            let items = match &entry.value.value {
                Value::Null => continue,
                Value::List(items) => items,
                _ => {
                    reader.mismatch(&entry.value, &entry.key, "a list", "write one item a line after `- `");
                    continue;
                }
            };
            let own = entries.iter().position(|own| own.key == entry.key).unwrap_or_else(|| {
                let place = entry.value.place.within(part);
                let value = Node { place, value: Value::Null };
                entries.push(Entry { key: entry.key.clone(), key_place: place, value });
                entries.len() - 1
            });
            let own = &mut entries[own].value.value;
            if matches!(own, Value::Null) {
                *own = Value::List(Vec::new());
            }
            // One that is no list is told already.
            let Value::List(own) = own else { continue };
            begins.push((entry.key.clone(), own.len()));
            own.extend(items.iter().cloned().map(|item| item.moved(&|place| place.within(part))));
        }
        let problems = reader.finish();
        // Only its text is needed from here on.
        other.root.value = Value::Null;
        self.parts.push(Part::Appended { file: other, begins });
        problems
    }

    fn part(&self, place: Place) -> Option<&Part> {
        self.parts.get(place.part().checked_sub(1)?)
    }

    /// The file that a place is in. What does not come from one counts as part of the document's own.
    pub fn file_of(&self, place: Place) -> &Path {
        match self.part(place) {
            Some(Part::Appended { file, .. }) => &file.file,
            _ => &self.file,
        }
    }

    /// `path` as written at `place`: relative ones start at the folder of the file that they stand in.
    pub fn resolve(&self, place: Place, path: &Path) -> PathBuf {
        match (self.part(place), &self.base) {
            (None | Some(Part::Put { .. }), Some(base)) => relative_to(base, path),
            _ => relative_to(self.file_of(place), path),
        }
    }

    /// What a person at `here` calls the line of `place`.
    pub fn line(&self, place: Place, here: Place) -> String {
        if place.part() == here.part() {
            return format!("line {}", place.line);
        }
        match self.part(place) {
            Some(Part::Put { name, .. }) => name.clone(),
            _ => format!("{}:{}", shown(self.file_of(place)), place.line),
        }
    }

    /// The files that were [added](Self::append), in that order.
    pub fn appended(&self) -> impl Iterator<Item = &Path> {
        self.parts
            .iter()
            .filter_map(|part| if let Part::Appended { file, .. } = part { Some(&*file.file) } else { None })
    }

    /// SHA-256 of the file, as `sha256sum` has it.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Follows `path` (`labels[2].exit`) as far as the tree goes; the last node that exists.
    pub fn find(&self, path: &str) -> &Node {
        let mut node = &self.root;
        for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
            let next = match (&node.value, step.strip_suffix(']')) {
                (Value::List(items), Some(index)) => index.parse().ok().and_then(|index: usize| items.get(index)),
                (Value::Map(entries), None) => entries.iter().find(|entry| entry.key == step).map(|entry| &entry.value),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }

    /// What stands at `path`, if anything does.
    pub fn find_exactly(&self, path: &str) -> Option<&Node> {
        path.split(['.', '[']).filter(|step| !step.is_empty()).try_fold(&self.root, |node, step| {
            match (&node.value, step.strip_suffix(']')) {
                (Value::List(items), Some(index)) => items.get(index.parse::<usize>().ok()?),
                (Value::Map(entries), None) => entries.iter().find(|entry| entry.key == step).map(|entry| &entry.value),
                _ => None,
            }
        })
    }

    /// A finding at `place`, with the lines around it.
    pub fn problem(
        &self,
        severity: Severity,
        place: Place,
        field: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Problem {
        // Both may repeat what stands in the file, with a scheme or as a path.
        let value = if let Value::Text(value) = &self.find(field).value { value } else { "" };
        let told = |text: String| masked(&without(&text, value)).into_owned();
        let (message, remedy) = (told(message.into()), told(remedy.into()));
        let (document, field) = match self.part(place) {
            Some(Part::Put { name, .. }) => {
                return Problem { severity, field: field.to_owned(), remedy, ..*bare(Path::new(name), message, "") };
            }
            Some(Part::Appended { file, begins }) => (file, in_own_list(field, begins)),
            None => (self, field.to_owned()),
        };
        Problem {
            severity,
            file: document.file.clone(),
            position: Some(place.position()),
            field,
            message,
            remedy,
            snippet: snippet::render(&document.text, &document.hidden, place),
        }
    }

    /// Where a problem comes in an order of all: this file's and what stands in its place, then the others as they were added.
    pub(crate) fn order(&self, problem: &Problem) -> (usize, Option<(u64, u64)>) {
        let file = self.appended().position(|file| *file == *problem.file);
        (file.map_or(0, |index| index + 1), problem.position)
    }
}

/// `streams[7].url` as `streams[2].url`, where the items of the file that it is about begin with the fifth.
fn in_own_list(field: &str, begins: &[(String, usize)]) -> String {
    let own = begins.iter().find_map(|(key, begin)| {
        let (index, rest) = field.strip_prefix(key)?.strip_prefix('[')?.split_once(']')?;
        Some(format!("{key}[{}]{rest}", index.parse::<usize>().ok()?.checked_sub(*begin)?))
    });
    own.unwrap_or_else(|| field.to_owned())
}

/// All of `input`, and one byte more than allowed at most, which tells "exactly full" from "too large" where nothing says a size.
///
/// # Errors
/// When it cannot be read.
pub fn bounded(input: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Resolves a path written in `file` against the folder that holds `file`.
pub fn relative_to(file: &Path, path: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if path.is_relative() => folder.join(path),
        _ => path.to_path_buf(),
    }
}

fn bare(file: &Path, message: String, remedy: &str) -> Box<Problem> {
    Box::new(Problem {
        severity: Severity::Error,
        file: file.to_path_buf(),
        position: None,
        field: String::new(),
        message: masked(&message).into_owned(),
        remedy: remedy.to_owned(),
        snippet: String::new(),
    })
}
