//! vtagd watches cameras and says, in words you chose, what it sees.
//!
//! # The way of a frame
//!
//! ```text
//! camera ─► source ─► sample ─► preprocess ─► infer ─► score ─► event ─► outbox ─► sink
//! ```
//!
//! Modules are declared in that order; [`pipeline`] joins them and is the only one that knows them all.
//! A stage knows the types and the plumbing below it, never another stage.

// What travels, and what a stream is.
pub mod frame;
pub mod stream;

// Stages, in the order a frame meets them.
pub mod batching;
pub mod event;
pub mod infer;
pub mod outbox;
pub mod preprocess;
pub mod sample;
pub mod score;
pub mod sink;
pub mod source;

// Beside the way: pictures for events, embeddings of the past.
pub mod history;
pub mod snapshot;

// Workshops beside the way.
pub mod bench;
pub mod calibrate;
pub mod discover;
pub mod label;
pub mod model;

// Plumbing.
pub mod logs;
pub mod metrics;
pub mod platform;
pub mod yaml;

// Assembly.
pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod fuzzing;
pub mod pipeline;
