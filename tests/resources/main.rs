//! Scenarios that count threads and files of the process they run in: in a program of their own, one at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they measured or skipped")]

#[path = "../common/mod.rs"]
mod common;

mod faults_wedged;
mod many_turns;

use parking_lot::{Mutex, MutexGuard};

/// Nothing else counts, or makes, threads and files until it is dropped.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock()
}
