//! `vtagd config`: what a configuration comes to, and what may be written into one. A file in, text for a person or an editor on
//! stdout out; opens nothing but the file, its label sets and its secrets, which need not be
//! here. On the main thread.

use std::path::PathBuf;

use crate::config;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print the configuration with all defaults and everything that streams inherit, credentials hidden.
    ///
    /// JSON under the keys of the file. Labels are shown by the names of their sets. No credential has to be here.
    Show {
        /// Configuration file.
        #[arg(short, long, default_value = super::DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Print the JSON Schema of the configuration file, for editors.
    Schema,
}

/// Runs it; the exit code.
pub fn run(command: &Command) -> u8 {
    let value = match command {
        Command::Schema => config::json_schema(),
        Command::Show { config: file } => match config::load_for(file, config::Absence::Passed) {
            Ok(settings) => config::effective(&settings),
            Err(problems) => {
                // With stderr closed there is nobody left to tell.
                let _ = super::check::report(&problems, &mut std::io::stderr());
                return 2;
            }
        },
    };
    super::say(&format!("{value:#}"));
    0
}
