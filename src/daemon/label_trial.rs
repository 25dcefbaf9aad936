//! How a label that does not run would stand, now and over the past, on every camera.
//!
//! In: the set that it would be in, the streams, and what the history keeps. Out: a curve for each stream and region. On a thread of its own, which goes
//! after inference; what was kept last is looked at first, and [`MAX_ROWS`] at most.

use ndarray::ArrayView1;

use crate::api::{TriedLabel, TriedStream};
use crate::config::thresholds;
use crate::event::live_scores::Level;
use crate::event::{ModelRef, Thresholds};
use crate::history::margin_curve::MarginCurve;
use crate::history::name_table::Name;
use crate::history::past_rows;
use crate::history::picture_files::PictureName;
use crate::history::row_store::StoredRows;
use crate::label::LabelSet;
use crate::score::Scorer;

/// Rows that are scored, some ten microseconds and sixty bytes each. Sixteen cameras keep fewer in six hours.
const MAX_ROWS: usize = 250_000;

/// What is tried.
pub(super) struct LabelTrial<'a> {
    pub set: &'a LabelSet,
    /// Number of the label in it.
    pub label: usize,
    pub scorer: &'a Scorer,
    pub events: &'a Thresholds,
    pub model: &'a ModelRef,
    /// Stream, region (empty: the whole view), and the digest of the view.
    pub names: Vec<(String, String, String)>,
    /// Milliseconds since 1970.
    pub times: (i64, i64),
}

impl LabelTrial<'_> {
    /// Looks at what is stored.
    pub fn run(self, stored: &StoredRows) -> TriedLabel {
        let fingerprint = self.model.fingerprint.to_string();
        let name = |(stream, region, view): &(String, String, String)| Name {
            stream: stream.clone(),
            region: region.clone(),
            model: fingerprint.clone(),
            view: view.clone(),
        };
        let names: Vec<Name> = self.names.iter().map(name).collect();
        let mut rows = Vec::new();
        let read = past_rows::visit_latest(stored, &names, self.times, &mut |at, row| {
            // Whatever the folder holds, only what can be compared is.
            if row.embedding.len() == self.scorer.dim()
                && let Some(score) = self.scorer.score(ArrayView1::from(row.embedding)).get(self.label)
            {
                rows.push((at, (row.from, row.until), score.margin, row.picture));
            }
            rows.len() < MAX_ROWS
        });
        // What was kept for a minute is not a dot at the end of an empty week.
        let first = rows.iter().map(|(_, (from, _), ..)| *from).min().unwrap_or(self.times.0);
        let times = (first.clamp(self.times.0, self.times.1), self.times.1);
        let mut curves: Vec<MarginCurve> = names.iter().map(|_| MarginCurve::new(times)).collect();
        let is_whole = rows.len() < MAX_ROWS;
        for (at, times, margin, picture) in rows {
            curves[at].push(times, margin, picture);
        }
        let address = |name: PictureName| stored.picture(name).map(|_| format!("/api/v1/history/{}", name.text()));
        let time = |at: i64| jiff::Timestamp::from_millisecond(at).unwrap_or(jiff::Timestamp::MIN);
        let step = curves.first().map_or(0.0, MarginCurve::step);
        let streams = self.names.into_iter().zip(curves).map(|((stream, region, _), curve)| TriedStream {
            stream,
            region: Some(region).filter(|region| !region.is_empty()),
            curve: curve.told(address),
        });
        let label = &self.set.labels[self.label];
        let levels = thresholds(label, self.events);
        TriedLabel {
            model: self.model.clone(),
            set: self.set.name.clone(),
            label: label.name.clone(),
            enter: Level::of(levels.enter),
            exit: Level::of(levels.exit),
            after: levels.after.as_secs_f64(),
            since: time(times.0),
            until: time(times.1),
            step,
            streams: streams.collect(),
            is_whole,
            other_models: read.other_models,
            damaged: read.damaged,
        }
    }
}
