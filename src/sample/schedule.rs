//! Which frames are worth looking at, by media time alone. Pure: no clock, no thread, no queue.

use std::time::Duration;

/// Picks at most one frame for every point of a grid that starts at the first frame, one `interval` apart.
///
/// The grid does not move, so samples do not drift when frames come a little late. After a gap one frame is picked for all
/// the points that were missed, and the schedule goes on with the next point: no burst makes up for them.
#[derive(Clone, Debug)]
pub struct Schedule {
    interval: Duration,
    /// How much too early a frame may be and still be the one for its grid point.
    tolerance: Duration,
    grid: Option<Grid>,
}

#[derive(Clone, Copy, Debug)]
struct Grid {
    start: Duration,
    due: Duration,
    /// The frame that was picked last.
    last: Duration,
    /// The interval has changed: the next frame that is picked begins the grid anew.
    anew: bool,
}

impl Schedule {
    /// Half the distance of frames at 25 a second: with it the nearest frame is picked, not the next one, and a camera that
    /// sends exactly one frame an interval, give or take network jitter, does not lose every second one.
    const TOLERANCE: Duration = Duration::from_millis(20);

    /// A schedule with one sample every `interval`; zero picks every frame.
    pub fn new(interval: Duration) -> Self {
        Self { interval, tolerance: Self::TOLERANCE.min(interval / 10), grid: None }
    }

    /// The distance of samples; zero: every frame.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// From here on one sample every `interval`: the next one comes so long after the last, or at once if it is overdue by then,
    /// and with it begins a new grid. Nothing happens if it is the interval already.
    pub fn change(&mut self, interval: Duration) {
        if interval != self.interval {
            let grid = self.grid.map(|grid| Grid { due: grid.last.saturating_add(interval), anew: true, ..grid });
            *self = Self { grid, ..Self::new(interval) };
        }
    }

    /// Whether the frame at `media` is to be sampled. The first frame always is.
    pub fn is_sampled(&mut self, media: Duration) -> bool {
        if self.interval.is_zero() {
            return true;
        }
        let Some(grid) = self.grid else {
            self.grid = Some(self.grid_from(media));
            return true;
        };
        // Media time does not go back; if it ever does, waiting for it to catch up could take hours.
        if media.saturating_add(self.interval.saturating_mul(2)) < grid.due {
            self.grid = None;
            return self.is_sampled(media);
        }
        if media.saturating_add(self.tolerance) < grid.due {
            return false;
        }
        let next = || {
            let due = self.point_after(grid.start, media.saturating_add(self.tolerance));
            Grid { due, last: media, ..grid }
        };
        self.grid = Some(if grid.anew { self.grid_from(media) } else { next() });
        true
    }

    /// How long after `media` the next frame is picked; zero: one at `media` would be. Changes nothing.
    pub fn until_wanted(&self, media: Duration) -> Duration {
        let Some(grid) = self.grid.filter(|_| !self.interval.is_zero()) else { return Duration::ZERO };
        if media.saturating_add(self.interval.saturating_mul(2)) < grid.due {
            return Duration::ZERO;
        }
        grid.due.saturating_sub(media.saturating_add(self.tolerance))
    }

    fn grid_from(&self, media: Duration) -> Grid {
        Grid { start: media, due: media.saturating_add(self.interval), last: media, anew: false }
    }

    /// The first grid point after `media`.
    fn point_after(&self, start: Duration, media: Duration) -> Duration {
        let points = media.saturating_sub(start).as_nanos() / self.interval.as_nanos() + 1;
        // 2^64 ns are 584 years of media time.
        let offset = u64::try_from(points.saturating_mul(self.interval.as_nanos())).unwrap_or(u64::MAX);
        start.saturating_add(Duration::from_nanos(offset))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn sampled(interval: u64, times: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut schedule = Schedule::new(ms(interval));
        times.into_iter().filter(|t| schedule.is_sampled(ms(*t))).collect()
    }

    #[test]
    fn the_first_frame_is_sampled_whatever_its_time() {
        assert!(Schedule::new(ms(1000)).is_sampled(ms(123_456)));
    }

    #[test]
    fn frames_at_25_a_second_give_one_sample_a_second() {
        assert_eq!(sampled(1000, (0..126).map(|n| n * 40)), [0, 1000, 2000, 3000, 4000, 5000]);
    }

    #[test]
    fn late_frames_do_not_shift_the_grid() {
        // 7 frames a second never hit a full second exactly; samples stay within one frame of it for a whole day.
        let times = (0..7 * 3600 * 24u64).map(|n| n * 1000 / 7);
        let picked = sampled(1000, times);
        assert_eq!(picked.len(), 3600 * 24);
        assert!(picked.iter().enumerate().all(|(n, t)| t - n as u64 * 1000 < 143));
    }

    #[test]
    fn a_camera_as_slow_as_the_interval_keeps_all_its_frames_in_spite_of_jitter() {
        let times = [0, 995, 2004, 2991, 4012, 5000, 5985];
        assert_eq!(sampled(1000, times), times);
    }

    #[test]
    fn a_gap_is_followed_by_one_sample_and_then_the_grid_not_by_a_burst() {
        let times = (0..30).map(|n| n * 40).chain((0..50).map(|n| 61_700 + n * 40));
        assert_eq!(sampled(1000, times), [0, 1000, 61_700, 61_980, 62_980]);
    }

    #[test]
    fn a_zero_interval_samples_everything() {
        assert_eq!(sampled(0, [0, 0, 1, 1, 2]).len(), 5);
    }

    #[test]
    fn time_that_goes_far_back_does_not_stop_sampling() {
        assert_eq!(sampled(1000, [3_600_000, 3_600_040, 0, 40, 1000]), [3_600_000, 0, 1000]);
    }

    #[test]
    fn a_changed_interval_counts_from_the_last_sample() {
        let mut schedule = Schedule::new(ms(1000));
        let mut sampled = Vec::new();
        for time in (0..500).map(|n| n * 40) {
            match time {
                2_600 => schedule.change(ms(3000)),
                9_000 => schedule.change(ms(3000)),
                12_000 => schedule.change(ms(500)),
                _ => {}
            }
            if schedule.is_sampled(ms(time)) {
                sampled.push(time);
            }
            if time == 13_000 {
                break;
            }
        }
        // The last sample before the first change was at 2 s; that before the second at 11 s, long enough ago.
        assert_eq!(sampled, [0, 1000, 2000, 5000, 8000, 11_000, 12_000, 12_480, 13_000]);
    }

    #[test]
    fn an_interval_that_changes_before_the_first_frame_or_not_at_all_changes_nothing_else() {
        let mut schedule = Schedule::new(ms(1000));
        schedule.change(ms(2000));
        assert!(schedule.is_sampled(ms(77)));
        schedule.change(ms(2000));
        assert!(!schedule.is_sampled(ms(2000)) && schedule.is_sampled(ms(2077)));
    }

    proptest! {
        #[test]
        fn samples_are_never_closer_than_the_interval_of_their_time_however_it_changes(
            steps in prop::collection::vec((1u64..200, prop::option::weighted(0.1, 250u64..30_000)), 1..300),
        ) {
            let mut schedule = Schedule::new(ms(1000));
            let (mut now, mut interval, mut last) = (0, 1000, None);
            for (step, change) in steps {
                now += step;
                if let Some(new) = change {
                    interval = new;
                    schedule.change(ms(new));
                }
                let (until, mut now_or_later) = (schedule.until_wanted(ms(now)), schedule.clone());
                prop_assert_eq!(until.is_zero(), schedule.clone().is_sampled(ms(now)));
                prop_assert!(now_or_later.is_sampled(ms(now) + until));
                if schedule.is_sampled(ms(now)) {
                    // On a grid the distance of two samples may be shorter by a frame that came late.
                    prop_assert!(last.is_none_or(|last| now - last + 220 >= interval), "{} after {:?}", now, last);
                    last = Some(now);
                } else {
                    prop_assert!(now - last.unwrap() <= interval + 200, "{} after {:?}", now, last);
                }
            }
        }

        #[test]
        fn every_grid_point_gets_at_most_one_sample(
            interval in 1u64..5000, steps in prop::collection::vec(0u64..4000, 1..300),
        ) {
            let times: Vec<u64> = steps.iter().scan(0, |t, s| { *t += s; Some(*t) }).collect();
            let picked = sampled(interval, times.iter().copied());
            let tolerance = (interval * 1000 / 10).min(20_000);
            let point = |t: &u64| ((t - times[0]) * 1000 + tolerance) / (interval * 1000);
            prop_assert_eq!(picked[0], times[0]);
            prop_assert!(picked.windows(2).all(|pair| point(&pair[0]) < point(&pair[1])), "{:?}", picked);
        }

        #[test]
        fn no_sample_is_later_than_the_first_frame_at_or_after_its_point(
            interval in 100u64..3000, frame in 1u64..100, count in 1u64..2000,
        ) {
            let picked = sampled(interval, (0..count).map(|n| n * frame));
            prop_assert_eq!(picked.len() as u64, {
                // One sample for each grid point that the frames have reached, within the tolerance.
                let reached = (count - 1) * frame + (interval / 10).min(20);
                reached / interval + 1
            });
        }
    }
}
