//! How many pictures of a batch to run at once. In: how long runs of each size took; out: the size. Pure, on the caller's thread.
//!
//! More pictures fill the cores' matrix kernels, until what passes between two operators no longer fits into the caches. Where
//! that is depends on the model and the processor: on one with 8-bit dot products ViT-H/14 in int8 gave 2.1 images/s in runs of one or two
//! pictures and 1.5 in runs of eight, on one without them 8-bit arithmetic is slow enough for size not to matter. So it is measured.

use std::time::Duration;

/// Rounds of measuring: the fastest counts, so that a moment's disturbance does not.
pub const ROUNDS: usize = 3;

/// What a smaller run must save of a picture's time: less may be chance, and fewer runs are simpler.
const WORTH: f64 = 0.05;

/// The fastest run of each size so far.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<(usize, Duration)>);

impl Times {
    /// Takes note of a run of `size` pictures.
    pub fn note(&mut self, size: usize, took: Duration) {
        match self.0.iter_mut().find(|(known, _)| *known == size) {
            Some((_, best)) => *best = took.min(*best),
            None => self.0.push((size, took)),
        }
    }

    /// How long a run of `size` pictures may take, by the slowest known picture; nothing before any run is known.
    pub fn expected(&self, size: usize) -> Duration {
        let slowest = self.0.iter().map(each).fold(0.0, f64::max);
        Duration::from_secs_f64(slowest * size as f64)
    }

    /// The size to run: the largest known one, or a smaller one that saves a twentieth or more of a picture's time.
    pub fn best(&self) -> Option<usize> {
        let largest = self.0.iter().max_by_key(|(size, _)| *size)?;
        let fastest = self.0.iter().min_by(|a, b| each(a).total_cmp(&each(b)))?;
        Some(if each(fastest) <= each(largest) * (1.0 - WORTH) { fastest.0 } else { largest.0 })
    }
}

/// Seconds a picture.
fn each((size, took): &(usize, Duration)) -> f64 {
    took.as_secs_f64() / (*size).max(1) as f64
}

/// Sizes worth trying for batches of up to `count`: powers of two, which cut most batches without a rest, and the whole.
pub fn sizes(count: usize) -> Vec<usize> {
    let mut sizes: Vec<usize> =
        std::iter::successors(Some(1_usize), |size| size.checked_mul(2)).take_while(|size| *size < count).collect();
    sizes.push(count);
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(of: &[(usize, u64)]) -> Option<usize> {
        let mut times = Times::default();
        of.iter().for_each(|(size, ms)| times.note(*size, Duration::from_millis(*ms)));
        times.best()
    }

    #[test]
    fn a_large_tower_whose_batches_leave_the_caches_is_run_in_small_chunks() {
        assert_eq!(best(&[(8, 5_300), (1, 500), (2, 950), (4, 2_300)]), Some(2));
    }

    #[test]
    fn a_batch_stays_whole_unless_a_twentieth_is_saved() {
        assert_eq!(best(&[(8, 800), (1, 110), (2, 192), (4, 385)]), Some(8));
        assert_eq!(best(&[(8, 800), (4, 379)]), Some(4));
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn a_disturbed_run_is_forgotten_when_a_faster_one_of_its_size_follows() {
        assert_eq!(best(&[(8, 2_000), (4, 400), (8, 800)]), Some(8));
        assert_eq!(best(&[(8, 800), (4, 2_000), (4, 330), (4, 900)]), Some(4));
    }

    #[test]
    fn a_run_is_expected_to_be_as_slow_as_the_slowest_known() {
        let mut times = Times::default();
        assert_eq!(times.expected(8), Duration::ZERO);
        times.note(1, Duration::from_millis(600));
        times.note(8, Duration::from_millis(4_000));
        assert_eq!(times.expected(4), Duration::from_millis(2_400));
    }

    #[test]
    fn powers_of_two_and_the_whole_batch_are_tried_once_each() {
        assert_eq!(sizes(8), [1, 2, 4, 8]);
        assert_eq!(sizes(6), [1, 2, 4, 6]);
        assert_eq!(sizes(2), [1, 2]);
    }
}
