//! `vtagd check`: the validation of `run`, and nothing else. Opens no camera and no port.
//!
//! The configuration first, then what it names: the model is opened, its labels are embedded (or found in the cache) and the
//! image tower is loaded and run once, by the same code as in `run`. What passes here starts there.

use std::io::Write;
use std::path::Path;

use crate::config::{self, ModelChoice, Settings};
use crate::engine::{Engine, EngineError};
use crate::problem::{Problem, Severity};
use crate::{shutdown, signals};

/// Checks `file` and then, with `model`, what it names; problems, warnings and notices go to `err`, one line on success to
/// `out`. Returns the exit code: 0, or 2 if the configuration cannot be used.
///
/// # Errors
/// `out` or `err` cannot be written.
pub fn run(
    file: &Path,
    out: &mut dyn Write,
    err: &mut dyn Write,
    model: impl FnOnce(&Settings) -> Result<(), EngineError>,
) -> std::io::Result<u8> {
    let settings = match config::load(file) {
        Ok(settings) => settings,
        Err(problems) => {
            report(&problems, err)?;
            writeln!(err, "{}: {}, nothing was started", file.display(), tally(&problems))?;
            return Ok(2);
        }
    };
    report(&settings.notices, err)?;
    if let Err(error) = model(&settings) {
        writeln!(err, "{}: error: model: {error}", file.display())?;
        return Ok(error.exit_code());
    }
    writeln!(out, "{}", summary(&settings))?;
    Ok(0)
}

/// Builds the engine as `run` would, and lets it go. Ctrl-C ends it early.
///
/// # Errors
/// What `run` would end with.
pub fn model(settings: &Settings) -> Result<(), EngineError> {
    let (trigger, shutdown) = shutdown::channel();
    let _signals = signals::listen(trigger, None);
    Engine::build(&settings.model, &settings.infer, &settings.label_sets, &shutdown).map(drop)
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
        let plural = if number == 1 { "" } else { "s" };
        (number > 0).then(|| format!("{number} {one}{plural}"))
    };
    let parts = [count(Severity::Error, "error"), count(Severity::Warning, "warning"), count(Severity::Notice, "note")];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn summary(settings: &Settings) -> String {
    let plural = |number: usize, one: &str| format!("{number} {one}{}", if number == 1 { "" } else { "s" });
    let labels = settings.label_sets.iter().map(|set| set.labels.len()).sum();
    let model = match &settings.model {
        ModelChoice::Starter => "the starter model".to_owned(),
        ModelChoice::None => "no model".to_owned(),
        ModelChoice::Path(path) => format!("model {}", path.display()),
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
