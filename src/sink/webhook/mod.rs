//! Webhooks: each event, or each batch of them, as a POST to one address, signed as Standard Webhooks 1.0 has it.
//!
//! In: deliveries. Out: CloudEvents in structured JSON, or what a template makes of them ([`body_template`]); a 2xx settles a delivery. Runs on the sink's thread, which only decides; the
//! requests block on threads of its runtime's pool, at most `concurrency` of them. Events of one (stream, label) go one after the other.
//! Redirects are not followed; of an answer no more than [`BODY`] bytes are read. [`pace`] has the rules of trying again.
//!
//! Full: with [`WINDOW`] deliveries unsettled nothing more is taken from the receiver; before half of them wait behind events that fail by their
//! own fault, those become dead letters sooner. 410 disables the sink.
//! Closed: requests that are under way have [`DRAIN_TIMEOUT`] to be answered.

mod answer;
pub mod body_template;
mod config;
mod event_batch;
mod pace;
mod request;
mod signature;

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::in_flight::DRAIN_TIMEOUT;
use super::keyed_queue::KeyedQueue;
use super::{Running, Sink, SinkError};
use crate::outbox::delivery::{DeliveryReceiver, WINDOW};
use crate::platform::secret::Secret;
use crate::platform::tls::Trust;
use answer::Answer;
pub use body_template::TemplateSettings;
use pace::{Pace, Step};
use request::Client;

/// Reads `data` as the status of an answer and its `Retry-After`. What the fuzzers run: any bytes in, nothing out, no panic.
pub fn fuzz(data: &[u8]) {
    if let Some((status, rest)) = data.split_first_chunk() {
        let retry_after = std::str::from_utf8(rest).ok();
        let _ = Answer::of(u16::from_be_bytes(*status), retry_after, jiff::Timestamp::UNIX_EPOCH);
    }
}

/// So many deliveries behind events that fail by their own fault would soon leave no room for any other: such events get no more of the
/// long waits then.
const CROWD: usize = WINDOW / 2;

/// Attempts of an event that everything waits for …
const ATTEMPTS: u32 = 3;

/// … and the time between them.
const AGAIN: Duration = Duration::from_secs(5);

/// `type: webhook` of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookSettings {
    /// `http://` or `https://`, without credentials: where there is a `secret_url`, or its path is one, its beginning.
    pub url: url::Url,
    /// The whole address, where that is a credential.
    pub secret_url: Option<Secret>,
    /// `whsec_` and base64; the current one first, then the one that it replaces. Without one nothing is signed.
    pub secrets: Vec<Secret>,
    /// More headers, whose values are credentials.
    pub headers: Vec<(String, Secret)>,
    pub trust: Trust,
    /// For the whole of a request.
    pub timeout: Duration,
    /// Requests under way at a time.
    pub concurrency: usize,
    pub batch: Option<BatchSettings>,
    /// `None`: the CloudEvent itself.
    pub template: Option<TemplateSettings>,
}

/// Events in one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSettings {
    pub max_size: usize,
    /// From the first event on.
    pub max_delay: Duration,
}

/// See the module.
pub struct Webhook {
    settings: WebhookSettings,
}

impl Webhook {
    pub fn new(settings: WebhookSettings) -> Self {
        Self { settings }
    }

    async fn once(&self, receiver: &mut DeliveryReceiver) -> Result<(), SinkError> {
        let client = Client::new(&self.settings).map_err(SinkError::retry)?;
        match self.settings.batch {
            Some(batch) => event_batch::run(client, batch, receiver).await,
            None => self.singly(client, receiver).await,
        }
    }

    async fn singly(&self, client: Client, receiver: &mut DeliveryReceiver) -> Result<(), SinkError> {
        let mut queue = KeyedQueue::default();
        let mut pace = Pace::new(uuid::Uuid::new_v4().as_u64_pair().0);
        let mut requests: JoinSet<(u64, Answer)> = JoinSet::new();
        loop {
            let now = Instant::now().into_std();
            if !pace.is_away() && queue.held_up(None) >= CROWD {
                queue.no_later_than(now + AGAIN);
            }
            let room = pace.room(self.settings.concurrency, now);
            while requests.len() < room
                && let Some(delivery) = queue.next(now)
            {
                let (client, position) = (client.clone(), delivery.position);
                let post = match client.single(&delivery) {
                    Ok(post) => post,
                    Err(why) => {
                        // `check` has tried it: what fails now is this event alone.
                        receiver.dead(position, &format!("the template {why}"));
                        queue.done(position);
                        continue;
                    }
                };
                pace.sent(position);
                requests.spawn_blocking(move || (position, client.send(&post)));
            }
            // What is due while there is no room waits for an answer, or for the end of a pause.
            let due = if requests.len() < room { queue.next_due() } else { None };
            let wake = [due, pace.until(now)].into_iter().flatten().min();
            tokio::select! {
                delivery = receiver.next() => match delivery {
                    Some(delivery) => queue.push(delivery),
                    None => break,
                },
                Some(answered) = requests.join_next() => {
                    let (position, answer) = answered.map_err(|_| SinkError::retry("a request panicked; please report this"))?;
                    settle(position, &answer, &mut pace, &mut queue, receiver)?;
                }
                () = until(wake) => {}
            }
        }
        let rest = async {
            while let Some(answered) = requests.join_next().await {
                if let Ok((position, Answer::Taken)) = answered {
                    receiver.delivered(position);
                }
            }
        };
        let _ = timeout(DRAIN_TIMEOUT, rest).await;
        Ok(())
    }
}

impl Sink for Webhook {
    fn run<'a>(&'a mut self, receiver: &'a mut DeliveryReceiver) -> Running<'a> {
        Box::pin(self.once(receiver))
    }
}

fn settle(
    position: u64,
    answer: &Answer,
    pace: &mut Pace,
    queue: &mut KeyedQueue,
    receiver: &mut DeliveryReceiver,
) -> Result<(), SinkError> {
    let now = Instant::now().into_std();
    let was_away = pace.is_away();
    if let Answer::Away { why, .. } = answer {
        receiver.down(why);
    }
    match pace.answered(position, answer, now) {
        Step::Delivered => {
            receiver.delivered(position);
            receiver.up();
            queue.done(position);
            if was_away {
                queue.hurry();
            }
        }
        Step::Later(due) => queue.later(position, due),
        Step::Failed => {
            let why = why(answer);
            let attempts = receiver.failed(position, why);
            let crowded = !pace.is_away() && queue.held_up(Some(position)) >= CROWD;
            let enough = matches!(answer, Answer::Refused { .. }) || attempts >= ATTEMPTS;
            match pace.retry(attempts, now).filter(|_| !(crowded && enough)) {
                Some(due) => queue.again(position, attempts, due),
                None => {
                    receiver.dead(position, why);
                    pace.forget(position);
                    queue.done(position);
                }
            }
        }
        Step::Disabled => return Err(gone()),
    }
    Ok(())
}

fn why(answer: &Answer) -> &str {
    match answer {
        Answer::Refused { why } | Answer::Away { why, .. } => why,
        Answer::Taken | Answer::Gone => "",
    }
}

fn gone() -> SinkError {
    SinkError::EndpointGone { why: "answers 410: it wants no events any more".to_owned() }
}

/// `None`: for ever.
async fn until(wake: Option<std::time::Instant>) {
    match wake {
        Some(wake) => sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
