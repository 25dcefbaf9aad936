//! From the tree to typed structs, collecting every problem on the way. Pure.
//!
//! A struct declared with [`section!`](crate::section) knows its keys: unknown ones are refused with a suggestion, repeated ones
//! with both lines. A value that does not fit is reported and leaves [`Field::Wrong`], so that nobody complains a second
//! time that it is missing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Document, Node, Place, Value, suggest};
use crate::yaml::key_reference::Key;
use crate::yaml::problem::{Problem, Severity};
use crate::yaml::secrets::Absence;

/// Problems kept of one file. A person mends these first; the rest is only counted.
const MAX_PROBLEMS: usize = 200;

/// A value with its place and YAML path.
#[derive(Clone)]
pub struct At<T> {
    pub value: T,
    pub place: Place,
    pub path: String,
}

/// One key of a section.
pub enum Field<T> {
    /// Left out.
    Missing,
    /// There, but not readable; the reader has reported it.
    Wrong,
    Given(At<T>),
}

impl<T> Field<T> {
    pub fn given(&self) -> Option<&At<T>> {
        match self {
            Self::Given(at) => Some(at),
            Self::Missing | Self::Wrong => None,
        }
    }

    /// The value alone, if it was given and readable.
    pub fn into_value(self) -> Option<T> {
        match self {
            Self::Given(at) => Some(at.value),
            Self::Missing | Self::Wrong => None,
        }
    }

    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing)
    }

    /// The value, `default` where it was left out. On `None` a problem has been reported.
    pub fn or_default<'f>(&'f self, default: &'f T) -> Option<&'f T> {
        match self {
            Self::Missing => Some(default),
            Self::Wrong => None,
            Self::Given(at) => Some(&at.value),
        }
    }

    /// What `check` makes of the value, `default` where it was left out. On `None` a problem has been reported.
    pub fn checked<U>(&self, default: U, check: impl FnOnce(&At<T>) -> Option<U>) -> Option<U> {
        match self {
            Self::Missing => Some(default),
            Self::Wrong => None,
            Self::Given(at) => check(at),
        }
    }
}

impl<T: Clone> Field<T> {
    /// The value, if it was given and readable.
    pub fn value(&self) -> Option<T> {
        self.given().map(|at| at.value.clone())
    }
}

/// What can be read from a node.
pub trait FromNode: Sized {
    /// Whether a key without a value counts as left out, as when all lines of a section are commented out.
    const NULL_IS_MISSING: bool = false;

    /// Reads `node`; on `None` a problem has been reported.
    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self>;

    /// What fits here, as JSON Schema: for editors, so it may let through what [`from_node`](Self::from_node) refuses, never the reverse.
    fn schema() -> serde_json::Value;

    /// Adds all keys below `path`, `[]` for any item of a list.
    fn keys(_path: &str, _out: &mut Vec<Key>) {}
}

/// `path` with `key` added.
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Collects problems of one document.
pub struct Reader<'d> {
    document: &'d Document,
    absence: Absence,
    problems: Vec<Problem>,
    /// Those that were not kept: how many, and how bad the worst of them is.
    unkept: usize,
    worst_unkept: Severity,
}

impl<'d> Reader<'d> {
    pub fn new(document: &'d Document) -> Self {
        Self::with(document, Absence::default())
    }

    /// For somebody who may not have every credential.
    pub fn with(document: &'d Document, absence: Absence) -> Self {
        Self { document, absence, problems: Vec::new(), unkept: 0, worst_unkept: Severity::Notice }
    }

    /// What becomes of credentials that are not here.
    pub fn absence(&self) -> Absence {
        self.absence
    }

    pub fn document(&self) -> &'d Document {
        self.document
    }

    /// The path that is written at `at`.
    pub fn path(&self, at: &At<String>) -> PathBuf {
        self.document.resolve(at.place, Path::new(&at.value))
    }

    /// What a person at `here` calls the line of `place`.
    pub fn line(&self, place: Place, here: Place) -> String {
        self.document.line(place, here)
    }

    /// Reads the whole document. `None` if it is not even the right kind of thing.
    pub fn root<T: FromNode>(&mut self) -> Option<At<T>> {
        let node = self.document.root();
        let value = T::from_node(node, "", self)?;
        Some(At { value, place: node.place, path: String::new() })
    }

    /// What was found so far.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Everything found, in the order of the file.
    pub fn finish(mut self) -> Vec<Problem> {
        let document = self.document;
        self.problems.sort_by_key(|problem| document.order(problem));
        if self.unkept > 0 {
            let message = format!("{} more problems are not shown", self.unkept);
            let place = self.document.root().place;
            self.problems.push(self.document.problem(self.worst_unkept, place, "", message, "mend these first"));
        }
        self.problems
    }

    /// Whether something found so far is an error.
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }

    pub fn report(
        &mut self,
        severity: Severity,
        place: Place,
        path: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if !self.keeps(severity) {
            self.unkept += 1;
            self.worst_unkept = self.worst_unkept.max(severity);
            return;
        }
        if self.problems.len() >= MAX_PROBLEMS
            && let Some(less) = self.problems.iter().rposition(|kept| kept.severity < severity)
        {
            self.unkept += 1;
            self.worst_unkept = self.worst_unkept.max(self.problems.remove(less).severity);
        }
        self.problems.push(self.document.problem(severity, place, path, message, remedy));
    }

    /// Whether there is room for another one: an error takes that of a warning, however many of those came before it.
    fn keeps(&self, severity: Severity) -> bool {
        self.problems.len() < MAX_PROBLEMS || self.problems.iter().any(|kept| kept.severity < severity)
    }

    pub fn error<T>(&mut self, at: &At<T>, message: impl Into<String>, remedy: impl Into<String>) {
        self.report(Severity::Error, at.place, &at.path, message, remedy);
    }

    /// As [`error`](Self::error), for whoever has nothing to give then.
    pub fn refuse<T, U>(&mut self, at: &At<T>, message: impl Into<String>, remedy: impl Into<String>) -> Option<U> {
        self.error(at, message, remedy);
        None
    }

    /// The same for a node that is being read.
    pub fn refuse_node<U>(
        &mut self,
        node: &Node,
        path: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Option<U> {
        self.report(Severity::Error, node.place, path, message, remedy);
        None
    }

    /// The same for one of another kind; see [`mismatch`](Self::mismatch).
    pub fn refuse_kind<U>(&mut self, node: &Node, path: &str, expected: &str, remedy: &str) -> Option<U> {
        self.mismatch(node, path, expected, remedy);
        None
    }

    pub fn warn<T>(&mut self, at: &At<T>, message: impl Into<String>, remedy: impl Into<String>) {
        self.report(Severity::Warning, at.place, &at.path, message, remedy);
    }

    /// Reports that `key` is missing in `section`.
    pub fn missing<T>(&mut self, section: &At<T>, key: &str, remedy: impl Into<String>) {
        let path = join(&section.path, key);
        self.report(Severity::Error, section.place, &path, "is missing", remedy);
    }

    /// `field` if it was given and readable; that it is missing in `section` is reported.
    pub fn required<'f, S, T>(
        &mut self,
        section: &At<S>,
        key: &str,
        field: &'f Field<T>,
        remedy: impl Into<String>,
    ) -> Option<&'f At<T>> {
        if field.is_missing() {
            self.missing(section, key, remedy);
        }
        field.given()
    }

    /// The value of `at` if it is `good`; that it is not is reported.
    pub fn accept<T: Clone>(
        &mut self,
        at: &At<T>,
        good: bool,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Option<T> {
        if !good {
            self.error(at, message, remedy);
        }
        good.then(|| at.value.clone())
    }

    /// Reports that `node` is not what was `expected`. The value is not repeated: it may be a credential.
    pub fn mismatch(&mut self, node: &Node, path: &str, expected: &str, remedy: &str) {
        let message = match node.value {
            Value::Null => format!("has no value, {expected} is expected"),
            _ => format!("expected {expected}, found {}", node.value.kind()),
        };
        self.report(Severity::Error, node.place, path, message, remedy);
    }

    /// Opens a mapping with the given keys, reporting unknown and repeated ones.
    pub fn map<'n>(&mut self, node: &'n Node, path: &str, known: &[&str]) -> Option<MapReader<'n>> {
        self.map_offering(node, path, known, known)
    }

    /// As [`Self::map`], where whoever wrote an unknown key is offered fewer than are known.
    pub fn map_offering<'n>(
        &mut self,
        node: &'n Node,
        path: &str,
        known: &[&str],
        offered: &[&str],
    ) -> Option<MapReader<'n>> {
        let entries: &[super::Entry] = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            _ => {
                self.mismatch(node, path, "a mapping", &format!("write keys: {}", offered.join(", ")));
                return None;
            }
        };
        let mut found: HashMap<&str, &super::Entry> = HashMap::new();
        for entry in entries {
            let at = join(path, &entry.key);
            if let Some(first) = found.get(entry.key.as_str()) {
                let message = format!("is given twice (first in line {})", first.key_place.line);
                self.report(Severity::Error, entry.key_place, &at, message, "keep one of them");
            } else if !(known.contains(&entry.key.as_str()) || path.is_empty() && entry.key.starts_with("x-")) {
                let remedy = if !self.keeps(Severity::Error) {
                    String::new()
                } else {
                    match suggest::nearest(&entry.key, offered) {
                        Some(word) => format!("did you mean `{word}`?"),
                        None => format!("known here: {}", offered.join(", ")),
                    }
                };
                self.report(Severity::Error, entry.key_place, &at, "is an unknown key", remedy);
            }
            found.entry(&entry.key).or_insert(entry);
        }
        Some(MapReader { path: path.to_owned(), found })
    }
}

/// An open mapping.
pub struct MapReader<'n> {
    path: String,
    found: HashMap<&'n str, &'n super::Entry>,
}

impl MapReader<'_> {
    /// Reads a key; a second time it is missing.
    pub fn field<T: FromNode>(&mut self, key: &str, reader: &mut Reader<'_>) -> Field<T> {
        let Some(entry) = self.found.remove(key) else { return Field::Missing };
        let node = &entry.value;
        if T::NULL_IS_MISSING && matches!(node.value, Value::Null) {
            return Field::Missing;
        }
        let path = join(&self.path, key);
        match T::from_node(node, &path, reader) {
            Some(value) => Field::Given(At { value, place: node.place, path }),
            None => Field::Wrong,
        }
    }
}

/// What fits a key of a section: nothing too, where that counts as left out.
pub fn property<T: FromNode>() -> serde_json::Value {
    let schema = T::schema();
    if T::NULL_IS_MISSING { serde_json::json!({ "anyOf": [schema, { "type": "null" }] }) } else { schema }
}

/// A mapping of these keys and no others.
pub fn object(keys: serde_json::Map<String, serde_json::Value>) -> serde_json::Value {
    serde_json::json!({ "type": "object", "properties": keys, "additionalProperties": false })
}

/// A mapping of known keys, as [`section!`](crate::section) declares one.
pub trait Section: Sized {
    const KEYS: &'static [&'static str];

    /// Reads its keys and leaves others.
    fn read(map: &mut MapReader<'_>, reader: &mut Reader<'_>) -> Self;

    /// What fits each key, as JSON Schema.
    fn properties() -> serde_json::Map<String, serde_json::Value>;

    /// See [`FromNode::keys`].
    fn paths(path: &str, out: &mut Vec<Key>);
}

impl<T: Section> FromNode for T {
    const NULL_IS_MISSING: bool = true;

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let mut map = reader.map(node, path, Self::KEYS)?;
        Some(Self::read(&mut map, reader))
    }

    fn schema() -> serde_json::Value {
        object(Self::properties())
    }

    fn keys(path: &str, out: &mut Vec<Key>) {
        Self::paths(path, out);
    }
}

/// Declares a struct of [`Field`]s that reads itself from a mapping, each key once: `"key" => field: Type`. The comment of a key is what
/// the reference and the JSON Schema say of it: [`Key`].
#[macro_export]
macro_rules! section {
    ($(#[$meta:meta])* $visibility:vis struct $name:ident { $($(#[doc = $doc:literal])* $key:literal => $field:ident: $type:ty),* $(,)? }) => {
        $(#[$meta])*
        $visibility struct $name { $(pub $field: $crate::yaml::field_reader::Field<$type>),* }

        impl $crate::yaml::field_reader::Section for $name {
            const KEYS: &'static [&'static str] = &[$($key),*];

            fn read(
                map: &mut $crate::yaml::field_reader::MapReader<'_>,
                reader: &mut $crate::yaml::field_reader::Reader<'_>,
            ) -> Self {
                Self { $($field: map.field($key, reader)),* }
            }

            fn properties() -> ::serde_json::Map<String, ::serde_json::Value> {
                let mut keys = ::serde_json::Map::new();
                $(
                    let schema = $crate::yaml::field_reader::property::<$type>();
                    keys.insert($key.to_owned(), $crate::yaml::key_reference::described(schema, concat!($($doc, "\n"),*)));
                )*
                keys
            }

            fn paths(path: &str, out: &mut Vec<$crate::yaml::key_reference::Key>) {
                $(
                    let key = $crate::yaml::field_reader::join(path, $key);
                    out.push($crate::yaml::key_reference::Key {
                        path: key.clone(),
                        doc: concat!($($doc, "\n"),*),
                        of: "",
                    });
                    <$type as $crate::yaml::field_reader::FromNode>::keys(&key, out);
                )*
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $crate::yaml::field_reader::Field::Missing),* }
            }
        }
    };
}

/// Lets an enum be read from one of a few words: `words! { Mode { "model" => Mode::Model, … } }`.
#[macro_export]
macro_rules! words {
    ($($type:ty { $($word:literal => $value:expr),* $(,)? })*) => {$(
        impl $crate::yaml::field_reader::FromNode for $type {
            fn from_node(
                node: &$crate::yaml::Node,
                path: &str,
                reader: &mut $crate::yaml::field_reader::Reader<'_>,
            ) -> Option<Self> {
                match reader.word(node, path, &[$($word),*])? {
                    $($word => Some($value),)*
                    _ => None,
                }
            }

            fn schema() -> ::serde_json::Value {
                ::serde_json::json!({ "enum": [$($word),*] })
            }
        }
    )*};
}

impl Reader<'_> {
    /// Reads one of `words`.
    pub fn word(&mut self, node: &Node, path: &str, words: &[&'static str]) -> Option<&'static str> {
        let choices = words.join(", ");
        let Value::Text(text) = &node.value else {
            self.mismatch(node, path, &format!("one of {choices}"), "write one of these words");
            return None;
        };
        let found = words.iter().find(|word| *word == text).copied();
        if found.is_none() {
            let remedy = match suggest::nearest(text, words) {
                Some(word) => format!("did you mean `{word}`? Known: {choices}"),
                None => format!("choose one of {choices}"),
            };
            self.report(Severity::Error, node.place, path, "is an unknown word", remedy);
        }
        found
    }
}
