//! The reference of all keys, made of what stands beside their definitions: tables for the manual. Pure.

use std::fmt::Write as _;

use super::schema::Root;
use crate::label::set;
use crate::yaml::field_reader::FromNode;
use crate::yaml::key_reference::{self, KeyRow};

/// The tables of the manual, each with the keys below its name that no longer name takes; the others are the first table's.
const TABLES: [&str; 17] = [
    "",
    "model",
    "runtime",
    "runtime.providers[]",
    "sampling",
    "reconnect",
    "streams[]",
    "events",
    "sinks[]",
    "sinks[].only",
    "outbox",
    "snapshots",
    "history",
    "state",
    "api",
    "metrics",
    "log",
];
/// Where a section stands a second time, and where the first is: what it leaves out comes from there.
const INHERITED: [(&str, &str); 2] = [("streams[].sampling", "sampling"), ("streams[].reconnect", "reconnect")];

/// Every key, once.
pub fn rows() -> Vec<KeyRow> {
    let mut keys = Vec::new();
    Root::keys("", &mut keys);
    let mut rows = key_reference::rows(&keys);
    for row in &mut rows {
        if let Some(from) = inherited(&row.path) {
            row.cells[1] = format!("`{from}`");
        }
    }
    rows
}

fn inherited(path: &str) -> Option<String> {
    let find = |(here, there): &(&str, &str)| Some(format!("{there}.{}", path.strip_prefix(here)?.strip_prefix('.')?));
    INHERITED.iter().find_map(find)
}

/// All tables, each under its name.
pub fn tables() -> String {
    let rows = rows();
    let is_credential = |path: &str| rows.iter().any(|row| row.path == format!("{path}.credential"));
    let below = |path: &str, name: &str| path.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    let table_of = |path: &str| {
        let name = TABLES.iter().filter(|name| below(path, name)).max_by_key(|name| name.len());
        // The two sections that every sink has stand together.
        name.map_or("", |name| if below(path, "sinks[].rate") { "sinks[].only" } else { name })
    };
    let mut text = String::new();
    for name in TABLES {
        let own = rows.iter().filter(|row| table_of(&row.path) == name);
        // Of a credential, the row of its own key says the three.
        let own = own.filter(|row| !row.path.rsplit_once('.').is_some_and(|(above, _)| is_credential(above)));
        let own: Vec<KeyRow> = own
            .map(|row| {
                let mut row = row.clone();
                if is_credential(&row.path) {
                    let path = &row.path;
                    let _ = write!(row.cells[2], ". `{path}.env`, `{path}.file` or `{path}.credential`");
                }
                row
            })
            .collect();
        let name = if name.is_empty() { "top level" } else { name };
        // A string takes everything.
        let _ = writeln!(text, "{name}:\n\n{}", key_reference::table(&own));
    }
    let _ = writeln!(text, "label sets:\n\n{}", key_reference::table(&key_reference::rows(&set::keys())));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_says_what_it_takes_and_what_it_is_for() {
        let all = rows().into_iter().chain(key_reference::rows(&set::keys()));
        for row in all {
            let [kind, _, meaning] = &row.cells;
            assert!(
                !kind.is_empty() && !meaning.is_empty(),
                "`{}` has no comment of the form `/// type | default | meaning` beside its definition: {:?}",
                row.path,
                row.cells
            );
        }
    }
}
