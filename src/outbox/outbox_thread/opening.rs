//! A disk that is full or fails when the daemon starts: the outbox is opened as soon as it can be.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::super::Shared;
use super::super::event_store::{EventStore, Queued};
use super::super::tables::OutboxError;
use super::{RETRY, lose_all};

/// Between two tries, at most.
const MAX_PAUSE: Duration = Duration::from_secs(16);

/// The store that `first` is or that `open` gives once the disk allows it; `None` if the daemon ends before, or something else is wrong.
/// Events wait in the queue meanwhile.
pub(in crate::outbox) fn opened(
    first: Result<EventStore, OutboxError>,
    open: impl Fn() -> Result<EventStore, OutboxError>,
    shared: &Shared,
    queue: &Receiver<Queued>,
) -> Option<EventStore> {
    let (mut attempt, mut pause) = (first, RETRY);
    loop {
        let error = match attempt {
            Ok(store) => {
                if !shared.storing.swap(true, Ordering::Relaxed) {
                    tracing::info!("events are stored again");
                }
                return Some(store);
            }
            Err(error) => error,
        };
        metrics::counter!("vtagd_outbox_errors_total").increment(1);
        metrics::gauge!("vtagd_outbox_storing").set(0.0);
        if shared.storing.swap(false, Ordering::Relaxed) {
            tracing::error!(%error, "events cannot be stored, trying again every few seconds; tagging goes on, events wait in memory while there is room");
        }
        let mut report = shared.report.lock();
        (report.storing, report.error) = (false, Some(error.to_string()));
        drop(report);
        let mut waited = Duration::ZERO;
        while waited < pause {
            if shared.closing.load(Ordering::Relaxed) || !matches!(error, OutboxError::Disk { .. }) {
                lose_all(queue.try_iter(), shared);
                return None;
            }
            std::thread::sleep(RETRY / 20);
            waited += RETRY / 20;
        }
        // Each try may read the whole file.
        pause = (pause * 2).min(MAX_PAUSE);
        attempt = open();
    }
}
