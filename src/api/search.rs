//! `/api/v1/search`: the moments of the history that fit a text, a picture that is sent here, or both.
//!
//! In: parameters that the guard has read, and a body that is here in whole. Out: what `vtagd search --json` prints. What answers is the daemon's
//! [`ModelQueries`](super::ModelQueries), on a thread that may wait, with the same room as pictures and texts: full, the newest is refused (503).

use axum::Extension;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Shared;
use super::guard::refusal;
use super::handlers::part;
use super::model_queries::{Answering, ModelQueries, QueryRefusal, answer_whole, no_picture};
use super::openapi::{list, object, object_with};
use super::parameters::{Parameter, ParameterKind, Parameters};
use crate::history::search_answer::{SearchAnswer, SearchRange};

/// Moments of an answer that does not ask for a number.
const LIMIT: u64 = 10;

pub(super) static OF_TEXT: [Parameter; 8] = parameters(true);
pub(super) static OF_PICTURE: [Parameter; 8] = parameters(false);

/// Beside a picture the text may be left out.
const fn parameters(required: bool) -> [Parameter; 8] {
    [
        Parameter {
            name: "text",
            kind: ParameterKind::Prompt { required },
            meaning: "What to look for, such as `a red lorry`; required where there is no picture.",
        },
        Parameter {
            name: "stream",
            kind: ParameterKind::Text,
            meaning: "Of this stream alone, be it configured or not.",
        },
        Parameter { name: "region", kind: ParameterKind::Text, meaning: "Of regions of this name alone." },
        Parameter { name: "since", kind: ParameterKind::Time, meaning: "Seen since then." },
        Parameter { name: "until", kind: ParameterKind::Time, meaning: "Seen before then." },
        Parameter {
            name: "limit",
            kind: ParameterKind::Count { least: 1, most: 1000, default: Some(LIMIT) },
            meaning: "At most so many moments, the best first.",
        },
        Parameter {
            name: "current_view",
            kind: ParameterKind::Flag,
            meaning: "Without what was seen through another view than the stream has now; `other_views` counts it.",
        },
        Parameter {
            name: "histogram",
            kind: ParameterKind::Flag,
            meaning: "Also how the margins of all rows are spread; of a text alone.",
        },
    ]
}

pub(super) async fn by_text(State(shared): State<Shared>, Extension(given): Extension<Parameters>) -> Response {
    if given.text("text").is_none() {
        return refusal(StatusCode::BAD_REQUEST, "the parameter text is missing: say what to look for");
    }
    answer_whole(&shared, move |queries| search(queries, &given, None)).await
}

pub(super) async fn by_picture(
    State(shared): State<Shared>,
    Extension(given): Extension<Parameters>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refusal) = no_picture(&headers, "; a text alone is asked for with GET") {
        return refusal;
    }
    answer_whole(&shared, move |queries| search(queries, &given, Some(&body))).await
}

/// The picture of a moment, as the answers name it.
pub(super) async fn picture(State(shared): State<Shared>, name: Result<Path<String>, PathRejection>) -> Response {
    let name = match part(name) {
        Ok(name) => name,
        Err(refusal) => return refusal,
    };
    let found = match shared.board.answering() {
        // A disk may be slow.
        Some(Answering { queries, .. }) => {
            tokio::task::spawn_blocking(move || queries.history_picture(&name)).await.ok().flatten()
        }
        None => None,
    };
    match found {
        Some(jpeg) => ([(header::CONTENT_TYPE, "image/jpeg")], jpeg).into_response(),
        None => refusal(StatusCode::NOT_FOUND, "no such picture, or not any more"),
    }
}

fn search(
    queries: &dyn ModelQueries,
    given: &Parameters,
    picture: Option<&[u8]>,
) -> Result<SearchAnswer, QueryRefusal> {
    let limit = usize::try_from(given.count("limit").unwrap_or(LIMIT)).unwrap_or(usize::MAX);
    let range = SearchRange {
        stream: given.text("stream"),
        region: given.text("region"),
        since: given.time("since"),
        until: given.time("until"),
        current_view: given.flag("current_view"),
        limit,
    };
    queries.search(given.text("text"), picture, range, given.flag("histogram"))
}

/// What is answered, for the document.
pub(super) fn schema() -> Value {
    let or_null = |schema: Value| json!({ "anyOf": [schema, { "type": "null" }] });
    let (string, number, count) =
        (json!({ "type": "string" }), json!({ "type": "number" }), json!({ "type": "integer", "minimum": 0 }));
    let time = json!({ "type": "string", "format": "date-time" });
    let moment = object(json!({
        "stream": string, "region": or_null(string.clone()), "from": time, "until": time, "score": number,
        "margin": or_null(number.clone()), "picture": or_null(string.clone()),
    }));
    let bar = object(json!({ "margin": number, "rows": count }));
    let always = json!({
        "text": or_null(string.clone()),
        "model": object(json!({ "name": string, "fingerprint": string })),
        "stands_out": or_null(json!({ "type": "boolean" })),
        "moments": list(moment),
        "searched": object(json!({
            "rows": count, "unknown_views": count, "other_models": count, "other_views": count, "damaged": count, "unreadable": list(string.clone()),
        })),
    });
    object_with(always, json!({ "histogram": list(bar) }))
}
