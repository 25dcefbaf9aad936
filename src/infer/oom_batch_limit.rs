//! How many pictures may be run at once after memory has run out. Pure; time is a parameter.
//!
//! Each time a run finds no memory, half as many are allowed. What took the memory may go away again, so twice as many are tried
//! after a while, and later each time that was in vain.

use std::time::{Duration, Instant};

/// First wait before twice as many are tried; doubled up to [`MAX_WAIT`] each time that fails.
const FIRST: Duration = Duration::from_secs(60);
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// Whether an error of the runtime, or of what lies below it, means that there was no memory. ONNX Runtime has no code for it.
pub fn is_out_of_memory(message: &str) -> bool {
    const SIGNS: &[&str] = &[
        // The C++ library, and ONNX Runtime's CPU arena.
        "bad_alloc",
        "failed to allocate memory",
        "failed to allocate",
        // CUDA's own words, its arena's, and those of the libraries above it.
        "out of memory",
        "cuda failure 2:",
        "cudaerrormemoryallocation",
        "available memory of",
        "alloc_failed",
        // TensorRT, OpenVINO and OpenCL.
        "outofmemory",
        "out_of_resources",
        "mem_object_allocation_failure",
    ];
    let message = message.to_ascii_lowercase();
    SIGNS.iter().any(|sign| message.contains(sign))
}

/// See the module.
#[derive(Debug, Default)]
pub struct OomBatchLimit {
    low: Option<Low>,
    /// How long the next one is kept.
    wait: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Low {
    limit: usize,
    /// What failed last: what is tried next stays at or below it.
    failed: usize,
    until: Instant,
}

impl OomBatchLimit {
    /// Pictures that may be run at once of `count`.
    pub fn allow(&mut self, count: usize, now: Instant) -> usize {
        let Some(low) = &mut self.low else { return count };
        if now >= low.until {
            if low.limit >= low.failed {
                // Twice as many have worked since.
                (self.low, self.wait) = (None, None);
                return count;
            }
            low.limit = (low.limit * 2).min(low.failed);
            low.until = now + self.wait.unwrap_or(FIRST);
        }
        count.min(low.limit)
    }

    /// A run of `tried` pictures found no memory. The new limit, at least one.
    pub fn lower(&mut self, tried: usize, now: Instant) -> usize {
        let limit = (tried / 2).max(1);
        let wait = self.wait.map_or(FIRST, |wait| (wait * 2).min(MAX_WAIT));
        self.wait = Some(wait);
        self.low = Some(Low { limit, failed: tried, until: now + wait });
        limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_ran_out_is_known_by_its_words() {
        for told in [
            "Non-zero status code returned while running MatMul node. bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of size 1048576",
            "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);",
            "bfc_arena.cc:344 AllocateRawInternal Available memory of 1024 is smaller than requested bytes of 4096",
            "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
            "std::bad_alloc",
            "TensorRT: [defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
        ] {
            assert!(is_out_of_memory(told), "{told}");
        }
        for told in [
            "Exiting due to terminate flag being set to true.",
            "CUDA failure 700: an illegal memory access was encountered",
            "Got invalid dimensions",
        ] {
            assert!(!is_out_of_memory(told), "{told}");
        }
    }

    #[test]
    fn each_failure_halves_what_is_run_down_to_one_picture() {
        let (now, mut oom_limit) = (Instant::now(), OomBatchLimit::default());
        assert_eq!(oom_limit.allow(8, now), 8);
        assert_eq!((oom_limit.lower(8, now), oom_limit.allow(8, now)), (4, 4));
        assert_eq!((oom_limit.lower(4, now), oom_limit.allow(3, now)), (2, 2));
        assert_eq!((oom_limit.lower(2, now), oom_limit.lower(1, now)), (1, 1));
        assert_eq!(oom_limit.allow(8, now), 1);
    }

    #[test]
    fn twice_as_many_are_tried_after_a_while_and_later_after_each_failure() {
        let (start, mut oom_limit) = (Instant::now(), OomBatchLimit::default());
        oom_limit.lower(8, start);
        assert_eq!(oom_limit.allow(8, start + FIRST - Duration::from_secs(1)), 4);
        assert_eq!(oom_limit.allow(8, start + FIRST), 8, "tried again");
        oom_limit.lower(8, start + FIRST);
        assert_eq!(oom_limit.allow(8, start + FIRST * 2), 4, "the second wait is longer");
        assert_eq!(oom_limit.allow(8, start + FIRST * 3), 8);
        // It works, and everything is forgotten.
        assert_eq!(oom_limit.allow(16, start + FIRST * 6), 16);
        assert_eq!((oom_limit.lower(16, start + FIRST * 7), oom_limit.allow(16, start + FIRST * 8)), (8, 16));
    }
}
