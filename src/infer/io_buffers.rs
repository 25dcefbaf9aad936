//! What a run needs besides its pictures, made once for each batch shape: options, a tensor for the answer, the scratch of
//! models in 16 bits, and memory that a GPU reads without a copy in between. Also the way to end a run from another thread.
//!
//! On the thread of the encoder it belongs to, but for [`Halt`], which any thread may hold. Shapes are few (see
//! [`super::buckets`]); where they are not, [`SHAPES`] are kept.
//!
//! Why this and not ONNX Runtime's I/O binding: through the bindings, an input that lies in our own memory is copied before it is
//! bound. A run that is given a view of the batch itself copies nothing on a CPU, and once, to the device, on a GPU.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use half::f16;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{RunOptions, Session};
use ort::value::{DynValue, Tensor, TensorElementType};
use parking_lot::{Mutex, MutexGuard};

use super::{Provider, Stop};
use crate::batching::tensor::HostMemory;

/// Shapes that are remembered at once; beyond, all are made anew.
const SHAPES: usize = 16;

/// Of ONNX Runtime's run options (`kOrtRunOptionsConfigEnableMemoryArenaShrinkage`), and whose arena.
const SHRINK: (&str, &str) = ("memory.enable_memory_arena_shrinkage", "cpu:0");

/// The output that is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Floats of a picture, once they are known.
    pub dim: usize,
    pub element: Option<TensorElementType>,
}

/// What runs of one shape have.
struct Shape {
    rows: usize,
    options: Arc<RunOptions>,
    /// Between two runs; without one the runtime makes it.
    answer: Option<DynValue>,
}

/// Options and answers by the pictures in a run.
pub struct Shapes {
    output: Output,
    known: Vec<Shape>,
    halt: Arc<Halt>,
    pinned: Option<Allocator>,
    /// Pictures in 16 bits on their way to the runtime, the largest run so far.
    halves: Option<Tensor<f16>>,
    /// Whether the next run ends with an empty arena.
    shrinks: bool,
}

impl Shapes {
    pub fn new(session: &Session, provider: Provider, device: u32, output: Output) -> Self {
        Self {
            output,
            known: Vec::new(),
            halt: Arc::default(),
            pinned: pinned(session, provider, device),
            halves: None,
            shrinks: false,
        }
    }

    /// What ends a run that goes on.
    pub fn halt(&self) -> &Arc<Halt> {
        &self.halt
    }

    /// The same for another encoder over the same session, with runs of its own.
    pub fn beside(&self, session: &Session, provider: Provider, device: u32) -> Self {
        Self::new(session, provider, device, self.output)
    }

    /// Says how long an answer is, once a run has told it.
    pub fn set_dim(&mut self, dim: usize) {
        self.output.dim = dim;
        self.forget();
    }

    /// After the next run, which nobody can end, the CPU's arena gives back to the system what no run holds.
    pub fn shrink_after_next(&mut self) {
        self.shrinks = true;
    }

    fn forget(&mut self) {
        self.known.clear();
        self.halt.options().clear();
    }

    /// Options for a run of `rows` pictures, and the tensor for its answer, which is to come back with [`Self::keep`].
    ///
    /// # Errors
    /// What ONNX Runtime says, most likely that there is no memory.
    pub fn take(&mut self, rows: usize) -> Result<(Arc<RunOptions>, Option<DynValue>), ort::Error> {
        let known = self.known.iter().position(|shape| shape.rows == rows);
        let at = match known {
            Some(at) => at,
            None => self.add(rows)?,
        };
        let shape = &mut self.known[at];
        let kept = match shape.answer.take() {
            None => answer(self.pinned.as_ref(), &self.output, rows)?,
            kept => kept,
        };
        let options = if std::mem::take(&mut self.shrinks) {
            let mut shrinking = RunOptions::new()?;
            shrinking.set(SHRINK.0, SHRINK.1)?;
            Arc::new(shrinking)
        } else {
            Arc::clone(&shape.options)
        };
        Ok((options, kept))
    }

    /// Remembers another shape, and says where.
    fn add(&mut self, rows: usize) -> Result<usize, ort::Error> {
        if self.known.len() >= SHAPES {
            self.forget();
        }
        let options = Arc::new(RunOptions::new()?);
        self.halt.options().push(Arc::clone(&options));
        self.known.push(Shape { rows, options, answer: None });
        Ok(self.known.len() - 1)
    }

    /// Takes an answer's tensor back for the next run of as many pictures.
    pub fn keep(&mut self, rows: usize, answer: DynValue) {
        if let Some(shape) = self.known.iter_mut().find(|shape| shape.rows == rows && self.output.dim > 0) {
            shape.answer = Some(answer);
        }
    }

    /// Room for `len` numbers of 16 bits, pinned where that is of use.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn halves(&mut self, len: usize) -> Result<&mut [f16], ort::Error> {
        if self.halves.as_ref().is_none_or(|made| made.shape().num_elements() < len) {
            let heap = Allocator::default();
            self.halves = Some(Tensor::<f16>::new(self.pinned.as_ref().unwrap_or(&heap), [len])?);
        }
        match &mut self.halves {
            Some(made) => Ok(&mut made.try_extract_tensor_mut::<f16>()?.1[..len]),
            None => Ok(&mut []),
        }
    }

    /// Pinned memory for `floats` floats, all zero; `None` where there is none, or none is of use.
    pub fn memory(&self, floats: usize) -> Option<Box<dyn HostMemory>> {
        let made = Pinned::new(self.pinned.as_ref()?, floats);
        match made {
            Ok(pinned) => Some(Box::new(pinned)),
            Err(error) => {
                tracing::warn!(%error, floats, "no pinned memory, batches are copied once more on their way to the gpu");
                None
            }
        }
    }
}

/// A tensor for the answer to `rows` pictures, once it is known how long it is.
fn answer(pinned: Option<&Allocator>, output: &Output, rows: usize) -> Result<Option<DynValue>, ort::Error> {
    let heap = Allocator::default();
    let (allocator, shape) = (pinned.unwrap_or(&heap), [rows, output.dim]);
    Ok(match output.element {
        _ if output.dim == 0 => None,
        Some(TensorElementType::Float32) => Some(Tensor::<f32>::new(allocator, shape)?.into_dyn()),
        Some(TensorElementType::Float16) => Some(Tensor::<f16>::new(allocator, shape)?.into_dyn()),
        _ => None,
    })
}

/// An allocator of pinned memory, which a GPU reads directly.
fn pinned(session: &Session, provider: Provider, device: u32) -> Option<Allocator> {
    if !matches!(provider, Provider::Cuda | Provider::Tensorrt) {
        return None;
    }
    // Which GPU's it is called depends on the version of ONNX Runtime; any of them reads all of it.
    let device = i32::try_from(device).unwrap_or_default();
    let found = [device, 0].into_iter().find_map(|device| {
        let info = MemoryInfo::new(AllocationDevice::CUDA_PINNED, device, AllocatorType::Device, MemoryType::CPUOutput)
            .ok()?;
        Allocator::new(session, info).ok()
    });
    if found.is_none() {
        tracing::debug!(provider = provider.as_str(), "no allocator of pinned memory");
    }
    found
}

/// A tensor of ONNX Runtime's as a batch's memory.
struct Pinned {
    floats: NonNull<[f32]>,
    /// Frees them.
    _tensor: Tensor<f32>,
}

// SAFETY: the pointer is to memory of the tensor beside it, which may be dropped on any thread.
unsafe impl Send for Pinned {}
// SAFETY: nothing reaches the floats through a shared `Pinned` but by `floats`, whose caller has them to himself.
unsafe impl Sync for Pinned {}

// SAFETY: a tensor does not move its memory and nothing else holds this one; `new` has initialised it.
unsafe impl HostMemory for Pinned {
    fn floats(&self) -> NonNull<[f32]> {
        self.floats
    }
}

impl Pinned {
    fn new(allocator: &Allocator, floats: usize) -> Result<Self, ort::Error> {
        let mut tensor = Tensor::<f32>::new(allocator, [floats.max(1)])?;
        let (_, memory) = tensor.try_extract_tensor_mut::<f32>()?;
        memory.fill(0.0);
        let floats = NonNull::from(memory);
        Ok(Self { floats, _tensor: tensor })
    }
}

/// Ends runs. Made for one encoder, held by whoever watches it.
#[derive(Default)]
pub struct Halt {
    options: Mutex<Vec<Arc<RunOptions>>>,
    asked: AtomicBool,
}

impl Halt {
    fn options(&self) -> MutexGuard<'_, Vec<Arc<RunOptions>>> {
        self.options.lock()
    }

    /// Forgets that the last run was to end: the next one may go on.
    pub fn rearm(&self) {
        if self.asked.swap(false, Ordering::AcqRel) {
            for options in self.options().iter() {
                // It cannot fail; a run that ended at once would tell.
                let _ = options.unterminate();
            }
        }
    }
}

impl Stop for Halt {
    fn stop(&self) {
        self.asked.store(true, Ordering::Release);
        for options in self.options().iter() {
            if let Err(error) = options.terminate() {
                tracing::warn!(%error, "the run cannot be told to end");
            }
        }
    }
}

impl fmt::Debug for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Halt({} shapes)", self.options().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batching::tensor::BatchBuffer;
    use crate::infer::runtime;

    #[test]
    fn a_tensor_of_the_runtime_is_a_batchs_memory() {
        // What pinned memory is made of, with the allocator that every machine has.
        let Ok(_runtime) = runtime::load(None) else { panic!("run `make setup` first") };
        let pinned = Pinned::new(&Allocator::default(), 7).unwrap();
        let mut buffer = BatchBuffer::within(Box::new(pinned), 3);
        assert_eq!(buffer.capacity(), 2);
        let mut place = buffer.claim().unwrap();
        assert_eq!(*place, [0.0; 3]);
        place.fill(1.5);
        drop(place);
        assert_eq!(buffer.as_padded_slice(1, 2).unwrap(), [1.5, 1.5, 1.5, 0.0, 0.0, 0.0]);
    }
}
