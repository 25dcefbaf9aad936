//! What pictures are kept, newest first, for who asks. Written by the thread of the pictures, read by the API's, which may wait for a disk; nobody
//! waits for the disk with the lock.
//!
//! What a picture is of stands in it, as a comment of the JPEG, so that it is known after a restart too; it is read when it is first asked for.
//! As large as the folder is: what goes there goes here.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::picture_store::{name, parts};

/// Begins a comment that is ours.
const MARK: &[u8] = b"vtagd ";
/// The comment ends within so many bytes of a file, or there is none.
const HEAD: u64 = 4096;
/// Files that are opened for one page; where more would have to be, it is a short one.
const MAX_READS: usize = 1000;
/// Pictures that are looked at with the lock.
const CHUNK: usize = 256;

/// What a picture is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotOrigin {
    pub stream: String,
    /// Of a stream with regions; pictures of earlier versions do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    pub set: String,
    pub label: String,
}

impl SnapshotOrigin {
    /// `jpeg` with a comment that says this, behind the segment that has to come first.
    pub fn write_into(&self, mut jpeg: Vec<u8>) -> Vec<u8> {
        let comment = [MARK, &serde_json::to_vec(self).unwrap_or_default()].concat();
        let Ok(length) = u16::try_from(comment.len() + 2) else { return jpeg };
        let at = match jpeg.get(2..6) {
            Some([0xff, 0xe0, high, low]) => 4 + usize::from(u16::from_be_bytes([*high, *low])),
            Some(_) => 2,
            None => return jpeg,
        };
        if at <= jpeg.len() {
            let [high, low] = length.to_be_bytes();
            let segment = [&[0xff, 0xfe, high, low], &comment[..]].concat();
            jpeg.splice(at..at, segment);
        }
        jpeg
    }

    /// What the beginning of a file says; `None`: nothing.
    fn of_head(mut head: &[u8]) -> Option<Self> {
        head = head.strip_prefix(&[0xff, 0xd8])?;
        // Segments: a marker, and a length that counts itself. Pictures are coded behind them all.
        while let [0xff, kind, high, low, rest @ ..] = head {
            if *kind == 0xda {
                return None;
            }
            let length = usize::from(u16::from_be_bytes([*high, *low])).checked_sub(2)?;
            let (content, next) = rest.split_at_checked(length)?;
            if *kind == 0xfe
                && let Some(said) = content.strip_prefix(MARK)
            {
                return serde_json::from_slice(said).ok();
            }
            head = next;
        }
        None
    }

    fn of_file(path: &Path) -> Option<Self> {
        let mut head = Vec::new();
        File::open(path).ok()?.take(HEAD).read_to_end(&mut head).ok()?;
        Self::of_head(&head)
    }
}

/// A place in the order of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotPosition {
    /// When it was written, Unix milliseconds.
    time: i64,
    tag: Uuid,
    best: bool,
}

/// What a cursor begins with, and its hexadecimal digits.
pub const CURSOR: (char, usize) = ('s', 49);

impl SnapshotPosition {
    /// For others, who need not know what it means.
    pub fn cursor(self) -> String {
        format!("{}{:016x}{}{}", CURSOR.0, self.time, self.tag.simple(), u8::from(self.best))
    }

    /// `None`: this is none of ours.
    pub fn of_cursor(cursor: &str) -> Option<Self> {
        let digits = cursor.strip_prefix(CURSOR.0).filter(|digits| digits.len() == CURSOR.1 && digits.is_ascii())?;
        let (time, rest) = digits.split_at_checked(16)?;
        let (tag, best) = rest.split_at_checked(32)?;
        let time = u64::from_str_radix(time, 16).ok()?.cast_signed();
        Some(Self { time, tag: Uuid::try_parse(tag).ok()?, best: best != "0" })
    }
}

/// Which pictures; what is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct SnapshotQuery {
    pub stream: Option<String>,
    pub region: Option<String>,
    pub set: Option<String>,
    pub label: Option<String>,
    /// Unix milliseconds: from this on …
    pub since: Option<i64>,
    /// … and before this.
    pub until: Option<i64>,
}

impl SnapshotQuery {
    fn wants(&self, origin: Option<&SnapshotOrigin>) -> bool {
        let is = |wanted: &Option<String>, found: Option<&String>| wanted.is_none() || wanted.as_ref() == found;
        is(&self.stream, origin.map(|origin| &origin.stream))
            && is(&self.region, origin.and_then(|origin| origin.region.as_ref()))
            && is(&self.set, origin.map(|origin| &origin.set))
            && is(&self.label, origin.map(|origin| &origin.label))
    }
}

/// A picture that is kept.
#[derive(Clone, Debug)]
pub struct KeptPicture {
    pub name: String,
    pub tag: Uuid,
    /// `start` or `best`.
    pub kind: &'static str,
    /// When it was written.
    pub time: jiff::Timestamp,
    pub bytes: u64,
    /// `None`: of a version that did not say.
    pub origin: Option<Arc<SnapshotOrigin>>,
}

/// What is known of a file.
#[derive(Clone, Debug)]
struct Listed {
    bytes: u64,
    /// `None`: it was not looked at yet.
    origin: Option<Option<Arc<SnapshotOrigin>>>,
}

/// See the module.
#[derive(Debug)]
pub struct SnapshotListing {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pictures: BTreeMap<SnapshotPosition, Listed>,
    times: HashMap<(Uuid, bool), i64>,
}

impl SnapshotListing {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), state: Mutex::default() }
    }

    /// The picture called `name` is there, written anew perhaps.
    pub fn note(&self, name: &str, bytes: u64, written: SystemTime) {
        let Some((tag, which)) = parts(name) else { return };
        let since = written.duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = i64::try_from(since.as_millis()).unwrap_or_default();
        let mut state = self.state.lock();
        state.remove((tag, which == "best"));
        let position = SnapshotPosition { time, tag, best: which == "best" };
        state.times.insert((tag, position.best), time);
        state.pictures.insert(position, Listed { bytes, origin: None });
    }

    /// The picture called `name` is gone.
    pub fn remove(&self, name: &str) {
        if let Some((tag, which)) = parts(name) {
            self.state.lock().remove((tag, which == "best"));
        }
    }

    /// At most `limit` pictures that were written before `before`, newest first, and where the next page begins; `None`: there is none.
    pub fn page(
        &self,
        query: &SnapshotQuery,
        before: Option<SnapshotPosition>,
        limit: usize,
    ) -> (Vec<KeptPicture>, Option<SnapshotPosition>) {
        let until = query.until.map(|time| SnapshotPosition { time, tag: Uuid::nil(), best: false });
        let mut before = [before, until].into_iter().flatten().min();
        let (mut found, mut last, mut reads) = (Vec::new(), None, 0);
        loop {
            let chunk = self.state.lock().chunk(before, query.since);
            for (position, listed) in &chunk {
                if found.len() >= limit || reads >= MAX_READS {
                    return (found, last);
                }
                let origin = listed.origin.clone().unwrap_or_else(|| {
                    reads += 1;
                    self.look(*position)
                });
                if query.wants(origin.as_deref()) {
                    found.push(position.picture(listed.bytes, origin));
                }
                last = Some(*position);
            }
            if chunk.len() < CHUNK {
                return (found, None);
            }
            before = last;
        }
    }

    /// Reads out of its file what a picture is of, and remembers it.
    fn look(&self, position: SnapshotPosition) -> Option<Arc<SnapshotOrigin>> {
        let origin = SnapshotOrigin::of_file(&self.folder.join(position.name())).map(Arc::new);
        if let Some(listed) = self.state.lock().pictures.get_mut(&position) {
            listed.origin = Some(origin.clone());
        }
        origin
    }
}

impl SnapshotPosition {
    fn kind(self) -> &'static str {
        if self.best { "best" } else { "start" }
    }

    fn name(self) -> String {
        name(self.tag, self.kind())
    }

    fn picture(self, bytes: u64, origin: Option<Arc<SnapshotOrigin>>) -> KeptPicture {
        let time = jiff::Timestamp::from_millisecond(self.time).unwrap_or_default();
        KeptPicture { name: self.name(), tag: self.tag, kind: self.kind(), time, bytes, origin }
    }
}

impl State {
    fn remove(&mut self, (tag, best): (Uuid, bool)) {
        if let Some(time) = self.times.remove(&(tag, best)) {
            self.pictures.remove(&SnapshotPosition { time, tag, best });
        }
    }

    /// Some pictures before `before`, newest first; fewer than [`CHUNK`]: all that there are, from `since` on.
    fn chunk(&self, before: Option<SnapshotPosition>, since: Option<i64>) -> Vec<(SnapshotPosition, Listed)> {
        let older = match before {
            Some(before) => self.pictures.range(..before),
            None => self.pictures.range(..),
        };
        let wanted = older.rev().take_while(|(position, _)| since.is_none_or(|since| position.time >= since));
        wanted.take(CHUNK).map(|(position, listed)| (*position, listed.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn jpeg() -> Vec<u8> {
        let picture = crate::frame::Picture::from_rgb(8, 8, vec![100; 8 * 8 * 3]).unwrap();
        super::super::jpeg(&picture, 100, 80).unwrap()
    }

    fn origin(stream: &str, label: &str) -> SnapshotOrigin {
        SnapshotOrigin { stream: stream.into(), region: Some("door".into()), set: "lot".into(), label: label.into() }
    }

    #[test]
    fn what_a_picture_is_of_is_read_out_of_it_and_it_can_still_be_opened() {
        let origin = origin("gate", "a \"car\" é");
        let whole = origin.write_into(jpeg());
        assert_eq!(SnapshotOrigin::of_head(&whole), Some(origin.clone()));
        assert_eq!(image::load_from_memory(&whole).unwrap().to_rgb8().dimensions(), (8, 8));
        assert_eq!(SnapshotOrigin::of_head(&jpeg()), None, "one of an older version");
        // Whatever lies there instead of a picture.
        for end in 0..whole.len() {
            let _ = SnapshotOrigin::of_head(&whole[..end]);
        }
        for wrong in [&b""[..], b"\xff\xd8", b"\xff\xd8\xff\xfe\x00\x00", b"\xff\xd8\xff\xfe\x00\x08vtagd {", b"text"] {
            assert_eq!(SnapshotOrigin::of_head(wrong), None);
            assert!(origin.write_into(wrong.to_vec()).len() >= wrong.len());
        }
    }

    #[test]
    fn pictures_are_listed_newest_first_and_filtered_also_those_of_an_earlier_run() {
        let folder = tempfile::tempdir().unwrap();
        let listing = SnapshotListing::new(folder.path());
        let written = |second: u64| UNIX_EPOCH + Duration::from_secs(second);
        let mut names = Vec::new();
        for number in 0..1200_u64 {
            let name = name(Uuid::from_u128(u128::from(number)), if number % 2 == 0 { "start" } else { "best" });
            let label = if number % 3 == 0 { "car" } else { "bus" };
            let bytes = if number == 5 {
                jpeg()
            } else {
                origin(if number < 3 { "yard" } else { "gate" }, label).write_into(jpeg())
            };
            std::fs::write(folder.path().join(&name), &bytes).unwrap();
            listing.note(&name, bytes.len() as u64, written(number / 4));
            names.push(name);
        }
        let all = |query: &SnapshotQuery, limit: usize| {
            let (mut all, mut before, mut pages) = (Vec::new(), None, 0);
            loop {
                let (page, next) = listing.page(query, before, limit);
                assert!(page.len() <= limit);
                all.extend(page);
                pages += 1;
                let Some(next) = next else { return (all, pages) };
                assert_eq!(SnapshotPosition::of_cursor(&next.cursor()), Some(next));
                before = Some(next);
            }
        };
        let yard = SnapshotQuery { stream: Some("yard".into()), ..SnapshotQuery::default() };
        let (found, pages) = all(&yard, 100);
        assert_eq!((found.len(), pages), (3, 2), "no more files are opened for one page than there may be");
        assert_eq!(all(&yard, 100).1, 1, "and none twice");
        let expected: Vec<&String> = names.iter().rev().collect();
        for limit in [1, 7, 256, 1000, 5000] {
            let (found, _) = all(&SnapshotQuery::default(), limit);
            assert_eq!(found.iter().map(|picture| &picture.name).collect::<Vec<_>>(), expected, "{limit}");
        }
        let cars = SnapshotQuery {
            label: Some("car".into()),
            since: Some(10_000),
            until: Some(20_000),
            ..SnapshotQuery::default()
        };
        let (found, _) = all(&cars, 5);
        let expected: Vec<&String> =
            names[40..80].iter().enumerate().filter(|(at, _)| (at + 40) % 3 == 0).map(|(_, name)| name).rev().collect();
        assert_eq!(found.iter().map(|picture| &picture.name).collect::<Vec<_>>(), expected);
        let nowhere = SnapshotQuery { region: Some("left".into()), ..SnapshotQuery::default() };
        assert!(all(&nowhere, 1000).0.is_empty());
        let (old, _) = all(&SnapshotQuery { until: Some(2000), ..SnapshotQuery::default() }, 100);
        assert!(old[2].origin.is_none() && old[1].origin.is_some() && old[2].bytes == jpeg().len() as u64);

        // Written anew it is the newest, and one that went is not there.
        listing.note(&names[0], 7, written(9999));
        listing.remove(&names[1199]);
        let (found, _) = all(&SnapshotQuery::default(), 1000);
        assert_eq!((found.len(), &found[0].name, found[0].bytes, &found[1].name), (1199, &names[0], 7, &names[1198]));
    }

    #[test]
    fn a_cursor_of_somebody_else_is_none() {
        let events = format!("e{}", "0".repeat(32));
        for wrong in ["", "s", &events, &format!("s{}", "g".repeat(49)), &format!("s{}é", "0".repeat(47))] {
            assert_eq!(SnapshotPosition::of_cursor(wrong), None, "{wrong}");
        }
    }
}
