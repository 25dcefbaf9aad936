//! What the test of the contract words is made of: the golden files, readers of shapes and of sources, and the world around a daemon
//! that tells all it can.

pub mod answers;
pub mod commands;
pub mod files;
pub mod golden;
pub mod http;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod nats;
pub mod notify;
pub mod scene;
pub mod shape;
pub mod sinks;
pub mod sources;
