//! Where the nodes of a graph were really run. A provider that registers and then leaves a graph to the CPU is the silent fallback
//! that nobody notices.
//!
//! ONNX Runtime's safe bindings tell this in one way: the profile of a session, which names the provider of every node that
//! ran. It is written while the probe runs, read once and removed. `session.disable_cpu_ep_fallback` would be simpler and is wrong
//! here: it refuses a graph for a single node on the CPU, and ONNX Runtime puts shape arithmetic there on purpose, for CUDA more so.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Provider;

/// Share of a graph's time that the CPU may have. Some shape arithmetic is a few percent at most; a graph that a provider
/// mostly does not know is nearly all.
const CPU_SHARE: f64 = 0.5;
/// A profile of two runs has some thousand lines of 600 bytes; more than this is not read.
const LARGEST: u64 = 256 << 20;

/// Node runs and their time by ONNX Runtime's name of the provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    by_provider: BTreeMap<String, Share>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    runs: u64,
    microseconds: u64,
}

/// A folder of our own for one profile, removed in the end.
pub struct ProfileFolder(PathBuf);

impl ProfileFolder {
    /// # Errors
    /// No room, or no right to it.
    pub fn create() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("vtagd-{}", uuid::Uuid::now_v7()));
        // A folder that is there already is somebody else's.
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// What the profile's file name begins with.
    pub fn prefix(&self) -> PathBuf {
        self.0.join("profile")
    }
}

impl Drop for ProfileFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Placement {
    /// Reads a finished profile.
    ///
    /// # Errors
    /// A file that cannot be read or is none.
    pub fn read(file: &Path) -> Result<Self, String> {
        let size = fs::metadata(file).map_err(|e| e.to_string())?.len();
        if size > LARGEST {
            return Err(format!("the profile has {size} bytes"));
        }
        Self::parse(&fs::read(file).map_err(|e| e.to_string())?)
    }

    fn parse(json: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Line {
            #[serde(default)]
            cat: String,
            #[serde(default)]
            dur: u64,
            #[serde(default)]
            args: Args,
        }
        #[derive(Default, Deserialize)]
        struct Args {
            provider: Option<String>,
        }
        let lines: Vec<Line> = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let mut placement = Self::default();
        for line in lines.into_iter().filter(|line| line.cat == "Node") {
            if let Some(provider) = line.args.provider {
                let share = placement.by_provider.entry(provider).or_default();
                share.runs += 1;
                share.microseconds += line.dur;
            }
        }
        Ok(placement)
    }

    /// Whether `provider` computes, and not the CPU in its name.
    ///
    /// # Errors
    /// What computes instead.
    pub fn check(&self, provider: Provider) -> Result<(), String> {
        let share = |name: &str| self.by_provider.get(name).copied().unwrap_or_default();
        let (ours, cpu) = (share(long_name(provider)), share(long_name(Provider::Cpu)));
        if ours.runs == 0 {
            return Err(format!("it computes nothing of this model ({self})"));
        }
        let all: u64 = self.by_provider.values().map(|share| share.microseconds).sum();
        if cpu.microseconds as f64 > CPU_SHARE * all as f64 {
            return Err(format!("it leaves most of this model to the CPU ({self})"));
        }
        Ok(())
    }
}

/// Such as `CUDA 120 node runs, 3.1 ms; CPU 4 node runs, 0.2 ms`; a part of a graph that a provider compiled as a whole is one node.
impl std::fmt::Display for Placement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.by_provider.is_empty() {
            return f.write_str("nothing ran");
        }
        for (index, (name, share)) in self.by_provider.iter().enumerate() {
            let short = name.strip_suffix("ExecutionProvider").unwrap_or(name);
            let milliseconds = share.microseconds as f64 / 1e3;
            write!(f, "{}{short} {} node runs, {milliseconds:.1} ms", if index == 0 { "" } else { "; " }, share.runs)?;
        }
        Ok(())
    }
}

const fn long_name(provider: Provider) -> &'static str {
    match provider {
        Provider::Tensorrt => "TensorrtExecutionProvider",
        Provider::Cuda => "CUDAExecutionProvider",
        Provider::Openvino => "OpenVINOExecutionProvider",
        Provider::Cpu | Provider::Remote => "CPUExecutionProvider",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(nodes: &[(&str, u64)]) -> Placement {
        let mut lines = vec![r#"{"cat":"Session","dur":9000000,"name":"model_loading","args":{}}"#.to_owned()];
        lines.extend(nodes.iter().map(|(provider, dur)| {
            format!(r#"{{"cat":"Node","dur":{dur},"name":"n_kernel_time","args":{{"op_name":"MatMul","provider":"{provider}","node_index":"3"}}}}"#)
        }));
        // Fences carry no provider.
        lines.push(r#"{"cat":"Node","dur":1,"name":"n_fence_before","args":{"op_name":"MatMul"}}"#.to_owned());
        Placement::parse(format!("[{}]", lines.join(",\n")).as_bytes()).unwrap()
    }

    #[test]
    fn shape_arithmetic_on_the_cpu_is_no_reason_to_refuse_a_gpu() {
        let placement = profile(&[("CUDAExecutionProvider", 900), ("CPUExecutionProvider", 100)]);
        assert_eq!(placement.check(Provider::Cuda), Ok(()));
        assert_eq!(placement.to_string(), "CPU 1 node runs, 0.1 ms; CUDA 1 node runs, 0.9 ms");
    }

    #[test]
    fn a_provider_that_leaves_the_work_to_the_cpu_is_found_out() {
        let told = profile(&[("CPUExecutionProvider", 900)]).check(Provider::Openvino).unwrap_err();
        assert!(told.contains("computes nothing") && told.contains("CPU 1 node runs"), "{told}");
        let mostly = profile(&[("OpenVINOExecutionProvider", 100), ("CPUExecutionProvider", 900)]);
        assert!(mostly.check(Provider::Openvino).unwrap_err().contains("leaves most of this model to the CPU"));
        assert!(profile(&[]).check(Provider::Cuda).unwrap_err().contains("nothing ran"));
    }

    #[test]
    fn what_tensorrt_leaves_to_cuda_is_not_left_to_the_cpu() {
        let both = profile(&[("TensorrtExecutionProvider", 10), ("CUDAExecutionProvider", 900)]);
        assert_eq!(both.check(Provider::Tensorrt), Ok(()));
    }

    #[test]
    fn a_profile_that_is_none_is_an_error_and_its_folder_goes_away() {
        assert!(Placement::parse(b"{").is_err());
        let folder = ProfileFolder::create().unwrap();
        let path = folder.prefix();
        fs::write(&path, b"[]").unwrap();
        assert_eq!(Placement::read(&path), Ok(Placement::default()));
        drop(folder);
        assert!(!path.exists() && Placement::read(&path).is_err());
    }
}
