//! The daemon's life: start every stage, wait for the streams or a signal, drain, log what became of the frames.
//!
//! One data path, read top to bottom: [`run`] is called on the main thread and returns the exit code. [`running_streams`] holds the streams,
//! [`reload`] changes them while they run, [`drop_report`] logs what they drop.

mod answer_queries;
mod camera_finder;
pub(crate) mod clip_frame;
mod drop_report;
pub mod engine;
pub mod example_embeddings;
mod label_commands;
mod label_edit;
mod label_trial;
pub(crate) mod marking;
mod offered_labels;
pub mod open_model;
mod outside_hours;
mod reload;
pub(crate) mod running_streams;
mod set_view;
mod start_sinks;
mod state_change;
mod stream_edit;
mod stream_history;
mod stream_times;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::select;
use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::api::{self, Board};
use crate::config::{ModelChoice, Settings, added_streams};
use crate::daemon::engine::{Engine, EngineError};
use crate::history::Recorder;
use crate::infer::Provider;
use crate::infer::remote::server_link::ServerLink;
use crate::infer::watchdog::{self, Runs};
use crate::logs;
use crate::metrics;
use crate::outbox::{Outbox, OutboxError};
use crate::pipeline::{self, EventRoute, Stages, Threads};
use crate::platform::gpu;
use crate::platform::shutdown::{self, Shutdown};
use crate::platform::signals;
use crate::platform::state_folder::StateError;
use crate::platform::systemd::{self, LongStep, Watchdog};
use crate::platform::thread_priority;
use crate::sink::daemon_facts::DaemonFacts;
use crate::snapshot::{self, Gallery};
use crate::stream::registry::StreamRegistry;
use crate::stream::requests::{self, Action, RequestSender};
use crate::yaml::problem::{Problem, Severity};
use answer_queries::ModelAnswers;
use camera_finder::CameraLooks;
use drop_report::{DropReport, StreamDrops};
use example_embeddings::{ExampleViews, LearningError};
use label_commands::OwnCommands;
use marking::KeptMarks;
use reload::Reloader;
use running_streams::Streams;

/// From the signal to stop until every stage has ended, at most; what is late by then is named and left behind …
const DRAIN_TIMEOUT: Duration = Duration::from_secs(7);

/// … and from then until the outbox has stored the last events and the sinks have got what they can take; a little longer than the
/// outbox gives itself.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Histograms are folded this often even when nobody scrapes, so they stay small.
const METRICS_INTERVAL: Duration = Duration::from_secs(5);

/// A GPU driver that is asked has this long to answer; one that hangs is left behind, which is not our failure.
const GPU_TIMEOUT: Duration = Duration::from_millis(500);

/// How often requests, ended streams and stage threads are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Why the daemon could not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Api(#[from] api::ApiError),
    #[error(transparent)]
    Sink(#[from] crate::sink::SinkStartError),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot start: {0}")]
    Start(String),
}

impl DaemonError {
    /// 2 for wrong input or configuration, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Engine(error) => error.exit_code(),
            Self::Outbox(error) => error.exit_code(),
            Self::State(error) => error.exit_code(),
            Self::Api(_) | Self::Sink(_) | Self::Start(_) => 1,
        }
    }
}

/// Runs the daemon until a signal, or until every stream that there is has ended. The exit code is 1 if a stream failed for good or a
/// stage died.
///
/// # Errors
/// When it cannot start: model, address or sink.
pub fn run(mut settings: Settings) -> Result<u8, DaemonError> {
    let start = |error: &dyn std::fmt::Display| DaemonError::Start(error.to_string());
    let (trigger, shutdown) = shutdown::channel();
    let (requesters, requests) = requests::channel();
    let sighup = requesters.sighup;
    // One that is refused is one with the one that waits.
    let reload = move || sighup.send(Action::Reload).unwrap_or_default();
    let _signals = signals::listen(trigger.clone(), Some(Box::new(reload)), logs::finish).map_err(|e| start(&e))?;
    let metrics = metrics::init_metrics().map_err(|e| start(&e))?;
    let registry = Arc::new(StreamRegistry::new(requesters.mqtt));
    let board = Arc::new(Board::new(Arc::clone(&registry)));
    board.set_instance(&settings.instance);

    // Before anything is read or written there; held until the end.
    let state = settings.state.lock(&settings.instance)?;
    if state.is_some() {
        added_streams::sweep_passwords(&settings.state);
    }
    // Sinks first: a file that cannot be opened must not be found out after the model has been loaded, and events of an earlier run
    // need not wait for it.
    let (gallery, snapshots) = gallery(&settings).map_err(|e| start(&e))?;
    let facts = Arc::new(DaemonFacts::default());
    let (outbox, mut threads) = {
        // A large outbox on a slow disk takes a while to check.
        let _long_step = LongStep::quiet();
        systemd::status("checking the outbox");
        start_sinks::start(&settings, &registry, gallery.as_ref(), &facts)?
    };
    threads.extend(snapshots);
    let history = history(&settings, &mut threads).map_err(|e| start(&e))?;
    board.set_outbox(outbox.status());
    let mut access = None;
    if let Some(api) = &settings.api {
        let started = api::start(api, Arc::clone(&board), requesters.api, metrics.clone(), shutdown.clone())?;
        let (address, tls) = (started.address, api.tls.is_some());
        tracing::info!(%address, tls, "API listens: /healthz, /readyz, /metrics, /api/v1/streams");
        let url = snapshot::served_at(address, if tls { "https" } else { "http" });
        let told = settings.snapshots.as_ref().and_then(|snapshots| snapshots.url.as_ref());
        // Nobody else reaches this machine's own address.
        match told {
            Some(told) => facts.set_url(told.to_string()),
            None if !address.ip().is_loopback() => facts.set_url(url.clone()),
            None => {}
        }
        if let Some(gallery) = &gallery {
            gallery.served_at(&url);
            board.set_gallery(Arc::clone(gallery));
        }
        threads.push(("API".to_owned(), started.thread));
        access = Some(started.access);
    }
    let gpus = watch_gpus(&settings, &board, &shutdown).map_err(|e| start(&e))?;
    board.not_ready("loading the model");
    let events = Arc::new(EventRoute { outbox, gallery, computed_by: OnceLock::new() });
    let engine = match load(&mut settings, &shutdown) {
        Ok(Some(engine)) => engine,
        ended => {
            trigger.trigger();
            events.close();
            // Its thread waits for it.
            drop(history);
            join(threads, FLUSH_TIMEOUT);
            return ended.map(|_| 0);
        }
    };

    // A fallback would have embedded them.
    let alone = engine.link.as_ref().is_some_and(|link| link.view().fallback.is_none());
    let learn = Some(requesters.server).filter(|_| alone && settings.in_force.iter().any(|of| of.is_by_texts));

    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let planned = engine.encoders.first().map(|encoder| encoder.provider()).zip(engine.plan.as_ref());
    thread_priority::decide(planned.is_some_and(|(provider, plan)| plan.leaves_a_core(provider, cores)), cores);
    let runs = Arc::new(Runs::new(run_limit(&settings, &engine)));
    let stages = Stages {
        spec: engine.spec,
        encoders: engine.encoders,
        runs: Arc::clone(&runs),
        // Without a model a batch is what is decoded at once.
        max_size: engine.plan.as_ref().map_or(settings.infer.max_size.most(Provider::Cpu), |plan| plan.max_size),
        max_delay: settings.infer.max_delay,
        threads: crate::daemon::engine::preprocessing_threads(settings.infer.preprocess_threads),
    };
    let (mut intake, stages) = pipeline::start(stages, &shutdown).map_err(|e| start(&e))?;
    let _ = events.computed_by.set(Arc::clone(&intake.score_routes().computed_by));
    let on_demand = Arc::new(intake.on_demand());
    let engine_labels = engine.labels.map(|labels| labels.with_pictures(Arc::clone(&on_demand)));
    let (model, labels) = (engine.model.clone(), engine_labels.clone());
    let stored = history.as_ref().map(Recorder::stored);
    let answers = Arc::new(ModelAnswers::new(on_demand, model, labels, shutdown.clone()).with_history(stored));
    intake.show_pictures(Arc::clone(board.latest_pictures()));
    intake.take_pushed(Arc::clone(board.pushed_pictures()));
    let mut streams =
        Streams::new(intake, Arc::clone(&events), registry, Arc::clone(board.live_scores()), engine.model.clone());
    streams.record_to(history);
    for stream in &settings.streams {
        streams.add_or_wait(&settings, stream, &engine.scorers);
    }
    let (labels, scorers) = (engine_labels, engine.scorers);
    let marks = Arc::new(KeptMarks::new(&settings));
    board.set_label_commands(Arc::new(OwnCommands::new(&settings, shutdown.clone())));
    let mut reloader = Reloader::new(settings, labels, scorers, requests, Arc::clone(&board), access, shutdown.clone())
        .telling(Arc::clone(&answers), Arc::clone(&marks));
    facts.set_provider(engine.provider);
    reloader.publish(&streams);
    board.set_model_queries(answers);
    board.set_marks(marks);
    board.set_finder(Arc::new(CameraLooks::new(shutdown.clone())));
    board.set_example_sets(offered_labels::example_sets());
    let (model, provider) = (&*engine.model.name, engine.provider);
    board.refused(&engine.refused);
    board.inference(engine.plan);
    board.ready(model, provider);
    systemd::ready();
    tracing::info!(streams = streams.len(), model, provider, "ready");

    let systemd = Watchdog::from_environment();
    let health = Health { runs, systemd, board: Arc::clone(&board), facts, link: engine.link, learn };
    let failed = watch(&mut streams, &mut reloader, &stages, health, &shutdown, &events.outbox, &metrics);
    board.not_ready("stopping");
    systemd::stopping();
    trigger.trigger();
    reloader.end();
    let code = drain(streams, stages, threads, &events) | u8::from(failed);
    join(gpus, GPU_TIMEOUT);
    tracing::info!("stopped");
    Ok(code)
}

/// What `check` prints, for the log.
pub fn log_notice(notice: &Problem) {
    match notice.severity {
        Severity::Notice => tracing::info!("{notice}"),
        Severity::Warning | Severity::Error => tracing::warn!("{notice}"),
    }
}

/// How long a run may take.
fn run_limit(settings: &Settings, engine: &Engine) -> Duration {
    let full = engine.encoders.iter().map(|encoder| encoder.expected()).max().unwrap_or_default();
    settings.infer.run_limit.unwrap_or_else(|| watchdog::limit(full))
}

/// What tells others whether inference goes on.
struct Health {
    runs: Arc<Runs>,
    systemd: Option<Watchdog>,
    board: Arc<Board>,
    facts: Arc<DaemonFacts>,
    /// To the server that computes, if one does.
    link: Option<Arc<ServerLink>>,
    /// Asks for a reload once the server is there: label sets wait for it with their examples.
    learn: Option<RequestSender>,
}

impl Health {
    /// Polls for runs that hang. While one does, `/healthz` says so and systemd's watchdog is not fed.
    fn poll(&mut self, now: Instant) {
        self.runs.check_deadlines(now);
        let hung = self.runs.hung(now);
        if let Some(systemd) = &mut self.systemd
            && hung.is_none()
        {
            systemd.feed(now);
        }
        self.board.set_unhealthy(hung);
        if let Some(link) = &self.link {
            let view = link.view();
            self.facts.set_provider(view.provider());
            if view.state == "up"
                && let Some(server) = self.learn.take()
            {
                // There is room for it, or the daemon stops.
                server.send(Action::Reload).unwrap_or_default();
            }
            self.board.set_inference_server(view);
        }
    }
}

/// The keeper of pictures and its thread, where pictures are wanted.
fn gallery(settings: &Settings) -> Result<(Option<Arc<Gallery>>, Threads), String> {
    let Some(snapshots) = &settings.snapshots else { return Ok((None, Threads::new())) };
    let fault = |error| format!("`snapshots.path` {} cannot be used: {error}", snapshots.path.display());
    let (gallery, thread) = Gallery::start(snapshots).map_err(fault)?;
    Ok((Some(gallery), vec![("snapshots".to_owned(), thread)]))
}

/// What keeps embeddings, whose thread ends when all streams have.
fn history(settings: &Settings, threads: &mut Threads) -> Result<Option<Recorder>, String> {
    let Some(history) = settings.history.as_ref().filter(|_| settings.model.choice != ModelChoice::None) else {
        return Ok(None);
    };
    let (recorder, thread) = Recorder::start(history).map_err(|error| match &history.path {
        Some(path) => format!("`history.path` {} cannot be used: {error}", path.display()),
        None => format!("the history cannot be kept in memory: {error}"),
    })?;
    threads.push(("history".to_owned(), thread));
    Ok(Some(recorder))
}

/// Where there is somebody who could ask how the GPUs are.
fn watch_gpus(settings: &Settings, board: &Arc<Board>, shutdown: &Shutdown) -> std::io::Result<Threads> {
    if settings.api.is_none() {
        return Ok(Threads::new());
    }
    let board = Arc::clone(board);
    let thread = gpu::watch(move |then, gpus| board.set_gpus(then, gpus), shutdown.clone())?;
    Ok(vec![("GPU monitor".to_owned(), thread)])
}

/// Builds the engine; `None` if shutdown was asked for meanwhile. Sets whose examples cannot be used have none any more.
fn load(settings: &mut Settings, shutdown: &Shutdown) -> Result<Option<Engine>, DaemonError> {
    // A large model, an import or an engine may take longer than systemd waits.
    let _long_step = LongStep::quiet();
    systemd::status("loading the model");
    let mut built = Engine::build(&settings.model, &settings.infer, &settings.label_sets, shutdown);
    if let Ok(engine) = &mut built {
        let views = ExampleViews::of(settings);
        let refused = engine.learn_where_possible(&mut settings.label_sets, &views, shutdown);
        goes_by_texts(settings, &refused);
    }
    if shutdown.is_requested() {
        // The child that embeds texts was killed for it: an error by then is ours, not the user's.
        return Ok(None);
    }
    Ok(Some(built?))
}

/// Notes and tells of sets, by their numbers, that their examples are not used.
fn goes_by_texts(settings: &mut Settings, refused: &[(usize, LearningError)]) {
    for (at, why) in refused {
        let (Some(set), Some(of)) = (settings.label_sets.get(*at), settings.in_force.get_mut(*at)) else { continue };
        let warning = why.as_warning();
        tracing::warn!(set = set.name, "{warning}");
        of.goes_by_texts(warning);
    }
}

/// Waits until every stream has ended or shutdown is asked for, and does what is requested meanwhile. Returns whether something that all
/// streams need has died.
fn watch(
    streams: &mut Streams,
    reloader: &mut Reloader,
    stages: &Threads,
    mut health: Health,
    shutdown: &Shutdown,
    outbox: &Outbox,
    metrics: &PrometheusHandle,
) -> bool {
    let mut last_upkeep = Instant::now();
    let mut drop_report = DropReport::new(last_upkeep);
    loop {
        health.poll(Instant::now());
        logs::log_repeats(Instant::now());
        streams.poll(Instant::now());
        streams.adapt(Instant::now());
        // Without any it waits for a reload that brings some.
        if !reloader.wants_no_streams() && streams.is_done() {
            tracing::info!("every stream has ended");
            return false;
        }
        select! {
            recv(shutdown.receiver()) -> _ => return false,
            default(POLL_INTERVAL) => {}
        }
        reloader.poll(streams);
        streams.keep_hours(Timestamp::now());
        drop_report.poll(Instant::now(), &streams.registered()).iter().for_each(StreamDrops::log);
        if last_upkeep.elapsed() >= METRICS_INTERVAL {
            metrics.run_upkeep();
            last_upkeep = Instant::now();
        }
        if outbox.is_dead() {
            tracing::error!("every sink has given up, or the outbox has died, stopping");
            return true;
        }
        // The stages live as long as the intake, which the streams hold.
        if let Some((stage, _)) = stages.iter().find(|(_, thread)| thread.is_finished()) {
            tracing::error!(stage, "a stage has died, stopping");
            return true;
        }
    }
}

/// Ends every stage within [`DRAIN_TIMEOUT`], closes what is open, flushes outbox and sinks within [`FLUSH_TIMEOUT`] and logs what became of
/// the frames. Returns the exit code. Shutdown has been asked for.
fn drain(streams: Streams, stages: Threads, outer: Threads, events: &EventRoute) -> u8 {
    let (mut threads, stopped) = streams.shut_down();
    threads.extend(stages);
    let mut failed = stopped.failed;
    failed |= join(threads, DRAIN_TIMEOUT);
    stopped.close_tags();
    stopped.end_routes();
    // Closed by hand: a scoring thread that is late still holds the events.
    events.close();
    failed |= join(outer, FLUSH_TIMEOUT);
    failed |= !stopped.log_totals();
    let lost = events.outbox.lost();
    if lost > 0 {
        tracing::error!(lost, "events could not be delivered");
        failed = true;
    }
    u8::from(failed)
}

/// Joins what ends in time and names what does not. Returns whether something panicked or was late.
fn join(mut threads: Threads, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    let mut failed = false;
    while !threads.is_empty() {
        let (done, waiting): (Vec<_>, Vec<_>) = threads.into_iter().partition(|(_, t)| t.is_finished());
        threads = waiting;
        for (name, thread) in done {
            if thread.join().is_err() {
                tracing::error!(stage = name, "panicked; please report this");
                failed = true;
            }
        }
        if threads.is_empty() {
            break;
        }
        if Instant::now() >= deadline {
            let late: Vec<&str> = threads.iter().map(|(name, _)| name.as_str()).collect();
            tracing::error!(?late, seconds = timeout.as_secs(), "did not stop in time, left behind");
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    failed
}
