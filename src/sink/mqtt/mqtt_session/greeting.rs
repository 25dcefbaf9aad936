//! The beginning of a connection on the daemon's own prefix: what lies there is asked for, and `online` said. Every step has a deadline, and what
//! the broker sends meanwhile is heard.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::{REGIONS, Session, answered};
use crate::sink::SinkError;
use crate::sink::mqtt::asked::Asked;
use crate::sink::mqtt::home_assistant;
use crate::sink::mqtt::mqtt_client::Message;
use crate::sink::mqtt::ownership::SURVEY;
use crate::sink::mqtt::publisher::Acknowledged;

impl Session<'_> {
    /// What lies retained is asked for, and `online` said. When that is acknowledged, the broker has seen the wish.
    pub(super) async fn greet(&mut self) -> Result<(), SinkError> {
        let mut filters = vec![self.topics.owner(), self.topics.available(), self.topics.command("+")];
        filters.extend(self.discovery.as_deref().map(home_assistant::birth));
        let asked = self.link.subscribe(&filters, true, self.timeout).map_err(SinkError::retry)?;
        let survey = self.link.subscribe(&self.survey(), false, self.timeout).map_err(SinkError::retry)?;
        let mut asked = Some(asked.and(survey));
        self.surveying = Some(Instant::now() + SURVEY);
        self.publisher.push(Message::retained(self.topics.available(), "online"), None);
        // Whatever else is heard and has to be answered meanwhile, `online` is the first that is acknowledged.
        let mut said = false;
        while !(self.owner_changed || said && asked.is_none()) {
            self.publisher.pump(&self.link)?;
            tokio::select! {
                acked = self.publisher.acknowledged() => match acked {
                    Ok(Acknowledged { kept, .. }) => {
                        said = true;
                        kept.iter().for_each(|(topic, payload)| self.published.confirm(topic, *payload));
                    }
                    Err(fault) => return Err(self.lost(fault).await),
                },
                // What is refused is not shown to us.
                answered = answered(&mut asked) => match answered {
                    Ok(_) => asked = None,
                    Err(why) => return Err(self.lost(SinkError::retry(why)).await),
                },
                heard = self.link.heard() => {
                    asked.iter_mut().for_each(Asked::heard);
                    self.hear(heard)?;
                }
            }
        }
        // Only now: on a slow link the answer itself takes longer.
        self.surveying = Some(Instant::now() + SURVEY);
        Ok(())
    }

    pub(super) fn survey(&self) -> Vec<String> {
        let mut filters = self.topics.retained().to_vec();
        // Of regions what earlier lives have told.
        let regions: BTreeSet<&str> = self.published.topics().filter_map(|topic| self.topics.region(topic)).collect();
        filters.extend(regions.into_iter().take(REGIONS).flat_map(|region| self.topics.retained_of(region)));
        filters.extend(self.discovery.as_deref().map(home_assistant::filter));
        filters.extend(self.one_by_one.iter().flatten().cloned());
        filters
    }

    /// Brokers that show nothing to who asks with wildcards (RabbitMQ) are asked for each document by its name. Whether they are now, or will be
    /// once the streams are known.
    pub(super) fn asks_one_by_one(&mut self, now: Instant) -> bool {
        if self.one_by_one.is_some() {
            return false;
        }
        let Some(streams) = self.registry.streams() else { return self.states.misses_documents() };
        let topics = self.states.unseen_documents(&streams, self.published);
        if topics.is_empty() || self.link.subscribe(&topics, false, self.timeout).is_err() {
            return false;
        }
        self.surveying = Some(now + 2 * SURVEY);
        self.one_by_one = Some(topics);
        true
    }
}
