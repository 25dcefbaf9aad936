//! How plain values are read from a node: texts, numbers, durations, sizes, lists. Pure.

use super::field_reader::{At, FromNode, Reader};
use super::key_reference::Key;
use super::{Node, Value, units};
use crate::yaml::problem::Severity;

impl FromNode for String {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": ["string", "number", "boolean"] })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        match &node.value {
            Value::Text(text) => return Some(text.clone()),
            // `id: 007` is a text in the eyes of its writer: take the characters of the file.
            Value::Number(_) | Value::Bool(_) => {
                if let Some(raw) = reader.document().raw(node.place) {
                    return Some(raw.to_owned());
                }
                reader.mismatch(node, path, "text", "put it in quotes");
            }
            _ => reader.mismatch(node, path, "text", "write one value"),
        }
        None
    }
}

impl FromNode for bool {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "boolean" })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        match node.value {
            Value::Bool(value) => Some(value),
            _ => reader.refuse_kind(node, path, "true or false", "write true or false, without quotes"),
        }
    }
}

impl FromNode for f64 {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "number" })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let number = match &node.value {
            Value::Number(number) => number.as_f64(),
            _ => None,
        };
        if number.is_none() {
            reader.mismatch(node, path, "a number", "write a finite number without quotes, such as 0.6");
        }
        number
    }
}

impl FromNode for usize {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "integer", "minimum": 0 })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let number = match &node.value {
            Value::Number(number) => number.as_u64().and_then(|number| Self::try_from(number).ok()),
            _ => None,
        };
        const REMEDY: &str = "write a whole number from 0, without quotes";
        match &node.value {
            Value::Number(_) if number.is_none() => {
                reader.report(Severity::Error, node.place, path, "is below 0, or no whole number", REMEDY);
            }
            _ if number.is_none() => reader.mismatch(node, path, "a whole number", REMEDY),
            _ => {}
        }
        number
    }
}

impl FromNode for std::time::Duration {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "anyOf": [{ "type": "string", "pattern": units::DURATION_PATTERN }, { "const": 0 }] })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        measure(node, path, reader, "a duration", units::DURATION_HELP, units::duration)
    }
}

/// A size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl FromNode for Bytes {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "string", "pattern": units::SIZE_PATTERN })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        measure(node, path, reader, "a size", units::SIZE_HELP, |text| units::size(text).map(Self))
    }
}

/// A number within 0..=1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fraction(pub f32);

impl FromNode for Fraction {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "number", "minimum": 0, "maximum": 1 })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let number = f64::from_node(node, path, reader)?;
        if !(0.0..=1.0).contains(&number) {
            return reader.refuse_node(node, path, "is outside 0 to 1", "write a number such as 0.6");
        }
        Some(Self(number as f32))
    }
}

/// Any value, as JSON.
impl FromNode for serde_json::Value {
    fn schema() -> serde_json::Value {
        serde_json::json!(true)
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        Some(match &node.value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => Self::Number(number.clone()),
            Value::Text(text) => Self::String(text.clone()),
            Value::List(_) => {
                let items = Vec::<At<Self>>::from_node(node, path, reader)?;
                Self::Array(items.into_iter().map(|item| item.value).collect())
            }
            Value::Map(entries) => {
                let known: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
                let mut map = reader.map(node, path, &known)?;
                let read = |key: &&str| Some(((*key).to_owned(), map.field::<Self>(key, reader).value()?));
                Self::Object(known.iter().filter_map(read).collect())
            }
        })
    }
}

fn measure<T>(
    node: &Node,
    path: &str,
    reader: &mut Reader<'_>,
    what: &str,
    help: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let text = match &node.value {
        Value::Text(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => {
            return reader.refuse_kind(node, path, what, help);
        }
    };
    let parsed = parse(&text);
    if parsed.is_none() {
        reader.report(Severity::Error, node.place, path, format!("is not {what}"), help);
    }
    parsed
}

impl<T: FromNode> FromNode for Vec<At<T>> {
    const NULL_IS_MISSING: bool = true;

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let Value::List(items) = &node.value else {
            return reader.refuse_kind(node, path, "a list", "write `[a, b]`, or one item a line after `- `");
        };
        let mut list = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            if let Some(value) = T::from_node(item, &path, reader) {
                list.push(At { value, place: item.place, path });
            }
        }
        Some(list)
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "array", "items": T::schema() })
    }

    fn keys(path: &str, out: &mut Vec<Key>) {
        T::keys(&format!("{path}[]"), out);
    }
}
