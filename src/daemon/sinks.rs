//! The outbox and the sinks of a configuration, started together: each sink on its thread, behind its inbox.

use std::sync::Arc;

use crate::api::{Board, RECENT};
use crate::config::{Settings, SinkSettings};
use crate::outbox::reader::{Query, Reader};
use crate::outbox::{Kernel, Outbox};
use crate::pipeline::Threads;
use crate::sink::jsonl::{SinkError, Writer};
use crate::sink::{Sink, runner};

use super::DaemonError;

/// Starts them. Sinks that are not built yet get nothing, and nothing is kept for them.
///
/// # Errors
/// When the outbox or a sink's file cannot be opened, or the system gives no thread.
pub fn start(settings: &Settings) -> Result<(Outbox, Threads), DaemonError> {
    let mut sinks = Vec::new();
    let mut routes = Vec::new();
    for (sink, route) in settings.sinks.iter().zip(&settings.routes) {
        if let Some(sink) = make(sink)? {
            sinks.push(sink);
            routes.push(route.clone());
        }
    }
    let (outbox, inboxes, thread) = Outbox::start(settings.outbox.clone(), routes, Kernel)?;
    let mut threads = vec![("outbox".to_owned(), thread)];
    for (sink, inbox) in sinks.into_iter().zip(inboxes) {
        let name = format!("sink {}", inbox.name());
        let thread = runner::start(sink, inbox, runner::ladder()).map_err(SinkError::Thread)?;
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
    let latest = Reader::open(path).and_then(|reader| reader.latest(&Query::default(), RECENT));
    match latest {
        Ok(rows) => {
            let events = rows.iter().filter_map(|row| serde_json::from_str(&row.body).ok());
            events.for_each(|event| board.remember(Arc::new(event)));
        }
        Err(error) => tracing::warn!(%error, "the API begins without the events of earlier runs"),
    }
}

/// The sink of these settings; `None` for one that is not built yet, which the configuration says.
fn make(settings: &SinkSettings) -> Result<Option<Box<dyn Sink>>, SinkError> {
    match settings {
        SinkSettings::Jsonl(target) => Ok(Some(Box::new(Writer::open(target)?))),
        SinkSettings::Mqtt(_) | SinkSettings::Webhook(_) => Ok(None),
    }
}
