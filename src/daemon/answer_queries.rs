//! Answers what the API asks the model: pictures through the running pipeline, beside the streams, texts through a child process.
//!
//! Called on the API's threads, a few at once (`api/model_queries.rs`), each of which waits for its answer. Pictures are untrusted: their size
//! is bounded before they are unpacked, and one is unpacked at a time; a large one is also alone until it is in a batch. Label sets and
//! views are those that run now; the main thread hands them in. One text tower is in memory at a time, that of a reload included, and only
//! where there is memory for it; after a text it waits for the next one for a minute. One search of the history is under way at a time, on threads that
//! go after inference.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ndarray::ArrayView1;
use parking_lot::{Mutex, RwLock};

use super::engine::{LabelBook, TextsRefused};
use super::example_embeddings::ExampleViews;
use super::label_edit;
use super::label_trial::LabelTrial;
use crate::api::{ModelQueries, QueryRefusal, SetScores, TagScore, TriedLabel};
use crate::config::{self, Settings};
use crate::event::{ModelRef, Thresholds};
use crate::frame::Picture;
use crate::frame::still_image;
use crate::frame::view::{NamedView, Views};
use crate::history::moment_search::ViewsInForce;
use crate::history::noun_bank;
use crate::history::picture_files::PictureName;
use crate::history::row_store::StoredRows;
use crate::history::search_answer::{self, SearchAnswer, SearchQuestion, SearchRange};
use crate::label::{Label, LabelSet};
use crate::pipeline::on_demand::{NoEmbedding, OnDemand};
use crate::platform::shutdown::Shutdown;
use crate::platform::thread_priority;
use crate::score::{LabelScore, NamedRival, Scorer};
use crate::stream::requests::LabelDraft;

/// From so many pixels on a picture waits alone: 4K is below.
const LARGE: u64 = 1 << 23;

/// Who searches asks again soon, and a file that is mapped is searched several times as fast as one that is read.
const MAPPED_FOR: Duration = Duration::from_secs(60);

/// A label set that runs now.
struct SetInUse {
    set: LabelSet,
    rivals: Vec<NamedRival>,
    scorer: Arc<Scorer>,
}

/// What runs now.
#[derive(Default)]
struct InUse {
    sets: Vec<SetInUse>,
    /// Views and numbers of the label sets of each stream.
    streams: HashMap<String, (Views, Vec<usize>)>,
    views: ViewsInForce,
    /// What counts where a label says nothing else.
    events: Option<Thresholds>,
    examples: ExampleViews,
}

/// See the module.
pub struct ModelAnswers {
    on_demand: Arc<OnDemand>,
    model: ModelRef,
    /// `None` for `model: none`.
    labels: Option<LabelBook>,
    in_use: RwLock<Arc<InUse>>,
    unpacking: Mutex<()>,
    /// `None`: the history is off.
    history: Option<StoredRows>,
    /// Embeddings of the noun bank, once they were asked for.
    nouns: Mutex<Option<Arc<Vec<Vec<f32>>>>>,
    /// When the last search ended, while its files are mapped.
    searching: Mutex<Option<Instant>>,
    shutdown: Shutdown,
}

impl ModelAnswers {
    pub fn new(on_demand: Arc<OnDemand>, model: ModelRef, labels: Option<LabelBook>, shutdown: Shutdown) -> Self {
        let (in_use, unpacking) = (RwLock::default(), Mutex::default());
        let (nouns, searching) = (Mutex::default(), Mutex::default());
        Self { on_demand, model, labels, in_use, unpacking, history: None, nouns, searching, shutdown }
    }

    /// Searches are answered from `history`.
    #[must_use]
    pub fn with_history(self, history: Option<StoredRows>) -> Self {
        Self { history, ..self }
    }

    /// Ends a text tower that nobody has needed for a while, and lets go of the history's files. Does not block.
    pub fn end_idle(&self, now: Instant) {
        self.labels.iter().for_each(|labels| labels.end_idle_tower(now));
        let idle = |ended: &mut Instant| now.saturating_duration_since(*ended) >= MAPPED_FOR;
        if self.searching.try_lock().is_some_and(|mut ended| ended.take_if(idle).is_some()) {
            self.history.iter().for_each(StoredRows::unmap);
        }
    }

    /// The bank's embeddings, made once for each model.
    fn nouns(&self, labels: &LabelBook) -> Result<Arc<Vec<Vec<f32>>>, QueryRefusal> {
        if let Some(nouns) = &*self.nouns.lock() {
            return Ok(Arc::clone(nouns));
        }
        let texts: Vec<String> = noun_bank::nouns().map(str::to_owned).collect();
        let nouns = Arc::new(labels.embed_texts(&texts, true, &self.shutdown).map_err(refused)?);
        *self.nouns.lock() = Some(Arc::clone(&nouns));
        Ok(nouns)
    }

    /// Goes on with these label sets and streams.
    pub fn change(&self, settings: &Settings, scorers: &[Arc<Scorer>]) {
        let sets = settings.label_sets.iter().zip(scorers).map(|(set, scorer)| SetInUse {
            set: set.clone(),
            rivals: set.rivals(),
            scorer: Arc::clone(scorer),
        });
        let streams = settings.streams.iter();
        let streams = streams.map(|s| (s.source.id.to_string(), (s.views.clone(), s.label_sets.clone())));
        let (sets, streams, events) = (sets.collect(), streams.collect(), Some(settings.events));
        let (views, examples) = (config::views_in_force(&settings.streams), ExampleViews::of(settings));
        *self.in_use.write() = Arc::new(InUse { sets, streams, views, events, examples });
    }

    /// For each view, the embeddings of the tiles of a coded picture; and how long each is.
    fn embed(&self, coded: &[u8], views: &Views) -> Result<(Vec<Vec<f32>>, usize), QueryRefusal> {
        let labels = self.labels.as_ref().ok_or(QueryRefusal::NoModel)?;
        let mut unpacking = Some(self.unpacking.lock());
        let picture = still_image::decode(coded).map_err(|error| QueryRefusal::Input(error.to_string()))?;
        if pixels(&picture) < LARGE {
            unpacking.take();
        }
        let embedded = self.on_demand.embed(picture, views).map_err(|why| match why {
            NoEmbedding::Busy => QueryRefusal::Busy("the streams take all that the box has: come back later"),
            NoEmbedding::Stopping => QueryRefusal::Busy("the daemon is stopping"),
            NoEmbedding::Failed => QueryRefusal::Failed("the picture was lost on its way through the model".to_owned()),
        })?;
        Ok((embedded, labels.dim()))
    }
}

fn pixels(picture: &Picture) -> u64 {
    u64::from(picture.width()) * u64::from(picture.height())
}

impl SetInUse {
    /// Each label keeps the best of all tiles, as on a stream.
    fn scores(&self, region: Option<&str>, embeddings: &[f32], dim: usize) -> SetScores {
        let mut tiles = embeddings.chunks_exact(dim).map(|row| self.scorer.score(ArrayView1::from(row)));
        let mut best: Vec<LabelScore> = tiles.next().unwrap_or_default();
        for tile in tiles {
            best.iter_mut().zip(tile).for_each(|(best, new)| *best = best.best(new));
        }
        let told = |(label, score): (&Label, LabelScore)| TagScore {
            label: label.name.clone(),
            score: Some(score.probability()).filter(|score| score.is_finite()),
            margin: Some(score.margin).filter(|margin| margin.is_finite()),
            rival: score.rival.and_then(|rival| self.rivals.get(rival.0 as usize)).map(|rival| rival.name.clone()),
        };
        let scores = self.set.labels.iter().zip(best).map(told).collect();
        SetScores { set: self.set.name.clone(), region: region.map(str::to_owned), scores }
    }
}

impl ModelQueries for ModelAnswers {
    fn model(&self) -> &ModelRef {
        &self.model
    }

    fn tag(&self, picture: &[u8], set: Option<&str>, stream: Option<&str>) -> Result<Vec<SetScores>, QueryRefusal> {
        let in_use = Arc::clone(&self.in_use.read());
        let (views, of_stream) = match stream.map(|stream| in_use.streams.get(stream)) {
            None => (Views::default(), None),
            Some(None) => return Err(QueryRefusal::NoSuchStream),
            Some(Some((views, sets))) => (views.clone(), Some(sets)),
        };
        let is_wanted = |(at, known): &(usize, &SetInUse)| {
            of_stream.is_none_or(|sets| sets.contains(at)) && set.is_none_or(|set| known.set.name == set)
        };
        let sets: Vec<&SetInUse> = in_use.sets.iter().enumerate().filter(is_wanted).map(|(_, known)| known).collect();
        if set.is_some() && sets.is_empty() {
            return Err(QueryRefusal::NoSuchSet);
        }
        let (embeddings, dim) = self.embed(picture, &views)?;
        let of_view = |(view, tiles): (&NamedView, Vec<f32>)| {
            sets.iter().map(move |set| set.scores(view.name.as_deref(), &tiles, dim)).collect::<Vec<_>>()
        };
        Ok(views.iter().zip(embeddings).flat_map(of_view).collect())
    }

    fn embed_picture(&self, picture: &[u8]) -> Result<Vec<f32>, QueryRefusal> {
        self.embed(picture, &Views::default()).map(|(embeddings, _)| embeddings.concat())
    }

    fn embed_texts(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, QueryRefusal> {
        let labels = self.labels.as_ref().ok_or(QueryRefusal::NoModel)?;
        labels.embed_texts(texts, false, &self.shutdown).map_err(refused)
    }

    fn history_picture(&self, name: &str) -> Option<Vec<u8>> {
        // A name that was given from outside is looked at before it becomes a path.
        let file = self.history.as_ref()?.picture(PictureName::parse(name)?)?;
        std::fs::read(file).ok()
    }

    fn search(
        &self,
        text: Option<&str>,
        picture: Option<&[u8]>,
        range: SearchRange<'_>,
        histogram: bool,
    ) -> Result<SearchAnswer, QueryRefusal> {
        let labels = self.labels.as_ref().ok_or(QueryRefusal::NoModel)?;
        let history = self.history.as_ref().ok_or(QueryRefusal::NoHistory)?;
        let mut parts = Vec::new();
        if let Some(picture) = picture {
            parts.push(self.embed_picture(picture)?);
        }
        let mut nouns = None;
        if let Some(text) = text {
            let text = search_answer::prompt(text).map_err(|why| QueryRefusal::Input(format!("the text {why}")))?;
            if picture.is_none() {
                nouns = Some(self.nouns(labels)?);
            }
            parts.extend(labels.embed_texts(&[text.to_owned()], false, &self.shutdown).map_err(refused)?);
        }
        let embedding = search_answer::joined(&parts);
        let nouns = nouns.as_ref().map(|nouns| nouns.as_slice()).unwrap_or_default();
        let in_use = Arc::clone(&self.in_use.read());
        let (model, views) = (labels.model(), Some(&in_use.views));
        let question = SearchQuestion { text, embedding: &embedding, nouns, model, range, views, histogram };
        // What the answer's reader asks for next.
        let address = |name: PictureName, _: &std::path::Path| format!("/api/v1/history/{}", name.text());
        self.look(|| search_answer::answer(history, &question, address))
    }

    fn try_label(&self, set: &str, draft: &LabelDraft, past: Duration) -> Result<TriedLabel, QueryRefusal> {
        let labels = self.labels.as_ref().ok_or(QueryRefusal::NoModel)?;
        let history = self.history.as_ref().ok_or(QueryRefusal::NoHistory)?;
        let in_use = Arc::clone(&self.in_use.read());
        let found = in_use.sets.iter().find(|known| known.set.name == set).ok_or(QueryRefusal::NoSuchSet)?;
        let events = in_use.events.as_ref().ok_or(QueryRefusal::NoSuchSet)?;
        let set = label_edit::drafted(&found.set, draft);
        let label = set.labels.iter().position(|label| label.name == draft.label).unwrap_or_default();
        let scorer = labels.trial_scorer(&set, &in_use.examples, &self.shutdown).map_err(refused)?;
        let mut names: Vec<(String, String, String)> = in_use
            .streams
            .iter()
            .flat_map(|(id, (views, _))| {
                let region = |view: &NamedView| view.name.as_deref().unwrap_or_default().to_owned();
                let name = move |view: &NamedView| (id.clone(), region(view), view.digest());
                views.iter().map(name)
            })
            .collect();
        names.sort_unstable();
        let now = jiff::Timestamp::now().as_millisecond();
        let times = (now.saturating_sub(i64::try_from(past.as_millis()).unwrap_or(i64::MAX)), now);
        let trial = LabelTrial { set: &set, label, scorer: &scorer, events, model: &self.model, names, times };
        self.look(|| trial.run(history))
    }
}

impl ModelAnswers {
    /// Has the history looked at, one look at a time, on a thread of its own: the caller's goes on with other things, at its own place in the order.
    fn look<T: Send>(&self, look: impl FnOnce() -> T + Send) -> Result<T, QueryRefusal> {
        let mut one = self.searching.lock();
        let answer = std::thread::scope(|scope| {
            let look = || {
                thread_priority::lower_priority();
                look()
            };
            let thread = std::thread::Builder::new().name("vtagd-search".to_owned()).spawn_scoped(scope, look);
            let thread =
                thread.map_err(|error| QueryRefusal::Failed(format!("there is no thread to search: {error}")))?;
            thread.join().map_err(|_| QueryRefusal::Failed("the search panicked; please report this".to_owned()))
        });
        *one = Some(Instant::now());
        answer
    }
}

fn refused(why: TextsRefused) -> QueryRefusal {
    match why {
        TextsRefused::Busy => QueryRefusal::Busy("other texts are being embedded: come back later"),
        TextsRefused::Memory => QueryRefusal::Busy("there is not enough free memory for the model's text tower"),
        TextsRefused::Engine(error) => QueryRefusal::Failed(error.to_string()),
    }
}
