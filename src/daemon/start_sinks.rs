//! The outbox and the sinks of a configuration, started together: each sink on its thread, behind its receiver.

use std::sync::Arc;

use crate::config::Settings;
use crate::outbox::{Kernel, Outbox, identity};
use crate::pipeline::{self, Threads};
use crate::sink::daemon_facts::DaemonFacts;
use crate::sink::mqtt::Owner;
use crate::sink::{SinkContext, SinkStartError};
use crate::snapshot::Gallery;
use crate::stream::registry::StreamRegistry;

use super::DaemonError;

/// Starts them. `registry`, `gallery` and `facts` are for those that tell more than events.
///
/// # Errors
/// When the outbox or a sink's file cannot be opened, or the system gives no thread.
pub fn start(
    settings: &Settings,
    registry: &Arc<StreamRegistry>,
    gallery: Option<&Arc<Gallery>>,
    facts: &Arc<DaemonFacts>,
) -> Result<(Outbox, Threads), DaemonError> {
    // With a file it is the outbox's identity instead.
    let id = identity::of_machine(&settings.file, &settings.instance);
    let owner = Owner { id, instance: settings.instance.clone() };
    let (registry, gallery, facts) = (Arc::clone(registry), gallery.cloned(), Arc::clone(facts));
    let context = SinkContext { registry, gallery, owner, facts };
    let sinks = settings.sinks.iter().map(|sink| sink.open(&context)).collect::<Result<Vec<_>, _>>()?;
    let routes = settings.routes.clone();
    let (outbox, receivers, thread) = Outbox::start(settings.outbox.clone(), routes, Kernel)?;
    let status = outbox.status();
    context.facts.set_waiting(move || status.report().sinks.iter().map(|sink| sink.pending).sum());
    let mut threads = vec![("outbox".to_owned(), thread)];
    threads.extend(pipeline::outbox_to_sinks(receivers, sinks).map_err(SinkStartError::Thread)?);
    match &settings.outbox.path {
        Some(path) => tracing::info!(path = %path.display(), "events are kept in the outbox until every sink has them"),
        None => tracing::info!(
            "events are kept in memory until every sink has them; `outbox.path` keeps them over a restart"
        ),
    }
    Ok((outbox, threads))
}
