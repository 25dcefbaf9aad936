//! Asking several running daemons at the same time, as many as [`AT_ONCE`]. In: who, and what; out: what each answers, in their order. On the
//! caller's thread; one that cannot be reached costs three seconds, one that is slow ten.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Semaphore;

use super::ask::{Daemon, Unanswered};

/// Daemons that are asked at the same time.
const AT_ONCE: usize = 64;

/// What each of `daemons` answers to a GET of each of `paths`, or why it does not.
///
/// # Errors
/// When nobody can be asked at all.
pub fn get_from_each(
    daemons: &[Arc<Daemon>],
    paths: &'static [&'static str],
) -> Result<Vec<Result<Vec<Value>, Unanswered>>, Unanswered> {
    let failed = |error: &dyn std::fmt::Display| Unanswered::Failed(format!("cannot ask: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| failed(&e))?;
    let answers = runtime.block_on(async {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let asked: Vec<_> = daemons
            .iter()
            .map(|daemon| {
                let (daemon, room) = (Arc::clone(daemon), Arc::clone(&room));
                tokio::spawn(async move {
                    // It is never closed.
                    let _place = room.acquire().await;
                    daemon.reached(paths).await
                })
            })
            .collect();
        let mut answers = Vec::with_capacity(asked.len());
        for one in asked {
            answers.push(one.await.unwrap_or_else(|error| Err(failed(&error))));
        }
        Ok(answers)
    });
    // A name that is still being looked up holds nobody up.
    runtime.shutdown_background();
    answers
}
