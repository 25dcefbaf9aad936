//! The latest events, for the live stream and for an outbox that has no file: those of this run, and before them what the file still has of
//! earlier ones.
//!
//! Written by the threads that send events, read by the API's. When full, the oldest is forgotten.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::event_pages::{EventPosition, PageSize};
use super::history_reader::{OutboxReader, Query};
use crate::event::Event;

/// Events that are remembered.
const CAPACITY: usize = 256;

/// With the number of each, which begins with 1.
#[derive(Default)]
pub(super) struct RecentEvents(Mutex<VecDeque<(u64, Arc<Event>)>>);

/// The latest events from some number on, oldest first.
pub struct RecentSince {
    pub events: Vec<Arc<Event>>,
    /// The number of the next event that comes.
    pub next: u64,
}
/// Some events, newest first, and where the next page begins.
pub type EventsPage = (Vec<Arc<Event>>, Option<EventPosition>);

impl RecentEvents {
    /// Begins with the latest events of the file at `path`; without one there are none.
    pub fn load(path: Option<&Path>) -> Self {
        let recent = Self::default();
        let Some(path) = path else { return recent };
        let latest = OutboxReader::open(path).and_then(|reader| reader.latest(&Query::default(), CAPACITY));
        match latest {
            Ok(rows) => {
                let events = rows.iter().filter_map(|row| serde_json::from_str(&row.body).ok());
                events.for_each(|event| recent.remember(Arc::new(event)));
            }
            Err(error) => tracing::warn!(%error, "the API begins without the events of earlier runs"),
        }
        recent
    }

    pub fn remember(&self, event: Arc<Event>) {
        let mut events = self.0.lock();
        if events.len() == CAPACITY {
            events.pop_front();
        }
        let number = events.back().map_or(1, |(number, _)| number + 1);
        events.push_back((number, event));
    }

    pub fn newest_first(&self) -> Vec<Arc<Event>> {
        self.0.lock().iter().rev().map(|(_, event)| Arc::clone(event)).collect()
    }

    /// Those with a number from `from` on.
    pub fn since(&self, from: u64) -> RecentSince {
        let events = self.0.lock();
        let next = events.back().map_or(1, |(number, _)| number + 1);
        let wanted = events.iter().filter(|(number, _)| *number >= from).map(|(_, event)| Arc::clone(event));
        RecentSince { events: wanted.collect(), next }
    }

    /// A page, as of a file; it is small anyway.
    pub fn page(&self, query: &Query, before: Option<EventPosition>, size: PageSize) -> EventsPage {
        let is = |list: &[String], name: &str| list.is_empty() || list.iter().any(|wanted| wanted == name);
        let position = |(number, event): &(u64, Arc<Event>)| {
            let data = &event.data;
            let position = EventPosition { time: data.sampled_at.as_millisecond(), seq: *number };
            let wanted = is(&query.streams, &data.stream)
                && is(&query.regions, data.region.as_deref().unwrap_or_default())
                && is(&query.sets, &data.set)
                && is(&query.labels, &data.label)
                && is(&query.types, event.kind.as_str())
                && query.since.is_none_or(|since| position.time >= since)
                && query.until.is_none_or(|until| position.time < until)
                && before.is_none_or(|before| position < before);
            wanted.then(|| (position, Arc::clone(event)))
        };
        let mut found: Vec<_> = self.0.lock().iter().filter_map(position).collect();
        found.sort_unstable_by_key(|(position, _)| std::cmp::Reverse(*position));
        let more = found.len() > size.events;
        found.truncate(size.events);
        let next = found.last().filter(|_| more).map(|(position, _)| *position);
        (found.into_iter().map(|(_, event)| event).collect(), next)
    }
}
