//! The label sets a configuration names, and how a label's thresholds and the configuration's defaults become one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::sets_in_force::{self, SetInForce};
use crate::event::Thresholds;
use crate::label::{Label, LabelSet, ThresholdOverrides, set};
use crate::platform::state_folder::StateFolder;
use crate::yaml::field_reader::{At, Reader};
use crate::yaml::problem::{Problem, Severity};
use crate::yaml::relative_to;

/// The thresholds of `label` where `events` are the defaults.
///
/// What the label says counts. Two things follow from what it says rather than from `events`:
/// - a label with its own `after` but no `after_exit` ends as slowly as it starts (`after_exit` = its `after`);
/// - a label with its own `enter`, but no `exit`, below the default `exit` gets an `exit` that keeps the defaults' proportion
///   (`enter` 0.3 under defaults 0.6 and 0.4 gives 0.2), so that there is always some hysteresis.
///
/// The result can only break `exit ≤ enter` if the label sets `exit` above the default `enter`; [`load`](super::load) refuses that.
pub fn thresholds(label: &Label, events: &Thresholds) -> Thresholds {
    merge(&label.thresholds, events)
}

/// As [`thresholds`]; the same rules make `events` out of the built-in defaults.
pub fn merge(over: &ThresholdOverrides, base: &Thresholds) -> Thresholds {
    let enter = over.enter.unwrap_or(base.enter);
    let exit = match over.exit {
        Some(exit) => exit,
        None if base.exit <= enter => base.exit,
        None if base.enter > 0.0 => (enter * (base.exit / base.enter)).min(enter),
        None => enter,
    };
    Thresholds {
        enter,
        exit,
        after: over.after.unwrap_or(base.after),
        after_exit: over.after_exit.or(over.after).unwrap_or(base.after_exit),
        cooldown: over.cooldown.unwrap_or(base.cooldown),
    }
}

/// The sets that could be read, and the names of all: a set that is broken is still a known name if its file says one.
pub struct Sets {
    pub sets: Vec<LabelSet>,
    /// Where each of them comes from.
    pub in_force: Vec<SetInForce>,
    /// Some file could not be read, so an unknown name may be that set's.
    pub incomplete: bool,
    /// Problems of the label-set files themselves.
    pub problems: Vec<Problem>,
}

/// Reads every file of `labels`, and the copies of their sets in `state`, which count instead.
pub fn load(files: &[At<String>], state: &StateFolder, events: Option<&Thresholds>, reader: &mut Reader<'_>) -> Sets {
    let mut out = Sets { sets: Vec::new(), in_force: Vec::new(), incomplete: false, problems: Vec::new() };
    let mut paths: HashMap<PathBuf, u64> = HashMap::new();
    let mut names: HashMap<String, PathBuf> = HashMap::new();
    for file in files {
        let path = relative_to(reader.document().file(), Path::new(&file.value));
        if !path.is_file() {
            let message =
                format!("{} {}", path.display(), if path.exists() { "is not a file" } else { "does not exist" });
            reader.error(file, message, "name a label-set file; relative paths start at the folder of this file");
            out.incomplete = true;
            continue;
        }
        // Two spellings of one file are one file.
        let canonical = path.canonicalize().unwrap_or_else(|_| path.clone());
        if let Some(line) = paths.insert(canonical, file.place.line) {
            reader.error(file, format!("names the same file as line {line}"), "keep one of them");
            continue;
        }
        match set::read(&path) {
            Err(problems) => {
                out.problems.extend(problems);
                out.incomplete = true;
            }
            Ok(parsed) => {
                if let Some(other) = names.insert(parsed.set.name.clone(), path.clone()) {
                    let message = format!("the set name `{}` is also that of {}", parsed.set.name, other.display());
                    reader.error(file, message, "rename one of the sets");
                    continue;
                }
                if let Some(events) = events {
                    out.problems.extend(check_merged(&parsed, events));
                }
                let (parsed, mut in_force) = sets_in_force::choose(parsed, file, state, events, reader);
                if parsed.set.background.is_empty() {
                    in_force.warnings.push("it has no background".to_owned());
                }
                out.problems.extend(parsed.warnings);
                out.sets.push(parsed.set);
                out.in_force.push(in_force);
            }
        }
    }
    out
}

/// Labels whose own `exit` is above the `enter` they get from the configuration.
pub(super) fn check_merged(parsed: &set::Parsed, events: &Thresholds) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, label) in parsed.set.labels.iter().enumerate() {
        let merged = thresholds(label, events);
        if merged.exit > merged.enter {
            let path = format!("labels[{index}].exit");
            let message =
                format!("is {}, above the enter of {} that `events` gives this label", merged.exit, merged.enter);
            let place = parsed.document.find(&path).place;
            problems.push(parsed.document.problem(
                Severity::Error,
                place,
                &path,
                message,
                "give the label its own `enter`, at or above its exit",
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn over(enter: Option<f32>, exit: Option<f32>, after: Option<u64>) -> ThresholdOverrides {
        ThresholdOverrides { enter, exit, after: after.map(Duration::from_secs), ..ThresholdOverrides::default() }
    }

    #[test]
    fn what_a_label_leaves_out_comes_from_the_events() {
        let events = Thresholds { cooldown: Duration::from_secs(7), ..Thresholds::default() };
        let merged = merge(&over(Some(0.7), None, None), &events);
        assert_eq!(merged, Thresholds { enter: 0.7, ..events });
        assert_eq!(merge(&over(None, None, None), &events), events);
    }

    #[test]
    fn a_low_enter_brings_its_exit_down_in_proportion() {
        let merged = merge(&over(Some(0.3), None, None), &Thresholds::default());
        assert!((merged.exit - 0.2).abs() < 1e-6, "{merged:?}");
        assert_eq!(merge(&over(Some(0.3), Some(0.3), None), &Thresholds::default()).exit, 0.3);
    }

    #[test]
    fn the_own_after_of_a_label_holds_for_its_end_too() {
        let events = Thresholds { after_exit: Duration::from_secs(9), ..Thresholds::default() };
        let merged = merge(&over(None, None, Some(5)), &events);
        assert_eq!((merged.after, merged.after_exit), (Duration::from_secs(5), Duration::from_secs(5)));
        assert_eq!(merge(&over(None, None, None), &events).after_exit, Duration::from_secs(9));
    }

    proptest::proptest! {
        #[test]
        fn exit_exceeds_enter_only_if_a_label_says_so(
            base_enter in 0.0_f32..=1.0, ratio in 0.0_f32..=1.0, enter in proptest::option::of(0.0_f32..=1.0)
        ) {
            let base = Thresholds { enter: base_enter, exit: base_enter * ratio, ..Thresholds::default() };
            let merged = merge(&over(enter, None, None), &base);
            proptest::prop_assert!(merged.exit <= merged.enter && merged.exit >= 0.0, "{:?}", merged);
        }
    }
}
