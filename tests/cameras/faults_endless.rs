//! Cameras and servers that send without end, each in the way that is worst for the element that collects it. The daemon says so, holds no more
//! than it may, gives it back, tries again, and the stream beside it never notices.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::camera::{Camera, Codec, Content};
use crate::common::daemon::{Daemon, eventually};
use crate::common::raw_rtsp::{self, Behaviour, Packets};
use crate::common::web::{Request, Server};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// What a connection may take beside what the daemon needs anyway: the 64 MiB that it may hold, what an element copies of
/// that while it looks for an end, and what a machine sends itself before it is noticed.
const ROOM: u64 = 300 * MIB;

/// What one server has seen.
#[derive(Default)]
struct Count {
    /// Bytes that have been taken of what it sends without end.
    sent: AtomicU64,
    requests: AtomicU64,
}

/// Sends `bytes` again and again until nobody listens any more.
fn for_ever(stream: &mut TcpStream, bytes: &[u8], count: &Count) -> io::Result<()> {
    let block = bytes.repeat((64 << 10) / bytes.len() + 1);
    loop {
        stream.write_all(&block)?;
        count.sent.fetch_add(block.len() as u64, Ordering::Relaxed);
    }
}

/// Nothing in it looks like a start code, a marker, a boundary or an end of line.
const FILLING: &[u8] = &[b'a'; 1024];

fn answer(request: &Request, stream: &mut TcpStream, count: &Count) -> io::Result<()> {
    let asked = count.requests.fetch_add(1, Ordering::Relaxed);
    let mut begin = |kind: &str, more: &str| {
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n{more}\r\n")
    };
    let multipart = "multipart/x-mixed-replace;boundary=x";
    let jpeg: &[u8] = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0";
    match request.path.as_str() {
        // Neither length nor boundary.
        "/part" => {
            begin(multipart, "")?;
            stream.write_all(b"--x\r\nContent-Type: image/jpeg\r\n\r\n")?;
            stream.write_all(jpeg)?;
            for_ever(stream, FILLING, count)
        }
        // As much as can be said.
        "/long-part" => {
            begin(multipart, "")?;
            stream.write_all(b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: 2147483600\r\n\r\n")?;
            for_ever(stream, FILLING, count)
        }
        "/part-headers" => {
            begin(multipart, "")?;
            stream.write_all(b"--x\r\n")?;
            for_ever(stream, b"X-Again: and again\r\n", count)
        }
        // Pieces of one byte, each in a buffer of its own.
        "/crumbs" => {
            begin(multipart, "Transfer-Encoding: chunked\r\n")?;
            stream.write_all(b"28\r\n--x\r\nContent-Type: image/jpeg\r\n\r\n12345\r\n")?;
            for_ever(stream, b"1\r\na\r\n", count)
        }
        "/picture" => {
            begin("image/jpeg", "")?;
            let mut picture = std::io::Cursor::new(Vec::new());
            image::RgbImage::new(160, 120).write_to(&mut picture, image::ImageFormat::Jpeg).unwrap();
            let picture = picture.into_inner();
            stream.write_all(&picture[..picture.len() - 2])?;
            for_ever(stream, FILLING, count)
        }
        "/headers" => {
            write!(stream, "HTTP/1.1 200 OK\r\n")?;
            for_ever(stream, b"X-Again: and again\r\n", count)
        }
        // Sixteen MiB of zeros, again and again, in 16 KiB each.
        "/gzip" => {
            let mut coder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            coder.write_all(&vec![0; 16 << 20])?;
            let zeros = coder.finish()?;
            begin(multipart, "Content-Encoding: gzip\r\n")?;
            for_ever(stream, &zeros, count)
        }
        // A program with one video, whose first frame never ends.
        "/ts" => {
            begin("video/mp2t", "")?;
            stream.write_all(&ts::tables())?;
            stream.write_all(&ts::packet(
                ts::VIDEO,
                true,
                b"\0\0\x01\xe0\0\0\x80\x80\x05\x21\0\x01\0\x01\0\0\x01\x65",
            ))?;
            for_ever(stream, &ts::packet(ts::VIDEO, false, &[b'a'; 184]), count)
        }
        // A playlist, and the one that follows it, which never ends.
        "/list.m3u8" => {
            begin("application/vnd.apple.mpegurl", "")?;
            stream.write_all(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n")?;
            let entry = b"#EXTINF:1,\npiece.ts\n";
            if asked == 0 {
                return stream.write_all(&entry.repeat(4));
            }
            for_ever(stream, entry, count)
        }
        "/endless.m3u8" => {
            begin("application/vnd.apple.mpegurl", "")?;
            stream.write_all(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n")?;
            for_ever(stream, b"#EXTINF:1,\npiece.ts\n", count)
        }
        "/piece.ts" => {
            begin("video/mp2t", "")?;
            stream.write_all(&piece())
        }
        // A file with everything but its index.
        "/mp4" => {
            begin("video/mp4", "")?;
            stream.write_all(b"\0\0\0\x18ftypisom\0\0\0\0isommp42")?;
            stream.write_all(b"\0\0\0\x01mdat\0\0\0\x01\0\0\0\0")?;
            for_ever(stream, FILLING, count)
        }
        // Nothing but filling between its segment's beginning and the first track.
        "/mkv" => {
            begin("video/x-matroska", "")?;
            stream.write_all(
                b"\x1a\x45\xdf\xa3\x8b\x42\x82\x88matroska\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff",
            )?;
            // An element of a description that has a length and no end.
            stream.write_all(b"\x16\x54\xae\x6b\x08\xff\xff\xff")?;
            for_ever(stream, FILLING, count)
        }
        // A frame that never ends.
        "/h264" => {
            begin("video/h264", "")?;
            for nal in raw_rtsp::frames().concat() {
                stream.write_all(b"\0\0\0\x01")?;
                stream.write_all(&nal)?;
            }
            stream.write_all(b"\0\0\0\x01\x65")?;
            for_ever(stream, FILLING, count)
        }
        _ => write!(stream, "HTTP/1.1 404 Not Found\r\n\r\n"),
    }
}

/// A second of video.
fn piece() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("piece.ts");
    let status = std::process::Command::new("gst-launch-1.0")
        .args(["-q", "videotestsrc", "num-buffers=25", "!", "video/x-raw,width=160,height=120,framerate=25/1", "!"])
        .args(["x264enc", "key-int-max=5", "!", "h264parse", "!", "mpegtsmux", "!", "filesink"])
        .arg(format!("location={}", path.display()))
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::read(path).unwrap()
}

/// As much of MPEG-TS as a table of one program needs.
mod ts {
    pub const VIDEO: u16 = 0x200;

    /// A packet, filled up in its adaptation field.
    pub fn packet(pid: u16, begins: bool, payload: &[u8]) -> Vec<u8> {
        let [high, low] = pid.to_be_bytes();
        let mut packet = vec![0x47, high | u8::from(begins) << 6, low, if payload.len() < 184 { 0x30 } else { 0x10 }];
        if let Some(rest) = 183_usize.checked_sub(payload.len()) {
            packet.push(u8::try_from(rest).unwrap());
            packet.extend((0..rest).map(|n| if n == 0 { 0 } else { 0xff }));
        }
        packet.extend(payload);
        packet
    }

    fn section(table: u8, body: &[u8]) -> Vec<u8> {
        let mut section = vec![table];
        section.extend((0xb000 | (u16::try_from(body.len()).unwrap() + 4)).to_be_bytes());
        section.extend(body);
        let mut sum = u32::MAX;
        for byte in &section {
            sum ^= u32::from(*byte) << 24;
            for _ in 0..8 {
                sum = (sum << 1) ^ if sum >> 31 == 1 { 0x04c1_1db7 } else { 0 };
            }
        }
        section.extend(sum.to_be_bytes());
        [&[0], &section[..]].concat()
    }

    /// One program, H.264 alone.
    pub fn tables() -> Vec<u8> {
        let programs = section(0, &[0, 1, 0xc1, 0, 0, 0, 1, 0xe1, 0]);
        let streams = section(2, &[0, 1, 0xc1, 0, 0, 0xe2, 0, 0xf0, 0, 0x1b, 0xe2, 0, 0xf0, 0]);
        [packet(0, true, &programs), packet(0x100, true, &streams)].concat()
    }
}

/// Lets the daemon watch `url` and a healthy camera, until it has said one of `told` of the first (or, where nothing is, has taken far more than it may
/// hold); then looks at its memory and at the other.
fn ends_within_bounds(url: &str, told: &[&str]) {
    ends_of(url, told, &Count::default());
}

fn ends_of(url: &str, told: &[&str], count: &Count) {
    let folder = tempfile::tempdir().unwrap();
    let healthy = Camera::start(Content::pattern(160, 120), Codec::H264, None);
    // The wait after the first failure is longer than this test: what is measured then is what was given back.
    let config = format!(
        "model: {{ path: none }}\nsampling: {{ interval: 100ms }}\napi: {{ listen: 127.0.0.1:0 }}\n\
         reconnect: {{ first: 1h, max: 2h, stable: 60s, first_frame: 200s, stall: 200s }}\n\
         streams: [{{ id: endless, url: \"{url}\" }}, {{ id: healthy, url: \"{}\" }}]\n",
        healthy.url()
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    let row = |daemon: &mut Daemon, id: &str| {
        let (_, body) = daemon.get("/api/v1/streams");
        let rows: Value = serde_json::from_str(&body).unwrap();
        rows["streams"].as_array().unwrap().iter().find(|row| row["id"] == id).unwrap().clone()
    };
    daemon.wait_ready();
    let (mut most, mut sampled, mut longest) = (0, (0, Instant::now()), Duration::ZERO);
    // How long none of the other's samples comes.
    let mut pause = |daemon: &mut Daemon| {
        let now = row(daemon, "healthy")["accounting"]["sampled"].as_u64().unwrap();
        if now > sampled.0 {
            longest = longest.max(if sampled.0 > 0 { sampled.1.elapsed() } else { Duration::ZERO });
            sampled = (now, Instant::now());
        }
        longest
    };
    eventually(&format!("{url} is told"), || {
        pause(&mut daemon);
        most = most.max(daemon.rss());
        // Nothing kills the machine that this runs on.
        assert!(most < 3 * ROOM, "{url}: {} MiB", most / MIB);
        let log = daemon.log();
        let down = log.lines().find(|line| line.contains("the stream is down"));
        assert!(
            told.is_empty() || down.is_none_or(|line| told.iter().any(|told| line.contains(told))),
            "{url}: {down:?}"
        );
        if told.is_empty() { count.sent.load(Ordering::Relaxed) > 512 * MIB } else { down.is_some() }.then_some(())
    });
    eventually("it is down, to be tried again", || {
        let state = row(&mut daemon, "endless")["state"].clone();
        assert!(state != "failed" && state != "ended", "{url}: {state}");
        (state == "down" || told.is_empty()).then_some(())
    });
    let frames = |daemon: &mut Daemon| row(daemon, "healthy")["frames"].as_u64().unwrap();
    let before = frames(&mut daemon);
    let longest = eventually("the camera beside it goes on", || {
        let longest = pause(&mut daemon);
        (frames(&mut daemon) >= before + 25).then_some(longest)
    });
    assert_eq!(row(&mut daemon, "healthy")["reconnects"], 0, "{url}");
    let mut left = 0;
    eventually("its memory is given back", || {
        left = daemon.rss();
        (left < 200 * MIB).then_some(())
    });
    // A daemon without it has some hundred megabytes; the peak is the system's own record of it.
    let peak = daemon.peak();
    let log = daemon.log();
    let down = log.lines().find(|line| line.contains("the stream is down")).unwrap_or_default();
    println!("{url}: {} bytes sent, {down}", count.sent.load(Ordering::Relaxed));
    println!("{url}: peak {} MiB, afterwards {} MiB, the other's longest pause {longest:?}", peak / MIB, left / MIB);
    assert!(peak < left + ROOM, "{url}: {} MiB, and {} MiB afterwards", peak / MIB, left / MIB);
    assert!(daemon.stop().success());
}

const TOO_MUCH: &str = "more than 64 MiB came that nothing could be made of";

/// As [`ends_within_bounds`], and what the server has seen by then.
fn over_http(path: &str, told: &[&str]) -> Arc<Count> {
    let count = Arc::new(Count::default());
    let counting = Arc::clone(&count);
    let server = Server::start(move |request, stream| answer(request, stream, &counting));
    ends_of(server.url(path).as_str(), told, &count);
    count
}

#[test]
fn a_part_of_a_multipart_stream_that_never_ends() {
    over_http("/part", &[TOO_MUCH]);
}

#[test]
fn a_part_of_two_gigabytes() {
    over_http("/long-part", &[TOO_MUCH]);
}

#[test]
fn the_headers_of_a_part_that_never_end() {
    over_http("/part-headers", &[TOO_MUCH, "not a video that can be read"]);
}

#[test]
fn a_part_in_pieces_of_one_byte() {
    over_http("/crumbs", &[TOO_MUCH]);
}

#[test]
fn a_single_picture_that_never_ends() {
    // It is polled: the request ends with what a picture may have, or with its time.
    over_http("/picture", &[TOO_MUCH, "nothing arrives"]);
}

#[test]
fn a_web_servers_headers_that_never_end() {
    let count = over_http("/headers", &["cannot connect"]);
    assert!(count.sent.load(Ordering::Relaxed) > 64 << 10);
}

#[test]
fn an_answer_that_is_far_larger_than_what_was_sent() {
    over_http("/gzip", &["Could not determine type of stream"]);
}

#[test]
fn a_transport_stream_whose_frame_never_ends() {
    over_http("/ts", &[TOO_MUCH]);
}

#[test]
fn an_mp4_file_without_an_index() {
    over_http("/mp4", &["no 'moov' atom"]);
}

#[test]
fn a_playlist_that_never_ends() {
    over_http("/endless.m3u8", &["more than 4 MiB came that nothing could be made of"]);
}

#[test]
fn a_playlist_that_never_ends_when_it_is_read_again() {
    let count = over_http("/list.m3u8", &["Could not update playlist"]);
    assert!(count.requests.load(Ordering::Relaxed) > 1 && count.sent.load(Ordering::Relaxed) > 4 * MIB);
}

#[test]
fn a_matroska_file_without_a_track() {
    over_http("/mkv", &["not a video that can be read"]);
}

#[test]
fn an_elementary_stream_whose_frame_never_ends() {
    over_http("/h264", &[TOO_MUCH]);
}

fn describing(headers: &'static str, body: &'static [u8]) -> Behaviour {
    Behaviour::Describes(Box::new(move |stream, sequence| {
        write!(stream, "RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n{headers}")?;
        // As much as a gigabit network carries. How far an answer is read is looked at a few times a second; what loopback carries between
        // two looks depends on who has the processor.
        let chunk = body.repeat((64 << 10) / body.len());
        loop {
            stream.write_all(&chunk)?;
            std::thread::sleep(std::time::Duration::from_micros(500));
        }
    }))
}

const ANSWER: &str = "its RTSP answer has more than 4 MiB";

#[test]
fn an_rtsp_cameras_headers_that_never_end() {
    ends_within_bounds(raw_rtsp::start(describing("", b"X-Again: and again\r\n")).as_str(), &[ANSWER]);
}

#[test]
fn an_rtsp_cameras_description_of_four_gigabytes() {
    let headers = "Content-Type: application/sdp\r\nContent-Length: 4000000000\r\n\r\n";
    ends_within_bounds(raw_rtsp::start(describing(headers, b"a=x:yyyyyyyyyyyyyyy\r\n")).as_str(), &[ANSWER]);
}

fn playing(play: impl Fn(&mut Packets) -> io::Result<()> + Send + Sync + 'static) -> String {
    let frames = raw_rtsp::frames();
    let play = move |packets: &mut Packets, _| {
        // The decoder is there by then.
        frames.iter().take(20).try_for_each(|frame| packets.frame(frame))?;
        play(packets)
    };
    raw_rtsp::start(Behaviour::Plays(Box::new(play))).into()
}

#[test]
fn an_rtp_fragment_that_never_ends() {
    let url = playing(|packets| {
        packets.fragment(0x65, true, false, FILLING, false)?;
        loop {
            packets.fragment(0x65, false, false, FILLING, false)?;
        }
    });
    ends_within_bounds(&url, &[TOO_MUCH]);
}

#[test]
fn an_rtp_frame_of_whole_units_that_never_ends() {
    let url = playing(|packets| {
        loop {
            packets.packet(&[&[0x61], FILLING].concat(), false)?;
        }
    });
    ends_within_bounds(&url, &[TOO_MUCH]);
}

#[test]
fn rtp_senders_that_are_always_new_ones() {
    let url = playing(|packets| {
        loop {
            packets.ssrc = packets.ssrc.wrapping_add(1);
            for _ in 0..10 {
                packets.packet(&[&[0x61], FILLING].concat(), true)?;
            }
        }
    });
    ends_within_bounds(&url, &["names more than 256 senders", "its pipeline has grown beyond 256 elements"]);
}

#[test]
fn rtp_contributors_that_are_always_new_ones() {
    let url = playing(|packets| {
        for first in (1000..).step_by(15) {
            packets.contributors = (first..first + 15).collect();
            packets.packet(b"\x61", true)?;
        }
        Ok(())
    });
    ends_within_bounds(&url, &["names more than 256 senders"]);
}

#[test]
fn rtcp_senders_that_are_always_new_ones() {
    let url = playing(|packets| {
        for first in (1000_u32..).step_by(31) {
            // A report about nothing, and 31 descriptions that say nothing.
            let mut bytes = [&[0x80, 201, 0, 1], 7_u32.to_be_bytes().as_slice(), &[0x80 | 31, 202, 0, 62]].concat();
            bytes.extend((first..first + 31).flat_map(|number| [number.to_be_bytes(), [0; 4]].concat()));
            packets.rtcp(&bytes)?;
        }
        Ok(())
    });
    ends_within_bounds(&url, &["names more than 256 senders"]);
}

#[test]
fn a_flood_of_packets_costs_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let frames = raw_rtsp::frames();
    // Without a pause, and all of them of the same moment.
    let flood = Behaviour::Plays(Box::new(move |packets, _| {
        loop {
            for nals in &frames {
                for (n, nal) in nals.iter().enumerate() {
                    packets.nal(nal, n + 1 == nals.len())?;
                }
            }
        }
    }));
    let url = raw_rtsp::start(flood);
    let config = format!(
        "model: {{ path: none }}\nsampling: {{ interval: 100ms }}\napi: {{ listen: 127.0.0.1:0 }}\n\
         streams: [{{ id: flood, url: \"{url}\" }}]\n"
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    let frames = |daemon: &mut Daemon| {
        let (_, body) = daemon.get("/api/v1/streams");
        let rows: Value = serde_json::from_str(&body).unwrap();
        rows["streams"][0]["frames"].as_u64().unwrap_or(0)
    };
    eventually("frames come", || (frames(&mut daemon) > 100).then_some(()));
    let before = daemon.rss();
    eventually("many more come", || (frames(&mut daemon) > 2000).then_some(()));
    let peak = daemon.peak();
    println!("{} MiB, then {} MiB at most", before / MIB, peak / MIB);
    assert!(peak < before + ROOM, "{} MiB became {} MiB", before / MIB, peak / MIB);
    assert!(daemon.stop().success());
}
