//! The session thread with a made-up encoder: what becomes of frames with and without pixels.

use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::*;
use crate::batching::batch::{FrameMeta, ItemKind, SharedEmbedding};
use crate::frame::FrameTime;
use crate::infer::{InferError, Provider};
use crate::stream::StreamKey;
use crate::stream::accounting::FrameAccounting;
use std::sync::{Arc, Mutex};

/// An embedding is the picture's only float; a picture of 13 fails its run.
struct Echo;

impl ImageEncoder for Echo {
    fn dim(&self) -> usize {
        1
    }

    fn provider(&self) -> Provider {
        Provider::Cpu
    }

    fn encode(&mut self, pixels: &[f32], count: usize, embeddings: &mut Vec<f32>) -> Result<(), InferError> {
        assert_eq!(pixels.len(), count);
        embeddings.clear();
        embeddings.extend_from_slice(pixels);
        if pixels.contains(&13.0) { Err(InferError::Run("thirteen".into())) } else { Ok(()) }
    }
}

/// What a batch is made of.
enum Given {
    Pixel(f32),
    /// The preprocessing of this one fails.
    Unwritten,
    Again,
}

/// Runs one batch; gives what goes on to be scored, by the frames' seconds, and the embeddings.
fn run(
    encoder: Option<Box<dyn ImageEncoder>>,
    given: Vec<Given>,
    accounting: &Arc<FrameAccounting>,
) -> (Vec<u64>, Vec<f32>) {
    let (free_tx, free) = bounded(1);
    let (batches_tx, batches) = bounded(1);
    let (embedded_tx, embedded) = bounded(1);
    let (done_tx, done) = bounded(16);
    let mut buffer = BatchBuffer::new(8, 1).unwrap();
    let mut items = Vec::new();
    for (second, given) in given.into_iter().enumerate() {
        let media = Duration::from_secs(second as u64);
        let time = FrameTime { media, captured: Instant::now(), wall: jiff::Timestamp::UNIX_EPOCH, connection: 0 };
        let guard = accounting.sample(&"a".into());
        let frame = Arc::new(FrameMeta {
            stream: StreamKey(1),
            time,
            tiles: vec![1],
            shared_embedding: None,
            picture: None,
            guard,
        });
        let kind = if let Given::Again = given {
            ItemKind::Reused(Arc::new(SharedEmbedding::default()))
        } else {
            let mut place = buffer.claim().unwrap();
            if let Given::Pixel(value) = given {
                place[0] = value;
            }
            done_tx.send((place.index(), !matches!(given, Given::Unwritten))).unwrap();
            ItemKind::Tile
        };
        items.push(Item { frame, kind });
    }
    batches_tx.send(PreparedBatch { number: 0, buffer, items, done }).unwrap();
    drop(batches_tx);
    let (embedded_in, runs) = (Arc::new(ReorderBuffer::new(embedded_tx, free_tx)), Arc::default());
    let (session, has_peers) = (0, false);
    SessionWorker { encoder, session, has_peers, batches, embedded: embedded_in, runs }.run();
    assert_eq!(free.recv().unwrap().claimed(), 0, "the buffer comes back");
    let Ok(batch) = embedded.try_recv() else { return (Vec::new(), Vec::new()) };
    (batch.items.iter().map(|item| item.frame.time.media.as_secs()).collect(), batch.embeddings)
}

fn dropped(accounting: &FrameAccounting, reason: &str) -> u64 {
    accounting.totals().dropped.get(reason).copied().unwrap_or(0)
}

#[test]
fn frames_without_pixels_keep_their_turn_and_take_no_row() {
    let accounting = Arc::new(FrameAccounting::default());
    let given = vec![Given::Again, Given::Pixel(1.0), Given::Again, Given::Pixel(2.0), Given::Again];
    assert_eq!(run(Some(Box::new(Echo)), given, &accounting), (vec![0, 1, 2, 3, 4], vec![1.0, 2.0]));
}

#[test]
fn a_batch_of_nothing_but_frames_without_pixels_runs_no_model() {
    struct Never;
    impl ImageEncoder for Never {
        fn dim(&self) -> usize {
            1
        }
        fn provider(&self) -> Provider {
            Provider::Cpu
        }
        fn encode(&mut self, _: &[f32], _: usize, _: &mut Vec<f32>) -> Result<(), InferError> {
            panic!("there is nothing to encode")
        }
    }
    let accounting = Arc::new(FrameAccounting::default());
    assert_eq!(run(Some(Box::new(Never)), vec![Given::Again, Given::Again], &accounting), (vec![0, 1], vec![]));
}

#[test]
fn places_that_were_not_written_or_hold_nonsense_cost_their_own_frames_only() {
    let accounting = Arc::new(FrameAccounting::default());
    let given =
        vec![Given::Unwritten, Given::Again, Given::Pixel(f32::NAN), Given::Again, Given::Pixel(3.0), Given::Again];
    assert_eq!(run(Some(Box::new(Echo)), given, &accounting), (vec![1, 3, 4, 5], vec![3.0]));
    assert_eq!((dropped(&accounting, "preprocess"), dropped(&accounting, "inference")), (1, 1));
}

#[test]
fn a_failed_run_costs_its_own_frames_and_not_those_without_pixels() {
    let accounting = Arc::new(FrameAccounting::default());
    let given = vec![Given::Pixel(1.0), Given::Again, Given::Pixel(13.0)];
    assert_eq!(run(Some(Box::new(Echo)), given, &accounting), (vec![1], vec![]));
    assert_eq!(dropped(&accounting, "inference"), 2);
}

/// An encoder whose memory holds `fits` pictures, filling included, and that fills runs up to powers of two.
struct Small {
    fits: usize,
    runs: Arc<Mutex<Vec<usize>>>,
}

impl ImageEncoder for Small {
    fn dim(&self) -> usize {
        1
    }

    fn provider(&self) -> Provider {
        Provider::Cuda
    }

    fn padded(&self, count: usize) -> usize {
        count.next_power_of_two()
    }

    fn encode(&mut self, pixels: &[f32], count: usize, embeddings: &mut Vec<f32>) -> Result<(), InferError> {
        self.runs.lock().unwrap().push(self.padded(count));
        assert_eq!(pixels.len(), self.padded(count), "pictures to fill the run up with lie behind");
        embeddings.clear();
        if self.padded(count) > self.fits {
            return Err(InferError::Memory("CUDA failure 2: out of memory".into()));
        }
        embeddings.extend_from_slice(&pixels[..count]);
        Ok(())
    }
}

fn small(fits: usize, pictures: usize) -> (Vec<f32>, Vec<usize>, Arc<FrameAccounting>) {
    let (accounting, runs) = (Arc::new(FrameAccounting::default()), Arc::new(Mutex::new(Vec::new())));
    let encoder = Small { fits, runs: Arc::clone(&runs) };
    let given = (1..=pictures).map(|value| Given::Pixel(value as f32)).collect();
    let (_, embeddings) = run(Some(Box::new(encoder)), given, &accounting);
    let runs = runs.lock().unwrap().clone();
    (embeddings, runs, accounting)
}

#[test]
fn a_batch_is_filled_up_to_its_bucket_and_what_the_filling_gives_is_dropped() {
    let (embeddings, runs, _) = small(8, 5);
    assert_eq!((embeddings, runs), (vec![1.0, 2.0, 3.0, 4.0, 5.0], vec![8]));
}

#[test]
fn a_batch_that_memory_does_not_hold_is_run_in_halves_and_loses_no_frame() {
    let (embeddings, runs, accounting) = small(2, 7);
    assert_eq!(embeddings, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    assert_eq!(runs, [8, 4, 2, 2, 2, 1]);
    assert_eq!(
        (dropped(&accounting, "inference"), accounting.totals().dropped.len()),
        (0, 1),
        "all went on to be scored"
    );
}

#[test]
fn where_one_picture_is_too_much_its_frames_are_lost_and_counted() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let (embeddings, runs, accounting) = metrics::with_local_recorder(&recorder, || small(0, 3));
    assert_eq!((embeddings, runs), (vec![], vec![4, 2, 1]));
    assert_eq!((dropped(&accounting, "inference"), accounting.totals().unaccounted()), (3, 0));
    let text = handle.render();
    assert!(text.contains("vtagd_inference_out_of_memory_total 3") && text.contains("vtagd_inference_errors_total 1"));
}

#[test]
fn without_a_model_every_frame_ends_here() {
    let accounting = Arc::new(FrameAccounting::default());
    assert_eq!(run(None, vec![Given::Pixel(1.0), Given::Again], &accounting), (vec![], vec![]));
    assert_eq!((dropped(&accounting, "no_model"), accounting.totals().unaccounted()), (2, 0));
}

#[test]
fn a_picture_waits_from_its_decoder_to_its_run_and_one_that_is_not_run_does_not() {
    let (captured, accounting) = (Instant::now(), Arc::new(FrameAccounting::default()));
    let item = |second: u64, kind| {
        let captured = captured + Duration::from_secs(second);
        let time = FrameTime { media: Duration::ZERO, captured, wall: jiff::Timestamp::UNIX_EPOCH, connection: 0 };
        let guard = accounting.sample(&"a".into());
        Item {
            frame: Arc::new(FrameMeta {
                stream: StreamKey(1),
                time,
                tiles: vec![1],
                shared_embedding: None,
                picture: None,
                guard,
            }),
            kind,
        }
    };
    let again = ItemKind::Reused(Arc::new(SharedEmbedding::default()));
    let items = [item(0, again), item(1, ItemKind::Tile), item(2, ItemKind::Tile), item(4, ItemKind::Tile)];
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        // The first has no place; the second of those that have one was never written.
        note_waits(&items, &[true, false, true], captured + Duration::from_secs(8));
    });
    let text = handle.render();
    let told = |line: &str| text.lines().any(|l| l == line);
    assert!(told("vtagd_queue_wait_seconds_count 2") && told("vtagd_queue_wait_seconds_sum 11"), "{text}");
}
