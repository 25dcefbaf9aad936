//! Between a pipeline and the sampler: asks for each frame whether it is wanted, and hands the wanted ones over.
//!
//! In: coded frames before the decoder (the gate), decoded ones behind it (a pad probe), and samples at the end of the pipeline
//! (appsink). Where every frame is decoded, the sampler is asked behind the decoder; where only keyframes are, it is asked at
//! the gate, and the picture that comes out with that frame's time stamp is the wanted one. Out: pictures for the [`FrameTap`], progress for the source's thread.
//! One feed lives as long as its source; each connection has a number, and a pipeline that hangs on from an earlier one is
//! not listened to. Full: [`FrameTap::deliver`] decides (newest wins, or it blocks this thread). Closed: buffers are dropped.

mod still_tap;
mod verdicts;

use std::sync::Arc;
use std::time::{Duration, Instant};

use gstreamer as gst;
use parking_lot::Mutex;

use super::Decode;
use super::coded::Kind;
use super::decoders;
use super::error::SourceError;
use super::gop::{Chooser, Mode};
use super::media_time::MediaTime;
use super::picture::{self, Coded};
use super::stamps::Stamps;
use crate::frame::{FrameTap, FrameTime};
use crate::stream::status::{Decoding, StreamState, StreamStatus};

/// Wanted keyframes in a row that the decoder may swallow before coded frames stop counting as signs of life.
const LOST: u32 = 5;

/// So many coded frames without a picture are not a decoder's usual delay.
const OWED: u32 = 50;

/// Decoders may move a time stamp by rounding it.
const ROUNDING: gst::ClockTime = gst::ClockTime::from_mseconds(1);

/// A frame before the decoder.
#[derive(Clone, Copy, Debug)]
pub(super) struct CodedFrame {
    /// Its place on the pipeline's line of running time.
    pub at: Duration,
    /// Its place on a line that goes by the camera's own clock where there is one; for distances.
    pub camera: Duration,
    pub pts: Option<gst::ClockTime>,
    pub kind: Kind,
    /// Bytes.
    pub size: usize,
    /// Packets of this connection were lost before it.
    pub after_loss: bool,
}

/// How a connection goes, for the source's own thread.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Decoded frames, wanted or not.
    pub frames: u64,
    /// Frames before the decoder, where they are seen.
    pub coded: u64,
    pub first: Option<Instant>,
    pub last: Option<Instant>,
    /// The streaming thread is handing a frame over right now: it is we who are slow, not the camera.
    pub delivering: bool,
}

impl Progress {
    /// How long pictures came; `None`: there was none.
    pub fn flowed(&self) -> Option<Duration> {
        self.first.zip(self.last).map(|(first, last)| last.saturating_duration_since(first))
    }
}

/// A frame that was wanted and has not come through yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    time: FrameTime,
    /// The sampler was asked before the decoder, about a frame with this time stamp.
    asked: Option<Option<gst::ClockTime>>,
}

impl Pending {
    /// Whether a buffer that comes out with `pts` can be it.
    fn is(&self, pts: Option<gst::ClockTime>) -> bool {
        match (self.asked.flatten(), pts) {
            (Some(wanted), Some(came)) => wanted.absdiff(came) <= ROUNDING,
            _ => true,
        }
    }
}

#[derive(Debug)]
struct State {
    connection: u64,
    media: MediaTime,
    /// Of a camera: what its frames' stamps are worth, before the decoder and behind it.
    live: bool,
    stamps: (Stamps, Stamps),
    progress: Progress,
    chooser: Chooser,
    /// Coded frames come by a gate. Raw pictures, and templates with a decoder of their own, have none.
    gated: bool,
    /// The decoding element, and coded frames that came since it last gave a picture.
    decoder: String,
    owed: u32,
    /// Frames that the gate holds back, and frames that have been counted there and have still to come out of the decoder, which counts others.
    held: u64,
    counted: u64,
    /// Wanted keyframes in a row that never came out of the decoder.
    lost: u32,
    pending: Option<Pending>,
    coded: Option<(gst::Caps, Coded)>,
    /// Where the stream begins in the middle of a frame.
    cut: Option<gst::ClockTime>,
    /// The last thing wrong with a picture, so that it is logged once.
    complaint: String,
}

/// See the module.
pub(super) struct PipelineTap {
    status: Arc<StreamStatus>,
    tap: Mutex<Option<Arc<dyn FrameTap>>>,
    state: Mutex<State>,
}

impl PipelineTap {
    pub fn new(tap: Arc<dyn FrameTap>, status: Arc<StreamStatus>, decode: Decode) -> Self {
        let state = State {
            connection: 0,
            media: MediaTime::default(),
            live: false,
            stamps: Default::default(),
            progress: Progress::default(),
            chooser: Chooser::new(decode),
            gated: false,
            decoder: String::new(),
            owed: 0,
            held: 0,
            counted: 0,
            lost: 0,
            pending: None,
            coded: None,
            cut: None,
            complaint: String::new(),
        };
        Self { status, tap: Mutex::new(Some(tap)), state: Mutex::new(state) }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock())
    }

    fn tap(&self) -> Option<Arc<dyn FrameTap>> {
        self.tap.lock().clone()
    }

    /// Starts listening to a new connection and gives its number.
    /// The number of the latest connection.
    pub fn connection(&self) -> u64 {
        self.with(|state| state.connection)
    }

    pub fn connect(&self) -> u64 {
        self.with(|state| {
            state.connection += 1;
            state.media.reconnected();
            state.chooser.begin();
            state.stamps = Default::default();
            (state.gated, state.lost, state.owed) = (false, 0, 0);
            (state.held, state.counted) = (0, 0);
            state.decoder.clear();
            (state.progress, state.pending, state.coded) = (Progress::default(), None, None);
            state.cut = None;
            state.connection
        })
    }

    /// Frames come in real time.
    pub fn live(&self) {
        self.with(|state| state.media.go_by_the_clock());
    }

    /// Frames come when they are made: when they came can stand for a time stamp.
    pub fn by_arrival(&self) {
        self.with(|state| state.live = true);
    }

    /// What stands for a frame's stamp `at`, on this side of the decoder, where stamps stand still.
    pub fn placed(&self, connection: u64, at: Duration, now: Instant, decoded: bool) -> Duration {
        let (placed, told) = self.with(|state| {
            if !state.live || state.connection != connection {
                return (None, false);
            }
            let told = state.stamps.0.is_by_arrival() || state.stamps.1.is_by_arrival();
            let stamps = if decoded { &mut state.stamps.1 } else { &mut state.stamps.0 };
            (Some(stamps.place(at, now)), told)
        });
        let Some(placed) = placed else { return at };
        if placed.news && !told {
            tracing::warn!(
                stream = %self.status.id(),
                "the camera's time stamps stand still, going by when its frames arrive; is its firmware up to date?"
            );
        }
        placed.at
    }

    /// The file of this connection starts again; the next connection (if it must be opened anew) is its next turn.
    pub fn looped(&self) {
        self.with(|state| state.media.looped());
    }

    pub fn progress(&self) -> Progress {
        self.with(|state| state.progress)
    }

    /// Stops listening, for good, and lets go of the tap.
    pub fn close(&self) {
        self.with(|state| state.connection += 1);
        self.tap.lock().take();
    }

    pub fn mode(&self) -> Mode {
        self.with(|state| state.chooser.mode())
    }

    /// The pipeline decodes with the element `name`, or tries to; `family` is the hardware it was to use.
    pub fn decoder(&self, connection: u64, name: &str, family: Option<&'static str>) {
        let news = self.with(|state| {
            let news = state.connection == connection && state.decoder != name;
            if news {
                name.clone_into(&mut state.decoder);
            }
            news
        });
        if !news {
            return;
        }
        let stream = self.status.id();
        match family {
            Some(family) if !decoders::is_hardware(name) => tracing::info!(
                %stream,
                decoder = name,
                "decoding in software: the {family} decoder does not know this codec or refused it"
            ),
            _ => tracing::debug!(%stream, decoder = name, "decoder"),
        }
        self.status.decoder(name);
    }

    /// The hardware decoder in use, if `error` is its doing: it said so, or frames went in and none came out.
    pub fn failed_hardware(&self, error: &SourceError) -> Option<String> {
        let (decoder, owed) = self.with(|state| (state.decoder.clone(), state.owed));
        if !decoders::is_hardware(&decoder) {
            return None;
        }
        let blamed = match error {
            SourceError::Stalled { .. } => owed >= OWED,
            SourceError::Decode { at, .. } | SourceError::Format { at, .. } | SourceError::Codec { at, .. } => {
                at.element.starts_with(&decoder) || owed >= OWED
            }
            // A device that is gone or busy is a resource like any other to GStreamer; its element tells.
            _ => error.element().starts_with(&decoder),
        };
        blamed.then_some(decoder)
    }

    /// Whether the coded frame with this time stamp is only there for later ones, of a stream that begins at `beginning`.
    pub fn is_before_beginning(
        &self,
        connection: u64,
        beginning: Option<gst::ClockTime>,
        pts: Option<gst::ClockTime>,
    ) -> bool {
        let Some((beginning, pts)) = beginning.zip(pts) else { return false };
        let early = pts + ROUNDING < beginning;
        self.with(|state| {
            if state.connection != connection {
                return;
            }
            if early {
                state.cut = Some(beginning);
            } else if state.cut.is_some_and(|cut| cut.absdiff(pts) <= ROUNDING) {
                // That one is whole.
                state.cut = None;
            }
        });
        early
    }

    /// Whether a decoded frame is what is left of one that began before the stream does: decoders show that part of it.
    pub fn is_clipped(&self, connection: u64, pts: Option<gst::ClockTime>) -> bool {
        self.with(|state| state.connection == connection && state.cut.is_some() && state.cut == pts)
    }

    /// Whether the keyframe is wanted. What comes out of the decoder with its time stamp will be delivered.
    pub fn is_coded_sampled(&self, connection: u64, frame: CodedFrame) -> bool {
        let now = Instant::now();
        let media = self.with(|state| {
            if state.connection != connection {
                return None;
            }
            Some(state.media.place(frame.at, now))
        });
        let (Some(media), Some(tap)) = (media, self.tap()) else { return false };
        let wanted = tap.is_sampled(media);
        self.with(|state| {
            if state.connection != connection {
                return;
            }
            // Only one frame at a time is wanted: the one before this has not come.
            if state.pending.take().is_some() {
                state.lost += 1;
            }
            if wanted {
                let time = FrameTime { media, captured: now, wall: jiff::Timestamp::now(), connection };
                // Decoders make stamps of their own of such that stand still.
                let pts = frame.pts.filter(|_| !state.stamps.0.is_by_arrival());
                state.pending = Some(Pending { time, asked: Some(pts) });
            }
        });
        wanted
    }

    /// Whether the decoded frame with this time stamp is to go through.
    pub fn is_decoded_sampled(&self, connection: u64, at: Duration, pts: Option<gst::ClockTime>) -> bool {
        let (now, wall) = (Instant::now(), jiff::Timestamp::now());
        let at = self.placed(connection, at, now, true);
        let came = self.with(|state| {
            if state.connection != connection {
                return None;
            }
            let first = state.progress.frames == 0;
            state.progress.frames += 1;
            state.progress.first.get_or_insert(now);
            state.progress.last = Some(now);
            (state.lost, state.owed) = (0, 0);
            let asked = state.pending.as_mut().is_some_and(|pending| {
                let asked = pending.asked.is_some() && pending.is(pts);
                if asked {
                    (pending.time.captured, pending.time.wall) = (now, wall);
                }
                asked
            });
            let mode = if state.gated { state.chooser.mode() } else { Mode::All };
            let counted = mode != Mode::All || state.counted > 0;
            if mode == Mode::All {
                state.counted = state.counted.saturating_sub(1);
            }
            Some((first, asked, state.gated, mode, counted))
        });
        let Some((first, asked, gated, mode, counted)) = came else { return false };
        if !counted {
            self.status.frame_seen(now);
        }
        if first && !gated {
            self.status.decoding(Decoding { mode: Some(mode.name()), ..Decoding::default() });
        }
        if first && self.status.set(StreamState::Up) {
            tracing::info!(stream = %self.status.id(), "frames are coming");
        }
        let Some(tap) = self.tap().filter(|_| mode == Mode::All && !asked) else { return asked };
        let media = self.with(|state| {
            if state.connection != connection {
                return None;
            }
            state.pending = None;
            Some(state.media.place(at, now))
        });
        let Some(media) = media else { return false };
        let wanted = tap.is_sampled(media);
        if wanted {
            let time = FrameTime { media, captured: now, wall, connection };
            self.with(|state| {
                if state.connection == connection {
                    state.pending = Some(Pending { time, asked: None });
                }
            });
        }
        wanted
    }

    /// Hands over the frame last wanted. A picture that cannot be read is left out; the tap counts it at the next frame.
    pub fn deliver(&self, connection: u64, sample: &gst::Sample, sink: &gst::Element) {
        let taken = self.with(|state| {
            if state.connection != connection {
                return None;
            }
            let caps = sample.caps_owned();
            let coded = match (&state.coded, caps) {
                (Some((seen, coded)), Some(caps)) if *seen == caps => *coded,
                (_, Some(caps)) => {
                    let coded = picture::coded(sink);
                    tracing::debug!(stream = %self.status.id(), %caps, ?coded, "picture format");
                    state.coded = Some((caps, coded));
                    coded
                }
                (_, None) => Coded::default(),
            };
            state.progress.delivering = true;
            let pts = sample.buffer().and_then(|buffer| buffer.pts());
            state.pending.take_if(|pending| pending.is(pts)).map(|pending| (pending.time, coded))
        });
        if let (Some((time, coded)), Some(tap)) = (taken, self.tap()) {
            match picture::from_sample(sample, coded) {
                Ok(picture) => {
                    self.show(time, &picture);
                    tap.deliver(time, picture);
                }
                Err(error) => self.complain(&error.to_string()),
            }
        }
        self.with(|state| {
            // The next connection's pipeline tells of itself.
            if state.connection != connection {
                return;
            }
            state.progress.delivering = false;
            // Time spent handing over is not the camera's silence.
            state.progress.last = state.progress.last.map(|last| last.max(Instant::now()));
        });
    }

    /// How often a frame is wanted; `None` once nobody wants any.
    pub fn interval(&self) -> Option<Duration> {
        self.tap().map(|tap| tap.interval())
    }

    fn complain(&self, complaint: &str) {
        let new = self.with(|state| {
            let new = state.complaint != complaint;
            complaint.clone_into(&mut state.complaint);
            new
        });
        if new {
            tracing::warn!(stream = %self.status.id(), error = complaint, "a sampled picture cannot be used");
        }
    }
}
