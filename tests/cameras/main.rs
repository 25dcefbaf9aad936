//! Cameras and files: what they send, what goes wrong with them, which of their frames are looked at. A module a scenario.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they measured or skipped")]

#[path = "../common/mod.rs"]
mod common;

mod check_probe;
mod discover_command;
mod faults_camera;
mod faults_cycles;
mod faults_descriptors;
mod faults_endless;
mod faults_network;
mod interval_auto;
mod live_playlists;
mod odd_cameras;
mod odd_codecs;
mod odd_http;
mod picture_sizes;
mod pipelines_parse;
mod run_rtsp_camera;
mod source_file;
mod source_http;
mod source_keyframes;
mod source_rtsp;
mod still_cameras;
mod tag_camera;
mod trusted_cameras;
mod unchanged_footage;
mod unchanged_frames;
mod view_regions;
mod ways_to_send;
