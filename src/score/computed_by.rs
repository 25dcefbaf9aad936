//! Who computed the embeddings that are being scored. Written by the scoring thread before each batch, read by whoever tells of its scores on
//! the same thread, and by others for whom the latest is good enough. Nobody waits.

use std::sync::Arc;

use parking_lot::Mutex;

/// Name of the provider; `None` before the first batch, and without a model.
#[derive(Debug, Default)]
pub struct ComputedBy(Mutex<Option<Arc<str>>>);

impl ComputedBy {
    /// The next scores are of this one's embeddings.
    pub fn set(&self, provider: &str) {
        let mut known = self.0.lock();
        if known.as_deref() != Some(provider) {
            *known = Some(provider.into());
        }
    }

    pub fn get(&self) -> Option<Arc<str>> {
        self.0.lock().clone()
    }
}
