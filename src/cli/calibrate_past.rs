//! What a stream's history says of a label set: the margins of its rows, as the daemon's own scorer has them.
//!
//! In: a configuration, a stream, one of its views, a set, and marks by the clock, for the time that is looked at. Out: [`PastScores`]. No camera and no
//! image tower: embeddings are read from `history.path`, while a daemon writes there or not, and compared with the set's texts. On the main
//! thread, which waits.

use std::collections::BTreeMap;

use ndarray::ArrayView1;

use super::calibrate_examples::ExampleSearch;
use super::marks::Failure;
use super::plural;
use crate::calibrate::marks::{MarkTime, SetMarks};
use crate::calibrate::past_samples::{PastMargins, PastMoments};
use crate::config::{Settings, StreamSettings};
use crate::daemon::example_embeddings::ExampleViews;
use crate::daemon::{engine, open_model};
use crate::frame::view::NamedView;
use crate::history::name_table::Name;
use crate::history::past_rows;
use crate::history::row_store::StoredRows;
use crate::label::kept_examples::{self, KeptExamples};
use crate::label::{LabelSet, verdict_store};
use crate::platform::shutdown;
use crate::score::learning::LearnedLabel;

/// What is looked at before the first mark, ms: a tag may have begun there.
const BEFORE: i64 = 60_000;

/// A set's margins over a piece of the past.
pub(super) struct PastScores {
    /// The model's fingerprint.
    pub model: String,
    pub margins: PastMargins,
    pub moments: PastMoments,
    /// What became of labels with examples.
    pub labels: Vec<LearnedLabel>,
    /// The set, with what it has learned from the past.
    pub set: LabelSet,
    /// That, by its labels.
    pub learned: BTreeMap<String, KeptExamples>,
}

/// What the examples of a view are kept under.
pub(super) fn source_of(stream: &str, view: &NamedView) -> String {
    view.name.as_ref().map_or_else(|| stream.to_owned(), |region| format!("{stream}/{region}"))
}

/// The rows of the view since a minute before the first mark; `learning`: the labels that may learn from them, all if there are none.
///
/// # Errors
/// Why there are none.
pub(super) fn read(
    settings: &Settings,
    stream: &StreamSettings,
    view: &NamedView,
    (set, learning): (&LabelSet, Option<&[String]>),
    marks: &SetMarks,
) -> Result<PastScores, Failure> {
    let id = &stream.source.id;
    let Some(history) = settings.history.as_ref().filter(|_| stream.history) else {
        let why =
            "its history is off, so that nothing says what it showed: switch `history` on, or give --clip and --marks";
        return Err((format!("stream {id}: {why}"), 2));
    };
    let Some(folder) = &history.path else {
        let why = "is kept in memory, for its daemon alone: `history: {}` in the configuration keeps it on disk from the next start on, \
                   and marks from then on can be calibrated with; or give --clip and --marks";
        return Err((format!("the history of stream {id} {why}"), 2));
    };
    let all = marks.all();
    let of_view = all.iter().filter(|mark| mark.region.is_none() || mark.region.as_deref() == view.name.as_deref());
    let by_clock = of_view.map(|mark| mark.span.0).filter(|from| !from.is_media());
    let Some(since) = by_clock.map(MarkTime::seconds).reduce(f64::min) else {
        let why =
            "are seconds of a clip, or of another region; of a camera they are times, such as 2026-05-01T12:00:00Z";
        return Err((format!("the marks of the set `{}` on stream {id} {why}", set.name), 2));
    };
    let (trigger, shutdown) = shutdown::channel();
    let _signals = crate::platform::signals::listen(trigger, None, crate::logs::finish);
    let bundle =
        open_model::open(&settings.model, &shutdown).map_err(|error| (error.to_string(), error.exit_code()))?;
    let bundle = bundle.ok_or_else(|| ("the configuration has no model".to_owned(), 2))?;
    let unreadable = |error| (format!("the history in {} cannot be read: {error}", folder.display()), 1);
    let (stored, damage) = StoredRows::open(folder).map_err(unreadable)?;
    damage.iter().for_each(|damage| tracing::warn!(damage, "a part of the history is damaged; the rest is read"));
    let region = view.name.as_deref().unwrap_or_default();
    let name = Name {
        stream: id.to_string(),
        region: region.to_owned(),
        model: bundle.fingerprint.clone(),
        view: view.digest(),
    };
    let mut set = set.clone();
    let mut learned = BTreeMap::new();
    let verdicts = verdict_store::read(&settings.state, id, view.name.as_deref(), &set.name);
    let search = learning.and_then(|labels| {
        ExampleSearch::new(&set, labels, (marks, view.name.as_deref()), &verdicts, &bundle.fingerprint)
    });
    if let Some(mut search) = search {
        let texts = set.without_examples();
        let scorer = engine::scorer_of_texts(&bundle, &settings.infer, &texts, &ExampleViews::default(), &shutdown)
            .map_err(|error| (error.to_string(), error.exit_code()))?;
        past_rows::visit(&stored, &name, (search.since(), i64::MAX), &mut |row| {
            if row.embedding.len() == scorer.dim() {
                let scores = scorer.score(ArrayView1::from(row.embedding));
                search.note(row, |label| scores.get(label).map_or(f32::NAN, |score| score.margin));
            }
            !shutdown.is_requested()
        });
        learned = search.found();
        let place = source_of(id, view);
        for label in kept_examples::put_all(&mut set, &place, &mut learned) {
            let why = "what is kept of the past does not show both what it looks like and what it is not";
            tracing::warn!("nothing is learned for `{label}`: {why}");
        }
    }
    let set = set;
    let scorer = engine::scorer_of_texts(&bundle, &settings.infer, &set, &ExampleViews::of(settings), &shutdown)
        .map_err(|error| (error.to_string(), error.exit_code()))?;
    let mut margins = PastMargins::new(set.labels.len());
    let mut is_full = false;
    let since = ((since * 1000.0) as i64).saturating_sub(BEFORE);
    let read = past_rows::visit(&stored, &name, (since, i64::MAX), &mut |row| {
        // Whatever the folder holds, only what can be compared is.
        if row.embedding.len() != scorer.dim() {
            return true;
        }
        let scores = scorer.score(ArrayView1::from(row.embedding));
        is_full = !margins.push(row.tile, (row.from, row.until), scores.iter().map(|score| score.margin));
        !is_full && !shutdown.is_requested()
    });
    if shutdown.is_requested() {
        return Err(("interrupted".to_owned(), 1));
    }
    if is_full {
        tracing::warn!("there is more than can be looked at since the first mark; what came last is left out");
    }
    let rows = |number: u64| plural(usize::try_from(number).unwrap_or(usize::MAX), "row");
    let left_out = [
        (read.damaged, "as damaged"),
        (read.other_views, "as seen through another view than the stream has now"),
        (read.other_models, "as of another model"),
    ];
    for (number, why) in left_out.into_iter().filter(|(number, _)| *number > 0) {
        tracing::warn!("left out of the history, {why}: {}", rows(number));
    }
    if read.unknown_views > 0 {
        let what = "of the history, kept by an earlier version without the view: if that has changed since, remove the marks of then";
        tracing::warn!("{} {what}", rows(read.unknown_views));
    }
    read.unreadable.iter().for_each(|what| tracing::warn!(what, "a part of the history cannot be read"));
    if margins.is_empty() {
        let other = match (read.other_models, read.other_views) {
            (0, 0) => "`history.max_age` and `max_size` say how long it is kept",
            (_, 0) => "what there is was made by another model, which says nothing of this one",
            (0, _) => "what there is was seen through another view: mark what it shows now",
            _ => "what there is was seen through another view or by another model: mark what it shows now",
        };
        return Err((format!("the history has nothing of stream {id} since the first mark: {other}"), 2));
    }
    let moments = margins.moments();
    let labels = scorer.learned_labels().to_vec();
    Ok(PastScores { model: bundle.fingerprint, margins, moments, labels, set, learned })
}
