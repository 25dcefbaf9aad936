//! The preprocessing pool: jobs in, places written, one message a job on its `done` channel.
//!
//! Each named thread has its own [`Preprocessor`] and so its own scratch memory. The job channel is bounded by the
//! dispatcher's buffers; it ends when the dispatcher is gone.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use crossbeam_channel::Receiver;

use super::{Preprocessor, Spec};
use crate::batching::batch::PrepareJob;
use crate::platform::thread_priority;

/// Starts `threads` threads (at least one), each with the name to call it by when it is late.
///
/// # Errors
/// When the system gives no thread.
pub fn start(
    threads: usize,
    spec: &Arc<Spec>,
    jobs: &Receiver<PrepareJob>,
) -> io::Result<Vec<(String, JoinHandle<()>)>> {
    let start = |n| {
        let (spec, jobs) = (Arc::clone(spec), jobs.clone());
        let thread = Builder::new().name(format!("vtagd-prep-{n}")).spawn(move || work(spec, &jobs))?;
        Ok((format!("preprocessing {n}"), thread))
    };
    (0..threads.max(1)).map(start).collect()
}

fn work(spec: Arc<Spec>, jobs: &Receiver<PrepareJob>) {
    thread_priority::lower_priority();
    let mut preprocessor = Preprocessor::new(Arc::clone(&spec));
    // Told once per run of failures; the counter of dropped frames tells how many there were.
    let mut failing = false;
    for PrepareJob { picture, stream, view, mask, tile, mut place, done, index } in jobs {
        // Camera bytes are not to be trusted: should a damaged picture find a bug, it costs that picture, not the thread.
        let result = catch_unwind(AssertUnwindSafe(|| match &mask {
            None => preprocessor.run(&picture, view, tile, &mut place),
            Some(mask) => preprocessor.run_masked(&picture, view, mask, tile, &mut place),
        }));
        // The place has to be back before it is said to be done: whoever hears that reads the whole buffer.
        drop(place);
        let told = std::mem::replace(&mut failing, !matches!(result, Ok(Ok(()))));
        match &result {
            Ok(Ok(())) => {}
            Ok(Err(_)) if told => {}
            Ok(Err(error)) => tracing::warn!(%stream, %error, "a frame cannot be preprocessed"),
            Err(_) => {
                tracing::error!(%stream, ?picture, "preprocessing panicked, the frame is lost; please report this");
                preprocessor = Preprocessor::new(Arc::clone(&spec));
            }
        }
        // Nobody listens any more when the session thread is gone; the frame's guard tells its end.
        let _ = done.send((index, matches!(result, Ok(Ok(())))));
    }
}
