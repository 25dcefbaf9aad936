//! Label sets in, the text embeddings that score them out: templates applied, looked up in the cache, the rest embedded by
//! a [`TextEmbedder`], averaged by prompt or kept apart by template, as the set says. Called at start-up and by `labels embed`, on the caller's thread.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ndarray::{Array2, ArrayViewMut2, s};
use tracing::warn;

use super::cache::EmbeddingCache;
use super::text_encoder::{TextEmbedding, TextEncoder, TextError};
use super::{Ensemble, Label, LabelSet, prompt_template};
use crate::infer::{InferError, runtime};
use crate::model::Bundle;
use crate::score::{Block, LabelEmbeddings, SetEmbeddings};

/// Why label sets have no embeddings. Fatal at start-up, except [`Self::Cancelled`].
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    #[error(transparent)]
    Text(#[from] TextError),
    /// The child process that embeds failed, or died.
    #[error("{0}")]
    Child(String),
    /// The child process found something wrong with the model or the texts.
    #[error("{0}")]
    Input(String),
    /// The model lies otherwise on the disk than when it was opened.
    #[error(
        "the model in {} was changed since it was opened: its texts would not fit its pictures; start again to use what is there \
         now, or put the files back",
        dir.display()
    )]
    Changed { dir: PathBuf },
    /// The text tower was removed, and is needed.
    #[error(
        "the model directory {} has no text_model.onnx, and of the texts {} in the cache: {}; put the file back, or embed them \
         where it is (`vtagd labels embed`) and bring the cache directory",
        dir.display(), if *count == 1 { "one is not".to_owned() } else { format!("{count} are not") }, shown(texts, *count)
    )]
    NoTower { dir: PathBuf, count: usize, texts: Vec<String> },
    /// Towers that do not belong together.
    #[error("{0}")]
    Mismatch(String),
    /// Shutdown was asked for meanwhile.
    #[error("stopped while texts were being embedded")]
    Cancelled,
}

impl EmbedError {
    /// 2 where the input is wrong, 1 where the machine failed.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Text(TextError::Tokenizer(_) | TextError::Infer(InferError::Model(_)))
            | Self::Input(_)
            | Self::NoTower { .. }
            | Self::Mismatch(_) => 2,
            Self::Text(TextError::Infer(_)) | Self::Child(_) | Self::Changed { .. } | Self::Cancelled => 1,
        }
    }
}

impl EmbedError {
    /// [`Self::NoTower`] for `bundle`, where it has none; a message names the first few of `texts`.
    pub(super) fn without_tower(bundle: &Bundle, texts: &[&str]) -> Result<(), Self> {
        const NAMED: usize = 8;
        if bundle.text.is_some() || texts.is_empty() {
            return Ok(());
        }
        let named = texts.iter().take(NAMED).map(|text| text.chars().take(80).collect()).collect();
        Err(Self::NoTower { dir: bundle.dir.clone(), count: texts.len(), texts: named })
    }
}

fn shown(texts: &[String], count: usize) -> String {
    let named: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    let more = count.saturating_sub(texts.len());
    if more > 0 { format!("{} and {more} more", named.join(", ")) } else { named.join(", ") }
}

/// Whatever turns texts into embeddings, narrow enough for a fake.
pub trait TextEmbedder {
    /// Embeds `texts` and hands each result to `done` with its index, in order.
    ///
    /// # Errors
    /// The first text that fails ends it; what was handed over before is good.
    fn embed(&mut self, texts: &[&str], done: &mut dyn FnMut(usize, TextEmbedding)) -> Result<(), EmbedError>;
}

/// Loads the text tower into this process when it is first needed. ONNX Runtime does not give memory back, so a daemon
/// uses a [`ChildTower`](super::embed_child::ChildTower) instead.
pub struct InProcessTower {
    bundle: Bundle,
    library: Option<PathBuf>,
    threads: usize,
    encoder: Option<TextEncoder>,
}

impl InProcessTower {
    pub fn new(bundle: &Bundle, library: Option<PathBuf>, threads: usize) -> Self {
        Self { bundle: bundle.clone(), library, threads, encoder: None }
    }

    /// The tower, read from its files when that is asked for first.
    pub(super) fn load(&mut self) -> Result<&mut TextEncoder, EmbedError> {
        match &mut self.encoder {
            Some(encoder) => Ok(encoder),
            empty => {
                let runtime = runtime::load(self.library.as_deref()).map_err(TextError::from)?;
                Ok(empty.insert(TextEncoder::open(&runtime, &self.bundle, self.threads)?))
            }
        }
    }
}

impl TextEmbedder for InProcessTower {
    fn embed(&mut self, texts: &[&str], done: &mut dyn FnMut(usize, TextEmbedding)) -> Result<(), EmbedError> {
        EmbedError::without_tower(&self.bundle, texts)?;
        Ok(self.load()?.embed_all(texts, done)?)
    }
}

/// How far it is: texts that are ready, and texts in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbedProgress {
    pub ready: usize,
    pub total: usize,
}

/// What it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EmbedReport {
    /// Texts found in the cache.
    pub cached: usize,
    /// Texts embedded now.
    pub embedded: usize,
    /// Of both, how many did not fit into the model's context.
    pub truncated: usize,
}

/// Text embeddings with their cache; the image tower's `dim` guards against towers that do not belong together.
pub struct Embedder<'a> {
    pub cache: &'a mut EmbeddingCache,
    pub tower: &'a mut dyn TextEmbedder,
    /// Length of an image embedding, where it is known already.
    pub dim: Option<usize>,
    pub progress: &'a mut dyn FnMut(EmbedProgress),
}

impl Embedder<'_> {
    /// Embeddings of all `sets`, in order. Every text is embedded once, however many sets use it. The tower is not
    /// touched when the cache has everything.
    ///
    /// # Errors
    /// As [`TextEmbedder::embed`], or embeddings of different lengths.
    pub fn sets(&mut self, sets: &[LabelSet]) -> Result<(Vec<SetEmbeddings>, EmbedReport), EmbedError> {
        let texts: BTreeSet<String> = sets.iter().flat_map(texts).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (embeddings, report) = self.texts(&texts)?;
        let known: BTreeMap<&str, Vec<f32>> = texts.into_iter().zip(embeddings).collect();
        let dim = known.values().next().map_or(self.dim.unwrap_or(0), Vec::len);
        sets.iter().map(|set| set_embeddings(set, &known, dim)).collect::<Result<_, _>>().map(|sets| (sets, report))
    }

    /// Embeddings of `texts`, in order.
    ///
    /// # Errors
    /// As [`Self::sets`].
    pub fn texts(&mut self, texts: &[&str]) -> Result<(Vec<Vec<f32>>, EmbedReport), EmbedError> {
        let mut found: Vec<Option<TextEmbedding>> = texts
            .iter()
            .map(|text| self.cache.get(text).filter(|found| self.dim.is_none_or(|dim| dim == found.values.len())))
            .collect();
        let missing: Vec<usize> = (0..texts.len()).filter(|index| found[*index].is_none()).collect();
        let mut report = EmbedReport { cached: texts.len() - missing.len(), ..EmbedReport::default() };
        let total = texts.len();
        (self.progress)(EmbedProgress { ready: report.cached, total });
        if !missing.is_empty() {
            let wanted: Vec<&str> = missing.iter().map(|index| texts[*index]).collect();
            let outcome = self.tower.embed(&wanted, &mut |at, embedding| {
                let Some(&index) = missing.get(at) else { return };
                report.embedded += 1;
                found[index] = Some(embedding);
                (self.progress)(EmbedProgress { ready: report.cached + report.embedded, total });
            });
            // What is ready is worth keeping even if the rest failed.
            let fresh = missing.iter().filter_map(|index| Some((texts[*index], found[*index].as_ref()?)));
            self.cache.put(fresh);
            outcome?;
        }
        // Also of those in the cache: at every start, and not only at the one that filled it.
        for (text, _) in texts.iter().zip(&found).filter(|(_, found)| found.as_ref().is_some_and(|f| f.truncated)) {
            report.truncated += 1;
            warn!(text, "text is longer than the model reads, its end is ignored");
        }
        let embeddings: Vec<Vec<f32>> = found.into_iter().flatten().map(|embedding| embedding.values).collect();
        if embeddings.len() != total {
            return Err(EmbedError::Child(format!("only {} of {total} texts were embedded", embeddings.len())));
        }
        let dim = self.dim.or_else(|| embeddings.first().map(Vec::len)).unwrap_or(0);
        if let Some(other) = embeddings.iter().map(Vec::len).find(|len| *len != dim) {
            return Err(EmbedError::Mismatch(format!(
                "the text tower gives embeddings of {other} values where {dim} are needed; use a vision and a text model of the \
                 same export, both with the projected output"
            )));
        }
        Ok((embeddings, report))
    }
}

/// All texts of a set, templates applied, in no particular order and with repetitions.
fn texts(set: &LabelSet) -> impl Iterator<Item = String> {
    let of_label = |label: &Label| label.prompts.iter().chain(&label.negatives).cloned().collect::<Vec<_>>();
    let prompts: Vec<String> =
        set.labels.iter().flat_map(of_label).chain(set.background_prompts().into_iter().map(str::to_owned)).collect();
    prompts.into_iter().flat_map(|prompt| prompt_template::apply(&set.templates, &prompt).collect::<Vec<_>>())
}

fn set_embeddings(set: &LabelSet, known: &BTreeMap<&str, Vec<f32>>, dim: usize) -> Result<SetEmbeddings, EmbedError> {
    let averaged_together: Vec<&[String]> = match set.ensemble {
        Ensemble::Probabilities if !set.templates.is_empty() => set.templates.chunks(1).collect(),
        _ => vec![&set.templates],
    };
    let blocks = averaged_together.into_iter().map(|templates| block(set, templates, known, dim));
    Ok(SetEmbeddings { name: set.name.clone(), scoring: set.scoring, blocks: blocks.collect::<Result<_, _>>()? })
}

/// The whole set, each prompt averaged over `templates`.
fn block(
    set: &LabelSet,
    templates: &[String],
    known: &BTreeMap<&str, Vec<f32>>,
    dim: usize,
) -> Result<Block, EmbedError> {
    let rows = |prompts: &[String]| {
        let mut values = Vec::with_capacity(prompts.len() * dim);
        for prompt in prompts {
            let texts = prompt_template::apply(templates, prompt);
            values.extend(ensemble(texts.filter_map(|text| known.get(text.as_str())), dim, prompt)?);
        }
        Array2::from_shape_vec((prompts.len(), dim), values).map_err(|e| EmbedError::Mismatch(e.to_string()))
    };
    let labels = set.labels.iter().map(|label| {
        Ok(LabelEmbeddings {
            name: label.name.clone(),
            prompts: rows(&label.prompts)?,
            negatives: rows(&label.negatives)?,
        })
    });
    let labels: Vec<LabelEmbeddings> = labels.collect::<Result<_, EmbedError>>()?;
    let background: Vec<String> = set.background_prompts().into_iter().map(str::to_owned).collect();
    let mut background = rows(&background)?;
    if set.has_nouns {
        leave_out_near(&labels, &mut background.slice_mut(s![set.background.len().., ..]));
    }
    Ok(Block { labels, background })
}

/// A noun is near a prompt where its cosine is above those of all nouns by so many deviations: models put all texts near one another, each
/// differently.
const NEAR: f32 = 2.0;

/// Nouns that mean what a label means are no rivals of it. They keep their places, which rivals are counted by, as rows without a
/// direction, which a scorer leaves out.
fn leave_out_near(labels: &[LabelEmbeddings], nouns: &mut ArrayViewMut2<'_, f32>) {
    let mut near = vec![false; nouns.nrows()];
    for prompt in labels.iter().flat_map(|label| label.prompts.outer_iter()) {
        let cosines = nouns.dot(&prompt);
        let (mean, deviation) = (cosines.mean().unwrap_or_default(), cosines.std(0.0));
        near.iter_mut().zip(&cosines).for_each(|(near, cosine)| *near |= *cosine > mean + NEAR * deviation);
    }
    nouns.outer_iter_mut().zip(near).filter(|(_, near)| *near).for_each(|(mut row, _)| row.fill(0.0));
}

/// The mean of the embeddings of one prompt's templates.
///
/// # Errors
/// When they cancel out.
pub fn ensemble<'a>(
    embeddings: impl Iterator<Item = &'a Vec<f32>>,
    dim: usize,
    prompt: &str,
) -> Result<Vec<f32>, EmbedError> {
    prompt_template::mean(embeddings, dim).ok_or_else(|| {
        EmbedError::Mismatch(format!("the templates' embeddings of {prompt:?} cancel out; use fewer templates"))
    })
}

#[cfg(test)]
mod tests {
    use vtagd_pictures::rows::normalise;

    use super::*;
    use crate::history::noun_bank;
    use crate::score::Scoring;

    /// Embeds a text as (length, 1), normalised, and counts.
    #[derive(Default)]
    struct Fake {
        seen: Vec<String>,
        fail_at: Option<usize>,
    }

    impl TextEmbedder for Fake {
        fn embed(&mut self, texts: &[&str], done: &mut dyn FnMut(usize, TextEmbedding)) -> Result<(), EmbedError> {
            for (index, text) in texts.iter().enumerate() {
                if self.fail_at == Some(index) {
                    return Err(EmbedError::Child("out of memory".into()));
                }
                self.seen.push((*text).to_owned());
                let mut values = vec![text.len() as f32, 1.0];
                normalise(&mut values);
                done(index, TextEmbedding { values, truncated: text.len() > 40 });
            }
            Ok(())
        }
    }

    fn set(templates: &[&str], prompts: &[&str]) -> LabelSet {
        let owned = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        LabelSet {
            name: "s".into(),
            scoring: Scoring::Exclusive,
            templates: owned(templates),
            ensemble: Ensemble::Embeddings,
            background: owned(&["road"]),
            has_nouns: false,
            counter_examples: Vec::new(),
            labels: vec![Label { prompts: owned(prompts), ..Label::plain("l") }],
            hours: None,
            file: "s.yaml".into(),
            sha256: String::new(),
        }
    }

    fn embed(
        dir: &std::path::Path,
        tower: &mut Fake,
        dim: Option<usize>,
        sets: &[LabelSet],
    ) -> Result<(Vec<SetEmbeddings>, EmbedReport), EmbedError> {
        let mut cache = EmbeddingCache::new(dir, "model");
        Embedder { cache: &mut cache, tower, dim, progress: &mut |_| {} }.sets(sets)
    }

    #[test]
    fn a_prompt_is_the_normalised_mean_over_its_templates() {
        let dir = tempfile::tempdir().unwrap();
        let sets = [set(&["{}", "a {}!"], &["car", "van"])];
        let (found, report) = embed(dir.path(), &mut Fake::default(), None, &sets).unwrap();
        assert_eq!(report, EmbedReport { cached: 0, embedded: 6, truncated: 0 });
        let (mut three, mut six) = (vec![3.0_f32, 1.0], vec![6.0_f32, 1.0]);
        normalise(&mut three);
        normalise(&mut six);
        let mut mean: Vec<f32> = three.iter().zip(&six).map(|(a, b)| a + b).collect();
        normalise(&mut mean);
        let [block] = &found[0].blocks[..] else { panic!("one block is expected") };
        let row = block.labels[0].prompts.row(0);
        assert!(row.iter().zip(&mean).all(|(a, b)| (a - b).abs() < 1e-6), "{row} {mean:?}");
        assert_eq!(block.labels[0].negatives.shape(), [0, 2]);
        assert_eq!(block.background.shape(), [1, 2]);
    }

    #[test]
    fn an_ensemble_of_probabilities_keeps_its_templates_apart_and_embeds_the_same_texts() {
        let dir = tempfile::tempdir().unwrap();
        let mut sets = [set(&["{}", "a {}!"], &["car", "van"])];
        let (together, _) = embed(dir.path(), &mut Fake::default(), None, &sets).unwrap();
        sets[0].ensemble = Ensemble::Probabilities;
        let mut tower = Fake::default();
        let (apart, report) = embed(dir.path(), &mut tower, None, &sets).unwrap();
        assert_eq!((tower.seen.len(), report.cached), (0, 6), "the cache serves both");
        assert_eq!((together[0].blocks.len(), apart[0].blocks.len()), (1, 2));
        for (block, length) in apart[0].blocks.iter().zip([3.0_f32, 6.0]) {
            let mut alone = vec![length, 1.0];
            normalise(&mut alone);
            let row = block.labels[0].prompts.row(0);
            assert!(row.iter().zip(&alone).all(|(a, b)| (a - b).abs() < 1e-6), "{row} {alone:?}");
            assert_eq!((block.labels[0].prompts.nrows(), block.background.nrows()), (2, 1));
        }
        for templates in [&["a {}!"][..], &[]] {
            let mut single = set(templates, &["car"]);
            let (mean, _) = embed(dir.path(), &mut Fake::default(), None, std::slice::from_ref(&single)).unwrap();
            single.ensemble = Ensemble::Probabilities;
            let (apart, _) = embed(dir.path(), &mut Fake::default(), None, &[single]).unwrap();
            assert_eq!(apart[0].blocks.len(), 1);
            assert_eq!(apart[0].blocks[0].labels[0].prompts, mean[0].blocks[0].labels[0].prompts);
        }
    }

    #[test]
    fn a_second_start_does_not_touch_the_tower_and_a_text_shared_by_sets_is_embedded_once() {
        let dir = tempfile::tempdir().unwrap();
        let sets = [set(&["{}"], &["car", "van"]), set(&["{}"], &["car"])];
        let mut tower = Fake::default();
        let (first, _) = embed(dir.path(), &mut tower, None, &sets).unwrap();
        assert_eq!(tower.seen, ["car", "road", "van"]);
        let mut tower = Fake::default();
        let (second, report) = embed(dir.path(), &mut tower, Some(2), &sets).unwrap();
        assert_eq!((tower.seen.len(), report.cached), (0, 3));
        assert_eq!(first[0].blocks[0].labels[0].prompts, second[0].blocks[0].labels[0].prompts);
    }

    #[test]
    fn what_was_embedded_before_a_failure_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let sets = [set(&["{}"], &["car", "van"])];
        let error = embed(dir.path(), &mut Fake { fail_at: Some(2), ..Fake::default() }, None, &sets).unwrap_err();
        assert!(error.to_string().contains("out of memory"));
        let mut tower = Fake::default();
        embed(dir.path(), &mut tower, None, &sets).unwrap();
        assert_eq!(tower.seen, ["van"]);
    }

    #[test]
    fn towers_that_do_not_belong_together_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let error = embed(dir.path(), &mut Fake::default(), Some(512), &[set(&["{}"], &["car"])]).unwrap_err();
        assert!(matches!(error, EmbedError::Mismatch(_)), "{error}");
    }

    #[test]
    fn nouns_are_background_but_those_that_mean_what_a_label_means() {
        let nouns = noun_bank::nouns().count();
        let label = |prompts| LabelEmbeddings { name: "l".into(), prompts, negatives: Array2::zeros((0, 2)) };
        let mut bank = Array2::from_shape_fn((20, 2), |(row, at)| if (row == 7) == (at == 0) { 1.0 } else { 0.1 });
        leave_out_near(&[label(ndarray::array![[1.0, 0.0]])], &mut bank.view_mut());
        assert_eq!((bank.row(7).sum(), bank.row(6).sum()), (0.0, 1.1));
        let dir = tempfile::tempdir().unwrap();
        let mut with = set(&["a {}"], &["car"]);
        with.has_nouns = true;
        let (found, report) = embed(dir.path(), &mut Fake::default(), None, std::slice::from_ref(&with)).unwrap();
        assert_eq!(found[0].blocks[0].background.nrows(), 1 + nouns);
        // `car` is one of them.
        assert_eq!(report.embedded, 1 + nouns);
        assert_eq!(with.rivals().len(), 2 + nouns);
    }

    #[test]
    fn long_texts_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let sets = [set(&["{}"], &[&"word ".repeat(20)])];
        for embedded in [2, 0] {
            let (_, report) = embed(dir.path(), &mut Fake::default(), None, &sets).unwrap();
            assert_eq!((report.embedded, report.truncated), (embedded, 1), "also when the cache has it");
        }
    }
}
