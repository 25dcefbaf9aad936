//! The rows of streams and regions, one after the other: what calibration and trials of labels read. In: what searches read, a name, a time. Out: each row's interval and
//! its embedding as the model gave it, to eight bits. On the caller's thread, which waits for the disk; nothing is kept, a damaged row is
//! counted and left out, as one is that was seen through another view. Rows from before views were written down are told, and counted. What is written meanwhile may be read or not.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::name_table::{Name, SeenThrough};
use super::picture_files::PictureName;
use super::rotation::turn_back;
use super::row_format::{self, RowHead};
use super::row_store::StoredRows;
use super::segment::Segment;

/// Rows that are read at a time.
const ROWS: usize = 256;
/// Between a row's own time and when its file was written to.
const SLACK: Duration = Duration::from_secs(60);

/// One row, while it is looked at.
#[derive(Clone, Copy, Debug)]
pub struct PastRow<'a> {
    pub tile: u16,
    /// Milliseconds since 1970: the first and the last frame that it stands for.
    pub from: i64,
    pub until: i64,
    /// That of its first frame, if there was one.
    pub picture: Option<PictureName>,
    /// Of length 1.
    pub embedding: &'a [f32],
}

/// What was gone through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowsRead {
    /// Rows that were told.
    pub rows: u64,
    /// Of them, those of which nobody knows through which view they were seen.
    pub unknown_views: u64,
    /// Rows of the stream and region in that time which were seen through another view.
    pub other_views: u64,
    /// Rows of the stream and region in that time which another model has made.
    pub other_models: u64,
    pub damaged: u64,
    /// Segments that could not be read, or not to their end.
    pub unreadable: Vec<String>,
}

/// Which rows of a segment come first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    OldestFirst,
    NewestFirst,
}

/// What is done with the rows of a name of the stream and region.
enum Treatment {
    /// As of the name with this index, with the seed of their checksums.
    Tell(usize, u32, SeenThrough),
    OtherView,
    OtherModel,
}

/// Tells `visit` of every row of `name` that ends at or after `since` and begins at or before `until`, as it is stored: by time, unless the clock was put back.
/// It says whether it wants more.
pub fn visit(
    stored: &StoredRows,
    name: &Name,
    times: (i64, i64),
    visit: &mut dyn FnMut(&PastRow<'_>) -> bool,
) -> RowsRead {
    let mut segments = stored.segments();
    segments.reverse();
    visit_segments(stored, segments, Order::OldestFirst, std::slice::from_ref(name), times, &mut |_, row| visit(row))
}

/// Tells `visit` of the rows of several names, by their numbers in `names`; what was written last comes first. Segments to which nothing was written since
/// `since` are passed over, by the clock of the file system.
pub fn visit_latest(
    stored: &StoredRows,
    names: &[Name],
    (since, until): (i64, i64),
    visit: &mut dyn FnMut(usize, &PastRow<'_>) -> bool,
) -> RowsRead {
    let now = jiff::Timestamp::now().as_millisecond();
    let ago = Duration::from_millis(now.saturating_sub(since).max(0).unsigned_abs());
    let mut segments = stored.segments();
    // In memory there is no such clock.
    segments.retain(|segment| segment.age() <= ago + SLACK);
    visit_segments(stored, segments, Order::NewestFirst, names, (since, until), visit)
}

/// The last of `segments` first, each in `order`.
fn visit_segments(
    stored: &StoredRows,
    segments: Vec<Arc<Segment>>,
    order: Order,
    names: &[Name],
    (since, until): (i64, i64),
    visit: &mut dyn FnMut(usize, &PastRow<'_>) -> bool,
) -> RowsRead {
    let mut read = RowsRead::default();
    let mut treatments = HashMap::new();
    for (number, other) in stored.names.read().iter() {
        let is_of = |name: &Name| name.stream == other.stream && name.region == other.region;
        let Some(at) = names.iter().position(is_of) else { continue };
        let treatment = match other.seen_through(&names[at].view) {
            _ if other.model != names[at].model => Treatment::OtherModel,
            SeenThrough::Other => Treatment::OtherView,
            through => Treatment::Tell(at, other.seed(), through),
        };
        treatments.insert(number, treatment);
    }
    let mut embedding = Vec::new();
    for segment in segments.iter().rev() {
        let length = segment.row_len();
        let mut buffer = vec![0; ROWS * length];
        let rows = segment.rows();
        let pieces = rows.div_ceil(ROWS as u64);
        let mut is_cut_off = false;
        for piece in 0..pieces {
            let piece = if order == Order::NewestFirst { pieces - 1 - piece } else { piece };
            let first = piece * ROWS as u64;
            let wanted = (rows - first).min(ROWS as u64) as usize;
            let got = match segment.read(first, &mut buffer[..wanted * length]) {
                Ok(got) => got,
                Err(error) => {
                    read.unreadable.push(format!("{}: {error}", segment.shown()));
                    break;
                }
            };
            // What lies before it is there.
            if got < wanted && !is_cut_off {
                is_cut_off = true;
                read.unreadable.push(format!("{} was cut off", segment.shown()));
            }
            for at in 0..got {
                let at = if order == Order::NewestFirst { got - 1 - at } else { at };
                let (number, row) = (first + at as u64, &buffer[at * length..(at + 1) * length]);
                let Some(head) = RowHead::read(row).map(|head| head.checked(row)) else { continue };
                if head.until < since || head.from > until {
                    continue;
                }
                let (at, seed, through) = match treatments.get(&head.name) {
                    Some(Treatment::Tell(at, seed, through)) => (*at, *seed, *through),
                    Some(Treatment::OtherView) => {
                        read.other_views += 1;
                        continue;
                    }
                    Some(Treatment::OtherModel) => {
                        read.other_models += 1;
                        continue;
                    }
                    None => continue,
                };
                if !row_format::is_whole(row, seed) || !unpacked(row, segment.dim, head.scale, &mut embedding) {
                    read.damaged += 1;
                    continue;
                }
                read.rows += 1;
                read.unknown_views += u64::from(through == SeenThrough::Unknown);
                let picture = (head.picture != 0).then_some(PictureName { segment: segment.number, row: number });
                let row =
                    PastRow { tile: head.tile, from: head.from, until: head.until, picture, embedding: &embedding };
                if !visit(at, &row) {
                    return read;
                }
            }
        }
    }
    read
}

/// The embedding of a row, of length 1 again. `false`: it has none.
fn unpacked(row: &[u8], dim: usize, scale: f32, out: &mut Vec<f32>) -> bool {
    out.clear();
    out.extend(row_format::numbers(row).iter().take(dim).map(|byte| f32::from(i8::from_le_bytes([*byte])) * scale));
    let length = out.iter().map(|value| value * value).sum::<f32>().sqrt();
    if out.len() != dim || !(length.is_finite() && length > 0.0) {
        return false;
    }
    out.iter_mut().for_each(|value| *value /= length);
    turn_back(out);
    true
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::row_store::{NewRow, RetentionLimits, RowStore};
    use super::*;

    fn name(stream: &str, model: &str) -> Name {
        Name { stream: stream.to_owned(), model: model.to_owned(), ..Name::default() }
    }

    #[test]
    fn rows_of_another_view_are_left_out_and_counted_and_those_of_an_unknown_one_are_told_and_counted() {
        let limits = RetentionLimits { max_size: 1 << 26, max_age: Duration::from_secs(3600), min_change: 0.5 };
        let (mut store, _) = RowStore::open(None, limits, Instant::now()).unwrap();
        let seen = |view: &str| Name { view: view.to_owned(), ..name("gate", "m") };
        // The camera looks at the same thing all the time: a row never goes on in that of another view.
        for (at, view) in ["", "", "whole", "left", "left", "whole", "whole"].into_iter().enumerate() {
            let row = NewRow { name: &seen(view), tile: 0, at: at as i64 * 1000, embedding: &[1.0, 0.5] };
            store.push(&row, Instant::now()).unwrap();
        }
        let of = |view: &str| {
            let mut spans = Vec::new();
            let all = (i64::MIN, i64::MAX);
            let read = visit(&store.stored(), &seen(view), all, &mut |row| {
                spans.push((row.from / 1000, row.until / 1000));
                true
            });
            assert_eq!(read.damaged, 0);
            (spans, read.rows, read.unknown_views, read.other_views)
        };
        assert_eq!(of("whole"), (vec![(0, 1), (2, 6)], 2, 1, 1));
        assert_eq!(of("left"), (vec![(0, 1), (3, 4)], 2, 1, 1));
        assert_eq!(of("tiles"), (vec![(0, 1)], 1, 1, 2));
    }

    #[test]
    fn the_rows_of_one_stream_model_and_time_come_back_as_they_went_in_and_damaged_ones_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let limits = RetentionLimits { max_size: 1 << 26, max_age: Duration::from_secs(3600), min_change: 0.01 };
        let (mut store, _) = RowStore::open(Some(folder.path()), limits, Instant::now()).unwrap();
        let embedding = |at: usize| {
            let mut values = vec![0.01_f32; 512];
            (values[at], values[511 - at]) = (0.9, -0.4);
            let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
            values.iter().map(|value| value / length).collect::<Vec<_>>()
        };
        let (own, old, other) = (name("gate", "m"), name("gate", "older"), name("door", "m"));
        for second in 0..300_i64 {
            // Each stands for two frames.
            let embedding = embedding((second / 2) as usize % 200);
            for name in [&own, &old, &other] {
                let row = NewRow { name, tile: 0, at: second * 1000, embedding: &embedding };
                store.push(&row, Instant::now()).unwrap();
            }
        }
        let stored = store.stored();
        let mut seen = Vec::new();
        let read = visit(&stored, &own, (100_500, 199_000), &mut |row| {
            let wanted = embedding((row.from / 2000) as usize % 200);
            let cosine: f32 = wanted.iter().zip(row.embedding).map(|(a, b)| a * b).sum();
            assert!(cosine > 0.999, "{cosine}");
            seen.push((row.tile, row.from, row.until));
            true
        });
        let wanted: Vec<_> = (50..100).map(|pair| (0, pair * 2000, pair * 2000 + 1000)).collect();
        assert_eq!(seen, wanted);
        assert_eq!((read.rows, read.other_models, read.damaged), (50, 50, 0));
        let all = (i64::MIN, i64::MAX);
        assert_eq!(visit(&stored, &name("gate", "none"), all, &mut |_| true).other_models, 300);
        assert_eq!(visit(&stored, &name("nowhere", "m"), all, &mut |_| true), RowsRead::default());
        assert_eq!(visit(&stored, &own, all, &mut |_| false).rows, 1);
        // Written just now, whatever the rows say of themselves.
        let mut of_each = [0; 2];
        let both = [other.clone(), own.clone()];
        let mut before = i64::MAX;
        let read = visit_latest(&stored, &both, (290_000, i64::MAX), &mut |at, row| {
            of_each[at] += 1;
            assert!(row.from <= before, "the newest first");
            before = row.from;
            assert!(row.until >= 290_000 && row.picture.is_none());
            true
        });
        assert_eq!((of_each, read.rows, read.other_models), ([5, 5], 10, 5));
        // Who has enough of them has the newest, however many there are in one segment.
        let mut seen = Vec::new();
        visit_latest(&stored, std::slice::from_ref(&own), all, &mut |_, row| {
            seen.push(row.from);
            seen.len() < 140
        });
        let wanted: Vec<_> = (10..150).rev().map(|pair| pair * 2000).collect();
        assert_eq!(seen, wanted);

        // A byte of a row's numbers.
        store.sync().unwrap();
        let file = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let file = file.filter(|path| path.extension().is_some_and(|end| end == "rows")).min().unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let (stored, _) = StoredRows::open(folder.path()).unwrap();
        let read = visit(&stored, &own, all, &mut |_| true);
        assert_eq!((read.rows, read.damaged), (149, 1));
    }
}
