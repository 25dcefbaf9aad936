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
pub(super) struct RecentEvents(Mutex<VecDeque<Arc<Event>>>);

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
        events.push_back(event);
    }

    pub fn newest_first(&self) -> Vec<Arc<Event>> {
        self.0.lock().iter().rev().cloned().collect()
    }
}
