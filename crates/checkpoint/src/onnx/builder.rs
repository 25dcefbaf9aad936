//! One graph in the making: nodes in the order they compute, constants, and weights that are made when they are written.
//!
//! Names are given by the caller and are what a person sees in a viewer: a node is called after its output, an output after
//! the layer it belongs to (`vision.layers.3.attn.scores`). A name that is used twice is one constant or a mistake that
//! `onnx.checker` and ONNX Runtime refuse.

use std::collections::HashSet;

use half::f16;

use super::proto::{Attr, Elem, Node, Port};
use crate::import::{ImportError, TensorStore};

/// A tensor of the graph that is stored in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// Element type.
    pub elem: Elem,
    /// Shape.
    pub dims: Vec<usize>,
}

impl Stored {
    /// Bytes of its data.
    pub fn len(&self) -> u64 {
        self.dims.iter().map(|d| *d as u64).product::<u64>() * self.elem.size() as u64
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Data of a stored tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 16-bit floats.
    F16(Vec<f16>),
    /// Unsigned bytes.
    U8(Vec<u8>),
    /// Signed bytes.
    I8(Vec<i8>),
    /// 64-bit integers.
    I64(Vec<i64>),
}

impl Values {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F16(v) => v.len(),
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::I64(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn elem(&self) -> Elem {
        match self {
            Self::F32(_) => Elem::F32,
            Self::F16(_) => Elem::F16,
            Self::U8(_) => Elem::U8,
            Self::I8(_) => Elem::I8,
            Self::I64(_) => Elem::I64,
        }
    }
}

/// Makes the data of a block's tensors, in their order.
pub type Make = Box<dyn Fn(&dyn TensorStore) -> Result<Vec<Values>, ImportError> + Send>;

/// Tensors that come from one reading of the checkpoint, such as a quantised weight and its scales.
pub(super) struct Block {
    pub tensors: Vec<Stored>,
    pub make: Make,
}

/// A graph: what it takes, gives and computes.
pub struct Graph {
    pub(super) name: String,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
    pub(super) nodes: Vec<Node>,
    pub(super) blocks: Vec<Block>,
    /// Whether it has operators of ONNX Runtime's own set.
    pub(super) contrib: bool,
    /// Constants and shared values that are there already.
    known: HashSet<String>,
}

impl Graph {
    /// An empty graph; `name` is shown by viewers.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            nodes: Vec::new(),
            blocks: Vec::new(),
            contrib: false,
            known: HashSet::new(),
        }
    }

    /// Declares an input and gives its name back.
    pub fn input(&mut self, name: &str, elem: Elem, dims: &[super::Dim]) -> String {
        self.inputs.push(Port { name: name.to_owned(), elem, dims: dims.to_vec() });
        name.to_owned()
    }

    /// Declares that the value `name`, which some node gives, is an output.
    pub fn output(&mut self, name: &str, elem: Elem, dims: &[super::Dim]) {
        self.outputs.push(Port { name: name.to_owned(), elem, dims: dims.to_vec() });
    }

    /// Adds a standard operator with one output and gives the output's name back.
    pub fn op(&mut self, op: &'static str, inputs: &[&str], output: &str, attrs: &[Attr]) -> String {
        self.push("", op, inputs, output, attrs)
    }

    /// Adds an operator of `com.microsoft`.
    pub fn contrib(&mut self, op: &'static str, inputs: &[&str], output: &str, attrs: &[Attr]) -> String {
        self.contrib = true;
        self.push("com.microsoft", op, inputs, output, attrs)
    }

    fn push(
        &mut self,
        domain: &'static str,
        op: &'static str,
        inputs: &[&str],
        output: &str,
        attrs: &[Attr],
    ) -> String {
        let inputs = inputs.iter().map(|name| (*name).to_owned()).collect();
        self.nodes.push(Node { op, domain, inputs, outputs: vec![output.to_owned()], attrs: attrs.to_vec() });
        output.to_owned()
    }

    /// Element type conversion.
    pub fn cast(&mut self, input: &str, to: Elem, output: &str) -> String {
        self.op("Cast", &[input], output, &[Attr::Int("to", to.attribute())])
    }

    /// A small constant, stored once however often it is asked for.
    pub fn constant(&mut self, name: &str, dims: &[usize], values: Values) -> String {
        if self.known.insert(name.to_owned()) {
            let stored = Stored { name: name.to_owned(), elem: values.elem(), dims: dims.to_vec() };
            self.blocks.push(Block { tensors: vec![stored], make: Box::new(move |_| Ok(vec![values.clone()])) });
        }
        name.to_owned()
    }

    /// A value that several layers read: `make` adds the nodes that give `name` where it is asked for first.
    pub fn shared(&mut self, name: &str, make: impl FnOnce(&mut Self)) -> String {
        if self.known.insert(name.to_owned()) {
            make(self);
        }
        name.to_owned()
    }

    /// A vector of integers, such as a shape.
    pub fn ints(&mut self, name: &str, values: &[i64]) -> String {
        self.constant(name, &[values.len()], Values::I64(values.to_vec()))
    }

    /// A number.
    pub fn scalar(&mut self, name: &str, value: f32) -> String {
        self.constant(name, &[], Values::F32(vec![value]))
    }

    /// Weights: `tensors` are what `make` gives, in order, when the file is written.
    pub fn weights(&mut self, tensors: Vec<Stored>, make: Make) {
        self.blocks.push(Block { tensors, make });
    }

    /// Bytes of all stored tensors.
    pub fn weight_bytes(&self) -> u64 {
        self.blocks.iter().flat_map(|block| &block.tensors).map(Stored::len).sum()
    }
}
