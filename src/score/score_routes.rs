//! Who listens to the scores of which stream, and which scorers make them. Shared between the scoring thread and the main thread.
//!
//! The scoring thread holds the lock for one batch (scoring takes well under a millisecond), so every change takes hold between
//! two batches: no frame is scored half by old labels and half by new ones, and none is lost.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::computed_by::ComputedBy;
use super::{LabelScore, Scorer};
use crate::frame::{FrameTime, Picture};
use crate::stream::StreamKey;

/// What is done with a whole frame's scores: for each view of the stream, one vector a scorer of the route, in their orders, each with one
/// score a label, none where they are skipped; and the frame itself, where it is kept. Called on the scoring thread, frame by frame, in order; must not wait.
pub type ScoreHandler = Box<dyn FnMut(FrameTime, Option<&Arc<Picture>>, &[Vec<LabelScore>]) + Send>;

/// What is done with a whole frame's embeddings: the frame itself, where it is kept, how many there are of each view, then all of them, one after
/// the other, and how long each is.
/// Called before its [`ScoreHandler`], on the same thread; must not wait.
pub type EmbeddingHandler = Box<dyn FnMut(FrameTime, Option<&Arc<Picture>>, &[usize], &[f32], usize) + Send>;

/// One stream, as scoring needs it.
pub struct ScoreRoute {
    pub scorers: Vec<Arc<Scorer>>,
    /// For each of these whether nobody wants its scores now: they are not made, and none of its labels has one. Shorter than these: all others are
    /// wanted.
    pub skipped: Vec<bool>,
    pub handler: ScoreHandler,
    /// `None`: nobody wants them.
    pub embeddings: Option<EmbeddingHandler>,
}

/// All streams. Frames of a stream that is not here are dropped.
#[derive(Default)]
pub struct ScoreRoutes {
    routes: Mutex<HashMap<StreamKey, ScoreRoute>>,
    /// Whose embeddings are scored.
    pub computed_by: Arc<ComputedBy>,
}

impl ScoreRoutes {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<StreamKey, ScoreRoute>> {
        self.routes.lock()
    }

    /// A stream joins. Before its first frame, or that frame is lost.
    pub fn enter(&self, key: StreamKey, route: ScoreRoute) {
        self.lock().insert(key, route);
    }

    /// A stream has gone, all its frames with it.
    pub fn leave(&self, key: StreamKey) {
        let gone = self.lock().remove(&key);
        // Outside the lock: a handler may hold much.
        drop(gone);
    }

    /// All frames have ended: nobody listens any more, and what the handlers hold is let go of.
    pub fn clear(&self) {
        let gone = std::mem::take(&mut *self.lock());
        drop(gone);
    }

    /// Changes several streams at once, between two batches.
    pub fn change(&self, change: impl FnOnce(&mut HashMap<StreamKey, ScoreRoute>)) {
        change(&mut self.lock());
    }
}
