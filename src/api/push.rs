//! `POST /api/v1/streams/{id}/frames`: pictures for a stream that is made of those that others send (`push://`).
//!
//! In: a picture that is here in whole, and bounded (`guard.rs`), from somebody who has shown the stream's own token or the API's. Out: its number at once, or, with
//! `wait`, how the stream's labels stood right after it, whatever has come since. It is decoded on a thread that may take its time; how many there are at once is the
//! class's room. Full: the stream's slot, where the newest wins: who waits hears `superseded`. Closed: a stream that does not run takes none (404, 409).

use std::sync::Arc;
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
use super::model_queries::{OCTETS, kind, no_picture};
use super::openapi::{answer, of, operation, with_parameter};
use super::parameters::{Parameter, ParameterKind, Parameters};
use super::{Shared, openapi_programs, stream_detail};
use crate::event::live_scores::Detail;
use crate::platform::userinfo::percent_decode;
use crate::stream::accounting::{DropReason, FrameOutcome, OutcomeWatcher};

/// How long who waits is kept.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// What may stand behind the question mark.
pub(super) const PARAMETERS: &[Parameter] = &[Parameter {
    name: "wait",
    kind: ParameterKind::Word(&["0", "1"]),
    meaning: "`1`: the answer comes when the picture has been looked at, and tells how the labels stood right after it.",
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
    // Cameras call their pictures so too; the bytes themselves tell of what kind they are.
    if kind(&headers) != OCTETS
        && let Some(refusal) = no_picture(&headers, " (or application/octet-stream with one of them in it)")
    {
        return refusal;
    }
    let waits = given.text("wait") == Some("1");
    let (live, id) = (Arc::clone(shared.board.live_scores()), stream.clone());
    let work = move || {
        let (told, heard) = sync_channel(1);
        let watcher = OutcomeWatcher::new(move |outcome| {
            // Now, because the next sample changes it.
            let standing = match outcome {
                FrameOutcome::Inferred | FrameOutcome::Reused => live.standing(&id, Detail::Latest, |_, _, _| true),
                FrameOutcome::Dropped(_) => None,
            };
            // Gone: nobody waits any more.
            let _ = told.try_send((outcome, standing));
        });
        let number = taker.take(&body, waits.then_some(watcher)).map_err(|error| error.to_string())?;
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
        Some(Ok((FrameOutcome::Inferred | FrameOutcome::Reused, standing))) => {
            let mut told = match standing {
                Some(standing) => json!(standing.reading(Instant::now(), Detail::Latest)),
                None => json!({ "stream": stream, "at": null, "age": null, "scores": [] }),
            };
            told["id"] = id.into();
            Json(told).into_response()
        }
        Some(Ok((FrameOutcome::Dropped(reason), _))) => not_looked_at(reason.as_str()),
        Some(Err(RecvTimeoutError::Timeout)) => not_looked_at("not in time"),
        // Its stream has ended: nobody took it.
        Some(Err(RecvTimeoutError::Disconnected)) => not_looked_at(DropReason::Shutdown.as_str()),
    }
}

fn not_looked_at(why: &str) -> Response {
    let answer = refusal(StatusCode::SERVICE_UNAVAILABLE, &format!("the picture was not looked at: {why}"));
    later(answer, Duration::from_secs(1))
}

/// How the document tells of it.
pub(super) fn described() -> Value {
    let answers = [
        ("200", answer("With `wait=1`: how the labels stood right after it.", of("PushedScores"))),
        ("202", answer("It is on its way; its id.", of("Pushed"))),
    ];
    let summary = "A picture for a stream of `push://`, which is looked at as any sample is.";
    let mut push = with_parameter(operation("pushFrame", summary, &answers), "id", "front-door");
    for status in ["409", "415", "422"] {
        push["responses"][status] = json!({ "$ref": "#/components/responses/Error" });
    }
    push["requestBody"] = openapi_programs::picture_body();
    push["requestBody"]["content"][OCTETS] = openapi_programs::picture();
    push["security"] = json!([{ "token": [] }, { "session": [] }, { "push": [] }]);
    push
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use axum::Router;
    use axum::body::Body;
    use axum::http::Request;
    use jiff::Timestamp;
    use parking_lot::Mutex;
    use tower_service::Service;

    use super::super::classes_of_routes::shared;
    use super::super::route_table;
    use super::super::serve::Peer;
    use super::*;
    use crate::event::{Emitter, LabelRules, ModelRef, SetRules, ThresholdOrigin, Thresholds};
    use crate::frame::FrameTime;
    use crate::frame::pushed_pictures::TakesPictures;
    use crate::frame::still_image::StillImageError;
    use crate::platform::secret::Secret;
    use crate::score::LabelScore;
    use crate::stream::StreamId;
    use crate::stream::accounting::FrameAccounting;

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

    /// Scores each picture by its first byte, tells its end, and takes a sample without anything before anybody can ask.
    struct Taker {
        emitter: Arc<Mutex<Emitter>>,
        accounting: Arc<FrameAccounting>,
    }

    impl TakesPictures for Taker {
        fn take(&self, coded: &[u8], outcome: Option<OutcomeWatcher>) -> Result<u64, StillImageError> {
            let score = |second: u64, margin: f32| {
                let media = Duration::from_secs(second);
                let time = FrameTime { media, captured: Instant::now(), wall: Timestamp::UNIX_EPOCH, connection: 0 };
                self.emitter.lock().scores(time, 0, &[LabelScore { margin, rival: None }], &mut |_| true);
            };
            let guard = self.accounting.sample(&"door".into()).watched(outcome);
            match coded[0] {
                0 => drop(guard),
                margin => {
                    score(1, f32::from(margin));
                    guard.complete(FrameOutcome::Inferred);
                }
            }
            score(2, -9.0);
            Ok(7)
        }

        fn token(&self) -> Option<&Secret> {
            None
        }

        fn gone_at(&self) -> Option<Instant> {
            None
        }
    }

    #[test]
    fn who_waits_is_told_how_the_labels_stood_after_his_picture_and_not_what_came_since() {
        let shared = shared(None, &[]);
        let id: StreamId = "door".into();
        let thresholds = Thresholds { after: Duration::ZERO, after_exit: Duration::ZERO, ..Thresholds::default() };
        let (origin, attributes) = (ThresholdOrigin::default(), Arc::default());
        let rules = LabelRules { name: "cat".into(), thresholds, origin, attributes, hours: None };
        let set = SetRules { region: None, name: "things".into(), labels: vec![rules], rivals: Arc::default() };
        let model = ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None };
        let gap = Duration::from_secs(30);
        let emitter = Arc::new(Mutex::new(Emitter::new("site", Arc::clone(&id), model, vec![set], gap)));
        shared.board.live_scores().enter(&id, &emitter);
        let taker: Arc<dyn TakesPictures> = Arc::new(Taker { emitter, accounting: Arc::default() });
        shared.board.pushed_pictures().enter(&id, &taker);
        let mut router: Router = route_table::router(shared, route_table::all());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut send = |picture: &'static [u8]| {
            let request = Request::post("/api/v1/streams/door/frames?wait=1").header("Host", "localhost");
            let request = request.header("Content-Type", "image/jpeg");
            let request =
                request.extension(Peer::from(IpAddr::from([127, 0, 0, 1]))).body(Body::from(picture)).unwrap();
            runtime.block_on(async {
                let answer = router.call(request).await.unwrap();
                let (status, body) =
                    (answer.status(), axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap());
                (status, serde_json::from_slice::<Value>(&body).unwrap())
            })
        };
        let (status, told) = send(&[5]);
        assert_eq!(status, StatusCode::OK, "{told}");
        let label = &told["scores"][0];
        assert_eq!(
            (&told["id"], &label["margin"], &label["state"]),
            (&"7".into(), &5.0.into(), &"open".into()),
            "{told}"
        );
        let (status, told) = send(&[0]);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(told["error"].as_str().unwrap().contains("shutdown"), "{told}");
    }
}
