//! Which level of a topic each label has at a place: recorded when it is first used, and kept, so that no label ever gets another's.
//!
//! Bounded by [`MOST`] labels a place; what is beyond that is not recorded.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, params};

use super::tables::{self, OutboxError};
use crate::outbox::delivery::published_record::{LabelPlace, Levels};

/// Labels of a place, those of earlier configurations included. Some 10 MB.
const MOST: usize = 65_536;

/// The levels at `place`.
pub(super) fn read(connection: &Connection, place: &str) -> Result<Levels, rusqlite::Error> {
    let sql = "SELECT stream, label_set, label, in_regions, level FROM levels WHERE place = ?1";
    let mut select = connection.prepare_cached(sql)?;
    let rows = select.query_map([place], |row| {
        let of = LabelPlace { stream: row.get(0)?, set: row.get(1)?, label: row.get(2)?, in_regions: row.get(3)? };
        Ok((of, row.get(4)?))
    })?;
    rows.collect()
}

/// Writes `levels` down; what is there already stays.
pub(super) fn write(connection: &Connection, place: &str, levels: &Levels) -> Result<(), rusqlite::Error> {
    let count = "SELECT count(*) FROM levels WHERE place = ?1";
    let mut labels: usize = connection.prepare_cached(count)?.query_row([place], |row| row.get(0))?;
    let mut insert = connection.prepare_cached(
        "INSERT OR IGNORE INTO levels (place, stream, label_set, label, in_regions, level) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for (LabelPlace { stream, set, label, in_regions }, level) in levels {
        if labels >= MOST {
            break;
        }
        labels += insert.execute(params![place, stream, set, label, in_regions, level])?;
    }
    Ok(())
}

/// The levels at `place` that stand in the outbox in `path`, whether a daemon runs or not.
///
/// # Errors
/// When there is no outbox, or it cannot be read.
pub fn of_file(path: &Path, place: &str) -> Result<Levels, OutboxError> {
    let (connection, _) = tables::open_to_read(path)?;
    let failed = |error| OutboxError::Sql { path: path.to_owned(), error };
    let there = connection.prepare("SELECT 1 FROM sqlite_master WHERE name = 'levels'").and_then(|mut s| s.exists([]));
    if there.map_err(failed)? { read(&connection, place).map_err(failed) } else { Ok(BTreeMap::new()) }
}
