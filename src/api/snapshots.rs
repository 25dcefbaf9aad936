//! `/api/v1/snapshots`: which pictures of tags are kept, newest first, a page at a time. In: a filter and where the page before has ended. Out: names,
//! addresses and what they are of. On threads that may wait for a disk, as many at a time as read events.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Shared;
use super::guard::refusal;
use super::parameters::{Parameter, ParameterKind, Parameters};
use crate::snapshot::Gallery;
use crate::snapshot::snapshot_listing::{CURSOR, KeptPicture, SnapshotPosition, SnapshotQuery};

const DEFAULT_LIMIT: u64 = 100;

/// What may stand behind the question mark.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter { name: "stream", kind: ParameterKind::Text, meaning: "Only pictures of this stream." },
    Parameter { name: "region", kind: ParameterKind::Text, meaning: "Only pictures of regions of this name." },
    Parameter { name: "set", kind: ParameterKind::Text, meaning: "Only pictures of this label set." },
    Parameter { name: "label", kind: ParameterKind::Text, meaning: "Only pictures of labels of this name." },
    Parameter {
        name: "since",
        kind: ParameterKind::Time,
        meaning: "Written then or later: a time, or how long ago, such as `1h`.",
    },
    Parameter { name: "until", kind: ParameterKind::Time, meaning: "Written before then, said in the same way." },
    Parameter {
        name: "limit",
        kind: ParameterKind::Count { least: 1, most: 1000, default: Some(DEFAULT_LIMIT) },
        meaning: "At most so many. A page may have fewer, even none, and not be the last: that is where `next` is null.",
    },
    Parameter {
        name: "cursor",
        kind: ParameterKind::Cursor { letter: CURSOR.0, digits: CURSOR.1 },
        meaning: "The `next` of the page before: this one begins behind it.",
    },
];

pub(super) async fn snapshots(State(shared): State<Shared>, Extension(wanted): Extension<Parameters>) -> Response {
    let Some(gallery) = shared.board.gallery() else {
        return Json(json!({ "snapshots": [], "next": null })).into_response();
    };
    let text = |name: &str| wanted.text(name).map(ToOwned::to_owned);
    let time = |name: &str| wanted.time(name).map(jiff::Timestamp::as_millisecond);
    let query = SnapshotQuery {
        stream: text("stream"),
        region: text("region"),
        set: text("set"),
        label: text("label"),
        since: time("since"),
        until: time("until"),
    };
    let before = wanted.text("cursor").and_then(SnapshotPosition::of_cursor);
    let limit = usize::try_from(wanted.count("limit").unwrap_or(DEFAULT_LIMIT)).unwrap_or_default();
    // It is never closed. The thread holds it, which goes on when nobody waits for its answer any more.
    let turn = Arc::clone(&shared.board.readers).acquire_owned().await;
    let read = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let (pictures, next) = gallery.listing().page(&query, before, limit);
        let rows: Vec<Value> = pictures.into_iter().map(|picture| row(&gallery, picture)).collect();
        json!({ "snapshots": rows, "next": next.map(SnapshotPosition::cursor) })
    });
    match read.await {
        Ok(answer) => Json(answer).into_response(),
        Err(_) => refusal(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping"),
    }
}

fn row(gallery: &Gallery, picture: KeptPicture) -> Value {
    let origin = picture.origin.as_deref();
    let mut row = json!({
        "name": picture.name,
        "url": gallery.address(&picture.name),
        "tag_id": picture.tag,
        "kind": picture.kind,
        "stream": origin.map(|origin| &origin.stream),
        "set": origin.map(|origin| &origin.set),
        "label": origin.map(|origin| &origin.label),
        "time": picture.time,
        "bytes": picture.bytes,
    });
    if let Some(region) = origin.and_then(|origin| origin.region.as_ref()) {
        row["region"] = region.as_str().into();
    }
    row
}
