//! Streams join a running pipeline here, and leave it, without touching the others.
//!
//! [`Intake::join`] gives a stream its sampler, its slot, its lane in the roster and its source's thread; [`Member`] is what stays
//! with the caller. A member leaves by [`Member::stop`]: its source ends and closes its slot, what was taken out of the slot is
//! finished, and once [`Member::is_drained`] says so, [`Intake::forget`] ends its lane. The pipeline's stages end when the intake
//! is dropped and the last slot is empty.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::account::Account;
use crate::frame::{FrameTap, StreamKey};
use crate::infer::dispatch::Arrival;
use crate::queue;
use crate::sample::{OnFull, Sampler};
use crate::score::roster::{Lane, Roster};
use crate::shutdown::{Shutdown, Trigger};
use crate::source::{Ended, Pace, Source, SourceSettings};
use crate::status::StreamStatus;
use crate::view::View;

/// One stream, as the pipeline needs it.
pub struct StreamPart {
    pub source: SourceSettings,
    pub interval: Duration,
    pub view: View,
    /// What scores it, and who hears of it.
    pub lane: Lane,
}

/// The way into a running pipeline. Dropping it lets the pipeline end.
pub struct Intake {
    pub(crate) arrivals: Sender<Arrival>,
    pub(crate) wake: Sender<()>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) shutdown: Shutdown,
    pub(crate) next: u64,
}

/// A stream that has joined.
pub struct Member {
    pub key: StreamKey,
    pub status: Arc<StreamStatus>,
    pub account: Arc<Account>,
    trigger: Trigger,
    ended: Receiver<Option<Ended>>,
    thread: JoinHandle<()>,
}

impl Intake {
    /// A stream joins; its source starts at once.
    ///
    /// # Errors
    /// When the system gives no thread, the pipeline has ended, or very many joined while it was busy.
    pub fn join(&mut self, part: StreamPart) -> io::Result<Member> {
        let StreamPart { source, interval, view, lane } = part;
        let key = StreamKey(self.next);
        self.next += 1;
        let (trigger, shutdown) = self.shutdown.child();
        let id = Arc::clone(&source.id);
        let (status, account) = (Arc::new(StreamStatus::new(Arc::clone(&id))), Arc::new(Account::open(&id)));
        let (writer, slot) = queue::slot(1, self.wake.clone());
        let on_full = match source.pace {
            Pace::Live => OnFull::NewestWins,
            Pace::Fast => OnFull::Wait(shutdown.clone()),
        };
        metrics::gauge!("vtagd_sampling_interval_seconds", "stream" => id.to_string()).set(interval.as_secs_f64());
        let sampler = Sampler::new(Arc::clone(&id), interval, Arc::clone(&account), writer, on_full);
        let tap: Arc<dyn FrameTap> = Arc::new(sampler);
        let source = Source::new(source, tap, Arc::clone(&status), shutdown);

        // Everything is in place before the first frame.
        self.roster.enter(key, lane);
        let arrival = Arrival { key, view, slot };
        if let Err(error) = self.arrivals.try_send(arrival) {
            self.roster.leave(key);
            return Err(io::Error::other(match error {
                TrySendError::Full(_) => "too many streams join at once",
                TrySendError::Disconnected(_) => "the pipeline has ended",
            }));
        }
        let _ = self.wake.try_send(());
        let (told, ended) = bounded(1);
        let farewell = Farewell { how: None, told };
        // On failure the closure, and with it the slot's writer, is dropped: the dispatcher forgets the slot.
        let thread = Builder::new().name(format!("src-{id}")).spawn(|| farewell.after(source));
        let thread = thread.inspect_err(|_| self.roster.leave(key))?;
        Ok(Member { key, status, account, trigger, ended, thread })
    }

    /// Ends the lane of a member whose frames have all ended.
    pub fn forget(&self, key: StreamKey) {
        self.roster.leave(key);
    }

    /// Who scores and listens; for changes between two batches.
    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }
}

impl Member {
    /// Asks its source to end; returns at once.
    pub fn stop(&self) {
        self.trigger.trigger();
    }

    /// How its source ended, once it has; the inner `None` if it panicked. Tells it once.
    pub fn ended(&self) -> Option<Option<Ended>> {
        self.ended.try_recv().ok()
    }

    /// Waits for its source to end and tells how; `None` if it panicked.
    pub fn wait(&self) -> Option<Ended> {
        self.ended.recv().ok().flatten()
    }

    /// Whether every frame that was sampled has ended. Final once the source has ended.
    pub fn is_drained(&self) -> bool {
        self.account.totals().unaccounted() == 0
    }

    /// Its thread and the name to call it by when it is late.
    pub fn into_thread(self) -> (String, JoinHandle<()>) {
        (format!("source {}", self.status.id()), self.thread)
    }
}

/// Tells how a source ended, also when it panicked.
struct Farewell {
    how: Option<Ended>,
    told: Sender<Option<Ended>>,
}

impl Farewell {
    fn after(mut self, source: Source) {
        self.how = Some(source.run());
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        // Room for the one message; the receiver is gone only when nobody cares any more.
        let _ = self.told.try_send(self.how.take());
    }
}
