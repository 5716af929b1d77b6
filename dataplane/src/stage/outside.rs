//! IP from the outside network: to whom, and what?

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use vipsec_esp::header::spi_of;
use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ethernet;
use vipsec_wire::ip::{Header, Version, protocol};
use vipsec_wire::udp::{self, ChecksumState, Datagram};

use super::esp::Sealed;
use super::ike::IkeFrame;
use super::inner::Inner;
use super::path_mtu::is_icmp_error;
use super::{Stage, fragments, ndp};
use crate::api::{Event, PortId, WorkerId};
use crate::drops::{DropReason, Tally};
use crate::handoff::{Came, What};
use crate::outer::Outer;
use crate::worker::{Verdict, Worker};

/// IKE (RFC 7296 §2).
pub(super) const IKE_PORT: u16 = 500;
/// IKE and ESP in UDP (RFC 3948 §2).
pub(super) const NAT_TRAVERSAL_PORT: u16 = 4500;
/// What stands before an IKE message on port 4500, where an SPI would stand otherwise (RFC 3948 §2.2).
pub(super) const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// What goes on together.
pub(super) struct FromOutside<B> {
    /// ESP.
    pub(super) sealed: Stage<Sealed<B>>,
    /// For services that take it in the clear.
    pub(super) clear: Stage<Inner<B>>,
}

/// What a packet to a VIP is.
enum Kind {
    /// Bytes in front of the ESP header, and the source port where it travels in UDP.
    Esp {
        headers: usize,
        udp_port: Option<u16>,
    },
    Ike {
        headers: usize,
        local: SocketAddr,
        remote: SocketAddr,
    },
    NatKeepalive,
    Icmp,
    IcmpError,
    Clear,
}

impl<P: BufferPool> Worker<P> {
    #[inline]
    pub(super) fn outside(
        &mut self,
        now: Instant,
        port: PortId,
        ethernet: &ethernet::Header,
        mut frame: P::Buf,
        came: Came,
        sorted: &mut FromOutside<P::Buf>,
    ) -> Verdict {
        let bytes = frame.data().get(ethernet::HEADER_LEN..).unwrap_or_default();
        let header = Header::parse(bytes).map_err(|_| DropReason::MalformedIp)?;
        if header.version().ethertype() != ethernet.ethertype {
            return Err(DropReason::MalformedIp);
        }
        if ndp::is_ndp(&header, bytes) {
            return self.ndp(now, port, ethernet, &header, frame);
        }
        let own = self.lookup.own_address(port, header.destination).ok_or(DropReason::NotForUs)?;
        if !own.is_active() {
            return self.hold(now, port, ethernet, own, frame);
        }
        if own.mac != ethernet.destination {
            return Err(DropReason::OtherStation);
        }
        if header.is_fragment() {
            if let Some(mate) = self.home_of_fragment(port, bytes).filter(|_| came == Came::ByPort) {
                return self.hand_over(mate, What::Frame { port, frame, came: Came::ByHandoff });
            }
            return self.outside_fragment(now, port, ethernet, frame, sorted);
        }
        let vip = own.vip.filter(|_| own.is_vip);
        let kind = match vip {
            Some(_) => kind_of(&header, bytes)?,
            None if matches!(header.protocol, protocol::ICMP | protocol::ICMPV6) => Kind::Icmp,
            None => return Err(DropReason::UnservedProtocol),
        };
        // Ethernet's padding to its minimum goes.
        let padding = bytes.len().saturating_sub(header.total_len);
        frame.trim_back(padding)?;
        match (kind, vip) {
            (Kind::Esp { headers, udp_port }, Some(vip)) => {
                let spi = frame.data().get(headers..).and_then(spi_of).ok_or(DropReason::EspTruncated)?;
                let Some(index) = self.sad.find_inbound(spi) else {
                    return self.esp_of_others(now, port, frame, spi, header.source.into(), came);
                };
                frame.trim_front(headers)?;
                let Header { source, traffic_class, ttl, .. } = header;
                let outer = Outer { vip, source, udp_port, traffic_class, ttl };
                sorted.sealed.push(Sealed { packet: frame, index, outer });
                Ok(())
            }
            (Kind::Clear, Some(vip)) => {
                frame.trim_front(ethernet::HEADER_LEN)?;
                let inner = self.clear(vip, frame)?;
                let home = self.home_of_clear(&inner.flow.tuple_from_remote());
                if let Some(home) = home.filter(|_| came == Came::ByPort) {
                    return self.hand_over_as_frame(port, home, ethernet, inner.packet);
                }
                sorted.clear.push(inner);
                Ok(())
            }
            (Kind::NatKeepalive, _) => {
                // RFC 3948 §2.3: "The receiver SHOULD ignore a received NAT-keepalive packet."
                self.counters.count(Tally::NatKeepalives);
                Ok(())
            }
            (Kind::Ike { headers, local, remote }, _) => {
                let ike = IkeFrame { port, ethernet, header: &header, frame, headers, local, remote };
                self.punt_ike(now, ike)
            }
            (Kind::IcmpError, Some(vip)) => {
                frame.trim_front(ethernet::HEADER_LEN)?;
                self.outside_error(now, (port, ethernet), vip, &header, frame, came)
            }
            (Kind::Icmp, _) => self.answer_echo(port, ethernet, frame),
            (_, None) => Err(DropReason::UnservedProtocol),
        }
    }

    /// Puts a datagram together and takes it as if it had come in one piece.
    #[cold]
    fn outside_fragment(
        &mut self,
        now: Instant,
        port: PortId,
        ethernet: &ethernet::Header,
        frame: P::Buf,
        sorted: &mut FromOutside<P::Buf>,
    ) -> Verdict {
        let fragment = frame.data().get(ethernet::HEADER_LEN..).unwrap_or_default();
        let Some(mut whole) = self.reassemble(now, fragments::of_port(port), fragment)? else { return Ok(()) };
        whole.prepend(ethernet::HEADER_LEN)?;
        ethernet.emit(whole.data_mut())?;
        self.outside(now, port, ethernet, whole, Came::ByPort, sorted)
    }

    /// ESP for an SA that this worker doesn't have.
    fn esp_of_others(
        &mut self,
        now: Instant,
        port: PortId,
        frame: P::Buf,
        spi: u32,
        remote: IpAddr,
        came: Came,
    ) -> Verdict {
        if let Some(home) = self.sad.worker_of(spi).filter(|_| came == Came::ByPort) {
            return self.hand_over(home, What::Frame { port, frame, came: Came::ByHandoff });
        }
        if self.unknown_spi_policer.allows(now) {
            self.tell(Event::UnknownSpi { spi, remote });
        }
        Err(DropReason::UnknownSpi)
    }

    /// Hands a packet over as the frame that it came in.
    #[cold]
    pub(super) fn hand_over_as_frame(
        &mut self,
        port: PortId,
        home: WorkerId,
        ethernet: &ethernet::Header,
        mut packet: P::Buf,
    ) -> Verdict {
        packet.prepend(ethernet::HEADER_LEN)?;
        ethernet.emit(packet.data_mut())?;
        self.hand_over(home, What::Frame { port, frame: packet, came: Came::ByHandoff })
    }
}

#[inline]
fn kind_of(header: &Header, packet: &[u8]) -> Result<Kind, DropReason> {
    let headers = ethernet::HEADER_LEN + header.header_len;
    match header.protocol {
        protocol::ESP => Ok(Kind::Esp { headers, udp_port: None }),
        protocol::UDP => {
            let datagram = Datagram::parse(header.payload(packet)).map_err(|_| DropReason::MalformedUdp)?;
            kind_of_datagram(header, &datagram, headers + udp::HEADER_LEN)
        }
        protocol::ICMP | protocol::ICMPV6 if is_icmp_error(header, packet) => Ok(Kind::IcmpError),
        protocol::ICMP | protocol::ICMPV6 => Ok(Kind::Icmp),
        _ => Ok(Kind::Clear),
    }
}

#[inline]
fn kind_of_datagram(header: &Header, datagram: &Datagram<'_>, headers: usize) -> Result<Kind, DropReason> {
    match (datagram.destination_port(), datagram.payload()) {
        (NAT_TRAVERSAL_PORT, [0xff]) => Ok(Kind::NatKeepalive),
        (NAT_TRAVERSAL_PORT, payload) => match payload.first_chunk() {
            Some(&NON_ESP_MARKER) => ike(header, datagram, headers + NON_ESP_MARKER.len()),
            // RFC 3948 §2.1: receivers MUST NOT depend on the UDP checksum of ESP being zero; the ICV covers it.
            Some(_) => Ok(Kind::Esp { headers, udp_port: Some(datagram.source_port()) }),
            None => Err(DropReason::MalformedIke),
        },
        (IKE_PORT, _) => ike(header, datagram, headers),
        _ => Ok(Kind::Clear),
    }
}

fn ike(header: &Header, datagram: &Datagram<'_>, headers: usize) -> Result<Kind, DropReason> {
    match (datagram.checksum_state(header.source, header.destination), header.version()) {
        (ChecksumState::Right, _) | (ChecksumState::Absent, Version::V4) => {}
        // RFC 8200 §8.1: "IPv6 receivers must discard UDP packets containing a zero checksum".
        (ChecksumState::Absent, Version::V6) | (ChecksumState::Wrong, _) => return Err(DropReason::MalformedUdp),
    }
    let local = SocketAddr::new(header.destination.into(), datagram.destination_port());
    let remote = SocketAddr::new(header.source.into(), datagram.source_port());
    Ok(Kind::Ike { headers, local, remote })
}
