//! The remote peers' ends of an appliance's child SAs: what the appliance opens is sealed here, what it seals is opened here.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use thiserror::Error;
use vipsec_dataplane::drops::DropReason;
use vipsec_esp::engine::EngineKind;
use vipsec_esp::error::{EspError, SetupError};
use vipsec_esp::header::{ALIGNMENT, HEADER_LEN as ESP_HEADER_LEN, ICV_LEN, TRAILER_LEN, spi_of};
use vipsec_esp::inbound::{Admission, InboundSa};
use vipsec_esp::outbound::OutboundSa;
use vipsec_esp::replay;
use vipsec_esp::sa::{ChildSa, InboundParams, Mode, OutboundParams, Spi, TunnelEnds};
use vipsec_wire::buffer::PacketBuf;
use vipsec_wire::ip::{self, Version, protocol};
use vipsec_wire::udp;

/// A child SA that can't be played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TunnelError {
    /// The key or window is refused.
    #[error("child SA {0}: {1}")]
    Setup(Spi, SetupError),
    /// Transport mode.
    #[error("child SA {0}: only tunnel mode is spoken here")]
    Transport(Spi),
    /// Outer addresses of two families.
    #[error("child SA {0}: its ends {1} and {2} are of different address families")]
    Families(Spi, IpAddr, IpAddr),
}

/// How far a child SA has been used before: a running appliance refuses numbers that it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Numbers {
    /// Last number that the appliance has seen.
    pub to_appliance: u64,
    /// Last number that it has used.
    pub from_appliance: u64,
}

/// A remote peer's end of one child SA.
#[derive(Debug)]
pub struct Tunnel {
    ends: TunnelEnds,
    outbound: OutboundSa,
    inbound: InboundSa,
    identification: u16,
}

impl Tunnel {
    /// The other end of `child`, which is described as the appliance sees it.
    pub fn mirror(child: &ChildSa, engine: EngineKind, numbers: Numbers) -> Result<Self, TunnelError> {
        let spi = child.inbound.spi;
        let TunnelEnds { local, remote, .. } = child.tunnel;
        if child.mode != Mode::Tunnel {
            return Err(TunnelError::Transport(spi));
        }
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(TunnelError::Families(spi, local, remote));
        }
        let refused = |error| TunnelError::Setup(spi, error);
        let outbound = OutboundParams {
            spi,
            algorithm: child.inbound.algorithm,
            key: child.inbound.key.clone(),
            esn: child.inbound.esn,
            sent: numbers.to_appliance,
            lease: u64::MAX,
            // Any will do: this key seals in this direction only, which is only done here.
            iv_prefix: child.outbound.iv_prefix,
        };
        let inbound = InboundParams {
            spi: child.outbound.spi,
            algorithm: child.outbound.algorithm,
            key: child.outbound.key.clone(),
            // A generator tells late packets from lost ones: the window forgives as much as it can.
            window: replay::SIZE_MAX,
            esn: child.outbound.esn,
            edge: numbers.from_appliance,
            horizon: u64::MAX,
        };
        Ok(Self {
            ends: child.tunnel,
            outbound: OutboundSa::new(engine, &outbound).map_err(refused)?,
            inbound: InboundSa::new(engine, &inbound).map_err(refused)?,
            identification: 0,
        })
    }

    /// The SPI of what it seals.
    pub fn spi(&self) -> Spi {
        self.outbound.spi()
    }

    /// Length of an IP packet of `len` bytes once it is sealed, outer IP header included.
    pub fn sealed_len(&self, len: usize) -> usize {
        let version = if self.ends.remote.is_ipv4() { Version::V4 } else { Version::V6 };
        let udp = if self.ends.udp.is_some() { udp::HEADER_LEN } else { 0 };
        let ciphertext = (len + TRAILER_LEN).next_multiple_of(ALIGNMENT);
        version.header_len() + udp + ESP_HEADER_LEN + ciphertext + ICV_LEN
    }

    /// Makes of an IP packet the outer IP packet that carries it to the appliance.
    pub fn seal<B: PacketBuf>(&mut self, packet: &mut B) -> Result<(), EspError> {
        let next_header = Version::of(packet.data()).map_or(protocol::NO_NEXT_HEADER, Version::protocol);
        self.outbound.seal(packet, next_header)?;
        let len = |packet: &B| u16::try_from(packet.data().len()).map_err(|_| EspError::NoRoom);
        let outer_protocol = match self.ends.udp {
            None => protocol::ESP,
            Some((appliance_port, own_port)) => {
                let payload_len = len(packet)?;
                packet.prepend(udp::HEADER_LEN)?;
                // RFC 3948 §2.1: "the IPv4 UDP Checksum SHOULD be transmitted as a zero value". Over IPv6, too: RFC 6935 §5.
                let header = udp::Repr { source_port: own_port, destination_port: appliance_port, payload_len };
                header.emit(packet.data_mut()).map_err(|_| EspError::NoRoom)?;
                protocol::UDP
            }
        };
        let header = ip::Repr::new(self.ends.remote, self.ends.local, outer_protocol, len(packet)?);
        let header = header.map_err(|_| EspError::NoRoom)?.with_identification(self.identification);
        self.identification = self.identification.wrapping_add(1);
        packet.prepend(header.header_len())?;
        header.emit(packet.data_mut()).map_err(|_| EspError::NoRoom)
    }

    /// Opens a packet that starts at its ESP header; afterwards it is the inner packet, and what TFC padding it has.
    fn open<B: PacketBuf>(&mut self, packet: &mut B) -> Result<(), DropReason> {
        let opened = self.inbound.open(packet)?;
        match self.inbound.admit(&opened) {
            Admission::Deliver => {}
            Admission::Replayed | Admission::AboveHorizon => return Err(DropReason::EspReplayed),
        }
        match opened.next_header {
            protocol::IPV4 | protocol::IPV6 => Ok(()),
            protocol::NO_NEXT_HEADER => Err(DropReason::EspDummy),
            _ => Err(DropReason::UnexpectedNextHeader),
        }
    }
}

/// The tunnels of all remote peers that are played.
#[derive(Debug, Default)]
pub struct Tunnels {
    tunnels: Vec<Tunnel>,
    by_spi: HashMap<u32, usize>,
    /// (the appliance's port, the peer's) of those in UDP.
    udp_ports: HashSet<(u16, u16)>,
}

/// What a received IP packet was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Not ESP: as it was.
    Clear,
    /// ESP; the inner packet is there now.
    Opened,
}

impl Tunnels {
    /// These.
    pub fn new(tunnels: Vec<Tunnel>) -> Self {
        let by_spi = tunnels.iter().enumerate().map(|(index, tunnel)| (tunnel.inbound.spi().get(), index)).collect();
        let udp_ports = tunnels.iter().filter_map(|tunnel| tunnel.ends.udp).collect();
        Self { tunnels, by_spi, udp_ports }
    }

    /// All of them, in the order in which they were given.
    pub fn tunnels(&self) -> &[Tunnel] {
        &self.tunnels
    }

    /// One of them.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut Tunnel> {
        self.tunnels.get_mut(index)
    }

    /// Opens an IP packet if it is ESP, in UDP or not.
    pub fn open<B: PacketBuf>(&mut self, packet: &mut B) -> Result<Opening, DropReason> {
        let Ok(header) = ip::Header::parse(packet.data()) else { return Ok(Opening::Clear) };
        let Some(esp_at) = self.esp_at(&header, packet.data()) else { return Ok(Opening::Clear) };
        let padding = packet.data().len().saturating_sub(header.total_len);
        packet.trim_back(padding)?;
        packet.trim_front(esp_at)?;
        let spi = spi_of(packet.data()).ok_or(DropReason::EspTruncated)?;
        let index = self.by_spi.get(&spi).ok_or(DropReason::UnknownSpi)?;
        self.tunnels.get_mut(*index).ok_or(DropReason::UnknownSpi)?.open(packet)?;
        Ok(Opening::Opened)
    }

    /// Where ESP begins in the packet.
    fn esp_at(&self, header: &ip::Header, packet: &[u8]) -> Option<usize> {
        if self.tunnels.is_empty() || header.is_fragment() {
            return None;
        }
        match header.protocol {
            protocol::ESP => Some(header.header_len),
            protocol::UDP => {
                let datagram = udp::Datagram::parse(header.payload(packet)).ok()?;
                let ports = (datagram.source_port(), datagram.destination_port());
                // RFC 3948 §2.2: what begins with four zero bytes is IKE.
                let is_esp = spi_of(datagram.payload()).is_some_and(|spi| spi != 0);
                (is_esp && self.udp_ports.contains(&ports)).then_some(header.header_len + udp::HEADER_LEN)
            }
            _ => None,
        }
    }
}
