//! A Gaussian discriminant: what pictures of a label, and pictures of what it is not, add to its margin. Closed form, nothing is trained.
//!
//! In: embeddings, brought to length 1, as classes: the examples of each label, its counter-examples, and those of the whole set. Out: a
//! [`Discriminant`], which gives each label a number for an embedding. Pure, in f64 until it is learned; bounded by what comes in.
//!
//! After Wang et al. 2024, "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation" (arXiv:2402.04087), where D is the length of an
//! embedding, N the number of all different embeddings of all classes, μ the mean of a class, and S the covariance within the classes, pooled: the sum
//! of (x − μ)(x − μ)ᵀ over all embeddings, each with the mean of its own class, divided by N − 1:
//!
//! ```text
//! Σ⁻¹ = D · ((N − 1)·S + tr(S)·I)⁻¹        tr(S) at least MIN_TRACE: with one example a class S is zero
//! g(x) = (Σ⁻¹μ)·x − ½·μᵀΣ⁻¹μ               of each class
//! d(x) = g(x) of the label − log Σ exp g(x) of its rivals
//! ```
//!
//! The rivals of a label are the other labels that it was learned with (those that are not seen together with it), its own counter-examples and those
//! that all of them share. What is told is 3 · d / std(d), the deviation taken over the embeddings of the label and its rivals: a number as margins are.

use ndarray::{Array2, ArrayView1, ArrayView2, Axis, s};
use vtagd_pictures::rows::row_products;

use super::margin::log_add;

/// The least that tr(S) counts as: what two pictures of the same scene differ by.
const MIN_TRACE: f64 = 0.01;
/// What is added to a margin, in deviations of d.
const GAIN: f64 = 3.0;
/// Embeddings nearer than this (the square of their distance) are the same picture.
const SAME: f64 = 1e-9;

/// Why nothing can be learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LearnRefusal {
    #[error("it has no examples")]
    NoExamples,
    #[error(
        "there is nothing to tell its examples from: add `counter_examples`, such as pictures of the scene without it"
    )]
    NoRivals,
    #[error("one of its examples is also a counter-example, or an example of a label that excludes it")]
    Contradiction,
    #[error("the model does not tell its examples from the counter-examples")]
    Inseparable,
    #[error("an embedding is no direction, or of another length than the others")]
    NotFinite,
}

/// What one label is learned from.
#[derive(Clone, Copy, Debug)]
pub struct LabelClass<'a> {
    pub examples: &'a [Vec<f32>],
    /// What this label is not; others may be.
    pub counter_examples: &'a [Vec<f32>],
}

/// Rows of a label's rivals that are its own.
#[derive(Clone, Debug)]
struct OwnRivals {
    rows: std::ops::Range<usize>,
    /// 3 / std(d).
    gain: f64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Discriminant {
    /// `[classes, dim]`, or nothing once [dropped](Self::drop_weights): the labels in order, what they share, then the counter-examples of each.
    weights: Array2<f32>,
    biases: Vec<f64>,
    labels: Vec<OwnRivals>,
    shared: std::ops::Range<usize>,
}

/// One class: different embeddings of length 1, sorted, so that their order and repetitions do not matter.
type Class = Vec<Vec<f64>>;

impl Discriminant {
    /// Learns to tell each of `labels` from the others, from its counter-examples and from `shared`, which is none of them.
    ///
    /// # Errors
    /// The first label of which nothing can be learned, by its place in `labels`, and why.
    pub fn learn(labels: &[LabelClass<'_>], shared: &[Vec<f32>]) -> Result<Self, (usize, LearnRefusal)> {
        if let Some(at) = labels.iter().position(|label| label.examples.is_empty()) {
            return Err((at, LearnRefusal::NoExamples));
        }
        let dim = labels.iter().flat_map(|label| label.examples).map(Vec::len).next().unwrap_or(0);
        let class = |embeddings: &[Vec<f32>]| self::class(embeddings, dim).ok_or(LearnRefusal::NotFinite);
        let shared = class(shared).map_err(|why| (0, why))?;
        let mut classes: Vec<Class> = Vec::with_capacity(2 * labels.len() + 1);
        for (at, label) in labels.iter().enumerate() {
            classes.push(class(label.examples).map_err(|why| (at, why))?);
        }
        let shared_rows = labels.len()..labels.len() + usize::from(!shared.is_empty());
        classes.extend(Some(shared).filter(|shared| !shared.is_empty()));
        let mut own = Vec::with_capacity(labels.len());
        for (at, label) in labels.iter().enumerate() {
            let start = classes.len();
            let counter = class(label.counter_examples).map_err(|why| (at, why))?;
            classes.extend(Some(counter).filter(|counter| !counter.is_empty()));
            own.push(OwnRivals { rows: start..classes.len(), gain: 0.0 });
        }
        let out = Self { weights: Array2::zeros((0, dim)), biases: Vec::new(), labels: own, shared: shared_rows };
        for at in 0..labels.len() {
            out.check(at, &classes).map_err(|why| (at, why))?;
        }
        let (mut weights, biases) = linear(&classes, dim).ok_or((0, LearnRefusal::NotFinite))?;
        // d is of differences: what all rows share, most of them where one scene is learned, would only cost digits.
        if let Some(shared) = weights.mean_axis(Axis(0)) {
            weights -= &shared;
        }
        let mut out = Self { weights: weights.mapv(|value| value as f32), biases, ..out };
        let embeddings: Vec<Vec<Vec<f32>>> =
            classes.iter().map(|class| class.iter().map(|one| narrowed(one)).collect()).collect();
        for at in 0..labels.len() {
            let of = out.rivals(at).chain([at]).flat_map(|class| &embeddings[class]);
            let d: Vec<f64> = of.map(|one| out.leads(&row_products(&out.weights, ArrayView1::from(one)))[at]).collect();
            let gain = GAIN / deviation(&d);
            if !gain.is_finite() {
                return Err((at, LearnRefusal::Inseparable));
            }
            out.labels[at].gain = gain;
        }
        Ok(out)
    }

    /// The classes that are rivals of a label.
    fn rivals(&self, label: usize) -> impl Iterator<Item = usize> + use<> {
        let own = self.labels.get(label).map_or(0..0, |own| own.rows.clone());
        (0..self.labels.len()).filter(move |other| *other != label).chain(self.shared.clone()).chain(own)
    }

    fn check(&self, label: usize, classes: &[Class]) -> Result<(), LearnRefusal> {
        let own = &classes[label];
        let mut rivals = self.rivals(label).flat_map(|class| &classes[class]).peekable();
        if rivals.peek().is_none() {
            return Err(LearnRefusal::NoRivals);
        }
        let is_same = |rival: &Vec<f64>| own.iter().any(|one| distance(one, rival) < SAME);
        if rivals.any(is_same) { Err(LearnRefusal::Contradiction) } else { Ok(()) }
    }

    /// d of each label, from the products of the weights with an embedding of length 1.
    fn leads(&self, products: &[f32]) -> Vec<f64> {
        let value = |(product, bias): (&f32, &f64)| f64::from(*product) + bias;
        if self.labels.len() == 1 {
            // By far the most of them: one label, and behind it only rivals.
            let mut values = products.iter().zip(&self.biases).map(value);
            let own = values.next().unwrap_or_default();
            return vec![own - values.fold(f64::NEG_INFINITY, log_add)];
        }
        let values: Vec<f64> = products.iter().zip(&self.biases).map(value).collect();
        let others = sums_of_others(&values[..self.shared.end]);
        let lead = |(at, own): (usize, &OwnRivals)| {
            let counter = values[own.rows.clone()].iter().fold(f64::NEG_INFINITY, |sum, value| log_add(sum, *value));
            values[at] - log_add(others[at], counter)
        };
        self.labels.iter().enumerate().map(lead).collect()
    }

    /// `[classes, dim]`: what an embedding is multiplied with.
    pub fn weights(&self) -> ArrayView2<'_, f32> {
        self.weights.view()
    }

    /// How many rows the weights have, dropped or not.
    pub fn class_count(&self) -> usize {
        self.biases.len()
    }

    /// Lets the weights go, for a caller that keeps them in its own form.
    pub fn drop_weights(&mut self) {
        self.weights = Array2::default((0, 0));
    }

    /// What each label's margin gains by an embedding of length 1, in the order in which they were learned; `products` are those of the
    /// [weights](Self::weights) with it.
    pub fn gains(&self, products: &[f32]) -> impl Iterator<Item = f64> {
        let leads = self.leads(products);
        leads.into_iter().zip(&self.labels).map(|(lead, label)| lead * label.gain)
    }
}

/// For each value the log of the sum of the exponentials of all others.
fn sums_of_others(values: &[f64]) -> Vec<f64> {
    let top = values.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    let Some((top_at, top)) = top else { return Vec::new() };
    let second =
        values.iter().enumerate().filter(|(at, _)| *at != top_at).map(|(_, v)| *v).fold(f64::NEG_INFINITY, f64::max);
    if second == f64::NEG_INFINITY {
        return vec![f64::NEG_INFINITY; values.len()];
    }
    // All but the largest, by the second: a difference of nearly equal sums would have no digits.
    let rest: f64 = values.iter().enumerate().filter(|(at, _)| *at != top_at).map(|(_, v)| (v - second).exp()).sum();
    let rest_to_top = rest * (second - top).exp();
    let others = |(at, value): (usize, &f64)| match at == top_at {
        true => second + rest.ln(),
        // Never below 1, the largest one's own share.
        false => top + (1.0 + rest_to_top - (value - top).exp()).max(1.0).ln(),
    };
    values.iter().enumerate().map(others).collect()
}

/// Of length 1, sorted, each once; `None` where one is no direction or of another length.
fn class(embeddings: &[Vec<f32>], dim: usize) -> Option<Class> {
    let unit = |embedding: &Vec<f32>| {
        let length = embedding.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let good = embedding.len() == dim && length.is_finite() && length > 0.0;
        good.then(|| embedding.iter().map(|value| f64::from(*value) / length).collect::<Vec<f64>>())
    };
    let mut class: Class = embeddings.iter().map(unit).collect::<Option<_>>()?;
    class.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    class.dedup_by(|a, b| distance(a, b) < SAME);
    Some(class)
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

fn narrowed(embedding: &[f64]) -> Vec<f32> {
    embedding.iter().map(|value| *value as f32).collect()
}

/// Weights, `[classes, dim]`, and biases of all classes, each with one embedding at least.
fn linear(classes: &[Class], dim: usize) -> Option<(Array2<f64>, Vec<f64>)> {
    let count: usize = classes.iter().map(Vec::len).sum();
    let mut means = Array2::<f64>::zeros((dim, classes.len()));
    let mut centred = Array2::<f64>::zeros((count, dim));
    let mut row = 0;
    for (at, class) in classes.iter().enumerate() {
        let mut mean = means.column_mut(at);
        for one in class {
            mean += &ArrayView1::from(one);
        }
        mean /= class.len() as f64;
        for one in class {
            centred.row_mut(row).assign(&(&ArrayView1::from(one) - &mean));
            row += 1;
        }
    }
    let trace = centred.iter().map(|value| value * value).sum::<f64>() / count.saturating_sub(1).max(1) as f64;
    // (N − 1)·S is centredᵀ·centred.
    let weights = ridge_solved(&centred, trace.max(MIN_TRACE), &means)? * dim as f64;
    let biases = weights.axis_iter(Axis(1)).zip(means.axis_iter(Axis(1))).map(|(w, mean)| -0.5 * w.dot(&mean));
    let biases: Vec<f64> = biases.collect();
    let good = biases.iter().chain(&weights).all(|value| value.is_finite());
    good.then(|| (weights.t().as_standard_layout().into_owned(), biases))
}

/// (AᵀA + ridge·I)⁻¹ · `right`, by whichever of the two sides of A is the shorter one (Woodbury's identity).
fn ridge_solved(a: &Array2<f64>, ridge: f64, right: &Array2<f64>) -> Option<Array2<f64>> {
    if a.nrows() > a.ncols() {
        return solved(a.t().dot(a) + Array2::<f64>::eye(a.ncols()) * ridge, right.clone());
    }
    let inner = solved(a.dot(&a.t()) + Array2::<f64>::eye(a.nrows()) * ridge, a.dot(right))?;
    Some((right - &a.t().dot(&inner)) / ridge)
}

/// `matrix`⁻¹ · `right` for a symmetric positive definite matrix (Cholesky); `None` if it is not.
fn solved(mut matrix: Array2<f64>, mut right: Array2<f64>) -> Option<Array2<f64>> {
    let size = matrix.nrows();
    for column in 0..size {
        for row in column..size {
            let dot = matrix.slice(s![row, ..column]).dot(&matrix.slice(s![column, ..column]));
            let value = matrix[[row, column]] - dot;
            if row > column {
                matrix[[row, column]] = value / matrix[[column, column]];
            } else if value > 0.0 {
                matrix[[row, column]] = value.sqrt();
            } else {
                return None;
            }
        }
    }
    for row in 0..size {
        let (done, mut rest) = right.view_mut().split_at(Axis(0), row);
        let mut own = rest.row_mut(0);
        own -= &matrix.slice(s![row, ..row]).dot(&done);
        own /= matrix[[row, row]];
    }
    for row in (0..size).rev() {
        let (mut rest, done) = right.view_mut().split_at(Axis(0), row + 1);
        let mut own = rest.row_mut(row);
        own -= &matrix.slice(s![row + 1.., row]).dot(&done);
        own /= matrix[[row, row]];
    }
    Some(right)
}

fn deviation(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIM: usize = 12;

    /// Numbers that look random, of length 1.
    fn unit(seed: u64, dim: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x2545_f491_4f6c_dd1d);
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        let values: Vec<f32> = (0..dim).map(|_| next()).collect();
        let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
        values.into_iter().map(|value| value / length).collect()
    }

    /// `count` embeddings round the direction of `seed`.
    fn cloud(seed: u64, count: u64) -> Vec<Vec<f32>> {
        let near = |at| unit(seed, DIM).iter().zip(unit(seed * 100 + at, DIM)).map(|(a, b)| a + 0.4 * b).collect();
        (1..=count).map(near).collect()
    }

    fn learned(examples: &[Vec<f32>], counter: &[Vec<f32>], shared: &[Vec<f32>]) -> Result<Discriminant, LearnRefusal> {
        let label = LabelClass { examples, counter_examples: counter };
        Discriminant::learn(&[label], shared).map_err(|(_, why)| why)
    }

    fn gain(of: &Discriminant, embedding: &[f32]) -> f64 {
        of.gains(&row_products(&of.weights, ArrayView1::from(embedding))).next().unwrap()
    }

    /// As the formula is written, with the whole covariance and its inverse by Gauss and Jordan.
    fn reference(classes: &[Class], at: usize, embedding: &[f32]) -> f64 {
        let all: Vec<&Vec<f64>> = classes.iter().flatten().collect();
        let mean = |class: &Class| -> Vec<f64> {
            (0..DIM).map(|i| class.iter().map(|one| one[i]).sum::<f64>() / class.len() as f64).collect()
        };
        let mut scatter = vec![vec![0.0; DIM]; DIM];
        for class in classes {
            let mean = mean(class);
            for one in class {
                for (i, row) in scatter.iter_mut().enumerate() {
                    row.iter_mut().enumerate().for_each(|(j, cell)| *cell += (one[i] - mean[i]) * (one[j] - mean[j]));
                }
            }
        }
        let trace = (0..DIM).map(|i| scatter[i][i]).sum::<f64>() / (all.len() - 1) as f64;
        for (i, row) in scatter.iter_mut().enumerate() {
            row[i] += trace.max(MIN_TRACE);
            row.extend((0..DIM).map(|j| if i == j { 1.0 } else { 0.0 }));
        }
        for i in 0..DIM {
            let pivot = scatter[i][i];
            scatter[i].iter_mut().for_each(|cell| *cell /= pivot);
            let own = scatter[i].clone();
            for (_, row) in scatter.iter_mut().enumerate().filter(|(other, _)| *other != i) {
                let factor = row[i];
                row.iter_mut().zip(&own).for_each(|(cell, own)| *cell -= factor * own);
            }
        }
        let times = |v: &[f64]| -> Vec<f64> {
            scatter.iter().map(|row| DIM as f64 * (0..DIM).map(|j| row[DIM + j] * v[j]).sum::<f64>()).collect()
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let lead = |x: &[f64]| {
            let value = |class: &Class| {
                let (mean, w) = (mean(class), times(&mean(class)));
                dot(&w, x) - 0.5 * dot(&mean, &w)
            };
            let rivals = classes.iter().enumerate().filter(|(class, _)| *class != at).map(|(_, class)| value(class));
            value(&classes[at]) - rivals.fold(f64::NEG_INFINITY, log_add)
        };
        let d: Vec<f64> = all.iter().map(|one| lead(one)).collect();
        let x: Vec<f64> = embedding.iter().map(|value| f64::from(*value)).collect();
        3.0 * lead(&x) / deviation(&d)
    }

    #[test]
    fn the_formula_is_the_one_that_is_written_down() {
        let (own, counter, shared) = (cloud(1, 5), cloud(2, 3), cloud(3, 4));
        let of = learned(&own, &counter, &shared).unwrap();
        let classes: Vec<Class> = [&own, &counter, &shared].iter().map(|one| class(one, DIM).unwrap()).collect();
        for seed in 0..20 {
            let x = unit(seed, DIM);
            let (found, wanted) = (gain(&of, &x), reference(&classes, 0, &x));
            assert!((found - wanted).abs() < 1e-3 * wanted.abs().max(1.0), "{found} {wanted}");
        }
    }

    #[test]
    fn one_example_and_one_counter_example_are_enough_and_stand_three_deviations_apart() {
        let of = learned(&[unit(1, DIM)], &[], &[unit(2, DIM)]).unwrap();
        let (own, other) = (gain(&of, &unit(1, DIM)), gain(&of, &unit(2, DIM)));
        assert!((own - 3.0).abs() < 1e-2 && (other + 3.0).abs() < 1e-2, "{own} {other}");
    }

    #[test]
    fn what_contradicts_itself_or_says_nothing_is_refused() {
        let (own, other) = (cloud(1, 3), cloud(2, 3));
        assert_eq!(learned(&own, &own[1..2], &[]).unwrap_err(), LearnRefusal::Contradiction);
        assert_eq!(learned(&own, &[], &own).unwrap_err(), LearnRefusal::Contradiction);
        // Twice as long is the same direction.
        let longer: Vec<f32> = own[0].iter().map(|value| value * 2.0).collect();
        assert_eq!(learned(&own, &[longer], &[]).unwrap_err(), LearnRefusal::Contradiction);
        assert_eq!(learned(&own, &[], &[]).unwrap_err(), LearnRefusal::NoRivals);
        assert_eq!(learned(&[], &other, &[]).unwrap_err(), LearnRefusal::NoExamples);
        for bad in [vec![f32::NAN; DIM], vec![f32::INFINITY; DIM], vec![0.0; DIM], vec![1.0; DIM + 1]] {
            assert_eq!(learned(&own, std::slice::from_ref(&bad), &[]).unwrap_err(), LearnRefusal::NotFinite);
            assert!(matches!(
                learned(&[own[0].clone(), bad], &other, &[]),
                Err(LearnRefusal::NotFinite | LearnRefusal::NoExamples)
            ));
        }
        // Two labels that exclude each other, with the same example.
        let label = |examples| LabelClass { examples, counter_examples: &[] };
        let refused = Discriminant::learn(&[label(&own), label(&own[..1])], &other).unwrap_err();
        assert_eq!(refused, (0, LearnRefusal::Contradiction));
    }

    #[test]
    fn each_of_several_labels_wins_where_it_is_seen_and_its_counter_examples_are_its_own() {
        let clouds: Vec<_> = (1..=4).map(|seed| cloud(seed, 4)).collect();
        let label = |at: usize, counter| LabelClass { examples: &clouds[at], counter_examples: counter };
        let of = Discriminant::learn(&[label(0, &clouds[3]), label(1, &[]), label(2, &[])], &[]).unwrap();
        for (at, cloud) in clouds[..3].iter().enumerate() {
            for one in cloud {
                let gains: Vec<f64> = of.gains(&row_products(&of.weights, ArrayView1::from(one))).collect();
                let best = (0..3).max_by(|a, b| gains[*a].total_cmp(&gains[*b])).unwrap();
                assert!(best == at && gains[at] > 0.0, "{at}: {gains:?}");
            }
        }
        assert!(clouds[3].iter().all(|one| gain(&of, one) < 0.0));
    }

    #[test]
    fn both_sides_of_the_matrix_lead_to_the_same() {
        let a = Array2::from_shape_vec((DIM, DIM), cloud(5, DIM as u64).concat()).unwrap().mapv(f64::from);
        let right = Array2::from_shape_vec((DIM, 2), cloud(6, 2).concat()).unwrap().mapv(f64::from);
        let short = ridge_solved(&a, 0.3, &right).unwrap();
        let long = solved(a.t().dot(&a) + Array2::<f64>::eye(DIM) * 0.3, right).unwrap();
        assert!(short.iter().zip(&long).all(|(a, b)| (a - b).abs() < 1e-9), "{short} {long}");
        assert!(solved(Array2::<f64>::eye(2) * -1.0, Array2::zeros((2, 1))).is_none());
    }

    proptest! {
        #[test]
        fn the_sums_of_others_are_those_of_each_by_itself(values in prop::collection::vec(-2000.0f64..2000.0, 0..8)) {
            let sums = sums_of_others(&values);
            for (at, sum) in sums.iter().enumerate() {
                let others = values.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, v)| *v);
                let wanted = others.fold(f64::NEG_INFINITY, log_add);
                prop_assert!(*sum == wanted || (sum - wanted).abs() < 1e-9 * wanted.abs().max(1.0), "{} {}", sum, wanted);
            }
        }

        #[test]
        fn order_repetitions_and_lengths_do_not_matter(
            own in 1u64..6,
            counter in 0u64..6,
            turn in 0usize..6,
            again in 0usize..6,
            length in 0.1f32..10.0,
            probe in 0u64..1000,
        ) {
            let (own, counter, shared) = (cloud(1, own), cloud(2, counter), cloud(3, 2));
            let plain = learned(&own, &counter, &shared).unwrap();
            let changed = |embeddings: &[Vec<f32>]| {
                let mut changed = embeddings.to_vec();
                if !changed.is_empty() {
                    let (turn, again) = (turn % changed.len(), again % changed.len());
                    changed.rotate_left(turn);
                    changed.push(changed[again].clone());
                }
                changed.iter_mut().flatten().for_each(|value| *value *= length);
                changed
            };
            let other = learned(&changed(&own), &changed(&counter), &changed(&shared)).unwrap();
            let x = unit(probe, DIM);
            let (a, b) = (gain(&plain, &x), gain(&other, &x));
            prop_assert!((a - b).abs() < 1e-3, "{} {}", a, b);
        }

        #[test]
        fn whatever_is_learned_is_a_number(seeds in prop::collection::vec(0u64..50, 2..9), probe in 0u64..1000) {
            let all: Vec<Vec<f32>> = seeds.iter().map(|seed| unit(*seed, DIM)).collect();
            if let Ok(of) = learned(&all[..1], &all[1..], &[]) {
                prop_assert!(gain(&of, &unit(probe, DIM)).is_finite());
                prop_assert!(gain(&of, &all[0]) > 0.0);
            }
        }
    }
}
