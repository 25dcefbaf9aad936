//! One connection: builds the pipeline, plays it, listens to its bus, and takes it down in bounded time.
//!
//! Runs on the source's own thread, which only waits here: for the bus, for shutdown, for a camera that has gone silent. What may
//! hang is done on a thread of its own: a pipeline that neither starts nor stops is abandoned, named and counted.
//! Bus messages that end the connection go through a bounded channel; the first one counts, what does not fit is dropped,
//! and nothing is left to pile up on the bus itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, after, bounded, select};
use gstreamer as gst;
use gstreamer::prelude::*;
use parking_lot::Mutex;

use super::arrivals::Arrivals;
use super::byte_budget::ByteBudget;
use super::error::{At, Excess, SourceError};
use super::live_playlist::{self, Liveness};
use super::media::{self, Ending};
use super::multipart::Lengths;
use super::pipeline_tap::PipelineTap;
use super::rtsp_session::RtspSession;
use super::rtsp_socket::{self, RtspSocket};
use super::run_with_timeout::{AbandonedPipelines, Late, run_with_timeout};
use super::scrub::{self, Scrubber};
use super::{
    Limits, Location, SourceSettings, container_colours, downloads, gif_decoder, gio_types, messages, pipeline_stop,
    pipeline_template, playlist_sources, rtp_continuity, shortage, size_limit, tap_probes,
};
use crate::frame::still_image;
use crate::platform::rounding;
use crate::platform::shutdown::Shutdown;
use crate::platform::thread_priority;

/// How a connection ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Played,
    Shutdown,
    /// The file is to start again, and could not be rewound.
    Again,
}

/// What the bus says that matters.
#[derive(Debug)]
enum Event {
    Failed(SourceError),
    EndOfStream,
}

/// A clip of one picture, looped, must not spin.
const SHORTEST_TURN: Duration = Duration::from_millis(40);

/// What an RTSP camera still has to say to a pipeline that is being stopped, it says within so long.
const CUT_AFTER: Duration = Duration::from_millis(250);

/// A file that has shown no picture after so long is asked whether anybody still works on it.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// What a connection needs of its source.
pub(super) struct Connection<'a> {
    pub settings: &'a SourceSettings,
    pub feed: &'a Arc<PipelineTap>,
    pub shutdown: &'a Shutdown,
    /// Where the camera's part in it is written down; a new one.
    pub session: Arc<RtspSession>,
    /// Of parts of a multipart answer.
    pub lengths: Lengths,
    /// Of what is there.
    pub liveness: &'a Arc<Liveness>,
}

impl Connection<'_> {
    /// Makes one connection and stays until it ends, one way or another.
    pub fn run(self, abandoned: &mut AbandonedPipelines) -> Result<End, SourceError> {
        let Self { settings, feed, shutdown, session, lengths, liveness } = self;
        let limits = &settings.reconnect.limits;
        let at = At { stream: settings.id.to_string(), place: scrub::place(settings), element: String::new() };
        messages::take_over();
        gst::init().map_err(|e| SourceError::Template { at: at.clone(), detail: e.to_string() })?;
        gio_types::register();
        downloads::limit();
        let built = session.of_those_made_by(|| pipeline_template::build(settings, lengths, &at));
        let parts = built.map_err(shortage::explain)?;
        let (sender, events) = bounded(4);
        let arrivals = Arrivals::watch(&parts.pipeline);
        let socket = Arc::new(RtspSocket::default());
        // Full: an earlier message has ended this connection already.
        let full = sender.clone();
        let refuse = move |error| drop(full.try_send(Event::Failed(error)));
        container_colours::watch(&parts.pipeline);
        gif_decoder::watch(&parts.pipeline, &settings.location);
        // Before senders are counted: those that follow one another become one.
        rtp_continuity::watch(&parts.pipeline);
        // Before the gate: what ends there has come out of its parser all the same.
        ByteBudget::watch(&parts.pipeline, settings.sizes().max_pixels, at.clone(), refuse.clone());
        playlist_sources::watch(&parts.pipeline, &settings.location, at.clone(), refuse.clone());
        live_playlist::watch(&parts.pipeline, &settings.location, liveness, at.clone(), refuse.clone());
        listen(&parts.pipeline, sender, Arc::clone(&socket), &at, settings)?;
        tap_probes::attach(feed, feed.connect(), &parts);
        size_limit::attach(&parts.pipeline, settings.sizes(), settings.insists_on_sizes(), at.clone(), refuse);
        let pipeline = &parts.pipeline;
        let cut = Arc::clone(&socket);
        let mut playing =
            Playing { settings, pipeline, feed, limits, shutdown, events, arrivals, socket, session, liveness, at };
        let result = playing.play();
        // rtspsrc waits for an answer, or for the rest of one, before it stops. There is none to come.
        let waits = match result {
            Err(SourceError::Stalled { .. } | SourceError::TooMuch { .. }) => true,
            // Whatever it is still saying by then is no picture.
            Ok(End::Shutdown) => playing.arrivals.bytes() == 0,
            _ => false,
        };
        // Not before it has been told to stop: it would connect again and ask once more.
        let cutting = waits.then(|| {
            let socket = Arc::clone(&cut);
            std::thread::Builder::new().name(format!("cut-{}", settings.id)).spawn(move || {
                std::thread::sleep(CUT_AFTER);
                socket.cut();
            })
        });
        tear_down(parts.pipeline, settings, &cut, abandoned);
        if let Some(Ok(cutting)) = cutting {
            // It only sleeps and makes one system call.
            let _ = cutting.join();
        }
        result.map_err(|error| unread_picture(error, &settings.location))
    }
}

/// A file that nothing can be made of, and that is a picture of a kind that is not read, is called so.
fn unread_picture(error: SourceError, location: &Location) -> SourceError {
    let (at, Location::File(path)) = (
        match &error {
            SourceError::NotVideo { at, .. }
            | SourceError::Codec { at, .. }
            | SourceError::Decode { at, .. }
            | SourceError::SinglePicture { at } => at,
            _ => return error,
        },
        location,
    ) else {
        return error;
    };
    match still_image::unread_kind(path) {
        Some(kind) => {
            let detail = format!("it is {kind}, a kind that is not read; save it as PNG, JPEG or WebP");
            SourceError::NotVideo { at: at.clone(), detail }
        }
        None => error,
    }
}

/// Sends what matters of the pipeline's bus to `sender`; the rest ends here.
fn listen(
    pipeline: &gst::Pipeline,
    sender: Sender<Event>,
    socket: Arc<RtspSocket>,
    at: &At,
    settings: &SourceSettings,
) -> Result<(), SourceError> {
    let scrubber = Scrubber::new(settings);
    let bus = pipeline
        .bus()
        .ok_or_else(|| SourceError::Template { at: at.clone(), detail: "the pipeline has no bus".to_owned() })?;
    let (at, location) = (at.clone(), settings.location.clone());
    bus.set_sync_handler(move |_, message| {
        let event = match message.view() {
            gst::MessageView::Error(error) => {
                Some(Event::Failed(shortage::explain(SourceError::from_bus(error, at.clone(), &location, &scrubber))))
            }
            gst::MessageView::Progress(progress) => {
                socket.listen(progress);
                None
            }
            gst::MessageView::Eos(_) => Some(Event::EndOfStream),
            gst::MessageView::StreamStatus(status) => {
                // It comes from the thread that it tells of.
                if status.type_() == gst::StreamStatusType::Enter {
                    thread_priority::lower_priority();
                }
                None
            }
            gst::MessageView::Warning(warning) => {
                let text = scrubber.scrub(&warning.error().to_string());
                tracing::debug!(stream = at.stream, warning = text, "gstreamer warns");
                None
            }
            _ => None,
        };
        if let Some(event) = event {
            // Full: an earlier message has ended this connection already.
            let _ = sender.try_send(event);
        }
        gst::BusSyncReply::Drop
    });
    Ok(())
}

struct Playing<'a> {
    settings: &'a SourceSettings,
    pipeline: &'a gst::Pipeline,
    feed: &'a PipelineTap,
    limits: &'a Limits,
    shutdown: &'a Shutdown,
    events: Receiver<Event>,
    arrivals: Arc<Arrivals>,
    socket: Arc<RtspSocket>,
    session: Arc<RtspSession>,
    liveness: &'a Liveness,
    at: At,
}

impl Playing<'_> {
    fn play(&mut self) -> Result<End, SourceError> {
        let started = Instant::now();
        let mut turn = started;
        if self.start()? {
            return Ok(End::Shutdown);
        }
        loop {
            let mut wait = self.time_to_next_check(started)?;
            if matches!(self.settings.location, Location::Rtsp(_) | Location::Template(_)) {
                let arrived = self.arrivals.bytes();
                if self.socket.is_endless(arrived) {
                    let what = Excess::Answer(rtsp_socket::MOST_UNPACKED);
                    return Err(SourceError::TooMuch { at: self.at.clone(), what });
                }
                wait = wait.min(RtspSocket::next_check(arrived));
                if self.session.due_in(Instant::now()).is_some_and(|due| due.is_zero()) {
                    self.session.keep_alive(self.pipeline, Instant::now());
                }
            }
            select! {
                recv(self.shutdown.receiver()) -> _ => return Ok(End::Shutdown),
                recv(after(wait)) -> _ => {}
                recv(self.events) -> event => match event {
                    Ok(Event::Failed(error)) => return Err(self.named(error)),
                    Ok(Event::EndOfStream) => {
                        if let Some(end) = self.end_of_stream(turn)? {
                            return Ok(end);
                        }
                        turn = Instant::now();
                    }
                    // The bus handler holds the sender for as long as the pipeline lives.
                    Err(_) => return Err(SourceError::Ended { at: self.at.clone() }),
                },
            }
        }
    }

    /// Starts the pipeline. `true` if shutdown was asked for meanwhile.
    fn start(&self) -> Result<bool, SourceError> {
        let result = self.bring_to_play("start", |pipeline| pipeline.set_state(gst::State::Playing).is_ok());
        match result {
            Ok(true) => return Ok(false),
            Ok(false) => {}
            Err(Late::Shutdown) => return Ok(true),
            Err(Late::Deadline(_)) => {
                return Err(SourceError::Wedged { at: self.at.clone(), waited: self.limits.first_frame });
            }
            Err(Late::NoThread(error)) => {
                let detail = format!("the system gives no thread to start it: {error}");
                return Err(SourceError::Connection { at: self.at.clone(), detail });
            }
        }
        // The element that refused has usually said why.
        match self.events.try_recv() {
            Ok(Event::Failed(error)) => Err(error),
            _ => {
                let detail = "the pipeline cannot be started".to_owned();
                Err(SourceError::Connection { at: self.at.clone(), detail })
            }
        }
    }

    /// Does `work`, which makes the pipeline play, on a thread of its own, and says whether it worked. What was stopped while it still worked plays
    /// afterwards, and GStreamer does not survive it if it is let go of so: then it is stopped once more.
    fn bring_to_play(
        &self,
        what: &str,
        work: impl FnOnce(&gst::Pipeline) -> bool + Send + 'static,
    ) -> Result<bool, Late> {
        let (pipeline, given_up) = (self.pipeline.clone(), Arc::new(AtomicBool::new(false)));
        let late = Arc::clone(&given_up);
        let work = move || {
            let worked = work(&pipeline);
            if late.load(Ordering::SeqCst) {
                // Whoever gave it up has told so.
                let _ = pipeline_stop::stop(pipeline.upcast_ref());
            }
            worked
        };
        let result = self.run_with_timeout(what, self.limits.first_frame, work);
        given_up.store(result.is_err(), Ordering::SeqCst);
        result
    }

    fn run_with_timeout<T: Send + 'static>(
        &self,
        what: &str,
        deadline: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Late> {
        run_with_timeout(&format!("{what}-{}", self.settings.id), deadline, Some(self.shutdown), work)
    }

    /// How long to wait before looking again whether the stream still lives.
    fn time_to_next_check(&self, started: Instant) -> Result<Duration, SourceError> {
        let progress = self.feed.progress();
        let file = matches!(self.settings.location, Location::File(_));
        // We are the slow ones, or a file plays, whose pictures may be far apart: silence is no sign of trouble.
        if progress.delivering || (file && progress.frames > 0) {
            return Ok(self.limits.stall);
        }
        let limit = if progress.last.is_some() { self.limits.stall } else { self.limits.first_frame };
        let silence = progress.last.unwrap_or(started).elapsed();
        if silence >= limit {
            // The limit is told, not the measured time: the same trouble is the same text, and is logged once.
            let (at, silence) = (self.at.clone(), limit);
            return Err(if self.arrivals.within(limit * 3 / 4) {
                SourceError::NoPicture { at, silence }
            } else {
                SourceError::Stalled { at, silence }
            });
        }
        if !file {
            return Ok(limit - silence);
        }
        if silence >= SIGN_OF_LIFE && self.events.is_empty() && !self.is_working() {
            let detail = "nothing in it can be played; it may be cut off or damaged".to_owned();
            return Err(SourceError::NotVideo { at: self.at.clone(), detail });
        }
        Ok(SIGN_OF_LIFE.min(limit - silence))
    }

    /// Whether any of the pipeline's threads still works. decodebin 1.22 sometimes swallows the error of a demuxer that fails
    /// while it is being linked; then all threads have given up and nobody says so.
    fn is_working(&self) -> bool {
        let elements = self.pipeline.iterate_recurse().into_iter().flatten();
        elements.flat_map(|element| element.pads()).any(|pad| pad.task_state() == gst::TaskState::Started)
    }

    fn has_duration(&self) -> bool {
        let pipeline = self.pipeline.clone();
        let query = move || {
            let duration = pipeline.query_duration::<gst::ClockTime>().is_some_and(|d| d > gst::ClockTime::ZERO);
            duration && media::has_length(&pipeline)
        };
        self.run_with_timeout("query", self.limits.tear_down, query).unwrap_or(false)
    }

    fn ending(&self) -> Ending {
        let progress = self.feed.progress();
        media::ending(self.pipeline, &self.settings.location, progress.frames.max(progress.coded))
    }

    /// A single picture that cannot even be decoded is called what it is. GIFs are among them: GStreamer 1.22 cannot play one over HTTP.
    fn named(&self, error: SourceError) -> SourceError {
        let of_pictures = matches!(error, SourceError::Connection { .. } | SourceError::Decode { .. });
        let at_source = error.element().is_empty() || error.element() == "source";
        if of_pictures && !at_source && self.ending() == Ending::SinglePicture {
            return SourceError::SinglePicture { at: self.at.clone() };
        }
        error
    }

    /// What the end of the stream means. `None`: the file plays again.
    fn end_of_stream(&self, turn: Instant) -> Result<Option<End>, SourceError> {
        match self.ending() {
            Ending::Recording => {}
            // A live stream's playlist has a duration too, once its server calls it complete.
            Ending::ByDuration if !self.liveness.is_live() && self.has_duration() => {}
            Ending::SinglePicture => return Err(SourceError::SinglePicture { at: self.at.clone() }),
            Ending::Live | Ending::ByDuration => return Err(SourceError::Ended { at: self.at.clone() }),
        }
        if self.feed.progress().frames == 0 {
            let detail = "no picture could be decoded".to_owned();
            return Err(SourceError::NotVideo { at: self.at.clone(), detail });
        }
        if !(self.settings.looped && matches!(self.settings.location, Location::File(_))) {
            return Ok(Some(End::Played));
        }
        if self.shutdown.sleep(SHORTEST_TURN.saturating_sub(turn.elapsed())) {
            return Ok(Some(End::Shutdown));
        }
        self.feed.looped();
        Ok(if self.rewind() { None } else { Some(End::Again) })
    }

    /// Back to the first frame. Pausing around the seek gives the pipeline a new base time, so that `pace` starts anew too.
    fn rewind(&self) -> bool {
        let rewind = |pipeline: &gst::Pipeline| {
            pipeline.set_state(gst::State::Paused).is_ok()
                && pipeline.seek_simple(gst::SeekFlags::FLUSH, gst::ClockTime::ZERO).is_ok()
                && pipeline.set_state(gst::State::Playing).is_ok()
        };
        self.bring_to_play("rewind", rewind).unwrap_or(false)
    }
}

/// Stops the pipeline; one that is late is named, counted and abandoned, with nothing that it could still deliver to.
fn tear_down(
    pipeline: gst::Pipeline,
    settings: &SourceSettings,
    socket: &RtspSocket,
    abandoned: &mut AbandonedPipelines,
) {
    let (stream, deadline) = (&settings.id, settings.reconnect.limits.tear_down);
    let pipeline = Arc::new(Mutex::new(Some(pipeline)));
    let stop = {
        let pipeline = Arc::clone(&pipeline);
        // Its place is not locked meanwhile.
        move || {
            let pipeline = pipeline.lock().take();
            pipeline.is_none_or(pipeline_stop::stop_and_let_go)
        }
    };
    let stopped = match run_with_timeout(&format!("stop-{stream}"), deadline, None, stop) {
        Ok(stopped) => stopped,
        Err(Late::Shutdown) => true,
        Err(Late::Deadline(running)) => {
            // One that waits for the rest of a message stops then.
            socket.cut();
            abandoned.add(running);
            metrics::counter!("vtagd_pipelines_abandoned_total", "stream" => stream.to_string()).increment(1);
            let hanging = abandoned.count();
            let deadline = rounding::duration(deadline);
            tracing::warn!(%stream, ?deadline, hanging, "the pipeline does not stop; left behind");
            true
        }
        Err(Late::NoThread(error)) => {
            // What it holds is what the system is short of. One that waits for the rest of a message stops then.
            socket.cut();
            tracing::warn!(%stream, %error, "no thread to stop the pipeline; waiting for it instead");
            let pipeline = pipeline.lock().take();
            pipeline.is_none_or(pipeline_stop::stop_and_let_go)
        }
    };
    if !stopped {
        abandoned.add_refusing();
        metrics::counter!("vtagd_pipelines_abandoned_total", "stream" => stream.to_string()).increment(1);
        let hanging = abandoned.count();
        tracing::warn!(%stream, hanging, "the pipeline refuses to stop; left behind");
    }
}
