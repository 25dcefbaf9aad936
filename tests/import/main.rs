//! Checkpoints and model directories: read, imported, fetched. A module a scenario.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they measured or skipped")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../crates/checkpoint/tests/import_folders/mod.rs"]
mod import_folders;

mod hub_model;
mod hub_support;
mod import_bundle;
mod import_command;
mod import_disk;
mod import_graph_conformance;
mod import_graph_patches;
mod import_int8_arithmetic;
mod import_nearly_right;
mod import_support;
mod import_tokenizers;
mod model_command;
mod model_image_towers;
mod model_pull;
mod model_runtime_library;
