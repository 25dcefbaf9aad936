//! Margin: by how much a label leads what it competes with, in logits. One-to-one with the probability that is its score, and exact
//! where that one rounds to 0 or 1. Thresholds are compared as margins; a threshold may be written as either. Pure.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// Index of a rival among all texts of a set that may be one: its labels in order, then the negatives of each label in order, then
/// its background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rival(pub u32);

/// What a [`Rival`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RivalKind {
    Label,
    Negative,
    Background,
}

/// A rival as people know it: a label's name, or a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRival {
    pub kind: RivalKind,
    pub name: String,
}

/// What one frame says of a label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelScore {
    /// The logit of the score: own logit minus log-sum-exp of the rivals that count. Infinite for a label that has none.
    pub margin: f32,
    /// The strongest of what it competes with.
    pub rival: Option<Rival>,
}

impl LabelScore {
    /// The score, 0..=1.
    pub fn probability(self) -> f32 {
        probability(self.margin)
    }

    /// The one with the larger margin; of two tiles, say.
    #[must_use]
    pub fn best(self, other: Self) -> Self {
        if other.margin > self.margin || self.margin.is_nan() { other } else { self }
    }
}

/// The margin of a probability: its logit. 0 and 1 are infinitely far out.
pub fn margin(probability: f64) -> f32 {
    (probability.ln() - (-probability).ln_1p()) as f32
}

/// The probability of a margin: its sigmoid.
pub fn probability(margin: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(margin)).exp())) as f32
}

/// Log of the sum of the exponentials of two logs.
pub(super) fn log_add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// `enter` or `exit`, as it was written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// 0..=1.
    Probability(f64),
    Margin(f64),
}

impl Threshold {
    /// What a sample's margin is compared with. A margin that was told compares equal when it is written down.
    pub fn margin(self) -> f32 {
        match self {
            Self::Probability(probability) => margin(probability),
            Self::Margin(margin) => margin as f32,
        }
    }

    pub fn probability(self) -> f64 {
        match self {
            Self::Probability(probability) => probability,
            Self::Margin(margin) => 1.0 / (1.0 + (-margin).exp()),
        }
    }
}

/// As a person writes it.
impl Serialize for Threshold {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Probability(probability) => serializer.serialize_f64(*probability),
            Self::Margin(margin) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("margin", margin)?;
                map.end()
            }
        }
    }
}

/// As a person writes it.
impl std::fmt::Display for Threshold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Probability(probability) => write!(f, "{probability}"),
            Self::Margin(margin) => write!(f, "{{ margin: {margin} }}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_probability_of_one_or_zero_is_infinitely_far_out_and_a_half_is_even() {
        assert_eq!((margin(1.0), margin(0.0), margin(0.5)), (f32::INFINITY, f32::NEG_INFINITY, 0.0));
        assert_eq!((probability(f32::INFINITY), probability(f32::NEG_INFINITY), probability(0.0)), (1.0, 0.0, 0.5));
        // In f32 both of these round to 1.
        assert!(probability(18.0) == 1.0 && probability(30.0) == 1.0);
        assert!(Threshold::Margin(18.0).margin() < Threshold::Margin(30.0).margin());
        assert!((margin(0.6) - 0.405_465_1).abs() < 1e-7);
    }

    #[test]
    fn the_better_of_two_is_the_one_that_leads_by_more_and_never_one_that_is_no_number() {
        let of = |margin| LabelScore { margin, rival: None };
        assert_eq!(of(1.0).best(of(2.0)).margin, 2.0);
        assert_eq!(of(f32::NAN).best(of(-9.0)).margin, -9.0);
        assert_eq!(of(-9.0).best(of(f32::NAN)).margin, -9.0);
    }

    proptest! {
        #[test]
        fn margin_and_probability_are_one_to_one(one in -30.0f64..30.0, other in -30.0f64..30.0) {
            let (a, b) = (Threshold::Margin(one), Threshold::Margin(other));
            let back = |threshold: Threshold| Threshold::Probability(threshold.probability());
            // There and back: within what an f64 probability can hold.
            prop_assert!((f64::from(back(a).margin()) - one).abs() < 1e-6 + 4e-16 * one.abs().exp());
            // Neither order nor hysteresis depends on how a threshold is written.
            if (one - other).abs() > 1e-3 {
                prop_assert_eq!(a.margin() < b.margin(), back(a).margin() < back(b).margin());
                prop_assert_eq!(one < other, a.probability() < b.probability());
            }
        }

        #[test]
        fn a_margin_that_was_told_is_met_by_the_same_sample_when_it_is_written_down(margin in -300.0f32..300.0) {
            let told: f64 = serde_json::from_str(&serde_json::to_string(&margin).unwrap()).unwrap();
            prop_assert_eq!(Threshold::Margin(told).margin(), margin);
        }

        #[test]
        fn a_sum_of_logs_is_the_log_of_the_sum(a in -50.0f64..50.0, b in -50.0f64..50.0) {
            prop_assert!((log_add(a, b) - (a.exp() + b.exp()).ln()).abs() < 1e-9);
            prop_assert_eq!(log_add(f64::NEG_INFINITY, b), b);
        }
    }
}
