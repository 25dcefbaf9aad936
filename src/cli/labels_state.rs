//! `vtagd labels export` and `reset`: a label set as it is in force, and back from its copy in the state directory to its file.
//!
//! In: a configuration and the name of a set. Out: the set's text, or the copy's end. A daemon that runs is asked to remove the copy, so that
//! it goes on with the file at once; otherwise it is removed here. On the main thread.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::ask::{Daemon, Unanswered};
use super::{DEFAULT_CONFIG, complain, say};
use crate::config::{self, SetOnDisk};
use crate::label::state_copy;
use crate::platform::atomic_file::{self, Durability};
use crate::platform::state_folder::StateFolder;

#[derive(Debug, clap::Args)]
pub struct Export {
    /// Name of the label set.
    set: String,
    /// Configuration file of the daemon.
    #[arg(short, long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Write it into a file instead of to standard output.
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct Reset {
    /// Name of the label set.
    set: String,
    /// Configuration file of the daemon, for its `state` and its `api`.
    #[arg(short, long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

/// Why it was not done, and the exit code.
type Failure = (String, u8);

fn sets(config: &Path) -> Result<(StateFolder, Vec<SetOnDisk>), Failure> {
    config::sets_of(config).map_err(|why| (format!("{why}; name the daemon's configuration with -c"), 2))
}

fn unknown(set: &str, sets: &[SetOnDisk], config: &Path) -> Failure {
    let known: Vec<&str> = sets.iter().map(|set| set.name.as_str()).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let why = format!("{} has no label set `{set}` that can be read (known: {known})", config.display());
    (format!("{why}; `vtagd check` says what is wrong with the others"), 2)
}

/// Ends with what was done, or why not.
fn end(done: Result<(), Failure>) -> u8 {
    done.map_or_else(
        |(why, code)| {
            complain(&why);
            code
        },
        |()| 0,
    )
}

/// Prints the set that is in force; the exit code.
pub fn export(Export { set, config, out }: &Export) -> u8 {
    end(sets(config).and_then(|(_, sets)| {
        let found = sets.iter().find(|known| known.name == *set).ok_or_else(|| unknown(set, &sets, config))?;
        let Some(out) = out else {
            say(found.text.strip_suffix('\n').unwrap_or(&found.text));
            return Ok(());
        };
        let written = atomic_file::replace(out, found.text.as_bytes(), Durability::Synced);
        written.map_err(|error| (format!("{} cannot be written: {error}", out.display()), 1))
    }))
}

/// Removes the copy of the set; the exit code.
pub fn reset(Reset { set, config }: &Reset) -> u8 {
    end(sets(config).and_then(|(state, sets)| {
        if !sets.iter().any(|known| known.name == *set) && !state_copy::may_exist(&state, set) {
            return Err(unknown(set, &sets, config));
        }
        let runs = state.holder();
        if runs.is_some()
            && let Some(daemon) = daemon(config)
        {
            return ask(&daemon, set);
        }
        let removed = state_copy::remove(&state, set).map_err(|error| (error.to_string(), error.exit_code()))?;
        say(&match (removed, &runs) {
            (false, _) => format!("the label set `{set}` has no copy: its file is in force"),
            (true, None) => format!("the copy of the label set `{set}` is removed: its file is in force"),
            (true, Some(who)) => format!(
                "the copy of the label set `{set}` is removed; the daemon that runs{who} has no API that can be asked, and goes on \
                 with the copy until it is reloaded: `systemctl reload vtagd`"
            ),
        });
        Ok(())
    }))
}

/// The daemon of the configuration, if it can be asked for changes: only with a token, at an address that is known.
fn daemon(config: &Path) -> Option<Daemon> {
    let reach = config::reach_of(config).ok().filter(|reach| reach.token.is_some())?;
    Daemon::of(reach, config).ok()
}

fn ask(daemon: &Daemon, set: &str) -> Result<(), Failure> {
    let path = format!("/api/v1/labels/{}/reset", state_copy::percent(set, true));
    match daemon.post(&path) {
        Ok(answer) if answer["changed"] == Value::Bool(true) => {
            say(&format!("the daemon has removed the copy of the label set `{set}` and runs its file"));
            Ok(())
        }
        Ok(answer) if answer["changed"] == Value::Bool(false) => {
            say(&format!("the label set `{set}` has no copy: the daemon runs its file"));
            Ok(())
        }
        Ok(_) => Err(("it is not done yet; the daemon's log will say what came of it".to_owned(), 1)),
        Err(Unanswered::Input(why)) => Err((why, 2)),
        Err(Unanswered::Failed(why)) => Err((why, 1)),
    }
}
