//! What travels between the stages after sampling: jobs for the preprocessing pool, prepared batches for the session
//! thread, embeddings for the scoring thread.
//!
//! A frame gives one item, or several if its view is tiled. Items of one frame keep their order and may fall into
//! different batches; [`FrameMeta`] is what they share, and its ticket ends when the last of them is gone.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use crate::account::Ticket;
use crate::frame::{FrameTime, Picture, StreamId, StreamKey};
use crate::tensor::{BatchBuffer, Place};
use crate::view::View;

/// One sampled frame, after its pixels have gone their own way.
#[derive(Debug)]
pub struct FrameMeta {
    pub stream: StreamKey,
    pub time: FrameTime,
    /// Squares this frame was cut into; 1 unless the view is tiled.
    pub tiles: usize,
    pub ticket: Ticket,
}

/// One square of one frame.
#[derive(Clone, Debug)]
pub struct Item {
    pub frame: Arc<FrameMeta>,
    pub tile: usize,
}

/// Work for the preprocessing pool: write square `tile` of `picture` into `place`, then say so on `done`.
pub struct PrepareJob {
    pub picture: Arc<Picture>,
    pub stream: StreamId,
    pub view: View,
    pub tile: usize,
    pub place: Place,
    /// Index in the batch, and whether the place was written.
    pub done: Sender<(usize, bool)>,
    pub index: usize,
}

/// A closed batch. Its places may still be being written: one message on `done` an item tells that they are.
pub struct PreparedBatch {
    pub buffer: BatchBuffer,
    pub items: Vec<Item>,
    pub done: Receiver<(usize, bool)>,
}

/// What came of a batch: row `i` of `embeddings` (`[items, dim]`, L2-normalised) belongs to `items[i]`.
#[derive(Debug)]
pub struct EmbeddedBatch {
    pub items: Vec<Item>,
    pub embeddings: Vec<f32>,
    pub dim: usize,
}
