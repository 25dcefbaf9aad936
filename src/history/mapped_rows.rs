//! A file mapped instead of copied. In: a file that is not written to any more, and how much of it; out: its bytes, or `None` where they cannot be had
//! so, and are to be read instead. On the caller's thread, which waits for the disk. Whoever has the mapping decides how long it stays: making and
//! ending one costs as much as a copy.
//!
//! A mapped page that cannot be had is a signal (SIGBUS) that ends the process, a read that fails is an error. So pages are asked for each time
//! they are to be looked at ([`MappedRows::part`]): a disk that fails, a file that somebody has cut off, and a kernel
//! older than 5.14 say no there. Those that are in memory already are known by `mincore`, which costs a tenth of asking for each of them once more
//! (`MADV_POPULATE_READ`). It tells the truth to the owner of a file alone, so others ask for all of them.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use memmap2::{Advice, Mmap, MmapOptions};

/// Pages that are asked about at once, at most: what a search looks at in one go has half as many.
const MOST_PAGES: usize = 512;

/// See the module.
#[derive(Debug)]
pub struct MappedRows {
    mapped: Mmap,
    /// `mincore` says what is so.
    is_owner: bool,
}

/// The first `length` bytes of `file`, which has as many.
pub fn map(file: &File, length: usize) -> Option<MappedRows> {
    let metadata = file.metadata().ok()?;
    if length == 0 || metadata.len() < length as u64 {
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
    Some(MappedRows { mapped, is_owner: metadata.uid() == rustix::process::geteuid().as_raw() })
}

impl MappedRows {
    /// A part, brought into memory. `None`: it must not be looked at.
    pub fn part(&self, start: usize, length: usize) -> Option<&[u8]> {
        let part = self.mapped.get(start..start.checked_add(length)?)?;
        let is_there =
            self.is_in_memory(start, length) || self.mapped.advise_range(Advice::PopulateRead, start, length).is_ok();
        is_there.then_some(part)
    }

    pub fn bytes(&self) -> usize {
        self.mapped.len()
    }

    fn is_in_memory(&self, start: usize, length: usize) -> bool {
        let page = rustix::param::page_size();
        let (from, pages) = (start / page * page, (start % page + length).div_ceil(page));
        let mut there = [0_u8; MOST_PAGES];
        if !self.is_owner || pages > MOST_PAGES {
            return false;
        }
        // SAFETY: It begins at a page, as the mapping does, and ends where the mapping ends at the latest (`part` has looked); there is a byte for
        // each page.
        let asked = unsafe {
            libc::mincore(self.mapped.as_ptr().add(from).cast_mut().cast(), length + start - from, there.as_mut_ptr())
        };
        asked == 0 && there[..pages].iter().all(|page| page & 1 == 1)
    }
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
        assert!(mapped.is_owner && mapped.bytes() == 30_000);
        let stranger = MappedRows { is_owner: false, ..map(&file, 30_000).unwrap() };
        for mapped in [&mapped, &stranger] {
            assert_eq!(mapped.part(20_001, 9_999), Some(&[7; 9_999][..]));
            assert_eq!(mapped.part(0, 30_000).map(<[u8]>::len), Some(30_000));
            for (start, length) in [(20_000, 10_001), (30_001, 0), (usize::MAX, 2)] {
                assert!(mapped.part(start, length).is_none(), "{start} {length}");
            }
        }
        // Now they are in memory, and only an owner is told so.
        assert!(mapped.is_in_memory(1, 29_999) && !stranger.is_in_memory(1, 29_999));
        file.set_len(100).unwrap();
        for mapped in [&mapped, &stranger] {
            assert!(mapped.part(0, 30_000).is_none() && mapped.part(0, 100).is_some());
        }
    }

    #[test]
    fn what_is_deleted_while_it_is_looked_at_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        std::fs::write(&path, [3; 9000]).unwrap();
        let mapped = map(&File::open(&path).unwrap(), 9000).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(mapped.part(0, 9000), Some(&[3; 9000][..]));
    }
}
