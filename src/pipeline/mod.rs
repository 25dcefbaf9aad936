//! The whole way of a frame: builds every stage, joins them with bounded channels, and gives each its named thread.
//!
//! Streams join through the [`Intake`]. Closing runs downstream: sources end → their slots close → the intake is dropped → the
//! dispatcher drains and ends → the pool and the session thread end → the scoring thread ends. Nobody is told to stop in the
//! middle; nothing that was taken is forgotten.

pub mod intake;

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::batching::dispatcher::{Dispatcher, buffers};
use crate::batching::reorder_buffer::ReorderBuffer;
use crate::batching::tensor::BatchBuffer;
use crate::frame::slot;
use crate::infer::ImageEncoder;
use crate::infer::session_thread::SessionWorker;
use crate::infer::watchdog::Runs;
use crate::pipeline::intake::{CommonPace, Intake};
use crate::platform::shutdown::Shutdown;
use crate::preprocess::{Spec, pool, tiles};
use crate::score::score_routes::ScoreRoutes;
use crate::score::scoring_thread;

/// Streams that may be on their way in at once; more are refused.
const ARRIVALS: usize = 1024;

/// What all streams share.
pub struct Stages {
    pub spec: Arc<Spec>,
    /// One a session, over the same model; none: decodes and preprocesses only.
    pub encoders: Vec<Box<dyn ImageEncoder>>,
    /// Where somebody can see that a run hangs.
    pub runs: Arc<Runs>,
    pub max_size: usize,
    pub max_delay: Duration,
    /// Preprocessing threads.
    pub threads: usize,
}

/// Threads, each with the name to call it by when it is late.
pub type Threads = Vec<(String, JoinHandle<()>)>;

/// Starts every stage. Streams that join later end with `shutdown` at the latest.
///
/// # Errors
/// When the system gives no thread or no memory for the batches; the stages started until then end by themselves.
pub fn start(stages: Stages, shutdown: &Shutdown) -> io::Result<(Intake, Threads)> {
    let Stages { spec, encoders, runs, max_size, max_delay, threads: pool_size } = stages;
    let (sessions, buffers) = (encoders.len().max(1), buffers(encoders.len().max(1)));
    let mut threads = Vec::new();

    // source → sample → slot, one each a stream, come with the intake
    let (wake, woken) = slot::wake_channel();
    let (arrivals_tx, arrivals) = bounded(ARRIVALS);
    let score_routes = Arc::new(ScoreRoutes::default());

    // slots → batches; buffers go round between the dispatcher and the sessions
    let (free_tx, free) = bounded(buffers);
    for _ in 0..buffers {
        let own = encoders.first().and_then(|encoder| encoder.memory(max_size * spec.place_len()));
        let buffer = own.map(|memory| BatchBuffer::within(memory, spec.place_len()));
        let buffer = buffer.map_or_else(|| BatchBuffer::new(max_size, spec.place_len()), Ok);
        free_tx.send(buffer.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    let (jobs_tx, jobs) = bounded(max_size * buffers);
    let (batches_tx, batches) = bounded(0);
    let (embedded_tx, scored_rx) = bounded(buffers);
    let dispatcher = Dispatcher {
        arrivals,
        wake: woken,
        tiles: |view, picture| tiles(view, picture.width(), picture.height()),
        jobs: jobs_tx,
        batches: batches_tx,
        free,
        max_size,
        max_delay,
    };
    threads.push(spawn("dispatcher", "vtagd-dispatch", move || dispatcher.run())?);
    for (n, thread) in pool::spawn(pool_size, &spec, &jobs)?.into_iter().enumerate() {
        threads.push((format!("preprocessing {n}"), thread));
    }

    // batches → embeddings → scores
    let embedded = Arc::new(ReorderBuffer::new(embedded_tx));
    runs.pass_by(&embedded);
    let mut encoders = encoders.into_iter();
    for session in 0..sessions {
        let (batches, free, embedded) = (batches.clone(), free_tx.clone(), Arc::clone(&embedded));
        let (encoder, has_peers, runs) = (encoders.next(), sessions > 1, Arc::clone(&runs));
        let worker = SessionWorker { encoder, session, has_peers, batches, free, embedded, runs };
        threads.push(spawn(&format!("inference session {session}"), &format!("vtagd-infer-{session}"), move || {
            worker.run()
        })?);
    }
    drop((embedded, free_tx, batches));
    let scored = Arc::clone(&score_routes);
    threads.push(spawn("scoring", "vtagd-score", move || scoring_thread::run(&scored_rx, &scored))?);

    let intake = Intake {
        arrivals: arrivals_tx,
        wake,
        score_routes,
        shutdown: shutdown.clone(),
        next: 0,
        pace: CommonPace::default(),
        pictures: false,
    };
    Ok((intake, threads))
}

fn spawn(name: &str, thread: &str, work: impl FnOnce() + Send + 'static) -> io::Result<(String, JoinHandle<()>)> {
    Ok((name.to_owned(), Builder::new().name(thread.to_owned()).spawn(work)?))
}
