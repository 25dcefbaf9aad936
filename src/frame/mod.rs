//! What a source hands on: one decoded picture with its place in time.
//!
//! A [`Picture`] borrows the decoder's own memory through [`PlaneStore`], so a frame that is never looked at is never copied.
//! Nothing here knows GStreamer.

pub mod latest_picture;
pub mod pushed_pictures;
pub mod slot;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::stream::StreamId;
use crate::stream::accounting::{FrameGuard, OutcomeWatcher};
use thumbprint::Thumbprint;

// Pictures themselves know no stream, no time and no daemon; `use` finds them here.
pub use vtagd_pictures::{Matrix, Picture, PictureError, PixelFormat, PlaneStore, Range, YuvToRgb};
pub use vtagd_pictures::{coded_size, picture_kind, region_picture, still_image, thumbprint, view};

/// When a frame was: in the stream's own time, on the monotonic clock, and on the wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameTime {
    /// Time since the stream's first PTS; never goes back, also across reconnects.
    pub media: Duration,
    /// When the frame left the decoder; its age is measured from here.
    pub captured: Instant,
    /// Wall clock at the same moment, for people.
    pub wall: jiff::Timestamp,
    /// Which of its source's connections it came over: nobody knows what was between two of them.
    pub connection: u64,
}

/// A sampled frame on its way. Its [`FrameGuard`] makes sure that it ends in exactly one counter (invariant 2).
#[derive(Debug)]
pub struct Frame {
    pub stream: StreamId,
    pub time: FrameTime,
    pub picture: Arc<Picture>,
    /// For streams whose unchanged frames are not inferred again: one a view of the stream, in its order. Empty for others.
    pub thumbprints: Vec<Thumbprint>,
    /// Of a polled picture: its number. One that its server calls unchanged has that of the one before.
    pub still: Option<u64>,
    pub guard: FrameGuard,
}

/// What a source needs of the stage after it. Called on the GStreamer streaming thread.
pub trait FrameTap: Send + Sync {
    /// How often a frame is wanted, as things stand; zero: every frame.
    fn interval(&self) -> Duration;

    /// Whether the frame at `media` time is worth converting, or, where only keyframes are decoded, decoding. A `true` counts as sampled and must be followed by
    /// [`deliver`](Self::deliver) for that same frame; if the next thing to come is something else, the frame is
    /// counted as dropped (`reason="decode"`).
    fn is_sampled(&self, media: Duration) -> bool;

    /// How long after `media` time the next frame is wanted, as things stand; zero: one of that time is, or it cannot be told. Asks for nothing.
    fn until_wanted(&self, media: Duration) -> Duration {
        let _ = media;
        Duration::ZERO
    }

    /// Hands over the frame last wanted. Returns at once for live streams (newest wins); for `pace: fast` it blocks
    /// until there is room or shutdown is asked for.
    fn deliver(&self, time: FrameTime, picture: Picture);

    /// The same of a polled picture; `number` is that of the one before where its server says that it is the same.
    fn deliver_still(&self, time: FrameTime, picture: Picture, number: u64) {
        let _ = number;
        self.deliver(time, picture);
    }

    /// A picture that somebody has sent: it is sampled, whenever it comes, and handed over. `outcome` hears what becomes of it.
    fn deliver_pushed(&self, time: FrameTime, picture: Picture, number: u64, outcome: Option<OutcomeWatcher>) {
        let _ = outcome;
        if self.is_sampled(time.media) {
            self.deliver_still(time, picture, number);
        }
    }
}
