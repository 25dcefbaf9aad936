//! `/api/v1/streams`, and of one stream `/api/v1/streams/{id}` and `…/latest.jpg`. In: an id. Out: its state as JSON, or the newest picture that was
//! sampled of it.
//!
//! A picture is encoded when somebody asks for it, on threads that may take their time, [`ENCODERS`] at a time; further ones wait for their turn. Streams
//! hold no picture while nobody looks (`frame/latest_picture.rs`), so the first look waits for the next sample, at most [`SAMPLE_TIMEOUT`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::access::AuthResult;
use super::guard::refusal;
use super::parameters::{Parameter, ParameterKind, Parameters};
use super::{Shared, openapi};
use crate::frame::{FrameTime, Picture};
use crate::snapshot;
use crate::stream::registry::RegisteredStream;
use crate::stream::status::StreamState;

/// Pictures that are encoded at once.
pub(super) const ENCODERS: usize = 2;

/// How long the first look waits: many clients give up after ten seconds. Where samples come less often, a later look finds one held.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(8);
/// How often a look that waits looks again.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Longest side of a picture where nothing is said.
const DEFAULT_SIDE: u64 = 1280;
/// Of the JPEG: as of snapshots.
const QUALITY: u8 = 85;

/// What may stand behind the question mark of `latest.jpg`.
pub(super) const PARAMETERS: &[Parameter] = &[Parameter {
    name: "max_side",
    kind: ParameterKind::Count { least: 16, most: 4096, default: Some(DEFAULT_SIDE) },
    meaning: "Its longest side in pixels; a larger picture is scaled down, a smaller one stays as it is.",
}];

fn row(stream: &RegisteredStream, now: Instant) -> Value {
    let mut row = json!(stream.status.report(now));
    row["accounting"] = json!(stream.accounting.totals());
    row["swallowed_starts"] = json!(stream.swallowed.report());
    row
}

pub(super) async fn streams(State(shared): State<Shared>) -> Json<Value> {
    let now = Instant::now();
    let rows: Vec<Value> = shared.board.streams().iter().map(|stream| row(stream, now)).collect();
    let has_token = shared.access.authenticate(None) != AuthResult::NoToken;
    let additions = shared.board.additions.read().told(has_token);
    Json(json!({ "streams": rows, "additions": additions }))
}

/// The stream that a path names.
#[expect(clippy::result_large_err, reason = "an answer either way, made once a request")]
fn named(shared: &Shared, id: Result<Path<String>, PathRejection>) -> Result<RegisteredStream, Response> {
    let Ok(Path(id)) = id else { return Err(refusal(StatusCode::BAD_REQUEST, "the path is not UTF-8")) };
    let known = shared.board.streams();
    known.iter().find(|stream| stream.id() == id).cloned().ok_or_else(|| unknown(shared))
}

/// There is no such stream, or none at all yet.
pub(super) fn unknown(shared: &Shared) -> Response {
    if shared.board.is_starting() {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "the daemon is starting, and has no streams yet");
    }
    no_such_stream(shared)
}

/// There is no such stream.
pub(super) fn no_such_stream(shared: &Shared) -> Response {
    /// So many are named.
    const NAMED: usize = 16;
    let known = shared.board.streams();
    let mut ids: Vec<&str> = known.iter().take(NAMED).map(RegisteredStream::id).collect();
    ids.extend((known.len() > NAMED).then_some("…"));
    let known = if ids.is_empty() { "there is none".to_owned() } else { format!("known: {}", ids.join(", ")) };
    refusal(StatusCode::NOT_FOUND, &format!("no such stream; {known}"))
}

pub(super) async fn stream(State(shared): State<Shared>, id: Result<Path<String>, PathRejection>) -> Response {
    match named(&shared, id) {
        Ok(stream) => Json(row(&stream, Instant::now())).into_response(),
        Err(refusal) => refusal,
    }
}

pub(super) async fn latest(
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
    Extension(wanted): Extension<Parameters>,
    headers: HeaderMap,
) -> Response {
    let stream = match named(&shared, id) {
        Ok(stream) => stream,
        Err(refusal) => return refusal,
    };
    let (time, picture) = match wait(&shared, &stream).await {
        Ok(found) => found,
        Err(why) => return refusal(StatusCode::NOT_FOUND, &why),
    };
    let max_side = wanted.count("max_side").unwrap_or(DEFAULT_SIDE);
    // A sample has a moment of its own, and is encoded in one way.
    let tag = format!("\"{:x}-{max_side:x}\"", time.wall.as_microsecond());
    // Kept by who asks, and asked for each time: otherwise nobody could say which one he has.
    let revalidated = (header::CACHE_CONTROL, "private, no-cache".to_owned());
    if is_known(&headers, &tag) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag), revalidated]).into_response();
    }
    // It is never closed. The thread holds it, which goes on when nobody waits for its answer any more.
    let turn = Arc::clone(&shared.board.encoders).acquire_owned().await;
    let side = u32::try_from(max_side).unwrap_or(u32::MAX);
    let encode = move || {
        let _turn = turn;
        snapshot::jpeg(&picture, side, QUALITY)
    };
    match tokio::task::spawn_blocking(encode).await {
        Ok(Ok(jpeg)) => {
            let sampled = time.wall.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            let headers = [
                (header::CONTENT_TYPE, "image/jpeg".to_owned()),
                (header::ETAG, tag),
                (header::LAST_MODIFIED, sampled),
                revalidated,
            ];
            (headers, jpeg).into_response()
        }
        Ok(Err(error)) => refusal(StatusCode::SERVICE_UNAVAILABLE, &format!("the picture cannot be encoded: {error}")),
        Err(_) => refusal(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping"),
    }
}

/// The newest picture, or why there is none.
async fn wait(shared: &Shared, stream: &RegisteredStream) -> Result<(FrameTime, Arc<Picture>), String> {
    let begun = Instant::now();
    loop {
        let report = stream.status.report(Instant::now());
        // What was held of a camera that is away by now is no answer to how it looks there.
        if matches!(report.state, StreamState::Connecting | StreamState::Up) {
            // Asked for anew each time: it may be switched on meanwhile.
            let latest = shared.board.latest_pictures().of(stream.id());
            if let Some(found) = latest.and_then(|latest| latest.look(Instant::now())) {
                return Ok(found);
            }
            if begun.elapsed() < SAMPLE_TIMEOUT {
                tokio::time::sleep(POLL_INTERVAL).await;
                continue;
            }
        }
        let why = match report.state {
            StreamState::Connecting => "it is being connected to".to_owned(),
            StreamState::Up => {
                let seconds = report.sampling_interval.unwrap_or_default();
                format!("none was sampled within {} s, of one every {seconds} s; ask again", SAMPLE_TIMEOUT.as_secs())
            }
            StreamState::Down { error } => format!("the stream is down: {error}"),
            StreamState::Disabled => "the stream is switched off".to_owned(),
            StreamState::Ended => "the stream has ended".to_owned(),
            StreamState::Failed { error } => format!("the stream has failed: {error}"),
        };
        return Err(format!("there is no picture: {why}"));
    }
}

/// Whether who asks has the picture of `tag` already.
pub(super) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = given.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|given| given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag)
}

/// How the document tells of one stream.
pub(super) fn of_one() -> Value {
    openapi::with_parameter(
        openapi::read("stream", "One stream, as it stands among all of them.", "Stream"),
        "id",
        "dock-3",
    )
}

/// How the document tells of its picture.
pub(super) fn of_latest() -> Value {
    let tag = json!({ "ETag": { "required": true, "schema": { "type": "string" } } });
    let mut dated = tag.clone();
    dated["Last-Modified"] =
        json!({ "required": true, "schema": { "type": "string" }, "description": "When it was sampled." });
    let picture = json!({
        "description": "The newest sampled picture, whole and upright as its source gives it. `ETag` changes with every sample.",
        "headers": dated,
        "content": { "image/jpeg": { "schema": { "type": "string", "contentEncoding": "binary" } } },
    });
    let same = json!({ "description": "It is still the picture that `If-None-Match` names.", "headers": tag });
    let operation = openapi::operation(
        "latestPicture",
        "The newest picture that was sampled of a stream. The first look in a minute waits for the next sample, at most 8 s.",
        &[("200", picture), ("304", same)],
    );
    openapi::with_parameter(operation, "id", "dock-3")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_picture_that_is_known_is_found_among_those_that_are_named() {
        let known = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static(value));
            is_known(&headers, "\"a-500\"")
        };
        assert!(known("\"a-500\"") && known("\"b\", W/\"a-500\"") && known("*"));
        assert!(!known("a-500") && !known("\"a-50\"") && !known("") && !is_known(&HeaderMap::new(), "\"a-500\""));
    }
}
