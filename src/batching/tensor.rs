//! The batch's memory: one contiguous `[capacity, 3, height, width]` float tensor that several threads fill at once.
//!
//! What comes in: [`BatchPlace`]s, one picture each, written by the preprocessing threads. What goes out: the first `count` places as one
//! slice, for the inference thread; nothing is copied in between. Everything here runs on the thread that calls it and never blocks.
//! When full, [`BatchBuffer::claim`] gives `None` until [`BatchBuffer::recycle`]. A place may outlive its buffer; it then keeps the
//! memory alive and is written in vain.
//!
//! The memory is the heap's, or [`HostMemory`] that somebody else made: pinned for a GPU, say.
//!
//! Why this is sound: places are handed out at distinct indices and never twice between two recyclings, so no float is writable from
//! two of them. Reading and recycling go through [`Arc::get_mut`], which succeeds only when no place is left and orders their writes
//! before the read; and both borrow the buffer mutably, so nothing can be claimed while a slice is being read.

use std::cell::UnsafeCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

/// Why the batch's memory cannot be used now, or at all.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TensorError {
    /// Fatal at start-up.
    #[error(
        "no memory for a batch of {capacity} pictures of {place_len} floats; choose a smaller `runtime.batch.max_size` or a model with a smaller input"
    )]
    Memory { capacity: usize, place_len: usize },
    /// Try again when the holders have let go.
    #[error("{places} places of the batch are still being written")]
    Busy { places: usize },
    /// A mistake of the caller.
    #[error("{count} places of the batch were asked for, {claimed} have been claimed")]
    Count { count: usize, claimed: usize },
}

/// Memory for a batch that is not the heap's.
///
/// # Safety
/// `floats` gives the same initialised floats every time, and nobody but the caller reads or writes them as long as `self` lives.
pub unsafe trait HostMemory: Send + Sync {
    fn floats(&self) -> NonNull<[f32]>;
}

/// Floats that one place at a time may write. `UnsafeCell` tells the compiler that a shared `Arc<Cells>` does not mean frozen contents.
enum Cells {
    Heap(Box<[UnsafeCell<f32>]>),
    Lent(Box<dyn HostMemory>),
}

impl Cells {
    fn all(&self) -> &[UnsafeCell<f32>] {
        match self {
            Self::Heap(cells) => cells,
            // SAFETY: `UnsafeCell<f32>` has the layout of `f32`; the floats are initialised and live as long as their owner, which
            // is borrowed here, and nobody else reaches them, as the trait promises.
            Self::Lent(memory) => unsafe { &*(memory.floats().as_ptr() as *const [UnsafeCell<f32>]) },
        }
    }
}

// SAFETY: the cells are reached in two ways only. A `BatchPlace` touches its own disjoint range; `BatchBuffer` touches all of them, but
// only through `Arc::get_mut`, that is while no `BatchPlace` exists. So no cell is ever accessed from two threads at once.
unsafe impl Sync for Cells {}

/// Memory for one batch of pictures.
pub struct BatchBuffer {
    cells: Arc<Cells>,
    capacity: usize,
    place_len: usize,
    claimed: usize,
}

impl BatchBuffer {
    /// Memory for `capacity` pictures of `place_len` floats each (`3 × height × width`), all zero.
    ///
    /// # Errors
    /// [`TensorError::Memory`] when the machine does not have that much.
    pub fn new(capacity: usize, place_len: usize) -> Result<Self, TensorError> {
        let refused = TensorError::Memory { capacity, place_len };
        let Some(length) = capacity.checked_mul(place_len) else { return Err(refused) };
        let mut cells = Vec::new();
        if cells.try_reserve_exact(length).is_err() {
            return Err(refused);
        }
        cells.resize_with(length, || UnsafeCell::new(0.0));
        Ok(Self { cells: Arc::new(Cells::Heap(cells.into_boxed_slice())), capacity, place_len, claimed: 0 })
    }

    /// The same in `memory`, as many pictures as it has room for.
    pub fn within(memory: Box<dyn HostMemory>, place_len: usize) -> Self {
        let capacity = memory.floats().len() / place_len.max(1);
        Self { cells: Arc::new(Cells::Lent(memory)), capacity, place_len, claimed: 0 }
    }

    /// Pictures that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Floats of one picture.
    pub fn place_len(&self) -> usize {
        self.place_len
    }

    /// Places handed out since the last [`recycle`](Self::recycle), returned ones included.
    pub fn claimed(&self) -> usize {
        self.claimed
    }

    /// The next free place, in order from 0; `None` when all have been claimed. It holds what its last user wrote.
    pub fn claim(&mut self) -> Option<BatchPlace> {
        let index = self.claimed;
        (index < self.capacity).then(|| {
            self.claimed += 1;
            BatchPlace { cells: Arc::clone(&self.cells), index, len: self.place_len }
        })
    }

    /// Places that are claimed and not dropped yet. Only a hint: it may be out of date when it is read.
    pub fn outstanding(&self) -> usize {
        Arc::strong_count(&self.cells) - 1
    }

    /// The first `count` pictures as one slice of `count × place_len` floats, once every place has been dropped.
    ///
    /// # Errors
    /// [`TensorError::Busy`] while any place is held; [`TensorError::Count`] for more places than were claimed.
    pub fn as_slice(&mut self, count: usize) -> Result<&[f32], TensorError> {
        self.as_padded_slice(count, count)
    }

    /// As [`as_slice`](Self::as_slice), with further pictures behind them up to `rows` (and the capacity): whatever earlier batches
    /// have left there.
    ///
    /// # Errors
    /// As [`as_slice`](Self::as_slice).
    pub fn as_padded_slice(&mut self, count: usize, rows: usize) -> Result<&[f32], TensorError> {
        if count > self.claimed {
            return Err(TensorError::Count { count, claimed: self.claimed });
        }
        let length = rows.clamp(count, self.capacity) * self.place_len;
        let places = self.outstanding();
        let Some(cells) = Arc::get_mut(&mut self.cells) else { return Err(TensorError::Busy { places }) };
        let cells: *const [UnsafeCell<f32>] = &raw const cells.all()[..length];
        // SAFETY: `UnsafeCell<f32>` has the layout of `f32`. The cells were borrowed mutably, and are for as long as the slice lives:
        // no place exists, and none can be claimed meanwhile. Every float was initialised in `new`.
        Ok(unsafe { &*(cells as *const [f32]) })
    }

    /// Makes all places claimable again.
    ///
    /// # Errors
    /// [`TensorError::Busy`] while any place is held; the buffer is then as before.
    pub fn recycle(&mut self) -> Result<(), TensorError> {
        let places = self.outstanding();
        // `get_mut` rather than the count alone: it orders the last writes of the places before whatever comes next.
        if Arc::get_mut(&mut self.cells).is_none() {
            return Err(TensorError::Busy { places });
        }
        self.claimed = 0;
        Ok(())
    }
}

impl fmt::Debug for BatchBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BatchBuffer({} of {} places of {} floats)", self.claimed, self.capacity, self.place_len)
    }
}

/// The right to write one picture of a batch. Dropping it says that the picture is there (or given up).
pub struct BatchPlace {
    cells: Arc<Cells>,
    index: usize,
    len: usize,
}

impl BatchPlace {
    /// Row of the batch.
    pub fn index(&self) -> usize {
        self.index
    }

    fn cells(&self) -> &[UnsafeCell<f32>] {
        &self.cells.all()[self.index * self.len..][..self.len]
    }
}

impl Deref for BatchPlace {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let cells: *const [UnsafeCell<f32>] = self.cells();
        // SAFETY: same layout and initialised, as in `as_slice`. Only this place reaches these cells while it lives, and it is
        // borrowed here, so nobody writes them.
        unsafe { &*(cells as *const [f32]) }
    }
}

impl DerefMut for BatchPlace {
    fn deref_mut(&mut self) -> &mut [f32] {
        let cells = self.cells();
        let (start, length) = (UnsafeCell::raw_get(cells.as_ptr()), cells.len());
        // SAFETY: `length` initialised floats start here (`UnsafeCell<f32>` has the layout of `f32`), behind `UnsafeCell`, so
        // writing through a shared path is allowed. Only this place reaches them, and it is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(start, length) }
    }
}

impl fmt::Debug for BatchPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({})", self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_threads_write_at_once_is_read_as_one_slice_in_order() {
        let mut buffer = BatchBuffer::new(8, 1000).unwrap();
        for round in 0..20 {
            std::thread::scope(|scope| {
                while let Some(mut place) = buffer.claim() {
                    scope.spawn(move || {
                        let value = (round * 100 + place.index()) as f32;
                        for float in place.iter_mut() {
                            *float = value;
                        }
                    });
                }
            });
            let slice = buffer.as_slice(8).unwrap();
            for (index, picture) in slice.chunks(1000).enumerate() {
                assert!(
                    picture.iter().all(|&float| float == (round * 100 + index) as f32),
                    "round {round} place {index}"
                );
            }
            buffer.recycle().unwrap();
        }
    }

    #[test]
    fn a_place_still_held_keeps_the_batch_from_being_read_or_recycled() {
        let mut buffer = BatchBuffer::new(2, 3).unwrap();
        let first = buffer.claim().unwrap();
        let second = buffer.claim().unwrap();
        drop(first);
        assert_eq!(buffer.as_slice(1), Err(TensorError::Busy { places: 1 }));
        assert_eq!(buffer.recycle(), Err(TensorError::Busy { places: 1 }));
        assert_eq!(buffer.claimed(), 2);
        drop(second);
        assert_eq!(buffer.as_slice(2).unwrap().len(), 6);
        assert_eq!(buffer.recycle(), Ok(()));
        assert_eq!(buffer.claim().unwrap().index(), 0);
    }

    #[test]
    fn a_full_batch_gives_no_place() {
        let mut buffer = BatchBuffer::new(1, 4).unwrap();
        let _place = buffer.claim().unwrap();
        assert!(buffer.claim().is_none());
    }

    #[test]
    fn only_claimed_places_can_be_read() {
        let mut buffer = BatchBuffer::new(3, 4).unwrap();
        drop(buffer.claim());
        assert_eq!(buffer.as_slice(2), Err(TensorError::Count { count: 2, claimed: 1 }));
        assert_eq!(buffer.as_slice(0).unwrap(), &[] as &[f32]);
    }

    #[test]
    fn padding_is_what_earlier_batches_left_and_ends_with_the_buffer() {
        let mut buffer = BatchBuffer::new(3, 1).unwrap();
        for value in [1.0, 2.0, 3.0] {
            buffer.claim().unwrap()[0] = value;
        }
        buffer.recycle().unwrap();
        buffer.claim().unwrap()[0] = 7.0;
        assert_eq!(buffer.as_padded_slice(1, 2).unwrap(), [7.0, 2.0]);
        assert_eq!(buffer.as_padded_slice(1, 8).unwrap(), [7.0, 2.0, 3.0]);
        assert_eq!(buffer.as_padded_slice(2, 3), Err(TensorError::Count { count: 2, claimed: 1 }));
    }

    #[test]
    fn memory_of_somebody_else_is_filled_and_read_in_its_place_and_given_back() {
        struct Lent(Box<[UnsafeCell<f32>]>, #[expect(dead_code, reason = "counts")] Arc<()>);
        // SAFETY: only the buffer that owns it reaches the floats, as `floats` is called by nobody else.
        unsafe impl Sync for Lent {}
        // SAFETY: a box does not move what it holds, and all of it is initialised.
        unsafe impl HostMemory for Lent {
            fn floats(&self) -> NonNull<[f32]> {
                NonNull::slice_from_raw_parts(NonNull::from(&self.0[0]).cast(), self.0.len())
            }
        }
        let owner = Arc::new(());
        let floats: Box<[_]> = (0..7).map(|_| UnsafeCell::new(0.0)).collect();
        let mut buffer = BatchBuffer::within(Box::new(Lent(floats, Arc::clone(&owner))), 3);
        assert_eq!(buffer.capacity(), 2);
        buffer.claim().unwrap().fill(1.0);
        buffer.claim().unwrap().fill(2.0);
        assert_eq!(buffer.as_slice(2).unwrap(), [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
        assert_eq!(Arc::strong_count(&owner), 2);
        drop(buffer);
        assert_eq!(Arc::strong_count(&owner), 1);
    }

    #[test]
    fn a_place_may_outlive_its_buffer() {
        let mut buffer = BatchBuffer::new(2, 4).unwrap();
        let mut place = buffer.claim().unwrap();
        drop(buffer);
        place.fill(7.0);
        assert_eq!(&*place, &[7.0; 4]);
    }

    #[test]
    fn a_batch_beyond_all_memory_is_refused_and_not_fatal() {
        let refused = BatchBuffer::new(usize::MAX, 3).unwrap_err();
        assert_eq!(refused, TensorError::Memory { capacity: usize::MAX, place_len: 3 });
        assert!(BatchBuffer::new(usize::MAX / 8, 1).is_err());
    }
}
