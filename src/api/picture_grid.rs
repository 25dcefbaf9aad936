//! `/api/v1/pictures`: the newest pictures of several streams, small, in one answer, for a page that shows them all.
//!
//! In: which streams, and how large. Out: JSON with a JPEG each, and an `ETag` of all together. Nothing is waited for: a stream whose picture nobody has looked
//! at for a minute has none until its next sample, and is left out. A sample is encoded once for all who look, on threads that may be busy
//! ([`ENCODERS`](super::stream_detail::ENCODERS) at a time): of each stream the last one stays, at most [`MAX_STREAMS`] of them. Pages look at a grid every two
//! seconds, each in its own moment: what was encoded for one is new enough for the others until it looks again ([`NEW_FOR`]), so that fifty pages cost
//! hardly more encoding than one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Shared;
use super::guard::refusal;
use super::openapi::{answer, list, object, of, operation};
use super::parameters::{Parameter, ParameterKind, Parameters};
use super::stream_detail::is_known;
use crate::frame::Picture;
use crate::platform::hex::hex;
use crate::snapshot;

/// Pictures of an answer, and pictures that are kept.
const MAX_STREAMS: usize = 64;
/// Longest side where nothing is said.
const DEFAULT_SIDE: u64 = 320;
/// What was encoded so long ago is still shown to others: less than pages wait between two looks. Larger ones are of who looks at a single camera.
const NEW_FOR: Duration = Duration::from_millis(1900);
/// Of the JPEG: it is looked at small.
const QUALITY: u8 = 70;

pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "streams",
        kind: ParameterKind::Texts,
        meaning: "Only of these streams; without it of the first 64. Names that are no stream's are passed over.",
    },
    Parameter {
        name: "max_side",
        kind: ParameterKind::Count { least: 16, most: 640, default: Some(DEFAULT_SIDE) },
        meaning: "The longest side in pixels; a larger picture is scaled down.",
    },
];

/// A picture as it is told.
#[derive(Clone, Debug, Serialize)]
struct SmallPicture {
    stream: String,
    sampled_at: Timestamp,
    /// A JPEG, in base64.
    jpeg: Arc<str>,
}

/// The newest picture of a stream, and what was encoded of it, or of one shortly before.
struct HeldPicture {
    id: String,
    /// When that which is told was sampled.
    at: Timestamp,
    picture: Arc<Picture>,
    small: Option<SmallPicture>,
}

#[derive(Serialize)]
struct GridAnswer {
    pictures: Vec<SmallPicture>,
}

/// What was encoded last of each stream, how large, and when.
#[derive(Default)]
pub(super) struct SmallPictures(Mutex<HashMap<String, (u64, Instant, SmallPicture)>>);

impl SmallPictures {
    fn find(&self, stream: &str, side: u64, at: Timestamp) -> Option<SmallPicture> {
        let kept = self.0.lock();
        let (.., found) = kept.get(stream).filter(|(kept, _, found)| *kept == side && found.sampled_at == at)?;
        Some(found.clone())
    }

    /// That which is [new enough](NEW_FOR), where there is such a one.
    fn new_enough(&self, stream: &str, side: u64, now: Instant) -> Option<SmallPicture> {
        let kept = self.0.lock();
        let is_new = |then: Instant| side <= DEFAULT_SIDE && now.saturating_duration_since(then) < NEW_FOR;
        let (.., found) = kept.get(stream).filter(|(kept, then, _)| *kept == side && is_new(*then))?;
        Some(found.clone())
    }

    fn keep(&self, side: u64, now: Instant, picture: &SmallPicture) {
        let mut kept = self.0.lock();
        if kept.len() >= MAX_STREAMS && !kept.contains_key(&picture.stream) {
            let oldest = kept.iter().min_by_key(|(_, (.., one))| one.sampled_at).map(|(stream, _)| stream.clone());
            oldest.map(|oldest| kept.remove(&oldest));
        }
        kept.insert(picture.stream.clone(), (side, now, picture.clone()));
    }
}

pub(super) async fn pictures(
    State(shared): State<Shared>,
    Extension(wanted): Extension<Parameters>,
    headers: HeaderMap,
) -> Response {
    let side = wanted.count("max_side").unwrap_or(DEFAULT_SIDE);
    let names = wanted.texts("streams");
    let streams = shared.board.streams();
    let now = Instant::now();
    let is_wanted = |id: &str| names.is_none_or(|names| names.iter().any(|name| name == id));
    let ids = streams.iter().map(|stream| stream.id().to_owned()).filter(|id| is_wanted(id)).take(MAX_STREAMS);
    let small = &shared.board.small_pictures;
    let held: Vec<HeldPicture> = ids
        .filter_map(|id| {
            let (time, picture) = shared.board.latest_pictures().of(&id)?.look(now)?;
            let small = small.new_enough(&id, side, now).or_else(|| small.find(&id, side, time.wall));
            let at = small.as_ref().map_or(time.wall, |small| small.sampled_at);
            Some(HeldPicture { id, at, picture, small })
        })
        .collect();
    let mut hash = Sha256::new();
    hash.update(side.to_le_bytes());
    for HeldPicture { id, at, .. } in &held {
        hash.update(at.as_microsecond().to_le_bytes());
        hash.update([id.as_bytes(), &[0]].concat());
    }
    let tag = format!("\"{}\"", &hex(&hash.finalize())[..32]);
    // Kept by who asks, and asked for each time.
    let revalidated = (header::CACHE_CONTROL, "private, no-cache".to_owned());
    if is_known(&headers, &tag) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag), revalidated]).into_response();
    }
    let pictures = if held.iter().all(|one| one.small.is_some()) {
        held.into_iter().filter_map(|one| one.small).collect()
    } else {
        // It is never closed. The thread holds it, which goes on when nobody waits for its answer any more.
        let turn = Arc::clone(&shared.board.encoders).acquire_owned().await;
        let board = Arc::clone(&shared.board);
        let encode = move || {
            let _turn = turn;
            // One who waited for his turn may find it done.
            let small = |HeldPicture { id, at, picture, small }: HeldPicture| {
                small.or_else(|| board.small_pictures.find(&id, side, at)).or_else(|| {
                    let jpeg = snapshot::jpeg(&picture, u32::try_from(side).unwrap_or(u32::MAX), QUALITY).ok()?;
                    let jpeg = STANDARD.encode(jpeg).into();
                    let small = SmallPicture { stream: id, sampled_at: at, jpeg };
                    board.small_pictures.keep(side, Instant::now(), &small);
                    Some(small)
                })
            };
            held.into_iter().filter_map(small).collect::<Vec<_>>()
        };
        match tokio::task::spawn_blocking(encode).await {
            Ok(pictures) => pictures,
            Err(_) => return refusal(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping"),
        }
    };
    ([(header::ETAG, tag), revalidated], Json(GridAnswer { pictures })).into_response()
}

/// How the document tells of the route.
pub(super) fn described() -> Value {
    let tag = json!({ "ETag": { "required": true, "schema": { "type": "string" } } });
    let mut found = answer("Those that are held; `ETag` changes with every sample of them.", of("SmallPictures"));
    found["headers"] = tag.clone();
    let same = json!({ "description": "They are still the pictures that `If-None-Match` names.", "headers": tag });
    let summary = "The newest pictures of streams, small, in one answer. A stream that nobody has looked at for a minute has none before its next sample.";
    let long = json!({ "description": "The names are more than a request's head may hold." });
    operation("pictures", summary, &[("200", found), ("304", same), ("431", long)])
}

pub(super) fn schema() -> Value {
    let jpeg = json!({ "type": "string", "contentEncoding": "base64", "contentMediaType": "image/jpeg" });
    let at = json!({ "type": "string", "format": "date-time" });
    object(
        json!({ "pictures": list(object(json!({ "stream": { "type": "string" }, "sampled_at": at, "jpeg": jpeg }))) }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(stream: usize, second: i64) -> SmallPicture {
        let sampled_at = Timestamp::from_second(second).unwrap();
        SmallPicture { stream: format!("camera-{stream}"), sampled_at, jpeg: "".into() }
    }

    #[test]
    fn the_last_of_each_stream_is_kept_and_the_oldest_makes_room() {
        let (kept, now) = (SmallPictures::default(), Instant::now());
        for stream in 0..MAX_STREAMS + 1 {
            kept.keep(320, now, &picture(stream, stream as i64));
        }
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        assert!(kept.find("camera-0", 320, at(0)).is_none() && kept.find("camera-1", 320, at(1)).is_some());
        assert!(kept.find("camera-1", 321, at(1)).is_none() && kept.find("camera-1", 320, at(2)).is_none());
        kept.keep(320, now, &picture(1, 500));
        assert!(kept.find("camera-1", 320, at(500)).is_some());
        assert_eq!(kept.0.lock().len(), MAX_STREAMS);
    }

    #[test]
    fn what_was_encoded_for_one_page_is_new_enough_for_others_until_that_one_looks_again() {
        let (kept, now) = (SmallPictures::default(), Instant::now());
        kept.keep(320, now, &picture(1, 5));
        kept.keep(640, now, &picture(2, 5));
        let at = |passed: u64, stream: &str, side| {
            kept.new_enough(stream, side, now + Duration::from_millis(passed)).map(|found| found.sampled_at)
        };
        let sampled = Timestamp::from_second(5).ok();
        assert_eq!((at(0, "camera-1", 320), at(1899, "camera-1", 320)), (sampled, sampled));
        assert_eq!((at(1900, "camera-1", 320), at(0, "camera-1", 160), at(0, "camera-3", 320)), (None, None, None));
        assert_eq!(at(0, "camera-2", 640), None, "a single camera is looked at more often");
    }
}
