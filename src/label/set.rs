//! Label-set files: YAML in, a checked [`LabelSet`] out, with everything that is wrong or doubtful told at once.
//!
//! Runs on the caller's thread. Nothing is embedded here, so a file can be checked without a model.
//!
//! Warnings are about prompts that a CLIP-style model is known to handle badly. The text tower sees a bag of concepts more than
//! a sentence: "no people" scores high where people are (Yuksekgonul et al. 2023, "When and why vision-language models behave
//! like bags-of-words"), and a score is only meaningful against something else, so a label needs a contrast.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::background_field::Background;
use super::{Ensemble, Label, LabelSet, ThresholdOverrides, examples, prompt_template, threshold_field};
use crate::event::active_hours::ActiveHours;
use crate::score::learning::Learn;
use crate::score::{Scoring, Threshold};
use crate::section;
use crate::words;
use crate::yaml::Document;
use crate::yaml::field_reader::{At, Field, FromNode, Reader};
use crate::yaml::key_reference::Key;
use crate::yaml::problem::{Problem, Severity};
use crate::yaml::text_form::{LOOK_ALIKE, belongs_in_names, folded, is_invisible};
use crate::yaml::values::Fraction;

section! {
    /// A label set as written.
    pub struct RawSet {
        /// name | required | Names the set; unique among all files
        "set" => set: String,
        /// `exclusive`, `independent` | `exclusive` | Softmax over all labels, their negatives and the background; or
        /// each label against its own negatives and the background
        "scoring" => scoring: Scoring,
        /// list of texts with `{}` once | `["{}"]` | Every prompt is put into every template, and the results are
        /// averaged
        "templates" => templates: Vec<At<String>>,
        /// `embeddings`, `probabilities` | `embeddings` | What is averaged over the templates: each prompt's
        /// embeddings; or the scores of the whole set, scored once for each template. See [below](#ensembles)
        "ensemble" => ensemble: Ensemble,
        /// list of prompts, `nouns` | none | What is usually seen when nothing happens; `nouns`, alone or in the list, is
        /// some two hundred everyday nouns. See [below](#learning-from-pictures)
        "background" => background: Background,
        /// list of pictures | none | What none of the labels is; as `labels[].examples`
        "counter_examples" => counter_examples: Vec<At<String>>,
        /// mapping, or list of mappings | always | When its labels are looked for. See [below](#hours)
        "active" => active: ActiveHours,
        /// list, at least one | required | What is looked for
        "labels" => labels: Vec<At<RawLabel>>,
    }
}

section! {
    /// A label as written.
    pub struct RawLabel {
        /// name | required | Names the tag; unique in the set
        "name" => name: String,
        /// list of prompts, at least one | the name | What to look for
        "prompts" => prompts: Vec<At<String>>,
        /// list of prompts | none | What is alike but not meant
        "negatives" => negatives: Vec<At<String>>,
        /// list of pictures, at most 32 | none | What it looks like: files, folders, `clip.mp4@12.5`, `history:gate@TIME`.
        /// See [below](#learning-from-pictures)
        "examples" => examples: Vec<At<String>>,
        /// list of pictures, at most 32 | none | What it is not
        "counter_examples" => counter_examples: Vec<At<String>>,
        /// `auto`, `always`, `never` | `auto` | When what was learned counts; `auto`: where texts alone do not tell examples
        /// from counter-examples
        "learn" => learn: Learn,
        /// 0 to 1 | half way between the nearest counter-example and 1 | Least cosine with the nearest example; below it the
        /// margin falls. 0: nothing falls
        "similarity" => similarity: Fraction,
        /// 0 to 1, or `{ margin: 2.1 }` | `events.enter` | Score to start, or [margin](#margins)
        "enter" => enter: Threshold,
        /// 0 to 1, or `{ margin: 2.1 }` | `events.exit`, see [`events`](#events) | Score to end
        "exit" => exit: Threshold,
        /// duration | `events.after` | Time at `enter` or above before a tag starts
        "after" => after: Duration,
        /// duration | `labels[].after`, then `events.after_exit` | Time below `exit` before it ends
        "after_exit" => after_exit: Duration,
        /// duration | `events.cooldown` | Shortest time between two starts
        "cooldown" => cooldown: Duration,
        /// any keys and values | none | Copied into every event of the label
        "attributes" => attributes: Attributes,
        /// mapping, or list of mappings | `active` of the set | When it is looked for; `{}` is always. See [below](#hours)
        "active" => active: ActiveHours,
    }
}

words! {
    Scoring {
        "exclusive" => Self::Exclusive,
        "independent" => Self::Independent,
    }
    Ensemble {
        "embeddings" => Self::Embeddings,
        "probabilities" => Self::Probabilities,
    }
    Learn {
        "auto" => Self::Auto,
        "always" => Self::Always,
        "never" => Self::Never,
    }
}

/// Free keys and values that travel with every event of a label.
pub struct Attributes(std::collections::BTreeMap<String, serde_json::Value>);

impl FromNode for Attributes {
    const NULL_IS_MISSING: bool = true;

    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "object" })
    }

    fn from_node(node: &crate::yaml::Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        match serde_json::Value::from_node(node, path, reader)? {
            serde_json::Value::Object(map) => Some(Self(map.into_iter().collect())),
            _ => reader.refuse_kind(node, path, "a mapping", "write keys and values, such as { severity: warning }"),
        }
    }
}

/// The keys of a label-set file, for the reference.
pub fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    RawSet::keys("", &mut keys);
    keys
}

/// The JSON Schema of a label-set file, for editors: config/vtagd-labels.schema.json.
pub fn json_schema() -> serde_json::Value {
    let mut schema = RawSet::schema();
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "vtagd label set".into();
    schema["required"] = serde_json::json!(["set", "labels"]);
    // A place for YAML anchors.
    schema["patternProperties"] = serde_json::json!({ "^x-": true });
    schema
}

/// Words a prompt may have before most of it is cut off: CLIP reads 77 tokens, a template takes some.
const LONG_PROMPT_WORDS: usize = 45;
/// The same in characters, for scripts without spaces.
const LONG_PROMPT_CHARS: usize = 300;

/// A label set with what is needed to point at its lines later.
#[derive(Debug)]
pub struct Parsed {
    pub set: LabelSet,
    pub warnings: Vec<Problem>,
    pub document: Document,
}

/// Reads and checks a label-set file; returns the set and warnings.
///
/// # Errors
/// Every problem of the file, warnings included, if at least one of them is an error.
pub fn load(path: &Path) -> Result<(LabelSet, Vec<Problem>), Vec<Problem>> {
    read(path).map(|parsed| (parsed.set, parsed.warnings))
}

/// As [`load`], keeping the positions.
///
/// # Errors
/// As [`load`].
pub fn read(path: &Path) -> Result<Parsed, Vec<Problem>> {
    check(Document::read(path).map_err(|problem| vec![*problem])?)
}

/// Checks a parsed label-set document.
///
/// # Errors
/// As [`load`].
pub fn check(document: Document) -> Result<Parsed, Vec<Problem>> {
    let mut reader = Reader::new(&document);
    let set = reader.root::<RawSet>().and_then(|raw| set(&raw, &mut reader));
    let problems = reader.finish();
    match set {
        Some(set) if !problems.iter().any(|problem| problem.severity == Severity::Error) => {
            Ok(Parsed { set, warnings: problems, document })
        }
        _ => Err(problems),
    }
}

fn set(root: &At<RawSet>, reader: &mut Reader<'_>) -> Option<LabelSet> {
    let raw = &root.value;
    if raw.set.is_missing() {
        reader.missing(root, "set", "give the set a name, such as `set: dock-safety`");
    }
    if let Some(name) = raw.set.given() {
        check_name(name, reader);
    }
    let templates = match raw.templates.given() {
        Some(templates) => {
            if templates.value.is_empty() {
                reader.error(templates, "is empty", "write at least one template with {}, or remove the key");
            }
            for template in &templates.value {
                check_template(template, reader);
            }
            texts(&templates.value)
        }
        None => vec!["{}".to_owned()],
    };
    let background = raw.background.given().map(|background| &background.value);
    let (background, has_nouns) = background.map_or((&[][..], false), |field| (&field.prompts[..], field.has_nouns));
    check_prompts(background, reader);
    let (counter_examples, _) = examples::read(&raw.counter_examples, reader);
    let remedy = "add at least one label, such as `labels: [{ name: forklift }]`";
    let labels = reader.required(root, "labels", &raw.labels, remedy)?;
    if reader.document().find("labels").is_empty_list() {
        reader.error(labels, "is empty", "add at least one label, such as `- name: forklift`");
    }
    let hours = raw.active.value().map(Arc::new);
    let mut checked = Vec::with_capacity(labels.value.len());
    let mut names: HashMap<String, (String, u64)> = HashMap::new();
    for label in &labels.value {
        if let Some(name) = label.value.name.given()
            && let Some((other, line)) =
                names.insert(folded(name.value.trim()), (name.value.trim().to_owned(), name.place.line))
        {
            let written = name.value.trim();
            let message = match other == written {
                true => format!("`{written}` is the name of two labels (first in line {line})"),
                false => format!("`{written}` looks like the label in line {line}: {LOOK_ALIKE}"),
            };
            reader.error(name, message, "rename one of them");
        }
        checked.extend(self::label(label, hours.as_ref(), reader));
    }
    let set = LabelSet {
        name: raw.set.value().unwrap_or_default().trim().to_owned(),
        scoring: raw.scoring.value().unwrap_or_default(),
        templates,
        ensemble: raw.ensemble.value().unwrap_or_default(),
        background: texts(background),
        has_nouns,
        counter_examples,
        labels: checked,
        hours,
        file: reader.document().file().to_path_buf(),
        sha256: reader.document().sha256().to_owned(),
    };
    // With a label left out for its errors, this would speak of a set that nobody wrote.
    if !reader.has_errors() {
        check_rivals(&set, labels, reader);
        lint_contrast(&set, root, reader);
        lint_ensemble(&set, raw, reader);
    }
    lint_repeats(raw, reader);
    Some(set)
}

/// `hours`: those of the set.
fn label(at: &At<RawLabel>, hours: Option<&Arc<ActiveHours>>, reader: &mut Reader<'_>) -> Option<Label> {
    let raw = &at.value;
    if raw.name.is_missing() {
        reader.missing(at, "name", "name the label, such as `- name: forklift`");
    }
    if let Some(name) = raw.name.given() {
        check_name(name, reader);
    }
    let written = prompts(&raw.prompts, reader);
    if let Some(list) = raw.prompts.given()
        && list.value.is_empty()
    {
        reader.error(list, "is empty", "write what the model should look for, or remove the key to use the name");
    }
    let negatives = prompts(&raw.negatives, reader);
    let (own, has_marks) = examples::read(&raw.examples, reader);
    let (counter_examples, has_counter_marks) = examples::read(&raw.counter_examples, reader);
    if let (Some(enter), Some(exit)) = (raw.enter.given(), raw.exit.given())
        && exit.value.margin() > enter.value.margin()
    {
        let message = format!("is {}, above enter ({})", exit.value, enter.value);
        reader.error(exit, message, "make exit at most enter");
    }
    threshold_field::lint_enter(&raw.enter, reader);
    let name = raw.name.given()?;
    if raw.prompts.is_missing() {
        lint_prompt(name, reader);
    }
    let prompts = if raw.prompts.is_missing() { vec![name.value.trim().to_owned()] } else { texts(written) };
    Some(Label {
        name: name.value.trim().to_owned(),
        prompts,
        negatives: texts(negatives),
        examples: own,
        counter_examples,
        learns_from_marks: has_marks || has_counter_marks,
        learn: raw.learn.value().unwrap_or_default(),
        similarity: raw.similarity.value().map(|fraction| fraction.0),
        thresholds: ThresholdOverrides {
            enter: raw.enter.value(),
            exit: raw.exit.value(),
            after: raw.after.value(),
            after_exit: raw.after_exit.value(),
            cooldown: raw.cooldown.value(),
        },
        attributes: raw.attributes.given().map(|attributes| attributes.value.0.clone()).unwrap_or_default(),
        hours: raw.active.value().map(Arc::new).or_else(|| hours.cloned()),
    })
}

/// Texts without the white space around them.
fn texts(list: &[At<String>]) -> Vec<String> {
    list.iter().map(|item| item.value.trim().to_owned()).collect()
}

/// The prompts of a list, each checked.
fn prompts<'a>(field: &'a Field<Vec<At<String>>>, reader: &mut Reader<'_>) -> &'a [At<String>] {
    let Some(list) = field.given() else { return &[] };
    check_prompts(&list.value, reader);
    &list.value
}

fn check_prompts(list: &[At<String>], reader: &mut Reader<'_>) {
    for prompt in list {
        if prompt.value.trim().is_empty() {
            reader.error(prompt, "is an empty prompt", "write what is to be seen, or remove it");
        } else {
            lint_prompt(prompt, reader);
        }
    }
}

/// What a label's examples are told from, and what has no effect without any.
fn check_rivals(set: &LabelSet, labels: &At<Vec<At<RawLabel>>>, reader: &mut Reader<'_>) {
    let with_examples = set.labels.iter().filter(|label| !label.examples.is_empty()).count();
    let has_others = set.scoring == Scoring::Exclusive && with_examples > 1;
    for (label, raw) in set.labels.iter().zip(&labels.value) {
        let raw = &raw.value;
        if let Some(examples) = raw.examples.given()
            && label.counter_examples.is_empty()
            && set.counter_examples.is_empty()
            && !(has_others || label.learns_from_marks)
        {
            let remedy = "add `counter_examples`: to the label, or to the set, such as pictures of the empty scene";
            reader.error(examples, "has nothing to be told from", remedy);
        }
        if label.examples.is_empty() && !label.learns_from_marks {
            let remedy = "add `examples`, or remove the key";
            raw.similarity.given().iter().for_each(|at| reader.warn(at, "changes nothing without examples", remedy));
            raw.learn.given().iter().for_each(|at| reader.warn(at, "changes nothing without examples", remedy));
        }
    }
}

fn check_name(name: &At<String>, reader: &mut Reader<'_>) {
    if name.value.trim().is_empty() {
        reader.error(name, "is an empty name", "write a short name, such as forklift");
    } else if name.value.chars().any(char::is_control) {
        reader.error(name, "has a line break or another control character in it", "write the name on one line");
    } else if let Some(wrong) = name.value.chars().find(|c| "/+#".contains(*c)) {
        let message = format!("has `{wrong}` in it, which has a meaning in MQTT topics");
        reader.warn(name, message, "use letters, digits, spaces, `-` and `_`, and say the rest in the prompts");
    }
    if let Some(hidden) = name.value.chars().find(|c| is_invisible(*c) && !belongs_in_names(*c)) {
        let message = format!("has a character in it that cannot be seen (U+{:04X})", u32::from(hidden));
        reader.warn(name, message, "type it again instead of copying it");
    }
}

fn check_template(template: &At<String>, reader: &mut Reader<'_>) {
    if let Some(message) = prompt_template::problem(&template.value) {
        reader.error(template, message, prompt_template::REMEDY);
    }
}

fn lint_prompt(prompt: &At<String>, reader: &mut Reader<'_>) {
    const NEGATIONS: [&str; 9] = ["no", "not", "without", "never", "nobody", "nothing", "none", "neither", "nor"];
    let words =
        || prompt.value.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '’').filter(|w| !w.is_empty());
    let negation = words().find(|word| {
        let word = word.to_lowercase();
        NEGATIONS.contains(&word.as_str()) || word.ends_with("n't") || word.ends_with("n’t")
    });
    if let Some(word) = negation {
        let message = format!("the model does not understand the negation `{word}`: the rest of the prompt counts");
        reader.warn(prompt, message, "say what is seen instead, and put what must not be seen under `negatives`");
    }
    if words().count() > LONG_PROMPT_WORDS || prompt.value.chars().count() > LONG_PROMPT_CHARS {
        let message = "is very long: most models read 77 tokens (about 50 words) and ignore the rest";
        reader.warn(prompt, message, "shorten it, or split it into several prompts");
    }
}

/// A score is a share among alternatives; with no alternative it is always 1.
fn lint_contrast(set: &LabelSet, root: &At<RawSet>, reader: &mut Reader<'_>) {
    const REMEDY: &str = "add `background` prompts that say what is usually seen, or `negatives`";
    if set.has_background() {
        return;
    }
    const NONE: &str = "add `background` prompts that say what is usually seen";
    let has_negatives = |label: &Label| !label.negatives.is_empty();
    match set.scoring {
        Scoring::Exclusive if set.labels.len() > 1 => {
            let told = "has no background: of its labels one wins on every picture, also where none of them is seen";
            reader.warn(root, told, NONE);
        }
        _ if set.labels.iter().all(has_negatives) => {
            let told = "has no background: a label is compared with its negatives alone, also where neither is seen";
            reader.warn(root, told, NONE);
        }
        Scoring::Exclusive => {
            if let [only] = set.labels.as_slice()
                && only.negatives.is_empty()
            {
                let name = &only.name;
                let message = format!(
                    "label `{name}` has nothing to be compared with: its score is 1 whatever is seen, and it has no margin"
                );
                reader.warn(root, message, REMEDY);
            }
        }
        Scoring::Independent => {
            let Some(labels) = root.value.labels.given() else { return };
            for label in &labels.value {
                if let Some(name) = label.value.name.given()
                    && label.value.negatives.given().is_none_or(|negatives| negatives.value.is_empty())
                {
                    let why = "unless the model was trained with a sigmoid (SigLIP), its score is 1 whatever is seen, and it has no margin";
                    let message = format!("label `{}` has nothing to be compared with: {why}", name.value);
                    reader.warn(name, message, REMEDY);
                }
            }
        }
    }
}

/// With one template there is nothing to average.
fn lint_ensemble(set: &LabelSet, raw: &RawSet, reader: &mut Reader<'_>) {
    if let Some(ensemble) = raw.ensemble.given()
        && set.ensemble == Ensemble::Probabilities
        && set.templates.len() < 2
    {
        let message = "changes nothing: the set has one template, and there is nothing to average";
        reader.warn(ensemble, message, "write at least two `templates`, or remove the key");
    }
}

/// A prompt on two sides takes away from itself.
fn lint_repeats(raw: &RawSet, reader: &mut Reader<'_>) {
    let fold = |text: &str| text.trim().to_lowercase();
    let background: HashMap<String, u64> = raw
        .background
        .given()
        .map(|field| field.value.prompts.iter().map(|prompt| (fold(&prompt.value), prompt.place.line)).collect())
        .unwrap_or_default();
    let mut seen: HashMap<String, (usize, u64)> = HashMap::new();
    let labels = raw.labels.given().map(|labels| labels.value.as_slice()).unwrap_or_default();
    for (index, label) in labels.iter().enumerate() {
        let own = label.value.prompts.given().map(|list| list.value.as_slice()).unwrap_or_default();
        let negatives: Vec<String> = label
            .value
            .negatives
            .given()
            .map(|list| list.value.iter().map(|prompt| fold(&prompt.value)).collect())
            .unwrap_or_default();
        for prompt in own {
            let text = fold(&prompt.value);
            if let Some(line) = background.get(&text) {
                reader.warn(prompt, format!("is also a background prompt (line {line})"), "keep one of them");
            }
            if negatives.contains(&text) {
                reader.warn(prompt, "is also a negative of the same label", "keep one of them");
            }
            let (first, line) = *seen.entry(text).or_insert((index, prompt.place.line));
            if first != index {
                reader.warn(prompt, format!("is also a prompt of another label (line {line})"), "keep one of them");
            }
        }
    }
}
