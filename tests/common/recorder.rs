//! Runs one source and writes down what it hands over.
#![allow(dead_code)] // every scenario uses a part of it

use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use vtagd::frame::{FrameTap, FrameTime, Matrix, Picture, PixelFormat, Range};
use vtagd::platform::backoff::Ladder;
use vtagd::platform::shutdown::{self, Trigger};
use vtagd::sample::Schedule;
use vtagd::source::{
    CameraTls, Decode, Decoder, Ended, Limits, Location, Pace, Reconnect, Source, SourceSettings, Transport,
};
use vtagd::stream::status::{StreamReport, StreamState, StreamStatus};

/// Generous, because two cores may be busy with everything else.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// One delivered frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    pub media: Duration,
    pub captured: Instant,
    pub size: (u32, u32),
    pub format: PixelFormat,
    pub colours: (Matrix, Range),
    /// Mean luma of the picture's four quarters, in reading order.
    pub quarters: [f64; 4],
    /// Of its luma, to the bit.
    pub digest: u64,
}

/// A tap that samples on a schedule and keeps what it is given.
pub struct Recorder {
    schedule: Mutex<Schedule>,
    seen: Mutex<Vec<Seen>>,
    came: Condvar,
    /// How many pictures to hold on to.
    hold: usize,
    held: Mutex<Vec<Picture>>,
    asked: AtomicUsize,
}

impl Recorder {
    /// Frames that the source asked about.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl FrameTap for Recorder {
    fn interval(&self) -> Duration {
        self.schedule.lock().unwrap().interval()
    }

    fn is_sampled(&self, media: Duration) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.schedule.lock().unwrap().is_sampled(media)
    }

    fn until_wanted(&self, media: Duration) -> Duration {
        self.schedule.lock().unwrap().until_wanted(media)
    }

    fn deliver(&self, time: FrameTime, picture: Picture) {
        let seen = Seen {
            media: time.media,
            captured: time.captured,
            size: (picture.width(), picture.height()),
            format: picture.format(),
            colours: (picture.matrix(), picture.range()),
            quarters: quarters(&picture),
            digest: digest(&picture),
        };
        let mut held = self.held.lock().unwrap();
        if held.len() < self.hold {
            held.push(picture);
        }
        drop(held);
        self.seen.lock().unwrap().push(seen);
        self.came.notify_all();
    }
}

fn digest(picture: &Picture) -> u64 {
    let (bytes, stride) = picture.plane(0);
    let step = if picture.format() == PixelFormat::Rgb { 3 } else { 1 };
    let mut hasher = DefaultHasher::new();
    for row in bytes.chunks(stride).take(picture.height() as usize) {
        hasher.write(&row[..picture.width() as usize * step]);
    }
    hasher.finish()
}

fn quarters(picture: &Picture) -> [f64; 4] {
    let (bytes, stride) = picture.plane(0);
    let step = if picture.format() == PixelFormat::Rgb { 3 } else { 1 };
    let (w, h) = (picture.width() as usize / 2, picture.height() as usize / 2);
    let mean = |x0: usize, y0: usize| {
        let sum: u64 = (y0..y0 + h)
            .flat_map(|y| (x0..x0 + w).map(move |x| (x, y)))
            .map(|(x, y)| u64::from(bytes[y * stride + x * step]))
            .sum();
        sum as f64 / (w * h) as f64
    };
    [mean(0, 0), mean(w, 0), mean(0, h), mean(w, h)]
}

/// Settings for `location`, everything else as by default.
pub fn settings(location: Location) -> SourceSettings {
    SourceSettings {
        id: "cam".into(),
        location,
        username: None,
        password: None,
        password_file: None,
        pace: Pace::Live,
        looped: false,
        decode: Decode::Auto,
        decoder: Decoder::Auto,
        max_pixels: None,
        any_codec: false,
        templates: templates(),
        reconnect: Reconnect::default(),
        transport: Transport::default(),
        tls: CameraTls::default(),
        push: None,
        host_alone: false,
    }
}

/// The repository's own templates.
pub fn templates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines")
}

/// Waits a fiftieth of the real ladder.
pub fn quick_ladder() -> Ladder {
    Ladder::default().scaled(0.02)
}

/// Critical warnings of GLib and GStreamer in this process; there should be none.
static CRITICALS: AtomicUsize = AtomicUsize::new(0);

fn count_criticals() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        gst::glib::log_set_default_handler(|domain, level, message| {
            if matches!(level, gst::glib::LogLevel::Critical | gst::glib::LogLevel::Error) {
                CRITICALS.fetch_add(1, Ordering::Relaxed);
            }
            eprintln!("{} {level:?}: {message}", domain.unwrap_or_default());
        });
    });
}

/// A source that runs on its own thread, as in the daemon.
pub struct Running {
    pub recorder: Arc<Recorder>,
    pub status: Arc<StreamStatus>,
    trigger: Trigger,
    thread: Option<JoinHandle<Ended>>,
}

/// How a scenario wants its source.
pub struct Options {
    pub interval: Duration,
    pub hold: usize,
    pub limits: Limits,
    pub ladder: Ladder,
}

impl Default for Options {
    fn default() -> Self {
        Self { interval: Duration::ZERO, hold: 0, limits: Limits::default(), ladder: quick_ladder() }
    }
}

impl Running {
    pub fn start(settings: SourceSettings) -> Self {
        Self::with(settings, Options::default())
    }

    pub fn with(settings: SourceSettings, options: Options) -> Self {
        count_criticals();
        let recorder = Arc::new(Recorder {
            schedule: Mutex::new(Schedule::new(options.interval)),
            seen: Mutex::default(),
            came: Condvar::new(),
            hold: options.hold,
            held: Mutex::default(),
            asked: AtomicUsize::new(0),
        });
        let status = Arc::new(StreamStatus::new(Arc::clone(&settings.id)));
        let (trigger, shutdown) = shutdown::channel();
        let reconnect = Reconnect { ladder: options.ladder, limits: options.limits };
        let settings = SourceSettings { reconnect, ..settings };
        let source = Source::new(settings, Arc::clone(&recorder) as Arc<dyn FrameTap>, Arc::clone(&status), shutdown);
        let thread = std::thread::Builder::new().name("source-cam".into()).spawn(move || source.run()).unwrap();
        Self { recorder, status, trigger, thread: Some(thread) }
    }

    pub fn frames(&self) -> Vec<Seen> {
        self.recorder.seen.lock().unwrap().clone()
    }

    /// Decoded frames that the source asked about.
    pub fn asked(&self) -> usize {
        self.recorder.asked()
    }

    /// Waits until there are `count` frames.
    pub fn wait_frames(&self, count: usize) -> Vec<Seen> {
        let seen = self.recorder.seen.lock().unwrap();
        let (seen, timeout) = self.recorder.came.wait_timeout_while(seen, DEADLINE, |seen| seen.len() < count).unwrap();
        assert!(!timeout.timed_out(), "{} of {count} frames came; {:?}", seen.len(), self.report());
        seen.clone()
    }

    pub fn report(&self) -> StreamReport {
        self.status.report(Instant::now())
    }

    /// Waits until the stream's state is as `wanted`.
    pub fn wait_state(&self, wanted: impl Fn(&StreamState) -> bool) -> StreamReport {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let report = self.report();
            if wanted(&report.state) {
                return report;
            }
            assert!(Instant::now() < deadline, "the state stays {report:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The error of a stream that is down, once it is.
    pub fn wait_down(&self) -> String {
        match self.wait_state(|s| matches!(s, StreamState::Down { .. })).state {
            StreamState::Down { error } => error,
            _ => unreachable!(),
        }
    }

    /// Waits for the source to end by itself.
    pub fn wait_end(mut self) -> (Ended, Vec<Seen>, StreamReport) {
        let thread = self.thread.take().unwrap();
        let deadline = Instant::now() + DEADLINE;
        while !thread.is_finished() {
            assert!(Instant::now() < deadline, "the source does not end: {:?}", self.report());
            std::thread::sleep(Duration::from_millis(5));
        }
        let ended = thread.join().unwrap();
        assert_eq!(CRITICALS.load(Ordering::Relaxed), 0, "GStreamer was used wrongly");
        (ended, self.frames(), self.report())
    }

    /// Asks it to stop; returns how long that took.
    pub fn stop(mut self) -> (Ended, Duration) {
        let start = Instant::now();
        self.trigger.trigger();
        let ended = self.thread.take().unwrap().join().unwrap();
        assert_eq!(CRITICALS.load(Ordering::Relaxed), 0, "GStreamer was used wrongly");
        (ended, start.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.trigger.trigger();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs a gst-launch description to its end, to make a clip.
pub fn make(description: &str) {
    gst::init().unwrap();
    let pipeline = gst::parse::launch(description).unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let kinds = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &kinds).expect("the clip is made");
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
}

/// An MP4 clip of `frames` pictures, 25 a second, with sound beside them.
pub fn make_mp4(path: &Path, frames: u32, (width, height): (u32, u32), pattern: &str) {
    let seconds = f64::from(frames) / 25.0;
    let sound = (seconds * 44_100.0 / 1024.0).ceil();
    make(&format!(
        "videotestsrc num-buffers={frames} pattern={pattern} ! video/x-raw,format=I420,width={width},height={height},framerate=25/1 \
         ! x264enc speed-preset=ultrafast key-int-max=10 bframes=0 ! h264parse ! queue ! mux. \
         audiotestsrc num-buffers={sound} ! audio/x-raw,rate=44100 ! avenc_aac ! queue ! mux. \
         mp4mux name=mux faststart=true ! filesink location=\"{}\"",
        path.display()
    ));
}

/// Threads and open files of this process.
pub fn resources() -> (usize, usize) {
    let count = |path| std::fs::read_dir(path).unwrap().count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}
