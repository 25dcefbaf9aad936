//! What `vtagd mqtt` does at a broker, beside a daemon that runs or not: takes a prefix over, and clears what older versions left.
//!
//! On the caller's thread, with a runtime and a client id of its own: a daemon that is connected stays so. A broker that sends more than
//! is looked at (`leftovers.rs`) is not waited for beyond [`MAX_WAIT`].

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::leftovers::{Found, Seen, Stream, is_picture};
use super::mqtt_client::{Link, Message, Received};
use super::owner::{Owner, Said};
pub use super::ownership::Ownership;
use super::ownership::{self, SURVEY};
use super::publisher::Publisher;
use super::topics::Topics;
use super::{MqttSettings, home_assistant, made_up, mqtt_session};
use crate::outbox::delivery::published_record::Levels;
use crate::sink::SinkError;

/// The broker is listened to for so long, however much it sends.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Pictures that are asked for at a time.
const PICTURES: usize = 16;

/// Where Home Assistant looks if nobody says otherwise.
const DISCOVERY: &str = "homeassistant";

/// Makes `owner` the owner of the prefix. Who had it before; `None` as well where the broker does not say.
///
/// # Errors
/// When the broker cannot be reached, or another took the prefix at the same time.
pub fn claim(settings: &MqttSettings, owner: &Owner) -> Result<(Option<String>, Ownership), SinkError> {
    block(async {
        let topics = Topics::new(&settings.topic_prefix);
        let mut link = settings.connect(&made_up(), None).await?;
        let before = whose(&mut link, &topics, owner, settings.timeout).await?;
        let now = ownership::take(&mut link, &topics, owner, settings.timeout).await?;
        let _ = timeout(mqtt_session::DRAIN_TIMEOUT, link.disconnect()).await;
        let before = if let Some(Said::Other(who)) = before { Some(who) } else { None };
        Ok((before, now))
    })
}

/// What an older version left below the prefix that `streams` do not have, pictures among it; and, unless `only_look`, takes it away. `levels`:
/// what the outbox has recorded of their labels.
/// `Err` inside: the prefix is another's, and nothing was looked at.
///
/// # Errors
/// When the broker cannot be reached, or refuses, so also when it does not say whose the prefix is.
pub fn clear(
    settings: &MqttSettings,
    owner: &Owner,
    streams: &[Stream],
    levels: &Levels,
    only_look: bool,
) -> Result<Result<Found, String>, SinkError> {
    block(async {
        let topics = Topics::new(&settings.topic_prefix);
        let mut link = settings.connect(&made_up(), None).await?;
        match whose(&mut link, &topics, owner, settings.timeout).await? {
            None => return Err(SinkError::retry(format!("the broker does not let this user read {}", topics.owner()))),
            Some(Said::Other(who)) => return Ok(Err(who)),
            Some(Said::Us | Said::Nobody) => {}
        }
        let discovery = settings.home_assistant.as_deref().unwrap_or(DISCOVERY);
        let mut seen = Seen::new(topics.clone(), discovery);
        let mut filters = topics.retained().to_vec();
        filters.push(home_assistant::filter(discovery));
        listen(&mut link, &filters, settings.timeout, |topic, payload| seen.note(topic, payload)).await?;
        let mut found = seen.decide(streams, settings.home_assistant.is_some(), levels);
        let labels = std::mem::take(&mut found.pictures);
        for some in labels.chunks(PICTURES) {
            listen(&mut link, some, settings.timeout, |topic, payload| {
                if is_picture(payload) {
                    found.pictures.push(topic);
                } else {
                    found.unsure.push(topic);
                }
            })
            .await?;
        }
        found.ours.extend(found.pictures.drain(..).map(|topic| (topic, "a picture")));
        if !only_look {
            let mut publisher = Publisher::new(settings.timeout);
            publisher.extend(found.ours.iter().map(|(topic, _)| Message::retained(topic, "")));
            while !publisher.is_idle() {
                publisher.pump(&link)?;
                publisher.acknowledged().await?;
            }
        }
        let _ = timeout(mqtt_session::DRAIN_TIMEOUT, link.disconnect()).await;
        Ok(Ok(found))
    })
}

/// Whom the prefix belongs to; `None`: the broker does not let us read that. The link is subscribed to `<p>/owner` then.
async fn whose(link: &mut Link, topics: &Topics, owner: &Owner, patience: Duration) -> Result<Option<Said>, SinkError> {
    let mut said = None;
    let mut note = |heard: Received| {
        if let Received::Message { topic, payload, digest, .. } = heard
            && topic == topics.owner()
        {
            said = Some(owner.said(&payload, digest)).filter(|_| digest.is_some());
        }
        said.is_some()
    };
    let (refused, enough) = ownership::subscribe(link, &[topics.owner()], true, patience, &mut note).await?;
    if !refused.is_empty() {
        return Ok(None);
    }
    if !enough {
        ownership::listen(link, &mut note).await?;
    }
    Ok(Some(said.unwrap_or(Said::Nobody)))
}

/// Gives what lies under `filters` to `each`, until nothing has come for a while after the broker's answer. What it does not let us read is
/// passed over.
async fn listen(
    link: &mut Link,
    filters: &[String],
    patience: Duration,
    mut each: impl FnMut(String, &[u8]),
) -> Result<(), SinkError> {
    let mut note = |heard: Received| match heard {
        Received::Message { topic, payload, retained: true, .. } => {
            each(topic, &payload);
            true
        }
        _ => false,
    };
    ownership::subscribe(link, filters, true, patience, &mut note).await?;
    let longest = Instant::now() + MAX_WAIT;
    let mut until = Instant::now() + SURVEY;
    while let Ok(heard) = timeout_at(until.min(longest), link.heard()).await {
        if let Received::Lost(why) = heard {
            return Err(SinkError::retry(why));
        }
        if note(heard) {
            until = Instant::now() + SURVEY;
        }
    }
    link.unsubscribe(filters).map_err(SinkError::retry)
}

fn block<T>(work: impl Future<Output = Result<T, SinkError>>) -> Result<T, SinkError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(SinkError::retry)?;
    let done = runtime.block_on(work);
    // A look-up of a name that hangs is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    done
}
