//! Warming up: every size that will be run is run once, and what that shows is remembered.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::OrtImageEncoder;
use crate::infer::{ImageEncoder, InferError, Provider, chunk};
use crate::platform::rounding;

/// Two embeddings of one picture that differ by more than this in cosine are different answers: float kernels that split
/// work differently by batch size stay below 1e-6, per-tensor dynamic quantisation lies far above.
pub(crate) const BATCH_TOLERANCE: f32 = 1e-4;

/// Time for warming up beyond the first run, which shows how many pictures are best run at once; a large model on a small box meets
/// other sizes as they come.
const WARM_UP: Duration = Duration::from_secs(3);

impl OrtImageEncoder {
    /// Runs every batch size once, the largest first, as far as [`WARM_UP`] allows, so that it is known that there is memory before the
    /// first camera frame, and checks that a picture's embedding does not depend on its batch (invariant 8). Dynamically quantised models scale
    /// by the whole batch and fail this; they are then run one picture at a time. On the CPU it also learns whether a batch is
    /// better cut into chunks: see [`chunk`]. Others run the few sizes that they will meet, however long that takes. Returns the
    /// largest batch that there is memory for.
    ///
    /// # Errors
    /// As [`ImageEncoder::encode`].
    pub fn warm_up(&mut self, max_size: usize) -> Result<usize, InferError> {
        let started = Instant::now();
        let (wanted, len) = (max_size.max(2), self.picture_len());
        let pixels: Vec<f32> = (0..wanted).flat_map(|index| probe(len, index)).collect();
        let (mut together, mut alone) = (Vec::new(), Vec::new());
        let mut times = chunk::Times::default();
        let mut count = wanted;
        let took = loop {
            match self.timed(&pixels, count, &mut together) {
                Err(InferError::Memory(error)) if count > 1 => {
                    count /= 2;
                    warn!(error, max_size = count, "no memory for a full batch, taking smaller ones");
                }
                other => break other?,
            }
        };
        times.note(count, took);
        times.note(1, self.timed(&pixels, 1, &mut alone)?);
        let cosine: f32 = together.iter().zip(&alone).map(|(a, b)| a * b).sum();
        if 1.0 - cosine > BATCH_TOLERANCE && self.chunk.is_none() {
            warn!(
                cosine,
                "this model's embeddings depend on what else is in the batch (dynamic quantisation); running it one picture at a time"
            );
            self.chunk = Some(1);
        }
        if self.chunk.is_none() && self.provider == Provider::Cpu {
            let best = self.best_chunk(&pixels, count, times)?;
            for size in (2..best).rev() {
                if started.elapsed() > WARM_UP {
                    break;
                }
                self.timed(&pixels, size, &mut together)?;
            }
            self.chunk = (best < count).then_some(best);
        } else if self.chunk.is_none() {
            let sizes: Vec<usize> = self.buckets.largest_first().filter(|size| (2..count).contains(size)).collect();
            for size in sizes {
                self.timed(&pixels, size, &mut together)?;
            }
        }
        self.expected = match self.provider {
            Provider::Cpu => took,
            // The first run of all may have compiled or built something.
            _ => self.timed(&pixels, count, &mut together)?,
        };
        let chunk = self.chunk.unwrap_or(count);
        info!(batch = count, chunk, run = ?rounding::duration(self.expected), seconds = rounding::seconds(started.elapsed()), "image tower warm");
        Ok(if count < wanted { count } else { max_size })
    }

    /// How many of `count` pictures to run at once, measured for [`WARM_UP`] at most.
    fn best_chunk(&mut self, pixels: &[f32], count: usize, mut times: chunk::Times) -> Result<usize, InferError> {
        let (started, mut embeddings) = (Instant::now(), Vec::new());
        for _ in 0..chunk::ROUNDS {
            for size in chunk::sizes(count) {
                if started.elapsed() + times.expected(size) > WARM_UP {
                    continue;
                }
                let took = self.timed(pixels, size, &mut embeddings)?;
                times.note(size, took);
            }
        }
        Ok(times.best().unwrap_or(count))
    }

    /// Gives back to the system what only the runs of warming up took. ONNX Runtime keeps what its largest run needed: 90 MB for eight pictures of
    /// the starter model, while a box with one camera runs one at a time, and one whose chunks are small no full batch either. It costs
    /// one picture; the first larger run takes the memory again, for a millisecond, and fails like any where there is none. Only on the CPU: a
    /// GPU's memory has nobody else to go to.
    ///
    /// # Errors
    /// As [`ImageEncoder::encode`].
    pub fn give_back(&mut self) -> Result<(), InferError> {
        if self.provider != Provider::Cpu {
            return Ok(());
        }
        let picture = probe(self.picture_len(), 0);
        self.shapes.shrink_after_next();
        self.encode(&picture, 1, &mut Vec::new())
    }

    /// Runs a batch of `count` pictures while others may run beside it, and takes note of how long that takes.
    ///
    /// # Errors
    /// As [`ImageEncoder::encode`].
    pub fn time_full(&mut self, count: usize) -> Result<(), InferError> {
        let len = self.picture_len();
        let pixels: Vec<f32> = (0..count).flat_map(|index| probe(len, index)).collect();
        self.expected = self.expected.max(self.timed(&pixels, count, &mut Vec::new())?);
        Ok(())
    }

    /// How long the first `count` of `pixels` take.
    fn timed(&mut self, pixels: &[f32], count: usize, embeddings: &mut Vec<f32>) -> Result<Duration, InferError> {
        let started = Instant::now();
        self.encode(pixels, count, embeddings)?;
        Ok(started.elapsed())
    }
}

/// A made-up picture: smooth waves with a brightness and contrast that depend on `index`, so that a batch of them has
/// quiet and loud members.
pub(super) fn probe(len: usize, index: usize) -> Vec<f32> {
    let (frequency, gain) = (0.013 * (index + 1) as f32, [0.4, 2.0, 1.0, 0.1][index % 4]);
    (0..len).map(|i| gain * ((i % 50_176) as f32 * frequency).sin() + 0.3 * ((i / 50_176) as f32 - 1.0)).collect()
}
