//! Shutdown as data: a [`Shutdown`] is asked for by triggering, or by dropping every [`Trigger`]; waiting on it never polls.
//!
//! Threads wait with [`Shutdown::sleep`] or select on [`Shutdown::receiver`]; both wake at once.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

/// Asks for shutdown. Clones ask for the same one.
#[derive(Clone, Debug)]
pub struct Trigger(Arc<Mutex<Option<Sender<Infallible>>>>);

impl Trigger {
    /// Asks every holder of the matching [`Shutdown`] to stop. Calling it again does nothing.
    pub fn trigger(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// The wish to stop, as seen by those who should.
#[derive(Clone, Debug)]
pub struct Shutdown(Receiver<Infallible>);

/// A fresh pair.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = bounded(0);
    (Trigger(Arc::new(Mutex::new(Some(sender)))), Shutdown(receiver))
}

impl Shutdown {
    pub fn is_requested(&self) -> bool {
        matches!(self.0.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// Sleeps for `duration`, or less if shutdown is asked for. `true` if it was.
    pub fn sleep(&self, duration: Duration) -> bool {
        match self.0.recv_timeout(duration) {
            Err(RecvTimeoutError::Disconnected) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Ok(never) => match never {},
        }
    }

    /// For `crossbeam_channel::select!`: becomes ready (disconnected) when shutdown is asked for, and never carries a value.
    pub fn receiver(&self) -> &Receiver<Infallible> {
        &self.0
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
    fn dropping_the_last_trigger_asks_for_shutdown() {
        let (trigger, shutdown) = channel();
        let other = trigger.clone();
        drop(trigger);
        assert!(!shutdown.is_requested());
        drop(other);
        assert!(shutdown.is_requested());
    }
}
