//! A label set as the API shows it: what its file or copy says, and what of it is in force for events. Pure.

use serde_json::{Value, json};

use crate::api::SetView;
use crate::config::{SetInForce, Settings, thresholds};
use crate::event::live_scores::Level;
use crate::label::{Ensemble, Label, LabelSet};
use crate::score::Scoring;

/// The set at `index` of `settings`; `doubts`: what is doubtful about it with this model.
pub fn view(
    settings: &Settings,
    index: usize,
    (set, in_force): (&LabelSet, &SetInForce),
    doubts: &[String],
) -> SetView {
    let streams = settings.streams.iter().filter(|stream| stream.label_sets.contains(&index));
    let streams: Vec<&str> = streams.map(|stream| &*stream.source.id).collect();
    let scoring = match set.scoring {
        Scoring::Exclusive => "exclusive",
        Scoring::Independent => "independent",
    };
    let ensemble = match set.ensemble {
        Ensemble::Embeddings => "embeddings",
        Ensemble::Probabilities => "probabilities",
    };
    SetView {
        set: set.name.clone(),
        labels: set.labels.iter().map(|label| label.name.clone()).collect(),
        sha256: set.sha256.clone(),
        warnings: in_force.warnings.iter().chain(doubts).cloned().collect(),
        source: json!(in_force),
        details: json!({
            "scoring": scoring,
            "ensemble": ensemble,
            "templates": set.templates,
            "background": set.background_as_written(),
            "streams": streams,
            "details": set.labels.iter().map(|label| details(settings, label)).collect::<Vec<_>>(),
        }),
        hours: set.labels.iter().map(|label| label.hours.clone()).collect(),
    }
}

/// A label with what decides over its tags: as it stands in the set, else in the configuration.
fn details(settings: &Settings, label: &Label) -> Value {
    let thresholds = thresholds(label, &settings.events);
    json!({
        "label": label.name,
        "prompts": label.prompts,
        "negatives": label.negatives,
        "examples": label.examples.len(),
        "counter_examples": label.counter_examples.len(),
        "attributes": label.attributes,
        "enter": Level::of(thresholds.enter),
        "exit": Level::of(thresholds.exit),
        "after": thresholds.after.as_secs_f64(),
        "after_exit": thresholds.after_exit.as_secs_f64(),
        "cooldown": thresholds.cooldown.as_secs_f64(),
    })
}
