//! What the probe picture's embedding is to be, for a server that is sent floats and for one that is sent bytes. In: the bundle, and what stands in
//! for the server; out: references. Each is of the bundle, of an earlier start, of what stands in, or of the CPU, in this order.
//!
//! A bundle knows none for bytes. Where a tower would have to be loaded for that alone, it is done when a server turns out to take bytes, on the
//! thread that asks; other threads that want it meanwhile wait.

use std::fmt;
use std::sync::OnceLock;

use tracing::{info, warn};

use super::tile_bytes::PixelScale;
use crate::infer::measurement_cache::MeasurementKey;
use crate::infer::probe_embedding::ProbeReference;
use crate::infer::runtime::{Runtime, give_back_freed_memory};
use crate::infer::session::OrtImageEncoder;
use crate::infer::sessions::Opened;
use crate::infer::{ImageEncoder, InferError, InferSettings, Provider};
use crate::model::Bundle;
use crate::platform::paths;

/// See the module.
#[derive(Debug)]
pub struct ProbeReferences {
    pub floats: ProbeReference,
    /// `None`: no server is sent bytes.
    bytes: Option<BytesReference>,
}

struct BytesReference {
    found: OnceLock<ProbeReference>,
    find: Box<dyn Fn() -> ProbeReference + Send + Sync>,
}

impl BytesReference {
    fn of(found: ProbeReference) -> Self {
        Self { found: OnceLock::from(found.clone()), find: Box::new(move || found.clone()) }
    }

    fn later(source: Source, affine: PixelScale, believed: ProbeReference) -> Self {
        let find = move || {
            let computed = source.tower().and_then(|mut tower| source.computed(&mut tower, Some(affine)));
            give_back_freed_memory();
            believe(computed, Some(believed.clone())).unwrap_or_else(|_| believed.clone())
        };
        Self { found: OnceLock::new(), find: Box::new(find) }
    }
}

/// Who computes now, if it has to be.
struct Computing<'a> {
    local: Option<&'a mut Box<dyn ImageEncoder>>,
    tower: Option<OrtImageEncoder>,
}

impl Computing<'_> {
    fn must_load(&self) -> bool {
        self.local.is_none() && self.tower.is_none()
    }

    fn encoder(&mut self, source: &Source) -> Result<&mut dyn ImageEncoder, InferError> {
        if let Some(local) = &mut self.local {
            return Ok(local.as_mut());
        }
        let tower = match self.tower.take() {
            Some(tower) => tower,
            None => source.tower()?,
        };
        Ok(self.tower.insert(tower))
    }
}

impl fmt::Debug for BytesReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.found.fmt(f)
    }
}

impl ProbeReferences {
    /// Those for `bytes` too, where pictures may go as bytes at all. `local` is what stands in.
    ///
    /// # Errors
    /// When nothing is known of the probe and nothing can compute it.
    pub fn find(
        runtime: &Runtime,
        bundle: &Bundle,
        settings: &InferSettings,
        size: (usize, usize),
        bytes: Option<PixelScale>,
        local: Option<&mut Opened>,
    ) -> Result<Self, InferError> {
        let known = ProbeReference::of_bundle(bundle.known.as_ref(), size, settings.min_cosine);
        let source = Source { runtime: runtime.clone(), bundle: bundle.clone(), settings: settings.clone(), size };
        let mut computing = Computing { local: local.and_then(|opened| opened.encoders.first_mut()), tower: None };
        let floats = match known.clone().or_else(|| source.remembered(None)) {
            Some(found) => found,
            None => source.computed(computing.encoder(&source)?, None)?,
        };
        let bytes = match bytes {
            None => None,
            Some(affine) => {
                // Without a tower of its own, a box believes its bundle: bytes say nearly the same picture.
                let believed = known.map(|known| known.as_bytes(affine));
                Some(match (source.remembered(Some(affine)), believed) {
                    (Some(found), _) => BytesReference::of(found),
                    (None, Some(believed)) if computing.must_load() => BytesReference::later(source, affine, believed),
                    (None, believed) => {
                        let computed =
                            computing.encoder(&source).and_then(|encoder| source.computed(encoder, Some(affine)));
                        BytesReference::of(believe(computed, believed)?)
                    }
                })
            }
        };
        if computing.tower.take().is_some() {
            give_back_freed_memory();
        }
        Ok(Self { floats, bytes })
    }

    /// For a server that is sent bytes, or floats. May load a tower and compute, once.
    pub fn of(&self, bytes: bool) -> &ProbeReference {
        match &self.bytes {
            Some(reference) if bytes => reference.found.get_or_init(&reference.find),
            _ => &self.floats,
        }
    }
}

fn believe(
    computed: Result<ProbeReference, InferError>,
    believed: Option<ProbeReference>,
) -> Result<ProbeReference, InferError> {
    match (computed, believed) {
        (Err(error), Some(believed)) => {
            warn!(%error, "the probe for a server that takes bytes cannot be computed, taking the one for floats");
            Ok(believed)
        }
        (computed, _) => computed,
    }
}

/// What computes a reference, and remembers it.
struct Source {
    runtime: Runtime,
    bundle: Bundle,
    settings: InferSettings,
    /// Height and width.
    size: (usize, usize),
}

impl Source {
    /// The image tower on the CPU, for the probe alone.
    fn tower(&self) -> Result<OrtImageEncoder, InferError> {
        info!("loading the image tower once, to know what the inference server is to answer");
        let alone = InferSettings { providers: vec![Provider::Cpu.into()], ..self.settings.clone() };
        OrtImageEncoder::open(&self.runtime, &self.bundle, &alone, self.size)
    }

    /// Of an earlier start.
    fn remembered(&self, rounding: Option<PixelScale>) -> Option<ProbeReference> {
        let found = self.key(rounding).load::<Vec<f32>>(&paths::cache_dir());
        let found = found.filter(|embedding| embedding.iter().all(|v| v.is_finite()) && !embedding.is_empty());
        found.map(|embedding| ProbeReference::remembered(embedding, self.size, self.least(), rounding))
    }

    fn computed(
        &self,
        encoder: &mut dyn ImageEncoder,
        rounding: Option<PixelScale>,
    ) -> Result<ProbeReference, InferError> {
        let made = ProbeReference::computed(encoder, self.size, self.least(), rounding).map_err(InferError::Model)?;
        let folder = paths::cache_dir();
        if let Err(error) = self.key(rounding).keep(&folder, made.embedding()) {
            warn!(folder = %folder.display(), %error, "the probe is computed again at the next start");
        }
        Ok(made)
    }

    /// As with any provider: how far the bundle's own arithmetic is from 32 bits adds to what is let through.
    fn least(&self) -> f32 {
        let min_cosine = self.settings.min_cosine;
        let own = self.bundle.known.as_ref().and_then(|known| known.own_cosine);
        own.map_or(min_cosine, |own| (min_cosine.clamp(-1.0, 1.0).acos() + own.clamp(-1.0, 1.0).acos()).cos())
    }

    fn key(&self, rounding: Option<PixelScale>) -> MeasurementKey {
        MeasurementKey {
            question: if rounding.is_some() { "probe-bytes" } else { "probe-floats" }.to_owned(),
            model: self.bundle.embedding_fingerprint.clone(),
            cpu: String::new(),
            cores: 0,
            runtime: String::new(),
            batch: 1,
            options: format!("{:?} {rounding:?}", self.size),
        }
    }
}
