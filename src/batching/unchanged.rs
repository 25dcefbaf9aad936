//! The filter of unchanged frames of one stream: whether a frame looks so much like the last inferred one that its embedding is as good. Pure;
//! media time is a parameter. Of a stream with several views all must look like it: a frame is inferred as a whole or not at all.
//!
//! Compared is always with the last frame that was *inferred*, never with one that was passed as unchanged, so a scene that changes slowly
//! cannot creep away. A frame whose reference is still on its way is passed as unchanged behind it: it travels in order, so the reference
//! is known by the time it is scored. (To infer it instead would save nothing exactly when the box is behind.) If the reference is
//! lost then, so is the frame; the next one is inferred.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::batching::batch::{FrameMeta, SharedEmbedding};
use crate::frame::thumbprint::{Thumbprint, Unchanged};

/// See the module.
#[derive(Debug)]
pub struct UnchangedFilter {
    settings: Unchanged,
    reference: Option<Reference>,
}

/// The last frame that was inferred, or is about to be.
#[derive(Debug)]
struct Reference {
    thumbprints: Vec<Thumbprint>,
    media: Duration,
    shared_embedding: Arc<SharedEmbedding>,
    /// Gone once it has been scored or lost.
    frame: Weak<FrameMeta>,
}

impl Reference {
    /// Whether it was lost on its way.
    fn is_lost(&self) -> bool {
        // In this order: it is kept before it ends.
        let ended = self.frame.upgrade().is_none_or(|frame| frame.guard.is_complete());
        ended && self.shared_embedding.get().is_none()
    }
}

impl UnchangedFilter {
    pub fn new(settings: Unchanged) -> Self {
        Self { settings, reference: None }
    }

    /// Where the embedding for a frame with these thumbprints at `media` is, or will be; `None` if it has to be inferred.
    pub fn reuse(&self, thumbprints: &[Thumbprint], media: Duration) -> Option<Arc<SharedEmbedding>> {
        let reference = self.reference.as_ref()?;
        let fresh = media.checked_sub(reference.media).is_some_and(|age| age < self.settings.max_age);
        let is_same = |(now, then): (&Thumbprint, &Thumbprint)| {
            now.change(then).is_some_and(|change| change <= self.settings.tolerance)
        };
        let same = || {
            thumbprints.len() == reference.thumbprints.len()
                && thumbprints.iter().zip(&reference.thumbprints).all(is_same)
        };
        (fresh && !reference.is_lost() && same()).then(|| Arc::clone(&reference.shared_embedding))
    }

    /// A frame is to be inferred: it is what later ones are compared with. `shared_embedding` is the one that it carries.
    pub fn infer(
        &mut self,
        thumbprints: Vec<Thumbprint>,
        shared_embedding: Arc<SharedEmbedding>,
        frame: &Arc<FrameMeta>,
    ) {
        let media = frame.time.media;
        self.reference = Some(Reference { thumbprints, media, shared_embedding, frame: Arc::downgrade(frame) });
    }
}

/// The last polled picture that was inferred, or is about to be, and where its embedding is, or will be.
#[derive(Debug, Default)]
pub struct LastStill(Option<(u64, Arc<SharedEmbedding>, Weak<FrameMeta>)>);

impl LastStill {
    /// For the picture of this number; `None` if it has to be inferred. A server's word is as good as a comparison, and needs none.
    pub fn reuse(&self, number: u64) -> Option<Arc<SharedEmbedding>> {
        let (known, shared_embedding, frame) = self.0.as_ref()?;
        let ended = frame.upgrade().is_none_or(|frame| frame.guard.is_complete());
        let lost = ended && shared_embedding.get().is_none();
        (*known == number && !lost).then(|| Arc::clone(shared_embedding))
    }

    /// The picture of this number is to be inferred.
    pub fn infer(&mut self, number: u64, shared_embedding: Arc<SharedEmbedding>, frame: &Arc<FrameMeta>) {
        self.0 = Some((number, shared_embedding, Arc::downgrade(frame)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::frame::view::Region;
    use crate::frame::{FrameTime, Picture};
    use crate::stream::StreamKey;
    use crate::stream::accounting::{DropReason, FrameAccounting, FrameOutcome};

    const SETTINGS: Unchanged = Unchanged { tolerance: 2.0, max_age: Duration::from_secs(10) };

    /// A stripe of brightness 100 in the dark, and a spot of `spot`.
    fn thumbprint(spot: u8) -> Vec<Thumbprint> {
        sized(spot, 96)
    }

    fn sized(spot: u8, width: u32) -> Vec<Thumbprint> {
        let level = |at: u32| match (at % width, at / width) {
            (10..20, 10..20) => spot,
            (_, y) => (y % 50 * 2) as u8,
        };
        let rgb = (0..width * 64).flat_map(|at| [level(at); 3]).collect();
        vec![Thumbprint::of(&Picture::from_rgb(width, 64, rgb).unwrap(), Region::FULL)]
    }

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Infers a frame at `media`; the account is its own.
    fn infer(
        unchanged_filter: &mut UnchangedFilter,
        thumbprints: Vec<Thumbprint>,
        media: Duration,
    ) -> (Arc<FrameMeta>, Arc<SharedEmbedding>) {
        let shared_embedding = Arc::new(SharedEmbedding::default());
        let time = FrameTime { media, captured: Instant::now(), wall: jiff::Timestamp::UNIX_EPOCH, connection: 0 };
        let guard = Arc::new(FrameAccounting::default()).sample(&"a".into());
        let frame = Arc::new(FrameMeta {
            stream: StreamKey(1),
            time,
            tiles: vec![1],
            shared_embedding: Some(Arc::clone(&shared_embedding)),
            picture: None,
            guard,
        });
        unchanged_filter.infer(thumbprints, Arc::clone(&shared_embedding), &frame);
        (frame, shared_embedding)
    }

    #[test]
    fn the_first_frame_is_inferred_and_one_like_it_is_not() {
        let mut unchanged_filter = UnchangedFilter::new(SETTINGS);
        assert!(unchanged_filter.reuse(&thumbprint(50), second(0)).is_none());
        let (frame, shared_embedding) = infer(&mut unchanged_filter, thumbprint(50), second(0));
        shared_embedding.keep(&[1.0]);
        drop(frame);
        assert!(Arc::ptr_eq(&unchanged_filter.reuse(&thumbprint(51), second(1)).unwrap(), &shared_embedding));
        assert!(unchanged_filter.reuse(&thumbprint(80), second(1)).is_none());
    }

    #[test]
    fn a_frame_of_several_views_is_inferred_when_one_of_them_has_changed_or_there_are_others() {
        let mut unchanged_filter = UnchangedFilter::new(SETTINGS);
        let both = |left, right| [thumbprint(left), thumbprint(right)].concat();
        let (_frame, _kept) = infer(&mut unchanged_filter, both(50, 70), second(0));
        assert!(unchanged_filter.reuse(&both(51, 69), second(1)).is_some());
        for other in [both(50, 80), both(80, 70), both(70, 50), thumbprint(50), [both(50, 70), thumbprint(50)].concat()]
        {
            assert!(unchanged_filter.reuse(&other, second(1)).is_none());
        }
    }

    #[test]
    fn a_slow_change_is_seen_once_it_has_added_up() {
        let mut unchanged_filter = UnchangedFilter::new(SETTINGS);
        let (_frame, _recall) = infer(&mut unchanged_filter, thumbprint(50), second(0));
        let seen = (51..60).find(|level| unchanged_filter.reuse(&thumbprint(*level), second(1)).is_none());
        assert_eq!(seen, Some(53), "steps of one level never differ from the step before");
    }

    #[test]
    fn a_frame_is_inferred_when_its_reference_is_as_old_as_allowed_or_younger_than_itself() {
        let mut unchanged_filter = UnchangedFilter::new(SETTINGS);
        let (_frame, _recall) = infer(&mut unchanged_filter, thumbprint(50), second(5));
        assert!(unchanged_filter.reuse(&thumbprint(50), second(14)).is_some());
        assert!(unchanged_filter.reuse(&thumbprint(50), second(15)).is_none());
        assert!(unchanged_filter.reuse(&thumbprint(50), second(4)).is_none(), "media time went back");
    }

    #[test]
    fn a_picture_of_another_size_is_inferred() {
        let mut unchanged_filter = UnchangedFilter::new(SETTINGS);
        let (_frame, _recall) = infer(&mut unchanged_filter, thumbprint(50), second(0));
        assert!(unchanged_filter.reuse(&sized(50, 98), second(1)).is_none());
    }

    #[test]
    fn a_reference_on_its_way_counts_and_one_that_was_lost_does_not() {
        let mut unchanged_filter = UnchangedFilter::new(SETTINGS);
        let (frame, _recall) = infer(&mut unchanged_filter, thumbprint(50), second(0));
        assert!(unchanged_filter.reuse(&thumbprint(50), second(1)).is_some(), "still on its way");
        frame.guard.complete(FrameOutcome::Dropped(DropReason::Inference));
        assert!(unchanged_filter.reuse(&thumbprint(50), second(1)).is_none(), "its run failed");

        let (frame, _recall) = infer(&mut unchanged_filter, thumbprint(50), second(2));
        drop(frame);
        assert!(unchanged_filter.reuse(&thumbprint(50), second(3)).is_none(), "it went without a word");
    }
}
