//! `vtagd embed`: pictures and texts in, their embeddings and how alike they are out. Readable by default, one JSON object
//! with `--json`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use ndarray::Array2;
use serde::Serialize;

use super::model_failure::ModelFailure;
use super::pictures::{self, BatchArgs};
use super::progress::{self, Meter};
use super::texts::{self, TemplateArgs};
use super::{complain, pull, say};
use crate::config::ModelChoice;
use crate::daemon::engine::{Engine, EngineError};
use crate::frame::view::NamedView;
use crate::infer::{BatchSize, InferSettings};
use crate::label::cache::EmbeddingCache;
use crate::label::embed_child::ChildTower;
use crate::label::embedder::{EmbedError, Embedder, ensemble};
use crate::label::{Ensemble, prompt_template};
use crate::model::{Bundle, prepared};
use crate::platform::paths;
use crate::platform::shutdown::{self, Shutdown};
use crate::platform::userinfo::shown;
use crate::score::similarity::Similarity;

/// Values shown of an embedding on a readable line.
const SHOWN: usize = 6;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model directory, or hf:ORG/NAME[@REVISION], which is pulled once [default: the starter model, or VTAGD_MODEL].
    #[arg(short, long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// A picture; may be given several times.
    #[arg(long = "image", value_name = "FILE", num_args = 1.., required_unless_present_any = ["texts", "text_file"])]
    images: Vec<PathBuf>,
    /// A text; may be given several times.
    #[arg(long = "text", value_name = "STR", num_args = 1..)]
    texts: Vec<String>,
    /// A file of texts, one a line; - is standard input.
    #[arg(long, value_name = "FILE")]
    text_file: Option<PathBuf>,
    #[command(flatten)]
    templates: TemplateArgs,
    /// Compare each picture with each text: cosine, logit and probability, as the model was trained.
    #[arg(long)]
    similarity: bool,
    #[command(flatten)]
    batch: BatchArgs,
    /// One JSON object with all values.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints. Stable.
#[derive(Debug, Serialize)]
struct Output<'a> {
    model: ModelName<'a>,
    images: Vec<Image<'a>>,
    texts: Vec<Text<'a>>,
    /// Only with `--similarity`.
    #[serde(skip_serializing_if = "Option::is_none")]
    similarity: Option<Matrices>,
}

/// A row for each of `images`, a column for each of `texts`.
#[derive(Debug, Serialize)]
struct Matrices {
    cosine: Vec<Vec<f32>>,
    logits: Vec<Vec<f32>>,
    probabilities: Vec<Vec<f32>>,
}

impl From<&Similarity> for Matrices {
    fn from(similarity: &Similarity) -> Self {
        let rows = |matrix: &Array2<f32>| matrix.rows().into_iter().map(|row| row.to_vec()).collect();
        Self {
            cosine: rows(&similarity.cosine),
            logits: rows(&similarity.logits),
            probabilities: rows(&similarity.probabilities),
        }
    }
}

#[derive(Debug, Serialize)]
struct ModelName<'a> {
    name: &'a str,
    fingerprint: &'a str,
}

#[derive(Debug, Serialize)]
struct Image<'a> {
    /// As text: a name that is not UTF-8 has `\u{fffd}` in place of what is not.
    file: Cow<'a, str>,
    embedding: Vec<f32>,
}

#[derive(Debug, Serialize)]
struct Text<'a> {
    /// As given, without a template.
    text: &'a str,
    /// Of several templates: their normalised mean.
    embedding: Vec<f32>,
}

/// Embeds and prints; the exit code.
pub fn run(args: &Args) -> u8 {
    let (trigger, shutdown) = shutdown::channel();
    let _signals = crate::platform::signals::listen(trigger, None, crate::logs::finish);
    match embed(args, &shutdown) {
        Ok(()) => 0,
        Err(error) => {
            complain(&error);
            error.exit_code()
        }
    }
}

fn embed(args: &Args, shutdown: &Shutdown) -> Result<(), ModelFailure> {
    let (wanted, templates) = inputs(args).map_err(ModelFailure::Input)?;
    let dir = pull::model_folder(args.model.as_deref(), shutdown)?;
    let bundle = prepared::open(&dir, &|| shutdown.is_requested())?;
    let (texts, applied) = texts(&bundle, &wanted, &templates, shutdown)?;
    let (images, bad) = if args.images.is_empty() {
        (Vec::new(), 0)
    } else {
        images(&bundle.dir, &args.images, args.batch.size(), shutdown)?
    };
    let similarity = match args.similarity {
        true => {
            let parts = match args.templates.ensemble.unwrap_or_default() {
                Ensemble::Embeddings => vec![matrix(texts.iter().map(|text| &text.embedding))],
                Ensemble::Probabilities => {
                    let each = templates.len().max(1);
                    (0..each).map(|template| matrix(applied.iter().skip(template).step_by(each))).collect()
                }
            };
            Some(compare(&bundle, &images, &parts)?)
        }
        false => None,
    };
    if args.json {
        let model = ModelName { name: &bundle.name, fingerprint: &bundle.fingerprint };
        let similarity = similarity.as_ref().map(Matrices::from);
        say(&serde_json::to_string(&Output { model, images, texts, similarity })?);
    } else {
        for Image { file, embedding } in &images {
            say(&readable(&printable(file), embedding));
        }
        for Text { text, embedding } in &texts {
            say(&readable(&format!("{text:?}"), embedding));
        }
        if let Some(similarity) = similarity {
            table(&similarity, &images, &texts);
        }
    }
    match bad {
        0 => Ok(()),
        // Each was told.
        bad => Err(ModelFailure::Input(format!("{bad} of the pictures cannot be used"))),
    }
}

/// Texts and templates, from the arguments and the files they name.
fn inputs(args: &Args) -> Result<(Vec<String>, Vec<String>), String> {
    let mut wanted = args.texts.clone();
    if let Some(file) = &args.text_file {
        let lines = texts::lines(file)?;
        if lines.is_empty() {
            return Err(format!("{}: has no text; write one a line", file.display()));
        }
        wanted.extend(lines.into_iter().map(|(_, line)| line));
    }
    let templates = args.templates.read()?;
    if wanted.is_empty() && !templates.is_empty() {
        return Err("templates are put around texts, and there is none; add --text".to_owned());
    }
    if args.similarity && (wanted.is_empty() || args.images.is_empty()) {
        return Err("--similarity compares pictures with texts; give at least one --image and one --text".to_owned());
    }
    if args.templates.ensemble == Some(Ensemble::Probabilities) && !args.similarity {
        return Err("--ensemble probabilities is about the probabilities of --similarity; add it".to_owned());
    }
    Ok((wanted, templates))
}

fn readable(what: &str, embedding: &[f32]) -> String {
    let values: Vec<String> = embedding.iter().take(SHOWN).map(|v| format!("{v:+.4}")).collect();
    let more = if embedding.len() > SHOWN { " …" } else { "" };
    format!("{what}  dim {}  [{}{more}]", embedding.len(), values.join(" "))
}

/// A stranger's file name must not move the cursor of a terminal.
fn printable(name: &str) -> String {
    name.replace(char::is_control, "\u{fffd}")
}

/// For each picture, the texts from the most to the least alike.
fn table(similarity: &Similarity, images: &[Image<'_>], texts: &[Text<'_>]) {
    let Similarity { cosine, logits, probabilities } = similarity;
    for (row, image) in images.iter().enumerate() {
        say(&format!("\n{}\n   cosine      logit  probability", printable(&image.file)));
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by(|a, b| probabilities[[row, *b]].total_cmp(&probabilities[[row, *a]]));
        for column in order {
            say(&format!(
                "  {:+.4}  {:>+9.3}      {:>5.1} %  {:?}",
                cosine[[row, column]],
                logits[[row, column]],
                probabilities[[row, column]] * 100.0,
                texts[column].text
            ));
        }
    }
}

/// The texts with one embedding each, and the embeddings of every text in every template, text by text.
fn texts<'a>(
    bundle: &Bundle,
    texts: &'a [String],
    templates: &[String],
    shutdown: &Shutdown,
) -> Result<(Vec<Text<'a>>, Vec<Vec<f32>>), ModelFailure> {
    if texts.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let mut cache = EmbeddingCache::new(&paths::cache_dir(), &bundle.embedding_fingerprint);
    let mut tower = ChildTower::new(bundle, None, 0).with_shutdown(shutdown.clone());
    let applied: Vec<String> = texts.iter().flat_map(|text| prompt_template::apply(templates, text)).collect();
    let wanted: Vec<&str> = applied.iter().map(String::as_str).collect();
    let (embeddings, _) =
        Embedder { cache: &mut cache, tower: &mut tower, dim: None, progress: &mut |_| {} }.texts(&wanted)?;
    let one = |(text, applied): (&'a String, &[Vec<f32>])| {
        let embedding = match applied {
            // As the tower gives it: not normalised again.
            [only] => only.clone(),
            several => ensemble(several.iter(), several.first().map_or(0, Vec::len), text)?,
        };
        Ok(Text { text, embedding })
    };
    let texts =
        texts.iter().zip(embeddings.chunks(templates.len().max(1))).map(one).collect::<Result<_, EmbedError>>()?;
    Ok((texts, embeddings))
}

/// Rows of one length as a matrix; rows of another length were refused before.
fn matrix<'a>(rows: impl Iterator<Item = &'a Vec<f32>> + Clone) -> Array2<f32> {
    let shape = (rows.clone().count(), rows.clone().next().map_or(0, Vec::len));
    Array2::from_shape_vec(shape, rows.flatten().copied().collect()).unwrap_or_default()
}

fn compare(bundle: &Bundle, images: &[Image<'_>], texts: &[Array2<f32>]) -> Result<Similarity, ModelFailure> {
    let text = texts.first().map_or(0, Array2::ncols);
    let image = images.first().map_or(text, |image| image.embedding.len());
    let pictures = match images {
        [] => Array2::zeros((0, text)),
        images => matrix(images.iter().map(|image| &image.embedding)),
    };
    let towers = EngineError::Towers { model: bundle.name.clone(), image, text };
    Similarity::new(&pictures, texts, bundle.logit_parameters).map_err(|_| towers.into())
}

/// Embeddings of what could be read, and how many files could not; each of those has been told.
fn images<'a>(
    dir: &Path,
    files: &'a [PathBuf],
    batch: usize,
    shutdown: &Shutdown,
) -> Result<(Vec<Image<'a>>, usize), ModelFailure> {
    let settings = InferSettings { max_size: BatchSize::Pictures(files.len().min(batch)), ..InferSettings::default() };
    let engine = Engine::build(&ModelChoice::Path(dir.to_owned()).into(), &settings, &[], shutdown)?;
    let Some(mut encoder) = engine.encoders.into_iter().next() else { return Ok((Vec::new(), 0)) };
    let (mut found, mut bad) = (Vec::with_capacity(files.len()), 0);
    let (mut meter, mut done) = (Meter::new(), 0);
    for chunk in files.chunks(batch) {
        if shutdown.is_requested() {
            return Err(ModelFailure::Stopped);
        }
        let embedded =
            pictures::embed(chunk, &NamedView::default(), &engine.spec, encoder.as_mut()).map_err(EngineError::from)?;
        for (file, embedding) in chunk.iter().zip(embedded) {
            match embedding {
                Ok(embedding) => found.push(Image { file: shown(file).into(), embedding }),
                Err(error) => {
                    complain(&error);
                    bad += 1;
                }
            }
        }
        done += chunk.len();
        if meter.show(progress::FILES, "", done as u64, files.len() as u64) {
            tracing::info!(done, total = files.len(), "embedding pictures");
        }
    }
    Ok((found, bad))
}
