//! An image tower that takes bytes: the same graph with a few operators in front, which make of pictures as files have them (`pictures`, UINT8,
//! `[batch, height, width, 3]`) the normalised floats that it took before. A quarter of the floats goes over a network.
//!
//! Comes in: any `.onnx` file with one picture input whose batch is free. Goes out: another file, written in one pass, whatever its size; weights
//! that lie beside it are still looked for under their names. An ONNX model is one protobuf message (`onnx.proto`): the new operators are
//! put before all others of its graph, and the description of the old input is left out.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use prost::Message;

use super::ModelError;
use super::onnx_file::varint;

/// What the new input is called.
pub const INPUT: &str = "pictures";

/// `ModelProto.graph`; `GraphProto.node`, `.initializer`, `.input` and `.output`.
const GRAPH: u64 = 7;
const INPUTS: u64 = 11;
const OUTPUTS: u64 = 12;
/// `TensorProto.DataType`.
const FLOAT: i32 = 1;
const UINT8: i32 = 2;
const FLOAT16: i32 = 10;
/// Name, type and shape of an input or output.
const MAX_PORT: u64 = 64 << 10;

/// A tensor that a graph takes or gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphPort {
    pub name: String,
    /// `TensorProto.DataType`.
    pub elem: i32,
    /// -1: any.
    pub shape: Vec<i64>,
}

impl GraphPort {
    /// As Triton calls the type, without the `TYPE_` before it.
    pub fn triton_type(&self) -> &'static str {
        match self.elem {
            FLOAT16 => "FP16",
            UINT8 => "UINT8",
            _ => "FP32",
        }
    }
}

/// What a graph takes and gives, and where that stands in its file.
pub struct GraphFile {
    /// Its one input, pictures with a free batch.
    pub input: GraphPort,
    pub outputs: Vec<GraphPort>,
    /// Where the graph's tag, its payload, and what is behind it begin.
    graph: (u64, u64, u64),
    /// The input's description with its tag.
    described: (u64, u64),
}

impl GraphFile {
    /// # Errors
    /// [`ModelError::Damaged`] for what is no ONNX model, or has not one picture input with a free batch.
    pub fn read(file: &Path) -> Result<Self, ModelError> {
        let damaged = |message: String| ModelError::Damaged { file: file.to_owned(), message };
        let handle = File::open(file).map_err(|e| damaged(format!("cannot be read: {e}")))?;
        let length = handle.metadata().map_err(|e| damaged(format!("cannot be read: {e}")))?.len();
        Self::of(&mut BufReader::new(handle), length).map_err(damaged)
    }

    fn of<R: Read + Seek>(reader: &mut R, length: u64) -> Result<Self, String> {
        let mut graph = None;
        each(reader, (0, length), &mut |_, field| {
            if field.number == GRAPH {
                graph = Some((field.tag, field.start, field.end));
            }
            Ok(())
        })?;
        let graph = graph.ok_or("has no graph; export the model again")?;
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        each(reader, (graph.1, graph.2), &mut |reader, MessageField { number, tag, start, end }| {
            if number == INPUTS || number == OUTPUTS {
                let port = port(reader, start, end)?;
                if number == INPUTS { inputs.push((port, (tag, end))) } else { outputs.push(port) }
            }
            Ok(())
        })?;
        let takes_pictures = |port: &GraphPort| port.shape.len() == 4 && matches!(port.elem, FLOAT | FLOAT16);
        match inputs.as_slice() {
            [(input, described)] if takes_pictures(input) && input.shape[0] == -1 => {
                Ok(Self { input: input.clone(), outputs, graph, described: *described })
            }
            [(input, _)] if takes_pictures(input) => {
                Err(format!("takes exactly {} pictures at a time; export it with a free batch", input.shape[0]))
            }
            _ => Err("has not one input that takes pictures in 32 or 16 bits; export it with `pixel_values` alone"
                .to_owned()),
        }
    }
}

/// Writes `from`, which is `graph`, as `to`, with an input for bytes of pictures of `size` (height, width). A byte × `scale` + `bias` is what
/// preprocessing makes of it, for each channel.
///
/// # Errors
/// As the disk has it.
pub fn write(
    graph: &GraphFile,
    (from, to): (&Path, &Path),
    size: (u32, u32),
    scale: [f32; 3],
    bias: [f32; 3],
) -> io::Result<()> {
    let mut reader = BufReader::new(File::open(from)?);
    let mut writer = BufWriter::with_capacity(1 << 20, File::create_new(to)?);
    let front = front(&graph.input, size, scale, bias);
    let ((tag, start, end), (old, behind)) = (graph.graph, graph.described);
    let length = (end - start) - (behind - old) + front.len() as u64;
    copy(&mut reader, &mut writer, 0..tag)?;
    let mut head = Vec::new();
    prost::encoding::encode_key(GRAPH as u32, prost::encoding::WireType::LengthDelimited, &mut head);
    prost::encoding::encode_varint(length, &mut head);
    writer.write_all(&head)?;
    writer.write_all(&front)?;
    copy(&mut reader, &mut writer, start..old)?;
    copy(&mut reader, &mut writer, behind..end)?;
    let whole = reader.get_ref().metadata()?.len();
    copy(&mut reader, &mut writer, end..whole)?;
    writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

fn copy(reader: &mut (impl Read + Seek), writer: &mut impl Write, range: std::ops::Range<u64>) -> io::Result<()> {
    reader.seek(SeekFrom::Start(range.start))?;
    let wanted = range.end - range.start;
    if io::copy(&mut reader.take(wanted), writer)? < wanted {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Fields of a graph: bytes → floats → channels first → normalised, under the name of the input that was there before.
fn front(input: &GraphPort, (height, width): (u32, u32), scale: [f32; 3], bias: [f32; 3]) -> Vec<u8> {
    let node = |op: &str, inputs: &[&str], output: &str, attribute: Vec<Attribute>| Node {
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        name: format!("vtagd.{op}.{output}"),
        op_type: op.to_owned(),
        attribute,
    };
    let cast = |elem: i32| Attribute { name: "to".into(), i: Some(i64::from(elem)), ints: Vec::new(), kind: 2 };
    let order = Attribute { name: "perm".into(), i: None, ints: vec![0, 3, 1, 2], kind: 7 };
    let half = input.elem == FLOAT16;
    let normalised = if half { "vtagd.normalised" } else { &input.name };
    let mut nodes = vec![
        node("Cast", &[INPUT], "vtagd.floats", vec![cast(FLOAT)]),
        node("Transpose", &["vtagd.floats"], "vtagd.planes", vec![order]),
        node("Mul", &["vtagd.planes", "vtagd.scale"], "vtagd.scaled", Vec::new()),
        node("Add", &["vtagd.scaled", "vtagd.bias"], normalised, Vec::new()),
    ];
    if half {
        nodes.push(node("Cast", &[normalised], &input.name, vec![cast(FLOAT16)]));
    }
    let constant = |name: &str, values: [f32; 3]| Constant {
        dims: vec![1, 3, 1, 1],
        data_type: FLOAT,
        name: name.to_owned(),
        raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    let side = |value: u32| Dimension { value: Some(i64::from(value)), free: None };
    let dim = vec![Dimension { value: None, free: Some("batch".into()) }, side(height), side(width), side(3)];
    let tensor = TensorType { elem_type: UINT8, shape: Some(Shape { dim }) };
    let described = Port { name: INPUT.to_owned(), kind: Some(PortType { tensor: Some(tensor) }) };
    let initializer = vec![constant("vtagd.scale", scale), constant("vtagd.bias", bias)];
    GraphFront { node: nodes, initializer, input: vec![described] }.encode_to_vec()
}

/// A field of a message: its number, where its tag and its payload begin, and its end.
struct MessageField {
    number: u64,
    tag: u64,
    start: u64,
    end: u64,
}

/// Every field of the message in this range.
fn each<R: Read + Seek>(
    reader: &mut R,
    (from, to): (u64, u64),
    found: &mut dyn FnMut(&mut R, MessageField) -> Result<(), String>,
) -> Result<(), String> {
    let cut = || "ends in the middle (a cut download or a full disk?); copy or export the model again".to_owned();
    let mut at = from;
    while at < to {
        reader.seek(SeekFrom::Start(at)).map_err(|_| cut())?;
        let (key, used) = varint(reader).ok_or_else(cut)?;
        let mut start = at + used;
        let size = match key & 7 {
            0 => varint(reader).ok_or_else(cut)?.1,
            1 => 8,
            5 => 4,
            2 => {
                let (size, used) = varint(reader).ok_or_else(cut)?;
                start += used;
                size
            }
            _ => return Err("is not an ONNX model; copy or export the model again".to_owned()),
        };
        let end = start.checked_add(size).filter(|end| *end <= to).ok_or_else(cut)?;
        found(reader, MessageField { number: key >> 3, tag: at, start, end })?;
        at = end;
    }
    Ok(())
}

fn port(reader: &mut (impl Read + Seek), start: u64, end: u64) -> Result<GraphPort, String> {
    let unclear = || "describes its inputs and outputs in a way that cannot be read; export the model again".to_owned();
    let size = usize::try_from(end - start).ok().filter(|size| *size as u64 <= MAX_PORT).ok_or_else(unclear)?;
    let mut bytes = vec![0; size];
    reader.seek(SeekFrom::Start(start)).map_err(|_| unclear())?;
    reader.read_exact(&mut bytes).map_err(|_| unclear())?;
    let port = Port::decode(&bytes[..]).map_err(|_| unclear())?;
    let tensor = port.kind.and_then(|kind| kind.tensor).unwrap_or_default();
    let sides = tensor.shape.unwrap_or_default().dim;
    Ok(GraphPort {
        name: port.name,
        elem: tensor.elem_type,
        shape: sides.iter().map(|side| side.value.filter(|value| *value > 0).unwrap_or(-1)).collect(),
    })
}

#[derive(Clone, PartialEq, Message)]
struct GraphFront {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<Constant>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<Port>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, optional, tag = "3")]
    i: Option<i64>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    ints: Vec<i64>,
    #[prost(int32, tag = "20")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Constant {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Port {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    kind: Option<PortType>,
}

#[derive(Clone, PartialEq, Message)]
struct PortType {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    elem_type: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, optional, tag = "1")]
    value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    free: Option<String>,
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_input_and_the_outputs_are_found_and_an_unsuitable_model_is_told() {
        let towers = Path::new("tests/conformance/towers");
        let found = GraphFile::read(&towers.join("plain.onnx")).unwrap();
        assert_eq!((found.input.name.as_str(), found.input.elem, found.input.shape[0]), ("pixel_values", FLOAT, -1));
        assert!(found.outputs.iter().any(|output| output.shape.len() == 2), "{:?}", found.outputs);
        let told = GraphFile::read(&towers.join("fixed_batch.onnx")).err().unwrap().to_string();
        assert!(told.contains("fixed_batch.onnx") && told.contains("free batch"), "{told}");
        let told = GraphFile::read(Path::new("Cargo.toml")).err().unwrap().to_string();
        assert!(told.contains("export the model again"), "{told}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = GraphFile::of(&mut Cursor::new(&bytes[..]), bytes.len() as u64);
        }
    }
}
