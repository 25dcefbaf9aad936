//! What the reference says of keys, from the comments beside their definitions ([`section!`](crate::section)): rows of the tables in the
//! manual, and descriptions in the JSON Schema. Pure.

use std::fmt::Write as _;

/// A key of a file and what is said of it: `type | default | meaning`, `-` for nothing, in Markdown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// `streams[].url`.
    pub path: String,
    pub doc: &'static str,
    /// The kind of sink that it is of, where several kinds may have one of this name; empty elsewhere.
    pub of: &'static str,
}

impl Key {
    /// Its type, its default and its meaning.
    pub fn cells(&self) -> [String; 3] {
        // Lines of a comment are one text.
        let text = self.doc.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut cells = text.splitn(3, " | ").map(|cell| if cell == "-" { "" } else { cell }.to_owned());
        [(); 3].map(|()| cells.next().unwrap_or_default())
    }
}

/// A row of a table: a path, and what all definitions of it say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    pub path: String,
    pub cells: [String; 3],
}

impl KeyRow {
    /// For an editor: one text without links.
    pub fn description(&self) -> String {
        let [kind, default, meaning] = &self.cells;
        let default = if default.is_empty() { String::new() } else { format!("; default: {default}") };
        plain(&format!("{meaning} ({kind}{default})"))
    }
}

/// Keys of one path as one row, in the order in which they come first.
pub fn rows(keys: &[Key]) -> Vec<KeyRow> {
    let mut paths: Vec<&str> = Vec::new();
    for key in keys {
        if !paths.contains(&key.path.as_str()) {
            paths.push(&key.path);
        }
    }
    let row = |path: &&str| {
        let same: Vec<(&str, [String; 3])> =
            keys.iter().filter(|key| key.path == **path).map(|key| (key.of, key.cells())).collect();
        let cell = |index: usize| {
            together(&same.iter().map(|(of, cells)| (*of, cells[index].as_str())).collect::<Vec<_>>(), index == 2)
        };
        KeyRow { path: (*path).to_owned(), cells: [cell(0), cell(1), cell(2)] }
    };
    paths.iter().map(row).collect()
}

/// What several kinds say, each text once; with their names where they say different things, or `always`.
fn together(said: &[(&str, &str)], always: bool) -> String {
    let mut texts: Vec<(Vec<&str>, &str)> = Vec::new();
    for (of, text) in said {
        match texts.iter_mut().find(|(_, known)| known == text) {
            Some((kinds, _)) => kinds.push(of),
            None => texts.push((vec![of], text)),
        }
    }
    let named = always || texts.len() > 1;
    let texts = texts.iter().filter(|(_, text)| !text.is_empty()).map(|(kinds, text)| {
        let kinds = kinds.join(", ");
        if named && !kinds.is_empty() { format!("{kinds}: {text}") } else { (*text).to_owned() }
    });
    texts.collect::<Vec<_>>().join("; ")
}

/// The table for the manual.
pub fn table<'r>(rows: impl IntoIterator<Item = &'r KeyRow>) -> String {
    let mut text = String::from("| Key | Type | Default | Meaning |\n|---|---|---|---|\n");
    for KeyRow { path, cells: [kind, default, meaning] } in rows {
        // A string takes everything.
        let _ = writeln!(text, "| `{path}` | {kind} | {default} | {meaning} |");
    }
    text.replace(" |  |", " | |").replace(" |  |", " | |")
}

/// `schema` with what `doc` says of it.
pub fn described(mut schema: serde_json::Value, doc: &'static str) -> serde_json::Value {
    let row = KeyRow { path: String::new(), cells: Key { path: String::new(), doc, of: "" }.cells() };
    if row.cells[2].is_empty() {
        return schema;
    }
    match schema.as_object_mut() {
        Some(object) => {
            object.insert("description".to_owned(), row.description().into());
            schema
        }
        // Anything fits.
        None => serde_json::json!({ "description": row.description() }),
    }
}

/// Markdown without its links: `[below](#there)` is `below`.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        let parts = link.split_once("](").filter(|(name, _)| !name.contains('['));
        let Some((name, after)) = parts.and_then(|(name, after)| Some((name, after.split_once(')')?.1))) else {
            out.push_str(before);
            out.push('[');
            rest = link;
            continue;
        };
        out.push_str(before);
        out.push_str(name);
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_definitions_of_one_key_are_one_row() {
        let key = |of, doc| Key { path: "sinks[].x".to_owned(), doc, of };
        let keys = [key("a", "text | - | One"), key("b", "text | `7` | One"), key("c", "text | - | Two\n lines")];
        let all = rows(&keys);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].cells, ["text", "b: `7`", "a, b: One; c: Two lines"].map(str::to_owned));
        assert!(table(&all).ends_with("| `sinks[].x` | text | b: `7` | a, b: One; c: Two lines |\n"));
    }

    #[test]
    fn a_description_is_without_links() {
        assert_eq!(plain("See [label sets](#label-sets) or `[x, y]`, [a](b)"), "See label sets or `[x, y]`, a");
        let described = described(serde_json::json!({ "type": "boolean" }), " bool | `false` | As\n [here](#x)");
        assert_eq!(described["description"], "As here (bool; default: `false`)");
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_a_plain_form(text in "[\\PC\\[\\]()]{0,40}") {
            let _ = plain(&text);
        }
    }
}
