//! `vtagd docs`: the tables of the documentation that are made from the code, for whoever writes it. Text on stdout; a test compares it
//! with what the documentation shows. On the main thread.

use super::package;
use crate::config;
use crate::metrics;
use crate::sink::asyncapi;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one.
    table: Table,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Table {
    /// Metrics and their labels: docs/operations.md.
    Metrics,
    /// Every key of the configuration and of label sets: docs/configuration.md.
    Keys,
    /// What each key of the configuration needs to take effect: docs/configuration.md.
    Effects,
    /// What is said over MQTT, NATS and Kafka, as an AsyncAPI document: config/vtagd.asyncapi.json.
    Asyncapi,
    /// Every command with its arguments: docs/commands.md, the whole page.
    Commands,
}

/// Prints it; the exit code. `command`: the whole command line.
pub fn run(args: &Args, command: clap::Command) -> u8 {
    let text = match args.table {
        Table::Metrics => metrics::tables(),
        Table::Keys => config::key_tables(),
        Table::Effects => config::effects::table(),
        Table::Asyncapi => format!("{:#}", asyncapi::document()),
        Table::Commands => commands(command),
    };
    super::say(text.trim_end());
    0
}

/// Columns of the page, whatever the terminal has.
const COLUMNS: usize = 100;

/// The page of all commands for people, those below others after them.
fn commands(command: clap::Command) -> String {
    let mut page = String::from(
        "# Commands\n\nWhat `vtagd COMMAND --help` prints, all of it. Exit codes: 0 done, 1 failed at run time, 2 wrong input or configuration. Results are on \
         standard output,\nlogs on standard error. Manual pages are in the package (`man vtagd-check`), and completions for bash, zsh and fish.\n",
    );
    let mut all = package::visible(command).term_width(COLUMNS);
    // Names of the commands above, and what `help` of each begins with.
    all.build();
    for one in all.get_subcommands_mut() {
        describe(one, &mut page);
    }
    page
}

fn describe(command: &mut clap::Command, page: &mut String) {
    if command.get_name() == "help" || command.is_hide_set() {
        return;
    }
    let name = command.get_bin_name().unwrap_or_default().to_owned();
    let help = command.clone().term_width(COLUMNS).render_long_help().to_string();
    let lines: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    page.push_str(&format!("\n## {name}\n\n```text\n{}\n```\n", lines.join("\n")));
    for one in command.get_subcommands_mut() {
        describe(one, page);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_for_people_is_on_the_page_with_its_arguments_and_no_other() {
        let page = commands(crate::cli::Cli::command());
        for wanted in
            ["\n## vtagd run\n", "\n## vtagd model import\n", "--probe-timeout <TIME>", "Usage: vtagd labels calibrate"]
        {
            assert!(page.contains(wanted), "{wanted}: {page}");
        }
        assert!(!page.contains("package-files") && !page.contains("## vtagd help") && !page.contains("embed-texts"));
        assert!(page.lines().all(|line| line.chars().count() <= 160), "{page}");
    }
}
