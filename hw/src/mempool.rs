//! Pools of packet buffers.

use std::ffi::CString;
use std::mem;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use thiserror::Error;
use vipsec_dpdk_sys as sys;
use vipsec_wire::buffer::BufferPool;

use crate::eal::{Eal, EalInner};
use crate::errno::Errno;
use crate::mbuf::Mbuf;

/// Bytes in front of an empty buffer's data, for headers to come.
pub(crate) const HEADROOM: u16 = sys::RTE_PKTMBUF_HEADROOM as u16;

/// How large a pool is.
#[derive(Debug, Clone)]
pub struct MempoolOptions {
    /// Its name in DPDK, unique in the process; at most 25 bytes.
    pub name: String,
    /// Number of buffers. Enough for all descriptors of all queues, plus what travels. DPDK likes 2^n - 1 best.
    pub buffers: u32,
    /// Buffers that each registered thread keeps for itself, at most 512.
    pub cache: u32,
    /// Bytes for a packet and its growth at the back; 128 bytes of headroom come on top.
    pub room: u16,
}

impl MempoolOptions {
    /// 8191 buffers with room for frames of 1500-byte packets, about 20 MiB.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), buffers: 8191, cache: 256, room: 2048 }
    }
}

/// No pool.
#[derive(Debug, Error)]
pub enum MempoolError {
    /// Room and headroom together pass what DPDK can count.
    #[error("a buffer's room of {0} bytes is too large")]
    RoomTooLarge(u16),
    /// DPDK refused: the name is taken or too long, the numbers don't fit each other, or the EAL's memory is used up.
    #[error("DPDK makes no mempool \"{name}\": {errno}")]
    Refused {
        /// The pool's name.
        name: String,
        /// Why not.
        errno: Errno,
    },
}

/// A pool of buffers; clones are handles on the same one. Any thread may use it, registered ones quickly.
///
/// When the last handle goes, the pool is freed if all of its buffers are back and the thread that started the EAL is the only
/// one left that is registered with it. Otherwise pool and EAL stay until the process ends, so that a buffer is always good.
#[derive(Debug, Clone)]
pub struct Mempool {
    inner: Arc<MempoolInner>,
}

#[derive(Debug)]
struct MempoolInner {
    pool: NonNull<sys::rte_mempool>,
    options: MempoolOptions,
    eal: Arc<EalInner>,
}

// SAFETY: the ring behind a mempool is made for many producers and many consumers, and a cache is chosen by the calling
// thread's own lcore id, which DPDK gives to one thread at a time.
unsafe impl Send for MempoolInner {}
// SAFETY: see above; all functions that take `&self` are such uses or only count.
unsafe impl Sync for MempoolInner {}

impl Mempool {
    /// Makes a pool from the EAL's memory.
    pub fn new(eal: &Eal, options: &MempoolOptions) -> Result<Self, MempoolError> {
        let room = HEADROOM.checked_add(options.room).ok_or(MempoolError::RoomTooLarge(options.room))?;
        let refused = |errno| MempoolError::Refused { name: options.name.clone(), errno };
        let name = CString::new(options.name.as_str()).map_err(|_| refused(Errno(libc::EINVAL)))?;
        const ANY_SOCKET: i32 = -1;
        // SAFETY: the EAL is started (`eal`) and `name` is a C string that DPDK copies.
        let pool =
            unsafe { sys::rte_pktmbuf_pool_create(name.as_ptr(), options.buffers, options.cache, 0, room, ANY_SOCKET) };
        let pool = NonNull::new(pool).ok_or_else(|| refused(Errno::last()))?;
        let inner = MempoolInner { pool, options: options.clone(), eal: eal.inner.clone() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// An empty buffer, or `None` when all are in use.
    #[inline]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool lives as long as `self`.
        let mbuf = unsafe { sys::shim_rte_pktmbuf_alloc(self.inner.pool.as_ptr()) };
        // SAFETY: a fresh mbuf of a pktmbuf pool is one segment with one reference, and it is ours.
        NonNull::new(mbuf).map(|mbuf| unsafe { Mbuf::from_raw(mbuf) })
    }

    /// Buffers free now, those in threads' caches included.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives; counting reads counters that other threads may move meanwhile, as DPDK allows.
        unsafe { sys::rte_mempool_avail_count(self.inner.pool.as_ptr()) }
    }

    /// What it was made with.
    pub fn options(&self) -> &MempoolOptions {
        &self.inner.options
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.inner.pool.as_ptr()
    }
}

impl BufferPool for Mempool {
    type Buf = Mbuf;

    #[inline]
    fn alloc(&mut self) -> Option<Mbuf> {
        Self::alloc(self)
    }
}

impl Drop for MempoolInner {
    fn drop(&mut self) {
        // SAFETY: the pool lives until the end of this function.
        let available = unsafe { sys::rte_mempool_avail_count(self.pool.as_ptr()) };
        fence(Ordering::SeqCst);
        let others = self.eal.registered.load(Ordering::SeqCst);
        if available == self.options.buffers && others == 0 && std::thread::current().id() == self.eal.init_thread {
            // SAFETY: all buffers are in the pool, and `self` is the last handle that could hand one out again. Nobody is
            // still inside giving one back: a thread without a cache stores into the shared ring before the count
            // shows it and touches nothing after; a thread with a cache counts first and stores then, but the only thread
            // that has one is this, which is here.
            unsafe { sys::rte_mempool_free(self.pool.as_ptr()) };
        } else {
            tracing::debug!(
                pool = self.options.name,
                missing = self.options.buffers.saturating_sub(available),
                "mempool stays until the process ends: its buffers may be in use"
            );
            mem::forget(self.eal.clone());
        }
    }
}
