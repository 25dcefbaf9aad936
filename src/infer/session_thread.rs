//! A session's thread: prepared batches in, embeddings out, and with them the buffers, which go back to the dispatcher in their turn.
//!
//! It owns an [`ImageEncoder`] and runs one batch at a time. Where there are several sessions, whichever is free takes the next batch,
//! and [`ReorderBuffer`] puts them back into their order. A failed run costs its own frames only; a session whose runs fail leaves the
//! batches to the others for a while. A run that finds no memory is done again in halves. Frames without pixels pass through in
//! their order. Without an encoder (`model: none`) every frame ends here, counted as such. Ends when the dispatcher is gone; a
//! scoring stage that is gone ends it too.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::oom_batch_limit::OomBatchLimit;
use super::watchdog::Runs;
use super::{ImageEncoder, InferError};
use crate::batching::batch::{EmbeddedBatch, Item, PreparedBatch};
use crate::batching::reorder_buffer::ReorderBuffer;
use crate::batching::tensor::BatchBuffer;
use crate::stream::accounting::{DropReason, FrameOutcome};

/// Waits of a session whose runs fail while others work, doubled from the first to the longest: it would fail one batch after the
/// other, and take more of them than those that work.
const REST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Everything a session's thread is joined to.
pub struct SessionWorker {
    /// `None` for `model: none`.
    pub encoder: Option<Box<dyn ImageEncoder>>,
    /// Of all sessions, from 0.
    pub session: usize,
    /// Whether there are others.
    pub has_peers: bool,
    pub batches: Receiver<PreparedBatch>,
    pub embedded: Arc<ReorderBuffer>,
    pub runs: Arc<Runs>,
}

/// Starts a thread for each encoder, or one without for `model: none`; each with the name to call it by when it is late.
///
/// # Errors
/// When the system gives no thread.
pub fn start(
    encoders: Vec<Box<dyn ImageEncoder>>,
    runs: &Arc<Runs>,
    batches: &Receiver<PreparedBatch>,
    free: &Sender<BatchBuffer>,
    embedded: Sender<EmbeddedBatch>,
) -> io::Result<Vec<(String, JoinHandle<()>)>> {
    let embedded = Arc::new(ReorderBuffer::new(embedded, free.clone()));
    runs.pass_by(&embedded);
    let sessions = encoders.len().max(1);
    let mut encoders = encoders.into_iter();
    let start = |session| {
        let (batches, embedded) = (batches.clone(), Arc::clone(&embedded));
        let (encoder, has_peers, runs) = (encoders.next(), sessions > 1, Arc::clone(runs));
        let worker = SessionWorker { encoder, session, has_peers, batches, embedded, runs };
        let thread = Builder::new().name(format!("vtagd-infer-{session}")).spawn(|| worker.run())?;
        Ok((format!("inference session {session}"), thread))
    };
    (0..sessions).map(start).collect()
}

/// What a session remembers from batch to batch.
#[derive(Default)]
struct Course {
    /// Told once per run of failures: a broken accelerator would otherwise fill the log.
    failing: bool,
    rest: Duration,
    oom_limit: OomBatchLimit,
}

impl SessionWorker {
    /// Runs until the dispatcher is gone.
    pub fn run(mut self) {
        let mut course = Course::default();
        while let Ok(PreparedBatch { number, mut buffer, items, done }) = self.batches.recv() {
            let frames = items.iter().map(|item| Arc::clone(&item.frame)).collect();
            let stop = self.encoder.as_ref().and_then(|encoder| encoder.stopper());
            self.runs.begin(self.session, number, frames, stop, Instant::now());
            let written = wait_until_written(places(&items), &done);
            let result = match &mut self.encoder {
                Some(encoder) => run_batch(encoder.as_mut(), &mut buffer, items, &written, &mut course),
                None => {
                    items.iter().for_each(|item| item.frame.guard.complete(FrameOutcome::Dropped(DropReason::NoModel)));
                    None
                }
            };
            let counts = self.runs.end(self.session);
            if let Err(error) = buffer.recycle() {
                tracing::error!(%error, "a batch buffer cannot be used again");
                return;
            }
            if !counts {
                // Later batches have passed it by.
                self.embedded.give_back(buffer);
            } else if self.embedded.put(number, result, buffer).is_err() {
                return;
            }
            if course.failing && self.has_peers {
                course.rest = (course.rest * 2).clamp(REST.0, REST.1);
                std::thread::sleep(course.rest);
            } else {
                course.rest = Duration::ZERO;
            }
        }
    }
}

/// Waits until the pool has written all `count` places. A place whose job was lost counts as not written.
fn wait_until_written(count: usize, done: &Receiver<(usize, bool)>) -> Vec<bool> {
    let mut written = vec![false; count];
    for (index, ok) in done.iter().take(count) {
        if let Some(slot) = written.get_mut(index) {
            *slot = ok;
        }
    }
    written
}

fn run_batch(
    encoder: &mut dyn ImageEncoder,
    buffer: &mut BatchBuffer,
    items: Vec<Item>,
    written: &[bool],
    course: &mut Course,
) -> Option<EmbeddedBatch> {
    let (started, count, dim) = (Instant::now(), places(&items), encoder.dim());
    note_waits(&items, written, started);
    let mut embeddings = Vec::new();
    if count == 0 {
        return Some(EmbeddedBatch { items, embeddings, dim, provider: encoder.provider().as_str() });
    }
    let result = encode(encoder, buffer, count, &mut embeddings, &mut course.oom_limit);
    if let Err(error) = result {
        metrics::counter!("vtagd_inference_errors_total").increment(1);
        if !std::mem::replace(&mut course.failing, true) {
            tracing::error!(%error, frames = count, "inference failed, its frames are lost");
        }
        return lost(items, dim, encoder.provider().as_str());
    }
    if std::mem::replace(&mut course.failing, false) {
        tracing::info!("inference works again");
    }
    metrics::histogram!("vtagd_inference_duration_seconds").record(started.elapsed().as_secs_f64());
    metrics::histogram!("vtagd_batch_size").record(count as f64);
    Some(keep_good(items, written, &embeddings, dim, encoder.provider().as_str()))
}

/// Encodes the first `count` pictures of `buffer`, in as many runs as memory asks for.
fn encode(
    encoder: &mut dyn ImageEncoder,
    buffer: &mut BatchBuffer,
    count: usize,
    embeddings: &mut Vec<f32>,
    oom_limit: &mut OomBatchLimit,
) -> Result<(), InferError> {
    let place = buffer.place_len();
    let pixels = buffer.as_padded_slice(count, encoder.padded(count)).map_err(|e| InferError::Run(e.to_string()))?;
    let (mut from, mut part) = (0, Vec::new());
    while from < count {
        let wanted = oom_limit.allow(count - from, Instant::now());
        let end = (from + encoder.padded(wanted).max(wanted)).min(pixels.len() / place.max(1));
        match encoder.encode(&pixels[from * place..end * place], wanted, &mut part) {
            // The usual way, and nothing is copied.
            Ok(()) if wanted == count => std::mem::swap(embeddings, &mut part),
            Ok(()) => embeddings.extend_from_slice(&part),
            Err(InferError::Memory(error)) => {
                metrics::counter!("vtagd_inference_out_of_memory_total").increment(1);
                if wanted == 1 {
                    return Err(InferError::Memory(error));
                }
                // Filling counts: it was in memory too.
                let tried = encoder.padded(wanted).max(wanted);
                let limit = oom_limit.lower(tried, Instant::now());
                tracing::warn!(
                    error,
                    pictures = tried,
                    limit,
                    "no memory for a run, going on with half as many pictures"
                );
                continue;
            }
            Err(error) => return Err(error),
        }
        from += wanted;
    }
    Ok(())
}

/// Ends the frames whose run failed. Those without pixels do not depend on it.
fn lost(mut items: Vec<Item>, dim: usize, provider: &'static str) -> Option<EmbeddedBatch> {
    items.retain(|item| {
        if item.has_place() {
            item.frame.guard.complete(FrameOutcome::Dropped(DropReason::Inference));
        }
        !item.has_place()
    });
    (!items.is_empty()).then(|| EmbeddedBatch { items, embeddings: Vec::new(), dim, provider })
}

/// How long pictures have waited for the run that begins `now`.
fn note_waits(items: &[Item], written: &[bool], now: Instant) {
    let placed = items.iter().filter(|item| item.has_place());
    for (item, _) in placed.zip(written).filter(|(_, written)| **written) {
        let wait = now.saturating_duration_since(item.frame.time.captured);
        metrics::histogram!("vtagd_queue_wait_seconds").record(wait.as_secs_f64());
    }
}

/// Leaves out items that were never written and embeddings that are not finite; their frames end here.
fn keep_good(
    items: Vec<Item>,
    written: &[bool],
    embeddings: &[f32],
    dim: usize,
    provider: &'static str,
) -> EmbeddedBatch {
    let (room, values) = (Vec::with_capacity(items.len()), Vec::with_capacity(embeddings.len()));
    let mut batch = EmbeddedBatch { items: room, embeddings: values, dim, provider };
    let mut rows = written.iter().zip(embeddings.chunks_exact(dim));
    for item in items {
        let row = if item.has_place() { rows.next() } else { None };
        match row {
            Some((false, _)) => item.frame.guard.complete(FrameOutcome::Dropped(DropReason::Preprocess)),
            Some((true, row)) if row.iter().any(|x| !x.is_finite()) => {
                item.frame.guard.complete(FrameOutcome::Dropped(DropReason::Inference));
            }
            Some((true, row)) => {
                batch.items.push(item);
                batch.embeddings.extend_from_slice(row);
            }
            None if item.has_place() => item.frame.guard.complete(FrameOutcome::Dropped(DropReason::Inference)),
            None => batch.items.push(item),
        }
    }
    batch
}

/// Items with pixels.
fn places(items: &[Item]) -> usize {
    items.iter().filter(|item| item.has_place()).count()
}

#[cfg(test)]
mod tests;
