//! Labels: YAML label sets, their prompts, and the text embeddings made of them.

pub mod background_field;
pub mod cache;
pub mod calibration_file;
pub mod embed_child;
pub mod embedder;
pub mod examples;
pub mod hours_field;
pub mod kept_examples;
pub mod kept_file;
pub mod mark_store;
pub mod prompt_template;
pub mod set;
pub mod set_edit;
pub mod state_copy;
pub mod text_encoder;
pub mod threshold_field;
pub mod verdict_store;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::event::active_hours::ActiveHours;
use crate::history::noun_bank;
use crate::score::learning::Learn;
use crate::score::{NamedRival, RivalKind, Scoring, Threshold};
use background_field::NOUNS;
use examples::Example;

/// What is averaged over several templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Ensemble {
    /// The text embeddings: their normalised mean is the prompt's embedding.
    #[default]
    Embeddings,
    /// The probabilities: everything is scored once for each template.
    Probabilities,
}

/// A label's own event thresholds; what is left out comes from the configuration's `events`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ThresholdOverrides {
    pub enter: Option<Threshold>,
    pub exit: Option<Threshold>,
    pub after: Option<std::time::Duration>,
    pub after_exit: Option<std::time::Duration>,
    pub cooldown: Option<std::time::Duration>,
}

/// One label as written, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Label {
    pub name: String,
    /// At least one; defaults to the name.
    pub prompts: Vec<String>,
    pub negatives: Vec<String>,
    /// What it looks like, and what it is not.
    pub examples: Vec<Example>,
    pub counter_examples: Vec<Example>,
    /// What is marked counts as both, once it is calibrated.
    pub learns_from_marks: bool,
    pub learn: Learn,
    /// The least cosine with the nearest example.
    pub similarity: Option<f32>,
    pub thresholds: ThresholdOverrides,
    /// Copied into every event of the label.
    pub attributes: BTreeMap<String, serde_json::Value>,
    /// When it is looked for, by itself or as its set; `None`: always.
    pub hours: Option<Arc<ActiveHours>>,
}

impl Label {
    /// A label that is its own prompt, with nothing else to it.
    pub fn plain(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            prompts: vec![name.to_owned()],
            negatives: Vec::new(),
            examples: Vec::new(),
            counter_examples: Vec::new(),
            learns_from_marks: false,
            learn: Learn::default(),
            similarity: None,
            thresholds: ThresholdOverrides::default(),
            attributes: BTreeMap::new(),
            hours: None,
        }
    }
}

/// One label set as written, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelSet {
    pub name: String,
    pub scoring: Scoring,
    /// Each holds `{}` once; defaults to `["{}"]`. Applied to prompts, negatives and background alike.
    pub templates: Vec<String>,
    pub ensemble: Ensemble,
    pub background: Vec<String>,
    /// The bank of everyday nouns is background too.
    pub has_nouns: bool,
    /// What none of the labels is.
    pub counter_examples: Vec<Example>,
    pub labels: Vec<Label>,
    /// When those of its labels are looked for that have no hours of their own.
    pub hours: Option<Arc<ActiveHours>>,
    /// Where it was read from; empty for labels given on the command line.
    pub file: PathBuf,
    /// SHA-256 of that file in hexadecimal digits, as `sha256sum` prints it; empty without one.
    pub sha256: String,
}

/// Of a rival's name, which travels with every event.
const RIVAL_CHARS: usize = 200;

impl LabelSet {
    /// What a label may compete with, in the order of [`Rival`](crate::score::Rival).
    pub fn rivals(&self) -> Vec<NamedRival> {
        let short = |name: &str| name.chars().take(RIVAL_CHARS).collect();
        let named = |kind| move |name: &String| NamedRival { kind, name: short(name) };
        let labels = self.labels.iter().map(|label| &label.name).map(named(RivalKind::Label));
        let negatives = self.labels.iter().flat_map(|label| &label.negatives).map(named(RivalKind::Negative));
        let background: Vec<String> = self.background_prompts().into_iter().map(str::to_owned).collect();
        labels.chain(negatives).chain(background.iter().map(named(RivalKind::Background))).collect()
    }

    /// The background as it stands in a file.
    pub fn background_as_written(&self) -> Vec<String> {
        self.background.iter().cloned().chain(self.has_nouns.then(|| NOUNS.to_owned())).collect()
    }

    pub fn has_background(&self) -> bool {
        self.has_nouns || !self.background.is_empty()
    }

    /// What is written of the background, then the nouns.
    pub fn background_prompts(&self) -> Vec<&str> {
        let mut prompts: Vec<&str> = self.background.iter().map(String::as_str).collect();
        if self.has_nouns {
            noun_bank::nouns().for_each(|noun| prompts.push(noun));
        }
        prompts
    }

    /// Whether the label with this number has pictures to be told from.
    pub fn has_rival_pictures(&self, label: usize) -> bool {
        let is_other = |(at, other): (usize, &Label)| at != label && !other.examples.is_empty();
        self.labels.get(label).is_some_and(|label| !label.counter_examples.is_empty())
            || !self.counter_examples.is_empty()
            || (self.scoring == Scoring::Exclusive && self.labels.iter().enumerate().any(is_other))
    }

    /// The set as texts alone have it.
    #[must_use]
    pub fn without_examples(&self) -> Self {
        let mut texts = self.clone();
        for label in &mut texts.labels {
            (label.examples, label.counter_examples) = (Vec::new(), Vec::new());
        }
        texts
    }

    /// Whether there is anything to learn from.
    pub fn has_examples(&self) -> bool {
        self.labels.iter().any(|label| !label.examples.is_empty())
    }
}
