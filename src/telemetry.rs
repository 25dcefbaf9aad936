//! Logs and metrics: how both are set up, and the one list of every metric's name, unit and meaning.
//!
//! Logs go to stderr, results to stdout. Wording: lower case, no full stop, the thing spoken of as a field.

use std::io::IsTerminal;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Starts logging. `level` is a filter such as `info` or `vtagd=debug`; the variable `VTAGD_LOG` overrides it.
/// A second call does nothing.
pub fn init_logs(level: &str, format: LogFormat) {
    let wanted = std::env::var("VTAGD_LOG").unwrap_or_else(|_| level.to_owned());
    // The runtime logs every operator it places at info; only its warnings are for people.
    let filter = EnvFilter::try_new(format!("ort=warn,{wanted}")).unwrap_or_else(|_| EnvFilter::new("info,ort=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    drop(started);
}

/// Kind of a metric in [`METRICS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Every metric we export: name, kind, unit, labels, meaning. `docs/operations.md` shows the same list.
pub const METRICS: &[(&str, Kind, Unit, &str, &str)] = &[
    ("vtagd_build_info", Kind::Gauge, Unit::Count, "version, model, provider", "always 1; what runs here"),
    ("vtagd_ready", Kind::Gauge, Unit::Count, "", "1 once the model is warm and frames may flow"),
    (
        "vtagd_provider_refused",
        Kind::Gauge,
        Unit::Count,
        "provider",
        "1 for each provider that the configuration wants more and that does not work here",
    ),
    (
        "vtagd_config_reloads_total",
        Kind::Counter,
        Unit::Count,
        "result",
        "configurations read again while running: applied or refused",
    ),
    ("vtagd_stream_up", Kind::Gauge, Unit::Count, "stream", "1 while frames arrive"),
    ("vtagd_stream_reconnects_total", Kind::Counter, Unit::Count, "stream", "connections that had to be made again"),
    (
        "vtagd_pipelines_abandoned_total",
        Kind::Counter,
        Unit::Count,
        "stream",
        "pipelines that did not stop and were left behind",
    ),
    (
        "vtagd_last_frame_timestamp_seconds",
        Kind::Gauge,
        Unit::Seconds,
        "stream",
        "wall clock of the last sampled frame",
    ),
    ("vtagd_frames_sampled_total", Kind::Counter, Unit::Count, "stream", "frames chosen for a look"),
    ("vtagd_frames_inferred_total", Kind::Counter, Unit::Count, "stream", "sampled frames that were scored"),
    (
        "vtagd_frames_reused_total",
        Kind::Counter,
        Unit::Count,
        "stream",
        "sampled frames scored with the last embedding",
    ),
    (
        "vtagd_frames_dropped_total",
        Kind::Counter,
        Unit::Count,
        "stream, reason",
        "sampled frames that were not looked at",
    ),
    ("vtagd_frame_latency_seconds", Kind::Histogram, Unit::Seconds, "", "from the decoder to the scores"),
    ("vtagd_inference_duration_seconds", Kind::Histogram, Unit::Seconds, "", "one run of the image tower"),
    ("vtagd_inference_errors_total", Kind::Counter, Unit::Count, "", "runs that failed"),
    ("vtagd_batch_size", Kind::Histogram, Unit::Count, "", "pictures in a run"),
    ("vtagd_events_total", Kind::Counter, Unit::Count, "stream, label, type", "events made"),
    ("vtagd_events_dropped_total", Kind::Counter, Unit::Count, "sink", "events a sink could not take"),
    ("vtagd_sink_errors_total", Kind::Counter, Unit::Count, "sink", "failed writes; they are tried again"),
];

/// Installs the recorder behind `/metrics` and describes every metric.
///
/// # Errors
/// When a recorder is installed already.
pub fn init_metrics() -> Result<PrometheusHandle, BuildError> {
    let latency = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
    let sizes = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &latency)?
        .set_buckets_for_metric(Matcher::Full("vtagd_batch_size".into()), &sizes)?
        .install_recorder()?;
    for (name, kind, unit, _, meaning) in METRICS {
        match kind {
            Kind::Counter => describe_counter!(*name, *unit, *meaning),
            Kind::Gauge => describe_gauge!(*name, *unit, *meaning),
            Kind::Histogram => describe_histogram!(*name, *unit, *meaning),
        }
    }
    Ok(handle)
}
