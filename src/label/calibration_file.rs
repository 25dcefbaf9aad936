//! Calibrations that the daemon keeps: `calibrations/SET.calibration.json` below the state directory, thresholds of a label set's labels, one
//! entry a stream and region.
//!
//! In: a state directory and the name of a set. Out: [`SetCalibration`], each label with what it is bound to: what its margins depend on.
//! Where that is another now, the thresholds are not used, and the label waits. The configuration's YAML stays the person's. Files are
//! replaced whole, by one writer at a time; one that cannot be read is named, and moved aside before another is written. On the caller's thread.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::examples::Example;
use super::kept_file::{self, newer_version};
use super::{Ensemble, Label, LabelSet};
use crate::platform::hex::hex;
use crate::platform::state_folder::{StateError, StateFolder};
use crate::score::{Scoring, Threshold};

/// Below the state directory.
const FOLDER: &str = "calibrations";
const EXTENSION: &str = ".calibration.json";
/// Held by whoever writes one.
const LOCK: &str = "calibrations.lock";
/// Files that are looked at when they are listed, at most.
const MAX_FILES: usize = 1000;
/// A file, at most.
const MAX_BYTES: u64 = 8 << 20;
const VERSION: u32 = 1;
/// Longer than any time of a label.
const MAX_SECONDS: f64 = 7.0 * 86_400.0;

/// What margins of a label depend on; where two are equal, margins mean the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The model's fingerprint.
    pub model: String,
    /// Digests of the texts: the label's own prompts and negatives, with `exclusive` those of all labels.
    pub prompts: String,
    pub templates: String,
    pub background: String,
    /// How the set is scored and its templates are averaged.
    pub scoring: String,
    /// Which part of the picture is looked at, and how.
    pub view: String,
    pub interval: String,
    /// Digest of what is learned from: the label's own examples and the set's, with `exclusive` those of all labels. Empty without any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub examples: String,
}

impl Binding {
    /// Of `label` of `set`, seen with `view` every `interval` by `model`.
    pub fn of(set: &LabelSet, label: &Label, view: String, interval: String, model: &str) -> Self {
        let own = |label: &Label| (label.prompts.clone(), label.negatives.clone());
        let prompts: Vec<_> = match set.scoring {
            Scoring::Exclusive => set.labels.iter().map(own).collect(),
            Scoring::Independent => vec![own(label)],
        };
        let scoring = match set.scoring {
            Scoring::Exclusive => "exclusive",
            Scoring::Independent => "independent",
        };
        let ensemble = match set.ensemble {
            Ensemble::Embeddings => "embeddings",
            Ensemble::Probabilities => "probabilities",
        };
        Self {
            model: model.to_owned(),
            prompts: digest(&prompts),
            templates: digest(&set.templates),
            background: if set.has_nouns { digest(&(&set.background, "nouns")) } else { digest(&set.background) },
            scoring: format!("{scoring}, {ensemble}"),
            view,
            interval,
            examples: learned_from(set, label),
        }
    }

    /// What of `now` is another than it was.
    pub fn differing(&self, now: &Self) -> Vec<&'static str> {
        [
            ("model", self.model == now.model),
            ("prompts", self.prompts == now.prompts),
            ("templates", self.templates == now.templates),
            ("background", self.background == now.background),
            ("scoring", self.scoring == now.scoring),
            ("view", self.view == now.view),
            ("interval", self.interval == now.interval),
            ("examples", self.examples == now.examples),
        ]
        .into_iter()
        .filter_map(|(what, same)| (!same).then_some(what))
        .collect()
    }
}

/// What the label learns from, in no particular order.
fn learned_from(set: &LabelSet, label: &Label) -> String {
    let of = |examples: &[Example]| {
        let mut digests: Vec<String> = examples.iter().map(|example| example.digest.clone()).collect();
        digests.sort();
        digests.dedup();
        digests
    };
    let own = |label: &Label| {
        let similarity = label.similarity.map(f32::to_bits);
        (of(&label.examples), of(&label.counter_examples), label.learn, similarity)
    };
    let labels: Vec<_> = match set.scoring {
        Scoring::Exclusive => set.labels.iter().map(own).collect(),
        Scoring::Independent => vec![own(label)],
    };
    if labels.iter().all(|(examples, ..)| examples.is_empty()) {
        return String::new();
    }
    digest(&(labels, of(&set.counter_examples)))
}

fn digest(texts: &impl Serialize) -> String {
    // Texts: nothing that JSON does not know.
    let text = serde_json::to_string(texts).unwrap_or_default();
    hex(&Sha256::digest(text.as_bytes()))[..32].to_owned()
}

/// Thresholds of a label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibratedLabel {
    /// Margins.
    pub enter: f32,
    pub exit: f32,
    /// Seconds.
    pub after: f64,
    pub after_exit: f64,
    pub cooldown: f64,
    /// Nothing was marked as seen: it lies above everything that was not it.
    pub cautious: bool,
    /// Samples that it was made of.
    pub seen: u64,
    pub not_seen: u64,
    /// The lowest and the highest margin without the label.
    pub not_seen_range: [f32; 2],
    pub made_at: jiff::Timestamp,
    pub bound: Binding,
}

impl CalibratedLabel {
    fn is_sound(&self) -> bool {
        let times = [self.after, self.after_exit, self.cooldown];
        self.enter.is_finite()
            && self.exit.is_finite()
            && self.exit <= self.enter
            && times.iter().all(|time| (0.0..=MAX_SECONDS).contains(time))
    }

    /// `enter` and `exit`.
    pub fn levels(&self) -> (Threshold, Threshold) {
        (Threshold::Margin(f64::from(self.enter)), Threshold::Margin(f64::from(self.exit)))
    }
}

/// The labels of a stream and region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationEntry {
    pub stream: String,
    /// `None`: the whole view.
    pub region: Option<String>,
    pub labels: BTreeMap<String, CalibratedLabel>,
}

/// What the file of a set holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetCalibration {
    version: u32,
    pub set: String,
    pub entries: Vec<CalibrationEntry>,
}

/// Calibrations of a set, as they were found.
#[derive(Clone, Debug, PartialEq)]
pub enum FoundCalibration {
    /// There are none.
    Absent,
    Read(SetCalibration),
    /// There is a file, and this is wrong with it. Which labels it was of nobody knows: all of the set wait.
    Wrong(String),
    /// A newer vtagd has written it, in this version. As above; it is never written over.
    Newer(u64),
}

impl FoundCalibration {
    /// Of the label on the stream and region.
    pub fn of(&self, stream: &str, region: Option<&str>, label: &str) -> Option<&CalibratedLabel> {
        let Self::Read(file) = self else { return None };
        let is_meant = |entry: &&CalibrationEntry| entry.stream == stream && entry.region.as_deref() == region;
        file.entries.iter().find(is_meant)?.labels.get(label)
    }

    /// Whether there may be something of the stream.
    pub fn has(&self, stream: &str) -> bool {
        match self {
            Self::Absent => false,
            Self::Read(file) => file.entries.iter().any(|entry| entry.stream == stream),
            Self::Wrong(_) | Self::Newer(_) => true,
        }
    }

    /// A region of the stream that the label was calibrated for (`None`: the whole view), and that is not among those which are `there`.
    pub fn of_gone(
        &self,
        stream: &str,
        there: impl Fn(Option<&str>) -> bool,
        label: &str,
    ) -> Option<&CalibrationEntry> {
        let Self::Read(file) = self else { return None };
        let mut of_stream = file.entries.iter().filter(|entry| entry.stream == stream);
        of_stream.find(|entry| entry.labels.contains_key(label) && !there(entry.region.as_deref()))
    }
}

/// Why calibrations were not written.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    #[error("{} is larger than {MAX_BYTES} bytes; `vtagd labels confirm --discard` removes what is not needed", .0.display())]
    TooLarge(PathBuf),
    #[error("{} is of a newer vtagd (version {version}) and is kept as it is; start that version, or move the file away", path.display())]
    Newer { path: PathBuf, version: u64 },
    #[error(transparent)]
    State(#[from] StateError),
}

impl CalibrationError {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::State(error) => error.exit_code(),
            Self::TooLarge(_) | Self::Newer { .. } => 1,
        }
    }
}

/// Where the calibrations of the set lie, below the state directory.
pub fn place_of(set: &str) -> PathBuf {
    kept_file::of_set(FOLDER, set, EXTENSION)
}

/// The sets that have calibrations, as far as their files can be read.
pub fn names(state: &StateFolder) -> Vec<String> {
    #[derive(Deserialize)]
    struct OfSet {
        set: String,
    }
    let entries = std::fs::read_dir(state.place(Path::new(FOLDER))).into_iter().flatten().flatten().take(MAX_FILES);
    let name = |entry: std::fs::DirEntry| {
        let place = Path::new(FOLDER).join(entry.file_name());
        let bytes = state.read(&place, MAX_BYTES).ok()??;
        let OfSet { set } = serde_json::from_slice(&bytes).ok()?;
        // Where one of that name would not lie nobody would find it.
        (place_of(&set) == place).then_some(set)
    };
    let mut names: Vec<String> = entries.filter_map(name).collect();
    names.sort();
    names
}

/// The calibrations of the set.
pub fn read(state: &StateFolder, set: &str) -> FoundCalibration {
    match state.read(&place_of(set), MAX_BYTES) {
        Ok(None) => FoundCalibration::Absent,
        Ok(Some(bytes)) => match newer_version(&bytes, VERSION).filter(|_| bytes.len() as u64 <= MAX_BYTES) {
            Some(version) => FoundCalibration::Newer(version),
            None => parsed(&bytes, set).map_or_else(FoundCalibration::Wrong, FoundCalibration::Read),
        },
        Err(error) => FoundCalibration::Wrong(format!("cannot be read ({error})")),
    }
}

fn parsed(bytes: &[u8], set: &str) -> Result<SetCalibration, String> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("is larger than {MAX_BYTES} bytes"));
    }
    let file: SetCalibration = serde_json::from_slice(bytes).map_err(|error| format!("is damaged ({error})"))?;
    if file.set != set {
        return Err(format!("is one of the set `{}`", file.set));
    }
    match file.entries.iter().flat_map(|entry| &entry.labels).find(|(_, label)| !label.is_sound()) {
        Some((label, _)) => Err(format!("is damaged: the thresholds of `{label}` are none")),
        None => Ok(file),
    }
}

/// Changes the calibrations of the set as `change` says, and writes them; without any entry left the file goes. Where a file was that
/// could not be read, it is moved aside and its new name is given.
///
/// # Errors
/// When nothing can be written; what lay there is as it was.
pub fn change(
    state: &StateFolder,
    set: &str,
    change: impl FnOnce(&mut Vec<CalibrationEntry>),
) -> Result<Option<PathBuf>, CalibrationError> {
    let _lock = state.lock_file(Path::new(LOCK))?;
    let place = place_of(set);
    let (mut entries, wrong) = match read(state, set) {
        FoundCalibration::Absent => (Vec::new(), false),
        FoundCalibration::Read(file) => (file.entries, false),
        FoundCalibration::Newer(version) => {
            return Err(CalibrationError::Newer { path: state.place(&place), version });
        }
        FoundCalibration::Wrong(_) => (Vec::new(), true),
    };
    change(&mut entries);
    entries.retain(|entry| !entry.labels.is_empty());
    let file = SetCalibration { version: VERSION, set: set.to_owned(), entries };
    // Names and finite numbers.
    let text = serde_json::to_string_pretty(&file).unwrap_or_default();
    if text.len() as u64 > MAX_BYTES {
        return Err(CalibrationError::TooLarge(state.place(&place)));
    }
    let aside = if wrong { Some(state.keep_damaged(&place)?) } else { None };
    if file.entries.is_empty() {
        state.remove(&place)?;
    } else {
        state.write(&place, text.as_bytes())?;
    }
    Ok(aside)
}

/// Puts these labels in; others of the stream and region stay as they are.
pub fn put(
    entries: &mut Vec<CalibrationEntry>,
    stream: &str,
    region: Option<&str>,
    labels: BTreeMap<String, CalibratedLabel>,
) {
    let found = entries.iter_mut().find(|entry| entry.stream == stream && entry.region.as_deref() == region);
    match found {
        Some(entry) => entry.labels.extend(labels),
        None => entries.push(CalibrationEntry { stream: stream.to_owned(), region: region.map(str::to_owned), labels }),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, StateFolder) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateFolder::configured(dir.path().join("state"));
        (dir, state)
    }

    fn set(scoring: Scoring) -> LabelSet {
        LabelSet {
            name: "yard 1".to_owned(),
            scoring,
            templates: vec!["{}".to_owned()],
            ensemble: Ensemble::Embeddings,
            background: vec!["a yard".to_owned()],
            has_nouns: false,
            counter_examples: Vec::new(),
            labels: vec![Label::plain("car"), Label::plain("bus")],
            hours: None,
            file: Default::default(),
            sha256: String::new(),
        }
    }

    fn bound(set: &LabelSet, view: &str) -> Binding {
        Binding::of(set, &set.labels[0], view.to_owned(), "1s".to_owned(), "m")
    }

    /// A label that was calibrated on a few marks.
    pub fn calibrated(bound: Binding) -> CalibratedLabel {
        CalibratedLabel {
            enter: 1.5,
            exit: 0.25,
            after: 0.5,
            after_exit: 1.0,
            cooldown: 5.0,
            cautious: false,
            seen: 12,
            not_seen: 40,
            not_seen_range: [-3.0, 0.5],
            made_at: jiff::Timestamp::UNIX_EPOCH,
            bound,
        }
    }

    fn label() -> CalibratedLabel {
        calibrated(bound(&set(Scoring::Independent), "model"))
    }

    fn one(state: &StateFolder, stream: &str, name: &str) -> Option<PathBuf> {
        change(state, "yard 1", |entries| put(entries, stream, None, BTreeMap::from([(name.to_owned(), label())])))
            .unwrap()
    }

    #[test]
    fn what_is_put_is_read_and_one_stream_says_nothing_of_another() {
        let (_dir, state) = folder();
        assert_eq!(read(&state, "yard 1"), FoundCalibration::Absent);
        assert_eq!(
            (one(&state, "gate", "car"), one(&state, "gate", "bus"), one(&state, "door", "car")),
            (None, None, None)
        );
        let found = read(&state, "yard 1");
        assert_eq!(found.of("gate", None, "car"), Some(&label()));
        assert!(found.of("gate", None, "bus").is_some() && found.of("door", None, "bus").is_none());
        assert!(found.of("gate", Some("left"), "car").is_none());
        assert!(state.place(&place_of("yard 1")).ends_with("calibrations/yard%201.calibration.json"));
        assert_eq!(names(&state), ["yard 1"]);
        change(&state, "yard 1", Vec::clear).unwrap();
        assert_eq!((read(&state, "yard 1"), names(&state).len()), (FoundCalibration::Absent, 0));
    }

    #[test]
    fn a_file_that_is_damaged_is_named_and_moved_aside_and_one_of_a_newer_version_is_left_alone() {
        let (_dir, state) = folder();
        one(&state, "gate", "car");
        let path = state.place(&place_of("yard 1"));
        let whole = std::fs::read_to_string(&path).unwrap();
        let wrong = [
            whole[..whole.len() / 2].to_owned(),
            whole.replace("1.5", "null"),
            whole.replace("0.25", "2.5"),
            whole.replace("\"after\": 0.5", "\"after\": -1"),
            whole.replace("yard 1", "yard 2"),
            whole.replace("yard 1", "newer"),
        ];
        for text in wrong {
            std::fs::write(&path, &text).unwrap();
            assert!(matches!(read(&state, "yard 1"), FoundCalibration::Wrong(_)), "{text}");
            let aside = one(&state, "door", "car").unwrap();
            assert_eq!(std::fs::read_to_string(aside).unwrap(), text);
            assert!(read(&state, "yard 1").of("door", None, "car").is_some());
        }
        let newer = whole.replace("\"version\": 1", "\"version\": 2");
        std::fs::write(&path, &newer).unwrap();
        let refused = change(&state, "yard 1", |_| ());
        assert!(matches!(refused, Err(CalibrationError::Newer { version: 2, .. })), "{refused:?}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), newer);
    }

    #[test]
    fn a_label_is_bound_to_what_its_margins_depend_on_and_to_nothing_else() {
        let (exclusive, independent) = (set(Scoring::Exclusive), set(Scoring::Independent));
        let mut other = independent.clone();
        other.labels[1].prompts = vec!["a coach".to_owned()];
        other.labels[0].attributes.insert("floor".to_owned(), 3.into());
        other.name = "another".to_owned();
        assert_eq!(bound(&independent, "v").differing(&bound(&other, "v")), Vec::<&str>::new());
        let mut rivals = exclusive.clone();
        rivals.labels[1].prompts = vec!["a coach".to_owned()];
        assert_eq!(bound(&exclusive, "v").differing(&bound(&rivals, "v")), ["prompts"]);
        let mut all = exclusive.clone();
        all.templates.push("a photo of {}".to_owned());
        all.background.clear();
        all.ensemble = Ensemble::Probabilities;
        all.labels[0].negatives.push("a toy car".to_owned());
        let now = Binding::of(&all, &all.labels[0], "w".to_owned(), "2s".to_owned(), "n");
        let differing = bound(&exclusive, "v").differing(&now);
        assert_eq!(differing, ["model", "prompts", "templates", "background", "scoring", "view", "interval"]);
    }
}
