//! `/api/v1/live`: scores, events and states as server-sent events, while they happen.
//!
//! While there are clients, a task on the API's runtime looks ten times a second at what there is: streams with a new sample, events with a
//! higher number, states that are other than before. What it finds becomes bytes once and goes to every client that wants it
//! (`live_client.rs` says what happens to a slow one). So a sample is told at most [`TICK`] late, a stream tells its scores at most once in that
//! time, and the threads that score and make events know nothing of it: while nobody looks, there is no task. Clients are bounded by their class
//! (`limits.rs`). Ends for all when the daemon stops, and for one whose session or token is not good any more, or whose time (`for`) is over.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};

use super::guard::{Caller, refusal};
use super::live_client::{Kind, LiveBody, LiveClient, Wanted, lost, message};
use super::parameters::{Parameter, ParameterKind, Parameters};
use super::{Board, Shared};
use crate::event::Event;
use crate::event::live_scores::{Detail, LabelState, StreamScores, Told};
use crate::outbox::RecentSince;
use crate::outbox::history_reader::{OutboxReader, Query as HistoryQuery};
use crate::stream::StreamId;

/// Between two looks at what there is.
const TICK: Duration = Duration::from_millis(100);
/// Between two heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// Events that are told again to a client that comes back.
const MAX_REPLAY: usize = 1000;
/// When a client may come back after its connection broke off, in milliseconds, and the first bytes that it gets.
const RETRY: &str = "retry: 2000\n\n";

/// All clients.
#[derive(Default)]
pub(super) struct LiveHub(Mutex<Clients>);

#[derive(Default)]
struct Clients {
    clients: Vec<Weak<LiveClient>>,
    /// Somebody looks for them.
    served: bool,
}

impl LiveHub {
    fn enter(&self, client: &Arc<LiveClient>, shared: &Shared) {
        let mut all = self.0.lock();
        all.clients.push(Arc::downgrade(client));
        if !std::mem::replace(&mut all.served, true) {
            tokio::spawn(tell_clients(shared.clone()));
        }
    }

    /// Those that are there; when it is nobody, nobody is served from then on.
    fn clients(&self) -> Vec<Arc<LiveClient>> {
        let mut all = self.0.lock();
        all.clients.retain(|client| client.strong_count() > 0);
        let there: Vec<_> = all.clients.iter().filter_map(Weak::upgrade).collect();
        all.served = !there.is_empty();
        there
    }
}

/// Tells all clients what happens, until there are none.
async fn tell_clients(shared: Shared) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = AlreadyTold::default();
    loop {
        ticks.tick().await;
        let clients = shared.board.live.clients();
        if clients.is_empty() {
            return;
        }
        let now = Instant::now();
        let stopping = shared.access.is_stopping();
        let is_over = |client: &LiveClient| stopping || client.wanted.is_over(now);
        for client in clients.iter().filter(|client| is_over(client) || !shared.access.is_in_force(&client.grant, now))
        {
            client.end();
        }
        told.tell(&shared.board, &clients, now);
    }
}

/// Streams and sinks by name, each with its state.
type States = BTreeMap<String, Value>;

/// What clients know already.
#[derive(Default)]
struct AlreadyTold {
    /// When the sample was taken whose scores were told last, of each stream.
    samples: HashMap<StreamId, Timestamp>,
    streams: States,
    sinks: States,
    heartbeat: Option<Instant>,
}

impl AlreadyTold {
    fn tell(&mut self, board: &Board, clients: &[Arc<LiveClient>], now: Instant) {
        let new: Vec<bool> = clients.iter().map(|client| client.take_new()).collect();
        self.states(board, clients, &new);
        self.scores(board, clients, &new, now);
        events(board, clients);
        if self.heartbeat.is_none_or(|then| now.saturating_duration_since(then) >= HEARTBEAT_INTERVAL) {
            self.heartbeat = Some(now);
            let beat = message(Kind::Heartbeat.as_str(), None, &json!({ "at": Timestamp::now() }).to_string());
            clients.iter().for_each(|client| client.push(Kind::Heartbeat, beat.clone()));
        }
    }

    fn states(&mut self, board: &Board, clients: &[Arc<LiveClient>], new: &[bool]) {
        let streams: States = board
            .streams()
            .iter()
            .map(|stream| {
                let mut row = json!(stream.status.report(Instant::now()).state);
                row["id"] = json!(stream.id());
                (stream.id().to_owned(), row)
            })
            .collect();
        let sinks = board.outbox().unwrap_or_default().sinks.into_iter().map(|sink| {
            let mut row = json!(sink.health);
            row["name"] = json!(sink.name);
            if let Some(notice) = sink.notice {
                row["notice"] = json!(notice);
            }
            (sink.name, row)
        });
        let sinks: States = sinks.collect();
        let changed = |before: &States, after: &States| -> States {
            after
                .iter()
                .filter(|(name, row)| before.get(*name) != Some(row))
                .map(|(n, r)| (n.clone(), r.clone()))
                .collect()
        };
        let gone: Vec<String> = self.streams.keys().filter(|id| !streams.contains_key(*id)).cloned().collect();
        let (streams_changed, sinks_changed) = (changed(&self.streams, &streams), changed(&self.sinks, &sinks));
        let word = |whole: bool, streams: &States, sinks: &States, gone: &[String], wanted: &Wanted| {
            let streams: Vec<&Value> = streams.iter().filter(|(id, _)| wanted.stream(id)).map(|(_, row)| row).collect();
            let gone: Vec<&String> = gone.iter().filter(|id| wanted.stream(id)).collect();
            let sinks: Vec<&Value> = sinks.values().collect();
            if !whole && streams.is_empty() && gone.is_empty() && sinks.is_empty() {
                return None;
            }
            let data = json!({ "whole": whole, "streams": streams, "sinks": sinks, "gone": gone });
            Some(message(Kind::Status.as_str(), None, &data.to_string()))
        };
        // Most clients want all streams, and share what is made for one of them.
        let mut shared: [Option<Option<Bytes>>; 2] = [None, None];
        for (client, new) in clients.iter().zip(new).filter(|(client, _)| client.wanted.kind(Kind::Status)) {
            let make = || match new {
                true => word(true, &streams, &sinks, &[], &client.wanted),
                false => word(false, &streams_changed, &sinks_changed, &gone, &client.wanted),
            };
            let bytes = match client.wanted.streams {
                None => shared[usize::from(*new)].get_or_insert_with(make).clone(),
                Some(_) => make(),
            };
            bytes.into_iter().for_each(|bytes| client.push(Kind::Status, bytes));
        }
        (self.streams, self.sinks) = (streams, sinks);
    }

    /// A stream's scores to all who want them if it has a new sample, else to those who are new.
    fn scores(&mut self, board: &Board, clients: &[Arc<LiveClient>], new: &[bool], now: Instant) {
        let wants_scores = |client: &Arc<LiveClient>| client.wanted.kind(Kind::Scores);
        if !clients.iter().any(wants_scores) {
            return;
        }
        let mut samples: HashMap<StreamId, Timestamp> = board.live_scores().last_samples().into_iter().collect();
        for (id, at) in &mut samples {
            let has_new_sample = self.samples.get(id) != Some(&*at);
            let mut listeners = clients
                .iter()
                .zip(new)
                .filter(|(client, new)| (has_new_sample || **new) && wants_scores(client) && client.wanted.stream(id))
                .peekable();
            if listeners.peek().is_none() {
                continue;
            }
            let Some(scores) = board.live_scores().reading(id, now, Detail::Latest, |_, _, _| true) else { continue };
            // There may have been another since.
            *at = scores.at.unwrap_or(*at);
            // As of states: most want all of it.
            let mut shared = None;
            for (client, _) in listeners {
                let make = || scores_message(&scores, &client.wanted);
                let bytes = match client.wanted.regions {
                    None => shared.get_or_insert_with(make).clone(),
                    Some(_) => make(),
                };
                bytes.into_iter().for_each(|bytes| client.push(Kind::Scores, bytes));
            }
        }
        self.samples = samples;
    }
}

/// A part of what `/api/v1/streams/{id}/scores` answers: what changes from sample to sample.
#[derive(Serialize)]
struct Scores<'a> {
    stream: &'a str,
    at: Option<Timestamp>,
    scores: Vec<LabelScores<'a>>,
}

#[derive(Serialize)]
struct LabelScores<'a> {
    region: Option<&'a str>,
    set: &'a str,
    label: &'a str,
    #[serde(flatten)]
    told: &'a Told,
    state: LabelState,
}

/// What is told of `all` to who wants this. `None`: nothing of it is wanted.
fn scores_message(all: &StreamScores, wanted: &Wanted) -> Option<Bytes> {
    let of = |region: &Option<String>| wanted.region(region.as_deref());
    let scores: Vec<LabelScores<'_>> = all
        .scores
        .iter()
        .filter(|one| of(&one.region))
        .map(|one| LabelScores {
            region: one.region.as_deref(),
            set: &one.set,
            label: &one.label,
            told: &one.told,
            state: one.state,
        })
        .collect();
    if scores.is_empty() && wanted.regions.is_some() {
        return None;
    }
    let data = serde_json::to_string(&Scores { stream: &all.stream, at: all.at, scores }).ok()?;
    Some(message(Kind::Scores.as_str(), None, &data))
}

/// Gives every client the events that it has not got.
fn events(board: &Board, clients: &[Arc<LiveClient>]) {
    let listeners: Vec<_> = clients.iter().filter(|client| client.wanted.kind(Kind::Event)).collect();
    let Some(from) = listeners.iter().map(|client| client.next_event()).min() else { return };
    let since = board.recent_since(from);
    let first = since.next - since.events.len() as u64;
    for client in &listeners {
        let forgotten = first.saturating_sub(client.next_event());
        if forgotten > 0 {
            client.lose(Kind::Event, forgotten);
        }
    }
    for (number, event) in (first..).zip(&since.events) {
        let mut bytes = None;
        for client in &listeners {
            if number < client.next_event() || !client.wanted.event(event) {
                continue;
            }
            let bytes = bytes.get_or_insert_with(|| event_message(event));
            client.push(Kind::Event, bytes.clone());
        }
    }
    listeners.iter().for_each(|client| client.set_next_event(since.next));
}

fn event_message(event: &Event) -> Bytes {
    // It has no map with keys that are no text, which is all that could go wrong.
    let data = serde_json::to_string(event).unwrap_or_default();
    message(Kind::Event.as_str(), Some(&event.id.to_string()), &data)
}

/// What a client has missed since the event `id`, where it is `known` among the latest or the outbox's file still has it.
async fn missed(board: &Board, id: &str, latest: &RecentSince, wanted: &Wanted) -> VecDeque<Bytes> {
    let told = |events: &[Arc<Event>]| -> VecDeque<Bytes> {
        events.iter().filter(|event| wanted.event(event)).map(|event| event_message(event)).collect()
    };
    if let Some(at) = latest.events.iter().position(|event| event.id.to_string() == id) {
        return told(&latest.events[at + 1..]);
    }
    let names = |names: &Option<BTreeSet<String>>| names.iter().flatten().cloned().collect();
    let (streams, regions) = (names(&wanted.streams), names(&wanted.regions));
    let (query, searched) = (HistoryQuery { streams, regions, ..HistoryQuery::default() }, id.to_owned());
    let path = board.outbox().and_then(|outbox| outbox.path);
    // A disk may be slow.
    // It is never closed; as for pages of events.
    let turn = Arc::clone(&board.readers).acquire_owned().await;
    let read = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        OutboxReader::open(&path?).and_then(|outbox| outbox.after_event(&query, &searched, MAX_REPLAY)).ok()?
    });
    let Some((mut rows, left_out)) = read.await.ok().flatten() else {
        return VecDeque::from([lost(Kind::Event, None, "not_kept")]);
    };
    // What came while the file was read is told as it happens.
    let newer: HashSet<String> = board.recent_since(latest.next).events.iter().map(|e| e.id.to_string()).collect();
    rows.retain(|row| !newer.contains(&row.id));
    let mut first = VecDeque::new();
    if left_out != Some(0) {
        first.push_back(lost(Kind::Event, left_out, "not_kept"));
    }
    first.extend(rows.iter().map(|row| message(Kind::Event.as_str(), Some(&row.id), &row.body)));
    // The latest may not have been stored yet.
    let stored: HashSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let unstored = latest.events.iter().filter(|event| !stored.contains(&*event.id.to_string())).cloned();
    first.extend(told(&unstored.collect::<Vec<_>>()));
    first
}

pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter { name: "streams", kind: ParameterKind::Texts, meaning: "Only of these streams." },
    Parameter {
        name: "regions",
        kind: ParameterKind::Texts,
        meaning: "Only scores and events of regions of these names; streams and sinks have their states at any rate.",
    },
    Parameter {
        name: "kinds",
        kind: ParameterKind::Words(&Kind::WORDS),
        meaning: "Only these kinds; heartbeats come at any rate.",
    },
    Parameter {
        name: "for",
        kind: ParameterKind::Count { least: 1, most: 86_400, default: None },
        meaning: "It ends after so many seconds; left out, it goes on.",
    },
];

pub(super) async fn live(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Extension(given): Extension<Parameters>,
) -> Response {
    let kinds = |words: &[String]| {
        let of = |word: &String| Kind::ALL.into_iter().find(|kind| kind.as_str() == word);
        words.iter().filter_map(of).collect()
    };
    let names = |name: &str| given.texts(name).map(|names| names.iter().cloned().collect());
    let wanted = Wanted {
        kinds: given.texts("kinds").map(kinds),
        streams: names("streams"),
        regions: names("regions"),
        until: given.count("for").map(|seconds| Instant::now() + Duration::from_secs(seconds)),
    };
    let streams = shared.board.streams();
    let is_known = |id: &String| streams.iter().any(|stream| stream.id() == id);
    if !shared.board.is_starting() && !wanted.streams.iter().flatten().all(is_known) {
        return refusal(StatusCode::NOT_FOUND, "no such stream");
    }
    // What comes from here on is told as it happens; before it lies what has been missed.
    let latest = shared.board.recent_since(0);
    let mut first = VecDeque::from([Bytes::from_static(RETRY.as_bytes())]);
    if let Some(id) = headers.get("last-event-id")
        && wanted.kind(Kind::Event)
    {
        let id = id.to_str().unwrap_or_default();
        first.extend(missed(&shared.board, id, &latest, &wanted).await);
    }
    let client = Arc::new(LiveClient::new(wanted, caller.grant, first, latest.next));
    shared.board.live.enter(&client, &shared);
    // A proxy such as nginx would keep it back until there is more.
    let headers = [(header::CONTENT_TYPE.as_str(), "text/event-stream"), ("x-accel-buffering", "no")];
    (headers, Body::new(LiveBody(client))).into_response()
}
