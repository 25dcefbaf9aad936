//! The dispatcher: frames out of the streams' slots, into places of the open batch, to the preprocessing pool.
//! Single pictures that somebody waits for are taken where no stream has a frame.
//!
//! One named thread. It sleeps until a slot wakes it or the open batch is due, asks the [`Batcher`] whose turn it is, claims
//! a place for every tile of the frame and hands the work on. A frame that its stream's [`UnchangedFilter`] finds unchanged goes into the batch
//! without a place. There is one batch buffer more than there are sessions ([`buffers`]): while all of them run, the
//! next batch is filled, and goes on being filled after it is due until a session is free, since it would only wait. When it is
//! full too, nothing is taken and the newest frame wins in each slot. Streams come and go: a slot
//! that arrives on `arrivals` is asked from then on, one that is closed and empty is forgotten. The thread ends when nobody can
//! send another slot and the last one has gone, after the last batch has been passed on; a stage after it that is gone ends it too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, select};

use crate::batching::batch::{FrameMeta, Item, ItemKind, PrepareJob, PreparedBatch, SharedEmbedding};
use crate::batching::batcher::Batcher;
use crate::batching::tensor::{BatchBuffer, HostMemory, TensorError};
use crate::batching::unchanged::{LastStill, UnchangedFilter};
use crate::frame::slot::SlotReader;
use crate::frame::thumbprint::Unchanged;
use crate::frame::view::{NamedView, View, Views};
use crate::frame::{Frame, Picture};
use crate::stream::StreamKey;

/// One batch running in each session, one being filled.
pub const fn buffers(sessions: usize) -> usize {
    sessions + 1
}

/// The channel that buffers come back through, with all of them in it: `capacity` pictures of `place_len` floats each, in `memory` where that
/// gives any, else on the heap.
///
/// # Errors
/// When the machine does not have that much.
pub fn free_buffers(
    sessions: usize,
    capacity: usize,
    place_len: usize,
    memory: impl Fn() -> Option<Box<dyn HostMemory>>,
) -> Result<(Sender<BatchBuffer>, Receiver<BatchBuffer>), TensorError> {
    let (back, free) = bounded(buffers(sessions));
    for _ in 0..buffers(sessions) {
        let within = memory().map(|memory| Ok(BatchBuffer::within(memory, place_len)));
        // There is room for all.
        let _ = back.try_send(within.unwrap_or_else(|| BatchBuffer::new(capacity, place_len))?);
    }
    Ok((back, free))
}

/// With nothing to wait for but slots, look again this often: a slot may close without a wake-up.
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Number of tiles in which a view looks at a picture.
pub type TileCount = fn(View, &Picture) -> usize;

/// A stream that joins.
#[derive(Debug)]
pub struct Arrival {
    pub key: StreamKey,
    pub views: Views,
    /// Whether frames that show nothing new are inferred all the same (`None`).
    pub unchanged: Option<Unchanged>,
    /// Whether a frame's picture is kept until it has been scored.
    pub pictures: bool,
    /// For a single picture that somebody waits for: where its embedding is kept. It yields to the streams.
    pub single: Option<Arc<SharedEmbedding>>,
    pub slot: SlotReader<Frame>,
}

/// A stream that is there.
struct StreamSlot {
    key: StreamKey,
    views: Views,
    slot: SlotReader<Frame>,
    pictures: bool,
    single: Option<Arc<SharedEmbedding>>,
    unchanged_filter: Option<UnchangedFilter>,
    last_still: LastStill,
}

impl From<Arrival> for StreamSlot {
    fn from(Arrival { key, views, unchanged, pictures, single, slot }: Arrival) -> Self {
        let unchanged_filter = unchanged.map(UnchangedFilter::new);
        Self { key, views, slot, pictures, single, unchanged_filter, last_still: LastStill::default() }
    }
}

/// Everything the dispatcher is joined to.
pub struct Dispatcher {
    /// Streams that join. Bounded by its sender; taken at every wake-up.
    pub arrivals: Receiver<Arrival>,
    /// Becomes ready whenever a slot has arrived, was filled or closed.
    pub wake: Receiver<()>,
    pub tiles: TileCount,
    pub jobs: Sender<PrepareJob>,
    /// Without room of its own: a batch is handed over when a session takes it.
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
    number: u64,
    buffer: BatchBuffer,
    done: Done,
}

impl Open {
    fn close(self, items: Vec<Item>) -> PreparedBatch {
        PreparedBatch { number: self.number, buffer: self.buffer, items, done: self.done.1 }
    }
}

/// A stage after this one is gone.
struct Closed;

impl Dispatcher {
    /// Runs until nobody can join and every slot has finished.
    pub fn run(self) {
        let mut batcher = Batcher::new(self.max_size, self.max_delay);
        let mut open = None;
        // A closed stage has logged its own reason; frames still here are completed by their guards.
        let _: Result<(), Closed> = self.serve(&mut batcher, &mut open);
    }

    /// Takes in who has arrived and forgets who has gone. Returns whether nobody is left and nobody can come.
    fn poll_streams(&self, slots: &mut Vec<StreamSlot>) -> bool {
        let closed = loop {
            match self.arrivals.try_recv() {
                Ok(arrival) => slots.push(arrival.into()),
                Err(TryRecvError::Empty) => break false,
                Err(TryRecvError::Disconnected) => break true,
            }
        };
        slots.retain(|stream_slot| !stream_slot.slot.is_finished());
        closed && slots.is_empty()
    }

    fn serve(&self, batcher: &mut Batcher<Item>, open: &mut Option<Open>) -> Result<(), Closed> {
        let mut slots = Vec::new();
        let mut number = 0;
        loop {
            // Nothing leaves a slot before there is a buffer for it: what waits there can still be replaced by newer.
            if open.is_none() {
                *open = Some(self.open(&mut number)?);
            }
            let finished = self.poll_streams(&mut slots);
            let mut taken = None;
            let mut pick = |single: bool| {
                batcher.pick(slots.len(), |i| {
                    if slots[i].single.is_some() == single {
                        taken = slots[i].slot.take();
                    }
                    taken.is_some()
                })
            };
            // Streams lose what waits for too long; who asks about a picture comes again.
            let picked = pick(false).or_else(|| pick(true));
            if let (Some(index), Some(frame)) = (picked, taken) {
                self.place(&mut slots[index], frame, batcher, open, &mut number)?;
                continue;
            }
            if finished {
                self.flush(batcher, open)?;
                return Ok(());
            }
            let now = Instant::now();
            if batcher.is_due(now) {
                self.offer(batcher, open)?;
                continue;
            }
            let wait = batcher.deadline().map_or(IDLE_POLL_INTERVAL, |t| t.saturating_duration_since(now));
            match self.wake.recv_timeout(wait) {
                // If it is due by now, the next round finds nothing newer first.
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                // Every slot's writer is gone, and nobody can join; the slots say so too from now on.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(wait.min(Duration::from_millis(1))),
            }
        }
    }

    fn open(&self, next: &mut u64) -> Result<Open, Closed> {
        let buffer = self.free.recv().map_err(|_| Closed)?;
        let number = *next;
        *next += 1;
        Ok(Open { number, buffer, done: bounded(self.max_size) })
    }

    /// Gives every tile of every view of `frame` a place, closing batches as they fill; one that shows nothing new goes along without a place.
    fn place(
        &self,
        stream_slot: &mut StreamSlot,
        frame: Frame,
        batcher: &mut Batcher<Item>,
        open: &mut Option<Open>,
        next: &mut u64,
    ) -> Result<(), Closed> {
        let Frame { stream, time, picture, thumbprints, still, guard } = frame;
        let (key, views) = (stream_slot.key, stream_slot.views.clone());
        let tiles: Vec<usize> = views.iter().map(|view| (self.tiles)(view.view, &picture).max(1)).collect();
        // What has waited in its slot has used up a part of its delay.
        let came = time.captured.min(Instant::now());
        let compared = stream_slot.unchanged_filter.as_mut().filter(|_| !thumbprints.is_empty());
        let unchanged = || compared.as_ref().and_then(|filter| filter.reuse(&thumbprints, time.media));
        if let Some(shared_embedding) = still.and_then(|number| stream_slot.last_still.reuse(number)).or_else(unchanged)
        {
            let picture = stream_slot.pictures.then_some(picture);
            let frame = Arc::new(FrameMeta { stream: key, time, tiles, shared_embedding: None, picture, guard });
            batcher.push_reused(Item { frame, kind: ItemKind::Reused(shared_embedding) }, came).map_err(|_| Closed)?;
            return if batcher.is_full() { self.flush(batcher, open) } else { Ok(()) };
        }
        let kept_for_later = compared.is_some() || still.is_some();
        let shared_embedding =
            stream_slot.single.clone().or_else(|| kept_for_later.then(Arc::<SharedEmbedding>::default));
        let kept = stream_slot.pictures.then(|| Arc::clone(&picture));
        let meta = Arc::new(FrameMeta {
            stream: key,
            time,
            tiles: tiles.clone(),
            shared_embedding: shared_embedding.clone(),
            picture: kept,
            guard,
        });
        if let (Some(number), Some(shared_embedding)) = (still, &shared_embedding) {
            stream_slot.last_still.infer(number, Arc::clone(shared_embedding), &meta);
        }
        if let (Some(filter), Some(shared_embedding)) = (compared, shared_embedding) {
            filter.infer(thumbprints, shared_embedding, &meta);
        }
        let of_view = |(view, tiles)| (0..tiles).map(move |tile| (view, tile));
        for (view, tile) in views.iter().zip(tiles).flat_map(of_view) {
            let current = match open {
                Some(current) => current,
                None => open.insert(self.open(next)?),
            };
            let Some(place) = current.buffer.claim() else { return Err(Closed) };
            let item = Item { frame: Arc::clone(&meta), kind: ItemKind::Tile };
            let index = batcher.push(item, came).map_err(|_| Closed)?;
            let done = current.done.0.clone();
            let (picture, stream) = (Arc::clone(&picture), Arc::clone(&stream));
            let NamedView { view, mask, .. } = view.clone();
            let job = PrepareJob { picture, stream, view, mask, tile, place, done, index };
            self.jobs.send(job).map_err(|_| Closed)?;
            if batcher.is_full() {
                self.flush(batcher, open)?;
            }
        }
        Ok(())
    }

    /// Offers the open batch, which is due, until a session takes it or there is something to add to it.
    fn offer(&self, batcher: &mut Batcher<Item>, open: &mut Option<Open>) -> Result<(), Closed> {
        let Some(current) = open.take() else { return Ok(()) };
        let gone = select! {
            recv(self.wake) -> woken => woken.is_err(),
            // The batch is closed only if a session takes it.
            send(self.batches, current.close(batcher.take())) -> sent => return sent.map_err(|_| Closed),
            default(IDLE_POLL_INTERVAL) => false,
        };
        *open = Some(current);
        // With nobody left to wake us, nothing more comes.
        if gone { self.flush(batcher, open) } else { Ok(()) }
    }

    /// Passes the open batch on, if there is anything in it.
    fn flush(&self, batcher: &mut Batcher<Item>, open: &mut Option<Open>) -> Result<(), Closed> {
        if batcher.is_empty() {
            return Ok(());
        }
        let Some(current) = open.take() else { return Ok(()) };
        self.batches.send(current.close(batcher.take())).map_err(|_| Closed)
    }
}
