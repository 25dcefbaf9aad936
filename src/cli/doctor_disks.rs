//! The disks of what the daemon keeps, for `vtagd doctor`: state, cache, outbox, history, snapshots and files of events. Settings in, a line a disk
//! out; one that is nearly full or cannot be written is said with what lies on it. Nothing is written. On the caller's thread.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

use super::doctor_page::DoctorPage;
use crate::config::{JsonlTarget, Settings, SinkSettings};
use crate::platform::paths;

/// With less room the outbox cannot keep what waits for a sink that is away, in bytes.
const LITTLE_ROOM: u64 = 256 << 20;

/// One disk, and the folders on it that something is kept in.
struct Disk {
    device: u64,
    free: u64,
    read_only: bool,
    kept: Vec<String>,
    /// The configuration names one of them.
    is_configured: bool,
}

/// Tells them to `page`. `is_service`: the configuration is the service's, whose cache lies elsewhere than this user's.
pub fn tell(page: &mut DoctorPage, settings: Option<&Settings>, is_service: bool) {
    let mut disks: Vec<Disk> = Vec::new();
    for (what, folder, is_configured) in kept(settings, is_service) {
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        let shown = format!("{what} in {}", folder.display());
        // One that is not there yet lies on the disk of the one above it.
        let root = Path::new(if folder.is_relative() { "." } else { "/" });
        let there = folder.ancestors().find(|above| above.exists()).unwrap_or(root);
        let device = std::fs::metadata(there).map(|found| found.dev());
        let found = device.and_then(|device| Ok((device, rustix::fs::statvfs(there)?)));
        match found {
            Ok((device, found)) => match disks.iter_mut().find(|disk| disk.device == device) {
                Some(disk) => {
                    disk.kept.push(shown);
                    disk.is_configured |= is_configured;
                }
                None => disks.push(Disk {
                    device,
                    free: found.f_bavail.saturating_mul(found.f_frsize),
                    read_only: found.f_flag.contains(StatVfsMountFlags::RDONLY),
                    kept: vec![shown],
                    is_configured,
                }),
            },
            Err(error) => page.note("disk", format!("{shown}: {error}"), "let this user look there"),
        }
    }
    disks.iter().for_each(|disk| disk.tell(page));
}

impl Disk {
    fn tell(&self, page: &mut DoctorPage) {
        let kept = self.kept.join(", ");
        if self.read_only {
            let found = format!("read-only: {kept}");
            let remedy = "`dmesg` says whether it failed; mount it for writing, or name a folder on another disk";
            match self.is_configured {
                true => page.fail("disk", found, remedy),
                false => page.note("disk", found, remedy),
            }
        } else if self.free < LITTLE_ROOM {
            let found = format!("{} left for {kept}", super::doctor::size(self.free));
            page.note("disk", found, "make room: where the disk is full, events wait in memory alone");
        } else {
            page.ok("disk", format!("{} left for {kept}", super::doctor::size(self.free)));
        }
    }
}

/// What is kept, its folder, and whether the configuration names that.
fn kept(settings: Option<&Settings>, is_service: bool) -> Vec<(&'static str, PathBuf, bool)> {
    let cache = if is_service { paths::service_cache_dir() } else { paths::cache_dir() };
    let Some(settings) = settings else { return vec![("state", paths::state_dir(), false), ("cache", cache, false)] };
    let mut kept =
        vec![("state", settings.state.path().to_owned(), settings.state.is_given()), ("cache", cache, false)];
    let mut named = |what, folder: Option<&Path>| kept.extend(folder.map(|folder| (what, folder.to_owned(), true)));
    named("outbox", settings.outbox.path.as_deref().and_then(Path::parent));
    named("history", settings.history.as_ref().and_then(|history| history.path.as_deref()));
    named("snapshots", settings.snapshots.as_ref().map(|snapshots| &*snapshots.path));
    for sink in &settings.sinks {
        if let SinkSettings::Jsonl(JsonlTarget::File { path, .. }) = sink {
            // What goes to `/dev/stdout` is kept nowhere.
            named("events", path.parent().filter(|_| !path.starts_with("/dev")));
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(disk: Disk) -> String {
        let mut page = DoctorPage::default();
        disk.tell(&mut page);
        page.table()
    }

    #[test]
    fn a_disk_that_is_full_or_cannot_be_written_is_told_with_what_is_kept_there() {
        let disk = |free, read_only, is_configured| Disk {
            device: 1,
            free,
            read_only,
            kept: vec!["outbox in /data".to_owned(), "history in /data/h".to_owned()],
            is_configured,
        };
        let good = told(disk(5 << 30, false, true));
        assert!(good.contains("ok") && good.contains("5.0 GiB left for outbox in /data, history in /data/h"), "{good}");
        assert!(told(disk(1 << 20, false, true)).contains("1 MiB left for outbox"));
        assert!(told(disk(5 << 30, true, true)).contains("FAIL"));
        let other = told(disk(5 << 30, true, false));
        assert!(!other.contains("FAIL") && other.contains("read-only: outbox in /data"), "{other}");
    }
}
