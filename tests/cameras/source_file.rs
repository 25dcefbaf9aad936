//! Local files: played to their end, in real time or as fast as frames are taken, turned as the container says, and refused
//! clearly when they are no video.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::recorder::{Options, Running, make, make_mp4, settings};
use vtagd::frame::slot::{slot, wake_channel};
use vtagd::frame::{FrameTap, Matrix, PixelFormat, Range};
use vtagd::platform::shutdown;
use vtagd::sample::{OnFull, Sampler};
use vtagd::source::{Decode, Ended, Location, Pace, Source, SourceError, SourceSettings};
use vtagd::stream::accounting::{FrameAccounting, FrameOutcome};
use vtagd::stream::status::{StreamState, StreamStatus};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn fast(path: &Path) -> SourceSettings {
    SourceSettings { pace: Pace::Fast, ..settings(Location::File(path.to_owned())) }
}

fn clip(folder: &tempfile::TempDir, frames: u32) -> PathBuf {
    let path = folder.path().join("clip.mp4");
    make_mp4(&path, frames, (322, 182), "ball");
    path
}

#[test]
fn a_fast_file_gives_every_frame_in_order_and_then_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = clip(&folder, 100);
    let (ended, frames, report) = Running::start(fast(&path)).wait_end();
    assert_eq!(ended, Ended::EndOfFile);
    assert_eq!(report.state, StreamState::Ended);
    assert_eq!((report.frames, report.size), (100, Some((322, 182))));
    let times: Vec<_> = frames.iter().map(|f| f.media.as_millis()).collect();
    assert_eq!(times, (0..100).map(|n| n * 40).collect::<Vec<_>>());
    assert!(frames.iter().all(|f| f.size == (322, 182) && f.format == PixelFormat::I420));
}

#[test]
fn a_slow_reader_of_a_fast_file_misses_no_sampled_frame() {
    let folder = tempfile::tempdir().unwrap();
    let path = clip(&folder, 100);
    let accounting = Arc::new(FrameAccounting::default());
    let (wake, woken) = wake_channel();
    let (writer, reader) = slot(1, wake);
    let (_trigger, shutdown) = shutdown::channel();
    let on_full = OnFull::Wait(shutdown.clone());
    let sampler = Sampler::new("cam".into(), ms(200), Arc::clone(&accounting), writer, on_full);
    let status = Arc::new(StreamStatus::new("cam".into()));
    let source = Source::new(fast(&path), Arc::new(sampler) as Arc<dyn FrameTap>, status, shutdown);
    let source = std::thread::spawn(move || source.run());
    let mut times = Vec::new();
    while !reader.is_finished() {
        let _ = woken.recv_timeout(Duration::from_secs(30));
        while let Some(frame) = reader.take() {
            times.push(frame.time.media.as_millis());
            frame.guard.complete(FrameOutcome::Inferred);
            // Work that takes longer than decoding.
            std::thread::sleep(ms(5));
        }
    }
    assert_eq!(source.join().unwrap(), Ended::EndOfFile);
    assert_eq!(times, (0..20).map(|n| n * 200).collect::<Vec<_>>());
    let totals = accounting.totals();
    assert_eq!((totals.sampled, totals.inferred, totals.dropped.len()), (20, 20, 0));
}

#[test]
fn only_sampled_frames_come_through() {
    let folder = tempfile::tempdir().unwrap();
    let path = clip(&folder, 100);
    let running = Running::with(fast(&path), Options { interval: ms(1000), ..Options::default() });
    let (_, frames, report) = running.wait_end();
    assert_eq!(frames.iter().map(|f| f.media.as_millis()).collect::<Vec<_>>(), [0, 1000, 2000, 3000]);
    assert_eq!(report.frames, 100);
}

#[test]
fn a_live_file_takes_as_long_as_it_lasts() {
    let folder = tempfile::tempdir().unwrap();
    let path = clip(&folder, 50);
    let start = Instant::now();
    let (ended, frames, _) = Running::start(settings(Location::File(path))).wait_end();
    assert_eq!((ended, frames.len()), (Ended::EndOfFile, 50));
    assert!(start.elapsed() >= ms(49 * 40), "{:?}", start.elapsed());
    let played = frames[49].captured - frames[0].captured;
    assert!(played >= ms(1900), "{played:?}");
}

#[test]
fn a_looped_file_goes_on_one_frame_after_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = clip(&folder, 20);
    let running = Running::start(SourceSettings { looped: true, ..fast(&path) });
    let frames = running.wait_frames(70);
    let times: Vec<_> = frames[..70].iter().map(|f| f.media.as_millis()).collect();
    assert_eq!(times, (0..70).map(|n| n * 40).collect::<Vec<_>>());
    assert_eq!(running.report().reconnects, 0);
    assert_eq!(running.stop().0, Ended::Shutdown);
}

#[test]
fn a_looped_live_file_keeps_its_pace_over_the_seam() {
    let folder = tempfile::tempdir().unwrap();
    let path = clip(&folder, 20);
    let running = Running::start(SourceSettings { looped: true, ..settings(Location::File(path)) });
    let frames = running.wait_frames(60);
    assert!(frames.windows(2).all(|w| w[1].media > w[0].media));
    let played = frames[59].captured - frames[0].captured;
    assert!(played >= ms(2000), "three turns of 0.8 s took {played:?}");
}

/// Writes `degrees` into the track header of an MP4 file, as phones do.
fn turn(path: &Path, matrix: [i32; 9]) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.windows(4).position(|w| w == b"tkhd").unwrap() + 44;
    for (n, value) in matrix.iter().enumerate() {
        bytes[at + n * 4..at + n * 4 + 4].copy_from_slice(&value.to_be_bytes());
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn the_rotation_that_a_container_asks_for_is_honoured() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("phone.mp4");
    // The left half is bright: after a quarter turn clockwise, the upper half is.
    make(&format!(
        "videotestsrc num-buffers=5 pattern=black ! video/x-raw,format=I420,width=320,height=240,framerate=25/1 \
         ! videobox right=160 ! videobox left=-160 fill=white ! video/x-raw,format=I420,width=320,height=240 \
         ! x264enc speed-preset=ultrafast bframes=0 ! h264parse ! mp4mux ! filesink location=\"{}\"",
        path.display()
    ));
    let (_, plain, _) = Running::start(fast(&path)).wait_end();
    assert_eq!(plain[0].size, (320, 240));
    let [a, b, c, d] = plain[0].quarters;
    assert!(a > 200.0 && c > 200.0 && b < 50.0 && d < 50.0, "{:?}", plain[0].quarters);
    turn(&path, [0, 0x10000, 0, -0x10000, 0, 0, 240 << 16, 0, 0x4000_0000]);
    let (_, turned, _) = Running::start(fast(&path)).wait_end();
    assert_eq!(turned[0].size, (240, 320));
    let [a, b, c, d] = turned[0].quarters;
    assert!(a > 200.0 && b > 200.0 && c < 50.0 && d < 50.0, "{:?}", turned[0].quarters);
}

#[test]
fn colours_are_told_by_what_the_bit_stream_says_or_else_by_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let make_clip = |name: &str, caps: &str, encoder: &str| {
        let path = folder.path().join(name);
        make(&format!(
            "videotestsrc num-buffers=3 ! video/x-raw,{caps},framerate=25/1 ! {encoder} ! matroskamux ! filesink location=\"{}\"",
            path.display()
        ));
        let (_, frames, _) = Running::start(fast(&path)).wait_end();
        frames[0]
    };
    let h264 = "x264enc speed-preset=ultrafast ! h264parse";
    let said = make_clip("said.mkv", "format=I420,width=320,height=240,colorimetry=bt709", h264);
    assert_eq!(said.colours, (Matrix::Bt709, Range::Limited));
    let jpeg = make_clip("jpeg.mkv", "format=I420,width=1280,height=720", "jpegenc");
    assert_eq!((jpeg.colours, jpeg.format), ((Matrix::Bt601, Range::Full), PixelFormat::I420));
    let h265 = make_clip(
        "h265.mkv",
        "format=I420,width=1280,height=720,colorimetry=bt709",
        "x265enc speed-preset=ultrafast ! h265parse",
    );
    assert_eq!(h265.colours, (Matrix::Bt709, Range::Limited));
}

#[test]
fn the_range_that_the_pictures_tell_counts_and_not_what_is_made_of_their_container() {
    // Full range by its own headers and by its container; qtdemux tells only the matrix.
    let clip = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/full_range_vui.mp4");
    let (_, frames, _) = Running::start(fast(&clip)).wait_end();
    assert_eq!(frames[0].colours, (Matrix::Bt709, Range::Full));
    let folder = tempfile::tempdir().unwrap();
    for (name, colours, encoder, expected) in [
        ("full.mp4", "1:3:5:1", "x264enc ! h264parse ! qtmux", (Matrix::Bt709, Range::Full)),
        ("usual.mp4", "2:3:5:1", "x264enc ! h264parse ! qtmux", (Matrix::Bt709, Range::Limited)),
        ("silent.mp4", "bt601", "x264enc ! h264parse ! mp4mux", (Matrix::Bt601, Range::Limited)),
        ("full.mkv", "1:3:5:1", "x264enc ! h264parse ! matroskamux", (Matrix::Bt709, Range::Full)),
    ] {
        let path = folder.path().join(name);
        make(&format!(
            "videotestsrc num-buffers=3 ! video/x-raw,format=I420,width=320,height=240,framerate=25/1,colorimetry={colours} ! \
             {encoder} ! filesink location=\"{}\"",
            path.display()
        ));
        let (_, frames, _) = Running::start(fast(&path)).wait_end();
        assert_eq!(frames[0].colours, expected, "{name}");
    }
}

#[test]
fn formats_that_we_do_not_read_are_converted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ten-bit.mkv");
    make(&format!(
        "videotestsrc num-buffers=3 ! video/x-raw,format=I420_10LE,width=320,height=240 ! x264enc ! h264parse ! matroskamux \
         ! filesink location=\"{}\"",
        path.display()
    ));
    let (ended, frames, _) = Running::start(fast(&path)).wait_end();
    assert_eq!((ended, frames.len()), (Ended::EndOfFile, 3));
    assert!(frames[0].quarters.iter().all(|q| *q > 20.0));
}

#[test]
fn a_decoder_does_not_stall_while_many_of_its_pictures_are_held() {
    let folder = tempfile::tempdir().unwrap();
    let path = clip(&folder, 100);
    let running = Running::with(fast(&path), Options { hold: 40, ..Options::default() });
    let (ended, frames, _) = running.wait_end();
    assert_eq!((ended, frames.len()), (Ended::EndOfFile, 100));
}

fn failure(path: &Path) -> (SourceError, String) {
    let (ended, frames, report) = Running::start(fast(path)).wait_end();
    assert!(frames.is_empty());
    let Ended::Failed(error) = ended else { panic!("{ended:?}") };
    assert_eq!(report.state, StreamState::Failed { error: error.to_string() });
    let text = error.to_string();
    assert!(text.contains("stream cam") && text.contains(&path.display().to_string()), "{text}");
    (error, text)
}

#[test]
fn a_text_file_called_mp4_fails_with_a_clear_message() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.mp4");
    for text in ["not a video\n".to_owned(), "not a video\n".repeat(1000), String::new()] {
        std::fs::write(&path, text).unwrap();
        let (error, text) = failure(&path);
        assert!(matches!(error, SourceError::NotVideo { .. }), "{error:?}");
        assert!(text.contains("not a video that can be read"), "{text}");
    }
}

#[test]
fn a_picture_of_a_kind_that_is_not_read_is_called_so() {
    let (error, text) = failure(Path::new("tests/data/pictures/picture.avif"));
    assert!(matches!(error, SourceError::NotVideo { .. }), "{error:?}");
    assert!(text.contains("it is an AVIF picture") && text.contains("save it as PNG"), "{text}");
}

#[test]
fn a_file_that_is_not_there_fails_at_once() {
    let (error, text) = failure(Path::new("/nonexistent/clip.mp4"));
    assert!(matches!(error, SourceError::NotFound { .. }), "{text}");
}

#[test]
fn a_file_with_sound_alone_fails_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sound.mp4");
    make(&format!("audiotestsrc num-buffers=50 ! avenc_aac ! mp4mux ! filesink location=\"{}\"", path.display()));
    let (error, text) = failure(&path);
    assert!(matches!(error, SourceError::NotVideo { .. }), "{error:?}");
    assert!(text.contains("no video stream"), "{text}");
}

#[test]
fn a_truncated_file_gives_what_it_has_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = clip(&folder, 100);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap();
    let (ended, frames, _) = Running::start(fast(&path)).wait_end();
    assert!(!frames.is_empty() && frames.len() < 100, "{} frames, {ended:?}", frames.len());
    // Without its end but also without its index there is nothing to play.
    std::fs::write(&path, &bytes[..600]).unwrap();
    let (error, _) = failure(&path);
    assert!(matches!(error, SourceError::NotVideo { .. } | SourceError::Decode { .. }), "{error:?}");
}

#[test]
fn a_file_that_waits_for_its_reader_stops_at_once_on_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    let path = clip(&folder, 100);
    let accounting = Arc::new(FrameAccounting::default());
    let (wake, woken) = wake_channel();
    let (writer, reader) = slot(1, wake);
    let (trigger, shutdown) = shutdown::channel();
    let sampler = Sampler::new("cam".into(), ms(0), Arc::clone(&accounting), writer, OnFull::Wait(shutdown.clone()));
    let status = Arc::new(StreamStatus::new("cam".into()));
    let source = Source::new(fast(&path), Arc::new(sampler) as Arc<dyn FrameTap>, status, shutdown);
    let source = std::thread::spawn(move || source.run());
    woken.recv_timeout(Duration::from_secs(30)).unwrap();
    trigger.trigger();
    assert_eq!(source.join().unwrap(), Ended::Shutdown);
    drop(reader);
    let totals = accounting.totals();
    assert_eq!(totals.unaccounted(), 0, "{totals:?}");
    assert!(totals.dropped.keys().all(|reason| *reason == "shutdown" || *reason == "decode"), "{totals:?}");
}

/// The `count` bytes behind `name` in `bytes`, to be changed.
fn behind<'a>(bytes: &'a mut [u8], name: &[u8], at: usize, count: usize) -> &'a mut [u8] {
    let found = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len() + at;
    &mut bytes[found..found + count]
}

#[test]
fn an_edit_list_that_begins_within_a_frame_begins_with_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.mp4");
    crate::common::recorder::make(&format!(
        "videotestsrc num-buffers=100 pattern=ball ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 ! x264enc bframes=0 key-int-max=25 ! \
         h264parse ! mp4mux ! filesink location=\"{}\"",
        path.display()
    ));
    let mut bytes = std::fs::read(&path).unwrap();
    let scale = u32::from_be_bytes(behind(&mut bytes, b"mdhd", 12, 4).try_into().unwrap());
    // 1.3 s, in the middle of the 33rd frame.
    let begin = (scale * 13 / 10).to_be_bytes();
    behind(&mut bytes, b"elst", 12, 4).copy_from_slice(&begin);
    std::fs::write(&path, bytes).unwrap();
    for decode in [Decode::All, Decode::Auto] {
        let (ended, frames, _) = Running::start(SourceSettings { decode, ..fast(&path) }).wait_end();
        assert_eq!((ended, frames.len()), (Ended::EndOfFile, 67), "{decode:?}");
    }
    // Of keyframes alone that before the beginning is none.
    let (_, frames, _) = Running::start(SourceSettings { decode: Decode::Keyframes, ..fast(&path) }).wait_end();
    assert_eq!(frames.len(), 2);
}

#[test]
fn an_avi_with_gaps_keeps_its_times_however_it_is_played() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gaps.avi");
    crate::common::recorder::make(&format!(
        "videotestsrc num-buffers=60 pattern=ball ! video/x-raw,width=160,height=120,framerate=25/1 ! avenc_mpeg4 max-bframes=0 gop-size=20 ! avimux ! \
         filesink location=\"{}\"",
        path.display()
    ));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, with_gaps(&bytes)).unwrap();
    let times = |pace, decode| {
        let settings = SourceSettings { pace, decode, ..fast(&path) };
        let options = Options { interval: Duration::from_millis(200), ..Options::default() };
        let (ended, frames, report) = Running::with(settings, options).wait_end();
        assert_eq!(ended, Ended::EndOfFile, "{report:?}");
        frames.iter().map(|frame| frame.media.as_millis()).collect::<Vec<_>>()
    };
    let expected = times(Pace::Fast, Decode::All);
    // Two gaps of twelve frames each.
    assert!(expected.len() >= 12 && expected.last() > Some(&3000), "{expected:?}");
    assert_eq!(times(Pace::Live, Decode::All), expected);
    assert_eq!(times(Pace::Live, Decode::Auto), expected);
}

/// An AVI file with twelve empty frames behind every twentieth.
fn with_gaps(avi: &[u8]) -> Vec<u8> {
    let number = |at: usize| u32::from_le_bytes(avi[at..at + 4].try_into().unwrap()) as usize;
    let find = |name: &[u8]| avi.windows(4).position(|window| window == name).unwrap();
    let (movi, index) = (find(b"movi"), find(b"idx1"));
    let (mut body, mut entries, mut at, mut frames) = (b"movi".to_vec(), Vec::new(), movi + 4, 0);
    let mut add = |id: &[u8], flags: u32, data: &[u8]| {
        let (place, length) = (body.len() as u32, data.len() as u32);
        entries.extend([id, &flags.to_le_bytes(), &place.to_le_bytes(), &length.to_le_bytes()].concat());
        body.extend([id, &length.to_le_bytes(), data, if data.len() % 2 == 1 { &[0] } else { &[] }].concat());
    };
    while at + 8 <= index {
        let length = number(at + 4);
        add(&avi[at..at + 4], number(index + 12 + 16 * frames) as u32, &avi[at + 8..at + 8 + length]);
        frames += 1;
        if frames % 20 == 0 {
            (0..12).for_each(|_| add(&avi[at..at + 4], 0, b""));
        }
        at += 8 + length + length % 2;
    }
    let count = (entries.len() / 16) as u32;
    let mut file = avi[..movi - 8].to_vec();
    behind(&mut file, b"avih", 20, 4).copy_from_slice(&count.to_le_bytes());
    behind(&mut file, b"strh", 36, 4).copy_from_slice(&count.to_le_bytes());
    for (name, part) in [(b"LIST", body), (b"idx1", entries)] {
        file.extend([&name[..], &(part.len() as u32).to_le_bytes(), &part].concat());
    }
    let length = (file.len() - 8) as u32;
    file[4..8].copy_from_slice(&length.to_le_bytes());
    file
}
