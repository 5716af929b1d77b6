//! The outbound half of a child SA.

use std::fmt;
use std::mem::offset_of;

use vipsec_ipsec_mb::{LINE_LEN, prefetch};
use vipsec_wire::buffer::PacketBuf;
use vipsec_wire::iv::{IvPrefix, NUMBER_MAX};
use zerocopy::FromBytes;

use crate::engine::{Context, EngineKind, Footprint};
use crate::error::{EspError, SetupError};
use crate::header::{ALIGNMENT, HEADER_LEN, Header, ICV_LEN, TRAILER_LEN};
use crate::lifetime::{Allowance, LifetimeDue, Limits};
use crate::op::CryptoOp;
use crate::room::UNLIMITED;
use crate::sa::{DORMANT, Lifetime, OutboundParams, SALT_LEN, Spi};
use crate::trailer;

/// Numbers in a published block.
///
/// A successor skips at most that many. At a million packets per second half a block lasts 33 ms; 2^32 numbers hold 65,536 blocks.
pub const LEASE_BLOCK: u64 = 1 << 16;

/// A packet that was built and has yet to be encrypted, once. Whoever does that, it is ready to be sent afterwards.
///
/// Not `Clone`, and used up by [`OutboundSa::encrypt`]: its nonce is good for one packet.
#[derive(Debug)]
#[must_use]
pub struct Sealing {
    number: u64,
    op: CryptoOp,
}

impl Sealing {
    /// The packet's number, used up whatever becomes of the packet.
    #[inline]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What is to be done: for a device, which is given it once.
    #[inline]
    pub fn op(&self) -> &CryptoOp {
        &self.op
    }
}

/// Seals packets towards one remote peer and hands out their numbers.
///
/// [`seal`](Self::seal) is [`prepare`](Self::prepare) and [`encrypt`](Self::encrypt). Where a device encrypts, it takes the second
/// step's place.
///
/// Not `Clone`: two copies would use the same numbers under the same key.
///
/// The lease says where a successor would go on. Sealing never waits for it, because the IV's prefix, not the lease, keeps
/// nonces unique; past the lease the remote peer's replay window may refuse a successor's first packets.
// The first cache line is what every packet touches, besides what the engine takes of its context, which follows.
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
    allowance: Allowance,
    esn: bool,
    /// A report is on its way.
    in_flight: bool,
    footprint: Footprint,
    context: Context,
    limits: Limits,
}

const _: () = assert!(offset_of!(OutboundSa, context) == LINE_LEN);
#[cfg(target_arch = "x86_64")]
const _: () = assert!(size_of::<OutboundSa>() == 18 * LINE_LEN);

impl OutboundSa {
    /// Sets up an SA without limits to its lifetime: expands the key. The first packet carries the number after
    /// [`OutboundParams::sent`].
    pub fn new(engine: EngineKind, params: &OutboundParams) -> Result<Self, SetupError> {
        let (allowance, limits) = Allowance::new(&Lifetime::NONE, 0);
        Ok(Self {
            spi: params.spi,
            salt: params.key.salt(),
            iv_prefix: params.iv_prefix,
            sent: params.sent,
            // RFC 4303 §3.3.3: the sender MUST NOT send a packet on an SA if doing so would cause the sequence number to cycle.
            // Extended numbers end where the IV's do.
            number_max: if params.esn { NUMBER_MAX } else { u64::from(u32::MAX) },
            lease: params.lease,
            allowance,
            esn: params.esn,
            in_flight: false,
            footprint: Footprint::of(engine, params.algorithm),
            context: Context::new(engine, params.algorithm, params.key.key())?,
            limits,
        })
    }

    /// Limits what it carries. After a takeover the numbers used count as packets; bytes count from here on. A dormant one gets its
    /// limits when it is woken.
    pub fn with_lifetime(mut self, lifetime: &Lifetime) -> Self {
        if !self.is_dormant() {
            (self.allowance, self.limits) = Allowance::new(lifetime, self.sent);
        }
        self
    }

    /// Has it no numbers yet?
    fn is_dormant(&self) -> bool {
        self.sent == DORMANT
    }

    /// Gives a dormant SA its numbers and its owner's IVs, without a lease to note: the first packet carries the number after `sent`.
    /// False, and nothing has changed, if it has numbers already: they never go back (I1).
    #[must_use]
    pub fn wake(&mut self, iv_prefix: IvPrefix, sent: u64, lifetime: &Lifetime) -> bool {
        if !self.is_dormant() {
            return false;
        }
        (self.iv_prefix, self.sent, self.lease) = (iv_prefix, sent, UNLIMITED);
        (self.allowance, self.limits) = Allowance::new(lifetime, sent);
        true
    }

    /// The remote peer's SPI.
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// Asks for what every packet touches here, without waiting for it: call it for a whole burst at once.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(self);
    }

    /// Asks for the part of the expanded key that a packet of `len` bytes takes, without waiting for it.
    ///
    /// Which part that is stands in what [`prefetch`](Self::prefetch) asked for. Call it for the packet that comes
    /// [`KEY_AHEAD`](crate::KEY_AHEAD) packets later, before working on one: the keys of a whole burst at once would stand in each
    /// other's way.
    #[inline]
    pub fn prefetch_key(&self, len: usize) {
        self.context.prefetch(self.footprint, len);
    }

    /// Encrypts a packet in place and returns its number.
    ///
    /// `packet` is what is to be protected: in tunnel mode the inner packet, in transport mode what follows the IP header.
    /// Afterwards it starts at the ESP header and ends with the ICV, up to [`OVERHEAD_MAX`](crate::header::OVERHEAD_MAX) bytes
    /// longer. After an error drop it: it may be half built. With [`NO_NEXT_HEADER`](crate::header::NO_NEXT_HEADER) the packet is
    /// a dummy (RFC 4303 §2.6).
    #[inline]
    pub fn seal<B: PacketBuf>(&mut self, packet: &mut B, next_header: u8) -> Result<u64, EspError> {
        let sealing = self.prepare(packet, next_header)?;
        self.encrypt(packet, sealing)
    }

    /// Everything before encryption: header and trailer, number, IV, nonce and AAD, and room for the ICV.
    ///
    /// The packet's contents are as for [`seal`](Self::seal). Its number is used up, whatever happens next.
    #[inline]
    pub fn prepare<B: PacketBuf>(&mut self, packet: &mut B, next_header: u8) -> Result<Sealing, EspError> {
        // RFC 4106 §3.2: the minimum amount of padding required, which will be less than four octets.
        let unpadded = packet.data().len() + TRAILER_LEN;
        let pad_len = unpadded.next_multiple_of(ALIGNMENT) - unpadded;
        let text_len = unpadded + pad_len;
        packet.prepend(HEADER_LEN)?;
        packet.append(pad_len + TRAILER_LEN + ICV_LEN)?;

        // The number is used up before anything is made from it: whatever fails below, it is never used again.
        let number = self.next_number(text_len)?;
        let iv = self.iv_prefix.iv(number).map_err(|_| EspError::NumbersExhausted)?;

        let (header, rest) = Header::mut_from_prefix(packet.data_mut()).map_err(|_| EspError::NoRoom)?;
        // RFC 4303 §3.3.3: the low-order 32 bits of the value go into the Sequence Number field.
        *header = Header { spi: self.spi.get().into(), sequence: (number as u32).into(), iv };
        let text = rest.get_mut(..text_len).ok_or(EspError::NoRoom)?;
        trailer::write(text, pad_len as u8, next_header).ok_or(EspError::NoRoom)?;

        Ok(Sealing { number, op: CryptoOp::new(self.spi, self.salt, iv, number, self.esn, text_len) })
    }

    /// Encrypts a prepared packet on this core and returns its number.
    #[inline]
    pub fn encrypt<B: PacketBuf>(&self, packet: &mut B, sealing: Sealing) -> Result<u64, EspError> {
        let Sealing { number, op } = sealing;
        let (text, icv) = op.split(packet.data_mut()).ok_or(EspError::NoRoom)?;
        self.context.seal_in_place(op.nonce(), op.aad(), text, icv).map_err(|_| EspError::SealFailed)?;
        Ok(number)
    }

    /// The limit that its lifetime has reached since the last call. Each is told once.
    pub fn lifetime_due(&mut self) -> Option<LifetimeDue> {
        self.limits.take_due()
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

    /// Goes on that far above the last number used: the peer may have lost count (RFC 6311 §5.2).
    pub fn skip(&mut self, delta: u64) {
        self.sent = self.sent.saturating_add(delta).min(self.number_max);
    }

    /// The number of a packet with that many bytes of text.
    #[inline]
    fn next_number(&mut self, text_len: usize) -> Result<u64, EspError> {
        if self.allowance.is_used_up() {
            return Err(EspError::LifetimeOver);
        }
        if self.sent >= self.number_max {
            return Err(if self.is_dormant() { EspError::Dormant } else { EspError::NumbersExhausted });
        }
        self.sent += 1;
        if self.allowance.spend(text_len) {
            self.limits.handle_used_up(&mut self.allowance);
        }
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
