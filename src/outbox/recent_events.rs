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

#[derive(Default)]
pub(super) struct RecentEvents(Mutex<Ring>);

#[derive(Default)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    /// Events that have ever been remembered: the number of the next one.
    next: u64,
}

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
        let Ring { events, next } = &mut *self.0.lock();
        if events.len() == CAPACITY {
            events.pop_front();
        }
        events.push_back(event);
        *next += 1;
    }

    /// Those with a number from `from` on.
    pub fn since(&self, from: u64) -> RecentSince {
        let Ring { events, next } = &*self.0.lock();
        let first = next.saturating_sub(events.len() as u64);
        let passed_over = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        RecentSince { events: events.iter().skip(passed_over).cloned().collect(), next: *next }
    }

    pub fn newest_first(&self) -> Vec<Arc<Event>> {
        self.0.lock().events.iter().rev().cloned().collect()
    }
}
