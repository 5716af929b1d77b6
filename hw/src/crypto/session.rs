//! Sessions: a key in the shape that a device wants it, for one direction.

use std::ptr::{self, NonNull};
use std::sync::PoisonError;

use vipsec_dpdk_sys as sys;
use vipsec_wire::crypto::{AAD_MAX, Algorithm, Direction, NONCE_LEN, SessionError, SessionParams, TAG_LEN};

use super::{DeviceInner, queue};
use crate::errno::Errno;

/// DPDK's number of an AEAD.
const fn raw(algorithm: Algorithm) -> sys::rte_crypto_aead_algorithm {
    match algorithm {
        Algorithm::Aes128Gcm | Algorithm::Aes256Gcm => sys::RTE_CRYPTO_AEAD_AES_GCM,
        Algorithm::ChaCha20Poly1305 => sys::RTE_CRYPTO_AEAD_CHACHA20_POLY1305,
    }
}

/// A session in a device, freed with its key when dropped.
#[derive(Debug)]
pub(super) struct Session {
    raw: NonNull<std::ffi::c_void>,
    pub(super) aad_len: usize,
}

// SAFETY: a session belongs to no thread; it is used by the queue that made it alone.
unsafe impl Send for Session {}

impl Session {
    pub(super) fn new(device: &DeviceInner, params: &SessionParams<'_>) -> Result<Self, SessionError> {
        let SessionParams { algorithm, direction, key, aad_len } = *params;
        if key.len() != algorithm.key_len() {
            return Err(SessionError::BadKey);
        }
        if aad_len > AAD_MAX {
            return Err(SessionError::BadAad);
        }
        if !is_supported(device, algorithm) {
            return Err(SessionError::Unsupported);
        }
        let aead = sys::rte_crypto_aead_xform {
            op: match direction {
                Direction::Seal => sys::RTE_CRYPTO_AEAD_OP_ENCRYPT,
                Direction::Open => sys::RTE_CRYPTO_AEAD_OP_DECRYPT,
            },
            algo: raw(algorithm),
            key: sys::rte_crypto_aead_xform__bindgen_ty_1 { data: key.as_ptr(), length: key.len() as u16 },
            iv: sys::rte_crypto_aead_xform__bindgen_ty_2 { offset: queue::NONCE_OFFSET, length: NONCE_LEN as u16 },
            digest_length: TAG_LEN as u16,
            aad_length: aad_len as u16,
        };
        let mut transform = sys::rte_crypto_sym_xform {
            next: ptr::null_mut(),
            type_: sys::RTE_CRYPTO_SYM_XFORM_AEAD,
            __bindgen_anon_1: sys::rte_crypto_sym_xform__bindgen_ty_1 { aead },
        };
        let _one_at_a_time = device.session_lock.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the device is started and the pool is its own. The driver reads transform and key during the call and keeps no
        // pointer to either.
        let raw =
            unsafe { sys::rte_cryptodev_sym_session_create(device.id(), &mut transform, device.sessions.0.as_ptr()) };
        let raw = NonNull::new(raw).ok_or_else(|| match Errno::last() {
            Errno(libc::ENOMEM) => SessionError::TooMany,
            Errno(other) => SessionError::Refused(other),
        })?;
        Ok(Self { raw, aad_len })
    }

    pub(super) fn as_ptr(&self) -> *mut std::ffi::c_void {
        self.raw.as_ptr()
    }

    /// Gives it back.
    ///
    /// # Safety
    /// It is of that device, and no job in the device uses it.
    pub(super) unsafe fn close(self, device: &DeviceInner) {
        let _one_at_a_time = device.session_lock.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller's promise. DPDK wipes the session's memory before it can become another's.
        let code = unsafe { sys::rte_cryptodev_sym_session_free(device.id(), self.raw.as_ptr()) };
        if let Err(error) = Errno::check(code) {
            tracing::warn!(device = device.device.name, %error, "a crypto session can't be freed");
        }
    }
}

/// Can the device do that AEAD as ESP uses it, with 32-bit and with extended sequence numbers?
pub(super) fn is_supported(device: &DeviceInner, algorithm: Algorithm) -> bool {
    let index = sys::rte_cryptodev_sym_capability_idx {
        type_: sys::RTE_CRYPTO_SYM_XFORM_AEAD,
        algo: sys::rte_cryptodev_sym_capability_idx__bindgen_ty_1 { aead: raw(algorithm) },
    };
    // SAFETY: the device is attached, and `index` lives during the call.
    let capability = unsafe { sys::rte_cryptodev_sym_capability_get(device.id(), &index) };
    let takes = |aad_len: u16| {
        let (key_len, tag_len, nonce_len) = (algorithm.key_len() as u16, TAG_LEN as u16, NONCE_LEN as u16);
        // SAFETY: a static entry of the driver's.
        unsafe { sys::rte_cryptodev_sym_capability_check_aead(capability, key_len, tag_len, aad_len, nonce_len) == 0 }
    };
    !capability.is_null() && takes(8) && takes(12)
}
