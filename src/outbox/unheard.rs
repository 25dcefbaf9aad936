//! What has gone from documents at a place, of which those who listen there may not have heard yet: it is told again until they have.
//!
//! Bounded by [`MOST`] components a place; what is beyond that is told once alone.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use crate::outbox::delivery::published_record::Unheard;

/// Components of a place. Some 2 MB.
const MOST: usize = 16_384;

/// What may not have been heard of at `place`.
pub(super) fn read(connection: &Connection, place: &str) -> Result<Unheard, rusqlite::Error> {
    let sql = "SELECT topic, component, platform FROM unheard WHERE place = ?1";
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query([place])?;
    let mut unheard = Unheard::new();
    while let Some(row) = rows.next()? {
        let components: &mut BTreeMap<String, String> = unheard.entry(row.get(0)?).or_default();
        components.insert(row.get(1)?, row.get(2)?);
    }
    Ok(unheard)
}

/// Writes down that it is `unheard` and nothing else; what is beyond [`MOST`] is left out.
pub(super) fn write(connection: &Connection, place: &str, unheard: &Unheard) -> Result<(), rusqlite::Error> {
    connection.prepare_cached("DELETE FROM unheard WHERE place = ?1")?.execute([place])?;
    let mut insert =
        connection.prepare_cached("INSERT INTO unheard (place, topic, component, platform) VALUES (?1, ?2, ?3, ?4)")?;
    let all = unheard.iter().flat_map(|(topic, components)| components.iter().map(move |one| (topic, one)));
    for (topic, (component, platform)) in all.take(MOST) {
        insert.execute(params![place, topic, component, platform])?;
    }
    Ok(())
}
