//! Between a pipeline and the sampler: asks for each decoded frame whether it is wanted, and hands the wanted ones over.
//!
//! In: buffers behind the decoder (a pad probe) and samples at the end of the pipeline (appsink), both on the same streaming
//! thread, so a sample is always the buffer last wanted. Out: pictures for the [`FrameTap`], progress for the source's thread.
//! One feed lives as long as its source; each connection has a number, and a pipeline that hangs on from an earlier one is
//! not listened to. Full: [`FrameTap::deliver`] decides (newest wins, or it blocks this thread). Closed: buffers are dropped.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::media_time::MediaTime;
use super::picture::{self, Coded};
use crate::frame::{FrameTap, FrameTime};
use crate::status::{StreamState, StreamStatus};

/// How a connection goes, for the source's own thread.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Decoded frames, wanted or not.
    pub frames: u64,
    pub first: Option<Instant>,
    pub last: Option<Instant>,
    /// The streaming thread is handing a frame over right now: it is we who are slow, not the camera.
    pub delivering: bool,
}

#[derive(Debug, Default)]
struct State {
    connection: u64,
    media: MediaTime,
    progress: Progress,
    /// The time of the frame that was wanted and has not come through yet.
    pending: Option<FrameTime>,
    coded: Option<(gst::Caps, Coded)>,
    /// The last thing wrong with a picture, so that it is logged once.
    complaint: String,
}

/// See the module.
pub(super) struct Feed {
    status: Arc<StreamStatus>,
    tap: Mutex<Option<Arc<dyn FrameTap>>>,
    state: Mutex<State>,
}

impl Feed {
    pub fn new(tap: Arc<dyn FrameTap>, status: Arc<StreamStatus>) -> Self {
        Self { status, tap: Mutex::new(Some(tap)), state: Mutex::default() }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tap(&self) -> Option<Arc<dyn FrameTap>> {
        self.tap.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts listening to a new connection and gives its number.
    pub fn connect(&self) -> u64 {
        self.with(|state| {
            state.connection += 1;
            state.media.reconnected();
            (state.progress, state.pending, state.coded) = (Progress::default(), None, None);
            state.connection
        })
    }

    /// Frames come in real time.
    pub fn live(&self) {
        self.with(|state| state.media.go_by_the_clock());
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
        self.tap.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether the decoded frame with this time stamp is to go through.
    fn wants(&self, connection: u64, pts: Duration, now: Instant, wall: jiff::Timestamp) -> bool {
        let media = self.with(|state| {
            if state.connection != connection {
                return None;
            }
            state.pending = None;
            state.progress.frames += 1;
            state.progress.first.get_or_insert(now);
            state.progress.last = Some(now);
            Some((state.media.place(pts, now), state.progress.frames == 1))
        });
        let (Some((media, first)), Some(tap)) = (media, self.tap()) else { return false };
        self.status.frame_seen(now);
        if first && self.status.set(StreamState::Up) {
            tracing::info!(stream = %self.status.id(), "frames are coming");
        }
        let wanted = tap.wants(media);
        if wanted {
            self.with(|state| state.pending = Some(FrameTime { media, captured: now, wall }));
        }
        wanted
    }

    /// Hands over the frame last wanted. A picture that cannot be read is left out; the tap counts it at the next frame.
    fn deliver(&self, connection: u64, sample: &gst::Sample, sink: &gst::Element) {
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
            state.pending.take().map(|time| (time, coded))
        });
        if let (Some((time, coded)), Some(tap)) = (taken, self.tap()) {
            match picture::from_sample(sample, coded) {
                Ok(picture) => {
                    self.status.picture_size(picture.width(), picture.height());
                    let seconds = time.wall.as_duration().as_secs_f64();
                    metrics::gauge!("vtagd_last_frame_timestamp_seconds", "stream" => self.status.id().to_string())
                        .set(seconds);
                    tap.deliver(time, picture);
                }
                Err(error) => self.complain(&error.to_string()),
            }
        }
        self.with(|state| {
            state.progress.delivering = false;
            // Time spent handing over is not the camera's silence.
            state.progress.last = state.progress.last.map(|last| last.max(Instant::now()));
        });
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

/// Joins a pipeline to `feed`: `entry` is the pad behind the decoder where unwanted frames end, `sink` the pipeline's end.
///
/// A probe that drops frames *before* the decoder (keyframes only) would sit on the decoder's sink pad, the element that
/// [`picture::coded`] finds, and say so to the feed; everything behind it would stay as it is.
pub(super) fn attach(feed: &Arc<Feed>, connection: u64, entry: &gst::Pad, sink: &gst_app::AppSink) {
    let probe = Arc::clone(feed);
    entry.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let Some(buffer) = info.buffer() else { return gst::PadProbeReturn::Ok };
        let time = time_of(pad, buffer);
        if probe.wants(connection, time, Instant::now(), jiff::Timestamp::now()) {
            gst::PadProbeReturn::Ok
        } else {
            // Not `Drop`: the bindings have taken the buffer out by then, and GStreamer before 1.24 would complain about that
            // for every frame. `Handled` lets go of it just the same.
            gst::PadProbeReturn::Handled
        }
    });
    if let Some(pad) = sink.static_pad("sink") {
        picture::ask_for_room(&pad);
    }
    let feed = Arc::clone(feed);
    let callbacks = gst_app::AppSinkCallbacks::builder()
        .new_sample(move |sink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Flushing)?;
            feed.deliver(connection, &sample, sink.upcast_ref());
            Ok(gst::FlowSuccess::Ok)
        })
        .build();
    sink.set_callbacks(callbacks);
}

/// A frame's place on its pipeline's line of running time. A frame without a time stamp gets the time of its arrival.
fn time_of(pad: &gst::Pad, buffer: &gst::BufferRef) -> Duration {
    let running = buffer.pts().map(|pts| {
        let segment = pad.sticky_event::<gst::event::Segment>(0);
        let segment = segment.as_ref().and_then(|event| event.segment().downcast_ref::<gst::ClockTime>());
        segment.and_then(|segment| segment.to_running_time(pts)).unwrap_or(pts)
    });
    let arrival = || pad.parent_element().and_then(|element| element.current_running_time());
    running.or_else(arrival).map(Duration::from).unwrap_or_default()
}
