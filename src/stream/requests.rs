//! What is asked of the running daemon from outside: to read its configuration again (SIGHUP, the API, an inference server that has come), to switch a stream on or off
//! (MQTT, the API), or to change its state (the API).
//!
//! In: [`Request`]s of any thread, into one bounded queue. Out: one at a time, to the main thread, which may answer. Each origin has its
//! own room in the queue, so that none keeps another out. Full: the newest is refused, and its sender says so; a SIGHUP is one with
//! the one that waits. Closed: once the daemon stops, all are refused.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::platform::secret::Secret;
use crate::yaml::problem::Problem;

/// SIGHUPs that wait.
const SIGHUP_ROOM: usize = 1;

/// It comes for the first time once.
const SERVER_ROOM: usize = 1;

/// Commands over MQTT that wait.
const MQTT_ROOM: usize = 64;

/// Changes by the API that wait: a person or a script asks for one at a time.
const API_ROOM: usize = 16;

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// To read the configuration again.
    Reload,
    /// To switch a stream on or off.
    Switch { stream: String, enabled: bool },
    /// To remove the copy of a label set from the state directory, and read the configuration again.
    ResetSet { set: String },
    /// To keep a label set with this label in the state directory, if it is still the set that has this hash, and read the configuration again.
    EditLabel { set: String, sha256: String, draft: LabelDraft },
    /// To keep a stream in the state directory, and read the configuration again.
    AddStream(NewStream),
    /// To let go of a stream that was added so, and read the configuration again.
    RemoveStream { stream: String },
}

/// A stream as somebody wants it to be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewStream {
    pub id: String,
    /// As it was given: it may hold credentials, and is not told before it has been checked.
    pub url: String,
    pub username: Option<String>,
    pub password: Option<Secret>,
}

/// A label as somebody wants it to be, and what it is to compete with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelDraft {
    pub label: String,
    pub prompts: Vec<String>,
    pub negatives: Vec<String>,
    /// Of the whole set; `None`: as it is.
    pub background: Option<Vec<String>>,
    /// Margins; `None`: as they are.
    pub enter: Option<f64>,
    pub exit: Option<f64>,
    /// What it looks like, and what it is not, besides what it has.
    pub examples: Vec<PastMoment>,
    pub counter_examples: Vec<PastMoment>,
}

/// A moment that the history has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastMoment {
    pub stream: String,
    pub region: Option<String>,
    pub at: Timestamp,
}

/// See the module.
#[derive(Debug)]
pub struct Request {
    /// Who asks.
    pub origin: &'static str,
    pub action: Action,
    /// Where somebody waits for the outcome.
    pub answer: Option<oneshot::Sender<RequestOutcome>>,
}

/// What became of a request.
#[derive(Debug)]
pub enum RequestOutcome {
    Done,
    /// It was so before.
    Already,
    NoSuchStream,
    NoSuchSet,
    /// What was to be changed is not any more what he who asks has seen, and why.
    Outdated(String),
    /// Nothing has changed.
    Refused {
        why: String,
        problems: Vec<Problem>,
    },
}

/// Why a request has no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoOutcome {
    /// Too many wait already.
    Busy,
    /// It was taken and is not done yet.
    Late,
    /// The daemon ends.
    Stopping,
}

/// A request and its place in its origin's room.
type Queued = (Request, OwnedSemaphorePermit);

/// Where one origin asks.
#[derive(Clone, Debug)]
pub struct RequestSender {
    origin: &'static str,
    room: Arc<Semaphore>,
    queue: Sender<Queued>,
}

/// One for each origin.
pub struct RequestSenders {
    pub sighup: RequestSender,
    pub mqtt: RequestSender,
    pub api: RequestSender,
    pub server: RequestSender,
}

/// Where the requests come out.
#[derive(Clone, Debug)]
pub struct RequestReceiver(Receiver<Queued>);

/// Both sides of an empty queue.
pub fn channel() -> (RequestSenders, RequestReceiver) {
    let (queue, queued) = bounded(SIGHUP_ROOM + SERVER_ROOM + MQTT_ROOM + API_ROOM);
    let sender = |origin, room| RequestSender { origin, room: Arc::new(Semaphore::new(room)), queue: queue.clone() };
    let (sighup, mqtt) = (sender("SIGHUP", SIGHUP_ROOM), sender("MQTT", MQTT_ROOM));
    let (api, server) = (sender("the API", API_ROOM), sender("the inference server", SERVER_ROOM));
    (RequestSenders { sighup, mqtt, api, server }, RequestReceiver(queued))
}

impl RequestSender {
    /// Asks, and does not hear what comes of it.
    ///
    /// # Errors
    /// [`NoOutcome::Busy`] or [`NoOutcome::Stopping`]: it will not be done.
    pub fn send(&self, action: Action) -> Result<(), NoOutcome> {
        self.put(action, None)
    }

    /// Asks, and waits at most `timeout` for what comes of it.
    ///
    /// # Errors
    /// Why nothing is known of it.
    pub async fn ask(&self, action: Action, timeout: Duration) -> Result<RequestOutcome, NoOutcome> {
        let (answer, outcome) = oneshot::channel();
        self.put(action, Some(answer))?;
        match tokio::time::timeout(timeout, outcome).await {
            Err(_) => Err(NoOutcome::Late),
            Ok(outcome) => outcome.map_err(|_| NoOutcome::Stopping),
        }
    }

    fn put(&self, action: Action, answer: Option<oneshot::Sender<RequestOutcome>>) -> Result<(), NoOutcome> {
        let permit = Arc::clone(&self.room).try_acquire_owned().map_err(|_| NoOutcome::Busy)?;
        let request = Request { origin: self.origin, action, answer };
        // There is room for every permit; what is left to fail is that nobody takes it any more.
        self.queue.try_send((request, permit)).map_err(|_| NoOutcome::Stopping)
    }
}

impl RequestReceiver {
    /// The next request, which leaves its room to another; waits for it at most `timeout`.
    pub fn next(&self, timeout: Duration) -> Option<Request> {
        self.0.recv_timeout(timeout).ok().map(|(request, _permit)| request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn a_request_is_answered_or_it_is_told_why_not() {
        let (senders, requests) = channel();
        let main = std::thread::spawn(move || {
            let request = requests.next(Duration::from_secs(600)).unwrap();
            assert_eq!((request.origin, request.action), ("the API", Action::Reload));
            request.answer.unwrap().send(RequestOutcome::Already).unwrap();
            // The second is taken and never answered: the daemon ends.
            drop(requests.next(Duration::from_secs(600)).unwrap());
        });
        let timeout = Duration::from_secs(600);
        assert!(matches!(wait(senders.api.ask(Action::Reload, timeout)), Ok(RequestOutcome::Already)));
        assert_eq!(wait(senders.api.ask(Action::Reload, timeout)).unwrap_err(), NoOutcome::Stopping);
        main.join().unwrap();
        assert_eq!(wait(senders.api.ask(Action::Reload, timeout)).unwrap_err(), NoOutcome::Stopping);
        assert_eq!(senders.mqtt.send(Action::Reload).unwrap_err(), NoOutcome::Stopping);
    }

    #[test]
    fn each_origin_has_its_own_room_and_one_that_is_taken_makes_room() {
        let (senders, requests) = channel();
        for (sender, room) in [(&senders.sighup, 1), (&senders.mqtt, 64), (&senders.api, 16)] {
            for _ in 0..room {
                sender.send(Action::Reload).unwrap();
            }
            assert_eq!(sender.send(Action::Reload).unwrap_err(), NoOutcome::Busy);
        }
        assert_eq!(wait(senders.api.ask(Action::Reload, Duration::ZERO)).unwrap_err(), NoOutcome::Busy);
        assert_eq!(requests.next(Duration::ZERO).unwrap().origin, "SIGHUP");
        assert_eq!(senders.mqtt.send(Action::Reload).unwrap_err(), NoOutcome::Busy, "that room was another's");
        senders.sighup.send(Action::Reload).unwrap();
        let left: Vec<_> = std::iter::from_fn(|| requests.next(Duration::ZERO)).map(|request| request.origin).collect();
        assert_eq!((left.len(), *left.last().unwrap()), (64 + 16 + 1, "SIGHUP"), "in the order in which they came");
    }

    #[test]
    fn a_request_that_nobody_takes_is_late() {
        let (senders, _requests) = channel();
        assert_eq!(wait(senders.api.ask(Action::Reload, Duration::ZERO)).unwrap_err(), NoOutcome::Late);
    }
}
