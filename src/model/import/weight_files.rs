//! The weight files of a checkpoint folder: one file, or shards with an index. In: a folder and the names a layout uses; out:
//! a [`RawStore`] over open files. At most [`MAX_SHARDS`] files are held open.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::bytes::{FileBytes, shown};
use super::fields::{damaged, read_json};
use super::raw::{Part, RawStore};
use super::{ImportError, pickle, safetensors};

/// Most shards; ViT-bigG has two.
pub(crate) const MAX_SHARDS: usize = 256;

/// The weights of Hugging Face folders, the best first.
pub(crate) const HUGGING_FACE: &[&str] =
    &["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// The weights of OpenCLIP folders, the best first.
pub(crate) const OPEN_CLIP: &[&str] = &[
    "open_clip_model.safetensors",
    "open_clip_model.safetensors.index.json",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.bin.index.json",
];

/// The first of `names` that is there.
pub(super) fn find(dir: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().map(|name| dir.join(name)).find(|file| file.exists())
}

/// Opens a weight file, or all shards of an index.
///
/// # Errors
/// Files that are missing, damaged or hostile; a pickle that wants more than tensors.
pub(super) fn open(file: &Path) -> Result<RawStore, ImportError> {
    let mut store = RawStore::default();
    if file.extension().is_some_and(|e| e == "json") {
        for shard in shards(file)? {
            add(&mut store, &shard)?;
        }
    } else {
        add(&mut store, file)?;
    }
    Ok(store)
}

/// The shards an index names, each once. They must lie beside it: a checkpoint is data and may not point elsewhere.
fn shards(index: &Path) -> Result<Vec<PathBuf>, ImportError> {
    let json = read_json(index)?.unwrap_or_default();
    let map = json.get("weight_map").and_then(|map| map.as_object());
    let map = map.ok_or_else(|| damaged(index, "has no object `weight_map`; fetch it again"))?;
    let mut names = BTreeSet::new();
    for name in map.values() {
        let name = name.as_str().unwrap_or_default();
        let mut parts = Path::new(name).components();
        if !(matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none()) {
            return Err(damaged(index, format!("names the shard `{}`, which is no file beside it", shown(name))));
        }
        names.insert(name);
        if names.len() > MAX_SHARDS {
            return Err(damaged(index, format!("names more than {MAX_SHARDS} shards")));
        }
    }
    if names.is_empty() {
        return Err(damaged(index, "names no shard"));
    }
    let dir = index.parent().unwrap_or(Path::new("."));
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

fn add(store: &mut RawStore, file: &Path) -> Result<(), ImportError> {
    let bytes = FileBytes::open(file)?;
    let number = store.parts.len();
    let found = if file.extension().is_some_and(|e| e == "safetensors") {
        safetensors::read(&bytes, number).map_err(|message| damaged(file, message))?
    } else {
        pickle::read(&bytes, file, number)?
    };
    for (name, tensor) in found {
        if let Some(other) = store.tensors.get(&name) {
            let other = store.file(other).display().to_string();
            return Err(damaged(file, format!("holds the tensor `{}`, which {other} holds too", shown(&name))));
        }
        store.tensors.insert(name, tensor);
    }
    store.parts.push(Part { path: file.to_owned(), bytes: Box::new(bytes) });
    Ok(())
}
