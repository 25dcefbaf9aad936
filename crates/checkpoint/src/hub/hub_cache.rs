//! What was fetched, kept so that it is fetched once. In: contents by hash, listings by commit; out: model folders that
//! appear whole or not at all. One folder a hub and repository, used by one process at a time.
//!
//! ```text
//! CACHE/HOST/ORG--NAME/
//!     lock               held while a pull runs
//!     refs/REV           the commit that a branch or tag was last seen at
//!     files/COMMIT.json  what the repository holds at a commit
//!     blobs/HASH         finished, checked contents, read-only; HASH.part: the start of one
//!     COMMIT/NAME/       the folder a reader takes
//! ```
//!
//! Grows with every commit that is pulled; any of these folders may be removed while no pull runs.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::HubError;
use super::digest::Digest;
use super::hub_access::HubSettings;
use super::hub_access::StopRequest;
use super::listing::Listing;
use super::name::{Repo, is_commit};
use super::origin::{self, Origin};
use crate::atomic_file::{self, Durability};
use crate::unfinished_folder::{PULLING, UnfinishedFolder, is_free};

/// Between two attempts at a lock that another process holds.
const LOCK_EVERY: Duration = Duration::from_millis(200);

/// The folder of one repository.
pub(super) struct HubCache {
    dir: PathBuf,
    /// Held as long as this lives.
    _lock: File,
}

impl HubCache {
    /// Opens or makes the folder of `repo`, waiting for another process that pulls the same one.
    ///
    /// # Errors
    /// A cache that cannot be written; [`HubError::Stopped`].
    pub(super) fn open(settings: &HubSettings, repo: &Repo, shutdown: &dyn StopRequest) -> Result<Self, HubError> {
        let address = settings.endpoint_text();
        let host = address.split_once("://").map_or(address, |(_, rest)| rest);
        let host: String =
            host.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' }).collect();
        let dir = settings.cache.join(host).join(repo.folder());
        for folder in ["refs", "files", "blobs"] {
            let folder = dir.join(folder);
            fs::create_dir_all(&folder).map_err(|source| disk(&folder, source))?;
            atomic_file::sweep(&folder);
        }
        let path = dir.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|source| disk(&path, source))?;
        let mut told = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { dir, _lock: lock }),
                Err(TryLockError::Error(source)) => return Err(disk(&path, source)),
                Err(TryLockError::WouldBlock) => {}
            }
            if !told {
                tracing::warn!(target: "vtagd::model::hub::hub_cache", %repo, "another process pulls the same repository: waiting for it");
                told = true;
            }
            if shutdown.sleep(LOCK_EVERY) {
                return Err(HubError::Stopped);
            }
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The commit that `revision` was last seen at.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.reference(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// What the repository holds at `commit`, if that was ever asked for. A copy that cannot be read counts as none.
    pub(super) fn listing(&self, commit: &str) -> Option<Listing> {
        let bytes = fs::read(self.files(commit)).ok()?;
        serde_json::from_slice(&bytes).ok().filter(|listing: &Listing| listing.commit == commit)
    }

    /// Writes both down.
    pub(super) fn remember(&self, revision: &str, listing: &Listing) -> Result<(), HubError> {
        let path = self.files(&listing.commit);
        let json = serde_json::to_vec(listing).map_err(|e| disk(&path, e.into()))?;
        replace(&path, &json)?;
        if revision == listing.commit {
            return Ok(());
        }
        replace(&self.reference(revision), listing.commit.as_bytes())
    }

    /// The content with this hash, if it is there whole.
    pub(super) fn blob(&self, digest: &Digest, size: u64) -> Option<PathBuf> {
        let path = self.dir.join("blobs").join(digest.hex());
        let there = fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() == size);
        there.then_some(path)
    }

    /// Where the start of a content is kept.
    pub(super) fn partial(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(format!("{}.part", digest.hex()))
    }

    /// How much of a content is there.
    pub(super) fn partial_size(&self, digest: &Digest) -> u64 {
        fs::metadata(self.partial(digest)).map_or(0, |meta| meta.len())
    }

    /// Makes a partial content, which is synced and checked, a finished one.
    pub(super) fn keep(&self, digest: &Digest) -> Result<(), HubError> {
        let (from, to) = (self.partial(digest), self.dir.join("blobs").join(digest.hex()));
        let keep = || {
            // Model folders share it by hard links: what is written into one of them must not change the others.
            fs::set_permissions(&from, Permissions::from_mode(0o444))?;
            fs::rename(&from, &to)?;
            atomic_file::sync_folder(&self.dir.join("blobs"))
        };
        keep().map_err(|source| disk(&to, source))
    }

    /// Where the folder without `--out` lies. `key` tells apart other choices of files than our own.
    pub(super) fn place(&self, repo: &Repo, commit: &str, key: Option<&str>) -> PathBuf {
        let folder = key.map_or_else(|| commit.to_owned(), |key| format!("{commit}-{key}"));
        self.dir.join(folder).join(repo.model())
    }

    /// Makes the folder `out` of kept contents. Weights are hard links where the disk is the same; texts, which people edit, are
    /// always copies.
    ///
    /// # Errors
    /// [`HubError::Disk`] or [`HubError::Stopped`], with nothing left.
    pub(super) fn assemble(&self, origin: &Origin, out: &Path, shutdown: &dyn StopRequest) -> Result<(), HubError> {
        let failed = |source| disk(out, source);
        let unfinished = UnfinishedFolder::create(out, PULLING).map_err(failed)?;
        for (name, file) in &origin.files {
            let Some(blob) = self.blob(&file.digest, file.size) else {
                return Err(failed(io::Error::new(ErrorKind::NotFound, format!("{name} is no longer in the cache"))));
            };
            let path = unfinished.path.join(origin.local(name));
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(failed)?;
            }
            let text = [".json", ".txt", ".md"].iter().any(|end| name.ends_with(end));
            if text || fs::hard_link(&blob, &path).is_err() {
                copy(&blob, &path, shutdown)?;
            }
        }
        let json = serde_json::to_string_pretty(origin).map_err(|e| failed(e.into()))?;
        let path = unfinished.path.join(origin::FILE);
        atomic_file::write(&path, format!("{json}\n").as_bytes(), Durability::Synced).map_err(failed)?;
        unfinished.finish(out).map_err(failed)
    }

    fn reference(&self, revision: &str) -> PathBuf {
        // A percent sign is in no revision, so different ones stay different.
        self.dir.join("refs").join(revision.replace('/', "%2F"))
    }

    fn files(&self, commit: &str) -> PathBuf {
        self.dir.join("files").join(format!("{commit}.json"))
    }
}

/// Makes `out` free: what a pull has put there is removed; what else lies there is moved beside it, folder and all.
pub(super) fn clear(origin: &Origin, out: &Path) -> io::Result<()> {
    let there = Origin::read(out);
    let there = there.as_ref().unwrap_or(origin);
    let named = there.files.keys().map(|name| Path::new(there.local(name)));
    // Only what is below it, whatever the file says.
    let below = named.filter(|name| name.components().all(|part| matches!(part, Component::Normal(_))));
    for name in below.chain([Path::new(origin::FILE)]) {
        match fs::remove_file(out.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Folders that are empty now; one that is not ends it.
        let _ = name.ancestors().skip(1).filter(|a| *a != Path::new("")).try_for_each(|a| fs::remove_dir(out.join(a)));
    }
    if is_free(out) {
        return Ok(());
    }
    let name = out.file_name().ok_or(ErrorKind::InvalidInput)?.to_string_lossy();
    let beside = atomic_file::folder_of(out).join(format!("{name}.before-{}", uuid::Uuid::now_v7()));
    fs::rename(out, &beside)?;
    tracing::warn!(target: "vtagd::model::hub::hub_cache", moved_to = %beside.display(), "files that no pull has made lay among the model's");
    Ok(())
}

pub(super) fn disk(path: &Path, source: io::Error) -> HubError {
    HubError::Disk { path: path.to_owned(), source }
}

fn copy(from: &Path, to: &Path, shutdown: &dyn StopRequest) -> Result<(), HubError> {
    let failed = |source| disk(to, source);
    let mut source = File::open(from).map_err(|source| disk(from, source))?;
    let mut target = File::create_new(to).map_err(failed)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        if shutdown.is_requested() {
            return Err(HubError::Stopped);
        }
        let read = source.read(&mut buffer).map_err(|source| disk(from, source))?;
        if read == 0 {
            return target.sync_all().map_err(failed);
        }
        target.write_all(&buffer[..read]).map_err(failed)?;
    }
}

/// As a whole or not at all.
fn replace(path: &Path, content: &[u8]) -> Result<(), HubError> {
    atomic_file::replace(path, content, Durability::Synced).map_err(|source| disk(path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_freed_of_what_a_pull_has_put_there_and_of_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (out, outside) = (folder.path().join("model"), folder.path().join("outside"));
        let file = r#"{"size":1,"git_sha1":"0000000000000000000000000000000000000000"}"#;
        let names = ["a.json", "onnx/deep/b.onnx", "gone.json", "../outside"];
        let files: Vec<String> = names.iter().map(|name| format!("{name:?}:{file}")).collect();
        let json =
            format!(r#"{{"endpoint":"e","repo":"r","revision":"main","commit":"c","files":{{{}}}}}"#, files.join(","));
        let origin: Origin = serde_json::from_str(&json).unwrap();
        let fill = || {
            fs::create_dir_all(out.join("onnx/deep")).unwrap();
            for name in ["a.json", "onnx/deep/b.onnx", "../outside"] {
                fs::write(out.join(name), "x").unwrap();
            }
            fs::write(out.join(origin::FILE), &json).unwrap();
        };
        fill();
        clear(&origin, &out).unwrap();
        assert!(is_free(&out) && outside.exists());
        fill();
        fs::write(out.join("notes.txt"), "mine").unwrap();
        clear(&origin, &out).unwrap();
        let beside = fs::read_dir(folder.path())
            .unwrap()
            .flatten()
            .find(|e| e.file_name().to_string_lossy().starts_with("model.before-"));
        let kept: Vec<_> = fs::read_dir(beside.unwrap().path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!((kept, out.exists()), (vec!["notes.txt".into()], false));
    }
}
