//! The image tower in ONNX Runtime: a batch of pixel tensors in, L2-normalised embeddings out.
//!
//! Runs on the caller's thread (plus ONNX Runtime's own pool, `runtime.threads`); one call at a time. Nothing is queued
//! here. Input and output are found by looking at the model, so any export of a dual encoder works: see [`super::graph`].

use std::path::Path;
use std::time::{Duration, Instant};

use half::f16;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session};
use ort::value::{PrimitiveTensorElementType, TensorElementType, TensorRef};
use tracing::{info, warn};

use super::graph::{self, Element, ImageInput};
use super::placement::{Placement, ProfileFolder};
use super::probe::Reference;
use super::provider::Request;
use super::runtime::Runtime;
use super::{ImageEncoder, InferError, InferSettings, Provider, ProviderChoice, Refused};
use super::{chunk, provider, select, tensorrt};
use crate::model::Bundle;

/// Two embeddings of one picture that differ by more than this in cosine are different answers: float kernels that split
/// work differently by batch size stay below 1e-6, per-tensor dynamic quantisation lies far above.
const BATCH_TOLERANCE: f32 = 1e-4;

/// Time for warming up beyond the first run, which shows how many pictures are best run at once; a large model on a small box meets
/// other sizes as they come.
const WARM_UP: Duration = Duration::from_secs(3);

/// [`ImageEncoder`] over an ONNX Runtime session.
pub struct OrtImageEncoder {
    session: Session,
    options: RunOptions<HasSelectedOutputs>,
    provider: Provider,
    refused: Vec<Refused>,
    input: ImageInput,
    output: String,
    /// Height and width of a picture.
    size: (usize, usize),
    dim: usize,
    /// Pictures in one run: fixed by the model, 1 where a picture's embedding would depend on its neighbours, or what was
    /// measured to be fastest.
    chunk: Option<usize>,
    // Scratch, kept between calls.
    halves: Vec<f16>,
    padded: Vec<f32>,
}

impl OrtImageEncoder {
    /// Loads the bundle's image tower with the first provider of `settings` that works; `size` is the height and width
    /// the preprocessing makes.
    ///
    /// Every one, the CPU too, is held against the embedding that the bundle knows of a probe picture. Where it knows none, the
    /// others are held against the CPU (invariant 6). Another than the CPU must also run most of the graph itself.
    ///
    /// # Errors
    /// [`InferError::Model`] for a damaged or unsuitable file, [`InferError::Provider`] when no provider of the list works.
    pub fn open(
        runtime: &Runtime,
        bundle: &Bundle,
        settings: &InferSettings,
        size: (usize, usize),
    ) -> Result<Self, InferError> {
        let started = Instant::now();
        let cpu = [Provider::Cpu.into()];
        let wanted = if settings.providers.is_empty() { &cpu[..] } else { &settings.providers };
        let mut reference = Reference::of_bundle(bundle.known.as_ref(), size, settings.min_cosine);
        let ((mut encoder, cosine), refused) =
            select::first_that_works(wanted, settings.strict, &mut |choice: &ProviderChoice| {
                Self::with_provider(runtime, bundle, settings, size, choice, &mut reference)
            })?;
        encoder.refused = refused;
        info!(
            model = %bundle.name,
            provider = encoder.provider.as_str(),
            options = wanted.iter().find(|c| c.provider() == encoder.provider).map(ProviderChoice::describe).filter(|o| !o.is_empty()),
            dim = encoder.dim,
            cosine,
            seconds = started.elapsed().as_secs_f32(),
            "image tower loaded"
        );
        Ok(encoder)
    }

    /// An encoder with the provider of `choice`, and its cosine with `reference`. The CPU's answer becomes the reference where there
    /// is none and another needs it.
    fn with_provider(
        runtime: &Runtime,
        bundle: &Bundle,
        settings: &InferSettings,
        size: (usize, usize),
        choice: &ProviderChoice,
        reference: &mut Option<Reference>,
    ) -> Result<(Self, Option<f32>), InferError> {
        let provider = choice.provider();
        if provider == Provider::Cpu {
            let threads = choice.threads(settings.threads);
            let session = provider::cpu_session(runtime, &bundle.vision, threads, bundle.byte_sums_fit.into())?;
            let mut encoder = Self::new(session, bundle, size, provider)?;
            let Some(reference) = reference else { return Ok((encoder, None)) };
            let cosine = reference.check(&mut encoder, &[]).map_err(|reason| {
                InferError::Model(format!(
                    "{} is damaged or belongs to another model: {reason}; import the model again, or remove `probe` from \
                     vtagd.json if it was changed on purpose",
                    bundle.vision.display()
                ))
            })?;
            return Ok((encoder, Some(cosine)));
        }
        provider::check(runtime, provider)?;
        let folder = ProfileFolder::create();
        let prefix = folder.as_ref().map(ProfileFolder::prefix).ok();
        let (engine, built) = match choice {
            ProviderChoice::Tensorrt(options) => {
                // Warming up runs two pictures at least.
                let batch = settings.max_size.max(2);
                let (spec, built) = tensorrt::engine(runtime, bundle, options, size, batch)?;
                (Some(spec), built)
            }
            _ => (None, true),
        };
        let request = Request {
            choice,
            threads: settings.threads,
            sums: bundle.byte_sums_fit.into(),
            engine: engine.as_ref(),
            profile: prefix.as_deref(),
        };
        let mut open = || {
            let session = provider::session(runtime, &bundle.vision, &request)?;
            Self::new(session, bundle, size, provider)
        };
        let mut encoder = match &engine {
            Some(spec) => {
                // Whether there is a GPU at all should not take the announcement of a long wait.
                provider::try_start(runtime, &request)?;
                tensorrt::with_engine(&spec.folder, built, &mut open)?
            }
            None => open()?,
        };
        let reference = match reference {
            Some(reference) => &*reference,
            None => {
                let session =
                    provider::cpu_session(runtime, &bundle.vision, settings.threads, bundle.byte_sums_fit.into())?;
                let mut cpu = Self::new(session, bundle, size, Provider::Cpu)?;
                let made = Reference::of_cpu(&mut cpu, size, settings.min_cosine).map_err(InferError::Model)?;
                reference.insert(made)
            }
        };
        let cosine = reference.check(&mut encoder, &[settings.max_size]).map_err(InferError::Provider)?;
        encoder.check_placement()?;
        Ok((encoder, Some(cosine)))
    }

    /// Looks where the runs so far really happened, and ends the profile that told it.
    fn check_placement(&mut self) -> Result<(), InferError> {
        let read = self.session.end_profiling().map_err(|e| e.to_string()).and_then(|file| {
            let placement = Placement::read(Path::new(&file));
            let _ = std::fs::remove_file(&file);
            placement
        });
        match read {
            Ok(placement) => {
                placement.check(self.provider).map_err(InferError::Provider)?;
                info!(provider = self.provider.as_str(), %placement, "nodes placed");
            }
            // The probe has shown that the answers are right; who gave them stays open.
            Err(error) => warn!(%error, "it cannot be told which provider runs the nodes"),
        }
        Ok(())
    }

    /// Providers that were wanted more and do not work, with the reasons.
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    fn new(session: Session, bundle: &Bundle, size: (usize, usize), provider: Provider) -> Result<Self, InferError> {
        let file = &bundle.vision;
        let input = graph::image_input(session.inputs(), file)?;
        input.check_size(size, file)?;
        let output = graph::embedding_output(session.outputs(), graph::IMAGE_OUTPUTS, file)?;
        let options = RunOptions::new()
            .map_err(|e| InferError::Model(e.to_string()))?
            .with_outputs(OutputSelector::no_default().with(&output.name));
        let mut encoder = Self {
            session,
            options,
            provider,
            refused: Vec::new(),
            chunk: input.batch,
            input,
            output: output.name,
            size,
            dim: output.dim.unwrap_or(0),
            halves: Vec::new(),
            padded: Vec::new(),
        };
        if encoder.dim == 0 {
            let mut embedding = Vec::new();
            encoder.encode(&probe(encoder.picture_len(), 0), 1, &mut embedding)?;
        }
        Ok(encoder)
    }

    /// Runs every batch size once, the largest first, as far as [`WARM_UP`] allows, so that memory is reserved before the
    /// first camera frame, and checks that a picture's embedding does not depend on its batch (invariant 8). Dynamically quantised models scale
    /// by the whole batch and fail this; they are then run one picture at a time. On the CPU it also learns whether a batch is
    /// better cut into chunks: see [`chunk`].
    ///
    /// # Errors
    /// As [`ImageEncoder::encode`].
    pub fn warm_up(&mut self, max_size: usize) -> Result<(), InferError> {
        let started = Instant::now();
        let (count, len) = (max_size.max(2), self.picture_len());
        let mut pixels = Vec::with_capacity(count * len);
        for index in 0..count {
            pixels.extend(probe(len, index));
        }
        let (mut together, mut alone) = (Vec::new(), Vec::new());
        let mut times = chunk::Times::default();
        times.note(count, self.timed(&pixels, count, &mut together)?);
        times.note(1, self.timed(&pixels, 1, &mut alone)?);
        let cosine: f32 = together.iter().zip(&alone).map(|(a, b)| a * b).sum();
        if 1.0 - cosine > BATCH_TOLERANCE && self.chunk.is_none() {
            warn!(
                cosine,
                "this model's embeddings depend on what else is in the batch (dynamic quantisation); running it one picture at a time"
            );
            self.chunk = Some(1);
        }
        if self.chunk.is_none() {
            let best = self.best_chunk(&pixels, count, times)?;
            for size in (2..best).rev() {
                if started.elapsed() > WARM_UP {
                    break;
                }
                self.timed(&pixels, size, &mut together)?;
            }
            self.chunk = (best < count).then_some(best);
        }
        let chunk = self.chunk.unwrap_or(count);
        info!(batch = count, chunk, seconds = started.elapsed().as_secs_f32(), "image tower warm");
        Ok(())
    }

    /// How many of `count` pictures to run at once, measured for [`WARM_UP`] at most. Accelerators want them all, and may compile
    /// something for every size that they meet.
    fn best_chunk(&mut self, pixels: &[f32], count: usize, mut times: chunk::Times) -> Result<usize, InferError> {
        if self.provider != Provider::Cpu {
            return Ok(count);
        }
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

    /// How long the first `count` of `pixels` take.
    fn timed(&mut self, pixels: &[f32], count: usize, embeddings: &mut Vec<f32>) -> Result<Duration, InferError> {
        let started = Instant::now();
        self.encode(pixels, count, embeddings)?;
        Ok(started.elapsed())
    }

    /// Pictures in one run of a batch that is long enough, where that is known.
    pub fn chunk(&self) -> Option<usize> {
        self.chunk
    }

    /// Floats of one picture.
    pub fn picture_len(&self) -> usize {
        3 * self.size.0 * self.size.1
    }

    /// One run over `count` pictures, at most a chunk.
    fn run(&mut self, pixels: &[f32], count: usize, embeddings: &mut Vec<f32>) -> Result<(), InferError> {
        let fixed = self.input.batch.unwrap_or(count);
        let shape = [fixed, 3, self.size.0, self.size.1];
        let wanted = fixed * self.picture_len();
        let pixels = if pixels.len() == wanted {
            pixels
        } else {
            // A fixed batch is filled up; what the filling gives is thrown away below.
            self.padded.clear();
            self.padded.extend_from_slice(pixels);
            self.padded.resize(wanted, 0.0);
            &self.padded
        };
        let failed = |e: ort::Error| InferError::Run(format!("the image tower failed: {e}"));
        let name = self.input.name.as_str();
        let outputs = match self.input.element {
            Element::F32 => {
                let tensor = TensorRef::from_array_view((shape, pixels)).map_err(failed)?;
                self.session.run_with_options(ort::inputs![name => tensor], &self.options).map_err(failed)?
            }
            Element::F16 => {
                self.halves.clear();
                self.halves.extend(pixels.iter().map(|v| f16::from_f32(*v)));
                let tensor = TensorRef::from_array_view((shape, self.halves.as_slice())).map_err(failed)?;
                self.session.run_with_options(ort::inputs![name => tensor], &self.options).map_err(failed)?
            }
        };
        let value = outputs
            .get(&self.output)
            .ok_or_else(|| InferError::Run(format!("the image tower gave no `{}`", self.output)))?;
        let start = embeddings.len();
        let dim = append_rows(value, fixed, count, embeddings).map_err(InferError::Run)?;
        if self.dim == 0 {
            self.dim = dim;
        }
        if dim != self.dim {
            return Err(InferError::Run(format!("the image tower gave {dim} values a picture, {} before", self.dim)));
        }
        for row in embeddings[start..].chunks_exact_mut(dim) {
            if !normalise(row) {
                return Err(InferError::Run("the image tower gave an embedding that is zero or not finite".into()));
            }
        }
        Ok(())
    }
}

impl ImageEncoder for OrtImageEncoder {
    fn dim(&self) -> usize {
        self.dim
    }

    fn provider(&self) -> Provider {
        self.provider
    }

    fn encode(&mut self, pixels: &[f32], count: usize, embeddings: &mut Vec<f32>) -> Result<(), InferError> {
        embeddings.clear();
        let len = self.picture_len();
        let Some(pixels) = pixels.get(..count * len) else {
            return Err(InferError::Run(format!("{} floats are not {count} pictures of {len}", pixels.len())));
        };
        let chunk = self.chunk.unwrap_or(count).max(1);
        for part in pixels.chunks(chunk * len) {
            self.run(part, part.len() / len, embeddings)?;
        }
        Ok(())
    }
}

/// Appends the first `count` of `rows` rows of a `[rows, dim]` tensor of f32 or f16 and says `dim`.
pub(crate) fn append_rows(
    value: &ort::value::DynValue,
    rows: usize,
    count: usize,
    to: &mut Vec<f32>,
) -> Result<usize, String> {
    fn rows_of<T: PrimitiveTensorElementType>(
        value: &ort::value::DynValue,
        rows: usize,
    ) -> Result<(&[T], usize), String> {
        let (shape, data) = value.try_extract_tensor::<T>().map_err(|e| e.to_string())?;
        match shape[..] {
            [n, dim] if n == rows as i64 && dim > 0 && data.len() == rows * dim as usize => Ok((data, dim as usize)),
            _ => Err(format!("the model gave a tensor of shape {shape:?} for {rows} inputs")),
        }
    }
    if value.dtype().tensor_type() == Some(TensorElementType::Float16) {
        let (data, dim) = rows_of::<f16>(value, rows)?;
        to.extend(data[..count * dim].iter().map(|v| v.to_f32()));
        return Ok(dim);
    }
    let (data, dim) = rows_of::<f32>(value, rows)?;
    to.extend_from_slice(&data[..count * dim]);
    Ok(dim)
}

/// Scales `row` to length 1; `false` if it has none.
pub(crate) fn normalise(row: &mut [f32]) -> bool {
    let norm = row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    if !norm.is_finite() || norm <= f64::MIN_POSITIVE {
        return false;
    }
    let scale = (1.0 / norm) as f32;
    row.iter_mut().for_each(|v| *v *= scale);
    true
}

/// A made-up picture: smooth waves with a brightness and contrast that depend on `index`, so that a batch of them has
/// quiet and loud members.
fn probe(len: usize, index: usize) -> Vec<f32> {
    let (frequency, gain) = (0.013 * (index + 1) as f32, [0.4, 2.0, 1.0, 0.1][index % 4]);
    (0..len).map(|i| gain * ((i % 50_176) as f32 * frequency).sin() + 0.3 * ((i / 50_176) as f32 - 1.0)).collect()
}
