//! Taking away what this daemon published and does not want any more. Pure; the session does what it says.
//!
//! A few topics at a time: each is asked for by its exact name, and what lies there is compared with what was. What is ours is cleared, what
//! another has written since stays and is forgotten; where nothing comes within the session's patience after the broker's answer nothing lies.
//! What the broker does not let us read stays, and stays in the record. What was cleared is
//! asked for once more in the next round, so a topic is forgotten only after it was seen to be empty.

use std::collections::BTreeSet;

/// Topics of one round: so many subscriptions at a time.
const ROUND: usize = 32;

/// See the module.
#[derive(Debug, Default)]
pub struct Clearing {
    /// Asked for, and nothing heard yet.
    asked: BTreeSet<String>,
    /// All of the round, to unsubscribe from.
    round: Vec<String>,
    /// Cleared on this connection.
    cleared: BTreeSet<String>,
    /// They lay there once more after they had been cleared: the broker does not do it.
    stuck: BTreeSet<String>,
}

/// What to do with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Clear,
    /// Another program's by now.
    Leave,
    /// It was cleared already.
    Stuck,
}

impl Clearing {
    /// Whether a round is under way.
    pub fn is_busy(&self) -> bool {
        !self.round.is_empty()
    }

    /// Begins a round with the first of `gone`; which topics are to be asked for.
    pub fn begin(&mut self, gone: Vec<String>) -> &[String] {
        self.round = gone.into_iter().filter(|topic| !self.stuck.contains(topic)).take(ROUND).collect();
        self.asked = self.round.iter().cloned().collect();
        &self.round
    }

    /// The topics of the round that is under way.
    pub fn round(&self) -> &[String] {
        &self.round
    }

    /// Something lies under `topic`, ours or not; `None` if it was not asked for.
    pub fn decide(&mut self, topic: &str, ours: bool) -> Option<Verdict> {
        if !self.asked.remove(topic) {
            return None;
        }
        Some(match ours {
            false => Verdict::Leave,
            true if self.cleared.insert(topic.to_owned()) => Verdict::Clear,
            true => {
                self.stuck.insert(topic.to_owned());
                Verdict::Stuck
            }
        })
    }

    /// The broker does not show what lies under `topic`.
    pub fn refused(&mut self, topic: String) {
        self.asked.remove(&topic);
        self.stuck.insert(topic);
    }

    /// It is cleared though nothing lies there. Whether this connection had not done so before.
    pub fn clear_empty(&mut self, topic: &str) -> bool {
        self.cleared.insert(topic.to_owned())
    }

    /// The round is over: what was asked for, and of it what nothing lies under.
    pub fn end(&mut self) -> (Vec<String>, Vec<String>) {
        let empty = std::mem::take(&mut self.asked).into_iter().collect();
        (std::mem::take(&mut self.round), empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_forgotten_once_it_is_seen_empty_and_one_that_cannot_be_cleared_is_given_up() {
        let gone = || ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        let mut clearing = Clearing::default();
        assert_eq!(clearing.begin(gone()), ["a", "b", "c", "d"]);
        assert_eq!(clearing.decide("a", true), Some(Verdict::Clear));
        assert_eq!(clearing.decide("b", false), Some(Verdict::Leave));
        assert_eq!(clearing.decide("d", true), Some(Verdict::Clear));
        assert_eq!((clearing.decide("a", true), clearing.decide("x", true)), (None, None));
        assert_eq!(clearing.end(), (gone(), vec!["c".to_owned()]));
        assert!(!clearing.is_busy());
        assert_eq!(clearing.begin(vec!["a".into(), "d".into()]).len(), 2);
        assert_eq!(clearing.decide("d", true), Some(Verdict::Stuck));
        assert_eq!(clearing.end().1, ["a"]);
        assert!(clearing.begin(vec!["d".into()]).is_empty() && !clearing.is_busy());
    }

    #[test]
    fn what_cannot_be_read_is_neither_empty_nor_asked_for_again() {
        let mut clearing = Clearing::default();
        clearing.begin(vec!["a".into(), "b".into()]);
        clearing.refused("a".into());
        assert_eq!(clearing.decide("a", true), None);
        assert_eq!(clearing.end().1, ["b"]);
        assert!(clearing.begin(vec!["a".into()]).is_empty());
    }

    #[test]
    fn a_round_has_an_end() {
        let many: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        assert_eq!(Clearing::default().begin(many).len(), ROUND);
    }
}
