//! The state directory: everything that the daemon writes and that must not be lost lies below it.
//!
//! Comes in: where it is (`state.path`, else systemd's `STATE_DIRECTORY`, else `/var/lib/vtagd`) and names below it. Goes out: files that
//! are replaced whole ([`atomic_file`](super::atomic_file)), with the folder's owner and mode, whoever writes them. A running daemon holds
//! a lock in it (`flock`), which the kernel drops with the process; a second one is refused. Runs on the caller's thread, which waits for
//! the disk. Full or not writable: an error that says so, and what lay there is as it was.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::atomic_file::{self, Ownership};
use super::paths;
use super::writable::{self, Unwritable};

/// In the folder; who holds it is written in it, for messages alone.
const LOCK: &str = "vtagd.lock";

/// Nothing of ours is written below it: the unit cannot, and what lies there belongs to people.
const CONFIGURATION: &str = "/etc";

/// Of a folder that is made: what the daemon keeps is nobody else's business.
const FOLDER_MODE: u32 = 0o750;

/// A command that asks whether a daemon runs holds the lock for a moment: so often, and so long apart, it is tried.
const LOCK_ATTEMPTS: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// A change of a file is waited for this often, twenty seconds.
const CHANGE_ATTEMPTS: u32 = 400;
/// Damaged files of one name that are kept.
const MAX_DAMAGED: u32 = 1000;

/// Who has said where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenBy {
    /// `state.path`.
    Configuration,
    /// `STATE_DIRECTORY`.
    Systemd,
    /// The default. Whether it can be used matters to those alone who have something to write.
    Nobody,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(
        "the state directory {} is that of another daemon that runs{holder}: give each daemon its own `state.path`, or stop that one",
        path.display()
    )]
    InUse { path: PathBuf, holder: String },
    #[error("{} cannot be written: {source}; {remedy}", path.display())]
    Unusable { path: PathBuf, source: io::Error, remedy: String },
}

impl StateError {
    /// 2 where a person has to change something; 1 where it may mend itself: another daemon that ends, a disk that is full.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unusable { source, .. } if source.kind() != ErrorKind::StorageFull => 2,
            Self::InUse { .. } | Self::Unusable { .. } => 1,
        }
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateFolder {
    path: PathBuf,
    given_by: GivenBy,
    /// What [`read`](Self::read) takes for absent.
    hidden: Option<PathBuf>,
}

/// The folder is this process's as long as this lives.
#[derive(Debug)]
pub struct StateLock {
    /// `None` where the file system knows no locks.
    _file: Option<File>,
}

impl StateFolder {
    /// The one that `state.path` names.
    pub fn configured(path: PathBuf) -> Self {
        Self { path, given_by: GivenBy::Configuration, hidden: None }
    }

    /// The one that holds where the configuration names none.
    pub fn default_place() -> Self {
        let given_by = if paths::has_state_dir() { GivenBy::Systemd } else { GivenBy::Nobody };
        Self { path: paths::state_dir(), given_by, hidden: None }
    }

    /// The same folder as it would be read without `name`.
    #[must_use]
    pub fn without(&self, name: PathBuf) -> Self {
        Self { hidden: Some(name), ..self.clone() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether `path` is, or leads, where nothing of ours is written.
    pub fn is_forbidden(path: &Path) -> bool {
        let there = path.ancestors().find(|above| above.exists()).and_then(|above| above.canonicalize().ok());
        path.starts_with(CONFIGURATION) || there.is_some_and(|there| there.starts_with(CONFIGURATION))
    }

    /// Whether somebody has said where it is.
    pub fn is_given(&self) -> bool {
        self.given_by != GivenBy::Nobody
    }

    /// What `name` is called outside.
    pub fn place(&self, name: &Path) -> PathBuf {
        self.path.join(name)
    }

    /// What `name` holds, at most `most` bytes and one, which tells that it is more; `None` where nothing lies there.
    ///
    /// # Errors
    /// As the disk has it.
    pub fn read(&self, name: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
        if self.hidden.as_deref() == Some(name) {
            return Ok(None);
        }
        let file = match File::open(self.place(name)) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Makes `content` what `name` holds, with the folder's owner and mode. Folders that are missing are made.
    ///
    /// # Errors
    /// When it cannot be written; what lay there is as it was.
    pub fn write(&self, name: &Path, content: &[u8]) -> Result<(), StateError> {
        // As open as the folder, and nothing to run.
        self.write_for(name, content, 0o666)
    }

    /// The same for the folder's owner alone: a credential.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_private(&self, name: &Path, content: &[u8]) -> Result<(), StateError> {
        self.write_for(name, content, 0o600)
    }

    /// Of the folder's mode, what `mask` leaves.
    fn write_for(&self, name: &Path, content: &[u8], mask: u32) -> Result<(), StateError> {
        let written = self.folder(name.parent()).and_then(|(folder, top)| {
            let name = name.file_name().ok_or(ErrorKind::InvalidInput)?;
            let ownership = Ownership { uid: top.uid(), gid: top.gid(), mode: top.mode() & mask };
            atomic_file::replace_as(&folder.join(name), content, &ownership)
        });
        written.map_err(|source| self.unusable(source))
    }

    /// Removes `name`; whether it was there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, name: &Path) -> Result<bool, StateError> {
        let place = self.place(name);
        match fs::remove_file(&place) {
            Ok(()) => {
                atomic_file::sync_folder(atomic_file::folder_of(&place)).map_err(|error| self.unusable(error))?;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(self.unusable(error)),
        }
    }

    /// Takes the folder for this process, as the daemon called `instance`. `None`: it is the default one, cannot be used, and nobody has
    /// asked for it.
    ///
    /// # Errors
    /// When another daemon has it, or it cannot be used though somebody has said that it is the one.
    pub fn lock(&self, instance: &str) -> Result<Option<StateLock>, StateError> {
        let opened = self.folder(None).and_then(|(folder, top)| {
            let file = File::options().create(true).truncate(false).read(true).write(true).open(folder.join(LOCK))?;
            atomic_file::give(&file, top.uid(), top.gid())?;
            Ok(file)
        });
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if !self.is_given() => {
                let path = self.path.display();
                tracing::info!(%path, %error, "no state directory: what is changed while it runs is not kept; `state.path` names one");
                return Ok(None);
            }
            Err(error) => return Err(self.unusable(error)),
        };
        for attempt in 1.. {
            match file.try_lock() {
                Ok(()) => break,
                Err(fs::TryLockError::WouldBlock) if attempt < LOCK_ATTEMPTS => std::thread::sleep(LOCK_PAUSE),
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(StateError::InUse { path: self.path.clone(), holder: holder(&mut file) });
                }
                // No locks here: then nobody can be told apart, as before there were any.
                Err(fs::TryLockError::Error(_)) => return Ok(Some(StateLock { _file: None })),
            }
        }
        // For messages alone: a full disk is no reason not to start.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{} {instance}", std::process::id()));
        Ok(Some(StateLock { _file: Some(file) }))
    }

    /// Waits until nobody else holds `name`, a lock of its own for a file that several processes change, and holds it. The kernel drops it
    /// with the process.
    ///
    /// # Errors
    /// When it cannot be had: the folder cannot be written, or somebody holds it for longer than a change takes.
    pub fn lock_file(&self, name: &Path) -> Result<File, StateError> {
        let opened = self.folder(None).and_then(|(folder, top)| {
            let file = File::options().create(true).truncate(false).read(true).write(true).open(folder.join(name))?;
            atomic_file::give(&file, top.uid(), top.gid())?;
            Ok(file)
        });
        let file = opened.map_err(|source| self.unusable(source))?;
        for attempt in 1.. {
            match file.try_lock() {
                Err(fs::TryLockError::WouldBlock) if attempt < CHANGE_ATTEMPTS => std::thread::sleep(LOCK_PAUSE),
                Err(fs::TryLockError::WouldBlock) => {
                    let why = format!("{} is held by another process", self.place(name).display());
                    return Err(self.unusable(io::Error::new(ErrorKind::ResourceBusy, why)));
                }
                // No locks here: then nobody can be told apart.
                Ok(()) | Err(fs::TryLockError::Error(_)) => break,
            }
        }
        Ok(file)
    }

    /// Gives `name`, which is damaged, another name beside it, which nothing has yet, so that it can be written anew; that name.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn keep_damaged(&self, name: &Path) -> Result<PathBuf, StateError> {
        let place = self.place(name);
        let numbered = |number: u32| {
            let mut file = place.clone().into_os_string();
            file.push(format!(".damaged-{number}"));
            PathBuf::from(file)
        };
        let free = (1..=MAX_DAMAGED).map(numbered).find(|file| !file.exists());
        let kept = free.ok_or_else(|| self.unusable(io::Error::other("too many damaged files are kept beside it")))?;
        fs::rename(&place, &kept).map_err(|error| self.unusable(error))?;
        Ok(kept)
    }

    /// Whether [`lock`](Self::lock) would find a folder that can be used. Nothing is made there.
    ///
    /// # Errors
    /// What is in the way.
    pub fn try_out(&self) -> Result<(), Unwritable> {
        writable::folder(&self.path)?;
        let lock = self.path.join(LOCK);
        if lock.exists() { writable::file(&lock) } else { Ok(()) }
    }

    /// The lock, where a daemon holds it. Asked for shared and for a moment: two that ask do not take one another for a daemon.
    pub fn held_lock(&self) -> Option<File> {
        let file = File::open(self.path.join(LOCK)).ok()?;
        matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)).then_some(file)
    }

    /// Who runs on it, such as ` (pid 7, instance north)`; `None`: nobody, or it cannot be told.
    pub fn holder(&self) -> Option<String> {
        self.held_lock().map(|mut file| holder(&mut file))
    }

    /// The folder below it that `name` is, made where it is missing, and how the state directory itself is.
    fn folder(&self, name: Option<&Path>) -> io::Result<(PathBuf, Metadata)> {
        if Self::is_forbidden(&self.path) {
            return Err(io::Error::new(ErrorKind::PermissionDenied, "nothing is written below /etc"));
        }
        if !self.path.exists() {
            if let Some(above) = self.path.parent() {
                fs::create_dir_all(above)?;
            }
            make(&self.path, FOLDER_MODE)?;
        }
        let top = fs::metadata(&self.path)?;
        let mut folder = self.path.clone();
        for part in name.into_iter().flat_map(Path::components) {
            let Component::Normal(part) = part else { return Err(ErrorKind::InvalidInput.into()) };
            folder.push(part);
            match fs::symlink_metadata(&folder) {
                Ok(found) if found.is_dir() => {}
                // Whoever may write here must not choose where another user writes.
                Ok(_) => return Err(io::Error::new(ErrorKind::NotADirectory, "a file or a link lies in the way")),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    make(&folder, top.mode() & 0o777)?;
                    atomic_file::give(&File::open(&folder)?, top.uid(), top.gid())?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok((folder, top))
    }

    fn unusable(&self, source: io::Error) -> StateError {
        let remedy = match self.given_by {
            _ if source.kind() == ErrorKind::StorageFull => "make room".to_owned(),
            GivenBy::Configuration => {
                "name a folder in `state.path` that the daemon's user may write, not below /etc".to_owned()
            }
            // In a container the variable is the image's, and the folder whatever the person has mounted there.
            GivenBy::Systemd => format!(
                "the unit's `StateDirectory=` makes it (STATE_DIRECTORY); where a container mounts it, `chown {user}` its folder \
                 (rootless podman: `podman unshare chown {user}`); `state.path` names another",
                user = rustix::process::geteuid().as_raw()
            ),
            GivenBy::Nobody => {
                "do it as the daemon's user or as root, or name another folder in `state.path`".to_owned()
            }
        };
        StateError::Unusable { path: self.path.clone(), source, remedy }
    }
}

/// A folder that others have made meanwhile is there too.
fn make(folder: &Path, mode: u32) -> io::Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(mode)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// What the lock's holder has written there, if it looks like that.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.take(128).read_to_string(&mut text);
    let plain = |word: &&str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    match text.split_whitespace().filter(plain).collect::<Vec<_>>()[..] {
        [pid, instance] => format!(" (pid {pid}, instance {instance})"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
