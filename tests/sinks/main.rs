//! Where events go, and that they get there. A module a scenario.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they measured or skipped")]

#[path = "../common/mod.rs"]
mod common;

mod outbox_survives;
mod sink_asyncapi;
mod sink_clock;
mod sink_consumers;
#[cfg(feature = "kafka")]
mod sink_kafka;
mod sink_mqtt;
mod sink_mqtt_labels;
mod sink_mqtt_prefix;
mod sink_nats;
mod sink_outages;
mod sink_webhook;
mod state_upgrade;
