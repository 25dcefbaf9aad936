//! Coded pictures from anywhere: their sizes are read, or not, but without a panic. Seeds: tools/fuzz.sh.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vtagd::fuzzing::coded_size(data));
