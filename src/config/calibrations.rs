//! Which thresholds of a label are in force: those of the configuration, those of a calibration, or none, since a calibration is there and
//! does not fit any more.
//!
//! In: settings with what was found of calibrations, a stream, the model's fingerprint. Out: thresholds and where they come from, and which
//! labels [wait](Waiting). A label that was calibrated never goes back to the configuration's thresholds by itself: what they would let
//! through nobody has looked at. Reads the files of calibrations, on the caller's thread; the rest is pure.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::sets::Sets;
use super::{ModelChoice, Settings, StreamSettings, thresholds};
use crate::event::drift::UsualRange;
use crate::event::{ThresholdOrigin, Thresholds};
use crate::frame::view::NamedView;
use crate::label::calibration_file::{self, Binding, CalibratedLabel, FoundCalibration};
use crate::label::{Label, LabelSet};
use crate::platform::state_folder::StateFolder;
use crate::sample::Interval;
use crate::yaml::field_reader::{At, Reader};

/// How the calibration of a label may be made to count again.
const REMEDY: &str = "`vtagd labels calibrate` makes another, `vtagd labels confirm` lets the old one count, and with --discard the \
                      thresholds of the configuration";

/// Of what is not there any more, so many are named.
const MOST_GONE: usize = 8;
/// The same where a newer vtagd has made it: none of these would write there.
const NEWER_REMEDY: &str =
    "start that version, or move the file away: without it the thresholds of the configuration count";

/// What there is of the set `name`, which `at` of the configuration names.
pub(super) fn found(state: &StateFolder, name: &str, at: &At<String>, reader: &mut Reader<'_>) -> FoundCalibration {
    let found = calibration_file::read(state, name);
    let (why, remedy) = match &found {
        FoundCalibration::Absent | FoundCalibration::Read(_) => return found,
        FoundCalibration::Wrong(why) => (why.clone(), REMEDY),
        FoundCalibration::Newer(version) => (format!("is of a newer vtagd (version {version})"), NEWER_REMEDY),
    };
    let path = state.place(&calibration_file::place_of(name));
    let message =
        format!("the calibration of the set `{name}`, {}, {why}: its labels wait, and tell nothing", path.display());
    reader.warn(at, message, remedy);
    found
}

/// Says which calibrations are of sets, streams and labels that the configuration does not have: what took their place was never calibrated.
pub(super) fn tell_left_over(
    state: &StateFolder,
    sets: &Sets,
    streams: &[StreamSettings],
    at: &At<Vec<At<String>>>,
    reader: &mut Reader<'_>,
) {
    let told = "whatever has another name now goes by the thresholds of the configuration";
    let is_set = |name: &String| sets.sets.iter().any(|set| set.name == *name);
    for name in calibration_file::names(state).into_iter().filter(|name| !is_set(name)) {
        let message = format!(
            "{} has a calibration of the set `{name}`, which no file here is of: {told}",
            state.path().display()
        );
        let remedy = format!("calibrate it anew; `vtagd labels confirm {name} --discard` forgets what is there");
        reader.warn(at, message, remedy);
    }
    for (set, found) in sets.sets.iter().zip(&sets.calibrations) {
        let FoundCalibration::Read(file) = found else { continue };
        let mut gone = BTreeSet::new();
        for entry in &file.entries {
            if !streams.iter().any(|stream| *stream.source.id == *entry.stream) {
                gone.insert(format!("stream `{}`", entry.stream));
            }
            let labels = entry.labels.keys().filter(|label| !set.labels.iter().any(|one| one.name == **label));
            gone.extend(labels.map(|label| format!("label `{label}`")));
        }
        if !gone.is_empty() {
            let gone = gone.into_iter().take(MOST_GONE).collect::<Vec<_>>().join(", ");
            let message =
                format!("the calibration of the set `{}` has what is not there any more ({gone}): {told}", set.name);
            let remedy = format!(
                "calibrate what has another name now, which forgets labels that have gone; `vtagd labels confirm {} --stream ID --discard` forgets a stream",
                set.name
            );
            reader.warn(at, message, remedy);
        }
    }
}

/// What the margins of `label` depend on, in this view of the stream.
pub fn binding(set: &LabelSet, label: &Label, stream: &StreamSettings, view: &NamedView, model: &str) -> Binding {
    let interval = match stream.interval {
        Interval::Every(interval) => format!("{}ms", interval.as_millis()),
        Interval::Auto => "auto".to_owned(),
    };
    Binding::of(set, label, view.described(), interval, model)
}

/// The thresholds of a label of the set with this index in a view of `stream`, and where they come from. Without a `model` its fingerprint is not
/// looked at.
pub fn in_force(
    settings: &Settings,
    set: usize,
    label: &Label,
    stream: &StreamSettings,
    view: &NamedView,
    model: Option<&str>,
) -> (Thresholds, ThresholdOrigin) {
    let own = thresholds(label, &settings.events);
    let (Some(found), Some(of)) = (settings.calibrations.get(set), settings.label_sets.get(set)) else {
        return (own, ThresholdOrigin::Configuration);
    };
    match found {
        FoundCalibration::Absent | FoundCalibration::Read(_) => {}
        FoundCalibration::Wrong(_) => return (own, ThresholdOrigin::Waiting("its calibration cannot be read".into())),
        FoundCalibration::Newer(_) => {
            return (own, ThresholdOrigin::Waiting("its calibration is of a newer vtagd".into()));
        }
    }
    let Some(calibrated) = found.of(&stream.source.id, view.name.as_deref(), &label.name) else {
        // Regions that have other names now are other ones: nobody has looked at what the configuration would let through there.
        let there = |region: Option<&str>| stream.views.iter().any(|view| view.name.as_deref() == region);
        let gone = found.of_gone(&stream.source.id, there, &label.name).map(|entry| match &entry.region {
            Some(region) => format!("it was calibrated for region `{region}`, which is not there any more"),
            None => "it was calibrated for the whole view, which has regions now".to_owned(),
        });
        let origin = gone.map_or(ThresholdOrigin::Configuration, |why| ThresholdOrigin::Waiting(why.into()));
        return (own, origin);
    };
    let now = binding(of, label, stream, view, model.unwrap_or(&calibrated.bound.model));
    match calibrated.bound.differing(&now)[..] {
        [] => {
            let [lowest, highest] = calibrated.not_seen_range;
            let usual = UsualRange::new((lowest, highest), calibrated.enter);
            (calibrated_thresholds(calibrated), ThresholdOrigin::Calibration(usual))
        }
        ref other => {
            let other = other.join(", ");
            (own, ThresholdOrigin::Waiting(format!("changed since it was calibrated: {other}").into()))
        }
    }
}

fn calibrated_thresholds(calibrated: &CalibratedLabel) -> Thresholds {
    let (enter, exit) = calibrated.levels();
    let time = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    Thresholds {
        enter,
        exit,
        after: time(calibrated.after),
        after_exit: time(calibrated.after_exit),
        cooldown: time(calibrated.cooldown),
    }
}

/// Labels of a set on a stream that tell nothing until they are calibrated again, or confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub stream: String,
    /// Of the stream, if it has some.
    pub region: Option<String>,
    pub set: String,
    /// Index of the set.
    pub at: usize,
    pub labels: Vec<String>,
    /// Of the first of them.
    pub why: String,
    /// What makes them tell again.
    pub remedy: &'static str,
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (wait, tell) = match self.labels.len() {
            0 | 1 => (" waits".to_owned(), "tells"),
            all => (format!(" and {} more wait", all - 1), "tell"),
        };
        let first = self.labels.first().map_or("", String::as_str);
        let region = self.region.as_ref().map_or_else(String::new, |region| format!("/{region}"));
        write!(f, "`{first}`{wait} on stream {}{region} and {tell} nothing: {}", self.stream, self.why)
    }
}

/// Every pair of a stream (or a region of it) and a set that has a calibration, with the labels that wait, if any do.
pub fn calibrated(settings: &Settings, model: &str) -> Vec<Waiting> {
    if settings.model.choice == ModelChoice::None {
        return Vec::new();
    }
    let mut out = Vec::new();
    for stream in &settings.streams {
        for (view, at) in boards(stream) {
            let Some(set) = settings.label_sets.get(at) else { continue };
            let mut waiting = Waiting {
                stream: stream.source.id.to_string(),
                region: view.name.as_deref().map(str::to_owned),
                set: set.name.clone(),
                at,
                labels: Vec::new(),
                why: String::new(),
                remedy: match settings.calibrations.get(at) {
                    Some(FoundCalibration::Newer(_)) => NEWER_REMEDY,
                    _ => REMEDY,
                },
            };
            let mut is_calibrated = false;
            for label in &set.labels {
                match in_force(settings, at, label, stream, view, Some(model)).1 {
                    ThresholdOrigin::Configuration => {}
                    ThresholdOrigin::Calibration(_) => is_calibrated = true,
                    ThresholdOrigin::Waiting(why) => {
                        if waiting.labels.is_empty() {
                            waiting.why = why.to_string();
                        }
                        waiting.labels.push(label.name.clone());
                    }
                }
            }
            if is_calibrated || !waiting.labels.is_empty() {
                out.push(waiting);
            }
        }
    }
    out
}

/// Those of `after` that did not wait `before`.
pub fn newly_waiting(before: &[Waiting], mut after: Vec<Waiting>) -> Vec<Waiting> {
    let place = |of: &Waiting| (of.stream.clone(), of.region.clone(), of.at);
    for one in &mut after {
        let known = before.iter().find(|other| place(other) == place(one));
        one.labels.retain(|label| known.is_none_or(|known| !known.labels.contains(label)));
    }
    after.retain(|one| !one.labels.is_empty());
    after
}

/// Every view of a stream with every index of its label sets.
fn boards(stream: &StreamSettings) -> impl Iterator<Item = (&NamedView, usize)> {
    stream.views.iter().flat_map(|view| stream.label_sets.iter().map(move |at| (view, *at)))
}

/// For `config show`: the labels whose thresholds are not those of the files, by set and stream. Whether the model is the one that they are
/// made for is seen at the start.
pub(super) fn shown(settings: &Settings) -> Option<Value> {
    let mut sets = serde_json::Map::new();
    for stream in &settings.streams {
        for (view, at) in boards(stream) {
            let Some(set) = settings.label_sets.get(at) else { continue };
            let place = view
                .name
                .as_ref()
                .map_or_else(|| stream.source.id.to_string(), |region| format!("{}/{region}", stream.source.id));
            for label in &set.labels {
                let told = match in_force(settings, at, label, stream, view, None) {
                    (_, ThresholdOrigin::Configuration) => continue,
                    (_, ThresholdOrigin::Waiting(why)) => json!({ "waits": why }),
                    (thresholds, ThresholdOrigin::Calibration(_)) => json!(thresholds),
                };
                sets.entry(set.name.clone()).or_insert_with(|| json!({}))[place.as_str()][&label.name] = told;
            }
        }
    }
    Some(Value::Object(sets)).filter(|sets| sets.as_object().is_some_and(|sets| !sets.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_anew_is_told_and_who_has_waited_before_is_not() {
        let of = |stream: &str, region: Option<&str>, labels: &[&str]| Waiting {
            stream: stream.to_owned(),
            region: region.map(str::to_owned),
            set: "yard".to_owned(),
            at: 0,
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            why: "changed since it was calibrated: examples".to_owned(),
            remedy: REMEDY,
        };
        let before = [of("gate", Some("left"), &["car"]), of("door", None, &[])];
        let after = vec![
            of("gate", Some("left"), &["car"]),
            of("gate", Some("right"), &["car"]),
            of("door", None, &["car", "bus"]),
            of("hall", None, &[]),
        ];
        let told = newly_waiting(&before, after);
        assert_eq!(told, [of("gate", Some("right"), &["car"]), of("door", None, &["car", "bus"])]);
    }
}
