//! Folders that appear whole or not at all: the hidden folder that an import or a pull writes in, beside the result as
//! `.NAME.importing-UUID` or `.NAME.pulling-UUID`, renamed to NAME at the end.
//!
//! Comes in: the place of the result. Goes out: an empty folder that nobody else touches. Work that ends by itself removes
//! its folder; what is killed cannot, so the next of its kind there does. Which folders belong to the living is told by a lock
//! (`flock`) on the folder itself, which the kernel drops with the process. Runs on the caller's thread. Where a file system knows no
//! locks nothing is swept.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tracing::{debug, info};
use uuid::Uuid;

use super::atomic_file::{folder_of, sync_folder};

/// Between the result's name and the UUID: an import's.
pub const IMPORTING: &str = ".importing-";
/// A pull's.
pub const PULLING: &str = ".pulling-";

/// How often a folder is made again when another process takes it for dead in the moment before it is locked.
const ATTEMPTS: usize = 16;

/// The folder; removed unless it is finished.
pub struct UnfinishedFolder {
    /// The hidden folder that is being filled.
    pub path: PathBuf,
    /// Held locked as long as the work goes on. `None` where the file system knows no locks.
    _lock: Option<File>,
}

impl UnfinishedFolder {
    /// Makes the folder, and removes those that the dead with the same `mark` have left at the same place.
    ///
    /// # Errors
    /// As the disk has it; [`io::ErrorKind::InvalidInput`] for a place without a name.
    pub fn create(out: &Path, mark: &str) -> io::Result<Self> {
        let name = out.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = folder_of(out);
        fs::create_dir_all(parent)?;
        sweep(parent, Some(name), mark);
        for _ in 0..ATTEMPTS {
            let path = parent.join(format!(".{}{mark}{}", name.to_string_lossy(), Uuid::now_v7()));
            fs::create_dir(&path)?;
            let Some(lock) = locked(&path) else { return Ok(Self { path, _lock: None }) };
            if same(&lock, &path) {
                return Ok(Self { path, _lock: Some(lock) });
            }
        }
        Err(io::Error::other("another process removes the folders that are made here"))
    }

    /// Gives the folder, whose files are synced, its name.
    ///
    /// # Errors
    /// As the disk has it; [`io::ErrorKind::AlreadyExists`] where somebody else was quicker.
    pub fn finish(self, out: &Path) -> io::Result<()> {
        sync_folders(&self.path)?;
        fs::rename(&self.path, out).map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory => io::ErrorKind::AlreadyExists.into(),
            _ => error,
        })?;
        sync_folder(folder_of(out))
    }
}

/// A file is only as safe as the names of all folders above it.
fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    sync_folder(folder)
}

impl Drop for UnfinishedFolder {
    fn drop(&mut self) {
        // After a rename there is nothing to remove; and if removing fails, its name says what it is.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Whether nothing lies at `out`, or an empty folder, which a rename replaces.
pub fn is_free(out: &Path) -> bool {
    match fs::symlink_metadata(out) {
        // What else is wrong with the place, creating the folder will tell.
        Err(_) => true,
        Ok(meta) => meta.is_dir() && fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none()),
    }
}

/// Removes the folders in `dir` that the dead have left: those for the result `name`, or all of them. What cannot be looked at
/// or removed stays, since nobody needs it gone.
pub fn sweep(dir: &Path, name: Option<&OsStr>, mark: &str) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) || !is_left_over(&entry.file_name(), name, mark) {
            continue;
        }
        let path = entry.path();
        let Ok(lock) = File::open(&path) else { continue };
        // Held until the folder is gone, so that its maker, who may be about to lock it, waits and then sees what happened.
        if lock.try_lock().is_err() {
            continue;
        }
        match fs::remove_dir_all(&path) {
            Ok(()) => {
                info!(target: "vtagd::platform::unfinished_folder", folder = %path.display(), "removed what was left unfinished by a process that was killed")
            }
            Err(error) => {
                debug!(target: "vtagd::platform::unfinished_folder", folder = %path.display(), %error, "cannot remove what was left unfinished")
            }
        }
    }
}

fn is_left_over(file: &OsStr, name: Option<&OsStr>, mark: &str) -> bool {
    let file = file.to_string_lossy();
    let Some((before, id)) = file.strip_prefix('.').and_then(|rest| rest.rsplit_once(mark)) else { return false };
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
        let living = UnfinishedFolder::create(&dir.path().join("a"), IMPORTING).unwrap();
        let kept = living.path.file_name().unwrap().to_str().unwrap().to_owned();
        dead("a");
        let other = dead("b");
        let not_ours = ".a.importing-photos".to_owned();
        fs::create_dir(dir.path().join(&not_ours)).unwrap();
        let second = UnfinishedFolder::create(&dir.path().join("a"), IMPORTING).unwrap();
        let mut wanted = vec![kept, other, not_ours, second.path.file_name().unwrap().to_str().unwrap().to_owned()];
        wanted.sort();
        assert_eq!(names(dir.path()), wanted);
        drop((living, second));
        sweep(dir.path(), None, IMPORTING);
        assert_eq!(names(dir.path()), [".a.importing-photos"]);
    }

    #[test]
    fn the_second_of_two_that_finish_at_one_place_is_told_that_it_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("model");
        let [first, second] = [(); 2].map(|()| UnfinishedFolder::create(&out, PULLING).unwrap());
        fs::write(first.path.join("file"), "whole").unwrap();
        first.finish(&out).unwrap();
        let error = second.finish(&out).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{error}");
        assert_eq!(names(dir.path()), ["model"]);
    }
}
