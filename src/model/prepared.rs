//! A model directory of any layout, ready to run: bundles and exports as they are, raw checkpoints imported once into the cache.
//!
//! Comes in: a directory. Goes out: a [`Bundle`]. An import is in 32 bits, is found again by the content of the checkpoint's files,
//! and appears whole or not at all, so several processes may want the same one at once: the first that finishes wins.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vtagd_checkpoint::fingerprint;
use vtagd_checkpoint::import::write_bundle::{self, ImportOptions, ImportProgress, ImportSource};
use vtagd_checkpoint::import::{Checkpoint, ImportError, open_checkpoint};
use vtagd_checkpoint::onnx::Precision;
use vtagd_checkpoint::{Bundle, LogitOverride, LogitParameters, ModelError};

use crate::platform::{paths, unfinished_folder};

/// Between two log lines of an import.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Opens `dir`, importing it first if it holds a raw checkpoint that was not imported yet. `stop` is asked while that goes on.
///
/// # Errors
/// As [`Bundle::open`] and [`open_checkpoint`]; a cache that cannot be written; [`ImportError::Stopped`].
pub fn open(dir: &Path, stop: &dyn Fn() -> bool) -> Result<Bundle, ModelError> {
    open_with(dir, LogitOverride::default(), stop)
}

/// As [`open`], with another scale and bias than the model says.
///
/// # Errors
/// As [`open`].
pub fn open_with(dir: &Path, logits: LogitOverride, stop: &dyn Fn() -> bool) -> Result<Bundle, ModelError> {
    let cache = paths::cache_dir();
    match Bundle::open_with(dir, logits, Some(&cache)) {
        Err(ModelError::Checkpoint { .. }) => {}
        other => return other,
    }
    let checkpoint = open_checkpoint(dir)?;
    let out = place(&checkpoint)?;
    if !out.is_dir() {
        import(&checkpoint, &out, stop)?;
    }
    Bundle::open_with(&out, logits, Some(&cache))
}

/// Where the import of `checkpoint` belongs: named for people, told apart by content.
fn place(checkpoint: &Checkpoint) -> Result<PathBuf, ModelError> {
    let cache = paths::cache_dir();
    let files: Vec<(&str, PathBuf)> = checkpoint.files.iter().map(|file| ("checkpoint", file.clone())).collect();
    let arch = &checkpoint.architecture;
    let logit_parameters =
        LogitParameters { scale: arch.logit_scale, bias: arch.logit_bias, activation: arch.activation };
    let digest = fingerprint::of(&files, &logit_parameters, Some(&cache))?;
    let name = ImportSource::of(checkpoint).name;
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    Ok(cache.join("models").join(format!("{name}-{}", &digest[..16])))
}

fn import(checkpoint: &Checkpoint, out: &Path, stop: &dyn Fn() -> bool) -> Result<(), ModelError> {
    tracing::info!(checkpoint = %checkpoint.dir.display(), out = %out.display(), "importing a raw checkpoint, once");
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder).map_err(|source| ImportError::Disk { dir: folder.to_owned(), source })?;
        // Whatever model they were for: the cache is ours alone.
        unfinished_folder::sweep(folder, None, unfinished_folder::IMPORTING);
    }
    let mut told = Instant::now();
    let mut progress = |ImportProgress { done, total, .. }: ImportProgress| {
        if stop() {
            return Err(ImportError::Stopped);
        }
        if told.elapsed() >= LINE_EVERY {
            told = Instant::now();
            tracing::info!(done, total, "importing");
        }
        Ok(())
    };
    // Not measured here: a start must not wait for numbers that nobody asked for; `vtagd model import` gives them.
    match write_bundle::run(
        &ImportSource::of(checkpoint),
        out,
        ImportOptions::new(Precision::Fp32),
        None,
        &mut progress,
    ) {
        Ok(_) => Ok(()),
        // Another process was quicker.
        Err(ImportError::Exists { .. }) => Ok(()),
        Err(ImportError::Disk { .. }) if out.is_dir() => Ok(()),
        Err(error) => Err(error.into()),
    }
}
