//! Deliveries on one connection, from the receiver to their acknowledgement: what the loops of MQTT, NATS and Kafka share. (Kafka's producer
//! keeps what is on its way itself: it reports in another order.)
//!
//! Two halves, so that one `select!` can wait for both. [`OrderingGate`] takes from the receiver what may go out now; [`InFlight`] keeps what went out
//! until its answer comes. The sink's loop publishes, settles by the answer, and ends its run when an event was not taken: the next run
//! gets everything that was not acknowledged again. Runs on the sink's thread. Full: the sink says that it has no room, and nothing more is
//! taken. Closed: the gate says so, also while there is no room, and [`InFlight::drain`] waits a little for what is on its way.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::SinkError;
use crate::outbox::delivery::{Delivery, DeliveryReceiver, OrderingKey};

/// For acknowledgements that are on their way when the daemon ends; a little less than the runner's patience.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Takes deliveries in the order of the outbox, and holds the next one back while one of its stream and label is on its way: for another
/// side that may refuse one and take the one behind it.
#[derive(Default)]
pub struct OrderingGate {
    /// The next, while it may not go.
    next: Option<Delivery>,
    on_their_way: HashMap<u64, OrderingKey>,
}

impl OrderingGate {
    /// The next delivery that may go out; one is taken from the receiver only where there is `room`. `None`: the daemon ends, which is seen
    /// whatever is waited for. May be cancelled without losing anything.
    pub async fn take(&mut self, receiver: &mut DeliveryReceiver, room: bool) -> Option<Delivery> {
        if room && self.next.is_none() {
            self.next = Some(receiver.next().await?);
        }
        let may_go = |next: &mut Delivery| {
            let key = next.stored.ordering_key();
            !self.on_their_way.values().any(|other| *other == key)
        };
        let next = self.next.take_if(may_go);
        if next.is_none() {
            receiver.closed().await;
        }
        next
    }

    /// Nothing of its stream and label goes out before it is [`acknowledged`](Self::acknowledged).
    pub fn sent(&mut self, delivery: &Delivery) {
        self.on_their_way.insert(delivery.position, delivery.stored.ordering_key());
    }

    pub fn acknowledged(&mut self, position: u64) {
        self.on_their_way.remove(&position);
    }
}

/// What was sent and has no answer yet, in the order in which it went out: what it is, and the future that ends with its answer.
pub struct InFlight<T, A> {
    sent: VecDeque<(T, A)>,
    /// When the last answer came, or when there began to be something to answer.
    heard: Instant,
}

impl<T, A> Default for InFlight<T, A> {
    fn default() -> Self {
        Self { sent: VecDeque::new(), heard: Instant::now() }
    }
}

impl<T, A: Future + Unpin> InFlight<T, A> {
    pub fn push(&mut self, what: T, answer: A) {
        if self.sent.is_empty() {
            self.heard = Instant::now();
        }
        self.sent.push_back((what, answer));
    }

    /// Waits for the answer to the oldest; for ever, if nothing is on its way. May be cancelled without losing anything.
    pub async fn answered(&mut self) -> (T, A::Output) {
        let answered = poll_fn(|context| {
            let Some((_, answer)) = self.sent.front_mut() else { return Poll::Pending };
            Pin::new(answer).poll(context).map(|answer| self.sent.pop_front().map(|(what, _)| (what, answer)))
        });
        let Some(answered) = answered.await else { return std::future::pending().await };
        self.heard = Instant::now();
        answered
    }

    /// The daemon ends: what is on its way may still be answered. What is not comes again at the next start.
    ///
    /// # Errors
    /// The first of `settle`.
    pub async fn drain(
        &mut self,
        mut settle: impl FnMut(T, A::Output) -> Result<(), SinkError>,
    ) -> Result<(), SinkError> {
        let all = async {
            while !self.is_empty() {
                let (what, answer) = self.answered().await;
                settle(what, answer)?;
            }
            Ok(())
        };
        timeout(DRAIN_TIMEOUT, all).await.unwrap_or(Ok(()))
    }

    /// Since when no answer has come, where one is waited for.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.sent.iter().map(|(what, _)| what)
    }

    pub fn len(&self) -> usize {
        self.sent.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;
    use tokio::sync::oneshot;

    use super::*;
    use crate::event::EventKind;
    use crate::outbox::delivery::tests::{delivery, event};
    use crate::outbox::delivery::{self, Phase, States};

    /// What a future gives at once; `None` if it waits.
    async fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            value = future => Some(value),
            () = std::future::ready(()) => None,
        }
    }

    fn runs(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn the_next_waits_for_one_of_its_stream_and_label_and_the_end_is_seen_meanwhile() {
        let (sender, mut receiver) = delivery::link("gate", States::default(), bounded(1).0);
        for (position, label) in (1..).zip(["car", "bus", "car", "bus"]) {
            sender.offer(delivery(position, event("gate", label, EventKind::Start))).unwrap();
        }
        runs(async {
            let mut gate = OrderingGate::default();
            for position in [1, 2] {
                let taken = now(gate.take(&mut receiver, true)).await.flatten().unwrap();
                assert_eq!(taken.position, position);
                gate.sent(&taken);
            }
            assert_eq!(now(gate.take(&mut receiver, true)).await.map(|_| ()), None, "3 comes after 1");
            gate.acknowledged(2);
            assert_eq!(now(gate.take(&mut receiver, true)).await.map(|_| ()), None, "and 4 does not overtake it");
            gate.acknowledged(1);
            let taken = now(gate.take(&mut receiver, false)).await.flatten();
            assert_eq!(taken.map(|taken| taken.position), Some(3), "what was taken needs no room");
            assert_eq!(now(gate.take(&mut receiver, false)).await.map(|_| ()), None, "what was not does");
            sender.advance(Phase::Closed);
            assert_eq!(now(gate.take(&mut receiver, false)).await.map(|taken| taken.is_none()), Some(true));
        });
    }

    #[test]
    fn answers_are_given_in_the_order_of_sending_and_the_end_waits_for_them() {
        let mut in_flight = InFlight::default();
        let (mut senders, receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel()).unzip();
        receivers.into_iter().zip(1..).for_each(|(answer, position)| in_flight.push(position, answer));
        runs(async {
            senders.remove(1).send("second").unwrap();
            assert_eq!(now(in_flight.answered()).await, None, "the first has no answer yet");
            senders.remove(0).send("first").unwrap();
            assert_eq!(now(in_flight.answered()).await, Some((1, Ok("first"))));
            drop(senders);
            let mut rest = Vec::new();
            let settle = |position, answer: Result<_, _>| {
                rest.push((position, answer.ok()));
                Ok(())
            };
            in_flight.drain(settle).await.unwrap();
            assert_eq!(rest, [(2, Some("second")), (3, None)]);
        });
    }
}
