//! The store of rows: segments of bounded size, the oldest of which goes as a whole. In: embeddings, from one thread; out: rows on the disk,
//! and the list of segments that searches read at any time.
//!
//! One writer a folder holds `history.lock` (`flock`). A row is in its file when [`RowStore::push`] returns, so that a `kill -9` takes none; a power cut
//! may take what came after the last [`RowStore::sync`]. Full disk: the row is refused, all others stay. Our own budget reached: the oldest
//! segment is deleted before the next one begins, which takes as long as deleting a file. Age counts by the monotonic clock while the store is
//! open: setting the date deletes nothing.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use super::name_table::{Name, NameError, NameTable};
use super::picture_files::{self, PictureFiles, PictureName};
use super::rotation::rotate;
use super::row_format::{self, MAX_DIM, RowHead};
use super::segment::{self, Segment};

/// Segments of a full store: what is deleted at once is one of so many.
const SEGMENTS: u64 = 64;
/// However they came about; the oldest goes before there is one more.
const MAX_SEGMENTS: usize = 512;
const MIN_SEGMENT: u64 = 64 * 1024;
/// A segment ends after this part of `max_age`, full or not: its oldest row is deleted so much later than it could be.
const AGE_PARTS: u32 = 16;
/// A stream that was away for longer begins a new row, even if it looks the same.
pub const MAX_GAP: i64 = 60_000;

/// What is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct RetentionLimits {
    /// In bytes.
    pub max_size: u64,
    pub max_age: Duration,
    /// A row whose cosine with its stream's last one is at most so much below 1 is that one.
    pub min_change: f32,
}

/// Why a row was not stored, or a folder not opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another process writes to the history in {}: give each daemon its own `history.path`", .0.display())]
    InUse(PathBuf),
    #[error("an embedding of {0} numbers cannot be kept: 1 to {MAX_DIM} can")]
    Dim(usize),
    #[error("an embedding has a number that is none, or is empty of any")]
    NotANumber,
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// What became of an embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Stored,
    /// It looked like the last one, whose interval ends later now.
    Extended,
}

/// An embedding on its way into the store.
#[derive(Clone, Debug)]
pub struct NewRow<'a> {
    pub name: &'a Name,
    pub tile: u16,
    /// Milliseconds since 1970.
    pub at: i64,
    pub embedding: &'a [f32],
}

/// What searches read: cheap to clone, always up to date.
#[derive(Clone, Debug, Default)]
pub struct StoredRows {
    pub(super) segments: Arc<RwLock<Vec<Arc<Segment>>>>,
    pub(super) names: Arc<RwLock<NameTable>>,
    /// `None`: in memory.
    folder: Option<Arc<Path>>,
}

impl StoredRows {
    pub fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().clone()
    }

    /// Lets go of the files that searches have mapped. The next search maps them again, which takes it as long as reading them.
    pub fn unmap(&self) {
        self.segments().iter().for_each(|segment| segment.unmap());
    }

    /// What lies in `folder`, whoever writes there meanwhile; a line for each damage.
    ///
    /// # Errors
    /// As the disk has it.
    pub fn open(folder: &Path) -> io::Result<(Self, Vec<String>)> {
        let (names, mut damage) = NameTable::open(folder)?;
        let segments = find(folder, false, &mut damage)?;
        let segments = Arc::new(RwLock::new(segments));
        Ok((Self { segments, names: Arc::new(RwLock::new(names)), folder: Some(folder.into()) }, damage))
    }

    /// The file of a picture, if it is still there.
    pub fn picture(&self, name: PictureName) -> Option<PathBuf> {
        Some(name.path(self.folder.as_deref()?)).filter(|file| file.is_file())
    }
}

/// A stream's last row.
#[derive(Debug)]
struct Last {
    segment: Arc<Segment>,
    row: u64,
    crc: [u8; 4],
    from: i64,
    until: i64,
    scale: f32,
    numbers: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub struct RowStore {
    folder: Option<PathBuf>,
    /// `None`: in memory, or on a file system without locks.
    _lock: Option<File>,
    limits: RetentionLimits,
    stored: StoredRows,
    /// By name and tile; only rows of the newest segment.
    last: HashMap<(u32, u16), Last>,
    /// When the newest segment began, and when each was last written to, as far as the monotonic clock knows.
    began: Option<Instant>,
    written: HashMap<u64, (Instant, Duration)>,
    dirty: Vec<Arc<Segment>>,
    buffer: Vec<u8>,
    /// `None`: no pictures are kept.
    pictures: Option<PictureFiles>,
    /// What became of the last one.
    picture: Option<io::Result<()>>,
}

/// The segments of `folder`, oldest first, the newest [`MAX_SEGMENTS`] of them.
fn find(folder: &Path, writable: bool, damage: &mut Vec<String>) -> io::Result<Vec<Arc<Segment>>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        found.extend(entry?.file_name().to_str().and_then(segment::parse_name));
    }
    found.sort_unstable();
    let newest = found.split_off(found.len().saturating_sub(MAX_SEGMENTS));
    // Left by a store that was larger by far: nobody would read or delete them again.
    for (number, dim) in found.iter().filter(|_| writable) {
        picture_files::remove_all(folder, *number)?;
        fs::remove_file(folder.join(segment::file_name(*number, *dim)))?;
    }
    let mut segments = Vec::with_capacity(newest.len());
    for (number, dim) in newest {
        match Segment::open(folder, number, dim, writable) {
            Ok((segment, rest)) => {
                if rest > 0 {
                    damage
                        .push(format!("{}: its last {rest} bytes are no whole row and are left out", segment.shown()));
                }
                segments.push(Arc::new(segment));
            }
            // Deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => damage.push(format!("segment {number:016x}-{dim}.rows is left out: {error}")),
        }
    }
    Ok(segments)
}

fn lock(folder: &Path) -> Result<Option<File>, StoreError> {
    let path = folder.join("history.lock");
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(folder.to_owned())),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

impl RowStore {
    /// The one in `folder`, which is made, or one in memory; a line for each damage that was found.
    ///
    /// # Errors
    /// When another process writes there, or the folder cannot be used.
    pub fn open(
        folder: Option<&Path>,
        limits: RetentionLimits,
        now: Instant,
    ) -> Result<(Self, Vec<String>), StoreError> {
        let mut damage = Vec::new();
        let (mut held, mut names, mut segments) = (None, NameTable::in_memory(), Vec::new());
        if let Some(folder) = folder {
            fs::create_dir_all(folder)?;
            held = lock(folder)?;
            (names, damage) = NameTable::open(folder)?;
            segments = find(folder, true, &mut damage)?;
        }
        let written = segments.iter().map(|segment| (segment.number, (now, segment.age()))).collect();
        let (segments, names) = (Arc::new(RwLock::new(segments)), Arc::new(RwLock::new(names)));
        let stored = StoredRows { segments, names, folder: folder.map(Arc::from) };
        let mut store = Self {
            folder: folder.map(Path::to_owned),
            _lock: held,
            limits,
            stored,
            last: HashMap::new(),
            began: None,
            written,
            dirty: Vec::new(),
            buffer: Vec::new(),
            pictures: None,
            picture: None,
        };
        store.sweep(now);
        Ok((store, damage))
    }

    /// Keeps pictures from now on, `max_size` bytes of them. Looks at each that is there.
    ///
    /// # Errors
    /// When their folder cannot be used.
    pub fn keep_pictures(&mut self, max_size: u64) -> io::Result<()> {
        self.pictures = self.folder.as_deref().map(|folder| PictureFiles::open(folder, max_size)).transpose()?;
        Ok(())
    }

    /// What became of the picture of the last row, if there was one.
    pub fn picture_outcome(&mut self) -> Option<io::Result<()>> {
        self.picture.take()
    }

    /// What searches read.
    pub fn stored(&self) -> StoredRows {
        self.stored.clone()
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.stored.segments.read().iter().map(|segment| segment.bytes()).sum()
    }

    /// Bytes of all pictures.
    pub fn picture_bytes(&self) -> u64 {
        self.pictures.as_ref().map_or(0, PictureFiles::bytes)
    }

    /// Stores an embedding, or lets the last one that looks the same last until now.
    ///
    /// # Errors
    /// When it cannot be stored; everything else is as it was.
    pub fn push(&mut self, new: &NewRow<'_>, now: Instant) -> Result<Pushed, StoreError> {
        self.push_with(new, &mut || None, now)
    }

    /// As [`Self::push`]; `picture` is asked for the row's JPEG if a row is stored and pictures are kept. A picture that cannot be written costs
    /// itself alone.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_with(
        &mut self,
        new: &NewRow<'_>,
        picture: &mut dyn FnMut() -> Option<Vec<u8>>,
        now: Instant,
    ) -> Result<Pushed, StoreError> {
        let dim = new.embedding.len();
        if !(1..=MAX_DIM).contains(&dim) {
            return Err(StoreError::Dim(dim));
        }
        let mut values = new.embedding.to_vec();
        let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
        if !(length.is_finite() && length > 0.0) {
            return Err(StoreError::NotANumber);
        }
        values.iter_mut().for_each(|value| *value /= length);
        rotate(&mut values);
        let name = self.stored.names.write().number(new.name)?;
        let segment = self.current(dim, now)?;
        if let Some(last) = self.last.get_mut(&(name, new.tile))
            && last.looks_like(&values, self.limits.min_change)
            && last.goes_on_until(new.at)
        {
            if new.at > last.until {
                last.segment.write_span(last.row, row_format::span(last.crc, new.at - last.from))?;
                last.until = new.at;
            }
            self.touch(&segment, now);
            return Ok(Pushed::Extended);
        }
        let file = PictureName { segment: segment.number, row: segment.rows() };
        self.picture = self.pictures.as_mut().and_then(|files| Some(files.write(file, &picture()?)));
        let has_picture = u64::from(matches!(self.picture, Some(Ok(()))));
        let head = RowHead { from: new.at, until: new.at, name, tile: new.tile, scale: 0.0, picture: has_picture };
        row_format::write(&mut self.buffer, &head, &values, new.name.seed());
        let row = match segment.append(&self.buffer) {
            Ok(row) => row,
            Err(error) => {
                self.pictures.iter_mut().for_each(|files| files.take_back(file));
                return Err(error.into());
            }
        };
        let scale = RowHead::read(&self.buffer).map_or(0.0, |head| head.scale);
        let last = Last {
            segment: Arc::clone(&segment),
            row,
            crc: row_format::crc(&self.buffer),
            from: new.at,
            until: new.at,
            scale,
            numbers: row_format::numbers(&self.buffer)[..dim].to_vec(),
        };
        self.last.insert((name, new.tile), last);
        self.touch(&segment, now);
        Ok(Pushed::Stored)
    }

    fn touch(&mut self, segment: &Arc<Segment>, now: Instant) {
        self.written.insert(segment.number, (now, Duration::ZERO));
        if !self.dirty.iter().any(|dirty| dirty.number == segment.number) {
            self.dirty.push(Arc::clone(segment));
        }
    }

    /// The segment that rows of `dim` numbers go to.
    fn current(&mut self, dim: usize, now: Instant) -> io::Result<Arc<Segment>> {
        let newest = self.stored.segments.read().last().cloned();
        let wanted = (self.limits.max_size / SEGMENTS).max(MIN_SEGMENT);
        if let Some(newest) = &newest
            && newest.dim == dim
            && newest.bytes() + newest.row_len() as u64 <= wanted
        {
            let began = *self.began.get_or_insert_with(|| now.checked_sub(newest.first_age()).unwrap_or(now));
            let old = now.saturating_duration_since(began) > self.limits.max_age / AGE_PARTS;
            if !old || newest.rows() == 0 {
                return Ok(Arc::clone(newest));
            }
        }
        self.make_room(wanted);
        let mut number = newest.map_or(0, |newest| newest.number.saturating_add(1));
        let segment = loop {
            match Segment::create(self.folder.as_deref(), number, dim) {
                // One that could not be opened.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < u64::MAX => number += 1,
                segment => break Arc::new(segment?),
            }
        };
        self.stored.segments.write().push(Arc::clone(&segment));
        self.began = Some(now);
        // Their rows are in a segment that is not written to any more.
        self.last.clear();
        Ok(segment)
    }

    /// Deletes the oldest segments until there is room for `wanted` bytes.
    fn make_room(&mut self, wanted: u64) {
        let mut bytes = self.bytes();
        let mut segments = self.stored.segments.write();
        while !segments.is_empty()
            && (bytes.saturating_add(wanted) > self.limits.max_size || segments.len() >= MAX_SEGMENTS)
        {
            let oldest = segments.remove(0);
            bytes -= oldest.bytes().min(bytes);
            self.written.remove(&oldest.number);
            remove(&oldest, self.folder.as_deref(), self.pictures.as_mut());
        }
    }

    /// Deletes what is too old.
    pub fn sweep(&mut self, now: Instant) {
        let (written, max_age) = (&mut self.written, self.limits.max_age);
        let (folder, pictures) = (&self.folder, &mut self.pictures);
        self.stored.segments.write().retain(|segment| {
            let (at, before) = *written.entry(segment.number).or_insert((now, Duration::ZERO));
            let fresh = now.saturating_duration_since(at).saturating_add(before) <= max_age;
            if !fresh {
                written.remove(&segment.number);
                remove(segment, folder.as_deref(), pictures.as_mut());
            }
            fresh
        });
        let segments = self.stored.segments.read();
        self.last.retain(|_, last| segments.iter().any(|segment| segment.number == last.segment.number));
    }

    /// Makes all that was stored outlast a power cut.
    ///
    /// # Errors
    /// When the disk does not take it; it is tried again by the next call.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.dirty.is_empty() {
            return Ok(());
        }
        while let Some(segment) = self.dirty.last() {
            segment.sync()?;
            self.dirty.pop();
        }
        match &self.folder {
            Some(folder) => crate::platform::atomic_file::sync_folder(folder),
            None => Ok(()),
        }
    }
}

/// With its pictures, which go first. One that cannot be deleted now is found again by the next start.
fn remove(segment: &Segment, folder: Option<&Path>, pictures: Option<&mut PictureFiles>) {
    pictures.into_iter().for_each(|files| files.forget(segment.number));
    let gone = folder.map_or(Ok(()), |folder| picture_files::remove_all(folder, segment.number));
    if let Err(error) = gone.and_then(|()| segment.remove()) {
        tracing::warn!(segment = segment.shown(), %error, "an old part of the history cannot be deleted");
    }
}

impl Last {
    fn looks_like(&self, values: &[f32], min_change: f32) -> bool {
        let dot: f32 = self.numbers.iter().zip(values).map(|(n, v)| f32::from(i8::from_le_bytes([*n])) * v).sum();
        1.0 - dot * self.scale <= min_change
    }

    /// Whether a frame of that time belongs to it: neither after a gap, nor from before it, as after the clock was put back.
    fn goes_on_until(&self, at: i64) -> bool {
        at >= self.from
            && at.saturating_sub(self.until) <= MAX_GAP
            && at.saturating_sub(self.from) <= i64::from(u32::MAX)
    }
}
