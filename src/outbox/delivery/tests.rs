//! Both ends of a link.

use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::*;
use crate::event::{EventKind, ModelRef, cloud_event::Data};

/// An event of a label of a stream.
pub fn event(stream: &str, label: &str, kind: EventKind) -> Event {
    let data = Data {
        region: None,
        stream: stream.into(),
        set: "lot".into(),
        label: label.into(),
        tag_id: Uuid::nil(),
        score: 0.93,
        margin: Some(2.5),
        rival: Some("a wall".into()),
        peak: 0.97,
        started_at: jiff::Timestamp::UNIX_EPOCH,
        ended_at: None,
        sampled_at: jiff::Timestamp::UNIX_EPOCH,
        media_start: 1.5,
        media_end: None,
        reason: None,
        model: ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None },
        attributes: Arc::default(),
        snapshot: None,
    };
    Event { id: Uuid::now_v7(), source: format!("/x/streams/{stream}"), kind, data }
}

/// A delivery of such an event.
pub fn delivery(position: u64, event: Event) -> Delivery {
    let body = serde_json::to_string(&event).unwrap().into();
    Delivery { position, attempts: 0, stored: Arc::new(Stored { seq: position, event: Arc::new(event), body }) }
}

/// Waits for `done`.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < deadline, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn filled(positions: std::ops::RangeInclusive<u64>) -> (DeliverySender, DeliveryReceiver) {
    let (sender, receiver) = link("x", States::default(), bounded(1).0);
    for position in positions {
        sender.offer(delivery(position, event("gate", "car", EventKind::Start))).unwrap();
    }
    (sender, receiver)
}

#[test]
fn a_rewind_hands_out_what_is_not_settled_in_order_before_anything_new() {
    let (sender, mut receiver) = filled(1..=4);
    for _ in 0..3 {
        receiver.try_next().unwrap();
    }
    receiver.delivered(2);
    receiver.redeliver_unacknowledged();
    let order: Vec<u64> = std::iter::from_fn(|| receiver.try_next()).map(|d| d.position).collect();
    assert_eq!(order, [1, 3, 4]);
    assert_eq!(sender.settled().into_keys().collect::<Vec<_>>(), [2]);
}

#[test]
fn failed_attempts_are_counted_and_the_delivery_stays_with_the_sink() {
    let (sender, mut receiver) = filled(1..=1);
    receiver.try_next().unwrap();
    assert_eq!((receiver.failed(1, "500"), receiver.failed(1, "502")), (1, 2));
    assert_eq!(receiver.held(), 1);
    receiver.dead(1, "400");
    receiver.delivered(1);
    assert_eq!(sender.settled(), BTreeMap::from([(1, DeliveryOutcome::Dead { why: "400".into() })]));
}

#[test]
fn a_closed_inbox_ends_even_with_deliveries_left_and_a_sleeper_wakes() {
    let (sender, mut receiver) = filled(1..=2);
    assert!(block(receiver.next()).is_some());
    sender.advance(Phase::Draining);
    assert!(block(receiver.next()).is_some());
    let closer = std::thread::spawn(move || sender.advance(Phase::Closed));
    assert!(block(receiver.next()).is_none());
    closer.join().unwrap();
}

#[test]
fn no_more_than_a_window_is_taken() {
    let (sender, _inbox) = filled(1..=WINDOW as u64);
    assert!(sender.offer(delivery(0, event("gate", "car", EventKind::End))).is_err());
}

#[test]
fn the_state_of_a_label_is_its_latest_event() {
    let states = States::default();
    for (seq, label, kind) in [(1, "car", EventKind::Start), (2, "bus", EventKind::Start), (3, "car", EventKind::End)] {
        states.note(&delivery(seq, event("gate", label, kind)).stored);
    }
    let all: Vec<_> = states.all().into_iter().map(|s| (s.label, s.open, s.last.seq)).collect();
    assert_eq!(all, [("bus".to_owned(), true, 2), ("car".to_owned(), false, 3)]);
}
