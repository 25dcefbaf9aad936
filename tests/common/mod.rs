//! Stands in for the world around the daemon: cameras and, beside them, whatever else a scenario needs.

pub mod camera;
