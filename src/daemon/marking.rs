//! Marks as they are changed, by the command and for the API: intervals, and tags that were right or wrong.
//!
//! In: a state directory, and what is said. Out: the [store](mark_store) as it is then, or why not: what marks come to is checked before anything is
//! kept. [`KeptMarks`] answers the API, by the streams and label sets that run; the main thread hands them in. On the caller's thread,
//! which waits for the disk. A daemon's scores never wait for it: marks count once something is calibrated with them.

use std::path::PathBuf;

use parking_lot::RwLock;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::api::{MarkKeeping, MarkRefusal, MarkView, NewMark};
use crate::calibrate::marked_samples::EDGE;
use crate::calibrate::marks::{MarkKind, MarkTime, SetMarks, Span};
use crate::config::{Settings, StreamSettings};
use crate::event::tag_times::TagTimes;
use crate::label::mark_store::{self, MarkStoreError, MarksByStream};
use crate::label::verdict_store::{self, TagVerdict};
use crate::platform::state_folder::{StateError, StateFolder};
use crate::source::Location;

/// Seconds on each side of an event that are marked with it: edges do not count, and its own first and last sample should.
const ROUND_EVENT: f64 = EDGE + 0.01;

/// Changes the marks of a set on a stream; `known`: the set's labels, if marks are to be held against them. Where the file was damaged its new
/// name is given.
///
/// # Errors
/// Why they cannot be so, or cannot be kept.
pub fn change<T>(
    state: &StateFolder,
    stream: &str,
    set: &str,
    known: Option<&[String]>,
    change: impl FnOnce(&mut SetMarks) -> Result<T, String>,
) -> Result<(T, Option<PathBuf>), MarkStoreError> {
    mark_store::change(state, |streams: &mut MarksByStream| {
        let marks = streams.entry(stream.to_owned()).or_default().entry(set.to_owned()).or_default();
        // Marks of a label that has gone since are no reason to refuse others.
        let before = marks.problems(known);
        let done = change(marks)?;
        let mut problems = marks.problems(known);
        problems.retain(|problem| !before.contains(problem));
        if problems.is_empty() { Ok(done) } else { Err(problems.join("\n")) }
    })
}

/// Whether the stream is a file that is looked at once: then it is itself the clip, and its moments are seconds.
pub fn is_clip(stream: &StreamSettings) -> bool {
    matches!(stream.source.location, Location::File(_)) && !stream.source.looped
}

/// Why a tag cannot be judged, if it cannot: what is not there on the left of a view may be there on the right at the same time.
pub fn refusal_of(tag: &TagTimes) -> Option<String> {
    let region = tag.region.as_ref()?;
    Some(format!(
        "the tag is of the region `{region}`, and marks are of all regions of `{}`: mark what was seen or absent in all of them (`vtagd marks add`)",
        tag.stream
    ))
}

/// What is marked of a tag: its time, with what lies round it.
pub fn span_of(tag: &TagTimes, is_clip: bool) -> Span {
    if is_clip {
        let (from, to) = tag.media;
        let rounded = |seconds: f64| MarkTime::Media((seconds * 1000.0).round() / 1000.0);
        return Span(rounded((from - ROUND_EVENT).max(0.0)), rounded(to + ROUND_EVENT));
    }
    let around = jiff::SignedDuration::from_secs_f64(ROUND_EVENT);
    let (from, to) = tag.wall;
    Span(
        MarkTime::Wall(from.saturating_sub(around).unwrap_or(from)),
        MarkTime::Wall(to.saturating_add(around).unwrap_or(to)),
    )
}

/// Marks a tag's time as seen, or as absent where the tag was wrong; what is marked, and whether it was not before.
pub fn mark_tag(marks: &mut SetMarks, label: &str, span: Span, is_right: bool) -> (MarkKind, bool) {
    let (seen, absent) = (MarkKind::Seen(label.to_owned()), MarkKind::Absent(label.to_owned()));
    let (kind, other) = if is_right { (seen, absent) } else { (absent, seen) };
    // Who has changed his mind says so of the same event.
    marks.remove(&other, span);
    let before = marks.len();
    marks.add(&kind, span);
    let is_new = marks.len() > before;
    (kind, is_new)
}

/// Remembers what was said of a tag, for labels that learn. Where the file was damaged its new name is given.
///
/// # Errors
/// When it cannot be kept.
pub fn keep_verdict(state: &StateFolder, tag: &TagTimes, is_right: bool) -> Result<Option<PathBuf>, StateError> {
    let (from, to) = tag.wall;
    let (stream, set, label) = (tag.stream.clone(), tag.set.clone(), tag.label.clone());
    verdict_store::keep(state, TagVerdict { stream, set, label, from, to, is_right })
}

/// What the API is told of a stream.
struct MarkedStream {
    id: String,
    is_clip: bool,
    /// Each with its labels.
    sets: Vec<(String, Vec<String>)>,
}

/// See the module.
pub struct KeptMarks {
    state: StateFolder,
    streams: RwLock<Vec<MarkedStream>>,
}

impl KeptMarks {
    pub fn new(settings: &Settings) -> Self {
        let kept = Self { state: settings.state.clone(), streams: RwLock::default() };
        kept.change(settings);
        kept
    }

    /// Goes on with these streams and label sets.
    pub fn change(&self, settings: &Settings) {
        let of_stream = |stream: &StreamSettings| {
            let sets = stream.label_sets.iter().filter_map(|at| settings.label_sets.get(*at));
            let labels =
                sets.map(|set| (set.name.clone(), set.labels.iter().map(|label| label.name.clone()).collect()));
            MarkedStream { id: stream.source.id.to_string(), is_clip: is_clip(stream), sets: labels.collect() }
        };
        *self.streams.write() = settings.streams.iter().map(of_stream).collect();
    }

    /// The set's labels, and whether the stream is a clip.
    fn labels(&self, stream: &str, set: &str) -> Result<(Vec<String>, bool), MarkRefusal> {
        let streams = self.streams.read();
        let unknown = |what: &str| MarkRefusal::Unknown(what.to_owned());
        let found = streams.iter().find(|one| one.id == stream).ok_or_else(|| unknown("no such stream"))?;
        let of = found.sets.iter().find(|(name, _)| name == set);
        let (_, labels) = of.ok_or_else(|| unknown("the stream has no such label set"))?;
        Ok((labels.clone(), found.is_clip))
    }

    fn changed<T>(
        &self,
        (stream, set): (&str, &str),
        known: &[String],
        change: impl FnOnce(&mut SetMarks) -> Result<T, String>,
    ) -> Result<T, MarkRefusal> {
        let (done, damaged) = self::change(&self.state, stream, set, Some(known), change).map_err(refused)?;
        if let Some(file) = damaged {
            tracing::warn!(file = %file.display(), "the marks that there were are damaged; they are kept there");
        }
        Ok(done)
    }
}

fn refused(error: MarkStoreError) -> MarkRefusal {
    match error {
        MarkStoreError::Refused(why) => MarkRefusal::Conflict(why),
        other => MarkRefusal::Failed(other.to_string()),
    }
}

/// What the API names a mark by: it follows from the mark.
fn id_of(stream: &str, set: &str, kind: &MarkKind, span: &Span) -> String {
    let text = serde_json::json!([stream, set, kind.to_string(), span]).to_string();
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn view(stream: &str, set: &str, kind: &MarkKind, span: &Span) -> MarkView {
    let (label, word) = match kind {
        MarkKind::Seen(label) => (Some(label.clone()), "seen"),
        MarkKind::Absent(label) => (Some(label.clone()), "absent"),
        MarkKind::Empty => (None, "empty"),
    };
    // Numbers and times always are JSON.
    let moment = |at: MarkTime| serde_json::to_value(at).unwrap_or(Value::Null);
    MarkView {
        id: id_of(stream, set, kind, span),
        stream: stream.to_owned(),
        set: set.to_owned(),
        label,
        kind: word,
        from: moment(span.0),
        to: moment(span.1),
    }
}

impl MarkKeeping for KeptMarks {
    fn all(&self) -> Result<Vec<MarkView>, MarkRefusal> {
        let streams = mark_store::read(&self.state).map_err(refused)?;
        let sets = streams.iter().flat_map(|(stream, sets)| sets.iter().map(move |(set, marks)| (stream, set, marks)));
        let of_set = |(stream, set, marks): (&String, &String, &SetMarks)| {
            marks.all().iter().map(|(kind, span)| view(stream, set, kind, span)).collect::<Vec<_>>()
        };
        Ok(sets.flat_map(of_set).collect())
    }

    fn add(&self, mark: &NewMark) -> Result<(MarkView, bool), MarkRefusal> {
        let (stream, set) = (&*mark.stream, &*mark.set);
        let (known, _) = self.labels(stream, set)?;
        let conflict = |why: &str| MarkRefusal::Conflict(why.to_owned());
        let kind = match (&*mark.kind, &mark.label) {
            ("empty", None) => MarkKind::Empty,
            ("empty", Some(_)) => return Err(conflict("`empty` is of all labels of the set, not of one")),
            (_, None) => return Err(conflict("`label` is missing: of which is it?")),
            (_, Some(label)) if !known.contains(label) => {
                return Err(MarkRefusal::Unknown("the set has no such label".to_owned()));
            }
            ("seen", Some(label)) => MarkKind::Seen(label.clone()),
            (_, Some(label)) => MarkKind::Absent(label.clone()),
        };
        let time = |text: &str| text.parse::<MarkTime>().map_err(MarkRefusal::Conflict);
        let span = Span(time(&mark.from)?, time(&mark.to)?);
        let is_new = self.changed((stream, set), &known, |marks| {
            let before = marks.len();
            marks.add(&kind, span);
            Ok(marks.len() > before)
        })?;
        Ok((view(stream, set, &kind, &span), is_new))
    }

    fn remove(&self, id: &str) -> Result<MarkView, MarkRefusal> {
        let none = || "no such mark".to_owned();
        let removed = mark_store::change(&self.state, |streams| {
            for (stream, sets) in streams.iter_mut() {
                for (set, marks) in sets.iter_mut() {
                    let found = marks.all().into_iter().find(|(kind, span)| id_of(stream, set, kind, span) == id);
                    if let Some((kind, span)) = found {
                        marks.remove(&kind, span);
                        return Ok(view(stream, set, &kind, &span));
                    }
                }
            }
            Err(none())
        });
        match removed {
            Ok((mark, _)) => Ok(mark),
            Err(MarkStoreError::Refused(why)) => Err(MarkRefusal::Unknown(why)),
            Err(error) => Err(refused(error)),
        }
    }

    fn mark_tag(&self, tag: &TagTimes, is_right: bool) -> Result<(MarkView, bool), MarkRefusal> {
        if let Some(why) = refusal_of(tag) {
            return Err(MarkRefusal::Conflict(why));
        }
        let (stream, set) = (&*tag.stream, &*tag.set);
        let gone = |_| MarkRefusal::Conflict("its stream has no such label set any more".to_owned());
        let (known, is_clip) = self.labels(stream, set).map_err(gone)?;
        if !known.contains(&tag.label) {
            return Err(MarkRefusal::Conflict("its set has no such label any more".to_owned()));
        }
        let span = span_of(tag, is_clip);
        let (kind, is_new) =
            self.changed((stream, set), &known, |marks| Ok(mark_tag(marks, &tag.label, span, is_right)))?;
        keep_verdict(&self.state, tag, is_right).map_err(|error| MarkRefusal::Failed(error.to_string()))?;
        Ok((view(stream, set, &kind, &span), is_new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_of_one_region_says_nothing_of_the_others() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let tag = |region: Option<&str>| -> TagTimes {
            let event = serde_json::json!({
                "specversion": "1.0", "id": "019a1b2c-0000-7000-8000-000000000000", "source": "/a/streams/gate", "type": "dev.vtagd.tag.start",
                "subject": "yard/car", "time": now, "datacontenttype": "application/json",
                "data": {
                    "stream": "gate", "region": region, "set": "yard", "label": "car", "tag_id": "019a1b2c-0000-7000-8000-000000000001",
                    "score": 0.9, "peak": 0.9, "started_at": now, "ended_at": null, "sampled_at": now, "media_start": 4.0, "media_end": null,
                    "model": { "name": "m", "fingerprint": "f" }, "attributes": {}, "snapshot": null,
                },
            });
            TagTimes::of(&serde_json::from_value(event).unwrap())
        };
        assert_eq!(refusal_of(&tag(None)), None);
        assert!(refusal_of(&tag(Some("left"))).is_some_and(|why| why.contains("`left`") && why.contains("marks add")));
    }
}
