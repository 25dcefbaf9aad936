//! The encoder of one session whose model is on a server. In: a batch, as any encoder is given it; out: the server's embeddings, or those of the
//! local provider that stands in.
//!
//! A batch has `timeout` on the server, its one retry included. What does not fit into a message, or is more than the server takes at once, goes in
//! parts, one after the other. A batch that the server has lost is computed by the fallback, where there is one; otherwise its frames are lost,
//! as with any run that fails. On the session's thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::RemoteError;
use super::client_runtime::RemoteHalt;
use super::server_link::{LinkKeeper, ServerLink, TrustedServer};
use crate::batching::tensor::HostMemory;
use crate::infer::oom_batch_limit::OomBatchLimit;
use crate::infer::{ImageEncoder, InferError, Provider, Stop};

/// Before a batch is sent again to a server that has too much to do: as long as a run takes, and not the same for all boxes.
const BUSY: Duration = Duration::from_millis(50);

/// For another connection, where something stands in.
const SOON: Duration = Duration::from_millis(500);

/// See the module.
pub struct RemoteEncoder {
    keeper: Arc<LinkKeeper>,
    /// Agrees with the same probe.
    fallback: Option<Box<dyn ImageEncoder>>,
    halt: Arc<RemoteHalt>,
    /// What the server was found to take at once.
    limit: OomBatchLimit,
    /// Who computed the last batch.
    served: Provider,
}

impl RemoteEncoder {
    pub fn new(keeper: Arc<LinkKeeper>, fallback: Option<Box<dyn ImageEncoder>>) -> Self {
        let served = match &fallback {
            Some(fallback) if keeper.link().server().is_err() => fallback.provider(),
            _ => Provider::Remote,
        };
        Self { keeper, fallback, halt: Arc::default(), limit: OomBatchLimit::default(), served }
    }

    fn link(&self) -> &Arc<ServerLink> {
        self.keeper.link()
    }

    /// Asks the server, twice if that may help.
    fn remotely(&mut self, pixels: &[f32], count: usize, embeddings: &mut Vec<f32>) -> Result<(), RemoteError> {
        let link = Arc::clone(self.link());
        let deadline = Instant::now() + link.options.timeout;
        let mut server = link.server_by(Instant::now(), deadline, &self.halt)?;
        for again in [true, false] {
            let fault = match self.ask(&server, pixels, count, deadline, embeddings) {
                Ok(()) => {
                    link.answered();
                    return Ok(());
                }
                Err(fault) => fault,
            };
            link.failed(&server, &fault, Instant::now());
            let worth = matches!(
                fault,
                RemoteError::Away(_) | RemoteError::Idle(_) | RemoteError::Busy(_) | RemoteError::Wrong(_)
            );
            // It may be loading another model.
            if matches!(fault, RemoteError::Busy(_) | RemoteError::Slow(_) | RemoteError::Refused(_)) {
                link.probe_soon();
            }
            if !again || !worth || self.halt.is_told() {
                return Err(fault);
            }
            if matches!(fault, RemoteError::Busy(_)) {
                let wait = link.spread(BUSY);
                std::thread::sleep(wait.min(deadline.saturating_duration_since(Instant::now())));
            }
            // Another address is there at once, or a server that was only started again; who can compute here need not wait for more.
            let soon = if self.fallback.is_some() { deadline.min(Instant::now() + SOON) } else { deadline };
            server = link.server_by(soon, deadline, &self.halt).map_err(|_| fault)?;
        }
        Err(RemoteError::Stopped)
    }

    /// Sends the batch, in as many parts as it takes, with the probe among the pictures where it is time for that.
    fn ask(
        &mut self,
        server: &Arc<TrustedServer>,
        pixels: &[f32],
        count: usize,
        deadline: Instant,
        embeddings: &mut Vec<f32>,
    ) -> Result<(), RemoteError> {
        let link = Arc::clone(self.link());
        let (model, dim, place) = (&server.model, link.dim(), 3 * link.size.0 * link.size.1);
        let probed = link.probe_place(count, Instant::now());
        let probe = probed.map(|_| link.reference(model).picture(0)).unwrap_or_default();
        // The pictures, with the probe's place among them.
        let mut rows: Vec<&[f32]> = pixels.chunks_exact(place).take(count).collect();
        if let Some(at) = probed {
            rows.insert(at, &probe);
        }
        embeddings.clear();
        // Of a server that does not say how many it takes, no more than without the probe: it may take just that, and would refuse the batch for the
        // picture that nobody asked about.
        let fits = link.most_in_a_message(model).min(model.max_batch.unwrap_or(count.max(1)));
        let mut from = 0;
        while from < rows.len() {
            let many = self.limit.allow((rows.len() - from).min(fits), Instant::now());
            let part = &rows[from..from + many];
            let mut bytes = Vec::with_capacity(many * model.layout.picture_bytes(link.size));
            part.iter().for_each(|picture| model.layout.append(picture, &link.affine, &mut bytes));
            match link.ask(server, (bytes.into(), many), deadline, &self.halt, embeddings) {
                Ok(()) => from += many,
                Err(RemoteError::TooMuch(why)) if many > 1 => {
                    let limit = self.limit.lower(many, Instant::now());
                    tracing::warn!(
                        error = why,
                        pictures = many,
                        limit,
                        "too much for the inference server, going on with half as many"
                    );
                }
                Err(fault) => {
                    // It has not been answered, so it is still to be asked.
                    if probed.is_some() {
                        link.probe_soon();
                    }
                    return Err(match fault {
                        RemoteError::TooMuch(why) => RemoteError::Busy(why),
                        other => other,
                    });
                }
            }
        }
        if let Some(at) = probed {
            let row: Vec<f32> = embeddings.drain(at * dim..(at + 1) * dim).collect();
            link.reference(model)
                .agree(&row, 1)
                .map_err(|why| RemoteError::Wrong(format!("the probe in a batch: {why}")))?;
        }
        Ok(())
    }
}

impl ImageEncoder for RemoteEncoder {
    fn dim(&self) -> usize {
        self.link().dim()
    }

    fn provider(&self) -> Provider {
        self.served
    }

    fn encode(&mut self, pixels: &[f32], count: usize, embeddings: &mut Vec<f32>) -> Result<(), InferError> {
        embeddings.clear();
        let place = 3 * self.link().size.0 * self.link().size.1;
        if pixels.len() < count * place {
            return Err(InferError::Run(format!("{} floats are not {count} pictures of {place}", pixels.len())));
        }
        self.halt.rearm();
        let fault = match self.remotely(pixels, count, embeddings) {
            Ok(()) => {
                self.served = Provider::Remote;
                return Ok(());
            }
            Err(fault) => fault,
        };
        embeddings.clear();
        if self.halt.is_told() {
            return Err(InferError::Run(
                "the inference server did not answer in time, and the run was told to end".into(),
            ));
        }
        let Some(fallback) = &mut self.fallback else {
            return Err(InferError::Run(format!(
                "the inference server: {fault}; nothing else computes, add `cpu` to runtime.providers"
            )));
        };
        self.served = fallback.provider();
        metrics::counter!("vtagd_remote_fallback_pictures_total").increment(count as u64);
        fallback.encode(pixels, count, embeddings)
    }

    fn padded(&self, count: usize) -> usize {
        self.fallback.as_ref().map_or(count, |fallback| fallback.padded(count))
    }

    fn stopper(&self) -> Option<Arc<dyn Stop>> {
        let fallback = self.fallback.as_ref().and_then(|fallback| fallback.stopper());
        Some(Arc::new(Both { remote: Arc::clone(&self.halt), fallback }))
    }

    fn memory(&self, floats: usize) -> Option<Box<dyn HostMemory>> {
        self.fallback.as_ref().and_then(|fallback| fallback.memory(floats))
    }

    fn expected(&self) -> Duration {
        let fallback = self.fallback.as_ref().map(|fallback| fallback.expected()).unwrap_or_default();
        self.link().options.timeout + fallback
    }
}

/// Ends whichever of the two computes.
struct Both {
    remote: Arc<RemoteHalt>,
    fallback: Option<Arc<dyn Stop>>,
}

impl Stop for Both {
    fn stop(&self) {
        self.remote.stop();
        if let Some(fallback) = &self.fallback {
            fallback.stop();
        }
    }
}
