//! Order within a (stream, label) and none between them: which delivery may be tried now, for sinks that have several under way.
//!
//! Pure; time is a parameter, on the monotonic clock. Deliveries of one ordering key come out one at a time, oldest first; the next only when
//! the one before is done. Holds what is put in, which the window of the receiver bounds.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use crate::outbox::delivery::{Delivery, OrderingKey};

/// See the module.
#[derive(Default)]
pub struct KeyedQueue {
    /// Oldest first; the head is ready, waiting for its time, or under way.
    queues: HashMap<OrderingKey, VecDeque<Delivery>>,
    /// Heads that may go now, by position.
    ready: BTreeMap<u64, OrderingKey>,
    /// Heads that failed, by when they may go again.
    waiting: BTreeMap<(Instant, u64), OrderingKey>,
    /// Heads that are under way.
    under_way: HashMap<u64, OrderingKey>,
}

impl KeyedQueue {
    /// A delivery that may be tried once those before it in its ordering key are done. Positions must grow.
    pub fn push(&mut self, delivery: Delivery) {
        let key = delivery.stored.ordering_key();
        let per_key = self.queues.entry(key.clone()).or_default();
        if per_key.is_empty() {
            self.ready.insert(delivery.position, key);
        }
        per_key.push_back(delivery);
    }

    /// The oldest delivery that may be tried now; it is under way until [`done`](Self::done) or [`again`](Self::again).
    pub fn next(&mut self, now: Instant) -> Option<Delivery> {
        while let Some(entry) = self.waiting.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((_, position), key) = entry.remove_entry();
            self.ready.insert(position, key);
        }
        let (position, key) = self.ready.pop_first()?;
        let head = self.queues.get(&key)?.front()?.clone();
        self.under_way.insert(position, key);
        Some(head)
    }

    /// When the first of those that wait may go; `None` if none waits. What is ready is not looked at.
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    /// It is delivered or dead: the next of its ordering key may go.
    pub fn done(&mut self, position: u64) {
        let Some(key) = self.under_way.remove(&position) else { return };
        let Some(per_key) = self.queues.get_mut(&key) else { return };
        per_key.pop_front();
        match per_key.front() {
            Some(head) => drop(self.ready.insert(head.position, key)),
            None => drop(self.queues.remove(&key)),
        }
    }

    /// It failed and may be tried again at `due`; those behind it wait. `attempts` is remembered with it.
    pub fn again(&mut self, position: u64, attempts: u32, due: Instant) {
        let Some(key) = self.under_way.remove(&position) else { return };
        if let Some(head) = self.queues.get_mut(&key).and_then(VecDeque::front_mut) {
            head.attempts = attempts;
        }
        self.waiting.insert((due, position), key);
    }

    /// It may be tried again at `due`, and nothing has failed by its own fault; those behind it wait.
    pub fn later(&mut self, position: u64, due: Instant) {
        if let Some(key) = self.under_way.remove(&position) {
            self.waiting.insert((due, position), key);
        }
    }

    /// Everything that waits may go at once: the other side is there again.
    pub fn hurry(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        self.ready.extend(waiting.into_iter().map(|((_, position), key)| (position, key)));
    }

    /// Nothing waits longer than until `due`.
    pub fn no_later_than(&mut self, due: Instant) {
        let late = self.waiting.split_off(&(due, 0));
        self.waiting.extend(late.into_iter().map(|((_, position), key)| ((due, position), key)));
    }

    /// Deliveries whose ordering key waits for an attempt, and those behind `failed`, which is under way.
    pub fn held_up(&self, failed: Option<u64>) -> usize {
        let failed = failed.and_then(|position| self.under_way.get(&position));
        self.waiting.values().chain(failed).filter_map(|key| self.queues.get(key)).map(VecDeque::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::event::EventKind;
    use crate::outbox::delivery::tests::{delivery, event};

    fn of(position: u64, label: &str) -> Delivery {
        delivery(position, event("gate", label, EventKind::Start))
    }

    #[test]
    fn a_lane_waits_for_its_oldest_and_holds_no_other_up() {
        let (mut queue, now) = (KeyedQueue::default(), Instant::now());
        for (position, label) in [(1, "car"), (2, "car"), (3, "bus")] {
            queue.push(of(position, label));
        }
        let next = |queue: &mut KeyedQueue, now| queue.next(now).map(|d| (d.position, d.attempts));
        assert_eq!(next(&mut queue, now), Some((1, 0)));
        assert_eq!(next(&mut queue, now), Some((3, 0)));
        assert_eq!(next(&mut queue, now), None, "2 comes after 1");
        let due = now + Duration::from_secs(5);
        queue.again(1, 1, due);
        assert_eq!((next(&mut queue, now), queue.next_due()), (None, Some(due)));
        assert_eq!(next(&mut queue, due), Some((1, 1)));
        queue.done(1);
        assert_eq!(next(&mut queue, due), Some((2, 0)));
        queue.done(3);
        queue.done(2);
        assert!(queue.is_empty());
    }

    proptest! {
        #[test]
        fn every_delivery_comes_out_in_the_order_of_its_lane(
            steps in prop::collection::vec((0u8..4, 0usize..3), 1..300),
        ) {
            let (mut queue, mut now) = (KeyedQueue::default(), Instant::now());
            let (mut position, mut going, mut done) = (0, Vec::new(), Vec::<(String, u64)>::new());
            let finish = |queue: &mut KeyedQueue, d: Delivery, done: &mut Vec<(String, u64)>| {
                queue.done(d.position);
                done.push((d.stored.event.data.label.clone(), d.position));
            };
            for (step, label) in steps {
                match step {
                    0 => { position += 1; queue.push(of(position, ["a", "b", "c"][label])); }
                    1 => going.extend(queue.next(now)),
                    2 if !going.is_empty() => {
                        let d = going.swap_remove(label % going.len());
                        queue.again(d.position, d.attempts + 1, now + Duration::from_secs(label as u64));
                        now += Duration::from_secs(1);
                    }
                    3 if !going.is_empty() => {
                        let d = going.swap_remove(label % going.len());
                        finish(&mut queue, d, &mut done);
                    }
                    _ => {}
                }
                let mut keys: Vec<_> = going.iter().map(|d: &Delivery| d.stored.ordering_key()).collect();
                keys.sort();
                keys.dedup();
                prop_assert_eq!(keys.len(), going.len(), "one of a lane at a time");
            }
            for d in going.drain(..) { finish(&mut queue, d, &mut done); }
            queue.hurry();
            while let Some(d) = queue.next(now) { finish(&mut queue, d, &mut done); }
            prop_assert!(queue.is_empty());
            prop_assert_eq!(done.len() as u64, position);
            for label in ["a", "b", "c"] {
                let order: Vec<u64> = done.iter().filter(|(l, _)| l == label).map(|(_, p)| *p).collect();
                prop_assert!(order.is_sorted());
            }
        }
    }
}
