//! The labels that `tag` is given: a list, files, or those of a configured stream.
//!
//! In: arguments. Out: label sets, or what is wrong with them; what is doubtful goes to stderr. On the caller's thread.

use std::path::PathBuf;

use super::{Args, remark};
use crate::label::{Label, LabelSet, prompt_template, set};
use crate::model::Activation;
use crate::platform::userinfo::shown;
use crate::score::Scoring;
use crate::yaml::problem::Severity;
use crate::yaml::text_form::folded;

/// The sets of the arguments; `None`: they name none.
///
/// # Errors
/// What is wrong with them.
pub(super) fn read(args: &Args, activation: Activation) -> Result<Option<Vec<LabelSet>>, String> {
    if let Some(list) = &args.list {
        let set = of_list(args, list, activation)?;
        // A file's warnings say as much.
        match (set.scoring, set.labels.len()) {
            (Scoring::Exclusive, 1) => {
                remark(&"note: one label has nothing to be compared with: its score is 1 whatever is seen")
            }
            (Scoring::Exclusive, _) => remark(
                &"note: the labels of -l have no background: one of them wins on every picture, also where none is seen; a label set file \
                  may have a `background`, and its share is shown",
            ),
            (Scoring::Independent, _) => {
                remark(
                    &"note: the labels of -l have no background: each score is the model's own, compared with nothing",
                );
            }
        }
        return Ok(Some(vec![set]));
    }
    if args.files.is_empty() {
        return Ok(None);
    }
    let mut sets = load_sets(&args.files)?;
    if let Some(ensemble) = args.templates.ensemble {
        sets.iter_mut().for_each(|set| set.ensemble = ensemble);
    }
    Ok(Some(sets))
}

fn of_list(args: &Args, list: &str, activation: Activation) -> Result<LabelSet, String> {
    let mut labels: Vec<Label> = Vec::new();
    for name in separated(list) {
        if labels.iter().any(|l| folded(&l.name) == folded(&name)) {
            return Err(format!("label '{name}' is given twice"));
        }
        labels.push(Label::plain(&name));
    }
    if labels.is_empty() {
        return Err("no label is given; try -l \"a cat,a dog\"".to_owned());
    }
    // Without competitors a softmax of one is always 1: a sigmoid model can score labels on their own, others compare them.
    let scoring = match (args.scoring, activation) {
        (Some(Scoring::Independent), Activation::Softmax) => {
            let message = "this model can only compare, and labels of -l have nothing but each other to be compared with; \
                           use --scoring exclusive, or a label set file with `background`";
            return Err(format!("--scoring independent: {message}"));
        }
        (Some(scoring), _) => scoring,
        (None, Activation::Softmax) => Scoring::Exclusive,
        (None, Activation::Sigmoid) => Scoring::Independent,
    };
    let mut templates = args.templates.read()?;
    if templates.is_empty() {
        templates.push(prompt_template::SLOT.to_owned());
    }
    Ok(LabelSet {
        name: "labels".to_owned(),
        scoring,
        templates,
        ensemble: args.templates.ensemble.unwrap_or_default(),
        background: Vec::new(),
        has_nouns: false,
        counter_examples: Vec::new(),
        labels,
        hours: None,
        file: PathBuf::new(),
        sha256: String::new(),
    })
}

/// The texts of a list with commas between them. A comma that belongs to a text has a backslash in front of it; others stay as they are.
fn separated(list: &str) -> Vec<String> {
    let mut texts = vec![String::new()];
    let mut characters = list.chars().peekable();
    while let Some(c) = characters.next() {
        match (c, texts.last_mut()) {
            (',', _) => texts.push(String::new()),
            ('\\', Some(text)) => text.push(characters.next_if_eq(&',').unwrap_or(c)),
            (c, Some(text)) => text.push(c),
            (_, None) => {}
        }
    }
    texts.iter().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect()
}

/// A set without a background is among what is doubtful.
fn load_sets(files: &[PathBuf]) -> Result<Vec<LabelSet>, String> {
    let (mut sets, mut problems) = (Vec::new(), Vec::new());
    for file in files {
        match set::load(file) {
            Ok((set, _)) if sets.iter().any(|s: &LabelSet| s.name == set.name) => {
                problems.push(format!("{}: a set named {} is given already", shown(file), set.name));
            }
            Ok((set, warnings)) => {
                sets.push(set);
                warnings.iter().filter(|w| w.severity > Severity::Notice).for_each(|w| remark(w));
            }
            Err(found) => problems.extend(found.iter().map(ToString::to_string)),
        }
    }
    if problems.is_empty() { Ok(sets) } else { Err(problems.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_with_a_backslash_belongs_to_its_label() {
        for (list, labels) in [
            ("a cat,a dog", &["a cat", "a dog"][..]),
            (r"a man\, running , a dog,", &["a man, running", "a dog"]),
            (r"a\b,c\\,d", &[r"a\b", r"c\,d"]),
            (r"end\", &[r"end\"]),
            (" , ", &[]),
        ] {
            assert_eq!(separated(list), labels, "{list}");
        }
    }
}
