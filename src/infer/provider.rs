//! Execution providers: making a session with exactly the one that was asked for, and comparing what it computes.

use std::path::Path;

use ort::ep;
use ort::session::Session;
use ort::session::builder::{AutoDevicePolicy, GraphOptimizationLevel, SessionBuilder};

use super::runtime::Runtime;
use super::{InferError, Provider};

/// Least cosine with the CPU's embedding. Half precision stays above 0.999; a broken kernel is nowhere near.
const AGREEMENT: f32 = 0.995;

/// Whether the 8-bit weights of a model stay within the 16 bits in which CPUs without VNNI add their products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteSums {
    /// Written by our own import, which leaves room for them: the fast kernels are exact.
    Fit,
    /// Anybody else's: the runtime is told to add in 32 bits where the fast kernels would overflow.
    MayOverflow,
}

impl From<bool> for ByteSums {
    /// Whether they are known to fit.
    fn from(fit: bool) -> Self {
        if fit { Self::Fit } else { Self::MayOverflow }
    }
}

/// A session over the model `file` with `provider` and nothing else to fall back to silently, except the CPU for single
/// operators that a GPU does not have.
///
/// # Errors
/// [`InferError::Provider`] if the provider cannot be registered, [`InferError::Model`] if the file cannot be loaded.
pub fn session(
    runtime: &Runtime,
    file: &Path,
    provider: Provider,
    threads: usize,
    sums: ByteSums,
) -> Result<Session, InferError> {
    let mut builder = prepared(runtime, provider, threads, sums)?;
    builder.commit_from_file(file).map_err(|e| InferError::Model(load_message(file, provider, &e)))
}

/// As [`session`] on the CPU, over a model that lies in memory.
///
/// # Errors
/// [`InferError::Model`] if it cannot be loaded.
pub fn session_from_memory(
    runtime: &Runtime,
    model: &[u8],
    threads: usize,
    sums: ByteSums,
) -> Result<Session, InferError> {
    let mut builder = prepared(runtime, Provider::Cpu, threads, sums)?;
    builder.commit_from_memory(model).map_err(|e| InferError::Model(e.message().to_owned()))
}

fn prepared(
    runtime: &Runtime,
    provider: Provider,
    threads: usize,
    sums: ByteSums,
) -> Result<SessionBuilder, InferError> {
    let builder = Session::builder(runtime.environment()).map_err(|e| InferError::Model(e.to_string()))?;
    let builder = tune(builder, provider, threads, sums).map_err(InferError::Model)?;
    builder.with_execution_providers(list(provider)).map_err(|e| {
        InferError::Provider(format!(
            "{} is not in this ONNX Runtime or does not start ({e}); is {} the build for it, and its driver installed?",
            provider.as_str(),
            runtime.library().display()
        ))
    })
}

/// Of ONNX Runtime's session options (`kOrtSessionOptionsAvx2PrecisionMode`). On x86 without VNNI, which is AVX2 and the first
/// AVX-512, its kernels for unsigned times signed bytes add two products in 16 bits, which overflows and is cut off there: an
/// int8 image tower then agrees with 32 bits to a cosine of 0.93 only. With this, weights become unsigned on such machines while
/// a model is loaded, and all sums are in 32 bits, which is slower. Machines with VNNI, and other models, do not notice.
const EXACT_8_BITS: &str = "session.x64quantprecision";

/// How long an idle pool thread looks for work before it sleeps, in microseconds: longer than most operators of one batch
/// take, far shorter than the pause between two batches.
const SPIN: &str = "50";

/// Of ONNX Runtime's session options (`kOrtSessionOptionsConfigIntraOpSpinDurationUs`); versions that do not know it spin as
/// they are built to.
const SPIN_DURATION: &str = "session.intra_op.spin_duration_us";

/// Settings for a process that runs for months, measured with the starter model at batch 8:
///
/// - Pool threads spin for [`SPIN`] and then sleep. A graph in 8 bits has several hundred short operators, and waking a thread
///   for each costs 6 % of ViT-B/32's time. For as long as the runtime would spin by itself, they would burn twice the CPU of the work
///   itself between batches, and be slower where cores are shared; for 50 µs they cost no more CPU than not spinning at all.
/// - The CPU arena and memory patterns are on: without them a picture costs 40 % more CPU in page faults. Both grow once for
///   every batch size and then stay, which warming up does ahead of time.
/// - Products of 8-bit numbers are exact: see [`ByteSums`].
fn tune(builder: SessionBuilder, provider: Provider, threads: usize, sums: ByteSums) -> Result<SessionBuilder, String> {
    let text = |e: ort::Error<SessionBuilder>| e.to_string();
    let mut builder = builder
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(text)?
        .with_config_entry(EXACT_8_BITS, if sums == ByteSums::MayOverflow { "1" } else { "0" })
        .map_err(text)?
        .with_inter_threads(1)
        .map_err(text)?
        .with_intra_op_spinning(true)
        .map_err(text)?
        .with_config_entry(SPIN_DURATION, SPIN)
        .map_err(text)?
        .with_memory_pattern(true)
        .map_err(text)?
        // Left alone, a build with plug-in providers may put a "cpu" session on another device.
        .with_auto_device(AutoDevicePolicy::PreferCPU)
        .map_err(text)?;
    if threads > 0 || provider != Provider::Cpu {
        // The CPU has little to do when something else computes.
        builder = builder.with_intra_threads(threads.max(1)).map_err(text)?;
    }
    Ok(builder)
}

fn list(provider: Provider) -> Vec<ep::ExecutionProviderDispatch> {
    let cpu = || ep::CPU::default().with_arena_allocator(true).build();
    let cuda = || {
        ep::CUDA::default()
            // Doubling its arena at every growth is how a small model comes to fill a GPU.
            .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
            .build()
            .error_on_failure()
    };
    match provider {
        Provider::Cpu => vec![cpu()],
        Provider::Cuda => vec![cuda(), cpu()],
        // TensorRT takes the parts of a graph that it knows, CUDA the rest.
        Provider::Tensorrt => vec![ep::TensorRT::default().build().error_on_failure(), cuda(), cpu()],
        Provider::Openvino => vec![ep::OpenVINO::default().build().error_on_failure(), cpu()],
    }
}

/// Compares a provider's embedding of one picture with the CPU's (both L2-normalised).
///
/// # Errors
/// What differs, for people.
pub fn agree(ours: &[f32], cpu: &[f32]) -> Result<(), String> {
    let cosine: f32 = ours.iter().zip(cpu).map(|(a, b)| a * b).sum();
    if ours.len() == cpu.len() && cosine.is_finite() && cosine >= AGREEMENT {
        return Ok(());
    }
    Err(format!(
        "it computes something else than the CPU (cosine {cosine:.4} on the probe picture, at least {AGREEMENT} is needed)"
    ))
}

/// ONNX Runtime's messages are about protobuf and nodes; this one is about the file.
pub(crate) fn load_message(file: &Path, provider: Provider, error: &ort::Error) -> String {
    let reason = error.message().lines().next().unwrap_or_default().trim().to_owned();
    let damaged = ["Protobuf parsing failed", "INVALID_PROTOBUF", "External data", "external data", "No graph"];
    if damaged.iter().any(|sign| reason.contains(sign)) || matches!(error.code(), ort::ErrorCode::InvalidProtobuf) {
        return format!(
            "{} is damaged or incomplete ({reason}); copy or export the model again, with its data files beside it",
            file.display()
        );
    }
    format!("{} cannot be loaded with {}: {reason}", file.display(), provider.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_that_computes_something_else_is_refused() {
        assert!(agree(&[0.6, 0.8], &[0.6, 0.8]).is_ok());
        assert!(agree(&[0.8, 0.6], &[0.6, 0.8]).unwrap_err().contains("cosine 0.96"));
        assert!(agree(&[f32::NAN, 0.0], &[0.6, 0.8]).is_err());
        assert!(agree(&[1.0], &[1.0, 0.0]).is_err());
    }
}
