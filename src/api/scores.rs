//! `/api/v1/streams/{id}/scores`: how each label of a stream stands. In: a stream and a filter. Out: its [`StreamScores`] as JSON, and
//! how the OpenAPI document tells it. On the API's thread; the scoring thread waits for a copy of what there is and no longer.
//!
//! [`StreamScores`]: crate::event::live_scores::StreamScores

use std::time::Instant;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Shared;
use super::guard::refusal;

/// What may stand behind the question mark.
const PARAMETERS: &[&str] = &["set", "label", "history"];

/// What was asked for.
#[derive(Default)]
struct Wanted {
    set: Option<String>,
    label: Option<String>,
    history: bool,
}

impl Wanted {
    fn read(pairs: Vec<(String, String)>) -> Result<Self, String> {
        let mut wanted = Self::default();
        let mut seen: Vec<String> = Vec::new();
        for (name, value) in pairs {
            if seen.contains(&name) {
                return Err(format!("the parameter {name} is given twice"));
            }
            match name.as_str() {
                "set" => wanted.set = Some(value),
                "label" => wanted.label = Some(value),
                "history" => {
                    wanted.history = value.parse().map_err(|_| "the parameter history is true or false".to_owned())?;
                }
                _ => return Err(format!("there is no such parameter; known: {}", PARAMETERS.join(", "))),
            }
            seen.push(name);
        }
        Ok(wanted)
    }
}

pub(super) async fn scores(
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let Ok(Path(stream)) = id else { return refusal(StatusCode::BAD_REQUEST, "the path is not UTF-8") };
    let Ok(Query(pairs)) = query else { return refusal(StatusCode::BAD_REQUEST, "the query cannot be read") };
    let wanted = match Wanted::read(pairs) {
        Ok(wanted) => wanted,
        Err(why) => return refusal(StatusCode::BAD_REQUEST, &why),
    };
    let is = |given: &Option<String>, name: &str| given.as_ref().is_none_or(|given| given == name);
    let is_wanted = |set: &str, label: &str| is(&wanted.set, set) && is(&wanted.label, label);
    if let Some(seen) = shared.board.live_scores().reading(&stream, Instant::now(), wanted.history, is_wanted) {
        return Json(seen).into_response();
    }
    if shared.board.is_starting() {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "the daemon is starting, and has no streams yet");
    }
    if shared.board.streams().iter().any(|known| known.id() == stream) {
        // Switched off, or about to begin.
        return Json(json!({ "stream": stream, "at": null, "age": null, "scores": [] })).into_response();
    }
    refusal(StatusCode::NOT_FOUND, "no such stream")
}

/// Its parameters beside the stream's id.
pub(super) fn parameters() -> Vec<Value> {
    let text = json!({ "type": "string" });
    let of = |name: &str, schema: &Value, description: &str| json!({ "name": name, "in": "query", "required": false, "schema": schema, "description": description });
    vec![
        of("set", &text, "Only labels of this set."),
        of("label", &text, "Only labels of this name."),
        of(
            "history",
            &json!({ "type": "boolean", "default": false }),
            "With the peaks of the last hour, and the latest starts that were none.",
        ),
    ]
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
            "thresholds_from": { "enum": ["configuration", "calibration", "waiting"] }, "waits": or_null(&text),
            "state": { "enum": ["idle", "rising", "open", "cooldown"] },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_that_is_unknown_wrong_or_given_twice_is_refused() {
        let read = |pairs: &[(&str, &str)]| {
            Wanted::read(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
        };
        assert!(read(&[("labels", "x")]).is_err_and(|why| why.contains("history")));
        assert!(read(&[("history", "yes")]).is_err());
        assert!(read(&[("set", "a"), ("set", "b")]).is_err());
        let wanted = read(&[("history", "true"), ("label", "car")]).unwrap_or_default();
        assert!(wanted.history && wanted.label.as_deref() == Some("car") && wanted.set.is_none());
    }

    #[test]
    fn the_document_tells_of_every_parameter() {
        let told: Vec<Value> = parameters().iter().map(|parameter| parameter["name"].clone()).collect();
        assert_eq!(told, PARAMETERS);
    }
}
