//! What the fuzzers run, as ordinary functions: any bytes in, nothing out, no panic and little memory on the way. The fuzz
//! targets in `fuzz/` call them without an end, the tests a bounded number of times.

use std::path::Path;

use serde_json::Value;

use super::bytes::Bytes;
use super::config_openclip::{self, Hints};
use super::raw::{Part, RawStore};
use super::{canonical, config_hf, pickle, preprocessor, safetensors};
use crate::{Activation, LogitParameters};

/// Reads `data` as a safetensors file, and every tensor it names.
pub fn fuzz_safetensors(data: &[u8]) {
    let bytes = data.to_vec();
    if let Ok(tensors) = safetensors::read(&bytes, 0) {
        read_all(Box::new(bytes), tensors);
    }
}

/// Reads `data` as a PyTorch file, and every tensor it names.
pub fn fuzz_pickle(data: &[u8]) {
    let bytes = data.to_vec();
    if let Ok(tensors) = pickle::read(&bytes, Path::new("fuzz.bin"), 0) {
        read_all(Box::new(bytes), tensors);
    }
}

/// Reads `data` as each kind of configuration, and lists the tensors that it asks for.
pub fn fuzz_config(data: &[u8]) {
    let Ok(json) = serde_json::from_slice::<Value>(data) else { return };
    let file = Path::new("fuzz.json");
    let head = LogitParameters { scale: 100.0, bias: 0.0, activation: Activation::Softmax };
    let hints = Hints { head, projection_bias: false, timm: None };
    let read = [config_hf::architecture(&json, file, head), config_openclip::architecture(&json, file, hints)];
    for architecture in read.into_iter().flatten() {
        let _ = canonical::tensors(&architecture);
        let _ = preprocessor::open_clip(&json, file, architecture.vision.image_size);
    }
}

fn read_all(bytes: Box<dyn Bytes>, tensors: std::collections::BTreeMap<String, super::raw::RawTensor>) {
    let store = RawStore { parts: vec![Part { path: "fuzz".into(), bytes }], tensors };
    // Thousands of names may share the bytes: a few show what reading does.
    for name in store.tensors.keys().take(16) {
        if let Ok(values) = store.read(name, None) {
            // Strides reorder elements, they never make more than the file holds.
            debug_assert!(values.len() as u64 * 2 <= store.parts.first().map_or(0, |part| part.bytes.len()));
        }
        let _ = store.read(name, Some(0..1));
    }
}
