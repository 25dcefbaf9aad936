//! What becomes of memory that the daemon has freed: it goes back to the system instead of staying with the allocator.
//!
//! Pictures and what decoders keep of them are some hundred kilobytes to megabytes, and come and go with every connection, on threads that
//! come and go with them. glibc gives each of many threads an arena of its own (eight a core), and once a block of some size has been freed it takes the
//! next ones of that size from an arena too, which shrinks only from its end. So a box whose cameras reconnect often grew for as
//! long as it ran, though little more was in use. Set once, from the main thread.

/// Blocks of so many bytes come from the system and go back to it when they are freed: pictures and their planes, not packets. It is what
/// glibc begins with; set, it stays. Sixteen cameras of 720p with random faults for half an hour: 419 MB and still growing with a
/// megabyte, for a decoder's planes are smaller and end up in an arena, 300 MB and level with this.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 << 10;

/// Streaming threads allocate little, and seldom at once. Sixteen cameras with random faults for five minutes: 779 MB with glibc's own
/// ways, of which 395 MB were in use, and 451 MB with two arenas (and blocks of a megabyte).
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// Tells the allocator so. Call it before there are other threads. Allocators other than glibc's are left alone.
pub fn give_back_what_is_freed() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes no pointer; these two change only how later blocks are chosen.
        let told = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) + libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
        if told != 2 {
            tracing::debug!("the allocator keeps its own ways");
        }
    }
}

/// Bytes that are in use, of those that the allocator has. `None` where it does not say.
pub fn in_use() -> Option<u64> {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes and returns nothing but numbers.
        let info = unsafe { libc::mallinfo2() };
        Some((info.uordblks + info.hblkhd) as u64)
    }
    #[cfg(not(target_env = "gnu"))]
    None
}
