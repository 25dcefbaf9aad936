//! Lost frames, logged once a minute: a line for each stream that dropped any, nothing for the others.
//!
//! In: the streams' [`FrameAccounting`]s and the time. Out: [`StreamDrops`]es, which [`StreamDrops::log`] writes to the log. Lives on the main
//! thread and waits for nothing. The metrics count every drop at once; a line for every one would fill the disk of a box that is too small for its
//! cameras, and no line would leave its owner in the dark. What a stream that is removed lost in its last minute is in its final accounting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::stream::StreamId;
use crate::stream::accounting::{DropReason, FrameAccounting, Totals};
use crate::stream::registry::RegisteredStream;

/// What one stream lost since the last report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamDrops {
    pub stream: StreamId,
    pub sampled: u64,
    pub inferred: u64,
    pub reused: u64,
    /// How many for which reason; never empty.
    pub dropped: BTreeMap<&'static str, u64>,
}

impl StreamDrops {
    /// What `now` has more than `before`; `None` if nothing of it is a loss.
    fn between(stream: &StreamId, before: &Totals, now: &Totals) -> Option<Self> {
        let Totals { sampled, inferred, reused, mut dropped } = now.since(before);
        // Nobody was going to look at these.
        dropped.remove(DropReason::NoModel.as_str());
        (!dropped.is_empty()).then(|| Self { stream: Arc::clone(stream), sampled, inferred, reused, dropped })
    }

    pub fn log(&self) {
        let Self { stream, sampled, inferred, reused, dropped } = self;
        tracing::warn!(%stream, ?dropped, sampled, inferred, reused, "frames were dropped in the last minute");
    }
}

/// See the module.
pub struct DropReport {
    due: Instant,
    /// The totals as they were last time. A stream that left and came back has another accounting, which starts at zero.
    before: Vec<(Arc<FrameAccounting>, Totals)>,
}

impl DropReport {
    const PERIOD: Duration = Duration::from_mins(1);

    /// Nothing is due for a minute.
    pub fn new(now: Instant) -> Self {
        Self { due: now + Self::PERIOD, before: Vec::new() }
    }

    /// What has been lost since the last time; nothing while a minute has not passed.
    pub fn poll(&mut self, now: Instant, streams: &[RegisteredStream]) -> Vec<StreamDrops> {
        if now < self.due {
            return Vec::new();
        }
        self.due = now + Self::PERIOD;
        let (mut drops, mut after) = (Vec::new(), Vec::new());
        for RegisteredStream { status, accounting, .. } in streams {
            let totals = accounting.totals();
            let known = self.before.iter().find(|(known, _)| Arc::ptr_eq(known, accounting));
            let before = known.map_or_else(Totals::default, |(_, totals)| totals.clone());
            drops.extend(StreamDrops::between(status.id(), &before, &totals));
            after.push((Arc::clone(accounting), totals));
        }
        // Those that have gone are forgotten.
        self.before = after;
        drops
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;
    use crate::stream::accounting::FrameOutcome;

    const MINUTE: Duration = Duration::from_mins(1);
    const SUPERSEDED: FrameOutcome = FrameOutcome::Dropped(DropReason::Superseded);

    fn stream(id: &str) -> RegisteredStream {
        RegisteredStream::new(&id.into(), Vec::new())
    }

    /// So many frames of the stream are sampled and end like this.
    fn end(stream: &RegisteredStream, frames: usize, outcome: FrameOutcome) {
        for _ in 0..frames {
            stream.accounting.sample(stream.status.id()).complete(outcome);
        }
    }

    #[test]
    fn only_streams_that_dropped_frames_are_told_and_only_what_is_new() {
        let start = Instant::now();
        let (busy, idle) = (stream("busy"), stream("idle"));
        let all = [busy.clone(), idle.clone()];
        let mut drop_report = DropReport::new(start);
        end(&idle, 5, FrameOutcome::Inferred);
        end(&busy, 3, FrameOutcome::Inferred);
        end(&busy, 1, FrameOutcome::Reused);
        end(&busy, 7, SUPERSEDED);
        end(&busy, 2, FrameOutcome::Dropped(DropReason::Decode));
        let loss = |sampled, inferred, reused, dropped: &[(&'static str, u64)]| StreamDrops {
            stream: "busy".into(),
            sampled,
            inferred,
            reused,
            dropped: dropped.iter().copied().collect(),
        };
        let first = drop_report.poll(start + MINUTE, &all);
        assert_eq!(first, [loss(13, 3, 1, &[("decode", 2), ("superseded", 7)])]);

        end(&busy, 4, FrameOutcome::Inferred);
        assert_eq!(drop_report.poll(start + MINUTE * 2, &all), []);
        end(&busy, 1, SUPERSEDED);
        assert_eq!(drop_report.poll(start + MINUTE * 3, &all), [loss(1, 0, 0, &[("superseded", 1)])]);
    }

    #[test]
    fn nothing_is_told_before_a_minute_has_passed_however_often_it_is_asked() {
        let start = Instant::now();
        let busy = stream("busy");
        let mut drop_report = DropReport::new(start);
        let mut told = Vec::new();
        for tenth in 1..=3000 {
            end(&busy, 1, SUPERSEDED);
            told.extend(drop_report.poll(start + Duration::from_millis(100) * tenth, std::slice::from_ref(&busy)));
        }
        let dropped: Vec<u64> = told.iter().map(|loss| loss.dropped["superseded"]).collect();
        assert_eq!(dropped, [600; 5]);
    }

    #[test]
    fn frames_that_nobody_was_going_to_look_at_are_no_loss() {
        let start = Instant::now();
        let decoded = stream("decoded");
        let mut drop_report = DropReport::new(start);
        end(&decoded, 60, FrameOutcome::Dropped(DropReason::NoModel));
        assert_eq!(drop_report.poll(start + MINUTE, std::slice::from_ref(&decoded)), []);
        end(&decoded, 60, FrameOutcome::Dropped(DropReason::NoModel));
        end(&decoded, 1, SUPERSEDED);
        let told = drop_report.poll(start + MINUTE * 2, std::slice::from_ref(&decoded));
        assert_eq!((told.len(), told[0].sampled), (1, 61));
        assert_eq!(told[0].dropped, [("superseded", 1)].into());
    }

    #[test]
    fn a_stream_that_came_back_under_its_name_starts_at_zero() {
        let start = Instant::now();
        let (old, new) = (stream("dock"), stream("dock"));
        let mut drop_report = DropReport::new(start);
        end(&old, 9, SUPERSEDED);
        assert_eq!(drop_report.poll(start + MINUTE, std::slice::from_ref(&old))[0].dropped["superseded"], 9);
        end(&new, 2, SUPERSEDED);
        assert_eq!(drop_report.poll(start + MINUTE * 2, std::slice::from_ref(&new))[0].dropped["superseded"], 2);
        assert_eq!(drop_report.before.len(), 1);
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_line_names_the_stream_and_every_number() {
        let lines = Lines::default();
        let written = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_target(false).with_writer(move || written.clone()).finish();
        let dropped = [("decode", 2), ("superseded", 7)].into();
        let loss = StreamDrops { stream: "dock-3".into(), sampled: 13, inferred: 3, reused: 1, dropped };
        tracing::subscriber::with_default(subscriber, || loss.log());
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let line = "WARN frames were dropped in the last minute stream=dock-3 dropped={\"decode\": 2, \"superseded\": 7} \
                    sampled=13 inferred=3 reused=1\n";
        assert!(text.ends_with(line), "{text}");
    }
}
