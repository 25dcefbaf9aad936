//! What the broker has still to answer of subscriptions, on the sink's thread: in, their notices; out, the filters that were refused. An answer may
//! take the sink's `timeout`, all of them together a minute, whatever else comes; a connection that closes is told as such.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::mqtt_client::{NotTaken, Notice};

/// For all the SUBACKs of one question, however much the broker sends meanwhile.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Subscriptions that the broker has not answered yet. What lies retained may be judged to be nothing only after its answer: a slow link
/// brings both late.
pub struct Asked {
    open: VecDeque<(String, Notice)>,
    refused: Vec<String>,
    timeout: Duration,
    until: Instant,
    longest: Instant,
}

impl Asked {
    /// Each of `open`, a filter and its answer to come, may take `timeout`.
    pub fn new(open: Vec<(String, Notice)>, timeout: Duration) -> Self {
        let now = Instant::now();
        Self {
            open: open.into(),
            refused: Vec::new(),
            timeout,
            until: now + timeout,
            longest: now + MAX_WAIT.max(timeout),
        }
    }

    /// Waits until all are answered; those that were refused. May be cancelled without losing anything.
    ///
    /// # Errors
    /// When the connection has gone, or the broker says nothing for too long.
    pub async fn answered(&mut self) -> Result<Vec<String>, String> {
        while let Some((_, notice)) = self.open.front_mut() {
            match timeout_at(self.until.min(self.longest), notice.as_mut()).await {
                Err(_) => return Err(format!("the broker has not answered a subscription for {:?}", self.timeout)),
                Ok(Err(NotTaken::Lost(why))) => return Err(format!("a subscription was not answered: {why}")),
                Ok(answer) => {
                    self.heard();
                    let filter = self.open.pop_front().map(|(filter, _)| filter);
                    self.refused.extend(filter.filter(|_| answer.is_err()));
                }
            }
        }
        Ok(std::mem::take(&mut self.refused))
    }

    /// Both questions as one.
    pub fn and(mut self, other: Self) -> Self {
        self.open.extend(other.open);
        self
    }

    /// The broker has sent something: it is there, only slow.
    pub fn heard(&mut self) {
        self.until = Instant::now() + self.timeout;
    }
}
