//! Frame accounting (invariant 2): every sampled frame ends as inferred, reused or dropped{reason}, exactly once.
//!
//! A [`Ticket`] is made when a frame is sampled and travels with it. Whoever ends the frame's way settles the ticket;
//! one that is dropped unsettled counts as dropped for the reason it was last marked with, so no path can forget.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::frame::StreamId;

/// Why a sampled frame was not looked at. The set is closed so that metric cardinality is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// A newer frame of the same stream took its slot.
    Superseded,
    /// It was sampled but could not be converted or mapped.
    Decode,
    /// Preprocessing failed.
    Preprocess,
    /// The inference run failed.
    Inference,
    /// The daemon was stopping.
    Shutdown,
    /// `model: none` looks at nothing.
    NoModel,
}

impl DropReason {
    pub const ALL: [Self; 6] =
        [Self::Superseded, Self::Decode, Self::Preprocess, Self::Inference, Self::Shutdown, Self::NoModel];

    /// Value of the `reason` metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Superseded => "superseded",
            Self::Decode => "decode",
            Self::Preprocess => "preprocess",
            Self::Inference => "inference",
            Self::Shutdown => "shutdown",
            Self::NoModel => "no_model",
        }
    }
}

/// How a frame's way ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Inferred,
    /// The last embedding was used again because the view had not changed.
    Reused,
    Dropped(DropReason),
}

/// Counters of one stream. Totals only grow.
#[derive(Debug, Default)]
pub struct Account {
    sampled: AtomicU64,
    inferred: AtomicU64,
    reused: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
}

/// A reading of an [`Account`].
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    pub sampled: u64,
    pub inferred: u64,
    pub reused: u64,
    pub dropped: BTreeMap<&'static str, u64>,
}

impl Totals {
    /// Sampled frames that have not ended yet; 0 once everything has drained.
    pub fn unaccounted(&self) -> i64 {
        let ended = self.inferred + self.reused + self.dropped.values().sum::<u64>();
        self.sampled as i64 - ended as i64
    }
}

impl Account {
    pub fn totals(&self) -> Totals {
        // Ends are read before `sampled`, so a frame that ends meanwhile can only look unfinished, never ended twice.
        let dropped = DropReason::ALL
            .into_iter()
            .map(|r| (r.as_str(), self.dropped[r as usize].load(Ordering::Acquire)))
            .filter(|(_, n)| *n > 0)
            .collect();
        let (inferred, reused) = (self.inferred.load(Ordering::Acquire), self.reused.load(Ordering::Acquire));
        Totals { sampled: self.sampled.load(Ordering::Acquire), inferred, reused, dropped }
    }

    /// Counts one sampled frame and gives the ticket that will end it.
    pub fn sample(self: &Arc<Self>, stream: &StreamId) -> Ticket {
        self.sampled.fetch_add(1, Ordering::AcqRel);
        metrics::counter!("vtagd_frames_sampled_total", "stream" => stream.to_string()).increment(1);
        Ticket { account: Arc::clone(self), stream: Arc::clone(stream), fate: Mutex::new(Some(DropReason::Shutdown)) }
    }

    fn settle(&self, stream: &StreamId, outcome: Outcome) {
        let stream = stream.to_string();
        match outcome {
            Outcome::Inferred => {
                self.inferred.fetch_add(1, Ordering::AcqRel);
                metrics::counter!("vtagd_frames_inferred_total", "stream" => stream).increment(1);
            }
            Outcome::Reused => {
                self.reused.fetch_add(1, Ordering::AcqRel);
                metrics::counter!("vtagd_frames_reused_total", "stream" => stream).increment(1);
            }
            Outcome::Dropped(reason) => {
                self.dropped[reason as usize].fetch_add(1, Ordering::AcqRel);
                metrics::counter!("vtagd_frames_dropped_total", "stream" => stream, "reason" => reason.as_str())
                    .increment(1);
            }
        }
    }
}

/// The right to end one sampled frame's way, once.
#[derive(Debug)]
pub struct Ticket {
    account: Arc<Account>,
    stream: StreamId,
    /// What a silent drop counts as; `None` once settled.
    fate: Mutex<Option<DropReason>>,
}

impl Ticket {
    /// Ends the frame's way. Later calls do nothing: the first ending counts.
    pub fn settle(&self, outcome: Outcome) {
        if self.fate.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            self.account.settle(&self.stream, outcome);
        }
    }

    /// Whether the frame's way has ended already.
    pub fn is_settled(&self) -> bool {
        self.fate.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let fate = self.fate.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reason) = fate {
            self.account.settle(&self.stream, Outcome::Dropped(reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_counted_once_however_often_it_is_settled() {
        let account = Arc::new(Account::default());
        let stream: StreamId = "a".into();
        let ticket = account.sample(&stream);
        ticket.settle(Outcome::Inferred);
        ticket.settle(Outcome::Dropped(DropReason::Inference));
        drop(ticket);
        let totals = account.totals();
        assert_eq!((totals.sampled, totals.inferred, totals.unaccounted()), (1, 1, 0));
        assert!(totals.dropped.is_empty());
    }

    #[test]
    fn a_forgotten_ticket_still_ends_in_a_counter() {
        let account = Arc::new(Account::default());
        drop(account.sample(&"a".into()));
        assert_eq!(account.totals().dropped.get("shutdown"), Some(&1));
        assert_eq!(account.totals().unaccounted(), 0);
    }
}
