//! Runs one sink on a thread of its own: starts it, starts it again after a fault, ends it with its inbox.
//!
//! The thread has its own single-threaded tokio runtime, so a sink that blocks, spins or panics slows nobody else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::{Fault, Sink};
use crate::outbox::delivery::{Health, Inbox, Phase};
use crate::platform::backoff::{Backoff, Ladder};

/// A sink that has not returned this long after its inbox was closed is dropped.
const GRACE: Duration = Duration::from_millis(1500);

/// Half a second, 1, 2, 4, 8, 16, then 30 s for ever: a broker that restarts is back within seconds, and one that is away costs nothing.
/// It starts again once something was delivered, or after half a minute that went well.
pub fn ladder() -> Ladder {
    Ladder::doubling(Duration::from_millis(500), Duration::from_secs(30), Duration::from_secs(30))
}

/// Starts `sink` on a thread called after it.
///
/// # Errors
/// When the system gives no thread or runtime.
pub fn start(sink: Box<dyn Sink>, inbox: Inbox, ladder: Ladder) -> std::io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let name = format!("vtagd-{}", inbox.name());
    std::thread::Builder::new().name(name).spawn(move || {
        let (mut sink, mut inbox) = (sink, inbox);
        // Sinks of one broker that was away should not come back in step.
        let seed = uuid::Uuid::new_v4().as_u64_pair().0;
        let mut backoff = Backoff::new(ladder, seed);
        loop {
            let once = || runtime.block_on(supervise(&mut *sink, &mut inbox, &mut backoff));
            if catch_unwind(AssertUnwindSafe(once)).is_ok() {
                break;
            }
            inbox.down("panicked; please report this");
            let wait = backoff.next_wait();
            if runtime.block_on(closed_within(inbox.phases(), wait)) {
                break;
            }
        }
        // A look-up of a name that hangs must not hold the daemon's end up.
        runtime.shutdown_timeout(Duration::from_millis(100));
    })
}

/// Runs the sink until it is done for good.
async fn supervise(sink: &mut dyn Sink, inbox: &mut Inbox, backoff: &mut Backoff) {
    loop {
        inbox.rewind();
        let began = Instant::now();
        let mut phases = inbox.phases();
        let late = async {
            let _ = phases.wait_for(|phase| *phase == Phase::Closed).await;
            sleep(GRACE).await;
        };
        let ended = tokio::select! {
            ended = sink.run(inbox) => ended,
            () = late => {
                tracing::warn!(sink = %inbox.name(), "did not end in time, left where it was");
                return;
            }
        };
        let was_up = inbox.health() == Health::Up;
        let wait = match ended {
            Ok(()) => return,
            Err(Fault::Gone { why }) => return inbox.set_health(Health::Gone { why }),
            Err(Fault::Disabled { why }) => return inbox.set_health(Health::Disabled { why }),
            Err(Fault::Again { why, after }) => {
                if inbox.has_delivered() {
                    // A broker that comes and goes is no worse each time.
                    backoff.went_well_for(Duration::MAX);
                } else if was_up {
                    backoff.went_well_for(began.elapsed());
                }
                inbox.down(&why);
                backoff.next_wait().max(after.unwrap_or_default())
            }
        };
        if closed_within(inbox.phases(), wait).await {
            return;
        }
    }
}

/// Waits for `time`. `true` if the inbox was closed meanwhile.
async fn closed_within(mut phases: watch::Receiver<Phase>, time: Duration) -> bool {
    tokio::time::timeout(time, phases.wait_for(|phase| *phase == Phase::Closed)).await.is_ok()
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;
    use crate::event::EventKind;
    use crate::outbox::delivery::tests::{delivery, event, eventually};
    use crate::outbox::delivery::{self, Feed, Outcome, States};
    use crate::sink::Running;

    /// What it does in its first runs; after them it delivers everything.
    struct Moody(Vec<Mood>);

    #[derive(Clone)]
    enum Mood {
        LosesItsConnection,
        Panics,
        Ends(Fault),
    }

    impl Sink for Moody {
        fn run<'a>(&'a mut self, inbox: &'a mut Inbox) -> Running<'a> {
            Box::pin(async move {
                let mood = (!self.0.is_empty()).then(|| self.0.remove(0));
                while let Some(taken) = inbox.next().await {
                    match &mood {
                        Some(Mood::LosesItsConnection) => return Err(Fault::again("connection lost")),
                        Some(Mood::Panics) => panic!("as the test wants it"),
                        Some(Mood::Ends(fault)) => return Err(fault.clone()),
                        None => {
                            inbox.up();
                            inbox.delivered(taken.position);
                        }
                    }
                }
                Ok(())
            })
        }
    }

    fn started(moods: Vec<Mood>) -> (Feed, JoinHandle<()>) {
        let (feed, inbox) = delivery::link("moody", States::default(), bounded(1).0);
        for position in 1..=3 {
            feed.offer(delivery(position, event("gate", "car", EventKind::Start))).unwrap();
        }
        let ladder = Ladder { steps: vec![Duration::from_millis(1)], stable: Duration::ZERO };
        (feed, start(Box::new(Moody(moods)), inbox, ladder).unwrap())
    }

    #[test]
    fn a_sink_that_loses_its_connection_or_panics_runs_again_and_gets_everything_that_is_not_settled() {
        let (feed, thread) = started(vec![Mood::LosesItsConnection, Mood::Panics, Mood::LosesItsConnection]);
        let mut settled = std::collections::BTreeMap::new();
        eventually("all are settled", || {
            settled.extend(feed.settled());
            settled.len() == 3
        });
        assert!(settled.values().all(|outcome| *outcome == Outcome::Delivered));
        assert_eq!(feed.health(), Health::Up);
        feed.advance(Phase::Closed);
        thread.join().unwrap();
    }

    #[test]
    fn the_waits_start_again_once_something_was_delivered() {
        /// Delivers one and loses its connection, every time.
        struct OneATime;
        impl Sink for OneATime {
            fn run<'a>(&'a mut self, inbox: &'a mut Inbox) -> Running<'a> {
                Box::pin(async move {
                    let Some(taken) = inbox.next().await else { return Ok(()) };
                    inbox.delivered(taken.position);
                    Err(Fault::again("connection lost"))
                })
            }
        }
        let (feed, inbox) = delivery::link("one", States::default(), bounded(1).0);
        for position in 1..=20 {
            feed.offer(delivery(position, event("gate", "car", EventKind::Start))).unwrap();
        }
        // Anything but the first step would take longer than the test's patience.
        let steps = vec![Duration::from_millis(1), Duration::from_secs(3600)];
        let ladder = Ladder { steps, stable: Duration::from_secs(3600) };
        let thread = start(Box::new(OneATime), inbox, ladder).unwrap();
        let mut settled = 0;
        eventually("all are settled", || {
            settled += feed.settled().len();
            settled == 20
        });
        feed.advance(Phase::Closed);
        thread.join().unwrap();
    }

    #[test]
    fn a_sink_that_is_disabled_or_gone_is_not_run_again() {
        let why = || "410".to_owned();
        for (fault, health) in [
            (Fault::Disabled { why: why() }, Health::Disabled { why: why() }),
            (Fault::Gone { why: why() }, Health::Gone { why: why() }),
        ] {
            let (feed, thread) = started(vec![Mood::Ends(fault)]);
            thread.join().unwrap();
            assert_eq!((feed.health(), feed.is_gone()), (health, true));
        }
    }

    #[test]
    fn a_sink_that_does_not_end_with_its_inbox_is_dropped() {
        struct Stubborn;
        impl Sink for Stubborn {
            fn run<'a>(&'a mut self, _: &'a mut Inbox) -> Running<'a> {
                Box::pin(std::future::pending())
            }
        }
        let (feed, inbox) = delivery::link("stubborn", States::default(), bounded(1).0);
        let thread = start(Box::new(Stubborn), inbox, ladder()).unwrap();
        feed.advance(Phase::Closed);
        thread.join().unwrap();
        assert!(feed.is_gone());
    }

    #[test]
    fn the_wait_before_another_run_ends_with_the_daemon() {
        let hour = Some(Duration::from_secs(3600));
        let (feed, thread) = started(vec![Mood::Ends(Fault::Again { why: "429".into(), after: hour })]);
        eventually("it is down", || matches!(feed.health(), Health::Down { .. }));
        feed.advance(Phase::Closed);
        thread.join().unwrap();
    }
}
