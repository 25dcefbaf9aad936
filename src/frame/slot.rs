//! A bounded slot between one producer and one consumer, in which the newest value wins.
//!
//! [`SlotWriter::put`] never waits: when the slot is full, the oldest value comes back to the producer, who accounts for it.
//! [`SlotWriter::put_wait`] waits instead (back-pressure), until there is room, shutdown is asked for or the reader is gone.
//! After every put, and when the writer is dropped, one token is offered to the `wake` channel that many slots may share;
//! a full wake channel is fine, because its reader looks at all slots per token. Any thread may hold either end.
//! Closed: a slot whose writer is gone is finished once it is empty; a slot whose reader is gone hands every value back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Select, Sender, TrySendError, bounded};
use parking_lot::Mutex;

use crate::platform::shutdown::Shutdown;

/// A channel for wake tokens, shared by the slots that one reader looks at.
pub fn wake_channel() -> (Sender<()>, Receiver<()>) {
    bounded(1)
}

/// An empty slot for at most `capacity` values (at least one).
pub fn slot<T>(capacity: usize, wake: Sender<()>) -> (SlotWriter<T>, SlotReader<T>) {
    let (sender, receiver) = bounded(capacity.max(1));
    let closed = Arc::new(AtomicBool::new(false));
    let writer = SlotWriter {
        sender,
        oldest: receiver.clone(),
        one_at_a_time: Mutex::new(()),
        closed: Arc::clone(&closed),
        wake,
        reader: Arc::new(AtomicBool::new(true)),
    };
    let reader = SlotReader { receiver, closed, alive: Arc::clone(&writer.reader) };
    (writer, reader)
}

/// Why a value was not put; it comes back.
#[derive(Debug, PartialEq, Eq)]
pub enum PutError<T> {
    /// The reader is gone: nothing put here will ever be taken.
    Closed(T),
    /// Shutdown was asked for while the slot was full.
    Shutdown(T),
}

/// The producer's end. Dropping it finishes the slot.
#[derive(Debug)]
pub struct SlotWriter<T> {
    sender: Sender<T>,
    /// A second receiver, to take the oldest value out when a newer one must go in.
    oldest: Receiver<T>,
    /// Keeps "take the oldest out, put the newest in" one step when a producer is replaced by another.
    one_at_a_time: Mutex<()>,
    closed: Arc<AtomicBool>,
    wake: Sender<()>,
    /// Whether the reader is still there.
    reader: Arc<AtomicBool>,
}

impl<T> SlotWriter<T> {
    /// Puts `value` in, at once. Returns the value that lost its place to it, if any.
    ///
    /// # Errors
    /// [`PutError::Closed`] with `value` if the reader is gone.
    pub fn put(&self, value: T) -> Result<Option<T>, PutError<T>> {
        let _turn = self.one_at_a_time.lock();
        if !self.reader.load(Ordering::Acquire) {
            return Err(PutError::Closed(value));
        }
        let mut value = value;
        let mut loser = None;
        loop {
            match self.sender.try_send(value) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(back)) => return Err(PutError::Closed(back)),
                Err(TrySendError::Full(back)) => {
                    value = back;
                    // The reader may have been quicker: then there is room and nobody lost.
                    loser = self.oldest.try_recv().ok();
                }
            }
        }
        self.wake();
        Ok(loser)
    }

    /// Takes the oldest value back, if nobody has taken it.
    pub fn take_back(&self) -> Option<T> {
        let _turn = self.one_at_a_time.lock();
        self.oldest.try_recv().ok()
    }

    /// Puts `value` in as soon as there is room.
    ///
    /// # Errors
    /// The value comes back if shutdown is asked for before there is room, or if the reader is gone.
    pub fn put_wait(&self, value: T, shutdown: &Shutdown) -> Result<(), PutError<T>> {
        if !self.reader.load(Ordering::Acquire) {
            return Err(PutError::Closed(value));
        }
        if shutdown.is_requested() {
            return Err(PutError::Shutdown(value));
        }
        let mut select = Select::new();
        let room = select.send(&self.sender);
        let _stop = select.recv(shutdown.receiver());
        let ready = select.select();
        if ready.index() == room {
            ready.send(&self.sender, value).map_err(|e| PutError::Closed(e.into_inner()))?;
            if !self.reader.load(Ordering::Acquire) {
                // The reader went while we waited and emptied the slot once; what we put since then is ours to take back.
                return self.oldest.try_recv().map_or(Ok(()), |back| Err(PutError::Closed(back)));
            }
            self.wake();
            return Ok(());
        }
        // The selected operation must be completed; this channel never carries a value.
        let _ = ready.recv(shutdown.receiver());
        Err(PutError::Shutdown(value))
    }

    fn wake(&self) {
        // Full means that the reader has a token to find already.
        let _ = self.wake.try_send(());
    }
}

impl<T> Drop for SlotWriter<T> {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        self.wake();
    }
}

/// The consumer's end. Dropping it drops what is in the slot and turns the producer away.
#[derive(Debug)]
pub struct SlotReader<T> {
    receiver: Receiver<T>,
    closed: Arc<AtomicBool>,
    alive: Arc<AtomicBool>,
}

impl<T> SlotReader<T> {
    /// Takes the oldest value, if there is one. A producer that waits for room wakes.
    pub fn take(&self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    /// Whether the writer is gone and everything has been taken.
    pub fn is_finished(&self) -> bool {
        // `closed` first: a writer puts its last value before it closes.
        self.closed.load(Ordering::Acquire) && self.receiver.is_empty()
    }

    /// Values waiting to be taken.
    pub fn len(&self) -> usize {
        self.receiver.len()
    }

    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }
}

impl<T> Drop for SlotReader<T> {
    fn drop(&mut self) {
        self.alive.store(false, Ordering::Release);
        // The writer holds a receiver too, so values would stay until it goes; a waiting producer finds room and leaves.
        while self.receiver.try_recv().is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::platform::shutdown;

    #[test]
    fn the_newest_value_wins_and_the_loser_comes_back() {
        let (wake, woken) = wake_channel();
        let (writer, reader) = slot(1, wake);
        assert_eq!(writer.put(1), Ok(None));
        assert_eq!(writer.put(2), Ok(Some(1)));
        assert_eq!(reader.take(), Some(2));
        assert_eq!(reader.take(), None);
        assert_eq!(woken.len(), 1, "many puts are one token");
    }

    #[test]
    fn a_waiting_producer_goes_on_when_a_value_is_taken() {
        let (wake, woken) = wake_channel();
        let (_trigger, shutdown) = shutdown::channel();
        let (writer, reader) = slot(1, wake);
        let producer = thread::spawn(move || (0..100).try_for_each(|n| writer.put_wait(n, &shutdown)));
        let mut taken = Vec::new();
        while !reader.is_finished() {
            let _ = woken.recv_timeout(Duration::from_secs(10));
            taken.extend(std::iter::from_fn(|| reader.take()));
        }
        assert_eq!(producer.join().unwrap(), Ok(()));
        assert_eq!(taken, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn shutdown_frees_a_waiting_producer_and_gives_the_value_back() {
        let (wake, _woken) = wake_channel();
        let (trigger, shutdown) = shutdown::channel();
        let (writer, reader) = slot(1, wake);
        writer.put(1).unwrap();
        let producer = thread::spawn(move || writer.put_wait(2, &shutdown));
        trigger.trigger();
        assert_eq!(producer.join().unwrap(), Err(PutError::Shutdown(2)));
        assert_eq!(reader.take(), Some(1));
    }

    #[test]
    fn a_reader_that_goes_frees_a_waiting_producer() {
        let (wake, _woken) = wake_channel();
        let (_trigger, shutdown) = shutdown::channel();
        let (writer, reader) = slot(1, wake);
        writer.put(1).unwrap();
        let producer = thread::spawn(move || writer.put_wait(2, &shutdown));
        drop(reader);
        // A reader that empties the slot on its way out may have taken the value with it.
        assert!(matches!(producer.join().unwrap(), Ok(()) | Err(PutError::Closed(2))));
    }

    #[test]
    fn a_slot_is_finished_once_its_writer_is_gone_and_it_is_empty() {
        let (wake, woken) = wake_channel();
        let (writer, reader) = slot(2, wake);
        writer.put('a').unwrap();
        assert!(!reader.is_finished());
        let _ = woken.try_recv();
        drop(writer);
        assert_eq!(woken.len(), 1, "the reader is told about the end");
        assert!(!reader.is_finished());
        assert_eq!(reader.take(), Some('a'));
        assert!(reader.is_finished());
    }

    #[test]
    fn nothing_is_put_for_a_reader_that_is_gone() {
        let (wake, _woken) = wake_channel();
        let (writer, reader) = slot(1, wake);
        drop(reader);
        assert_eq!(writer.put(1), Err(PutError::Closed(1)));
    }

    proptest! {
        #[test]
        fn every_value_is_taken_or_lost_exactly_once_in_order(
            capacity in 1usize..4, steps in prop::collection::vec(prop::bool::ANY, 0..200),
        ) {
            let (wake, _woken) = wake_channel();
            let (writer, reader) = slot(capacity, wake);
            let (mut sent, mut out) = (0, Vec::new());
            for put in steps {
                if put {
                    out.extend(writer.put(sent).unwrap());
                    sent += 1;
                } else {
                    out.extend(reader.take());
                }
                prop_assert!(reader.len() <= capacity);
            }
            out.extend(std::iter::from_fn(|| reader.take()));
            prop_assert_eq!(out, (0..sent).collect::<Vec<_>>());
        }
    }
}
