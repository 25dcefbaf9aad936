//! Products of bytes: whether ONNX Runtime's fast kernels add them up exactly, for this model on this processor. Pure, but for one look at the processor.
//!
//! Comes in: what a model says of its weights, and the instructions that kernels are chosen by. Goes out: session options, for `super::provider`.

/// Whether the 8-bit weights of a model stay within the 16 bits in which CPUs without VNNI add their products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteSums {
    /// Written by our own import, which leaves room for them: the fast kernels are exact.
    Fit,
    /// Anybody else's: the runtime is told to add in 32 bits where the fast kernels would overflow.
    MayOverflow,
}

impl From<bool> for ByteSums {
    /// Whether they are known to fit.
    fn from(fit: bool) -> Self {
        if fit { Self::Fit } else { Self::MayOverflow }
    }
}

/// An x86-64 processor as ONNX Runtime sees it when it chooses kernels for unsigned times signed bytes (MLAS, `platform.cpp`): by CPUID and by what
/// the system keeps of the registers, not by what `/proc/cpuinfo` says. What a hypervisor hides is hidden from both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X86 {
    /// F, BW, DQ and VL, all of them. Then AVX-512's kernels are taken, before those of AVX-VNNI too.
    pub avx512: bool,
    pub avx512_vnni: bool,
    pub avx_vnni: bool,
}

impl X86 {
    /// The one that this program runs on; `None` on other architectures.
    pub fn this() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            use std::is_x86_feature_detected as has;
            Some(Self {
                avx512: has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl"),
                avx512_vnni: has!("avx512vnni"),
                avx_vnni: has!("avxvnni"),
            })
        }
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// Whether the fast kernels add products of bytes in 32 bits. VNNI's instructions do. AVX2 and the first AVX-512 add two products in
    /// 16 bits, which overflows and is cut off there. (AMX is exact too, but no processor has it without AVX-512's VNNI.)
    pub const fn is_exact(self) -> bool {
        if self.avx512 { self.avx512_vnni } else { self.avx_vnni }
    }
}

/// Of ONNX Runtime's session options (`kOrtSessionOptionsAvx2PrecisionMode`): weights become unsigned while a model is loaded, and all sums are in
/// 32 bits. Without it an int8 image tower whose sums overflow agrees with 32 bits to a cosine of 0.93 only. It is for processors without
/// VNNI: those with it are as exact without, but not all ignore it, and then take kernels that are 2.6 times slower.
const EXACT_8_BITS: &str = "session.x64quantprecision";

/// The session option that makes products of a model with such `sums` exact on `processor`: name and value. Processors of other architectures
/// add in 32 bits, and ONNX Runtime knows the option on none of them.
pub const fn session_option(sums: ByteSums, processor: Option<X86>) -> (&'static str, &'static str) {
    let exact = match processor {
        Some(x86) => x86.is_exact(),
        None => true,
    };
    let needed = matches!(sums, ByteSums::MayOverflow) && !exact;
    (EXACT_8_BITS, if needed { "1" } else { "0" })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const fn x86(avx512: bool, avx512_vnni: bool, avx_vnni: bool) -> Option<X86> {
        Some(X86 { avx512, avx512_vnni, avx_vnni })
    }

    /// A processor, and whether it needs the slow kernels for weights that nobody vouches for.
    pub const PROCESSORS: [(&str, Option<X86>, bool); 9] = [
        ("AVX2 alone (Haswell, Zen 2)", x86(false, false, false), true),
        ("AVX-512 without VNNI (Skylake-X)", x86(true, false, false), true),
        ("AVX-512 with VNNI, no AMX (Ice Lake, Rocket Lake)", x86(true, true, false), false),
        ("both (Sapphire Rapids, Zen 4)", x86(true, true, true), false),
        ("AVX-VNNI without AVX-512 (Alder Lake, an N100)", x86(false, false, true), false),
        ("a hypervisor that hides AVX-512's VNNI: its kernels go before AVX-VNNI's", x86(true, false, true), true),
        ("a hypervisor that hides AVX-512 BW and leaves its VNNI", x86(false, true, false), true),
        ("the same on a processor with AVX-VNNI", x86(false, true, true), false),
        ("arm64", None, false),
    ];

    #[test]
    fn only_weights_that_nobody_vouches_for_are_slow_and_only_where_no_vnni_is_used() {
        for (what, processor, slow) in PROCESSORS {
            let value = |fit: bool| session_option(fit.into(), processor).1;
            assert_eq!(value(false), if slow { "1" } else { "0" }, "{what}");
            assert_eq!(value(true), "0", "{what}: an import leaves room");
        }
    }

    #[test]
    fn a_processor_whose_system_shows_vnni_is_known_to_be_exact() {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let has = |wanted: &[&str]| wanted.iter().all(|name| flags.split_whitespace().any(|flag| flag == *name));
        let avx512 = has(&["avx512f", "avx512bw", "avx512dq", "avx512vl"]);
        if has(&["avx512_vnni"]) && avx512 || has(&["avx_vnni"]) && !avx512 {
            assert!(X86::this().is_some_and(X86::is_exact), "{:?} of {flags}", X86::this());
        }
    }
}
