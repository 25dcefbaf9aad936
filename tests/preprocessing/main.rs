//! Pixels on their way to the model. A module a scenario.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they measured or skipped")]

#[path = "../common/mod.rs"]
mod common;

mod preprocess_matches_pillow;
mod preprocess_support;
mod preprocess_takes_any_picture;
mod preprocess_video_planes;
