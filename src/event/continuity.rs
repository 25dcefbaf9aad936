//! Whether a sample continues what the one before it showed. Pure: the samples' times come in, a verdict goes out.
//!
//! What happened while a camera was away is not known, so neither a start nor an end that is under way goes on over that time. A camera that is there
//! and is seldom looked at (its keyframes are rare, the box is too small) was not away: within one connection samples may be as far apart as
//! they usually have been lately, and some times more. Holds the last few distances; the oldest goes.

use std::time::Duration;

use crate::frame::FrameTime;

/// Distances that are known.
const KNOWN: usize = 4;

/// So many times as far apart as is usual.
const WIDER: u32 = 4;

/// Over a connection that was lost: what happened meanwhile is known if it was no longer than this, or than two samples' distance.
const AWAY: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Continuity {
    /// How far apart two samples may always be.
    gap: Duration,
    last: Option<FrameTime>,
    /// Of samples within one connection, in no order.
    distances: [Duration; KNOWN],
    count: usize,
}

impl Continuity {
    /// Samples up to `gap` apart always continue one another.
    pub fn new(gap: Duration) -> Self {
        Self { gap, last: None, distances: [Duration::ZERO; KNOWN], count: 0 }
    }

    /// Another gap; what is known of the samples stays.
    pub fn change(&mut self, gap: Duration) {
        self.gap = gap;
    }

    /// The last sample.
    pub fn last(&self) -> Option<FrameTime> {
        self.last
    }

    /// Takes note of a sample. Whether it continues the one before; the first does.
    pub fn note(&mut self, time: FrameTime) -> bool {
        let Some(last) = self.last.replace(time) else { return true };
        let distance = time.media.saturating_sub(last.media);
        if time.connection != last.connection {
            return distance <= self.gap.min(AWAY.max(self.usual().saturating_mul(2)));
        }
        let usual = self.usual();
        self.distances[self.count % KNOWN] = distance;
        self.count = self.count.wrapping_add(1);
        distance <= self.gap.max(usual.saturating_mul(WIDER))
    }

    /// The middle one of the last distances; of two the shorter, so that one outage is no rule.
    fn usual(&self) -> Duration {
        let mut known = self.distances;
        let known = known.get_mut(..self.count.min(KNOWN)).unwrap_or_default();
        known.sort_unstable();
        known.get(known.len().saturating_sub(1) / 2).copied().unwrap_or_default()
    }

    /// How far apart samples are at least; `None` until a few have come.
    pub fn spacing(&self) -> Option<Duration> {
        (self.count >= KNOWN).then(|| self.distances.into_iter().min()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn verdicts(samples: &[(u64, u64)]) -> Vec<bool> {
        let (mut continuity, base) = (Continuity::new(Duration::from_secs(30)), Instant::now());
        let mut note = |&(second, connection): &(u64, u64)| {
            let media = Duration::from_secs(second);
            continuity.note(FrameTime { media, captured: base, wall: jiff::Timestamp::UNIX_EPOCH, connection })
        };
        samples.iter().map(&mut note).collect()
    }

    #[test]
    fn rare_samples_of_a_camera_that_is_there_continue_one_another_once_they_are_known_to_be_rare() {
        assert_eq!(verdicts(&[(0, 1), (40, 1), (80, 1), (120, 1), (270, 1)]), [true, false, true, true, true]);
    }

    #[test]
    fn nothing_goes_on_over_an_outage_however_rare_samples_are() {
        assert_eq!(verdicts(&[(0, 1), (40, 1), (80, 1), (120, 2), (160, 2)]), [true, false, true, false, true]);
        // A short one is none.
        assert_eq!(verdicts(&[(0, 1), (20, 2)]), [true, true]);
    }

    #[test]
    fn a_camera_that_was_looked_at_every_second_and_then_not_for_minutes_is_not_known() {
        assert_eq!(verdicts(&[(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (200, 1)]).last(), Some(&false));
        assert_eq!(verdicts(&[(0, 1), (3600, 1), (3601, 1), (7200, 1)]), [true, false, true, false]);
    }
}
