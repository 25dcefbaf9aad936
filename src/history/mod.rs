//! The history: embeddings of what streams showed, for searching the past in words. Beside the way, as snapshots are.
//!
//! In: every scored frame's embeddings, on the scoring thread ([`Recorder::stream`]), which never waits: they go into a queue of [`QUEUE`] frames.
//! One named thread puts them into the [store](row_store), syncs it every [`SYNC_INTERVAL`] and deletes what is too old. Out: what searches
//! read ([`Recorder::stored`]), at any time and on their own threads. Full: the frame leaves nothing there, counted. Closed, when the last stream has gone:
//! what waits is still stored. Without a path all of it is in memory. Pictures, where they are wanted, are encoded on the same thread, for rows that
//! are stored; [`PICTURES`] wait at most, each of which holds a decoded picture, and a row beyond them has none, counted.

#[cfg(test)]
mod fault_tests;
mod mapped_rows;
pub mod margin_curve;
pub mod moment_search;
pub mod name_table;
pub mod noun_bank;
pub mod past_rows;
pub mod picture_files;
pub mod purge;
mod rotation;
pub mod row_format;
pub mod row_store;
pub mod search_answer;
mod segment;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde::Serialize;

use name_table::Name;
use row_store::{NewRow, Pushed, RetentionLimits, RowStore, StoreError, StoredRows};

/// Frames that wait to be stored: a few kilobytes each.
const QUEUE: usize = 256;

/// Frames that wait with their pictures.
const PICTURES: usize = 8;

/// A power cut takes what came since the last one, so it is well below the 5 s that are promised.
const SYNC_INTERVAL: Duration = Duration::from_secs(2);

/// How often the age of rows is looked at.
const SWEEP: Duration = Duration::from_secs(60);

/// After the disk has refused a row it is left alone for so long.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// `history` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HistorySettings {
    /// The folder; `None`: in memory.
    pub path: Option<PathBuf>,
    /// In bytes.
    pub max_size: u64,
    pub max_age: Duration,
    /// A frame whose cosine with its stream's last row is at most so much below 1 extends that one.
    pub min_change: f32,
    /// `None`: no pictures are kept.
    pub pictures: Option<PictureSettings>,
}

/// `history.pictures`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PictureSettings {
    /// Longest side in pixels.
    pub max_side: u32,
    /// Of the JPEG, 1 to 100.
    pub quality: u8,
    /// In bytes.
    pub max_size: u64,
}

/// A frame's embeddings on their way to the store.
struct QueuedFrame {
    name: Arc<Name>,
    at: i64,
    /// One after the other, each `dim` numbers long.
    embeddings: Vec<f32>,
    dim: usize,
    picture: FramePicture,
}

/// Makes the JPEG of a frame.
pub type PictureEncoder = Box<dyn FnOnce() -> io::Result<Vec<u8>> + Send>;

/// The picture of a frame that waits.
enum FramePicture {
    Unwanted,
    /// Too many waited.
    Dropped,
    Waits(PictureEncoder, WaitingPicture),
}

fn tell_bytes(store: &RowStore) {
    metrics::gauge!("vtagd_history_bytes").set((store.bytes() + store.picture_bytes()) as f64);
}

/// Counts as one that waits, as long as it lives.
struct WaitingPicture(Arc<AtomicUsize>);

impl WaitingPicture {
    fn new(waiting: &Arc<AtomicUsize>) -> Option<Self> {
        let one = Self(Arc::clone(waiting));
        (waiting.fetch_add(1, Ordering::Relaxed) < PICTURES).then_some(one)
    }
}

impl Drop for WaitingPicture {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is called with each frame of a stream: its time, what makes its picture where pictures are kept, and its embeddings, one after the other, each so many numbers long.
pub type FrameRecorder = Box<dyn FnMut(jiff::Timestamp, Option<PictureEncoder>, &[f32], usize) + Send>;

/// See the module.
#[derive(Debug)]
pub struct Recorder {
    queue: Sender<QueuedFrame>,
    stored: StoredRows,
    pictures: Option<PictureSettings>,
    waiting: Arc<AtomicUsize>,
}

impl Recorder {
    /// Opens the store and starts the thread, which ends when this and all that [`Self::stream`] gave are gone.
    ///
    /// # Errors
    /// When another daemon writes there, the folder cannot be used, or the system gives no thread.
    pub fn start(settings: &HistorySettings) -> Result<(Self, JoinHandle<()>), StoreError> {
        let limits =
            RetentionLimits { max_size: settings.max_size, max_age: settings.max_age, min_change: settings.min_change };
        let (store, damage) = RowStore::open(settings.path.as_deref(), limits, Instant::now())?;
        for damage in damage {
            tracing::warn!(damage, "a part of the history is damaged; the rest is as it was");
        }
        let (queue, frames) = bounded(QUEUE);
        let stored = store.stored();
        for result in ["stored", "extended", "dropped", "failed"] {
            metrics::counter!("vtagd_history_embeddings_total", "result" => result).absolute(0);
        }
        for result in ["saved", "dropped", "failed"] {
            metrics::counter!("vtagd_history_pictures_total", "result" => result).absolute(0);
        }
        let pictures = settings.pictures.clone().filter(|_| settings.path.is_some());
        let room = pictures.as_ref().map(|pictures| pictures.max_size);
        // What lies there already is told from the start.
        tell_bytes(&store);
        let writer = Writer { store, failing: false, pictures_failing: false, retry_at: None };
        let thread =
            std::thread::Builder::new().name("vtagd-history".to_owned()).spawn(move || writer.run(room, &frames))?;
        Ok((Self { queue, stored, pictures, waiting: Arc::default() }, thread))
    }

    /// What searches read.
    pub fn stored(&self) -> StoredRows {
        self.stored.clone()
    }

    /// The pictures that are wanted.
    pub fn pictures(&self) -> Option<&PictureSettings> {
        self.pictures.as_ref()
    }

    /// Records what is seen of a stream, under this name.
    pub fn stream(&self, name: Name) -> FrameRecorder {
        let name = Arc::new(name);
        let (queue, waiting) = (self.queue.clone(), Arc::clone(&self.waiting));
        Box::new(move |at, encoder, embeddings, dim| {
            // Asked first, so that nothing is copied for nobody.
            let queued = !queue.is_full() && {
                let (name, at) = (Arc::clone(&name), at.as_millisecond());
                let picture = match (encoder, WaitingPicture::new(&waiting)) {
                    (None, _) => FramePicture::Unwanted,
                    (Some(_), None) => FramePicture::Dropped,
                    (Some(encoder), Some(waits)) => FramePicture::Waits(encoder, waits),
                };
                queue.try_send(QueuedFrame { name, at, embeddings: embeddings.to_vec(), dim, picture }).is_ok()
            };
            if !queued {
                count("dropped", (embeddings.len() / dim.max(1)) as u64);
            }
        })
    }
}

fn count_picture(result: &'static str) {
    metrics::counter!("vtagd_history_pictures_total", "result" => result).increment(1);
}

fn count(result: &'static str, number: u64) {
    metrics::counter!("vtagd_history_embeddings_total", "result" => result).increment(number);
}

/// The thread's side.
struct Writer {
    store: RowStore,
    /// The log was told of it.
    failing: bool,
    pictures_failing: bool,
    retry_at: Option<Instant>,
}

impl Writer {
    fn run(mut self, pictures: Option<u64>, frames: &Receiver<QueuedFrame>) {
        // Here: to look at each of many pictures takes a while.
        if let Some(Err(error)) = pictures.map(|room| self.store.keep_pictures(room)) {
            tracing::error!(%error, "pictures of the history cannot be kept");
        }
        let (mut synced, mut swept) = (Instant::now(), Instant::now());
        loop {
            let closed = match frames.recv_timeout(SYNC_INTERVAL) {
                Ok(frame) => {
                    self.record(frame, Instant::now());
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            let now = Instant::now();
            if closed || now.saturating_duration_since(synced) >= SYNC_INTERVAL {
                let result = self.store.sync();
                self.tell(result.err());
                synced = now;
                tell_bytes(&self.store);
            }
            if now.saturating_duration_since(swept) >= SWEEP {
                self.store.sweep(now);
                swept = now;
            }
            if closed {
                return;
            }
        }
    }

    fn record(&mut self, frame: QueuedFrame, now: Instant) {
        let (dropped, mut waits) = match frame.picture {
            FramePicture::Unwanted => (false, None),
            FramePicture::Dropped => (true, None),
            FramePicture::Waits(encoder, waits) => (false, Some((encoder, waits))),
        };
        // Of each tile it is the same.
        let mut jpeg: Option<io::Result<Vec<u8>>> = None;
        let mut picture = || {
            if let Some((encoder, _waits)) = waits.take() {
                jpeg = Some(encoder());
            }
            if dropped || matches!(jpeg, Some(Err(_))) {
                count_picture(if dropped { "dropped" } else { "failed" });
            }
            jpeg.as_ref()?.as_ref().ok().cloned()
        };
        for (tile, embedding) in frame.embeddings.chunks_exact(frame.dim.max(1)).enumerate() {
            if self.retry_at.is_some_and(|at| now < at) {
                count("failed", 1);
                continue;
            }
            let tile = u16::try_from(tile).unwrap_or(u16::MAX);
            let row = NewRow { name: &frame.name, tile, at: frame.at, embedding };
            match self.store.push_with(&row, &mut picture, now) {
                Ok(Pushed::Stored) => {
                    count("stored", 1);
                    let outcome = self.store.picture_outcome();
                    self.tell_picture(outcome);
                }
                Ok(Pushed::Extended) => count("extended", 1),
                Err(error) => {
                    count("failed", 1);
                    let disk = matches!(error, StoreError::Disk(_));
                    self.retry_at = disk.then(|| now + RETRY_INTERVAL);
                    self.tell(Some(error));
                    continue;
                }
            }
            self.retry_at = None;
            self.tell(None::<io::Error>);
        }
    }

    /// Once a run of failures.
    fn tell_picture(&mut self, outcome: Option<io::Result<()>>) {
        match outcome {
            Some(Ok(())) => {
                count_picture("saved");
                self.pictures_failing = false;
            }
            Some(Err(error)) => {
                count_picture("failed");
                if !std::mem::replace(&mut self.pictures_failing, true) {
                    tracing::error!(%error, "a picture of the history cannot be written");
                }
            }
            None => {}
        }
    }

    /// Once a run of failures, and once after it.
    fn tell(&mut self, error: Option<impl std::fmt::Display>) {
        match error {
            Some(error) if !self.failing => {
                tracing::error!(%error, "the history cannot be written: what comes is left out, what is there stays");
                self.failing = true;
            }
            None if self.failing && self.retry_at.is_none() => {
                tracing::info!("the history is written again");
                self.failing = false;
            }
            _ => {}
        }
    }
}
