//! The OpenAPI document of the API: every route with what it takes and answers, out of the table of routes. Pure; a test holds a running
//! daemon against it (tests/api/api_schemathesis.rs).
//!
//! By hand, not by utoipa (tried on three routes, 6.0): there a parameter with a schema of its own loses its sentence, a header of an answer cannot be `required`,
//! and what follows from a route's guard would be written at each route again. The table says all of it once.

use serde_json::{Map, Value, json};

use super::route_table::{Needs, Route, RouteClass, Rules};
use super::{label_lab, mark_routes, openapi_programs, parameters, picture_grid, scores, search, stream_setup};

/// The document, OpenAPI 3.1. `cookie`: what that of a session is called.
pub(super) fn document(routes: &[Route], cookie: &str) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "vtagd",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": "What a vtagd daemon sees and how it is. Where `api.token` is set, everything but /healthz, /livez and the page's own files needs it; \
                            without one the API answers on loopback alone, and nothing can be changed.",
        },
        "paths": paths(routes),
        "components": {
            "securitySchemes": openapi_programs::security_schemes(cookie),
            "schemas": schemas(),
            "responses": {
                "Error": answer("What is wrong with the request.", of("Error")),
                "TooMany": {
                    "description": "More requests than one address may make.",
                    "headers": { "Retry-After": { "required": true, "schema": { "type": "integer", "minimum": 1 } } },
                    "content": { "application/json": { "schema": of("Error") } },
                },
                "Token": {
                    "description": "The token is wrong, or there is none.",
                    "headers": { "WWW-Authenticate": { "required": true, "schema": { "const": "Bearer" } } },
                    "content": { "application/json": { "schema": of("Error") } },
                },
            },
        },
    })
}

pub(super) fn of(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

pub(super) fn answer(description: &str, schema: Value) -> Value {
    json!({ "description": description, "content": { "application/json": { "schema": schema } } })
}

pub(super) fn text(description: &str, kind: &str) -> Value {
    json!({ "description": description, "content": { kind: { "schema": { "type": "string" } } } })
}

/// One operation; `answers` are those of its own, by status.
pub(super) fn operation(id: &str, summary: &str, answers: &[(&str, Value)]) -> Value {
    let answers: Map<String, Value> =
        answers.iter().map(|(status, answer)| ((*status).to_owned(), answer.clone())).collect();
    json!({ "operationId": id, "summary": summary, "responses": answers })
}

/// `operation` with what follows from how its route is guarded.
fn guarded(mut operation: Value, rules: Rules) -> Value {
    let shared = |name: &str| json!({ "$ref": format!("#/components/responses/{name}") });
    if let Some(answers) = operation["responses"].as_object_mut() {
        answers.insert("400".into(), shared("Error"));
        answers.insert("413".into(), shared("Error"));
        answers.insert("429".into(), shared("TooMany"));
        if rules.needs != Needs::Nothing {
            answers.insert("401".into(), shared("Token"));
            answers.insert("403".into(), shared("Error"));
            answers.entry("503").or_insert_with(|| shared("Error"));
        }
    }
    let security = match rules.needs {
        Needs::Nothing | Needs::Page => json!([]),
        Needs::Token | Needs::Change | Needs::Push => json!([{ "token": [] }, { "session": [] }]),
    };
    // A session begins with the token alone.
    if operation.get("security").is_none() {
        operation["security"] = security;
    }
    if matches!(rules.needs, Needs::Change | Needs::Push) {
        openapi_programs::with_csrf_token(&mut operation);
    }
    operation["x-guard"] = json!(rules.class.as_str());
    if matches!(rules.class, RouteClass::Picture | RouteClass::Words) {
        operation["x-max-body"] = json!(rules.class.max_body());
    }
    operation
}

pub(super) fn with_parameter(mut operation: Value, name: &str, example: &str) -> Value {
    // Longer names exist nowhere: a path has to fit into a request's head.
    let schema = json!({ "type": "string", "minLength": 1, "maxLength": 1000 });
    operation["parameters"] =
        json!([{ "name": name, "in": "path", "required": true, "schema": schema, "example": example }]);
    operation["responses"]["404"] = json!({ "$ref": "#/components/responses/Error" });
    operation
}

/// What is read as JSON.
pub(super) fn read(id: &str, summary: &str, schema: &str) -> Value {
    operation(id, summary, &[("200", answer("What is so right now.", of(schema)))])
}

pub(super) fn health(id: &str) -> Value {
    let answers = [
        ("200", text("The process is alive and inference does not hang.", "text/plain; charset=utf-8")),
        ("503", text("Why the daemon is to be started again.", "text/plain; charset=utf-8")),
    ];
    operation(id, "Whether the daemon is to be left running.", &answers)
}

pub(super) fn switch(id: &str, summary: &str) -> Value {
    let answers = [
        ("200", answer("How the stream is now.", of("Switched"))),
        ("202", answer("It is not done yet.", of("UnderWay"))),
        ("409", answer("Why it cannot be.", of("Error"))),
    ];
    with_parameter(operation(id, summary, &answers), "id", "dock-3")
}

pub(super) fn scores() -> Value {
    let standing = operation(
        "scores",
        "How each label of a stream stands, whether it fired or not.",
        &[("200", answer("What is so right now.", of("Scores")))],
    );
    with_parameter(standing, "id", "dock-3")
}

pub(super) fn reset_labels() -> Value {
    let answers = [
        ("200", answer("The file is in force; `changed`: a copy was.", of("SetReset"))),
        ("202", answer("It is not done yet; the log will say what came of it.", of("UnderWay"))),
        ("422", answer("Nothing has changed, and why.", of("Problems"))),
    ];
    let summary = "Removes the copy of a label set, and reads the configuration again: its file is in force.";
    with_parameter(operation("resetLabels", summary, &answers), "set", "dock-safety")
}

fn paths(routes: &[Route]) -> Value {
    let mut paths = json!({});
    for route in routes {
        let mut operation = guarded(route.operation.clone(), route.rules);
        if !route.parameters.is_empty() {
            // Those of the path come first.
            let mut all = operation["parameters"].as_array().cloned().unwrap_or_default();
            all.extend(parameters::documented(route.parameters));
            operation["parameters"] = Value::Array(all);
        }
        paths[route.path][route.method] = operation;
    }
    paths
}

/// An object whose properties are all there, and no others.
pub(super) fn object(properties: Value) -> Value {
    let required: Vec<&String> = properties.as_object().map(|map| map.keys().collect()).unwrap_or_default();
    json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false })
}

/// The same with more that are there in some states only.
pub(super) fn object_with(properties: Value, optional: Value) -> Value {
    let mut object = object(properties);
    for (key, schema) in optional.as_object().into_iter().flatten() {
        object["properties"][key] = schema.clone();
    }
    object
}

pub(super) fn list(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

fn schemas() -> Value {
    let (string, number, count) =
        (json!({ "type": "string" }), json!({ "type": "number" }), json!({ "type": "integer", "minimum": 0 }));
    let flag = json!({ "type": "boolean" });
    let or_null = |schema: &Value| json!({ "anyOf": [schema, { "type": "null" }] });
    let (maybe_string, maybe_number) = (or_null(&string), or_null(&number));
    let time = json!({ "type": "string", "format": "date-time" });
    let id = json!({ "type": "string", "format": "uuid" });
    let accounting = object(json!({
        "sampled": count, "inferred": count, "reused": count,
        "dropped": { "type": "object", "additionalProperties": count },
    }));
    let swallowed = object_with(
        json!({ "set": string, "label": string, "after": count, "cooldown": count, "gap": count, "rival": count }),
        json!({ "region": string }),
    );
    let stream = object_with(
        json!({
            "id": string,
            "state": { "enum": ["connecting", "up", "down", "disabled", "ended", "failed"] },
            "reconnects": count,
            "frames": count,
            "frames_lost": count,
            "last_frame_age": maybe_number,
            "size": or_null(&json!({ "type": "array", "items": count, "minItems": 2, "maxItems": 2 })),
            "codec": maybe_string,
            "decoder": maybe_string,
            "decode": or_null(&json!({ "enum": ["keyframes", "all"] })),
            "keyframe_interval": maybe_number,
            "frame_rate": maybe_number,
            "sampling_interval": maybe_number,
            "accounting": accounting,
            "swallowed_starts": list(swallowed),
        }),
        json!({ "error": string }),
    );
    let sink = object_with(
        json!({
            "name": string,
            "state": { "enum": ["starting", "up", "down", "disabled", "gone"] },
            "pending": count,
            "pending_bytes": count,
            "oldest_pending_seconds": maybe_number,
            "dead": count,
        }),
        json!({ "why": string, "notice": string }),
    );
    let outbox = object(json!({ "path": maybe_string, "storing": flag, "error": maybe_string, "bytes": count }));
    let measured = object(json!({ "batch": count, "milliseconds": number, "images_per_second": number }));
    let inference = object(json!({
        "sessions": count, "threads": count, "devices": list(count.clone()), "max_size": count,
        "sizing": or_null(&object(json!({ "max_size": count, "measured": list(measured) }))),
    }));
    let readiness = object_with(
        json!({
            "ready": flag, "reason": string, "model": maybe_string, "provider": maybe_string,
            "refused": list(object(json!({ "provider": string, "reason": string }))),
            "inference": or_null(&inference), "version": string, "instance": string,
        }),
        json!({
            "outbox": string, "sinks": { "type": "object", "additionalProperties": string },
            "server": object(json!({
                "url": string, "model": string, "state": { "enum": ["up", "away", "slow", "full", "refused", "wrong"] },
                "reason": maybe_string, "since": time, "input": maybe_string, "fallback": maybe_string,
            })),
        }),
    );
    let data = object_with(
        json!({
            "stream": string, "set": string, "label": string, "tag_id": id,
            "score": number, "margin": maybe_number, "rival": maybe_string, "peak": number,
            "started_at": time, "ended_at": or_null(&time), "sampled_at": time,
            "media_start": number, "media_end": maybe_number,
            "model": object_with(json!({ "name": string, "fingerprint": string }), json!({ "provider": string })),
            "attributes": { "type": "object" },
            "snapshot": maybe_string,
        }),
        json!({
            "region": string,
            "reason": { "enum": ["below_exit", "stream_ended", "shutdown", "reconfigured", "interrupted", "inactive"] },
        }),
    );
    let event = object(json!({
        "specversion": { "const": "1.0" }, "id": id, "source": string,
        "type": { "enum": ["dev.vtagd.tag.start", "dev.vtagd.tag.update", "dev.vtagd.tag.end"] },
        "subject": string, "time": time, "datacontenttype": { "const": "application/json" }, "data": data,
    }));
    let snapshot = json!({
        "name": string, "url": string, "tag_id": id, "kind": { "enum": ["start", "best"] },
        "stream": maybe_string, "set": maybe_string, "label": maybe_string, "time": time, "bytes": count,
    });
    let snapshot = object_with(snapshot, json!({ "region": string }));
    let maybe_count = or_null(&count);
    let problem = object(json!({
        "file": string, "line": maybe_count, "column": maybe_count, "field": string, "message": string, "remedy": string,
    }));
    let copy = object(json!({ "path": string, "made_at": time, "by": string, "file_changed": flag }));
    let level = object(json!({ "score": number, "margin": maybe_number }));
    let span = object(json!({ "days": list(string.clone()), "from": string, "to": string, "timezone": string }));
    let hours = object(json!({ "is_active": flag, "until": or_null(&time), "spans": list(span) }));
    let label = object(json!({
        "label": string, "prompts": list(string.clone()), "negatives": list(string.clone()), "attributes": { "type": "object" },
        "examples": count, "counter_examples": count,
        "enter": level, "exit": level, "after": number, "after_exit": number, "cooldown": number,
        "active": or_null(&hours),
    }));
    let set = object(json!({
        "set": string, "labels": list(string.clone()), "sha256": string,
        "in_force": { "enum": ["file", "state"] }, "file": string, "copy": or_null(&copy), "refused": maybe_string,
        "warnings": list(string.clone()),
        "scoring": { "enum": ["exclusive", "independent"] }, "ensemble": { "enum": ["embeddings", "probabilities"] },
        "templates": list(string.clone()), "background": list(string.clone()), "streams": list(string.clone()), "details": list(label),
    }));
    let mut pushed_scores = scores::schema();
    pushed_scores["properties"]["id"] = string.clone();
    let mut all = json!({
        "Error": object(json!({ "error": string })),
        "Streams": object(json!({ "streams": list(of("Stream")), "additions": of("Additions") })),
        "Stream": stream,
        "Scores": scores::schema(),
        "Pushed": object(json!({ "id": string })),
        "PushedScores": pushed_scores,
        "Labels": object(json!({ "sets": list(set) })),
        "Events": object(json!({ "events": list(event), "next": maybe_string })),
        "Snapshots": object(json!({ "snapshots": list(snapshot), "next": maybe_string })),
        "Sinks": object(json!({ "outbox": outbox, "sinks": list(sink) })),
        "Readiness": readiness,
        "Switched": object(json!({ "stream": string, "enabled": flag, "changed": flag })),
        "SetReset": object(json!({ "set": string, "changed": flag })),
        "UnderWay": object(json!({ "result": { "const": "under way" } })),
        "Reloaded": object(json!({ "result": { "const": "applied" } })),
        "Problems": object(json!({ "error": string, "problems": list(problem) })),
        "LiveMessage": openapi_programs::live_message(),
        "Tagged": openapi_programs::tagged(),
        "Embedded": openapi_programs::embedded(),
        "Moments": search::schema(),
        "SmallPictures": picture_grid::schema(),
        "TriedLabel": label_lab::schema_of_try(),
        "EditedLabel": label_lab::schema_of_edit(),
        "Session": openapi_programs::session(),
        "SessionEnded": object(json!({ "ended": flag })),
    });
    for (name, schema) in mark_routes::schemas().into_iter().chain(stream_setup::schemas()) {
        all[name] = schema;
    }
    all
}
