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

/// The probabilities of an embedding.
fn of(scorer: &Scorer, embedding: ArrayView1<'_, f32>) -> Vec<f32> {
    scorer.score(embedding).into_iter().map(LabelScore::probability).collect()
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
}

#[test]
fn exclusive_scores_are_a_softmax_over_labels_and_background() {
    let scorer = Scorer::new(&set(Scoring::Exclusive, array![[-1.0, 0.0]]), CLIP).unwrap();
    let scores = of(&scorer, array![1.0, 0.0].view());
    let z = 10f32.exp() + 1.0 + (-10f32).exp();
    assert!(close(&scores, &[10f32.exp() / z, 1.0 / z]), "{scores:?}");
}

#[test]
fn a_label_takes_the_best_of_its_prompts() {
    let scorer = Scorer::new(&set(Scoring::Exclusive, Array2::zeros((0, 2))), CLIP).unwrap();
    let scores = of(&scorer, array![0.6, 0.8].view());
    assert!(close(&scores[..1], &[1.0 / (1.0 + (8f32 - 10.0).exp())]), "{scores:?}");
}

#[test]
fn independent_scores_do_not_compete_with_each_other() {
    let scorer = Scorer::new(&set(Scoring::Independent, array![[-1.0, 0.0]]), CLIP).unwrap();
    let both = (0.5f32).sqrt();
    let scores = of(&scorer, array![both, both].view());
    assert!(scores.iter().all(|s| *s > 0.99), "{scores:?}");
}

#[test]
fn a_sigmoid_model_without_competitors_gives_its_own_probability() {
    let scorer = Scorer::new(&set(Scoring::Independent, Array2::zeros((0, 2))), SIGLIP).unwrap();
    let scores = of(&scorer, array![0.0, 1.0].view());
    assert!(close(&scores[1..], &[1.0 / (1.0 + (-5f32).exp())]), "{scores:?}");
}

#[test]
fn negatives_compete_only_with_their_own_label_when_independent() {
    let mut s = set(Scoring::Independent, Array2::zeros((0, 2)));
    s.blocks[0].labels[0].negatives = array![[1.0, 0.0]];
    s.blocks[0].labels[1].negatives = array![[-1.0, 0.0]];
    let scores = of(&Scorer::new(&s, CLIP).unwrap(), array![1.0, 0.0].view());
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
            let scores = of(&scorer, Array1::from(vec![angle.cos(), angle.sin()]).view());
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
    let scores = of(&Scorer::new(&s, CLIP).unwrap(), array![1.0, 0.0].view());
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
    of(&Scorer::new(&set, logit_parameters).unwrap(), circle(&[angle]).row(0))
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

/// The margin as its definition says, in f64 and with nothing shared: of one label among (own logit, logits of its rivals).
fn defined(own: f64, rivals: &[f64]) -> f64 {
    let top = rivals.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    own - (top + rivals.iter().map(|rival| (rival - top).exp()).sum::<f64>().ln())
}

/// Logits of the angles' rows of one block for a picture at `angle`: of each prompt of x, of y, its negative, the background.
fn logits(angles: [f32; 5], angle: f32, parameters: LogitParameters) -> [f64; 5] {
    angles
        .map(|own| (f64::from(own) - f64::from(angle)).cos() * f64::from(parameters.scale) + f64::from(parameters.bias))
}

/// Margins of both labels of [`block`].
fn defined_margins(
    angles: [f32; 5],
    angle: f32,
    scoring: Scoring,
    parameters: LogitParameters,
    background: bool,
) -> [f64; 2] {
    let [x1, x2, y, not_y, empty] = logits(angles, angle, parameters);
    let x = x1.max(x2);
    let empty: &[f64] = if background { &[empty] } else { &[] };
    let with = |rivals: &[f64]| [rivals, empty].concat();
    match scoring {
        Scoring::Exclusive => [defined(x, &with(&[y, not_y])), defined(y, &with(&[x, not_y]))],
        Scoring::Independent if !background && parameters.activation == Activation::Sigmoid => {
            [x, defined(y, &[not_y])]
        }
        Scoring::Independent if !background => [f64::INFINITY, defined(y, &[not_y])],
        Scoring::Independent => [defined(x, empty), defined(y, &with(&[not_y]))],
    }
}

/// f32 cosines and logits carry no more.
fn is_near(margin: f32, wanted: f64, scale: f32) -> bool {
    f64::from(margin) == wanted || (f64::from(margin) - wanted).abs() < 2e-6 * f64::from(scale) + 1e-5
}

proptest! {
    #[test]
    fn margins_are_what_their_definition_says(
        angles in prop::array::uniform5(0.0f32..6.3),
        angle in 0.0f32..6.3,
        scale in 0.1f32..200.0,
        background: bool,
    ) {
        for parameters in [LogitParameters { scale, ..CLIP }, LogitParameters { scale, ..SIGLIP }] {
            for scoring in [Scoring::Exclusive, Scoring::Independent] {
                let set = SetEmbeddings { name: "s".into(), scoring, blocks: vec![block(angles, background)] };
                let told = Scorer::new(&set, parameters).unwrap().score(circle(&[angle]).row(0));
                let wanted = defined_margins(angles, angle, scoring, parameters, background);
                for (told, wanted) in told.iter().zip(wanted) {
                    prop_assert!(is_near(told.margin, wanted, scale), "{scoring:?} {} {wanted}", told.margin);
                    let probability = 1.0 / (1.0 + (-wanted).exp());
                    prop_assert!((f64::from(told.probability()) - probability).abs() < 1e-6 * f64::from(scale) + 1e-5);
                }
            }
        }
    }

    #[test]
    fn the_margin_of_an_ensemble_is_the_logit_of_the_mean(
        templates in prop::collection::vec(prop::array::uniform5(0.0f32..6.3), 1..6),
        angle in 0.0f32..6.3,
        scale in 0.1f32..15.0,
    ) {
        for parameters in [LogitParameters { scale, ..CLIP }, LogitParameters { scale, ..SIGLIP }] {
            for scoring in [Scoring::Exclusive, Scoring::Independent] {
                let blocks = templates.iter().map(|angles| block(*angles, true)).collect();
                let set = SetEmbeddings { name: "s".into(), scoring, blocks };
                let told = Scorer::new(&set, parameters).unwrap().score(circle(&[angle]).row(0));
                for (label, told) in told.iter().enumerate() {
                    let margins = templates.iter().map(|a| defined_margins(*a, angle, scoring, parameters, true)[label]);
                    let count = templates.len() as f64;
                    let mean = margins.clone().map(|m| 1.0 / (1.0 + (-m).exp())).sum::<f64>() / count;
                    let counter = margins.map(|m| 1.0 / (1.0 + m.exp())).sum::<f64>() / count;
                    prop_assert!(is_near(told.margin, (mean / counter).ln(), scale), "{} {mean}", told.margin);
                }
            }
        }
    }

    #[test]
    fn the_best_rival_has_the_highest_logit_of_those_that_count(
        angles in prop::array::uniform5(0.0f32..6.3),
        angle in 0.0f32..6.3,
        background: bool,
    ) {
        // Labels x and y, the negative of y, the background.
        let [x1, x2, y, not_y, empty] = logits(angles, angle, CLIP);
        let classes = [x1.max(x2), y, not_y, empty];
        let count = if background { 4 } else { 3 };
        for (scoring, of_x, of_y) in [
            (Scoring::Exclusive, vec![1, 2, 3], vec![0, 2, 3]),
            (Scoring::Independent, vec![3], vec![2, 3]),
        ] {
            let set = SetEmbeddings { name: "s".into(), scoring, blocks: vec![block(angles, background); 2] };
            let told = Scorer::new(&set, CLIP).unwrap().score(circle(&[angle]).row(0));
            for (told, rivals) in told.iter().zip([of_x, of_y]) {
                let rivals = rivals.into_iter().filter(|rival| *rival < count);
                let best = rivals.max_by(|a, b| classes[*a].total_cmp(&classes[*b]));
                match (told.rival, best) {
                    (None, None) => {}
                    // Two that are as good as equal may be told either way.
                    (Some(Rival(told)), Some(best)) => {
                        prop_assert!((classes[told as usize] - classes[best]).abs() < 1e-4, "{told} {best}");
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
        }
    }
}

#[test]
fn margins_go_on_where_probabilities_have_rounded_to_one() {
    let parameters = LogitParameters { scale: 100.0, ..CLIP };
    let set = set(Scoring::Exclusive, array![[-1.0, 0.0]]);
    let scorer = Scorer::new(&set, parameters).unwrap();
    let [near, far] = [0.3f32, 0.1].map(|angle| scorer.score(array![angle.cos(), angle.sin()].view())[0]);
    assert_eq!((near.probability(), far.probability()), (1.0, 1.0));
    assert!(near.margin > 17.0 && far.margin > near.margin + 10.0, "{near:?} {far:?}");
}

#[test]
fn a_label_with_nothing_to_be_compared_with_has_no_margin_and_no_rival() {
    let mut alone = set(Scoring::Exclusive, Array2::zeros((0, 2)));
    alone.blocks[0].labels.pop();
    for scoring in [Scoring::Exclusive, Scoring::Independent] {
        let set = SetEmbeddings { scoring, ..alone.clone() };
        let score = Scorer::new(&set, CLIP).unwrap().score(array![0.0, 1.0].view())[0];
        assert_eq!((score.margin, score.probability(), score.rival), (f32::INFINITY, 1.0, None));
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

#[test]
fn a_background_row_without_a_direction_is_no_rival_also_where_no_text_fits_the_picture() {
    for (scoring, model) in [(Scoring::Exclusive, SIGLIP), (Scoring::Independent, SIGLIP), (Scoring::Exclusive, CLIP)] {
        let with = Scorer::new(&set(scoring, array![[0.8, 0.6], [0.0, 0.0]]), model).unwrap();
        let without = Scorer::new(&set(scoring, array![[0.8, 0.6]]), model).unwrap();
        let picture = array![-0.6, -0.8];
        assert_eq!(with.score(picture.view()), without.score(picture.view()), "{scoring:?}");
        assert_eq!(with.near_background(), without.near_background());
    }
}
