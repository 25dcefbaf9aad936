//! The JSONL sink: one CloudEvents object a line, to a file or to stdout; lines for people when stdout is a terminal.
//!
//! A file is written in groups, each on the disk (`fdatasync`) before it counts as delivered. It may be turned over by size, or be moved
//! away or deleted by somebody else: then the next group goes into a new one. A line that cannot be written is tried again; events behind it wait in the outbox.

mod config;

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Running, Sink, SinkError, SinkStartError};
use crate::event::{Event, EventKind};
use crate::outbox::delivery::{Delivery, DeliveryReceiver};
use crate::platform::terminal;

/// Lines written before the disk is asked to keep them.
const GROUP: usize = 256;

/// Files of others that may stand among the old ones; with more, the file is not turned over.
const STRANGERS: usize = 1000;

/// When a file is turned over: `events.jsonl` becomes `events.jsonl.1`, that one `.2`, and so on; the oldest goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// A file does not get larger than this, unless one event is.
    pub max_size: u64,
    /// Old files that are kept.
    pub keep: usize,
}

/// Where a JSONL sink writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonlTarget {
    /// `path: "-"`. Lines for people on a terminal, JSON lines otherwise.
    Stdout,
    /// Appended to; made if absent.
    File { path: PathBuf, rotation: Option<Rotation> },
}

enum Output {
    File(Log),
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
    pub fn open(target: &JsonlTarget) -> Result<Self, SinkStartError> {
        let output = match target {
            JsonlTarget::File { path, rotation } => {
                let failed = |source| SinkStartError::Open { path: path.clone(), source };
                Output::File(Log::open(path, *rotation).map_err(failed)?)
            }
            JsonlTarget::Stdout if io::stdout().is_terminal() => {
                Output::Readable { stdout: io::stdout(), colour: terminal::wants_colours(&io::stdout()) }
            }
            JsonlTarget::Stdout => Output::Json(io::stdout()),
        };
        Ok(Self { output })
    }

    /// Writes a group of events. Returns how many are there for sure; all of them, unless there is an error.
    fn write(&mut self, group: &[Delivery]) -> (usize, io::Result<()>) {
        let mut written = 0;
        let mut all = |write: &mut dyn FnMut(&Delivery) -> io::Result<()>| {
            group.iter().try_for_each(|delivery| write(delivery).map(|()| written += 1))
        };
        let (done, kept) = match &mut self.output {
            Output::File(log) => match log.follow() {
                Ok(()) => (all(&mut |delivery| log.write(&delivery.stored.body)), log.sync()),
                Err(error) => (Ok(()), Err(error)),
            },
            Output::Json(stdout) => {
                let mut stdout = stdout.lock();
                let done = all(&mut |delivery| {
                    stdout.write_all(delivery.stored.body.as_bytes())?;
                    stdout.write_all(b"\n")
                });
                (done, stdout.flush())
            }
            Output::Readable { stdout, colour } => {
                let mut stdout = stdout.lock();
                let done = all(&mut |delivery| writeln!(stdout, "{}", readable(&delivery.stored.event, *colour)));
                (done, stdout.flush())
            }
        };
        match kept {
            Ok(()) => (written, done),
            Err(error) => (0, Err(error)),
        }
    }
}

impl Sink for Writer {
    fn run<'a>(&'a mut self, receiver: &'a mut DeliveryReceiver) -> Running<'a> {
        Box::pin(async move {
            while let Some(first) = receiver.next().await {
                let mut group = vec![first];
                while group.len() < GROUP
                    && let Some(more) = receiver.try_next()
                {
                    group.push(more);
                }
                let (written, done) = self.write(&group);
                group.iter().take(written).for_each(|delivery| receiver.delivered(delivery.position));
                if let Err(error) = done {
                    let why = error.to_string();
                    // A reader of stdout that is gone will not come back.
                    let gone = error.kind() == io::ErrorKind::BrokenPipe;
                    return Err(if gone { SinkError::Fatal { why } } else { SinkError::retry(why) });
                }
                receiver.up();
            }
            Ok(())
        })
    }
}

/// A file of lines.
struct Log {
    path: PathBuf,
    rotation: Option<Rotation>,
    file: File,
    /// Not a pipe or device: can be synced, turned over and moved away.
    regular: bool,
    size: u64,
    /// Half a line stands at the end.
    torn: bool,
}

impl Log {
    fn open(path: &Path, rotation: Option<Rotation>) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)?;
        }
        let regular = path.metadata().map_or(true, |metadata| metadata.is_file());
        let mut file = OpenOptions::new().create(true).append(true).read(regular).open(path)?;
        let size = if regular { file.metadata()?.len() } else { 0 };
        let mut last = [b'\n'];
        if size > 0 {
            // A crash may have cut the last line.
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok(Self { path: path.to_owned(), rotation, file, regular, size, torn: last != *b"\n" })
    }

    fn write(&mut self, body: &str) -> io::Result<()> {
        let length = body.len() as u64 + 1;
        let too_long = |rotation: Rotation| self.size > 0 && self.size + length > rotation.max_size;
        if self.regular && self.rotation.is_some_and(too_long) {
            self.sync()?;
            self.turn_over()?;
        }
        let mut line = Vec::with_capacity(body.len() + 2);
        if self.torn {
            // So that only that half is unreadable.
            line.push(b'\n');
        }
        line.extend_from_slice(body.as_bytes());
        line.push(b'\n');
        self.torn = true;
        self.file.write_all(&line)?;
        self.torn = false;
        self.size += line.len() as u64;
        Ok(())
    }

    /// A file that somebody has moved away or deleted is followed by a new one, before anything is written: whoever moved it may have
    /// packed it already.
    fn follow(&mut self) -> io::Result<()> {
        if !self.regular {
            return Ok(());
        }
        let ours = self.file.metadata()?;
        let there = self.path.metadata().is_ok_and(|file| (file.dev(), file.ino()) == (ours.dev(), ours.ino()));
        if there {
            // Somebody may have emptied it.
            self.size = ours.len();
        } else {
            *self = Self::open(&self.path, self.rotation)?;
        }
        Ok(())
    }

    /// On the disk, and not deleted meanwhile.
    fn sync(&mut self) -> io::Result<()> {
        if !self.regular {
            return Ok(());
        }
        self.file.sync_data()?;
        if self.file.metadata()?.nlink() == 0 {
            return Err(io::Error::other("the file was deleted while it was written"));
        }
        Ok(())
    }

    /// The numbers of old files are those that are free or bear events: a file of another program that has such a name stays.
    fn turn_over(&mut self) -> io::Result<()> {
        let keep = self.rotation.map_or(0, |rotation| rotation.keep);
        if keep == 0 && is_ours(&self.path) {
            std::fs::remove_file(&self.path)?;
        } else {
            let old = |number: usize| PathBuf::from(format!("{}.{number}", self.path.display()));
            let keep = keep.max(1);
            let ours = (1..=keep + STRANGERS).map(old).filter(|path| path.symlink_metadata().is_err() || is_ours(path));
            let places: Vec<PathBuf> = ours.take(keep).collect();
            if places.is_empty() {
                return Err(io::Error::other("all names of old files are taken by files of others; move them away"));
            }
            let newer = std::iter::once(&self.path).chain(&places).rev().skip(1);
            for (from, to) in newer.zip(places.iter().rev()) {
                match std::fs::rename(from, to) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        *self = Self::open(&self.path, self.rotation)?;
        Ok(())
    }
}

/// Whether the file begins with an event, as every one does that this sink has made.
fn is_ours(path: &Path) -> bool {
    const BEGINNING: &[u8] = br#"{"specversion":"1.0","id":""#;
    let mut read = [0; BEGINNING.len()];
    let regular = path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
    regular && File::open(path).and_then(|mut file| file.read_exact(&mut read)).is_ok() && read == BEGINNING
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
    format!("{clock}Z  {:<12} {text}", data.place())
}

#[cfg(test)]
mod tests;
