//! The IKE header (RFC 7296 §3.1).

use super::ParseError;
use super::reader::Reader;

/// Length of the IKE header in bytes.
pub const HEADER_LEN: usize = 28;

/// Which exchange a message belongs to (RFC 7296 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExchangeType {
    /// The first exchange of an IKE SA, in the clear.
    IkeSaInit,
    /// Authenticates the first exchange and creates the first child SA.
    IkeAuth,
    /// Creates and rekeys SAs.
    CreateChildSa,
    /// Liveness, deletion, notifications.
    Informational,
    /// One that we don't know.
    Other(u8),
}

impl ExchangeType {
    /// The number on the wire.
    pub const fn get(self) -> u8 {
        match self {
            Self::IkeSaInit => 34,
            Self::IkeAuth => 35,
            Self::CreateChildSa => 36,
            Self::Informational => 37,
            Self::Other(n) => n,
        }
    }
}

impl From<u8> for ExchangeType {
    fn from(n: u8) -> Self {
        match n {
            34 => Self::IkeSaInit,
            35 => Self::IkeAuth,
            36 => Self::CreateChildSa,
            37 => Self::Informational,
            n => Self::Other(n),
        }
    }
}

/// Whether a message asks or answers: the R flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// R is clear.
    Request,
    /// R is set.
    Response,
}

/// Which end of an IKE SA somebody is: who sent the first message of the exchange that created it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Role {
    /// Sent the request; the I flag is set in its messages.
    Initiator,
    /// Answered.
    Responder,
}

impl Role {
    /// The other end's role.
    pub const fn other(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }
}

/// The IKE header, without its Next Payload and Length fields.
///
/// ```text
///                      1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                       IKE SA Initiator's SPI                  |
/// |                                                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                       IKE SA Responder's SPI                  |
/// |                                                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |  Next Payload | MjVer | MnVer | Exchange Type |     Flags     |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                          Message ID                           |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                            Length                             |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The SPI of the original initiator.
    pub initiator_spi: u64,
    /// The SPI of the original responder; 0 while unknown.
    pub responder_spi: u64,
    /// The exchange.
    pub exchange: ExchangeType,
    /// The sender's role in the IKE SA: the I flag.
    pub sender: Role,
    /// The R flag.
    pub direction: Direction,
    /// The message ID.
    pub message_id: u32,
}

const FLAG_INITIATOR: u8 = 0x08;
const FLAG_RESPONSE: u8 = 0x20;
const VERSION: u8 = 0x20;

impl Header {
    /// Reads the header of a whole datagram. Returns it, the type of the first payload, and the payloads' bytes.
    pub(super) fn parse(datagram: &[u8]) -> Result<(Self, u8, &[u8]), ParseError> {
        let mut reader = Reader::new(datagram);
        let initiator_spi = reader.u64()?;
        let responder_spi = reader.u64()?;
        let next = reader.u8()?;
        let version = reader.u8()?;
        let exchange = ExchangeType::from(reader.u8()?);
        let flags = reader.u8()?;
        let message_id = reader.u32()?;
        let length = reader.u32()?;
        let header = Self {
            initiator_spi,
            responder_spi,
            exchange,
            sender: if flags & FLAG_INITIATOR != 0 { Role::Initiator } else { Role::Responder },
            direction: if flags & FLAG_RESPONSE != 0 { Direction::Response } else { Direction::Request },
            message_id,
        };
        // RFC 7296 §3.1: the minor version number of received messages is ignored.
        match version >> 4 {
            2 => {}
            major if major > 2 => return Err(ParseError::MajorVersion(header)),
            _ => return Err(ParseError::OldVersion),
        }
        if usize::try_from(length) != Ok(datagram.len()) {
            return Err(ParseError::BadLength);
        }
        // RFC 7296 §3.1: the initiator's SPI MUST NOT be zero.
        if initiator_spi == 0 {
            return Err(ParseError::ZeroSpi);
        }
        Ok((header, next, reader.rest()))
    }

    /// Appends the header; `length` is that of the whole message.
    pub(super) fn encode(&self, next: u8, length: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.initiator_spi.to_be_bytes());
        out.extend_from_slice(&self.responder_spi.to_be_bytes());
        let mut flags = 0;
        if self.sender == Role::Initiator {
            flags |= FLAG_INITIATOR;
        }
        if self.direction == Direction::Response {
            flags |= FLAG_RESPONSE;
        }
        out.extend_from_slice(&[next, VERSION, self.exchange.get(), flags]);
        out.extend_from_slice(&self.message_id.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
    }
}
