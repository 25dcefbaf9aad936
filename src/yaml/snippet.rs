//! The lines of a file around a problem, with a marker under the place, and with every credential replaced by `***`
//! (invariant 4). Pure.
//!
//! What is hidden: values of keys that look like `password`, `token` or `secret` (misspelt ones too), except the references
//! `{ env: … }`, `{ file: … }` and `{ credential: … }`; user and password inside URLs, their queries, and paths that are credentials; the same in comments.
//! Where the file is not valid YAML there is no tree to go by, and lines are judged by their words, on the safe side.

use std::ops::Range;

use strsim::osa_distance;
use url::Url;

use super::tree::{Entry, Node, Place, Value};
use crate::platform::secret::is_secret_key;
use crate::platform::secret_path;

/// Lines after its first in which a URL is looked for.
const LINES: usize = 8;

/// Longest piece of a line that is shown, in characters.
const WIDTH: usize = 120;

/// Byte ranges to hide in a file that parsed.
pub fn hidden_in_tree(text: &str, root: &Node) -> Vec<Range<usize>> {
    let mut hidden = Vec::new();
    hide_secrets(text, root, false, &mut hidden);
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        if let Some(hash) = line.find('#')
            && let Some((word, _)) = secret_word(&line[hash..])
        {
            hidden.push(offset + hash + word.end..offset + line.len());
        }
        offset += line.len();
    }
    hide_urls(text, &mut hidden);
    merge(hidden)
}

fn hide_secrets(text: &str, node: &Node, secret: bool, hidden: &mut Vec<Range<usize>>) {
    match &node.value {
        Value::Map(entries) => {
            for entry in entries {
                // `{hunter2}` is a key without a value.
                if secret && matches!(entry.value.value, Value::Null) {
                    hidden.push(entry.key_place.range().unwrap_or(line_start(text, entry.key_place)..text.len()));
                }
                let reference = secret && is_reference(entry);
                let secret = (secret || holds_secrets(&entry.key)) && !reference;
                if secret {
                    hide_decorated(text, entry, hidden);
                }
                hide_secrets(text, &entry.value, secret, hidden);
            }
        }
        Value::List(items) => items.iter().for_each(|item| hide_secrets(text, item, secret, hidden)),
        Value::Null | Value::Bool(_) => {}
        Value::Number(_) | Value::Text(_) if secret => {
            // Without a byte range nothing after this could be told apart: hide the rest.
            hidden.push(node.place.range().unwrap_or(line_start(text, node.place)..text.len()));
        }
        Value::Number(_) | Value::Text(_) => {}
    }
}

/// `password: !hunter2` has a tag and no value, to YAML; `&hunter2` is an anchor.
fn hide_decorated(text: &str, entry: &Entry, hidden: &mut Vec<Range<usize>>) {
    let Some(key) = entry.key_place.range().filter(|key| text.is_char_boundary(key.end)) else { return };
    let rest = text[key.end..].split('\n').next().unwrap_or_default();
    let value = rest.trim_start_matches(['"', '\'', ' ', ':']);
    if value.starts_with(['!', '&']) && !matches!(entry.value.value, Value::Map(_) | Value::List(_)) {
        hidden.push(key.end + rest.len() - value.len()..key.end + rest.len());
    }
}

/// Whether an entry says where a secret is. A name that is none may be the secret itself, written in the wrong place.
fn is_reference(entry: &Entry) -> bool {
    let Value::Text(text) = &entry.value.value else { return false };
    match entry.key.as_str() {
        "file" => true,
        "env" | "credential" => text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)),
        _ => false,
    }
}

/// Byte ranges to hide in a file that is not valid YAML.
pub fn hidden_in_text(text: &str) -> Vec<Range<usize>> {
    let mut hidden = Vec::new();
    let mut offset = 0;
    // Indentation of the key whose value may go on in the following lines.
    let mut open: Option<usize> = None;
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        if let Some(key_indent) = open {
            if line.trim().is_empty() || indent > key_indent || !looks_like_key(line) {
                hidden.push(offset..offset + line.len());
                offset += line.len();
                continue;
            }
            open = None;
        }
        if let Some((word, is_reference)) = secret_word(line) {
            if !is_reference {
                hidden.push(offset + word.end..offset + line.len());
            }
            open = Some(indent);
        }
        offset += line.len();
    }
    hide_urls(text, &mut hidden);
    merge(hidden)
}

/// Whether what stands under a key may hold credentials: under `headers` all of it, whatever a header is called.
fn holds_secrets(key: &str) -> bool {
    is_secret_key(key) || (key.len() < 32 && osa_distance(&key.to_lowercase(), "headers") <= 1)
}

/// The first word of `line` that names a secret, and whether a reference such as `{ env: X }` follows it. A word that a reference follows
/// counts only if there is no other.
fn secret_word(line: &str) -> Option<(Range<usize>, bool)> {
    let (mut start, mut referred, mut skip) = (None, None, 0);
    for (index, c) in line.char_indices().chain([(line.len(), ' ')]) {
        if index < skip {
            continue;
        }
        if c.is_alphanumeric() || c == '_' || c == '-' {
            start.get_or_insert(index);
        } else if let Some(from) = start.take()
            && holds_secrets(&line[from..index])
        {
            match reference(&line[index..]) {
                Some(length) => {
                    referred.get_or_insert((from..index, true));
                    skip = index + length;
                }
                None => return Some((from..index, false)),
            }
        }
    }
    referred
}

/// How much of `rest`, what follows a word, is a reference to a secret.
fn reference(rest: &str) -> Option<usize> {
    let value = rest.trim_start_matches(['"', '\'', ' ', ':']);
    let inner = value.strip_prefix('{')?;
    let end = inner.find('}').unwrap_or(inner.len());
    let (key, name) = inner[..end].split_once(':')?;
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "_-./ ".contains(c));
    let refers = ["env", "file", "credential"].contains(&key.trim()) && plain;
    refers.then_some(rest.len() - inner.len() + end)
}

/// Whether a line starts a new `key:`, so that it cannot continue the value before it.
fn looks_like_key(line: &str) -> bool {
    let line = line.trim_start().trim_start_matches("- ");
    let word = line.len() - line.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-').len();
    word > 0 && line[word..].starts_with(':')
}

/// User and password before the last `@`, and a query, of everything that looks like a URL; of what lacks its scheme too.
fn hide_urls(text: &str, hidden: &mut Vec<Range<usize>>) {
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        if let Some(at) = line.rfind('@') {
            // What stands before it may have spaces and quotes in it; it begins behind the last key at the earliest.
            let start =
                line[..at].rfind(": ").map_or(line.len() - line.trim_start_matches([' ', '-']).len(), |key| key + 2);
            // With a scheme, that one is shown.
            if !line[start.min(at)..at].contains("://") {
                hidden.push(offset + start.min(at)..offset + at);
            }
        }
        offset += line.len();
    }
    let mut from = 0;
    while let Some(found) = text[from..].find("://") {
        let start = from + found + 3;
        let end = text[start..].find('\n').map_or(text.len(), |length| start + length);
        let rest = &text[start..end];
        // It may go on in the next lines, as a text in quotes does.
        let next = text[end..].split_inclusive('\n').skip(1).take(LINES);
        let goes_on = next.take_while(|line| !looks_like_key(line) && !line.trim_start().starts_with(['-', '#']));
        let whole = end + 1 + goes_on.map(str::len).sum::<usize>();
        if let Some(at) = text[start..whole.min(text.len())].rfind('@') {
            hidden.push(start..start + at);
        }
        // Some cameras take their credentials in the path: `/user=admin_password=…`.
        let mut at = 0;
        for segment in rest.split(['/', ' ', '"', '\'', ',', '}']) {
            if segment.contains('=') && is_secret_key(segment) {
                hidden.push(start + at..start + at + segment.len());
            }
            at += segment.len() + 1;
        }
        // Whoever knows the path of a chat's webhook may post.
        let stop = rest.find([' ', '"', '\'', ',', '}']).unwrap_or(rest.len());
        let is_web = ["http", "https"].iter().any(|scheme| text[..start - 3].ends_with(scheme));
        let address = Some(&rest[..stop]).filter(|_| is_web);
        if let Some(path) = address.and_then(|address| address.find('/'))
            && Url::parse(&format!("https://{}", &rest[..stop])).is_ok_and(|url| secret_path::is_credential(&url))
        {
            hidden.push(start + path + 1..start + stop);
        }
        if let Some(query) = rest.find('?') {
            let stop = rest[query..].find([' ', '"', '\'', ',', '}']).map_or(end, |length| start + query + length);
            hidden.push(start + query + 1..stop);
        }
        from = start;
    }
}

fn merge(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.retain(|range| range.start < range.end);
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// Byte offset at which the line of `place` begins.
fn line_start(text: &str, place: Place) -> usize {
    match place.range() {
        Some(range) => {
            let before = &text.as_bytes()[..range.start.min(text.len())];
            before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1)
        }
        None => {
            let skipped = usize::try_from(place.line.saturating_sub(1)).unwrap_or(usize::MAX);
            text.split_inclusive('\n').take(skipped).map(str::len).sum()
        }
    }
}

/// The line of `place` with one line before and after it. `hidden` as made above.
pub fn render(text: &str, hidden: &[Range<usize>], place: Place) -> String {
    let start = line_start(text, place);
    // A place is where a token starts, so the byte range begins on the line that `place` names.
    let number = place.line;
    let before = start.checked_sub(1).map(|newline| {
        let from = text.as_bytes()[..newline].iter().rposition(|byte| *byte == b'\n').map_or(0, |found| found + 1);
        (number.saturating_sub(1), from)
    });
    let after = text[start..].find('\n').map(|length| start + length + 1).filter(|next| *next < text.len());
    let column = usize::try_from(place.column).unwrap_or(usize::MAX);
    let width = (number + 1).to_string().len();
    let mut out = String::new();
    let lines = before.into_iter().chain([(number, start)]).chain(after.map(|next| (number + 1, next)));
    for (line_number, from) in lines {
        let marked = line_number == number;
        let (line, marker) = shown(text, hidden, from, column);
        out.push_str(&format!("{line_number:>width$} | {line}\n"));
        if marked {
            out.push_str(&format!("{:width$} | {}^\n", "", " ".repeat(marker)));
        }
    }
    out
}

/// One line with hidden parts as `***`, cut to [`WIDTH`] around `column`; and where `column` has come to stand.
fn shown(text: &str, hidden: &[Range<usize>], from: usize, column: usize) -> (String, usize) {
    let line = text[from..].split('\n').next().unwrap_or_default().trim_end_matches('\r');
    let mut out: Vec<char> = Vec::new();
    let mut marker = None;
    let mut inside = false;
    let mut next = hidden.partition_point(|range| range.end <= from);
    for (index, (offset, c)) in line.char_indices().enumerate() {
        let at = from + offset;
        while hidden.get(next).is_some_and(|range| range.end <= at) {
            next += 1;
        }
        let hide = hidden.get(next).is_some_and(|range| range.contains(&at));
        if index + 1 == column {
            marker = Some(if hide && inside { out.len().saturating_sub(3) } else { out.len() });
        }
        if !hide {
            // Control characters could move a terminal's cursor or colours.
            out.push(if c.is_control() { ' ' } else { c });
        } else if !inside {
            out.extend("***".chars());
        }
        inside = hide;
    }
    let marker = marker.unwrap_or(out.len());
    if out.len() <= WIDTH {
        return (out.into_iter().collect(), marker);
    }
    let start = marker.saturating_sub(WIDTH / 2).min(out.len() - WIDTH);
    let mut cut: String = out[start..start + WIDTH].iter().collect();
    if start + WIDTH < out.len() {
        cut.push('…');
    }
    if start > 0 {
        cut.insert(0, '…');
    }
    (cut, marker - start + usize::from(start > 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::tree;

    fn all_lines(text: &str) -> String {
        let hidden = match tree::parse(text) {
            Ok(root) => hidden_in_tree(text, &root),
            Err(_) => hidden_in_text(text),
        };
        let mut from = 0;
        let mut out = String::new();
        for line in text.split_inclusive('\n') {
            out.push_str(&shown(text, &hidden, from, 1).0);
            out.push('\n');
            from += line.len();
        }
        out
    }

    #[test]
    fn a_secret_is_hidden_however_it_is_written() {
        for text in [
            "password: hunter2\nx: 1\n",
            "passwrd: hunter2\n",
            "a: { token: hunter2, x: 1 }\n",
            "password: |\n  hunter2\n  hunter2\nx: 1\n",
            "password: >-\n  hunter2\n\n  hunter2\n",
            "password: \"hunter2\n  hunter2\"\nx: 1\n",
            "password: 'hunter2'\n",
            "nkey: hunter2\n",
            "creds: |\n  hunter2\n",
            "api_key: hunter2\n",
            "headers: { X-Hub: hunter2 }\n",
            "header:\n  X-Hub: hunter2\n",
            "password: { value: hunter2 }\n",
            "password: [hunter2]\n",
            "password: {hunter2}\n",
            "password: !hunter2\nx: 1\n",
            "password: &hunter2\nx: 1\n",
            "password: !hunter2 x\n",
            "password: {{hunter2}}\n",
            "x: &p hunter2\npassword: *p\n",
            "url: rtsp://admin:hunter2@host/a\n",
            "url: \"rtsp://admin:hunter2@x@host/a\"\n",
            "url: \"rtsp://admin:1234/hunter2@host/a\"\n",
            "url: rtsp://admin:1234#hunter2@host/a\n",
            "url: \"rtsp://admin:1\\\\hunter2 ' @host/a\"\n",
            "url: \"rtsp://admin:hunter2\n  more@host/a\"\nx: 1\n",
            "url: \"rtsp://admin:1234\n\n  /hunter2\n  more@host/a\"\nx: 1\n",
            "url: admin:hunter2@host/a\n",
            "a: { id: x, url: 'admin:1 hunter2@host/a', y: 1 }\n",
            "brokers:\n  - u:hunter2@host\n",
            "url: //admin:hunter2@host/a\nx: [\n",
            "url: \"rtsp://admin:hunter2\n  more@host/a\"\nx: [\n",
            "url: http://host/a?user=admin&pwd=hunter2\n",
            "# password: hunter2\nx: 1\n",
            "x: 1 # the token is hunter2\n",
            "sinks: [{ type: webhook, url: 'https://hooks.slack.com/services/T0/hunter2' }]\n",
            "- url: https://acme.test/api/webhook/hunter2, x: 1\n",
            // Not valid YAML from here on.
            "url: https://discord.com/api/webhooks/1/hunter2\n  ]\n",
            "password: hunter2\nx: [\n",
            "a:\n  password: |\n    hunter2\n  x: }\n",
            "a: { password: hunter2\n",
            "a:\n  token: \"hunter2\n  hunter2\n",
            "password: { env: hunter2! }\n]\n",
            "a: { password: { env: TOKEN }, token: hunter2 }\n]\n",
            "headers: { X-Hub: hunter2 }\n]\n",
            "? password\n: hunter2\n]\n",
            "url: rtsp://admin:hunter2@host/a\n  ]\n",
        ] {
            assert!(!all_lines(text).contains("hunter2"), "{text}\n{}", all_lines(text));
        }
    }

    #[test]
    fn references_to_secrets_stay_readable() {
        let text = "password: { env: DOCK }\nb:\n  token: { file: a.txt }\n";
        assert_eq!(all_lines(text), text);
        assert!(all_lines("password: { env: DOCK }\nx: [\n").contains("env: DOCK"));
        let text = "headers: { X-Hub: { env: HUB_TOKEN }, Y: { file: a b } }\nlabels: [a monkey]\n";
        assert_eq!(all_lines(text), text);
    }

    #[test]
    fn the_marker_stands_under_the_place() {
        let text = "a: 1\nbb: { password: x, wrong: 2 }\nc: 3\n";
        let root = tree::parse(text).expect("valid");
        let Value::Map(entries) = &root.value else { panic!("a mapping") };
        let Value::Map(inner) = &entries[1].value.value else { panic!("a mapping") };
        let rendered = render(text, &hidden_in_tree(text, &root), inner[1].key_place);
        assert_eq!(rendered, "1 | a: 1\n2 | bb: { password: ***, wrong: 2 }\n  |                      ^\n3 | c: 3\n");
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let text = format!("a: [{}]\n", vec!["x"; 500].join(", "));
        let root = tree::parse(&text).expect("valid");
        let Value::Map(entries) = &root.value else { panic!("a mapping") };
        let Value::List(items) = &entries[0].value.value else { panic!("a list") };
        let rendered = render(&text, &[], items[300].place);
        let lines: Vec<Vec<char>> = rendered.lines().map(|line| line.chars().collect()).collect();
        assert!(lines[0].len() <= WIDTH + 8);
        let marker = lines[1].iter().position(|c| *c == '^').expect("a marker");
        assert_eq!(lines[0][marker], 'x');
    }

    proptest::proptest! {
        #[test]
        fn no_text_and_no_place_makes_it_panic(text in "[\\PC\n]{0,80}", line in 0_u64..9, column in 0_u64..90) {
            let _ = all_lines(&text);
            let hidden = hidden_in_text(&text);
            let place = Place { line, column, ..Place::START };
            let _ = render(&text, &hidden, place);
        }
    }
}
