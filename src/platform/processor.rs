//! Which processor this is, and how much of it we have. In: what `/proc` and the scheduler say; out: a name that tells it from others, what its flags say,
//! and a quota. Pure, but for looks at these files, on the caller's thread.
//!
//! Flags say what a processor can do, not what is fast on it: they tell what is worth measuring.

use sha2::{Digest, Sha256};

use super::hex::hex;

/// A processor, as the system describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processor {
    /// What it is called, for people: virtual machines call all generations of a maker alike.
    pub name: String,
    /// The name, with the numbers and flags that tell its generation, and what a hypervisor hides of it.
    pub identity: String,
    /// What it can do, as the kernel calls that.
    pub flags: Vec<String>,
    /// Whether it has instructions that multiply bf16 (x86-64; OpenVINO's own for Arm are not known here).
    pub bf16: bool,
}

impl Processor {
    /// The one that this program runs on.
    pub fn this() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
    }

    /// Of the first processor in the text, as the kernel writes it for x86-64 and Arm.
    pub fn parse(cpuinfo: &str) -> Self {
        let lines: Vec<(&str, &str)> = cpuinfo
            .lines()
            .skip_while(|line| line.trim().is_empty())
            .take_while(|line| !line.trim().is_empty())
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.trim(), value.trim()))
            .collect();
        let value = |key: &str| lines.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
        // Arm gives numbers instead of a name.
        let name = value("model name").or_else(|| value("CPU part")).unwrap_or("unknown");
        let numbers = ["cpu family", "model", "stepping", "CPU implementer", "CPU variant", "CPU part"];
        let numbers = numbers.iter().filter_map(|key| Some(format!("{key} {}", value(key)?)));
        let flags = value("flags").or_else(|| value("Features")).unwrap_or_default();
        let digits = hex(&Sha256::digest(flags)[..6]);
        let parts: Vec<String> =
            std::iter::once(name.to_owned()).chain(numbers).chain([format!("flags {digits}")]).collect();
        let bf16 = flags.split_whitespace().any(|flag| flag == "avx512_bf16" || flag == "amx_bf16");
        let flags = flags.split_whitespace().map(str::to_owned).collect();
        Self { name: name.to_owned(), identity: parts.join(", "), flags, bf16 }
    }
}

/// Threads that keep within the CPU time that a container or a unit (`CPUQuota=`) gives this process; `None` where that is all of the CPUs it may
/// run on, which ONNX Runtime and OpenVINO count by themselves. Of a quota they know nothing: 64 threads that share two CPUs' time stand still
/// for most of it, and those that work wait for them.
pub fn quota() -> Option<usize> {
    // As the kernel answers it: of CPUs that run. What `/proc/self/status` allows may be any that the firmware has a socket for.
    let allowed = rustix::thread::sched_getaffinity(None).ok()?.count() as usize;
    below(allowed, std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// `available` CPUs, where more are allowed.
fn below(allowed: usize, available: usize) -> Option<usize> {
    (available < allowed).then_some(available)
}

#[cfg(test)]
pub mod tests {
    use std::path::Path;

    use super::*;

    fn x86(name: &str, model: u8, flags: &str) -> String {
        let one = format!(
            "cpu family\t: 6\nmodel\t\t: {model}\nmodel name\t: {name}\nstepping\t: 1\nflags\t\t: fpu {flags}\n"
        );
        format!("processor\t: 0\n{one}\nprocessor\t: 1\n{one}")
    }

    /// Processors as the kernel describes them: what each is, the text, and whether bf16 is worth measuring.
    pub fn processors() -> [(&'static str, String, bool); 7] {
        let arm =
            "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n";
        [
            ("AVX2 alone", x86("Intel(R) Core(TM) i5-7500", 158, "avx2 fma"), false),
            (
                "AVX-512 without VNNI",
                x86("Intel(R) Xeon(R) Gold 6140", 85, "avx2 avx512f avx512bw avx512dq avx512vl"),
                false,
            ),
            ("VNNI without bf16", x86("Intel(R) Xeon(R) Gold 6338", 106, "avx2 avx512f avx512_vnni"), false),
            ("bf16 without AMX", x86("Intel(R) Xeon(R) Gold 6348H", 85, "avx512f avx512_vnni avx512_bf16"), true),
            ("AMX", x86("Intel(R) Xeon(R) Platinum 8480", 143, "avx512_bf16 amx_bf16 amx_tile amx_int8"), true),
            ("NEON", arm.to_owned(), false),
            ("no text at all", String::new(), false),
        ]
    }

    #[test]
    fn the_flags_say_where_bf16_is_worth_measuring() {
        for (what, text, bf16) in processors() {
            assert_eq!(Processor::parse(&text).bf16, bf16, "{what}");
        }
        assert!(!Processor::parse("flags : avx512f\nmodel name : avx512_bf16").bf16, "a name is no flag");
    }

    #[test]
    fn the_name_is_read_as_the_kernel_writes_it() {
        let name = |text: &str| Processor::parse(text).name;
        assert_eq!(
            name("processor\t: 0\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel name\t: AMD EPYC\n"),
            "AMD EPYC"
        );
        assert_eq!(name("processor : 0\nCPU part\t: 0xd0c\n"), "0xd0c");
        assert_eq!(name(""), "unknown");
    }

    #[test]
    fn a_quota_counts_where_it_is_below_the_cpus_that_may_be_run_on() {
        assert_eq!((below(64, 2), below(64, 64)), (Some(2), None));
        assert_eq!(below(2, 2), None, "an affinity is no quota");
    }

    #[test]
    fn cpus_that_could_be_and_are_not_are_no_quota() {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        // An older kind of control groups.
        let Some(own) = groups.lines().find_map(|line| line.strip_prefix("0::/")) else { return };
        let own = Path::new("/sys/fs/cgroup").join(own);
        let is_limited =
            |group: &Path| std::fs::read_to_string(group.join("cpu.max")).is_ok_and(|max| !max.starts_with("max"));
        if !own.ancestors().any(is_limited) {
            assert_eq!(quota(), None);
        }
    }

    #[test]
    fn processors_that_a_hypervisor_calls_alike_are_told_apart() {
        let identity = |text: &str| Processor::parse(text).identity;
        let base = x86("AMD EPYC", 1, "avx2");
        assert_eq!(identity(&base), identity(&base));
        for other in [x86("AMD EPYC", 17, "avx2"), x86("AMD EPYC", 1, "avx2 avx512f"), x86("AMD", 1, "avx2")] {
            assert_ne!(identity(&base), identity(&other));
        }
    }
}
