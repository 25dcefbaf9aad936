//! How a label would have stood over a piece of the past: of each stream and region a curve, a histogram and the pictures of its highest points.
//!
//! In: rows with their margins, in any order. Out: what the page draws. Pure; bounded by the number of [points](POINTS), however many rows there are.

use serde::Serialize;

use super::picture_files::PictureName;
use super::search_answer::{Bars, HistogramBar};

/// Of a curve: more than a screen has room for …
pub const POINTS: usize = 720;
/// … and no shorter than this, ms: cameras are looked at once a second or so.
const LEAST_STEP: i64 = 1000;
/// Pictures that a curve names: those of its highest points.
const PICTURES: usize = 60;
/// Rows that begin so near to one another show the same moment, ms: tiles of one picture.
const SAME_MOMENT: i64 = 500;

/// Of one stream and region.
#[derive(Clone, Debug)]
pub struct MarginCurve {
    since: i64,
    /// Of a point, ms.
    step: i64,
    points: Vec<HighestRow>,
    bars: Bars,
    rows: u64,
    /// When it was seen last, and how it stood.
    last: Option<(i64, f32)>,
}

/// The highest row of a time.
#[derive(Clone, Copy, Debug)]
struct HighestRow {
    /// No number: nothing was kept then.
    margin: f32,
    /// When it was first seen, ms: its picture is of then.
    from: i64,
    picture: Option<PictureName>,
}

/// Which step it is of, and where it is to be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepPicture {
    pub step: usize,
    pub url: String,
}

/// The same as it is told.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ToldCurve {
    pub rows: u64,
    /// How it stood when something was kept last.
    pub now: Option<f32>,
    /// The highest margin of each step; null: nothing was kept then.
    pub curve: Vec<Option<f32>>,
    /// When what was highest in each step was first seen, ms after the curve's beginning, or before it: whoever means that moment, and its picture, says so.
    pub times: Vec<Option<i64>>,
    /// Those of the highest steps.
    pub pictures: Vec<StepPicture>,
    /// How the margins of all rows are spread.
    pub histogram: Vec<HistogramBar>,
}

impl MarginCurve {
    /// Of the time from `since` to `until`, in milliseconds.
    pub fn new((since, until): (i64, i64)) -> Self {
        let span = until.saturating_sub(since).max(0);
        let step = (span / POINTS as i64 + 1).max(LEAST_STEP);
        let points = (span / step) as usize + 1;
        Self {
            since,
            step,
            points: vec![HighestRow { margin: f32::NAN, from: since, picture: None }; points],
            bars: Bars::default(),
            rows: 0,
            last: None,
        }
    }

    /// Seconds of a point.
    pub fn step(&self) -> f64 {
        self.step as f64 / 1000.0
    }

    pub fn push(&mut self, (from, until): (i64, i64), margin: f32, picture: Option<PictureName>) {
        if !margin.is_finite() {
            return;
        }
        self.rows += 1;
        self.bars.note(margin);
        let last = self.points.len() - 1;
        let point = |at: i64| (at.saturating_sub(self.since).max(0) / self.step).min(last as i64) as usize;
        let (first, last) = (point(from), point(until));
        for highest in &mut self.points[first..=last.max(first)] {
            if highest.margin.is_nan() || highest.margin < margin {
                *highest = HighestRow { margin, from, picture };
            }
        }
        self.last = Some(match self.last {
            Some((at, before)) if at.saturating_sub(until).saturating_abs() < SAME_MOMENT => {
                (at.max(until), before.max(margin))
            }
            Some(before) if before.0 > until => before,
            _ => (until, margin),
        });
    }

    /// `address` says where a picture is to be had, if it still is.
    pub fn told(self, address: impl Fn(PictureName) -> Option<String>) -> ToldCurve {
        let short = |margin: f32| (margin * 100.0).round() / 100.0;
        let mut highest: Vec<usize> = (0..self.points.len()).filter(|at| self.points[*at].picture.is_some()).collect();
        highest.sort_by(|a, b| self.points[*b].margin.total_cmp(&self.points[*a].margin));
        // A row that lasts has one picture for all its points.
        let mut shown = std::collections::HashSet::new();
        highest.retain(|at| shown.insert(self.points[*at].picture));
        let picture = |step: usize| Some(StepPicture { step, url: address(self.points[step].picture?)? });
        let mut pictures: Vec<StepPicture> = highest.into_iter().take(PICTURES).filter_map(picture).collect();
        pictures.sort_unstable_by_key(|picture| picture.step);
        ToldCurve {
            rows: self.rows,
            now: self.last.map(|(_, margin)| short(margin)),
            curve: self.points.iter().map(|point| Some(short(point.margin)).filter(|m| m.is_finite())).collect(),
            times: self
                .points
                .iter()
                .map(|point| (!point.margin.is_nan()).then(|| point.from.saturating_sub(self.since)))
                .collect(),
            pictures,
            histogram: self.bars.told(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(row: u64) -> Option<PictureName> {
        Some(PictureName { segment: 1, row })
    }

    #[test]
    fn a_curve_has_the_highest_of_each_step_and_nothing_where_nothing_was_kept() {
        let mut curve = MarginCurve::new((5000, 5000 + 2000 * POINTS as i64 - 1));
        assert_eq!(curve.step(), 2.0);
        curve.push((5000, 9500), 1.0, name(1));
        curve.push((6500, 6500), 2.0, name(2));
        curve.push((15_000, 15_000), -3.0, None);
        curve.push((0, 0), 0.5, None);
        curve.push((17_000, 17_000), f32::NAN, None);
        let told = curve.told(|name| (name.row == 2).then(|| name.text()));
        assert_eq!(told.curve[..7], [Some(2.0), Some(1.0), Some(1.0), None, None, Some(-3.0), None]);
        let times = [Some(1500), Some(0), Some(0), None, None, Some(10_000), None];
        assert_eq!(told.times[..7], times, "of the row that was highest, not of its step");
        assert_eq!((told.rows, told.now, told.curve.len()), (4, Some(-3.0), POINTS));
        assert_eq!(told.pictures, [StepPicture { step: 0, url: name(2).unwrap().text() }]);
        assert_eq!(told.histogram.iter().map(|bar| bar.rows).sum::<u64>(), 4);
    }

    #[test]
    fn tiles_of_one_moment_are_one_and_an_older_row_is_not_now() {
        let mut curve = MarginCurve::new((0, 60_000));
        for (at, margin) in [(10_000, 1.0), (10_100, 4.0), (10_050, 2.0), (3000, 9.0)] {
            curve.push((at, at), margin, None);
        }
        let told = curve.told(|_| None);
        assert_eq!((told.now, told.curve.len()), (Some(4.0), 61), "no more points than looks");
    }

    #[test]
    fn any_time_and_any_row_is_taken() {
        for times in [(0, 0), (i64::MIN, i64::MAX), (5, -5)] {
            let mut curve = MarginCurve::new(times);
            assert!(curve.points.len() <= POINTS);
            for row in [(i64::MIN, i64::MAX), (i64::MAX, i64::MIN), (0, 0)] {
                curve.push(row, 1.0, name(0));
            }
            assert_eq!(curve.told(|_| None).rows, 3);
        }
    }
}
