//! `vtagd check`: the validation of `run`, and nothing else. Listens on no port, and opens no camera but with `--probe`.
//!
//! The configuration first, then whether its address, files and folders can be had ([`start_trial`]), then the model: it is opened, its
//! labels are embedded (or found in the cache) and the image tower is loaded and run once, by the same code as in `run`. What passes here
//! starts there. With `--probe`, each stream is
//! connected to afterwards ([`trial`]); one that cannot be reached makes the exit code 1, as it is no fault of the configuration.
//!
//! A credential that is not here is a warning in a shell, and an error where systemd runs this before the daemon.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::plural;
use super::start_trial;
use super::trial::{self, Finding};
use crate::config::{self, Absence, ModelChoice, Settings, calibrations};
use crate::daemon::engine::{self, Engine, EngineError};
use crate::daemon::example_embeddings::ExampleViews;
use crate::event::active_hours::ActiveHours;
use crate::label::{Label, LabelSet};
use crate::platform::service_user::{self, TriedAs};
use crate::platform::systemd::{self, LongStep};
use crate::platform::userinfo::shown;
use crate::platform::{shutdown, signals};
use crate::yaml::problem::{Problem, Severity};
use crate::yaml::units;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file.
    #[arg(short, long, default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// The configuration that this one is to replace: what its daemon holds is free for this one, and files are tried as its user.
    #[arg(long, value_name = "FILE")]
    instead_of: Option<PathBuf>,
    /// Connect to each stream, and tell what it sends and how it would be decoded.
    #[arg(long)]
    pub(super) probe: bool,
    /// How long each stream is waited for, up to 10m; longer than the camera's keyframe interval.
    #[arg(long, value_name = "TIME", default_value = "15s", requires = "probe", value_parser = parse_time)]
    probe_timeout: Duration,
    /// What --probe finds as JSON, a list.
    #[arg(long, requires = "probe")]
    json: bool,
}

pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    let fits = |time: &Duration| !time.is_zero() && *time <= Duration::from_mins(10);
    units::duration(text).filter(fits).ok_or_else(|| "write a duration such as 15s or 1m, up to 10m".to_owned())
}

/// Does it, and the trial that `args` may ask for; the exit code.
///
/// # Errors
/// `out` or `err` cannot be written.
pub fn command(args: &Args, out: &mut dyn Write, err: &mut dyn Write) -> std::io::Result<u8> {
    let instead_of = args.instead_of.as_deref();
    let settings = match checked(&args.config, instead_of, err, model)? {
        Ok(settings) => settings,
        Err(code) => return Ok(code),
    };
    if !args.probe {
        writeln!(out, "{}", summary(&settings))?;
        return Ok(0);
    }
    // Standard output is for one kind of reader at a time.
    let summary_to: &mut dyn Write = if args.json { err } else { &mut *out };
    writeln!(summary_to, "{}", summary(&settings))?;
    let (trigger, shutdown) = shutdown::channel();
    let _signals = signals::listen(trigger, None, crate::logs::finish);
    let findings = trial::streams(&settings, args.probe_timeout, &shutdown);
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?;
    } else {
        writeln!(out, "{}", trial::table(&findings))?;
    }
    out.flush()?;
    let unreachable = |finding: &Finding| finding.enabled && !finding.reachable;
    Ok(u8::from(findings.iter().any(unreachable)))
}

/// Checks `file` and then, with `model`, what it names; problems, warnings and notices go to `err`, one line on success to
/// `out`. Returns the exit code: 0, or 2 if the configuration cannot be used.
///
/// # Errors
/// `out` or `err` cannot be written.
pub fn run(
    file: &Path,
    out: &mut dyn Write,
    err: &mut dyn Write,
    model: impl FnOnce(&Settings) -> Result<ModelFindings, EngineError>,
) -> std::io::Result<u8> {
    match checked(file, None, err, model)? {
        Ok(settings) => {
            writeln!(out, "{}", summary(&settings))?;
            Ok(0)
        }
        Err(code) => Ok(code),
    }
}

/// The settings, or the exit code.
fn checked(
    file: &Path,
    instead_of: Option<&Path>,
    err: &mut dyn Write,
    model: impl FnOnce(&Settings) -> Result<ModelFindings, EngineError>,
) -> std::io::Result<Result<Settings, u8>> {
    let settings = match tried(file, instead_of, err)? {
        Ok(settings) => settings,
        Err(problems) => {
            report(&problems, err)?;
            writeln!(err, "{}: {}, nothing was started", config::called(file), tally(&problems))?;
            return Ok(Err(2));
        }
    };
    report(&settings.notices, err)?;
    let findings = match model(&settings) {
        Ok(findings) => findings,
        Err(error) => {
            writeln!(err, "{}: error: model: {error}", config::called(file))?;
            return Ok(Err(error.exit_code()));
        }
    };
    for (set, doubts) in settings.label_sets.iter().zip(&findings.doubts) {
        tell_doubts(&set.file, doubts, err)?;
    }
    for (at, told) in &findings.not_learned {
        if let Some(set) = settings.label_sets.get(*at) {
            writeln!(err, "{}: warning: {told}", shown(&set.file))?;
        }
    }
    let relies = |set: &LabelSet| {
        let own = |label: &Label| label.thresholds.after.is_some() && label.thresholds.cooldown.is_some();
        settings.times_by_default && !set.labels.iter().all(own)
    };
    if let Some(set) = settings.label_sets.iter().find(|set| relies(set)) {
        let what = "leaves out `after` or `cooldown`, as `events` does: they are 1s and 10s, where earlier versions had 2s and 30s";
        writeln!(err, "{}: note: {what}; write them down to keep what you had", shown(&set.file))?;
    }
    for set in &settings.label_sets {
        tell_hours(set, Timestamp::now(), err)?;
    }
    for waiting in calibrations::calibrated(&settings, &findings.fingerprint) {
        if let Some(set) = settings.label_sets.get(waiting.at).filter(|_| !waiting.labels.is_empty()) {
            writeln!(err, "{}: warning: {waiting}; {}", shown(&set.file), waiting.remedy)?;
        }
    }
    Ok(Ok(settings))
}

/// Reads `file` and tries what `run` would open: as the service's user, where it is the service's file and this is root's shell.
fn tried(
    file: &Path,
    instead_of: Option<&Path>,
    err: &mut dyn Write,
) -> std::io::Result<Result<Settings, Vec<Problem>>> {
    // In the unit, what is missing will be missing in a moment too; in a shell it says nothing about the daemon.
    let absence = if systemd::is_in_unit() { Absence::Refused } else { Absence::Told };
    let in_force = instead_of.unwrap_or(file);
    let (done, tried) = service_user::done_for(in_force, || {
        let (mut settings, document) = config::load_with_document(file, absence)?;
        settings.notices.extend(start_trial::problems(&settings, in_force, &document));
        let is_error = |problem: &Problem| problem.severity == Severity::Error;
        if settings.notices.iter().any(is_error) { Err(settings.notices) } else { Ok(settings) }
    });
    let (file, unit) = (shown(file), service_user::UNIT);
    match tried {
        TriedAs::Service(name) => {
            let beyond =
                "what ProtectHome=, ProtectSystem= or ReadWritePaths= keep from it only the unit's own check can tell";
            writeln!(err, "{file}: files were tried as {name}, the user of {unit}; {beyond}, in its journal")?;
        }
        TriedAs::Caller(Some((name, error))) => {
            writeln!(err, "{file}: files were tried as root, since {name} cannot be tried as ({error})")?;
        }
        TriedAs::Caller(None) => {}
    }
    Ok(done)
}

/// Writes what the model makes doubtful about the label set in `file`; `labels check` uses it too.
///
/// # Errors
/// `err` cannot be written.
pub(super) fn tell_doubts(file: &Path, doubts: &[String], err: &mut dyn Write) -> std::io::Result<()> {
    doubts.iter().try_for_each(|doubt| writeln!(err, "{}: warning: {doubt}; reword the one or the other", shown(file)))
}

/// Writes until when the labels of `set` that have hours are looked for at `now`, or not: those of the same hours in one line.
fn tell_hours(set: &LabelSet, now: Timestamp, err: &mut dyn Write) -> std::io::Result<()> {
    let mut told: Vec<(&Arc<ActiveHours>, Vec<&str>)> = Vec::new();
    for (label, hours) in set.labels.iter().filter_map(|label| Some((&*label.name, label.hours.as_ref()?))) {
        match told.iter_mut().find(|(known, _)| *known == hours) {
            Some((_, labels)) => labels.push(label),
            None => told.push((hours, vec![label])),
        }
    }
    for (hours, labels) in told {
        let which = match labels.as_slice() {
            all if all.len() == set.labels.len() => format!("set {}", set.name),
            [only] => format!("label {only}"),
            some => format!("labels {}", some.join(", ")),
        };
        writeln!(err, "{}: note: {which}: {}", shown(&set.file), hours.state_told(now))?;
    }
    Ok(())
}

/// What can be told once the model is there.
#[derive(Debug, Default)]
pub struct ModelFindings {
    pub fingerprint: String,
    /// What is doubtful about each label set.
    pub doubts: Vec<Vec<String>>,
    /// Sets, by number, whose examples cannot be used, and why.
    pub not_learned: Vec<(usize, String)>,
}

/// Builds the engine as `run` would, and lets it go; what it finds doubtful about each label set. Ctrl-C ends it early.
///
/// # Errors
/// What `run` would end with.
pub fn model(settings: &Settings) -> Result<ModelFindings, EngineError> {
    // The unit runs this before the daemon, for which systemd waits no longer than for the daemon itself.
    let _patience = LongStep::quiet();
    let (trigger, shutdown) = shutdown::channel();
    let _signals = signals::listen(trigger, None, crate::logs::finish);
    let mut engine = Engine::build(&settings.model, &settings.infer, &settings.label_sets, &shutdown)?;
    let refused = engine.learn_where_possible(&mut settings.label_sets.clone(), &ExampleViews::of(settings), &shutdown);
    let not_learned = refused.into_iter().map(|(at, why)| (at, why.as_warning())).collect();
    let doubts = engine::doubts(&settings.label_sets, &engine.scorers);
    Ok(ModelFindings { fingerprint: engine.model.fingerprint.to_string(), doubts, not_learned })
}

/// Writes each problem, errors and warnings with their lines of the file; `run` uses it too.
///
/// # Errors
/// `err` cannot be written.
pub fn report(problems: &[Problem], err: &mut dyn Write) -> std::io::Result<()> {
    for problem in problems {
        writeln!(err, "{problem}")?;
        if !problem.snippet.is_empty() {
            writeln!(err)?;
        }
    }
    Ok(())
}

/// "2 errors, 1 warning".
fn tally(problems: &[Problem]) -> String {
    let count = |severity, one: &str| {
        let number = problems.iter().filter(|problem| problem.severity == severity).count();
        (number > 0).then(|| plural(number, one))
    };
    let parts = [count(Severity::Error, "error"), count(Severity::Warning, "warning"), count(Severity::Notice, "note")];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn summary(settings: &Settings) -> String {
    let labels = settings.label_sets.iter().map(|set| set.labels.len()).sum();
    let model = match &settings.model.choice {
        ModelChoice::Starter => "the starter model".to_owned(),
        ModelChoice::None => "no model".to_owned(),
        ModelChoice::Path(path) => format!("model {}", path.display()),
        ModelChoice::Hub(reference) => format!("model {reference}"),
    };
    format!(
        "{}: ok: {}, {} in {}, {}, {model}",
        settings.file.display(),
        plural(settings.streams.len(), "stream"),
        plural(labels, "label"),
        plural(settings.label_sets.len(), "set"),
        plural(settings.sinks.len(), "sink"),
    )
}
