//! What a sink leaves at the other side for good, and whose it is: written down by the outbox before it is left there.
//!
//! A sink asks by its [`DeliveryReceiver`] and waits for the answer; the outbox's thread answers out of its file. One question of a sink is under
//! way at a time; a second one, or one that nobody answers in [`ANSWER_TIMEOUT`], is an error, and the sink goes on without. Where nobody
//! writes anything down (a test that holds the [`DeliverySender`]) the answer comes at once: nothing is known.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{DeliveryReceiver, DeliverySender};

/// For an answer. A disk may be slow; a sink should not stand still for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// SHA-256 of a payload.
pub type Digest = [u8; 32];

/// Of one payload.
pub fn digest(payload: &[u8]) -> Digest {
    Sha256::digest(payload).into()
}

/// What is known of one topic that was published from here and stays at the other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Of what was published last; `None`: it changes too often to be written down each time, any of our payloads may lie there.
    pub digest: Option<Digest>,
    /// Of what was published before, which still lies there if the daemon was killed in between.
    pub before: Option<Digest>,
}

/// A change of the record: what will be published under a topic next; no proof: nothing of ours lies there any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub topic: String,
    pub proof: Option<Proof>,
}

/// A label whose level is meant: in its stream's own topics, or below the stream's regions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelPlace {
    pub stream: String,
    pub set: String,
    pub label: String,
    pub in_regions: bool,
}

/// Levels of topics, by label.
pub type Levels = BTreeMap<LabelPlace, String>;

/// What has gone from documents that lie at the other side, by topic: each component's key and platform; one without a name stands for the whole
/// document. Those who listen there may not have heard of it yet.
pub type Unheard = BTreeMap<String, BTreeMap<String, String>>;

/// What the outbox knows of one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownRecord {
    /// Which outbox this is; `None`: one in memory, which nobody would know again.
    pub identity: Option<Uuid>,
    pub retained: BTreeMap<String, Proof>,
    pub levels: Levels,
    pub unheard: Unheard,
}

/// What the outbox is to write down of one place, all or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordUpdate {
    pub changes: Vec<Change>,
    /// Of labels that had none so far.
    pub levels: Levels,
    /// All of it; `None`: as it was.
    pub unheard: Option<Unheard>,
}

impl RecordUpdate {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.levels.is_empty() && self.unheard.is_none()
    }
}

/// What a sink wants, and where it waits for the answer.
pub enum Ask {
    /// Everything about `place`.
    Read { place: String, answer: oneshot::Sender<Result<KnownRecord, String>> },
    /// `update` is written down.
    Write { place: String, update: RecordUpdate, answer: oneshot::Sender<Result<(), String>> },
}

impl DeliverySender {
    /// From here on what the sink asks is answered.
    pub fn keep_record(&self) {
        self.state.asks.lock().0 = true;
    }

    /// What the sink has asked since the last call.
    pub fn asked(&self) -> Vec<Ask> {
        std::mem::take(&mut self.state.asks.lock().1)
    }
}

impl DeliveryReceiver {
    /// What was left at `place` (the other side as the sink calls it), by this life of the daemon or an earlier one. Waits for as long as the
    /// outbox needs to open.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub async fn recorded(&self, place: &str) -> Result<KnownRecord, String> {
        let (answer, told) = oneshot::channel();
        match self.ask(Ask::Read { place: place.to_owned(), answer }) {
            Ok(true) => told.await.unwrap_or_else(|_| Err("the outbox has ended".to_owned())),
            Ok(false) => Ok(KnownRecord::default()),
            Err(why) => Err(why),
        }
    }

    /// Writes `update` down. When it returns it is on the disk.
    ///
    /// # Errors
    /// Why that could not be; it may still happen.
    pub async fn record(&self, place: &str, update: RecordUpdate) -> Result<(), String> {
        let (answer, told) = oneshot::channel();
        if !self.ask(Ask::Write { place: place.to_owned(), update, answer })? {
            return Ok(());
        }
        match tokio::time::timeout(ANSWER_TIMEOUT, told).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err("the outbox has ended".to_owned())),
            Err(_) => Err(format!("the outbox has not answered for {ANSWER_TIMEOUT:?}")),
        }
    }

    /// Whether somebody will answer.
    fn ask(&self, ask: Ask) -> Result<bool, String> {
        let mut asks = self.state.asks.lock();
        if !asks.0 {
            return Ok(false);
        }
        if !asks.1.is_empty() {
            return Err("the outbox has not looked at the last question yet".to_owned());
        }
        asks.1.push(ask);
        let _ = self.state.wake.try_send(());
        Ok(true)
    }
}
