//! One packet in a DPDK buffer.

use std::fmt;
use std::ptr::NonNull;
use std::slice;

use vipsec_dpdk_sys as sys;
use vipsec_wire::buffer::{NoRoom, PacketBuf};

/// A packet in a buffer of a [`crate::Mempool`], contiguous. Dropping it gives the buffer back.
///
/// Invariants: the pointer is to an mbuf of a pool that lives; it is the only reference to it, and the buffer is its own
/// (direct); `data_off + data_len <= buf_len` within the memory at `buf_addr`. One segment, except inside
/// [`crate::QueuePair`] before a received chain is made contiguous.
#[repr(transparent)]
pub struct Mbuf {
    raw: NonNull<sys::rte_mbuf>,
}

// SAFETY: the only reference to its mbuf, which any thread may give back (see `Mempool`).
unsafe impl Send for Mbuf {}
// SAFETY: `&Mbuf` only reads.
unsafe impl Sync for Mbuf {}

impl Mbuf {
    /// # Safety
    /// `raw` fulfils the type's invariants, and the caller gives it away.
    pub(crate) unsafe fn from_raw(raw: NonNull<sys::rte_mbuf>) -> Self {
        Self { raw }
    }

    /// A driver may give us a chain of segments or a buffer that others see, too: neither can be a [`PacketBuf`].
    #[inline]
    pub(crate) fn is_contiguous_and_ours(&self) -> bool {
        self.header().nb_segs == 1 && self.is_ours()
    }

    #[inline]
    fn is_ours(&self) -> bool {
        const FOREIGN_BUFFER: u64 = sys::SHIM_RTE_MBUF_F_INDIRECT | sys::SHIM_RTE_MBUF_F_EXTERNAL;
        let mbuf = self.header();
        mbuf.refcnt == 1 && mbuf.ol_flags & FOREIGN_BUFFER == 0
    }

    /// Makes one segment of a chain if its first buffer has the room. `false`: drop it.
    #[cold]
    pub(crate) fn linearize(&mut self) -> bool {
        // The first segment's buffer is written; the others are only read and their references dropped.
        self.is_ours()
            // SAFETY: a valid mbuf, whose first segment is ours alone.
            && unsafe { sys::shim_rte_pktmbuf_linearize(self.raw.as_ptr()) } == 0
    }

    #[inline]
    fn header(&self) -> &sys::rte_mbuf {
        // SAFETY: valid and not written by anybody else (invariants).
        unsafe { self.raw.as_ref() }
    }

    #[inline]
    fn header_mut(&mut self) -> &mut sys::rte_mbuf {
        // SAFETY: valid and ours alone (invariants).
        unsafe { self.raw.as_mut() }
    }

    /// Start and length of the packet. Everything within the buffer is initialized: pools live in zeroed mappings.
    #[inline]
    fn extent(&self) -> (*mut u8, usize) {
        let mbuf = self.header();
        // SAFETY: `data_off` is within the buffer (invariants).
        let start = unsafe { mbuf.buf_addr.cast::<u8>().add(usize::from(mbuf.data_off)) };
        (start, usize::from(mbuf.data_len))
    }

    #[inline]
    fn set_extent(&mut self, data_off: u16, data_len: u16) {
        let mbuf = self.header_mut();
        debug_assert!(u32::from(data_off) + u32::from(data_len) <= u32::from(mbuf.buf_len));
        mbuf.data_off = data_off;
        mbuf.data_len = data_len;
        mbuf.pkt_len = u32::from(data_len);
    }
}

impl PacketBuf for Mbuf {
    #[inline]
    fn data(&self) -> &[u8] {
        let (start, len) = self.extent();
        // SAFETY: `len` initialized bytes of a buffer that is ours (invariants), borrowed as long as `self`.
        unsafe { slice::from_raw_parts(start, len) }
    }

    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        let (start, len) = self.extent();
        // SAFETY: as in `data`, and borrowed mutably as long as `self`, the only reference.
        unsafe { slice::from_raw_parts_mut(start, len) }
    }

    #[inline]
    fn headroom(&self) -> usize {
        usize::from(self.header().data_off)
    }

    #[inline]
    fn tailroom(&self) -> usize {
        let mbuf = self.header();
        usize::from(mbuf.buf_len).saturating_sub(usize::from(mbuf.data_off) + usize::from(mbuf.data_len))
    }

    #[inline]
    fn prepend(&mut self, n: usize) -> Result<(), NoRoom> {
        let mbuf = self.header();
        let n = u16::try_from(n).map_err(|_| NoRoom)?;
        let data_off = mbuf.data_off.checked_sub(n).ok_or(NoRoom)?;
        let data_len = mbuf.data_len.checked_add(n).ok_or(NoRoom)?;
        self.set_extent(data_off, data_len);
        Ok(())
    }

    #[inline]
    fn append(&mut self, n: usize) -> Result<(), NoRoom> {
        if n > self.tailroom() {
            return Err(NoRoom);
        }
        let mbuf = self.header();
        let data_len = u16::try_from(n).ok().and_then(|n| mbuf.data_len.checked_add(n)).ok_or(NoRoom)?;
        self.set_extent(mbuf.data_off, data_len);
        Ok(())
    }

    #[inline]
    fn trim_front(&mut self, n: usize) -> Result<(), NoRoom> {
        let mbuf = self.header();
        let n = u16::try_from(n).map_err(|_| NoRoom)?;
        let data_len = mbuf.data_len.checked_sub(n).ok_or(NoRoom)?;
        let data_off = mbuf.data_off.checked_add(n).ok_or(NoRoom)?;
        self.set_extent(data_off, data_len);
        Ok(())
    }

    #[inline]
    fn trim_back(&mut self, n: usize) -> Result<(), NoRoom> {
        let mbuf = self.header();
        let data_len = u16::try_from(n).ok().and_then(|n| mbuf.data_len.checked_sub(n)).ok_or(NoRoom)?;
        self.set_extent(mbuf.data_off, data_len);
        Ok(())
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: ours to give back (invariants), and not used afterwards. Its pool lives: a pool with a buffer out isn't freed.
        unsafe { sys::shim_rte_pktmbuf_free(self.raw.as_ptr()) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Lengths only: packets may be clear text.
        f.debug_struct("Mbuf").field("len", &self.header().data_len).finish_non_exhaustive()
    }
}
