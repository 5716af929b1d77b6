//! Sessions: a key in the shape that a device wants it, for one direction.

use std::ptr::{self, NonNull};
use std::sync::PoisonError;

use thiserror::Error;
use vipsec_dpdk_sys as sys;

use super::{AAD_MAX, DeviceInner, NONCE_LEN, TAG_LEN, queue};
use crate::errno::Errno;

/// An AEAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// AES-GCM with a 128-bit key.
    Aes128Gcm,
    /// AES-GCM with a 256-bit key.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// Length of the key in bytes.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    const fn raw(self) -> sys::rte_crypto_aead_algorithm {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => sys::RTE_CRYPTO_AEAD_AES_GCM,
            Self::ChaCha20Poly1305 => sys::RTE_CRYPTO_AEAD_CHACHA20_POLY1305,
        }
    }
}

/// What a session's jobs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Encrypt, and write the tag.
    Seal,
    /// Check the tag, and decrypt.
    Open,
}

/// What a session is made of.
#[derive(Clone, Copy)]
pub struct SessionParams<'a> {
    /// The AEAD.
    pub algorithm: Algorithm,
    /// What its jobs do.
    pub direction: Direction,
    /// The key: [`Algorithm::key_len`] bytes. The device keeps what it makes of it, until the session is closed, and wipes it then.
    pub key: &'a [u8],
    /// Bytes of additional authenticated data of each job, at most [`AAD_MAX`].
    pub aad_len: usize,
}

/// No session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SessionError {
    /// The key's length doesn't fit the algorithm.
    #[error("the key's length doesn't fit the algorithm")]
    BadKey,
    /// More additional data than ESP has.
    #[error("at most {AAD_MAX} bytes of additional authenticated data")]
    BadAad,
    /// The device can't do that.
    #[error("the device doesn't support the algorithm")]
    Unsupported,
    /// The device refused, for instance because it has as many sessions as it may have.
    #[error("the device makes no session: {0}")]
    Refused(Errno),
}

/// A session of one queue. Closed ones are recognized, whatever came in their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId {
    pub(super) place: u32,
    pub(super) generation: u32,
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
            algo: algorithm.raw(),
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
        let raw = NonNull::new(raw).ok_or_else(|| SessionError::Refused(Errno::last()))?;
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
        algo: sys::rte_cryptodev_sym_capability_idx__bindgen_ty_1 { aead: algorithm.raw() },
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
