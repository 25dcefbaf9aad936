//! One label's threshold from samples that a person has spoken of.
//!
//! In: margins with how often each counts, those where the label was seen and those where it was not. Out: `enter` and `exit` as margins, or
//! why there are none. Pure, in f64; nothing is kept. Bounded by what comes in; sorted once.

use crate::score::margin;

/// A margin, and how many samples have it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weighted {
    pub margin: f32,
    pub count: u64,
}

/// Where the label is not seen: fewer say too little of what it looks like.
pub const MIN_NOT_SEEN: u64 = 10;
/// Where it is seen. None at all is another matter: then the threshold is [cautious](Fit::cautious).
pub const MIN_SEEN: u64 = 3;
/// A cautious threshold is never below this score, the default `enter`.
const CAUTIOUS_PROBABILITY: f64 = 0.6;
/// By how much a cautious one is above everything that was not it, at least: a margin …
const CAUTIOUS_ROOM: f64 = 0.5;
/// … or so many median absolute deviations.
const CAUTIOUS_DEVIATIONS: f64 = 3.0;
/// `exit` is below `enter` by this share of what lies between `enter` and the usual sample without the label.
const HYSTERESIS: f64 = 0.25;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// Margins; `exit ≤ enter`.
    pub enter: f32,
    pub exit: f32,
    /// ½ (share of the seen at or above `enter` + share of the others below it), of these samples.
    pub balanced_accuracy: f64,
    /// No sample had the label: `enter` lies above everything that was not it.
    pub cautious: bool,
    pub seen: u64,
    pub not_seen: u64,
    /// The lowest and the highest margin without the label.
    pub not_seen_range: (f32, f32),
}

/// Why there is no threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FitRefusal {
    #[error(
        "nothing is marked as without it: mark some seconds in which it is not there (`absent`, or `empty` for all labels)"
    )]
    NoNotSeen,
    #[error(
        "{0} samples are marked as without it, at least {MIN_NOT_SEEN} are needed: mark a longer time in which it is not there"
    )]
    FewNotSeen(u64),
    #[error(
        "{0} of its samples are marked as seen, at least {MIN_SEEN} are needed (none at all makes a cautious threshold): mark a longer time"
    )]
    FewSeen(u64),
    #[error(
        "it has nothing to be compared with, or its scores are no numbers: give the set a `background`, or the label `negatives`"
    )]
    NotFinite,
    #[error(
        "no sample that is kept lies in what is marked as seen: mark a longer time, a newer one, or sample more often (`sampling.interval`)"
    )]
    NoSampleSeen,
    #[error(
        "no sample that is kept lies in what is marked as without it: mark a longer time, a newer one, or sample more often (`sampling.interval`)"
    )]
    NoSampleNotSeen,
    #[error("the same moments are marked as with it and as without it")]
    Contradiction,
    #[error("the model does not tell the marked moments apart: other prompts, negatives or another view may")]
    Inseparable,
}

/// The threshold that tells `seen` from `not_seen` best, all samples of each together counting the same.
///
/// # Errors
/// Why there is none.
pub fn fit(seen: &[Weighted], not_seen: &[Weighted]) -> Result<Fit, FitRefusal> {
    let (seen, not_seen) = (counted(seen)?, counted(not_seen)?);
    let total = |samples: &[Weighted]| samples.iter().fold(0, |sum: u64, one| sum.saturating_add(one.count));
    let (seen_total, not_seen_total) = (total(&seen), total(&not_seen));
    let (Some(lowest), Some(highest)) = (not_seen.first(), not_seen.last()) else { return Err(FitRefusal::NoNotSeen) };
    if not_seen_total < MIN_NOT_SEEN {
        return Err(FitRefusal::FewNotSeen(not_seen_total));
    }
    let median = median(&not_seen);
    let not_seen_range = (lowest.margin, highest.margin);
    let (enter, balanced_accuracy, cautious) = match seen_total {
        0 => (cautious(&not_seen, median, highest.margin), 1.0, true),
        few if few < MIN_SEEN => return Err(FitRefusal::FewSeen(few)),
        _ => {
            let (enter, accuracy) = between(&seen, &not_seen).ok_or(FitRefusal::Inseparable)?;
            (enter, accuracy, false)
        }
    };
    let exit = (f64::from(enter) - HYSTERESIS * (f64::from(enter) - median).max(0.0)) as f32;
    let exit = exit.min(enter);
    Ok(Fit { enter, exit, balanced_accuracy, cautious, seen: seen_total, not_seen: not_seen_total, not_seen_range })
}

/// Sorted, those that count; an error for one that is no finite number.
fn counted(samples: &[Weighted]) -> Result<Vec<Weighted>, FitRefusal> {
    let mut samples: Vec<Weighted> = samples.iter().filter(|one| one.count > 0).copied().collect();
    if samples.iter().any(|one| !one.margin.is_finite()) {
        return Err(FitRefusal::NotFinite);
    }
    samples.sort_by(|a, b| a.margin.total_cmp(&b.margin));
    Ok(samples)
}

/// The threshold with the best balanced accuracy, and that. Where several are equally good: the middle of the widest gap between two
/// neighbouring margins, the higher of two equally wide ones. `None` if none is better than to say the same always.
fn between(seen: &[Weighted], not_seen: &[Weighted]) -> Option<(f32, f64)> {
    let total = |samples: &[Weighted]| samples.iter().map(|one| u128::from(one.count)).sum::<u128>();
    let (all_seen, all_not) = (total(seen), total(not_seen));
    let mut margins: Vec<f32> = seen.iter().chain(not_seen).map(|one| one.margin).collect();
    margins.sort_by(f32::total_cmp);
    margins.dedup();
    // Whole numbers, so that ties are ties: seen above · all not seen + not seen below · all seen.
    let mut best: Option<(u128, f32, f32)> = None;
    let (mut at_seen, mut at_not) = (0, 0);
    let (mut seen_below, mut not_below) = (0_u128, 0_u128);
    for pair in margins.windows(2) {
        let [low, high] = pair else { continue };
        while let Some(one) = seen.get(at_seen).filter(|one| one.margin <= *low) {
            (at_seen, seen_below) = (at_seen + 1, seen_below + u128::from(one.count));
        }
        while let Some(one) = not_seen.get(at_not).filter(|one| one.margin <= *low) {
            (at_not, not_below) = (at_not + 1, not_below + u128::from(one.count));
        }
        let right = (all_seen - seen_below).saturating_mul(all_not) + not_below.saturating_mul(all_seen);
        let width = f64::from(*high) - f64::from(*low);
        let is_better = best
            .is_none_or(|(best, from, to)| right > best || (right == best && width >= f64::from(to) - f64::from(from)));
        if is_better {
            best = Some((right, *low, *high));
        }
    }
    let (right, low, high) = best?;
    let accuracy = 0.5 * right as f64 / (all_seen as f64 * all_not as f64);
    // As good as a coin: to say always the same is that too.
    (right > all_seen.saturating_mul(all_not)).then(|| {
        let middle = (f64::midpoint(f64::from(low), f64::from(high))) as f32;
        // Between two neighbours there is no number: the upper one is at the threshold, which counts as above.
        (if middle > low { middle } else { high }, accuracy)
    })
}

/// Above everything that was not it.
fn cautious(not_seen: &[Weighted], median: f64, highest: f32) -> f32 {
    let deviation = |one: &Weighted| Weighted { margin: (f64::from(one.margin) - median).abs() as f32, ..*one };
    let mut deviations: Vec<Weighted> = not_seen.iter().map(deviation).collect();
    deviations.sort_by(|a, b| a.margin.total_cmp(&b.margin));
    let room = CAUTIOUS_ROOM.max(CAUTIOUS_DEVIATIONS * self::median(&deviations));
    f64::from(margin::margin(CAUTIOUS_PROBABILITY)).max(f64::from(highest) + room) as f32
}

/// Of sorted samples, at least one; between two middle ones their mean.
fn median(sorted: &[Weighted]) -> f64 {
    let total: u128 = sorted.iter().map(|one| u128::from(one.count)).sum();
    let number = |wanted: u128| {
        let mut before = 0_u128;
        let found = sorted.iter().find(|one| {
            before += u128::from(one.count);
            before > wanted
        });
        found.map_or(0.0, |one| f64::from(one.margin))
    };
    f64::midpoint(number(total.saturating_sub(1) / 2), number(total / 2))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn once(margins: &[f32]) -> Vec<Weighted> {
        margins.iter().map(|margin| Weighted { margin: *margin, count: 1 }).collect()
    }

    /// As the rule is written, without any thrift: every gap, every sample.
    fn reference(seen: &[f32], not_seen: &[f32]) -> Option<(f64, f64)> {
        let mut all: Vec<f64> = seen.iter().chain(not_seen).map(|m| f64::from(*m)).collect();
        all.sort_by(f64::total_cmp);
        all.dedup();
        let accuracy = |theta: f64| {
            let above = seen.iter().filter(|m| f64::from(**m) >= theta).count() as f64 / seen.len() as f64;
            let below = not_seen.iter().filter(|m| f64::from(**m) < theta).count() as f64 / not_seen.len() as f64;
            0.5 * (above + below)
        };
        let gaps: Vec<(f64, f64, f64)> = all
            .windows(2)
            .map(|pair| (accuracy(pair[1]), pair[1] - pair[0], f64::midpoint(pair[0], pair[1])))
            .collect();
        let best = gaps.iter().map(|gap| gap.0).fold(f64::NEG_INFINITY, f64::max);
        let ties = gaps.into_iter().filter(|gap| gap.0 > best - 1e-12);
        let widest = ties.max_by(|a, b| a.1.total_cmp(&b.1).then(a.2.total_cmp(&b.2)))?;
        (widest.0 > 0.5 + 1e-12).then_some((widest.2, widest.0))
    }

    #[test]
    fn two_clouds_are_parted_in_the_middle_of_the_gap_and_exit_is_a_quarter_of_the_way_back() {
        let fit = fit(&once(&[3.0, 4.0, 5.0]), &once(&[-2.0; 10])).unwrap();
        assert_eq!((fit.enter, fit.exit, fit.balanced_accuracy, fit.cautious), (0.5, -0.125, 1.0, false));
        assert_eq!((fit.seen, fit.not_seen, fit.not_seen_range), (3, 10, (-2.0, -2.0)));
    }

    #[test]
    fn without_anything_seen_the_threshold_is_above_all_that_was_not_it_and_never_below_the_default() {
        let calm = fit(&[], &once(&[-5.0; 10])).unwrap();
        assert!(calm.cautious && calm.enter == margin::margin(0.6), "{calm:?}");
        let high = fit(&[], &once(&[4.0; 10])).unwrap();
        assert_eq!((high.enter, high.exit), (4.5, 4.375));
        let wide: Vec<f32> = (0..11_u8).map(f32::from).collect();
        // The median is 5, half of the samples are within 3 of it.
        assert_eq!(fit(&[], &once(&wide)).unwrap().enter, 10.0 + 9.0);
    }

    #[test]
    fn what_says_too_little_is_refused_and_says_what_is_missing() {
        let few = once(&[-1.0; 9]);
        assert_eq!(fit(&once(&[1.0; 9]), &[]), Err(FitRefusal::NoNotSeen));
        assert_eq!(fit(&once(&[1.0; 9]), &few), Err(FitRefusal::FewNotSeen(9)));
        let enough = once(&[-1.0; 10]);
        assert_eq!(fit(&once(&[1.0]), &enough), Err(FitRefusal::FewSeen(1)));
        assert_eq!(fit(&once(&[1.0, 1.0]), &enough), Err(FitRefusal::FewSeen(2)));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(fit(&once(&[1.0, bad, 1.0]), &enough), Err(FitRefusal::NotFinite));
            assert_eq!(fit(&[], &once(&[bad; 12])), Err(FitRefusal::NotFinite));
        }
        // The wrong way round, and all the same.
        assert_eq!(fit(&once(&[-3.0; 5]), &enough), Err(FitRefusal::Inseparable));
        assert_eq!(fit(&once(&[-1.0; 5]), &enough), Err(FitRefusal::Inseparable));
        // One that stands for many is many; one that stands for none is none.
        let long = [Weighted { margin: -1.0, count: 10 }, Weighted { margin: f32::NAN, count: 0 }];
        assert!(fit(&once(&[1.0; 3]), &long).is_ok());
    }

    #[test]
    fn between_two_neighbouring_numbers_the_upper_one_is_the_threshold() {
        let low = 1.0_f32;
        let high = low.next_up();
        let fit = fit(&once(&[high; 3]), &once(&[low; 10])).unwrap();
        assert!(fit.enter > low && fit.enter <= high && fit.exit <= fit.enter, "{fit:?}");
    }

    prop_compose! {
        fn margins(least: usize)(values in prop::collection::vec(-40..40_i16, least..40)) -> Vec<f32> {
            values.into_iter().map(|value| f32::from(value) / 4.0).collect()
        }
    }

    proptest! {
        #[test]
        fn it_is_what_the_rule_says(seen in margins(3), not_seen in margins(10)) {
            match (fit(&once(&seen), &once(&not_seen)), reference(&seen, &not_seen)) {
                (Ok(found), Some((theta, accuracy))) => {
                    prop_assert!((f64::from(found.enter) - theta).abs() < 1e-6, "{} is not {theta}", found.enter);
                    prop_assert!((found.balanced_accuracy - accuracy).abs() < 1e-9);
                    let mut sorted = not_seen.clone();
                    sorted.sort_by(f32::total_cmp);
                    let half = sorted.len() / 2;
                    let median = if sorted.len() % 2 == 1 { sorted[half] } else { f32::midpoint(sorted[half - 1], sorted[half]) };
                    let exit = theta - 0.25 * (theta - f64::from(median)).max(0.0);
                    prop_assert!((f64::from(found.exit) - exit).abs() < 1e-5);
                }
                (Err(FitRefusal::Inseparable), None) => {}
                other => prop_assert!(false, "{other:?}"),
            }
        }

        #[test]
        fn neither_the_order_nor_duplicates_of_everything_matter(seen in margins(3), not_seen in margins(10), times in 1..5_u64) {
            let plain = fit(&once(&seen), &once(&not_seen));
            let turned = |margins: &[f32]| margins.iter().rev().map(|m| Weighted { margin: *m, count: times }).collect::<Vec<_>>();
            let repeated = |margins: &[f32]| once(&margins.repeat(usize::try_from(times).unwrap()));
            let (counted, repeated) = (fit(&turned(&seen), &turned(&not_seen)), fit(&repeated(&seen), &repeated(&not_seen)));
            prop_assert_eq!(counted, repeated);
            prop_assert_eq!(plain.map(|fit| (fit.enter, fit.exit)), counted.map(|fit| (fit.enter, fit.exit)));
            prop_assert_eq!(plain.map(|fit| fit.seen * times), counted.map(|fit| fit.seen));
        }

        #[test]
        fn where_there_is_a_gap_the_threshold_stays_in_it(
            below in prop::collection::vec(-300.0..1.0_f32, 10..50), above in prop::collection::vec(1.0..300.0_f32, 3..50),
        ) {
            let low = below.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let high = above.iter().copied().fold(f32::INFINITY, f32::min);
            let fit = fit(&once(&above), &once(&below)).unwrap();
            prop_assert!(low < fit.enter && fit.enter <= high && fit.exit <= fit.enter);
            prop_assert_eq!(fit.balanced_accuracy, 1.0);
        }

        #[test]
        fn a_monotone_transform_changes_no_decision_where_one_threshold_is_best(seen in margins(3), not_seen in margins(10)) {
            let bent = |m: f32| m * m * m + 3.0 * m;
            let bend = |margins: &[f32]| margins.iter().map(|m| bent(*m)).collect::<Vec<_>>();
            let (plain, curved) = (fit(&once(&seen), &once(&not_seen)), fit(&once(&bend(&seen)), &once(&bend(&not_seen))));
            prop_assert_eq!(plain.map(|fit| fit.balanced_accuracy), curved.map(|fit| fit.balanced_accuracy));
            // Scaled and moved, the widest gap stays the widest: nothing at all is decided otherwise.
            let moved = |margins: &[f32]| margins.iter().map(|m| 2.0 * m + 8.0).collect::<Vec<_>>();
            let moved = fit(&once(&moved(&seen)), &once(&moved(&not_seen)));
            prop_assert_eq!(plain.map(|fit| 2.0 * fit.enter + 8.0), moved.map(|fit| fit.enter));
        }
    }
}
