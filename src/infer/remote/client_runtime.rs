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

/// How long a connection that is being made may take: a step of it, and all of it.
pub struct Patience {
    step: Duration,
    until: Option<Instant>,
}

impl Patience {
    /// For all of it, there need be no `limit`.
    pub fn new(step: Duration, limit: Option<Duration>) -> Self {
        Self { step, until: limit.map(|limit| Instant::now() + limit) }
    }

    /// When the next step has to be done.
    pub fn next(&self) -> Instant {
        let step = Instant::now() + self.step;
        self.until.map_or(step, |until| step.min(until))
    }

    pub fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }

    /// Does what does not count.
    pub fn without(&mut self, work: impl FnOnce()) {
        let began = Instant::now();
        work();
        self.until = self.until.map(|until| until + began.elapsed());
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
