//! The log: where lines go, how they look, how much is told, and what is told once.
//!
//! ```text
//! event ─► filter ─► repeats ─► the journal, with fields
//!          level     told once  └ or stderr: text, JSON
//! ```
//!
//! In: `tracing` events of this program and its libraries, from any thread. Out: lines on stderr, or entries of systemd's journal. Every
//! line is [scrubbed](crate::secret::scrub) by value on its way out, so that no library can tell a credential (invariant 4).
//! Nothing is queued: who tells something writes it. Whoever runs for long calls [`upkeep`] now and then and [`finish`] at the end,
//! which tell what was [summed up](repeats).
//!
//! Results go to stdout, never here. Wording: lower case, no full stop, the thing spoken of as a field.

mod journal;
mod line;
mod repeats;

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::secret;
use journal::Journal;
use line::Line;
use repeats::{Repeats, Summary};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// The journal's where stderr goes to the journal, text elsewhere.
    #[default]
    Auto,
    Text,
    Json,
    /// Fields of the journal, by its own protocol.
    Journal,
}

/// Who says how much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LevelFrom<'a> {
    /// The configuration, which may change its mind.
    Configuration(Level),
    /// The command line: this filter, for as long as the process runs.
    CommandLine(&'a str),
}

/// Overrides every level.
const VARIABLE: &str = "VTAGD_LOG";

/// What [`set_level`] needs to know.
struct Running {
    filter: reload::Handle<EnvFilter, Registry>,
    /// It may not be changed by the configuration.
    held: bool,
}

static RUNNING: OnceLock<Running> = OnceLock::new();

static REPEATS: OnceLock<Mutex<Repeats>> = OnceLock::new();

/// Starts the log. The variable `VTAGD_LOG`, a filter such as `info` or `vtagd=debug`, overrides `level`. A second call does
/// nothing.
pub fn init(level: LevelFrom<'_>, format: LogFormat) {
    let asked = std::env::var(VARIABLE).ok();
    let configured = match level {
        LevelFrom::Configuration(level) => level.to_string().to_lowercase(),
        LevelFrom::CommandLine(filter) => filter.to_owned(),
    };
    let wanted = asked.as_deref().unwrap_or(&configured);
    let held = asked.is_some() || matches!(level, LevelFrom::CommandLine(_));
    let (filter, handle) = reload::Layer::new(filter(wanted));
    let registry = tracing_subscriber::registry().with(filter).with(Sieve);
    let mut no_journal = None;
    let journal = match format {
        LogFormat::Journal => true,
        LogFormat::Auto => journal::is_stderr(),
        LogFormat::Text | LogFormat::Json => false,
    };
    let journal = if journal { Journal::open().map_err(|error| no_journal = Some(error)).ok() } else { None };
    let started = match (journal, format) {
        (Some(journal), _) => registry.with(ToJournal(journal)).try_init(),
        (None, LogFormat::Json) => {
            registry.with(fmt::layer().json().flatten_event(true).with_writer(Stderr)).try_init()
        }
        (None, _) => {
            let colours = io::stderr().is_terminal();
            registry.with(fmt::layer().with_ansi(colours).with_target(false).with_writer(Stderr)).try_init()
        }
    };
    if started.is_ok() {
        let _ = RUNNING.set(Running { filter: handle, held });
    }
    if let Some(error) = no_journal {
        tracing::warn!(%error, "the journal cannot be reached, its lines go to standard error");
    }
}

fn filter(wanted: &str) -> EnvFilter {
    // The runtime logs every operator it places at info; only its warnings are for people. What the NATS client says of every attempt,
    // our own log says once. GStreamer's own messages come only where GST_DEBUG asks for them, and then all of them are wanted.
    const USUALLY: &str = "ort=warn,async_nats=off,gstreamer=trace,vtagd::repeated=trace";
    // The last word: what the HTTP client sends it would show byte by byte, in pieces in which nobody finds a credential.
    const ALWAYS: &str = "ureq_proto=debug,ureq_proto::util=debug";
    EnvFilter::try_new(format!("{USUALLY},{wanted},{ALWAYS}"))
        .unwrap_or_else(|_| EnvFilter::new(format!("info,{USUALLY},{ALWAYS}")))
}

/// Whether the command line or `VTAGD_LOG` has said how much is told, so that [`set_level`] does nothing.
pub fn is_level_held() -> bool {
    RUNNING.get().is_none_or(|running| running.held)
}

/// Tells as much as `level` says from now on.
pub fn set_level(level: Level) {
    if let Some(running) = RUNNING.get().filter(|running| !running.held) {
        // Fails only where the subscriber is gone, and there is nobody left to tell then.
        let _ = running.filter.reload(filter(&level.to_string().to_lowercase()));
    }
}

/// Tells what has repeated and is due.
pub fn upkeep(now: Instant) {
    let summaries = repeats(|repeats| repeats.due(now));
    summaries.iter().for_each(tell);
}

/// Tells everything that has repeated and was not told. For the end of the process.
pub fn finish() {
    let summaries = repeats(Repeats::rest);
    summaries.iter().for_each(tell);
}

fn repeats<T>(with: impl FnOnce(&mut Repeats) -> T) -> T {
    with(&mut REPEATS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner))
}

/// Where summaries come from: these are not sifted themselves.
const SUMMARIES: &str = "vtagd::repeated";

fn tell(summary: &Summary) {
    let Summary { level, what, stream, sink, times } = summary;
    let (stream, sink) = (stream.as_deref(), sink.as_deref());
    let plural = if *times == 1 { "" } else { "s" };
    macro_rules! at {
        ($level:ident) => {
            tracing::event!(target: SUMMARIES, Level::$level, stream, sink, times, "{what} (repeated {times} time{plural})")
        };
    }
    match *level {
        Level::ERROR => at!(ERROR),
        Level::WARN => at!(WARN),
        Level::INFO => at!(INFO),
        Level::DEBUG => at!(DEBUG),
        _ => at!(TRACE),
    }
}

/// Keeps back what repeats.
struct Sieve;

impl<S: Subscriber> Layer<S> for Sieve {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        if event.metadata().target() == SUMMARIES {
            return true;
        }
        // Taken apart before anybody is locked out: showing a value may itself tell something.
        let line = Line::of(event);
        repeats(|repeats| repeats.admit(Instant::now(), event.metadata(), &line))
    }
}

/// Writes events to the journal.
struct ToJournal(Journal);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for ToJournal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = Line::of(event);
        if self.0.write(event.metadata(), &line).is_err() {
            // The journal is full or restarts: better without its fields than not at all. systemd reads the priority.
            let text = format!("<{}>{}\n", line::priority(*event.metadata().level()), line.text());
            let _ = Stderr.make_writer().write_all(text.as_bytes());
        }
    }
}

/// Standard error, a whole line at a time, without credentials.
struct Stderr;

impl MakeWriter<'_> for Stderr {
    type Writer = Scrubbed<io::Stderr>;

    fn make_writer(&self) -> Self::Writer {
        Scrubbed(io::stderr())
    }
}

/// Takes the secrets out of every piece of text that is written at once.
struct Scrubbed<W>(W);

impl<W: Write> Write for Scrubbed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.0.write_all(secret::scrub(&text).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_loses_its_credentials_on_the_way_out() {
        let secret = secret::Secret::new("line-mark-42");
        let mut out = Vec::new();
        Scrubbed(&mut out).write_all(format!("a library says {}\n", secret.expose()).as_bytes()).unwrap();
        assert_eq!(out, b"a library says ***\n");
    }

    #[test]
    fn a_filter_that_makes_no_sense_is_info() {
        assert!(filter("vtagd=loud").to_string().contains("info"));
        assert!(filter("debug").to_string().split(',').any(|directive| directive == "debug"));
    }

    #[test]
    fn nobody_gets_to_see_the_bytes_that_a_client_sends() {
        for wanted in ["trace", "ureq_proto=trace", "ureq_proto::util=trace"] {
            let directives = filter(wanted).to_string();
            assert!(directives.split(',').any(|directive| directive == "ureq_proto::util=debug"), "{directives}");
            assert!(!directives.contains("ureq_proto::util=trace"), "{directives}");
        }
    }
}
