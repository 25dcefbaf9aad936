//! Cameras whose certificates no authority vouches for: by their fingerprint, by an authority of one's own, or not looked at.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::common::authority::Authority;
use crate::common::camera::{Camera, Codec, Content};
use crate::common::daemon::vtagd;
use crate::common::recorder::{Options, Running, settings};
use vtagd::platform::tls::CertificateFingerprint;
use vtagd::source::{CameraTls, Location, SourceSettings};

/// What is printed to be pasted.
fn printed(error: &str) -> CertificateFingerprint {
    let text = error.split("fingerprint: \"").nth(1).and_then(|rest| rest.split('"').next());
    text.unwrap_or_else(|| panic!("{error}")).parse().unwrap()
}

/// `location` is refused, watched with what is printed then, or with `ca`, or without a look; and not with another fingerprint.
fn is_trusted_as_told(location: &Location, ca: &Path) {
    let trusting = |tls| SourceSettings { tls, ..settings(location.clone()) };
    let options = || Options { interval: Duration::from_millis(200), ..Options::default() };
    let error = Running::start(trusting(CameraTls::System)).wait_down();
    assert!(error.contains("certificate cannot be trusted"), "{error}");
    let own = printed(&error);
    for tls in [CameraTls::Fingerprint(own), CameraTls::Ca(ca.to_owned()), CameraTls::Off] {
        let running = Running::with(trusting(tls.clone()), options());
        running.wait_state(|state| {
            assert!(!format!("{state:?}").contains("certificate"), "{tls:?}: {state:?}");
            *state == vtagd::stream::status::StreamState::Up
        });
        running.wait_frames(4);
    }
    let other = CertificateFingerprint::of(b"another");
    let error = Running::start(trusting(CameraTls::Fingerprint(other))).wait_down();
    assert!(error.contains("certificate cannot be trusted") && printed(&error) == own, "{error}");
}

#[test]
fn rtsps_cameras_are_trusted_as_their_stream_says() {
    let folder = tempfile::tempdir().unwrap();
    Authority::new(folder.path(), "authority").issue("camera");
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let camera = Camera::start_tls(Content::pattern(160, 120), Codec::H264, read("camera.pem") + &read("camera.key"));
    let mut url = camera.url();
    url.set_host(Some("localhost")).unwrap();
    is_trusted_as_told(&Location::Rtsp(url.into()), &folder.path().join("authority.pem"));
}

/// Answers every request with the same picture.
fn serve(tls: Arc<rustls::ServerConfig>) -> url::Url {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}/snapshot.jpg", listener.local_addr().unwrap().port()).parse().unwrap();
    let picture = image::RgbImage::from_fn(160, 120, |x, _| image::Rgb([x as u8; 3]));
    let mut jpeg = Vec::new();
    image::codecs::jpeg::JpegEncoder::new(&mut jpeg).encode_image(&picture).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, tls, jpeg) = (stream.unwrap(), Arc::clone(&tls), jpeg.clone());
            // Who does not trust it hangs up.
            std::thread::spawn(move || answer(stream, tls, &jpeg));
        }
    });
    url
}

fn answer(stream: std::net::TcpStream, tls: Arc<rustls::ServerConfig>, jpeg: &[u8]) -> std::io::Result<()> {
    let connection = rustls::ServerConnection::new(tls).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, stream);
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        std::io::Read::read_exact(&mut stream, &mut byte)?;
        request.extend(byte);
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        jpeg.len()
    )?;
    stream.write_all(jpeg)?;
    stream.conn.send_close_notify();
    stream.flush()
}

#[test]
fn https_cameras_are_trusted_as_their_stream_says_polled_too() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    authority.issue("camera");
    let url = serve(authority.server("camera", false));
    is_trusted_as_told(&Location::Http(url.into()), &folder.path().join("authority.pem"));
}

#[test]
fn an_rtmp_server_cannot_be_pinned_which_check_says() {
    let folder = tempfile::tempdir().unwrap();
    let check = |tls: &str| {
        let file = folder.path().join("vtagd.yaml");
        let streams = format!("streams:\n  - {{ id: door, url: \"rtmps://localhost/live/door\", tls: {{ {tls} }} }}\n");
        std::fs::write(&file, format!("model: {{ path: none }}\n{streams}")).unwrap();
        let output = vtagd(folder.path()).args(["check", "-c"]).arg(&file).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, told) = check(&format!("fingerprint: \"{}\"", "ab".repeat(32)));
    assert!(code == Some(2) && told.contains("cannot be had with rtmps://"), "{told}");
    let (code, told) = check("verify: off");
    assert!(code == Some(0) && told.contains("can be the camera"), "{told}");
}

#[test]
fn check_prints_what_to_paste_and_warns_where_nobody_looks() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    authority.issue("camera");
    let url = serve(authority.server("camera", false));
    let check = |tls: &str| {
        let file = folder.path().join("vtagd.yaml");
        let streams = format!("streams:\n  - {{ id: door, url: \"{url}\"{tls} }}\n");
        std::fs::write(&file, format!("model: {{ path: none }}\n{streams}")).unwrap();
        let mut command = vtagd(folder.path());
        command.env("VTAGD__API__LISTEN", "127.0.0.1:0").args(["check", "--probe", "-c"]).arg(&file);
        let output = command.output().unwrap();
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (found, _) = check("");
    let pin = printed(&found);
    let (found, told) = check(&format!(", tls: {{ fingerprint: \"{pin}\" }}"));
    assert!(found.contains("still pictures") && !told.contains("can be the camera"), "{found}{told}");
    let (found, told) = check(", tls: { verify: off }");
    assert!(found.contains("still pictures") && told.contains("can be the camera"), "{found}{told}");
    let (_, told) = check(", tls: { fingerprint: abc }");
    assert!(told.contains("is not the SHA-256 of a certificate"), "{told}");
}
