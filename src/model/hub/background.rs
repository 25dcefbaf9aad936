//! A pull on a thread of its own, `vtagd-pull`: a server that says nothing must not hold up the end when a person has asked for it. The
//! caller waits for its result or for the wish to stop; a thread that is late by then ends with the process, and whatever it leaves is
//! resumed by the next pull.

use std::thread;
use std::time::Duration;

use crossbeam_channel::{bounded, select};

use super::{HubError, HubSettings, PullEvent, Pulled, RETRIES, Reference, Request, pull};
use crate::platform::shutdown::Shutdown;

/// How long the thread may take to clean up after a wish to stop.
const GRACE: Duration = Duration::from_secs(2);

/// As [`pull`]. `tell` is called on the thread.
///
/// # Errors
/// As [`pull`]; no thread.
pub fn pull_in_background(
    request: Request,
    settings: HubSettings,
    shutdown: &Shutdown,
    mut tell: impl FnMut(PullEvent<'_>) + Send + 'static,
) -> Result<Pulled, HubError> {
    let (sender, done) = bounded(1);
    let wish = shutdown.clone();
    let thread = thread::Builder::new().name("vtagd-pull".into()).spawn(move || {
        let result = pull(&request, &settings, &wish, &mut tell);
        // Nobody waits any more if a person was in a hurry.
        let _ = sender.send(result);
    });
    let thread = thread.map_err(|source| HubError::Thread { source })?;
    let result = select! {
        recv(done) -> result => result.ok(),
        recv(shutdown.receiver()) -> _ => done.recv_timeout(GRACE).ok(),
    };
    match result {
        Some(result) => {
            // It has sent its result, which was its last act.
            let _ = thread.join();
            result
        }
        None => Err(HubError::Stopped),
    }
}

/// The folder of a model that was named in place of one. Pulled once: what is in the cache is taken without asking the hub, so that a
/// start does not depend on the network, and a branch that has moved on changes nothing until somebody pulls it.
///
/// # Errors
/// As [`pull_in_background`].
pub fn obtain(
    Reference { repo, revision }: &Reference,
    shutdown: &Shutdown,
    tell: impl FnMut(PullEvent<'_>) + Send + 'static,
) -> Result<Pulled, HubError> {
    let settings = super::from_env()?;
    let (repo, revision) = (repo.clone(), revision.clone());
    let request = Request { repo, revision, include: Vec::new(), out: None, retries: RETRIES };
    let cached = HubSettings { offline: true, ..settings.clone() };
    match pull(&request, &cached, shutdown, &mut |_| ()) {
        Err(HubError::NeverPulled { .. } | HubError::Missing { .. }) if !settings.offline => {}
        ended => return ended,
    }
    pull_in_background(request, settings, shutdown, tell)
}
