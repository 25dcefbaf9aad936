//! A safetensors file from anywhere: read, and refused or not, but without a panic. Seeds: tests/conformance/checkpoints.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vtagd_checkpoint::import::fuzz_import::fuzz_safetensors(data));
