//! What can go wrong with a packet, and with setting up an SA.

use thiserror::Error;
use vipsec_wire::buffer::NoRoom;

use crate::engine::ContextError;

/// Why a packet was not sealed or opened. Each is a reason to drop it: the buffer's contents are unspecified afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum EspError {
    /// Shorter than header, IV, trailer and ICV.
    #[error("the packet is too short for ESP")]
    Truncated,
    /// The ciphertext does not end on a 4-byte boundary (RFC 4303 §2.4).
    #[error("the ciphertext is not a multiple of four bytes")]
    Misaligned,
    /// The number was seen before or lies to the left of the window (RFC 4303 §3.4.3).
    #[error("the sequence number was seen before or is too old")]
    Replayed,
    /// The ICV does not fit the packet (RFC 4303 §3.4.4.2).
    #[error("the integrity check failed")]
    BadIcv,
    /// Authentic, but the padding is not 1, 2, 3, … or longer than the payload (RFC 4303 §2.4).
    #[error("the padding is malformed")]
    BadPadding,
    /// The next number would cycle (RFC 4303 §3.3.3) or not fit the IV.
    #[error("the SA's sequence numbers are used up")]
    NumbersExhausted,
    /// The SA has carried all that its lifetime allows (RFC 4301 §4.4.2.1).
    #[error("the SA's lifetime is over")]
    LifetimeOver,
    /// The SA has no numbers yet: a backup keeps it for a takeover.
    #[error("the SA has no numbers yet")]
    Dormant,
    /// The buffer has no room for header or trailer.
    #[error("the packet buffer has no room for the ESP header or trailer")]
    NoRoom,
    /// The crypto engine refused to encrypt.
    #[error("the crypto engine failed to seal")]
    SealFailed,
}

impl From<NoRoom> for EspError {
    fn from(NoRoom: NoRoom) -> Self {
        Self::NoRoom
    }
}

/// Why an SA could not be set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SetupError {
    /// There is no crypto context.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The anti-replay window's size is out of range.
    #[error(
        "an anti-replay window of {0} packets: a multiple of 64 in {min}..={max} is needed",
        min = crate::replay::SIZE_MIN,
        max = crate::replay::SIZE_MAX
    )]
    Window(u32),
}
