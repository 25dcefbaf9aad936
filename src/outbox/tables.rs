//! The outbox's file: its schema with the steps from one version to the next, how it is opened, and what is done with a damaged one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

/// Another process (`vtagd events replay`) may hold the file for so long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Steps from an empty file to today's schema; `user_version` says how many have been taken. Steps are added, never changed.
pub const STEPS: &[&str] = &[
    "CREATE TABLE clock (one INTEGER PRIMARY KEY CHECK (one = 1), mark TEXT NOT NULL) STRICT;
     -- `waiting`: deliveries that are neither made nor gone; `age`: outbox clock at storing, in ms; `time`: of the sample, Unix ms.
     CREATE TABLE events (
         seq INTEGER PRIMARY KEY AUTOINCREMENT, waiting INTEGER NOT NULL, age INTEGER NOT NULL, id TEXT NOT NULL,
         time INTEGER NOT NULL, stream TEXT NOT NULL, label_set TEXT NOT NULL, label TEXT NOT NULL, kind TEXT NOT NULL,
         body TEXT NOT NULL) STRICT;
     CREATE UNIQUE INDEX events_by_id ON events (id);
     CREATE INDEX events_done ON events (seq) WHERE waiting = 0;
     CREATE TABLE sinks (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, name TEXT NOT NULL) STRICT;
     -- A row a sink that still has to get an event; gone once it has. `state`: 0 pending, 1 dead letter.
     CREATE TABLE deliveries (
         position INTEGER PRIMARY KEY AUTOINCREMENT, sink INTEGER NOT NULL, seq INTEGER NOT NULL, state INTEGER NOT NULL,
         attempts INTEGER NOT NULL, error TEXT, bytes INTEGER NOT NULL) STRICT;
     CREATE INDEX deliveries_by_sink ON deliveries (sink, state, position);
     CREATE INDEX deliveries_by_event ON deliveries (seq);
     -- The latest event of each label.
     CREATE TABLE states (
         stream TEXT NOT NULL, label_set TEXT NOT NULL, label TEXT NOT NULL, seq INTEGER NOT NULL, age INTEGER NOT NULL,
         body TEXT NOT NULL, PRIMARY KEY (stream, label_set, label)) STRICT, WITHOUT ROWID;",
    "-- Which outbox this is, to others (see identity.rs).
     CREATE TABLE identity (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL) STRICT;
     -- What was published from here and stays at the other side (see retained.rs). `place`: broker and prefix; `digest`, `before`: SHA-256 of
     -- the payload published last and of the one before it; without one it may be any of ours.
     CREATE TABLE retained (
         place TEXT NOT NULL, topic TEXT NOT NULL, digest BLOB, before BLOB, PRIMARY KEY (place, topic)) STRICT, WITHOUT ROWID;",
    "-- For pages of events, newest first (see event_pages.rs).
     CREATE INDEX events_by_time ON events (time);
     CREATE INDEX events_by_name ON events (stream, label_set, label, kind, time);",
    "-- The latest event of each label in each region of its stream; '': the whole view.
     ALTER TABLE states RENAME TO states_of_labels;
     CREATE TABLE states (
         stream TEXT NOT NULL, region TEXT NOT NULL DEFAULT '', label_set TEXT NOT NULL, label TEXT NOT NULL, seq INTEGER NOT NULL,
         age INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (stream, region, label_set, label)) STRICT, WITHOUT ROWID;
     INSERT INTO states (stream, label_set, label, seq, age, body)
         SELECT stream, label_set, label, seq, age, body FROM states_of_labels;
     DROP TABLE states_of_labels;",
    "-- Damaged outboxes, beside this file, whose events are still to be carried over (see damage.rs).
     CREATE TABLE salvage (file TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;",
    "-- Which level of a topic a label has at `place`, in its stream's own topics or below the stream's regions (see levels.rs).
     CREATE TABLE levels (
         place TEXT NOT NULL, stream TEXT NOT NULL, label_set TEXT NOT NULL, label TEXT NOT NULL, in_regions INTEGER NOT NULL,
         level TEXT NOT NULL, PRIMARY KEY (place, stream, label_set, label, in_regions)) STRICT, WITHOUT ROWID;",
    "-- For pages of events, newest first (see event_pages.rs), in place of the indices of step 3: those were written in as many places as there are
     -- names, this one grows at its end. `region`: '' is the whole view.
     DROP INDEX events_by_time; DROP INDEX events_by_name;
     CREATE TABLE names (
         id INTEGER PRIMARY KEY, stream TEXT NOT NULL, region TEXT NOT NULL, label_set TEXT NOT NULL, label TEXT NOT NULL, kind TEXT NOT NULL,
         UNIQUE (stream, region, label_set, label, kind)) STRICT;
     CREATE TABLE event_order (
         time INTEGER NOT NULL, seq INTEGER NOT NULL, name INTEGER NOT NULL, PRIMARY KEY (time, seq)) STRICT, WITHOUT ROWID;
     CREATE TRIGGER deleted_event AFTER DELETE ON events BEGIN
         DELETE FROM event_order WHERE time = old.time AND seq = old.seq;
     END;
     CREATE TEMP VIEW named AS SELECT *, CASE WHEN NOT EXISTS (SELECT 1 FROM main.states WHERE region <> '') THEN ''
         ELSE iif(json_valid(body), coalesce(body ->> '$.data.region', ''), '') END AS region FROM main.events;
     INSERT INTO names (stream, region, label_set, label, kind) SELECT DISTINCT stream, region, label_set, label, kind FROM temp.named;
     INSERT INTO event_order SELECT e.time, e.seq, n.id FROM temp.named e
         JOIN names n USING (stream, region, label_set, label, kind) ORDER BY e.time, e.seq;
     DROP VIEW temp.named;",
    "-- What has gone from the document under `topic` at `place`, of which those who listen may not have heard (see unheard.rs).
     CREATE TABLE unheard (
         place TEXT NOT NULL, topic TEXT NOT NULL, component TEXT NOT NULL, platform TEXT NOT NULL,
         PRIMARY KEY (place, topic, component)) STRICT, WITHOUT ROWID;",
];

/// Why the outbox cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    #[error(
        "cannot open the outbox {}: {why}; make its folder writable for this user, or name another file with `outbox: {{ path: FILE }}`",
        path.display()
    )]
    Open { path: PathBuf, why: String },
    #[error("the outbox {} cannot be written: {why}", path.display())]
    Disk { path: PathBuf, why: String },
    #[error("the outbox {} is in use by another vtagd; stop that one, or name another file in `outbox.path`", path.display())]
    InUse { path: PathBuf },
    #[error(
        "the outbox {} was written by a newer vtagd (schema {found}, this one knows {known}); start that version, or let this one begin anew with \
         another file in `outbox.path`: what waits in the old one stays there, and that version's `vtagd events export` reads it",
        path.display()
    )]
    Newer { path: PathBuf, found: usize, known: usize },
    #[error("there is no outbox {}: {why}", path.display())]
    Absent { path: PathBuf, why: String },
    #[error("the outbox {}: {error}", path.display())]
    Sql { path: PathBuf, error: rusqlite::Error },
    #[error("cannot start the outbox's thread: {0}")]
    Thread(std::io::Error),
}

impl OutboxError {
    /// For an error of SQLite while the file is opened.
    pub fn of_open(path: &Path, error: &rusqlite::Error) -> Self {
        let (path, why) = (path.to_owned(), error.to_string());
        if is_disk(error) { Self::Disk { path, why } } else { Self::Open { path, why } }
    }

    /// For an error of the system while a file is made or moved.
    pub fn of_io(path: &Path, error: &std::io::Error) -> Self {
        let (path, why) = (path.to_owned(), error.to_string());
        if error.kind() == std::io::ErrorKind::StorageFull {
            Self::Disk { path, why }
        } else {
            Self::Open { path, why }
        }
    }

    /// 2 where the configuration is wrong, 1 where the machine failed.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Newer { .. } | Self::Absent { .. } => 2,
            _ => 1,
        }
    }
}

/// Whether the file itself is broken, not just busy or out of room.
pub fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Whether there is no room for more.
pub fn is_full(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull))
}

/// Whether it is the disk's fault, which may pass: no room (SQLite says "I/O error" of some files then), or a disk that fails.
fn is_disk(error: &rusqlite::Error) -> bool {
    is_full(error) || matches!(error.sqlite_error_code(), Some(ErrorCode::SystemIoFailure))
}

/// Opens `path` (`None`: memory only), checks it and brings it to today's schema.
///
/// # Errors
/// As SQLite has it; [`is_damage`] tells a broken file. A newer schema is [`Opened::Newer`].
pub fn open(path: Option<&Path>, steps: &[&str]) -> Result<Opened, rusqlite::Error> {
    let connection = match path {
        Some(path) => Connection::open(path)?,
        None => Connection::open_in_memory()?,
    };
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let found: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > steps.len() {
        return Ok(Opened::Newer(found));
    }
    // Not before: what is another version's stays as it is to the last byte.
    prepare(&connection)?;
    if found > 0 {
        let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            return Err(rusqlite::Error::SqliteFailure(code, Some(verdict)));
        }
    }
    for (done, step) in (1..).zip(steps).skip(found) {
        // One transaction a step: a crash in the middle leaves the version before.
        connection.execute_batch(&format!("BEGIN IMMEDIATE; {step} PRAGMA user_version = {done}; COMMIT;"))?;
    }
    Ok(Opened::Ready(connection))
}

/// What [`open`] found.
pub enum Opened {
    Ready(Connection),
    /// Written by a newer version of this program, with that schema.
    Newer(usize),
}

/// Settings of every connection that writes.
pub fn prepare(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Only a new file takes it: lets space that is free be given back bit by bit.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // FULL: a commit survives a power cut. It costs one fdatasync a group of events.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", 8 << 20)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Opens `path` for looking only, beside a daemon that writes; gives the version of its schema too.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn open_to_read(path: &Path) -> Result<(Connection, usize), OutboxError> {
    if !path.exists() {
        let why =
            "it is made when the daemon first runs; name it with `--outbox FILE` or the configuration with `-c FILE`";
        return Err(OutboxError::Absent { path: path.to_owned(), why: why.to_owned() });
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags);
    let checked = connection.and_then(|connection| {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let version: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        Ok((connection, version))
    });
    match checked {
        Ok((connection, version)) if (1..=STEPS.len()).contains(&version) => Ok((connection, version)),
        Ok((_, 0)) => {
            let why = "the file holds no outbox".to_owned();
            Err(OutboxError::Absent { path: path.to_owned(), why })
        }
        Ok((_, found)) => Err(OutboxError::Newer { path: path.to_owned(), found, known: STEPS.len() }),
        Err(error) => {
            let why = format!("{error}; run this as the daemon's user, for example `sudo -u vtagd vtagd events list`");
            Err(OutboxError::Absent { path: path.to_owned(), why })
        }
    }
}

/// One daemon a file: a lock that goes with the process, however it ends. What it holds is [`identity`](super::identity)'s.
pub fn lock(path: &Path) -> Result<File, OutboxError> {
    let failed = |error: std::io::Error| OutboxError::of_io(path, &error);
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let name = format!("{}.lock", path.display());
    let file = File::options().create(true).truncate(false).read(true).write(true).open(name).map_err(failed)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OutboxError::InUse { path: path.to_owned() }),
        Err(error) => Err(failed(error.into())),
    }
}
