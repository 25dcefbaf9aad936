//! Still pictures on their way to the sampler, beside what pipelines give: polled ones, and those that others send.
//!
//! In: pictures with the moment at which they came. Out: the same, to the [`FrameTap`](crate::frame::FrameTap); progress and status. On the thread of whoever has them. Full, closed: as of the tap around it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::gop::Mode;
use super::PipelineTap;
use crate::frame::{FrameTap, FrameTime, Picture};
use crate::stream::accounting::OutcomeWatcher;
use crate::stream::status::{Decoding, StreamState};

impl PipelineTap {
    /// Hands over a picture that was polled `at`, if it is wanted. `number`: see [`FrameTap::deliver_still`].
    pub fn still(&self, connection: u64, at: Duration, picture: Picture, number: u64) {
        let Some((first, time, tap)) = self.came(connection, at) else { return };
        if first {
            self.status.polled();
            if self.status.set(StreamState::Up) {
                tracing::info!(stream = %self.status.id(), "still pictures are polled");
            }
        }
        if tap.is_sampled(time.media) {
            self.show(time, &picture);
            tap.deliver_still(time, picture, number);
        }
    }

    /// Hands over a picture that somebody has sent `at`; see [`FrameTap::deliver_pushed`].
    pub fn pushed(
        &self,
        connection: u64,
        at: Duration,
        picture: Picture,
        number: u64,
        outcome: Option<OutcomeWatcher>,
    ) {
        let Some((_, time, tap)) = self.came(connection, at) else { return };
        self.show(time, &picture);
        tap.deliver_pushed(time, picture, number, outcome);
    }

    /// A still picture has come: whether it is the first, when it was, and who looks at it.
    fn came(&self, connection: u64, at: Duration) -> Option<(bool, FrameTime, Arc<dyn FrameTap>)> {
        let (now, wall) = (Instant::now(), jiff::Timestamp::now());
        let (first, media) = self.with(|state| {
            if state.connection != connection {
                return None;
            }
            state.progress.frames += 1;
            state.progress.first.get_or_insert(now);
            state.progress.last = Some(now);
            Some((state.progress.frames == 1, state.media.place(at, now)))
        })?;
        self.status.frame_seen(now);
        if first {
            self.status.decoding(Decoding { mode: Some(Mode::All.name()), ..Decoding::default() });
        }
        Some((first, FrameTime { media, captured: now, wall, connection }, self.tap()?))
    }

    pub(super) fn show(&self, time: FrameTime, picture: &Picture) {
        self.status.picture_size(picture.width(), picture.height());
        if self.status.is_counted() {
            metrics::gauge!("vtagd_last_frame_timestamp_seconds", "stream" => self.status.id().to_string())
                .set(time.wall.as_duration().as_secs_f64());
        }
    }
}
