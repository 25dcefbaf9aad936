//! How the OpenAPI document tells of what programs and browsers use: the live stream, what the model is asked, and the session. Pure.

use serde_json::{Value, json};

use super::model_queries;
use super::openapi::{answer, list, object, object_with, of, operation};

/// Who may ask shows one of these.
pub(super) fn security_schemes(cookie: &str) -> Value {
    json!({
        "token": { "type": "http", "scheme": "bearer" },
        "push": {
            "type": "http", "scheme": "basic",
            "description": "`push.token` of the stream as the password of any user, or as a bearer token.",
        },
        "session": {
            "type": "apiKey", "in": "cookie", "name": cookie,
            "description": "The cookie that `POST /api/v1/session` gives for the token. What changes anything needs the header X-CSRF-Token too.",
        },
    })
}

pub(super) fn with_csrf_token(operation: &mut Value) {
    let parameter = json!({
        "name": "X-CSRF-Token", "in": "header", "required": false, "schema": { "type": "string" },
        "description": "For a session: the `csrf_token` that it began with.",
    });
    match operation["parameters"].as_array_mut() {
        Some(parameters) => parameters.push(parameter),
        None => operation["parameters"] = json!([parameter]),
    }
}

pub(super) fn live() -> Value {
    let summary = "Scores, events and states of streams and sinks as server-sent events, while they happen; it goes on until somebody ends it, or for as long as is asked for.";
    let begins = json!({
        "description": "It begins. The schema is that of each event, its fields as they are sent.",
        "content": { "text/event-stream": { "schema": of("LiveMessage") } },
    });
    let mut live = operation("live", summary, &[("200", begins)]);
    live["responses"]["404"] = json!({ "$ref": "#/components/responses/Error" });
    live["parameters"] = json!([
        {
            "name": "Last-Event-ID", "in": "header", "required": false, "schema": { "type": "string" },
            "description": "The id of the last event that was heard: those after it come first, as far as they are kept.",
        },
    ]);
    live
}

/// One server-sent event of the live stream.
pub(super) fn live_message() -> Value {
    let (string, flag) = (json!({ "type": "string" }), json!({ "type": "boolean" }));
    let or_null = |kind: &str| json!({ "anyOf": [{ "type": kind }, { "type": "null" }] });
    let time = json!({ "type": "string", "format": "date-time" });
    let any = list(json!({ "type": "object" }));
    let score = object(json!({
        "region": or_null("string"), "set": string, "label": string, "score": or_null("number"), "margin": or_null("number"),
        "rival": or_null("string"), "rival_kind": or_null("string"), "state": { "enum": ["idle", "rising", "open", "cooldown", "inactive"] },
    }));
    let bodies = [
        ("heartbeat", object(json!({ "at": time }))),
        (
            "lost",
            object(json!({ "kind": string, "count": or_null("integer"), "why": { "enum": ["too_slow", "not_kept"] } })),
        ),
        ("status", object(json!({ "whole": flag, "streams": any, "sinks": any, "gone": list(string.clone()) }))),
        ("scores", object(json!({ "stream": string, "at": or_null("string"), "scores": list(score) }))),
        ("event", json!({ "type": "object", "required": ["id", "type", "time", "data"] })),
    ];
    let kinds: Vec<&str> = bodies.iter().map(|(kind, _)| *kind).collect();
    let of_kind = bodies.iter().map(|(kind, body)| {
        let data = json!({ "type": "string", "contentMediaType": "application/json", "contentSchema": body });
        json!({ "if": { "properties": { "event": { "const": kind } } }, "then": { "properties": { "data": data } } })
    });
    json!({
        "type": "object", "required": ["event", "data"],
        "properties": { "event": { "enum": kinds }, "data": string, "id": string },
        "allOf": of_kind.collect::<Vec<_>>(),
    })
}

/// Answers of routes that ask the model.
fn asked(id: &str, summary: &str, answered: &str) -> Value {
    let mut operation = operation(id, summary, &[("200", answer("What the model makes of it.", of(answered)))]);
    for status in ["404", "409", "415", "422"] {
        operation["responses"][status] = json!({ "$ref": "#/components/responses/Error" });
    }
    operation
}

pub(super) fn picture() -> Value {
    json!({ "schema": { "type": "string", "contentEncoding": "binary", "description": "At most 2^25 pixels, 16,384 a side." } })
}

/// What a route takes that takes a picture.
pub(super) fn picture_body() -> Value {
    let picture = picture();
    json!({ "required": true, "content": { "image/jpeg": picture, "image/png": picture, "image/webp": picture } })
}

pub(super) fn tag() -> Value {
    let summary = "The scores of a picture, through the batches of the streams, to which it yields.";
    let mut tag = asked("tag", summary, "Tagged");
    tag["requestBody"] = picture_body();
    tag
}

pub(super) fn embed() -> Value {
    let mut embed = asked("embed", "The embedding of a picture, or of texts.", "Embedded");
    let text = json!({ "type": "string", "minLength": 1, "maxLength": model_queries::MAX_TEXT_CHARS });
    let texts = json!({ "type": "array", "items": text, "minItems": 1, "maxItems": model_queries::MAX_TEXTS });
    let picture = picture();
    embed["requestBody"] = json!({
        "required": true,
        "content": {
            "application/json": { "schema": object(json!({ "texts": texts })) },
            "image/jpeg": picture, "image/png": picture, "image/webp": picture,
        },
    });
    embed
}

pub(super) fn search() -> Value {
    asked("search", "The moments of the history that fit a text.", "Moments")
}

pub(super) fn search_picture() -> Value {
    let mut search = asked(
        "searchPicture",
        "The moments of the history that look like a picture, with a text or without one.",
        "Moments",
    );
    search["requestBody"] = picture_body();
    search
}

fn model() -> Value {
    object(json!({ "name": { "type": "string" }, "fingerprint": { "type": "string" } }))
}

pub(super) fn tagged() -> Value {
    let or_null = |kind: &str| json!({ "anyOf": [{ "type": kind }, { "type": "null" }] });
    let score = object(json!({
        "label": { "type": "string" }, "score": or_null("number"), "margin": or_null("number"), "rival": or_null("string"),
    }));
    let set = object_with(
        json!({ "set": { "type": "string" }, "scores": list(score) }),
        json!({ "region": { "type": "string" } }),
    );
    object(json!({ "model": model(), "sets": list(set) }))
}

pub(super) fn embedded() -> Value {
    let embedding = list(json!({ "type": "number" }));
    let images = list(object(json!({ "embedding": embedding })));
    let texts = list(object(json!({ "text": { "type": "string" }, "embedding": embedding })));
    json!({ "anyOf": [object(json!({ "model": model(), "images": images })), object(json!({ "model": model(), "texts": texts }))] })
}

pub(super) fn log_in() -> Value {
    let begun = json!({
        "description": "It begins.",
        "headers": { "Set-Cookie": { "required": true, "schema": { "type": "string" } } },
        "content": { "application/json": { "schema": of("Session") } },
    });
    let mut log_in =
        operation("logIn", "A browser shows the token once, and a cookie from then on.", &[("200", begun)]);
    log_in["security"] = json!([{ "token": [] }]);
    log_in
}

pub(super) fn log_out() -> Value {
    let ended = answer("Whether the cookie's session was there.", of("SessionEnded"));
    operation("logOut", "Ends the session of the cookie that is sent.", &[("200", ended)])
}

/// What a session begins with.
pub(super) fn session() -> Value {
    let csrf = json!({ "type": "string", "description": "For the header X-CSRF-Token." });
    object(json!({ "csrf_token": csrf, "expires_at": { "type": "string", "format": "date-time" } }))
}
