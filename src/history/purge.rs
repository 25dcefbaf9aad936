//! Taking rows out by hand: those of a stream, those before a time, or all. In: a folder that no daemon writes to, and which; out: how many. On the
//! caller's thread, which waits for the disk. What is taken out is overwritten with zeros, or its whole file deleted, before the call returns; its picture is deleted first. A
//! call that is cut off has taken out a part; asked again, it does the rest.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::picture_files::{self, PictureName};
use super::row_format::RowHead;
use super::row_store::{RetentionLimits, RowStore, StoreError};
use super::segment::Segment;

/// Rows that are read at a time.
const ROWS: usize = 256;

/// Which rows: all that fit both.
#[derive(Clone, Copy, Debug, Default)]
pub struct Which<'a> {
    pub stream: Option<&'a str>,
    /// Milliseconds since 1970: rows that ended before.
    pub before: Option<i64>,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub rows: u64,
    /// Rows that are left.
    pub left: u64,
}

/// Takes rows out of `folder`, and names that no row has any more.
///
/// # Errors
/// When a daemon writes there, or the disk refuses.
pub fn purge(folder: &Path, which: Which<'_>) -> Result<Purged, StoreError> {
    // Nothing is too old or too much for this: only what is asked for goes.
    let limits = RetentionLimits { max_size: u64::MAX, max_age: Duration::MAX, min_change: 0.0 };
    let (store, _) = RowStore::open(Some(folder), limits, Instant::now())?;
    let stored = store.stored();
    let (mut purged, mut used) = (Purged::default(), HashSet::new());
    let mut kept: Vec<Arc<Segment>> = Vec::new();
    for segment in stored.segments() {
        let left = segment_rows(folder, &segment, &mut purged, &mut used, |head| {
            let names = stored.names.read();
            // Rows of a lost name are found by nobody, and could be anybody's.
            let Some(name) = names.get(head.name) else { return true };
            which.stream.is_none_or(|stream| name.stream == stream)
                && which.before.is_none_or(|before| head.until < before)
        })?;
        if left == 0 {
            picture_files::remove_all(folder, segment.number)?;
            segment.remove()?;
        } else {
            segment.sync()?;
            kept.push(segment);
        }
        purged.left += left;
    }
    *stored.segments.write() = kept;
    stored.names.write().retain(|number, _| used.contains(&number))?;
    Ok(purged)
}

fn segment_rows(
    folder: &Path,
    segment: &Segment,
    purged: &mut Purged,
    used: &mut HashSet<u32>,
    goes: impl Fn(&RowHead) -> bool,
) -> io::Result<u64> {
    let (length, mut left, mut first) = (segment.row_len(), 0, 0);
    let mut buffer = vec![0; ROWS * length];
    loop {
        let read = segment.read(first, &mut buffer)?;
        if read == 0 {
            return Ok(left);
        }
        for (index, row) in buffer[..read * length].chunks_exact(length).enumerate() {
            let Some(head) = RowHead::read(row).map(|head| head.checked(row)) else { continue };
            if goes(&head) {
                let row = first + index as u64;
                picture_files::remove(&PictureName { segment: segment.number, row }.path(folder))?;
                segment.erase(row)?;
                purged.rows += 1;
            } else {
                used.insert(head.name);
                left += 1;
            }
        }
        first += read as u64;
    }
}
