//! Execution providers: making a session with exactly the one that was asked for, or an error that says what it lacks.

use std::path::Path;

use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProvider};
use ort::session::Session;
use ort::session::builder::{AutoDevicePolicy, GraphOptimizationLevel, SessionBuilder};

use super::byte_sums::{self, ByteSums, X86};
use super::options::{EngineSpec, Pairs, ProviderChoice};
use super::runtime::Runtime;
use super::{InferError, Provider, libraries};
use crate::platform::processor;

/// How a session is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub choice: &'a ProviderChoice,
    /// `runtime.threads`.
    pub threads: usize,
    pub sums: ByteSums,
    /// For TensorRT.
    pub engine: Option<&'a EngineSpec>,
    /// What the file name of a profile is to begin with, where one is wanted.
    pub profile: Option<&'a Path>,
}

/// A session over the model `file` with the provider of `request` and nothing else to fall back to silently, except the CPU for
/// single operators that another does not have; [`super::placement`] tells how many those are.
///
/// # Errors
/// [`InferError::Provider`] if the provider cannot be registered, [`InferError::Model`] if the file cannot be loaded.
pub fn session(runtime: &Runtime, file: &Path, request: &Request<'_>) -> Result<Session, InferError> {
    let provider = request.choice.provider();
    let mut builder = prepared(runtime, request)?;
    builder.commit_from_file(file).map_err(|e| InferError::Model(load_message(file, provider, &e)))
}

/// As [`session`] on the CPU.
///
/// # Errors
/// [`InferError::Model`] if the file cannot be loaded.
pub fn cpu_session(runtime: &Runtime, file: &Path, threads: usize, sums: ByteSums) -> Result<Session, InferError> {
    let choice = Provider::Cpu.into();
    session(runtime, file, &Request { choice: &choice, threads, sums, engine: None, profile: None })
}

/// As [`cpu_session`], over a model that lies in memory.
///
/// # Errors
/// [`InferError::Model`] if it cannot be loaded.
pub fn session_from_memory(
    runtime: &Runtime,
    model: &[u8],
    threads: usize,
    sums: ByteSums,
) -> Result<Session, InferError> {
    let choice = Provider::Cpu.into();
    let mut builder = prepared(runtime, &Request { choice: &choice, threads, sums, engine: None, profile: None })?;
    builder.commit_from_memory(model).map_err(|e| InferError::Model(e.message().to_owned()))
}

fn prepared(runtime: &Runtime, request: &Request<'_>) -> Result<SessionBuilder, InferError> {
    let provider = request.choice.provider();
    check(runtime, provider)?;
    let builder = Session::builder(runtime.environment()).map_err(|e| InferError::Model(e.to_string()))?;
    let threads = within_quota(request.choice.threads(request.threads));
    let mut builder = tune(builder, provider, threads, request.sums).map_err(InferError::Model)?;
    if let Some(prefix) = request.profile {
        builder = builder.with_profiling(prefix).map_err(|e| InferError::Model(e.to_string()))?;
    }
    let list = list(request).map_err(InferError::Provider)?;
    builder.with_execution_providers(list).map_err(|e| {
        let remedy = libraries::remedy(provider, e.message());
        let (library, reason) = (runtime.library().display(), libraries::brief(e.message()));
        InferError::Provider(format!("it does not start with {library} ({reason}); {remedy}"))
    })
}

/// Looks whether the library can have `provider` at all.
///
/// # Errors
/// [`InferError::Provider`] with what is missing, and which wheel has it.
pub fn check(runtime: &Runtime, provider: Provider) -> Result<(), InferError> {
    libraries::check(runtime.library(), provider, is_built_in(provider)).map_err(InferError::Provider)
}

/// Starts the providers of `request` without a model, which takes moments where loading may take minutes.
///
/// # Errors
/// As [`session`].
pub fn try_start(runtime: &Runtime, request: &Request<'_>) -> Result<(), InferError> {
    prepared(runtime, request).map(|_| ())
}

/// Whether the library says that it was built with `provider`.
fn is_built_in(provider: Provider) -> bool {
    let known = match provider {
        Provider::Cpu => Ok(true),
        // Nothing of the library's.
        Provider::Remote => Ok(false),
        Provider::Cuda => ep::CUDA::is_available(),
        Provider::Tensorrt => ep::TensorRT::is_available(),
        Provider::Openvino => ep::OpenVINO::is_available(),
    };
    // Where it cannot say, trying will tell.
    known.unwrap_or(true)
}

/// All CPUs (0) are those that the system gives time on.
fn within_quota(threads: usize) -> usize {
    if threads == 0 { processor::quota().unwrap_or(0) } else { threads }
}

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
///   every batch size that is met and then stay; what warming up took goes back: see
///   [`give_back`](super::session::OrtImageEncoder::give_back).
/// - Products of 8-bit numbers are exact: see [`ByteSums`].
fn tune(builder: SessionBuilder, provider: Provider, threads: usize, sums: ByteSums) -> Result<SessionBuilder, String> {
    let text = |e: ort::Error<SessionBuilder>| e.to_string();
    let (exact, value) = byte_sums::session_option(sums, X86::this());
    let mut builder = builder
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(text)?
        .with_config_entry(exact, value)
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

/// The providers of a session, best first. All of them must start: `ort` passes over one that does not, and the CPU computes in
/// its name.
fn list(request: &Request<'_>) -> Result<Vec<ep::ExecutionProviderDispatch>, String> {
    let cpu = || ep::CPU::default().with_arena_allocator(true).build();
    let cuda = |pairs: Pairs| Ok::<_, String>(with(ep::CUDA::default(), pairs)?.build().error_on_failure());
    Ok(match (request.choice, request.engine) {
        (ProviderChoice::Cpu(_), _) => vec![cpu()],
        (ProviderChoice::Cuda(options), _) => vec![cuda(options.pairs())?, cpu()],
        (ProviderChoice::Tensorrt(options), Some(spec)) => {
            // TensorRT takes the parts of a graph that it knows, CUDA the rest.
            let tensorrt = with(ep::TensorRT::default(), options.pairs(spec))?.build().error_on_failure();
            vec![tensorrt, cuda(options.cuda().pairs())?, cpu()]
        }
        (ProviderChoice::Tensorrt(_), None) => return Err("tensorrt was given no folder for its engine".into()),
        (ProviderChoice::Openvino(options), _) => {
            let pairs = options.pairs(within_quota(request.threads));
            vec![with(ep::OpenVINO::default(), pairs)?.build().error_on_failure(), cpu()]
        }
        (ProviderChoice::Remote(_), _) => return Err("remote is no provider of ONNX Runtime; name it first".into()),
    })
}

fn with<E: ArbitrarilyConfigurableExecutionProvider>(provider: E, pairs: Pairs) -> Result<E, String> {
    // The bindings panic at a zero byte.
    if let Some((name, _)) = pairs.iter().find(|(_, value)| value.contains('\0')) {
        return Err(format!("the option {name} holds a zero byte"));
    }
    Ok(pairs.into_iter().fold(provider, |provider, (name, value)| provider.with_arbitrary_config(name, value)))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim()
}

/// ONNX Runtime's messages are about protobuf and nodes; this one is about the file.
pub(crate) fn load_message(file: &Path, provider: Provider, error: &ort::Error) -> String {
    let reason = first_line(error.message()).to_owned();
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
    fn options_reach_the_bindings_and_a_zero_byte_is_an_error_and_no_panic() {
        assert!(with(ep::CUDA::default(), vec![("device_id", "1".into())]).is_ok());
        let told = with(ep::CUDA::default(), vec![("device_id", "1\0".into())]).err().unwrap();
        assert!(told.contains("device_id"), "{told}");
    }
}
