//! Configurations, right and wrong, and the credentials in them. A module a scenario.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they measured or skipped")]

#[path = "../common/mod.rs"]
mod common;

mod asyncapi_document;
mod check_tries;
mod config_effects;
mod config_environment;
mod config_include;
mod config_problems;
mod config_schema;
mod config_settings;
mod config_suspicious;
mod credentials_absent;
mod doctor;
mod run_bad_input;
mod secrets_stay_secret;
mod what_people_read;
