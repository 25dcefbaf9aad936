//! `docs/api.md`: every route as the daemon's own OpenAPI document describes it. `VTAGD_GOLDEN=write` renews the page.

use std::fmt::Write as _;
use std::fs;

use serde_json::Value;

use crate::common::daemon::{Daemon, root};

const HEAD: &str = "# Routes of the API

Made of what `GET /api/v1/openapi.json` says; [operations](operations.md#the-api) tells how they are used, by whom and how often. Paths are below `api.listen`.
*Needs*: `token` is a token or a session, where `api.token` is set; `change` is one in any case; `push` is also the stream's own. *Body* is the most that is taken.
Beside the answers that are named, each may be 400 (a parameter that is none), 401, 403, 413, 429 and 503, with `{\"error\": …}`.
";

/// Answers that any route may give.
const USUAL: [&str; 7] = ["400", "401", "403", "413", "429", "431", "503"];

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What a value may be, in a few words.
fn values(schema: &Value) -> String {
    let list = |all: &Value| {
        all.as_array().map(|all| all.iter().map(|one| format!("`{}`", text(one))).collect::<Vec<_>>().join(", "))
    };
    if let Some(words) = list(&schema["enum"]) {
        return words;
    }
    let mut said = match text(&schema["type"]) {
        "string" if schema.get("anyOf").is_some() => "time".to_owned(),
        "string" => "text".to_owned(),
        kind => kind.to_owned(),
    };
    match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
        (Some(least), Some(most)) => write!(said, ", {least} to {most}").unwrap(),
        (None, Some(most)) => write!(said, ", at most {most}").unwrap(),
        _ => {}
    }
    if let Some(default) = schema.get("default") {
        write!(said, "; {default}").unwrap();
    }
    said
}

/// Line breaks and bars are not for a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn page(document: &Value) -> String {
    let mut page = HEAD.to_owned();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, route) in methods.as_object().unwrap() {
            let all = route["parameters"].as_array().cloned().unwrap_or_default();
            let is_change = all.iter().any(|one| one["name"] == "X-CSRF-Token");
            let schemes = route["security"].as_array().cloned().unwrap_or_default();
            let is_push = schemes.iter().any(|scheme| scheme.get("push").is_some());
            let needs = match (schemes.is_empty(), is_push, is_change) {
                (true, ..) => "nothing",
                (_, true, _) => "`push`",
                (_, _, true) => "`change`",
                _ => "`token`",
            };
            writeln!(page, "\n## {} {path}\n\n{}\n", method.to_uppercase(), text(&route["summary"])).unwrap();
            let mut facts = vec![format!("Needs {needs}")];
            let kinds = route["requestBody"]["content"].as_object();
            if let Some(kinds) = kinds {
                let kinds: Vec<String> = kinds.keys().map(|kind| format!("`{kind}`")).collect();
                let most = route["x-max-body"].as_u64().map_or(String::new(), |most| format!(", {} KiB", most / 1024));
                facts.push(format!("body {}{most}", kinds.join(", ")));
            }
            let codes = route["responses"].as_object().unwrap().keys();
            let codes: Vec<&str> = codes.map(String::as_str).filter(|code| !USUAL.contains(code)).collect();
            facts.push(format!("answers {}", codes.join(", ")));
            writeln!(page, "{}.", facts.join("; ")).unwrap();
            let mut rows = String::new();
            for one in all.iter().filter(|one| one["name"] != "X-CSRF-Token" && one["description"].is_string()) {
                let must = if one["required"] == true && one["in"] != "path" { ", required" } else { "" };
                let name = format!("`{}` ({}{must})", text(&one["name"]), text(&one["in"]));
                writeln!(rows, "| {name} | {} | {} |", cell(&values(&one["schema"])), cell(text(&one["description"])))
                    .unwrap();
            }
            if !rows.is_empty() {
                write!(page, "\n| parameter | value; if left out | meaning |\n|---|---|---|\n{rows}").unwrap();
            }
        }
    }
    page
}

#[test]
fn the_page_of_the_api_is_the_document_that_the_daemon_serves() {
    let folder = tempfile::tempdir().unwrap();
    let config = "model: { path: none }\nstreams: []\napi: { listen: 127.0.0.1:0 }\n";
    let mut daemon = Daemon::start(folder.path(), config);
    daemon.wait_ready();
    let document: Value = serde_json::from_str(&daemon.get("/api/v1/openapi.json").1).unwrap();
    daemon.stop_cleanly();
    let page = page(&document);
    assert!(page.contains("## POST /api/v1/marks\n") && page.matches("\n## ").count() > 30, "{page}");
    let place = root().join("docs/api.md");
    if std::env::var_os("VTAGD_GOLDEN").is_some_and(|how| how == "write") {
        fs::write(&place, &page).unwrap();
    }
    let hint = "docs/api.md is not current: VTAGD_GOLDEN=write cargo nextest run --locked --features kafka --test repository api_page::";
    assert!(fs::read_to_string(place).unwrap_or_default() == page, "{hint}");
}
