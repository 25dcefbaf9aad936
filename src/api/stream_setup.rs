//! The first steps: which cameras there are (`/api/v1/discover`), what one shows (`/api/v1/preview`), a stream that is added (`POST /api/v1/streams`) or removed
//! again (`DELETE /api/v1/streams/{id}`), and labels to begin with (`/api/v1/example-sets`).
//!
//! In: JSON, whole and bounded (`guard.rs`). Out: devices, a picture, or what became of the change. All but the example sets needs the token, also on loopback, and
//! leaves a line in the log: it makes this machine talk to others. What looks is handed in by the daemon as a [`CameraFinder`], which waits for the network, so
//! it is called on threads for that. Full: one search and [`PREVIEWS`] pictures are under way at most; one more is refused (503). A password is taken out of what was
//! sent at once, and told to nobody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::Shared;
use super::guard::{Caller, later, refusal};
use super::handlers::{audit, change, forbidden, part, with_problems};
use super::model_queries::kind;
use super::openapi::{answer, list, object, of, operation, with_parameter};
use super::stream_detail::no_such_stream;
use crate::platform::secret::{self, Secret};
use crate::stream::requests::{Action, NewStream, RequestOutcome};
use crate::yaml::problem::Problem;

/// Cameras that are looked at at once.
const PREVIEWS: usize = 2;
/// Longest address, name and password, in characters.
const MAX_URL: usize = 2048;
const MAX_NAME: usize = 256;
/// When to come back after a refusal for want of room.
const RETRY_AFTER: Duration = Duration::from_secs(4);

/// Whom to ask for cameras.
#[derive(Clone, Debug, Default)]
pub struct DiscoverQuestion {
    /// One address instead of the whole network; port 0: the usual one.
    pub address: Option<SocketAddr>,
    pub username: Option<String>,
    pub password: Option<Secret>,
}

/// Why a camera has no picture.
#[derive(Clone, Debug)]
pub enum NoPreview {
    /// It is no address that could be added.
    Wrong(Vec<Problem>),
    /// None came.
    None(String),
}

/// What looks for cameras, and at one; filled in by the daemon. Waits for the network.
pub trait CameraFinder: Send + Sync {
    /// The cameras that answer, as JSON (schema `Device`).
    ///
    /// # Errors
    /// When nobody could be asked.
    fn discover(&self, question: &DiscoverQuestion) -> Result<Vec<Value>, String>;

    /// One picture of a camera, as JPEG.
    ///
    /// # Errors
    /// Why there is none.
    fn preview(&self, stream: &NewStream) -> Result<Vec<u8>, NoPreview>;
}

/// What looks, and how much of it there may be at once.
#[derive(Clone)]
pub(super) struct Finding {
    finder: Arc<dyn CameraFinder>,
    search: Arc<Semaphore>,
    previews: Arc<Semaphore>,
}

impl Finding {
    pub fn new(finder: Arc<dyn CameraFinder>) -> Self {
        Self { finder, search: Arc::new(Semaphore::new(1)), previews: Arc::new(Semaphore::new(PREVIEWS)) }
    }
}

/// What can be added here.
#[derive(Clone, Debug, Default)]
pub struct Additions {
    /// Streams that were.
    pub streams: Vec<String>,
    /// Why none can be; `None`: they can.
    pub obstacle: Option<String>,
}

impl Additions {
    /// As `/api/v1/streams` tells it.
    pub(super) fn told(&self, has_token: bool) -> Value {
        let no_token = "changes need a token: make one with `openssl rand -hex 32 > token`, which nobody else may read, write `api: { token: { file: token } }` \
                        into the configuration, and reload it";
        let obstacle = if has_token { self.obstacle.as_deref() } else { Some(no_token) };
        json!({ "streams": self.streams, "obstacle": obstacle })
    }
}

/// What is sent for a stream, and for a look at one, which has no id.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SentStream {
    #[serde(default)]
    id: Option<String>,
    url: String,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SentQuestion {
    #[serde(default)]
    address: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
}

/// What was sent. What it says instead of what it should is not repeated: it may be a password.
#[expect(clippy::result_large_err, reason = "an answer either way, made once a request")]
fn read<T: serde::de::DeserializeOwned>(headers: &HeaderMap, body: &[u8], form: &str) -> Result<T, Response> {
    if kind(headers) != "application/json" {
        return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body is JSON (application/json)"));
    }
    serde_json::from_slice(body).map_err(|_| refusal(StatusCode::BAD_REQUEST, &format!("the body is not {form}")))
}

/// `text`, unless there is nothing in it.
fn some(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// Whether somebody can have meant it.
fn is_plain(text: &str, most: usize) -> bool {
    text.chars().count() <= most && !text.chars().any(char::is_control)
}

#[expect(clippy::result_large_err, reason = "an answer either way, made once a request")]
fn login(username: Option<String>, password: Option<String>) -> Result<(Option<String>, Option<Secret>), Response> {
    if secret::is_full() {
        let why =
            "more credentials were tried since the daemon started than it can keep out of its log: start it again";
        return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, why));
    }
    let (username, password) = (some(username), some(password).map(Secret::new));
    let is_right = username.iter().all(|text| is_plain(text, MAX_NAME))
        && password.iter().all(|secret| is_plain(secret.expose(), MAX_NAME));
    let why = "`username` and `password` are 256 characters at most, and printable";
    is_right.then_some((username, password)).ok_or_else(|| refusal(StatusCode::BAD_REQUEST, why))
}

impl SentStream {
    #[expect(clippy::result_large_err, reason = "an answer either way, made once a request")]
    fn stream(self) -> Result<NewStream, Response> {
        let (username, password) = login(self.username, self.password)?;
        if !is_plain(&self.url, MAX_URL) || self.url.trim().is_empty() {
            return Err(refusal(StatusCode::BAD_REQUEST, "`url` is an address of 1 to 2048 characters"));
        }
        let id = self.id.unwrap_or_default();
        if !is_plain(&id, MAX_NAME) {
            return Err(refusal(StatusCode::BAD_REQUEST, "`id` is a name of at most 64 characters"));
        }
        Ok(NewStream { id, url: self.url, username, password })
    }
}

fn busy(why: &str) -> Response {
    later(refusal(StatusCode::SERVICE_UNAVAILABLE, why), RETRY_AFTER)
}

/// What `look` comes to, on a thread that may wait, once there is room for it.
async fn looked<T: Send + 'static>(
    shared: &Shared,
    room: impl FnOnce(&Finding) -> &Arc<Semaphore>,
    look: impl FnOnce(&dyn CameraFinder) -> T + Send + 'static,
) -> Result<T, Response> {
    let Some(finding) = shared.board.finding() else { return Err(busy("the daemon is starting")) };
    let Ok(place) = Arc::clone(room(&finding)).try_acquire_owned() else {
        return Err(busy("others are being looked for already: come back in a moment"));
    };
    let finder = finding.finder;
    let work = tokio::task::spawn_blocking(move || {
        // It stays taken until the work is done, whether or not somebody still waits for it.
        let _place = place;
        look(&*finder)
    });
    work.await.map_err(|_| refusal(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping"))
}

/// The refusal for who may change nothing. It comes before what he sent is read: passwords are remembered, so that no log shows them, and there is room for some.
fn not_allowed(caller: Caller, action: &str) -> Option<Response> {
    let (outcome, answer) = forbidden(caller)?;
    audit(caller, action, None, None, outcome);
    Some(answer)
}

pub(super) async fn discover(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refused) = not_allowed(caller, "discover cameras") {
        return refused;
    }
    let question = match question(&headers, &body) {
        Ok(question) => question,
        Err(refused) => return refused,
    };
    let found = looked(&shared, |finding| &finding.search, move |finder| finder.discover(&question)).await;
    let (outcome, answer) = match found {
        Ok(Ok(devices)) => ("done", Json(json!({ "devices": devices })).into_response()),
        Ok(Err(why)) => ("failed", refusal(StatusCode::CONFLICT, &why)),
        Err(early) => ("busy", early),
    };
    audit(caller, "discover cameras", None, None, outcome);
    answer
}

#[expect(clippy::result_large_err, reason = "an answer either way, made once a request")]
fn question(headers: &HeaderMap, body: &[u8]) -> Result<DiscoverQuestion, Response> {
    let form = "{\"address\": …, \"username\": …, \"password\": …}, each of which may be left out";
    let sent: SentQuestion = read(headers, body, form)?;
    let (username, password) = login(sent.username, sent.password)?;
    let address = match some(sent.address) {
        None => None,
        Some(text) => {
            let text = text.trim();
            let with_port = text.parse().or_else(|_| text.parse().map(|address| SocketAddr::new(address, 0)));
            let why = "`address` is an address such as 10.0.0.12 or 10.0.0.12:3702";
            Some(with_port.map_err(|_| refusal(StatusCode::BAD_REQUEST, why))?)
        }
    };
    Ok(DiscoverQuestion { address, username, password })
}

/// How what is wrong with a stream is told.
const FORM: &str = "{\"id\": …, \"url\": …, \"username\": …, \"password\": …}, the last two of which may be left out";

pub(super) async fn preview(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refused) = not_allowed(caller, "look at a camera") {
        return refused;
    }
    let sent = read::<SentStream>(&headers, &body, FORM).and_then(SentStream::stream);
    let stream = match sent {
        Ok(stream) => NewStream { id: "preview".to_owned(), ..stream },
        Err(refused) => return refused,
    };
    let found = looked(&shared, |finding| &finding.previews, move |finder| finder.preview(&stream)).await;
    let (outcome, answer) = match found {
        Ok(Ok(jpeg)) => ("done", ([(header::CONTENT_TYPE, "image/jpeg")], jpeg).into_response()),
        Ok(Err(NoPreview::Wrong(problems))) => ("refused", with_problems("the address cannot be used", &problems)),
        Ok(Err(NoPreview::None(why))) => ("no picture", with_problems(&why, &[])),
        Err(early) => ("busy", early),
    };
    audit(caller, "look at a camera", None, None, outcome);
    answer
}

pub(super) async fn add_stream(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refused) = not_allowed(caller, "add a stream") {
        return refused;
    }
    let stream = match read::<SentStream>(&headers, &body, FORM).and_then(SentStream::stream) {
        Ok(stream) => stream,
        Err(refused) => return refused,
    };
    // Whatever else it is called, that is not told to the log.
    let id: String = stream.id.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).take(64).collect();
    let (outcome, answer) = match change(&shared, caller, Action::AddStream(stream)).await {
        Ok(RequestOutcome::Done) => ("done", Json(json!({ "stream": id, "changed": true })).into_response()),
        Ok(RequestOutcome::Refused { why, problems }) => ("refused", with_problems(&why, &problems)),
        Ok(RequestOutcome::Outdated(why)) => ("refused", refusal(StatusCode::CONFLICT, &why)),
        Ok(_) => ("refused", refusal(StatusCode::CONFLICT, "it cannot be added")),
        Err(early) => early,
    };
    audit(caller, "add a stream", Some(&id), None, outcome);
    answer
}

pub(super) async fn remove_stream(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    let id = match part(id) {
        Ok(id) => id,
        Err(refused) => return refused,
    };
    let (outcome, answer) = match change(&shared, caller, Action::RemoveStream { stream: id.clone() }).await {
        Ok(RequestOutcome::Done) => ("done", Json(json!({ "stream": id, "changed": true })).into_response()),
        Ok(RequestOutcome::NoSuchStream | RequestOutcome::NoSuchSet) => ("no such stream", no_such_stream(&shared)),
        Ok(RequestOutcome::Refused { why, problems }) => ("refused", with_problems(&why, &problems)),
        Ok(RequestOutcome::Outdated(why)) => ("refused", refusal(StatusCode::CONFLICT, &why)),
        Ok(RequestOutcome::Already) => ("it was so", refusal(StatusCode::CONFLICT, "it is gone already")),
        Err(early) => early,
    };
    audit(caller, "remove a stream", Some(&id), None, outcome);
    answer
}

pub(super) async fn example_sets(State(shared): State<Shared>) -> Json<Value> {
    Json(json!({ "sets": *shared.board.example_sets.read() }))
}

/// What is sent, for the document.
fn body(properties: Value, required: &[&str]) -> Value {
    let schema =
        json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false });
    json!({ "required": true, "content": { "application/json": { "schema": schema } } })
}

fn text_or_null(most: usize) -> Value {
    json!({ "anyOf": [{ "type": "string", "maxLength": most }, { "type": "null" }] })
}

fn of_login() -> Value {
    json!({ "username": text_or_null(MAX_NAME), "password": text_or_null(MAX_NAME) })
}

fn of_stream() -> Value {
    let mut properties = of_login();
    properties["url"] = json!({ "type": "string", "minLength": 1, "maxLength": MAX_URL, "pattern": "\\S" });
    properties
}

/// `told` with what a body that is none comes to.
fn with_body(mut told: Value, body: Value) -> Value {
    told["requestBody"] = body;
    told["responses"]["415"] = json!({ "$ref": "#/components/responses/Error" });
    told
}

/// How the document tells of the routes.
pub(super) fn of_discover() -> Value {
    let found = object(json!({ "devices": list(of("Device")) }));
    let answers =
        [("200", answer("Those that answered.", found)), ("409", answer("Why nobody could be asked.", of("Error")))];
    let summary = "Looks for ONVIF cameras in this machine's networks, or at one address, for a few seconds.";
    let mut properties = of_login();
    properties["address"] = text_or_null(64);
    with_body(operation("discover", summary, &answers), body(properties, &[]))
}

pub(super) fn of_preview() -> Value {
    let picture = json!({ "description": "What it shows.", "content": { "image/jpeg": { "schema": { "type": "string", "contentEncoding": "binary" } } } });
    let answers = [("200", picture), ("422", answer("Why there is no picture.", of("Problems")))];
    let summary = "One picture of a camera that is no stream yet.";
    let mut properties = of_stream();
    properties["id"] = text_or_null(MAX_NAME);
    with_body(operation("preview", summary, &answers), body(properties, &["url"]))
}

pub(super) fn of_add() -> Value {
    let answers = [
        ("200", answer("The stream runs.", of("ChangedStream"))),
        ("202", answer("It is not done yet; the log will say what came of it.", of("UnderWay"))),
        ("409", answer("There is one of this id, or nobody has said where what is added is kept.", of("Error"))),
        ("422", answer("Nothing has changed, and why.", of("Problems"))),
    ];
    let summary = "Adds a camera (rtsp, rtsps, http, https) in the state directory, and reads the configuration again.";
    let mut properties = of_stream();
    properties["id"] = json!({ "type": "string", "pattern": "^[a-z0-9_-]{1,64}$" });
    with_body(operation("addStream", summary, &answers), body(properties, &["id", "url"]))
}

pub(super) fn of_remove() -> Value {
    let answers = [
        ("200", answer("It is gone.", of("ChangedStream"))),
        ("202", answer("It is not done yet; the log will say what came of it.", of("UnderWay"))),
        ("409", answer("It stands in the configuration.", of("Error"))),
        ("422", answer("Nothing has changed, and why.", of("Problems"))),
    ];
    let summary = "Removes a stream that was added here, and reads the configuration again.";
    with_parameter(operation("removeStream", summary, &answers), "id", "no-such-stream")
}

pub(super) fn of_examples() -> Value {
    let sets = answer("Each with its background and labels.", of("ExampleSets"));
    operation(
        "exampleSets",
        "Label sets to begin with: labels of them can be added to a set of one's own.",
        &[("200", sets)],
    )
}

/// The schemas of what is answered.
pub(super) fn schemas() -> [(&'static str, Value); 4] {
    let (string, flag) = (json!({ "type": "string" }), json!({ "type": "boolean" }));
    let maybe = |schema: Value| json!({ "anyOf": [schema, { "type": "null" }] });
    let count = json!({ "type": "integer", "minimum": 0 });
    let stream = object(json!({
        "profile": string, "url": string, "codec": maybe(string.clone()), "width": maybe(count.clone()), "height": maybe(count),
        "frame_rate": maybe(json!({ "type": "number" })), "incomplete": flag, "elsewhere": flag,
    }));
    let device = object(json!({
        "id": string, "name": maybe(string.clone()), "address": string, "xaddrs": list(string.clone()), "scopes": list(string.clone()),
        "hardware": maybe(string.clone()), "location": maybe(string.clone()), "streams": list(stream), "error": maybe(string.clone()),
    }));
    let texts = list(string.clone());
    let label = object(json!({ "label": string, "prompts": texts, "negatives": texts }));
    let set = object(json!({ "set": string, "background": texts, "labels": list(label) }));
    let additions = object(json!({ "streams": texts, "obstacle": maybe(string.clone()) }));
    [
        ("Device", device),
        ("ExampleSets", object(json!({ "sets": list(set) }))),
        ("ChangedStream", object(json!({ "stream": string, "changed": flag }))),
        ("Additions", additions),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(kind: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())])
    }

    #[test]
    fn a_stream_is_json_with_an_address_and_what_is_wrong_is_not_repeated() {
        let read = |kind: &'static str, body: &str| {
            read::<SentStream>(&headers(kind), body.as_bytes(), FORM)
                .and_then(SentStream::stream)
                .map_err(|answer| answer.status().as_u16())
        };
        let right =
            read("application/json", r#"{"id":"gate","url":"rtsp://h/","username":"","password":"word"}"#).unwrap();
        assert_eq!((&*right.id, right.username), ("gate", None));
        assert_eq!(right.password.unwrap().expose(), "word");
        for kind in ["text/plain", "application/x-www-form-urlencoded"] {
            assert_eq!(read(kind, r#"{"id":"gate","url":"rtsp://h/"}"#).unwrap_err(), 415);
        }
        for wrong in [
            "",
            "{}",
            r#"{"id":"gate"}"#,
            r#"{"id":"gate","url":" "}"#,
            r#"{"id":"gate","url":"rtsp://h/","pipeline":"x"}"#,
            r#"{"id":"gate","url":"rtsp://h/\n"}"#,
            r#"{"id":"gate","url":"rtsp://h/","password":"a\nb"}"#,
            &json!({ "id": "gate", "url": format!("rtsp://{}", "h".repeat(MAX_URL)) }).to_string(),
        ] {
            assert_eq!(read("application/json", wrong).unwrap_err(), 400, "{wrong}");
        }
        assert_eq!(question(&headers("application/json"), b"{}").unwrap().address, None);
        let asked = question(&headers("application/json"), br#"{"address":"10.0.0.12"}"#).unwrap();
        assert_eq!(asked.address, Some("10.0.0.12:0".parse().unwrap()));
        assert!(question(&headers("application/json"), br#"{"address":"camera.local"}"#).is_err());
    }

    #[test]
    fn without_a_token_that_is_what_is_missing() {
        let additions = Additions { streams: vec!["gate".to_owned()], obstacle: Some("no folder".to_owned()) };
        assert_eq!(additions.told(true)["obstacle"], "no folder");
        assert!(additions.told(false)["obstacle"].as_str().unwrap().contains("api: { token"));
    }
}
