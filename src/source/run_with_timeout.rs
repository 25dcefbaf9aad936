//! Work on a pipeline that may never return, done on a thread of its own in bounded time, and the count of abandoned pipelines.
//!
//! GStreamer gives no promise about how long a change of state, a query or a seek takes: a driver, a server or a network file
//! system may hang for ever. In: the work and a deadline. Out: its result, or why nobody waits for it any more. The work runs
//! on a thread of its own, which goes on after it was given up; [`AbandonedPipelines`] knows how many such threads a stream still has,
//! so that they stay bounded. Closed: shutdown ends the wait, not the work.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{after, bounded, never, select};

use crate::platform::shutdown::Shutdown;

/// Why nobody waits for the work any more.
#[derive(Debug)]
pub(super) enum Late {
    /// It still runs; the token lives as long as it does.
    Deadline(Weak<()>),
    Shutdown,
    /// The system gave no thread, so nothing was done.
    NoThread(io::Error),
}

/// Does `work` on a thread called `name` and waits for it until `deadline`, or until `shutdown` is asked for.
pub(super) fn run_with_timeout<T: Send + 'static>(
    name: &str,
    deadline: Duration,
    shutdown: Option<&Shutdown>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Late> {
    let token = Arc::new(());
    let running = Arc::downgrade(&token);
    let (sender, done) = bounded(1);
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Nobody may be waiting any more: then the result, and what it holds, ends here.
        let _ = sender.send(work());
        drop(token);
    });
    let thread = thread.map_err(Late::NoThread)?;
    let unstoppable = never();
    select! {
        recv(done) -> result => match result {
            Ok(result) => {
                // Only the token is left to drop: joining leaves no thread behind.
                let _ = thread.join();
                Ok(result)
            }
            // It panicked; nothing of it runs any more.
            Err(_) => Err(Late::Deadline(Weak::new())),
        },
        recv(shutdown.map_or(&unstoppable, Shutdown::receiver)) -> _ => Err(Late::Shutdown),
        recv(after(deadline)) -> _ => Err(Late::Deadline(running)),
    }
}

/// Pipelines of one stream that did not stop in time and may still hold threads, sockets and memory.
#[derive(Debug, Default)]
pub(super) struct AbandonedPipelines {
    running: Vec<Weak<()>>,
    /// That will never end.
    refusing: usize,
}

impl AbandonedPipelines {
    /// From so many on, another attempt is made at the longest wait only.
    pub const MANY: usize = 3;
    /// With so many, no other pipeline is built until one of them has ended: what a broken driver can take is bounded.
    pub const MOST: usize = 8;

    pub fn add(&mut self, running: Weak<()>) {
        self.running.push(running);
    }

    /// One that refuses to stop.
    pub fn add_refusing(&mut self) {
        self.refusing += 1;
    }

    /// How many still run.
    pub fn count(&mut self) -> usize {
        self.running.retain(|running| running.strong_count() > 0);
        self.running.len() + self.refusing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn work_that_ends_in_time_gives_its_result() {
        assert_eq!(run_with_timeout("quick", LONG, None, || 7).unwrap(), 7);
    }

    #[test]
    fn work_that_hangs_is_left_behind_and_counted_until_it_ends() {
        let (release, held) = bounded::<()>(0);
        let late = run_with_timeout("slow", Duration::from_millis(10), None, move || held.recv().is_err());
        let Err(Late::Deadline(running)) = late else { panic!("it cannot have ended") };
        let mut left = AbandonedPipelines::default();
        left.add(running);
        assert_eq!(left.count(), 1);
        drop(release);
        let deadline = std::time::Instant::now() + LONG;
        while left.count() > 0 {
            assert!(std::time::Instant::now() < deadline);
            thread::yield_now();
        }
    }

    #[test]
    fn shutdown_ends_the_wait() {
        let (trigger, shutdown) = crate::platform::shutdown::channel();
        trigger.trigger();
        let (_release, held) = bounded::<()>(0);
        assert!(matches!(run_with_timeout("slow", LONG, Some(&shutdown), move || held.recv()), Err(Late::Shutdown)));
    }

    #[test]
    fn work_that_panics_is_not_counted_as_running() {
        let late = run_with_timeout("bad", LONG, None, || panic!("on purpose"));
        let Err(Late::Deadline(running)) = late else { panic!("it cannot have a result") };
        let mut left = AbandonedPipelines::default();
        left.add(running);
        assert_eq!(left.count(), 0);
    }
}
