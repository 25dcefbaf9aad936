//! Score: similarities of an image embedding to all prompts of a set, then one score a label. Pure.
//!
//! Cosine × scale + bias gives a prompt's logit, as CLIP (Radford et al. 2021, arXiv:2103.00020) and SigLIP (Zhai et al.
//! 2023, arXiv:2303.15343) were trained. A label's logit is the best of its prompts'; every negative and every background
//! prompt is a class of its own.

pub mod roster;
pub mod worker;

use ndarray::{Array2, ArrayView1, Axis, concatenate};

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

/// Rows of one label in the scorer's matrix.
#[derive(Clone, Debug)]
struct Rows {
    prompts: std::ops::Range<usize>,
    negatives: std::ops::Range<usize>,
}

/// Scores one label set with one model.
#[derive(Clone, Debug)]
pub struct Scorer {
    scoring: Scoring,
    head: Head,
    /// `[rows, dim]`: all prompts, negatives and background, one product a picture.
    matrix: Array2<f32>,
    labels: Vec<Rows>,
    background: std::ops::Range<usize>,
}

impl Scorer {
    /// Joins the set's embeddings into one matrix.
    ///
    /// # Errors
    /// When the embeddings differ in length.
    pub fn new(set: &SetEmbeddings, head: Head) -> Result<Self, ndarray::ShapeError> {
        let mut parts = Vec::new();
        let mut next = 0;
        let mut add = |part: &Array2<f32>, parts: &mut Vec<Array2<f32>>| {
            let rows = next..next + part.nrows();
            next = rows.end;
            if part.nrows() > 0 {
                parts.push(part.clone());
            }
            rows
        };
        let labels = set
            .labels
            .iter()
            .map(|l| Rows { prompts: add(&l.prompts, &mut parts), negatives: add(&l.negatives, &mut parts) })
            .collect();
        let background = add(&set.background, &mut parts);
        let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
        let matrix = concatenate(Axis(0), &views)?;
        Ok(Self { scoring: set.scoring, head, matrix, labels, background })
    }

    /// Number of labels, and so of scores.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Scores of one L2-normalised embedding (`[dim]`), one a label, each in 0..=1.
    pub fn score(&self, embedding: ArrayView1<'_, f32>) -> Vec<f32> {
        let logits = self.matrix.dot(&embedding).mapv(|cosine| cosine * self.head.scale + self.head.bias).to_vec();
        match self.scoring {
            Scoring::Exclusive => self.exclusive(&logits),
            Scoring::Independent => self.labels.iter().map(|rows| self.independent(&logits, rows)).collect(),
        }
    }

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

    /// A label against its own negatives and the background; against nothing, the model's sigmoid alone.
    fn independent(&self, logits: &[f32], rows: &Rows) -> f32 {
        let own = best(&logits[rows.prompts.clone()]);
        let competitors = logits[rows.negatives.clone()].iter().chain(&logits[self.background.clone()]);
        if self.head.activation == Activation::Sigmoid && rows.negatives.is_empty() && self.background.is_empty() {
            return 1.0 / (1.0 + (-own).exp());
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

#[cfg(test)]
mod tests {
    use ndarray::{Array1, array};
    use proptest::prelude::*;

    use super::*;

    const CLIP: Head = Head { scale: 10.0, bias: 0.0, activation: Activation::Softmax };
    const SIGLIP: Head = Head { scale: 10.0, bias: -5.0, activation: Activation::Sigmoid };

    fn label(name: &str, prompts: Array2<f32>, negatives: Array2<f32>) -> LabelEmbeddings {
        LabelEmbeddings { name: name.into(), prompts, negatives }
    }

    fn set(scoring: Scoring, background: Array2<f32>) -> SetEmbeddings {
        let none = Array2::zeros((0, 2));
        let labels =
            vec![label("x", array![[1.0, 0.0], [0.6, 0.8]], none.clone()), label("y", array![[0.0, 1.0]], none)];
        SetEmbeddings { name: "s".into(), scoring, labels, background }
    }

    fn close(a: &[f32], b: &[f32]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
    }

    #[test]
    fn exclusive_scores_are_a_softmax_over_labels_and_background() {
        let scorer = Scorer::new(&set(Scoring::Exclusive, array![[-1.0, 0.0]]), CLIP).unwrap();
        let scores = scorer.score(array![1.0, 0.0].view());
        let z = 10f32.exp() + 1.0 + (-10f32).exp();
        assert!(close(&scores, &[10f32.exp() / z, 1.0 / z]), "{scores:?}");
    }

    #[test]
    fn a_label_takes_the_best_of_its_prompts() {
        let scorer = Scorer::new(&set(Scoring::Exclusive, Array2::zeros((0, 2))), CLIP).unwrap();
        let scores = scorer.score(array![0.6, 0.8].view());
        assert!(close(&scores[..1], &[1.0 / (1.0 + (8f32 - 10.0).exp())]), "{scores:?}");
    }

    #[test]
    fn independent_scores_do_not_compete_with_each_other() {
        let scorer = Scorer::new(&set(Scoring::Independent, array![[-1.0, 0.0]]), CLIP).unwrap();
        let both = (0.5f32).sqrt();
        let scores = scorer.score(array![both, both].view());
        assert!(scores.iter().all(|s| *s > 0.99), "{scores:?}");
    }

    #[test]
    fn a_sigmoid_model_without_competitors_gives_its_own_probability() {
        let scorer = Scorer::new(&set(Scoring::Independent, Array2::zeros((0, 2))), SIGLIP).unwrap();
        let scores = scorer.score(array![0.0, 1.0].view());
        assert!(close(&scores[1..], &[1.0 / (1.0 + (-5f32).exp())]), "{scores:?}");
    }

    #[test]
    fn negatives_compete_only_with_their_own_label_when_independent() {
        let mut s = set(Scoring::Independent, Array2::zeros((0, 2)));
        s.labels[0].negatives = array![[1.0, 0.0]];
        s.labels[1].negatives = array![[-1.0, 0.0]];
        let scores = Scorer::new(&s, CLIP).unwrap().score(array![1.0, 0.0].view());
        assert!(close(&scores[..1], &[0.5]) && scores[1] > 0.99, "{scores:?}");
    }

    #[test]
    fn embeddings_of_different_length_are_refused() {
        assert!(Scorer::new(&set(Scoring::Exclusive, array![[1.0, 0.0, 0.0]]), CLIP).is_err());
    }

    proptest! {
        #[test]
        fn scores_stay_between_zero_and_one_even_at_clips_scale(angle in 0.0f32..6.3, scale in 0.1f32..200.0) {
            for scoring in [Scoring::Exclusive, Scoring::Independent] {
                let head = Head { scale, ..CLIP };
                let scorer = Scorer::new(&set(scoring, array![[0.8, -0.6]]), head).unwrap();
                let scores = scorer.score(Array1::from(vec![angle.cos(), angle.sin()]).view());
                prop_assert!(scores.iter().all(|s| (0.0..=1.0).contains(s)));
                if scoring == Scoring::Exclusive {
                    prop_assert!(scores.iter().sum::<f32>() <= 1.0001);
                }
            }
        }
    }
}
