//! The model that the configuration chooses, as a bundle on the disk: pulled or imported first where it has to be. In: the choice; out: the open
//! bundle. On the caller's thread, for as long as a pull or an import takes; shutdown ends it early.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::{ModelChoice, ModelSettings};
use crate::model::bundle::Bundle;
use crate::model::hub::{self, PullEvent, Reference};
use crate::model::{self, ModelError, prepared};
use crate::platform::shutdown::Shutdown;
use crate::platform::systemd;

/// Between two lines of a pull.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The model of a choice, pulled or imported first where it has to be; `None` for `none`. Both end early when shutdown is asked for.
///
/// # Errors
/// When there is no such model, or it cannot be used.
pub fn open(model: &ModelSettings, shutdown: &Shutdown) -> Result<Option<Bundle>, ModelError> {
    let dir = match &model.choice {
        ModelChoice::None => return Ok(None),
        ModelChoice::Starter => model::resolve(Path::new(model::STARTER))?,
        ModelChoice::Path(path) => model::resolve(path)?,
        ModelChoice::Hub(reference) => pulled(reference, shutdown)?,
    };
    prepared::open_with(&dir, model.logits, &|| shutdown.is_requested()).map(Some)
}

/// The folder of a model of a hub. The log and systemd are told how far a pull is.
fn pulled(reference: &Reference, shutdown: &Shutdown) -> Result<PathBuf, ModelError> {
    let mut told: Option<Instant> = None;
    let name = reference.to_string();
    let tell = move |event: PullEvent<'_>| match event {
        PullEvent::Chosen { commit, what, bytes, missing, .. } => {
            tracing::info!(model = name, commit, what, bytes, missing, "pulling the model, once");
        }
        PullEvent::Progress { file, done, total } => {
            if told.is_none_or(|told| told.elapsed() >= LINE_EVERY) {
                told = Some(Instant::now());
                tracing::info!(file, done, total, "pulling");
                let (done, total) = (done / 1_000_000, total / 1_000_000);
                systemd::status(&format!("pulling {name}: {done} of {total} MB"));
            }
        }
        PullEvent::Away { error, commit } => {
            tracing::warn!(model = name, %error, commit, "the hub does not answer, using what was pulled before");
        }
    };
    let pulled = hub::background::obtain(reference, shutdown, tell)?;
    tracing::info!(model = %reference, commit = pulled.origin.commit, dir = %pulled.dir.display(), "model of a hub");
    Ok(pulled.dir)
}
