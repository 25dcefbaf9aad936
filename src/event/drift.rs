//! Drift: whether a calibrated label's margins without its thing are still those that it was calibrated on. Night, a moved camera and a dirty
//! lens change them before anybody sees that tags are wrong.
//!
//! In: each sample during which no tag is open or about to be, on the scoring thread: two additions. Out: the share of the last hour's that lie
//! [beyond](UsualRange::holds) the calibrated range, for whoever asks. Pure. Bounded: [`PARTS`] pairs of numbers a label.

/// The window is an hour …
const PARTS: usize = 6;
/// … in parts of so many seconds.
const PART: u32 = 600;
/// Fewer samples say nothing.
const LEAST: u32 = 30;
/// By how much of its width the range may be left at each end, and by which margin at least: a range of a few marked seconds is narrower than what it is of.
const ROOM: f32 = 0.5;
const LEAST_ROOM: f32 = 0.5;

/// Margins that a label has without its thing, with room for what marks of seconds have not seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UsualRange {
    low: f32,
    high: f32,
}

impl UsualRange {
    /// From the lowest and highest margin that was marked as without it. Towards `enter` there is room for half of the way.
    pub fn new((lowest, highest): (f32, f32), enter: f32) -> Self {
        let room = ((highest - lowest) * ROOM).max(LEAST_ROOM);
        let high = if highest < enter { (highest + room).min(f32::midpoint(highest, enter)) } else { f32::INFINITY };
        Self { low: lowest - room, high }
    }

    pub fn holds(&self, margin: f32) -> bool {
        (self.low..=self.high).contains(&margin)
    }
}

/// Of one label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct DriftWatch {
    pub range: UsualRange,
    /// Samples beyond the range, and all; the place of a part follows from its number.
    parts: [(u32, u32); PARTS],
    /// Number of the newest part.
    newest: u32,
}

impl DriftWatch {
    pub fn new(range: UsualRange) -> Self {
        Self { range, parts: [(0, 0); PARTS], newest: 0 }
    }

    /// A sample without the label, so many seconds after the stream's first.
    pub fn note(&mut self, second: u32, margin: f32) {
        if !margin.is_finite() {
            return;
        }
        self.advance(second);
        let (beyond, all) = &mut self.parts[self.newest as usize % PARTS];
        *all = all.saturating_add(1);
        *beyond = beyond.saturating_add(u32::from(!self.range.holds(margin)));
    }

    /// The share beyond the range in the hour until then; `None` while too little is known.
    pub fn share(mut self, second: u32) -> Option<f32> {
        self.advance(second);
        let add = |(a, b): (u32, u32), part: &(u32, u32)| (a.saturating_add(part.0), b.saturating_add(part.1));
        let (beyond, all) = self.parts.iter().fold((0, 0), add);
        (all >= LEAST).then(|| beyond as f32 / all as f32)
    }

    /// Forgets what is too old at that time.
    fn advance(&mut self, second: u32) {
        let part = second / PART;
        let gone = part.saturating_sub(self.newest).min(PARTS as u32);
        for number in 0..gone {
            self.parts[part.wrapping_sub(number) as usize % PARTS] = (0, 0);
        }
        self.newest = self.newest.max(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_room_for_what_was_not_marked_but_not_for_what_is_nearly_a_tag() {
        let range = UsualRange::new((-4.0, -2.0), 2.0);
        for (margin, holds) in [(-5.0, true), (-5.1, false), (-1.0, true), (-0.9, false), (f32::NAN, false)] {
            assert_eq!(range.holds(margin), holds, "{margin}");
        }
        assert!(UsualRange::new((-1.0, -0.9), -0.5).holds(-0.71) && !UsualRange::new((-1.0, -0.9), -0.5).holds(-0.6));
        // Some of them were above `enter`: only what is far below is beyond it.
        assert!(UsualRange::new((-1.0, 3.0), 2.0).holds(1.9));
    }

    #[test]
    fn the_share_is_that_of_the_last_hour_and_unknown_while_there_is_little() {
        let mut watch = DriftWatch::new(UsualRange::new((-1.0, 1.0), 9.0));
        for second in 0..29 {
            watch.note(second, -7.0);
        }
        assert_eq!(watch.share(29), None);
        watch.note(29, f32::NAN);
        watch.note(30, 0.0);
        assert_eq!(watch.share(31), Some(29.0 / 30.0));
        for second in 600..3600 {
            watch.note(second, 0.0);
        }
        assert!(watch.share(3599).unwrap() < 0.01);
        // An hour later the first are forgotten, and after a long pause all.
        assert_eq!(watch.share(3600), Some(0.0));
        assert_eq!(watch.share(3600 * 5), None);
        for second in 36_000..36_100 {
            watch.note(second, 7.0);
        }
        assert_eq!(watch.share(36_100), Some(1.0));
        assert_eq!(watch.share(0), Some(1.0), "a clock that stands still does no harm");
    }
}
