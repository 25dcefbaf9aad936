//! Source: one GStreamer pipeline per stream, from a template in `pipelines/`, to decoded pictures.
//!
//! ```text
//! source ─► [ parser ─► decoder ] ─► [pace] ─► convert ─► rotate ─► sink
//!         ▲ decodebin                          ▲ entry: wanted?       └► Picture ─► FrameTap::deliver
//!         └ gate: to be decoded?               └ unwanted frames end here, before any conversion or download
//! ```
//!
//! In: [`SourceSettings`]. Out: pictures for a [`FrameTap`], the stream's [`StreamStatus`]. [`Source::run`] blocks the thread
//! that its caller gives it and retries for ever; decoding happens on GStreamer's threads. Full: the tap decides; cameras are
//! never held up. Closed: on shutdown, at the end of a file, or when a file cannot be read, [`Source::run`] returns and lets go
//! of the tap.

mod coded;
mod connection;
mod decoders;
mod error;
mod feed;
mod gate;
mod gop;
mod media_time;
mod picture;
mod scrub;
pub mod template;

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use decoders::Decoder;
pub use error::{At, Decision, SourceError};

use crate::backoff::{Backoff, Ladder};
use crate::frame::{FrameTap, StreamId};
use crate::secret::Secret;
use crate::shutdown::Shutdown;
use crate::status::{StreamState, StreamStatus};
use connection::End;
use feed::Feed;

/// A hardware decoder that has failed a stream is given another try after so long: a driver may have been mended, another
/// program may have given its sessions back.
const HARDWARE_AGAIN: Duration = Duration::from_hours(1);

/// What to connect to. Credentials never stay in a URL: the configuration splits them off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// `rtsp://` or `rtsps://`, over TCP.
    Rtsp(url::Url),
    /// A local video file.
    File(PathBuf),
    /// `http://` or `https://`: progressive video or multipart MJPEG.
    Http(url::Url),
    /// A V4L2 device such as `/dev/video0`.
    V4l2(PathBuf),
    /// The user's own pipeline template, used as it is.
    Template(PathBuf),
}

/// How a file is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Pace {
    /// In real time; newest wins.
    #[default]
    Live,
    /// As fast as inference goes; back-pressure instead of drops.
    Fast,
}

/// Which frames are decoded. Streams of pictures that are not coded, and own templates whose decoder is not called `decoder`, are
/// always decoded whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Decode {
    /// Keyframes alone as long as they come as often as frames are sampled, every frame otherwise.
    #[default]
    Auto,
    /// Keyframes alone, however rare.
    Keyframes,
    All,
}

/// Everything a source needs to know.
#[derive(Clone, Debug)]
pub struct SourceSettings {
    pub id: StreamId,
    pub location: Location,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub pace: Pace,
    /// Files only: start again at the end.
    pub looped: bool,
    pub decode: Decode,
    pub decoder: Decoder,
    /// Folder of the built-in templates (`rtsp.gst`, …).
    pub templates: PathBuf,
}

/// How patient a source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A camera that sends no picture for so long is connected to anew. Includes the time to connect.
    pub stall: Duration,
    /// How long a pipeline may take to stop before it is left behind.
    pub tear_down: Duration,
}

impl Default for Limits {
    /// 20 s of silence: twice the time that connecting may take, and longer than a key-frame interval. 5 s to stop.
    fn default() -> Self {
        Self { stall: Duration::from_secs(20), tear_down: Duration::from_secs(5) }
    }
}

/// How a source ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The file has been played to its end.
    EndOfFile,
    /// Shutdown was asked for.
    Shutdown,
    /// Trying again cannot help: a file that is not a video, a template that cannot be used.
    Failed(SourceError),
}

/// One stream's source. Make it, then give [`Source::run`] a thread.
pub struct Source {
    settings: SourceSettings,
    feed: Arc<Feed>,
    status: Arc<StreamStatus>,
    shutdown: Shutdown,
    backoff: Backoff,
    limits: Limits,
    /// Until then the hardware decoder is not tried again.
    software_until: Option<Instant>,
}

impl Source {
    /// A source that hands its frames to `tap`. Nothing is opened yet.
    pub fn new(
        settings: SourceSettings,
        tap: Arc<dyn FrameTap>,
        status: Arc<StreamStatus>,
        shutdown: Shutdown,
    ) -> Self {
        // A seed of its own for every stream and process: nobody comes back in step with anybody.
        let seed = RandomState::new().hash_one(&settings.id);
        // A file that is played for exact samples is decoded whole: there is no rush, and every grid point has its frame.
        let decode = match (settings.decode, settings.pace) {
            (Decode::Auto, Pace::Fast) => Decode::All,
            (decode, _) => decode,
        };
        let feed = Arc::new(Feed::new(tap, Arc::clone(&status), decode));
        let backoff = Backoff::new(Ladder::default(), seed);
        Self { settings, feed, status, shutdown, backoff, limits: Limits::default(), software_until: None }
    }

    /// The same source with other waits between attempts.
    #[must_use]
    pub fn with_ladder(mut self, ladder: Ladder) -> Self {
        self.backoff = Backoff::new(ladder, RandomState::new().hash_one(&self.settings.id));
        self
    }

    /// The same source with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Plays until the file ends, shutdown is asked for, or trying again cannot help. Cameras that fail are retried for ever.
    pub fn run(mut self) -> Ended {
        let ended = self.retry();
        self.feed.close();
        match &ended {
            Ended::EndOfFile => {
                self.status.set(StreamState::Ended);
                tracing::info!(stream = %self.settings.id, "the file has ended");
            }
            Ended::Failed(error) => {
                self.status.set(StreamState::Failed { error: error.to_string() });
                tracing::error!(stream = %self.settings.id, %error, "the source cannot be used");
            }
            Ended::Shutdown => tracing::debug!(stream = %self.settings.id, "the source has stopped"),
        }
        ended
    }

    /// What to connect with: the settings, less a hardware decoder that has failed lately.
    fn attempt(&self, now: Instant) -> SourceSettings {
        let mut settings = self.settings.clone();
        if self.software_until.is_some_and(|until| now < until) {
            settings.decoder = Decoder::Software;
        }
        settings
    }

    /// Whether the hardware decoder is to blame for `error`. From then on, for a while, this stream is decoded in software.
    fn blames_hardware(&mut self, error: &SourceError, now: Instant) -> bool {
        let Some(decoder) = self.feed.failed_hardware(error) else { return false };
        tracing::warn!(stream = %self.settings.id, decoder, %error, "the hardware decoder failed, decoding in software");
        self.software_until = now.checked_add(HARDWARE_AGAIN);
        true
    }

    fn retry(&mut self) -> Ended {
        let file = matches!(self.settings.location, Location::File(_));
        let mut told = String::new();
        loop {
            if self.shutdown.is_requested() {
                return Ended::Shutdown;
            }
            let settings = self.attempt(Instant::now());
            let error = match connection::run_once(&settings, &self.feed, &self.limits, &self.shutdown) {
                Ok(End::Played) => return Ended::EndOfFile,
                Ok(End::Shutdown) => return Ended::Shutdown,
                Ok(End::Again) => continue,
                Err(error) => error,
            };
            // Software cannot be blamed: this happens once in a while, not in a circle.
            if self.blames_hardware(&error, Instant::now()) {
                self.status.reconnecting();
                continue;
            }
            let progress = self.feed.progress();
            if let (Some(first), Some(last)) = (progress.first, progress.last) {
                self.backoff.went_well_for(last.saturating_duration_since(first));
                told.clear();
            }
            let wait = match error.decision(file) {
                Decision::GiveUp => return Ended::Failed(error),
                Decision::Retry => self.backoff.next_wait(),
                Decision::RetrySlowly => self.backoff.slow_wait(),
            };
            let text = error.to_string();
            self.status.set(StreamState::Down { error: text.clone() });
            // A camera that is away for a week says so once.
            if told == text {
                tracing::debug!(stream = %self.settings.id, %error, ?wait, "still down");
            } else {
                tracing::warn!(stream = %self.settings.id, %error, ?wait, "the stream is down, trying again later");
                told = text;
            }
            if Backoff::wait(wait, &self.shutdown) {
                return Ended::Shutdown;
            }
            self.status.reconnecting();
        }
    }
}
