//! Storing one event: the row itself, its place in the order of pages, its deliveries, and the state of its label. Within the caller's transaction.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Appended, Queued};
use crate::event::Event;
use crate::outbox::delivery::Stored;

/// Stores one event and its deliveries; `None` if it is stored already.
pub(super) fn append(
    connection: &Connection,
    queued: &Queued,
    age: u64,
    sinks: &[i64],
) -> Result<Option<Appended>, rusqlite::Error> {
    let Queued { event, to } = queued;
    let data = &event.data;
    let to_sql = |error: serde_json::Error| rusqlite::Error::ToSqlConversionFailure(Box::new(error));
    let body = serde_json::to_string(&**event).map_err(to_sql)?;
    let stored = connection
        .prepare_cached(
            "INSERT INTO events (waiting, age, id, time, stream, label_set, label, kind, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![
            to.len() as u64,
            age,
            event.id.to_string(),
            data.sampled_at.as_millisecond(),
            data.stream,
            data.set,
            data.label,
            event.kind.as_str(),
            body
        ])?;
    if stored == 0 {
        // An id that is there already is the same event.
        return Ok(None);
    }
    let seq = connection.last_insert_rowid();
    connection.prepare_cached("INSERT INTO event_order (time, seq, name) VALUES (?1, ?2, ?3)")?.execute(params![
        data.sampled_at.as_millisecond(),
        seq,
        name_of(connection, event)?
    ])?;
    let mut deliveries = Vec::with_capacity(to.len());
    for index in to {
        connection
            .prepare_cached("INSERT INTO deliveries (sink, seq, state, attempts, bytes) VALUES (?1, ?2, 0, 0, ?3)")?
            .execute(params![sinks.get(usize::from(*index)), seq, body.len() as u64])?;
        deliveries.push((*index, connection.last_insert_rowid().unsigned_abs()));
    }
    let region = data.region.as_deref().unwrap_or_default();
    connection
        .prepare_cached(
            "INSERT INTO states (stream, region, label_set, label, seq, age, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT DO UPDATE SET seq = excluded.seq, age = excluded.age, body = excluded.body",
        )?
        .execute(params![data.stream, region, data.set, data.label, seq, age, body])?;
    let seq = seq.unsigned_abs();
    Ok(Some((Arc::new(Stored { seq, event: Arc::clone(event), body: body.into() }), deliveries)))
}

/// The number of what an event is told of.
fn name_of(connection: &Connection, event: &Event) -> Result<i64, rusqlite::Error> {
    let data = &event.data;
    let region = data.region.as_deref().unwrap_or_default();
    let name = params![data.stream, region, data.set, data.label, event.kind.as_str()];
    let known = connection
        .prepare_cached(
            "SELECT id FROM names WHERE stream = ?1 AND region = ?2 AND label_set = ?3 AND label = ?4 AND kind = ?5",
        )?
        .query_row(name, |row| row.get(0))
        .optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    connection
        .prepare_cached("INSERT INTO names (stream, region, label_set, label, kind) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(name)?;
    Ok(connection.last_insert_rowid())
}
