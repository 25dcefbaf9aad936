//! Score: similarities of an image embedding to all prompts of a set, then one score a label. Pure.
//!
//! Cosine × scale + bias gives a prompt's logit, as CLIP (Radford et al. 2021, arXiv:2103.00020) and SigLIP (Zhai et al.
//! 2023, arXiv:2303.15343) were trained. A label's logit is the best of its prompts'; every negative and every background
//! prompt is a class of its own. An ensemble of probabilities holds the set once for each template, and a label's score is
//! the mean of what it scores in each.

mod near_background;
pub mod score_routes;
pub mod scoring_thread;
pub mod similarity;

use ndarray::{Array2, ArrayView1, ArrayView2, Axis, ErrorKind, ShapeError, concatenate};

use crate::model::{Activation, LogitParameters};

/// How a set's similarities become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scoring {
    /// One softmax over all labels, their negatives and the background.
    #[default]
    Exclusive,
    /// Each label against its own negatives and the background.
    Independent,
}

/// A label's text embeddings, L2-normalised rows.
#[derive(Clone, Debug)]
pub struct LabelEmbeddings {
    pub name: String,
    /// `[prompts, dim]`; each row is the normalised mean over its block's templates of one prompt.
    pub prompts: Array2<f32>,
    /// `[negatives, dim]`; may have no rows.
    pub negatives: Array2<f32>,
}

/// Everything that is scored together once.
#[derive(Clone, Debug)]
pub struct Block {
    pub labels: Vec<LabelEmbeddings>,
    /// `[background prompts, dim]`; may have no rows.
    pub background: Array2<f32>,
}

/// A label set ready to score, rows L2-normalised.
#[derive(Clone, Debug)]
pub struct SetEmbeddings {
    pub name: String,
    pub scoring: Scoring,
    /// One, or one a template for an ensemble of probabilities; all with the same labels.
    pub blocks: Vec<Block>,
}

/// Rows of one label in the scorer's matrix.
#[derive(Clone, Debug)]
struct Rows {
    prompts: std::ops::Range<usize>,
    negatives: std::ops::Range<usize>,
}

/// Rows of one block in the scorer's matrix.
#[derive(Clone, Debug)]
struct BlockRows {
    labels: Vec<Rows>,
    background: std::ops::Range<usize>,
}

/// Scores one label set with one model.
#[derive(Clone, Debug)]
pub struct Scorer {
    scoring: Scoring,
    logit_parameters: LogitParameters,
    /// `[rows, dim]`: all prompts, negatives and background of all blocks, one product a picture.
    matrix: Array2<f32>,
    /// At least one, all with as many labels.
    blocks: Vec<BlockRows>,
}

impl Scorer {
    /// Joins the set's embeddings into one matrix.
    ///
    /// # Errors
    /// When the embeddings differ in length, there are none, or blocks differ in their labels.
    pub fn new(set: &SetEmbeddings, logit_parameters: LogitParameters) -> Result<Self, ShapeError> {
        let mut parts: Vec<ArrayView2<'_, f32>> = Vec::new();
        let mut next = 0;
        let mut blocks: Vec<BlockRows> = Vec::with_capacity(set.blocks.len());
        for block in &set.blocks {
            let mut add = |part| append(part, &mut next, &mut parts);
            let labels: Vec<Rows> = block
                .labels
                .iter()
                .map(|label| Rows { prompts: add(&label.prompts), negatives: add(&label.negatives) })
                .collect();
            if blocks.first().is_some_and(|first| first.labels.len() != labels.len()) {
                return Err(ShapeError::from_kind(ErrorKind::IncompatibleShape));
            }
            blocks.push(BlockRows { labels, background: add(&block.background) });
        }
        Ok(Self { scoring: set.scoring, logit_parameters, matrix: concatenate(Axis(0), &parts)?, blocks })
    }

    /// Number of labels, and so of scores.
    pub fn len(&self) -> usize {
        self.blocks.first().map_or(0, |block| block.labels.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Scores of one L2-normalised embedding (`[dim]`), one a label, each in 0..=1.
    pub fn score(&self, embedding: ArrayView1<'_, f32>) -> Vec<f32> {
        let logits = self.matrix.dot(&embedding).mapv(|cosine| self.logit_parameters.logit(cosine)).to_vec();
        let mut mean = vec![0.0; self.len()];
        for block in &self.blocks {
            let scores = match self.scoring {
                Scoring::Exclusive => block.exclusive(&logits),
                Scoring::Independent => block.independent(&logits, self.logit_parameters.activation),
            };
            mean.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score);
        }
        let count = self.blocks.len() as f32;
        mean.iter_mut().for_each(|sum| *sum /= count);
        mean
    }
}

/// Puts `part` below what is in `parts`, and says which rows it has there.
fn append<'a>(part: &'a Array2<f32>, next: &mut usize, parts: &mut Vec<ArrayView2<'a, f32>>) -> std::ops::Range<usize> {
    let rows = *next..*next + part.nrows();
    *next = rows.end;
    if part.nrows() > 0 {
        parts.push(part.view());
    }
    rows
}

impl BlockRows {
    /// One softmax over every label and every competitor. The bias cancels, so this is also right for sigmoid models.
    fn exclusive(&self, logits: &[f32]) -> Vec<f32> {
        let labels: Vec<f32> = self.labels.iter().map(|rows| best(&logits[rows.prompts.clone()])).collect();
        let negatives = self.labels.iter().flat_map(|rows| &logits[rows.negatives.clone()]);
        let competitors = negatives.chain(&logits[self.background.clone()]);
        let top = competitors.clone().chain(&labels).copied().fold(f32::NEG_INFINITY, f32::max);
        let rest: f32 = competitors.map(|l| (l - top).exp()).sum();
        let sum = rest + labels.iter().map(|l| (l - top).exp()).sum::<f32>();
        labels.iter().map(|l| (l - top).exp() / sum).collect()
    }

    fn independent(&self, logits: &[f32], activation: Activation) -> Vec<f32> {
        self.labels.iter().map(|rows| self.alone(logits, rows, activation)).collect()
    }

    /// A label against its own negatives and the background; against nothing, the model's sigmoid alone.
    fn alone(&self, logits: &[f32], rows: &Rows, activation: Activation) -> f32 {
        let own = best(&logits[rows.prompts.clone()]);
        let competitors = logits[rows.negatives.clone()].iter().chain(&logits[self.background.clone()]);
        if activation == Activation::Sigmoid && rows.negatives.is_empty() && self.background.is_empty() {
            return sigmoid(own);
        }
        let top = competitors.clone().copied().fold(own, f32::max);
        let rest: f32 = competitors.map(|l| (l - top).exp()).sum();
        let own = (own - top).exp();
        own / (own + rest)
    }
}

fn best(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

#[cfg(test)]
mod tests;
