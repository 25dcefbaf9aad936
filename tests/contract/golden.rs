//! The golden files under `tests/contract/golden`: compared, or written anew with `VTAGD_GOLDEN=write`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use super::super::common::daemon::root;

/// Set to `write`, the files are made anew instead of compared.
const VARIABLE: &str = "VTAGD_GOLDEN";

/// How to renew them.
const RENEW: &str = "if others are to know the new words, renew the files and look at what `git diff` says of them:\n  \
                     VTAGD_GOLDEN=write cargo nextest run --locked --features kafka --test repository contract_words::";

/// No file is larger, so that a change can be read; the document of the API, whose every route repeats what may be answered, is the largest.
const LARGEST: usize = 250_000;

/// Every file there is; [`none_is_left_over`] holds the folder against it.
const FILES: &[&str] = &[
    "api.txt",
    "bundle.txt",
    "commands.txt",
    "configuration.txt",
    "environment.txt",
    "events.txt",
    "files.txt",
    "help.txt",
    "home_assistant.json",
    "kafka.txt",
    "log.txt",
    "log_fields.txt",
    "metrics_code.txt",
    "metrics_scrape.txt",
    "metrics_table.txt",
    "mqtt.txt",
    "nats.txt",
    "openapi.json",
    "outbox.txt",
    "status.txt",
    "systemd.txt",
    "webhook.txt",
];

fn folder() -> PathBuf {
    root().join("tests/contract/golden")
}

fn is_writing() -> bool {
    std::env::var(VARIABLE).is_ok_and(|value| value == "write")
}

/// What differed so far; told all together by [`finish`](Self::finish).
#[derive(Default)]
pub struct Golden {
    differences: String,
}

impl Golden {
    /// Compares `text` with the file `name`, or makes it the file.
    pub fn check(&mut self, name: &str, text: &str) {
        assert!(FILES.contains(&name), "{name} is not in the list of golden files");
        assert!(text.len() < LARGEST, "{name} has {} bytes", text.len());
        let text = format!("{}\n", text.trim_end());
        let file = folder().join(name);
        let known = fs::read_to_string(&file).unwrap_or_default();
        if is_writing() {
            if known != text {
                fs::create_dir_all(folder()).unwrap();
                fs::write(&file, text).unwrap();
            }
        } else if known != text {
            let _ = write!(self.differences, "\n{name}:\n{}", difference(&known, &text));
        }
    }

    /// Fails with everything that differed.
    pub fn finish(self) {
        assert!(
            self.differences.is_empty(),
            "words that others depend on have changed:\n{}\n{RENEW}",
            self.differences
        );
    }
}

/// The lines that only one of the two has, each under the heading (`== …`) it stands below; `-` is the golden file's.
fn difference(known: &str, text: &str) -> String {
    let lines = |text: &str| {
        let mut heading = "";
        let mut counted: BTreeMap<(String, String), i64> = BTreeMap::new();
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("== ") {
                heading = title;
            }
            *counted.entry((heading.to_owned(), line.to_owned())).or_default() += 1;
        }
        counted
    };
    let mut balance = lines(text);
    for (line, times) in lines(known) {
        *balance.entry(line).or_default() -= times;
    }
    let mut told = String::new();
    for ((heading, line), times) in balance.into_iter().filter(|(_, times)| *times != 0) {
        let under = if heading.is_empty() { String::new() } else { format!("[{heading}] ") };
        let _ = writeln!(told, "  {} {under}{line}", if times < 0 { '-' } else { '+' });
    }
    if told.is_empty() {
        told.push_str("  the same lines in another order\n");
    }
    told
}

/// Every file is in the list and every name in the list is a file.
pub fn none_is_left_over() {
    if is_writing() {
        // By other tests, at the same time.
        return;
    }
    let mut found: Vec<String> =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, FILES);
}

/// Sections with a heading each.
pub fn sections<'a>(parts: impl IntoIterator<Item = (&'a str, String)>) -> String {
    parts.into_iter().map(|(title, body)| format!("== {title}\n{}\n\n", body.trim_end())).collect()
}

#[test]
fn a_difference_is_told_line_by_line_under_its_heading() {
    let told = difference("== a\nx: string\ny: null\n== b\nx: string\n", "== a\nx: string\n== b\nx: number\n");
    assert_eq!(told, "  - [a] y: null\n  + [b] x: number\n  - [b] x: string\n");
    assert_eq!(difference("a\nb\n", "b\na\n"), "  the same lines in another order\n");
}
