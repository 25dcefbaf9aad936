//! A damaged outbox: it is moved aside under a name with the time, never deleted, and a new one takes its place, with whatever could be
//! read out of the damaged one.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::tables::{self, Opened, OutboxError, STEPS};

/// Moves the damaged file aside and makes a new one of what can be read.
///
/// # Errors
/// When it cannot be renamed, or no new one can be made.
pub fn recover(path: &Path, error: &rusqlite::Error) -> Result<Connection, OutboxError> {
    let failed = |why: String| OutboxError::Open { path: path.to_owned(), why };
    let aside = move_aside(path, jiff::Timestamp::now()).map_err(|e| failed(e.to_string()))?;
    tracing::error!(outbox = %path.display(), moved_to = %aside.display(), %error, "the outbox is damaged, a new one takes its place");
    let connection = match tables::open(Some(path), STEPS) {
        Ok(Opened::Ready(connection)) => connection,
        Ok(Opened::Newer(_)) => return Err(failed("a new file has a newer schema".to_owned())),
        Err(error) => return Err(failed(error.to_string())),
    };
    let Salvaged { events, deliveries, whole } = salvage(&aside, &connection);
    if whole {
        tracing::warn!(events, deliveries, "all events could be read out of the damaged outbox");
    } else {
        metrics::counter!("vtagd_outbox_recoveries_total", "result" => "partial").increment(1);
        tracing::error!(
            events,
            deliveries,
            "not everything could be read out of the damaged outbox: events may be missing, and deliveries of those that are there; \
             `vtagd events replay` sends them again"
        );
        return Ok(connection);
    }
    metrics::counter!("vtagd_outbox_recoveries_total", "result" => "whole").increment(1);
    Ok(connection)
}

/// Moves `path` and what belongs to it aside. Returns the new name.
///
/// # Errors
/// When it cannot be renamed.
fn move_aside(path: &Path, now: jiff::Timestamp) -> std::io::Result<PathBuf> {
    let stamp = now.strftime("%Y%m%dT%H%M%SZ");
    let with = |end: &str| PathBuf::from(format!("{}{end}", path.display()));
    // A second within the same second gets a number.
    let free = |n: u32| {
        let end = if n == 0 { format!(".damaged-{stamp}") } else { format!(".damaged-{stamp}-{n}") };
        (!with(&end).exists()).then_some(end)
    };
    let end =
        (0..1000).find_map(free).ok_or_else(|| std::io::Error::other("a thousand damaged files stand beside it"))?;
    std::fs::rename(path, with(&end))?;
    for tail in ["-wal", "-shm"] {
        match std::fs::rename(with(tail), with(&format!("{end}{tail}"))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(with(&end))
}

/// What was read out of a damaged file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Salvaged {
    events: usize,
    deliveries: usize,
    /// All rows of both could be read.
    whole: bool,
}

/// Copies what can still be read out of `damaged` into `fresh`.
fn salvage(damaged: &Path, fresh: &Connection) -> Salvaged {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let Ok(old) = Connection::open_with_flags(damaged, flags) else { return Salvaged::default() };
    // Rows come from both ends up to where the damage is.
    let copy = |table: &str, columns: &[&str], key: &str| -> (usize, bool) {
        let names = columns.join(", ");
        let holes = vec!["?"; columns.len()].join(", ");
        let into = format!("INSERT OR IGNORE INTO {table} ({names}) VALUES ({holes})");
        let mut kept = 0;
        for order in ["ASC", "DESC"] {
            let Ok(mut insert) = fresh.prepare(&into) else { return (kept, false) };
            let Ok(mut select) =
                old.prepare(&format!("SELECT {names} FROM {table} NOT INDEXED ORDER BY {key} {order}"))
            else {
                return (kept, false);
            };
            let Ok(mut rows) = select.query([]) else { continue };
            let mut whole = true;
            loop {
                match rows.next() {
                    Ok(Some(row)) => {
                        let values: Result<Vec<rusqlite::types::Value>, _> =
                            (0..columns.len()).map(|at| row.get(at)).collect();
                        let Ok(values) = values else { continue };
                        kept += insert.execute(rusqlite::params_from_iter(values)).unwrap_or_default();
                    }
                    Ok(None) => break,
                    Err(_) => {
                        whole = false;
                        break;
                    }
                }
            }
            if whole {
                return (kept, order == "ASC");
            }
        }
        (kept, false)
    };
    if fresh.execute_batch("BEGIN IMMEDIATE").is_err() {
        return Salvaged::default();
    }
    copy("clock", &["one", "mark"], "one");
    copy("sinks", &["id", "key", "name"], "id");
    let columns = ["seq", "waiting", "age", "id", "time", "stream", "label_set", "label", "kind", "body"];
    let (events, all_events) = copy("events", &columns, "seq");
    let columns = ["position", "sink", "seq", "state", "attempts", "error", "bytes"];
    let (deliveries, all_deliveries) = copy("deliveries", &columns, "position");
    copy("identity", &["one", "id"], "one");
    copy("retained", &["place", "topic", "digest", "before"], "place, topic");
    // Of a file without regions they cannot be read, and are those of the whole view.
    let columns = ["stream", "region", "label_set", "label", "seq", "age", "body"];
    if copy("states", &columns, "stream, region, label_set, label").0 == 0 {
        copy("states", &["stream", "label_set", "label", "seq", "age", "body"], "stream, label_set, label");
    }
    // What was torn apart is put right: deliveries of events that are gone, counts and states of those that are there.
    let mended = fresh.execute_batch(
        "DELETE FROM deliveries WHERE seq NOT IN (SELECT seq FROM events) OR sink NOT IN (SELECT id FROM sinks);
         UPDATE events SET waiting = (SELECT count(*) FROM deliveries WHERE deliveries.seq = events.seq);
         UPDATE events SET region = body ->> '$.data.region' WHERE iif(json_valid(body), body ->> '$.data.region', NULL) IS NOT NULL;
         INSERT OR IGNORE INTO states (stream, region, label_set, label, seq, age, body)
             SELECT stream, region, label_set, label, max(seq), age, body FROM events GROUP BY stream, region, label_set, label;
         COMMIT;",
    );
    if mended.is_err() {
        let _ = fresh.execute_batch("ROLLBACK");
        return Salvaged::default();
    }
    Salvaged { events, deliveries, whole: all_events && all_deliveries }
}
