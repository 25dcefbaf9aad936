//! Examples that the daemon keeps: what the history had of marked moments when a label was calibrated, `examples/SET.examples.json` below the state
//! directory.
//!
//! In: a state directory and the name of a set. Out: the examples of each label, with their embeddings, as they are part of the set from then on. The
//! history forgets; these do not. Replaced whole, by one writer at a time; a file that is damaged is told, and is moved aside before another is
//! written; one that cannot be read, or is of a newer vtagd, is told and left alone. At most [`examples::MOST`] of each kind a label and stream. On the caller's thread.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::LabelSet;
use super::examples::{self, Example, ExampleSource};
use super::kept_file::{self, KeptFileError};
use crate::platform::hex::hex;
use crate::platform::state_folder::{StateError, StateFolder};

/// Below the state directory.
const FOLDER: &str = "examples";
const EXTENSION: &str = ".examples.json";
/// Held by whoever writes one.
const LOCK: &str = "examples.lock";
/// Some four thousand embeddings.
const MAX_BYTES: u64 = 32 << 20;
const VERSION: u32 = 1;

/// One embedding, and where it is from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptExample {
    /// When it was, for people.
    pub at: jiff::Timestamp,
    /// The model's fingerprint.
    pub model: String,
    pub embedding: Vec<f32>,
}

/// Those of a label on a stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeptExamples {
    pub examples: Vec<KeptExample>,
    pub counter_examples: Vec<KeptExample>,
}

impl KeptExamples {
    pub fn has_any(&self) -> bool {
        !self.examples.is_empty() || !self.counter_examples.is_empty()
    }
}

/// Stream, label, what is kept.
type ByStream = BTreeMap<String, BTreeMap<String, KeptExamples>>;

#[derive(Debug, Deserialize, Serialize)]
struct ExampleFile {
    version: u32,
    set: String,
    streams: ByStream,
}

/// Why nothing was kept, or what is kept is not used.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error(transparent)]
    File(#[from] KeptFileError),
    #[error("{} would be larger than {MAX_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error(transparent)]
    State(#[from] StateError),
}

fn place_of(set: &str) -> PathBuf {
    kept_file::of_set(FOLDER, set, EXTENSION)
}

fn read(state: &StateFolder, set: &str) -> Result<ByStream, KeepError> {
    let place = place_of(set);
    let Some(file) = kept_file::read::<ExampleFile>(state, &place, (VERSION, MAX_BYTES))? else {
        return Ok(ByStream::new());
    };
    if file.set != set {
        let why = format!("is one of the set `{}`", file.set);
        return Err(KeptFileError::Damaged { path: state.place(&place), why }.into());
    }
    Ok(file.streams)
}

/// Adds to `set` what is kept for it; `Some`: what is wrong with the file, which is not used then.
pub fn add_to(set: &mut LabelSet, state: &StateFolder) -> Option<KeepError> {
    let streams = match read(state, &set.name) {
        Ok(streams) => streams,
        Err(error) => return Some(error),
    };
    for (stream, labels) in &streams {
        for (label, kept) in labels {
            put_into(set, stream, label, kept);
        }
    }
    None
}

/// Makes `kept` what `set` has of the label from `stream`.
pub fn put_into(set: &mut LabelSet, stream: &str, label: &str, kept: &KeptExamples) {
    let Some(label) = set.labels.iter_mut().find(|one| one.name == label) else { return };
    for (list, kept) in [(&mut label.examples, &kept.examples), (&mut label.counter_examples, &kept.counter_examples)] {
        list.retain(|one| !matches!(&one.source, ExampleSource::Stored { stream: of, .. } if of == stream));
        list.extend(kept.iter().take(examples::MOST).map(|one| example(stream, one)));
    }
}

/// Takes kept examples out of labels that have nothing to be told from any more; their names.
pub fn drop_without_rivals(set: &mut LabelSet) -> Vec<String> {
    let is_kept = |one: &Example| matches!(one.source, ExampleSource::Stored { .. });
    let is_lonely = |at: &usize| set.labels[*at].examples.iter().any(is_kept) && !set.has_rival_pictures(*at);
    let lonely: Vec<usize> = (0..set.labels.len()).filter(is_lonely).collect();
    let dropped = lonely.into_iter().map(|at| {
        set.labels[at].examples.retain(|one| !is_kept(one));
        set.labels[at].name.clone()
    });
    dropped.collect()
}

/// Makes `found` what `set` has from `stream`, but for labels of which nothing can be learned then: of those nothing is kept. Their names.
pub fn put_all(set: &mut LabelSet, stream: &str, found: &mut BTreeMap<String, KeptExamples>) -> Vec<String> {
    found.iter().for_each(|(label, kept)| put_into(set, stream, label, kept));
    let mut refused = Vec::new();
    for (name, kept) in found.iter_mut().filter(|(_, kept)| kept.has_any()) {
        let at = set.labels.iter().position(|label| label.name == *name);
        if at.is_some_and(|at| set.labels[at].examples.is_empty() || !set.has_rival_pictures(at)) {
            *kept = KeptExamples::default();
            put_into(set, stream, name, kept);
            refused.push(name.clone());
        }
    }
    refused
}

fn example(stream: &str, kept: &KeptExample) -> Example {
    let mut hasher = Sha256::new();
    hasher.update(kept.model.as_bytes());
    kept.embedding.iter().for_each(|value| hasher.update(value.to_le_bytes()));
    Example {
        source: ExampleSource::Stored {
            embedding: kept.embedding.clone(),
            model: kept.model.clone(),
            stream: stream.to_owned(),
        },
        digest: hex(&hasher.finalize()),
        name: format!("kept of stream {stream}, {}", kept.at),
    }
}

/// Keeps these labels' examples of `stream`; those of others stay. Where the file was damaged its new name is given.
///
/// # Errors
/// When nothing can be written, or what lies there cannot be read or is of a newer vtagd; it is as it was then.
pub fn keep(
    state: &StateFolder,
    set: &str,
    stream: &str,
    labels: BTreeMap<String, KeptExamples>,
) -> Result<Option<PathBuf>, KeepError> {
    let _lock = state.lock_file(Path::new(LOCK))?;
    let place = place_of(set);
    let (mut streams, is_damaged) = match read(state, set) {
        Ok(streams) => (streams, false),
        Err(KeepError::File(KeptFileError::Damaged { .. })) => (ByStream::new(), true),
        Err(error) => return Err(error),
    };
    streams.entry(stream.to_owned()).or_default().extend(labels);
    for labels in streams.values_mut() {
        labels.retain(|_, kept| kept.has_any());
    }
    streams.retain(|_, labels| !labels.is_empty());
    // Names, times and finite numbers.
    let text =
        serde_json::to_string(&ExampleFile { version: VERSION, set: set.to_owned(), streams }).unwrap_or_default();
    if text.len() as u64 > MAX_BYTES {
        return Err(KeepError::TooLarge(state.place(&place)));
    }
    let aside = if is_damaged { Some(state.keep_damaged(&place)?) } else { None };
    state.write(&place, text.as_bytes())?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::set;
    use crate::score::Scoring;
    use crate::yaml::Document;

    fn yard() -> LabelSet {
        let text = "set: yard\nbackground: [a wall]\nlabels: [{ name: car }, { name: bus }]\n";
        set::check(Document::parse(Path::new("yard.yaml"), text.as_bytes()).unwrap()).unwrap().set
    }

    #[test]
    fn what_is_kept_is_part_of_the_set_from_then_on_and_a_stream_replaces_only_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateFolder::configured(dir.path().join("state"));
        let one = |value: f32| KeptExample {
            at: jiff::Timestamp::UNIX_EPOCH,
            model: "m".to_owned(),
            embedding: vec![value, 0.1, 1.0 / 3.0],
        };
        let of = |own: &[f32], other: &[f32]| KeptExamples {
            examples: own.iter().copied().map(one).collect(),
            counter_examples: other.iter().copied().map(one).collect(),
        };
        let put = |stream: &str, kept| keep(&state, "yard", stream, [("car".to_owned(), kept)].into()).unwrap();
        put("gate", of(&[1.0], &[2.0]));
        put("door", of(&[3.0], &[]));
        put("gate", of(&[4.0, 5.0], &[6.0]));
        let mut set = yard();
        assert!(add_to(&mut set, &state).is_none());
        let values = |list: &[Example]| {
            let value = |one: &Example| match &one.source {
                ExampleSource::Stored { embedding, .. } => embedding.clone(),
                other => panic!("{other:?}"),
            };
            list.iter().map(value).collect::<Vec<_>>()
        };
        assert_eq!(values(&set.labels[0].examples), [one(3.0), one(4.0), one(5.0)].map(|one| one.embedding));
        assert_eq!(values(&set.labels[0].counter_examples), [one(6.0).embedding]);
        assert!(set.labels[1].examples.is_empty());
        // As it was put in without a detour over the disk: thresholds are bound to it.
        let mut direct = yard();
        put_into(&mut direct, "door", "car", &of(&[3.0], &[]));
        put_into(&mut direct, "gate", "car", &of(&[9.0], &[]));
        put_into(&mut direct, "gate", "car", &of(&[4.0, 5.0], &[6.0]));
        assert_eq!(direct, set);
        put("gate", KeptExamples::default());
        put("door", KeptExamples::default());
        let mut set = yard();
        assert!(add_to(&mut set, &state).is_none() && !set.has_examples());
        std::fs::write(state.place(&place_of("yard")), "[").unwrap();
        assert!(add_to(&mut yard(), &state).is_some_and(|why| why.to_string().contains("is damaged")));
        let aside = put("gate", of(&[1.0], &[2.0])).unwrap();
        assert_eq!(std::fs::read_to_string(aside).unwrap(), "[");
        assert!(add_to(&mut yard(), &state).is_none());
        // What a newer vtagd has written stays to the last byte, and what cannot be read is not taken for damaged.
        let place = state.place(&place_of("yard"));
        let newer = "{\"version\": 99, \"set\": \"yard\", \"kept\": {}}";
        std::fs::write(&place, newer).unwrap();
        let again = || keep(&state, "yard", "gate", [("car".to_owned(), of(&[1.0], &[2.0]))].into());
        assert!(matches!(again(), Err(KeepError::File(KeptFileError::Newer { version: 99, .. }))));
        assert!(matches!(add_to(&mut yard(), &state), Some(KeepError::File(KeptFileError::Newer { .. }))));
        assert_eq!(std::fs::read_to_string(&place).unwrap(), newer);
        std::fs::remove_file(&place).unwrap();
        std::fs::create_dir(&place).unwrap();
        assert!(matches!(again(), Err(KeepError::File(KeptFileError::Unreadable { .. }))) && place.is_dir());
    }

    #[test]
    fn of_a_label_with_one_side_alone_nothing_is_learned_and_others_are() {
        let one = |value: f32| KeptExample {
            at: jiff::Timestamp::UNIX_EPOCH,
            model: "m".to_owned(),
            embedding: vec![value, 1.0],
        };
        let kept = |own: &[f32], other: &[f32]| KeptExamples {
            examples: own.iter().copied().map(one).collect(),
            counter_examples: other.iter().copied().map(one).collect(),
        };
        let found = || -> BTreeMap<String, KeptExamples> {
            [("car".to_owned(), kept(&[1.0], &[])), ("bus".to_owned(), kept(&[2.0], &[3.0]))].into()
        };
        let mut independent = yard();
        independent.scoring = Scoring::Independent;
        let (mut set, mut of) = (independent.clone(), found());
        assert_eq!(put_all(&mut set, "gate", &mut of), ["car"]);
        assert!(of["car"] == KeptExamples::default() && set.labels[0].examples.is_empty());
        assert_eq!((&of["bus"], set.labels[1].examples.len()), (&found()["bus"], 1));
        // The other label is what it is told from.
        let (mut set, mut of) = (yard(), found());
        assert!(put_all(&mut set, "gate", &mut of).is_empty() && of == found());
        let mut only: BTreeMap<String, KeptExamples> = [("bus".to_owned(), kept(&[], &[3.0]))].into();
        assert_eq!(put_all(&mut yard(), "gate", &mut only), ["bus"]);
        // What was kept, and has lost since what it was told from.
        let mut set = independent;
        put_into(&mut set, "gate", "car", &found()["car"]);
        put_into(&mut set, "gate", "bus", &found()["bus"]);
        assert_eq!(drop_without_rivals(&mut set), ["car"]);
        assert_eq!(set.labels.iter().map(|label| label.examples.len()).collect::<Vec<_>>(), [0, 1]);
    }
}
