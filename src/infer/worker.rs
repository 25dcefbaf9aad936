//! The session thread: prepared batches in, embeddings out, buffers back to the dispatcher.
//!
//! It owns the [`ImageEncoder`] and runs one batch at a time; the input channel holds one more, so that exactly one batch is
//! prefetched. A failed run costs its own frames only. Without an encoder (`model: none`) every frame ends here, counted
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
            let written = wait_until_written(items.len(), &done);
            let result = match &mut self.encoder {
                Some(encoder) => run_batch(encoder.as_mut(), &mut buffer, items, &written, &mut failing),
                None => {
                    settle(&items, DropReason::NoModel);
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
    let started = Instant::now();
    note_waits(&items, written, started);
    let mut embeddings = Vec::new();
    let result = match buffer.as_slice(items.len()) {
        Ok(pixels) => encoder.encode(pixels, items.len(), &mut embeddings).map_err(|e| e.to_string()),
        Err(held) => Err(held.to_string()),
    };
    if let Err(error) = result {
        metrics::counter!("vtagd_inference_errors_total").increment(1);
        if !std::mem::replace(failing, true) {
            tracing::error!(%error, frames = items.len(), "inference failed, its frames are lost");
        }
        settle(&items, DropReason::Inference);
        return None;
    }
    if std::mem::replace(failing, false) {
        tracing::info!("inference works again");
    }
    metrics::histogram!("vtagd_inference_duration_seconds").record(started.elapsed().as_secs_f64());
    metrics::histogram!("vtagd_batch_size").record(items.len() as f64);
    Some(keep_good(items, written, embeddings, encoder.dim()))
}

/// How long frames have waited for the run that begins `now`. One in several squares has waited when its first is run.
fn note_waits(items: &[Item], written: &[bool], now: Instant) {
    for (item, _) in items.iter().zip(written).filter(|(item, written)| item.tile == 0 && **written) {
        let wait = now.saturating_duration_since(item.frame.time.captured);
        metrics::histogram!("vtagd_queue_wait_seconds").record(wait.as_secs_f64());
    }
}

/// Leaves out items that were never written and embeddings that are not finite; their frames end here.
fn keep_good(items: Vec<Item>, written: &[bool], embeddings: Vec<f32>, dim: usize) -> EmbeddedBatch {
    let mut batch =
        EmbeddedBatch { items: Vec::with_capacity(items.len()), embeddings: Vec::with_capacity(embeddings.len()), dim };
    for ((item, written), row) in items.into_iter().zip(written).zip(embeddings.chunks_exact(dim)) {
        if !written {
            item.frame.ticket.settle(Outcome::Dropped(DropReason::Preprocess));
        } else if row.iter().any(|x| !x.is_finite()) {
            item.frame.ticket.settle(Outcome::Dropped(DropReason::Inference));
        } else {
            batch.items.push(item);
            batch.embeddings.extend_from_slice(row);
        }
    }
    batch
}

fn settle(items: &[Item], reason: DropReason) {
    for item in items {
        item.frame.ticket.settle(Outcome::Dropped(reason));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::account::Account;
    use crate::batch::FrameMeta;
    use crate::frame::{FrameTime, StreamKey};

    #[test]
    fn a_frame_waits_from_its_decoder_to_the_run_and_counts_once_however_many_squares_it_has() {
        let (captured, account) = (Instant::now(), Arc::new(Account::default()));
        let frame = |tiles| {
            let time = FrameTime { media: Duration::ZERO, captured, wall: jiff::Timestamp::UNIX_EPOCH };
            Arc::new(FrameMeta { stream: StreamKey(1), time, tiles, ticket: account.sample(&"a".into()) })
        };
        let (tiled, plain, broken) = (frame(2), frame(1), frame(1));
        let item = |frame: &Arc<FrameMeta>, tile| Item { frame: Arc::clone(frame), tile };
        let items = [item(&tiled, 0), item(&tiled, 1), item(&plain, 0), item(&broken, 0)];
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            note_waits(&items, &[true, true, true, false], captured + Duration::from_secs(3));
        });
        let text = handle.render();
        let told = |line: &str| text.lines().any(|l| l == line);
        assert!(told("vtagd_queue_wait_seconds_count 2") && told("vtagd_queue_wait_seconds_sum 6"), "{text}");
    }
}
