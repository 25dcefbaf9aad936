//! One file from the hub into the store, resumed where an earlier attempt ended. In: a name with its size and hash; out: a
//! finished blob. Blocks the caller's thread; memory stays at one buffer.
//!
//! A partial file is named after the hash it will have, so that whatever lies in it belongs to it or is found out at the end.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use ureq::http::{HeaderMap, StatusCode, header};

use super::HubError;
use super::digest::{Digest, Hasher};
use super::hub_access::StopRequest;
use super::hub_cache::HubCache;
use super::hub_client::{Client, Failure};

/// Between two looks at the wish to stop.
const BUFFER: usize = 256 << 10;
/// An attempt that brought so much starts the count of attempts anew. It bounds the requests a file can cost.
const MOVED: u64 = 1 << 20;

/// A file with all that is known about it.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) commit: &'a str,
    pub(super) name: &'a str,
    pub(super) size: u64,
    pub(super) digest: &'a Digest,
}

/// The partial file, and the hash of what is in it.
struct Partial<'a> {
    path: &'a Path,
    file: File,
    have: u64,
    hasher: Hasher,
    /// Some of it came from an earlier run.
    resumed: bool,
}

/// Fetches `wanted` into `store`. `advance` is told how many bytes of the file are there.
///
/// # Errors
/// A hub that does not give it in several attempts; [`HubError::WrongHash`], with nothing left; a full disk; [`HubError::Stopped`], with
/// what is there kept for the next run.
pub(super) fn fetch(
    client: &Client<'_>,
    store: &HubCache,
    wanted: &Wanted<'_>,
    shutdown: &dyn StopRequest,
    advance: &mut dyn FnMut(u64),
) -> Result<(), HubError> {
    let path = store.partial(wanted.digest);
    let mut partial = Partial::open(&path, wanted, shutdown, advance)?;
    client.persist(wanted.name, &mut || {
        partial.fill(client, wanted, shutdown, advance)?;
        partial.check(wanted)
    })?;
    partial.file.sync_all().map_err(|source| disk(&path, source))?;
    drop(partial);
    store.keep(wanted.digest)
}

impl<'a> Partial<'a> {
    /// What an earlier run left, hashed again: it may have been cut off anywhere.
    fn open(
        path: &'a Path,
        wanted: &Wanted<'_>,
        shutdown: &dyn StopRequest,
        advance: &mut dyn FnMut(u64),
    ) -> Result<Self, HubError> {
        let failed = |source| disk(path, source);
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        let (mut have, mut hasher) = (0, wanted.digest.hasher(wanted.size));
        if file.metadata().map_err(failed)?.len() > wanted.size {
            file.set_len(0).map_err(failed)?;
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            if shutdown.is_requested() {
                return Err(HubError::Stopped);
            }
            let read = file.read(&mut buffer).map_err(failed)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            have += read as u64;
            advance(have);
        }
        if have > 0 {
            tracing::info!(target: "vtagd::model::hub::download", file = wanted.name, have, size = wanted.size, "going on where an earlier run ended");
        }
        Ok(Self { path, file, have, hasher, resumed: have > 0 })
    }

    /// From the start again.
    fn restart(&mut self, wanted: &Wanted<'_>) -> Result<(), HubError> {
        let failed = |source| disk(self.path, source);
        self.file.set_len(0).map_err(failed)?;
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        (self.have, self.hasher, self.resumed) = (0, wanted.digest.hasher(wanted.size), false);
        Ok(())
    }

    /// One request for what is missing.
    fn fill(
        &mut self,
        client: &Client<'_>,
        wanted: &Wanted<'_>,
        shutdown: &dyn StopRequest,
        advance: &mut dyn FnMut(u64),
    ) -> Result<(), Failure> {
        if self.have == wanted.size {
            return Ok(());
        }
        let answer = client.open(wanted.commit, wanted.name, self.have)?;
        if answer.entry.digest.as_ref().is_some_and(|told| told != wanted.digest && is_same_kind(told, wanted.digest)) {
            let message = format!("has the hash {} in the list of files and another one in its answer", wanted.digest);
            return Err(HubError::BadAnswer { what: format!("`{}`", wanted.name), message }.into());
        }
        match answer.status {
            StatusCode::PARTIAL_CONTENT if starts_at(&answer.headers, self.have, wanted.size) => {}
            // The whole file instead of the rest.
            StatusCode::OK if self.have > 0 => self.restart(wanted)?,
            StatusCode::OK => {}
            _ => {
                self.restart(wanted)?;
                return Err(client.cut(wanted.name, "the server gave another part than the one asked for", false));
            }
        }
        let before = self.have;
        let mut body = answer.body.into_reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            if shutdown.is_requested() {
                return Err(HubError::Stopped.into());
            }
            let read = match body.read(&mut buffer) {
                Ok(read) => read,
                Err(e) => return Err(client.cut(wanted.name, &e.to_string(), self.have - before >= MOVED)),
            };
            if read == 0 {
                break;
            }
            if self.have + read as u64 > wanted.size {
                self.discard();
                return Err(HubError::TooLong { file: wanted.name.to_owned(), size: wanted.size }.into());
            }
            self.file.write_all(&buffer[..read]).map_err(|source| disk(self.path, source))?;
            self.hasher.update(&buffer[..read]);
            self.have += read as u64;
            advance(self.have);
        }
        if self.have < wanted.size {
            let reason = format!("it ended after {} of {} bytes", self.have, wanted.size);
            return Err(client.cut(wanted.name, &reason, self.have - before >= MOVED));
        }
        Ok(())
    }

    /// Whether the whole is what it should be. What an earlier run left gets one more chance, from the start: a power cut may
    /// have left zeros in it.
    fn check(&mut self, wanted: &Wanted<'_>) -> Result<(), Failure> {
        let found = self.hasher.clone().finish();
        if found == *wanted.digest {
            return Ok(());
        }
        let file = wanted.name.to_owned();
        let error = HubError::WrongHash { file, wanted: wanted.digest.clone(), found };
        if self.resumed {
            self.restart(wanted)?;
            return Err(Failure::Again { error, after: None, moved: false });
        }
        self.discard();
        Err(error.into())
    }

    fn discard(&self) {
        // It is worth nothing; one that stays is found out by the next run.
        let _ = std::fs::remove_file(self.path);
    }
}

fn is_same_kind(one: &Digest, other: &Digest) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}

/// Whether `Content-Range: bytes FROM-END/SIZE` is the rest that was asked for.
fn starts_at(headers: &HeaderMap, from: u64, size: u64) -> bool {
    let range = headers.get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok()?.trim().strip_prefix("bytes "));
    let Some((range, total)) = range.and_then(|range| range.split_once('/')) else { return false };
    let start = range.split_once('-').and_then(|(start, _)| start.trim().parse::<u64>().ok());
    start == Some(from) && (total == "*" || total.parse() == Ok(size))
}

fn disk(path: &Path, source: std::io::Error) -> HubError {
    HubError::Disk { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_rest_of_the_same_file_is_taken_for_the_rest() {
        let range = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, text.parse().unwrap());
            starts_at(&headers, 10, 100)
        };
        assert!(range("bytes 10-99/100") && range("bytes 10-49/*"));
        for bad in ["bytes 0-99/100", "bytes 10-99/101", "10-99/100", "bytes */100", "bytes x-99/100", ""] {
            assert!(!range(bad), "{bad}");
        }
        assert!(!starts_at(&HeaderMap::new(), 10, 100));
    }
}
