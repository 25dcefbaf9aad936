//! A decoder's picture: format, odd sizes, strides, view from anywhere: taken, or refused, but without a panic. Seeds: tools/fuzz.sh.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vtagd::fuzzing::geometry(data));
