//! Pictures that others send: from where they come in (the API) to the stream that they are for.
//!
//! In: a coded picture, on the thread of whoever took it in, which decodes it. Out: what the stream's source made of it. Holds who takes pictures, and no picture. A stream that
//! has ended takes none: its source holds what stands here.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use super::still_image::StillImageError;
use crate::platform::secret::Secret;
use crate::stream::StreamId;
use crate::stream::accounting::OutcomeWatcher;

/// A stream that is made of pictures that others send.
pub trait TakesPictures: Send + Sync {
    /// Takes a coded picture, in the place of one that is still waiting; gives its number. `outcome` hears what becomes of it.
    ///
    /// # Errors
    /// What is wrong with the picture.
    fn take(&self, coded: &[u8], outcome: Option<OutcomeWatcher>) -> Result<u64, StillImageError>;

    /// What has to be shown by whoever sends one.
    fn token(&self) -> Option<&Secret>;

    /// From when on nothing is there, if no other picture comes: the last one stands for what is there until then, and its sender may be a little late. `None`
    /// before the first.
    fn gone_at(&self) -> Option<Instant>;
}

/// All of them.
#[derive(Default)]
pub struct PushedPictures(Mutex<HashMap<StreamId, Weak<dyn TakesPictures>>>);

impl PushedPictures {
    /// A stream begins; it takes the place of an earlier one of its name.
    pub fn enter(&self, stream: &StreamId, taker: &Arc<dyn TakesPictures>) {
        let mut all = self.0.lock();
        all.retain(|_, taker| taker.strong_count() > 0);
        all.insert(Arc::clone(stream), Arc::downgrade(taker));
    }

    /// `None`: it does not run, or takes no pictures.
    pub fn of(&self, stream: &str) -> Option<Arc<dyn TakesPictures>> {
        self.0.lock().get(stream)?.upgrade()
    }
}
