//! The few protobuf messages of `onnx.proto` (ONNX 1.16, IR version 8) that a model needs, written by hand.
//!
//! Comes in: names, shapes, attributes. Goes out: bytes appended to a `Vec<u8>`. Weights never pass through here: a
//! tensor's head is made apart from its data, so that a model of any size is streamed. Messages made here are kilobytes.

/// Element type of an ONNX tensor (`TensorProto.DataType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elem {
    /// 32-bit float.
    F32,
    /// Unsigned byte.
    U8,
    /// Signed byte.
    I8,
    /// 64-bit integer.
    I64,
    /// 16-bit float.
    F16,
}

impl Elem {
    const fn code(self) -> u64 {
        match self {
            Self::F32 => 1,
            Self::U8 => 2,
            Self::I8 => 3,
            Self::I64 => 7,
            Self::F16 => 10,
        }
    }

    /// For the `to` attribute of a Cast.
    pub const fn attribute(self) -> i64 {
        self.code() as i64
    }

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::U8 | Self::I8 => 1,
            Self::I64 => 8,
        }
    }
}

/// A node's attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// A whole number.
    Int(&'static str, i64),
    /// Whole numbers.
    Ints(&'static str, Vec<i64>),
    /// A number.
    Float(&'static str, f32),
}

/// One dimension of an input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Always this long.
    Fixed(usize),
    /// Free, with a name for people.
    Free(&'static str),
}

/// A graph's input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Element type.
    pub elem: Elem,
    /// Shape.
    pub dims: Vec<Dim>,
}

/// One operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub op: &'static str,
    /// Empty for the standard operators.
    pub domain: &'static str,
    /// An empty name leaves an optional input out.
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub attrs: Vec<Attr>,
}

/// Where a tensor's bytes are.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// They follow the head directly.
    Inline,
    /// In a file beside the model.
    External { file: &'a str, offset: u64 },
}

pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Field `number` with a varint. Negative values take ten bytes, as protobuf's `int64` does.
pub(super) fn int(out: &mut Vec<u8>, number: u64, value: u64) {
    varint(out, number << 3);
    varint(out, value);
}

/// Field `number` with bytes, a string or a message.
pub(super) fn bytes(out: &mut Vec<u8>, number: u64, value: &[u8]) {
    head(out, number, value.len() as u64);
    out.extend_from_slice(value);
}

/// Tag and length of a field whose `length` bytes follow.
pub(super) fn head(out: &mut Vec<u8>, number: u64, length: u64) {
    varint(out, number << 3 | 2);
    varint(out, length);
}

fn message(out: &mut Vec<u8>, number: u64, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    bytes(out, number, &inner);
}

fn float(out: &mut Vec<u8>, number: u64, value: f32) {
    varint(out, number << 3 | 5);
    out.extend(value.to_le_bytes());
}

impl Node {
    /// Appends a `NodeProto` as `GraphProto.node`. A node is called after its first output.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        message(out, 1, |node| {
            self.inputs.iter().for_each(|name| bytes(node, 1, name.as_bytes()));
            self.outputs.iter().for_each(|name| bytes(node, 2, name.as_bytes()));
            if let Some(name) = self.outputs.first() {
                bytes(node, 3, name.as_bytes());
            }
            bytes(node, 4, self.op.as_bytes());
            self.attrs.iter().for_each(|attr| message(node, 5, |inner| attr.write(inner)));
            if !self.domain.is_empty() {
                bytes(node, 7, self.domain.as_bytes());
            }
        });
    }
}

impl Attr {
    /// Appends the fields of an `AttributeProto`.
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Float(name, value) => {
                bytes(out, 1, name.as_bytes());
                float(out, 2, *value);
                int(out, 20, 1);
            }
            Self::Int(name, value) => {
                bytes(out, 1, name.as_bytes());
                int(out, 3, value.cast_unsigned());
                int(out, 20, 2);
            }
            Self::Ints(name, values) => {
                bytes(out, 1, name.as_bytes());
                values.iter().for_each(|value| int(out, 8, value.cast_unsigned()));
                int(out, 20, 7);
            }
        }
    }
}

impl Port {
    /// Appends a `ValueInfoProto` as field `number` of the graph (11 input, 12 output).
    pub(super) fn write(&self, out: &mut Vec<u8>, number: u64) {
        message(out, number, |info| {
            bytes(info, 1, self.name.as_bytes());
            message(info, 2, |ty| {
                message(ty, 1, |tensor| {
                    int(tensor, 1, self.elem.code());
                    message(tensor, 2, |shape| {
                        for dim in &self.dims {
                            message(shape, 1, |inner| match dim {
                                Dim::Fixed(value) => int(inner, 1, *value as u64),
                                Dim::Free(name) => bytes(inner, 2, name.as_bytes()),
                            });
                        }
                    });
                });
            });
        });
    }
}

/// Appends the start of a `TensorProto` as `GraphProto.initializer`. With [`Data::Inline`] exactly `length` bytes of
/// little-endian data have to follow; otherwise it is complete.
pub(super) fn tensor_head(out: &mut Vec<u8>, name: &str, elem: Elem, dims: &[usize], length: u64, data: Data<'_>) {
    let mut inner = Vec::new();
    dims.iter().for_each(|dim| int(&mut inner, 1, *dim as u64));
    int(&mut inner, 2, elem.code());
    bytes(&mut inner, 8, name.as_bytes());
    let follows = match data {
        Data::Inline => {
            head(&mut inner, 9, length);
            length
        }
        Data::External { file, offset } => {
            let entries =
                [("location", file.to_owned()), ("offset", offset.to_string()), ("length", length.to_string())];
            for (key, value) in entries {
                message(&mut inner, 13, |entry| {
                    bytes(entry, 1, key.as_bytes());
                    bytes(entry, 2, value.as_bytes());
                });
            }
            int(&mut inner, 14, 1);
            0
        }
    };
    head(out, 5, inner.len() as u64 + follows);
    out.extend(inner);
}

/// The `ModelProto` fields before the graph: IR version, producer, and the operator sets of the standard and, where the
/// graph has any, ONNX Runtime's own operators.
pub(super) fn model_start(out: &mut Vec<u8>, opset: u64, contrib: bool) {
    int(out, 1, 8);
    bytes(out, 2, b"vtagd");
    bytes(out, 3, env!("CARGO_PKG_VERSION").as_bytes());
    message(out, 8, |set| {
        bytes(set, 1, b"");
        int(set, 2, opset);
    });
    if contrib {
        message(out, 8, |set| {
            bytes(set, 1, b"com.microsoft");
            int(set, 2, 1);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_the_bytes_that_protobuf_says() {
        let node = Node {
            op: "Add",
            domain: "",
            inputs: vec!["a".into(), "b".into()],
            outputs: vec!["c".into()],
            attrs: vec![Attr::Int("k", -1)],
        };
        let mut out = Vec::new();
        node.write(&mut out);
        let attribute = [&[0x2a, 17, 0x0a, 1, b'k', 0x18][..], &[0xff; 9], &[1, 0xa0, 1, 2]].concat();
        let body =
            [&[0x0a, 1, b'a', 0x0a, 1, b'b', 0x12, 1, b'c', 0x1a, 1, b'c', 0x22, 3, b'A', b'd', b'd'][..], &attribute];
        let body = body.concat();
        assert_eq!(out, [&[0x0a, body.len() as u8][..], &body].concat());
    }

    #[test]
    fn an_inline_tensor_announces_the_data_that_follows_it() {
        let mut out = Vec::new();
        tensor_head(&mut out, "w", Elem::F32, &[2, 3], 24, Data::Inline);
        assert_eq!(out, [0x2a, 11 + 24, 0x08, 2, 0x08, 3, 0x10, 1, 0x42, 1, b'w', 0x4a, 24]);
    }
}
