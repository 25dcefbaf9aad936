//! The log: where lines go, how they look, how much is told, and what is told once.
//!
//! ```text
//! event ─► filter ─► repeats ─► the journal, with fields
//!          level     told once  └ or stderr: text, JSON
//! ```
//!
//! In: `tracing` events of this program and its libraries, from any thread. Out: lines on stderr, or entries of systemd's journal. Every
//! line is [scrubbed](crate::platform::secret::scrub) by value on its way out, so that no library can tell a credential (invariant 4).
//! Nothing is queued: who logs something writes it. Whoever runs for long calls [`log_repeats`] now and then and [`finish`] at the end,
//! which tell what was [summed up](repeats).
//!
//! Results go to stdout, never here. Wording: lower case, no full stop, the thing spoken of as a field.

mod journal;
mod line;
mod repeats;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Instant;

use parking_lot::Mutex;
use serde::Serialize;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::platform::secret;
use crate::platform::terminal;
use journal::Journal;
use line::Line;
use repeats::{Repeats, Summary};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
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

/// Starts the log. The variable `VTAGD_LOG`, a filter such as `info` or `vtagd=debug`, overrides `level`; one that is no filter is told
/// and not used. A second call does nothing.
pub fn init(level: LevelFrom<'_>, format: LogFormat) {
    let asked = std::env::var(VARIABLE).ok().filter(|asked| !asked.trim().is_empty());
    let (asked, nonsense) =
        asked.map_or((None, None), |asked| if is_filter(&asked) { (Some(asked), None) } else { (None, Some(asked)) });
    let configured = match level {
        LevelFrom::Configuration(level) => level.to_string().to_lowercase(),
        LevelFrom::CommandLine(filter) => filter.to_owned(),
    };
    let wanted = asked.as_deref().unwrap_or(&configured);
    let held = asked.is_some() || matches!(level, LevelFrom::CommandLine(_));
    let (filter, handle) = reload::Layer::new(filter(wanted));
    let registry = tracing_subscriber::registry().with(filter).with(Limit).with(Sieve);
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
            let colours = terminal::wants_colours(&io::stderr());
            registry.with(fmt::layer().with_ansi(colours).with_target(false).with_writer(Stderr)).try_init()
        }
    };
    if started.is_ok() {
        let _ = RUNNING.set(Running { filter: handle, held });
        std::panic::set_hook(Box::new(log_panic));
    }
    if let Some(error) = no_journal {
        tracing::warn!(%error, "the journal cannot be reached, its lines go to standard error");
    }
    if let Some(nonsense) = nonsense.filter(|_| started.is_ok()) {
        tracing::warn!(
            value = nonsense,
            "{VARIABLE} is no filter and is not used; write, for example, debug or vtagd::source=trace"
        );
    }
}

/// Whether `text` says what somebody may have meant. To the library any word is a target of which everything is told, so that a misspelt
/// level would leave nothing but errors.
fn is_filter(text: &str) -> bool {
    let levels = ["error", "warn", "info", "debug", "trace", "off"];
    let means_something = |part: &str| {
        let part = part.trim();
        let is_level = levels.iter().any(|level| level.eq_ignore_ascii_case(part));
        part.is_empty() || is_level || part == "vtagd" || part.contains(['=', ':', '['])
    };
    EnvFilter::try_new(text).is_ok() && text.split(',').all(means_something)
}

/// What `wanted` says, and of libraries no more than that: a directive of ours adds nothing to it.
fn filter(wanted: &str) -> EnvFilter {
    let wanted = if EnvFilter::try_new(wanted).is_ok() { wanted } else { "info" };
    // Of targets that it does not name, and of any.
    let general = wanted.rsplit(',').find_map(|part| part.trim().parse().ok()).unwrap_or(LevelFilter::OFF);
    let most = EnvFilter::new(wanted).max_level_hint().unwrap_or(LevelFilter::TRACE);
    // The runtime logs every operator it places at info; only its warnings are for people.
    let ort = general.min(LevelFilter::WARN);
    // GStreamer's own messages come only where GST_DEBUG asks for them, and then all of them are wanted. The highest level also decides what
    // the crate `log` hands over, once and for all: with less than this, a reload could not raise it.
    let gstreamer = if most == LevelFilter::OFF { most } else { LevelFilter::TRACE };
    // What the NATS client says of every attempt, our own log says once. A summary was let through once, before it was one.
    let usually = format!("ort={ort},async_nats=off,gstreamer={gstreamer},{SUMMARIES}={most}");
    EnvFilter::new(format!("{usually},{wanted}"))
}

/// Keeps back what nobody may see, whatever was asked for: what the HTTP client sends it would show byte by byte, in pieces in which nobody
/// finds a credential.
struct Limit;

impl<S: Subscriber> Layer<S> for Limit {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() < Level::TRACE || !metadata.target().starts_with("ureq_proto")
    }
}

/// What a panic says may hold a credential, as whatever a library says, and is told on standard error by other hands than ours. Past the
/// subscriber, in which it may have happened.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let mut text = format!("ERROR thread `{}` {panic}", thread.name().unwrap_or("without a name"));
    // Only where RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        text.push_str(&format!("\n{backtrace}"));
    }
    if journal::is_stderr() {
        log_plainly(line::priority(Level::ERROR), &text);
    } else {
        write_event(&text);
    }
}

/// A line for systemd, which reads the number.
fn log_plainly(priority: u8, text: &str) {
    write_event(&format!("<{priority}>{text}"));
}

/// Writes what has no colours.
fn write_event(text: &str) {
    // With stderr closed there is nobody left to tell.
    let _ = Stderr.make_writer().write_all(format!("{}\n", text.replace('\x1b', " ")).as_bytes());
}

/// More or less is told from now on, unless the command line or `VTAGD_LOG` has said how much; the louder of the two levels tells it.
pub fn change_level(from: Level, to: Level) {
    if RUNNING.get().is_none_or(|running| running.held) {
        tracing::warn!(%to, "`log.level` has no effect: -v or VTAGD_LOG says how much is told");
        return;
    }
    let log = || tracing::info!(%from, %to, "the log's level changes");
    if to < from {
        log();
        set_level(to);
    } else {
        set_level(to);
        log();
    }
}

/// Tells as much as `level` says from now on.
fn set_level(level: Level) {
    if let Some(running) = RUNNING.get().filter(|running| !running.held) {
        // What has repeated at a level that is not told any more.
        finish();
        // Fails only where the subscriber is gone, and there is nobody left to tell then.
        let _ = running.filter.reload(filter(&level.to_string().to_lowercase()));
    }
}

/// Logs what has repeated and is due.
pub fn log_repeats(now: Instant) {
    let summaries = repeats(|repeats| repeats.due(now));
    summaries.iter().for_each(log_summary);
}

/// Logs everything that has repeated and was not logged. For the end of the process, and of a level.
pub fn finish() {
    let summaries = repeats(Repeats::rest);
    summaries.iter().for_each(log_summary);
}

fn repeats<T>(with: impl FnOnce(&mut Repeats) -> T) -> T {
    with(&mut REPEATS.get_or_init(Mutex::default).lock())
}

/// Where summaries come from: these are not sifted themselves.
const SUMMARIES: &str = "vtagd::repeated";

/// Where it is told who changed what by the API. Each change that was made is told for itself; attempts, which anybody may make, are
/// summed up as all else.
pub const AUDIT: &str = "vtagd::audit";

fn log_summary(summary: &Summary) {
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
        let metadata = event.metadata();
        if metadata.target() == SUMMARIES || metadata.target() == AUDIT && *metadata.level() == Level::INFO {
            return true;
        }
        // Taken apart before anybody is locked out: showing a value may itself tell something.
        let line = Line::of(event);
        repeats(|repeats| repeats.admit(Instant::now(), metadata, &line))
    }
}

/// Writes events to the journal.
struct ToJournal(Journal);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for ToJournal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = Line::of(event);
        if self.0.write(event.metadata(), &line).is_err() {
            // The journal is full or restarts: better without its fields than not at all. systemd reads the priority.
            log_plainly(line::priority(*event.metadata().level()), &line.text());
        }
    }
}

/// Standard error, a whole event at a time, without credentials.
struct Stderr;

impl MakeWriter<'_> for Stderr {
    type Writer = Scrubbed<io::Stderr>;

    fn make_writer(&self) -> Self::Writer {
        Scrubbed(io::stderr())
    }
}

/// Takes the secrets out of every event, which is written at once, and lets none of its words look like another event: whoever may have his
/// say in one, a server or a file's name, cannot begin a line.
struct Scrubbed<W>(W);

impl<W: Write> Write for Scrubbed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.0.write_all(one_event(&secret::scrub(&text)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// `text` with every line but the first indented, and without characters that move a terminal's cursor (the escapes that are in it by
/// now are our own colours).
fn one_event(text: &str) -> String {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let mut out = String::with_capacity(text.len());
    for c in body.chars() {
        match c {
            '\n' => out.push_str("\n    "),
            '\t' | '\x1b' => out.push(c),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push_str(&text[body.len()..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_of_an_event_can_pass_for_another_event() {
        let mut out = Vec::new();
        let said = "INFO a server says: no\r\n<0>2026-01-01 ERROR all is lost\rINFO fine\n";
        Scrubbed(&mut out).write_all(said.as_bytes()).unwrap();
        assert_eq!(out, b"INFO a server says: no \n    <0>2026-01-01 ERROR all is lost INFO fine\n");
    }

    #[test]
    fn a_misspelt_level_is_no_filter() {
        for good in ["debug", "WARN", "vtagd", "info,vtagd::source=trace", "ort=off, info", "[{stream=dock}]=debug"] {
            assert!(is_filter(good), "{good}");
        }
        for bad in ["inof", "vtagd=loud", "debug,verbose", "2x"] {
            assert!(!is_filter(bad), "{bad}");
        }
    }

    #[test]
    fn a_line_loses_its_credentials_on_the_way_out() {
        let secret = secret::Secret::new("line-mark-42");
        let mut out = Vec::new();
        Scrubbed(&mut out).write_all(format!("a library says {}\n", secret.expose()).as_bytes()).unwrap();
        assert_eq!(out, b"a library says ***\n");
    }

    #[test]
    fn a_filter_that_makes_no_sense_is_info() {
        assert_eq!(told("vtagd=loud"), told("info"));
    }

    /// Who tells what, by target, with this filter.
    fn told(wanted: &str) -> Vec<(&'static str, Level)> {
        #[derive(Clone, Default)]
        struct Keep(std::sync::Arc<Mutex<Vec<(&'static str, Level)>>>);
        impl<S: Subscriber> Layer<S> for Keep {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                self.0.lock().push((event.metadata().target(), *event.metadata().level()));
            }
        }
        let keep = Keep::default();
        macro_rules! tell {
            ($($target:literal)*) => {$(
                tracing::error!(target: $target, "x");
                tracing::warn!(target: $target, "x");
                tracing::info!(target: $target, "x");
                tracing::debug!(target: $target, "x");
                tracing::trace!(target: $target, "x");
            )*};
        }
        let subscriber = tracing_subscriber::registry().with(filter(wanted)).with(Limit).with(keep.clone());
        tracing::subscriber::with_default(subscriber, || {
            tell!("vtagd::x" "ureq_proto::util" "ort::logging" "async_nats" "rumqttc" "gstreamer" "vtagd::repeated");
        });
        std::mem::take(&mut *keep.0.lock())
    }

    /// The most that is told of `target`; `None`: nothing.
    fn most(wanted: &str, target: &str) -> Option<Level> {
        told(wanted).into_iter().filter(|(of, _)| *of == target).map(|(_, level)| level).max()
    }

    #[test]
    fn no_library_tells_more_than_was_asked_for_and_some_less() {
        for (wanted, ours, http, runtime, other) in [
            ("off", None, None, None, None),
            ("error", Some(Level::ERROR), Some(Level::ERROR), Some(Level::ERROR), Some(Level::ERROR)),
            ("warn", Some(Level::WARN), Some(Level::WARN), Some(Level::WARN), Some(Level::WARN)),
            ("info", Some(Level::INFO), Some(Level::INFO), Some(Level::WARN), Some(Level::INFO)),
            ("debug", Some(Level::DEBUG), Some(Level::DEBUG), Some(Level::WARN), Some(Level::DEBUG)),
            ("TRACE", Some(Level::TRACE), Some(Level::DEBUG), Some(Level::WARN), Some(Level::TRACE)),
            ("vtagd=debug", Some(Level::DEBUG), None, None, None),
            ("warn,vtagd=trace", Some(Level::TRACE), Some(Level::WARN), Some(Level::WARN), Some(Level::WARN)),
            ("info,ort=trace", Some(Level::INFO), Some(Level::INFO), Some(Level::TRACE), Some(Level::INFO)),
        ] {
            let found = ["vtagd::x", "ureq_proto::util", "ort::logging", "rumqttc"].map(|target| most(wanted, target));
            assert_eq!(found, [ours, http, runtime, other], "{wanted}");
            assert_eq!(most(wanted, "async_nats"), None, "{wanted}: our own log says it once");
            // What was told once is also summed up.
            assert_eq!(most(wanted, "vtagd::repeated"), ours.max(runtime), "{wanted}");
            let asked_of_gstreamer = (wanted != "off").then_some(Level::TRACE);
            assert_eq!(most(wanted, "gstreamer"), asked_of_gstreamer, "{wanted}");
        }
    }

    #[test]
    fn nobody_gets_to_see_the_bytes_that_a_client_sends() {
        for wanted in ["trace", "ureq_proto=trace", "ureq_proto::util=trace", "info,[x]=trace,ureq_proto=trace"] {
            assert_eq!(most(wanted, "ureq_proto::util"), Some(Level::DEBUG), "{wanted}");
        }
    }
}
