//! How far apart a stream's samples may be, and what it means that none comes.
//!
//! In: a stream's settings, the clock, when its last sample was, how long the last picture stands. Out: the gap over which nothing goes on; for a stream that others send
//! pictures to, the moments at which it is known that nothing is there. On the main thread; nothing waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::StreamSettings;
use crate::event::{Emitter, Event};
use crate::frame::FrameTime;
use crate::frame::pushed_pictures::PushedPictures;
use crate::sample::Interval;
use crate::source::Location;
use crate::stream::StreamId;

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
    stream: StreamId,
    /// Who takes its pictures knows what stands.
    pictures: Arc<PushedPictures>,
    /// How often it is told.
    interval: Duration,
    /// The last moment that was told.
    told: Option<Instant>,
}

impl Absence {
    /// `None`: another kind of stream, of which silence says nothing.
    pub fn of(stream: &StreamSettings, pictures: &Arc<PushedPictures>) -> Option<Self> {
        let absence = || Self::new(&stream.source.id, pictures, stream.interval.at_start());
        matches!(stream.source.location, Location::Push(_)).then(absence)
    }

    fn new(stream: &StreamId, pictures: &Arc<PushedPictures>, interval: Duration) -> Self {
        Self { stream: Arc::clone(stream), pictures: Arc::clone(pictures), interval, told: None }
    }

    /// Tells `emitter` that nothing is there, if that is so `now` and it matters. No frame may be under way.
    pub fn poll(&mut self, now: Instant, emitter: &mut Emitter, emit: &mut dyn FnMut(Event) -> bool) {
        let Some(last) = emitter.last() else { return };
        let told = self.told.filter(|told| *told == last.captured);
        let gone = self.pictures.of(&self.stream).and_then(|taker| taker.gone_at());
        let due = match told {
            // Once is enough where no tag is open.
            Some(_) if !emitter.is_busy() => return,
            // A picture that stands may have been dropped, and will be shown again.
            Some(told) => gone.map_or(told, |gone| gone.max(told)).max(told + self.interval),
            None => match gone {
                Some(gone) => gone,
                // It has just begun, or ends.
                None => return,
            },
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

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::event::{LabelRules, ModelRef, SetRules, ThresholdOrigin, Thresholds};
    use crate::frame::pushed_pictures::TakesPictures;
    use crate::frame::still_image::StillImageError;
    use crate::platform::secret::Secret;
    use crate::score::LabelScore;
    use crate::stream::accounting::OutcomeWatcher;

    const SECOND: Duration = Duration::from_secs(1);

    /// Knows until when its picture stands.
    struct Taker(Mutex<Option<Instant>>);

    impl TakesPictures for Taker {
        fn take(&self, _: &[u8], _: Option<OutcomeWatcher>) -> Result<u64, StillImageError> {
            Ok(0)
        }

        fn token(&self) -> Option<&Secret> {
            None
        }

        fn gone_at(&self) -> Option<Instant> {
            *self.0.lock()
        }
    }

    #[test]
    fn as_long_as_a_picture_stands_nothing_is_absent_however_seldom_it_is_looked_at() {
        let id: StreamId = "door".into();
        let thresholds = Thresholds { after: Duration::ZERO, after_exit: SECOND, ..Thresholds::default() };
        let rules = LabelRules {
            name: "cat".into(),
            thresholds,
            origin: ThresholdOrigin::default(),
            attributes: Arc::default(),
            hours: None,
        };
        let set = SetRules { region: None, name: "things".into(), labels: vec![rules], rivals: Arc::default() };
        let model = ModelRef { name: "m".into(), fingerprint: "f".into(), provider: None };
        let mut emitter = Emitter::new("test", Arc::clone(&id), model, vec![set], SECOND * 240);
        let started = Instant::now();
        let taker = Arc::new(Taker(Mutex::new(Some(started + SECOND * 90))));
        let pictures = Arc::new(PushedPictures::default());
        pictures.enter(&id, &(Arc::clone(&taker) as Arc<dyn TakesPictures>));
        // As with `interval: auto`, which begins with one a second and has come to one in 40 s.
        let mut absence = Absence::new(&id, &pictures, SECOND);
        let mut told = Vec::new();
        let mut tell = |event: Event| {
            told.push(event.kind);
            true
        };
        let there = LabelScore { margin: 9.0, rival: None };
        for second in 0..200_u32 {
            let now = started + SECOND * second;
            if second == 0 || second == 40 || second == 80 {
                let media = SECOND * second;
                let time = FrameTime { media, captured: now, wall: jiff::Timestamp::UNIX_EPOCH, connection: 0 };
                emitter.scores(time, 0, &[there], &mut tell);
            }
            absence.poll(now, &mut emitter, &mut tell);
            assert_eq!(emitter.is_busy(), second < 91, "{second} s");
        }
        assert_eq!(told.len(), 2, "{told:?}");
    }
}
