//! The journal's own protocol: one datagram an event, `NAME=value` lines, to systemd-journald's socket.
//!
//! In: events as [`Line`]s, from any thread. Out: entries with the event's fields as fields of the journal (`journalctl STREAM=dock-3`),
//! and the same words as on a terminal in `MESSAGE`. Sending does not wait: a journal that is full or gone gets nothing, and the caller
//! writes the line to stderr instead. Values are cut at [`MAX_VALUE_BYTES`], which keeps an entry below what a datagram takes.
//!
//! Written here and not with `tracing-journald`: that crate sends what it gets as it is, while no credential may reach the journal, and
//! it knows one socket only, so a test could not listen.

use std::fmt::Write as _;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::Metadata;

use super::line::{Line, priority};
use crate::platform::secret;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Names another socket.
const VARIABLE: &str = "VTAGD_JOURNAL_SOCKET";

/// Longest value in bytes. The journal keeps more, but not in one datagram.
const MAX_VALUE_BYTES: usize = 32 * 1024;

/// Fields that an event may not set: journald's own meanings, and ours.
const TAKEN: &[&str] = &[
    "MESSAGE",
    "MESSAGE_ID",
    "PRIORITY",
    "CODE_FILE",
    "CODE_LINE",
    "CODE_FUNC",
    "ERRNO",
    "INVOCATION_ID",
    "USER_INVOCATION_ID",
    "SYSLOG_FACILITY",
    "SYSLOG_IDENTIFIER",
    "SYSLOG_PID",
    "SYSLOG_TIMESTAMP",
    "SYSLOG_RAW",
    "DOCUMENTATION",
    "TID",
    "UNIT",
    "USER_UNIT",
    "TARGET",
];

/// A connection to the journal.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// The journal of this machine.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn open() -> io::Result<Self> {
        let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
        Self::at(path.as_deref().map_or(Path::new(SOCKET), Path::new))
    }

    /// A journal that listens at `path`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        // Tells whether anybody listens. The connection itself is not kept: it would end with the journal's restart.
        UnixDatagram::unbound()?.connect(path)?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// Writes an event down.
    ///
    /// # Errors
    /// When the journal does not take it now.
    pub fn write(&self, metadata: &Metadata<'_>, line: &Line) -> io::Result<()> {
        self.socket.send_to(&entry(metadata, line), &self.path).map(drop)
    }
}

/// Whether standard error goes to the journal already: systemd names its device and inode in `JOURNAL_STREAM`.
pub fn is_stderr() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(io::stderr().as_fd()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

fn entry(metadata: &Metadata<'_>, line: &Line) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    add(&mut out, "MESSAGE", &line.text());
    add(&mut out, "PRIORITY", &priority(*metadata.level()).to_string());
    add(&mut out, "SYSLOG_IDENTIFIER", "vtagd");
    add(&mut out, "TARGET", line.target.as_deref().unwrap_or_else(|| metadata.target()));
    if let (None, Some(file), Some(number)) = (&line.target, metadata.file(), metadata.line()) {
        add(&mut out, "CODE_FILE", file);
        add(&mut out, "CODE_LINE", &number.to_string());
    }
    for (field, value) in &line.fields {
        add(&mut out, &name(field), &value.text);
    }
    out
}

/// A field's name as the journal wants it: capitals, digits and `_`, beginning with a letter, at most 64.
fn name(field: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = field.chars().map(fits).take(58).collect();
    if TAKEN.contains(&name.as_str()) || !name.starts_with(|c: char| c.is_ascii_uppercase()) {
        return format!("VTAGD_{name}");
    }
    name
}

/// `NAME=value`, or for values of several lines the name, the length as eight bytes, and the value.
fn add(out: &mut Vec<u8>, name: &str, value: &str) {
    // With others in it, journalctl shows no word of the value. A colour is nothing that the journal wants either.
    let value = cut(&secret::scrub(value)).replace(|c: char| c.is_control() && c != '\n' && c != '\t', " ");
    out.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

fn cut(value: &str) -> String {
    if value.len() <= MAX_VALUE_BYTES {
        return value.to_owned();
    }
    let end = (0..=MAX_VALUE_BYTES).rev().find(|end| value.is_char_boundary(*end)).unwrap_or_default();
    let mut short = value[..end].to_owned();
    // A string takes everything.
    let _ = write!(short, "… ({} more bytes)", value.len() - end);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_the_journal_takes() {
        for (field, expected) in [
            ("stream", "STREAM"),
            ("label_sets", "LABEL_SETS"),
            ("a.b-c", "A_B_C"),
            ("_trusted", "VTAGD__TRUSTED"),
            ("7th", "VTAGD_7TH"),
            ("message", "VTAGD_MESSAGE"),
            ("unit", "VTAGD_UNIT"),
            ("priority", "VTAGD_PRIORITY"),
        ] {
            assert_eq!(name(field), expected);
        }
        assert!(name(&"x".repeat(200)).len() <= 64);
    }

    #[test]
    fn values_of_several_lines_carry_their_length_and_long_ones_are_cut() {
        let mut out = Vec::new();
        add(&mut out, "A", "one");
        add(&mut out, "B", "two\nlines");
        add(&mut out, "C", "a\tbell\x07\x1b[2J\r");
        assert_eq!(out, b"A=one\nB\n\x09\0\0\0\0\0\0\0two\nlines\nC=a\tbell  [2J \n");
        let long = cut(&"ä".repeat(MAX_VALUE_BYTES));
        assert!(
            long.len() < MAX_VALUE_BYTES + 40 && long.ends_with(&format!("({MAX_VALUE_BYTES} more bytes)")),
            "{}",
            long.len()
        );
    }

    #[test]
    fn no_credential_reaches_the_journal() {
        let secret = secret::Secret::new("journal-mark-77");
        let mut out = Vec::new();
        add(&mut out, "ERROR", &format!("{} was wrong", secret.expose()));
        assert_eq!(out, b"ERROR=*** was wrong\n");
    }
}
