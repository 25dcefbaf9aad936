//! What the API answers, right and wrong.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use super::super::common::daemon::{Daemon, eventually};
use super::golden::sections;
use super::http::{ask, say, send};

/// Every answer that is got without changing anything.
pub fn look(address: &str, token: &str, picture: &str) -> Vec<(&'static str, String)> {
    let get = |path: &str| ask(address, "GET", path, token).told();
    let post = |path: &str| ask(address, "POST", path, token).told();
    let open = |head: &str| say(address, head).told();
    let large = format!("POST /api/v1/reload HTTP/1.1\r\nAuthorization: Bearer {token}\r\nContent-Length: 99999");
    vec![
        ("GET /", get("/")),
        ("GET /healthz", open("GET /healthz HTTP/1.1")),
        ("GET /livez", open("GET /livez HTTP/1.1")),
        ("GET /readyz", get("/readyz")),
        ("GET /metrics", get("/metrics")),
        ("GET /api/v1/streams", get("/api/v1/streams")),
        ("GET /api/v1/labels", get("/api/v1/labels")),
        ("GET /api/v1/events", get("/api/v1/events")),
        ("GET /api/v1/sinks", get("/api/v1/sinks")),
        ("GET /api/v1/snapshots/{name}", get(picture)),
        ("GET /api/v1/snapshots/{name} that is not there", get("/api/v1/snapshots/no.jpg")),
        ("GET /nowhere", get("/nowhere")),
        ("GET /api/v1/reload", get("/api/v1/reload")),
        ("DELETE /api/v1/streams", ask(address, "DELETE", "/api/v1/streams", token).told()),
        ("POST /api/v1/streams/{id}/pause of nobody", post("/api/v1/streams/nobody/pause")),
        ("POST /api/v1/streams/{id}/pause of no text", post("/api/v1/streams/%ff/pause")),
        ("POST /api/v1/session", post("/api/v1/session")),
        ("DELETE /api/v1/session", ask(address, "DELETE", "/api/v1/session", token).told()),
        ("POST /api/v1/tag of no picture", post("/api/v1/tag")),
        ("POST /api/v1/embed of texts", embedded(address, token)),
        ("GET without a token", open("GET /api/v1/streams HTTP/1.1")),
        ("POST without a token", open("POST /api/v1/reload HTTP/1.1")),
        ("POST of too much", open(&large)),
    ]
}

/// Texts that were asked for.
fn embedded(address: &str, token: &str) -> String {
    let body = "{\"texts\":[\"a rocket\"]}";
    let head = format!(
        "POST /api/v1/embed HTTP/1.1\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {}",
        body.len()
    );
    send(address, &head, body).told()
}

/// What a wrong token is told after many others.
pub fn guess(address: &str) -> String {
    let guess = || ask(address, "GET", "/api/v1/streams", "a-token-that-somebody-guessed").told();
    (0..60).map(|_| guess()).next_back().unwrap()
}

/// Requests until there were too many, without waiting for answers.
pub fn ask_too_often(address: &str, token: &str) -> String {
    let many = format!("HEAD / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n").repeat(400);
    eventually("too many requests", || {
        let mut stream = TcpStream::connect(address).unwrap();
        let mut reading = stream.try_clone().unwrap();
        let reader = std::thread::spawn(move || reading.read_to_end(&mut Vec::new()));
        stream.write_all(many.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        reader.join().unwrap().unwrap();
        let answer = ask(address, "GET", "/api/v1/streams", token);
        (answer.status == 429).then(|| answer.told())
    })
}

/// What a daemon without a token refuses.
pub fn without_a_token() -> [(&'static str, String); 2] {
    let folder = tempfile::tempdir().unwrap();
    let config = "model: { path: none }\nstreams: [{ id: off, url: \"rtsp://127.0.0.1:9/\", enabled: false }]\n\
                  outbox: { path: \":memory:\" }\napi: { listen: 127.0.0.1:0 }\n";
    let mut daemon = Daemon::start(folder.path(), config);
    let address = daemon.url().strip_prefix("http://").unwrap().to_owned();
    let change = say(&address, "POST /api/v1/reload HTTP/1.1").told();
    let foreign = say(&address, "GET /api/v1/streams HTTP/1.1\r\nHost: elsewhere.example").told();
    daemon.stop();
    [("POST where there is no token", change), ("GET by a name that is not this machine's", foreign)]
}

/// What every answer has is told once.
pub fn without_repetition(answers: Vec<(&'static str, String)>) -> String {
    let is_header = |line: &&str| line.starts_with(|c: char| c.is_ascii_lowercase()) && line.contains(": ");
    let in_all = |line: &&str| answers.iter().all(|(_, told)| told.lines().any(|other| other == *line));
    let common: Vec<&str> = answers[0].1.lines().filter(is_header).filter(in_all).collect();
    let rest = |told: &str| told.lines().filter(|line| !common.contains(line)).collect::<Vec<_>>().join("\n");
    let parts = answers.iter().map(|(title, told)| (*title, rest(told)));
    sections([("every answer", common.join("\n"))].into_iter().chain(parts))
}
