//! Answers of ONVIF devices, to probes and to questions, from anywhere: read, and refused or not, but without a panic. Seeds: src/discover/soap/tests.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vtagd::discover::fuzz(data));
