//! Batches, sessions, providers, and what a box can serve. A module a scenario.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they measured or skipped")]

#[path = "../common/mod.rs"]
mod common;

mod bench_command;
mod fake_inference_server;
mod infer_fairness;
mod infer_plan;
mod infer_providers;
mod infer_sessions;
mod inference_hangs;
mod pictures_on_demand;
mod remote_doctor;
mod remote_server;
mod triton_export;
