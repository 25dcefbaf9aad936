//! The scorer on hand-made embeddings, and properties that hold for any.

use ndarray::{Array1, array};
use proptest::prelude::*;

use super::*;

const CLIP: LogitParameters = LogitParameters { scale: 10.0, bias: 0.0, activation: Activation::Softmax };
const SIGLIP: LogitParameters = LogitParameters { scale: 10.0, bias: -5.0, activation: Activation::Sigmoid };

fn label(name: &str, prompts: Array2<f32>, negatives: Array2<f32>) -> LabelEmbeddings {
    LabelEmbeddings { name: name.into(), prompts, negatives }
}

fn set(scoring: Scoring, background: Array2<f32>) -> SetEmbeddings {
    let none = Array2::zeros((0, 2));
    let labels = vec![label("x", array![[1.0, 0.0], [0.6, 0.8]], none.clone()), label("y", array![[0.0, 1.0]], none)];
    SetEmbeddings { name: "s".into(), scoring, blocks: vec![Block { labels, background }] }
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
    s.blocks[0].labels[0].negatives = array![[1.0, 0.0]];
    s.blocks[0].labels[1].negatives = array![[-1.0, 0.0]];
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
            let logit_parameters = LogitParameters { scale, ..CLIP };
            let scorer = Scorer::new(&set(scoring, array![[0.8, -0.6]]), logit_parameters).unwrap();
            let scores = scorer.score(Array1::from(vec![angle.cos(), angle.sin()]).view());
            prop_assert!(scores.iter().all(|s| (0.0..=1.0).contains(s)));
            if scoring == Scoring::Exclusive {
                prop_assert!(scores.iter().sum::<f32>() <= 1.0001);
            }
        }
    }
}

#[test]
fn blocks_with_other_labels_are_refused_and_so_is_a_set_without_any() {
    let mut s = set(Scoring::Exclusive, Array2::zeros((0, 2)));
    let mut shorter = s.blocks[0].clone();
    shorter.labels.pop();
    s.blocks.push(shorter);
    assert!(Scorer::new(&s, CLIP).is_err());
    s.blocks.clear();
    assert!(Scorer::new(&s, CLIP).is_err());
}

#[test]
fn an_ensemble_of_probabilities_is_the_mean_of_what_each_template_scores() {
    // Softmax is not linear: the mean of the embeddings scores differently.
    let one = Block {
        labels: vec![
            label("x", array![[1.0, 0.0]], Array2::zeros((0, 2))),
            label("y", array![[0.0, 1.0]], Array2::zeros((0, 2))),
        ],
        background: Array2::zeros((0, 2)),
    };
    let mut other = one.clone();
    other.labels.reverse();
    let s = SetEmbeddings { name: "s".into(), scoring: Scoring::Exclusive, blocks: vec![one.clone(), one, other] };
    let scores = Scorer::new(&s, CLIP).unwrap().score(array![1.0, 0.0].view());
    let (high, low) = (10f32.exp() / (10f32.exp() + 1.0), 1.0 / (10f32.exp() + 1.0));
    assert!(close(&scores, &[(2.0 * high + low) / 3.0, (2.0 * low + high) / 3.0]), "{scores:?}");
}

/// Rows on the unit circle.
fn circle(angles: &[f32]) -> Array2<f32> {
    Array2::from_shape_fn(
        (angles.len(), 2),
        |(row, column)| {
            if column == 0 { angles[row].cos() } else { angles[row].sin() }
        },
    )
}

/// Two labels, one with two prompts, one with a negative, and maybe a background prompt.
fn block(angles: [f32; 5], background: bool) -> Block {
    Block {
        labels: vec![
            label("x", circle(&angles[..2]), Array2::zeros((0, 2))),
            label("y", circle(&angles[2..3]), circle(&angles[3..4])),
        ],
        background: circle(if background { &angles[4..] } else { &[] }),
    }
}

fn scores(blocks: &[Block], scoring: Scoring, logit_parameters: LogitParameters, angle: f32) -> Vec<f32> {
    let set = SetEmbeddings { name: "s".into(), scoring, blocks: blocks.to_vec() };
    Scorer::new(&set, logit_parameters).unwrap().score(circle(&[angle]).row(0))
}

proptest! {
    #[test]
    fn ensembles_of_probabilities_are_probabilities_and_know_no_order(
        templates in prop::collection::vec(prop::array::uniform5(0.0f32..6.3), 1..6),
        angle in 0.0f32..6.3,
        scale in 0.1f32..200.0,
        background: bool,
    ) {
        let blocks: Vec<Block> = templates.iter().map(|angles| block(*angles, background)).collect();
        let reversed: Vec<Block> = blocks.iter().rev().cloned().collect();
        for logit_parameters in [LogitParameters { scale, ..CLIP }, LogitParameters { scale, ..SIGLIP }] {
            for scoring in [Scoring::Exclusive, Scoring::Independent] {
                let all = scores(&blocks, scoring, logit_parameters, angle);
                prop_assert!(all.iter().all(|s| (0.0..=1.0).contains(s)), "{all:?}");
                if scoring == Scoring::Exclusive {
                    prop_assert!(all.iter().sum::<f32>() <= 1.0001, "{all:?}");
                }
                prop_assert!(close(&all, &scores(&reversed, scoring, logit_parameters, angle)));
                let mut mean = vec![0.0; 2];
                for block in &blocks {
                    let one = scores(std::slice::from_ref(block), scoring, logit_parameters, angle);
                    mean.iter_mut().zip(one).for_each(|(sum, score)| *sum += score / blocks.len() as f32);
                }
                prop_assert!(close(&all, &mean), "{all:?} {mean:?}");
            }
        }
    }

    #[test]
    fn equal_templates_score_as_one(
        angles in prop::array::uniform5(0.0f32..6.3),
        angle in 0.0f32..6.3,
        count in 1usize..9,
    ) {
        let one = block(angles, true);
        for scoring in [Scoring::Exclusive, Scoring::Independent] {
            let many = scores(&vec![one.clone(); count], scoring, CLIP, angle);
            prop_assert!(close(&many, &scores(std::slice::from_ref(&one), scoring, CLIP, angle)));
        }
    }
}

#[test]
fn a_label_is_near_the_background_if_nothing_else_of_the_set_is_nearer() {
    let none = Array2::zeros((0, 2));
    let set = |labels: Vec<LabelEmbeddings>, background: Array2<f32>| {
        let blocks = vec![Block { labels, background }];
        Scorer::new(&SetEmbeddings { name: "s".into(), scoring: Scoring::Exclusive, blocks }, CLIP).unwrap()
    };
    let background = || array![[0.0, 1.0]];
    let (x, y) = (array![[1.0, 0.0]], array![[0.1, 0.99]]);
    let pair = |negatives: Array2<f32>| vec![label("x", x.clone(), none.clone()), label("y", y.clone(), negatives)];
    assert_eq!(set(pair(none.clone()), background()).near_background(), [1]);
    // A negative, or a text of its own, that is nearer yet.
    assert!(set(pair(array![[0.11, 0.989]]), background()).near_background().is_empty());
    let own = vec![label("x", x.clone(), none.clone()), label("y", array![[0.6, 0.8], [0.61, 0.79]], none.clone())];
    assert!(set(own, background()).near_background().is_empty());
    // Nothing to be near to, and nothing to compare with.
    assert!(set(pair(none.clone()), none.clone()).near_background().is_empty());
    assert!(set(vec![label("y", y.clone(), none.clone())], background()).near_background().is_empty());
    // More texts than are compared at once.
    let many: Vec<_> = (0..200).map(|n| label("l", array![[1.0, n as f32 * 1e-4]], none.clone())).collect();
    assert!(set(many, background()).near_background().is_empty());
    let mut many: Vec<_> = (0..200).map(|n| label("l", array![[1.0, n as f32 * 1e-4]], none.clone())).collect();
    many[150] = label("y", y, none);
    assert_eq!(set(many, background()).near_background(), [150]);
}
