//! `vtagd search`: a text, a picture or both in, the moments of the history that fit out. Beside a daemon that writes there or not: nothing is
//! changed. Readable by default, one JSON object with `--json`.

use std::path::PathBuf;

use serde::Serialize;

use super::history::Place;
use super::{complain, pictures, plain, say};
use crate::config::ModelSettings;
use crate::daemon::engine::{self, Engine, EngineError};
use crate::frame::view::NamedView;
use crate::history::moment_search::{self, Found, MAX_KEPT, Moment, Wanted};
use crate::history::noun_bank::{self, NounBank};
use crate::history::row_store::StoredRows;
use crate::infer::{BatchSize, InferSettings};
use crate::label::cache::EmbeddingCache;
use crate::label::embed_child::ChildTower;
use crate::label::embedder::{EmbedError, Embedder};
use crate::model::{Bundle, ModelError};
use crate::platform::paths;
use crate::platform::shutdown::{self, Shutdown};

/// Moments whose margins are looked at: those with the best cosines.
const CANDIDATES: usize = 1024;
const _: () = assert!(CANDIDATES <= MAX_KEPT);

/// Threads of a search: more wait for memory.
const MAX_THREADS: usize = 4;

/// No text tower reads more than some hundred words.
const MAX_TEXT: usize = 64 * 1024;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to look for, such as "a red lorry".
    #[arg(required_unless_present = "picture", value_parser = text)]
    text: Option<String>,
    /// A picture that looks like it, instead of a text or with one.
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Of this stream alone.
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// Seen since then: a time such as 2026-05-01T12:00:00Z, or how long ago, such as 2h.
    #[arg(long, value_parser = super::events::time)]
    since: Option<jiff::Timestamp>,
    /// Seen before then, said in the same way.
    #[arg(long, value_parser = super::events::time)]
    until: Option<jiff::Timestamp>,
    /// At most so many moments.
    #[arg(short = 'n', long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    #[command(flatten)]
    place: Place,
    /// Model directory, or hf:ORG/NAME[@REVISION], for rows that another model has made [default: the configuration's].
    #[arg(short, long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

fn text(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("is empty".to_owned()),
        long if long.len() > MAX_TEXT => Err(format!("is longer than {MAX_TEXT} bytes")),
        text => Ok(text.to_owned()),
    }
}

/// What `--json` prints. Stable.
#[derive(Debug, Serialize)]
struct Output<'a> {
    text: Option<&'a str>,
    model: ModelName<'a>,
    /// Null where there is no text: pictures have nothing to compare it with.
    stands_out: Option<bool>,
    moments: Vec<FoundMoment<'a>>,
    searched: Searched<'a>,
}

#[derive(Debug, Serialize)]
struct ModelName<'a> {
    name: &'a str,
    fingerprint: &'a str,
}

#[derive(Debug, Serialize)]
struct FoundMoment<'a> {
    stream: &'a str,
    /// Null: the whole view.
    region: Option<&'a str>,
    from: jiff::Timestamp,
    until: jiff::Timestamp,
    /// Cosine of the best row.
    score: f32,
    margin: Option<f32>,
    /// Where its picture is; none is kept yet.
    picture: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Searched<'a> {
    rows: u64,
    other_models: u64,
    damaged: u64,
    unreadable: &'a [String],
}

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Input(String),
    #[error("the history in {path} cannot be read: {error}")]
    Unreadable { path: String, error: std::io::Error },
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Text(#[from] EmbedError),
    #[error("the output cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Input(_) => 2,
            Self::Model(error) => error.exit_code(),
            Self::Engine(error) => error.exit_code(),
            Self::Text(error) => error.exit_code(),
            Self::Unreadable { .. } | Self::Json(_) => 1,
        }
    }
}

/// Searches and prints; the exit code.
pub fn run(args: &Args) -> u8 {
    let (trigger, shutdown) = shutdown::channel();
    let _signals = crate::platform::signals::listen(trigger, None, crate::logs::finish);
    match search(args, &shutdown) {
        Ok(()) => 0,
        Err(error) => {
            complain(&error);
            error.exit_code()
        }
    }
}

fn search(args: &Args, shutdown: &Shutdown) -> Result<(), Failure> {
    let (folder, model) = args.place.find(args.model.as_deref(), shutdown).map_err(Failure::Input)?;
    let unreadable = |error| Failure::Unreadable { path: folder.display().to_string(), error };
    let (stored, damage) = StoredRows::open(&folder).map_err(unreadable)?;
    damage.iter().for_each(|damage| tracing::warn!(damage, "a part of the history is damaged; the rest is searched"));
    let Some(bundle) = engine::open(&model, shutdown)? else {
        return Err(Failure::Input("there is no model to search with; name one with -m".to_owned()));
    };
    let (query, nouns) = embed(args, &bundle, &model, shutdown)?;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_THREADS);
    let wanted = Wanted {
        embedding: &query,
        model: &bundle.fingerprint,
        stream: args.stream.as_deref(),
        since: args.since.map(jiff::Timestamp::as_millisecond),
        until: args.until.map(jiff::Timestamp::as_millisecond),
        keep: CANDIDATES,
        threads,
    };
    let found = moment_search::search(&stored, &wanted);
    // A picture has no rivals among words.
    let bank = args
        .text
        .as_ref()
        .filter(|_| args.picture.is_none())
        .map(|_| NounBank::new(&query, nouns.iter().map(Vec::as_slice), bundle.logit_parameters.scale));
    let ranked = noun_bank::ranked(&found.moments, bank.as_ref());
    let stands_out = bank.as_ref().map(|bank| ranked.first().is_some_and(|(_, margin)| bank.stands_out(*margin)));
    print(args, &bundle, &found, &ranked, stands_out)
}

fn print(
    args: &Args,
    bundle: &Bundle,
    found: &Found,
    ranked: &[(&Moment, f32)],
    stands_out: Option<bool>,
) -> Result<(), Failure> {
    let ranked = &ranked[..ranked.len().min(usize::from(args.limit))];
    let time = |milliseconds| jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::MIN);
    if args.json {
        let moments = ranked.iter().map(|(moment, margin)| FoundMoment {
            stream: &moment.name.stream,
            region: Some(moment.name.region.as_str()).filter(|region| !region.is_empty()),
            from: time(moment.from),
            until: time(moment.until),
            score: moment.score,
            margin: stands_out.map(|_| *margin),
            picture: None,
        });
        let output = Output {
            text: args.text.as_deref(),
            model: ModelName { name: &bundle.name, fingerprint: &bundle.fingerprint },
            stands_out,
            moments: moments.collect(),
            searched: Searched {
                rows: found.rows,
                other_models: found.other_models,
                damaged: found.damaged,
                unreadable: &found.unreadable,
            },
        };
        say(&serde_json::to_string(&output)?);
        return Ok(());
    }
    found.unreadable.iter().for_each(|what| tracing::warn!(what, "a part of the history cannot be read"));
    if found.damaged > 0 {
        tracing::warn!(rows = found.damaged, "damaged rows of the history were left out");
    }
    if found.other_models > 0 {
        let rows = found.other_models;
        tracing::warn!(rows, "rows that another model has made were not searched; name that model with -m");
    }
    if ranked.is_empty() {
        say(&format!("nothing is kept there: {} rows were searched", found.rows));
        return Ok(());
    }
    if stands_out == Some(false) {
        say("nothing stands out; the nearest:");
    }
    for (moment, margin) in ranked {
        let region = if moment.name.region.is_empty() { String::new() } else { format!("/{}", moment.name.region) };
        let margin = if stands_out.is_some() { format!("  margin {margin:+.2}") } else { String::new() };
        let (from, until) = (time(moment.from).strftime("%F %T"), time(moment.until).strftime("%T"));
        let name = format!("{}{region}", moment.name.stream);
        say(&plain(&format!("{from}–{until}Z  {name:<20}  score {:.3}{margin}", moment.score)));
    }
    Ok(())
}

/// The embedding of what is looked for, of length 1, and those of the nouns it is compared with.
fn embed(
    args: &Args,
    bundle: &Bundle,
    model: &ModelSettings,
    shutdown: &Shutdown,
) -> Result<(Vec<f32>, Vec<Vec<f32>>), Failure> {
    let mut parts = Vec::new();
    let mut nouns = Vec::new();
    if let Some(text) = &args.text {
        let mut cache = EmbeddingCache::new(&paths::cache_dir(), &bundle.embedding_fingerprint);
        let mut tower = ChildTower::new(bundle, None, 0).with_shutdown(shutdown.clone());
        let mut texts = vec![text.as_str()];
        for noun in noun_bank::nouns() {
            texts.push(noun);
        }
        let mut embedder = Embedder { cache: &mut cache, tower: &mut tower, dim: None, progress: &mut |_| {} };
        let (embeddings, _) = embedder.texts(&texts)?;
        let mut embeddings = embeddings.into_iter();
        parts.extend(embeddings.next());
        nouns.extend(embeddings);
    }
    if let Some(file) = &args.picture {
        let settings = InferSettings { max_size: BatchSize::Pictures(1), ..InferSettings::default() };
        let engine = Engine::build(model, &settings, &[], shutdown)?;
        let Some(mut encoder) = engine.encoders.into_iter().next() else {
            return Err(Failure::Input("there is no model to search with; name one with -m".to_owned()));
        };
        let files = [file.clone()];
        let embedded = pictures::embed(&files, &NamedView::default(), &engine.spec, encoder.as_mut())
            .map_err(EngineError::from)?;
        for embedding in embedded {
            parts.push(embedding.map_err(|error| Failure::Input(error.to_string()))?);
        }
    }
    let dim = parts.first().map_or(0, Vec::len);
    let mut sum = vec![0.0; dim];
    for part in &parts {
        sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
    }
    let length = sum.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    sum.iter_mut().for_each(|value| *value /= length);
    Ok((sum, nouns))
}
