//! The batcher: which stream is next, and when a batch is closed. A pure state machine; time is a parameter.
//!
//! A batch closes when it is full or when `max_delay` has passed since its *first* item, whichever comes first.
//! Streams are served in turn, so a fast one never takes the places of the others. Items without pixels travel with the others, in
//! order, and take no place; there is a limit to them too ([`MAX_REUSED`]).

use std::time::{Duration, Instant};

/// Items without a place in a batch, at most: it is closed then, however few places are taken.
pub const MAX_REUSED: usize = 64;

/// Collects items of type `T` into batches.
#[derive(Debug)]
pub struct Batcher<T> {
    max_size: usize,
    max_delay: Duration,
    items: Vec<T>,
    /// Of `items`, those that have a place.
    places: usize,
    /// When the first of `items` came.
    opened: Option<Instant>,
    /// Stream to ask first at the next [`pick`](Self::pick).
    turn: usize,
}

impl<T> Batcher<T> {
    /// `max_size` of 0 is taken as 1.
    pub fn new(max_size: usize, max_delay: Duration) -> Self {
        Self { max_size: max_size.max(1), max_delay, items: Vec::new(), places: 0, opened: None, turn: 0 }
    }

    /// The next of `streams` streams that is `ready`, going round from the one after the last picked.
    pub fn pick(&mut self, streams: usize, mut ready: impl FnMut(usize) -> bool) -> Option<usize> {
        let picked = (0..streams).map(|i| (self.turn + i) % streams).find(|i| ready(*i))?;
        self.turn = (picked + 1) % streams;
        Some(picked)
    }

    /// Puts `item` into the open batch and tells its place there; gives it back if the batch is full.
    ///
    /// # Errors
    /// The item itself: [`take`](Self::take) the batch first.
    pub fn push(&mut self, item: T, now: Instant) -> Result<usize, T> {
        if self.is_full() {
            return Err(item);
        }
        self.opened.get_or_insert(now);
        self.items.push(item);
        self.places += 1;
        Ok(self.places - 1)
    }

    /// Puts `item` into the open batch without a place; gives it back if the batch is full.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_reused(&mut self, item: T, now: Instant) -> Result<(), T> {
        if self.is_full() {
            return Err(item);
        }
        self.opened.get_or_insert(now);
        self.items.push(item);
        Ok(())
    }

    pub fn is_full(&self) -> bool {
        self.places >= self.max_size || self.items.len() - self.places >= MAX_REUSED
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// When the open batch has to go; `None` while it is empty.
    pub fn deadline(&self) -> Option<Instant> {
        self.opened.map(|t| t + self.max_delay)
    }

    /// Whether the open batch has to go now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.is_full() || self.deadline().is_some_and(|t| now >= t)
    }

    /// Takes the open batch, in the order in which its items came, and opens a new one.
    pub fn take(&mut self) -> Vec<T> {
        (self.opened, self.places) = (None, 0);
        std::mem::take(&mut self.items)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DELAY: Duration = Duration::from_millis(50);

    #[test]
    fn a_batch_waits_from_its_first_item_not_its_last() {
        let start = Instant::now();
        let mut batcher = Batcher::new(8, DELAY);
        assert_eq!(batcher.deadline(), None);
        batcher.push('a', start).unwrap();
        batcher.push('b', start + DELAY / 2).unwrap();
        assert!(!batcher.is_due(start + DELAY - Duration::from_millis(1)));
        assert!(batcher.is_due(start + DELAY));
        assert_eq!(batcher.take(), ['a', 'b']);
        assert!(!batcher.is_due(start + DELAY * 10));
    }

    #[test]
    fn a_full_batch_refuses_and_returns_the_item() {
        let now = Instant::now();
        let mut batcher = Batcher::new(1, DELAY);
        assert_eq!(batcher.push(1, now), Ok(0));
        assert!(batcher.is_due(now));
        assert_eq!(batcher.push(2, now), Err(2));
    }

    #[test]
    fn items_without_a_place_leave_the_places_to_others_and_are_bounded_too() {
        let now = Instant::now();
        let mut batcher = Batcher::new(2, DELAY);
        assert_eq!(
            (batcher.push(0, now), batcher.push_reused(1, now), batcher.push_reused(2, now)),
            (Ok(0), Ok(()), Ok(()))
        );
        assert!(!batcher.is_due(now));
        assert_eq!(batcher.push(3, now), Ok(1));
        assert!(batcher.is_due(now));
        assert_eq!((batcher.push_reused(4, now), batcher.take()), (Err(4), vec![0, 1, 2, 3]));
        for n in 0..MAX_REUSED {
            assert!(!batcher.is_due(now));
            assert_eq!(batcher.push_reused(n, now), Ok(()));
        }
        assert!(batcher.is_due(now));
        assert_eq!(batcher.push(0, now), Err(0));
    }

    #[test]
    fn streams_are_served_in_turn_and_absent_ones_are_skipped() {
        let mut batcher = Batcher::<()>::new(8, DELAY);
        let picks: Vec<_> = (0..5).map(|_| batcher.pick(4, |i| i != 2)).collect();
        assert_eq!(picks, [Some(0), Some(1), Some(3), Some(0), Some(1)]);
        assert_eq!(batcher.pick(4, |_| false), None);
        assert_eq!(batcher.pick(0, |_| true), None);
    }

    proptest! {
        /// Streams become ready at random; the batcher is driven as the dispatcher drives it.
        #[test]
        fn nothing_is_lost_reordered_late_or_too_large(
            arrivals in prop::collection::vec((0u64..40, prop::bool::weighted(0.7)), 1..300),
            max_size in 1usize..6,
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut batcher = Batcher::new(max_size, DELAY);
            let mut out: Vec<(usize, bool)> = Vec::new();
            let mut opened = None;
            let fits = |batch: &[(usize, bool)]| {
                let riders = batch.iter().filter(|(_, rides)| *rides).count();
                !batch.is_empty() && batch.len() - riders <= max_size && riders <= MAX_REUSED
            };
            for (n, (wait, rides)) in arrivals.iter().enumerate() {
                let later = now + Duration::from_millis(*wait);
                // The dispatcher wakes at the deadline if that comes before the next frame.
                if let Some(deadline) = batcher.deadline() && deadline <= later {
                    prop_assert_eq!(Some(deadline), opened.map(|t: Instant| t + DELAY));
                    prop_assert!(batcher.is_due(deadline));
                    let batch = batcher.take();
                    prop_assert!(fits(&batch));
                    out.extend(batch);
                    opened = None;
                }
                now = later;
                opened.get_or_insert(now);
                if *rides {
                    batcher.push_reused((n, true), now).unwrap();
                } else {
                    batcher.push((n, false), now).unwrap();
                }
                if batcher.is_due(now) {
                    let batch = batcher.take();
                    prop_assert!(fits(&batch));
                    out.extend(batch);
                    opened = None;
                }
            }
            out.extend(batcher.take());
            let order: Vec<usize> = out.iter().map(|(n, _)| *n).collect();
            prop_assert_eq!(order, (0..arrivals.len()).collect::<Vec<_>>());
        }

        #[test]
        fn a_ready_stream_waits_for_each_other_stream_at_most_once(
            readiness in prop::collection::vec(prop::collection::vec(any::<bool>(), 5), 1..100),
            waiting in 0usize..5,
        ) {
            let mut batcher = Batcher::<()>::new(8, DELAY);
            let mut others_since = [0usize; 5];
            for ready in readiness {
                let picked = batcher.pick(5, |i| i == waiting || ready[i]).unwrap();
                others_since[picked] += 1;
                if picked == waiting {
                    others_since = [0; 5];
                }
                prop_assert!(others_since.iter().all(|n| *n <= 1), "{:?}", others_since);
            }
        }
    }
}
