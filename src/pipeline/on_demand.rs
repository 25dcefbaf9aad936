//! Single pictures that somebody asks about go through the same batches as the streams, and yield to them.
//!
//! In: a decoded picture, on the asker's own thread, which waits. Out: its embeddings. Each picture is a stream of one frame, with a slot, a
//! route and an accounting of its own: it joins, is taken when no stream has a frame that waits, and leaves. How many are under way is for
//! the asker to bound. Full (the streams take all there is): it is taken back after [`WAIT_TIMEOUT`]. Closed: once the pipeline's intake is
//! dropped, nothing joins any more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::batching::batch::SharedEmbedding;
use crate::batching::dispatcher::Arrival;
use crate::frame::view::Views;
use crate::frame::{Frame, FrameTime, Picture};
use crate::preprocess;
use crate::score::score_routes::{ScoreRoute, ScoreRoutes};
use crate::stream::accounting::{DropReason, FrameAccounting, FrameOutcome};
use crate::stream::{StreamId, StreamKey};

use super::picture_to_slot;

/// What metrics call them; no stream can be called so.
const STREAM: &str = "@api";
/// Keys of streams count from 0.
const FIRST_KEY: u64 = 1 << 63;
/// How long a picture waits for its embedding.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);
/// How often it is looked whether it was lost on its way.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Why a picture has no embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEmbedding {
    /// The streams have taken all that the box has.
    Busy,
    /// It was lost on its way; the log has the reason.
    Failed,
    /// The pipeline ends.
    Stopping,
}

/// What the dispatcher hears of those who join.
pub(super) struct Joining {
    pub arrivals: Sender<Arrival>,
    pub wake: Sender<()>,
}

/// See the module.
pub struct OnDemand {
    /// Gone with the intake: whoever holds these keeps the pipeline from ending.
    joining: Weak<Joining>,
    score_routes: Arc<ScoreRoutes>,
    stream: StreamId,
    next: AtomicU64,
}

/// Its route, until the asker has what he wants or has given up.
struct OpenRoute<'a>(&'a ScoreRoutes, StreamKey);

impl Drop for OpenRoute<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

impl OnDemand {
    pub(super) fn new(joining: Weak<Joining>, score_routes: Arc<ScoreRoutes>) -> Self {
        Self { joining, score_routes, stream: STREAM.into(), next: AtomicU64::new(FIRST_KEY) }
    }

    /// For each of `views`, the embeddings of the tiles into which it cuts `picture`, one behind the other.
    ///
    /// # Errors
    /// Why there are none.
    pub fn embed(&self, picture: impl Into<Arc<Picture>>, views: &Views) -> Result<Vec<Vec<f32>>, NoEmbedding> {
        let picture = picture.into();
        let tiles: Vec<usize> =
            views.iter().map(|view| preprocess::tiles(view.view, picture.width(), picture.height()).max(1)).collect();
        let key = StreamKey(self.next.fetch_add(1, Ordering::Relaxed));
        let accounting = Arc::new(FrameAccounting::default());
        let embedding = Arc::new(SharedEmbedding::default());
        let (done, scored) = bounded(1);
        // By then the embedding is where it is kept.
        let handler = Box::new(move |_: FrameTime, _: Option<&Arc<Picture>>, _: &[_]| {
            let _ = done.try_send(());
        });
        self.score_routes
            .enter(key, ScoreRoute { scorers: Vec::new(), skipped: Vec::new(), handler, embeddings: None });
        let _route = OpenRoute(&self.score_routes, key);
        let writer = {
            let joining = self.joining.upgrade().ok_or(NoEmbedding::Stopping)?;
            let (writer, slot) = picture_to_slot(joining.wake.clone());
            let single = Some(Arc::clone(&embedding));
            let arrival = Arrival { key, views: views.clone(), unchanged: None, pictures: false, single, slot };
            joining.arrivals.try_send(arrival).map_err(|_| NoEmbedding::Busy)?;
            writer
        };
        let begun = Instant::now();
        let time = FrameTime { media: Duration::ZERO, captured: begun, wall: jiff::Timestamp::now(), connection: 0 };
        let guard = accounting.sample(&self.stream);
        let frame =
            Frame { stream: Arc::clone(&self.stream), time, picture, thumbprints: Vec::new(), still: None, guard };
        writer.put(frame).map_err(|_| NoEmbedding::Stopping)?;
        let embedded = || -> Option<Vec<Vec<f32>>> {
            let all = embedding.get()?;
            let dim = all.len() / tiles.iter().sum::<usize>();
            let mut rest = all;
            let of_view = |tiles: &usize| rest.split_off(..tiles * dim).map(<[f32]>::to_vec);
            tiles.iter().map(of_view).collect()
        };
        loop {
            match scored.recv_timeout(POLL_INTERVAL) {
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return embedded().ok_or(NoEmbedding::Failed),
                // Scored just now, or lost.
                Err(RecvTimeoutError::Timeout) if accounting.totals().unaccounted() == 0 => {
                    return embedded().ok_or(NoEmbedding::Failed);
                }
                Err(RecvTimeoutError::Timeout) if begun.elapsed() >= WAIT_TIMEOUT => {
                    if let Some(frame) = writer.take_back() {
                        frame.guard.complete(FrameOutcome::Dropped(DropReason::Superseded));
                    }
                    return Err(NoEmbedding::Busy);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}
