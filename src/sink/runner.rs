//! Runs one sink on a thread of its own: starts it, starts it again after a fault, ends it with its receiver.
//!
//! The thread has its own single-threaded tokio runtime, so a sink that blocks, spins or panics slows nobody else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Sink, SinkError};
use crate::outbox::delivery::{DeliveryReceiver, Health};
use crate::platform::backoff::{Backoff, Ladder};

/// A sink that has not returned this long after its receiver was closed is dropped.
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
pub fn start(sink: Box<dyn Sink>, receiver: DeliveryReceiver, ladder: Ladder) -> std::io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let name = format!("vtagd-{}", receiver.name());
    std::thread::Builder::new().name(name).spawn(move || {
        let (mut sink, mut receiver) = (sink, receiver);
        // Sinks of one broker that was away should not come back in step.
        let seed = uuid::Uuid::new_v4().as_u64_pair().0;
        let mut backoff = Backoff::new(ladder, seed);
        loop {
            let once = || runtime.block_on(supervise(&mut *sink, &mut receiver, &mut backoff));
            if catch_unwind(AssertUnwindSafe(once)).is_ok() {
                break;
            }
            receiver.down("panicked; please report this");
            let wait = backoff.next_wait();
            if runtime.block_on(closed_within(&receiver, wait)) {
                break;
            }
        }
        // A look-up of a name that hangs must not hold the daemon's end up.
        runtime.shutdown_timeout(Duration::from_millis(100));
    })
}

/// Runs the sink until it is done for good.
async fn supervise(sink: &mut dyn Sink, receiver: &mut DeliveryReceiver, backoff: &mut Backoff) {
    loop {
        receiver.redeliver_unacknowledged();
        let began = Instant::now();
        let closed = receiver.closed();
        let late = async {
            closed.await;
            sleep(GRACE).await;
        };
        let ended = tokio::select! {
            ended = sink.run(receiver) => ended,
            () = late => {
                tracing::warn!(sink = %receiver.name(), "did not end in time, left where it was");
                return;
            }
        };
        let was_up = receiver.health() == Health::Up;
        let wait = match ended {
            Ok(()) => return,
            Err(SinkError::Fatal { why }) => return receiver.set_health(Health::Gone { why }),
            Err(SinkError::EndpointGone { why }) => return receiver.set_health(Health::Disabled { why }),
            Err(SinkError::Retry { why, after }) => {
                if receiver.has_delivered() {
                    // A broker that comes and goes is no worse each time.
                    backoff.went_well_for(Duration::MAX);
                } else if was_up {
                    backoff.went_well_for(began.elapsed());
                }
                receiver.down(&why);
                backoff.next_wait().max(after.unwrap_or_default())
            }
        };
        if closed_within(receiver, wait).await {
            return;
        }
    }
}

/// Waits for `time`. `true` if the receiver was closed meanwhile.
async fn closed_within(receiver: &DeliveryReceiver, time: Duration) -> bool {
    tokio::time::timeout(time, receiver.closed()).await.is_ok()
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;
    use crate::event::EventKind;
    use crate::outbox::delivery::tests::{delivery, event, eventually};
    use crate::outbox::delivery::{self, DeliveryOutcome, DeliverySender, Phase, States};
    use crate::sink::Running;

    /// What it does in its first runs; after them it delivers everything.
    struct Moody(Vec<Mood>);

    #[derive(Clone)]
    enum Mood {
        LosesItsConnection,
        Panics,
        Ends(SinkError),
    }

    impl Sink for Moody {
        fn run<'a>(&'a mut self, receiver: &'a mut DeliveryReceiver) -> Running<'a> {
            Box::pin(async move {
                let mood = (!self.0.is_empty()).then(|| self.0.remove(0));
                while let Some(taken) = receiver.next().await {
                    match &mood {
                        Some(Mood::LosesItsConnection) => return Err(SinkError::retry("connection lost")),
                        Some(Mood::Panics) => panic!("as the test wants it"),
                        Some(Mood::Ends(fault)) => return Err(fault.clone()),
                        None => {
                            receiver.up();
                            receiver.delivered(taken.position);
                        }
                    }
                }
                Ok(())
            })
        }
    }

    fn started(moods: Vec<Mood>) -> (DeliverySender, JoinHandle<()>) {
        let (sender, receiver) = delivery::link("moody", States::default(), bounded(1).0);
        for position in 1..=3 {
            sender.offer(delivery(position, event("gate", "car", EventKind::Start))).unwrap();
        }
        let ladder = Ladder { steps: vec![Duration::from_millis(1)], stable: Duration::ZERO };
        (sender, start(Box::new(Moody(moods)), receiver, ladder).unwrap())
    }

    #[test]
    fn a_sink_that_loses_its_connection_or_panics_runs_again_and_gets_everything_that_is_not_settled() {
        let (sender, thread) = started(vec![Mood::LosesItsConnection, Mood::Panics, Mood::LosesItsConnection]);
        let mut settled = std::collections::BTreeMap::new();
        eventually("all are settled", || {
            settled.extend(sender.settled());
            settled.len() == 3
        });
        assert!(settled.values().all(|outcome| *outcome == DeliveryOutcome::Delivered));
        assert_eq!(sender.health(), Health::Up);
        sender.advance(Phase::Closed);
        thread.join().unwrap();
    }

    #[test]
    fn the_waits_start_again_once_something_was_delivered() {
        /// Delivers one and loses its connection, every time.
        struct OneATime;
        impl Sink for OneATime {
            fn run<'a>(&'a mut self, receiver: &'a mut DeliveryReceiver) -> Running<'a> {
                Box::pin(async move {
                    let Some(taken) = receiver.next().await else { return Ok(()) };
                    receiver.delivered(taken.position);
                    Err(SinkError::retry("connection lost"))
                })
            }
        }
        let (sender, receiver) = delivery::link("one", States::default(), bounded(1).0);
        for position in 1..=20 {
            sender.offer(delivery(position, event("gate", "car", EventKind::Start))).unwrap();
        }
        // Anything but the first step would take longer than the test's patience.
        let steps = vec![Duration::from_millis(1), Duration::from_secs(3600)];
        let ladder = Ladder { steps, stable: Duration::from_secs(3600) };
        let thread = start(Box::new(OneATime), receiver, ladder).unwrap();
        let mut settled = 0;
        eventually("all are settled", || {
            settled += sender.settled().len();
            settled == 20
        });
        sender.advance(Phase::Closed);
        thread.join().unwrap();
    }

    #[test]
    fn a_sink_that_is_disabled_or_gone_is_not_run_again() {
        let why = || "410".to_owned();
        for (fault, health) in [
            (SinkError::EndpointGone { why: why() }, Health::Disabled { why: why() }),
            (SinkError::Fatal { why: why() }, Health::Gone { why: why() }),
        ] {
            let (sender, thread) = started(vec![Mood::Ends(fault)]);
            thread.join().unwrap();
            assert_eq!((sender.health(), sender.is_gone()), (health, true));
        }
    }

    #[test]
    fn a_sink_that_does_not_end_with_its_inbox_is_dropped() {
        struct Stubborn;
        impl Sink for Stubborn {
            fn run<'a>(&'a mut self, _: &'a mut DeliveryReceiver) -> Running<'a> {
                Box::pin(std::future::pending())
            }
        }
        let (sender, receiver) = delivery::link("stubborn", States::default(), bounded(1).0);
        let thread = start(Box::new(Stubborn), receiver, ladder()).unwrap();
        sender.advance(Phase::Closed);
        thread.join().unwrap();
        assert!(sender.is_gone());
    }

    #[test]
    fn the_wait_before_another_run_ends_with_the_daemon() {
        let hour = Some(Duration::from_secs(3600));
        let (sender, thread) = started(vec![Mood::Ends(SinkError::Retry { why: "429".into(), after: hour })]);
        eventually("it is down", || matches!(sender.health(), Health::Down { .. }));
        sender.advance(Phase::Closed);
        thread.join().unwrap();
    }
}
