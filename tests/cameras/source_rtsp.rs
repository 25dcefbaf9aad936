//! RTSP cameras: three codecs, refused passwords, cameras that are off, die and come back, and shutdown at any moment.

use std::net::TcpListener;
use std::time::Duration;

use crate::common::camera::{Auth, Camera, Codec, Content, Mount, free_port};
use crate::common::raw_rtsp::{self, Behaviour, Noise};
use crate::common::recorder::{DEADLINE, Options, Running, quick_ladder, settings};
use url::Url;
use vtagd::frame::{PixelFormat, Range};
use vtagd::platform::secret::Secret;
use vtagd::source::{Decode, Ended, Limits, Location, SourceSettings};
use vtagd::stream::status::StreamState;

fn rtsp(url: Url) -> SourceSettings {
    settings(Location::Rtsp(url.into()))
}

fn rising(frames: &[crate::common::recorder::Seen]) -> bool {
    frames[0].media == Duration::ZERO && frames.windows(2).all(|w| w[1].media >= w[0].media)
}

#[test]
fn h264_h265_and_mjpeg_cameras_give_frames_of_the_right_size_in_rising_time() {
    let mount = |path: &str, codec| Mount { path: path.into(), content: Content::pattern(320, 240), codec };
    let mounts = vec![mount("/h264", Codec::H264), mount("/h265", Codec::H265), mount("/mjpeg", Codec::Mjpeg)];
    let camera = Camera::with_mounts(mounts, None);
    for path in ["/h264", "/h265", "/mjpeg"] {
        let running = Running::start(rtsp(camera.url_of(path)));
        let frames = running.wait_frames(30);
        assert!(
            frames.iter().all(|f| f.size == (320, 240) && f.format == PixelFormat::I420),
            "{path}: {:?}",
            frames[0]
        );
        assert!(rising(&frames), "{path}");
        let span = frames[29].media - frames[0].media;
        assert!((Duration::from_millis(900)..Duration::from_secs(20)).contains(&span), "{path}: {span:?}");
        let range = if path == "/mjpeg" { Range::Full } else { Range::Limited };
        assert_eq!(frames[0].colours.1, range, "{path}");
        let report = running.report();
        assert_eq!((report.state, report.size, report.reconnects), (StreamState::Up, Some((320, 240)), 0));
        assert_eq!(running.stop().0, Ended::Shutdown);
    }
}

#[test]
fn sound_beside_the_picture_is_left_alone() {
    let camera = Camera::start(Content::WithSound { width: 320, height: 240 }, Codec::H264, None);
    let running = Running::start(rtsp(camera.url()));
    assert!(rising(&running.wait_frames(30)));
}

#[test]
fn a_camera_with_sound_alone_is_told_apart_from_a_dead_one() {
    let camera = Camera::start(Content::Sound, Codec::H264, None);
    let error = Running::start(rtsp(camera.url())).wait_down();
    assert!(error.contains("not a video that can be read"), "{error}");
}

#[test]
fn the_right_password_is_accepted_by_basic_and_digest_cameras() {
    for digest in [false, true] {
        let auth = Auth { user: "viewer".into(), password: "p@ss w/rd&+".into(), digest };
        let camera = Camera::start(Content::pattern(160, 120), Codec::H264, Some(auth));
        let password = Some(Secret::new("p@ss w/rd&+"));
        let running =
            Running::start(SourceSettings { username: Some("viewer".into()), password, ..rtsp(camera.url()) });
        running.wait_frames(3);
    }
}

/// As many cameras have theirs when they come out of the box.
#[test]
fn an_empty_password_is_a_password() {
    for digest in [false, true] {
        let auth = Auth { user: "admin".into(), password: String::new(), digest };
        let camera = Camera::start(Content::pattern(160, 120), Codec::H264, Some(auth));
        Running::start(SourceSettings { username: Some("admin".into()), ..rtsp(camera.url()) }).wait_frames(3);
        let mut url = camera.url();
        url.set_username("admin").unwrap();
        url.set_password(Some("")).unwrap();
        Running::start(rtsp(url)).wait_frames(3);
    }
}

#[test]
fn a_wrong_password_is_told_clearly_and_never_shown() {
    for digest in [false, true] {
        let auth = Auth { user: "viewer".into(), password: "right".into(), digest };
        let camera = Camera::start(Content::pattern(160, 120), Codec::H264, Some(auth));
        let password = Some(Secret::new("hunter2-wrong"));
        let settings = SourceSettings { username: Some("viewer".into()), password, ..rtsp(camera.url()) };
        let running = Running::start(settings);
        let error = running.wait_down();
        assert!(error.contains("credentials were refused") && error.contains("stream cam"), "{error}");
        assert!(!error.contains("hunter2") && error.contains(&camera.url().to_string()), "{error}");
        assert!(running.frames().is_empty());
        assert_eq!(running.stop().0, Ended::Shutdown);
    }
}

#[test]
fn a_password_left_in_the_url_is_used_and_not_shown() {
    let auth = Auth { user: "viewer".into(), password: "hunter2".into(), digest: true };
    let mut camera = Camera::start(Content::pattern(160, 120), Codec::H264, Some(auth));
    let mut url = camera.url();
    url.set_username("viewer").unwrap();
    url.set_password(Some("hunter2")).unwrap();
    let running = Running::start(rtsp(url));
    running.wait_frames(3);
    camera.kill();
    let error = running.wait_down();
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn a_camera_that_is_off_at_the_start_is_found_when_it_comes_up() {
    let mut camera = Camera::start(Content::pattern(160, 120), Codec::H264, None);
    camera.kill();
    let running = Running::start(rtsp(camera.url()));
    let error = running.wait_down();
    assert!(error.contains(&camera.url().to_string()), "{error}");
    camera.restart();
    running.wait_frames(3);
    let report = running.wait_state(|s| *s == StreamState::Up);
    assert!(report.reconnects >= 1);
}

#[test]
fn a_camera_that_dies_and_comes_back_is_reconnected_and_time_does_not_go_back() {
    let mut camera = Camera::start(Content::pattern(160, 120), Codec::H264, None);
    let running = Running::start(rtsp(camera.url()));
    running.wait_frames(20);
    camera.kill();
    running.wait_down();
    let before = running.frames();
    camera.restart();
    let after = running.wait_frames(before.len() + 20);
    assert!(rising(&after));
    let (last, first) = (before[before.len() - 1], after[before.len()]);
    let (media, real) = (first.media - last.media, first.captured - last.captured);
    assert!(media.abs_diff(real) < Duration::from_millis(1), "{media:?} of media time for {real:?} of real time");
    assert_eq!(running.report().state, StreamState::Up);
}

#[test]
fn the_end_of_a_live_stream_is_a_failure_that_is_retried() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("short.mp4");
    crate::common::recorder::make_mp4(&path, 40, (160, 120), "ball");
    let camera = Camera::start(Content::File(path), Codec::H264, None);
    let running = Running::start(rtsp(camera.url()));
    let error = running.wait_down();
    assert!(error.contains("stream cam"), "{error}");
    let seen = running.frames().len();
    assert!(seen > 0, "{error}");
    running.wait_frames(seen + 5);
    assert!(rising(&running.frames()));
}

/// A certificate that nobody trusts, with its key. `None` where openssl is not installed.
fn self_signed(folder: &std::path::Path) -> Option<String> {
    let (key, certificate) = (folder.join("key.pem"), folder.join("cert.pem"));
    let status = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(std::process::Stdio::null())
        .status()
        .ok()?;
    assert!(status.success());
    Some(std::fs::read_to_string(certificate).ok()? + &std::fs::read_to_string(key).ok()?)
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused_unless_a_template_says_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let Some(pem) = self_signed(folder.path()) else {
        eprintln!("skipped: openssl is not installed");
        return;
    };
    let camera = Camera::start_tls(Content::pattern(160, 120), Codec::H264, pem);
    let error = Running::start(rtsp(camera.url())).wait_down();
    assert!(error.contains("certificate cannot be trusted") && error.contains("unknown ca"), "{error}");
    let path = folder.path().join("trusting.gst");
    let template = format!(
        "rtspsrc name=source location={} protocols=tcp+tls tls-validation-flags=no-flags ! application/x-rtp,media=video \
         ! decodebin ! video/x-raw ! videoconvert ! appsink name=sink",
        camera.url()
    );
    std::fs::write(&path, template).unwrap();
    Running::start(settings(Location::Template(path))).wait_frames(3);
}

#[test]
fn a_looped_file_is_a_long_stream() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("short.mp4");
    crate::common::recorder::make_mp4(&path, 10, (160, 120), "ball");
    let camera = Camera::start(Content::Looped(path, 20), Codec::H264, None);
    let running = Running::start(rtsp(camera.url()));
    let frames = running.wait_frames(40);
    assert!(rising(&frames));
    assert_eq!(running.report().reconnects, 0);
}

#[test]
fn an_address_the_camera_does_not_know_is_told() {
    let camera = Camera::start(Content::pattern(160, 120), Codec::H264, None);
    let error = Running::start(rtsp(camera.url_of("/nothing"))).wait_down();
    assert!(error.contains("nothing is there"), "{error}");
}

#[test]
fn a_camera_that_accepts_and_then_stays_silent_is_given_up_after_a_while() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("rtsp://{}/stream", listener.local_addr().unwrap())).unwrap();
    let limits = Limits { first_frame: Duration::from_millis(700), ..Limits::default() };
    let running = Running::with(rtsp(url), Options { limits, ..Options::default() });
    let error = running.wait_down();
    assert!(error.contains("no picture for"), "{error}");
}

#[test]
fn shutdown_while_connecting_is_quick() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("rtsp://{}/stream", listener.local_addr().unwrap())).unwrap();
    let running = Running::start(rtsp(url));
    // Connected: the source now waits for an answer that never comes.
    let _connection = listener.accept().unwrap();
    let (ended, took) = running.stop();
    assert_eq!(ended, Ended::Shutdown);
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn shutdown_while_waiting_to_try_again_is_quick() {
    let url = Url::parse(&format!("rtsp://127.0.0.1:{}/stream", free_port())).unwrap();
    let ladder = quick_ladder().scaled(10_000.0);
    let running = Running::with(rtsp(url), Options { ladder, ..Options::default() });
    running.wait_down();
    let (ended, took) = running.stop();
    assert_eq!(ended, Ended::Shutdown);
    assert!(took < Duration::from_secs(3), "{took:?}");
}

type Damage = fn(&mut Noise, &[Vec<u8>]) -> Vec<Vec<u8>>;

/// A camera's frames with `damage` done to some of them, on its first connection.
fn damaged(damage: Damage) -> Url {
    let frames = raw_rtsp::frames();
    raw_rtsp::start(Behaviour::Plays(Box::new(move |packets, connection| {
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        for (n, frame) in frames.iter().cycle().enumerate() {
            let whole = connection > 0 || n < 20;
            packets.frame(&if whole { frame.clone() } else { damage(&mut noise, frame) })?;
        }
        Ok(())
    })))
}

/// `frame` under other parameter sets: the SPS, and a PPS that goes with any.
fn under(sps: &[u8], frame: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let slices = frame.iter().filter(|nal| ![7, 8].contains(&(nal[0] & 31))).cloned();
    [sps.to_vec(), vec![0x68, 0xce, 0x38, 0x80]].into_iter().chain(slices).collect()
}

/// Pictures of 16 by 16, of which 20 columns are to be cut off.
fn smaller_than_nothing(_: &mut Noise, frame: &[Vec<u8>]) -> Vec<Vec<u8>> {
    under(&[0x67, 0x42, 0, 0x1e, 0xda, 0x7c, 0xc6, 0xd0], frame)
}

/// Fourteen bits a sample, which no decoder here knows.
fn too_deep(_: &mut Noise, frame: &[Vec<u8>]) -> Vec<Vec<u8>> {
    under(&[0x67, 0x6e, 0, 0x1e, 0xa3, 0x9c, 0xb4, 0x14, 0x23, 0x20], frame)
}

fn garbage(noise: &mut Noise, _: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let [kind, length] = noise.bytes(2)[..] else { unreachable!() };
    let first = [0x65, 0x41, 0x67, 0x68][usize::from(kind % 4)];
    vec![[&[first], &noise.bytes(1 + usize::from(length) * 10)[..]].concat()]
}

#[test]
fn a_camera_is_never_given_up_for_what_it_sends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.gst");
    let damages: [(&str, Damage); 3] =
        [("smaller than nothing", smaller_than_nothing), ("too deep", too_deep), ("garbage", garbage)];
    for (name, damage) in damages {
        for own in [false, true] {
            let url = damaged(damage);
            let template = format!(
                "rtspsrc name=source location={url} protocols=tcp latency=100 ! rtph264depay ! h264parse ! avdec_h264 ! \
                 videoconvert ! appsink name=sink"
            );
            std::fs::write(&path, template).unwrap();
            let location = if own { Location::Template(path.clone()) } else { Location::Rtsp(url.into()) };
            let limits = Limits { stall: Duration::from_secs(5), ..Limits::default() };
            let options = Options { limits, ..Options::default() };
            let running = Running::with(SourceSettings { decode: Decode::All, ..settings(location) }, options);
            // It goes wrong, is connected to anew until the camera is well again, and then shows pictures.
            let report = |wanted: fn(u64, &StreamState) -> bool| {
                let deadline = std::time::Instant::now() + DEADLINE;
                loop {
                    let report = running.report();
                    let ended = matches!(report.state, StreamState::Ended | StreamState::Failed { .. });
                    assert!(!ended && std::time::Instant::now() < deadline, "{name}: {report:?}");
                    if wanted(report.reconnects, &report.state) {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            };
            report(|reconnects, _| reconnects > 0);
            report(|_, state| *state == StreamState::Up);
            running.wait_frames(running.frames().len() + 10);
        }
    }
}

#[test]
fn packets_at_the_end_of_an_own_template_are_told_with_the_remedy_and_it_is_tried_again() {
    let camera = Camera::start(Content::pattern(160, 120), Codec::H264, None);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.gst");
    let own = format!("rtspsrc name=source location={} protocols=tcp ! appsink name=sink", camera.url());
    std::fs::write(&path, own).unwrap();
    let running = Running::start(settings(Location::Template(path)));
    let error = running.wait_down();
    assert!(error.contains("end it with `videoconvert ! appsink name=sink`"), "{error}");
    running.wait_state(|state| *state == StreamState::Connecting);
}

#[test]
fn an_rtsp_camera_that_claims_a_duration_has_not_ended_when_it_stops() {
    let frames = raw_rtsp::frames();
    let url = raw_rtsp::start(Behaviour::Plays(Box::new(move |packets, _| {
        frames.iter().take(25).try_for_each(|frame| packets.frame(frame))?;
        packets.goodbye()
    })));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.gst");
    let own = format!(
        "rtspsrc name=source location={url} protocols=tcp latency=100 ! rtph264depay ! h264parse ! avdec_h264 ! \
         videoconvert ! appsink name=sink"
    );
    std::fs::write(&path, own).unwrap();
    for location in [Location::Rtsp(url.into()), Location::Template(path)] {
        let running = Running::start(settings(location));
        let report = running.wait_state(|state| !matches!(state, StreamState::Connecting | StreamState::Up));
        assert!(matches!(report.state, StreamState::Down { .. }), "{report:?}");
    }
}
