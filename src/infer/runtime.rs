//! Finding and loading ONNX Runtime's shared library.
//!
//! The library is a file chosen at start-up, never linked: the CPU, CUDA and OpenVINO builds are different files of one
//! name. A process can hold one, for good: what is loaded first stays. Called at start-up on any thread.

use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use ort::environment::Environment;
use ort::logging::LogLevel;
use parking_lot::Mutex;
use tracing::{debug, info, warn};

use super::{InferError, libraries};
use crate::platform::paths;

/// Overrides the search, as ONNX Runtime's own tools do.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// The loaded library. Clones share it.
#[derive(Clone, Debug)]
pub struct Runtime {
    environment: Environment,
    library: PathBuf,
}

impl Runtime {
    /// The file that was loaded.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// For session builders.
    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }
}

static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

/// Loads ONNX Runtime, or gives back what is loaded already.
///
/// Looks at `explicit`, else `ORT_DYLIB_PATH`, else [`paths::runtime_libraries`]. Whoever names a file gets that file or
/// an error, never another one.
///
/// # Errors
/// [`InferError::Library`] naming the places looked at, or the file and why it does not load.
pub fn load(explicit: Option<&Path>) -> Result<Runtime, InferError> {
    let mut loaded = LOADED.lock();
    if let Some(runtime) = &*loaded {
        if let Some(wanted) = explicit
            && wanted.canonicalize().ok() != runtime.library.canonicalize().ok()
        {
            warn!(
                loaded = %runtime.library.display(),
                wanted = %wanted.display(),
                "onnx runtime is loaded already, another library needs a restart"
            );
        }
        return Ok(runtime.clone());
    }
    let library = choose(explicit, std::env::var_os(VARIABLE).map(PathBuf::from))?;
    // `ort` takes a relative path as relative to the executable; ours are relative to the working directory.
    let library = std::path::absolute(&library).unwrap_or(library);
    let environment = open(&library)?;
    info!(library = %library.display(), "onnx runtime loaded");
    let runtime = Runtime { environment, library };
    *loaded = Some(runtime.clone());
    Ok(runtime)
}

/// Forbids the library to collect telemetry. Microsoft's own builds for Linux (1.32 does) make a device id and a database in the cache
/// folder while they are loaded, and then look up `mobile.events.data.microsoft.com` every minute or so to send it there; the switch in
/// the interface (`with_telemetry`) keeps them from neither. Call it first thing in `main`: processes started later inherit it.
#[allow(clippy::disallowed_methods, reason = "no other thread runs yet; the library looks nowhere else in time")]
pub fn forbid_telemetry() {
    // SAFETY: by the contract above the process has one thread, so nobody reads the environment meanwhile.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
}

/// What the library that was loaded says of its build: version and commit.
pub fn version() -> &'static str {
    ort::info()
}

/// Gives memory that loading a model has used and freed back to the system. Call it once a session is warm: glibc keeps freed
/// weights when they happen to lie below something that is still in use, which is a matter of chance: ViT-B/32 in 32 bits stayed
/// at 411 MiB in some runs and at 618 MiB in others, and is at 391 MiB after this.
pub fn give_back_freed_memory() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes no pointer, and may be called from any thread at any time.
        unsafe { libc::malloc_trim(0) };
    }
}

fn choose(explicit: Option<&Path>, variable: Option<PathBuf>) -> Result<PathBuf, InferError> {
    let variable = variable.filter(|path| !path.as_os_str().is_empty());
    let named = explicit.map(|p| (p.to_owned(), "runtime.library")).or(variable.map(|p| (p, VARIABLE)));
    if let Some((path, from)) = named {
        if path.is_file() {
            return Ok(path);
        }
        let path = path.display();
        return Err(InferError::Library(format!(
            "{from} names {path}, which is not a file; correct it or leave it out to use the one that `make setup` fetches"
        )));
    }
    let places = paths::runtime_libraries();
    if let Some(found) = places.iter().find(|path| path.is_file()) {
        return Ok(found.clone());
    }
    let places: Vec<_> = places.iter().map(|p| p.display().to_string()).collect();
    Err(InferError::Library(format!(
        "libonnxruntime.so was not found (looked at {}); run `make setup` in the checkout, or take it out of PyPI's `onnxruntime` \
         wheel (onnxruntime/capi/) and name it as `runtime.library` or in {VARIABLE}",
        places.join(", ")
    )))
}

fn open(library: &Path) -> Result<Environment, InferError> {
    let shown = library.display();
    // The bindings assert on libraries that export the right symbol and answer nonsense; that is a wrong file, not a bug.
    let opened = panic::catch_unwind(AssertUnwindSafe(|| {
        let builder = ort::init_from(library).map_err(|e| explain(library, &e))?;
        let environment = builder
            .with_name("vtagd")
            .with_telemetry(false)
            .build()
            .map_err(|e| InferError::Library(format!("{shown} does not start: {e}")))?;
        // The bindings ask for every message; formatting them all at load time is slow and nobody reads them.
        environment.set_log_level(LogLevel::Warning);
        debug!(build = ort::info(), "onnx runtime build");
        Ok(environment)
    }));
    opened.unwrap_or_else(|_| {
        Err(InferError::Library(format!(
            "{shown} is not an ONNX Runtime that works here; take libonnxruntime.so out of PyPI's `onnxruntime` wheel or run `make setup`"
        )))
    })
}

fn explain(library: &Path, error: &ort::LoadDynamicError) -> InferError {
    let shown = library.display();
    let wheel = libraries::wheel(libraries::built_with(library));
    InferError::Library(match error {
        ort::LoadDynamicError::BadVersion { version_str, .. } => format!(
            "{shown} is ONNX Runtime {version_str}, 1.{} or newer is needed; take a newer `{}` wheel from PyPI or run `{}`",
            ort::MINOR_VERSION,
            wheel.0,
            wheel.1
        ),
        ort::LoadDynamicError::Dlopen { error, .. } => {
            format!(
                "{shown} does not load as a shared library ({error}); is it for this processor, and complete? run `{}`",
                wheel.1
            )
        }
        ort::LoadDynamicError::MissingApi { .. } | ort::LoadDynamicError::InvalidVersionString => {
            format!("{shown} is a shared library but not ONNX Runtime; run `make setup` or name the right file")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_library_that_is_missing_is_an_error_and_not_a_search() {
        let error = choose(Some(Path::new("/no/lib.so")), None).unwrap_err().to_string();
        assert!(error.contains("runtime.library names /no/lib.so"), "{error}");
        let error = choose(None, Some("/no/env.so".into())).unwrap_err().to_string();
        assert!(error.contains("ORT_DYLIB_PATH names /no/env.so"), "{error}");
    }

    #[test]
    fn an_empty_variable_is_as_good_as_none() {
        assert!(choose(None, Some("".into())).is_ok(), "run `make setup` first: it fetches runtime/libonnxruntime.so");
    }

    #[test]
    fn a_library_that_is_too_old_is_told_with_the_wheel_it_came_from() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libonnxruntime.so");
        let told = || {
            let error = ort::LoadDynamicError::BadVersion { version_str: "1.19.2".into(), path: library.clone() };
            explain(&library, &error).to_string()
        };
        assert!(told().contains("is ONNX Runtime 1.19.2, 1.24 or newer is needed"), "{}", told());
        assert!(told().contains("`onnxruntime` wheel") && told().contains("`make setup`"), "{}", told());
        std::fs::write(folder.path().join("libonnxruntime_providers_openvino.so"), b"x").unwrap();
        assert!(
            told().contains("`onnxruntime-openvino` wheel") && told().contains("`make runtime-openvino`"),
            "{}",
            told()
        );
    }
}
