//! When a changed key takes effect: the one table of it, and what it says about two configurations. Pure.
//!
//! `daemon/reload.rs` does what the table says; the manual shows it.

use std::fmt::Write as _;

use serde_json::Value;

use super::{Settings, show};

/// What a changed key needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A reload; nothing is interrupted.
    Reload,
    /// A reload; the streams that it is about start anew.
    Stream,
    /// A restart of the daemon.
    Restart,
}

/// Every key with what it needs. A row is about all keys below it too; where two rows are about a key, the longer one counts.
pub const EFFECTS: &[(&str, Effect)] = &[
    ("instance", Effect::Restart),
    // What the files hold is judged by its own keys.
    ("include", Effect::Reload),
    ("model", Effect::Restart),
    ("runtime", Effect::Restart),
    ("sampling", Effect::Stream),
    ("reconnect", Effect::Stream),
    ("streams", Effect::Stream),
    ("streams[].labels", Effect::Reload),
    ("labels", Effect::Reload),
    ("events", Effect::Reload),
    ("sinks", Effect::Restart),
    ("outbox", Effect::Restart),
    ("snapshots", Effect::Restart),
    ("history", Effect::Restart),
    ("state", Effect::Restart),
    ("api", Effect::Restart),
    ("api.token", Effect::Reload),
    ("api.tls", Effect::Reload),
    ("api.trusted_proxies", Effect::Reload),
    ("metrics", Effect::Reload),
    ("log.level", Effect::Reload),
    ("log.format", Effect::Restart),
];

/// What a changed `key` (`streams[].url`) needs; `None` for one that no row is about.
pub fn of(key: &str) -> Option<Effect> {
    let about = |row: &str| key.strip_prefix(row).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    EFFECTS.iter().filter(|(row, _)| about(row)).max_by_key(|(row, _)| row.len()).map(|(_, effect)| *effect)
}

/// The keys in which `new` differs from `old` and that need a restart.
pub fn waiting(old: &Settings, new: &Settings) -> Vec<String> {
    let mut keys = Vec::new();
    differing(&show::effective(old), &show::effective(new), String::new(), &mut keys);
    keys.retain(|key| of(&general(key)) == Some(Effect::Restart));
    let listens = |settings: &Settings| settings.api.as_ref().map(|api| (api.listen, api.tls.is_some()));
    let encrypted = |settings: &Settings| settings.api.as_ref().is_some_and(|api| api.tls.is_some());
    if encrypted(old) != encrypted(new) {
        keys.push("api.tls (switched on or off)".to_owned());
    }
    // What is not shown may differ too.
    let sections = [
        ("runtime", old.infer != new.infer),
        ("sinks", old.sinks != new.sinks || old.routes != new.routes),
        ("outbox", old.outbox != new.outbox),
        ("snapshots", old.snapshots != new.snapshots),
        ("api", listens(old) != listens(new)),
    ];
    for (section, _) in sections.into_iter().filter(|(_, differs)| *differs) {
        if !keys.iter().any(|key| key.starts_with(section)) {
            keys.push(format!("{section} (a credential)"));
        }
    }
    keys
}

/// The key without the numbers of items.
fn general(key: &str) -> String {
    let mut parts = key.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |key, part| format!("{key}[{}", part.trim_start_matches(|c: char| c.is_ascii_digit())))
}

fn differing(old: &Value, new: &Value, path: String, keys: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let path = crate::yaml::field_reader::join(&path, name);
                differing(
                    before.get(name).unwrap_or(&Value::Null),
                    after.get(name).unwrap_or(&Value::Null),
                    path,
                    keys,
                );
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                differing(before, after, format!("{path}[{index}]"), keys);
            }
        }
        _ if old != new => keys.push(path),
        _ => {}
    }
}

/// The table for the manual.
pub fn table() -> String {
    let mut text = String::from("| Key, and all below it | A changed one takes effect |\n|---|---|\n");
    for (key, effect) in EFFECTS {
        let effect = match effect {
            Effect::Reload => "at a reload, and nothing is interrupted",
            Effect::Stream => "at a reload; the streams that it is about start anew",
            Effect::Restart => "after a restart; a reload names it in the log",
        };
        // A string takes everything.
        let _ = writeln!(text, "| `{key}` | {effect} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_row_and_every_row_a_key() {
        let keys = crate::config::keys();
        for key in keys.iter().filter(|key| *key != "log") {
            assert!(of(key).is_some(), "when does a changed `{key}` take effect? EFFECTS does not say");
        }
        for (row, _) in EFFECTS {
            assert!(keys.iter().any(|key| key == row), "{row} is no key");
        }
    }

    #[test]
    fn the_longest_row_counts_and_a_row_is_no_mere_beginning_of_a_word() {
        assert_eq!(of("streams[].labels"), Some(Effect::Reload));
        assert_eq!(of("streams[].sampling.interval"), Some(Effect::Stream));
        assert_eq!(of("labels[]"), Some(Effect::Reload));
        assert_eq!(of("labelsets"), None);
        assert_eq!(general("sinks[12].only.streams[0]"), "sinks[].only.streams[]");
    }
}
