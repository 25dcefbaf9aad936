//! Whether a live stream's time stamps tell its time. Pure: time stamps and the clock come in, times go out.
//!
//! Some cameras send every frame with the same time stamp, or with stamps that hardly move; by them one picture an hour would be looked at. Where stamps
//! have stood still for a while although frames came, the time of their arrival counts, until the next connection.

use std::time::{Duration, Instant};

/// A frame's time, and whether it is the first that its arrival tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub at: Duration,
    pub news: bool,
}

/// One connection's stamps, at one place of its pipeline.
#[derive(Clone, Debug, Default)]
pub(super) struct Stamps {
    /// Where the present look at them began: stamp, clock, frames since.
    since: Option<(Duration, Instant, u32)>,
    newest: Duration,
    /// Looks in a row at which they had stood still.
    still: u32,
    /// From then on the clock counts.
    arrival: Option<(Duration, Instant)>,
}

impl Stamps {
    /// How long, and for how many frames, stamps may stand still. Shorter than any keyframe interval after which somebody would wonder.
    const WINDOW: Duration = Duration::from_secs(2);
    const FRAMES: u32 = 8;
    const STILL_WINDOWS: u32 = 2;
    /// They stand still if they move by less than this part of the time that passes.
    const STILL: u32 = 20;

    pub fn is_by_arrival(&self) -> bool {
        self.arrival.is_some()
    }

    /// The time of a frame that is stamped with `at` and came at `now`.
    pub fn place(&mut self, at: Duration, now: Instant) -> Placed {
        if let Some((from, since)) = self.arrival {
            return Placed { at: from.saturating_add(now.saturating_duration_since(since)), news: false };
        }
        let (from, began, frames) = *self.since.get_or_insert((at, now, 0));
        self.newest = if frames == 0 { at } else { self.newest.max(at) };
        let passed = now.saturating_duration_since(began);
        if passed < Self::WINDOW || frames < Self::FRAMES {
            self.since = Some((from, began, frames.saturating_add(1)));
            return Placed { at, news: false };
        }
        let still = at >= from && self.newest.saturating_sub(from) * Self::STILL < passed;
        self.since = None;
        self.still = if still { self.still + 1 } else { 0 };
        // What a camera sends at once after a pause looks like this too, but only once.
        if self.still >= Self::STILL_WINDOWS {
            self.arrival = Some((at, now));
        }
        Placed { at, news: self.arrival.is_some() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn place(stamps: impl Fn(u32) -> Duration, count: u32) -> Vec<Placed> {
        let (mut line, start) = (Stamps::default(), Instant::now());
        (0..count).map(|n| line.place(stamps(n), start + n * 40 * MS)).collect()
    }

    #[test]
    fn stamps_that_move_are_taken_as_they_are() {
        let placed = place(|n| 7000 * MS + n * 40 * MS, 500);
        assert!(placed.iter().enumerate().all(|(n, p)| p.at == 7000 * MS + n as u32 * 40 * MS && !p.news));
    }

    #[test]
    fn where_they_stand_still_the_clock_takes_over_once() {
        for stamp in [|_| Duration::from_secs(9), |n: u32| Duration::from_secs(9) + n * MS / 4] {
            let placed = place(stamp, 500);
            assert_eq!(placed.iter().filter(|p| p.news).count(), 1);
            let (first, last) = (placed[120].at, placed[499].at);
            assert_eq!(last - first, 379 * 40 * MS);
        }
    }

    #[test]
    fn jumps_and_few_frames_are_no_standstill() {
        // Back and forth, as after a change of the camera's clock.
        let placed = place(|n| if n % 45 < 20 { 9000 * MS + n * 40 * MS } else { n * 40 * MS }, 500);
        assert!(!placed.iter().any(|p| p.news));
        // Two hundred frames at once after ten seconds without any.
        let (mut line, start) = (Stamps::default(), Instant::now());
        let burst = |n: u32| start + if n < 5 { n * 40 * MS } else { 10_000 * MS + n * MS };
        assert!((0..255).all(|n| !line.place(n * 40 * MS, burst(n)).news));
        assert!((255..500).all(|n| !line.place(n * 40 * MS, start + n * 40 * MS).news));
        let (mut line, start) = (Stamps::default(), Instant::now());
        assert!((0..7).all(|n| !line.place(Duration::ZERO, start + n * 10_000 * MS).news));
    }
}
