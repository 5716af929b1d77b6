//! What a child SA is, as the control core hands it to a worker.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use thiserror::Error;
use zeroize::Zeroizing;

pub use vipsec_wire::crypto::Algorithm;
use vipsec_wire::iv::IvPrefix;

/// A security parameters index (RFC 4303 §2.1). 1..=255 are reserved, 0 never goes on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spi(u32);

/// An SPI was below 256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("SPI {0:#010x} is reserved (RFC 4303 section 2.1)")]
pub struct ReservedSpi(pub u32);

impl Spi {
    /// Checks an SPI.
    pub const fn new(spi: u32) -> Result<Self, ReservedSpi> {
        if spi < 256 { Err(ReservedSpi(spi)) } else { Ok(Self(spi)) }
    }

    /// The SPI as a number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Length of the salt that follows the key in the keying material (RFC 4106 §8.1, RFC 7634 §2), in bytes.
pub const SALT_LEN: usize = 4;

/// Keying material: key, then salt. Wiped when dropped; never printed.
#[derive(Clone)]
pub struct KeyMaterial(Zeroizing<Vec<u8>>);

/// Keying material of the wrong length for its algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("keying material of {found} bytes where {algorithm:?} takes {expected}")]
pub struct WrongKeyLength {
    /// The algorithm asked for.
    pub algorithm: Algorithm,
    /// Bytes it takes: key and salt.
    pub expected: usize,
    /// Bytes that were given.
    pub found: usize,
}

impl KeyMaterial {
    /// Checks the material's length against `algorithm`.
    pub fn new(algorithm: Algorithm, bytes: Zeroizing<Vec<u8>>) -> Result<Self, WrongKeyLength> {
        let expected = algorithm.key_len() + SALT_LEN;
        if bytes.len() != expected {
            return Err(WrongKeyLength { algorithm, expected, found: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// The cipher's key.
    pub fn key(&self) -> &[u8] {
        &self.0[..self.0.len() - SALT_LEN]
    }

    /// The salt: the first four bytes of every nonce.
    pub fn salt(&self) -> [u8; SALT_LEN] {
        let mut salt = [0; SALT_LEN];
        salt.copy_from_slice(&self.0[self.0.len() - SALT_LEN..]);
        salt
    }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyMaterial(..)")
    }
}

/// A traffic selector (RFC 7296 §3.13.1): a range of addresses of one family, a protocol, a range of ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Addresses, first and last of the same family.
    pub addresses: RangeInclusive<IpAddr>,
    /// IP protocol; `None` is any.
    pub protocol: Option<u8>,
    /// Ports; `0..=65535` is any.
    pub ports: RangeInclusive<u16>,
}

/// The outer addresses of a tunnel, and its UDP ports where ESP travels in UDP (RFC 3948).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TunnelEnds {
    /// Our end: the VIP.
    pub local: IpAddr,
    /// The remote peer's end.
    pub remote: IpAddr,
    /// (our port, the peer's port) with UDP encapsulation; `None` is protocol 50.
    pub udp: Option<(u16, u16)>,
}

/// What an SA protects (RFC 4301 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// Whole IP packets, under outer headers of their own.
    #[default]
    Tunnel,
    /// What follows the IP header, between the ends of the SA themselves.
    Transport,
}

/// How an SA is processed: by whom, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Processing {
    /// A crypto engine on the worker's core.
    #[default]
    Cpu,
    /// A crypto device computes cipher and ICV, asynchronously; the rest is the worker's.
    Lookaside,
    /// The port computes cipher and ICV on the way; the rest is the worker's.
    InlineCrypto,
    /// The port does all of ESP.
    InlineProtocol,
}

/// How much an SA carries in each direction before it is replaced (soft) and before it ends (hard): RFC 4301 §4.4.2.1.
///
/// `u64::MAX` is no limit. Time is the control core's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lifetime {
    /// Bytes after which a replacement is due. Counted is what the cipher is applied to, padding included.
    pub soft_bytes: u64,
    /// Bytes after which the SA carries nothing more.
    pub hard_bytes: u64,
    /// Packets after which a replacement is due.
    pub soft_packets: u64,
    /// Packets after which the SA carries nothing more.
    pub hard_packets: u64,
}

impl Lifetime {
    /// No limits.
    pub const NONE: Self =
        Self { soft_bytes: u64::MAX, hard_bytes: u64::MAX, soft_packets: u64::MAX, hard_packets: u64::MAX };
}

impl Default for Lifetime {
    fn default() -> Self {
        Self::NONE
    }
}

/// How the outer header of a tunnel is made from the inner one (RFC 4301 §5.1.2, RFC 6040). The default is what those RFCs start
/// from. Data only: who builds outer headers applies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TunnelPolicy {
    /// The outer DSCP.
    pub dscp: DscpPolicy,
    /// The outer DF bit.
    pub df: DfPolicy,
    /// The outer ECN field.
    pub ecn: EcnPolicy,
}

/// Where the outer DSCP comes from (RFC 4301 §5.1.2.1, notes 2 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DscpPolicy {
    /// From the inner packet.
    #[default]
    Copy,
    /// Always this one: 0..=63.
    Set(u8),
}

/// Where the outer DF bit comes from (RFC 4301 §5.1.2.1, note 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DfPolicy {
    /// The outer packet may be fragmented.
    #[default]
    Clear,
    /// From the inner packet; set for IPv6, which routers never fragment.
    Copy,
    /// The outer packet may not be fragmented.
    Set,
}

/// Where the outer ECN field comes from (RFC 6040 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EcnPolicy {
    /// Normal mode: from the inner packet.
    #[default]
    Normal,
    /// Compatibility mode: Not-ECT, for a decapsulator that would lose congestion marks.
    Compatibility,
}

/// In place of an SA's numbers: it has none yet. A dormant half takes and sends nothing before it is woken, which happens once.
pub const DORMANT: u64 = u64::MAX;

/// The inbound half of a child SA.
#[derive(Debug, Clone)]
pub struct InboundParams {
    /// The SPI we chose.
    pub spi: Spi,
    /// Cipher.
    pub algorithm: Algorithm,
    /// Key and salt.
    pub key: KeyMaterial,
    /// Anti-replay window in packets: at least 64 (RFC 4303 §3.4.3), a multiple of 64.
    pub window: u32,
    /// 64-bit extended sequence numbers (RFC 4303 §2.2.1).
    pub esn: bool,
    /// Everything up to here counts as seen already: 0 for a new SA, the old horizon after a takeover, [`DORMANT`] before one.
    pub edge: u64,
    /// Nothing above is delivered until a grant raises it.
    pub horizon: u64,
}

/// The outbound half of a child SA.
#[derive(Debug, Clone)]
pub struct OutboundParams {
    /// The SPI the remote peer chose.
    pub spi: Spi,
    /// Cipher.
    pub algorithm: Algorithm,
    /// Key and salt.
    pub key: KeyMaterial,
    /// 64-bit extended sequence numbers.
    pub esn: bool,
    /// The number before the first that may be used: 0 for a new SA, the old lease after a takeover, [`DORMANT`] before one.
    pub sent: u64,
    /// The last number of the published block.
    pub lease: u64,
    /// What makes this owner's IVs its own.
    pub iv_prefix: IvPrefix,
}

/// A child SA pair: what IKE negotiated, ready for a worker.
#[derive(Debug, Clone)]
pub struct ChildSa {
    /// Which VIP it belongs to: an index into the worker's tables; an SA never changes its VIP.
    pub vip: u16,
    /// Packets from the remote peer.
    pub inbound: InboundParams,
    /// Packets to the remote peer.
    pub outbound: OutboundParams,
    /// The inbound SPI of the SA that it replaces, where the remote peer did the replacing: what leaves goes on leaving by that one
    /// until the peer is known to be ready.
    pub succeeds: Option<Spi>,
    /// The worker that it is for, where each has one of its own for the same traffic (RFC 9611).
    pub lane: Option<u16>,
    /// What it protects.
    pub mode: Mode,
    /// By whom.
    pub processing: Processing,
    /// How much it carries.
    pub lifetime: Lifetime,
    /// How outer headers are made.
    pub policy: TunnelPolicy,
    /// Outer addresses and ports.
    pub tunnel: TunnelEnds,
    /// What our side of the tunnel may be (destination of inbound packets).
    pub local_selectors: Vec<Selector>,
    /// What the remote side may be (source of inbound packets).
    pub remote_selectors: Vec<Selector>,
}
