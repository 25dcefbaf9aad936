//! Words that stand in the sources: metrics with their labels, fields of log lines, variables of the environment. Read as text, wherever a
//! file lies and whatever its module is called; tests and comments are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::super::common::daemon::root;

/// The code of every file below `src/` and of both libraries.
pub fn all() -> Vec<String> {
    fn read(folder: &Path, found: &mut Vec<String>) {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "tests") {
                    read(&path, found);
                }
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
                found.push(without_tests_and_comments(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    read(&root().join("src"), &mut found);
    read(&root().join("crates/checkpoint/src"), &mut found);
    read(&root().join("crates/pictures/src"), &mut found);
    found
}

fn without_tests_and_comments(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Every metric's name, and the labels where a macro names them.
pub fn metrics(sources: &[String]) -> String {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for text in sources {
        for name in literals(text).into_iter().filter(|text| text.starts_with("vtagd_") || text.starts_with("process_"))
        {
            found.entry(name).or_default();
        }
        for called in ["counter!", "gauge!", "histogram!"] {
            for arguments in calls(text, called) {
                let Some(name) = arguments[0].strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
                    continue;
                };
                let labels = arguments[1..].iter().filter_map(|argument| argument.split_once("=>"));
                found.get_mut(name).unwrap().extend(labels.map(|(label, _)| label.trim().trim_matches('"').to_owned()));
            }
        }
        for arguments in calls(text, ".sample") {
            let Some(name) = arguments[0].strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { continue };
            let labels = arguments.get(1).into_iter().flat_map(|list| list.split("(\"").skip(1));
            found.get_mut(name).unwrap().extend(labels.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
    let line = |(name, labels): (String, BTreeSet<String>)| {
        format!("{name}: {}", labels.into_iter().collect::<Vec<_>>().join(", ")).trim_end().to_owned() + "\n"
    };
    found.into_iter().map(line).collect()
}

/// The names of all fields that a log line may have.
pub fn log_fields(sources: &[String]) -> String {
    let mut fields = BTreeSet::new();
    for text in sources {
        for called in ["error!", "warn!", "info!", "debug!", "trace!", "event!"] {
            for arguments in calls(text, called) {
                fields.extend(arguments.iter().map_while(|argument| field(argument)).flatten());
            }
        }
    }
    fields.into_iter().map(|field| field + "\n").collect()
}

/// `None` at the message; `Some(None)` for what is no field.
fn field(argument: &str) -> Option<Option<String>> {
    if argument.starts_with(['"', '{']) {
        return None;
    }
    let control = ["target:", "parent:", "name:", "Level::", "tracing::Level", "$"];
    if control.iter().any(|word| argument.starts_with(word)) {
        return Some(None);
    }
    let name = argument.split('=').next().unwrap_or_default().trim().trim_start_matches(['%', '?']);
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    Some((!name.is_empty() && name.chars().all(is_name)).then(|| name.to_owned()))
}

/// The variables of the environment, the keys of sd_notify and of the journal: words in capitals, alone in a text.
pub fn environment(sources: &[String]) -> String {
    let is_letter = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let mut found = BTreeSet::new();
    for text in sources {
        for literal in literals(text) {
            let word = literal.trim_end_matches('=');
            if word.contains('_')
                && !word.starts_with("CARGO_")
                && word.starts_with(|c: char| c.is_ascii_uppercase())
                && word.chars().all(is_letter)
            {
                found.insert(word.to_owned());
            }
            found.extend(literal.split(|c| !is_letter(c)).filter(|word| word.starts_with("VTAGD_")).map(str::to_owned));
        }
    }
    found.into_iter().map(|word| word + "\n").collect()
}

/// The arguments of every call of `name`.
fn calls(text: &str, name: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(name) {
        let is_tail = text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let rest = text[at + name.len()..].trim_start();
        if rest.starts_with('(') && (!is_tail || name.starts_with('.')) {
            found.push(arguments(rest));
        }
    }
    found
}

/// What stands between the bracket at the start of `text` and the one that closes it, split at commas.
fn arguments(text: &str) -> Vec<String> {
    let (mut depth, mut current, mut found) = (0, String::new(), Vec::new());
    let mut rest = text.char_indices();
    while let Some((at, c)) = rest.next() {
        if let Some(length) = literal(&text[at..]) {
            current.push_str(&text[at..at + length]);
            while rest.as_str().len() > text.len() - at - length {
                rest.next();
            }
            continue;
        }
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        match (depth, c) {
            (0, _) => break,
            (1, '(') if at == 0 => {}
            (1, ',') => found.push(std::mem::take(&mut current).trim().to_owned()),
            _ => current.push(c),
        }
    }
    found.push(current.trim().to_owned());
    found
}

/// The length of the text or character that begins here.
fn literal(text: &str) -> Option<usize> {
    if let Some(body) = text.strip_prefix('\'') {
        // A lifetime has no second quote.
        let inner = if body.starts_with('\\') { 2 } else { body.chars().next()?.len_utf8() };
        return body.get(inner..)?.starts_with('\'').then_some(inner + 2);
    }
    for hashes in ["#", "##"] {
        let open = format!("r{hashes}\"");
        if text.starts_with(&open) {
            let close = format!("\"{hashes}");
            return Some(open.len() + text[open.len()..].find(&close)? + close.len());
        }
    }
    if !text.starts_with('"') {
        return None;
    }
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// What stands between the quotes of every text.
fn literals(text: &str) -> Vec<String> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(c) = text[at..].chars().next() {
        match literal(&text[at..]) {
            Some(length) => {
                let whole = &text[at..at + length];
                if let (Some(begin), Some(end)) = (whole.find('"'), whole.rfind('"'))
                    && begin < end
                {
                    found.push(whole[begin + 1..end].to_owned());
                }
                at += length;
            }
            None => at += c.len_utf8(),
        }
    }
    found
}

#[test]
fn fields_and_labels_are_found_however_a_call_is_written() {
    let text = r##"
        tracing::warn!(target: "x", stream = %id, error = %self.why(1, "a, b"), ?wait, count, "lost {} (of {all})", count);
        gst::element_error!(element, "no");
        info!(
            folder = %path.display(), x = ',', "done, so");
        metrics::counter!("vtagd_x_total", "stream" => id.to_string(), "reason" => f(1, 2)).increment(1);
        text.sample("process_x", &[("index", a), ("name", "b")], 1.0);
        const VARIABLE: &str = "NOTIFY_SOCKET"; send("READY=1"); let x = "set VTAGD_X_Y to 1";
        #[cfg(test)]
mod tests { counter!("vtagd_no") }
    "##;
    let text = [without_tests_and_comments(text)];
    assert_eq!(
        log_fields(&text).split_whitespace().collect::<Vec<_>>(),
        ["count", "error", "folder", "stream", "wait", "x"]
    );
    assert_eq!(metrics(&text), "process_x: index, name\nvtagd_x_total: reason, stream\n");
    assert_eq!(environment(&text), "NOTIFY_SOCKET\nVTAGD_X_Y\n");
}
