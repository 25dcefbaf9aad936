//! `vtagd run`: read and check the configuration, then be the daemon.

use std::path::Path;

use super::check;
use crate::config;
use crate::daemon;
use crate::logs::{self, LevelFrom};
use crate::platform::malloc;
use crate::platform::secret;

/// Runs the daemon with `file`; the exit code.
pub fn run(file: &Path, verbose: u8) -> u8 {
    let settings = match config::load(file) {
        Ok(settings) => settings,
        Err(problems) => {
            // With stderr closed there is nobody left to tell.
            let _ = check::report(&problems, &mut std::io::stderr());
            return 2;
        }
    };
    let level = match verbose {
        0 => LevelFrom::Configuration(settings.log.level),
        1 => LevelFrom::CommandLine("debug"),
        _ => LevelFrom::CommandLine("trace"),
    };
    // Before anything starts a thread, or a process that would inherit them.
    secret::withdraw_variables();
    logs::init(level, settings.log.format);
    if !settings.origins.is_empty() {
        let keys: Vec<&str> = settings.origins.keys().map(String::as_str).collect();
        tracing::info!(keys = keys.join(", "), "these come from the environment");
    }
    settings.notices.iter().for_each(daemon::log_notice);
    malloc::give_back_what_is_freed();
    match daemon::run(settings) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error}");
            error.exit_code()
        }
    }
}
