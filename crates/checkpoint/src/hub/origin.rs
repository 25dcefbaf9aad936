//! `hub.json`: where a pulled model folder came from. Written by a pull, read by the next one and by an import.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// Its name in the folder.
pub const FILE: &str = "hub.json";

/// Longest one that is read.
const MAX_BYTES: u64 = 4 << 20;

/// Repository, commit and files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The hub’s address.
    pub endpoint: String,
    /// The repository.
    pub repo: String,
    /// What was asked for.
    pub revision: String,
    /// What it was at that time.
    pub commit: String,
    /// The folder of the repository that was taken for the whole of it: its files lie here without that folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// The files, by the repository's names.
    pub files: BTreeMap<String, OriginFile>,
}

/// A file as it was fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginFile {
    /// Bytes.
    pub size: u64,
    #[serde(flatten)]
    /// What its content is known by.
    pub digest: Digest,
}

impl Origin {
    /// That of `dir`, or `None` where there is none that can be read.
    pub fn read(dir: &Path) -> Option<Self> {
        let mut bytes = Vec::new();
        File::open(dir.join(FILE)).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// `ORG/NAME@COMMIT`.
    pub fn short(&self) -> String {
        format!("{}@{}", self.repo, self.commit)
    }

    /// What the file that the repository calls `name` is called here.
    pub(super) fn local<'n>(&self, name: &'n str) -> &'n str {
        let below = |folder: &str| name.strip_prefix(folder)?.strip_prefix('/');
        self.folder.as_deref().and_then(below).unwrap_or(name)
    }

    /// Whether `dir` holds just these files, by their sizes.
    pub(super) fn is_whole(&self, dir: &Path) -> bool {
        let same = Self::read(dir).is_some_and(|there| {
            (&there.repo, &there.commit, &there.folder, &there.files)
                == (&self.repo, &self.commit, &self.folder, &self.files)
        });
        let whole = |(name, file): (&String, &OriginFile)| {
            fs::metadata(dir.join(self.local(name))).is_ok_and(|meta| meta.is_file() && meta.len() == file.size)
        };
        same && self.files.iter().all(whole)
    }
}
