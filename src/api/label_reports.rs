//! `/api/v1/labels/{set}/report` and `…/calibrate`: how far a set's labels can be trusted on one camera, and thresholds for that camera out of what is marked.
//!
//! In: JSON that names a stream. Out: what `vtagd labels report` and `vtagd labels calibrate` print as JSON. What does it is handed in by the daemon as
//! [`LabelCommands`], which starts these commands beside itself and waits for them, so it is called on a thread for that. Full: one is under way at most; one more is
//! refused (503). A calibration needs the token, also on loopback, and leaves a line in the log; with one that
//! is to be kept the configuration is read again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::Shared;
use super::guard::{ANSWER_TIMEOUT, Caller, later, refusal};
use super::handlers::{audit, change_within, forbidden, part, with_problems};
use super::model_queries::kind;
use super::openapi::{answer, of, operation, with_parameter};
use crate::stream::requests::{Action, RequestOutcome};

/// Longest name of a stream, a region or a label.
const MAX_NAME: usize = 256;
/// The body before a command, and the answer after it.
const LAST_MOMENT: Duration = Duration::from_secs(2);
const RETRY_AFTER: Duration = Duration::from_secs(4);

/// What is looked at.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandQuestion {
    pub stream: String,
    /// Of a stream that has some.
    #[serde(default)]
    pub region: Option<String>,
    /// This label alone.
    #[serde(default)]
    pub label: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SentCalibration {
    stream: String,
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    label: Option<String>,
    /// Whether it is kept.
    #[serde(default)]
    write: bool,
}

/// Why a command has found nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandRefusal {
    /// It says so itself.
    Told(String),
    /// It takes longer than an answer may.
    Late,
    /// It cannot be had.
    Failed(String),
}

/// What starts the commands; filled in by the daemon. Waits for them.
pub trait LabelCommands: Send + Sync {
    /// `labels report`, as JSON.
    ///
    /// # Errors
    /// Why there is none.
    fn report(&self, set: &str, question: &CommandQuestion) -> Result<Value, CommandRefusal>;

    /// `labels calibrate`, as JSON; `write`: it is kept.
    ///
    /// # Errors
    /// Why there is nothing.
    fn calibrate(&self, set: &str, question: &CommandQuestion, write: bool) -> Result<Value, CommandRefusal>;
}

/// What starts them, and the room for it.
#[derive(Clone)]
pub(super) struct Commanding {
    commands: Arc<dyn LabelCommands>,
    room: Arc<Semaphore>,
}

impl Commanding {
    pub fn new(commands: Arc<dyn LabelCommands>) -> Self {
        Self { commands, room: Arc::new(Semaphore::new(1)) }
    }
}

fn read<T: serde::de::DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, Box<Response>> {
    if kind(headers) != "application/json" {
        let why = "the body is JSON (application/json)";
        return Err(Box::new(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, why)));
    }
    let why = "the body is not {\"stream\": …}, with `region` and `label` where these are meant";
    serde_json::from_slice(body).map_err(|_| Box::new(refusal(StatusCode::BAD_REQUEST, why)))
}

fn is_right(set: &str, question: &CommandQuestion) -> bool {
    let names = [Some(set), Some(&*question.stream), question.region.as_deref(), question.label.as_deref()];
    let fits = |name: &str| (1..=MAX_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    names.into_iter().flatten().all(fits)
}

/// What `ask` comes to, on a thread that may wait; with it what the log is told.
async fn asked(
    shared: &Shared,
    ask: impl FnOnce(&dyn LabelCommands) -> Result<Value, CommandRefusal> + Send + 'static,
) -> Result<Value, (&'static str, Response)> {
    let busy = |why: &str| ("busy", later(refusal(StatusCode::SERVICE_UNAVAILABLE, why), RETRY_AFTER));
    let Some(Commanding { commands, room }) = shared.board.commanding() else {
        return Err(busy("the daemon is starting"));
    };
    let Ok(place) = room.try_acquire_owned() else {
        return Err(busy("another set is being looked at: come back later"));
    };
    let work = tokio::task::spawn_blocking(move || {
        let _place = place;
        ask(&*commands)
    });
    match work.await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(CommandRefusal::Told(why))) => Err(("refused", with_problems(&why, &[]))),
        Ok(Err(CommandRefusal::Late)) => {
            let why = "it takes longer than an answer may: `vtagd labels report` and `vtagd labels calibrate` do the same on the box";
            Err(("late", refusal(StatusCode::SERVICE_UNAVAILABLE, why)))
        }
        Ok(Err(CommandRefusal::Failed(why))) => {
            tracing::warn!(why, "a command of the API failed");
            Err(("failed", refusal(StatusCode::INTERNAL_SERVER_ERROR, "it could not be done; the log says why")))
        }
        Err(_) => Err(("stopping", refusal(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping"))),
    }
}

/// What is left of the time for an answer, so that it still comes.
fn left(begun: Instant) -> Duration {
    ANSWER_TIMEOUT.saturating_sub(begun.elapsed() + LAST_MOMENT)
}

type Name = Result<Path<String>, PathRejection>;

pub(super) async fn report(State(shared): State<Shared>, set: Name, headers: HeaderMap, body: Bytes) -> Response {
    let set = match part(set) {
        Ok(set) => set,
        Err(refused) => return refused,
    };
    let question: CommandQuestion = match read(&headers, &body) {
        Ok(question) => question,
        Err(refused) => return *refused,
    };
    if !is_right(&set, &question) {
        return refusal(StatusCode::BAD_REQUEST, "names have 1 to 256 characters");
    }
    match asked(&shared, move |commands| commands.report(&set, &question)).await {
        Ok(found) => Json(found).into_response(),
        Err((_, refused)) => refused,
    }
}

pub(super) async fn calibrate(
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
    let SentCalibration { stream, region, label, write } = match read(&headers, &body) {
        Ok(sent) => sent,
        Err(refused) => return *refused,
    };
    let question = CommandQuestion { stream, region, label };
    if !is_right(&set, &question) {
        return refusal(StatusCode::BAD_REQUEST, "names have 1 to 256 characters");
    }
    let begun = Instant::now();
    let (of, stream) = (set.clone(), question.stream.clone());
    let done = match forbidden(caller) {
        Some(refused) => Err(refused),
        None => asked(&shared, move |commands| commands.calibrate(&of, &question, write)).await,
    };
    let done = match done {
        Ok(found) if write => match change_within(&shared, caller, Action::Reload, left(begun)).await {
            Ok(RequestOutcome::Refused { why, problems }) => {
                let why = format!("the calibration is kept, and cannot be in force yet: {why}");
                Err(("not in force", with_problems(&why, &problems)))
            }
            Ok(_) => Ok(found),
            Err(early) => Err(early),
        },
        other => other,
    };
    let (outcome, answer) = match done {
        Ok(found) => ("done", Json(found).into_response()),
        Err(refused) => refused,
    };
    let action = if write { "calibrate labels" } else { "try a calibration" };
    audit(caller, action, Some(&stream), Some(&set), outcome);
    answer
}

/// What is sent, for the document.
fn body(more: Value) -> Value {
    let text = json!({ "type": "string", "minLength": 1, "maxLength": MAX_NAME });
    let or_null = json!({ "anyOf": [text, { "type": "null" }] });
    let mut properties = json!({ "stream": text, "region": or_null, "label": or_null });
    for (key, schema) in more.as_object().into_iter().flatten() {
        properties[key] = schema.clone();
    }
    let schema =
        json!({ "type": "object", "properties": properties, "required": ["stream"], "additionalProperties": false });
    json!({ "required": true, "content": { "application/json": { "schema": schema } } })
}

fn described(id: &str, summary: &str, answers: &[(&str, Value)], more: Value) -> Value {
    let mut told = operation(id, summary, answers);
    told["requestBody"] = body(more);
    for status in ["415", "500"] {
        told["responses"][status] = json!({ "$ref": "#/components/responses/Error" });
    }
    with_parameter(told, "set", "dock-safety")
}

/// How the document tells of the routes.
pub(super) fn of_report() -> Value {
    let answers = [
        ("200", answer("As `vtagd labels report --json` has it.", json!({ "type": "object" }))),
        ("422", answer("Why there is none: nothing is marked, say.", of("Problems"))),
    ];
    let summary = "How far the labels of a set can be trusted on a stream, by what is marked: nothing is changed.";
    described("reportLabels", summary, &answers, json!({}))
}

pub(super) fn of_calibrate() -> Value {
    let answers = [
        ("200", answer("As `vtagd labels calibrate --json` has it.", json!({ "type": "object" }))),
        ("202", answer("It is kept, and not in force yet; the log will say what came of it.", of("UnderWay"))),
        ("422", answer("Why there is none: nothing is marked as without the label, say.", of("Problems"))),
    ];
    let summary = "Thresholds of a set's labels for one stream, out of what is marked; with `write` they are kept, and in force from then on.";
    described("calibrateLabels", summary, &answers, json!({ "write": { "type": "boolean" } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_an_argument_is_a_short_name() {
        let question = |stream: &str| CommandQuestion { stream: stream.to_owned(), ..CommandQuestion::default() };
        assert!(is_right("dock safety", &question("dock-3")));
        for (set, stream) in [("", "a"), ("a", ""), ("a\n", "a"), ("a", "\u{0}"), (&*"x".repeat(300), "a")] {
            assert!(!is_right(set, &question(stream)), "{set:?} {stream:?}");
        }
        let headers = HeaderMap::from_iter([(axum::http::header::CONTENT_TYPE, "application/json".parse().unwrap())]);
        assert!(read::<CommandQuestion>(&headers, br#"{"stream":"a","clip":"/etc/passwd"}"#).is_err());
        assert!(read::<CommandQuestion>(&HeaderMap::new(), br#"{"stream":"a"}"#).is_err());
    }
}
