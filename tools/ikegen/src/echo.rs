//! Datagrams through the tunnels to an echo service behind the gateway: which came back, and when.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use vipsec_wire::buffer::{PacketBuf, VecBuf};
use vipsec_wire::ip::{self, protocol};
use vipsec_wire::{Truncated, udp};

use crate::pace::Beginnings;

/// Datagrams remembered at most; no more are sent.
const ECHOES_MAX: usize = 8_000_000;
/// The initiators' port.
const OWN_PORT: u16 = 40_007;
/// Room for what ESP puts around a packet.
const ROOM: usize = 128;

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub struct EchoPlan {
    /// Datagrams per second, through all tunnels in turn.
    pub per_second: f64,
    /// The service's port, at the gateway's address.
    pub port: u16,
    /// Stands in each datagram, for services that tell senders apart.
    pub session: u64,
}

/// A datagram's fate.
#[derive(Debug, Clone, Copy)]
pub struct Echo {
    /// The place of the initiator that sent it.
    pub initiator: u32,
    /// When.
    pub sent: Instant,
    /// When it was back.
    pub back: Option<Instant>,
}

/// A packet to send in UDP (RFC 3948).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EspPacket {
    /// The initiator's address and port.
    pub local: SocketAddr,
    /// The gateway's.
    pub remote: SocketAddr,
    /// ESP.
    pub payload: Vec<u8>,
}

/// All datagrams so far.
pub(crate) struct Echoes {
    plan: EchoPlan,
    pace: Beginnings,
    /// Whose turn it is.
    turn: usize,
    pub(crate) sent: Vec<Echo>,
}

/// A numbered datagram.
///
/// ```text
/// | session (8) | number (8) | 0 (8) | 0 (8) |
/// ```
const DATAGRAM_LEN: usize = 32;
const PACKET_LEN: usize = ip::Version::V4.header_len() + udp::HEADER_LEN + DATAGRAM_LEN;

impl Echoes {
    pub(crate) fn new(plan: EchoPlan, now: Instant) -> Self {
        Self { plan, pace: Beginnings::at_rate(Some(plan.per_second), now), turn: 0, sent: Vec::new() }
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        (self.sent.len() < ECHOES_MAX).then(|| self.pace.next())
    }

    /// Is one due? Then: whose turn is it, of so many?
    pub(crate) fn take_turn(&mut self, now: Instant, initiators: usize) -> Option<usize> {
        if initiators == 0 || self.sent.len() >= ECHOES_MAX || !self.pace.take(now) {
            return None;
        }
        let turn = self.turn % initiators;
        self.turn = turn + 1;
        Some(turn)
    }

    /// The next datagram, from the initiator at that place, between these addresses.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        initiator: usize,
        source: Ipv4Addr,
        service: Ipv4Addr,
    ) -> Result<VecBuf, Truncated> {
        let number = self.sent.len() as u64;
        let mut bytes = [0; PACKET_LEN];
        let udp_len = udp::HEADER_LEN + DATAGRAM_LEN;
        let header = vipsec_wire::ipv4::Repr::new(source, service, protocol::UDP, udp_len as u16);
        header.emit(&mut bytes)?;
        let datagram = bytes.get_mut(PACKET_LEN - udp_len..).ok_or(Truncated)?;
        udp::Repr { source_port: OWN_PORT, destination_port: self.plan.port, payload_len: DATAGRAM_LEN as u16 }
            .emit(datagram)?;
        let payload = datagram.get_mut(udp::HEADER_LEN..).ok_or(Truncated)?;
        for (place, word) in payload.chunks_exact_mut(8).zip([self.plan.session, number]) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        udp::fill_checksum(source, service, datagram)?;
        self.sent.push(Echo { initiator: u32::try_from(initiator).unwrap_or(u32::MAX), sent: now, back: None });
        let mut packet = VecBuf::with_room(ROOM, PACKET_LEN + ROOM);
        packet.append(PACKET_LEN).map_err(|_| Truncated)?;
        packet.data_mut().copy_from_slice(&bytes);
        Ok(packet)
    }

    /// Something came out of a tunnel.
    pub(crate) fn take(&mut self, now: Instant, packet: &[u8]) {
        let Ok(header) = ip::Header::parse(packet) else { return };
        if header.protocol != protocol::UDP {
            return;
        }
        let Ok(datagram) = udp::Datagram::parse(header.payload(packet)) else { return };
        let word = |nth: usize| -> Option<u64> {
            Some(u64::from_be_bytes(datagram.payload().chunks_exact(8).nth(nth)?.try_into().ok()?))
        };
        let number = word(1).filter(|_| word(0) == Some(self.plan.session));
        let number = number.and_then(|number| usize::try_from(number).ok());
        if let Some(echo) = number.and_then(|number| self.sent.get_mut(number)) {
            echo.back.get_or_insert(now);
        }
    }
}
