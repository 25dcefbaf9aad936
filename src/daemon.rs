//! The daemon's life: start every stage, wait for the streams or a signal, drain, settle the accounts.
//!
//! One data path, read top to bottom: [`run`] is called on the main thread and returns the exit code.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, select};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::api::{self, Board, SetView};
use crate::config::{Settings, SinkSettings, thresholds};
use crate::engine::{Engine, EngineError};
use crate::event::{Emitter, EndReason, Event, LabelRules};
use crate::pipeline::{self, Parts, Running, StreamPart};
use crate::shutdown::{self, Shutdown, Trigger};
use crate::signals;
use crate::sink::{Fanout, JsonlTarget};
use crate::source::Ended;
use crate::telemetry;

/// From the wish to stop until every stage has ended, at most; what is late by then is named and left behind …
const DRAIN: Duration = Duration::from_secs(7);

/// … and from then until the sinks have written what they have.
const FLUSH: Duration = Duration::from_secs(3);

/// How long a stage that has ended before its streams is given the benefit of the doubt.
const DOUBT: Duration = Duration::from_secs(5);

/// Samples further apart than this, or than ten intervals, do not continue one another: the camera was away.
const GAP: Duration = Duration::from_secs(30);

/// Histograms are folded this often even when nobody scrapes, so they stay small.
const UPKEEP: Duration = Duration::from_secs(5);

/// How often ended streams and stage threads are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Why the daemon could not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Api(#[from] api::ApiError),
    #[error(transparent)]
    Sink(#[from] crate::sink::jsonl::SinkError),
    #[error("cannot start: {0}")]
    Start(String),
}

impl DaemonError {
    /// 2 for wrong input or configuration, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Engine(error) => error.exit_code(),
            Self::Api(_) | Self::Sink(_) | Self::Start(_) => 1,
        }
    }
}

/// Events go to every sink and to the API's memory.
struct Outlet {
    fanout: Fanout,
    board: Arc<Board>,
}

impl Outlet {
    fn send(&self, event: Event) {
        let event = Arc::new(event);
        self.fanout.send(&event);
        self.board.remember(event);
    }
}

/// One emitter a stream; the scoring thread feeds them, the main thread closes them.
type Emitters = Arc<Vec<Mutex<Emitter>>>;

/// Runs the daemon until a signal, or until every stream has ended. The exit code is 1 if a stream failed for good or a
/// stage died.
///
/// # Errors
/// When it cannot start: model, address or sink.
pub fn run(settings: Settings) -> Result<u8, DaemonError> {
    let start = |error: &dyn std::fmt::Display| DaemonError::Start(error.to_string());
    let (trigger, shutdown) = shutdown::channel();
    let _signals = signals::listen(trigger.clone()).map_err(|e| start(&e))?;
    let metrics = telemetry::init_metrics().map_err(|e| start(&e))?;
    let board = Arc::new(Board::default());

    // Sinks first: a file that cannot be opened must not be found out after the model has been loaded.
    let (fanout, mut threads) = Fanout::start(&jsonl_targets(&settings.sinks), &shutdown)?;
    if let Some(api) = &settings.api {
        let (address, thread) = api::start(api, Arc::clone(&board), metrics.clone(), shutdown.clone())?;
        tracing::info!(%address, "API listens: /healthz, /readyz, /metrics, /api/v1/streams");
        threads.push(("API".to_owned(), thread));
    }
    board.not_ready("loading the model");
    let Some(engine) = load(&settings, &shutdown)? else { return Ok(0) };
    let outlet = Arc::new(Outlet { fanout, board: Arc::clone(&board) });
    let emitters = emitters(&settings, &engine);

    let name = engine.model.name.to_string();
    let provider = engine.provider;
    board.set_labels(settings.label_sets.iter().map(view).collect());
    let feed = {
        let (emitters, outlet) = (Arc::clone(&emitters), Arc::clone(&outlet));
        let orders = set_orders(&settings);
        move |frame: crate::score::worker::ScoredFrame<'_>| {
            let mut emitter = emitters[frame.stream].lock().unwrap_or_else(PoisonError::into_inner);
            for (set, scores) in frame.sets {
                if let Some(position) = orders[frame.stream].iter().position(|s| s == set) {
                    emitter.scores(frame.time, position, scores, &mut |event| outlet.send(event));
                }
            }
        }
    };
    let mut running = pipeline::start(parts(settings, engine), &shutdown, feed).map_err(|e| start(&e))?;
    board.set_streams(running.streams.clone());
    board.ready(&name, provider);
    tracing::info!(streams = running.streams.len(), model = %name, provider, "ready");

    let failed = watch(&running, &shutdown, &emitters, &outlet, &metrics);
    board.not_ready("stopping");
    threads.append(&mut running.threads);
    Ok(drain(&trigger, threads, &running, &emitters, &outlet, failed))
}

/// Builds the engine; `None` if shutdown was asked for meanwhile.
fn load(settings: &Settings, shutdown: &Shutdown) -> Result<Option<Engine>, DaemonError> {
    let built = Engine::build(&settings.model, &settings.infer, &settings.label_sets, shutdown);
    if shutdown.is_requested() {
        // The child that embeds texts was killed for it: an error by then is ours, not the user's.
        return Ok(None);
    }
    Ok(Some(built?))
}

/// Label sets of each stream, in the order in which its emitter knows them.
fn set_orders(settings: &Settings) -> Vec<Vec<usize>> {
    settings.streams.iter().map(|s| s.label_sets.clone()).collect()
}

fn view(set: &crate::label::LabelSet) -> SetView {
    SetView { set: set.name.clone(), labels: set.labels.iter().map(|l| l.name.clone()).collect() }
}

fn jsonl_targets(sinks: &[SinkSettings]) -> Vec<JsonlTarget> {
    sinks
        .iter()
        .filter_map(|sink| match sink {
            SinkSettings::Jsonl(target) => Some(target.clone()),
            // Validated, and said to have no effect yet, by the configuration.
            _ => None,
        })
        .collect()
}

fn emitters(settings: &Settings, engine: &Engine) -> Emitters {
    let rules = |set: &crate::label::LabelSet| {
        let labels = set
            .labels
            .iter()
            .map(|label| LabelRules {
                name: label.name.as_str().into(),
                thresholds: thresholds(label, &settings.events),
                attributes: Arc::new(label.attributes.clone()),
            })
            .collect();
        (Arc::from(set.name.as_str()), labels)
    };
    let emitter = |stream: &crate::config::StreamSettings| {
        let sets = stream.label_sets.iter().map(|i| rules(&settings.label_sets[*i])).collect();
        let gap = GAP.max(stream.interval * 10);
        Mutex::new(Emitter::new(&settings.instance, Arc::clone(&stream.source.id), engine.model.clone(), sets, gap))
    };
    Arc::new(settings.streams.iter().map(emitter).collect())
}

fn parts(settings: Settings, engine: Engine) -> Parts {
    let streams = settings.streams.into_iter().map(|s| StreamPart {
        source: s.source,
        interval: s.interval,
        view: s.view,
        sets: if engine.scorers.is_empty() { Vec::new() } else { s.label_sets },
    });
    Parts {
        streams: streams.collect(),
        spec: engine.spec,
        encoder: engine.encoder,
        scorers: engine.scorers,
        max_size: settings.infer.max_size,
        max_delay: settings.infer.max_delay,
        threads: crate::engine::preprocessing_threads(),
    }
}

/// Waits until every stream has ended or shutdown is asked for. Tags of a stream that has ended are closed once its last
/// frame has been scored. Returns whether something failed for good.
fn watch(
    running: &Running,
    shutdown: &Shutdown,
    emitters: &Emitters,
    outlet: &Outlet,
    metrics: &PrometheusHandle,
) -> bool {
    let mut upkept = Instant::now();
    let mut suspected: Option<Instant> = None;
    let mut open = running.streams.len();
    let mut draining: Vec<usize> = Vec::new();
    let mut failed = false;
    while open > 0 {
        let how = select! {
            recv(running.ended) -> how => how.map_err(|_| RecvTimeoutError::Disconnected),
            recv(shutdown.receiver()) -> _ => return failed,
            default(LOOK) => Err(RecvTimeoutError::Timeout),
        };
        if upkept.elapsed() >= UPKEEP {
            metrics.run_upkeep();
            upkept = Instant::now();
        }
        if outlet.fanout.is_dead() {
            tracing::error!("every sink has given up, stopping");
            return true;
        }
        if let Ok((index, how)) = how {
            failed |= !matches!(how, Some(Ended::EndOfFile | Ended::Shutdown));
            if how.is_none() {
                tracing::error!(stream = %running.streams[index].0.id(), "its source has panicked; please report this");
            }
            draining.push(index);
        }
        draining.retain(|index| {
            let whole = running.streams[*index].1.totals().unaccounted() == 0;
            if whole {
                close(&emitters[*index], EndReason::StreamEnded, outlet);
                open -= 1;
            }
            !whole
        });
        // With every stream at its end the stages end too, and should. A source closes its slot a moment before it says that it
        // has ended, so an idle stage is believed dead only when no such word follows.
        let ended = running.threads.iter().find(|(name, t)| !name.starts_with("source ") && t.is_finished());
        match ended {
            Some((name, _)) if draining.len() < open => {
                if suspected.get_or_insert_with(Instant::now).elapsed() >= DOUBT {
                    tracing::error!(stage = name, "a stage has died, stopping");
                    return true;
                }
            }
            _ => suspected = None,
        }
    }
    tracing::info!("every stream has ended");
    failed
}

fn close(emitter: &Mutex<Emitter>, reason: EndReason, outlet: &Outlet) {
    emitter.lock().unwrap_or_else(PoisonError::into_inner).close(reason, &mut |event| outlet.send(event));
}

/// Ends every stage within [`DRAIN`], closes what is open, flushes the sinks within [`FLUSH`] and settles the accounts. Returns
/// the exit code.
fn drain(
    trigger: &Trigger,
    threads: Vec<(String, JoinHandle<()>)>,
    running: &Running,
    emitters: &Emitters,
    outlet: &Outlet,
    mut failed: bool,
) -> u8 {
    trigger.trigger();
    let (stages, outer): (Vec<_>, Vec<_>) =
        threads.into_iter().partition(|(name, _)| name != "API" && !name.starts_with("sink "));
    failed |= join(stages, DRAIN);
    for emitter in emitters.iter() {
        close(emitter, EndReason::Shutdown, outlet);
    }
    // Closed by hand: a scoring thread that is late still holds the outlet.
    outlet.fanout.close();
    failed |= join(outer, FLUSH);
    for (status, account) in &running.streams {
        let stream = status.id();
        let held = account.close(stream);
        if held > 0 {
            tracing::warn!(%stream, held, "frames were still being worked on, they count as dropped");
        }
        let totals = account.totals();
        let (sampled, inferred, reused) = (totals.sampled, totals.inferred, totals.reused);
        let unaccounted = totals.unaccounted();
        tracing::info!(%stream, sampled, inferred, reused, dropped = ?totals.dropped, unaccounted, "frames accounted");
        if unaccounted != 0 {
            tracing::error!(%stream, unaccounted, "frames are unaccounted for");
            failed = true;
        }
    }
    let lost = outlet.fanout.lost();
    if lost > 0 {
        tracing::error!(lost, "events could not be delivered");
        failed = true;
    }
    tracing::info!("stopped");
    u8::from(failed)
}

/// Joins what ends in time and names what does not. Returns whether something panicked or was late.
fn join(mut threads: Vec<(String, JoinHandle<()>)>, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
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
            tracing::error!(?late, seconds = patience.as_secs(), "did not stop in time, left behind");
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    failed
}
