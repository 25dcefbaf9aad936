//! How a stream is called: by its id in the configuration, and by its number in the running pipeline. Pure.

use std::sync::Arc;

/// A stream's id as written in the configuration (`[a-z0-9_-]+`), shared by everything that speaks of the stream.
pub type StreamId = Arc<str>;

/// A stream's number in the running pipeline. Never given twice: what is late finds nobody, not somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey(pub u64);
