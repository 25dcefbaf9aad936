//! Batching: frames out of their slots into places of a batch, fair across streams, and batches back in order.
//!
//! ```text
//! slots ─► dispatch ─► batcher ─► jobs for preprocessing ─► batch is full or due ─► sessions ─► reorder_buffer ─► scoring
//!             └ unchanged: no place, the last embedding is scored again
//! ```
//!
//! In: frames of all streams, in turn. Out: [`batch::Batch`]es for the inference sessions, and embedded ones in the order in which they
//! were closed. [`dispatcher`] runs on a thread of its own; [`batcher`] and [`unchanged`] are pure. Full: nothing leaves its slot before there is a
//! place for it. Closed: when every slot is closed and empty, the last batch is sent and the dispatcher ends.

pub mod batch;
pub mod batcher;
pub mod dispatcher;
pub mod reorder_buffer;
pub mod tensor;
pub mod unchanged;
