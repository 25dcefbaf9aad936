//! The weight files of a checkpoint folder: one file, or shards with an index. In: a folder and the names a layout uses; out:
//! a [`RawStore`] over open files. At most [`MAX_SHARDS`] files are held open.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::bytes::{Bytes as _, FileBytes, piece, shown};
use super::fields::{damaged, read_json};
use super::raw::{Part, RawStore};
use super::{ImportError, pickle, safetensors};
use crate::json_text;

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

/// What files of weights end in, whatever else they are called.
const ENDINGS: [&str; 5] = ["safetensors", "bin", "pt", "pth", "ckpt"];

/// How files begin that end so too and hold something else: what training and other exports keep beside the weights.
const NOT_WEIGHTS: [&str; 10] = [
    "training_args",
    "optimizer",
    "scheduler",
    "scaler",
    "rng_state",
    "random_states",
    "adapter_model",
    "onnx",
    "openvino",
    "ggml",
];

/// How files end or begin that hold a model in a form that is not read, and what that is.
const OTHER_FORMS: [(&str, &str); 8] = [
    (".h5", "TensorFlow's"),
    (".msgpack", "Flax's"),
    (".gguf", "llama.cpp's"),
    (".onnx", "an export, which is used as it is, without an import"),
    (".part", "a download that has not ended"),
    (".incomplete", "a download that has not ended"),
    (".crdownload", "a download that has not ended"),
    ("adapter_model", "an adapter, to be merged into its base model first"),
];

/// Most other names that a message lists.
const MAX_LISTED: usize = 12;

/// The first of `names` that is there.
pub(super) fn find(dir: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().map(|name| dir.join(name)).find(|file| file.exists())
}

/// Whether `name` could be that of a file of weights that no layout has.
pub(crate) fn is_other_weights_name(name: &str) -> bool {
    is_weights_name(name) && !HUGGING_FACE.contains(&name) && !OPEN_CLIP.contains(&name)
}

/// Whether `name` could be that of a file of weights.
pub(super) fn is_weights_name(name: &str) -> bool {
    let ending = |name: &str| {
        // No archive: a habit of PyTorch's examples.
        let name = if name.ends_with(".pth.tar") { name.trim_end_matches(".tar") } else { name };
        name.rsplit_once('.').is_some_and(|(_, end)| ENDINGS.contains(&end))
    };
    if name.starts_with('.') || NOT_WEIGHTS.iter().any(|start| name.starts_with(start)) {
        return false;
    }
    match name.strip_suffix(".index.json") {
        Some(whole) => ending(whole),
        // A shard belongs to its index.
        None => ending(name) && !is_shard(name),
    }
}

/// `NAME-00002-of-00006.END`.
fn is_shard(name: &str) -> bool {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    stem.rsplit_once("-of-")
        .is_some_and(|(before, last)| number(last) && before.rsplit_once('-').is_some_and(|(_, this)| number(this)))
}

/// Files in `dir` that could be weights under names that no layout has, sorted.
pub(crate) fn others(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_other_weights_name))
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found
}

/// What lies in `dir` in the place of weights that can be read, if that can be told.
pub(super) fn instead(dir: &Path) -> Option<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names.iter().find_map(|name| {
        let is_form = |(mark, _): &&(&str, &str)| name.ends_with(mark) || name.starts_with(mark);
        let what = match OTHER_FORMS.iter().find(is_form) {
            Some((_, what)) => *what,
            None if is_shard(name) => {
                "one of several parts, and the index that names them all (….index.json) is missing"
            }
            None => return None,
        };
        Some(format!("`{}` is {what}", shown(name)))
    })
}

/// The one file of [`others`]; `None` if there is none.
///
/// # Errors
/// Several, all named, and how to choose one.
pub(super) fn other(dir: &Path) -> Result<Option<PathBuf>, ImportError> {
    let mut found = others(dir);
    if found.len() < 2 {
        return Ok(found.pop());
    }
    let name = |file: &PathBuf| shown(&file.file_name().unwrap_or_default().to_string_lossy());
    let mut names: Vec<String> = found.iter().take(MAX_LISTED).map(name).collect();
    let first = names.first().cloned().unwrap_or_default();
    if found.len() > MAX_LISTED {
        names.push(format!("{} more", found.len() - MAX_LISTED));
    }
    let message = format!(
        "holds several files that could be the weights ({}): import the one you mean by its own path, as in \
         `vtagd model import {} --out OUT`, or leave only that one in the folder",
        names.join(", "),
        dir.join(first).display()
    );
    Err(damaged(dir, message))
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
    let head = piece(&bytes, 0, bytes.len().min(64) as usize)
        .map_err(|source| ImportError::Io { file: file.to_owned(), source })?;
    if json_text::is_lfs_pointer(&head) {
        return Err(damaged(file, json_text::LFS_POINTER));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_training_keeps_beside_the_weights_is_no_weights() {
        for name in
            ["my_model.safetensors", "model-epoch3.bin", "checkpoint.pt", "a.pth", "b.ckpt", "c.safetensors.index.json"]
        {
            assert!(is_weights_name(name), "{name}");
        }
        for name in [
            "training_args.bin",
            "optimizer.pt",
            "rng_state_0.pth",
            ".hidden.pt",
            "config.json",
            "model.onnx",
            "c-00001-of-00002.safetensors",
            "vocab.txt",
            "bin",
        ] {
            assert!(!is_weights_name(name), "{name}");
        }
    }
}
