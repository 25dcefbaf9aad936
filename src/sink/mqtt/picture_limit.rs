//! How large a picture may be: as the broker has said (MQTT 5), or as it was learnt when a connection broke over one. Pure; time is a parameter.
//!
//! A connection may break while a picture is under way for other reasons. So after a while one picture of that size is tried again: it lifts
//! the limit, or doubles the wait, up to a day.

use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(300);
const MAX_WAIT: Duration = Duration::from_secs(86_400);

/// See the module.
#[derive(Debug, Default)]
pub struct PictureLimit(Option<Learnt>);

#[derive(Debug)]
struct Learnt {
    /// A packet of this size, and larger ones, are left out …
    size: usize,
    /// … until then.
    again: Instant,
    wait: Duration,
}

impl PictureLimit {
    /// Whether a packet of `size` is to be sent to a broker that takes `largest`, if it has said so.
    pub fn admits(&mut self, size: usize, largest: Option<usize>, now: Instant) -> bool {
        if let Some(largest) = largest {
            return size <= largest;
        }
        match &mut self.0 {
            Some(learnt) if size >= learnt.size => {
                let trial = now >= learnt.again;
                if trial {
                    learnt.again = now + learnt.wait;
                }
                trial
            }
            _ => true,
        }
    }

    /// The broker has taken a packet of `size`.
    pub fn taken(&mut self, size: usize) {
        self.0.take_if(|learnt| size >= learnt.size);
    }

    /// The connection broke over a packet of `size`; for how long such ones are left out.
    pub fn broke(&mut self, size: usize, now: Instant) -> Duration {
        let before = self.0.take();
        let wait = before.as_ref().map_or(FIRST, |learnt| (learnt.wait * 2).min(MAX_WAIT));
        let size = before.map_or(size, |learnt| learnt.size.min(size));
        self.0 = Some(Learnt { size, again: now + wait, wait });
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_broke_a_connection_is_left_out_tried_again_now_and_then_and_the_broker_knows_best() {
        let (mut limit, start) = (PictureLimit::default(), Instant::now());
        assert!(limit.admits(10_000, None, start));
        assert_eq!(limit.broke(10_000, start), FIRST);
        assert!(limit.admits(9999, None, start) && !limit.admits(10_000, None, start));
        let later = start + FIRST;
        assert!(limit.admits(20_000, None, later) && !limit.admits(20_000, None, later), "one is tried");
        assert_eq!(limit.broke(20_000, later), 2 * FIRST);
        assert!(!limit.admits(10_000, None, later + FIRST) && limit.admits(9999, None, later + FIRST));
        limit.taken(9999);
        let last = later + 2 * FIRST;
        assert!(limit.admits(10_000, None, last) && !limit.admits(10_000, None, last));
        limit.taken(10_000);
        assert!(limit.admits(10_000, None, last), "it was something else");
        assert!(limit.admits(6000, Some(6000), last) && !limit.admits(6001, Some(6000), last));
    }
}
