//! A model's fingerprint: SHA-256 over the contents of all its files, so that text embeddings and thresholds made with one
//! model are never used with another.
//!
//! Hashing gigabytes at every start would cost seconds to minutes, so each file's digest is remembered in the cache
//! directory together with the file's size, modification time and inode. A file that changed in any of them is hashed
//! again. A cache that cannot be read or written costs time, nothing else.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ModelError;
use crate::LogitParameters;
use crate::atomic_file::{self, Durability};
use crate::hex::hex;

/// A file as it was when it was hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    path: PathBuf,
    size: u64,
    modified: (i64, i64),
    inode: (u64, u64),
}

#[derive(Debug, Serialize, Deserialize)]
struct Known {
    #[serde(flatten)]
    stamp: Stamp,
    sha256: String,
}

/// The role and hex SHA-256 of a file.
pub type RoleDigest = (String, String);

/// Hex SHA-256 over the role and digest of every `(role, file)`, in the order given, and over the head.
///
/// # Errors
/// A file that cannot be read.
pub fn of(
    files: &[(&str, PathBuf)],
    logit_parameters: &LogitParameters,
    cache: Option<&Path>,
) -> Result<String, ModelError> {
    Ok(of_digests(&digests(files, cache)?, logit_parameters))
}

/// The digest of every `(role, file)`, in the order given.
///
/// # Errors
/// A file that cannot be read.
pub fn digests(files: &[(&str, PathBuf)], cache: Option<&Path>) -> Result<Vec<RoleDigest>, ModelError> {
    let one = |(role, file): &(&str, PathBuf)| {
        let digest = digest(file, cache)
            .map_err(|e| ModelError::Damaged { file: file.clone(), message: format!("cannot be read: {e}") })?;
        Ok(((*role).to_owned(), digest))
    };
    files.iter().map(one).collect()
}

/// As [`of`], of digests.
pub fn of_digests(digests: &[RoleDigest], logit_parameters: &LogitParameters) -> String {
    let mut whole = roles(digests);
    whole
        .update(format!("head {} {} {:?}", logit_parameters.scale, logit_parameters.bias, logit_parameters.activation));
    hex(&whole.finalize())
}

fn roles<'a>(digests: impl IntoIterator<Item = &'a RoleDigest>) -> Sha256 {
    let mut whole = Sha256::new();
    for (role, digest) in digests {
        whole.update(role.as_bytes());
        whole.update([0]);
        whole.update(digest.as_bytes());
        whole.update([b'\n']);
    }
    whole
}

/// Whether a role is the text tower's.
fn is_text((role, _): &RoleDigest) -> bool {
    role.starts_with("text")
}

/// With a text tower among `digests`, writes its digests down under those of the rest; without one, puts them back where they were
/// written down. So a model whose text tower was removed, because every text is in the cache, keeps its fingerprint.
pub fn recall_text_tower(digests: &mut Vec<RoleDigest>, cache: &Path) {
    let rest = hex(&roles(digests.iter().filter(|one| !is_text(one))).finalize());
    let place = cache.join("fingerprints/text-towers").join(&rest[..32]).with_extension("json");
    let kept: Option<Vec<RoleDigest>> = recall(&place);
    let found: Vec<RoleDigest> = digests.iter().filter(|one| is_text(one)).cloned().collect();
    if found.iter().any(|(role, _)| role == "text") {
        if kept.as_ref() != Some(&found) {
            // A failure only means that the tower has to stay.
            let _ = remember(&place, &found);
        }
        return;
    }
    let Some(kept) = kept.filter(|kept| kept.iter().all(is_text)) else { return };
    digests.retain(|one| !is_text(one));
    let at = digests.iter().take_while(|(role, _)| role.starts_with("vision")).count();
    digests.splice(at..at, kept);
}

fn digest(file: &Path, cache: Option<&Path>) -> io::Result<String> {
    let path = file.canonicalize()?;
    let meta = path.metadata()?;
    let stamp =
        Stamp { size: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()), inode: (meta.dev(), meta.ino()), path };
    let place = cache.map(|dir| {
        let name = hex(&Sha256::digest(stamp.path.as_os_str().as_encoded_bytes()));
        dir.join("fingerprints").join(&name[..32]).with_extension("json")
    });
    if let Some(known) = place.as_deref().and_then(recall::<Known>)
        && known.stamp == stamp
        && known.sha256.len() == 64
    {
        return Ok(known.sha256);
    }
    let sha256 = hash(&stamp.path)?;
    if let Some(place) = place {
        // A failure only means hashing again next time.
        let _ = remember(&place, &Known { stamp, sha256: sha256.clone() });
    }
    Ok(sha256)
}

fn recall<T: serde::de::DeserializeOwned>(place: &Path) -> Option<T> {
    let text = fs::read(place).ok().filter(|bytes| bytes.len() < 64 << 10)?;
    serde_json::from_slice(&text).ok()
}

fn remember(place: &Path, known: &impl Serialize) -> io::Result<()> {
    let dir = place.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(dir)?;
    atomic_file::sweep(dir);
    atomic_file::replace(place, &serde_json::to_vec(known)?, Durability::Synced)
}

fn hash(file: &Path) -> io::Result<String> {
    let mut reader = File::open(file)?;
    let mut buffer = vec![0; 1 << 20];
    let mut hasher = Sha256::new();
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hasher.finalize())),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Activation;

    const HEAD: LogitParameters = LogitParameters { scale: 100.0, bias: 0.0, activation: Activation::Softmax };

    #[test]
    fn a_changed_file_changes_the_fingerprint_and_an_unchanged_one_is_not_hashed_again() {
        let dir = tempfile::tempdir().unwrap();
        let (file, cache) = (dir.path().join("m.onnx"), dir.path().join("cache"));
        fs::write(&file, b"one").unwrap();
        let files = [("vision", file.clone())];
        let first = of(&files, &HEAD, Some(&cache)).unwrap();
        assert_eq!(first, of(&files, &HEAD, None).unwrap(), "the cache must not change the answer");

        // Proof that the remembered digest is used: poison it, keeping the stamp.
        let known = fs::read_dir(cache.join("fingerprints")).unwrap().next().unwrap().unwrap().path();
        let text = fs::read_to_string(&known).unwrap();
        let (old, new) = (hash(&file).unwrap(), "0".repeat(64));
        fs::write(&known, text.replace(&old, &new)).unwrap();
        assert_ne!(of(&files, &HEAD, Some(&cache)).unwrap(), first);

        fs::write(&file, b"two!").unwrap();
        let second = of(&files, &HEAD, Some(&cache)).unwrap();
        assert_eq!(second, of(&files, &HEAD, None).unwrap());
        assert_ne!(second, first);
    }

    #[test]
    fn a_damaged_or_unwritable_cache_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m.onnx");
        fs::write(&file, b"one").unwrap();
        let blocked = dir.path().join("blocked");
        fs::write(&blocked, b"a file where a folder should be").unwrap();
        assert_eq!(
            of(&[("v", file.clone())], &HEAD, Some(&blocked)).unwrap(),
            of(&[("v", file)], &HEAD, None).unwrap()
        );
    }
}
