//! A label's samples out of the rows of a history.
//!
//! In: rows with the margins of each label, of each tile of the view. Out: [samples](Sample), each of which lasts as long as all tiles kept looking as they did,
//! with the best margin of them, as the scorer of a frame takes it. Pure. Bounded: [`MAX_MARGINS`] of all labels together, and [`MAX_ROWS`]; whoever
//! brings rows is told when there is no room.

use std::time::Duration;

use super::Sample;
use super::marked_samples::{EDGE, joined, steps};
use crate::event::drift::UsualRange;

/// Sixty megabytes.
pub const MAX_MARGINS: usize = 16_000_000;
/// A fortnight at a sample a second; some sixty bytes each.
const MAX_ROWS: usize = 1_500_000;

/// Where a row lies, and which tile of the view it is of.
#[derive(Clone, Copy, Debug)]
struct Span {
    tile: u16,
    /// Milliseconds.
    from: i64,
    until: i64,
    /// Of its margins.
    at: usize,
}

/// The rows of one view, with a margin for each label.
#[derive(Clone, Debug)]
pub struct PastMargins {
    labels: usize,
    room: usize,
    spans: Vec<Span>,
    margins: Vec<f32>,
}

/// Moments at which every tile is known, and the rows that are looked at then.
#[derive(Clone, Debug, Default)]
pub struct PastMoments {
    /// From when to when, and where its rows begin.
    moments: Vec<(i64, i64, usize)>,
    /// Where the margins of its rows lie.
    rows: Vec<usize>,
}

impl PastMargins {
    /// Room for rows of so many labels.
    pub fn new(labels: usize) -> Self {
        Self { labels, room: (MAX_MARGINS / labels.max(1)).min(MAX_ROWS), spans: Vec::new(), margins: Vec::new() }
    }

    /// Takes a row; `false`: there is no room for it.
    pub fn push(&mut self, tile: u16, (from, until): (i64, i64), margins: impl Iterator<Item = f32>) -> bool {
        if self.spans.len() >= self.room {
            return false;
        }
        let at = self.margins.len();
        self.margins.extend(margins.take(self.labels));
        // One a label, whatever came.
        self.margins.resize(at + self.labels, f32::NAN);
        self.spans.push(Span { tile, from, until: until.max(from), at });
        true
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The moments at which something is known of the whole view, in the order of time.
    pub fn moments(&self) -> PastMoments {
        let tiles = self.spans.iter().map(|span| usize::from(span.tile) + 1).max().unwrap_or_default();
        let mut by_tile: Vec<Vec<Span>> = vec![Vec::new(); tiles];
        self.spans.iter().for_each(|span| by_tile[usize::from(span.tile)].push(*span));
        let mut edges = Vec::with_capacity(2 * self.spans.len());
        for spans in &mut by_tile {
            spans.sort_by_key(|span| span.from);
            // Where the clock was put back, what came later counts.
            let starts: Vec<i64> = spans.iter().skip(1).map(|span| span.from).collect();
            for (span, next) in spans.iter_mut().zip(starts) {
                span.until = span.until.min(next.saturating_sub(1)).max(span.from);
            }
            edges.extend(spans.iter().flat_map(|span| [span.from, span.until]));
        }
        edges.sort_unstable();
        edges.dedup();
        let mut out = PastMoments::default();
        let mut next = vec![0; tiles];
        let mut here: Vec<usize> = Vec::with_capacity(tiles);
        for edge in edges {
            here.clear();
            let mut is_whole = true;
            for (spans, next) in by_tile.iter().zip(&mut next) {
                while spans.get(*next).is_some_and(|span| span.until < edge) {
                    *next += 1;
                }
                match spans.get(*next).filter(|span| span.from <= edge) {
                    // A picture of another shape has fewer tiles, which are the first ones; a gap among them is a row that was lost.
                    Some(span) if is_whole => here.push(span.at),
                    Some(_) => here.clear(),
                    None => is_whole = false,
                }
            }
            let last = out.moments.last_mut().filter(|(.., at)| out.rows[*at..] == here[..]);
            match last {
                _ if here.is_empty() => {}
                Some((_, until, _)) => *until = edge,
                None => {
                    out.moments.push((edge, edge, out.rows.len()));
                    out.rows.extend_from_slice(&here);
                }
            }
        }
        out
    }

    /// The samples of the label with this number, in seconds since 1970.
    pub fn samples(&self, moments: &PastMoments, label: usize) -> Vec<Sample> {
        let ends = moments.moments.iter().skip(1).map(|(.., at)| *at).chain([moments.rows.len()]);
        let seconds = |milliseconds: i64| milliseconds as f64 / 1000.0;
        let sample = |((from, until, at), end): (&(i64, i64, usize), usize)| {
            let margins = moments.rows[*at..end].iter().filter_map(|row| self.margins.get(row + label).copied());
            // What is no number stays none.
            let margin = margins.reduce(|a, b| if a.is_nan() || a > b { a } else { b }).unwrap_or(f32::NAN);
            Sample { from: seconds(*from), to: seconds(*until), margin }
        };
        moments.moments.iter().zip(ends).map(sample).collect()
    }
}

/// How many samples stand both for what is marked as seen and for what is marked as not: the history took the two for the same.
pub fn of_both(samples: &[Sample], seen: &[(f64, f64)], absent: &[(f64, f64)]) -> usize {
    let (seen, absent) = (joined(seen), joined(absent));
    let touches = |sample: &Sample, spans: &[(f64, f64)]| {
        let next = spans.partition_point(|(_, to)| to - EDGE < sample.from);
        spans.get(next).is_some_and(|(from, _)| from + EDGE <= sample.to)
    };
    samples.iter().filter(|sample| touches(sample, &seen) && touches(sample, &absent)).count()
}

/// Of the last day's samples below `enter`: how many there are, and which share lies beyond the calibrated range. `None`: there are none.
pub fn drift(samples: &[Sample], every: Duration, range: &UsualRange, enter: f32) -> Option<(u64, f64)> {
    const DAY: f64 = 86_400.0;
    let since = samples.last()?.to - DAY;
    let without = samples.iter().filter(|sample| sample.to >= since && sample.margin < enter);
    let (mut all, mut beyond) = (0, 0);
    for sample in without {
        let count = 1 + steps(sample.to - sample.from.max(since), every);
        all += count;
        beyond += if range.holds(sample.margin) { 0 } else { count };
    }
    (all > 0).then(|| (all, beyond as f64 / all as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(from: f64, to: f64, margin: f32) -> Sample {
        Sample { from, to, margin }
    }

    #[test]
    fn rows_of_a_plain_view_are_samples_as_long_as_they_lasted_in_the_order_of_time() {
        let mut past = PastMargins::new(2);
        for (from, until, margin) in [(0, 5000, 1.0), (8000, 8000, 3.0), (6000, 7000, 2.0)] {
            assert!(past.push(0, (from, until), [margin, -margin].into_iter()));
        }
        let moments = past.moments();
        assert_eq!(past.samples(&moments, 0), [sample(0.0, 5.0, 1.0), sample(6.0, 7.0, 2.0), sample(8.0, 8.0, 3.0)]);
        assert_eq!(past.samples(&moments, 1)[2].margin, -3.0);
    }

    #[test]
    fn a_moment_has_the_best_of_its_tiles_and_none_where_a_tile_is_missing() {
        let mut past = PastMargins::new(1);
        let rows =
            [(0, 0, 10_000, 1.0), (1, 0, 4000, 0.0), (1, 5000, 7000, 9.0), (1, 9000, 10_000, -1.0), (2, 0, 7000, 0.5)];
        for (tile, from, until, margin) in rows {
            past.push(tile, (from, until), [margin].into_iter());
        }
        let moments = past.moments();
        // From 9 s on the picture has two tiles; nothing is known between the frames at 7 and 9 s.
        let wanted = [sample(0.0, 4.0, 1.0), sample(5.0, 7.0, 9.0), sample(9.0, 10.0, 1.0)];
        assert_eq!(past.samples(&moments, 0), wanted);
        // Of tile 1 nothing was kept at 12 s.
        past.push(0, (12_000, 12_000), [1.0].into_iter());
        past.push(2, (12_000, 12_000), [1.0].into_iter());
        assert_eq!(past.samples(&past.moments(), 0), wanted);
    }

    #[test]
    fn a_clock_that_was_put_back_and_too_many_rows_do_no_harm() {
        let mut past = PastMargins::new(1);
        for (from, until, margin) in [(0, 9000, 1.0), (5000, 6000, 2.0), (5000, 7000, f32::NAN)] {
            past.push(0, (from, until), [margin].into_iter());
        }
        let samples = past.samples(&past.moments(), 0);
        assert!(samples.windows(2).all(|pair| pair[0].to <= pair[1].from), "{samples:?}");
        assert_eq!(samples[0], sample(0.0, 4.999, 1.0));
        let mut full = PastMargins { room: 1, ..PastMargins::new(1) };
        assert!(full.push(0, (0, 0), std::iter::empty()) && !full.push(0, (1, 1), std::iter::empty()));
        assert!(PastMargins::new(3).moments().moments.is_empty());
    }

    #[test]
    fn drift_is_the_share_of_the_last_day_below_enter_that_is_beyond_the_range() {
        let range = UsualRange::new((-2.0, -1.0), 3.0);
        let samples = [
            sample(0.0, 9.0, -9.0),
            sample(90_000.0, 90_002.0, -1.5),
            sample(90_003.0, 90_003.0, -9.0),
            sample(90_004.0, 90_009.0, 5.0),
        ];
        assert_eq!(drift(&samples, Duration::from_secs(1), &range, 3.0), Some((4, 0.25)));
        assert_eq!(drift(&samples[3..], Duration::from_secs(1), &range, 3.0), None);
        assert_eq!(drift(&[], Duration::from_secs(1), &range, 3.0), None);
    }

    #[test]
    fn a_row_that_stands_for_both_kinds_is_told() {
        let samples = [sample(0.0, 10.0, 1.0), sample(11.0, 20.0, 2.0)];
        assert_eq!(of_both(&samples, &[(2.0, 5.0)], &[(6.0, 8.0)]), 1);
        assert_eq!(of_both(&samples, &[(2.0, 5.0)], &[(12.0, 18.0)]), 0);
    }
}
