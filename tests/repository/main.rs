//! What the repository says about itself: documents, rules, words that others depend on, scripts. A module a scenario.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they measured or skipped")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../contract/mod.rs"]
mod contract;
#[path = "../import/hub_support/mod.rs"]
mod hub_support;

mod api_page;
mod bench_guard;
mod contract_words;
mod docs_are_true;
mod fuzz_bodies;
mod gpu_script;
mod image_files;
mod ops_rules;
mod page_reader;
mod task_pages;
mod task_pages_run;
mod tidy;
