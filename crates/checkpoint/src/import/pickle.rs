//! `pytorch_model.bin`: PyTorch's own files, the zip archives of version 1.6 and later and the plain pickles before it. In: a
//! file's bytes; out: where each tensor lies. Only pickles are read here, by the [machine](super::unpickle) that knows nothing
//! but tensors; the elements stay in the file.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::ImportError;
use super::bytes::{Bytes, piece, shown};
use super::raw::RawTensor;
use super::unpickle::{self, Node, Pickle, PickleFault, Tensor, Value};
use super::zip::{self, Record};

/// `torch.serialization.MAGIC_NUMBER`, 0x1950a86a20f9469cfc6c, as it stands in the file.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// `torch.serialization.PROTOCOL_VERSION`, never changed.
const PROTOCOL: i64 = 1001;

/// Under which keys training checkpoints keep the model's tensors (Lightning and OpenCLIP, DeepSpeed, the tutorials of PyTorch).
const STATE_DICTS: [&str; 4] = ["state_dict", "model_state_dict", "model", "module"];

/// Longest name of a tensor; longer ones are passed over.
const MAX_NAME: usize = 512;

/// Where a storage lies: its first byte and its bytes.
type Places = HashMap<String, Record>;

/// Finds the tensors of part number `part`, the file `path`.
///
/// # Errors
/// A class other than tensors ([`ImportError::Refused`]), a TorchScript or tar archive ([`ImportError::Unsupported`]), damage.
pub(super) fn read(bytes: &dyn Bytes, path: &Path, part: usize) -> Result<BTreeMap<String, RawTensor>, ImportError> {
    let head = piece(bytes, 0, bytes.len().min(300) as usize)
        .map_err(|source| ImportError::Io { file: path.to_owned(), source })?;
    let found = match head.as_slice() {
        [b'P', b'K', ..] => zipped(bytes),
        head if head.get(257..262) == Some(b"ustar") => Err(Refusal::Old("a tar file of PyTorch before 0.2")),
        _ => plain(bytes),
    };
    let (tensors, places) = found.map_err(|refusal| refusal.at(path))?;
    tensors
        .into_iter()
        .map(|(name, tensor)| {
            let raw = place(tensor, &places, part).map_err(|why| {
                let message = format!("the tensor `{}` {why}", shown(&name));
                ImportError::Damaged { file: path.to_owned(), message }
            })?;
            Ok((name, raw))
        })
        .collect()
}

/// Why a file is not read, before its name is added.
enum Refusal {
    PickleFault(PickleFault),
    Old(&'static str),
}

impl From<PickleFault> for Refusal {
    fn from(fault: PickleFault) -> Self {
        Self::PickleFault(fault)
    }
}

impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Self::PickleFault(PickleFault::Damaged(message))
    }
}

impl Refusal {
    fn at(self, file: &Path) -> ImportError {
        let file = file.to_owned();
        match self {
            Self::PickleFault(PickleFault::Class(class)) => ImportError::Refused { file, class },
            Self::PickleFault(PickleFault::Damaged(message)) => ImportError::Damaged { file, message },
            Self::Old(what) => {
                let remedy = "load it with PyTorch and save its state_dict() as safetensors".into();
                ImportError::Unsupported { file, what: what.into(), remedy }
            }
        }
    }
}

type Found = (Vec<(String, Tensor)>, Places);

/// The zip archive: `NAME/data.pkl` and a record a storage, `NAME/data/KEY`.
fn zipped(bytes: &dyn Bytes) -> Result<Found, Refusal> {
    let records = zip::read(bytes)?;
    let root =
        |name: &'_ str| name.strip_suffix("data.pkl").filter(|r| r.is_empty() || r.ends_with('/')).map(str::to_owned);
    let pickles: Vec<_> = records.iter().filter_map(|(name, record)| Some((root(name)?, *record))).collect();
    let [(root, pickle)] = pickles.as_slice() else {
        return Err(
            format!("is a zip archive with {} records `data.pkl`, not one: no PyTorch file", pickles.len()).into()
        );
    };
    if records.contains_key(&format!("{root}constants.pkl")) {
        return Err(Refusal::Old("a TorchScript archive (compiled code, not a state dict)"));
    }
    if let Some(order) = records.get(&format!("{root}byteorder"))
        && piece(bytes, order.at, order.len.min(16) as usize).ok().as_deref() != Some(b"little")
    {
        return Err(Refusal::Old("a big-endian file"));
    }
    let pickle = unpickle::read(bytes, pickle.at, pickle.at + pickle.len)?;
    let folder = format!("{root}data/");
    let places = records.iter().filter_map(|(n, r)| Some((n.strip_prefix(&folder)?.to_owned(), *r))).collect();
    Ok((tensors(&pickle)?, places))
}

/// The plain file: five pickles (magic, version, system, tensors, keys), then each storage behind its length.
fn plain(bytes: &dyn Bytes) -> Result<Found, Refusal> {
    let len = bytes.len();
    let magic = unpickle::read(bytes, 0, len)?;
    if !matches!(magic.node(magic.top), Some(Node::Bytes(b)) if *b == MAGIC) {
        return Err("is a pickle, but not one that torch.save wrote".to_owned().into());
    }
    let version = unpickle::read(bytes, magic.end, len)?;
    if version.top != Value::Int(PROTOCOL) {
        return Err(Refusal::Old("another version of PyTorch's old format"));
    }
    let system = unpickle::read(bytes, version.end, len)?;
    if entry(&system, system.top, "little_endian") == Some(Value::Bool(false)) {
        return Err(Refusal::Old("a big-endian file"));
    }
    let object = unpickle::read(bytes, system.end, len)?;
    let tensors = tensors(&object)?;
    let keys = unpickle::read(bytes, object.end, len)?;
    let Some(Node::List(list)) = keys.node(keys.top) else {
        return Err("lacks the list of its storages".to_owned().into());
    };
    let sizes: HashMap<&str, u64> =
        tensors.iter().map(|(_, t)| (t.storage.key.as_str(), t.storage.element.size())).collect();
    let mut places = Places::new();
    let mut at = keys.end;
    for key in list {
        let key = keys.text(*key).ok_or_else(|| "has a storage without a name".to_owned())?;
        // Storages that no tensor uses cannot be measured, so nothing behind them can be found either.
        let size = *sizes.get(key).ok_or_else(|| format!("has a storage `{}` that no tensor uses", shown(key)))?;
        let mut count = [0; 8];
        bytes.read_at(at, &mut count).map_err(|_| "is cut short within its storages; fetch it again".to_owned())?;
        let end = (at + 8).checked_add(u64::from_le_bytes(count).saturating_mul(size)).filter(|end| *end <= len);
        let end = end.ok_or_else(|| "is cut short within its storages; fetch it again".to_owned())?;
        places.insert(key.to_owned(), Record { at: at + 8, len: end - at - 8, crc: 0 });
        at = end;
    }
    Ok((tensors, places))
}

/// The tensors of a state dict, or of one inside a training checkpoint.
fn tensors(pickle: &Pickle) -> Result<Vec<(String, Tensor)>, String> {
    let direct = of_dict(pickle, pickle.top);
    if !direct.is_empty() {
        return Ok(direct);
    }
    let inner = |name: &&'static str| {
        let found = of_dict(pickle, entry(pickle, pickle.top, name)?);
        (!found.is_empty()).then_some((*name, found))
    };
    let mut found: Vec<_> = STATE_DICTS.iter().filter_map(inner).collect();
    match (found.pop(), found.first()) {
        (None, _) => Err("holds no state dict: there is no tensor in it".into()),
        (Some((_, tensors)), None) => Ok(tensors),
        (Some((one, _)), Some((two, _))) => {
            Err(format!("holds state dicts under `{two}` and `{one}`: save the one you mean alone"))
        }
    }
}

fn of_dict(pickle: &Pickle, value: Value) -> Vec<(String, Tensor)> {
    let Some(Node::Dict(entries)) = pickle.node(value) else { return Vec::new() };
    let tensor = |(key, value): &(Value, Value)| match pickle.node(*value) {
        // One long text can be the name of many tensors: short names keep their copies small.
        Some(Node::Tensor(tensor)) => {
            let name = pickle.text(*key).filter(|name| name.len() <= MAX_NAME)?;
            Some((name.to_owned(), tensor.clone()))
        }
        _ => None,
    };
    entries.iter().filter_map(tensor).collect()
}

fn entry(pickle: &Pickle, dict: Value, name: &str) -> Option<Value> {
    let Some(Node::Dict(entries)) = pickle.node(dict) else { return None };
    entries.iter().rfind(|(key, _)| pickle.text(*key) == Some(name)).map(|(_, value)| *value)
}

/// Joins a tensor with the place of its storage.
fn place(tensor: Tensor, places: &Places, part: usize) -> Result<RawTensor, String> {
    let storage = tensor.storage;
    let record = places
        .get(&storage.key)
        .ok_or_else(|| format!("lies in the storage `{}`, which the file does not have", shown(&storage.key)))?;
    let last = storage.first.checked_add(storage.len).and_then(|n| n.checked_mul(storage.element.size()));
    if last.is_none_or(|last| last > record.len) {
        return Err(format!("lies in a storage of {} bytes, which is too short for it", record.len));
    }
    Ok(RawTensor {
        part,
        element: storage.element,
        shape: tensor.shape,
        at: record.at + storage.first * storage.element.size(),
        storage: storage.len,
        offset: tensor.offset,
        strides: Some(tensor.strides),
    })
}

#[cfg(test)]
mod tests;
