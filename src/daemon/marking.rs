//! Marks as they are changed, by the command and for the API: intervals, and tags that were right or wrong.
//!
//! In: a state directory, and what is said. Out: the [store](mark_store) as it is then, or why not: what marks come to is checked before anything is
//! kept. [`KeptMarks`] answers the API, by the streams and label sets that run; the main thread hands them in. On the caller's thread,
//! which waits for the disk. A daemon's scores never wait for it: marks count once something is calibrated with them.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::{MarkKeeping, MarkRefusal, MarkView, NewMark};
use crate::calibrate::marked_samples::EDGE;
use crate::calibrate::marks::{Mark, MarkKind, MarkTime, SetMarks, Span};
use crate::config::{Settings, StreamSettings};
use crate::event::tag_times::TagTimes;
use crate::label::mark_store::{self, MarkStoreError, MarksByStream};
use crate::label::verdict_store::{self, TagVerdict};
use crate::platform::hex::hex;
use crate::platform::state_folder::StateFolder;
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

/// How the moments of a stream are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moments {
    /// A file that is looked at once is itself the clip: in seconds from its first picture.
    Media,
    /// A camera: by the clock.
    Wall,
    /// A file that is looked at again and again: in seconds of the file, or by the clock, when it was shown.
    Either,
}

impl Moments {
    pub fn of(stream: &StreamSettings) -> Self {
        match (&stream.source.location, stream.source.looped) {
            (Location::File(_), false) => Self::Media,
            (Location::File(_), true) => Self::Either,
            _ => Self::Wall,
        }
    }

    /// Why a mark of `stream` at such a time would never be used, if so.
    pub fn problem(self, stream: &str, span: &Span) -> Option<String> {
        match (self, span.0.is_media()) {
            (Self::Media, false) => Some(format!(
                "{span}: stream {stream} is a file that is looked at once: write seconds from its first picture, such as 4.5"
            )),
            (Self::Wall, true) => Some(format!(
                "{span}: stream {stream} is no file, and has no seconds: write times such as 2026-05-01T12:00:04Z; seconds are for a clip of it \
                 (`vtagd labels calibrate --clip FILE --marks FILE`)"
            )),
            _ => None,
        }
    }
}

/// What can be marked of a stream.
pub struct MarkedStream {
    id: String,
    pub moments: Moments,
    regions: Vec<String>,
    /// Each with its labels.
    sets: Vec<(String, Vec<String>)>,
}

impl MarkedStream {
    pub fn of(settings: &Settings, stream: &StreamSettings) -> Self {
        let sets = stream.label_sets.iter().filter_map(|at| settings.label_sets.get(*at));
        let labels = sets.map(|set| (set.name.clone(), set.labels.iter().map(|label| label.name.clone()).collect()));
        Self {
            id: stream.source.id.to_string(),
            moments: Moments::of(stream),
            regions: stream.views.names().map(|name| name.to_string()).collect(),
            sets: labels.collect(),
        }
    }

    /// Why nothing is marked in a region of this name, if it is none.
    pub fn region_problem(&self, region: Option<&str>) -> Option<String> {
        let region = region.filter(|region| !self.regions.iter().any(|one| one == region))?;
        let there = match &self.regions[..] {
            [] => "it has none: leave the region out".to_owned(),
            names => format!("it has {}", names.join(", ")),
        };
        Some(format!("stream {} has no region `{region}` ({there})", self.id))
    }

    /// Why a mark would never be used, if so.
    pub fn problem(&self, mark: &Mark) -> Option<String> {
        let region = self.region_problem(mark.region.as_deref());
        region.or_else(|| self.moments.problem(&self.id, &mark.span))
    }
}

/// What is marked of a tag: its time, with what lies round it.
pub fn span_of(tag: &TagTimes, moments: Moments) -> Span {
    if moments == Moments::Media {
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

/// Marks a tag's time as seen in its region, or as absent where the tag was wrong; what is marked, and whether it was not before.
pub fn mark_tag(marks: &mut SetMarks, tag: &TagTimes, span: Span, is_right: bool) -> (Mark, bool) {
    let mark = |kind| Mark { region: tag.region.clone(), kind, span };
    let (seen, absent) = (mark(MarkKind::Seen(tag.label.clone())), mark(MarkKind::Absent(tag.label.clone())));
    // By the clock a tag has its beginning for itself: what was said of it while it was open was said of less.
    let is_same = |one: &Span| *one == span || (!span.0.is_media() && one.0 == span.0);
    let of_tag = |one: &Mark| {
        let is_label = one.kind == seen.kind || one.kind == absent.kind;
        one.region == tag.region && is_label && is_same(&one.span)
    };
    let before: Vec<Mark> = marks.all().into_iter().filter(of_tag).collect();
    // Who has changed his mind says so of the same tag.
    for one in &before {
        marks.remove(one);
    }
    let mark = if is_right { seen } else { absent };
    marks.add(&mark);
    let is_new = !before.contains(&mark);
    (mark, is_new)
}

/// Remembers what was said of a tag, for labels that learn. Where the file was damaged its new name is given.
///
/// # Errors
/// When it cannot be kept.
pub fn keep_verdict(state: &StateFolder, tag: &TagTimes, is_right: bool) -> Result<Option<PathBuf>, MarkStoreError> {
    let (from, to) = tag.wall;
    let (stream, region) = (tag.stream.clone(), tag.region.clone());
    let (set, label) = (tag.set.clone(), tag.label.clone());
    verdict_store::keep(state, TagVerdict { stream, region, set, label, from, to, is_right })
}

/// See the module.
pub struct KeptMarks {
    state: StateFolder,
    streams: RwLock<Vec<Arc<MarkedStream>>>,
}

impl KeptMarks {
    pub fn new(settings: &Settings) -> Self {
        let kept = Self { state: settings.state.clone(), streams: RwLock::default() };
        kept.change(settings);
        kept
    }

    /// Goes on with these streams and label sets.
    pub fn change(&self, settings: &Settings) {
        let streams = settings.streams.iter().map(|stream| Arc::new(MarkedStream::of(settings, stream)));
        *self.streams.write() = streams.collect();
    }

    /// The stream, and the set's labels.
    fn known(&self, stream: &str, set: &str) -> Result<(Arc<MarkedStream>, Vec<String>), MarkRefusal> {
        let streams = self.streams.read();
        let unknown = |what: &str| MarkRefusal::Unknown(what.to_owned());
        let found = streams.iter().find(|one| one.id == stream).ok_or_else(|| unknown("no such stream"))?;
        let of = found.sets.iter().find(|(name, _)| name == set);
        let (_, labels) = of.ok_or_else(|| unknown("the stream has no such label set"))?;
        Ok((Arc::clone(found), labels.clone()))
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
fn id_of(stream: &str, set: &str, Mark { region, kind, span }: &Mark) -> String {
    let mut parts = vec![json!(stream), json!(set), json!(kind.to_string()), json!(span)];
    parts.extend(region.as_ref().map(|region| json!(region)));
    let text = Value::from(parts).to_string();
    hex(&Sha256::digest(text.as_bytes())[..8])
}

fn view(stream: &str, set: &str, mark: &Mark) -> MarkView {
    let (label, word) = match &mark.kind {
        MarkKind::Seen(label) => (Some(label.clone()), "seen"),
        MarkKind::Absent(label) => (Some(label.clone()), "absent"),
        MarkKind::Empty => (None, "empty"),
    };
    // Numbers and times always are JSON.
    let moment = |at: MarkTime| serde_json::to_value(at).unwrap_or(Value::Null);
    MarkView {
        id: id_of(stream, set, mark),
        stream: stream.to_owned(),
        region: mark.region.clone(),
        set: set.to_owned(),
        label,
        kind: word,
        from: moment(mark.span.0),
        to: moment(mark.span.1),
    }
}

impl MarkKeeping for KeptMarks {
    fn all(&self) -> Result<Vec<MarkView>, MarkRefusal> {
        let streams = mark_store::read(&self.state).map_err(refused)?;
        let sets = streams.iter().flat_map(|(stream, sets)| sets.iter().map(move |(set, marks)| (stream, set, marks)));
        let of_set = |(stream, set, marks): (&String, &String, &SetMarks)| {
            marks.all().iter().map(|mark| view(stream, set, mark)).collect::<Vec<_>>()
        };
        Ok(sets.flat_map(of_set).collect())
    }

    fn add(&self, mark: &NewMark) -> Result<(MarkView, bool), MarkRefusal> {
        let (stream, set) = (&*mark.stream, &*mark.set);
        let (of, known) = self.known(stream, set)?;
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
        if let Some(why) = of.region_problem(mark.region.as_deref()) {
            return Err(MarkRefusal::Unknown(why));
        }
        let mark = Mark { region: mark.region.clone(), kind, span };
        if let Some(why) = of.problem(&mark) {
            return Err(MarkRefusal::Conflict(why));
        }
        let is_new = self.changed((stream, set), &known, |marks| {
            let before = marks.len();
            marks.add(&mark);
            Ok(marks.len() > before)
        })?;
        Ok((view(stream, set, &mark), is_new))
    }

    fn remove(&self, id: &str) -> Result<MarkView, MarkRefusal> {
        let none = || "no such mark".to_owned();
        let removed = mark_store::change(&self.state, |streams| {
            for (stream, sets) in streams.iter_mut() {
                for (set, marks) in sets.iter_mut() {
                    let found = marks.all().into_iter().find(|mark| id_of(stream, set, mark) == id);
                    if let Some(mark) = found {
                        marks.remove(&mark);
                        return Ok(view(stream, set, &mark));
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
        let (stream, set) = (&*tag.stream, &*tag.set);
        let gone = |_| MarkRefusal::Conflict("its stream has no such label set any more".to_owned());
        let (of, known) = self.known(stream, set).map_err(gone)?;
        if !known.contains(&tag.label) {
            return Err(MarkRefusal::Conflict("its set has no such label any more".to_owned()));
        }
        if let Some(why) = of.region_problem(tag.region.as_deref()) {
            return Err(MarkRefusal::Conflict(why));
        }
        let span = span_of(tag, of.moments);
        let (mark, is_new) = self.changed((stream, set), &known, |marks| Ok(mark_tag(marks, tag, span, is_right)))?;
        let kept = keep_verdict(&self.state, tag, is_right);
        if let Some(file) = kept.map_err(|error| MarkRefusal::Failed(error.to_string()))? {
            tracing::warn!(file = %file.display(), "the verdicts that there were are damaged; they are kept there");
        }
        Ok((view(stream, set, &mark), is_new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(region: Option<&str>) -> TagTimes {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let event = json!({
            "specversion": "1.0", "id": "019a1b2c-0000-7000-8000-000000000000", "source": "/a/streams/gate", "type": "dev.vtagd.tag.start",
            "subject": "yard/car", "time": now, "datacontenttype": "application/json",
            "data": {
                "stream": "gate", "region": region, "set": "yard", "label": "car", "tag_id": "019a1b2c-0000-7000-8000-000000000001",
                "score": 0.9, "peak": 0.9, "started_at": now, "ended_at": null, "sampled_at": now, "media_start": 4.0, "media_end": null,
                "model": { "name": "m", "fingerprint": "f" }, "attributes": {}, "snapshot": null,
            },
        });
        TagTimes::of(&serde_json::from_value(event).unwrap())
    }

    #[test]
    fn the_tag_of_one_region_says_nothing_of_the_others_and_who_has_changed_his_mind_says_so_of_the_same() {
        let mut marks = SetMarks::default();
        let (left, all) = (tag(Some("left")), tag(None));
        let span = span_of(&left, Moments::Media);
        assert!(mark_tag(&mut marks, &left, span, false).1 && !mark_tag(&mut marks, &left, span, false).1);
        let absent = |marks: &SetMarks, region| marks.absent("car", region, true).len();
        assert_eq!([None, Some("left"), Some("right")].map(|region| absent(&marks, region)), [0, 1, 0]);
        mark_tag(&mut marks, &left, span, true);
        assert_eq!((absent(&marks, Some("left")), marks.seen("car", Some("left"), true).len()), (0, 1));
        // Of a stream without regions, while the tag was open and again at its end.
        let open = span_of(&all, Moments::Either);
        assert!(mark_tag(&mut marks, &all, open, true).1);
        let ended = Span(open.0, MarkTime::Wall(jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(60)));
        assert!(mark_tag(&mut marks, &all, ended, false).1 && !mark_tag(&mut marks, &all, ended, false).1);
        assert_eq!(marks.seen("car", None, false).len(), 0);
        assert_eq!((marks.absent("car", None, false).len(), marks.absent("car", Some("right"), false).len()), (1, 1));
        let ids: Vec<String> = marks.all().iter().map(|mark| id_of("gate", "yard", mark)).collect();
        assert!(ids.len() == 2 && ids[0] != ids[1], "{ids:?}");
    }

    #[test]
    fn moments_are_told_as_the_stream_has_them_or_refused_with_the_remedy() {
        let media = Span(MarkTime::Media(1.0), MarkTime::Media(4.0));
        let wall = span_of(&tag(None), Moments::Wall);
        let problem = |moments: Moments, span: &Span| moments.problem("gate", span);
        assert!(problem(Moments::Wall, &media).is_some_and(|why| why.contains("2026-05-01T12:00:04Z")));
        assert!(problem(Moments::Media, &wall).is_some_and(|why| why.contains("seconds from its first picture")));
        for (moments, span) in
            [(Moments::Wall, wall), (Moments::Media, media), (Moments::Either, wall), (Moments::Either, media)]
        {
            assert_eq!(problem(moments, &span), None, "{moments:?}");
        }
    }
}
