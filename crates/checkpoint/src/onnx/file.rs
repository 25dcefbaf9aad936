//! A graph as a file, streamed: a weight is read, written and forgotten before the next one.
//!
//! Protobuf messages carry their length in front, and a model's sizes are known before its weights are, so even weights that
//! lie inside the model file are streamed. Protobuf ends at 2 GiB; larger models keep their weights in `NAME_data` beside
//! it, at offsets of whole pages, so that the runtime can map them.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::OPSET;
use super::builder::{Block, Graph, Stored, Values};
use super::proto::{self, Data};
use crate::import::{ImportError, TensorStore};

/// Weights up to this lie inside the model file; protobuf itself ends at 2³¹ bytes.
pub const INLINE_LIMIT: u64 = 1_800_000_000;
/// Tensors below this stay in the model file in any case: the runtime needs shapes and constants while it optimises.
const SMALL: u64 = 1024;
/// Offsets of external tensors, as the ONNX specification recommends for mapping.
const PAGE: u64 = 4096;
/// Bytes converted and written at once.
const CHUNK: usize = 1 << 16;

/// Writes `graph` as `file`, and `FILE_data` where its weights exceed `inline_limit` bytes; both are synced. Gives the
/// bytes written. `progress` is told the bytes of weights as they are written.
///
/// # Errors
/// A tensor that cannot be read or has another size than the graph says; a file that cannot be written.
pub fn write(
    graph: &Graph,
    store: &dyn TensorStore,
    file: &Path,
    inline_limit: u64,
    progress: &mut dyn FnMut(u64) -> Result<(), ImportError>,
) -> Result<u64, ImportError> {
    write_with(graph, store, file, inline_limit, true, progress)
}

/// As [`write()`], without waiting for the disk: for a file that is used at once and removed. Stops as soon as `progress` says
/// so, which a sync of gigabytes would not.
///
/// # Errors
/// As [`write()`].
pub fn write_draft(
    graph: &Graph,
    store: &dyn TensorStore,
    file: &Path,
    inline_limit: u64,
    progress: &mut dyn FnMut(u64) -> Result<(), ImportError>,
) -> Result<u64, ImportError> {
    write_with(graph, store, file, inline_limit, false, progress)
}

fn write_with(
    graph: &Graph,
    store: &dyn TensorStore,
    file: &Path,
    inline_limit: u64,
    sync: bool,
    progress: &mut dyn FnMut(u64) -> Result<(), ImportError>,
) -> Result<u64, ImportError> {
    let disk = |source| ImportError::Disk { dir: file.to_owned(), source };
    let data_file = (graph.weight_bytes() > inline_limit).then(|| {
        let name = format!("{}_data", file.file_name().unwrap_or_default().to_string_lossy());
        (file.with_file_name(&name), name)
    });
    let open = |path: &Path| Ok(Counted { inner: BufWriter::new(File::create_new(path)?), written: 0 });
    let mut model = open(file).map_err(disk)?;
    let mut data = match &data_file {
        Some((path, _)) => Some(open(path).map_err(disk)?),
        None => None,
    };
    let layout = Layout::new(graph, data_file.as_ref().map(|(_, name)| name.as_str()));
    model.write_all(&layout.start).map_err(disk)?;
    let mut places = layout.places.iter();
    for block in &graph.blocks {
        for (stored, values) in block.tensors.iter().zip(made(block, store)?) {
            let Some(place) = places.next() else { continue };
            model.write_all(&place.head).map_err(disk)?;
            match (place.offset, &mut data) {
                (Some(offset), Some(data)) => {
                    let gap = offset.saturating_sub(data.written) as usize;
                    data.write_all(&[0; PAGE as usize][..gap.min(PAGE as usize)]).map_err(disk)?;
                    put(data, &values).map_err(disk)?;
                }
                _ => put(&mut model, &values).map_err(disk)?,
            }
            progress(stored.len())?;
        }
    }
    let mut total = model.finish(sync).map_err(disk)?;
    if let Some(data) = data {
        total += data.finish(sync).map_err(disk)?;
    }
    Ok(total)
}

/// The whole model in memory, for parts that are run while importing.
///
/// # Errors
/// As [`write()`].
pub fn to_bytes(graph: &Graph, store: &dyn TensorStore) -> Result<Vec<u8>, ImportError> {
    let layout = Layout::new(graph, None);
    let mut out = layout.start;
    out.reserve(graph.weight_bytes() as usize);
    let mut places = layout.places.iter();
    for block in &graph.blocks {
        for values in made(block, store)? {
            let Some(place) = places.next() else { continue };
            out.extend_from_slice(&place.head);
            // Writing to memory does not fail.
            let _ = put(&mut out, &values);
        }
    }
    Ok(out)
}

/// The block's values, checked against what the graph promises: the lengths are in the file already.
fn made(block: &Block, store: &dyn TensorStore) -> Result<Vec<Values>, ImportError> {
    let values = (block.make)(store)?;
    let fits = |(stored, values): (&Stored, &Values)| {
        stored.elem == values.elem() && stored.len() == values.len() as u64 * stored.elem.size() as u64
    };
    if values.len() == block.tensors.len() && block.tensors.iter().zip(&values).all(fits) {
        return Ok(values);
    }
    let names: Vec<_> = block.tensors.iter().map(|t| format!("{} {:?}", t.name, t.dims)).collect();
    let problem = format!("{}: another number of values than the configuration says", names.join(", "));
    Err(ImportError::Mismatch { file: "the checkpoint".into(), problems: vec![problem] })
}

/// Where everything lies in the file.
struct Layout {
    /// All before the first tensor.
    start: Vec<u8>,
    /// One a tensor, in order.
    places: Vec<Place>,
}

struct Place {
    head: Vec<u8>,
    /// In the data file; `None` where the data follows the head.
    offset: Option<u64>,
}

impl Layout {
    fn new(graph: &Graph, data_file: Option<&str>) -> Self {
        let mut body = Vec::new();
        graph.nodes.iter().for_each(|node| node.write(&mut body));
        proto::bytes(&mut body, 2, graph.name.as_bytes());
        graph.inputs.iter().for_each(|port| port.write(&mut body, 11));
        graph.outputs.iter().for_each(|port| port.write(&mut body, 12));

        let (mut next, mut length) = (0_u64, body.len() as u64);
        let mut places = Vec::new();
        for stored in graph.blocks.iter().flat_map(|block| &block.tensors) {
            let offset = data_file.filter(|_| stored.len() >= SMALL).map(|file| {
                let offset = next.next_multiple_of(PAGE);
                next = offset + stored.len();
                (file, offset)
            });
            let data = offset.map_or(Data::Inline, |(file, offset)| Data::External { file, offset });
            let mut head = Vec::new();
            proto::tensor_head(&mut head, &stored.name, stored.elem, &stored.dims, stored.len(), data);
            length += head.len() as u64 + if offset.is_none() { stored.len() } else { 0 };
            places.push(Place { head, offset: offset.map(|(_, offset)| offset) });
        }
        let mut start = Vec::new();
        proto::model_start(&mut start, OPSET, graph.contrib);
        proto::head(&mut start, 7, length);
        start.extend(body);
        Self { start, places }
    }
}

/// Writes little-endian data.
fn put(out: &mut impl Write, values: &Values) -> io::Result<()> {
    fn each<T: Copy, const N: usize>(out: &mut impl Write, values: &[T], bytes: fn(T) -> [u8; N]) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(CHUNK);
        for part in values.chunks(CHUNK / N) {
            buffer.clear();
            part.iter().for_each(|v| buffer.extend_from_slice(&bytes(*v)));
            out.write_all(&buffer)?;
        }
        Ok(())
    }
    match values {
        Values::F32(v) => each(out, v, f32::to_le_bytes),
        Values::F16(v) => each(out, v, half::f16::to_le_bytes),
        Values::I64(v) => each(out, v, i64::to_le_bytes),
        Values::I8(v) => each(out, v, i8::to_le_bytes),
        Values::U8(v) => out.write_all(v),
    }
}

/// A buffered file that knows how much went into it.
struct Counted {
    inner: BufWriter<File>,
    written: u64,
}

impl Counted {
    fn finish(self, sync: bool) -> io::Result<u64> {
        let file = self.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
        if sync {
            file.sync_all()?;
        }
        Ok(self.written)
    }
}

impl Write for Counted {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
