//! IKE messages as they stand on the wire (RFC 7296 §3).
//!
//! Parsing is strict about lengths and counts and lenient about order, unknown transforms, notifications and payloads
//! without the critical bit (RFC 7296 §2.5). Nothing here panics on any input.

mod header;
pub mod notify;
mod payload;
mod reader;
pub mod sa;
mod ts;

#[cfg(test)]
mod tests;

use thiserror::Error;

pub use header::{Direction, ExchangeType, HEADER_LEN, Header, Role};
pub use notify::NotifyType;
use payload::{ChainEnd, encode_chain, kind, parse_chain};
pub use payload::{Delete, NONCE_LEN, Notify, PAYLOADS_MAX, Payload};

/// Longest message that is read, in bytes. Without fragmentation (RFC 7383) no peer of ours comes near.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;

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
}

/// The Encrypted payload of a received message.
#[derive(Debug, Clone, Copy)]
pub struct Sealed<'a> {
    /// From the first byte of the header through the Encrypted payload's generic header (RFC 5282 §5.1).
    pub associated_data: &'a [u8],
    /// IV, ciphertext and checksum.
    pub body: &'a [u8],
    first: u8,
}

impl<'a> Received<'a> {
    /// Reads the header of a datagram (without non-ESP marker).
    pub fn parse(datagram: &'a [u8]) -> Result<Self, ParseError> {
        if datagram.len() > MESSAGE_BYTES_MAX {
            return Err(ParseError::TooMany);
        }
        let (header, next, body) = Header::parse(datagram)?;
        Ok(Self { header, next, body, datagram })
    }

    /// The payloads of a message that must be in the clear.
    pub fn clear(&self) -> Result<Vec<Payload>, ParseError> {
        match parse_chain(self.next, self.body)? {
            (payloads, ChainEnd::Clear) => Ok(payloads),
            (_, ChainEnd::Encrypted(..)) => Err(ParseError::Misplaced),
        }
    }

    /// The Encrypted payload of a message that must have one. Clear payloads before it are ignored: nothing we know puts one there.
    pub fn sealed(&self) -> Result<Sealed<'a>, ParseError> {
        let (_, ChainEnd::Encrypted(first, body)) = parse_chain(self.next, self.body)? else {
            return Err(ParseError::Misplaced);
        };
        let covered = self.datagram.len().saturating_sub(body.len());
        let associated_data = self.datagram.get(..covered).ok_or(ParseError::Truncated)?;
        Ok(Sealed { associated_data, body, first })
    }
}

impl Sealed<'_> {
    /// Reads the payloads inside, from the decrypted bytes with padding and pad length.
    pub fn inner(&self, plaintext: &[u8]) -> Result<Vec<Payload>, ParseError> {
        let (pad_length, rest) = plaintext.split_last().ok_or(ParseError::Truncated)?;
        // RFC 5282 §3: any amount of padding up to 255 octets is accepted.
        let end = rest.len().checked_sub(usize::from(*pad_length)).ok_or(ParseError::BadLength)?;
        let bytes = rest.get(..end).ok_or(ParseError::BadLength)?;
        match parse_chain(self.first, bytes)? {
            (payloads, ChainEnd::Clear) => Ok(payloads),
            // RFC 7296 §3.1: an Encrypted payload MUST NOT contain another one.
            (_, ChainEnd::Encrypted(..)) => Err(ParseError::Misplaced),
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

/// A message of ours about to be encrypted.
#[derive(Debug)]
pub struct Unsealed {
    /// Header and the Encrypted payload's generic header: the associated data.
    pub associated_data: Vec<u8>,
    /// Payloads and pad length.
    pub plaintext: zeroize::Zeroizing<Vec<u8>>,
}

/// Lays out a message whose Encrypted payload will hold `payloads` and grow by `overhead` bytes of IV and checksum.
pub fn encode_unsealed(header: &Header, payloads: &[Payload], overhead: usize) -> Unsealed {
    let mut plaintext = Vec::new();
    let first = encode_chain(payloads, &mut plaintext);
    // RFC 5282 §3: no alignment requirements, so no padding; the pad length stands alone.
    plaintext.push(0);
    let payload_len = 4 + plaintext.len() + overhead;
    let mut associated_data = Vec::with_capacity(HEADER_LEN + payload_len);
    header.encode(kind::SK, len32(HEADER_LEN + payload_len), &mut associated_data);
    associated_data.extend_from_slice(&[first, 0]);
    associated_data.extend_from_slice(&len16(payload_len).to_be_bytes());
    Unsealed { associated_data, plaintext: zeroize::Zeroizing::new(plaintext) }
}

/// Lengths of our own messages are far below the limit of the field.
fn len16(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
