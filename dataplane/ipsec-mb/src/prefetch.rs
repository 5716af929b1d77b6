//! A hint to the CPU that memory is about to be read.

/// Bytes of a cache line.
pub const LINE_LEN: usize = 64;

/// Asks for the cache line at `address`, without waiting for it. On architectures without a stable intrinsic it does nothing.
///
/// A pipeline calls it for what a packet will touch while it works on the packets before.
#[inline(always)]
pub fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint: it reads nothing that the program can see and never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
