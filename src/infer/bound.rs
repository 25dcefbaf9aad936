//! What a run needs besides its pictures, made once for each batch shape: options with a tensor for the answer, the scratch of
//! models in 16 bits, and memory that a GPU reads without a copy in between. Also the way to end a run from another thread.
//!
//! On the thread of the encoder it belongs to, but for [`Halt`], which any thread may hold. Shapes are few (see
//! [`super::buckets`]); where they are not, [`SHAPES`] are kept.
//!
//! Why this and not ONNX Runtime's I/O binding: through the bindings, an input that lies in our own memory is copied before it is
//! bound. A run that is given a view of the batch itself copies nothing on a CPU, and once, to the device, on a GPU.

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use half::f16;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session};
use ort::value::{Tensor, TensorElementType};

use super::{Provider, Stop};
use crate::tensor::HostMemory;

/// Shapes that are remembered at once; beyond, all are made anew.
const SHAPES: usize = 16;

/// Options of runs of one shape.
pub struct Options(RunOptions<HasSelectedOutputs>);

// SAFETY: `RunOptions` is not `Sync` because runs on two threads at once would write the same preallocated answer. Here runs happen on
// the encoder's thread alone. What other threads call, through `Halt`, is `terminate` and `unterminate`: they set one flag, which
// ONNX Runtime reads between two nodes and which is meant to be set while a run goes on.
unsafe impl Sync for Options {}

impl Options {
    pub fn get(&self) -> &RunOptions<HasSelectedOutputs> {
        &self.0
    }
}

/// The output that is wanted.
#[derive(Clone, Debug)]
pub struct Output {
    pub name: String,
    /// Floats of a picture, once they are known.
    pub dim: usize,
    pub element: Option<TensorElementType>,
}

/// Options by the pictures in a run.
pub struct Shapes {
    output: Output,
    known: Vec<(usize, Arc<Options>)>,
    halt: Arc<Halt>,
    pinned: Option<Allocator>,
    /// Pictures in 16 bits on their way to the runtime, the largest run so far.
    halves: Option<Tensor<f16>>,
}

impl Shapes {
    pub fn new(session: &Session, provider: Provider, device: u32, output: Output) -> Self {
        Self {
            output,
            known: Vec::new(),
            halt: Arc::default(),
            pinned: pinned(session, provider, device),
            halves: None,
        }
    }

    /// What ends a run that goes on.
    pub fn halt(&self) -> &Arc<Halt> {
        &self.halt
    }

    /// Says how long an answer is, once a run has told it.
    pub fn set_dim(&mut self, dim: usize) {
        self.output.dim = dim;
        self.forget();
    }

    fn forget(&mut self) {
        self.known.clear();
        self.halt.options().clear();
    }

    /// Options for a run of `rows` pictures.
    ///
    /// # Errors
    /// What ONNX Runtime says, most likely that there is no memory.
    pub fn options(&mut self, rows: usize) -> Result<Arc<Options>, ort::Error> {
        if let Some((_, options)) = self.known.iter().find(|(known, _)| *known == rows) {
            return Ok(Arc::clone(options));
        }
        if self.known.len() >= SHAPES {
            self.forget();
        }
        let name = self.output.name.as_str();
        let mut selector = OutputSelector::no_default().with(name);
        let shape = [rows, self.output.dim];
        let heap = Allocator::default();
        let allocator = self.pinned.as_ref().unwrap_or(&heap);
        match self.output.element {
            Some(TensorElementType::Float32) if self.output.dim > 0 => {
                selector = selector.preallocate(name, Tensor::<f32>::new(allocator, shape)?);
            }
            Some(TensorElementType::Float16) if self.output.dim > 0 => {
                selector = selector.preallocate(name, Tensor::<f16>::new(allocator, shape)?);
            }
            _ => {}
        }
        let options = Arc::new(Options(RunOptions::new()?.with_outputs(selector)));
        self.halt.options().push(Arc::clone(&options));
        self.known.push((rows, Arc::clone(&options)));
        Ok(options)
    }

    /// Room for `len` numbers of 16 bits, pinned where that is of use.
    ///
    /// # Errors
    /// As [`Self::options`].
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
    options: Mutex<Vec<Arc<Options>>>,
    asked: AtomicBool,
}

impl Halt {
    fn options(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Options>>> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets that the last run was to end: the next one may go on.
    pub fn rearm(&self) {
        if self.asked.swap(false, Ordering::AcqRel) {
            for options in self.options().iter() {
                // It cannot fail; a run that ended at once would tell.
                let _ = options.get().unterminate();
            }
        }
    }
}

impl Stop for Halt {
    fn stop(&self) {
        self.asked.store(true, Ordering::Release);
        for options in self.options().iter() {
            if let Err(error) = options.get().terminate() {
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
    use crate::infer::runtime;
    use crate::tensor::BatchBuffer;

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
