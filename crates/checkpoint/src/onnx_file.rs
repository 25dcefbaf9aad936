//! A quick look at an `.onnx` file: enough to tell a whole one from a cut, empty or mistaken one without loading it.
//!
//! An ONNX model is one protobuf message (`onnx.proto`, `ModelProto`). Its top-level fields carry their own lengths, so a
//! walk over them that seeks past every payload finds a file that ends too early in a few reads, whatever its size.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use super::ModelError;

/// `ModelProto.graph`.
const GRAPH_FIELD: u64 = 7;
/// A model has a handful of top-level fields; opset imports and metadata entries are some more. Beyond this it is no model.
const MAX_FIELDS: usize = 100_000;

/// Checks that `file` is a complete protobuf message with a graph.
///
/// # Errors
/// [`ModelError::Damaged`] with what it looks like instead and what to do.
pub fn check(file: &Path) -> Result<(), ModelError> {
    let damaged = |message: String| ModelError::Damaged { file: file.to_owned(), message };
    let handle = File::open(file).map_err(|e| damaged(format!("cannot be read: {e}")))?;
    let length = handle.metadata().map_err(|e| damaged(format!("cannot be read: {e}")))?.len();
    walk(BufReader::new(handle), length).map_err(damaged)
}

/// The files beside `file`, or below, that ONNX keeps a big model's weights in: those that its graph names and that are there, and those that are
/// called after it (`NAME_data`, `NAME.data`, `NAME_data_1`, …); sorted.
pub fn external_data(file: &Path) -> Vec<PathBuf> {
    let found: BTreeSet<PathBuf> = named_in(file).into_iter().chain(called_after(file)).collect();
    found.into_iter().collect()
}

fn called_after(file: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (file.parent(), file.file_name().and_then(|n| n.to_str())) else { return Vec::new() };
    let prefixes = [format!("{name}_data"), format!("{name}.data")];
    let is_data = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let entries = dir.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_data)).collect()
}

fn named_in(file: &Path) -> Vec<PathBuf> {
    let Ok(handle) = File::open(file) else { return Vec::new() };
    let Ok(length) = handle.metadata().map(|metadata| metadata.len()) else { return Vec::new() };
    let dir = file.parent().unwrap_or(Path::new(""));
    // A model is data and may not point elsewhere.
    let inside = |location: &String| {
        let parts = Path::new(location).components().filter(|part| *part != Component::CurDir);
        let plain = parts.clone().all(|part| matches!(part, Component::Normal(_)));
        plain.then(|| dir.join(parts.collect::<PathBuf>()))
    };
    let named = locations(&mut BufReader::new(handle), length);
    named.iter().filter_map(inside).filter(|data| data.is_file()).collect()
}

/// The name of the graph's one input of rank 4 whose first dimension is free: pictures in batches of any size. `None` where there
/// is no such input, or the file cannot be read.
pub fn picture_input(file: &Path) -> Option<String> {
    let handle = File::open(file).ok()?;
    let length = handle.metadata().ok()?.len();
    find_input(&mut BufReader::new(handle), length)
}

/// An input's name, type and shape are some hundred bytes, and so is a tensor whose values lie elsewhere.
const MAX_MESSAGE: u64 = 64 << 10;
/// Files of weights that are looked for; exporters write one, or one for each tensor.
const MAX_LOCATIONS: usize = 10_000;

/// A field of a message: its number, and where its payload begins and ends.
struct Field {
    number: u64,
    start: u64,
    end: u64,
}

/// The field at `at`, where the reader stands; it is left at the payload. `None` at the end and where the bytes are no message.
fn field(reader: &mut impl Read, at: u64, end: u64) -> Option<Field> {
    let (key, used) = varint(reader)?;
    let (start, size) = match key & 7 {
        0 => (at + used, varint(reader)?.1),
        1 => (at + used, 8),
        5 => (at + used, 4),
        2 => {
            let (size, more) = varint(reader)?;
            (at + used + more, size)
        }
        _ => return None,
    };
    let stop = start.checked_add(size).filter(|stop| *stop <= end)?;
    Some(Field { number: key >> 3, start, end: stop })
}

/// Every field `number` of the message between `start` and `end`, until `found` says something.
fn each<R: Read + Seek, T>(
    reader: &mut R,
    (start, end): (u64, u64),
    number: u64,
    found: &mut dyn FnMut(&mut R, Field) -> Option<T>,
) -> Option<T> {
    let mut at = start;
    for _ in 0..MAX_FIELDS {
        if at >= end {
            break;
        }
        reader.seek(SeekFrom::Start(at)).ok()?;
        let field = field(reader, at, end)?;
        at = field.end;
        if field.number == number
            && let Some(result) = found(reader, field)
        {
            return Some(result);
        }
    }
    None
}

/// Fields of `onnx.proto`: ModelProto.graph 7, GraphProto.input 11, ValueInfoProto.name 1 and .type 2, TypeProto.tensor_type 1,
/// Tensor.shape 2, TensorShapeProto.dim 1, Dimension.dim_value 1.
fn find_input<R: Read + Seek>(reader: &mut R, length: u64) -> Option<String> {
    each(reader, (0, length), GRAPH_FIELD, &mut |reader, graph| {
        each(reader, (graph.start, graph.end), 11, &mut |reader, input| {
            let bytes = payload(reader, &input)?;
            let part = |bytes: &[u8], number| first(bytes, number);
            let name = String::from_utf8(part(&bytes, 1)?).ok()?;
            let shape = part(&part(&part(&bytes, 2)?, 1)?, 2)?;
            let mut dimensions: Vec<bool> = Vec::new();
            let mut cursor = Cursor::new(shape.as_slice());
            each::<_, ()>(&mut cursor, (0, shape.len() as u64), 1, &mut |cursor, dimension| {
                // Whether it has a value.
                dimensions.push(first(&payload(cursor, &dimension)?, 1).is_some());
                None
            });
            (dimensions.len() == 4 && !dimensions[0]).then_some(name)
        })
    })
}

/// What the graph's tensors say of where their values lie. ModelProto.graph 7, GraphProto.initializer 5, TensorProto.external_data 13,
/// StringStringEntryProto.key 1 and .value 2.
fn locations<R: Read + Seek>(reader: &mut R, length: u64) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    each::<_, ()>(reader, (0, length), GRAPH_FIELD, &mut |reader, graph| {
        each(reader, (graph.start, graph.end), 5, &mut |reader, tensor| {
            // A larger one has its values in it.
            let tensor = payload(reader, &tensor)?;
            let mut cursor = Cursor::new(tensor.as_slice());
            let location = each(&mut cursor, (0, tensor.len() as u64), 13, &mut |cursor, entry| {
                let entry = payload(cursor, &entry)?;
                (first(&entry, 1)? == b"location").then(|| first(&entry, 2))?
            });
            found.extend(location.and_then(|location| String::from_utf8(location).ok()));
            (found.len() >= MAX_LOCATIONS).then_some(())
        })
    });
    found
}

fn payload<R: Read + Seek>(reader: &mut R, field: &Field) -> Option<Vec<u8>> {
    let size = field.end.checked_sub(field.start).filter(|size| *size <= MAX_MESSAGE)?;
    reader.seek(SeekFrom::Start(field.start)).ok()?;
    let mut bytes = vec![0; usize::try_from(size).ok()?];
    reader.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// The payload of the first field `number` of `message`.
fn first(message: &[u8], number: u64) -> Option<Vec<u8>> {
    let mut cursor = Cursor::new(message);
    each(&mut cursor, (0, message.len() as u64), number, &mut |cursor, field| payload(cursor, &field))
}

fn walk(mut reader: impl Read + Seek, length: u64) -> Result<(), String> {
    if length == 0 {
        return Err("is empty; copy or export the model again".into());
    }
    let cut = || "ends in the middle (a cut download or a full disk?); copy or export the model again".to_owned();
    let foreign = || "is not an ONNX model; copy or export the model again".to_owned();
    let (mut at, mut has_graph) = (0_u64, false);
    for _ in 0..MAX_FIELDS {
        if at == length {
            return if has_graph { Ok(()) } else { Err(foreign()) };
        }
        let (key, used) = varint(&mut reader).ok_or_else(|| if has_graph { cut() } else { foreign() })?;
        at += used;
        let payload = match key & 7 {
            0 => varint(&mut reader).ok_or_else(cut)?.1,
            1 => 8,
            5 => 4,
            2 => {
                let (size, used) = varint(&mut reader).ok_or_else(cut)?;
                at += used;
                size
            }
            _ => return Err(foreign()),
        };
        // Field numbers of ModelProto reach 26 today; a number far beyond is some other kind of file.
        if key >> 3 == 0 || key >> 3 > 1000 {
            return Err(foreign());
        }
        let end = at.checked_add(payload).filter(|end| *end <= length);
        let Some(end) = end else {
            return Err(if key >> 3 == GRAPH_FIELD || has_graph { cut() } else { foreign() });
        };
        has_graph |= key >> 3 == GRAPH_FIELD && key & 7 == 2;
        if key & 7 != 0 {
            reader.seek(SeekFrom::Start(end)).map_err(|e| format!("cannot be read: {e}"))?;
        }
        at = end;
    }
    Err(foreign())
}

/// One base-128 varint of a protobuf message and the bytes it took, 1 to 10; `None` at the end of the file or when it is too long.
pub fn varint(reader: &mut impl Read) -> Option<(u64, u64)> {
    let mut value = 0_u64;
    for index in 0..10 {
        let mut byte = [0];
        reader.read_exact(&mut byte).ok()?;
        value |= u64::from(byte[0] & 0x7f).checked_shl(7 * index)?;
        if byte[0] & 0x80 == 0 {
            return Some((value, u64::from(index) + 1));
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// ir_version 8, producer "x", a graph of `graph` bytes, one opset import.
    fn model(graph: usize) -> Vec<u8> {
        let mut bytes = vec![0x08, 8, 0x12, 1, b'x', 0x3a];
        let mut n = graph;
        loop {
            let more = n >= 0x80;
            bytes.push((n & 0x7f) as u8 | if more { 0x80 } else { 0 });
            n >>= 7;
            if !more {
                break;
            }
        }
        bytes.resize(bytes.len() + graph, 0xff);
        bytes.extend([0x42, 2, 0x10, 17]);
        bytes
    }

    /// A field with a payload.
    fn message(number: u8, payload: &[u8]) -> Vec<u8> {
        let length = payload.len();
        assert!(length < 1 << 14, "two bytes of length");
        let mut bytes = vec![(number << 3) | 2, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8];
        bytes.extend(payload);
        bytes
    }

    /// A model whose tensors lie there.
    pub(crate) fn model_with_data(locations: &[&str]) -> Vec<u8> {
        let entry =
            |key: &str, value: &str| message(13, &[message(1, key.as_bytes()), message(2, value.as_bytes())].concat());
        let tensor = |location: &&str| {
            let parts = [vec![0x08, 3], message(8, b"w"), entry("offset", "0"), entry("location", location)];
            message(5, &parts.concat())
        };
        let inline = message(5, &[message(8, b"bias"), message(9, &[0; 12])].concat());
        let graph = [message(2, b"graph"), inline, locations.iter().flat_map(tensor).collect()].concat();
        [vec![0x08, 8], message(7, &graph)].concat()
    }

    #[test]
    fn weights_lie_where_the_graph_says_if_that_is_below_it_and_there() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join("model").join(name);
        std::fs::create_dir_all(place("parts")).unwrap();
        for name in ["shared.bin", "parts/a.data", "first.onnx_data", "../outside"] {
            std::fs::write(place(name), "weights").unwrap();
        }
        let outside = folder.path().join("outside").display().to_string();
        let locations =
            ["shared.bin", "parts/a.data", "./shared.bin", "../outside", &outside, "absent", "parts", "", "shared.bin"];
        std::fs::write(place("renamed.onnx"), model_with_data(&locations)).unwrap();
        assert_eq!(external_data(&place("renamed.onnx")), [place("parts/a.data"), place("shared.bin")]);
        // What exporters call after the graph is its own, too.
        std::fs::write(place("first.onnx"), model_with_data(&["shared.bin"])).unwrap();
        std::fs::write(place("first.onnx_data_1"), "weights").unwrap();
        let wanted = ["first.onnx_data", "first.onnx_data_1", "shared.bin"].map(place);
        assert_eq!(external_data(&place("first.onnx")), wanted);
        assert_eq!(external_data(&place("absent.onnx")), [] as [PathBuf; 0]);
    }

    fn look(bytes: &[u8]) -> Result<(), String> {
        walk(Cursor::new(bytes), bytes.len() as u64)
    }

    #[test]
    fn a_whole_model_passes_and_every_cut_in_its_graph_is_told() {
        let bytes = model(1000);
        assert_eq!(look(&bytes), Ok(()));
        for cut in 8..bytes.len() - 4 {
            let message = look(&bytes[..cut]).unwrap_err();
            assert!(message.contains("ends in the middle"), "cut at {cut}: {message}");
        }
    }

    #[test]
    fn other_files_are_called_by_name() {
        assert!(look(b"").unwrap_err().contains("is empty"));
        assert!(look(b"<!DOCTYPE html><html><body>404</body></html>").unwrap_err().contains("not an ONNX model"));
        assert!(look(&[0x08, 8]).unwrap_err().contains("not an ONNX model"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = look(&bytes);
            let _ = find_input(&mut Cursor::new(&bytes[..]), bytes.len() as u64);
            let _ = locations(&mut Cursor::new(&bytes[..]), bytes.len() as u64);
        }
    }
}
