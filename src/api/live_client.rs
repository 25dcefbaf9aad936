//! A client of the live stream: what it wants, what waits for it, and the body of its answer.
//!
//! In: messages of [`live`](super::live), made once and shared by all clients as bytes. Out: server-sent events, as fast as the client reads.
//! On the API's runtime; nobody waits for a client. Full (messages or bytes): the oldest scores go, then heartbeats, states and events, and the
//! client is told how many (`lost`). Closed: an ended client gets what waits, and then the end of its answer; one that has gone drops its body. Who asks for a time is ended then.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use axum::body::Bytes;
use hyper::body::Frame;
use parking_lot::Mutex;
use serde_json::json;

use super::access::Grant;
use crate::event::Event;

/// Messages that wait for one client …
const MAX_WAITING: usize = 256;
/// … and their bytes, but for a single one that is larger.
const MAX_BYTES: usize = 1 << 20;

/// What a message is about. In the order in which they are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Scores,
    Heartbeat,
    Status,
    Event,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Scores, Self::Heartbeat, Self::Status, Self::Event];

    pub const WORDS: [&str; 4] = {
        let [scores, heartbeat, status, event] = Self::ALL;
        [scores.as_str(), heartbeat.as_str(), status.as_str(), event.as_str()]
    };

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scores => "scores",
            Self::Heartbeat => "heartbeat",
            Self::Status => "status",
            Self::Event => "event",
        }
    }
}

/// One server-sent event. JSON on one line has no line break that could end it early.
pub(super) fn message(event: &str, id: Option<&str>, data: &str) -> Bytes {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    Bytes::from(format!("{id}event: {event}\ndata: {data}\n\n"))
}

/// What was not told, and why: the client was `too_slow`, or it is `not_kept` any more. `None`: nobody knows how much.
pub(super) fn lost(kind: Kind, count: Option<u64>, why: &str) -> Bytes {
    message("lost", None, &json!({ "kind": kind.as_str(), "count": count, "why": why }).to_string())
}

/// What was asked for; `None` is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub kinds: Option<Vec<Kind>>,
    pub streams: Option<BTreeSet<String>>,
    pub regions: Option<BTreeSet<String>>,
    /// It ends then.
    pub until: Option<Instant>,
}

impl Wanted {
    /// Heartbeats come whatever is asked for: without them nobody knows that a quiet stream goes on.
    pub fn kind(&self, kind: Kind) -> bool {
        kind == Kind::Heartbeat || self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }

    pub fn stream(&self, stream: &str) -> bool {
        self.streams.as_ref().is_none_or(|streams| streams.contains(stream))
    }

    /// Of a whole view: who asks for regions does not want it.
    pub fn region(&self, region: Option<&str>) -> bool {
        self.regions.as_ref().is_none_or(|regions| region.is_some_and(|region| regions.contains(region)))
    }

    pub fn event(&self, event: &Event) -> bool {
        self.stream(&event.data.stream) && self.region(event.data.region.as_deref())
    }

    pub fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// See the module.
pub(super) struct LiveClient {
    pub wanted: Wanted,
    /// What lets it read.
    pub grant: Grant,
    state: Mutex<State>,
}

struct State {
    /// Told before everything else: how the stream begins, and what it missed.
    first: VecDeque<Bytes>,
    waiting: VecDeque<(Kind, Bytes)>,
    bytes: usize,
    /// Of each [`Kind`].
    lost: [u64; Kind::ALL.len()],
    /// The number of the next event that it has not got.
    next_event: u64,
    /// It has not been told how things stand.
    is_new: bool,
    has_ended: bool,
    waker: Option<Waker>,
}

impl LiveClient {
    /// One that begins with `first` and goes on with the event of the number `next_event`.
    pub fn new(wanted: Wanted, grant: Grant, first: VecDeque<Bytes>, next_event: u64) -> Self {
        let state = State {
            first,
            waiting: VecDeque::new(),
            bytes: 0,
            lost: [0; Kind::ALL.len()],
            next_event,
            is_new: true,
            has_ended: false,
            waker: None,
        };
        Self { wanted, grant, state: Mutex::new(state) }
    }

    /// Puts `bytes` behind what waits.
    pub fn push(&self, kind: Kind, bytes: Bytes) {
        let mut state = self.state.lock();
        if state.has_ended {
            return;
        }
        state.bytes += bytes.len();
        state.waiting.push_back((kind, bytes));
        state.make_room();
        state.wake();
    }

    /// So many messages never came here.
    pub fn lose(&self, kind: Kind, count: u64) {
        let mut state = self.state.lock();
        state.lost[kind as usize] += count;
        state.wake();
    }

    /// Whether it is to be told how things stand; asked once, and again after some of that was lost.
    pub fn take_new(&self) -> bool {
        std::mem::take(&mut self.state.lock().is_new)
    }

    pub fn next_event(&self) -> u64 {
        self.state.lock().next_event
    }

    pub fn set_next_event(&self, next: u64) {
        self.state.lock().next_event = next;
    }

    /// Nothing more comes.
    pub fn end(&self) {
        let mut state = self.state.lock();
        state.has_ended = true;
        state.wake();
    }
}

impl State {
    fn make_room(&mut self) {
        while self.waiting.len() > MAX_WAITING || (self.bytes > MAX_BYTES && self.waiting.len() > 1) {
            let least = self.waiting.iter().enumerate().min_by_key(|(at, (kind, _))| (*kind, *at)).map(|(at, _)| at);
            let Some((kind, bytes)) = least.and_then(|at| self.waiting.remove(at)) else { return };
            self.bytes -= bytes.len();
            match kind {
                Kind::Heartbeat => {}
                // It does not know how things stand any more, so it is told all of it again.
                Kind::Status => self.is_new = true,
                Kind::Scores | Kind::Event => self.lost[kind as usize] += 1,
            }
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.pop_front() {
            return Some(first);
        }
        // What was lost is older than all that waits.
        let lost_kind = Kind::ALL.into_iter().find(|kind| self.lost[*kind as usize] > 0);
        if let Some(kind) = lost_kind {
            return Some(lost(kind, Some(std::mem::take(&mut self.lost[kind as usize])), "too_slow"));
        }
        let (_, bytes) = self.waiting.pop_front()?;
        self.bytes -= bytes.len();
        Some(bytes)
    }
}

/// The answer's body. While it is there the client is.
pub(super) struct LiveBody(pub Arc<LiveClient>);

impl hyper::body::Body for LiveBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut state = self.0.state.lock();
        match state.next() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None if state.has_ended => Poll::Ready(None),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> LiveClient {
        LiveClient::new(Wanted::default(), Grant::default(), VecDeque::new(), 0)
    }

    fn all(client: &LiveClient) -> Vec<String> {
        let mut state = client.state.lock();
        std::iter::from_fn(|| state.next()).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).collect()
    }

    #[test]
    fn who_asks_for_regions_gets_none_of_whole_views() {
        let all = Wanted::default();
        let few = Wanted { regions: Some(["gate".to_owned()].into()), ..Wanted::default() };
        let takes = |wanted: &Wanted| [Some("gate"), Some("yard"), None].map(|region| wanted.region(region));
        assert_eq!((takes(&all), takes(&few)), ([true, true, true], [true, false, false]));
    }

    #[test]
    fn who_asks_for_a_time_is_over_when_it_has_passed() {
        let now = Instant::now();
        let later = now + std::time::Duration::from_secs(2);
        let wanted = Wanted { until: Some(later), ..Wanted::default() };
        assert!(!wanted.is_over(now) && wanted.is_over(later) && !Wanted::default().is_over(later));
    }

    #[test]
    fn who_is_slow_loses_the_oldest_scores_and_is_told_how_many() {
        let client = client();
        client.push(Kind::Event, message("event", Some("1"), "{}"));
        for n in 0..MAX_WAITING + 9 {
            client.push(Kind::Scores, message("scores", None, &n.to_string()));
        }
        let told = all(&client);
        assert_eq!(told.len(), MAX_WAITING + 1);
        assert_eq!(told[0], "event: lost\ndata: {\"count\":10,\"kind\":\"scores\",\"why\":\"too_slow\"}\n\n");
        assert_eq!(told[1], "id: 1\nevent: event\ndata: {}\n\n");
        assert_eq!(told[2], "event: scores\ndata: 10\n\n");
        assert!(all(&client).is_empty());
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_and_a_lost_state_is_told_anew() {
        let client = client();
        assert!(client.take_new() && !client.take_new());
        let large = "x".repeat(MAX_BYTES / 2);
        client.push(Kind::Status, message("status", None, &large));
        client.push(Kind::Event, message("event", None, &large));
        client.push(Kind::Event, message("event", None, &large));
        let state = client.state.lock();
        assert!(state.bytes <= MAX_BYTES && state.waiting.len() == 1 && state.lost[Kind::Event as usize] == 1);
        drop(state);
        assert!(client.take_new(), "it has to hear of the states again");
        let huge = "x".repeat(MAX_BYTES * 2);
        client.push(Kind::Event, message("event", None, &huge));
        assert_eq!(client.state.lock().waiting.len(), 1, "one is taken however large it is");
    }
}
