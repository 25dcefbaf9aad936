//! `enter` and `exit` in YAML: a probability, or `{ margin: 2.1 }`. A node in, a checked [`Threshold`] out. Pure.

use crate::score::Threshold;
use crate::section;
use crate::yaml::field_reader::{Field, FromNode, Reader};
use crate::yaml::values::Fraction;
use crate::yaml::{Node, Value};

/// Further out no model's logits are: a cosine is within -1 to 1, and published scales end at some hundred.
const FARTHEST: f64 = 1000.0;

section! {
    struct MarginOnly {
        "margin" => margin: f64,
    }
}

impl FromNode for Threshold {
    fn schema() -> serde_json::Value {
        let margin = serde_json::json!({
            "type": "number", "minimum": -FARTHEST, "maximum": FARTHEST,
            "description": "By how much the label leads what it competes with: the logit of its score",
        });
        let mapping = serde_json::json!({
            "type": "object", "properties": { "margin": margin }, "required": ["margin"], "additionalProperties": false
        });
        serde_json::json!({ "anyOf": [Fraction::schema(), mapping] })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            Fraction::from_node(node, path, reader)?;
            // Again, with all its digits.
            return f64::from_node(node, path, reader).map(Self::Probability);
        };
        let given = MarginOnly::from_node(node, path, reader)?.margin;
        if given.is_missing() && entries.is_empty() {
            return reader.refuse_node(node, path, "has no margin", "write { margin: 2.1 }, or a number from 0 to 1");
        }
        let margin = given.given()?;
        if !(-FARTHEST..=FARTHEST).contains(&margin.value) {
            return reader.refuse(margin, "is outside -1000 to 1000", "write a margin such as 2.1: see `vtagd scores`");
        }
        Some(Self::Margin(margin.value))
    }
}

/// A score never is 1, however sure a model is: it only rounds to it.
pub fn lint_enter(enter: &Field<Threshold>, reader: &mut Reader<'_>) {
    if let Some(given) = enter.given()
        && given.value == Threshold::Probability(1.0)
    {
        let remedy = "write a number below 1, or a margin such as { margin: 10 }, which is a probability of 0.99995";
        reader.warn(given, "is 1, which no score reaches: no tag will ever start", remedy);
    }
}
