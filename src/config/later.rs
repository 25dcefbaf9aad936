//! The one table of keys whose stage is not built yet. They are validated like all others; `check` and `run` say once a key
//! that it has no effect yet. Whoever builds a stage removes its row.

use crate::problem::{Problem, Severity};
use crate::yaml::{Document, Node, Place, Value};

/// Keys, `[]` for any item of a list.
const LATER: &[&str] = &["api.tls"];

/// One notice for every row of the table that the document uses, at the first place that does.
pub fn notices(document: &Document) -> Vec<Problem> {
    LATER.iter().filter_map(|key| notice(document, key)).collect()
}

fn notice(document: &Document, key: &str) -> Option<Problem> {
    let steps: Vec<&str> = key.split_inclusive("[]").flat_map(|part| part.split('.')).collect();
    let (place, path) = find(document.root(), &steps, String::new())?;
    let remedy = "it is checked and otherwise ignored";
    let mut notice = document.problem(Severity::Notice, place, &path, "has no effect yet", remedy);
    // One line each: nothing has to be mended here.
    notice.snippet.clear();
    Some(notice)
}

fn find(node: &Node, steps: &[&str], path: String) -> Option<(Place, String)> {
    let Some((step, rest)) = steps.split_first() else {
        return (!matches!(node.value, Value::Null)).then_some((node.place, path));
    };
    if step.is_empty() {
        // Between `[]` and the dot after it.
        return find(node, rest, path);
    }
    let (key, is_list) = step.strip_suffix("[]").map_or((*step, false), |key| (key, true));
    let Value::Map(entries) = &node.value else { return None };
    let entry = entries.iter().find(|entry| entry.key == key)?;
    let path = crate::yaml::reader::join(&path, key);
    if !is_list {
        let hit = find(&entry.value, rest, path)?;
        // A section is named at its key, not at the first line inside it.
        return Some(if rest.is_empty() { (entry.key_place, hit.1) } else { hit });
    }
    let Value::List(items) = &entry.value.value else { return None };
    items.iter().enumerate().find_map(|(index, item)| find(item, rest, format!("{path}[{index}]")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_found_where_it_is_used() {
        let text = "sinks:\n  - { type: jsonl }\napi: { tls: { cert: a, key: b } }\n";
        let document = Document::parse("x.yaml".as_ref(), text.as_bytes()).expect("valid");
        let found: Vec<(String, u64)> = notices(&document)
            .into_iter()
            .map(|notice| (notice.field, notice.position.expect("a position").0))
            .collect();
        assert_eq!(found, [("api.tls".to_owned(), 3)]);
        let steps = ["sinks[]", "type"];
        assert_eq!(find(document.root(), &steps, String::new()).map(|hit| hit.1).as_deref(), Some("sinks[0].type"));
    }

    #[test]
    fn what_works_gives_no_notice() {
        let text = "runtime: { providers: [openvino, cpu] }\nsampling: { decode: keyframes }\noutbox: { path: x }\nsinks: [{ type: jsonl }]\n";
        let document = Document::parse("x.yaml".as_ref(), text.as_bytes()).expect("valid");
        assert!(notices(&document).is_empty());
    }
}
