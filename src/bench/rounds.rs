//! Measuring in rounds: every model at every batch size has a turn in each round, so that whatever else the box does
//! disturbs all alike. Comes in: encoders, pictures and a clock; goes out: rates and latencies. On the caller's thread; the clock
//! is a parameter, so nothing here waits.

use std::time::Duration;

use crate::infer::{ImageEncoder, InferError};

/// Turns that each pair gets within its time.
pub const ROUNDS: usize = 5;
/// Turns that a pair gets even if one of them took all its time: with less there is nothing in turn.
const LEAST_ROUNDS: usize = 2;
/// Runs of one pair are remembered up to here, then its turn is over: 8 MB, and far more than percentiles need.
const MOST_RUNS: usize = 1 << 19;

/// What one model did at one batch size.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Speed {
    /// Index of the model.
    pub model: usize,
    pub batch: usize,
    pub runs: usize,
    /// Pictures of all runs by the time of all runs.
    pub images_per_second: f64,
    /// The same for each round, to see how steady the box was.
    pub rounds: Vec<f64>,
    /// Time of one run over a whole batch, nearest rank.
    pub p50: Duration,
    pub p99: Duration,
}

/// One pair's runs so far.
struct Pair {
    model: usize,
    batch: usize,
    times: Vec<Duration>,
    rounds: Vec<f64>,
    spent: Duration,
}

/// Runs every one of `encoders` at every size of `batches` (none of them 0), in turn, each pair for about `budget`: at least one
/// run in each of two rounds. `pixels` holds as many pictures as the largest batch; `now` is the time since any moment. After each
/// turn `progress` is told how many of how many there were.
///
/// # Errors
/// The first run that fails.
pub fn run(
    encoders: &mut [impl ImageEncoder],
    batches: &[usize],
    budget: Duration,
    pixels: &[f32],
    now: &mut dyn FnMut() -> Duration,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Speed>, InferError> {
    let most = batches.iter().copied().max().unwrap_or(1).max(1);
    let picture = pixels.len() / most;
    let mut pairs: Vec<Pair> = batches
        .iter()
        .flat_map(|batch| (0..encoders.len()).map(move |model| (model, *batch)))
        .map(|(model, batch)| Pair { model, batch, times: Vec::new(), rounds: Vec::new(), spent: Duration::ZERO })
        .collect();
    let turns = pairs.len() * ROUNDS;
    let mut embeddings = Vec::new();
    for round in 0..ROUNDS {
        for (index, pair) in pairs.iter_mut().enumerate() {
            let wanted = budget.mul_f64((round + 1) as f64 / ROUNDS as f64);
            if round < LEAST_ROUNDS || pair.spent < wanted {
                let Some(encoder) = encoders.get_mut(pair.model) else { continue };
                let pixels = pixels.get(..picture * pair.batch).unwrap_or(pixels);
                let (before, runs_before) = (pair.spent, pair.times.len());
                loop {
                    let started = now();
                    encoder.encode(pixels, pair.batch, &mut embeddings)?;
                    let took = now().saturating_sub(started);
                    pair.spent += took;
                    pair.times.push(took);
                    if pair.spent >= wanted || pair.times.len() - runs_before >= MOST_RUNS / ROUNDS {
                        break;
                    }
                }
                pair.rounds.push(rate(pair.batch * (pair.times.len() - runs_before), pair.spent - before));
            }
            progress(round * (turns / ROUNDS) + index + 1, turns);
        }
    }
    Ok(pairs.into_iter().map(Pair::finish).collect())
}

impl Pair {
    fn finish(mut self) -> Speed {
        self.times.sort_unstable();
        let rank = |percent| nearest_rank(&self.times, percent).unwrap_or_default();
        Speed {
            model: self.model,
            batch: self.batch,
            runs: self.times.len(),
            images_per_second: rate(self.batch * self.times.len(), self.spent),
            p50: rank(50),
            p99: rank(99),
            rounds: self.rounds,
        }
    }
}

/// A clock that did not move in a run says nothing; the smallest step it could have made is taken.
fn rate(pictures: usize, time: Duration) -> f64 {
    pictures as f64 / time.max(Duration::from_nanos(1)).as_secs_f64()
}

/// The smallest of `sorted` values that at least `percent` of a hundred do not exceed; `None` of none. Always one that was
/// measured: with fewer than a hundred values the 99th percentile is the largest.
pub fn nearest_rank<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let rank = (sorted.len() * percent.min(100)).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;
    use crate::infer::Provider;

    /// An encoder that takes `each` for a picture and writes down its turns.
    struct Timed<'a> {
        name: char,
        each: Duration,
        world: &'a Mutex<World>,
    }

    #[derive(Default)]
    struct World {
        now: Duration,
        runs: Vec<(char, usize)>,
    }

    impl ImageEncoder for Timed<'_> {
        fn dim(&self) -> usize {
            1
        }

        fn provider(&self) -> Provider {
            Provider::Cpu
        }

        fn encode(&mut self, pixels: &[f32], count: usize, _: &mut Vec<f32>) -> Result<(), InferError> {
            assert_eq!(pixels.len(), 3 * count, "a batch is given its pictures and no others");
            let mut world = self.world.lock().unwrap();
            world.now += self.each * count as u32;
            world.runs.push((self.name, count));
            Ok(())
        }
    }

    fn measure(each: &[u64], batches: &[usize], budget: Duration) -> (Vec<Speed>, Vec<(char, usize)>, Vec<usize>) {
        let world = Mutex::new(World::default());
        let mut encoders: Vec<Timed<'_>> = each
            .iter()
            .zip('a'..)
            .map(|(each, name)| Timed { name, each: Duration::from_millis(*each), world: &world })
            .collect();
        let pixels = vec![0.0; 3 * batches.iter().max().unwrap()];
        let mut told = Vec::new();
        let speeds =
            run(&mut encoders, batches, budget, &pixels, &mut || world.lock().unwrap().now, &mut |done, total| {
                assert_eq!(total, each.len() * batches.len() * ROUNDS);
                told.push(done);
            });
        (speeds.unwrap(), world.into_inner().unwrap().runs, told)
    }

    #[test]
    fn models_take_turns_at_every_batch_size_in_every_round() {
        let (speeds, runs, told) = measure(&[10, 20], &[1, 4], Duration::from_millis(400));
        let mut turns = runs.clone();
        turns.dedup();
        let round = [('a', 1), ('b', 1), ('a', 4), ('b', 4)];
        assert_eq!(turns, round.repeat(ROUNDS));
        assert_eq!(told, (1..=20).collect::<Vec<_>>());
        let rates: Vec<f64> = speeds.iter().map(|s| s.images_per_second.round()).collect();
        assert_eq!(rates, [100.0, 50.0, 100.0, 50.0]);
        assert_eq!((speeds[2].model, speeds[2].batch, speeds[2].p50), (0, 4, Duration::from_millis(40)));
        assert!(speeds.iter().all(|s| s.rounds.len() == ROUNDS));
    }

    #[test]
    fn a_run_longer_than_its_whole_time_still_comes_in_two_rounds_and_no_more() {
        let (speeds, runs, told) = measure(&[10_000, 1], &[1], Duration::from_millis(10));
        assert_eq!(speeds[0].runs, 2);
        assert_eq!(runs[0].0, 'a');
        assert_eq!(runs.iter().filter(|(name, _)| *name == 'a').count(), 2);
        assert_eq!(speeds[1].runs, 10);
        assert_eq!(told.last(), Some(&10));
    }

    #[test]
    fn the_99th_percentile_of_few_values_is_the_largest() {
        assert_eq!(nearest_rank(&[1, 2, 3], 99), Some(3));
        assert_eq!(nearest_rank(&[1, 2, 3, 4], 50), Some(2));
        assert_eq!(nearest_rank(&[7], 0), Some(7));
        assert_eq!(nearest_rank::<u8>(&[], 50), None);
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!((nearest_rank(&hundred, 50), nearest_rank(&hundred, 99)), (Some(50), Some(99)));
    }

    proptest! {
        #[test]
        fn a_percentile_is_a_value_that_so_many_do_not_exceed(
            mut values in prop::collection::vec(0_u32..50, 1..300), percent in 1_usize..=100
        ) {
            values.sort_unstable();
            let found = nearest_rank(&values, percent).unwrap();
            let at_most = values.iter().filter(|v| **v <= found).count();
            let below = values.iter().filter(|v| **v < found).count();
            prop_assert!(at_most * 100 >= percent * values.len());
            prop_assert!(below * 100 < percent * values.len());
        }
    }
}
