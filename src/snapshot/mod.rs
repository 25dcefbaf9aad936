//! Snapshots: the picture that started a tag, and the best one of it, as JPEG files in a bounded folder.
//!
//! In: events and the frames that caused them, on the scoring thread ([`Gallery::illustrate`]), which never waits: a frame that is worth a
//! picture goes into a queue of [`QUEUE`], and the event gets the picture's address. One named thread scales, encodes and writes; then the
//! picture is told to whoever has subscribed (MQTT) and the API can serve it. Full: the event has no picture, counted. Closed: pictures
//! that wait are still written. What does not fit `max_size` and `max_age` is deleted, oldest first, and what is in the way of events on a disk
//! that is nearly full.

mod picture_store;
pub mod snapshot_listing;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::event::{Event, EventKind};
use crate::frame::Picture;
use picture_store::SnapshotStore;
use snapshot_listing::{SnapshotListing, SnapshotOrigin};
pub use vtagd_pictures::jpeg::jpeg;

/// Frames that wait to be encoded: each holds a decoded picture, which may be one of a decoder's few.
const QUEUE: usize = 8;

/// Encoded pictures that a subscriber may be behind; then it misses the oldest.
const BEHIND: usize = 16;

/// How often the age of the pictures and the room on their disk are looked at.
const SWEEP: Duration = Duration::from_secs(10);

/// An update's sample is its tag's best one unless it is this much below the peak.
const BEST: f32 = 0.005;

/// `snapshots` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SnapshotSettings {
    /// The folder.
    pub path: PathBuf,
    /// In bytes.
    pub max_size: u64,
    pub max_age: Duration,
    /// Longest side in pixels; larger pictures are scaled down.
    pub max_side: u32,
    /// Of the JPEG, 1 to 100.
    pub quality: u8,
    /// Where consumers reach the API, such as `https://edge-1.example`; `None`: where it listens.
    #[serde(skip)]
    pub url: Option<url::Url>,
}

/// A picture that was written.
#[derive(Clone, Debug)]
pub struct Saved {
    pub stream: String,
    pub region: Option<String>,
    pub set: String,
    pub label: String,
    /// As the event has it.
    pub address: String,
    pub jpeg: Arc<[u8]>,
}

/// A frame on its way to its file.
struct Shot {
    picture: Arc<Picture>,
    name: String,
    stream: String,
    region: Option<String>,
    set: String,
    label: String,
    address: String,
}

/// Addresses of pictures that are taken and not told yet; as many as the queue and the thread hold.
type Coming = Arc<Mutex<Vec<String>>>;

/// See the module.
pub struct Gallery {
    folder: PathBuf,
    /// Empty once closed.
    shots: Mutex<Option<Sender<Shot>>>,
    saved: broadcast::Sender<Saved>,
    coming: Coming,
    /// What the addresses of pictures begin with.
    base: OnceLock<String>,
    /// The last picture of each open tag.
    open: Mutex<HashMap<Uuid, String>>,
    listing: Arc<SnapshotListing>,
}

impl Gallery {
    /// Opens the folder, which is made if need be, and starts the thread.
    ///
    /// # Errors
    /// When the folder cannot be used, or the system gives no thread.
    pub fn start(settings: &SnapshotSettings) -> io::Result<(Arc<Self>, JoinHandle<()>)> {
        let store = SnapshotStore::open(&settings.path, settings.max_size, settings.max_age, Instant::now())?;
        let (shots, taken) = bounded(QUEUE);
        let gallery = Self {
            folder: settings.path.clone(),
            shots: Mutex::new(Some(shots)),
            saved: broadcast::channel(BEHIND).0,
            coming: Coming::default(),
            base: OnceLock::new(),
            open: Mutex::default(),
            listing: Arc::clone(&store.listing),
        };
        if let Some(url) = &settings.url {
            let _ = gallery.base.set(format!("{}/api/v1/snapshots", url.as_str().trim_end_matches('/')));
        }
        for result in ["saved", "dropped", "failed"] {
            metrics::counter!("vtagd_snapshots_total", "result" => result).absolute(0);
        }
        let (saved, coming) = (gallery.saved.clone(), Arc::clone(&gallery.coming));
        let writer = Writer { store, saved, coming, max_side: settings.max_side, quality: settings.quality };
        let thread =
            std::thread::Builder::new().name("vtagd-snapshots".to_owned()).spawn(move || writer.run(&taken))?;
        Ok((Arc::new(gallery), thread))
    }

    /// The API is to be had at `url`: pictures are there, unless the configuration says where.
    pub fn served_at(&self, url: &str) {
        let _ = self.base.set(format!("{url}/api/v1/snapshots"));
    }

    /// Gives `event` the address of its tag's picture, and takes `picture`, the frame that caused the event, if it is worth it.
    pub fn illustrate(&self, event: &mut Event, picture: Option<&Arc<Picture>>) {
        let data = &event.data;
        let worth = match event.kind {
            EventKind::Start => Some("start"),
            EventKind::Update if data.score >= data.peak - BEST => Some("best"),
            EventKind::Update | EventKind::End => None,
        };
        let mut open = self.open.lock();
        if let Some((which, picture)) = worth.zip(picture) {
            let name = picture_store::name(data.tag_id, which);
            let shot = Shot {
                picture: Arc::clone(picture),
                name: name.clone(),
                stream: data.stream.clone(),
                region: data.region.clone(),
                set: data.set.clone(),
                label: data.label.clone(),
                address: self.address(&name),
            };
            if self.take(shot) {
                open.insert(data.tag_id, self.address(&name));
            } else {
                count("dropped");
            }
        }
        event.data.snapshot = match event.kind {
            EventKind::End => open.remove(&event.data.tag_id),
            EventKind::Start | EventKind::Update => open.get(&event.data.tag_id).cloned(),
        };
    }

    fn take(&self, shot: Shot) -> bool {
        let shots = self.shots.lock();
        let Some(shots) = shots.as_ref() else { return false };
        // Before its thread can be done with it.
        let address = shot.address.clone();
        self.coming.lock().push(address.clone());
        let taken = shots.try_send(shot).is_ok();
        if !taken {
            forget(&self.coming, &address);
        }
        taken
    }

    /// Whether the picture that is going to be at `address` is still to be told to who has subscribed.
    pub fn is_coming(&self, address: &str) -> bool {
        self.coming.lock().iter().any(|coming| coming == address)
    }

    /// The pictures that are kept.
    pub fn listing(&self) -> &SnapshotListing {
        &self.listing
    }

    /// Where the picture called `name` is to be had.
    pub fn address(&self, name: &str) -> String {
        match self.base.get() {
            Some(base) => format!("{base}/{name}"),
            None => {
                let folder = std::path::absolute(&self.folder).unwrap_or_else(|_| self.folder.clone());
                url::Url::from_file_path(folder.join(name)).map_or_else(|()| name.to_owned(), String::from)
            }
        }
    }

    /// Pictures that are written from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Saved> {
        self.saved.subscribe()
    }

    /// The JPEG called `name`; `None` if there is none, or it was deleted.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        // A name that was given from outside is looked at before it becomes a path.
        if !picture_store::is_name(name) {
            return None;
        }
        std::fs::read(self.folder.join(name)).ok()
    }

    /// Takes nothing more; the thread ends when it has written what waits.
    pub fn close(&self) {
        self.shots.lock().take();
    }
}

/// Where others reach an API that listens on `address`.
pub fn served_at(address: std::net::SocketAddr, scheme: &str) -> String {
    let host = if address.ip().is_unspecified() {
        std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map_or_else(|_| "localhost".into(), |h| h.trim().to_owned())
    } else if address.is_ipv6() {
        format!("[{}]", address.ip())
    } else {
        address.ip().to_string()
    };
    format!("{scheme}://{host}:{}", address.port())
}

/// One of `address` is not to come any more.
fn forget(coming: &Coming, address: &str) {
    let mut coming = coming.lock();
    if let Some(at) = coming.iter().position(|one| one == address) {
        coming.swap_remove(at);
    }
}

fn count(result: &'static str) {
    metrics::counter!("vtagd_snapshots_total", "result" => result).increment(1);
}

/// The thread's side.
struct Writer {
    store: SnapshotStore,
    saved: broadcast::Sender<Saved>,
    coming: Coming,
    max_side: u32,
    quality: u8,
}

impl Writer {
    fn run(mut self, shots: &Receiver<Shot>) {
        // Told once a run of failures.
        let mut failing = false;
        loop {
            let shot = match shots.recv_timeout(SWEEP) {
                Ok(shot) => shot,
                Err(RecvTimeoutError::Timeout) => {
                    self.store.sweep(Instant::now());
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let Shot { picture, name, stream, region, set, label, address } = shot;
            let jpeg = jpeg(&picture, self.max_side, self.quality);
            // The decoder may be waiting for it.
            drop(picture);
            let origin = SnapshotOrigin {
                stream: stream.clone(),
                region: region.clone(),
                set: set.clone(),
                label: label.clone(),
            };
            let jpeg = jpeg.map(|jpeg| origin.write_into(jpeg));
            let written = jpeg.and_then(|jpeg| self.store.write(&name, &jpeg, Instant::now()).map(|()| jpeg));
            let told = std::mem::replace(&mut failing, written.is_err());
            match written {
                Ok(jpeg) => {
                    count("saved");
                    // Nobody may be listening.
                    let saved = Saved { stream, region, set, label, address: address.clone(), jpeg: jpeg.into() };
                    let _ = self.saved.send(saved);
                }
                Err(error) => {
                    count("failed");
                    if !told {
                        tracing::error!(%stream, %error, "a snapshot cannot be written");
                    }
                }
            }
            forget(&self.coming, &address);
        }
    }
}
