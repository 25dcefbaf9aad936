//! What a stream is, for all who speak of one: its id, its state, the accounting of its frames, and the list of all streams.
//!
//! In: what the stages see of a stream. Out: what the API, `status`, the metrics and the sinks tell of it. Any thread; nothing here waits.
//! What somebody outside asks for ([`requests`]) goes to the main thread through a bounded queue; when an origin's room in it is taken, its
//! newest request is refused. Closed: once the daemon stops, all are.

pub mod accounting;
mod id;
pub mod registry;
pub mod requests;
pub mod status;
pub mod swallowed_starts;

pub use id::{StreamId, StreamKey};
