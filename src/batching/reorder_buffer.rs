//! Batches back in the order in which they were closed, whichever session was done first: tags and frames without pixels rely on it.
//!
//! In: what came of each batch, from the session threads, with the buffer that it was in; out: the embedded batches, to the scoring thread, and
//! their buffers, to the dispatcher. A batch keeps its buffer until its turn, so that the buffers that go round bound what waits for an
//! earlier one, pictures of its frames included: while one session hangs or is slow, the others stand still, and frames are replaced in
//! their slots. A scoring stage that is behind holds the sessions up; one that is gone ends them. Any session thread may be inside, one at a time.

use std::collections::BTreeMap;

use crossbeam_channel::{Sender, TrySendError};
use parking_lot::Mutex;

use crate::batching::batch::EmbeddedBatch;
use crate::batching::tensor::BatchBuffer;

/// The scoring stage is gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed;

/// See the module.
pub struct ReorderBuffer(Mutex<Inner>);

struct Inner {
    next: u64,
    /// Later than `next`.
    early: BTreeMap<u64, Early>,
    out: Sender<EmbeddedBatch>,
    free: Sender<BatchBuffer>,
}

/// What waits for its turn.
#[derive(Default)]
struct Early {
    /// `None`: nothing came of it.
    batch: Option<EmbeddedBatch>,
    /// `None`: of a batch that was given up; its session has it.
    buffer: Option<BatchBuffer>,
}

impl ReorderBuffer {
    /// Batches go to `out`, buffers, which it has room for, to `free`.
    pub fn new(out: Sender<EmbeddedBatch>, free: Sender<BatchBuffer>) -> Self {
        Self(Mutex::new(Inner { next: 0, early: BTreeMap::new(), out, free }))
    }

    /// What came of the batch `number`, which was in `buffer`; `None` if nothing goes on. Waits while the scoring stage is behind.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn put(&self, number: u64, batch: Option<EmbeddedBatch>, buffer: BatchBuffer) -> Result<(), Closed> {
        let mut inner = self.0.lock();
        inner.note(number, Early { batch, buffer: Some(buffer) });
        while let Some(Early { batch, buffer }) = inner.due() {
            let sent = batch.map_or(Ok(()), |batch| inner.out.send(batch));
            inner.give_back(buffer);
            sent.map_err(|_| Closed)?;
        }
        Ok(())
    }

    /// The buffer of a batch of which nothing goes on any more.
    pub fn give_back(&self, buffer: BatchBuffer) {
        self.0.lock().give_back(Some(buffer));
    }

    /// Nothing will come of the batch `number`. Never waits: `false` if it has to be said again.
    pub fn try_skip(&self, number: u64) -> bool {
        let Some(mut inner) = self.0.try_lock() else { return false };
        inner.note(number, Early::default());
        // Those behind it go as far as there is room.
        while let Some(Early { batch, buffer }) = inner.due() {
            if let Some(Err(TrySendError::Full(batch))) = batch.map(|batch| inner.out.try_send(batch)) {
                inner.next -= 1;
                let next = inner.next;
                inner.early.insert(next, Early { batch: Some(batch), buffer });
                return false;
            }
            inner.give_back(buffer);
        }
        true
    }
}

impl Inner {
    /// The first word about a batch counts: one that was given up and comes back all the same is late.
    fn note(&mut self, number: u64, early: Early) {
        if number >= self.next && !self.early.contains_key(&number) {
            self.early.insert(number, early);
        } else {
            self.give_back(early.buffer);
        }
    }

    /// The next to leave.
    fn due(&mut self) -> Option<Early> {
        let early = self.early.remove(&self.next)?;
        self.next += 1;
        Some(early)
    }

    fn give_back(&self, buffer: Option<BatchBuffer>) {
        // The dispatcher may be gone already while its last batches drain.
        buffer.map(|buffer| self.free.send(buffer));
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;
    use proptest::prelude::*;

    use super::*;

    fn buffer() -> BatchBuffer {
        BatchBuffer::new(1, 1).unwrap()
    }

    fn batch(number: u64) -> Option<EmbeddedBatch> {
        Some(EmbeddedBatch { items: Vec::new(), embeddings: vec![number as f32], dim: 1, provider: "cpu" })
    }

    proptest! {
        #[test]
        fn batches_leave_in_their_order_and_failed_ones_hold_nobody_up(
            order in Just((0..20u64).collect::<Vec<_>>()).prop_shuffle(),
            failed in prop::collection::vec(any::<bool>(), 20),
        ) {
            let (out, batches) = bounded(20);
            let (free, freed) = bounded(20);
            let ordered = ReorderBuffer::new(out, free);
            for number in order {
                let lost = failed[number as usize];
                if lost && number % 2 == 0 {
                    prop_assert!(ordered.try_skip(number));
                    // It comes back after all.
                    prop_assert_eq!(ordered.put(number, batch(number), buffer()).is_ok(), true);
                } else {
                    ordered.put(number, batch(number).filter(|_| !lost), buffer()).unwrap();
                }
            }
            drop(ordered);
            prop_assert_eq!(freed.len(), 20, "each buffer comes back");
            let left: Vec<u64> = batches.iter().map(|b| b.embeddings[0] as u64).collect();
            let mut sorted = left.clone();
            sorted.sort_unstable();
            prop_assert_eq!(&left, &sorted);
            let wanted: Vec<u64> = (0..20u64).filter(|n| !failed[*n as usize]).collect();
            prop_assert_eq!(left, wanted);
        }
    }

    #[test]
    fn a_batch_waits_for_the_one_before_it() {
        let (out, batches) = bounded(4);
        let (free, freed) = bounded(4);
        let ordered = ReorderBuffer::new(out, free);
        ordered.put(1, batch(1), buffer()).unwrap();
        assert!(batches.is_empty() && freed.is_empty(), "and keeps its buffer until then");
        ordered.put(0, batch(0), buffer()).unwrap();
        assert_eq!((batches.len(), freed.len()), (2, 2));
    }

    #[test]
    fn passing_one_over_never_waits_for_the_scoring_stage() {
        let (out, batches) = bounded(1);
        let (free, freed) = bounded(4);
        let ordered = ReorderBuffer::new(out, free);
        ordered.put(1, batch(1), buffer()).unwrap();
        ordered.put(2, batch(2), buffer()).unwrap();
        assert!(!ordered.try_skip(0), "there is room for one of two");
        assert_eq!(freed.len(), 1);
        assert_eq!(batches.recv().unwrap().embeddings, [1.0]);
        assert!(ordered.try_skip(0));
        assert_eq!(batches.recv().unwrap().embeddings, [2.0]);
        // The session that was given up comes back, with its buffer.
        ordered.give_back(buffer());
        assert_eq!(freed.len(), 3);
    }

    #[test]
    fn a_scoring_stage_that_is_gone_is_told() {
        let (out, batches) = bounded(4);
        let ordered = ReorderBuffer::new(out, bounded(1).0);
        drop(batches);
        assert_eq!(ordered.put(0, batch(0), buffer()), Err(Closed));
    }
}
