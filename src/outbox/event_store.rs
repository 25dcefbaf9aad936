//! What is done to the outbox's file, each change one transaction. Lives on the outbox's thread; waits for the disk.

mod appending;
mod replacement;
mod sink_registry;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use uuid::Uuid;

use super::age::{AgeClock, Uptime};
use super::route::Route;
use super::tables::{self, Opened, OutboxError, STEPS};
use super::{identity, levels, retained, unheard};
use crate::event::{Event, EventKind};
use crate::outbox::delivery::published_record::{KnownRecord, RecordUpdate};
use crate::outbox::delivery::{Delivery, DeliveryOutcome, Stored};
use appending::append;
use sink_registry::{enter, highest, order_ages, read_mark, write_mark};

/// The file, open for writing.
pub struct EventStore {
    connection: Connection,
    path: Option<PathBuf>,
    clock: AgeClock,
    /// Row ids of the sinks, in the order of the routes.
    sinks: Vec<i64>,
    /// The highest `seq` and `position` that were given.
    highest: (i64, i64),
    /// Which outbox this is; `None`: one in memory.
    identity: Option<Uuid>,
    /// The damaged file that there was no room yet to carry over.
    salvage: Option<String>,
    /// The file could be neither replaced nor kept open: `connection` is none.
    lost: bool,
    /// Held as long as the store is: one daemon a file.
    _lock: Option<File>,
}

/// An event to be stored, and the sinks it is for.
#[derive(Debug)]
pub struct Queued {
    pub event: Arc<Event>,
    /// Indices of routes.
    pub to: Vec<u16>,
}

/// What one sink still has to get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    pub events: u64,
    pub bytes: u64,
    pub dead: u64,
}

/// What was thrown away.
#[derive(Debug, Default)]
pub struct Removed {
    pub events: usize,
    /// Deliveries that were still to be made, and dead letters; `None`: of sinks that the configuration does not have any more.
    pub waited_for: Vec<(Option<usize>, Pending)>,
}

/// What a settlement changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    pub sink: usize,
    pub bytes: u64,
    /// A dead letter now, not delivered.
    pub dead: bool,
}

/// A stored event with the deliveries made of it: index of the sink, and position.
pub type Appended = (Arc<Stored>, Vec<(u16, u64)>);

/// A delivery, or the position of one whose event cannot be read, and why.
pub type Loaded = Result<Delivery, (u64, String)>;

impl EventStore {
    /// Opens the file of `path` (`None`: memory), recovers it if it is damaged, and enters the sinks of `routes`.
    ///
    /// # Errors
    /// When it cannot be opened, is another daemon's, or newer than this program.
    pub fn open(path: Option<&Path>, routes: &[Route], uptime: Box<dyn Uptime>) -> Result<Self, OutboxError> {
        let lock = path.map(tables::lock).transpose()?;
        path.map(replacement::finish).transpose()?;
        let mut connection = match tables::open(path, STEPS) {
            Ok(Opened::Ready(connection)) => connection,
            Ok(Opened::Newer(found)) => {
                let path = path.unwrap_or_else(|| Path::new("")).to_owned();
                return Err(OutboxError::Newer { path, found, known: STEPS.len() });
            }
            Err(error) => match path {
                Some(path) if tables::is_damage(&error) => replacement::replace(path, &error)?,
                _ => return Err(OutboxError::of_open(path.unwrap_or_else(|| Path::new(":memory:")), &error)),
            },
        };
        let broken =
            |error: rusqlite::Error| OutboxError::of_open(path.unwrap_or_else(|| Path::new(":memory:")), &error);
        let salvage = path.map_or(Ok(None), |path| replacement::carry_over(path, &mut connection)).map_err(broken)?;
        // Names of labels that have no event any more.
        connection
            .execute_batch("DELETE FROM names WHERE id NOT IN (SELECT name FROM event_order)")
            .or_else(tolerated)
            .map_err(broken)?;
        let mark = read_mark(&connection).map_err(broken)?;
        order_ages(&connection);
        let clock = AgeClock::resume(uptime, mark);
        let sinks = enter(&connection, routes).map_err(broken)?;
        let highest = highest(&connection).map_err(broken)?;
        let identity = lock.as_ref().map(|lock| identity::of(&connection, lock)).transpose().map_err(broken)?;
        let path = path.map(Path::to_owned);
        Ok(Self { connection, path, clock, sinks, highest, identity, salvage, lost: false, _lock: lock })
    }

    /// Which outbox this is, and what was published from here to `place` and stays there.
    ///
    /// # Errors
    /// As SQLite has it.
    pub fn known(&self, place: &str) -> Result<KnownRecord, rusqlite::Error> {
        Ok(KnownRecord {
            identity: self.identity,
            retained: retained::read(&self.connection, place)?,
            levels: levels::read(&self.connection, place)?,
            unheard: unheard::read(&self.connection, place)?,
        })
    }

    /// Writes down what will be published to `place` and what is known of it.
    ///
    /// # Errors
    /// As SQLite has it; then nothing has changed.
    pub fn record(&mut self, place: &str, update: &RecordUpdate) -> Result<(), rusqlite::Error> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        levels::write(&transaction, place, &update.levels)?;
        retained::write(&transaction, place, &update.changes)?;
        if let Some(unheard) = &update.unheard {
            unheard::write(&transaction, place, unheard)?;
        }
        transaction.commit()
    }

    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Milliseconds of the outbox's own clock.
    pub fn age(&mut self) -> u64 {
        self.clock.now().age
    }

    /// Stores `batch` and settles `settled` (sink, position, outcome), both or neither.
    ///
    /// # Errors
    /// As SQLite has it; then nothing has changed.
    pub fn commit(
        &mut self,
        batch: &[Queued],
        settled: &[(usize, u64, DeliveryOutcome)],
    ) -> Result<(Vec<Appended>, Vec<Settled>), rusqlite::Error> {
        let mark = self.clock.now();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        write_mark(&transaction, &mark)?;
        let mut appended = Vec::with_capacity(batch.len());
        for queued in batch {
            appended.extend(append(&transaction, queued, mark.age, &self.sinks)?);
        }
        let mut changes = Vec::new();
        for (sink, position, outcome) in settled {
            changes.extend(settle(&transaction, *sink, *position, outcome)?);
        }
        // Before the commit: once that is done nothing may fail, or the caller would take it for not done.
        let highest = highest(&transaction)?;
        transaction.commit()?;
        self.highest = highest;
        Ok((appended, changes))
    }

    /// Deliveries that `sink` has not had, oldest first, from positions above `after`, at most `limit`; `skip` leaves some out.
    ///
    /// # Errors
    /// As SQLite has it.
    pub fn pending(
        &self,
        sink: usize,
        after: u64,
        limit: usize,
        skip: impl Fn(u64) -> bool,
    ) -> Result<Vec<Loaded>, rusqlite::Error> {
        let mut select = self.connection.prepare_cached(
            "SELECT d.position, d.attempts, e.seq, e.body FROM deliveries d JOIN events e ON e.seq = d.seq
             WHERE d.sink = ?1 AND d.state = 0 AND d.position > ?2 ORDER BY d.position",
        )?;
        let mut rows = select.query(params![self.sinks.get(sink), after])?;
        let mut found = Vec::new();
        while found.len() < limit
            && let Some(row) = rows.next()?
        {
            let position: u64 = row.get(0)?;
            if skip(position) {
                continue;
            }
            let (attempts, seq, body): (u32, u64, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
            found.push(match stored(seq, body) {
                Ok(stored) => Ok(Delivery { position, attempts, stored }),
                Err(why) => Err((position, why)),
            });
        }
        Ok(found)
    }

    /// What each sink still has to get.
    ///
    /// # Errors
    /// As SQLite has it.
    pub fn count_pending(&self) -> Result<Vec<Pending>, rusqlite::Error> {
        let mut select = self.connection.prepare_cached(
            "SELECT count(*) FILTER (WHERE state = 0), ifnull(sum(bytes) FILTER (WHERE state = 0), 0),
             count(*) FILTER (WHERE state = 1) FROM deliveries WHERE sink = ?1",
        )?;
        let one = |sink: &i64| {
            select.query_row([sink], |row| Ok(Pending { events: row.get(0)?, bytes: row.get(1)?, dead: row.get(2)? }))
        };
        self.sinks.iter().map(one).collect()
    }

    /// Age in milliseconds of the oldest event that `sink` still has to get.
    ///
    /// # Errors
    /// As SQLite has it.
    pub fn oldest_pending(&mut self, sink: usize) -> Result<Option<u64>, rusqlite::Error> {
        let now = self.age();
        let mut select = self.connection.prepare_cached(
            "SELECT e.age FROM deliveries d JOIN events e ON e.seq = d.seq
             WHERE d.sink = ?1 AND d.state = 0 ORDER BY d.position LIMIT 1",
        )?;
        let age: Option<u64> = select.query_row([self.sinks.get(sink)], |row| row.get(0)).optional()?;
        Ok(age.map(|age| now.saturating_sub(age)))
    }

    /// Everything that waits for `sink` becomes a dead letter. Returns how many.
    ///
    /// # Errors
    /// As SQLite has it.
    pub fn bury(&mut self, sink: usize, why: &str) -> Result<u64, rusqlite::Error> {
        let mut update = self
            .connection
            .prepare_cached("UPDATE deliveries SET state = 1, error = ?2 WHERE sink = ?1 AND state = 0")?;
        update.execute(params![self.sinks.get(sink), why]).map(|rows| rows as u64)
    }

    /// Throws away what is older than `max_age` milliseconds, a chunk of it. Costs the same however many events there are: those that were
    /// stored first are the oldest, as the outbox's clock never goes back and ages are put in order at the start.
    ///
    /// # Errors
    /// As SQLite has it.
    pub fn expire(&mut self, max_age: u64) -> Result<Removed, rusqlite::Error> {
        let Some(limit) = self.age().checked_sub(max_age) else { return Ok(Removed::default()) };
        let mut select = self.connection.prepare_cached("SELECT age FROM events ORDER BY seq LIMIT 1")?;
        let oldest: Option<u64> = select.query_row([], |row| row.get(0)).optional()?;
        drop(select);
        if oldest.is_none_or(|oldest| oldest >= limit) {
            return Ok(Removed::default());
        }
        self.remove("SELECT seq FROM (SELECT seq, age FROM events ORDER BY seq LIMIT 500) WHERE age < ?1", [limit])
    }

    /// Makes room: throws away the oldest events that nobody waits for; if there are none, the oldest of all.
    ///
    /// # Errors
    /// As SQLite has it.
    pub fn evict(&mut self) -> Result<Removed, rusqlite::Error> {
        let removed = self.forget_history()?;
        if removed.events > 0 {
            return Ok(removed);
        }
        self.remove("SELECT seq FROM events ORDER BY seq LIMIT 200", [])
    }

    /// Throws away the oldest events that nobody waits for.
    ///
    /// # Errors
    /// As SQLite has it.
    pub fn forget_history(&mut self) -> Result<Removed, rusqlite::Error> {
        self.remove("SELECT seq FROM events WHERE waiting = 0 ORDER BY seq LIMIT 500", [])
    }

    fn remove(&mut self, which: &str, values: impl rusqlite::Params) -> Result<Removed, rusqlite::Error> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut gone: HashMap<i64, Pending> = HashMap::new();
        let seqs: Vec<u64> =
            transaction.prepare_cached(which)?.query_map(values, |row| row.get(0))?.collect::<Result<_, _>>()?;
        for seq in &seqs {
            let mut delete =
                transaction.prepare_cached("DELETE FROM deliveries WHERE seq = ?1 RETURNING sink, state, bytes")?;
            let mut rows = delete.query([seq])?;
            while let Some(row) = rows.next()? {
                let (sink, state, bytes): (i64, i64, u64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let entry = gone.entry(sink).or_default();
                if state == 0 {
                    (entry.events, entry.bytes) = (entry.events + 1, entry.bytes + bytes);
                } else {
                    entry.dead += 1;
                }
            }
            drop(rows);
            transaction.prepare_cached("DELETE FROM events WHERE seq = ?1")?.execute([seq])?;
        }
        transaction.commit()?;
        let index = |id: i64| self.sinks.iter().position(|sink| *sink == id);
        let waited_for = gone.into_iter().map(|(sink, gone)| (index(sink), gone)).collect();
        Ok(Removed { events: seqs.len(), waited_for })
    }

    /// Bytes that are in use, and those of the file that are free.
    ///
    /// # Errors
    /// As SQLite has it.
    pub fn size(&self) -> Result<(u64, u64), rusqlite::Error> {
        let number = |name: &str| self.connection.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
        let (pages, free, page) = (number("page_count")?, number("freelist_count")?, number("page_size")?);
        Ok(((pages - free) * page, free * page))
    }

    /// Gives a part of the free space of the file back to the disk.
    ///
    /// # Errors
    /// As SQLite has it.
    pub fn shrink(&self) -> Result<(), rusqlite::Error> {
        // Each step gives one page back.
        let mut vacuum = self.connection.prepare_cached("PRAGMA incremental_vacuum(512)")?;
        let mut pages = vacuum.query([])?;
        while pages.next()?.is_some() {}
        Ok(())
    }

    /// Changes whenever another process has written the file.
    ///
    /// # Errors
    /// As SQLite has it.
    pub fn foreign_version(&self) -> Result<i64, rusqlite::Error> {
        self.connection.pragma_query_value(None, "data_version", |row| row.get(0))
    }

    /// The latest event of every label.
    ///
    /// # Errors
    /// As SQLite has it.
    pub fn states(&self) -> Result<Vec<Arc<Stored>>, rusqlite::Error> {
        let mut select = self.connection.prepare("SELECT seq, body FROM states ORDER BY seq")?;
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
        // A state that cannot be read is none.
        rows.filter_map(|row| row.map(|(seq, body)| stored(seq, body).ok()).transpose()).collect()
    }

    /// Forgets states that are older than `max_age` milliseconds: labels that nobody has any more. A tag that is open stays known, however
    /// long: after a kill somebody has to end it.
    ///
    /// # Errors
    /// As SQLite has it.
    pub fn forget_states(&mut self, max_age: u64) -> Result<(), rusqlite::Error> {
        let Some(limit) = self.age().checked_sub(max_age) else { return Ok(()) };
        let over = "DELETE FROM states WHERE age < ?1 AND (NOT json_valid(body) OR body ->> '$.type' = ?2)";
        self.connection.execute(over, params![limit, EventKind::End.cloud_type()]).map(drop)
    }

    /// Sinks that have pending events and are not in the configuration any more: name and number.
    ///
    /// # Errors
    /// As SQLite has it.
    pub fn orphans(&self) -> Result<Vec<(String, u64)>, rusqlite::Error> {
        let mut select = self.connection.prepare(
            "SELECT s.id, s.name, count(*) FROM deliveries d JOIN sinks s ON s.id = d.sink WHERE d.state = 0 GROUP BY s.id",
        )?;
        let rows = select.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?)))?;
        let mut orphans = Vec::new();
        for row in rows {
            let (id, name, events) = row?;
            if !self.sinks.contains(&id) {
                orphans.push((name, events));
            }
        }
        Ok(orphans)
    }

    /// Everything into the file itself, so that whoever copies it has it all.
    pub fn close(self) {
        // What stays in the log is read at the next start.
        let _ = self.connection.pragma_update_and_check(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()));
    }

    /// At most so many pages: a disk that is full, for tests.
    #[cfg(test)]
    pub fn limit_pages(&self, pages: Option<u64>) {
        let pages = pages.map_or_else(
            || "4294967294".to_owned(),
            |more| {
                let count: u64 = self.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
                (count + more).to_string()
            },
        );
        self.connection.execute_batch(&format!("PRAGMA max_page_count = {pages}")).unwrap();
    }
}

/// A disk without room is no reason not to start.
fn tolerated(error: rusqlite::Error) -> Result<(), rusqlite::Error> {
    if tables::is_full(&error) { Ok(()) } else { Err(error) }
}

fn stored(seq: u64, body: String) -> Result<Arc<Stored>, String> {
    match serde_json::from_str(&body) {
        Ok(event) => Ok(Arc::new(Stored { seq, event: Arc::new(event), body: body.into() })),
        Err(error) => Err(format!("the stored event cannot be read: {error}")),
    }
}

/// `None` if there is no such delivery any more.
fn settle(
    connection: &Connection,
    sink: usize,
    position: u64,
    outcome: &DeliveryOutcome,
) -> Result<Option<Settled>, rusqlite::Error> {
    match outcome {
        DeliveryOutcome::Failed { attempts, why } => {
            connection
                .prepare_cached("UPDATE deliveries SET attempts = ?2, error = ?3 WHERE position = ?1")?
                .execute(params![position, attempts, why])?;
            Ok(None)
        }
        DeliveryOutcome::Dead { why } => {
            let mut update = connection.prepare_cached(
                "UPDATE deliveries SET state = 1, error = ?2 WHERE position = ?1 AND state = 0 RETURNING bytes",
            )?;
            let bytes: Option<u64> = update.query_row(params![position, why], |row| row.get(0)).optional()?;
            Ok(bytes.map(|bytes| Settled { sink, bytes, dead: true }))
        }
        DeliveryOutcome::Delivered => {
            let mut delete = connection
                .prepare_cached("DELETE FROM deliveries WHERE position = ?1 AND state = 0 RETURNING seq, bytes")?;
            let row: Option<(i64, u64)> =
                delete.query_row([position], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            let Some((seq, bytes)) = row else { return Ok(None) };
            connection.prepare_cached("UPDATE events SET waiting = waiting - 1 WHERE seq = ?1")?.execute([seq])?;
            Ok(Some(Settled { sink, bytes, dead: false }))
        }
    }
}

#[cfg(test)]
mod tests;
