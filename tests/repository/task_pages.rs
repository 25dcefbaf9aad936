//! Pages by task are short: words, sentences, links, and how little of them is not run. What they show is done in `task_pages_run.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::common::daemon::{root, vtagd};
use crate::common::promtool::promtool;
use crate::page_reader::{Block, blocks};
use vtagd::metrics::METRICS;

/// What a reader wants to get done, in the order in which README.md names them.
pub const TASK_PAGES: [&str; 8] = [
    "start.md",
    "thresholds.md",
    "home-assistant.md",
    "your-own-program.md",
    "twenty-boxes.md",
    "which-model.md",
    "nothing-is-told.md",
    "upgrade.md",
];

/// Words a page may have, and words of a sentence, code and commands among them.
const MOST_WORDS: usize = 1200;
const MOST_WORDS_OF_A_SENTENCE: usize = 29;

/// Blocks of commands, on all pages together, that may say why they are not run.
const MOST_NOT_RUN: usize = 8;

/// Words of the pages that begin as metrics do: a file of the examples, variables of the playbook, packages.
const NO_METRICS: [&str; 7] =
    ["vtagd_client", "vtagd_secrets", "vtagd_package", "vtagd_0", "vtagd_etc", "vtagd_", "vtagd_amd64"];

fn page(name: &str) -> String {
    fs::read_to_string(root().join("docs").join(name)).unwrap_or_else(|error| panic!("docs/{name}: {error}"))
}

/// The prose of a page, paragraph by paragraph, cell by cell, each with its line.
fn paragraphs(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let (mut is_code, mut goes_on) = (false, false);
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("```") {
            is_code = !is_code;
            goes_on = false;
            continue;
        }
        if is_code || line.is_empty() || line.starts_with(['#', '<']) {
            goes_on = false;
        } else if let Some(row) = line.strip_prefix('|') {
            found.extend(row.trim_end_matches('|').split(" | ").map(|cell| (at + 1, cell.trim().to_owned())));
            goes_on = false;
        } else if let Some(item) = item(line) {
            found.push((at + 1, item.to_owned()));
            goes_on = true;
        } else if goes_on {
            let last = &mut found.last_mut().unwrap().1;
            last.push(' ');
            last.push_str(line);
        } else {
            found.push((at + 1, line.to_owned()));
            goes_on = true;
        }
    }
    found
}

/// What stands behind the mark of a list.
fn item(line: &str) -> Option<&str> {
    let numbered = line.split_once(". ").filter(|(n, _)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    line.strip_prefix("- ").or(numbered.map(|(_, rest)| rest))
}

/// Sentences as a person counts them: a name in code is one word, of a link only its text is read.
fn sentences(paragraph: &str) -> Vec<String> {
    let mut plain = String::new();
    for (at, part) in paragraph.split('`').enumerate() {
        plain.push_str(if at % 2 == 1 { "code" } else { part });
    }
    let mut text = String::new();
    let mut rest = plain.as_str();
    while let Some((before, after)) = rest.split_once("](") {
        text.push_str(before);
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    text.push_str(rest);
    let mut found = vec![String::new()];
    for word in text.split_whitespace() {
        let last = found.last_mut().unwrap();
        last.push_str(word);
        last.push(' ');
        if word.trim_end_matches(['*', '_', ')', '"', ']']).ends_with(['.', '!', '?']) {
            found.push(String::new());
        }
    }
    found
}

#[test]
fn a_page_by_task_is_read_in_a_few_minutes() {
    let mut long = Vec::new();
    for name in TASK_PAGES {
        let text = page(name);
        let words = text.split_whitespace().count();
        if words > MOST_WORDS {
            long.push(format!("docs/{name} has {words} words, and may have {MOST_WORDS}"));
        }
        for (line, paragraph) in paragraphs(&text) {
            for sentence in sentences(&paragraph) {
                let words = sentence.split_whitespace().count();
                if words > MOST_WORDS_OF_A_SENTENCE {
                    long.push(format!("docs/{name}:{line}: {words} words in a sentence: {sentence}"));
                }
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn sentences_are_counted_as_a_person_does() {
    let text = "# Head\n\nOne `a b c` [two](x.md#y). Three\nfour! *Five.*\n\n- six\n- seven\n  eight\n\n| a b | c |\n|---|---|\n\n```sh\nnot this. one\n```\n1. nine\n";
    let counts: Vec<(usize, Vec<usize>)> = paragraphs(text)
        .iter()
        .map(|(line, paragraph)| {
            let counts = sentences(paragraph).iter().map(|one| one.split_whitespace().count()).collect::<Vec<_>>();
            (*line, counts.into_iter().filter(|count| *count > 0).collect())
        })
        .collect();
    let wanted: Vec<(usize, &[usize])> =
        vec![(3, &[3, 2, 1]), (6, &[1]), (7, &[2]), (10, &[2]), (10, &[1]), (11, &[1]), (16, &[1])];
    let counts: Vec<(usize, &[usize])> = counts.iter().map(|(line, all)| (*line, all.as_slice())).collect();
    assert_eq!(counts, wanted);
}

#[test]
fn what_is_not_run_says_why_and_is_little() {
    let mut not_run = Vec::new();
    for name in TASK_PAGES {
        let text = page(name);
        let all = blocks(&text);
        assert!(all.iter().any(|block| block.language() == "sh"), "docs/{name} shows no command");
        for block in all.iter().filter(|block| block.language() == "sh") {
            let place = format!("docs/{name}:{}", block.line);
            match block.way().split_once(": ") {
                None => assert!(matches!(block.way(), "" | "forever"), "{place}: what is `{}`?", block.info),
                Some(("not-run", reason)) => {
                    assert!(reason.split_whitespace().count() >= 4, "{place}: why is it not run?");
                    not_run.push(format!("{place}: {reason}"));
                }
                Some(_) => panic!("{place}: what is `{}`?", block.info),
            }
        }
    }
    assert!(not_run.len() <= MOST_NOT_RUN, "{}", not_run.join("\n"));
    println!("not run:\n{}", not_run.join("\n"));
}

/// Metrics and alerts that a page names are there.
#[test]
fn numbers_that_the_pages_ask_for_are_told() {
    let rules = fs::read_to_string(root().join("ops/prometheus/vtagd-alerts.yaml")).unwrap();
    // Entities of Home Assistant are called alike.
    for name in TASK_PAGES.into_iter().filter(|name| *name != "home-assistant.md") {
        let text = page(name);
        let words: BTreeSet<&str> = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
        let named = words.iter().filter(|word| word.starts_with("vtagd_") && !NO_METRICS.contains(word));
        for metric in named {
            assert!(METRICS.iter().any(|known| known.0 == *metric), "docs/{name}: there is no metric {metric}");
        }
        for alert in words.iter().filter(|word| word.starts_with("Vtagd")) {
            assert!(rules.contains(&format!("alert: {alert}")), "docs/{name}: there is no alert {alert}");
        }
    }
}

/// A heading's address.
fn slug(heading: &str) -> String {
    let plain = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    plain.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
}

/// Every link of `text`, which stands in `folder`, that leads nowhere.
fn broken_links(text: &str, folder: &Path, name: &str) -> Vec<String> {
    let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let inside = links.filter(|link| !link.contains("://"));
    let is_broken = |link: &&str| {
        let (file, part) = link.split_once('#').unwrap_or((link, ""));
        let target = if file.is_empty() { folder.join(name) } else { folder.join(file) };
        let Ok(text) = fs::read_to_string(&target) else { return !target.exists() };
        !part.is_empty() && !text.lines().any(|line| line.starts_with('#') && slug(line) == part)
    };
    inside.filter(is_broken).map(|link| format!("{name} links to {link}")).collect()
}

#[test]
fn every_link_of_the_documentation_leads_somewhere() {
    let docs = root().join("docs");
    let mut broken = Vec::new();
    for entry in fs::read_dir(&docs).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".md") {
            broken.extend(broken_links(&page(&name), &docs, &name));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_readme_leads_to_every_task_before_it_leads_to_the_reference() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let at = |name: &str| readme.find(&format!("(docs/{name})")).unwrap_or_else(|| panic!("README.md has no {name}"));
    let last = TASK_PAGES.iter().map(|name| at(name)).max().unwrap();
    for name in ["configuration.md", "events.md", "operations.md", "commands.md", "api.md", "benchmarks.md"] {
        assert!(at(name) > last, "docs/{name} is reference: it comes after what people want to do");
    }
    // What one sees first: a picture, what to install, the two commands.
    let first: String = readme.lines().take(40).collect::<Vec<_>>().join("\n");
    for part in ["](docs/page/", ".deb", "make demo", "make test"] {
        assert!(first.contains(part), "the first screen of README.md lacks {part}");
    }
}

/// Prometheus's own checker has the last word on its files, vtagd on its own; everything else has to be YAML.
#[test]
fn yaml_of_the_pages_is_taken_by_whom_it_is_for() {
    for name in TASK_PAGES {
        for block in blocks(&page(name)).iter().filter(|block| block.language() == "yaml") {
            let place = format!("docs/{name}:{}", block.line);
            let read: Result<serde_json::Value, _> = serde_yaml::from_str(&block.body);
            let value = read.unwrap_or_else(|error| panic!("{place}: {error}"));
            let has = |key: &str| value.get(key).is_some();
            if has("set") {
                check_set(&place, block);
            } else if has("streams") || has("sinks") || has("include") {
                check_keys(&place, &value);
            } else if has("scrape_configs") {
                check_prometheus(&place, block);
            }
        }
    }
}

fn check_set(place: &str, block: &Block) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("set.yaml");
    fs::write(&file, &block.body).unwrap();
    let output = vtagd(folder.path()).args(["labels", "check"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{place}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Keys alone: files and passwords that it names are not here. What is run is checked whole.
fn check_keys(place: &str, value: &serde_json::Value) {
    let schema: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(root().join("config/vtagd.schema.json")).unwrap()).unwrap();
    let known: BTreeSet<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    for key in value.as_object().unwrap().keys() {
        assert!(known.contains(key.as_str()) || key.starts_with("x-"), "{place}: there is no key `{key}`");
    }
}

fn check_prometheus(place: &str, block: &Block) {
    let folder = tempfile::tempdir().unwrap();
    let rules = root().join("ops/prometheus/vtagd-alerts.yaml");
    let text = block.body.replace("/etc/prometheus/vtagd-alerts.yaml", &rules.display().to_string());
    // The token is on the machine that scrapes.
    let token = folder.path().join("token");
    fs::write(&token, "x").unwrap();
    let text = text.replace("/etc/prometheus/vtagd.token", &token.display().to_string());
    fs::write(folder.path().join("prometheus.yml"), text).unwrap();
    let said = promtool(folder.path(), &["check", "config", "prometheus.yml"], "");
    let said = said.unwrap_or_else(|said| panic!("{place}: {said}"));
    assert!(said.contains("rules found"), "{place}: {said}");
}
