//! A history from anywhere: searched, written to and purged, without a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let folder = std::env::temp_dir().join(format!("vtagd-fuzz-history-{}", std::process::id()));
    vtagd::fuzzing::history(&folder, data);
});
