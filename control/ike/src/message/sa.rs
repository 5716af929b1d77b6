//! The SA payload: proposals, transforms and attributes as they stand on the wire (RFC 7296 §3.3).
//!
//! What they mean is [`crate::crypto::suite`]'s business; an unknown transform is kept here and refused there.

use super::reader::Reader;
use super::{ParseError, len16};

/// Most proposals in one SA payload.
pub const PROPOSALS_MAX: usize = 64;
/// Most attributes of one transform.
pub const ATTRIBUTES_MAX: usize = 8;

/// An IPsec protocol identifier (RFC 7296 §3.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// IKE.
    Ike,
    /// AH: never negotiated here.
    Ah,
    /// ESP.
    Esp,
    /// One that we don't know, or 0 where none applies.
    Other(u8),
}

impl Protocol {
    /// The number on the wire.
    pub const fn get(self) -> u8 {
        match self {
            Self::Ike => 1,
            Self::Ah => 2,
            Self::Esp => 3,
            Self::Other(n) => n,
        }
    }
}

impl From<u8> for Protocol {
    fn from(n: u8) -> Self {
        match n {
            1 => Self::Ike,
            2 => Self::Ah,
            3 => Self::Esp,
            n => Self::Other(n),
        }
    }
}

/// A transform attribute (RFC 7296 §3.3.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// Key Length in bits.
    KeyLength(u16),
    /// An unknown one in the short format: type (15 bits), value.
    Short(u16, u16),
    /// One in the long format: type (15 bits), value.
    Long(u16, Vec<u8>),
}

const KEY_LENGTH: u16 = 14;
const SHORT_FORMAT: u16 = 0x8000;

/// A transform (RFC 7296 §3.3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transform {
    /// Transform Type: 1 ENCR, 2 PRF, 3 INTEG, 4 D-H, 5 ESN.
    pub kind: u8,
    /// Transform ID.
    pub id: u16,
    /// Attributes.
    pub attributes: Vec<Attribute>,
}

/// A proposal (RFC 7296 §3.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Proposal Num.
    pub number: u8,
    /// What the SA is for.
    pub protocol: Protocol,
    /// The sender's SPI: empty, 8 bytes for IKE, 4 bytes for ESP.
    pub spi: Vec<u8>,
    /// Transforms; several of one type are alternatives.
    pub transforms: Vec<Transform>,
}

const MORE_PROPOSALS: u8 = 2;
const MORE_TRANSFORMS: u8 = 3;

pub(super) fn parse_proposals(mut reader: Reader<'_>) -> Result<Vec<Proposal>, ParseError> {
    let mut proposals = Vec::new();
    while !reader.is_empty() {
        if proposals.len() == PROPOSALS_MAX {
            return Err(ParseError::TooMany);
        }
        reader.u8()?; // Last Substruc says nothing that the length doesn't.
        reader.u8()?;
        let length = reader.u16()?;
        proposals.push(parse_proposal(reader.body(length, 4)?)?);
    }
    // RFC 7296 §3.3: one or more proposal substructures.
    if proposals.is_empty() { Err(ParseError::BadLength) } else { Ok(proposals) }
}

fn parse_proposal(mut reader: Reader<'_>) -> Result<Proposal, ParseError> {
    let number = reader.u8()?;
    let protocol = Protocol::from(reader.u8()?);
    let spi_size = reader.u8()?;
    let count = reader.u8()?;
    let spi = reader.take(usize::from(spi_size))?.to_vec();
    let mut transforms = Vec::new();
    for _ in 0..count {
        reader.u8()?;
        reader.u8()?;
        let length = reader.u16()?;
        transforms.push(parse_transform(reader.body(length, 4)?)?);
    }
    // RFC 7296 §3.3: the payload length MUST be consistent with the internal lengths and counts.
    if reader.is_empty() { Ok(Proposal { number, protocol, spi, transforms }) } else { Err(ParseError::BadLength) }
}

fn parse_transform(mut reader: Reader<'_>) -> Result<Transform, ParseError> {
    let kind = reader.u8()?;
    reader.u8()?;
    let id = reader.u16()?;
    let mut attributes = Vec::new();
    while !reader.is_empty() {
        if attributes.len() == ATTRIBUTES_MAX {
            return Err(ParseError::TooMany);
        }
        let kind = reader.u16()?;
        let value = reader.u16()?;
        attributes.push(if kind & SHORT_FORMAT == 0 {
            Attribute::Long(kind, reader.take(usize::from(value))?.to_vec())
        } else if kind & !SHORT_FORMAT == KEY_LENGTH {
            Attribute::KeyLength(value)
        } else {
            Attribute::Short(kind & !SHORT_FORMAT, value)
        });
    }
    Ok(Transform { kind, id, attributes })
}

pub(super) fn encode_proposals(proposals: &[Proposal], out: &mut Vec<u8>) {
    for (i, proposal) in proposals.iter().enumerate() {
        let start = out.len();
        out.extend_from_slice(&[if i + 1 < proposals.len() { MORE_PROPOSALS } else { 0 }, 0, 0, 0]);
        let spi_size = u8::try_from(proposal.spi.len()).unwrap_or(u8::MAX);
        let count = u8::try_from(proposal.transforms.len()).unwrap_or(u8::MAX);
        out.extend_from_slice(&[proposal.number, proposal.protocol.get(), spi_size, count]);
        out.extend_from_slice(&proposal.spi);
        for (i, transform) in proposal.transforms.iter().enumerate() {
            encode_transform(transform, i + 1 < proposal.transforms.len(), out);
        }
        patch_length(out, start);
    }
}

fn encode_transform(transform: &Transform, more: bool, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[if more { MORE_TRANSFORMS } else { 0 }, 0, 0, 0, transform.kind, 0]);
    out.extend_from_slice(&transform.id.to_be_bytes());
    for attribute in &transform.attributes {
        let (kind, value): (u16, u16) = match attribute {
            Attribute::KeyLength(bits) => (KEY_LENGTH | SHORT_FORMAT, *bits),
            Attribute::Short(kind, value) => (kind | SHORT_FORMAT, *value),
            Attribute::Long(kind, value) => (kind & !SHORT_FORMAT, len16(value.len())),
        };
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
        if let Attribute::Long(_, value) = attribute {
            out.extend_from_slice(value);
        }
    }
    patch_length(out, start);
}

/// Fills in the 16-bit length that stands two bytes into the substructure that began at `start`.
pub(super) fn patch_length(out: &mut [u8], start: usize) {
    let length = len16(out.len().saturating_sub(start)).to_be_bytes();
    if let Some(field) = out.get_mut(start.saturating_add(2)..start.saturating_add(4)) {
        field.copy_from_slice(&length);
    }
}
