//! Measures an image tower while it is imported: speed, and agreement with 32 bits, on made-up pictures.
//!
//! A tower may be larger than the memory an import may take, so it is run part by part: for each part one small
//! session per precision, over the pictures' hidden states so far. The times of the parts add up to the tower's. Runs on the
//! caller's thread and the runtime's pool; memory is a few times that of the largest layer.

use std::time::{Duration, Instant};

use super::synthetic::Random;
use super::{Architecture, ImportError, TensorStore};
use crate::infer::InferError;
use crate::infer::runtime::Runtime;
use crate::infer::single_input::{InputValues, SingleInputSession};
use crate::model::onnx::vision_graph::{self, Part};
use crate::model::onnx::{Precision, file};

/// Pictures that are run together: enough to fill the cores' kernels.
pub const PICTURES: usize = 8;
/// A part is run again until this is used up, and the fastest run counts.
const MEASURING_TIME: Duration = Duration::from_millis(40);

/// What was found for one precision.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
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
    runtime: &Runtime,
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
            let mut session = SingleInputSession::from_bytes(runtime, &model, 0)?;
            drop(model);
            let (hidden, time) = timed(&mut session, &shape, &run.hidden)?;
            if hidden.len() != PICTURES * vision_graph::values_after(arch, part) {
                return Err(InferError::Model(format!("{part:?} gave {} values", hidden.len())).into());
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
fn timed(
    session: &mut SingleInputSession,
    shape: &[usize],
    values: &[f32],
) -> Result<(Vec<f32>, Duration), ImportError> {
    let mut single = shape.to_vec();
    single[0] = 1;
    let first = values.get(..single.iter().product()).unwrap_or(values);
    session.run(&single, InputValues::Floats(first))?;
    let (begun, mut best) = (Instant::now(), Duration::MAX);
    loop {
        let started = Instant::now();
        let out = session.run(shape, InputValues::Floats(values))?;
        best = best.min(started.elapsed());
        if begun.elapsed() >= MEASURING_TIME {
            return Ok((out, best));
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A made-up, normalised picture (`[3, size, size]`): coloured waves of several sizes, an edge and some noise, so that it has
/// the mean, the spread and the smoothness of a photograph. The same for the same seed, on every machine to rounding.
pub fn probe_picture(size: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    let mut number = |from: f32, to: f32| from + (to - from) * (random.next() >> 40) as f32 / (1_u64 << 24) as f32;
    let waves: Vec<[f32; 6]> = (0..6)
        .map(|index| {
            let frequency = 2.0_f32.powi(index) * 2.0;
            let gain = 1.2 / (index + 1) as f32;
            [
                number(-frequency, frequency),
                number(-frequency, frequency),
                number(0.0, 6.3),
                number(-gain, gain),
                number(-gain, gain),
                number(-gain, gain),
            ]
        })
        .collect();
    let (edge, step) = (number(0.2, 0.8), [number(-1.0, 1.0), number(-1.0, 1.0), number(-1.0, 1.0)]);
    let mut out = Vec::with_capacity(3 * size * size);
    for (channel, step) in step.into_iter().enumerate() {
        for row in 0..size {
            for column in 0..size {
                let (x, y) = (column as f32 / size as f32, row as f32 / size as f32);
                let wave = |w: &[f32; 6]| w[3 + channel] * (std::f32::consts::TAU * (w[0] * x + w[1] * y) + w[2]).sin();
                let smooth: f32 = waves.iter().map(wave).sum();
                let beyond = if x + 0.3 * y > edge { step } else { 0.0 };
                out.push((smooth + beyond + number(-0.1, 0.1)).clamp(-1.9, 2.3));
            }
        }
    }
    out
}
