//! The JSONL sink: one CloudEvents object a line, to a file or to stdout; lines for people when stdout is a terminal.
//!
//! A line that cannot be written is kept and tried again until it can, or until the daemon stops; events behind it wait in
//! the bounded queue. Every event is flushed: who tails the file sees it at once.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::JsonlTarget;
use crate::event::{Event, EventKind};
use crate::shutdown::Shutdown;

/// Between two tries to write the same line.
const RETRY: Duration = Duration::from_secs(2);

/// Why a sink cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error("cannot open {} for appending: {source}; check the folder and its permissions, or change `sinks[].path`", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot start a sink's thread: {0}")]
    Thread(io::Error),
}

enum Output {
    File { file: File, torn: bool },
    Json(io::Stdout),
    Readable { stdout: io::Stdout, colour: bool },
}

/// Writes events of one target.
pub struct Writer {
    output: Output,
}

impl Writer {
    /// Opens the target.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn open(target: &JsonlTarget) -> Result<Self, SinkError> {
        let output = match target {
            JsonlTarget::File(path) => Output::File { file: open_file(path)?, torn: false },
            JsonlTarget::Stdout if io::stdout().is_terminal() => {
                Output::Readable { stdout: io::stdout(), colour: std::env::var_os("NO_COLOR").is_none() }
            }
            JsonlTarget::Stdout => Output::Json(io::stdout()),
        };
        Ok(Self { output })
    }

    /// Writes until the queue is closed and empty. Once `shutdown` is asked for, a line that fails is not tried again.
    /// Returns how many events were given up.
    pub fn run(mut self, name: &str, events: &Receiver<Arc<Event>>, shutdown: &Shutdown) -> u64 {
        let mut failing = false;
        while let Ok(event) = events.recv() {
            while let Err(error) = self.write(&event) {
                metrics::counter!("vtagd_sink_errors_total", "sink" => name.to_owned()).increment(1);
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(sink = name, %error, "cannot write an event, trying again");
                }
                // A reader of stdout that is gone will not come back.
                if error.kind() == io::ErrorKind::BrokenPipe || shutdown.sleep(RETRY) {
                    let lost = events.len() as u64 + 1;
                    tracing::error!(sink = name, lost, %error, "gives up, events are lost");
                    return lost;
                }
            }
            if std::mem::replace(&mut failing, false) {
                tracing::info!(sink = name, "writes again");
            }
        }
        0
    }

    fn write(&mut self, event: &Event) -> io::Result<()> {
        match &mut self.output {
            Output::File { file, torn } => {
                let mut line = json_line(event)?;
                if *torn {
                    // Half a line stands at the end: start a new one, so that only that half is unreadable.
                    line.insert(0, b'\n');
                }
                *torn = true;
                file.write_all(&line)?;
                *torn = false;
                Ok(())
            }
            Output::Json(stdout) => {
                let mut stdout = stdout.lock();
                stdout.write_all(&json_line(event)?)?;
                stdout.flush()
            }
            Output::Readable { stdout, colour } => {
                let mut stdout = stdout.lock();
                writeln!(stdout, "{}", readable(event, *colour))?;
                stdout.flush()
            }
        }
    }
}

fn open_file(path: &Path) -> Result<File, SinkError> {
    let failed = |source| SinkError::Open { path: path.to_owned(), source };
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    OpenOptions::new().create(true).append(true).open(path).map_err(failed)
}

fn json_line(event: &Event) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(line)
}

/// One line for a person: `12:30:04  gate  ▶ car  93 %`, with how long the tag lasted at its end.
fn readable(event: &Event, colour: bool) -> String {
    let data = &event.data;
    let (mark, code) = match event.kind {
        EventKind::Start => ("▶", "32"),
        EventKind::Update => ("▲", "36"),
        EventKind::End => ("■", "2"),
    };
    let clock = data.sampled_at.strftime("%H:%M:%S");
    let tail = match data.media_end {
        Some(end) => format!("after {:.1} s, peak {:.0} %", end - data.media_start, data.peak * 100.0),
        None => format!("{:.0} %", data.score * 100.0),
    };
    let text = format!("{mark} {:<16} {tail}", data.label);
    let text = if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text };
    format!("{clock}Z  {:<12} {text}", data.stream)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use uuid::Uuid;

    use super::*;
    use crate::event::ModelRef;
    use crate::event::record::Data;
    use crate::sink::Fanout;

    fn event(kind: EventKind, media_end: Option<f64>) -> Event {
        let data = Data {
            stream: "gate".into(),
            set: "lot".into(),
            label: "car".into(),
            tag_id: Uuid::nil(),
            score: 0.93,
            peak: 0.97,
            started_at: jiff::Timestamp::UNIX_EPOCH,
            ended_at: None,
            sampled_at: jiff::Timestamp::UNIX_EPOCH,
            media_start: 1.5,
            media_end,
            reason: None,
            model: ModelRef { name: "m".into(), fingerprint: "f".into() },
            attributes: Arc::new(BTreeMap::new()),
            snapshot: None,
        };
        Event { id: Uuid::nil(), source: "/x/streams/gate".into(), kind, data }
    }

    #[test]
    fn a_file_gets_one_json_object_a_line_and_is_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/events.jsonl");
        for _ in 0..2 {
            let (_trigger, shutdown) = crate::shutdown::channel();
            let (fanout, threads) = Fanout::start(&[JsonlTarget::File(path.clone())], &shutdown).unwrap();
            fanout.send(&Arc::new(event(EventKind::Start, None)));
            fanout.close();
            for (_, thread) in threads {
                thread.join().unwrap();
            }
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["data"]["label"], "car");
    }

    #[test]
    fn events_that_cannot_be_written_until_the_end_are_counted_as_lost() {
        let (trigger, shutdown) = crate::shutdown::channel();
        let (fanout, threads) = Fanout::start(&[JsonlTarget::File("/dev/full".into())], &shutdown).unwrap();
        for _ in 0..3 {
            fanout.send(&Arc::new(event(EventKind::Start, None)));
        }
        assert!(!fanout.is_dead(), "a full disk is waited for");
        trigger.trigger();
        fanout.close();
        for (_, thread) in threads {
            thread.join().unwrap();
        }
        assert_eq!((fanout.lost(), fanout.is_dead()), (3, true));
    }

    #[test]
    fn a_path_that_cannot_be_opened_is_named() {
        let (_trigger, shutdown) = crate::shutdown::channel();
        let error = Fanout::start(&[JsonlTarget::File("/proc/nowhere/events.jsonl".into())], &shutdown).err().unwrap();
        assert!(error.to_string().contains("/proc/nowhere/events.jsonl"), "{error}");
    }

    #[test]
    fn a_person_reads_label_stream_and_duration() {
        assert_eq!(readable(&event(EventKind::Start, None), false), "00:00:00Z  gate         ▶ car              93 %");
        let end = readable(&event(EventKind::End, Some(4.0)), false);
        assert!(end.ends_with("after 2.5 s, peak 97 %"), "{end}");
    }
}
