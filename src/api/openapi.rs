//! The OpenAPI document of the API: every route with what it takes and answers. Pure; a test holds it against the routes, another one a
//! running daemon against it (tests/api/api_schemathesis.rs).

use serde_json::{Map, Value, json};

/// The document, OpenAPI 3.1.
pub(super) fn document() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "vtagd",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": "What a vtagd daemon sees and how it is. Where `api.token` is set, everything but /healthz and /livez needs it; \
                            without one the API answers on loopback alone, and nothing can be changed.",
        },
        "paths": paths(),
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
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

fn of(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn answer(description: &str, schema: Value) -> Value {
    json!({ "description": description, "content": { "application/json": { "schema": schema } } })
}

fn text(description: &str, kind: &str) -> Value {
    json!({ "description": description, "content": { kind: { "schema": { "type": "string" } } } })
}

/// Who may ask.
#[derive(Clone, Copy, PartialEq)]
enum Needs {
    Nothing,
    /// The token, where one is set.
    Token,
    /// The token, always.
    Change,
}

/// One operation; `answers` are those of its own, by status.
fn operation(id: &str, summary: &str, needs: Needs, answers: &[(&str, Value)]) -> Value {
    let shared = |name: &str| json!({ "$ref": format!("#/components/responses/{name}") });
    let mut all: Map<String, Value> =
        answers.iter().map(|(status, answer)| ((*status).to_owned(), answer.clone())).collect();
    all.insert("429".into(), shared("TooMany"));
    all.insert("413".into(), shared("Error"));
    if needs != Needs::Nothing {
        all.insert("401".into(), shared("Token"));
        all.insert("403".into(), shared("Error"));
        all.entry("503").or_insert_with(|| shared("Error"));
    }
    let security = match needs {
        Needs::Nothing => json!([]),
        Needs::Token | Needs::Change => json!([{ "token": [] }]),
    };
    json!({ "operationId": id, "summary": summary, "security": security, "responses": all })
}

fn with_parameter(mut operation: Value, name: &str, example: &str) -> Value {
    // Longer names exist nowhere: a path has to fit into a request's head.
    let schema = json!({ "type": "string", "minLength": 1, "maxLength": 1000 });
    operation["parameters"] =
        json!([{ "name": name, "in": "path", "required": true, "schema": schema, "example": example }]);
    operation["responses"]["400"] = json!({ "$ref": "#/components/responses/Error" });
    operation["responses"]["404"] = json!({ "$ref": "#/components/responses/Error" });
    operation
}

fn paths() -> Value {
    use Needs::{Change, Nothing, Token};
    let get = |operation: Value| json!({ "get": operation });
    let post = |operation: Value| json!({ "post": operation });
    let read = |id: &str, summary: &str, schema: &str| {
        get(operation(id, summary, Token, &[("200", answer("What is so right now.", of(schema)))]))
    };
    let health = |id: &str| {
        let answers = [
            ("200", text("The process is alive and inference does not hang.", "text/plain; charset=utf-8")),
            ("503", text("Why the daemon is to be started again.", "text/plain; charset=utf-8")),
        ];
        get(operation(id, "Whether the daemon is to be left running.", Nothing, &answers))
    };
    let switch = |id: &str, summary: &str| {
        let answers = [
            ("200", answer("How the stream is now.", of("Switched"))),
            ("202", answer("It is not done yet.", of("UnderWay"))),
            ("409", answer("Why it cannot be.", of("Error"))),
        ];
        let operation = operation(id, summary, Change, &answers);
        post(with_parameter(operation, "id", "dock-3"))
    };
    let ready = [
        ("200", answer("Frames may flow.", of("Readiness"))),
        ("503", answer("Frames do not flow, and why.", json!({ "anyOf": [of("Readiness"), of("Error")] }))),
    ];
    let picture = json!({ "description": "The picture.", "content": { "image/jpeg": { "schema": { "type": "string", "contentEncoding": "binary" } } } });
    let snapshot = operation("snapshot", "A picture of a tag, as events name it.", Token, &[("200", picture)]);
    let reloaded = [
        ("200", answer("The new configuration runs.", of("Reloaded"))),
        ("202", answer("It is not done yet; the log will say what came of it.", of("UnderWay"))),
        ("422", answer("The configuration has problems, and the old one stays.", of("Problems"))),
    ];
    let reset = [
        ("200", answer("The file is in force; `changed`: a copy was.", of("SetReset"))),
        ("202", answer("It is not done yet; the log will say what came of it.", of("UnderWay"))),
        ("422", answer("Nothing has changed, and why.", of("Problems"))),
    ];
    json!({
        "/": get(operation("page", "The status page.", Token, &[("200", text("For people.", "text/html; charset=utf-8"))])),
        "/healthz": health("healthz"),
        "/livez": health("livez"),
        "/readyz": get(operation("readyz", "Whether the model is warm.", Token, &ready)),
        "/metrics": get(operation("metrics", "Metrics for Prometheus.", Token, &[("200", text("Its text format.", "text/plain; version=0.0.4; charset=utf-8"))])),
        "/api/v1/streams": read("streams", "Every stream with its state and what became of its frames.", "Streams"),
        "/api/v1/streams/{id}/pause": switch("pause", "Ends a stream until it is resumed, the file says otherwise, or the daemon starts again."),
        "/api/v1/streams/{id}/resume": switch("resume", "Starts a stream that is switched off."),
        "/api/v1/labels": read("labels", "The label sets, and whether the file of each is in force or a copy of it in the state directory.", "Labels"),
        "/api/v1/labels/{set}/reset": post(with_parameter(operation("resetLabels", "Removes the copy of a label set, and reads the configuration again: its file is in force.", Change, &reset), "set", "dock-safety")),
        "/api/v1/events": read("events", "The latest events, newest first, at most 256.", "Events"),
        "/api/v1/snapshots/{name}": get(with_parameter(snapshot, "name", "019a1b2c-0000-7000-8000-000000000000-start.jpg")),
        "/api/v1/sinks": read("sinks", "The outbox and every sink: what waits, and what is wrong.", "Sinks"),
        "/api/v1/reload": post(operation("reload", "Reads the configuration again, as SIGHUP does.", Change, &reloaded)),
        "/api/v1/openapi.json": get(operation("openapi", "This document.", Token, &[("200", answer("OpenAPI 3.1.", json!({ "type": "object" })))])),
    })
}

/// An object whose properties are all there, and no others.
fn object(properties: Value) -> Value {
    let required: Vec<&String> = properties.as_object().map(|map| map.keys().collect()).unwrap_or_default();
    json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false })
}

/// The same with more that are there in some states only.
fn object_with(properties: Value, optional: Value) -> Value {
    let mut object = object(properties);
    for (key, schema) in optional.as_object().into_iter().flatten() {
        object["properties"][key] = schema.clone();
    }
    object
}

fn list(items: Value) -> Value {
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
    let swallowed = object(json!({
        "set": string, "label": string, "after": count, "cooldown": count, "gap": count,
    }));
    let stream = object_with(
        json!({
            "id": string,
            "state": { "enum": ["connecting", "up", "down", "disabled", "ended", "failed"] },
            "reconnects": count,
            "frames": count,
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
            "inference": or_null(&inference),
        }),
        json!({ "outbox": string, "sinks": { "type": "object", "additionalProperties": string } }),
    );
    let data = object_with(
        json!({
            "stream": string, "set": string, "label": string, "tag_id": id,
            "score": number, "peak": number,
            "started_at": time, "ended_at": or_null(&time), "sampled_at": time,
            "media_start": number, "media_end": maybe_number,
            "model": object(json!({ "name": string, "fingerprint": string })),
            "attributes": { "type": "object" },
            "snapshot": maybe_string,
        }),
        json!({ "reason": { "enum": ["below_exit", "stream_ended", "shutdown", "reconfigured", "interrupted"] } }),
    );
    let event = object(json!({
        "specversion": { "const": "1.0" }, "id": id, "source": string,
        "type": { "enum": ["dev.vtagd.tag.start", "dev.vtagd.tag.update", "dev.vtagd.tag.end"] },
        "subject": string, "time": time, "datacontenttype": { "const": "application/json" }, "data": data,
    }));
    let maybe_count = or_null(&count);
    let problem = object(json!({
        "file": string, "line": maybe_count, "column": maybe_count, "field": string, "message": string, "remedy": string,
    }));
    let copy = object(json!({ "path": string, "made_at": time, "by": string, "file_changed": flag }));
    let set = object(json!({
        "set": string, "labels": list(string.clone()),
        "in_force": { "enum": ["file", "state"] }, "file": string, "copy": or_null(&copy), "refused": maybe_string,
        "warnings": list(string.clone()),
    }));
    json!({
        "Error": object(json!({ "error": string })),
        "Streams": object(json!({ "streams": list(stream) })),
        "Labels": object(json!({ "sets": list(set) })),
        "Events": object(json!({ "events": list(event) })),
        "Sinks": object(json!({ "outbox": outbox, "sinks": list(sink) })),
        "Readiness": readiness,
        "Switched": object(json!({ "stream": string, "enabled": flag, "changed": flag })),
        "SetReset": object(json!({ "set": string, "changed": flag })),
        "UnderWay": object(json!({ "result": { "const": "under way" } })),
        "Reloaded": object(json!({ "result": { "const": "applied" } })),
        "Problems": object(json!({ "error": string, "problems": list(problem) })),
    })
}
