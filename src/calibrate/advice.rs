//! Which moments, marked, would say most about a label's threshold.
//!
//! In: recordings, and the threshold if there is one. Out: a few unmarked moments, apart from one another: those nearest to the threshold
//! first, with the highest and some at random among them, since rates that were found on doubtful moments alone would be wrong. Pure: the
//! random ones are the same for the same recordings.

use serde::Serialize;

use super::Recording;
use super::marked_samples::{EDGE, joined};

/// Moments that are advised …
const MOST: usize = 6;
/// … of which so many are the nearest, and the highest; the rest is random.
const NEAREST: usize = 3;
const HIGHEST: usize = 1;
/// Seconds between two of them.
const APART: f64 = 5.0;

/// Why a moment is advised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    Nearest,
    Highest,
    Random,
}

/// An unmarked moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Moment {
    /// Index of the recording.
    pub recording: usize,
    pub at: f64,
    pub margin: f32,
    pub why: Why,
}

/// See the module. Without a threshold there are no nearest ones.
pub fn moments(recordings: &[Recording<'_>], enter: Option<f32>) -> Vec<Moment> {
    let unmarked: Vec<(usize, f64, f32)> = recordings.iter().enumerate().flat_map(unmarked).collect();
    let mut chosen: Vec<Moment> = Vec::new();
    let mut take = |candidates: &mut dyn Iterator<Item = &(usize, f64, f32)>, most: usize, why: Why| {
        let mut taken = 0;
        for (recording, at, margin) in candidates {
            if taken == most {
                break;
            }
            let is_apart = |one: &Moment| one.recording != *recording || (one.at - at).abs() >= APART;
            if chosen.iter().all(is_apart) {
                chosen.push(Moment { recording: *recording, at: *at, margin: *margin, why });
                taken += 1;
            }
        }
    };
    if let Some(enter) = enter {
        let mut near: Vec<&(usize, f64, f32)> = unmarked.iter().collect();
        near.sort_by(|a, b| (a.2 - enter).abs().total_cmp(&(b.2 - enter).abs()));
        take(&mut near.into_iter(), NEAREST, Why::Nearest);
    }
    let mut high: Vec<&(usize, f64, f32)> = unmarked.iter().collect();
    high.sort_by(|a, b| b.2.total_cmp(&a.2));
    take(&mut high.into_iter(), HIGHEST, Why::Highest);
    let mut random: Vec<(u64, &(usize, f64, f32))> =
        unmarked.iter().enumerate().map(|(at, one)| (mixed(at as u64), one)).collect();
    random.sort_by_key(|(key, _)| *key);
    take(&mut random.into_iter().map(|(_, one)| one), MOST - NEAREST - HIGHEST, Why::Random);
    chosen
}

/// The moments of a recording that no mark speaks of.
fn unmarked<'a>((at, recording): (usize, &'a Recording<'_>)) -> impl Iterator<Item = (usize, f64, f32)> + 'a {
    let marks: Vec<(f64, f64)> = recording.seen.iter().chain(recording.absent).copied().collect();
    let marks = joined(&marks);
    let is_free = move |moment: f64| {
        let next = marks.partition_point(|(_, to)| *to + EDGE < moment);
        marks.get(next).is_none_or(|(from, _)| moment < *from - EDGE)
    };
    let finite = recording.samples.iter().filter(|sample| sample.margin.is_finite());
    finite.map(move |sample| (at, sample.from, sample.margin)).filter(move |(_, moment, _)| is_free(*moment))
}

/// SplitMix64: numbers that look random, and are the same each time.
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
