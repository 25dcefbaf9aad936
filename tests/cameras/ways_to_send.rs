//! Cameras that send by other ways than RTSP over TCP and plain HTTP, each with a real sender.

use std::io::Write;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::common::authority::Authority;
use crate::common::camera::{Camera, Codec, Content};
use crate::common::raw_rtsp::{self, Behaviour, Odd};
use crate::common::recorder::{DEADLINE, Options, Running, make, settings};
use crate::common::rtmp_server;
use crate::common::tls_front;
use crate::common::web::{Server, respond};
use gstreamer as gst;
use gstreamer::prelude::*;
use url::Url;
use vtagd::platform::backoff::Ladder;
use vtagd::platform::secret::Secret;
use vtagd::source::{CameraTls, Limits, Location, SourceSettings, Transport};
use vtagd::stream::status::StreamState;

/// A picture as cameras send it: a keyframe each second.
const VIDEO: &str = "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 ! \
                     x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! h264parse";

/// Somebody who sends, until dropped.
struct Sender(gst::Element);

impl Sender {
    /// All that it takes is in the packages that set-up asks for.
    fn start(description: &str) -> Self {
        gst::init().unwrap();
        let pipeline = gst::parse::launch(description).unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        Self(pipeline)
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

/// Set in a process that has a network of its own.
const ALONE: &str = "VTAGD_TEST_NETWORK";

/// Whether this process has a network of its own, where nobody else is and loopback carries multicast. If not, the test called `name` is run in one, if this machine
/// allows that: `false`.
fn has_own_network(name: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let own = "ip link set lo up && ip link set lo multicast on && ip route add 224.0.0.0/4 dev lo && exec \"$@\"";
    let unshared = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "sh", "-c", own, "sh"]);
        command
    };
    if !unshared().arg("true").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: no network namespace here");
        return false;
    }
    let mut test = unshared();
    test.arg(std::env::current_exe().unwrap()).args(["--exact", "--nocapture", name]).env(ALONE, "1");
    let output = test.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    false
}

#[test]
fn what_cameras_send_to_a_group_is_watched() {
    if !has_own_network("ways_to_send::what_cameras_send_to_a_group_is_watched") {
        return;
    }
    // Not GStreamer's server: it would have the group's port for itself on this machine.
    let transport = |_: &str| "RTP/AVP;multicast;destination=239.1.2.4;port=5002-5003;ttl=1".to_owned();
    let camera = raw_rtsp::start(Behaviour::Odd(Odd { transport, ..Odd::camera() }));
    // Of another size than what the server describes, and sends over its connection all the same.
    let large = VIDEO.replace("width=160,height=120", "width=320,height=240");
    let packets = "rtph264pay pt=96 config-interval=-1 ! udpsink host=239.1.2.4 port=5002";
    let sender = Sender::start(&format!("{large} ! {packets}"));
    let rtsp = settings(Location::Rtsp(camera.into()));
    let running = Running::start(SourceSettings { transport: Transport::Multicast, ..rtsp });
    // GStreamer reads what comes over the connection for as long as it waits for an answer there: some pictures of that may come first.
    let mut frames = running.wait_frames(6);
    while !frames[frames.len() - 6..].iter().all(|frame| frame.size == (320, 240)) {
        frames = running.wait_frames(frames.len() + 1);
    }
    drop((running, sender));
    let sender = Sender::start(&format!("{VIDEO} ! mpegtsmux alignment=7 ! udpsink host=239.1.2.3 port=5000"));
    is_watched(settings(Location::Udp(url("udp://239.1.2.3:5000"))));
    drop(sender);
}

#[test]
fn a_transport_stream_over_udp_is_watched() {
    let port = free_udp_port();
    let sender = Sender::start(&format!("{VIDEO} ! mpegtsmux alignment=7 ! udpsink host=127.0.0.1 port={port}"));
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
        let sender = Sender::start(&sender);
        let location = Location::Srt(url(&format!("srt://127.0.0.1:{port}{own}")));
        let password = Some(Secret::new("a-long-password"));
        let running = is_watched(SourceSettings { password, ..settings(location) });
        drop((sender, running));
    }
}

/// However often nobody has sent, the next who does is heard.
#[test]
fn whoever_sends_late_is_listened_to_all_the_same() {
    let (udp, srt) = (free_udp_port(), free_udp_port());
    let to_udp = format!("udpsink host=127.0.0.1 port={udp}");
    let to_srt = format!("srtsink uri=srt://127.0.0.1:{srt}?mode=caller wait-for-connection=false");
    let streams = [
        (Location::Udp(url(&format!("udp://127.0.0.1:{udp}"))), to_udp),
        (Location::Srt(url(&format!("srt://127.0.0.1:{srt}?mode=listener"))), to_srt),
    ];
    let waiting = streams.map(|(location, sender)| {
        // After two waits the next would be longer than a test waits for anything.
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(600));
        let ladder = Ladder { steps: vec![short, short, long], stable: long };
        let limits = Limits { first_frame: Duration::from_secs(8), ..Limits::default() };
        let options = Options { interval: Duration::from_millis(400), limits, ladder, ..Options::default() };
        (Running::with(settings(location), options), sender)
    });
    for (running, _) in &waiting {
        let deadline = Instant::now() + DEADLINE;
        while running.report().reconnects < 3 {
            assert!(Instant::now() < deadline, "it does not listen again: {:?}", running.report());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    for (running, sender) in waiting {
        let sender = Sender::start(&format!("{VIDEO} config-interval=-1 ! mpegtsmux alignment=7 ! {sender}"));
        running.wait_frames(4);
        drop((running, sender));
    }
}

/// Four seconds, which a server plays to whoever asks.
fn rtmp_server(folder: &Path) -> Url {
    let flv = folder.join("a.flv");
    make(&format!(
        "videotestsrc num-buffers=100 pattern=ball ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 ! x264enc key-int-max=25 \
         bframes=0 ! h264parse ! flvmux streamable=true ! filesink location=\"{}\"",
        flv.display()
    ));
    rtmp_server::start(&flv)
}

#[test]
fn what_an_rtmp_server_plays_is_watched_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let running = is_watched(settings(Location::Rtmp(rtmp_server(folder.path()).into())));
    // Four seconds are all that it has, and then it hangs up.
    running.wait_frames(20);
    assert!(running.report().reconnects > 0);
}

#[test]
fn an_encrypted_rtmp_server_is_believed_if_this_machine_knows_its_authority_or_nobody_looks() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    authority.issue("server");
    let behind = rtmp_server(folder.path()).socket_addrs(|| None).unwrap()[0];
    let port = tls_front::start(authority.server("server", false), behind);
    let rtmps =
        |tls| SourceSettings { tls, ..settings(Location::Rtmp(url(&format!("rtmps://localhost:{port}/live/door")))) };
    let error = Running::start(rtmps(CameraTls::System)).wait_down();
    assert!(error.contains("certificate cannot be trusted") && !error.contains("pinned"), "{error}");
    is_watched(rtmps(CameraTls::Off));
}

#[test]
fn a_playlist_with_a_live_window_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display();
    let description = format!(
        "{VIDEO} ! hlssink2 target-duration=1 playlist-length=4 max-files=8 location={place}/segment%05d.ts playlist-location={place}/live.m3u8"
    );
    let _sender = Sender::start(&description);
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
