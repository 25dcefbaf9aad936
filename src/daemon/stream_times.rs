//! How far apart a stream's samples may be, and what it means that none comes.
//!
//! In: a stream's settings, the clock, when its last sample was. Out: the gap over which nothing goes on; for a stream that others send pictures to, the moments at which
//! it is known that nothing is there. On the main thread; nothing waits.

use std::time::{Duration, Instant};

use crate::config::StreamSettings;
use crate::event::{Emitter, Event};
use crate::frame::FrameTime;
use crate::sample::Interval;
use crate::source::Location;

/// Samples further apart than this, or than ten intervals, do not continue one another, unless all are as far apart: the camera was away.
const GAP: Duration = Duration::from_secs(30);

/// Samples of a stream that are no further apart continue one another.
pub fn gap(stream: &StreamSettings) -> Duration {
    match stream.interval {
        Interval::Every(interval) => GAP.max(interval * 10),
        // Ten times the longest would take a camera that was away for minutes for one that was there.
        Interval::Auto => GAP.max(Interval::Auto.longest() * 2),
    }
}

/// Of a stream that pictures are sent to: after the last one has stood for its time, there is nothing.
pub(super) struct Absence {
    interval: Duration,
    hold: Duration,
    /// The last moment that was told.
    told: Option<Instant>,
}

impl Absence {
    /// `None`: another kind of stream, of which silence says nothing.
    pub fn of(stream: &StreamSettings) -> Option<Self> {
        let interval = stream.interval.at_start();
        let hold = stream.source.push.as_ref().and_then(|push| push.hold).unwrap_or(interval);
        matches!(stream.source.location, Location::Push(_)).then_some(Self { interval, hold, told: None })
    }

    /// Tells `emitter` that nothing is there, if that is so `now` and it matters. No frame may be under way.
    pub fn poll(&mut self, now: Instant, emitter: &mut Emitter, emit: &mut dyn FnMut(Event) -> bool) {
        let Some(last) = emitter.last() else { return };
        let told = self.told.filter(|told| *told == last.captured);
        let due = match told {
            // Once is enough where no tag is open.
            Some(_) if !emitter.is_busy() => return,
            Some(told) => told + self.interval,
            // Who sends one an interval is a little late now and then.
            None if self.hold <= self.interval => last.captured + self.hold + self.interval / 2,
            // It was shown again each interval until its time was over.
            None => last.captured + self.interval * 3 / 2,
        };
        if now < due {
            return;
        }
        let passed = now.saturating_duration_since(last.captured);
        let time = FrameTime {
            media: last.media.saturating_add(passed),
            captured: now,
            wall: last.wall.saturating_add(passed).unwrap_or(last.wall),
            connection: last.connection,
        };
        emitter.absent(time, emit);
        self.told = Some(now);
    }
}
