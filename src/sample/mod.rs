//! Sample: decides which frames of a stream are looked at, and puts them where the dispatcher finds them.
//!
//! In: media times and pictures from the stream's source, on its GStreamer streaming thread. Out: [`Frame`]s in the stream's
//! bounded slot, and a token on the wake channel after each. Full: with [`OnFull::NewestWins`] the older frame is dropped and
//! counted (`superseded`), with [`OnFull::Wait`] the streaming thread waits, so the file plays no faster than its frames are
//! looked at. Closed: the slot is finished when the sampler is dropped; frames for a reader that is gone count as `shutdown`.

pub mod auto;
mod schedule;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub use auto::Tempo;
pub use schedule::Schedule;

use crate::frame::latest_picture::LatestPicture;
use crate::frame::slot::{PutError, SlotWriter};
use crate::frame::thumbprint::Thumbprint;
use crate::frame::view::Region;
use crate::frame::{Frame, FrameTap, FrameTime, Picture};
use crate::platform::shutdown::Shutdown;
use crate::stream::StreamId;
use crate::stream::accounting::{DropReason, FrameAccounting, FrameGuard, FrameOutcome, OutcomeWatcher};

/// `sampling.interval` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// Above zero.
    Every(Duration),
    /// What the box serves; all such streams have the same.
    Auto,
}

impl Interval {
    /// What it is before anything is known of the box.
    pub fn at_start(self) -> Duration {
        match self {
            Self::Every(interval) => interval,
            Self::Auto => auto::START,
        }
    }

    /// The longest that it may be.
    pub fn longest(self) -> Duration {
        match self {
            Self::Every(interval) => interval,
            Self::Auto => auto::MAX_INTERVAL,
        }
    }
}

impl From<Duration> for Interval {
    fn from(interval: Duration) -> Self {
        Self::Every(interval)
    }
}

/// What happens to a sampled frame when the stream's slot is full.
#[derive(Clone, Debug)]
pub enum OnFull {
    /// The oldest frame in the slot is dropped: what is looked at is never old news. For cameras and `pace: live`.
    NewestWins,
    /// The source waits until there is room or shutdown is asked for: nothing is dropped. For `pace: fast`.
    Wait(Shutdown),
}

/// One stream's sampler, between its source and its slot.
#[derive(Debug)]
pub struct Sampler {
    stream: StreamId,
    accounting: Arc<FrameAccounting>,
    state: Mutex<State>,
    slot: SlotWriter<Frame>,
    on_full: OnFull,
    /// The interval that all `auto` streams follow.
    tempo: Option<Arc<Tempo>>,
    /// What frames get thumbprints of.
    thumbprints: Vec<Region>,
    /// Who looks at pictures as they come.
    latest: Arc<LatestPicture>,
}

#[derive(Debug)]
struct State {
    schedule: Schedule,
    /// The guard of the frame that was wanted and has not been delivered yet.
    pending: Option<FrameGuard>,
}

impl State {
    /// The wanted frame did not come: the decoder or the converter lost it.
    fn give_up_pending(&mut self) {
        if let Some(guard) = self.pending.take() {
            guard.complete(FrameOutcome::Dropped(DropReason::Decode));
        }
    }
}

impl Sampler {
    /// A sampler that takes one frame of `stream` every `interval` and puts it into `slot`.
    pub fn new(
        stream: StreamId,
        interval: Duration,
        accounting: Arc<FrameAccounting>,
        slot: SlotWriter<Frame>,
        on_full: OnFull,
    ) -> Self {
        let state = Mutex::new(State { schedule: Schedule::new(interval), pending: None });
        Self { stream, accounting, state, slot, on_full, tempo: None, thumbprints: Vec::new(), latest: Arc::default() }
    }

    /// Follows `tempo`, if there is one, instead of its own interval.
    #[must_use]
    pub fn following(mut self, tempo: Option<Arc<Tempo>>) -> Self {
        self.tempo = tempo;
        self
    }

    /// Takes thumbprints of what `regions` of its frames show, so that unchanged ones can be told. On this thread, because each stream has
    /// one.
    #[must_use]
    pub fn with_thumbprints(mut self, regions: Vec<Region>) -> Self {
        self.thumbprints = regions;
        self
    }

    /// Shows what it samples to who looks at `latest`.
    #[must_use]
    pub fn showing(mut self, latest: Arc<LatestPicture>) -> Self {
        self.latest = latest;
        self
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock())
    }
}

impl FrameTap for Sampler {
    fn interval(&self) -> Duration {
        self.tempo.as_ref().map_or_else(|| self.with(|state| state.schedule.interval()), |tempo| tempo.interval())
    }

    fn is_sampled(&self, media: Duration) -> bool {
        self.with(|state| {
            state.give_up_pending();
            self.follow(state);
            let wanted = state.schedule.is_sampled(media);
            if wanted {
                state.pending = Some(self.accounting.sample(&self.stream));
            }
            wanted
        })
    }

    fn until_wanted(&self, media: Duration) -> Duration {
        self.with(|state| {
            self.follow(state);
            state.schedule.until_wanted(media)
        })
    }

    fn deliver(&self, time: FrameTime, picture: Picture) {
        self.hand_over(time, picture, None);
    }

    fn deliver_still(&self, time: FrameTime, picture: Picture, number: u64) {
        self.hand_over(time, picture, Some(number));
    }

    fn deliver_pushed(&self, time: FrameTime, picture: Picture, number: u64, outcome: Option<OutcomeWatcher>) {
        self.with(|state| {
            state.give_up_pending();
            // It stands for the point of the grid that is due, if one is.
            state.schedule.is_sampled(time.media);
            state.pending = Some(self.accounting.sample(&self.stream).watched(outcome));
        });
        self.hand_over(time, picture, Some(number));
    }
}

impl Sampler {
    fn follow(&self, state: &mut State) {
        if let Some(tempo) = &self.tempo {
            state.schedule.change(tempo.interval());
        }
    }

    fn hand_over(&self, time: FrameTime, picture: Picture, still: Option<u64>) {
        let Some(guard) = self.with(|state| state.pending.take()) else {
            // Nothing was wanted: an uncounted frame must not enter the accounts half-way.
            tracing::debug!(stream = %self.stream, "a frame came that was not asked for");
            return;
        };
        let thumbprints = self.thumbprints.iter().map(|region| Thumbprint::of(&picture, *region)).collect();
        let picture = Arc::new(picture);
        self.latest.sampled(time, &picture);
        let frame = Frame { stream: Arc::clone(&self.stream), time, picture, thumbprints, still, guard };
        let (lost, reason) = match &self.on_full {
            OnFull::NewestWins => match self.slot.put(frame) {
                Ok(loser) => (loser, DropReason::Superseded),
                Err(PutError::Closed(frame) | PutError::Shutdown(frame)) => (Some(frame), DropReason::Shutdown),
            },
            OnFull::Wait(shutdown) => match self.slot.put_wait(frame, shutdown) {
                Ok(()) => (None, DropReason::Shutdown),
                Err(PutError::Closed(frame) | PutError::Shutdown(frame)) => (Some(frame), DropReason::Shutdown),
            },
        };
        if let Some(frame) = lost {
            frame.guard.complete(FrameOutcome::Dropped(reason));
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.with(State::give_up_pending);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::frame::slot::{SlotReader, slot, wake_channel};
    use crate::platform::shutdown;

    const SECOND: Duration = Duration::from_secs(1);

    fn time(media: Duration) -> FrameTime {
        FrameTime { media, captured: Instant::now(), wall: jiff::Timestamp::UNIX_EPOCH, connection: 0 }
    }

    fn picture() -> Picture {
        Picture::from_rgb(1, 1, vec![0; 3]).unwrap()
    }

    fn sampler(on_full: OnFull) -> (Sampler, SlotReader<Frame>, Arc<FrameAccounting>) {
        let accounting = Arc::new(FrameAccounting::default());
        let (wake, _woken) = wake_channel();
        let (writer, reader) = slot(1, wake);
        (Sampler::new("a".into(), SECOND, Arc::clone(&accounting), writer, on_full), reader, accounting)
    }

    #[test]
    fn a_wanted_frame_arrives_in_the_slot_with_its_time() {
        let (sampler, reader, accounting) = sampler(OnFull::NewestWins);
        assert!(sampler.is_sampled(SECOND));
        sampler.deliver(time(SECOND), picture());
        let frame = reader.take().unwrap();
        assert_eq!((&*frame.stream, frame.time.media), ("a", SECOND));
        frame.guard.complete(FrameOutcome::Inferred);
        assert_eq!((accounting.totals().sampled, accounting.totals().inferred), (1, 1));
    }

    #[test]
    fn frames_between_samples_are_not_wanted_and_not_counted() {
        let (sampler, _reader, accounting) = sampler(OnFull::NewestWins);
        assert!(sampler.is_sampled(Duration::ZERO));
        assert!(!sampler.is_sampled(SECOND / 2));
        assert_eq!(accounting.totals().sampled, 1);
    }

    #[test]
    fn a_common_tempo_that_changes_is_followed_from_the_next_frame_on() {
        let (sampler, _reader, accounting) = sampler(OnFull::NewestWins);
        let tempo = Arc::new(Tempo::default());
        let sampler = sampler.following(Some(Arc::clone(&tempo)));
        assert!(sampler.is_sampled(Duration::ZERO));
        tempo.set(SECOND * 5);
        assert_eq!(sampler.interval(), SECOND * 5);
        assert!(!sampler.is_sampled(SECOND * 4));
        assert!(sampler.is_sampled(SECOND * 5));
        tempo.set(SECOND / 2);
        assert!(sampler.is_sampled(SECOND * 6));
        assert_eq!(accounting.totals().sampled, 3);
    }

    #[test]
    fn frames_are_signed_where_that_is_asked_for() {
        let (sampler, reader, _account) = sampler(OnFull::NewestWins);
        let mut sampler = sampler;
        for signed in [false, true] {
            let second = SECOND * u32::from(signed);
            assert!(sampler.is_sampled(second));
            sampler.deliver(time(second), picture());
            let expected: Vec<_> = signed.then(|| Thumbprint::of(&picture(), Region::FULL)).into_iter().collect();
            assert_eq!(reader.take().unwrap().thumbprints, expected);
            sampler = sampler.with_thumbprints(vec![Region::FULL]);
        }
    }

    #[test]
    fn a_frame_that_loses_its_slot_is_counted_as_superseded() {
        let (sampler, reader, accounting) = sampler(OnFull::NewestWins);
        for n in 0..3 {
            assert!(sampler.is_sampled(SECOND * n));
            sampler.deliver(time(SECOND * n), picture());
        }
        assert_eq!(reader.take().unwrap().time.media, SECOND * 2);
        assert_eq!(accounting.totals().dropped.get("superseded"), Some(&2));
    }

    #[test]
    fn a_wanted_frame_that_never_comes_is_counted_as_a_decode_drop() {
        let (sampler, reader, accounting) = sampler(OnFull::NewestWins);
        assert!(sampler.is_sampled(Duration::ZERO));
        assert!(sampler.is_sampled(SECOND));
        assert_eq!(accounting.totals().dropped.get("decode"), Some(&1));
        drop(sampler);
        assert_eq!(accounting.totals().dropped.get("decode"), Some(&2));
        assert_eq!(accounting.totals().unaccounted(), 0);
        assert!(reader.is_finished());
    }

    #[test]
    fn a_picture_that_was_sent_is_sampled_whenever_it_comes_and_its_sender_hears_what_became_of_it() {
        let (sampler, reader, accounting) = sampler(OnFull::NewestWins);
        let (told, heard) = std::sync::mpsc::sync_channel(1);
        let watcher = OutcomeWatcher::new(move |outcome| told.try_send(outcome).unwrap());
        sampler.deliver_pushed(time(Duration::ZERO), picture(), 1, Some(watcher));
        sampler.deliver_pushed(time(SECOND / 10), picture(), 2, None);
        assert_eq!(heard.try_recv(), Ok(FrameOutcome::Dropped(DropReason::Superseded)));
        assert_eq!((reader.take().unwrap().still, accounting.totals().sampled), (Some(2), 2));
        assert!(!sampler.is_sampled(SECOND / 2) && sampler.is_sampled(SECOND));
    }

    #[test]
    fn a_frame_nobody_wanted_is_left_out_of_the_accounts() {
        let (sampler, reader, accounting) = sampler(OnFull::NewestWins);
        sampler.deliver(time(SECOND), picture());
        assert!(reader.take().is_none());
        assert_eq!(accounting.totals().sampled, 0);
    }

    #[test]
    fn a_waiting_frame_is_counted_as_shutdown_when_the_daemon_stops() {
        let (trigger, shutdown) = shutdown::channel();
        let (sampler, reader, accounting) = sampler(OnFull::Wait(shutdown));
        assert!(sampler.is_sampled(Duration::ZERO));
        sampler.deliver(time(Duration::ZERO), picture());
        let source = std::thread::spawn(move || {
            assert!(sampler.is_sampled(SECOND));
            sampler.deliver(time(SECOND), picture());
        });
        trigger.trigger();
        source.join().unwrap();
        assert_eq!(accounting.totals().dropped.get("shutdown"), Some(&1));
        assert_eq!(reader.take().unwrap().time.media, Duration::ZERO);
        assert_eq!(accounting.totals().unaccounted(), 0);
    }

    #[test]
    fn a_frame_for_a_reader_that_is_gone_is_counted_as_shutdown() {
        let (sampler, reader, accounting) = sampler(OnFull::NewestWins);
        drop(reader);
        assert!(sampler.is_sampled(Duration::ZERO));
        sampler.deliver(time(Duration::ZERO), picture());
        assert_eq!(accounting.totals().dropped.get("shutdown"), Some(&1));
    }
}
