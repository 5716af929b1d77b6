//! Threads that use mempools much: each gets an lcore id, and with it a cache in every mempool.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use thiserror::Error;
use vipsec_dpdk_sys as sys;

use crate::eal::{Eal, EalInner};
use crate::errno::Errno;

/// The thread can't be registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ThreadError {
    /// It is already; the thread that started the EAL always is.
    #[error("the thread is registered with DPDK already")]
    AlreadyRegistered,
    /// DPDK refused, for instance because it has no lcore id left.
    #[error("DPDK doesn't register the thread: {0}")]
    Refused(Errno),
}

/// The thread that made this is registered with DPDK as long as it lives. It can't leave the thread.
#[derive(Debug)]
#[must_use = "dropping it unregisters the thread"]
pub struct RegisteredThread {
    eal: Arc<EalInner>,
    _stays_on_its_thread: PhantomData<*const ()>,
}

impl Eal {
    /// Registers the calling thread, an ordinary one, with DPDK. Packets flow without, but each buffer that is taken or given
    /// back then costs an atomic operation that all threads share.
    pub fn register_thread(&self) -> Result<RegisteredThread, ThreadError> {
        // SAFETY: reads a thread-local int.
        if unsafe { sys::shim_rte_lcore_id() } != sys::SHIM_LCORE_ID_ANY {
            return Err(ThreadError::AlreadyRegistered);
        }
        // Counted before it can have a cache: `Mempool` relies on that when it decides to free.
        self.inner.registered.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the EAL is started (`self`), and the thread has no lcore id that this could leak.
        if unsafe { sys::rte_thread_register() } < 0 {
            self.inner.registered.fetch_sub(1, Ordering::SeqCst);
            return Err(ThreadError::Refused(Errno::last()));
        }
        Ok(RegisteredThread { eal: self.inner.clone(), _stays_on_its_thread: PhantomData })
    }
}

impl Drop for RegisteredThread {
    fn drop(&mut self) {
        // SAFETY: the type is not Send, so this is the thread that was registered; the EAL lives (`self.eal`).
        unsafe { sys::rte_thread_unregister() };
        self.eal.registered.fetch_sub(1, Ordering::SeqCst);
    }
}
