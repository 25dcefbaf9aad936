//! A model folder from a Hugging Face hub. Comes in: a repository's name; goes out: a folder that `model import` or
//! [`Bundle`](crate::Bundle) reads. Blocks the caller's thread; the wish to stop is looked at between two buffers, and
//! nothing that looks finished is left by whatever ends it, `kill -9` included.
//!
//! ```text
//! listing ─► select ─► download (resume, hash) ─► store ─► folder with hub.json
//! ```
//!
//! The hub is not trusted: names are checked before they become paths, sizes before they are read, contents before they are kept.

mod digest;
mod download;
mod error;
mod file_selection;
mod hub_access;
mod hub_cache;
mod hub_client;
mod listing;
mod name;
pub mod origin;
mod reference;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

pub use digest::Digest;
pub use error::HubError;
pub use hub_access::{HubSettings, HubToken, NeverStopped, StopRequest};
pub use name::Repo;
pub use origin::{Origin, OriginFile};
pub use reference::Reference;
pub use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::atomic_file;
use crate::import;
use crate::json_text;
use crate::unfinished_folder::is_free;
use download::Wanted;
use file_selection::Choice;
use hub_cache::HubCache;
use hub_client::Client;
use listing::Listing;

/// The branch that is pulled when nobody names another.
pub const REVISION: &str = "main";
/// Attempts after the first, unless someone wants another number.
pub const RETRIES: u32 = 4;

/// Longest JSON file that is read to choose by; the index of the largest CLIP has 150 kB.
const MAX_JSON_BYTES: u64 = 16 << 20;

/// What to pull.
#[derive(Clone, Debug)]
pub struct Request {
    /// The repository.
    pub repo: Repo,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// Patterns of files to take instead of our choice.
    pub include: Vec<String>,
    /// The folder to make; the cache's own if `None`.
    pub out: Option<PathBuf>,
    /// Attempts after the first, each time.
    pub retries: u32,
}

/// What happens meanwhile.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are named after what they are")]
pub enum PullEvent<'a> {
    /// The files are chosen.
    Chosen {
        /// The revision's.
        commit: &'a str,
        /// What was found, for people.
        what: &'a str,
        /// How many.
        files: usize,
        /// Their sizes together.
        bytes: u64,
        /// Of those, what is still to be fetched.
        missing: u64,
        /// Names in the repository that were not chosen.
        left: Vec<&'a str>,
    },
    /// So many bytes of all that are wanted are there.
    Progress { file: &'a str, done: u64, total: u64 },
    /// The hub does not answer, and the cache has everything: that is taken.
    Away { error: &'a HubError, commit: &'a str },
}

/// What was pulled.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The folder.
    pub dir: PathBuf,
    /// Where it came from.
    pub origin: Origin,
    /// Bytes that had to be fetched.
    pub fetched: u64,
}

/// Pulls. A hub that does not answer is no error where the cache has everything of the revision as it was last seen.
///
/// # Errors
/// See [`HubError`]. Files that are complete stay in the cache, and the next call goes on with the rest.
pub fn pull(
    request: &Request,
    settings: &HubSettings,
    shutdown: &dyn StopRequest,
    tell: &mut dyn FnMut(PullEvent<'_>),
) -> Result<Pulled, HubError> {
    name::check_revision(&request.revision)?;
    settings.check()?;
    if let Some(out) = &request.out
        && !is_free(out)
        && Origin::read(out).is_none_or(|there| there.repo != request.repo.as_str())
    {
        return Err(HubError::Exists { dir: out.clone() });
    }
    let store = HubCache::open(settings, &request.repo, shutdown)?;
    let client =
        if settings.offline { None } else { Some(Client::new(settings, &request.repo, request.retries, shutdown)?) };
    let seen = store.commit(&request.revision);
    let kept = || seen.as_ref().and_then(|commit| store.listing(commit));
    // A commit never changes.
    let fixed = if seen.as_ref() == Some(&request.revision) { kept() } else { None };
    let (listing, away) = match (&client, fixed) {
        (_, Some(listing)) => (listing, None),
        (Some(client), None) => match client.listing(&request.revision) {
            Ok(listing) => (listing, None),
            Err(error) if error.is_away() => match kept() {
                Some(listing) => (listing, Some(error)),
                None => return Err(error),
            },
            Err(error) => return Err(error),
        },
        (None, None) => match kept() {
            Some(listing) => (listing, None),
            None => {
                let (repo, revision) = (request.repo.to_string(), request.revision.clone());
                return Err(HubError::NeverPulled { repo, revision, cache: settings.cache.clone() });
            }
        },
    };
    let client = client.as_ref().filter(|_| away.is_none());
    let pulled = Pull { request, settings, store: &store, client, listing, shutdown, fetched: 0 }.run(tell);
    match (pulled, away) {
        (Ok(pulled), Some(error)) => {
            tell(PullEvent::Away { error: &error, commit: &pulled.origin.commit });
            Ok(pulled)
        }
        (Err(HubError::Missing { .. }), Some(error)) => Err(error),
        (pulled, _) => pulled,
    }
}

/// A pull in progress.
struct Pull<'a> {
    request: &'a Request,
    settings: &'a HubSettings,
    store: &'a HubCache,
    /// `None`: offline.
    client: Option<&'a Client<'a>>,
    listing: Listing,
    shutdown: &'a dyn StopRequest,
    fetched: u64,
}

impl Pull<'_> {
    fn run(mut self, tell: &mut dyn FnMut(PullEvent<'_>)) -> Result<Pulled, HubError> {
        if let Some(known) = self.store.listing(&self.listing.commit) {
            // What had to be asked for file by file.
            for (name, entry) in &mut self.listing.files {
                if let Some(known) = known.files.get(name).filter(|_| entry.size.is_none() || entry.digest.is_none()) {
                    *entry = known.clone();
                }
            }
        }
        let choice = self.choose()?;
        let files = self.known(&choice.files)?;
        // Until everything of it is there, a commit does not take the place of one that was pulled before.
        let revision = match self.store.commit(&self.request.revision) {
            Some(_) => self.listing.commit.as_str(),
            None => &self.request.revision,
        };
        self.store.remember(revision, &self.listing)?;
        let origin = Origin {
            endpoint: self.settings.endpoint_text().to_owned(),
            repo: self.request.repo.to_string(),
            revision: self.request.revision.clone(),
            commit: self.listing.commit.clone(),
            folder: choice.folder.clone(),
            files,
        };
        let key = (!self.request.include.is_empty()).then(|| key(&choice.files));
        let place = self.store.place(&self.request.repo, &origin.commit, key.as_deref());
        let out = self.request.out.clone().unwrap_or(place);
        if origin.is_whole(&out) {
            self.store.remember(&self.request.revision, &self.listing)?;
            return Ok(Pulled { dir: out, origin, fetched: self.fetched });
        }
        if !is_free(&out) {
            if self.request.out.is_some() {
                return Err(HubError::Exists { dir: out });
            }
            // A folder of the cache that lost some of its files.
            hub_cache::clear(&origin, &out).map_err(|source| hub_cache::disk(&out, source))?;
        }
        self.fetch(&choice, &origin, &out, tell)?;
        self.store.assemble(&origin, &out, self.shutdown)?;
        self.store.remember(&self.request.revision, &self.listing)?;
        Ok(Pulled { dir: out, origin, fetched: self.fetched })
    }

    fn choose(&mut self) -> Result<Choice, HubError> {
        if !self.request.include.is_empty() {
            return file_selection::matching(&self.listing, &self.request.include);
        }
        let listing = self.listing.clone();
        let names = match self.choose_among(&listing, "") {
            Err(HubError::Unusable { names }) => names,
            chosen => return chosen,
        };
        let Some(folder) = file_selection::model_folder(&listing)? else { return Err(HubError::Unusable { names }) };
        match self.choose_among(&listing.below(&folder), &format!("{folder}/")) {
            Ok(choice) => Ok(choice.below(&folder)),
            // Nothing but a folder of something else.
            Err(HubError::Unusable { .. } | HubError::SeveralWeights { .. }) => Err(HubError::Unusable { names }),
            Err(error) => Err(error),
        }
    }

    /// A choice among the names of `listing`, which the repository has with `prefix` before them.
    fn choose_among(&mut self, listing: &Listing, prefix: &str) -> Result<Choice, HubError> {
        let full = |name: &str| format!("{prefix}{name}");
        let sidecar = if listing.has("vtagd.json") { Some(self.json(&full("vtagd.json"))?) } else { None };
        let mut choice = file_selection::choose(listing, sidecar.as_ref(), &mut || {
            Ok(import::is_served(&self.json(&full("config.json"))?))
        })?;
        if let Some(index) = choice.index.clone() {
            let content = self.content(&full(&index))?;
            choice.files.extend(file_selection::shards(&index, &content, listing)?);
        }
        Ok(choice)
    }

    /// Sizes and hashes of `names`, asked for where the listing does not have them.
    fn known(&mut self, names: &BTreeSet<String>) -> Result<BTreeMap<String, OriginFile>, HubError> {
        let mut files = BTreeMap::new();
        for name in names {
            let entry = self.listing.files.get(name).cloned().unwrap_or_default();
            let (size, digest) = match (entry.size, entry.digest) {
                (Some(size), Some(digest)) => (size, digest),
                _ => {
                    let Some(client) = self.client else { return Err(self.missing([name.as_str()])) };
                    let entry = client.entry(&self.listing.commit, name)?;
                    let (Some(size), Some(digest)) = (entry.size, entry.digest.clone()) else { continue };
                    self.listing.files.insert(name.clone(), entry);
                    (size, digest)
                }
            };
            files.insert(name.clone(), OriginFile { size, digest });
        }
        Ok(files)
    }

    /// Fetches what is not there yet.
    fn fetch(
        &mut self,
        choice: &Choice,
        origin: &Origin,
        out: &Path,
        tell: &mut dyn FnMut(PullEvent<'_>),
    ) -> Result<(), HubError> {
        let all: Vec<(&String, &OriginFile)> = origin.files.iter().collect();
        let there = |file: &OriginFile| self.store.blob(&file.digest, file.size).is_some();
        let lacking: Vec<_> = all.iter().filter(|(_, file)| !there(file)).collect();
        let total = all.iter().fold(0_u64, |sum, (_, file)| sum.saturating_add(file.size));
        let needed = lacking.iter().fold(0_u64, |sum, (_, file)| {
            sum.saturating_add(file.size.saturating_sub(self.store.partial_size(&file.digest)))
        });
        if self.client.is_none() && !lacking.is_empty() {
            return Err(self.missing(lacking.iter().map(|(name, _)| name.as_str())));
        }
        let chosen = |name: &&str| !origin.files.contains_key(*name);
        tell(PullEvent::Chosen {
            commit: &origin.commit,
            what: &choice.what,
            files: all.len(),
            bytes: total,
            missing: needed,
            left: self.listing.files.keys().map(String::as_str).filter(chosen).collect(),
        });
        self.check_space(needed, total, out)?;
        let mut done = total.saturating_sub(lacking.iter().fold(0_u64, |sum, (_, file)| sum.saturating_add(file.size)));
        for (name, file) in all.iter().filter(|(_, file)| !there(file)) {
            // Two names may have one content.
            if self.store.blob(&file.digest, file.size).is_none() {
                let mut advance = |have: u64| tell(PullEvent::Progress { file: name, done: done + have, total });
                self.fetched += self.blob(name, file, &mut advance)?;
            }
            done += file.size;
        }
        Ok(())
    }

    /// Fetches one content; how many bytes that took.
    fn blob(&self, name: &str, file: &OriginFile, advance: &mut dyn FnMut(u64)) -> Result<u64, HubError> {
        let Some(client) = self.client else { return Err(self.missing([name])) };
        let had = self.store.partial_size(&file.digest);
        let wanted = Wanted { commit: &self.listing.commit, name, size: file.size, digest: &file.digest };
        download::fetch(client, self.store, &wanted, self.shutdown, advance)?;
        Ok(file.size.saturating_sub(had))
    }

    /// Both disks, before the first byte: a hub that promises more than fits is not asked for it.
    fn check_space(&self, needed: u64, total: u64, out: &Path) -> Result<(), HubError> {
        let free = |dir: &Path| free_bytes(dir).map_err(|source| hub_cache::disk(dir, source));
        let enough = |dir: &Path, needed: u64| match free(dir)? {
            free if free < needed => Err(HubError::NoSpace { dir: dir.to_owned(), needed, free }),
            _ => Ok(()),
        };
        enough(self.store.dir(), needed)?;
        let parent = atomic_file::folder_of(out);
        let device = |dir: &Path| std::fs::metadata(dir).map(|meta| meta.dev()).ok();
        // On the cache's own disk the weights are links.
        if device(parent).is_some_and(|there| Some(there) != device(self.store.dir())) {
            enough(parent, total)?;
        }
        Ok(())
    }

    /// A small file's content, which decides what else is wanted.
    fn content(&mut self, name: &str) -> Result<Vec<u8>, HubError> {
        let files = self.known(&BTreeSet::from([name.to_owned()]))?;
        let Some(file) = files.get(name) else { return Err(self.missing([name])) };
        if file.size > MAX_JSON_BYTES {
            let message = format!("has {} bytes, too many for what it is", file.size);
            return Err(HubError::BadAnswer { what: format!("`{name}`"), message });
        }
        if self.store.blob(&file.digest, file.size).is_none() {
            self.fetched += self.blob(name, file, &mut |_| ())?;
        }
        let Some(path) = self.store.blob(&file.digest, file.size) else { return Err(self.missing([name])) };
        std::fs::read(&path).map_err(|source| hub_cache::disk(&path, source))
    }

    fn json(&mut self, name: &str) -> Result<Value, HubError> {
        json_text::parse(&self.content(name)?)
            .map_err(|message| HubError::BadAnswer { what: format!("`{name}`"), message })
    }

    fn missing<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> HubError {
        let missing = names.into_iter().map(str::to_owned).collect();
        HubError::Missing { repo: self.request.repo.to_string(), missing }
    }
}

/// Names a choice of files.
fn key(files: &BTreeSet<String>) -> String {
    let mut hasher = Sha256::new();
    for name in files {
        hasher.update(name);
        hasher.update([0]);
    }
    format!("{:x}", hasher.finalize())[..8].to_owned()
}

/// Bytes that may still be written to the disk of `dir`.
fn free_bytes(dir: &Path) -> std::io::Result<u64> {
    let found = rustix::fs::statvfs(dir)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}
