//! What can be said about each execution provider, and the words in which ONNX Runtime wants to hear it. Pure.
//!
//! Comes in: `runtime.providers` of the configuration, checked. Goes out: option maps for `super::provider`. Every option has a
//! default that works, so a bare name is a whole choice.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Provider;
use super::remote::RemoteOptions;

/// A provider and how it is to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderChoice {
    Tensorrt(TensorrtOptions),
    Cuda(CudaOptions),
    Openvino(OpenvinoOptions),
    Cpu(CpuOptions),
    /// Never handed to another process.
    #[serde(skip)]
    Remote(Box<RemoteOptions>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorrtOptions {
    /// Of the GPUs that the driver shows, from 0.
    pub device: u32,
    /// Lets TensorRT compute in 16 bits whatever is faster so.
    pub fp16: bool,
    /// Folder of built engines; the cache directory's own if left out.
    pub engine_cache: Option<PathBuf>,
    /// Folder of kernel timings, which make the next engine faster to build; beside the engines if left out.
    pub timing_cache: Option<PathBuf>,
    /// Most scratch memory of an engine in bytes; TensorRT decides if left out.
    pub workspace: Option<u64>,
    /// The batch that an engine is made fastest for; the largest one if left out.
    pub opt_batch: Option<usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CudaOptions {
    /// Of the GPUs that the driver shows, from 0.
    pub device: u32,
    /// Most memory of the arena in bytes; all of the GPU if left out. What CUDA and cuDNN take for themselves comes on top.
    pub memory_limit: Option<u64>,
    pub arena: Arena,
}

/// How an arena grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arena {
    /// By what is needed. Doubling at every growth is how a small model comes to fill a GPU.
    #[default]
    SameAsRequested,
    NextPowerOfTwo,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenvinoOptions {
    /// As OpenVINO calls it: `CPU`, `GPU`, `GPU.1`, `NPU`.
    pub device: String,
    pub precision: OpenvinoPrecision,
    /// `None`: as `runtime.threads`.
    pub threads: Option<usize>,
    /// Runs at once within one session; one batch is run at a time, so more than one only helps to fill many cores. `None`: 1.
    pub streams: Option<u8>,
    /// What measuring has shown of this processor and model, for a precision that is `auto`; nothing of the configuration.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bf16_is_faster: bool,
}

impl Default for OpenvinoOptions {
    fn default() -> Self {
        let precision = OpenvinoPrecision::default();
        Self { device: "CPU".into(), precision, threads: None, streams: None, bf16_is_faster: false }
    }
}

/// What OpenVINO computes in. A hint: it takes another where the device does not have it, which the probe would show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OpenvinoPrecision {
    /// On a CPU bf16 where that has been measured to be faster, 32 bits elsewhere; on other devices what OpenVINO thinks best.
    #[default]
    Auto,
    Bf16,
    F32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuOptions {
    /// `None`: as `runtime.threads`.
    pub threads: Option<usize>,
}

/// Option names and values as ONNX Runtime reads them.
pub type Pairs = Vec<(&'static str, String)>;

/// What TensorRT has to know besides its options; see [`super::engine_cache`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSpec {
    /// Where engines of exactly this model, GPU and library versions lie.
    pub folder: PathBuf,
    pub timing: PathBuf,
    /// The picture input, where its batch is free.
    pub profile: Option<Profile>,
}

/// The shapes an engine is built for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    pub input: String,
    /// Height and width.
    pub size: (usize, usize),
    /// Largest batch, which is also the one it is made fastest for where nothing else is said: a daemon under load runs full batches.
    pub batch: usize,
}

impl ProviderChoice {
    pub const fn provider(&self) -> Provider {
        match self {
            Self::Tensorrt(_) => Provider::Tensorrt,
            Self::Cuda(_) => Provider::Cuda,
            Self::Openvino(_) => Provider::Openvino,
            Self::Cpu(_) => Provider::Cpu,
            Self::Remote(_) => Provider::Remote,
        }
    }

    /// The GPU that it is to run on; 0 where there is none to choose.
    pub const fn device(&self) -> u32 {
        match self {
            Self::Tensorrt(options) => options.device,
            Self::Cuda(options) => options.device,
            Self::Openvino(_) | Self::Cpu(_) | Self::Remote(_) => 0,
        }
    }

    /// The same on another GPU.
    #[must_use]
    pub fn on_device(mut self, device: u32) -> Self {
        match &mut self {
            Self::Tensorrt(options) => options.device = device,
            Self::Cuda(options) => options.device = device,
            Self::Openvino(_) | Self::Cpu(_) | Self::Remote(_) => {}
        }
        self
    }

    /// Threads that this provider is to have, where `all` is `runtime.threads`.
    pub fn threads(&self, all: usize) -> usize {
        match self {
            Self::Openvino(options) => options.threads.unwrap_or(all),
            Self::Cpu(options) => options.threads.unwrap_or(all),
            Self::Tensorrt(_) | Self::Cuda(_) | Self::Remote(_) => all,
        }
    }

    /// What was asked for, for logs and tables; empty where everything is left to the defaults.
    pub fn describe(&self) -> String {
        let mut words = Vec::new();
        let mut number = |name: &str, value: Option<u64>| words.extend(value.map(|value| format!("{name}={value}")));
        match self {
            Self::Tensorrt(o) => {
                number("device", Some(o.device.into()));
                number("workspace", o.workspace);
                number("opt_batch", o.opt_batch.map(|batch| batch as u64));
                words.push(format!("fp16={}", o.fp16));
            }
            Self::Cuda(o) => {
                number("device", Some(o.device.into()));
                number("memory_limit", o.memory_limit);
            }
            Self::Openvino(o) => {
                number("threads", o.threads.map(|n| n as u64));
                number("streams", o.streams.map(u64::from));
                words.insert(0, format!("device={}", o.device));
                let chosen = match (o.precision, o.computes_in()) {
                    (OpenvinoPrecision::Auto, Some(chosen)) => format!("({chosen})"),
                    _ => String::new(),
                };
                words.insert(1, format!("precision={}{chosen}", o.precision.as_str()));
            }
            Self::Cpu(o) => number("threads", o.threads.map(|n| n as u64)),
            Self::Remote(o) => {
                words.extend(o.urls.iter().map(ToString::to_string));
                words.push(format!("model={}", o.model));
            }
        }
        words.join(",")
    }
}

impl From<Provider> for ProviderChoice {
    fn from(provider: Provider) -> Self {
        match provider {
            Provider::Tensorrt => Self::Tensorrt(TensorrtOptions::default()),
            Provider::Cuda => Self::Cuda(CudaOptions::default()),
            Provider::Openvino => Self::Openvino(OpenvinoOptions::default()),
            Provider::Cpu => Self::Cpu(CpuOptions::default()),
            Provider::Remote => Self::Remote(Box::default()),
        }
    }
}

/// With default options, a name says it all.
impl PartialEq<Provider> for ProviderChoice {
    fn eq(&self, other: &Provider) -> bool {
        let default = Self::from(*other);
        *self == default
    }
}

impl OpenvinoPrecision {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }
}

impl CudaOptions {
    pub fn pairs(&self) -> Pairs {
        let arena = match self.arena {
            Arena::SameAsRequested => "kSameAsRequested",
            Arena::NextPowerOfTwo => "kNextPowerOfTwo",
        };
        let mut pairs = vec![("device_id", self.device.to_string()), ("arena_extend_strategy", arena.to_owned())];
        pairs.extend(self.memory_limit.map(|limit| ("gpu_mem_limit", limit.to_string())));
        pairs
    }
}

impl TensorrtOptions {
    /// CUDA's options for what TensorRT does not take.
    pub fn cuda(&self) -> CudaOptions {
        CudaOptions { device: self.device, ..CudaOptions::default() }
    }

    pub fn pairs(&self, spec: &EngineSpec) -> Pairs {
        let flag = |on: bool| if on { "1" } else { "0" }.to_owned();
        let mut pairs = vec![
            ("device_id", self.device.to_string()),
            ("trt_fp16_enable", flag(self.fp16)),
            ("trt_engine_cache_enable", flag(true)),
            ("trt_engine_cache_path", spec.folder.display().to_string()),
            ("trt_timing_cache_enable", flag(true)),
            ("trt_timing_cache_path", spec.timing.display().to_string()),
        ];
        pairs.extend(self.workspace.map(|bytes| ("trt_max_workspace_size", bytes.to_string())));
        if let Some(Profile { input, size: (height, width), batch }) = &spec.profile {
            let most = (*batch).max(1);
            let shape = |batch: usize| format!("{input}:{batch}x3x{height}x{width}");
            // Without them an engine is built anew whenever a batch is larger or smaller than any before, in the middle of work.
            pairs.push(("trt_profile_min_shapes", shape(1)));
            // TensorRT refuses a profile whose best batch is beyond its largest.
            pairs.push(("trt_profile_opt_shapes", shape(self.opt_batch.unwrap_or(most).clamp(1, most))));
            pairs.push(("trt_profile_max_shapes", shape(most)));
        }
        pairs
    }
}

impl OpenvinoOptions {
    /// Whether it is left to measuring what a CPU computes in.
    pub fn may_choose(&self) -> bool {
        self.precision == OpenvinoPrecision::Auto && self.device == "CPU"
    }

    /// The precision that is asked of OpenVINO; `None` leaves it to the device.
    fn computes_in(&self) -> Option<&'static str> {
        match self.precision {
            OpenvinoPrecision::Auto if self.may_choose() => Some(if self.bf16_is_faster { "bf16" } else { "f32" }),
            OpenvinoPrecision::Auto => None,
            OpenvinoPrecision::Bf16 => Some("bf16"),
            OpenvinoPrecision::F32 => Some("f32"),
        }
    }

    /// `all` is `runtime.threads`.
    pub fn pairs(&self, all: usize) -> Pairs {
        let mut pairs =
            vec![("device_type", self.device.clone()), ("num_streams", self.streams.unwrap_or(1).to_string())];
        let threads = self.threads.unwrap_or(all);
        if threads > 0 {
            pairs.push(("num_of_threads", threads.to_string()));
        }
        if let Some(hint) = self.computes_in() {
            // The provider's own `precision` knows no bf16; this is handed to OpenVINO as it is.
            let config = serde_json::json!({ &self.device: { "INFERENCE_PRECISION_HINT": hint } });
            pairs.push(("load_config", config.to_string()));
        }
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'a>(pairs: &'a Pairs, name: &str) -> Option<&'a str> {
        pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn tensorrt_builds_for_every_batch_from_one_picture_to_the_largest() {
        let mut spec = EngineSpec {
            folder: "/cache/e".into(),
            timing: "/cache/t".into(),
            profile: Some(Profile { input: "pixel_values".into(), size: (224, 336), batch: 8 }),
        };
        let options = TensorrtOptions { device: 1, fp16: true, workspace: Some(1 << 30), ..TensorrtOptions::default() };
        let pairs = options.pairs(&spec);
        assert_eq!(value(&pairs, "trt_profile_min_shapes"), Some("pixel_values:1x3x224x336"));
        assert_eq!(value(&pairs, "trt_profile_opt_shapes"), Some("pixel_values:8x3x224x336"));
        assert_eq!(value(&pairs, "trt_profile_max_shapes"), Some("pixel_values:8x3x224x336"));
        assert_eq!(value(&pairs, "trt_engine_cache_path"), Some("/cache/e"));
        assert_eq!(value(&pairs, "trt_timing_cache_path"), Some("/cache/t"));
        assert_eq!(value(&pairs, "trt_max_workspace_size"), Some("1073741824"));
        assert_eq!((value(&pairs, "trt_fp16_enable"), value(&pairs, "device_id")), (Some("1"), Some("1")));
        assert_eq!(value(&options.cuda().pairs(), "device_id"), Some("1"), "CUDA takes the rest on the same GPU");

        let opt = |wanted| {
            let pairs = TensorrtOptions { opt_batch: Some(wanted), ..TensorrtOptions::default() }.pairs(&spec);
            let shapes = ["trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes"];
            shapes.map(|name| value(&pairs, name).unwrap().split([':', 'x']).rev().nth(3).unwrap().to_owned())
        };
        assert_eq!(opt(4), ["1", "4", "8"]);
        assert_eq!(opt(64), ["1", "8", "8"], "no further than the largest");

        spec.profile = None;
        let pairs = TensorrtOptions::default().pairs(&spec);
        assert!(pairs.iter().all(|(key, _)| !key.contains("profile")), "a fixed batch needs no profile");
        assert_eq!((value(&pairs, "trt_fp16_enable"), value(&pairs, "trt_max_workspace_size")), (Some("0"), None));
    }

    #[test]
    fn cuda_grows_its_arena_by_what_it_needs_unless_told_otherwise() {
        assert_eq!(value(&CudaOptions::default().pairs(), "arena_extend_strategy"), Some("kSameAsRequested"));
        assert_eq!(value(&CudaOptions::default().pairs(), "gpu_mem_limit"), None);
        let options = CudaOptions { device: 2, memory_limit: Some(4 << 30), arena: Arena::NextPowerOfTwo };
        let pairs = options.pairs();
        assert_eq!(value(&pairs, "arena_extend_strategy"), Some("kNextPowerOfTwo"));
        assert_eq!((value(&pairs, "gpu_mem_limit"), value(&pairs, "device_id")), (Some("4294967296"), Some("2")));
    }

    #[test]
    fn openvino_takes_bf16_by_itself_only_on_a_cpu_where_it_was_measured_to_be_faster() {
        let hint = |options: &OpenvinoOptions| value(&options.pairs(0), "load_config").map(str::to_owned);
        let auto = OpenvinoOptions::default();
        assert_eq!(hint(&auto).as_deref(), Some(r#"{"CPU":{"INFERENCE_PRECISION_HINT":"f32"}}"#), "whatever flags say");
        let faster = OpenvinoOptions { bf16_is_faster: true, ..auto.clone() };
        assert_eq!(hint(&faster).as_deref(), Some(r#"{"CPU":{"INFERENCE_PRECISION_HINT":"bf16"}}"#));
        let told = |options: &OpenvinoOptions| ProviderChoice::Openvino(options.clone()).describe();
        assert!(told(&auto).contains("precision=auto(f32)") && told(&faster).contains("precision=auto(bf16)"));
        let gpu = OpenvinoOptions { device: "GPU.1".into(), ..faster };
        assert_eq!(hint(&gpu), None);
        let asked = OpenvinoOptions { precision: OpenvinoPrecision::F32, ..gpu };
        assert_eq!(hint(&asked).as_deref(), Some(r#"{"GPU.1":{"INFERENCE_PRECISION_HINT":"f32"}}"#));
    }

    #[test]
    fn threads_of_one_provider_go_before_those_of_all() {
        let pairs = OpenvinoOptions { threads: Some(3), streams: Some(2), ..OpenvinoOptions::default() }.pairs(8);
        assert_eq!((value(&pairs, "num_of_threads"), value(&pairs, "num_streams")), (Some("3"), Some("2")));
        assert_eq!(value(&OpenvinoOptions::default().pairs(8), "num_of_threads"), Some("8"));
        assert_eq!(value(&OpenvinoOptions::default().pairs(0), "num_of_threads"), None);
        let cpu = ProviderChoice::Cpu(CpuOptions { threads: Some(2) });
        assert_eq!((cpu.threads(8), ProviderChoice::from(Provider::Cpu).threads(8)), (2, 8));
    }
}
