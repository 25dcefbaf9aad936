//! The command line: one file a command, results on stdout, logs on stderr, exit codes 0 (done), 1 (failed at run time)
//! and 2 (wrong input or configuration).

mod ask;
mod ask_many;
pub mod bench;
mod calibrate;
mod calibrate_confirm;
mod calibrate_examples;
mod calibrate_marks;
mod calibrate_past;
mod calibrate_plot;
mod calibrate_report;
pub mod check;
pub mod config;
pub mod discover;
pub mod docs;
pub mod doctor;
mod doctor_disks;
mod doctor_page;
pub mod embed;
pub mod events;
pub mod explain;
mod explained_label;
mod export_triton;
pub mod history;
mod intruder_pictures;
pub mod labels;
mod labels_state;
pub mod marks;
pub mod model;
mod model_failure;
pub mod mqtt;
pub mod package;
mod pictures;
mod progress;
pub mod pull;
mod report;
mod report_text;
pub mod run;
pub mod scores;
mod screen;
pub mod search;
mod start_trial;
pub mod status;
mod status_boxes;
pub mod tag;
mod texts;
mod trial;
pub mod version;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::bench::bench_child as measuring;
use crate::label::embed_child;
use crate::logs::{self, LevelFrom, LogFormat};
use crate::platform::{secret, userinfo};

/// Where `run` and `check` look without `-c`.
pub const DEFAULT_CONFIG: &str = "/etc/vtagd/vtagd.yaml";

#[derive(Debug, Parser)]
#[command(name = "vtagd", version, about, max_term_width = 100)]
struct Cli {
    /// Say more on stderr; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch the configured streams until told to stop.
    ///
    /// SIGTERM or Ctrl-C finishes what was taken and ends; a second one stops at once.
    Run {
        /// Configuration file.
        #[arg(short, long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Check a configuration as `run` would, and print every problem.
    Check(check::Args),
    /// Show what a configuration comes to, or what may stand in one.
    #[command(subcommand)]
    Config(config::Command),
    /// Tell what is there and what is missing on this box: processor, disk, decoders, cameras, sinks.
    Doctor(doctor::Args),
    /// Find ONVIF cameras on the local network and print a `streams:` block for them.
    Discover(discover::Args),
    /// Show what a running daemon does: streams, model, sinks.
    Status(status::Args),
    /// Show how a running daemon scores each label: margins, thresholds, best rivals.
    Scores(scores::Args),
    /// Say in three sentences why there was an event of a label, or why not.
    Explain(explain::Args),
    /// Find moments of the past in words: what streams showed, from the history.
    Search(search::Args),
    /// Take out what is kept of the past.
    #[command(subcommand)]
    History(history::Command),
    /// Tag pictures or videos once and print the best labels.
    Tag(tag::Args),
    /// Print embeddings of pictures and texts.
    Embed(embed::Args),
    /// Look at stored events, export them, send them again.
    #[command(subcommand)]
    Events(events::Command),
    /// Take a topic prefix at an MQTT broker over, or clear what older versions left there.
    #[command(subcommand)]
    Mqtt(mqtt::Command),
    /// Say what was seen when, for `labels calibrate`.
    #[command(subcommand)]
    Marks(marks::Command),
    /// Work with label sets.
    #[command(subcommand)]
    Labels(labels::Command),
    /// Pull models, make model directories of checkpoints, and look into them.
    #[command(subcommand)]
    Model(model::Command),
    /// Measure what this box can serve, in images a second and cameras.
    Bench(bench::Args),
    /// Tell which version this is, and of GStreamer and ONNX Runtime.
    Version(version::Args),
    /// Write manual pages and shell completions, for packagers.
    #[command(hide = true)]
    PackageFiles(package::Args),
    /// Print a table of the documentation that is made from the code.
    #[command(hide = true)]
    Docs(docs::Args),
    /// The text tower's child process.
    #[command(name = embed_child::SUBCOMMAND, hide = true)]
    EmbedTexts(embed_child::EmbedChildArgs),
    /// The child process of `bench`.
    #[command(name = measuring::SUBCOMMAND, hide = true)]
    Measure(measuring::BenchChildArgs),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    crate::source::go_directly();
    crate::infer::runtime::forbid_telemetry();
    remember_addresses();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Its messages repeat what was written.
        Err(error) if error.use_stderr() && secret::scrub(&error.to_string()) != error.to_string() => {
            let _ = write!(io::stderr(), "{}", secret::scrub(&error.to_string()));
            return ExitCode::from(2);
        }
        Err(error) => error.exit(),
    };
    // `run` starts its logs itself, as its configuration says.
    if !matches!(cli.command, Command::Run { .. }) {
        let level = match cli.verbose {
            // What a source has to say about its stream stands in the table, and it will not try again.
            0 if matches!(&cli.command, Command::Doctor(_))
                || matches!(&cli.command, Command::Check(args) if args.probe) =>
            {
                "warn,vtagd::source=off,vtagd::cli=info"
            }
            // How far a long command is where there is no bar.
            0 => "warn,vtagd::cli=info",
            1 => "info",
            _ => "debug",
        };
        logs::init(LevelFrom::CommandLine(level), LogFormat::Text);
    }
    let code = match cli.command {
        Command::Run { config } => run::run(&config, cli.verbose),
        Command::Check(args) => check::command(&args, &mut io::stdout(), &mut io::stderr()).unwrap_or(1),
        Command::Config(command) => config::run(&command),
        Command::Doctor(args) => doctor::run(&args),
        Command::Discover(args) => discover::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Scores(args) => scores::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Search(args) => search::run(&args),
        Command::History(command) => history::run(&command),
        Command::Tag(args) => tag::run(&args),
        Command::Embed(args) => embed::run(&args),
        Command::Events(command) => events::run(&command),
        Command::Mqtt(command) => mqtt::run(&command),
        Command::Marks(command) => marks::run(&command),
        Command::Labels(command) => labels::run(command),
        Command::Model(command) => model::run(&command),
        Command::Bench(args) => bench::run(&args),
        Command::Version(args) => version::run(&args),
        Command::PackageFiles(args) => package::run(&args, <Cli as clap::CommandFactory>::command()),
        Command::Docs(args) => docs::run(&args, <Cli as clap::CommandFactory>::command()),
        Command::EmbedTexts(args) => embed_child::serve(&args),
        Command::Measure(args) => measuring::serve(&args),
    };
    logs::finish();
    ExitCode::from(code)
}

/// What may be a password in an address that was given as an argument, or in a variable that we or our libraries read: nothing that is
/// said repeats it.
fn remember_addresses() {
    for argument in std::env::args_os() {
        // The name of a file that is there is no secret.
        if !Path::new(&argument).exists() {
            userinfo::remember_argument(&argument.to_string_lossy());
        }
    }
    for (name, value) in std::env::vars_os() {
        let name = name.to_string_lossy().to_ascii_lowercase();
        if name.starts_with("vtagd") || name.starts_with("hf_") || name.ends_with("_proxy") {
            userinfo::remember_argument(&value.to_string_lossy());
        }
    }
}

/// Writes a line of results. A reader that has gone away ends the program quietly, as `head` would expect.
pub(crate) fn say(line: &str) {
    let mut stdout = io::stdout().lock();
    if writeln!(stdout, "{line}").and_then(|()| stdout.flush()).is_err() {
        // Without exit handlers: they would take ONNX Runtime apart under threads that still compute.
        signal_hook::low_level::exit(1);
    }
}

/// "1 label", "2 labels".
fn plural(number: usize, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// What a camera or a server says has no say about the terminal.
pub(crate) fn plain(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Tells a person what went wrong, on stderr.
pub(crate) fn complain(error: &dyn std::fmt::Display) {
    // With stderr closed there is nobody left to tell.
    let _ = writeln!(io::stderr(), "{}", as_error(&secret::scrub(&error.to_string())));
}

/// `text` with `error:` in front, unless it is a problem of a file, which says so itself behind its place.
fn as_error(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    let says_so = first.contains(": error: ") || first.starts_with("error: ");
    if says_so { text.to_owned() } else { format!("error: {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_calls_itself_an_error_is_not_called_one_again() {
        assert_eq!(as_error("nobody answers"), "error: nobody answers");
        assert_eq!(as_error("/etc/x.yaml:1:4: error: is no list"), "/etc/x.yaml:1:4: error: is no list");
        assert_eq!(as_error("it broke\nserver: error: 7"), "error: it broke\nserver: error: 7");
    }
}
