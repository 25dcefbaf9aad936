//! The latest sampled picture of each stream, for who looks at it. In: every sampled frame, on its streaming thread. Out: the decoder's own picture,
//! not a copy of it, and its time.
//!
//! While nobody has looked for [`HELD_FOR`], no picture is held, and a frame costs one look at a flag. From the first look on the newest one is held:
//! one of the stream's buffers, which its pool has been asked for (`source/picture.rs`). It is given back with the next frame after that time, or
//! when the stream ends. Who looked and found none is owed one for [`OWED_FOR`]: samples may be minutes apart.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{FrameTime, Picture};
use crate::stream::StreamId;

/// Pictures are held for so long after somebody has looked: longer than a page that shows them waits between two looks.
const HELD_FOR: Duration = Duration::from_secs(60);
/// The same where there was none to be seen.
const OWED_FOR: Duration = Duration::from_secs(600);

/// Of one stream.
#[derive(Debug, Default)]
pub struct LatestPicture {
    /// Whether somebody may be looking.
    wanted: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    until: Option<Instant>,
    held: Option<(FrameTime, Arc<Picture>)>,
}

impl LatestPicture {
    /// A frame was sampled.
    pub fn sampled(&self, time: FrameTime, picture: &Arc<Picture>) {
        if !self.wanted.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state.lock();
        let wanted = state.until.is_some_and(|until| time.captured < until);
        self.wanted.store(wanted, Ordering::Relaxed);
        let new = wanted.then(|| (time, Arc::clone(picture)));
        let before = std::mem::replace(&mut state.held, new);
        drop(state);
        // It may go back to a decoder, which is not to be waited for with the lock.
        drop(before);
    }

    /// The newest one, and `None` until one comes; pictures are held from now on.
    pub fn look(&self, now: Instant) -> Option<(FrameTime, Arc<Picture>)> {
        let mut state = self.state.lock();
        state.until = Some(now + if state.held.is_some() { HELD_FOR } else { OWED_FOR });
        self.wanted.store(true, Ordering::Relaxed);
        state.held.clone()
    }
}

/// Of all streams that run: they hold theirs, so that nothing is left of one that has ended.
#[derive(Debug, Default)]
pub struct LatestPictures(Mutex<HashMap<StreamId, Weak<LatestPicture>>>);

impl LatestPictures {
    /// A stream begins; it takes the place of an earlier one of its name.
    pub fn enter(&self, stream: &StreamId) -> Arc<LatestPicture> {
        let latest = Arc::new(LatestPicture::default());
        let mut all = self.0.lock();
        all.retain(|_, latest| latest.strong_count() > 0);
        all.insert(Arc::clone(stream), Arc::downgrade(&latest));
        latest
    }

    /// `None`: it does not run.
    pub fn of(&self, stream: &str) -> Option<Arc<LatestPicture>> {
        self.0.lock().get(stream)?.upgrade()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Arc<Picture> {
        Arc::new(Picture::from_rgb(1, 1, vec![0; 3]).unwrap())
    }

    #[test]
    fn a_picture_is_held_only_while_somebody_looks() {
        let (all, id) = (LatestPictures::default(), StreamId::from("gate"));
        let latest = all.enter(&id);
        let begun = Instant::now();
        let sample = |seconds: u64| {
            let (picture, after) = (picture(), Duration::from_secs(seconds));
            let time =
                FrameTime { media: after, captured: begun + after, wall: jiff::Timestamp::UNIX_EPOCH, connection: 0 };
            latest.sampled(time, &picture);
            Arc::strong_count(&picture) > 1
        };
        assert!(!sample(0), "nobody looks");
        assert!(all.of("gate").unwrap().look(begun).is_none(), "none has come since");
        assert!(sample(1) && sample(2));
        let (time, seen) = latest.look(begun + Duration::from_secs(2)).unwrap();
        assert_eq!((time.media, Arc::strong_count(&seen)), (Duration::from_secs(2), 2), "the newest, and not a copy");
        assert!(sample(61));
        assert!(!sample(63), "nobody has looked for a minute");
        assert!(latest.look(begun + Duration::from_secs(70)).is_none());
        assert!(sample(400), "who found none is owed one, however seldom samples come");
        assert!(latest.look(begun + Duration::from_secs(401)).is_some() && !sample(462));
        drop(latest);
        assert!(all.of("gate").is_none() && all.of("nobody").is_none());
    }
}
