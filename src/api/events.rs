//! `/api/v1/events`: what was told, newest first, a page at a time. In: a filter and where the page before has ended. Out: events as they were sent,
//! and where the next page begins. Reads the outbox's file on threads that may wait for a disk, [`READERS`] at a time; further ones wait for their
//! turn, and the outbox writes on meanwhile.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Shared;
use super::guard::refusal;
use super::parameters::{Parameter, ParameterKind, Parameters};
use crate::event::Event;
use crate::outbox::event_pages::{CURSOR, EventPosition, PageSize};
use crate::outbox::history_reader::Query;

/// Pages that are read at once.
pub(super) const READERS: usize = 2;

/// Events of a page where nothing is said, …
const DEFAULT_LIMIT: u64 = 100;
/// … and where nothing at all is asked for: as many as there were before one could ask.
const BARE_LIMIT: u64 = 256;
const MAX_LIMIT: u64 = 1000;
/// A page ends with the event that reaches this, in bytes: twice what that many events usually have.
const MAX_BYTES: usize = 2 << 20;

/// What may stand behind the question mark.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter { name: "stream", kind: ParameterKind::Text, meaning: "Only events of this stream." },
    Parameter {
        name: "region",
        kind: ParameterKind::Text,
        meaning: "Only events of regions of this name; a stream without regions has none.",
    },
    Parameter { name: "set", kind: ParameterKind::Text, meaning: "Only events of this label set." },
    Parameter { name: "label", kind: ParameterKind::Text, meaning: "Only events of labels of this name." },
    Parameter {
        name: "type",
        kind: ParameterKind::Word(&["start", "update", "end"]),
        meaning: "Only events of this type.",
    },
    Parameter {
        name: "since",
        kind: ParameterKind::Time,
        meaning: "Sampled then or later: a time, or how long ago, such as `1h`.",
    },
    Parameter { name: "until", kind: ParameterKind::Time, meaning: "Sampled before then, said in the same way." },
    Parameter {
        name: "limit",
        kind: ParameterKind::Count { least: 1, most: MAX_LIMIT, default: Some(DEFAULT_LIMIT) },
        meaning: "At most so many. Without any parameter it is 256. A page may have fewer, even none, and not be the last: that is where `next` \
                  is null.",
    },
    Parameter {
        name: "cursor",
        kind: ParameterKind::Cursor { letter: CURSOR.0, digits: CURSOR.1 },
        meaning: "The `next` of the page before: this one begins behind it, with nothing twice and nothing left out.",
    },
];

#[derive(Default, Serialize)]
struct Answer {
    events: Vec<Arc<Event>>,
    next: Option<String>,
}

pub(super) async fn events(State(shared): State<Shared>, Extension(wanted): Extension<Parameters>) -> Response {
    let Some(outbox) = shared.board.outbox.read().clone() else { return Json(Answer::default()).into_response() };
    let list = |name: &str| wanted.text(name).map(ToOwned::to_owned).into_iter().collect();
    let time = |name: &str| wanted.time(name).map(jiff::Timestamp::as_millisecond);
    let query = Query {
        streams: list("stream"),
        regions: list("region"),
        sets: list("set"),
        labels: list("label"),
        types: list("type"),
        since: time("since"),
        until: time("until"),
        ..Query::default()
    };
    let before = wanted.text("cursor").and_then(EventPosition::of_cursor);
    let limit = wanted.count("limit").unwrap_or(if wanted.is_empty() { BARE_LIMIT } else { DEFAULT_LIMIT });
    let size = PageSize { events: usize::try_from(limit).unwrap_or_default(), bytes: MAX_BYTES };
    // It is never closed. The thread holds it, which goes on when nobody waits for its answer any more.
    let turn = Arc::clone(&shared.board.readers).acquire_owned().await;
    let read = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        outbox.events(&query, before, size).map(|(events, next)| {
            let next = next.map(EventPosition::cursor);
            Json(Answer { events, next }).into_response()
        })
    });
    match read.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => refusal(StatusCode::SERVICE_UNAVAILABLE, &format!("events cannot be read: {error}")),
        Err(_) => refusal(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping"),
    }
}
