//! The one list of every metric's name, unit, labels and meaning, and where its labels' values come from. Pure.

use std::fmt::Write as _;

use metrics::Unit;

/// Kind of a metric in [`METRICS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Every metric we export: name, kind, unit, labels, meaning. `docs/operations.md` shows the same list.
pub const METRICS: &[(&str, Kind, Unit, &str, &str)] = &[
    (
        "vtagd_build_info",
        Kind::Gauge,
        Unit::Count,
        "version, model, provider",
        "always 1; what runs here, with the provider of the start",
    ),
    (
        "vtagd_label_set_info",
        Kind::Gauge,
        Unit::Count,
        "set, sha256",
        "always 1; each label set in force and the SHA-256 of its file, to tell boxes with other files",
    ),
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
    (
        "vtagd_api_refused_total",
        Kind::Counter,
        Unit::Count,
        "reason",
        "requests and connections that the API did not take",
    ),
    (
        "vtagd_stream_up",
        Kind::Gauge,
        Unit::Count,
        "stream",
        "1 while frames arrive, 0 while they should; none for a stream that has ended or is switched off",
    ),
    ("vtagd_stream_reconnects_total", Kind::Counter, Unit::Count, "stream", "connections that had to be made again"),
    (
        "vtagd_pipelines_abandoned_total",
        Kind::Counter,
        Unit::Count,
        "stream",
        "pipelines that did not stop and were left behind",
    ),
    (
        "vtagd_frames_lost_total",
        Kind::Counter,
        Unit::Count,
        "stream",
        "frames left out before the decoder where every frame is decoded: what they refer to has not come",
    ),
    (
        "vtagd_last_frame_timestamp_seconds",
        Kind::Gauge,
        Unit::Seconds,
        "stream",
        "wall clock of the last sampled frame",
    ),
    (
        "vtagd_sampling_interval_seconds",
        Kind::Gauge,
        Unit::Seconds,
        "stream",
        "time between two samples; changes with `interval: auto`",
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
    (
        "vtagd_queue_wait_seconds",
        Kind::Histogram,
        Unit::Seconds,
        "",
        "from the decoder to the start of the run: waiting and preprocessing",
    ),
    ("vtagd_inference_duration_seconds", Kind::Histogram, Unit::Seconds, "", "one run of the image tower"),
    ("vtagd_inference_errors_total", Kind::Counter, Unit::Count, "", "runs that failed"),
    (
        "vtagd_inference_out_of_memory_total",
        Kind::Counter,
        Unit::Count,
        "",
        "runs that found no memory and were done again with half as many pictures",
    ),
    ("vtagd_inference_hung_total", Kind::Counter, Unit::Count, "", "runs that did not end and were given up"),
    ("vtagd_inference_sessions", Kind::Gauge, Unit::Count, "", "sessions that run batches side by side"),
    (
        "vtagd_remote_up",
        Kind::Gauge,
        Unit::Count,
        "",
        "1 while batches go to the inference server; there only where one is configured",
    ),
    (
        "vtagd_remote_requests_total",
        Kind::Counter,
        Unit::Count,
        "outcome",
        "requests to the inference server with pictures, those of the probe too",
    ),
    (
        "vtagd_remote_request_duration_seconds",
        Kind::Histogram,
        Unit::Seconds,
        "",
        "from a request to the inference server to its answer, where it was right",
    ),
    ("vtagd_remote_sent_bytes_total", Kind::Counter, Unit::Bytes, "", "pictures sent to the inference server"),
    (
        "vtagd_remote_fallback_pictures_total",
        Kind::Counter,
        Unit::Count,
        "",
        "pictures that were computed here because the inference server could not be used",
    ),
    ("vtagd_batch_max_size", Kind::Gauge, Unit::Count, "", "largest batch; what `max_size: auto` has found"),
    ("vtagd_batch_size", Kind::Histogram, Unit::Count, "", "pictures in a run"),
    (
        "vtagd_label_margin",
        Kind::Gauge,
        Unit::Count,
        "stream, set, label",
        "margin of the label in the last sample, with `metrics.scores`: 1 / (1 + exp(-x)) is its score; 2000 labels at most",
    ),
    (
        "vtagd_labels_waiting",
        Kind::Gauge,
        Unit::Count,
        "stream, set",
        "labels that tell nothing, as their calibration is of another model, prompt or view; there where the set is calibrated",
    ),
    (
        "vtagd_labels_inactive",
        Kind::Gauge,
        Unit::Count,
        "stream, set",
        "labels that tell nothing, as they are outside their hours (`active`); there where a label of the set has some",
    ),
    (
        "vtagd_calibration_drift",
        Kind::Gauge,
        Unit::Count,
        "stream, set, label",
        "share of the last hour's samples without a tag whose margins lie beyond those that the label was calibrated on; there where it is calibrated and 30 samples are known; 2000 labels at most",
    ),
    ("vtagd_events_total", Kind::Counter, Unit::Count, "stream, set, label, type", "events made"),
    (
        "vtagd_starts_swallowed_total",
        Kind::Counter,
        Unit::Count,
        "stream, set, label, why",
        "starts that were none: a score reached `enter` for too short for `after`, over within `cooldown`, or cut by a gap between samples (`gap`); or came above `exit`, and a `rival` had the rest",
    ),
    (
        "vtagd_label_set_warnings",
        Kind::Gauge,
        Unit::Count,
        "set",
        "what is doubtful about a label set that runs, as `check` and `status` tell it",
    ),
    ("vtagd_events_delivered_total", Kind::Counter, Unit::Count, "sink", "events the sink's other side has"),
    (
        "vtagd_events_retried_total",
        Kind::Counter,
        Unit::Count,
        "sink",
        "attempts to deliver one event that failed; it is tried again",
    ),
    (
        "vtagd_events_dead_total",
        Kind::Counter,
        Unit::Count,
        "sink",
        "events the other side will never take: dead letters",
    ),
    (
        "vtagd_events_dropped_total",
        Kind::Counter,
        Unit::Count,
        "sink, reason",
        "events a sink never gets; `sink` is `outbox` for those that no sink wanted",
    ),
    ("vtagd_sink_up", Kind::Gauge, Unit::Count, "sink", "1 while events arrive at the other side"),
    (
        "vtagd_sink_errors_total",
        Kind::Counter,
        Unit::Count,
        "sink",
        "failed writes and connections; they are tried again",
    ),
    (
        "vtagd_mqtt_prefix_owned",
        Kind::Gauge,
        Unit::Count,
        "sink",
        "1 while the topic prefix is this daemon's, 0 while it is another's: then only events are published",
    ),
    (
        "vtagd_mqtt_pictures_skipped_total",
        Kind::Counter,
        Unit::Count,
        "sink",
        "pictures that were larger than the broker takes, and were not sent",
    ),
    ("vtagd_sink_pending_events", Kind::Gauge, Unit::Count, "sink", "events the sink still has to get"),
    ("vtagd_sink_spool_bytes", Kind::Gauge, Unit::Bytes, "sink", "their size"),
    (
        "vtagd_sink_oldest_pending_seconds",
        Kind::Gauge,
        Unit::Seconds,
        "sink",
        "how long the oldest of them has waited; 0 if none waits",
    ),
    ("vtagd_sink_dead_events", Kind::Gauge, Unit::Count, "sink", "dead letters that are kept"),
    (
        "vtagd_outbox_storing",
        Kind::Gauge,
        Unit::Count,
        "",
        "1 while events can be stored, 0 while the disk takes nothing",
    ),
    (
        "vtagd_snapshots_total",
        Kind::Counter,
        Unit::Count,
        "result",
        "pictures of tags: saved, dropped (too many at once), failed",
    ),
    ("vtagd_snapshots_bytes", Kind::Gauge, Unit::Bytes, "", "size of the folder of pictures"),
    (
        "vtagd_history_embeddings_total",
        Kind::Counter,
        Unit::Count,
        "result",
        "embeddings for the history: stored, extended (looked like one of the last), dropped (too many at once), failed",
    ),
    (
        "vtagd_history_pictures_total",
        Kind::Counter,
        Unit::Count,
        "result",
        "pictures for the history: saved, dropped (too many at once), failed",
    ),
    ("vtagd_history_bytes", Kind::Gauge, Unit::Bytes, "", "size of the history, pictures included"),
    ("vtagd_outbox_bytes", Kind::Gauge, Unit::Bytes, "", "size of what is stored"),
    ("vtagd_outbox_errors_total", Kind::Counter, Unit::Count, "", "reads and writes of the outbox that failed"),
    (
        "vtagd_outbox_recoveries_total",
        Kind::Counter,
        Unit::Count,
        "result",
        "damaged outboxes that were replaced: whole or partial",
    ),
    ("vtagd_outbox_commit_seconds", Kind::Histogram, Unit::Seconds, "", "one group of events onto the disk"),
    (
        "vtagd_gpu_memory_used_bytes",
        Kind::Gauge,
        Unit::Bytes,
        "index, name",
        "GPU memory that is not free, whoever uses it",
    ),
    ("vtagd_gpu_memory_total_bytes", Kind::Gauge, Unit::Bytes, "index, name", "all memory of the GPU"),
    (
        "vtagd_gpu_utilization_ratio",
        Kind::Gauge,
        Unit::Count,
        "index, name",
        "share of the last moment in which the GPU was busy, 0 to 1, whoever uses it",
    ),
    ("vtagd_available_cpus", Kind::Gauge, Unit::Count, "", "CPUs the daemon may use: affinity and cgroup quota"),
    ("process_cpu_seconds_total", Kind::Counter, Unit::Seconds, "", "CPU time of the daemon, user and system"),
    ("process_resident_memory_bytes", Kind::Gauge, Unit::Bytes, "", "memory of the daemon that is in RAM"),
    ("process_virtual_memory_bytes", Kind::Gauge, Unit::Bytes, "", "address space of the daemon"),
    ("process_open_fds", Kind::Gauge, Unit::Count, "", "open files and sockets"),
    ("process_max_fds", Kind::Gauge, Unit::Count, "", "most files and sockets that may be open; none without a limit"),
    ("process_threads", Kind::Gauge, Unit::Count, "", "threads"),
    ("process_start_time_seconds", Kind::Gauge, Unit::Seconds, "", "when the daemon started, since the Unix epoch"),
];

/// Where the values of a label come from: what keeps the number of series bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// These and no others.
    Words(&'static [&'static str]),
    /// One series at a time, or one each for what the machine or the configuration has: so many at most.
    Bounded { by: &'static str, most: usize },
}

/// Every label that a metric of [`METRICS`] has, the metrics that the row is about (none: all others that have it), and its values.
pub const LABELS: &[(&str, &[&str], Values)] = &[
    ("version", &["vtagd_build_info"], Values::Bounded { by: "this version", most: 1 }),
    ("model", &["vtagd_build_info"], Values::Bounded { by: "the model's name", most: 1 }),
    ("provider", &["vtagd_build_info"], Values::Words(&["cpu", "openvino", "cuda", "tensorrt", "remote", "none"])),
    ("provider", &["vtagd_provider_refused"], Values::Words(&["cpu", "openvino", "cuda", "tensorrt"])),
    ("set", &["vtagd_label_set_info"], Values::Bounded { by: "label sets of the configuration", most: usize::MAX }),
    ("sha256", &["vtagd_label_set_info"], Values::Bounded { by: "their files, one each", most: usize::MAX }),
    ("result", &["vtagd_config_reloads_total"], Values::Words(&["applied", "refused"])),
    ("result", &["vtagd_snapshots_total"], Values::Words(&["saved", "dropped", "failed"])),
    ("result", &["vtagd_history_embeddings_total"], Values::Words(&["stored", "extended", "dropped", "failed"])),
    ("result", &["vtagd_history_pictures_total"], Values::Words(&["saved", "dropped", "failed"])),
    ("result", &["vtagd_outbox_recoveries_total"], Values::Words(&["whole", "partial"])),
    ("reason", &["vtagd_api_refused_total"], Values::Words(&["rate", "token", "host", "size", "connections"])),
    (
        "reason",
        &["vtagd_frames_dropped_total"],
        Values::Words(&["superseded", "decode", "preprocess", "inference", "shutdown", "no_model"]),
    ),
    (
        "reason",
        &["vtagd_events_dropped_total"],
        Values::Words(&["queue_full", "storage", "max_size", "max_age", "rate_limit", "disabled", "shutdown"]),
    ),
    (
        "outcome",
        &["vtagd_remote_requests_total"],
        Values::Words(&["ok", "away", "slow", "full", "refused", "wrong", "stopped"]),
    ),
    ("type", &["vtagd_events_total"], Values::Words(&["start", "update", "end"])),
    ("why", &["vtagd_starts_swallowed_total"], Values::Words(&["after", "cooldown", "gap", "rival"])),
    ("stream", &[], Values::Bounded { by: "`streams[].id`", most: usize::MAX }),
    ("set", &[], Values::Bounded { by: "names of the label sets", most: usize::MAX }),
    ("label", &[], Values::Bounded { by: "labels of the label sets", most: usize::MAX }),
    // A series has it only for a stream with regions: it is not among the labels that all series of these metrics have.
    (
        "region",
        &["vtagd_label_margin", "vtagd_calibration_drift", "vtagd_events_total", "vtagd_starts_swallowed_total"],
        Values::Bounded { by: "`streams[].view.regions[].name`, for streams that have some", most: usize::MAX },
    ),
    ("sink", &[], Values::Bounded { by: "`sinks[].name`, and `outbox`", most: usize::MAX }),
    ("index", &[], Values::Bounded { by: "GPUs of the machine", most: 16 }),
    ("name", &[], Values::Bounded { by: "GPUs of the machine", most: 16 }),
];

/// Where the values of `label` of `metric` come from.
pub fn values(metric: &str, label: &str) -> Option<Values> {
    let row = |(name, metrics, _): &&(&str, &[&str], Values)| {
        *name == label && (metrics.is_empty() || metrics.contains(&metric))
    };
    LABELS.iter().find(row).map(|(.., values)| *values)
}

/// The table of [`METRICS`] and that of [`LABELS`], as docs/operations.md shows them.
pub fn tables() -> String {
    let mut text = String::from("| Metric | Type | Labels | Unit | Meaning |\n|---|---|---|---|---|\n");
    // A string takes everything.
    for (name, kind, unit, labels, meaning) in METRICS {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let unit = match unit {
            Unit::Seconds => "seconds",
            Unit::Bytes => "bytes",
            _ => "",
        };
        let _ = writeln!(text, "| `{name}` | {kind} | {labels} | {unit} | {meaning} |");
    }
    text.push_str("\n| Label | Of | Values |\n|---|---|---|\n");
    for (label, metrics, values) in LABELS {
        let of: Vec<String> = metrics.iter().map(|metric| format!("`{metric}`")).collect();
        let of = if of.is_empty() { "all that have it".to_owned() } else { of.join(", ") };
        let values = match values {
            Values::Words(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
            Values::Bounded { by, most: 1 } => format!("{by}; one at a time"),
            Values::Bounded { by, most: usize::MAX } => (*by).to_owned(),
            Values::Bounded { by, most } => format!("{by}; at most {most}"),
        };
        let _ = writeln!(text, "| `{label}` | {of} | {values} |");
    }
    text
}
