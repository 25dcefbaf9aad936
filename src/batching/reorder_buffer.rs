//! Batches back in the order in which they were closed, whichever session was done first: tags and frames without pixels rely on it.
//!
//! In: what came of each batch, from the session threads; out: the embedded batches, to the scoring thread. What waits for an
//! earlier one is bounded by the buffers that go round. A scoring stage that is behind holds the sessions up; one that is gone ends
//! them. Any session thread may be inside, one at a time.

use std::collections::BTreeMap;

use crossbeam_channel::{Sender, TrySendError};
use parking_lot::Mutex;

use crate::batching::batch::EmbeddedBatch;

/// The scoring stage is gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed;

/// See the module.
pub struct ReorderBuffer(Mutex<Inner>);

struct Inner {
    next: u64,
    /// Later than `next`; `None`: nothing came of it.
    early: BTreeMap<u64, Option<EmbeddedBatch>>,
    out: Sender<EmbeddedBatch>,
}

impl ReorderBuffer {
    pub fn new(out: Sender<EmbeddedBatch>) -> Self {
        Self(Mutex::new(Inner { next: 0, early: BTreeMap::new(), out }))
    }

    /// What came of the batch `number`; `None` if nothing goes on. Waits while the scoring stage is behind.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn put(&self, number: u64, batch: Option<EmbeddedBatch>) -> Result<(), Closed> {
        let mut inner = self.0.lock();
        inner.note(number, batch);
        while let Some(batch) = inner.due() {
            inner.out.send(batch).map_err(|_| Closed)?;
        }
        Ok(())
    }

    /// Nothing will come of the batch `number`. Never waits: `false` if it has to be said again.
    pub fn try_skip(&self, number: u64) -> bool {
        let Some(mut inner) = self.0.try_lock() else { return false };
        inner.note(number, None);
        // Those behind it go as far as there is room.
        while let Some(batch) = inner.due() {
            if let Err(TrySendError::Full(batch)) = inner.out.try_send(batch) {
                inner.next -= 1;
                let next = inner.next;
                inner.early.insert(next, Some(batch));
                return false;
            }
        }
        true
    }
}

impl Inner {
    /// The first word about a batch counts: one that was given up and comes back all the same is late.
    fn note(&mut self, number: u64, batch: Option<EmbeddedBatch>) {
        if number >= self.next {
            self.early.entry(number).or_insert(batch);
        }
    }

    /// The next batch to leave, those of which nothing came passed over.
    fn due(&mut self) -> Option<EmbeddedBatch> {
        while let Some(batch) = self.early.remove(&self.next) {
            self.next += 1;
            if batch.is_some() {
                return batch;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;
    use proptest::prelude::*;

    use super::*;

    fn batch(number: u64) -> Option<EmbeddedBatch> {
        Some(EmbeddedBatch { items: Vec::new(), embeddings: vec![number as f32], dim: 1 })
    }

    proptest! {
        #[test]
        fn batches_leave_in_their_order_and_failed_ones_hold_nobody_up(
            order in Just((0..20u64).collect::<Vec<_>>()).prop_shuffle(),
            failed in prop::collection::vec(any::<bool>(), 20),
        ) {
            let (out, batches) = bounded(20);
            let ordered = ReorderBuffer::new(out);
            for number in order {
                let lost = failed[number as usize];
                if lost && number % 2 == 0 {
                    prop_assert!(ordered.try_skip(number));
                    // It comes back after all.
                    prop_assert_eq!(ordered.put(number, batch(number)).is_ok(), true);
                } else {
                    ordered.put(number, batch(number).filter(|_| !lost)).unwrap();
                }
            }
            drop(ordered);
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
        let ordered = ReorderBuffer::new(out);
        ordered.put(1, batch(1)).unwrap();
        assert!(batches.is_empty());
        ordered.put(0, batch(0)).unwrap();
        assert_eq!(batches.len(), 2);
    }

    #[test]
    fn passing_one_over_never_waits_for_the_scoring_stage() {
        let (out, batches) = bounded(1);
        let ordered = ReorderBuffer::new(out);
        ordered.put(1, batch(1)).unwrap();
        ordered.put(2, batch(2)).unwrap();
        assert!(!ordered.try_skip(0), "there is room for one of two");
        assert_eq!(batches.recv().unwrap().embeddings, [1.0]);
        assert!(ordered.try_skip(0));
        assert_eq!(batches.recv().unwrap().embeddings, [2.0]);
    }

    #[test]
    fn a_scoring_stage_that_is_gone_is_told() {
        let (out, batches) = bounded(4);
        let ordered = ReorderBuffer::new(out);
        drop(batches);
        assert_eq!(ordered.put(0, batch(0)), Err(Closed));
    }
}
