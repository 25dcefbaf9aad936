//! The outbox as history, for people: looked at and queued again beside a daemon that writes. Runs in the process of `vtagd events`.
//!
//! Reads a page at a time, each its own short transaction, so that the daemon's log can be folded back meanwhile. A replay writes a chunk
//! at a time for the same reason; the daemon notices within half a second.

use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, TransactionBehavior, params_from_iter};
use serde::Serialize;

use super::event_pages::{self, EventPage, EventPosition, PageSize};
use super::tables::{self, OutboxError};

/// Rows read or written in one transaction.
const PAGE: usize = 500;

/// Which events; what is empty or `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// CloudEvents ids.
    pub ids: Vec<String>,
    /// Time of the sample, Unix milliseconds: from this on …
    pub since: Option<i64>,
    /// … and before this.
    pub until: Option<i64>,
    pub streams: Vec<String>,
    /// Of a stream with regions.
    pub regions: Vec<String>,
    pub sets: Vec<String>,
    pub labels: Vec<String>,
    /// `start`, `update`, `end`.
    pub types: Vec<String>,
    /// Deliveries of this sink only.
    pub sink: Option<String>,
    /// Events that some sink, or `sink`, still has to get (pending) or will never get (dead).
    pub state: Option<State>,
}

/// What has become of a delivery that is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Pending,
    Dead,
}

/// A delivery that is not made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Open {
    pub sink: String,
    pub state: State,
    pub attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An event as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub seq: u64,
    pub id: String,
    /// The CloudEvents JSON on one line.
    pub body: String,
    /// Deliveries that are not made; of all sinks, whatever the query.
    pub open: Vec<Open>,
}

/// The outbox, open for looking.
pub struct OutboxReader {
    connection: Connection,
    /// Its schema is today's.
    current: bool,
    path: PathBuf,
}

/// Of what a client has missed, so many bytes of events are told, …
const MAX_REPLAY_BYTES: usize = 4 * 1024 * 1024;
/// … and so many events are counted.
const MAX_COUNTED: u64 = 20_000;

/// Events, and how many more there were; `None`: more than are counted.
type MissedEvents = (Vec<Row>, Option<u64>);

impl OutboxReader {
    /// Opens the outbox in `path`, whether a daemon runs or not.
    ///
    /// # Errors
    /// When there is none, it cannot be read, or is newer than this program.
    pub fn open(path: &Path) -> Result<Self, OutboxError> {
        let (connection, version) = tables::open_to_read(path)?;
        Ok(Self { connection, current: version == tables::STEPS.len(), path: path.to_owned() })
    }

    /// Names of all sinks that the outbox knows.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn sinks(&self) -> Result<Vec<String>, OutboxError> {
        let read = || -> Result<Vec<String>, rusqlite::Error> {
            let mut select = self.connection.prepare("SELECT name FROM sinks ORDER BY id")?;
            select.query_map([], |row| row.get(0))?.collect()
        };
        read().map_err(|error| self.failed(error))
    }

    /// Deliveries that are not made: name of the sink, state, number.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open_deliveries(&self) -> Result<Vec<(String, State, usize)>, OutboxError> {
        let read = || -> Result<Vec<(String, State, usize)>, rusqlite::Error> {
            let mut select = self.connection.prepare(
                "SELECT s.name, d.state, count(*) FROM deliveries d JOIN sinks s ON s.id = d.sink GROUP BY s.id, d.state",
            )?;
            let one = |row: &rusqlite::Row<'_>| {
                let state = if row.get::<_, i64>(1)? == 0 { State::Pending } else { State::Dead };
                Ok((row.get(0)?, state, row.get(2)?))
            };
            select.query_map([], one)?.collect()
        };
        read().map_err(|error| self.failed(error))
    }

    /// The newest event's number; 0 if there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn newest(&self) -> Result<u64, OutboxError> {
        let newest = self.connection.query_row("SELECT ifnull(max(seq), 0) FROM events", [], |row| row.get(0));
        newest.map_err(|error| self.failed(error))
    }

    /// A page of the events of `query`, newest first, of those older than `before`; who has not got them yet is left out.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn newest_first(
        &self,
        query: &Query,
        before: Option<EventPosition>,
        size: PageSize,
    ) -> Result<EventPage, OutboxError> {
        let scan = self.current.then_some(event_pages::MAX_SCAN);
        event_pages::page(&self.connection, scan, query, before, size).map_err(|error| self.failed(error))
    }

    /// The newest `limit` events of `query`, oldest first.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn latest(&self, query: &Query, limit: usize) -> Result<Vec<Row>, OutboxError> {
        let (mut rows, mut before) = (Vec::new(), None);
        loop {
            let size = PageSize { events: limit.saturating_sub(rows.len()), bytes: usize::MAX };
            let page = self.newest_first(query, before, size)?;
            rows.extend(page.rows);
            before = page.next;
            if before.is_none() || rows.len() >= limit {
                break;
            }
        }
        self.tell_open(&mut rows).map_err(|error| self.failed(error))?;
        rows.reverse();
        Ok(rows)
    }

    /// A page of the events of `query` with numbers above `after`, oldest first; empty when there are no more.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn page(&self, query: &Query, after: u64) -> Result<Vec<Row>, OutboxError> {
        let (condition, values) = conditions(query, after);
        let sql = format!("SELECT seq, id, body FROM events e WHERE {condition} ORDER BY seq LIMIT {PAGE}");
        self.rows(&sql, values).map_err(|error| self.failed(error))
    }

    /// What came after the event `id`: the newest `limit` events of `query`, [`MAX_REPLAY_BYTES`] at most, oldest first, and how many before
    /// them were left out; `None` for more than are worth counting. `None` altogether where there is no such event.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn after_event(&self, query: &Query, id: &str, limit: usize) -> Result<Option<MissedEvents>, OutboxError> {
        let known = Query { ids: vec![id.to_owned()], ..Query::default() };
        let Some(known) = self.latest(&known, 1)?.pop() else { return Ok(None) };
        // Looking goes from row to row; what is further back than that is not counted.
        let looked = self.newest()?.saturating_sub(event_pages::MAX_SCAN as u64).max(known.seq);
        let (condition, values) = conditions(query, looked);
        let sql = format!("SELECT count(*) FROM (SELECT 1 FROM events e WHERE {condition} LIMIT {})", MAX_COUNTED + 1);
        let count = || self.connection.query_row(&sql, params_from_iter(values.clone()), |row| row.get::<_, u64>(0));
        let all = count().map_err(|error| self.failed(error))?;
        let sql = format!("SELECT seq, id, body FROM events e WHERE {condition} ORDER BY seq DESC LIMIT {limit}");
        let mut rows = self.rows(&sql, values).map_err(|error| self.failed(error))?;
        let mut room = MAX_REPLAY_BYTES;
        let fits =
            rows.iter().take_while(|row| room.checked_sub(row.body.len()).map(|left| room = left).is_some()).count();
        rows.truncate(fits);
        rows.reverse();
        let left_out = (all <= MAX_COUNTED && looked == known.seq).then(|| all.saturating_sub(rows.len() as u64));
        Ok(Some((rows, left_out)))
    }

    fn rows(&self, sql: &str, values: Vec<Value>) -> Result<Vec<Row>, rusqlite::Error> {
        let transaction = self.connection.unchecked_transaction()?;
        let mut rows: Vec<Row> = transaction
            .prepare_cached(sql)?
            .query_map(params_from_iter(values), |row| {
                Ok(Row { seq: row.get(0)?, id: row.get(1)?, body: row.get(2)?, open: Vec::new() })
            })?
            .collect::<Result<_, _>>()?;
        self.tell_open(&mut rows)?;
        Ok(rows)
    }

    /// Says of `rows` which deliveries are not made.
    fn tell_open(&self, rows: &mut [Row]) -> Result<(), rusqlite::Error> {
        let mut open = self.connection.prepare_cached(
            "SELECT s.name, d.state, d.attempts, d.error FROM deliveries d JOIN sinks s ON s.id = d.sink
             WHERE d.seq = ?1 ORDER BY d.position",
        )?;
        for row in rows {
            let one = |row: &rusqlite::Row<'_>| {
                let state = if row.get::<_, i64>(1)? == 0 { State::Pending } else { State::Dead };
                Ok(Open { sink: row.get(0)?, state, attempts: row.get(2)?, error: row.get(3)? })
            };
            row.open = open.query_map([row.seq], one)?.collect::<Result<_, _>>()?;
        }
        Ok(())
    }

    fn failed(&self, error: rusqlite::Error) -> OutboxError {
        OutboxError::Sql { path: self.path.clone(), error }
    }
}

/// So many places for values.
pub(super) fn placeholders(number: usize) -> String {
    vec!["?"; number].join(", ")
}

/// Conditions on `events e` with their values. The plus keeps SQLite from an index of names, which is in no order that is asked for here: it
/// would read and sort all of a stream's events for a page of them.
pub(super) fn conditions(query: &Query, after: u64) -> (String, Vec<Value>) {
    let mut conditions = vec!["e.seq > ?".to_owned()];
    let mut values = vec![Value::from(i64::try_from(after).unwrap_or(i64::MAX))];
    let lists = [
        ("e.id", &query.ids),
        ("+e.stream", &query.streams),
        ("+e.label_set", &query.sets),
        ("+e.label", &query.labels),
        ("+e.kind", &query.types),
    ];
    for (column, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        conditions.push(format!("{column} IN ({})", placeholders(list.len())));
        values.extend(list.iter().map(|value| Value::from(value.clone())));
    }
    if !query.regions.is_empty() {
        // Out of the event: a file of an older schema has no column for it.
        let places = placeholders(query.regions.len());
        conditions.push(format!("iif(json_valid(e.body), e.body ->> '$.data.region', NULL) IN ({places})"));
        values.extend(query.regions.iter().map(|value| Value::from(value.clone())));
    }
    for (operator, time) in [(">=", query.since), ("<", query.until)] {
        if let Some(time) = time {
            conditions.push(format!("e.time {operator} ?"));
            values.push(Value::from(time));
        }
    }
    if query.state.is_some() || query.sink.is_some() {
        let mut delivery = "SELECT 1 FROM deliveries d JOIN sinks s ON s.id = d.sink WHERE d.seq = e.seq".to_owned();
        if let Some(state) = query.state {
            delivery += if state == State::Pending { " AND d.state = 0" } else { " AND d.state = 1" };
        }
        if let Some(sink) = &query.sink {
            delivery += " AND s.name = ?";
            values.push(Value::from(sink.clone()));
        }
        conditions.push(format!("EXISTS ({delivery})"));
    }
    (conditions.join(" AND "), values)
}

/// Queues the events of `query` for `sink` once more, oldest first, behind what waits for it already; an event that waits already is
/// left as it is. With `dead_only`, its dead letters only. Returns how many. The daemon may run or not.
///
/// # Errors
/// When there is no such sink, or the outbox cannot be written.
pub fn replay(path: &Path, query: &Query, sink: &str, dead_only: bool) -> Result<u64, OutboxError> {
    // Tells what is wrong with the file better than a connection that writes.
    drop(tables::open_to_read(path)?);
    let failed = |error| OutboxError::Sql { path: path.to_owned(), error };
    let mut connection = Connection::open(path).map_err(failed)?;
    tables::prepare(&connection).map_err(failed)?;
    let query =
        Query { sink: dead_only.then(|| sink.to_owned()), state: dead_only.then_some(State::Dead), ..query.clone() };
    let known: Option<i64> = {
        use rusqlite::OptionalExtension;
        let found = connection.query_row("SELECT id FROM sinks WHERE name = ?1", [sink], |row| row.get(0));
        found.optional().map_err(failed)?
    };
    let Some(id) = known else {
        let why = format!("it knows no sink {sink}; `vtagd events sinks` lists them");
        return Err(OutboxError::Absent { path: path.to_owned(), why });
    };
    let (mut after, mut queued) = (0, 0);
    loop {
        let chunk = chunk(&mut connection, &query, id, after).map_err(failed)?;
        let Some((last, count)) = chunk else { return Ok(queued) };
        (after, queued) = (last, queued + count);
    }
}

/// Queues one page above `after`; gives its last number and how many were queued.
fn chunk(
    connection: &mut Connection,
    query: &Query,
    sink: i64,
    after: u64,
) -> Result<Option<(u64, u64)>, rusqlite::Error> {
    let (condition, values) = conditions(query, after);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let seqs: Vec<u64> = transaction
        .prepare_cached(&format!("SELECT seq FROM events e WHERE {condition} ORDER BY seq LIMIT {PAGE}"))?
        .query_map(params_from_iter(values), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut queued = 0;
    for seq in &seqs {
        let dead = transaction
            .prepare_cached("DELETE FROM deliveries WHERE seq = ?1 AND sink = ?2 AND state = 1")?
            .execute(rusqlite::params![seq, sink])?;
        let added = transaction
            .prepare_cached(
                "INSERT INTO deliveries (sink, seq, state, attempts, bytes)
                 SELECT ?2, seq, 0, 0, length(CAST(body AS BLOB)) FROM events WHERE seq = ?1
                 AND NOT EXISTS (SELECT 1 FROM deliveries WHERE seq = ?1 AND sink = ?2)",
            )?
            .execute(rusqlite::params![seq, sink])?;
        transaction
            .prepare_cached("UPDATE events SET waiting = waiting + ?2 WHERE seq = ?1")?
            .execute(rusqlite::params![seq, added as i64 - dead as i64])?;
        queued += added as u64;
    }
    transaction.commit()?;
    Ok(seqs.last().map(|last| (*last, queued)))
}
