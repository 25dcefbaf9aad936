//! The latest events, for the API: those of this run, and before them what the file still has of earlier ones.
//!
//! Written by the threads that send events, read by the API's. When full, the oldest is forgotten.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

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
}
