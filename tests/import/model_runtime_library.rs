//! Wrong runtime libraries: told, never a panic, and no obstacle for the right one afterwards.

use std::path::Path;

use crate::common::daemon::{root, vtagd};
use vtagd::infer::{InferError, runtime};

// One test, because a process holds one library and the order matters.
#[test]
fn wrong_libraries_are_refused_by_name_and_the_right_one_still_loads() {
    let missing = Path::new("/no/such/libonnxruntime.so");
    let told = message(runtime::load(Some(missing)));
    assert!(told.contains("/no/such/libonnxruntime.so") && told.contains("make setup"), "{told}");

    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("libonnxruntime.so");
    std::fs::write(&text, "not a library").unwrap();
    assert!(message(runtime::load(Some(&text))).contains("does not load as a shared library"));

    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|file| file.contains("libc.so"));
    let told = message(runtime::load(Some(Path::new(libc.unwrap()))));
    assert!(told.contains("not ONNX Runtime"), "{told}");

    let loaded = runtime::load(None).expect("run `make setup` first: it fetches runtime/libonnxruntime.so");
    let again = runtime::load(Some(&text)).expect("what is loaded stays");
    assert_eq!(loaded.library(), again.library());
}

fn message(outcome: Result<runtime::Runtime, InferError>) -> String {
    match outcome {
        Err(InferError::Library(message)) => message,
        other => panic!("a library error was expected, not {other:?}"),
    }
}

/// ONNX Runtime makes a device id and a database of telemetry in the cache folder of whoever loads it, unless it is forbidden in time.
/// `tag` loads it in the process itself and, for the words, in a child.
#[test]
fn the_runtime_leaves_nothing_in_the_home_of_whoever_runs_it() {
    let home = tempfile::tempdir().unwrap();
    let clip = root().join("demo/clip.mp4");
    let mut command = vtagd(home.path());
    command.args(["tag", "-l", "a cat,a dog"]).arg(clip);
    command.env("HOME", home.path()).env("XDG_CACHE_HOME", home.path().join("xdg")).env_remove("ORT_DISABLE_TELEMETRY");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(home.path().join("cache").is_dir(), "vtagd has kept no embeddings");
    let mut folders = vec![home.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let ours = entry.strip_prefix(home.path()).unwrap();
            assert!(ours.starts_with("cache") || ours.starts_with("xdg"), "{}", ours.display());
            assert!(
                !ours.starts_with("xdg") || ours.starts_with("xdg/gstreamer-1.0") || ours == Path::new("xdg"),
                "{}",
                ours.display()
            );
            if entry.is_dir() {
                folders.push(entry);
            }
        }
    }
}
