//! Addresses at which a camera has one picture: asked again and again.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::daemon::{Daemon, eventually, vtagd};
use crate::common::model::{Counting, route, stages};
use crate::common::recorder::{Options, Running, settings};
use crate::common::web::{Server, respond};
use url::Url;
use vtagd::frame::view::View;
use vtagd::pipeline;
use vtagd::pipeline::intake::StreamPart;
use vtagd::platform::backoff::Ladder;
use vtagd::platform::secret::Secret;
use vtagd::platform::shutdown;
use vtagd::source::{Limits, Location, SourceSettings};
use vtagd::stream::registry::RegisteredStream;
use vtagd::stream::status::StreamState;

fn jpeg(brightness: u8) -> Vec<u8> {
    let picture = image::RgbImage::from_fn(160, 120, |x, _| image::Rgb([brightness.wrapping_add(x as u8); 3]));
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new(&mut bytes).encode_image(&picture).unwrap();
    bytes
}

fn every(milliseconds: u64) -> Options {
    Options { interval: Duration::from_millis(milliseconds), ..Options::default() }
}

/// What a server that keeps its connections was asked.
#[derive(Default)]
struct Asked {
    connections: AtomicUsize,
    /// The headers of every request, in lower case.
    requests: Mutex<Vec<String>>,
}

/// A server that keeps its connections and answers by `answer`, which gets the request and its number.
fn kept(answer: impl Fn(&str, usize) -> (String, Vec<u8>) + Send + Sync + 'static) -> (Url, Arc<Asked>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("http://{}/snapshot.jpg?channel=1", listener.local_addr().unwrap())).unwrap();
    let (asked, answer) = (Arc::new(Asked::default()), Arc::new(answer));
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, seen, answer) = (stream.unwrap(), Arc::clone(&seen), Arc::clone(&answer));
            seen.connections.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                loop {
                    let mut request = String::new();
                    while !request.ends_with("\r\n\r\n") {
                        if reader.read_line(&mut request).unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let mut requests = seen.requests.lock().unwrap();
                    requests.push(request.to_lowercase());
                    let (head, body) = answer(&request, requests.len());
                    drop(requests);
                    let head = format!("HTTP/1.1 {head}Content-Length: {}\r\n\r\n", body.len());
                    if stream.write_all(&[head.as_bytes(), &body].concat()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, asked)
}

#[test]
fn a_still_picture_is_polled_at_the_interval_over_one_connection() {
    let (url, asked) = kept(|_, n| ("200 OK\r\nContent-Type: image/jpeg\r\n".to_owned(), jpeg(n as u8)));
    let running = Running::with(settings(Location::Http(url.into())), every(200));
    let frames = running.wait_frames(12);
    assert_eq!((running.report().state, running.report().reconnects), (StreamState::Up, 0));
    assert!(frames.iter().all(|frame| frame.size == (160, 120)));
    let (media, real) = (frames[11].media - frames[2].media, frames[11].captured - frames[2].captured);
    assert!(
        media >= Duration::from_millis(1700) && media.abs_diff(real) < Duration::from_secs(2),
        "{media:?}, {real:?}"
    );
    // One to find out what is there, and one to poll.
    assert!(asked.connections.load(Ordering::Relaxed) <= 2);
    running.stop();
}

#[test]
fn pictures_of_other_kinds_are_polled_too() {
    for format in [image::ImageFormat::Png, image::ImageFormat::WebP] {
        let picture = image::RgbImage::from_fn(160, 120, |x, y| image::Rgb([x as u8, y as u8, 90]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        let (bytes, kind) = (bytes.into_inner(), format.to_mime_type());
        let (url, _) = kept(move |_, _| (format!("200 OK\r\nContent-Type: {kind}\r\n"), bytes.clone()));
        Running::with(settings(Location::Http(url.into())), every(200)).wait_frames(4);
    }
}

#[test]
fn a_picture_that_its_server_calls_the_same_is_asked_for_so_and_scored_without_the_model() {
    let (url, asked) = kept(|request, _| {
        let head = "ETag: \"abc\"\r\nLast-Modified: Sun, 29 Nov 2026 10:00:00 GMT\r\n";
        match request.to_lowercase().contains("if-none-match: \"abc\"") {
            true => (format!("304 Not Modified\r\n{head}"), Vec::new()),
            false => (format!("200 OK\r\nContent-Type: image/jpeg\r\n{head}"), jpeg(7)),
        }
    });
    let source = settings(Location::Http(url.into()));
    let (trigger, shutdown) = shutdown::channel();
    let pictures = Arc::new(AtomicU64::new(0));
    let encoder = Counting { pictures: Arc::clone(&pictures), each: Duration::from_millis(2), failures: 0 };
    let (mut intake, threads) = pipeline::start(stages(encoder, 4), &shutdown).unwrap();
    let (route, _heard) = route();
    let (record, interval) = (RegisteredStream::new(&source.id, Vec::new()), Duration::from_millis(200).into());
    let part = StreamPart { record, source, interval, unchanged: None, views: View::default().into(), route };
    let member = intake.join(part).unwrap();
    let accounting = Arc::clone(&member.accounting);
    let totals = eventually("pictures are reused", || Some(accounting.totals()).filter(|totals| totals.reused >= 8));
    assert!(totals.inferred <= 3, "{totals:?}");
    assert!(
        asked.requests.lock().unwrap().iter().any(|request| request.contains("if-modified-since: sun, 29 nov 2026"))
    );
    drop(intake);
    trigger.trigger();
    let mut threads = threads;
    threads.push(member.into_thread());
    for (name, thread) in threads {
        assert!(thread.join().is_ok(), "{name}");
    }
    assert_eq!(accounting.totals().unaccounted(), 0);
    assert!(pictures.load(Ordering::Relaxed) <= 3);
}

#[test]
fn cameras_that_want_a_login_get_it_basic_or_digest() {
    for challenge in [
        "WWW-Authenticate: Basic realm=\"cam\"\r\n",
        "WWW-Authenticate: Digest realm=\"cam\", nonce=\"abc\", qop=\"auth\"\r\n",
        "WWW-Authenticate: Digest realm=\"cam\", nonce=\"abc\", qop=\"auth\", algorithm=SHA-256\r\n\
         WWW-Authenticate: Digest realm=\"cam\", nonce=\"abc\", qop=\"auth\"\r\n",
        // Which GStreamer does not know.
        "WWW-Authenticate: Digest realm=\"cam\", nonce=\"abc\", qop=\"auth\", algorithm=SHA-256\r\n",
    ] {
        let (url, _) = kept(move |request, _| {
            let request = request.to_lowercase();
            let basic = request.contains("authorization: basic dmlld2vyonnlc2ftzq=="); // viewer:sesame
            let digest = request.contains("authorization: digest username=\"viewer\"")
                && request.contains("uri=\"/snapshot.jpg?channel=1\"");
            match if challenge.contains("Basic") { basic } else { digest } {
                true => ("200 OK\r\nContent-Type: image/jpeg\r\n".to_owned(), jpeg(9)),
                false => (format!("401 Unauthorized\r\n{challenge}"), Vec::new()),
            }
        });
        let settings = SourceSettings {
            username: Some("viewer".into()),
            password: Some(Secret::new("sesame")),
            ..settings(Location::Http(url.into()))
        };
        let running = Running::with(settings, every(200));
        running.wait_frames(4);
        assert_eq!((running.report().state, running.report().reconnects), (StreamState::Up, 0));
    }
}

#[test]
fn a_user_without_a_password_is_logged_in_with_an_empty_one() {
    let (url, _) = kept(|request, _| match request.to_lowercase().contains("authorization: basic ywrtaw46") {
        // admin:
        true => ("200 OK\r\nContent-Type: image/jpeg\r\n".to_owned(), jpeg(9)),
        false => ("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"cam\"\r\n".to_owned(), Vec::new()),
    });
    let settings = SourceSettings { username: Some("admin".into()), ..settings(Location::Http(url.into())) };
    let running = Running::with(settings, every(200));
    running.wait_frames(4);
    assert_eq!(running.report().state, StreamState::Up);
}

/// Cameras lock an account after a few of them.
#[test]
fn a_wrong_password_is_shown_once_in_each_way_before_a_long_wait() {
    for challenge in ["Basic realm=\"cam\"", "Digest realm=\"cam\", nonce=\"abc\", qop=\"auth\", algorithm=SHA-256"] {
        let (url, asked) =
            kept(move |_, _| (format!("401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\n"), Vec::new()));
        let settings = SourceSettings {
            username: Some("viewer".into()),
            password: Some(Secret::new("wrong-one")),
            ..settings(Location::Http(url.into()))
        };
        // The slow wait is longer than a test waits for anything.
        let ladder = Ladder::doubling(Duration::from_millis(50), Duration::from_secs(600), Duration::from_secs(600));
        let running = Running::with(settings, Options { ladder, ..every(200) });
        let error = running.wait_down();
        assert!(error.contains("credentials were refused"), "{error}");
        std::thread::sleep(Duration::from_secs(1));
        let shown = asked.requests.lock().unwrap().iter().filter(|request| request.contains("authorization:")).count();
        assert!((1..=2).contains(&shown), "{shown}");
        running.stop();
    }
}

#[test]
fn a_poll_that_fails_is_a_stream_that_is_down_and_comes_back() {
    let failing = Arc::new(Mutex::new("200 OK"));
    let now = Arc::clone(&failing);
    let (url, _) = kept(move |_, _| {
        let status = *now.lock().unwrap();
        let body = if status == "200 OK" { jpeg(3) } else { Vec::new() };
        (format!("{status}\r\nContent-Type: image/jpeg\r\n"), body)
    });
    // It is asked again until there was no picture for so long.
    let limits = Limits { stall: Duration::from_secs(2), ..Limits::default() };
    let running = Running::with(settings(Location::Http(url.into())), Options { limits, ..every(100) });
    for status in ["503 Service Unavailable", "204 No Content", "500 Oops"] {
        running.wait_frames(running.frames().len() + 3);
        *failing.lock().unwrap() = status;
        let error = running.wait_down();
        assert!(error.contains(&status[..3]) || error.contains("empty"), "{error}");
        *failing.lock().unwrap() = "200 OK";
    }
    running.wait_frames(running.frames().len() + 3);
}

#[test]
fn a_bad_answer_now_and_then_is_a_sample_missed_and_no_end_of_the_stream() {
    let gone = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&gone);
    let (url, _) = kept(move |_, n| match n % 6 {
        _ if now.load(Ordering::Relaxed) => ("404 Not Found\r\n".to_owned(), Vec::new()),
        // Not the first ones, by which it is found out what is there.
        3 if n > 6 => ("503 Service Unavailable\r\n".to_owned(), Vec::new()),
        4 if n > 6 => ("200 OK\r\nContent-Type: image/jpeg\r\n".to_owned(), b"half a pict".to_vec()),
        _ => ("200 OK\r\nContent-Type: image/jpeg\r\n".to_owned(), jpeg(n as u8)),
    });
    // Its limit of twenty seconds without a picture is never reached.
    let running = Running::with(settings(Location::Http(url.into())), every(100));
    running.wait_frames(20);
    assert_eq!((running.report().state, running.report().reconnects), (StreamState::Up, 0));
    // Asking again does not help: that is told at once.
    gone.store(true, Ordering::Relaxed);
    let error = running.wait_down();
    assert!(error.contains("nothing is there"), "{error}");
}

/// As large as cameras send them: it comes in many pieces.
#[test]
fn a_large_picture_is_polled_as_a_small_one_is_and_is_whole() {
    let picture = image::RgbImage::from_fn(800, 600, |x, y| {
        // Noise does not compress; the lower half is bright.
        let noise = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)).wrapping_mul(2_246_822_519) >> 26;
        image::Rgb([if y < 300 { 20 } else { 180 } + noise as u8; 3])
    });
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(&picture).unwrap();
    assert!(bytes.len() > 100_000, "{}", bytes.len());
    let (url, _) = kept(move |_, _| ("200 OK\r\nContent-Type: image/jpeg\r\n".to_owned(), bytes.clone()));
    let running = Running::with(settings(Location::Http(url.into())), every(200));
    let frames = running.wait_frames(5);
    assert!(frames.iter().all(|frame| frame.size == (800, 600) && frame.quarters[3] > 150.0), "{frames:?}");
    assert!(running.report().polled && running.report().state == StreamState::Up);
}

#[test]
fn a_gif_is_a_still_picture_like_others() {
    let picture = image::RgbImage::from_fn(160, 120, |x, y| image::Rgb([x as u8, y as u8, 90]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Gif).unwrap();
    let bytes = bytes.into_inner();
    let (url, _) = kept(move |_, _| ("200 OK\r\nContent-Type: image/gif\r\n".to_owned(), bytes.clone()));
    let frames = Running::with(settings(Location::Http(url.into())), every(200)).wait_frames(4);
    assert!(frames.iter().all(|frame| frame.size == (160, 120)));
}

#[test]
fn a_picture_that_grows_beyond_the_limit_is_not_decoded() {
    let large = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let now = Arc::clone(&large);
    let (url, _) = kept(move |_, _| {
        let body = if now.load(Ordering::Relaxed) {
            let picture = image::RgbImage::from_pixel(400, 300, image::Rgb([9; 3]));
            let mut bytes = Vec::new();
            image::codecs::jpeg::JpegEncoder::new(&mut bytes).encode_image(&picture).unwrap();
            bytes
        } else {
            jpeg(3)
        };
        ("200 OK\r\nContent-Type: image/jpeg\r\n".to_owned(), body)
    });
    let settings = SourceSettings { max_pixels: Some(1 << 16), ..settings(Location::Http(url.into())) };
    let running = Running::with(settings, every(100));
    running.wait_frames(3);
    large.store(true, Ordering::Relaxed);
    let error = running.wait_down();
    assert!(error.contains("too large") && error.contains("sampling.max_pixels"), "{error}");
}

#[test]
fn check_tells_that_still_pictures_are_polled() {
    let server = Server::start(|_, stream| respond(stream, "200 OK", "Content-Type: image/jpeg\r\n", &jpeg(5)));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vtagd.yaml");
    let streams =
        format!("streams:\n  - {{ id: door, url: \"{}\", sampling: {{ interval: 2s }} }}\n", server.url("/x.jpg"));
    std::fs::write(&file, format!("model: {{ path: none }}\n{streams}")).unwrap();
    let mut command = vtagd(folder.path());
    command.env("VTAGD__API__LISTEN", "127.0.0.1:0").args(["check", "--probe", "-c"]).arg(&file);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("still pictures, polled every 2 s"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_proxy_for_the_web_is_used_for_the_web_alone_and_not_where_it_is_excepted() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = Server::start(move |_, stream| {
        count.fetch_add(1, Ordering::Relaxed);
        respond(stream, "200 OK", "Content-Type: image/jpeg\r\n", &jpeg(5))
    });
    let camera = crate::common::camera::Camera::start(
        crate::common::camera::Content::pattern(160, 120),
        crate::common::camera::Codec::H264,
        None,
    );
    let config = format!(
        "model: {{ path: none }}\napi: {{ listen: 127.0.0.1:0 }}\noutbox: {{ path: \":memory:\" }}\nsinks: [{{ type: jsonl, path: \"-\" }}]\n\
         sampling: {{ interval: 300ms }}\nstreams:\n  - {{ id: web, url: \"{}\" }}\n  - {{ id: rtsp, url: \"{}\" }}\n",
        server.url("/x.jpg"),
        camera.url()
    );
    let nobody = format!("http://user:hunter2@127.0.0.1:{}", crate::common::camera::free_port());
    let nobody = nobody.as_str();
    for (env, wanted) in [
        ([("http_proxy", nobody), ("no_proxy", "127.0.0.1")].as_slice(), "up"),
        (&[("http_proxy", nobody), ("no_proxy", "example.org, 127.0.0.1")], "up"),
        (&[("http_proxy", nobody), ("no_proxy", ""), ("NO_PROXY", "127.0.0.0/8")], "up"),
        // Meant for others.
        (&[("HTTPS_PROXY", nobody), ("HTTP_PROXY", nobody), ("ALL_PROXY", nobody)], "up"),
        (&[("http_proxy", nobody), ("no_proxy", "example.org")], "down"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut daemon = Daemon::start_with_env(folder.path(), &config, env);
        let state = |daemon: &mut Daemon, id: &str| {
            let streams: serde_json::Value = serde_json::from_str(&daemon.get("/api/v1/streams").1).ok()?;
            let list = streams.as_array().or_else(|| streams["streams"].as_array())?;
            list.iter().find(|stream| stream["id"] == id).cloned()
        };
        eventually("the RTSP camera is up", || state(&mut daemon, "rtsp").filter(|stream| stream["state"] == "up"));
        let web = eventually("the other is as it should be", || {
            state(&mut daemon, "web").filter(|stream| stream["state"] == wanted)
        });
        if wanted == "up" {
            let before = asked.load(Ordering::Relaxed);
            eventually("it is polled", || (asked.load(Ordering::Relaxed) >= before + 3).then_some(()));
            assert_eq!(state(&mut daemon, "web").unwrap()["state"], "up", "{env:?}");
        } else {
            let error = web["error"].as_str().unwrap();
            assert!(error.contains("through the proxy 127.0.0.1:") && !error.contains("hunter2"), "{error}");
        }
        assert!(!daemon.log().contains("hunter2"));
    }
}
