//! `/api/v1/streams/{id}/scores`: how each label of a stream stands. In: a stream and a filter. Out: its [`StreamScores`] as JSON, and
//! how the OpenAPI document tells it. On the API's thread; the scoring thread waits for a copy of what there is and no longer.
//!
//! [`StreamScores`]: crate::event::live_scores::StreamScores

use std::time::Instant;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::guard::refusal;
use super::parameters::{Parameter, ParameterKind, Parameters};
use super::{Shared, stream_detail};
use crate::event::live_scores::Detail;

/// What may stand behind the question mark.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter { name: "region", kind: ParameterKind::Text, meaning: "Only in this region of the stream." },
    Parameter { name: "set", kind: ParameterKind::Text, meaning: "Only labels of this set." },
    Parameter { name: "label", kind: ParameterKind::Text, meaning: "Only labels of this name." },
    Parameter {
        name: "history",
        kind: ParameterKind::Flag,
        meaning: "With the peaks of the last hour, and the latest starts that were none.",
    },
];

pub(super) async fn scores(
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
    Extension(wanted): Extension<Parameters>,
) -> Response {
    let Ok(Path(stream)) = id else { return refusal(StatusCode::BAD_REQUEST, "the path is not UTF-8") };
    let is = |given: &str, name: &str| wanted.text(given).is_none_or(|given| given == name);
    let is_wanted = |region: Option<&str>, set: &str, label: &str| {
        is("region", region.unwrap_or_default()) && is("set", set) && is("label", label)
    };
    let detail = if wanted.flag("history") { Detail::History } else { Detail::Peak };
    if let Some(seen) = shared.board.live_scores().reading(&stream, Instant::now(), detail, is_wanted) {
        return Json(seen).into_response();
    }
    if shared.board.streams().iter().any(|known| known.id() == stream) {
        // Switched off, or about to begin.
        return Json(json!({ "stream": stream, "at": null, "age": null, "scores": [] })).into_response();
    }
    stream_detail::unknown(&shared)
}

/// The schema of the answer.
pub(super) fn schema() -> Value {
    let (text, number) = (json!({ "type": "string" }), json!({ "type": "number" }));
    let count = json!({ "type": "integer", "minimum": 0 });
    let time = json!({ "type": "string", "format": "date-time" });
    let or_null = |schema: &Value| json!({ "anyOf": [schema, { "type": "null" }] });
    let kind = json!({ "enum": ["label", "negative", "background"] });
    let told = json!({
        "score": or_null(&number), "margin": or_null(&number), "rival": or_null(&text), "rival_kind": or_null(&kind),
    });
    let with = |more: Value| {
        let mut all = told.clone();
        if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
            all.extend(more);
        }
        all
    };
    let object = |properties: Value, optional: &[&str]| {
        let required: Vec<&String> = properties.as_object().into_iter().flat_map(|map| map.keys()).collect();
        let required: Vec<&&String> = required.iter().filter(|key| !optional.contains(&key.as_str())).collect();
        json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false })
    };
    let list = |items: &Value| json!({ "type": "array", "items": items });
    let level = object(json!({ "score": number, "margin": or_null(&number) }), &[]);
    let peak = object(with(json!({ "at": time })), &[]);
    let swallowed = object(
        with(json!({
            "by": { "enum": ["after", "cooldown", "gap", "rival"] }, "at": time, "media_start": number, "lasted": number, "short_by": number,
        })),
        &[],
    );
    let label = object(
        with(json!({
            "region": or_null(&text), "set": text, "label": text,
            "enter": level, "exit": level, "after": number, "after_exit": number, "cooldown": number,
            "thresholds_from": { "enum": ["configuration", "calibration", "waiting"] }, "waits": or_null(&text), "drift": or_null(&number),
            "state": { "enum": ["idle", "rising", "open", "cooldown", "inactive"] },
            "since": or_null(&time), "until": or_null(&time),
            "peak": or_null(&peak),
            "swallowed": object(json!({ "after": count, "cooldown": count, "gap": count, "rival": count }), &[]),
            "peaks": list(&peak),
            "swallowed_latest": list(&swallowed),
        })),
        &["peaks", "swallowed_latest"],
    );
    object(json!({ "stream": text, "at": or_null(&time), "age": or_null(&number), "scores": list(&label) }), &[])
}
