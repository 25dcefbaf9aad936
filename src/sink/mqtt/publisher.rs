//! What is to be published, what is on its way, and which deliveries end with it.
//!
//! Messages go out in the order in which they were pushed, and are settled in that order too. No more than [`IN_FLIGHT`] are on their way;
//! the rest waits here. Deliveries are taken only when nothing waits ([`Publisher::has_room`]), so what waits is bounded by the retained
//! topics of the configuration and a few messages of one event.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::client::{IN_FLIGHT, Link, Message, Notice};
use crate::sink::Fault;

struct Sent {
    /// The delivery that this message stands for.
    position: Option<u64>,
    at: Instant,
    notice: Notice,
}

/// See the module.
pub struct Publisher {
    waiting: VecDeque<(Message, Option<u64>)>,
    sent: VecDeque<Sent>,
    timeout: Duration,
    /// When the broker last acknowledged anything.
    heard: Instant,
}

impl Publisher {
    pub fn new(timeout: Duration) -> Self {
        Self { waiting: VecDeque::new(), sent: VecDeque::new(), timeout, heard: Instant::now() }
    }

    /// Publishes `message` when it is its turn; `position` is given back when it is acknowledged.
    pub fn push(&mut self, message: Message, position: Option<u64>) {
        self.waiting.push_back((message, position));
    }

    pub fn extend(&mut self, messages: impl IntoIterator<Item = Message>) {
        self.waiting.extend(messages.into_iter().map(|message| (message, None)));
    }

    /// Whether another delivery may be taken.
    pub fn has_room(&self) -> bool {
        self.waiting.is_empty() && self.sent.len() < usize::from(IN_FLIGHT)
    }

    /// Whether everything was acknowledged.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty()
    }

    /// Hands on what may go by `link`.
    ///
    /// # Errors
    /// A topic that cannot be.
    pub fn pump(&mut self, link: &Link) -> Result<(), Fault> {
        while self.sent.len() < usize::from(IN_FLIGHT) {
            let Some((message, position)) = self.waiting.front() else { break };
            let Some(notice) = link.publish(message).map_err(Fault::again)? else { break };
            self.sent.push_back(Sent { position: *position, at: Instant::now(), notice });
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Waits for the acknowledgement of the oldest message; its delivery, if it stands for one. Waits for ever when nothing is on its way.
    /// May be cancelled without losing anything.
    ///
    /// # Errors
    /// When the broker refuses it, or says nothing for too long.
    pub async fn acknowledged(&mut self) -> Result<Option<u64>, Fault> {
        let Some(oldest) = self.sent.front_mut() else { return std::future::pending().await };
        // While others are acknowledged the broker is there, only slow.
        let deadline = oldest.at.max(self.heard) + self.timeout;
        let answer = timeout_at(deadline, oldest.notice.as_mut()).await;
        let timeout = self.timeout;
        let position = match answer {
            Ok(Ok(())) => self.sent.pop_front().and_then(|sent| sent.position),
            Ok(Err(why)) => return Err(Fault::again(format!("not acknowledged: {why}"))),
            Err(_) => return Err(Fault::again(format!("the broker has acknowledged nothing for {timeout:?}"))),
        };
        self.heard = Instant::now();
        Ok(position)
    }
}
