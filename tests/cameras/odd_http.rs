//! Cameras on the web that keep to the letter of nothing, and that browsers show all the same.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::recorder::{Options, Running, settings};
use crate::common::web::{Request, Server, respond};
use vtagd::frame::Range;
use vtagd::platform::backoff::Ladder;
use vtagd::source::Location;
use vtagd::stream::status::StreamState;

fn jpeg(brightness: u8) -> Vec<u8> {
    let picture = image::RgbImage::from_fn(160, 120, |x, _| image::Rgb([brightness.wrapping_add(x as u8); 3]));
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new(&mut bytes).encode_image(&picture).unwrap();
    bytes
}

/// How a camera sends its pictures: what it calls all of them, what stands before a picture and what behind it.
struct Manner {
    kind: &'static str,
    before: fn(usize, usize) -> String,
    behind: &'static str,
}

const MIXED: &str = "multipart/x-mixed-replace;boundary=frame";

/// As the issue of each was told; in the first ones nothing is amiss.
const MANNERS: [(&str, Manner); 15] = [
    (
        "as it should be",
        Manner {
            kind: MIXED,
            before: |_, size| format!("--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {size}\r\n\r\n"),
            behind: "\r\n",
        },
    ),
    (
        "lower case",
        Manner {
            kind: MIXED,
            before: |_, size| format!("--frame\ncontent-type:image/jpeg\ncontent-length:{size}\n\n"),
            behind: "\n",
        },
    ),
    (
        "no first boundary",
        Manner {
            kind: MIXED,
            before: |_, size| format!("Content-Type: image/jpeg\r\nContent-Length: {size}\r\n\r\n"),
            behind: "\r\n--frame\r\n",
        },
    ),
    (
        "no first boundary and no length",
        Manner { kind: MIXED, before: |_, _| "Content-Type: image/jpeg\r\n\r\n".to_owned(), behind: "\r\n--frame\r\n" },
    ),
    (
        "image/jpg",
        Manner {
            kind: MIXED,
            before: |_, size| format!("--frame\r\nContent-Type: image/jpg\r\nContent-Length: {size}\r\n\r\n"),
            behind: "\r\n",
        },
    ),
    (
        "octets",
        Manner {
            kind: MIXED,
            before: |_, size| {
                format!("--frame\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n")
            },
            behind: "\r\n",
        },
    ),
    (
        "no type",
        Manner { kind: MIXED, before: |_, size| format!("--frame\r\nContent-Length: {size}\r\n\r\n"), behind: "\r\n" },
    ),
    ("no headers", Manner { kind: MIXED, before: |_, _| "--frame\r\n\r\n".to_owned(), behind: "\r\n" }),
    (
        "no dashes",
        Manner {
            kind: MIXED,
            before: |_, size| format!("frame\r\nContent-Type: image/jpeg\r\nContent-Length: {size}\r\n\r\n"),
            behind: "\r\n",
        },
    ),
    ("one after another", Manner { kind: MIXED, before: |_, _| String::new(), behind: "" }),
    (
        "no boundary in the header",
        Manner {
            kind: "multipart/x-mixed-replace",
            before: |_, _| "Content-Type: image/jpeg\r\n\r\n".to_owned(),
            behind: "\r\n--x\r\n",
        },
    ),
    (
        "said to be shorter",
        Manner {
            kind: MIXED,
            before: |_, size| format!("--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", size - 7),
            behind: "\r\n",
        },
    ),
    (
        "said to be longer",
        Manner {
            kind: MIXED,
            before: |_, size| format!("--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", size + 100),
            behind: "\r\n",
        },
    ),
    (
        "the same length every time",
        Manner {
            kind: MIXED,
            before: |_, _| "--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 2000\r\n\r\n".to_owned(),
            behind: "\r\n",
        },
    ),
    (
        "a part that never was",
        Manner {
            kind: MIXED,
            before: |n, size| {
                let first = if n == 0 { "--frame\r\n" } else { "" };
                format!("{first}--frame\r\nContent-Length: {size}\r\n\r\n")
            },
            behind: "\r\n",
        },
    ),
];

fn send(manner: &Manner, stream: &mut TcpStream) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nConnection: close\r\n\r\n", manner.kind)?;
    for n in 0_usize.. {
        let body = jpeg(n as u8);
        let part = [(manner.before)(n, body.len()).as_bytes(), &body, manner.behind.as_bytes()].concat();
        stream.write_all(&part)?;
        std::thread::sleep(Duration::from_millis(40));
    }
    Ok(())
}

#[test]
fn multipart_pictures_are_found_whatever_stands_between_them() {
    let server = Server::start(|request: &Request, stream| {
        let number: usize = request.path.trim_start_matches('/').parse().unwrap();
        send(&MANNERS[number].1, stream)
    });
    for (number, (name, _)) in MANNERS.iter().enumerate() {
        let settings = settings(Location::Http(server.url(&format!("/{number}")).into()));
        let interval = Duration::from_millis(200);
        let running = Running::with(settings, Options { interval, ..Options::default() });
        running.wait_state(|state| {
            assert!(!matches!(state, StreamState::Down { .. }), "{name}: {state:?}");
            *state == StreamState::Up
        });
        let frames = running.wait_frames(12);
        assert!(frames.iter().all(|f| f.size == (160, 120) && f.colours.1 == Range::Full), "{name}");
        let (media, real) = (frames[11].media - frames[0].media, frames[11].captured - frames[0].captured);
        assert!(media.abs_diff(real) < Duration::from_secs(1), "{name}: {media:?} of media time in {real:?}");
        assert_eq!(running.report().reconnects, 0, "{name}");
    }
}

/// Its pictures are not wanted for a while after it came back, and the pipeline that waits for the first one to show goes on all the same.
#[test]
fn a_camera_that_is_back_before_its_next_sample_is_due_is_up_at_once() {
    let asked = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&asked);
    let server = Server::start(move |_, stream| {
        if counted.fetch_add(1, Ordering::Relaxed) > 0 {
            return send(&MANNERS[0].1, stream);
        }
        let body = jpeg(0);
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: {MIXED}\r\nConnection: close\r\n\r\n")?;
        for _ in 0..20 {
            stream.write_all((MANNERS[0].1.before)(0, body.len()).as_bytes())?;
            stream.write_all(&[&body[..], b"\r\n"].concat())?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    });
    let options = Options { interval: Duration::from_secs(20), ..Options::default() };
    let running = Running::with(settings(Location::Http(server.url("/x").into())), options);
    running.wait_state(|state| *state == StreamState::Up);
    let frames = running.wait_frames(2);
    let apart = frames[1].captured - frames[0].captured;
    assert!(apart < Duration::from_secs(22), "{apart:?} from one sample to the next");
    assert_eq!((asked.load(Ordering::Relaxed), running.report().reconnects), (2, 1));
}

/// A camera that starts shows a page first.
#[test]
fn a_page_instead_of_pictures_is_no_reason_to_wait_for_long() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |_, stream| match asked.fetch_add(1, Ordering::Relaxed) {
        0..2 => {
            let page = "<!DOCTYPE html><html><body>starting</body></html>".repeat(40);
            respond(stream, "200 OK", "Content-Type: text/html\r\n", page.as_bytes())
        }
        _ => send(&MANNERS[0].1, stream),
    });
    // The longest wait, twice, is longer than a test waits for anything.
    let ladder = Ladder::doubling(Duration::from_millis(50), Duration::from_secs(60), Duration::from_secs(60));
    let interval = Duration::from_millis(200);
    let options = Options { interval, ladder, ..Options::default() };
    Running::with(settings(Location::Http(server.url("/x").into())), options).wait_frames(3);
}
