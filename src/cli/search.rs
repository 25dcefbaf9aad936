//! `vtagd search`: a text, a picture or both in, the moments of the history that fit out. The running daemon is asked, which alone has what is kept in
//! memory; where none runs, or another model is meant, its folder is searched here, on the caller's thread, and nothing is changed. Readable by
//! default, one JSON object with `--json`.

use std::io::Read;
use std::path::{Path, PathBuf};

use url::form_urlencoded;

use super::ask::{Daemon, DaemonArgs, Unanswered};
use super::history::{FoundHistory, Place};
use super::model_failure::ModelFailure;
use super::{complain, pictures, plain, say};
use crate::config::ModelSettings;
use crate::daemon::engine::{Engine, EngineError};
use crate::daemon::open_model;
use crate::frame::view::NamedView;
use crate::history::noun_bank;
use crate::history::row_store::StoredRows;
use crate::history::search_answer::{self, HistogramBar, SearchAnswer, SearchQuestion, SearchRange};
use crate::infer::{BatchSize, InferSettings};
use crate::label::cache::EmbeddingCache;
use crate::label::embed_child::ChildTower;
use crate::label::embedder::Embedder;
use crate::model::Bundle;
use crate::platform::paths;
use crate::platform::shutdown::{self, Shutdown};

/// Largest picture that a daemon takes.
const MAX_PICTURE: u64 = 16 << 20;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to look for, such as "a red lorry".
    #[arg(required_unless_present = "picture")]
    text: Option<String>,
    /// A picture that looks like it, instead of a text or with one.
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// At most so many moments.
    #[arg(short = 'n', long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    #[command(flatten)]
    past: PastArgs,
}

/// `vtagd labels try`.
#[derive(Debug, clap::Args)]
pub struct TryArgs {
    /// What a label could be told by, such as "a forklift".
    phrase: String,
    /// At most so many moments.
    #[arg(short = 'n', long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    #[command(flatten)]
    past: PastArgs,
}

/// Which past is looked through, and how it is told.
#[derive(Debug, clap::Args)]
struct PastArgs {
    /// Of this stream alone.
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// Of regions of this name alone.
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Seen since then: a time such as 2026-05-01T12:00:00Z, or how long ago, such as 2h.
    #[arg(long, value_parser = super::events::time)]
    since: Option<jiff::Timestamp>,
    /// Seen before then, said in the same way.
    #[arg(long, value_parser = super::events::time)]
    until: Option<jiff::Timestamp>,
    #[command(flatten)]
    daemon: DaemonArgs,
    /// A folder of a history, which is searched here; no daemon is asked and the configuration is not read then.
    #[arg(long, value_name = "FOLDER", conflicts_with = "url")]
    history: Option<PathBuf>,
    /// Model directory, or hf:ORG/NAME[@REVISION], for rows that another model has made; they are searched here [default: the configuration's].
    #[arg(short, long, value_name = "DIR", conflicts_with = "url")]
    model: Option<PathBuf>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// What is looked for.
struct Wanted<'a> {
    text: Option<&'a str>,
    picture: Option<&'a Path>,
    limit: u16,
    /// For a phrase that may become a label: how all margins are spread, of what the streams' views of today show.
    is_trial: bool,
    past: &'a PastArgs,
}

/// Searches; the exit code.
pub fn run(args: &Args) -> u8 {
    let Args { text, picture, limit, past } = args;
    look(&Wanted { text: text.as_deref(), picture: picture.as_deref(), limit: *limit, is_trial: false, past })
}

/// Tries a phrase on the past; the exit code.
pub fn run_try(args: &TryArgs) -> u8 {
    let TryArgs { phrase, limit, past } = args;
    look(&Wanted { text: Some(phrase), picture: None, limit: *limit, is_trial: true, past })
}

impl Wanted<'_> {
    fn words(&self) -> Option<&str> {
        self.text.map(str::trim)
    }
}

/// Searches and prints; the exit code.
fn look(wanted: &Wanted<'_>) -> u8 {
    // Not as it is parsed: whoever gives a book is not to get it back.
    if let Some(Err(why)) = wanted.words().map(search_answer::prompt) {
        complain(&format!("the text {why}"));
        return 2;
    }
    if wanted.past.history.is_none() && wanted.past.model.is_none() {
        match daemon(&wanted.past.daemon) {
            Ok(Some(daemon)) => return asked(wanted, &daemon).unwrap_or_else(|why| why.complain()),
            Ok(None) => {}
            Err(why) => return why.complain(),
        }
    }
    let (trigger, shutdown) = shutdown::channel();
    let _signals = crate::platform::signals::listen(trigger, None, crate::logs::finish);
    match search(wanted, &shutdown) {
        Ok(()) => 0,
        Err(error) => {
            complain(&error);
            error.exit_code()
        }
    }
}

/// The daemon to ask: the one that is named, or that of the configuration if it runs. Where it does not, its folder is searched.
fn daemon(args: &DaemonArgs) -> Result<Option<Daemon>, Unanswered> {
    match args.daemon() {
        Ok(daemon) if args.has_url() || daemon.listens() => Ok(Some(daemon)),
        Err(why) if args.has_url() => Err(why),
        _ => Ok(None),
    }
}

/// Prints what `daemon` has found; the exit code.
fn asked(wanted: &Wanted<'_>, daemon: &Daemon) -> Result<u8, Unanswered> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    let PastArgs { stream, region, since, until, .. } = wanted.past;
    let limit = wanted.limit.to_string();
    let (since, until) = (since.map(|at| at.to_string()), until.map(|at| at.to_string()));
    let given = [
        ("text", wanted.text),
        ("stream", stream.as_deref()),
        ("region", region.as_deref()),
        ("since", since.as_deref()),
        ("until", until.as_deref()),
        ("limit", Some(&limit)),
        ("histogram", wanted.is_trial.then_some("true")),
        ("current_view", wanted.is_trial.then_some("true")),
    ];
    given.into_iter().filter_map(|(name, value)| Some((name, value?))).for_each(|(name, value)| {
        query.append_pair(name, value);
    });
    let picture = wanted.picture.map(picture).transpose().map_err(Unanswered::Input)?;
    let answer = daemon.search(&format!("?{}", query.finish()), picture)?;
    let mut answer: SearchAnswer = serde_json::from_value(answer)
        .map_err(|error| Unanswered::Failed(format!("{} does not answer as vtagd does ({error})", daemon.address())))?;
    // They are told relative to where they were asked for.
    let addresses = answer.moments.iter_mut().filter_map(|moment| moment.picture.as_mut());
    addresses.filter(|address| address.starts_with('/')).for_each(|address| address.insert_str(0, &daemon.address()));
    Ok(match print(wanted.past.json, &answer).map_err(ModelFailure::from) {
        Ok(()) => 0,
        Err(error) => {
            complain(&error);
            error.exit_code()
        }
    })
}

/// A picture as it is sent, with its media type.
fn picture(file: &Path) -> Result<(&'static str, Vec<u8>), String> {
    let fault = |error: std::io::Error| format!("{}: {error}", file.display());
    let mut bytes = Vec::new();
    std::fs::File::open(file).and_then(|open| open.take(MAX_PICTURE + 1).read_to_end(&mut bytes)).map_err(fault)?;
    if bytes.len() as u64 > MAX_PICTURE {
        return Err(format!("{}: a daemon takes pictures of at most {} MiB", file.display(), MAX_PICTURE >> 20));
    }
    let kind = match &bytes[..] {
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [b'R', b'I', b'F', b'F', ..] => "image/webp",
        _ => "image/jpeg",
    };
    Ok((kind, bytes))
}

fn search(wanted: &Wanted<'_>, shutdown: &Shutdown) -> Result<(), ModelFailure> {
    let past = wanted.past;
    let place = Place::new(past.daemon.config(), past.history.as_deref());
    let found = place.find(past.model.as_deref(), shutdown).map_err(ModelFailure::Input)?;
    let FoundHistory { folder, model, views } = found;
    let unreadable = |error| ModelFailure::History { path: folder.display().to_string(), error };
    let (stored, damage) = StoredRows::open(&folder).map_err(unreadable)?;
    damage.iter().for_each(|damage| tracing::warn!(damage, "a part of the history is damaged; the rest is searched"));
    let Some(bundle) = open_model::open(&model, shutdown)? else { return Err(no_model()) };
    let (embedding, nouns) = embed(wanted, &bundle, &model, shutdown)?;
    let question = SearchQuestion {
        text: wanted.words(),
        embedding: &embedding,
        nouns: &nouns,
        model: (&bundle.name, &bundle.fingerprint, bundle.logit_parameters.scale),
        range: SearchRange {
            stream: past.stream.as_deref(),
            region: past.region.as_deref(),
            since: past.since,
            until: past.until,
            current_view: wanted.is_trial,
            limit: usize::from(wanted.limit),
        },
        views: views.as_ref(),
        histogram: wanted.is_trial,
    };
    let answer = search_answer::answer(&stored, &question, |_, file| file.display().to_string());
    Ok(print(past.json, &answer)?)
}

fn no_model() -> ModelFailure {
    ModelFailure::Input("there is no model to search with; name one with -m".to_owned())
}

fn print(json: bool, answer: &SearchAnswer) -> Result<(), serde_json::Error> {
    if json {
        say(&serde_json::to_string(answer)?);
        return Ok(());
    }
    let searched = &answer.searched;
    searched.unreadable.iter().for_each(|what| tracing::warn!(what, "a part of the history cannot be read"));
    if searched.damaged > 0 {
        tracing::warn!(rows = searched.damaged, "damaged rows of the history were left out");
    }
    if searched.other_models > 0 {
        let rows = searched.other_models;
        tracing::warn!(rows, "rows that another model has made were not searched; name that model with -m");
    }
    if searched.other_views > 0 {
        let rows = searched.other_views;
        tracing::warn!(rows, "rows that were seen through another view than the stream has now were left out");
    }
    if searched.unknown_views > 0 {
        let rows = searched.unknown_views;
        tracing::warn!(rows, "rows from before views were kept with them may have been seen through another view");
    }
    if answer.moments.is_empty() {
        say(&format!("nothing is kept there: {} rows were searched", searched.rows));
        return Ok(());
    }
    answer.histogram.iter().for_each(|bars| draw(bars));
    if answer.stands_out == Some(false) {
        say("nothing stands out; the nearest:");
    }
    for moment in &answer.moments {
        let region = moment.region.as_ref().map(|region| format!("/{region}")).unwrap_or_default();
        let margin = moment.margin.map(|margin| format!("  margin {margin:+.2}")).unwrap_or_default();
        let picture = moment.picture.as_ref().map(|picture| format!("  {picture}")).unwrap_or_default();
        let (from, until) = (moment.from.strftime("%F %T"), moment.until.strftime("%T"));
        let name = format!("{}{region}", moment.stream);
        say(&plain(&format!("{from}–{until}Z  {name:<20}  score {:.3}{margin}{picture}", moment.score)));
    }
    Ok(())
}

/// Longest bar, in characters.
const WIDTH: u64 = 40;

fn draw(bars: &[HistogramBar]) {
    let (rows, most) = (bars.iter().map(|bar| bar.rows).sum::<u64>(), bars.iter().map(|bar| bar.rows).max());
    say(&format!("margin over everyday nouns, of {rows} rows:"));
    for HistogramBar { margin, rows } in bars {
        // One that is there is seen.
        let length = (rows * WIDTH).div_ceil(most.unwrap_or(1).max(1)) as usize;
        say(format!("{margin:>+6.1} {} {rows}", "#".repeat(length)).trim_end());
    }
}

/// The embedding of what is looked for, of length 1, and those of the nouns it is compared with.
fn embed(
    wanted: &Wanted<'_>,
    bundle: &Bundle,
    model: &ModelSettings,
    shutdown: &Shutdown,
) -> Result<(Vec<f32>, Vec<Vec<f32>>), ModelFailure> {
    let mut parts = Vec::new();
    let mut nouns = Vec::new();
    if let Some(text) = wanted.words() {
        let mut cache = EmbeddingCache::new(&paths::cache_dir(), &bundle.embedding_fingerprint);
        let mut tower = ChildTower::new(bundle, None, 0).with_shutdown(shutdown.clone());
        let mut texts = vec![text];
        // A picture has no rivals among words.
        for noun in noun_bank::nouns().filter(|_| wanted.picture.is_none()) {
            texts.push(noun);
        }
        let mut embedder = Embedder { cache: &mut cache, tower: &mut tower, dim: None, progress: &mut |_| {} };
        let (embeddings, _) = embedder.texts(&texts)?;
        let mut embeddings = embeddings.into_iter();
        parts.extend(embeddings.next());
        nouns.extend(embeddings);
    }
    if let Some(file) = wanted.picture {
        let settings = InferSettings { max_size: BatchSize::Pictures(1), ..InferSettings::default() };
        let engine = Engine::build(model, &settings, &[], shutdown)?;
        let Some(mut encoder) = engine.encoders.into_iter().next() else {
            return Err(no_model());
        };
        let files = [file];
        let embedded = pictures::embed(&files, &NamedView::default(), &engine.spec, encoder.as_mut())
            .map_err(EngineError::from)?;
        for embedding in embedded {
            parts.push(embedding.map_err(|error| ModelFailure::Input(error.to_string()))?);
        }
    }
    Ok((search_answer::joined(&parts), nouns))
}
