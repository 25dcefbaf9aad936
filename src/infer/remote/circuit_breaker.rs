//! When a server is asked, and when it is left alone. Pure; time is a parameter.
//!
//! Closed: batches go to the server. Open: none do; it is tried again after a wait that grows from [`FIRST`] to [`MAX_WAIT`], with jitter, so
//! that boxes which lost one server together do not come back together. A connection that has been made closes it; only a batch that was
//! answered starts the waits again at the bottom.

use std::time::{Duration, Instant};

use crate::platform::backoff::{Backoff, Ladder};

/// A server that was only restarted is back at once, and a batch that waits for that is not lost.
const FIRST: Duration = Duration::from_millis(100);
/// After an outage nobody computes alone, or drops frames, for much longer than this.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Batches in a row that went wrong in some way which a single one may.
const FAILURES: u32 = 3;

/// See the module.
#[derive(Clone, Debug)]
pub struct CircuitBreaker {
    closed: bool,
    failures: u32,
    backoff: Backoff,
    next_try: Instant,
}

impl CircuitBreaker {
    /// Open, and to be tried at once; `seed` decides the jitter.
    pub fn new(seed: u64, now: Instant) -> Self {
        let backoff = Backoff::new(Ladder::doubling(FIRST, MAX_WAIT, Duration::ZERO), seed);
        Self { closed: false, failures: 0, backoff, next_try: now }
    }

    /// Whether batches go to the server.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// When it is to be tried again; `None` while batches go there.
    pub fn next_try(&self) -> Option<Instant> {
        (!self.closed).then_some(self.next_try)
    }

    /// A connection stands, and the probe agreed.
    pub fn connected(&mut self) {
        (self.closed, self.failures) = (true, 0);
    }

    /// There is no connection yet.
    pub fn not_connected(&mut self, now: Instant) {
        self.closed = false;
        self.next_try = now + self.backoff.next_wait();
    }

    /// The connection was closed while nothing was asked over it: another one may be made at once.
    pub fn closed_idle(&mut self, now: Instant) {
        (self.closed, self.next_try) = (false, now);
    }

    /// A batch was answered.
    pub fn answered(&mut self) {
        self.failures = 0;
        self.backoff.reset();
    }

    /// `wait` with the jitter of a wait.
    pub fn spread(&mut self, wait: Duration) -> Duration {
        self.backoff.spread(wait)
    }

    /// A batch was not; `at_once`: no other one is to be tried before it has connected again. Whether this opened it.
    pub fn failed(&mut self, at_once: bool, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        if !self.closed || !at_once && self.failures < FAILURES {
            return false;
        }
        self.not_connected(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_late_answer_is_forgiven_and_three_in_a_row_are_not() {
        let now = Instant::now();
        let mut breaker = CircuitBreaker::new(1, now);
        assert_eq!((breaker.is_closed(), breaker.next_try()), (false, Some(now)), "tried at once");
        breaker.connected();
        assert!(!breaker.failed(false, now) && !breaker.failed(false, now));
        breaker.answered();
        assert!(!breaker.failed(false, now) && !breaker.failed(false, now) && breaker.is_closed());
        assert!(breaker.failed(false, now));
        assert!(!breaker.is_closed() && breaker.next_try() > Some(now));
        assert!(!breaker.failed(false, now), "it is open already");
    }

    #[test]
    fn a_lost_connection_or_a_wrong_answer_needs_no_second_one() {
        let now = Instant::now();
        let mut breaker = CircuitBreaker::new(1, now);
        breaker.connected();
        assert!(breaker.failed(true, now));
        assert!(breaker.next_try().unwrap() <= now + FIRST.mul_f64(1.2));
    }

    #[test]
    fn in_place_of_a_connection_that_was_only_closed_another_one_is_tried_at_once() {
        let now = Instant::now();
        let mut breaker = CircuitBreaker::new(1, now);
        breaker.connected();
        breaker.closed_idle(now);
        assert_eq!((breaker.is_closed(), breaker.next_try()), (false, Some(now)));
        breaker.not_connected(now);
        assert!(breaker.next_try() > Some(now), "and then as ever");
    }

    #[test]
    fn waits_grow_until_a_batch_is_answered_and_a_connection_alone_does_not_shorten_them() {
        let now = Instant::now();
        let mut breaker = CircuitBreaker::new(7, now);
        let wait = |breaker: &CircuitBreaker| breaker.next_try().unwrap() - now;
        for _ in 0..10 {
            breaker.not_connected(now);
        }
        assert!(wait(&breaker) >= MAX_WAIT.mul_f64(0.8) && wait(&breaker) <= MAX_WAIT.mul_f64(1.2));
        breaker.connected();
        breaker.failed(true, now);
        assert!(wait(&breaker) >= MAX_WAIT.mul_f64(0.8), "it takes connections and answers nothing");
        breaker.connected();
        breaker.answered();
        breaker.failed(true, now);
        assert!(wait(&breaker) <= FIRST.mul_f64(1.2));
    }

    /// What a connection costs a server: what its model is (twice), and the probe alone and in two orders.
    const REQUESTS_OF_A_CONNECTION: u32 = 5;

    #[test]
    fn two_hundred_boxes_that_lost_a_server_for_half_a_minute_ask_at_most_twice_as_often_afterwards() {
        const BOXES: u64 = 200;
        // In hundredths of a second: a batch a second each, an outage from 60 s to 90 s, looked at for another minute.
        let (batch_every, outage, end) = (100, 6000..9000, 15_000_u64);
        let start = Instant::now();
        let at = |tick: u64| start + Duration::from_millis(tick * 10);
        for round in 0..5 {
            let mut asked = vec![0_u32; end as usize];
            for number in 0..BOXES {
                let mut breaker = CircuitBreaker::new(round * BOXES + number, start);
                // Their batches do not fall together, as those of cameras do not.
                let offset = (number * 37 + round * 11) % batch_every;
                for tick in 0..end {
                    let (up, now) = (!outage.contains(&tick), at(tick));
                    if breaker.next_try().is_some_and(|next| next <= now) {
                        asked[tick as usize] += if up { REQUESTS_OF_A_CONNECTION } else { 1 };
                        if up { breaker.connected() } else { breaker.not_connected(now) }
                    }
                    if tick % batch_every == offset && breaker.is_closed() {
                        asked[tick as usize] += 1;
                        if up {
                            breaker.answered();
                        } else {
                            breaker.failed(true, now);
                        }
                    }
                }
                assert!(breaker.is_closed(), "it is back");
            }
            let second = |from: usize| asked[from..from + 100].iter().sum::<u32>();
            let steady = second(5000);
            assert_eq!(steady, BOXES as u32);
            let worst = (9000..end as usize - 100).map(second).max().unwrap();
            let during = (6100..8900).map(second).max().unwrap();
            println!("steady {steady} requests/s, at most {during} in the outage and {worst} after it");
            assert!(worst <= 2 * steady, "round {round}: {worst} requests in a second, {steady} are usual");
            let back = (9000..end as usize - 100).find(|from| second(*from) >= steady && second(from + 100) >= steady);
            assert!(back.is_some_and(|from| from <= 9000 + 2000), "all are back soon: {back:?}");
        }
    }
}
