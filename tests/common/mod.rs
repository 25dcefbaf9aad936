//! Stands in for the world around the daemon: cameras, and the daemon itself run as a user would.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they measured or skipped")]

pub mod arrived;
pub mod authority;
pub mod bombs;
pub mod broker;
pub mod camera;
pub mod cost;
pub mod daemon;
pub mod flicker;
pub mod flood;
pub mod home_assistant;
pub mod hook;
pub mod ipv6;
pub mod model;
pub mod onvif;
pub mod promtool;
pub mod proxy;
pub mod raw_rtsp;
pub mod recorder;
pub mod rtmp_server;
pub mod scene;
pub mod slow_link;
pub mod sse;
pub mod terminal;
pub mod tls_front;
pub mod web;
