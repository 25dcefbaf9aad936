//! `runtime` as written: how the model is run. As `schema.rs`, of which it is a part.

use std::time::Duration;

use super::remote_provider::RemoteKeys;
use crate::infer::Provider;
use crate::infer::options::{Arena, OpenvinoPrecision};
use crate::section;
use crate::yaml::field_reader::{At, FromNode, Reader};
use crate::yaml::values::{Bytes, Fraction};
use crate::yaml::{Node, Value};

section! {
    pub struct Runtime {
        /// path | looked for | `libonnxruntime.so` to load; see [providers](#providers)
        "library" => library: String,
        /// list of `tensorrt`, `cuda`, `openvino`, `cpu`, each alone or with options, and `remote` with options | `[cpu]` |
        /// Tried in order, each once; see [providers](#providers)
        "providers" => providers: Vec<At<ProviderItem>>,
        /// bool | `false` | The first provider or nothing
        "strict" => strict: bool,
        /// section | - | When a provider counts as wrong
        "probe" => probe: Probe,
        /// 0 to 1024 | `0` | Threads inside one operator; 0: all cores
        "threads" => threads: usize,
        /// 1 to 64, or `auto` | `auto` with four cores or more, else 1 | Sessions side by side over the same model, on
        /// each device; see [batches and sessions](#batches-and-sessions)
        "sessions" => sessions: NumberOrAuto,
        /// list of 0 to 63 | the provider's `device` | GPUs to share the batches out to, for `cuda` and `tensorrt`. Not
        /// measured yet
        "devices" => devices: Vec<At<usize>>,
        /// 1 to 64, or `auto` | `auto` | Threads that crop, resize and normalise pictures for the model; `auto`: a
        /// quarter of the cores, 1 to 4. Raise it where [frames wait](operations.md#health-and-metrics) while cores are
        /// idle: many large pictures, a fast GPU
        "preprocess_threads" => preprocess_threads: NumberOrAuto,
        /// duration, 1s or more | 20 times a full batch, at least 1m | A run that takes longer counts as
        /// [hung](operations.md#when-inference-hangs)
        "run_limit" => run_limit: Duration,
        /// section | - | [How pictures are put together](#batches-and-sessions)
        "batch" => batch: Batch,
    }
}

section! {
    pub struct Probe {
        /// 0 to 1 | `0.99` | A provider whose embedding of the probe picture is further from the right one is refused
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
    Remote(Box<RemoteKeys>),
}

section! {
    pub struct TensorrtOptions {
        /// 0 to 63 | `0` | Which GPU. Not measured yet
        "device" => device: usize,
        /// bool | `false` | Lets TensorRT compute in 16 bits what is faster so. Not measured yet
        "fp16" => fp16: bool,
        /// path | `tensorrt` in the cache directory | Folder of built engines, one folder each inside. Not measured yet
        "engine_cache" => engine_cache: String,
        /// path | `timing` beside the engines | Folder of kernel timings; they make the next engine faster to build.
        /// Not measured yet
        "timing_cache" => timing_cache: String,
        /// size above 0 | TensorRT's own | Most scratch memory of an engine. Not measured yet
        "workspace" => workspace: Bytes,
        /// 1 to `runtime.batch.max_size` | the largest batch | The batch an engine is made fastest for (`opt` of its
        /// profile; `min` is 1, `max` the largest batch). Write what `vtagd_batch_size` shows to be run most, above all
        /// with `max_size: auto`, whose engines are for up to 128. Another value builds another engine. Not measured
        /// yet
        "opt_batch" => opt_batch: usize,
    }
}

section! {
    pub struct CudaOptions {
        /// 0 to 63 | `0` | Which GPU. Not measured yet
        "device" => device: usize,
        /// size above 0 | none | Most memory of the arena; CUDA and cuDNN take some for themselves on top. Not measured
        /// yet
        "memory_limit" => memory_limit: Bytes,
        /// `same_as_requested`, `next_power_of_two` | `same_as_requested` | How the arena grows. Doubling is faster to
        /// warm up and may take twice the memory. Not measured yet
        "arena" => arena: Arena,
        /// `false` | `false` | `true` is refused: CUDA computes in the precision of the model. Import it with
        /// `--precision fp16`
        "fp16" => fp16: bool,
    }
}

section! {
    pub struct OpenvinoOptions {
        /// name | `CPU` | `CPU`, `GPU`, `GPU.1`, `NPU`; only `CPU` has been tried
        "device" => device: String,
        /// `auto`, `bf16`, `f32` | `auto` | `auto`: on a CPU [what is measured to be faster](#openvinos-precision); on
        /// other devices what OpenVINO prefers
        "precision" => precision: OpenvinoPrecision,
        /// 0 to 1024 | `runtime.threads` | Threads inside one operator, where OpenVINO runs on the CPU
        "threads" => threads: usize,
        /// 1 to 8 | `1` | Runs at once inside one session; one batch is run at a time, so more than 1 seldom helps
        "streams" => streams: usize,
    }
}

section! {
    pub struct CpuOptions {
        /// 0 to 1024 | `runtime.threads` | Threads inside one operator
        "threads" => threads: usize,
    }
}

section! {
    pub struct Batch {
        /// 1 to 1024 pictures, or `auto` | `8` | Largest batch; `auto`: [found at start-up](#batches-and-sessions)
        "max_size" => max_size: NumberOrAuto,
        /// duration, up to 1m | `50ms` | Longest wait for a batch to fill while a session is free, from when its first
        /// picture was taken
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
