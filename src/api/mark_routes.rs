//! `/api/v1/marks` and `/api/v1/events/{id}/mark`: what people say of the past, for `labels calibrate`.
//!
//! In: a filter, an interval, or an event that was right or wrong. Out: marks as JSON. Where they are kept is handed in by the daemon as a
//! [`MarkKeeping`], which waits for a disk: so it is called on threads for that, as many at a time as events are read. Changes need the token, also on
//! loopback, and leave a line in the log. Before the daemon knows its streams, all are refused (503).

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use super::Shared;
use super::guard::{Caller, refusal};
use super::handlers::{audit, forbidden, part};
use super::openapi::{answer, list, object, of, operation, with_parameter};
use super::parameters::{Parameter, ParameterKind, Parameters};
use crate::event::tag_times::TagTimes;
use crate::outbox::event_pages::PageSize;
use crate::outbox::{OutboxError, Status, history_reader::Query};

const DEFAULT_LIMIT: u64 = 1000;
const MAX_LIMIT: u64 = 10_000;

/// Which marks are listed.
pub(super) const FILTER: &[Parameter] = &[
    Parameter { name: "stream", kind: ParameterKind::Text, meaning: "Only marks of this stream." },
    Parameter { name: "region", kind: ParameterKind::Text, meaning: "Only marks of regions of this name." },
    Parameter { name: "set", kind: ParameterKind::Text, meaning: "Only marks of this label set." },
    Parameter { name: "label", kind: ParameterKind::Text, meaning: "Only marks of labels of this name." },
    Parameter { name: "kind", kind: ParameterKind::Word(KINDS), meaning: "Only marks of this kind." },
    Parameter {
        name: "limit",
        kind: ParameterKind::Count { least: 1, most: MAX_LIMIT, default: Some(DEFAULT_LIMIT) },
        meaning: "At most so many; `total` says how many there are.",
    },
];

/// A new mark.
pub(super) const NEW: &[Parameter] = &[
    Parameter { name: "stream", kind: ParameterKind::Required(&ParameterKind::Text), meaning: "Of this stream, …" },
    Parameter {
        name: "set", kind: ParameterKind::Required(&ParameterKind::Text), meaning: "… and of this label set."
    },
    Parameter {
        name: "kind",
        kind: ParameterKind::Required(&ParameterKind::Word(KINDS)),
        meaning: "`seen` and `absent` are of one label, `empty` is of all: none of them was there.",
    },
    Parameter { name: "label", kind: ParameterKind::Text, meaning: "Which label; not with `empty`." },
    Parameter {
        name: "region",
        kind: ParameterKind::Text,
        meaning: "Which region of the stream; left out, it is said of all of them.",
    },
    Parameter {
        name: "from",
        kind: ParameterKind::Required(&ParameterKind::Moment),
        meaning: "From when: by the clock, or, where the stream is a file, in seconds from its first picture.",
    },
    Parameter {
        name: "to",
        kind: ParameterKind::Required(&ParameterKind::Moment),
        meaning: "Until when, said in the same way.",
    },
];

/// What is said of an event.
pub(super) const VERDICT: &[Parameter] = &[Parameter {
    name: "verdict",
    kind: ParameterKind::Required(&ParameterKind::Word(&["right", "wrong"])),
    meaning: "Whether what it tells was there.",
}];

const KINDS: &[&str] = &["seen", "absent", "empty"];

/// A mark as it is told.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MarkView {
    /// The same for the same mark, always.
    pub id: String,
    pub stream: String,
    /// `None`: all of the stream.
    pub region: Option<String>,
    pub set: String,
    /// `None`: all of the set.
    pub label: Option<String>,
    pub kind: &'static str,
    /// A time, or seconds of a file.
    pub from: Value,
    pub to: Value,
}

/// A mark that is wanted.
#[derive(Clone, Debug)]
pub struct NewMark {
    pub stream: String,
    pub set: String,
    pub kind: String,
    pub label: Option<String>,
    pub region: Option<String>,
    /// As they were written.
    pub from: String,
    pub to: String,
}

/// Why a mark is not there, or not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkRefusal {
    /// There is no such stream, set, label or mark.
    Unknown(String),
    /// It cannot be so.
    Conflict(String),
    /// The disk does not take it.
    Failed(String),
}

/// Where marks are kept; filled in by the daemon. Waits for a disk.
pub trait MarkKeeping: Send + Sync {
    /// All of them.
    ///
    /// # Errors
    /// When they cannot be read.
    fn all(&self) -> Result<Vec<MarkView>, MarkRefusal>;

    /// Adds one; whether it is new.
    ///
    /// # Errors
    /// Why it cannot be.
    fn add(&self, mark: &NewMark) -> Result<(MarkView, bool), MarkRefusal>;

    /// Takes the one with this id away.
    ///
    /// # Errors
    /// When there is none, or the file cannot be written.
    fn remove(&self, id: &str) -> Result<MarkView, MarkRefusal>;

    /// Marks a tag as seen, or as absent where it was wrong; whether the mark is new.
    ///
    /// # Errors
    /// Why it cannot be.
    fn mark_tag(&self, tag: &TagTimes, is_right: bool) -> Result<(MarkView, bool), MarkRefusal>;
}

impl MarkRefusal {
    fn answer(&self) -> (&'static str, Response) {
        match self {
            Self::Unknown(why) => ("unknown", refusal(StatusCode::NOT_FOUND, why)),
            Self::Conflict(why) => ("refused", refusal(StatusCode::CONFLICT, why)),
            Self::Failed(why) => ("failed", refusal(StatusCode::SERVICE_UNAVAILABLE, why)),
        }
    }
}

/// What `ask` comes to, on a thread that may wait for a disk; with it what the log is told.
async fn kept<T: Send + 'static>(
    shared: &Shared,
    ask: impl FnOnce(&dyn MarkKeeping) -> Result<T, MarkRefusal> + Send + 'static,
) -> Result<T, (&'static str, Response)> {
    let stopping = || ("stopping", refusal(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping"));
    let Some(marks) = shared.board.marks() else {
        return Err(("starting", refusal(StatusCode::SERVICE_UNAVAILABLE, "the daemon is starting")));
    };
    // It is never closed. The thread holds it, which goes on when nobody waits for its answer any more.
    let turn = Arc::clone(&shared.board.readers).acquire_owned().await;
    let asked = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        ask(&*marks)
    });
    asked.await.map_err(|_| stopping())?.map_err(|refused| refused.answer())
}

pub(super) async fn list_marks(State(shared): State<Shared>, Extension(wanted): Extension<Parameters>) -> Response {
    let all = match kept(&shared, |marks| marks.all()).await {
        Ok(all) => all,
        Err((_, refused)) => return refused,
    };
    let is = |name: &str, value: Option<&str>| wanted.text(name).is_none_or(|given| Some(given) == value);
    let fits = |mark: &MarkView| {
        is("stream", Some(&mark.stream))
            && is("region", mark.region.as_deref())
            && is("set", Some(&mark.set))
            && is("label", mark.label.as_deref())
            && is("kind", Some(mark.kind))
    };
    let mut marks: Vec<MarkView> = all.into_iter().filter(fits).collect();
    let total = marks.len();
    marks.truncate(usize::try_from(wanted.count("limit").unwrap_or(DEFAULT_LIMIT)).unwrap_or(usize::MAX));
    Json(json!({ "marks": marks, "total": total })).into_response()
}

pub(super) async fn add_mark(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Extension(given): Extension<Parameters>,
) -> Response {
    let text = |name: &str| given.text(name).map(str::to_owned);
    let needed = |name: &str| text(name).unwrap_or_default();
    let mark = NewMark {
        stream: needed("stream"),
        set: needed("set"),
        kind: needed("kind"),
        label: text("label"),
        region: text("region"),
        from: needed("from"),
        to: needed("to"),
    };
    let (stream, set) = (mark.stream.clone(), mark.set.clone());
    let done = match forbidden(caller) {
        Some(refused) => Err(refused),
        None => kept(&shared, move |marks| marks.add(&mark)).await,
    };
    told(caller, "add a mark", (Some(&stream), Some(&set)), done.map(made))
}

pub(super) async fn remove_mark(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    let id = match part(id) {
        Ok(id) => id,
        Err(refused) => return refused,
    };
    let done = match forbidden(caller) {
        Some(refused) => Err(refused),
        None => kept(&shared, move |marks| marks.remove(&id)).await,
    };
    let of = done.as_ref().ok().map(|mark| (mark.stream.clone(), mark.set.clone()));
    let of = of.as_ref().map_or((None, None), |(stream, set)| (Some(&**stream), Some(&**set)));
    told(caller, "remove a mark", of, done.map(|mark| Json(json!({ "mark": mark })).into_response()))
}

pub(super) async fn judge_event(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Extension(given): Extension<Parameters>,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    let id = match part(id) {
        Ok(id) => id,
        Err(refused) => return refused,
    };
    let is_right = given.text("verdict") == Some("right");
    let outbox = shared.board.outbox.read().clone();
    let done = match forbidden(caller) {
        Some(refused) => Err(refused),
        None => {
            kept(&shared, move |marks| {
                let none = || MarkRefusal::Unknown("no such event".to_owned());
                let failed = |error: OutboxError| MarkRefusal::Failed(format!("events cannot be read: {error}"));
                let found = outbox.map_or(Ok(None), |outbox| tag_of(&outbox, &id)).map_err(failed)?;
                marks.mark_tag(&found.ok_or_else(none)?, is_right)
            })
            .await
        }
    };
    let of = done.as_ref().ok().map(|(mark, _)| (mark.stream.clone(), mark.set.clone()));
    let of = of.as_ref().map_or((None, None), |(stream, set)| (Some(&**stream), Some(&**set)));
    told(caller, "mark an event", of, done.map(made))
}

fn made((mark, is_new): (MarkView, bool)) -> Response {
    Json(json!({ "mark": mark, "changed": is_new })).into_response()
}

/// Tells the log, and gives the answer.
fn told(
    caller: Caller,
    action: &str,
    (stream, set): (Option<&str>, Option<&str>),
    done: Result<Response, (&'static str, Response)>,
) -> Response {
    let (outcome, answer) = match done {
        Ok(answer) => ("done", answer),
        Err(refused) => refused,
    };
    audit(caller, action, stream, set, outcome);
    answer
}

/// Events of a tag that are looked at in one go.
const PAGE: PageSize = PageSize { events: 1000, bytes: 2 << 20 };

/// The tag of the event with this id, until its end or as far as it has been told.
fn tag_of(outbox: &Status, id: &str) -> Result<Option<TagTimes>, OutboxError> {
    let by_id = Query { ids: vec![id.to_owned()], ..Query::default() };
    let found = outbox.events(&by_id, None, PAGE)?.0.into_iter().find(|event| event.id.to_string() == id);
    let Some(event) = found else { return Ok(None) };
    let mut tag = TagTimes::of(&event);
    if tag.has_ended() {
        return Ok(Some(tag));
    }
    let later = Query {
        streams: vec![tag.stream.clone()],
        sets: vec![tag.set.clone()],
        labels: vec![tag.label.clone()],
        types: vec!["update".to_owned(), "end".to_owned()],
        since: Some(tag.wall.0.as_millisecond()),
        ..Query::default()
    };
    let mut before = None;
    loop {
        let (events, next) = outbox.events(&later, before, PAGE)?;
        for other in events.iter().filter(|other| other.data.tag_id == event.data.tag_id) {
            tag.note(other);
        }
        if tag.has_ended() {
            return Ok(Some(tag));
        }
        match next {
            Some(place) => before = Some(place),
            None => return Ok(Some(tag)),
        }
    }
}

/// How the document tells of the routes.
pub(super) fn of_list() -> Value {
    let summary = "What people have said of the past: when a label was seen or absent, and when none was there.";
    operation("marks", summary, &[("200", answer("What is kept.", of("Marks")))])
}

pub(super) fn of_add() -> Value {
    let answers = [
        ("200", answer("It is kept; `changed`: it was not before.", of("Marked"))),
        ("404", answer("There is no such stream, or it has no such region, set or label.", of("Error"))),
        (
            "409",
            answer(
                "Why it cannot be: it contradicts another, its end is not after its beginning, or it is not told as moments of the stream are.",
                of("Error"),
            ),
        ),
    ];
    operation("addMark", "Says that a label was seen, or absent, or that none was there.", &answers)
}

pub(super) fn of_remove() -> Value {
    let taken = object(json!({ "mark": of("Mark") }));
    let answers = [("200", answer("It is kept no more.", taken))];
    with_parameter(operation("removeMark", "Takes a mark away.", &answers), "id", "5d41402abc4b2a76")
}

pub(super) fn of_verdict() -> Value {
    let answers = [
        ("200", answer("What is marked now; `changed`: it was not before.", of("Marked"))),
        ("409", answer("Why it cannot be: it contradicts another mark.", of("Error"))),
    ];
    let summary = "Says that a tag was right, or wrong: it is marked as seen or absent from its start to its end.";
    with_parameter(operation("markEvent", summary, &answers), "id", "019a1b2c-0000-7000-8000-000000000000")
}

/// The schemas of what is answered: a mark, several, and one that was made.
pub(super) fn schemas() -> [(&'static str, Value); 3] {
    let (text, count) = (json!({ "type": "string" }), json!({ "type": "integer", "minimum": 0 }));
    let moment = json!({ "anyOf": [{ "type": "number", "minimum": 0 }, { "type": "string", "format": "date-time" }] });
    let mark = object(json!({
        "id": text, "stream": text, "region": { "anyOf": [text, { "type": "null" }] },
        "set": text, "label": { "anyOf": [text, { "type": "null" }] },
        "kind": { "enum": KINDS }, "from": moment, "to": moment,
    }));
    let marked = object(json!({ "mark": of("Mark"), "changed": { "type": "boolean" } }));
    [("Mark", mark), ("Marks", object(json!({ "marks": list(of("Mark")), "total": count }))), ("Marked", marked)]
}
