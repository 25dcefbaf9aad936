//! `runtime.sessions: auto` on a CPU: how the cores are shared out between sessions. In: the cores, and what was
//! measured; out: sessions and threads each. Pure, but for the file that remembers the answer.
//!
//! Threads of one session wait for each other hundreds of times a run; two sessions with half the threads each do so less, and all the
//! more so where something else takes a core from time to time. They share their weights, but each run has memory of its own and takes
//! longer. So sessions have to be worth it: [`WORTH`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::platform::atomic_file::{self, Durability};
use crate::platform::hex::hex;

/// Where nobody asks for it, a box with fewer cores is not measured: it is a small one, and slow to start already.
pub const UNASKED_CORES: usize = 4;
/// With one core there is nothing to share out.
pub const LEAST_CORES: usize = 2;
/// What more sessions must gain over fewer: a picture that comes alone is looked at by fewer threads.
const WORTH: f64 = 1.1;
/// Longest file that is read.
const FILE_LIMIT: u64 = 64 << 10;

/// Sessions, and threads inside one operator of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionThreads {
    pub sessions: usize,
    pub threads: usize,
}

/// What is worth measuring on so many `cores`, fewest sessions first; only the first where there is nothing to choose, or there are
/// fewer cores than `least`.
pub fn candidates(cores: usize, least: usize) -> Vec<SessionThreads> {
    let all = SessionThreads { sessions: 1, threads: cores.max(1) };
    let more = std::iter::successors(Some(2_usize), |sessions| Some(sessions * 2))
        .take_while(|sessions| cores >= least.max(LEAST_CORES) && *sessions <= cores)
        .map(|sessions| SessionThreads { sessions, threads: cores / sessions });
    std::iter::once(all).chain(more).collect()
}

/// The split to use of those with their images a second, fewest sessions first.
pub fn choose(measured: &[(SessionThreads, f64)]) -> Option<SessionThreads> {
    let better =
        |best: (SessionThreads, f64), next: (SessionThreads, f64)| if next.1 >= best.1 * WORTH { next } else { best };
    measured.iter().copied().reduce(better).map(|(split, _)| split)
}

/// What an answer depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Fingerprint of the model.
    pub model: String,
    pub cpu: String,
    pub cores: usize,
    /// Version of ONNX Runtime.
    pub runtime: String,
    pub batch: usize,
}

/// A remembered answer.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    key: Key,
    split: SessionThreads,
}

impl Key {
    fn file(&self, folder: &Path) -> PathBuf {
        let digits = hex(&Sha256::digest(format!("{self:?}"))[..12]);
        folder.join(format!("sessions-{digits}.json"))
    }

    /// What was measured before, if anything.
    pub fn load(&self, folder: &Path) -> Option<SessionThreads> {
        let file = self.file(folder);
        fs::metadata(&file).ok().filter(|meta| meta.len() <= FILE_LIMIT)?;
        let entry: Entry = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        let sensible =
            entry.split.sessions.saturating_mul(entry.split.threads) <= self.cores && entry.split.sessions > 0;
        (entry.key == *self && sensible).then_some(entry.split)
    }

    /// Remembers `split`.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn keep(&self, folder: &Path, split: SessionThreads) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let (file, entry) = (self.file(folder), Entry { key: self.clone(), split });
        atomic_file::sweep(folder);
        atomic_file::replace(&file, &serde_json::to_vec_pretty(&entry)?, Durability::Synced)
    }
}

/// What this CPU is called, of `/proc/cpuinfo`.
pub fn cpu_name(cpuinfo: &str) -> String {
    // ARM gives numbers instead of a name.
    let value = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    value("model name").or_else(|| value("CPU part")).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splits(cores: usize) -> Vec<(usize, usize)> {
        candidates(cores, UNASKED_CORES).iter().map(|split| (split.sessions, split.threads)).collect()
    }

    #[test]
    fn few_cores_are_not_shared_out() {
        assert_eq!(splits(1), [(1, 1)]);
        assert_eq!(splits(3), [(1, 3)]);
        assert_eq!(candidates(2, LEAST_CORES).len(), 2, "unless somebody asks for it");
        assert_eq!(splits(8), [(1, 8), (2, 4), (4, 2), (8, 1)]);
        assert_eq!(splits(6), [(1, 6), (2, 3), (4, 1)]);
    }

    #[test]
    fn more_sessions_have_to_be_worth_it() {
        let split = |sessions| SessionThreads { sessions, threads: 8 / sessions };
        let chosen = |rates: [f64; 4]| {
            let measured: Vec<_> = [1, 2, 4, 8].map(split).into_iter().zip(rates).collect();
            choose(&measured).unwrap().sessions
        };
        assert_eq!(chosen([100.0, 106.0, 108.0, 109.0]), 1);
        assert_eq!(chosen([100.0, 120.0, 125.0, 130.0]), 2);
        assert_eq!(chosen([100.0, 108.0, 115.0, 90.0]), 4, "two alone would not have been");
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn an_answer_is_remembered_for_its_model_cpu_and_runtime_only() {
        let folder = tempfile::tempdir().unwrap();
        let key = Key { model: "abc".into(), cpu: "x".into(), cores: 8, runtime: "1.32".into(), batch: 8 };
        assert_eq!(key.load(folder.path()), None);
        key.keep(folder.path(), SessionThreads { sessions: 2, threads: 4 }).unwrap();
        assert_eq!(key.load(folder.path()), Some(SessionThreads { sessions: 2, threads: 4 }));
        for other in [Key { runtime: "1.33".into(), ..key.clone() }, Key { cores: 4, ..key.clone() }] {
            assert_eq!(other.load(folder.path()), None);
        }
        fs::write(key.file(folder.path()), "{").unwrap();
        assert_eq!(key.load(folder.path()), None, "a damaged file is measured again");
    }

    #[test]
    fn those_that_remember_at_once_are_not_in_each_others_way() {
        let folder = tempfile::tempdir().unwrap();
        let key = Key { model: "abc".into(), cpu: "x".into(), cores: 8, runtime: "1.32".into(), batch: 8 };
        let split = SessionThreads { sessions: 2, threads: 4 };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| key.keep(folder.path(), split).unwrap()));
            }
        });
        assert_eq!(key.load(folder.path()), Some(split));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn the_cpu_is_read_as_the_kernel_writes_it() {
        assert_eq!(cpu_name("processor\t: 0\nmodel name\t: AMD EPYC\nmodel name\t: AMD EPYC\n"), "AMD EPYC");
        assert_eq!(cpu_name("processor : 0\nCPU part\t: 0xd0c\n"), "0xd0c");
        assert_eq!(cpu_name(""), "unknown");
    }
}
