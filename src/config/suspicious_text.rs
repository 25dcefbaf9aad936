//! Texts of a configuration that rarely are what somebody meant: placeholders that nothing replaces, a home that only a shell knows,
//! characters that nobody sees. A document in, warnings out. Pure.

use super::overrides;
use crate::yaml::field_reader::{At, Reader, join};
use crate::yaml::text_form::{belongs_in_names, is_invisible};
use crate::yaml::{Node, Value};

/// Looks at every text of the document, but for what is not ours: keys that begin with `x-`.
pub fn look(keys: &[String], reader: &mut Reader<'_>) {
    let document = reader.document();
    let Value::Map(entries) = &document.root().value else { return };
    for entry in entries.iter().filter(|entry| !entry.key.starts_with("x-")) {
        walk(&entry.value, entry.key.clone(), keys, reader);
    }
}

fn walk(node: &Node, path: String, keys: &[String], reader: &mut Reader<'_>) {
    match &node.value {
        Value::Text(text) => one(&At { value: text.clone(), place: node.place, path }, keys, reader),
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                walk(item, format!("{path}[{index}]"), keys, reader);
            }
        }
        // Attributes are the user's own words.
        Value::Map(entries) if !path.ends_with(".attributes") => {
            for entry in entries {
                walk(&entry.value, join(&path, &entry.key), keys, reader);
            }
        }
        _ => {}
    }
}

fn one(at: &At<String>, keys: &[String], reader: &mut Reader<'_>) {
    let text = at.value.as_str();
    if let Some(found) = placeholder(text) {
        // What stands in front of an `@` may be a part of a password.
        let is_user = text.contains("://") && text[found.end..].contains('@');
        let what = if is_user { "a placeholder in front of its `@`" } else { &format!("`{}`", &text[found]) };
        let variable = overrides::variable_of(&at.path, keys);
        let whole = variable.map_or(String::new(), |name| format!("set the whole key by {name} in the environment, "));
        let secret = "a credential comes by `password: { env: NAME }`";
        reader.warn(at, format!("has {what} in it, which nothing replaces"), format!("{whole}{secret}"));
    }
    if text == "~" || text.starts_with("~/") || text.contains("://~") {
        let remedy = "write the whole path, such as /home/NAME/file, or one that is relative to this file";
        reader.warn(at, "begins with `~`, which only a shell replaces", remedy);
    }
    // Names of labels and sets may need some of them.
    let is_name = at.path.starts_with("streams[") && at.path.contains(".labels[") || at.path.contains(".only.");
    let hidden = text
        .chars()
        .find(|c| matches!(c, '\u{a0}' | '\u{202f}') || is_invisible(*c) && !(is_name && belongs_in_names(*c)));
    if let Some(hidden) = hidden {
        let message = format!("has a character in it that cannot be seen (U+{:04X})", u32::from(hidden));
        reader.warn(at, message, "type it again instead of copying it");
    }
}

/// The first `${NAME}`, `$(NAME)`, `$NAME`, `{{ NAME }}` or `{NAME}`. Without braces or in single ones, capitals alone count.
fn placeholder(text: &str) -> Option<std::ops::Range<usize>> {
    let until = |at: usize, close: &str| text[at..].find(close).map(|length| at..at + length + close.len());
    text.char_indices().find_map(|(at, c)| {
        let rest = &text[at + c.len_utf8()..];
        let name = rest.len()
            - rest.trim_start_matches(|c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_').len();
        let is_name = name >= 2 && rest.starts_with(|c: char| c.is_ascii_uppercase() || c == '_');
        match c {
            '$' if rest.starts_with('{') => until(at, "}"),
            '$' if rest.starts_with('(') => until(at, ")"),
            '$' if is_name && !rest[name..].starts_with(|c: char| c.is_ascii_lowercase()) => Some(at..at + 1 + name),
            '{' if rest.starts_with('{') => until(at, "}}"),
            '{' if is_name && rest[name..].starts_with('}') => Some(at..at + name + 2),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_found_and_other_texts_are_none() {
        for (text, found) in [
            ("rtsp://${CAM_HOST}:554/s", "${CAM_HOST}"),
            ("${cam}", "${cam}"),
            ("$HOME/vtagd", "$HOME"),
            ("a/$(hostname)/b", "$(hostname)"),
            ("http://h/{NAME}", "{NAME}"),
            ("{{ cam.host }}", "{{ cam.host }}"),
        ] {
            assert_eq!(placeholder(text).map(|range| &text[range]), Some(found), "{text}");
        }
        for text in ["costs $5", "a$b", "{}", "a photo of {}", "{x}", "$", "${", "{A}", "$A", "$Home", "/srv/ü$"] {
            assert_eq!(placeholder(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_a_placeholder_or_none(text in "[\\PC${}()]{0,40}") {
            if let Some(found) = placeholder(&text) {
                proptest::prop_assert!(text.get(found).is_some());
            }
        }
    }
}
