//! Pages of stored events, newest first, for people and programs. In: a [`Query`], where the page before has ended, and how large a page may be.
//! Out: an [`EventPage`]. One read transaction a page, on the caller's thread and connection; the daemon goes on writing meanwhile.
//!
//! Newest is by time of the sample, and by number where that is the same: a place in this order never moves, so that whoever pages with
//! [`EventPosition`]s sees nothing twice and misses nothing, whatever is stored or thrown away meanwhile.
//!
//! A page costs the same wherever it begins. What is asked for by name is merged from one range of an index for each stream, set, label and type,
//! and each region where that is asked for,
//! that there is; `states` knows them all. Where those are more than [`MAX_RANGES`], events are looked at one by one, [`MAX_SCAN`] a page: such
//! a page may hold fewer events than there is room for, or none, and still not be the last.

use std::collections::{BinaryHeap, VecDeque};

use rusqlite::types::Value;
use rusqlite::{CachedStatement, Connection, params, params_from_iter};

use super::history_reader::{Query, Row, conditions, placeholders};
use crate::event::EventKind;

/// Ranges that are merged at most: a seek of a few µs each.
const MAX_RANGES: usize = 2048;
/// Events that are looked at one by one for one page.
const MAX_SCAN: usize = 4096;

/// A place in the order of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventPosition {
    /// Of the sample, Unix milliseconds.
    pub time: i64,
    pub seq: u64,
}

/// What a cursor begins with, and its hexadecimal digits.
pub const CURSOR: (char, usize) = ('e', 32);

impl EventPosition {
    /// Before it is everything.
    const END: Self = Self { time: i64::MAX, seq: i64::MAX as u64 };

    /// For others, who need not know what it means.
    pub fn cursor(self) -> String {
        format!("{}{:016x}{:016x}", CURSOR.0, self.time, self.seq)
    }

    /// `None`: this is none of ours.
    pub fn of_cursor(cursor: &str) -> Option<Self> {
        let digits = cursor.strip_prefix(CURSOR.0).filter(|digits| digits.len() == CURSOR.1 && digits.is_ascii())?;
        let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
        let (time, seq) = digits.split_at_checked(16)?;
        Some(Self { time: number(time)?.cast_signed(), seq: number(seq)? })
    }

    fn of_row(row: &rusqlite::Row<'_>) -> Result<Self, rusqlite::Error> {
        Ok(Self { time: row.get(0)?, seq: row.get(1)? })
    }

    fn sql_seq(self) -> i64 {
        i64::try_from(self.seq).unwrap_or(i64::MAX)
    }
}

/// How large a page may be.
#[derive(Clone, Copy, Debug)]
pub struct PageSize {
    pub events: usize,
    /// Of their JSON; one event is given however large it is.
    pub bytes: usize,
}

/// Some events, newest first.
#[derive(Debug, Default)]
pub struct EventPage {
    pub rows: Vec<Row>,
    /// Where the next page begins; `None`: there is none.
    pub next: Option<EventPosition>,
}

/// Where events are, and whether there may be more behind them.
struct Found {
    positions: Vec<EventPosition>,
    /// Looking ended here, before there were enough.
    cut: Option<EventPosition>,
}

/// A page of `query` of what is older than `before`; `indexed`: the file has the indices of today's schema.
///
/// # Errors
/// As SQLite has it.
pub(super) fn page(
    connection: &Connection,
    indexed: bool,
    query: &Query,
    before: Option<EventPosition>,
    size: PageSize,
) -> Result<EventPage, rusqlite::Error> {
    let before = before.unwrap_or(EventPosition::END);
    // `until` is a place too: numbers begin with 1.
    let before = query.until.map_or(before, |time| before.min(EventPosition { time, seq: 0 }));
    let transaction = connection.unchecked_transaction()?;
    let wanted = size.events.saturating_add(1);
    let lists = [&query.streams, &query.regions, &query.sets, &query.labels, &query.types];
    let by_name = lists.iter().any(|list| !list.is_empty());
    let plain = query.ids.is_empty() && query.sink.is_none() && query.state.is_none();
    let found = if by_name && plain && indexed {
        let ranges = ranges(&transaction, query)?;
        if ranges.len() > MAX_RANGES {
            scan(&transaction, query, before, wanted)?
        } else {
            Found { positions: merge(&transaction, query, ranges, before, wanted)?, cut: None }
        }
    } else {
        Found { positions: select(&transaction, query, before, wanted)?, cut: None }
    };
    let mut body = transaction.prepare_cached("SELECT id, body FROM events WHERE seq = ?1")?;
    let (mut page, mut bytes) = (EventPage { rows: Vec::new(), next: found.cut }, 0);
    let mut last = None;
    for position in found.positions {
        let full = page.rows.len() >= size.events || bytes >= size.bytes;
        if full {
            page.next = last;
            break;
        }
        let row = body.query_row([position.sql_seq()], |row| {
            Ok(Row { seq: position.seq, id: row.get(0)?, body: row.get(1)?, open: Vec::new() })
        })?;
        bytes += row.body.len();
        page.rows.push(row);
        last = Some(position);
    }
    Ok(page)
}

/// Any query; what it does not find it looks for to the end of the file.
fn select(
    connection: &Connection,
    query: &Query,
    before: EventPosition,
    wanted: usize,
) -> Result<Vec<EventPosition>, rusqlite::Error> {
    let (condition, mut values) = conditions(query, 0);
    values.extend([Value::from(before.time), Value::from(before.sql_seq())]);
    let sql = format!(
        "SELECT time, seq FROM events e WHERE {condition} AND (time, seq) < (?, ?) ORDER BY time DESC, seq DESC LIMIT {wanted}"
    );
    connection.prepare_cached(&sql)?.query_map(params_from_iter(values), EventPosition::of_row)?.collect()
}

/// Events one by one.
fn scan(
    connection: &Connection,
    query: &Query,
    before: EventPosition,
    wanted: usize,
) -> Result<Found, rusqlite::Error> {
    let mut select = connection.prepare_cached(
        "SELECT time, seq, stream, region, label_set, label, kind FROM events WHERE (time, seq) < (?1, ?2) AND time >= ?3
         ORDER BY time DESC, seq DESC LIMIT ?4",
    )?;
    let since = query.since.unwrap_or(i64::MIN);
    let mut rows = select.query(params![before.time, before.sql_seq(), since, MAX_SCAN])?;
    let lists = [&query.streams, &query.regions, &query.sets, &query.labels, &query.types];
    let mut found = Found { positions: Vec::new(), cut: None };
    let mut seen = 0;
    while let Some(row) = rows.next()? {
        let position = EventPosition::of_row(row)?;
        let mut wants = true;
        for (column, list) in (2..).zip(lists) {
            let name = row.get_ref(column)?.as_str()?;
            wants &= list.is_empty() || list.iter().any(|wanted| wanted == name);
        }
        if wants {
            found.positions.push(position);
            if found.positions.len() >= wanted {
                return Ok(found);
            }
        }
        seen += 1;
        found.cut = (seen == MAX_SCAN).then_some(position);
    }
    Ok(found)
}

/// Stream, set, label, region where that is asked for, type: what an index has in order of time.
type RangeKey = (String, String, String, Option<String>, String);

/// Every one that `query` asks for, or one more than [`MAX_RANGES`].
fn ranges(connection: &Connection, query: &Query) -> Result<Vec<RangeKey>, rusqlite::Error> {
    let lists =
        [("stream", &query.streams), ("region", &query.regions), ("label_set", &query.sets), ("label", &query.labels)];
    let lists = lists.into_iter().filter(|(_, list)| !list.is_empty());
    let (mut condition, mut values) = ("1".to_owned(), Vec::new());
    for (column, list) in lists {
        condition += &format!(" AND {column} IN ({})", placeholders(list.len()));
        values.extend(list.iter().cloned());
    }
    let region = if query.regions.is_empty() { "NULL" } else { "region" };
    let sql = format!(
        "SELECT DISTINCT stream, label_set, label, {region} FROM states WHERE {condition} LIMIT {}",
        MAX_RANGES + 1
    );
    let mut select = connection.prepare_cached(&sql)?;
    let mut rows = select.query(params_from_iter(values))?;
    let all = [EventKind::Start, EventKind::Update, EventKind::End].map(|kind| kind.as_str().to_owned());
    let mut kinds = if query.types.is_empty() { all.to_vec() } else { query.types.clone() };
    kinds.sort_unstable();
    kinds.dedup();
    let mut ranges = Vec::new();
    while let Some(row) = rows.next()? {
        for kind in &kinds {
            ranges.push((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, kind.clone()));
        }
    }
    Ok(ranges)
}

/// The newest `wanted` positions of all `ranges`.
fn merge(
    connection: &Connection,
    query: &Query,
    ranges: Vec<RangeKey>,
    before: EventPosition,
    wanted: usize,
) -> Result<Vec<EventPosition>, rusqlite::Error> {
    // The index of regions has no others: that has to stand there word for word.
    let (index, of_region) = match query.regions.is_empty() {
        true => ("events_by_name", "?9 IS NULL"),
        false => ("events_by_region", "region = ?9 AND region <> ''"),
    };
    let mut select = connection.prepare_cached(&format!(
        "SELECT time, seq FROM events INDEXED BY {index} WHERE stream = ?1 AND label_set = ?2 AND label = ?3 AND kind = ?4
         AND (time, seq) < (?5, ?6) AND time >= ?7 AND {of_region} ORDER BY time DESC, seq DESC LIMIT ?8"
    ))?;
    let since = query.since.unwrap_or(i64::MIN);
    // One range alone is read at once, of many most have little to give.
    let chunk = (2 * wanted / ranges.len().max(1)).clamp(1, wanted);
    let read = |select: &mut CachedStatement<'_>, key: &RangeKey, before: EventPosition| {
        let (stream, set, label, region, kind) = key;
        let values = params![stream, set, label, kind, before.time, before.sql_seq(), since, chunk, region];
        select.query_map(values, EventPosition::of_row)?.collect::<Result<VecDeque<_>, _>>()
    };
    // What was read of each range and is not taken yet; the newest of each is in the heap.
    let mut waiting = Vec::with_capacity(ranges.len());
    let mut newest = BinaryHeap::with_capacity(ranges.len());
    for (index, key) in ranges.iter().enumerate() {
        let mut read = read(&mut select, key, before)?;
        newest.extend(read.pop_front().map(|position| (position, index)));
        waiting.push(read);
    }
    let mut positions = Vec::new();
    while let Some((position, index)) = newest.pop() {
        positions.push(position);
        if positions.len() >= wanted {
            break;
        }
        let waiting = &mut waiting[index];
        if waiting.is_empty() {
            *waiting = read(&mut select, &ranges[index], position)?;
        }
        newest.extend(waiting.pop_front().map(|position| (position, index)));
    }
    Ok(positions)
}

#[cfg(test)]
mod tests;
