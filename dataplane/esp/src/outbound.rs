//! The outbound half of a child SA.

use std::fmt;

use vipsec_wire::buffer::PacketBuf;
use vipsec_wire::iv::{IvPrefix, NUMBER_MAX};
use zerocopy::FromBytes;

use crate::engine::{Context, EngineKind};
use crate::error::{EspError, SetupError};
use crate::header::{ALIGNMENT, Aad, HEADER_LEN, Header, ICV_LEN, Nonce, TRAILER_LEN};
use crate::room::UNLIMITED;
use crate::sa::{OutboundParams, SALT_LEN, Spi};

/// Numbers in a published block.
///
/// A successor skips at most that many. At a million packets per second half a block lasts 33 ms; 2^32 numbers hold 65,536 blocks.
pub const LEASE_BLOCK: u64 = 1 << 16;

/// Seals packets towards one remote peer and hands out their numbers.
///
/// Not `Clone`: two copies would use the same numbers under the same key.
///
/// The lease says where a successor would go on. Sealing never waits for it, because the IV's prefix, not the lease, keeps
/// nonces unique; past the lease the remote peer's replay window may refuse a successor's first packets.
// The first cache line is what every packet touches; the engine's context follows.
#[repr(C, align(64))]
pub struct OutboundSa {
    spi: Spi,
    salt: [u8; SALT_LEN],
    iv_prefix: IvPrefix,
    /// Last number used.
    sent: u64,
    /// Last number that may be used.
    number_max: u64,
    lease: u64,
    esn: bool,
    /// A report is on its way.
    in_flight: bool,
    context: Context,
}

const _: () = assert!(std::mem::offset_of!(OutboundSa, context) <= 64);
// Eleven lines; see `InboundSa`.
#[cfg(target_arch = "x86_64")]
const _: () = assert!(size_of::<OutboundSa>() <= 704);

impl OutboundSa {
    /// Sets up an SA: expands the key. The first packet carries the number after [`OutboundParams::sent`].
    pub fn new(engine: EngineKind, params: &OutboundParams) -> Result<Self, SetupError> {
        Ok(Self {
            spi: params.spi,
            salt: params.key.salt(),
            iv_prefix: params.iv_prefix,
            sent: params.sent,
            // RFC 4303 §3.3.3: the sender MUST NOT send a packet on an SA if doing so would cause the sequence number to cycle.
            // Extended numbers end where the IV's do.
            number_max: if params.esn { NUMBER_MAX } else { u64::from(u32::MAX) },
            lease: params.lease,
            esn: params.esn,
            in_flight: false,
            context: Context::new(engine, params.algorithm, params.key.key()).map_err(|_| SetupError::Key)?,
        })
    }

    /// The remote peer's SPI.
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// Encrypts a packet in place and returns its number.
    ///
    /// `packet` is the inner packet; afterwards it starts at the ESP header and ends with the ICV, up to
    /// [`OVERHEAD_MAX`](crate::header::OVERHEAD_MAX) bytes longer. After an error drop it: it may be half built. With
    /// [`NO_NEXT_HEADER`](crate::header::NO_NEXT_HEADER) the packet is a dummy (RFC 4303 §2.6).
    #[inline]
    pub fn seal<B: PacketBuf>(&mut self, packet: &mut B, next_header: u8) -> Result<u64, EspError> {
        // RFC 4106 §3.2: the minimum amount of padding required, which will be less than four octets.
        let unpadded = packet.data().len() + TRAILER_LEN;
        let pad_len = unpadded.next_multiple_of(ALIGNMENT) - unpadded;
        packet.prepend(HEADER_LEN)?;
        packet.append(pad_len + TRAILER_LEN + ICV_LEN)?;

        // The number is used up before anything is made from it: whatever fails below, it is never used again.
        let number = self.next_number()?;
        let iv = self.iv_prefix.iv(number).map_err(|_| EspError::NumbersExhausted)?;

        let (header, rest) = Header::mut_from_prefix(packet.data_mut()).map_err(|_| EspError::NoRoom)?;
        let (plaintext, icv) = rest.split_last_chunk_mut::<ICV_LEN>().ok_or(EspError::NoRoom)?;
        // RFC 4303 §3.3.3: the low-order 32 bits of the value go into the Sequence Number field.
        header.spi = self.spi.get().into();
        header.sequence = (number as u32).into();
        header.iv = iv;
        // RFC 4303 §2.4: the Padding bytes are 1, 2, 3, …
        let [inner_and_padding @ .., pad_len_field, next_header_field] = plaintext else {
            return Err(EspError::NoRoom);
        };
        for (byte, value) in inner_and_padding.iter_mut().rev().zip((1..=pad_len as u8).rev()) {
            *byte = value;
        }
        *pad_len_field = pad_len as u8;
        *next_header_field = next_header;

        let nonce = Nonce::new(self.salt, iv);
        let aad = Aad::new(self.spi, number, self.esn);
        *icv = self
            .context
            .seal_in_place(nonce.as_bytes(), aad.as_bytes(), plaintext)
            .map_err(|_| EspError::SealFailed)?;
        Ok(number)
    }

    /// Last number used; 0 is none.
    #[inline]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Is half of the numbers used? Then it is time for fresh keys: RFC 4303 §3.3.3 asks for a new SA in anticipation of the end.
    /// AES-GCM's own limit, 2^64 blocks under a key (RFC 4106 §10), lies beyond 2^40 packets.
    #[inline]
    pub fn rekey_due(&self) -> bool {
        self.sent >= self.number_max / 2
    }

    /// Last number of the published block; `u64::MAX` is no limit.
    #[inline]
    pub fn lease(&self) -> u64 {
        self.lease
    }

    /// Is it time to report? Half of the block is used, and no report is in flight.
    #[inline]
    pub fn wants_more(&self) -> bool {
        !self.in_flight
            && self.lease != UNLIMITED
            && self.lease.saturating_sub(self.sent) < LEASE_BLOCK / 2
            && self.lease_wanted() > self.lease
    }

    /// How far the lease should go: a block past the last number used, within the SA's numbers. Never below the lease in force.
    #[inline]
    pub fn lease_wanted(&self) -> u64 {
        self.sent.saturating_add(LEASE_BLOCK).min(self.number_max).max(self.lease)
    }

    /// A report of [`lease_wanted`](Self::lease_wanted) left: no other until the grant.
    pub fn handle_request(&mut self) {
        self.in_flight = true;
    }

    /// Raises the lease, never lowers it: every counted copy knows it. `u64::MAX` takes the limit away.
    pub fn grant(&mut self, lease: u64) {
        self.lease = self.lease.max(lease);
        self.in_flight = false;
    }

    /// Gives an SA that had no limit a lease: a block past the last number used. Changes nothing on an SA that has one.
    pub fn bind(&mut self) {
        if self.lease == UNLIMITED {
            self.lease = 0;
            self.lease = self.lease_wanted();
        }
    }

    fn next_number(&mut self) -> Result<u64, EspError> {
        if self.sent >= self.number_max {
            return Err(EspError::NumbersExhausted);
        }
        self.sent += 1;
        Ok(self.sent)
    }
}

impl fmt::Debug for OutboundSa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboundSa")
            .field("spi", &self.spi)
            .field("esn", &self.esn)
            .field("sent", &self.sent)
            .field("lease", &self.lease)
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}
