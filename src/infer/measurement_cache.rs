//! What measuring has found, kept for the next start. In: what an answer depends on, and the answer; out: the answer, if that was measured
//! before. A file of the cache directory for each combination; a damaged one is measured again. On the caller's thread, at start-up.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::platform::atomic_file::{self, Durability};
use crate::platform::hex::hex;

/// Longest file that is read.
const FILE_LIMIT: u64 = 64 << 10;

/// What an answer depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasurementKey {
    /// What was asked, in a word; the file's name begins with it.
    pub question: String,
    /// Fingerprint of the model.
    pub model: String,
    /// [`Processor::identity`](crate::platform::processor::Processor::identity).
    pub cpu: String,
    pub cores: usize,
    /// Version of ONNX Runtime, and of what else computes.
    pub runtime: String,
    pub batch: usize,
    /// Of the configuration, what else changes the answer.
    pub options: String,
}

/// A remembered answer.
#[derive(Debug, Serialize, Deserialize)]
struct Entry<T> {
    key: MeasurementKey,
    answer: T,
}

impl MeasurementKey {
    fn file(&self, folder: &Path) -> PathBuf {
        let digits = hex(&Sha256::digest(format!("{self:?}"))[..12]);
        folder.join(format!("{}-{digits}.json", self.question))
    }

    /// What was measured before, if anything.
    pub fn load<T: DeserializeOwned>(&self, folder: &Path) -> Option<T> {
        let file = self.file(folder);
        fs::metadata(&file).ok().filter(|meta| meta.len() <= FILE_LIMIT)?;
        let entry: Entry<T> = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        (entry.key == *self).then_some(entry.answer)
    }

    /// Remembers `answer`.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn keep<T: Serialize>(&self, folder: &Path, answer: T) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let (file, entry) = (self.file(folder), Entry { key: self.clone(), answer });
        atomic_file::sweep(folder);
        atomic_file::replace(&file, &serde_json::to_vec_pretty(&entry)?, Durability::Synced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_remembered_for_exactly_what_it_depends_on() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let key = MeasurementKey {
            question: "sessions".into(),
            model: "abc".into(),
            cpu: "x".into(),
            cores: 8,
            runtime: "1.32".into(),
            batch: 8,
            options: String::new(),
        };
        assert_eq!(key.load::<u32>(folder), None);
        key.keep(folder, 7).unwrap();
        assert_eq!(key.load(folder), Some(7));
        for other in [
            MeasurementKey { question: "precision".into(), ..key.clone() },
            MeasurementKey { model: "abd".into(), ..key.clone() },
            MeasurementKey { cpu: "y".into(), ..key.clone() },
            MeasurementKey { cores: 4, ..key.clone() },
            MeasurementKey { runtime: "1.33".into(), ..key.clone() },
            MeasurementKey { batch: 4, ..key.clone() },
            MeasurementKey { options: "threads=1".into(), ..key.clone() },
        ] {
            assert_eq!(other.load::<u32>(folder), None, "{other:?}");
        }
        assert_eq!(key.load::<String>(folder), None, "an answer of another kind is none");
        fs::write(key.file(folder), "{").unwrap();
        assert_eq!(key.load::<u32>(folder), None, "a damaged file is measured again");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| key.keep(folder, 9).unwrap()));
            }
        });
        assert_eq!(key.load(folder), Some(9));
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "those that remember at once are not in each other's way");
    }
}
