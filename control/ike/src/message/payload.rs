//! Payloads and the chain that links them (RFC 7296 §3.2 to §3.13).

use super::config::{ConfigPayload, encode_config, parse_config};
use super::notify::NotifyType;
use super::reader::Reader;
use super::sa::{Proposal, Protocol, encode_proposals, parse_proposals, patch_length};
use super::ts::{encode_selectors, parse_selectors};
use super::{ParseError, Part, len16};
use crate::identity::Identity;
use crate::selector::TrafficSelector;

/// Shortest and longest nonce in bytes (RFC 7296 §3.9).
pub const NONCE_LEN: std::ops::RangeInclusive<usize> = 16..=256;

/// Payload type numbers (RFC 7296 §3.2).
pub(super) mod kind {
    pub(crate) const NONE: u8 = 0;
    pub(crate) const SA: u8 = 33;
    pub(crate) const KE: u8 = 34;
    pub(crate) const ID_I: u8 = 35;
    pub(crate) const ID_R: u8 = 36;
    pub(crate) const CERT: u8 = 37;
    pub(crate) const CERTREQ: u8 = 38;
    pub(crate) const AUTH: u8 = 39;
    pub(crate) const NONCE: u8 = 40;
    pub(crate) const NOTIFY: u8 = 41;
    pub(crate) const DELETE: u8 = 42;
    pub(crate) const VENDOR: u8 = 43;
    pub(crate) const TS_I: u8 = 44;
    pub(crate) const TS_R: u8 = 45;
    pub(crate) const SK: u8 = 46;
    pub(crate) const CP: u8 = 47;
    pub(crate) const EAP: u8 = 48;
    pub(crate) const SKF: u8 = 53;
}

/// A Notify payload (RFC 7296 §3.10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// Protocol of the SA that `spi` names; 0 without one.
    pub protocol: Protocol,
    /// The SPI, or nothing.
    pub spi: Vec<u8>,
    /// What it says.
    pub kind: NotifyType,
    /// Notification data.
    pub data: Vec<u8>,
}

/// What a Delete payload deletes (RFC 7296 §3.11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delete {
    /// The IKE SA that the message came on.
    Ike,
    /// ESP SAs, by the SPIs that the sender of the payload chose.
    Esp(Vec<u32>),
    /// Something that was never negotiated here: AH, or an unknown protocol.
    Other(u8),
}

/// A payload, without its generic header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Security Association.
    Sa(Vec<Proposal>),
    /// Key Exchange: group number, public value.
    KeyExchange(u16, Vec<u8>),
    /// Identification - Initiator.
    IdInitiator(Identity),
    /// Identification - Responder.
    IdResponder(Identity),
    /// Authentication: method, data.
    Auth(u8, Vec<u8>),
    /// Nonce.
    Nonce(Vec<u8>),
    /// Notify.
    Notify(Notify),
    /// Delete.
    Delete(Delete),
    /// Vendor ID.
    Vendor(Vec<u8>),
    /// Traffic Selector - Initiator.
    TsInitiator(Vec<TrafficSelector>),
    /// Traffic Selector - Responder.
    TsResponder(Vec<TrafficSelector>),
    /// Configuration.
    Config(ConfigPayload),
    /// One that RFC 7296 defines and that we have no use for (CERT, CERTREQ, EAP): type, body. It counts as understood.
    Unused(u8, Vec<u8>),
    /// An unknown one without the critical bit: type, body.
    Unknown(u8, Vec<u8>),
}

/// A Notify payload without SPI.
impl From<NotifyType> for Payload {
    fn from(kind: NotifyType) -> Self {
        Self::notify(kind, Vec::new())
    }
}

impl Payload {
    /// A Notify payload with data and without SPI.
    pub const fn notify(kind: NotifyType, data: Vec<u8>) -> Self {
        Self::Notify(Notify { protocol: Protocol::Other(0), spi: Vec::new(), kind, data })
    }

    /// A Notify payload about an ESP SA.
    pub fn notify_esp(kind: NotifyType, spi: u32) -> Self {
        let spi = spi.to_be_bytes().to_vec();
        Self::Notify(Notify { protocol: Protocol::Esp, spi, kind, data: Vec::new() })
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Sa(_) => kind::SA,
            Self::KeyExchange(..) => kind::KE,
            Self::IdInitiator(_) => kind::ID_I,
            Self::IdResponder(_) => kind::ID_R,
            Self::Auth(..) => kind::AUTH,
            Self::Nonce(_) => kind::NONCE,
            Self::Notify(_) => kind::NOTIFY,
            Self::Delete(_) => kind::DELETE,
            Self::Vendor(_) => kind::VENDOR,
            Self::TsInitiator(_) => kind::TS_I,
            Self::TsResponder(_) => kind::TS_R,
            Self::Config(_) => kind::CP,
            Self::Unused(kind, _) | Self::Unknown(kind, _) => *kind,
        }
    }

    fn parse(kind: u8, critical: bool, mut body: Reader<'_>) -> Result<Self, ParseError> {
        Ok(match kind {
            kind::SA => Self::Sa(parse_proposals(body)?),
            kind::KE => {
                let group = body.u16()?;
                body.u16()?;
                Self::KeyExchange(group, body.rest().to_vec())
            }
            kind::ID_I => Self::IdInitiator(parse_identity(body)?),
            kind::ID_R => Self::IdResponder(parse_identity(body)?),
            kind::AUTH => {
                let method = body.u8()?;
                body.take(3)?;
                Self::Auth(method, body.rest().to_vec())
            }
            kind::NONCE => {
                let nonce = body.rest();
                // RFC 7296 §3.9: between 16 and 256 octets.
                if !NONCE_LEN.contains(&nonce.len()) {
                    return Err(ParseError::BadLength);
                }
                Self::Nonce(nonce.to_vec())
            }
            kind::NOTIFY => {
                let protocol = Protocol::from(body.u8()?);
                let spi_size = usize::from(body.u8()?);
                let kind = NotifyType(body.u16()?);
                let spi = body.take(spi_size)?.to_vec();
                Self::Notify(Notify { protocol, spi, kind, data: body.rest().to_vec() })
            }
            kind::DELETE => Self::Delete(parse_delete(body)?),
            kind::VENDOR => Self::Vendor(body.rest().to_vec()),
            kind::TS_I => Self::TsInitiator(parse_selectors(body)?),
            kind::TS_R => Self::TsResponder(parse_selectors(body)?),
            kind::CP => Self::Config(parse_config(body)?),
            kind::CERT | kind::CERTREQ | kind::EAP => Self::Unused(kind, body.rest().to_vec()),
            // RFC 7296 §2.5: a message with an unknown payload that is critical MUST be rejected; others are skipped.
            kind if critical => return Err(ParseError::Critical(kind)),
            kind => Self::Unknown(kind, body.rest().to_vec()),
        })
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Sa(proposals) => encode_proposals(proposals, out),
            Self::KeyExchange(group, data) => {
                out.extend_from_slice(&group.to_be_bytes());
                out.extend_from_slice(&[0, 0]);
                out.extend_from_slice(data);
            }
            Self::IdInitiator(identity) | Self::IdResponder(identity) => identity.encode(out),
            Self::Auth(method, data) => {
                out.extend_from_slice(&[*method, 0, 0, 0]);
                out.extend_from_slice(data);
            }
            Self::Notify(notify) => {
                out.extend_from_slice(&[notify.protocol.get(), u8::try_from(notify.spi.len()).unwrap_or(u8::MAX)]);
                out.extend_from_slice(&notify.kind.0.to_be_bytes());
                out.extend_from_slice(&notify.spi);
                out.extend_from_slice(&notify.data);
            }
            Self::Delete(delete) => encode_delete(delete, out),
            Self::TsInitiator(selectors) | Self::TsResponder(selectors) => encode_selectors(selectors, out),
            Self::Config(config) => encode_config(config, out),
            Self::Nonce(bytes) | Self::Vendor(bytes) | Self::Unused(_, bytes) | Self::Unknown(_, bytes) => {
                out.extend_from_slice(bytes);
            }
        }
    }
}

fn parse_identity(mut body: Reader<'_>) -> Result<Identity, ParseError> {
    let kind = body.u8()?;
    body.take(3)?;
    Ok(Identity::from_wire(kind, body.rest().to_vec()))
}

fn parse_delete(mut body: Reader<'_>) -> Result<Delete, ParseError> {
    let protocol = Protocol::from(body.u8()?);
    let spi_size = body.u8()?;
    let count = body.u16()?;
    match (protocol, spi_size, count) {
        (Protocol::Ike, 0, 0) if body.is_empty() => Ok(Delete::Ike),
        (Protocol::Esp, 4, count) => {
            let spis = (0..count).map(|_| body.u32()).collect::<Result<_, _>>()?;
            if body.is_empty() { Ok(Delete::Esp(spis)) } else { Err(ParseError::BadLength) }
        }
        (Protocol::Ike | Protocol::Esp, ..) => Err(ParseError::BadLength),
        (other, ..) => Ok(Delete::Other(other.get())),
    }
}

fn encode_delete(delete: &Delete, out: &mut Vec<u8>) {
    match delete {
        Delete::Ike => out.extend_from_slice(&[Protocol::Ike.get(), 0, 0, 0]),
        Delete::Esp(spis) => {
            out.extend_from_slice(&[Protocol::Esp.get(), 4]);
            out.extend_from_slice(&len16(spis.len()).to_be_bytes());
            for spi in spis {
                out.extend_from_slice(&spi.to_be_bytes());
            }
        }
        Delete::Other(protocol) => out.extend_from_slice(&[*protocol, 4, 0, 0]),
    }
}

/// What a chain of payloads ends with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ChainEnd<'a> {
    /// The chain is whole.
    Clear,
    /// An Encrypted payload, or an Encrypted Fragment payload.
    Encrypted {
        part: Part,
        /// The type of the first payload inside.
        first: u8,
        body: &'a [u8],
    },
}

/// Reads a chain whose first payload is of type `next` and that fills `bytes`.
pub(super) fn parse_chain(
    mut next: u8,
    bytes: &[u8],
    payloads_max: usize,
) -> Result<(Vec<Payload>, ChainEnd<'_>), ParseError> {
    let mut reader = Reader::new(bytes);
    let mut payloads = Vec::new();
    while next != kind::NONE {
        if payloads.len() >= payloads_max {
            return Err(ParseError::TooMany);
        }
        let this = next;
        next = reader.u8()?;
        let critical = reader.u8()? & 0x80 != 0;
        let length = reader.u16()?;
        let mut body = reader.body(length, 4)?;
        let part = match this {
            kind::SK => Some(Part::Whole),
            kind::SKF => Some(parse_fragment_header(&mut body)?),
            _ => None,
        };
        if let Some(part) = part {
            // RFC 7296 §3.14, RFC 7383 §2.5: it MUST be the last one.
            return if reader.is_empty() {
                Ok((payloads, ChainEnd::Encrypted { part, first: next, body: body.rest() }))
            } else {
                Err(ParseError::BadLength)
            };
        }
        payloads.push(Payload::parse(this, critical, body)?);
    }
    if reader.is_empty() { Ok((payloads, ChainEnd::Clear)) } else { Err(ParseError::BadLength) }
}

/// ```text
///                      1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |        Fragment Number        |        Total Fragments        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
fn parse_fragment_header(body: &mut Reader<'_>) -> Result<Part, ParseError> {
    let (number, total) = (body.u16()?, body.u16()?);
    // RFC 7383 §2.6: neither is zero, and the number is not above the total.
    if number == 0 || number > total { Err(ParseError::BadLength) } else { Ok(Part::Fragment { number, total }) }
}

/// Appends a chain. Returns the type of its first payload.
pub(super) fn encode_chain(payloads: &[Payload], out: &mut Vec<u8>) -> u8 {
    for (i, payload) in payloads.iter().enumerate() {
        let start = out.len();
        let next = payloads.get(i + 1).map_or(kind::NONE, Payload::kind);
        // RFC 7296 §3.2: the critical bit is zero for payload types defined there.
        out.extend_from_slice(&[next, 0, 0, 0]);
        payload.encode_body(out);
        patch_length(out, start);
    }
    payloads.first().map_or(kind::NONE, Payload::kind)
}
