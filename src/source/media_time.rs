//! Media time: a stream's own seconds since its first frame, which never go back. Pure.
//!
//! Every connection, and every turn of a looped file, brings time stamps that start anew; cameras jump. [`MediaTime`] keeps
//! one line through all of it: a new connection goes on after the time that really passed, a new turn goes on one frame after
//! the last one, a jump back goes on from where we were, and a live stream that jumps ahead of the clock goes on by the clock.

use std::time::{Duration, Instant};

/// The media time of one stream, over all its connections.
#[derive(Clone, Debug, Default)]
pub struct MediaTime {
    last: Option<Last>,
    anchor: Anchor,
    /// Frames cannot come faster than time passes.
    live: bool,
    /// The usual distance of frames, as last seen.
    spacing: Option<Duration>,
    /// How far time stamps have come in this turn, those of frames among them that ended before the decoder.
    reached: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    pts: Duration,
    media: Duration,
    seen: Instant,
}

/// How the next time stamp is tied to media time.
#[derive(Clone, Copy, Debug, Default)]
enum Anchor {
    /// The time stamp `pts` was at `media`.
    At { pts: Duration, media: Duration },
    /// The next frame's media time is the last one's, and the time that passed since then.
    #[default]
    Elapsed,
    /// The next frame comes one spacing after the last one.
    NextFrame,
}

impl MediaTime {
    /// Steps back that are shorter than this are jitter: the frame gets the time of the one before it.
    const JITTER: Duration = Duration::from_millis(500);
    /// Taken for the distance of frames until it is known.
    const SPACING: Duration = Duration::from_millis(40);
    /// Longer distances are gaps, not the stream's rhythm.
    const MAX_SPACING: Duration = Duration::from_secs(2);

    /// A live stream that jumps further ahead than this of the time that has passed has been set, not played.
    const JUMP: Duration = Duration::from_secs(10);

    /// Frames come in real time, as those of cameras do: media time will not run ahead of the clock.
    pub fn go_by_the_clock(&mut self) {
        self.live = true;
    }

    /// A new connection: its time stamps have nothing to do with those before.
    pub fn reconnected(&mut self) {
        // A file that is opened anew for its next turn is still looped, not lost.
        if !matches!(self.anchor, Anchor::NextFrame) {
            self.anchor = Anchor::Elapsed;
        }
    }

    /// The file starts again.
    pub fn looped(&mut self) {
        self.anchor = Anchor::NextFrame;
    }

    /// A frame with time stamp `pts` ends before the decoder. Its time passes all the same: the next turn of a file begins after it.
    pub fn passed(&mut self, pts: Duration) {
        self.reached = self.reached.max(pts);
    }

    /// Where [`place`](Self::place) will put a frame of the line that is being played, one that may never come so far; `None`: it begins a new one, or may.
    pub fn expected(&self, pts: Duration, now: Instant) -> Option<Duration> {
        let (Some(last), Anchor::At { pts: anchor, media }) = (self.last, self.anchor) else { return None };
        let back = pts.saturating_add(Self::JITTER) < last.pts;
        let ahead = self.live && pts.saturating_sub(last.pts) > Self::JUMP + now.saturating_duration_since(last.seen);
        (!back && !ahead).then(|| media.saturating_add(pts.saturating_sub(anchor)).max(last.media))
    }

    /// The media time of the frame with time stamp `pts`, seen at `now`.
    pub fn place(&mut self, pts: Duration, now: Instant) -> Duration {
        let Some(last) = self.last else {
            return self.anchor_at(pts, Duration::ZERO, now);
        };
        match self.anchor {
            Anchor::Elapsed => {
                self.anchor_at(pts, last.media.saturating_add(now.saturating_duration_since(last.seen)), now)
            }
            Anchor::NextFrame => {
                let rest = self.reached.saturating_sub(last.pts);
                // Behind frames that were not looked at, the distance of those that were is no frame's.
                let spacing = if rest.is_zero() { self.spacing() } else { self.spacing().min(Self::SPACING) };
                self.anchor_at(pts, last.media.saturating_add(rest).saturating_add(spacing), now)
            }
            Anchor::At { .. } if pts.saturating_add(Self::JITTER) < last.pts => {
                self.anchor_at(pts, last.media.saturating_add(self.spacing()), now)
            }
            Anchor::At { .. }
                if self.live
                    && pts.saturating_sub(last.pts) > Self::JUMP + now.saturating_duration_since(last.seen) =>
            {
                let passed = now.saturating_duration_since(last.seen).max(self.spacing());
                self.anchor_at(pts, last.media.saturating_add(passed), now)
            }
            Anchor::At { pts: anchor, media } => {
                let media = media.saturating_add(pts.saturating_sub(anchor)).max(last.media);
                let step = pts.saturating_sub(last.pts);
                if (Duration::from_millis(1)..=Self::MAX_SPACING).contains(&step) {
                    self.spacing = Some(step);
                }
                self.last = Some(Last { pts, media, seen: now });
                media
            }
        }
    }

    fn spacing(&self) -> Duration {
        self.spacing.unwrap_or(Self::SPACING)
    }

    fn anchor_at(&mut self, pts: Duration, media: Duration, now: Instant) -> Duration {
        self.anchor = Anchor::At { pts, media };
        self.reached = pts;
        self.last = Some(Last { pts, media, seen: now });
        media
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn place_all(time: &mut MediaTime, start: Instant, pts: &[u64]) -> Vec<u128> {
        pts.iter().map(|p| time.place(ms(*p), start + ms(*p)).as_millis()).collect()
    }

    #[test]
    fn a_turn_is_as_long_as_all_its_frames_however_few_of_them_are_looked_at() {
        let (mut time, start) = (MediaTime::default(), Instant::now());
        for turn in 0..4_u64 {
            assert_eq!(time.place(ms(0), start + ms(turn * 800)), ms(turn * 800));
            (1..20).for_each(|n| time.passed(ms(n * 40)));
            time.looped();
        }
    }

    #[test]
    fn time_counts_from_the_first_time_stamp() {
        let mut time = MediaTime::default();
        assert_eq!(place_all(&mut time, Instant::now(), &[5000, 5040, 5080]), [0, 40, 80]);
    }

    #[test]
    fn a_reconnect_adds_the_time_that_really_passed() {
        let (mut time, start) = (MediaTime::default(), Instant::now());
        place_all(&mut time, start, &[0, 1000]);
        time.reconnected();
        assert_eq!(time.place(ms(123_456), start + ms(4000)), ms(4000));
        assert_eq!(time.place(ms(123_496), start + ms(4040)), ms(4040));
    }

    #[test]
    fn a_looped_file_goes_on_one_frame_later() {
        let (mut time, start) = (MediaTime::default(), Instant::now());
        place_all(&mut time, start, &[0, 50, 100]);
        time.looped();
        assert_eq!(place_all(&mut time, start, &[0, 50]), [150, 200]);
    }

    #[test]
    fn a_jump_back_goes_on_from_where_we_were() {
        let mut time = MediaTime::default();
        assert_eq!(place_all(&mut time, Instant::now(), &[60_000, 60_040, 100, 140]), [0, 40, 80, 120]);
    }

    #[test]
    fn a_live_stream_that_jumps_ahead_goes_on_by_the_clock_and_a_file_does_not() {
        for (live, expected) in [(true, [0, 40, 80, 120]), (false, [0, 40, 3_600_000, 3_600_040])] {
            let (mut time, start) = (MediaTime::default(), Instant::now());
            if live {
                time.go_by_the_clock();
            }
            let placed = [(0, 0), (40, 40), (3_600_000, 80), (3_600_040, 120)]
                .map(|(pts, passed)| time.place(ms(pts), start + ms(passed)).as_millis());
            assert_eq!(placed, expected);
        }
    }

    #[test]
    fn a_live_stream_that_was_silent_for_long_keeps_its_own_time() {
        let (mut time, start) = (MediaTime::default(), Instant::now());
        time.go_by_the_clock();
        time.place(ms(0), start);
        assert_eq!(time.place(ms(15_000), start + ms(15_020)), ms(15_000));
    }

    #[test]
    fn a_little_jitter_backwards_does_not_shift_the_line() {
        let mut time = MediaTime::default();
        assert_eq!(place_all(&mut time, Instant::now(), &[0, 40, 35, 80]), [0, 40, 40, 80]);
    }

    proptest! {
        #[test]
        fn media_time_never_goes_back(events in prop::collection::vec((0u8..20, any::<u32>(), 0u64..100_000), 1..200)) {
            let (mut time, mut now, mut last) = (MediaTime::default(), Instant::now(), Duration::ZERO);
            time.live = events.len() % 2 == 0;
            for (kind, pts, passed) in events {
                now += ms(passed);
                match kind {
                    0 => time.reconnected(),
                    1 => time.looped(),
                    _ => {}
                }
                let expected = time.expected(ms(u64::from(pts)), now);
                let media = time.place(ms(u64::from(pts)), now);
                prop_assert!(media >= last && expected.is_none_or(|expected| expected == media));
                last = media;
            }
        }
    }
}
