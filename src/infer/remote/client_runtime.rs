//! The one thread on which connections to servers live: a tokio runtime of one thread. In: futures of the sessions' threads and of the
//! link's own; out: what they come to, to a caller who waits. It ends when it is dropped, and with it every connection.

use std::future::Future;
use std::io;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::RemoteError;
use crate::infer::Stop;

/// See the module.
pub struct ClientRuntime {
    handle: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ClientRuntime {
    /// # Errors
    /// When the system gives no thread, or nothing to wait for sockets with.
    pub fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let thread = Builder::new().name("vtagd-remote".into()).spawn(move || {
            // Either way it is to end.
            let _ = runtime.block_on(ended);
            // A name that is being looked up may take the system longer than anybody waits for an end.
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, end: Some(end), thread: Some(thread) })
    }

    /// Waits for `work` until `deadline`, or until `halt` says that it is to end.
    ///
    /// # Errors
    /// What `work` says, [`RemoteError::Slow`] and [`RemoteError::Stopped`].
    pub fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        halt: &RemoteHalt,
        work: impl Future<Output = Result<T, RemoteError>> + Send + 'static,
    ) -> Result<T, RemoteError> {
        let (done, result) = bounded(1);
        let (mut told, began) = (halt.told.subscribe(), Instant::now());
        self.handle.spawn(async move {
            let outcome = tokio::select! {
                outcome = tokio::time::timeout_at(deadline.into(), work) => outcome.unwrap_or_else(|_| {
                    let waited = crate::platform::rounding::duration(began.elapsed());
                    Err(RemoteError::Slow(format!("no answer within {waited:?}")))
                }),
                _ = told.wait_for(|told| *told) => Err(RemoteError::Stopped),
            };
            // Whoever asked may have gone.
            let _ = done.send(outcome);
        });
        // The runtime that ends drops the task, and with it the sender.
        result.recv().unwrap_or(Err(RemoteError::Stopped))
    }
}

impl Drop for ClientRuntime {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for the end of `thread`, for `limit` at most; afterwards it is left to itself.
pub fn ended_within(thread: JoinHandle<()>, limit: Duration) -> bool {
    /// A thread that ends wakes nobody but who joins it.
    const POLL_INTERVAL: Duration = Duration::from_millis(5);
    let deadline = Instant::now() + limit;
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    let _ = thread.join();
    true
}

/// How long a connection that is being made may take: a step of it, one address, and all of it.
pub struct ConnectBudget {
    step: Duration,
    until: Option<Instant>,
    /// For the address that is being tried.
    turn: Option<Instant>,
}

impl ConnectBudget {
    /// For all of it, there need be no `limit`.
    pub fn new(step: Duration, limit: Option<Duration>) -> Self {
        let until = limit.map(|limit| Instant::now() + limit);
        Self { step, until, turn: until }
    }

    /// The first of `addresses` that are left has its turn: one that hangs leaves the others their share.
    pub fn begin(&mut self, addresses: usize) {
        let now = Instant::now();
        let share = u32::try_from(addresses.max(1)).unwrap_or(u32::MAX);
        self.turn = self.until.map(|until| now + until.saturating_duration_since(now) / share);
    }

    /// When the next step has to be done.
    pub fn next(&self) -> Instant {
        let step = Instant::now() + self.step;
        self.turn.map_or(step, |turn| step.min(turn))
    }

    pub fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }

    /// Does what does not count.
    pub fn without(&mut self, work: impl FnOnce()) {
        let began = Instant::now();
        work();
        let took = began.elapsed();
        (self.until, self.turn) = (self.until.map(|until| until + took), self.turn.map(|turn| turn + took));
    }
}

/// Ends what one caller waits for.
pub struct RemoteHalt {
    told: watch::Sender<bool>,
}

impl Default for RemoteHalt {
    fn default() -> Self {
        Self { told: watch::Sender::new(false) }
    }
}

impl RemoteHalt {
    /// Forgets that the last one was to end.
    pub fn rearm(&self) {
        self.told.send_replace(false);
    }

    pub fn is_told(&self) -> bool {
        *self.told.borrow()
    }
}

impl Stop for RemoteHalt {
    fn stop(&self) {
        self.told.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_does_not_end_is_left_to_itself() {
        let (end, ended) = bounded::<()>(0);
        let stuck = std::thread::spawn(move || {
            let _ = ended.recv();
        });
        assert!(!ended_within(stuck, Duration::from_millis(20)));
        drop(end);
        assert!(ended_within(std::thread::spawn(|| {}), Duration::from_secs(60)));
    }

    #[test]
    fn an_address_that_takes_all_of_its_turn_leaves_the_others_theirs() {
        let (began, limit) = (Instant::now(), Duration::from_secs(3600));
        let mut budget = ConnectBudget::new(Duration::from_secs(9000), Some(limit));
        budget.begin(4);
        let first = budget.next() - began;
        assert!(first >= limit / 4 && first < limit / 2, "{first:?}");
        budget.begin(1);
        assert!(budget.next() - began >= limit, "and the last has what is left");
    }
}
