//! The dispatcher: frames out of the streams' slots, into places of the open batch, to the preprocessing pool.
//!
//! One named thread. It sleeps until a slot wakes it or the open batch is due, asks the [`Batcher`] whose turn it is, claims
//! a place for every square of the frame and hands the work on. There are [`BUFFERS`] batch buffers: while one runs, the
//! next is filled; when both are busy nothing is taken and the newest frame wins in each slot. It ends when every slot is
//! closed and empty, after the last batch has been passed on; a stage after it that is gone ends it too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::batcher::Batcher;
use crate::batch::{FrameMeta, Item, PrepareJob, PreparedBatch};
use crate::frame::{Frame, Picture};
use crate::queue::SlotReader;
use crate::tensor::BatchBuffer;

/// One batch running, one being filled.
pub const BUFFERS: usize = 2;

/// With nothing to wait for but slots, look again this often: a slot may close without a wake-up.
const IDLE: Duration = Duration::from_millis(250);

/// Number of squares in which stream `.0` wants picture `.1` to be looked at.
pub type TileCount = Box<dyn Fn(usize, &Picture) -> usize + Send>;

/// Everything the dispatcher is joined to.
pub struct Dispatcher {
    /// One a stream, in the pipeline's order.
    pub slots: Vec<SlotReader<Frame>>,
    /// Becomes ready whenever a slot was filled or closed.
    pub wake: Receiver<()>,
    pub tiles: TileCount,
    pub jobs: Sender<PrepareJob>,
    pub batches: Sender<PreparedBatch>,
    /// Buffers come back here after their run.
    pub free: Receiver<BatchBuffer>,
    pub max_size: usize,
    pub max_delay: Duration,
}

/// Tells for each item of a batch that its place has been written, or could not be.
type Done = (Sender<(usize, bool)>, Receiver<(usize, bool)>);

/// The batch being filled.
struct Open {
    buffer: BatchBuffer,
    done: Done,
}

/// A stage after this one is gone.
struct Closed;

impl Dispatcher {
    /// Runs until every slot has finished.
    pub fn run(self) {
        let mut batcher = Batcher::new(self.max_size, self.max_delay);
        let mut open = None;
        // A closed stage has logged its own reason; frames still here settle by their tickets.
        let _: Result<(), Closed> = self.serve(&mut batcher, &mut open);
    }

    fn serve(&self, batcher: &mut Batcher<Item>, open: &mut Option<Open>) -> Result<(), Closed> {
        loop {
            // Nothing leaves a slot before there is a buffer for it: what waits there can still be replaced by newer.
            if open.is_none() {
                *open = Some(self.open()?);
            }
            // Read before the slots, so that a frame put just before its slot closed is not missed.
            let finished = self.slots.iter().all(SlotReader::is_finished);
            let mut taken = None;
            if batcher
                .pick(self.slots.len(), |i| {
                    taken = self.slots[i].take().map(|f| (i, f));
                    taken.is_some()
                })
                .is_some()
                && let Some((stream, frame)) = taken
            {
                self.place(stream, frame, batcher, open)?;
                continue;
            }
            if finished {
                self.flush(batcher, open)?;
                return Ok(());
            }
            let wait = batcher.deadline().map_or(IDLE, |t| t.saturating_duration_since(Instant::now()));
            match self.wake.recv_timeout(wait) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => {
                    if batcher.is_due(Instant::now()) {
                        self.flush(batcher, open)?;
                    }
                }
                // Every slot's writer is gone; the slots say so too from now on.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(wait.min(Duration::from_millis(1))),
            }
        }
    }

    fn open(&self) -> Result<Open, Closed> {
        let buffer = self.free.recv().map_err(|_| Closed)?;
        Ok(Open { buffer, done: bounded(self.max_size) })
    }

    /// Gives every square of `frame` a place, closing batches as they fill.
    fn place(
        &self,
        stream: usize,
        frame: Frame,
        batcher: &mut Batcher<Item>,
        open: &mut Option<Open>,
    ) -> Result<(), Closed> {
        let Frame { time, picture, ticket, .. } = frame;
        let tiles = (self.tiles)(stream, &picture).max(1);
        let picture = Arc::new(picture);
        let meta = Arc::new(FrameMeta { stream, time, tiles, ticket });
        for tile in 0..tiles {
            let now = Instant::now();
            let current = match open {
                Some(current) => current,
                None => open.insert(self.open()?),
            };
            let Some(place) = current.buffer.claim() else { return Err(Closed) };
            let Ok(index) = batcher.push(Item { frame: Arc::clone(&meta), tile }, now) else { return Err(Closed) };
            let done = current.done.0.clone();
            let job = PrepareJob { picture: Arc::clone(&picture), stream, tile, place, done, index };
            self.jobs.send(job).map_err(|_| Closed)?;
            if batcher.is_due(now) {
                self.flush(batcher, open)?;
            }
        }
        Ok(())
    }

    /// Passes the open batch on, if there is anything in it.
    fn flush(&self, batcher: &mut Batcher<Item>, open: &mut Option<Open>) -> Result<(), Closed> {
        if batcher.is_empty() {
            return Ok(());
        }
        let Some(Open { buffer, done }) = open.take() else { return Ok(()) };
        let batch = PreparedBatch { buffer, items: batcher.take(), done: done.1 };
        self.batches.send(batch).map_err(|_| Closed)
    }
}
