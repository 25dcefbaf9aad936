//! How much memory can still be had: what the kernel says is available, or what the control group leaves if that is less. Reads a few
//! small files of the kernel, on the caller's thread.

use std::fs;
use std::path::{Path, PathBuf};

/// In bytes; `None` where nobody says.
pub fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_machine(&text));
    let group =
        fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| of_group(&text, Path::new("/sys/fs/cgroup")));
    machine.into_iter().chain(group).min()
}

fn of_machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The least that this group and those above it leave (version 2 of control groups).
fn of_group(groups: &str, root: &Path) -> Option<u64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let number = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let left = |group: &Path| {
        let held = number(group.join("memory.current"))?.saturating_sub(reclaimable(group));
        Some(number(group.join("memory.max"))?.saturating_sub(held))
    };
    root.join(own).ancestors().take_while(|group| group.starts_with(root)).filter_map(left).min()
}

/// What the kernel takes back as soon as somebody wants it: files that were written or read lately. It counts as held, and stands near the limit wherever
/// pictures and the history are kept.
fn reclaimable(group: &Path) -> u64 {
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let of = |line: &str| {
        let (key, bytes) = line.split_once(' ')?;
        matches!(key, "inactive_file" | "slab_reclaimable").then(|| bytes.trim().parse::<u64>().ok()).flatten()
    };
    stat.lines().filter_map(of).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_how_much_there_is() {
        assert_eq!(of_machine("MemTotal: 9 kB\nMemAvailable:    1234 kB\n"), Some(1234 * 1024));
        assert_eq!(of_machine("MemTotal: 9 kB\n"), None);
        assert!(available().is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn a_control_group_and_those_above_it_leave_less() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let limit = |folder: &Path, max: &str, current: &str| {
            fs::write(folder.join("memory.max"), max).unwrap();
            fs::write(folder.join("memory.current"), current).unwrap();
        };
        limit(&inner, "max\n", "10\n");
        assert_eq!(of_group("0::/a/b\n", root.path()), None);
        limit(&root.path().join("a"), "1000\n", "300\n");
        assert_eq!(of_group("0::/a/b\n", root.path()), Some(700));
        limit(&inner, "500\n", "600\n");
        assert_eq!(of_group("0::/a/b\n", root.path()), Some(0));
        assert_eq!(of_group("1:memory:/a\n", root.path()), None);
        // Pictures on their way to the disk are no memory that is lacking.
        limit(&inner, "1000\n", "990\n");
        limit(&root.path().join("a"), "max\n", "990\n");
        fs::write(inner.join("memory.stat"), "anon 300\ninactive_file 600\nactive_file 50\nslab_reclaimable 40\n")
            .unwrap();
        assert_eq!(of_group("0::/a/b\n", root.path()), Some(650));
    }
}
