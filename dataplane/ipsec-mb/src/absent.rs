//! Where there is no libIPSec_MB: the same names, and no way to make a key.

use std::convert::Infallible;

use crate::{BadTag, Cipher, KeyError, NONCE_LEN, TAG_LEN, TooLong};

/// Is the library there, and does the CPU have what makes it worth using? Not on this architecture.
pub fn available() -> bool {
    false
}

/// Does every call write to one variable of the whole process? There are no calls on this architecture.
pub fn shares_a_variable() -> bool {
    false
}

/// An expanded key: on this architecture there is none.
pub struct Key(Infallible);

impl Key {
    /// Always [`KeyError::Unavailable`].
    pub fn new(_: Cipher, _: &[u8]) -> Result<Self, KeyError> {
        Err(KeyError::Unavailable)
    }

    /// Never called: there is no key.
    pub fn seal_in_place(
        &self,
        _: &[u8; NONCE_LEN],
        _: &[u8],
        _: &mut [u8],
        _: &mut [u8; TAG_LEN],
    ) -> Result<(), TooLong> {
        match self.0 {}
    }

    /// Never called: there is no key.
    pub fn open_in_place(&self, _: &[u8; NONCE_LEN], _: &[u8], _: &mut [u8], _: &[u8; TAG_LEN]) -> Result<(), BadTag> {
        match self.0 {}
    }
}
