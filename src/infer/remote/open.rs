//! A model on a server, at start-up: the local provider that may stand in, what the probe is to give, the link, and an encoder for each session. On the
//! caller's thread. A server that does not answer is no fault of the start, unless the configuration is strict: it is tried again.

use std::sync::Arc;

use tracing::{info, warn};

use super::remote_encoder::RemoteEncoder;
use super::server_link::{LinkKeeper, References};
use super::tile_bytes::PixelScale;
use super::{RemoteOptions, TileInput};
use crate::infer::measurement_cache::MeasurementKey;
use crate::infer::probe_embedding::ProbeReference;
use crate::infer::runtime::Runtime;
use crate::infer::session::OrtImageEncoder;
use crate::infer::sessions::{self, Opened, Plan};
use crate::infer::{BatchSize, ImageEncoder, InferError, InferSettings, Provider, Refused, Sessions};
use crate::model::Bundle;
use crate::platform::paths;

/// `max_size: auto`: a server that others ask too is not measured.
const BATCH: usize = 8;

/// Everything that `settings`, whose first provider is the server of `options`, ask for.
///
/// # Errors
/// When nothing is known of the probe and nothing can compute it; with `strict`, when the server does not answer as it should.
pub fn open(
    runtime: &Runtime,
    bundle: &Bundle,
    settings: &InferSettings,
    options: &RemoteOptions,
    size: (usize, usize),
    affine: PixelScale,
) -> Result<Opened, InferError> {
    let max_size = match settings.max_size {
        BatchSize::Pictures(size) => size,
        BatchSize::Auto => BATCH,
    };
    let rest = settings.providers.get(1..).unwrap_or_default().to_vec();
    let local = InferSettings { providers: rest, max_size: BatchSize::Pictures(max_size), ..settings.clone() };
    let (mut refused, mut local) = match local.providers.first().map(|choice| choice.provider()) {
        Some(first) if !settings.strict => fallback(sessions::open_local(runtime, bundle, &local, size), first),
        _ => (Vec::new(), None),
    };
    let bytes = (options.input == TileInput::U8).then_some(affine);
    let references = references(runtime, bundle, settings, size, bytes, local.as_mut())?;
    if let Some(disagrees) = local.as_mut().and_then(|opened| opened.encoders.first_mut()).and_then(|encoder| {
        references
            .floats
            .check(encoder.as_mut(), &[])
            .err()
            .map(|reason| Refused { provider: encoder.provider(), reason })
    }) {
        warn!(
            provider = disagrees.provider.as_str(),
            reason = disagrees.reason,
            "the fallback does not agree with the probe, it is not used"
        );
        refused.push(disagrees);
        local = None;
    }
    let stands_in =
        local.as_ref().and_then(|opened| opened.encoders.first()).map(|encoder| encoder.provider().as_str());
    let started = LinkKeeper::start(options.clone(), references, affine, size, stands_in, settings.strict);
    let (keeper, failed) = started.map_err(|e| InferError::Provider(format!("remote: no thread for it: {e}")))?;
    if let Some(fault) = failed {
        return Err(InferError::Provider(format!(
            "remote: {fault}; `runtime.strict` allows no other; start the server or set strict: false"
        )));
    }
    let keeper = Arc::new(keeper);
    let wanted = match settings.sessions {
        Sessions::Number(sessions) => sessions.max(1),
        Sessions::Auto { .. } => 1,
    };
    let threads = local.as_ref().map_or(0, |opened| opened.plan.threads);
    let (max_size, fallbacks) = match local {
        Some(opened) => (opened.plan.max_size, opened.encoders.into_iter().map(Some).collect()),
        None => (max_size, (0..wanted).map(|_| None).collect::<Vec<_>>()),
    };
    let encoders: Vec<Box<dyn ImageEncoder>> = fallbacks
        .into_iter()
        .map(|fallback| Box::new(RemoteEncoder::new(Arc::clone(&keeper), fallback)) as Box<dyn ImageEncoder>)
        .collect();
    let plan = Plan { sessions: encoders.len(), threads, devices: settings.devices.clone(), max_size, sizing: None };
    sessions::tell(&plan);
    let view = keeper.link().view();
    info!(
        url = view.url,
        state = view.state,
        fallback = stands_in.unwrap_or("none"),
        sessions = plan.sessions,
        "inference on a server"
    );
    Ok(Opened { encoders, refused, plan, link: Some(Arc::clone(keeper.link())) })
}

/// What stands in for the server, or why nothing does.
fn fallback(opened: Result<Opened, InferError>, first: Provider) -> (Vec<Refused>, Option<Opened>) {
    match opened {
        Ok(opened) => (opened.refused.clone(), Some(opened)),
        Err(error) => {
            warn!(provider = first.as_str(), %error, "nothing stands in for the inference server, frames are dropped while it is away");
            (vec![Refused { provider: first, reason: error.to_string() }], None)
        }
    }
}

/// The probe's embeddings: of the bundle, of an earlier start, of what stands in, or of the CPU, in this order. Those for bytes where `bytes` are
/// allowed at all: a bundle knows none, and a tower that nobody else needs is loaded for them.
fn references(
    runtime: &Runtime,
    bundle: &Bundle,
    settings: &InferSettings,
    size: (usize, usize),
    bytes: Option<PixelScale>,
    local: Option<&mut Opened>,
) -> Result<References, InferError> {
    let known = ProbeReference::of_bundle(bundle.known.as_ref(), size, settings.min_cosine);
    let mut encoder: Option<&mut dyn ImageEncoder> = None;
    if let Some(opened) = local {
        encoder = opened.encoders.first_mut().map(|first| first.as_mut() as &mut dyn ImageEncoder);
    }
    let mut cpu: Option<OrtImageEncoder> = None;
    let mut computed = |rounding: Option<PixelScale>| -> Result<ProbeReference, InferError> {
        let least = least(bundle, settings.min_cosine);
        let key = key(bundle, size, rounding);
        if let Some(embedding) =
            key.load::<Vec<f32>>(&paths::cache_dir()).filter(|e| e.iter().all(|v| v.is_finite()) && !e.is_empty())
        {
            return Ok(ProbeReference::remembered(embedding, size, least, rounding));
        }
        let made = match &mut encoder {
            Some(encoder) => ProbeReference::computed(&mut **encoder, size, least, rounding),
            None => {
                if cpu.is_none() {
                    info!("loading the image tower once, to know what the inference server is to answer");
                    let alone = InferSettings { providers: vec![Provider::Cpu.into()], ..settings.clone() };
                    cpu = Some(OrtImageEncoder::open(runtime, bundle, &alone, size)?);
                }
                match &mut cpu {
                    Some(cpu) => ProbeReference::computed(cpu, size, least, rounding),
                    None => return Err(InferError::Provider("remote: nothing computes the probe".into())),
                }
            }
        };
        let made = made.map_err(InferError::Model)?;
        let folder = paths::cache_dir();
        if let Err(error) = key.keep(&folder, made.embedding()) {
            warn!(folder = %folder.display(), %error, "the probe is computed again at the next start");
        }
        Ok(made)
    };
    let bytes = bytes.map(|affine| (affine, computed(Some(affine))));
    let floats = match known {
        Some(known) => known,
        None => computed(None)?,
    };
    // Without a tower of its own, a box believes its bundle: bytes say nearly the same picture.
    let bytes = match (bytes, ProbeReference::of_bundle(bundle.known.as_ref(), size, settings.min_cosine)) {
        (Some((_, Ok(bytes))), _) => Some(bytes),
        (Some((affine, Err(error))), Some(known)) => {
            warn!(%error, "the probe for a server that takes bytes cannot be computed, taking the one for floats");
            Some(known.as_bytes(affine))
        }
        (Some((_, Err(error))), None) => return Err(error),
        (None, _) => None,
    };
    drop(cpu);
    crate::infer::runtime::give_back_freed_memory();
    Ok(References { floats, bytes })
}

/// As with any provider: how far the bundle's own arithmetic is from 32 bits adds to what is let through.
fn least(bundle: &Bundle, min_cosine: f32) -> f32 {
    let own = bundle.known.as_ref().and_then(|known| known.own_cosine);
    own.map_or(min_cosine, |own| (min_cosine.clamp(-1.0, 1.0).acos() + own.clamp(-1.0, 1.0).acos()).cos())
}

fn key(bundle: &Bundle, size: (usize, usize), rounding: Option<PixelScale>) -> MeasurementKey {
    MeasurementKey {
        question: if rounding.is_some() { "probe-bytes" } else { "probe-floats" }.to_owned(),
        model: bundle.embedding_fingerprint.clone(),
        cpu: String::new(),
        cores: 0,
        runtime: String::new(),
        batch: 1,
        options: format!("{size:?} {rounding:?}"),
    }
}
