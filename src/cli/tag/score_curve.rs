//! The margins of one label over media time, as many as a picture of them has room for. Pure.
//!
//! In: samples in the order of time, however many. Out: points of a line. Full: neighbours are joined, each then shows its lowest and its
//! highest sample, so that no peak is lost.

/// Columns, of two points each.
const MAX_COLUMNS: usize = 1024;
/// Seconds of a column at first: shorter than samples are apart.
const FIRST_WIDTH: f64 = 0.02;
/// What is further out is drawn at the edge: no probability tells it apart.
pub(super) const FARTHEST: f32 = 30.0;

/// Media time and margin.
pub(super) type Point = (f64, f32);

#[derive(Clone, Copy, Debug)]
struct Column {
    number: u64,
    low: Point,
    high: Point,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct ScoreCurve {
    columns: Vec<Column>,
    width: f64,
}

impl ScoreCurve {
    pub fn new() -> Self {
        Self { columns: Vec::new(), width: FIRST_WIDTH }
    }

    /// Takes a sample; one that is no number is left out.
    pub fn note(&mut self, at: f64, margin: f32) {
        if margin.is_nan() {
            return;
        }
        let point = (at, margin.clamp(-FARTHEST, FARTHEST));
        loop {
            let number = (at / self.width) as u64;
            let has_room = self.columns.len() < MAX_COLUMNS;
            match self.columns.last_mut() {
                Some(last) if last.number == number => return last.join(point, point),
                _ if has_room => return self.columns.push(Column { number, low: point, high: point }),
                _ => self.widen(),
            }
        }
    }

    fn widen(&mut self) {
        self.width *= 2.0;
        let mut joined: Vec<Column> = Vec::with_capacity(MAX_COLUMNS);
        for column in &self.columns {
            let number = column.number / 2;
            match joined.last_mut() {
                Some(last) if last.number == number => last.join(column.low, column.high),
                _ => joined.push(Column { number, ..*column }),
            }
        }
        self.columns = joined;
    }

    /// In the order of time.
    pub fn points(&self) -> impl Iterator<Item = Point> {
        self.columns.iter().flat_map(|Column { low, high, .. }| {
            let (first, second) = if low.0 <= high.0 { (*low, *high) } else { (*high, *low) };
            std::iter::once(first).chain((first != second).then_some(second))
        })
    }
}

impl Column {
    fn join(&mut self, low: Point, high: Point) {
        if low.1 < self.low.1 {
            self.low = low;
        }
        if high.1 > self.high.1 {
            self.high = high;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_short_video_keeps_every_sample_and_a_day_keeps_its_peaks() {
        let mut curve = ScoreCurve::new();
        (0..500).for_each(|n| curve.note(f64::from(n), (n % 7) as f32));
        assert_eq!(curve.points().count(), 500);
        let mut day = ScoreCurve::new();
        (0..86_400).for_each(|n| day.note(f64::from(n), if n == 54_321 { 9.0 } else { -1.0 }));
        assert!(day.points().count() <= 2 * MAX_COLUMNS);
        assert!(day.points().any(|point| point == (54_321.0, 9.0)));
    }

    proptest! {
        #[test]
        fn there_are_never_too_many_points_and_they_are_in_order_with_both_extremes(
            samples in proptest::collection::vec((0.0f64..3000.0, -40.0f32..40.0), 1..3000),
        ) {
            let mut curve = ScoreCurve::new();
            let mut at = 0.0;
            for (step, margin) in &samples {
                at += step;
                curve.note(at, *margin);
            }
            curve.note(at, f32::NAN);
            let points: Vec<Point> = curve.points().collect();
            prop_assert!(points.len() <= 2 * MAX_COLUMNS);
            prop_assert!(points.is_sorted_by(|a, b| a.0 <= b.0));
            let extreme = |pick: fn(f32, f32) -> f32, of: &mut dyn Iterator<Item = f32>| of.reduce(pick);
            for pick in [f32::min as fn(f32, f32) -> f32, f32::max] {
                let wanted = extreme(pick, &mut samples.iter().map(|(_, m)| m.clamp(-FARTHEST, FARTHEST)));
                prop_assert_eq!(extreme(pick, &mut points.iter().map(|point| point.1)), wanted);
            }
        }
    }
}
