//! What was published from here and stays at the other side: by place and topic, with what proves it to be ours.
//!
//! Written before it is published, so that a kill in between leaves a record. Bounded by [`MOST`] topics a place: what is published
//! beyond that is not recorded, and so never cleared by a later life.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use crate::outbox::delivery::published_record::{Change, Digest, Proof};

/// Topics of a place: twenty thousand labels. Some 10 MB.
const MOST: usize = 65_536;

/// What was left at `place`.
pub(super) fn read(connection: &Connection, place: &str) -> Result<BTreeMap<String, Proof>, rusqlite::Error> {
    let mut select = connection.prepare_cached("SELECT topic, digest, before FROM retained WHERE place = ?1")?;
    let rows = select.query_map([place], |row| {
        // What is no digest proves nothing.
        let digest = |column| -> Result<Option<Digest>, rusqlite::Error> {
            let blob: Option<Vec<u8>> = row.get(column)?;
            Ok(blob.map(|blob| Digest::try_from(blob).unwrap_or_default()))
        };
        Ok((row.get(0)?, Proof { digest: digest(1)?, before: digest(2)? }))
    })?;
    rows.collect()
}

/// Writes `changes` down; what is beyond [`MOST`] is left out.
pub(super) fn write(connection: &Connection, place: &str, changes: &[Change]) -> Result<(), rusqlite::Error> {
    let count = "SELECT count(*) FROM retained WHERE place = ?1";
    let mut topics: usize = connection.prepare_cached(count)?.query_row([place], |row| row.get(0))?;
    let mut update =
        connection.prepare_cached("UPDATE retained SET digest = ?3, before = ?4 WHERE place = ?1 AND topic = ?2")?;
    let mut insert =
        connection.prepare_cached("INSERT INTO retained (place, topic, digest, before) VALUES (?1, ?2, ?3, ?4)")?;
    let mut delete = connection.prepare_cached("DELETE FROM retained WHERE place = ?1 AND topic = ?2")?;
    for Change { topic, proof } in changes {
        let Some(Proof { digest, before }) = proof else {
            topics -= delete.execute([place, topic])?;
            continue;
        };
        let values = params![place, topic, digest.as_ref().map(|d| &d[..]), before.as_ref().map(|d| &d[..])];
        if update.execute(values)? == 0 && topics < MOST {
            topics += insert.execute(values)?;
        }
    }
    Ok(())
}
