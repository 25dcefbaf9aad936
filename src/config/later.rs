//! The one table of keys whose stage is not built yet. They are validated like all others; `check` and `run` say once a key
//! that it has no effect yet. Whoever builds a stage removes its row.

use crate::problem::{Problem, Severity};
use crate::yaml::{Document, Node, Place, Value};

/// A key, `[]` for any item of a list, and the value that has no effect; `None`: any value.
struct Later {
    key: &'static str,
    value: Option<&'static str>,
}

const fn any(key: &'static str) -> Later {
    Later { key, value: None }
}

const fn only(key: &'static str, value: &'static str) -> Later {
    Later { key, value: Some(value) }
}

const LATER: &[Later] =
    &[only("sinks[].type", "mqtt"), only("sinks[].type", "webhook"), any("snapshots"), any("api.tls")];

/// One notice for every row of the table that the document uses, at the first place that does.
pub fn notices(document: &Document) -> Vec<Problem> {
    LATER.iter().filter_map(|later| notice(document, later)).collect()
}

fn notice(document: &Document, later: &Later) -> Option<Problem> {
    let steps: Vec<&str> = later.key.split_inclusive("[]").flat_map(|part| part.split('.')).collect();
    let (place, path) = find(document.root(), &steps, String::new(), later.value)?;
    let message = match later.value {
        Some(value) => format!("`{value}` has no effect yet"),
        None => "has no effect yet".to_owned(),
    };
    let mut notice = document.problem(Severity::Notice, place, &path, message, "it is checked and otherwise ignored");
    // One line each: nothing has to be mended here.
    notice.snippet.clear();
    Some(notice)
}

fn find(node: &Node, steps: &[&str], path: String, value: Option<&str>) -> Option<(Place, String)> {
    let Some((step, rest)) = steps.split_first() else {
        let hit = match (&node.value, value) {
            (Value::Null, _) => false,
            (_, None) => true,
            (Value::Text(text), Some(value)) => text == value,
            _ => false,
        };
        return hit.then_some((node.place, path));
    };
    if step.is_empty() {
        // Between `[]` and the dot after it.
        return find(node, rest, path, value);
    }
    let (key, is_list) = step.strip_suffix("[]").map_or((*step, false), |key| (key, true));
    let Value::Map(entries) = &node.value else { return None };
    let entry = entries.iter().find(|entry| entry.key == key)?;
    let path = crate::yaml::reader::join(&path, key);
    if !is_list {
        let hit = find(&entry.value, rest, path, value)?;
        // A section is named at its key, not at the first line inside it.
        return Some(if rest.is_empty() { (entry.key_place, hit.1) } else { hit });
    }
    let Value::List(items) = &entry.value.value else { return None };
    items.iter().enumerate().find_map(|(index, item)| find(item, rest, format!("{path}[{index}]"), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_found_where_it_is_used_and_once() {
        let text = "\
streams:
  - { id: a }
sinks:
  - { type: jsonl }
  - { type: mqtt }
  - { type: mqtt }
snapshots:
  path: x
api: { tls: { cert: a, key: b } }
";
        let document = Document::parse("x.yaml".as_ref(), text.as_bytes()).expect("valid");
        let found: Vec<(String, u64)> = notices(&document)
            .into_iter()
            .map(|notice| (notice.field, notice.position.expect("a position").0))
            .collect();
        let expected = [("sinks[1].type", 5), ("snapshots", 7), ("api.tls", 9)];
        assert_eq!(found, expected.map(|(field, line)| (field.to_owned(), line)));
    }

    #[test]
    fn what_works_gives_no_notice() {
        let text = "runtime: { providers: [openvino, cpu] }\nsampling: { decode: keyframes }\noutbox: { path: x }\nsinks: [{ type: jsonl }]\n";
        let document = Document::parse("x.yaml".as_ref(), text.as_bytes()).expect("valid");
        assert!(notices(&document).is_empty());
    }
}
