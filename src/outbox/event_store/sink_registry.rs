//! The small tables: the outbox's clock, the numbers that were given, the sinks.

use rusqlite::{Connection, OptionalExtension, params};

use super::super::age::Mark;
use super::super::route::Route;

/// The clock's last reading. One that is lost, as in a damaged file, is no younger than any event.
pub(super) fn read_mark(connection: &Connection) -> Result<Mark, rusqlite::Error> {
    let mark: Option<String> = connection.query_row("SELECT mark FROM clock", [], |row| row.get(0)).optional()?;
    let mut mark: Mark = mark.and_then(|mark| serde_json::from_str(&mark).ok()).unwrap_or_default();
    let latest: Option<u64> = connection.query_row("SELECT max(age) FROM events", [], |row| row.get(0))?;
    mark.age = mark.age.max(latest.unwrap_or_default());
    Ok(mark)
}

/// Ages grow with `seq`, so that the oldest are found without a look at all. An older version's clock may have begun anew in between: what
/// came after that is taken to be as young as the youngest before, so nothing goes too early.
pub(super) fn order_ages(connection: &Connection) {
    const HIGHEST: &str = "SELECT seq AS at, age AS was, max(age) OVER (ORDER BY seq) AS highest FROM events";
    let late = format!("SELECT 1 FROM ({HIGHEST}) WHERE was < highest");
    let raise = format!("UPDATE events SET age = highest FROM ({HIGHEST}) WHERE seq = at AND was < highest");
    // Nothing is written where nothing is wrong; see `enter`.
    let done = connection
        .prepare(&late)
        .and_then(|mut late| late.exists([]))
        .and_then(|wrong| if wrong { connection.execute(&raise, []) } else { Ok(0) });
    match done {
        Ok(0) => {}
        Ok(events) => {
            tracing::info!(events, "the outbox's clock had begun anew; these events are kept as if they were younger")
        }
        Err(error) => {
            tracing::warn!(%error, "the ages of stored events cannot be put in order; some may be kept for too long")
        }
    }
}

pub(super) fn write_mark(connection: &Connection, mark: &Mark) -> Result<(), rusqlite::Error> {
    let text = serde_json::to_string(mark).unwrap_or_default();
    let sql = "INSERT INTO clock (one, mark) VALUES (1, ?1) ON CONFLICT (one) DO UPDATE SET mark = excluded.mark";
    connection.prepare_cached(sql)?.execute([text]).map(drop)
}

pub(super) fn highest(connection: &Connection) -> Result<(i64, i64), rusqlite::Error> {
    let mut select = connection.prepare_cached(
        "SELECT ifnull(max(seq) FILTER (WHERE name = 'events'), 0), ifnull(max(seq) FILTER (WHERE name = 'deliveries'), 0)
         FROM sqlite_sequence",
    )?;
    select.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Numbers go on above `highest`.
pub(super) fn keep_counting(connection: &Connection, highest: (i64, i64)) -> Result<(), rusqlite::Error> {
    for (table, number) in [("events", highest.0), ("deliveries", highest.1)] {
        connection.execute("DELETE FROM sqlite_sequence WHERE name = ?1 AND seq < ?2", params![table, number])?;
        connection.execute(
            "INSERT INTO sqlite_sequence (name, seq)
             SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = ?1)",
            params![table, number],
        )?;
    }
    Ok(())
}

/// Enters the sinks of `routes`; gives their row ids, in order. A sink that has gone and whose name another has now is called otherwise:
/// who replays to a name means the sink of the configuration.
pub(super) fn enter(connection: &Connection, routes: &[Route]) -> Result<Vec<i64>, rusqlite::Error> {
    // Nothing is written where nothing has changed: a disk that is full must not keep the daemon from starting.
    let mut known = connection.prepare("SELECT id FROM sinks WHERE key = ?1 AND name = ?2")?;
    let mut insert = connection.prepare(
        "INSERT INTO sinks (key, name) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET name = excluded.name RETURNING id",
    )?;
    let mut namesake = connection.prepare("SELECT id FROM sinks WHERE key <> ?1 AND name = ?2")?;
    let mut rename = connection.prepare("UPDATE sinks SET name = name || ' (before)' WHERE key <> ?1 AND name = ?2")?;
    let mut moves =
        connection.prepare("SELECT 1 FROM sinks WHERE key = ?1 AND NOT EXISTS (SELECT 1 FROM sinks WHERE key = ?2)")?;
    let mut move_to = connection.prepare("UPDATE sinks SET key = ?2 WHERE key = ?1")?;
    let mut one = |route: &Route| {
        let names = [&route.key, &route.name];
        if let Some(former) = &route.former_key
            && moves.exists([former, &route.key])?
        {
            move_to.execute([former, &route.key])?;
        }
        if namesake.exists(names)? {
            rename.execute(names)?;
        }
        match known.query_row(names, |row| row.get(0)).optional()? {
            Some(id) => Ok(id),
            None => insert.query_row(names, |row| row.get(0)),
        }
    };
    routes.iter().map(&mut one).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{EventStore, Queued};
    use crate::event::EventKind;
    use crate::outbox::age::tests::Machine;
    use crate::outbox::delivery::tests::event;
    use crate::outbox::route::{Filter, Route};

    #[test]
    fn what_waits_under_the_key_of_an_earlier_version_goes_along_and_its_name_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let open = |key: &str, former: Option<&str>| {
            let former_key = former.map(str::to_owned);
            let route =
                Route { name: "webhook-0".into(), key: key.into(), former_key, only: Filter::default(), rate: None };
            EventStore::open(Some(&folder.path().join("outbox.db")), &[route], Box::new(Machine::default())).unwrap()
        };
        let mut store = open("webhook https://h/token", None);
        store.commit(&[Queued { event: Arc::new(event("gate", "car", EventKind::Start)), to: vec![0] }], &[]).unwrap();
        drop(store);
        // Also the second time, when there is nothing left to be moved.
        for _ in 0..2 {
            let store = open("webhook https://h/?digest", Some("webhook https://h/token"));
            assert_eq!(store.pending(0, 0, 9, |_| false).unwrap().len(), 1);
            let mut rows = store.connection.prepare("SELECT key || ' ' || name FROM sinks").unwrap();
            let rows: Vec<String> = rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
            assert_eq!(rows, ["webhook https://h/?digest webhook-0"]);
        }
    }
}
