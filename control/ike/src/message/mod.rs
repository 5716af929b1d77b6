//! IKE messages as they stand on the wire (RFC 7296 §3).
//!
//! Parsing is strict about lengths and counts and lenient about order, unknown transforms, notifications and payloads
//! without the critical bit (RFC 7296 §2.5). Nothing here panics on any input.

mod config;
mod header;
pub mod notify;
mod payload;
mod reader;
pub mod sa;
mod ts;

#[cfg(test)]
mod tests;

use thiserror::Error;
use zeroize::Zeroizing;

pub use config::{CONFIG_ATTRIBUTES_MAX, ConfigAttribute, ConfigKind, ConfigPayload};
pub use header::{Direction, ExchangeType, HEADER_LEN, Header, Role};
pub use notify::NotifyType;
use payload::{ChainEnd, encode_chain, kind, parse_chain};
pub use payload::{Delete, NONCE_LEN, Notify, Payload};

/// Length of the generic payload header (RFC 7296 §3.2).
const PAYLOAD_HEADER_LEN: usize = 4;
/// Length of what an Encrypted Fragment payload has beside it (RFC 7383 §2.5).
const FRAGMENT_HEADER_LEN: usize = 4;

/// Why bytes are no IKE message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseError {
    /// They end too early.
    #[error("the message is truncated")]
    Truncated,
    /// A length or count contradicts another, or lies outside its bounds.
    #[error("a length in the message is wrong")]
    BadLength,
    /// More bytes, payloads, proposals or attributes than we are willing to look at.
    #[error("the message is too large")]
    TooMany,
    /// IKEv1, or something that isn't IKE.
    #[error("the message's major version is below 2")]
    OldVersion,
    /// A later version; what could be read of its header is for the answer (RFC 7296 §2.5).
    #[error("the message's major version is above 2")]
    MajorVersion(Header),
    /// The initiator's SPI is zero.
    #[error("the initiator's SPI is zero")]
    ZeroSpi,
    /// An unknown payload of that type with the critical bit.
    #[error("unsupported critical payload of type {0}")]
    Critical(u8),
    /// An Encrypted payload where none may be, or none where one must be.
    #[error("encrypted and clear payloads don't belong there")]
    Misplaced,
}

/// A received message: header read, body not yet.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// Its header.
    pub header: Header,
    next: u8,
    body: &'a [u8],
    datagram: &'a [u8],
    limits: ParseLimits,
}

/// The Encrypted payload of a received message, or the Encrypted Fragment payload.
#[derive(Debug, Clone, Copy)]
pub struct Sealed<'a> {
    /// From the first byte of the header through the payload's own header (RFC 5282 §5.1).
    pub associated_data: &'a [u8],
    /// IV, ciphertext and checksum.
    pub body: &'a [u8],
    /// Is it all of the message?
    pub part: Part,
    first: u8,
    limits: ParseLimits,
}

/// Which part of a message one datagram carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it: an Encrypted payload.
    Whole,
    /// An Encrypted Fragment payload (RFC 7383 §2.5).
    Fragment {
        /// From 1 to `total`.
        number: u16,
        /// How many there are.
        total: u16,
    },
}

/// Bounds on what is read of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseLimits {
    /// Longest message, put together from its fragments.
    pub message_bytes_max: usize,
    /// Most payloads in it.
    pub payloads_max: usize,
}

impl Default for ParseLimits {
    fn default() -> Self {
        // RFC 7296 §2: 1280 octets MUST be accepted, 3000 SHOULD.
        Self { message_bytes_max: 16 * 1024, payloads_max: 64 }
    }
}

impl<'a> Received<'a> {
    /// Reads the header of a datagram (without non-ESP marker).
    pub fn parse(datagram: &'a [u8], limits: ParseLimits) -> Result<Self, ParseError> {
        if datagram.len() > limits.message_bytes_max {
            return Err(ParseError::TooMany);
        }
        let (header, next, body) = Header::parse(datagram)?;
        Ok(Self { header, next, body, datagram, limits })
    }

    /// The payloads of a message that must be in the clear.
    pub fn clear(&self) -> Result<Vec<Payload>, ParseError> {
        match parse_chain(self.next, self.body, self.limits.payloads_max)? {
            (payloads, ChainEnd::Clear) => Ok(payloads),
            (_, ChainEnd::Encrypted { .. }) => Err(ParseError::Misplaced),
        }
    }

    /// The Encrypted (Fragment) payload of a message that must have one. Clear payloads before it are ignored: nothing we know
    /// puts one there.
    pub fn sealed(&self) -> Result<Sealed<'a>, ParseError> {
        let (_, ChainEnd::Encrypted { part, first, body }) =
            parse_chain(self.next, self.body, self.limits.payloads_max)?
        else {
            return Err(ParseError::Misplaced);
        };
        let covered = self.datagram.len().saturating_sub(body.len());
        let associated_data = self.datagram.get(..covered).ok_or(ParseError::Truncated)?;
        Ok(Sealed { associated_data, body, part, first, limits: self.limits })
    }
}

impl Sealed<'_> {
    /// The payloads inside a whole message, from its decrypted bytes with padding and pad length.
    pub fn payloads(&self, plaintext: &[u8]) -> Result<Vec<Payload>, ParseError> {
        Content { first: self.first, bytes: unpad(plaintext)?.to_vec().into() }.payloads(self.limits)
    }

    /// What a fragment contributes, from its decrypted bytes: the type of the message's first payload (0 in all fragments but the
    /// first), and a piece of its payloads.
    pub fn piece(&self, plaintext: &[u8]) -> Result<Content, ParseError> {
        Ok(Content { first: self.first, bytes: unpad(plaintext)?.to_vec().into() })
    }
}

/// RFC 7296 §3.14: the recipient MUST accept any amount of padding. RFC 5282 §3: up to 255 octets.
fn unpad(plaintext: &[u8]) -> Result<&[u8], ParseError> {
    let (pad_length, rest) = plaintext.split_last().ok_or(ParseError::Truncated)?;
    let end = rest.len().checked_sub(usize::from(*pad_length)).ok_or(ParseError::BadLength)?;
    rest.get(..end).ok_or(ParseError::BadLength)
}

/// The payloads of a protected message, encoded.
#[derive(Debug, Clone)]
pub struct Content {
    /// Type of the first one.
    pub first: u8,
    /// The chain.
    pub bytes: Zeroizing<Vec<u8>>,
}

impl Content {
    /// Encodes payloads.
    pub fn new(payloads: &[Payload]) -> Self {
        let mut bytes = Zeroizing::new(Vec::new());
        let first = encode_chain(payloads, &mut bytes);
        Self { first, bytes }
    }

    /// Reads the payloads.
    pub fn payloads(&self, limits: ParseLimits) -> Result<Vec<Payload>, ParseError> {
        match parse_chain(self.first, &self.bytes, limits.payloads_max)? {
            (payloads, ChainEnd::Clear) => Ok(payloads),
            // RFC 7296 §3.14, RFC 7383 §2.5: an Encrypted payload contains no other one.
            (_, ChainEnd::Encrypted { .. }) => Err(ParseError::Misplaced),
        }
    }
}

/// Writes a message in the clear.
pub fn encode_clear(header: &Header, payloads: &[Payload]) -> Vec<u8> {
    let mut body = Vec::new();
    let next = encode_chain(payloads, &mut body);
    let mut out = Vec::with_capacity(HEADER_LEN + body.len());
    header.encode(next, len32(HEADER_LEN + body.len()), &mut out);
    out.extend_from_slice(&body);
    out
}

/// What a cipher puts around the content of an Encrypted payload, lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// In front.
    pub iv_len: usize,
    /// Content, padding and pad length are a multiple of it.
    pub block_len: usize,
    /// Behind.
    pub icv_len: usize,
}

impl Envelope {
    /// How much content fits a fragment of so many bytes, IKE header included.
    pub fn room(&self, message_bytes_max: usize) -> usize {
        let around = HEADER_LEN + PAYLOAD_HEADER_LEN + FRAGMENT_HEADER_LEN + self.iv_len + self.icv_len;
        let blocks = message_bytes_max.saturating_sub(around) / self.block_len.max(1);
        (blocks * self.block_len).saturating_sub(1)
    }

    /// Length of the message that carries so much content as a whole.
    pub fn message_len(&self, content_len: usize) -> usize {
        HEADER_LEN + PAYLOAD_HEADER_LEN + self.iv_len + self.padded_len(content_len) + self.icv_len
    }

    /// Content, padding and pad length.
    fn padded_len(&self, content_len: usize) -> usize {
        (content_len + 1).next_multiple_of(self.block_len.max(1))
    }
}

/// A message of ours about to be encrypted.
#[derive(Debug)]
pub struct Unsealed {
    /// Header and the Encrypted payload's own header: the associated data.
    pub associated_data: Vec<u8>,
    /// Payloads, padding and pad length.
    pub plaintext: Zeroizing<Vec<u8>>,
}

/// Lays out a message whose Encrypted (Fragment) payload will hold `content`, which begins with a payload of type `first`.
pub fn encode_unsealed(header: &Header, part: Part, first: u8, content: &[u8], envelope: Envelope) -> Unsealed {
    let padded_len = envelope.padded_len(content.len());
    let mut plaintext = Zeroizing::new(Vec::with_capacity(padded_len));
    plaintext.extend_from_slice(content);
    // Padding of zeros, then its length.
    let pad_length = padded_len.saturating_sub(content.len() + 1);
    plaintext.resize(padded_len.saturating_sub(1), 0);
    plaintext.push(u8::try_from(pad_length).unwrap_or(u8::MAX));

    let (kind, numbers) = match part {
        Part::Whole => (kind::SK, None),
        Part::Fragment { number, total } => (kind::SKF, Some((number, total))),
    };
    let own_len = PAYLOAD_HEADER_LEN + if numbers.is_some() { FRAGMENT_HEADER_LEN } else { 0 };
    let payload_len = own_len + envelope.iv_len + padded_len + envelope.icv_len;
    let mut associated_data = Vec::with_capacity(HEADER_LEN + payload_len);
    header.encode(kind, len32(HEADER_LEN + payload_len), &mut associated_data);
    associated_data.extend_from_slice(&[first, 0]);
    associated_data.extend_from_slice(&len16(payload_len).to_be_bytes());
    if let Some((number, total)) = numbers {
        associated_data.extend_from_slice(&number.to_be_bytes());
        associated_data.extend_from_slice(&total.to_be_bytes());
    }
    Unsealed { associated_data, plaintext }
}

/// Lengths of our own messages are far below the limit of the field.
fn len16(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
