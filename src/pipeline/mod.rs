//! The whole way of a frame, camera to sink: each stage is joined to the next one here, and nowhere else.
//!
//! ```text
//! camera_to_slot     camera ─► source ─► sample ─► slot, once a stream
//! picture_to_slot    a picture of the API ─► slot, on demand
//! start              slots ─► batches ─► embeddings ─► scores, once for all streams
//! scores_to_events   scores ─► events, once a stream
//! EventRoute         events ─► outbox, and their pictures
//! outbox_to_sinks    outbox ─► a thread for each sink
//! ```
//!
//! Streams join through the [`Intake`]. Closing runs downstream: sources end → their slots close → the intake is dropped → the dispatcher
//! drains and ends → the pool and the session threads end → the scoring thread ends → the event route is closed → the outbox and the sinks end. Nothing is forgotten.

pub mod intake;
pub mod on_demand;

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;

use crate::batching::dispatcher::{Dispatcher, TileCount, buffers, free_buffers};
use crate::event::{Emitter, Event};
use crate::frame::slot::{self, SlotReader, SlotWriter};
use crate::frame::{Frame, Picture};
use crate::infer::watchdog::Runs;
use crate::infer::{ImageEncoder, session_thread};
use crate::outbox::{Outbox, delivery::DeliveryReceiver};
use crate::platform::shutdown::Shutdown;
use crate::preprocess::{Spec, pool, tiles};
use crate::sample::{OnFull, Sampler};
use crate::score::computed_by::ComputedBy;
use crate::score::score_routes::{EmbeddingHandler, ScoreRoute, ScoreRoutes};
use crate::score::{LabelScore, Scorer, scoring_thread};
use crate::sink::{Sink, runner};
use crate::snapshot::Gallery;
use crate::source::{Pace, Source};
pub use intake::Threads;
use intake::{ARRIVALS, Camera, Intake, spawn};

/// What all streams share.
pub struct Stages {
    pub spec: Arc<Spec>,
    /// One a session, over the same model; none: decodes and preprocesses only. In `runs` somebody can see that one hangs.
    pub encoders: Vec<Box<dyn ImageEncoder>>,
    pub runs: Arc<Runs>,
    /// Pictures of a batch, how long it waits for them, and preprocessing threads.
    pub max_size: usize,
    pub max_delay: Duration,
    pub threads: usize,
}

/// camera → source → sample → slot. The source is not running yet.
fn camera_to_slot(camera: Camera, wake: Sender<()>, shutdown: Shutdown) -> (Source, SlotReader<Frame>) {
    let Camera { record, source, interval, tempo, thumbprints, latest, pushed } = camera;
    let (writer, slot) = slot::slot(1, wake);
    let on_full = match source.pace {
        Pace::Live => OnFull::NewestWins,
        Pace::Fast => OnFull::Wait(shutdown.clone()),
    };
    let sampler = Sampler::new(Arc::clone(&source.id), interval, record.accounting, writer, on_full);
    let sampler = sampler.following(tempo).with_thumbprints(thumbprints).showing(latest);
    (Source::new(source, Arc::new(sampler), record.status, shutdown).taking(pushed), slot)
}

/// picture → slot, of one that somebody asks about.
fn picture_to_slot(wake: Sender<()>) -> (SlotWriter<Frame>, SlotReader<Frame>) {
    slot::slot(1, wake)
}

/// slots → batches → embeddings → scores: the stages that all streams share. Streams that join later end with `shutdown` at the latest.
///
/// # Errors
/// When the system gives no thread or no memory for the batches; the stages started until then end by themselves.
pub fn start(stages: Stages, shutdown: &Shutdown) -> io::Result<(Intake, Threads)> {
    let Stages { spec, encoders, runs, max_size, max_delay, threads: pool_size } = stages;
    let sessions = encoders.len().max(1);
    let (wake, woken) = slot::wake_channel();
    let (joining, arrivals) = bounded(ARRIVALS);
    let (jobs, to_prepare) = bounded(max_size * buffers(sessions));
    let (batches, prepared) = bounded(0);
    let (embedded, to_score) = bounded(buffers(sessions));
    let memory = || encoders.first().and_then(|encoder| encoder.memory(max_size * spec.place_len()));
    let (used, free) = free_buffers(sessions, max_size, spec.place_len(), memory).map_err(io::Error::other)?;

    // slots → batches, whose places the pool writes → embeddings → scores
    let tiles: TileCount = |view, picture| tiles(view, picture.width(), picture.height());
    let dispatcher = Dispatcher { arrivals, wake: woken, tiles, jobs, batches, free, max_size, max_delay };
    let mut threads = vec![spawn("dispatcher", "vtagd-dispatch", move || dispatcher.run())?];
    threads.extend(pool::start(pool_size, &spec, &to_prepare)?);
    threads.extend(session_thread::start(encoders, &runs, &prepared, &used, embedded)?);
    let score_routes = Arc::new(ScoreRoutes::default());
    let routes = Arc::clone(&score_routes);
    threads.push(spawn("scoring", "vtagd-score", move || scoring_thread::run(&to_score, &routes))?);
    Ok((Intake::new(joining, wake, score_routes, shutdown.clone()), threads))
}

/// scores → events: the route of a stream, whose scores feed its emitter, view by view and set by set.
pub fn scores_to_events(
    scorers: Vec<Arc<Scorer>>,
    emitter: Arc<Mutex<Emitter>>,
    events: Arc<EventRoute>,
    embeddings: Option<EmbeddingHandler>,
) -> ScoreRoute {
    let handler = Box::new(move |time, picture: Option<&Arc<Picture>>, boards: &[Vec<LabelScore>]| {
        let mut emitter = emitter.lock();
        for (board, scores) in boards.iter().enumerate() {
            emitter.scores(time, board, scores, &mut |event| events.send(event, picture));
        }
    });
    ScoreRoute { scorers, skipped: Vec::new(), handler, embeddings }
}

/// events → outbox.
pub struct EventRoute {
    pub outbox: Outbox,
    /// Where pictures of tags are kept, if they are.
    pub gallery: Option<Arc<Gallery>>,
    /// Set once there is something that computes.
    pub computed_by: OnceLock<Arc<ComputedBy>>,
}

impl EventRoute {
    /// Whether the event is on its way to anybody. `picture` is the frame that caused it.
    pub fn send(&self, mut event: Event, picture: Option<&Arc<Picture>>) -> bool {
        self.gallery.iter().for_each(|gallery| gallery.illustrate(&mut event, picture));
        event.data.model.provider = self.computed_by.get().and_then(|provider| provider.get());
        self.outbox.send(&Arc::new(event))
    }

    /// Takes nothing more. What was taken is still stored, encoded and delivered.
    pub fn close(&self) {
        self.outbox.close();
        self.gallery.iter().for_each(|gallery| gallery.close());
    }
}

/// outbox → sinks: each sink on a thread of its own, behind its receiver.
///
/// # Errors
/// When the system gives no thread.
pub fn outbox_to_sinks(receivers: Vec<DeliveryReceiver>, sinks: Vec<Box<dyn Sink>>) -> io::Result<Threads> {
    let start = |(receiver, sink): (DeliveryReceiver, _)| {
        Ok((format!("sink {}", receiver.name()), runner::start(sink, receiver, runner::ladder())?))
    };
    receivers.into_iter().zip(sinks).map(start).collect()
}
