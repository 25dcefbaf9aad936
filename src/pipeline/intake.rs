//! Streams join a running pipeline here, and leave it, without touching the others.
//!
//! [`Intake::join`] gives a stream its sampler, its slot, its score route and its source's thread; [`Member`] is what stays
//! with the caller. A member leaves by [`Member::stop`]: its source ends and closes its slot, what was taken out of the slot is
//! finished, and once [`Member::is_drained`] says so, [`Intake::forget`] ends its route. The pipeline's stages end when the intake
//! is dropped and the last slot is empty.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::batching::dispatcher::Arrival;
use crate::frame::latest_picture::{LatestPicture, LatestPictures};
use crate::frame::pushed_pictures::PushedPictures;
use crate::frame::thumbprint::Unchanged;
use crate::frame::view::{Region, Views};
use crate::platform::rounding;
use crate::platform::shutdown::{Shutdown, Trigger};
use crate::sample::auto::{Controller, ServedCounts};
use crate::sample::{Interval, Tempo};
use crate::score::score_routes::{ScoreRoute, ScoreRoutes};
use crate::source::{Ended, Location, Pace, Source, SourceSettings};
use crate::stream::StreamKey;
use crate::stream::accounting::FrameAccounting;
use crate::stream::registry::RegisteredStream;
use crate::stream::status::StreamStatus;

use super::camera_to_slot;
use super::on_demand::{Joining, OnDemand};

/// Streams that may be on their way in at once; more are refused.
pub(super) const ARRIVALS: usize = 1024;

/// Threads, each with the name to call it by when it is late.
pub type Threads = Vec<(String, JoinHandle<()>)>;

pub(super) fn spawn(
    name: &str,
    thread: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<(String, JoinHandle<()>)> {
    Ok((name.to_owned(), Builder::new().name(thread.to_owned()).spawn(work)?))
}

/// How often the common interval is thought about, and how often a change of it is worth a line in the log.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// One stream, as the pipeline needs it.
pub struct StreamPart {
    /// Where its state and its frames are noted.
    pub record: RegisteredStream,
    pub source: SourceSettings,
    pub interval: Interval,
    /// Whether frames that show nothing new are inferred all the same (`None`).
    pub unchanged: Option<Unchanged>,
    pub views: Views,
    /// What scores it, and who hears of it.
    pub route: ScoreRoute,
}

/// A stream's camera, and how it is sampled.
pub(super) struct Camera {
    pub record: RegisteredStream,
    pub source: SourceSettings,
    pub interval: Duration,
    /// The common interval, for one that follows it.
    pub tempo: Option<Arc<Tempo>>,
    /// What frames get thumbprints of.
    pub thumbprints: Vec<Region>,
    /// Who looks at its pictures.
    pub latest: Arc<LatestPicture>,
    /// Who sends pictures, where that is what it is made of.
    pub pushed: Arc<PushedPictures>,
}

/// The way into a running pipeline. Dropping it lets the pipeline end.
pub struct Intake {
    arrivals: Sender<Arrival>,
    wake: Sender<()>,
    score_routes: Arc<ScoreRoutes>,
    shutdown: Shutdown,
    next: u64,
    pace: CommonPace,
    pictures: bool,
    /// For who joins without a source, as long as this is here.
    joining: Arc<Joining>,
    latest: Arc<LatestPictures>,
    pushed: Arc<PushedPictures>,
}

/// The common interval of all streams with `interval: auto`, and how it is found.
#[derive(Default)]
struct CommonPace {
    tempo: Arc<Tempo>,
    controller: Controller,
    polled: Option<Instant>,
    /// The interval last told in the log, and when.
    logged: Option<(Instant, Duration)>,
}

/// A stream that has joined.
pub struct Member {
    pub key: StreamKey,
    pub status: Arc<StreamStatus>,
    pub accounting: Arc<FrameAccounting>,
    /// Follows the common interval.
    auto: bool,
    /// Loses frames when the box is behind.
    live: bool,
    /// Frames served and superseded at the last poll.
    counted: (u64, u64),
    trigger: Trigger,
    ended: Receiver<Option<Ended>>,
    thread: JoinHandle<()>,
}

impl Intake {
    pub(super) fn new(
        arrivals: Sender<Arrival>,
        wake: Sender<()>,
        score_routes: Arc<ScoreRoutes>,
        shutdown: Shutdown,
    ) -> Self {
        let joining = Arc::new(Joining { arrivals: arrivals.clone(), wake: wake.clone() });
        Self {
            arrivals,
            wake,
            score_routes,
            shutdown,
            next: 0,
            pace: CommonPace::default(),
            pictures: false,
            joining,
            latest: Arc::default(),
            pushed: Arc::default(),
        }
    }

    /// The way in for single pictures.
    pub fn on_demand(&self) -> OnDemand {
        OnDemand::new(Arc::downgrade(&self.joining), Arc::clone(&self.score_routes))
    }

    /// Streams that join from now on keep each frame's picture until it has been scored: for snapshots.
    pub fn keep_pictures(&mut self) {
        self.pictures = true;
    }

    /// Streams that join from now on show their pictures there to who looks.
    pub fn show_pictures(&mut self, latest: Arc<LatestPictures>) {
        self.latest = latest;
    }

    /// Where streams take the pictures that are sent to them.
    pub fn pushed(&self) -> &Arc<PushedPictures> {
        &self.pushed
    }

    /// Streams that join from now on take the pictures that are sent to `pushed`.
    pub fn take_pushed(&mut self, pushed: Arc<PushedPictures>) {
        self.pushed = pushed;
    }

    /// A stream joins; its source starts at once.
    ///
    /// # Errors
    /// When the system gives no thread, the pipeline has ended, or very many joined while it was busy.
    pub fn join(&mut self, part: StreamPart) -> io::Result<Member> {
        let StreamPart { record, source, interval, unchanged, views, route } = part;
        let key = StreamKey(self.next);
        self.next += 1;
        let (trigger, shutdown) = self.shutdown.child();
        let RegisteredStream { status, accounting, .. } = record.clone();
        // Whoever sends pictures sends as many as they like: that says nothing of the box.
        let is_sent = matches!(source.location, Location::Push(_));
        let (auto, live) = (interval == Interval::Auto, source.pace == Pace::Live && !is_sent);
        let tempo = auto.then(|| Arc::clone(&self.pace.tempo));
        let interval = match interval {
            Interval::Every(interval) => interval,
            Interval::Auto => self.pace.tempo.interval(),
        };
        status.sampling_interval(interval);
        let compared = views.iter().filter(|_| unchanged.is_some());
        let thumbprints = compared.map(|view| view.view.region).collect();
        let latest = self.latest.enter(&source.id);
        let camera = Camera { record, source, interval, tempo, thumbprints, latest, pushed: Arc::clone(&self.pushed) };
        let (source, slot) = camera_to_slot(camera, self.wake.clone(), shutdown);

        // Everything is in place before the first frame.
        self.score_routes.enter(key, route);
        let arrival = Arrival { key, views, unchanged, pictures: self.pictures, single: None, slot };
        if let Err(error) = self.arrivals.try_send(arrival) {
            self.score_routes.leave(key);
            return Err(io::Error::other(match error {
                TrySendError::Full(_) => "too many streams join at once",
                TrySendError::Disconnected(_) => "the pipeline has ended",
            }));
        }
        let _ = self.wake.try_send(());
        let (report, ended) = bounded(1);
        let report = EndReport { how: None, report };
        // On failure the closure, and with it the slot's writer, is dropped: the dispatcher forgets the slot.
        let thread = Builder::new().name(format!("src-{}", status.id())).spawn(|| report.after(source));
        let thread = thread.inspect_err(|_| self.score_routes.leave(key))?;
        Ok(Member { key, status, accounting, auto, live, counted: (0, 0), trigger, ended, thread })
    }

    /// Ends the route of a member whose frames have all ended.
    pub fn forget(&self, key: StreamKey) {
        self.score_routes.leave(key);
    }

    /// No stream joins any more; whose routes are to be ended when all frames have.
    pub fn close(self) -> Arc<ScoreRoutes> {
        self.score_routes
    }

    /// Lets the streams with `interval: auto` follow what the box serves. `members` are all that are there. To be called now and
    /// then; it acts once in [`POLL_INTERVAL`].
    pub fn adapt<'a>(&mut self, now: Instant, members: impl Iterator<Item = &'a mut Member>) {
        let pace = &mut self.pace;
        if pace.polled.is_some_and(|last| now.saturating_duration_since(last) < POLL_INTERVAL) {
            return;
        }
        pace.polled = Some(now);
        let members: Vec<_> = members.filter(|member| member.live).collect();
        let mut ended = ServedCounts { streams: members.len(), ..ServedCounts::default() };
        let mut followers = Vec::with_capacity(members.len());
        for member in members {
            let counted = member.accounting.served_and_superseded();
            ended.served += counted.0.saturating_sub(member.counted.0);
            ended.lost += counted.1.saturating_sub(member.counted.1);
            member.counted = counted;
            followers.extend(member.auto.then(|| Arc::clone(&member.status)));
        }
        if followers.is_empty() {
            return;
        }
        if let Some(interval) = pace.controller.note(now, ended) {
            pace.tempo.set(interval);
            followers.iter().for_each(|status| status.sampling_interval(interval));
        }
        let interval = pace.controller.interval();
        let is_due = |(at, logged)| logged != interval && now.saturating_duration_since(at) >= LOG_INTERVAL;
        if pace.logged.is_none_or(is_due) {
            pace.logged = Some((now, interval));
            let interval = rounding::duration(interval);
            tracing::info!(?interval, streams = followers.len(), "sampling interval of streams with `interval: auto`");
        }
    }

    /// Who scores and listens; for changes between two batches.
    pub fn score_routes(&self) -> &Arc<ScoreRoutes> {
        &self.score_routes
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
        self.accounting.totals().unaccounted() == 0
    }

    /// Its thread and the name to call it by when it is late. The source is asked to end by this: [wait](Self::wait) first for one that is
    /// to end by itself.
    pub fn into_thread(self) -> (String, JoinHandle<()>) {
        (format!("source {}", self.status.id()), self.thread)
    }
}

/// Reports how a source ended, also when it panicked.
struct EndReport {
    how: Option<Ended>,
    report: Sender<Option<Ended>>,
}

impl EndReport {
    fn after(mut self, source: Source) {
        self.how = Some(source.run());
    }
}

impl Drop for EndReport {
    fn drop(&mut self) {
        // Room for the one message; the receiver is gone only when nobody cares any more.
        let _ = self.report.try_send(self.how.take());
    }
}
