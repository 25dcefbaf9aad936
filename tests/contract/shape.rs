//! The shape of JSON: a line a place, with the types that stand there. Values are dropped but for words of a fixed vocabulary.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

/// Places whose texts are words that others compare with.
const WORDS: &[&str] = &[
    "action",
    "activation",
    "by",
    "codec",
    "datacontenttype",
    "decode",
    "event_type",
    "format",
    "method",
    "mode",
    "outcome",
    "pace",
    "pooling",
    "precision",
    "provider",
    "result",
    "scoring",
    "specversion",
    "state",
    "type",
];

/// Places with a key for each of something, which of them being a matter of the configuration or of the moment.
const MAPS: &[&str] = &["attributes", "dropped"];

/// The shape of all `values` together: `?` marks what some objects lack, `|` stands between types.
pub fn shape<'a>(values: impl IntoIterator<Item = &'a Value>) -> String {
    let mut lines = String::new();
    collect(&values.into_iter().collect::<Vec<_>>(), "", "", &mut lines);
    lines
}

fn collect(values: &[&Value], path: &str, key: &str, lines: &mut String) {
    let mut kinds = BTreeSet::new();
    for value in values {
        kinds.insert(match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "boolean".to_owned(),
            Value::Number(number) if number.is_f64() => "number".to_owned(),
            Value::Number(_) => "integer".to_owned(),
            Value::String(text) if WORDS.contains(&key) => format!("{text:?}"),
            Value::String(text) => text_kind(text).to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        });
    }
    let kinds: Vec<String> = kinds.into_iter().collect();
    // A string takes everything.
    let _ = writeln!(lines, "{}: {}", if path.is_empty() { "." } else { path }, kinds.join(" | "));
    let items: Vec<&Value> = values.iter().filter_map(|value| value.as_array()).flatten().collect();
    if !items.is_empty() {
        collect(&items, &format!("{path}[]"), key, lines);
    }
    if MAPS.contains(&key) {
        return;
    }
    let objects: Vec<_> = values.iter().filter_map(|value| value.as_object()).collect();
    let keys: BTreeSet<&String> = objects.iter().flat_map(|object| object.keys()).collect();
    for key in keys {
        let inner: Vec<&Value> = objects.iter().filter_map(|object| object.get(key)).collect();
        let maybe = if inner.len() < objects.len() { "?" } else { "" };
        collect(&inner, &format!("{path}.{key}{maybe}"), key, lines);
    }
}

/// What can be told of a text that may be anything.
fn text_kind(text: &str) -> &'static str {
    if uuid::Uuid::try_parse(text).is_ok_and(|id| id.to_string() == text) {
        return if text.as_bytes()[14] == b'7' { "uuid v7" } else { "uuid" };
    }
    if text.parse::<jiff::Timestamp>().is_ok() {
        return "time";
    }
    if text.len() >= 32 && text.chars().all(|c| c.is_ascii_hexdigit()) { "hexadecimal" } else { "string" }
}

/// Every key of a JSON Schema with the types it may have.
pub fn keys_of_schema(schema: &Value) -> String {
    let mut lines = std::collections::BTreeMap::new();
    schema_keys(schema, schema, "", 0, &mut lines);
    let line = |(path, kinds): (String, BTreeSet<String>)| {
        format!("{path}: {}\n", kinds.into_iter().collect::<Vec<_>>().join(" | "))
    };
    lines.into_iter().map(line).collect()
}

fn schema_keys(
    root: &Value,
    schema: &Value,
    path: &str,
    depth: usize,
    lines: &mut std::collections::BTreeMap<String, BTreeSet<String>>,
) {
    assert!(depth < 40, "the schema of {path} has no end");
    if let Some(to) = schema["$ref"].as_str() {
        let target = root.pointer(to.trim_start_matches('#')).unwrap();
        return schema_keys(root, target, path, depth + 1, lines);
    }
    for word in ["anyOf", "oneOf", "allOf"] {
        for option in schema[word].as_array().into_iter().flatten() {
            schema_keys(root, option, path, depth + 1, lines);
        }
    }
    let place = if path.is_empty() { "." } else { path }.to_owned();
    let kinds = lines.entry(place).or_default();
    match &schema["type"] {
        Value::String(one) => drop(kinds.insert(limited(one, schema))),
        Value::Array(several) => kinds.extend(several.iter().map(|one| limited(one.as_str().unwrap(), schema))),
        _ => {}
    }
    kinds.extend(schema["enum"].as_array().into_iter().flatten().chain(schema.get("const")).map(Value::to_string));
    for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
        schema_keys(root, inner, &format!("{path}.{key}"), depth + 1, lines);
    }
    for (pattern, inner) in schema["patternProperties"].as_object().into_iter().flatten() {
        schema_keys(root, inner, &format!("{path}./{pattern}/"), depth + 1, lines);
    }
    if schema["additionalProperties"].is_object() {
        schema_keys(root, &schema["additionalProperties"], &format!("{path}.*"), depth + 1, lines);
    }
    for inner in schema.get("items").into_iter().chain(schema["prefixItems"].as_array().into_iter().flatten()) {
        schema_keys(root, inner, &format!("{path}[]"), depth + 1, lines);
    }
}

/// The type with what bounds it.
fn limited(kind: &str, schema: &Value) -> String {
    let mut told = kind.to_owned();
    let bounds: &[&str] = match kind {
        "string" => &["pattern", "format", "minLength", "maxLength"],
        "number" | "integer" => &["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"],
        "array" => &["minItems", "maxItems", "uniqueItems"],
        _ => &[],
    };
    for bound in bounds.iter().filter(|bound| !schema[**bound].is_null()) {
        let _ = write!(told, " {bound}={}", schema[*bound]);
    }
    if kind == "object" && schema["additionalProperties"] == false {
        told.push_str(" closed");
    }
    told
}

#[test]
fn a_shape_has_each_place_once_with_all_its_types() {
    let value = serde_json::json!({
        "streams": [{ "id": "a", "state": "up", "age": 0.5 }, { "id": "b", "state": "down", "age": null, "error": "x" }],
        "none": [],
    });
    let wanted = [
        ".: object",
        ".none: array",
        ".streams: array",
        ".streams[]: object",
        ".streams[].age: null | number",
        ".streams[].error?: string",
        ".streams[].id: string",
        ".streams[].state: \"down\" | \"up\"",
    ];
    assert_eq!(shape([&value]).lines().collect::<Vec<_>>(), wanted);
}
