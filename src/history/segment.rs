//! One file of rows. In: rows at its end, spans in place, from the store's thread; out: rows for any number of searches at a time. Nothing is
//! cached. What is written to is read, what is not any more may be [mapped](super::mapped_rows): a file that somebody
//! cuts off, or a disk that fails, is an error. Reads are bounded by what the file really holds. In memory it is the same file without a name
//! (memfd).

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::mapped_rows::{MappedRows, map};
use super::row_format::{MAX_DIM, RowHead, SPAN, row_len};

/// See the module.
#[derive(Debug)]
pub struct Segment {
    pub number: u64,
    pub dim: usize,
    /// `None`: in memory.
    path: Option<PathBuf>,
    file: File,
    /// Whole rows that a search may read.
    rows: AtomicU64,
    mapped: Mutex<Option<Arc<MappedRows>>>,
}

/// The file of segment `number`, of rows of `dim` numbers.
pub fn file_name(number: u64, dim: usize) -> String {
    format!("{number:016x}-{dim}.rows")
}

/// What [`file_name`] made `name` of.
pub fn parse_name(name: &str) -> Option<(u64, usize)> {
    let (number, dim) = name.strip_suffix(".rows")?.split_once('-')?;
    let (number, dim) = (u64::from_str_radix(number, 16).ok()?, dim.parse().ok()?);
    (file_name(number, dim) == name && (1..=MAX_DIM).contains(&dim)).then_some((number, dim))
}

impl Segment {
    /// A new one in `folder`, or in memory.
    ///
    /// # Errors
    /// As the system has it.
    pub fn create(folder: Option<&Path>, number: u64, dim: usize) -> io::Result<Self> {
        let path = folder.map(|folder| folder.join(file_name(number, dim)));
        let file = match &path {
            Some(path) => File::options().read(true).write(true).create_new(true).mode(0o600).open(path)?,
            None => rustix::fs::memfd_create("vtagd-history", rustix::fs::MemfdFlags::CLOEXEC)?.into(),
        };
        Ok(Self { number, dim, path, file, rows: AtomicU64::new(0), mapped: Mutex::default() })
    }

    /// One that lies in `folder`; how many bytes at its end are no whole row.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(folder: &Path, number: u64, dim: usize, writable: bool) -> io::Result<(Self, u64)> {
        let path = folder.join(file_name(number, dim));
        // Not through a link, and not a pipe that nobody writes to.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = File::options().read(true).write(writable).custom_flags(flags).open(&path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "is no plain file"));
        }
        let rows = metadata.len() / row_len(dim) as u64;
        Ok((
            Self { number, dim, path: Some(path), file, rows: AtomicU64::new(rows), mapped: Mutex::default() },
            metadata.len() % row_len(dim) as u64,
        ))
    }

    pub fn row_len(&self) -> usize {
        row_len(self.dim)
    }

    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Acquire)
    }

    pub fn bytes(&self) -> u64 {
        self.rows() * self.row_len() as u64
    }

    /// What messages call it.
    pub fn shown(&self) -> String {
        file_name(self.number, self.dim)
    }

    /// How long ago it was last written to, by the wall clock.
    pub fn age(&self) -> std::time::Duration {
        let modified = self.file.metadata().and_then(|metadata| metadata.modified()).ok();
        modified.and_then(|modified| modified.elapsed().ok()).unwrap_or_default()
    }

    /// How long ago its first row was sampled, by the wall clock.
    pub fn first_age(&self) -> std::time::Duration {
        let mut row = vec![0; self.row_len()];
        let first = self.read(0, &mut row).ok().filter(|rows| *rows == 1).and_then(|_| RowHead::read(&row));
        let now = jiff::Timestamp::now().as_millisecond();
        let age = first.map_or(0, |head| now.saturating_sub(head.from).max(0));
        std::time::Duration::from_millis(age.unsigned_abs())
    }

    /// Puts a row at the end, and says which it is. Only one thread may.
    ///
    /// # Errors
    /// When it cannot be written; the file is as it was.
    pub fn append(&self, row: &[u8]) -> io::Result<u64> {
        let rows = self.rows();
        let end = rows * self.row_len() as u64;
        if let Err(error) = self.file.write_all_at(row, end) {
            // What was written of it is nobody's, and the disk may need the room.
            let _ = self.file.set_len(end);
            return Err(error);
        }
        self.rows.store(rows + 1, Ordering::Release);
        Ok(rows)
    }

    /// Writes a row's span again.
    ///
    /// # Errors
    /// When it cannot be written; the row is as it was.
    pub fn write_span(&self, row: u64, span: [u8; 8]) -> io::Result<()> {
        self.file.write_all_at(&span, row * self.row_len() as u64 + SPAN as u64)
    }

    /// Makes zeros of a row: it is none any more.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn erase(&self, row: u64) -> io::Result<()> {
        self.file.write_all_at(&vec![0; self.row_len()], row * self.row_len() as u64)
    }

    /// Reads rows from `first` on, as many as `buffer` holds and there are, and says how many.
    ///
    /// # Errors
    /// As the disk has it.
    pub fn read(&self, first: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.row_len();
        let there = self.rows().saturating_sub(first).min((buffer.len() / length) as u64) as usize * length;
        let mut filled = 0;
        while filled < there {
            match self.file.read_at(&mut buffer[filled..there], first * length as u64 + filled as u64) {
                // Somebody has cut it off.
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled / length)
    }

    /// All of it, for a segment that is not written to any more; mapped until [`Self::unmap`]. `None`: [`Self::read`] it.
    pub fn mapped(&self) -> Option<Arc<MappedRows>> {
        let mut mapped = self.mapped.lock();
        if mapped.is_none() {
            *mapped = map(&self.file, usize::try_from(self.bytes()).ok()?).map(Arc::new);
        }
        mapped.clone()
    }

    /// Lets go of what was mapped; searches that look at it go on.
    pub fn unmap(&self) {
        *self.mapped.lock() = None;
    }

    /// Waits until all of it would outlast a power cut.
    ///
    /// # Errors
    /// As the disk has it.
    pub fn sync(&self) -> io::Result<()> {
        if self.path.is_some() { self.file.sync_data() } else { Ok(()) }
    }

    /// Deletes the file. Searches that read it go on to its end.
    ///
    /// # Errors
    /// As the disk has it; that somebody else has done it is none.
    pub fn remove(&self) -> io::Result<()> {
        match self.path.as_deref().map_or(Ok(()), std::fs::remove_file) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
