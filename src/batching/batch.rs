//! What travels between the stages after sampling: jobs for the preprocessing pool, prepared batches for the session
//! thread, embeddings for the scoring thread.
//!
//! A frame gives one item, or several if its view is tiled or its stream has several views. Items of one frame keep their order and may fall into
//! different batches; [`FrameMeta`] is what they share, and its guard ends when the last of them is gone. A frame that looks
//! like an earlier one gives an item without pixels: it travels with the others, so that it is scored in its turn, and is scored
//! with the embedding that the earlier frame leaves in their common [`SharedEmbedding`].

use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender};

use crate::batching::tensor::{BatchBuffer, BatchPlace};
use crate::frame::view::{Polygon, View};
use crate::frame::{FrameTime, Picture};
use crate::stream::accounting::FrameGuard;
use crate::stream::{StreamId, StreamKey};

/// One sampled frame, after its pixels have gone their own way.
#[derive(Debug)]
pub struct FrameMeta {
    pub stream: StreamKey,
    pub time: FrameTime,
    /// Tiles this frame was cut into for each view of its stream, in their order; 1 unless the view is tiled.
    pub tiles: Vec<usize>,
    /// Where its embedding is to be kept for frames that look the same.
    pub shared_embedding: Option<Arc<SharedEmbedding>>,
    /// The frame itself, where events want a picture. It is held until the frame has been scored.
    pub picture: Option<Arc<Picture>>,
    pub guard: FrameGuard,
}

/// The embeddings of one frame, view by view and tile by tile, for later frames that look the same. Empty until they are known, and for ever if
/// the frame is lost on its way. Held by the frame, those that look like it and its stream, so there are few of them.
#[derive(Debug, Default)]
pub struct SharedEmbedding(OnceLock<Vec<f32>>);

impl SharedEmbedding {
    /// Keeps `embeddings` (`[squares, dim]`); the first ones stay.
    pub fn keep(&self, embeddings: &[f32]) {
        let _ = self.0.get_or_init(|| embeddings.to_vec());
    }

    pub fn get(&self) -> Option<&[f32]> {
        self.0.get().map(Vec::as_slice)
    }
}

/// What an item stands for.
#[derive(Clone, Debug)]
pub enum ItemKind {
    /// One tile of its frame. It has a place in the batch.
    Tile,
    /// The whole frame, which looks like an earlier one. It has no place, and its embedding is, or will be, in here.
    Reused(Arc<SharedEmbedding>),
}

/// One tile of one view of a frame, or a frame without pixels.
#[derive(Clone, Debug)]
pub struct Item {
    pub frame: Arc<FrameMeta>,
    pub kind: ItemKind,
}

impl Item {
    /// Whether it has a place in the batch.
    pub fn has_place(&self) -> bool {
        matches!(self.kind, ItemKind::Tile)
    }
}

/// Work for the preprocessing pool: write tile `tile` of `picture`, seen through `view` and `mask`, into `place`, then say so on `done`.
pub struct PrepareJob {
    pub picture: Arc<Picture>,
    pub stream: StreamId,
    pub view: View,
    pub mask: Option<Polygon>,
    pub tile: usize,
    pub place: BatchPlace,
    /// Which place of the batch, and whether it was written.
    pub done: Sender<(usize, bool)>,
    pub index: usize,
}

/// A closed batch. Its places may still be being written: one message on `done` a place tells that they are. The places belong, in
/// order, to the items that have one.
pub struct PreparedBatch {
    /// Counted from 0 in the order in which batches are closed.
    pub number: u64,
    pub buffer: BatchBuffer,
    pub items: Vec<Item>,
    pub done: Receiver<(usize, bool)>,
}

/// What came of a batch: the rows of `embeddings` (`[places, dim]`, L2-normalised) belong, in order, to the items that have a place.
#[derive(Debug)]
pub struct EmbeddedBatch {
    pub items: Vec<Item>,
    pub embeddings: Vec<f32>,
    pub dim: usize,
    /// Name of what computed them.
    pub provider: &'static str,
}
