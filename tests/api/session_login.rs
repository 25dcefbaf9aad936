//! A browser logs in to a real daemon: cookie, token against forged requests, and what ends a session.

use std::path::Path;

use crate::common::daemon::{Daemon, root};
use crate::common::sse::Sse;
use serde_json::Value;

const TOKEN: &str = "first-token-0123456789abcdef";

fn start(folder: &Path) -> Daemon {
    std::fs::write(folder.join("token"), TOKEN).unwrap();
    let config = format!(
        "model: {{ path: none }}\nstreams: [{{ id: one, url: \"file://{}\", loop: true }}]\nsinks: [{{ type: jsonl, path: \"-\" }}]\n\
         outbox: {{ path: \":memory:\" }}\napi: {{ listen: 127.0.0.1:0, token: {{ file: token }}, trusted_proxies: [127.0.0.1] }}\n",
        root().join("demo/clip.mp4").display()
    );
    Daemon::start(folder, &config)
}

struct Answer {
    status: u16,
    cookie: Option<String>,
    body: Value,
}

fn ask(url: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut request = ureq::http::Request::builder().method(method).uri(format!("{url}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut answer = agent.run(request.body(()).unwrap()).unwrap();
    let cookie = answer.headers().get("set-cookie").map(|value| value.to_str().unwrap().to_owned());
    let body = serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap();
    Answer { status: answer.status().as_u16(), cookie, body }
}

/// The cookie as it is sent back, and the token against forged requests.
fn log_in(url: &str) -> (String, String) {
    let answer = ask(url, "POST", "/api/v1/session", &[("Authorization", &format!("Bearer {TOKEN}"))]);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let cookie = answer.cookie.unwrap();
    assert!(cookie.contains("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict"), "{cookie}");
    assert!(!cookie.contains("Secure") && !cookie.contains(TOKEN), "{cookie}");
    assert!(answer.body["expires_at"].is_string());
    let csrf = answer.body["csrf_token"].as_str().unwrap().to_owned();
    (cookie.split(';').next().unwrap().to_owned(), csrf)
}

#[test]
fn a_browser_logs_in_once_reads_with_the_cookie_and_changes_with_the_csrf_token() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = start(folder.path());
    let url = daemon.url();
    let read = |cookie: &str| ask(&url, "GET", "/api/v1/streams", &[("Cookie", cookie)]).status;
    let wrong = ask(&url, "POST", "/api/v1/session", &[("Authorization", "Bearer a-token-that-somebody-guessed")]);
    let (cookie, csrf) = log_in(&url);
    let name = cookie.split('=').next().unwrap();
    let none = ask(&url, "GET", "/api/v1/streams", &[("Cookie", &format!("{name}=guessed"))]);
    assert_eq!((wrong.status, none.status, &wrong.body, wrong.cookie), (401, 401, &none.body, None));
    let document = ask(&url, "GET", "/api/v1/openapi.json", &[("Cookie", &cookie)]).body;
    assert_eq!(document["components"]["securitySchemes"]["session"]["name"], name);

    assert_eq!(read(&cookie), 200);
    assert_eq!(read(&format!("other=1; {cookie}; more=2")), 200);
    // A wrong token counts, whatever cookie is beside it.
    let both = [("Cookie", &*cookie), ("Authorization", "Bearer a-token-that-somebody-guessed")];
    assert_eq!(ask(&url, "GET", "/api/v1/streams", &both).status, 401);

    let pause = |headers: &[(&str, &str)]| ask(&url, "POST", "/api/v1/streams/one/pause", headers).status;
    assert_eq!(pause(&[("Cookie", &cookie)]), 403, "a page from elsewhere could do as much");
    assert_eq!(pause(&[("Cookie", &cookie), ("X-CSRF-Token", "guessed")]), 403);
    assert_eq!(pause(&[("Cookie", &cookie), ("X-CSRF-Token", &csrf)]), 200);
    assert_eq!(ask(&url, "POST", "/api/v1/session", &[("Cookie", &cookie)]).status, 403, "the token itself is wanted");

    // Behind a proxy that speaks TLS the cookie is for TLS alone.
    let bearer = format!("Bearer {TOKEN}");
    let proxied = [("Authorization", &*bearer), ("X-Forwarded-Proto", "https")];
    let answer = ask(&url, "POST", "/api/v1/session", &proxied);
    assert!(answer.cookie.unwrap().ends_with("; Secure"));

    // Logging out ends what it lets go on.
    let mut live = Sse::open(&url, "/api/v1/live", &format!("Cookie: {cookie}\r\n"));
    live.find("status", |_| true);
    assert_eq!(ask(&url, "DELETE", "/api/v1/session", &[("Cookie", &cookie)]).status, 403);
    let out = ask(&url, "DELETE", "/api/v1/session", &[("Cookie", &cookie), ("X-CSRF-Token", &csrf)]);
    assert_eq!((out.status, &out.body["ended"]), (200, &true.into()));
    assert!(out.cookie.unwrap().contains(&format!("{name}=; Path=/; Max-Age=0")));
    assert_eq!(read(&cookie), 401);
    while live.next().is_some() {}
    assert!(live.ended_well);

    daemon.stop_cleanly();
    let log = daemon.log();
    let id = cookie.split('=').nth(1).unwrap();
    assert!(!log.contains(id) && !log.contains(&csrf) && !log.contains(TOKEN), "{log}");
    assert!(log.contains("action=\"log in\"") && log.contains("action=\"log out\""), "{log}");
    assert!(log.lines().any(|l| l.contains("changed by the API") && l.contains("by=\"session\"")), "{log}");
}

#[test]
fn another_token_and_a_restart_end_every_session() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = start(folder.path());
    let url = daemon.url();
    let (cookie, csrf) = log_in(&url);
    let read = |url: &str| ask(url, "GET", "/api/v1/streams", &[("Cookie", &*cookie)]).status;
    let reload = [("Cookie", &*cookie), ("X-CSRF-Token", &*csrf)];
    assert_eq!(ask(&url, "POST", "/api/v1/reload", &reload).status, 200);
    assert_eq!(read(&url), 200, "the same token goes on");
    std::fs::write(folder.path().join("token"), "another-token-0123456789").unwrap();
    assert_eq!(ask(&url, "POST", "/api/v1/reload", &reload).status, 200);
    assert_eq!(read(&url), 401);
    daemon.stop_cleanly();

    let mut daemon = start(folder.path());
    let (cookie, _) = log_in(&daemon.url());
    daemon.stop_cleanly();
    let mut daemon = start(folder.path());
    let answer = ask(&daemon.url(), "GET", "/api/v1/streams", &[("Cookie", &cookie)]);
    assert_eq!(answer.status, 401);
    daemon.stop_cleanly();
}
