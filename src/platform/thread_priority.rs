//! Who goes first where a core is wanted by two: inference, as long as it leaves a core to the others.
//!
//! Threads that receive, decode and prepare pictures run for a moment and sleep; each time one wakes on the core that inference is on,
//! the scheduler takes that core from it, even if another is idle. With one thread of inference on two cores that costs a
//! tenth of the pictures. So those threads step back in the order of the scheduler (their *nice* value), which changes
//! nothing while there are idle cores. Where inference takes all cores they do not: it would take their turn too,
//! and cameras would have to wait for whole batches. `CPUWeight=` in the unit keeps this order inside the service.
//!
//! Set once, at start-up, by the daemon; asked by each thread as it begins. Nothing here blocks or fails.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::infer::Provider;
use crate::infer::sessions::Plan;

/// The last in the order.
const NICE: i32 = 19;

static LOWER: AtomicBool = AtomicBool::new(false);

/// Whether inference as planned leaves at least one of `cores` to others.
fn leaves_a_core(provider: Provider, plan: &Plan, cores: usize) -> bool {
    // 0 threads are all cores.
    provider == Provider::Cpu && plan.threads > 0 && plan.threads.saturating_mul(plan.sessions) < cores
}

/// Decides for the threads that begin from now on.
pub fn decide(provider: Option<Provider>, plan: Option<&Plan>) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let back = provider.zip(plan).is_some_and(|(provider, plan)| leaves_a_core(provider, plan, cores));
    LOWER.store(back, Ordering::Relaxed);
    tracing::debug!(back, cores, "order of threads");
}

/// To be called by a thread that receives, decodes or prepares pictures, as it begins.
pub fn lower_priority() {
    if LOWER.load(Ordering::Relaxed) {
        // For Linux the calling thread alone is meant. That it goes last can always be asked for; were it refused, it would go on as before.
        let _ = rustix::process::setpriority_process(None, NICE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(sessions: usize, threads: usize) -> Plan {
        Plan { sessions, threads, devices: Vec::new(), max_size: 8, sizing: None }
    }

    #[test]
    fn inference_goes_first_only_while_a_core_is_left() {
        assert!(leaves_a_core(Provider::Cpu, &plan(1, 1), 2));
        assert!(leaves_a_core(Provider::Cpu, &plan(2, 3), 8));
        assert!(!leaves_a_core(Provider::Cpu, &plan(2, 1), 2));
        assert!(!leaves_a_core(Provider::Cpu, &plan(1, 0), 16), "0 threads are all cores");
        assert!(!leaves_a_core(Provider::Cuda, &plan(1, 1), 16), "a GPU's thread mostly waits");
    }

    #[test]
    fn a_thread_that_steps_back_takes_no_other_with_it() {
        LOWER.store(true, Ordering::Relaxed);
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        assert_eq!(std::thread::spawn(move || (lower_priority(), nice()).1).join().unwrap(), NICE);
        assert_eq!(nice(), before);
        LOWER.store(false, Ordering::Relaxed);
    }
}
