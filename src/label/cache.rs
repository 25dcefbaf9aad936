//! Text embeddings on disk, found by content: the key is a hash of the model's fingerprint and the text, so nothing in it
//! can be stale and nothing has to be invalidated.
//!
//! One small file an embedding, written beside its place and renamed into it: readers never see half a file, and any
//! number of processes may share the directory. A file that is damaged, of another length or another version is ignored
//! and made again. The cache is bounded; when it is full the oldest files go. A cache that cannot be written is a warning,
//! never an error: texts are then embedded at every start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use tracing::{debug, warn};

use super::text_encoder::TextEmbedding;
use crate::platform::atomic_file::{self, Durability};
use crate::platform::hex::hex;

/// First bytes of a file; the digit is the version of everything below and of how texts are embedded.
const MAGIC: &[u8; 8] = b"vtagte2\n";
/// Bytes of the checksum, the head of a SHA-256.
const SUM: usize = 16;
/// Largest embedding believed in; published ones end at 1152 to 4096.
const MAX_DIM: usize = 16_384;

/// The cache of one model's text embeddings.
#[derive(Debug)]
pub struct EmbeddingCache {
    root: PathBuf,
    dir: PathBuf,
    fingerprint: String,
    max_bytes: u64,
    is_read_only: bool,
    warned: bool,
}

impl EmbeddingCache {
    /// Bytes kept over all models: some 80 000 embeddings of 768 values.
    pub const MAX_BYTES: u64 = 256 << 20;

    /// The cache for the model with `fingerprint` under `cache_dir`. Touches nothing.
    pub fn new(cache_dir: &Path, fingerprint: &str) -> Self {
        let root = cache_dir.join("text-embeddings");
        let short: String = fingerprint.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
        let dir = root.join(if short.is_empty() { "none" } else { &short });
        let fingerprint = fingerprint.to_owned();
        Self { root, dir, fingerprint, max_bytes: Self::MAX_BYTES, is_read_only: false, warned: false }
    }

    /// As it is: for texts that nobody may ask for again, which would push out those that are needed at the next start.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self { is_read_only: true, ..self }
    }

    /// As [`Self::new`] with another bound.
    pub fn with_max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    fn key(&self, text: &str) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update((self.fingerprint.len() as u64).to_le_bytes());
        hasher.update(self.fingerprint.as_bytes());
        hasher.update(text.as_bytes());
        hasher.finalize().into()
    }

    fn place(&self, key: &[u8; 32]) -> PathBuf {
        self.dir.join(hex(&key[..20])).with_extension("emb")
    }

    /// The embedding of `text`, if it is there and whole.
    pub fn get(&self, text: &str) -> Option<TextEmbedding> {
        let key = self.key(text);
        let file = self.place(&key);
        let limit = (MAGIC.len() + key.len() + 5 + MAX_DIM * 4 + SUM) as u64;
        if fs::metadata(&file).ok()?.len() > limit {
            return None;
        }
        let values = decode(&fs::read(&file).ok()?, &key);
        if values.is_none() {
            debug!(file = %file.display(), "damaged text embedding ignored");
        }
        values
    }

    /// Keeps `embeddings` of `texts`; what cannot be written is warned about once and forgotten.
    pub fn put<'a>(&mut self, entries: impl IntoIterator<Item = (&'a str, &'a TextEmbedding)>) {
        if self.is_read_only {
            return;
        }
        let mut written = 0_usize;
        for (text, embedding) in entries {
            if embedding.values.len() > MAX_DIM {
                continue;
            }
            let key = self.key(text);
            if let Err(error) = self.write(&key, embedding) {
                if !std::mem::replace(&mut self.warned, true) {
                    warn!(
                        dir = %self.dir.display(),
                        %error,
                        "text embeddings cannot be cached, every start will embed them again"
                    );
                }
                return;
            }
            written += 1;
        }
        if written > 0 {
            prune(&self.root, self.max_bytes);
        }
    }

    fn write(&self, key: &[u8; 32], embedding: &TextEmbedding) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        // A thousand syncs would take a minute on a memory card, and the checksum tells what a power cut has damaged.
        atomic_file::replace(&self.place(key), &encode(embedding, key), Durability::Unsynced)
    }
}

/// Magic, key, whether the text was cut (0 or 1), length, values, checksum; little endian.
fn encode(TextEmbedding { values, truncated }: &TextEmbedding, key: &[u8; 32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAGIC.len() + 37 + values.len() * 4 + SUM);
    bytes.extend(MAGIC);
    bytes.extend(key);
    bytes.push(u8::from(*truncated));
    bytes.extend((values.len() as u32).to_le_bytes());
    values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
    let sum = Sha256::digest(&bytes);
    bytes.extend(&sum[..SUM]);
    bytes
}

fn decode(bytes: &[u8], key: &[u8; 32]) -> Option<TextEmbedding> {
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM)?)?;
    if Sha256::digest(body)[..SUM] != *sum {
        return None;
    }
    let rest = body.strip_prefix(MAGIC)?.strip_prefix(key)?;
    let (cut @ (0 | 1), rest) = rest.split_first()? else { return None };
    let (dim, values) = rest.split_first_chunk::<4>()?;
    let dim = u32::from_le_bytes(*dim) as usize;
    let (values, []) = values.as_chunks::<4>() else { return None };
    let values: Vec<f32> = values.iter().map(|v| f32::from_le_bytes(*v)).collect();
    let good = values.len() == dim && dim > 0 && values.iter().all(|v| v.is_finite());
    good.then_some(TextEmbedding { values, truncated: *cut == 1 })
}

/// Whether an embedding of this cache may be called so.
fn is_name(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    path.extension().is_some_and(|end| end == "emb")
        && stem.len() == 40
        && stem.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Removes abandoned temporary files, and the oldest embeddings of all models until three quarters of `max_bytes` are
/// left, so that a full cache is not pruned at every write. What is not named like ours is neither counted nor touched.
fn prune(root: &Path, max_bytes: u64) {
    let mut files = Vec::new();
    for dir in fs::read_dir(root).into_iter().flatten().flatten() {
        atomic_file::sweep(&dir.path());
        for file in fs::read_dir(dir.path()).into_iter().flatten().flatten() {
            let Ok(meta) = file.metadata() else { continue };
            let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let path = file.path();
            if is_name(&path) && meta.is_file() {
                files.push((modified, meta.len(), path));
            }
        }
    }
    let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
    if total <= max_bytes {
        return;
    }
    files.sort();
    let mut removed = 0_usize;
    for (_, len, path) in files {
        if total <= max_bytes / 4 * 3 {
            break;
        }
        // Another process may have been quicker; the bytes are gone either way.
        let _ = fs::remove_file(path);
        total -= len;
        removed += 1;
    }
    debug!(removed, "oldest text embeddings removed from the cache");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn fresh() -> (tempfile::TempDir, EmbeddingCache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = EmbeddingCache::new(dir.path(), &"ab".repeat(32));
        (dir, cache)
    }

    fn of(values: &[f32]) -> TextEmbedding {
        TextEmbedding { values: values.to_vec(), truncated: false }
    }

    fn only_file(cache: &EmbeddingCache) -> PathBuf {
        fs::read_dir(&cache.dir).unwrap().next().unwrap().unwrap().path()
    }

    #[test]
    fn an_embedding_comes_back_for_its_text_and_model_alone() {
        let (dir, mut cache) = fresh();
        cache.put([("a cat", &of(&[0.5, -0.25]))]);
        assert_eq!(cache.get("a cat"), Some(of(&[0.5, -0.25])));
        assert_eq!(cache.get("a dog"), None);
        // The same directory name, another model: the key inside tells them apart.
        let other = format!("{}{}", "ab".repeat(16), "cd".repeat(16));
        assert_eq!(EmbeddingCache::new(dir.path(), &other).get("a cat"), None);
    }

    #[test]
    fn what_is_read_only_gives_and_takes_nothing() {
        let (dir, mut cache) = fresh();
        cache.put([("a cat", &of(&[0.5, -0.25]))]);
        let mut trial = EmbeddingCache::new(dir.path(), &"ab".repeat(32)).read_only();
        trial.put([("a dog", &of(&[1.0, 0.0]))]);
        assert_eq!((trial.get("a cat"), cache.get("a dog")), (Some(of(&[0.5, -0.25])), None));
    }

    #[test]
    fn every_damage_is_ignored_and_mended_by_the_next_write() {
        let (_dir, mut cache) = fresh();
        cache.put([("a cat", &of(&[0.5, -0.25]))]);
        let file = only_file(&cache);
        let whole = fs::read(&file).unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x40;
            fs::write(&file, &bad).unwrap();
            assert_eq!(cache.get("a cat"), None, "flipped byte {at}");
            fs::write(&file, &whole[..at]).unwrap();
            assert_eq!(cache.get("a cat"), None, "cut at {at}");
        }
        cache.put([("a cat", &of(&[0.5, -0.25]))]);
        assert_eq!(cache.get("a cat"), Some(of(&[0.5, -0.25])));
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("file");
        fs::write(&blocked, "a file where a folder should be").unwrap();
        let mut cache = EmbeddingCache::new(&blocked, "f");
        cache.put([("a cat", &of(&[1.0]))]);
        assert_eq!(cache.get("a cat"), None);
    }

    #[test]
    fn a_full_cache_loses_its_oldest_and_keeps_its_newest() {
        let (_dir, cache) = fresh();
        let mut cache = cache.with_max_bytes(4096);
        fs::create_dir_all(&cache.dir).unwrap();
        let strangers = ["notes.txt", "a.emb", "b.tmp"].map(|name| cache.dir.join(name));
        for stranger in &strangers {
            fs::write(stranger, "somebody else's").unwrap();
            let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
            fs::File::options().write(true).open(stranger).unwrap().set_modified(long_ago).unwrap();
        }
        let values = of(&[0.5_f32; 64]);
        let texts: Vec<String> = (0..40).map(|i| format!("text {i}")).collect();
        for (age, text) in texts.iter().enumerate() {
            cache.put([(text.as_str(), &values)]);
            // File systems count time in steps; make the order plain.
            let past = SystemTime::now() - Duration::from_secs((texts.len() - age) as u64 * 10);
            if let Ok(file) = fs::File::options().write(true).open(cache.place(&cache.key(text))) {
                file.set_modified(past).unwrap();
            }
        }
        assert!(strangers.iter().all(|stranger| stranger.exists()));
        let theirs = 3 * "somebody else's".len() as u64;
        let size: u64 = fs::read_dir(&cache.dir).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
        assert!(size <= 4096 + theirs, "{size}");
        assert!(cache.get(&texts[39]).is_some(), "the newest is kept");
        assert_eq!(cache.get(&texts[0]), None, "the oldest is gone");
    }

    #[test]
    fn many_writers_and_readers_never_see_half_a_file() {
        let (dir, _) = fresh();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let dir = dir.path();
                scope.spawn(move || {
                    let mut cache = EmbeddingCache::new(dir, "shared");
                    let values = of(&[1.0_f32; 512]);
                    for round in 0..50 {
                        let text = format!("text {}", (round + writer) % 5);
                        cache.put([(text.as_str(), &values)]);
                        assert_eq!(cache.get(&text), Some(values.clone()), "writer {writer}, round {round}");
                    }
                });
            }
        });
        let cache = EmbeddingCache::new(dir.path(), "shared");
        let left =
            fs::read_dir(&cache.dir).unwrap().filter(|f| f.as_ref().unwrap().path().extension().unwrap() == "tmp");
        assert_eq!(left.count(), 0, "no temporary file is left");
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself_and_nothing_panics(
            values in prop::collection::vec(-1e3_f32..1e3, 1..50),
            truncated: bool,
            noise in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let (key, embedding) = ([7; 32], TextEmbedding { values, truncated });
            prop_assert_eq!(decode(&encode(&embedding, &key), &key), Some(embedding.clone()));
            prop_assert_eq!(decode(&encode(&embedding, &key), &[8; 32]), None);
            prop_assert_eq!(decode(&noise, &key), None);
        }
    }
}
