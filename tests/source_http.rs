//! Video over HTTP: progressive files that end, multipart MJPEG that must not, refusals, pages that are no video.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they measured or skipped")]

#[path = "common/recorder.rs"]
mod recorder;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use recorder::{Running, make_mp4, settings};
use url::Url;
use vtagd::frame::Range;
use vtagd::secret::Secret;
use vtagd::source::{Ended, Location, Pace, SourceSettings};
use vtagd::status::StreamState;

/// One request: its path and its lines.
struct Request {
    path: String,
    headers: Vec<String>,
}

impl Request {
    fn authorization(&self) -> Option<&str> {
        self.headers.iter().find_map(|h| h.strip_prefix("Authorization: "))
    }
}

/// A loopback web server that answers every request by `answer`, one thread a connection.
struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(answer: impl Fn(&Request, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, answer) = (Arc::new(AtomicBool::new(false)), Arc::new(answer));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::Acquire) {
                    return;
                }
                let (mut stream, answer) = (stream.unwrap(), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                    let Some(first) = lines.next() else { return };
                    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
                    let headers = lines.by_ref().take_while(|l| !l.is_empty()).collect();
                    // A client that leaves early is no failure of the server's.
                    let _ = answer(&Request { path, headers }, &mut stream);
                });
            }
        });
        Self { address, stop, thread: Some(thread) }
    }

    fn url(&self, path: &str) -> Url {
        Url::parse(&format!("http://{}{path}", self.address)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len())?;
    stream.write_all(body)
}

fn jpeg(brightness: u8) -> Vec<u8> {
    let picture = image::RgbImage::from_pixel(160, 120, image::Rgb([brightness; 3]));
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new(&mut bytes).encode_image(&picture).unwrap();
    bytes
}

/// As cameras do it: part after part, some 20 ms apart, until `count` have been sent.
fn multipart(stream: &mut TcpStream, count: usize) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\nConnection: close\r\n\r\n"
    )?;
    for n in 0..count {
        let body = jpeg((n % 200) as u8);
        write!(stream, "--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", body.len())?;
        stream.write_all(&body)?;
        stream.write_all(b"\r\n")?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn http(url: Url) -> SourceSettings {
    settings(Location::Http(url))
}

#[test]
fn a_progressive_file_over_http_is_played_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.mp4");
    make_mp4(&path, 50, (320, 180), "ball");
    let body = std::fs::read(&path).unwrap();
    let server = Server::start(move |_, stream| respond(stream, "200 OK", "Content-Type: video/mp4\r\n", &body));
    let settings = SourceSettings { pace: Pace::Fast, ..http(server.url("/clip.mp4")) };
    let (ended, frames, report) = Running::start(settings).wait_end();
    assert_eq!((ended, report.state), (Ended::EndOfFile, StreamState::Ended));
    assert_eq!(frames.len(), 50);
    assert!(frames.iter().enumerate().all(|(n, f)| f.media.as_millis() == n as u128 * 40 && f.size == (320, 180)));
}

#[test]
fn a_multipart_camera_gives_frames_and_is_reconnected_when_it_ends() {
    let server = Server::start(|_, stream| multipart(stream, 25));
    let running = Running::start(http(server.url("/mjpeg?user=viewer&pwd=hunter2")));
    let error = running.wait_down();
    assert!(error.contains("the live stream ended") && !error.contains("hunter2"), "{error}");
    let seen = running.frames().len();
    assert!(seen >= 20, "{seen} of 25 frames");
    let frames = running.wait_frames(seen + 10);
    assert!(frames.windows(2).all(|w| w[1].media >= w[0].media));
    assert!(frames.iter().all(|f| f.size == (160, 120) && f.colours.1 == Range::Full));
    let span = frames[seen - 1].media - frames[0].media;
    let real = frames[seen - 1].captured - frames[0].captured;
    assert!(span.abs_diff(real) < Duration::from_millis(300), "{span:?} of media time in {real:?}");
}

#[test]
fn credentials_are_sent_when_asked_for_and_their_refusal_is_told_without_them() {
    let server = Server::start(|request, stream| match request.authorization() {
        Some("Basic dmlld2VyOnNlc2FtZQ==") => multipart(stream, 1000), // viewer:sesame
        _ => respond(stream, "401 Unauthorized", "WWW-Authenticate: Basic realm=\"camera\"\r\n", b""),
    });
    let with = |password: &str| SourceSettings {
        username: Some("viewer".into()),
        password: Some(Secret::new(password)),
        ..http(server.url("/mjpeg"))
    };
    Running::start(with("sesame")).wait_frames(3);
    let error = Running::start(with("hunter2")).wait_down();
    assert!(error.contains("credentials were refused") && !error.contains("hunter2"), "{error}");
}

#[test]
fn credentials_do_not_follow_a_redirect_to_another_host() {
    let thief = Server::start(|request, stream| {
        let header = if request.authorization().is_some() { "X-Stolen: yes\r\n" } else { "" };
        respond(stream, "401 Unauthorized", &format!("WWW-Authenticate: Basic realm=\"x\"\r\n{header}"), b"")
    });
    let there = thief.url("/asked").to_string();
    let visited = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&visited);
    let server = Server::start(move |request, stream| {
        seen.store(request.path == "/mjpeg", Ordering::Release);
        respond(stream, "302 Found", &format!("Location: {there}\r\n"), b"")
    });
    let settings = SourceSettings {
        username: Some("viewer".into()),
        password: Some(Secret::new("hunter2")),
        ..http(server.url("/mjpeg"))
    };
    let error = Running::start(settings).wait_down();
    assert!(visited.load(Ordering::Acquire));
    assert!(!error.contains("credentials were refused"), "the other host was asked: {error}");
}

#[test]
fn a_page_that_is_not_there_and_a_page_that_is_no_video_are_told_apart() {
    let server = Server::start(|request, stream| match request.path.as_str() {
        "/page" => {
            let page = format!("<!DOCTYPE html><html><body>{}</body></html>", "camera ".repeat(500));
            respond(stream, "200 OK", "Content-Type: text/html\r\n", page.as_bytes())
        }
        _ => respond(stream, "404 Not Found", "", b""),
    });
    let error = Running::start(http(server.url("/nothing"))).wait_down();
    assert!(error.contains("nothing is there"), "{error}");
    let error = Running::start(http(server.url("/page"))).wait_down();
    assert!(error.contains("not a video that can be read"), "{error}");
}
