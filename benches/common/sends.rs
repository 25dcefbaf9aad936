//! Events into an outbox, as fast as it goes or so many a second, and what that costs the thread that makes them. For the benches of the
//! outbox and of what lies behind it; on their main thread.
#![allow(clippy::unwrap_used, reason = "a bench is a program for a terminal and fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vtagd::event::Event;
use vtagd::outbox::delivery::DeliveryReceiver;
use vtagd::outbox::route::{Filter, Route};
use vtagd::outbox::{Kernel, Outbox, OutboxSettings};

/// A new folder in `folder`, or in the system's temporary one.
pub fn folder(folder: Option<&Path>) -> TempDir {
    folder.map_or_else(|| tempfile::tempdir().unwrap(), |f| tempfile::tempdir_in(f).unwrap())
}

/// An outbox on `folder` with one sink.
pub fn outbox(folder: &Path, sink: &str) -> (Outbox, DeliveryReceiver, JoinHandle<()>) {
    let path = Some(folder.join("outbox.db"));
    let settings = OutboxSettings { path, max_size: 4 << 30, max_age: Duration::from_secs(86_400) };
    let route = Route { name: sink.into(), key: sink.into(), former_key: None, only: Filter::default(), rate: None };
    let (outbox, mut receivers, thread) = Outbox::start(settings, vec![route], Kernel).unwrap();
    (outbox, receivers.remove(0), thread)
}

/// How long each `send` took.
pub struct Sends {
    took: Vec<Duration>,
    /// How often the queue was full.
    pub waits: u64,
}

impl Sends {
    /// Sends `events` events, as fast as it goes (`None`), or `pace` a second.
    pub fn of(outbox: &Outbox, events: usize, pace: Option<f64>, event: impl Fn(usize) -> Event) -> Self {
        let mut took = Vec::with_capacity(events);
        let mut waits = 0_u64;
        let began = Instant::now();
        for number in 0..events {
            let made = Arc::new(event(number));
            if let Some(pace) = pace {
                let due = Duration::from_secs_f64(number as f64 / pace);
                std::thread::sleep(due.saturating_sub(began.elapsed()));
            }
            let asked = Instant::now();
            let mut there = outbox.send(&made);
            took.push(asked.elapsed());
            while !there {
                // The queue is full: a camera's event would be lost here, a bench waits.
                waits += 1;
                std::thread::sleep(Duration::from_micros(200));
                there = outbox.send(&made);
            }
        }
        Self { took, waits }
    }

    /// In order, for [`Self::at`]; after the clock has been read, since it takes a while.
    pub fn sorted(mut self) -> Self {
        self.took.sort_unstable();
        self
    }

    /// Microseconds within which `part` of them took no longer.
    pub fn at(&self, part: f64) -> f64 {
        self.took[((self.took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6
    }
}
