//! The hidden folder that an import writes in: beside the result, `.NAME.importing-UUID`, renamed to NAME at the end.
//!
//! Comes in: the place of the result. Goes out: an empty folder that nobody else touches. An import that ends by itself removes
//! its folder; one that is killed cannot, so the next import there does. Which folders belong to the living is told by a lock
//! (`flock`) on the folder itself, which the kernel drops with the process. Runs on the caller's thread. Where a file system knows no
//! locks nothing is swept.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tracing::{debug, info};
use uuid::Uuid;

use super::ImportError;

/// Between the result's name and the UUID.
const MARK: &str = ".importing-";

/// How often a folder is made again when another import takes it for dead in the moment before it is locked.
const ATTEMPTS: usize = 16;

/// The folder; removed unless it is finished.
pub(super) struct Unfinished {
    pub(super) path: PathBuf,
    /// Held locked as long as the import lives. `None` where the file system knows no locks.
    _lock: Option<File>,
}

impl Unfinished {
    /// Makes the folder, and removes those that dead imports to the same place have left.
    ///
    /// # Errors
    /// [`ImportError::Disk`]; [`ImportError::Exists`] for a place without a name.
    pub(super) fn create(out: &Path) -> Result<Self, ImportError> {
        let disk = |source| ImportError::Disk { dir: out.to_owned(), source };
        let name = out.file_name().ok_or_else(|| ImportError::Exists { dir: out.to_owned() })?;
        let parent = parent(out);
        fs::create_dir_all(parent).map_err(disk)?;
        sweep(parent, Some(name));
        for _ in 0..ATTEMPTS {
            let path = parent.join(format!(".{}{MARK}{}", name.to_string_lossy(), Uuid::now_v7()));
            fs::create_dir(&path).map_err(disk)?;
            let Some(lock) = locked(&path) else { return Ok(Self { path, _lock: None }) };
            if same(&lock, &path) {
                return Ok(Self { path, _lock: Some(lock) });
            }
        }
        Err(disk(io::Error::other("another process removes the folders that are made here")))
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// [`ImportError::Exists`] where another import was quicker; [`ImportError::Disk`].
    pub(super) fn finish(self, out: &Path) -> Result<(), ImportError> {
        let finish = || {
            File::open(&self.path)?.sync_all()?;
            fs::rename(&self.path, out)?;
            File::open(parent(out))?.sync_all()
        };
        finish().map_err(|source: io::Error| match source.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                ImportError::Exists { dir: out.to_owned() }
            }
            _ => ImportError::Disk { dir: out.to_owned(), source },
        })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After a rename there is nothing to remove; and if removing fails, its name says what it is.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the folders in `dir` that dead imports have left: those for the result `name`, or all of them. What cannot be looked at
/// or removed stays, since an import does not need it gone.
pub(in super::super) fn sweep(dir: &Path, name: Option<&OsStr>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) || !is_left_over(&entry.file_name(), name) {
            continue;
        }
        let path = entry.path();
        let Ok(lock) = File::open(&path) else { continue };
        // Held until the folder is gone, so that its maker, who may be about to lock it, waits and then sees what happened.
        if lock.try_lock().is_err() {
            continue;
        }
        match fs::remove_dir_all(&path) {
            Ok(()) => info!(folder = %path.display(), "removed what an import that was killed had left"),
            Err(error) => debug!(folder = %path.display(), %error, "cannot remove what an import had left"),
        }
    }
}

fn is_left_over(file: &OsStr, name: Option<&OsStr>) -> bool {
    let file = file.to_string_lossy();
    let Some((before, id)) = file.strip_prefix('.').and_then(|rest| rest.rsplit_once(MARK)) else { return false };
    Uuid::try_parse(id).is_ok() && name.is_none_or(|name| name.to_string_lossy() == before)
}

/// The folder, open and locked.
fn locked(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    file.lock().ok()?;
    Some(file)
}

/// Whether the folder that was locked is still the one at its place.
fn same(lock: &File, path: &Path) -> bool {
    let (Ok(held), Ok(there)) = (lock.metadata(), fs::metadata(path)) else { return false };
    (held.dev(), held.ino()) == (there.dev(), there.ino())
}

fn parent(out: &Path) -> &Path {
    out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_what_the_dead_have_left_at_the_same_place_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let dead = |name: &str| {
            let path = dir.path().join(format!(".{name}.importing-{}", Uuid::now_v7()));
            fs::create_dir(&path).unwrap();
            fs::write(path.join("vision_model.onnx"), "half").unwrap();
            path.file_name().unwrap().to_str().unwrap().to_owned()
        };
        let living = Unfinished::create(&dir.path().join("a")).unwrap();
        let kept = living.path.file_name().unwrap().to_str().unwrap().to_owned();
        dead("a");
        let other = dead("b");
        let not_ours = ".a.importing-photos".to_owned();
        fs::create_dir(dir.path().join(&not_ours)).unwrap();
        let second = Unfinished::create(&dir.path().join("a")).unwrap();
        let mut wanted = vec![kept, other, not_ours, second.path.file_name().unwrap().to_str().unwrap().to_owned()];
        wanted.sort();
        assert_eq!(names(dir.path()), wanted);
        drop((living, second));
        sweep(dir.path(), None);
        assert_eq!(names(dir.path()), [".a.importing-photos"]);
    }

    #[test]
    fn the_second_of_two_that_finish_at_one_place_is_told_that_it_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("model");
        let [first, second] = [(); 2].map(|()| Unfinished::create(&out).unwrap());
        fs::write(first.path.join("file"), "whole").unwrap();
        first.finish(&out).unwrap();
        let error = second.finish(&out).unwrap_err();
        assert!(matches!(error, ImportError::Exists { .. }), "{error}");
        assert_eq!(names(dir.path()), ["model"]);
    }
}
