//! Whether files and folders can be written by whoever asks, found out by trying: a path in, nothing or the reason out. Whoever only
//! looked at permissions would miss a read-only or a full disk. Nothing is left behind: what is made has no name, or loses it at once,
//! and no folder is made. On the caller's thread, as its user.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Links that are followed by hand, where the last one leads to nothing.
const MOST_LINKS: u8 = 8;

/// Why something cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be written ({source})", place.display())]
pub struct Unwritable {
    /// The file or folder that is in the way, which may be one above.
    pub place: PathBuf,
    pub source: io::Error,
}

/// Whether files can be made in `path`, or the folder itself, where it is missing.
///
/// # Errors
/// What is in the way.
pub fn folder(path: &Path) -> Result<(), Unwritable> {
    let found = path.ancestors().find(|above| match above.metadata() {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    });
    let found = match found {
        Some(found) if !found.as_os_str().is_empty() => found,
        // A relative path, of which nothing is there.
        _ => Path::new("."),
    };
    // Listed too: whoever keeps files in it looks for old ones.
    let listed = if found == path { fs::read_dir(found).map(drop) } else { Ok(()) };
    listed.and_then(|()| make(found)).map_err(|source| Unwritable { place: found.to_owned(), source })
}

/// Whether `path` can be written to: the file as it is, or a new one of that name.
///
/// # Errors
/// What is in the way.
pub fn file(path: &Path) -> Result<(), Unwritable> {
    file_behind(path, MOST_LINKS)
}

fn file_behind(path: &Path, links: u8) -> Result<(), Unwritable> {
    let fault = |source| Unwritable { place: path.to_owned(), source };
    // Neither made nor cut off, and no terminal becomes ours.
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    match OpenOptions::new().read(true).append(true).custom_flags(flags).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.read_link() {
            Ok(_) if links == 0 => Err(fault(error)),
            Ok(target) => file_behind(&path.parent().unwrap_or(Path::new("")).join(target), links - 1),
            Err(_) => folder_of(path),
        },
        Err(error) => Err(fault(error)),
    }
}

/// Whether other files can be made beside `path`.
///
/// # Errors
/// What is in the way.
pub fn folder_of(path: &Path) -> Result<(), Unwritable> {
    folder(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Makes a file in `folder` that is gone afterwards.
fn make(folder: &Path) -> io::Result<()> {
    let nameless = OpenOptions::new().write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(folder);
    match nameless {
        Ok(_) => Ok(()),
        // Not every file system has files without a name.
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL | libc::ENOENT)) =>
        {
            let path = folder.join(format!(".vtagd-check-{}", uuid::Uuid::new_v4()));
            File::create_new(&path)?;
            fs::remove_file(path)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_written_is_told_from_what_cannot_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("there"), "x").unwrap();
        std::os::unix::fs::symlink("nowhere/new", at("link")).unwrap();
        std::os::unix::fs::symlink("circle", at("circle")).unwrap();
        for good in ["there", "new", "a/b/new", "link"] {
            file(&at(good)).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for good in [".", "a/b"] {
            self::folder(&at(good)).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        assert!(file(&at("circle")).is_err() && file(folder.path()).is_err());
        // Nobody writes there, whoever he is.
        assert_eq!(self::folder(Path::new("/proc/vtagd")).unwrap_err().place, Path::new("/proc"));
        assert!(file(Path::new("/proc/vtagd/x")).is_err());
        let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["circle", "link", "there"]);
        assert_eq!(fs::read(at("there")).unwrap(), b"x");
    }
}
