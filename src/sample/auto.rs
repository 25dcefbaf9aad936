//! `interval: auto`: one interval for all such streams, as short as the box serves. Pure, but for the one number that is shared.
//!
//! In: how many frames were looked at and how many were superseded, of all live streams together. Out: the interval in [`Tempo`],
//! which the streams' samplers read on their own threads. While frames are being lost it is lengthened at once to what the served
//! ones allow, and a tenth more. While none are, it is shortened step by step until it would come back to what the box was found to
//! serve at best; that is tried again only after a while, each time later, so a steady box has a steady interval. An interval at which a
//! few are lost, fewer than would lengthen it, is what the box serves at best too: a lucky moment without any is no room.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Looked at as often as is of use to events that last a second …
pub const MIN_INTERVAL: Duration = Duration::from_millis(250);
/// … and seldom enough for any box.
pub const MAX_INTERVAL: Duration = Duration::from_secs(30);
/// Where it begins: the default of a fixed interval.
pub const START: Duration = Duration::from_secs(1);

/// Counted for so long, and for two intervals, before anything is decided …
const WINDOW: Duration = Duration::from_secs(5);
/// … and until so many frames have ended: of fewer, one says too much.
const ENOUGH: u64 = 10;
/// Part of the frames that may be lost: any busy moment costs a frame or two.
const BEARABLE: f64 = 0.02;
/// Room above what the box has served, so that the next busy moment loses nothing.
const ROOM: f64 = 1.1;
/// Longest step: a window in which nothing was served at all says little of how far to go.
const LEAP: f64 = 4.0;
/// One step shorter while there is room.
const STEP: f64 = 0.9;
/// This close to the limit counts as beyond it.
const CLOSE: f64 = 1.05;
/// What was beyond the limit is not tried again for so long, twice as long each time, up to the second. A hiccup is soon
/// forgotten, a limit is not tried all the time.
const TRIAL_WAITS: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(1));

/// The interval as samplers read it.
#[derive(Debug)]
pub struct Tempo(AtomicU64);

impl Default for Tempo {
    fn default() -> Self {
        let tempo = Self(AtomicU64::new(0));
        tempo.set(START);
        tempo
    }
}

impl Tempo {
    pub fn interval(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    pub fn set(&self, interval: Duration) {
        self.0.store(u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Frames of all live streams that ended since the last call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServedCounts {
    /// Looked at.
    pub served: u64,
    /// Superseded by a newer one.
    pub lost: u64,
    /// Live streams that are there.
    pub streams: usize,
}

/// What the box was found to serve when frames were lost.
#[derive(Clone, Copy, Debug)]
struct Limit {
    /// The shortest interval.
    interval: Duration,
    /// For so many streams.
    streams: usize,
    until: Instant,
    patience: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Controller {
    interval: Duration,
    /// When counting began, in the future just after a change: what ends until then was sampled before it.
    since: Option<Instant>,
    served: u64,
    lost: u64,
    limit: Option<Limit>,
}

impl Default for Controller {
    fn default() -> Self {
        Self { interval: START, since: None, served: 0, lost: 0, limit: None }
    }
}

impl Controller {
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Takes note of what ended up to `now`. Returns the new interval if it has changed.
    pub fn note(&mut self, now: Instant, ended: ServedCounts) -> Option<Duration> {
        let since = *self.since.get_or_insert(now);
        if now <= since {
            return None;
        }
        self.served += ended.served;
        self.lost += ended.lost;
        let total = self.served + self.lost;
        if now - since < WINDOW.max(self.interval * 2) || total < ENOUGH {
            return None;
        }
        let share = self.lost as f64 / total as f64;
        let next = if self.lost > 1 && share > BEARABLE {
            let enough = self.interval.mul_f64((1.0 / (1.0 - share)).min(LEAP));
            self.remember(now, enough, ended.streams);
            enough.mul_f64(ROOM)
        } else if self.lost == 0 {
            self.shorter(now, ended.streams)
        } else {
            if self.lost > 1 {
                self.settle(now, ended.streams);
            }
            self.interval
        };
        let next = next.clamp(MIN_INTERVAL, MAX_INTERVAL);
        let changed = next != self.interval;
        self.interval = next;
        // Frames from before the change are still on their way, or in their slots.
        (self.since, self.served, self.lost) = (Some(if changed { now + next } else { now }), 0, 0);
        changed.then_some(next)
    }

    /// The limit that is known, if `interval` and `streams` are about those it was found with.
    fn limit_near(&self, interval: Duration, streams: usize) -> Option<Limit> {
        self.limit.filter(|limit| limit.streams == streams && limit.interval.abs_diff(interval) * 4 < interval)
    }

    /// Frames are lost; an interval of `enough` would not lose any.
    fn remember(&mut self, now: Instant, enough: Duration, streams: usize) {
        let (first, last) = TRIAL_WAITS;
        let patience = self.limit_near(enough, streams).map_or(first, |limit| (limit.patience * 2).min(last));
        self.limit = Some(Limit { interval: enough, streams, until: now + patience, patience });
    }

    /// A bearable part of the frames is lost: the box is just busy, and a step shorter is not tried as long as it is, nor for the shortest wait after.
    fn settle(&mut self, now: Instant, streams: usize) {
        let (interval, until) = (self.interval, now + TRIAL_WAITS.0);
        self.limit = Some(match self.limit_near(interval, streams) {
            Some(limit) => Limit { interval: limit.interval.max(interval), until: limit.until.max(until), ..limit },
            None => Limit { interval, streams, until, patience: TRIAL_WAITS.0 },
        });
    }

    /// One step shorter, unless that is beyond the limit.
    fn shorter(&self, now: Instant, streams: usize) -> Duration {
        let next = self.interval.mul_f64(STEP);
        // With fewer streams everything is open again.
        let beyond =
            |limit: Limit| now < limit.until && streams >= limit.streams && next < limit.interval.mul_f64(CLOSE);
        if self.limit.is_some_and(beyond) { self.interval } else { next }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A box that serves `capacity` frames a second, and `streams` live streams; time goes on in seconds.
    struct World {
        controller: Controller,
        now: Instant,
        streams: usize,
        capacity: f64,
        /// Frames sampled but not yet counted: less than one.
        rest: (f64, f64),
        /// Second and interval of each change.
        changes: Vec<(u64, Duration)>,
        seconds: u64,
    }

    impl World {
        fn new(streams: usize, capacity: f64) -> Self {
            let (controller, now) = (Controller::default(), Instant::now());
            Self { controller, now, streams, capacity, rest: (0.0, 0.0), changes: Vec::new(), seconds: 0 }
        }

        /// `wobble` gives the share of the capacity that there is in a second.
        fn run(&mut self, seconds: u64, wobble: impl Fn(u64) -> f64) {
            for _ in 0..seconds {
                self.now += Duration::from_secs(1);
                self.seconds += 1;
                let sampled = self.streams as f64 / self.controller.interval().as_secs_f64();
                let served = sampled.min(self.capacity * wobble(self.seconds));
                self.rest.0 += served;
                self.rest.1 += sampled - served;
                let ended =
                    ServedCounts { served: self.rest.0 as u64, lost: self.rest.1 as u64, streams: self.streams };
                self.rest = (self.rest.0.fract(), self.rest.1.fract());
                if let Some(interval) = self.controller.note(self.now, ended) {
                    assert_eq!(interval, self.controller.interval());
                    assert!((MIN_INTERVAL..=MAX_INTERVAL).contains(&interval), "{interval:?}");
                    self.changes.push((self.seconds, interval));
                }
            }
        }

        /// The interval at which the box is just busy.
        fn critical(&self) -> f64 {
            (self.streams as f64 / self.capacity).clamp(MIN_INTERVAL.as_secs_f64(), MAX_INTERVAL.as_secs_f64())
        }

        fn ratio(&self) -> f64 {
            self.controller.interval().as_secs_f64() / self.critical()
        }
    }

    #[test]
    fn an_overloaded_box_is_relieved_within_a_few_windows() {
        let mut world = World::new(64, 8.0);
        world.run(60, |_| 1.0);
        assert!((1.0..1.3).contains(&world.ratio()), "{:?}", world.changes);
        assert!(world.changes.len() <= 3, "{:?}", world.changes);
    }

    #[test]
    fn an_idle_box_is_used_step_by_step() {
        let mut world = World::new(4, 1000.0);
        world.run(30, |_| 1.0);
        assert!(world.controller.interval() > MIN_INTERVAL * 2, "slowly");
        world.run(300, |_| 1.0);
        assert_eq!(world.controller.interval(), MIN_INTERVAL);
    }

    #[test]
    fn a_box_that_serves_nothing_is_asked_as_seldom_as_possible_and_no_more_seldom() {
        let mut world = World::new(1000, 0.001);
        world.run(600, |_| 1.0);
        assert_eq!(world.controller.interval(), MAX_INTERVAL);
    }

    #[test]
    fn a_single_lost_frame_changes_nothing() {
        let mut controller = Controller::default();
        let start = Instant::now();
        assert_eq!(controller.note(start, ServedCounts::default()), None);
        let one = ServedCounts { served: 11, lost: 1, streams: 12 };
        assert_eq!(controller.note(start + WINDOW, one), None);
        assert_eq!(controller.interval(), START);
    }

    #[test]
    fn without_frames_nothing_is_decided() {
        let mut world = World::new(0, 1.0);
        world.run(3600, |_| 1.0);
        assert!(world.changes.is_empty());
    }

    #[test]
    fn streams_that_leave_make_room_at_once_and_not_after_the_patience() {
        let mut world = World::new(100, 20.0);
        world.run(120, |_| 1.0);
        assert!(world.controller.interval() > Duration::from_secs(5));
        world.streams = 10;
        world.run(400, |_| 1.0);
        assert!(world.controller.interval() < Duration::from_secs(1), "{:?}", world.changes);
    }

    #[test]
    fn a_box_that_recovers_is_used_again_after_a_while() {
        let mut world = World::new(20, 5.0);
        world.run(300, |_| 1.0);
        assert!(world.controller.interval() > Duration::from_secs(4));
        world.capacity = 100.0;
        world.run(3600, |_| 1.0);
        assert_eq!(world.controller.interval(), MIN_INTERVAL, "{:?}", world.changes);
    }

    fn converges_and_stays(streams: usize, capacity: f64, wobble: f64, seed: u64) -> Result<(), TestCaseError> {
        let noise = |second: u64| 1.0 - wobble * ((second.wrapping_mul(2_654_435_761) ^ seed) % 100) as f64 / 100.0;
        let mut world = World::new(streams, capacity);
        // From the shortest to the longest interval takes a while; windows are long where the interval is.
        world.run(3600, noise);
        let completed = world.changes.len();
        for hour in 0..6 {
            let before = world.changes.len();
            world.run(3600, noise);
            let changes = &world.changes[before..];
            prop_assert!(changes.len() <= 12, "hour {}: {:?}", hour, changes);
        }
        let critical = world.critical();
        for (_, interval) in &world.changes[completed..] {
            let ratio = interval.as_secs_f64() / critical;
            prop_assert!((0.85..1.45).contains(&ratio), "{} of {}: {:?}", ratio, critical, world.changes);
        }
        prop_assert!((0.85..1.45).contains(&world.ratio()), "{} of {}", world.ratio(), critical);
        Ok(())
    }

    /// A few frames were lost all the time, and after hours one window had none.
    #[test]
    fn a_lucky_window_of_a_box_that_is_just_busy_begins_no_trials() {
        converges_and_stays(166, 349.141_198_985_276_96, 0.028_441_282_488_482_687, 875).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever the box and its streams: soon near what it serves, from then on near it, and quiet.
        #[test]
        fn it_converges_and_stays(
            streams in 1usize..300, capacity in 0.1f64..500.0, wobble in 0.0f64..0.08, seed in 0u64..1000,
        ) {
            converges_and_stays(streams, capacity, wobble, seed)?;
        }

        /// Any numbers at any times: the bounds hold.
        #[test]
        fn it_never_leaves_its_bounds(
            steps in prop::collection::vec((0u64..100_000, 0u64..1000, 0u64..1000, 0usize..100), 1..200),
        ) {
            let mut controller = Controller::default();
            let mut now = Instant::now();
            for (wait, served, lost, streams) in steps {
                now += Duration::from_millis(wait);
                controller.note(now, ServedCounts { served, lost, streams });
                prop_assert!((MIN_INTERVAL..=MAX_INTERVAL).contains(&controller.interval()));
            }
        }
    }
}
