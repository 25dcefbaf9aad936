//! The API, its metrics, and the command that shows them. A module a scenario.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they measured or skipped")]

#[path = "../common/mod.rs"]
mod common;

mod api_answers;
mod api_control;
mod api_limits;
mod api_schemathesis;
mod label_lab;
mod live_stream;
mod marks_by_api;
mod metrics_scrape;
mod page_served;
mod pushed_frames;
mod python_client;
mod reading;
mod scores_command;
mod session_login;
mod start_guide;
mod status_command;
mod streams_added;
mod tag_and_embed;
