//! Cameras and files whose frames do not come whole: what a packet holds is no picture yet, and is not to be judged as one.

use std::time::Duration;

use crate::common::camera::{Camera, Codec, Content};
use crate::common::raw_rtsp::{self, Behaviour, Odd};
use crate::common::recorder::{Options, Running, make, settings};
use vtagd::platform::zoned_url::ZonedUrl;
use vtagd::source::{Decode, Ended, Location, Pace, SourceSettings};
use vtagd::stream::status::StreamState;

/// A camera whose frames come so gives a sample a second with `decode: auto`, and with keyframes alone.
fn is_sampled(coder: &str) {
    let picture =
        "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=25/1";
    let camera = Camera::start(Content::Launch(format!("{picture} ! {coder}")), Codec::H264, None);
    sampled(coder, || camera.url().into());
}

fn sampled(what: &str, url: impl Fn() -> ZonedUrl) {
    for decode in [Decode::Auto, Decode::Keyframes] {
        let settings = SourceSettings { decode, ..settings(Location::Rtsp(url())) };
        let options = Options { interval: Duration::from_secs(1), ..Options::default() };
        let running = Running::with(settings, options);
        running.wait_state(|state| {
            assert!(!matches!(state, StreamState::Down { .. }), "{what}, {decode:?}: {state:?}");
            *state == StreamState::Up
        });
        let frames = running.wait_frames(4);
        let span = frames[3].media - frames[0].media;
        assert!(span < Duration::from_secs(15), "{what}, {decode:?}: {span:?}");
    }
}

#[test]
fn h264_in_a_transport_stream_is_sampled() {
    is_sampled(
        "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! mpegtsmux ! rtpmp2tpay name=pay0 pt=33",
    );
}

/// Frames of MPEG-4 Part 2, every twenty-fifth with the headers of the stream before it.
fn mpeg_4() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.m4v");
    make(&format!(
        "videotestsrc num-buffers=50 pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=25/1 ! \
         avenc_mpeg4 gop-size=25 ! filesink location=\"{}\"",
        path.display()
    ));
    let bytes = std::fs::read(path).unwrap();
    let at = |code: u8| -> Vec<usize> {
        bytes.windows(4).enumerate().filter(|(_, w)| *w == [0, 0, 1, code]).map(|(n, _)| n).collect()
    };
    // Of each frame; headers, or the mark of a group, may stand before it.
    let (frames, groups) = (at(0xb6), at(0xb3));
    let headers = bytes[..frames[0]].to_vec();
    let ends = frames.iter().skip(1).copied().chain([bytes.len()]);
    let end_of = |end: usize| groups.iter().copied().find(|group| end - 8 <= *group && *group < end).unwrap_or(end);
    let frames: Vec<Vec<u8>> =
        frames.iter().zip(ends).map(|(begin, end)| bytes[*begin..end_of(end)].to_vec()).collect();
    let with_headers =
        |(n, frame): (usize, Vec<u8>)| if n % 25 == 0 { [headers.clone(), frame].concat() } else { frame };
    frames.into_iter().enumerate().map(with_headers).collect()
}

#[test]
fn mpeg_4_part_2_in_many_packets_is_sampled() {
    let play = |packets: &mut raw_rtsp::Packets, _| {
        let frames = mpeg_4();
        loop {
            for frame in &frames {
                // Three packets or more of each.
                let pieces: Vec<&[u8]> = frame.chunks((frame.len() / 3).clamp(1, 1200)).collect();
                for (n, piece) in pieces.iter().enumerate() {
                    packets.packet(piece, n + 1 == pieces.len())?;
                }
                packets.frame::<&[u8]>(&[])?;
            }
        }
    };
    let description = |text: String| {
        let lines = text.lines().filter(|line| !line.starts_with("a=fmtp"));
        lines.map(|line| format!("{}\r\n", line.replace("H264/90000", "MP4V-ES/90000"))).collect::<String>()
    };
    let odd = || Odd { play: Box::new(play), description, ..Odd::camera() };
    sampled("MPEG-4", || raw_rtsp::start(Behaviour::Odd(odd())).into());
}

#[test]
fn theora_is_sampled() {
    is_sampled("theoraenc ! rtptheorapay name=pay0 pt=96");
}

#[test]
fn vp8_is_sampled() {
    is_sampled("vp8enc deadline=1 cpu-used=8 keyframe-max-dist=25 ! rtpvp8pay name=pay0 pt=96");
}

#[test]
fn a_gif_is_played_to_its_end_with_every_picture_at_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("moving.gif");
    let frames = (0..20_u8).map(|n| {
        let picture = image::RgbaImage::from_fn(64, 48, |x, y| image::Rgba([x as u8 * 3, y as u8 * 4, n * 9, 255]));
        image::Frame::from_parts(picture, 0, 0, image::Delay::from_numer_denom_ms(100, 1))
    });
    let file = std::fs::File::create(&path).unwrap();
    image::codecs::gif::GifEncoder::new(file).encode_frames(frames).unwrap();
    for (pace, interval, expected) in [(Pace::Fast, 500, 4), (Pace::Fast, 0, 20), (Pace::Live, 500, 4)] {
        let settings = SourceSettings { pace, ..settings(Location::File(path.clone())) };
        let options = Options { interval: Duration::from_millis(interval), ..Options::default() };
        let (ended, frames, _) = Running::with(settings, options).wait_end();
        assert_eq!(ended, Ended::EndOfFile);
        assert_eq!(frames.len(), expected, "{pace:?}, {interval} ms: {frames:?}");
    }
}

#[test]
fn b_frames_of_a_slow_camera_are_no_jump_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slow.mp4");
    make(&format!(
        "videotestsrc num-buffers=20 ! video/x-raw,format=I420,width=320,height=240,framerate=1/2 ! \
         x264enc bframes=3 b-adapt=false b-pyramid=true key-int-max=20 ! h264parse ! mp4mux ! filesink location=\"{}\"",
        path.display()
    ));
    let settings = SourceSettings { pace: Pace::Fast, ..settings(Location::File(path)) };
    let (ended, frames, _) = Running::start(settings).wait_end();
    assert_eq!((ended, frames.len()), (Ended::EndOfFile, 20));
}

#[test]
fn frames_that_nothing_came_before_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, cut) = (folder.path().join("whole.h264"), folder.path().join("cut.h264"));
    make(&format!(
        "videotestsrc num-buffers=50 ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 ! x264enc bframes=0 threads=1 \
         key-int-max=25 option-string=\"scenecut=0:repeat-headers=1\" ! video/x-h264,stream-format=byte-stream ! filesink location=\"{}\"",
        whole.display()
    ));
    // Without its first keyframe, whose parameters stay.
    let bytes = std::fs::read(&whole).unwrap();
    let mut starts: Vec<usize> = memchr::memmem::find_iter(&bytes, &[0, 0, 1]).collect();
    starts.push(bytes.len());
    let mut has_gone = false;
    let units = starts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).filter(|unit| {
        let goes = !has_gone && unit[3] & 31 == 5;
        has_gone |= goes;
        !goes
    });
    std::fs::write(&cut, units.collect::<Vec<_>>().concat()).unwrap();
    let settings = SourceSettings { pace: Pace::Fast, decode: Decode::All, ..settings(Location::File(cut)) };
    let (ended, frames, report) = Running::start(settings).wait_end();
    assert_eq!((ended, frames.len(), report.frames_lost), (Ended::EndOfFile, 25, 24), "{report:?}");
}
