//! A file mapped instead of copied. In: a file that is not written to any more, and how much of it; out: its bytes, or `None` where they cannot be had
//! so, and are to be read instead. On the caller's thread, which waits for the disk. Whoever has the mapping decides how long it stays: making and
//! ending one costs as much as a copy.
//!
//! A mapped page that cannot be had is a signal (SIGBUS) that ends the process, a read that fails is an error. So pages are asked for each time
//! they are to be looked at ([`is_there`], `MADV_POPULATE_READ`): a disk that fails, a file that somebody has cut off, and a kernel
//! older than 5.14 say no there.

use std::fs::File;

use memmap2::{Advice, Mmap, MmapOptions};

/// The first `length` bytes of `file`, which has as many. Each part is to be asked for with [`is_there`] before it is looked at.
pub fn map(file: &File, length: usize) -> Option<Mmap> {
    if length == 0 || file.metadata().ok()?.len() < length as u64 {
        return None;
    }
    let mut options = MmapOptions::new();
    options.len(length);
    // SAFETY: What is mapped lies within what the file held just now. We never cut a segment that is full: it is only deleted as a whole, which
    // leaves its mapped pages as they are, or has rows overwritten in place by `history purge`, in another process. Bytes that change meanwhile are
    // as any other input: each is read by plain loads, is valid whatever it is, and no other memory is found by it. Somebody else who cuts the
    // file in the microseconds between being asked for and looked at ends the process, as one who kills it would; nothing unsound follows.
    let mapped = unsafe { options.map(file) }.ok()?;
    // From a disk it comes faster so; nothing depends on it.
    let _ = mapped.advise(Advice::Sequential);
    Some(mapped)
}

/// Brings a part of `mapped` into memory. `false`: it must not be looked at.
pub fn is_there(mapped: &Mmap, start: usize, length: usize) -> bool {
    start.checked_add(length).is_some_and(|end| end <= mapped.len())
        && mapped.advise_range(Advice::PopulateRead, start, length).is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn only_what_the_file_holds_is_mapped_and_what_was_cut_off_is_told_before_it_is_looked_at() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 30_000]).unwrap();
        assert!(map(&file, 30_001).is_none() && map(&file, 0).is_none());
        let mapped = map(&file, 30_000).unwrap();
        assert!(is_there(&mapped, 20_000, 10_000) && mapped.iter().all(|byte| *byte == 7));
        for (start, length) in [(20_000, 10_001), (30_001, 0), (usize::MAX, 2)] {
            assert!(!is_there(&mapped, start, length), "{start} {length}");
        }
        file.set_len(100).unwrap();
        assert!(!is_there(&mapped, 0, 30_000) && is_there(&mapped, 0, 100));
    }

    #[test]
    fn what_is_deleted_while_it_is_looked_at_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        std::fs::write(&path, [3; 9000]).unwrap();
        let mapped = map(&File::open(&path).unwrap(), 9000).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(is_there(&mapped, 0, 9000) && mapped.iter().all(|byte| *byte == 3));
    }
}
