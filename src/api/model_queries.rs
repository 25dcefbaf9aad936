//! `/api/v1/tag` and `/api/v1/embed` (and, for `search.rs`, `/api/v1/search`): what the model makes of a picture or of texts that are sent here.
//!
//! In: a body that is here in whole, and bounded (`guard.rs`). Out: scores or embeddings as JSON. What answers is handed in by the daemon as a
//! [`ModelQueries`] and blocks, so it is called on a thread for that. Full: [`MAX_PICTURES`](super::limits::MAX_PICTURES) queries are under
//! way at most, those left out that nobody waits for any more; one more is refused (503). Before the model is warm, and when the daemon stops, all are.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::Shared;
use super::guard::{later, refusal};
use super::label_lab::TriedLabel;
use super::limits::MAX_PICTURES;
use super::parameters::{Parameter, ParameterKind, Parameters};
use crate::event::ModelRef;
use crate::history::search_answer::{SearchAnswer, SearchRange};
use crate::stream::requests::LabelDraft;

/// Texts of one query, …
pub(super) const MAX_TEXTS: usize = 64;
/// … characters of one text; a tower reads 77 tokens or so …
pub(super) const MAX_TEXT_CHARS: usize = 1000;
/// … and bytes of the JSON around them.
const MAX_JSON: usize = 512 * 1024;

/// When to come back after a refusal for want of room.
const RETRY_AFTER: Duration = Duration::from_secs(4);

/// One label of a picture.
#[derive(Clone, Debug, Serialize)]
pub struct TagScore {
    pub label: String,
    pub score: Option<f32>,
    /// `None` where it is infinite.
    pub margin: Option<f32>,
    pub rival: Option<String>,
}

/// One label set of a picture.
#[derive(Clone, Debug, Serialize)]
pub struct SetScores {
    pub set: String,
    /// The region of the stream by which it is scored, if it has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    pub scores: Vec<TagScore>,
}

/// Why a query has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryRefusal {
    /// `model: none`.
    NoModel,
    /// `history: off`.
    NoHistory,
    NoSuchSet,
    NoSuchStream,
    /// What was sent cannot be used.
    Input(String),
    /// Later perhaps.
    Busy(&'static str),
    /// The model could not do it; the log has more.
    Failed(String),
}

/// What the model can be asked; filled in by the daemon. Blocks for seconds.
pub trait ModelQueries: Send + Sync {
    fn model(&self) -> &ModelRef;

    /// The scores of a coded picture: by this set or by all, of this stream's sets and as it looks at its pictures.
    ///
    /// # Errors
    /// Why there are none.
    fn tag(&self, picture: &[u8], set: Option<&str>, stream: Option<&str>) -> Result<Vec<SetScores>, QueryRefusal>;

    /// The embedding of a coded picture.
    ///
    /// # Errors
    /// Why there is none.
    fn embed_picture(&self, picture: &[u8]) -> Result<Vec<f32>, QueryRefusal>;

    /// The embeddings of texts, in their order.
    ///
    /// # Errors
    /// Why there are none.
    fn embed_texts(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, QueryRefusal>;

    /// The picture of a row of the history, as [`Self::search`] names it. `None`: there is none, or not any more.
    fn history_picture(&self, name: &str) -> Option<Vec<u8>>;

    /// The moments of the history that fit a text, a coded picture, or both.
    ///
    /// # Errors
    /// Why there are none.
    fn search(
        &self,
        text: Option<&str>,
        picture: Option<&[u8]>,
        range: SearchRange<'_>,
        histogram: bool,
    ) -> Result<SearchAnswer, QueryRefusal>;

    /// How a label of this set would stand that is as `draft` has it, now and over the `past`.
    ///
    /// # Errors
    /// Why it cannot be told.
    fn try_label(&self, set: &str, draft: &LabelDraft, past: Duration) -> Result<TriedLabel, QueryRefusal>;
}

/// What answers, and how much of it there is.
#[derive(Clone)]
pub(super) struct Answering {
    pub queries: Arc<dyn ModelQueries>,
    room: Arc<Semaphore>,
}

impl Answering {
    pub fn new(queries: Arc<dyn ModelQueries>) -> Self {
        Self { queries, room: Arc::new(Semaphore::new(MAX_PICTURES)) }
    }
}

fn busy(why: &str) -> Response {
    later(refusal(StatusCode::SERVICE_UNAVAILABLE, why), RETRY_AFTER)
}

/// An answer, and whose it is.
#[derive(Serialize)]
struct Answered<T> {
    model: ModelRef,
    #[serde(flatten)]
    answer: T,
}

/// What `ask` comes to, on a thread that may wait.
async fn answer<T: Serialize + Send + 'static>(
    shared: &Shared,
    ask: impl FnOnce(&dyn ModelQueries) -> Result<T, QueryRefusal> + Send + 'static,
) -> Response {
    let asked = move |queries: &dyn ModelQueries| {
        ask(queries).map(|answer| Answered { model: queries.model().clone(), answer })
    };
    answer_whole(shared, asked).await
}

/// The same for an answer that names the model itself.
pub(super) async fn answer_whole<T: Serialize + Send + 'static>(
    shared: &Shared,
    ask: impl FnOnce(&dyn ModelQueries) -> Result<T, QueryRefusal> + Send + 'static,
) -> Response {
    let Some(Answering { queries, room }) = shared.board.answering() else {
        return busy("the model is not warm yet");
    };
    // It stays taken until the work is done, whether or not somebody still waits for it.
    let Ok(place) = room.try_acquire_owned() else { return busy("too many queries are under way: come back later") };
    let work = tokio::task::spawn_blocking(move || {
        let _place = place;
        ask(&*queries)
    });
    let refused = match work.await {
        Ok(Ok(answer)) => return Json(answer).into_response(),
        Ok(Err(refused)) => refused,
        Err(_) => QueryRefusal::Failed("it panicked; please report this".to_owned()),
    };
    match refused {
        QueryRefusal::NoModel => {
            refusal(StatusCode::CONFLICT, "there is no model: the configuration has `model: none`")
        }
        QueryRefusal::NoHistory => {
            refusal(StatusCode::CONFLICT, "there is no history: the configuration has `history: off`")
        }
        QueryRefusal::NoSuchSet => refusal(StatusCode::NOT_FOUND, "no such label set"),
        QueryRefusal::NoSuchStream => refusal(StatusCode::NOT_FOUND, "no such stream"),
        QueryRefusal::Input(why) => refusal(StatusCode::UNPROCESSABLE_ENTITY, &why),
        QueryRefusal::Busy(why) => busy(why),
        QueryRefusal::Failed(why) => {
            tracing::warn!(why, "a query of the API failed");
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "the model could not do it; the log says why")
        }
    }
}

/// Refuses a body that is no picture; `more` is said behind what it should be.
pub(super) fn no_picture(headers: &HeaderMap, more: &str) -> Option<Response> {
    let wanted = || format!("the body is a picture: image/jpeg, image/png or image/webp{more}");
    (!kind(headers).starts_with("image/")).then(|| refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, &wanted()))
}

/// Bytes of which their sender does not say what they are. A browser sends them nowhere without asking first, as it does pictures.
pub(super) const OCTETS: &str = "application/octet-stream";

/// The kind of a body, without its parameters.
pub(super) fn kind(headers: &HeaderMap) -> String {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter { name: "set", kind: ParameterKind::Text, meaning: "By this label set; without it by all." },
    Parameter {
        name: "stream",
        kind: ParameterKind::Text,
        meaning: "By the label sets of this stream, and looked at as its view says.",
    },
];

pub(super) async fn tag(
    State(shared): State<Shared>,
    Extension(given): Extension<Parameters>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refusal) = no_picture(&headers, "") {
        return refusal;
    }
    let ask = move |queries: &dyn ModelQueries| {
        queries.tag(&body, given.text("set"), given.text("stream")).map(|sets| Tagged { sets })
    };
    answer(&shared, ask).await
}

#[derive(Serialize)]
struct Tagged {
    sets: Vec<SetScores>,
}

#[derive(Serialize)]
struct EmbeddedImages {
    images: [EmbeddedImage; 1],
}

#[derive(Serialize)]
struct EmbeddedImage {
    embedding: Vec<f32>,
}

#[derive(Serialize)]
struct EmbeddedTexts {
    texts: Vec<EmbeddedText>,
}

#[derive(Serialize)]
struct EmbeddedText {
    text: String,
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Texts {
    texts: Vec<String>,
}

pub(super) async fn embed(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    match kind(&headers) {
        kind if kind.starts_with("image/") => {
            let one = |embedding| EmbeddedImages { images: [EmbeddedImage { embedding }] };
            answer(&shared, move |queries| queries.embed_picture(&body).map(one)).await
        }
        kind if kind == "application/json" => {
            let texts = match texts(&body) {
                Ok(texts) => texts,
                Err(refusal) => return *refusal,
            };
            let ask = move |queries: &dyn ModelQueries| {
                let embeddings = queries.embed_texts(&texts)?;
                let texts = texts.into_iter().zip(embeddings);
                Ok(EmbeddedTexts { texts: texts.map(|(text, embedding)| EmbeddedText { text, embedding }).collect() })
            };
            answer(&shared, ask).await
        }
        _ => refusal(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body is a picture (image/jpeg, image/png, image/webp) or texts (application/json)",
        ),
    }
}

fn texts(body: &[u8]) -> Result<Vec<String>, Box<Response>> {
    let wrong = |status, why: &str| Err(Box::new(refusal(status, why)));
    if body.len() > MAX_JSON {
        return wrong(StatusCode::PAYLOAD_TOO_LARGE, "texts may have 512 KiB");
    }
    let Ok(Texts { texts }) = serde_json::from_slice(body) else {
        return wrong(StatusCode::BAD_REQUEST, "the body is not {\"texts\": [\"…\"]}");
    };
    if !(1..=MAX_TEXTS).contains(&texts.len()) {
        return wrong(StatusCode::BAD_REQUEST, "one text to 64");
    }
    if texts.iter().any(|text| !(1..=MAX_TEXT_CHARS).contains(&text.chars().count())) {
        return wrong(StatusCode::BAD_REQUEST, "a text has one character to 1000");
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_few_and_short_or_refused() {
        let status = |body: &str| texts(body.as_bytes()).map_err(|answer| answer.status().as_u16());
        assert_eq!(status(r#"{"texts":["a cat","ein Hündchen"]}"#).unwrap().len(), 2);
        let long = "é".repeat(MAX_TEXT_CHARS);
        assert!(status(&json!({ "texts": [long] }).to_string()).is_ok());
        for wrong in [
            "",
            "[]",
            r#"{"texts":[]}"#,
            r#"{"texts":[""]}"#,
            r#"{"texts":[1]}"#,
            r#"{"texts":["a"],"more":1}"#,
            "\u{0}",
            &json!({ "texts": [format!("{long}x")] }).to_string(),
            &json!({ "texts": vec!["a"; MAX_TEXTS + 1] }).to_string(),
        ] {
            assert_eq!(status(wrong), Err(400), "{wrong}");
        }
        assert_eq!(status(&" ".repeat(MAX_JSON + 1)), Err(413));
    }

    #[test]
    fn the_kind_of_a_body_is_read_without_its_parameters() {
        let kind = |text: &str| kind(&HeaderMap::from_iter([(header::CONTENT_TYPE, text.parse().unwrap())]));
        assert_eq!(
            (kind("Image/JPEG"), kind("application/json; charset=utf-8")),
            ("image/jpeg".into(), "application/json".into())
        );
    }
}
