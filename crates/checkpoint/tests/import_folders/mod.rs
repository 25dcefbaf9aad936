//! Copies of the conformance checkpoints, to be changed: safetensors files read and written as plain bytes.
#![allow(dead_code, reason = "each test file uses what it needs")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Type, shape and bytes of each tensor.
pub type Tensors = BTreeMap<String, (String, Vec<usize>, Vec<u8>)>;

/// The folder that has the conformance set: the daemon's, and two above the library's.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = here.ancestors().find(|folder| folder.join("tests/conformance/checkpoints").is_dir());
    found.expect("these tests are run in a checkout").to_owned()
}

/// A folder of the conformance set.
pub fn checkpoint(name: &str) -> PathBuf {
    repository().join("tests/conformance/checkpoints").join(name)
}

/// A copy of a conformance folder without the reference answers.
pub fn copy(name: &str) -> tempfile::TempDir {
    let from = checkpoint(name);
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        if !entry.file_name().to_string_lossy().starts_with("expected") {
            fs::write(to.path().join(entry.file_name()), fs::read(entry.path()).unwrap()).unwrap();
        }
    }
    to
}

pub fn read(file: &Path) -> Tensors {
    let bytes = fs::read(file).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let data = &bytes[8 + length..];
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__").map(|(name, entry)| {
        let number = |n: usize| entry["data_offsets"][n].as_u64().unwrap() as usize;
        let shape = entry["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
        (name, (entry["dtype"].as_str().unwrap().to_owned(), shape, data[number(0)..number(1)].to_vec()))
    });
    tensors.collect()
}

pub fn write(file: &Path, tensors: &Tensors) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (dtype, shape, bytes)) in tensors {
        let start = data.len();
        data.extend(bytes);
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    fs::write(file, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()).unwrap();
}

pub fn edit_json(file: &Path, edit: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    edit(&mut json);
    fs::write(file, json.to_string()).unwrap();
}
