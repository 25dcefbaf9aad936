//! A pickle machine that knows tensors and nothing else. In: the bytes of a pickle; out: its value, in an arena. A pickle is a
//! program; this machine has no instruction that calls anything. Names of classes are compared with a short list, and
//! every other one ends the reading ([`PickleFault::Class`]).
//!
//! Bounds: [`MAX_BYTES`] of pickle, [`MAX_OPS`] instructions, [`MAX_COPIES`] copied elements. Values refer to the arena by
//! number, so neither depth nor sharing costs anything, and dropping them does not recurse.

use std::collections::HashMap;

use super::bytes::{Bytes, shown};
use super::pickle_input::{Input, MAX_NAME};
use super::raw::Element;

/// Longest pickle that is read. ViT-bigG's has 200 KB; training checkpoints with their optimiser have a few MB.
const MAX_BYTES: u64 = 64 << 20;
/// Most instructions: about 25 a tensor.
const MAX_OPS: u64 = 2_000_000;
/// Most elements that are copied when dictionaries are made from lists.
const MAX_COPIES: usize = 2_000_000;
/// Most dimensions of a tensor.
const MAX_DIMS: usize = 8;

/// Why a pickle is not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PickleFault {
    /// It names a class that is not on the list.
    Class(String),
    /// It is damaged, or is no pickle of tensors; a clause that follows the file's name.
    Damaged(String),
}

/// The classes that may be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    OrderedDict,
    Size,
    /// `_rebuild_tensor` and `_rebuild_tensor_v2`: the arguments that count are the same.
    Tensor,
    Parameter,
    Storage(Element),
}

impl Class {
    fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch", "Size") => Self::Size,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::Tensor,
            ("torch._utils", "_rebuild_parameter") => Self::Parameter,
            ("torch" | "torch.cuda", storage) => Self::Storage(match storage {
                "DoubleStorage" => Element::F64,
                "FloatStorage" => Element::F32,
                "HalfStorage" => Element::F16,
                "BFloat16Storage" => Element::Bf16,
                "LongStorage" => Element::I64,
                "IntStorage" => Element::I32,
                "ShortStorage" => Element::I16,
                "CharStorage" | "ByteStorage" | "BoolStorage" => Element::Byte,
                _ => return None,
            }),
            _ => return None,
        })
    }
}

/// A value: small ones themselves, the others by their number in the arena.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// Nobody asks for its number.
    Float,
    Node(usize),
    /// Not a value: where a tuple or a list begins on the stack.
    Mark,
}

/// A storage that the pickle refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) key: String,
    pub(super) element: Element,
    /// Elements.
    pub(super) len: u64,
    /// Of the storage with this key, the first element that counts; above 0 only for views in old files.
    pub(super) first: u64,
}

/// A tensor on a storage. Not checked: the one who reads it checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) storage: Storage,
    pub(super) offset: u64,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<u64>,
}

/// What a [`Value::Node`] stands for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Text(String),
    /// A long integer or a byte string, little-endian.
    Bytes(Vec<u8>),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Class(Class),
    Storage(Storage),
    Tensor(Tensor),
}

/// A pickle's value with everything it refers to.
#[derive(Debug)]
pub(super) struct Pickle {
    arena: Vec<Node>,
    pub(super) top: Value,
    /// The byte after it.
    pub(super) end: u64,
}

impl Pickle {
    /// The node behind a value, if it has one.
    pub(super) fn node(&self, value: Value) -> Option<&Node> {
        node(&self.arena, value)
    }

    pub(super) fn text(&self, value: Value) -> Option<&str> {
        text(&self.arena, value)
    }
}

fn node(arena: &[Node], value: Value) -> Option<&Node> {
    if let Value::Node(at) = value { arena.get(at) } else { None }
}

fn text(arena: &[Node], value: Value) -> Option<&str> {
    if let Some(Node::Text(text)) = node(arena, value) { Some(text) } else { None }
}

/// Reads the pickle that begins at byte `at` and ends before byte `end`.
///
/// # Errors
/// [`PickleFault`].
pub(super) fn read(bytes: &dyn Bytes, at: u64, end: u64) -> Result<Pickle, PickleFault> {
    let end = end.min(bytes.len()).min(at.saturating_add(MAX_BYTES));
    let input = Input::new(bytes, at, end);
    let mut machine = Machine { input, stack: Vec::new(), memo: HashMap::new(), arena: Vec::new(), copies: 0 };
    for _ in 0..MAX_OPS {
        if let Some(top) = machine.step()? {
            return Ok(Pickle { arena: machine.arena, top, end: machine.input.place() });
        }
    }
    Err(damaged(format!("has a pickle of more than {MAX_OPS} instructions, which no checkpoint needs")))
}

fn damaged(message: impl Into<String>) -> PickleFault {
    PickleFault::Damaged(message.into())
}

struct Machine<'a> {
    input: Input<'a>,
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    arena: Vec<Node>,
    copies: usize,
}

impl Machine<'_> {
    /// Runs one instruction; gives the value at the end.
    fn step(&mut self) -> Result<Option<Value>, PickleFault> {
        let op = self.input.byte()?;
        match op {
            b'.' => return self.pop().map(Some),
            0x80 => drop(self.input.byte()?),
            0x95 => drop(self.input.array::<8>()?),
            b'(' => self.stack.push(Value::Mark),
            b'0' => drop(self.stack.pop()),
            b'1' => drop(self.since_mark()?),
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'K' => {
                let n = self.input.byte()?;
                self.stack.push(Value::Int(n.into()));
            }
            b'M' => {
                let n = u16::from_le_bytes(self.input.array()?);
                self.stack.push(Value::Int(n.into()));
            }
            b'J' => {
                let n = i32::from_le_bytes(self.input.array()?);
                self.stack.push(Value::Int(n.into()));
            }
            b'G' => {
                self.input.array::<8>()?;
                self.stack.push(Value::Float);
            }
            0x8a | b'U' | b'C' | 0x8c | b'T' | b'B' | b'X' | 0x8b | 0x8d | 0x8e => self.string(op)?,
            b')' => self.push(Node::Tuple(Vec::new())),
            0x85..=0x87 => {
                let at = self.stack.len().checked_sub(usize::from(op - 0x84)).ok_or_else(empty)?;
                let items = self.stack.split_off(at);
                self.push(Node::Tuple(items));
            }
            b't' => {
                let items = self.since_mark()?;
                self.push(Node::Tuple(items));
            }
            b']' => self.push(Node::List(Vec::new())),
            b'l' => {
                let items = self.since_mark()?;
                self.push(Node::List(items));
            }
            b'}' => self.push(Node::Dict(Vec::new())),
            b'd' => {
                let items = self.since_mark()?;
                self.push(Node::Dict(pairs(&items)?));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.append(&items)?;
            }
            b's' => {
                let at = self.stack.len().checked_sub(2).ok_or_else(empty)?;
                let items = self.stack.split_off(at);
                self.set_items(&items)?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set_items(&items)?;
            }
            b'q' => {
                let at = self.input.byte()?;
                self.remember(at.into())?;
            }
            b'r' => {
                let at = u32::from_le_bytes(self.input.array()?);
                self.remember(at)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let at = self.input.byte()?;
                self.recall(at.into())?;
            }
            b'j' => {
                let at = u32::from_le_bytes(self.input.array()?);
                self.recall(at)?;
            }
            b'c' | b'i' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.class(&module, &name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let both = text(&self.arena, module).zip(text(&self.arena, name));
                let (module, name) = both.ok_or_else(|| damaged("has a class without a name"))?;
                let (module, name) = (module.to_owned(), name.to_owned());
                self.class(&module, &name)?;
            }
            b'Q' => self.storage()?,
            b'R' | 0x81 => self.call()?,
            // The state of an ordered dictionary is PyTorch's `_metadata`: version numbers, of no use here.
            b'b' => drop(self.pop()?),
            0x82..=0x84 => return Err(PickleFault::Class("a class from the copyreg extension table".into())),
            _ => {
                let place = self.input.place().saturating_sub(1);
                let why = format!("has the pickle instruction {op:#04x} at byte {place}, which tensors do not need");
                return Err(damaged(why + ": it is damaged or holds something else"));
            }
        }
        Ok(None)
    }

    fn pop(&mut self) -> Result<Value, PickleFault> {
        self.stack.pop().ok_or_else(empty)
    }

    fn push(&mut self, node: Node) {
        self.stack.push(Value::Node(self.arena.len()));
        self.arena.push(node);
    }

    /// Takes everything above the last mark off the stack, and the mark.
    fn since_mark(&mut self) -> Result<Vec<Value>, PickleFault> {
        let mark = self.stack.iter().rposition(|v| *v == Value::Mark).ok_or_else(empty)?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    /// Strings, byte strings and long integers, which differ in how long their length is.
    fn string(&mut self, op: u8) -> Result<(), PickleFault> {
        let len = match op {
            0x8a | b'U' | b'C' | 0x8c => self.input.byte()?.into(),
            0x8d | 0x8e => u64::from_le_bytes(self.input.array()?),
            _ => u32::from_le_bytes(self.input.array()?).into(),
        };
        let bytes = self.input.take(len)?;
        match op {
            0x8a | 0x8b if bytes.len() <= 8 => {
                // Two's complement: the sign fills up.
                let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
                let mut wide = [fill; 8];
                wide[..bytes.len()].copy_from_slice(&bytes);
                self.stack.push(Value::Int(i64::from_le_bytes(wide)));
            }
            0x8a | 0x8b | b'C' | b'B' | 0x8e => self.push(Node::Bytes(bytes)),
            _ => {
                let text = String::from_utf8(bytes).map_err(|_| damaged("has a string that is no text"))?;
                self.push(Node::Text(text));
            }
        }
        Ok(())
    }

    fn remember(&mut self, at: u32) -> Result<(), PickleFault> {
        let top = *self.stack.last().ok_or_else(empty)?;
        self.memo.insert(at, top);
        Ok(())
    }

    fn recall(&mut self, at: u32) -> Result<(), PickleFault> {
        let value = self.memo.get(&at).ok_or_else(|| damaged("has a pickle that refers to nothing"))?;
        self.stack.push(*value);
        Ok(())
    }

    fn append(&mut self, items: &[Value]) -> Result<(), PickleFault> {
        match self.top_node() {
            Some(Node::List(list)) => list.extend_from_slice(items),
            _ => return Err(damaged("appends to something that is no list")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Value]) -> Result<(), PickleFault> {
        let pairs = pairs(items)?;
        match self.top_node() {
            Some(Node::Dict(dict)) => dict.extend(pairs),
            _ => return Err(damaged("sets an entry of something that is no dictionary")),
        }
        Ok(())
    }

    fn top_node(&mut self) -> Option<&mut Node> {
        if let Some(Value::Node(at)) = self.stack.last() { self.arena.get_mut(*at) } else { None }
    }

    fn class(&mut self, module: &str, name: &str) -> Result<(), PickleFault> {
        let class = Class::find(module, name).ok_or_else(|| PickleFault::Class(shown(&format!("{module}.{name}"))))?;
        self.push(Node::Class(class));
        Ok(())
    }

    /// `("storage", class, key, location, length)`, in old files with a view as sixth.
    fn storage(&mut self) -> Result<(), PickleFault> {
        let id = self.pop()?;
        let found = (|| {
            let Node::Tuple(id) = node(&self.arena, id)? else { return None };
            let [kind, class, key, _location, len, view @ ..] = id.as_slice() else { return None };
            let Node::Class(Class::Storage(element)) = *node(&self.arena, *class)? else { return None };
            let (mut first, mut len) = (0, whole(*len)?);
            if let [view] = view
                && let Some(Node::Tuple(view)) = node(&self.arena, *view)
            {
                let [_key, offset, view_len] = view.as_slice() else { return None };
                first = whole(*offset)?;
                // The view must lie in its storage.
                len = Some(whole(*view_len)?).filter(|n| first.checked_add(*n).is_some_and(|end| end <= len))?;
            }
            let key = text(&self.arena, *key)?.to_owned();
            // Keys are short numbers; each use copies its key.
            let usable = text(&self.arena, *kind)? == "storage" && key.len() <= MAX_NAME;
            usable.then_some(Storage { key, element, len, first })
        })();
        self.push(Node::Storage(found.ok_or_else(|| damaged("refers to something that is no tensor storage"))?));
        Ok(())
    }

    /// Makes what the classes of the list make.
    fn call(&mut self) -> Result<(), PickleFault> {
        let (arguments, class) = (self.pop()?, self.pop()?);
        let (Some(Node::Tuple(arguments)), Some(Node::Class(class))) =
            (node(&self.arena, arguments), node(&self.arena, class))
        else {
            return Err(damaged("calls something that is no class"));
        };
        let made = match (class, arguments.as_slice()) {
            (Class::OrderedDict, []) => Node::Dict(Vec::new()),
            (Class::OrderedDict, [items]) => {
                let items = self.entries(*items)?;
                Node::Dict(items)
            }
            // A parameter is its tensor, a size its tuple: nothing new is made.
            (Class::Parameter, [value, ..]) | (Class::Size, [value]) => {
                let value = *value;
                self.stack.push(value);
                return Ok(());
            }
            (Class::Tensor, [storage, offset, shape, strides, ..]) => {
                let tensor = tensor(&self.arena, *storage, *offset, *shape, *strides);
                Node::Tensor(tensor.ok_or_else(|| damaged("has a tensor without a proper storage, shape or strides"))?)
            }
            _ => return Err(damaged(format!("makes a {class:?} in a way that PyTorch does not"))),
        };
        self.push(made);
        Ok(())
    }

    /// The entries of `OrderedDict([(key, value), …])`.
    fn entries(&mut self, items: Value) -> Result<Vec<(Value, Value)>, PickleFault> {
        let refused = || damaged("has an ordered dictionary of something that is no pairs");
        let Some(Node::List(items)) = node(&self.arena, items) else { return Err(refused()) };
        // A list can be used again and again: what is copied has a limit of its own.
        self.copies = self.copies.saturating_add(items.len());
        if self.copies > MAX_COPIES {
            return Err(damaged("has a pickle that copies itself, which no checkpoint needs"));
        }
        let pair = |item: &Value| match node(&self.arena, *item) {
            Some(Node::Tuple(pair) | Node::List(pair)) if pair.len() == 2 => Some((pair[0], pair[1])),
            _ => None,
        };
        items.iter().map(|item| pair(item).ok_or_else(refused)).collect()
    }
}

fn empty() -> PickleFault {
    damaged("has a pickle that takes more than it has put down")
}

fn pairs(items: &[Value]) -> Result<Vec<(Value, Value)>, PickleFault> {
    let (pairs, []) = items.as_chunks() else { return Err(damaged("has a dictionary with a key without a value")) };
    Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
}

fn whole(value: Value) -> Option<u64> {
    if let Value::Int(n) = value { u64::try_from(n).ok() } else { None }
}

fn tensor(arena: &[Node], storage: Value, offset: Value, shape: Value, strides: Value) -> Option<Tensor> {
    let numbers = |value| {
        let (Node::Tuple(items) | Node::List(items)) = node(arena, value)? else { return None };
        if items.len() > MAX_DIMS { None } else { items.iter().map(|item| whole(*item)).collect::<Option<Vec<u64>>>() }
    };
    let Node::Storage(storage) = node(arena, storage)? else { return None };
    let shape: Option<Vec<usize>> = numbers(shape)?.into_iter().map(|n| usize::try_from(n).ok()).collect();
    Some(Tensor { storage: storage.clone(), offset: whole(offset)?, shape: shape?, strides: numbers(strides)? })
}

#[cfg(test)]
mod tests;
