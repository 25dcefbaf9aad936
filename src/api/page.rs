//! The page at `/`, and the files that it is made of (`web/`), which are part of the program.
//!
//! In: nothing but the name of a file. Out: its bytes. Files lie below an address that has the hash of all of them in it, so that browsers may keep
//! them for ever, and a page of another version never gets a file of this one. The page holds nothing of what the daemon knows: that it reads over the API, as
//! everybody does, so it can be had without the token that it asks for. On the API's thread; nothing waits.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::guard::refusal;
use super::openapi::{operation, text};
use crate::platform::hex::hex;

/// A file of the page.
struct Asset {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! assets {
    ($($name:literal: $kind:expr),* $(,)?) => {
        &[$(Asset { name: $name, kind: $kind, bytes: include_bytes!(concat!("../../web/", $name)) }),*]
    };
}

const ASSETS: &[Asset] = assets! {
    "app.js": SCRIPT,
    "api.js": SCRIPT,
    "cameras.js": SCRIPT,
    "chart.js": SCRIPT,
    "dom.js": SCRIPT,
    "events.js": SCRIPT,
    "lab.js": SCRIPT,
    "learn.js": SCRIPT,
    "thresholds.js": SCRIPT,
    "live.js": SCRIPT,
    "marks.js": SCRIPT,
    "picture.js": SCRIPT,
    "search.js": SCRIPT,
    "setup.js": SCRIPT,
    "system.js": SCRIPT,
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
};

const INDEX: &str = include_str!("../../web/index.html");

/// What the page may load and do: nothing but files and answers of this daemon. `blob:` are pictures that it has already.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The hash of everything that the page is made of.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for part in ASSETS.iter().flat_map(|asset| [asset.name.as_bytes(), asset.bytes]).chain([INDEX.as_bytes()]) {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())[..16].to_owned()
});

/// The page, its files named by their address.
static PAGE: LazyLock<String> = LazyLock::new(|| INDEX.replace("{files}", &format!("page/{}", *VERSION)));

pub(super) async fn page() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, POLICY)];
    (headers, PAGE.as_str()).into_response()
}

pub(super) async fn file(name: Result<Path<(String, String)>, PathRejection>) -> Response {
    let Ok(Path((version, name))) = name else { return refusal(StatusCode::BAD_REQUEST, "the path is not UTF-8") };
    let found = ASSETS.iter().find(|asset| asset.name == name).filter(|_| version == *VERSION);
    match found {
        Some(asset) => {
            let headers = [
                (header::CONTENT_TYPE, asset.kind),
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
            ];
            (headers, asset.bytes).into_response()
        }
        None => refusal(StatusCode::NOT_FOUND, "the page has no such file, or not in this version: load it again"),
    }
}

/// How the document tells of the page …
pub(super) fn of_page() -> Value {
    operation("page", "The page, for people.", &[("200", text("It.", "text/html; charset=utf-8"))])
}

/// … and of its files.
pub(super) fn of_file() -> Value {
    let part = |name: &str, example: &str| {
        let schema = json!({ "type": "string", "minLength": 1, "maxLength": 1000 });
        json!({ "name": name, "in": "path", "required": true, "schema": schema, "example": example })
    };
    let schema = json!({ "schema": { "type": "string" } });
    let kinds = json!({ "text/javascript": schema, "text/css": schema, "image/svg+xml": schema });
    let mut file = operation(
        "pageFile",
        "A file of the page, as the page itself names it.",
        &[("200", json!({ "description": "It; its address changes when it does.", "content": kinds }))],
    );
    file["parameters"] = json!([part("version", "0123456789abcdef"), part("name", "app.js")]);
    file["responses"]["404"] = json!({ "$ref": "#/components/responses/Error" });
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a browser may take before the page is there, in bytes.
    const FIRST_LOAD: usize = 200_000;

    fn text_of(asset: &Asset) -> &'static str {
        std::str::from_utf8(asset.bytes).unwrap()
    }

    #[test]
    fn every_file_that_lies_in_web_is_served_and_all_of_them_are_small() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
        let mut there: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let mut served: Vec<String> = ASSETS.iter().map(|asset| asset.name.to_owned()).collect();
        served.push("index.html".to_owned());
        there.sort();
        served.sort();
        assert_eq!(there, served);
        let bytes: usize = ASSETS.iter().map(|asset| asset.bytes.len()).sum::<usize>() + INDEX.len();
        assert!(bytes < FIRST_LOAD, "{bytes}, uncompressed");
    }

    #[test]
    fn what_a_file_imports_is_there_and_nothing_comes_from_elsewhere() {
        for asset in ASSETS.iter().filter(|asset| asset.name.ends_with(".js")) {
            for line in text_of(asset).lines() {
                let imported = line.split_once(" from '").filter(|_| line.starts_with("import "));
                if let Some((_, from)) = imported {
                    let name = from.trim_end_matches("';").strip_prefix("./").expect(line);
                    assert!(ASSETS.iter().any(|asset| asset.name == name), "{}: {line}", asset.name);
                }
            }
        }
        // A name of a language, and a sentence about addresses.
        let (svg, named) = ("http://www.w3.org/2000/svg", "'rtsp://, rtsps://, http:// or https://, as");
        for (name, text) in ASSETS.iter().map(|asset| (asset.name, text_of(asset))).chain([("index.html", INDEX)]) {
            let text = text.replace(svg, "").replace(named, "");
            assert!(!text.contains("http://") && !text.contains("https://") && !text.contains("//cdn"), "{name}");
        }
    }

    /// What the policy would stop only where it is tried.
    #[test]
    fn nothing_makes_markup_or_code_of_text() {
        for asset in ASSETS.iter().filter(|asset| asset.name.ends_with(".js")) {
            for word in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc"]
            {
                assert!(!text_of(asset).contains(word), "{}: {word}", asset.name);
            }
        }
        assert!(!INDEX.contains("style=") && !INDEX.contains("<style") && !INDEX.contains("onload"), "{INDEX}");
        assert!(INDEX.matches("<script").count() == INDEX.matches("<script type=\"module\" src=\"{files}/").count());
        assert!(!POLICY.contains("unsafe") && !POLICY.contains('*'));
    }
}
