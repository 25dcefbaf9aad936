//! When an endpoint may be asked again, and whether a failure is the event's fault. Pure; time is a parameter.
//!
//! An endpoint that is away is asked by one request at a time, after waits that grow up to [`MAX`] or as it says (`Retry-After`); no
//! event pays for that. However many requests were under way when it went away, that is one step of the waits. An event that fails while others get through is to blame itself: it is tried again after the waits of Standard
//! Webhooks, and after the last of them it is dead. What has the same ordering key waits for it, the rest does not.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::answer::Answer;
use crate::platform::backoff::{Backoff, Ladder};

/// Between two questions to an endpoint that is away.
const FIRST: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(300);

/// Between the attempts of an event that is to blame: Standard Webhooks 1.0.
const RETRIES: [Duration; 9] = {
    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }
    const H: u64 = 3600;
    [s(5), s(300), s(1800), s(2 * H), s(5 * H), s(10 * H), s(14 * H), s(20 * H), s(24 * H)]
};

/// What is to be done with a delivery after an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Delivered,
    /// Not before then, and its failure does not count.
    Later(Instant),
    /// The attempt counts; then [`Pace::retry`] tells when the next is due.
    Failed,
    Disabled,
}

/// See the module.
pub struct Pace {
    /// Nothing is sent before then.
    paused: Option<Instant>,
    /// Until when the endpoint has asked for it. What it takes meanwhile was under way already, and changes nothing of that.
    asked: Option<Instant>,
    /// The endpoint has not taken anything since it was away.
    away: bool,
    backoff: Backoff,
    retries: Backoff,
    successes: u64,
    /// For each delivery that failed: the successes before it did.
    failed: HashMap<u64, u64>,
    /// Waits that were begun.
    waits: u64,
    /// For each delivery that is under way: the waits before it went out. What failed with one of them says nothing new.
    under_way: HashMap<u64, u64>,
}

impl Pace {
    pub fn new(seed: u64) -> Self {
        let ladder = Ladder::doubling(FIRST, MAX, Duration::ZERO);
        let retries = Ladder { steps: RETRIES.to_vec(), stable: Duration::ZERO };
        Self {
            paused: None,
            asked: None,
            away: false,
            backoff: Backoff::new(ladder, seed),
            retries: Backoff::new(retries, seed),
            successes: 0,
            failed: HashMap::new(),
            waits: 0,
            under_way: HashMap::new(),
        }
    }

    /// Delivery `position` goes out.
    pub fn sent(&mut self, position: u64) {
        self.under_way.insert(position, self.waits);
    }

    /// How many requests may be under way now, of at most `limit`.
    pub fn room(&self, limit: usize, now: Instant) -> usize {
        match self.paused {
            Some(until) if now < until => 0,
            _ if self.away => 1,
            _ => limit,
        }
    }

    /// When [`room`](Self::room) changes by itself.
    pub fn until(&self, now: Instant) -> Option<Instant> {
        self.paused.filter(|until| *until > now)
    }

    /// Whether the endpoint takes nothing at the moment.
    pub fn is_away(&self) -> bool {
        self.away
    }

    /// Takes an answer to delivery `position`.
    pub fn answered(&mut self, position: u64, answer: &Answer, now: Instant) -> Step {
        let known_away = self.under_way.remove(&position).is_some_and(|waits| waits < self.waits) && self.away;
        match answer {
            Answer::Taken => {
                self.successes += 1;
                self.failed.remove(&position);
                (self.paused, self.away) = (self.asked.filter(|until| *until > now), false);
                self.backoff.went_well_for(Duration::ZERO);
                Step::Delivered
            }
            Answer::Gone => Step::Disabled,
            Answer::Refused { .. } => Step::Failed,
            Answer::Away { after, .. } => {
                let before = self.failed.insert(position, self.successes);
                let blamed = before.is_some_and(|before| before < self.successes);
                self.asked = self.asked.max(after.map(|after| now + after));
                let wait = if known_away { Duration::ZERO } else { self.backoff.next_wait() };
                self.waits += u64::from(!known_away);
                let until = self.paused.max(Some(now + wait.max(after.unwrap_or_default()))).unwrap_or(now);
                (self.paused, self.away) = (Some(until), true);
                // A little after the pause: others are to be asked first, in case it is this one's fault.
                if blamed { Step::Failed } else { Step::Later(until + Duration::from_millis(1)) }
            }
        }
    }

    /// When the next attempt of an event is due of which `attempts` have failed by its own fault; `None` when it has had all.
    pub fn retry(&mut self, attempts: u32, now: Instant) -> Option<Instant> {
        let index = (attempts as usize).checked_sub(1)?;
        let step = *RETRIES.get(index)?;
        Some(now + self.retries.spread(step))
    }

    /// The delivery is dead: nothing more is known of it.
    pub fn forget(&mut self, position: u64) {
        self.failed.remove(&position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> Answer {
        Answer::away("500")
    }

    #[test]
    fn an_endpoint_that_is_away_is_asked_by_one_request_at_a_time_and_no_event_pays() {
        let (mut pace, start) = (Pace::new(1), Instant::now());
        assert_eq!(pace.room(4, start), 4);
        let mut now = start;
        for round in 0..50 {
            assert!(matches!(pace.answered(round % 3, &away(), now), Step::Later(due) if due > now));
            assert_eq!(pace.room(4, now), 0);
            let until = pace.until(now).unwrap();
            assert!(until - now <= MAX.mul_f64(1.2));
            now = until;
            assert_eq!(pace.room(4, now), 1);
        }
        assert!(now - start > Duration::from_secs(3600));
        assert_eq!(pace.answered(0, &Answer::Taken, now), Step::Delivered);
        assert_eq!((pace.room(4, now), pace.is_away()), (4, false));
        assert!(matches!(pace.answered(5, &away(), now), Step::Later(_)));
        assert!(pace.until(now).unwrap() - now < Duration::from_secs(2), "the waits start again");
    }

    #[test]
    fn an_outage_is_one_step_however_many_requests_it_met_and_whenever_they_fail() {
        let (mut pace, start) = (Pace::new(1), Instant::now());
        (0..16).for_each(|position| pace.sent(position));
        for position in 0..15 {
            assert!(matches!(pace.answered(position, &away(), start), Step::Later(_)));
        }
        let first = pace.until(start).unwrap();
        assert!(first - start < Duration::from_secs(2), "{:?}", first - start);
        // The last of them is given up by its timeout only, after the pause: the next question is not put off for that.
        let late = first + Duration::from_secs(1);
        assert!(matches!(pace.answered(15, &away(), late), Step::Later(due) if due <= late + Duration::from_millis(1)));
        assert_eq!((pace.room(16, late), pace.until(late)), (1, None));
        // The question is another one, and the next wait twice as long.
        pace.sent(0);
        pace.answered(0, &away(), late);
        let second = pace.until(late).unwrap() - late;
        assert!((Duration::from_millis(1600)..Duration::from_secs(3)).contains(&second), "{second:?}");
        // Back, and away again with one that went out before it came back: that is a new outage, from the first step on.
        pace.sent(1);
        pace.sent(2);
        pace.answered(1, &Answer::Taken, late);
        pace.answered(2, &away(), late);
        assert!(pace.until(late).unwrap() - late < Duration::from_secs(2));
    }

    #[test]
    fn an_event_that_fails_while_others_get_through_is_to_blame() {
        let (mut pace, now) = (Pace::new(1), Instant::now());
        assert!(matches!(pace.answered(7, &away(), now), Step::Later(_)));
        assert!(matches!(pace.answered(7, &away(), now), Step::Later(_)), "nobody got through yet");
        pace.answered(8, &Answer::Taken, now);
        assert_eq!(pace.answered(7, &away(), now), Step::Failed);
    }

    #[test]
    fn an_endpoint_that_says_when_is_left_alone_until_then() {
        let (mut pace, now) = (Pace::new(1), Instant::now());
        let minute = Duration::from_secs(60);
        pace.answered(1, &Answer::Away { why: String::new(), after: Some(minute) }, now);
        assert_eq!(pace.until(now), Some(now + minute));
        assert_eq!(pace.answered(2, &Answer::Taken, now), Step::Delivered);
        assert_eq!(pace.room(4, now + minute - Duration::from_millis(1)), 0, "also when it takes what was under way");
        assert_eq!(pace.room(4, now + minute), 4);
    }

    #[test]
    fn an_event_has_ten_attempts_over_three_days() {
        let (mut pace, now) = (Pace::new(1), Instant::now());
        let waits: Vec<Duration> = (1..=9).map(|attempts| pace.retry(attempts, now).unwrap() - now).collect();
        assert!(waits.is_sorted(), "{waits:?}");
        let sum: Duration = waits.iter().sum();
        assert!((60..91).contains(&(sum.as_secs() / 3600)), "{sum:?}");
        assert_eq!(pace.retry(10, now), None);
    }
}
