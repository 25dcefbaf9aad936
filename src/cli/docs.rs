//! `vtagd docs`: the tables of the documentation that are made from the code, for whoever writes it. Text on stdout; a test compares it
//! with what the documentation shows. On the main thread.

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
}

/// Prints it; the exit code.
pub fn run(args: &Args) -> u8 {
    let text = match args.table {
        Table::Metrics => metrics::tables(),
        Table::Keys => config::key_tables(),
        Table::Effects => config::effects::table(),
        Table::Asyncapi => format!("{:#}", asyncapi::document()),
    };
    super::say(text.trim_end());
    0
}
