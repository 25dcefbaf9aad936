//! Label-set files: what is read, what is refused, what is warned about.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use vtagd::label::{Ensemble, LabelSet, set};
use vtagd::score::{Scoring, Threshold};
use vtagd::yaml::problem::Problem;

fn load(text: &str) -> Result<(LabelSet, Vec<Problem>), Vec<Problem>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path: PathBuf = folder.path().join("set.yaml");
    fs::write(&path, text).expect("written");
    set::load(&path)
}

fn refused(text: &str) -> Vec<Problem> {
    load(text).err().unwrap_or_default()
}

fn warned(text: &str) -> Vec<Problem> {
    load(text).unwrap_or_else(|problems| panic!("{text}\n{problems:?}")).1
}

#[test]
fn a_whole_set_is_read_as_written() {
    let (set, warnings) = load(
        "\
set: dock-safety
scoring: independent
templates: [\"a photo of {}\", \"a security camera view of {}\"]
ensemble: probabilities
background: [\"an empty loading dock \"]
labels:
  - name: forklift
    prompts: [a forklift, a forklift carrying pallets]
    negatives: [a pallet jack]
    enter: 0.7
    exit: 0.25
    after: 500ms
    after_exit: 0
    cooldown: 1m
    attributes: { severity: warning, code: 7, nested: { list: [1, 2.5, null, true] } }
  - name: 2024
",
    )
    .expect("valid");
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!((set.name.as_str(), set.scoring), ("dock-safety", Scoring::Independent));
    assert_eq!(set.templates, ["a photo of {}", "a security camera view of {}"]);
    assert_eq!(set.ensemble, Ensemble::Probabilities);
    assert_eq!(set.background, ["an empty loading dock"]);
    let forklift = &set.labels[0];
    assert_eq!(forklift.prompts, ["a forklift", "a forklift carrying pallets"]);
    assert_eq!(forklift.negatives, ["a pallet jack"]);
    assert_eq!(
        (forklift.thresholds.enter, forklift.thresholds.exit),
        (Some(Threshold::Probability(0.7)), Some(Threshold::Probability(0.25)))
    );
    assert_eq!(forklift.thresholds.after, Some(Duration::from_millis(500)));
    assert_eq!(forklift.thresholds.after_exit, Some(Duration::ZERO));
    assert_eq!(forklift.thresholds.cooldown, Some(Duration::from_secs(60)));
    assert_eq!(
        serde_json::to_value(&forklift.attributes).expect("JSON"),
        serde_json::json!({ "severity": "warning", "code": 7, "nested": { "list": [1, 2.5, null, true] } })
    );
    assert_eq!(
        (set.labels[1].name.as_str(), set.labels[1].prompts.as_slice()),
        ("2024", ["2024".to_owned()].as_slice())
    );
}

#[test]
fn thresholds_may_be_margins() {
    let text = "set: a\nbackground: [an empty room]\nlabels:\n  - { name: cat, enter: { margin: 2.1 }, exit: { margin: -0.5 } }\n  - { name: dog, enter: { margin: 30 }, exit: 0.9 }\n";
    let (set, warnings) = load(text).expect("valid");
    assert!(warnings.is_empty(), "{warnings:?}");
    let thresholds = |label: usize| (set.labels[label].thresholds.enter, set.labels[label].thresholds.exit);
    assert_eq!(thresholds(0), (Some(Threshold::Margin(2.1)), Some(Threshold::Margin(-0.5))));
    assert_eq!(thresholds(1), (Some(Threshold::Margin(30.0)), Some(Threshold::Probability(0.9))));
}

#[test]
fn the_least_set_is_a_name_and_two_labels() {
    let (set, warnings) = load("set: a\nlabels: [{ name: cat }, { name: dog }]\n").expect("valid");
    let told: Vec<&str> = warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert!(matches!(told[..], [only] if only.starts_with("has no background")), "{told:?}");
    assert_eq!((set.scoring, set.templates.as_slice()), (Scoring::Exclusive, ["{}".to_owned()].as_slice()));
    assert_eq!(set.ensemble, Ensemble::Embeddings);
}

#[test]
fn mistakes_are_refused_with_line_field_and_remedy() {
    let cases: &[(&str, u64, &str, &str)] = &[
        ("labels: [{ name: a }, { name: b }]", 1, "set", "is missing"),
        ("set: a", 1, "labels", "is missing"),
        ("set: a\nlabels:", 1, "labels", "is missing"),
        ("set: a\nlabels: []", 2, "labels", "is empty"),
        ("set: a\nlabels: [cat, { name: b }]", 2, "labels[0]", "expected a mapping"),
        ("set: a\nlabels:\n  - name: x\n  - name: y\n  - name: x", 5, "labels[2].name", "two labels (first in line 3)"),
        ("set: a\nlabels: [{ prompts: [x] }, { name: b }]", 2, "labels[0].name", "is missing"),
        ("set: a\nlabels: [{ name: \"\" }, { name: b }]", 2, "labels[0].name", "empty name"),
        ("set: \"a\\nb\"\nlabels: [{ name: a }, { name: b }]", 1, "set", "line break"),
        ("set: a\nlabels: [{ name: a, prompts: [] }, { name: b }]", 2, "labels[0].prompts", "is empty"),
        ("set: a\nlabels: [{ name: a, prompts: [\" \"] }, { name: b }]", 2, "labels[0].prompts[0]", "empty prompt"),
        ("set: a\nlabels: [{ name: a, prompt: [x] }, { name: b }]", 2, "labels[0].prompt", "did you mean `prompts`"),
        ("set: a\nlabels: [{ name: a, enter: 60 }, { name: b }]", 2, "labels[0].enter", "0 to 1"),
        ("set: a\nlabels: [{ name: a, enter: 0.2, exit: 0.3 }, { name: b }]", 2, "labels[0].exit", "at most enter"),
        (
            "set: a\nlabels: [{ name: a, enter: { margin: 1 }, exit: { margin: 1.5 } }, { name: b }]",
            2,
            "labels[0].exit",
            "{ margin: 1 }",
        ),
        (
            "set: a\nlabels: [{ name: a, enter: { margin: 1 }, exit: 0.8 }, { name: b }]",
            2,
            "labels[0].exit",
            "at most enter",
        ),
        ("set: a\nlabels: [{ name: a, enter: { margin: x } }, { name: b }]", 2, "labels[0].enter.margin", "a number"),
        (
            "set: a\nlabels: [{ name: a, enter: { margin: 1e9 } }, { name: b }]",
            2,
            "labels[0].enter.margin",
            "-1000 to 1000",
        ),
        (
            "set: a\nlabels: [{ name: a, enter: { logit: 1 } }, { name: b }]",
            2,
            "labels[0].enter.logit",
            "known here: margin",
        ),
        ("set: a\nlabels: [{ name: a, enter: [0.5] }, { name: b }]", 2, "labels[0].enter", "a number"),
        ("set: a\nlabels: [{ name: a, attributes: x }, { name: b }]", 2, "labels[0].attributes", "a mapping"),
        ("set: a\ntemplates: [a photo]\nlabels: [{ name: a }, { name: b }]", 2, "templates[0]", "has no {}"),
        ("set: a\ntemplates: [\"{} {}\"]\nlabels: [{ name: a }, { name: b }]", 2, "templates[0]", "2 times"),
        ("set: a\ntemplates: []\nlabels: [{ name: a }, { name: b }]", 2, "templates", "is empty"),
        ("set: a\nscoring: softmax\nlabels: [{ name: a }, { name: b }]", 2, "scoring", "exclusive, independent"),
        ("set: a\nensemble: probability\nlabels: [{ name: a }, { name: b }]", 2, "ensemble", "`probabilities`"),
        ("set: a\nensemble: max\nlabels: [{ name: a }, { name: b }]", 2, "ensemble", "embeddings, probabilities"),
        ("set: a\nensemble: [x]\nlabels: [{ name: a }, { name: b }]", 2, "ensemble", "one of embeddings"),
    ];
    for (text, line, field, part) in cases {
        let problems = refused(text);
        assert_eq!(problems.len(), 1, "{text}\n{problems:#?}");
        let problem = &problems[0];
        assert_eq!(
            (problem.position.map(|(line, _)| line), problem.field.as_str()),
            (Some(*line), *field),
            "{problem}"
        );
        assert!(problem.to_string().contains(part) && !problem.remedy.is_empty(), "{problem}");
    }
}

#[test]
fn prompts_the_model_cannot_follow_are_warned_about() {
    let long = "word ".repeat(60);
    let cases: &[(String, &str, &str)] = &[
        (
            "background: [y]\nlabels: [{ name: a, prompts: [no people] }, { name: b }]".into(),
            "labels[0].prompts[0]",
            "negation `no`",
        ),
        (
            "background: [y]\nlabels: [{ name: a, prompts: [a man without a helmet] }, { name: b }]".into(),
            "labels[0].prompts[0]",
            "`without`",
        ),
        (
            "background: [y]\nlabels: [{ name: a door that isn't open }, { name: b }]".into(),
            "labels[0].name",
            "`isn't`",
        ),
        ("background: [no cars]\nlabels: [{ name: a }]".into(), "background[0]", "negation"),
        ("background: [y]\nlabels: [{ name: a/b }, { name: b }]".into(), "labels[0].name", "MQTT"),
        (
            format!("background: [y]\nlabels: [{{ name: a, prompts: [{long}] }}, {{ name: b }}]"),
            "labels[0].prompts[0]",
            "very long",
        ),
        ("background: [A Dock]\nlabels: [{ name: a, prompts: [a dock] }]".into(), "labels[0].prompts[0]", "background"),
        (
            "background: [y]\nlabels: [{ name: a, prompts: [x] }, { name: b, prompts: [x] }]".into(),
            "labels[1].prompts[0]",
            "another label",
        ),
        ("background: [y]\nlabels: [{ name: a, enter: 1 }, { name: b }]".into(), "labels[0].enter", "no score reaches"),
        (
            "background: [y]\nlabels: [{ name: a, prompts: [x], negatives: [x] }]".into(),
            "labels[0].prompts[0]",
            "negative",
        ),
        ("labels: [{ name: a }]".into(), "", "nothing to be compared with: its score is 1"),
        ("labels: [{ name: a }, { name: b }]".into(), "", "has no background: of its labels one wins"),
        ("labels: [{ name: a, negatives: [x] }]".into(), "", "has no background: a label is compared with"),
        (
            "scoring: independent\nlabels: [{ name: a, negatives: [x] }, { name: b, negatives: [x] }]".into(),
            "",
            "has no background: a label is compared with",
        ),
        (
            "ensemble: probabilities\ntemplates: [\"a {}\"]\nbackground: [y]\nlabels: [{ name: a }, { name: b }]"
                .into(),
            "ensemble",
            "nothing to average",
        ),
        (
            "scoring: independent\nlabels: [{ name: a, negatives: [x] }, { name: b }]".into(),
            "labels[1].name",
            "compared",
        ),
    ];
    for (text, field, part) in cases {
        let warnings = warned(&format!("set: s\n{text}\n"));
        assert_eq!(warnings.len(), 1, "{text}\n{warnings:#?}");
        assert_eq!(warnings[0].field, *field, "{}", warnings[0]);
        assert!(warnings[0].to_string().contains(part), "{}", warnings[0]);
    }
}

#[test]
fn words_that_only_contain_a_negation_are_fine() {
    let text =
        "set: s\nbackground: [x]\nlabels: [{ name: snow, prompts: [a notebook, a knot, north, nose, canteen] }]\n";
    assert!(warned(text).is_empty());
}

#[test]
fn all_problems_of_a_set_are_told_together() {
    let problems = refused("templates: [x]\nlabels:\n  - { name: a, entr: 1, enter: 2 }\n  - { prompts: [no cars] }\n");
    let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(
        fields,
        ["set", "templates[0]", "labels[0].entr", "labels[0].enter", "labels[1].name", "labels[1].prompts[0]"],
        "{problems:#?}"
    );
}
