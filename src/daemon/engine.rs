//! The engine: model directory, label embeddings, session and preprocessing, built once and the same for `run`, `check` and `tag`.
//!
//! Texts are embedded before the image tower is loaded, in a child process that gives its memory back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::example_embeddings::{
    ExampleViews, Learning, LearningError, PictureEmbedder, PipelineEmbedder, SessionEmbedder,
};
use super::open_model;
use crate::bench::{cores, openvino_precision};
use crate::config::ModelSettings;
use crate::event::ModelRef;
use crate::infer::remote::server_link::ServerLink;
use crate::infer::remote::tile_bytes::PixelScale;
use crate::infer::sessions::{self, Opened, Plan};
use crate::infer::{ImageEncoder, InferError, InferSettings, Refused, runtime};
use crate::label::LabelSet;
use crate::label::cache::EmbeddingCache;
use crate::label::embed_child::ChildTower;
use crate::label::embedder::{EmbedError, EmbedProgress, EmbedReport, Embedder, InProcessTower, TextEmbedder};
use crate::model::ModelError;
use crate::model::bundle::Bundle;
use crate::pipeline::on_demand::OnDemand;
use crate::platform::shutdown::{self, Shutdown};
use crate::platform::{free_memory, paths};
use crate::preprocess::{Spec, SpecError};
use crate::score::{Scorer, SetEmbeddings};

/// Texts are embedded in batches this large between two progress lines in the log.
const PROGRESS_STEP: usize = 64;

/// What stands for model and provider when there is none.
const NO_MODEL: &str = "none";

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
    Labels(#[from] EmbedError),
    #[error(transparent)]
    Learning(#[from] LearningError),
    #[error(
        "label set {set}: its embeddings do not fit together ({reason}); clear the cache directory and start again"
    )]
    Shape { set: String, reason: String },
    #[error(
        "model {model}: image embeddings have {image} values, text embeddings {text}; the two towers belong to different models"
    )]
    Towers { model: String, image: usize, text: usize },
}

impl EngineError {
    /// 2 where the input is wrong, 1 where the machine failed.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Infer(InferError::Model(_)) => 2,
            Self::Infer(_) | Self::Shape { .. } => 1,
            Self::Labels(error) => error.exit_code(),
            Self::Learning(LearningError::NotEmbedded(_)) => 1,
            Self::Model(error) => error.exit_code(),
            _ => 2,
        }
    }
}

/// What makes scorers of label sets, for labels that change while the model stays.
#[derive(Clone)]
pub struct LabelBook {
    pub(super) bundle: Bundle,
    infer: InferSettings,
    /// Length of an image embedding.
    dim: usize,
    /// Held while a text tower is at work. The one that the API's texts were embedded with last stays for [`TOWER_KEPT`].
    one_tower: Arc<Mutex<Option<KeptTower>>>,
    /// What embeds examples while streams run.
    on_demand: Option<Arc<OnDemand>>,
}

/// A text tower that waits for more texts.
struct KeptTower {
    tower: ChildTower,
    used: Instant,
}

/// Who searches asks again soon, and loading a tower takes longer than a text.
const TOWER_KEPT: Duration = Duration::from_secs(60);

/// Why texts of the API have no embeddings.
#[derive(Debug, thiserror::Error)]
pub enum TextsRefused {
    #[error("other texts are being embedded")]
    Busy,
    #[error("there is not enough free memory for the text tower")]
    Memory,
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Beside the weights of a text tower, twice: read, and as the runtime lays them out.
const TOWER_MEMORY: u64 = 128 << 20;

impl LabelBook {
    /// Length of an image embedding.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Ends the text tower that nobody has asked for a while. Does not block.
    pub fn end_idle_tower(&self, now: Instant) {
        if let Some(mut kept) = self.one_tower.try_lock() {
            kept.take_if(|kept| now.saturating_duration_since(kept.used) >= TOWER_KEPT);
        }
    }

    /// The model, as rows of the history name it, and its logit scale.
    pub fn model(&self) -> (&str, &str, f32) {
        (&self.bundle.name, &self.bundle.fingerprint, self.bundle.logit_parameters.scale)
    }

    /// The embeddings of `texts`, from the cache or from a child process; what is asked once does not go into the cache, what is asked again
    /// and again (`lasting`) does. Blocks until then.
    ///
    /// # Errors
    /// When a text tower is at work already, there is no memory for one, or it fails.
    pub fn embed_texts(
        &self,
        texts: &[String],
        lasting: bool,
        shutdown: &Shutdown,
    ) -> Result<Vec<Vec<f32>>, TextsRefused> {
        let mut cache = EmbeddingCache::new(&paths::cache_dir(), &self.bundle.embedding_fingerprint);
        let mut known: HashMap<&str, Vec<f32>> = HashMap::new();
        for text in texts {
            if let Some(found) = cache.get(text) {
                known.insert(text, found.values);
            }
        }
        let mut missing: Vec<&str> =
            texts.iter().map(String::as_str).filter(|text| !known.contains_key(text)).collect();
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            let mut kept = self.one_tower.try_lock().ok_or(TextsRefused::Busy)?;
            let mut tower = self.tower(&mut kept, shutdown)?;
            let mut embedded = Vec::with_capacity(missing.len());
            tower.embed(&missing, &mut |_, text| embedded.push(text)).map_err(EngineError::from)?;
            *kept = Some(KeptTower { tower, used: Instant::now() });
            if lasting {
                cache.put(missing.iter().copied().zip(&embedded));
            }
            known.extend(missing.into_iter().zip(embedded.into_iter().map(|text| text.values)));
        }
        Ok(texts.iter().map(|text| known.get(text.as_str()).cloned().unwrap_or_default()).collect())
    }

    /// Pictures go this way from now on.
    #[must_use]
    pub fn with_pictures(self, on_demand: Arc<OnDemand>) -> Self {
        Self { on_demand: Some(on_demand), ..self }
    }

    /// The tower that waits, or a new one.
    fn tower(&self, kept: &mut Option<KeptTower>, shutdown: &Shutdown) -> Result<ChildTower, TextsRefused> {
        if let Some(kept) = kept.take() {
            return Ok(kept.tower);
        }
        let needed = text_weights(&self.bundle).saturating_mul(2).saturating_add(TOWER_MEMORY);
        if free_memory::available().is_some_and(|bytes| bytes < needed) {
            return Err(TextsRefused::Memory);
        }
        let tower = ChildTower::new(&self.bundle, self.infer.library.clone(), self.infer.threads);
        Ok(tower.with_shutdown(shutdown.clone()).kept())
    }

    /// The scorer of a set that does not run. Its texts are looked for in the cache, and do not go there; blocks until they are embedded.
    ///
    /// # Errors
    /// As [`Self::embed_texts`].
    pub fn trial_scorer(
        &self,
        set: &LabelSet,
        views: &ExampleViews,
        shutdown: &Shutdown,
    ) -> Result<Arc<Scorer>, TextsRefused> {
        let mut kept = self.one_tower.try_lock().ok_or(TextsRefused::Busy)?;
        let mut tower = self.tower(&mut kept, shutdown)?;
        let mut cache = EmbeddingCache::new(&paths::cache_dir(), &self.bundle.embedding_fingerprint).read_only();
        let (embeddings, _) = embed_telling(&mut cache, std::slice::from_ref(set), &mut tower, &mut |_| {})?;
        *kept = Some(KeptTower { tower, used: Instant::now() });
        let misfit = || EngineError::Shape { set: set.name.clone(), reason: "there are none".to_owned() };
        drop(kept);
        let scorer = scorer(embeddings.first().ok_or_else(misfit)?, &self.bundle, self.dim)?;
        let learned = |learning: &mut Learning<'_>| learning.scorers(std::slice::from_ref(set), vec![scorer]);
        self.learning(views, shutdown, learned)?.pop().ok_or_else(|| misfit().into())
    }

    /// Scorers of `sets`, in order. Texts that are not in the cache are embedded in a child process, and pictures by the running pipeline; blocks
    /// until then. Those sets whose names are `by_texts` may have examples that cannot be used, as [`Engine::learn_where_possible`] says.
    ///
    /// # Errors
    /// As [`Engine::build`] and [`Engine::learn`].
    pub fn scorers(
        &self,
        mut sets: Vec<LabelSet>,
        by_texts: &[String],
        views: &ExampleViews,
        shutdown: &Shutdown,
    ) -> Result<NewScorers, EngineError> {
        let mut scorers: Vec<Arc<Scorer>> = {
            let mut one = self.one_tower.lock();
            // Two of them may be too many.
            *one = None;
            let mut tower = ChildTower::new(&self.bundle, self.infer.library.clone(), self.infer.threads)
                .with_shutdown(shutdown.clone());
            let embeddings = embed(&self.bundle, &sets, &mut tower)?;
            embeddings.iter().map(|set| scorer(set, &self.bundle, self.dim)).collect::<Result<_, _>>()?
        };
        let may = |set: &LabelSet| by_texts.contains(&set.name);
        let refused =
            self.learning(views, shutdown, |learning| learning.scorers_where_possible(&mut sets, &mut scorers, may))?;
        Ok(NewScorers { sets, scorers, refused })
    }

    /// What learns from examples beside the running pipeline.
    fn learning<T>(
        &self,
        views: &ExampleViews,
        shutdown: &Shutdown,
        learn: impl FnOnce(&mut Learning<'_>) -> Result<T, LearningError>,
    ) -> Result<T, EngineError> {
        let mut embedder = self.on_demand.as_ref().map(|on_demand| PipelineEmbedder { on_demand, shutdown });
        let embedder = embedder.as_mut().map(|embedder| embedder as &mut dyn PictureEmbedder);
        Ok(learn(&mut Learning::new(&self.bundle, views, embedder, shutdown))?)
    }
}

/// What label sets are scored with from now on.
pub struct NewScorers {
    /// Without the examples that cannot be used.
    pub sets: Vec<LabelSet>,
    /// One a set.
    pub scorers: Vec<Arc<Scorer>>,
    /// The sets whose examples are not used, by their numbers, and why.
    pub refused: Vec<(usize, LearningError)>,
}

/// Bytes of the text tower's files: the graph, and weights beside it.
fn text_weights(bundle: &Bundle) -> u64 {
    let Some((folder, name)) = bundle.text.as_ref().and_then(|text| text.parent().zip(text.file_name())) else {
        return 0;
    };
    let name = name.as_encoded_bytes();
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let own = files.filter(|file| file.file_name().as_encoded_bytes().starts_with(name));
    own.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

/// What is doubtful about each of `sets`, as the model sees its texts.
pub fn doubts(sets: &[LabelSet], scorers: &[Arc<Scorer>]) -> Vec<Vec<String>> {
    let told = |first: String| {
        format!("{first} nearer to the background than to anything else of the set, and hardly wins against it")
    };
    let near = |(set, scorer): (&LabelSet, &Arc<Scorer>)| {
        let near = scorer.near_background();
        let labels: Vec<&str> = near.iter().filter_map(|at| Some(&*set.labels.get(*at)?.name)).collect();
        match labels[..] {
            [] => Vec::new(),
            [one] => vec![told(format!("`{one}` is"))],
            [first, ..] => vec![told(format!("`{first}` and {} more are", labels.len() - 1))],
        }
    };
    sets.iter().zip(scorers).map(near).collect()
}

/// Everything between a picture and its scores.
pub struct Engine {
    pub model: ModelRef,
    /// Name of the provider that computes.
    pub provider: &'static str,
    /// What was wanted more and does not work.
    pub refused: Vec<Refused>,
    pub spec: Arc<Spec>,
    /// One a session, warm; none for `model: none`.
    pub encoders: Vec<Box<dyn ImageEncoder>>,
    /// To the server that computes, if one does.
    pub link: Option<Arc<ServerLink>>,
    /// `None` for `model: none`.
    pub plan: Option<Plan>,
    /// One a label set, in the order given; empty without a model.
    pub scorers: Vec<Arc<Scorer>>,
    /// `None` for `model: none`.
    pub labels: Option<LabelBook>,
}

impl Engine {
    /// Opens the model, embeds the labels (or takes them from the cache), loads and warms the image tower. Texts are
    /// embedded in a child process, which is killed when shutdown is asked for.
    ///
    /// # Errors
    /// The first thing that is wrong, with the file and the remedy.
    pub fn build(
        model: &ModelSettings,
        infer: &InferSettings,
        sets: &[LabelSet],
        shutdown: &Shutdown,
    ) -> Result<Self, EngineError> {
        let Some(bundle) = open_model::open(model, shutdown)? else { return Self::without_model() };
        let mut tower = ChildTower::new(&bundle, infer.library.clone(), infer.threads).with_shutdown(shutdown.clone());
        Self::with_tower(&bundle, infer, sets, &mut tower, Some(shutdown))
    }

    /// As [`Self::build`], with the text tower in this process. For benches and tests, whose executable is not `vtagd`.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn build_in_process(
        model: &ModelSettings,
        infer: &InferSettings,
        sets: &[LabelSet],
    ) -> Result<Self, EngineError> {
        let (_trigger, shutdown) = shutdown::channel();
        let Some(bundle) = open_model::open(model, &shutdown)? else { return Self::without_model() };
        let mut tower = InProcessTower::new(&bundle, infer.library.clone(), infer.threads);
        Self::with_tower(&bundle, infer, sets, &mut tower, None)
    }

    /// With `measure`, what the configuration leaves open is measured, until shutdown is asked for.
    fn with_tower(
        bundle: &Bundle,
        infer: &InferSettings,
        sets: &[LabelSet],
        tower: &mut dyn TextEmbedder,
        measure: Option<&Shutdown>,
    ) -> Result<Self, EngineError> {
        let spec = Arc::new(spec_of(bundle)?);
        let embeddings = embed(bundle, sets, tower)?;
        let runtime = runtime::load(infer.library.as_deref())?;
        let (height, width) = spec.size();
        let size = (height as usize, width as usize);
        let chosen = measure.map(|shutdown| {
            let infer = openvino_precision::choose(infer, &runtime, bundle, size, shutdown);
            cores::choose(&infer, bundle, size, runtime::version(), shutdown)
        });
        let ((scale, bias), infer_as) = (spec.affine(), chosen.as_ref().unwrap_or(infer));
        let opened = sessions::open(&runtime, bundle, infer_as, size, PixelScale { scale, bias })?;
        let Opened { encoders, refused, plan, link } = opened;
        runtime::give_back_freed_memory();
        let (dim, provider) = encoders.first().map_or((0, NO_MODEL), |first| (first.dim(), first.provider().as_str()));
        let scorers = embeddings.iter().map(|set| scorer(set, bundle, dim)).collect::<Result<_, _>>()?;
        let model = ModelRef {
            name: bundle.name.as_str().into(),
            fingerprint: bundle.fingerprint.as_str().into(),
            provider: None,
        };
        let labels =
            LabelBook { bundle: bundle.clone(), infer: infer.clone(), dim, one_tower: Arc::default(), on_demand: None };
        Ok(Self { model, provider, refused, spec, encoders, link, plan: Some(plan), scorers, labels: Some(labels) })
    }

    /// Embeds the examples of `sets`, which it was built with, and goes on with scorers that have learned from them. Before the sessions are
    /// given away.
    ///
    /// # Errors
    /// An example that cannot be used, or a label of which nothing can be learned.
    pub fn learn(&mut self, sets: &[LabelSet], views: &ExampleViews, shutdown: &Shutdown) -> Result<(), EngineError> {
        let (Some(labels), Some(encoder)) = (&self.labels, self.encoders.first_mut()) else { return Ok(()) };
        let mut embedder = SessionEmbedder { spec: &self.spec, encoder: encoder.as_mut() };
        let mut learning = Learning::new(&labels.bundle, views, Some(&mut embedder), shutdown);
        self.scorers = learning.scorers(sets, std::mem::take(&mut self.scorers))?;
        Ok(())
    }

    /// Decodes and preprocesses only, with the defaults of CLIP's preprocessor.
    fn without_model() -> Result<Self, EngineError> {
        let model = ModelRef { name: NO_MODEL.into(), fingerprint: "".into(), provider: None };
        Ok(Self {
            model,
            provider: NO_MODEL,
            refused: Vec::new(),
            spec: Arc::new(Spec::from_json("{}")?),
            encoders: Vec::new(),
            link: None,
            plan: None,
            scorers: Vec::new(),
            labels: None,
        })
    }
}

/// The scorer of one set, for embeddings of pictures that are there already: the image tower is not loaded. Texts that are not in the cache are
/// embedded in a child process, and what examples show has to be there; blocks until then.
///
/// # Errors
/// As [`Engine::build`].
pub fn scorer_of_texts(
    bundle: &Bundle,
    infer: &InferSettings,
    set: &LabelSet,
    views: &ExampleViews,
    shutdown: &Shutdown,
) -> Result<Scorer, EngineError> {
    let mut tower = ChildTower::new(bundle, infer.library.clone(), infer.threads).with_shutdown(shutdown.clone());
    let embeddings = embed(bundle, std::slice::from_ref(set), &mut tower)?;
    let misfit = |reason: String| EngineError::Shape { set: set.name.clone(), reason };
    let own = embeddings.first().ok_or_else(|| misfit("there are none".to_owned()))?;
    let scorer = Scorer::new(own, bundle.logit_parameters).map_err(|error| misfit(error.to_string()))?;
    Ok(Learning::new(bundle, views, None, shutdown).scorer(set, scorer)?)
}

/// The preprocessing that came with the model, in whichever of the two formats.
///
/// # Errors
/// When the file is missing or wrong.
pub fn spec_of(bundle: &Bundle) -> Result<Spec, SpecError> {
    let openclip = bundle.preprocessor.file_name().is_some_and(|name| name == "preprocess_cfg.json");
    if openclip { Spec::from_openclip_file(&bundle.preprocessor) } else { Spec::from_file(&bundle.preprocessor) }
}

fn embed(bundle: &Bundle, sets: &[LabelSet], tower: &mut dyn TextEmbedder) -> Result<Vec<SetEmbeddings>, EngineError> {
    let mut cache = EmbeddingCache::new(&paths::cache_dir(), &bundle.embedding_fingerprint);
    let (embeddings, report) = embed_telling(&mut cache, sets, tower, &mut |EmbedProgress { ready, total }| {
        if ready < total && ready.is_multiple_of(PROGRESS_STEP) {
            tracing::info!(ready, total, "embedding label texts");
        }
    })?;
    tracing::info!(cached = report.cached, embedded = report.embedded, "label texts ready");
    Ok(embeddings)
}

fn embed_telling(
    cache: &mut EmbeddingCache,
    sets: &[LabelSet],
    tower: &mut dyn TextEmbedder,
    progress: &mut dyn FnMut(EmbedProgress),
) -> Result<(Vec<SetEmbeddings>, EmbedReport), EngineError> {
    let mut embedder = Embedder { cache, tower, dim: None, progress };
    Ok(embedder.sets(sets)?)
}

fn scorer(set: &SetEmbeddings, bundle: &Bundle, image: usize) -> Result<Arc<Scorer>, EngineError> {
    let text = set.blocks.iter().flat_map(|b| &b.labels).next().map_or(image, |l| l.prompts.ncols());
    if text != image {
        return Err(EngineError::Towers { model: bundle.name.clone(), image, text });
    }
    let scorer = Scorer::new(set, bundle.logit_parameters)
        .map_err(|e| EngineError::Shape { set: set.name.clone(), reason: e.to_string() })?;
    Ok(Arc::new(scorer))
}

/// Threads that preprocess: as many as are `wanted`, else enough to hide behind inference, few enough to leave the cores to it.
pub fn preprocessing_threads(wanted: Option<usize>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    wanted.unwrap_or_else(|| cores.div_ceil(4).clamp(1, 4))
}
