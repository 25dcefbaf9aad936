//! The engine: model directory, label embeddings, session and preprocessing, built once and the same for `run`, `check` and `tag`.
//!
//! Texts are embedded before the image tower is loaded, in a child process that gives its memory back.

use std::sync::Arc;

use crate::config::ModelChoice;
use crate::event::ModelRef;
use crate::infer::runtime::{self};
use crate::infer::session::OrtImageEncoder;
use crate::infer::{ImageEncoder, InferError, InferSettings};
use crate::label::{self, LabelSet};
use crate::model::bundle::Bundle;
use crate::model::{self, ModelError};
use crate::preprocess::spec::{Spec, SpecError};
use crate::score::{Head, Scorer, SetEmbeddings};
use crate::shutdown::Shutdown;

/// Why an engine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Preprocessor(#[from] SpecError),
    #[error(transparent)]
    Infer(#[from] InferError),
    #[error(transparent)]
    Labels(#[from] label::embed::EmbedError),
    #[error("label set {set}: its embeddings do not fit together ({reason}); clear the cache directory and start again")]
    Shape { set: String, reason: String },
    #[error("model {model}: image embeddings have {image} values, text embeddings {text}; the two towers belong to different models")]
    Towers { model: String, image: usize, text: usize },
}

impl EngineError {
    /// 2 where the input is wrong, 1 where the machine failed.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Infer(InferError::Run(_) | InferError::Library(_) | InferError::Provider(_)) | Self::Shape { .. } => 1,
            Self::Labels(error) => error.exit_code(),
            _ => 2,
        }
    }
}

/// Everything between a picture and its scores.
pub struct Engine {
    pub model: ModelRef,
    /// Name of the provider that computes.
    pub provider: &'static str,
    pub spec: Arc<Spec>,
    /// `None` for `model: none`.
    pub encoder: Option<Box<dyn ImageEncoder>>,
    /// One a label set, in the order given; empty without a model.
    pub scorers: Vec<Arc<Scorer>>,
}

impl Engine {
    /// Opens the model, embeds the labels (or takes them from the cache), loads and warms the image tower.
    ///
    /// # Errors
    /// The first thing that is wrong, with the file and the remedy.
    pub fn build(
        choice: &ModelChoice,
        infer: &InferSettings,
        sets: &[LabelSet],
        shutdown: &Shutdown,
    ) -> Result<Self, EngineError> {
        let Some(dir) = choice.directory()? else { return Ok(Self::without_model()) };
        let bundle = Bundle::open(&dir)?;
        let embeddings = label::embed::embed_sets(&bundle, sets, infer.library.as_deref(), shutdown)?;
        Self::with_embeddings(&bundle, infer, &embeddings, bundle.head)
    }

    /// An engine for embeddings that are there already.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn with_embeddings(
        bundle: &Bundle,
        infer: &InferSettings,
        sets: &[SetEmbeddings],
        head: Head,
    ) -> Result<Self, EngineError> {
        let spec = Arc::new(Spec::from_file(&bundle.preprocessor)?);
        let runtime = runtime::load(infer.library.as_deref())?;
        let mut encoder = OrtImageEncoder::open(&runtime, bundle, infer, spec.output_size())?;
        encoder.warm_up(infer.max_size)?;
        let scorers = sets.iter().map(|set| scorer(set, head, bundle, encoder.dim())).collect::<Result<_, _>>()?;
        let model =
            ModelRef { name: bundle.name.as_str().into(), fingerprint: bundle.fingerprint.as_str().into() };
        Ok(Self { model, provider: encoder.provider().as_str(), spec, encoder: Some(Box::new(encoder)), scorers })
    }

    /// Decodes and preprocesses only, as CLIP would want it.
    fn without_model() -> Self {
        let model = ModelRef { name: model::NONE.into(), fingerprint: "".into() };
        Self { model, provider: "none", spec: Arc::new(Spec::default()), encoder: None, scorers: Vec::new() }
    }
}

fn scorer(set: &SetEmbeddings, head: Head, bundle: &Bundle, image: usize) -> Result<Arc<Scorer>, EngineError> {
    let text = set.labels.first().map_or(image, |l| l.prompts.ncols());
    if text != image {
        return Err(EngineError::Towers { model: bundle.name.clone(), image, text });
    }
    let scorer = Scorer::new(set, head)
        .map_err(|e| EngineError::Shape { set: set.name.clone(), reason: e.to_string() })?;
    Ok(Arc::new(scorer))
}

/// Threads that preprocess: enough to hide behind inference, few enough to leave the cores to it.
pub fn preprocessing_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cores.div_ceil(4).clamp(1, 4)
}
