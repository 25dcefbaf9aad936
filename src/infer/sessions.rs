//! All sessions of a model: on each device so many, with the provider that works on the first. In: the settings; out: warm encoders,
//! what a batch may hold, and how that was found. On the caller's thread, at start-up.
//!
//! On the CPU sessions share their weights ([`OrtImageEncoder::beside`]); elsewhere each has its own in memory. One that cannot
//! be opened beside the first is left out and told, unless the configuration is strict; what its devices were to do, the others do.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use tracing::{info, warn};

use super::remote::server_link::ServerLink;
use super::remote::tile_bytes::PixelScale;
use super::runtime::Runtime;
use super::session::OrtImageEncoder;
use super::sizing::{self, Sizing};
use super::{BatchSize, ImageEncoder, InferError, InferSettings, Provider, ProviderChoice, Refused, Sessions, remote};
use crate::model::Bundle;
use crate::platform::process::Process;
use crate::platform::rounding;

/// How inference runs, for the log and whoever asks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    pub sessions: usize,
    /// Inside one operator, for each session; 0: all cores.
    pub threads: usize,
    /// GPUs, where several were asked for.
    pub devices: Vec<u32>,
    /// Largest batch.
    pub max_size: usize,
    /// What was measured for `max_size: auto`.
    pub sizing: Option<Sizing>,
}

impl Plan {
    /// Whether inference as planned leaves at least one of `cores` to others. A GPU's thread mostly waits, and needs no such care.
    pub fn leaves_a_core(&self, provider: Provider, cores: usize) -> bool {
        // 0 threads are all cores.
        provider == Provider::Cpu && self.threads > 0 && self.threads.saturating_mul(self.sessions) < cores
    }
}

/// Warm sessions over one model.
pub struct Opened {
    pub encoders: Vec<Box<dyn ImageEncoder>>,
    pub refused: Vec<Refused>,
    pub plan: Plan,
    /// Where a server computes.
    pub link: Option<Arc<ServerLink>>,
}

/// Opens and warms every session that `settings` asks for; `affine` is what preprocessing ends with.
///
/// # Errors
/// As [`remote::open`] where the first provider is a server; otherwise as [`OrtImageEncoder::open`] for the first session; with `strict` for
/// any.
pub fn open(
    runtime: &Runtime,
    bundle: &Bundle,
    settings: &InferSettings,
    size: (usize, usize),
    affine: PixelScale,
) -> Result<Opened, InferError> {
    match settings.providers.first() {
        Some(ProviderChoice::Remote(options)) => remote::open(runtime, bundle, settings, options, size, affine),
        _ => open_local(runtime, bundle, settings, size),
    }
}

/// As [`open`], in this process.
///
/// # Errors
/// As [`OrtImageEncoder::open`] for the first of them; with `strict` for any.
pub fn open_local(
    runtime: &Runtime,
    bundle: &Bundle,
    settings: &InferSettings,
    size: (usize, usize),
) -> Result<Opened, InferError> {
    let mut first = OrtImageEncoder::open(runtime, bundle, &on_first_device(settings), size)?;
    let (refused, choice) = (first.refused().to_vec(), first.choice().clone());
    let sizing = match settings.max_size {
        BatchSize::Pictures(_) => None,
        BatchSize::Auto => Some(size_of(&mut first)?),
    };
    let wanted = match (settings.max_size, &sizing) {
        (BatchSize::Pictures(size), _) => size,
        (BatchSize::Auto, found) => found.as_ref().map_or(1, |found| found.max_size),
    };
    let mut max_size = first.warm_up(wanted)?;
    let mut encoders = vec![first];
    // The others are to be the same, and nothing else in their place.
    let same = InferSettings { max_size: BatchSize::Pictures(max_size), strict: true, ..settings.clone() };
    for choice in places(settings, &choice).into_iter().skip(1) {
        if let Some(encoder) = encoders.first().and_then(OrtImageEncoder::beside) {
            encoders.push(encoder);
            continue;
        }
        let (device, started, before) = (choice.device(), Instant::now(), resident_mib());
        let same = InferSettings { providers: vec![choice], ..same.clone() };
        let opened = OrtImageEncoder::open(runtime, bundle, &same, size).and_then(|mut encoder| {
            // A smaller GPU holds smaller batches, and any session may be given any batch.
            max_size = max_size.min(encoder.warm_up(max_size)?);
            Ok(encoder)
        });
        match opened {
            Ok(encoder) => {
                encoders.push(encoder);
                let (session, memory_mib) = (encoders.len() - 1, resident_mib().saturating_sub(before));
                let seconds = rounding::seconds(started.elapsed());
                info!(session, device, memory_mib, seconds, "another session is warm");
            }
            Err(error) if settings.strict => return Err(error),
            Err(error) => warn!(device, %error, "a session cannot be opened, going on without it"),
        }
    }
    if encoders.len() > 1 && choice.provider() == Provider::Cpu {
        side_by_side(&mut encoders, max_size)?;
        info!(sessions = encoders.len(), "sessions share the weights");
    }
    // On the CPU all of them share one arena.
    if let Some(Err(error)) = encoders.first_mut().map(OrtImageEncoder::give_back) {
        warn!(%error, "what warming up took is not given back, going on with it");
    }
    let threads = choice.threads(settings.threads);
    let plan = Plan { sessions: encoders.len(), threads, devices: settings.devices.clone(), max_size, sizing };
    tell(&plan);
    if let Some(sizing) = &plan.sizing {
        info!(max_size, measured = %sizing, "batch size found");
    }
    let encoders = encoders.into_iter().map(|encoder| Box::new(encoder) as Box<dyn ImageEncoder>).collect();
    Ok(Opened { encoders, refused, plan, link: None })
}

/// Tells the metrics.
pub(super) fn tell(plan: &Plan) {
    metrics::gauge!("vtagd_inference_sessions").set(plan.sessions as f64);
    metrics::gauge!("vtagd_batch_max_size").set(plan.max_size as f64);
}

/// Runs a full batch on all at once, so that a lack of memory for it is seen before the first frame, and tells each how long that takes.
fn side_by_side(encoders: &mut [OrtImageEncoder], max_size: usize) -> Result<(), InferError> {
    std::thread::scope(|scope| {
        let runs: Vec<_> =
            encoders.iter_mut().map(|encoder| scope.spawn(move || encoder.time_full(max_size))).collect();
        runs.into_iter().try_for_each(|run| {
            run.join().unwrap_or_else(|_| Err(InferError::Run("warming up panicked; its message is above".into())))
        })
    })
}

/// The settings with every provider on the first of `devices`.
fn on_first_device(settings: &InferSettings) -> InferSettings {
    let Some(device) = settings.devices.first() else { return settings.clone() };
    let providers = settings.providers.iter().cloned().map(|choice| choice.on_device(*device)).collect();
    InferSettings { providers, ..settings.clone() }
}

/// Where each session is to run. `choice` is what works.
fn places(settings: &InferSettings, choice: &ProviderChoice) -> Vec<ProviderChoice> {
    let each = match settings.sessions {
        Sessions::Number(sessions) => sessions.max(1),
        Sessions::Auto { .. } => 1,
    };
    let on_gpu = matches!(choice.provider(), Provider::Cuda | Provider::Tensorrt);
    let devices = if on_gpu && !settings.devices.is_empty() { settings.devices.clone() } else { vec![choice.device()] };
    // Round and round, so that those which are left out for want of memory are not all of one GPU.
    (0..each).flat_map(|_| devices.iter().map(|device| choice.clone().on_device(*device))).collect()
}

/// `max_size: auto`, measured.
fn size_of(encoder: &mut OrtImageEncoder) -> Result<Sizing, InferError> {
    let (started, picture) = (Instant::now(), encoder.picture_len());
    let most = sizing::most(encoder.provider());
    sizing::measure(encoder, picture, most, &mut || started.elapsed())
}

fn resident_mib() -> u64 {
    Process::read().map_or(0, |process| process.resident_bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inference_goes_first_only_while_a_core_is_left() {
        let plan = |sessions, threads| Plan { sessions, threads, devices: Vec::new(), max_size: 8, sizing: None };
        assert!(plan(1, 1).leaves_a_core(Provider::Cpu, 2));
        assert!(plan(2, 3).leaves_a_core(Provider::Cpu, 8));
        assert!(!plan(2, 1).leaves_a_core(Provider::Cpu, 2));
        assert!(!plan(1, 0).leaves_a_core(Provider::Cpu, 16), "0 threads are all cores");
        assert!(!plan(1, 1).leaves_a_core(Provider::Cuda, 16), "a GPU's thread mostly waits");
    }

    #[test]
    fn each_gpu_gets_its_sessions_in_turn_and_a_cpu_all_of_them() {
        let settings = InferSettings { devices: vec![0, 2], sessions: Sessions::Number(2), ..InferSettings::default() };
        let devices = |provider: Provider| -> Vec<u32> {
            places(&settings, &provider.into()).iter().map(ProviderChoice::device).collect()
        };
        assert_eq!(devices(Provider::Cuda), [0, 2, 0, 2]);
        assert_eq!(devices(Provider::Tensorrt), [0, 2, 0, 2]);
        assert_eq!(devices(Provider::Cpu), [0, 0]);
    }

    #[test]
    fn a_device_of_the_providers_own_options_counts_where_no_list_is_given() {
        let choice = ProviderChoice::from(Provider::Cuda).on_device(3);
        let settings = InferSettings { providers: vec![choice.clone()], ..InferSettings::default() };
        assert_eq!(places(&settings, &choice).iter().map(ProviderChoice::device).collect::<Vec<_>>(), [3]);
        assert_eq!(on_first_device(&settings), settings);
        let listed = InferSettings { devices: vec![1], ..settings };
        assert_eq!(on_first_device(&listed).providers[0].device(), 1);
    }
}
