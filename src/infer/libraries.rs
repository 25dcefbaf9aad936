//! What a provider needs on the disk, and what to do when it is not there. Pure, but for looks at the file system.
//!
//! ONNX Runtime's builds differ by what lies beside `libonnxruntime.so`, and its own messages name a missing file without saying
//! where it comes from. Here every one of them gets a remedy.

use std::path::Path;

use super::Provider;

/// Where a build with this provider comes from: PyPI's wheel and our make target.
pub const fn wheel(provider: Provider) -> (&'static str, &'static str) {
    match provider {
        Provider::Tensorrt | Provider::Cuda => ("onnxruntime-gpu", "make runtime-cuda"),
        Provider::Openvino => ("onnxruntime-openvino", "make runtime-openvino"),
        Provider::Cpu | Provider::Remote => ("onnxruntime", "make setup"),
    }
}

/// The file that holds a provider, where it is not in the library itself.
pub const fn file(provider: Provider) -> Option<&'static str> {
    match provider {
        Provider::Tensorrt => Some("libonnxruntime_providers_tensorrt.so"),
        Provider::Cuda => Some("libonnxruntime_providers_cuda.so"),
        Provider::Openvino => Some("libonnxruntime_providers_openvino.so"),
        Provider::Cpu | Provider::Remote => None,
    }
}

/// The provider that `library` was built for, by what lies beside it.
pub fn built_with(library: &Path) -> Provider {
    let beside = |provider: &Provider| file(*provider).is_some_and(|file| library.with_file_name(file).is_file());
    [Provider::Cuda, Provider::Openvino].into_iter().find(beside).unwrap_or(Provider::Cpu)
}

/// Looks whether `library` can have `provider` at all; `built_in` is what the library says about itself.
///
/// # Errors
/// What is missing, and which wheel has it.
pub fn check(library: &Path, provider: Provider, built_in: bool) -> Result<(), String> {
    let Some(file) = file(provider) else { return Ok(()) };
    let (wheel, target) = wheel(provider);
    let remedy = format!(
        "run `{target}`, or take every lib*.so out of PyPI's `{wheel}` wheel (onnxruntime/capi/) into one folder, and name its \
         libonnxruntime.so as `runtime.library` or in ORT_DYLIB_PATH"
    );
    if !built_in {
        return Err(format!("{} is a build of ONNX Runtime without it; {remedy}", library.display()));
    }
    // ONNX Runtime looks beside the name that it was loaded by; a link may stand for it.
    let resolved = library.canonicalize().unwrap_or_else(|_| library.to_owned());
    let beside = |path: &Path| path.parent().is_some_and(|folder| folder.join(file).is_file());
    if beside(library) || beside(&resolved) {
        return Ok(());
    }
    Err(format!("{file} is not beside {}; {remedy}", library.display()))
}

/// What to do about `reason`, which a provider gave for not starting.
pub fn remedy(provider: Provider, reason: &str) -> String {
    let (wheel, _) = wheel(provider);
    if let Some(missing) = missing_library(reason) {
        return format!("{missing} is missing: {}", origin(missing));
    }
    match provider {
        Provider::Tensorrt | Provider::Cuda if reason.contains("CUDA failure") || reason.contains("cuda") => {
            "the GPU does not work as asked; look at `nvidia-smi`, the driver's version and `device`".to_owned()
        }
        Provider::Openvino => {
            "look at `device` and `precision`; a GPU or NPU needs Intel's driver, and /dev/dri must be readable"
                .to_owned()
        }
        _ => format!("is the `{wheel}` wheel whole, and made for this driver?"),
    }
}

/// ONNX Runtime's message without its source files and error codes, on one line of bearable length.
pub fn brief(message: &str) -> String {
    const MAX_LINE_BYTES: usize = 400;
    let told = message.rsplit("[ONNXRuntimeError]").next().unwrap_or(message);
    let told = told.rsplit(" : FAIL : ").next().unwrap_or(told);
    let mut line: String = told.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > MAX_LINE_BYTES {
        let end = (0..=MAX_LINE_BYTES).rev().find(|at| line.is_char_boundary(*at)).unwrap_or_default();
        line.truncate(end);
        line.push('…');
    }
    line
}

/// The library that the dynamic linker did not find, out of `libX.so.1: cannot open shared object file`.
fn missing_library(reason: &str) -> Option<&str> {
    let before =
        reason.split(": cannot open shared object file").next().filter(|before| before.len() < reason.len())?;
    let name = before.rsplit([' ', '\'', '"', ':', '(']).next()?;
    name.contains(".so").then_some(name)
}

fn origin(library: &str) -> &'static str {
    const CUDA: [&str; 6] = ["libcudart", "libcublas", "libcurand", "libcufft", "libnvrtc", "libnvJitLink"];
    if library.starts_with("libcuda.so") || library.starts_with("libnvidia") {
        return "it belongs to NVIDIA's driver; install that, or give the container access to the GPU";
    }
    if CUDA.iter().any(|name| library.starts_with(name)) {
        return "it belongs to the CUDA toolkit; install its runtime libraries in the version that this name ends with, and let the \
                linker find them (ldconfig or LD_LIBRARY_PATH)";
    }
    if library.starts_with("libcudnn") {
        return "it belongs to cuDNN; install it in the version that this name ends with";
    }
    if library.starts_with("libnvinfer") || library.starts_with("libnvonnxparser") {
        return "it belongs to TensorRT; install it in the version that this name ends with, or use `cuda` alone";
    }
    if library.starts_with("libopenvino") || library.starts_with("libtbb") {
        return "it lies in the same wheel; run `make runtime-openvino` again";
    }
    "install the package that has it"
}

/// The name of a library that `provider`'s file is linked with, such as `libnvinfer.so.10` for `libnvinfer.so.`.
pub fn linked(provider_file: &[u8], begins: &str) -> Option<String> {
    let at = provider_file.windows(begins.len()).position(|window| window == begins.as_bytes())?;
    let rest = provider_file.get(at..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let name = std::str::from_utf8(rest.get(..end)?).ok()?;
    name[begins.len()..].bytes().all(|byte| byte.is_ascii_digit() || byte == b'.').then(|| name.to_owned())
}

/// As [`linked`], of the file with `provider` beside `library`.
pub fn linked_beside(library: &Path, provider: Provider, begins: &str) -> Option<String> {
    linked(&std::fs::read(library.with_file_name(file(provider)?)).ok()?, begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_a_provider_is_told_with_the_wheel_and_the_make_target() {
        let library = Path::new("/opt/ort/libonnxruntime.so");
        for (provider, wheel, target) in [
            (Provider::Cuda, "`onnxruntime-gpu`", "`make runtime-cuda`"),
            (Provider::Tensorrt, "`onnxruntime-gpu`", "`make runtime-cuda`"),
            (Provider::Openvino, "`onnxruntime-openvino`", "`make runtime-openvino`"),
        ] {
            let told = check(library, provider, false).unwrap_err();
            assert!(told.contains(wheel) && told.contains(target) && told.contains("/opt/ort"), "{told}");
        }
        assert_eq!(check(library, Provider::Cpu, false), Ok(()));
    }

    #[test]
    fn a_provider_file_that_was_left_in_the_wheel_is_missed_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libonnxruntime.so");
        std::fs::write(&library, b"x").unwrap();
        let told = check(&library, Provider::Cuda, true).unwrap_err();
        assert!(
            told.starts_with("libonnxruntime_providers_cuda.so is not beside") && told.contains("make runtime-cuda"),
            "{told}"
        );
        assert_eq!(built_with(&library), Provider::Cpu);
        std::fs::write(folder.path().join("libonnxruntime_providers_cuda.so"), b"x").unwrap();
        assert_eq!(built_with(&library), Provider::Cuda);
        assert_eq!(check(&library, Provider::Cuda, true), Ok(()));
        let link = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(&library, link.path().join("ort.so")).unwrap();
        assert_eq!(check(&link.path().join("ort.so"), Provider::Cuda, true), Ok(()));
    }

    #[test]
    fn a_library_that_the_linker_does_not_find_is_named_with_where_it_comes_from() {
        let said = "Failed to load library libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared \
                    object file: No such file or directory";
        let told = remedy(Provider::Cuda, said);
        assert!(told.starts_with("libcublasLt.so.13 is missing") && told.contains("CUDA toolkit"), "{told}");
        for (library, from) in [
            ("libcuda.so.1", "driver"),
            ("libcudnn.so.9", "cuDNN"),
            ("libnvinfer.so.10", "TensorRT"),
            ("libopenvino.so.2541", "make runtime-openvino"),
            ("libodd.so.3", "package"),
        ] {
            let told = remedy(Provider::Tensorrt, &format!("error: {library}: cannot open shared object file"));
            assert!(told.starts_with(library) && told.contains(from), "{told}");
        }
        assert!(remedy(Provider::Cuda, "CUDA failure 100: no CUDA-capable device").contains("nvidia-smi"));
        assert!(remedy(Provider::Openvino, "Device GPU is not available").contains("`device`"));
    }

    #[test]
    fn a_message_is_cut_to_what_a_person_can_use() {
        let said =
            "/src/provider_bridge_ort.cc:2043 Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load\n\n library x";
        assert_eq!(brief(said), "Failed to load library x");
        let long = brief(&"ä".repeat(1000));
        assert!(long.len() < 410 && long.ends_with('…'));
        assert_eq!(brief(""), "");
    }

    #[test]
    fn the_version_a_provider_is_linked_with_is_found_in_its_file() {
        let file = b"\0libcudart.so.13\0libnvinfer.so.10\0libnvonnxparser.so.10\0";
        assert_eq!(linked(file, "libnvinfer.so.").as_deref(), Some("libnvinfer.so.10"));
        assert_eq!(linked(file, "libnvinfer_plugin.so."), None);
        assert_eq!(linked(b"libnvinfer.so.%d\0", "libnvinfer.so."), None);
        assert_eq!(linked(b"libnvinfer.so.10", "libnvinfer.so."), None);
    }
}
