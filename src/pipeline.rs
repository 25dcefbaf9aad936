//! The whole way of a frame: builds every stage, joins them with bounded channels, and gives each its named thread.
//!
//! Closing runs downstream: sources end → their slots close → the dispatcher drains and ends → the pool and the session
//! thread end → the scoring thread ends. Nobody is told to stop in the middle; nothing that was taken is forgotten.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::account::Account;
use crate::frame::{FrameTap, Picture};
use crate::infer::ImageEncoder;
use crate::infer::dispatch::{BUFFERS, Dispatcher};
use crate::infer::worker::SessionWorker;
use crate::preprocess::{Spec, View, pool, tiles};
use crate::queue;
use crate::sample::{OnFull, Sampler};
use crate::score::Scorer;
use crate::score::worker::{self, ScoredFrame};
use crate::shutdown::Shutdown;
use crate::source::{Ended, Pace, Source, SourceSettings};
use crate::status::StreamStatus;
use crate::tensor::BatchBuffer;

/// One stream, as the pipeline needs it.
pub struct StreamPart {
    pub source: SourceSettings,
    pub interval: Duration,
    pub view: View,
    /// Label sets it is scored against, as indices into [`Parts::scorers`].
    pub sets: Vec<usize>,
}

/// Everything to build a pipeline of.
pub struct Parts {
    pub streams: Vec<StreamPart>,
    pub spec: Arc<Spec>,
    /// `None` decodes and preprocesses only.
    pub encoder: Option<Box<dyn ImageEncoder>>,
    pub scorers: Vec<Arc<Scorer>>,
    pub max_size: usize,
    pub max_delay: Duration,
    /// Preprocessing threads.
    pub threads: usize,
}

/// A pipeline at work.
pub struct Running {
    pub streams: Vec<(Arc<StreamStatus>, Arc<Account>)>,
    /// Index of each stream whose source has ended, and how; `None` if its thread panicked.
    pub ended: Receiver<(usize, Option<Ended>)>,
    /// Every thread and the name to call it by when it is late.
    pub threads: Vec<(String, JoinHandle<()>)>,
}

/// Starts every stage. `on_frame` runs on the scoring thread, frame by frame, in order per stream.
///
/// # Errors
/// When the system gives no thread or no memory for the batches; the stages started until then end by themselves.
pub fn start(
    parts: Parts,
    shutdown: &Shutdown,
    on_frame: impl FnMut(ScoredFrame<'_>) + Send + 'static,
) -> io::Result<Running> {
    let Parts { streams, spec, encoder, scorers, max_size, max_delay, threads: pool_size } = parts;
    let mut threads = Vec::new();
    let (wake, woken) = queue::wake_channel();

    // source → sample → slot, one each a stream
    let (ended_tx, ended) = bounded(streams.len());
    let (mut slots, mut views, mut sets, mut watched) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut sources = Vec::new();
    for (index, part) in streams.into_iter().enumerate() {
        let id = Arc::clone(&part.source.id);
        let (status, account) = (Arc::new(StreamStatus::new(Arc::clone(&id))), Arc::new(Account::default()));
        let (writer, reader) = queue::slot(1, wake.clone());
        let on_full = match part.source.pace {
            Pace::Live => OnFull::NewestWins,
            Pace::Fast => OnFull::Wait(shutdown.clone()),
        };
        let sampler = Sampler::new(Arc::clone(&id), part.interval, Arc::clone(&account), writer, on_full);
        let tap: Arc<dyn FrameTap> = Arc::new(sampler);
        let source = Source::new(part.source, tap, Arc::clone(&status), shutdown.clone());
        let farewell = Farewell { index, how: None, ended: ended_tx.clone() };
        sources.push((id, || farewell.after(source)));
        slots.push(reader);
        views.push(part.view);
        sets.push(part.sets);
        watched.push((status, account));
    }
    drop(wake);

    // slots → batches; buffers go round between the dispatcher and the session thread
    let (free_tx, free) = bounded(BUFFERS);
    for _ in 0..BUFFERS {
        let buffer = BatchBuffer::new(max_size, spec.place_len()).map_err(io::Error::other)?;
        free_tx.send(buffer).map_err(io::Error::other)?;
    }
    let (jobs_tx, jobs) = bounded(max_size * BUFFERS);
    let (batches_tx, batches) = bounded(1);
    let (embedded_tx, embedded) = bounded(BUFFERS);
    let views: Arc<[View]> = views.into();
    let count = {
        let views = Arc::clone(&views);
        Box::new(move |stream: usize, picture: &Picture| tiles(views[stream], picture.width(), picture.height()))
    };
    let dispatcher =
        Dispatcher { slots, wake: woken, tiles: count, jobs: jobs_tx, batches: batches_tx, free, max_size, max_delay };
    threads.push(spawn("dispatcher", "vtagd-dispatch", move || dispatcher.run())?);
    for (n, thread) in pool::spawn(pool_size, &spec, &views, &jobs)?.into_iter().enumerate() {
        threads.push((format!("preprocessing {n}"), thread));
    }

    // batches → embeddings → scores
    let session = SessionWorker { encoder, batches, free: free_tx, embedded: embedded_tx };
    threads.push(spawn("inference session", "vtagd-infer", move || session.run())?);
    threads.push(spawn("scoring", "vtagd-score", move || worker::run(&embedded, &scorers, &sets, on_frame))?);

    // Last, so that the first frame finds everything in place.
    for (id, source) in sources {
        threads.push(spawn(&format!("source {id}"), &format!("src-{id}"), source)?);
    }
    Ok(Running { streams: watched, ended, threads })
}

/// Tells how a source ended, also when it panicked.
struct Farewell {
    index: usize,
    how: Option<Ended>,
    ended: Sender<(usize, Option<Ended>)>,
}

impl Farewell {
    fn after(mut self, source: Source) {
        self.how = Some(source.run());
    }
}
impl Drop for Farewell {
    fn drop(&mut self) {
        // The receiver is gone only when nobody cares any more.
        let _ = self.ended.send((self.index, self.how.take()));
    }
}

fn spawn(name: &str, thread: &str, work: impl FnOnce() + Send + 'static) -> io::Result<(String, JoinHandle<()>)> {
    Ok((name.to_owned(), Builder::new().name(thread.to_owned()).spawn(work)?))
}
