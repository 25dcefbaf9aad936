//! Tests of the classes of routes, over real sockets, with routes that exist here alone: bodies of pictures, and live streams.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::response::IntoResponse;
use hyper::body::Frame;
use serde_json::json;
use tokio::sync::Semaphore;

use super::route_table::{self, Needs, Route, RouteClass, Rules};
use super::test_server::{DEADLINE, Server};
use super::{Access, AddressRange, ApiSettings, Board, Shared, openapi, serve};
use crate::platform::secret::Secret;
use crate::stream::requests;

/// Of nobody.
pub const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const MIB: usize = 1 << 20;
const BEAT: &[u8] = b": alive\n\n";

/// What requests look at, where there is a token or none and `trusted` are believed.
pub fn shared(token: Option<&str>, trusted: &[&str]) -> Shared {
    let trusted_proxies: Vec<AddressRange> = trusted.iter().map(|range| range.parse().unwrap()).collect();
    let listen = (Ipv4Addr::LOCALHOST, 0).into();
    let settings = ApiSettings { listen, token: token.map(Secret::new), tls: None, trusted_proxies };
    Shared {
        board: Arc::new(Board::new(Arc::default())),
        metrics: metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle(),
        access: Arc::new(Access::new(&settings, "").unwrap()),
        requests: requests::channel().0.api,
    }
}

/// How long the body was.
async fn length(body: Bytes) -> String {
    format!("{} bytes", body.len())
}

/// A stream that says something now and then, for ever: who has left is noticed by writing to him.
async fn live() -> impl IntoResponse {
    Body::new(Beat(tokio::time::interval(Duration::from_millis(50))))
}

struct Beat(tokio::time::Interval);

impl hyper::body::Body for Beat {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_tick(cx).map(|_| Some(Ok(Frame::data(Bytes::from_static(BEAT)))))
    }
}

/// A change that has begun, that may end, and that has ended.
static BEGUN: Semaphore = Semaphore::const_new(0);
static MAY_END: Semaphore = Semaphore::const_new(0);
static ENDED: Semaphore = Semaphore::const_new(0);

async fn change() {
    BEGUN.add_permits(1);
    MAY_END.acquire().await.unwrap().forget();
    ENDED.add_permits(1);
}

fn routes() -> Vec<Route> {
    let rules = |class| Rules { class, needs: Needs::Token };
    let mut routes = route_table::all();
    routes.push(Route::post(
        "/test/picture",
        rules(RouteClass::Picture),
        length,
        openapi::operation("picture", "", &[]),
    ));
    let words = openapi::operation("words", "", &[]);
    routes.push(Route::post("/test/words", rules(RouteClass::Words), length, words));
    let lasting = Rules { needs: Needs::Change, ..rules(RouteClass::Plain) };
    routes.push(Route::post("/test/change", lasting, change, openapi::operation("change", "", &[])));
    routes.push(Route::get("/test/live", rules(RouteClass::Live), live, openapi::operation("live", "", &[])));
    routes
}

fn start(shared: Shared, times: serve::Times) -> Server {
    let access = Arc::clone(&shared.access);
    Server::start(route_table::router(shared, routes()), access, times)
}

impl Server {
    /// A connection that carries a live stream.
    fn live(&self) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(b"GET /test/live HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(BEAT) {
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&answer));
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
        stream
    }

    /// What is answered until the connection ends.
    fn say(&self, head: &str, body: &[u8]) -> String {
        let mut stream = self.connect();
        let mut writing = stream.try_clone().unwrap();
        let all = [format!("{head}\r\nHost: localhost\r\nConnection: close\r\n").as_bytes(), body].concat();
        let writer = std::thread::spawn(move || writing.write_all(&all));
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        // Most clients read nothing before they have said all: whoever is refused in the middle may say the rest.
        writer.join().unwrap().unwrap();
        String::from_utf8(answer).unwrap()
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < DEADLINE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn post(path: &str, body: usize) -> (String, Vec<u8>) {
    let head = format!("POST {path} HTTP/1.1\r\nContent-Length: {body}");
    (head, [b"\r\n".to_vec(), vec![b'x'; body]].concat())
}

/// A body in pieces, whose length nobody has told.
fn chunked(path: &str, body: usize) -> (String, Vec<u8>) {
    let mut pieces = b"\r\n".to_vec();
    for from in (0..body).step_by(MIB) {
        let piece = MIB.min(body - from);
        pieces.extend(format!("{piece:x}\r\n").bytes());
        pieces.resize(pieces.len() + piece, b'x');
        pieces.extend(b"\r\n");
    }
    pieces.extend(b"0\r\n\r\n");
    (format!("POST {path} HTTP/1.1\r\nTransfer-Encoding: chunked"), pieces)
}

#[test]
fn a_route_for_pictures_takes_sixteen_mebibytes_whether_their_length_is_told_or_not_and_others_64_kib() {
    let server = start(shared(None, &[]), serve::TIMES);
    for make in [post, chunked] {
        let ask = |path: &str, size: usize| {
            let (head, body) = make(path, size);
            server.say(&head, &body)
        };
        let answer = ask("/test/picture", 16 * MIB);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n16777216 bytes"), "{answer}");
        let answer = ask("/test/picture", 16 * MIB + 1);
        // It is refused while it is still being sent, and whoever sends it can read why.
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("16 MiB"), "{answer}");
        let answer = ask("/test/picture", 40 * MIB);
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("16 MiB"), "{answer}");
        let answer = ask("/test/words", 64 << 10);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n65536 bytes"), "{answer}");
        let answer = ask("/test/words", (64 << 10) + 1);
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("64 KiB"), "{answer}");
    }
    let long = server.say(&format!("GET /{} HTTP/1.1", "x".repeat(MIB)), b"\r\n");
    assert!(long.starts_with("HTTP/1.1 431") || long.starts_with("HTTP/1.1 414"), "{long}");
    let told = server.say("POST /test/picture HTTP/1.1\r\nContent-Length: 16777217", b"\r\n");
    assert!(
        told.starts_with("HTTP/1.1 413") && told.contains("16 MiB") && told.contains("connection: close"),
        "{told}"
    );
    let told = server.say("POST /api/v1/reload HTTP/1.1\r\nContent-Length: 65537", b"\r\n");
    assert!(told.starts_with("HTTP/1.1 413") && told.contains("64 KiB"), "{told}");
    server.stop();
}

#[test]
fn nobody_without_the_token_makes_it_read_a_picture() {
    let server = start(shared(Some("let-me-in"), &[]), serve::TIMES);
    // The body never comes.
    let answer = server.say("POST /test/picture HTTP/1.1\r\nContent-Length: 1000000", b"\r\n");
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    server.stop();
}

#[test]
fn no_more_pictures_are_taken_in_at_once_than_there_is_room_for() {
    let server = start(shared(None, &[]), serve::TIMES);
    let (head, body) = post("/test/picture", 1000);
    let mut slow: Vec<TcpStream> = (0..5)
        .map(|_| {
            let mut stream = server.connect();
            write!(stream, "{head}\r\nHost: localhost\r\nConnection: close\r\n").unwrap();
            stream.write_all(&body[..100]).unwrap();
            stream
        })
        .collect();
    eventually("all room is taken", || server.access.pictures.available_permits() == 0);
    assert!(server.say("GET /healthz HTTP/1.1", b"\r\n").starts_with("HTTP/1.1 200"), "others do not wait");
    let (few, words) = post("/test/words", 10);
    assert!(server.say(&few, &words).starts_with("HTTP/1.1 200"), "nor do those that say a few words");
    for stream in &mut slow {
        stream.write_all(&body[100..]).unwrap();
    }
    for mut stream in slow {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("1000 bytes"), "{answer}");
    }
    assert_eq!(server.access.pictures.available_permits(), 4);
    server.stop();
}

#[test]
fn a_change_is_made_to_its_end_when_nobody_waits_for_it_any_more() {
    let server = start(shared(None, &[]), serve::TIMES);
    let mut stream = server.connect();
    stream.write_all(b"POST /test/change HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").unwrap();
    eventually("it has begun", || BEGUN.available_permits() == 1);
    drop(stream);
    eventually("nobody is there", || server.access.taken() == 0);
    MAY_END.add_permits(1);
    eventually("it has ended", || ENDED.available_permits() == 1);
    server.stop();
}

#[test]
fn live_streams_have_a_pool_of_their_own() {
    let server = start(shared(None, &[]), serve::TIMES);
    let mut streams: Vec<TcpStream> = (0..64).map(|_| server.live()).collect();
    let answer = server.say("GET /test/live HTTP/1.1", b"\r\n");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 5"), "{answer}");
    // All places of this machine are free for others.
    let idle: Vec<TcpStream> = (0..63).map(|_| server.connect()).collect();
    eventually("they have their places", || server.access.taken() == 64 + 63);
    assert!(server.say("GET /api/v1/labels HTTP/1.1", b"\r\n").starts_with("HTTP/1.1 200"));
    drop(idle);

    streams.pop();
    eventually("there is room again", || server.say("HEAD /test/live HTTP/1.1", b"\r\n").starts_with("HTTP/1.1 200"));
    server.stop();
    for mut stream in streams {
        // What goes on for ever would never have been read to its end.
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

#[test]
fn a_live_stream_may_become_older_than_other_connections() {
    let life = Duration::from_millis(100);
    let server = start(shared(None, &[]), serve::Times { life, last: life, ..serve::TIMES });
    let mut live = server.live();
    let mut plain = server.connect();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).unwrap();
    // As old as that one was when it ended, and as much older as a hundred beats take.
    live.read_exact(&mut vec![0; BEAT.len() * 100]).expect("it goes on");
    server.stop();
}

/// The statuses of so many requests of a client behind the proxy that the test is, until one is refused.
fn served(server: &Server, client: &str) -> usize {
    let ask =
        || server.say(&format!("GET /healthz HTTP/1.1\r\nX-Forwarded-For: 127.0.0.1, {client}, 127.0.0.9"), b"\r\n");
    (0..1000).take_while(|_| ask().starts_with("HTTP/1.1 200")).count()
}

#[test]
fn behind_a_proxy_that_is_believed_each_client_has_a_rate_of_its_own_and_is_not_on_this_machine() {
    let server = start(shared(None, &["127.0.0.0/8"]), serve::TIMES);
    let ask = |client: &str| server.say(&format!("GET /api/v1/labels HTTP/1.1\r\nX-Forwarded-For: {client}"), b"\r\n");
    assert!(served(&server, "203.0.113.5") >= 200);
    let answer = server.say("GET /healthz HTTP/1.1\r\nX-Forwarded-For: 203.0.113.6", b"\r\n");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(ask("203.0.113.6").starts_with("HTTP/1.1 401"), "without a token it is for this machine alone");
    assert!(ask("2001:db8::1").starts_with("HTTP/1.1 401"));
    assert!(ask("no-address").starts_with("HTTP/1.1 200"), "the proxy itself");
    server.stop();

    let server = start(shared(None, &[]), serve::TIMES);
    assert!(
        server.say("GET /api/v1/labels HTTP/1.1\r\nX-Forwarded-For: 203.0.113.6", b"\r\n").starts_with("HTTP/1.1 200")
    );
    server.stop();
}

#[test]
fn the_document_says_which_class_a_route_is_of() {
    let document = openapi::document(&routes(), "");
    let guard = |path: &str, method: &str| document["paths"][path][method]["x-guard"].clone();
    assert_eq!(guard("/test/picture", "post"), json!("picture"));
    assert_eq!(document["paths"]["/test/picture"]["post"]["x-max-body"], json!(16 * MIB));
    assert_eq!(guard("/test/live", "get"), json!("live"));
    assert_eq!((guard("/readyz", "get"), guard("/metrics", "get")), (json!("health"), json!("scrape")));
    assert_eq!(guard("/api/v1/reload", "post"), json!("plain"));
    // They wait for cameras and commands: no place for pictures is taken meanwhile.
    for path in ["/api/v1/discover", "/api/v1/preview", "/api/v1/streams", "/api/v1/labels/{set}/report"] {
        assert_eq!(guard(path, "post"), json!("words"), "{path}");
    }
}
