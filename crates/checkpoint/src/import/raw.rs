//! Tensors as they lie in the checkpoint's files, whatever the format. In: where each one's elements are; out: f32 values,
//! row-major. Every place is checked against its file before anything is allocated; a tensor of more than [`MAX_ELEMENTS`]
//! is refused.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};

use super::bytes::{Bytes, shown};
use super::{Dtype, ImportError, zip};

/// Largest tensor that is read: 4 GiB as f32. The token embedding of SigLIP2 g-opt, the largest known, has 0.4 billion.
pub(super) const MAX_ELEMENTS: u64 = 1 << 30;

/// Bytes converted at a time.
const CHUNK: usize = 1 << 20;

/// Element type as stored. Only those with a [`Dtype`] can be read; the others belong to tensors that nobody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    /// One byte of any meaning.
    Byte,
    Unknown,
}

impl Element {
    /// Bytes of one element, 0 where it is not known.
    pub(super) fn size(self) -> u64 {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::Byte => 1,
            Self::Unknown => 0,
        }
    }

    /// The type for the graphs' side of the seam.
    pub(super) fn dtype(self) -> Option<Dtype> {
        match self {
            Self::F32 => Some(Dtype::F32),
            Self::F16 => Some(Dtype::F16),
            Self::Bf16 => Some(Dtype::Bf16),
            Self::I64 => Some(Dtype::I64),
            Self::F64 | Self::I32 | Self::I16 | Self::Byte | Self::Unknown => None,
        }
    }
}

/// Where one tensor lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawTensor {
    /// Index into [`RawStore::parts`].
    pub(super) part: usize,
    pub(super) element: Element,
    pub(super) shape: Vec<usize>,
    /// First byte of the storage in its file.
    pub(super) at: u64,
    /// Elements in the storage.
    pub(super) storage: u64,
    /// The tensor's first element in the storage.
    pub(super) offset: u64,
    /// In elements; `None` for row-major.
    pub(super) strides: Option<Vec<u64>>,
}

/// One file of a checkpoint.
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) bytes: Box<dyn Bytes>,
}

/// All tensors of a checkpoint under the names of its files.
#[derive(Default)]
pub(super) struct RawStore {
    pub(super) parts: Vec<Part>,
    pub(super) tensors: BTreeMap<String, RawTensor>,
}

impl RawTensor {
    /// Elements, if the shape does not overflow.
    fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1_u64, |n, dim| n.checked_mul(*dim as u64))
    }

    /// Elements between the first and the last that is used, both counted; 0 for an empty tensor.
    fn span(&self) -> Option<u64> {
        let elements = self.elements()?;
        let Some(strides) = &self.strides else { return Some(elements) };
        if elements == 0 {
            return Some(0);
        }
        self.shape
            .iter()
            .zip(strides)
            .try_fold(1_u64, |span, (dim, stride)| span.checked_add((*dim as u64 - 1).checked_mul(*stride)?))
    }

    /// Whether the elements lie one after the other in row-major order.
    fn is_contiguous(&self) -> bool {
        let Some(strides) = &self.strides else { return true };
        let mut expected = 1_u64;
        for (dim, stride) in self.shape.iter().zip(strides).rev() {
            if *dim != 1 && *stride != expected {
                return false;
            }
            expected = expected.saturating_mul(*dim as u64);
        }
        true
    }

    /// Checks everything that reading relies on: the number of elements, and that they lie in the storage and in the file.
    fn check(&self, file_len: u64) -> Result<u64, String> {
        let refused = |why: &str| Err(format!("has the shape {:?}, {why}", self.shape));
        let Some(elements) = self.elements().filter(|n| *n <= MAX_ELEMENTS) else {
            return refused("which is more than can be read");
        };
        if self.strides.as_ref().is_some_and(|s| s.len() != self.shape.len()) {
            return refused("and another number of strides");
        }
        let inside = |span: u64| self.offset.checked_add(span).is_some_and(|end| end <= self.storage);
        // A tensor that repeats its elements by a stride of 0 could name any size.
        if elements > self.storage || !self.span().is_some_and(inside) {
            return refused("which reaches beyond its storage");
        }
        let end = self.storage.checked_mul(self.element.size()).and_then(|len| len.checked_add(self.at));
        if end.is_none_or(|end| end > file_len) {
            return refused("which reaches beyond the end of the file: the file is cut or damaged");
        }
        Ok(elements)
    }
}

impl RawStore {
    /// The file a tensor lies in.
    pub(super) fn file(&self, tensor: &RawTensor) -> &Path {
        self.parts.get(tensor.part).map_or(Path::new(""), |part| &part.path)
    }

    /// Compares PyTorch's zip archives with their checksums. Safetensors have none.
    ///
    /// # Errors
    /// [`ImportError::Damaged`] naming the record; what `advance` gives.
    pub(super) fn verify(&self, advance: &mut dyn FnMut() -> Result<(), ImportError>) -> Result<(), ImportError> {
        for part in &self.parts {
            let mut head = [0; 2];
            if part.bytes.len() < 2 || part.bytes.read_at(0, &mut head).is_err() || &head != b"PK" {
                continue;
            }
            zip::verify(part.bytes.as_ref(), || advance().map_err(Stop::Asked)).map_err(|stop| match stop {
                Stop::Asked(error) => error,
                Stop::Damaged(message) => ImportError::Damaged { file: part.path.clone(), message },
            })?;
        }
        Ok(())
    }

    /// Whether [`Self::read`] would find the tensor in order, without reading it.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn check(&self, name: &str) -> Result<(), ImportError> {
        self.find(name).map(|_| ())
    }

    /// The tensor as f32, row-major; with `rows`, only those of its first dimension.
    ///
    /// # Errors
    /// No such tensor, a type that is not served, a place outside the file, a file that cannot be read.
    pub(super) fn read(&self, name: &str, rows: Option<Range<usize>>) -> Result<Vec<f32>, ImportError> {
        let (part, tensor, elements) = self.find(name)?;
        let wanted = match rows {
            None => 0..elements,
            Some(rows) => {
                let count = tensor.shape.first().copied().unwrap_or(0);
                if rows.start > rows.end || rows.end > count {
                    return Err(damaged(part, name, &format!("has {count} rows, not {}", rows.end)));
                }
                let row = elements / (count as u64).max(1);
                row * rows.start as u64..row * rows.end as u64
            }
        };
        let failed = |source| ImportError::Io { file: part.path.clone(), source };
        if tensor.is_contiguous() {
            return floats(part, tensor, tensor.offset + wanted.start, wanted.end - wanted.start).map_err(failed);
        }
        let span = tensor.span().filter(|n| *n <= MAX_ELEMENTS).unwrap_or(0);
        let flat = floats(part, tensor, tensor.offset, span).map_err(failed)?;
        let values = gather(&flat, tensor).ok_or_else(|| damaged(part, name, "has strides beyond its storage"))?;
        Ok(values.get(wanted.start as usize..wanted.end as usize).unwrap_or_default().to_vec())
    }

    fn find(&self, name: &str) -> Result<(&Part, &RawTensor, u64), ImportError> {
        let found = self.tensors.get(name).and_then(|t| Some((self.parts.get(t.part)?, t)));
        let Some((part, tensor)) = found else {
            let file = self.parts.first().map(|part| part.path.clone()).unwrap_or_default();
            return Err(ImportError::Mismatch { file, problems: vec![format!("`{}` is missing", shown(name))] });
        };
        if tensor.element.dtype().is_none() {
            return Err(ImportError::Unsupported {
                file: part.path.clone(),
                what: format!("the tensor `{}` of type {:?}", shown(name), tensor.element),
                remedy: "convert the checkpoint to float32, float16 or bfloat16".into(),
            });
        }
        let elements = tensor.check(part.bytes.len()).map_err(|why| damaged(part, name, &why))?;
        Ok((part, tensor, elements))
    }
}

/// Why checking ends early.
enum Stop {
    Asked(ImportError),
    Damaged(String),
}

impl From<String> for Stop {
    fn from(message: String) -> Self {
        Self::Damaged(message)
    }
}

fn damaged(part: &Part, name: &str, why: &str) -> ImportError {
    ImportError::Damaged { file: part.path.clone(), message: format!("the tensor `{}` {why}", shown(name)) }
}

/// `count` elements from element `first` of the storage on. The caller has checked that they are in the file.
fn floats(part: &Part, tensor: &RawTensor, first: u64, count: u64) -> io::Result<Vec<f32>> {
    let size = tensor.element.size() as usize;
    let mut values = Vec::new();
    values.try_reserve_exact(count as usize).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let mut at = tensor.at + first * size as u64;
    let mut left = count as usize;
    let mut buffer = vec![0; CHUNK.min(left * size)];
    while left > 0 {
        let now = left.min(CHUNK / size);
        let bytes = &mut buffer[..now * size];
        part.bytes.read_at(at, bytes)?;
        convert(tensor.element, bytes, &mut values);
        at += bytes.len() as u64;
        left -= now;
    }
    Ok(values)
}

/// Appends little-endian elements as f32. Integers above 2^24 lose digits; no model has such a parameter.
fn convert(element: Element, bytes: &[u8], values: &mut Vec<f32>) {
    match element {
        Element::F32 => values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
        Element::F16 => values.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
        Element::Bf16 => values.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
        Element::I64 => values.extend(bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f32)),
        // `find` has refused the rest.
        Element::F64 | Element::I32 | Element::I16 | Element::Byte | Element::Unknown => {}
    }
}

/// Row-major values of a tensor with strides, whose storage from its first element on is `flat`.
fn gather(flat: &[f32], tensor: &RawTensor) -> Option<Vec<f32>> {
    let strides = tensor.strides.as_deref()?;
    let mut values = Vec::with_capacity(tensor.elements()? as usize);
    let mut index = vec![0_usize; tensor.shape.len()];
    let mut at = 0_u64;
    for _ in 0..tensor.elements()? {
        values.push(*flat.get(at as usize)?);
        // Count up like an odometer, the last dimension fastest.
        for axis in (0..index.len()).rev() {
            // Wrapping: the stride of a dimension of 1 is any number, and is taken away again at once.
            index[axis] += 1;
            at = at.wrapping_add(strides[axis]);
            if index[axis] < tensor.shape[axis] {
                break;
            }
            at = at.wrapping_sub(strides[axis].wrapping_mul(tensor.shape[axis] as u64));
            index[axis] = 0;
        }
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store of one tensor `t` over the f32 numbers 0, 1, … `storage`.
    fn store(shape: &[usize], strides: Option<&[u64]>, storage: u64, offset: u64) -> RawStore {
        let bytes: Vec<u8> = (0..storage).flat_map(|n| (n as f32).to_le_bytes()).collect();
        let tensor = RawTensor {
            part: 0,
            element: Element::F32,
            shape: shape.to_vec(),
            at: 0,
            storage,
            offset,
            strides: strides.map(<[u64]>::to_vec),
        };
        let part = Part { path: "m".into(), bytes: Box::new(bytes) };
        RawStore { parts: vec![part], tensors: [("t".to_owned(), tensor)].into() }
    }

    #[test]
    fn strides_and_offsets_are_honoured() {
        let transposed = store(&[3, 2], Some(&[1, 3]), 7, 1);
        assert_eq!(transposed.read("t", None).unwrap(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(transposed.read("t", Some(1..3)).unwrap(), [2.0, 5.0, 3.0, 6.0]);
        let plain = store(&[3, 2], Some(&[2, 1]), 8, 2);
        assert_eq!(plain.read("t", Some(2..3)).unwrap(), [6.0, 7.0]);
        assert_eq!(store(&[2, 1, 2], Some(&[1, u64::MAX, 2]), 4, 0).read("t", None).unwrap(), [0.0, 2.0, 1.0, 3.0]);
        assert_eq!(store(&[], None, 1, 0).read("t", None).unwrap(), [0.0]);
        assert_eq!(store(&[0, 4], Some(&[4, 1]), 0, 0).read("t", None).unwrap(), [0.0; 0]);
    }

    #[test]
    fn a_tensor_longer_than_the_chunk_is_whole() {
        let long = store(&[600_000], None, 600_000, 0);
        let values = long.read("t", None).unwrap();
        assert!(values.iter().enumerate().all(|(n, v)| n as f32 == *v) && values.len() == 600_000);
    }

    #[test]
    fn places_outside_the_storage_or_the_file_are_refused() {
        for (shape, strides, offset) in [
            (&[9][..], None, 0),
            (&[8], None, 1),
            (&[8], None, u64::MAX),
            (&[2, 2], Some(&[7, 2][..]), 0),
            (&[2, 2], Some(&[u64::MAX, 1]), 0),
            (&[3, 3], Some(&[0, 0]), 0),
            (&[2, 2], Some(&[1]), 0),
            (&[usize::MAX, usize::MAX], None, 0),
            (&[1 << 31], Some(&[0]), 0),
        ] {
            let error = store(shape, strides, 8, offset).read("t", None).unwrap_err();
            assert!(matches!(&error, ImportError::Damaged { .. }), "{shape:?}: {error}");
        }
        let mut short = store(&[8], None, 8, 0);
        short.parts[0].bytes = Box::new(vec![0; 31]);
        assert!(short.read("t", None).unwrap_err().to_string().contains("beyond the end of the file"));
        assert!(store(&[8], None, 8, 0).read("t", Some(2..9)).is_err());
        assert!(store(&[8], None, 8, 0).read("u", None).unwrap_err().to_string().contains("`u` is missing"));
    }

    #[test]
    fn every_type_of_element_is_converted() {
        for (element, bytes, value) in [
            (Element::F32, &1.5_f32.to_le_bytes()[..], 1.5),
            (Element::F16, &f16::from_f32(-0.25).to_le_bytes(), -0.25),
            (Element::Bf16, &bf16::from_f32(3.0).to_le_bytes(), 3.0),
            (Element::I64, &(-7_i64).to_le_bytes(), -7.0),
        ] {
            let mut one = store(&[1], None, 1, 0);
            one.parts[0].bytes = Box::new(bytes.to_vec());
            one.tensors.get_mut("t").unwrap().element = element;
            assert_eq!(one.read("t", None).unwrap(), [value], "{element:?}");
        }
        let mut double = store(&[1], None, 1, 0);
        double.tensors.get_mut("t").unwrap().element = Element::F64;
        assert!(matches!(double.read("t", None), Err(ImportError::Unsupported { .. })));
    }
}
