//! Keyframes alone: what is dropped before the decoder, how soon a lone keyframe comes out, and what `auto` makes of a camera.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::common::camera::{Camera, Codec, Content};
use crate::common::recorder::{DEADLINE, Options, Running, Seen, settings};
use vtagd::frame::{FrameTap, FrameTime, Picture};
use vtagd::platform::shutdown;
use vtagd::source::{Decode, Ended, Location, Pace, Source, SourceSettings};
use vtagd::stream::status::StreamStatus;

const SECOND: Duration = Duration::from_secs(1);

/// Encoders as cameras and recorders use them; `GOP` frames from keyframe to keyframe.
const H264_WITH_B: &str = "x264enc speed-preset=veryfast bframes=3 b-adapt=false b-pyramid=true ref=4 bitrate=500 \
                           key-int-max=GOP option-string=scenecut=0";
const H265_WITH_B: &str = "x265enc speed-preset=ultrafast key-int-max=GOP option-string=\"bframes=3:b-adapt=0:scenecut=0:open-gop=0:log-level=none\"";

fn picture(frames: u32) -> String {
    format!(
        "videotestsrc num-buffers={frames} pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=25/1"
    )
}

/// A camera that sends the pictures in real time with B-frames and `gop` frames to a group.
fn camera(encoder: &str, pay: &str, gop: u32) -> Camera {
    let encoder = encoder.replace("GOP", &gop.to_string());
    let launch = format!(
        "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=25/1 ! {encoder} \
         ! {pay} name=pay0 pt=96 config-interval=-1"
    );
    Camera::start(Content::Launch(launch), Codec::H264, None)
}

fn clip(path: &Path, frames: u32, encoder: &str, gop: u32, parse: &str) {
    let encoder = encoder.replace("GOP", &gop.to_string());
    crate::common::recorder::make(&format!(
        "{} ! {encoder} ! {parse} ! matroskamux ! filesink location=\"{}\"",
        picture(frames),
        path.display()
    ));
}

fn of(location: Location, decode: Decode) -> SourceSettings {
    SourceSettings { decode, ..settings(location) }
}

fn sampling(settings: SourceSettings, interval: Duration) -> Running {
    Running::with(settings, Options { interval, ..Options::default() })
}

fn apart(frames: &[Seen]) -> Vec<Duration> {
    frames.windows(2).map(|pair| pair[1].media - pair[0].media).collect()
}

fn about(duration: Duration, wanted: Duration) -> bool {
    duration.abs_diff(wanted) <= Duration::from_millis(45)
}

/// Whether every point of the samples' grid has one, in the camera's own time, and the next one follows within two. A machine that has no time lets a
/// frame arrive late, which moves its time stamp.
fn have_a_point_each(frames: &[Seen], interval: Duration) -> bool {
    let point = |frame: &Seen| (frame.media + Duration::from_millis(20)).as_millis() / interval.as_millis();
    frames.windows(2).all(|pair| (1..=2).contains(&(point(&pair[1]) - point(&pair[0]))))
}

/// What a source says to its tap, in order.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Word {
    Asked(Duration),
    Came(Duration),
}

/// Wants everything and writes down what happens.
#[derive(Default)]
struct Diary(Mutex<Vec<Word>>, Condvar);

impl FrameTap for Diary {
    fn interval(&self) -> Duration {
        SECOND
    }

    fn is_sampled(&self, media: Duration) -> bool {
        self.0.lock().unwrap().push(Word::Asked(media));
        self.1.notify_all();
        true
    }

    fn deliver(&self, time: FrameTime, _: Picture) {
        self.0.lock().unwrap().push(Word::Came(time.media));
        self.1.notify_all();
    }
}

fn diary_of(settings: SourceSettings, words: usize) -> Vec<Word> {
    let diary = Arc::new(Diary::default());
    let status = Arc::new(StreamStatus::new(Arc::clone(&settings.id)));
    let (trigger, shutdown) = shutdown::channel();
    let source = Source::new(settings, Arc::clone(&diary) as Arc<dyn FrameTap>, status, shutdown);
    let thread = std::thread::spawn(move || source.run());
    let written = diary.0.lock().unwrap();
    let (written, timeout) = diary.1.wait_timeout_while(written, DEADLINE, |written| written.len() < words).unwrap();
    assert!(!timeout.timed_out(), "{written:?}");
    let written = written.clone();
    trigger.trigger();
    thread.join().unwrap();
    written
}

/// Every wanted keyframe has come out before the next one is asked about: nothing keeps it for a whole group of pictures. The
/// source is asked about keyframes alone; an encoder that has no time may put them a little closer or farther apart.
fn comes_at_once(words: &[Word]) {
    for pair in words.chunks_exact(2) {
        let [Word::Asked(asked), Word::Came(came)] = pair else { panic!("{words:?}") };
        assert_eq!(asked, came, "{words:?}");
    }
    let asked: Vec<Duration> =
        words.iter().step_by(2).map(|w| if let Word::Asked(m) = w { *m } else { SECOND }).collect();
    assert!(asked.windows(2).all(|pair| pair[1] - pair[0] > SECOND / 2), "{asked:?}");
}

#[test]
fn a_lone_h264_keyframe_of_a_stream_with_b_frames_comes_out_at_once() {
    let camera = camera(H264_WITH_B, "rtph264pay", 25);
    comes_at_once(&diary_of(of(Location::Rtsp(camera.url().into()), Decode::Keyframes), 8));
}

#[test]
fn a_lone_h265_keyframe_of_a_stream_with_b_frames_comes_out_at_once() {
    let camera = camera(H265_WITH_B, "rtph265pay", 25);
    comes_at_once(&diary_of(of(Location::Rtsp(camera.url().into()), Decode::Keyframes), 8));
}

#[test]
fn lone_keyframes_of_files_with_b_frames_come_out_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for (name, encoder, parse) in [("a.mkv", H264_WITH_B, "h264parse"), ("b.mkv", H265_WITH_B, "h265parse")] {
        let path = folder.path().join(name);
        clip(&path, 150, encoder, 25, parse);
        let settings = SourceSettings { pace: Pace::Fast, ..of(Location::File(path), Decode::Keyframes) };
        comes_at_once(&diary_of(settings, 12));
    }
}

#[test]
fn between_keyframes_nothing_is_asked_about_and_all_frames_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mkv");
    clip(&path, 250, H264_WITH_B, 25, "h264parse");
    let settings = SourceSettings { pace: Pace::Fast, ..of(Location::File(path), Decode::Keyframes) };
    let running = sampling(settings, 2 * SECOND);
    let recorder = Arc::clone(&running.recorder);
    let (ended, frames, report) = running.wait_end();
    assert_eq!(ended, Ended::EndOfFile);
    let times: Vec<u64> = frames.iter().map(|frame| frame.media.as_secs()).collect();
    assert_eq!(times, [0, 2, 4, 6, 8]);
    assert_eq!((recorder.asked(), report.frames), (10, 250));
    assert_eq!((report.decode, report.codec.as_deref()), (Some("keyframes"), Some("h264")));
    assert_eq!(report.decoder.as_deref(), Some("avdec_h264"));
    assert!((report.keyframe_interval.unwrap() - 1.0).abs() < 0.01 && (report.frame_rate.unwrap() - 25.0).abs() < 0.5);
}

#[test]
fn auto_decodes_keyframes_alone_where_they_come_as_often_as_samples_are_wanted() {
    let camera = camera(H264_WITH_B, "rtph264pay", 25);
    // Twice as often: how late one may be before it counts as missing does not depend on how busy this machine is.
    let running = sampling(of(Location::Rtsp(camera.url().into()), Decode::Auto), SECOND * 2);
    let frames = running.wait_frames(4);
    assert!(have_a_point_each(&frames, SECOND * 2), "{frames:?}");
    let (asked, report) = (running.recorder.asked() as u64, running.report());
    assert_eq!(report.decode, Some("keyframes"));
    assert!(report.frames > 100 && asked <= report.frames / 25 + 2, "{asked}: {report:?}");
}

#[test]
fn auto_decodes_every_frame_where_keyframes_are_rare_and_misses_no_sample_for_it() {
    let camera = camera(H264_WITH_B, "rtph264pay", 75);
    let interval = Duration::from_millis(400);
    let running = sampling(of(Location::Rtsp(camera.url().into()), Decode::Auto), interval);
    let frames = running.wait_frames(20);
    // Less than a group: none is waited for.
    assert!(apart(&frames).iter().all(|d| *d < SECOND * 2), "{:?}", apart(&frames));
    let report = running.report();
    assert_eq!(report.decode, Some("all"), "{report:?}");
    assert!((2.0..4.0).contains(&report.keyframe_interval.unwrap()), "{report:?}");
}

#[test]
fn auto_goes_over_in_the_middle_of_a_group_without_a_broken_picture() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mkv");
    // The ball is white on black; a picture without its references is grey.
    clip(&path, 200, H264_WITH_B, 100, "h264parse");
    let of = |decode, pace| SourceSettings { pace, ..of(Location::File(path.clone()), decode) };
    let interval = Duration::from_millis(200);
    let (_, expected, _) = sampling(of(Decode::All, Pace::Fast), interval).wait_end();
    let (_, frames, report) = sampling(of(Decode::Auto, Pace::Live), interval).wait_end();
    assert_eq!(report.decode, Some("all"));
    assert_eq!(frames.len(), expected.len());
    for (frame, expected) in frames.iter().zip(&expected) {
        assert_eq!(frame.media, expected.media);
        let near = frame.quarters.iter().zip(&expected.quarters).all(|(a, b)| (a - b).abs() < 0.01);
        assert!(near, "{frame:?} instead of {expected:?}");
    }
}

#[test]
fn behind_the_last_frame_that_a_sample_needs_nothing_is_decoded_and_pictures_are_the_same_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let plain = H264_WITH_B.replace("bframes=3", "bframes=0");
    let interval = Duration::from_millis(400);
    let encoders =
        [("a", plain.as_str(), "h264parse"), ("b", H264_WITH_B, "h264parse"), ("c", H265_WITH_B, "h265parse")];
    let watched = encoders.map(|(name, encoder, parse)| {
        let path = folder.path().join(name).with_extension("mkv");
        // Twice as long as the distance of samples.
        clip(&path, 150, encoder, 20, parse);
        let of = |decode, pace| SourceSettings { pace, ..of(Location::File(path.clone()), decode) };
        let (_, expected, _) = sampling(of(Decode::All, Pace::Fast), interval).wait_end();
        (encoder.to_owned(), expected, sampling(of(Decode::Auto, Pace::Live), interval))
    });
    for (encoder, expected, running) in watched {
        let recorder = Arc::clone(&running.recorder);
        let (_, frames, report) = running.wait_end();
        let seen = |frames: &[Seen]| frames.iter().map(|frame| (frame.media, frame.digest)).collect::<Vec<_>>();
        assert_eq!(seen(&frames), seen(&expected), "{encoder}");
        // Decoders that work on several frames at once, and wait for those that are shown earlier, are ahead by some.
        assert!(recorder.asked() < 145, "{} of 150: {encoder}", recorder.asked());
        assert_eq!((report.decode, report.frames), (Some("all"), 150), "{encoder}");
    }
}

#[test]
fn auto_takes_every_picture_of_a_file_that_is_played_fast() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mkv");
    clip(&path, 100, H264_WITH_B, 25, "h264parse");
    let settings = SourceSettings { pace: Pace::Fast, ..of(Location::File(path), Decode::Auto) };
    let running = sampling(settings, SECOND);
    let recorder = Arc::clone(&running.recorder);
    let (_, frames, report) = running.wait_end();
    assert_eq!((recorder.asked(), frames.len(), report.decode), (100, 4, Some("all")));
}

#[test]
fn a_live_file_whose_frames_mostly_end_before_the_decoder_plays_in_real_time_over_its_seams() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mkv");
    // One keyframe in a turn of 0.8 s; every fourth of them is wanted.
    clip(&path, 20, H264_WITH_B, 20, "h264parse");
    let looped = SourceSettings { looped: true, ..of(Location::File(path), Decode::Keyframes) };
    // From before the start: a busy machine may be late with the first frame, and nothing is ever early.
    let started = Instant::now();
    let running = sampling(looped, SECOND * 3);
    let frames = running.wait_frames(3);
    let (media, real) = (frames[2].media - frames[0].media, frames[2].captured - started);
    assert!(media >= SECOND * 6 - SECOND / 10, "{media:?}");
    // The last picture of a turn does not stand for its 40 ms: the next turn begins at once.
    let seams = Duration::from_millis(40) * 8;
    assert!(real + seams + SECOND / 20 >= media, "{media:?} were played in {real:?}");
}

#[test]
fn a_live_file_takes_its_time_where_its_end_is_held_back_and_never_decoded() {
    let folder = tempfile::tempdir().unwrap();
    // Turns of 2.4 s: keyframes that are close enough and one in the middle that is not needed, then some that are too far apart.
    for (name, gop) in [("a", 20), ("b", 30)] {
        let path = folder.path().join(name).with_extension("mkv");
        clip(&path, 60, H264_WITH_B, gop, "h264parse");
        let looped = SourceSettings { looped: true, ..of(Location::File(path), Decode::Auto) };
        let started = Instant::now();
        let running = sampling(looped, Duration::from_millis(800));
        let frames = running.wait_frames(7);
        let (media, real) = (frames[6].media - frames[0].media, frames[6].captured - started);
        // Two seams are in it.
        assert!(
            real + Duration::from_millis(130) >= media,
            "{media:?} were played in {real:?}, a keyframe every {gop}"
        );
    }
}

#[test]
fn of_mjpeg_only_wanted_pictures_are_decoded() {
    let camera = Camera::start(Content::pattern(320, 240), Codec::Mjpeg, None);
    for decode in [Decode::Auto, Decode::Keyframes] {
        let running = sampling(of(Location::Rtsp(camera.url().into()), decode), SECOND);
        let frames = running.wait_frames(3);
        assert!(have_a_point_each(&frames, SECOND), "{:?}", apart(&frames));
        let report = running.report();
        assert_eq!((report.decode, report.codec.as_deref()), (Some("keyframes"), Some("jpeg")));
    }
}

#[test]
fn intra_refresh_gives_one_picture_to_keyframes_and_all_to_auto() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mkv");
    let encoder = "x264enc speed-preset=veryfast bframes=0 bitrate=500 intra-refresh=true key-int-max=25";
    clip(&path, 100, encoder, 25, "h264parse");
    let of = |decode, pace| SourceSettings { pace, ..of(Location::File(path.clone()), decode) };
    let (_, frames, _) = sampling(of(Decode::Keyframes, Pace::Fast), SECOND).wait_end();
    assert_eq!(frames.len(), 1);
    let (_, frames, report) = sampling(of(Decode::Auto, Pace::Live), SECOND).wait_end();
    assert_eq!((frames.len(), report.decode), (4, Some("all")));
}

#[test]
fn raw_pictures_and_templates_with_their_own_decoder_are_sampled_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.gst");
    let source = "videotestsrc is-live=true ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 ! x264enc tune=zerolatency key-int-max=25";
    let play = |rest: &str| {
        std::fs::write(&path, format!("{source} ! h264parse {rest}")).unwrap();
        let running = sampling(of(Location::Template(path.clone()), Decode::Keyframes), Duration::from_millis(200));
        (apart(&running.wait_frames(4)), running.report().decode)
    };
    let (distances, decode) = play("! avdec_h264 ! appsink name=sink");
    assert!(distances.iter().all(|d| about(*d, Duration::from_millis(200))), "{distances:?}");
    assert_eq!(decode, Some("all"));
    // The name says which decoder is meant.
    let (distances, decode) = play("! avdec_h264 name=decoder ! appsink name=sink");
    assert!(distances.iter().all(|d| about(*d, SECOND)), "{distances:?}");
    assert_eq!(decode, Some("keyframes"));
}
