//! Pages of stored events, newest first, for people and programs. In: a [`Query`], where the page before has ended, and how large a page may be.
//! Out: an [`EventPage`]. One read transaction a page, on the caller's thread and connection; the daemon goes on writing meanwhile.
//!
//! Newest is by time of the sample, and by number where that is the same: a place in this order never moves, so that whoever pages with
//! [`EventPosition`]s sees nothing twice and misses nothing, whatever is stored or thrown away meanwhile.
//!
//! A page costs the same wherever it begins. What is asked for by name is looked for in [`MAX_SCAN`] events a page: such a page may hold fewer
//! events than there is room for, or none, and still not be the last. Two narrow tables make that quick, of which one is only appended to, so
//! that storing an event stays cheap: `names` numbers each stream, region, set, label and type, `event_order` has time, number and name of every event.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::history_reader::{Query, Row, conditions, placeholders};

/// Events that are looked at for one page: some 10 ms.
pub(super) const MAX_SCAN: usize = 200_000;

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

/// A page of `query` of what is older than `before`, for which at most `scan` events are looked at (`None`: the file is of an older schema).
///
/// # Errors
/// As SQLite has it.
pub(super) fn page(
    connection: &Connection,
    scan: Option<usize>,
    query: &Query,
    before: Option<EventPosition>,
    size: PageSize,
) -> Result<EventPage, rusqlite::Error> {
    let before = before.unwrap_or(EventPosition::END);
    // `until` is a place too: numbers begin with 1.
    let before = query.until.map_or(before, |time| before.min(EventPosition { time, seq: 0 }));
    let transaction = connection.unchecked_transaction()?;
    let wanted = size.events.saturating_add(1);
    let plain = query.ids.is_empty() && query.sink.is_none() && query.state.is_none();
    let found = match scan.filter(|_| plain) {
        Some(scan) => by_name(&transaction, query, before, wanted, scan)?,
        None => Found { positions: select(&transaction, scan.is_some(), query, before, wanted)?, cut: None },
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

/// Any query; what it does not find it looks for to the end of the file. `ordered`: the file has `event_order`.
fn select(
    connection: &Connection,
    ordered: bool,
    query: &Query,
    before: EventPosition,
    wanted: usize,
) -> Result<Vec<EventPosition>, rusqlite::Error> {
    let (condition, mut values) = conditions(query, 0);
    values.extend([Value::from(before.time), Value::from(before.sql_seq())]);
    let (from, of) = match (ordered, query.ids.is_empty()) {
        // Newest first, until there are enough.
        (true, true) => ("event_order o CROSS JOIN events e ON e.seq = o.seq", "o"),
        _ => ("events e", "e"),
    };
    values.push(Value::from(query.since.unwrap_or(i64::MIN)));
    let sql = format!(
        "SELECT {of}.time, {of}.seq FROM {from} WHERE {condition} AND ({of}.time, {of}.seq) < (?, ?) AND {of}.time >= ? ORDER BY {of}.time DESC, {of}.seq DESC LIMIT {wanted}"
    );
    connection.prepare_cached(&sql)?.query_map(params_from_iter(values), EventPosition::of_row)?.collect()
}

/// What is asked for by name and time alone.
fn by_name(
    connection: &Connection,
    query: &Query,
    before: EventPosition,
    wanted: usize,
    scan: usize,
) -> Result<Found, rusqlite::Error> {
    let (lists, names) = name_condition(query);
    let since = query.since.unwrap_or(i64::MIN);
    let mut values = vec![Value::from(before.time), Value::from(before.sql_seq()), Value::from(since)];
    let newest = "SELECT time, seq FROM event_order WHERE (time, seq) < (?, ?) AND time >= ?";
    let order = "ORDER BY time DESC, seq DESC";
    if lists.is_empty() {
        let sql = format!("{newest} {order} LIMIT {wanted}");
        let mut select = connection.prepare_cached(&sql)?;
        let positions = select.query_map(params_from_iter(values), EventPosition::of_row)?.collect::<Result<_, _>>()?;
        return Ok(Found { positions, cut: None });
    }
    let any = format!("SELECT 1 FROM names WHERE {lists}");
    if !connection.prepare_cached(&any)?.exists(params_from_iter(names.iter().cloned()))? {
        return Ok(Found { positions: Vec::new(), cut: None });
    }
    let cut: Option<EventPosition> = connection
        .prepare_cached(&format!("{newest} {order} LIMIT 1 OFFSET {}", scan.saturating_sub(1)))?
        .query_row(params_from_iter(values.iter().cloned()), EventPosition::of_row)
        .optional()?;
    let end = cut.unwrap_or(EventPosition { time: i64::MIN, seq: 0 });
    values.extend([Value::from(end.time), Value::from(end.sql_seq())]);
    values.extend(names);
    let sql = format!(
        "{newest} AND (time, seq) >= (?, ?) AND name IN (SELECT id FROM names WHERE {lists}) {order} LIMIT {wanted}"
    );
    let positions: Vec<_> = connection
        .prepare_cached(&sql)?
        .query_map(params_from_iter(values), EventPosition::of_row)?
        .collect::<Result<_, _>>()?;
    let cut = cut.filter(|_| positions.len() < wanted);
    Ok(Found { positions, cut })
}

/// What `query` asks of rows of `names`; empty: nothing.
fn name_condition(query: &Query) -> (String, Vec<Value>) {
    let lists = [
        ("stream", &query.streams),
        ("region", &query.regions),
        ("label_set", &query.sets),
        ("label", &query.labels),
        ("kind", &query.types),
    ];
    let given = || lists.into_iter().filter(|(_, list)| !list.is_empty());
    let conditions: Vec<_> =
        given().map(|(column, list)| format!("{column} IN ({})", placeholders(list.len()))).collect();
    let values = given().flat_map(|(_, list)| list.iter().cloned().map(Value::from)).collect();
    (conditions.join(" AND "), values)
}

#[cfg(test)]
mod tests;
