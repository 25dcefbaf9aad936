//! `vtagd embed`: pictures and texts in, their embeddings out. Readable lines by default, one JSON object with `--json`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use serde::Serialize;

use super::pictures::{self, BATCH};
use super::{complain, say};
use crate::config::ModelChoice;
use crate::engine::{Engine, EngineError};
use crate::infer::InferSettings;
use crate::label::cache::EmbeddingCache;
use crate::label::child::ChildTower;
use crate::label::embed::{EmbedError, Embedder};
use crate::model::{self, Bundle, ModelError, prepared};
use crate::paths;
use crate::shutdown::{self, Shutdown};

/// Values shown of an embedding on a readable line.
const SHOWN: usize = 6;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model directory [default: the starter model, or VTAGD_MODEL].
    #[arg(short, long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// A picture; may be given several times.
    #[arg(long = "image", value_name = "FILE", num_args = 1.., required_unless_present = "texts")]
    images: Vec<PathBuf>,
    /// A text; may be given several times.
    #[arg(long = "text", value_name = "STR", num_args = 1..)]
    texts: Vec<String>,
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
    text: &'a str,
    embedding: Vec<f32>,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Text(#[from] EmbedError),
    /// Pictures that cannot be read; each was told.
    #[error("{0} of the pictures cannot be used")]
    Pictures(usize),
    #[error("the output cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("stopped")]
    Stopped,
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Model(error) => error.exit_code(),
            Self::Pictures(_) => 2,
            Self::Engine(error) => error.exit_code(),
            Self::Text(error) => error.exit_code(),
            Self::Json(_) | Self::Stopped => 1,
        }
    }
}

/// Embeds and prints; the exit code.
pub fn run(args: &Args) -> u8 {
    let (trigger, shutdown) = shutdown::channel();
    let _signals = crate::signals::listen(trigger, None);
    match embed(args, &shutdown) {
        Ok(()) => 0,
        Err(error) => {
            complain(&error);
            error.exit_code()
        }
    }
}

fn embed(args: &Args, shutdown: &Shutdown) -> Result<(), Failure> {
    let dir = model::resolve_for_cli(args.model.as_deref())?;
    let bundle = prepared::open(&dir, &|| shutdown.is_requested())?;
    let texts = if args.texts.is_empty() { Vec::new() } else { texts(&bundle, &args.texts, shutdown)? };
    let (images, bad) =
        if args.images.is_empty() { (Vec::new(), 0) } else { images(&bundle.dir, &args.images, shutdown)? };
    if args.json {
        let model = ModelName { name: &bundle.name, fingerprint: &bundle.fingerprint };
        say(&serde_json::to_string(&Output { model, images, texts })?);
    } else {
        for Image { file, embedding } in &images {
            say(&readable(&file.replace(char::is_control, "\u{fffd}"), embedding));
        }
        for Text { text, embedding } in &texts {
            say(&readable(&format!("{text:?}"), embedding));
        }
    }
    if bad > 0 { Err(Failure::Pictures(bad)) } else { Ok(()) }
}

fn readable(what: &str, embedding: &[f32]) -> String {
    let values: Vec<String> = embedding.iter().take(SHOWN).map(|v| format!("{v:+.4}")).collect();
    let more = if embedding.len() > SHOWN { " …" } else { "" };
    format!("{what}  dim {}  [{}{more}]", embedding.len(), values.join(" "))
}

fn texts<'a>(bundle: &Bundle, texts: &'a [String], shutdown: &Shutdown) -> Result<Vec<Text<'a>>, Failure> {
    let mut cache = EmbeddingCache::new(&paths::cache_dir(), &bundle.fingerprint);
    let mut tower = ChildTower::new(bundle, None, 0).with_shutdown(shutdown.clone());
    let wanted: Vec<&str> = texts.iter().map(String::as_str).collect();
    let (embeddings, _) =
        Embedder { cache: &mut cache, tower: &mut tower, dim: None, progress: &mut |_| {} }.texts(&wanted)?;
    Ok(wanted.into_iter().zip(embeddings).map(|(text, embedding)| Text { text, embedding }).collect())
}

/// Embeddings of what could be read, and how many files could not; each of those has been told.
fn images<'a>(dir: &Path, files: &'a [PathBuf], shutdown: &Shutdown) -> Result<(Vec<Image<'a>>, usize), Failure> {
    let settings = InferSettings { max_size: files.len().min(BATCH), ..InferSettings::default() };
    let engine = Engine::build(&ModelChoice::Path(dir.to_owned()), &settings, &[], shutdown)?;
    let Some(mut encoder) = engine.encoder else { return Ok((Vec::new(), 0)) };
    let (mut found, mut bad) = (Vec::with_capacity(files.len()), 0);
    let bar = if files.len() > BATCH { ProgressBar::new(files.len() as u64) } else { ProgressBar::hidden() };
    for chunk in files.chunks(BATCH) {
        if shutdown.is_requested() {
            return Err(Failure::Stopped);
        }
        let embedded = pictures::embed(chunk, &engine.spec, encoder.as_mut()).map_err(EngineError::from)?;
        for (file, embedding) in embedded {
            match embedding {
                Ok(embedding) => found.push(Image { file: file.to_string_lossy(), embedding }),
                Err(error) => {
                    complain(&error);
                    bad += 1;
                }
            }
        }
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    Ok((found, bad))
}
