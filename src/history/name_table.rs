//! The table of names: which number in a row stands for which stream, region, model and view. In: names as rows come, or the file at opening; out:
//! their numbers. Used by the store's thread, read by searches through a lock.
//!
//! The file `names.jsonl` has a line a name, `CRC32 JSON`, and is only ever appended to: a damaged line costs its own name. A number is never
//! given twice, and a row's checksum begins with what its name stands for, so that a row whose line was lost is never taken for another's.
//! Full ([`MAX_NAMES`]): a new name is refused. Model and view are parts of the name: each has a generation of rows of its own. Names that were
//! written before views were have none.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::platform::atomic_file::{self, Ownership};

/// Names of all streams, regions, models and views that a folder may hold.
pub const MAX_NAMES: usize = 16_384;
/// Longest text in a name.
const MAX_TEXT: usize = 256;
/// A line is below it.
const MAX_LINE: usize = 8 * MAX_TEXT;
const FILE: &str = "names.jsonl";

/// Whose a row is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Name {
    pub stream: String,
    /// Empty: the whole view.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// The fingerprint of the model that made its rows.
    pub model: String,
    /// The digest of the view that they were seen through. Empty: nobody knows.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub view: String,
}

/// Through which view rows were seen, held against one that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeenThrough {
    Same,
    Other,
    /// They are older than views are written down.
    Unknown,
}

impl Name {
    /// What the checksums of its rows begin with.
    pub fn seed(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        let view = Some(&self.view).filter(|view| !view.is_empty());
        for text in [&self.stream, &self.region, &self.model].into_iter().chain(view) {
            hasher.update(text.as_bytes());
            hasher.update(&[0]);
        }
        hasher.finalize()
    }

    /// Whether its rows were seen through `view`; an empty one asks for any.
    pub fn seen_through(&self, view: &str) -> SeenThrough {
        match &*self.view {
            own if own == view || view.is_empty() => SeenThrough::Same,
            "" => SeenThrough::Unknown,
            _ => SeenThrough::Other,
        }
    }

    fn fits(&self) -> bool {
        [&self.stream, &self.region, &self.model, &self.view].iter().all(|text| text.len() <= MAX_TEXT)
    }
}

#[derive(Serialize, Deserialize)]
struct Line {
    number: u32,
    #[serde(flatten)]
    name: Name,
}

/// Why a name has no number.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    #[error(
        "there are {MAX_NAMES} streams, regions, models and views in the history already: `vtagd history purge` makes room"
    )]
    Full,
    #[error("the name of the stream, region, model or view is longer than {MAX_TEXT} bytes")]
    TooLong,
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// See the module.
#[derive(Debug, Default)]
pub struct NameTable {
    /// `None`: in memory.
    path: Option<PathBuf>,
    numbers: HashMap<Name, u32>,
    names: HashMap<u32, Name>,
    next: u32,
}

impl NameTable {
    /// In memory alone.
    pub fn in_memory() -> Self {
        Self { next: 1, ..Self::default() }
    }

    /// What lies in `folder`, and a line for each damage.
    ///
    /// # Errors
    /// As the disk has it.
    pub fn open(folder: &Path) -> io::Result<(Self, Vec<String>)> {
        let mut table = Self { path: Some(folder.join(FILE)), ..Self::in_memory() };
        let mut bytes = Vec::new();
        match File::open(folder.join(FILE)) {
            Ok(file) => {
                file.take((MAX_NAMES * MAX_LINE) as u64).read_to_end(&mut bytes)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut damage = Vec::new();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            match parse(line) {
                Some(Line { number, name }) if table.names.len() < MAX_NAMES => {
                    table.next = table.next.max(number.saturating_add(1));
                    table.numbers.insert(name.clone(), number);
                    table.names.insert(number, name);
                }
                _ => {
                    damage
                        .push(format!("{FILE}: line {} is damaged: the rows of its stream cannot be found", index + 1));
                    // Numbers count up: a line that was lost had one too.
                    table.next = table.next.saturating_add(1);
                }
            }
        }
        Ok((table, damage))
    }

    /// The number of `name`, on the disk before it is told.
    ///
    /// # Errors
    /// When there are too many, or it cannot be written.
    pub fn number(&mut self, name: &Name) -> Result<u32, NameError> {
        if let Some(number) = self.numbers.get(name) {
            return Ok(*number);
        }
        if !name.fits() {
            return Err(NameError::TooLong);
        }
        if self.names.len() >= MAX_NAMES || self.next == u32::MAX {
            return Err(NameError::Full);
        }
        if let Some(path) = &self.path {
            let mut file = File::options().create(true).append(true).mode(0o600).open(path)?;
            // In front too: an earlier line may have been cut off.
            file.write_all(&[b"\n", &*line(self.next, name)?].concat())?;
            file.sync_data()?;
            atomic_file::sync_folder(atomic_file::folder_of(path))?;
        }
        let number = self.next;
        self.next += 1;
        self.numbers.insert(name.clone(), number);
        self.names.insert(number, name.clone());
        Ok(number)
    }

    /// Forgets the names for which `keep` is false.
    ///
    /// # Errors
    /// When the file cannot be written; all is as it was.
    pub fn retain(&mut self, keep: impl Fn(u32, &Name) -> bool) -> io::Result<()> {
        let kept: HashMap<u32, Name> = self
            .names
            .iter()
            .filter(|(number, name)| keep(**number, name))
            .map(|(n, name)| (*n, name.clone()))
            .collect();
        if let Some(path) = &self.path {
            let mut numbers: Vec<u32> = kept.keys().copied().collect();
            numbers.sort_unstable();
            let mut content = Vec::new();
            for number in numbers {
                content.extend(line(number, &kept[&number])?);
            }
            let folder = fs::metadata(atomic_file::folder_of(path))?;
            // Whoever cleans up: it stays the daemon's.
            let ownership = Ownership { uid: folder.uid(), gid: folder.gid(), mode: 0o600 };
            atomic_file::replace_as(path, &content, &ownership)?;
        }
        self.numbers.retain(|_, number| kept.contains_key(number));
        self.names = kept;
        Ok(())
    }

    pub fn get(&self, number: u32) -> Option<&Name> {
        self.names.get(&number)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Name)> {
        self.names.iter().map(|(number, name)| (*number, name))
    }
}

fn line(number: u32, name: &Name) -> io::Result<Vec<u8>> {
    let json = serde_json::to_string(&Line { number, name: name.clone() })?;
    Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes())
}

fn parse(line: &[u8]) -> Option<Line> {
    let (crc, json) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let whole = u32::from_str_radix(crc, 16).ok()? == crc32fast::hash(json.as_bytes());
    let line: Line = serde_json::from_str(json).ok().filter(|_| whole)?;
    (line.number > 0 && line.name.fits()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(stream: &str, model: &str) -> Name {
        Name { stream: stream.into(), model: model.into(), ..Name::default() }
    }

    #[test]
    fn numbers_outlast_the_process_and_a_model_has_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (mut table, _) = NameTable::open(folder.path()).unwrap();
        let told: Vec<u32> = [name("a", "m"), name("b", "m"), name("a", "n"), name("a", "m")]
            .iter()
            .map(|name| table.number(name).unwrap())
            .collect();
        assert_eq!(told, [1, 2, 3, 1]);
        let (mut again, damage) = NameTable::open(folder.path()).unwrap();
        assert!(damage.is_empty(), "{damage:?}");
        assert_eq!((again.number(&name("a", "n")).unwrap(), again.number(&name("c", "m")).unwrap()), (3, 4));
        again.retain(|_, name| name.stream != "a").unwrap();
        let (mut last, _) = NameTable::open(folder.path()).unwrap();
        assert_eq!(last.iter().count(), 2);
        assert_eq!(last.number(&name("a", "m")).unwrap(), 5, "no number twice");
    }

    #[test]
    fn a_view_has_a_number_of_its_own_and_lines_without_one_are_read_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let json = r#"{"number":1,"stream":"a","model":"m"}"#;
        std::fs::write(folder.path().join(FILE), format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))).unwrap();
        let (mut table, damage) = NameTable::open(folder.path()).unwrap();
        let seen = Name { view: "0123456789abcdef".into(), ..name("a", "m") };
        assert!(damage.is_empty(), "{damage:?}");
        assert_eq!((table.number(&name("a", "m")).unwrap(), table.number(&seen).unwrap()), (1, 2));
        assert!(name("a", "m").seed() != seen.seed());
        let (mut again, damage) = NameTable::open(folder.path()).unwrap();
        assert!(damage.is_empty(), "{damage:?}");
        assert_eq!((again.number(&seen).unwrap(), again.get(2)), (2, Some(&seen)));
        let through = |view| (name("a", "m").seen_through(view), seen.seen_through(view));
        assert_eq!(through("0123456789abcdef"), (SeenThrough::Unknown, SeenThrough::Same));
        assert_eq!(through("fedcba9876543210"), (SeenThrough::Unknown, SeenThrough::Other));
    }

    #[test]
    fn a_damaged_line_costs_its_own_name_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (mut table, _) = NameTable::open(folder.path()).unwrap();
        for stream in ["a", "b", "c"] {
            table.number(&name(stream, "m")).unwrap();
        }
        let path = folder.path().join(FILE);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            std::fs::write(&path, &bad).unwrap();
            let (mut table, damage) = NameTable::open(folder.path()).unwrap();
            assert!(table.iter().count() >= 1, "byte {at}");
            assert!(table.iter().count() == 3 || !damage.is_empty(), "byte {at}");
            assert!(table.number(&name("new", "m")).unwrap() > 3, "byte {at}: a number twice");
            std::fs::write(&path, &bad[..at]).unwrap();
            NameTable::open(folder.path()).unwrap();
        }
    }
}
