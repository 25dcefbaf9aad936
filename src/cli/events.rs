//! `vtagd events`: the outbox as history, beside a daemon that runs or not. List, follow, export, replay.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::{DEFAULT_CONFIG, complain, plain, say};
use crate::config;
use crate::event::Event;
use crate::outbox::OutboxError;
use crate::outbox::history_reader::{OutboxReader, Query, Row, State, replay};
use crate::platform::paths;
use crate::platform::shutdown;
use crate::platform::signals;
use crate::yaml::units;

/// How often `follow` looks for new events.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the latest events, oldest first.
    List {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        which: Which,
        /// Only events that a sink still has to get, or never will.
        #[arg(long)]
        state: Option<StateArg>,
        /// With --state: of this sink.
        #[arg(long, requires = "state")]
        sink: Option<String>,
        /// At most so many.
        #[arg(short = 'n', long, default_value_t = 50)]
        limit: usize,
        /// One JSON object a line: the event, and the deliveries that are not made.
        #[arg(long)]
        json: bool,
    },
    /// Print new events as they are stored, until Ctrl-C.
    Follow {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        which: Which,
        /// One JSON object a line, as with `list`.
        #[arg(long)]
        json: bool,
    },
    /// Write all events to standard output.
    Export {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        which: Which,
        /// As lines of JSON, or as a table.
        #[arg(long, default_value = "jsonl")]
        format: Format,
    },
    /// Send events to a sink once more: its dead letters, or any that are still kept.
    ///
    /// They keep their ids, so a receiver that throws away what it has seen loses nothing and doubles nothing.
    Replay {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        which: Which,
        /// Name of the sink; `vtagd events sinks` lists them.
        #[arg(long)]
        sink: String,
        /// Its dead letters only.
        #[arg(long)]
        dead: bool,
        /// All events that are kept, where nothing else says which.
        #[arg(long)]
        all: bool,
    },
    /// Print the sinks that the outbox knows, with what waits for each.
    Sinks {
        #[command(flatten)]
        place: Place,
    },
}

/// Where the outbox is.
#[derive(Debug, ClapArgs)]
pub struct Place {
    /// Configuration file, for its `outbox.path`.
    #[arg(short, long, default_value = DEFAULT_CONFIG)]
    pub(super) config: PathBuf,
    /// The outbox itself; the configuration is not read then.
    #[arg(long, value_name = "FILE")]
    pub(super) outbox: Option<PathBuf>,
}

/// Which events.
#[derive(Debug, ClapArgs)]
pub struct Which {
    /// Sampled since then: a time such as 2026-05-01T12:00:00Z, or how long ago, such as 2h.
    #[arg(long, value_parser = time)]
    since: Option<jiff::Timestamp>,
    /// Sampled before then, said in the same way.
    #[arg(long, value_parser = time)]
    until: Option<jiff::Timestamp>,
    /// Of this stream; may be given several times, as the options below.
    #[arg(long = "stream", value_name = "STREAM")]
    streams: Vec<String>,
    /// Of this region.
    #[arg(long = "region", value_name = "REGION")]
    regions: Vec<String>,
    /// Of this label set.
    #[arg(long = "set", value_name = "SET")]
    sets: Vec<String>,
    /// Of this label.
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// Of this type.
    #[arg(long = "type", value_name = "TYPE", value_parser = ["start", "update", "end"])]
    types: Vec<String>,
    /// CloudEvents id.
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum StateArg {
    /// It still has to get it.
    Pending,
    /// It never will: a dead letter.
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The CloudEvents JSON, one a line.
    Jsonl,
    /// A line of headings, then one an event.
    Csv,
}

/// A point in time, or how long ago.
pub(super) fn time(text: &str) -> Result<jiff::Timestamp, String> {
    if let Some(ago) = units::duration(text) {
        let now = jiff::Timestamp::now();
        return now.checked_sub(ago).map_err(|error| error.to_string());
    }
    text.parse()
        .map_err(|_| "write a time such as 2026-05-01T12:00:00Z, or how long ago, such as 30m, 2h or 1d".to_owned())
}

impl Which {
    fn query(&self) -> Query {
        Query {
            ids: self.ids.clone(),
            since: self.since.map(jiff::Timestamp::as_millisecond),
            until: self.until.map(jiff::Timestamp::as_millisecond),
            streams: self.streams.clone(),
            regions: self.regions.clone(),
            sets: self.sets.clone(),
            labels: self.labels.clone(),
            types: self.types.clone(),
            sink: None,
            state: None,
        }
    }
}

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Input(String),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

impl Failure {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Input(_) => 2,
            Self::Outbox(error) => error.exit_code(),
        }
    }
}

/// Runs one of the commands; the exit code.
pub fn run(command: &Command) -> u8 {
    match attempt(command) {
        Ok(()) => 0,
        Err(failure) => {
            complain(&failure);
            failure.exit_code()
        }
    }
}

fn attempt(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List { place, which, state, sink, limit, json } => {
            let reader = OutboxReader::open(&place.outbox()?)?;
            let state = state.map(|state| match state {
                StateArg::Pending => State::Pending,
                StateArg::Dead => State::Dead,
            });
            let query = Query { state, sink: sink.clone(), ..which.query() };
            reader.latest(&query, *limit)?.iter().for_each(|row| show(row, *json));
        }
        Command::Follow { place, which, json } => follow(place, which, *json)?,
        Command::Export { place, which, format } => export(place, which, *format)?,
        Command::Replay { place, which, sink, dead, all } => {
            let query = which.query();
            if query == Query::default() && !dead && !all {
                let why = "say which events: --dead, --since, --stream, --id and so on, or --all";
                return Err(Failure::Input(why.to_owned()));
            }
            let queued = replay(&place.outbox()?, &query, sink, *dead)?;
            say(&format!("{queued} events wait for {sink} again"));
        }
        Command::Sinks { place } => sinks(place)?,
    }
    Ok(())
}

impl Place {
    pub(super) fn outbox(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.outbox {
            return Ok(path.clone());
        }
        match config::outbox_of(&self.config) {
            Ok(Some(path)) => Ok(path),
            // The service has a folder that this shell does not know of.
            Ok(None) if paths::state_dir().join("outbox.db").exists() => Ok(paths::state_dir().join("outbox.db")),
            Ok(None) => {
                let why =
                    "keeps its outbox in memory; set `outbox: { path: FILE }` there, or name a file with --outbox";
                Err(Failure::Input(format!("{} {why}", self.config.display())))
            }
            Err(why) => {
                Err(Failure::Input(format!("{why}; name a configuration with -c, or the outbox with --outbox")))
            }
        }
    }
}

fn follow(place: &Place, which: &Which, json: bool) -> Result<(), Failure> {
    let reader = OutboxReader::open(&place.outbox()?)?;
    let (trigger, shutdown) = shutdown::channel();
    let _signals = signals::listen(trigger, None, crate::logs::finish);
    let query = which.query();
    let mut after = reader.newest()?;
    while !shutdown.sleep(POLL_INTERVAL) {
        loop {
            let rows = reader.page(&query, after)?;
            let Some(last) = rows.last() else { break };
            after = last.seq;
            rows.iter().for_each(|row| show(row, json));
        }
    }
    Ok(())
}

fn export(place: &Place, which: &Which, format: Format) -> Result<(), Failure> {
    let reader = OutboxReader::open(&place.outbox()?)?;
    if format == Format::Csv {
        say(&CSV.map(|(name, _)| name).join(","));
    }
    let mut after = 0;
    loop {
        let rows = reader.page(&which.query(), after)?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.seq;
        for row in &rows {
            match format {
                Format::Jsonl => say(&row.body),
                Format::Csv => say(&csv(row)),
            }
        }
    }
}

fn sinks(place: &Place) -> Result<(), Failure> {
    let reader = OutboxReader::open(&place.outbox()?)?;
    let mut counts: BTreeMap<String, (usize, usize)> = reader.sinks()?.into_iter().map(|name| (name, (0, 0))).collect();
    for (name, state, number) in reader.open_deliveries()? {
        let entry = counts.entry(name).or_default();
        *(if state == State::Pending { &mut entry.0 } else { &mut entry.1 }) = number;
    }
    say(&format!("{:<24} {:>10} {:>10}", "sink", "pending", "dead"));
    for (name, (pending, dead)) in counts {
        say(&format!("{name:<24} {pending:>10} {dead:>10}"));
    }
    Ok(())
}

/// One event for a person or a program.
fn show(row: &Row, json: bool) {
    if json {
        // The body is JSON already, so it is put in as it is.
        let open = serde_json::to_string(&row.open).unwrap_or_default();
        return say(&format!("{{\"seq\":{},\"event\":{},\"open\":{open}}}", row.seq, row.body));
    }
    let Ok(event) = serde_json::from_str::<Event>(&row.body) else {
        return say(&format!("{}  cannot be read", row.id));
    };
    let data = &event.data;
    let time = data.sampled_at.strftime("%F %T");
    let kind = event.kind.as_str();
    let mut line =
        format!("{time}Z  {:<14} {kind:<6} {:<20} {:>3.0} %  {}", data.place(), data.label, data.score * 100.0, row.id);
    for open in &row.open {
        let state = if open.state == State::Pending { "waits for" } else { "dead letter of" };
        line += &format!("  {state} {}", open.sink);
        if open.attempts > 0 {
            line += &format!(" after {} attempts", open.attempts);
        }
        if let Some(error) = &open.error {
            line += &format!(" ({error})");
        }
    }
    say(&plain(&line));
}

/// A column of the CSV and where its value is in the event.
type Column = (&'static str, &'static str);

const CSV: [Column; 16] = [
    ("id", "/id"),
    ("type", "/type"),
    ("time", "/time"),
    ("source", "/source"),
    ("stream", "/data/stream"),
    ("set", "/data/set"),
    ("label", "/data/label"),
    ("tag_id", "/data/tag_id"),
    ("score", "/data/score"),
    ("peak", "/data/peak"),
    ("started_at", "/data/started_at"),
    ("ended_at", "/data/ended_at"),
    ("reason", "/data/reason"),
    ("model", "/data/model/name"),
    ("attributes", "/data/attributes"),
    // Behind those that readers may count.
    ("region", "/data/region"),
];

fn csv(row: &Row) -> String {
    let event: serde_json::Value = serde_json::from_str(&row.body).unwrap_or_default();
    let cell = |(_, pointer): &Column| match event.pointer(pointer) {
        None | Some(serde_json::Value::Null) => String::new(),
        Some(serde_json::Value::String(text)) => quoted(text),
        Some(other) => quoted(&other.to_string()),
    };
    CSV.iter().map(cell).collect::<Vec<_>>().join(",")
}

/// RFC 4180: in quotes where it has to be.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_point_or_how_long_ago() {
        let now = jiff::Timestamp::now();
        let hours = (now.as_second() - time("2h").unwrap().as_second()) / 3600;
        assert_eq!(hours, 2);
        assert_eq!(time("2026-05-01T12:00:00Z").unwrap().to_string(), "2026-05-01T12:00:00Z");
        assert!(time("yesterday").unwrap_err().contains("2026-05-01T12:00:00Z"));
    }

    #[test]
    fn cells_with_commas_and_quotes_are_quoted() {
        let body = r#"{"id":"1","type":"t","data":{"region":"left","label":"a \"b\", c","score":0.5,"ended_at":null,"attributes":{"a":"b"}}}"#;
        let row = Row { seq: 1, id: "1".into(), body: body.into(), open: vec![] };
        assert_eq!(csv(&row), "1,t,,,,,\"a \"\"b\"\", c\",,0.5,,,,,,\"{\"\"a\"\":\"\"b\"\"}\",left");
    }
}
