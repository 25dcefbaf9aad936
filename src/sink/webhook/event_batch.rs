//! Events in batches, one request at a time: everything arrives in the order of the outbox.
//!
//! A batch is closed when it is full, or `max_delay` after its first event. Its `webhook-id` is made of the ids in it, so the same batch
//! has the same id on every attempt and another batch never has. A batch that is refused is sent event by event; an event that is
//! refused alone is tried [`ATTEMPTS`] times and is dead then, because everything waits for it.

use std::collections::VecDeque;

use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep, timeout_at};

use super::answer::Answer;
use super::pace::{Pace, Step};
use super::request::{Client, Post};
use super::{AGAIN, ATTEMPTS, BatchSettings, gone, until, why};
use crate::outbox::delivery::{Delivery, DeliveryReceiver};
use crate::platform::hex::hex;
use crate::sink::SinkError;
use crate::sink::in_flight::DRAIN_TIMEOUT;

/// Takes batches from the receiver until it ends.
pub async fn run(client: Client, settings: BatchSettings, receiver: &mut DeliveryReceiver) -> Result<(), SinkError> {
    let mut pace = Pace::new(uuid::Uuid::new_v4().as_u64_pair().0);
    while let Some(first) = receiver.next().await {
        let mut batch = vec![first];
        let due = Instant::now() + settings.max_delay;
        while batch.len() < settings.max_size {
            match timeout_at(due, receiver.next()).await {
                Ok(Some(delivery)) => batch.push(delivery),
                Ok(None) | Err(_) => break,
            }
        }
        // Whole at first; event by event once it was refused.
        let mut parts = VecDeque::from([batch]);
        while let Some(part) = parts.pop_front() {
            if receiver.is_closed() && !parts.is_empty() {
                return Ok(());
            }
            if !deliver(&client, &mut pace, &part, receiver).await? {
                for alone in part.into_iter().rev() {
                    parts.push_front(vec![alone]);
                }
            }
        }
    }
    Ok(())
}

/// Sends `batch` until it is settled. `false` if it was refused and has to be taken apart.
async fn deliver(
    client: &Client,
    pace: &mut Pace,
    batch: &[Delivery],
    receiver: &mut DeliveryReceiver,
) -> Result<bool, SinkError> {
    let post = joined(batch);
    let Some(position) = batch.first().map(|delivery| delivery.position) else { return Ok(true) };
    loop {
        let request = {
            let (client, post) = (client.clone(), post.clone());
            tokio::task::spawn_blocking(move || client.send(&post))
        };
        let closed = receiver.closed();
        let late = async {
            closed.await;
            sleep(DRAIN_TIMEOUT).await;
        };
        let answer = tokio::select! {
            answer = request => answer.map_err(|_| SinkError::retry("a request panicked; please report this"))?,
            () = late => return Ok(true),
        };
        if let Answer::Away { why, .. } = &answer {
            receiver.down(why);
        }
        let now = Instant::now().into_std();
        let wake = match pace.answered(position, &answer, now) {
            Step::Delivered => {
                batch.iter().for_each(|delivery| receiver.delivered(delivery.position));
                receiver.up();
                return Ok(true);
            }
            Step::Disabled => return Err(gone()),
            // There is one at a time, so nothing gets through while this one fails: only a refusal is its own fault.
            Step::Later(_) | Step::Failed if matches!(answer, Answer::Away { .. }) => pace.until(now),
            _ if batch.len() > 1 => return Ok(false),
            _ => {
                let why = why(&answer);
                if receiver.failed(position, why) >= ATTEMPTS {
                    receiver.dead(position, why);
                    pace.forget(position);
                    return Ok(true);
                }
                Some(now + AGAIN)
            }
        };
        tokio::select! {
            () = until(wake.or(Some(now))) => {}
            () = receiver.closed() => return Ok(true),
        }
    }
}

/// The batch as CloudEvents has it.
fn joined(batch: &[Delivery]) -> Post {
    let mut ids = Sha256::new();
    let mut body = Vec::with_capacity(2 + batch.iter().map(|d| d.stored.body.len() + 1).sum::<usize>());
    body.push(b'[');
    for (index, delivery) in batch.iter().enumerate() {
        ids.update(delivery.stored.id().as_bytes());
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(delivery.stored.body.as_bytes());
    }
    body.push(b']');
    let id = hex(&ids.finalize()[..16]);
    Post {
        id: format!("batch_{id}"),
        content_type: "application/cloudevents-batch+json; charset=utf-8",
        body: body.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;
    use crate::outbox::delivery::tests::{delivery, event};

    #[test]
    fn the_same_batch_has_the_same_id_and_another_has_not() {
        let of = |n| delivery(n, event("gate", "car", EventKind::Start));
        let (a, b) = (of(1), of(2));
        let both = joined(&[a.clone(), b.clone()]);
        assert_eq!(both, joined(&[a.clone(), b.clone()]));
        assert_ne!(both.id, joined(std::slice::from_ref(&a)).id);
        assert_ne!(both.id, joined(&[b, a]).id);
        assert!(!both.id.contains('.'), "a dot would end the id in what is signed");
        let parsed: serde_json::Value = serde_json::from_slice(&both.body).unwrap();
        assert_eq!(parsed.as_array().map(Vec::len), Some(2));
    }
}
