//! What may stand behind the question mark of a route (`route_table.rs`). In: the query as it came. Out: [`Parameters`], each of them known, given once
//! and within its bounds, or why not; and how the OpenAPI document tells of them. The guard reads the query of every request before its route
//! sees it, so that no route can forget to. Pure; a head of a request is bounded, so a query is.

use jiff::Timestamp;
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::history::search_answer::{MAX_PROMPT, prompt};
use crate::yaml::units;

/// Longest name that is looked for, in characters: longer than any id, name or word of a configuration.
const MAX_TEXT: usize = 256;
/// Of a name that nobody knows, so much is said back.
const MAX_ECHO: usize = 64;

/// One parameter of a route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter {
    pub name: &'static str,
    pub kind: ParameterKind,
    /// For people, in the document.
    pub meaning: &'static str,
}

/// What a parameter may say.
#[derive(Clone, Copy, Debug)]
pub(super) enum ParameterKind {
    /// A name, as it stands in the configuration.
    Text,
    /// What the model is asked for, in words.
    Prompt {
        required: bool,
    },
    /// `true` or `false`, which it is where it is left out.
    Flag,
    /// A whole number.
    Count {
        least: u64,
        most: u64,
        /// What it is where it is left out, if that is a number.
        default: Option<u64>,
    },
    Word(&'static [&'static str]),
    /// Names with commas between them.
    Texts,
    /// Some of these, with commas between them.
    Words(&'static [&'static str]),
    /// A point in time, or how long ago.
    Time,
    /// Where the page before has ended: a letter, and so many hexadecimal digits.
    Cursor {
        letter: char,
        digits: usize,
    },
    /// A moment of a stream: a point in time, or seconds of a file.
    Moment,
    /// One of the others, which is not to be left out.
    Required(&'static ParameterKind),
}

#[derive(Clone, Debug, PartialEq)]
enum Parsed {
    Text(String),
    Texts(Vec<String>),
    Flag(bool),
    Count(u64),
    Time(Timestamp),
}

/// The parameters of a request, as its route takes them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Parameters(Vec<(&'static str, Parsed)>);

impl Parameters {
    /// Reads `query` for a route that takes `known`; `now` is what "how long ago" is counted from.
    ///
    /// # Errors
    /// The first thing that is wrong, for people.
    pub fn read(query: Option<&str>, known: &[Parameter], now: Timestamp) -> Result<Self, String> {
        let mut read = Self::default();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let Some(parameter) = known.iter().find(|parameter| parameter.name == name) else {
                return Err(unknown(&name, known));
            };
            let name = parameter.name;
            if read.find(name).is_some() {
                return Err(format!("the parameter {name} is given twice"));
            }
            // It stands for bytes that are no text.
            if value.contains(char::REPLACEMENT_CHARACTER) {
                return Err(format!("the parameter {name} is not UTF-8"));
            }
            let parsed = parameter.kind.parse(&value, now);
            read.0
                .push((name, parsed.ok_or_else(|| format!("the parameter {name} is {}", parameter.kind.expected()))?));
        }
        let missing =
            |one: &&Parameter| matches!(one.kind, ParameterKind::Required(_)) && read.find(one.name).is_none();
        if let Some(Parameter { name, kind, .. }) = known.iter().find(missing) {
            return Err(format!("the parameter {name} is missing: it is {}", kind.expected()));
        }
        Ok(read)
    }

    fn find(&self, name: &str) -> Option<&Parsed> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, parsed)| parsed)
    }

    /// Whether none was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A text, word or cursor.
    pub fn text(&self, name: &str) -> Option<&str> {
        if let Some(Parsed::Text(text)) = self.find(name) { Some(text) } else { None }
    }

    /// Texts or words.
    pub fn texts(&self, name: &str) -> Option<&[String]> {
        if let Some(Parsed::Texts(texts)) = self.find(name) { Some(texts) } else { None }
    }

    pub fn flag(&self, name: &str) -> bool {
        self.find(name) == Some(&Parsed::Flag(true))
    }

    pub fn count(&self, name: &str) -> Option<u64> {
        if let Some(Parsed::Count(count)) = self.find(name) { Some(*count) } else { None }
    }

    pub fn time(&self, name: &str) -> Option<Timestamp> {
        if let Some(Parsed::Time(time)) = self.find(name) { Some(*time) } else { None }
    }
}

/// Says that there is no parameter `name`, and which there are.
fn unknown(name: &str, known: &[Parameter]) -> String {
    let name: String = name.chars().take(MAX_ECHO).collect();
    if known.is_empty() {
        return format!("there is no parameter {name:?}: this path takes none");
    }
    let known: Vec<&str> = known.iter().map(|parameter| parameter.name).collect();
    format!("there is no parameter {name:?}; known: {}", known.join(", "))
}

impl ParameterKind {
    /// `None`: it cannot be that.
    fn parse(self, text: &str, now: Timestamp) -> Option<Parsed> {
        let as_text = || Parsed::Text(text.to_owned());
        match self {
            Self::Text => (1..=MAX_TEXT).contains(&text.chars().count()).then(as_text),
            Self::Prompt { .. } => prompt(text).is_ok().then(as_text),
            Self::Flag => text.parse().ok().map(Parsed::Flag),
            Self::Count { least, most, .. } => {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let count = if digits { text.parse().ok() } else { None };
                count.filter(|count| (least..=most).contains(count)).map(Parsed::Count)
            }
            Self::Word(words) => words.contains(&text).then(as_text),
            Self::Texts => texts(text, |part| part.chars().count() <= MAX_TEXT),
            Self::Words(words) => texts(text, |part| words.contains(&part)),
            Self::Time => time(text, now).map(Parsed::Time),
            Self::Cursor { letter, digits } => {
                let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                let is_one = |rest: &str| rest.len() == digits && rest.bytes().all(hexadecimal);
                text.strip_prefix(letter).is_some_and(is_one).then(as_text)
            }
            Self::Moment if is_seconds(text) => Some(as_text()),
            Self::Moment => time(text, now).map(|at| Parsed::Text(at.to_string())),
            Self::Required(kind) => kind.parse(text, now),
        }
    }

    /// For people, behind "is".
    fn expected(self) -> String {
        match self {
            Self::Text => format!("a name of 1 to {MAX_TEXT} characters"),
            Self::Prompt { .. } => format!("a text of 1 to {MAX_PROMPT} characters"),
            Self::Flag => "true or false".to_owned(),
            Self::Count { least, most, .. } => format!("a whole number from {least} to {most}"),
            Self::Word(words) => format!("one of {}", words.join(", ")),
            Self::Texts => format!("names of 1 to {MAX_TEXT} characters, with commas between them"),
            Self::Words(words) => format!("some of {}, with commas between them", words.join(", ")),
            Self::Time => {
                "a time such as 2026-05-01T12:00:00Z, or how long ago, such as 30m, 2h or 1d, ten years at most"
                    .to_owned()
            }
            Self::Cursor { .. } => "what `next` of the page before says".to_owned(),
            Self::Moment => format!("seconds of a file such as 12.5, or {}", Self::Time.expected()),
            Self::Required(kind) => kind.expected(),
        }
    }

    fn schema(self) -> Value {
        match self {
            Self::Text => json!({ "type": "string", "minLength": 1, "maxLength": MAX_TEXT }),
            // Not of spaces alone.
            Self::Prompt { .. } => {
                json!({ "type": "string", "minLength": 1, "maxLength": MAX_PROMPT, "pattern": "\\S" })
            }
            Self::Flag => json!({ "type": "boolean", "default": false }),
            Self::Count { least, most, default } => {
                let mut schema = json!({ "type": "integer", "minimum": least, "maximum": most });
                default.into_iter().for_each(|default| schema["default"] = default.into());
                schema
            }
            Self::Word(words) => json!({ "type": "string", "enum": words }),
            Self::Texts => json!({ "type": "array", "minItems": 1, "items": Self::Text.schema() }),
            Self::Words(words) => {
                json!({ "type": "array", "minItems": 1, "items": { "type": "string", "enum": words } })
            }
            Self::Time => json!({ "type": "string", "anyOf": [
                { "format": "date-time" }, { "pattern": "^([0-9]{1,3}d|[0-9]{1,4}h|[0-9]{1,6}(ms|s|m))$" },
            ] }),
            Self::Cursor { letter, digits } => {
                json!({ "type": "string", "pattern": format!("^{letter}[0-9a-f]{{{digits}}}$") })
            }
            Self::Moment => {
                let mut schema = Self::Time.schema();
                if let Some(any) = schema["anyOf"].as_array_mut() {
                    any.push(json!({ "pattern": "^[0-9]{1,9}(\\.[0-9]{1,6})?$" }));
                }
                schema
            }
            Self::Required(kind) => kind.schema(),
        }
    }
}

/// The parts of a list, which are all to be right; there is one at least.
fn texts(text: &str, is_right: impl Fn(&str) -> bool) -> Option<Parsed> {
    let parts: Vec<String> = text.split(',').map(|part| part.trim().to_owned()).collect();
    parts.iter().all(|part| !part.is_empty() && is_right(part)).then_some(Parsed::Texts(parts))
}

/// Whether it is a number of seconds, as the document has it.
fn is_seconds(text: &str) -> bool {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    is_digits(whole, 9) && is_digits(part, 6)
}

/// A point in time, or how long ago.
fn time(text: &str, now: Timestamp) -> Option<Timestamp> {
    // As the document has it: with a unit, and nothing around it.
    let is_ago = text.ends_with(|last: char| last.is_ascii_lowercase()) && !text.contains(char::is_whitespace);
    if let Some(ago) = units::duration(text).filter(|_| is_ago) {
        return now.checked_sub(ago).ok();
    }
    // A plus of an offset that was not written as %2B has become a space.
    let offset = text.len().checked_sub(6).filter(|at| text.as_bytes()[*at] == b' ');
    let mended = offset.map(|at| format!("{}+{}", &text[..at], &text[at + 1..]));
    mended.as_deref().unwrap_or(text).parse().ok()
}

/// The parameters as the document tells them.
pub(super) fn documented(parameters: &[Parameter]) -> impl Iterator<Item = Value> {
    parameters.iter().map(|Parameter { name, kind, meaning }| {
        let required = matches!(kind, ParameterKind::Prompt { required: true } | ParameterKind::Required(_));
        let mut told =
            json!({ "name": name, "in": "query", "required": required, "schema": kind.schema(), "description": meaning });
        if matches!(kind, ParameterKind::Texts | ParameterKind::Words(_)) {
            // With commas, not once for each.
            (told["style"], told["explode"]) = ("form".into(), false.into());
        }
        told
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Parameter] = &[
        Parameter { name: "set", kind: ParameterKind::Text, meaning: "" },
        Parameter { name: "history", kind: ParameterKind::Flag, meaning: "" },
        Parameter {
            name: "limit",
            kind: ParameterKind::Count { least: 1, most: 1000, default: Some(100) },
            meaning: "",
        },
        Parameter { name: "type", kind: ParameterKind::Word(&["start", "end"]), meaning: "" },
        Parameter { name: "since", kind: ParameterKind::Time, meaning: "" },
        Parameter { name: "cursor", kind: ParameterKind::Cursor { letter: 'e', digits: 4 }, meaning: "" },
    ];

    fn now() -> Timestamp {
        "2026-05-01T12:00:00Z".parse().unwrap()
    }

    fn read(query: &str) -> Result<Parameters, String> {
        Parameters::read(Some(query), KNOWN, now())
    }

    #[test]
    fn each_is_taken_as_its_kind() {
        let read = read("set=a%20%26+b&history=true&limit=1000&type=end&since=1h&cursor=e00ff").unwrap();
        assert_eq!(
            (read.text("set"), read.text("type"), read.text("cursor")),
            (Some("a & b"), Some("end"), Some("e00ff"))
        );
        assert!(read.flag("history") && read.count("limit") == Some(1000));
        assert_eq!(read.time("since").unwrap().to_string(), "2026-05-01T11:00:00Z");
        assert!(Parameters::read(None, KNOWN, now()).unwrap().is_empty() && super::Parameters::default().is_empty());
        for offset in ["2026-05-01T13:30:00%2B01:30", "2026-05-01T13:30:00+01:30", "2026-05-01t12:00:00z"] {
            assert_eq!(self::read(&format!("since={offset}")).unwrap().time("since"), Some(now()), "{offset}");
        }
    }

    #[test]
    fn one_that_is_unknown_is_named_with_those_that_are_known() {
        let why = read("limit=5&stt=x").unwrap_err();
        assert!(why.contains("\"stt\"") && why.contains("set, history, limit, type, since, cursor"), "{why}");
        assert!(Parameters::read(Some("x"), &[], now()).unwrap_err().contains("takes none"));
        assert!(read(&format!("{}=1", "x".repeat(10_000))).unwrap_err().len() < 200);
    }

    #[test]
    fn one_that_is_given_twice_or_out_of_its_bounds_is_refused_by_name() {
        let long = format!("set={}", "x".repeat(MAX_TEXT + 1));
        for (query, name) in [
            ("set=a&set=a", "set"),
            ("set=", "set"),
            ("set", "set"),
            ("set=%ff", "set"),
            (long.as_str(), "set"),
            ("history=1", "history"),
            ("history=", "history"),
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=-1", "limit"),
            ("limit=%2B5", "limit"),
            ("limit=1.5", "limit"),
            ("limit=99999999999999999999999", "limit"),
            ("limit=", "limit"),
            ("type=update", "type"),
            ("type=START", "type"),
            ("since=yesterday", "since"),
            ("since=", "since"),
            ("since=2026-05-01", "since"),
            ("since=99999d", "since"),
            ("since=-1h", "since"),
            ("since=0", "since"),
            ("since=+1h", "since"),
            ("cursor=e00f", "cursor"),
            ("cursor=e00fg", "cursor"),
            ("cursor=x00ff", "cursor"),
            ("cursor=e00FF", "cursor"),
            ("cursor=", "cursor"),
        ] {
            let why = read(query).expect_err(query);
            assert!(why.contains(&format!("the parameter {name} ")), "{query}: {why}");
        }
    }

    #[test]
    fn one_that_is_needed_is_missed_by_name_and_a_moment_is_a_time_or_seconds() {
        const NEEDED: &[Parameter] =
            &[Parameter { name: "from", kind: ParameterKind::Required(&ParameterKind::Moment), meaning: "" }];
        let from = |query| Parameters::read(query, NEEDED, now()).map(|read| read.text("from").map(str::to_owned));
        for (query, moment) in [
            ("from=12.5", "12.5"),
            ("from=0", "0"),
            ("from=1h", "2026-05-01T11:00:00Z"),
            ("from=2026-05-01T13:30:00%2B01:30", "2026-05-01T12:00:00Z"),
        ] {
            assert_eq!(from(Some(query)), Ok(Some(moment.to_owned())), "{query}");
        }
        for query in [None, Some("")] {
            assert!(from(query).unwrap_err().contains("the parameter from is missing"), "{query:?}");
        }
        for query in ["from=", "from=-1", "from=1e3", "from=.5", "from=5.", "from=1234567890", "from=noon", "from=inf"]
        {
            assert!(from(Some(query)).unwrap_err().contains("the parameter from is seconds"), "{query}");
        }
        assert_eq!(documented(NEEDED).next().unwrap()["required"], true);
    }

    #[test]
    fn a_limit_beyond_its_bounds_is_told_with_them() {
        assert!(read("limit=1001").unwrap_err().contains("from 1 to 1000"));
    }
}
