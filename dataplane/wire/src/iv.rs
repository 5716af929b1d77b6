//! The 8-byte initialisation vector of ESP (RFC 4106 §3.1) and IKE (RFC 5282 §3.1) that is unique by construction.
//!
//! AES-GCM breaks when two messages share key and IV. Here two appliances hold the same keys, and in a network partition both
//! may send. RFC 4106 leaves the IV to the sender; RFC 6054 §3 puts a sender id in front of it. So does this module:
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | appliance id  |     epoch, low 16 bits        | number, bits  |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+  39..0        |
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! Two appliances differ in the id; two loads of the same SA by one appliance differ in the epoch; within one load the number only rises.

use std::fmt;
use std::num::NonZeroU8;

use thiserror::Error;

/// An appliance's configured id, unique in its group: 1..=255.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApplianceId(NonZeroU8);

/// An appliance id was 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an appliance id lies in 1..=255")]
pub struct InvalidApplianceId;

impl ApplianceId {
    /// Checks an id.
    pub fn new(id: u8) -> Result<Self, InvalidApplianceId> {
        NonZeroU8::new(id).map(Self).ok_or(InvalidApplianceId)
    }

    /// The id as it stands in IVs and SPIs.
    pub const fn get(self) -> u8 {
        self.0.get()
    }
}

impl fmt::Display for ApplianceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The ownership number of a VIP. Owners are ordered by (epoch, appliance id).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An IV on the wire.
pub type Iv = [u8; 8];

/// The largest number that fits an IV.
pub const NUMBER_MAX: u64 = (1 << 40) - 1;

/// The part of every IV that one owner uses under one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IvPrefix(u64);

/// A number does not fit the IV any more: the SA has to be rekeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the IV's numbers are used up")]
pub struct NumbersExhausted;

impl IvPrefix {
    /// The prefix of `appliance` while it owns the VIP under `epoch`.
    pub const fn new(appliance: ApplianceId, epoch: Epoch) -> Self {
        Self(((appliance.get() as u64) << 56) | ((epoch.0 as u64 & 0xffff) << 40))
    }

    /// The IV for `number`.
    pub const fn iv(self, number: u64) -> Result<Iv, NumbersExhausted> {
        if number > NUMBER_MAX {
            return Err(NumbersExhausted);
        }
        Ok((self.0 | number).to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iv_is_id_epoch_number() {
        let prefix = IvPrefix::new(ApplianceId::new(0xa1).unwrap(), Epoch(0x0007_beef));
        assert_eq!(prefix.iv(0x01_0203_0405), Ok([0xa1, 0xbe, 0xef, 1, 2, 3, 4, 5]));
        assert_eq!(prefix.iv(NUMBER_MAX), Ok([0xa1, 0xbe, 0xef, 0xff, 0xff, 0xff, 0xff, 0xff]));
        assert_eq!(prefix.iv(NUMBER_MAX + 1), Err(NumbersExhausted));
    }

    #[test]
    fn no_appliance_zero() {
        assert_eq!(ApplianceId::new(0), Err(InvalidApplianceId));
    }
}
