//! A quick look at an `.onnx` file: enough to tell a whole one from a cut, empty or mistaken one without loading it.
//!
//! An ONNX model is one protobuf message (`onnx.proto`, `ModelProto`). Its top-level fields carry their own lengths, so a
//! walk over them that seeks past every payload finds a file that ends too early in a few reads, whatever its size.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

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

/// Files that ONNX keeps a big model's weights in, beside `file` (`NAME_data`, `NAME.data`, `NAME_data_1`, …), sorted.
pub fn external_data(file: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (file.parent(), file.file_name().and_then(|n| n.to_str())) else { return Vec::new() };
    let prefixes = [format!("{name}_data"), format!("{name}.data")];
    let Ok(entries) = dir.read_dir() else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name().and_then(|n| n.to_str()).is_some_and(|n| prefixes.iter().any(|p| n.starts_with(p)))
        })
        .collect();
    found.sort();
    found
}

fn walk(mut reader: impl Read + Seek, length: u64) -> Result<(), String> {
    if length == 0 {
        return Err("is empty; copy or export the model again".into());
    }
    let mut start = [0; 11];
    let read = fill(&mut reader, &mut start).map_err(|e| format!("cannot be read: {e}"))?;
    if start[..read].starts_with(b"version htt") {
        return Err("is a Git LFS pointer, not the model itself; run `git lfs pull` where it came from".into());
    }
    reader.rewind().map_err(|e| format!("cannot be read: {e}"))?;

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

/// One base-128 varint and the bytes it took; `None` at the end of the file or when it is too long.
fn varint(reader: &mut impl Read) -> Option<(u64, u64)> {
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

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

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
        assert!(look(b"version https://git-lfs.github.com/spec/v1\n").unwrap_err().contains("git lfs pull"));
        assert!(look(b"<!DOCTYPE html><html><body>404</body></html>").unwrap_err().contains("not an ONNX model"));
        assert!(look(&[0x08, 8]).unwrap_err().contains("not an ONNX model"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = look(&bytes);
        }
    }
}
