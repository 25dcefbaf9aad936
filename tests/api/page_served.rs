//! The page as a browser gets it from the API: every file that it names, what it may do, how large it is, who gets it, and that it holds nothing.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusBuilder;
use vtagd::api::{self, Api, ApiSettings, Board};
use vtagd::platform::secret::Secret;
use vtagd::platform::shutdown::{self, Trigger};
use vtagd::stream::registry::{RegisteredStream, StreamRegistry};
use vtagd::stream::requests;

/// What a browser may take before the page is there, compressed or not.
const FIRST_LOAD: usize = 200_000;

struct Server {
    url: String,
    trigger: Trigger,
    thread: std::thread::JoinHandle<()>,
}

impl Server {
    fn start(token: Option<&str>, stream: &str) -> Self {
        let (trigger, shutdown) = shutdown::channel();
        let (senders, _requests) = requests::channel();
        let registry = Arc::new(StreamRegistry::new(senders.mqtt));
        registry.set(vec![RegisteredStream::new(&stream.into(), Vec::new())]);
        let board = Arc::new(Board::new(registry));
        board.set_instance("edge-1");
        let listen = "127.0.0.1:0".parse().unwrap();
        let settings = ApiSettings { listen, token: token.map(Secret::new), tls: None, trusted_proxies: Vec::new() };
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let Api { address, thread, .. } = api::start(&settings, board, senders.api, metrics, shutdown).unwrap();
        Self { url: format!("http://{address}"), trigger, thread }
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> (u16, ureq::http::HeaderMap, Vec<u8>) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut request = ureq::http::Request::builder().uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = agent.run(request.body(()).unwrap()).unwrap();
        let body = answer.body_mut().read_to_vec().unwrap();
        (answer.status().as_u16(), answer.headers().clone(), body)
    }

    fn stop(self) {
        self.trigger.trigger();
        self.thread.join().unwrap();
    }
}

/// The addresses in the quotes behind `before`.
fn named<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    text.split(before).skip(1).filter_map(|rest| rest.split(['"', '\'']).next()).collect()
}

#[test]
fn the_page_and_every_file_of_it_come_with_a_strict_policy_small_and_to_be_kept() {
    let server = Server::start(None, "gate");
    let (status, headers, page) = server.get("/", &[]);
    let page = String::from_utf8(page).unwrap();
    assert_eq!((status, headers["content-type"].to_str().unwrap()), (200, "text/html; charset=utf-8"));
    assert_eq!(headers["cache-control"], "no-store");
    let mut files: Vec<String> =
        ["href=\"page/", "src=\"page/"].iter().flat_map(|key| named(&page, key)).map(str::to_owned).collect();
    assert!(files.len() >= 4, "{page}");
    let (mut bytes, mut at) = (page.len(), 0);
    while at < files.len() {
        let file = files[at].clone();
        let (status, headers, body) = server.get(&format!("/page/{file}"), &[]);
        assert_eq!(status, 200, "{file}");
        assert_eq!(headers["cache-control"], "public, max-age=31536000, immutable", "{file}");
        let policy = headers["content-security-policy"].to_str().unwrap();
        for part in
            ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"]
        {
            assert!(policy.contains(part), "{file}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'), "{policy}");
        assert_eq!(headers["x-frame-options"], "DENY", "{file}");
        bytes += body.len();
        let text = String::from_utf8(body).unwrap();
        let folder = file.rsplit_once('/').unwrap().0;
        for import in named(&text, "from './") {
            let import = format!("{folder}/{import}");
            if !files.contains(&import) {
                files.push(import);
            }
        }
        at += 1;
    }
    assert!(files.len() >= 11, "{files:?}");
    assert!(bytes < FIRST_LOAD, "{bytes}");
    let version = files[0].split('/').next().unwrap();
    assert_eq!(server.get(&format!("/page/{}/app.js", "0".repeat(version.len())), &[]).0, 404, "of another version");
    assert_eq!(server.get(&format!("/page/{version}/nothing.js"), &[]).0, 404);
    assert_eq!(server.get(&format!("/page/{version}/..%2findex.html"), &[]).0, 404);
    server.stop();
}

#[test]
fn the_page_holds_nothing_of_the_daemon_and_is_there_before_the_token_is_shown() {
    let server = Server::start(Some("let-me-in"), "a-secret-place");
    let (status, _, page) = server.get("/", &[]);
    let page = String::from_utf8(page).unwrap();
    assert!(
        status == 200 && !page.contains("a-secret-place") && !page.contains("edge-1") && !page.contains("let-me-in")
    );
    for path in ["/api/v1/pictures", "/api/v1/streams", "/readyz", "/api/v1/live"] {
        assert_eq!(server.get(path, &[]).0, 401, "{path}");
    }
    let token = [("Authorization", "Bearer let-me-in")];
    let ready: serde_json::Value = serde_json::from_slice(&server.get("/readyz", &token).2).unwrap();
    assert_eq!(
        (ready["instance"].as_str(), ready["version"].as_str()),
        (Some("edge-1"), Some(env!("CARGO_PKG_VERSION")))
    );
    assert_eq!(server.get("/api/v1/pictures", &token).0, 200);
    server.stop();
}

#[test]
fn without_a_token_a_name_that_was_pointed_here_gets_not_even_the_page() {
    let server = Server::start(None, "gate");
    for path in ["/", "/api/v1/pictures", "/api/v1/streams"] {
        assert_eq!(server.get(path, &[("Host", "evil.example")]).0, 403, "{path}");
        assert_eq!(server.get(path, &[]).0, 200, "{path}");
    }
    server.stop();
}

#[test]
fn pictures_are_told_by_an_etag_also_where_there_are_none() {
    let server = Server::start(None, "gate");
    let (status, headers, body) = server.get("/api/v1/pictures?max_side=320", &[]);
    assert_eq!((status, &body[..]), (200, &b"{\"pictures\":[]}"[..]));
    let tag = headers["etag"].to_str().unwrap();
    assert_eq!(server.get("/api/v1/pictures?max_side=320", &[("If-None-Match", tag)]).0, 304);
    assert_eq!(server.get("/api/v1/pictures?max_side=160", &[("If-None-Match", tag)]).0, 200, "those are others");
    assert_eq!(server.get("/api/v1/pictures?max_side=4096", &[]).0, 400);
    server.stop();
}
