//! Changes a label in the text of a label-set file, and leaves every other character of it as it is: comments, order, empty lines.
//!
//! In: a parsed file, the set that it holds, and the set as it is to be. Out: the text that holds that. What is written anew is JSON, which is YAML wherever it
//! stands. Whatever the file looks like, the result is read again and has to be exactly what was wanted, or nothing comes of it. Pure.

use serde_json::json;

use super::background_field::NOUNS;
use super::examples::Example;
use super::{Label, LabelSet, set};
use crate::score::Threshold;
use crate::yaml::problem::Severity;
use crate::yaml::{Document, Entry, Node, Value};

/// Why a file is not changed: it is written in a way that is not understood here.
const ODD: &str = "the set's file is written in a way that cannot be changed here without losing something: add the label to the file by hand";

/// A piece of the text, and what stands there instead.
struct Change {
    from: usize,
    to: usize,
    text: String,
}

/// The text of `document`, which holds `now`, so that it holds `wanted`: other background prompts, and the label `name` added or changed.
///
/// # Errors
/// Why not, for people.
pub fn edited(document: &Document, now: &LabelSet, wanted: &LabelSet, name: &str) -> Result<String, String> {
    let text = document.text();
    let odd = || ODD.to_owned();
    let mut changes = Vec::new();
    let entries = map(document.root()).ok_or_else(odd)?;
    let labels = entries.iter().find(|entry| entry.key == "labels").ok_or_else(odd)?;
    if (&now.background, now.has_nouns) != (&wanted.background, wanted.has_nouns) {
        let (before, after) = (now.background_as_written(), background(now, wanted));
        let key = ("background", list(&after));
        changes.push(put(text, entries, labels, &before, &after, key).ok_or_else(odd)?);
    }
    let label = wanted.labels.iter().find(|label| label.name == name).ok_or_else(odd)?;
    let Value::List(items) = &labels.value.value else { return Err(odd()) };
    match now.labels.iter().position(|before| before.name == name) {
        None => changes.push(append(text, &labels.value, items, label).ok_or_else(odd)?),
        Some(at) => {
            let entries = items.get(at).and_then(map).ok_or_else(odd)?;
            changes.extend(change_label(text, entries, &now.labels[at], label).ok_or_else(odd)?);
        }
    }
    changes.sort_by_key(|change| std::cmp::Reverse(change.from));
    let mut out = text.to_owned();
    for Change { from, to, text } in changes {
        if !(out.is_char_boundary(from) && out.is_char_boundary(to) && from <= to) {
            return Err(odd());
        }
        out.replace_range(from..to, &text);
    }
    // Whatever was thought of the file: this is what it says now.
    let parsed = document.with_text(&out).map_err(|_| odd())?;
    let parsed = set::check(parsed).map_err(|problems| {
        let error = problems.iter().find(|problem| problem.severity == Severity::Error);
        error.map_or_else(odd, |problem| format!("{} {}; {}", problem.field, problem.message, problem.remedy))
    })?;
    let (file, sha256) = (wanted.file.clone(), wanted.sha256.clone());
    let same = without_places(LabelSet { file, sha256, ..parsed.set }) == without_places(wanted.clone());
    if same { Ok(out) } else { Err(odd()) }
}

/// Examples are called by their lines, which move.
fn without_places(mut set: LabelSet) -> LabelSet {
    let of_labels =
        set.labels.iter_mut().flat_map(|label| label.examples.iter_mut().chain(&mut label.counter_examples));
    of_labels.chain(&mut set.counter_examples).for_each(|example| example.name.clear());
    set
}

/// The background as it is to be written: in the order that it has, with what is new behind it, where nothing goes.
fn background(now: &LabelSet, wanted: &LabelSet) -> Vec<String> {
    let added = wanted.background.strip_prefix(&now.background[..]);
    let Some(added) = added.filter(|_| wanted.has_nouns >= now.has_nouns) else {
        return wanted.background_as_written();
    };
    let nouns = (wanted.has_nouns && !now.has_nouns).then(|| NOUNS.to_owned());
    now.background_as_written().into_iter().chain(added.iter().cloned()).chain(nouns).collect()
}

fn map(node: &Node) -> Option<&[Entry]> {
    if let Value::Map(entries) = &node.value { Some(entries) } else { None }
}

fn list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| json!(text).to_string()).collect::<Vec<_>>().join(", "))
}

fn threshold(threshold: Threshold) -> String {
    match threshold {
        Threshold::Probability(score) => json!(score).to_string(),
        Threshold::Margin(margin) => format!("{{ margin: {} }}", json!(margin)),
    }
}

/// Where the node begins.
fn start(node: &Node) -> Option<usize> {
    Some(node.place.range()?.start)
}

/// Whether the node is a list or a map in brackets.
fn is_flow(text: &str, node: &Node) -> bool {
    let first = start(node).and_then(|at| text.as_bytes().get(at));
    matches!(node.value, Value::List(_) | Value::Map(_)) && matches!(first, Some(b'[' | b'{'))
}

/// Where the node ends: behind its last scalar, and behind the brackets round that.
fn end(text: &str, node: &Node) -> Option<usize> {
    let inner = match &node.value {
        Value::List(items) => items.last().map(|last| end(text, last)),
        Value::Map(entries) => entries.last().map(|last| end(text, &last.value)),
        _ => {
            let range = node.place.range()?;
            let piece = text.get(range.clone())?;
            return Some(range.start + piece.trim_end().len());
        }
    };
    if !is_flow(text, node) {
        return inner?;
    }
    let inner = match inner {
        Some(inner) => inner?,
        None => start(node)? + 1,
    };
    closing(text, inner).map(|at| at + 1)
}

/// The bracket behind `from`, beyond spaces, commas and comments.
fn closing(text: &str, from: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = from;
    loop {
        match bytes.get(at)? {
            b']' | b'}' => return Some(at),
            b'#' => at += text[at..].find('\n')?,
            b',' | b' ' | b'\t' | b'\r' | b'\n' => at += 1,
            _ => return None,
        }
    }
}

/// The end of the line that `from` is in, comments included.
fn end_of_line(text: &str, from: usize) -> usize {
    let rest = &text[from..];
    let line = rest.split('\n').next().unwrap_or_default();
    from + line.trim_end_matches('\r').len()
}

/// How far the line that `at` is in is indented before `at`, as spaces.
fn indent(text: &str, at: usize) -> String {
    let line = text[..at].rsplit('\n').next().unwrap_or_default();
    " ".repeat(line.chars().count())
}

/// How far the dash of an item of a list is indented, as spaces.
fn dash_indent(text: &str, item: &Node) -> Option<String> {
    let at = match &item.value {
        Value::Map(entries) if !is_flow(text, item) => entries.first()?.key_place.range()?.start,
        _ => start(item)?,
    };
    let line = text.get(..at)?.rsplit('\n').next()?;
    line.trim_end().strip_suffix('-').filter(|margin| margin.trim().is_empty()).map(str::to_owned)
}

/// `key` with its new value: where it stands, else before `labels`.
fn put(
    text: &str,
    entries: &[Entry],
    labels: &Entry,
    before: &[String],
    wanted: &[String],
    (key, value): (&str, String),
) -> Option<Change> {
    match entries.iter().find(|entry| entry.key == key) {
        Some(entry) => change_list(text, &entry.value, before, wanted),
        None => {
            let at = labels.key_place.range()?.start;
            let flow = text[..at].trim_start().starts_with('{');
            let behind = if flow { ", ".to_owned() } else { format!("\n{}", indent(text, at)) };
            Some(Change { from: at, to: at, text: format!("{key}: {value}{behind}") })
        }
    }
}

/// A list with other texts: those that are new at its end where all others stay, so that what is said about them stays too.
fn change_list(text: &str, node: &Node, before: &[String], wanted: &[String]) -> Option<Change> {
    let whole = || Some(Change { from: start(node)?, to: end(text, node)?, text: list(wanted) });
    let Value::List(items) = &node.value else { return whole() };
    let (Some(last), true) = (items.last(), wanted.starts_with(before) && items.len() == before.len()) else {
        return whole();
    };
    let added = wanted[before.len()..].iter().map(|text| json!(text).to_string());
    let at = end(text, last)?;
    if is_flow(text, node) {
        let added: String = added.map(|text| format!(", {text}")).collect();
        return Some(Change { from: at, to: at, text: added });
    }
    let (line, margin) = (end_of_line(text, at), dash_indent(text, last)?);
    let added: String = added.map(|text| format!("\n{margin}- {text}")).collect();
    Some(Change { from: line, to: line, text: added })
}

/// What differs between two labels of one name.
fn change_label(text: &str, entries: &[Entry], now: &Label, wanted: &Label) -> Option<Vec<Change>> {
    let name = entries.iter().find(|entry| entry.key == "name")?;
    let mut changes = Vec::new();
    let mut new = Vec::new();
    let lists = [("prompts", &now.prompts, &wanted.prompts), ("negatives", &now.negatives, &wanted.negatives)];
    for (key, before, after) in lists.into_iter().filter(|(_, before, after)| before != after) {
        match entries.iter().find(|entry| entry.key == key) {
            Some(entry) => changes.push(change_list(text, &entry.value, before, after)?),
            None => new.push(format!("{key}: {}", list(after))),
        }
    }
    let pictures = [
        ("examples", &now.examples, &wanted.examples),
        ("counter_examples", &now.counter_examples, &wanted.counter_examples),
    ];
    for (key, before, after) in pictures.into_iter().filter(|(_, before, after)| before.len() != after.len()) {
        let added = moments(after.get(before.len()..)?)?;
        match entries.iter().find(|entry| entry.key == key) {
            Some(entry) => {
                // Whatever stands there, files and folders too, stays.
                let Value::List(items) = &entry.value.value else { return None };
                let there =
                    items.iter().map(|item| if let Value::Text(text) = &item.value { text.as_str() } else { "" });
                let there: Vec<String> = there.map(str::to_owned).collect();
                let all: Vec<String> = there.iter().cloned().chain(added).collect();
                changes.push(change_list(text, &entry.value, &there, &all)?);
            }
            None => new.push(format!("{key}: {}", list(&added))),
        }
    }
    let levels = [
        ("enter", now.thresholds.enter, wanted.thresholds.enter),
        ("exit", now.thresholds.exit, wanted.thresholds.exit),
    ];
    for (key, _, after) in levels.into_iter().filter(|(_, before, after)| before != after) {
        let after = threshold(after?);
        match entries.iter().find(|entry| entry.key == key) {
            Some(Entry { value, .. }) => {
                changes.push(Change { from: start(value)?, to: end(text, value)?, text: after });
            }
            None => new.push(format!("{key}: {after}")),
        }
    }
    if !new.is_empty() {
        let key = name.key_place.range()?.start;
        let at = end(text, &name.value)?;
        // In brackets a comma is next, or the end.
        let rest = text[at..].trim_start();
        let change = if text[..key].trim_end().ends_with(['{', ',']) || rest.starts_with([',', '}']) {
            Change { from: at, to: at, text: new.iter().map(|new| format!(", {new}")).collect() }
        } else {
            let (line, margin) = (end_of_line(text, at), indent(text, key));
            Change { from: line, to: line, text: new.iter().map(|new| format!("\n{margin}{new}")).collect() }
        };
        changes.push(change);
    }
    Some(changes)
}

/// Moments of the history, as a file has them.
fn moments(examples: &[Example]) -> Option<Vec<String>> {
    examples.iter().map(Example::written).collect()
}

/// A label behind the last one.
fn append(text: &str, labels: &Node, items: &[Node], label: &Label) -> Option<Change> {
    let mut keys = vec![("name", json!(label.name).to_string())];
    if label.prompts != [label.name.clone()] {
        keys.push(("prompts", list(&label.prompts)));
    }
    if !label.negatives.is_empty() {
        keys.push(("negatives", list(&label.negatives)));
    }
    for (key, examples) in [("examples", &label.examples), ("counter_examples", &label.counter_examples)] {
        if !examples.is_empty() {
            keys.push((key, list(&moments(examples)?)));
        }
    }
    keys.extend(label.thresholds.enter.map(|enter| ("enter", threshold(enter))));
    keys.extend(label.thresholds.exit.map(|exit| ("exit", threshold(exit))));
    let last = items.last()?;
    let at = end(text, last)?;
    let pairs: Vec<String> = keys.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    if is_flow(text, labels) {
        return Some(Change { from: at, to: at, text: format!(", {{ {} }}", pairs.join(", ")) });
    }
    let (line, margin) = (end_of_line(text, at), dash_indent(text, last)?);
    let text = format!("\n{margin}- {}", pairs.join(&format!("\n{margin}  ")));
    Some(Change { from: line, to: line, text })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parsed(text: &str) -> (Document, LabelSet) {
        let document = Document::parse(Path::new("yard.yaml"), text.as_bytes()).unwrap();
        let set = set::check(Document::parse(Path::new("yard.yaml"), text.as_bytes()).unwrap()).unwrap().set;
        (document, set)
    }

    fn label(name: &str) -> Label {
        let mut label = Label::plain(name);
        label.prompts = vec![format!("a {name}"), "\"quoted\": #no comment, ü".to_owned()];
        label.thresholds.enter = Some(Threshold::Margin(2.25));
        label.thresholds.exit = Some(Threshold::Margin(1.0));
        label
    }

    const BLOCK: &str = "# what drives in\nset: yard\ntemplates: ['{}']\n\nbackground: # by day\n  - an empty yard\n  # and by night\n  - 'a dark yard'\n\nlabels:\n  # all of them\n  - name: car # any\n    prompts:\n      - a car # parked\n      - a van\n    attributes: { severity: info } # for the pager\n  - name: dog\n    negatives: [a cat,\n      a fox] # at night\n# the end\n";
    const FLOW: &str = "{ set: yard, background: [an empty yard], labels: [{ name: car, prompts: [a car] }, { name: dog }] } # short\n";
    const SHORT: &str = "set: yard\nlabels:\n- name: car\n- {name: dog, enter: 0.8}\n";

    /// Every line of `before` that has a comment is in `after`.
    fn comments_stay(before: &str, after: &str) {
        for line in before.lines().filter(|line| line.contains('#')) {
            let comment = &line[line.find('#').unwrap()..];
            assert!(after.contains(comment), "{comment} is gone:\n{after}");
        }
    }

    #[test]
    fn moments_of_the_history_come_behind_the_examples_that_there_are() {
        let at = |second: i64| jiff::Timestamp::from_second(1_780_000_000 + second).unwrap();
        let moment = |second| Example::of_history("gate", Some("left"), at(second)).unwrap();
        for text in [
            "set: yard\nbackground: [x]\nlabels:\n  - name: car # ours\n    counter_examples: ['history:gate@2026-05-01T12:00:00Z']\n    examples:\n      - history:gate@2026-05-01T11:00:00Z # good\n  - name: dog\n",
            "set: yard\nbackground: [x]\nlabels: [{ name: car, examples: ['history:gate@2026-05-01T11:00:00Z'], counter_examples: ['history:gate@2026-05-01T12:00:00Z'] }, { name: dog }]\n",
            "set: yard\nbackground: [x]\nlabels:\n  - name: car\n  - name: dog\n",
        ] {
            let (document, set) = parsed(text);
            let mut wanted = set.clone();
            wanted.labels[0].examples.push(moment(1));
            wanted.labels[0].counter_examples.push(moment(2));
            let out = edited(&document, &set, &wanted, "car").expect(text);
            assert!(
                out.contains("history:gate/left@2026-05-28T20:26:41Z") && out.contains("counter_examples: ["),
                "{out}"
            );
            let again = parsed(&out).1;
            assert_eq!(without_places(again.clone()).labels[0], without_places(wanted).labels[0], "{out}");
            let mut new = again.clone();
            new.labels.push(Label { examples: vec![moment(3)], ..Label::plain("bus") });
            let (document, _) = parsed(&out);
            assert!(edited(&document, &again, &new, "bus").unwrap().contains("bus"), "{out}");
        }
    }

    #[test]
    fn a_label_is_added_to_any_form_of_a_file() {
        let crlf = BLOCK.replace('\n', "\r\n");
        let open = BLOCK.trim_end_matches("# the end\n").trim_end();
        for text in [BLOCK, FLOW, SHORT, &crlf, open] {
            let (document, now) = parsed(text);
            let mut wanted = now.clone();
            wanted.labels.push(label("fork lift"));
            let after = edited(&document, &now, &wanted, "fork lift").unwrap_or_else(|why| panic!("{why}:\n{text}"));
            comments_stay(text, &after);
        }
    }

    #[test]
    fn a_label_of_a_set_with_hours_has_them_and_nouns_come_and_go() {
        let hours = "active: { from: '08:00', to: '18:00', timezone: UTC } # by day\n";
        for text in [format!("{hours}{BLOCK}"), format!("{hours}{SHORT}")] {
            let (document, now) = parsed(&text);
            let mut wanted = now.clone();
            wanted.labels.push(Label { hours: now.hours.clone(), ..label("fork lift") });
            wanted.has_nouns = true;
            let after = edited(&document, &now, &wanted, "fork lift").unwrap_or_else(|why| panic!("{why}:\n{text}"));
            comments_stay(&text, &after);
            let (document, now) = parsed(&after);
            assert!(now.hours.is_some() && now.labels.iter().all(|label| label.hours == now.hours));
            let wanted = LabelSet { has_nouns: false, background: vec!["a road".to_owned()], ..now.clone() };
            edited(&document, &now, &wanted, "dog").unwrap_or_else(|why| panic!("{why}:\n{after}"));
        }
    }

    #[test]
    fn prompts_negatives_thresholds_and_background_change_and_nothing_else_does() {
        for text in [BLOCK, FLOW, SHORT] {
            for name in ["car", "dog"] {
                let (document, now) = parsed(text);
                let mut wanted = now.clone();
                wanted.background.push("rain: on the lens".to_owned());
                let changed = wanted.labels.iter_mut().find(|label| label.name == name).unwrap();
                changed.prompts.push("one more".to_owned());
                changed.negatives.push("a toy".to_owned());
                changed.thresholds.enter = Some(Threshold::Margin(3.5));
                changed.thresholds.exit = Some(Threshold::Margin(2.0));
                let after =
                    edited(&document, &now, &wanted, name).unwrap_or_else(|why| panic!("{why}: {name}\n{text}"));
                comments_stay(text, &after);
                // Others, and fewer.
                let (document, now) = parsed(&after);
                let mut wanted = now.clone();
                wanted.background = vec!["nothing".to_owned()];
                let changed = wanted.labels.iter_mut().find(|label| label.name == name).unwrap();
                changed.prompts = vec!["another".to_owned()];
                changed.negatives.clear();
                changed.thresholds.enter = Some(Threshold::Margin(-1.0));
                changed.thresholds.exit = Some(Threshold::Margin(-2.0));
                edited(&document, &now, &wanted, name).unwrap_or_else(|why| panic!("{why}: {name}\n{after}"));
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_and_never_half_done() {
        let anchored =
            "set: yard\nlabels:\n  - &a { name: car, prompts: &p [a car] }\n  - { name: dog, prompts: *p }\n";
        let (document, now) = parsed(anchored);
        let mut wanted = now.clone();
        wanted.labels[1].prompts.push("a dog".to_owned());
        // The list is the car's too.
        let told = edited(&document, &now, &wanted, "dog");
        assert!(told.is_err_and(|why| why.contains("by hand")));
        let (document, now) = parsed(SHORT);
        let mut wanted = now.clone();
        wanted.labels.push(Label::plain("car"));
        assert!(edited(&document, &now, &wanted, "nobody").is_err());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn any_texts_become_prompts_or_are_refused(texts in proptest::collection::vec("\\PC{1,20}", 1..4)) {
            for text in [BLOCK, FLOW, SHORT] {
                let (document, now) = parsed(text);
                let mut wanted = now.clone();
                wanted.labels[0].prompts.clone_from(&texts);
                wanted.labels[0].negatives.clone_from(&texts);
                if let Ok(after) = edited(&document, &now, &wanted, "car") {
                    proptest::prop_assert_eq!(&parsed(&after).1.labels, &wanted.labels);
                }
            }
        }
    }
}
