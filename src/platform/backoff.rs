//! Waiting between attempts: a ladder of steps, each with jitter, that starts again at the bottom after a success.
//!
//! Pure: the same seed gives the same waits, and nothing here reads a clock. [`Backoff::wait`] is the one call that blocks,
//! on the caller's thread; it returns at once when shutdown is asked for.

use std::time::Duration;

use crate::platform::shutdown::Shutdown;

/// The steps of a back-off and what resets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    /// Waits before the second, third, … attempt; the last one repeats.
    pub steps: Vec<Duration>,
    /// How long things must go well before the ladder starts again at the bottom.
    pub stable: Duration,
}

impl Default for Ladder {
    /// 1, 2, 4, 8, 16, 32, then 60 s for ever; a good minute resets. Cameras need half a minute to start: much shorter waits
    /// only fill their connection tables, much longer ones keep people waiting.
    fn default() -> Self {
        Self::doubling(Duration::from_secs(1), Duration::from_secs(60), Duration::from_secs(60))
    }
}

impl Ladder {
    /// `first`, twice that, and so on up to `max`, at most 32 steps.
    pub fn doubling(first: Duration, max: Duration, stable: Duration) -> Self {
        let rising = std::iter::successors(Some(first), |step| step.checked_mul(2));
        let mut steps: Vec<_> = rising.take_while(|step| *step < max && !step.is_zero()).take(31).collect();
        steps.push(max);
        Self { steps, stable }
    }

    /// The same ladder with every time multiplied by `factor`, for tests.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        let scale = |d: &Duration| d.mul_f64(factor);
        Self { steps: self.steps.iter().map(scale).collect(), stable: scale(&self.stable) }
    }
}

/// Where one retried thing stands on its [`Ladder`].
#[derive(Clone, Debug)]
pub struct Backoff {
    ladder: Ladder,
    position: usize,
    state: u64,
}

impl Backoff {
    /// Each wait is spread by this part of itself, both ways, so that cameras behind one dead switch do not come back in step.
    pub const JITTER: f64 = 0.2;

    /// A back-off at the bottom of `ladder`; `seed` decides the jitter.
    pub fn new(ladder: Ladder, seed: u64) -> Self {
        Self { ladder, position: 0, state: seed }
    }

    /// The wait before the next attempt; climbs one step.
    pub fn next_wait(&mut self) -> Duration {
        let step = self.ladder.steps.get(self.position).or(self.ladder.steps.last()).copied().unwrap_or_default();
        self.position = (self.position + 1).min(self.ladder.steps.len());
        self.jitter(step)
    }

    /// The longest wait, for failures that trying sooner can only make worse (a refused password locks accounts).
    pub fn slow_wait(&mut self) -> Duration {
        self.position = self.ladder.steps.len();
        self.next_wait()
    }

    /// Tells how long things went well; after [`Ladder::stable`] the next wait is the first step again.
    pub fn went_well_for(&mut self, time: Duration) {
        if time >= self.ladder.stable {
            self.position = 0;
        }
    }

    /// Back to the bottom: what has ended was meant to.
    pub fn reset(&mut self) {
        self.position = 0;
    }

    /// Sleeps for `wait`. `true` if shutdown was asked for meanwhile.
    pub fn wait(wait: Duration, shutdown: &Shutdown) -> bool {
        shutdown.sleep(wait)
    }

    /// `step` with the jitter of a wait, for those who choose their steps themselves.
    pub fn spread(&mut self, step: Duration) -> Duration {
        self.jitter(step)
    }

    fn jitter(&mut self, step: Duration) -> Duration {
        // SplitMix64 (Steele, Lea, Flood 2014): enough randomness to keep cameras apart, and no dependency.
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let unit = ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
        step.mul_f64(1.0 + Self::JITTER * (2.0 * unit - 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nominal(wait: Duration, seconds: u64) -> bool {
        let low = Duration::from_secs(seconds).mul_f64(0.8);
        let high = Duration::from_secs(seconds).mul_f64(1.2);
        (low..=high).contains(&wait)
    }

    #[test]
    fn waits_double_up_to_a_minute_and_stay_there() {
        let mut backoff = Backoff::new(Ladder::default(), 7);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            let wait = backoff.next_wait();
            assert!(nominal(wait, seconds), "{wait:?} is not about {seconds} s");
        }
    }

    #[test]
    fn a_stable_minute_starts_the_ladder_again_and_less_does_not() {
        let mut backoff = Backoff::new(Ladder::default(), 7);
        for _ in 0..5 {
            backoff.next_wait();
        }
        backoff.went_well_for(Duration::from_secs(59));
        assert!(nominal(backoff.next_wait(), 32));
        backoff.went_well_for(Duration::from_secs(60));
        assert!(nominal(backoff.next_wait(), 1));
    }

    #[test]
    fn a_slow_wait_is_the_longest_and_keeps_the_ladder_at_the_top() {
        let mut backoff = Backoff::new(Ladder::default(), 7);
        assert!(nominal(backoff.slow_wait(), 60));
        assert!(nominal(backoff.next_wait(), 60));
    }

    #[test]
    fn a_wait_ends_at_once_when_shutdown_is_asked_for() {
        let (trigger, shutdown) = crate::platform::shutdown::channel();
        trigger.trigger();
        assert!(Backoff::wait(Duration::from_secs(3600), &shutdown));
    }

    #[test]
    fn a_ladder_doubles_from_its_first_step_to_its_last() {
        let ms = Duration::from_millis;
        assert_eq!(Ladder::doubling(ms(200), ms(1000), ms(0)).steps, [200, 400, 800, 1000].map(ms));
        assert_eq!(Ladder::doubling(ms(50), ms(50), ms(0)).steps, [ms(50)]);
        assert_eq!(Ladder::doubling(Duration::ZERO, ms(50), ms(0)).steps, [ms(50)]);
    }

    #[test]
    fn an_empty_ladder_never_waits() {
        let mut backoff = Backoff::new(Ladder { steps: vec![], stable: Duration::ZERO }, 1);
        assert_eq!(backoff.next_wait(), Duration::ZERO);
        assert_eq!(backoff.slow_wait(), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn jitter_stays_within_a_fifth_and_the_seed_decides_it(seed: u64, count in 1usize..40) {
            let ladder = Ladder { steps: vec![Duration::from_secs(10)], stable: Duration::ZERO };
            let mut one = Backoff::new(ladder.clone(), seed);
            let mut two = Backoff::new(ladder, seed);
            for _ in 0..count {
                let wait = one.next_wait();
                prop_assert!(nominal(wait, 10));
                prop_assert_eq!(wait, two.next_wait());
            }
        }
    }
}
