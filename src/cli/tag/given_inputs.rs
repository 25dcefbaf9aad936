//! What `tag` is given, as files and addresses: folders become the pictures and videos in them, `-` what comes on standard input.
//!
//! In: arguments. Out: paths, and how each is called. Standard input is written to a file without a name, of [`MAX_STDIN`] bytes at most, which is gone when this is. On the caller's
//! thread, which waits for standard input to end.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::platform::userinfo;
use crate::yaml::address;

/// Longer input is a camera, which has an address.
const MAX_STDIN: u64 = 4 << 30;

/// More files are not what somebody meant.
const MAX_FILES: usize = 100_000;

/// Folders in one another.
const MAX_DEPTH: usize = 32;

/// What is looked at in a folder; a file that is named is looked at whatever it is called.
const KNOWN: [&str; 24] = [
    "jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "mp4", "m4v", "mov", "mkv", "webm", "avi", "ts", "m2ts",
    "mpg", "mpeg", "flv", "ogv", "wmv", "3gp", "h264", "h265",
];

/// See the module.
#[derive(Default)]
pub(super) struct GivenInputs {
    /// In the order of the arguments.
    pub paths: Vec<PathBuf>,
    stdin: Option<Stdin>,
}

/// Standard input, under a name that everybody in this process can open.
struct Stdin {
    path: PathBuf,
    /// With it the file goes.
    _file: File,
}

impl GivenInputs {
    /// # Errors
    /// What cannot be read.
    pub fn read(arguments: &[PathBuf]) -> Result<Self, String> {
        let mut given = Self::default();
        for argument in arguments {
            let is_address = argument.to_str().is_some_and(|text| address::scheme(text).is_some());
            if argument.as_os_str() == "-" {
                if given.stdin.is_some() {
                    return Err("-: standard input can be read once".to_owned());
                }
                let stdin = stdin().map_err(|error| format!("-: standard input cannot be read: {error}"))?;
                given.paths.push(stdin.path.clone());
                given.stdin = Some(stdin);
            } else if !is_address && argument.is_dir() {
                let before = given.paths.len();
                files(argument, &mut given.paths, MAX_DEPTH)
                    .map_err(|error| format!("{}: the folder cannot be read: {error}", argument.display()))?;
                if given.paths.len() == before {
                    return Err(format!("{}: no picture and no video is in this folder", argument.display()));
                }
            } else {
                given.paths.push(argument.clone());
            }
            if given.paths.len() > MAX_FILES {
                return Err(format!("{}: these are more than {MAX_FILES} files", argument.display()));
            }
        }
        Ok(given)
    }

    /// What `path` is called.
    pub fn name(&self, path: &Path) -> String {
        if self.stdin.as_ref().is_some_and(|stdin| stdin.path == path) { "-".to_owned() } else { userinfo::shown(path) }
    }

    /// `text` about `path`, which may name it.
    pub fn about(&self, path: &Path, text: &str) -> String {
        match &self.stdin {
            Some(stdin) if stdin.path == path => text.replace(&path.display().to_string(), "-"),
            _ => text.to_owned(),
        }
    }
}

/// The pictures and videos in `folder` and below, by name; what begins with a dot is left out, as by a shell.
fn files(folder: &Path, out: &mut Vec<PathBuf>, depth: usize) -> io::Result<()> {
    let mut entries = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    for path in entries {
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_hidden || out.len() > MAX_FILES {
            continue;
        }
        if path.is_dir() {
            // A link may lead back up.
            if depth > 0 && !path.is_symlink() {
                files(&path, out, depth - 1)?;
            }
        } else if is_known(&path) && path.is_file() {
            out.push(path);
        }
    }
    Ok(())
}

fn is_known(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| KNOWN.iter().any(|known| known.eq_ignore_ascii_case(extension)))
}

fn stdin() -> io::Result<Stdin> {
    let place = std::env::temp_dir().join(format!("vtagd-{}", uuid::Uuid::new_v4().simple()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&place)?;
    // Nobody else finds it, and nothing is left of it.
    std::fs::remove_file(&place)?;
    let copied = io::copy(&mut io::stdin().lock().take(MAX_STDIN + 1), &mut file)?;
    if copied > MAX_STDIN {
        return Err(io::Error::other("it is larger than 4 GiB"));
    }
    Ok(Stdin { path: format!("/proc/self/fd/{}", file.as_raw_fd()).into(), _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_become_their_pictures_and_videos_by_name() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("below")).unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("below/up")).unwrap();
        for name in ["b.JPG", "a.mp4", "notes.txt", ".hidden.png", "below/c.webp"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let given = GivenInputs::read(&[folder.path().to_owned(), "rtsp://10.0.0.1/a".into()]).unwrap();
        let names: Vec<_> = given.paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.mp4", "b.JPG", "c.webp", "a"]);
        let empty = GivenInputs::read(&[folder.path().join("below/up/below")]);
        assert!(empty.is_ok());
        std::fs::remove_file(folder.path().join("below/c.webp")).unwrap();
        assert!(GivenInputs::read(&[folder.path().join("below")]).is_err_and(|why| why.contains("no picture")));
    }
}
