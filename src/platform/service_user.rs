//! The user that the service runs as, and work done as that one: for `check`, which root runs in a shell for a daemon that is not root.
//!
//! In: the unit as systemd would read it (its file and drop-ins), `/etc/passwd`, `/etc/group`; nothing is asked of systemd, which may not
//! run here. Out: what the work gives. It is done on a thread of its own, since a thread alone can become somebody else on Linux, and only
//! for good.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::systemd;

/// The service's unit.
pub const UNIT: &str = "vtagd.service";
/// Where units lie; what stands in an earlier folder goes before the same in a later one.
const FOLDERS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceUser {
    pub name: String,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// The user that the unit would run the configuration in `file` as; `None` for another configuration, without a unit, and for whoever is
/// not root and so can be nobody else.
pub fn of(file: &Path) -> Option<ServiceUser> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let lines = lines();
    let file = file.canonicalize().ok()?;
    let starts = lines.iter().filter_map(|line| line.strip_prefix("ExecStart="));
    let is_its_own =
        starts.flat_map(str::split_whitespace).any(|word| Path::new(word).canonicalize().is_ok_and(|f| f == file));
    let name = lines.iter().rev().find_map(|line| line.strip_prefix("User=")).map(str::trim).filter(|_| is_its_own)?;
    named(name, &fs::read_to_string("/etc/passwd").ok()?, &fs::read_to_string("/etc/group").unwrap_or_default())
}

/// The unit and its drop-ins, in the order in which they count.
fn lines() -> Vec<String> {
    let unit = FOLDERS.iter().map(|folder| Path::new(folder).join(UNIT)).find(|path| path.is_file());
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in FOLDERS {
        let Ok(entries) = fs::read_dir(Path::new(folder).join(format!("{UNIT}.d"))) else { continue };
        let entries = entries.filter_map(|entry| Some(entry.ok()?.path()));
        for path in entries.filter(|path| path.extension().is_some_and(|end| end == "conf")) {
            if !files.iter().any(|known| known.file_name() == path.file_name()) {
                files.push(path);
            }
        }
    }
    files.sort_by_key(|path| path.file_name().map(ToOwned::to_owned));
    let texts = unit.into_iter().chain(files).filter_map(|path| fs::read_to_string(path).ok());
    texts.flat_map(|text| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>()).collect()
}

fn named(name: &str, passwd: &str, group: &str) -> Option<ServiceUser> {
    let fields = |line: &str| line.split(':').map(ToOwned::to_owned).collect::<Vec<_>>();
    let user = passwd.lines().map(fields).find(|user| user.first().is_some_and(|first| first == name))?;
    let (uid, gid) = (user.get(2)?.parse().ok()?, user.get(3)?.parse().ok()?);
    let is_in = |group: &Vec<String>| group.get(3).is_some_and(|members| members.split(',').any(|one| one == name));
    let groups = group.lines().map(fields).filter(is_in).filter_map(|group| group.get(2)?.parse().ok()).collect();
    Some(ServiceUser { name: name.to_owned(), uid, gid, groups })
}

/// Whom [`done_for`] did something as.
#[derive(Debug)]
pub enum TriedAs {
    /// Whoever called; with the name of the service's user, and why that one could not be.
    Caller(Option<(String, io::Error)>),
    /// The service's user.
    Service(String),
}

/// Does `work`, which looks at what the configuration in `file` names: as the service's user, where that is its configuration and this is root's shell.
pub fn done_for<T: Send>(file: &Path, work: impl Fn() -> T + Send + Sync) -> (T, TriedAs) {
    let Some(user) = of(file).filter(|_| !systemd::is_in_unit()) else { return (work(), TriedAs::Caller(None)) };
    match user.run(&work) {
        Ok(done) => (done, TriedAs::Service(user.name)),
        Err(error) => (work(), TriedAs::Caller(Some((user.name, error)))),
    }
}

impl ServiceUser {
    /// Does `work` as this user.
    ///
    /// # Errors
    /// When there is no thread, or it may not become this user.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let become_it = || {
                self.enter()?;
                Ok(work())
            };
            let thread = std::thread::Builder::new().name("vtagd-as-user".to_owned()).spawn_scoped(scope, become_it)?;
            thread.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")))
        })
    }

    /// This thread alone: the C library's functions of the same names would take all others along.
    fn enter(&self) -> io::Result<()> {
        let done = |result: libc::c_long| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        // SAFETY: plain system calls; the list is as long as is said, and outlives the first of them.
        unsafe {
            done(libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr()))?;
            done(libc::syscall(libc::SYS_setresgid, self.gid, self.gid, self.gid))?;
            done(libc::syscall(libc::SYS_setresuid, self.uid, self.uid, self.uid))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_with_the_groups_it_is_in() {
        let passwd = "root:x:0:0::/:/bin/sh\nvtagd:x:997:996::/:/usr/sbin/nologin\n";
        let group = "video:x:44:other,vtagd\nrender:x:105:\nkvm:x:106:vtagd2\n";
        let expected = ServiceUser { name: "vtagd".to_owned(), uid: 997, gid: 996, groups: vec![44] };
        assert_eq!(named("vtagd", passwd, group), Some(expected));
        assert_eq!(named("nobody", passwd, group), None);
    }
}
