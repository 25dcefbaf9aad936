//! Headers that ask for gigabytes: from cameras of every kind, and in files. They are refused before a decoder sees them.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::common::camera::{Camera, Codec, Content};
use crate::common::daemon::{Daemon, eventually, root, vtagd};
use crate::common::recorder::{Running, settings};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use serde_json::Value;
use vtagd::source::{Ended, Location, SourceError, SourceSettings};

/// What a refused picture may cost, all of them together.
const COST: u64 = 200 << 20;

/// What a camera serves: a type, and pictures one after the other, or a stream.
#[derive(Clone)]
enum Served {
    Pictures(&'static str, Vec<Vec<u8>>),
    /// A JPEG, in pieces as they fit into a segment.
    Segments(Vec<u8>),
    Stream(&'static str, Vec<u8>),
}

/// Cameras on loopback, each at a path of its own. They live as long as the test's process.
fn serve(cameras: HashMap<String, Served>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let cameras = Arc::new(cameras);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let cameras = Arc::clone(&cameras);
            // A client that leaves is no failure of the camera's.
            std::thread::spawn(move || drop(answer(&cameras, stream)));
        }
    });
    address
}

fn answer(cameras: &HashMap<String, Served>, mut stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines().map_while(Result::ok);
    let path = lines.next().and_then(|line| line.split(' ').nth(1).map(str::to_owned)).unwrap_or_default();
    lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
    let kind = match &cameras[&path] {
        Served::Pictures(..) | Served::Segments(_) => "multipart/x-mixed-replace; boundary=frame",
        Served::Stream(kind, _) => kind,
    };
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n")?;
    stream.write_all(match &cameras[&path] {
        Served::Segments(_) => b"Transfer-Encoding: chunked\r\n\r\n",
        _ => b"\r\n",
    })?;
    match &cameras[&path] {
        Served::Segments(picture) => loop {
            let headers = format!("--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", picture.len());
            for piece in std::iter::once(headers.as_bytes()).chain(picture.chunks(1448)).chain([b"\r\n".as_slice()]) {
                let length = format!("{:x}\r\n", piece.len());
                stream.write_all(&[length.as_bytes(), piece, b"\r\n"].concat())?;
            }
        },
        Served::Pictures(kind, pictures) => {
            for picture in pictures.iter().cycle() {
                write!(stream, "--frame\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", picture.len())?;
                stream.write_all(picture)?;
                stream.write_all(b"\r\n")?;
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Served::Stream(_, bytes) => {
            stream.write_all(bytes)?;
            // Not its end: the other side has to have had enough.
            lines.next();
        }
    }
    Ok(())
}

/// What comes out of `elements` for `frames` of H.264, which nobody has to give.
fn through(elements: &str, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    gst::init().unwrap();
    let source = "appsrc name=source format=time caps=\"video/x-h264,stream-format=byte-stream,alignment=au\" ! ";
    let source = if frames.is_empty() { "" } else { source };
    let description = format!("{source}{elements} ! appsink name=sink sync=false");
    let pipeline = gst::parse::launch(&description).unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let source = pipeline.by_name("source").map(|source| source.downcast::<gst_app::AppSrc>().unwrap());
    for (number, frame) in (0..).zip(frames) {
        let mut buffer = gst::Buffer::from_slice(frame.clone());
        buffer.get_mut().unwrap().set_pts(gst::ClockTime::from_mseconds(40) * number);
        source.as_ref().unwrap().push_buffer(buffer).unwrap();
    }
    if let Some(source) = &source {
        source.end_of_stream().unwrap();
    }
    let mut came = Vec::new();
    while let Ok(sample) = sink.pull_sample() {
        came.push(sample.buffer().unwrap().map_readable().unwrap().to_vec());
    }
    pipeline.set_state(gst::State::Null).unwrap();
    came
}

/// H.264 in an MPEG transport stream.
fn transport_stream(frames: &[Vec<u8>]) -> Vec<u8> {
    through("mpegtsmux", frames).concat()
}

/// A second of ordinary H.264.
fn ordinary() -> Vec<Vec<u8>> {
    let encoder = "videotestsrc num-buffers=25 ! video/x-raw,width=64,height=48,framerate=25/1 \
                   ! x264enc speed-preset=ultrafast key-int-max=5 bframes=0 ! video/x-h264,stream-format=byte-stream,alignment=au";
    through(encoder, &[])
}

/// Most memory that the process has had.
fn most_memory(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn row(daemon: &mut Daemon, id: &str) -> Value {
    let (_, body) = daemon.get("/api/v1/streams");
    let rows = serde_json::from_str::<Value>(&body).unwrap()["streams"].as_array().unwrap().clone();
    rows.into_iter().find(|row| row["id"] == id).unwrap_or_default()
}

fn frames(daemon: &mut Daemon, id: &str) -> u64 {
    row(daemon, id)["accounting"]["sampled"].as_u64().unwrap_or(0)
}

#[test]
fn a_header_that_asks_for_gigabytes_costs_nothing_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let small = crate::common::bombs::jpeg(64, 48);
    let bomb = std::fs::read(root().join("tests/data/bomb65500.jpg")).unwrap();
    let picture = |kind: &'static str, bomb: Vec<u8>| Served::Pictures(kind, vec![bomb]);
    let large = vec![crate::common::bombs::h264(16_384, 16_384, 1); 50];
    let many = vec![crate::common::bombs::h264(7680, 4320, 16); 50];
    let cameras = [
        ("jpeg", picture("image/jpeg", bomb.clone()), "65500x65500"),
        ("later", Served::Pictures("image/jpeg", vec![small.clone(), small.clone(), bomb]), "65500x65500"),
        ("png", picture("image/png", crate::common::bombs::png(15_000, 15_000)), "15000x15000"),
        ("webp", picture("image/webp", crate::common::bombs::webp(16_384, 16_384)), "16384x16384"),
        ("bmp", picture("image/bmp", crate::common::bombs::bmp(16_000, 16_000)), "16000x16000"),
        ("tiff", picture("image/tiff", crate::common::bombs::tiff(16_000, 16_000, 0)), "16000x16000"),
        ("h264", Served::Stream("video/mp2t", transport_stream(&large)), "16384x16384"),
        (
            "changed",
            Served::Stream("video/mp2t", transport_stream(&[ordinary(), large.clone()].concat())),
            "16384x16384",
        ),
        ("references", Served::Stream("video/mp2t", transport_stream(&many)), "7680x4320, and 17 of them"),
        // Nothing that has a size in it that could be read.
        ("svg", picture("image/svg+xml", b"<svg width=\"30000\" height=\"30000\"/>".to_vec()), "cannot be told before"),
    ];
    let file = folder.path().join("bomb.h264");
    std::fs::write(&file, large.concat()).unwrap();
    let launch =
        format!("filesrc location={} ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1", file.display());
    let rtsp = Camera::start(Content::Launch(launch), Codec::H264, None);

    let mut served: HashMap<String, Served> =
        cameras.iter().map(|(id, served, _)| (format!("/{id}"), served.clone())).collect();
    served.insert("/good".to_owned(), Served::Pictures("image/jpeg", vec![small]));
    let address = serve(served);
    let config = |enabled: bool| {
        let ids = cameras.iter().map(|(id, ..)| *id);
        let mut streams: String =
            ids.map(|id| format!("  - {{ id: {id}, url: \"http://{address}/{id}\", enabled: {enabled} }}\n")).collect();
        streams += &format!("  - {{ id: rtsp, url: \"{}\", enabled: {enabled} }}\n", rtsp.url());
        format!(
            "model: {{ path: none }}\nsampling: {{ interval: 200ms }}\napi: {{ listen: 127.0.0.1:0 }}\nsinks: [{{ type: jsonl, path: \"-\" }}]\n\
             streams:\n  - {{ id: good, url: \"http://{address}/good\" }}\n{streams}"
        )
    };
    let mut daemon = Daemon::start(folder.path(), &config(false));
    daemon.wait_ready();
    eventually("the good camera shows something", || (frames(&mut daemon, "good") > 5).then_some(()));
    let before = most_memory(&daemon);

    std::fs::write(folder.path().join("vtagd.yaml"), config(true)).unwrap();
    daemon.signal(libc::SIGHUP);
    let expected = cameras.iter().map(|(id, _, text)| (*id, *text)).chain([("rtsp", "16384x16384")]);
    for (id, text) in expected {
        let error = eventually(id, || {
            let row = row(&mut daemon, id);
            assert_ne!(row["state"], "failed", "{row}");
            row["error"].as_str().map(str::to_owned)
        });
        assert!(error.contains(&format!("stream {id} ")) && error.contains(text), "{id}: {error}");
        assert!(id == "svg" || error.contains("sampling.max_pixels"), "{id}: {error}");
        assert!(!["jpeg", "png", "h264"].contains(&id) || error.contains(" pixels"), "{id}: {error}");
    }
    let seen = frames(&mut daemon, "good");
    eventually("the good camera goes on", || (frames(&mut daemon, "good") > seen + 5).then_some(()));
    let after = most_memory(&daemon);
    println!("before {} MiB, after {} MiB", before >> 20, after >> 20);
    assert!(after < before + COST, "{} MiB more", (after - before) >> 20);
    daemon.stop_cleanly();
}

fn ends_with(settings: SourceSettings) -> String {
    let running = Running::start(settings);
    let error = running.wait_down();
    running.stop();
    error
}

/// A JPEG that can be decoded.
fn grey(width: u32, height: u32) -> Vec<u8> {
    let mut picture = Vec::new();
    let grey = image::GrayImage::from_pixel(width, height, image::Luma([90]));
    image::codecs::jpeg::JpegEncoder::new(&mut picture).encode_image(&grey).unwrap();
    picture
}

#[test]
fn a_legal_picture_of_many_bytes_passes_in_whatever_pieces_it_comes() {
    let small = grey(640, 480);
    let (start, rest) = small.split_at(2);
    let comment = [&[0xff, 0xfe, 0xff, 0xff], vec![b'a'; 65_533].as_slice()].concat();
    let picture = [start, &comment.repeat(305), rest].concat();
    assert!(picture.len() > 19 << 20);
    let address = serve(HashMap::from([("/large".to_owned(), Served::Segments(picture))]));
    let running = Running::start(settings(Location::Http(format!("http://{address}/large").parse().unwrap())));
    assert_eq!(running.wait_frames(3)[0].size, (640, 480));
    running.stop();
}

#[test]
fn an_own_pipeline_with_a_limit_of_its_own_may_decode_what_has_no_readable_size() {
    let folder = tempfile::tempdir().unwrap();
    let template = folder.path().join("own.gst");
    let camera = "videotestsrc ! video/x-raw,width=64,height=48 ! avenc_ffv1 ! avdec_ffv1";
    std::fs::write(&template, format!("{camera} ! videoconvert ! appsink name=sink")).unwrap();
    let own = settings(Location::Template(template));
    let error = ends_with(own.clone());
    assert!(error.contains("cannot be told before"), "{error}");
    let running = Running::start(SourceSettings { max_pixels: Some(1 << 20), any_codec: true, ..own });
    running.wait_frames(3);
    running.stop();
}

#[test]
fn a_picture_larger_than_8k_passes_once_it_is_allowed() {
    let (width, height) = (6000, 6000);
    let picture = grey(width, height);
    let address = serve(HashMap::from([("/large".to_owned(), Served::Pictures("image/jpeg", vec![picture]))]));
    let camera = settings(Location::Http(format!("http://{address}/large").parse().unwrap()));
    let error = ends_with(camera.clone());
    assert!(
        error.contains("6000x6000, and a picture may have 33554432 pixels; raise `sampling.max_pixels`"),
        "{error}"
    );
    let running = Running::start(SourceSettings { max_pixels: Some(36_000_000), ..camera });
    let seen = running.wait_frames(1);
    assert_eq!(seen[0].size, (width, height));
    running.stop();
}

#[test]
fn an_own_pipeline_is_limited_whatever_its_decoder_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("a.gif");
    for (name, bytes, decoder, text) in [
        ("jpeg", crate::common::bombs::jpeg(60_000, 60_000), "typefind ! jpegdec", "60000x60000"),
        ("no caps", crate::common::bombs::jpeg(60_000, 60_000), "jpegdec", "60000x60000"),
        (
            "gif",
            crate::common::bombs::gif((9000, 9000), (9000, 9000)),
            "typefind ! avdemux_gif ! avdec_gif",
            "9000x9000",
        ),
        (
            "tiff",
            crate::common::bombs::tiff(9000, 9000, 5000),
            "typefind ! gdkpixbufdec",
            "how large its tiff pictures are cannot be told",
        ),
        ("h264", crate::common::bombs::h264(9000, 9000, 1), "typefind ! h264parse ! avdec_h264", "9008x9008"),
    ] {
        std::fs::write(&picture, bytes).unwrap();
        let template = folder.path().join("own.gst");
        let source = format!("filesrc location={} blocksize=4096", picture.display());
        std::fs::write(&template, format!("{source} ! {decoder} ! videoconvert ! appsink name=sink")).unwrap();
        let error = ends_with(settings(Location::Template(template)));
        assert!(error.contains(text), "{name}: {error}");
        assert!(name == "tiff" || error.contains("sampling.max_pixels"), "{name}: {error}");
    }
}

#[test]
fn files_may_be_larger_and_are_not_without_limit() {
    let folder = tempfile::tempdir().unwrap();
    let played = |bytes: Vec<u8>| {
        let file = folder.path().join("picture");
        std::fs::write(&file, bytes).unwrap();
        let (ended, ..) = Running::start(settings(Location::File(file))).wait_end();
        ended
    };
    let bomb = std::fs::read(root().join("tests/data/bomb65500.jpg")).unwrap();
    let ended = played(bomb);
    assert!(matches!(ended, Ended::Failed(SourceError::TooLarge { .. })), "{ended:?}");
    let ended = played(b"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"30000\" height=\"30000\"></svg>".to_vec());
    assert!(matches!(ended, Ended::Failed(SourceError::SizeUnknown { .. })), "{ended:?}");
    let file = folder.path().join("large.jpg");
    std::fs::write(&file, grey(6000, 6000)).unwrap();
    let (ended, seen, _) = Running::start(settings(Location::File(file))).wait_end();
    assert_eq!((ended, seen.len(), seen[0].size), (Ended::EndOfFile, 1, (6000, 6000)));
}

#[test]
fn a_picture_on_the_command_line_is_refused_by_its_header() {
    let folder = tempfile::tempdir().unwrap();
    let tag = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        refused(folder.path(), &file)
    };
    let mut progressive = crate::common::bombs::jpeg(14_000, 14_000);
    let at = progressive.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    progressive[at + 1] = 0xc2;
    // Kept twice while it is decoded, or with 16 bits and alpha: within the number of pixels, and beyond memory.
    for (name, bytes) in [
        ("a.jpg", progressive),
        ("a.png", crate::common::bombs::png(14_000, 14_000)),
        ("b.jpg", crate::common::bombs::jpeg(15_000, 15_000)),
    ] {
        let text = tag(name, &bytes);
        assert!(text.contains("too large"), "{name}: {text}");
    }
}

fn refused(folder: &Path, file: &Path) -> String {
    let output = vtagd(folder).args(["tag", "-l", "a cat"]).arg(file).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}
