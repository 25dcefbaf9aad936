//! The label sets a configuration names, and how a label's thresholds and the configuration's defaults become one.

use std::collections::HashMap;
use std::path::PathBuf;

use super::calibrations;
use super::sets_in_force::{self, SetInForce};
use crate::event::Thresholds;
use crate::label::calibration_file::FoundCalibration;
use crate::label::kept_examples::KeepError;
use crate::label::kept_file::KeptFileError;
use crate::label::{Label, LabelSet, ThresholdOverrides, kept_examples, set};
use crate::platform::missing;
use crate::platform::state_folder::StateFolder;
use crate::score::Threshold;
use crate::yaml::field_reader::{At, Reader};
use crate::yaml::problem::{Problem, Severity};
use crate::yaml::text_form::{LOOK_ALIKE, folded};
use crate::yaml::{Document, Place};

/// The thresholds of `label` where `events` are the defaults.
///
/// What the label says counts. Two things follow from what it says rather than from `events`:
/// - a label with its own `after` but no `after_exit` ends as slowly as it starts (`after_exit` = its `after`);
/// - a label with its own `enter`, but no `exit`, below the default `exit` gets an `exit` that keeps the defaults' proportion
///   (`enter` 0.3 under defaults 0.6 and 0.4 gives 0.2), so that there is always some hysteresis. Where `enter` is a margin, the
///   `exit` is as far below it as that of the defaults is below theirs.
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
        None if base.exit.margin() <= enter.margin() => base.exit,
        None => below(enter, base),
    };
    Thresholds {
        enter,
        exit,
        after: over.after.unwrap_or(base.after),
        after_exit: over.after_exit.or(over.after).unwrap_or(base.after_exit),
        cooldown: over.cooldown.unwrap_or(base.cooldown),
    }
}

/// An `exit` below `enter` by what the defaults have between theirs.
fn below(enter: Threshold, base: &Thresholds) -> Threshold {
    match enter {
        Threshold::Probability(enter) => {
            let (base_enter, base_exit) = (base.enter.probability(), base.exit.probability());
            let ratio = if base_enter > 0.0 { base_exit / base_enter } else { 1.0 };
            Threshold::Probability((enter * ratio).min(enter))
        }
        Threshold::Margin(enter) => {
            let (base_enter, base_exit) = base.margins();
            let between = f64::from(base_enter - base_exit);
            Threshold::Margin(if between.is_finite() { enter - between } else { enter })
        }
    }
}

/// The sets that could be read, and the names of all: a set that is broken is still a known name if its file says one.
#[derive(Default)]
pub struct Sets {
    pub sets: Vec<LabelSet>,
    /// Where each of them comes from.
    pub in_force: Vec<SetInForce>,
    /// What there is of calibrations of each.
    pub calibrations: Vec<FoundCalibration>,
    /// What each of them was read from.
    pub documents: Vec<Document>,
    /// Some file could not be read, so an unknown name may be that set's.
    pub incomplete: bool,
    /// Problems of the label-set files themselves.
    pub problems: Vec<Problem>,
}

/// Reads every file of `labels`, and the copies of their sets in `state`, which count instead.
pub fn load(files: &[At<String>], state: &StateFolder, events: Option<&Thresholds>, reader: &mut Reader<'_>) -> Sets {
    let mut out = Sets::default();
    let mut paths: HashMap<PathBuf, Place> = HashMap::new();
    let mut names: HashMap<String, (String, PathBuf)> = HashMap::new();
    for file in files {
        let path = reader.path(file);
        if !path.is_file() {
            let message = format!("{} {}", path.display(), missing::why(&path, "file"));
            reader.error(file, message, "name a label-set file; relative paths start at the folder of this file");
            out.incomplete = true;
            continue;
        }
        // Two spellings of one file are one file.
        let canonical = path.canonicalize().unwrap_or_else(|_| path.clone());
        if let Some(other) = paths.insert(canonical, file.place) {
            let message = format!("names the same file as {}", reader.line(other, file.place));
            reader.error(file, message, "keep one of them");
            continue;
        }
        match set::read(&path) {
            Err(problems) => {
                out.problems.extend(problems);
                out.incomplete = true;
            }
            Ok(parsed) => {
                let name = &parsed.set.name;
                if let Some((other, of)) = names.insert(folded(name), (name.clone(), path.clone())) {
                    let message = match other == *name {
                        true => format!("the set name `{name}` is also that of {}", of.display()),
                        false => format!("the set name `{name}` looks like that of {}: {LOOK_ALIKE}", of.display()),
                    };
                    reader.error(file, message, "rename one of the sets");
                    continue;
                }
                if let Some(events) = events {
                    out.problems.extend(check_merged(&parsed, events));
                }
                let (mut parsed, mut in_force) = sets_in_force::choose(parsed, file, state, events, reader);
                if let Some(why) = kept_examples::add_to(&mut parsed.set, state) {
                    let message = format!("what the set `{}` has learned is not used: {why}", parsed.set.name);
                    let remedy = match why {
                        KeepError::File(KeptFileError::Newer { .. }) => {
                            "once it is away, `vtagd labels calibrate` with --write keeps it anew"
                        }
                        KeepError::File(KeptFileError::Unreadable { .. }) => "try it as the daemon's user or as root",
                        _ => "`vtagd labels calibrate` with --write keeps it anew",
                    };
                    reader.warn(file, message, remedy);
                }
                for label in kept_examples::drop_without_rivals(&mut parsed.set) {
                    let set = &parsed.set.name;
                    let message = format!(
                        "what `{label}` of the set `{set}` has learned is not used: it has nothing to be told from any more"
                    );
                    let remedy =
                        "add `counter_examples` to the label or to the set; or `vtagd labels calibrate` with --write";
                    reader.warn(file, message, remedy);
                }
                if !parsed.set.has_background() {
                    in_force.warnings.push("it has no background".to_owned());
                }
                out.problems.extend(parsed.warnings);
                out.calibrations.push(calibrations::found(state, &parsed.set.name, file, reader));
                out.sets.push(parsed.set);
                out.in_force.push(in_force);
                out.documents.push(parsed.document);
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
        if !merged.is_ordered() {
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

    fn over(enter: Option<f64>, exit: Option<f64>, after: Option<u64>) -> ThresholdOverrides {
        let (enter, exit) = (enter.map(Threshold::Probability), exit.map(Threshold::Probability));
        ThresholdOverrides { enter, exit, after: after.map(Duration::from_secs), ..ThresholdOverrides::default() }
    }

    #[test]
    fn what_a_label_leaves_out_comes_from_the_events() {
        let events = Thresholds { cooldown: Duration::from_secs(7), ..Thresholds::default() };
        let merged = merge(&over(Some(0.7), None, None), &events);
        assert_eq!(merged, Thresholds { enter: Threshold::Probability(0.7), ..events });
        assert_eq!(merge(&over(None, None, None), &events), events);
    }

    #[test]
    fn a_low_enter_brings_its_exit_down_in_proportion() {
        let merged = merge(&over(Some(0.3), None, None), &Thresholds::default());
        assert!((merged.exit.probability() - 0.2).abs() < 1e-6, "{merged:?}");
        assert_eq!(merge(&over(Some(0.3), Some(0.3), None), &Thresholds::default()).exit, Threshold::Probability(0.3));
    }

    #[test]
    fn an_enter_that_is_a_margin_keeps_the_distance_of_the_defaults() {
        let over =
            |enter| ThresholdOverrides { enter: Some(Threshold::Margin(enter)), ..ThresholdOverrides::default() };
        let low = merge(&over(-3.0), &Thresholds::default());
        assert!((low.exit.margin() - (-3.0 - 2.0 * 1.5f32.ln())).abs() < 1e-5, "{low:?}");
        let high = merge(&over(2.1), &Thresholds::default());
        assert_eq!((high.enter, high.exit), (Threshold::Margin(2.1), Threshold::Probability(0.4)));
        // Nothing is between two that are infinitely far out.
        let base = merge(&self::over(Some(1.0), Some(1.0), None), &Thresholds::default());
        assert_eq!(merge(&over(5.0), &base).exit, Threshold::Margin(5.0));
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
            base_enter in 0.0_f64..=1.0,
            ratio in 0.0_f64..=1.0,
            enter in proptest::option::of(0.0_f64..=1.0),
            margin in proptest::option::of(-1000.0_f64..=1000.0),
        ) {
            let probability = Threshold::Probability;
            let base =
                Thresholds { enter: probability(base_enter), exit: probability(base_enter * ratio), ..Thresholds::default() };
            let enter = margin.map(Threshold::Margin).or(enter.map(Threshold::Probability));
            let merged = merge(&ThresholdOverrides { enter, ..ThresholdOverrides::default() }, &base);
            proptest::prop_assert!(merged.is_ordered(), "{:?}", merged);
        }
    }
}
