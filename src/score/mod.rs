//! Score: similarities of an image embedding to all prompts, then one score a label. Pure.

use ndarray::Array2;

use crate::label::Scoring;

/// How the model turns a cosine into a logit and a probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    /// Multiplies the cosine; already exponentiated (about 100 for CLIP).
    pub scale: f32,
    /// Added to the logit (SigLIP); 0 for CLIP.
    pub bias: f32,
    pub activation: Activation,
}

/// What the model was trained with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    Softmax,
    Sigmoid,
}

/// A label's text embeddings, L2-normalised rows.
#[derive(Clone, Debug)]
pub struct LabelEmbeddings {
    pub name: String,
    /// `[prompts, dim]`; each row is the normalised mean over the templates of one prompt.
    pub prompts: Array2<f32>,
    /// `[negatives, dim]`; may have no rows.
    pub negatives: Array2<f32>,
}

/// A label set ready to score, rows L2-normalised.
#[derive(Clone, Debug)]
pub struct SetEmbeddings {
    pub name: String,
    pub scoring: Scoring,
    pub labels: Vec<LabelEmbeddings>,
    /// `[background prompts, dim]`; may have no rows.
    pub background: Array2<f32>,
}
