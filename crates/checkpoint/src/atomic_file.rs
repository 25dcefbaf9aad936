//! Files that are replaced whole or not at all: a temporary file beside the place is written, synced and renamed to it, then the folder is
//! synced.
//!
//! Comes in: a place and its new content. Goes out: the new content there; after an error, a full disk, a `kill -9` or a power cut at any
//! moment the old one or the new one, never half of either. Any number of threads and processes may write one place, the last one wins.
//! Runs on the caller's thread, which waits for the disk. The temporary file is removed on an error; that of a killed process stays, told by
//! its name, until somebody [sweeps](sweep). Folders that appear whole are [`unfinished_folder`](super::unfinished_folder)'s.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use uuid::Uuid;

/// A temporary file that was last written to so long ago was left by a process that died.
const ABANDONED: Duration = Duration::from_secs(3600);

/// What a power cut may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing: the content is on the disk before it has the name, and the name before the call returns.
    Synced,
    /// Take the content, never leave a damaged one: it is on the disk before it has the name.
    WholeOrNothing,
    /// Take the content, or leave a damaged one: for what is checked when it is read and made again. A sync takes many milliseconds on a
    /// memory card.
    Unsynced,
}

/// Whose a file is, and who may do what with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Permissions, as `chmod` has them.
    pub mode: u32,
}

/// Makes `content` what lies at `path`, whose folder is there.
///
/// # Errors
/// When it cannot be written; what lay there is as it was. Only where the folder cannot be synced it may be the new content already.
pub fn replace(path: &Path, content: &[u8], durability: Durability) -> io::Result<()> {
    let temporary = temporary(path)?;
    let written = write(&temporary, content, durability).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.and_then(|()| if durability == Durability::Synced { sync_folder(folder_of(path)) } else { Ok(()) })
}

/// As [`replace`], synced, for a file that is another's: root who writes into a service's folder leaves nothing that it cannot read.
///
/// # Errors
/// As [`replace`], or when the file cannot be given away.
pub fn replace_as(path: &Path, content: &[u8], ownership: &Ownership) -> io::Result<()> {
    let temporary = temporary(path)?;
    let written = write_as(&temporary, content, ownership).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.and_then(|()| sync_folder(folder_of(path)))
}

fn write_as(path: &Path, content: &[u8], Ownership { uid, gid, mode }: &Ownership) -> io::Result<()> {
    // Nobody else's until it is whose it is to be.
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    give(&file, *uid, *gid)?;
    file.set_permissions(Permissions::from_mode(*mode))?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes a file that root has made somebody's. Nobody else may, and need not: of the group alone he may try.
///
/// # Errors
/// When root may not.
pub fn give(file: &File, uid: u32, gid: u32) -> io::Result<()> {
    let found = file.metadata()?;
    if (found.uid(), found.gid()) == (uid, gid) {
        return Ok(());
    }
    if rustix::process::geteuid().is_root() {
        return fchown(file, Some(uid), Some(gid));
    }
    let _ = fchown(file, None, Some(gid));
    Ok(())
}

/// Writes a file where nobody looks yet.
///
/// # Errors
/// When it cannot; half of it may lie there.
pub fn write(path: &Path, content: &[u8], durability: Durability) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    if durability == Durability::Unsynced {
        return Ok(());
    }
    #[cfg(test)]
    tests::SYNCS.set(tests::SYNCS.get() + 1);
    file.sync_all()
}

/// Makes the names of a folder outlast a power cut.
///
/// # Errors
/// As the disk has it.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The folder that `path` lies in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `.NAME.UUID.tmp`, with a long name cut short: a file's name has 255 bytes at most.
fn temporary(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_string_lossy();
    Ok(path.with_file_name(format!(".{name:.50}.{}.tmp", Uuid::now_v7())))
}

/// The (beginning of the) name of the file that one called `name` was to replace; `None`: it is no temporary file of ours.
pub fn meant_for(name: &str) -> Option<&str> {
    let (before, id) = name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?;
    Uuid::try_parse(id).is_ok_and(|uuid| uuid.to_string() == id).then_some(before)
}

/// Removes the temporary files in `folder` that killed processes have left. What cannot be looked at or removed stays.
pub fn sweep(folder: &Path) {
    sweep_older(folder, ABANDONED);
}

/// The same of those that were last written to longer than `age` ago: nobody else writes there.
pub fn sweep_older(folder: &Path, age: Duration) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| meant_for(name).is_some());
        let modified = || entry.metadata().ok()?.modified().ok();
        if ours && modified().and_then(|then| SystemTime::now().duration_since(then).ok()) >= Some(age) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
pub mod tests;
