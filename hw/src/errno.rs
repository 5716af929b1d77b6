//! Error numbers as DPDK reports them.

use std::ffi::{CStr, c_int};
use std::fmt;

use vipsec_dpdk_sys as sys;

/// An error number of the system's or of DPDK's own, shown with DPDK's text for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The calling thread's `rte_errno`.
    pub(crate) fn last() -> Self {
        // SAFETY: reads a thread-local int.
        Self(unsafe { sys::shim_rte_errno() })
    }

    /// From a return code, in which DPDK returns errors negated. `Ok` holds the code of a success.
    pub(crate) fn check(code: c_int) -> Result<c_int, Self> {
        if code < 0 { Err(Self(code.saturating_neg())) } else { Ok(code) }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: takes any number. The text is static or in a buffer of this thread's, and is copied out before the next call.
        let text = unsafe { CStr::from_ptr(sys::rte_strerror(self.0)) };
        write!(f, "{} (errno {})", text.to_string_lossy(), self.0)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({self})")
    }
}
