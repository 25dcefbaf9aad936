//! Shutdown as data: a [`Shutdown`] is asked for by triggering, or by dropping every [`Trigger`]; waiting on it never polls.
//!
//! Threads wait with [`Shutdown::sleep`] or select on [`Shutdown::receiver`]; both wake at once. A part that may end before
//! the whole has a [`child`](Shutdown::child) of its own, which ends with its parent at the latest.

use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use parking_lot::Mutex;

/// Asks for shutdown. Clones ask for the same one.
#[derive(Clone, Debug)]
pub struct Trigger(Arc<Inner>);

/// What a trigger holds: gone (`None`) once shutdown was asked for.
#[derive(Debug)]
struct Inner(Mutex<Option<Armed>>);

#[derive(Debug)]
struct Armed {
    /// Nothing is ever sent; dropping it wakes everybody.
    _sender: Sender<Infallible>,
    /// Parts that end with this one. Those that are gone are swept when another comes.
    children: Vec<Weak<Inner>>,
}

impl Inner {
    fn fire(&self) {
        let armed = self.0.lock().take();
        for child in armed.into_iter().flat_map(|armed| armed.children) {
            if let Some(child) = child.upgrade() {
                child.fire();
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.fire();
    }
}

impl Trigger {
    /// Asks every holder of the matching [`Shutdown`] to stop. Calling it again does nothing.
    pub fn trigger(&self) {
        self.0.fire();
    }
}

/// The wish to stop, as seen by those who should.
#[derive(Clone, Debug)]
pub struct Shutdown {
    receiver: Receiver<Infallible>,
    inner: Weak<Inner>,
}

/// A fresh pair.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = bounded(0);
    let inner = Arc::new(Inner(Mutex::new(Some(Armed { _sender: sender, children: Vec::new() }))));
    let shutdown = Shutdown { receiver, inner: Arc::downgrade(&inner) };
    (Trigger(inner), shutdown)
}

impl Shutdown {
    pub fn is_requested(&self) -> bool {
        matches!(self.receiver.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// Sleeps for `duration`, or less if shutdown is asked for. `true` if it was.
    pub fn sleep(&self, duration: Duration) -> bool {
        match self.receiver.recv_timeout(duration) {
            Err(RecvTimeoutError::Disconnected) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Ok(never) => match never {},
        }
    }

    /// For `crossbeam_channel::select!`: becomes ready (disconnected) when shutdown is asked for, and never carries a value.
    pub fn receiver(&self) -> &Receiver<Infallible> {
        &self.receiver
    }

    /// A pair for a part of the whole: it is asked to stop by its own trigger, or with everything else.
    pub fn child(&self) -> (Trigger, Self) {
        let (trigger, shutdown) = channel();
        if let Some(parent) = self.inner.upgrade() {
            let mut armed = parent.0.lock();
            if let Some(armed) = armed.as_mut() {
                armed.children.retain(|child| child.strong_count() > 0);
                armed.children.push(Arc::downgrade(&trigger.0));
                return (trigger, shutdown);
            }
        }
        // The whole is stopping already.
        trigger.trigger();
        (trigger, shutdown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeper_wakes_when_shutdown_is_triggered() {
        let (trigger, shutdown) = channel();
        assert!(!shutdown.is_requested());
        let sleeper = std::thread::spawn(move || shutdown.sleep(Duration::from_secs(3600)));
        trigger.trigger();
        assert!(sleeper.join().unwrap());
    }

    #[test]
    fn a_part_ends_with_the_whole_and_not_the_other_way_round() {
        let (trigger, shutdown) = channel();
        let (part, part_shutdown) = shutdown.child();
        let (_other, other_shutdown) = shutdown.child();
        part.trigger();
        assert!(part_shutdown.is_requested() && !shutdown.is_requested() && !other_shutdown.is_requested());
        drop(trigger);
        assert!(other_shutdown.is_requested());
        assert!(shutdown.child().1.is_requested());
    }

    #[test]
    fn dropping_the_last_trigger_asks_for_shutdown() {
        let (trigger, shutdown) = channel();
        let other = trigger.clone();
        drop(trigger);
        assert!(!shutdown.is_requested());
        drop(other);
        assert!(shutdown.is_requested());
    }
}
