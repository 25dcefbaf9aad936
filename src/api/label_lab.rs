//! `/api/v1/labels/{set}/try` and `…/edit`: how a label would stand that somebody thinks of, and the set with it from now on.
//!
//! In: JSON, whole and bounded (`guard.rs`), of texts that are bounded too. Out: a curve for each stream and region; or what became of the change. A trial is
//! asked of the daemon's [`ModelQueries`], on a thread that may wait, with the same room as pictures: full, the newest is refused (503). A change is asked of
//! the main thread, as all are, needs the token, also on loopback, and leaves a line in the log.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Shared;
use super::guard::{Caller, refusal};
use super::handlers::{audit, change, part, with_problems};
use super::model_queries::{MAX_TEXT_CHARS, MAX_TEXTS, answer_whole, kind};
use super::openapi::{answer, list, object, object_with, of, operation, with_parameter};
use crate::event::ModelRef;
use crate::event::live_scores::Level;
use crate::history::margin_curve::ToldCurve;
use crate::stream::requests::{Action, LabelDraft, PastMoment, RequestOutcome};

/// Longest name of a label.
const MAX_NAME: usize = 256;
/// Hours that a trial may look back: a fortnight.
const MAX_HOURS: f64 = 336.0;
const HOURS: f64 = 6.0;
/// A margin is a difference of logits; a model's scale leaves room for less.
const MAX_MARGIN: f64 = 1000.0;
/// Moments that are sent at once: as many as a label may have as examples.
const MAX_MOMENTS: usize = 32;
/// Of a stream's or a region's name.
const MAX_ID: usize = 64;

/// How a label would stand.
#[derive(Clone, Debug, Serialize)]
pub struct TriedLabel {
    pub model: ModelRef,
    pub set: String,
    pub label: String,
    /// Those that would be in force, without a calibration.
    pub enter: Level,
    pub exit: Level,
    /// Seconds at `enter` or above before a tag starts.
    pub after: f64,
    pub since: Timestamp,
    pub until: Timestamp,
    /// Seconds of a point of the curves.
    pub step: f64,
    pub streams: Vec<TriedStream>,
    /// Whether everything was looked at that is kept of that time; else what is oldest was not.
    pub is_whole: bool,
    /// Rows that another model has made, and rows that are damaged: neither is in the curves.
    pub other_models: u64,
    pub damaged: u64,
}

/// On one stream and region.
#[derive(Clone, Debug, Serialize)]
pub struct TriedStream {
    pub stream: String,
    /// Null: the whole view.
    pub region: Option<String>,
    #[serde(flatten)]
    pub curve: ToldCurve,
}

/// What is sent here.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    label: String,
    #[serde(default)]
    prompts: Vec<String>,
    #[serde(default)]
    negatives: Vec<String>,
    background: Option<Vec<String>>,
    enter: Option<f64>,
    exit: Option<f64>,
    #[serde(default)]
    examples: Vec<SentMoment>,
    #[serde(default)]
    counter_examples: Vec<SentMoment>,
    /// Of a trial alone.
    hours: Option<f64>,
    /// Of a change alone.
    sha256: Option<String>,
}

/// A moment of the past, of a stream or of a region of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SentMoment {
    stream: String,
    #[serde(default)]
    region: Option<String>,
    at: Timestamp,
}

impl SentMoment {
    /// As streams and regions are called.
    fn is_named(&self) -> bool {
        let is_name = |name: &str| {
            (1..=MAX_ID).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        is_name(&self.stream) && self.region.as_deref().is_none_or(is_name)
    }

    fn moment(self) -> PastMoment {
        PastMoment { stream: self.stream, region: self.region, at: self.at }
    }
}

impl Sent {
    /// Without the key `not`, which is of the other route.
    #[expect(clippy::result_large_err, reason = "an answer either way, made once a request")]
    fn read(headers: &HeaderMap, body: &[u8], not: &str) -> Result<Self, Response> {
        if kind(headers) != "application/json" {
            return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body is JSON (application/json)"));
        }
        let wrong = |error: serde_json::Error| {
            // It may repeat what it did not expect: of that no more than a name's length.
            let why: String = error.to_string().chars().take(MAX_NAME).collect();
            refusal(StatusCode::BAD_REQUEST, &format!("the body is not as it should be: {why}"))
        };
        let value: Value = serde_json::from_slice(body).map_err(wrong)?;
        if value.get(not).is_some() {
            return Err(refusal(StatusCode::BAD_REQUEST, &format!("there is no `{not}` here")));
        }
        let sent: Self = serde_json::from_value(value).map_err(wrong)?;
        sent.problem().map_or(Ok(sent), |why| Err(refusal(StatusCode::BAD_REQUEST, why)))
    }

    fn problem(&self) -> Option<&'static str> {
        let texts = [&self.prompts, &self.negatives].into_iter().chain(&self.background).flatten();
        let is_long = |text: &String, most: usize| {
            !(1..=most).contains(&text.trim().chars().count()) || text.chars().count() > most
        };
        let is_far = |margin: &f64| margin.abs() > MAX_MARGIN;
        if is_long(&self.label, MAX_NAME) {
            return Some("`label` is a name of 1 to 256 characters");
        }
        if texts.clone().count() > MAX_TEXTS {
            return Some("prompts, negatives and background are 64 texts at most, together");
        }
        if texts.clone().any(|text| is_long(text, MAX_TEXT_CHARS)) {
            return Some("a prompt has one character to 1000");
        }
        let moments = || self.examples.iter().chain(&self.counter_examples);
        if moments().count() > MAX_MOMENTS || !moments().all(SentMoment::is_named) {
            return Some(
                "`examples` and `counter_examples` are 32 moments at most, each with a stream's name and a time",
            );
        }
        if self.enter.iter().chain(&self.exit).any(is_far) {
            return Some("`enter` and `exit` are margins from -1000 to 1000");
        }
        self.hours.filter(|hours| !(0.05..=MAX_HOURS).contains(hours)).map(|_| "`hours` is a number from 0.05 to 336")
    }

    fn draft(self) -> LabelDraft {
        let Self { label, prompts, negatives, background, enter, exit, .. } = self;
        let moments = |sent: Vec<SentMoment>| sent.into_iter().map(SentMoment::moment).collect();
        let (examples, counter_examples) = (moments(self.examples), moments(self.counter_examples));
        LabelDraft { label, prompts, negatives, background, enter, exit, examples, counter_examples }
    }
}

type Name = Result<Path<String>, PathRejection>;

pub(super) async fn try_label(State(shared): State<Shared>, set: Name, headers: HeaderMap, body: Bytes) -> Response {
    let set = match part(set) {
        Ok(set) => set,
        Err(refused) => return refused,
    };
    let sent = match Sent::read(&headers, &body, "sha256") {
        Ok(sent) => sent,
        Err(refused) => return refused,
    };
    let past = Duration::from_secs_f64(sent.hours.unwrap_or(HOURS) * 3600.0);
    let draft = sent.draft();
    answer_whole(&shared, move |queries| queries.try_label(&set, &draft, past)).await
}

pub(super) async fn edit_label(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    set: Name,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let set = match part(set) {
        Ok(set) => set,
        Err(refused) => return refused,
    };
    let sent = match Sent::read(&headers, &body, "hours") {
        Ok(sent) => sent,
        Err(refused) => return refused,
    };
    let Some(sha256) = sent.sha256.clone() else {
        let why = "a change takes `sha256`, that of the set as /api/v1/labels has told it";
        return refusal(StatusCode::BAD_REQUEST, why);
    };
    let draft = sent.draft();
    let label = draft.label.clone();
    let told = |changed: bool| Json(json!({ "set": set, "label": label, "changed": changed })).into_response();
    let action = Action::EditLabel { set: set.clone(), sha256, draft };
    let (outcome, answer) = match change(&shared, caller, action).await {
        Ok(RequestOutcome::Done) => ("done", told(true)),
        Ok(RequestOutcome::Already) => ("it was so", told(false)),
        Ok(RequestOutcome::Outdated(why)) => ("outdated", refusal(StatusCode::CONFLICT, &why)),
        Ok(RequestOutcome::Refused { why, problems }) => ("refused", with_problems(&why, &problems)),
        Ok(RequestOutcome::NoSuchSet | RequestOutcome::NoSuchStream) => {
            ("no such set", refusal(StatusCode::NOT_FOUND, "no such label set"))
        }
        Err(early) => early,
    };
    audit(caller, "edit a label", None, Some(&set), outcome);
    answer
}

/// What is sent, for the document.
fn body(more: Value, required: &[&str]) -> Value {
    let text = |most: usize| json!({ "type": "string", "minLength": 1, "maxLength": most, "pattern": "\\S" });
    let prompts = json!({ "type": "array", "items": text(MAX_TEXT_CHARS), "maxItems": MAX_TEXTS });
    let or_null = |schema: Value| json!({ "anyOf": [schema, { "type": "null" }] });
    let margin = or_null(json!({ "type": "number", "minimum": -MAX_MARGIN, "maximum": MAX_MARGIN }));
    let id = json!({ "type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$" });
    let moment = object_with(
        json!({ "stream": id, "at": { "type": "string", "format": "date-time" } }),
        json!({ "region": or_null(id.clone()) }),
    );
    let moments = json!({ "type": "array", "items": moment, "maxItems": MAX_MOMENTS / 2 });
    let mut schema = object_with(
        json!({ "label": text(MAX_NAME) }),
        json!({
            "prompts": prompts, "negatives": prompts, "background": or_null(prompts.clone()), "enter": margin, "exit": margin,
            "examples": moments, "counter_examples": moments,
        }),
    );
    for (key, value) in more.as_object().into_iter().flatten() {
        schema["properties"][key] = value.clone();
    }
    schema["required"] = json!(required);
    json!({ "required": true, "content": { "application/json": { "schema": schema } } })
}

/// How the document tells of the routes.
pub(super) fn of_try() -> Value {
    let summary =
        "How a label would stand on every stream, now and over the last hours, if the set had it: nothing is changed.";
    let mut told = operation("tryLabel", summary, &[("200", answer("How it would stand.", of("TriedLabel")))]);
    let hours = json!({ "anyOf": [{ "type": "number", "minimum": 0.05, "maximum": MAX_HOURS }, { "type": "null" }] });
    told["requestBody"] = body(json!({ "hours": hours }), &["label"]);
    for status in ["404", "409", "415", "422"] {
        told["responses"][status] = json!({ "$ref": "#/components/responses/Error" });
    }
    with_parameter(told, "set", "dock-safety")
}

pub(super) fn of_edit() -> Value {
    let answers = [
        ("200", answer("The set with the label is in force; `changed`: it was not so before.", of("EditedLabel"))),
        ("202", answer("It is not done yet; the log will say what came of it.", of("UnderWay"))),
        ("409", answer("The set is not the one any more that `sha256` is of.", of("Error"))),
        ("422", answer("Nothing has changed, and why.", of("Problems"))),
    ];
    let summary =
        "Adds a label to a set, or changes it: a copy of the set in the state directory is in force from then on.";
    let mut told = operation("editLabel", summary, &answers);
    told["requestBody"] = body(json!({ "sha256": { "type": "string" } }), &["label", "sha256"]);
    told["responses"]["415"] = json!({ "$ref": "#/components/responses/Error" });
    with_parameter(told, "set", "dock-safety")
}

pub(super) fn schema_of_try() -> Value {
    let (string, number, count) =
        (json!({ "type": "string" }), json!({ "type": "number" }), json!({ "type": "integer", "minimum": 0 }));
    let or_null = |schema: &Value| json!({ "anyOf": [schema, { "type": "null" }] });
    let time = json!({ "type": "string", "format": "date-time" });
    let level = object(json!({ "score": number, "margin": or_null(&number) }));
    let picture = object(json!({ "step": count, "url": string }));
    let stream = object(json!({
        "stream": string, "region": or_null(&string), "rows": count, "now": or_null(&number), "curve": list(or_null(&number)),
        "times": list(or_null(&json!({ "type": "integer" }))),
        "pictures": list(picture), "histogram": list(object(json!({ "margin": number, "rows": count }))),
    }));
    object(json!({
        "model": object(json!({ "name": string, "fingerprint": string })), "set": string, "label": string,
        "enter": level, "exit": level, "after": number, "since": time, "until": time, "step": number,
        "streams": list(stream), "is_whole": { "type": "boolean" }, "other_models": count, "damaged": count,
    }))
}

pub(super) fn schema_of_edit() -> Value {
    let (string, flag) = (json!({ "type": "string" }), json!({ "type": "boolean" }));
    object(json!({ "set": string, "label": string, "changed": flag }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: &'static str, body: &str) -> Result<LabelDraft, u16> {
        let headers = HeaderMap::from_iter([(axum::http::header::CONTENT_TYPE, kind.parse().unwrap())]);
        Sent::read(&headers, body.as_bytes(), "sha256").map(Sent::draft).map_err(|answer| answer.status().as_u16())
    }

    #[test]
    fn a_draft_is_json_of_a_label_and_few_short_texts() {
        let draft = read("application/json", r#"{"label":"dog","prompts":["a dog"],"enter":2.5}"#).unwrap();
        assert_eq!((&*draft.label, draft.prompts.len(), draft.enter, draft.background), ("dog", 1, Some(2.5), None));
        // What a form of another site can send without being asked first.
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
            assert_eq!(read(kind, r#"{"label":"dog"}"#), Err(415), "{kind}");
        }
        let long = "x".repeat(MAX_TEXT_CHARS + 1);
        for wrong in [
            "",
            "[]",
            "{}",
            r#"{"label":""}"#,
            r#"{"label":" "}"#,
            r#"{"label":"dog","more":1}"#,
            r#"{"label":"dog","prompts":[""]}"#,
            r#"{"label":"dog","enter":1e9}"#,
            r#"{"label":"dog","hours":0}"#,
            r#"{"label":"dog","sha256":null}"#,
            r#"{"label":"dog","hours":1e9}"#,
            &json!({ "label": "x".repeat(MAX_NAME + 1) }).to_string(),
            &json!({ "label": "dog", "prompts": [long] }).to_string(),
            &json!({ "label": "dog", "background": vec!["a"; MAX_TEXTS + 1] }).to_string(),
        ] {
            assert_eq!(read("application/json", wrong), Err(400), "{wrong}");
        }
    }
}
