//! Built TensorRT engines on disk. Building one takes minutes, and an engine fits one model, one kind of GPU and one version of the
//! libraries only; so each combination has a folder of its own, named by a hash of all of it, with the words in `key.json`.
//!
//! Comes in: what the engine is for. Goes out: the folder, and whether an engine lies in it already. Old combinations are kept up to
//! [`KEEP`], the longest unused go first; folders without our `key.json` are never touched. What a machine is made of comes in as
//! a [`Machine`], so all of this is tested without a GPU.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use crate::platform::atomic_file::{self, Durability};
use crate::platform::hex::hex;

/// Combinations kept: a model or two with their last change of version.
const KEEP: usize = 4;
const KEY_FILE: &str = "key.json";
/// Longest key file that is read.
const KEY_LIMIT: u64 = 64 << 10;

/// What engines depend on besides the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Names of all GPUs and which of them it is. TensorRT itself puts the compute capability into a file's name.
    pub gpu: String,
    pub tensorrt: String,
    pub runtime: String,
}

/// Everything that decides what an engine is, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key(BTreeMap<String, String>);

/// A folder for engines of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    pub folder: PathBuf,
    /// An engine lies there; otherwise one will be built.
    pub built: bool,
}

impl Key {
    /// `model` tells the weights apart: a fingerprint. `shapes` are the pictures that it is built for.
    pub fn new(model: &str, machine: &Machine, fp16: bool, shapes: &str) -> Self {
        let parts = [
            ("model", model),
            ("gpu", &machine.gpu),
            ("tensorrt", &machine.tensorrt),
            ("onnx runtime", &machine.runtime),
            ("fp16", if fp16 { "yes" } else { "no" }),
            ("shapes", shapes),
        ];
        Self(parts.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn folder(&self) -> String {
        let mut hash = Sha256::new();
        for (name, value) in &self.0 {
            hash.update(format!("{name}\0{value}\n"));
        }
        format!("engine-{}", hex(&hash.finalize()[..12]))
    }

    fn same_model(&self, other: &Self) -> bool {
        self.0.get("model") == other.0.get("model")
    }

    /// What is not the same, as `tensorrt 10.3.0 → 10.9.0`.
    fn changes(&self, now: &Self) -> String {
        let changed = now.0.iter().filter(|(name, value)| self.0.get(*name) != Some(value));
        let words = changed
            .map(|(name, value)| format!("{name} {} → {value}", self.0.get(name).map_or("unknown", String::as_str)));
        words.collect::<Vec<_>>().join(", ")
    }
}

/// The folder for `key` under `root`, made if it is not there. Says in the log when engines of this model were built for something
/// else, and removes what has not been used longest.
///
/// # Errors
/// A folder or key file that cannot be written.
pub fn prepare(root: &Path, key: &Key) -> io::Result<Prepared> {
    let folder = root.join(key.folder());
    let known = read_key(&folder).is_some_and(|(written, _)| written == *key);
    let newest = all(root).into_iter().filter(|(_, old, _)| old.same_model(key)).max_by_key(|(_, _, used)| *used);
    if !known && let Some((_, old, _)) = newest {
        warn!(changed = old.changes(key), "the tensorrt engine of this model is stale, building another");
    }
    fs::create_dir_all(&folder)?;
    // Written at every start: its time is when the folder was last used.
    atomic_file::sweep(&folder);
    atomic_file::replace(&folder.join(KEY_FILE), &serde_json::to_vec_pretty(key)?, Durability::Synced)?;
    sweep(root, &folder);
    let built = holds_engine(&folder);
    Ok(Prepared { folder, built })
}

/// Whether TensorRT has left an engine in `folder`.
pub fn holds_engine(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.path().extension().is_some_and(|end| end == "engine"))
}

/// Removes the engines in `folder`, which turned out not to load.
///
/// # Errors
/// A file that cannot be removed.
pub fn clear(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.path().extension().is_some_and(|end| end == "engine" || end == "profile") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Our folders with their keys and when they were last used.
fn all(root: &Path) -> Vec<(PathBuf, Key, SystemTime)> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries.filter_map(|entry| read_key(&entry.path()).map(|(key, used)| (entry.path(), key, used))).collect()
}

fn read_key(folder: &Path) -> Option<(Key, SystemTime)> {
    let file = folder.join(KEY_FILE);
    let meta = fs::metadata(&file).ok().filter(|meta| meta.len() <= KEY_LIMIT)?;
    Some((serde_json::from_slice(&fs::read(&file).ok()?).ok()?, meta.modified().ok()?))
}

/// Removes what TensorRT and we have put into `folder`, the key last, and the folder if nothing else is in it.
fn remove(folder: &Path) -> io::Result<()> {
    clear(folder)?;
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.path().extension().is_some_and(|end| end == "timing" || end == "tmp") {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_file(folder.join(KEY_FILE))?;
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        done => done,
    }
}

fn sweep(root: &Path, current: &Path) {
    let mut old: Vec<_> = all(root).into_iter().filter(|(folder, ..)| folder != current).collect();
    old.sort_by_key(|(_, _, used)| std::cmp::Reverse(*used));
    for (folder, ..) in old.into_iter().skip(KEEP - 1) {
        match remove(&folder) {
            Ok(()) => info!(folder = %folder.display(), "old tensorrt engines removed"),
            Err(error) => warn!(folder = %folder.display(), %error, "old tensorrt engines cannot be removed"),
        }
    }
}

/// What the NVIDIA driver says about the GPUs, under `root` (`/proc/driver/nvidia/gpus`), and which of them is meant. The order of
/// CUDA's device numbers is its own, so all names count.
pub fn gpus(root: &Path, device: u32, visible: Option<&str>) -> String {
    let mut names: Vec<(PathBuf, String)> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path().join("information")).ok()?;
            let name = text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim().to_owned();
            Some((entry.path(), name))
        })
        .collect();
    names.sort();
    let names: Vec<_> = names.into_iter().map(|(_, name)| name).collect();
    let names = if names.is_empty() { "unknown".to_owned() } else { names.join(", ") };
    let among = visible.map_or_else(String::new, |list| format!(" of {list}"));
    format!("device {device}{among} ({names})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(tensorrt: &str) -> Machine {
        Machine { gpu: "device 0 (NVIDIA L4)".into(), tensorrt: tensorrt.into(), runtime: "1.31".into() }
    }

    fn key(model: &str, tensorrt: &str) -> Key {
        Key::new(model, &machine(tensorrt), true, "x:1..8x3x224x224")
    }

    #[test]
    fn whatever_an_engine_depends_on_gives_it_another_folder() {
        let base = key("abc", "10.3.0");
        let other_gpu = Machine { gpu: "device 0 (NVIDIA T4)".into(), ..machine("10.3.0") };
        let other_runtime = Machine { runtime: "1.32".into(), ..machine("10.3.0") };
        let others = [
            key("abd", "10.3.0"),
            key("abc", "10.9.0"),
            Key::new("abc", &other_gpu, true, "x:1..8x3x224x224"),
            Key::new("abc", &other_runtime, true, "x:1..8x3x224x224"),
            Key::new("abc", &machine("10.3.0"), false, "x:1..8x3x224x224"),
            Key::new("abc", &machine("10.3.0"), true, "x:1..16x3x224x224"),
        ];
        assert!(others.iter().all(|other| other.folder() != base.folder()));
        assert_eq!(key("abc", "10.3.0").folder(), base.folder());
    }

    #[test]
    fn an_engine_is_built_once_and_found_again() {
        let root = tempfile::tempdir().unwrap();
        let first = prepare(root.path(), &key("abc", "10.3.0")).unwrap();
        assert!(!first.built && first.folder.is_dir());
        fs::write(first.folder.join("TensorrtExecutionProvider_sm89.engine"), b"x").unwrap();
        let again = prepare(root.path(), &key("abc", "10.3.0")).unwrap();
        assert_eq!(again, Prepared { built: true, ..first.clone() });
        let newer = prepare(root.path(), &key("abc", "10.9.0")).unwrap();
        assert!(!newer.built && newer.folder != first.folder, "another version is another engine");
        assert_eq!(key("abc", "10.3.0").changes(&key("abc", "10.9.0")), "tensorrt 10.3.0 → 10.9.0");

        clear(&again.folder).unwrap();
        assert!(!holds_engine(&again.folder) && again.folder.join(KEY_FILE).is_file());
    }

    #[test]
    fn old_combinations_are_removed_in_bounds_and_strangers_folders_never() {
        let root = tempfile::tempdir().unwrap();
        let stranger = root.path().join("engine-of-mine");
        fs::create_dir(&stranger).unwrap();
        fs::write(stranger.join("a.engine"), b"x").unwrap();
        let mut folders = Vec::new();
        for version in 0..KEEP + 2 {
            let folder = prepare(root.path(), &key("abc", &version.to_string())).unwrap().folder;
            // Their order must not depend on how finely the file system tells time.
            let used = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000 + version as u64);
            fs::File::options().write(true).open(folder.join(KEY_FILE)).unwrap().set_modified(used).unwrap();
            fs::write(folder.join("a.engine"), b"x").unwrap();
            if version == 1 {
                fs::write(folder.join("notes.txt"), b"somebody else's").unwrap();
            }
            folders.push(folder);
        }
        let left: Vec<bool> = folders.iter().map(|folder| folder.is_dir()).collect();
        assert_eq!(left, [false, true, true, true, true, true]);
        assert!(folders[1].join("notes.txt").is_file() && !holds_engine(&folders[1]), "what we put there goes");
        assert!(stranger.join("a.engine").is_file());
    }

    #[test]
    fn a_damaged_key_file_is_nobodys_folder_and_is_written_anew() {
        let root = tempfile::tempdir().unwrap();
        let folder = prepare(root.path(), &key("abc", "1")).unwrap().folder;
        fs::write(folder.join(KEY_FILE), b"{").unwrap();
        assert!(all(root.path()).is_empty());
        assert_eq!(prepare(root.path(), &key("abc", "1")).unwrap().folder, folder);
        assert_eq!(all(root.path()).len(), 1);
        let blocked = root.path().join("file");
        fs::write(&blocked, b"x").unwrap();
        assert!(prepare(&blocked, &key("abc", "1")).is_err());
    }

    #[test]
    fn gpus_are_told_by_the_driver_and_unknown_without_one() {
        let root = tempfile::tempdir().unwrap();
        for (slot, name) in [("0000:41:00.0", "NVIDIA L4"), ("0000:01:00.0", "NVIDIA T4")] {
            fs::create_dir(root.path().join(slot)).unwrap();
            fs::write(root.path().join(slot).join("information"), format!("Model: \t\t {name}\nIRQ: 1\n")).unwrap();
        }
        assert_eq!(gpus(root.path(), 1, None), "device 1 (NVIDIA T4, NVIDIA L4)");
        assert_eq!(gpus(Path::new("/no/such"), 0, Some("2,3")), "device 0 of 2,3 (unknown)");
    }
}
