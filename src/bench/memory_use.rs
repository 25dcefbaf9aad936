//! How much of this process is in memory, as the kernel tells. In: `/proc/self/status`; out: bytes. Any thread.

use super::{BenchError, Memory};

/// Of this process, now.
///
/// # Errors
/// [`BenchError::Proc`] where there is no `/proc`, or one that does not tell.
pub(super) fn of_this_process() -> Result<Memory, BenchError> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(BenchError::Proc)?;
    parse(&status).ok_or_else(|| BenchError::Proc(std::io::Error::other("it lacks VmRSS or VmHWM")))
}

fn parse(status: &str) -> Option<Memory> {
    let kilobytes = |key: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    let resident = kilobytes("VmRSS:")? * 1024;
    // The kernel writes the peak down now and then only, so it may lag behind.
    let peak = (kilobytes("VmHWM:")? * 1024).max(resident);
    Some(Memory { resident, peak })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read_and_what_it_lacks_is_not_made_up() {
        let status = "Name:\tvtagd\nVmHWM:\t   2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(parse(status), Some(Memory { resident: 1 << 20, peak: 2 << 20 }));
        assert_eq!(parse("VmRSS:\t12 kB\n"), None);
        assert_eq!(parse("VmRSS:\tmany\nVmHWM:\t1 kB\n"), None);
    }

    #[test]
    fn what_this_process_takes_is_known() {
        let memory = of_this_process().unwrap();
        assert!(memory.resident > 1 << 20 && memory.peak >= memory.resident, "{memory:?}");
    }
}
