//! `runtime.batch.max_size: auto`: the largest batch that is worth its wait. In: an encoder and made-up pictures, at start-up, on the
//! caller's thread; out: what each size took, and the size. Time is a parameter.
//!
//! More pictures in a run use a processor better, up to a point, and each of them waits for all. So sizes double as long as that
//! gains something and a run stays shorter than [`MAX_RUN_TIME`]; of those, the smallest is taken that comes near to the best.

use std::time::Duration;

use serde::Serialize;

use super::{ImageEncoder, InferError, Provider};

/// A picture should not be older than this when its run ends, as far as batching is to blame.
const MAX_RUN_TIME: Duration = Duration::from_millis(500);
/// A size whose throughput comes this near to the best one is as good.
const AS_GOOD: f64 = 0.95;
/// Sizes in a row that are no better than the best before them, after which larger ones are not tried.
const PLATEAU: usize = 2;
/// Measured runs of a size, of which the fastest counts; the first one of all, which may compile something, does not.
const ROUNDS: usize = 3;
/// For all of it, roughly: a run that goes on is not cut off.
const TIME: Duration = Duration::from_secs(15);

/// The largest batch that is tried. What a TensorRT engine is built for.
pub const fn most(provider: Provider) -> usize {
    match provider {
        Provider::Cpu | Provider::Remote => 32,
        Provider::Openvino => 64,
        Provider::Tensorrt | Provider::Cuda => 128,
    }
}

/// One size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    pub batch: usize,
    pub milliseconds: f64,
    pub images_per_second: f64,
}

/// The size to use, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sizing {
    pub max_size: usize,
    pub measured: Vec<Measured>,
}

/// Measures `encoder` on pictures of `picture` floats, in sizes up to `most`; `now` is the time since any moment.
///
/// # Errors
/// A run of one picture that fails.
pub fn measure(
    encoder: &mut dyn ImageEncoder,
    picture: usize,
    most: usize,
    now: &mut dyn FnMut() -> Duration,
) -> Result<Sizing, InferError> {
    let started = now();
    let (mut pixels, mut embeddings) = (Vec::new(), Vec::new());
    let (mut measured, mut best, mut no_better): (Vec<Measured>, f64, usize) = (Vec::new(), 0.0, 0);
    let mut size = 1;
    while size <= most.max(1) {
        // Not all alike: some kernels are faster on zeros.
        pixels.resize_with(size * picture, Default::default);
        pixels.iter_mut().enumerate().for_each(|(i, value)| *value = (i % 251) as f32 / 125.0 - 1.0);
        let mut fastest: Option<Duration> = None;
        for round in 0..=ROUNDS {
            let before = now();
            match encoder.encode(&pixels, size, &mut embeddings) {
                Ok(()) => {}
                Err(InferError::Memory(error)) if size > 1 => {
                    tracing::info!(error, batch = size, "no memory for a batch of this size");
                    return Ok(chosen(measured));
                }
                Err(error) => return Err(error),
            }
            let took = now().saturating_sub(before);
            // A run that is far too long by itself needs no second one to tell.
            if round > 0 || took > MAX_RUN_TIME {
                fastest = Some(fastest.map_or(took, |fastest| fastest.min(took)));
            }
            if fastest.is_some() && now().saturating_sub(started) + took > TIME || took > MAX_RUN_TIME * 2 {
                break;
            }
        }
        let took = fastest.unwrap_or(MAX_RUN_TIME).max(Duration::from_nanos(1));
        let rate = size as f64 / took.as_secs_f64();
        measured.push(Measured { batch: size, milliseconds: took.as_secs_f64() * 1e3, images_per_second: rate });
        no_better = if rate > best / AS_GOOD { 0 } else { no_better + 1 };
        best = best.max(rate);
        // The next one takes about twice as long, at best.
        let late = now().saturating_sub(started) + took * 4 > TIME;
        if took * 2 > MAX_RUN_TIME * 2 || no_better >= PLATEAU || late {
            break;
        }
        size *= 2;
    }
    Ok(chosen(measured))
}

/// The smallest size that is nearly as fast as the fastest of those that take no longer than [`MAX_RUN_TIME`]; 1 where all do.
fn chosen(measured: Vec<Measured>) -> Sizing {
    let soon = || measured.iter().filter(|size| size.milliseconds <= MAX_RUN_TIME.as_secs_f64() * 1e3);
    let best = soon().map(|size| size.images_per_second).fold(0.0, f64::max);
    let max_size = soon().find(|size| size.images_per_second >= best * AS_GOOD).map_or(1, |size| size.batch);
    Sizing { max_size, measured }
}

impl std::fmt::Display for Sizing {
    /// Such as `1: 20.1/s in 50 ms, 2: 38.0/s in 53 ms`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, size) in self.measured.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}: {:.1}/s in {:.0} ms", size.batch, size.images_per_second, size.milliseconds)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    /// Takes as long as `each` says, on a clock of its own; its memory holds `fits` pictures.
    struct Fake {
        each: fn(usize) -> u64,
        fits: usize,
        now: Rc<Cell<Duration>>,
        largest: usize,
    }

    // SAFETY: a test has one thread.
    unsafe impl Send for Fake {}

    impl ImageEncoder for Fake {
        fn dim(&self) -> usize {
            1
        }

        fn provider(&self) -> Provider {
            Provider::Cuda
        }

        fn encode(&mut self, pixels: &[f32], count: usize, _: &mut Vec<f32>) -> Result<(), InferError> {
            assert_eq!(pixels.len(), count * 3);
            self.largest = self.largest.max(count);
            if count > self.fits {
                return Err(InferError::Memory("CUDA out of memory".into()));
            }
            self.now.set(self.now.get() + Duration::from_micros((self.each)(count)));
            Ok(())
        }
    }

    /// The size chosen, the largest tried, and how long it took.
    fn sized(each: fn(usize) -> u64, fits: usize) -> (usize, usize, Duration) {
        let now = Rc::new(Cell::new(Duration::ZERO));
        let mut fake = Fake { each, fits, now: Rc::clone(&now), largest: 0 };
        let sizing = measure(&mut fake, 3, 128, &mut || now.get()).unwrap();
        (sizing.max_size, fake.largest, now.get())
    }

    #[test]
    fn batches_grow_as_long_as_that_gains_something() {
        // A GPU: 4 ms and a little for each picture.
        let (size, largest, _) = sized(|n| 4_000 + 100 * n as u64, 1024);
        assert_eq!((size, largest), (128, 128));
        // Full with 16 pictures: 32 and 64 show that nothing is gained, and 16 is enough.
        let (size, largest, _) = sized(|n| 4_000 * (n as u64).div_ceil(16), 1024);
        assert_eq!((size, largest), (16, 64));
    }

    #[test]
    fn a_processor_that_a_picture_fills_runs_one_at_a_time() {
        let (size, largest, _) = sized(|n| 50_000 * n as u64, 1024);
        assert_eq!((size, largest), (1, 4));
    }

    #[test]
    fn no_batch_takes_longer_than_a_picture_may_wait() {
        // Each picture less than the one before, but 16 take 600 ms.
        let (size, _, _) = sized(|n| 100_000 + 31_250 * n as u64, 1024);
        assert_eq!(size, 8);
    }

    #[test]
    fn a_model_that_takes_seconds_a_picture_is_not_measured_for_minutes() {
        let (size, largest, took) = sized(|n| 6_000_000 * n as u64, 1024);
        assert_eq!((size, largest), (1, 1));
        assert!(took <= TIME, "{took:?}");
    }

    #[test]
    fn what_memory_does_not_hold_is_left_out() {
        let (size, largest, _) = sized(|n| 4_000 + 100 * n as u64, 20);
        assert_eq!((size, largest), (16, 32));
    }

    #[test]
    fn a_model_that_cannot_run_one_picture_is_an_error() {
        let now = Rc::new(Cell::new(Duration::ZERO));
        let mut fake = Fake { each: |_| 1, fits: 0, now, largest: 0 };
        assert!(measure(&mut fake, 3, 8, &mut || Duration::ZERO).is_err());
    }
}
