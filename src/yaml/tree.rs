//! YAML text to a tree of nodes with positions, within fixed budgets. Pure.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::budget::BudgetBreach;
use serde_yaml::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_yaml::{Error as YamlError, Location, Spanned};

/// Where something stands in the text. Line and column count from 1, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: u64,
    pub column: u64,
    /// Byte offset and length, where the parser knows them.
    pub(super) span: Option<(usize, usize)>,
    pub(super) part: usize,
}

impl Place {
    pub const START: Self = Self { line: 1, column: 1, span: None, part: 0 };

    /// The same place in another part of a document; see [`Document`](super::Document).
    pub(super) fn within(self, part: usize) -> Self {
        Self { part, ..self }
    }

    /// Which part of the document it is in; 0: the file itself.
    pub(super) fn part(self) -> usize {
        self.part
    }

    pub fn position(self) -> (u64, u64) {
        (self.line, self.column)
    }

    /// Byte range in the text.
    pub fn range(self) -> Option<Range<usize>> {
        let (start, length) = self.span?;
        Some(start..start.checked_add(length)?)
    }

    fn new(location: Location) -> Self {
        let span = location.span();
        let span = span
            .byte_offset()
            .zip(span.byte_len())
            .and_then(|(offset, length)| Some((usize::try_from(offset).ok()?, usize::try_from(length).ok()?)));
        Self { line: location.line().max(1), column: location.column().max(1), span, part: 0 }
    }
}

/// A value and where it stands. For an alias that is where its anchor is.
#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub value: Value,
}

impl Node {
    /// The node with all places changed.
    pub(super) fn moved(mut self, to: &impl Fn(Place) -> Place) -> Self {
        self.place = to(self.place);
        self.value = match self.value {
            Value::List(items) => Value::List(items.into_iter().map(|item| item.moved(to)).collect()),
            Value::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|entry| Entry { key_place: to(entry.key_place), value: entry.value.moved(to), ..entry })
                    .collect(),
            ),
            other => other,
        };
        self
    }

    pub fn is_empty_list(&self) -> bool {
        matches!(&self.value, Value::List(items) if items.is_empty())
    }
}

/// What a node holds. Booleans are only `true` and `false`: a label named `no` or `off` stays a text.
#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

impl Value {
    /// The kind as a person would call it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// One `key: value`. Repeated keys are kept, in order; the reader reports them.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub key_place: Place,
    pub value: Node,
}

/// Why text is not a tree.
#[derive(Debug)]
pub struct Failure {
    pub place: Option<Place>,
    pub message: String,
    pub remedy: &'static str,
}

/// Parses one YAML document. An empty text is [`Value::Null`].
///
/// # Errors
/// Text that is not YAML, or exceeds a budget.
pub fn parse(text: &str) -> Result<Node, Failure> {
    serde_yaml::from_str_with_options(text, options()).map_err(|error| failure(&error))
}

/// Budgets: a few times what a thousand streams or labels need, a small part of what would hurt. Deep nesting costs stack,
/// aliases multiply (the "billion laughs" attack), so both are tight.
fn options() -> serde_yaml::Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_depth: 16,
            flow_nesting_limit: 16,
            max_events: 300_000,
            max_nodes: 100_000,
            max_aliases: 2_000,
            max_anchors: 500,
            max_recorded_anchor_events: 50_000,
            max_merge_keys: 1_000,
            // One set of defaults merged into a hundred cameras is good style here; the replay limits below do the guarding.
            enforce_alias_anchor_ratio: false,
        },
        emit_comments: false,
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        alias_limits: serde_yaml::alias_limits! {
            max_total_replayed_events: 50_000,
            max_replay_stack_depth: 8,
        },
        strict_booleans: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    }
}

/// The parser's error in words for the person who wrote the file. The text of the file is not repeated.
fn failure(error: &YamlError) -> Failure {
    let mut inner = error.without_snippet();
    while let YamlError::AliasError { error, .. } = inner {
        inner = error.without_snippet();
    }
    let place = error.location().map(Place::new);
    let (message, remedy) = match inner {
        YamlError::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            ("is nested too deep".to_owned(), "write it flatter")
        }
        YamlError::Budget { breach: BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. }, .. } => {
            ("holds too many values".to_owned(), "split the labels into several files")
        }
        YamlError::Budget { .. }
        | YamlError::AliasReplayCounterOverflow { .. }
        | YamlError::AliasReplayLimitExceeded { .. }
        | YamlError::AliasExpansionLimitExceeded { .. }
        | YamlError::AliasReplayStackDepthExceeded { .. } => {
            ("has too many or too large aliases".to_owned(), "write what they stand for, with fewer `*` and `<<`")
        }
        YamlError::MultipleDocuments { .. } => {
            ("holds more than one YAML document".to_owned(), "keep one document a file, without a second `---`")
        }
        YamlError::UnknownAnchor { .. } => (
            "`*` refers to an anchor that does not exist".to_owned(),
            "define it before with `&`, or put text that starts with `*` in quotes",
        ),
        other => {
            let text = other.to_string();
            let text = text.lines().next().unwrap_or_default();
            let text = text.rsplit_once(" at line ").map_or(text, |(text, _)| text);
            let nesting = text.contains("nest") || text.contains("recursion") || text.contains("depth");
            let remedy = if nesting { "write it flatter" } else { "check indentation, colons and quotes here" };
            (format!("is not valid YAML ({text})"), remedy)
        }
    };
    Failure { place, message, remedy }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { place: Place::new(spanned.defined), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // `None` is NaN or infinite, which the parser hands over as text; kept total all the same.
        Ok(serde_json::Number::from_f64(value).map_or_else(|| Value::Text(value.to_string()), Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let value = entries.next_value()?;
            map.push(Entry { key: key.value, key_place: Place::new(key.defined), value });
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> Vec<Entry> {
        match parse(text).expect("valid YAML").value {
            Value::Map(entries) => entries,
            other => panic!("expected a mapping, got {other:?}"),
        }
    }

    #[test]
    fn every_key_and_value_knows_where_it_stands() {
        let entries = map("a: 1\nb:\n  - x\n  - { c: true }\n");
        assert_eq!(entries[0].key_place.position(), (1, 1));
        assert_eq!(entries[0].value.place.position(), (1, 4));
        let Value::List(items) = &entries[1].value.value else { panic!("a list") };
        assert_eq!(items[0].place.position(), (3, 5));
        let Value::Map(inner) = &items[1].value else { panic!("a mapping") };
        assert_eq!(inner[0].key_place.position(), (4, 7));
        assert_eq!(inner[0].value.place.position(), (4, 10));
    }

    #[test]
    fn merged_values_point_at_the_line_that_defines_them() {
        let entries = map("x-base: &base\n  user: bob\ncam:\n  <<: *base\n  id: 1\n");
        let Value::Map(camera) = &entries[1].value.value else { panic!("a mapping") };
        let user = camera.iter().find(|entry| entry.key == "user").expect("merged");
        assert_eq!(user.value.place.position(), (2, 9));
    }

    #[test]
    fn repeated_keys_are_all_kept() {
        assert_eq!(map("a: 1\na: 2\n").len(), 2);
    }

    #[test]
    fn only_true_and_false_are_booleans() {
        let entries = map("a: no\nb: off\nc: true\nd: .nan\n");
        assert!(matches!(&entries[0].value.value, Value::Text(text) if text == "no"));
        assert!(matches!(&entries[1].value.value, Value::Text(text) if text == "off"));
        assert!(matches!(entries[2].value.value, Value::Bool(true)));
        assert!(matches!(&entries[3].value.value, Value::Text(_)));
    }

    #[test]
    fn an_empty_text_is_nothing() {
        assert!(matches!(parse("").expect("empty is fine").value, Value::Null));
        assert!(matches!(parse("# only a comment\n").expect("a comment is fine").value, Value::Null));
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let before = level - 1;
            text.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 10].join(", ")));
        }
        let failure = parse(&text).expect_err("an alias bomb");
        assert!(failure.message.contains("aliases"), "{}", failure.message);
    }

    #[test]
    fn deep_nesting_is_refused() {
        let flow = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let block: String = (0..400).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        for text in [flow, block] {
            let failure = parse(&text).expect_err("nested too deep");
            assert!(failure.remedy.contains("flatter"), "{} {}", failure.message, failure.remedy);
        }
    }

    #[test]
    fn a_second_document_is_refused() {
        let failure = parse("a: 1\n---\nb: 2\n").expect_err("two documents");
        assert!(failure.message.contains("more than one"), "{}", failure.message);
    }
}
