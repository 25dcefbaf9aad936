//! Every word that others depend on, held against golden files: metrics with their labels and values, the API's JSON, headers and status
//! codes, events, topics and subjects, Home Assistant's document, the outbox's schema, `vtagd.json`, the command line, the keys of the
//! configuration, fields and targets of the log, variables of the environment. What changes here changes for somebody outside.
//!
//! Everything is taken from outside: from the real binary, from brokers, from files, from the sources as text. Neither a module nor a type
//! of ours is named, so that all of them may be called and lie otherwise. CONTRIBUTING says how to renew the files.

use crate::contract::golden::{self, Golden};
use crate::contract::{commands, scene, sources};

#[test]
fn what_a_daemon_tells_is_what_it_has_always_told() {
    let mut golden = Golden::default();
    scene::record(&mut golden);
    golden.finish();
}

#[test]
fn what_commands_print_is_what_they_have_always_printed() {
    let mut golden = Golden::default();
    commands::record(&mut golden);
    golden.finish();
}

#[test]
fn every_command_is_called_as_it_has_always_been_called() {
    let mut golden = Golden::default();
    commands::help(&mut golden);
    golden.finish();
}

#[test]
fn the_sources_have_the_words_that_they_have_always_had() {
    let sources = sources::all();
    let mut golden = Golden::default();
    golden.check("metrics_code.txt", &sources::metrics(&sources));
    golden.check("log_fields.txt", &sources::log_fields(&sources));
    golden.check("environment.txt", &sources::environment(&sources));
    golden.finish();
}

#[test]
fn every_golden_file_is_compared_with_something() {
    golden::none_is_left_over();
}
