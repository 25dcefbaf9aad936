//! Event: a pure state machine per (stream, label): thresholds with hysteresis, minimum duration, cooldown.

use std::time::Duration;

/// When a tag starts and ends. `exit ≤ enter`; both within 0..=1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    pub enter: f32,
    pub exit: f32,
    pub after: Duration,
    pub after_exit: Duration,
    pub cooldown: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            enter: 0.6,
            exit: 0.4,
            after: Duration::from_secs(2),
            after_exit: Duration::from_secs(2),
            cooldown: Duration::from_secs(30),
        }
    }
}
