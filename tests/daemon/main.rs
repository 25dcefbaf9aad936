//! The daemon's life: start, reload, idleness, end; its log and its unit. A module a scenario.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they measured or skipped")]

#[path = "../common/mod.rs"]
mod common;

mod history_bad_input;
mod history_explained;
mod history_search;
mod idle_costs_nothing;
mod label_doubts;
mod logs;
mod many_boxes;
mod run_files;
mod run_footage;
mod run_reload;
mod run_shutdown;
mod state_directory;
mod systemd_unit;
