//! The change gate of one stream: whether a frame looks so much like the last inferred one that its embedding is as good. Pure;
//! media time is a parameter.
//!
//! Compared is always with the last frame that was *inferred*, never with one that was waved through, so a scene that changes slowly
//! cannot creep away. A frame whose reference is still on its way is waved through behind it: it travels in order, so the reference
//! is known by the time it is scored. (To infer it instead would save nothing exactly when the box is behind.) If the reference is
//! lost then, so is the frame; the next one is inferred.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::batching::batch::{FrameMeta, Recall};
use crate::frame::thumbprint::{Signature, Unchanged};

/// See the module.
#[derive(Debug)]
pub struct Gate {
    settings: Unchanged,
    reference: Option<Reference>,
}

/// The last frame that was inferred, or is about to be.
#[derive(Debug)]
struct Reference {
    signature: Signature,
    media: Duration,
    recall: Arc<Recall>,
    /// Gone once it has been scored or lost.
    frame: Weak<FrameMeta>,
}

impl Reference {
    /// Whether it was lost on its way.
    fn is_lost(&self) -> bool {
        // In this order: it is kept before it ends.
        let ended = self.frame.upgrade().is_none_or(|frame| frame.ticket.is_settled());
        ended && self.recall.get().is_none()
    }
}

impl Gate {
    pub fn new(settings: Unchanged) -> Self {
        Self { settings, reference: None }
    }

    /// Where the embedding for a frame with this signature at `media` is, or will be; `None` if it has to be inferred.
    pub fn again(&self, signature: &Signature, media: Duration) -> Option<Arc<Recall>> {
        let reference = self.reference.as_ref()?;
        let fresh = media.checked_sub(reference.media).is_some_and(|age| age < self.settings.max_age);
        let same = || signature.change(&reference.signature).is_some_and(|change| change <= self.settings.tolerance);
        (fresh && !reference.is_lost() && same()).then(|| Arc::clone(&reference.recall))
    }

    /// A frame is to be inferred: it is what later ones are compared with. `recall` is the one that it carries.
    pub fn infer(&mut self, signature: Signature, recall: Arc<Recall>, frame: &Arc<FrameMeta>) {
        let media = frame.time.media;
        self.reference = Some(Reference { signature, media, recall, frame: Arc::downgrade(frame) });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::frame::view::Region;
    use crate::frame::{FrameTime, Picture};
    use crate::stream::StreamKey;
    use crate::stream::accounting::{Account, DropReason, Outcome};

    const SETTINGS: Unchanged = Unchanged { tolerance: 2.0, max_age: Duration::from_secs(10) };

    /// A stripe of brightness 100 in the dark, and a spot of `spot`.
    fn signature(spot: u8) -> Signature {
        sized(spot, 96)
    }

    fn sized(spot: u8, width: u32) -> Signature {
        let level = |at: u32| match (at % width, at / width) {
            (10..20, 10..20) => spot,
            (_, y) => (y % 50 * 2) as u8,
        };
        let rgb = (0..width * 64).flat_map(|at| [level(at); 3]).collect();
        Signature::of(&Picture::from_rgb(width, 64, rgb).unwrap(), Region::FULL)
    }

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Infers a frame at `media`; the account is its own.
    fn infer(gate: &mut Gate, signature: Signature, media: Duration) -> (Arc<FrameMeta>, Arc<Recall>) {
        let recall = Arc::new(Recall::default());
        let time = FrameTime { media, captured: Instant::now(), wall: jiff::Timestamp::UNIX_EPOCH };
        let ticket = Arc::new(Account::default()).sample(&"a".into());
        let frame = Arc::new(FrameMeta {
            stream: StreamKey(1),
            time,
            tiles: 1,
            recall: Some(Arc::clone(&recall)),
            picture: None,
            ticket,
        });
        gate.infer(signature, Arc::clone(&recall), &frame);
        (frame, recall)
    }

    #[test]
    fn the_first_frame_is_inferred_and_one_like_it_is_not() {
        let mut gate = Gate::new(SETTINGS);
        assert!(gate.again(&signature(50), second(0)).is_none());
        let (frame, recall) = infer(&mut gate, signature(50), second(0));
        recall.keep(&[1.0]);
        drop(frame);
        assert!(Arc::ptr_eq(&gate.again(&signature(51), second(1)).unwrap(), &recall));
        assert!(gate.again(&signature(80), second(1)).is_none());
    }

    #[test]
    fn a_slow_change_is_seen_once_it_has_added_up() {
        let mut gate = Gate::new(SETTINGS);
        let (_frame, _recall) = infer(&mut gate, signature(50), second(0));
        let seen = (51..60).find(|level| gate.again(&signature(*level), second(1)).is_none());
        assert_eq!(seen, Some(53), "steps of one level never differ from the step before");
    }

    #[test]
    fn a_frame_is_inferred_when_its_reference_is_as_old_as_allowed_or_younger_than_itself() {
        let mut gate = Gate::new(SETTINGS);
        let (_frame, _recall) = infer(&mut gate, signature(50), second(5));
        assert!(gate.again(&signature(50), second(14)).is_some());
        assert!(gate.again(&signature(50), second(15)).is_none());
        assert!(gate.again(&signature(50), second(4)).is_none(), "media time went back");
    }

    #[test]
    fn a_picture_of_another_size_is_inferred() {
        let mut gate = Gate::new(SETTINGS);
        let (_frame, _recall) = infer(&mut gate, signature(50), second(0));
        assert!(gate.again(&sized(50, 98), second(1)).is_none());
    }

    #[test]
    fn a_reference_on_its_way_counts_and_one_that_was_lost_does_not() {
        let mut gate = Gate::new(SETTINGS);
        let (frame, _recall) = infer(&mut gate, signature(50), second(0));
        assert!(gate.again(&signature(50), second(1)).is_some(), "still on its way");
        frame.ticket.settle(Outcome::Dropped(DropReason::Inference));
        assert!(gate.again(&signature(50), second(1)).is_none(), "its run failed");

        let (frame, _recall) = infer(&mut gate, signature(50), second(2));
        drop(frame);
        assert!(gate.again(&signature(50), second(3)).is_none(), "it went without a word");
    }
}
