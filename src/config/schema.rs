//! The configuration file as written: every key of the schema, typed, nothing checked beyond that.
//!
//! The rest of this folder turns these into [`Settings`](super::Settings). Unknown keys are refused everywhere. The names are a
//! contract with people's files: keys are added, never renamed.

use std::time::Duration;

use crate::infer::Provider;
use crate::infer::options::{Arena, OpenvinoPrecision};
use crate::preprocess::ViewMode;
use crate::sample::Interval;
use crate::section;
use crate::sink::config::SinkItem;
use crate::source::{Decode, Decoder, Pace};
use crate::words;
use crate::yaml::field_reader::{At, FromNode, Reader};
use crate::yaml::secrets::SecretSource;
use crate::yaml::values::{Bytes, Fraction};
use crate::yaml::{Node, Value};

use super::LogFormat;

section! {
    /// The whole file. Top-level keys that begin with `x-` are ignored: a place for YAML anchors.
    pub struct Root {
        "instance" => instance: String,
        "model" => model: Model,
        "runtime" => runtime: Runtime,
        "sampling" => sampling: Sampling,
        "reconnect" => reconnect: Reconnect,
        "streams" => streams: Vec<At<Stream>>,
        "labels" => labels: Vec<At<String>>,
        "events" => events: Events,
        "sinks" => sinks: Vec<At<SinkItem>>,
        "outbox" => outbox: Store,
        "snapshots" => snapshots: Snapshots,
        "state" => state: State,
        "api" => api: Api,
        "log" => log: Log,
    }
}

section! {
    pub struct Model {
        "path" => path: String,
    }
}

section! {
    pub struct Runtime {
        "library" => library: String,
        "providers" => providers: Vec<At<ProviderItem>>,
        "strict" => strict: bool,
        "probe" => probe: Probe,
        "threads" => threads: usize,
        "sessions" => sessions: NumberOrAuto,
        "devices" => devices: Vec<At<usize>>,
        "preprocess_threads" => preprocess_threads: NumberOrAuto,
        "run_limit" => run_limit: Duration,
        "batch" => batch: Batch,
    }
}

section! {
    pub struct Probe {
        "min_cosine" => min_cosine: Fraction,
    }
}

/// An item of `runtime.providers`: a name, or a mapping of one name to its options. Read in `providers.rs`.
pub enum ProviderItem {
    Name(Provider),
    Tensorrt(TensorrtOptions),
    Cuda(CudaOptions),
    Openvino(OpenvinoOptions),
    Cpu(CpuOptions),
}

section! {
    pub struct TensorrtOptions {
        "device" => device: usize,
        "fp16" => fp16: bool,
        "engine_cache" => engine_cache: String,
        "timing_cache" => timing_cache: String,
        "workspace" => workspace: Bytes,
        "opt_batch" => opt_batch: usize,
    }
}

section! {
    pub struct CudaOptions {
        "device" => device: usize,
        "memory_limit" => memory_limit: Bytes,
        "arena" => arena: Arena,
        /// Not an option of CUDA; here so that whoever tries is told what to do instead.
        "fp16" => fp16: bool,
    }
}

section! {
    pub struct OpenvinoOptions {
        "device" => device: String,
        "precision" => precision: OpenvinoPrecision,
        "threads" => threads: usize,
        "streams" => streams: usize,
    }
}

section! {
    pub struct CpuOptions {
        "threads" => threads: usize,
    }
}

section! {
    pub struct Batch {
        "max_size" => max_size: NumberOrAuto,
        "max_delay" => max_delay: Duration,
    }
}

/// A whole number, or `auto`.
#[derive(Clone, Copy)]
pub enum NumberOrAuto {
    Number(usize),
    Auto,
}

impl FromNode for NumberOrAuto {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "anyOf": [usize::schema(), { "const": "auto" }] })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text == "auto" => Some(Self::Auto),
            Value::Text(_) => {
                let message = "is neither a whole number nor `auto`";
                reader.refuse_node(node, path, message, "write, for example, 8 or auto")
            }
            _ => usize::from_node(node, path, reader).map(Self::Number),
        }
    }
}

section! {
    /// For all streams, and again within a stream.
    pub struct Sampling {
        "interval" => interval: Interval,
        "unchanged" => unchanged: Unchanged,
        "decode" => decode: Decode,
        "decoder" => decoder: Decoder,
        "max_pixels" => max_pixels: usize,
    }
}

/// A duration, or `auto`.
impl FromNode for Interval {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "anyOf": [Duration::schema(), { "const": "auto" }] })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text == "auto" => Some(Self::Auto),
            Value::Text(text) if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => {
                let message = "is neither a duration nor `auto`";
                reader.refuse_node(node, path, message, "write, for example, 1s or 500ms, or auto")
            }
            _ => Duration::from_node(node, path, reader).map(Self::Every),
        }
    }
}

/// `off`, `on`, or settings of its own.
pub enum Unchanged {
    Off,
    On(Gate),
}

section! {
    /// `sampling.unchanged` where it is on.
    pub struct Gate {
        "tolerance" => tolerance: f64,
        "max_age" => max_age: Duration,
    }
}

impl FromNode for Unchanged {
    const NULL_IS_MISSING: bool = true;

    fn schema() -> serde_json::Value {
        // YAML 1.1, which most editors speak, takes these words for true and false.
        serde_json::json!({ "anyOf": [{ "enum": ["off", "on", true, false] }, Gate::schema()] })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        if matches!(node.value, Value::Text(_)) {
            return Some(if reader.word(node, path, &["off", "on"])? == "on" {
                Self::On(Gate::default())
            } else {
                Self::Off
            });
        }
        if !matches!(node.value, Value::Map(_)) {
            return reader.refuse_kind(
                node,
                path,
                "off, on or a mapping",
                "write off, on, or { tolerance: 4, max_age: 10s }",
            );
        }
        Gate::from_node(node, path, reader).map(Self::On)
    }

    fn keys(path: &str, out: &mut Vec<String>) {
        Gate::keys(path, out);
    }
}

section! {
    /// For all streams, and again within a stream.
    pub struct Reconnect {
        "first" => first: Duration,
        "max" => max: Duration,
        "stable" => stable: Duration,
        "first_frame" => first_frame: Duration,
        "stall" => stall: Duration,
    }
}

section! {
    pub struct Stream {
        "id" => id: String,
        "enabled" => enabled: bool,
        "url" => url: String,
        "pipeline" => pipeline: String,
        "username" => username: String,
        "password" => password: SecretSource,
        "labels" => labels: Vec<At<String>>,
        "sampling" => sampling: Sampling,
        "reconnect" => reconnect: Reconnect,
        "view" => view: View,
        "pace" => pace: Pace,
        "loop" => looped: bool,
    }
}

section! {
    pub struct View {
        "mode" => mode: ViewMode,
        "region" => region: Vec<At<f64>>,
    }
}

section! {
    pub struct Events {
        "enter" => enter: Fraction,
        "exit" => exit: Fraction,
        "after" => after: Duration,
        "after_exit" => after_exit: Duration,
        "cooldown" => cooldown: Duration,
    }
}

section! {
    /// `outbox`.
    pub struct Store {
        "path" => path: String,
        "max_size" => max_size: Bytes,
        "max_age" => max_age: Duration,
    }
}

section! {
    pub struct Snapshots {
        "path" => path: String,
        "max_size" => max_size: Bytes,
        "max_age" => max_age: Duration,
        "max_side" => max_side: usize,
        "quality" => quality: usize,
        "url" => url: String,
    }
}

section! {
    /// `state`.
    pub struct State {
        "path" => path: String,
    }
}

section! {
    pub struct Api {
        "listen" => listen: String,
        "token" => token: SecretSource,
        "tls" => tls: Tls,
    }
}

section! {
    pub struct Tls {
        "cert" => cert: String,
        "key" => key: String,
    }
}

section! {
    pub struct Log {
        "level" => level: tracing::Level,
        "format" => format: LogFormat,
    }
}

words! {
    Provider {
        "tensorrt" => Self::Tensorrt,
        "cuda" => Self::Cuda,
        "openvino" => Self::Openvino,
        "cpu" => Self::Cpu,
    }
    Decode {
        "auto" => Self::Auto,
        "keyframes" => Self::Keyframes,
        "all" => Self::All,
    }
    Decoder {
        "auto" => Self::Auto,
        "software" => Self::Software,
        "nvidia" => Self::Nvidia,
        "jetson" => Self::Jetson,
        "vaapi" => Self::Vaapi,
        "v4l2" => Self::V4l2,
    }
    Pace {
        "live" => Self::Live,
        "fast" => Self::Fast,
    }
    ViewMode {
        "model" => Self::Model,
        "squash" => Self::Squash,
        "pad" => Self::Pad,
        "tiles" => Self::Tiles,
    }
    tracing::Level {
        "error" => Self::ERROR,
        "warn" => Self::WARN,
        "info" => Self::INFO,
        "debug" => Self::DEBUG,
        "trace" => Self::TRACE,
    }
    LogFormat {
        "auto" => Self::Auto,
        "text" => Self::Text,
        "json" => Self::Json,
        "journal" => Self::Journal,
    }
}
