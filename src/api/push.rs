//! `POST /api/v1/streams/{id}/frames`: pictures for a stream that is made of those that others send (`push://`).
//!
//! In: a picture that is here in whole, and bounded (`guard.rs`), from somebody who has shown the stream's own token or the API's. Out: its number at once, or, with
//! `wait`, how the stream's labels stand after it. It is decoded on a thread that may take its time; how many there are at once is the class's
//! room. Full: the stream's slot, where the newest wins: who waits hears `superseded`. Closed: a stream that does not run takes none (404, 409).

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use super::access::same;
use super::guard::{later, refusal};
use super::model_queries::no_picture;
use super::openapi::{answer, of, operation, with_parameter};
use super::parameters::{Parameter, ParameterKind, Parameters};
use super::{Shared, openapi_programs, stream_detail};
use crate::event::live_scores::Detail;
use crate::platform::userinfo::percent_decode;
use crate::stream::accounting::FrameOutcome;

/// How long who waits is kept.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// What may stand behind the question mark.
pub(super) const PARAMETERS: &[Parameter] = &[Parameter {
    name: "wait",
    kind: ParameterKind::Word(&["0", "1"]),
    meaning: "`1`: the answer comes when the picture has been looked at, and tells how the labels stand after it.",
}];

/// Whether the stream that `path` names has a token of its own, and whether `headers` show it: as a Bearer token, or as the password of a Basic login, which is all that many
/// cameras know.
pub(super) fn own_token(shared: &Shared, path: &str, headers: &HeaderMap) -> Option<bool> {
    let id = path.strip_prefix("/api/v1/streams/")?.strip_suffix("/frames")?;
    // As the route reads it.
    let taker = shared.board.pushed_pictures().of(&percent_decode(id))?;
    let token = taker.token()?.expose().as_bytes();
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| credential(value.as_bytes()));
    Some(shown.is_some_and(|shown| same(&shown, token)))
}

/// The token, or the password of a user, that stands in a header `Authorization`.
fn credential(value: &[u8]) -> Option<Vec<u8>> {
    let at = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = (value.get(..at)?, value.get(at..)?.trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(rest.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let login = BASE64_STANDARD.decode(rest).ok()?;
    let colon = login.iter().position(|byte| *byte == b':')?;
    login.get(colon + 1..).map(<[u8]>::to_vec)
}

pub(super) async fn frames(
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
    Extension(given): Extension<Parameters>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Ok(Path(stream)) = id else { return refusal(StatusCode::BAD_REQUEST, "the path is not UTF-8") };
    let Some(taker) = shared.board.pushed_pictures().of(&stream) else {
        let known = shared.board.streams().iter().any(|known| known.id() == stream);
        return match known {
            true => refusal(
                StatusCode::CONFLICT,
                "this stream takes no pictures: it is switched off, or its `url` is not push://NAME",
            ),
            false => stream_detail::unknown(&shared),
        };
    };
    if let Some(refusal) = no_picture(&headers, "") {
        return refusal;
    }
    let waits = given.text("wait") == Some("1");
    let work = move || {
        let (told, heard) = sync_channel(1);
        let number = taker.take(&body, waits.then_some(told)).map_err(|error| error.to_string())?;
        drop((taker, body));
        // Nobody listens to what nobody tells.
        Ok::<_, String>((number, waits.then(|| heard.recv_timeout(OUTCOME_TIMEOUT))))
    };
    let (number, outcome) = match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => done,
        Ok(Err(why)) => return refusal(StatusCode::UNPROCESSABLE_ENTITY, &why),
        Err(_) => return refusal(StatusCode::INTERNAL_SERVER_ERROR, "it panicked; please report this"),
    };
    let id = number.to_string();
    match outcome {
        None => (StatusCode::ACCEPTED, Json(json!({ "id": id }))).into_response(),
        Some(Ok(FrameOutcome::Inferred | FrameOutcome::Reused)) => {
            let mut told = shared
                .board
                .live_scores()
                .reading(&stream, Instant::now(), Detail::Latest, |_, _, _| true)
                .map_or_else(
                    || json!({ "stream": stream, "at": null, "age": null, "scores": [] }),
                    |scores| json!(scores),
                );
            told["id"] = id.into();
            Json(told).into_response()
        }
        Some(Ok(FrameOutcome::Dropped(reason))) => not_looked_at(reason.as_str()),
        Some(Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected)) => not_looked_at("not in time"),
    }
}

fn not_looked_at(why: &str) -> Response {
    let answer = refusal(StatusCode::SERVICE_UNAVAILABLE, &format!("the picture was not looked at: {why}"));
    later(answer, Duration::from_secs(1))
}

/// How the document tells of it.
pub(super) fn described() -> Value {
    let answers = [
        ("200", answer("With `wait=1`: how the labels stand after it.", of("PushedScores"))),
        ("202", answer("It is on its way; its id.", of("Pushed"))),
    ];
    let summary = "A picture for a stream of `push://`, which is looked at as any sample is.";
    let mut push = with_parameter(operation("pushFrame", summary, &answers), "id", "front-door");
    for status in ["409", "415", "422"] {
        push["responses"][status] = json!({ "$ref": "#/components/responses/Error" });
    }
    push["requestBody"] = openapi_programs::picture_body();
    push["security"] = json!([{ "token": [] }, { "session": [] }, { "push": [] }]);
    push
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_as_such_or_as_the_password_of_anybody() {
        assert_eq!(credential(b"Bearer abc").as_deref(), Some(&b"abc"[..]));
        assert_eq!(credential(b"bearer  abc").as_deref(), Some(&b"abc"[..]));
        let basic = |login: &str| credential(format!("Basic {}", BASE64_STANDARD.encode(login)).as_bytes());
        assert_eq!(basic("cam:a:c").as_deref(), Some(&b"a:c"[..]));
        assert_eq!(basic(":abc").as_deref(), Some(&b"abc"[..]));
        for other in [&b"abc"[..], b"", b"Digest abc", b"Basic abc", b"Basic YWJj"] {
            assert_eq!(credential(other), None);
        }
    }
}
