//! A model directory from anywhere: taken, or refused, but without a panic. Seeds: tools/fuzz.sh.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let folder = std::env::temp_dir().join(format!("vtagd-fuzz-{}", std::process::id()));
    vtagd::fuzzing::model_folder(&folder, data);
});
