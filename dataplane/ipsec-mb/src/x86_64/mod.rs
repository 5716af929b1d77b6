//! Keys by libIPSec_MB.

mod library;
mod sys;

use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8};
use std::mem::MaybeUninit;

use zeroize::Zeroize;

use crate::{BadTag, Cipher, KEY_DATA_LEN, KeyError, NONCE_LEN, TAG_LEN, TEXT_BYTES_MAX, TooLong};
use library::{Calls, ChaChaUpdate, GcmCall, GcmExpand, calls};

/// Is the library there, and does the CPU have what makes it worth using: VAES and AVX-512?
pub fn available() -> bool {
    calls().is_some()
}

/// Does every call write to one variable of the whole process, so that threads share its cache line? True before version 1.4 of the
/// library (<https://github.com/intel/intel-ipsec-mb/issues/112>).
pub fn shares_a_variable() -> bool {
    available() && library::version() < (1, 4)
}

/// Round keys, then powers of the GHASH key.
const DATA_LEN: usize = size_of::<sys::gcm_key_data>();

/// An expanded key. Wiped on drop.
// The library reads its key data from cache lines' beginnings on. What it leaves of the last line holds what each packet needs
// besides, and the cipher's unused values leave room for a discriminant around it.
#[repr(C, align(64))]
pub struct Key {
    /// With AES-GCM `gcm_key_data`, with ChaCha20-Poly1305 the key in front.
    data: [u8; DATA_LEN],
    calls: &'static Calls,
    cipher: Cipher,
}

const _: () = assert!(size_of::<Key>() == 1024 && size_of::<Option<Key>>() == 1024);
const _: () = assert!(DATA_LEN == KEY_DATA_LEN);

impl Key {
    /// Expands a key of [`Cipher::key_len`] bytes.
    pub fn new(cipher: Cipher, key: &[u8]) -> Result<Self, KeyError> {
        let calls = calls().ok_or(KeyError::Unavailable)?;
        if key.len() != cipher.key_len() {
            return Err(KeyError::Length);
        }
        let mut made = Self { data: [0; DATA_LEN], calls, cipher };
        match cipher {
            Cipher::Aes128Gcm => made.expand(calls.gcm128_expand, key),
            Cipher::Aes256Gcm => made.expand(calls.gcm256_expand, key),
            Cipher::ChaCha20Poly1305 => {
                if let Some(place) = made.data.get_mut(..key.len()) {
                    place.copy_from_slice(key);
                }
            }
        }
        Ok(made)
    }

    fn expand(&mut self, expand: GcmExpand, key: &[u8]) {
        // SAFETY: the key has the length that goes with the call (`new` checks it), `data` the size of `gcm_key_data` and, as the
        // first field, this type's alignment of 64.
        unsafe { expand(key.as_ptr().cast(), self.data.as_mut_ptr().cast()) }
    }

    /// Encrypts `buffer` in place and writes the tag over `aad` and the ciphertext to `tag`.
    ///
    /// The caller answers for the nonce: it is never used twice under one key.
    #[inline]
    pub fn seal_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> Result<(), TooLong> {
        if buffer.len() > TEXT_BYTES_MAX {
            return Err(TooLong);
        }
        match self.cipher {
            Cipher::Aes128Gcm => self.gcm(self.calls.gcm128_enc, nonce, aad, buffer, tag),
            Cipher::Aes256Gcm => self.gcm(self.calls.gcm256_enc, nonce, aad, buffer, tag),
            Cipher::ChaCha20Poly1305 => self.chacha(self.calls.chacha_enc, nonce, aad, buffer, tag),
        }
        Ok(())
    }

    /// Decrypts `buffer` in place and checks `tag` in constant time. After [`BadTag`] the buffer is all zero.
    #[inline]
    pub fn open_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), BadTag> {
        if buffer.len() > TEXT_BYTES_MAX {
            return Err(BadTag);
        }
        let mut expected = [0; TAG_LEN];
        match self.cipher {
            Cipher::Aes128Gcm => self.gcm(self.calls.gcm128_dec, nonce, aad, buffer, &mut expected),
            Cipher::Aes256Gcm => self.gcm(self.calls.gcm256_dec, nonce, aad, buffer, &mut expected),
            Cipher::ChaCha20Poly1305 => self.chacha(self.calls.chacha_dec, nonce, aad, buffer, &mut expected),
        }
        if same_tag(&expected, tag) { Ok(()) } else { Err(refuse(buffer)) }
    }

    /// One call for a whole message.
    #[inline(always)]
    fn gcm(&self, call: GcmCall, nonce: &[u8; NONCE_LEN], aad: &[u8], buffer: &mut [u8], tag: &mut [u8; TAG_LEN]) {
        let mut scratch = MaybeUninit::<sys::gcm_context_data>::uninit();
        let text = buffer.as_mut_ptr();
        // The whole key: the library may read the last cache line of its data to the end.
        let key: *const Self = self;
        // SAFETY: `data`, which comes first, was expanded by the same library for the cipher that chose `call`; it and everything
        // else outlives the call and has the length that is passed along (12 bytes of nonce are the call's own assumption). Input
        // and output are the same bytes, which the library allows. `scratch` carries state between partial calls, and this is
        // none: nothing in it is read before it is written.
        unsafe {
            call(
                key.cast(),
                scratch.as_mut_ptr(),
                text,
                text,
                buffer.len() as u64,
                nonce.as_ptr(),
                aad.as_ptr(),
                aad.len() as u64,
                tag.as_mut_ptr(),
                TAG_LEN as u64,
            );
        }
    }

    /// A whole message in three calls.
    fn chacha(
        &self,
        update: ChaChaUpdate,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) {
        let mut state = MaybeUninit::<sys::chacha20_poly1305_context_data>::uninit();
        let key = self.data.as_ptr().cast();
        let (state, text) = (state.as_mut_ptr(), buffer.as_mut_ptr().cast());
        // SAFETY: `data` begins with 32 bytes of key (`new`); everything outlives the calls and has the length that is passed
        // along (12 bytes of nonce are the call's own assumption). The first call initialises the state. Input and output are
        // the same bytes, which the library allows.
        unsafe {
            (self.calls.chacha_init)(key, state, nonce.as_ptr().cast(), aad.as_ptr().cast(), aad.len() as u64);
            update(key, state, text, text, buffer.len() as u64);
            (self.calls.chacha_finalize)(state, tag.as_mut_ptr().cast(), TAG_LEN as u64);
        }
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.data.zeroize();
    }
}

/// Compares all bytes at once, however many differ.
#[inline(always)]
fn same_tag(one: &[u8; TAG_LEN], other: &[u8; TAG_LEN]) -> bool {
    // SAFETY: both have the 16 bytes that are loaded; SSE2 belongs to x86-64.
    unsafe {
        let equal = _mm_cmpeq_epi8(_mm_loadu_si128(one.as_ptr().cast()), _mm_loadu_si128(other.as_ptr().cast()));
        _mm_movemask_epi8(equal) == 0xffff
    }
}

/// The library decrypts before it knows: nothing of that stays.
#[cold]
fn refuse(buffer: &mut [u8]) -> BadTag {
    buffer.fill(0);
    BadTag
}
