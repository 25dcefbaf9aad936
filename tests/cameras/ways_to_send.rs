//! Cameras that send by other ways than RTSP over TCP and plain HTTP, each with a real sender.

use std::io::Write;
use std::net::UdpSocket;
use std::sync::Mutex;
use std::time::Duration;

use crate::common::camera::{Camera, Codec, Content};
use crate::common::raw_rtsp::{self, Behaviour, Odd};
use crate::common::recorder::{Options, Running, make, settings};
use crate::common::rtmp_server;
use crate::common::web::{Server, respond};
use gstreamer as gst;
use gstreamer::prelude::*;
use url::Url;
use vtagd::platform::secret::Secret;
use vtagd::source::{Location, SourceSettings, Transport};
use vtagd::stream::status::StreamState;

/// A picture as cameras send it: a keyframe each second.
const VIDEO: &str = "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 ! \
                     x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! h264parse";

/// Somebody who sends, until dropped.
struct Sender(gst::Element);

impl Sender {
    /// `None` where the machine has not all that it takes, which is said.
    fn start(description: &str) -> Option<Self> {
        gst::init().unwrap();
        let pipeline = match gst::parse::launch(description) {
            Ok(pipeline) => pipeline,
            Err(error) => {
                eprintln!("skipped: {error}");
                return None;
            }
        };
        pipeline.set_state(gst::State::Playing).unwrap();
        Some(Self(pipeline))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

fn free_udp_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn url(text: &str) -> vtagd::platform::zoned_url::ZonedUrl {
    text.parse().unwrap()
}

/// Its pictures are sampled, and it stays up meanwhile.
fn is_watched(settings: SourceSettings) -> Running {
    let running = Running::with(settings, Options { interval: Duration::from_millis(400), ..Options::default() });
    let frames = running.wait_frames(6);
    assert!(frames.iter().all(|frame| frame.size == (160, 120)), "{frames:?}");
    assert!(frames.windows(2).all(|pair| pair[0].media < pair[1].media), "{frames:?}");
    running
}

#[test]
fn a_camera_that_refuses_tcp_is_taken_over_udp() {
    let camera = Camera::start_udp(Content::pattern(160, 120), Codec::H264);
    let rtsp = || settings(Location::Rtsp(camera.url().into()));
    is_watched(rtsp());
    is_watched(SourceSettings { transport: Transport::Udp, ..rtsp() });
    // Who wants nothing else is told.
    let error = Running::start(SourceSettings { transport: Transport::Tcp, ..rtsp() }).wait_down();
    assert!(error.contains("rtsp://127.0.0.1"), "{error}");
}

#[test]
fn a_camera_that_sends_over_tcp_is_never_asked_for_anything_else() {
    let camera = Camera::start(Content::pattern(160, 120), Codec::H264, None);
    let rtsp = || settings(Location::Rtsp(camera.url().into()));
    is_watched(SourceSettings { transport: Transport::Tcp, ..rtsp() });
    let error = Running::start(SourceSettings { transport: Transport::Udp, ..rtsp() }).wait_down();
    assert!(error.contains("rtsp://127.0.0.1"), "{error}");
}

#[test]
fn multicast_is_what_the_camera_is_asked_for() {
    static ASKED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let odd = Odd {
        transport: |asked| {
            // Other requests say nothing of it.
            ASKED.lock().unwrap().extend((!asked.is_empty()).then(|| asked.to_owned()));
            String::new()
        },
        ..Odd::camera()
    };
    let rtsp = settings(Location::Rtsp(raw_rtsp::start(Behaviour::Odd(odd)).into()));
    let running = Running::start(SourceSettings { transport: Transport::Multicast, ..rtsp });
    running.wait_down();
    let asked = ASKED.lock().unwrap().clone();
    assert!(!asked.is_empty() && asked.iter().all(|asked| asked.contains("multicast")), "{asked:?}");
}

#[test]
fn a_transport_stream_over_udp_is_watched() {
    let port = free_udp_port();
    let Some(sender) = Sender::start(&format!("{VIDEO} ! mpegtsmux alignment=7 ! udpsink host=127.0.0.1 port={port}"))
    else {
        return;
    };
    let running = is_watched(settings(Location::Udp(url(&format!("udp://127.0.0.1:{port}")))));
    assert_eq!(running.report().reconnects, 0);
    drop((running, sender));
}

#[test]
fn srt_is_called_with_a_password_and_answered_where_others_call() {
    for (mode, own) in [("listener", ""), ("caller", "?mode=listener")] {
        let port = free_udp_port();
        let sender = format!(
            "{VIDEO} config-interval=-1 ! mpegtsmux alignment=7 ! \
             srtsink uri=srt://127.0.0.1:{port}?mode={mode} passphrase=a-long-password wait-for-connection=false"
        );
        let Some(sender) = Sender::start(&sender) else { return };
        let location = Location::Srt(url(&format!("srt://127.0.0.1:{port}{own}")));
        let password = Some(Secret::new("a-long-password"));
        let running = is_watched(SourceSettings { password, ..settings(location) });
        drop((sender, running));
    }
}

#[test]
fn what_an_rtmp_server_plays_is_watched_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let flv = folder.path().join("a.flv");
    make(&format!(
        "videotestsrc num-buffers=100 pattern=ball ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 ! x264enc key-int-max=25 \
         bframes=0 ! h264parse ! flvmux streamable=true ! filesink location=\"{}\"",
        flv.display()
    ));
    let address = rtmp_server::start(&flv);
    if gst::ElementFactory::find("rtmp2src").is_none() {
        eprintln!("skipped: no rtmp2src here");
        return;
    }
    let running = is_watched(settings(Location::Rtmp(address.into())));
    // Four seconds are all that it has, and then it hangs up.
    running.wait_frames(20);
    assert!(running.report().reconnects > 0);
}

#[test]
fn a_playlist_with_a_live_window_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display();
    let description = format!(
        "{VIDEO} ! hlssink2 target-duration=1 playlist-length=4 max-files=8 location={place}/segment%05d.ts playlist-location={place}/live.m3u8"
    );
    let Some(_sender) = Sender::start(&description) else { return };
    let root = folder.path().to_owned();
    let server = Server::start(move |request, stream| {
        let file = root.join(request.path.trim_start_matches('/'));
        match std::fs::read(&file) {
            Ok(bytes) => {
                let list = file.extension().is_some_and(|extension| extension == "m3u8");
                let kind = if list { "application/vnd.apple.mpegurl" } else { "video/mp2t" };
                respond(stream, "200 OK", &format!("Content-Type: {kind}\r\n"), &bytes)
            }
            Err(_) => write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        }
    });
    let options = Options { interval: Duration::from_millis(400), ..Options::default() };
    let address: Url = server.url("/live.m3u8");
    let running = Running::with(settings(Location::Http(address.into())), options);
    // More than the window has: it moves on, and is moved on with.
    running.wait_frames(25);
    running.wait_state(|state| *state == StreamState::Up);
}
