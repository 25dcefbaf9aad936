//! Configuration: one YAML file and its label sets in, checked [`Settings`] out, or every problem at once.
//!
//! [`load`] is what `run` and `check` both call, so they agree. It runs on the caller's thread before anything is started
//! (invariant 5: a wrong configuration never half-starts), reads files and the environment for secrets (which [`load_for`] others than the
//! daemon may be without), and opens nothing else:
//! a camera or broker that is down is no problem of the configuration.
//!
//! The order: [`yaml`](crate::yaml) makes a tree with positions, `overrides.rs` and `include.rs` put into it what does not stand in the file, `schema.rs` types it, the other files check it piece by piece;
//! a bad stream hides no bad sink. Stages own their settings types; this module knows them, never the reverse.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::event::Thresholds;
use crate::infer::InferSettings;
use crate::label::LabelSet;
use crate::label::calibration_file::FoundCalibration;
use crate::model::LogitOverride;
use crate::model::hub::Reference;
use crate::outbox::OutboxSettings;
use crate::outbox::route::Route;

use crate::frame::thumbprint::Unchanged;
use crate::frame::view::Views;
use crate::platform::state_folder::StateFolder;
use crate::platform::userinfo;
use crate::sample::Interval;
use crate::source::{Decode, Decoder, Reconnect, SourceSettings};
use crate::yaml::problem::{Problem, Severity};
use crate::yaml::{Document, bounded};

pub mod added_streams;
mod after_checks;
mod api_endpoint;
pub mod calibrations;
pub mod effects;
mod include;
mod key_rows;
mod model_choice;
mod overrides;
mod providers;
mod remote_provider;
mod schema;
mod schema_runtime;
mod schema_sources;
mod sets;
mod sets_in_force;
mod show;
mod stores;
mod stream_address;
mod streams;
mod suspicious_text;
mod trusted_proxies;
mod validate;
mod views;

pub use api_endpoint::Reach;
pub use overrides::Origins;
pub use providers::from_pairs as provider_from_pairs;
pub use sets::thresholds;
pub use sets_in_force::{CopyInForce, InForce, SetInForce, SetOnDisk};
pub use show::effective;
pub use views::in_force as views_in_force;

pub use crate::api::{ApiSettings, TlsSettings};
pub use crate::history::HistorySettings;
pub use crate::logs::LogFormat;
pub use crate::sink::{JsonlTarget, SinkSettings};
pub use crate::snapshot::SnapshotSettings;
pub use crate::yaml::secrets::Absence;

/// Where the API listens if nothing is said.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8642";

/// What a configuration is called that was read from standard input.
const STDIN: &str = "standard input";

/// A whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file it came from.
    pub file: PathBuf,
    /// The files that `include` has added, in that order.
    pub included: Vec<PathBuf>,
    /// Names this daemon in the `source` of its events.
    pub instance: String,
    pub model: ModelSettings,
    pub infer: InferSettings,
    /// At least one, unless there is an API that another configuration can be asked of.
    pub streams: Vec<StreamSettings>,
    /// At least one, unless `model` is [`ModelChoice::None`].
    pub label_sets: Vec<LabelSet>,
    /// Where each of `label_sets` comes from, in the same order.
    pub in_force: Vec<SetInForce>,
    /// What there is of calibrations of each, in the same order.
    pub calibrations: Vec<FoundCalibration>,
    /// Where what the daemon writes lies.
    pub state: StateFolder,
    /// For labels that do not say otherwise; see [`thresholds`].
    pub events: Thresholds,
    /// Whether `events` leaves out `after` or `cooldown`.
    pub times_by_default: bool,
    pub sinks: Vec<SinkSettings>,
    /// What the outbox knows of each of `sinks`, in the same order.
    pub routes: Vec<Route>,
    pub outbox: OutboxSettings,
    /// `None`: no pictures are kept.
    pub snapshots: Option<SnapshotSettings>,
    /// `None`: nothing is kept to be searched.
    pub history: Option<HistorySettings>,
    /// `None`: no HTTP at all (`listen: off`).
    pub api: Option<ApiSettings>,
    /// `metrics.scores`.
    pub scores_in_metrics: bool,
    pub log: LogSettings,
    /// What streams take that do not say it themselves; shown, and otherwise part of `streams` already.
    pub defaults: StreamDefaults,
    /// Keys that come from the environment, and from which variables.
    pub origins: Origins,
    /// Warnings and notices: nothing that stops.
    pub notices: Vec<Problem>,
}

/// `model`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSettings {
    pub choice: ModelChoice,
    pub logits: LogitOverride,
}

impl From<ModelChoice> for ModelSettings {
    fn from(choice: ModelChoice) -> Self {
        Self { choice, logits: LogitOverride::default() }
    }
}

/// Which model to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelChoice {
    /// The starter model that set-up makes.
    Starter,
    /// Decode and preprocess only.
    None,
    /// A model directory.
    Path(PathBuf),
    /// A model of a hub, pulled once.
    Hub(Reference),
}

/// A stream: where its frames come from and what is done with them.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamSettings {
    pub source: SourceSettings,
    pub views: Views,
    pub interval: Interval,
    /// `None`: every sample is inferred.
    pub unchanged: Option<Unchanged>,
    /// Indices into [`Settings::label_sets`], each once.
    pub label_sets: Vec<usize>,
    /// `false`: it is checked and listed, and not connected to.
    pub enabled: bool,
    /// Whether the history keeps what it shows.
    pub history: bool,
}

/// `sampling` and `reconnect`.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamDefaults {
    pub interval: Interval,
    pub unchanged: Option<Unchanged>,
    pub decode: Decode,
    pub decoder: Decoder,
    /// `None`: what comes from a file may be larger than what comes from elsewhere.
    pub max_pixels: Option<u64>,
    pub reconnect: Reconnect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    pub level: tracing::Level,
    pub format: LogFormat,
}

/// Reads and checks the configuration in `path`, with what the environment says instead, and every label set it names.
///
/// # Errors
/// All problems of all files, warnings and notices among them, if at least one is an error.
pub fn load(path: &Path) -> Result<Settings, Vec<Problem>> {
    load_for(path, Absence::Refused)
}

/// As [`load`], for somebody who need not have every credential.
///
/// # Errors
/// As [`load`].
pub fn load_for(path: &Path, absence: Absence) -> Result<Settings, Vec<Problem>> {
    load_with_document(path, absence).map(|(settings, _)| settings)
}

/// As [`load_for`], with what was read, to point at its lines later.
///
/// # Errors
/// As [`load`].
pub fn load_with_document(path: &Path, absence: Absence) -> Result<(Settings, Document), Vec<Problem>> {
    load_beside(path, absence, None)
}

/// As [`load`], for a daemon that runs: copies of label sets are those of `state`, which is its own until a restart.
///
/// # Errors
/// As [`load`].
pub fn load_again(path: &Path, state: &StateFolder) -> Result<Settings, Vec<Problem>> {
    load_beside(path, Absence::Refused, Some(state)).map(|(settings, _)| settings)
}

/// Checks `text` as a configuration that lies in no file; `name` stands for one. Nothing of the environment counts.
///
/// # Errors
/// As [`load`].
pub fn of_text(name: &str, text: &str) -> Result<Settings, Vec<Problem>> {
    let document = Document::parse(Path::new(name), text.as_bytes()).map_err(|problem| vec![*problem])?;
    let (settings, problems) = validate::settings(&document, Absence::Told, false, None);
    match settings {
        Some(settings) if !problems.iter().any(|problem| problem.severity == Severity::Error) => {
            Ok(Settings { notices: problems, ..settings })
        }
        _ => Err(problems),
    }
}

fn load_beside(
    path: &Path,
    absence: Absence,
    state: Option<&StateFolder>,
) -> Result<(Settings, Document), Vec<Problem>> {
    let Whole { mut document, origins, refused, found } = whole(path).map_err(|problem| vec![*problem])?;
    let kept = state.cloned().unwrap_or_else(|| added_streams::state_of(&document));
    let added = added_streams::append(&mut document, &kept);
    let (settings, mut problems) = validate::settings(&document, absence, found.incomplete, state);
    problems.extend(found.problems.into_iter().chain(refused).chain(added));
    added_streams::soften(&mut problems, &kept);
    // In the order of each file, the configuration first; the sort is stable, so label sets stay in theirs.
    problems.sort_by_key(|problem| {
        match problem.file == *document.file() || document.appended().any(|file| *file == *problem.file) {
            true => (false, document.order(problem)),
            false => (true, (0, None)),
        }
    });
    match settings {
        Some(settings) if !problems.iter().any(|problem| problem.severity == Severity::Error) => {
            Ok((Settings { origins, notices: problems, ..settings }, document))
        }
        _ => Err(problems),
    }
}

/// A configuration with what the environment says instead and what it includes.
struct Whole {
    document: Document,
    origins: Origins,
    /// What is wrong with the environment.
    refused: Vec<Problem>,
    found: include::Outcome,
}

fn whole(path: &Path) -> Result<Whole, Box<Problem>> {
    let mut document = read(path)?;
    let (origins, refused) = overrides::apply(&mut document, std::env::vars_os(), &keys());
    let found = include::expand(&mut document);
    Ok(Whole { document, origins, refused, found })
}

/// What the configuration in `path` is called in messages.
pub fn called(path: &Path) -> String {
    if path == Path::new("-") { STDIN.to_owned() } else { userinfo::shown(path) }
}

/// The document in `path`; `-` is standard input, which can be read once: a reload finds what was there.
fn read(path: &Path) -> Result<Document, Box<Problem>> {
    static READ: OnceLock<Result<Vec<u8>, String>> = OnceLock::new();
    if path != Path::new("-") && path != Path::new(STDIN) {
        return Document::read(path);
    }
    match READ.get_or_init(|| bounded(std::io::stdin().lock()).map_err(|error| error.to_string())) {
        Ok(bytes) => Document::parse(Path::new(STDIN), bytes),
        Err(error) => Err(Box::new(Problem {
            severity: Severity::Error,
            file: STDIN.into(),
            position: None,
            field: String::new(),
            message: format!("cannot be read ({error})"),
            remedy: "write the configuration into it".to_owned(),
            snippet: String::new(),
        })),
    }
}

/// Where the configuration in `path` has its outbox (`None`: in memory). Problems of anything else do not matter: whoever looks at
/// events need not have the daemon's secrets.
///
/// # Errors
/// Why it cannot be told.
pub fn outbox_of(path: &Path) -> Result<Option<PathBuf>, String> {
    let document = overridden(path)?;
    validate::outbox_alone(&document).ok_or_else(|| format!("the `outbox` of {} cannot be read", path.display()))
}

/// Where the daemon of the configuration in `path` keeps its state, and every label set as it is in force there. Problems of anything
/// else do not matter.
///
/// # Errors
/// Why it cannot be told.
pub fn sets_of(path: &Path) -> Result<(StateFolder, Vec<SetOnDisk>), String> {
    let document = overridden(path)?;
    sets_in_force::alone(&document).ok_or_else(|| format!("`state` or `labels` of {} cannot be read", path.display()))
}

/// How to reach the daemon that the configuration in `path` is for. Problems of anything else do not matter.
///
/// # Errors
/// Why it cannot be told.
pub fn reach_of(path: &Path) -> Result<Reach, String> {
    api_endpoint::of(&overridden(path)?)
}

/// As [`whole`], where what is wrong with the environment is an error and other files do not matter.
fn overridden(path: &Path) -> Result<Document, String> {
    let Whole { document, refused, .. } = whole(path).map_err(|problem| problem.to_string())?;
    refused.first().map_or(Ok(document), |problem| Err(problem.to_string()))
}

/// No file has this folder: whatever a document names beside itself is not there.
pub(crate) const NOWHERE: &str = "/nonexistent/vtagd-fuzz/vtagd.yaml";

/// Reads `data` as a configuration. What the fuzzers run: any bytes in, nothing out, no panic.
pub fn fuzz(data: &[u8]) {
    let Ok(document) = Document::parse(Path::new(NOWHERE), data) else { return };
    let nowhere = StateFolder::configured(PathBuf::from(NOWHERE));
    let (settings, problems) = validate::settings(&document, Absence::Refused, false, Some(&nowhere));
    let _ = (validate::outbox_alone(&document), api_endpoint::of(&document));
    if let Some(settings) = settings.filter(|_| !problems.iter().any(|problem| problem.severity == Severity::Error)) {
        let shown = effective(&settings);
        assert!(shown["streams"].is_array(), "a configuration without streams was taken");
    }
}

/// The path of every key of the schema, `[]` for any item of a list: what the documentation has to explain.
pub fn keys() -> Vec<String> {
    key_rows::rows().into_iter().map(|row| row.path).collect()
}

pub use key_rows::tables as key_tables;

/// The JSON Schema of the configuration file, for editors: config/vtagd.schema.json.
pub fn json_schema() -> serde_json::Value {
    use crate::yaml::field_reader::FromNode;
    let mut schema = schema::Root::schema();
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "vtagd configuration".into();
    // A place for YAML anchors.
    schema["patternProperties"] = serde_json::json!({ "^x-": true });
    schema
}
