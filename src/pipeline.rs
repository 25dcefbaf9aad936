//! The whole way of a frame: builds every stage, joins them with bounded channels, and gives each its named thread.
//!
//! Streams join through the [`Intake`]. Closing runs downstream: sources end → their slots close → the intake is dropped → the
//! dispatcher drains and ends → the pool and the session thread end → the scoring thread ends. Nobody is told to stop in the
//! middle; nothing that was taken is forgotten.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::infer::ImageEncoder;
use crate::infer::dispatch::{BUFFERS, Dispatcher};
use crate::infer::worker::SessionWorker;
use crate::intake::{CommonPace, Intake};
use crate::preprocess::{Spec, pool, tiles};
use crate::queue;
use crate::score::roster::Roster;
use crate::score::worker;
use crate::shutdown::Shutdown;
use crate::tensor::BatchBuffer;

/// Streams that may be on their way in at once; more are refused.
const ARRIVALS: usize = 1024;

/// What all streams share.
pub struct Stages {
    pub spec: Arc<Spec>,
    /// `None` decodes and preprocesses only.
    pub encoder: Option<Box<dyn ImageEncoder>>,
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
    let Stages { spec, encoder, max_size, max_delay, threads: pool_size } = stages;
    let mut threads = Vec::new();

    // source → sample → slot, one each a stream, come with the intake
    let (wake, woken) = queue::wake_channel();
    let (arrivals_tx, arrivals) = bounded(ARRIVALS);
    let roster = Arc::new(Roster::default());

    // slots → batches; buffers go round between the dispatcher and the session thread
    let (free_tx, free) = bounded(BUFFERS);
    for _ in 0..BUFFERS {
        let buffer = BatchBuffer::new(max_size, spec.place_len()).map_err(io::Error::other)?;
        free_tx.send(buffer).map_err(io::Error::other)?;
    }
    let (jobs_tx, jobs) = bounded(max_size * BUFFERS);
    let (batches_tx, batches) = bounded(1);
    let (embedded_tx, embedded) = bounded(BUFFERS);
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
    let session = SessionWorker { encoder, batches, free: free_tx, embedded: embedded_tx };
    threads.push(spawn("inference session", "vtagd-infer", move || session.run())?);
    let scored = Arc::clone(&roster);
    threads.push(spawn("scoring", "vtagd-score", move || worker::run(&embedded, &scored))?);

    let intake = Intake {
        arrivals: arrivals_tx,
        wake,
        roster,
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
