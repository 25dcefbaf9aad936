//! Search: every row of the segments against one query, exactly. In: what a searcher reads and a query; out: the best moments. On threads of its
//! own, as many as asked for and there is work for, which end with the call; memory is bounded by the number of moments that are kept, whatever
//! lies on the disk. Segments that are full are mapped, and stay so until [`StoredRows::unmap`]; the newest is read. A damaged row is left out and counted once it would have been found; checking all would take longer than the search.
//!
//! Rows that are near in time and of one stream and region are one moment: only its best is kept.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use vtagd_pictures::rows::QuantizedQuery;

use super::name_table::{Name, SeenThrough};
use super::picture_files::PictureName;
use super::rotation::rotate;
use super::row_format::{self, RowHead};
use super::row_store::StoredRows;
use super::segment::Segment;

/// Rows are read so many bytes at a time: what fits the second cache.
const BLOCK: usize = 256 * 1024;
/// Of what is mapped so many are asked for at a time.
const MAPPED: usize = 1 << 20;
/// Rows of one stream in one of these are one moment, ms.
const BUCKET: i64 = 10_000;
/// Most moments that a search keeps while it looks.
pub const MAX_KEPT: usize = 2048;

/// The view of each region of each stream, as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewsInForce(HashMap<String, HashMap<String, String>>);

impl ViewsInForce {
    /// Through which view the rows of `name` were seen. Of a stream that is not there any more all are the same.
    fn seen(&self, name: &Name) -> SeenThrough {
        let Some(regions) = self.0.get(&name.stream) else { return SeenThrough::Same };
        // A region that has gone had a view too.
        regions.get(&name.region).map_or(SeenThrough::Other, |view| name.seen_through(view))
    }
}

/// Of streams, regions (empty: the whole view) and digests of views.
impl FromIterator<(String, String, String)> for ViewsInForce {
    fn from_iter<I: IntoIterator<Item = (String, String, String)>>(views: I) -> Self {
        let mut streams: HashMap<String, HashMap<String, String>> = HashMap::new();
        views.into_iter().for_each(|(stream, region, view)| {
            streams.entry(stream).or_default().insert(region, view);
        });
        Self(streams)
    }
}

/// What is searched for.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'a> {
    /// Of length 1.
    pub embedding: &'a [f32],
    /// The fingerprint of the model that made it: rows of other models are not compared.
    pub model: &'a str,
    /// None: all.
    pub stream: Option<&'a str>,
    /// None: all, and whole views.
    pub region: Option<&'a str>,
    /// Milliseconds since 1970.
    pub since: Option<i64>,
    pub until: Option<i64>,
    /// None: whatever view rows were seen through.
    pub views: Option<&'a ViewsInForce>,
    /// Moments that are kept, at most [`MAX_KEPT`].
    pub keep: usize,
    pub threads: usize,
}

impl Wanted<'_> {
    /// What is done with the rows of a name.
    fn treatment(&self, name: &Name) -> Treatment {
        let is_of = |wanted: Option<&str>, own: &str| wanted.is_none_or(|wanted| wanted == own);
        if !is_of(self.stream, &name.stream) || !is_of(self.region, &name.region) {
            return Treatment::Pass;
        }
        if name.model != self.model {
            return Treatment::OtherModel;
        }
        match self.views.map_or(SeenThrough::Same, |views| views.seen(name)) {
            SeenThrough::Other => Treatment::OtherView,
            through => Treatment::Compare(Arc::new(name.clone()), name.seed(), through),
        }
    }
}

/// Where something was found.
#[derive(Clone, Debug)]
pub struct Moment {
    pub name: Arc<Name>,
    pub tile: u16,
    /// Milliseconds since 1970.
    pub from: i64,
    pub until: i64,
    /// When its best row begins.
    pub at: i64,
    /// Cosine of that one.
    pub score: f32,
    /// That of its best row, if it had one.
    pub picture: Option<PictureName>,
    /// The best row, as it is stored.
    numbers: Vec<u8>,
    scale: f32,
}

/// What a search has found, the best first, and what it has looked at.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub moments: Vec<Moment>,
    /// Rows that were compared.
    pub rows: u64,
    /// Of them, those of which nobody knows through which view they were seen, where that matters.
    pub unknown_views: u64,
    /// Rows of other models and of other views, which were not.
    pub other_models: u64,
    pub other_views: u64,
    /// Rows that would have been found and are damaged, or of a name that is lost.
    pub damaged: u64,
    /// Segments that could not be read, or not to their end.
    pub unreadable: Vec<String>,
}

impl Moment {
    /// The cosine of its best row with another query.
    pub fn score_of(&self, query: &QuantizedQuery) -> f32 {
        query.score(&self.numbers, self.scale)
    }
}

/// A query as rows are compared with it.
pub fn query(embedding: &[f32]) -> QuantizedQuery {
    let mut turned = embedding.to_vec();
    rotate(&mut turned);
    turned.resize(turned.len().next_multiple_of(8), 0.0);
    QuantizedQuery::new(&turned)
}

/// What is done with a row of a name.
enum Treatment {
    Compare(Arc<Name>, u32, SeenThrough),
    Pass,
    OtherModel,
    OtherView,
}

/// Looks at every row.
pub fn search(stored: &StoredRows, wanted: &Wanted<'_>) -> Found {
    let mut treatments: Vec<(u32, Treatment)> =
        stored.names.read().iter().map(|(number, name)| (number, wanted.treatment(name))).collect();
    treatments.sort_unstable_by_key(|(number, _)| *number);
    let mut blocks = Vec::new();
    let mut segments = stored.segments();
    // The newest is written to.
    let newest = segments.pop();
    for (segment, bytes) in
        segments.iter().map(|full| (full, MAPPED)).chain(newest.iter().map(|newest| (newest, BLOCK)))
    {
        let rows = (bytes / segment.row_len()).max(1) as u64;
        let firsts = (0..segment.rows().div_ceil(rows)).map(|block| block * rows);
        blocks.extend(firsts.map(|first| Block { segment, first, rows, full: bytes == MAPPED }));
    }
    let next = AtomicUsize::new(0);
    let query = query(wanted.embedding);
    let look = || {
        let mut scan = Scan {
            query: &query,
            wanted,
            treatments: &treatments,
            best: HashMap::default(),
            floor: f32::MIN,
            found: Found::default(),
        };
        let mut buffer = Vec::new();
        while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
            scan.block(block, &mut buffer);
        }
        scan
    };
    let threads = wanted.threads.clamp(1, blocks.len().max(1));
    let mut all = Found::default();
    let mut best = Vec::new();
    let mut join = |scan: Scan<'_>| {
        all.rows += scan.found.rows;
        all.unknown_views += scan.found.unknown_views;
        all.other_models += scan.found.other_models;
        all.other_views += scan.found.other_views;
        all.damaged += scan.found.damaged;
        all.unreadable.extend(scan.found.unreadable);
        best.extend(scan.best.into_values());
    };
    std::thread::scope(|scope| {
        // No thread to be had: this one does it all.
        let others: Vec<_> = (1..threads)
            .map_while(|_| std::thread::Builder::new().name("vtagd-search".into()).spawn_scoped(scope, look).ok())
            .collect();
        join(look());
        others.into_iter().filter_map(|other| other.join().ok()).for_each(&mut join);
    });
    all.unreadable.sort_unstable();
    all.unreadable.dedup();
    all.moments = joined(best);
    all.moments.truncate(wanted.keep.min(MAX_KEPT));
    all
}

/// Rows spread evenly over all that a search would compare, some `most` of them, each as a moment of its own: how a query stands in general.
/// Damaged ones are left out.
pub fn sample(stored: &StoredRows, wanted: &Wanted<'_>, most: u64) -> Vec<Moment> {
    let query = query(wanted.embedding);
    let segments = stored.segments();
    let rows: u64 = segments.iter().map(|segment| segment.rows()).sum();
    let step = rows.div_ceil(most.max(1)).max(1);
    let mut out = Vec::new();
    let mut skip = 0;
    for segment in segments {
        let mut row = vec![0; segment.row_len()];
        let mut number = skip;
        while number < segment.rows() {
            out.extend(sampled(stored, wanted, &query, &segment, number, &mut row));
            number += step;
        }
        skip = number - segment.rows();
    }
    out
}

fn sampled(
    stored: &StoredRows,
    wanted: &Wanted<'_>,
    query: &QuantizedQuery,
    segment: &Segment,
    number: u64,
    row: &mut [u8],
) -> Option<Moment> {
    segment.read(number, row).ok().filter(|read| *read == 1)?;
    let head = RowHead::read(row)?.checked(row);
    let in_time =
        wanted.until.is_none_or(|until| head.from <= until) && wanted.since.is_none_or(|since| head.until >= since);
    let name = stored.names.read().get(head.name).cloned()?;
    let Treatment::Compare(name, seed, _) = wanted.treatment(&name) else { return None };
    let fits = segment.dim == wanted.embedding.len();
    let numbers = row_format::numbers(row).to_vec();
    (in_time && fits && row_format::is_whole(row, seed)).then(|| Moment {
        name,
        tile: head.tile,
        from: head.from,
        until: head.until,
        at: head.from,
        score: query.score(&numbers, head.scale),
        picture: None,
        numbers,
        scale: head.scale,
    })
}

/// Of keys that are looked up for every row: SipHash takes longer than the row's product. Whoever makes them collide slows a map of at most
/// twice [`MAX_KEPT`] entries.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_i64(&mut self, number: i64) {
        self.write_u64(number.cast_unsigned());
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(26) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

/// One thread's part.
struct Scan<'a> {
    query: &'a QuantizedQuery,
    wanted: &'a Wanted<'a>,
    /// By number.
    treatments: &'a [(u32, Treatment)],
    /// The best row of each name and bucket.
    best: HashMap<(u32, i64), Moment, BuildHasherDefault<KeyHasher>>,
    /// What is below it is not kept any more.
    floor: f32,
    found: Found,
}

/// Rows that are looked at in one go.
struct Block<'a> {
    segment: &'a Segment,
    first: u64,
    rows: u64,
    /// Whether nothing is written there any more.
    full: bool,
}

impl Scan<'_> {
    fn block(&mut self, block: &Block<'_>, buffer: &mut Vec<u8>) {
        let &Block { segment, first, rows, full } = block;
        let length = segment.row_len();
        if let Some(mapped) = full.then(|| segment.mapped()).flatten() {
            let start = first as usize * length;
            let part = (rows as usize * length).min(mapped.bytes().saturating_sub(start));
            if let Some(rows) = mapped.part(start, part) {
                return self.rows(segment, first, rows);
            }
        }
        buffer.resize(rows as usize * length, 0);
        // Now: what comes meanwhile may be read or not.
        let there = rows.min(segment.rows().saturating_sub(first));
        match segment.read(first, buffer) {
            Ok(read) => {
                if (read as u64) < there {
                    self.found.unreadable.push(format!("{} was cut off", segment.shown()));
                }
                self.rows(segment, first, &buffer[..read * length]);
            }
            Err(error) => self.found.unreadable.push(format!("{}: {error}", segment.shown())),
        }
    }

    fn rows(&mut self, segment: &Segment, first: u64, bytes: &[u8]) {
        for (index, row) in bytes.chunks_exact(segment.row_len()).enumerate() {
            self.row(segment.dim, row, PictureName { segment: segment.number, row: first + index as u64 });
        }
    }

    fn row(&mut self, dim: usize, row: &[u8], picture: PictureName) {
        let Some(mut head) = RowHead::read(row) else { return };
        let starts_late = self.wanted.until.is_some_and(|until| head.from > until);
        // Checked only where it counts.
        let ended = |since| head.until < since || head.checked(row).until < since;
        if starts_late || self.wanted.since.is_some_and(ended) {
            return;
        }
        let treatment = self.treatments.binary_search_by_key(&head.name, |(number, _)| *number);
        let (name, seed, through) = match treatment.ok().map(|index| &self.treatments[index].1) {
            Some(Treatment::Compare(name, seed, through)) if dim == self.wanted.embedding.len() => {
                (name, *seed, *through)
            }
            Some(Treatment::Compare(..) | Treatment::OtherModel) => return self.found.other_models += 1,
            Some(Treatment::OtherView) => return self.found.other_views += 1,
            Some(Treatment::Pass) => return,
            None => return self.found.damaged += 1,
        };
        self.found.rows += 1;
        self.found.unknown_views += u64::from(through == SeenThrough::Unknown);
        let score = self.query.score(row_format::numbers(row), head.scale);
        let key = (head.name, head.from.div_euclid(BUCKET));
        // What is no number is none of these, and looked at.
        if score <= self.floor || self.best.get(&key).is_some_and(|best| score <= best.score) {
            return;
        }
        if !row_format::is_whole(row, seed) || !score.is_finite() {
            return self.found.damaged += 1;
        }
        head = head.checked(row);
        let numbers = row_format::numbers(row).to_vec();
        let moment = Moment {
            name: Arc::clone(name),
            tile: head.tile,
            from: head.from,
            until: head.until,
            at: head.from,
            score,
            picture: Some(picture).filter(|_| head.picture != 0),
            numbers,
            scale: head.scale,
        };
        self.best.insert(key, moment);
        let keep = self.wanted.keep.clamp(1, MAX_KEPT);
        if self.best.len() > 2 * keep {
            let mut scores: Vec<f32> = self.best.values().map(|moment| moment.score).collect();
            let (_, floor, _) = scores.select_nth_unstable_by(keep, |a, b| b.total_cmp(a));
            self.floor = *floor;
            // Those that are equal stay, and no more of them come.
            self.best.retain(|_, moment| moment.score >= self.floor);
        }
    }
}

/// Moments of one stream and region that touch are one; the best of it counts.
fn joined(mut moments: Vec<Moment>) -> Vec<Moment> {
    moments.sort_by(|a, b| (&a.name.stream, &a.name.region, a.from).cmp(&(&b.name.stream, &b.name.region, b.from)));
    let mut out: Vec<Moment> = Vec::new();
    // Which bucket's best it was is nothing that a person wants to see twice.
    for moment in moments {
        match out.last_mut() {
            Some(last)
                if last.name == moment.name
                    && moment.from.saturating_sub(last.until) <= BUCKET
                    && near(last, &moment) =>
            {
                let (from, until) = (last.from.min(moment.from), last.until.max(moment.until));
                if moment.score > last.score {
                    *last = moment;
                }
                (last.from, last.until) = (from, until);
            }
            _ => out.push(moment),
        }
    }
    out.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| b.from.cmp(&a.from)));
    out
}

/// Whether two rows look alike enough to be one moment.
fn near(a: &Moment, b: &Moment) -> bool {
    const SAME: f32 = 0.9;
    let signed = |byte: &u8| i32::from(i8::from_le_bytes([*byte]));
    let dot: i32 = a.numbers.iter().zip(&b.numbers).map(|(a, b)| signed(a) * signed(b)).sum();
    dot as f32 * a.scale * b.scale >= SAME
}
