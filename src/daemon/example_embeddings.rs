//! Scorers that have learned from pictures: the examples of label sets, embedded as the set's streams see them.
//!
//! In: label sets with their scorers, and whoever [embeds pictures](PictureEmbedder): the session before the streams start, the running pipeline
//! afterwards. Out: the same scorers, with what was learned added. An embedding is kept in the cache, by the example's digest, the model and the view, so
//! that it is made once. On the caller's thread, which waits.
//!
//! A set's examples are seen through every view that a stream looks for it with, up to [`MAX_VIEWS`]; what counts of an example is the view, and the tile,
//! that fits the label's texts best, and of a counter-example all of them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::clip_frame;
use super::engine::Engine;
use crate::config::Settings;
use crate::frame::view::NamedView;
use crate::frame::{Picture, still_image};
use crate::history::name_table::Name;
use crate::history::past_rows;
use crate::history::row_store::StoredRows;
use crate::infer::ImageEncoder;
use crate::label::LabelSet;
use crate::label::cache::EmbeddingCache;
use crate::label::examples::{Example, ExampleSource};
use crate::label::text_encoder::TextEmbedding;
use crate::model::Bundle;
use crate::pipeline::on_demand::{NoEmbedding, OnDemand};
use crate::platform::paths;
use crate::platform::shutdown::Shutdown;
use crate::preprocess::{self, Preprocessor, Spec};
use crate::score::Scorer;
use crate::score::learning::{LabelExamples, SetExamples};

/// Views of one set that its examples are seen through.
const MAX_VIEWS: usize = 8;
/// How far a row of the history may lie from the moment that an example names, ms.
const NEAR_MS: i64 = 2000;
/// How often pictures are offered to streams that take all that the box has.
const TRIES: usize = 6;

/// Why nothing was learned.
#[derive(Debug, thiserror::Error)]
pub enum LearningError {
    /// An example, by its name.
    #[error("{name}: {why}")]
    Example { name: String, why: String },
    #[error("label set {set}: nothing can be learned for `{label}`: {why}")]
    Refused { set: String, label: String, why: String },
    /// Its embeddings are not in the cache, and nothing is there that could make them.
    #[error("{0}: it was not seen by this model yet; a start of the daemon, or a reload, embeds it")]
    NotEmbedded(String),
}

impl LearningError {
    /// What is said of a set that goes on without its examples.
    pub fn as_warning(&self) -> String {
        format!("its examples are not used, it goes by its texts alone: {self}")
    }
}

/// Whoever turns a picture into embeddings: one a tile of the view, one behind the other.
pub trait PictureEmbedder {
    /// # Errors
    /// Why there are none.
    fn embed(&mut self, picture: &Arc<Picture>, view: &NamedView) -> Result<Vec<f32>, String>;
}

/// By a session that nobody else uses.
pub struct SessionEmbedder<'a> {
    pub spec: &'a Arc<Spec>,
    pub encoder: &'a mut dyn ImageEncoder,
}

impl PictureEmbedder for SessionEmbedder<'_> {
    fn embed(&mut self, picture: &Arc<Picture>, view: &NamedView) -> Result<Vec<f32>, String> {
        let place = self.spec.place_len();
        let mut preprocessor = Preprocessor::new(Arc::clone(self.spec));
        let tiles = preprocess::tiles(view.view, picture.width(), picture.height()).max(1);
        let (mut pixels, mut one) = (vec![0.0; place], Vec::new());
        let mut embeddings = Vec::with_capacity(tiles * self.encoder.dim());
        // One at a time: the session was made for as many as the daemon has at once, which may be one.
        for tile in 0..tiles {
            let done = match &view.mask {
                Some(mask) => preprocessor.run_masked(picture, view.view, mask, tile, &mut pixels),
                None => preprocessor.run(picture, view.view, tile, &mut pixels),
            };
            done.map_err(|error| error.to_string())?;
            self.encoder.encode(&pixels, 1, &mut one).map_err(|error| error.to_string())?;
            embeddings.append(&mut one);
        }
        Ok(embeddings)
    }
}

/// By the running pipeline, after the streams.
pub struct PipelineEmbedder<'a> {
    pub on_demand: &'a OnDemand,
    pub shutdown: &'a Shutdown,
}

impl PictureEmbedder for PipelineEmbedder<'_> {
    fn embed(&mut self, picture: &Arc<Picture>, view: &NamedView) -> Result<Vec<f32>, String> {
        let view = NamedView { name: None, ..view.clone() };
        let views = crate::frame::view::Views::new(vec![view]).unwrap_or_default();
        for _ in 0..TRIES {
            match self.on_demand.embed(Arc::clone(picture), &views) {
                Ok(embeddings) => return Ok(embeddings.concat()),
                Err(NoEmbedding::Busy) if !self.shutdown.is_requested() => {}
                Err(NoEmbedding::Busy | NoEmbedding::Stopping) => return Err("the daemon is stopping".to_owned()),
                Err(NoEmbedding::Failed) => return Err("was lost on its way through the model".to_owned()),
            }
        }
        Err("the streams take all that the box has: reload again later".to_owned())
    }
}

/// What examples are seen with, of a configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExampleViews {
    by_set: HashMap<String, Vec<NamedView>>,
    /// For sets that no stream looks for.
    otherwise: Vec<NamedView>,
    /// The history's folder.
    history: Option<PathBuf>,
}

impl ExampleViews {
    pub fn of(settings: &Settings) -> Self {
        let mut by_set: HashMap<String, Vec<NamedView>> = HashMap::new();
        for stream in &settings.streams {
            for set in stream.label_sets.iter().filter_map(|at| settings.label_sets.get(*at)) {
                let views = by_set.entry(set.name.clone()).or_default();
                for view in stream.views.iter() {
                    let view = NamedView { name: None, ..view.clone() };
                    if views.len() < MAX_VIEWS && !views.contains(&view) {
                        views.push(view);
                    }
                }
            }
        }
        let history = settings.history.as_ref().and_then(|history| history.path.clone());
        Self { by_set, otherwise: vec![NamedView::default()], history }
    }

    /// Sets that no stream looks for are seen through these.
    #[must_use]
    pub fn otherwise(self, views: &[NamedView]) -> Self {
        let nameless = views.iter().take(MAX_VIEWS).map(|view| NamedView { name: None, ..view.clone() });
        Self { otherwise: nameless.collect(), ..self }
    }

    fn of_set(&self, set: &str) -> Vec<NamedView> {
        self.by_set.get(set).unwrap_or(&self.otherwise).clone()
    }
}

/// Embeds and learns; see the module.
pub struct Learning<'a> {
    cache: EmbeddingCache,
    model: String,
    views: &'a ExampleViews,
    /// `None`: only what is in the cache is used.
    embedder: Option<&'a mut dyn PictureEmbedder>,
    shutdown: &'a Shutdown,
}

impl<'a> Learning<'a> {
    pub fn new(
        bundle: &Bundle,
        views: &'a ExampleViews,
        embedder: Option<&'a mut dyn PictureEmbedder>,
        shutdown: &'a Shutdown,
    ) -> Self {
        let cache = EmbeddingCache::new(&paths::cache_dir(), &bundle.embedding_fingerprint);
        Self { cache, model: bundle.fingerprint.clone(), views, embedder, shutdown }
    }

    /// The scorers of `sets`, each with what it has learned.
    ///
    /// # Errors
    /// The first example that cannot be used, or the first label of which nothing can be learned.
    pub fn scorers(&mut self, sets: &[LabelSet], scorers: Vec<Arc<Scorer>>) -> Result<Vec<Arc<Scorer>>, LearningError> {
        let learned = |(set, scorer): (&LabelSet, Arc<Scorer>)| match set.has_examples() {
            true => self.scorer(set, Arc::unwrap_or_clone(scorer)).map(Arc::new),
            false => Ok(scorer),
        };
        sets.iter().zip(scorers).map(learned).collect()
    }

    /// As [`Self::scorers`], where a set that `may_go_by_texts` and whose examples cannot be used goes on by its texts alone, and loses them, so that
    /// what was calibrated with them waits. Such sets by their numbers, and why.
    ///
    /// # Errors
    /// As [`Self::scorers`], for all other sets.
    pub fn scorers_where_possible(
        &mut self,
        sets: &mut [LabelSet],
        scorers: &mut [Arc<Scorer>],
        may_go_by_texts: impl Fn(&LabelSet) -> bool,
    ) -> Result<Vec<(usize, LearningError)>, LearningError> {
        let mut refused = Vec::new();
        for (at, (set, scorer)) in sets.iter_mut().zip(scorers).enumerate().filter(|(_, (set, _))| set.has_examples()) {
            match self.scorer(set, Scorer::clone(scorer)) {
                Ok(learned) => *scorer = Arc::new(learned),
                Err(why) if may_go_by_texts(set) => {
                    *set = set.without_examples();
                    refused.push((at, why));
                }
                Err(why) => return Err(why),
            }
        }
        Ok(refused)
    }

    /// The same for one set.
    ///
    /// # Errors
    /// As [`Self::scorers`].
    pub fn scorer(&mut self, set: &LabelSet, scorer: Scorer) -> Result<Scorer, LearningError> {
        if !set.has_examples() {
            return Ok(scorer);
        }
        let views = self.views.of_set(&set.name);
        let own = self.model.clone();
        // What another model has seen says nothing to this one; its thresholds do not count any more either.
        let is_usable =
            |example: &&Example| !matches!(&example.source, ExampleSource::Stored { model, .. } if *model != own);
        let mut all = |examples: &[Example]| {
            let usable = examples.iter().filter(is_usable);
            usable.map(|example| self.embedded(example, &views)).collect::<Result<Vec<_>, _>>()
        };
        let mut labels = Vec::with_capacity(set.labels.len());
        for label in &set.labels {
            let is_learned = !label.examples.is_empty();
            let counter = if is_learned { all(&label.counter_examples)? } else { Vec::new() };
            labels.push(LabelExamples {
                examples: all(&label.examples)?,
                counter_examples: counter,
                learn: label.learn,
                similarity: label.similarity,
            });
        }
        let counter_examples = all(&set.counter_examples)?;
        let examples = SetExamples { labels, counter_examples };
        let scorer = scorer.learning(&examples).map_err(|(at, why)| LearningError::Refused {
            set: set.name.clone(),
            label: set.labels.get(at).map_or_else(String::new, |label| label.name.clone()),
            why: why.to_string(),
        })?;
        for one in scorer.learned_labels() {
            let label = set.labels.get(one.label).map_or("", |label| &label.name);
            let by_texts = format!("{:.2}", one.by_texts);
            tracing::info!(set = set.name, label, by_texts, used = one.is_used, "examples of a label");
        }
        Ok(scorer)
    }

    /// One example, through all views, tile by tile.
    fn embedded(&mut self, example: &Example, views: &[NamedView]) -> Result<Vec<f32>, LearningError> {
        if let ExampleSource::Stored { embedding, .. } = &example.source {
            return Ok(embedding.clone());
        }
        let key = |view: &NamedView| format!("\0example {} {}", example.digest, view.described());
        let is_moment = matches!(example.source, ExampleSource::Moment { .. });
        // What the history has was seen through its stream's view.
        let views = if is_moment { &views[..views.len().min(1)] } else { views };
        let mut tiles = Vec::new();
        let mut picture = None;
        for view in views {
            let key = key(view);
            if let Some(found) = self.cache.get(&key) {
                tiles.extend(found.values);
                continue;
            }
            let refused = |why: String| LearningError::Example { name: example.name.clone(), why };
            let values = match &example.source {
                ExampleSource::Moment { stream, region, at } => {
                    self.moment(stream, region.as_deref(), *at).map_err(refused)?
                }
                _ => {
                    let Some(embedder) = &mut self.embedder else {
                        return Err(LearningError::NotEmbedded(example.name.clone()));
                    };
                    let picture = match &mut picture {
                        Some(picture) => picture,
                        empty => empty.insert(load(&example.source, self.shutdown).map_err(refused)?),
                    };
                    embedder.embed(picture, view).map_err(refused)?
                }
            };
            let embedding = TextEmbedding { values, truncated: false };
            self.cache.put([(key.as_str(), &embedding)]);
            tiles.extend(embedding.values);
        }
        Ok(tiles)
    }

    /// What the history has of a moment: the tiles of the rows nearest to it.
    fn moment(&self, stream: &str, region: Option<&str>, at: jiff::Timestamp) -> Result<Vec<f32>, String> {
        let folder = self.views.history.as_ref().ok_or("there is no history on disk: `history: {}` keeps one")?;
        let (stored, _) = StoredRows::open(folder).map_err(|error| format!("the history cannot be read: {error}"))?;
        let region = region.unwrap_or_default().to_owned();
        let name = Name { stream: stream.to_owned(), region, model: self.model.clone(), view: String::new() };
        let at = at.as_millisecond();
        let mut rows: Vec<(u16, i64, Vec<f32>)> = Vec::new();
        let read = past_rows::visit(&stored, &name, (at - NEAR_MS, at + NEAR_MS), &mut |row| {
            // How far the moment lies outside of it.
            let far = (row.from - at).max(at - row.until).max(0);
            match rows.iter_mut().find(|(tile, ..)| *tile == row.tile) {
                Some(known) if far < known.1 => *known = (row.tile, far, row.embedding.to_vec()),
                Some(_) => {}
                None => rows.push((row.tile, far, row.embedding.to_vec())),
            }
            true
        });
        if rows.is_empty() {
            let other = if read.other_models > 0 { ": what it has is of another model" } else { "" };
            return Err(format!("the history has nothing of that moment{other}"));
        }
        rows.sort_by_key(|(tile, ..)| *tile);
        Ok(rows.into_iter().flat_map(|(.., embedding)| embedding).collect())
    }
}

impl Engine {
    /// As [`Self::learn`], for a start: one example that cannot be used is no reason to see nothing at all. Its set goes by its texts alone, and
    /// has no examples any more in `sets`. Such sets by their numbers, and why.
    pub fn learn_where_possible(
        &mut self,
        sets: &mut [LabelSet],
        views: &ExampleViews,
        shutdown: &Shutdown,
    ) -> Vec<(usize, LearningError)> {
        let (Some(labels), Some(encoder)) = (&self.labels, self.encoders.first_mut()) else { return Vec::new() };
        let mut embedder = SessionEmbedder { spec: &self.spec, encoder: encoder.as_mut() };
        let mut learning = Learning::new(&labels.bundle, views, Some(&mut embedder), shutdown);
        // All of them may: no error is left.
        learning.scorers_where_possible(sets, &mut self.scorers, |_| true).unwrap_or_default()
    }
}

fn load(source: &ExampleSource, shutdown: &Shutdown) -> Result<Arc<Picture>, String> {
    match source {
        ExampleSource::Picture(file) => still_image::load(file).map(Arc::new).map_err(|error| {
            // The example is called after its file already.
            let why = error.to_string();
            why.strip_prefix(&format!("{}: ", file.display())).map(str::to_owned).unwrap_or(why)
        }),
        ExampleSource::Clip { file, at_ms } => clip_frame::at(file, Duration::from_millis(*at_ms), shutdown),
        ExampleSource::Moment { .. } | ExampleSource::Stored { .. } => Err("is no picture".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::label::Label;
    use crate::label::set;
    use crate::model::{Activation, LogitParameters};
    use crate::platform::shutdown;
    use crate::score::{Block, LabelEmbeddings, SetEmbeddings};
    use crate::yaml::Document;

    fn set(name: &str) -> LabelSet {
        let text = format!("set: {name}\nbackground: [a wall]\nlabels: [{{ name: car }}]\n");
        set::check(Document::parse(std::path::Path::new("s.yaml"), text.as_bytes()).unwrap()).unwrap().set
    }

    fn stored(embedding: [f32; 2]) -> Example {
        let source =
            ExampleSource::Stored { embedding: embedding.to_vec(), model: "m".to_owned(), stream: "gate".to_owned() };
        Example { source, digest: format!("{embedding:?}"), name: "kept".to_owned() }
    }

    #[test]
    fn at_a_start_a_set_whose_examples_cannot_be_used_goes_by_its_texts_and_the_others_learn() {
        let dir = tempfile::tempdir().unwrap();
        let (_trigger, shutdown) = shutdown::channel();
        let views = ExampleViews::default().otherwise(&[NamedView::default()]);
        let mut learning = Learning {
            cache: EmbeddingCache::new(dir.path(), "m"),
            model: "m".to_owned(),
            views: &views,
            embedder: None,
            shutdown: &shutdown,
        };
        let picture = Example {
            source: ExampleSource::Picture("odd.jpg".into()),
            digest: "d".to_owned(),
            name: "s.yaml:4: odd.jpg".to_owned(),
        };
        let with = |set: LabelSet, examples: Vec<Example>, counter_examples: Vec<Example>| {
            let label = Label { examples, counter_examples, ..set.labels[0].clone() };
            LabelSet { labels: vec![label], ..set }
        };
        let sets = [
            with(set("odd"), vec![picture], vec![stored([0.0, 1.0])]),
            with(set("lonely"), vec![stored([1.0, 0.0])], Vec::new()),
            with(set("good"), vec![stored([1.0, 0.0])], vec![stored([0.0, 1.0])]),
            set("plain"),
        ];
        let none = ndarray::Array2::zeros((0, 2));
        let car = LabelEmbeddings { name: "car".to_owned(), prompts: array![[0.6, 0.8]], negatives: none };
        let block = Block { labels: vec![car], background: array![[0.8, 0.6]] };
        let embeddings = SetEmbeddings { name: "s".to_owned(), scoring: Default::default(), blocks: vec![block] };
        let clip = LogitParameters { scale: 10.0, bias: 0.0, activation: Activation::Softmax };
        let plain = Arc::new(Scorer::new(&embeddings, clip).unwrap());
        let (mut now, mut scorers) = (sets.to_vec(), vec![plain; 4]);
        let refused =
            learning.scorers_where_possible(&mut now.clone(), &mut scorers.clone(), |set| set.name != "lonely");
        assert!(refused.unwrap_err().to_string().contains("nothing"), "what may not go by its texts is an error");
        let refused = learning.scorers_where_possible(&mut now, &mut scorers, |_| true).unwrap();
        let told: Vec<(usize, String)> = refused.iter().map(|(at, why)| (*at, why.to_string())).collect();
        assert!(
            matches!(&told[..], [(0, odd), (1, lonely)] if odd.contains("odd.jpg") && lonely.contains("nothing")),
            "{told:?}"
        );
        let learned: Vec<usize> = scorers.iter().map(|scorer| scorer.learned_labels().len()).collect();
        assert_eq!(learned, [0, 0, 1, 0]);
        assert_eq!(now.iter().map(LabelSet::has_examples).collect::<Vec<_>>(), [false, false, true, false]);
        assert_eq!(now[2..], sets[2..]);
    }
}
