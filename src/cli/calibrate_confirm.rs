//! `vtagd labels confirm`: calibrated thresholds that wait count again, or are forgotten.
//!
//! In: a configuration and a label set. Out: its calibrations, bound to what is now, below the state directory; a daemon takes them at its next
//! reload. On the main thread, which waits.

use std::path::{Path, PathBuf};

use super::calibrate::{change, end};
use super::marks::{self, Failure};
use super::{DEFAULT_CONFIG, plural, pull, say};
use crate::config::{ModelChoice, Settings, calibrations};
use crate::label::calibration_file;
use crate::model::prepared;
use crate::platform::shutdown;

#[derive(Debug, clap::Args)]
pub struct Confirm {
    /// Name of the label set.
    set: String,
    /// Configuration file of the daemon.
    #[arg(short, long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Only on this stream.
    #[arg(long, value_name = "ID")]
    stream: Option<String>,
    /// Forget the calibration instead: the thresholds of the configuration count again.
    #[arg(long)]
    discard: bool,
}

/// Lets calibrations count; the exit code.
pub fn confirm(args: &Confirm) -> u8 {
    end(confirmed(args).map(|()| 0))
}

/// The fingerprint that the daemon's model has.
fn fingerprint(settings: &Settings) -> Result<String, Failure> {
    let path = match &settings.model.choice {
        ModelChoice::None => return Err(("the configuration has no model".to_owned(), 2)),
        ModelChoice::Starter => PathBuf::from(crate::model::STARTER),
        ModelChoice::Path(path) => path.clone(),
        ModelChoice::Hub(reference) => reference.to_string().into(),
    };
    let (_trigger, shutdown) = shutdown::channel();
    let bundle = pull::model_folder(Some(Path::new(&path)), &shutdown)
        .and_then(|dir| prepared::open_with(&dir, settings.model.logits, &|| shutdown.is_requested()));
    bundle.map(|bundle| bundle.fingerprint).map_err(|error| (error.to_string(), error.exit_code()))
}

fn confirmed(Confirm { set: name, config, stream, discard }: &Confirm) -> Result<(), Failure> {
    let settings = marks::settings(config)?;
    let at = settings.label_sets.iter().position(|set| set.name == *name);
    let Some((at, set)) = at.and_then(|at| Some((at, settings.label_sets.get(at)?))) else {
        let known: Vec<&str> = settings.label_sets.iter().map(|set| &*set.name).collect();
        return Err((format!("there is no label set `{name}` (known: {})", known.join(", ")), 2));
    };
    if let Some(stream) = stream {
        marks::labels_of(&settings, stream, name)?;
    }
    let is_meant = |id: &str| stream.as_ref().is_none_or(|wanted| wanted == id);
    let mut changed = 0;
    if *discard {
        change(&settings, name, |entries| {
            changed = entries.iter().filter(|entry| is_meant(&entry.stream)).map(|entry| entry.labels.len()).sum();
            entries.retain(|entry| !is_meant(&entry.stream));
        })?;
        say(&format!(
            "the calibration of {} is forgotten; the configuration's thresholds count from the next reload on",
            plural(changed, "label")
        ));
        return Ok(());
    }
    if let Some(calibration_file::FoundCalibration::Wrong(why)) = settings.calibrations.get(at) {
        return Err((
            format!("the calibration of the set `{name}` {why}: it cannot be confirmed; --discard forgets it"),
            2,
        ));
    }
    let model = fingerprint(&settings)?;
    change(&settings, name, |entries| {
        for entry in entries.iter_mut().filter(|entry| is_meant(&entry.stream)) {
            let Some(stream) = settings.streams.iter().find(|one| *one.source.id == *entry.stream) else { continue };
            let Some(view) = stream.views.iter().find(|view| view.name.as_deref() == entry.region.as_deref()) else {
                continue;
            };
            for (label, calibrated) in &mut entry.labels {
                let Some(label) = set.labels.iter().find(|one| one.name == *label) else { continue };
                let now = calibrations::binding(set, label, stream, view, &model);
                if calibrated.bound != now {
                    (calibrated.bound, changed) = (now, changed + 1);
                }
            }
        }
    })?;
    say(&match changed {
        0 => format!("no label of the set `{name}` waits"),
        changed => {
            format!("the calibrated thresholds of {} count again, from the next reload on", plural(changed, "label"))
        }
    });
    Ok(())
}
