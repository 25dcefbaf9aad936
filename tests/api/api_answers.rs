//! The API over real sockets: readiness with its reason, tokens, headers, TLS, limits, slow peers, and an address that is taken.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use vtagd::api::{self, Access, Api, ApiSettings, Board, TlsSettings};
use vtagd::metrics;
use vtagd::platform::secret::Secret;
use vtagd::platform::shutdown::{self, Trigger};
use vtagd::stream::accounting::FrameOutcome;
use vtagd::stream::registry::{RegisteredStream, StreamRegistry};
use vtagd::stream::requests::{self, Action, RequestOutcome, RequestReceiver};
use vtagd::stream::status::StreamState;
use vtagd::yaml::problem::{Problem, Severity};

/// One recorder a process, however many tests run in it.
fn metrics() -> PrometheusHandle {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    METRICS.get_or_init(|| metrics::init_metrics().unwrap()).clone()
}

fn json(mut answer: ureq::http::Response<ureq::Body>) -> serde_json::Value {
    serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
}

struct Server {
    board: Arc<Board>,
    registry: Arc<StreamRegistry>,
    url: String,
    access: Arc<Access>,
    trigger: Trigger,
    thread: std::thread::JoinHandle<()>,
    /// What is asked of the main thread, which there is none of here.
    requests: RequestReceiver,
}

impl Server {
    fn start(token: Option<&str>) -> Self {
        Self::with(token, None)
    }

    fn with(token: Option<&str>, tls: Option<TlsSettings>) -> Self {
        let (trigger, shutdown) = shutdown::channel();
        let (senders, requests) = requests::channel();
        let registry = Arc::new(StreamRegistry::new(senders.mqtt));
        let board = Arc::new(Board::new(Arc::clone(&registry)));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let settings = ApiSettings {
            listen: "127.0.0.1:0".parse().unwrap(),
            token: token.map(Secret::new),
            tls,
            trusted_proxies: Vec::new(),
        };
        let Api { address, thread, access } =
            api::start(&settings, Arc::clone(&board), senders.api, metrics(), shutdown).unwrap();
        Self { board, registry, url: format!("{scheme}://{address}"), access, trigger, thread, requests }
    }

    /// A bare connection, for what no client would say.
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.url.split("://").nth(1).unwrap()).unwrap();
        stream.set_read_timeout(Some(crate::common::daemon::DEADLINE)).unwrap();
        stream
    }

    /// What the server answers to `request` until it closes the connection.
    fn say(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn post(&self, path: &str, token: Option<&str>) -> (u16, serde_json::Value) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut request = agent.post(format!("{}{path}", self.url));
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let answer = request.send_empty().unwrap();
        (answer.status().as_u16(), json(answer))
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
    let gate = RegisteredStream::new(&"gate".into(), Vec::new());
    server.registry.set(vec![gate.clone()]);
    gate.status.set(StreamState::Down { error: "connection refused".into() });
    gate.accounting.sample(&"gate".into()).complete(FrameOutcome::Inferred);
    let body = json(server.get("/api/v1/streams", None));
    let row = &body["streams"][0];
    assert_eq!((row["id"].as_str(), row["state"].as_str()), (Some("gate"), Some("down")));
    assert_eq!((row["error"].as_str(), row["accounting"]["inferred"].as_u64()), (Some("connection refused"), Some(1)));
    server.stop();
}

#[test]
fn with_a_token_everything_but_liveness_needs_it() {
    let server = Server::start(Some("let-me-in"));
    assert_eq!(server.get("/healthz", None).status(), 200);
    for path in ["/readyz", "/metrics", "/api/v1/streams", "/api/v1/labels", "/api/v1/events", "/api/v1/pictures"] {
        assert_eq!(server.get(path, None).status(), 401, "{path}");
        assert_eq!(server.get(path, Some("let-me-im")).status(), 401, "{path}");
        assert_ne!(server.get(path, Some("let-me-in")).status(), 401, "{path}");
    }
    // The page asks for it.
    assert!(!server.get("/", None).body_mut().read_to_string().unwrap().contains("let-me-in"));
    server.stop();
}

#[test]
fn a_request_that_hangs_does_not_hold_the_end_up() {
    let server = Server::start(None);
    let address = server.url.strip_prefix("http://").unwrap().to_owned();
    let mut hanging = TcpStream::connect(address).unwrap();
    hanging.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").unwrap();
    let (done, ended) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        server.stop();
        done.send(()).unwrap();
    });
    ended.recv_timeout(crate::common::daemon::DEADLINE).expect("the API ends although a request hangs");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let (_trigger, shutdown) = shutdown::channel();
    let settings = ApiSettings { listen, token: None, tls: None, trusted_proxies: Vec::new() };
    let requests = requests::channel().0.api;
    let error =
        api::start(&settings, Arc::new(Board::new(Arc::default())), requests, metrics(), shutdown).err().unwrap();
    assert!(error.to_string().contains(&listen.to_string()) && error.to_string().contains("api.listen"), "{error}");
}

#[test]
fn every_answer_keeps_browsers_from_doing_more_than_showing_it_and_none_lets_other_pages_read_it() {
    let server = Server::start(Some("let-me-in"));
    let token = Some("let-me-in");
    for (path, token, status) in [
        ("/", token, 200),
        ("/healthz", None, 200),
        ("/api/v1/streams", token, 200),
        ("/api/v1/streams", None, 401),
        ("/nowhere", token, 404),
        ("/api/v1/reload", token, 405),
        ("/api/v1/snapshots/no.jpg", token, 404),
    ] {
        let answer = server.get(path, token);
        assert_eq!(answer.status(), status, "{path}");
        let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(header("x-content-type-options").as_deref(), Some("nosniff"), "{path}");
        assert_eq!(header("x-frame-options").as_deref(), Some("DENY"), "{path}");
        assert_eq!(header("cache-control").as_deref(), Some("no-store"), "{path}");
        let policy = header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!answer.headers().keys().any(|name| name.as_str().starts_with("access-control-")), "{path}");
        if status >= 400 {
            assert_eq!(header("content-type").as_deref(), Some("application/json"), "{path}");
            assert_eq!(header("allow").is_some(), status == 405, "{path}");
            assert!(json(answer)["error"].is_string(), "{path}");
        }
    }
    let preflight = "OPTIONS /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\
                     Access-Control-Request-Method: POST\r\nConnection: close\r\n\r\n";
    let answer = server.say(preflight);
    assert!(answer.starts_with("HTTP/1.1 401") && !answer.to_lowercase().contains("access-control"), "{answer}");
    server.stop();
}

#[test]
fn without_a_token_it_answers_only_to_names_of_this_machine() {
    let server = Server::start(None);
    let ask = |path: &str, host: &str| {
        let answer = server.say(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        answer[9..12].parse::<u16>().unwrap()
    };
    assert_eq!(ask("/api/v1/events", "localhost:8642"), 200);
    assert_eq!(ask("/api/v1/events", "127.0.0.1"), 200);
    assert_eq!(ask("/api/v1/events", "rebound.evil.example:8642"), 403);
    assert_eq!(ask("/healthz", "whatever"), 200);
    server.stop();

    // With one, a page from elsewhere cannot say it, and a proxy may keep the name it was called by.
    let server = Server::start(Some("let-me-in"));
    let request = "GET /api/v1/events HTTP/1.1\r\nHost: edge.example\r\nAuthorization: bearer let-me-in\r\nConnection: close\r\n\r\n";
    assert!(server.say(request).starts_with("HTTP/1.1 200"));
    server.stop();
}

#[test]
fn a_name_that_is_no_text_is_not_this_machines() {
    let server = Server::start(None);
    let mut stream = server.connect();
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: \xe9vil.example\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    server.stop();
}

#[test]
fn no_spelling_of_a_request_gets_past_the_token() {
    let server = Server::start(Some("let-me-in"));
    let set = vtagd::api::SetView {
        set: "marked-set".into(),
        labels: Vec::new(),
        sha256: "0".repeat(64),
        warnings: Vec::new(),
        source: serde_json::json!({}),
        details: serde_json::json!({}),
        hours: Vec::new(),
    };
    server.board.set_labels(vec![set]);
    let lines = [
        "GET /api/v1/labels HTTP/1.1",
        "GET /api/v1/labels/ HTTP/1.1",
        "GET //api/v1/labels HTTP/1.1",
        "GET /api/v1/%6cabels HTTP/1.1",
        "GET /API/V1/LABELS HTTP/1.1",
        "GET /healthz/../api/v1/labels HTTP/1.1",
        "GET /healthz%2f..%2fapi/v1/labels HTTP/1.1",
        "GET /healthz/ HTTP/1.1",
        "GET /healthz;/api/v1/labels HTTP/1.1",
        "GET /api/v1/labels?/healthz HTTP/1.1",
        "GET http://localhost/api/v1/labels HTTP/1.1",
        "GET http://healthz/api/v1/labels HTTP/1.0",
        "HEAD /api/v1/labels HTTP/1.1",
        "OPTIONS /api/v1/labels HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "TRACE /api/v1/labels HTTP/1.1",
        "get /api/v1/labels HTTP/1.1",
        "CONNECT localhost:80 HTTP/1.1",
        "POST /api/v1/reload HTTP/1.1",
        "PATCH /api/v1/reload HTTP/1.1",
    ];
    let shown = [
        "X: y",
        "Authorization: let-me-in",
        "Authorization: Basic let-me-in",
        "Authorization: Bearer",
        "Authorization: Bearer let-me-in let-me-in",
        "Authorization: Bearer\tlet-me-in",
        "Authorization: Bearer let-me-i",
        "Authorization: Bearer LET-ME-IN",
        "Authorization: Bearer x\r\nAuthorization: Bearer let-me-in",
        "Proxy-Authorization: Bearer let-me-in",
        "Cookie: token=let-me-in",
        "X-Forwarded-For: 127.0.0.1\r\nX-Original-URL: /healthz\r\nX-HTTP-Method-Override: GET",
    ];
    // Every line with nothing shown, and everything shown with a line that would be answered.
    for (line, shown) in lines.map(|line| (line, shown[0])).into_iter().chain(shown.map(|shown| (lines[0], shown))) {
        let request = format!("{line}\r\nHost: localhost\r\n{shown}\r\nConnection: close\r\n\r\n");
        let answer = server.say(&request);
        assert!(answer[9..].starts_with("401"), "{line} {shown}: {answer}");
        assert!(!answer.contains("marked-set"), "{line} {shown}: {answer}");
    }
    assert!(server.requests.next(Duration::ZERO).is_none());
    let asked =
        "GET /api/v1/labels HTTP/1.1\r\nHost: x\r\nauthorization: BEARER let-me-in \r\nConnection: close\r\n\r\n";
    let answer = server.say(asked);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("marked-set"), "{answer}");
    server.stop();
}

#[test]
fn a_change_needs_a_token_even_on_loopback() {
    let server = Server::start(None);
    for path in ["/api/v1/reload", "/api/v1/streams/gate/pause", "/api/v1/streams/gate/resume"] {
        let (status, body) = server.post(path, None);
        assert_eq!(status, 403, "{path}: {body}");
        assert!(body["error"].as_str().unwrap().contains("api.token"), "{body}");
    }
    assert!(server.requests.next(Duration::ZERO).is_none());
    server.stop();

    let server = Server::start(Some("let-me-in"));
    assert_eq!(server.post("/api/v1/reload", None).0, 401);
    assert_eq!(server.post("/api/v1/reload", Some("let-me-im")).0, 401);
    assert!(server.requests.next(Duration::ZERO).is_none());
    server.stop();
}

#[test]
fn a_change_is_told_as_the_main_thread_tells_it() {
    let server = Server::start(Some("let-me-in"));
    let requests = server.requests.clone();
    let main = std::thread::spawn(move || {
        let problem = Problem {
            severity: Severity::Error,
            file: "vtagd.yaml".into(),
            position: Some((3, 1)),
            field: "streams".into(),
            message: "is no list".into(),
            remedy: "write one".into(),
            snippet: "3 | url: rtsp://viewer:MARKED@camera/".into(),
        };
        let outcomes = [
            RequestOutcome::Done,
            RequestOutcome::Already,
            RequestOutcome::NoSuchStream,
            RequestOutcome::Done,
            RequestOutcome::Refused { why: "the configuration has problems".into(), problems: vec![problem] },
        ];
        for outcome in outcomes {
            let request = requests.next(crate::common::daemon::DEADLINE).unwrap();
            if let Action::Switch { stream, enabled } = request.action {
                assert!(!enabled || stream == "gate");
            }
            request.answer.unwrap().send(outcome).unwrap();
        }
    });
    let token = Some("let-me-in");
    let (status, body) = server.post("/api/v1/streams/gate/pause", token);
    assert_eq!(
        (status, body["changed"].as_bool(), body["enabled"].as_bool()),
        (200, Some(true), Some(false)),
        "{body}"
    );
    let (status, body) = server.post("/api/v1/streams/gate/resume", token);
    assert_eq!(
        (status, body["changed"].as_bool(), body["enabled"].as_bool()),
        (200, Some(false), Some(true)),
        "{body}"
    );
    assert_eq!(server.post("/api/v1/streams/nobody/pause", token).0, 404);
    assert_eq!(server.post("/api/v1/reload", token).0, 200);
    let (status, body) = server.post("/api/v1/reload", token);
    assert_eq!((status, body["problems"][0]["line"].as_u64()), (422, Some(3)), "{body}");
    assert!(!body.to_string().contains("MARKED"), "{body}");
    main.join().unwrap();
    server.stop();
}

#[test]
fn who_asks_too_much_is_told_when_to_come_back_and_the_service_manager_is_not() {
    const ROUNDS: usize = 3000;
    let server = Server::start(None);
    // Far more than anybody may, over one connection without waiting for answers: even a slow machine takes them faster than they are allowed.
    let mut stream = server.connect();
    let mut reading = stream.try_clone().unwrap();
    let paths = ["/api/v1/labels", "/healthz", "/livez", "/readyz"];
    let writer = std::thread::spawn(move || {
        let round: String = paths.map(|path| format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).concat();
        for _ in 0..ROUNDS {
            stream.write_all(round.as_bytes()).unwrap();
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut answers = String::new();
    reading.read_to_string(&mut answers).unwrap();
    writer.join().unwrap();
    let answers: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).collect();
    assert_eq!(answers.len(), ROUNDS * paths.len());
    let mut refused = 0;
    for (answer, path) in answers.iter().zip(paths.iter().cycle()) {
        if !answer.starts_with("429") {
            continue;
        }
        assert_eq!(*path, "/api/v1/labels", "{answer}");
        let wait = answer.lines().find_map(|line| line.strip_prefix("retry-after: ")).expect("when to come back");
        assert!((1..=60).contains(&wait.parse::<u64>().unwrap()), "{wait}");
        refused += 1;
    }
    assert!(refused > 0);
    let metrics = metrics().render();
    let counted = format!("vtagd_api_refused_total{{reason=\"rate\"}} {refused}");
    assert!(metrics.contains(&counted), "{refused}: {metrics}");
    server.stop();
}

#[test]
fn a_body_that_is_too_large_is_refused_unread() {
    let server = Server::start(Some("let-me-in"));
    let answer = server.say("POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("64 KiB"), "{answer}");
    server.stop();
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let server = Server::start(None);
    let many: String = (0..100).map(|n| format!("X-{n}: x\r\n")).collect();
    let answer = server.say(&format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"));
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let mut stream = server.connect();
    let long = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(1 << 20));
    // It may close before all of it is written.
    let _ = stream.write_all(long.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 2"));
    assert_eq!(server.get("/healthz", None).status(), 200);
    server.stop();
}

#[test]
fn a_peer_that_never_ends_its_request_is_cut_off() {
    let server = Server::start(None);
    let mut slow = server.connect();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").unwrap();
    let mut silent = server.connect();
    for stream in [&mut slow, &mut silent] {
        // Whatever it is told, the connection ends; else this waits for ever and fails.
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the connection ends");
        assert!(!answer.starts_with(b"HTTP/1.1 2"));
    }
    server.stop();
}

#[test]
fn a_request_has_one_host_and_only_old_probes_have_none() {
    for token in [None, Some("let-me-in")] {
        let server = Server::start(token);
        let shown = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        let status = |line: &str, hosts: &[&str]| -> u16 {
            let hosts: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
            server.say(&format!("{line}\r\n{hosts}{shown}Connection: close\r\n\r\n"))[9..12].parse().unwrap()
        };
        for path in ["/healthz", "/livez", "/readyz", "/metrics", "/", "/api/v1/labels", "/nowhere"] {
            let (new, old) = (format!("GET {path} HTTP/1.1"), format!("GET {path} HTTP/1.0"));
            let usual = status(&new, &["localhost"]);
            assert_ne!(usual, 400, "{path}");
            assert_eq!(status(&old, &["localhost"]), usual, "{path}");
            assert_eq!(status(&new, &[]), 400, "{path}");
            for line in [&new, &old] {
                assert_eq!(status(line, &["localhost", "localhost"]), 400, "{path}");
                assert_eq!(status(line, &["localhost", "evil.example"]), 400, "{path}");
            }
            let probed = ["/healthz", "/livez", "/readyz", "/metrics"].contains(&path);
            assert_eq!(status(&old, &[]), if probed { usual } else { 400 }, "{path}");
            assert_eq!(status(&format!("POST {path} HTTP/1.1"), &[]), 400, "{path}");
        }
        server.stop();
    }
}

#[test]
fn there_are_only_so_many_connections_and_a_place_is_free_again_when_one_ends() {
    let server = Server::start(None);
    let ask = |path: &str| {
        let mut one_more = server.connect();
        let _ = write!(one_more, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut answer = String::new();
        let _ = one_more.read_to_string(&mut answer);
        answer
    };
    let refused = || {
        let metrics = metrics().render();
        let line =
            metrics.lines().find(|line| line.starts_with("vtagd_api_refused_total{reason=\"connections\"}")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let before = refused();
    // Idle ones, held open: no request is ever made.
    let held: Vec<TcpStream> = (0..64).map(|_| server.connect()).collect();
    let told = "HTTP/1.1 503";
    crate::common::daemon::eventually("one too many is not served", || {
        // Without `Connection: close` in the request; it ends all the same.
        let mut stream = server.connect();
        stream.write_all(b"GET /api/v1/labels HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.starts_with(told).then_some(answer)
    });
    // … and those that came in beyond them and say nothing either.
    let more: Vec<TcpStream> = (0..40).map(|_| server.connect()).collect();
    for _ in 0..20 {
        let answer = ask("/healthz");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer:?}");
        assert!(ask("/livez").starts_with("HTTP/1.1 200"));
        assert!(ask("/readyz").starts_with("HTTP/1.1 503") && ask("/readyz").contains("starting"));
    }
    let answer = ask("/api/v1/labels");
    assert!(answer.starts_with(told) && answer.contains("retry-after: ") && answer.contains("too many"), "{answer}");
    assert!(refused() >= before + 41, "{before} {}", refused());
    drop((held, more));
    crate::common::daemon::eventually("there is room again", || {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        agent.get(format!("{}/api/v1/labels", server.url)).call().ok().filter(|answer| answer.status() == 200)
    });
    server.stop();
}

/// A fresh certificate for 127.0.0.1 in `folder`; the certificate as PEM.
fn certify(folder: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
    std::fs::write(folder.join("api.crt"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("api.key"), made.signing_key.serialize_pem()).unwrap();
    made.cert.pem()
}

fn trusting(pem: &str) -> ureq::Agent {
    use ureq::tls::{Certificate, RootCerts, TlsConfig};
    let root = Certificate::from_pem(pem.as_bytes()).unwrap();
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::Specific(Arc::new(vec![root])))
        .build();
    ureq::Agent::config_builder().http_status_as_error(false).tls_config(tls).build().into()
}

#[test]
fn with_tls_it_shows_its_certificate_a_new_one_after_a_change_and_nothing_in_clear_text() {
    let folder = tempfile::tempdir().unwrap();
    let first = certify(folder.path());
    let tls = TlsSettings { cert: folder.path().join("api.crt"), key: folder.path().join("api.key") };
    let server = Server::with(Some("let-me-in"), Some(tls.clone()));
    let get = |agent: &ureq::Agent| {
        let request = agent.get(format!("{}/api/v1/labels", server.url)).header("Authorization", "Bearer let-me-in");
        request.call().map(|answer| answer.status().as_u16())
    };
    assert_eq!(get(&trusting(&first)).unwrap(), 200);

    let mut clear = server.connect();
    clear.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = clear.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");

    let second = certify(folder.path());
    let settings = ApiSettings {
        listen: "127.0.0.1:0".parse().unwrap(),
        token: Some(Secret::new("let-me-in")),
        tls: Some(tls.clone()),
        trusted_proxies: Vec::new(),
    };
    assert_eq!(get(&trusting(&first)).unwrap(), 200, "nobody has told it yet");
    server.access.change(&settings).unwrap();
    assert_eq!(get(&trusting(&second)).unwrap(), 200);
    assert!(get(&trusting(&first)).is_err());

    // A key of somebody else: refused, and the certificate that works stays.
    let other = tempfile::tempdir().unwrap();
    certify(other.path());
    std::fs::copy(other.path().join("api.key"), folder.path().join("api.key")).unwrap();
    let error = server.access.change(&settings).unwrap_err();
    assert!(error.contains("api.key") && error.contains("together"), "{error}");
    assert_eq!(get(&trusting(&second)).unwrap(), 200);
    server.stop();
}
