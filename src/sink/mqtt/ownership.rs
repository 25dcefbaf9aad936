//! Whose a prefix is, asked on a connection that has no last will; a prefix without an owner becomes this daemon's.
//!
//! The broker sends what lies retained to who subscribes. If nothing comes for [`SURVEY`] after it has answered, however late that is, nothing
//! lies there: the daemon publishes its own name and reads it back, and whose name comes last has it. So of two that start at the same time
//! one yields. A broker that refuses the subscription cannot be asked, and nobody's name is written over.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::mqtt_client::{Link, Message, Received};
use super::owner::{Owner, Said, Survey};
use super::publisher::Publisher;
use super::topics::Topics;
use crate::sink::SinkError;

/// How long we listen to what lies retained, once the broker has answered: some send it late.
pub const SURVEY: Duration = Duration::from_secs(2);

/// So long after our own name another's may come that was published at the same time …
const RACE: Duration = Duration::from_secs(1);

/// … and so long names are listened to in all, should they not stop coming.
const NAMES: Duration = Duration::from_secs(7);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    Ours,
    /// Who has it.
    Theirs(String),
    /// The broker shows us nothing: it is taken for ours, as it always was.
    Unknown,
}

/// Asks, and takes the prefix if nobody has it. `fresh`: this daemon has published nothing retained there that it knows of. Afterwards the
/// link is subscribed to `<p>/owner`.
///
/// # Errors
/// When the connection is lost, or nothing is acknowledged for `timeout`.
pub async fn whose(
    link: &mut Link,
    topics: &Topics,
    owner: &Owner,
    fresh: bool,
    timeout: Duration,
) -> Result<Ownership, SinkError> {
    let mut survey = Survey::default();
    let mut named = None;
    let mut note = |heard: Received| {
        if let Received::Message { topic, payload, digest, retained } = heard {
            if topic == topics.owner() {
                named = digest.map(|_| (owner.said(&payload, digest), payload));
            } else if retained {
                survey.note(topics, &topic, &payload);
            }
        }
        named.is_some()
    };
    let (refused, mut enough) = subscribe(link, &[topics.owner()], true, timeout, &mut note).await?;
    if !refused.is_empty() {
        return Ok(Ownership::Unknown);
    }
    let mut around = Vec::new();
    if fresh && !enough {
        around = topics.retained().to_vec();
        around.push(topics.available());
        // Where it may not look, nobody is seen.
        enough = subscribe(link, &around, false, timeout, &mut note).await?.1;
    }
    if !enough {
        listen(link, &mut note).await?;
    }
    if !around.is_empty() {
        link.unsubscribe(&around).map_err(SinkError::retry)?;
    }
    match named {
        Some((Said::Other(who), _)) => Ok(Ownership::Theirs(who)),
        // Under the name that it has today.
        Some((Said::Us, document)) if document == owner.document() => Ok(Ownership::Ours),
        None if survey.another_program() => {
            Ok(Ownership::Theirs(format!("another program, which says by {} that it is there", topics.available())))
        }
        _ => take(link, topics, owner, timeout).await,
    }
}

/// Subscribes, and gives what comes before the broker has answered to `note`. Filters that it refuses, and whether `note` has heard enough.
///
/// # Errors
/// When the connection is lost, or there is no answer for `timeout`.
pub async fn subscribe(
    link: &mut Link,
    filters: &[String],
    surely: bool,
    timeout: Duration,
    mut note: impl FnMut(Received) -> bool,
) -> Result<(Vec<String>, bool), SinkError> {
    let asked = link.subscribe(filters, surely, timeout).map_err(SinkError::retry)?;
    let mut enough = false;
    let refused = link.answered(asked, |heard| enough |= note(heard)).await.map_err(SinkError::retry)?;
    Ok((refused, enough))
}

/// Gives what comes within [`SURVEY`] to `note`, until that has heard enough.
///
/// # Errors
/// When the connection is lost.
pub async fn listen(link: &mut Link, mut note: impl FnMut(Received) -> bool) -> Result<(), SinkError> {
    let until = Instant::now() + SURVEY;
    while let Ok(heard) = timeout_at(until, link.heard()).await {
        if let Received::Lost(why) = heard {
            return Err(SinkError::retry(why));
        }
        if note(heard) {
            break;
        }
    }
    Ok(())
}

/// Publishes this daemon's name and waits for what the broker makes of it. The link is subscribed to `<p>/owner`.
///
/// # Errors
/// When the connection is lost, or nothing is acknowledged for `timeout`.
pub async fn take(link: &mut Link, topics: &Topics, owner: &Owner, timeout: Duration) -> Result<Ownership, SinkError> {
    let mut publisher = Publisher::new(timeout);
    publisher.push(Message::retained(topics.owner(), owner.document()), None);
    let mut last = None;
    // Since when it is acknowledged, and until when names are listened to.
    let mut told: Option<(Instant, Instant)> = None;
    loop {
        publisher.pump(link)?;
        let enough = told.map(|(since, until)| until.min(since + NAMES));
        let heard = tokio::select! {
            acked = publisher.acknowledged(), if !publisher.is_idle() => {
                acked?;
                let now = Instant::now();
                told = Some((now, now + if last.is_none() { SURVEY } else { RACE }));
                continue;
            }
            () = tokio::time::sleep_until(enough.unwrap_or_else(Instant::now)), if enough.is_some() => break,
            heard = link.heard() => heard,
        };
        match heard {
            Received::Lost(why) => return Err(SinkError::retry(why)),
            Received::Message { topic, payload, digest: Some(lies), .. } if topic == topics.owner() => {
                last = Some(owner.said(&payload, Some(lies)));
                told = told.map(|(since, _)| (since, Instant::now() + RACE));
            }
            Received::Message { .. } => {}
        }
    }
    Ok(match last {
        Some(Said::Other(who)) => Ownership::Theirs(who),
        Some(_) => Ownership::Ours,
        None => Ownership::Unknown,
    })
}
