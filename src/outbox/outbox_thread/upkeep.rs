//! What the outbox's thread does now and then: limits, numbers for metrics and the API, changes made by other processes.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::event_store::{EventStore, Removed};
use super::super::route::Route;
use super::super::{Loss, SinkReport};
use super::{Line, Worker};

/// Chunks thrown away at a time, so that the thread gets to its other work.
const CHUNKS: usize = 40;

/// How often old states are looked for: that reads all of them.
const SWEEP: Duration = Duration::from_mins(1);

impl Worker {
    /// Limits, numbers, other writers.
    pub(super) fn run_upkeep(&mut self) {
        let foreign = self.store.foreign_version().ok();
        if foreign != self.foreign {
            // Somebody has replayed.
            self.look_again();
            self.fill();
        }
        self.salvage();
        let max_age = u64::try_from(self.settings.max_age.as_millis()).unwrap_or(u64::MAX);
        self.throw_away(Loss::MaxAge, |store| store.expire(max_age));
        let max_size = self.settings.max_size;
        self.throw_away(
            Loss::MaxSize,
            |store| {
                if store.size()?.0 > max_size { store.evict() } else { Ok(Removed::default()) }
            },
        );
        if let Err(error) = self.tidy(max_age) {
            self.trouble(&error);
        }
        self.publish(None);
    }

    fn tidy(&mut self, max_age: u64) -> Result<(), rusqlite::Error> {
        if self.swept.is_none_or(|swept| swept.elapsed() >= SWEEP) {
            self.store.forget_states(max_age)?;
            self.swept = Some(Instant::now());
        }
        let (used, free) = self.store.size()?;
        if free > used / 4 && free > 1 << 20 {
            self.store.shrink()?;
        }
        for (index, route) in self.routes.iter().enumerate() {
            let oldest = self.store.oldest_pending(index)?;
            let line = &mut self.lines[index];
            line.oldest = oldest;
            let sink = || route.name.clone();
            metrics::gauge!("vtagd_sink_pending_events", "sink" => sink()).set(line.pending.events as f64);
            metrics::gauge!("vtagd_sink_spool_bytes", "sink" => sink()).set(line.pending.bytes as f64);
            metrics::gauge!("vtagd_sink_dead_events", "sink" => sink()).set(line.pending.dead as f64);
            metrics::gauge!("vtagd_sink_oldest_pending_seconds", "sink" => sink())
                .set(oldest.unwrap_or_default() as f64 / 1000.0);
        }
        metrics::gauge!("vtagd_outbox_bytes").set(used as f64);
        self.shared.report.lock().bytes = used;
        Ok(())
    }

    /// Throws away a few chunks; what a sink still waited for is counted and told.
    fn throw_away(&mut self, loss: Loss, mut chunk: impl FnMut(&mut EventStore) -> Result<Removed, rusqlite::Error>) {
        let mut lost = vec![0; self.lines.len()];
        for _ in 0..CHUNKS {
            let removed = match chunk(&mut self.store) {
                Ok(removed) if removed.events == 0 => break,
                Ok(removed) => removed,
                Err(error) => {
                    self.trouble(&error);
                    break;
                }
            };
            for (sink, gone) in removed.waited_for {
                if gone.events > 0 {
                    self.shared.lose(sink, loss, gone.events);
                }
                let Some(sink) = sink else { continue };
                let pending = &mut self.lines[sink].pending;
                pending.events = pending.events.saturating_sub(gone.events);
                pending.bytes = pending.bytes.saturating_sub(gone.bytes);
                pending.dead = pending.dead.saturating_sub(gone.dead);
                lost[sink] += gone.events;
            }
        }
        for (route, events) in self.routes.iter().zip(lost).filter(|(_, events)| *events > 0) {
            let reason = loss.as_str();
            tracing::error!(
                sink = route.name,
                events,
                reason,
                "the oldest events are lost before the sink has had them"
            );
        }
    }

    /// For the API and the metrics.
    pub(super) fn publish(&self, error: Option<String>) {
        let mut report = self.shared.report.lock();
        report.path = self.store.path().map(std::path::Path::to_path_buf);
        report.storing = self.shared.storing.load(Ordering::Relaxed);
        if report.storing || error.is_some() {
            report.error = error;
        }
        metrics::gauge!("vtagd_outbox_storing").set(f64::from(u8::from(report.storing)));
        let sink = |(line, route): (&Line, &Route)| SinkReport {
            name: route.name.clone(),
            health: line.sender.health(),
            notice: line.sender.notice(),
            pending: line.pending.events,
            pending_bytes: line.pending.bytes,
            oldest_pending_seconds: line.oldest.map(|age| age as f64 / 1000.0),
            dead: line.pending.dead,
        };
        report.sinks = self.lines.iter().zip(&self.routes).map(sink).collect();
    }
}
