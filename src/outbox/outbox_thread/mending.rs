//! A damaged file: replaced at once, or once there is room; what there was no room to carry over follows later.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{RETRY, Worker};

/// Between two looks whether there is room by now.
const ROOM: Duration = Duration::from_secs(5);

impl Worker {
    /// After an error of a damaged file, or while there is none that anything could be written to.
    pub(super) fn replace_file(&mut self, error: &rusqlite::Error) {
        let now = Instant::now();
        if self.mend_at.is_some_and(|at| now < at) {
            return;
        }
        match self.store.recover(&self.routes, error) {
            Ok(()) => {
                self.mend_at = None;
                self.retry_at = None;
                self.look_again();
                if !self.shared.storing.swap(true, Ordering::Relaxed) {
                    tracing::info!("events are stored again");
                }
                self.told_of_salvage = false;
                self.tell_salvage();
                self.publish(None);
            }
            Err(error) => {
                (self.mend_at, self.retry_at) = (Some(now + RETRY), Some(now + RETRY));
                if self.shared.storing.swap(false, Ordering::Relaxed) {
                    tracing::error!(
                        %error,
                        "the outbox is damaged and cannot be replaced yet, trying again every second; tagging goes on, events wait in memory while \
                         there is room"
                    );
                }
                self.publish(Some(error.to_string()));
            }
        }
    }

    /// Carries over what there was no room for before.
    pub(super) fn salvage(&mut self) {
        let now = Instant::now();
        if !self.store.is_salvaging() || self.mend_at.is_some_and(|at| now < at) {
            return;
        }
        self.mend_at = Some(now + ROOM);
        match self.store.salvage() {
            Ok(true) => {
                self.mend_at = None;
                self.look_again();
                match self.store.states() {
                    Ok(states) => self.end_open_tags(&states),
                    Err(error) => self.trouble(&error),
                }
            }
            Ok(false) => self.tell_salvage(),
            Err(error) => self.trouble(&error),
        }
    }

    /// Says once that there is something left.
    pub(super) fn tell_salvage(&mut self) {
        if self.store.is_salvaging() && !std::mem::replace(&mut self.told_of_salvage, true) {
            tracing::error!(
                "there is no room to carry over what can be read out of the damaged outbox, which stays where it was moved to; it is carried over \
                 once there is, and new events are stored meanwhile"
            );
        }
    }

    /// There may be pending positions anywhere.
    pub(super) fn look_again(&mut self) {
        for line in &mut self.lines {
            (line.loaded, line.behind) = (0, true);
        }
        self.foreign = self.store.foreign_version().ok();
        if let Ok(counts) = self.store.count_pending() {
            self.lines.iter_mut().zip(counts).for_each(|(line, count)| line.pending = count);
        }
    }
}
