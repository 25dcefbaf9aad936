//! Measures an image tower while it is imported: speed, and agreement with 32 bits, on made-up pictures.
//!
//! A tower may be larger than the memory an import may take, so it is run part by part: for each part one small
//! session per precision, over the pictures' hidden states so far. The times of the parts add up to the tower's. Runs on the
//! caller's thread and the runtime's pool; memory is a few times that of the largest layer.

use std::time::{Duration, Instant};

use super::{Architecture, ImportError, TensorStore};
use crate::onnx::vision_graph::{self, Part};
use crate::onnx::{Precision, file};
use crate::probe_picture::probe_picture;

/// Pictures that are run together: enough to fill the cores' kernels.
pub const PICTURES: usize = 8;
/// A part is run again until this is used up, and the fastest run counts.
const MEASURING_TIME: Duration = Duration::from_millis(40);

/// What runs graphs while a checkpoint is imported. It is handed in: importing itself needs no runtime.
pub trait GraphRunner {
    /// Loads a serialised ONNX model with one float input and one float output.
    ///
    /// # Errors
    /// Why the runtime does not take it.
    fn load(&self, model: &[u8]) -> Result<Box<dyn LoadedGraph>, String>;
}

/// A graph that a [`GraphRunner`] has loaded.
pub trait LoadedGraph {
    /// Runs `values` (row-major, of `shape`); the output's values, row-major.
    ///
    /// # Errors
    /// Values that do not fit, or a run that fails.
    fn run(&mut self, shape: &[usize], values: &[f32]) -> Result<Vec<f32>, String>;
}

/// What was found for one precision.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// How weights are stored.
    pub precision: Precision,
    /// All cores, batches of [`PICTURES`].
    pub images_per_second: f32,
    /// Least cosine over the pictures with 32 bits.
    pub cosine: f32,
    /// The first picture's embedding, L2-normalised.
    pub embedding: Vec<f32>,
}

struct Run {
    precision: Precision,
    hidden: Vec<f32>,
    time: Duration,
}

/// Measures the image tower in 32 bits and in `precision`; the first result is of 32 bits.
///
/// # Errors
/// A tensor that cannot be read, a part that does not run, or what `progress` (told after each of the
/// [`steps`]) gives.
pub fn vision_tower(
    runner: &dyn GraphRunner,
    arch: &Architecture,
    store: &dyn TensorStore,
    precision: Precision,
    seed: u64,
    progress: &mut dyn FnMut() -> Result<(), ImportError>,
) -> Result<Vec<Measured>, ImportError> {
    let size = arch.vision.image_size;
    let pixels: Vec<f32> = (0..PICTURES as u64).flat_map(|index| probe_picture(size, seed + index)).collect();
    let mut precisions = vec![Precision::Fp32, precision];
    precisions.dedup();
    let start = |precision| Run { precision, hidden: pixels.clone(), time: Duration::ZERO };
    let mut runs: Vec<Run> = precisions.into_iter().map(start).collect();
    let mut shape = vec![PICTURES, 3, size, size];
    for part in vision_graph::parts(&arch.vision) {
        for run in &mut runs {
            let model = file::to_bytes(&vision_graph::part(arch, part, run.precision), store)?;
            let mut session = runner.load(&model).map_err(ImportError::Measure)?;
            drop(model);
            let (hidden, time) = timed(&mut *session, &shape, &run.hidden)?;
            if hidden.len() != PICTURES * vision_graph::values_after(arch, part) {
                return Err(ImportError::Measure(format!("{part:?} gave {} values", hidden.len())));
            }
            run.hidden = hidden;
            run.time += time;
            progress()?;
        }
        shape = next_shape(arch, part);
    }
    let dim = arch.embed_dim;
    let Some(reference) = runs.first().map(|run| run.hidden.clone()) else { return Ok(Vec::new()) };
    Ok(runs
        .into_iter()
        .map(|run| Measured {
            precision: run.precision,
            images_per_second: PICTURES as f32 / run.time.as_secs_f32().max(f32::MIN_POSITIVE),
            cosine: reference.chunks(dim).zip(run.hidden.chunks(dim)).map(|(a, b)| dot(a, b)).fold(1.0, f32::min),
            embedding: run.hidden[..dim].to_vec(),
        })
        .collect())
}

/// How often `progress` is called.
pub fn steps(arch: &Architecture, precision: Precision) -> u64 {
    let each = if precision == Precision::Fp32 { 1 } else { 2 };
    vision_graph::parts(&arch.vision).count() as u64 * each
}

fn next_shape(arch: &Architecture, part: Part) -> Vec<usize> {
    let (width, values) = (arch.vision.body.width, vision_graph::values_after(arch, part));
    vec![PICTURES, values / width.max(1), width]
}

/// The last run's values and the fastest run's time. A slow part is run once, after one picture alone to warm it up.
fn timed(session: &mut dyn LoadedGraph, shape: &[usize], values: &[f32]) -> Result<(Vec<f32>, Duration), ImportError> {
    let mut single = shape.to_vec();
    single[0] = 1;
    let first = values.get(..single.iter().product()).unwrap_or(values);
    session.run(&single, first).map_err(ImportError::Measure)?;
    let (begun, mut best) = (Instant::now(), Duration::MAX);
    loop {
        let started = Instant::now();
        let out = session.run(shape, values).map_err(ImportError::Measure)?;
        best = best.min(started.elapsed());
        if begun.elapsed() >= MEASURING_TIME {
            return Ok((out, best));
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
