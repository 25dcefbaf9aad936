//! YAML that a person wrote, read so that everything wrong with it can be told at once.
//!
//! In: a file. Out: a [`Document`]: a tree in which every key and value knows its line and column. The tree is then read by
//! [`Reader`](field_reader::Reader) into typed structs; what does not fit becomes a [`Problem`] with position, field path, remedy and
//! a few lines of the file, and reading goes on. A plain `Deserialize` would stop at the first mistake.
//!
//! Runs on the caller's thread, before anything starts. The input is bounded: [`MAX_BYTES`], nesting, nodes and aliases have
//! limits, and what exceeds them is refused with a message. Credentials never reach a problem's snippet (see `snippet.rs`).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::platform::userinfo::{masked, without};
use crate::yaml::problem::{Problem, Severity};

pub mod address;
pub mod checks;
pub mod field_reader;
pub mod problem;
pub mod secrets;
pub mod snippet;
mod suggest;
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
    text: String,
    root: Node,
    /// Byte ranges of `text` that must not be shown, sorted, not overlapping.
    hidden: Vec<std::ops::Range<usize>>,
    /// Texts that stand in the place of values of the file, and what they are called.
    put: Vec<(String, String)>,
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
        let mut bytes = Vec::new();
        // One byte more than allowed tells "exactly full" from "too large", for files that do not say their size too.
        handle
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
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
                Ok(Self { file: file.to_path_buf(), text, root, hidden, put: Vec::new() })
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
        let text = match place.of_put() {
            Some(index) => &self.put.get(index)?.1,
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
        let index = self.put.len();
        self.put.push((name.to_owned(), text.to_owned()));
        let here = Place::START.put(index);
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
        *node = parsed.moved(&|place| place.put(index));
        Ok(())
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
        if let Some((name, _)) = place.of_put().and_then(|index| self.put.get(index)) {
            return Problem { severity, field: field.to_owned(), remedy, ..*bare(Path::new(name), message, "") };
        }
        Problem {
            severity,
            file: self.file.clone(),
            position: Some(place.position()),
            field: field.to_owned(),
            message,
            remedy,
            snippet: snippet::render(&self.text, &self.hidden, place),
        }
    }
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
