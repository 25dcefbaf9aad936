//! API: health, metrics, a JSON view of streams, labels and recent events, a few changes, and the page (`page.rs`).
//!
//! Runs on its own small tokio runtime and reads shared state only; no request can hold a frame up. Loopback needs no token to read;
//! everything else and every change does, and the configuration refuses to listen elsewhere without one. Connections and requests are
//! bounded (`limits.rs`), each route as its class asks (`route_table.rs`); what is too much is refused and counted. Ends when shutdown is asked for.

mod access;
mod browser_session;
mod events;
mod forwarded_for;
pub mod fuzz_http;
mod guard;
mod handlers;
mod label_lab;
mod label_reports;
mod limits;
mod live;
mod live_client;
mod mark_routes;
mod model_queries;
mod openapi;
mod openapi_programs;
mod page;
mod parameters;
mod picture_grid;
mod push;
mod route_table;
mod scores;
mod scrape;
mod search;
mod serve;
mod snapshots;
mod stream_detail;
mod stream_setup;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::event::active_hours::ActiveHours;
use crate::event::live_scores::LiveScores;
use crate::frame::latest_picture::LatestPictures;
use crate::frame::pushed_pictures::PushedPictures;
use crate::infer::Refused;
use crate::infer::remote::server_view::ServerView;
use crate::infer::sessions::Plan;
use crate::outbox::{RecentSince, Report, Status};
use crate::platform::gpu::Gpu;
use crate::platform::secret::Secret;
use crate::platform::shutdown::Shutdown;
use crate::snapshot::Gallery;
use crate::stream::registry::{RegisteredStream, StreamRegistry};
use crate::stream::requests::RequestSender;

use label_reports::Commanding;
use live::LiveHub;
use model_queries::Answering;
use picture_grid::SmallPictures;
use stream_setup::Finding;

pub use access::Access;
pub use forwarded_for::AddressRange;
pub use label_lab::{TriedLabel, TriedStream};
pub use label_reports::{CommandQuestion, CommandRefusal, LabelCommands};
pub use mark_routes::{MarkKeeping, MarkRefusal, MarkView, NewMark};
pub use model_queries::{ModelQueries, QueryRefusal, SetScores, TagScore};
pub use stream_setup::{Additions, CameraFinder, DiscoverQuestion, NoPreview};

/// Why frames may flow.
const WARM: &str = "model is warm";

/// `api` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ApiSettings {
    pub listen: SocketAddr,
    /// Required as `Authorization: Bearer …` on everything but `/healthz` when set.
    pub token: Option<Secret>,
    /// `None`: plain HTTP.
    pub tls: Option<TlsSettings>,
    /// Whose `X-Forwarded-For` counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<AddressRange>,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsSettings {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Why the API cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("cannot listen on {listen}: {source}; choose another `api.listen` or stop what listens there")]
    Listen { listen: SocketAddr, source: std::io::Error },
    #[error("cannot start the API's thread: {0}")]
    Thread(std::io::Error),
    #[error("`api.tls`: {0}")]
    Tls(String),
}

/// Whether frames may flow, and if not, why.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Readiness {
    pub ready: bool,
    pub reason: String,
    pub model: Option<String>,
    pub provider: Option<String>,
    /// Providers that the configuration wants more and that do not work here.
    pub refused: Vec<Refused>,
    /// Sessions and batch size; `None` until the model is warm, and without one.
    pub inference: Option<Plan>,
    /// How the server stands that computes, where one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerView>,
}

impl Readiness {
    /// The same for whoever asks: a model on a server that does not answer computes nothing.
    fn answer(&self) -> Self {
        let mut answer = self.clone();
        let lost = self.server.as_ref().filter(|server| server.state != "up" && server.fallback.is_none());
        if let Some(server) = lost.filter(|_| self.ready) {
            let why = server.reason.as_deref().unwrap_or("it has not answered yet");
            answer.ready = false;
            answer.reason = format!("the inference server {} cannot be used ({why}), frames are dropped", server.url);
        }
        answer
    }
}

/// A label set as `/api/v1/labels` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct SetView {
    pub set: String,
    pub labels: Vec<String>,
    /// Of its file, in hexadecimal digits.
    pub sha256: String,
    /// What is doubtful about it.
    pub warnings: Vec<String>,
    /// Which of its file and the copy of it is in force: an object, whose fields stand beside these.
    #[serde(flatten)]
    pub source: serde_json::Value,
    /// What it says, and what is in force of it: the same.
    #[serde(flatten)]
    pub details: serde_json::Value,
    /// When each label is looked for: the clock of who asks says whether that is now.
    #[serde(skip)]
    pub hours: Vec<Option<Arc<ActiveHours>>>,
}

impl SetView {
    /// As it is at `now`.
    fn at(mut self, now: Timestamp) -> Self {
        let details = self.details.get_mut("details").and_then(serde_json::Value::as_array_mut).into_iter().flatten();
        for (label, hours) in details.zip(&self.hours) {
            let told = |hours: &Arc<ActiveHours>| {
                let window = hours.window(now);
                serde_json::json!({ "is_active": window.is_active, "until": window.until, "spans": hours.views() })
            };
            label["active"] = hours.as_ref().map(told).into();
        }
        self
    }
}

/// What is known of the running daemon. Written by the main thread, read by requests.
pub struct Board {
    registry: Arc<StreamRegistry>,
    readiness: RwLock<Readiness>,
    /// Why the process is to be started again; `None` while it is healthy.
    unhealthy: RwLock<Option<String>>,
    sets: RwLock<Vec<SetView>>,
    /// The last reading, and from when it is.
    gpus: Mutex<Option<(Instant, Vec<Gpu>)>>,
    /// `None` until it is open.
    outbox: RwLock<Option<Status>>,
    gallery: RwLock<Option<Arc<Gallery>>>,
    live_scores: Arc<LiveScores>,
    live: LiveHub,
    /// `None` until the model is warm.
    answering: RwLock<Option<Answering>>,
    /// `None` until the streams are known.
    marks: RwLock<Option<Arc<dyn MarkKeeping>>>,
    /// `None` until the daemon is ready.
    finding: RwLock<Option<Finding>>,
    /// `None` until the streams are known.
    commanding: RwLock<Option<Commanding>>,
    additions: RwLock<Additions>,
    /// Labels to begin with, as they are told.
    example_sets: RwLock<Vec<serde_json::Value>>,
    /// Turns of those who read stored events.
    readers: Arc<Semaphore>,
    /// Turns of those who have pictures encoded.
    encoders: Arc<Semaphore>,
    small_pictures: SmallPictures,
    /// What the configuration calls this daemon; empty until it is known.
    instance: RwLock<String>,
    latest_pictures: Arc<LatestPictures>,
    pushed_pictures: Arc<PushedPictures>,
    /// Whether `/metrics` tells them.
    scores_in_metrics: AtomicBool,
}

impl Board {
    /// The daemon starts; its streams are those of `registry`.
    pub fn new(registry: Arc<StreamRegistry>) -> Self {
        let readiness = Readiness { reason: "starting".to_owned(), ..Readiness::default() };
        Self {
            registry,
            readiness: RwLock::new(readiness),
            unhealthy: RwLock::default(),
            sets: RwLock::default(),
            gpus: Mutex::default(),
            outbox: RwLock::default(),
            gallery: RwLock::default(),
            live_scores: Arc::default(),
            live: LiveHub::default(),
            answering: RwLock::default(),
            marks: RwLock::default(),
            finding: RwLock::default(),
            commanding: RwLock::default(),
            additions: RwLock::default(),
            example_sets: RwLock::default(),
            readers: Arc::new(Semaphore::new(events::READERS)),
            encoders: Arc::new(Semaphore::new(stream_detail::ENCODERS)),
            small_pictures: SmallPictures::default(),
            instance: RwLock::default(),
            latest_pictures: Arc::default(),
            pushed_pictures: Arc::default(),
            scores_in_metrics: AtomicBool::new(false),
        }
    }

    /// Says why frames do not flow yet, or no more.
    pub fn not_ready(&self, reason: &str) {
        metrics::gauge!("vtagd_ready").set(0.0);
        let mut readiness = self.readiness.write();
        readiness.ready = false;
        reason.clone_into(&mut readiness.reason);
    }

    /// Says that the model is warm.
    pub fn ready(&self, model: &str, provider: &str) {
        metrics::gauge!("vtagd_ready").set(1.0);
        let labels = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("model", model.to_owned()),
            ("provider", provider.to_owned()),
        ];
        metrics::gauge!("vtagd_build_info", &labels).set(1.0);
        let mut readiness = self.readiness.write();
        readiness.ready = true;
        WARM.clone_into(&mut readiness.reason);
        readiness.model = Some(model.to_owned());
        readiness.provider = Some(provider.to_owned());
    }

    /// Says which providers were refused on the way to the one that computes.
    pub fn refused(&self, refused: &[Refused]) {
        for Refused { provider, .. } in refused {
            metrics::gauge!("vtagd_provider_refused", "provider" => provider.as_str()).set(1.0);
        }
        self.readiness.write().refused = refused.to_vec();
    }

    /// Says how inference runs.
    pub fn inference(&self, plan: Option<Plan>) {
        self.readiness.write().inference = plan;
    }

    /// Says why the process is to be started again, or that it is healthy (`None`), and whether frames flow because of it.
    pub fn set_unhealthy(&self, why: Option<String>) {
        let mut unhealthy = self.unhealthy.write();
        if *unhealthy == why {
            return;
        }
        let mut readiness = self.readiness.write();
        readiness.ready = why.is_none();
        readiness.reason = why.clone().unwrap_or_else(|| WARM.to_owned());
        // A server that computes may be away all the same.
        let ready = readiness.answer().ready;
        metrics::gauge!("vtagd_ready").set(if ready { 1.0 } else { 0.0 });
        *unhealthy = why;
    }

    /// Says how the server stands that computes. Without one that answers, and without anything that stands in, no frame is looked at.
    pub fn set_inference_server(&self, view: ServerView) {
        let mut readiness = self.readiness.write();
        if readiness.server.as_ref() == Some(&view) {
            return;
        }
        readiness.provider = Some(view.provider().to_owned());
        readiness.server = Some(view);
        let ready = readiness.answer().ready;
        metrics::gauge!("vtagd_ready").set(if ready { 1.0 } else { 0.0 });
    }

    /// Why the process is to be started again.
    fn unhealthy(&self) -> Option<String> {
        self.unhealthy.read().clone()
    }

    pub fn readiness(&self) -> Readiness {
        self.readiness.read().answer()
    }

    /// None while the daemon starts.
    fn streams(&self) -> Arc<Vec<RegisteredStream>> {
        self.registry.streams().unwrap_or_default()
    }

    /// Whether nothing is known of streams yet.
    fn is_starting(&self) -> bool {
        self.registry.streams().is_none()
    }

    pub fn set_labels(&self, sets: Vec<SetView>) {
        *self.sets.write() = sets;
    }

    /// Says what the configuration calls this daemon.
    pub fn set_instance(&self, instance: &str) {
        instance.clone_into(&mut self.instance.write());
    }

    /// Says where pictures are.
    pub fn set_gallery(&self, gallery: Arc<Gallery>) {
        *self.gallery.write() = Some(gallery);
    }

    /// How the labels of all streams stand.
    pub fn live_scores(&self) -> &Arc<LiveScores> {
        &self.live_scores
    }

    /// What all streams show to who looks.
    pub fn latest_pictures(&self) -> &Arc<LatestPictures> {
        &self.latest_pictures
    }

    /// Which streams take pictures that others send.
    pub fn pushed_pictures(&self) -> &Arc<PushedPictures> {
        &self.pushed_pictures
    }

    /// Whether `/metrics` tells of the scores.
    pub fn set_scores_in_metrics(&self, told: bool) {
        self.scores_in_metrics.store(told, Ordering::Relaxed);
    }

    /// Says who answers what is asked of the model.
    pub fn set_model_queries(&self, queries: Arc<dyn ModelQueries>) {
        *self.answering.write() = Some(Answering::new(queries));
    }

    /// Says who keeps what people say of the past.
    pub fn set_marks(&self, marks: Arc<dyn MarkKeeping>) {
        *self.marks.write() = Some(marks);
    }

    /// Says who looks for cameras.
    pub fn set_finder(&self, finder: Arc<dyn CameraFinder>) {
        *self.finding.write() = Some(Finding::new(finder));
    }

    /// Says who reports on labels and calibrates them.
    pub fn set_label_commands(&self, commands: Arc<dyn LabelCommands>) {
        *self.commanding.write() = Some(Commanding::new(commands));
    }

    fn commanding(&self) -> Option<Commanding> {
        self.commanding.read().clone()
    }

    /// Says which streams were added, and whether others can be.
    pub fn set_additions(&self, additions: Additions) {
        *self.additions.write() = additions;
    }

    /// Says which labels there are to begin with.
    pub fn set_example_sets(&self, sets: Vec<serde_json::Value>) {
        *self.example_sets.write() = sets;
    }

    fn finding(&self) -> Option<Finding> {
        self.finding.read().clone()
    }

    fn marks(&self) -> Option<Arc<dyn MarkKeeping>> {
        self.marks.read().clone()
    }

    fn answering(&self) -> Option<Answering> {
        self.answering.read().clone()
    }

    fn gallery(&self) -> Option<Arc<Gallery>> {
        self.gallery.read().clone()
    }

    /// What the GPUs did at `then`; the reading before is forgotten.
    pub fn set_gpus(&self, then: Instant, gpus: Vec<Gpu>) {
        *self.gpus.lock() = Some((then, gpus));
    }

    /// The outbox is open.
    pub fn set_outbox(&self, status: Status) {
        *self.outbox.write() = Some(status);
    }

    fn outbox(&self) -> Option<Report> {
        self.outbox.read().as_ref().map(Status::report)
    }

    fn recent_since(&self, from: u64) -> RecentSince {
        let none = || RecentSince { events: Vec::new(), next: 1 };
        self.outbox.read().as_ref().map_or_else(none, |outbox| outbox.recent_since(from))
    }
}

/// What a request may look at.
#[derive(Clone)]
struct Shared {
    board: Arc<Board>,
    metrics: PrometheusHandle,
    access: Arc<Access>,
    requests: RequestSender,
}

/// A running API.
pub struct Api {
    /// Where it listens.
    pub address: SocketAddr,
    pub thread: std::thread::JoinHandle<()>,
    /// Where its token and certificate can be changed.
    pub access: Arc<Access>,
}

/// Serves on `settings.listen` from a named thread until `shutdown`. Changes are asked through `requests`.
///
/// # Errors
/// When the address cannot be bound, a certificate cannot be used, or no thread can be started.
pub fn start(
    settings: &ApiSettings,
    board: Arc<Board>,
    requests: RequestSender,
    metrics: PrometheusHandle,
    shutdown: Shutdown,
) -> Result<Api, ApiError> {
    let failed = |source| ApiError::Listen { listen: settings.listen, source };
    let access = Arc::new(Access::new(settings, &board.instance.read()).map_err(ApiError::Tls)?);
    let listener = std::net::TcpListener::bind(settings.listen).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(16)
        .thread_name("vtagd-api-io")
        .enable_all()
        .build()
        .map_err(ApiError::Thread)?;
    for reason in guard::REASONS {
        metrics::counter!("vtagd_api_refused_total", "reason" => *reason).absolute(0);
    }
    let shared = Shared { board, metrics, access: Arc::clone(&access), requests };
    let router = route_table::router(shared, route_table::all());
    let behind = Arc::clone(&access);
    let thread = std::thread::Builder::new()
        .name("vtagd-api".to_owned())
        .spawn(move || {
            if let Err(error) = runtime.block_on(serve::serve(listener, router, behind, serve::TIMES, shutdown)) {
                tracing::error!(%error, "the API has stopped");
            }
            // A request that hangs must not hold the daemon's end up.
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        })
        .map_err(ApiError::Thread)?;
    Ok(Api { address, thread, access })
}

#[cfg(test)]
mod classes_of_routes;
#[cfg(test)]
mod test_server;
