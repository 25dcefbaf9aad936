//! Label sets, their texts, and one-shot tags. A module a scenario.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they measured or skipped")]

#[path = "../common/mod.rs"]
mod common;

mod calibration;
mod calibration_of_the_past;
mod embed_command;
mod embed_texts;
mod example_sets;
mod label_hours;
mod labels_set;
mod learning_from_pictures;
mod reload_at_random;
mod tag_command;
mod tag_rehearsal;
mod zero_shot_ensembles;
