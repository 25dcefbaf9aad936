//! The folder of pictures: written whole or not at all, also across a power cut, bounded in size and age. Used by one thread.
//!
//! Events come first: while the disk has less room than [`RESERVE`], the oldest pictures go, and when none is left no new one is written.
//! Ages run on the monotonic clock while the daemon runs: a wall clock that jumps deletes nothing. Files that are not named like ours are
//! neither counted nor touched, nor are those that lie there when another daemon uses the folder: then this one knows only its own.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;

use super::snapshot_listing::SnapshotListing;
use crate::platform::atomic_file::{self, Durability};

/// What is left free for events, on a disk that pictures and the outbox may share; a twentieth of a small one.
const RESERVE: u64 = 64 << 20;

/// Free bytes of the disk that a folder lies on, and of how many; `None`: nobody knows.
pub type Room = fn(&Path) -> Option<(u64, u64)>;

/// Makes bytes what lies at a place.
type Replace = fn(&Path, &[u8], Durability) -> io::Result<()>;

fn room(folder: &Path) -> Option<(u64, u64)> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some((disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize)))
}

/// The file of a tag's picture; `which` is `start` or `best`.
pub fn name(tag: Uuid, which: &str) -> String {
    format!("{tag}-{which}.jpg")
}

/// Whether `name` is one that [`name`] makes.
pub fn is_name(name: &str) -> bool {
    parts(name).is_some()
}

/// The tag and which picture of it, out of a name that [`name`] makes.
pub fn parts(name: &str) -> Option<(Uuid, &'static str)> {
    let (tag, which) = name.strip_suffix(".jpg")?.rsplit_once('-')?;
    let which = ["start", "best"].into_iter().find(|known| *known == which)?;
    // Only the form that is written, so that one picture has one name.
    Uuid::try_parse(tag).ok().filter(|uuid| uuid.to_string() == tag).map(|uuid| (uuid, which))
}

/// One daemon a folder may take what lies there for its own. A file system without locks has one daemon.
fn lock(folder: &Path) -> Option<File> {
    let folder = File::open(folder).ok()?;
    match folder.try_lock() {
        Err(TryLockError::WouldBlock) => None,
        _ => Some(folder),
    }
}

/// See the module.
pub struct SnapshotStore {
    folder: PathBuf,
    /// Held as long as the store is; `None`: another daemon has it.
    _lock: Option<File>,
    max_size: u64,
    max_age: Duration,
    /// By age: since when it has been there, as far as the monotonic clock goes back, and a number that keeps equal times apart.
    by_age: BTreeMap<(Instant, u64), String>,
    /// Size and place in `by_age`.
    files: HashMap<String, (u64, (Instant, u64))>,
    size: u64,
    next: u64,
    room: Room,
    /// [`atomic_file::replace`].
    replace: Replace,
    /// Pictures have gone for lack of room, and the log was told.
    crowded: bool,
    /// The same for others, by wall clock.
    pub listing: Arc<SnapshotListing>,
}

impl SnapshotStore {
    /// Opens the folder and finds what is there; what was half written is removed.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn open(folder: &Path, max_size: u64, max_age: Duration, now: Instant) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let lock = lock(folder);
        let alone = lock.is_some();
        let mut store = Self {
            folder: folder.to_owned(),
            _lock: lock,
            max_size,
            max_age,
            by_age: BTreeMap::new(),
            files: HashMap::new(),
            size: 0,
            next: 0,
            room,
            replace: atomic_file::replace,
            crowded: false,
            listing: Arc::new(SnapshotListing::new(folder)),
        };
        let wall = SystemTime::now();
        let mut found = Vec::new();
        if !alone {
            tracing::warn!(
                folder = %folder.display(),
                "another daemon keeps its pictures here too: those of earlier runs stay until that one finds them too old; name a folder of its own \
                 in `snapshots.path`"
            );
        }
        for entry in fs::read_dir(folder)?.take_while(|_| alone) {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if atomic_file::meant_for(&name).is_some_and(is_name) {
                // From a run that was cut off.
                let _ = fs::remove_file(entry.path());
            } else if is_name(&name)
                && let Ok(metadata) = entry.metadata()
            {
                let written = metadata.modified().unwrap_or(wall);
                let age = wall.duration_since(written).unwrap_or_default();
                found.push((age, name, metadata.len(), written));
            }
        }
        // Oldest first; the monotonic clock may not go back far enough, order stays all the same.
        found.sort_by(|a, b| b.cmp(a));
        for (age, name, size, written) in found {
            let since = now.checked_sub(age);
            if since.is_none() && age > max_age {
                let _ = fs::remove_file(folder.join(&name));
                continue;
            }
            let oldest = store.by_age.last_key_value().map_or(now, |(key, _)| key.0);
            store.note(name, size, since.unwrap_or(oldest), written);
        }
        store.sweep(now);
        Ok(store)
    }

    /// Writes a picture, and deletes the oldest ones that there is no room for any more.
    ///
    /// # Errors
    /// When it cannot be written, or the disk has no room that events may not need. A picture of that name is as it was.
    pub fn write(&mut self, name: &str, jpeg: &[u8], now: Instant) -> io::Result<()> {
        self.make_room(jpeg.len() as u64);
        if self.missing(jpeg.len() as u64) > 0 {
            let why = "the disk is nearly full, and what room there is is kept for events";
            return Err(io::Error::new(io::ErrorKind::StorageFull, why));
        }
        // A picture may be lost with its name; half a picture under it would be shown.
        (self.replace)(&self.folder.join(name), jpeg, Durability::WholeOrNothing)?;
        self.note(name.to_owned(), jpeg.len() as u64, now, SystemTime::now());
        self.sweep(now);
        Ok(())
    }

    /// How much less is left for events than is kept for them, once `more` is written.
    fn missing(&self, more: u64) -> u64 {
        let kept = |(free, of): (u64, u64)| RESERVE.min(of / 20).saturating_add(more).saturating_sub(free);
        (self.room)(&self.folder).map_or(0, kept)
    }

    /// Deletes as many of the oldest pictures as there is room missing for events, and for `more`. No more than that: some file systems give
    /// the room of what is deleted back later, and are asked again at the next sweep.
    fn make_room(&mut self, more: u64) {
        let (mut missing, mut gone) = (self.missing(more), 0);
        while missing > 0
            && let Some(((since, number), _)) = self.by_age.first_key_value()
        {
            let before = self.size;
            self.delete((*since, *number));
            missing = missing.saturating_sub(before - self.size);
            gone += 1;
        }
        if gone > 0 && !std::mem::replace(&mut self.crowded, true) {
            tracing::warn!(
                folder = %self.folder.display(),
                pictures = gone,
                "the disk is nearly full: the oldest pictures of tags go, as events come first"
            );
        }
        self.crowded &= gone > 0 || self.missing(more) > 0;
    }

    fn delete(&mut self, key: (Instant, u64)) {
        let Some(name) = self.by_age.remove(&key) else { return };
        if let Some((size, _)) = self.files.remove(&name) {
            self.size -= size;
        }
        self.listing.remove(&name);
        // Somebody else may have deleted it.
        let _ = fs::remove_file(self.folder.join(&name));
    }

    /// Deletes what is too old or too much, or in the way of events.
    pub fn sweep(&mut self, now: Instant) {
        self.make_room(0);
        while let Some((key, _)) = self.by_age.first_key_value() {
            let old = now.saturating_duration_since(key.0) > self.max_age;
            // The newest stays even if it alone is too large: its event has told its address a moment ago.
            if !old && (self.size <= self.max_size || self.files.len() == 1) {
                break;
            }
            let key = *key;
            self.delete(key);
        }
        metrics::gauge!("vtagd_snapshots_bytes").set(self.size as f64);
    }

    fn note(&mut self, name: String, size: u64, since: Instant, written: SystemTime) {
        self.listing.note(&name, size, written);
        let key = (since, self.next);
        self.next += 1;
        if let Some((old, place)) = self.files.insert(name.clone(), (size, key)) {
            self.size -= old;
            self.by_age.remove(&place);
        }
        self.by_age.insert(key, name);
        self.size += size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn tag(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    /// What a process leaves that is killed while it writes a picture.
    fn left_over(n: u128) -> String {
        format!(".{}.{}.tmp", name(tag(n), "start"), Uuid::now_v7())
    }

    #[test]
    fn the_oldest_go_when_there_is_too_much_and_a_restart_knows_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let open = || SnapshotStore::open(folder.path(), 250, Duration::from_secs(3600), now).unwrap();
        let mut store = open();
        for n in 1..=3 {
            store.write(&name(tag(n), "start"), &[0; 100], now + Duration::from_secs(n as u64)).unwrap();
        }
        assert_eq!(names(folder.path()), [name(tag(2), "start"), name(tag(3), "start")]);
        drop(store);
        fs::write(folder.path().join("holiday.jpg"), [0; 1000]).unwrap();
        fs::write(folder.path().join(left_over(9)), [0; 1000]).unwrap();
        let mut store = open();
        store.write(&name(tag(4), "best"), &[0; 100], now + Duration::from_secs(9)).unwrap();
        let left = names(folder.path());
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(left.contains(&"holiday.jpg".to_owned()) && left.contains(&name(tag(4), "best")));
    }

    #[test]
    fn pictures_make_room_for_events_and_none_is_written_where_there_is_none() {
        thread_local! {
            static FREE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
        }
        const ALL: u64 = 1 << 40;
        // Each picture that is there takes 100 bytes of what is free.
        fn room(folder: &Path) -> Option<(u64, u64)> {
            Some((FREE.get().saturating_sub(100 * names(folder).len() as u64), ALL))
        }
        let folder = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut store = SnapshotStore::open(folder.path(), 1 << 30, Duration::from_secs(3600), now).unwrap();
        store.room = room;
        FREE.set(RESERVE + 1000);
        for n in 1..=5 {
            store.write(&name(tag(n), "start"), &[0; 100], now).unwrap();
        }
        assert_eq!(store.files.len(), 5);
        FREE.set(RESERVE + 250);
        store.sweep(now);
        assert_eq!(names(folder.path()), [name(tag(4), "start"), name(tag(5), "start")], "the oldest go");
        store.write(&name(tag(6), "start"), &[0; 100], now).unwrap();
        assert_eq!(names(folder.path()), [name(tag(5), "start"), name(tag(6), "start")]);
        FREE.set(RESERVE / 2);
        let error = store.write(&name(tag(7), "start"), &[0; 100], now).unwrap_err();
        assert_eq!((error.kind(), names(folder.path()).len(), store.size), (io::ErrorKind::StorageFull, 0, 0));
        FREE.set(RESERVE * 2);
        store.write(&name(tag(8), "start"), &[0; 100], now).unwrap();
    }

    #[test]
    fn a_picture_is_on_the_disk_before_it_has_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut store = SnapshotStore::open(folder.path(), 1000, Duration::from_secs(3600), now).unwrap();
        store.replace = |path, jpeg, durability| {
            assert_eq!(
                durability,
                Durability::WholeOrNothing,
                "it is synced; vtagd-checkpoint's own tests count how often"
            );
            atomic_file::replace(path, jpeg, durability)
        };
        store.write(&name(tag(1), "start"), &[0; 100], now).unwrap();
        assert_eq!(names(folder.path()), [name(tag(1), "start")]);
    }

    #[test]
    fn a_second_daemon_in_the_same_folder_deletes_nothing_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let open = |max_size| SnapshotStore::open(folder.path(), max_size, Duration::from_secs(3600), now).unwrap();
        let mut first = open(1000);
        first.write(&name(tag(1), "start"), &[0; 100], now).unwrap();
        let part = left_over(9);
        fs::write(folder.path().join(&part), "half written").unwrap();
        let mut second = open(150);
        for n in 2..5 {
            second.write(&name(tag(n), "start"), &[0; 100], now + Duration::from_secs(n as u64)).unwrap();
        }
        assert_eq!(names(folder.path()), [part, name(tag(1), "start"), name(tag(4), "start")]);
        drop((first, second));
        assert_eq!(open(1000).files.len(), 2, "alone again, it knows what lies there");
    }

    #[test]
    fn a_picture_that_is_written_again_counts_once_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut store = SnapshotStore::open(folder.path(), 1000, Duration::from_secs(60), now).unwrap();
        for _ in 0..20 {
            store.write(&name(tag(1), "best"), &[0; 100], now).unwrap();
        }
        store.write(&name(tag(2), "start"), &[0; 100], now + Duration::from_secs(50)).unwrap();
        assert_eq!(store.size, 200);
        store.sweep(now + Duration::from_secs(61));
        assert_eq!((names(folder.path()), store.size), (vec![name(tag(2), "start")], 100));
    }

    #[test]
    fn only_our_own_names_are_names() {
        assert!(is_name(&name(Uuid::now_v7(), "best")));
        let upper = name(Uuid::now_v7(), "best").to_uppercase();
        for bad in ["", "../x.jpg", "a-start.jpg", "start.jpg", &upper, "00000000000000000000000000000001-start.jpg"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
