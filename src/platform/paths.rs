//! Where things lie: the starter model, the pipeline templates, the runtime library and the cache directory.
//!
//! Every search has one order: the checkout the binary was built in, beside the binary (the runtime library only), the prefix it was
//! installed under, then the system's own folders; for a binary out of a `target/` folder the working directory comes last. Nothing here creates or opens a file.

use std::env;
use std::io;
use std::path::{Path, PathBuf};

/// Shared, read-only data of an installed vtagd.
const SHARE: &str = "/usr/share/vtagd";
/// The runtime library of an installed vtagd.
const LIB: &str = "/usr/lib/vtagd";
/// State of a system service without `StateDirectory=`.
const SYSTEM_STATE: &str = "/var/lib/vtagd";
/// Cache of a system service without `CacheDirectory=` and without a home.
const SYSTEM_CACHE: &str = "/var/cache/vtagd";

/// Folders that may hold read-only data such as `models/` and `pipelines/`, best first.
pub fn data_dirs() -> Vec<PathBuf> {
    let mut dirs: Vec<_> = checkout().into_iter().collect();
    dirs.extend(prefix().map(|p| p.join("share/vtagd")));
    dirs.push(PathBuf::from(SHARE));
    dirs.extend(working_directory());
    dirs.dedup();
    dirs
}

/// The first data folder that has `relative`, or `None` with the places that were looked at.
///
/// # Errors
/// Gives back every path that was tried.
pub fn find_data(relative: &str) -> Result<PathBuf, Vec<PathBuf>> {
    let tried: Vec<_> = data_dirs().into_iter().map(|dir| dir.join(relative)).collect();
    tried.iter().find(|path| path.exists()).cloned().ok_or(tried)
}

/// Folder of the built-in pipeline templates; the installed one when none exists, so that a message can name it.
pub fn templates_dir() -> PathBuf {
    find_data("pipelines").unwrap_or_else(|_| Path::new(SHARE).join("pipelines"))
}

/// Places where `libonnxruntime.so` is looked for when nobody named one, best first.
pub fn runtime_libraries() -> Vec<PathBuf> {
    let name = "libonnxruntime.so";
    let mut files: Vec<_> = checkout().map(|dir| dir.join("runtime").join(name)).into_iter().collect();
    files.extend(exe_dir().map(|dir| dir.join(name)));
    files.extend(prefix().map(|p| p.join("lib/vtagd").join(name)));
    files.push(Path::new(LIB).join(name));
    files.extend(working_directory().map(|dir| dir.join("runtime").join(name)));
    files.dedup();
    files
}

/// Where made-again data such as text embeddings is kept: `VTAGD_CACHE`, systemd's `CACHE_DIRECTORY`,
/// `XDG_CACHE_HOME/vtagd`, `~/.cache/vtagd`, `/var/cache/vtagd`, in this order. It may not exist yet.
pub fn cache_dir() -> PathBuf {
    cache_dir_from(|name| env::var_os(name).map(PathBuf::from))
}

/// The same of the service, for whoever looks after it from a shell.
pub fn service_cache_dir() -> PathBuf {
    PathBuf::from(SYSTEM_CACHE)
}

/// Bytes that this user may still write to the disk that `dir` is on.
///
/// # Errors
/// When there is no such folder.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(dir)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Where what must not be lost is kept: systemd's `STATE_DIRECTORY`, otherwise `/var/lib/vtagd`. It may not exist yet.
pub fn state_dir() -> PathBuf {
    given_state_dir().unwrap_or_else(|| PathBuf::from(SYSTEM_STATE))
}

/// Whether somebody has given us a place for such things.
pub fn has_state_dir() -> bool {
    given_state_dir().is_some()
}

fn given_state_dir() -> Option<PathBuf> {
    let list = env::var_os("STATE_DIRECTORY").filter(|list| !list.is_empty())?;
    env::split_paths(&list).next()
}

fn cache_dir_from(var: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    // An empty variable is an unset one, and the XDG specification tells to ignore relative paths.
    let set = |name: &str| var(name).filter(|path| !path.as_os_str().is_empty());
    let absolute = |name: &str| set(name).filter(|path| path.is_absolute());
    set("VTAGD_CACHE")
        // systemd separates several directories with a colon; ours is the first.
        .or_else(|| set("CACHE_DIRECTORY").map(|list| env::split_paths(&list).next().unwrap_or_default()))
        .or_else(|| absolute("XDG_CACHE_HOME").map(|dir| dir.join("vtagd")))
        .or_else(|| absolute("HOME").map(|dir| dir.join(".cache/vtagd")))
        .unwrap_or_else(|| PathBuf::from(SYSTEM_CACHE))
}

fn exe_dir() -> Option<PathBuf> {
    env::current_exe().ok()?.parent().map(Path::to_owned)
}

/// `PREFIX` of `PREFIX/bin/vtagd`.
fn prefix() -> Option<PathBuf> {
    let dir = exe_dir()?;
    if dir.file_name()? != "bin" {
        return None;
    }
    dir.parent().map(Path::to_owned)
}

/// The working directory, for a build whose target folder lies elsewhere; never for an installed one, which must not load
/// what lies in a stranger's folder.
fn working_directory() -> Option<PathBuf> {
    checkout().map(|_| PathBuf::from("."))
}

/// The repository a `target/<profile>/vtagd` was built in.
fn checkout() -> Option<PathBuf> {
    let exe = exe_dir()?;
    let target = exe.ancestors().find(|dir| dir.file_name().is_some_and(|name| name == "target"))?;
    target.parent().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(vars: &[(&str, &str)]) -> PathBuf {
        cache_dir_from(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v)))
    }

    #[test]
    fn the_cache_directory_follows_its_variables_in_order() {
        assert_eq!(with(&[("VTAGD_CACHE", "c"), ("CACHE_DIRECTORY", "/var/cache/x")]), Path::new("c"));
        assert_eq!(with(&[("CACHE_DIRECTORY", "/var/cache/x:/b"), ("HOME", "/h")]), Path::new("/var/cache/x"));
        assert_eq!(with(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]), Path::new("/x/vtagd"));
        assert_eq!(with(&[("XDG_CACHE_HOME", "relative"), ("HOME", "/h")]), Path::new("/h/.cache/vtagd"));
        assert_eq!(with(&[("VTAGD_CACHE", ""), ("HOME", "")]), Path::new("/var/cache/vtagd"));
    }

    #[test]
    fn a_test_binary_knows_the_checkout_it_was_built_in() {
        assert_eq!(checkout().as_deref(), Some(Path::new(env!("CARGO_MANIFEST_DIR"))));
    }

    #[test]
    fn a_runtime_beside_the_binary_goes_before_the_systems_own() {
        let files = runtime_libraries();
        let place = |folder: &Path| files.iter().position(|file| file.parent() == Some(folder));
        let exe = exe_dir().unwrap();
        assert!(place(&exe).unwrap() < place(Path::new(LIB)).unwrap(), "{files:?}");
    }

    #[test]
    fn a_missing_data_folder_names_every_place() {
        let tried = find_data("no-such-folder").unwrap_err();
        assert!(tried.iter().any(|p| p.starts_with(SHARE)), "{tried:?}");
    }
}
