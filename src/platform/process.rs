//! This process as the kernel sees it: CPU time, memory, files, threads. In: `/proc`; out: numbers in Prometheus's units. Any thread.
//!
//! Read when somebody asks; that takes tens of microseconds. Own code: the crate for it (`metrics-process`) tells the CPU time in
//! whole seconds, too coarse for the rate of a mostly idle daemon. Nor `procfs` 0.18, here or for the other files of `/proc`: it gives
//! nothing where a field is missing that nobody here asks for (`Slab`, `VmallocChunk` of `meminfo`).

use std::fs;
use std::sync::OnceLock;

/// A reading of this process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Process {
    /// User and system time of all threads, ended ones included.
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub threads: u64,
    pub open_fds: u64,
    /// `None`: no limit.
    pub max_fds: Option<u64>,
    /// Since the Unix epoch.
    pub start_seconds: f64,
    /// CPUs that this process may use: affinity and the cgroup's quota, rounded down.
    pub cpus: usize,
}

/// What `/proc/self/stat` counts, in its own units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    /// Since boot.
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Process {
    /// Of this process, now; `None` where there is no `/proc`, or one that does not tell.
    pub fn read() -> Option<Self> {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let stat = Stat::parse(&fs::read_to_string("/proc/self/stat").ok()?)?;
        Some(Self {
            cpu_seconds: stat.cpu_ticks as f64 / ticks,
            resident_bytes: stat.resident_pages * rustix::param::page_size() as u64,
            virtual_bytes: stat.virtual_bytes,
            threads: stat.threads,
            // The one that lists them is open too.
            open_fds: (fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1),
            max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
            start_seconds: boot_time()? as f64 + stat.start_ticks as f64 / ticks,
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        })
    }
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name, in brackets, may hold blanks and brackets itself; what follows does not.
        let (_, rest) = text.rsplit_once(')')?;
        // proc(5) counts from 1, and the state, here the first, is its third.
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// When the machine started, in seconds since the Unix epoch. Read once: the kernel moves it when the clock is set, and a process
/// does not start anew for that.
fn boot_time() -> Option<u64> {
    static BOOT: OnceLock<Option<u64>> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read_whatever_the_process_is_called() {
        let line = "42 (a) b (c) S 1 42 42 0 -1 4194560 9 0 0 0 150 50 7 7 20 0 12 0 9000 1048576 256 18446744073709551615 1 1";
        let wanted =
            Stat { cpu_ticks: 200, threads: 12, start_ticks: 9000, virtual_bytes: 1 << 20, resident_pages: 256 };
        assert_eq!(Stat::parse(line), Some(wanted));
        assert_eq!(Stat::parse("42 (a) S 1 2"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn this_process_is_known_and_its_cpu_time_grows() {
        let before = Process::read().unwrap();
        assert!(before.resident_bytes > 1 << 20 && before.resident_bytes <= before.virtual_bytes, "{before:?}");
        assert!(before.threads >= 1 && before.open_fds >= 3 && before.cpus >= 1, "{before:?}");
        let now = jiff::Timestamp::now().as_second() as f64;
        // The kernel tells the start of the machine in whole seconds.
        assert!(before.start_seconds <= now + 2.0 && before.start_seconds > now - 24.0 * 3600.0, "{before:?}");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while Process::read().unwrap().cpu_seconds <= before.cpu_seconds {
            assert!(std::time::Instant::now() < deadline, "a busy process uses CPU time");
        }
    }
}
