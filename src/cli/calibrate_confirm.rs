//! `vtagd labels confirm`: what was calibrated counts again, for what runs now, or is forgotten.
//!
//! In: a configuration and a label set, also one that has another name now where its calibration is to be forgotten. Out: the set's calibrations,
//! changed. No picture is looked at. On the main thread.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::calibrate::end;
use super::marks::{self, Failure};
use super::{DEFAULT_CONFIG, complain, plural, pull, say};
use crate::config::{ModelChoice, Settings, StreamSettings, calibrations};
use crate::label::LabelSet;
use crate::label::calibration_file::{self, CalibratedLabel, CalibrationEntry, FoundCalibration};
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

/// Changes the set's calibrations, and says where a file that could not be read has gone.
///
/// # Errors
/// As they cannot be written.
pub(super) fn change(
    settings: &Settings,
    set: &str,
    change: impl FnOnce(&mut Vec<CalibrationEntry>),
) -> Result<(), Failure> {
    let aside = calibration_file::change(&settings.state, set, change);
    if let Some(aside) = aside.map_err(|error| (error.to_string(), error.exit_code()))? {
        complain(&format!("the calibration that there was cannot be read; it is kept as {}", aside.display()));
    }
    Ok(())
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
    let is_meant = |id: &str| stream.as_ref().is_none_or(|wanted| wanted == id);
    let kept = calibration_file::read(&settings.state, name);
    // Also of a set or a stream that has another name now.
    if *discard && kept != FoundCalibration::Absent && stream.as_ref().is_none_or(|stream| kept.has(stream)) {
        let mut changed = 0;
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
    let at = settings.label_sets.iter().position(|set| set.name == *name);
    let Some((at, set)) = at.and_then(|at| Some((at, settings.label_sets.get(at)?))) else {
        let known: Vec<&str> = settings.label_sets.iter().map(|set| &*set.name).collect();
        return Err((format!("there is no label set `{name}` (known: {})", known.join(", ")), 2));
    };
    if let Some(stream) = stream {
        marks::labels_of(&settings, stream, name)?;
    }
    if *discard {
        say("nothing was calibrated there");
        return Ok(());
    }
    let mut changed = 0;
    match settings.calibrations.get(at) {
        Some(FoundCalibration::Wrong(why)) => {
            let why =
                format!("the calibration of the set `{name}` {why}: it cannot be confirmed; --discard forgets it");
            return Err((why, 2));
        }
        // Whoever writes says what to do.
        Some(FoundCalibration::Newer(_)) => change(&settings, name, |_| {})?,
        _ => {}
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
        for stream in settings.streams.iter().filter(|stream| is_meant(&stream.source.id)) {
            changed += taken_over(entries, set, stream, &model);
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

/// Lets what was calibrated for regions that are gone count in those that have nothing of their own; how many labels that are.
fn taken_over(entries: &mut Vec<CalibrationEntry>, set: &LabelSet, stream: &StreamSettings, model: &str) -> usize {
    let is_there = |region: Option<&str>| stream.views.iter().any(|view| view.name.as_deref() == region);
    let is_gone = |entry: &CalibrationEntry| *entry.stream == *stream.source.id && !is_there(entry.region.as_deref());
    let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(entries).into_iter().partition(is_gone);
    *entries = kept;
    let mut changed = 0;
    for view in stream.views.iter() {
        let region = view.name.as_deref();
        let own = entries.iter().find(|entry| *entry.stream == *stream.source.id && entry.region.as_deref() == region);
        let mut labels = BTreeMap::new();
        for (name, calibrated) in gone.iter().flat_map(|entry| &entry.labels) {
            let Some(label) = set.labels.iter().find(|label| label.name == *name) else { continue };
            if own.is_none_or(|own| !own.labels.contains_key(name)) {
                let bound = calibrations::binding(set, label, stream, view, model);
                labels.entry(name.clone()).or_insert(CalibratedLabel { bound, ..calibrated.clone() });
            }
        }
        changed += labels.len();
        calibration_file::put(entries, &stream.source.id, region, labels);
    }
    if changed == 0 {
        // Nothing waits for them, and the regions may come back.
        entries.extend(gone);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::platform::state_folder::StateFolder;

    fn load(folder: &Path, view: &str) -> Settings {
        let set = "set: yard\nscoring: independent\nbackground: [a wall]\nlabels: [{ name: car, prompts: [a car] }, { name: bus, prompts: [a bus] }]\n";
        std::fs::write(folder.join("yard.yaml"), set).unwrap();
        let text = format!(
            "state: {{ path: state }}\nstreams: [{{ id: gate, url: \"rtsp://127.0.0.1:9/\"{view} }}]\nlabels: [yard.yaml]\n\
             sinks: [{{ type: jsonl, path: \"-\" }}]\n"
        );
        std::fs::write(folder.join("vtagd.yaml"), text).unwrap();
        config::load(&folder.join("vtagd.yaml")).unwrap()
    }

    /// `car` of the whole view is calibrated.
    fn calibrated(folder: &Path) -> StateFolder {
        let settings = load(folder, "");
        let (set, stream) = (&settings.label_sets[0], &settings.streams[0]);
        let bound = calibrations::binding(set, &set.labels[0], stream, stream.views.first(), "m");
        let label = calibration_file::tests::calibrated(bound);
        let labels = BTreeMap::from([("car".to_owned(), label)]);
        calibration_file::change(&settings.state, "yard", |entries| {
            calibration_file::put(entries, "gate", None, labels)
        })
        .unwrap();
        settings.state
    }

    const TWO: &str =
        ", view: { regions: [{ name: left, region: [0, 0, 0.5, 1] }, { name: right, region: [0.5, 0, 0.5, 1] }] }";

    #[test]
    fn a_label_that_was_calibrated_waits_in_regions_that_came_since_until_it_is_confirmed() {
        let folder = tempfile::tempdir().unwrap();
        let state = calibrated(folder.path());
        let waiting = |view: &str| -> Vec<String> {
            let settings = load(folder.path(), view);
            assert_eq!(settings.notices.iter().filter(|one| one.message.contains("calibration")).count(), 0);
            let waiting = calibrations::calibrated(&settings, "m").into_iter().filter(|one| !one.labels.is_empty());
            waiting.map(|one| one.to_string()).collect()
        };
        assert_eq!(waiting(""), Vec::<String>::new());
        let why = "tells nothing: it was calibrated for the whole view, which has regions now";
        let both = ["left", "right"].map(|region| format!("`car` waits on stream gate/{region} and {why}"));
        assert_eq!(waiting(TWO), both);
        let settings = load(folder.path(), TWO);
        let mut entries = Vec::new();
        calibration_file::change(&state, "yard", |kept| {
            assert_eq!(taken_over(kept, &settings.label_sets[0], &settings.streams[0], "m"), 2);
            entries.clone_from(kept);
        })
        .unwrap();
        let regions: Vec<_> = entries.iter().map(|entry| entry.region.as_deref()).collect();
        assert_eq!((regions, waiting(TWO).len()), (vec![Some("left"), Some("right")], 0));
        // One of them gets another name; the other goes on.
        let renamed = TWO.replace("left", "west");
        let told = waiting(&renamed);
        assert!(told.len() == 1 && told[0].contains("gate/west") && told[0].contains("for region `left`"), "{told:?}");
    }

    #[test]
    fn calibrations_of_sets_streams_and_labels_with_other_names_are_told_and_can_be_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        calibrated(here);
        let config = here.join("vtagd.yaml");
        let change = |file: &str, from: &str, to: &str| {
            let text = std::fs::read_to_string(here.join(file)).unwrap();
            std::fs::write(here.join(file), text.replace(from, to)).unwrap();
            let settings = config::load(&config).unwrap();
            settings.notices.iter().map(ToString::to_string).find(|one| one.contains("calibration of the set"))
        };
        let forget = |set: &str, stream: Option<&str>| {
            let (set, stream) = (set.to_owned(), stream.map(str::to_owned));
            confirmed(&Confirm { set, config: config.clone(), stream, discard: true })
        };
        let told = |found: Option<String>, parts: [&str; 2]| {
            let found = found.unwrap_or_default();
            assert!(parts.iter().all(|part| found.contains(part)), "{parts:?}: {found}");
        };
        assert_eq!(change("yard.yaml", "a wall", "a wall"), None);
        told(change("yard.yaml", "name: car", "name: lorry"), ["label `car`", "thresholds of the configuration"]);
        assert_eq!(change("yard.yaml", "name: lorry", "name: car"), None);
        told(change("vtagd.yaml", "id: gate", "id: door"), ["stream `gate`", "--stream ID --discard"]);
        assert_eq!(change("vtagd.yaml", "id: door", "id: gate"), None);
        told(
            change("yard.yaml", "set: yard", "set: court"),
            ["a calibration of the set `yard`", "vtagd labels confirm yard --discard"],
        );
        assert!(forget("court", Some("door")).is_err() && forget("nothing", None).is_err());
        forget("yard", Some("gate")).unwrap();
        assert_eq!(change("yard.yaml", "a wall", "a wall"), None);
    }
}
