//! Video over HTTP: progressive files that end, multipart MJPEG that must not, refusals, pages that are no video.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::recorder::{Running, make_mp4, settings};
use crate::common::web::{Server, respond};
use url::Url;
use vtagd::frame::Range;
use vtagd::platform::secret::Secret;
use vtagd::source::{Ended, Location, Pace, SourceSettings};
use vtagd::stream::status::StreamState;

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
    settings(Location::Http(url.into()))
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
fn a_user_without_a_password_is_logged_in_with_an_empty_one() {
    let server = Server::start(|request, stream| match request.authorization() {
        Some("Basic YWRtaW46") => multipart(stream, 1000), // admin:
        _ => respond(stream, "401 Unauthorized", "WWW-Authenticate: Basic realm=\"camera\"\r\n", b""),
    });
    let settings = SourceSettings { username: Some("admin".into()), ..http(server.url("/mjpeg")) };
    Running::start(settings).wait_frames(3);
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

/// A picture as a camera's address for snapshots gives it, in each format: its media type, and its bytes.
fn pictures() -> [(&'static str, Vec<u8>); 4] {
    let picture = image::RgbImage::from_fn(160, 120, |x, y| image::Rgb([x as u8, y as u8, 90]));
    let coded = |format| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    [
        ("image/jpeg", coded(image::ImageFormat::Jpeg)),
        ("image/png", coded(image::ImageFormat::Png)),
        ("image/webp", coded(image::ImageFormat::WebP)),
        ("image/gif", coded(image::ImageFormat::Gif)),
    ]
}

/// A server that gives `body` again and again, and how often it was asked.
fn serving(kind: &str, body: Vec<u8>) -> (Server, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let (counter, kind) = (Arc::clone(&asked), format!("Content-Type: {kind}\r\n"));
    let server = Server::start(move |_, stream| {
        counter.fetch_add(1, Ordering::Relaxed);
        respond(stream, "200 OK", &kind, &body)
    });
    (server, asked)
}

/// The error of a stream that goes down and is tried again; it may not end, neither well nor for good.
fn retried(settings: SourceSettings, asked: &AtomicUsize) -> String {
    let running = Running::start(settings);
    let before = asked.load(Ordering::Relaxed);
    let report = running.wait_state(|state| {
        assert!(!matches!(state, StreamState::Ended | StreamState::Failed { .. }), "{state:?}");
        matches!(state, StreamState::Down { .. })
    });
    let again = std::time::Instant::now() + crate::common::recorder::DEADLINE;
    while asked.load(Ordering::Relaxed) < before + 2 {
        assert!(std::time::Instant::now() < again, "it is not tried again: {:?}", running.report());
        std::thread::sleep(Duration::from_millis(20));
    }
    let StreamState::Down { error } = report.state else { unreachable!() };
    error
}

#[test]
fn a_single_picture_in_a_pipeline_of_ones_own_is_no_video_that_has_ended_but_a_fault_that_is_named_and_retried() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, body) in pictures() {
        let (server, asked) = serving(kind, body);
        let url = server.url("/snapshot");
        let path = folder.path().join("own.gst");
        let own = format!("souphttpsrc location={url} ! decodebin ! videoconvert ! appsink name=sink");
        std::fs::write(&path, own).unwrap();
        let error = retried(settings(Location::Template(path)), &asked);
        assert!(error.contains("a single picture, not a video"), "{kind}: {error}");
        assert!(error.contains("use the camera's MJPEG or RTSP address"), "{kind}: {error}");
    }
}

#[test]
fn the_shortest_of_videos_still_end_as_files_do() {
    let folder = tempfile::tempdir().unwrap();
    let clip = |name: &str, count: u32, coder: &str| {
        let path = folder.path().join(name);
        crate::common::recorder::make(&format!(
            "videotestsrc num-buffers={count} ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 ! {coder} ! \
             filesink location=\"{}\"",
            path.display()
        ));
        std::fs::read(path).unwrap()
    };
    for (kind, frames, body) in [
        ("video/mp4", 1, clip("one.mp4", 1, "x264enc ! h264parse ! mp4mux")),
        ("video/mp4", 3, clip("three.mp4", 3, "x264enc ! h264parse ! mp4mux")),
        ("video/x-matroska", 1, clip("one.mkv", 1, "jpegenc ! matroskamux")),
    ] {
        let (server, _) = serving(kind, body);
        let settings = SourceSettings { pace: Pace::Fast, ..http(server.url("/clip")) };
        let (ended, seen, _) = Running::start(settings).wait_end();
        assert_eq!((ended, seen.len()), (Ended::EndOfFile, frames), "{kind}");
    }
}

#[test]
fn a_live_stream_in_pieces_of_mp4_does_not_end_as_a_recording_does() {
    let folder = tempfile::tempdir().unwrap();
    let clip = |name: &str, muxer: &str| {
        let path = folder.path().join(name);
        crate::common::recorder::make(&format!(
            "videotestsrc num-buffers=50 ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 ! \
             x264enc key-int-max=10 bframes=0 ! h264parse ! {muxer} ! filesink location=\"{}\"",
            path.display()
        ));
        std::fs::read(path).unwrap()
    };
    let (pieces, recording) = (clip("pieces.mp4", "mp4mux fragment-duration=400"), clip("a.ts", "mpegtsmux"));
    let server = Server::start(move |request, stream| match request.path.as_str() {
        "/live" | "/segment.ts" => {
            let (kind, body) =
                if request.path == "/live" { ("video/mp4", &pieces) } else { ("video/mp2t", &recording) };
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for piece in body.chunks(4000) {
                write!(stream, "{:x}\r\n", piece.len())?;
                stream.write_all(&[piece, b"\r\n"].concat())?;
            }
            stream.write_all(b"0\r\n\r\n")
        }
        _ => {
            let list = b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nsegment.ts\n#EXT-X-ENDLIST\n";
            respond(stream, "200 OK", "Content-Type: application/vnd.apple.mpegurl\r\n", list)
        }
    });
    let running = Running::start(http(server.url("/live")));
    let error = running.wait_down();
    assert!(error.contains("the live stream ended"), "{error}");
    running.wait_frames(60);
    running.stop();
    // What is complete by its playlist ends, whatever its segments are sent in.
    let (ended, seen, _) = Running::start(http(server.url("/list.m3u8"))).wait_end();
    assert_eq!(ended, Ended::EndOfFile);
    assert!(seen.len() > 20, "{}", seen.len());
}

/// Whoever may add a stream may not look at this machine's files by it.
#[test]
fn a_playlist_on_the_web_that_names_a_file_of_this_machine_shows_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.ts");
    crate::common::recorder::make(&format!(
        "videotestsrc num-buffers=50 ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 ! \
         x264enc key-int-max=10 bframes=0 ! h264parse ! mpegtsmux ! filesink location=\"{}\"",
        path.display()
    ));
    let list = format!(
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n",
        Url::from_file_path(path).unwrap()
    );
    let (server, asked) = serving("application/vnd.apple.mpegurl", list.into_bytes());
    let running = Running::start(http(server.url("/list.m3u8")));
    let error = running.wait_down();
    assert!(error.contains("a file or device of this machine"), "{error}");
    assert!(running.frames().is_empty() && asked.load(Ordering::Relaxed) > 0);
}

#[test]
fn an_answer_without_a_video_in_it_is_never_the_end_of_a_stream() {
    let part = |count: usize| {
        let body = jpeg(90);
        let headers = format!("--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", body.len());
        [headers.as_bytes(), &body, b"\r\n"].concat().repeat(count)
    };
    let multipart = "multipart/x-mixed-replace; boundary=frame";
    // A stream whose length is told is no recording either.
    for (kind, body) in
        [(multipart, part(1)), (multipart, part(25)), ("image/jpeg", Vec::new()), (multipart, Vec::new())]
    {
        let (server, asked) = serving(kind, body);
        retried(http(server.url("/x")), &asked);
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let server = Server::start(move |_, stream| {
        counter.fetch_add(1, Ordering::Relaxed);
        write!(stream, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    });
    retried(http(server.url("/x")), &asked);
}

#[test]
fn a_large_video_is_played_at_its_own_pace_through_the_little_that_may_be_held() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.mov");
    // Noise does not compress: more than a megabyte a frame.
    crate::common::recorder::make(&format!(
        "videotestsrc num-buffers=120 pattern=snow ! video/x-raw,format=I420,width=1280,height=720,framerate=50/1 ! \
         jpegenc quality=95 ! qtmux faststart=true ! filesink location=\"{}\"",
        path.display()
    ));
    let body = std::fs::read(path).unwrap();
    assert!(body.len() > 96 << 20, "{} bytes are no more than may be held", body.len());
    let (server, _) = serving("video/quicktime", body);
    let (ended, seen, report) = Running::start(http(server.url("/large.mov"))).wait_end();
    assert_eq!((ended, report.reconnects), (Ended::EndOfFile, 0));
    assert!(!seen.is_empty());
}
