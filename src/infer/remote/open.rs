//! A model on a server, at start-up: the local provider that may stand in, what the probe is to give, the link, and an encoder for each session. On the
//! caller's thread. A server that does not answer is no fault of the start, unless the configuration is strict: it is tried again.

use std::sync::Arc;

use tracing::{info, warn};

use super::probe_references::ProbeReferences;
use super::remote_encoder::RemoteEncoder;
use super::server_link::LinkKeeper;
use super::tile_bytes::PixelScale;
use super::{RemoteOptions, TileInput};
use crate::infer::runtime::Runtime;
use crate::infer::sessions::{self, Opened, Plan};
use crate::infer::{BatchSize, ImageEncoder, InferError, InferSettings, Provider, Refused, Sessions};
use crate::model::Bundle;

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
    let references = ProbeReferences::find(runtime, bundle, settings, size, bytes, local.as_mut())?;
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
