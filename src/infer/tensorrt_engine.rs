//! Getting TensorRT ready: where its engine lies, what it is built for, and that building one is seen.
//!
//! Comes in: the model and the options. Goes out: an [`EngineSpec`] for the session. Building blocks the caller's thread for
//! minutes; meanwhile the log and systemd are told every ten seconds.

use std::ffi::{CStr, CString};
use std::path::Path;

use sha2::{Digest, Sha256};
use tracing::{info, warn};

use super::engine_cache::{self, Key, Machine, Prepared};
use super::options::{EngineSpec, Profile, TensorrtOptions};
use super::runtime::Runtime;
use super::{InferError, Provider, libraries};
use crate::model::Bundle;
use crate::platform::hex::hex;
use crate::platform::paths;
use crate::platform::systemd::LongStep;

/// Where the NVIDIA driver tells about its GPUs.
const DRIVER: &str = "/proc/driver/nvidia/gpus";

/// Where the engine of `bundle`'s image tower for pictures of `size`, up to `batch` at once, belongs, and whether it is there.
///
/// # Errors
/// [`InferError::Provider`] when the folder cannot be written.
pub fn engine(
    runtime: &Runtime,
    bundle: &Bundle,
    options: &TensorrtOptions,
    size: (usize, usize),
    batch: usize,
) -> Result<(EngineSpec, bool), InferError> {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let machine = Machine {
        gpu: engine_cache::gpus(Path::new(DRIVER), options.device, visible.as_deref()),
        tensorrt: version(runtime.library()),
        runtime: ort::info().to_owned(),
    };
    let profile = crate::model::picture_input(&bundle.vision).map(|input| Profile { input, size, batch });
    let shapes = shapes(profile.as_ref(), options.opt_batch);
    let root = options.engine_cache.clone().unwrap_or_else(|| paths::cache_dir().join("tensorrt"));
    let key = Key::new(&identity(bundle), &machine, options.fp16, &shapes);
    let unwritable = |folder: &Path, e: std::io::Error| {
        InferError::Provider(format!(
            "{}: cannot be written: {e}; name another folder as `engine_cache` or `timing_cache`",
            folder.display()
        ))
    };
    let Prepared { folder, built } = engine_cache::prepare(&root, &key).map_err(|e| unwritable(&root, e))?;
    let timing = options.timing_cache.clone().unwrap_or_else(|| root.join("timing"));
    std::fs::create_dir_all(&timing).map_err(|e| unwritable(&timing, e))?;
    Ok((EngineSpec { folder, timing, profile }, built))
}

/// Opens a session whose engine is in `folder`, or will be. Building is told about while it lasts. An engine that is there and does
/// not load is removed and built again, once.
///
/// # Errors
/// What `open` says.
pub fn with_engine<T>(
    folder: &Path,
    built: bool,
    open: &mut dyn FnMut() -> Result<T, InferError>,
) -> Result<T, InferError> {
    if built {
        match open() {
            // Of the model and its engine; an absent GPU or library says `Provider`, and the engine is as good as before.
            Err(InferError::Model(error)) => {
                warn!(error, folder = %folder.display(), "the tensorrt engine does not load, building it again");
                if let Err(error) = engine_cache::clear(folder) {
                    return Err(InferError::Provider(format!(
                        "the old engine in {} cannot be removed: {error}",
                        folder.display()
                    )));
                }
            }
            other => return other,
        }
    }
    let _seen = LongStep::named("building the TensorRT engine".into());
    let opened = open()?;
    info!(folder = %folder.display(), kept = engine_cache::holds_engine(folder), "tensorrt engine built");
    Ok(opened)
}

/// What of the pictures an engine is built for. Left out, the best batch is not named: engines of before have no word of it.
fn shapes(profile: Option<&Profile>, opt_batch: Option<usize>) -> String {
    let best = opt_batch.filter(|_| profile.is_some()).map_or_else(String::new, |batch| format!(", best for {batch}"));
    format!("{profile:?}{best}")
}

/// The fingerprint; where none was made, as in `bench`, what can be told from outside.
fn identity(bundle: &Bundle) -> String {
    if !bundle.embedding_fingerprint.is_empty() {
        return bundle.embedding_fingerprint.clone();
    }
    let mut hash = Sha256::new();
    for file in bundle.files() {
        let meta = std::fs::metadata(&file).ok();
        let stamp = meta.map(|meta| (meta.len(), meta.modified().ok()));
        hash.update(format!("{} {stamp:?}\n", file.display()));
    }
    hex(&hash.finalize())
}

/// The version of the TensorRT that the provider beside `library` will load.
fn version(library: &Path) -> String {
    let Some(name) = libraries::linked_beside(library, Provider::Tensorrt, "libnvinfer.so.") else {
        return "unknown".to_owned();
    };
    match inference_version(&name) {
        Some(number) => format!("{name} {number}"),
        None => format!("{name}, unknown"),
    }
}

/// What `getInferLibVersion` of the shared library `name` says: TensorRT's version as one number.
fn inference_version(name: &str) -> Option<i32> {
    const SYMBOL: &CStr = c"getInferLibVersion";
    let name = CString::new(name).ok()?;
    // SAFETY: both strings end with a zero byte. Loading runs the library's initialisers, as the provider that needs it does
    // a moment later anyway; it is never unloaded.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) };
    if handle.is_null() {
        return None;
    }
    // SAFETY: the handle is open, the name ends with a zero byte.
    let symbol = unsafe { libc::dlsym(handle, SYMBOL.as_ptr()) };
    if symbol.is_null() {
        return None;
    }
    // SAFETY: TensorRT has declared it as `int32_t getInferLibVersion() noexcept` with C linkage since version 5.
    let function: extern "C" fn() -> i32 = unsafe { std::mem::transmute(symbol) };
    Some(function())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder_with_engine() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.engine"), b"x").unwrap();
        folder
    }

    #[test]
    fn an_engine_that_is_there_is_loaded_and_left_alone() {
        let folder = folder_with_engine();
        let mut opened = 0;
        let session = with_engine(folder.path(), true, &mut || {
            opened += 1;
            Ok("session")
        });
        assert_eq!((session.unwrap(), opened), ("session", 1));
        assert!(engine_cache::holds_engine(folder.path()));
    }

    #[test]
    fn an_engine_that_does_not_load_is_built_again_once() {
        let folder = folder_with_engine();
        let mut seen = Vec::new();
        let session = with_engine(folder.path(), true, &mut || {
            let there = engine_cache::holds_engine(folder.path());
            seen.push(there);
            if there { Err(InferError::Model("deserialisation failed".into())) } else { Ok("session") }
        });
        assert_eq!(session.unwrap(), "session");
        assert_eq!(seen, [true, false]);

        let folder = folder_with_engine();
        let mut tries = 0;
        let failed = with_engine(folder.path(), true, &mut || -> Result<(), _> {
            tries += 1;
            Err(InferError::Model("never".into()))
        });
        assert!(failed.is_err() && tries == 2, "{tries}");
    }

    #[test]
    fn another_best_batch_is_another_engine_and_none_is_the_one_of_before() {
        let profile = Profile { input: "pixel_values".into(), size: (224, 224), batch: 8 };
        let of = |opt_batch| shapes(Some(&profile), opt_batch);
        assert_eq!(of(None), format!("{:?}", Some(&profile)));
        assert!(of(None) != of(Some(4)) && of(Some(4)) != of(Some(2)));
        assert_eq!(shapes(None, Some(4)), "None", "a fixed batch is the only one");
    }

    #[test]
    fn a_gpu_that_is_away_costs_no_engine() {
        let folder = folder_with_engine();
        let failed = with_engine(folder.path(), true, &mut || -> Result<(), _> {
            Err(InferError::Provider("no CUDA-capable device".into()))
        });
        assert!(matches!(failed, Err(InferError::Provider(_))));
        assert!(engine_cache::holds_engine(folder.path()));
    }

    #[test]
    fn a_version_is_unknown_where_there_is_no_library() {
        assert_eq!(version(Path::new("/no/such/libonnxruntime.so")), "unknown");
        assert_eq!(inference_version("libno-such-library.so.1"), None);
        assert_eq!(inference_version("libc.so.6"), None, "a library, but not TensorRT");
    }
}
