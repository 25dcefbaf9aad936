//! The session thread: prepared batches in, embeddings out, buffers back to the dispatcher.
//!
//! It owns the [`ImageEncoder`] and runs one batch at a time; the input channel holds one more, so that exactly one batch is
//! prefetched. A failed run costs its own frames only. Frames without pixels pass through in their order. Without an encoder (`model: none`) every frame ends here, counted
//! as such. Ends when the dispatcher is gone; a scoring stage that is gone ends it too.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use super::ImageEncoder;
use crate::account::{DropReason, Outcome};
use crate::batch::{EmbeddedBatch, Item, PreparedBatch};
use crate::tensor::BatchBuffer;

/// Everything the session thread is joined to.
pub struct SessionWorker {
    /// `None` for `model: none`.
    pub encoder: Option<Box<dyn ImageEncoder>>,
    pub batches: Receiver<PreparedBatch>,
    pub free: Sender<BatchBuffer>,
    pub embedded: Sender<EmbeddedBatch>,
}

impl SessionWorker {
    /// Runs until the dispatcher is gone.
    pub fn run(mut self) {
        // Told once per run of failures: a broken accelerator would otherwise fill the log.
        let mut failing = false;
        while let Ok(PreparedBatch { mut buffer, items, done }) = self.batches.recv() {
            let written = wait_until_written(places(&items), &done);
            let result = match &mut self.encoder {
                Some(encoder) => run_batch(encoder.as_mut(), &mut buffer, items, &written, &mut failing),
                None => {
                    items.iter().for_each(|item| item.frame.ticket.settle(Outcome::Dropped(DropReason::NoModel)));
                    None
                }
            };
            if let Err(error) = buffer.recycle() {
                tracing::error!(%error, "a batch buffer cannot be used again");
                return;
            }
            // The dispatcher may be gone already while its last batches drain.
            let _ = self.free.send(buffer);
            if let Some(batch) = result
                && self.embedded.send(batch).is_err()
            {
                return;
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
    failing: &mut bool,
) -> Option<EmbeddedBatch> {
    let (started, count, dim) = (Instant::now(), places(&items), encoder.dim());
    note_waits(&items, written, started);
    let mut embeddings = Vec::new();
    if count == 0 {
        return Some(EmbeddedBatch { items, embeddings, dim });
    }
    let result = match buffer.as_slice(count) {
        Ok(pixels) => encoder.encode(pixels, count, &mut embeddings).map_err(|e| e.to_string()),
        Err(held) => Err(held.to_string()),
    };
    if let Err(error) = result {
        metrics::counter!("vtagd_inference_errors_total").increment(1);
        if !std::mem::replace(failing, true) {
            tracing::error!(%error, frames = count, "inference failed, its frames are lost");
        }
        return lost(items, dim);
    }
    if std::mem::replace(failing, false) {
        tracing::info!("inference works again");
    }
    metrics::histogram!("vtagd_inference_duration_seconds").record(started.elapsed().as_secs_f64());
    metrics::histogram!("vtagd_batch_size").record(count as f64);
    Some(keep_good(items, written, &embeddings, dim))
}

/// Ends the frames whose run failed. Those without pixels do not depend on it.
fn lost(mut items: Vec<Item>, dim: usize) -> Option<EmbeddedBatch> {
    items.retain(|item| {
        if item.has_place() {
            item.frame.ticket.settle(Outcome::Dropped(DropReason::Inference));
        }
        !item.has_place()
    });
    (!items.is_empty()).then(|| EmbeddedBatch { items, embeddings: Vec::new(), dim })
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
fn keep_good(items: Vec<Item>, written: &[bool], embeddings: &[f32], dim: usize) -> EmbeddedBatch {
    let mut batch =
        EmbeddedBatch { items: Vec::with_capacity(items.len()), embeddings: Vec::with_capacity(embeddings.len()), dim };
    let mut rows = written.iter().zip(embeddings.chunks_exact(dim));
    for item in items {
        let row = if item.has_place() { rows.next() } else { None };
        match row {
            Some((false, _)) => item.frame.ticket.settle(Outcome::Dropped(DropReason::Preprocess)),
            Some((true, row)) if row.iter().any(|x| !x.is_finite()) => {
                item.frame.ticket.settle(Outcome::Dropped(DropReason::Inference));
            }
            Some((true, row)) => {
                batch.items.push(item);
                batch.embeddings.extend_from_slice(row);
            }
            None if item.has_place() => item.frame.ticket.settle(Outcome::Dropped(DropReason::Inference)),
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
