//! Keys of the configuration from the environment: `VTAGD__LOG__LEVEL=debug` stands in the place of `log.level`.
//!
//! In: the document of the file and the environment. Out: the document with the values of the variables in it, which are then read
//! and checked as if the file said so, and which variable each key comes from. Credentials never come this way, only where they are
//! does: the environment of a process is easily shown and inherited. Pure.

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::platform::userinfo;
use crate::yaml::problem::{Problem, Severity};
use crate::yaml::{Document, Step, nearest};

/// What such variables begin with; `__` stands between the parts of a key.
const PREFIX: &str = "VTAGD__";

/// Keys (`streams[0].enabled`) and the variables they come from.
pub type Origins = BTreeMap<String, String>;

/// Puts what the variables say into the document. What cannot be put there is reported, under the variable's name.
pub fn apply(
    document: &mut Document,
    variables: impl Iterator<Item = (OsString, OsString)>,
    keys: &[String],
) -> (Origins, Vec<Problem>) {
    let mut ours: Vec<(String, OsString)> = variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    ours.sort();
    let (mut origins, mut problems) = (Origins::new(), Vec::new());
    for (name, value) in ours {
        if let Err(problem) = one(document, &name, value, keys, &mut origins) {
            problems.push(*problem);
        }
    }
    (origins, problems)
}

fn one(
    document: &mut Document,
    name: &str,
    value: OsString,
    keys: &[String],
    origins: &mut Origins,
) -> Result<(), Box<Problem>> {
    let called = format!("environment variable {name}");
    let refuse = |field: &str, message: &str, remedy: String| {
        Box::new(Problem {
            severity: Severity::Error,
            file: called.clone().into(),
            position: None,
            field: field.to_owned(),
            message: message.to_owned(),
            remedy,
            snippet: String::new(),
        })
    };
    let way: Vec<Step> = name[PREFIX.len()..]
        .split("__")
        .map(|part| part.parse().map_or_else(|_| Step::Key(part.to_ascii_lowercase()), Step::Item))
        .collect();
    let (mut field, mut key) = (String::new(), String::new());
    for step in &way {
        match step {
            Step::Item(number) => {
                field.push_str(&format!("[{number}]"));
                key.push_str("[]");
            }
            Step::Key(part) => {
                let dot = if field.is_empty() { "" } else { "." };
                field.push_str(&format!("{dot}{part}"));
                key.push_str(&format!("{dot}{part}"));
            }
        }
    }
    if !keys.contains(&key) {
        let known: Vec<&str> = keys.iter().map(String::as_str).collect();
        let remedy = nearest(&key, &known).map_or_else(
            || "write VTAGD__ and the parts of a key with __ between them, such as VTAGD__LOG__LEVEL".to_owned(),
            |near| format!("did you mean {}?", variable(near)),
        );
        return Err(refuse("", "names no key of the configuration", remedy));
    }
    if keys.contains(&format!("{key}.credential")) {
        let remedy = format!("say where it is: {name}__FILE, {name}__ENV or {name}__CREDENTIAL");
        return Err(refuse(&field, "is a credential, which does not come this way", remedy));
    }
    let Ok(text) = value.into_string() else {
        return Err(refuse(&field, "is not UTF-8 text", "use UTF-8".to_owned()));
    };
    if holds_credentials(&text) {
        let remedy = "leave user and password out of it; `username` and `password` of the same item are for them";
        return Err(refuse(&field, "holds credentials, which do not come this way", remedy.to_owned()));
    }
    if let Some(other) = origins.get(&field) {
        let remedy = "keep one of them".to_owned();
        return Err(refuse(&field, &format!("is given by {other} too"), remedy));
    }
    document.put(&called, &way, &text).map_err(|problem| Box::new(Problem { field: field.clone(), ..*problem }))?;
    origins.insert(field, name.to_owned());
    Ok(())
}

/// Whether there is, or may be, a user in any address of `text`, which may be a whole list of them.
fn holds_credentials(text: &str) -> bool {
    let before_path = |rest: &str| rest.split(['/', '?', '#']).next().is_some_and(|host| host.contains('@'));
    text.split("://").skip(1).any(before_path) || *userinfo::masked(text) != *text
}

/// The variable of the key at `path` (`streams[2].url`), if it is one.
pub fn variable_of(path: &str, keys: &[String]) -> Option<String> {
    let mut general = String::new();
    for (at, part) in path.split('[').enumerate() {
        let rest = if at == 0 { part } else { part.split_once(']')?.1 };
        general.push_str(if at == 0 { "" } else { "[]" });
        general.push_str(rest);
    }
    let name = path.replace('[', "__").replace(']', "").replace('.', "__").to_ascii_uppercase();
    keys.contains(&general).then(|| format!("{PREFIX}{name}"))
}

/// The variable of a key.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace("[]", ".0").replace('.', "__").to_ascii_uppercase())
}
