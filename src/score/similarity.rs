//! Similarity: pictures against texts, each with each, as the models' own references answer (Transformers'
//! `logits_per_image`, and its softmax over the texts or its sigmoid). Embeddings in, three matrices out. Pure.

use ndarray::{Array2, ArrayView1, Axis, ErrorKind, ShapeError};

use super::{Activation, LogitParameters, sigmoid};

/// Each `[pictures, texts]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Similarity {
    /// From -1 to 1.
    pub cosine: Array2<f32>,
    /// Cosine × scale + bias.
    pub logits: Array2<f32>,
    /// Softmax over a picture's texts, or for a sigmoid model each logit's own.
    pub probabilities: Array2<f32>,
}

impl Similarity {
    /// Compares `images`, `[pictures, dim]`, with `texts`: one `[texts, dim]`, or for an ensemble of probabilities one a
    /// template. Then every matrix is the mean over the templates: logits stay scale × cosine + bias, but probabilities are
    /// no longer those of the logits. All rows are L2-normalised.
    ///
    /// # Errors
    /// When embeddings differ in length, templates in their number of texts, or there is no matrix of texts.
    pub fn new(
        images: &Array2<f32>,
        texts: &[Array2<f32>],
        logit_parameters: LogitParameters,
    ) -> Result<Self, ShapeError> {
        let mismatch = ShapeError::from_kind(ErrorKind::IncompatibleShape);
        let Some(first) = texts.first() else { return Err(mismatch) };
        if first.ncols() != images.ncols() || texts.iter().any(|part| part.raw_dim() != first.raw_dim()) {
            return Err(mismatch);
        }
        let mut cosine = Array2::<f32>::zeros((images.nrows(), first.nrows()));
        let mut probabilities = cosine.clone();
        for part in texts {
            let part = images.dot(&part.t());
            for (mut mean, row) in probabilities.axis_iter_mut(Axis(0)).zip(part.rows()) {
                mean.iter_mut().zip(row_probabilities(logit_parameters, row)).for_each(|(sum, one)| *sum += one);
            }
            cosine += &part;
        }
        let count = texts.len() as f32;
        cosine /= count;
        probabilities /= count;
        Ok(Self { logits: cosine.mapv(|cosine| logit_parameters.logit(cosine)), cosine, probabilities })
    }
}

/// Probabilities of one picture's cosines.
fn row_probabilities(parameters: LogitParameters, cosines: ArrayView1<'_, f32>) -> Vec<f32> {
    let logits: Vec<f32> = cosines.iter().map(|cosine| parameters.logit(*cosine)).collect();
    match parameters.activation {
        Activation::Sigmoid => logits.into_iter().map(sigmoid).collect(),
        Activation::Softmax => {
            let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = logits.iter().map(|logit| (logit - top).exp()).sum();
            logits.into_iter().map(|logit| (logit - top).exp() / sum).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    const CLIP: LogitParameters = LogitParameters { scale: 100.0, bias: 0.0, activation: Activation::Softmax };
    const SIGLIP: LogitParameters = LogitParameters { scale: 10.0, bias: -5.0, activation: Activation::Sigmoid };

    fn circle(angles: &[f32]) -> Array2<f32> {
        Array2::from_shape_fn(
            (angles.len(), 2),
            |(row, column)| {
                if column == 0 { angles[row].cos() } else { angles[row].sin() }
            },
        )
    }

    fn far(a: &Array2<f32>, b: &Array2<f32>) -> f32 {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn probabilities_are_a_softmax_over_the_texts_or_a_sigmoid_of_each() {
        let (images, texts) = (array![[1.0, 0.0]], array![[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]);
        let clip =
            Similarity::new(&images, std::slice::from_ref(&texts), LogitParameters { scale: 10.0, ..CLIP }).unwrap();
        assert_eq!(clip.cosine, array![[1.0, 0.0, 0.6]]);
        assert_eq!(clip.logits, array![[10.0, 0.0, 6.0]]);
        let z = 10f32.exp() + 1.0 + 6f32.exp();
        assert!(far(&clip.probabilities, &array![[10f32.exp() / z, 1.0 / z, 6f32.exp() / z]]) < 1e-6);
        let siglip = Similarity::new(&images, &[texts], SIGLIP).unwrap();
        assert_eq!(siglip.logits, array![[5.0, -5.0, 1.0]]);
        let wanted = array![[1.0 / (1.0 + (-5f32).exp()), 1.0 / (1.0 + 5f32.exp()), 1.0 / (1.0 + (-1f32).exp())]];
        assert!(far(&siglip.probabilities, &wanted) < 1e-6);
    }

    #[test]
    fn embeddings_that_do_not_fit_together_are_refused() {
        let (two, three) = (array![[1.0, 0.0]], array![[1.0, 0.0, 0.0]]);
        assert!(Similarity::new(&two, std::slice::from_ref(&three), CLIP).is_err());
        assert!(Similarity::new(&two, &[], CLIP).is_err());
        assert!(Similarity::new(&two, &[two.clone(), array![[1.0, 0.0], [0.0, 1.0]]], CLIP).is_err());
    }

    proptest! {
        #[test]
        fn an_ensemble_is_the_mean_of_its_templates_in_any_order(
            images in prop::collection::vec(0.0f32..6.3, 1..4),
            templates in prop::collection::vec(prop::array::uniform3(0.0f32..6.3), 1..5),
        ) {
            let images = circle(&images);
            let texts: Vec<_> = templates.iter().map(|angles| circle(angles)).collect();
            let reversed: Vec<_> = texts.iter().rev().cloned().collect();
            for logit_parameters in [CLIP, SIGLIP] {
                let all = Similarity::new(&images, &texts, logit_parameters).unwrap();
                prop_assert!(all.probabilities.iter().all(|p| (0.0..=1.0).contains(p)));
                if logit_parameters.activation == Activation::Softmax {
                    prop_assert!(all.probabilities.rows().into_iter().all(|row| (row.sum() - 1.0).abs() < 1e-4));
                }
                let other = Similarity::new(&images, &reversed, logit_parameters).unwrap();
                prop_assert!(far(&all.probabilities, &other.probabilities) < 1e-5);
                let mut mean = Array2::<f32>::zeros(all.probabilities.raw_dim());
                for one in &texts {
                    mean += &Similarity::new(&images, std::slice::from_ref(one), logit_parameters).unwrap().probabilities;
                }
                prop_assert!(far(&all.probabilities, &(mean / texts.len() as f32)) < 1e-5);
            }
        }
    }
}
