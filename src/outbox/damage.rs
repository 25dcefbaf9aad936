//! A damaged outbox: it is moved aside under a name with the time, never deleted, and a new one takes its place, with whatever can be read
//! out of the damaged one.
//!
//! The new file is made beside the damaged one, with the small tables, and takes its place only when it is whole ([`prepare`], [`swap`]): where
//! that fails, as on a full disk, everything is as before and is tried again, after a kill too ([`finish`]). What is large ([`salvage`]) follows in a
//! transaction of its own. Until there is room for it the table `salvage` names the file, and the daemon goes on with new events.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params, params_from_iter};

use super::tables::{self, Opened, OutboxError, STEPS};
use crate::platform::atomic_file;

/// What a file takes beside its pages.
const BESIDE: u64 = 1 << 20;

/// Numbers go on this far above those that cannot be read.
const FAR: i64 = 1 << 40;

/// `path` with `end` behind its name.
fn with(path: &Path, end: &str) -> PathBuf {
    PathBuf::from(format!("{}{end}", path.display()))
}

fn fresh_of(path: &Path) -> PathBuf {
    with(path, ".vtagd-new")
}

fn remove(path: &Path) {
    for tail in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(with(path, tail));
    }
}

/// After a kill in the middle of [`swap`]: the new file takes its place. One that was not whole goes.
///
/// # Errors
/// When it cannot be renamed.
pub fn finish(path: &Path) -> io::Result<()> {
    let fresh = fresh_of(path);
    match (path.try_exists()?, fresh.try_exists()?) {
        (_, false) => Ok(()),
        (true, true) => {
            remove(&fresh);
            Ok(())
        }
        (false, true) => {
            let aside = open_to_salvage(&fresh).ok().and_then(|fresh| waiting(&fresh).ok().flatten());
            put_in_place(path, aside.as_deref())
        }
    }
}

/// Makes the new file beside the damaged one: who it is, its clock, its sinks, and the numbers that were given.
///
/// # Errors
/// When there is no room for it, or it cannot be made; nothing has changed then.
pub fn prepare(path: &Path) -> Result<(), OutboxError> {
    let fresh = fresh_of(path);
    remove(&fresh);
    let made = fill(path, &fresh);
    if made.is_err() {
        remove(&fresh);
    }
    made
}

fn fill(path: &Path, fresh: &Path) -> Result<(), OutboxError> {
    let failed = |error: &rusqlite::Error| OutboxError::of_open(path, error);
    let name = free_name(path, jiff::Timestamp::now()).ok_or_else(|| OutboxError::Open {
        path: path.to_owned(),
        why: "a thousand damaged files stand beside it".to_owned(),
    })?;
    let mut connection = match tables::open(Some(fresh), STEPS) {
        Ok(Opened::Ready(connection)) => connection,
        Ok(Opened::Newer(_)) => {
            return Err(OutboxError::Open { path: path.to_owned(), why: "a new file has a newer schema".to_owned() });
        }
        Err(error) => return Err(failed(&error)),
    };
    let small = || -> Result<(), rusqlite::Error> {
        let transaction = connection.transaction()?;
        if let Ok(old) = open_to_salvage(path) {
            copy(&old, &transaction, "clock", &["one", "mark"], "one")?;
            copy(&old, &transaction, "sinks", &["id", "key", "name"], "id")?;
            copy(&old, &transaction, "identity", &["one", "id"], "one")?;
            // Topics stay where they are, also while there is no room for the rest.
            copy(&old, &transaction, "retained", &["place", "topic", "digest", "before"], "place, topic")?;
            let columns = ["place", "stream", "label_set", "label", "in_regions", "level"];
            copy(&old, &transaction, "levels", &columns, "place, stream, label_set, label, in_regions")?;
            let columns = ["place", "topic", "component", "platform"];
            copy(&old, &transaction, "unheard", &columns, "place, topic, component")?;
            for (table, key) in [("events", "seq"), ("deliveries", "position")] {
                let highest = highest(&old, table, key);
                let sql = "INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)";
                if highest > 0 {
                    transaction.execute(sql, params![table, highest])?;
                }
            }
        }
        transaction.execute("INSERT INTO salvage (file) VALUES (?1)", [name])?;
        transaction.commit()
    };
    small().map_err(|error| failed(&error))?;
    connection.close().map_err(|(_, error)| failed(&error))
}

/// The highest number that was given in `table`.
fn highest(old: &Connection, table: &str, key: &str) -> i64 {
    let there = |sql: &str| old.query_row(sql, [], |row| row.get::<_, Option<i64>>(0));
    match there(&format!("SELECT max(seq) FROM sqlite_sequence WHERE name = '{table}'")) {
        Ok(Some(highest)) => highest,
        // No row: none was given yet.
        Ok(None) => 0,
        Err(_) => there(&format!("SELECT max({key}) FROM {table}")).ok().flatten().unwrap_or(FAR),
    }
}

/// A name for the damaged file that nothing has; a second one within the same second gets a number.
fn free_name(path: &Path, now: jiff::Timestamp) -> Option<String> {
    let (name, stamp) = (path.file_name()?.to_string_lossy(), now.strftime("%Y%m%dT%H%M%SZ"));
    let numbered = |n: u32| {
        let end = if n == 0 { String::new() } else { format!("-{n}") };
        format!("{name}.damaged-{stamp}{end}")
    };
    (0..1000).map(numbered).find(|name| !path.with_file_name(name).exists())
}

/// Moves the damaged file aside and puts the new one in its place. Nobody has either of them open. Where the damaged one lies now.
///
/// # Errors
/// When they cannot be renamed; [`finish`] or another try goes on from there.
pub fn swap(path: &Path) -> io::Result<Option<PathBuf>> {
    let aside = open_to_salvage(&fresh_of(path)).ok().and_then(|fresh| waiting(&fresh).ok().flatten());
    if let Some(aside) = &aside
        && path.try_exists()?
    {
        std::fs::rename(path, path.with_file_name(aside))?;
    }
    put_in_place(path, aside.as_deref())?;
    Ok(aside.map(|aside| path.with_file_name(aside)))
}

/// `path` is free; what belonged to what lay there goes to `aside` too.
fn put_in_place(path: &Path, aside: Option<&str>) -> io::Result<()> {
    for tail in ["-wal", "-shm"] {
        let moved = aside.map(|aside| std::fs::rename(with(path, tail), with(&path.with_file_name(aside), tail)));
        match moved {
            Some(Err(error)) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::rename(fresh_of(path), path)?;
    atomic_file::sync_folder(atomic_file::folder_of(path))
}

/// The file whose content is still to be carried over, beside the one that `connection` has open.
pub fn waiting(connection: &Connection) -> Result<Option<String>, rusqlite::Error> {
    connection.query_row("SELECT file FROM salvage LIMIT 1", [], |row| row.get(0)).optional()
}

/// Whether the disk that `path` lies on has room for what is to be carried over out of `file`: it goes into the log first, and then to its place.
pub fn has_room(path: &Path, file: &str) -> bool {
    #[cfg(test)]
    if tests::IS_FULL.get() {
        return false;
    }
    let damaged = path.with_file_name(file);
    let length = std::fs::metadata(&damaged).map_or(0, |damaged| damaged.len());
    let in_use = || -> Result<u64, rusqlite::Error> {
        let old = open_to_salvage(&damaged)?;
        let number = |name: &str| old.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
        Ok(number("page_count")?.saturating_sub(number("freelist_count")?).saturating_mul(number("page_size")?))
    };
    let needed = in_use().map_or(length, |bytes| bytes.min(length)).saturating_mul(2).saturating_add(BESIDE);
    // Nobody knows: the disk itself will say.
    rustix::fs::statvfs(atomic_file::folder_of(path))
        .map_or(true, |disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= needed)
}

/// What was read out of a damaged file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    pub events: usize,
    pub deliveries: usize,
    /// All rows of both could be read.
    pub whole: bool,
}

/// Carries over what can still be read out of `file`, beside `path`, whose connection is `fresh`. What is there already stays. Says what that was.
///
/// # Errors
/// When it cannot be written; nothing has changed then.
pub fn salvage(path: &Path, file: &str, fresh: &mut Connection) -> Result<Salvaged, rusqlite::Error> {
    let salvaged = carry_over(&path.with_file_name(file), file, fresh)?;
    let Salvaged { events, deliveries, whole } = salvaged;
    let result = if whole { "whole" } else { "partial" };
    metrics::counter!("vtagd_outbox_recoveries_total", "result" => result).increment(1);
    if whole {
        tracing::warn!(events, deliveries, "all events could be read out of the damaged outbox");
    } else {
        tracing::error!(
            events,
            deliveries,
            "not everything could be read out of the damaged outbox: events may be missing, and deliveries of those that are there; \
             `vtagd events replay` sends them again"
        );
    }
    Ok(salvaged)
}

fn open_to_salvage(path: &Path) -> Result<Connection, rusqlite::Error> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

fn carry_over(damaged: &Path, file: &str, fresh: &mut Connection) -> Result<Salvaged, rusqlite::Error> {
    let transaction = fresh.transaction()?;
    let mut salvaged = Salvaged::default();
    if let Ok(old) = open_to_salvage(damaged) {
        let copy = |table: &str, columns: &[&str], key: &str| copy(&old, &transaction, table, columns, key);
        let columns = ["seq", "waiting", "age", "id", "time", "stream", "label_set", "label", "kind", "body"];
        let (events, all_events) = copy("events", &columns, "seq")?;
        let columns = ["position", "sink", "seq", "state", "attempts", "error", "bytes"];
        let (deliveries, all_deliveries) = copy("deliveries", &columns, "position")?;
        // What that file was itself still to get.
        copy("salvage", &["file"], "file")?;
        // Of a file without regions they cannot be read, and are those of the whole view.
        let columns = ["stream", "region", "label_set", "label", "seq", "age", "body"];
        if copy("states", &columns, "stream, region, label_set, label")?.0 == 0 {
            copy("states", &["stream", "label_set", "label", "seq", "age", "body"], "stream, label_set, label")?;
        }
        salvaged = Salvaged { events, deliveries, whole: all_events && all_deliveries };
    }
    // What was torn apart is put right: deliveries of events that are gone, counts, names and states of those that are there.
    transaction.execute_batch(
        "CREATE TEMP VIEW named AS
             SELECT *, iif(json_valid(body), coalesce(body ->> '$.data.region', ''), '') AS region FROM events;
         INSERT OR IGNORE INTO names (stream, region, label_set, label, kind)
             SELECT DISTINCT stream, region, label_set, label, kind FROM named;
         INSERT OR IGNORE INTO event_order SELECT e.time, e.seq, n.id FROM named e
             JOIN names n USING (stream, region, label_set, label, kind) ORDER BY e.time, e.seq;
         DELETE FROM deliveries WHERE seq NOT IN (SELECT seq FROM events) OR sink NOT IN (SELECT id FROM sinks);
         UPDATE events SET waiting = (SELECT count(*) FROM deliveries WHERE deliveries.seq = events.seq);
         INSERT OR IGNORE INTO states (stream, region, label_set, label, seq, age, body)
             SELECT stream, region, label_set, label, max(seq), age, body FROM named GROUP BY stream, region, label_set, label;
         DROP VIEW temp.named;",
    )?;
    transaction.execute("DELETE FROM salvage WHERE file = ?1", [file])?;
    transaction.commit()?;
    Ok(salvaged)
}

/// Copies the rows of `table` that can be read, from both ends up to where the damage is. How many, and whether that was all.
///
/// # Errors
/// When one cannot be written.
fn copy(
    old: &Connection,
    fresh: &Connection,
    table: &str,
    columns: &[&str],
    key: &str,
) -> Result<(usize, bool), rusqlite::Error> {
    let names = columns.join(", ");
    let holes = vec!["?"; columns.len()].join(", ");
    let mut insert = fresh.prepare(&format!("INSERT OR IGNORE INTO {table} ({names}) VALUES ({holes})"))?;
    let mut kept = 0;
    for order in ["ASC", "DESC"] {
        let select = old.prepare(&format!("SELECT {names} FROM {table} NOT INDEXED ORDER BY {key} {order}"));
        let Ok(mut select) = select else { return Ok((kept, false)) };
        let Ok(mut rows) = select.query([]) else { continue };
        let mut whole = true;
        loop {
            match rows.next() {
                Ok(Some(row)) => {
                    let values: Result<Vec<Value>, _> = (0..columns.len()).map(|at| row.get(at)).collect();
                    let Ok(values) = values else { continue };
                    match insert.execute(params_from_iter(values)) {
                        Ok(rows) => kept += rows,
                        // What stands on a torn page may be anything.
                        Err(error) if is_refused(&error) => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    whole = false;
                    break;
                }
            }
        }
        if whole {
            return Ok((kept, order == "ASC"));
        }
    }
    Ok((kept, false))
}

/// Whether the row is at fault, not the file that it was to be written to.
fn is_refused(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{ConstraintViolation, TypeMismatch};
    matches!(error.sqlite_error_code(), Some(ConstraintViolation | TypeMismatch))
}

#[cfg(test)]
pub mod tests {
    thread_local! {
        /// To this thread the disk has no room to carry anything over.
        pub static IS_FULL: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }
}
