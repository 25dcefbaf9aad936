//! Labels that learn from pictures: a [`Discriminant`] beside the texts of a [`Scorer`], and a gate that lets nothing pass that is unlike all examples.
//!
//! In: the embeddings of a set's examples and counter-examples, each of one or several tiles. Out: a scorer whose margins have what was learned
//! added. Pure; once a set, when its scorer is made. Of an example with several tiles the one counts that is nearest to the label's texts, as the best
//! tile of a frame does; of a counter-example all of them.

use std::sync::Arc;

use ndarray::{Array2, ArrayView1, ArrayView2, Axis, concatenate};
use vtagd_pictures::rows::ShortRows;

use super::discriminant::{Discriminant, LabelClass, LearnRefusal};
use super::{LabelScore, Scorer, Scoring};

/// Where texts alone separate the examples from the counter-examples so well (balanced accuracy), nothing is learned.
pub const TEXT_SUFFICES: f64 = 0.95;

/// When what was learned counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Learn {
    /// Where texts alone do not tell the examples from the counter-examples.
    #[default]
    Auto,
    Always,
    Never,
}

/// What one label learns from.
#[derive(Clone, Debug, Default)]
pub struct LabelExamples {
    /// Each `[tiles, dim]`, one tile behind the other.
    pub examples: Vec<Vec<f32>>,
    pub counter_examples: Vec<Vec<f32>>,
    pub learn: Learn,
    /// The least cosine with the nearest example; below it the margin falls. `None`: unless the label is [never](Learn::Never) to learn, half way between
    /// the counter-example that is nearest to an example, and 1.
    pub similarity: Option<f32>,
}

/// What a set learns from.
#[derive(Clone, Debug, Default)]
pub struct SetExamples {
    /// One a label of the set, in order.
    pub labels: Vec<LabelExamples>,
    /// What none of the labels is.
    pub counter_examples: Vec<Vec<f32>>,
}

/// What became of a label that has examples.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnedLabel {
    pub label: usize,
    /// How well texts alone tell its examples from the counter-examples: balanced accuracy at the best threshold.
    pub by_texts: f64,
    pub is_used: bool,
    /// Margins of its counter-examples, those of the set among them, with what was learned.
    pub counter_margins: Vec<f32>,
}

/// What a [`Scorer`] adds to its margins.
#[derive(Clone, Debug)]
pub(super) struct Learned {
    /// What became of each label with examples.
    told: Vec<LearnedLabel>,
    /// Each with the labels that it is of; `None`: its gain is not used.
    groups: Vec<(Vec<Option<usize>>, Discriminant)>,
    gates: Gates,
    /// `[rows, dim]`: the weights of all groups, then the examples of all gates; one product a picture.
    rows: ShortRows,
}

/// The examples of all labels with a least similarity.
#[derive(Clone, Debug)]
struct Gates {
    /// Label, the rows of its examples behind those of the groups, its least similarity.
    labels: Vec<(usize, std::ops::Range<usize>, f32)>,
    /// What a missing cosine costs: the model's logit scale.
    scale: f32,
}

impl Scorer {
    /// Goes on with what can be learned from `set`.
    ///
    /// # Errors
    /// The first label of which nothing can be learned, and why.
    pub fn learning(self, set: &SetExamples) -> Result<Self, (usize, LearnRefusal)> {
        let dim = self.dim();
        let with_examples = set.labels.iter().enumerate().filter(|(_, label)| !label.examples.is_empty());
        let labels: Vec<usize> = with_examples.map(|(at, _)| at).take(self.len()).collect();
        let plain = Self { learned: None, ..self };
        let tiles = |embeddings: &[Vec<f32>]| -> Vec<Vec<f32>> {
            embeddings.iter().flat_map(|one| one.chunks(dim.max(1))).map(<[f32]>::to_vec).collect()
        };
        let shared = tiles(&set.counter_examples);
        // What the labels are told from must be of this model.
        let is_sound = |one: &Vec<f32>| !one.is_empty() && one.len().is_multiple_of(dim.max(1));
        for at in &labels {
            let label = &set.labels[*at];
            let mut all = label.examples.iter().chain(&label.counter_examples).chain(&set.counter_examples);
            if !all.all(is_sound) {
                return Err((*at, LearnRefusal::NotFinite));
            }
        }
        let chosen = |at: &usize| {
            (plain.nearest_tiles(*at, &set.labels[*at].examples), tiles(&set.labels[*at].counter_examples))
        };
        let classes: Vec<(Vec<Tile>, Vec<Tile>)> = labels.iter().map(chosen).collect();
        let mut told = Vec::with_capacity(labels.len());
        for (member, (at, (own, counter))) in labels.iter().zip(&classes).enumerate() {
            // Labels that exclude one another are told from one another, too.
            let is_rival = |(other, _): &(usize, _)| plain.scoring == Scoring::Exclusive && *other != member;
            let others = classes.iter().enumerate().filter(is_rival).flat_map(|(_, (examples, _))| examples);
            let by_texts = plain.separation(*at, own, counter.iter().chain(&shared).chain(others));
            let is_used = match set.labels[*at].learn {
                Learn::Always => true,
                Learn::Never => false,
                Learn::Auto => by_texts < TEXT_SUFFICES,
            };
            told.push(LearnedLabel { label: *at, by_texts, is_used, counter_margins: Vec::new() });
        }
        let used = |member: &usize| told.get(*member).filter(|told| told.is_used).map(|told| told.label);
        let groups: Vec<Vec<usize>> = match plain.scoring {
            Scoring::Exclusive => vec![(0..labels.len()).collect()],
            Scoring::Independent => (0..labels.len()).map(|member| vec![member]).collect(),
        };
        let (gates, gate_rows) = Gates::new(&labels, &classes, set, &shared, plain.logit_parameters.scale);
        let mut used_groups = Vec::new();
        // Also where it is not used: what contradicts itself is told at once.
        for members in groups.into_iter().filter(|members| !members.is_empty()) {
            let of = |member: &usize| {
                let (examples, counter_examples) = &classes[*member];
                LabelClass { examples, counter_examples }
            };
            let of: Vec<LabelClass<'_>> = members.iter().map(of).collect();
            let discriminant = Discriminant::learn(&of, &shared)
                .map_err(|(at, why)| (members.get(at).map_or(0, |member| labels[*member]), why))?;
            let used: Vec<Option<usize>> = members.iter().map(used).collect();
            if used.iter().any(Option::is_some) {
                used_groups.push((used, discriminant));
            }
        }
        let weights = used_groups.iter().map(|(_, discriminant): &(_, Discriminant)| discriminant.weights());
        let rows: Vec<ArrayView2<'_, f32>> = weights.chain(gate_rows.iter().map(|rows| rows.view())).collect();
        let rows = ShortRows::new(&concatenate(Axis(0), &rows).unwrap_or_else(|_| Array2::default((0, dim))));
        // They are in `rows` now.
        used_groups.iter_mut().for_each(|(_, discriminant)| discriminant.drop_weights());
        let learned = Learned { told: Vec::new(), groups: used_groups, gates, rows };
        let mut learning = Self { learned: (!labels.is_empty()).then(|| learned.into()), ..plain };
        let best = |example: &Vec<f32>| {
            let tiles = example.chunks(dim.max(1)).map(|tile| learning.score(ArrayView1::from(tile)));
            tiles.reduce(|a, b| a.into_iter().zip(b).map(|(a, b)| a.best(b)).collect()).unwrap_or_default()
        };
        let of_all: Vec<Vec<LabelScore>> =
            if labels.is_empty() { Vec::new() } else { set.counter_examples.iter().map(best).collect() };
        for one in &mut told {
            let own: Vec<Vec<LabelScore>> = set.labels[one.label].counter_examples.iter().map(best).collect();
            let margins = own.iter().chain(&of_all).filter_map(|scores| Some(scores.get(one.label)?.margin));
            one.counter_margins = margins.filter(|margin| margin.is_finite()).collect();
        }
        if let Some(learned) = learning.learned.as_mut().and_then(Arc::get_mut) {
            learned.told = told;
        }
        Ok(learning)
    }

    /// What became of each label with examples.
    pub fn learned_labels(&self) -> &[LearnedLabel] {
        self.learned.as_ref().map_or(&[], |learned| &learned.told)
    }

    /// Of each example the tile that the label's texts fit best.
    fn nearest_tiles(&self, label: usize, examples: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let margin =
            |tile: &[f32]| self.score(ArrayView1::from(tile)).get(label).map_or(f32::NAN, |score| score.margin);
        let best = |example: &Vec<f32>| {
            let tiles = example.chunks(self.dim().max(1));
            tiles.max_by(|a, b| margin(a).total_cmp(&margin(b))).unwrap_or_default().to_vec()
        };
        examples.iter().map(best).collect()
    }

    /// Balanced accuracy of the best threshold between what the texts say of both.
    fn separation<'a>(&self, label: usize, own: &[Vec<f32>], rivals: impl Iterator<Item = &'a Vec<f32>>) -> f64 {
        let margin =
            |one: &Vec<f32>| self.score(ArrayView1::from(one)).get(label).map_or(f32::NAN, |score| score.margin);
        let own: Vec<f32> = own.iter().map(margin).collect();
        let rivals: Vec<f32> = rivals.map(margin).collect();
        let share = |of: &[f32], is: &dyn Fn(f32) -> bool| {
            of.iter().filter(|margin| is(**margin)).count() as f64 / of.len().max(1) as f64
        };
        let accuracy = |at: f32| 0.5 * (share(&own, &|margin| margin >= at) + share(&rivals, &|margin| margin < at));
        own.iter().map(|at| accuracy(*at)).fold(0.5, f64::max)
    }
}

impl Learned {
    /// Adds to the margins of an embedding what was learned.
    pub(super) fn join(&self, embedding: ArrayView1<'_, f32>, scores: &mut [LabelScore]) {
        let products = self.rows.products(embedding);
        let mut rest = products.as_slice();
        for (labels, discriminant) in &self.groups {
            let (own, others) = rest.split_at(discriminant.class_count().min(rest.len()));
            rest = others;
            for (label, gain) in labels.iter().zip(discriminant.gains(own)) {
                let Some(score) = label.and_then(|label| scores.get_mut(label)) else { continue };
                // A label without any rival among the texts has no margin but this.
                let margin = f64::from(score.margin);
                score.margin = if margin.is_finite() { margin + gain } else { gain } as f32;
            }
        }
        self.gates.join(rest, scores);
    }
}

/// The embedding of a tile of an example.
type Tile = Vec<f32>;

/// Half way between the cosine of the counter-example that is nearest to an example, and 1.
fn halfway<'a>(own: &[Vec<f32>], rivals: impl Iterator<Item = &'a Vec<f32>>) -> f32 {
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let nearest = rivals.flat_map(|rival| own.iter().map(move |one| cosine(one, rival))).fold(0.0, f32::max);
    f32::midpoint(nearest.min(1.0), 1.0)
}

impl Gates {
    fn new(
        labels: &[usize],
        classes: &[(Vec<Tile>, Vec<Tile>)],
        set: &SetExamples,
        shared: &[Vec<f32>],
        scale: f32,
    ) -> (Self, Vec<Array2<f32>>) {
        let (mut rows, mut of) = (Vec::<Array2<f32>>::new(), Vec::new());
        let mut next = 0;
        for (at, (own, counter)) in labels.iter().zip(classes) {
            let label = &set.labels[*at];
            let similarity = match (label.similarity, label.learn) {
                (Some(similarity), _) if similarity > 0.0 => similarity,
                (Some(_), _) | (None, Learn::Never) => continue,
                (None, _) => halfway(own, counter.iter().chain(shared)),
            };
            of.push((*at, next..next + own.len(), similarity));
            next += own.len();
            let row = |one: &Vec<f32>| Array2::from_shape_vec((1, one.len()), one.clone()).unwrap_or_default();
            rows.extend(own.iter().map(row));
        }
        (Self { labels: of, scale }, rows)
    }

    /// Each hundredth of cosine that is missing costs a hundredth of the logit scale, as it would between texts.
    fn join(&self, cosines: &[f32], scores: &mut [LabelScore]) {
        for (label, rows, similarity) in &self.labels {
            let nearest = cosines.iter().skip(rows.start).take(rows.len()).copied().fold(-1.0, f32::max);
            if let Some(score) = scores.get_mut(*label) {
                score.margin += self.scale * (nearest - similarity).min(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::model::{Activation, LogitParameters};
    use crate::score::{Block, LabelEmbeddings, SetEmbeddings};

    const CLIP: LogitParameters = LogitParameters { scale: 10.0, bias: 0.0, activation: Activation::Softmax };

    /// Two labels whose texts see the first two of four directions; what they look like lies in the others.
    fn scorer(scoring: Scoring, background: Array2<f32>) -> Scorer {
        let label =
            |name: &str, prompts| LabelEmbeddings { name: name.into(), prompts, negatives: Array2::zeros((0, 4)) };
        let labels = vec![label("car", array![[1.0, 0.0, 0.0, 0.0]]), label("bus", array![[0.0, 1.0, 0.0, 0.0]])];
        let set = SetEmbeddings { name: "s".into(), scoring, blocks: vec![Block { labels, background }] };
        Scorer::new(&set, CLIP).unwrap()
    }

    fn background() -> Array2<f32> {
        array![[0.7, 0.7, 0.1, 0.1]]
    }

    fn margins(scorer: &Scorer, embedding: [f32; 4]) -> Vec<f32> {
        scorer.score(ArrayView1::from(&embedding)).iter().map(|score| score.margin).collect()
    }

    /// The car looks so; texts take what stands beside it for one as well.
    const CAR: [f32; 4] = [0.6, 0.0, 0.8, 0.0];
    const NOT: [f32; 4] = [0.8, 0.0, 0.0, 0.6];

    fn examples(learn: Learn) -> SetExamples {
        let car = LabelExamples {
            examples: vec![CAR.to_vec(), vec![0.5, 0.1, 0.85, 0.0]],
            counter_examples: vec![NOT.to_vec()],
            learn,
            similarity: Some(0.0),
        };
        SetExamples { labels: vec![car, LabelExamples::default()], counter_examples: Vec::new() }
    }

    #[test]
    fn what_was_marked_wrong_goes_the_right_one_stays_and_other_labels_do_not_change() {
        for scoring in [Scoring::Independent, Scoring::Exclusive] {
            let plain = scorer(scoring, background());
            let taught = plain.clone().learning(&examples(Learn::Auto)).unwrap();
            let told = taught.learned_labels();
            assert_eq!((told.len(), told[0].label, told[0].is_used), (1, 0, true), "{told:?}");
            assert!(told[0].by_texts < TEXT_SUFFICES, "{told:?}");
            let (before, after) = (margins(&plain, NOT)[0], margins(&taught, NOT)[0]);
            assert!(before > margins(&plain, CAR)[0], "texts alone get it wrong");
            assert!(after < before - 2.0 && after < margins(&taught, CAR)[0] - 3.0, "{before} {after}");
            assert!(margins(&taught, CAR)[0] > margins(&plain, CAR)[0] + 2.0);
            assert_eq!(margins(&plain, CAR)[1], margins(&taught, CAR)[1]);
        }
    }

    #[test]
    fn where_texts_suffice_nothing_is_learned_unless_that_is_wanted() {
        let plain = scorer(Scoring::Independent, background());
        let mut set = examples(Learn::Auto);
        set.labels[0].counter_examples = vec![vec![0.0, 1.0, 0.0, 0.0]];
        let same = plain.clone().learning(&set).unwrap();
        let told = same.learned_labels();
        assert!(!told[0].is_used && told[0].by_texts == 1.0, "{told:?}");
        assert_eq!(margins(&same, NOT), margins(&plain, NOT));
        set.labels[0].learn = Learn::Always;
        assert_ne!(margins(&plain.clone().learning(&set).unwrap(), NOT), margins(&plain, NOT));
        let never = plain.clone().learning(&examples(Learn::Never)).unwrap();
        assert!(!never.learned_labels()[0].is_used && margins(&never, NOT) == margins(&plain, NOT));
        // Learning anew forgets what was learned.
        let again =
            plain.clone().learning(&examples(Learn::Always)).unwrap().learning(&SetExamples::default()).unwrap();
        assert_eq!(margins(&again, NOT), margins(&plain, NOT));
    }

    #[test]
    fn labels_that_exclude_one_another_are_told_from_one_another() {
        let of = |examples: &[[f32; 4]]| LabelExamples {
            examples: examples.iter().map(|one| one.to_vec()).collect(),
            similarity: Some(0.0),
            ..LabelExamples::default()
        };
        let car = of(&[[1.0, 0.0, 0.0, 0.0], [0.8, 0.0, 0.6, 0.0]]);
        let bus = of(&[[0.0, 1.0, 0.0, 0.0], [0.0, 0.8, 0.0, 0.6]]);
        let set = SetExamples { labels: vec![car, bus], counter_examples: Vec::new() };
        let same = scorer(Scoring::Exclusive, background()).learning(&set).unwrap();
        let told = same.learned_labels();
        assert!(told.iter().all(|one| one.by_texts == 1.0 && !one.is_used), "{told:?}");
    }

    #[test]
    fn what_is_unlike_all_examples_falls_with_each_hundredth() {
        let plain = scorer(Scoring::Independent, background());
        let mut set = examples(Learn::Never);
        set.labels[0].similarity = Some(0.9);
        let gated = plain.clone().learning(&set).unwrap();
        assert_eq!(margins(&gated, CAR), margins(&plain, CAR), "an example passes");
        // Its cosine with the nearest example is 0.48.
        let fallen = margins(&plain, NOT)[0] - margins(&gated, NOT)[0];
        assert!((fallen - 10.0 * (0.9 - 0.48)).abs() < 1e-4, "{fallen}");
    }

    #[test]
    fn without_a_similarity_it_lies_half_way_between_the_nearest_counter_example_and_the_same() {
        let plain = scorer(Scoring::Independent, background());
        let mut set = examples(Learn::Auto);
        set.labels[0].similarity = None;
        let taught = plain.clone().learning(&set).unwrap();
        let without = plain.clone().learning(&examples(Learn::Auto)).unwrap();
        assert_eq!(margins(&taught, CAR), margins(&without, CAR), "an example passes");
        // NOT has 0.48 with the nearest example: the least is 0.74, which it lacks 0.26 of.
        let fallen = margins(&without, NOT)[0] - margins(&taught, NOT)[0];
        assert!((fallen - 10.0 * 0.26).abs() < 1e-3, "{fallen}");
        assert_eq!(taught.learned_labels()[0].counter_margins, [margins(&taught, NOT)[0]]);
        set.labels[0].learn = Learn::Never;
        assert_eq!(margins(&plain.clone().learning(&set).unwrap(), NOT), margins(&plain, NOT));
    }

    #[test]
    fn of_a_tiled_example_the_best_tile_counts_and_of_a_counter_example_all() {
        let plain = scorer(Scoring::Independent, background());
        let nothing = [0.0, 0.0, 0.0, 1.0];
        let mut set = examples(Learn::Always);
        set.labels[0].examples = vec![[nothing, CAR].concat(), vec![0.5, 0.1, 0.85, 0.0]];
        let tiled = plain.clone().learning(&set).unwrap();
        assert_eq!(margins(&tiled, NOT), margins(&plain.clone().learning(&examples(Learn::Always)).unwrap(), NOT));
        set.labels[0].counter_examples = vec![[NOT, CAR].concat()];
        assert_eq!(plain.clone().learning(&set).map(drop).unwrap_err(), (0, LearnRefusal::Contradiction));
        set.labels[0].counter_examples = vec![vec![1.0; 3]];
        assert_eq!(plain.learning(&set).map(drop).unwrap_err(), (0, LearnRefusal::NotFinite));
    }

    #[test]
    fn a_label_without_rivals_among_the_texts_has_the_margin_that_it_learned() {
        let plain = scorer(Scoring::Independent, Array2::zeros((0, 4)));
        assert_eq!(margins(&plain, CAR)[0], f32::INFINITY);
        let taught = plain.learning(&examples(Learn::Always)).unwrap();
        assert!(
            margins(&taught, CAR)[0].is_finite() && margins(&taught, CAR)[0] > 0.0 && margins(&taught, NOT)[0] < 0.0
        );
        assert_eq!(margins(&taught, CAR)[1], f32::INFINITY);
    }

    /// Numbers that look random, of length 1, round one direction: pictures of one scene.
    fn scene(dim: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut values: Vec<f32> = (0..dim)
            .map(|at| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1 << 24) as f32 - 0.5 + if at % 3 == 0 { 0.7 } else { 0.0 }
            })
            .collect();
        let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
        values.iter_mut().for_each(|value| *value /= length);
        values
    }

    #[test]
    fn what_is_added_to_a_margin_is_what_the_discriminant_and_the_gate_say_in_32_bits() {
        // No gate, and one that not all pictures pass.
        for (dim, scale, similarity, bound) in [(64, 10.0, 0.0, 2e-3), (512, 100.0, 0.9, 1e-2)] {
            let far = farthest(dim, scale, similarity);
            assert!(far < bound, "{dim} values, scale {scale}: {far}");
        }
    }

    /// The largest difference between what is added to a margin, and the same in 32 and 64 bits.
    fn farthest(dim: usize, scale: f32, similarity: f32) -> f64 {
        let scene = |seed| scene(dim, seed);
        let scenes = |first: u64, count: u64| (first..first + count).map(scene).collect::<Vec<_>>();
        let label = |name: &str, seed| LabelEmbeddings {
            name: name.into(),
            prompts: Array2::from_shape_vec((1, dim), scene(seed)).unwrap(),
            negatives: Array2::zeros((0, dim)),
        };
        let background = Array2::from_shape_vec((1, dim), scene(902)).unwrap();
        let block = Block { labels: vec![label("car", 900), label("bus", 901)], background };
        let set = SetEmbeddings { name: "s".into(), scoring: Scoring::Exclusive, blocks: vec![block] };
        let plain = Scorer::new(&set, LogitParameters { scale, ..CLIP }).unwrap();
        let of = |first| LabelExamples {
            examples: scenes(first, 8),
            counter_examples: scenes(first + 20, 8),
            learn: Learn::Always,
            similarity: Some(similarity),
        };
        let set = SetExamples { labels: vec![of(0), of(100)], counter_examples: Vec::new() };
        let classes: Vec<LabelClass<'_>> = set
            .labels
            .iter()
            .map(|one| LabelClass { examples: &one.examples, counter_examples: &one.counter_examples })
            .collect();
        let discriminant = Discriminant::learn(&classes, &[]).unwrap();
        let taught = plain.clone().learning(&set).unwrap();
        let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let mut far = 0.0_f64;
        for seed in (0..8).chain(20..28).chain(500..520) {
            let one = scene(seed);
            let embedding = ArrayView1::from(&one);
            let gains = discriminant.gains(&discriminant.weights().dot(&embedding).to_vec()).collect::<Vec<_>>();
            let both = plain.score(embedding).into_iter().zip(taught.score(embedding));
            for (((before, after), gain), label) in both.zip(gains).zip(&set.labels) {
                let nearest = label.examples.iter().map(|example| cosine(example, &one)).fold(-1.0, f64::max);
                let gate =
                    if similarity > 0.0 { f64::from(scale) * (nearest - f64::from(similarity)).min(0.0) } else { 0.0 };
                let added = f64::from(after.margin) - f64::from(before.margin);
                far = far.max((added - gain - gate).abs());
            }
        }
        far
    }
}
