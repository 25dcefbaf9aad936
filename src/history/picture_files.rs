//! Pictures of stored rows: JPEG files in a folder a segment, below the history's. In: an encoded picture and the row that it is of, from the store's
//! thread; out: its file. Full: the oldest go one by one, until there is room. With a segment all its pictures go. Nothing else that lies there is
//! touched.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const FOLDER: &str = "pictures";

/// The picture of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PictureName {
    pub segment: u64,
    pub row: u64,
}

impl PictureName {
    /// As the API and its file have it.
    pub fn text(self) -> String {
        format!("{:016x}-{}.jpg", self.segment, self.row)
    }

    /// What [`Self::text`] made `text` of.
    pub fn parse(text: &str) -> Option<Self> {
        let (segment, row) = text.strip_suffix(".jpg")?.split_once('-')?;
        let name = Self { segment: u64::from_str_radix(segment, 16).ok()?, row: row.parse().ok()? };
        (name.text() == text).then_some(name)
    }

    /// Its file, in the history's folder.
    pub fn path(self, history: &Path) -> PathBuf {
        segment_folder(history, self.segment).join(self.text())
    }
}

fn segment_folder(history: &Path, segment: u64) -> PathBuf {
    history.join(FOLDER).join(format!("{segment:016x}"))
}

/// Deletes all pictures of a segment.
///
/// # Errors
/// As the disk has it; that there are none is no error.
pub fn remove_all(history: &Path, segment: u64) -> io::Result<()> {
    let folder = segment_folder(history, segment);
    for (row, _) in pictures(&folder, segment)? {
        remove(&PictureName { segment, row }.path(history))?;
    }
    match fs::remove_dir(folder) {
        // Somebody else's file lies there.
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => Err(error),
        _ => Ok(()),
    }
}

/// Deletes the picture of a row.
///
/// # Errors
/// As the disk has it; that there is none is no error.
pub fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Rows of a segment that have pictures, and their sizes.
fn pictures(folder: &Path, segment: u64) -> io::Result<BTreeMap<u64, u64>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_str().and_then(PictureName::parse).filter(|name| name.segment == segment);
        if let Some((name, metadata)) = name.zip(entry.metadata().ok()) {
            found.insert(name.row, metadata.len());
        }
    }
    Ok(found)
}

/// What is there, for the one who writes.
#[derive(Debug)]
pub struct PictureFiles {
    history: PathBuf,
    max_size: u64,
    bytes: u64,
    /// Sizes by segment and row: some 60 bytes a picture.
    sizes: BTreeMap<PictureName, u64>,
}

impl PictureFiles {
    /// Those below `history`. Takes as long as asking for the size of each.
    ///
    /// # Errors
    /// As the disk has it.
    pub fn open(history: &Path, max_size: u64) -> io::Result<Self> {
        let folder = history.join(FOLDER);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let mut sizes = BTreeMap::new();
        for entry in fs::read_dir(&folder)? {
            let name = entry?.file_name();
            let Some(text) = name.to_str().filter(|text| text.len() == 16) else { continue };
            let Ok(segment) = u64::from_str_radix(text, 16) else { continue };
            let rows = pictures(&folder.join(text), segment)?;
            sizes.extend(rows.into_iter().map(|(row, size)| (PictureName { segment, row }, size)));
        }
        let mut files = Self { history: history.to_owned(), max_size, bytes: sizes.values().sum(), sizes };
        files.make_room(0)?;
        Ok(files)
    }

    /// Bytes of all.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes one. Of those that are too large for all the room there is, none is kept.
    ///
    /// # Errors
    /// When it cannot be written; there is none then.
    pub fn write(&mut self, name: PictureName, jpeg: &[u8]) -> io::Result<()> {
        let size = jpeg.len() as u64;
        if size > self.max_size {
            return Err(io::Error::other("a picture is larger than `history.pictures.max_size`"));
        }
        self.make_room(size)?;
        let path = name.path(&self.history);
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        // One that lies there was written for a row that never came to be.
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
        if let Err(error) = file.and_then(|mut file| file.write_all(jpeg)) {
            let _ = remove(&path);
            return Err(error);
        }
        self.bytes += size;
        self.bytes -= self.sizes.insert(name, size).unwrap_or(0);
        Ok(())
    }

    /// Deletes one that no row has.
    pub fn take_back(&mut self, name: PictureName) {
        if remove(&name.path(&self.history)).is_ok() {
            self.bytes -= self.sizes.remove(&name).unwrap_or(0);
        }
    }

    /// Those of a segment have gone with it.
    pub fn forget(&mut self, segment: u64) {
        let of_segment = PictureName { segment, row: 0 }..=PictureName { segment, row: u64::MAX };
        let gone: Vec<PictureName> = self.sizes.range(of_segment).map(|(name, _)| *name).collect();
        for name in gone {
            self.bytes -= self.sizes.remove(&name).unwrap_or(0);
        }
    }

    fn make_room(&mut self, wanted: u64) -> io::Result<()> {
        while self.bytes.saturating_add(wanted) > self.max_size {
            let Some((name, size)) = self.sizes.first_key_value().map(|(name, size)| (*name, *size)) else { break };
            remove(&name.path(&self.history))?;
            self.sizes.remove(&name);
            self.bytes -= size;
            let is_last = self.sizes.first_key_value().is_none_or(|(next, _)| next.segment != name.segment);
            if is_last {
                // Somebody else's file may lie there.
                let _ = fs::remove_dir(segment_folder(&self.history, name.segment));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn name(segment: u64, row: u64) -> PictureName {
        PictureName { segment, row }
    }

    #[test]
    fn the_oldest_go_one_by_one_and_what_is_kept_is_known_again_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = PictureFiles::open(folder.path(), 1000).unwrap();
        for row in 0..30 {
            files.write(name(row / 10, row % 10), &[7; 100]).unwrap();
            assert!(files.bytes() <= 1000, "{}", files.bytes());
        }
        assert!(!folder.path().join("pictures/0000000000000001").exists(), "an empty folder goes too");
        fs::write(folder.path().join("pictures/0000000000000002/mine.txt"), "mine").unwrap();
        for row in 0..10 {
            let file = fs::metadata(name(2, row).path(folder.path())).unwrap();
            assert_eq!((file.len(), file.permissions().mode() & 0o777), (100, 0o600));
        }
        let mut files = PictureFiles::open(folder.path(), 450).unwrap();
        assert_eq!(files.bytes(), 400);
        assert!(files.write(name(3, 0), &[7; 451]).is_err());
        files.take_back(name(2, 9));
        assert_eq!(files.bytes(), 300);
        remove_all(folder.path(), 2).unwrap();
        files.forget(2);
        assert_eq!(files.bytes(), 0);
        assert!(folder.path().join("pictures/0000000000000002/mine.txt").exists(), "nothing else is touched");
    }

    #[test]
    fn a_name_is_one_that_was_made_here() {
        assert_eq!(PictureName::parse(&name(7, 12).text()), Some(name(7, 12)));
        for text in [
            "",
            ".jpg",
            "7-12.jpg",
            "../etc/passwd",
            "0000000000000007-012.jpg",
            "0000000000000007-12.png",
            "000000000000000A-1.jpg",
        ] {
            assert_eq!(PictureName::parse(text), None, "{text}");
        }
    }
}
