//! The image tower in ONNX Runtime: a batch of pixel tensors in, L2-normalised embeddings out.
//!
//! Runs on the caller's thread (plus ONNX Runtime's own pool, `runtime.threads`); one call at a time. Nothing is queued
//! here. On the CPU several encoders may share one session, and its weights: see [`OrtImageEncoder::beside`]. Input and output are found by looking at the model, so any export of a dual encoder works: see [`super::graph`].

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use half::f16;
use ort::session::Session;
use ort::value::{PrimitiveTensorElementType, TensorElementType, TensorRef};
use tracing::{info, warn};
use vtagd_pictures::rows::normalise;

use super::buckets::Buckets;
use super::graph::{self, Element, ImageInput};
use super::io_buffers::{Output, Shapes};
use super::placement::{Placement, ProfileFolder};
use super::probe_embedding::ProbeReference;
use super::provider::Request;
use super::runtime::Runtime;
use super::session_run::{self, Names};
use super::{BatchSize, ImageEncoder, InferError, InferSettings, Provider, ProviderChoice, Refused, Stop};
use super::{oom_batch_limit, provider, provider_selection, tensorrt_engine};
use crate::batching::tensor::HostMemory;
use crate::model::Bundle;
use crate::platform::rounding;

mod warm;

pub(crate) use warm::BATCH_TOLERANCE;

/// [`ImageEncoder`] over an ONNX Runtime session.
pub struct OrtImageEncoder {
    /// Shared with those [`beside`](Self::beside) it.
    session: Arc<Session>,
    names: Names,
    shapes: Shapes,
    provider: Provider,
    choice: ProviderChoice,
    refused: Vec<Refused>,
    input: ImageInput,
    /// Sizes of runs, where only some are wanted.
    buckets: Buckets,
    /// Height and width of a picture.
    size: (usize, usize),
    dim: usize,
    /// Pictures in one run: fixed by the model, 1 where a picture's embedding would depend on its neighbours, or what was
    /// measured to be fastest.
    chunk: Option<usize>,
    /// How long a full batch takes.
    expected: Duration,
    // Scratch, kept between calls.
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
        let mut reference = ProbeReference::of_bundle(bundle.known.as_ref(), size, settings.min_cosine);
        let ((mut encoder, cosine), refused) =
            provider_selection::first_that_works(wanted, settings.strict, &mut |choice: &ProviderChoice| {
                Self::with_provider(runtime, bundle, settings, size, choice, &mut reference)
            })?;
        encoder.refused = refused;
        info!(
            model = %bundle.name,
            provider = encoder.provider.as_str(),
            options = wanted.iter().find(|c| c.provider() == encoder.provider).map(ProviderChoice::describe).filter(|o| !o.is_empty()),
            dim = encoder.dim,
            cosine,
            seconds = rounding::seconds(started.elapsed()),
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
        reference: &mut Option<ProbeReference>,
    ) -> Result<(Self, Option<f32>), InferError> {
        let provider = choice.provider();
        if provider == Provider::Cpu {
            let threads = choice.threads(settings.threads);
            let session = provider::cpu_session(runtime, &bundle.vision, threads, bundle.byte_sums_fit.into())?;
            let mut encoder = Self::new(session, bundle, size, choice, settings)?;
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
                let batch = settings.max_size.most(provider).max(2);
                let (spec, built) = tensorrt_engine::engine(runtime, bundle, options, size, batch)?;
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
            Self::new(session, bundle, size, choice, settings)
        };
        let mut encoder = match &engine {
            Some(spec) => {
                // Whether there is a GPU at all should not take the announcement of a long wait.
                provider::try_start(runtime, &request)?;
                tensorrt_engine::with_engine(&spec.folder, built, &mut open)?
            }
            None => open()?,
        };
        let reference = match reference {
            Some(reference) => &*reference,
            None => {
                let session =
                    provider::cpu_session(runtime, &bundle.vision, settings.threads, bundle.byte_sums_fit.into())?;
                let mut cpu = Self::new(session, bundle, size, &Provider::Cpu.into(), settings)?;
                let made = ProbeReference::of_cpu(&mut cpu, size, settings.min_cosine).map_err(InferError::Model)?;
                reference.insert(made)
            }
        };
        // An `auto` that does not fit finds that out by measuring.
        let full = match settings.max_size {
            BatchSize::Pictures(size) => size,
            BatchSize::Auto => 2,
        };
        let cosine = reference.check(&mut encoder, &[full]).map_err(InferError::Provider)?;
        encoder.check_placement()?;
        Ok((encoder, Some(cosine)))
    }

    /// Looks where the runs so far really happened, and ends the profile that told it.
    fn check_placement(&mut self) -> Result<(), InferError> {
        let session = Arc::get_mut(&mut self.session).ok_or_else(|| "others use the session too".to_owned());
        let read = session.and_then(|session| session.end_profiling().map_err(|e| e.to_string())).and_then(|file| {
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

    /// The provider that computes, with its options.
    pub fn choice(&self) -> &ProviderChoice {
        &self.choice
    }

    /// Providers that were wanted more and do not work, with the reasons.
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    fn new(
        session: Session,
        bundle: &Bundle,
        size: (usize, usize),
        choice: &ProviderChoice,
        settings: &InferSettings,
    ) -> Result<Self, InferError> {
        let (file, provider) = (&bundle.vision, choice.provider());
        let input = graph::image_input(session.inputs(), file)?;
        input.check_size(size, file)?;
        let output = graph::embedding_output(session.outputs(), graph::IMAGE_OUTPUTS, file)?;
        let dim = output.dim.unwrap_or(0);
        let element = session.outputs().iter().find(|o| o.name() == output.name).and_then(|o| o.dtype().tensor_type());
        let wanted = Output { dim, element };
        let mut encoder = Self {
            names: Names::new(&input.name, &output.name)?,
            shapes: Shapes::new(&session, provider, choice.device(), wanted),
            session: Arc::new(session),
            provider,
            choice: choice.clone(),
            refused: Vec::new(),
            chunk: input.batch,
            buckets: Buckets::of(provider, settings.max_size.most(provider)),
            input,
            size,
            dim,
            expected: Duration::ZERO,
            padded: Vec::new(),
        };
        if encoder.dim == 0 {
            let mut embedding = Vec::new();
            encoder.encode(&warm::probe(encoder.picture_len(), 0), 1, &mut embedding)?;
        }
        Ok(encoder)
    }

    /// Another encoder over the same session, as warm as this one: it runs at the same time as this one and costs no second copy of the
    /// weights. Only on the CPU, whose sessions may run on several threads at once; `None` on others.
    pub fn beside(&self) -> Option<Self> {
        (self.provider == Provider::Cpu).then(|| Self {
            session: Arc::clone(&self.session),
            names: self.names.clone(),
            shapes: self.shapes.beside(&self.session, self.provider, self.choice.device()),
            provider: self.provider,
            choice: self.choice.clone(),
            refused: self.refused.clone(),
            input: self.input.clone(),
            buckets: self.buckets.clone(),
            size: self.size,
            dim: self.dim,
            chunk: self.chunk,
            expected: self.expected,
            padded: Vec::new(),
        })
    }

    /// Pictures in one run of a batch that is long enough, where that is known.
    pub fn chunk(&self) -> Option<usize> {
        self.chunk
    }

    /// Floats of one picture.
    pub fn picture_len(&self) -> usize {
        3 * self.size.0 * self.size.1
    }

    /// Pictures in a run over `count`, at most a chunk.
    fn rows(&self, count: usize) -> usize {
        self.input.batch.unwrap_or_else(|| if self.chunk.is_some() { count } else { self.buckets.fit(count) })
    }

    /// One run of `rows` pictures, the first of which are `pixels`; `count` of them are asked for.
    fn run(&mut self, pixels: &[f32], rows: usize, count: usize, embeddings: &mut Vec<f32>) -> Result<(), InferError> {
        let shape = [rows, 3, self.size.0, self.size.1];
        let wanted = rows * self.picture_len();
        let pixels = if pixels.len() == wanted {
            pixels
        } else {
            // A run is filled up; what the filling gives is thrown away below.
            self.padded.clear();
            self.padded.extend_from_slice(pixels);
            self.padded.resize(wanted, 0.0);
            &self.padded
        };
        let failed = |e: ort::Error| failure(&e);
        let (options, room) = self.shapes.take(rows).map_err(failed)?;
        let (session, names) = (&*self.session, &self.names);
        let answer = match self.input.element {
            Element::F32 => {
                let tensor = TensorRef::from_array_view((shape, pixels)).map_err(failed)?;
                session_run::run(session, &options, names, &*tensor, room).map_err(failed)?
            }
            Element::F16 => {
                let halves = self.shapes.halves(wanted).map_err(failed)?;
                halves.iter_mut().zip(pixels).for_each(|(half, value)| *half = f16::from_f32(*value));
                let tensor = TensorRef::from_array_view((shape, &*halves)).map_err(failed)?;
                session_run::run(session, &options, names, &*tensor, room).map_err(failed)?
            }
        };
        let start = embeddings.len();
        let dim = append_rows(&answer, rows, count, embeddings).map_err(InferError::Run)?;
        self.shapes.keep(rows, answer);
        if self.dim == 0 {
            self.dim = dim;
            self.shapes.set_dim(dim);
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

/// What an error of a run means.
fn failure(error: &ort::Error) -> InferError {
    let message = format!("the image tower failed: {error}");
    if oom_batch_limit::is_out_of_memory(error.message()) {
        InferError::Memory(message)
    } else {
        InferError::Run(message)
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
        if pixels.len() < count * len {
            return Err(InferError::Run(format!("{} floats are not {count} pictures of {len}", pixels.len())));
        }
        self.shapes.halt().rearm();
        let chunk = self.chunk.unwrap_or(count).max(1);
        for from in (0..count).step_by(chunk) {
            let wanted = chunk.min(count - from);
            let rows = self.rows(wanted);
            // What lies behind the last picture fills the run up, as far as it goes.
            let there = rows.min(pixels.len() / len - from);
            self.run(&pixels[from * len..(from + there) * len], rows, wanted, embeddings)?;
        }
        Ok(())
    }

    fn padded(&self, count: usize) -> usize {
        if self.chunk.is_some() { count } else { self.rows(count) }
    }

    fn stopper(&self) -> Option<Arc<dyn Stop>> {
        Some(Arc::clone(self.shapes.halt()) as Arc<dyn Stop>)
    }

    fn memory(&self, floats: usize) -> Option<Box<dyn HostMemory>> {
        self.shapes.memory(floats)
    }

    fn expected(&self) -> Duration {
        self.expected
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
