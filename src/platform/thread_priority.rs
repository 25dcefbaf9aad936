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

/// The last in the order.
const NICE: i32 = 19;

static LOWER: AtomicBool = AtomicBool::new(false);

/// Decides for the threads that begin from now on. `back`: they go after inference, as that leaves one of `cores` to them.
pub fn decide(back: bool, cores: usize) {
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
