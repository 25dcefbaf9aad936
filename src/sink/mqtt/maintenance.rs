//! What `vtagd mqtt` does at a broker, beside a daemon that runs or not: takes a prefix over, and clears what older versions left.
//!
//! On the caller's thread, with a runtime and a client id of its own: a daemon that is connected stays so. A broker that sends more than
//! is looked at (`leftovers.rs`) is not waited for beyond [`LONGEST`].

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::client::{Heard, Link, Message};
use super::leftovers::{Found, Seen, Stream, is_picture};
use super::owner::{Owner, Said};
pub use super::ownership::Ownership;
use super::ownership::{self, SURVEY};
use super::publisher::Publisher;
use super::topics::Topics;
use super::{MqttSettings, home_assistant, made_up, session};
use crate::sink::Fault;

/// The broker is listened to for so long, however much it sends.
const LONGEST: Duration = Duration::from_secs(60);

/// Pictures that are asked for at a time.
const PICTURES: usize = 16;

/// Where Home Assistant looks if nobody says otherwise.
const DISCOVERY: &str = "homeassistant";

/// Makes `owner` the owner of the prefix. Who had it before; `None` as well where the broker does not say.
///
/// # Errors
/// When the broker cannot be reached, or another took the prefix at the same time.
pub fn claim(settings: &MqttSettings, owner: &Owner) -> Result<(Option<String>, Ownership), Fault> {
    block(async {
        let topics = Topics::new(&settings.topic_prefix);
        let mut link = settings.connect(&made_up(), None).await?;
        let before = whose(&mut link, &topics, owner).await?;
        let now = ownership::take(&mut link, &topics, owner, settings.timeout).await?;
        let _ = timeout(session::GOODBYE, link.disconnect()).await;
        let before = if let Said::Other(who) = before { Some(who) } else { None };
        Ok((before, now))
    })
}

/// What an older version left below the prefix that `streams` do not have, pictures among it; and, unless `only_look`, takes it away.
/// `Err` inside: the prefix is another's, and nothing was looked at.
///
/// # Errors
/// When the broker cannot be reached, or refuses.
pub fn clear(
    settings: &MqttSettings,
    owner: &Owner,
    streams: &[Stream],
    only_look: bool,
) -> Result<Result<Found, String>, Fault> {
    block(async {
        let topics = Topics::new(&settings.topic_prefix);
        let mut link = settings.connect(&made_up(), None).await?;
        if let Said::Other(who) = whose(&mut link, &topics, owner).await? {
            return Ok(Err(who));
        }
        let discovery = settings.home_assistant.as_deref().unwrap_or(DISCOVERY);
        let mut seen = Seen::new(topics.clone(), discovery);
        let mut filters = topics.retained().to_vec();
        filters.push(home_assistant::filter(discovery));
        listen(&mut link, &filters, |topic, payload| seen.note(topic, payload)).await?;
        let mut found = seen.judge(streams, settings.home_assistant.is_some());
        let labels = std::mem::take(&mut found.pictures);
        for some in labels.chunks(PICTURES) {
            listen(&mut link, some, |topic, payload| {
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
        let _ = timeout(session::GOODBYE, link.disconnect()).await;
        Ok(Ok(found))
    })
}

/// Whom the prefix belongs to. The link is subscribed to `<p>/owner` then.
async fn whose(link: &mut Link, topics: &Topics, owner: &Owner) -> Result<Said, Fault> {
    link.subscribe(&[topics.owner()], true).map_err(Fault::again)?;
    let until = Instant::now() + SURVEY;
    loop {
        match timeout_at(until, link.heard()).await {
            Ok(Heard::Lost(why)) => return Err(Fault::again(why)),
            Ok(Heard::Message { topic, payload, digest, .. }) if topic == topics.owner() && digest.is_some() => {
                return Ok(owner.said(&payload, digest));
            }
            Ok(Heard::Message { .. }) => {}
            Err(_) => return Ok(Said::Nobody),
        }
    }
}

/// Gives what lies under `filters` to `each`, until nothing has come for a while.
async fn listen(link: &mut Link, filters: &[String], mut each: impl FnMut(String, &[u8])) -> Result<(), Fault> {
    link.subscribe(filters, true).map_err(Fault::again)?;
    let longest = Instant::now() + LONGEST;
    let mut until = Instant::now() + SURVEY;
    while let Ok(heard) = timeout_at(until.min(longest), link.heard()).await {
        match heard {
            Heard::Lost(why) => return Err(Fault::again(why)),
            Heard::Message { topic, payload, retained: true, .. } => {
                until = Instant::now() + SURVEY;
                each(topic, &payload);
            }
            Heard::Message { .. } => {}
        }
    }
    link.unsubscribe(filters).map_err(Fault::again)
}

fn block<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Fault::again)?;
    let done = runtime.block_on(work);
    // A look-up of a name that hangs is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    done
}
