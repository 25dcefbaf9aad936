//! What a stream is, for all who speak of one: its id, its state, the accounting of its frames, and the list of all streams.
//!
//! In: what the stages see of a stream. Out: what the API, `status`, the metrics and the sinks tell of it. Any thread; nothing here waits.
//! Changes that somebody outside asks for ([`commands`]) go to the main thread through bounded channels; when one is full, the newest
//! is refused. Closed: once the daemon stops, commands are refused.

pub mod accounting;
pub mod commands;
mod id;
pub mod registry;
pub mod status;

pub use id::{StreamId, StreamKey};
