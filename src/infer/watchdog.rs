//! Sees to it that a run ends: which session runs which batch since when, and what to do about one that takes far too long.
//!
//! The session threads say when a run begins and ends; the daemon's main thread looks ([`Runs::look`]) several times a second. A run
//! beyond its limit is told to end, which ONNX Runtime does between two operators of a graph. If that is in vain, it is given up: its
//! frames end as dropped, later batches pass it by, and [`Runs::hung`] says so until it comes back, if ever. Nothing here waits; time
//! is a parameter.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::Stop;
use crate::batching::batch::FrameMeta;
use crate::batching::reorder_buffer::ReorderBuffer;
use crate::stream::accounting::{DropReason, FrameOutcome};

/// No run counts as hung before this, where nobody has set a limit: boxes swap, GPUs are reset, hypervisors pause.
const LEAST: Duration = Duration::from_secs(60);
/// Times that a full batch took while warming up. Large models share small boxes with other work.
const TIMES: u32 = 20;
/// After a run was told to end, for it to do so.
const GRACE: Duration = Duration::from_secs(10);

/// The limit of a run, where nobody has set one; `full` is how long a full batch took.
pub fn limit(full: Duration) -> Duration {
    LEAST.max(full * TIMES)
}

/// A run that was begun.
struct Run {
    session: usize,
    batch: u64,
    began: Instant,
    frames: Vec<Arc<FrameMeta>>,
    stop: Option<Arc<dyn Stop>>,
    state: State,
}

enum State {
    Going,
    /// Told to end.
    Told(Instant),
    /// `passed`: later batches know.
    GivenUp {
        passed: bool,
    },
}

/// All runs of a pipeline.
pub struct Runs {
    limit: Duration,
    grace: Duration,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    running: Vec<Run>,
    /// Where batches are put in order. Held weakly: the scoring stage ends when the last session does.
    order: Weak<ReorderBuffer>,
}

impl Runs {
    pub fn new(limit: Duration) -> Self {
        Self { limit, grace: GRACE.min(limit), inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Where later batches are to pass one by that is given up.
    pub fn pass_by(&self, order: &Arc<ReorderBuffer>) {
        self.inner().order = Arc::downgrade(order);
    }

    /// The session has taken a batch.
    pub fn begin(
        &self,
        session: usize,
        batch: u64,
        frames: Vec<Arc<FrameMeta>>,
        stop: Option<Arc<dyn Stop>>,
        now: Instant,
    ) {
        self.inner().running.push(Run { session, batch, began: now, frames, stop, state: State::Going });
    }

    /// The session is done with its batch. `false`: it had been given up, and nothing of it may go on.
    #[must_use]
    pub fn end(&self, session: usize) -> bool {
        let mut inner = self.inner();
        let Some(at) = inner.running.iter().position(|run| run.session == session) else { return true };
        let run = inner.running.swap_remove(at);
        let given_up = matches!(run.state, State::GivenUp { .. });
        if given_up {
            tracing::warn!(session, seconds = run.began.elapsed().as_secs(), "a run that had been given up came back");
        }
        !given_up
    }

    /// Tells runs to end that take too long, and gives up those that do not.
    pub fn check_deadlines(&self, now: Instant) {
        let (limit, grace) = (self.limit, self.grace);
        let mut inner = self.inner();
        let Inner { running, order } = &mut *inner;
        for run in running {
            let age = now.saturating_duration_since(run.began);
            match &mut run.state {
                State::Going if age >= limit => {
                    run.state = State::Told(now);
                    let (session, frames, seconds) = (run.session, run.frames.len(), age.as_secs());
                    tracing::error!(session, frames, seconds, "a run takes far too long, telling it to end");
                    // Within the lock, so that it does not hit the next run of this session.
                    if let Some(stop) = &run.stop {
                        stop.stop();
                    }
                }
                State::Told(told) if now.saturating_duration_since(*told) >= grace => {
                    run.state = State::GivenUp { passed: false };
                    metrics::counter!("vtagd_inference_hung_total").increment(1);
                    metrics::counter!("vtagd_inference_errors_total").increment(1);
                    let (session, frames, seconds) = (run.session, run.frames.len(), age.as_secs());
                    tracing::error!(
                        session,
                        frames,
                        seconds,
                        "inference hangs: the run does not end, its frames are lost; the service manager is to start vtagd again"
                    );
                    for frame in run.frames.drain(..) {
                        frame.guard.complete(FrameOutcome::Dropped(DropReason::Inference));
                    }
                }
                _ => {}
            }
            if let State::GivenUp { passed } = &mut run.state
                && !*passed
            {
                *passed = order.upgrade().is_none_or(|order| order.try_skip(run.batch));
            }
        }
    }

    /// Why inference is not to be trusted to go on; `None` while it does.
    pub fn hung(&self, now: Instant) -> Option<String> {
        let inner = self.inner();
        let run = inner.running.iter().find(|run| matches!(run.state, State::GivenUp { .. }))?;
        let (session, seconds) = (run.session, now.saturating_duration_since(run.began).as_secs());
        Some(format!("inference hangs: session {session} has not finished a run for {seconds} s"))
    }
}

impl Default for Runs {
    fn default() -> Self {
        Self::new(limit(Duration::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crossbeam_channel::bounded;

    use super::*;
    use crate::batching::batch::EmbeddedBatch;
    use crate::batching::tensor::BatchBuffer;
    use crate::frame::FrameTime;
    use crate::stream::StreamKey;
    use crate::stream::accounting::FrameAccounting;

    const LIMIT: Duration = Duration::from_secs(30);

    #[derive(Default)]
    struct Told(AtomicUsize);

    impl Stop for Told {
        fn stop(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn frame(accounting: &Arc<FrameAccounting>) -> Arc<FrameMeta> {
        let time = FrameTime {
            media: Duration::ZERO,
            captured: Instant::now(),
            wall: jiff::Timestamp::UNIX_EPOCH,
            connection: 0,
        };
        Arc::new(FrameMeta {
            stream: StreamKey(0),
            time,
            tiles: vec![1],
            shared_embedding: None,
            picture: None,
            guard: accounting.sample(&"a".into()),
        })
    }

    fn begin(runs: &Runs, session: usize, batch: u64, now: Instant) -> (Arc<FrameAccounting>, Arc<Told>) {
        let (accounting, told) = (Arc::new(FrameAccounting::default()), Arc::new(Told::default()));
        runs.begin(session, batch, vec![frame(&accounting), frame(&accounting)], Some(Arc::clone(&told) as _), now);
        (accounting, told)
    }

    #[test]
    fn a_run_within_its_limit_is_left_alone_and_so_is_an_idle_session() {
        let (now, runs) = (Instant::now(), Runs::new(LIMIT));
        runs.check_deadlines(now + Duration::from_secs(3600));
        assert_eq!(runs.hung(now), None);
        let (accounting, told) = begin(&runs, 0, 0, now);
        runs.check_deadlines(now + LIMIT - Duration::from_secs(1));
        assert!(runs.end(0));
        runs.check_deadlines(now + Duration::from_secs(3600));
        assert_eq!((told.0.load(Ordering::SeqCst), runs.hung(now)), (0, None));
        assert_eq!(accounting.totals().dropped.get("inference"), None);
    }

    #[test]
    fn a_run_that_ends_when_it_is_told_to_costs_nothing_else() {
        let (now, runs) = (Instant::now(), Runs::new(LIMIT));
        let (_, told) = begin(&runs, 0, 0, now);
        runs.check_deadlines(now + LIMIT);
        runs.check_deadlines(now + LIMIT + Duration::from_secs(1));
        assert_eq!(told.0.load(Ordering::SeqCst), 1, "told once");
        assert_eq!(runs.hung(now + LIMIT), None, "it has its time to end");
        assert!(runs.end(0));
    }

    #[test]
    fn a_run_that_does_not_end_is_given_up_with_its_frames_accounted_and_later_batches_pass_it_by() {
        let (now, runs) = (Instant::now(), Runs::new(LIMIT));
        let (out, scored) = bounded(4);
        let (free, freed) = bounded(4);
        let order = Arc::new(ReorderBuffer::new(out, free));
        runs.pass_by(&order);
        let (accounting, _) = begin(&runs, 0, 0, now);
        let batch = EmbeddedBatch { items: Vec::new(), embeddings: vec![1.0], dim: 1, provider: "cpu" };
        order.put(1, Some(batch), BatchBuffer::new(1, 1).unwrap()).unwrap();
        assert!(freed.is_empty());
        runs.check_deadlines(now + LIMIT);
        assert!(scored.is_empty());
        let late = now + LIMIT + GRACE;
        runs.check_deadlines(late);
        assert_eq!(accounting.totals().dropped.get("inference"), Some(&2));
        assert_eq!(accounting.totals().unaccounted(), 0);
        assert_eq!((scored.len(), freed.len()), (1, 1));
        assert_eq!(runs.hung(late).unwrap(), "inference hangs: session 0 has not finished a run for 40 s");

        assert!(!runs.end(0), "what it says now is too late");
        assert_eq!(runs.hung(late), None, "it goes on");
        assert_eq!(accounting.totals().dropped.get("inference"), Some(&2));
    }

    #[test]
    fn another_session_is_not_told_to_end() {
        let (now, runs) = (Instant::now(), Runs::new(LIMIT));
        let (_, first) = begin(&runs, 0, 0, now);
        let (_, second) = begin(&runs, 1, 1, now + LIMIT / 2);
        runs.check_deadlines(now + LIMIT);
        assert_eq!((first.0.load(Ordering::SeqCst), second.0.load(Ordering::SeqCst)), (1, 0));
        assert!(runs.end(1) && runs.end(0));
    }

    #[test]
    fn a_large_model_has_more_time() {
        assert_eq!(limit(Duration::from_millis(10)), LEAST);
        assert_eq!(limit(Duration::from_secs(30)), Duration::from_secs(600));
    }
}
