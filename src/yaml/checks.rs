//! Checks of values that sections of several subjects share: files and folders, numbers. Pure but for looking whether a path is there.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::field_reader::{At, Field, Reader};
use super::secrets::Absence;
use crate::platform::missing;

/// The file that `at` names.
pub fn existing_file(at: &At<String>, remedy: &str, reader: &mut Reader<'_>) -> Option<PathBuf> {
    let path = reader.path(at);
    is_file(at, path, remedy, reader)
}

/// `path`, which `at` names, if it is a file.
pub fn is_file(at: &At<String>, path: PathBuf, remedy: &str, reader: &mut Reader<'_>) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path);
    }
    let why = missing::why(&path, "file");
    reader.refuse(at, format!("{} {why}", path.display()), remedy)
}

/// The file that `at` names, which may be for the daemon's user alone, as a private key is. `false`: it is not for this user, who need not
/// have it.
pub fn private_file(at: &At<String>, remedy: &str, reader: &mut Reader<'_>) -> Option<(PathBuf, bool)> {
    let path = reader.path(at);
    let denied = |error: std::io::Error| error.kind() == ErrorKind::PermissionDenied;
    let unreadable = match path.metadata() {
        Ok(metadata) => metadata.is_file() && File::open(&path).is_err_and(denied),
        Err(error) => denied(error),
    };
    if !unreadable {
        return is_file(at, path, remedy, reader).map(|path| (path, true));
    }
    let message = format!("{} cannot be read by this user", path.display());
    match reader.absence() {
        Absence::Refused => return reader.refuse(at, message, "check the permissions of the file and of its folders"),
        Absence::Told => reader.warn(at, message, "`run` needs it: check as the daemon's user to be sure"),
        Absence::Passed => {}
    }
    Some((path, false))
}

/// A place that can be written once its missing folders are made: a file, or a folder if `folder`. Permissions are not looked at,
/// because `check` may be run by somebody else than the daemon.
pub fn output(at: &At<String>, folder: bool, reader: &mut Reader<'_>) -> Option<PathBuf> {
    if at.value.trim().is_empty() {
        return reader.refuse(at, "is empty", "name a path");
    }
    let path = reader.path(at);
    if !folder && path.is_dir() {
        return reader.refuse(at, format!("{} is a folder", path.display()), "name a file in it");
    }
    if let Ok(metadata) = path.metadata()
        && !folder
        && !metadata.is_file()
        && !metadata.file_type().is_char_device()
    {
        return reader.refuse(
            at,
            format!("{} is neither a file nor a character device", path.display()),
            "choose another path",
        );
    }
    let above = if folder { Some(path.as_path()) } else { path.parent() };
    let obstacle = above.into_iter().flat_map(Path::ancestors).find(|folder| folder.exists()).filter(|p| !p.is_dir());
    if let Some(obstacle) = obstacle {
        let message = format!("{} cannot be made: {} is not a folder", path.display(), obstacle.display());
        return reader.refuse(at, message, "choose another path");
    }
    Some(path)
}

/// A number from 1 to `max`.
pub fn number(field: &Field<usize>, default: usize, max: usize, reader: &mut Reader<'_>) -> Option<usize> {
    field.checked(default, |number| {
        let message = format!("is not a number from 1 to {max}");
        reader.accept(number, (1..=max).contains(&number.value), message, format!("{default} is a good start"))
    })
}
