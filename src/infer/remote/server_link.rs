//! What stands between a box and its inference server: a connection, whether it may be trusted, and a thread that makes another one when it may
//! not. Shared by the sessions, which send batches over it and say what came of them.
//!
//! The link's thread waits while the connection serves. Once it is lost, has gone wrong or does not answer ([`CircuitBreaker`]), the thread tries the
//! server's addresses in turn, asks what the model is, and lets it compute the probe: alone, and in two orders, so that an answer whose rows
//! are not those of the question is found out. Only then do batches go there again. No session ever waits for more than its batch's time.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use prost::bytes::Bytes;

use super::circuit_breaker::CircuitBreaker;
use super::client_runtime::{ClientRuntime, ConnectBudget, RemoteHalt, ended_within};
use super::probe_references::ProbeReferences;
use super::served_model::ServedModel;
use super::server_connection::{InferQuestion, ServerConnection};
use super::server_view::ServerView;
use super::tile_bytes::PixelScale;
use super::{RemoteError, RemoteOptions, ServerUrl};
use crate::infer::Stop;
use crate::infer::probe_embedding::ProbeReference;
use crate::platform::tls;

/// Between two probes inside ordinary batches.
const PROBE_EVERY: Duration = Duration::from_secs(60);
/// For one step of making a connection, at least: a model that is loaded anew answers its first question late.
const STEP: Duration = Duration::from_secs(5);
/// For the first try of a daemon that goes on without the server: cameras wait for it.
const FIRST_TRY: Duration = Duration::from_secs(5);
/// For the first try, and the only one, of a daemon that does not: whoever has started it waits for it, or for the reason.
const STRICT_TRY: Duration = Duration::from_secs(20);
/// For the end of the link's thread. A tower that it loads meanwhile cannot be told to end, and the drain has seconds.
const END: Duration = Duration::from_secs(2);
/// Pictures of the probe's batches: rows that change places have somewhere to go.
const PROBE_PICTURES: usize = 3;

/// A connection that has shown by the probe that it can be trusted.
pub struct TrustedServer {
    connection: Arc<ServerConnection>,
    pub model: ServedModel,
    /// Counted from the first.
    number: u64,
}

struct LinkState {
    breaker: CircuitBreaker,
    server: Option<Arc<TrustedServer>>,
    /// The place of `options.urls` that is tried, or was connected to, last.
    url: usize,
    fault: Option<RemoteError>,
    since: jiff::Timestamp,
    connections: u64,
    next_probe: Instant,
    /// Counts the probes inside batches: each has another place.
    probes: usize,
    closing: bool,
}

/// What both sides of the link share.
pub struct ServerLink {
    pub options: Arc<RemoteOptions>,
    pub affine: PixelScale,
    /// Height and width.
    pub size: (usize, usize),
    references: ProbeReferences,
    fallback: Option<&'static str>,
    runtime: ClientRuntime,
    state: Mutex<LinkState>,
    changed: Condvar,
    /// For the link's own questions.
    halt: RemoteHalt,
    questions: AtomicU64,
}

/// A link and its thread, which ends when this is dropped.
pub struct LinkKeeper {
    link: Arc<ServerLink>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl LinkKeeper {
    /// A link that connects, and connects again, on a thread of its own. It has tried once where the caller is `strict`, and why that failed
    /// within [`STRICT_TRY`] comes with it; others wait no longer than [`FIRST_TRY`] for it.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        options: RemoteOptions,
        references: ProbeReferences,
        affine: PixelScale,
        size: (usize, usize),
        fallback: Option<&'static str>,
        strict: bool,
    ) -> std::io::Result<(Self, Option<RemoteError>)> {
        let (now, seed) = (Instant::now(), RandomState::new().hash_one(std::process::id()));
        let state = LinkState {
            breaker: CircuitBreaker::new(seed, now),
            server: None,
            url: 0,
            fault: None,
            since: jiff::Timestamp::now(),
            connections: 0,
            next_probe: now,
            probes: 0,
            closing: false,
        };
        let link = Arc::new(ServerLink {
            options: Arc::new(options),
            affine,
            size,
            references,
            fallback,
            runtime: ClientRuntime::start()?,
            state: Mutex::new(state),
            changed: Condvar::new(),
            halt: RemoteHalt::default(),
            questions: AtomicU64::new(0),
        });
        let failed = if strict { link.try_once(Some(STRICT_TRY)) } else { None };
        let thread = {
            let link = Arc::clone(&link);
            Builder::new().name("vtagd-link".into()).spawn(move || link.keep())?
        };
        if !strict {
            link.wait_for_first_try(now + FIRST_TRY);
        }
        Ok((Self { link, thread: Mutex::new(Some(thread)) }, failed))
    }

    pub fn link(&self) -> &Arc<ServerLink> {
        &self.link
    }
}

impl Drop for LinkKeeper {
    fn drop(&mut self) {
        self.link.state.lock().closing = true;
        self.link.halt.stop();
        self.link.changed.notify_all();
        if self.thread.lock().take().is_some_and(|thread| !ended_within(thread, END)) {
            tracing::warn!("the inference server's thread is still loading the image tower, going on without it");
        }
    }
}

impl ServerLink {
    /// Values of an embedding.
    pub fn dim(&self) -> usize {
        self.references.floats.embedding().len()
    }

    /// The probe for a model that is sent pictures so.
    pub fn reference(&self, model: &ServedModel) -> &ProbeReference {
        self.references.of(model.layout.is_bytes())
    }

    /// The server, where batches go there.
    ///
    /// # Errors
    /// Why they do not.
    pub fn server(&self) -> Result<Arc<TrustedServer>, RemoteError> {
        let state = self.state.lock();
        match &state.server {
            Some(server) if state.breaker.is_closed() => Ok(Arc::clone(server)),
            _ => {
                Err(state.fault.clone().unwrap_or_else(|| RemoteError::Away("it has not been connected to yet".into())))
            }
        }
    }

    /// As [`Self::server`], and waits for it until `soon`, or until `halt` says that nobody wants it any more. In place of a connection that was
    /// only closed, another one is waited for until `deadline`, unless making it fails.
    ///
    /// # Errors
    /// Why there is none by then.
    pub fn server_by(
        &self,
        soon: Instant,
        deadline: Instant,
        halt: &RemoteHalt,
    ) -> Result<Arc<TrustedServer>, RemoteError> {
        /// Whoever tells the caller to end does not wake who waits here.
        const POLL_INTERVAL: Duration = Duration::from_millis(50);
        loop {
            let found = self.server();
            let (now, until) =
                (Instant::now(), if matches!(found, Err(RemoteError::Idle(_))) { deadline } else { soon });
            if found.is_ok() || now >= until || halt.is_told() {
                return found;
            }
            let mut state = self.state.lock();
            if state.closing {
                return Err(RemoteError::Stopped);
            }
            if !state.breaker.is_closed() {
                self.changed.wait_until(&mut state, until.min(now + POLL_INTERVAL));
            }
        }
    }

    /// Which place the probe has among `count` pictures, if it is time for one.
    pub fn probe_place(&self, count: usize, now: Instant) -> Option<usize> {
        let mut state = self.state.lock();
        if now < state.next_probe {
            return None;
        }
        state.next_probe = now + PROBE_EVERY;
        state.probes = state.probes.wrapping_add(1);
        Some(state.probes % (count + 1))
    }

    /// The next batch has the probe in it.
    pub fn probe_soon(&self) {
        self.state.lock().next_probe = Instant::now();
    }

    /// `wait`, a little longer or shorter, so that boxes do not do the same at the same time.
    pub fn spread(&self, wait: Duration) -> Duration {
        self.state.lock().breaker.spread(wait)
    }

    /// The server answered a batch as it should.
    pub fn answered(&self) {
        self.state.lock().breaker.answered();
    }

    /// The server did not. A fault of a connection that is no more says nothing of the one that is.
    pub fn failed(&self, server: &TrustedServer, fault: &RemoteError, now: Instant) {
        let mut state = self.state.lock();
        if state.server.as_ref().is_none_or(|now| now.number != server.number) || *fault == RemoteError::Stopped {
            return;
        }
        state.fault = Some(fault.clone());
        if let RemoteError::Idle(why) = fault {
            state.breaker.closed_idle(now);
            state.server = None;
            drop(state);
            tracing::debug!(why, "the connection to the inference server was closed, making another one");
            self.changed.notify_all();
            return;
        }
        if state.breaker.failed(fault.ends_connection(), now) {
            (state.server, state.since) = (None, jiff::Timestamp::now());
            drop(state);
            metrics::gauge!("vtagd_remote_up").set(0.0);
            let (url, fallback) = (server.connection.url.to_string(), self.fallback.unwrap_or("none"));
            tracing::warn!(url, fallback, error = %fault, "the inference server is not asked any more until it agrees with the probe again");
            self.changed.notify_all();
        }
    }

    /// Sends pictures, already as the server wants them, and appends the embeddings of length 1.
    ///
    /// # Errors
    /// What becomes of the request, or what is wrong with the answer.
    pub fn ask(
        &self,
        server: &TrustedServer,
        (pixels, count): (Bytes, usize),
        deadline: Instant,
        halt: &RemoteHalt,
        rows: &mut Vec<f32>,
    ) -> Result<(), RemoteError> {
        self.question(&server.connection, &server.model, (pixels, count), deadline, halt, rows)
    }

    fn question(
        &self,
        connection: &Arc<ServerConnection>,
        model: &ServedModel,
        (pixels, count): (Bytes, usize),
        deadline: Instant,
        halt: &RemoteHalt,
        rows: &mut Vec<f32>,
    ) -> Result<(), RemoteError> {
        let (dim, began) = (self.dim(), Instant::now());
        let question = InferQuestion {
            id: self.questions.fetch_add(1, Ordering::Relaxed),
            shape: model.layout.shape(count, self.size),
            answer_bytes: count * dim * 4,
            limit: deadline.saturating_duration_since(began),
            pixels,
        };
        metrics::counter!("vtagd_remote_sent_bytes_total").increment(question.pixels.len() as u64);
        let (connection, asked) = (Arc::clone(connection), model.clone());
        let answer = self.runtime.run(deadline, halt, async move { connection.infer(&asked, question).await });
        let result = answer.and_then(|answer| answer.append_rows(count, dim, rows));
        // Over a connection that was closed nothing has been asked.
        if !matches!(result, Err(RemoteError::Idle(_))) {
            let outcome = result.as_ref().map_or_else(RemoteError::kind, |()| "ok");
            metrics::counter!("vtagd_remote_requests_total", "outcome" => outcome).increment(1);
        }
        if result.is_ok() {
            metrics::histogram!("vtagd_remote_request_duration_seconds").record(began.elapsed().as_secs_f64());
        }
        result
    }

    /// How it stands.
    pub fn view(&self) -> ServerView {
        let state = self.state.lock();
        let url = self.options.urls.get(state.url).map(ServerUrl::to_string).unwrap_or_default();
        let (state_word, reason) = match (&state.server, &state.fault) {
            (Some(_), _) | (None, Some(RemoteError::Idle(_))) => ("up", None),
            (None, Some(fault)) => (fault.kind(), Some(fault.to_string())),
            (None, None) => ("away", None),
        };
        ServerView {
            url,
            model: self.options.model.clone(),
            state: state_word,
            reason,
            since: state.since,
            input: state.server.as_ref().map(|server| server.model.layout.as_str()),
            fallback: self.fallback,
        }
    }

    /// Keeps a connection until the link is closed.
    fn keep(&self) {
        loop {
            let mut state = self.state.lock();
            loop {
                if state.closing {
                    return;
                }
                match state.breaker.next_try() {
                    None => self.changed.wait(&mut state),
                    Some(at) if at > Instant::now() => {
                        self.changed.wait_until(&mut state, at);
                    }
                    Some(_) => break,
                }
            }
            drop(state);
            self.try_once(None);
        }
    }

    /// Until every address has been tried, or one serves; `deadline` at the latest.
    fn wait_for_first_try(&self, deadline: Instant) {
        let mut state = self.state.lock();
        while state.server.is_none() && state.fault.is_none() {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                tracing::warn!("the inference server takes long to answer, going on without it meanwhile");
                return;
            }
        }
    }

    /// Tries every address once, for `limit` in all where there is one. `None`: batches go there now.
    fn try_once(&self, limit: Option<Duration>) -> Option<RemoteError> {
        let first = self.state.lock().url;
        let many = self.options.urls.len().max(1);
        let mut last = RemoteError::Away("it has no address".into());
        let mut budget = ConnectBudget::new(self.options.timeout.max(STEP), limit);
        for (at, left) in (0..many).map(|step| ((first + step) % many, many - step)) {
            let Some(url) = self.options.urls.get(at) else { continue };
            if budget.is_over() {
                break;
            }
            budget.begin(left);
            match self.connected(url, &mut budget).map_err(|fault| fault.at(url)) {
                Ok((connection, model)) => {
                    self.begin(at, Arc::new(connection), model);
                    return None;
                }
                Err(fault) => last = fault,
            }
        }
        let mut state = self.state.lock();
        state.breaker.not_connected(Instant::now());
        let was_up = matches!(state.fault, Some(RemoteError::Idle(_)));
        let news = was_up || state.fault.as_ref().map(RemoteError::kind) != Some(last.kind());
        if was_up {
            state.since = jiff::Timestamp::now();
        }
        state.fault = Some(last.clone());
        drop(state);
        self.changed.notify_all();
        metrics::gauge!("vtagd_remote_up").set(0.0);
        if news && last != RemoteError::Stopped {
            tracing::warn!(error = %last, fallback = self.fallback.unwrap_or("none"), "the inference server cannot be used, trying again");
        }
        Some(last)
    }

    fn begin(&self, at: usize, connection: Arc<ServerConnection>, model: ServedModel) {
        let (url, input, most) = (connection.url.to_string(), model.layout.as_str(), model.max_batch);
        let mut state = self.state.lock();
        state.connections += 1;
        let number = state.connections;
        state.server = Some(Arc::new(TrustedServer { connection, model, number }));
        let is_news = !matches!(state.fault, Some(RemoteError::Idle(_)));
        if is_news {
            state.since = jiff::Timestamp::now();
        }
        (state.url, state.fault) = (at, None);
        state.next_probe = Instant::now() + PROBE_EVERY;
        state.breaker.connected();
        drop(state);
        metrics::gauge!("vtagd_remote_up").set(1.0);
        let model = &self.options.model;
        if is_news {
            tracing::info!(url, model, input, most, "the inference server agrees with the probe");
        } else {
            tracing::debug!(url, model, input, most, "the inference server agrees with the probe, as before");
        }
        self.changed.notify_all();
    }

    /// A connection to `url` that agrees with the probe.
    fn connected(
        &self,
        url: &ServerUrl,
        budget: &mut ConnectBudget,
    ) -> Result<(ServerConnection, ServedModel), RemoteError> {
        let tls = url.tls.then(|| tls::client(&self.options.trust)).transpose().map_err(RemoteError::Refused)?;
        let connect = ServerConnection::connect(url.clone(), Arc::clone(&self.options), tls);
        let connection = self.runtime.run(budget.next(), &self.halt, connect);
        let connection = Arc::new(connection.map_err(|fault| match fault {
            RemoteError::Slow(why) => RemoteError::Away(why),
            other => other,
        })?);
        let (size, wanted, asked) = (self.size, self.options.input, Arc::clone(&connection));
        let model =
            self.runtime.run(budget.next(), &self.halt, async move { asked.served_model(size, wanted).await })?;
        if self.halt.is_told() {
            return Err(RemoteError::Stopped);
        }
        // What this takes is not the server's fault, and nothing can end it.
        budget.without(|| {
            self.reference(&model);
        });
        self.probe(&connection, &model, budget)?;
        // Whatever was asked over it has been answered.
        let connection =
            Arc::try_unwrap(connection).map_err(|_| RemoteError::Away("the connection is still in use".into()))?;
        Ok((connection, model))
    }

    /// Whether the server computes what the model means, and answers each row with its own embedding.
    fn probe(
        &self,
        connection: &Arc<ServerConnection>,
        model: &ServedModel,
        budget: &ConnectBudget,
    ) -> Result<(), RemoteError> {
        let reference = self.reference(model);
        let pictures: Vec<Vec<f32>> = (0..PROBE_PICTURES as u64).map(|index| reference.picture(index)).collect();
        let embedded = |order: &[usize]| -> Result<Vec<f32>, RemoteError> {
            let mut rows = Vec::new();
            let most = model.max_batch.unwrap_or(order.len()).min(self.most_in_a_message(model)).max(1);
            for part in order.chunks(most) {
                let mut ask = |part: &[usize]| {
                    let mut pixels = Vec::with_capacity(part.len() * model.layout.picture_bytes(self.size));
                    part.iter().for_each(|index| model.layout.append(&pictures[*index], &self.affine, &mut pixels));
                    self.question(connection, model, (pixels.into(), part.len()), budget.next(), &self.halt, &mut rows)
                };
                match ask(part) {
                    // It may take fewer, and not have said so.
                    Err(RemoteError::TooMuch(_)) if part.len() > 1 => part.chunks(1).try_for_each(ask)?,
                    asked => asked?,
                }
            }
            Ok(rows)
        };
        let wrong = RemoteError::Wrong;
        let alone = embedded(&[0])?;
        reference.agree(&alone, 1).map_err(wrong)?;
        let (straight, turned) = (embedded(&[0, 1, 2])?, embedded(&[2, 0, 1])?);
        reference.agree(&straight, PROBE_PICTURES).map_err(wrong)?;
        let dim = self.dim();
        let row = |rows: &'_ [f32], at: usize| -> Vec<f32> { rows[at * dim..(at + 1) * dim].to_vec() };
        for picture in 0..PROBE_PICTURES {
            let other = row(&turned, (picture + 1) % PROBE_PICTURES);
            let cosine = |at: usize| row(&straight, at).iter().zip(&other).map(|(a, b)| a * b).sum::<f32>();
            let nearest = (0..PROBE_PICTURES).max_by(|a, b| cosine(*a).total_cmp(&cosine(*b)));
            if nearest != Some(picture) || cosine(picture) < 0.99 {
                return Err(wrong("its answers do not stand in the order of the pictures".to_owned()));
            }
        }
        Ok(())
    }

    /// Pictures that fit into one message.
    pub fn most_in_a_message(&self, model: &ServedModel) -> usize {
        /// Names and shapes.
        const HEAD: u64 = 16 << 10;
        let room = self.options.max_message.saturating_sub(HEAD);
        let most = room / model.layout.picture_bytes(self.size).max(1) as u64;
        usize::try_from(most).unwrap_or(usize::MAX).max(1)
    }
}
