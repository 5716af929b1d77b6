//! One packet in a DPDK buffer.

use std::fmt;
use std::mem;
use std::ptr::NonNull;
use std::slice;

use vipsec_dpdk_sys as sys;
use vipsec_wire::buffer::{NoRoom, PacketBuf};

use crate::mempool::Mempool;

/// A packet in a buffer of a [`crate::Mempool`], contiguous. Dropping it gives the buffer back.
///
/// Invariants: the pointer is to an mbuf of a pool that lives; it is the only reference to it, and the buffer is its own
/// (direct); `data_off + data_len <= buf_len` within the memory at `buf_addr`. One segment, except inside
/// [`crate::QueuePair`] before a received chain is flattened.
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

    /// Gives the packet away: who takes it makes an [`Mbuf`] of it again, or frees it.
    pub(crate) fn into_raw(self) -> NonNull<sys::rte_mbuf> {
        let raw = self.raw;
        mem::forget(self);
        raw
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

    /// Makes one segment in a buffer of ours of whatever the driver gave us: in place if the first buffer has the room, else by a
    /// copy into an empty buffer of `pool`. `false`: it fits neither, or the pool is empty; drop it.
    #[cold]
    pub(crate) fn flatten(&mut self, pool: &Mempool) -> bool {
        // The first segment's buffer is written; the others are only read and their references dropped.
        // SAFETY: a valid mbuf, whose first segment is ours alone.
        if self.is_ours() && unsafe { sys::shim_rte_pktmbuf_linearize(self.raw.as_ptr()) } == 0 {
            return true;
        }
        match pool.alloc().and_then(|empty| self.copied_into(empty)) {
            Some(copy) => {
                *self = copy;
                true
            }
            None => false,
        }
    }

    /// A copy of all segments.
    fn copied_into(&self, mut copy: Self) -> Option<Self> {
        let mut segment = Some(self.header());
        while let Some(mbuf) = segment {
            let before = copy.data().len();
            let len = usize::from(mbuf.data_len);
            copy.append(len).ok()?;
            // SAFETY: a segment's data lies within its buffer, and stays as it is: even if others hold a reference on the buffer, the
            // driver gave it to us to read.
            let bytes =
                unsafe { slice::from_raw_parts(mbuf.buf_addr.cast::<u8>().add(usize::from(mbuf.data_off)), len) };
            copy.data_mut().get_mut(before..)?.copy_from_slice(bytes);
            // SAFETY: null, or the next segment of this chain, which `self` holds.
            segment = unsafe { mbuf.next.as_ref() };
        }
        Some(copy)
    }

    /// Brings the packet's first bytes closer to the core.
    #[inline]
    pub(crate) fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a hint, which no address makes fail.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.extent().0.cast()) };
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Eal, EalOptions, Hugepages, MempoolOptions};

    const ROOM: u16 = 256;
    const BUFFERS: u32 = 63;

    /// A chain of segments as drivers make them, each with that many bytes, the first after that many.
    fn chain(pool: &Mempool, first_offset: u16, lens: &[usize]) -> Mbuf {
        let mut content = (0..=u8::MAX).cycle();
        let mut segments: Vec<Mbuf> = lens.iter().map(|_| pool.alloc().unwrap()).collect();
        segments[0].set_extent(first_offset, 0);
        for (segment, &len) in segments.iter_mut().zip(lens) {
            segment.append(len).unwrap();
            segment.data_mut().fill_with(|| content.next().unwrap());
        }
        let mut next = std::ptr::null_mut();
        while segments.len() > 1 {
            let mut last = segments.pop().unwrap();
            last.header_mut().next = next;
            next = last.raw.as_ptr();
            std::mem::forget(last);
        }
        let mut first = segments.pop().unwrap();
        let mbuf = first.header_mut();
        mbuf.next = next;
        mbuf.nb_segs = lens.len() as u16;
        mbuf.pkt_len = lens.iter().sum::<usize>() as u32;
        first
    }

    fn flat(pool: &Mempool, mut mbuf: Mbuf, len: u8) -> Mbuf {
        assert!(!mbuf.is_contiguous_and_ours());
        assert!(mbuf.flatten(pool));
        assert!(mbuf.is_contiguous_and_ours());
        assert_eq!(mbuf.data(), (0..len).collect::<Vec<_>>());
        assert_eq!(pool.available(), BUFFERS - 1, "what is not used any more is back");
        mbuf
    }

    #[test]
    fn what_drivers_hand_out_becomes_one_segment_of_ours() {
        let prefix = format!("vipsec-hw-mbuf-{}", std::process::id());
        let options = EalOptions { memory_mib: 16, hugepages: Hugepages::Never, ..EalOptions::new(prefix) };
        let eal = Eal::init(&options).unwrap();
        let options = MempoolOptions { buffers: BUFFERS, cache: 0, room: ROOM, ..MempoolOptions::new("mbuf") };
        let pool = Mempool::new(&eal, &options).unwrap();

        // The first buffer has room for all: no other is needed.
        let mut mbuf = chain(&pool, 128, &[100, 50, 60]);
        let all: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        assert!(mbuf.flatten(&pool));
        assert_eq!(mbuf.data(), (0..210).collect::<Vec<_>>());
        assert_eq!(mbuf.headroom(), 128);
        drop((all, mbuf));

        // It has not, but an empty one has.
        let mbuf = flat(&pool, chain(&pool, 300, &[84, 70, 80]), 234);
        assert_eq!(mbuf.headroom(), 128);
        drop(mbuf);

        // The buffer is another's, too: it stays as it is.
        let mut shared = chain(&pool, 128, &[200]);
        shared.header_mut().refcnt = 2;
        let other = shared.raw;
        // The reference that is left counts as a buffer out.
        let mut copy = shared;
        assert!(!copy.is_contiguous_and_ours() && copy.flatten(&pool));
        // SAFETY: one of the two references is left, and it is this one's.
        let other = unsafe { Mbuf::from_raw(other) };
        assert!(other.is_contiguous_and_ours());
        assert_eq!(other.data(), copy.data());
        drop((other, copy));

        // No buffer is large enough, or none is left.
        assert!(!chain(&pool, 128, &[200, 57]).flatten(&pool));
        let mut mbuf = chain(&pool, 300, &[84, 70]);
        let all: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        assert!(!mbuf.flatten(&pool));
        drop((all, mbuf));
        assert_eq!(pool.available(), BUFFERS);
    }
}
