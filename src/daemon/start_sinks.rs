//! The outbox and the sinks of a configuration, started together: each sink on its thread, behind its inbox.

use std::sync::Arc;

use crate::api::{Board, RECENT};
use crate::config::Settings;
use crate::outbox::history_reader::{OutboxReader, Query};
use crate::outbox::{Kernel, Outbox, identity};
use crate::pipeline::Threads;
use crate::sink::mqtt::Owner;
use crate::sink::{SinkContext, SinkStartError, runner};
use crate::snapshot::Gallery;
use crate::stream::registry::StreamRegistry;

use super::DaemonError;

/// Starts them. `registry` and `gallery` are for those that tell more than events.
///
/// # Errors
/// When the outbox or a sink's file cannot be opened, or the system gives no thread.
pub fn start(
    settings: &Settings,
    registry: &Arc<StreamRegistry>,
    gallery: Option<&Arc<Gallery>>,
) -> Result<(Outbox, Threads), DaemonError> {
    // With a file it is the outbox's identity instead.
    let id = identity::of_machine(&settings.file, &settings.instance);
    let owner = Owner { id, instance: settings.instance.clone() };
    let context = SinkContext { registry: Arc::clone(registry), gallery: gallery.cloned(), owner };
    let sinks = settings.sinks.iter().map(|sink| sink.open(&context)).collect::<Result<Vec<_>, _>>()?;
    let routes = settings.routes.clone();
    let (outbox, receivers, thread) = Outbox::start(settings.outbox.clone(), routes, Kernel)?;
    let mut threads = vec![("outbox".to_owned(), thread)];
    for (sink, receiver) in sinks.into_iter().zip(receivers) {
        let name = format!("sink {}", receiver.name());
        let thread = runner::start(sink, receiver, runner::ladder()).map_err(SinkStartError::Thread)?;
        threads.push((name, thread));
    }
    match &settings.outbox.path {
        Some(path) => tracing::info!(path = %path.display(), "events are kept in the outbox until every sink has them"),
        None => tracing::info!(
            "events are kept in memory until every sink has them; `outbox.path` keeps them over a restart"
        ),
    }
    Ok((outbox, threads))
}

/// Fills the API's memory with the latest events of earlier runs. Without a file there are none.
pub fn recall(settings: &Settings, board: &Board) {
    let Some(path) = &settings.outbox.path else { return };
    let latest = OutboxReader::open(path).and_then(|reader| reader.latest(&Query::default(), RECENT));
    match latest {
        Ok(rows) => {
            let events = rows.iter().filter_map(|row| serde_json::from_str(&row.body).ok());
            events.for_each(|event| board.remember(Arc::new(event)));
        }
        Err(error) => tracing::warn!(%error, "the API begins without the events of earlier runs"),
    }
}
