//! The API over real sockets: readiness with its reason, tokens, headers, and an address that is taken.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they measured or skipped")]

mod common;

use std::sync::{Arc, OnceLock};

use metrics_exporter_prometheus::PrometheusHandle;
use vtagd::account::{Account, Outcome};
use vtagd::api::{self, ApiSettings, Board};
use vtagd::secret::Secret;
use vtagd::shutdown::{self, Trigger};
use vtagd::status::{StreamState, StreamStatus};
use vtagd::telemetry;

/// One recorder a process, however many tests run in it.
fn metrics() -> PrometheusHandle {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    METRICS.get_or_init(|| telemetry::init_metrics().unwrap()).clone()
}

fn json(mut answer: ureq::http::Response<ureq::Body>) -> serde_json::Value {
    serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
}

struct Server {
    board: Arc<Board>,
    url: String,
    trigger: Trigger,
    thread: std::thread::JoinHandle<()>,
}

impl Server {
    fn start(token: Option<&str>) -> Self {
        let (trigger, shutdown) = shutdown::channel();
        let board = Arc::new(Board::default());
        let settings = ApiSettings { listen: "127.0.0.1:0".parse().unwrap(), token: token.map(Secret::new), tls: None };
        let (address, thread) = api::start(&settings, Arc::clone(&board), metrics(), shutdown).unwrap();
        Self { board, url: format!("http://{address}"), trigger, thread }
    }

    fn get(&self, path: &str, token: Option<&str>) -> ureq::http::Response<ureq::Body> {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut request = agent.get(format!("{}{path}", self.url));
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        request.call().unwrap()
    }

    fn stop(self) {
        self.trigger.trigger();
        self.thread.join().unwrap();
    }
}

#[test]
fn readiness_follows_the_model_and_says_why_while_liveness_does_not_care() {
    let server = Server::start(None);
    server.board.not_ready("loading the model");
    let mut answer = server.get("/readyz", None);
    assert_eq!(answer.status(), 503);
    assert!(answer.body_mut().read_to_string().unwrap().contains("loading the model"));
    assert_eq!(server.get("/healthz", None).status(), 200);

    server.board.ready("starter", "cpu");
    let answer = server.get("/readyz", None);
    assert_eq!(answer.status(), 200);
    let body = json(answer);
    assert_eq!((body["ready"].as_bool(), body["provider"].as_str()), (Some(true), Some("cpu")));
    let metrics = server.get("/metrics", None).body_mut().read_to_string().unwrap();
    assert!(metrics.contains("vtagd_ready 1") && metrics.contains("vtagd_build_info{"), "{metrics}");
    server.stop();
}

#[test]
fn streams_are_told_with_their_state_and_accounts() {
    let server = Server::start(None);
    let (status, account) = (Arc::new(StreamStatus::new("gate".into())), Arc::new(Account::default()));
    server.board.set_streams(vec![(Arc::clone(&status), Arc::clone(&account))]);
    status.set(StreamState::Down { error: "connection refused".into() });
    account.sample(&"gate".into()).settle(Outcome::Inferred);
    let body = json(server.get("/api/v1/streams", None));
    let row = &body["streams"][0];
    assert_eq!((row["id"].as_str(), row["state"].as_str()), (Some("gate"), Some("down")));
    assert_eq!((row["error"].as_str(), row["accounting"]["inferred"].as_u64()), (Some("connection refused"), Some(1)));
    let mut page = server.get("/", None);
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    assert!(page.body_mut().read_to_string().unwrap().contains("connection refused"));
    server.stop();
}

#[test]
fn with_a_token_everything_but_liveness_needs_it() {
    let server = Server::start(Some("let-me-in"));
    assert_eq!(server.get("/healthz", None).status(), 200);
    for path in ["/", "/readyz", "/metrics", "/api/v1/streams", "/api/v1/labels", "/api/v1/events"] {
        assert_eq!(server.get(path, None).status(), 401, "{path}");
        assert_eq!(server.get(path, Some("let-me-im")).status(), 401, "{path}");
        assert_ne!(server.get(path, Some("let-me-in")).status(), 401, "{path}");
    }
    assert!(!server.get("/", None).body_mut().read_to_string().unwrap().contains("let-me-in"));
    server.stop();
}

#[test]
fn a_request_that_hangs_does_not_hold_the_end_up() {
    let server = Server::start(None);
    let address = server.url.strip_prefix("http://").unwrap().to_owned();
    let mut hanging = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut hanging, b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").unwrap();
    let (done, ended) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        server.stop();
        done.send(()).unwrap();
    });
    ended.recv_timeout(common::daemon::PATIENCE).expect("the API ends although a request hangs");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let (_trigger, shutdown) = shutdown::channel();
    let settings = ApiSettings { listen, token: None, tls: None };
    let error = api::start(&settings, Arc::new(Board::default()), metrics(), shutdown).err().unwrap();
    assert!(error.to_string().contains(&listen.to_string()) && error.to_string().contains("api.listen"), "{error}");
}
