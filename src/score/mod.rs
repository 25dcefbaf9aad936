//! Score: similarities of an image embedding to all prompts of a set, then one score a label. Pure.
//!
//! Cosine × scale + bias gives a prompt's logit, as CLIP (Radford et al. 2021, arXiv:2103.00020) and SigLIP (Zhai et al.
//! 2023, arXiv:2303.15343) were trained. A label's logit is the best of its prompts'; every negative and every background
//! prompt is a class of its own. What [pictures](learning) say of a label is added to its margin. A label's [`margin`] is its logit minus the log-sum-exp of the classes it competes with, and its
//! score the sigmoid of that: the softmax. An ensemble of probabilities holds the set once for each template; a label's score is
//! the mean of what it scores in each, and its margin the logit of the mean.

pub mod computed_by;
pub mod discriminant;
pub mod learning;
pub mod margin;
mod near_background;
pub mod score_routes;
pub mod scoring_thread;
pub mod similarity;

use std::sync::Arc;

use ndarray::{Array2, ArrayView1, ArrayView2, Axis, ErrorKind, ShapeError, concatenate};
use vtagd_pictures::rows::row_products;

use crate::model::{Activation, LogitParameters};
use margin::log_add;
pub use margin::{LabelScore, NamedRival, Rival, RivalKind, Threshold};

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
    /// The [`Rival`] that is its first negative.
    first_negative: usize,
}

/// Rows of one block in the scorer's matrix.
#[derive(Clone, Debug)]
struct BlockRows {
    labels: Vec<Rows>,
    background: std::ops::Range<usize>,
    /// The [`Rival`] that is its first background prompt.
    first_background: usize,
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
    /// Rows of the background without a direction: they keep their places, and are no rivals.
    left_out: Vec<usize>,
    /// What pictures add to the margins of texts.
    learned: Option<Arc<learning::Learned>>,
}

/// The logit of what is left out: below that of any text, and finite.
const LEFT_OUT: f32 = -1e30;

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
            let mut rival = block.labels.len();
            let labels: Vec<Rows> = block
                .labels
                .iter()
                .map(|label| {
                    let first_negative = rival;
                    rival += label.negatives.nrows();
                    Rows { prompts: add(&label.prompts), negatives: add(&label.negatives), first_negative }
                })
                .collect();
            if blocks.first().is_some_and(|first| first.labels.len() != labels.len()) {
                return Err(ShapeError::from_kind(ErrorKind::IncompatibleShape));
            }
            blocks.push(BlockRows { labels, background: add(&block.background), first_background: rival });
        }
        let matrix = concatenate(Axis(0), &parts)?;
        let is_left_out = |row: &usize| matrix.row(*row).iter().all(|value| *value == 0.0);
        let left_out = blocks.iter().flat_map(|block| block.background.clone()).filter(is_left_out).collect();
        Ok(Self { scoring: set.scoring, logit_parameters, matrix, blocks, left_out, learned: None })
    }

    /// Length of the embeddings that it compares.
    pub fn dim(&self) -> usize {
        self.matrix.ncols()
    }

    /// Number of labels, and so of scores.
    pub fn len(&self) -> usize {
        self.blocks.first().map_or(0, |block| block.labels.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What one L2-normalised embedding (`[dim]`) says of each label.
    pub fn score(&self, embedding: ArrayView1<'_, f32>) -> Vec<LabelScore> {
        let mut logits = row_products(&self.matrix, embedding);
        logits.iter_mut().for_each(|cosine| *cosine = self.logit_parameters.logit(*cosine));
        self.left_out.iter().for_each(|row| logits[*row] = LEFT_OUT);
        let mut blocks = self.blocks.iter().map(|block| match self.scoring {
            Scoring::Exclusive => block.exclusive(&logits),
            Scoring::Independent => block.independent(&logits, self.logit_parameters.activation),
        });
        let margins = match (blocks.next(), self.blocks.len()) {
            (Some(only), 1) => only,
            (first, _) => margins_of_means(first.into_iter().chain(blocks), self.len()),
        };
        let rivals = self.rivals(&logits);
        let score = |(margin, rival): (f64, _)| LabelScore { margin: margin as f32, rival };
        let mut scores: Vec<LabelScore> = margins.into_iter().zip(rivals).map(score).collect();
        self.learned.iter().for_each(|learned| learned.join(embedding, &mut scores));
        scores
    }

    /// The best rival of each label, over all templates.
    fn rivals(&self, logits: &[f32]) -> Vec<Option<Rival>> {
        let Some(first) = self.blocks.first() else { return Vec::new() };
        let length = first.background.end;
        if self.blocks.len() == 1 || self.blocks.len() * length != logits.len() {
            return first.rivals(logits, self.scoring);
        }
        let mut sums = vec![0.0; length];
        for block in logits.chunks_exact(length) {
            sums.iter_mut().zip(block).for_each(|(sum, logit)| *sum += logit);
        }
        first.rivals(&sums, self.scoring)
    }
}

/// The logits of the means of the probabilities whose logits the blocks hold: log Σ p − log Σ (1 − p), which no rounding to 0 or 1
/// can spoil.
fn margins_of_means(blocks: impl Iterator<Item = Vec<f64>>, labels: usize) -> Vec<f64> {
    let log_sigmoid = |logit: f64| -log_add(0.0, -logit);
    let mut sums = vec![(f64::NEG_INFINITY, f64::NEG_INFINITY); labels];
    for block in blocks {
        for ((yes, no), margin) in sums.iter_mut().zip(block) {
            *yes = log_add(*yes, log_sigmoid(margin));
            *no = log_add(*no, log_sigmoid(-margin));
        }
    }
    sums.into_iter().map(|(yes, no)| yes - no).collect()
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
    /// Each label against every other label and every competitor: the softmax's logits. The bias cancels, so this is also right for
    /// sigmoid models.
    fn exclusive(&self, logits: &[f32]) -> Vec<f64> {
        let labels: Vec<f32> = self.labels.iter().map(|rows| best(&logits[rows.prompts.clone()])).collect();
        let negatives = self.labels.iter().flat_map(|rows| &logits[rows.negatives.clone()]);
        let classes = labels.iter().chain(negatives).chain(&logits[self.background.clone()]).copied();
        let (mut at, mut top, mut second) = (0, f32::NEG_INFINITY, f32::NEG_INFINITY);
        for (index, logit) in classes.clone().enumerate() {
            if logit > top {
                (at, second, top) = (index, top, logit);
            } else {
                second = second.max(logit);
            }
        }
        // All but the best: what the best is compared with, without a difference of nearly equal sums.
        let rest = sum_of_exponentials(classes.enumerate().filter(|(index, _)| *index != at).map(|(_, l)| l), second);
        let (top, second) = (f64::from(top), f64::from(second));
        let rest_to_top = rest * (second - top).exp();
        let margin = |(index, logit): (usize, f32)| {
            let logit = f64::from(logit);
            if index == at {
                return logit - (second + rest.ln());
            }
            // Never below 1, the best's own share.
            let others = (1.0 + rest_to_top - (logit - top).exp()).max(1.0);
            logit - (top + others.ln())
        };
        labels.into_iter().enumerate().map(margin).collect()
    }

    /// Each label against its own negatives and the background; against nothing, a sigmoid model's own logit.
    fn independent(&self, logits: &[f32], activation: Activation) -> Vec<f64> {
        let background = log_sum_exp(&logits[self.background.clone()]);
        let margin = |rows: &Rows| {
            let own = f64::from(best(&logits[rows.prompts.clone()]));
            if activation == Activation::Sigmoid && rows.negatives.is_empty() && self.background.is_empty() {
                return own;
            }
            own - log_add(background, log_sum_exp(&logits[rows.negatives.clone()]))
        };
        self.labels.iter().map(margin).collect()
    }

    fn rivals(&self, logits: &[f32], scoring: Scoring) -> Vec<Option<Rival>> {
        let number = |first: usize| move |(index, logit): (usize, &f32)| (first + index, *logit);
        let negatives =
            |rows: &Rows| logits[rows.negatives.clone()].iter().enumerate().map(number(rows.first_negative));
        let background = logits[self.background.clone()].iter().enumerate().map(number(self.first_background));
        let mut common = Best::default();
        background.for_each(|class| common.note(class));
        if scoring == Scoring::Exclusive {
            self.labels.iter().flat_map(negatives).for_each(|class| common.note(class));
            let labels = self.labels.iter().map(|rows| best(&logits[rows.prompts.clone()]));
            labels.enumerate().for_each(|class| common.note(class));
        }
        let rival = |(index, rows): (usize, &Rows)| {
            let mut own = common;
            if scoring == Scoring::Independent {
                negatives(rows).for_each(|class| own.note(class));
            }
            own.but(index)
        };
        self.labels.iter().enumerate().map(rival).collect()
    }
}

/// The two best classes, each with its number.
#[derive(Clone, Copy, Default)]
struct Best {
    first: Option<(usize, f32)>,
    second: Option<(usize, f32)>,
}

impl Best {
    fn note(&mut self, class: (usize, f32)) {
        let beats = |other: Option<(usize, f32)>| other.is_none_or(|(_, logit)| class.1 > logit);
        if beats(self.first) {
            self.second = self.first.replace(class);
        } else if beats(self.second) {
            self.second = Some(class);
        }
    }

    /// The best that is not label `index` itself.
    fn but(self, index: usize) -> Option<Rival> {
        let found = self.first.filter(|(class, _)| *class != index).or(self.second)?;
        u32::try_from(found.0).ok().map(Rival)
    }
}

/// Σ exp(logit − reference). The terms are those of an f32 softmax; what is told of a margin has no more digits than that.
fn sum_of_exponentials(logits: impl Iterator<Item = f32>, reference: f32) -> f64 {
    logits.map(|logit| f64::from((logit - reference).exp())).sum()
}

/// Minus infinity for none.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let top = best(logits);
    if logits.is_empty() {
        return f64::NEG_INFINITY;
    }
    f64::from(top) + sum_of_exponentials(logits.iter().copied(), top).ln()
}

fn best(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

#[cfg(test)]
mod tests;
