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

// Types that travel.
pub mod batch;
pub mod catalog;
pub mod coded_size;
pub mod delivery;
pub mod frame;
pub mod problem;
pub mod secret;
pub mod signature;
pub mod still;
pub mod tensor;
pub mod view;

// Stages, in the order a frame meets them.
pub mod event;
pub mod infer;
pub mod outbox;
pub mod precedence;
pub mod preprocess;
pub mod sample;
pub mod score;
pub mod sink;
pub mod source;

// Beside the way: pictures for events.
pub mod snapshot;

// Workshops beside the way.
pub mod bench;
pub mod discover;
pub mod label;
pub mod model;

// Plumbing.
pub mod account;
pub mod backoff;
pub mod child;
pub mod control;
pub mod gpu;
pub mod hex;
pub mod logs;
pub mod memory;
pub mod paths;
pub mod process;
pub mod queue;
pub mod shutdown;
pub mod signals;
pub mod status;
pub mod systemd;
pub mod telemetry;
pub mod tls;
pub mod userinfo;
pub mod yaml;

// Assembly.
pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod intake;
pub mod pipeline;
pub mod shake;
