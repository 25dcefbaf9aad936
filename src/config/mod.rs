//! Configuration: one YAML file and its label sets in, checked [`Settings`] out, or every problem at once.
//!
//! [`load`] is what `run` and `check` both call, so they agree. It runs on the caller's thread before anything is started
//! (invariant 5: a wrong configuration never half-starts), reads files and the environment for secrets, and opens nothing else:
//! a camera or broker that is down is no problem of the configuration.
//!
//! The order: [`yaml`](crate::yaml) makes a tree with positions, `schema.rs` types it, the other files check it piece by piece;
//! a bad stream hides no bad sink. Stages own their settings types; this module knows them, never the reverse.

use std::path::{Path, PathBuf};

use crate::event::Thresholds;
use crate::infer::InferSettings;
use crate::label::LabelSet;
use crate::outbox::OutboxSettings;
use crate::outbox::route::Route;

use crate::frame::thumbprint::Unchanged;
use crate::frame::view::View;
use crate::platform::state_folder::StateFolder;
use crate::sample::Interval;
use crate::source::{Decode, Decoder, Reconnect, SourceSettings};
use crate::yaml::Document;
use crate::yaml::problem::{Problem, Severity};

mod after_checks;
mod api_endpoint;
pub mod effects;
mod overrides;
mod providers;
mod schema;
mod sets;
mod sets_in_force;
mod show;
mod streams;
mod validate;

pub use api_endpoint::Reach;
pub use overrides::Origins;
pub use providers::from_pairs as provider_from_pairs;
pub use sets::thresholds;
pub use sets_in_force::{CopyInForce, InForce, SetInForce, SetOnDisk};
pub use show::effective;

pub use crate::api::{ApiSettings, TlsSettings};
pub use crate::logs::LogFormat;
pub use crate::sink::{JsonlTarget, SinkSettings};
pub use crate::snapshot::SnapshotSettings;

/// Where the API listens if nothing is said.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8642";

/// A whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file it came from.
    pub file: PathBuf,
    /// Names this daemon in the `source` of its events.
    pub instance: String,
    pub model: ModelChoice,
    pub infer: InferSettings,
    /// At least one, unless there is an API that another configuration can be asked of.
    pub streams: Vec<StreamSettings>,
    /// At least one, unless `model` is [`ModelChoice::None`].
    pub label_sets: Vec<LabelSet>,
    /// Where each of `label_sets` comes from, in the same order.
    pub in_force: Vec<SetInForce>,
    /// Where what the daemon writes lies.
    pub state: StateFolder,
    /// For labels that do not say otherwise; see [`thresholds`].
    pub events: Thresholds,
    pub sinks: Vec<SinkSettings>,
    /// What the outbox knows of each of `sinks`, in the same order.
    pub routes: Vec<Route>,
    pub outbox: OutboxSettings,
    /// `None`: no pictures are kept.
    pub snapshots: Option<SnapshotSettings>,
    /// `None`: no HTTP at all (`listen: off`).
    pub api: Option<ApiSettings>,
    pub log: LogSettings,
    /// What streams take that do not say it themselves; shown, and otherwise part of `streams` already.
    pub defaults: StreamDefaults,
    /// Keys that come from the environment, and from which variables.
    pub origins: Origins,
    /// Warnings and notices: nothing that stops.
    pub notices: Vec<Problem>,
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
}

/// A stream: where its frames come from and what is done with them.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamSettings {
    pub source: SourceSettings,
    pub view: View,
    pub interval: Interval,
    /// `None`: every sample is inferred.
    pub unchanged: Option<Unchanged>,
    /// Indices into [`Settings::label_sets`], each once.
    pub label_sets: Vec<usize>,
    /// `false`: it is checked and listed, and not connected to.
    pub enabled: bool,
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
    load_beside(path, None)
}

/// As [`load`], for a daemon that runs: copies of label sets are those of `state`, which is its own until a restart.
///
/// # Errors
/// As [`load`].
pub fn load_again(path: &Path, state: &StateFolder) -> Result<Settings, Vec<Problem>> {
    load_beside(path, Some(state))
}

fn load_beside(path: &Path, state: Option<&StateFolder>) -> Result<Settings, Vec<Problem>> {
    let mut document = Document::read(path).map_err(|problem| vec![*problem])?;
    let (origins, refused) = overrides::apply(&mut document, std::env::vars_os(), &keys());
    let (settings, mut problems) = validate::settings(&document, state);
    problems.extend(refused);
    // In the order of each file, the configuration first; the sort is stable, so label sets stay in theirs.
    problems.sort_by_key(|problem| (problem.file != path, if problem.file == path { problem.position } else { None }));
    match settings {
        Some(settings) if !problems.iter().any(|problem| problem.severity == Severity::Error) => {
            Ok(Settings { origins, notices: problems, ..settings })
        }
        _ => Err(problems),
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

/// The configuration in `path` with what the environment says instead.
fn overridden(path: &Path) -> Result<Document, String> {
    let mut document = Document::read(path).map_err(|problem| problem.to_string())?;
    let (_, refused) = overrides::apply(&mut document, std::env::vars_os(), &keys());
    refused.first().map_or(Ok(document), |problem| Err(problem.to_string()))
}

/// No file has this folder: whatever a document names beside itself is not there.
pub(crate) const NOWHERE: &str = "/nonexistent/vtagd-fuzz/vtagd.yaml";

/// Reads `data` as a configuration. What the fuzzers run: any bytes in, nothing out, no panic.
pub fn fuzz(data: &[u8]) {
    let Ok(document) = Document::parse(Path::new(NOWHERE), data) else { return };
    let nowhere = StateFolder::configured(PathBuf::from(NOWHERE));
    let (settings, problems) = validate::settings(&document, Some(&nowhere));
    let _ = (validate::outbox_alone(&document), api_endpoint::of(&document));
    if let Some(settings) = settings.filter(|_| !problems.iter().any(|problem| problem.severity == Severity::Error)) {
        let shown = effective(&settings);
        assert!(shown["streams"].is_array(), "a configuration without streams was taken");
    }
}

/// The path of every key of the schema, `[]` for any item of a list: what the documentation has to explain.
pub fn keys() -> Vec<String> {
    use crate::yaml::field_reader::FromNode;
    let mut keys = Vec::new();
    schema::Root::keys("", &mut keys);
    keys
}

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
