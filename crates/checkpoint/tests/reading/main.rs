//! Checkpoints as their makers publish them, and as nobody should: read, or refused by name. A module a scenario.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod hub_from_a_library;
#[path = "../import_folders/mod.rs"]
mod import_folders;
mod import_read_bad_input;
mod import_read_conformance;
mod import_read_layouts;
mod whole_import;
