//! Bytes at a place: a file or a buffer, read by offset. In: an offset and a buffer to fill; out: exactly that many bytes or
//! an error. Nothing is mapped into memory: a file that is cut short while it is read gives an error, not a signal.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::ImportError;

/// Something with a length that can be read at any place, from any thread.
pub(super) trait Bytes: Send + Sync {
    fn len(&self) -> u64;
    /// Fills `buffer` from byte `at` on.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the end; whatever the file system says.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// An open regular file and its length at that moment.
#[derive(Debug)]
pub(super) struct FileBytes {
    file: File,
    len: u64,
}

impl FileBytes {
    /// Opens `path`.
    ///
    /// # Errors
    /// [`ImportError::Io`]; a folder or a pipe is refused too.
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let failed = |source| ImportError::Io { file: path.to_owned(), source };
        // Asked before opening: opening a pipe would wait for a writer.
        let meta = path.metadata().map_err(failed)?;
        if !meta.is_file() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        Ok(Self { file, len })
    }
}

impl Bytes for FileBytes {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }
}

impl Bytes for Vec<u8> {
    fn len(&self) -> u64 {
        self.as_slice().len() as u64
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let part = usize::try_from(at)
            .ok()
            .and_then(|from| self.get(from..from.checked_add(buffer.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(part);
        Ok(())
    }
}

/// The bytes `at..at + len` in a fresh buffer. The caller has checked that `len` is small.
pub(super) fn piece(bytes: &dyn Bytes, at: u64, len: usize) -> io::Result<Vec<u8>> {
    // Beyond the end nothing is allocated.
    if at.checked_add(len as u64).is_none_or(|end| end > bytes.len()) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut buffer = vec![0; len];
    bytes.read_at(at, &mut buffer)?;
    Ok(buffer)
}

/// A string of a foreign file, fit for a message: escaped and cut.
pub(super) fn shown(text: &str) -> String {
    const MAX_NAME_CHARS: usize = 200; // the longest tensor name of a published CLIP has 70 characters
    let mut shown: String = text.chars().take(MAX_NAME_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_NAME_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_beyond_the_end_is_an_error_for_buffers_and_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"abcd").unwrap();
        let file = FileBytes::open(&path).unwrap();
        let buffer = b"abcd".to_vec();
        for bytes in [&file as &dyn Bytes, &buffer] {
            assert_eq!(piece(bytes, 1, 3).unwrap(), b"bcd");
            for (at, len) in [(1, 4), (5, 0), (u64::MAX, 1), (0, usize::MAX)] {
                assert!(piece(bytes, at, len).is_err(), "{at} {len}");
            }
            assert!(bytes.read_at(u64::MAX, &mut [0]).is_err());
        }
        assert!(FileBytes::open(dir.path()).is_err());
    }

    #[test]
    fn a_foreign_name_is_escaped_and_cut_in_messages() {
        assert_eq!(shown("a\u{1b}[31m\n"), "a\\u{1b}[31m\\n");
        assert!(shown(&"x".repeat(500)).chars().count() == 201);
    }
}
